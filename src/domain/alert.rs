//! What happens to an integration's alert, and who is notified of it, as one pure function: every branch has a row in the table of tests.
//! Grouping, reminders, rate limiting and snoozing belong here, too, with the open alert, the policy and `now` as arguments.

use std::collections::BTreeSet;
use std::time::Duration;

use super::brake::HeldPeriod;
use super::fold::refines;
use super::notification::{Incident, MailKind, Notification};
use super::reason::{Audience, Reason};
use super::time::Timestamp;
use super::verdict::{IntegrationState, Named, Verdict};

/// An alert that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    /// Stable for one episode of failure.
    pub id: String,
    /// The reason of the last notice.
    pub reason: Reason,
    /// The directory said so.
    pub exact: bool,
    /// When it was opened.
    pub since: Timestamp,
    /// Notices so far: the next one has this number.
    pub notices: u32,
    /// Who was notified of it.
    pub notified: BTreeSet<String>,
    /// The last notice, and what has followed it.
    pub progress: AlertProgress,
}

/// Nobody is reminded of an alert for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snooze {
    /// The alert.
    pub alert: String,
    /// Until when.
    pub until: Timestamp,
}

/// What decides when an open alert is notified again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertProgress {
    /// The setting under which the last notice went out.
    pub notify: Notify,
    /// When it was decided.
    pub noticed: Timestamp,
    /// Reminders so far.
    pub reminders: u32,
}

impl OpenAlert {
    /// Whether a time that it remembers lies after `now`: it was noted while the wall clock was ahead.
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.since > now || self.progress.noticed > now
    }

    /// Moves remembered times that lie after `now` to `now`.
    pub fn cap(&mut self, now: Timestamp) {
        self.since = self.since.min(now);
        self.progress.noticed = self.progress.noticed.min(now);
    }

    /// What the last notice called the failure, and how good its source was.
    const fn named(&self) -> Named {
        Named { reason: self.reason, exact: self.exact }
    }
}

/// Who gets the mails that are meant for administrators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notify {
    /// The administrators; without any, the operators.
    #[default]
    Admins,
    /// The operators, in place of the administrators.
    Operators,
    /// Nobody.
    Nobody,
}

impl Notify {
    /// Every setting.
    pub const ALL: [Self; 3] = [Self::Admins, Self::Operators, Self::Nobody];

    /// The word in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admins => "admins",
            Self::Operators => "operators",
            Self::Nobody => "nobody",
        }
    }

    /// The setting with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|n| n.label() == label)
    }
}

/// What is held to be true of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Its reason was seen in the directory.
    pub exact: bool,
}

impl Judgement {
    /// A failure is over when what had failed works again, even if another check is unknown: [`super::fold()`] has decided that.
    pub fn of(state: &IntegrationState) -> Self {
        let verdict = match state.verdict {
            Verdict::Unknown if state.works_as_far_as_known() => Verdict::Healthy,
            verdict => verdict,
        };
        Self { verdict, exact: state.exact }
    }
}

/// Who is notified of an integration's alerts, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertPolicy<'a> {
    /// Who gets the mails for administrators.
    pub notify: Notify,
    /// The administrators of its tenant.
    pub admins: &'a [String],
    /// Whoever runs Consentry.
    pub operators: &'a [String],
    /// Mail is configured at all.
    pub mail: bool,
    /// The end of an alert is a mail, too.
    pub send_resolved: bool,
    /// Pauses between the notices of a failure that lasts.
    pub reminders: &'a [Duration],
    /// Until when reminders are snoozed.
    pub snoozed_until: Option<Timestamp>,
    /// When notices were held: reminders count from the time at which the last notice went out.
    pub held: Option<HeldPeriod>,
}

impl<'a> AlertPolicy<'a> {
    /// Who gets the integration's own mails. Nobody, where the reason is that of a cause, of which the operators are notified as one thing.
    pub fn recipients(&self, reason: Reason) -> &'a [String] {
        match (reason.audience(), self.notify) {
            _ if !self.mail => &[],
            (Audience::Operators, _) | (_, Notify::Nobody) => &[],
            (Audience::Admins, Notify::Operators) => self.operators,
            (Audience::Admins, Notify::Admins) if self.admins.is_empty() => self.operators,
            (Audience::Admins, Notify::Admins) => self.admins,
        }
    }

    /// The administrators in whose place the operators get a mail.
    pub fn instead_of(&self) -> &'a [String] {
        if self.notify == Notify::Operators { self.admins } else { &[] }
    }

    /// Whether mails for administrators go to them.
    pub fn reaches_admins(&self) -> bool {
        self.notify == Notify::Admins && !self.admins.is_empty()
    }

    /// The kind of a mail about a failure. Operators' mails are of their own kind where there are no admins; whoever knows of the alert
    /// already learns that its reason has changed.
    fn kind(&self, person: &str, notified: &BTreeSet<String>) -> MailKind {
        match () {
            () if self.admins.is_empty() => MailKind::Operator,
            () if notified.contains(person) => MailKind::Changed,
            () => MailKind::Alert,
        }
    }

    /// Who learns that an alert is over: by the setting of that moment, and nobody where nobody was notified.
    fn resolved_recipients(&self, notified: &'a BTreeSet<String>) -> BTreeSet<&'a String> {
        match self.notify {
            _ if !self.mail || !self.send_resolved || notified.is_empty() => BTreeSet::new(),
            Notify::Nobody => BTreeSet::new(),
            Notify::Operators => self.operators.iter().collect(),
            Notify::Admins => {
                // Operators who had a mail in the admins' place are not meant any more.
                let meant = |person: &String| self.admins.contains(person) || self.admins.is_empty();
                notified.iter().filter(|person| meant(person) || !self.operators.contains(*person)).collect()
            }
        }
    }

    /// Whether a failure that lasts has to be notified again, and why.
    fn another_notice(&self, open: &OpenAlert, now: Timestamp) -> Option<Notice> {
        let AlertProgress { notify, noticed, reminders } = open.progress;
        if self.recipients(open.reason).is_empty() {
            return None;
        }
        let turned_to_admins = self.notify == Notify::Admins && notify != Notify::Admins;
        let has_new = self.recipients(open.reason).iter().any(|person| !open.notified.contains(person));
        // Nobody was to be notified, or mail was not configured.
        if has_new && (open.notified.is_empty() || turned_to_admins) {
            return Some(Notice::First);
        }
        if self.snoozed_until.is_some_and(|until| now < until) {
            return None;
        }
        let pause = usize::try_from(reminders).ok().and_then(|index| self.reminders.get(index))?;
        let went_out = self.held.map_or(noticed, |held| held.went_out(noticed));
        (now.since(went_out) >= *pause).then_some(Notice::Reminder)
    }
}

/// A notice of a failure that is known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    /// Its recipients were not notified before.
    First,
    Reminder,
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
    /// The alert that it belongs to.
    pub alert: String,
    /// To whom.
    pub recipient: String,
    /// Its kind.
    pub kind: MailKind,
    /// Number of the notice.
    pub sequence: u32,
    /// It goes to an administrator.
    pub for_admin: bool,
}

impl Mail {
    /// The whole mail.
    pub fn about(self, incident: &Incident) -> Notification {
        let Self { alert, recipient, kind, sequence, for_admin } = self;
        Notification { alert, sequence, kind, recipient, for_admin, incident: incident.clone() }
    }
}

/// How a verdict changes an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertChange {
    /// The alert from now on.
    pub alert: Option<OpenAlert>,
    /// What happened.
    pub event: Option<AlertEvent>,
    /// The mails to be sent.
    pub mails: Vec<Mail>,
    /// The mails say once more what is known already.
    pub reminds: bool,
}

/// The alert that follows from a judgement. `id` makes the name of a new alert. Deciding twice changes nothing.
pub fn change_alert(
    open: Option<&OpenAlert>,
    judgement: Judgement,
    policy: AlertPolicy<'_>,
    id: impl FnOnce() -> String,
    now: Timestamp,
) -> AlertChange {
    let unchanged =
        |alert: Option<OpenAlert>| AlertChange { alert, event: None, mails: Vec::new(), reminds: false };
    let Judgement { verdict, exact } = judgement;
    match (open, verdict) {
        // Not knowing is no news: a broken network must neither alarm nor reassure.
        (open, Verdict::Unknown) => unchanged(open.cloned()),
        (None, Verdict::Healthy) => unchanged(None),
        (None, Verdict::Broken { reason, .. }) => {
            let progress = AlertProgress { notify: policy.notify, noticed: now, reminders: 0 };
            let notified = BTreeSet::new();
            let alert = OpenAlert { id: id(), reason, exact, since: now, notices: 0, notified, progress };
            noticed(alert, Some(AlertEvent::Broken(reason)), policy, now)
        }
        (Some(open), Verdict::Healthy) => resolved(open, policy),
        (Some(open), Verdict::Broken { reason, .. }) if open.reason == reason => {
            lasting(OpenAlert { exact: open.exact || exact, ..open.clone() }, policy, now)
        }
        // The same said more exactly is no change.
        (Some(open), Verdict::Broken { reason, .. }) if refines(open.named(), Named { reason, exact }) => {
            lasting(OpenAlert { reason, exact, ..open.clone() }, policy, now)
        }
        (Some(open), Verdict::Broken { reason, .. }) => {
            let alert = OpenAlert { reason, exact, ..open.clone() };
            noticed(alert, Some(AlertEvent::Changed(reason)), policy, now)
        }
    }
}

/// One more notice: each person once.
fn noticed(
    alert: OpenAlert,
    event: Option<AlertEvent>,
    policy: AlertPolicy<'_>,
    now: Timestamp,
) -> AlertChange {
    let mails = mails(&alert, policy, |person| policy.kind(person, &alert.notified));
    AlertChange { alert: Some(after_notice(alert, policy, now)), event, mails, reminds: false }
}

/// A failure that is known already.
fn lasting(alert: OpenAlert, policy: AlertPolicy<'_>, now: Timestamp) -> AlertChange {
    match policy.another_notice(&alert, now) {
        None => AlertChange { alert: Some(alert), event: None, mails: Vec::new(), reminds: false },
        Some(Notice::First) => {
            let known = alert.notified.clone();
            let mut change = noticed(alert, None, policy, now);
            change.mails.retain(|mail| !known.contains(&mail.recipient));
            change
        }
        Some(Notice::Reminder) => {
            let kind = if policy.admins.is_empty() { MailKind::Operator } else { MailKind::Reminder };
            let mails = mails(&alert, policy, |_| kind);
            let mut after = after_notice(alert, policy, now);
            after.progress.reminders += 1;
            AlertChange { alert: Some(after), event: None, mails, reminds: true }
        }
    }
}

fn mails(alert: &OpenAlert, policy: AlertPolicy<'_>, kind: impl Fn(&str) -> MailKind) -> Vec<Mail> {
    let people: BTreeSet<&String> = policy.recipients(alert.reason).iter().collect();
    let mail = |person: &String| Mail {
        alert: alert.id.clone(),
        recipient: person.clone(),
        kind: kind(person),
        sequence: alert.notices,
        for_admin: policy.reaches_admins(),
    };
    people.into_iter().map(mail).collect()
}

fn after_notice(alert: OpenAlert, policy: AlertPolicy<'_>, now: Timestamp) -> OpenAlert {
    let notified = alert.notified.iter().chain(policy.recipients(alert.reason)).cloned().collect();
    let progress = AlertProgress { notify: policy.notify, noticed: now, ..alert.progress };
    OpenAlert { notices: alert.notices + 1, notified, progress, ..alert }
}

/// Everybody who was notified of it learns that it is over.
fn resolved(open: &OpenAlert, policy: AlertPolicy<'_>) -> AlertChange {
    let mail = |person: &String| Mail {
        alert: open.id.clone(),
        recipient: person.clone(),
        kind: MailKind::Resolved,
        sequence: open.notices,
        for_admin: policy.reaches_admins(),
    };
    let mails = policy.resolved_recipients(&open.notified).into_iter().map(mail).collect();
    AlertChange { alert: None, event: Some(AlertEvent::Recovered(open.reason)), mails, reminds: false }
}

#[cfg(test)]
#[path = "alert_tests.rs"]
mod tests;
