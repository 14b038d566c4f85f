//! Whether somebody must be notified.

use super::fold::says_the_same;
use super::reason::Reason;
use super::verdict::Verdict;

/// What people were notified of about an integration so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alert {
    /// Nothing is open.
    #[default]
    Resolved,
    /// People were notified of this reason.
    Firing {
        /// The reason of the last notice.
        reason: Reason,
        /// The directory said so.
        exact: bool,
    },
}

/// Why somebody is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It broke.
    Opened(Reason),
    /// It is still broken, for another reason.
    Changed(Reason),
    /// It works again.
    Resolved,
}

/// The alert that follows from a verdict, and the news in it. `exact` says that the verdict's reason was seen in the directory. Deciding
/// twice changes nothing.
pub fn decide(alert: Alert, verdict: &Verdict, exact: bool) -> (Alert, Option<Notice>) {
    match (alert, *verdict) {
        // Not knowing is no news: a broken network must neither alarm nor reassure.
        (alert, Verdict::Unknown) => (alert, None),
        (Alert::Resolved, Verdict::Healthy) => (Alert::Resolved, None),
        (Alert::Resolved, Verdict::Broken { reason, .. }) => (Alert::Firing { reason, exact }, Some(Notice::Opened(reason))),
        (Alert::Firing { .. }, Verdict::Healthy) => (Alert::Resolved, Some(Notice::Resolved)),
        (Alert::Firing { reason: told, exact: before }, Verdict::Broken { reason, .. }) if told == reason => {
            (Alert::Firing { reason, exact: before || exact }, None)
        }
        // The same said more exactly is no change.
        (Alert::Firing { reason: told, exact: false }, Verdict::Broken { reason, .. }) if exact && says_the_same(told, reason) => {
            (Alert::Firing { reason, exact }, None)
        }
        (Alert::Firing { .. }, Verdict::Broken { reason, .. }) => (Alert::Firing { reason, exact }, Some(Notice::Changed(reason))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::Timestamp;
    use super::*;

    #[test]
    fn news_is_sent_once() {
        let broken = |reason| Verdict::Broken { reason, since: Timestamp::default() };
        let firing = |reason| Alert::Firing { reason, exact: false };
        let (revoked, missing) = (Reason::TokenRevoked, Reason::AppMissing);
        let exactly = |reason| Alert::Firing { reason, exact: true };
        let deleted = Reason::AppDeleted;
        for (sentence, alert, verdict, exact, expected) in [
            ("a failure is news", Alert::Resolved, broken(revoked), false, (firing(revoked), Some(Notice::Opened(revoked)))),
            ("the same failure is not", firing(revoked), broken(revoked), false, (firing(revoked), None)),
            ("another reason is", firing(revoked), broken(missing), false, (firing(missing), Some(Notice::Changed(missing)))),
            ("recovery is", firing(revoked), Verdict::Healthy, false, (Alert::Resolved, Some(Notice::Resolved))),
            ("health is not", Alert::Resolved, Verdict::Healthy, false, (Alert::Resolved, None)),
            ("not knowing is not", firing(revoked), Verdict::Unknown, false, (firing(revoked), None)),
            ("the same said more exactly is not", firing(missing), broken(deleted), true, (exactly(deleted), None)),
            ("the same from the directory is not", firing(deleted), broken(deleted), true, (exactly(deleted), None)),
            (
                "another word of the directory is",
                exactly(deleted),
                broken(missing),
                true,
                (exactly(missing), Some(Notice::Changed(missing))),
            ),
        ] {
            let (next, notice) = decide(alert, &verdict, exact);
            assert_eq!((next, notice), expected, "{sentence}");
            assert_eq!(decide(next, &verdict, exact), (next, None), "{sentence}, decided twice");
        }
    }
}
