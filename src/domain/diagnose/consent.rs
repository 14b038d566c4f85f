//! Are the required permissions granted?

use super::super::contradiction::{about_consent, about_presence, roles_outweigh, scopes_outweigh};
use super::super::diagnosis::{Details, Outcome, PermissionState};
use super::super::evidence::{Evidence, Fault, OwnToken, Presence, ResourceGrants, RoleEvidence};
use super::super::integration::{Access, Grant, OPENID_SCOPES, Requirements, same_permission};
use super::super::reason::Reason;
use super::{Judged, without_evidence};

/// What is known of the permissions granted one way.
enum Known<'a> {
    /// These are granted, per resource.
    Granted(Vec<(&'a str, Vec<&'a str>)>),
    /// The result for the check: nothing is known.
    Not(Judged),
    /// This set-up cannot show them, and the check does not depend on them.
    Silent,
}

pub(super) fn judge_consent(
    requirements: &Requirements,
    evidence: &Evidence,
    presence: &Judged,
) -> (Judged, Vec<PermissionState>) {
    let directory_sees_app =
        matches!(evidence.directory.as_ref().map(|d| &d.presence), Some(Ok(Presence::Present { .. })));
    if let (Outcome::Fail(reason), false) = (presence.0, directory_sees_app) {
        return (
            (Outcome::Fail(reason), presence.1.clone()),
            permission_states(requirements, &Known::Silent, &Known::Silent),
        );
    }
    let delegated = delegated_grants(requirements, evidence);
    let application = application_grants(requirements, evidence);
    let states = permission_states(requirements, &delegated, &application);
    let (outcome, mut details) = weigh_consent(requirements, &delegated, &application, &states);
    details.note = details.note.or_else(|| about_consent(&requirements.required, evidence));
    ((outcome, details), states)
}

fn weigh_consent(
    requirements: &Requirements,
    delegated: &Known<'_>,
    application: &Known<'_>,
    states: &[PermissionState],
) -> Judged {
    let parts = [(Grant::Delegated, delegated), (Grant::Application, application)];
    let needed = |grant| states.iter().any(|s| s.grant == grant);
    let missing: Vec<String> =
        states.iter().filter(|s| s.granted == Some(false)).map(|s| s.permission.clone()).collect();
    // Entra itself says that there is no consent, whatever else is unknown.
    for (grant, known) in &parts {
        if let (true, Known::Not((Outcome::Fail(reason), details))) = (needed(*grant), known) {
            return (Outcome::Fail(*reason), details.clone());
        }
    }
    if !missing.is_empty() {
        let nothing_at_all = parts.iter().all(|(grant, known)| match known {
            Known::Granted(resources) => resources.iter().all(|(_, values)| values.is_empty()),
            Known::Not(_) => !needed(*grant),
            Known::Silent => true,
        });
        let reason = if nothing_at_all { Reason::ConsentMissing } else { Reason::PermissionMissing };
        return (Outcome::Fail(reason), Details::items(missing));
    }
    for (grant, known) in &parts {
        if let (true, Known::Not(judged)) = (needed(*grant), known) {
            return judged.clone();
        }
    }
    if requirements.unexpected_fails {
        let unexpected: Vec<String> = parts
            .iter()
            .flat_map(|(grant, known)| unexpected_permissions(requirements, *grant, known))
            .collect();
        if !unexpected.is_empty() {
            return (Outcome::Fail(Reason::PermissionUnexpected), Details::items(unexpected));
        }
    }
    (Outcome::Pass, Details::default())
}

fn delegated_grants<'a>(requirements: &Requirements, evidence: &'a Evidence) -> Known<'a> {
    let principal = match &evidence.own_token {
        OwnToken::Granted { principal, .. } => principal.as_deref(),
        _ => None,
    };
    let believed = about_presence(evidence).is_none() && !scopes_outweigh(&requirements.required, evidence);
    let listed = evidence.directory.as_ref().map(|d| &d.delegated).filter(|_| believed);
    if let Some(Ok(grants)) = listed {
        // The owner of the token decides which grants count. While the owner is unknown, every grant counts.
        let counts = |p: &Option<String>| {
            p.is_none()
                || principal.is_none()
                || p.as_deref().zip(principal).is_some_and(|(p, own)| p.eq_ignore_ascii_case(own))
        };
        let scopes = |r: &'a ResourceGrants| {
            r.delegated
                .iter()
                .filter(|g| counts(&g.principal))
                .flat_map(|g| g.scopes.iter().map(String::as_str))
                .collect()
        };
        return Known::Granted(grants.iter().map(|r| (r.resource.as_str(), scopes(r))).collect());
    }
    match &evidence.own_token {
        OwnToken::Granted { scopes, .. } => match scopes.iter().find_map(|(_, s)| s.as_ref().err()) {
            Some(fault) if fault.reason.is_consent() => {
                let granted = |s: &'a Result<Vec<String>, Fault>| {
                    s.as_ref().map(|v| v.iter().map(String::as_str).collect()).unwrap_or_default()
                };
                Known::Granted(scopes.iter().map(|(r, s)| (r.as_str(), granted(s))).collect())
            }
            Some(fault) => Known::Not(without_evidence(fault)),
            None => Known::Granted(
                scopes
                    .iter()
                    .filter_map(|(r, s)| {
                        s.as_ref().ok().map(|v| (r.as_str(), v.iter().map(String::as_str).collect()))
                    })
                    .collect(),
            ),
        },
        OwnToken::Rejected(fault) if fault.reason.is_consent() => {
            Known::Not((Outcome::Fail(fault.reason), Details::of(fault)))
        }
        OwnToken::Rejected(fault) => Known::Not(or_directory(evidence, without_evidence(fault))),
        OwnToken::Missing => {
            Known::Not(or_directory(evidence, (Outcome::Unknown(Reason::TokenMissing), Details::default())))
        }
        OwnToken::NotUsed if requirements.access == Access::Application => {
            match evidence.directory.as_ref().map(|d| &d.delegated) {
                Some(Err(fault)) => Known::Not((Outcome::Unknown(fault.reason), Details::of(fault))),
                _ => Known::Silent,
            }
        }
        OwnToken::NotUsed => Known::Silent,
    }
}

/// Unknown because of the directory, if there is one; a failure stays what it is.
fn or_directory(evidence: &Evidence, own: Judged) -> Judged {
    match (own.0, evidence.directory.as_ref().map(|d| &d.delegated)) {
        (Outcome::Unknown(_), Some(Err(fault))) => (Outcome::Unknown(fault.reason), Details::of(fault)),
        _ => own,
    }
}

fn application_grants<'e>(requirements: &Requirements, evidence: &'e Evidence) -> Known<'e> {
    let contradiction = about_presence(evidence);
    if let (Some(fault), None) = (&contradiction, &evidence.app_only) {
        return Known::Not((Outcome::Unknown(fault.reason), Details::of(fault)));
    }
    let believed = contradiction.is_none() && !roles_outweigh(&requirements.required, evidence);
    let listed = evidence.directory.as_ref().map(|d| &d.application).filter(|_| believed);
    if let Some(Ok(grants)) = listed {
        return Known::Granted(
            grants
                .iter()
                .map(|r| (r.resource.as_str(), r.application.iter().map(String::as_str).collect()))
                .collect(),
        );
    }
    match &evidence.app_only {
        Some(Ok(roles)) => {
            if let Some(fault) = roles.iter().find_map(|r| r.roles.as_ref().err()) {
                return Known::Not((Outcome::Unknown(fault.reason), Details::of(fault)));
            }
            if roles.iter().any(|r| r.roles == Ok(None)) {
                let note = "the access token could not be read, and the application may not list its own role assignments";
                return Known::Not((
                    Outcome::Unknown(Reason::InvalidResponse),
                    Details { note: Some(note.to_owned()), ..Details::default() },
                ));
            }
            let entry = |r: &'e RoleEvidence| {
                (r.resource.as_str(), r.roles.iter().flatten().flatten().map(String::as_str).collect())
            };
            Known::Granted(roles.iter().map(entry).collect())
        }
        Some(Err(fault)) => Known::Not(without_evidence(fault)),
        None => match evidence.directory.as_ref().map(|d| &d.application) {
            Some(Err(fault)) => Known::Not((Outcome::Unknown(fault.reason), Details::of(fault))),
            _ => Known::Silent,
        },
    }
}

fn permission_states(
    requirements: &Requirements,
    delegated: &Known<'_>,
    application: &Known<'_>,
) -> Vec<PermissionState> {
    let mut states = Vec::new();
    for required in requirements.required.iter() {
        for (grant, values, known) in [
            (Grant::Delegated, &required.delegated, delegated),
            (Grant::Application, &required.application, application),
        ] {
            let granted = |permission: &str| match known {
                Known::Granted(resources) => {
                    let mut held = resources
                        .iter()
                        .filter(|(r, _)| *r == required.resource)
                        .flat_map(|(_, values)| values);
                    Some(held.any(|v| same_permission(v, permission)))
                }
                Known::Not((Outcome::Fail(reason), _)) if reason.is_consent() => Some(false),
                Known::Not(_) | Known::Silent => None,
            };
            // A permission that this set-up cannot show does not count as missing.
            states.extend(values.iter().map(|p| PermissionState {
                resource: required.resource.clone(),
                permission: p.clone(),
                grant,
                granted: granted(p),
            }));
        }
    }
    states
}

fn unexpected_permissions(requirements: &Requirements, grant: Grant, known: &Known<'_>) -> Vec<String> {
    let Known::Granted(resources) = known else { return Vec::new() };
    let wanted = |resource: &str, value: &str| {
        requirements.required.iter().filter(|r| r.resource == resource).any(|r| {
            let values = if grant == Grant::Delegated { &r.delegated } else { &r.application };
            values.iter().any(|v| same_permission(v, value))
        })
    };
    let openid = |value: &str| OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    let extra = |(resource, values): &(&str, Vec<&str>)| {
        values
            .iter()
            .filter(|v| !openid(v) && !wanted(resource, v))
            .map(|v| (*v).to_owned())
            .collect::<Vec<_>>()
    };
    resources.iter().flat_map(extra).collect()
}
