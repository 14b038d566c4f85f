//! `kill -9` at awkward moments: no mail lost, none doubled, no token lost.

use consentry::app;
use consentry::config::load;
use entra_sim::MailFaults;

use crate::harness::situation;
use crate::program::{Place, mails};

fn break_contoso(place: &Place) {
    (situation("contoso").breaks)("contoso.example")
        .into_iter()
        .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
}

/// Decided while the mail server was away, killed, delivered by the next process; killed again, not repeated.
#[tokio::test]
async fn a_decided_mail_survives_kill_and_is_sent_once() {
    let place = Place::new().await;
    place.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    let mut daemon = place.daemon(&[]);
    daemon.until(&["ready"]).await;
    break_contoso(&place);
    daemon.until(&["mail not sent", "integration=contoso"]).await;
    daemon.kill().await;
    place.simulator.mailbox().set_faults(MailFaults::default());
    let mut daemon = place.daemon(&[]);
    daemon.until(&["mail sent", "integration=contoso"]).await;
    daemon.kill().await;
    for _ in 0..3 {
        let mut daemon = place.daemon(&["--log.level=debug"]);
        daemon.until(&["ready"]).await;
        // The outbox is drained before the first probe ends; a probe that ended shows that it was.
        daemon.until(&["message=probed"]).await;
        daemon.kill().await;
    }
    mails(&place, 1).await;
    assert_eq!(place.simulator.mailbox().all().len(), 1);
}

/// Killed in the middle of probing, again and again: every integration still has a token that works.
#[tokio::test]
async fn tokens_survive_kill() {
    let place = Place::new().await;
    for round in 0..5 {
        let mut daemon = place.daemon(&["--log.level=debug"]);
        for _ in 0..=round {
            daemon.until(&["message=probed"]).await;
        }
        daemon.kill().await;
        check_integrity(&place);
    }
    for name in ["northwind", "contoso", "litware", "proseware"] {
        let output = place.command(&["probe", name]).await;
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(place.simulator.mailbox().all().is_empty());
}

fn check_integrity(place: &Place) {
    let connection =
        rusqlite::Connection::open(place.folder.path().join("consentry.db")).expect("the database");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).expect("checked");
    assert_eq!(check, "ok");
}

/// The probe's verdict, event and mail are one transaction: after a crash there is never one without the others.
#[tokio::test]
async fn verdict_event_and_mail_are_one() {
    let place = Place::new().await;
    place.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    let mut daemon = place.daemon(&[]);
    daemon.until(&["ready"]).await;
    break_contoso(&place);
    daemon.until(&["integration is broken", "integration=contoso"]).await;
    daemon.kill().await;
    let store = app::store(&load(&place.file()).expect("valid").config).expect("the database");
    let (states, _) = store.load(consentry::clock::Clock::system().now()).await.expect("states");
    let contoso = states.iter().find(|s| s.name == "contoso").expect("saved");
    assert!(contoso.alert.is_some());
    assert_eq!(store.events("contoso").await.expect("events")[0].kind, "broken");
    assert_eq!(store.outbox().await.expect("outbox").1, 1);
}

/// The admin is on Entra's page while the daemon is killed: the sign-in ends well with the next process. Killed once more right after the
/// success, the token and the end of the link are there.
#[tokio::test]
async fn a_sign_in_survives_kill() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a socket")
        .local_addr()
        .expect("an address")
        .port();
    let listen = format!("--web.listen-address=127.0.0.1:{port}");
    let place = Place::at(&format!("http://127.0.0.1:{port}")).await;
    (situation("proseware").breaks)("proseware.example")
        .into_iter()
        .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
    let mut daemon = place.daemon(&[&listen]);
    daemon.until(&["mail sent", "integration=proseware"]).await;
    let link = String::from_utf8(place.command(&["reauth-link", "proseware"]).await.stdout)
        .expect("text")
        .trim()
        .to_owned();
    let mut visitor = crate::visitor::Visitor::new();
    let callback = visitor.accept(&link).await;
    daemon.kill().await;
    let mut daemon = place.daemon(&[&listen]);
    daemon.until(&["ready"]).await;
    let accepted = visitor.get(&callback).await;
    assert_eq!(accepted.status, 303);
    daemon.kill().await;
    let mut daemon = place.daemon(&[&listen]);
    daemon.until(&["integration works again", "integration=proseware"]).await;
    let page = visitor.get(&accepted.location()).await;
    assert!(page.body.contains("works again"), "{}", page.body);
    // The alert, the operators' mail about the sign-in, and that about its end.
    mails(&place, 3).await;
    assert_eq!(visitor.get(&link).await.status, 410);
    daemon.kill().await;
}
