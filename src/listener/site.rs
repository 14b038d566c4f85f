//! What a listener serves: routes below a prefix, behind the protection of `--web.config.file`. A reload swaps the routes; connections
//! stay.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri, header::HOST, header::LOCATION};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use tower::ServiceExt as _;

use super::client::{Client, Connection, Peer};
use super::connections::Connections;
use super::limits::{Bucket, network};
use super::security::WebSecurity;
use crate::config::RateLimit;

/// Who comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Whoever the configured policy lets in.
    Policy,
    /// Everybody: mailed links are their own keys. TLS, but no client certificates.
    Everybody,
    /// Everybody, over plain HTTP: orchestrators.
    Plain,
}

/// The routes of a site.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    /// Below the prefix.
    pub(crate) inside: Router,
    /// Wherever the prefix is missing.
    pub(crate) outside: Router,
    /// Empty, or a path such as `/consentry`.
    pub(crate) prefix: Arc<str>,
    /// What mailed links put before `/reauth`: empty, or a path.
    pub(crate) public: Arc<str>,
}

/// See the module.
#[derive(Debug)]
pub struct Site {
    routes: RwLock<Routes>,
    gate: Arc<WebSecurity>,
    admission: Admission,
    /// What its listeners carry together.
    connections: Arc<Connections>,
    /// Proxies whose word about the address of a client counts.
    trusted: Arc<[IpNet]>,
    /// Requests are limited for each site on its own: those from outside do not use up what those from inside need.
    bucket: Mutex<Option<(RateLimit, Bucket)>>,
}

impl Site {
    /// So many connections are carried at once.
    pub(crate) fn new(
        routes: Routes,
        gate: Arc<WebSecurity>,
        admission: Admission,
        connections: usize,
        trusted: Arc<[IpNet]>,
    ) -> Self {
        let connections = Connections::new(connections);
        Self { routes: RwLock::new(routes), gate, admission, connections, trusted, bucket: Mutex::default() }
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// The network whose share a connection is counted in; none for those who speak for many.
    pub(crate) fn limited_network(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        let speaks_for_many =
            |peer: &IpAddr| self.trusted.iter().any(|proxies| proxies.contains(&peer.to_canonical()));
        peer.filter(|peer| !speaks_for_many(peer)).map(network)
    }

    /// From now on requests are answered by these routes.
    pub(crate) fn replace(&self, routes: Routes) {
        *self.routes.write() = routes;
    }

    /// What handshakes need now; `None` serves plain HTTP.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        match self.admission {
            Admission::Policy => self.gate.current().tls.clone(),
            Admission::Everybody => self.gate.current().open_tls.clone(),
            Admission::Plain => None,
        }
    }

    /// Whether one more request is within the limit. Counts it.
    fn has_room(&self, limit: Option<RateLimit>) -> bool {
        let Some(limit) = limit else { return true };
        let (mut bucket, now) = (self.bucket.lock(), self.gate.clock().steady());
        let fresh = || (limit, Bucket::full(f64::from(limit.burst), now));
        let (limit, mut tokens) = bucket.take().filter(|(old, _)| *old == limit).unwrap_or_else(fresh);
        let room = tokens.take(f64::from(limit.burst), limit.interval.as_secs_f64() * 1000.0, now);
        *bucket = Some((limit, tokens));
        room
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, mut request: Request) -> Response {
        // Orchestrators get an answer whatever becomes of the protection's files.
        let posture = (self.admission != Admission::Plain).then(|| self.gate.current());
        if posture.as_ref().is_some_and(|posture| !self.has_room(posture.config.rate_limit)) {
            return (StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n").into_response();
        }
        // HTTP/2 names the host in the address alone (RFC 9113 section 8.3.1), and where the address names one, it counts (RFC 9112
        // section 3.2.2).
        if let Some(host) = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
            request.headers_mut().insert(HOST, host);
        }
        let peer = request
            .extensions()
            .get::<Connection>()
            .map_or(Ipv4Addr::UNSPECIFIED.into(), |connection| connection.peer);
        let client = Client::of(peer, request.headers(), &self.trusted);
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(Peer(client.address));
        let routes = self.routes.read().clone();
        let router = match within(request.uri(), &routes.prefix, &routes.public) {
            Place::Inside(None) => routes.inside,
            Place::Inside(Some(uri)) => {
                *request.uri_mut() = uri;
                routes.inside
            }
            Place::Outside(None) => routes.outside,
            Place::Outside(Some(uri)) => {
                *request.uri_mut() = uri;
                routes.outside
            }
            Place::Door => return (StatusCode::FOUND, [(LOCATION, door(&routes.prefix))]).into_response(),
        };
        let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        for (name, value) in posture.iter().flat_map(|posture| &posture.headers) {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below the prefix; the address without it, where that differs.
    Inside(Option<Uri>),
    /// At a door to what is below the prefix.
    Door,
    /// Anywhere else; the address without what mailed links put before it.
    Outside(Option<Uri>),
}

fn door(prefix: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{prefix}/")).unwrap_or(HeaderValue::from_static("/"))
}

/// Where an address leads. The root leads to the prefix, as in Prometheus.
fn within(uri: &Uri, prefix: &str, public: &str) -> Place {
    let without = |start: &str| {
        let rest = uri.path().strip_prefix(start).filter(|rest| rest.starts_with('/'))?;
        let rest = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
        rest.parse::<Uri>().ok()
    };
    if let Some(link) =
        without(public).filter(|rest| !public.is_empty() && rest.path().starts_with("/reauth/"))
    {
        return Place::Outside(Some(link));
    }
    if prefix.is_empty() {
        return Place::Inside(None);
    }
    let path = uri.path();
    if path == "/" || path == prefix {
        return Place::Door;
    }
    without(prefix).map_or(Place::Outside(None), |uri| Place::Inside(Some(uri)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_below_a_prefix() {
        for (address, prefix, expected) in [
            ("/metrics", "", Place::Inside(None)),
            ("/a/metrics?x=1", "/a", Place::Inside(Some("/metrics?x=1".parse().expect("an address")))),
            ("/a/", "/a", Place::Inside(Some("/".parse().expect("an address")))),
            ("/a", "/a", Place::Door),
            ("/", "/a", Place::Door),
            ("/metrics", "/a", Place::Outside(None)),
            ("/ab/metrics", "/a", Place::Outside(None)),
            (
                "/:p/*/reauth/x?token=1",
                "",
                Place::Outside(Some("/reauth/x?token=1".parse().expect("an address"))),
            ),
            ("/:p/*/metrics", "", Place::Inside(None)),
            ("/:p/*/reauth/x", "/:p/*", Place::Outside(Some("/reauth/x".parse().expect("an address")))),
            ("/a//metrics", "/a", Place::Inside(Some("//metrics".parse().expect("an address")))),
        ] {
            assert_eq!(
                within(&address.parse().expect("an address"), prefix, "/:p/*"),
                expected,
                "{address} {prefix}"
            );
        }
    }
}
