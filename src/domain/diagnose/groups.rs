//! Can the integration's own token list the groups that it needs?

use super::super::contradiction::about_groups;
use super::super::diagnosis::{Details, Outcome};
use super::super::evidence::{Evidence, Groups, OwnToken, RequiredGroup};
use super::super::integration::{Access, Requirements};
use super::super::reason::Reason;
use super::super::text::one_line;
use super::Judged;

pub(super) fn judge_groups(
    requirements: &Requirements,
    evidence: &Evidence,
    presence: Outcome,
    consent: Outcome,
) -> Judged {
    let token_fault = match (requirements.access, &evidence.own_token, &evidence.app_only) {
        (Access::Delegated, OwnToken::Rejected(fault), _) | (Access::Application, _, Some(Err(fault))) => {
            Some(fault)
        }
        (Access::Delegated, OwnToken::Missing, _) => {
            let outcome = earlier_cause(presence, consent, Reason::TokenMissing)
                .unwrap_or(Outcome::Fail(Reason::TokenMissing));
            return (outcome, Details::default());
        }
        _ => None,
    };
    if let Some(fault) = about_groups(evidence) {
        return (Outcome::Unknown(fault.reason), Details::of(&fault));
    }
    let fault = token_fault.or(match &evidence.groups {
        Some(Err(fault)) => Some(fault),
        _ => None,
    });
    if let Some(fault) = fault {
        let own = if fault.reason.is_inconclusive() {
            Outcome::Unknown(fault.reason)
        } else {
            Outcome::Fail(fault.reason)
        };
        let outcome = match own {
            Outcome::Fail(reason) => earlier_cause(presence, consent, reason).unwrap_or(own),
            other => other,
        };
        return (outcome, Details::of(fault));
    }
    match &evidence.groups {
        Some(Ok(groups)) => judge_visible(requirements, groups),
        _ => (Outcome::Unknown(Reason::InvalidResponse), Details::default()),
    }
}

/// The failure of an earlier check, if it explains this one.
fn earlier_cause(presence: Outcome, consent: Outcome, reason: Reason) -> Option<Outcome> {
    if matches!(presence, Outcome::Fail(_)) {
        return Some(presence);
    }
    let about_permission = reason.is_consent() || reason == Reason::GroupAccessDenied;
    match consent {
        Outcome::Fail(cause)
            if cause.is_consent() && cause != Reason::PermissionUnexpected && about_permission =>
        {
            Some(consent)
        }
        _ => None,
    }
}

fn judge_visible(requirements: &Requirements, groups: &Groups) -> Judged {
    if groups.visible < requirements.groups.minimum {
        let note = Some(format!(
            "{} groups visible, at least {} expected",
            groups.visible, requirements.groups.minimum
        ));
        return (Outcome::Fail(Reason::GroupsNotVisible), Details { note, ..Details::default() });
    }
    let missing: Vec<String> =
        groups.required.iter().filter(|g| !g.visible()).map(|g| g.name.clone()).collect();
    if missing.is_empty() {
        return (
            Outcome::Pass,
            Details { note: several_of_one_name(&groups.required), ..Details::default() },
        );
    }
    (Outcome::Fail(Reason::GroupMissing), Details::items(missing))
}

/// Names are not unique: only the product knows which of two groups with a required name is meant.
fn several_of_one_name(groups: &[RequiredGroup]) -> Option<String> {
    let several = groups.iter().filter(|g| g.ids.len() > 1);
    let note = |g: &RequiredGroup| {
        format!("{} groups have the name {:?}: {}", g.ids.len(), one_line(&g.name, 80), g.ids.join(", "))
    };
    let notes: Vec<String> = several.map(note).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}
