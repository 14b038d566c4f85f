//! Is the synchronization job running?

use super::super::diagnosis::{Details, Outcome};
use super::super::evidence::{Evidence, Fault};
use super::super::provisioning::{JobCondition, ProvisioningJob};
use super::super::reason::Reason;
use super::super::time::Timestamp;
use super::{Judged, without_evidence};

/// `presence` is the outcome of the enterprise application, to which the jobs belong.
pub(super) fn judge_provisioning(evidence: &Evidence, presence: &Judged) -> Judged {
    match &evidence.jobs {
        Some(Ok(jobs)) => judge_jobs(jobs, evidence.at),
        // A job cannot be listed where there is no enterprise application.
        _ if matches!(presence.0, Outcome::Fail(reason) if reason.is_presence()) => presence.clone(),
        Some(Err(fault)) => without_evidence(fault),
        None => match presence {
            (Outcome::Unknown(reason), details) if reason.is_inconclusive() => {
                (Outcome::Unknown(*reason), details.clone())
            }
            _ => without_evidence(&unasked()),
        },
    }
}

fn unasked() -> Fault {
    Fault::new(
        Reason::ReaderPermissionMissing,
        "nothing may list the synchronization jobs: the check needs a directory_reader with Synchronization.Read.All",
    )
}

fn judge_jobs(jobs: &[ProvisioningJob], at: Timestamp) -> Judged {
    let outcome = match jobs {
        [] => Outcome::Fail(Reason::ProvisioningMissing),
        _ if has(jobs, |c| *c == JobCondition::Quarantined) => Outcome::Fail(Reason::ProvisioningQuarantined),
        // An unknown word may mean a failure, so nothing is concluded from the others.
        _ if has(jobs, |c| matches!(c, JobCondition::Unclear(_))) => Outcome::Unknown(Reason::Unclassified),
        _ if has(jobs, JobCondition::is_active) => Outcome::Pass,
        _ => Outcome::Fail(Reason::ProvisioningDisabled),
    };
    // What fails is said first.
    let mut sorted: Vec<&ProvisioningJob> = jobs.iter().collect();
    sorted.sort_by_key(|job| (job.condition != JobCondition::Quarantined, job.id.clone()));
    let lines = sorted.iter().map(|job| job.line(at)).collect();
    let code = sorted.first().filter(|_| outcome != Outcome::Pass).and_then(|job| job.code().cloned());
    (outcome, Details { code, ..Details::items(lines) })
}

fn has(jobs: &[ProvisioningJob], is: impl Fn(&JobCondition) -> bool) -> bool {
    jobs.iter().any(|job| is(&job.condition))
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::OwnToken;
    use super::*;
    use JobCondition::{Disabled, NeverRan, NotConfigured, Paused, Quarantined, Retrying, Running, Unclear};
    use Outcome::{Fail, Pass, Unknown};

    fn evidence(jobs: Option<Result<Vec<ProvisioningJob>, Fault>>) -> Evidence {
        Evidence {
            directory: None,
            app_only: None,
            own_token: OwnToken::NotUsed,
            groups: None,
            jobs,
            credentials: None,
            at: Timestamp::from_seconds(1_772_323_200),
        }
    }

    fn job(id: &str, condition: JobCondition) -> ProvisioningJob {
        ProvisioningJob { id: id.to_owned(), condition, quarantine: None, error: None, last_success: None }
    }

    fn listed(conditions: &[JobCondition]) -> Option<Result<Vec<ProvisioningJob>, Fault>> {
        Some(Ok(conditions.iter().enumerate().map(|(i, c)| job(&i.to_string(), c.clone())).collect()))
    }

    #[test]
    fn jobs_and_what_they_mean() {
        let fault = |reason| Some(Err(Fault::new(reason, "")));
        let unclear = || Unclear("?".to_owned());
        let present = || (Pass, Details::default());
        let deleted = || (Fail(Reason::AppDeleted), Details::default());
        let disabled = || (Fail(Reason::AppDisabled), Details::default());
        let dark = || (Unknown(Reason::NetworkError), Details::default());
        for (sentence, presence, jobs, expected) in [
            ("a job runs", present(), listed(&[Running]), Pass),
            ("it never ran and has a schedule", present(), listed(&[NeverRan]), Pass),
            ("its last run failed, and Entra repeats it", present(), listed(&[Retrying]), Pass),
            ("it is in quarantine", present(), listed(&[Quarantined]), Fail(Reason::ProvisioningQuarantined)),
            (
                "one of two is in quarantine",
                present(),
                listed(&[Running, Quarantined]),
                Fail(Reason::ProvisioningQuarantined),
            ),
            ("one is paused, another runs", present(), listed(&[Paused, Running]), Pass),
            ("it is paused", present(), listed(&[Paused]), Fail(Reason::ProvisioningDisabled)),
            ("it is switched off", present(), listed(&[Disabled]), Fail(Reason::ProvisioningDisabled)),
            (
                "it was never set up completely",
                present(),
                listed(&[NotConfigured]),
                Fail(Reason::ProvisioningDisabled),
            ),
            ("there is none", present(), listed(&[]), Fail(Reason::ProvisioningMissing)),
            ("a word that is not known", present(), listed(&[unclear()]), Unknown(Reason::Unclassified)),
            (
                "a word that is not known beside a job that runs",
                present(),
                listed(&[Running, unclear()]),
                Unknown(Reason::Unclassified),
            ),
            (
                "a quarantine beside a word that is not known",
                present(),
                listed(&[unclear(), Quarantined]),
                Fail(Reason::ProvisioningQuarantined),
            ),
            ("the application was deleted", deleted(), None, Fail(Reason::AppDeleted)),
            ("deleted, and the list fails", deleted(), fault(Reason::Timeout), Fail(Reason::AppDeleted)),
            ("disabled for sign-in, which stops no job", disabled(), listed(&[Running]), Pass),
            (
                "the reader may not list jobs",
                present(),
                fault(Reason::ReaderPermissionMissing),
                Unknown(Reason::ReaderPermissionMissing),
            ),
            ("Graph is throttled", present(), fault(Reason::Throttled), Unknown(Reason::Throttled)),
            (
                "our secret has expired",
                present(),
                fault(Reason::ClientCredentialExpired),
                Fail(Reason::ClientCredentialExpired),
            ),
            ("nothing may ask", present(), None, Unknown(Reason::ReaderPermissionMissing)),
            ("the directory did not answer", dark(), None, Unknown(Reason::NetworkError)),
        ] {
            let (outcome, _) = judge_provisioning(&evidence(jobs), &presence);
            assert_eq!(outcome, expected, "{sentence}");
            if let Some(reason) = outcome.reason() {
                assert!(reason.possible_in(super::super::Check::Provisioning), "{sentence}");
            }
        }
    }

    #[test]
    fn every_job_is_evidence_and_the_quarantine_comes_first() {
        let quarantined = ProvisioningJob { error: Some("BadToken".to_owned()), ..job("z", Quarantined) };
        let jobs = Some(Ok(vec![job("a", Running), quarantined]));
        let (_, details) = judge_provisioning(&evidence(jobs), &(Pass, Details::default()));
        assert_eq!(
            details.items,
            ["job z: in quarantine: BadToken; no successful run", "job a: running; no successful run"]
        );
        assert_eq!(details.code.as_deref(), Some("BadToken"));
    }
}
