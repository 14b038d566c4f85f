//! JSON rows: the format of the columns `state` and `story`. New fields need a default; no field changes its meaning.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listed_rows::{CredentialRow, JobRow};
use crate::domain::{
    Access, AlertProgress, Blind, BrakeNotice, Check, CheckState, Dark, Day, Details, GoodView, Grant,
    HeldMails, Hold, Incident, IntegrationState, KnownGroup, LinkTarget, Named, Notify, Obstacle, OpenAlert,
    Outcome, PermissionState, Reason, Recent, Timestamp, Undeliverable, Verdict,
};

#[derive(Serialize, Deserialize)]
pub(super) struct StateRow {
    checks: Vec<CheckRow>,
    verdict: String,
    verdict_reason: Option<String>,
    verdict_since: Option<i64>,
    failures: u32,
    successes: u32,
    unknowns: u32,
    failing_since: Option<i64>,
    unknown_since: Option<i64>,
    candidate: Option<(String, u32)>,
    last_probe: Option<i64>,
    duration_ms: u64,
    groups_visible: Option<u32>,
    permissions: Vec<PermissionRow>,
    reader_fault: Option<String>,
    #[serde(default)]
    day: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good_view: Option<GoodViewRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<(String, bool)>,
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    alert_exact: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alert_progress: Option<AlertProgressRow>,
    #[serde(default)]
    recent: String,
    #[serde(default)]
    flapping: bool,
    #[serde(default)]
    renewed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    known_groups: Vec<KnownGroupRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<JobRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<CredentialRow>,
}

#[derive(Serialize, Deserialize)]
struct KnownGroupRow {
    name: String,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced_by: Option<(String, i64)>,
}

/// Reason, since when, and for how many milliseconds.
type BlindRow = (String, i64, u64);

#[derive(Serialize, Deserialize)]
struct GoodViewRow {
    groups: u32,
    required: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct CheckRow {
    check: String,
    outcome: String,
    reason: Option<String>,
    since: i64,
    success: Option<bool>,
    last_success: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restorable_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blind: Option<BlindRow>,
    /// Duration in milliseconds, and number of probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dark: Option<(u64, u32)>,
}

#[derive(Serialize, Deserialize)]
struct PermissionRow {
    resource: String,
    permission: String,
    application: bool,
    granted: Option<bool>,
}

/// When an alert was last notified, under which setting (`admins`, …), and how many reminders there were.
#[derive(Serialize, Deserialize)]
struct AlertProgressRow {
    notify: String,
    noticed: i64,
    reminders: u32,
}

/// The content of a row: a state, and what is known of the open alert besides its columns.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) state: IntegrationState,
    /// The reason of the open alert was seen in the directory.
    pub(super) alert_exact: bool,
    /// `None` in rows of older versions.
    pub(super) alert_progress: Option<AlertProgress>,
}

/// A state as JSON.
pub(super) fn state_to_json(state: &IntegrationState, alert: Option<&OpenAlert>) -> String {
    let progress = |alert: &OpenAlert| AlertProgressRow {
        notify: alert.progress.notify.label().to_owned(),
        noticed: alert.progress.noticed.0,
        reminders: alert.progress.reminders,
    };
    let (verdict, verdict_reason, verdict_since) = match state.verdict {
        Verdict::Unknown => ("unknown", None, None),
        Verdict::Healthy => ("healthy", None, None),
        Verdict::Broken { reason, since } => ("broken", Some(reason.label().to_owned()), Some(since.0)),
    };
    let row = StateRow {
        checks: state.checks.iter().map(check_row).collect(),
        verdict: verdict.to_owned(),
        verdict_reason,
        verdict_since,
        failures: state.failures,
        successes: state.successes,
        unknowns: state.unknowns,
        failing_since: state.failing_since.map(|t| t.0),
        unknown_since: state.unknown_since.map(|t| t.0),
        candidate: state.candidate.map(|(r, n)| (r.label().to_owned(), n)),
        last_probe: state.last_probe.map(|t| t.0),
        duration_ms: millis(state.duration),
        groups_visible: state.groups_visible,
        permissions: state.permissions.iter().map(permission_row).collect(),
        reader_fault: state.reader_fault.map(|r| r.label().to_owned()),
        day: state.day.to_text(),
        good_view: state
            .good_view
            .as_ref()
            .map(|v| GoodViewRow { groups: v.groups, required: v.required.clone() }),
        named: state.named.map(|n| (n.reason.label().to_owned(), n.exact)),
        exact: state.exact,
        alert_exact: alert.is_some_and(|a| a.exact),
        alert_progress: alert.map(progress),
        recent: state.recent.to_text(),
        flapping: state.flapping,
        renewed: state.renewed,
        known_groups: state.known_groups.iter().map(known_group_row).collect(),
        jobs: state.jobs.iter().map(JobRow::of).collect(),
        credentials: state.credentials.iter().map(CredentialRow::of).collect(),
    };
    serde_json::to_string(&row).unwrap_or_default()
}

/// A state from JSON; values that a newer version wrote and this one does not know are ignored.
pub(super) fn state_from_json(json: &str) -> Option<Saved> {
    let row: StateRow = serde_json::from_str(json).ok()?;
    let verdict = match (
        row.verdict.as_str(),
        row.verdict_reason.as_deref().and_then(Reason::from_label),
        row.verdict_since,
    ) {
        ("healthy", ..) => Verdict::Healthy,
        ("broken", Some(reason), Some(since)) => Verdict::Broken { reason, since: Timestamp(since) },
        _ => Verdict::Unknown,
    };
    let state = IntegrationState {
        checks: row.checks.into_iter().filter_map(check_state).collect(),
        verdict,
        failures: row.failures,
        successes: row.successes,
        unknowns: row.unknowns,
        failing_since: row.failing_since.map(Timestamp),
        unknown_since: row.unknown_since.map(Timestamp),
        candidate: row.candidate.and_then(|(r, n)| Some((Reason::from_label(&r)?, n))),
        last_probe: row.last_probe.map(Timestamp),
        duration: Duration::from_millis(row.duration_ms),
        groups_visible: row.groups_visible,
        permissions: row.permissions.into_iter().map(permission_state).collect(),
        reader_fault: row.reader_fault.as_deref().and_then(Reason::from_label),
        day: Day::from_text(&row.day).unwrap_or_default(),
        good_view: row.good_view.map(|v| GoodView { groups: v.groups, required: v.required }),
        named: row
            .named
            .and_then(|(reason, exact)| Some(Named { reason: Reason::from_label(&reason)?, exact })),
        exact: row.exact,
        recent: Recent::from_text(&row.recent),
        flapping: row.flapping,
        renewed: row.renewed,
        known_groups: row.known_groups.into_iter().map(known_group).collect(),
        jobs: row.jobs.into_iter().map(JobRow::state).collect(),
        credentials: row.credentials.into_iter().filter_map(CredentialRow::state).collect(),
    };
    let progress = |row: AlertProgressRow| AlertProgress {
        notify: Notify::from_label(&row.notify).unwrap_or_default(),
        noticed: Timestamp(row.noticed),
        reminders: row.reminders,
    };
    Some(Saved { state, alert_exact: row.alert_exact, alert_progress: row.alert_progress.map(progress) })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn known_group_row(group: &KnownGroup) -> KnownGroupRow {
    let replaced_by = group.replaced_by.as_ref().map(|(id, since)| (id.clone(), since.0));
    KnownGroupRow { name: group.name.clone(), id: group.id.clone(), replaced_by }
}

fn known_group(row: KnownGroupRow) -> KnownGroup {
    let replaced_by = row.replaced_by.map(|(id, since)| (id, Timestamp(since)));
    KnownGroup { name: row.name, id: row.id, replaced_by }
}

fn check_row(state: &CheckState) -> CheckRow {
    let details = &state.details;
    CheckRow {
        check: state.check.label().to_owned(),
        outcome: state.outcome.label().to_owned(),
        reason: state.outcome.reason().map(|r| r.label().to_owned()),
        since: state.since.0,
        success: state.success,
        last_success: state.last_success.map(|t| t.0),
        items: details.items.clone(),
        code: details.code.clone(),
        request_id: details.request_id.clone(),
        note: details.note.clone(),
        restorable_until: details.restorable_until.map(|t| t.0),
        blind: state.blind.map(|b| (b.reason.label().to_owned(), b.since.0, millis(b.waited))),
        dark: state.dark.map(|d| (millis(d.waited), d.probes)),
    }
}

fn check_state(row: CheckRow) -> Option<CheckState> {
    let reason = row.reason.as_deref().and_then(Reason::from_label);
    let outcome = match (row.outcome.as_str(), reason) {
        ("pass", _) => Outcome::Pass,
        ("fail", Some(reason)) => Outcome::Fail(reason),
        ("unknown", Some(reason)) => Outcome::Unknown(reason),
        _ => return None,
    };
    Some(CheckState {
        check: Check::from_label(&row.check)?,
        outcome,
        details: Details {
            items: row.items,
            code: row.code,
            request_id: row.request_id,
            note: row.note,
            restorable_until: row.restorable_until.map(Timestamp),
        },
        since: Timestamp(row.since),
        success: row.success,
        last_success: row.last_success.map(Timestamp),
        dark: row.dark.map(|(waited, probes)| Dark { waited: Duration::from_millis(waited), probes }),
        blind: row.blind.and_then(|(reason, since, waited)| {
            let reason = Reason::from_label(&reason)?;
            Some(Blind { reason, since: Timestamp(since), waited: Duration::from_millis(waited) })
        }),
    })
}

fn permission_row(state: &PermissionState) -> PermissionRow {
    PermissionRow {
        resource: state.resource.clone(),
        permission: state.permission.clone(),
        application: state.grant == Grant::Application,
        granted: state.granted,
    }
}

fn permission_state(row: PermissionRow) -> PermissionState {
    let grant = if row.application { Grant::Application } else { Grant::Delegated };
    PermissionState { resource: row.resource, permission: row.permission, grant, granted: row.granted }
}

#[derive(Serialize, Deserialize)]
struct IncidentRow {
    integration: String,
    display_name: String,
    app: String,
    #[serde(default)]
    app_name: String,
    client_id: String,
    tenant: String,
    application_access: bool,
    reason: String,
    items: Vec<String>,
    code: Option<String>,
    request_id: Option<String>,
    restorable_until: Option<i64>,
    permissions: Vec<String>,
    since: i64,
    at: i64,
    builtin_link: bool,
    url: Option<String>,
    #[serde(default)]
    undeliverable: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    brake: Option<HoldRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affected: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reminds: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    instead_of: Vec<String>,
}

/// The hold that a mail is about; what it holds is read when the mail is sent.
#[derive(Serialize, Deserialize)]
struct HoldRow {
    id: String,
    since: i64,
    until: i64,
    broken: usize,
    integrations: usize,
}

impl HoldRow {
    fn of(BrakeNotice { hold, .. }: &BrakeNotice) -> Self {
        let Hold { id, since, until, broken, integrations } = hold.clone();
        Self { id, since: since.0, until: until.0, broken, integrations }
    }

    fn notice(self) -> BrakeNotice {
        let Self { id, since, until, broken, integrations } = self;
        let hold = Hold { id, since: Timestamp(since), until: Timestamp(until), broken, integrations };
        BrakeNotice { hold, held: HeldMails::default() }
    }
}

/// The incident of a mail as JSON.
pub(super) fn incident_to_json(incident: &Incident) -> String {
    let url = match &incident.link {
        LinkTarget::Url(url) => Some(url.clone()),
        LinkTarget::Builtin | LinkTarget::None => None,
    };
    let row = IncidentRow {
        integration: incident.integration.clone(),
        display_name: incident.display_name.clone(),
        app: incident.app.clone(),
        app_name: incident.app_name.clone(),
        client_id: incident.client_id.clone(),
        tenant: incident.tenant.clone(),
        application_access: incident.access == Access::Application,
        reason: incident.reason.label().to_owned(),
        items: incident.items.clone(),
        code: incident.code.clone(),
        request_id: incident.request_id.clone(),
        restorable_until: incident.restorable_until.map(|t| t.0),
        permissions: incident.permissions.clone(),
        since: incident.since.0,
        at: incident.at.0,
        builtin_link: incident.link == LinkTarget::Builtin,
        url,
        brake: incident.brake.as_ref().map(HoldRow::of),
        undeliverable: incident.undeliverable.as_ref().map(|u| u.address.clone()),
        obstacle: incident.undeliverable.as_ref().map(|u| u.obstacle.label().to_owned()),
        by: incident.by.clone(),
        origin: incident.origin.clone(),
        affected: incident.affected,
        renewed: incident.renewed.map(|t| t.0),
        reminds: incident.reminds,
        instead_of: incident.instead_of.clone(),
    };
    serde_json::to_string(&row).unwrap_or_default()
}

/// The incident of a mail from JSON.
pub(super) fn incident_from_json(json: &str) -> Option<Incident> {
    let row: IncidentRow = serde_json::from_str(json).ok()?;
    let link = match (row.builtin_link, row.url) {
        (true, _) => LinkTarget::Builtin,
        (false, Some(url)) => LinkTarget::Url(url),
        (false, None) => LinkTarget::None,
    };
    // Rows without an obstacle are from a version in which it was always the recipient.
    let obstacle = row.obstacle.as_deref().and_then(Obstacle::from_label).unwrap_or(Obstacle::Recipient);
    Some(Incident {
        integration: row.integration,
        display_name: row.display_name,
        app: row.app,
        app_name: row.app_name,
        client_id: row.client_id,
        tenant: row.tenant,
        access: if row.application_access { Access::Application } else { Access::Delegated },
        reason: Reason::from_label(&row.reason).unwrap_or(Reason::Unclassified),
        items: row.items,
        code: row.code,
        request_id: row.request_id,
        restorable_until: row.restorable_until.map(Timestamp),
        permissions: row.permissions,
        since: Timestamp(row.since),
        at: Timestamp(row.at),
        link,
        brake: row.brake.map(HoldRow::notice),
        undeliverable: row.undeliverable.map(|address| Undeliverable { address, obstacle }),
        by: row.by,
        origin: row.origin,
        affected: row.affected,
        reminds: row.reminds,
        instead_of: row.instead_of,
        renewed: row.renewed.map(Timestamp),
    })
}
