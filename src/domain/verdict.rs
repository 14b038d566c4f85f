//! From probe to probe: folding results into what is known of an integration.

use std::time::Duration;

use super::day::Day;
use super::diagnose::{CheckResult, Details, Diagnosis, Outcome, PermissionState};
use super::reason::{Check, Reason};
use super::time::Timestamp;

/// How often something must be seen before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed probes in a row before an integration counts as broken. At least 1.
    pub failure: u32,
    /// Good probes in a row before it counts as mended. At least 1.
    pub success: u32,
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
    /// Another reason than the verdict's, seen so many times in a row.
    pub candidate: Option<(Reason, u32)>,
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

    /// As the person behind a link reads it: it works only when the last probe has seen it work.
    pub fn health(&self) -> Health {
        match (self.verdict, self.overall()) {
            (Verdict::Broken { reason, since }, _) => Health::Broken { reason, since },
            (Verdict::Healthy, Some(Outcome::Pass)) => Health::Working,
            (_, outcome) => Health::Unknown { token_missing: outcome == Some(Outcome::Fail(Reason::TokenMissing)) },
        }
    }

    /// As the metrics count it: a single failure that is not confirmed leaves an integration healthy.
    pub fn confirmed_health(&self) -> Health {
        if self.verdict == Verdict::Healthy { Health::Working } else { self.health() }
    }

    /// The state of one check.
    pub fn check(&self, check: Check) -> Option<&CheckState> {
        self.checks.iter().find(|c| c.check == check)
    }
}

/// The state after one more probe that ended at `now`.
pub fn fold(old: IntegrationState, diagnosis: &Diagnosis, duration: Duration, thresholds: Thresholds, now: Timestamp) -> IntegrationState {
    let checks = diagnosis.checks.iter().map(|result| fold_check(old.check(result.check), result, now)).collect();
    let mut state = IntegrationState {
        checks,
        last_probe: Some(now),
        duration,
        groups_visible: diagnosis.groups_visible.or(old.groups_visible),
        day: old.day.noted(diagnosis.overall(), now),
        permissions: fold_permissions(&old.permissions, &diagnosis.permissions),
        reader_fault: if diagnosis.directory_silent { old.reader_fault } else { diagnosis.reader_fault.as_ref().map(|f| f.reason) },
        ..old
    };
    match diagnosis.overall() {
        Outcome::Pass => {
            (state.successes, state.failures, state.unknowns) = (state.successes.saturating_add(1), 0, 0);
            (state.failing_since, state.unknown_since, state.candidate) = (None, None, None);
            if state.successes >= thresholds.success || state.verdict == Verdict::Unknown {
                state.verdict = Verdict::Healthy;
            }
        }
        Outcome::Fail(reason) => {
            (state.failures, state.successes, state.unknowns) = (state.failures.saturating_add(1), 0, 0);
            state.unknown_since = None;
            let since = *state.failing_since.get_or_insert(now);
            state.verdict = fold_failure(&mut state, reason, since, thresholds, diagnosis.directory_silent);
        }
        // Not knowing is no news: it neither confirms nor mends.
        Outcome::Unknown(_) => {
            state.unknowns = state.unknowns.saturating_add(1);
            state.unknown_since.get_or_insert(now);
        }
    }
    state
}

/// A state in which a failure is seen but not counted: shortly after a re-authentication, consent is still spreading through
/// Entra, and neither confirms a failure nor changes what is held to be true.
pub fn spare(before: &IntegrationState, after: IntegrationState) -> IntegrationState {
    if !matches!(after.overall(), Some(Outcome::Fail(_))) {
        return after;
    }
    IntegrationState {
        verdict: before.verdict,
        failures: before.failures,
        failing_since: before.failing_since,
        candidate: before.candidate,
        ..after
    }
}

fn fold_failure(state: &mut IntegrationState, reason: Reason, since: Timestamp, thresholds: Thresholds, directory_silent: bool) -> Verdict {
    match state.verdict {
        // What the directory said of the application stands until it speaks again: the token endpoint cannot tell a deleted
        // application from a missing one, nor who disabled it.
        Verdict::Broken { reason: known, .. } if directory_silent && known.is_presence() && reason.is_presence() => state.verdict,
        Verdict::Broken { reason: known, since } if known == reason => {
            state.candidate = None;
            Verdict::Broken { reason, since }
        }
        Verdict::Broken { reason: known, since } => {
            // Another reason counts only when it, too, has been seen often enough: replicas disagree for a while.
            let seen = match state.candidate {
                Some((candidate, seen)) if candidate == reason => seen + 1,
                _ => 1,
            };
            if seen >= thresholds.failure {
                state.candidate = None;
                return Verdict::Broken { reason, since };
            }
            state.candidate = Some((reason, seen));
            Verdict::Broken { reason: known, since }
        }
        _ if state.failures >= thresholds.failure => Verdict::Broken { reason, since },
        verdict => verdict,
    }
}

fn fold_check(old: Option<&CheckState>, result: &CheckResult, now: Timestamp) -> CheckState {
    let success = match result.outcome {
        Outcome::Pass => Some(true),
        Outcome::Fail(_) => Some(false),
        Outcome::Unknown(_) => old.and_then(|o| o.success),
    };
    let same = old.filter(|o| o.outcome == result.outcome);
    CheckState {
        check: result.check,
        outcome: result.outcome,
        details: result.details.clone(),
        since: same.map_or(now, |o| o.since),
        success,
        last_success: if result.outcome == Outcome::Pass { Some(now) } else { old.and_then(|o| o.last_success) },
    }
}

/// A permission about which nothing could be learnt keeps its last known state.
fn fold_permissions(old: &[PermissionState], new: &[PermissionState]) -> Vec<PermissionState> {
    let known = |n: &PermissionState| {
        let before = old.iter().find(|o| o.resource == n.resource && o.permission == n.permission && o.grant == n.grant);
        n.granted.or_else(|| before.and_then(|o| o.granted))
    };
    new.iter().map(|n| PermissionState { granted: known(n), ..n.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWICE: Thresholds = Thresholds { failure: 2, success: 1 };

    fn diagnosis(outcome: Outcome) -> Diagnosis {
        let checks = vec![CheckResult { check: Check::GroupAccess, outcome, details: Details::default() }];
        Diagnosis { checks, permissions: vec![], groups_visible: None, reader_fault: None, directory_silent: false }
    }

    fn run(outcomes: &[Outcome], thresholds: Thresholds) -> IntegrationState {
        let step = |(state, now): (IntegrationState, i64), outcome: &Outcome| {
            (fold(state, &diagnosis(*outcome), Duration::ZERO, thresholds, Timestamp::from_seconds(now)), now + 1)
        };
        outcomes.iter().fold((IntegrationState::default(), 1), step).0
    }

    #[test]
    fn a_failure_is_confirmed_and_mended() {
        use Outcome::{Fail, Pass, Unknown};
        let revoked = Fail(Reason::TokenRevoked);
        let missing = Fail(Reason::AppMissing);
        let unknown = Unknown(Reason::Throttled);
        let broken = |reason, since| Verdict::Broken { reason, since: Timestamp::from_seconds(since) };
        let slow = Thresholds { failure: 2, success: 3 };
        for (sentence, outcomes, thresholds, expected) in [
            ("one failure is not believed", vec![Pass, revoked], TWICE, Verdict::Healthy),
            ("two are, since the first", vec![Pass, revoked, revoked], TWICE, broken(Reason::TokenRevoked, 2)),
            ("of a new integration, too", vec![revoked, revoked], TWICE, broken(Reason::TokenRevoked, 1)),
            ("one failure of a new one leaves it unknown", vec![revoked], TWICE, Verdict::Unknown),
            ("not knowing does not confirm", vec![Pass, revoked, unknown], TWICE, Verdict::Healthy),
            ("not knowing does not reassure either", vec![Pass, revoked, unknown, revoked], TWICE, broken(Reason::TokenRevoked, 2)),
            ("not knowing alone is nothing", vec![unknown, unknown, unknown], TWICE, Verdict::Unknown),
            ("a good probe in between starts anew", vec![revoked, Pass, revoked], TWICE, Verdict::Healthy),
            ("mended at once", vec![revoked, revoked, Pass], TWICE, Verdict::Healthy),
            ("mended slowly", vec![revoked, revoked, Pass, Pass], slow, broken(Reason::TokenRevoked, 1)),
            ("mended slowly, at last", vec![revoked, revoked, Pass, Pass, Pass], slow, Verdict::Healthy),
            ("another reason once is not believed", vec![revoked, revoked, missing], TWICE, broken(Reason::TokenRevoked, 1)),
            ("another reason twice is", vec![revoked, revoked, missing, missing], TWICE, broken(Reason::AppMissing, 1)),
            (
                "reasons that take turns change nothing",
                vec![revoked, revoked, missing, revoked, missing],
                TWICE,
                broken(Reason::TokenRevoked, 1),
            ),
        ] {
            assert_eq!(run(&outcomes, thresholds).verdict, expected, "{sentence}");
        }
    }

    #[test]
    fn health_in_words() {
        use Outcome::{Fail, Pass, Unknown};
        let (revoked, missing) = (Fail(Reason::TokenRevoked), Fail(Reason::TokenMissing));
        let unknown = |token_missing| Health::Unknown { token_missing };
        let broken = Health::Broken { reason: Reason::TokenRevoked, since: Timestamp::from_seconds(1) };
        for (sentence, outcomes, to_the_person, confirmed) in [
            ("never probed", vec![], unknown(false), unknown(false)),
            ("well", vec![Pass], Health::Working, Health::Working),
            ("a first failure", vec![Pass, revoked], unknown(false), Health::Working),
            ("nothing learnt", vec![Pass, Unknown(Reason::Timeout)], unknown(false), Health::Working),
            ("nobody has signed in, as it seems", vec![missing], unknown(true), unknown(true)),
            ("confirmed", vec![revoked, revoked], broken, broken),
        ] {
            let state = run(&outcomes, TWICE);
            assert_eq!((state.health(), state.confirmed_health()), (to_the_person, confirmed), "{sentence}");
        }
    }

    #[test]
    fn a_failure_that_is_spared_is_seen_but_not_counted() {
        let healthy = run(&[Outcome::Pass], TWICE);
        let fail = diagnosis(Outcome::Fail(Reason::ConsentMissing));
        let mut state = healthy.clone();
        for second in 2..6 {
            state = spare(&state, fold(state.clone(), &fail, Duration::ZERO, TWICE, Timestamp::from_seconds(second)));
        }
        assert_eq!((state.verdict, state.failures, state.failing_since), (Verdict::Healthy, 0, None));
        assert_eq!(state.overall(), Some(Outcome::Fail(Reason::ConsentMissing)), "pages show it");
        let pass = spare(&state, fold(state.clone(), &diagnosis(Outcome::Pass), Duration::ZERO, TWICE, Timestamp::from_seconds(9)));
        assert_eq!(pass.last_probe, Some(Timestamp::from_seconds(9)));
        assert_eq!(pass.verdict, Verdict::Healthy);
    }

    #[test]
    fn a_check_keeps_its_last_conclusive_result() {
        let state = run(&[Outcome::Pass, Outcome::Unknown(Reason::Timeout)], TWICE);
        let check = state.check(Check::GroupAccess).expect("probed");
        assert_eq!(
            (check.success, check.last_success, check.since),
            (Some(true), Some(Timestamp::from_seconds(1)), Timestamp::from_seconds(2))
        );
    }
}
