//! Answers that are made for one request: so many at once, of these so many for one network, and so many being made. A client that does
//! not take what it asked for keeps its place, and costs little more than that.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunked_body::{ChunkedBody, Prepared};
use super::compression::compress_bytes;
use crate::listener::client::Client;
use crate::listener::limits::{Place, Places};

/// Answers that are being made or taken at once.
const AT_ONCE: usize = 128;

/// So many of them may go to one network.
const OF_ONE: usize = 64;

/// What is longer is kept compressed until it is taken.
const LONG: usize = 16 * 1024;

/// So many long answers are made at once: each looks at the whole fleet.
const MADE_AT_ONCE: usize = 2;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    places: Arc<Places>,
    making: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { places: Places::new(AT_ONCE, OF_ONE), making: Arc::new(Semaphore::new(MADE_AT_ONCE)) }
    }
}

impl Bodies {
    /// A place for an answer to whoever comes from this address.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        self.places.take(address)
    }

    /// Waits for a turn at making a long answer. It goes with the work: a client that has gone does not make room for more.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.making).acquire_owned().await.ok()
    }
}

/// Takes a place before an answer is made, and holds it until the answer is taken.
pub(super) async fn admit(State(bodies): State<Bodies>, request: Request, next: Next) -> Response {
    let address =
        request.extensions().get::<Client>().map_or(IpAddr::from([0, 0, 0, 0]), |client| client.address);
    let Some(place) = bodies.place(address) else { return busy(request.uri().path()) };
    let (parts, body) = next.run(request).await.into_parts();
    let Ok(whole) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let kept = if whole.len() > LONG { packed(whole).await } else { Prepared::Plain(whole) };
    Response::from_parts(parts, Body::new(ChunkedBody::new(kept, place)))
}

/// Compressed, where that works.
async fn packed(whole: Bytes) -> Prepared {
    let length = whole.len();
    let text = whole.clone();
    match tokio::task::spawn_blocking(move || compress_bytes(&text)).await {
        Ok(Ok(packed)) => Prepared::Packed(packed.into(), length),
        _ => Prepared::Plain(whole),
    }
}

/// There are too many answers under way.
pub(super) fn busy(path: &str) -> Response {
    let detail = "too many requests are under way; try again in a moment";
    let mut response = if path.starts_with("/api/") {
        super::api::problem::problem(StatusCode::SERVICE_UNAVAILABLE, detail)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("Service Unavailable: {detail}.\n")).into_response()
    };
    response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
    response
}
