use serde_json::json;

use super::*;

fn source(variables: &[(&str, &str)]) -> IdentitySource {
    IdentitySource::from_environment(|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn the_environment_names_the_source() {
    const APP: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:41/msi/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "h");
    const ARC: (&str, &str) = ("IMDS_ENDPOINT", "http://127.0.0.1:40342");
    const POD: (&str, &str) = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:42/");
    const FABRIC: (&str, &str) = ("IDENTITY_SERVER_THUMBPRINT", "AB");
    for (sentence, variables, expected) in [
        (
            "nothing",
            &[][..],
            "the instance metadata service at http://169.254.169.254/metadata/identity/oauth2/token",
        ),
        ("App Service", &[APP, HEADER], "the App Service endpoint http://127.0.0.1:41/msi/token"),
        (
            "App Service before Arc",
            &[APP, HEADER, ARC],
            "the App Service endpoint http://127.0.0.1:41/msi/token",
        ),
        ("Azure Arc", &[APP, ARC, POD], "the Azure Arc endpoint http://127.0.0.1:41/msi/token"),
        (
            "an endpoint alone",
            &[APP, POD],
            "the instance metadata service at http://127.0.0.1:42/metadata/identity/oauth2/token",
        ),
        (
            "an empty variable",
            &[("IDENTITY_ENDPOINT", " "), HEADER],
            "the instance metadata service at http://169.254.169.254/metadata/identity/oauth2/token",
        ),
        (
            "Service Fabric",
            &[APP, HEADER, FABRIC],
            "managed identities of Service Fabric are not supported; use a certificate",
        ),
    ] {
        assert_eq!(source(variables).words(), expected, "{sentence}");
    }
}

#[test]
fn lifetimes_are_read_in_every_form() {
    for (sentence, body, expected) in [
        ("texts", json!({"expires_on": "1000100", "expires_in": "5"}), 100),
        ("numbers", json!({"expires_on": 1_000_100}), 100),
        ("only the seconds", json!({"expires_in": "86399"}), 86_399),
        ("none", json!({}), 600),
        (
            "a date, as old versions of App Service write it",
            json!({"expires_on": "6/20/2019 02:57:58 AM +00:00"}),
            600,
        ),
        ("in the past", json!({"expires_on": "5"}), 0),
    ] {
        assert_eq!(lifetime(&body, 1_000_000), expected, "{sentence}");
    }
}

#[test]
fn only_challenge_files_of_the_agent_are_read() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("tokens");
    let elsewhere = root.path().join("elsewhere");
    for folder in [&folder, &elsewhere, &folder.join("inner")] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let good = write(folder.join("a.key"), "the-key\n");
    let shadow = write(elsewhere.join("b.key"), "password");
    std::os::unix::fs::symlink(&shadow, folder.join("link.key")).expect("a link");
    let header = |value: &str| Response {
        status: reqwest::StatusCode::UNAUTHORIZED,
        headers: std::iter::once((reqwest::header::WWW_AUTHENTICATE, value.parse().expect("a header")))
            .collect(),
        body: Vec::new(),
    };
    let inner = write(folder.join("inner/c.key"), "x");
    let large = write(folder.join("large.key"), &"x".repeat(4097));
    let empty = write(folder.join("empty.key"), "\n");
    let lines = write(folder.join("lines.key"), "a\nb");
    let text = write(folder.join("a.txt"), "x");
    for (sentence, value, expected) in [
        ("the agent's file", format!("Basic realm={good}"), Ok("the-key")),
        ("in quotes", format!("Basic realm=\"{good}\""), Ok("the-key")),
        ("a file elsewhere", format!("Basic realm={shadow}"), Err("does not lie in")),
        (
            "a way out of the folder",
            format!("Basic realm={}/../elsewhere/b.key", folder.display()),
            Err("does not lie in"),
        ),
        (
            "a link out of the folder",
            format!("Basic realm={}/link.key", folder.display()),
            Err("does not lie in"),
        ),
        ("a folder inside", format!("Basic realm={inner}"), Err("does not lie in")),
        ("another name", format!("Basic realm={text}"), Err(".key")),
        ("no such file", format!("Basic realm={}/none.key", folder.display()), Err("cannot be read")),
        ("a large file", format!("Basic realm={large}"), Err("4096")),
        ("an empty file", format!("Basic realm={empty}"), Err("contains no key")),
        ("several lines", format!("Basic realm={lines}"), Err("contains no key")),
        ("another challenge", "Bearer".to_owned(), Err("without the name")),
    ] {
        match (challenge(&header(&value), &folder), expected) {
            (Ok(key), Ok(expected)) => assert_eq!(key.expose(), expected, "{sentence}"),
            (Err(fault), Err(expected)) => {
                assert!(fault.detail.contains(expected), "{sentence}: {}", fault.detail);
                assert!(!fault.detail.contains("password"), "{sentence}");
            }
            (other, _) => panic!("{sentence}: {other:?}"),
        }
    }
}
