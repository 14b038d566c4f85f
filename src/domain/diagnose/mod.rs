//! From evidence to one result per check, as one pure function.
//!
//! Rules: presence comes before consent, consent before token, token before groups. A check that fails only because of an earlier cause has
//! that cause's reason. A check that has no result because the token is rejected is unknown with the token's reason. If directory and token
//! disagree, the directory wins on presence and consent, the token on access. A reader that may not read never breaks an integration.

mod consent;
mod credential;
mod groups;
mod presence;
mod provisioning;

use super::contradiction::about_presence;
use super::diagnosis::{CheckResult, Details, Diagnosis, Outcome};
use super::evidence::{CredentialEvidence, Directory, Evidence, Fault, OwnToken, Presence};
use super::integration::Requirements;
use super::reason::{Check, Reason};
use consent::judge_consent;
use credential::{When, judge_credentials};
use groups::judge_groups;
use presence::judge_presence;
use provisioning::judge_provisioning;

type Judged = (Outcome, Details);

/// Judges the evidence.
pub fn diagnose(requirements: &Requirements, evidence: &Evidence) -> Diagnosis {
    let presence = judge_presence(evidence);
    let (consent, permissions) = judge_consent(requirements, evidence, &presence);
    let access = judge_groups(requirements, evidence, presence.0, consent.0);
    let provisioning = judge_provisioning(evidence, &presence);
    let when = When { now: evidence.at, warning: requirements.credential_warning };
    let (credential, credentials) = judge_credentials(evidence.credentials.as_ref(), &presence, when);
    let checks = requirements.checks.iter().map(|check| {
        let (outcome, details) = match check {
            Check::EnterpriseApp => presence.clone(),
            Check::Consent => consent.clone(),
            Check::GroupAccess => access.clone(),
            Check::Provisioning => provisioning.clone(),
            Check::Credential => credential.clone(),
        };
        CheckResult { check: *check, outcome, details }
    });
    let checks: Vec<CheckResult> = checks.collect();
    let groups = evidence.groups.as_ref().and_then(|g| g.as_ref().ok());
    Diagnosis {
        exact: is_exact(&checks, evidence),
        checks,
        permissions,
        groups_visible: groups.map(|g| g.visible),
        required_groups: groups.map(|g| g.required.clone()).unwrap_or_default(),
        jobs: evidence
            .jobs
            .as_ref()
            .and_then(|j| j.as_ref().ok())
            .map(|j| j.iter().map(|j| j.state()).collect()),
        credentials,
        reader_fault: reader_fault(evidence),
        directory_silent: evidence
            .directory
            .as_ref()
            .is_some_and(|d| d.faults().iter().any(|f| is_passing(f)))
            || about_presence(evidence).is_some(),
        reader_silent: is_reader_silent(evidence),
    }
}

/// Whether the primary reason was seen in the directory, and does not come from the token endpoint alone.
fn is_exact(checks: &[CheckResult], evidence: &Evidence) -> bool {
    let primary =
        checks.iter().find_map(|c| if let Outcome::Fail(reason) = c.outcome { Some(reason) } else { None });
    match (primary, &evidence.directory) {
        (Some(Reason::AppMissing | Reason::AppDeleted), Some(directory)) => {
            matches!(directory.presence, Ok(Presence::Deleted { .. } | Presence::Absent))
        }
        (Some(reason), Some(directory)) if reason.is_presence() => directory.knows_presence(),
        (Some(reason), Some(directory)) if reason.is_consent() => {
            directory.delegated.is_ok() && directory.application.is_ok()
        }
        _ => false,
    }
}

/// A fault that says nothing about the reader: it may read again in a moment. A credential of ours that cannot be read is not such a fault.
fn is_passing(fault: &Fault) -> bool {
    fault.reason.is_inconclusive() && fault.reason != Reason::CredentialUnreadable
}

/// A lasting fault of the reader itself, or of what asks in its place.
fn reader_fault(evidence: &Evidence) -> Option<Fault> {
    let directory = evidence.directory.iter().flat_map(Directory::faults);
    let lasting = directory.filter(|f| !is_passing(f)).find(|f| f.reason != Reason::TenantMissing);
    let denied = || {
        let jobs = evidence.jobs.iter().filter_map(|jobs| jobs.as_ref().err());
        let credentials = evidence.credentials.iter().flat_map(CredentialEvidence::own_faults);
        jobs.chain(credentials).find(|f| f.reason == Reason::ReaderPermissionMissing)
    };
    lasting.or_else(denied).cloned()
}

/// Whether a request for jobs or credentials had no conclusive answer.
fn is_reader_silent(evidence: &Evidence) -> bool {
    let jobs = evidence.jobs.iter().filter_map(|jobs| jobs.as_ref().err());
    let credentials = evidence.credentials.iter().flat_map(CredentialEvidence::own_faults);
    jobs.chain(credentials).any(is_passing)
}

/// The result of a check that has no evidence because of a fault.
fn without_evidence(fault: &Fault) -> Judged {
    let fails = fault.reason.is_our_side() || fault.reason.is_presence();
    (if fails { Outcome::Fail(fault.reason) } else { Outcome::Unknown(fault.reason) }, Details::of(fault))
}

/// Faults of the integration's own tokens, the app-only one first: it is about the application alone.
fn own_faults(evidence: &Evidence) -> Vec<&Fault> {
    let app_only = evidence.app_only.as_ref().and_then(|a| a.as_ref().err());
    let rejected = match &evidence.own_token {
        OwnToken::Rejected(fault) => Some(fault),
        _ => None,
    };
    app_only.into_iter().chain(rejected).collect()
}

#[cfg(test)]
mod tests;
