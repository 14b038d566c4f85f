//! Authorization: [`decide`] is the one rule for every request that is not about a mailed link.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::problem::problem;
use super::hosts::{Authority, RequestedHost};
use super::pages::layout::{Notice, PageLayout, html};
use super::state::Served;
use crate::domain::one_line;
use crate::listener::client::{Client, Connection, is_forwarded};
use crate::listener::security::ListenerPolicy;
use crate::listener::users::Refused;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Metrics, `/probe`, health: for programs that may use any host name.
    Monitoring,
    /// Pages and the API.
    Reading,
    /// A reload of the configuration, which has its own command-line flag.
    Reloading,
    /// Everything else that changes something.
    Changing,
}

impl Class {
    /// The class by method and path. A request that is not known to be harmless counts as changing something.
    pub(super) fn of(method: &Method, path: &str, telemetry_path: &str) -> Self {
        if path == telemetry_path || ["/probe", "/-/healthy", "/-/ready"].contains(&path) {
            Self::Monitoring
        } else if method.is_safe() {
            Self::Reading
        } else if path == "/-/reload" {
            Self::Reloading
        } else {
            Self::Changing
        }
    }
}

/// How the client is authenticated. Bearer tokens will be one more kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Nobody,
    /// By a verified certificate.
    Certificate,
    /// By user name and password.
    User,
}

/// The kind of host that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostClass {
    /// None, so no browser sent the request.
    Unnamed,
    /// A loopback name or address.
    Loopback,
    /// Any other address, or a name of this machine or of the configuration.
    Ours,
    /// An unknown name.
    Foreign,
}

/// What is known of the sender of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    /// The peer of the connection is on this machine and is not a proxy.
    pub(super) loopback: bool,
    pub(super) host: HostClass,
    /// A page of another site sent the request.
    pub(super) foreign_page: bool,
}

/// What is configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Users are configured.
    pub(super) users: bool,
    /// Every connection needs a certificate. Then a user's password is required besides, because users would have no effect otherwise.
    pub(super) certificates_demanded: bool,
    /// `--web.enable-anonymous-actions`.
    pub(super) anonymous_actions: bool,
    /// `--web.external-url` names another host than this one, so a local peer may be a proxy.
    pub(super) seen_from_elsewhere: bool,
}

/// Why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    ForeignHost,
    ForeignPage,
    UserNeeded,
    /// Without users, only this machine may do this.
    Elsewhere,
}

/// Whether a request is allowed; the error says why not.
pub(super) fn decide(class: Class, caller: Caller, rules: Rules) -> Result<(), Refusal> {
    if class != Class::Monitoring && caller.host == HostClass::Foreign {
        return Err(Refusal::ForeignHost);
    }
    if matches!(class, Class::Reloading | Class::Changing) && caller.foreign_page {
        return Err(Refusal::ForeignPage);
    }
    let known = match caller.identity {
        Identity::User => true,
        Identity::Certificate => !(rules.users && rules.certificates_demanded),
        Identity::Nobody => false,
    };
    if known {
        return Ok(());
    }
    if rules.users {
        return Err(Refusal::UserNeeded);
    }
    let here = caller.loopback && caller.host == HostClass::Loopback && !rules.seen_from_elsewhere;
    if class == Class::Changing && !here && !rules.anonymous_actions {
        return Err(Refusal::Elsewhere);
    }
    Ok(())
}

/// Who sent a request, for the log and for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    User(String),
    Certificate(String),
    Anonymous(Client),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => f.write_str(&one_line(name, 100)),
            Self::Certificate(name) => write!(f, "certificate {}", one_line(name, 100)),
            Self::Anonymous(client) if client.through => write!(f, "anonymous {}", client.shown()),
            Self::Anonymous(client) => write!(f, "anonymous from {}", client.shown()),
        }
    }
}

enum Denied {
    Refused(Refusal),
    /// Too many passwords are being verified.
    Busy,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Middleware that rejects requests that are not allowed, and adds [`Who`] to the others.
pub(super) async fn guard(State(served): State<Arc<Served>>, mut request: Request, next: Next) -> Response {
    let class = Class::of(request.method(), request.uri().path(), &served.process.options.telemetry_path);
    let connection = request.extensions().get::<Connection>().cloned();
    let client = request.extensions().get::<Client>().copied();
    let (Some(connection), Some(client)) = (connection, client) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match admitted(&served, class, request.headers(), &connection, client).await {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(denied) => refuse(request.uri().path(), request.headers(), &denied),
    }
}

async fn admitted(
    served: &Served,
    class: Class,
    headers: &HeaderMap,
    connection: &Connection,
    client: Client,
) -> Result<Who, Denied> {
    let security = &served.process.security;
    let policy = security.current();
    let rules = Rules {
        users: !policy.config.users.is_empty(),
        certificates_demanded: policy.demands_certificates(),
        anonymous_actions: served.process.options.anonymous_actions,
        seen_from_elsewhere: served.process.seen_from_elsewhere,
    };
    let mut caller = Caller {
        identity: Identity::Nobody,
        loopback: connection.peer.to_canonical().is_loopback() && !is_forwarded(headers),
        host: host_class(served, headers),
        foreign_page: served.is_foreign(headers),
    };
    let mut who = Who::Anonymous(client);
    // Rejections that do not depend on the user come first, because hashing a password is expensive.
    if let Err(refusal @ (Refusal::ForeignHost | Refusal::ForeignPage)) = decide(class, caller, rules) {
        return Err(refusal.into());
    }
    if let Some(name) = certificate(&policy, connection, class, rules) {
        (caller.identity, who) = (Identity::Certificate, Who::Certificate(name));
    }
    if decide(class, caller, rules) == Err(Refusal::UserNeeded) {
        match security.users.admit(&policy.config.users, headers, client.address, security.clock()).await {
            Ok(name) => (caller.identity, who) = (Identity::User, Who::User(name)),
            Err(Refused::Unknown) => {}
            Err(Refused::Busy) => return Err(Denied::Busy),
        }
    }
    decide(class, caller, rules)?;
    Ok(who)
}

/// The owner of the client's certificate, where that matters. The certificate is verified for every request, because authorities change and
/// certificates expire while a connection lasts.
fn certificate(
    policy: &ListenerPolicy,
    connection: &Connection,
    class: Class,
    rules: Rules,
) -> Option<String> {
    if !rules.users && matches!(class, Class::Monitoring | Class::Reading) {
        return None;
    }
    policy.certificates.as_ref()?.owner(connection.certificates.as_deref()?)
}

fn host_class(served: &Served, headers: &HeaderMap) -> HostClass {
    match RequestedHost::of(headers) {
        RequestedHost::Missing => HostClass::Unnamed,
        RequestedHost::Named(Authority { host, .. }) if host.is_loopback() => HostClass::Loopback,
        RequestedHost::Named(Authority { host, .. }) if served.is_own_host(&host) => HostClass::Ours,
        RequestedHost::Named(_) | RequestedHost::Invalid => HostClass::Foreign,
    }
}

fn refuse(path: &str, headers: &HeaderMap, denied: &Denied) -> Response {
    let (status, title, detail) = match denied {
        Denied::Busy => (
            StatusCode::TOO_MANY_REQUESTS,
            "Please wait a moment",
            "too many passwords are being verified; wait a moment".to_owned(),
        ),
        Denied::Refused(Refusal::UserNeeded) => {
            (StatusCode::UNAUTHORIZED, "Please sign in", "a user name and password are required".to_owned())
        }
        Denied::Refused(Refusal::ForeignHost) => {
            (StatusCode::FORBIDDEN, "Unknown host name", unknown_host(headers))
        }
        Denied::Refused(Refusal::ForeignPage) => {
            let detail =
                "the request came from another site's page, or through a reverse proxy that changes Host: open this page itself and \
                          press the button there; behind a proxy, start Consentry with --web.external-url"
                    .to_owned();
            (StatusCode::FORBIDDEN, "The button was pressed on another site", detail)
        }
        Denied::Refused(Refusal::Elsewhere) => {
            let detail = "no users are configured, so only the machine on which Consentry runs may do this, without a proxy; configure \
                          users with --web.config.file, or allow it for everybody with --web.enable-anonymous-actions";
            (StatusCode::FORBIDDEN, "You may not do this from here", detail.to_owned())
        }
    };
    let is_button = path.starts_with("/integrations/") || path.starts_with("/brake/");
    let mut response = match denied {
        _ if path.starts_with("/api/") => problem(status, detail),
        Denied::Refused(Refusal::ForeignPage | Refusal::Elsewhere) if is_button => {
            let root = if path.starts_with("/brake/") { "../" } else { "../../" };
            let layout = PageLayout { root, support: None };
            html(status, &Notice { layout, title, paragraphs: vec![sentence(&detail)], ..Notice::default() })
        }
        _ => (status, format!("{}: {detail}.\n", status.canonical_reason().unwrap_or_default()))
            .into_response(),
    };
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Basic realm=\"Consentry\", charset=\"UTF-8\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}

fn sentence(detail: &str) -> String {
    let mut letters = detail.chars();
    letters.next().map(|first| format!("{}{}.", first.to_uppercase(), letters.as_str())).unwrap_or_default()
}

/// The error text for an unknown or invalid host name.
fn unknown_host(headers: &HeaderMap) -> String {
    match RequestedHost::of(headers) {
        RequestedHost::Named(Authority { host, .. }) => {
            format!("Consentry does not know {host} as a name of its own; if it is one, start Consentry with --web.allowed-host={host}")
        }
        RequestedHost::Missing | RequestedHost::Invalid => {
            "the Host header of the request is invalid; names besides the machine's own are given with --web.allowed-host".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn requests_are_classified_by_method_and_path() {
        use Class::{Changing, Monitoring, Reading, Reloading};
        for (method, path, expected) in [
            ("GET", "/metrics", Monitoring),
            ("GET", "/probe", Monitoring),
            ("HEAD", "/-/healthy", Monitoring),
            ("GET", "/-/ready", Monitoring),
            ("DELETE", "/metrics", Monitoring),
            ("GET", "/", Reading),
            ("GET", "/config", Reading),
            ("GET", "/integrations/acme/link", Reading),
            ("OPTIONS", "/api/v1/integrations", Reading),
            ("GET", "/-/reload", Reading),
            ("GET", "/%6detrics", Reading),
            ("POST", "/-/reload", Reloading),
            ("PUT", "/-/reload", Reloading),
            ("POST", "/integrations/acme/probe", Changing),
            ("POST", "/integrations/acme/link", Changing),
            ("POST", "/api/v1/integrations/acme/probe", Changing),
            ("DELETE", "/api/v1/integrations/acme", Changing),
            ("BREW", "/", Changing),
        ] {
            assert_eq!(
                Class::of(&method.parse().expect("a method"), path, "/metrics"),
                expected,
                "{method} {path}"
            );
        }
    }

    const CALLER: Caller =
        Caller { identity: Identity::Nobody, loopback: true, host: HostClass::Loopback, foreign_page: false };
    const RULES: Rules = Rules {
        users: false,
        certificates_demanded: false,
        anonymous_actions: false,
        seen_from_elsewhere: false,
    };

    /// The decisions for Monitoring, Reading, Reloading and Changing: `.` allowed; rejected because of `h` the host, `p` the page, `u` a
    /// missing user, `e` another machine.
    fn outcome(caller: Caller, rules: Rules) -> String {
        let classes = [Class::Monitoring, Class::Reading, Class::Reloading, Class::Changing];
        let letter = |class| match decide(class, caller, rules) {
            Ok(()) => '.',
            Err(Refusal::ForeignHost) => 'h',
            Err(Refusal::ForeignPage) => 'p',
            Err(Refusal::UserNeeded) => 'u',
            Err(Refusal::Elsewhere) => 'e',
        };
        classes.map(letter).iter().collect()
    }

    #[test]
    fn without_users_only_this_machine_may_change_something() {
        for (sentence, caller, expected) in [
            ("a client on this machine", CALLER, "...."),
            (
                "a client on this machine that uses its address",
                Caller { host: HostClass::Ours, ..CALLER },
                "...e",
            ),
            (
                "a program on this machine that names no host",
                Caller { host: HostClass::Unnamed, ..CALLER },
                "...e",
            ),
            ("a client elsewhere", Caller { loopback: false, host: HostClass::Ours, ..CALLER }, "...e"),
            ("a client elsewhere that names localhost", Caller { loopback: false, ..CALLER }, "...e"),
            (
                "a page after DNS rebinding to this machine",
                Caller { host: HostClass::Foreign, foreign_page: false, ..CALLER },
                ".hhh",
            ),
            (
                "a page of another site in a browser on this machine",
                Caller { foreign_page: true, ..CALLER },
                "..pp",
            ),
            (
                "a client elsewhere with a certificate",
                Caller { identity: Identity::Certificate, loopback: false, ..CALLER },
                "....",
            ),
            (
                "another site's page in a browser with a certificate",
                Caller { identity: Identity::Certificate, foreign_page: true, ..CALLER },
                "..pp",
            ),
        ] {
            assert_eq!(outcome(caller, RULES), expected, "{sentence}");
        }
        let elsewhere = Rules { seen_from_elsewhere: true, ..RULES };
        assert_eq!(outcome(CALLER, elsewhere), "...e", "a local client may be a proxy");
    }

    #[test]
    fn with_anonymous_actions_every_machine_may_change_something() {
        let rules = Rules { anonymous_actions: true, seen_from_elsewhere: true, ..RULES };
        for (sentence, caller, expected) in [
            ("a client elsewhere", Caller { loopback: false, host: HostClass::Ours, ..CALLER }, "...."),
            (
                "a page after DNS rebinding to this machine",
                Caller { host: HostClass::Foreign, ..CALLER },
                ".hhh",
            ),
            ("a page of another site", Caller { foreign_page: true, ..CALLER }, "..pp"),
        ] {
            assert_eq!(outcome(caller, rules), expected, "{sentence}");
        }
        let users = Rules { users: true, ..rules };
        assert_eq!(outcome(CALLER, users), "uuuu", "users must sign in even with anonymous actions");
    }

    #[test]
    fn with_users_everybody_must_sign_in() {
        let rules = Rules { users: true, ..RULES };
        for (sentence, caller, expected) in [
            ("an anonymous client on this machine", CALLER, "uuuu"),
            (
                "a user elsewhere",
                Caller { identity: Identity::User, loopback: false, host: HostClass::Ours, ..CALLER },
                "....",
            ),
            (
                "a certificate where none is required",
                Caller { identity: Identity::Certificate, ..CALLER },
                "....",
            ),
            (
                "a user on another site's page",
                Caller { identity: Identity::User, foreign_page: true, ..CALLER },
                "..pp",
            ),
            (
                "a user under an unknown host name",
                Caller { identity: Identity::User, host: HostClass::Foreign, ..CALLER },
                ".hhh",
            ),
        ] {
            assert_eq!(outcome(caller, rules), expected, "{sentence}");
        }
        let both = Rules { certificates_demanded: true, ..rules };
        assert_eq!(
            outcome(Caller { identity: Identity::Certificate, ..CALLER }, both),
            "uuuu",
            "where every client has a certificate, a user is required"
        );
        assert_eq!(outcome(Caller { identity: Identity::User, ..CALLER }, both), "....");
    }

    #[test]
    fn senders_are_described_in_one_line() {
        let address = IpAddr::from([192, 0, 2, 7]);
        for (who, expected) in [
            (Who::User("alice".to_owned()), "alice"),
            (Who::User("a\u{202e}b\nc".to_owned()), "ab c"),
            (Who::Certificate("prometheus".to_owned()), "certificate prometheus"),
            (Who::Anonymous(Client { address, through: false }), "anonymous from 192.0.2.7"),
            (Who::Anonymous(Client { address, through: true }), "anonymous through 192.0.2.7"),
        ] {
            assert_eq!(who.to_string(), expected);
        }
    }
}
