//! When an alert is notified, to whom, how often; and what holds in every history.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(100);

const POLICY: AlertPolicy<'static> = AlertPolicy {
    notify: Notify::Admins,
    admins: &[],
    operators: &[],
    mail: true,
    send_resolved: true,
    reminders: &[],
    snoozed_until: None,
    held: None,
};

fn firing(reason: Reason, exact: bool, people: &[&str]) -> OpenAlert {
    let notified = people.iter().map(|p| (*p).to_owned()).collect();
    let since = Timestamp::default();
    let progress = AlertProgress { notify: Notify::Admins, noticed: since, reminders: 0 };
    OpenAlert { id: "a".to_owned(), reason, exact, since, notices: 1, notified, progress }
}

fn broken(reason: Reason) -> Verdict {
    Verdict::Broken { reason, since: Timestamp::default() }
}

#[test]
fn every_change_is_notified_once() {
    use Reason::{AppDeleted, AppMissing, ClientCredentialExpired, TokenRevoked};
    let (admins, operators) = (["it".to_owned(), "it".to_owned(), "boss".to_owned()], ["sre".to_owned()]);
    let policy = AlertPolicy { admins: &admins, operators: &operators, ..POLICY };
    let nobody = AlertPolicy { admins: &[], ..policy };
    let silent = AlertPolicy { send_resolved: false, ..policy };
    let off = AlertPolicy { mail: false, ..policy };
    let open = |reason| Some(firing(reason, false, &["it"]));
    for (sentence, alert, verdict, exact, policy, expected) in [
        (
            "a failure is notified, to each person once",
            None,
            broken(TokenRevoked),
            false,
            policy,
            "broken: alert 0 to boss, alert 0 to it",
        ),
        (
            "without admins the operators are notified",
            None,
            broken(TokenRevoked),
            false,
            nobody,
            "broken: operator 0 to sre",
        ),
        (
            "operators are notified of the cause instead",
            None,
            broken(ClientCredentialExpired),
            false,
            policy,
            "broken:",
        ),
        ("without mail nobody is notified", None, broken(TokenRevoked), false, off, "broken:"),
        ("the same failure is not", open(TokenRevoked), broken(TokenRevoked), false, policy, ""),
        (
            "another reason is notified; to a new recipient, it is the first notice",
            open(TokenRevoked),
            broken(AppMissing),
            false,
            policy,
            "changed: alert 1 to boss, changed 1 to it",
        ),
        (
            "recovery is notified to whoever was notified before",
            open(TokenRevoked),
            Verdict::Healthy,
            false,
            policy,
            "recovered: resolved 1 to it",
        ),
        (
            "no mail about recovery if it is switched off",
            open(TokenRevoked),
            Verdict::Healthy,
            false,
            silent,
            "recovered:",
        ),
        ("health is not notified", None, Verdict::Healthy, false, policy, ""),
        ("an unknown verdict is not notified", open(TokenRevoked), Verdict::Unknown, false, policy, ""),
        ("a more exact reason is not", open(AppMissing), broken(AppDeleted), true, policy, ""),
        ("the same from the directory is not", open(AppDeleted), broken(AppDeleted), true, policy, ""),
        (
            "found among the deleted items later is not notified",
            Some(firing(AppMissing, true, &["it"])),
            broken(AppDeleted),
            true,
            policy,
            "",
        ),
        (
            "another reason from the directory is notified",
            Some(firing(AppDeleted, true, &["it"])),
            broken(AppMissing),
            true,
            policy,
            "changed: alert 1 to boss, changed 1 to it",
        ),
    ] {
        let change =
            change_alert(alert.as_ref(), Judgement { verdict, exact }, policy, || "new".to_owned(), NOW);
        let mails: Vec<String> = change
            .mails
            .iter()
            .map(|m| format!("{} {} to {}", m.kind.label(), m.sequence, m.recipient))
            .collect();
        let actual = change
            .event
            .as_ref()
            .map(|event| format!("{}: {}", event.label(), mails.join(", ")))
            .unwrap_or_default();
        assert_eq!(actual.trim_end(), expected, "{sentence}");
        let again = change_alert(
            change.alert.as_ref(),
            Judgement { verdict, exact },
            policy,
            || "another".to_owned(),
            NOW,
        );
        assert_eq!(
            again,
            AlertChange { event: None, mails: vec![], reminds: false, ..change },
            "{sentence}, decided twice"
        );
    }
}

#[test]
fn an_alert_keeps_its_id_and_start() {
    let people = ["it".to_owned()];
    let policy = AlertPolicy { admins: &people, ..POLICY };
    let opened = change_alert(
        None,
        Judgement { verdict: broken(Reason::AppMissing), exact: false },
        policy,
        || "new".to_owned(),
        NOW,
    )
    .alert
    .expect("open");
    let later = NOW.plus(std::time::Duration::from_secs(60));
    let refined = change_alert(
        Some(&opened),
        Judgement { verdict: broken(Reason::AppDeleted), exact: true },
        policy,
        String::new,
        later,
    )
    .alert
    .expect("open");
    assert_eq!(
        (refined.id.as_str(), refined.since, refined.notices, refined.reason),
        ("new", NOW, 1, Reason::AppDeleted)
    );
    assert!(refined.exact && refined.notified.contains("it"));
}

const HOUR: Duration = Duration::from_secs(3600);

fn hours(hours: u64) -> Timestamp {
    NOW.plus(HOUR * u32::try_from(hours).expect("few"))
}

fn texts(change: &AlertChange) -> String {
    let mail = |m: &Mail| format!("{} {} to {}", m.kind.label(), m.sequence, m.recipient);
    change.mails.iter().map(mail).collect::<Vec<_>>().join(", ")
}

/// One alert through its life: at each hour a setting, whether the integration is broken, and the mails that follow.
#[test]
fn reminders_and_settings_through_the_life_of_an_alert() {
    use Notify::{Admins, Nobody, Operators};
    let (admins, operators, nobody) = (["it".to_owned()], ["sre".to_owned()], []);
    let pauses = [HOUR, HOUR, 3 * HOUR];
    let policy = AlertPolicy { admins: &admins, operators: &operators, reminders: &pauses, ..POLICY };
    let without_admins = AlertPolicy { admins: &nobody, ..policy };
    let shorter = AlertPolicy { reminders: &pauses[..1], ..policy };
    let with = |notify| AlertPolicy { notify, ..policy };
    let held = |until| {
        let period = HeldPeriod { from: hours(0), until: hours(until) };
        AlertPolicy { held: Some(period), ..policy }
    };
    let snoozed = |until| AlertPolicy { snoozed_until: Some(hours(until)), ..policy };
    for (sentence, history) in [
        (
            "reminders keep their pauses, then there is silence",
            vec![
                (0, policy, true, "alert 0 to it"),
                (0, policy, true, ""),
                (1, policy, true, "reminder 1 to it"),
                (1, policy, true, ""),
                (2, policy, true, "reminder 2 to it"),
                (4, policy, true, ""),
                (5, policy, true, "reminder 3 to it"),
                (500, policy, true, ""),
                (501, policy, false, "resolved 4 to it"),
                (502, policy, true, "alert 0 to it"),
                (503, policy, true, "reminder 1 to it"),
            ],
        ),
        (
            "after a long silence of the daemon one reminder goes out, and its pause begins",
            vec![
                (0, policy, true, "alert 0 to it"),
                (90, policy, true, "reminder 1 to it"),
                (90, policy, true, ""),
            ],
        ),
        (
            "a shorter list takes effect at once",
            vec![
                (0, policy, true, "alert 0 to it"),
                (1, policy, true, "reminder 1 to it"),
                (9, shorter, true, ""),
                (9, policy, true, "reminder 2 to it"),
            ],
        ),
        (
            "a snooze leaves reminders out; a reminder is not made up for, and the end is mailed",
            vec![
                (0, policy, true, "alert 0 to it"),
                (2, snoozed(5), true, ""),
                (4, snoozed(5), true, ""),
                (5, snoozed(5), true, "reminder 1 to it"),
                (5, snoozed(9), false, "resolved 2 to it"),
            ],
        ),
        (
            "a notice that was held went out with the end of the hold, from which the pause counts",
            vec![
                (0, held(1), true, "alert 0 to it"),
                (1, held(1), true, ""),
                (2, held(2), true, ""),
                (2, held(2), true, ""),
                (3, held(2), true, "reminder 1 to it"),
            ],
        ),
        (
            "operators in the place of admins get the same kinds of mail",
            vec![
                (0, with(Operators), true, "alert 0 to sre"),
                (1, with(Operators), true, "reminder 1 to sre"),
                (1, with(Operators), false, "resolved 2 to sre"),
            ],
        ),
        (
            "admins are notified of what is still broken when the setting changes to them, once",
            vec![
                (0, with(Operators), true, "alert 0 to sre"),
                (0, with(Admins), true, "alert 1 to it"),
                (0, with(Admins), true, ""),
                (0, with(Operators), true, ""),
                (0, with(Admins), true, ""),
                (1, with(Admins), true, "reminder 2 to it"),
                (1, with(Admins), false, "resolved 3 to it"),
            ],
        ),
        (
            "nobody is notified of anything, and everything is caught up with afterwards",
            vec![
                (0, with(Nobody), true, ""),
                (2, with(Nobody), true, ""),
                (2, with(Admins), true, "alert 1 to it"),
                (3, with(Nobody), true, ""),
                (3, with(Nobody), false, ""),
            ],
        ),
        (
            "operators without admins are reminded as operators",
            vec![
                (0, without_admins, true, "operator 0 to sre"),
                (1, without_admins, true, "operator 1 to sre"),
                (1, without_admins, false, "resolved 2 to sre"),
            ],
        ),
        (
            "operators who have had the mail need no second one when there are no admins",
            vec![
                (0, AlertPolicy { notify: Operators, ..without_admins }, true, "operator 0 to sre"),
                (0, without_admins, true, ""),
            ],
        ),
    ] {
        let mut alert = None;
        for (hour, policy, is_broken, expected) in history {
            let verdict = if is_broken { broken(Reason::TokenRevoked) } else { Verdict::Healthy };
            let judgement = Judgement { verdict, exact: false };
            let change = change_alert(alert.as_ref(), judgement, policy, || "a".to_owned(), hours(hour));
            assert_eq!(texts(&change), expected, "{sentence}, at hour {hour}");
            alert = change.alert;
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    minutes: u32,
    verdict: u8,
    notify: Notify,
}

fn step() -> impl Strategy<Value = Step> {
    let setting = prop::sample::select(Notify::ALL.to_vec());
    (0_u32..600, 0_u8..4, setting).prop_map(|(minutes, verdict, notify)| Step { minutes, verdict, notify })
}

proptest! {
    /// Weeks of random verdicts and settings.
    #[test]
    fn what_holds_in_every_history(steps in prop::collection::vec(step(), 1..200)) {
        let (admins, operators) = (["it".to_owned()], ["sre".to_owned()]);
        let pauses = [HOUR, 2 * HOUR, 4 * HOUR];
        let (mut alert, mut now): (Option<OpenAlert>, _) = (None, NOW);
        // The first notice of this alert to the admin, the last notice to anybody, and the reminders since.
        let (mut admin_knows, mut last, mut reminders) = (false, NOW, 0_usize);
        for step in steps {
            now = now.plus(Duration::from_secs(60) * step.minutes);
            let verdict = match step.verdict {
                0 => Verdict::Healthy,
                1 => Verdict::Unknown,
                2 => broken(Reason::TokenRevoked),
                _ => broken(Reason::AppMissing),
            };
            let policy = AlertPolicy {
                notify: step.notify, admins: &admins, operators: &operators, reminders: &pauses, ..POLICY
            };
            let judgement = Judgement { verdict, exact: false };
            let change = change_alert(alert.as_ref(), judgement, policy, || "a".to_owned(), now);
            if alert.is_none() && change.alert.is_some() {
                (admin_knows, reminders) = (false, 0);
            }
            for mail in &change.mails {
                prop_assert_ne!(step.notify, Notify::Nobody, "nobody is notified");
                if step.notify == Notify::Operators {
                    prop_assert_eq!(&mail.recipient, "sre", "the operators, in place of the admin");
                }
                match mail.kind {
                    MailKind::Alert if mail.recipient == "it" => {
                        prop_assert!(!admin_knows, "no second alert without a recovery between");
                        admin_knows = true;
                    }
                    MailKind::Reminder => {
                        prop_assert!(reminders < pauses.len(), "no reminder after the last pause");
                        prop_assert!(now.since(last) >= pauses[reminders], "no reminder is early");
                    }
                    _ => {}
                }
            }
            if !change.mails.is_empty() {
                last = now;
                reminders += usize::from(change.reminds);
            }
            let again = change_alert(change.alert.as_ref(), judgement, policy, || "b".to_owned(), now);
            prop_assert!(again.mails.is_empty() && again.event.is_none(), "deciding twice changes nothing");
            alert = change.alert;
        }
    }
}
