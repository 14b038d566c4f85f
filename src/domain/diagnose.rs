//! From evidence to one result per check. The hard part of Consentry, as one pure function.
//!
//! Rules, in the contract's words: presence comes before consent, consent before token, token before groups. A check
//! that fails only because of an earlier cause repeats that cause's reason. A check about which a dead token leaves
//! nothing to be learnt is unknown with the token's reason. When directory and token both speak, the directory wins on
//! presence and consent, the token on access. A reader that may not read never breaks an integration.

use super::contradiction::{about_consent, about_groups, about_presence, roles_outweigh, scopes_outweigh, token_issued};
use super::evidence::{Directory, Evidence, Fault, Groups, OwnToken, Presence, RequiredGroup, ResourceGrants, RoleEvidence};
use super::integration::{Access, Grant, OPENID_SCOPES, Profile, same_permission};
use super::reason::{Check, Reason};
use super::text::one_line;
use super::time::Timestamp;

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Pass,
    /// Something is broken.
    Fail(Reason),
    /// Nothing could be learnt.
    Unknown(Reason),
}

impl Outcome {
    /// The reason, unless it passes.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Pass => None,
            Self::Fail(reason) | Self::Unknown(reason) => Some(reason),
        }
    }

    /// `pass`, `fail` or `unknown`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Evidence behind a result, for logs, pages, mails; never for labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Missing permissions or groups, or unexpected permissions.
    pub items: Vec<String>,
    /// `AADSTS…` or Graph's error code.
    pub code: Option<String>,
    /// Correlation or request id.
    pub request_id: Option<String>,
    /// One sentence for operators.
    pub note: Option<String>,
    /// Until when a deleted application can be restored.
    pub restorable_until: Option<Timestamp>,
}

impl Details {
    fn of(fault: &Fault) -> Self {
        let note = (!fault.detail.is_empty()).then(|| fault.detail.clone());
        Self { code: fault.code.clone(), request_id: fault.request_id.clone(), note, ..Self::default() }
    }

    /// However much the upstream lists, this is kept, logged and mailed.
    fn items(mut items: Vec<String>) -> Self {
        const MOST: usize = 50;
        let more = items.len().saturating_sub(MOST);
        items.truncate(MOST);
        items.iter_mut().for_each(|i| *i = i.chars().take(200).collect());
        if more > 0 {
            items.push(format!("and {more} more"));
        }
        Self { items, ..Self::default() }
    }
}

/// A check with its result and evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Which check.
    pub check: Check,
    /// Its result.
    pub outcome: Outcome,
    /// Its evidence.
    pub details: Details,
}

/// Whether one required permission is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionState {
    /// The resource as configured.
    pub resource: String,
    /// The permission value.
    pub permission: String,
    /// How it has to be granted.
    pub grant: Grant,
    /// `None` when nothing could be learnt.
    pub granted: Option<bool>,
}

/// What a probe means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// One result per enabled check, in the order of [`Check::ALL`].
    pub checks: Vec<CheckResult>,
    /// Every required permission that this evidence can speak about.
    pub permissions: Vec<PermissionState>,
    /// Groups seen.
    pub groups_visible: Option<u32>,
    /// The required groups, where groups were listed.
    pub required_groups: Vec<RequiredGroup>,
    /// The primary reason was seen in the directory.
    pub exact: bool,
    /// What keeps the directory reader from reading, if anything does: for the operators, never a failure of the integration.
    pub reader_fault: Option<Fault>,
    /// The directory was to be asked and did not answer conclusively: what is known of it stays.
    pub directory_silent: bool,
}

impl Diagnosis {
    /// The reason of the earliest failing check.
    pub fn primary(&self) -> Option<Reason> {
        self.checks.iter().find_map(|c| match c.outcome {
            Outcome::Fail(reason) => Some(reason),
            _ => None,
        })
    }

    /// Pass when every check passes, fail when one fails, unknown otherwise.
    pub fn overall(&self) -> Outcome {
        if let Some(reason) = self.primary() {
            return Outcome::Fail(reason);
        }
        let unknown = self.checks.iter().map(|c| c.outcome).find(|o| matches!(o, Outcome::Unknown(_)));
        // Nothing was looked at: that is no good news.
        let otherwise = if self.checks.is_empty() { Outcome::Unknown(Reason::Unclassified) } else { Outcome::Pass };
        unknown.unwrap_or(otherwise)
    }
}

type Judged = (Outcome, Details);

/// Judges the evidence.
pub fn diagnose(profile: &Profile, evidence: &Evidence) -> Diagnosis {
    let presence = judge_presence(evidence);
    let (consent, permissions) = judge_consent(profile, evidence, &presence);
    let access = judge_groups(profile, evidence, presence.0, consent.0);
    let checks = profile.checks.iter().map(|check| {
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
        directory_silent: evidence.directory.as_ref().is_some_and(|d| d.faults().iter().any(|f| is_passing(f)))
            || about_presence(evidence).is_some(),
    }
}

/// A check that is asked for and that nobody looks at is unknown: it neither passes nor disappears.
fn not_run() -> Judged {
    let note = "this check is not run by this version";
    (Outcome::Unknown(Reason::Unclassified), Details { note: Some(note.to_owned()), ..Details::default() })
}

/// Whether the primary reason was seen in the directory, and not told by the token endpoint alone.
fn is_exact(checks: &[CheckResult], evidence: &Evidence) -> bool {
    let primary = checks.iter().find_map(|c| if let Outcome::Fail(reason) = c.outcome { Some(reason) } else { None });
    match (primary, &evidence.directory) {
        (Some(Reason::AppMissing | Reason::AppDeleted), Some(directory)) => {
            matches!(directory.presence, Ok(Presence::Deleted { .. } | Presence::Absent))
        }
        (Some(reason), Some(directory)) if reason.is_presence() => directory.knows_presence(),
        (Some(reason), Some(directory)) if reason.is_consent() => directory.delegated.is_ok() && directory.application.is_ok(),
        _ => false,
    }
}

/// A fault that says nothing of the reader: it may read again in a moment. A credential of ours that cannot be read is no such fault.
fn is_passing(fault: &Fault) -> bool {
    fault.reason.is_inconclusive() && fault.reason != Reason::CredentialUnreadable
}

/// A lasting fault of the reader itself.
fn reader_fault(directory: &Directory) -> Option<Fault> {
    directory.faults().into_iter().filter(|f| !is_passing(f)).find(|f| f.reason != Reason::TenantMissing).cloned()
}

/// What a fault makes of a check that it leaves without evidence.
fn without_evidence(fault: &Fault) -> Judged {
    let fails = fault.reason.is_our_side() || fault.reason.is_presence();
    (if fails { Outcome::Fail(fault.reason) } else { Outcome::Unknown(fault.reason) }, Details::of(fault))
}

/// Faults of the integration's own tokens, the app-only one first: it speaks of the application alone.
fn own_faults(evidence: &Evidence) -> Vec<&Fault> {
    let app_only = evidence.app_only.as_ref().and_then(|a| a.as_ref().err());
    let refused = match &evidence.own_token {
        OwnToken::Refused(fault) => Some(fault),
        _ => None,
    };
    app_only.into_iter().chain(refused).collect()
}

fn judge_presence(evidence: &Evidence) -> Judged {
    if let Some(fault) = about_presence(evidence) {
        return (Outcome::Unknown(fault.reason), Details::of(&fault));
    }
    let directory = evidence.directory.as_ref().map(|d| &d.presence);
    match directory {
        Some(Ok(Presence::Absent)) => return (Outcome::Fail(Reason::AppMissing), Details::default()),
        Some(Ok(Presence::Deleted { restorable_until })) => {
            return (Outcome::Fail(Reason::AppDeleted), Details { restorable_until: *restorable_until, ..Details::default() });
        }
        Some(Ok(Presence::Present { blocked: Some(why), .. })) => {
            return (Outcome::Fail(Reason::AppBlocked), Details { note: Some(why.clone()), ..Details::default() });
        }
        Some(Ok(Presence::Present { enabled: false, .. })) => return (Outcome::Fail(Reason::AppDisabled), Details::default()),
        Some(Ok(Presence::Present { .. })) => return (Outcome::Pass, Details::default()),
        Some(Err(fault)) if fault.reason == Reason::TenantMissing => return (Outcome::Fail(fault.reason), Details::of(fault)),
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
    // The directory was to answer this; that it could not is why nothing is known.
    if let Some(Ok(Presence::Unclear(fault)) | Err(fault)) = directory {
        return (Outcome::Unknown(fault.reason), Details::of(fault));
    }
    match faults.first() {
        Some(fault) => without_evidence(fault),
        None => (Outcome::Unknown(Reason::TokenMissing), Details::default()),
    }
}

/// What is known of the permissions granted one way.
enum Known<'a> {
    /// These are granted, per resource.
    Granted(Vec<(&'a str, Vec<&'a str>)>),
    /// Nothing is known.
    Not(Judged),
    /// Nobody can tell with this set-up, and nobody claims to.
    Silent,
}

fn judge_consent(profile: &Profile, evidence: &Evidence, presence: &Judged) -> (Judged, Vec<PermissionState>) {
    let directory_sees_app = matches!(evidence.directory.as_ref().map(|d| &d.presence), Some(Ok(Presence::Present { .. })));
    if let (Outcome::Fail(reason), false) = (presence.0, directory_sees_app) {
        return ((Outcome::Fail(reason), presence.1.clone()), permission_states(profile, &Known::Silent, &Known::Silent));
    }
    let delegated = delegated_grants(profile, evidence);
    let application = application_grants(profile, evidence);
    let states = permission_states(profile, &delegated, &application);
    let (outcome, mut details) = weigh_consent(profile, &delegated, &application, &states);
    details.note = details.note.or_else(|| about_consent(&profile.required, evidence));
    ((outcome, details), states)
}

fn weigh_consent(profile: &Profile, delegated: &Known<'_>, application: &Known<'_>, states: &[PermissionState]) -> Judged {
    let parts = [(Grant::Delegated, delegated), (Grant::Application, application)];
    let needed = |grant| states.iter().any(|s| s.grant == grant);
    let missing: Vec<String> = states.iter().filter(|s| s.granted == Some(false)).map(|s| s.permission.clone()).collect();
    // Entra says so itself: no consent, whatever else could not be learnt.
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
    if profile.unexpected_fails {
        let unexpected: Vec<String> = parts.iter().flat_map(|(grant, known)| unexpected_permissions(profile, *grant, known)).collect();
        if !unexpected.is_empty() {
            return (Outcome::Fail(Reason::PermissionUnexpected), Details::items(unexpected));
        }
    }
    (Outcome::Pass, Details::default())
}

fn delegated_grants<'a>(profile: &Profile, evidence: &'a Evidence) -> Known<'a> {
    let principal = match &evidence.own_token {
        OwnToken::Granted { principal, .. } => principal.as_deref(),
        _ => None,
    };
    let believed = about_presence(evidence).is_none() && !scopes_outweigh(&profile.required, evidence);
    let listed = evidence.directory.as_ref().map(|d| &d.delegated).filter(|_| believed);
    if let Some(Ok(grants)) = listed {
        // Whose token it is decides which grants count. While that is unknown, nobody's grant is held against them.
        let counts = |p: &Option<String>| {
            p.is_none() || principal.is_none() || p.as_deref().zip(principal).is_some_and(|(p, own)| p.eq_ignore_ascii_case(own))
        };
        let scopes = |r: &'a ResourceGrants| {
            r.delegated.iter().filter(|g| counts(&g.principal)).flat_map(|g| g.scopes.iter().map(String::as_str)).collect()
        };
        return Known::Granted(grants.iter().map(|r| (r.resource.as_str(), scopes(r))).collect());
    }
    match &evidence.own_token {
        OwnToken::Granted { scopes, .. } => match scopes.iter().find_map(|(_, s)| s.as_ref().err()) {
            Some(fault) if fault.reason.is_consent() => {
                let granted =
                    |s: &'a Result<Vec<String>, Fault>| s.as_ref().map(|v| v.iter().map(String::as_str).collect()).unwrap_or_default();
                Known::Granted(scopes.iter().map(|(r, s)| (r.as_str(), granted(s))).collect())
            }
            Some(fault) => Known::Not(without_evidence(fault)),
            None => Known::Granted(
                scopes.iter().filter_map(|(r, s)| s.as_ref().ok().map(|v| (r.as_str(), v.iter().map(String::as_str).collect()))).collect(),
            ),
        },
        OwnToken::Refused(fault) if fault.reason.is_consent() => Known::Not((Outcome::Fail(fault.reason), Details::of(fault))),
        OwnToken::Refused(fault) => Known::Not(or_directory(evidence, without_evidence(fault))),
        OwnToken::Missing => Known::Not(or_directory(evidence, (Outcome::Unknown(Reason::TokenMissing), Details::default()))),
        OwnToken::NotUsed if profile.access == Access::Application => match evidence.directory.as_ref().map(|d| &d.delegated) {
            Some(Err(fault)) => Known::Not((Outcome::Unknown(fault.reason), Details::of(fault))),
            _ => Known::Silent,
        },
        OwnToken::NotUsed => Known::Silent,
    }
}

/// Unknown because of the directory, where one was to answer; a failure stays what it is.
fn or_directory(evidence: &Evidence, own: Judged) -> Judged {
    match (own.0, evidence.directory.as_ref().map(|d| &d.delegated)) {
        (Outcome::Unknown(_), Some(Err(fault))) => (Outcome::Unknown(fault.reason), Details::of(fault)),
        _ => own,
    }
}

fn application_grants<'e>(profile: &Profile, evidence: &'e Evidence) -> Known<'e> {
    let contradiction = about_presence(evidence);
    if let (Some(fault), None) = (&contradiction, &evidence.app_only) {
        return Known::Not((Outcome::Unknown(fault.reason), Details::of(fault)));
    }
    let believed = contradiction.is_none() && !roles_outweigh(&profile.required, evidence);
    let listed = evidence.directory.as_ref().map(|d| &d.application).filter(|_| believed);
    if let Some(Ok(grants)) = listed {
        return Known::Granted(grants.iter().map(|r| (r.resource.as_str(), r.application.iter().map(String::as_str).collect())).collect());
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
            let entry = |r: &'e RoleEvidence| (r.resource.as_str(), r.roles.iter().flatten().flatten().map(String::as_str).collect());
            Known::Granted(roles.iter().map(entry).collect())
        }
        Some(Err(fault)) => Known::Not(without_evidence(fault)),
        None => match evidence.directory.as_ref().map(|d| &d.application) {
            Some(Err(fault)) => Known::Not((Outcome::Unknown(fault.reason), Details::of(fault))),
            _ => Known::Silent,
        },
    }
}

fn permission_states(profile: &Profile, delegated: &Known<'_>, application: &Known<'_>) -> Vec<PermissionState> {
    let mut states = Vec::new();
    for required in profile.required.iter() {
        for (grant, values, known) in
            [(Grant::Delegated, &required.delegated, delegated), (Grant::Application, &required.application, application)]
        {
            let granted = |permission: &str| match known {
                Known::Granted(resources) => {
                    let mut held = resources.iter().filter(|(r, _)| *r == required.resource).flat_map(|(_, values)| values);
                    Some(held.any(|v| same_permission(v, permission)))
                }
                Known::Not((Outcome::Fail(reason), _)) if reason.is_consent() => Some(false),
                Known::Not(_) | Known::Silent => None,
            };
            // What nobody can see with this set-up is not claimed to be missing.
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

fn unexpected_permissions(profile: &Profile, grant: Grant, known: &Known<'_>) -> Vec<String> {
    let Known::Granted(resources) = known else { return Vec::new() };
    let wanted = |resource: &str, value: &str| {
        profile.required.iter().filter(|r| r.resource == resource).any(|r| {
            let values = if grant == Grant::Delegated { &r.delegated } else { &r.application };
            values.iter().any(|v| same_permission(v, value))
        })
    };
    let openid = |value: &str| OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    let extra = |(resource, values): &(&str, Vec<&str>)| {
        values.iter().filter(|v| !openid(v) && !wanted(resource, v)).map(|v| (*v).to_owned()).collect::<Vec<_>>()
    };
    resources.iter().flat_map(extra).collect()
}

fn judge_groups(profile: &Profile, evidence: &Evidence, presence: Outcome, consent: Outcome) -> Judged {
    let token_fault = match (profile.access, &evidence.own_token, &evidence.app_only) {
        (Access::Delegated, OwnToken::Refused(fault), _) | (Access::Application, _, Some(Err(fault))) => Some(fault),
        (Access::Delegated, OwnToken::Missing, _) => {
            let outcome = earlier_cause(presence, consent, Reason::TokenMissing).unwrap_or(Outcome::Fail(Reason::TokenMissing));
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
        let own = if fault.reason.is_inconclusive() { Outcome::Unknown(fault.reason) } else { Outcome::Fail(fault.reason) };
        let outcome = match own {
            Outcome::Fail(reason) => earlier_cause(presence, consent, reason).unwrap_or(own),
            other => other,
        };
        return (outcome, Details::of(fault));
    }
    match &evidence.groups {
        Some(Ok(groups)) => judge_visible(profile, groups),
        _ => (Outcome::Unknown(Reason::InvalidResponse), Details::default()),
    }
}

/// The earlier check's failure, where it explains this one.
fn earlier_cause(presence: Outcome, consent: Outcome, reason: Reason) -> Option<Outcome> {
    if matches!(presence, Outcome::Fail(_)) {
        return Some(presence);
    }
    let about_permission = reason.is_consent() || reason == Reason::GroupAccessDenied;
    match consent {
        Outcome::Fail(cause) if cause.is_consent() && cause != Reason::PermissionUnexpected && about_permission => Some(consent),
        _ => None,
    }
}

fn judge_visible(profile: &Profile, groups: &Groups) -> Judged {
    if groups.visible < profile.groups.minimum {
        let note = Some(format!("{} groups visible, at least {} expected", groups.visible, profile.groups.minimum));
        return (Outcome::Fail(Reason::GroupsNotVisible), Details { note, ..Details::default() });
    }
    let missing: Vec<String> = groups.required.iter().filter(|g| !g.visible()).map(|g| g.name.clone()).collect();
    if missing.is_empty() {
        return (Outcome::Pass, Details { note: several_of_one_name(&groups.required), ..Details::default() });
    }
    (Outcome::Fail(Reason::GroupMissing), Details::items(missing))
}

/// Names are not unique: which of two groups of a required name is meant, only the product knows.
fn several_of_one_name(groups: &[RequiredGroup]) -> Option<String> {
    let several = groups.iter().filter(|g| g.ids.len() > 1);
    let note = |g: &RequiredGroup| format!("{} groups bear the name {:?}: {}", g.ids.len(), one_line(&g.name, 80), g.ids.join(", "));
    let notes: Vec<String> = several.map(note).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

#[cfg(test)]
#[path = "diagnose_tests.rs"]
mod tests;
