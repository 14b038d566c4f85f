//! Configuration, secret and token files as editors, shells, portals and clipboards write them: they are read
//! as intended, or rejected with the position and what to do. No message contains a secret.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consentry::config::{Files, Loaded, Problem, Sources, effective, load_web, load_with};
use consentry::credential::ClientCredential;
use consentry::domain::Check;
use consentry::secret::SecretSource;
use consentry::store::TokenId;
use tempfile::TempDir;

use crate::configuration::Configuration;
use crate::world::{World, eventually, situation};

/// A complete configuration except for the part that a test is about.
const HEAD: &str = "email: {from: c@example.com, operators: [o@example.com], smtp: {host: smtp.example.com}}\n\
    reauthentication: {public_url: \"https://c.example.com\"}\n";

fn no_variables(_: &str) -> Option<String> {
    None
}

fn read(path: &Path) -> Result<Loaded, Vec<Problem>> {
    load_with(path, &no_variables, Files::DISK)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn written(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

fn utf16(text: &str, mark: bool, big: bool) -> Vec<u8> {
    let units = mark.then_some(0xFEFF).into_iter().chain(text.encode_utf16());
    units.flat_map(|unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

/// One file that cannot be read, as the main file, as one of `integration_files`, and as the file of
/// `--web.config.file`.
#[test]
fn files_that_are_not_yaml_are_explained_in_every_place() {
    let bomb = format!("a: &a {}\nb: [{}]\n", "hunter2".repeat(10_000), "*a, ".repeat(2000));
    let text = "[]\n# M\u{fc}ller\n";
    let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect();
    type Case = (&'static str, Vec<u8>, (u64, u64), &'static str);
    let cases: Vec<Case> = vec![
        ("UTF-16", utf16(text, true, false), (1, 1), "the file is UTF-16; save it as UTF-8"),
        ("UTF-16, big end first", utf16(text, true, true), (1, 1), "the file is UTF-16; save it as UTF-8"),
        (
            "UTF-16 without its mark",
            utf16(text, false, false),
            (1, 1),
            "the file is UTF-16; save it as UTF-8",
        ),
        ("Latin-1", latin1, (2, 4), "not UTF-8 (Latin-1 or another encoding?); save it as UTF-8"),
        ("two documents", b"[]\n---\n[]\n".to_vec(), (0, 0), "more than one YAML document; keep one"),
        ("a bomb", bomb.into_bytes(), (0, 0), "stand for more than 64 MB"),
        ("an alias of nothing", b"a: *hunter2\n".to_vec(), (0, 0), "anchor"),
    ];
    for (what, bytes, place, expected) in cases {
        let folder = folder();
        let file = written(&folder, "broken.yml", &bytes);
        let main = written(&folder, "main.yml", "apps: {}\nintegration_files: [broken.yml]\n");
        let readings = [
            ("the main file", read(&file).err()),
            ("an integration file", read(&main).err()),
            ("the web file", load_web(&file).err()),
        ];
        for (whose, problems) in readings {
            let problems = problems.unwrap_or_else(|| panic!("{what} as {whose} is accepted"));
            assert_eq!(problems.len(), 1, "{what} as {whose}: {problems:?}");
            let problem = &problems[0];
            assert!(problem.message.contains(expected), "{what} as {whose}: {problem}");
            assert!(
                problem.file.ends_with("broken.yml") && problem.line > 0 && problem.column > 0,
                "{what} as {whose}: {problem}"
            );
            assert!(
                place == (0, 0) || place == (problem.line, problem.column),
                "{what} as {whose}: {problem}"
            );
            assert!(!problem.message.contains("hunter"), "{what} as {whose}: {problem}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_file() {
    let folder = folder();
    let file = written(&folder, "main.yml", "\u{FEFF}apps: {}\n");
    assert!(read(&file).is_ok());
    let problems = read(&written(&folder, "main.yml", "\u{FEFF}app: {}\n")).expect_err("an unknown key");
    assert_eq!((problems[0].line, problems[0].column), (1, 1), "{problems:?}");
    assert!(load_web(&written(&folder, "web.yml", "\u{FEFF}basic_auth_users: {}\n")).is_ok());
}

/// A file that is saved in another encoding while the daemon runs: its last list stays, and the log says what
/// to do.
#[test]
fn a_watched_file_in_another_encoding_keeps_its_last_list() {
    let folder = folder();
    let app = "apps: {a: {client_id: 00000000-0000-0000-0000-0000000000aa}}\n";
    let main = written(&folder, "main.yml", format!("{HEAD}{app}integration_files: [more.yml]\n"));
    let list = "- {name: acme, app: a, tenant_id: contoso.onmicrosoft.com}\n";
    written(&folder, "more.yml", list);
    let (loaded, mut sources) = Sources::load(&main, &no_variables).expect("valid");
    assert_eq!(loaded.config.integrations.len(), 1);
    written(&folder, "more.yml", utf16(list, true, false));
    let now = Instant::now() + Duration::from_secs(60);
    let followed = sources.follow(&no_variables, now).expect("a change").expect("usable");
    assert_eq!(followed.loaded.config.integrations.len(), 1);
    assert!(
        followed.broken.iter().any(|p| p.message.contains("save it as UTF-8") && p.line == 1),
        "{:?}",
        followed.broken
    );
}

/// The problem with a client secret that is given in this way, or its value if it is valid.
fn client_secret(folder: &TempDir, given: &str, environment: Option<&str>) -> Result<String, Vec<Problem>> {
    let text = format!(
        "apps:\n  sequr:\n    client_id: 00000000-0000-0000-0000-0000000000aa\n    credential:\n      {given}\n"
    );
    let file = written(folder, "main.yml", text);
    let variables = |_: &str| environment.map(str::to_owned);
    let loaded = load_with(&file, &variables, Files::DISK)?;
    match &loaded.config.apps["sequr"].credential {
        ClientCredential::Secret(source) => Ok(source.read().expect("readable").expose().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn secrets_in_the_configuration_and_in_variables() {
    let folder = folder();
    for (given, environment, expected) in [
        ("client_secret: hunter2", None, Ok("hunter2")),
        ("client_secret: |-\n        hunter2", None, Ok("hunter2")),
        ("client_secret: \" hunter 2 \"", None, Ok(" hunter 2 ")),
        ("client_secret: \"'hunter2'\"", None, Ok("'hunter2'")),
        ("client_secret: .inf", None, Ok(".inf")),
        ("client_secret: 99999999999999999999999", None, Ok("99999999999999999999999")),
        ("client_secret: |\n        hunter2", None, Err("ends with a line break; write |- instead of |")),
        ("client_secret: >\n        hunter2", None, Err("ends with a line break; write |- instead of |")),
        (
            "client_secret: |\n        hunter2\n        hunter3",
            None,
            Err("holds several lines; a secret is one line"),
        ),
        ("client_secret: \"hunter2\\nhunter3\"", None, Err("holds several lines; a secret is one line")),
        ("client_secret: \"hunter2\\a\"", None, Err("holds a control character")),
        (
            "client_secret: \"hunter\\u200B2\"",
            None,
            Err("holds a control character or an invisible character"),
        ),
        ("client_secret: ${SECRET}", Some("hunter2"), Ok("hunter2")),
        ("client_secret: ${SECRET}", Some("\u{FEFF}hunter2\r\n"), Ok("hunter2")),
        (
            "client_secret: ${SECRET}",
            Some("\"hunter2\""),
            Err("has quotes around the secret; remove the quotes"),
        ),
        (
            "client_secret: ${SECRET}",
            Some("hunter2\nhunter3"),
            Err("holds several lines; a secret is one line"),
        ),
        ("client_secret: ${SECRET}", Some(" "), Err("is empty")),
    ] {
        match (client_secret(&folder, given, environment), expected) {
            (Ok(secret), Ok(expected)) => assert_eq!(secret, expected, "{given}"),
            (Err(problems), Err(expected)) => {
                let problem = &problems[0];
                assert!(
                    problem.message.contains(expected) && !problem.message.contains("hunter"),
                    "{given}: {problem}"
                );
                assert_eq!(problem.path, "apps.sequr.credential.client_secret");
                assert!(problem.line >= 5 && problem.column > 0, "{given}: {problem}");
            }
            (other, _) => panic!("{given} {environment:?}: {other:?}"),
        }
    }
}

#[test]
fn secrets_in_files() {
    let folder = folder();
    for (what, bytes, expected) in [
        ("a byte order mark and a line end of Windows", b"\xEF\xBB\xBFhunter2\r\n".to_vec(), Ok("hunter2")),
        ("blanks at the ends", b" hunter2\t\n".to_vec(), Ok("hunter2")),
        ("quotes", b"\"hunter2\"\n".to_vec(), Err("secret has quotes around the secret; remove the quotes")),
        (
            "two lines",
            b"hunter2\nhunter3\n".to_vec(),
            Err("secret holds several lines; a secret is one line"),
        ),
        ("UTF-16", utf16("hunter2\r\n", true, false), Err("secret is UTF-16; save it as UTF-8")),
        ("Latin-1", b"hunter\xFC".to_vec(), Err("secret is not UTF-8 text; save it as UTF-8")),
        ("nothing", b"\r\n".to_vec(), Err("secret is empty; put the secret into that file")),
    ] {
        written(&folder, "secret", bytes);
        match (client_secret(&folder, "client_secret_file: secret", None), expected) {
            (Ok(secret), Ok(expected)) => assert_eq!(secret, expected, "{what}"),
            (Err(problems), Err(expected)) => {
                let problem = &problems[0];
                assert!(
                    problem.message.contains(expected) && !problem.message.contains("hunter"),
                    "{what}: {problem}"
                );
                assert!(
                    problem.message.contains(&folder.path().join("secret").display().to_string()),
                    "{what}: {problem}"
                );
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
}

/// The portal shows the id of a secret next to its value.
#[test]
fn a_client_secret_that_looks_like_a_guid_is_warned_of() {
    let folder = folder();
    written(&folder, "secret", "6F1C0000-0000-0000-0000-00000000000A\n");
    let app = "{client_id: 00000000-0000-0000-0000-0000000000aa, credential:";
    for (credential, warned) in [
        ("{client_secret: 6f1c0000-0000-0000-0000-00000000000a}", true),
        ("{client_secret_file: secret}", true),
        ("{client_secret: 6f1c0000~0000-0000-0000-00000000000a}", false),
    ] {
        let reader = format!("directory_readers: {{r: {app} {credential}}}}}\n");
        for text in [format!("apps: {{sequr: {app} {credential}}}}}\n"), reader] {
            let loaded = read(&written(&folder, "main.yml", &text))
                .unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
            let about: Vec<&Problem> =
                loaded.warnings.iter().filter(|w| w.message.contains("looks like a GUID")).collect();
            assert_eq!(about.len(), usize::from(warned), "{text}: {:?}", loaded.warnings);
            assert!(
                about.iter().all(|w| w.line == 1 && !w.message.to_lowercase().contains("6f1c")),
                "{about:?}"
            );
        }
    }
}

#[test]
fn invalid_addresses_are_rejected_before_mail_is_sent() {
    let folder = folder();
    for address in [
        "it\\u200B@example.com",
        "\\\"quoted local\\\"@example.com",
        "it@[192.0.2.1]",
        "not-an-address",
        "x y@contoso.com",
        "it@",
        "@example.com",
    ] {
        for (text, path) in [
            (format!("email: {{from: \"{address}\", smtp: {{host: a}}}}"), "email.from"),
            (format!("email: {{from: \"Consentry <{address}>\", smtp: {{host: a}}}}"), "email.from"),
            (
                format!("email: {{from: a@example.com, reply_to: \"{address}\", smtp: {{host: a}}}}"),
                "email.reply_to",
            ),
            (
                format!(
                    "email: {{from: a@example.com, operators: [b@example.com, \"{address}\"], smtp: {{host: a}}}}"
                ),
                "email.operators[1]",
            ),
            (
                format!(
                    "integrations: [{{name: a, app: a, tenant_id: contoso.onmicrosoft.com, admins: [\"{address}\"]}}]"
                ),
                "integrations[0].admins[0]",
            ),
        ] {
            let problems = read(&written(&folder, "main.yml", format!("{text}\n"))).expect_err(&text);
            let said =
                problems.iter().find(|p| p.path == path).unwrap_or_else(|| panic!("{text}: {problems:?}"));
            assert!(said.message.contains("is not a mail address") && said.line == 1, "{said}");
        }
    }
}

/// Reminders that follow each other too quickly are no longer read.
#[test]
fn reminders_within_the_hour_are_warned_of() {
    let folder = folder();
    let text = Configuration::parse(HEAD).add("email.reminders", "[59m, 1h, 1d]").text();
    let loaded = read(&written(&folder, "main.yml", text)).expect("valid");
    let about: Vec<&str> =
        loaded.warnings.iter().filter(|w| w.message.contains("reminder")).map(|w| w.path.as_str()).collect();
    assert_eq!(about, ["email.reminders[0]"]);
}

/// A trial run in which nobody gets the mails is named, wherever it is asked for.
#[test]
fn a_trial_run_without_operators_is_warned_of() {
    let folder = folder();
    for (path, operators, expected) in [
        ("email.notify", "[]", 1),
        ("apps.sequr.notify", "[]", 1),
        ("apps.sequr.notify", "[sre@example.com]", 0),
    ] {
        let app = "apps: {sequr: {client_id: 00000000-0000-0000-0000-0000000000aa}}\n";
        let mut configuration = Configuration::parse(&format!("{HEAD}{app}"));
        configuration.set("email.operators", operators).add(path, "operators");
        let loaded = read(&written(&folder, "main.yml", configuration.text())).expect("valid");
        let warned = loaded.warnings.iter().filter(|w| w.message.contains("reaches nobody")).count();
        assert_eq!(warned, expected, "{path} with {operators}");
    }
}

/// Zero is accepted as a duration where it means off.
#[test]
fn zero_is_a_duration_where_it_means_off() {
    let folder = folder();
    let mut configuration = Configuration::parse(HEAD);
    configuration.add("email.reminders", "[]").add("email.group_wait", "0s").add("email.brake", "{hold: 0s}");
    let text = configuration.text();
    assert!(read(&written(&folder, "main.yml", text)).is_ok());
}

/// Values copied from scopes, tokens and the portal mean the same as the bare words.
#[test]
fn spellings_of_one_thing_are_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid/spellings.yml");
    let loaded = read(&file).expect("valid");
    let required = &loaded.config.apps["sequr"].required;
    let seen: Vec<(&str, Vec<&str>)> = required
        .iter()
        .map(|r| (r.resource.as_str(), r.delegated.iter().map(String::as_str).collect()))
        .collect();
    let own = ("6f1c0000-0000-0000-0000-00000000000a", vec!["access_as_user"]);
    assert_eq!(seen, [("microsoft_graph", vec!["User.Read", "Group.Read.All"]), own]);
}

#[test]
fn checks_are_sorted_and_shown() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid/spellings.yml");
    let loaded = read(&file).expect("valid");
    assert_eq!(
        loaded.config.integrations[0].requirements.checks,
        [Check::Consent, Check::Provisioning, Check::Credential]
    );
    let shown = effective(&loaded.config);
    assert!(shown.contains("provisioning") && shown.contains("credential"), "{shown}");
}

/// An unusable token file is named, and the other integrations are still probed.
#[test]
fn token_files_that_hold_something_else_are_warned_of() {
    let folder = folder();
    let token = folder.path().join("token");
    let app = "apps: {a: {client_id: 00000000-0000-0000-0000-0000000000aa, reauthentication: {url: \"https://d.example.com/{name}\"}}}\n";
    let text = format!(
        "{HEAD}{app}integrations:\n  - {{name: acme, app: a, tenant_id: contoso.onmicrosoft.com, admins: [a@b.example], refresh_token_file: token}}\n"
    );
    let main = written(&folder, "main.yml", text);
    let warnings = || read(&main).expect("valid").warnings;
    assert!(warnings().is_empty(), "a token that is not there yet is no fault: {:?}", warnings());
    for (held, expected) in [
        ("\u{FEFF}0.AXEA-hunter.AgABAwEA\r\n", None),
        ("eyJhbGciOiJub25lIn0.eyJodW50ZXIiOjF9.hunter", Some("holds an access token")),
        ("{\"refresh_token\": \"hunter\"}", Some("holds JSON")),
        ("\"hunter\"", Some("remove the quotes")),
        ("hunter hunter", Some("one word")),
        ("", Some("is empty")),
    ] {
        std::fs::write(&token, held).expect("written");
        let said: Vec<String> = warnings().iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), usize::from(expected.is_some()), "{held}: {said:?}");
        assert!(
            said.iter().all(|s| s.contains(expected.unwrap_or_default())
                && !s.contains("hunter")
                && s.contains("token")),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn import_token_takes_refresh_tokens_and_nothing_else() {
    let world = World::live().await;
    for (input, code, expected) in [
        ("eyJ0eXAiOiJKV1QifQ.eyJodW50ZXIiOjF9.aHVudGVy", 1, "holds an access token"),
        ("{\"refresh_token\": \"1.hunter\"}", 1, "holds JSON"),
        ("\"1.hunter\"\n", 1, "remove the quotes"),
        ("1.hunter\n1.hunter", 1, "one line"),
        ("1.hun\u{7}ter", 1, "control character"),
        ("\u{FEFF}", 1, "holds nothing"),
        ("\u{FEFF} 1.AXEA-hunter.AgABAwEA\t\r\n", 0, "is stored"),
    ] {
        let output = world.command_with(&["import-token", "northwind"], input).await;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{input}: {said}");
        assert!(
            said.contains(expected) && !said.contains("hunter") && !said.contains("eyJ"),
            "{input}: {said}"
        );
    }
    let config = world.config();
    let northwind = situation("northwind");
    let id = TokenId {
        integration: "northwind".to_owned(),
        client_id: northwind.app().to_string(),
        tenant: northwind.tenant(),
    };
    let stored =
        consentry::app::store(&config).expect("a database").token(&id).await.expect("read").expect("a token");
    assert_eq!(stored.current.expose(), "1.AXEA-hunter.AgABAwEA");
}

/// PEM texts have several lines; files from Windows may begin with a byte order mark.
#[test]
fn texts_of_several_lines_are_read_where_they_are_expected() {
    let folder = folder();
    let file = written(&folder, "cert.pem", "\u{FEFF}-----BEGIN X-----\nAA==\n-----END X-----\n");
    let source = SecretSource::File(file);
    assert!(source.read().is_err(), "as a secret it is refused");
    assert!(source.read_text().expect("text").expose().starts_with("-----BEGIN"));
}

/// The kernel gives the files under /proc of a process that may not be dumped to root (Linux, `proc(5)`):
/// nobody else of the same user reads its memory or attaches to it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_memory_of_a_running_command_is_closed_to_others_of_its_user() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let app = "apps: {a: {client_id: 00000000-0000-0000-0000-0000000000aa}}\n";
    let list = "integrations: [{name: acme, app: a, tenant_id: contoso.onmicrosoft.com}]\n";
    let file = written(&folder, "main.yml", format!("{HEAD}{app}{list}"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_consentry"));
    command.args(["import-token", "acme"]).arg(format!("--config.file={}", file.display()));
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    if std::fs::metadata("/proc/self").expect("a process").uid() == 0 {
        // Everything belongs to root if root runs the program.
        command.uid(65534).gid(65534);
    }
    // It waits for its standard input. Where nobody may run the program, there is nothing to see.
    let Ok(mut child) = command.spawn() else { return };
    let memory = PathBuf::from(format!("/proc/{}/mem", child.id()));
    let owner = || std::fs::metadata(&memory).map(|file| file.uid());
    let closed = eventually("the files of the process are root's, or it has ended", async || match owner() {
        Ok(0) => Some(true),
        Ok(_) if child.try_wait().expect("a child").is_none() => None,
        _ => Some(false),
    })
    .await;
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(closed);
}

/// Reading from a pipe could block forever, so a pipe is rejected as a secret, a certificate and a list.
#[test]
fn pipes_are_neither_secrets_nor_lists() {
    let folder = folder();
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        path
    };
    pipe("secret");
    pipe("ca.pem");
    pipe("list.yml");
    let app = "apps: {a: {client_id: 00000000-0000-0000-0000-0000000000aa, credential: {client_secret_file: secret}}}\n";
    let upstream = "upstream: {tls_config: {ca_file: ca.pem}}\n";
    let main =
        written(&folder, "main.yml", format!("{HEAD}{upstream}{app}integration_files: [\"*ist.yml\"]\n"));
    let said: Vec<String> = match read(&main) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    for file in ["secret", "ca.pem"] {
        assert!(
            said.iter().any(|s| s.contains(file) && s.contains("not a regular file")),
            "{file}: {said:?}"
        );
    }
    assert!(!said.iter().any(|s| s.contains("list.yml")), "{said:?}");
}

/// The name of Microsoft's host has one form in requests, however it is configured.
#[test]
fn hosts_of_a_cloud_are_normalized_as_by_browsers() {
    let folder = folder();
    let cloud = "cloud: {login_url: \"HTTPS://Login.Example.com:443/\", graph_url: \"https://graph.M\u{fc}ller.example\"}\n";
    let main = written(&folder, "main.yml", format!("{HEAD}{cloud}"));
    let config = read(&main).expect("valid").config;
    assert_eq!(config.cloud.login_url, "https://login.example.com");
    assert_eq!(config.cloud.graph_url, "https://graph.xn--mller-kva.example");
}
