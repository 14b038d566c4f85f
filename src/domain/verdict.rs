//! What is known of an integration between probes.

use std::time::Duration;

use super::credential::CredentialState;
use super::day::Day;
use super::diagnosis::{Details, Outcome, PermissionState};
use super::flapping::Recent;
use super::provisioning::JobState;
use super::reason::{Check, Reason};
use super::time::Timestamp;

/// How often something must be seen before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed probes in a row until an integration counts as broken. At least 1.
    pub failure: u32,
    /// Good probes in a row until it works again. At least 1.
    pub success: u32,
    /// A check that is unknown for an admins' reason for this long counts as failing with that reason.
    pub lasting: Duration,
}

/// What is held to be true of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Not enough is known yet.
    #[default]
    Unknown,
    /// All enabled checks pass.
    Healthy,
    /// A failure was confirmed.
    Broken {
        /// The primary reason.
        reason: Reason,
        /// When the first of the failing probes ended.
        since: Timestamp,
    },
}

/// The last results of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckState {
    /// Which check.
    pub check: Check,
    /// Result of the last probe.
    pub outcome: Outcome,
    /// Evidence of the last probe.
    pub details: Details,
    /// Since when the outcome has been the same.
    pub since: Timestamp,
    /// Last conclusive result.
    pub success: Option<bool>,
    /// When it passed last.
    pub last_success: Option<Timestamp>,
    /// Set while it has been unknown for an admins' reason since its last conclusive result.
    pub blind: Option<Blind>,
    /// The same for an operators' reason.
    pub dark: Option<Dark>,
}

/// A check that has no result for an operators' reason, such as an unreachable network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dark {
    /// For how long, on the steady clock.
    pub waited: Duration,
    /// In how many probes.
    pub probes: u32,
}

/// A check that has no result for an admins' reason, such as a rejected token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blind {
    /// The reason seen last.
    pub reason: Reason,
    /// When it was seen first.
    pub since: Timestamp,
    /// For how long, on the steady clock.
    pub waited: Duration,
}

/// A group that is required by name, and the object id with which it was first seen: the product's rules may be bound to that id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGroup {
    /// As configured.
    pub name: String,
    /// Object id with which it was first seen.
    pub id: String,
    /// Set if another group has the name now and the first one does not: its object id, and since when.
    pub replaced_by: Option<(String, Timestamp)>,
}

/// The health of an integration as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// All checks pass.
    Working,
    /// A failure was confirmed.
    Broken {
        /// The primary reason.
        reason: Reason,
        /// Since when.
        since: Timestamp,
    },
    /// Not enough is known.
    Unknown {
        /// Whether nobody has signed in yet, as far as is known.
        token_missing: bool,
    },
}

/// What the integration's own token saw when `group_access` last passed: a new token that sees less does not replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoodView {
    /// Groups, counted up to 1000.
    pub groups: u32,
    /// The required groups that were visible, as configured.
    pub required: Vec<String>,
}

/// The reason of a failing probe and the quality of its source. The directory is a better source than the token endpoint, which cannot
/// distinguish a deleted application from a missing one, nor say who disabled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The primary reason.
    pub reason: Reason,
    /// Whether it was seen in the directory.
    pub exact: bool,
}

/// Everything remembered of an integration between probes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntegrationState {
    /// One entry per enabled check that was probed.
    pub checks: Vec<CheckState>,
    /// What is held to be true.
    pub verdict: Verdict,
    /// Failing probes in a row; unknown results do not break the row.
    pub failures: u32,
    /// Good probes in a row.
    pub successes: u32,
    /// Unknown results in a row.
    pub unknowns: u32,
    /// When the current row of failing probes began.
    pub failing_since: Option<Timestamp>,
    /// When the current row of unknown results began.
    pub unknown_since: Option<Timestamp>,
    /// The best reason in the current row of failing probes.
    pub named: Option<Named>,
    /// A reason other than the verdict's, and how many times in a row it was seen.
    pub candidate: Option<(Reason, u32)>,
    /// Whether the verdict's reason was seen in the directory.
    pub exact: bool,
    /// The last conclusive probes.
    pub recent: Recent,
    /// Whether it is broken because it flaps.
    pub flapping: bool,
    /// Whether it was re-authenticated and no good probe has come since.
    pub renewed: bool,
    /// Groups required by name, and their ids.
    pub known_groups: Vec<KnownGroup>,
    /// End of the last probe.
    pub last_probe: Option<Timestamp>,
    /// Length of the last probe.
    pub duration: Duration,
    /// Number of groups seen last.
    pub groups_visible: Option<u32>,
    /// Required permissions as last known.
    pub permissions: Vec<PermissionState>,
    /// The synchronization jobs as last listed.
    pub jobs: Vec<JobState>,
    /// The credentials as last listed.
    pub credentials: Vec<CredentialState>,
    /// A lasting fault of the directory reader.
    pub reader_fault: Option<Reason>,
    /// What the integration's own token saw when `group_access` last passed.
    pub good_view: Option<GoodView>,
    /// The last day, hour by hour.
    pub day: Day,
}

impl IntegrationState {
    /// Outcome of the last probe, all checks together: a check that warns counts as passed.
    pub fn overall(&self) -> Option<Outcome> {
        let outcomes =
            || self.checks.iter().map(|c| if c.outcome.works() { Outcome::Pass } else { c.outcome });
        let failed = outcomes().find(|o| matches!(o, Outcome::Fail(_)));
        failed.or_else(|| outcomes().find(|o| matches!(o, Outcome::Unknown(_)))).or_else(|| outcomes().next())
    }

    /// Health for the person who follows a link: working only if every enabled check passed in the last probe.
    pub fn health(&self, enabled: &[Check]) -> Health {
        let whole = enabled.iter().all(|check| self.check(*check).is_some());
        match (self.verdict, self.overall()) {
            (Verdict::Broken { reason, since }, _) => Health::Broken { reason, since },
            (Verdict::Healthy, Some(Outcome::Pass)) if whole => Health::Working,
            (_, outcome) => {
                Health::Unknown { token_missing: outcome == Some(Outcome::Fail(Reason::TokenMissing)) }
            }
        }
    }

    /// Health as pages and the API count it: an integration stays healthy after a single failure that is not confirmed, and is never
    /// healthy while an enabled check is unknown or was never run.
    pub fn confirmed_health(&self, enabled: &[Check]) -> Health {
        let whole = enabled
            .iter()
            .all(|check| self.check(*check).is_some_and(|c| !matches!(c.outcome, Outcome::Unknown(_))));
        if self.verdict == Verdict::Healthy && whole && !self.checks.is_empty() {
            Health::Working
        } else {
            self.health(enabled)
        }
    }

    /// Whether every check passes or only warns, and there is at least one.
    pub fn works(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|c| c.outcome.works())
    }

    /// Whether every check works, except those that are unknown until the operators change something; at least one works.
    pub fn works_as_far_as_known(&self) -> bool {
        let stands = |outcome| matches!(outcome, Outcome::Unknown(reason) if reason.is_standing());
        self.checks.iter().all(|c| c.outcome.works() || stands(c.outcome))
            && self.checks.iter().any(|c| c.outcome.works())
    }

    /// Checks that have no result for a reason of this kind, whatever the others show.
    pub fn dark(&self, kind: impl Fn(Reason) -> bool) -> impl Iterator<Item = (&CheckState, Dark, Reason)> {
        self.checks.iter().filter_map(move |c| match (c.outcome, c.dark) {
            (Outcome::Unknown(reason), Some(dark)) if kind(reason) => Some((c, dark, reason)),
            _ => None,
        })
    }

    /// All remembered times.
    fn moments(&mut self) -> impl Iterator<Item = &mut Timestamp> {
        let since = if let Verdict::Broken { since, .. } = &mut self.verdict { Some(since) } else { None };
        let rows =
            [&mut self.last_probe, &mut self.failing_since, &mut self.unknown_since].into_iter().flatten();
        let checks = self.checks.iter_mut().flat_map(|c| {
            std::iter::once(&mut c.since)
                .chain(c.last_success.iter_mut())
                .chain(c.blind.iter_mut().map(|b| &mut b.since))
        });
        let groups =
            self.known_groups.iter_mut().filter_map(|g| g.replaced_by.as_mut()).map(|(_, since)| since);
        since.into_iter().chain(rows).chain(checks).chain(groups)
    }

    /// Whether a remembered time lies in the future because the clock was set back.
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.last_probe.is_some_and(|at| at > now) || self.clone().moments().any(|at| *at > now)
    }

    /// Limits all remembered times to `now`, because the clock was set back.
    pub fn cap(&mut self, now: Timestamp) {
        self.moments().for_each(|at| *at = (*at).min(now));
    }

    /// The state of one check.
    pub fn check(&self, check: Check) -> Option<&CheckState> {
        self.checks.iter().find(|c| c.check == check)
    }
}
