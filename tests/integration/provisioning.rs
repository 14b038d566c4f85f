//! The check `provisioning`: what Entra says of synchronization jobs, and what follows for gauges and mails.

use entra_sim::{Action, Endpoint, Fault, FaultKind, jobs};
use serde_json::Value;

use crate::fleet::Fleet;
use crate::world::{MINUTE, World};
use consentry::demo::{APPLICATION_APP, READER};

const TENANT: &str = "fabrikam.example";

fn permission(values: &[&str]) -> Action {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    Action::EditConsent {
        tenant: TENANT.to_owned(),
        app: READER,
        resource: None,
        delegated: None,
        application: Some(values),
    }
}

fn set(jobs: Vec<Value>) -> Vec<Action> {
    vec![Action::SetProvisioningJobs { tenant: TENANT.to_owned(), app: APPLICATION_APP, jobs }]
}

/// An integration with a directory reader that may list jobs.
async fn watched() -> Fleet {
    let mut world = World::demo().await;
    world.only(&["fabrikam"]).add("integrations.fabrikam.checks", "[enterprise_app, provisioning]");
    world.act([permission(&["Directory.Read.All", "Synchronization.Read.All"])]);
    world.fleet().await
}

fn reason(fleet: &Fleet) -> Option<String> {
    fleet.reasons("fabrikam").into_iter().find(|(check, _)| check == "provisioning").map(|(_, reason)| reason)
}

fn now(fleet: &Fleet) -> jiff::Timestamp {
    fleet.simulator.with_world(|world| world.now())
}

#[tokio::test]
async fn a_quarantined_job_is_mailed_with_what_to_do() {
    let fleet = watched().await;
    fleet.act(set(vec![jobs::active("scim.1", now(&fleet))]));
    fleet.pass(6 * MINUTE).await;
    assert_eq!((fleet.up("fabrikam").as_deref(), reason(&fleet)), (Some("1"), None));
    let series = fleet.series("consentry_provisioning_quarantined", "fabrikam");
    assert_eq!(series, ["consentry_provisioning_quarantined{integration=\"fabrikam\",job_id=\"scim.1\"} 0"]);

    let code = "SystemForCrossDomainIdentityManagementCredentialValidationUnavailable";
    let broken = jobs::quarantined(
        "scim.2",
        "EncounteredQuarantineException",
        code,
        "secret-in-a-message",
        now(&fleet),
    );
    fleet.act(set(vec![jobs::active("scim.1", now(&fleet)), broken]));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.up("fabrikam").as_deref(), Some("0"));
    assert_eq!(reason(&fleet).as_deref(), Some("provisioning_quarantined"));
    let series = fleet.series("consentry_provisioning_quarantined", "fabrikam");
    assert!(series.iter().any(|line| line.contains("job_id=\"scim.2\"} 1")), "{series:?}");
    assert_eq!(fleet.notified(), ["alert to it@fabrikam.example"]);
    let (_, mail) = fleet.mails().pop().expect("a mail");
    for words in [
        "Provisioning to Rota has stopped",
        "scim.2",
        "EncounteredQuarantineException",
        code,
        "Secret Token",
        "not the SCIM token",
        "changes no accounts in Rota",
    ] {
        assert!(mail.text.contains(words), "{words} is missing: {}", mail.text);
    }
    assert!(!mail.text.contains("/reauth/") && !mail.text.contains("secret-in-a-message"), "{}", mail.text);
    assert!(!mail.text.contains("need not touch"), "{}", mail.text);

    fleet.act(set(vec![jobs::active("scim.1", now(&fleet)), jobs::active("scim.2", now(&fleet))]));
    fleet.pass(6 * MINUTE).await;
    assert_eq!(fleet.up("fabrikam").as_deref(), Some("1"));
    assert_eq!(fleet.notified(), ["alert to it@fabrikam.example", "resolved to it@fabrikam.example"]);
}

#[tokio::test]
async fn jobs_that_do_not_run_are_told_apart() {
    let fleet = watched().await;
    let at = now(&fleet);
    for (sentence, listed, expected) in [
        ("no job", vec![], Some("provisioning_missing")),
        ("one that never ran", vec![jobs::never_ran("a")], None),
        ("one that is paused", vec![jobs::paused("a")], Some("provisioning_disabled")),
        ("one that is paused, one that runs", vec![jobs::paused("a"), jobs::active("b", at)], None),
        ("one that is switched off", vec![jobs::disabled("a")], Some("provisioning_disabled")),
    ] {
        fleet.act(set(listed));
        fleet.pass(12 * MINUTE).await;
        assert_eq!(reason(&fleet).as_deref(), expected, "{sentence}");
        let up = if expected.is_some() { "0" } else { "1" };
        assert_eq!(fleet.up("fabrikam").as_deref(), Some(up), "{sentence}");
    }
    fleet.act(set(vec![jobs::active("a", at)]));
    fleet.act(vec![Action::DeleteApp { tenant: TENANT.to_owned(), app: APPLICATION_APP }]);
    fleet.pass(12 * MINUTE).await;
    assert_eq!(reason(&fleet).as_deref(), Some("app_deleted"), "the jobs went with the application");
}

/// A missing permission, a fault of Graph, and a licence break nothing and mail no admin.
#[tokio::test]
async fn what_cannot_be_listed_is_unknown() {
    let fleet = watched().await;
    fleet.act(set(vec![jobs::active("a", now(&fleet))]));
    fleet.pass(6 * MINUTE).await;
    let answer = |status, code: &str| FaultKind::Error {
        status,
        error: code.to_owned(),
        aadsts: None,
        suberror: None,
    };
    for (sentence, fault, expected) in [
        ("Graph is down", FaultKind::Status { status: 503, retry_after: None }, "upstream_unavailable"),
        ("no licence", answer(403, "Authentication_RequestFromNonPremiumTenant"), "unclassified"),
        ("no permission", FaultKind::Status { status: 401, retry_after: None }, "reader_permission_missing"),
        ("a page of a proxy", FaultKind::Html { status: 200 }, "invalid_response"),
    ] {
        fleet.simulator.fault(Fault {
            endpoint: Endpoint::Graph,
            tenant: None,
            contains: Some("synchronization/jobs".to_owned()),
            times: None,
            fault,
        });
        fleet.pass(12 * MINUTE).await;
        assert_eq!(reason(&fleet).as_deref(), Some(expected), "{sentence}");
        assert_eq!(fleet.up("fabrikam").as_deref(), Some("1"), "{sentence}");
        fleet.simulator.clear_faults();
        fleet.pass(12 * MINUTE).await;
        assert_eq!(reason(&fleet), None, "{sentence}: over");
    }
    assert!(fleet.kinds("it@fabrikam.example").is_empty(), "{:?}", fleet.notified());

    fleet.act(vec![permission(&["Directory.Read.All"])]);
    fleet.pass(20 * MINUTE).await;
    assert_eq!(reason(&fleet).as_deref(), Some("reader_permission_missing"));
    assert!(fleet.exposition().contains(
        "consentry_directory_reader_faults{reader=\"reader\",reason=\"reader_permission_missing\"} 1"
    ));
    fleet.act(vec![permission(&["Directory.Read.All", "Synchronization.Read.All"])]);
    fleet.pass(12 * MINUTE).await;
    assert_eq!(reason(&fleet), None, "a new permission counts although the old token is still valid");
}

/// An application that holds the permission itself lists its own jobs.
#[tokio::test]
async fn without_a_reader_the_application_lists_its_own_jobs() {
    let mut world = World::demo().await;
    world.only(&["adatum"]).add("integrations.adatum.checks", "[enterprise_app, provisioning]");
    let tenant = "adatum.example".to_owned();
    let consent = |values: &[&str]| Action::EditConsent {
        tenant: tenant.clone(),
        app: APPLICATION_APP,
        resource: None,
        delegated: None,
        application: Some(values.iter().map(|v| (*v).to_owned()).collect()),
    };
    world.act([
        consent(&["Group.Read.All", "Synchronization.Read.All"]),
        Action::SetProvisioningJobs {
            tenant: tenant.clone(),
            app: APPLICATION_APP,
            jobs: vec![jobs::paused("own")],
        },
    ]);
    let fleet = world.fleet().await;
    fleet.pass(12 * MINUTE).await;
    let reasons = fleet.reasons("adatum");
    assert_eq!(reasons, [("provisioning".to_owned(), "provisioning_disabled".to_owned())]);
    fleet.act(vec![consent(&["Group.Read.All"])]);
    fleet.pass(20 * MINUTE).await;
    let reasons = fleet.reasons("adatum");
    assert_eq!(reasons, [("provisioning".to_owned(), "reader_permission_missing".to_owned())]);
    assert!(
        fleet.notified().contains(&"operator to operators@demo.example".to_owned()),
        "{:?}",
        fleet.notified()
    );
}

/// A reader whose own secret has expired breaks nothing, and is reported once, as the reader's.
#[tokio::test]
async fn a_readers_own_fault_breaks_nothing() {
    let mut world = World::demo().await;
    world
        .only(&["fabrikam"])
        .add("integrations.fabrikam.checks", "[enterprise_app, provisioning, credential]");
    world.act([permission(&["Directory.Read.All", "Synchronization.Read.All"])]);
    let fleet = world.fleet().await;
    fleet.act(set(vec![jobs::active("a", now(&fleet))]));
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![Action::ExpireSecrets { app: READER }]);
    fleet.pass(3 * 60 * MINUTE).await;
    assert_eq!(fleet.up("fabrikam").as_deref(), Some("1"), "{:?}", fleet.reasons("fabrikam"));
    assert_eq!(fleet.notified(), ["operator to operators@demo.example"]);
    let (_, mail) = fleet.mails().pop().expect("a mail");
    assert!(mail.text.contains("client_credential_expired"), "{}", mail.text);
}

/// A job that cannot be listed costs the other checks nothing.
#[tokio::test]
async fn a_list_that_hangs_does_not_delay_the_other_checks() {
    let mut world = World::demo().await;
    world.only(&["litware"]).add("probe.timeout", "1s");
    world.add("integrations.litware.checks", "[enterprise_app, consent, group_access, provisioning]");
    let fleet = world.fleet().await;
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: Some("synchronization/jobs".to_owned()),
        times: None,
        fault: FaultKind::Hang,
    });
    fleet.pass(MINUTE * 5).await;
    assert_eq!(fleet.reasons("litware"), [("provisioning".to_owned(), "timeout".to_owned())]);
}
