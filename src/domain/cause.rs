//! Causes: what operators are notified of once, however many integrations it affects. This module decides which causes there are, and when
//! operators are notified of a lasting one again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::alert::OpenAlert;
use super::credential::{CredentialState, Standing};
use super::notification::{Incident, MailKind, Notification};
use super::reason::{Audience, Reason};
use super::time::Timestamp;
use super::verdict::{CheckState, IntegrationState, Thresholds};

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

/// What an integration belongs to: the parts of its causes' keys.
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
    /// Keys of the causes that it belonged to before.
    pub own: &'a BTreeSet<String>,
}

/// The causes that affect an integration after a probe, by key, each with its reason.
pub fn wanted_causes(
    probed: Probed<'_>,
    belongs: Belongs<'_>,
    thresholds: Thresholds,
    affected: &Affected,
) -> BTreeMap<String, Reason> {
    let Probed { before, after, alert, own } = probed;
    let broken = alert.map(|a| broken_keys(a.reason, belongs, after, own)).unwrap_or_default();
    let warned =
        after.credentials.iter().filter_map(|c| Some((warning_key(c, belongs)?, Reason::CredentialExpiring)));
    // A fault of the reader counts after two probes, like every failure.
    let reader = after.reader_fault.filter(|_| before.reader_fault.is_some());
    let reader = reader.and_then(|r| Some((reader_key(r, belongs)?, r)));
    let unreadable = after
        .dark(|r| r == Reason::CredentialUnreadable)
        .find(|(_, dark, _)| dark.probes >= thresholds.failure);
    let unreadable = unreadable.map(|(check, _, reason)| {
        (unreadable_key(belongs.app, &unreadable_file(check), affected, own), reason)
    });
    // A transient reason and an unclassified one do not hide each other.
    let lasting = [Reason::is_transient as fn(Reason) -> bool, |r| r == Reason::Unclassified].map(|kind| {
        let (_, _, reason) = after.dark(kind).find(|(_, dark, _)| dark.waited >= thresholds.lasting)?;
        Some((lasting_key(reason, belongs.tenant, affected, own)?, reason))
    });
    [reader, unreadable].into_iter().chain(lasting).flatten().chain(broken).chain(warned).collect()
}

/// The reader's own faults are one cause for all its tenants, unless they are about one tenant. Without a reader, it is the application
/// that may not read what a check needs.
fn reader_key(reason: Reason, belongs: Belongs<'_>) -> Option<String> {
    Some(match (belongs.reader, reason) {
        (Some(reader), Reason::ReaderPermissionMissing) => format!("reader:{reader}:{}", belongs.tenant),
        (Some(reader), _) => format!("reader:{reader}:{}", reason.label()),
        (None, Reason::ReaderPermissionMissing) => format!("app:{}:{}", belongs.app, reason.label()),
        (None, _) => return None,
    })
}

/// The causes of a confirmed failure: one, or one for each credential that has expired.
fn broken_keys(
    reason: Reason,
    belongs: Belongs<'_>,
    state: &IntegrationState,
    own: &BTreeSet<String>,
) -> Vec<(String, Reason)> {
    let Some(key) = cause_key(reason, belongs) else { return Vec::new() };
    if reason != Reason::CredentialExpired {
        return vec![(key, reason)];
    }
    let expired: Vec<String> = state.credentials.iter().filter_map(|c| expired_key(c, belongs)).collect();
    // Another credential counts already, and the failure is not over yet.
    let known = || own.iter().filter(|known| known.starts_with(&key)).cloned().collect::<Vec<_>>();
    let keys = if expired.is_empty() { known() } else { expired };
    let keys = if keys.is_empty() { vec![key] } else { keys };
    keys.into_iter().map(|key| (key, reason)).collect()
}

/// The cause of a credential that has expired. Integrations that share the credential share the cause.
fn expired_key(credential: &CredentialState, belongs: Belongs<'_>) -> Option<String> {
    (credential.standing == Standing::Expired)
        .then(|| format!("app:{}:{}:{}", belongs.app, Reason::CredentialExpired.label(), credential.key_id))
}

/// The cause of a warning: each warning about a credential is one, so that each is mailed once.
fn warning_key(credential: &CredentialState, belongs: Belongs<'_>) -> Option<String> {
    let Standing::Expiring(warning) = credential.standing else { return None };
    let owner = match &credential.reader {
        Some(reader) => format!("reader:{reader}"),
        None => format!("app:{}", belongs.app),
    };
    let reason = Reason::CredentialExpiring.label();
    Some(format!("{owner}:{reason}:{}:{}", credential.key_id, warning.label()))
}

/// The credential of an integration that a cause is about, if it is about one.
pub fn credential_of_cause<'s>(
    key: &str,
    belongs: Belongs<'_>,
    state: &'s IntegrationState,
) -> Option<&'s CredentialState> {
    let is = |c: &&CredentialState| {
        [expired_key(c, belongs), warning_key(c, belongs)].iter().flatten().any(|k| k == key)
    };
    state.credentials.iter().find(is)
}

/// The cause of a failed check. `None` if the audience of the reason is the admins, or if it is one of those that have a [`LASTING`] key.
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

/// Reasons that operators are notified of only when they last: the probe had no result.
fn is_lasting_only(reason: Reason) -> bool {
    reason.is_inconclusive() && reason != Reason::CredentialUnreadable
}

/// Which of our files cannot be read: the evidence names it.
fn unreadable_file(check: &CheckState) -> String {
    check.details.note.clone().unwrap_or_default()
}

/// Why and where a check of an integration has no result. The place is the tenant; for a credential of ours that cannot be read it is the
/// file, because its tenants are not the cause.
pub fn affected_by(state: &IntegrationState, tenant: &str) -> Option<(Reason, String)> {
    let (check, _, reason) = state.dark(Reason::is_inconclusive).next()?;
    let place =
        if reason == Reason::CredentialUnreadable { unreadable_file(check) } else { tenant.to_owned() };
    Some((reason, place))
}

/// The cause of a credential of ours that cannot be read: one per file while at most two are unreadable, one of the application from the
/// third on. A shared secret is one file. A member of such a cause stays in it.
fn unreadable_key(app: &str, what: &str, affected: &Affected, own: &BTreeSet<String>) -> String {
    let wide = format!("app:{app}:{}", Reason::CredentialUnreadable.label());
    if let Some(known) = own.iter().find(|key| key.starts_with(&wide)) {
        return known.clone();
    }
    match affected.places(Reason::CredentialUnreadable) {
        ..FLEET => format!("{wide}:{what}"),
        _ => wide,
    }
}

/// From this many affected tenants on, a reason is one cause of the whole fleet.
const FLEET: usize = 3;

const LASTING: &str = "upstream:";

/// The cause of checks that have had no result for long: one per tenant while at most two tenants are affected by the same reason, one of
/// the whole fleet from the third on. A member of such a cause stays in it until there is a result: an outage causes time-outs at one
/// moment and refused connections at another.
fn lasting_key(reason: Reason, tenant: &str, affected: &Affected, own: &BTreeSet<String>) -> Option<String> {
    if !is_lasting_only(reason) {
        return None;
    }
    let same_kind = |key: &str| key.starts_with("upstream:unclassified") == (reason == Reason::Unclassified);
    if let Some(known) =
        own.iter().find(|key| (key.starts_with(LASTING) && same_kind(key)) || *key == "upstream")
    {
        return Some(known.clone());
    }
    Some(match affected.places(reason) {
        ..FLEET => format!("{LASTING}{}:{tenant}", reason.label()),
        _ => format!("{LASTING}{}", reason.label()),
    })
}

/// Number of integrations whose last probe had no result, by reason and place: see [`affected_by`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected(HashMap<Reason, HashMap<String, usize>>);

impl Affected {
    /// Records that an integration's reason or place has changed.
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

    /// The number of places that a reason affects.
    pub fn places(&self, reason: Reason) -> usize {
        self.0.get(&reason).map_or(0, HashMap::len)
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
    fn failures_of_operators_have_a_cause() {
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
    fn a_lasting_unknown_is_one_cause_per_tenant_until_three_are_affected() {
        let mut affected = Affected::default();
        let key = |affected: &Affected, tenant: &str, own: &[&str]| {
            let own = own.iter().map(|key| (*key).to_owned()).collect();
            lasting_key(Reason::Timeout, tenant, affected, &own).unwrap_or_default()
        };
        let at = |reason, place: &str| Some((reason, place.to_owned()));
        affected.note(None, at(Reason::Timeout, "a"));
        affected.note(None, at(Reason::Timeout, "a"));
        affected.note(at(Reason::Throttled, "b"), at(Reason::Timeout, "b"));
        assert_eq!(key(&affected, "b", &[]), "upstream:timeout:b", "two tenants");
        affected.note(None, at(Reason::Timeout, "c"));
        assert_eq!(key(&affected, "c", &[]), "upstream:timeout", "the third");
        assert_eq!(
            key(&affected, "b", &["app:x", "upstream:network_error:b"]),
            "upstream:network_error:b",
            "a member stays"
        );
        assert_eq!(
            key(&affected, "c", &["upstream:unclassified:c"]),
            "upstream:timeout",
            "another kind does not hide it"
        );
        affected.note(at(Reason::Timeout, "a"), None);
        assert_eq!(affected.places(Reason::Timeout), 3, "the tenant's other integration is still affected");
        affected.note(at(Reason::Timeout, "a"), None);
        assert_eq!(key(&affected, "d", &[]), "upstream:timeout:d", "two again");
        assert_eq!(lasting_key(Reason::TokenRevoked, "a", &affected, &BTreeSet::new()), None);
        assert_eq!(lasting_key(Reason::CredentialUnreadable, "a", &affected, &BTreeSet::new()), None);
    }

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
}
