//! How long a re-authentication is verified by probes, and what follows from that.

use std::time::Duration;

use super::time::Timestamp;

/// After a re-authentication an integration is probed at once and after these pauses: consent takes a minute or two to spread
/// through Entra (Microsoft, azure-docs issue 84585).
pub const VERIFICATION_PROBES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(15), Duration::from_secs(60), VERIFICATION_WINDOW];

/// The last of these probes starts so long after the sign-in.
pub const VERIFICATION_WINDOW: Duration = Duration::from_secs(120);

/// A restart goes on with a verification that began at most so long ago: the last probe may have been under way.
pub const RESUMABLE: Duration = VERIFICATION_WINDOW.saturating_add(Duration::from_secs(30));

/// So long after a sign-in the last probe has ended, and it is known whether the alert has ended, too.
pub const UNTIL_VERIFIED: Duration = VERIFICATION_WINDOW.saturating_add(Duration::from_secs(60));

/// The result of a probe after a re-authentication, or after a callback that claims one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Which integration.
    pub integration: String,
    /// Whether enterprise app and consent are as required; `None` if unknown.
    pub consent_holds: Option<bool>,
    /// Whether every check passes.
    pub passed: bool,
    /// Whether no further probe is pending for it.
    pub last: bool,
    /// When the verification began, on the wall clock.
    pub since: Timestamp,
}
