//! Whether somebody must be told, and who.

use super::reason::{Audience, Reason};
use super::verdict::Verdict;

/// What has been said about an integration so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alert {
    /// Nothing is open.
    #[default]
    Resolved,
    /// People were told of this reason.
    Firing {
        /// The reason last told.
        reason: Reason,
    },
}

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It broke.
    Opened(Reason),
    /// It is still broken, for another reason.
    Changed(Reason),
    /// It works again.
    Resolved,
}

/// The alert that follows from a verdict, and the news in it. Deciding twice changes nothing.
pub fn decide(alert: Alert, verdict: &Verdict) -> (Alert, Option<Notice>) {
    match (alert, *verdict) {
        // Not knowing is no news: a broken network must neither alarm nor reassure.
        (alert, Verdict::Unknown) => (alert, None),
        (Alert::Resolved, Verdict::Healthy) => (Alert::Resolved, None),
        (Alert::Resolved, Verdict::Broken { reason, .. }) => (Alert::Firing { reason }, Some(Notice::Opened(reason))),
        (Alert::Firing { .. }, Verdict::Healthy) => (Alert::Resolved, Some(Notice::Resolved)),
        (Alert::Firing { reason: told }, Verdict::Broken { reason, .. }) if told == reason => (alert, None),
        (Alert::Firing { .. }, Verdict::Broken { reason, .. }) => (Alert::Firing { reason }, Some(Notice::Changed(reason))),
    }
}

/// What operators are told of as one thing, however many integrations suffer from it. `None` when the reason is the admins' business.
pub fn cause_key(reason: Reason, app: &str, tenant: &str, reader: Option<&str>) -> Option<String> {
    if reason.audience() == Audience::Admins {
        return None;
    }
    Some(match reason {
        Reason::TenantMissing => format!("tenant:{tenant}:{}", reason.label()),
        Reason::ReaderPermissionMissing => format!("reader:{}:{tenant}", reader.unwrap_or_default()),
        Reason::Throttled | Reason::UpstreamUnavailable | Reason::Timeout | Reason::NetworkError | Reason::InvalidResponse => {
            // An outage shows itself now as a time-out and now as a refused connection; it is one.
            "upstream".to_owned()
        }
        _ => format!("app:{app}:{}", reason.label()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::time::Timestamp;
    use super::*;

    #[test]
    fn news_is_told_once() {
        let broken = |reason| Verdict::Broken { reason, since: Timestamp::default() };
        let firing = |reason| Alert::Firing { reason };
        let (revoked, missing) = (Reason::TokenRevoked, Reason::AppMissing);
        for (sentence, alert, verdict, expected) in [
            ("a failure is news", Alert::Resolved, broken(revoked), (firing(revoked), Some(Notice::Opened(revoked)))),
            ("the same failure is not", firing(revoked), broken(revoked), (firing(revoked), None)),
            ("another reason is", firing(revoked), broken(missing), (firing(missing), Some(Notice::Changed(missing)))),
            ("recovery is", firing(revoked), Verdict::Healthy, (Alert::Resolved, Some(Notice::Resolved))),
            ("health is not", Alert::Resolved, Verdict::Healthy, (Alert::Resolved, None)),
            ("not knowing is not", firing(revoked), Verdict::Unknown, (firing(revoked), None)),
        ] {
            let (next, notice) = decide(alert, &verdict);
            assert_eq!((next, notice), expected, "{sentence}");
            assert_eq!(decide(next, &verdict), (next, None), "{sentence}, decided twice");
        }
    }

    #[test]
    fn operators_hear_of_causes() {
        let key = |reason| cause_key(reason, "sequr", "t1", Some("r"));
        for (reason, expected) in [
            (Reason::TokenRevoked, None),
            (Reason::ClientCredentialExpired, Some("app:sequr:client_credential_expired")),
            (Reason::TenantMissing, Some("tenant:t1:tenant_missing")),
            (Reason::ReaderPermissionMissing, Some("reader:r:t1")),
            (Reason::Timeout, Some("upstream")),
            (Reason::NetworkError, Some("upstream")),
        ] {
            assert_eq!(key(reason).as_deref(), expected, "{reason:?}");
        }
    }
}
