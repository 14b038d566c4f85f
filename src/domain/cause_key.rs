//! The keys of causes: which causes affect an integration after a probe.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::alert::OpenAlert;
use super::credential::{CredentialState, Standing, Warning};
use super::reason::{Audience, Reason};
use super::verdict::{CheckState, IntegrationState, Thresholds};

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
    let credentials = || after.credentials.iter();
    let warned =
        credentials().filter_map(|c| Some((warning_key(c, belongs, own)?, Reason::CredentialExpiring)));
    // Once Entra rejects an expired credential, the alert has Entra's reason, and the credential has expired all the same.
    let expired = credentials().filter_map(|c| expired_key(c, belongs)).filter(|key| own.contains(key));
    let expired = expired.map(|key| (key, Reason::CredentialExpired));
    // A fault of the reader counts after two probes, like every failure.
    let reader = after.reader_fault.filter(|_| before.reader_fault.is_some());
    let reader = reader.and_then(|r| Some((reader_key(r, belongs)?, r)));
    // What may not be read in another tenant than the integration's, such as the registration, is one cause of the application.
    let elsewhere = after
        .dark(|r| r == Reason::ReaderPermissionMissing)
        .find(|(_, dark, _)| dark.probes >= thresholds.failure && after.reader_fault.is_none())
        .map(|(_, _, reason)| (format!("app:{}:{}", belongs.app, reason.label()), reason));
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
    let single = [reader, elsewhere, unreadable].into_iter().chain(lasting).flatten();
    single.chain(broken).chain(warned).chain(expired).collect()
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
    (credential.standing == Standing::Expired).then(|| {
        format!("app:{}:{}:{}", belongs.app, Reason::CredentialExpired.label(), credential.identity())
    })
}

/// The cause of a warning: each warning about a credential is one, so that each is mailed once. A later warning is never followed by an earlier
/// one: the clock was set back, or another replica's clock is behind.
fn warning_key(credential: &CredentialState, belongs: Belongs<'_>, own: &BTreeSet<String>) -> Option<String> {
    let Standing::Expiring(warning) = credential.standing else { return None };
    let stem = warning_stem(credential, belongs);
    let key = |warning: Warning| format!("{stem}{}", warning.label());
    let later = Warning::ALL.into_iter().filter(|later| *later > warning).map(key).find(|k| own.contains(k));
    Some(later.unwrap_or_else(|| key(warning)))
}

/// The keys of a credential's warnings begin like this.
fn warning_stem(credential: &CredentialState, belongs: Belongs<'_>) -> String {
    let owner = match &credential.reader {
        Some(reader) => format!("reader:{reader}"),
        None => format!("app:{}", belongs.app),
    };
    format!("{owner}:{}:{}:", Reason::CredentialExpiring.label(), credential.identity())
}

/// The credential of an integration that a cause is about, if it is about one.
pub fn credential_of_cause<'s>(
    key: &str,
    belongs: Belongs<'_>,
    state: &'s IntegrationState,
) -> Option<&'s CredentialState> {
    let is = |c: &&CredentialState| {
        let warns = Warning::ALL.into_iter().any(|w| warning_stem(c, belongs) + w.label() == key);
        warns || expired_key(c, belongs).as_deref() == Some(key)
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

#[cfg(test)]
mod tests {
    use super::super::credential::CredentialKind;
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
    fn each_credential_and_each_warning_is_a_cause() {
        let belongs = Belongs { app: "sequr", tenant: "t1", reader: Some("r") };
        let credential = |reader: Option<&str>, key_id: &str, standing| CredentialState {
            reader: reader.map(str::to_owned),
            kind: CredentialKind::ClientSecret,
            key_id: key_id.to_owned(),
            name: None,
            thumbprint: None,
            ends: None,
            in_use: false,
            standing,
        };
        let week = Standing::Expiring(Warning::Week);
        let state = |credentials| IntegrationState { credentials, ..IntegrationState::default() };
        for (sentence, state, alert, own, expected) in [
            ("all is well", state(vec![credential(None, "k", Standing::Fine)]), None, "", ""),
            ("a leftover", state(vec![credential(None, "k", Standing::Leftover)]), None, "", ""),
            (
                "the application's own expires",
                state(vec![credential(None, "k", week)]),
                None,
                "",
                "app:sequr:credential_expiring:k:week",
            ),
            (
                "the reader's expires",
                state(vec![credential(Some("r"), "k", Standing::Expiring(Warning::Begun))]),
                None,
                "",
                "reader:r:credential_expiring:k:begun",
            ),
            (
                "the clock was set back to an earlier warning",
                state(vec![credential(None, "k", Standing::Expiring(Warning::Begun))]),
                None,
                "app:sequr:credential_expiring:k:week",
                "app:sequr:credential_expiring:k:week",
            ),
            (
                "two have expired, and it is confirmed",
                state(vec![
                    credential(None, "a", Standing::Expired),
                    credential(None, "b", Standing::Expired),
                ]),
                Some(Reason::CredentialExpired),
                "",
                "app:sequr:credential_expired:a app:sequr:credential_expired:b",
            ),
            (
                "it has expired, and that is not confirmed yet",
                state(vec![credential(None, "a", Standing::Expired)]),
                None,
                "",
                "",
            ),
            (
                "it was replaced, and the alert is not over yet",
                state(vec![credential(None, "b", Standing::Fine)]),
                Some(Reason::CredentialExpired),
                "app:sequr:credential_expired:a",
                "app:sequr:credential_expired:a",
            ),
            (
                "nothing is known of it",
                state(Vec::new()),
                Some(Reason::CredentialExpired),
                "",
                "app:sequr:credential_expired",
            ),
        ] {
            let own: BTreeSet<String> = own.split_whitespace().map(str::to_owned).collect();
            let mut keys: Vec<String> =
                state.credentials.iter().filter_map(|c| warning_key(c, belongs, &own)).collect();
            keys.extend(
                alert.into_iter().flat_map(|r| broken_keys(r, belongs, &state, &own)).map(|(key, _)| key),
            );
            assert_eq!(keys.join(" "), expected, "{sentence}");
        }
    }
}
