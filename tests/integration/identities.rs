//! Credentials without a client secret: managed identities, federated tokens, certificates in every form; and issuers of other clouds.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consentry::credential::ClientCredential;
use consentry::demo::APPLICATION_APP;
use consentry::domain::{Cloud, Reason};
use consentry::entra::{Client, ClientOptions, Entra, HttpClient, IdentitySource, ManagedIdentities};
use entra_sim::{Action, Endpoint, Fault, FaultKind, managed_identity};
use tokio::process::Command;
use uuid::Uuid;

use crate::world::{World, text};

const SUBJECT: &str = "6f1c0000-0000-0000-0000-0000000000ee";

fn federated(issuer: &str, subject: &str) -> Action {
    Action::AddFederatedCredential {
        app: APPLICATION_APP,
        name: "daemon".to_owned(),
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        audience: "api://AzureADTokenExchange".to_owned(),
    }
}

/// A world in which an application signs in without its secret.
async fn with(credential: &str) -> World {
    let mut world = World::live().await;
    world.only(&["fabrikam"]).set("apps.rota.credential", credential);
    world.remove("integrations.fabrikam.directory_reader");
    world
}

/// `probe` with these environment variables: its exit code and its output.
async fn probe(world: &World, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentry"));
    command.args(["probe", "fabrikam", "--output=json"]).arg(world.config_flag());
    for name in ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST"]
    {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    let output = command.output().await.expect("ended");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn a_managed_identity_signs_in_from_every_host() {
    let world = with("{managed_identity: {}}").await;
    let url = world.simulator.url();
    world.act([
        Action::AddManagedIdentity { client_id: None, subject: SUBJECT.to_owned() },
        federated(&managed_identity::issuer(&url), SUBJECT),
        Action::SetIdentityHeader { value: "the-header".to_owned() },
    ]);
    let app_service = format!("{url}/msi/token");
    for (sentence, environment) in [
        ("the metadata service", vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", url.as_str())]),
        ("App Service", vec![("IDENTITY_ENDPOINT", app_service.as_str()), ("IDENTITY_HEADER", "the-header")]),
    ] {
        let proxied =
            [environment, vec![("HTTP_PROXY", "http://127.0.0.1:1"), ("http_proxy", "http://127.0.0.1:1")]]
                .concat();
        let (code, said) = probe(&world, &proxied).await;
        assert_eq!(code, Some(0), "{sentence}: {said}");
    }
    for (sentence, environment, expected) in [
        (
            "another header",
            vec![("IDENTITY_ENDPOINT", app_service.as_str()), ("IDENTITY_HEADER", "x")],
            "answered 401",
        ),
        (
            "no such host",
            vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")],
            "on Azure hosts only",
        ),
    ] {
        let (code, said) = probe(&world, &environment).await;
        assert_eq!(code, Some(1), "{sentence}");
        assert!(said.contains("credential_unreadable") && said.contains(expected), "{sentence}: {said}");
        assert!(!said.contains("the-header") && !said.contains("eyJ"), "{sentence}: {said}");
    }
}

/// One request for a token, however many probes there are; it is renewed before it ends.
#[tokio::test]
async fn a_managed_identitys_token_is_kept_and_renewed() {
    let world = with("{managed_identity: {}}").await;
    let url = world.simulator.url();
    world.act([
        Action::AddManagedIdentity { client_id: None, subject: SUBJECT.to_owned() },
        federated(&managed_identity::issuer(&url), SUBJECT),
        Action::SetManagedIdentityLifetime { seconds: 16 },
    ]);
    let daemon = world.daemon_with(&["--log.level=debug"], |command| {
        command.env("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url);
    });
    let up = "consentry_integration_up{integration=\"fabrikam\"}";
    crate::world::eventually("the integration works", async || {
        (daemon.metric(up).await.as_deref() == Some("1")).then_some(())
    })
    .await;
    let mut requests = Vec::new();
    crate::world::eventually("the token is renewed", async || {
        requests.extend(world.simulator.take_requests());
        let count = |host: &str| requests.iter().filter(|r| r.host == host).count();
        let tokens = requests.iter().filter(|r| r.target.contains("/oauth2/v2.0/token")).count();
        assert!(count("identity") * 2 <= tokens.max(2), "{} identity, {tokens} tokens", count("identity"));
        (count("identity") >= 2).then_some(())
    })
    .await;
    assert_eq!(daemon.metric(up).await.as_deref(), Some("1"), "no probe saw a token that had ended");
    assert!(!daemon.log().iter().any(|line| line.contains("eyJ")), "a token begins like this");
    let series = "consentry_upstream_requests_total{code=\"200\",endpoint=\"managed_identity\"}";
    assert!(daemon.metric(series).await.is_some());
}

/// A token as another identity provider issues it.
fn token(issuer: &str, subject: &str, audience: &str) -> String {
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let now = jiff::Timestamp::now().as_second();
    let claims = serde_json::json!({"iss": issuer, "sub": subject, "aud": [audience], "iat": now, "nbf": now, "exp": now + 3600});
    format!("{}.{}.c2ln", part(serde_json::json!({"alg": "RS256", "typ": "JWT"})), part(claims))
}

/// The file is read at every use; an error says what the token says.
#[tokio::test]
async fn a_federated_token_is_read_at_every_use() {
    let world = World::live().await;
    let file = world.path("token");
    let (issuer, subject) = ("https://kubernetes.example", "system:serviceaccount:consentry:consentry");
    let audience = "api://AzureADTokenExchange";
    std::fs::write(&file, token(issuer, subject, audience)).expect("written");
    let mut world = world;
    world.only(&["fabrikam"]).remove("integrations.fabrikam.directory_reader");
    world.set("apps.rota.credential", &format!("{{federated_token_file: {}}}", file.display()));
    world.act([federated(issuer, subject)]);
    let (code, said) = probe(&world, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    for (sentence, content, code, words) in [
        (
            "another subject",
            token(issuer, "system:serviceaccount:x:y", audience),
            "AADSTS700213",
            "has subject system:serviceaccount:x:y",
        ),
        (
            "another issuer",
            token("https://other.example", subject, audience),
            "AADSTS700211",
            "issuer https://other.example",
        ),
        ("another audience", token(issuer, subject, "api://other"), "AADSTS700212", "audience api://other"),
    ] {
        std::fs::write(&file, &content).expect("written");
        let (_, said) = probe(&world, &[]).await;
        let words = words.replace("has subject", "subject");
        assert!(said.contains("client_credential_invalid") && said.contains(code), "{sentence}: {said}");
        assert!(said.contains(&words), "{sentence}: {said}");
        assert!(!said.contains(&content), "{sentence}: {said}");
    }
    for (sentence, content) in [("nothing", ""), ("something else", "not-a-token")] {
        std::fs::write(&file, content).expect("written");
        let (_, said) = probe(&world, &[]).await;
        assert!(said.contains("credential_unreadable") && said.contains("token"), "{sentence}: {said}");
    }
    let setup = text(&world.command(&["setup", "fabrikam"]).await.stdout);
    assert!(setup.contains("Federated identity credential") && setup.contains(audience), "{setup}");
}

/// RSA, because Entra accepts nothing else.
struct Pair {
    certificate: String,
    key: String,
    pfx: Vec<u8>,
}

fn pair(password: &str) -> Pair {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let certificate =
        rcgen::CertificateParams::new(Vec::new()).expect("parameters").self_signed(&key).expect("signed");
    let entity = p12_keystore::Certificate::from_der(certificate.der()).expect("a certificate");
    let private = p12_keystore::PrivateKey::from_der(&key.serialize_der()).expect("a key");
    let chain = p12_keystore::PrivateKeyChain::new([1_u8, 2, 3].as_slice(), private, [entity]);
    let mut store = p12_keystore::KeyStore::new();
    store.add_entry("app", p12_keystore::KeyStoreEntry::PrivateKeyChain(chain));
    let pfx = store.writer(password).write().expect("a PFX file");
    Pair { certificate: certificate.pem(), key: key.serialize_pem(), pfx }
}

#[tokio::test]
async fn certificates_come_in_every_form() {
    let mut world = World::live().await;
    let (own, other) = (pair("open sesame"), pair(""));
    for (name, content) in [
        ("app.crt", own.certificate.as_bytes()),
        ("app.key", own.key.as_bytes()),
        ("both.pem", format!("{}{}", own.key, own.certificate).as_bytes()),
        ("chain.pem", format!("{}{}{}", other.certificate, own.certificate, own.key).as_bytes()),
        ("app.pfx", &own.pfx),
        ("other.key", other.key.as_bytes()),
        ("password", b"open sesame\n"),
        ("wrong", b"close sesame\n"),
        ("text", b"no certificate"),
    ] {
        std::fs::write(world.path(name), content).expect("written");
    }
    world.only(&["fabrikam"]).remove("integrations.fabrikam.directory_reader");
    world.act([
        Action::RemoveSecrets { app: APPLICATION_APP },
        Action::AddCertificate { app: APPLICATION_APP, certificate_pem: own.certificate.clone() },
    ]);
    for (sentence, credential, expected) in [
        ("two files", "{certificate_file: app.crt, private_key_file: app.key}", None),
        ("one PEM file for both", "{certificate_file: both.pem}", None),
        ("a chain in any order", "{certificate_file: chain.pem}", None),
        ("a PFX file", "{certificate_file: app.pfx, certificate_password_file: password}", None),
        (
            "a wrong password",
            "{certificate_file: app.pfx, certificate_password_file: wrong}",
            Some("the password is wrong"),
        ),
        ("no password", "{certificate_file: app.pfx}", Some("give certificate_password_file")),
        (
            "a key of another certificate",
            "{certificate_file: app.crt, private_key_file: other.key}",
            Some("belongs to no certificate"),
        ),
        ("no key", "{certificate_file: app.crt}", Some("contains no PEM private key")),
        (
            "a PFX file and a key",
            "{certificate_file: app.pfx, private_key_file: app.key}",
            Some("remove private_key_file"),
        ),
        (
            "a password for PEM",
            "{certificate_file: both.pem, certificate_password: x}",
            Some("PFX files only"),
        ),
        ("a text", "{certificate_file: text}", Some("contains no PEM certificate and is no PFX file")),
        ("a password alone", "{certificate_password: x}", Some("certificate_file is missing")),
        ("two kinds", "{certificate_file: both.pem, client_secret: x}", Some("several kinds")),
        ("two kinds again", "{federated_token_file: text, managed_identity: {}}", Some("several kinds")),
    ] {
        world.set("apps.rota.credential", credential);
        let checked = world.command(&["check-config"]).await;
        let said = text(&checked.stdout) + &text(&checked.stderr);
        assert_eq!(checked.status.success(), expected.is_none(), "{sentence}: {said}");
        assert!(!said.contains("sesame"), "{sentence}: {said}");
        if let Some(words) = expected {
            assert!(said.contains(words), "{sentence}: {said}");
        } else {
            let (code, said) = probe(&world, &[]).await;
            assert_eq!(code, Some(0), "{sentence}: {said}");
        }
    }
}

/// A tenant in another cloud is named with its cloud; an unknown issuer is refused.
#[tokio::test]
async fn unknown_issuers_are_refused() {
    let world = World::live().await;
    let url = world.simulator.url();
    for (sentence, issuer, accepted) in [
        ("somebody else", "https://login.evil.example", false),
        ("a name that only begins like the cloud's", "https://login.microsoftonline.com.evil.example", false),
        ("Microsoft's, behind a host of its own", "https://login.microsoftonline.us", true),
    ] {
        world.simulator.clear_faults();
        world.simulator.fault(Fault {
            endpoint: Endpoint::Openid,
            tenant: None,
            contains: None,
            times: None,
            fault: FaultKind::Rewrite {
                find: format!("\"issuer\":\"{url}"),
                replace: format!("\"issuer\":\"{issuer}"),
            },
        });
        let checked = world.command(&["check-config", "--online"]).await;
        let said = text(&checked.stdout);
        assert_eq!(said.contains("unknown issuer"), !accepted, "{sentence}: {said}");
    }
}

/// A user-assigned identity is asked for by its client id.
#[tokio::test]
async fn a_user_assigned_identity_is_named() {
    let id = Uuid::from_u128(0x1d);
    let world = with(&format!("{{managed_identity: {{client_id: {id}}}}}")).await;
    let url = world.simulator.url();
    world.act([
        Action::AddManagedIdentity { client_id: Some(id), subject: SUBJECT.to_owned() },
        federated(&managed_identity::issuer(&url), SUBJECT),
    ]);
    let host = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", url.as_str())];
    let (code, said) = probe(&world, &host).await;
    assert_eq!(code, Some(0), "{said}");
    let arc = [("IDENTITY_ENDPOINT", url.as_str()), ("IMDS_ENDPOINT", url.as_str())];
    let (code, said) = probe(&world, &arc).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Azure Arc has no user-assigned identities"), "{said}");
}

/// A program of Azure Arc writes a key that only administrators can read; the key of a file elsewhere is not sent.
#[tokio::test]
async fn azure_arc_challenges_the_daemon() {
    let world = World::live().await;
    let url = world.simulator.url();
    let tokens = world.path("tokens");
    std::fs::create_dir(&tokens).expect("a folder");
    std::fs::write(tokens.join("a.key"), "the-key").expect("written");
    std::fs::write(world.path("b.key"), "the-password").expect("written");
    world.act([
        Action::AddManagedIdentity { client_id: None, subject: SUBJECT.to_owned() },
        federated(&managed_identity::issuer(&url), SUBJECT),
    ]);
    for (sentence, file, expected) in [
        ("the agent's file", tokens.join("a.key"), None),
        ("a file elsewhere", world.path("b.key"), Some("does not lie in")),
    ] {
        let (file, content) = (file.display().to_string(), std::fs::read_to_string(&file).expect("a key"));
        world.act([Action::SetArcChallenge { file, content }]);
        let source = IdentitySource::Arc { endpoint: format!("{url}/arc/token"), folder: tokens.clone() };
        let granted = signed_in(&world, source).await;
        match expected {
            None => assert!(granted.is_ok(), "{sentence}: {granted:?}"),
            Some(words) => {
                let fault = granted.expect_err(sentence);
                assert!(fault.detail.contains(words) && !fault.detail.contains("the-password"), "{fault:?}");
                let basic = "Basic ";
                let sent = world.simulator.take_requests();
                assert!(!sent.iter().any(|r| r.headers.iter().any(|(_, v)| v.contains(basic))), "{sent:?}");
            }
        }
    }
}

/// A service that restarts is asked again; one that does not know the identity is not blamed on Entra.
#[tokio::test]
async fn a_metadata_service_that_is_not_ready_is_asked_again() {
    let world = World::live().await;
    let url = world.simulator.url();
    world.act([
        Action::AddManagedIdentity { client_id: None, subject: SUBJECT.to_owned() },
        federated(&managed_identity::issuer(&url), SUBJECT),
    ]);
    for (sentence, status, times, expected) in [
        ("it restarts", 410, 1, Ok(())),
        ("it is busy", 429, 1, Ok(())),
        ("it stays busy", 503, 9, Err(Reason::UpstreamUnavailable)),
        ("it knows no such identity", 400, 1, Err(Reason::CredentialUnreadable)),
    ] {
        world.simulator.clear_faults();
        world.simulator.fault(Fault {
            endpoint: Endpoint::ManagedIdentity,
            tenant: None,
            contains: None,
            times: Some(times),
            fault: FaultKind::Status { status, retry_after: None },
        });
        let endpoint = format!("{url}/metadata/identity/oauth2/token");
        let granted = signed_in(&world, IdentitySource::Metadata { endpoint }).await;
        assert_eq!(granted.map_err(|fault| fault.reason), expected, "{sentence}");
    }
}

/// A token for the application by the managed identity of this source.
async fn signed_in(world: &World, source: IdentitySource) -> Result<(), consentry::domain::Fault> {
    let url = world.simulator.url();
    let http = HttpClient::new(&ClientOptions::default(), Arc::new(|_, _, _| {})).expect("a client");
    let cloud = Cloud { login_url: url.clone(), graph_url: url };
    let identities = ManagedIdentities::new(source);
    let entra = Entra::with_identities(http, cloud, Arc::default(), identities);
    let app = APPLICATION_APP.to_string();
    let client = Client {
        tenant: "fabrikam.example",
        client_id: &app,
        credential: &ClientCredential::ManagedIdentity(None),
        now_seconds: jiff::Timestamp::now().as_second(),
        deadline: std::time::Instant::now() + std::time::Duration::from_secs(20),
    };
    entra.client_credentials(client, &entra.graph_scope()).await.map(|_| ())
}
