//! Bodies of requests while they arrive. Their number is limited, in total and per network; while places are scarce, slow ones are aborted.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::bodies::busy;
use crate::listener::client::Client;
use crate::listener::connections::{Activity, Arriving};
use crate::listener::limits::{Place, Places};

/// The number of bodies that may arrive at once. They are forms of a few hundred bytes, which usually arrive with their headers.
const AT_ONCE: usize = 64;

/// The number of these that may come from one network.
const OF_ONE: usize = 16;

/// While places are scarce, a body must be complete after this time, or arrive at [`LEAST_RATE`].
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes per second, on average.
const LEAST_RATE: f64 = 500.0;

/// The interval at which the rate is checked.
const RATE_CHECK: Duration = Duration::from_secs(1);

pub(super) fn places() -> Arc<Places> {
    Places::new(AT_ONCE, OF_ONE)
}

/// Takes a place for a request that has a body, and aborts a slow one while places are scarce. The timeout of the request applies in any case.
pub(super) async fn receive(State(places): State<Arc<Places>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let address =
        request.extensions().get::<Client>().map_or(IpAddr::from([0, 0, 0, 0]), |client| client.address);
    let Some(place) = places.take(address) else { return closing(busy(request.uri().path())) };
    let arriving = request.extensions().get::<Arc<Activity>>().map(Activity::arriving);
    let too_slow = Arc::new(AtomicBool::new(false));
    let (parts, body) = request.into_parts();
    let upload = Upload {
        body,
        received: 0,
        begun: Instant::now(),
        rate_check: Box::pin(sleep(RATE_CHECK)),
        places,
        held: Some((place, arriving)),
        too_slow: Arc::clone(&too_slow),
    };
    let response = next.run(Request::from_parts(parts, Body::new(upload))).await;
    if too_slow.load(Ordering::Relaxed) {
        return closing(
            (StatusCode::REQUEST_TIMEOUT, "The request body arrived too slowly while others were waiting.\n")
                .into_response(),
        );
    }
    response
}

/// The connection cannot be used again, because the rest of the body may still arrive on it.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

struct Upload {
    body: Body,
    received: usize,
    begun: Instant,
    rate_check: Pin<Box<Sleep>>,
    places: Arc<Places>,
    /// Released as soon as the body is complete.
    held: Option<(Place, Option<Arriving>)>,
    too_slow: Arc<AtomicBool>,
}

impl Upload {
    fn is_too_slow(&self) -> bool {
        is_slow(self.begun.elapsed(), self.received) && self.places.is_scarce()
    }
}

fn is_slow(elapsed: Duration, received: usize) -> bool {
    elapsed > UPLOAD_TIMEOUT && (received as f64) < LEAST_RATE * elapsed.as_secs_f64()
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.received += frame.data_ref().map_or(0, Bytes::len);
                if this.body.is_end_stream() {
                    this.held = None;
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(other) => {
                this.held = None;
                return Poll::Ready(other);
            }
            Poll::Pending => {}
        }
        while this.rate_check.as_mut().poll(cx).is_ready() {
            if this.is_too_slow() {
                this.too_slow.store(true, Ordering::Relaxed);
                this.held = None;
                return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(
                    std::io::ErrorKind::TimedOut,
                )))));
            }
            this.rate_check.as_mut().reset(Instant::now() + RATE_CHECK);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_bodies_are_recognized() {
        for (sentence, seconds, received, expected) in [
            ("nothing yet", 4.9, 0, false),
            ("nothing for long", 5.1, 0, true),
            ("a byte a second", 30.0, 30, true),
            ("a modem", 10.0, 20_000, false),
            ("a modem that stopped", 50.0, 20_000, true),
        ] {
            assert_eq!(is_slow(Duration::from_secs_f64(seconds), received), expected, "{sentence}");
        }
    }
}
