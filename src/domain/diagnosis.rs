//! What a probe means: one result per check, and the evidence behind each.

use super::credential::{CredentialSource, CredentialState};
use super::evidence::{Fault, RequiredGroup};
use super::integration::Grant;
use super::provisioning::JobState;
use super::reason::{Check, Reason};
use super::time::Timestamp;

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is wrong.
    Pass,
    /// Something is broken.
    Fail(Reason),
    /// The check had no result.
    Unknown(Reason),
}

impl Outcome {
    /// The reason, if it does not pass.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Pass => None,
            Self::Fail(reason) | Self::Unknown(reason) => Some(reason),
        }
    }

    /// Whether the integration works as far as this check goes: a warning fails its check and breaks nothing.
    pub const fn works(self) -> bool {
        match self {
            Self::Pass => true,
            Self::Fail(reason) => reason.is_warning(),
            Self::Unknown(_) => false,
        }
    }

    /// `pass`, `fail` or `unknown`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Evidence behind a result, for logs, pages and mails, never for labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Missing permissions or groups, or unexpected permissions.
    pub items: Vec<String>,
    /// `AADSTS…` or Graph's error code.
    pub code: Option<String>,
    /// Correlation or request id.
    pub request_id: Option<String>,
    /// One sentence for operators.
    pub note: Option<String>,
    /// Until when a deleted application can be restored.
    pub restorable_until: Option<Timestamp>,
}

impl Details {
    pub(super) fn of(fault: &Fault) -> Self {
        let note = (!fault.detail.is_empty()).then(|| fault.detail.clone());
        Self { code: fault.code.clone(), request_id: fault.request_id.clone(), note, ..Self::default() }
    }

    /// The number and length of items is limited, because they are kept, logged and mailed.
    pub(super) fn items(mut items: Vec<String>) -> Self {
        const MOST: usize = 50;
        let more = items.len().saturating_sub(MOST);
        items.truncate(MOST);
        items.iter_mut().for_each(|i| *i = i.chars().take(500).collect());
        if more > 0 {
            items.push(format!("and {more} more"));
        }
        Self { items, ..Self::default() }
    }
}

/// A check with its result and evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Which check.
    pub check: Check,
    /// Its result.
    pub outcome: Outcome,
    /// Its evidence.
    pub details: Details,
}

/// Whether one required permission is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionState {
    /// The resource as configured.
    pub resource: String,
    /// The permission value.
    pub permission: String,
    /// How it has to be granted.
    pub grant: Grant,
    /// `None` if it is unknown.
    pub granted: Option<bool>,
}

/// What a probe means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// One result per enabled check, in the order of [`Check::ALL`].
    pub checks: Vec<CheckResult>,
    /// Every required permission that this evidence covers.
    pub permissions: Vec<PermissionState>,
    /// Number of groups seen.
    pub groups_visible: Option<u32>,
    /// The required groups, if groups were listed.
    pub required_groups: Vec<RequiredGroup>,
    /// The synchronization jobs, if they were listed.
    pub jobs: Option<Vec<JobState>>,
    /// The credentials, if they were listed.
    pub credentials: Option<ListedCredentials>,
    /// Whether the primary reason was seen in the directory.
    pub exact: bool,
    /// What keeps the directory reader from reading: for the operators, never a failure of the integration.
    pub reader_fault: Option<Fault>,
    /// The directory gave no conclusive answer: what is known of it stays.
    pub directory_silent: bool,
    /// What else the reader was asked had no conclusive answer: what is known of its faults stays.
    pub reader_silent: bool,
}

/// Credentials, and the sources that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCredentials {
    /// Those of the sources that were read.
    pub listed: Vec<CredentialState>,
    /// The sources that were not.
    pub unread: Vec<CredentialSource>,
}

impl Diagnosis {
    /// The reason of the earliest check that fails, warnings aside.
    pub fn primary(&self) -> Option<Reason> {
        self.checks.iter().find_map(|c| match c.outcome {
            Outcome::Fail(reason) if !reason.is_warning() => Some(reason),
            _ => None,
        })
    }

    /// Whether every check passes, and none warns.
    pub fn passes_without_warning(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|c| c.outcome == Outcome::Pass)
    }

    /// Pass when every check passes or warns, fail when one fails, unknown otherwise.
    pub fn overall(&self) -> Outcome {
        if let Some(reason) = self.primary() {
            return Outcome::Fail(reason);
        }
        let unknown = self.checks.iter().map(|c| c.outcome).find(|o| matches!(o, Outcome::Unknown(_)));
        // No check was run, which is not a success.
        let otherwise =
            if self.checks.is_empty() { Outcome::Unknown(Reason::Unclassified) } else { Outcome::Pass };
        unknown.unwrap_or(otherwise)
    }
}
