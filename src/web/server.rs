//! The routes, and what they read.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::gate::Gate;
use super::limits::Guesses;
use super::pieces::Pieces;
use super::reauth::{Later, Lookup, is_foreign};
use super::shell::{Guard, Shell};
use super::site::{Admission, Routes, Site};
use super::{api, integration, pages, reauth, status, users};
use crate::clock::Clock;
use crate::metrics::{Families, Published, negotiate, write};
use crate::reauth::Reauthentication;

/// What the command line says about the pages.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// Path of the exposition.
    pub telemetry_path: String,
    /// Where browsers see the pages, when that is not where they are served; without trailing slash.
    pub external_url: Option<String>,
    /// What all paths begin with: empty, or a path such as `/consentry`.
    pub route_prefix: String,
    /// Scrapes at once; more are refused. 0 means any number.
    pub max_requests: usize,
    /// `POST /-/reload` reloads.
    pub lifecycle: bool,
}

impl Default for WebOptions {
    fn default() -> Self {
        Self { telemetry_path: "/metrics".to_owned(), external_url: None, route_prefix: String::new(), max_requests: 40, lifecycle: false }
    }
}

/// What is wrong with the database, in a sentence; nothing when all is well.
pub type StorageProblem = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What lasts as long as the process, whatever its configuration.
pub struct Process {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// For the expiry of links.
    pub clock: Clock,
    /// Wrong links so far.
    pub guesses: Guesses,
    /// Configuration, database and the first pass are there.
    pub ready: AtomicBool,
    /// What the command line says.
    pub options: WebOptions,
    /// What `--web.config.file` says.
    pub gate: Arc<Gate>,
    /// Reads the configuration again; the answer is what is wrong with it.
    pub reload: Box<Later<Result<(), String>>>,
    scrapes: Option<Arc<Semaphore>>,
    /// Says what is wrong with the database, if anything is.
    storage: OnceLock<StorageProblem>,
    /// What is wrong with files, so that what stands in them is not in effect.
    trouble: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    /// Puts the parts together.
    pub fn new(
        (families, published, clock): (Families, Arc<Published>, Clock),
        options: WebOptions,
        gate: Arc<Gate>,
        reload: Box<Later<Result<(), String>>>,
    ) -> Self {
        let scrapes = (options.max_requests > 0).then(|| Arc::new(Semaphore::new(options.max_requests)));
        let (guesses, ready, trouble) = (Guesses::default(), AtomicBool::new(false), Mutex::default());
        Self { families, published, clock, guesses, ready, options, gate, reload, scrapes, storage: OnceLock::new(), trouble }
    }
}

impl Process {
    /// The process is ready only while this finds nothing wrong with the database.
    pub fn watch_storage(&self, problem: StorageProblem) {
        // The first one stays.
        drop(self.storage.set(problem));
    }

    /// The pages say from now on what is wrong with the files of the configuration.
    pub fn set_trouble(&self, trouble: Vec<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What is wrong with the files of the configuration.
    pub(super) fn trouble(&self) -> Vec<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the routes read.
#[derive(Debug)]
pub struct Served {
    /// What a reload leaves alone.
    pub process: Arc<Process>,
    /// Opens mailed links, and renews consent and token.
    pub reauthentication: Option<Reauthentication>,
    /// What mailed links start with.
    pub public_url: Option<String>,
    /// Whom a reader of the pages may ask.
    pub support: Option<String>,
    /// Headers of the pages.
    pub guard: Guard,
    /// Says what is wrong with an integration.
    pub monitor: Lookup,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Vec<u8>,
}

impl Served {
    /// The layout of a page one level below the root.
    pub(super) fn shell(&self) -> Shell {
        Shell { root: "../", support: self.support.clone() }
    }

    /// Whether a request comes from a page that is not ours.
    pub(super) fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let own = [self.public_url.as_deref(), self.process.options.external_url.as_deref()];
        is_foreign(headers, &own)
    }

    /// A cookie for the pages of re-authentication alone (RFC 6265bis).
    pub(super) fn cookie(&self, name: &str, value: &str, seconds: u64) -> String {
        let public = self.public_url.as_deref().unwrap_or_default();
        let secure = if public.starts_with("https://") { "; Secure" } else { "" };
        format!("{name}={value}; Path={}/reauth; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", path_of(public))
    }
}

/// The path of a URL without trailing slash; empty for none.
pub fn path_of(url: &str) -> &str {
    let after = url.split_once("://").map_or("", |(_, rest)| rest);
    after.find('/').map_or("", |start| after[start..].trim_end_matches('/'))
}

/// No request takes longer: not to arrive, not to be answered. A callback that waits for Entra is done within half of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Small answers are not worth compressing.
const GZIP_FROM: usize = 1024;

/// What the listeners serve.
#[derive(Debug)]
pub struct Sites {
    /// Everything.
    pub all: Arc<Site>,
    /// The pages of re-authentication and nothing else, so that they can face the internet while the rest stays inside.
    pub reauthentication: Arc<Site>,
    /// Health and readiness and nothing else, for orchestrators.
    pub health: Arc<Site>,
}

impl Sites {
    /// Sites that serve this.
    pub fn new(served: &Arc<Served>) -> Self {
        let gate = &served.process.gate;
        let site = |routes, admission| Arc::new(Site::new(routes, Arc::clone(gate), admission));
        Self {
            all: site(everything(served), Admission::Policy),
            reauthentication: site(alone(reauth::routes(), served), Admission::Everybody),
            health: site(alone(health(), served), Admission::Plain),
        }
    }

    /// From now on they serve this.
    pub fn replace(&self, served: &Arc<Served>) {
        self.all.replace(everything(served));
        self.reauthentication.replace(alone(reauth::routes(), served));
        self.health.replace(alone(health(), served));
    }
}

/// As in Prometheus; neither depends on Entra or on mail.
fn health() -> Router<Arc<Served>> {
    Router::new().route("/-/healthy", get(|| async { "Consentry is healthy.\n" })).route("/-/ready", get(ready))
}

/// Users are asked for everything but the pages of re-authentication, where the link is the key.
fn everything(served: &Arc<Served>) -> Routes {
    let private = Router::new()
        .route("/", get(status::index))
        .route("/favicon.svg", get(status::favicon))
        .route("/assets/status.css", get(status::style))
        .route("/assets/status.js", get(status::script))
        .route("/integrations/{name}", get(integration::integration))
        .route("/integrations/{name}/probe", post(integration::probe))
        .route("/integrations/{name}/link", post(integration::link))
        .route(&served.process.options.telemetry_path, get(metrics))
        .route("/-/reload", post(reload).put(reload))
        .route("/config", get(configuration))
        .merge(health())
        .merge(api::routes())
        .fallback(pages::not_found)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&served.process.gate), users::ask));
    let outside = finished(reauth::routes().fallback(pages::not_found), served);
    let inside = finished(private.merge(reauth::routes()), served);
    Routes { inside, outside, prefix: served.process.options.route_prefix.as_str().into(), public: public_path(served) }
}

/// Routes that stand wherever they are asked for.
fn alone(routes: Router<Arc<Served>>, served: &Arc<Served>) -> Routes {
    let router = finished(routes.fallback(pages::not_found), served);
    Routes { inside: router.clone(), outside: router, prefix: "".into(), public: public_path(served) }
}

/// The path of the public URL. Some proxies strip it and some do not.
fn public_path(served: &Served) -> Arc<str> {
    served.public_url.as_deref().map(path_of).unwrap_or_default().into()
}

fn finished(router: Router<Arc<Served>>, served: &Arc<Served>) -> Router {
    let guard = served.guard.clone();
    router
        .layer(axum::extract::DefaultBodyLimit::max(64 * 1024))
        .layer(axum::middleware::from_fn(in_time))
        .layer(axum::middleware::map_response(move |mut response: Response| {
            guard.apply(response.headers_mut());
            std::future::ready(response)
        }))
        .with_state(Arc::clone(served))
}

/// A client that sends its body a byte a minute does not hold a connection for ever.
async fn in_time(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// Answers as Prometheus does.
async fn reload(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    if !served.process.options.lifecycle {
        return (StatusCode::FORBIDDEN, "The lifecycle API is not enabled; start Consentry with --web.enable-lifecycle.\n").into_response();
    }
    if served.is_foreign(&headers) {
        return (StatusCode::FORBIDDEN, "The request came from another site's page.\n").into_response();
    }
    match (served.process.reload)().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(problems) => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {problems}\n")).into_response(),
    }
}

async fn ready(State(served): State<Arc<Served>>) -> Response {
    if let Some(problem) = served.process.storage.get().and_then(|problem| problem()) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response();
    }
    if served.process.ready.load(Ordering::Relaxed) {
        return "Consentry is ready.\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "Consentry is starting.\n").into_response()
}

async fn metrics(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let room = served.process.scrapes.clone().map(Semaphore::try_acquire_owned).transpose();
    let Ok(room) = room else {
        let most = served.process.options.max_requests;
        let text = format!("Limit of concurrent requests reached ({most}), try again later.\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response();
    };
    let process = Arc::clone(&served.process);
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let format = negotiate(header(ACCEPT));
    let gzip = header(ACCEPT_ENCODING).is_some_and(accepts_gzip);
    // A big fleet's exposition takes milliseconds, and compressing it more: not on a thread that others wait for.
    let body = tokio::task::spawn_blocking(move || {
        let text = write(&process.families, &process.published, format);
        let packed = if gzip && text.len() > GZIP_FROM { compress(&text).map(|z| (z, true)) } else { Ok((text.into_bytes(), false)) };
        // Its room goes with the work: a client that has gone does not make room for more.
        packed.map(|(body, gzipped)| (body, gzipped, room))
    });
    let Ok(Ok((body, gzipped, room))) = body.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    // The room is taken until the last piece is on its way: a client that does not read keeps it, not the memory of many answers.
    let body = axum::body::Body::new(Pieces::new(body, room));
    let mut response =
        ([(CONTENT_TYPE, format.content_type()), (VARY, "Accept, Accept-Encoding"), (CACHE_CONTROL, "no-store")], body).into_response();
    if gzipped {
        response.headers_mut().insert(CONTENT_ENCODING, axum::http::HeaderValue::from_static("gzip"));
    }
    response
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

/// The effective configuration, secrets hidden.
async fn configuration(State(served): State<Arc<Served>>) -> Response {
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let read = std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&served.configuration[..]), &mut text);
        read.map(|_| text)
    });
    match text.await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, "application/yaml; charset=utf-8"), (CACHE_CONTROL, "no-store")], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Compresses a text (gzip), for answers and for keeping.
///
/// # Errors
/// None in memory.
pub fn compress(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(text.len() / 8), flate2::Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_public_urls() {
        for (url, path) in [
            ("https://c.example.com", ""),
            ("https://c.example.com/", ""),
            ("https://c.example.com/base/", "/base"),
            ("http://127.0.0.1:1/a/b", "/a/b"),
            ("", ""),
        ] {
            assert_eq!(path_of(url), path, "{url}");
        }
    }

    #[test]
    fn gzip_is_negotiated() {
        for (header, expected) in
            [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false), ("GZIP", true)]
        {
            assert_eq!(accepts_gzip(header), expected, "{header}");
        }
    }
}
