//! Synchronization jobs of an enterprise application: what Entra says of them, and what that means.

use super::reason::Reason;
use super::text::one_line;
use super::time::{Timestamp, day_and_minute};

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobCondition {
    /// It runs on its schedule.
    Running,
    /// It has a schedule and has not run yet.
    NeverRan,
    /// Its last run failed, and Entra repeats it without quarantine.
    Retrying,
    /// Entra runs it rarely, because it fails, and switches it off after four weeks.
    Quarantined,
    /// An administrator has paused it.
    Paused,
    /// It is switched off: by an administrator, or by Entra after four weeks in quarantine.
    Disabled,
    /// It was never set up completely.
    NotConfigured,
    /// Graph says something that is not known, in these words.
    Unclear(String),
}

impl JobCondition {
    /// Whether it is meant to run.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Running | Self::NeverRan | Self::Retrying | Self::Quarantined)
    }
}

/// A quarantine (Microsoft Graph, `synchronization-synchronizationquarantine.md`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quarantine {
    /// `EncounteredQuarantineException` and its like.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When Entra tries again.
    pub next_attempt: Option<Timestamp>,
}

/// A synchronization job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisioningJob {
    /// Its id, such as `scim.5f9c….a1b2…`.
    pub id: String,
    /// What it does.
    pub condition: JobCondition,
    /// The present quarantine, or the one after which it was switched off.
    pub quarantine: Option<Quarantine>,
    /// Code of the error of the quarantine, otherwise of the last run.
    pub error: Option<String>,
    /// End of the last successful run.
    pub last_success: Option<Timestamp>,
}

/// What is remembered of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobState {
    /// Its id.
    pub id: String,
    /// Whether it is in quarantine.
    pub quarantined: bool,
    /// End of its last successful run.
    pub last_success: Option<Timestamp>,
}

impl ProvisioningJob {
    /// What is remembered of it.
    pub fn state(&self) -> JobState {
        JobState {
            id: self.id.clone(),
            quarantined: self.condition == JobCondition::Quarantined,
            last_success: self.last_success,
        }
    }

    /// Microsoft's word for what is wrong: the code of the error, otherwise the reason of the quarantine.
    pub fn code(&self) -> Option<&String> {
        self.error.as_ref().or(self.quarantine.as_ref().and_then(|q| q.reason.as_ref()))
    }

    /// One line of evidence, as it is at `now`.
    pub fn line(&self, now: Timestamp) -> String {
        let quarantine = self.quarantine.clone().unwrap_or_default();
        let since = quarantine.since.map(|at| format!(" since {}", day_and_minute(at))).unwrap_or_default();
        let why = match (&quarantine.reason, &self.error) {
            (Some(reason), Some(error)) => format!(": {reason} ({error})"),
            (Some(word), None) | (None, Some(word)) => format!(": {word}"),
            (None, None) => String::new(),
        };
        let next = quarantine.next_attempt.filter(|at| *at > now && self.condition.is_active());
        let next =
            next.map(|at| format!("; Entra tries again at {}", day_and_minute(at))).unwrap_or_default();
        let condition = match &self.condition {
            JobCondition::Running => "running".to_owned(),
            JobCondition::NeverRan => "has not run yet".to_owned(),
            JobCondition::Retrying => format!("its last run failed, and Entra repeats it{why}"),
            JobCondition::Quarantined => format!("in quarantine{since}{why}{next}"),
            JobCondition::Paused => "paused by an administrator".to_owned(),
            JobCondition::Disabled if quarantine.since.is_some() => {
                format!("switched off after a quarantine{since}{why}")
            }
            JobCondition::Disabled => "switched off".to_owned(),
            JobCondition::NotConfigured => "not configured".to_owned(),
            JobCondition::Unclear(words) => words.clone(),
        };
        let last = match self.last_success {
            Some(at) => {
                let days = now.since(at).as_secs() / 86_400;
                let age = match days {
                    0 => "less than a day ago".to_owned(),
                    1 => "1 day ago".to_owned(),
                    days => format!("{days} days ago"),
                };
                format!("last successful run {}, {age}", day_and_minute(at))
            }
            None => "no successful run".to_owned(),
        };
        format!("job {}: {}; {last}", one_line(&self.id, 80), one_line(&condition, 280))
    }
}

/// What an administrator does in the Entra admin center about a quarantine or a job that does not run, by Microsoft's word for it: a
/// reason of a quarantine, or the code of its error (Microsoft, `application-provisioning-quarantine-status.md`).
fn provisioning_advice(code: Option<&str>) -> &'static str {
    let code = code.unwrap_or_default().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if says(&["toomanydeletes"]) {
        return "Entra stopped because it would delete more accounts than its limit allows. Under Provisioning > Overview, allow or reject the deletions.";
    }
    if says(&["escrow"]) {
        return "Most changes fail. Open Provisioning > Provisioning logs, correct the attribute mappings or the accounts that it names, then press Restart provisioning.";
    }
    if says(&["credential", "unauthorized", "unauthorised", "forbidden", "authentication", "token"]) {
        return "Entra cannot sign in to the application. Under Provisioning > Admin Credentials, enter the current Secret Token, press Test Connection, save, and press Restart provisioning.";
    }
    if says(&["incompatible", "endpoint", "unavailable", "timeout", "hostname", "notfound", "certificate"]) {
        return "Entra cannot reach the application's SCIM endpoint, or it does not answer as SCIM requires. Under Provisioning > Admin Credentials, check the Tenant URL, press Test Connection, and press Restart provisioning.";
    }
    if says(&["ondemand"]) {
        return "Somebody put the job into quarantine on demand. Under Provisioning > Overview, press Restart provisioning.";
    }
    if says(&["quarantineexception"]) {
        return "Entra cannot use the application's SCIM endpoint. Under Provisioning > Admin Credentials, check the Tenant URL and the Secret Token, press Test Connection, and press Restart provisioning.";
    }
    "Under Provisioning > Overview, read the error that Entra shows, correct it, and press Restart provisioning."
}

/// What to do about a reason, more exactly where the evidence has a code.
pub fn advice(reason: Reason, code: Option<&str>) -> &'static str {
    match reason {
        Reason::ProvisioningQuarantined => provisioning_advice(code),
        _ => reason.advice(),
    }
}

/// What a person must know who thinks of the link of other mails.
pub const NO_SCIM_BY_CONSENT: &str =
    "Re-authenticating does not help here: it renews the consent, not the SCIM token.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_microsofts_word() {
        for (code, expected) in [
            ("SystemForCrossDomainIdentityManagementCredentialValidationUnavailable", "Secret Token"),
            ("SystemForCrossDomainIdentityManagementServiceIncompatible", "Tenant URL, press"),
            ("EncounteredQuarantineException", "Tenant URL and the Secret Token"),
            ("EncounteredEscrowProportionThreshold", "attribute mappings"),
            ("EncounteredBaseEscrowThreshold", "attribute mappings"),
            ("TooManyDeletes", "deletions"),
            ("QuarantinedOnDemand", "on demand"),
            ("QuarantineOnDemand", "on demand"),
            ("Unknown", "read the error"),
            ("", "read the error"),
        ] {
            assert!(provisioning_advice(Some(code)).contains(expected), "{code}");
        }
    }

    #[test]
    fn a_line_says_what_a_job_does() {
        let now = Timestamp::from_seconds(1_772_323_200); // 2026-03-01
        let job = |condition, quarantine| ProvisioningJob {
            id: "scim.1".to_owned(),
            condition,
            quarantine,
            error: None,
            last_success: Some(Timestamp::from_seconds(1_772_323_200 - 3 * 86_400)),
        };
        let quarantine = Some(Quarantine {
            reason: Some("EncounteredQuarantineException".to_owned()),
            since: Some(Timestamp::from_seconds(1_772_236_800)),
            next_attempt: Some(Timestamp::from_seconds(1_772_330_400)),
        });
        for (job, expected) in [
            (
                job(JobCondition::Running, None),
                "job scim.1: running; last successful run 2026-02-26 00:00 UTC, 3 days ago",
            ),
            (
                job(JobCondition::Quarantined, quarantine.clone()),
                "job scim.1: in quarantine since 2026-02-28 00:00 UTC: EncounteredQuarantineException; Entra tries again at 2026-03-01 02:00 UTC; last successful run 2026-02-26 00:00 UTC, 3 days ago",
            ),
            (
                job(JobCondition::Disabled, quarantine),
                "job scim.1: switched off after a quarantine since 2026-02-28 00:00 UTC: EncounteredQuarantineException; last successful run 2026-02-26 00:00 UTC, 3 days ago",
            ),
            (
                ProvisioningJob { last_success: None, ..job(JobCondition::NeverRan, None) },
                "job scim.1: has not run yet; no successful run",
            ),
        ] {
            assert_eq!(job.line(now), expected);
        }
    }
}
