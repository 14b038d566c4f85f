//! What a listener serves: routes below a path prefix, protected by `--web.config.file`. A reload replaces the routes; connections stay
//! open.

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

/// Which clients a site accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Those that the configured policy accepts.
    Policy,
    /// Everybody, because mailed links authorize by themselves. TLS, but no client certificates.
    Everybody,
    /// Everybody, over plain HTTP, for orchestrators.
    Plain,
}

/// The routes of a site.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    /// For paths below the prefix.
    pub(crate) inside: Router,
    /// For all other paths.
    pub(crate) outside: Router,
    /// Empty, or a path such as `/consentry`.
    pub(crate) prefix: Arc<str>,
    /// The path of mailed links before `/reauth`, `/snooze` and `/brake`; may be empty.
    pub(crate) public: Arc<str>,
}

/// What a listener serves.
#[derive(Debug)]
pub struct Site {
    routes: RwLock<Routes>,
    security: Arc<WebSecurity>,
    admission: Admission,
    /// The connections of all its listeners.
    connections: Arc<Connections>,
    /// Proxies that are trusted to report the client's address.
    trusted: Arc<[IpNet]>,
    /// Each site has its own rate limit, so that requests from the internet do not use up the limit of internal ones.
    bucket: Mutex<Option<(RateLimit, Bucket)>>,
}

impl Site {
    /// A site that serves at most `connections` connections at once.
    pub(crate) fn new(
        routes: Routes,
        security: Arc<WebSecurity>,
        admission: Admission,
        connections: usize,
        trusted: Arc<[IpNet]>,
    ) -> Self {
        let connections = Connections::new(connections);
        let (routes, bucket) = (RwLock::new(routes), Mutex::default());
        Self { routes, security, admission, connections, trusted, bucket }
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// The network that a connection is counted for; `None` for trusted proxies, which forward requests of many clients.
    pub(crate) fn limited_network(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        let is_trusted =
            |peer: &IpAddr| self.trusted.iter().any(|proxies| proxies.contains(&peer.to_canonical()));
        peer.filter(|peer| !is_trusted(peer)).map(network)
    }

    /// Replaces the routes.
    pub(crate) fn replace(&self, routes: Routes) {
        *self.routes.write() = routes;
    }

    /// The current TLS configuration; `None` serves plain HTTP.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        match self.admission {
            Admission::Policy => self.security.current().tls.clone(),
            Admission::Everybody => self.security.current().open_tls.clone(),
            Admission::Plain => None,
        }
    }

    /// Counts a request. Returns whether it is within the rate limit.
    fn has_room(&self, limit: Option<RateLimit>) -> bool {
        let Some(limit) = limit else { return true };
        let (mut bucket, now) = (self.bucket.lock(), self.security.clock().steady());
        let fresh = || (limit, Bucket::full(f64::from(limit.burst), now));
        let (limit, mut tokens) = bucket.take().filter(|(old, _)| *old == limit).unwrap_or_else(fresh);
        let room = tokens.take(f64::from(limit.burst), limit.interval.as_secs_f64() * 1000.0, now);
        *bucket = Some((limit, tokens));
        room
    }

    /// Routes a request and returns the response.
    pub(crate) async fn answer(&self, mut request: Request) -> Response {
        // Orchestrators get a response whatever the state of `--web.config.file`.
        let policy = (self.admission != Admission::Plain).then(|| self.security.current());
        if policy.as_ref().is_some_and(|policy| !self.has_room(policy.config.rate_limit)) {
            return (StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n").into_response();
        }
        // HTTP/2 has the host in the request target only (RFC 9113 section 8.3.1), and a host in the request
        // target takes precedence (RFC 9112 section 3.2.2).
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
            Place::Redirect => {
                return (StatusCode::FOUND, [(LOCATION, root_of(&routes.prefix))]).into_response();
            }
        };
        let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        for (name, value) in policy.iter().flat_map(|policy| &policy.headers) {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below the prefix; the URI without it, where that differs.
    Inside(Option<Uri>),
    /// The root, or the prefix without a slash: redirects to the root below the prefix.
    Redirect,
    /// Anywhere else; for mailed links, the URI without the public path.
    Outside(Option<Uri>),
}

fn root_of(prefix: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{prefix}/")).unwrap_or(HeaderValue::from_static("/"))
}

/// Where a request's path belongs. The root redirects to the prefix, as in Prometheus.
fn within(uri: &Uri, prefix: &str, public: &str) -> Place {
    let without = |start: &str| {
        let rest = uri.path().strip_prefix(start).filter(|rest| rest.starts_with('/'))?;
        let rest = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
        rest.parse::<Uri>().ok()
    };
    let is_link =
        |path: &str| path == "/brake" || path.starts_with("/reauth/") || path.starts_with("/snooze/");
    if let Some(link) = without(public).filter(|rest| !public.is_empty() && is_link(rest.path())) {
        return Place::Outside(Some(link));
    }
    if prefix.is_empty() {
        return Place::Inside(None);
    }
    let path = uri.path();
    if path == "/" || path == prefix {
        return Place::Redirect;
    }
    without(prefix).map_or(Place::Outside(None), |uri| Place::Inside(Some(uri)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_prefix() {
        for (address, prefix, expected) in [
            ("/metrics", "", Place::Inside(None)),
            ("/a/metrics?x=1", "/a", Place::Inside(Some("/metrics?x=1".parse().expect("an address")))),
            ("/a/", "/a", Place::Inside(Some("/".parse().expect("an address")))),
            ("/a", "/a", Place::Redirect),
            ("/", "/a", Place::Redirect),
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
