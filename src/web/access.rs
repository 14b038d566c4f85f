//! Who may do what. One rule for every request that is not about a mailed link: [`decide`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::problem::problem;
use super::hosts::{Asked, Authority};
use super::pages::layout::{Notice, PageLayout, html};
use super::state::Served;
use crate::domain::one_line;
use crate::listener::client::{Client, Connection, is_forwarded};
use crate::listener::security::ListenerPolicy;
use crate::listener::users::Refused;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Metrics, `/probe`, health: for programs that find us by whatever name.
    Monitoring,
    /// Pages and the API.
    Reading,
    /// A reload of the configuration, which has a flag of its own.
    Reloading,
    /// Everything else that changes something.
    Changing,
}

impl Class {
    /// By method and path. What is not known to be harmless is not.
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

/// How somebody has proved who they are. Programs with a bearer token will be one more kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Nobody,
    /// By a certificate that was verified.
    Certificate,
    /// By name and password.
    User,
}

/// The host that a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedHost {
    /// None: no browser sent it.
    Unnamed,
    /// This machine by a name or an address that never leaves it.
    Loopback,
    /// Any other address, or a name of ours.
    Ours,
    /// A name of which nothing is known.
    Foreign,
}

/// What is known of who sent a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    /// The other end of the connection is on this machine, and passes nothing on.
    pub(super) loopback: bool,
    pub(super) host: AskedHost,
    /// A page of another site sent it.
    pub(super) foreign_page: bool,
}

/// What is configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// There are users.
    pub(super) users: bool,
    /// Nobody comes in without a certificate: then a user's password is asked besides, or users would mean nothing.
    pub(super) certificates_demanded: bool,
    /// `--web.enable-anonymous-actions`.
    pub(super) anonymous_actions: bool,
    /// `--web.external-url` names another host than this one, so whoever comes from here may be a proxy.
    pub(super) seen_from_elsewhere: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    ForeignHost,
    ForeignPage,
    UserNeeded,
    /// Without users, this is for this machine alone.
    Elsewhere,
}

/// The rule.
///
/// # Errors
/// Why the request is refused.
pub(super) fn decide(class: Class, caller: Caller, rules: Rules) -> Result<(), Refusal> {
    if class != Class::Monitoring && caller.host == AskedHost::Foreign {
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
    let here = caller.loopback && caller.host == AskedHost::Loopback && !rules.seen_from_elsewhere;
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
    /// Too many passwords are being tried.
    Busy,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Lets pass who may, and says who it is.
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
    let gate = &served.process.gate;
    let posture = gate.current();
    let rules = Rules {
        users: !posture.config.users.is_empty(),
        certificates_demanded: posture.demands_certificates(),
        anonymous_actions: served.process.options.anonymous_actions,
        seen_from_elsewhere: served.process.seen_from_elsewhere,
    };
    let mut caller = Caller {
        identity: Identity::Nobody,
        loopback: connection.peer.to_canonical().is_loopback() && !is_forwarded(headers),
        host: asked_host(served, headers),
        foreign_page: served.is_foreign(headers),
    };
    let mut who = Who::Anonymous(client);
    // What needs no proof is refused before a password is hashed.
    if let Err(refusal @ (Refusal::ForeignHost | Refusal::ForeignPage)) = decide(class, caller, rules) {
        return Err(refusal.into());
    }
    if let Some(name) = certificate(&posture, connection, class, rules) {
        (caller.identity, who) = (Identity::Certificate, Who::Certificate(name));
    }
    if decide(class, caller, rules) == Err(Refusal::UserNeeded) {
        match gate.users.admit(&posture.config.users, headers, client.address, gate.clock()).await {
            Ok(name) => (caller.identity, who) = (Identity::User, Who::User(name)),
            Err(Refused::Unknown) => {}
            Err(Refused::Busy) => return Err(Denied::Busy),
        }
    }
    decide(class, caller, rules)?;
    Ok(who)
}

/// Whose certificate it is, where that matters. It is verified again: authorities change, and certificates expire, while a connection lasts.
fn certificate(
    posture: &ListenerPolicy,
    connection: &Connection,
    class: Class,
    rules: Rules,
) -> Option<String> {
    if !rules.users && matches!(class, Class::Monitoring | Class::Reading) {
        return None;
    }
    posture.certificates.as_ref()?.owner(connection.certificates.as_deref()?)
}

fn asked_host(served: &Served, headers: &HeaderMap) -> AskedHost {
    match Asked::of(headers) {
        Asked::Nothing => AskedHost::Unnamed,
        Asked::Named(Authority { host, .. }) if host.is_loopback() => AskedHost::Loopback,
        Asked::Named(Authority { host, .. }) if served.goes_by(&host) => AskedHost::Ours,
        Asked::Named(_) | Asked::Nonsense => AskedHost::Foreign,
    }
}

fn refuse(path: &str, headers: &HeaderMap, denied: &Denied) -> Response {
    let (status, title, detail) = match denied {
        Denied::Busy => (
            StatusCode::TOO_MANY_REQUESTS,
            "Please wait a moment",
            "too many passwords are being tried; wait a little".to_owned(),
        ),
        Denied::Refused(Refusal::UserNeeded) => {
            (StatusCode::UNAUTHORIZED, "Who are you?", "a user's name and password are needed".to_owned())
        }
        Denied::Refused(Refusal::ForeignHost) => {
            (StatusCode::FORBIDDEN, "Another name", unknown_host(headers))
        }
        Denied::Refused(Refusal::ForeignPage) => {
            let detail =
                "the request came from another site's page, or through a reverse proxy that changes Host: open this page itself and \
                          press the button there; behind a proxy, start Consentry with --web.external-url"
                    .to_owned();
            (StatusCode::FORBIDDEN, "The button was pressed on another site", detail)
        }
        Denied::Refused(Refusal::Elsewhere) => {
            let detail = "no users are configured, so this is taken from the machine on which Consentry runs, without a proxy, and from \
                          nowhere else; configure users with --web.config.file, or open it to everybody with --web.enable-anonymous-actions";
            (StatusCode::FORBIDDEN, "You may not do this from here", detail.to_owned())
        }
    };
    let is_button = path.starts_with("/integrations/");
    let mut response = match denied {
        _ if path.starts_with("/api/") => problem(status, detail),
        Denied::Refused(Refusal::ForeignPage | Refusal::Elsewhere) if is_button => {
            let shell = PageLayout { root: "../../", support: None };
            html(status, &Notice { shell, title, paragraphs: vec![sentence(&detail)], ..Notice::default() })
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

/// What to do about a name that is not known.
fn unknown_host(headers: &HeaderMap) -> String {
    match Asked::of(headers) {
        Asked::Named(Authority { host, .. }) => {
            format!("Consentry does not know {host} as a name of its own; if it is one, start it with --web.allowed-host={host}")
        }
        Asked::Nothing | Asked::Nonsense => {
            "the request names no host that can be understood; names besides the machine's own are given with --web.allowed-host".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn requests_are_classed_by_what_they_can_change() {
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
        Caller { identity: Identity::Nobody, loopback: true, host: AskedHost::Loopback, foreign_page: false };
    const RULES: Rules = Rules {
        users: false,
        certificates_demanded: false,
        anonymous_actions: false,
        seen_from_elsewhere: false,
    };

    /// What becomes of Monitoring, Reading, Reloading and Changing: `.` passes, `h` is refused for the host, `p` for the page, `u` needs a
    /// user, `e` comes from elsewhere.
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
    fn without_users() {
        for (sentence, caller, expected) in [
            ("somebody on this machine", CALLER, "...."),
            (
                "somebody on this machine who asks its address",
                Caller { host: AskedHost::Ours, ..CALLER },
                "...e",
            ),
            (
                "a program on this machine that names no host",
                Caller { host: AskedHost::Unnamed, ..CALLER },
                "...e",
            ),
            ("somebody elsewhere", Caller { loopback: false, host: AskedHost::Ours, ..CALLER }, "...e"),
            ("somebody elsewhere who says localhost", Caller { loopback: false, ..CALLER }, "...e"),
            (
                "a page whose name was bent to this machine",
                Caller { host: AskedHost::Foreign, foreign_page: false, ..CALLER },
                ".hhh",
            ),
            (
                "a page of another site in a browser on this machine",
                Caller { foreign_page: true, ..CALLER },
                "..pp",
            ),
            (
                "somebody elsewhere with a certificate",
                Caller { identity: Identity::Certificate, loopback: false, ..CALLER },
                "....",
            ),
            (
                "another site's page in the browser of somebody with a certificate",
                Caller { identity: Identity::Certificate, foreign_page: true, ..CALLER },
                "..pp",
            ),
        ] {
            assert_eq!(outcome(caller, RULES), expected, "{sentence}");
        }
        let elsewhere = Rules { seen_from_elsewhere: true, ..RULES };
        assert_eq!(outcome(CALLER, elsewhere), "...e", "what comes from here may be a proxy");
    }

    #[test]
    fn with_anonymous_actions() {
        let rules = Rules { anonymous_actions: true, seen_from_elsewhere: true, ..RULES };
        for (sentence, caller, expected) in [
            ("somebody elsewhere", Caller { loopback: false, host: AskedHost::Ours, ..CALLER }, "...."),
            (
                "a page whose name was bent to this machine",
                Caller { host: AskedHost::Foreign, ..CALLER },
                ".hhh",
            ),
            ("a page of another site", Caller { foreign_page: true, ..CALLER }, "..pp"),
        ] {
            assert_eq!(outcome(caller, rules), expected, "{sentence}");
        }
        let users = Rules { users: true, ..rules };
        assert_eq!(outcome(CALLER, users), "uuuu", "users are asked, whatever nobody may do");
    }

    #[test]
    fn with_users() {
        let rules = Rules { users: true, ..RULES };
        for (sentence, caller, expected) in [
            ("nobody, on this machine", CALLER, "uuuu"),
            (
                "a user elsewhere",
                Caller { identity: Identity::User, loopback: false, host: AskedHost::Ours, ..CALLER },
                "....",
            ),
            (
                "a certificate where it is not demanded",
                Caller { identity: Identity::Certificate, ..CALLER },
                "....",
            ),
            (
                "a user who was led here by another site",
                Caller { identity: Identity::User, foreign_page: true, ..CALLER },
                "..pp",
            ),
            (
                "a user under a name that is not ours",
                Caller { identity: Identity::User, host: AskedHost::Foreign, ..CALLER },
                ".hhh",
            ),
        ] {
            assert_eq!(outcome(caller, rules), expected, "{sentence}");
        }
        let both = Rules { certificates_demanded: true, ..rules };
        assert_eq!(
            outcome(Caller { identity: Identity::Certificate, ..CALLER }, both),
            "uuuu",
            "where everybody has one, the user counts"
        );
        assert_eq!(outcome(Caller { identity: Identity::User, ..CALLER }, both), "....");
    }

    #[test]
    fn who_it_was() {
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
