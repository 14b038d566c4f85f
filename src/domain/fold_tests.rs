//! Tables of cases from probe to probe.

use super::super::diagnosis::Details;
use super::super::verdict::Health;
use super::*;

const TWICE: Thresholds = Thresholds { failure: 2, success: 1, lasting: Duration::from_secs(12) };

fn diagnosis(outcome: Outcome) -> Diagnosis {
    let checks = vec![CheckResult { check: Check::GroupAccess, outcome, details: Details::default() }];
    Diagnosis {
        checks,
        permissions: vec![],
        groups_visible: None,
        required_groups: vec![],
        jobs: None,
        credentials: None,
        exact: false,
        reader_fault: None,
        directory_silent: false,
        reader_silent: false,
    }
}

fn end(second: i64) -> ProbeEnd {
    ProbeEnd {
        at: Timestamp::from_seconds(second),
        duration: Duration::ZERO,
        elapsed: Duration::from_secs(1),
        renewed: false,
    }
}

fn run(outcomes: &[Outcome], thresholds: Thresholds) -> IntegrationState {
    let step = |(state, now): (IntegrationState, i64), outcome: &Outcome| {
        (fold(state, &diagnosis(*outcome), &end(now), thresholds), now + 1)
    };
    outcomes.iter().fold((IntegrationState::default(), 1), step).0
}

#[test]
fn a_warning_fails_its_check_and_breaks_nothing() {
    use Outcome::{Fail, Pass};
    let warning = Fail(Reason::CredentialExpiring);
    let enabled = [Check::GroupAccess];
    for (sentence, outcomes) in [
        ("after a good probe", vec![Pass, warning]),
        ("from the start", vec![warning]),
        ("again and again", vec![warning; 20]),
        ("after a failure", vec![Fail(Reason::GroupMissing), Fail(Reason::GroupMissing), warning]),
        ("now and then", [Pass, warning].repeat(10)),
    ] {
        let state = run(&outcomes, TWICE);
        assert_eq!(
            (state.verdict, state.failures, state.flapping),
            (Verdict::Healthy, 0, false),
            "{sentence}"
        );
        assert_eq!(state.confirmed_health(&enabled), Health::Working, "{sentence}");
        assert_eq!(state.health(&enabled), Health::Working, "{sentence}");
        assert_eq!(state.check(Check::GroupAccess).and_then(|c| c.success), Some(false), "{sentence}");
    }
}

#[test]
fn a_failure_is_confirmed_and_ends() {
    use Outcome::{Fail, Pass, Unknown};
    let revoked = Fail(Reason::TokenRevoked);
    let missing = Fail(Reason::AppMissing);
    let unknown = Unknown(Reason::Throttled);
    let broken = |reason, since| Verdict::Broken { reason, since: Timestamp::from_seconds(since) };
    let slow = Thresholds { success: 3, ..TWICE };
    for (sentence, outcomes, thresholds, expected) in [
        ("one failure is not confirmed", vec![Pass, revoked], TWICE, Verdict::Healthy),
        ("two are, since the first", vec![Pass, revoked, revoked], TWICE, broken(Reason::TokenRevoked, 2)),
        ("a new integration, too", vec![revoked, revoked], TWICE, broken(Reason::TokenRevoked, 1)),
        ("one failure of a new integration leaves it unknown", vec![revoked], TWICE, Verdict::Unknown),
        ("an unknown does not confirm", vec![Pass, revoked, unknown], TWICE, Verdict::Healthy),
        (
            "an unknown does not end a row of failures",
            vec![Pass, revoked, unknown, revoked],
            TWICE,
            broken(Reason::TokenRevoked, 2),
        ),
        ("unknowns alone change nothing", vec![unknown, unknown, unknown], TWICE, Verdict::Unknown),
        ("a good probe in between restarts the count", vec![revoked, Pass, revoked], TWICE, Verdict::Healthy),
        ("fixed at once", vec![revoked, revoked, Pass], TWICE, Verdict::Healthy),
        ("fixed slowly", vec![revoked, revoked, Pass, Pass], slow, broken(Reason::TokenRevoked, 1)),
        ("fixed after three good probes", vec![revoked, revoked, Pass, Pass, Pass], slow, Verdict::Healthy),
        (
            "another reason once is not confirmed",
            vec![revoked, revoked, missing],
            TWICE,
            broken(Reason::TokenRevoked, 1),
        ),
        (
            "another reason twice is",
            vec![revoked, revoked, missing, missing],
            TWICE,
            broken(Reason::AppMissing, 1),
        ),
        (
            "alternating reasons change nothing",
            vec![revoked, revoked, missing, revoked, missing],
            TWICE,
            broken(Reason::TokenRevoked, 1),
        ),
    ] {
        assert_eq!(run(&outcomes, thresholds).verdict, expected, "{sentence}");
    }
}

#[test]
fn health_follows_verdict_and_last_probe() {
    use Outcome::{Fail, Pass, Unknown};
    let (revoked, missing) = (Fail(Reason::TokenRevoked), Fail(Reason::TokenMissing));
    let well = run(&[Outcome::Pass], TWICE);
    let enabled = [Check::GroupAccess, Check::Provisioning];
    let not_run = Health::Unknown { token_missing: false };
    assert_eq!(
        (well.health(&enabled), well.confirmed_health(&enabled)),
        (not_run, not_run),
        "a check that was never run"
    );
    let unknown = |token_missing| Health::Unknown { token_missing };
    let broken = Health::Broken { reason: Reason::TokenRevoked, since: Timestamp::from_seconds(1) };
    for (sentence, outcomes, shown, confirmed) in [
        ("never probed", vec![], unknown(false), unknown(false)),
        ("well", vec![Pass], Health::Working, Health::Working),
        ("a first failure", vec![Pass, revoked], unknown(false), Health::Working),
        ("no result", vec![Pass, Unknown(Reason::Timeout)], unknown(false), unknown(false)),
        ("nobody seems to have signed in", vec![missing], unknown(true), unknown(true)),
        ("confirmed", vec![revoked, revoked], broken, broken),
    ] {
        let state = run(&outcomes, TWICE);
        assert_eq!(
            (state.health(&[Check::GroupAccess]), state.confirmed_health(&[Check::GroupAccess])),
            (shown, confirmed),
            "{sentence}"
        );
    }
}

#[test]
fn a_failure_within_the_grace_period_is_seen_but_not_counted() {
    let healthy = run(&[Outcome::Pass], TWICE);
    let fail = diagnosis(Outcome::Fail(Reason::ConsentMissing));
    let mut state = healthy.clone();
    for second in 2..6 {
        state = within_grace_period(&state, fold(state.clone(), &fail, &end(second), TWICE));
    }
    assert_eq!((state.verdict, state.failures, state.failing_since), (Verdict::Healthy, 0, None));
    assert_eq!(state.overall(), Some(Outcome::Fail(Reason::ConsentMissing)), "pages show it");
    let pass = within_grace_period(&state, fold(state.clone(), &diagnosis(Outcome::Pass), &end(9), TWICE));
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

fn two(consent: Outcome, groups: Outcome, silent: bool, exact: bool) -> Diagnosis {
    let check = |check, outcome| CheckResult { check, outcome, details: Details::default() };
    Diagnosis {
        checks: vec![check(Check::EnterpriseApp, consent), check(Check::GroupAccess, groups)],
        directory_silent: silent,
        exact,
        ..diagnosis(Outcome::Pass)
    }
}

#[test]
fn a_lasting_unknown_with_an_admins_reason_counts_as_a_failure() {
    use Outcome::{Pass, Unknown};
    let (revoked, busy) = (Unknown(Reason::TokenRevoked), Unknown(Reason::UpstreamUnavailable));
    let lasting =
        |since| Verdict::Broken { reason: Reason::TokenRevoked, since: Timestamp::from_seconds(since) };
    let row = |first: Vec<Outcome>, then: Outcome, times: usize| {
        first.into_iter().chain(std::iter::repeat_n(then, times)).collect::<Vec<_>>()
    };
    for (sentence, outcomes, expected) in [
        ("not yet", row(vec![Pass], revoked, 12), Verdict::Healthy),
        ("after twelve intervals", row(vec![Pass], revoked, 13), lasting(2)),
        ("an integration that was never healthy", row(vec![], revoked, 13), lasting(1)),
        (
            "transient unknowns do not restart it",
            [row(vec![Pass], revoked, 6), row(vec![], busy, 6), vec![revoked]].concat(),
            lasting(2),
        ),
        (
            "nor do they count as the failure themselves",
            [row(vec![Pass], revoked, 6), row(vec![], busy, 30)].concat(),
            Verdict::Healthy,
        ),
        (
            "a good result restarts it",
            [row(vec![Pass], revoked, 11), vec![Pass], row(vec![], revoked, 12)].concat(),
            Verdict::Healthy,
        ),
        ("a transient fault alone never does", row(vec![Pass], busy, 500), Verdict::Healthy),
        (
            "it stays while the upstream fails",
            [row(vec![Pass], revoked, 13), vec![busy; 9]].concat(),
            lasting(2),
        ),
        (
            "it ends with the next good one",
            [row(vec![Pass], revoked, 13), vec![Pass]].concat(),
            Verdict::Healthy,
        ),
    ] {
        assert_eq!(run(&outcomes, TWICE).verdict, expected, "{sentence}");
    }
}

#[test]
fn flapping_is_broken_and_ends_with_five_good_ones() {
    use Outcome::{Fail, Pass, Unknown};
    let outcomes = |text: &str| -> Vec<Outcome> {
        let outcome = |c| match c {
            'p' => Pass,
            'f' => Fail(Reason::GroupMissing),
            _ => Unknown(Reason::Timeout),
        };
        text.chars().map(outcome).collect()
    };
    // A threshold that no row of failures reaches, so that flapping alone decides.
    let patient = Thresholds { failure: 99, ..TWICE };
    for (sentence, probes, thresholds, broken) in [
        ("alternating", "pfpfpfpfpf", patient, true),
        ("not yet", "pfpfpfpf", patient, false),
        ("a good probe does not declare it", "pffpfffp", patient, false),
        ("the next failed one does", "pffpfffpf", patient, true),
        ("unknowns in between count for nothing", "pfupfuupfupfupf", patient, true),
        ("four good ones are not enough", "pfpfpfpfpfpppp", patient, true),
        ("five are", "pfpfpfpfpfppppp", patient, false),
        ("a failure restarts the count", "pfpfpfpfpfppppfpppp", patient, true),
        ("afterwards everything is forgotten", "pfpfpfpfpfpppppfpfp", patient, false),
        ("an ordinary recovery keeps the history", "ffpffpffpffp", TWICE, true),
    ] {
        let state = run(&outcomes(probes), thresholds);
        assert_eq!(matches!(state.verdict, Verdict::Broken { .. }), broken, "{sentence}");
    }
    let flapping = run(&outcomes("pfpfpfpfpf"), TWICE);
    let renewed = ProbeEnd { renewed: true, ..end(50) };
    let failed = fold(flapping, &diagnosis(Fail(Reason::GroupMissing)), &renewed, TWICE);
    let passed = fold(failed, &diagnosis(Pass), &end(60), TWICE);
    assert_eq!(
        (passed.verdict, passed.flapping, passed.renewed),
        (Verdict::Healthy, false, false),
        "the first good one after a sign-in"
    );
}

/// The directory names the failure, and the reason of the token endpoint does not replace it while the directory is silent.
#[test]
fn the_best_evidence_names_the_failure() {
    let deleted = |reason| (reason, false, true);
    let away = |reason| (reason, true, false);
    let token = |reason| (reason, false, false);
    use Reason::{AppDeleted, AppMissing, ConsentMissing, PermissionMissing, TokenRevoked};
    for (sentence, probes, expected) in [
        ("the directory, then the token alone", vec![deleted(AppDeleted), away(AppMissing)], AppDeleted),
        ("the token alone, then the directory", vec![away(AppMissing), deleted(AppDeleted)], AppDeleted),
        ("more exact later", vec![away(AppMissing), away(AppMissing), deleted(AppDeleted)], AppDeleted),
        (
            "less exact after that",
            vec![away(AppMissing), away(AppMissing), deleted(AppDeleted), away(AppMissing)],
            AppDeleted,
        ),
        (
            "a revoked token does not replace it while the directory is silent",
            vec![deleted(AppDeleted), deleted(AppDeleted), away(TokenRevoked), away(TokenRevoked)],
            AppDeleted,
        ),
        (
            "found among the deleted items later",
            vec![deleted(AppMissing), deleted(AppMissing), deleted(AppDeleted), deleted(AppDeleted)],
            AppDeleted,
        ),
        (
            "the reader has lost its access",
            vec![deleted(AppDeleted), deleted(AppDeleted), token(AppMissing), token(AppMissing)],
            AppDeleted,
        ),
        (
            "another reason from the directory counts when it is seen twice",
            vec![
                deleted(PermissionMissing),
                deleted(PermissionMissing),
                deleted(ConsentMissing),
                deleted(ConsentMissing),
            ],
            ConsentMissing,
        ),
        (
            "without a directory, a new reason of the token counts",
            vec![
                token(PermissionMissing),
                token(PermissionMissing),
                token(ConsentMissing),
                token(ConsentMissing),
            ],
            ConsentMissing,
        ),
    ] {
        let fold = |(state, now): (IntegrationState, i64), (reason, silent, exact): &(Reason, bool, bool)| {
            let diagnosis = two(Outcome::Fail(*reason), Outcome::Fail(*reason), *silent, *exact);
            (fold(state, &diagnosis, &end(now), TWICE), now + 1)
        };
        let state = probes.iter().fold((IntegrationState::default(), 1), fold).0;
        assert!(
            matches!(state.verdict, Verdict::Broken { reason, .. } if reason == expected),
            "{sentence}: {:?}",
            state.verdict
        );
    }
}

#[test]
fn a_group_that_was_replaced_is_remembered_by_its_id() {
    let seen = |ids: &[&str]| Diagnosis {
        groups_visible: Some(3),
        required_groups: vec![RequiredGroup {
            name: "HQ".to_owned(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }],
        ..diagnosis(Outcome::Pass)
    };
    let mut state = IntegrationState::default();
    for (second, sentence, ids, expected) in [
        (1, "seen first", vec!["a"], ("a", None)),
        (2, "another group has the same name", vec!["b", "a"], ("a", None)),
        (3, "it is gone, and another group has the name", vec!["b"], ("a", Some(("b", 3)))),
        (4, "still", vec!["b"], ("a", Some(("b", 3)))),
        (5, "no group has the name", vec![], ("a", Some(("b", 3)))),
        (6, "a third", vec!["c"], ("a", Some(("c", 6)))),
        (7, "the first is back", vec!["a"], ("a", None)),
    ] {
        state = fold(state, &seen(&ids), &end(second), TWICE);
        let known = &state.known_groups[0];
        let replaced = known.replaced_by.as_ref().map(|(id, at)| (id.as_str(), at.0 / 1000));
        assert_eq!((known.id.as_str(), replaced), expected, "{sentence}");
    }
    let by_id = Diagnosis {
        required_groups: vec![RequiredGroup { name: "6F1C".to_owned(), ids: vec!["6f1c".to_owned()] }],
        ..seen(&[])
    };
    assert_eq!(
        fold(IntegrationState::default(), &by_id, &end(1), TWICE).known_groups,
        [],
        "a group required by id is not recorded"
    );
}

#[test]
fn a_diagnosis_without_results_passes_nothing() {
    let nothing = Diagnosis { checks: vec![], ..diagnosis(Outcome::Pass) };
    assert_eq!(nothing.overall(), Outcome::Unknown(Reason::Unclassified));
    let state = fold(IntegrationState::default(), &nothing, &end(1), TWICE);
    assert_eq!(
        (state.verdict, state.confirmed_health(&[])),
        (Verdict::Unknown, Health::Unknown { token_missing: false })
    );
}
