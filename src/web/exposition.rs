//! `/metrics`: made once for all who ask at the same time, given to so many at once, kept compressed for those who take it slowly. And
//! `/probe`, the same for one integration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::chunked_body::{ChunkedBody, Prepared};
use super::server::{Process, Served, compress};
use crate::domain::Timestamp;
use crate::listener::client::Client;
use crate::listener::limits::Places;
use crate::metrics::{Format, negotiate, write, write_one};

/// `/probe` answers from a result that is younger than this.
const YOUNG: Duration = Duration::from_secs(10);

/// Small answers are not worth compressing.
const GZIP_FROM: usize = 1024;

/// Kilobytes of expositions that are kept as they are, for those who do not take them compressed; more are kept compressed.
const PLAIN: usize = 24 * 1024;

/// So many are made at once.
const MADE_AT_ONCE: usize = 2;

/// What was made for some clients.
#[derive(Debug)]
struct Made {
    body: Prepared,
    /// It is sent compressed.
    gzipped: bool,
    _room: Option<OwnedSemaphorePermit>,
}

/// One that several wait for. `None` when it cannot be made.
type Waited = Arc<OnceCell<Option<Arc<Made>>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Exposition {
    /// For so many at once; `None` means any number.
    places: Option<Arc<Places>>,
    most: usize,
    turns: Arc<Semaphore>,
    plain: Arc<Semaphore>,
    /// Those that nobody has begun to make.
    waited: Mutex<Vec<((Format, bool), Waited)>>,
}

impl Exposition {
    /// For so many clients at once, of which one network may be three quarters; 0 means any number.
    pub(super) fn new(most: usize) -> Self {
        let places = (most > 0).then(|| Places::new(most, most.saturating_mul(3).div_ceil(4)));
        let [turns, plain] = [MADE_AT_ONCE, PLAIN].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { places, most, turns, plain, waited: Mutex::default() }
    }

    fn waited(&self) -> MutexGuard<'_, Vec<((Format, bool), Waited)>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is made from now on; whoever asks before it is begun waits for the same.
    async fn made(&self, process: &Arc<Process>, format: Format, gzip: bool) -> Option<Arc<Made>> {
        let wanted = (format, gzip);
        let waited: Waited = {
            let mut all = self.waited();
            let known = all.iter().find(|(key, _)| *key == wanted).map(|(_, waited)| Arc::clone(waited));
            known.unwrap_or_else(|| {
                let fresh = Waited::default();
                all.push((wanted, Arc::clone(&fresh)));
                fresh
            })
        };
        let begin = || async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
            self.waited().retain(|(_, other)| !Arc::ptr_eq(other, &waited));
            let (process, plain) = (Arc::clone(process), Arc::clone(&self.plain));
            // A big fleet's exposition takes milliseconds, and compressing it more: not on a thread that others wait for. The turn goes
            // with the work: clients that have gone do not make room for more.
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                make(&write(&process.families, &process.published, format), gzip, &plain)
            });
            work.await.ok().and_then(Result::ok).map(Arc::new)
        };
        waited.get_or_init(begin).await.clone()
    }
}

fn make(text: &str, gzip: bool, plain: &Arc<Semaphore>) -> std::io::Result<Made> {
    if gzip && text.len() > GZIP_FROM {
        return Ok(Made { body: Prepared::Plain(compress(text)?.into()), gzipped: true, _room: None });
    }
    let kilobytes = u32::try_from(text.len().div_ceil(1024)).unwrap_or(u32::MAX);
    Ok(match Arc::clone(plain).try_acquire_many_owned(kilobytes) {
        Ok(room) => Made { body: Prepared::Plain(Bytes::copy_from_slice(text.as_bytes())), gzipped: false, _room: Some(room) },
        Err(_) => Made { body: Prepared::Packed(compress(text)?.into(), text.len()), gzipped: false, _room: None },
    })
}

/// `/metrics`.
pub(super) async fn metrics(State(served): State<Arc<Served>>, Extension(client): Extension<Client>, headers: HeaderMap) -> Response {
    let exposition = &served.process.exposition;
    let place = exposition.places.as_ref().map(|places| places.take(client.address));
    if matches!(place, Some(None)) {
        let text = format!("Limit of concurrent requests reached ({}), try again later.\n", exposition.most);
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response();
    }
    let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let format = negotiate(header(ACCEPT));
    let gzip = header(ACCEPT_ENCODING).is_some_and(accepts_gzip);
    let Some(made) = exposition.made(&served.process, format, gzip).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // The place is taken until the last piece is on its way: a client that does not read keeps it, not the memory of many answers.
    let gzipped = made.gzipped;
    let body = Body::new(ChunkedBody::new(made.body.clone(), (place, made)));
    let mut response =
        ([(CONTENT_TYPE, format.content_type()), (VARY, "Accept, Accept-Encoding"), (CACHE_CONTROL, "no-store")], body).into_response();
    if gzipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// `/probe?target=NAME`: probes now and answers with this integration's metrics alone, for those who let Prometheus drive.
pub(super) async fn probe_metrics(
    State(served): State<Arc<Served>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some(name) = query.get("target").filter(|t| !t.is_empty()) else {
        return (StatusCode::BAD_REQUEST, "target is missing: /probe?target=NAME\n").into_response();
    };
    let Some(detail) = (served.monitor.detail)(name) else {
        return (StatusCode::NOT_FOUND, "no integration has this name\n").into_response();
    };
    let now = served.process.clock.now();
    if !detail.last_probe.is_some_and(|at| is_young(at, now)) {
        (served.monitor.probe_now)(name).await;
    }
    let format = negotiate(headers.get(ACCEPT).and_then(|v| v.to_str().ok()));
    let body = write_one(&served.process.published, name, format);
    ([(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Whether a result may be given once more. One that comes from the future says that somebody has set the clock.
fn is_young(at: Timestamp, now: Timestamp) -> bool {
    at <= now && now.since(at) < YOUNG
}

/// Whether `gzip` (or anything) is accepted with a quality above zero (RFC 9110 section 12.5.3).
fn accepts_gzip(header: &str) -> bool {
    header.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|c| c.eq_ignore_ascii_case("gzip"));
        let quality = parts.find_map(|p| p.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        named && quality > 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_negotiated() {
        for (header, expected) in
            [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false), ("GZIP", true)]
        {
            assert_eq!(accepts_gzip(header), expected, "{header}");
        }
    }

    #[test]
    fn results_are_young_for_some_seconds() {
        let now = Timestamp::from_seconds(1_000);
        for (at, expected) in [(1_000, true), (991, true), (990, false), (1_001, false)] {
            assert_eq!(is_young(Timestamp::from_seconds(at), now), expected, "{at}");
        }
    }

    #[test]
    fn what_waits_uncompressed_is_bounded() {
        let (text, room) = ("x".repeat(100 * 1024), Arc::new(Semaphore::new(150)));
        let first = make(&text, false, &room).expect("made");
        assert!(matches!(&first.body, Prepared::Plain(bytes) if bytes.len() == text.len()));
        let second = make(&text, false, &room).expect("made");
        assert!(matches!(&second.body, Prepared::Packed(bytes, length) if bytes.len() < 1024 && *length == text.len()));
        drop(first);
        assert!(matches!(make(&text, false, &room).expect("made").body, Prepared::Plain(_)), "room again");
        assert!(make(&text, true, &room).expect("made").gzipped);
    }
}
