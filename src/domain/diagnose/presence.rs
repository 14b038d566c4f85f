//! Is the enterprise application in the tenant, and enabled?

use super::super::contradiction::{about_presence, token_issued};
use super::super::diagnosis::{Details, Outcome};
use super::super::evidence::{Evidence, Presence};
use super::super::reason::Reason;
use super::{Judged, own_faults, without_evidence};

pub(super) fn judge_presence(evidence: &Evidence) -> Judged {
    if let Some(fault) = about_presence(evidence) {
        return (Outcome::Unknown(fault.reason), Details::of(&fault));
    }
    let directory = evidence.directory.as_ref().map(|d| &d.presence);
    match directory {
        Some(Ok(Presence::Absent)) => return (Outcome::Fail(Reason::AppMissing), Details::default()),
        Some(Ok(Presence::Deleted { restorable_until })) => {
            return (
                Outcome::Fail(Reason::AppDeleted),
                Details { restorable_until: *restorable_until, ..Details::default() },
            );
        }
        Some(Ok(Presence::Present { blocked: Some(why), .. })) => {
            return (
                Outcome::Fail(Reason::AppBlocked),
                Details { note: Some(why.clone()), ..Details::default() },
            );
        }
        Some(Ok(Presence::Present { enabled: false, .. })) => {
            return (Outcome::Fail(Reason::AppDisabled), Details::default());
        }
        Some(Ok(Presence::Present { .. })) => return (Outcome::Pass, Details::default()),
        Some(Err(fault)) if fault.reason == Reason::TenantMissing => {
            return (Outcome::Fail(fault.reason), Details::of(fault));
        }
        Some(Ok(Presence::Unclear(_)) | Err(_)) | None => {}
    }
    if token_issued(evidence) {
        return (Outcome::Pass, Details::default());
    }
    let faults = own_faults(evidence);
    if let Some(fault) = faults.iter().find(|f| f.reason.is_presence()) {
        return (Outcome::Fail(fault.reason), Details::of(fault));
    }
    if let Some(fault) = faults.iter().find(|f| f.reason.is_our_side()) {
        return (Outcome::Fail(fault.reason), Details::of(fault));
    }
    // The directory should have responded; its fault explains why nothing is known.
    if let Some(Ok(Presence::Unclear(fault)) | Err(fault)) = directory {
        return (Outcome::Unknown(fault.reason), Details::of(fault));
    }
    match faults.first() {
        Some(fault) => without_evidence(fault),
        None => (Outcome::Unknown(Reason::TokenMissing), Details::default()),
    }
}
