//! From evidence to one result per check, as one pure function.
//!
//! Rules: presence comes before consent, consent before token, token before groups. A check that fails only because of an earlier cause has
//! that cause's reason. A check that has no result because the token is rejected is unknown with the token's reason. If directory and token
//! disagree, the directory wins on presence and consent, the token on access. A reader that may not read never breaks an integration.

mod consent;
mod groups;
mod presence;

use super::contradiction::about_presence;
use super::diagnosis::{CheckResult, Details, Diagnosis, Outcome};
use super::evidence::{Directory, Evidence, Fault, OwnToken, Presence};
use super::integration::Requirements;
use super::reason::{Check, Reason};
use consent::judge_consent;
use groups::judge_groups;
use presence::judge_presence;

type Judged = (Outcome, Details);

/// Judges the evidence.
pub fn diagnose(requirements: &Requirements, evidence: &Evidence) -> Diagnosis {
    let presence = judge_presence(evidence);
    let (consent, permissions) = judge_consent(requirements, evidence, &presence);
    let access = judge_groups(requirements, evidence, presence.0, consent.0);
    let checks = requirements.checks.iter().map(|check| {
        let (outcome, details) = match check {
            Check::EnterpriseApp => presence.clone(),
            Check::Consent => consent.clone(),
            Check::GroupAccess => access.clone(),
            Check::Provisioning | Check::Credential => not_run(),
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
        reader_fault: evidence.directory.as_ref().and_then(reader_fault),
        directory_silent: evidence
            .directory
            .as_ref()
            .is_some_and(|d| d.faults().iter().any(|f| is_passing(f)))
            || about_presence(evidence).is_some(),
    }
}

/// An enabled check that this version does not run is unknown: it neither passes nor disappears.
fn not_run() -> Judged {
    let note = "this check is not run by this version";
    (Outcome::Unknown(Reason::Unclassified), Details { note: Some(note.to_owned()), ..Details::default() })
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

/// A lasting fault of the reader itself.
fn reader_fault(directory: &Directory) -> Option<Fault> {
    directory
        .faults()
        .into_iter()
        .filter(|f| !is_passing(f))
        .find(|f| f.reason != Reason::TenantMissing)
        .cloned()
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
