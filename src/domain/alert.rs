//! What happens to an integration's alert, and who is notified of it, as one pure function: every branch has a row in the table of tests.
//! Grouping, reminders, rate limiting and snoozing belong here, too, with the open alert, the policy and `now` as arguments.

use std::collections::BTreeSet;

use super::fold::refines;
use super::notification::{Incident, MailKind, Notification};
use super::reason::{Audience, Reason};
use super::time::Timestamp;
use super::verdict::{Named, Verdict};

/// An alert that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    /// Stable for one episode of failure.
    pub id: String,
    /// The reason in the last notice.
    pub reason: Reason,
    /// Whether the reason was seen in the directory.
    pub exact: bool,
    /// When it was opened.
    pub since: Timestamp,
    /// Number of notices so far, which is the number of the next one.
    pub notices: u32,
    /// Addresses that were notified of it.
    pub notified: BTreeSet<String>,
}

impl OpenAlert {
    /// The reason in the last notice, and whether it was seen in the directory.
    const fn named(&self) -> Named {
        Named { reason: self.reason, exact: self.exact }
    }
}

/// What is held to be true of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether its reason was seen in the directory.
    pub exact: bool,
}

/// Who is notified of an integration's alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertPolicy<'a> {
    /// Administrators of the integration's tenant.
    pub admins: &'a [String],
    /// Whoever runs Consentry.
    pub operators: &'a [String],
    /// Whether mail is configured.
    pub mail: bool,
    /// Whether the end of an alert is mailed, too.
    pub send_resolved: bool,
}

impl<'a> AlertPolicy<'a> {
    /// Who gets the integration's own mails: its admins, or the operators if it has none. Nobody, if the audience of the reason is the
    /// operators: they are notified of the cause.
    pub fn recipients(&self, reason: Reason) -> &'a [String] {
        match reason.audience() {
            _ if !self.mail => &[],
            Audience::Operators => &[],
            Audience::Admins if self.admins.is_empty() => self.operators,
            Audience::Admins => self.admins,
        }
    }

    /// The kind of a mail about a failure. Mails to operators in place of admins have their own kind; somebody who knows of the alert
    /// already gets the change of its reason.
    fn kind(&self, person: &str, notified: &BTreeSet<String>) -> MailKind {
        match () {
            () if self.admins.is_empty() => MailKind::Operator,
            () if notified.contains(person) => MailKind::Changed,
            () => MailKind::Alert,
        }
    }
}

/// Something that happened to an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertEvent {
    /// It failed.
    Broken(Reason),
    /// It is still broken, for another reason.
    Changed(Reason),
    /// It works again; this was the reason.
    Recovered(Reason),
}

impl AlertEvent {
    /// The word in the history.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Changed(_) => "changed",
            Self::Recovered(_) => "recovered",
        }
    }

    /// The reason of the failure, which may be over.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Broken(reason) | Self::Changed(reason) | Self::Recovered(reason) => reason,
        }
    }
}

/// A mail to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// To whom.
    pub recipient: String,
    /// Its kind.
    pub kind: MailKind,
    /// Number of the notice.
    pub sequence: u32,
}

impl Mail {
    /// The whole mail.
    pub fn about(self, alert: &str, incident: &Incident) -> Notification {
        let Self { recipient, kind, sequence } = self;
        Notification { alert: alert.to_owned(), sequence, kind, recipient, incident: incident.clone() }
    }
}

/// How a verdict changes an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertChange {
    /// The alert from now on.
    pub alert: Option<OpenAlert>,
    /// What happened, and the alert that it is about.
    pub event: Option<(AlertEvent, String)>,
    /// Who is notified.
    pub mails: Vec<Mail>,
}

/// The alert that follows from a judgement. `id` makes the id of a new alert. A second decision with the same judgement changes nothing.
pub fn change_alert(
    open: Option<&OpenAlert>,
    judgement: Judgement,
    policy: AlertPolicy<'_>,
    id: impl FnOnce() -> String,
    now: Timestamp,
) -> AlertChange {
    let unchanged = |alert: Option<OpenAlert>| AlertChange { alert, event: None, mails: Vec::new() };
    let Judgement { verdict, exact } = judgement;
    match (open, verdict) {
        // An unknown verdict changes nothing: a broken network must neither alarm nor reassure.
        (open, Verdict::Unknown) => unchanged(open.cloned()),
        (None, Verdict::Healthy) => unchanged(None),
        (None, Verdict::Broken { reason, .. }) => {
            let alert =
                OpenAlert { id: id(), reason, exact, since: now, notices: 0, notified: BTreeSet::new() };
            notified(&alert, AlertEvent::Broken(reason), policy)
        }
        (Some(open), Verdict::Healthy) => resolved(open, policy),
        (Some(open), Verdict::Broken { reason, .. }) if open.reason == reason => {
            unchanged(Some(OpenAlert { exact: open.exact || exact, ..open.clone() }))
        }
        // The same reason from a better source is not a change.
        (Some(open), Verdict::Broken { reason, .. }) if refines(open.named(), Named { reason, exact }) => {
            unchanged(Some(OpenAlert { reason, exact, ..open.clone() }))
        }
        (Some(open), Verdict::Broken { reason, .. }) => {
            let alert = OpenAlert { reason, exact, ..open.clone() };
            notified(&alert, AlertEvent::Changed(reason), policy)
        }
    }
}

/// One more notice, to each recipient once.
fn notified(alert: &OpenAlert, event: AlertEvent, policy: AlertPolicy<'_>) -> AlertChange {
    let people: BTreeSet<&String> = policy.recipients(alert.reason).iter().collect();
    let mail = |person: &&String| Mail {
        recipient: (*person).clone(),
        kind: policy.kind(person, &alert.notified),
        sequence: alert.notices,
    };
    let mails = people.iter().map(mail).collect();
    let everybody = alert.notified.iter().chain(people.iter().copied()).cloned().collect();
    let after = OpenAlert { notices: alert.notices + 1, notified: everybody, ..alert.clone() };
    AlertChange { event: Some((event, after.id.clone())), alert: Some(after), mails }
}

/// Everybody who was notified of the alert is notified of its end.
fn resolved(open: &OpenAlert, policy: AlertPolicy<'_>) -> AlertChange {
    let mail = |person: &String| Mail {
        recipient: person.clone(),
        kind: MailKind::Resolved,
        sequence: open.notices,
    };
    let mails = if policy.mail && policy.send_resolved {
        open.notified.iter().map(mail).collect()
    } else {
        Vec::new()
    };
    AlertChange { alert: None, event: Some((AlertEvent::Recovered(open.reason), open.id.clone())), mails }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(100);

    fn firing(reason: Reason, exact: bool, people: &[&str]) -> OpenAlert {
        let notified = people.iter().map(|p| (*p).to_owned()).collect();
        OpenAlert { id: "a".to_owned(), reason, exact, since: Timestamp::default(), notices: 1, notified }
    }

    fn broken(reason: Reason) -> Verdict {
        Verdict::Broken { reason, since: Timestamp::default() }
    }

    #[test]
    fn every_change_is_notified_once() {
        use Reason::{AppDeleted, AppMissing, ClientCredentialExpired, TokenRevoked};
        let (admins, operators) = (["it".to_owned(), "it".to_owned(), "boss".to_owned()], ["sre".to_owned()]);
        let policy = AlertPolicy { admins: &admins, operators: &operators, mail: true, send_resolved: true };
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
                .map(|(event, _)| format!("{}: {}", event.label(), mails.join(", ")))
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
                AlertChange { event: None, mails: vec![], ..change },
                "{sentence}, decided twice"
            );
        }
    }

    #[test]
    fn an_alert_keeps_its_id_and_start() {
        let people = ["it".to_owned()];
        let policy = AlertPolicy { admins: &people, operators: &[], mail: true, send_resolved: true };
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
}
