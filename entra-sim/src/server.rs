//! The HTTP server: routing by path, faults, the request log, the control API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::actions::{Action, apply};
use crate::authorize::{admin_consent_page, admin_consent_submit, authorize_page, authorize_submit};
use crate::faults::{Endpoint, Fault, FaultKind, Faults};
use crate::graph::{GraphRequest, answer, fault_status};
use crate::login::{merge_basic, no_tenant, openid_configuration, token};
use crate::mailbox::{Mail, MailFaults, Mailbox};
use crate::managed_identity::{self, IdentityRequest, Platform};
use crate::model::World;
use crate::reply::{EntraError, Reply, fields};
use crate::token_request::TokenRequest;
use crate::tokens::Keys;

/// One request that the login host, Graph or an endpoint for managed identities received.
#[derive(Debug, Clone, Serialize)]
pub struct LogEntry {
    /// `login`, `graph` or `identity`.
    pub host: &'static str,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `grant_type` of token requests.
    pub grant_type: Option<String>,
    /// `scope` of token requests.
    pub scope: Option<String>,
    /// URLs inside a `$batch`.
    pub batch: Vec<String>,
    /// HTTP status of the response; 0 if there was none.
    pub status: u16,
    /// Names and values of the request headers, without `Authorization`.
    pub headers: Vec<(String, String)>,
}

const LOG_LIMIT: usize = 20_000;
const BODY_LIMIT: usize = 1024 * 1024;

/// The state that the listeners share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) world: Mutex<World>,
    pub(crate) keys: Mutex<Keys>,
    pub(crate) faults: Faults,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) log: Mutex<VecDeque<LogEntry>>,
    pub(crate) ca_pem: String,
}

impl Shared {
    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, entry: LogEntry) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LIMIT {
            log.pop_front();
        }
        log.push_back(entry);
    }
}

/// Who responds to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Login,
    Graph,
    Identity(Platform),
}

impl Host {
    fn of(target: &str) -> Self {
        match Platform::of(target) {
            Some(platform) => Self::Identity(platform),
            None if target.starts_with("/v1.0/") => Self::Graph,
            None => Self::Login,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Graph => "graph",
            Self::Identity(_) => "identity",
        }
    }
}

/// A request with its complete body.
struct Received {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: String,
    base: String,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|h| h.to_str().ok())
    }
}

/// Handles one request; an error closes the connection without a response.
///
/// # Errors
/// A fault requests a reset, or the body cannot be read.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<hyper::body::Incoming>,
    scheme: &'static str,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), BODY_LIMIT).await.map_err(std::io::Error::other)?;
    let host = parts.headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or("localhost").to_owned();
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let received = Received {
        method: parts.method,
        target,
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        base: format!("{scheme}://{host}"),
    };
    if let Some(rest) = received.target.strip_prefix("/_sim/") {
        return Ok(respond(control(&shared, &received, rest)));
    }
    if received.target.split('?').next() == Some("/") || received.target.starts_with("/mail/") {
        return Ok(respond(mail_pages(&shared, &received.target)));
    }
    let host = Host::of(&received.target);
    let (mut entry, endpoint, tenants) = describe(&shared, &received, host);
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let outcome = match shared.faults.take(endpoint, &names, &received.target) {
        Some(fault) => faulty_response(&shared, &received, host, fault).await,
        None => Ok(respond(regular_response(&shared, &received, host))),
    };
    entry.status = outcome.as_ref().map_or(0, |r| r.status().as_u16());
    shared.record(entry);
    outcome
}

fn describe(shared: &Shared, received: &Received, host: Host) -> (LogEntry, Endpoint, Vec<String>) {
    let form = if host == Host::Login { fields(&received.body) } else { HashMap::new() };
    let batch = if received.target.starts_with("/v1.0/$batch") {
        let parsed: Value = serde_json::from_str(&received.body).unwrap_or_default();
        parsed["requests"]
            .as_array()
            .map(|r| r.iter().filter_map(|i| i["url"].as_str().map(str::to_owned)).collect())
            .unwrap_or_default()
    } else {
        Vec::new()
    };
    let plain = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        (name != "authorization").then(|| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
    };
    let entry = LogEntry {
        host: host.name(),
        method: received.method.to_string(),
        target: received.target.clone(),
        grant_type: form.get("grant_type").cloned(),
        scope: form.get("scope").cloned(),
        batch,
        status: 0,
        headers: received.headers.iter().filter_map(plain).collect(),
    };
    if let Host::Identity(_) = host {
        return (entry, Endpoint::ManagedIdentity, vec![managed_identity::TENANT.to_owned()]);
    }
    if host == Host::Graph {
        let tenant = caller(shared, received).map(|c| c.tenant.to_string()).unwrap_or_default();
        let domain = shared.world().tenant(&tenant).map(|t| t.domain.clone()).unwrap_or_default();
        return (entry, Endpoint::Graph, vec![tenant, domain]);
    }
    let tenant = received.target.split('/').nth(1).unwrap_or_default().to_owned();
    let known = shared.world().tenant(&tenant).map(|t| vec![t.id.to_string(), t.domain.clone()]);
    let endpoint =
        if received.target.contains("/oauth2/v2.0/token") { Endpoint::Token } else { Endpoint::Openid };
    (entry, endpoint, known.unwrap_or_else(|| vec![tenant]))
}

fn caller(shared: &Shared, received: &Received) -> Result<crate::tokens::Caller, &'static str> {
    let token = received
        .header("authorization")
        .and_then(|h| h.strip_prefix("Bearer "))
        .filter(|t| !t.is_empty())
        .ok_or("Access token is empty.")?;
    let now = shared.world().now().as_second();
    shared.keys().caller(token, now, &received.base)
}

fn regular_response(shared: &Shared, received: &Received, host: Host) -> Reply {
    match host {
        Host::Login => login(shared, received),
        Host::Graph => graph(shared, received),
        Host::Identity(platform) => {
            let request = IdentityRequest {
                platform,
                method: received.method.as_str(),
                target: &received.target,
                metadata: received.header("metadata"),
                secret: received.header("x-identity-header"),
                authorization: received.header("authorization"),
                login: &received.base,
            };
            managed_identity::answer(&shared.world(), &shared.keys(), &request)
        }
    }
}

fn graph(shared: &Shared, received: &Received) -> Reply {
    let caller = match caller(shared, received) {
        Ok(caller) => caller,
        Err(message) => {
            return Reply::graph_error(401, "InvalidAuthenticationToken", message)
                .with("WWW-Authenticate", "Bearer");
        }
    };
    let eventual = received
        .headers
        .get("consistencylevel")
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"eventual"));
    let target = received.target.strip_prefix("/v1.0").unwrap_or_default();
    if let Some(user) = target.strip_prefix("/users/").and_then(|rest| rest.strip_suffix("/sendMail"))
        && received.method == Method::POST
    {
        return send_mail(&shared.mailbox, user, &received.body);
    }
    let request = GraphRequest { method: received.method.as_str(), target, eventual, graph: &received.base };
    return answer(&shared.world(), &shared.faults, &caller, &request, &received.body)
        .with("x-ms-ags-diagnostic", "{\"ServerInfo\":{\"DataCenter\":\"Simulated\"}}");
}

/// `sendMail` with a message in MIME format, encoded as base64 (Microsoft, `user-sendmail.md`).
fn send_mail(mailbox: &Mailbox, user: &str, body: &str) -> Reply {
    let user = fields(&format!("user={user}")).remove("user").unwrap_or_default();
    if user.starts_with("nobody@") {
        return Reply::graph_error(404, "ErrorInvalidUser", "The requested user is invalid.");
    }
    let Some(raw) = STANDARD.decode(body.trim()).ok() else {
        return Reply::graph_error(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string.");
    };
    let mail = Mail { from: user.clone(), to: Vec::new(), raw, tls: false, user: Some(user) };
    let to = mail.parsed().headers.into_iter().find(|(name, _)| name == "To").map(|(_, to)| to);
    let to = to.map(|to| to.trim_matches(['<', '>']).to_owned()).into_iter().collect();
    mailbox.add(Mail { to, ..mail });
    Reply::raw(202, Vec::new(), "text/plain".to_owned(), String::new())
}

fn login(shared: &Shared, received: &Received) -> Reply {
    let (path, query) = received.target.split_once('?').unwrap_or((&received.target, ""));
    let Some((tenant, rest)) = path.trim_start_matches('/').split_once('/') else {
        return Reply::html(404, String::new());
    };
    let post = received.method == Method::POST;
    let parameters = fields(if post { &received.body } else { query });
    let mut world = shared.world();
    match rest {
        "v2.0/.well-known/openid-configuration" => {
            openid_configuration(&world, tenant, &received.base, &received.base)
        }
        "discovery/v2.0/keys" if world.tenant(tenant).is_none() => no_tenant(&world, tenant),
        "discovery/v2.0/keys" => Reply::json(200, &shared.keys().jwks()),
        "oauth2/v2.0/token" if post => {
            let mut form = parameters;
            merge_basic(&mut form, received.header("authorization"));
            let request = TokenRequest { tenant, form, login: &received.base, graph: &received.base };
            token(&mut world, &shared.keys(), &request)
        }
        "oauth2/v2.0/token" => Reply::entra_error(
            &world,
            EntraError::new(400, "invalid_request", 900_561, "The endpoint only accepts POST requests."),
        ),
        "oauth2/v2.0/authorize" if post => authorize_submit(&mut world, tenant, &parameters),
        "oauth2/v2.0/authorize" => authorize_page(&world, tenant, &parameters),
        "v2.0/adminconsent" | "adminconsent" if post => admin_consent_submit(&mut world, tenant, &parameters),
        "v2.0/adminconsent" | "adminconsent" => admin_consent_page(&world, tenant, &parameters),
        _ => Reply::html(404, "<!doctype html><title>404</title><h1>404</h1>".to_owned()),
    }
}

async fn faulty_response(
    shared: &Shared,
    received: &Received,
    host: Host,
    fault: FaultKind,
) -> Result<Response<Body>, std::io::Error> {
    let json = |text: String| respond(Reply::raw(200, Vec::new(), "application/json".to_owned(), text));
    Ok(match fault {
        FaultKind::Status { status, retry_after } => {
            let reply = match host {
                Host::Graph => fault_status(status),
                host => failure(shared, host, status, &Failure::transient()),
            };
            respond(match retry_after {
                Some(after) => reply.with("Retry-After", after),
                None => reply,
            })
        }
        FaultKind::Latency { milliseconds } => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            respond(regular_response(shared, received, host))
        }
        FaultKind::Hang => {
            std::future::pending::<()>().await;
            json(String::new())
        }
        FaultKind::Reset => return Err(std::io::ErrorKind::ConnectionReset.into()),
        FaultKind::BrokenJson => json("{\"value\": [{\"id\":".to_owned()),
        FaultKind::EndlessBody => {
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            Response::new(Body::new(Endless(chunk)))
        }
        FaultKind::HugeJson { bytes } => json(format!("{{\"value\": \"{}\"}}", "x".repeat(bytes))),
        FaultKind::Html { status } => {
            respond(Reply::html(status, "<html><body><h1>Gateway</h1></body></html>".to_owned()))
        }
        FaultKind::Redirect { location } => respond(Reply::redirect(location)),
        FaultKind::Body { text } => json(text),
        FaultKind::Answer { status, headers, content_type, body } => {
            respond(Reply::raw(status, headers, content_type, body))
        }
        FaultKind::Rewrite { find, replace } => {
            respond(regular_response(shared, received, host).rewritten(&find, &replace))
        }
        FaultKind::Error { status, error, aadsts, suberror } => {
            let failure_of =
                Failure { error: &error, aadsts, suberror: suberror.as_deref(), text: SIMULATED };
            respond(failure(shared, host, status, &failure_of))
        }
    })
}

const SIMULATED: &str = "Simulated fault.";

/// An error that a fault requests.
struct Failure<'a> {
    error: &'a str,
    aadsts: Option<u32>,
    suberror: Option<&'a str>,
    text: &'a str,
}

impl Failure<'_> {
    const fn transient() -> Self {
        Self {
            error: "temporarily_unavailable",
            aadsts: Some(90033),
            suberror: None,
            text: "A transient error has occurred.",
        }
    }
}

/// The error in the form of the host.
fn failure(shared: &Shared, host: Host, status: u16, failure: &Failure<'_>) -> Reply {
    let Failure { error, aadsts, suberror, text } = *failure;
    match host {
        Host::Graph => Reply::graph_error(status, error, text),
        Host::Identity(platform) => platform.error(status, error, text),
        Host::Login => Reply::entra_error(
            &shared.world(),
            EntraError::new(status, error, aadsts.unwrap_or(0), text).with_suberror(suberror),
        ),
    }
}

/// A body without an end.
struct Endless(Bytes);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(self.0.clone()))))
    }
}

fn mail_pages(shared: &Shared, target: &str) -> Reply {
    let segments: Vec<&str> = target.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["mail", index, "html"] => shared.mailbox.mail_html(index.parse().unwrap_or(usize::MAX)),
        ["mail", index] => shared.mailbox.mail_page(index.parse().unwrap_or(usize::MAX)),
        _ => shared.mailbox.page(),
    }
}

/// The control API below `/_sim/`; see the documentation of the crate.
fn control(shared: &Shared, received: &Received, rest: &str) -> Reply {
    let wrong = |message: String| Reply::json(400, &json!({ "error": message }));
    match (received.method.as_str(), rest) {
        ("POST", "actions") => match serde_json::from_str::<Action>(&received.body) {
            Ok(action) => match apply(&mut shared.world(), action) {
                Ok(value) => Reply::json(200, &value),
                Err(message) => wrong(message),
            },
            Err(error) => wrong(error.to_string()),
        },
        ("POST", "faults") => match serde_json::from_str::<Fault>(&received.body) {
            Ok(fault) => {
                shared.faults.add(fault);
                Reply::json(200, &json!({}))
            }
            Err(error) => wrong(error.to_string()),
        },
        ("DELETE", "faults") => {
            shared.faults.clear();
            Reply::json(200, &json!({}))
        }
        ("POST", "mail-faults") => match serde_json::from_str::<MailFaults>(&received.body) {
            Ok(faults) => {
                shared.mailbox.set_faults(faults);
                Reply::json(200, &json!({}))
            }
            Err(error) => wrong(error.to_string()),
        },
        ("POST", "rotate-keys") => match shared.keys().rotate() {
            Ok(()) => Reply::json(200, &json!({})),
            Err(error) => wrong(error.to_string()),
        },
        ("GET", "requests") => {
            Reply::json(200, &json!(*shared.log.lock().unwrap_or_else(PoisonError::into_inner)))
        }
        ("DELETE", "requests") => {
            shared.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
            Reply::json(200, &json!({}))
        }
        ("GET", "mails") => Reply::json(200, &shared.mailbox.json()),
        ("GET", "ca.pem") => Reply::text(200, shared.ca_pem.clone()),
        _ => Reply::json(404, &json!({"error": "unknown control path; see the documentation of the crate"})),
    }
}

fn respond(reply: Reply) -> Response<Body> {
    let mut builder = Response::builder().status(reply.status).header("Content-Type", &*reply.content_type);
    for (name, value) in reply.headers {
        builder = builder.header(&*name, value);
    }
    builder.body(Body::from(reply.body)).unwrap_or_else(|_| Response::new(Body::empty()))
}
