//! What happened in the fleet: for people as a page, newest first, with a filter.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::layout::html;
use super::status::private;
use crate::domain::{Reason, Timestamp};
use crate::web::events::{EventFilter, KINDS, event_words};
use crate::web::state::Served;
use crate::web::wording::When;

/// Events on one page.
const PAGE: usize = 100;

struct Line {
    at: When,
    integration: String,
    /// Whether it is in the fleet, so that it has a page.
    is_there: bool,
    app: String,
    kind: String,
    what: String,
    /// The runbook of its reason.
    reason: Option<(String, String)>,
}

struct Choice {
    value: String,
    label: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    root: &'static str,
    icon: &'static str,
    now: When,
    telemetry_path: String,
    problem: Option<String>,
    query: HashMap<String, String>,
    kinds: Vec<Choice>,
    apps: Vec<Choice>,
    reasons: Vec<Choice>,
    lines: Vec<Line>,
    following: Option<String>,
}

impl EventsPage {
    fn given(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// `/events`.
pub(crate) async fn events(
    State(served): State<Arc<Served>>,
    Query(mut query): Query<HashMap<String, String>>,
) -> Response {
    query.retain(|_, value| !value.trim().is_empty());
    let now = served.process.clock.now();
    let filter = EventFilter::of_page(&query, PAGE);
    let (status, problem, found) = match filter {
        Err(problem) => (StatusCode::BAD_REQUEST, Some(problem), Vec::new()),
        Ok(filter) => {
            let found = served.process.history.fleet_events(filter.query(&served)).await;
            let problem =
                found.is_none().then(|| "The history cannot be read now. Please try again later.".to_owned());
            let status = if found.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, problem, found.unwrap_or_default())
        }
    };
    let following = (found.len() > PAGE).then(|| following(&query, found[PAGE - 1].id));
    let lines = found.into_iter().take(PAGE).map(|event| line(&served, event, now)).collect();
    let chosen = |name: &str| query.get(name).cloned().unwrap_or_default();
    let page = EventsPage {
        root: "",
        icon: "",
        now: When::of(now, now),
        telemetry_path: served.process.options.telemetry_path.trim_start_matches('/').to_owned(),
        problem,
        kinds: choices(
            KINDS.iter().map(|(kind, words)| ((*kind).to_owned(), (*words).to_owned())),
            &chosen("kind"),
        ),
        apps: choices(apps(&served), &chosen("app")),
        reasons: choices(
            Reason::ALL.iter().map(|reason| (reason.label().to_owned(), reason.label().to_owned())),
            &chosen("reason"),
        ),
        lines,
        following,
        query,
    };
    private(html(status, &page)).into_response()
}

fn line(served: &Served, event: crate::web::commands::FleetEvent, now: Timestamp) -> Line {
    let entry = served.entry(&event.integration);
    let reason = Reason::from_label(&event.detail).map(|reason| {
        let line = crate::web::wording::ReasonLine::of(reason);
        (line.label.to_owned(), line.runbook)
    });
    Line {
        at: When::of(event.at, now),
        is_there: entry.is_some(),
        app: entry.map(|entry| entry.record.app_display_name.to_string()).unwrap_or_default(),
        what: event_words(&event.kind, &event.detail),
        integration: event.integration,
        kind: event.kind,
        reason,
    }
}

/// Name and display name of each application that has an integration.
fn apps(served: &Served) -> Vec<(String, String)> {
    let all = served.process.fleet.all();
    let mut apps: Vec<(String, String)> =
        all.iter().map(|e| (e.record.app.to_string(), e.record.app_display_name.to_string())).collect();
    apps.sort();
    apps.dedup();
    apps
}

fn choices(all: impl IntoIterator<Item = (String, String)>, chosen: &str) -> Vec<Choice> {
    all.into_iter().map(|(value, label)| Choice { chosen: value == chosen, value, label }).collect()
}

/// The relative URL of the next page of the same query.
fn following(query: &HashMap<String, String>, after: i64) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for name in ["kind", "app", "reason", "integration", "since", "until"] {
        if let Some(value) = query.get(name) {
            text.append_pair(name, value);
        }
    }
    text.append_pair("after", &after.to_string());
    format!("?{}", text.finish())
}
