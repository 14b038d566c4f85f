//! What is known of an integration between probes.

use std::time::Duration;

use super::day::Day;
use super::diagnosis::{Details, Outcome, PermissionState};
use super::flapping::Recent;
use super::reason::{Check, Reason};
use super::time::Timestamp;

/// How often something must be seen before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed probes in a row before an integration counts as broken. At least 1.
    pub failure: u32,
    /// Good probes in a row before it works again. At least 1.
    pub success: u32,
    /// A check that is unknown for a reason of the admins' for so long counts as failing with that reason.
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
    /// It has been unknown for a reason of the admins' since its last conclusive result.
    pub blind: Option<Blind>,
    /// The same for a reason of the operators'.
    pub dark: Option<Dark>,
}

/// A check about which a reason of the operators' (a network that is away, mostly) leaves nothing to be learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dark {
    /// For how long, counted on a clock that nobody sets.
    pub waited: Duration,
    /// In so many probes.
    pub probes: u32,
}

/// A check about which a reason of the admins' (a dead token, mostly) leaves nothing to be learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blind {
    /// The reason seen last.
    pub reason: Reason,
    /// When it was seen first.
    pub since: Timestamp,
    /// For how long, counted on a clock that nobody sets.
    pub waited: Duration,
}

/// A group that is required by name, and the object id with which it was seen first: the product's rules may be bound to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGroup {
    /// As configured.
    pub name: String,
    /// Object id with which it was seen first.
    pub id: String,
    /// Another group bears the name now, and that one does not any more: its object id, and since when.
    pub replaced_by: Option<(String, Timestamp)>,
}

/// How people are told that an integration is.
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
        /// As far as it is known, nobody has signed in yet.
        token_missing: bool,
    },
}

/// What the integration's own token saw when `group_access` passed last: a new token that sees less does not replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoodView {
    /// Groups, counted up to 1000.
    pub groups: u32,
    /// The required groups that were visible, as configured.
    pub required: Vec<String>,
}

/// What a failing probe calls the failure, and how good its source is: the directory is a better one than the token endpoint, which cannot
/// tell a deleted application from a missing one, nor who disabled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The primary reason.
    pub reason: Reason,
    /// The directory said so.
    pub exact: bool,
}

/// Everything remembered of an integration between probes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntegrationState {
    /// One entry per enabled check that was probed.
    pub checks: Vec<CheckState>,
    /// What is held to be true.
    pub verdict: Verdict,
    /// Failing probes in a row; results that say nothing do not break the row.
    pub failures: u32,
    /// Good probes in a row.
    pub successes: u32,
    /// Probes in a row that said nothing.
    pub unknowns: u32,
    /// When the present row of failing probes began.
    pub failing_since: Option<Timestamp>,
    /// When the present row of probes that said nothing began.
    pub unknown_since: Option<Timestamp>,
    /// The best name of the present row of failing probes.
    pub named: Option<Named>,
    /// Another reason than the verdict's, seen so many times in a row.
    pub candidate: Option<(Reason, u32)>,
    /// The verdict's reason was seen in the directory.
    pub exact: bool,
    /// The last conclusive probes.
    pub recent: Recent,
    /// It is broken because it flaps.
    pub flapping: bool,
    /// It was re-authenticated, and no good probe has come since.
    pub renewed: bool,
    /// Groups required by name, and their ids.
    pub known_groups: Vec<KnownGroup>,
    /// End of the last probe.
    pub last_probe: Option<Timestamp>,
    /// Length of the last probe.
    pub duration: Duration,
    /// Groups seen last.
    pub groups_visible: Option<u32>,
    /// Required permissions as last known.
    pub permissions: Vec<PermissionState>,
    /// A lasting fault of the directory reader.
    pub reader_fault: Option<Reason>,
    /// What the own token saw when it was well last.
    pub good_view: Option<GoodView>,
    /// The last day, hour by hour.
    pub day: Day,
}

impl IntegrationState {
    /// Outcome of the last probe, all checks together.
    pub fn overall(&self) -> Option<Outcome> {
        let outcomes = || self.checks.iter().map(|c| c.outcome);
        let failed = outcomes().find(|o| matches!(o, Outcome::Fail(_)));
        failed.or_else(|| outcomes().find(|o| matches!(o, Outcome::Unknown(_)))).or_else(|| outcomes().next())
    }

    /// As the person behind a link reads it: it works only when the last probe has seen every enabled check pass.
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

    /// As pages and the API count it: a single failure that is not confirmed leaves an integration healthy, and nothing is called healthy
    /// while an enabled check is unknown or was never run.
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

    /// Checks that this version looks at.
    fn run(&self) -> impl Iterator<Item = &CheckState> {
        self.checks.iter().filter(|c| c.check.is_run())
    }

    /// Every check that is looked at passes, and there is one.
    pub fn looked_at_passes(&self) -> bool {
        self.run().next().is_some() && self.run().all(|c| c.outcome == Outcome::Pass)
    }

    /// Checks of which nothing could be learnt for a reason of this kind, whatever is known of the others.
    pub fn dark(&self, kind: impl Fn(Reason) -> bool) -> impl Iterator<Item = (&CheckState, Dark, Reason)> {
        self.run().filter_map(move |c| match (c.outcome, c.dark) {
            (Outcome::Unknown(reason), Some(dark)) if kind(reason) => Some((c, dark, reason)),
            _ => None,
        })
    }

    /// Why nothing could be learnt of a check, where that is the operators' business.
    pub fn ignorance(&self) -> Option<Reason> {
        self.dark(Reason::is_inconclusive).map(|(_, _, reason)| reason).next()
    }

    /// The moments that are remembered.
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

    /// Whether something is remembered that lies in the future: the clock was set back since.
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.last_probe.is_some_and(|at| at > now) || self.clone().moments().any(|at| *at > now)
    }

    /// Nothing has happened later than now: the clock was set back since.
    pub fn cap(&mut self, now: Timestamp) {
        self.moments().for_each(|at| *at = (*at).min(now));
    }

    /// The state of one check.
    pub fn check(&self, check: Check) -> Option<&CheckState> {
        self.checks.iter().find(|c| c.check == check)
    }
}
