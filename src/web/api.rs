//! The API: what the pages show, as JSON. Errors are problem details (RFC 9457). The OpenAPI document is generated from this code.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{OpenApi, ToSchema};

use super::model::{CredentialRecord, Records, Row};
use super::problem::{Problem, problem};
use super::state::Served;
use super::status::{rows, state_word};
use super::wording::{noted_checks, resolved_tenant};
use crate::clock::rfc3339;
use crate::domain::{Check, CheckState, Health, Outcome, Reason};
use crate::fleet::FleetEntry;

/// So many integrations in one answer, unless more or fewer are asked for.
const LIMIT: usize = 100;

/// One check.
#[derive(Debug, Serialize, ToSchema)]
struct CheckView {
    /// `enterprise_app`, `consent`, `group_access`, …
    check: &'static str,
    /// `pass`, `fail` or `unknown`.
    result: &'static str,
    /// One of the closed list of reasons, while it does not pass.
    reason: Option<&'static str>,
    /// What fixes it.
    remedy: Option<&'static str>,
}

impl CheckView {
    /// One that was never run: nothing is known of it, for no reason.
    const fn never_run(check: Check) -> Self {
        Self { check: check.label(), result: "unknown", reason: None, remedy: None }
    }

    fn of(check: Check, outcome: Outcome) -> Self {
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
struct IntegrationView {
    /// Unique name.
    name: String,
    /// Shown to people.
    display_name: String,
    /// Name of its application in the configuration.
    app: String,
    /// Display name of its application.
    app_display_name: String,
    /// Tenant as configured.
    tenant: String,
    /// `healthy`, `broken` (confirmed) or `unknown`.
    state: &'static str,
    /// The primary reason while it is broken.
    reason: Option<&'static str>,
    /// Since when it is broken (RFC 3339).
    #[schema(format = DateTime)]
    since: Option<String>,
    /// What the last probe saw.
    checks: Vec<CheckView>,
    /// When the last probe ended (RFC 3339).
    #[schema(format = DateTime)]
    last_probe: Option<String>,
    /// When the next probe is due (RFC 3339).
    #[schema(format = DateTime)]
    next_probe: Option<String>,
}

/// A page of the list, ordered by name.
#[derive(Debug, Serialize, ToSchema)]
struct IntegrationList {
    /// The integrations.
    items: Vec<IntegrationView>,
    /// How many match in all.
    total: usize,
    /// Give this as `after` for the next page; null on the last one.
    next: Option<String>,
}

/// One check with its evidence.
#[derive(Debug, Serialize, ToSchema)]
struct CheckDetail {
    #[serde(flatten)]
    view: CheckView,
    /// In one sentence, while it does not pass.
    sentence: Option<&'static str>,
    /// What to do, while it does not pass.
    advice: Option<&'static str>,
    /// Since when the result has been the same (RFC 3339); null for one that was never run.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// When it passed last (RFC 3339).
    #[schema(format = DateTime)]
    last_success: Option<String>,
    /// Missing permissions or groups.
    items: Vec<String>,
    /// `AADSTS…` or Graph's error code.
    code: Option<String>,
    /// What Microsoft's support asks for.
    request_id: Option<String>,
    /// One sentence for operators; also of a check that passes, where something is worth knowing.
    note: Option<String>,
    /// Until when a deleted application can be restored (RFC 3339).
    #[schema(format = DateTime)]
    restorable_until: Option<String>,
}

/// A required permission.
#[derive(Debug, Serialize, ToSchema)]
struct PermissionView {
    /// The resource as configured.
    resource: String,
    /// The permission's value.
    permission: String,
    /// `delegated` or `application`.
    grant: &'static str,
    /// Null when it could not be learnt.
    granted: Option<bool>,
}

/// The stored refresh token's story; never the token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenView {
    /// `import` or `reauthentication`.
    source: String,
    /// When it was last renewed (RFC 3339).
    #[schema(format = DateTime)]
    renewed: String,
    /// User principal name of who consented, where known.
    consented_by: Option<String>,
}

/// One integration in full.
#[derive(Debug, Serialize, ToSchema)]
struct IntegrationDetail {
    /// Unique name.
    name: String,
    /// Shown to people.
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
    /// Why the reader could not read at the last probe, if it could not.
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
    /// What the last probe saw.
    checks: Vec<CheckDetail>,
    /// Required permissions as last known.
    permissions: Vec<PermissionView>,
    /// Groups seen last, counted up to 1000.
    groups_visible: Option<u32>,
    /// When the last probe ended (RFC 3339).
    #[schema(format = DateTime)]
    last_probe: Option<String>,
    /// When the next probe is due (RFC 3339).
    #[schema(format = DateTime)]
    next_probe: Option<String>,
    /// Length of the last probe.
    probe_duration_seconds: f64,
    /// One letter an hour, the present one last: p pass, f fail, u unknown, - no probe.
    #[schema(min_length = 24, max_length = 24)]
    last_24_hours: String,
    /// The stored refresh token's story.
    token: Option<TokenView>,
    /// With what the application and its directory reader sign in.
    credentials: Vec<CredentialView>,
}

/// A credential, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct CredentialView {
    /// The directory reader that has it; null for the application itself.
    directory_reader: Option<String>,
    /// `client secret`, `certificate` or `none`.
    kind: &'static str,
    /// When it expires, as far as it says so itself (RFC 3339): a client secret does not.
    #[schema(format = DateTime)]
    expires: Option<String>,
}

impl CredentialView {
    fn of(record: CredentialRecord) -> Self {
        Self { directory_reader: record.reader, kind: record.kind, expires: record.expires.map(rfc3339) }
    }
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
struct EventView {
    /// `broken`, `changed`, `recovered`, `reauthenticated`, `token_stored`, …
    kind: String,
    /// When (RFC 3339).
    #[schema(format = DateTime)]
    at: String,
    /// A reason, or a word about who or where from.
    detail: String,
}

/// What happened, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct EventList {
    /// The events.
    items: Vec<EventView>,
}

/// A probe was brought forward.
#[derive(Debug, Serialize, ToSchema)]
struct ProbeAccepted {
    /// Which integration.
    name: String,
}

fn no_such_integration() -> Response {
    problem(StatusCode::NOT_FOUND, "no integration has this name; /api/v1/integrations lists them")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Consentry",
        description = "What Consentry knows of the integrations that it watches.",
        license(name = "Apache-2.0")
    ),
    paths(list, detail, events, probe, openapi)
)]
struct Document;

/// The routes below `/api/v1`.
pub(super) fn routes() -> Router<Arc<Served>> {
    let unknown = || async {
        problem(StatusCode::NOT_FOUND, "there is nothing here; /api/v1/openapi.json says what there is")
    };
    let wrong = |method: Method| async move {
        problem(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible here"))
    };
    let api = Router::new()
        .route("/integrations", get(list))
        .route("/integrations/{name}", get(detail))
        .route("/integrations/{name}/events", get(events))
        .route("/integrations/{name}/probe", post(probe))
        .route("/openapi.json", get(openapi))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong);
    Router::new().nest("/api/v1", api).route("/integrations/{name}/badge.svg", get(badge))
}

/// This document.
#[utoipa::path(
    get, path = "/api/v1/openapi.json",
    responses(
        (status = 200, description = "The OpenAPI document", body = Object),
        (status = 401, description = "A user's name and password are needed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The host that was asked is none of ours", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests are under way", body = Problem, content_type = "application/problem+json")
    )
)]
async fn openapi(State(served): State<Arc<Served>>) -> Response {
    let mut document = Document::openapi();
    let options = &served.process.options;
    let base = options.external_url.clone().unwrap_or_else(|| options.route_prefix.clone());
    if !base.is_empty() {
        document.servers = Some(vec![utoipa::openapi::Server::new(base)]);
    }
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    name_reasons(&mut document);
    name_users(&mut document);
    Json(document).into_response()
}

/// Where users are configured, they sign in with name and password.
fn name_users(document: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Basic));
    document.components.get_or_insert_default().add_security_scheme("basic", scheme);
    document.security =
        Some(vec![SecurityRequirement::default(), SecurityRequirement::new("basic", Vec::<String>::new())]);
}

/// Every reason by name, from the one list.
fn name_reasons(document: &mut utoipa::openapi::OpenApi) {
    let reasons = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .enum_values(Some(Reason::ALL.iter().map(|r| r.label())));
    let schema = Schema::Object(reasons.build());
    let operations = document.paths.paths.values_mut().filter_map(|path| path.get.as_mut());
    let parameters = operations.flat_map(|operation| operation.parameters.iter_mut().flatten());
    for parameter in parameters {
        if let RefOr::T(parameter) = parameter
            && parameter.name == "reason"
        {
            parameter.schema = Some(schema.clone().into());
        }
    }
}

/// What the list is narrowed to.
struct ApiFilter {
    state: Option<String>,
    app: Option<String>,
    reason: Option<String>,
    words: Vec<String>,
    after: Option<String>,
    limit: usize,
}

impl ApiFilter {
    fn of(query: &HashMap<String, String>) -> Result<Self, String> {
        let given = |name: &str| query.get(name).cloned();
        let state = given("state");
        if state.as_deref().is_some_and(|s| !["healthy", "broken", "unknown"].contains(&s)) {
            return Err("state must be healthy, broken or unknown".to_owned());
        }
        let reason = given("reason");
        if reason.as_deref().is_some_and(|r| Reason::from_label(r).is_none()) {
            return Err("reason is not one of the known reasons, such as token_expired".to_owned());
        }
        let limit = match given("limit") {
            None => LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| "limit must be a number from 1 to 1000".to_owned())?,
        };
        let words =
            given("q").unwrap_or_default().to_lowercase().split_whitespace().map(str::to_owned).collect();
        Ok(Self { state, app: given("app"), reason, words, after: given("after"), limit })
    }

    fn admits(&self, row: &Row) -> bool {
        self.state.as_deref().is_none_or(|s| s == state_word(row.health))
            && self.app.as_deref().is_none_or(|a| a == &*row.entry.record.app)
            && self.reason.as_deref().is_none_or(|wanted| row.reason.is_some_and(|r| r.label() == wanted))
            && row.matches(&self.words)
    }
}

/// The integrations, ordered by name.
#[utoipa::path(
    get, path = "/api/v1/integrations",
    params(
        ("state" = Option<String>, Query, description = "Only these: healthy, broken or unknown", pattern = "^(healthy|broken|unknown)$"),
        ("app" = Option<String>, Query, description = "Only those of this application (its name in the configuration)"),
        ("reason" = Option<String>, Query, description = "Only those with this reason, such as token_expired"),
        ("q" = Option<String>, Query, description = "Only those with these words in name, tenant or application"),
        ("limit" = Option<u32>, Query, description = "So many at most", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Only names after this one: `next` of the page before")
    ),
    responses(
        (status = 200, description = "A page of integrations", body = IntegrationList),
        (status = 400, description = "A parameter is not possible", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user's name and password are needed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The host that was asked is none of ours", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests are under way", body = Problem, content_type = "application/problem+json")
    )
)]
async fn list(State(served): State<Arc<Served>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let narrow = match ApiFilter::of(&query) {
        Ok(narrow) => narrow,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, detail),
    };
    let turn = served.process.bodies.turn().await;
    let answer = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let rows: Vec<Row> = rows(&served).into_iter().filter(|row| narrow.admits(row)).collect();
        let total = rows.len();
        let start = narrow
            .after
            .as_deref()
            .map_or(0, |after| rows.partition_point(|row| row.entry.record.name.as_str() <= after));
        let rest = &rows[start..];
        let items: Vec<IntegrationView> =
            rest.iter().take(narrow.limit).map(|row| view(&served, row)).collect();
        let next = (rest.len() > items.len()).then(|| items.last().map(|i| i.name.clone())).flatten();
        Json(IntegrationList { items, total, next }).into_response()
    });
    answer.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn broken(health: Health) -> (Option<&'static str>, Option<String>) {
    match health {
        Health::Broken { reason, since } => (Some(reason.label()), Some(rfc3339(since))),
        _ => (None, None),
    }
}

fn view(served: &Served, row: &Row) -> IntegrationView {
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
    }
}

/// One integration with its evidence.
#[utoipa::path(
    get, path = "/api/v1/integrations/{name}",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The integration", body = IntegrationDetail),
        (status = 400, description = "The name is not text", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user's name and password are needed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The host that was asked is none of ours", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests are under way", body = Problem, content_type = "application/problem+json")
    )
)]
async fn detail(State(served): State<Arc<Served>>, name: Named) -> Response {
    let Ok(Path(name)) = name else { return not_text() };
    let Some(entry) = served.entry(&name) else { return no_such_integration() };
    let records = served.process.history.records(&name).await;
    Json(in_full(&served, &entry, records)).into_response()
}

type Named = Result<Path<String>, axum::extract::rejection::PathRejection>;

fn not_text() -> Response {
    problem(StatusCode::BAD_REQUEST, "the name is not valid UTF-8")
}

fn in_full(served: &Served, entry: &FleetEntry, records: Records) -> IntegrationDetail {
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
    }
}

/// One check, as it was seen last or never.
fn check_detail(check: Check, state: Option<&CheckState>) -> CheckDetail {
    let reason = state.and_then(|s| s.outcome.reason());
    let details = state.map(|s| s.details.clone()).unwrap_or_default();
    CheckDetail {
        view: state.map_or_else(|| CheckView::never_run(check), |s| CheckView::of(check, s.outcome)),
        sentence: reason.map(|r| r.sentence()),
        advice: reason.map(|r| r.advice()),
        since: state.map(|s| rfc3339(s.since)),
        last_success: state.and_then(|s| s.last_success).map(rfc3339),
        items: details.items,
        code: details.code,
        request_id: details.request_id,
        note: details.note,
        restorable_until: details.restorable_until.map(rfc3339),
    }
}

/// What happened to an integration, newest first.
#[utoipa::path(
    get, path = "/api/v1/integrations/{name}/events",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "Its events", body = EventList),
        (status = 400, description = "The name is not text", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user's name and password are needed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The host that was asked is none of ours", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests are under way", body = Problem, content_type = "application/problem+json")
    )
)]
async fn events(State(served): State<Arc<Served>>, name: Named) -> Response {
    let Ok(Path(name)) = name else { return not_text() };
    if served.entry(&name).is_none() {
        return no_such_integration();
    }
    let events = served.process.history.records(&name).await.events;
    let items =
        events.into_iter().map(|(kind, at, detail)| EventView { kind, at: rfc3339(at), detail }).collect();
    Json(EventList { items }).into_response()
}

/// Probes an integration now, out of turn. The result is seen in the integration shortly afterwards.
#[utoipa::path(
    post, path = "/api/v1/integrations/{name}/probe",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 202, description = "The probe begins", body = ProbeAccepted),
        (status = 400, description = "The name is not text", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user's name and password are needed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The host that was asked is none of ours, the request came from another site's page, or nobody may do this from there", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests are under way", body = Problem, content_type = "application/problem+json")
    )
)]
async fn probe(State(served): State<Arc<Served>>, name: Named) -> Response {
    let Ok(Path(name)) = name else { return not_text() };
    if served.entry(&name).is_none() {
        return no_such_integration();
    }
    served.process.commands.probe_soon(&name);
    (StatusCode::ACCEPTED, Json(ProbeAccepted { name })).into_response()
}

/// `/integrations/NAME/badge.svg`.
async fn badge(State(served): State<Arc<Served>>, name: Named) -> Response {
    let entry = name.ok().and_then(|Path(name)| served.entry(&name));
    let Some(entry) = entry else {
        return (StatusCode::NOT_FOUND, "no integration has this name\n").into_response();
    };
    let (word, colour) = match entry.health() {
        Health::Working => ("healthy", "#067647"),
        Health::Broken { .. } => ("broken", "#b42318"),
        Health::Unknown { .. } => ("unknown", "#7a4b00"),
    };
    let label: String = entry.record.display_name.chars().filter(|c| !c.is_control()).take(40).collect();
    // Wide enough for the letters of any common font at this size.
    let width = |text: &str| 12 + 7 * text.chars().count();
    let badge = Badge { left: width(&label), right: width(word), label: &label, word, colour };
    match askama::Template::render(&badge) {
        Ok(svg) => ([(CONTENT_TYPE, "image/svg+xml"), (CACHE_CONTROL, "no-cache")], svg).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(askama::Template)]
#[template(path = "badge.svg", escape = "html")]
struct Badge<'b> {
    left: usize,
    right: usize,
    label: &'b str,
    word: &'b str,
    colour: &'b str,
}
