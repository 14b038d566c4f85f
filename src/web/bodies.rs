//! Limits the responses that are generated for one request each: in total, per network, and how many are generated at the same time. A
//! client that does not read its response keeps its place, but uses little memory.

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
use crate::encoding::gzip;
use crate::listener::client::Client;
use crate::listener::limits::{Place, Places};

/// The number of responses that are being generated or sent at once.
const AT_ONCE: usize = 128;

/// The number of these that may go to one network.
const OF_ONE: usize = 64;

/// Longer bodies are held compressed until they are sent, in bytes.
const LONG: usize = 16 * 1024;

/// The number of long responses that are generated at once. Each reads the whole fleet.
const MADE_AT_ONCE: usize = 2;

/// Limits responses; see the module.
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
    /// A place for a response to this address.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        self.places.take(address)
    }

    /// Waits for a permit to generate a long response. The permit must move into the task that does the work: a client that disconnects
    /// does not allow more work at once.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.making).acquire_owned().await.ok()
    }
}

/// Takes a place before a response is generated, and holds it until the response is sent.
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

/// The body compressed; uncompressed if compression fails.
async fn packed(whole: Bytes) -> Prepared {
    let length = whole.len();
    let text = whole.clone();
    match tokio::task::spawn_blocking(move || gzip(&text)).await {
        Ok(Ok(packed)) => Prepared::Packed(packed.into(), length),
        _ => Prepared::Plain(whole),
    }
}

/// The response when all places are taken.
pub(super) fn busy(path: &str) -> Response {
    let detail = "too many concurrent requests; try again in a moment";
    let mut response = if path.starts_with("/api/") {
        super::api::problem::problem(StatusCode::SERVICE_UNAVAILABLE, detail)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("Service Unavailable: {detail}.\n")).into_response()
    };
    response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
    response
}
