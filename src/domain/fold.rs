//! Folds the results of a probe into what is known of an integration.

use std::time::Duration;

use super::credential::CredentialState;
use super::diagnosis::{CheckResult, Diagnosis, ListedCredentials, Outcome, PermissionState};
use super::evidence::RequiredGroup;
use super::flapping::Recent;
use super::reason::{Audience, Check, Reason};
use super::time::Timestamp;
use super::verdict::{
    Blind, CheckState, Dark, GoodView, IntegrationState, KnownGroup, Named, Thresholds, Verdict,
};

/// The end of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeEnd {
    /// When it ended.
    pub at: Timestamp,
    /// Its length.
    pub duration: Duration,
    /// Time since the previous probe, on the steady clock. Zero for the first.
    pub elapsed: Duration,
    /// Whether the integration was re-authenticated before this probe began, and no good probe has been seen since.
    pub renewed: bool,
}

/// The state after one more probe.
pub fn fold(
    old: IntegrationState,
    diagnosis: &Diagnosis,
    probe: &ProbeEnd,
    thresholds: Thresholds,
) -> IntegrationState {
    let now = probe.at;
    let checks: Vec<CheckState> =
        diagnosis.checks.iter().map(|result| fold_check(old.check(result.check), result, probe)).collect();
    let known_groups = fold_groups(&old.known_groups, &diagnosis.required_groups, now);
    let good_view = good_view(&checks, diagnosis).or(old.good_view);
    let mut state = IntegrationState {
        checks,
        known_groups,
        good_view,
        last_probe: Some(now),
        duration: probe.duration,
        groups_visible: diagnosis.groups_visible.or(old.groups_visible),
        day: old.day.noted(diagnosis.overall(), now),
        permissions: fold_permissions(&old.permissions, &diagnosis.permissions),
        jobs: kept(Check::Provisioning, diagnosis, diagnosis.jobs.as_ref(), old.jobs),
        credentials: fold_credentials(diagnosis, old.credentials),
        reader_fault: if diagnosis.directory_silent || diagnosis.reader_silent {
            old.reader_fault
        } else {
            diagnosis.reader_fault.as_ref().map(|f| f.reason)
        },
        renewed: old.renewed || probe.renewed,
        ..old
    };
    match judged(&state, thresholds.lasting) {
        Judged::Pass => fold_pass(&mut state, thresholds),
        // What had failed passes again. What the others would show depends on the operators, so the integration is not known to be
        // healthy, but its failure is over.
        Judged::Recovered => {
            fold_pass(&mut state, thresholds);
            if state.verdict == Verdict::Healthy {
                state.verdict = Verdict::Unknown;
            }
        }
        Judged::Fail(reason) => {
            state.recent = state.recent.with(false);
            let since = fold_row(&mut state, now);
            let seen = Named { reason, exact: diagnosis.exact };
            state.verdict = fold_failure(&mut state, seen, since, thresholds, diagnosis.directory_silent);
        }
        Judged::Lasting(blind) => {
            fold_row(&mut state, blind.since);
            state.failures = state.failures.max(thresholds.failure);
            let seen = Named { reason: blind.reason, exact: false };
            state.verdict =
                fold_failure(&mut state, seen, blind.since, thresholds, diagnosis.directory_silent);
        }
        // An unknown result neither confirms nor ends a failure.
        Judged::Unknown => {
            state.unknowns = state.unknowns.saturating_add(1);
            state.unknown_since.get_or_insert(now);
        }
    }
    state
}

/// The state of an integration within the grace period, in which a failure is seen but not counted: shortly after a re-authentication,
/// consent is still spreading through Entra. It neither confirms a failure nor changes the verdict.
pub fn within_grace_period(before: &IntegrationState, after: IntegrationState) -> IntegrationState {
    let fails = matches!(after.overall(), Some(Outcome::Fail(_)));
    if !fails && after.verdict == before.verdict || after.overall() == Some(Outcome::Pass) {
        return after;
    }
    IntegrationState {
        verdict: before.verdict,
        exact: before.exact,
        named: before.named,
        failures: before.failures,
        failing_since: before.failing_since,
        candidate: before.candidate,
        recent: before.recent,
        flapping: before.flapping,
        ..after
    }
}

/// What a probe says of the integration as a whole.
enum Judged {
    Pass,
    /// The check that shows the confirmed failure passes, and the others pass or are unknown until the operators change something.
    Recovered,
    Fail(Reason),
    /// A check has been unknown for an admins' reason for so long that it counts as failing.
    Lasting(Blind),
    Unknown,
}

/// The earliest check that fails, or has been unknown for so long that it counts as failing, decides. A lasting unknown counts only while
/// the probe shows its reason: a transient fault changes nothing.
fn judged(state: &IntegrationState, lasting: Duration) -> Judged {
    for check in &state.checks {
        match (check.outcome, check.blind) {
            (Outcome::Fail(reason), _) if !reason.is_warning() => return Judged::Fail(reason),
            (Outcome::Unknown(reason), Some(blind)) if is_admins(reason) && blind.waited >= lasting => {
                return Judged::Lasting(blind);
            }
            _ => {}
        }
    }
    match state.verdict {
        _ if state.works() => Judged::Pass,
        Verdict::Broken { reason, .. } if is_over(state, reason) => Judged::Recovered,
        _ => Judged::Unknown,
    }
}

fn is_over(state: &IntegrationState, reason: Reason) -> bool {
    let home = reason.home().and_then(|check| state.check(check));
    home.is_some_and(|check| check.outcome.works()) && state.works_as_far_as_known()
}

fn is_admins(reason: Reason) -> bool {
    reason.audience() == Audience::Admins
}

/// Number of good probes in a row that end flapping.
const STEADY: u32 = 5;

fn fold_pass(state: &mut IntegrationState, thresholds: Thresholds) {
    state.recent = state.recent.with(true);
    (state.successes, state.failures, state.unknowns) = (state.successes.saturating_add(1), 0, 0);
    (state.failing_since, state.unknown_since, state.candidate, state.named) = (None, None, None, None);
    let enough = match (state.flapping, state.renewed) {
        (true, true) => 1,
        (true, false) => STEADY.max(thresholds.success),
        (false, _) => thresholds.success,
    };
    state.renewed = false;
    if state.successes >= enough || state.verdict == Verdict::Unknown {
        state.verdict = Verdict::Healthy;
        state.exact = false;
        if std::mem::take(&mut state.flapping) {
            state.recent = Recent::default();
        }
    }
}

/// Counts one more failing probe in a row; returns when the row began.
fn fold_row(state: &mut IntegrationState, since: Timestamp) -> Timestamp {
    (state.failures, state.successes, state.unknowns) = (state.failures.saturating_add(1), 0, 0);
    state.unknown_since = None;
    *state.failing_since.get_or_insert(since)
}

fn fold_failure(
    state: &mut IntegrationState,
    seen: Named,
    since: Timestamp,
    thresholds: Thresholds,
    silent: bool,
) -> Verdict {
    state.flapping = state.flapping || state.recent.flaps();
    let named = state.named.map_or(seen, |row| better(row, seen, silent));
    state.named = Some(named);
    let Verdict::Broken { reason, since: known_since } = state.verdict else {
        if state.failures < thresholds.failure && !state.flapping {
            return state.verdict;
        }
        state.exact = named.exact;
        return Verdict::Broken { reason: named.reason, since };
    };
    let known = Named { reason, exact: state.exact };
    let seen = better(known, seen, silent);
    if seen.reason == known.reason || refines(known, seen) {
        // The same reason, perhaps from a better source or more exact.
        (state.candidate, state.exact) = (None, known.exact || seen.exact);
        return Verdict::Broken { reason: seen.reason, since: known_since };
    }
    // Another reason counts only after it has been seen often enough, too: replicas disagree for a while.
    let times = match state.candidate {
        Some((candidate, times)) if candidate == seen.reason => times + 1,
        _ => 1,
    };
    if times >= thresholds.failure {
        (state.candidate, state.exact) = (None, seen.exact);
        return Verdict::Broken { reason: seen.reason, since };
    }
    state.candidate = Some((seen.reason, times));
    state.verdict
}

/// A weaker source does not replace the reason from the directory while the directory is silent. If both mean the same, this holds even
/// when the reader has lost its access.
fn better(known: Named, seen: Named, silent: bool) -> Named {
    let weaker = !seen.exact && says_the_same(seen.reason, known.reason);
    match () {
        () if seen.reason == known.reason => Named { exact: known.exact || seen.exact, ..seen },
        () if known.exact && (silent || weaker) => known,
        () => seen,
    }
}

/// Whether `seen` is the same reason as `known`, but more exact: from a better source, or because the application was found among the
/// deleted items meanwhile.
pub(super) fn refines(known: Named, seen: Named) -> bool {
    let found = known.reason == Reason::AppMissing && seen.reason == Reason::AppDeleted;
    seen.exact && says_the_same(known.reason, seen.reason) && (!known.exact || found)
}

/// Whether `weaker` may be the same failure as `stronger`, named less exactly by a weaker source.
fn says_the_same(weaker: Reason, stronger: Reason) -> bool {
    let one_of = |reasons: [Reason; 2]| reasons.contains(&weaker) && reasons.contains(&stronger);
    one_of([Reason::AppMissing, Reason::AppDeleted])
        || one_of([Reason::ConsentMissing, Reason::PermissionMissing])
}

/// What a check has listed; what it had listed before if it has no result now, and nothing if it is off.
fn kept<T: Clone>(check: Check, diagnosis: &Diagnosis, listed: Option<&Vec<T>>, old: Vec<T>) -> Vec<T> {
    match listed {
        Some(listed) => listed.clone(),
        None if diagnosis.checks.iter().any(|c| c.check == check) => old,
        None => Vec::new(),
    }
}

/// The credentials of the sources that were read, and what the others had listed before: a time-out ends no warning.
fn fold_credentials(diagnosis: &Diagnosis, old: Vec<CredentialState>) -> Vec<CredentialState> {
    if !diagnosis.checks.iter().any(|c| c.check == Check::Credential) {
        return Vec::new();
    }
    let Some(ListedCredentials { listed, unread }) = &diagnosis.credentials else { return old };
    let mut all = listed.clone();
    for known in old.into_iter().filter(|c| unread.contains(&c.source())) {
        // A certificate of ours has its thumbprint as id while the registration is not read.
        let same = |c: &CredentialState| c.reader == known.reader && c.is_same(&known);
        match all.iter_mut().find(|c| same(c)) {
            Some(ours) => *ours = CredentialState { standing: ours.standing, in_use: ours.in_use, ..known },
            None => all.push(known),
        }
    }
    all
}

fn fold_check(old: Option<&CheckState>, result: &CheckResult, probe: &ProbeEnd) -> CheckState {
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
        since: same.map_or(probe.at, |o| o.since),
        success,
        last_success: if result.outcome == Outcome::Pass {
            Some(probe.at)
        } else {
            old.and_then(|o| o.last_success)
        },
        blind: fold_blind(old.and_then(|o| o.blind), result.outcome, probe),
        dark: fold_dark(old.and_then(|o| o.dark), result.outcome, probe),
    }
}

/// Counted from the first unknown with an admins' reason to the next conclusive result; transient unknowns in between neither end nor
/// restart it.
fn fold_blind(old: Option<Blind>, outcome: Outcome, probe: &ProbeEnd) -> Option<Blind> {
    let Outcome::Unknown(reason) = outcome else { return None };
    let waited = old.map(|b| Blind { waited: b.waited.saturating_add(probe.elapsed), ..b });
    match (waited, is_admins(reason)) {
        (Some(blind), true) => Some(Blind { reason, ..blind }),
        (None, true) => Some(Blind { reason, since: probe.at, waited: Duration::ZERO }),
        (blind, false) => blind,
    }
}

/// Counted from the first unknown with an operators' reason to the next conclusive result; unknowns with an admins' reason in between
/// neither end nor restart it.
fn fold_dark(old: Option<Dark>, outcome: Outcome, probe: &ProbeEnd) -> Option<Dark> {
    let Outcome::Unknown(reason) = outcome else { return None };
    let waited = old.map(|d| Dark { waited: d.waited.saturating_add(probe.elapsed), ..d });
    match (waited, is_admins(reason)) {
        (Some(dark), false) => Some(Dark { probes: dark.probes.saturating_add(1), ..dark }),
        (None, false) => Some(Dark { waited: Duration::ZERO, probes: 1 }),
        (dark, true) => dark,
    }
}

/// A permission that is unknown now keeps its last known state.
fn fold_permissions(old: &[PermissionState], new: &[PermissionState]) -> Vec<PermissionState> {
    let known = |n: &PermissionState| {
        let before = old
            .iter()
            .find(|o| o.resource == n.resource && o.permission == n.permission && o.grant == n.grant);
        n.granted.or_else(|| before.and_then(|o| o.granted))
    };
    new.iter().map(|n| PermissionState { granted: known(n), ..n.clone() }).collect()
}

/// The ids with which groups that are required by name were first seen. A group that is required by its id is not recorded.
fn fold_groups(old: &[KnownGroup], seen: &[RequiredGroup], now: Timestamp) -> Vec<KnownGroup> {
    if seen.is_empty() {
        return old.to_vec();
    }
    let by_name = seen.iter().filter(|g| !g.ids.iter().any(|id| id.eq_ignore_ascii_case(&g.name)));
    let fold = |group: &RequiredGroup| {
        let known = old.iter().find(|k| k.name == group.name);
        let (Some(known), Some(first)) = (known, group.ids.first()) else {
            let first = group.ids.first().map(|id| KnownGroup {
                name: group.name.clone(),
                id: id.clone(),
                replaced_by: None,
            });
            return known.cloned().or(first);
        };
        let is = |id: &String| group.ids.contains(id);
        let replaced_by = match &known.replaced_by {
            _ if is(&known.id) => None,
            Some((id, since)) if is(id) => Some((id.clone(), *since)),
            _ => Some((first.clone(), now)),
        };
        Some(KnownGroup { replaced_by, ..known.clone() })
    };
    by_name.filter_map(fold).collect()
}

/// What the integration's own token sees while `group_access` passes.
fn good_view(checks: &[CheckState], diagnosis: &Diagnosis) -> Option<GoodView> {
    let groups = diagnosis.groups_visible?;
    let well = checks.iter().any(|c| c.check == Check::GroupAccess && c.outcome == Outcome::Pass);
    let required =
        || diagnosis.required_groups.iter().filter(|g| g.visible()).map(|g| g.name.clone()).collect();
    well.then(|| GoodView { groups, required: required() })
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
