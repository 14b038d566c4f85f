//! The listener and the routes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::limits::Guesses;
use super::reauth::{Lookup, Peer};
use super::shell::{Guard, Shell};
use super::{api, integration, pages, reauth, status};
use crate::clock::Clock;
use crate::metrics::{Families, Published, negotiate, write};
use crate::reauth::Reauthentication;

/// What the routes read.
#[derive(Debug)]
pub struct Served {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// Opens mailed links, and renews consent and token.
    pub reauthentication: Option<Reauthentication>,
    /// What mailed links start with.
    pub public_url: Option<String>,
    /// Whom a reader of the pages may ask.
    pub support: Option<String>,
    /// Headers of the pages.
    pub guard: Guard,
    /// Wrong links so far.
    pub guesses: Guesses,
    /// Says what is wrong with an integration.
    pub monitor: Lookup,
    /// For the expiry of links.
    pub clock: Clock,
    /// Configuration, database and the first pass are there.
    pub ready: AtomicBool,
    /// Path of the exposition.
    pub telemetry_path: String,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Vec<u8>,
}

impl Served {
    /// The layout of a page one level below the root.
    pub(super) fn shell(&self) -> Shell {
        Shell { root: "../", support: self.support.clone() }
    }

    /// A cookie for the pages of re-authentication alone (RFC 6265bis).
    pub(super) fn cookie(&self, name: &str, value: &str, seconds: u64) -> String {
        let public = self.public_url.as_deref().unwrap_or_default();
        let secure = if public.starts_with("https://") { "; Secure" } else { "" };
        format!("{name}={value}; Path={}/reauth; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", path_of(public))
    }
}

/// The path of a URL without trailing slash; empty for none.
fn path_of(url: &str) -> &str {
    let after = url.split_once("://").map_or("", |(_, rest)| rest);
    after.find('/').map_or("", |start| after[start..].trim_end_matches('/'))
}

/// A client that has not sent its headers by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// No request takes longer: not to arrive, not to be answered. A callback that waits for Entra is done within half of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// More connections at once are not served.
const CONNECTIONS: usize = 512;

/// Small answers are not worth compressing.
const GZIP_FROM: usize = 1024;

/// Binds an address as Prometheus writes them: `:10143` means every interface, IPv6 and IPv4.
///
/// # Errors
/// The address is malformed or taken.
pub async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let failed = || format!("cannot listen on {address}");
    let Some(port) = address.strip_prefix(':') else { return TcpListener::bind(address).await.with_context(failed) };
    let port: u16 = port.parse().with_context(|| format!("{address} is not an address; write it like :10143 or 127.0.0.1:10143"))?;
    match TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).await {
        Ok(listener) => Ok(listener),
        // Machines without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error).with_context(failed),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.with_context(failed),
    }
}

/// Serves everything until told to stop; answers under way are finished.
pub async fn serve(listener: TcpListener, served: Arc<Served>, stop: watch::Receiver<bool>) {
    serve_router(listener, router(served), stop).await;
}

/// Serves the pages of re-authentication and nothing else, so that they can face the internet while the rest stays inside.
pub async fn serve_reauthentication(listener: TcpListener, served: Arc<Served>, stop: watch::Receiver<bool>) {
    let router = finished(Router::new().merge(reauthentication(&served)), served);
    serve_router(listener, router, stop).await;
}

/// Serves health and readiness and nothing else, for orchestrators.
pub async fn serve_health(listener: TcpListener, served: Arc<Served>, stop: watch::Receiver<bool>) {
    serve_router(listener, finished(health(), served), stop).await;
}

/// As in Prometheus; neither depends on Entra or on mail.
fn health() -> Router<Arc<Served>> {
    Router::new().route("/-/healthy", get(|| async { "Consentry is healthy.\n" })).route("/-/ready", get(ready))
}

async fn serve_router(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let mut stopped = std::pin::pin!(async move { drop(stop.wait_for(|stopped| *stopped).await) });
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file handles, mostly: give them time to come back.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut stopped => break,
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let peer = Peer(peer.ip());
        let service = tower::ServiceExt::<axum::http::Request<hyper::body::Incoming>>::map_request(
            router.clone(),
            move |mut request: axum::http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer);
                request
            },
        );
        let service = TowerToHyperService::new(service);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away early is its own business.
            let _ = connection.await;
            drop(permit);
        });
    }
    graceful.shutdown().await;
}

fn router(served: Arc<Served>) -> Router {
    let router = Router::new()
        .route("/", get(status::index))
        .route("/favicon.svg", get(status::favicon))
        .route("/assets/status.css", get(status::style))
        .route("/assets/status.js", get(status::script))
        .route("/integrations/{name}", get(integration::integration))
        .route("/integrations/{name}/probe", post(integration::probe))
        .route("/integrations/{name}/link", post(integration::link))
        .route(&served.telemetry_path, get(metrics))
        .route("/-/reload", post(reload))
        .route("/config", get(configuration))
        .merge(health())
        .merge(api::routes())
        .merge(reauthentication(&served));
    finished(router, served)
}

/// The pages of re-authentication, also below the path of the public URL: some proxies strip it and some do not.
fn reauthentication(served: &Served) -> Router<Arc<Served>> {
    let prefix = served.public_url.as_deref().map(path_of).unwrap_or_default();
    let routes = reauth::routes();
    if prefix.is_empty() { routes } else { routes.clone().nest(prefix, routes) }
}

fn finished(router: Router<Arc<Served>>, served: Arc<Served>) -> Router {
    let guard = served.guard.clone();
    router
        .fallback(pages::not_found)
        .layer(axum::extract::DefaultBodyLimit::max(64 * 1024))
        .layer(axum::middleware::from_fn(in_time))
        .layer(axum::middleware::map_response(move |mut response: Response| {
            guard.apply(response.headers_mut());
            std::future::ready(response)
        }))
        .with_state(served)
}

/// A client that sends its body a byte a minute does not hold a connection for ever.
async fn in_time(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// As Prometheus answers where its lifecycle API is off; there is no way to switch it on yet.
async fn reload() -> Response {
    (StatusCode::FORBIDDEN, "The lifecycle API is not enabled. Restart Consentry to read its configuration again.\n").into_response()
}

async fn ready(State(served): State<Arc<Served>>) -> Response {
    if served.ready.load(Ordering::Relaxed) {
        return "Consentry is ready.\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "Consentry is starting.\n").into_response()
}

async fn metrics(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let format = negotiate(header(ACCEPT));
    let gzip = header(ACCEPT_ENCODING).is_some_and(accepts_gzip);
    // A big fleet's exposition takes milliseconds, and compressing it more: not on a thread that others wait for.
    let body = tokio::task::spawn_blocking(move || {
        let text = write(&served.families, &served.published, format);
        if gzip && text.len() > GZIP_FROM { compress(&text).map(|z| (z, true)) } else { Ok((text.into_bytes(), false)) }
    });
    let Ok(Ok((body, gzipped))) = body.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
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
