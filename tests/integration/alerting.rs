//! Who is notified, how often, and what happens if the mail server fails.

use consentry::demo;
use entra_sim::{Endpoint, Fault, FaultKind, MailFaults, Options};

use crate::fleet::Fleet;
use crate::world::{MINUTE, World, header, situation};

fn fault(endpoint: Endpoint, fault: FaultKind) -> Fault {
    Fault { endpoint, tenant: None, contains: None, times: None, fault }
}

fn status(status: u16, retry_after: Option<&str>) -> FaultKind {
    FaultKind::Status { status, retry_after: retry_after.map(str::to_owned) }
}

/// No transient fault of the upstream changes a gauge or mails an admin, however long it lasts. The operators
/// are notified of a lasting one.
#[tokio::test]
async fn transient_faults_mail_no_admin() {
    let kinds = [
        (Endpoint::Any, status(503, None), "upstream_unavailable"),
        (Endpoint::Any, status(429, Some("30")), "throttled"),
        (Endpoint::BatchItem, status(429, Some("20")), "throttled"),
        (Endpoint::Any, FaultKind::BrokenJson, "invalid_response"),
        (Endpoint::Any, FaultKind::Reset, "network_error"),
        (Endpoint::Any, FaultKind::Html { status: 200 }, "invalid_response"),
        (Endpoint::Token, FaultKind::Html { status: 502 }, "upstream_unavailable"),
    ];
    for (endpoint, kind, reason) in kinds {
        let fleet = Fleet::start().await;
        fleet.pass(6 * MINUTE).await;
        fleet.simulator.fault(fault(endpoint, kind.clone()));
        fleet.pass(40 * MINUTE).await;
        assert_eq!(fleet.notified(), Vec::<String>::new(), "{kind:?}");
        // The reader's integration with access of its own sees every endpoint.
        let reasons = fleet.reasons("fabrikam");
        if endpoint != Endpoint::BatchItem {
            assert!(!reasons.is_empty() && reasons.iter().all(|(_, r)| r == reason), "{kind:?}: {reasons:?}");
        }
        for situation in demo::SITUATIONS {
            assert_eq!(fleet.up(situation.name).as_deref(), Some("1"), "{kind:?} {situation:?}");
            assert!(
                fleet.series("consentry_check_success", situation.name).iter().all(|l| l.ends_with(" 1")),
                "{kind:?}: the last conclusive result stays"
            );
        }
        fleet.pass(300 * MINUTE).await;
        let people: Vec<String> = fleet.mails().into_iter().map(|(to, _)| to).collect();
        assert!(people.iter().all(|p| p == "operators@demo.example"), "{kind:?}: {people:?}");
        assert!(people.len() <= 2, "{kind:?}: one cause, one mail: {people:?}");
        fleet.simulator.clear_faults();
        fleet.pass(120 * MINUTE).await;
        assert!(demo::SITUATIONS.iter().all(|s| fleet.reasons(s.name).is_empty()), "{kind:?}: it passes");
        assert!(fleet.mails().iter().all(|(to, _)| to == "operators@demo.example"), "{kind:?}");
    }
}

/// A failure that the operators must fix: one mail for everything with the same cause, and none to the
/// customers' admins.
#[tokio::test]
async fn one_cause_one_mail_to_the_operators() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![entra_sim::Action::ExpireSecrets { app: demo::APP }]);
    fleet.pass(30 * MINUTE).await;
    let mails = fleet.mails();
    assert_eq!(mails.iter().map(|(to, _)| to.as_str()).collect::<Vec<_>>(), ["operators@demo.example"]);
    assert_eq!(header(&mails[0].1, "X-Consentry-Event").as_deref(), Some("operator"));
    assert!(mails[0].1.subject.contains("client credential has expired"), "{}", mails[0].1.subject);
    let broken = demo::SITUATIONS.iter().filter(|s| !s.application);
    assert!(broken.clone().all(|s| fleet.up(s.name).as_deref() == Some("0")));
    fleet.act(vec![entra_sim::Action::AddSecret {
        app: demo::APP,
        secret: "other".to_owned(),
        expires_in_seconds: 86_400,
        key_id: None,
        display_name: None,
    }]);
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.mails().len(), 1, "a secret that nobody uses fixes nothing");
    fleet.simulator.with_world(|w| {
        w.apps
            .get_mut(&demo::APP)
            .expect("the app")
            .secrets
            .iter_mut()
            .for_each(|s| s.expires += jiff::SignedDuration::from_hours(24));
    });
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator", "resolved"]);
    assert!(broken.clone().all(|s| fleet.up(s.name).as_deref() == Some("1")));
}

/// A reader that may not read breaks no integration, and the operators are notified of it once.
#[tokio::test]
async fn a_reader_without_permission_is_reported_to_the_operators() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![entra_sim::Action::RevokeConsent {
        tenant: "litware.example".to_owned(),
        app: demo::READER,
    }]);
    // The cached token keeps its roles for an hour.
    fleet.pass(90 * MINUTE).await;
    assert_eq!((fleet.up("litware").as_deref(), fleet.reasons("litware")), (Some("1"), vec![]));
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator"]);
    assert!(fleet.mails()[0].1.subject.contains("directory reader"), "{}", fleet.mails()[0].1.subject);
}

#[tokio::test]
async fn no_mail_is_lost_while_the_mail_server_is_unreachable() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    for faults in [
        MailFaults { refuse: true, ..MailFaults::default() },
        MailFaults { temporary: true, ..MailFaults::default() },
    ] {
        fleet.simulator.mailbox().set_faults(faults);
        fleet.act((situation("contoso").breaks)("contoso.example"));
        fleet.pass(12 * MINUTE).await;
        fleet.pass(12 * MINUTE).await;
    }
    assert_eq!(fleet.notified(), Vec::<String>::new());
    let text = fleet.exposition();
    let value = |line: &str| {
        text.lines()
            .find(|l| l.starts_with(line))
            .and_then(|l| l.split(' ').next_back()?.parse::<f64>().ok())
            .expect("a series")
    };
    assert!((value("consentry_email_queue_length") - 1.0).abs() < f64::EPSILON);
    assert!(value("consentry_emails_failed_total{kind=\"alert\",reason=\"connect\"}") >= 1.0);
    assert!(value("consentry_emails_failed_total{kind=\"alert\",reason=\"other\"}") >= 1.0);
    let fleet = fleet.restart().await;
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    fleet.pass(6 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"]);
}

/// If the connection breaks after the mail was accepted, the mail is sent again an hour later, with the same
/// `Message-ID`.
#[tokio::test]
async fn a_repeated_mail_is_recognisable() {
    let fleet = Fleet::start().await;
    fleet.simulator.mailbox().set_faults(MailFaults { drop_after_data: true, ..MailFaults::default() });
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    fleet.pass(6 * MINUTE).await;
    assert_eq!(fleet.notified(), ["alert to it@contoso.example"], "it may have arrived");
    fleet.pass(60 * MINUTE).await;
    let ids: Vec<String> = fleet.mails().into_iter().map(|(_, m)| m.message_id).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
}

/// An invalid address affects no other recipient. Its mail is tried with growing pauses and given up, and the
/// operators are notified.
#[tokio::test]
async fn a_rejected_recipient_is_given_up() {
    let mut world = World::demo().await;
    world.set("integrations.contoso.admins", "[it@contoso.example, gone@contoso.example]");
    let fleet = world.fleet().await;
    fleet
        .simulator
        .mailbox()
        .set_faults(MailFaults { reject: vec!["gone@contoso.example".to_owned()], ..MailFaults::default() });
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"]);
    // Only the outbox runs here, because other tests cover the probes.
    let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
    while let Some(next) = notifier.drain().await.expect("the outbox") {
        fleet.clock.set(next);
    }
    assert_eq!(
        (fleet.kinds("gone@contoso.example"), fleet.kinds("operators@demo.example")),
        (vec![], vec!["operator".to_owned()])
    );
    assert!(
        fleet.exposition().contains("consentry_emails_failed_total{kind=\"alert\",reason=\"rejected\"} 8\n")
    );
    assert!(fleet.exposition().contains("consentry_email_queue_length 0\n"));
}

#[tokio::test]
async fn mail_is_sent_with_every_kind_of_tls() {
    for (implicit, tls, credentials) in
        [(false, "starttls", true), (true, "implicit", true), (false, "none", false)]
    {
        let login = credentials.then(|| ("consentry".to_owned(), "geheim".to_owned()));
        let options = Options { smtp_implicit_tls: implicit, smtp_credentials: login, ..Options::default() };
        let mut world = World::demo_with(options).await;
        std::fs::write(world.path("ca.pem"), world.simulator.ca_pem()).expect("written");
        world
            .set("email.smtp.host", "localhost")
            .set("email.smtp.tls", tls)
            .add("email.smtp.tls_config", "{ca_file: ca.pem}");
        if credentials {
            world.add("email.smtp.username", "consentry").add("email.smtp.password", "geheim");
        }
        let fleet = world.fleet().await;
        fleet.act((situation("contoso").breaks)("contoso.example"));
        fleet.pass(12 * MINUTE).await;
        let mails = fleet.simulator.mailbox().all();
        assert_eq!(
            mails.iter().map(|m| (m.tls, m.user.is_some())).collect::<Vec<_>>(),
            [(tls != "none", credentials)],
            "{tls}"
        );
    }
}

/// A missing STARTTLS never leads to plain text, and an unknown certificate is rejected.
#[tokio::test]
async fn no_mail_is_sent_without_the_configured_protection() {
    let mut world = World::demo().await;
    world.set("email.smtp.tls", "starttls");
    let fleet = world.fleet().await;
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.notified(), Vec::<String>::new());
    assert!(
        fleet
            .exposition()
            .lines()
            .any(|l| l.starts_with("consentry_emails_failed_total{kind=\"alert\",reason=\"tls\"}")
                && !l.ends_with(" 0"))
    );
}

/// A reason from the directory stays until the directory responds again: a transient fault neither changes it
/// nor notifies anybody.
#[tokio::test]
async fn a_confirmed_reason_survives_transient_faults() {
    let fleet = Fleet::start().await;
    fleet.act((situation("litware").breaks)("litware.example"));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.notified(), ["alert to it@litware.example"]);
    for contains in [Some("deletedItems".to_owned()), None] {
        let tenant = Some("litware.example".to_owned());
        fleet.simulator.fault(Fault {
            endpoint: Endpoint::Graph,
            tenant,
            contains,
            times: None,
            fault: status(503, None),
        });
        fleet.pass(60 * MINUTE).await;
        fleet.simulator.clear_faults();
        fleet.pass(30 * MINUTE).await;
    }
    assert_eq!(fleet.notified(), ["alert to it@litware.example"]);
    assert!(
        fleet.reasons("litware").iter().all(|(_, r)| r == "app_deleted"),
        "{:?}",
        fleet.reasons("litware")
    );
}

/// If the token file of another program cannot be read, the operators must fix that, not the admin.
#[tokio::test]
async fn an_unreadable_token_file_is_reported_to_the_operators() {
    let files = tempfile::tempdir().expect("a folder");
    let file = files.path().join("gone").join("token");
    let mut world = World::demo().await;
    world.add("integrations.contoso.refresh_token_file", &file.display().to_string());
    let fleet = world.fleet().await;
    fleet.pass(20 * MINUTE).await;
    assert!(
        fleet.reasons("contoso").iter().all(|(_, r)| r == "credential_unreadable"),
        "{:?}",
        fleet.reasons("contoso")
    );
    assert_eq!(fleet.notified(), ["operator to operators@demo.example"], "the operators, once");
    std::fs::create_dir(files.path().join("gone")).expect("the mount is back");
    fleet.pass(20 * MINUTE).await;
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator", "resolved"]);
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"], "there is no token: the invitation");
}

/// Without admins the operators get the link, and are notified of another reason, too.
#[tokio::test]
async fn without_admins_the_operators_get_the_link() {
    let mut world = World::demo().await;
    world.remove("integrations.contoso.admins");
    let fleet = world.fleet().await;
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    assert!(fleet.mails()[0].1.text.contains("https://c.example.com/reauth/contoso?token="));
    fleet.act(vec![entra_sim::Action::DeleteApp { tenant: "contoso.example".to_owned(), app: demo::APP }]);
    fleet.pass(30 * MINUTE).await;
    fleet.act(vec![entra_sim::Action::RestoreApp { tenant: "contoso.example".to_owned(), app: demo::APP }]);
    fleet.act((situation("contoso").fix)("contoso.example"));
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator", "operator", "resolved"]);
}

/// A cause ends with its last member, even if that member leaves the configuration.
#[tokio::test]
async fn a_cause_without_members_suppresses_no_alert() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![entra_sim::Action::ExpireSecrets { app: demo::APPLICATION_APP }]);
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator"]);
    let fleet = fleet
        .restart_with(|configuration| {
            configuration.set("integrations.fabrikam.name", "fabrikam2");
            configuration.set("integrations.adatum.name", "adatum2");
        })
        .await;
    fleet.pass(12 * MINUTE).await;
    assert_eq!(
        fleet.kinds("operators@demo.example"),
        ["operator", "operator"],
        "the same cause, and news for the new ones"
    );
    assert_eq!(fleet.up("fabrikam"), None, "a removed integration disappears at once");
}

/// A mail that the server accepted is never sent again, even if the database cannot save that for a while.
#[tokio::test]
async fn a_mail_that_cannot_be_marked_is_not_repeated() {
    let fleet = Fleet::start().await;
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.daemon.monitor.run_until(fleet.clock.now().plus(12 * MINUTE)).await;
    let database =
        rusqlite::Connection::open(fleet.folder.path().join("consentry.db")).expect("the database");
    let refuse =
        "CREATE TRIGGER refuse BEFORE UPDATE ON notifications BEGIN SELECT RAISE(FAIL, 'disk full'); END";
    database.execute_batch(refuse).expect("a database that refuses");
    let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
    for _ in 0..3 {
        assert!(notifier.drain().await.is_err(), "the mark was not saved");
    }
    assert_eq!(fleet.notified(), ["alert to it@contoso.example"]);
    database.execute_batch("DROP TRIGGER refuse").expect("room again");
    assert_eq!(notifier.drain().await.expect("marked"), None);
    assert_eq!(
        (fleet.notified().len(), fleet.daemon.store.outbox(fleet.clock.now()).await.expect("outbox").waiting),
        (1, 0)
    );
}
