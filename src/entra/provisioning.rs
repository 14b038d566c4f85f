//! The synchronization jobs of an enterprise application (Microsoft Graph, `synchronization-synchronization-list-jobs.md`).

use std::time::Instant;

use serde_json::Value;

use super::Entra;
use super::classify::GraphCaller;
use super::graph::{GraphRequest, moment};
use crate::domain::{Fault, JobCondition, ProvisioningJob, Quarantine, Reason, one_line};

impl Entra {
    /// All jobs of the service principal with this object id. Graph's description knows no other key for it.
    ///
    /// # Errors
    /// The reason of Graph's error. A missing permission is 401 or 403.
    pub async fn synchronization_jobs(
        &self,
        token: &str,
        object_id: &str,
        deadline: Instant,
    ) -> Result<Vec<ProvisioningJob>, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Reader, deadline };
        let url = format!("{}/v1.0/servicePrincipals/{object_id}/synchronization/jobs", self.cloud.graph_url);
        // An application without provisioning may have no list at all.
        let Some(page) = self.find(request, &url).await.map_err(licence)? else { return Ok(Vec::new()) };
        let items = self.pages(request, page).await.map_err(licence)?;
        items.iter().map(|item| job(item).ok_or_else(|| invalid("a synchronization job has no id"))).collect()
    }
}

fn invalid(detail: &str) -> Fault {
    Fault::new(Reason::InvalidResponse, detail)
}

/// A tenant without the licence gets 403, too: granting a permission does not help there.
fn licence(fault: Fault) -> Fault {
    let code = fault.code.as_deref().unwrap_or_default().to_ascii_lowercase();
    let is_licence = ["nonpremium", "license", "licence"].iter().any(|word| code.contains(word));
    if fault.reason != Reason::ReaderPermissionMissing || !is_licence {
        return fault;
    }
    let detail =
        format!("{}: the tenant has no licence with which Graph shows synchronization jobs", fault.detail);
    Fault { reason: Reason::Unclassified, detail, ..fault }
}

/// A job as Graph shows it; `None` without an id.
fn job(item: &Value) -> Option<ProvisioningJob> {
    let status = &item["status"];
    let quarantine = &status["quarantine"];
    let word =
        |value: &Value| value.as_str().map(str::trim).filter(|w| !w.is_empty()).map(|w| one_line(w, 120));
    let last = &status["lastExecution"];
    let error = word(&quarantine["error"]["code"]).or_else(|| word(&last["error"]["code"]));
    let condition = condition(item);
    let shown = quarantine.is_object().then(|| Quarantine {
        reason: word(&quarantine["reason"]),
        // `seriesBegan` is the first of several quarantines in a row.
        since: moment(&quarantine["seriesBegan"]).or_else(|| moment(&quarantine["currentBegan"])),
        next_attempt: moment(&quarantine["nextAttempt"]),
    });
    let fails = !matches!(condition, JobCondition::Running | JobCondition::NeverRan);
    Some(ProvisioningJob {
        id: word(&item["id"])?,
        quarantine: shown,
        error: error.filter(|_| fails),
        last_success: moment(&status["lastSuccessfulExecution"]["timeEnded"])
            .or_else(|| moment(&status["lastSuccessfulExecution"]["timeBegan"])),
        condition,
    })
}

/// From `schedule.state` and `status.code`. Either may be absent, and either may get new words ("evolvable enumerations").
fn condition(item: &Value) -> JobCondition {
    let (schedule, status) = (&item["schedule"], &item["status"]);
    let lower =
        |value: &Value| value.as_str().map(|w| w.trim().to_ascii_lowercase()).filter(|w| !w.is_empty());
    let state = lower(&schedule["state"]);
    let code = lower(&status["code"]);
    let unclear = || {
        let shown = |value: &Value| value.as_str().map_or("nothing".to_owned(), |w| one_line(w, 60));
        JobCondition::Unclear(format!(
            "Graph shows a job with the schedule state {} and the status {}, which Consentry does not know",
            shown(&schedule["state"]),
            shown(&status["code"])
        ))
    };
    match (state.as_deref(), code.as_deref()) {
        (Some("disabled"), _) => JobCondition::Disabled,
        (Some("paused"), _) | (_, Some("paused")) => JobCondition::Paused,
        (_, Some("quarantine")) => JobCondition::Quarantined,
        (_, Some("notconfigured")) => JobCondition::NotConfigured,
        (Some("active") | None, _) => match code.as_deref() {
            Some("active") if lower(&status["lastExecution"]["state"]).as_deref() == Some("failed") => {
                JobCondition::Retrying
            }
            Some("active") => JobCondition::Running,
            // It has a schedule by which it will run; without one, it was never started.
            Some("notrun") | None if schedule.is_object() && !status["quarantine"].is_object() => {
                JobCondition::NeverRan
            }
            Some("notrun") => JobCondition::NotConfigured,
            None if status["quarantine"].is_object() => JobCondition::Quarantined,
            _ => unclear(),
        },
        _ => unclear(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn every_odd_shape_of_a_job() {
        let unclear = || JobCondition::Unclear(String::new());
        let active = json!({"state": "Active", "interval": "P10675199DT2H48M5.4775807S", "expiration": null});
        for (sentence, schedule, status, expected) in [
            ("it runs", active.clone(), json!({"code": "Active"}), JobCondition::Running),
            (
                "in other capitals",
                json!({"state": "active"}),
                json!({"code": "ACTIVE"}),
                JobCondition::Running,
            ),
            ("it has no schedule and runs", json!(null), json!({"code": "Active"}), JobCondition::Running),
            (
                "its last run failed",
                active.clone(),
                json!({"code": "Active", "lastExecution": {"state": "Failed"}}),
                JobCondition::Retrying,
            ),
            (
                "single entries failed",
                active.clone(),
                json!({"code": "Active", "lastExecution": {"state": "EntryLevelErrors"}}),
                JobCondition::Running,
            ),
            ("it never ran", active.clone(), json!({"code": "NotRun"}), JobCondition::NeverRan),
            ("it has no status", active.clone(), json!(null), JobCondition::NeverRan),
            (
                "it never ran and has no schedule",
                json!(null),
                json!({"code": "NotRun"}),
                JobCondition::NotConfigured,
            ),
            ("it has neither", json!(null), json!(null), unclear()),
            ("quarantine", active.clone(), json!({"code": "Quarantine"}), JobCondition::Quarantined),
            (
                "quarantine without schedule",
                json!(null),
                json!({"code": "Quarantine"}),
                JobCondition::Quarantined,
            ),
            (
                "a quarantine and no code",
                active.clone(),
                json!({"quarantine": {"reason": "Unknown"}}),
                JobCondition::Quarantined,
            ),
            (
                "no quarantine any more",
                active.clone(),
                json!({"code": "Active", "quarantine": null}),
                JobCondition::Running,
            ),
            (
                "paused in its schedule",
                json!({"state": "Paused"}),
                json!({"code": "Active"}),
                JobCondition::Paused,
            ),
            ("paused in its status", active.clone(), json!({"code": "Paused"}), JobCondition::Paused),
            (
                "switched off after a quarantine",
                json!({"state": "Disabled"}),
                json!({"code": "Quarantine"}),
                JobCondition::Disabled,
            ),
            ("not configured", active.clone(), json!({"code": "NotConfigured"}), JobCondition::NotConfigured),
            ("a new code", active, json!({"code": "Sleeping"}), unclear()),
            ("a new state", json!({"state": "Suspended"}), json!({"code": "Active"}), unclear()),
            (
                "a new state in quarantine",
                json!({"state": "X"}),
                json!({"code": "Quarantine"}),
                JobCondition::Quarantined,
            ),
        ] {
            let actual = condition(&json!({"id": "j", "schedule": schedule, "status": status}));
            let is_unclear = |c: &JobCondition| matches!(c, JobCondition::Unclear(_));
            assert!(
                actual == expected || is_unclear(&actual) && is_unclear(&expected),
                "{sentence}: {actual:?}"
            );
        }
    }

    #[test]
    fn the_evidence_of_a_quarantine() {
        let item = json!({"id": " scim.1 ", "schedule": {"state": "Active"}, "status": {
            "code": "Quarantine",
            "lastExecution": {"state": "Failed", "error": {"code": "Later"}},
            "lastSuccessfulExecution": {"timeEnded": "2026-02-01T00:00:00Z"},
            "quarantine": {"currentBegan": "2026-03-02T00:00:00Z", "seriesBegan": "2026-03-01T00:00:00Z",
                "nextAttempt": "0001-01-01T00:00:00Z", "reason": "EncounteredQuarantineException", "error": {"code": "BadToken"}},
        }});
        let seconds = |s| Some(Timestamp::from_seconds(s));
        let job = job(&item).expect("a job");
        assert_eq!((job.id.as_str(), job.error.as_deref()), ("scim.1", Some("BadToken")));
        assert_eq!(job.last_success, seconds(1_769_904_000));
        let quarantine = job.quarantine.expect("a quarantine");
        assert_eq!((quarantine.since, quarantine.next_attempt), (seconds(1_772_323_200), None));
        assert!(super::job(&json!({"status": {}})).is_none(), "a job without an id");
    }

    #[test]
    fn a_missing_licence_is_not_a_missing_permission() {
        for (code, expected) in [
            ("Authorization_RequestDenied", Reason::ReaderPermissionMissing),
            ("Authentication_RequestFromNonPremiumTenantOrB2CTenant", Reason::Unclassified),
            ("UnlicensedTenant", Reason::Unclassified),
        ] {
            let fault =
                Fault { code: Some(code.to_owned()), ..Fault::new(Reason::ReaderPermissionMissing, "") };
            assert_eq!(licence(fault).reason, expected, "{code}");
        }
    }
}
