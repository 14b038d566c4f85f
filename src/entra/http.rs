//! Sends one request: deadline, limit of the body, no redirects, Retry-After, and a report to the observer. The clients for the whole
//! program are created here, so that one rule decides what goes through a proxy.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::classify::without_mark;
use crate::domain::{Fault, Reason};
use crate::urls::is_loopback;

/// More than any response of Entra or Graph that a probe requests.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// The maximum that MSAL waits, too.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

/// Which service a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint.
    Token,
    /// Microsoft Graph.
    Graph,
    /// OpenID configuration and keys.
    Openid,
    /// The managed identity of this machine.
    ManagedIdentity,
}

impl Endpoint {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Graph => "graph",
            Self::Openid => "openid",
            Self::ManagedIdentity => "managed_identity",
        }
    }
}

/// Called after every request with the endpoint, the HTTP status or the reason label of a failure, and the duration.
pub type Observer = Arc<dyn Fn(Endpoint, &str, Duration) + Send + Sync>;

/// How to connect to the upstream.
#[derive(Clone, Default)]
pub struct ClientOptions<'a> {
    /// Proxy for all requests; otherwise that of the environment.
    pub proxy_url: Option<&'a str>,
    /// PEM file with certificate authorities in addition to the system's.
    pub ca_file: Option<&'a Path>,
    /// Idle connections kept per host.
    pub idle_connections: usize,
}

/// The HTTP clients of the program. Plain http is allowed on loopback because nobody else can read it there, so requests to loopback never
/// go through a proxy: neither a configured one nor that of `HTTP_PROXY` and similar variables. Redirects are not followed.
#[derive(Clone)]
pub struct HttpClients {
    elsewhere: reqwest::Client,
    /// Without any proxy.
    direct: reqwest::Client,
}

impl std::fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL of a proxy may contain its password.
        f.write_str("HttpClients")
    }
}

impl HttpClients {
    /// Builds the clients. `timeout` is for a whole request of a caller without its own deadline.
    ///
    /// # Errors
    /// The proxy or the certificate file is unusable; the text names it.
    pub fn new(options: &ClientOptions<'_>, timeout: Option<Duration>) -> anyhow::Result<Self> {
        let mut elsewhere = builder(options, timeout)?;
        if let Some(url) = options.proxy_url {
            elsewhere = elsewhere.proxy(reqwest::Proxy::all(url)?);
        }
        let direct = builder(options, timeout)?.no_proxy();
        Ok(Self { elsewhere: elsewhere.build()?, direct: direct.build()? })
    }

    /// The client for a request to this URL.
    pub fn of(&self, url: &str) -> &reqwest::Client {
        if Url::parse(url).is_ok_and(|url| is_loopback(&url)) { &self.direct } else { &self.elsewhere }
    }
}

fn builder(options: &ClientOptions<'_>, timeout: Option<Duration>) -> anyhow::Result<reqwest::ClientBuilder> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(options.idle_connections.clamp(1, 64))
        .user_agent(concat!("consentry/", env!("CARGO_PKG_VERSION")));
    if let Some(timeout) = timeout {
        builder = builder.timeout(timeout);
    }
    if let Some(path) = options.ca_file {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("cannot use {}", path.display()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder)
}

/// The HTTP client for Entra and Graph. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    clients: HttpClients,
    observer: Observer,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpClient")
    }
}

/// A request.
pub(crate) struct Request<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) headers: Vec<(&'static str, &'a str)>,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) body: Option<(&'static str, Vec<u8>)>,
    pub(crate) deadline: Instant,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The pause that the response asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.headers
            .get("retry-after")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| parse_retry_after(v, self.date()))
    }

    /// The `Date` header, by the upstream's clock.
    pub(crate) fn date(&self) -> Option<&str> {
        self.headers.get("date").and_then(|date| date.to_str().ok())
    }

    /// The body as JSON, whatever its content type says; a byte order mark before it is ignored.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(without_mark(&self.body)).ok()
    }

    /// The id that Microsoft's support asks for.
    pub(crate) fn request_id(&self) -> Option<String> {
        let id = self.headers.get("request-id").or_else(|| self.headers.get("x-ms-request-id"))?;
        id.to_str().ok().map(|t| t.chars().take(64).collect())
    }
}

/// Seconds, with or without fraction, or an HTTP date (RFC 9110 section 10.2.3). Invalid and negative values count as absent.
pub(crate) fn parse_retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let valid = seconds.is_finite() && seconds >= 0.0;
        return valid.then(|| Duration::from_secs_f64(seconds.min(RETRY_AFTER_LIMIT.as_secs_f64())));
    }
    let until = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    // The upstream's own clock, if the response has a date, so that a difference to ours does not matter.
    let now = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp())?;
    let wait = u64::try_from(until.as_second() - now.as_second()).ok()?;
    Some(Duration::from_secs(wait).min(RETRY_AFTER_LIMIT))
}

/// A request without a complete response.
pub(crate) struct Lost {
    pub(crate) fault: Fault,
    /// It may have arrived.
    pub(crate) sent: bool,
}

impl HttpClient {
    /// Builds the client.
    ///
    /// # Errors
    /// The proxy or the certificate file is unusable.
    pub fn new(options: &ClientOptions<'_>, observer: Observer) -> anyhow::Result<Self> {
        Ok(Self { clients: HttpClients::new(options, None)?, observer })
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn send(&self, outgoing: Request<'_>) -> Result<Response, Fault> {
        self.send_once(outgoing).await.map_err(|lost| lost.fault)
    }

    /// Like [`Self::send`], for requests that must not be repeated lightly: the error says whether this one may have arrived.
    pub(crate) async fn send_once(&self, outgoing: Request<'_>) -> Result<Response, Lost> {
        let (endpoint, deadline) = (outgoing.endpoint, outgoing.deadline);
        let started = Instant::now();
        let result = match tokio::time::timeout_at(deadline.into(), self.exchange(outgoing)).await {
            Ok(result) => result,
            Err(_) => Err(Lost { fault: Fault::new(Reason::Timeout, "no response in time"), sent: true }),
        };
        let code = result.as_ref().map_or_else(|lost| lost.fault.reason.label(), |a| a.status.as_str());
        (self.observer)(endpoint, code, started.elapsed());
        result
    }

    async fn exchange(&self, outgoing: Request<'_>) -> Result<Response, Lost> {
        let arrived = |fault| Lost { fault, sent: true };
        let client = match outgoing.endpoint {
            // A proxy has another identity, and would see the token.
            Endpoint::ManagedIdentity => &self.clients.direct,
            _ => self.clients.of(outgoing.url),
        };
        let mut request = client.request(outgoing.method, outgoing.url).header("accept", "application/json");
        request = request.header("client-request-id", Uuid::new_v4().to_string());
        for (name, value) in outgoing.headers {
            request = request.header(name, value);
        }
        if let Some(token) = outgoing.bearer {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, body)) = outgoing.body {
            request = request.header("content-type", content_type).body(body);
        }
        let mut response = request
            .send()
            .await
            .map_err(|e| Lost { fault: transport_fault(&e), sent: !e.is_connect() && !e.is_builder() })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| arrived(transport_fault(&e)))? {
            if body.len() + chunk.len() > BODY_LIMIT {
                let text = format!("the response is larger than {BODY_LIMIT} bytes");
                return Err(arrived(Fault::new(Reason::InvalidResponse, text)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status, headers, body })
    }
}

/// The URL is not in the text: it contains tenant and filter, which the caller knows.
fn transport_fault(error: &reqwest::Error) -> Fault {
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if out_of_descriptors(error) || (error.is_connect() && no_descriptor_is_left()) {
        return Fault::new(
            Reason::CredentialUnreadable,
            format!("no file descriptor is left, raise the limit (ulimit -n, LimitNOFILE): {text}"),
        );
    }
    if error.is_timeout() {
        return Fault::new(Reason::Timeout, format!("no response in time: {text}"));
    }
    if error.is_decode() && !error.is_body() {
        return Fault::new(Reason::InvalidResponse, format!("the response cannot be read: {text}"));
    }
    Fault::new(Reason::NetworkError, if text.is_empty() { "the connection failed".to_owned() } else { text })
}

/// `ENFILE` and `EMFILE`, the same numbers on every Unix (POSIX, `errno.h`; their values are those of Version 7).
const OUT_OF_DESCRIPTORS: [i32; 2] = [23, 24];

/// Whether this process or the machine has no file descriptor left, according to an error or one of its causes.
fn out_of_descriptors(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            // An error wrapped in an I/O error is not among its sources.
            let wrapped = io.get_ref().is_some_and(|inner| out_of_descriptors(inner));
            if wrapped || io.raw_os_error().is_some_and(|code| OUT_OF_DESCRIPTORS.contains(&code)) {
                return true;
            }
        }
        next = cause.source();
    }
    false
}

/// The resolver hides why it fails: without a descriptor it reports a temporary failure. So the function tries to open a file.
fn no_descriptor_is_left() -> bool {
    std::fs::File::open("/dev/null").is_err_and(|error| out_of_descriptors(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_in_every_spelling() {
        for (url, expected) in [
            ("http://localhost:8080/x", true),
            ("http://LOCALHOST/", true),
            ("http://localhost./", true),
            ("https://sim.localhost/", true),
            ("https://a.b.localhost./", true),
            ("http://127.0.0.1/", true),
            ("http://127.8.9.10:1/", true),
            ("http://127.1/", true),
            ("http://2130706433/", true),
            ("http://[::1]:3000/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://[0:0:0:0:0:ffff:7f00:2]/", true),
            ("https://login.microsoftonline.com/", false),
            ("https://localhost.example.com/", false),
            ("https://notlocalhost/", false),
            ("http://128.0.0.1/", false),
            ("http://[::2]/", false),
            ("http://[::ffff:10.0.0.1]/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).expect(url)), expected, "{url}");
        }
    }

    /// The proxy does not exist: requests to loopback do not use it.
    #[tokio::test]
    async fn loopback_is_never_proxied() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = server.local_addr().expect("an address");
        let closed =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
        let answering = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = server.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.expect("a request");
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
                .await
                .expect("a response");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let proxy = format!("http://{closed}");
        let clients =
            HttpClients::new(&ClientOptions { proxy_url: Some(&proxy), ..ClientOptions::default() }, None)
                .expect("clients");
        let url = format!("http://{address}/secret");
        let status = clients.of(&url).get(&url).send().await.map(|answer| answer.status().as_u16());
        assert_eq!(status.ok(), Some(204));
        assert!(
            answering.await.expect("answered").starts_with("GET /secret "),
            "the request line of an origin, not of a proxy"
        );
        assert!(
            clients.of("http://example.com/").get("http://example.com/").send().await.is_err(),
            "others go through the proxy"
        );
    }

    /// A proxy would have another identity, and would see the token.
    #[tokio::test]
    async fn the_metadata_service_is_never_proxied() {
        let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url = format!("http://{}", proxy.local_addr().expect("an address"));
        let options = ClientOptions { proxy_url: Some(&url), ..ClientOptions::default() };
        let http = HttpClient::new(&options, Arc::new(|_, _, _| {})).expect("a client");
        // An address that is nobody's (RFC 5737).
        let ask = async |endpoint| {
            let request = Request {
                endpoint,
                method: Method::GET,
                url: "http://192.0.2.1:9/",
                headers: Vec::new(),
                bearer: None,
                body: None,
                deadline: Instant::now() + Duration::from_millis(200),
            };
            http.send(request).await.is_err()
        };
        let connected = async || tokio::time::timeout(Duration::ZERO, proxy.accept()).await.is_ok();
        assert!(ask(Endpoint::ManagedIdentity).await && !connected().await);
        assert!(ask(Endpoint::Token).await && connected().await, "others go through the proxy");
    }

    #[test]
    fn a_lack_of_descriptors_is_found_anywhere_in_an_error() {
        fn io(code: i32) -> std::io::Error {
            std::io::Error::from_raw_os_error(code)
        }
        fn wrapped(inner: std::io::Error) -> std::io::Error {
            std::io::Error::other(inner)
        }
        for (sentence, error, expected) in [
            ("this process has none left", io(24), true),
            ("the machine has none left", io(23), true),
            ("connection refused", io(111), false),
            ("inside another error", wrapped(io(24)), true),
            ("twice inside", wrapped(wrapped(io(24))), true),
            ("another one inside", wrapped(io(2)), false),
        ] {
            assert_eq!(out_of_descriptors(&error), expected, "{sentence}");
        }
        assert!(!no_descriptor_is_left());
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let date = Some("Wed, 21 Oct 2026 07:28:00 GMT");
        for (value, date, expected) in [
            ("10", None, Some(10.0)),
            (" 2.128 ", None, Some(2.128)),
            ("0", None, Some(0.0)),
            ("-5", None, None),
            ("NaN", None, None),
            ("soon", None, None),
            ("99999999999", None, Some(3600.0)),
            ("Wed, 21 Oct 2026 07:28:30 GMT", date, Some(30.0)),
            ("Wed, 21 Oct 2026 07:27:30 GMT", date, None),
            ("", None, None),
        ] {
            assert_eq!(parse_retry_after(value, date), expected.map(Duration::from_secs_f64), "{value:?}");
        }
    }
}
