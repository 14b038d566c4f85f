//! Provisioning jobs as Graph lists them, for [`crate::Action::SetProvisioningJobs`].

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Graph's time for what has never happened.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// A job that runs every forty minutes; `last_success` is the end of its last execution.
pub fn active(id: &str, last_success: Timestamp) -> Value {
    let execution = execution("Succeeded", last_success);
    let mut job = job(id, "Active", "Active");
    let status = &mut job["status"];
    status["lastExecution"] = execution.clone();
    status["lastSuccessfulExecution"] = execution.clone();
    status["lastSuccessfulExecutionWithExports"] = execution;
    status["steadyStateFirstAchievedTime"] = json!(last_success.to_string());
    status["steadyStateLastAchievedTime"] = json!(last_success.to_string());
    status["synchronizedEntryCountByType"] = json!([{"key": "User", "value": 12}]);
    job
}

/// A job that Entra has put into quarantine at `since`, after one failed execution. `code` and `message` are the error's.
pub fn quarantined(id: &str, reason: &str, code: &str, message: &str, since: Timestamp) -> Value {
    let error = json!({"code": code, "message": message, "tenantActionable": true});
    let mut job = job(id, "Active", "Quarantine");
    let status = &mut job["status"];
    status["countSuccessiveCompleteFailures"] = json!(1);
    status["lastExecution"] = execution("Failed", since);
    status["lastExecution"]["error"] = error.clone();
    // The first attempt follows after six hours.
    let next = since + SignedDuration::from_hours(6);
    status["quarantine"] = json!({"currentBegan": since.to_string(), "nextAttempt": next.to_string(),
        "seriesBegan": since.to_string(), "seriesCount": 1, "reason": reason, "error": error});
    job
}

/// A job that somebody has paused.
pub fn paused(id: &str) -> Value {
    job(id, "Paused", "Paused")
}

/// A job that is switched off, with the interval that Graph then shows: the longest that its type can hold.
pub fn disabled(id: &str) -> Value {
    let mut job = job(id, "Disabled", "NotConfigured");
    job["schedule"]["interval"] = json!("P10675199DT2H48M5.4775807S");
    job
}

/// A job that is switched on and has not run yet.
pub fn never_ran(id: &str) -> Value {
    job(id, "Active", "NotRun")
}

/// A job without any execution.
fn job(id: &str, schedule: &str, code: &str) -> Value {
    json!({
        "id": id, "templateId": "scim",
        "schedule": {"expiration": null, "interval": "PT40M", "state": schedule},
        "status": {
            "code": code, "countSuccessiveCompleteFailures": 0, "escrowsPruned": false, "lastExecution": null,
            "lastSuccessfulExecution": null, "lastSuccessfulExecutionWithExports": null, "progress": [],
            "quarantine": null, "steadyStateFirstAchievedTime": NEVER, "steadyStateLastAchievedTime": NEVER,
            "synchronizedEntryCountByType": [], "troubleshootingUrl": null,
        },
    })
}

/// An execution of one minute that ended at this time.
fn execution(state: &str, ended: Timestamp) -> Value {
    let began = ended - SignedDuration::from_mins(1);
    json!({"activityIdentifier": "6a0c8ff7-8f24-4bd9-a2a1-6d4c5a6a3b1e", "state": state, "timeBegan": began.to_string(),
        "timeEnded": ended.to_string(), "countEntitled": 0, "countEntitledForProvisioning": 0, "countEscrowed": 0,
        "countEscrowedRaw": 0, "countExported": 0, "countExports": 0, "countImported": 0,
        "countImportedDeltas": 0, "countImportedReferenceDeltas": 0, "error": null})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{APP, CUSTOMER, act, read, world};

    const MAY: &[&str] = &["Synchronization.Read.All"];

    #[test]
    fn jobs_have_the_states_of_their_names() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let quarantine = quarantined("q", "EncounteredQuarantineException", "Refused", "No access", at);
        for (job, schedule, code, last, steady) in [
            (active("a", at), "Active", "Active", json!("2023-11-14T22:13:20Z"), "2023-11-14T22:13:20Z"),
            (quarantine.clone(), "Active", "Quarantine", json!(null), NEVER),
            (paused("p"), "Paused", "Paused", json!(null), NEVER),
            (disabled("d"), "Disabled", "NotConfigured", json!(null), NEVER),
            (never_ran("n"), "Active", "NotRun", json!(null), NEVER),
        ] {
            let status = &job["status"];
            assert_eq!(job["schedule"]["state"], schedule, "{job}");
            assert_eq!(status["code"], code, "{job}");
            assert_eq!(status["lastSuccessfulExecution"]["timeEnded"], last, "{job}");
            assert_eq!(status["steadyStateLastAchievedTime"], steady, "{job}");
            assert!(job["schedule"]["interval"].as_str().is_some_and(|i| i.starts_with('P')), "{job}");
        }
        let details = &quarantine["status"]["quarantine"];
        assert_eq!(details["reason"], "EncounteredQuarantineException");
        assert_eq!(details["currentBegan"], "2023-11-14T22:13:20Z");
        assert_eq!(details["error"]["code"], "Refused");
        assert_eq!(details["error"]["message"], "No access");
    }

    #[test]
    fn jobs_are_listed_below_the_object_id_only() {
        let mut world = world();
        let raw = json!([never_ran("1"), {"id": 7, "status": "odd"}]);
        let set = json!({"action": "set_provisioning_jobs", "tenant": CUSTOMER, "app": APP, "jobs": raw});
        act(&mut world, set).unwrap();
        let id = world.tenant(CUSTOMER).unwrap().principal(APP).unwrap().id;
        let zero = uuid::Uuid::nil();
        for (target, permissions, status) in [
            (format!("/servicePrincipals/{id}/synchronization/jobs"), MAY, 200),
            (format!("/servicePrincipals/{id}/synchronization/jobs/"), MAY, 200),
            (format!("/servicePrincipals/{id}/synchronization/jobs/?$top=9"), MAY, 200),
            (format!("/servicePrincipals(appId='{APP}')/synchronization/jobs"), MAY, 404),
            (format!("/servicePrincipals/(appId='{APP}')/synchronization/jobs"), MAY, 404),
            (format!("/servicePrincipals/{zero}/synchronization/jobs"), MAY, 404),
            (format!("/servicePrincipals/{id}/synchronization/jobs"), &[], 401),
        ] {
            let (found, body) = read(&world, CUSTOMER, permissions, &target);
            assert_eq!(found, status, "{target} with {permissions:?}");
            if status == 200 {
                assert_eq!(body["value"], raw, "{target}");
            }
        }
    }
}
