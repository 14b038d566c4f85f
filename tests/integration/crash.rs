//! `kill -9` at bad moments: no mail is lost or sent twice, and no token is lost.

use consentry::app;
use entra_sim::MailFaults;

use crate::world::World;

/// A mail is decided while the mail server is unreachable, and the daemon is killed. The next process sends
/// the mail and is killed, and the mail is not sent again.
#[tokio::test]
async fn a_decided_mail_survives_kill_and_is_sent_once() {
    let world = World::live().await;
    world.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    let daemon = world.daemon(&[]);
    world.breaks("contoso");
    daemon.counts("consentry_emails_failed_total{kind=\"alert\"", 1.0).await;
    daemon.kill().await;
    world.simulator.mailbox().set_faults(MailFaults::default());
    let daemon = world.daemon(&[]);
    world.database_says("SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL", 1).await;
    daemon.kill().await;
    for _ in 0..3 {
        let daemon = world.daemon(&[]);
        // The outbox is drained before the first probe ends; a probe that ended shows that it was.
        daemon.counts("consentry_probes_total", 1.0).await;
        daemon.kill().await;
    }
    world.mails(1).await;
    assert_eq!(world.simulator.mailbox().all().len(), 1);
}

/// The daemon is killed during probes, several times: every integration still has a valid token.
#[tokio::test]
async fn tokens_survive_kill() {
    let world = World::live().await;
    for round in 0..5_u32 {
        let daemon = world.daemon(&[]);
        daemon.counts("consentry_probes_total", f64::from(round + 1)).await;
        daemon.kill().await;
        check_integrity(&world);
    }
    for name in ["northwind", "contoso", "litware", "proseware"] {
        let output = world.command(&["probe", name]).await;
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(world.simulator.mailbox().all().is_empty());
}

fn check_integrity(world: &World) {
    let connection = rusqlite::Connection::open(world.path("consentry.db")).expect("the database");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).expect("checked");
    assert_eq!(check, "ok");
}

/// The probe's verdict, event and mail are one transaction: after a crash there is never one without the
/// others.
#[tokio::test]
async fn verdict_event_and_mail_are_one() {
    let world = World::live().await;
    world.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    let daemon = world.daemon(&[]);
    world.breaks("contoso");
    // The metrics may be ahead of the database; its event is not.
    world
        .database_says("SELECT count(*) FROM events WHERE integration = 'contoso' AND kind = 'broken'", 1)
        .await;
    daemon.kill().await;
    let store = app::store(&world.config()).expect("the database");
    let (states, _) = store.load(consentry::clock::Clock::system().now()).await.expect("states");
    let contoso = states.iter().find(|s| s.name == "contoso").expect("saved");
    assert!(contoso.alert.is_some());
    assert_eq!(store.events("contoso").await.expect("events")[0].kind, "broken");
    assert_eq!(store.outbox(consentry::clock::Clock::system().now()).await.expect("outbox").waiting, 1);
}

/// The daemon is killed while the admin is on Entra's page, and the next process completes the sign-in. That
/// one is killed right after the success; the token and the end of the link are saved.
#[tokio::test]
async fn a_sign_in_survives_kill() {
    let world = World::live_and_reachable().await;
    world.breaks("proseware");
    let daemon = world.daemon(&[]);
    world.database_says("SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL", 1).await;
    let link = String::from_utf8(world.command(&["reauth-link", "proseware"]).await.stdout)
        .expect("text")
        .trim()
        .to_owned();
    let mut visitor = crate::visitor::Visitor::new();
    let callback = visitor.accept(&link).await;
    daemon.kill().await;
    let daemon = world.daemon(&[]);
    let accepted = visitor.get(&callback).await;
    assert_eq!(accepted.status, 303);
    daemon.kill().await;
    let daemon = world.daemon(&[]);
    daemon.becomes("proseware", "healthy").await;
    let page = visitor.get(&accepted.location()).await;
    assert!(page.body.contains("works again"), "{}", page.body);
    // The alert, the operators' mail about the sign-in, and that about its end.
    world.mails(3).await;
    assert_eq!(visitor.get(&link).await.status, 410);
    daemon.kill().await;
}
