//! The routes, and what they read.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use ipnet::IpNet;

use super::bodies::{Bodies, busy};
use super::chunked_body::{ChunkedBody, Prepared};
use super::exposition::{Exposition, metrics, probe_metrics};
use super::hosts::{Authority, Host, Names, is_foreign};
use super::layout::{PageLayout, SecurityHeaders};
use super::reauth::{Later, Lookup};
use super::{access, api, bodies, integration, pages, reauth, status, uploads};
use crate::clock::Clock;
use crate::listener::client::Client;
use crate::listener::connections::Capacity;
use crate::listener::limits::{FailedAttemptLimiter, Places};
use crate::listener::security::WebSecurity;
use crate::listener::site::{Admission, Routes, Site};
use crate::metrics::{Families, Published};
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
    /// Without users, everybody may do what changes something, and not this machine alone.
    pub anonymous_actions: bool,
    /// Names by which pages may be asked for, besides the machine's own.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for WebOptions {
    fn default() -> Self {
        Self {
            telemetry_path: "/metrics".to_owned(),
            external_url: None,
            route_prefix: String::new(),
            max_requests: 40,
            lifecycle: false,
            anonymous_actions: false,
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// What is wrong with the database, in a sentence; nothing when all is well.
pub type StorageProblem = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// Something that happened to an integration, to be kept in its history.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose history.
    pub integration: String,
    /// `link_made`, …
    pub kind: &'static str,
    /// Who did it.
    pub detail: String,
}

/// What keeps a record; whether that has worked.
pub type Keep = dyn Fn(Record) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// What the pages want of the process around them.
pub struct Hooks {
    /// Reads the configuration again; the answer is what is wrong with it.
    pub reload: Box<Later<Result<(), String>>>,
    /// Whether the fleet is being probed.
    pub alive: Box<dyn Fn() -> bool + Send + Sync>,
    /// Keeps a record; whether that has worked.
    pub record: Box<Keep>,
}

/// What lasts as long as the process, whatever its configuration.
pub struct Process {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// For the expiry of links.
    pub clock: Clock,
    /// Wrong links so far.
    pub guesses: FailedAttemptLimiter,
    /// Configuration, database and the first pass are there.
    pub ready: AtomicBool,
    /// What the command line says.
    pub options: WebOptions,
    /// What `--web.config.file` says.
    pub gate: Arc<WebSecurity>,
    /// What the pages want of the process.
    pub hooks: Hooks,
    /// How many connections are carried.
    pub capacity: Capacity,
    /// By which names pages may be asked for, besides that of the public URL.
    names: Names,
    /// `--web.external-url` names another machine than this one.
    pub(super) seen_from_elsewhere: bool,
    pub(super) exposition: Exposition,
    /// Of the pages and the API.
    pub(super) bodies: Bodies,
    /// Of the pages behind mailed links: whoever holds up the one does not hold up the other.
    link_bodies: Bodies,
    uploads: Arc<Places>,
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
        gate: Arc<WebSecurity>,
        hooks: Hooks,
        capacity: Capacity,
    ) -> Self {
        let external = options.external_url.as_deref().and_then(Authority::of_url).map(|authority| authority.host);
        Self {
            names: Names::with(options.allowed_hosts.iter().cloned().chain(external.iter().map(ToString::to_string))),
            // A name that cannot be read is no name of this machine.
            seen_from_elsewhere: options.external_url.is_some() && !external.as_ref().is_some_and(Host::is_loopback),
            exposition: Exposition::new(options.max_requests),
            bodies: Bodies::default(),
            link_bodies: Bodies::default(),
            uploads: uploads::places(),
            guesses: FailedAttemptLimiter::default(),
            ready: AtomicBool::new(false),
            storage: OnceLock::new(),
            trouble: Mutex::default(),
            families,
            published,
            clock,
            options,
            gate,
            hooks,
            capacity,
        }
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
    pub guard: SecurityHeaders,
    /// Says what is wrong with an integration.
    pub monitor: Lookup,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Bytes,
}

impl Served {
    /// The layout of a page one level below the root.
    pub(super) fn shell(&self) -> PageLayout {
        PageLayout { root: "../", support: self.support.clone() }
    }

    /// Whether a request comes from a page that is not ours.
    pub(super) fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let own = [self.public_url.as_deref(), self.process.options.external_url.as_deref()];
        is_foreign(headers, &own)
    }

    /// Whether pages may be asked for by this name.
    pub(super) fn goes_by(&self, host: &Host) -> bool {
        let is_public = || self.public_url.as_deref().and_then(Authority::of_url).is_some_and(|public| public.host == *host);
        self.process.names.contain(host) || is_public()
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
        let Process { gate, capacity, options, .. } = &*served.process;
        let trusted: Arc<[IpNet]> = options.trusted_proxies.as_slice().into();
        let site =
            |routes, admission, connections| Arc::new(Site::new(routes, Arc::clone(gate), admission, connections, Arc::clone(&trusted)));
        Self {
            all: site(everything(served), Admission::Policy, capacity.all),
            reauthentication: site(alone(links(served), served), Admission::Everybody, capacity.reauthentication),
            health: site(alone(health(), served), Admission::Plain, capacity.health),
        }
    }

    /// From now on they serve this.
    pub fn replace(&self, served: &Arc<Served>) {
        self.all.replace(everything(served));
        self.reauthentication.replace(alone(links(served), served));
        self.health.replace(alone(health(), served));
    }
}

/// As in Prometheus; neither depends on Entra or on mail.
fn health() -> Router<Arc<Served>> {
    Router::new().route("/-/healthy", get(healthy)).route("/-/ready", get(ready))
}

/// The pages behind mailed links.
fn links(served: &Served) -> Router<Arc<Served>> {
    reauth::routes().layer(from_fn_with_state(served.process.link_bodies.clone(), bodies::admit))
}

/// Users are asked for everything but the pages of re-authentication, where the link is the key.
fn everything(served: &Arc<Served>) -> Routes {
    let made = Router::new()
        .route("/", get(status::index))
        .route("/favicon.svg", get(status::favicon))
        .route("/assets/status.css", get(status::style))
        .route("/assets/status.js", get(status::script))
        .route("/integrations/{name}", get(integration::integration))
        .route("/integrations/{name}/probe", post(integration::probe))
        .route("/integrations/{name}/link", post(integration::link))
        .merge(api::routes())
        .layer(from_fn_with_state(served.process.bodies.clone(), bodies::admit));
    let private = made
        .route(&served.process.options.telemetry_path, get(metrics))
        .route("/probe", get(probe_metrics))
        .route("/-/reload", post(reload).put(reload))
        .route("/config", get(configuration))
        .merge(health())
        .fallback(pages::not_found)
        .layer(from_fn_with_state(Arc::clone(served), access::guard));
    let outside = finished(links(served).fallback(pages::not_found), served);
    let inside = finished(private.merge(links(served)), served);
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
        .layer(from_fn_with_state(Arc::clone(&served.process.uploads), uploads::receive))
        .layer(from_fn(in_time))
        .layer(map_response(move |mut response: Response| {
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
async fn reload(State(served): State<Arc<Served>>) -> Response {
    if !served.process.options.lifecycle {
        return (StatusCode::FORBIDDEN, "The lifecycle API is not enabled; start Consentry with --web.enable-lifecycle.\n").into_response();
    }
    match (served.process.hooks.reload)().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(problems) => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {problems}\n")).into_response(),
    }
}

async fn healthy(State(served): State<Arc<Served>>) -> Response {
    health_of((served.process.hooks.alive)()).into_response()
}

/// A process whose loop stands still answers, and does nothing else; it has to be started again.
const fn health_of(alive: bool) -> (StatusCode, &'static str) {
    match alive {
        true => (StatusCode::OK, "Consentry is healthy.\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "Consentry does not probe any more; restart it.\n"),
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

/// The effective configuration, secrets hidden. It is there once, compressed, for all who ask.
async fn configuration(State(served): State<Arc<Served>>, Extension(client): Extension<Client>) -> Response {
    let Some(place) = served.process.bodies.place(client.address) else { return busy("/config") };
    let packed = served.configuration.clone();
    let body = Body::new(ChunkedBody::new(Prepared::Packed(packed, unpacked_length(&served.configuration)), place));
    ([(CONTENT_TYPE, "application/yaml; charset=utf-8"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// The length of what was compressed, modulo 4 GiB: the last four bytes (RFC 1952 section 2.3.1).
fn unpacked_length(packed: &[u8]) -> usize {
    packed.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

/// Compresses a text (gzip), for answers and for keeping.
///
/// # Errors
/// None in memory.
pub fn compress(text: &str) -> std::io::Result<Vec<u8>> {
    compress_bytes(text.as_bytes())
}

pub(super) fn compress_bytes(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 8), flate2::Compression::fast());
    encoder.write_all(bytes)?;
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
    fn health_is_that_of_the_loop() {
        assert_eq!(health_of(true).0, StatusCode::OK);
        assert_eq!(health_of(false).0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn compressed_texts_know_their_length() {
        for text in ["", "a", &"integrations: []\n".repeat(1_000)] {
            assert_eq!(unpacked_length(&compress(text).expect("compressed")), text.len());
        }
        assert_eq!(unpacked_length(&[]), 0);
    }
}
