//! The API: what the pages show, as JSON. Errors are problem details (RFC 9457). The OpenAPI document is generated from this code.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

use self::problem::{Problem, problem};
use self::views::{
    EventList, EventView, FleetEventList, FleetEventView, IntegrationDetail, IntegrationList,
    IntegrationView, ProbeAccepted, in_full, view,
};
use super::events::EventFilter;
use super::filter::{ApiFilter, Row, rows};
use super::pages::badge::badge;
use super::state::Served;
use crate::clock::rfc3339;
use crate::domain::Reason;

pub(super) mod problem;
mod views;

fn no_such_integration() -> Response {
    problem(StatusCode::NOT_FOUND, "no integration has this name; /api/v1/integrations lists them")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Consentry",
        description = "The state of the integrations that Consentry watches.",
        license(name = "Apache-2.0")
    ),
    paths(list, detail, events, fleet_events, probe, openapi)
)]
struct Document;

/// The routes below `/api/v1`.
pub(super) fn routes() -> Router<Arc<Served>> {
    let unknown = || async {
        problem(StatusCode::NOT_FOUND, "no such resource; /api/v1/openapi.json describes the API")
    };
    let wrong = |method: Method| async move {
        problem(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed here"))
    };
    let api = Router::new()
        .route("/integrations", get(list))
        .route("/integrations/{name}", get(detail))
        .route("/integrations/{name}/events", get(events))
        .route("/integrations/{name}/probe", post(probe))
        .route("/events", get(fleet_events))
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
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many concurrent requests", body = Problem, content_type = "application/problem+json")
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

/// Declares Basic authentication, which is required where users are configured.
fn name_users(document: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Basic));
    document.components.get_or_insert_default().add_security_scheme("basic", scheme);
    document.security =
        Some(vec![SecurityRequirement::default(), SecurityRequirement::new("basic", Vec::<String>::new())]);
}

/// Lists every reason in the schema of the `reason` parameter.
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

/// The integrations, ordered by name.
#[utoipa::path(
    get, path = "/api/v1/integrations",
    params(
        ("state" = Option<String>, Query, description = "Only these: healthy, broken or unknown", pattern = "^(healthy|broken|unknown)$"),
        ("app" = Option<String>, Query, description = "Only those of this application (its name in the configuration)"),
        ("reason" = Option<String>, Query, description = "Only those with this reason, such as token_expired"),
        ("q" = Option<String>, Query, description = "Only those with these words in name, tenant or application"),
        ("limit" = Option<u32>, Query, description = "The highest number of integrations in the response", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Only names after this one: `next` of the previous page")
    ),
    responses(
        (status = 200, description = "A page of integrations", body = IntegrationList),
        (status = 400, description = "A parameter is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many concurrent requests", body = Problem, content_type = "application/problem+json")
    )
)]
async fn list(State(served): State<Arc<Served>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let filter = match ApiFilter::of(&query) {
        Ok(filter) => filter,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, detail),
    };
    let turn = served.process.bodies.turn().await;
    let response = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let rows: Vec<Row> = rows(&served).into_iter().filter(|row| filter.admits(row)).collect();
        let total = rows.len();
        let start = filter
            .after
            .as_deref()
            .map_or(0, |after| rows.partition_point(|row| row.entry.record.name.as_str() <= after));
        let rest = &rows[start..];
        let items: Vec<IntegrationView> =
            rest.iter().take(filter.limit).map(|row| view(&served, row)).collect();
        let next = (rest.len() > items.len()).then(|| items.last().map(|i| i.name.clone())).flatten();
        Json(IntegrationList { items, total, next }).into_response()
    });
    response.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// One integration with its evidence.
#[utoipa::path(
    get, path = "/api/v1/integrations/{name}",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The integration", body = IntegrationDetail),
        (status = 400, description = "The name is not valid UTF-8", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many concurrent requests", body = Problem, content_type = "application/problem+json")
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

/// What happened to an integration, newest first.
#[utoipa::path(
    get, path = "/api/v1/integrations/{name}/events",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "Its events", body = EventList),
        (status = 400, description = "The name is not valid UTF-8", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many concurrent requests", body = Problem, content_type = "application/problem+json")
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

/// What happened in the fleet, newest first. Events are kept for 90 days.
#[utoipa::path(
    get, path = "/api/v1/events",
    params(
        ("kind" = Option<String>, Query, description = "Only of this kind", pattern = "^(broken|changed|recovered|reauthenticated|link_made|links_revoked|token_stored|token_delivered|snoozed|snooze_ended|brake_held|brake_released|brake_prolonged|brake_discarded)$"),
        ("app" = Option<String>, Query, description = "Only of the integrations that this application has now (its name in the configuration)"),
        ("reason" = Option<String>, Query, description = "Only with this reason, such as token_expired"),
        ("integration" = Option<String>, Query, description = "Only of this integration"),
        ("since" = Option<String>, Query, format = DateTime, description = "Not before this time (RFC 3339)"),
        ("until" = Option<String>, Query, format = DateTime, description = "Before this time (RFC 3339)"),
        ("limit" = Option<u32>, Query, description = "The highest number of events in the response", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Only older events: `next` of the previous page", pattern = "^[0-9]{1,18}$")
    ),
    responses(
        (status = 200, description = "A page of events", body = FleetEventList),
        (status = 400, description = "A parameter is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The history cannot be read now, or too many concurrent requests", body = Problem, content_type = "application/problem+json")
    )
)]
async fn fleet_events(
    State(served): State<Arc<Served>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let filter = match EventFilter::of_api(&query) {
        Ok(filter) => filter,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, detail),
    };
    let Some(found) = served.process.history.fleet_events(filter.query(&served)).await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the history cannot be read now");
    };
    let next = (found.len() > filter.limit).then(|| found[filter.limit - 1].id.to_string());
    let items =
        found.into_iter().take(filter.limit).map(|event| FleetEventView::of(&served, event)).collect();
    Json(FleetEventList { items, next }).into_response()
}

/// Schedules an extra probe of an integration as soon as possible. The integration shows the result shortly afterwards.
#[utoipa::path(
    post, path = "/api/v1/integrations/{name}/probe",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 202, description = "The probe is scheduled", body = ProbeAccepted),
        (status = 400, description = "The name is not valid UTF-8", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A user name and password are required", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The requested host name is not one of Consentry's, another site's page sent the request, or the client may not do this", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such integration", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many concurrent requests", body = Problem, content_type = "application/problem+json")
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
