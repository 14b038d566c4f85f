//! The outbox on real files.

use super::*;

#[tokio::test]
async fn mails_to_one_person_keep_their_order_and_are_saved_once() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let all = vec![
        notification(0, "ada@x.org"),
        notification(0, "ada@x.org"),
        notification(0, "bob@x.org"),
        notification(1, "ada@x.org"),
    ];
    store.save_probe(record(all, vec![])).await.expect("saved");
    let due = store.due_notifications(NOW, 10).await.expect("due");
    assert_eq!(
        due.iter().map(|q| (q.notification.recipient.as_str(), q.notification.sequence)).collect::<Vec<_>>(),
        [("ada@x.org", 0), ("bob@x.org", 0)]
    );
    let later = Timestamp(NOW.0 + 1000);
    store.mark_failed(&[due[0].id], failed(NOW, 1, false), Vec::new()).await.expect("marked");
    store.mark_sent(&[due[1].id], "<1@x>", NOW).await.expect("marked");
    assert_eq!(
        store.due_notifications(NOW, 10).await.expect("due"),
        vec![],
        "the second mail waits for the first"
    );
    assert_eq!(
        store.outbox(NOW).await.expect("outbox"),
        OutboxState { next: Some(later), waiting: 2, held: 0 },
        "the second is due no sooner than the first"
    );
    store.mark_sent(&[due[0].id], "<1@x>", later).await.expect("marked");
    let second = store.due_notifications(later, 10).await.expect("due");
    assert_eq!((second.len(), second[0].notification.sequence), (1, 1));
    let group =
        store.group(&second[0], later, std::time::Duration::ZERO, 20).await.expect("read").expect("a mail");
    let thread = Thread { message_id: Some("<1@x>".to_owned()), sequence: 0 };
    assert_eq!(group.shown[0].thread, Some(thread), "it refers to the mail that was sent");
    assert_eq!(store.last_mail().await.expect("last"), Some(later));
    let notified = store.load(NOW).await.expect("loaded").0[0].alert.clone().expect("open").notified;
    assert_eq!(notified.into_iter().collect::<Vec<_>>(), ["ada@x.org", "bob@x.org"]);
    assert_eq!(
        store.prune_notifications(Timestamp(i64::MAX)).await.expect("pruned"),
        0,
        "the alert is still open"
    );
}

fn failed(at: Timestamp, seconds: u64, rejected: bool) -> FailedAttempt {
    let problem = "550 5.1.1 No such user".to_owned();
    FailedAttempt { at, pause: std::time::Duration::from_secs(seconds), rejected, answered: false, problem }
}

/// The result of an attempt is saved, and whether a mail may have been delivered.
#[tokio::test]
async fn attempts_are_remembered() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store.save_probe(record(vec![notification(0, "ada@x.org")], vec![])).await.expect("saved");
    let hour = std::time::Duration::from_secs(3600);
    let at = |hours: i64| Timestamp(NOW.0 + hours * 3_600_000);
    let queued = async |now| {
        store
            .due_notifications(now, 10)
            .await
            .expect("due")
            .first()
            .map(|q| (q.id, q.unanswered, q.rejections))
    };
    let Some((id, 0, 0)) = queued(NOW).await else { panic!("a new mail") };
    store.mark_handed_over(&[id], "<1@x>", NOW, hour).await.expect("marked");
    assert_eq!(
        (queued(NOW).await, queued(at(1)).await),
        (None, Some((id, 1, 0))),
        "nothing is sent twice within the hour"
    );
    store.mark_handed_over(&[id], "<1@x>", at(1), hour).await.expect("marked");
    let rejected = FailedAttempt { answered: true, ..failed(at(1), 60, true) };
    store.mark_failed(&[id], rejected, vec![notification(0, "operators@x.org")]).await.expect("marked");
    assert_eq!(queued(at(2)).await, Some((id, 1, 1)), "a response counts as a response");
    let due = store.due_notifications(at(2), 10).await.expect("due");
    assert_eq!(
        (due.len(), due[0].first_rejection),
        (2, Some(at(1))),
        "the operators' mail was saved with it"
    );
    store.mark_failed(&[id], failed(at(2), 60, true), Vec::new()).await.expect("marked");
    assert_eq!(
        store.due_notifications(at(3), 10).await.expect("due")[0].first_rejection,
        Some(at(1)),
        "the time of the first rejection is kept"
    );
    assert_eq!(
        store.mails_about("acme").await.expect("mails")[1].problem.as_deref(),
        Some("550 5.1.1 No such user")
    );
    assert_eq!(
        store.other_mails("ada@x.org", NOW).await.expect("others"),
        OtherMails { taken: false, failing: false }
    );
    assert_eq!(
        store.other_mails("operators@x.org", NOW).await.expect("others"),
        OtherMails { taken: false, failing: true }
    );
    store.mark_sent(&[due[1].id], "<1@x>", at(2)).await.expect("marked");
    assert_eq!(
        store.other_mails("ada@x.org", at(2)).await.expect("others"),
        OtherMails { taken: true, failing: false }
    );
    assert_eq!(
        store.other_mails("ada@x.org", at(3)).await.expect("others"),
        OtherMails { taken: false, failing: false }
    );
}

/// A wall clock that was ahead for a while leaves no mail that is due in ten years.
#[tokio::test]
async fn times_of_a_clock_that_was_ahead_are_corrected() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let ahead = Timestamp(NOW.0 + 10 * 365 * 86_400_000);
    let mut early = record(vec![notification(0, "ada@x.org"), notification(0, "bob@x.org")], vec![]);
    early.at = ahead;
    store.save_probe(early).await.expect("saved");
    let due = store.due_notifications(ahead, 10).await.expect("due");
    store.mark_failed(&[due[0].id], failed(ahead, 300, true), Vec::new()).await.expect("marked");
    assert_eq!(store.due_notifications(NOW, 10).await.expect("due"), vec![], "the clock is right again");
    assert!(store.heal_mail_times(NOW).await.expect("corrected") > 0);
    let recipients = async |now| {
        let due = store.due_notifications(now, 10).await.expect("due");
        due.into_iter().map(|q| q.notification.recipient).collect::<Vec<_>>()
    };
    assert_eq!(recipients(NOW).await, ["bob@x.org"], "one that was not tried yet is due at once");
    assert_eq!(
        recipients(Timestamp(NOW.0 + 300_000)).await,
        ["ada@x.org", "bob@x.org"],
        "one that was, after its pause"
    );
    assert_eq!(store.mails_about("acme").await.expect("mails")[0].created, NOW);
    assert_eq!(store.heal_mail_times(NOW).await.expect("corrected"), 0, "once");
}

/// Unsent mails wait while their integration is missing from the configuration, or has another identity.
#[tokio::test]
async fn mails_wait_for_their_integration() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store
        .save_probe(record(
            vec![notification(0, "ada@example.com"), notification(0, "bob@example.com")],
            Vec::new(),
        ))
        .await
        .expect("saved");
    let due = async || store.due_notifications(NOW, 10).await.expect("mails");
    let sent = due().await[0].id;
    store.mark_sent(&[sent], "<1@x>", NOW).await.expect("marked");
    let keep = async |names: &[(&str, &str)]| {
        let names =
            names.iter().map(|(name, identity)| ((*name).to_owned(), (*identity).to_owned())).collect();
        store.keep_only(names).await.expect("kept");
    };
    for (names, waiting) in [
        (&[("acme", "t/c")][..], 1),
        (&[("other", "t/c")], 0),
        (&[("acme", "u/c")], 0),
        (&[("acme", "u/c"), ("new", "t/c")], 0),
        (&[("acme", "t/c")], 1),
    ] {
        keep(names).await;
        let now = due().await;
        assert_eq!(
            (now.len(), store.outbox(NOW).await.expect("an outbox").waiting),
            (waiting, waiting as i64),
            "{names:?}"
        );
        assert!(
            now.iter().all(|m| m.notification.recipient == "bob@example.com"),
            "the one that was sent is not sent again"
        );
    }
    let silent = record(Vec::new(), Vec::new());
    let alert = open_alert("a9", NOW);
    let integration = SavedIntegration { alert: Some(alert), ..silent.integration.clone() };
    store.save_probe(ProbeRecord { integration, ..silent }).await.expect("saved");
    let saved = store.load(NOW).await.expect("loaded").0;
    assert!(saved[0].alert.as_ref().expect("open").notified.is_empty(), "an alert without a mail");
}

/// The page of an integration must not read the mails of all others.
#[test]
fn mails_about_an_integration_are_found_by_an_index() {
    let folder = folder();
    drop(open(&folder).expect("a database"));
    let connection = rusqlite::Connection::open(folder.path().join("c.db")).expect("opened");
    let plan: String = connection
        .query_row(&format!("EXPLAIN QUERY PLAN {}", notifications::ABOUT), ["acme"], |row| row.get(3))
        .expect("a plan");
    assert!(plan.contains("USING INDEX notifications_about"), "{plan}");
}

#[tokio::test]
async fn a_mail_that_was_handled_since_is_not_as_it_was_read() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store
        .save_probe(record(vec![notification(0, "ada@x.org"), notification(0, "bob@x.org")], vec![]))
        .await
        .expect("saved");
    let due = store.due_notifications(NOW, 10).await.expect("due");
    let waits = async |queued: &Queued| {
        store.group(queued, NOW, std::time::Duration::ZERO, 20).await.expect("read").is_some()
    };
    assert!(waits(&due[0]).await && waits(&due[1]).await);
    store.mark_failed(&[due[0].id], failed(NOW, 1, false), Vec::new()).await.expect("marked");
    store.mark_sent(&[due[1].id], "<1@x>", NOW).await.expect("marked");
    assert!(!waits(&due[0]).await && !waits(&due[1]).await);
}

/// The last mail that a person reads about an integration is up to date.
#[tokio::test]
async fn a_new_alert_waits_for_mails_of_the_last_one() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let second = Notification { alert: "a2".to_owned(), ..notification(0, "ada@x.org") };
    store.save_probe(record(vec![notification(0, "ada@x.org"), second], vec![])).await.expect("saved");
    let due = store.due_notifications(NOW, 10).await.expect("due");
    assert_eq!(due.iter().map(|q| q.notification.alert.as_str()).collect::<Vec<_>>(), ["a1"]);
    store.mark_failed(&[due[0].id], failed(NOW, 3600, false), Vec::new()).await.expect("marked");
    assert_eq!(store.due_notifications(NOW, 10).await.expect("due"), vec![]);
    assert_eq!(store.outbox(NOW).await.expect("outbox").next, Some(Timestamp(NOW.0 + 3_600_000)));
}

#[tokio::test]
async fn a_mail_saved_a_moment_later_does_not_count_as_a_set_clock() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let mut later = record(vec![notification(0, "ada@x.org")], vec![]);
    later.at = Timestamp(NOW.0 + 200);
    store.save_probe(later).await.expect("saved");
    assert_eq!(store.heal_mail_times(NOW).await.expect("corrected"), 0);
}
