//! What operators are notified of as one thing, however many integrations suffer from it: which causes there are, and when one that stands
//! for long is notified again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::alert::OpenAlert;
use super::notification::{Incident, MailKind, Notification};
use super::reason::{Audience, Reason};
use super::time::Timestamp;
use super::verdict::{CheckState, IntegrationState, Thresholds};

/// Something that many integrations suffer from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Tells causes apart.
    pub key: String,
    /// The alert that its mails belong to.
    pub alert: String,
    /// What is wrong.
    pub reason: Reason,
    /// What the last mail says, told of one integration that suffers from it.
    pub incident: Incident,
    /// Since when.
    pub since: Timestamp,
    /// Who suffers from it.
    pub members: HashSet<String>,
    /// What the operators were notified of.
    pub progress: Progress,
    /// Who was notified.
    pub notified: BTreeSet<String>,
}

/// What the operators were notified of, and what has become of the cause since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Mails so far, one a person: the next notice has this number.
    pub notices: u32,
    /// When they were notified last.
    pub notified: Timestamp,
    /// So many integrations belong to what they were notified of.
    pub size: u32,
    /// When the integration left that the last mail names.
    pub named_left: Option<Timestamp>,
}

/// No cause is notified more often; those who join a cause within this time belong to what was notified.
const PAUSE: Duration = Duration::from_secs(3600);

impl Progress {
    /// Of a cause that opens.
    pub const fn opened(now: Timestamp) -> Self {
        Self { notices: 1, notified: now, size: 1, named_left: None }
    }

    /// After another integration has joined, which makes `members` of them; and whether that is news: the cause has grown by half again, or
    /// whoever the last mail names is well for long.
    pub fn joined(&self, members: usize, now: Timestamp) -> (Self, bool) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        // A moment in the future was saved before the clock was set back.
        let lately = |at: Timestamp| at <= now && now.since(at) < PAUSE;
        if lately(self.notified) {
            return (Self { size: self.size.max(members), ..self.clone() }, false);
        }
        let grown = u64::from(members) * 2 >= u64::from(self.size) * 3;
        let named_is_well = self.named_left.is_some_and(|left| !lately(left));
        if grown || named_is_well {
            return (self.noticed(members, now), true);
        }
        (self.clone(), false)
    }

    fn noticed(&self, members: u32, now: Timestamp) -> Self {
        Self { notices: self.notices + 1, notified: now, size: members, named_left: None }
    }
}

/// Whose an integration is: what its causes are keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belongs<'a> {
    /// Name of the application in the configuration.
    pub app: &'a str,
    /// Tenant as configured.
    pub tenant: &'a str,
    /// Name of the directory reader.
    pub reader: Option<&'a str>,
}

/// An integration before and after a probe.
#[derive(Debug, Clone, Copy)]
pub struct Probed<'a> {
    /// Its state before.
    pub before: &'a IntegrationState,
    /// Its state afterwards.
    pub after: &'a IntegrationState,
    /// Its alert afterwards.
    pub alert: Option<&'a OpenAlert>,
    /// The causes that it belonged to before.
    pub own: &'a BTreeSet<String>,
}

/// The causes that an integration suffers from after a probe, each with its reason.
pub fn wanted_causes(
    probed: Probed<'_>,
    belongs: Belongs<'_>,
    thresholds: Thresholds,
    suffering: &Suffering,
) -> BTreeMap<String, Reason> {
    let Probed { before, after, alert, own } = probed;
    let broken = alert.and_then(|a| Some((cause_key(a.reason, belongs)?, a.reason)));
    // Seen twice, like every failure.
    let reader = after.reader_fault.filter(|_| before.reader_fault.is_some());
    let reader = reader.and_then(|r| Some((reader_key(r, belongs)?, r)));
    let unreadable = after
        .dark(|r| r == Reason::CredentialUnreadable)
        .find(|(_, dark, _)| dark.probes >= thresholds.failure);
    let unreadable = unreadable.map(|(check, _, reason)| {
        (unreadable_key(belongs.app, &unreadable_thing(check), suffering, own), reason)
    });
    // What passes by itself, and what nobody knows, do not hide each other.
    let lasting = [Reason::is_transient as fn(Reason) -> bool, |r| r == Reason::Unclassified].map(|kind| {
        let (_, _, reason) = after.dark(kind).find(|(_, dark, _)| dark.waited >= thresholds.lasting)?;
        Some((lasting_key(reason, belongs.tenant, suffering, own)?, reason))
    });
    [broken, reader, unreadable].into_iter().chain(lasting).flatten().collect()
}

/// The reader's own faults are one thing for every tenant it shares them in, unless they are about one tenant.
fn reader_key(reason: Reason, belongs: Belongs<'_>) -> Option<String> {
    let reader = belongs.reader?;
    Some(match reason {
        Reason::ReaderPermissionMissing => format!("reader:{reader}:{}", belongs.tenant),
        _ => format!("reader:{reader}:{}", reason.label()),
    })
}

/// What operators are notified of as one thing when a check fails. `None` when the reason is the
/// admins' business, or one of those that have a [`LASTING`] key.
fn cause_key(reason: Reason, belongs: Belongs<'_>) -> Option<String> {
    if reason.audience() == Audience::Admins || is_lasting_only(reason) {
        return None;
    }
    match reason {
        Reason::TenantMissing => Some(format!("tenant:{}:{}", belongs.tenant, reason.label())),
        Reason::ReaderPermissionMissing => reader_key(reason, belongs),
        _ => Some(format!("app:{}:{}", belongs.app, reason.label())),
    }
}

/// Reasons that operators are notified of only when they last: nothing could be learnt.
fn is_lasting_only(reason: Reason) -> bool {
    reason.is_inconclusive() && reason != Reason::CredentialUnreadable
}

/// What of ours cannot be read: the evidence names it.
fn unreadable_thing(check: &CheckState) -> String {
    check.details.note.clone().unwrap_or_default()
}

/// Where somebody suffers from an ignorance: in a tenant; a credential of ours that cannot be read is a place of its own, whose tenants tell
/// nothing.
pub fn suffers(state: &IntegrationState, tenant: &str) -> Option<(Reason, String)> {
    let (check, _, reason) = state.dark(Reason::is_inconclusive).next()?;
    let place =
        if reason == Reason::CredentialUnreadable { unreadable_thing(check) } else { tenant.to_owned() };
    Some((reason, place))
}

/// The cause of a credential of ours that cannot be read: one a file while at most two are unreadable, one of the application from the third
/// on. A secret that is shared is one thing. Whoever belongs to one stays in it.
fn unreadable_key(app: &str, what: &str, suffering: &Suffering, own: &BTreeSet<String>) -> String {
    let wide = format!("app:{app}:{}", Reason::CredentialUnreadable.label());
    if let Some(known) = own.iter().find(|key| key.starts_with(&wide)) {
        return known.clone();
    }
    match suffering.places(Reason::CredentialUnreadable) {
        ..FLEET => format!("{wide}:{what}"),
        _ => wide,
    }
}

/// So many tenants that suffer from the same reason make it one cause of the whole fleet.
const FLEET: usize = 3;

const LASTING: &str = "upstream:";

/// The cause of an ignorance that lasts: one a tenant while at most two tenants suffer from the same reason, one of the whole fleet from the
/// third on. Whoever belongs to one already stays in it until something is learnt: an outage shows itself now as a time-out and now as a
/// refused connection.
fn lasting_key(
    reason: Reason,
    tenant: &str,
    suffering: &Suffering,
    own: &BTreeSet<String>,
) -> Option<String> {
    if !is_lasting_only(reason) {
        return None;
    }
    let same_kind = |key: &str| key.starts_with("upstream:unclassified") == (reason == Reason::Unclassified);
    if let Some(known) =
        own.iter().find(|key| (key.starts_with(LASTING) && same_kind(key)) || *key == "upstream")
    {
        return Some(known.clone());
    }
    Some(match suffering.places(reason) {
        ..FLEET => format!("{LASTING}{}:{tenant}", reason.label()),
        _ => format!("{LASTING}{}", reason.label()),
    })
}

/// How many integrations could not be learnt of by their last probe, why, and where: see [`suffers`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffering(HashMap<Reason, HashMap<String, usize>>);

impl Suffering {
    /// Notes that the reason for which nothing is known of an integration, or its place, has changed.
    pub fn note(&mut self, before: Option<(Reason, String)>, after: Option<(Reason, String)>) {
        if before == after {
            return;
        }
        if let Some((reason, place)) = before
            && let Some(places) = self.0.get_mut(&reason)
            && let Some(count) = places.get_mut(&place)
        {
            *count -= 1;
            if *count == 0 {
                places.remove(&place);
            }
        }
        if let Some((reason, place)) = after {
            *self.0.entry(reason).or_default().entry(place).or_default() += 1;
        }
    }

    /// In how many places somebody suffers from a reason.
    pub fn places(&self, reason: Reason) -> usize {
        self.0.get(&reason).map_or(0, HashMap::len)
    }
}

/// A change to the causes, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CauseChange {
    /// Opens a cause with its first member.
    Open(Box<Cause>),
    /// One more suffers from it: the cause afterwards, without its members.
    Join(Box<Cause>),
    /// One fewer does; the moment, if it is the one that the last mail names.
    Leave(String, Option<Timestamp>),
    /// Nobody does any more: key and alert.
    Close(String, String),
}

/// Whom causes are told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CausePolicy<'a> {
    /// Whoever runs Consentry; nobody, where mail is not configured.
    pub operators: &'a [String],
    /// The end of a cause is a mail, too.
    pub send_resolved: bool,
}

/// An integration, the causes that it belongs to, and those that it suffers from now.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Keys of the causes that it belonged to before.
    pub own: &'a BTreeSet<String>,
    /// Those that it suffers from, each with its reason.
    pub wanted: &'a BTreeMap<String, Reason>,
}

/// What a probe makes of the causes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CauseChanges {
    /// To be saved.
    pub changes: Vec<CauseChange>,
    /// To be sent.
    pub mails: Vec<Notification>,
}

/// All causes that somebody suffers from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes(HashMap<String, Cause>);

impl Causes {
    /// Those that were saved.
    pub fn new(saved: Vec<Cause>) -> Self {
        Self(saved.into_iter().map(|cause| (cause.key.clone(), cause)).collect())
    }

    /// The keys of those that each integration belongs to. One pass: there may be a cause for each of many tenants.
    pub fn memberships(&self) -> HashMap<String, BTreeSet<String>> {
        let mut memberships: HashMap<String, BTreeSet<String>> = HashMap::new();
        for cause in self.0.values() {
            for member in &cause.members {
                memberships.entry(member.clone()).or_default().insert(cause.key.clone());
            }
        }
        memberships
    }

    /// Causes keep the members that are still there, and go with the last one.
    pub fn keep_members(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|_, cause| {
            cause.members.retain(|member| is_there(member));
            !cause.members.is_empty()
        });
    }

    /// Forgets those of which nobody was notified; answers their keys. They open again when somebody can be.
    pub fn forget_unnotified(&mut self) -> HashSet<String> {
        let unnotified: HashSet<String> =
            self.0.values().filter(|c| c.notified.is_empty()).map(|c| c.key.clone()).collect();
        self.0.retain(|key, _| !unnotified.contains(key));
        unnotified
    }

    /// Whether there is nothing to change.
    pub fn are_as_wanted(&self, member: Member<'_>, policy: CausePolicy<'_>) -> bool {
        let settled = |key: &String| self.0.get(key).is_some_and(|cause| !cause.wants_notice(policy));
        member.wanted.keys().eq(member.own) && member.own.iter().all(settled)
    }

    /// Makes an integration a member of the causes that it suffers from and of no others. `incident` tells of the integration with a reason.
    pub fn change(
        &mut self,
        member: Member<'_>,
        policy: CausePolicy<'_>,
        incident: impl Fn(Reason) -> Incident,
        now: Timestamp,
    ) -> CauseChanges {
        let Member { name: integration, own, wanted } = member;
        let mut all = CauseChanges::default();
        for (key, reason) in wanted {
            match self.0.get_mut(key) {
                Some(cause) if own.contains(key) && !cause.wants_notice(policy) => {}
                Some(cause) => all.note(join(cause, integration, policy, || incident(*reason), now)),
                None => {
                    let cause = open(key, *reason, incident(*reason), now);
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
        let people: &BTreeSet<String> = if policy.send_resolved && !policy.operators.is_empty() {
            &cause.notified
        } else {
            &BTreeSet::new()
        };
        let mails = people
            .iter()
            .map(|person| mail(cause, cause.progress.notices, person, MailKind::Resolved, &incident))
            .collect();
        let change = CauseChange::Close(key.to_owned(), cause.alert.clone());
        self.0.remove(key);
        (change, mails)
    }

    /// Takes back what a probe has changed and could not be saved: the causes are as they were for this integration.
    pub fn revert(&mut self, Member { name: integration, own, wanted }: Member<'_>, before: &[Cause]) {
        for cause in before {
            let current = self
                .0
                .entry(cause.key.clone())
                .or_insert_with(|| Cause { members: HashSet::new(), ..cause.clone() });
            if current.alert == cause.alert {
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
        // Whoever joined a cause that this one had opened is notified of it by his own next probe.
        for key in wanted.keys().filter(|key| !before.iter().any(|cause| cause.key == **key)) {
            if let Some(cause) = self.0.get_mut(key) {
                cause.notified.clear();
            }
        }
    }

    /// The causes of these keys as they are, without their members: for [`Self::revert`].
    pub fn outlines<'k>(&self, keys: impl Iterator<Item = &'k String>) -> Vec<Cause> {
        keys.filter_map(|key| self.0.get(key)).map(Cause::outline).collect()
    }
}

impl CauseChanges {
    fn note(&mut self, (change, mails): (CauseChange, Vec<Notification>)) {
        self.changes.push(change);
        self.mails.extend(mails);
    }
}

impl Cause {
    /// Nobody was notified of it, and now somebody can be: there was no mail, or the transaction with the first mail could not be saved.
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
        incident: incident.clone(),
    }
}

/// A cause with its first member. Its alert is named by what it is about and when it began: no cause opens twice in one moment.
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

/// One more suffers from a cause.
fn join(
    cause: &mut Cause,
    integration: &str,
    policy: CausePolicy<'_>,
    incident: impl FnOnce() -> Incident,
    now: Timestamp,
) -> (CauseChange, Vec<Notification>) {
    cause.members.insert(integration.to_owned());
    let (mut progress, mut again) = cause.progress.joined(cause.members.len(), now);
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
    fn operators_hear_of_causes() {
        let key = |reason| cause_key(reason, Belongs { app: "sequr", tenant: "t1", reader: Some("r") });
        for (reason, expected) in [
            (Reason::TokenRevoked, None),
            (Reason::ClientCredentialExpired, Some("app:sequr:client_credential_expired")),
            (Reason::CredentialUnreadable, Some("app:sequr:credential_unreadable")),
            (Reason::TenantMissing, Some("tenant:t1:tenant_missing")),
            (Reason::ReaderPermissionMissing, Some("reader:r:t1")),
            (Reason::Timeout, None),
            (Reason::Unclassified, None),
        ] {
            assert_eq!(key(reason).as_deref(), expected, "{reason:?}");
        }
    }

    #[test]
    fn an_ignorance_that_lasts_is_a_tenants_until_three_suffer() {
        let mut suffering = Suffering::default();
        let key = |suffering: &Suffering, tenant: &str, own: &[&str]| {
            let own = own.iter().map(|key| (*key).to_owned()).collect();
            lasting_key(Reason::Timeout, tenant, suffering, &own).unwrap_or_default()
        };
        let at = |reason, place: &str| Some((reason, place.to_owned()));
        suffering.note(None, at(Reason::Timeout, "a"));
        suffering.note(None, at(Reason::Timeout, "a"));
        suffering.note(at(Reason::Throttled, "b"), at(Reason::Timeout, "b"));
        assert_eq!(key(&suffering, "b", &[]), "upstream:timeout:b", "two tenants");
        suffering.note(None, at(Reason::Timeout, "c"));
        assert_eq!(key(&suffering, "c", &[]), "upstream:timeout", "the third");
        assert_eq!(
            key(&suffering, "b", &["app:x", "upstream:network_error:b"]),
            "upstream:network_error:b",
            "whoever belongs to one stays"
        );
        assert_eq!(
            key(&suffering, "c", &["upstream:unclassified:c"]),
            "upstream:timeout",
            "another kind hides nothing"
        );
        suffering.note(at(Reason::Timeout, "a"), None);
        assert_eq!(suffering.places(Reason::Timeout), 3, "the tenant's other integration still suffers");
        suffering.note(at(Reason::Timeout, "a"), None);
        assert_eq!(key(&suffering, "d", &[]), "upstream:timeout:d", "two again");
        assert_eq!(lasting_key(Reason::TokenRevoked, "a", &suffering, &BTreeSet::new()), None);
        assert_eq!(lasting_key(Reason::CredentialUnreadable, "a", &suffering, &BTreeSet::new()), None);
    }

    #[test]
    fn a_cause_is_notified_again_when_it_has_become_another() {
        let at = |minutes: i64| Timestamp::from_seconds(minutes * 60);
        let progress = |size, named_left: Option<i64>| Progress {
            size,
            named_left: named_left.map(at),
            ..Progress::opened(at(0))
        };
        for (sentence, progress, members, minute, size, again) in [
            ("whoever joins soon belongs to it", progress(1, None), 40, 59, 40, false),
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
            ("the first left lately", progress(10, Some(30)), 7, 70, 10, false),
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
            by: None,
            origin: None,
            affected: None,
            renewed: None,
        }
    }

    #[test]
    fn what_could_not_be_saved_is_notified_by_whoever_joined_meanwhile() {
        let operators = ["sre".to_owned()];
        let policy = CausePolicy { operators: &operators, send_resolved: true };
        let (none, wanted) = (BTreeSet::new(), BTreeMap::from([("k".to_owned(), Reason::Timeout)]));
        let mut causes = Causes::default();
        let (a, b) = (
            Member { name: "a", own: &none, wanted: &wanted },
            Member { name: "b", own: &none, wanted: &wanted },
        );
        let sent = |causes: &mut Causes, member: Member<'_>| {
            causes.change(member, policy, |_| incident(member.name), Timestamp(5)).mails.len()
        };
        assert_eq!((sent(&mut causes, a), sent(&mut causes, b)), (1, 0), "one mail about both");
        causes.revert(a, &[]);
        let own = BTreeSet::from(["k".to_owned()]);
        let again = Member { own: &own, ..b };
        assert!(!causes.are_as_wanted(again, policy), "the mail was in the transaction that failed");
        assert_eq!(sent(&mut causes, again), 1);
        assert!(causes.are_as_wanted(again, policy));
        assert_eq!(sent(&mut causes, a), 0, "the first one joins");
        assert_eq!(causes.memberships().get("a"), Some(&own));
    }
}
