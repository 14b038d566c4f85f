//! The error responses of the API.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `about:blank`: the status describes the problem.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What is wrong and what to write instead.
    detail: String,
}

pub(crate) fn problem(status: StatusCode, detail: impl Into<String>) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Problem { r#type: "about:blank", title, status: status.as_u16(), detail: detail.into() };
    (status, [(CONTENT_TYPE, "application/problem+json")], serde_json::to_string(&body).unwrap_or_default())
        .into_response()
}
