//! What a decision adds to the outbox and takes out of it, and which notices go out in one mail.

use super::*;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1000)
}

fn notice(name: &str, kind: MailKind, sequence: u32, recipient: &str) -> Notification {
    let incident = Incident { integration: name.to_owned(), ..incident() };
    let alert = format!("alert-{name}");
    Notification { alert, kind, incident, ..notification(sequence, recipient) }
}

/// What a probe of this integration decided at this time.
fn decided(name: &str, outdates: bool, notifications: Vec<Notification>, at: Timestamp) -> ProbeRecord {
    let record = record(notifications, Vec::new());
    let alert = open_alert(&format!("alert-{name}"), NOW);
    let integration =
        SavedIntegration { name: name.to_owned(), alert: Some(alert), ..record.integration.clone() };
    let outdated = outdates.then(|| format!("alert-{name}"));
    ProbeRecord { integration, outdated, group_wait: WAIT, at, ..record }
}

/// The waiting notices: kind, recipient, and the restorable time of the story, which tells stories apart.
async fn waiting(store: &Store, now: Timestamp) -> Vec<String> {
    let due = store.due_notifications(now, 100).await.expect("due");
    due.into_iter().map(|q| format!("{} {}", q.notification.kind.label(), q.notification.recipient)).collect()
}

async fn mail(store: &Store, now: Timestamp) -> Group {
    let due = store.due_notifications(now, 100).await.expect("due");
    store.group(&due[0], now, WAIT, 20).await.expect("read").expect("a mail")
}

#[tokio::test]
async fn what_ends_before_it_goes_out_is_not_mentioned() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let both = vec![notice("acme", MailKind::Alert, 0, "ada"), notice("acme", MailKind::Alert, 0, "bob")];
    store.save_probe(decided("acme", false, both, at(0))).await.expect("saved");
    assert_eq!(waiting(&store, at(29)).await, [""; 0], "they wait for others");
    let over =
        vec![notice("acme", MailKind::Resolved, 1, "ada"), notice("acme", MailKind::Resolved, 1, "bob")];
    store.save_probe(decided("acme", true, over, at(29))).await.expect("saved");
    assert_eq!(waiting(&store, at(3600)).await, [""; 0]);
    assert_eq!(store.outbox(NOW).await.expect("outbox"), OutboxState { next: None, waiting: 0, held: 0 });
}

#[tokio::test]
async fn the_end_is_mentioned_to_those_who_learnt_of_the_beginning() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let first = vec![notice("acme", MailKind::Alert, 0, "ada")];
    store.save_probe(decided("acme", false, first, at(0))).await.expect("saved");
    let ids = mail(&store, at(30)).await.ids;
    store.mark_sent(&ids, "<1@x>", at(30)).await.expect("marked");
    let second = vec![notice("acme", MailKind::Alert, 1, "bob")];
    store.save_probe(decided("acme", false, second, at(40))).await.expect("saved");
    let over = ["ada", "bob", "eve"].map(|person| notice("acme", MailKind::Resolved, 2, person));
    store.save_probe(decided("acme", true, over.into(), at(50))).await.expect("saved");
    // Eve was not notified before: the setting has changed, and she stands in now.
    assert_eq!(waiting(&store, at(80)).await, ["resolved ada", "resolved eve"]);
}

#[tokio::test]
async fn another_reason_replaces_what_has_not_gone_out() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let first = ["ada", "bob"].map(|person| notice("acme", MailKind::Alert, 0, person));
    store.save_probe(decided("acme", false, first.into(), at(0))).await.expect("saved");
    let mut changed = notice("acme", MailKind::Changed, 1, "ada");
    changed.incident.reason = Reason::AppDeleted;
    store.save_probe(decided("acme", true, vec![changed], at(10))).await.expect("saved");
    let mails = store.due_notifications(at(30), 10).await.expect("due");
    let told: Vec<_> = mails
        .iter()
        .map(|q| (q.notification.kind, &*q.notification.recipient, q.notification.incident.reason))
        .collect();
    assert_eq!(told, [(MailKind::Alert, "ada", Reason::AppDeleted)], "bob is not to be notified any more");
    let later = vec![notice("acme", MailKind::Changed, 2, "bob")];
    store.save_probe(decided("acme", true, later, at(20))).await.expect("saved");
    assert_eq!(waiting(&store, at(60)).await, ["alert bob"], "ada is not any more; for bob it is the first");
}

#[tokio::test]
async fn a_reminder_does_not_follow_a_mail_that_still_waits() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let first = vec![notice("acme", MailKind::Alert, 0, "ada")];
    store.save_probe(decided("acme", false, first, at(0))).await.expect("saved");
    let failure = FailedAttempt {
        at: at(30),
        pause: Duration::from_secs(300),
        rejected: false,
        answered: false,
        problem: String::new(),
    };
    store.mark_failed(&mail(&store, at(30)).await.ids, failure, Vec::new()).await.expect("marked");
    let reminder = || vec![notice("acme", MailKind::Reminder, 1, "ada")];
    store.save_probe(decided("acme", false, reminder(), at(60))).await.expect("saved");
    assert_eq!(store.outbox(at(100)).await.expect("outbox").waiting, 1);
    store.mark_sent(&mail(&store, at(330)).await.ids, "<1@x>", at(330)).await.expect("marked");
    store.save_probe(decided("acme", false, reminder(), at(400))).await.expect("saved");
    assert_eq!(waiting(&store, at(430)).await, ["reminder ada"]);
}

#[tokio::test]
async fn notices_to_one_person_about_one_app_share_a_mail() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let other_app = |mut notice: Notification| {
        "gate".clone_into(&mut notice.incident.app_name);
        notice
    };
    // A resolved mail goes to whoever was notified before.
    let earlier = vec![notice("b", MailKind::Alert, 7, "ada")];
    store.save_probe(decided("b", false, earlier, at(-600))).await.expect("saved");
    store.mark_sent(&mail(&store, at(-500)).await.ids, "<0@x>", at(-500)).await.expect("marked");
    for (second, (name, notices)) in [
        ("a", vec![notice("a", MailKind::Alert, 0, "ada"), notice("a", MailKind::Alert, 0, "bob")]),
        ("b", vec![notice("b", MailKind::Resolved, 0, "ada")]),
        ("c", vec![other_app(notice("c", MailKind::Alert, 0, "ada"))]),
        ("d", vec![Notification { for_admin: false, ..notice("d", MailKind::Operator, 0, "ada") }]),
        ("e", vec![notice("e", MailKind::Alert, 0, "ada"), notice("e", MailKind::Changed, 1, "ada")]),
    ]
    .into_iter()
    .enumerate()
    {
        let second = i64::try_from(second).expect("a second");
        store.save_probe(decided(name, false, notices, at(second))).await.expect("saved");
    }
    let group = mail(&store, at(30)).await;
    let names: Vec<&str> = group.integrations.iter().map(String::as_str).collect();
    assert_eq!(names, ["a", "e", "b"], "alerts first; another app and the operators' own are separate");
    assert_eq!(group.kinds, [(MailKind::Alert, 2), (MailKind::Resolved, 1)]);
    assert_eq!(group.shown[2].thread.as_ref().and_then(|t| t.message_id.as_deref()), Some("<0@x>"));
    let shown = store.group(&group.first, at(30), WAIT, 1).await.expect("read").expect("a mail");
    assert_eq!((shown.shown.len(), shown.ids.len()), (1, 3), "all go out, however few are shown");
}

/// A mail that may have arrived is the same when it is sent again; one that certainly has not may take others with it.
#[tokio::test]
async fn a_mail_that_was_handed_over_stays_as_it_is() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let alert = |name| vec![notice(name, MailKind::Alert, 0, "ada")];
    store.save_probe(decided("a", false, alert("a"), at(0))).await.expect("saved");
    store.save_probe(decided("b", false, alert("b"), at(1))).await.expect("saved");
    let both = mail(&store, at(30)).await.ids;
    assert_eq!(both.len(), 2);
    let over = decided("b", true, Vec::new(), at(30));
    store.save_probe(over).await.expect("saved");
    let hour = Duration::from_secs(3600);
    assert!(
        !store.mark_handed_over(&both, "<1@x>", at(30), hour).await.expect("refused"),
        "one of them is outdated since"
    );
    store.save_probe(decided("c", false, alert("c"), at(31))).await.expect("saved");
    let ids = mail(&store, at(31)).await.ids;
    assert!(store.mark_handed_over(&ids, "<1@x>", at(31), hour).await.expect("marked"));
    store.save_probe(decided("d", false, alert("d"), at(40))).await.expect("saved");
    let again = mail(&store, at(3700)).await;
    assert_eq!((again.ids, again.first.message_id.as_deref()), (ids.clone(), Some("<1@x>")));
    let failure = FailedAttempt {
        at: at(3700),
        pause: Duration::from_secs(5),
        rejected: false,
        answered: true,
        problem: "451".to_owned(),
    };
    store.mark_failed(&ids, failure, Vec::new()).await.expect("marked");
    let next = mail(&store, at(3710)).await;
    assert_eq!(
        (next.ids.len(), next.first.message_id),
        (3, None),
        "the server has answered that it has it not"
    );
}

/// The id of a dropped notice is never that of another, which would be taken for sent with the mail of the dropped one.
#[tokio::test]
async fn a_dropped_notice_leaves_its_id_unused() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let alert = |name, person| vec![notice(name, MailKind::Alert, 0, person)];
    store.save_probe(decided("a", false, alert("a", "ada"), at(0))).await.expect("saved");
    let prepared = mail(&store, at(30)).await.ids;
    store.save_probe(decided("a", true, Vec::new(), at(10))).await.expect("saved");
    store.save_probe(decided("b", false, alert("b", "bob"), at(11))).await.expect("saved");
    let noted = store.mark_handed_over(&prepared, "<1@x>", at(30), WAIT).await.expect("read");
    assert!(!noted, "what was prepared is outdated");
    assert_eq!(waiting(&store, at(60)).await, ["alert bob"]);
}

/// A mail that was prepared with the earlier text is not sent.
#[tokio::test]
async fn a_replaced_notice_is_another_one() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let alert = |name| vec![notice(name, MailKind::Alert, 0, "ada")];
    store.save_probe(decided("a", false, alert("a"), at(0))).await.expect("saved");
    store.save_probe(decided("b", false, alert("b"), at(20))).await.expect("saved");
    let prepared = mail(&store, at(30)).await.ids;
    assert_eq!(prepared.len(), 2, "the second is not due yet");
    let mut changed = notice("b", MailKind::Changed, 1, "ada");
    changed.incident.reason = Reason::AppDeleted;
    store.save_probe(decided("b", true, vec![changed], at(31))).await.expect("saved");
    assert!(!store.mark_handed_over(&prepared, "<1@x>", at(32), WAIT).await.expect("read"));
    let again = mail(&store, at(32)).await;
    let told: Vec<_> = again
        .shown
        .iter()
        .map(|shown| (shown.notification.kind, shown.notification.incident.reason))
        .collect();
    assert_eq!(told, [(MailKind::Alert, Reason::TokenRevoked), (MailKind::Alert, Reason::AppDeleted)]);
}

/// The brake's discard keeps the end of what somebody has learnt of.
#[tokio::test]
async fn a_discard_keeps_the_end_of_what_was_sent() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store
        .save_probe(decided("a", false, vec![notice("a", MailKind::Alert, 0, "ada")], at(0)))
        .await
        .expect("saved");
    store.mark_sent(&mail(&store, at(30)).await.ids, "<1@x>", at(30)).await.expect("marked");
    let hold = crate::domain::Hold {
        id: "h".to_owned(),
        since: at(40),
        until: at(4000),
        broken: 2,
        integrations: 2,
    };
    let braking = ProbeRecord {
        brake: Some(BrakeChange::Holds(hold)),
        ..decided("b", false, vec![notice("b", MailKind::Alert, 0, "bob")], at(40))
    };
    store.save_probe(braking).await.expect("saved");
    let over = vec![notice("a", MailKind::Resolved, 1, "ada")];
    store.save_probe(decided("a", true, over, at(50))).await.expect("saved");
    assert_eq!(store.outbox(at(100)).await.expect("outbox").held, 2);
    let action = crate::domain::BrakeAction::Discard;
    let acted = store.act_on_brake("h", action, WAIT, "a test".to_owned(), at(100)).await.expect("saved");
    assert_eq!(acted, Some((1, at(100))));
    assert_eq!(waiting(&store, at(100)).await, ["resolved ada"]);
    assert_eq!(
        store.act_on_brake("h", action, WAIT, String::new(), at(101)).await.expect("read"),
        None,
        "over"
    );
}
