//! The JSON objects of the API, and how they are filled.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::rfc3339;
use crate::domain::{Check, CheckState, CredentialState, Health, JobState, Outcome, Reason};
use crate::fleet::FleetEntry;
use crate::web::commands::{CredentialRecord, FleetEvent, Records};
use crate::web::events::event_words;
use crate::web::filter::Row;
use crate::web::state::Served;
use crate::web::wording::{noted_checks, operators_advice, resolved_tenant, state_word};

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckView {
    /// `enterprise_app`, `consent`, `group_access`, …
    check: &'static str,
    /// `pass`, `fail` or `unknown`.
    result: &'static str,
    /// The reason while it does not pass.
    reason: Option<&'static str>,
    /// The kind of fix while it does not pass.
    remedy: Option<&'static str>,
}

impl CheckView {
    /// A check that was never run: its result is unknown, without a reason.
    pub(super) const fn never_run(check: Check) -> Self {
        Self { check: check.label(), result: "unknown", reason: None, remedy: None }
    }

    pub(super) fn of(check: Check, outcome: Outcome) -> Self {
        let reason = outcome.reason();
        Self {
            check: check.label(),
            result: outcome.label(),
            reason: reason.map(Reason::label),
            remedy: reason.map(|r| r.remedy().label()),
        }
    }
}

/// An integration in the list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IntegrationView {
    /// Unique name.
    pub(super) name: String,
    /// The name on pages and in mails.
    pub(super) display_name: String,
    /// Name of its application in the configuration.
    pub(super) app: String,
    /// Display name of its application.
    pub(super) app_display_name: String,
    /// Tenant as configured.
    pub(super) tenant: String,
    /// `healthy`, `broken` (confirmed) or `unknown`.
    pub(super) state: &'static str,
    /// The primary reason while it is broken.
    pub(super) reason: Option<&'static str>,
    /// Since when it is broken (RFC 3339).
    #[schema(format = DateTime)]
    pub(super) since: Option<String>,
    /// The results of the last probe.
    pub(super) checks: Vec<CheckView>,
    /// When the last probe ended (RFC 3339).
    #[schema(format = DateTime)]
    pub(super) last_probe: Option<String>,
    /// When the next probe is due (RFC 3339).
    #[schema(format = DateTime)]
    pub(super) next_probe: Option<String>,
    /// Until when its reminders are snoozed (RFC 3339).
    #[schema(format = DateTime)]
    pub(super) snoozed_until: Option<String>,
}

/// A page of the list, ordered by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IntegrationList {
    /// The integrations.
    pub(super) items: Vec<IntegrationView>,
    /// The number of integrations that match, on all pages.
    pub(super) total: usize,
    /// Give this as `after` for the next page; null on the last one.
    pub(super) next: Option<String>,
}

/// One check with its evidence.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckDetail {
    #[serde(flatten)]
    view: CheckView,
    /// What is wrong, in one sentence, while it does not pass.
    sentence: Option<&'static str>,
    /// What to do, while it does not pass.
    advice: Option<&'static str>,
    /// Since when the result has been the same (RFC 3339); null for one that was never run.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// When it passed last (RFC 3339).
    #[schema(format = DateTime)]
    last_success: Option<String>,
    /// Missing permissions or groups, synchronization jobs, or credentials; the last two also for a check that passes.
    items: Vec<String>,
    /// `AADSTS…` or Graph's error code.
    code: Option<String>,
    /// The request id, for Microsoft's support.
    request_id: Option<String>,
    /// A note for operators; also possible for a check that passes.
    note: Option<String>,
    /// Until when a deleted application can be restored (RFC 3339).
    #[schema(format = DateTime)]
    restorable_until: Option<String>,
}

/// A required permission.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PermissionView {
    /// The resource as configured.
    resource: String,
    /// The permission's value.
    permission: String,
    /// `delegated` or `application`.
    grant: &'static str,
    /// Null when it is unknown.
    granted: Option<bool>,
}

/// Information on the stored refresh token, without the token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenView {
    /// `import` or `reauthentication`.
    source: String,
    /// When it was last renewed (RFC 3339).
    #[schema(format = DateTime)]
    renewed: String,
    /// User principal name of the account that consented, where known.
    consented_by: Option<String>,
}

/// One integration in full.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IntegrationDetail {
    /// Unique name.
    name: String,
    /// The name on pages and in mails.
    display_name: String,
    /// Display name of its application.
    app_display_name: String,
    /// Application id.
    client_id: String,
    /// Name of its application in the configuration.
    app: String,
    /// Tenant as configured.
    tenant: String,
    /// The tenant's GUID, once resolved.
    tenant_id: Option<String>,
    /// `delegated` or `application`.
    access: &'static str,
    /// Name of its directory reader.
    directory_reader: Option<String>,
    /// Why the directory reader failed in the last probe, if it did.
    directory_reader_reason: Option<&'static str>,
    /// Configured labels.
    labels: BTreeMap<String, String>,
    /// `healthy`, `broken` (confirmed) or `unknown`.
    state: &'static str,
    /// The primary reason while it is broken.
    reason: Option<&'static str>,
    /// Since when it is broken (RFC 3339).
    #[schema(format = DateTime)]
    since: Option<String>,
    /// The results of the last probe.
    checks: Vec<CheckDetail>,
    /// Required permissions as last known.
    permissions: Vec<PermissionView>,
    /// The number of visible groups, counted up to 1000.
    groups_visible: Option<u32>,
    /// When the last probe ended (RFC 3339).
    #[schema(format = DateTime)]
    last_probe: Option<String>,
    /// When the next probe is due (RFC 3339).
    #[schema(format = DateTime)]
    next_probe: Option<String>,
    /// Until when its reminders are snoozed (RFC 3339).
    #[schema(format = DateTime)]
    snoozed_until: Option<String>,
    /// Duration of the last probe.
    probe_duration_seconds: f64,
    /// One letter per hour, the current hour last: p pass, f fail, u unknown, - no probe.
    #[schema(min_length = 24, max_length = 24)]
    last_24_hours: String,
    /// The stored refresh token.
    token: Option<TokenView>,
    /// The credentials of the application and its directory reader.
    credentials: Vec<CredentialView>,
    /// What the registration, the enterprise application and the directory reader's registration list; empty without the check `credential`.
    listed_credentials: Vec<ListedCredentialView>,
    /// Synchronization jobs as last listed; empty without the check `provisioning`.
    synchronization_jobs: Vec<JobView>,
}

/// A credential that Entra lists.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListedCredentialView {
    /// The directory reader that has it; null for the application itself.
    directory_reader: Option<String>,
    /// `client_secret`, `certificate`, `saml_certificate` or `federated`.
    kind: &'static str,
    /// `keyId`, or the thumbprint of a certificate that no registration lists.
    key_id: String,
    /// Its name.
    name: Option<String>,
    /// When it expires (RFC 3339); null if it never does.
    #[schema(format = DateTime)]
    expires: Option<String>,
    /// Whether it is known to be the one that is used.
    in_use: bool,
    /// `fine`, `leftover` (expired, and nothing depends on it), `expiring` or `expired`.
    standing: &'static str,
}

impl ListedCredentialView {
    fn of(credential: &CredentialState) -> Self {
        Self {
            directory_reader: credential.reader.clone(),
            kind: credential.kind.label(),
            key_id: credential.key_id.clone(),
            name: credential.name.clone(),
            expires: credential.ends.map(rfc3339),
            in_use: credential.in_use,
            standing: credential.standing.word(),
        }
    }
}

/// A synchronization job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobView {
    /// Its id.
    id: String,
    /// Whether it is in quarantine.
    quarantined: bool,
    /// End of its last successful run (RFC 3339).
    #[schema(format = DateTime)]
    last_success: Option<String>,
}

impl JobView {
    fn of(job: &JobState) -> Self {
        Self { id: job.id.clone(), quarantined: job.quarantined, last_success: job.last_success.map(rfc3339) }
    }
}

/// A credential, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CredentialView {
    /// The directory reader that has it; null for the application itself.
    directory_reader: Option<String>,
    /// `client secret`, `certificate`, `federated token`, `managed identity` or `none`.
    kind: &'static str,
    /// When it expires (RFC 3339); null for a client secret, which does not contain its expiry.
    #[schema(format = DateTime)]
    expires: Option<String>,
}

impl CredentialView {
    pub(super) fn of(record: CredentialRecord) -> Self {
        Self { directory_reader: record.reader, kind: record.kind, expires: record.expires.map(rfc3339) }
    }
}

/// An event of the fleet.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FleetEventView {
    /// Its number: later events have higher ones.
    id: i64,
    /// When (RFC 3339).
    #[schema(format = DateTime)]
    at: String,
    /// The integration; null for an event of the whole fleet.
    integration: Option<String>,
    /// Name of its application in the configuration; null if the integration is not there any more.
    app: Option<String>,
    /// `broken`, `changed`, `recovered`, `reauthenticated`, `snoozed`, …
    kind: String,
    /// The reason's label, or who did it.
    detail: String,
    /// What happened, in one sentence.
    text: String,
}

impl FleetEventView {
    pub(super) fn of(served: &Served, event: FleetEvent) -> Self {
        let app = served.entry(&event.integration).map(|entry| entry.record.app.to_string());
        Self {
            id: event.id,
            at: rfc3339(event.at),
            text: event_words(&event.kind, &event.detail),
            integration: Some(event.integration).filter(|name| !name.is_empty()),
            app,
            kind: event.kind,
            detail: event.detail,
        }
    }
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FleetEventList {
    /// The events, newest first.
    pub(super) items: Vec<FleetEventView>,
    /// Give this as `after` for the next page; null on the last one.
    pub(super) next: Option<String>,
}

/// An event of an integration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    /// `broken`, `changed`, `recovered`, `reauthenticated`, `token_stored`, …
    pub(super) kind: String,
    /// When (RFC 3339).
    #[schema(format = DateTime)]
    pub(super) at: String,
    /// A reason, who did it, or where it came from.
    pub(super) detail: String,
}

/// Events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventList {
    /// The events.
    pub(super) items: Vec<EventView>,
}

/// A probe was scheduled.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProbeAccepted {
    /// Name of the integration.
    pub(super) name: String,
}

fn broken(health: Health) -> (Option<&'static str>, Option<String>) {
    match health {
        Health::Broken { reason, since } => (Some(reason.label()), Some(rfc3339(since))),
        _ => (None, None),
    }
}

pub(super) fn view(served: &Served, row: &Row) -> IntegrationView {
    let (reason, since) = broken(row.health);
    let (entry, record) = (&row.entry, &row.entry.record);
    IntegrationView {
        name: record.name.clone(),
        display_name: record.display_name.clone(),
        app: record.app.to_string(),
        app_display_name: record.app_display_name.to_string(),
        tenant: record.tenant.clone(),
        state: state_word(row.health),
        reason,
        since,
        checks: {
            let seen = entry.outcomes().map(|(check, outcome)| CheckView::of(check, outcome));
            seen.chain(entry.never_run().map(CheckView::never_run)).collect()
        },
        last_probe: entry.state.last_probe.map(rfc3339),
        next_probe: served.process.commands.next_probe(&record.name).map(rfc3339),
        snoozed_until: entry.snooze.as_ref().map(|snooze| rfc3339(snooze.until)),
    }
}

pub(super) fn in_full(served: &Served, entry: &FleetEntry, records: Records) -> IntegrationDetail {
    let (record, state, health) = (&entry.record, &entry.state, entry.health());
    let (reason, since) = broken(health);
    let checks = noted_checks(entry);
    let cells = state.day.cells(served.process.clock.now());
    let permission = |p: &crate::domain::PermissionState| PermissionView {
        resource: p.resource.clone(),
        permission: p.permission.clone(),
        grant: p.grant.label(),
        granted: p.granted,
    };
    IntegrationDetail {
        next_probe: served.process.commands.next_probe(&record.name).map(rfc3339),
        snoozed_until: entry.snooze.as_ref().map(|snooze| rfc3339(snooze.until)),
        name: record.name.clone(),
        display_name: record.display_name.clone(),
        app_display_name: record.app_display_name.to_string(),
        app: record.app.to_string(),
        client_id: record.client_id.to_string(),
        tenant: record.tenant.clone(),
        tenant_id: resolved_tenant(entry).map(str::to_owned),
        access: record.access.label(),
        directory_reader: record.reader.as_deref().map(str::to_owned),
        labels: record.labels.clone().into_iter().collect(),
        state: state_word(health),
        reason,
        since,
        checks: record
            .checks
            .iter()
            .map(|check| check_detail(*check, checks.iter().find(|c| c.check == *check)))
            .collect(),
        directory_reader_reason: state.reader_fault.map(Reason::label),
        permissions: state.permissions.iter().map(permission).collect(),
        groups_visible: state.groups_visible,
        last_probe: state.last_probe.map(rfc3339),
        probe_duration_seconds: state.duration.as_millis() as f64 / 1000.0,
        last_24_hours: cells.iter().map(|c| c.letter()).collect(),
        token: records.token.map(|(source, renewed, consented_by)| TokenView {
            source,
            renewed: rfc3339(renewed),
            consented_by,
        }),
        credentials: records.credentials.into_iter().map(CredentialView::of).collect(),
        listed_credentials: state.credentials.iter().map(ListedCredentialView::of).collect(),
        synchronization_jobs: state.jobs.iter().map(JobView::of).collect(),
    }
}

/// One check with its last result, or as never run.
fn check_detail(check: Check, state: Option<&CheckState>) -> CheckDetail {
    let reason = state.and_then(|s| s.outcome.reason());
    let details = state.map(|s| s.details.clone()).unwrap_or_default();
    CheckDetail {
        view: state.map_or_else(|| CheckView::never_run(check), |s| CheckView::of(check, s.outcome)),
        sentence: reason.map(|r| r.sentence()),
        advice: reason.zip(state).map(|(r, s)| operators_advice(s, r)),
        since: state.map(|s| rfc3339(s.since)),
        last_success: state.and_then(|s| s.last_success).map(rfc3339),
        items: details.items,
        code: details.code,
        request_id: details.request_id,
        note: details.note,
        restorable_until: details.restorable_until.map(rfc3339),
    }
}
