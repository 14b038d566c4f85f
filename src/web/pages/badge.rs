//! An SVG badge with an integration's state, for use on other pages.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::domain::Health;
use crate::web::state::Served;

/// `/integrations/NAME/badge.svg`.
pub(crate) async fn badge(
    State(served): State<Arc<Served>>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
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
    // Wide enough for any common font at this size, in pixels.
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
