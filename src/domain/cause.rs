//! What operators are notified of as one thing, however many integrations suffer from it: which causes there are, and when one that stands
//! for long is notified again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::notification::Story;
use super::reason::{Audience, Reason};
use super::time::Timestamp;

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
    pub story: Story,
    /// Since when.
    pub since: Timestamp,
    /// Who suffers from it.
    pub members: HashSet<String>,
    /// What the operators were notified of.
    pub progress: Progress,
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
        let lately = |at: Timestamp| now.since(at) < PAUSE;
        if lately(self.notified) {
            return (Self { size: self.size.max(members), ..self.clone() }, false);
        }
        let grown = u64::from(members) * 2 >= u64::from(self.size) * 3;
        let named_is_well = self.named_left.is_some_and(|left| !lately(left));
        if grown || named_is_well {
            return (Self { notices: self.notices + 1, notified: now, size: members, named_left: None }, true);
        }
        (self.clone(), false)
    }
}

/// What operators are notified of as one thing when a check fails, or a credential of ours cannot be read. `None` when the reason is the
/// admins' business, or one of those that have a [`lasting_key`].
pub fn cause_key(reason: Reason, app: &str, tenant: &str, reader: Option<&str>) -> Option<String> {
    if reason.audience() == Audience::Admins || is_lasting_only(reason) {
        return None;
    }
    Some(match reason {
        Reason::TenantMissing => format!("tenant:{tenant}:{}", reason.label()),
        Reason::ReaderPermissionMissing => format!("reader:{}:{tenant}", reader.unwrap_or_default()),
        _ => format!("app:{app}:{}", reason.label()),
    })
}

/// Reasons that operators are notified of only when they last: nothing could be learnt.
fn is_lasting_only(reason: Reason) -> bool {
    reason.is_inconclusive() && reason != Reason::CredentialUnreadable
}

/// So many tenants that suffer from the same reason make it one cause of the whole fleet.
const FLEET: usize = 3;

const LASTING: &str = "upstream:";

/// The cause of an ignorance that lasts: one a tenant while at most two tenants suffer from the same reason, one of the whole fleet from the
/// third on. Whoever belongs to one already stays in it until something is learnt: an outage shows itself now as a time-out and now as a
/// refused connection.
pub fn lasting_key<'c>(reason: Reason, tenant: &str, suffering: &Suffering, mut own: impl Iterator<Item = &'c str>) -> Option<String> {
    if !is_lasting_only(reason) {
        return None;
    }
    if let Some(known) = own.find(|key| key.starts_with(LASTING) || *key == "upstream") {
        return Some(known.to_owned());
    }
    Some(match suffering.tenants(reason) {
        ..FLEET => format!("{LASTING}{}:{tenant}", reason.label()),
        _ => format!("{LASTING}{}", reason.label()),
    })
}

/// How many integrations of which tenants could not be learnt of by their last probe, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffering(HashMap<Reason, HashMap<String, usize>>);

impl Suffering {
    /// Notes that the reason for which nothing is known of an integration has changed.
    pub fn note(&mut self, tenant: &str, before: Option<Reason>, after: Option<Reason>) {
        if before == after {
            return;
        }
        if let Some(tenants) = before.and_then(|reason| self.0.get_mut(&reason))
            && let Some(count) = tenants.get_mut(tenant)
        {
            *count -= 1;
            if *count == 0 {
                tenants.remove(tenant);
            }
        }
        if let Some(reason) = after {
            *self.0.entry(reason).or_default().entry(tenant.to_owned()).or_default() += 1;
        }
    }

    /// In how many tenants somebody suffers from a reason.
    pub fn tenants(&self, reason: Reason) -> usize {
        self.0.get(&reason).map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_hear_of_causes() {
        let key = |reason| cause_key(reason, "sequr", "t1", Some("r"));
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
            lasting_key(Reason::Timeout, tenant, suffering, own.iter().copied()).unwrap_or_default()
        };
        suffering.note("a", None, Some(Reason::Timeout));
        suffering.note("a", None, Some(Reason::Timeout));
        suffering.note("b", Some(Reason::Throttled), Some(Reason::Timeout));
        assert_eq!(key(&suffering, "b", &[]), "upstream:timeout:b", "two tenants");
        suffering.note("c", None, Some(Reason::Timeout));
        assert_eq!(key(&suffering, "c", &[]), "upstream:timeout", "the third");
        assert_eq!(
            key(&suffering, "b", &["app:x", "upstream:network_error:b"]),
            "upstream:network_error:b",
            "whoever belongs to one stays"
        );
        suffering.note("a", Some(Reason::Timeout), None);
        assert_eq!(suffering.tenants(Reason::Timeout), 3, "the tenant's other integration still suffers");
        suffering.note("a", Some(Reason::Timeout), None);
        assert_eq!(key(&suffering, "d", &[]), "upstream:timeout:d", "two again");
        assert_eq!(lasting_key(Reason::TokenRevoked, "a", &suffering, std::iter::empty()), None);
        assert_eq!(lasting_key(Reason::CredentialUnreadable, "a", &suffering, std::iter::empty()), None);
    }

    #[test]
    fn a_cause_is_notified_again_when_it_has_become_another() {
        let at = |minutes: i64| Timestamp::from_seconds(minutes * 60);
        let progress = |size, named_left: Option<i64>| Progress { size, named_left: named_left.map(at), ..Progress::opened(at(0)) };
        for (sentence, progress, members, minute, size, again) in [
            ("whoever joins soon belongs to it", progress(1, None), 40, 59, 40, false),
            ("grown by half", progress(40, None), 60, 61, 60, true),
            ("grown by less", progress(40, None), 59, 61, 40, false),
            ("the second one, much later", progress(1, None), 2, 600, 2, true),
            ("the first left long ago", progress(10, Some(5)), 7, 70, 7, true),
            ("the first left lately", progress(10, Some(30)), 7, 70, 10, false),
            ("long ago, but at most hourly", progress(10, Some(-90)), 7, 30, 10, false),
        ] {
            let (next, notified) = progress.joined(members, at(minute));
            assert_eq!((next.size, notified), (size, again), "{sentence}");
            assert_eq!(next.notices, 1 + u32::from(again), "{sentence}");
        }
    }
}
