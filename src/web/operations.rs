//! The routes for operators and monitoring: `/metrics`, `/probe`, `/-/*` and `/config`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::bodies::busy;
use super::chunked_body::{ChunkedBody, Prepared};
use super::compression::unpacked_length;
use super::state::Served;
use crate::domain::Timestamp;
use crate::encoding::quality;
use crate::listener::client::Client;
use crate::metrics::{negotiate, write_one};

/// `/probe` returns the last result without a new probe while it is younger than this.
const YOUNG: Duration = Duration::from_secs(10);

/// `/metrics`.
pub(super) async fn metrics(
    State(served): State<Arc<Served>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Response {
    let exposition = &served.process.exposition;
    let place = exposition.places.as_ref().map(|places| places.take(client.address));
    if matches!(place, Some(None)) {
        let text = format!("Limit of concurrent requests reached ({}), try again later.\n", exposition.most);
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response();
    }
    let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let format = negotiate(header(ACCEPT));
    let gzip = header(ACCEPT_ENCODING).is_some_and(|accepted| quality(accepted, "gzip") > 0.0);
    let Some(made) = exposition.made(&served.process.families, &served.process.published, format, gzip).await
    else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // The place is held until the last piece is sent, so that clients that do not read are limited in number.
    let gzipped = made.gzipped;
    let body = Body::new(ChunkedBody::new(made.body.clone(), (place, made)));
    let mut response = (
        [
            (CONTENT_TYPE, format.content_type()),
            (VARY, "Accept, Accept-Encoding"),
            (CACHE_CONTROL, "no-store"),
        ],
        body,
    )
        .into_response();
    if gzipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// `/probe?target=NAME`: probes now and returns the metrics of this integration alone, so that Prometheus can determine the interval.
pub(super) async fn probe_metrics(
    State(served): State<Arc<Served>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some(name) = query.get("target").filter(|t| !t.is_empty()) else {
        return (StatusCode::BAD_REQUEST, "target is missing: /probe?target=NAME\n").into_response();
    };
    let Some(entry) = served.entry(name) else {
        return (StatusCode::NOT_FOUND, "no integration has this name\n").into_response();
    };
    let now = served.process.clock.now();
    if !entry.state.last_probe.is_some_and(|at| is_young(at, now)) {
        served.process.commands.probe_now(name).await;
    }
    let format = negotiate(headers.get(ACCEPT).and_then(|v| v.to_str().ok()));
    let body = write_one(&served.process.published, name, format);
    ([(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Whether a result may be returned again. A result from the future means that the clock was set back, so it is not reused.
fn is_young(at: Timestamp, now: Timestamp) -> bool {
    at <= now && now.since(at) < YOUNG
}

/// `/-/reload`, with the responses of Prometheus.
pub(super) async fn reload(State(served): State<Arc<Served>>) -> Response {
    if !served.process.options.lifecycle {
        return (
            StatusCode::FORBIDDEN,
            "The lifecycle API is not enabled; start Consentry with --web.enable-lifecycle.\n",
        )
            .into_response();
    }
    match served.process.reloads.reload().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(problems) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {problems}\n"))
                .into_response()
        }
    }
}

pub(super) async fn healthy(State(served): State<Arc<Served>>) -> Response {
    health_of(served.process.commands.is_alive()).into_response()
}

/// A process whose monitor loop has stopped still serves HTTP but does not probe; it must be restarted.
const fn health_of(alive: bool) -> (StatusCode, &'static str) {
    match alive {
        true => (StatusCode::OK, "Consentry is healthy.\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "Consentry no longer probes; restart it.\n"),
    }
}

pub(super) async fn ready(State(served): State<Arc<Served>>) -> Response {
    if let Some(problem) = served.process.history.problem() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response();
    }
    if served.process.ready.load(Ordering::Relaxed) {
        return "Consentry is ready.\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "Consentry is starting.\n").into_response()
}

/// The effective configuration, secrets hidden. All requests share one compressed copy.
pub(super) async fn configuration(
    State(served): State<Arc<Served>>,
    Extension(client): Extension<Client>,
) -> Response {
    let Some(place) = served.process.bodies.place(client.address) else { return busy("/config") };
    let packed = served.configuration.clone();
    let body =
        Body::new(ChunkedBody::new(Prepared::Packed(packed, unpacked_length(&served.configuration)), place));
    ([(CONTENT_TYPE, "application/yaml; charset=utf-8"), (CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_reused_for_ten_seconds() {
        let now = Timestamp::from_seconds(1_000);
        for (at, expected) in [(1_000, true), (991, true), (990, false), (1_001, false)] {
            assert_eq!(is_young(Timestamp::from_seconds(at), now), expected, "{at}");
        }
    }

    #[test]
    fn health_is_that_of_the_monitor_loop() {
        assert_eq!(health_of(true).0, StatusCode::OK);
        assert_eq!(health_of(false).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
