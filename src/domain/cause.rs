//! Causes: what operators are notified of once, however many integrations it affects, and when they are notified of a lasting one again. Which
//! causes affect an integration is decided in [`super::cause_key`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::notification::{Incident, MailKind, Notification};
use super::reason::Reason;
use super::time::Timestamp;

/// Something that affects many integrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Unique among the open causes.
    pub key: String,
    /// The alert that its mails belong to.
    pub alert: String,
    /// What is wrong.
    pub reason: Reason,
    /// The content of the last mail, about one affected integration.
    pub incident: Incident,
    /// Since when.
    pub since: Timestamp,
    /// Names of the affected integrations.
    pub members: HashSet<String>,
    /// What operators were notified of.
    pub progress: Progress,
    /// Addresses that were notified of it.
    pub notified: BTreeSet<String>,
}

/// What operators were notified of, and what has happened to the cause since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Number of notices so far, one mail per recipient each: the number of the next one.
    pub notices: u32,
    /// When they were notified last.
    pub notified: Timestamp,
    /// Number of members that the last notice covers.
    pub size: u32,
    /// When the integration that the last mail names left the cause.
    pub named_left: Option<Timestamp>,
}

/// A cause is not notified more often than this; integrations that join within this time belong to the last notice.
const PAUSE: Duration = Duration::from_secs(3600);

impl Progress {
    /// The progress of a cause that opens.
    pub const fn opened(now: Timestamp) -> Self {
        Self { notices: 1, notified: now, size: 1, named_left: None }
    }

    /// The progress after another integration has joined and there are `members` of them, and whether operators are notified again: because
    /// the cause has grown by half, or because the integration that the last mail names left it long ago.
    pub fn joined(&self, members: usize, now: Timestamp) -> (Self, bool) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        // A time in the future was saved before the clock was set back.
        let recent = |at: Timestamp| at <= now && now.since(at) < PAUSE;
        if recent(self.notified) {
            return (Self { size: self.size.max(members), ..self.clone() }, false);
        }
        let grown = u64::from(members) * 2 >= u64::from(self.size) * 3;
        let named_has_left = self.named_left.is_some_and(|left| !recent(left));
        if grown || named_has_left {
            return (self.noticed(members, now), true);
        }
        (self.clone(), false)
    }

    fn noticed(&self, members: u32, now: Timestamp) -> Self {
        Self { notices: self.notices + 1, notified: now, size: members, named_left: None }
    }
}

/// A change to the causes, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CauseChange {
    /// Opens a cause with its first member.
    Open(Box<Cause>),
    /// One more member: the cause afterwards, without its members.
    Join(Box<Cause>),
    /// One member fewer; the time, if it is the one that the last mail names.
    Leave(String, Option<Timestamp>),
    /// The last member left: key and alert.
    Close(String, String),
}

/// Who is notified of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CausePolicy<'a> {
    /// Whoever runs Consentry; empty if mail is not configured.
    pub operators: &'a [String],
    /// Whether the end of a cause is mailed, too.
    pub send_resolved: bool,
}

/// An integration, the causes that it belongs to, and those that affect it now.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Keys of the causes that it belonged to before.
    pub own: &'a BTreeSet<String>,
    /// Those that affect it now, each with its reason.
    pub wanted: &'a BTreeMap<String, Reason>,
}

/// How a probe changes the causes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CauseChanges {
    /// To be saved.
    pub changes: Vec<CauseChange>,
    /// To be sent.
    pub mails: Vec<Notification>,
}

/// All open causes, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes(HashMap<String, Cause>);

impl Causes {
    /// From the saved causes.
    pub fn new(saved: Vec<Cause>) -> Self {
        Self(saved.into_iter().map(|cause| (cause.key.clone(), cause)).collect())
    }

    /// The keys of the causes of each integration. One pass, because there may be one cause for each of many tenants.
    pub fn memberships(&self) -> HashMap<String, BTreeSet<String>> {
        let mut memberships: HashMap<String, BTreeSet<String>> = HashMap::new();
        for cause in self.0.values() {
            for member in &cause.members {
                memberships.entry(member.clone()).or_default().insert(cause.key.clone());
            }
        }
        memberships
    }

    /// Removes members that are not there any more, and causes without members.
    pub fn keep_members(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|_, cause| {
            cause.members.retain(|member| is_there(member));
            !cause.members.is_empty()
        });
    }

    /// Removes the causes of which nobody was notified and returns their keys. They open again when there are operators to notify.
    pub fn forget_unnotified(&mut self) -> HashSet<String> {
        let unnotified: HashSet<String> =
            self.0.values().filter(|c| c.notified.is_empty()).map(|c| c.key.clone()).collect();
        self.0.retain(|key, _| !unnotified.contains(key));
        unnotified
    }

    /// Whether the integration is a member of exactly the causes that affect it, and all of them were notified.
    pub fn are_as_wanted(&self, member: Member<'_>, policy: CausePolicy<'_>) -> bool {
        let notified = |key: &String| self.0.get(key).is_some_and(|cause| !cause.wants_notice(policy));
        member.wanted.keys().eq(member.own) && member.own.iter().all(notified)
    }

    /// Makes an integration a member of the causes that affect it and of no others. `incident` describes the integration
    /// with the key and the reason of a cause.
    pub fn change(
        &mut self,
        member: Member<'_>,
        policy: CausePolicy<'_>,
        incident: impl Fn(&str, Reason) -> Incident,
        now: Timestamp,
    ) -> CauseChanges {
        let Member { name: integration, own, wanted } = member;
        let mut all = CauseChanges::default();
        for (key, reason) in wanted {
            match self.0.get_mut(key) {
                Some(cause) if own.contains(key) && !cause.wants_notice(policy) => {}
                Some(cause) => all.note(join(cause, integration, policy, || incident(key, *reason), now)),
                None => {
                    let cause = open(key, *reason, incident(key, *reason), now);
                    all.note(announced(self.0.entry(key.clone()).insert_entry(cause).into_mut(), policy));
                }
            }
        }
        for key in own.iter().filter(|key| !wanted.contains_key(*key)) {
            all.note(self.leave(key, integration, policy, now));
        }
        all
    }

    fn leave(
        &mut self,
        key: &str,
        integration: &str,
        policy: CausePolicy<'_>,
        now: Timestamp,
    ) -> (CauseChange, Vec<Notification>) {
        let Some(cause) = self.0.get_mut(key) else {
            return (CauseChange::Leave(key.to_owned(), None), Vec::new());
        };
        cause.members.remove(integration);
        if !cause.members.is_empty() {
            let named = (cause.incident.integration == integration).then_some(now);
            cause.progress.named_left = named.or(cause.progress.named_left);
            return (CauseChange::Leave(key.to_owned(), named), Vec::new());
        }
        let incident = Incident { at: now, ..cause.incident.clone() };
        // A warning is over when somebody has acted on it, or has become a more urgent one.
        let ends_by_mail = policy.send_resolved && !cause.reason.is_warning();
        let people: &BTreeSet<String> =
            if ends_by_mail && !policy.operators.is_empty() { &cause.notified } else { &BTreeSet::new() };
        let mails = people
            .iter()
            .map(|person| mail(cause, cause.progress.notices, person, MailKind::Resolved, &incident))
            .collect();
        let change = CauseChange::Close(key.to_owned(), cause.alert.clone());
        self.0.remove(key);
        (change, mails)
    }

    /// Reverts what a probe has changed if it could not be saved: the causes are as they were for this integration. `changed` is what the
    /// probe has made of them; what other members have changed since stays, because it was saved.
    pub fn revert(
        &mut self,
        Member { name: integration, own, wanted }: Member<'_>,
        before: &[Cause],
        changed: &[(String, Progress)],
    ) {
        for cause in before {
            let current = self
                .0
                .entry(cause.key.clone())
                .or_insert_with(|| Cause { members: HashSet::new(), ..cause.clone() });
            let made = changed.iter().find(|(key, _)| *key == cause.key);
            let is_as_made = made.is_none_or(|(_, progress)| *progress == current.progress);
            if current.alert == cause.alert && is_as_made {
                current.progress = cause.progress.clone();
                current.incident = cause.incident.clone();
                current.notified.clone_from(&cause.notified);
            }
        }
        // It is a member of no others.
        for key in own.iter().chain(wanted.keys()) {
            let Some(cause) = self.0.get_mut(key) else { continue };
            if own.contains(key) {
                cause.members.insert(integration.to_owned());
            } else {
                cause.members.remove(integration);
            }
            if cause.members.is_empty() {
                self.0.remove(key);
            }
        }
        // An integration that joined a cause opened by this probe notifies of it with its own next probe.
        for key in wanted.keys().filter(|key| !before.iter().any(|cause| cause.key == **key)) {
            if let Some(cause) = self.0.get_mut(key) {
                cause.notified.clear();
            }
        }
    }

    /// The causes with these keys, without their members: for [`Self::revert`].
    pub fn outlines<'k>(&self, keys: impl Iterator<Item = &'k String>) -> Vec<Cause> {
        keys.filter_map(|key| self.0.get(key)).map(Cause::outline).collect()
    }
}

impl Causes {
    /// What the operators were notified of, for each of these causes: for [`Self::revert`].
    pub fn progress<'k>(&self, keys: impl Iterator<Item = &'k String>) -> Vec<(String, Progress)> {
        keys.filter_map(|key| self.0.get(key))
            .map(|cause| (cause.key.clone(), cause.progress.clone()))
            .collect()
    }
}

impl CauseChanges {
    fn note(&mut self, (change, mails): (CauseChange, Vec<Notification>)) {
        self.changes.push(change);
        self.mails.extend(mails);
    }
}

impl Cause {
    /// Nobody was notified of it, and now there are operators to notify: mail was not configured, or the transaction with the first mail
    /// was not saved.
    fn wants_notice(&self, policy: CausePolicy<'_>) -> bool {
        self.notified.is_empty() && !policy.operators.is_empty()
    }

    /// Everything but the members, of which there may be many.
    fn outline(&self) -> Self {
        Self {
            key: self.key.clone(),
            alert: self.alert.clone(),
            reason: self.reason,
            incident: self.incident.clone(),
            since: self.since,
            members: HashSet::new(),
            progress: self.progress.clone(),
            notified: self.notified.clone(),
        }
    }
}

fn mail(cause: &Cause, sequence: u32, person: &str, kind: MailKind, incident: &Incident) -> Notification {
    Notification {
        alert: cause.alert.clone(),
        sequence,
        kind,
        recipient: person.to_owned(),
        for_admin: false,
        incident: incident.clone(),
    }
}

/// A cause with its first member. The id of its alert is made of the key and the time: no cause opens twice at the same time.
fn open(key: &str, reason: Reason, incident: Incident, now: Timestamp) -> Cause {
    let members = HashSet::from([incident.integration.clone()]);
    let alert = format!("{}-{}", key.replace(|c: char| !c.is_ascii_alphanumeric(), "-"), now.0);
    Cause {
        key: key.to_owned(),
        alert,
        reason,
        incident,
        since: now,
        members,
        progress: Progress::opened(now),
        notified: BTreeSet::new(),
    }
}

/// The mails about a cause that has just opened.
fn announced(cause: &mut Cause, policy: CausePolicy<'_>) -> (CauseChange, Vec<Notification>) {
    cause.notified = policy.operators.iter().cloned().collect();
    let mails = cause
        .notified
        .iter()
        .map(|person| mail(cause, 0, person, MailKind::Operator, &cause.incident))
        .collect();
    (CauseChange::Open(Box::new(cause.clone())), mails)
}

/// Adds a member to a cause.
fn join(
    cause: &mut Cause,
    integration: &str,
    policy: CausePolicy<'_>,
    incident: impl FnOnce() -> Incident,
    now: Timestamp,
) -> (CauseChange, Vec<Notification>) {
    cause.members.insert(integration.to_owned());
    let (mut progress, mut again) = cause.progress.joined(cause.members.len(), now);
    if cause.reason.is_warning() {
        (progress, again) = (cause.progress.clone(), false);
    }
    if cause.wants_notice(policy) && !again {
        (progress, again) = (progress.noticed(progress.size, now), true);
    }
    let sequence = std::mem::replace(&mut cause.progress, progress).notices;
    let mut mails = Vec::new();
    if again {
        cause.incident = Incident { affected: Some(cause.progress.size), ..incident() };
        cause.notified.extend(policy.operators.iter().cloned());
        mails = policy
            .operators
            .iter()
            .map(|person| mail(cause, sequence, person, MailKind::Operator, &cause.incident))
            .collect();
    }
    (CauseChange::Join(Box::new(cause.outline())), mails)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_notified_again_when_it_has_grown_or_the_named_member_left() {
        let at = |minutes: i64| Timestamp::from_seconds(minutes * 60);
        let progress = |size, named_left: Option<i64>| Progress {
            size,
            named_left: named_left.map(at),
            ..Progress::opened(at(0))
        };
        for (sentence, progress, members, minute, size, again) in [
            ("an integration that joins soon belongs to it", progress(1, None), 40, 59, 40, false),
            ("grown by half", progress(40, None), 60, 61, 60, true),
            ("grown by less", progress(40, None), 59, 61, 40, false),
            ("the second one, much later", progress(1, None), 2, 600, 2, true),
            ("the first left long ago", progress(10, Some(5)), 7, 70, 7, true),
            (
                "notified in a future that was taken back",
                Progress { notified: at(100_000), ..progress(1, None) },
                2,
                61,
                2,
                true,
            ),
            ("the first left recently", progress(10, Some(30)), 7, 70, 10, false),
            ("long ago, but at most hourly", progress(10, Some(-90)), 7, 30, 10, false),
        ] {
            let (next, notified) = progress.joined(members, at(minute));
            assert_eq!((next.size, notified), (size, again), "{sentence}");
            assert_eq!(next.notices, 1 + u32::from(again), "{sentence}");
        }
    }

    fn incident(integration: &str) -> Incident {
        Incident {
            integration: integration.to_owned(),
            display_name: integration.to_owned(),
            app: String::new(),
            app_name: String::new(),
            client_id: String::new(),
            tenant: String::new(),
            access: super::super::integration::Access::Delegated,
            reason: Reason::Timeout,
            items: Vec::new(),
            code: None,
            request_id: None,
            restorable_until: None,
            permissions: Vec::new(),
            since: Timestamp::default(),
            at: Timestamp::default(),
            link: super::super::notification::LinkTarget::None,
            undeliverable: None,
            brake: None,
            by: None,
            origin: None,
            affected: None,
            reminds: false,
            instead_of: Vec::new(),
            renewed: None,
        }
    }

    #[test]
    fn an_unsaved_notice_is_sent_by_the_next_member() {
        let operators = ["sre".to_owned()];
        let policy = CausePolicy { operators: &operators, send_resolved: true };
        let (none, wanted) = (BTreeSet::new(), BTreeMap::from([("k".to_owned(), Reason::Timeout)]));
        let mut causes = Causes::default();
        let (a, b) = (
            Member { name: "a", own: &none, wanted: &wanted },
            Member { name: "b", own: &none, wanted: &wanted },
        );
        let sent = |causes: &mut Causes, member: Member<'_>| {
            causes.change(member, policy, |_, _| incident(member.name), Timestamp(5)).mails.len()
        };
        assert_eq!((sent(&mut causes, a), sent(&mut causes, b)), (1, 0), "one mail about both");
        causes.revert(a, &[], &[]);
        let own = BTreeSet::from(["k".to_owned()]);
        let again = Member { own: &own, ..b };
        assert!(!causes.are_as_wanted(again, policy), "the mail was in the transaction that failed");
        assert_eq!(sent(&mut causes, again), 1);
        assert!(causes.are_as_wanted(again, policy));
        assert_eq!(sent(&mut causes, a), 0, "the first one joins");
        assert_eq!(causes.memberships().get("a"), Some(&own));
    }

    #[test]
    fn the_end_of_a_warning_is_no_mail_and_more_members_are_none() {
        let operators = ["sre".to_owned()];
        let policy = CausePolicy { operators: &operators, send_resolved: true };
        let none = BTreeSet::new();
        for (reason, expected) in
            [(Reason::CredentialExpiring, [1, 0, 0, 0]), (Reason::CredentialExpired, [1, 1, 0, 1])]
        {
            let wanted = BTreeMap::from([("k".to_owned(), reason)]);
            let own = BTreeSet::from(["k".to_owned()]);
            let nothing = BTreeMap::new();
            let mut causes = Causes::default();
            let about = |name: &str| Incident { reason, ..incident(name) };
            let mut mails = |member: Member<'_>, hours: u64| {
                let now = Timestamp(5).plus(Duration::from_secs(hours * 3600));
                causes.change(member, policy, |_, _| about(member.name), now).mails.len()
            };
            let sent = [
                mails(Member { name: "a", own: &none, wanted: &wanted }, 0),
                mails(Member { name: "b", own: &none, wanted: &wanted }, 2),
                mails(Member { name: "a", own: &own, wanted: &nothing }, 3),
                mails(Member { name: "b", own: &own, wanted: &nothing }, 4),
            ];
            assert_eq!(sent, expected, "{reason:?}");
        }
    }
}
