//! The check `credential`: what is listed, how often it is read, and whom a warning reaches.

use std::time::Duration;

use consentry::demo::{APP, APPLICATION_APP, READER};
use entra_sim::{Action, Endpoint, Fault, FaultKind};
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::world::{World, header, text};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const OPERATORS: &str = "operators@demo.example";

fn secret(app: Uuid, value: &str, days: i64, key_id: u128) -> Action {
    Action::AddSecret {
        app,
        secret: value.to_owned(),
        expires_in_seconds: days * 86_400,
        key_id: Some(Uuid::from_u128(key_id)),
        display_name: Some("of the vendor".to_owned()),
    }
}

/// Three integrations of one application, which is registered in a tenant of its own.
async fn vendor(days: i64, warning: &str) -> Fleet {
    let mut world = World::demo().await;
    let names = ["northwind", "contoso", "litware"];
    world.only(&names).set("probe.interval", "3h").add("probe.retry_interval", "3h");
    let home = Uuid::from_u128(0xf00d);
    for name in names {
        world
            .add(&format!("integrations.{name}.checks"), "[enterprise_app, credential]")
            .add(&format!("integrations.{name}.credential_expiry_warning"), warning);
    }
    world.add("apps.sequr.home_tenant_id", &home.to_string());
    world.act([
        Action::AddTenant { id: home, domain: "vendor.example".to_owned(), name: None },
        Action::SetHomeTenant { app: APP, tenant: "vendor.example".to_owned() },
        Action::InstallApp { tenant: "vendor.example".to_owned(), app: APP },
        Action::RemoveSecrets { app: APP },
        secret(APP, "old-secret", -5, 1),
        secret(APP, "demo-secret", days, 2),
    ]);
    world.fleet().await
}

fn success(fleet: &Fleet, name: &str) -> String {
    let series = fleet.series("consentry_check_success", name);
    let line = series.iter().find(|line| line.contains("check=\"credential\"")).cloned().unwrap_or_default();
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_application_is_one_request_a_day_and_one_mail_a_warning() {
    let fleet = vendor(90, "8d").await;
    fleet.pass(23 * HOUR).await;
    let registrations = |fleet: &Fleet| {
        let requests = fleet.simulator.take_requests();
        requests
            .iter()
            .filter(|r| r.target.contains("/applications(") && r.target.contains("keyCredentials"))
            .count()
    };
    assert_eq!(registrations(&fleet), 1, "for three integrations");
    for name in ["northwind", "contoso", "litware"] {
        assert_eq!((fleet.up(name).as_deref(), success(&fleet, name).as_str()), (Some("1"), "1"), "{name}");
    }
    let series = fleet.series("consentry_credential_expiry_timestamp_seconds", "contoso");
    assert_eq!(series.len(), 2, "the expired leftover is shown, too: {series:?}");
    assert!(series.iter().all(|line| line.contains("kind=\"client_secret\"")), "{series:?}");
}

#[tokio::test]
async fn a_warning_is_mailed_when_it_begins_and_7_days_and_1_day_before_the_end() {
    let fleet = vendor(9, "8d").await;
    fleet.pass(12 * HOUR).await;
    assert_eq!((fleet.kinds(OPERATORS).len(), success(&fleet, "contoso").as_str()), (0, "1"));
    for (sentence, pause, mails) in [
        ("eight days before the end", 15 * HOUR, 1),
        ("a day later", DAY, 2),
        ("in between, nothing", 5 * DAY, 2),
        ("a day before the end", DAY, 3),
    ] {
        fleet.pass(pause).await;
        assert_eq!(fleet.kinds(OPERATORS), vec!["operator"; mails], "{sentence}: {:?}", fleet.notified());
        assert_eq!(
            (fleet.up("contoso").as_deref(), success(&fleet, "contoso").as_str()),
            (Some("1"), "0"),
            "{sentence}"
        );
        let reasons = fleet.reasons("contoso");
        assert_eq!(reasons, [("credential".to_owned(), "credential_expiring".to_owned())], "{sentence}");
    }
    let (_, mail) = fleet.mails().pop().expect("a mail");
    for words in ["expires soon", "of the vendor", &Uuid::from_u128(2).to_string(), "Nothing is broken yet"] {
        assert!(mail.text.contains(words), "{words}: {}", mail.text);
    }
    assert!(!mail.text.contains("demo-secret") && !mail.text.contains(" dem"), "{}", mail.text);
    assert_eq!(fleet.notified().len(), 3, "no admin is asked: {:?}", fleet.notified());
    // The operators replace it, without restarting anything: the end of a warning is no mail.
    fleet.act(vec![secret(APP, "demo-secret", 365, 3)]);
    fleet.pass(4 * HOUR).await;
    assert_eq!(
        (success(&fleet, "contoso").as_str(), fleet.notified().len()),
        ("1", 3),
        "{:?}",
        fleet.notified()
    );
}

/// Restarts send nothing twice.
#[tokio::test]
async fn a_warning_survives_a_restart() {
    let fleet = vendor(5, "30d").await;
    fleet.pass(4 * HOUR).await;
    assert_eq!(fleet.kinds(OPERATORS), ["operator"]);
    let fleet = fleet.restart().await;
    fleet.pass(12 * HOUR).await;
    assert_eq!(fleet.kinds(OPERATORS), ["operator"]);
    assert_eq!(fleet.reasons("contoso"), [("credential".to_owned(), "credential_expiring".to_owned())]);
}

/// What has expired breaks its integrations, and is one mail to the operators.
#[tokio::test]
async fn a_saml_certificate_that_has_expired_breaks_its_integration() {
    let mut world = World::demo().await;
    world.only(&["fabrikam"]).add("integrations.fabrikam.checks", "[enterprise_app, credential]");
    let thumbprint = "0102030405060708090A0B0C0D0E0F1011121314".to_owned();
    let tenant = "fabrikam.example".to_owned();
    let certificate = |thumbprint: String, days: i64, active| Action::AddSamlCertificate {
        tenant: tenant.clone(),
        app: APPLICATION_APP,
        thumbprint,
        expires_in_seconds: days * 86_400,
        active,
    };
    world.act([certificate(thumbprint.clone(), 20, true)]);
    let fleet = world.fleet().await;
    fleet.pass(HOUR).await;
    assert_eq!(fleet.reasons("fabrikam"), [("credential".to_owned(), "credential_expiring".to_owned())]);
    let series = fleet.series("consentry_credential_expiry_timestamp_seconds", "fabrikam");
    assert_eq!(series.iter().filter(|l| l.contains("kind=\"saml_certificate\"")).count(), 1, "{series:?}");
    assert_eq!(fleet.kinds(OPERATORS), ["operator"]);
    // A newer one that Entra does not use yet does not help.
    fleet.act(vec![certificate("1".repeat(40), 900, false)]);
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.reasons("fabrikam"), [("credential".to_owned(), "credential_expiring".to_owned())]);
    fleet.act(vec![certificate("2".repeat(40), -1, true)]);
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.up("fabrikam").as_deref(), Some("0"));
    assert_eq!(fleet.reasons("fabrikam"), [("credential".to_owned(), "credential_expired".to_owned())]);
    assert_eq!(fleet.kinds(OPERATORS), ["operator", "operator"]);
    assert_eq!(fleet.notified().len(), 2, "{:?}", fleet.notified());
    fleet.act(vec![certificate("3".repeat(40), 900, true)]);
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.up("fabrikam").as_deref(), Some("1"));
    let (_, over) = fleet.mails().pop().expect("a mail");
    assert_eq!(header(&over, "X-Consentry-Event").as_deref(), Some("resolved"));
}

/// The reader's own credential is a part of the check, and breaks nothing.
#[tokio::test]
async fn a_directory_readers_secret_expires() {
    let mut world = World::demo().await;
    world.only(&["fabrikam"]).add("integrations.fabrikam.checks", "[enterprise_app, credential]");
    world.act([
        Action::SetHomeTenant { app: READER, tenant: "fabrikam.example".to_owned() },
        Action::RemoveSecrets { app: READER },
        secret(READER, "demo-secret", 6, 7),
    ]);
    let fleet = world.fleet().await;
    fleet.pass(HOUR).await;
    assert_eq!(fleet.reasons("fabrikam"), [("credential".to_owned(), "credential_expiring".to_owned())]);
    assert_eq!((fleet.up("fabrikam").as_deref(), fleet.kinds(OPERATORS).len()), (Some("1"), 1));
    let (_, mail) = fleet.mails().pop().expect("a mail");
    assert!(mail.text.contains("directory reader reader: client secret"), "{}", mail.text);
}

/// `probe` reads everything anew, lists it, and fails for a warning, too.
#[tokio::test]
async fn the_command_shows_every_credential() {
    let mut world = World::live().await;
    world.add("integrations.fabrikam.checks", "[credential]");
    world.act([
        Action::AddFederatedCredential {
            app: APPLICATION_APP,
            name: "kubernetes".to_owned(),
            issuer: "https://kubernetes.example".to_owned(),
            subject: "system:serviceaccount:a:b".to_owned(),
            audience: "api://AzureADTokenExchange".to_owned(),
        },
        Action::RemoveSecrets { app: APPLICATION_APP },
        secret(APPLICATION_APP, "demo-secret", 3, 9),
    ]);
    let probed = world.command(&["probe", "fabrikam", "--output=json"]).await;
    let said = text(&probed.stdout);
    assert_eq!(probed.status.code(), Some(1), "{said}");
    let found: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&found["result"], &found["checks"][0]["reason"]),
        (&"fail".into(), &"credential_expiring".into()),
        "{said}"
    );
    let kinds: Vec<&str> = found["listed_credentials"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["kind"].as_str())
        .collect();
    assert!(kinds.contains(&"client_secret") && kinds.contains(&"federated"), "{said}");
    assert!(!said.contains("demo-secret"), "{said}");
}

/// Graph does not answer for a while: what was known stays, and nobody is warned twice.
#[tokio::test]
async fn a_passing_fault_ends_no_warning() {
    let fleet = vendor(5, "30d").await;
    fleet.act(vec![Action::AddSamlCertificate {
        tenant: "contoso.example".to_owned(),
        app: APP,
        thumbprint: "4".repeat(40),
        expires_in_seconds: 900 * 86_400,
        active: true,
    }]);
    fleet.pass(4 * HOUR).await;
    assert_eq!(fleet.kinds(OPERATORS), ["operator"]);
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: Some("/applications(".to_owned()),
        times: None,
        fault: FaultKind::Status { status: 503, retry_after: None },
    });
    fleet.pass(6 * HOUR).await;
    let series = fleet.series("consentry_credential_expiry_timestamp_seconds", "contoso");
    assert_eq!(series.len(), 3, "what was listed stays: {series:?}");
    assert_eq!(fleet.reasons("contoso"), [("credential".to_owned(), "upstream_unavailable".to_owned())]);
    fleet.simulator.clear_faults();
    fleet.pass(6 * HOUR).await;
    assert_eq!(fleet.reasons("contoso"), [("credential".to_owned(), "credential_expiring".to_owned())]);
    let subjects: Vec<_> = fleet.mails().into_iter().map(|(_, m)| header(&m, "Subject")).collect();
    assert_eq!(fleet.notified(), ["operator to operators@demo.example"], "{subjects:?}");
}

/// What is wrong with the tenant of the registration is not wrong with the customers' tenants.
#[tokio::test]
async fn a_wrong_home_tenant_breaks_nothing() {
    let fleet = vendor(365, "30d").await;
    fleet.act(vec![Action::RemoveTenant { tenant: "vendor.example".to_owned() }]);
    fleet.pass(12 * HOUR).await;
    assert_eq!(fleet.up("contoso"), None);
    let reasons = fleet.reasons("contoso");
    assert_eq!(reasons, [("credential".to_owned(), "unclassified".to_owned())]);
    assert_eq!(fleet.notified(), Vec::<String>::new(), "nobody is asked for help yet");
}
