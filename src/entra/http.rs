//! Sending one request: deadline, body cap, no redirects, what the answer asks us to wait, and a report to the observer.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use uuid::Uuid;

use crate::domain::{Fault, Reason};

/// No answer of Entra or Graph that a probe asks for comes near this size.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// Nobody is made to wait longer than MSAL would.
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
}

impl Endpoint {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Graph => "graph",
            Self::Openid => "openid",
        }
    }
}

/// Told of every request: endpoint, HTTP status or the reason label of a failure, length.
pub type Observer = Arc<dyn Fn(Endpoint, &str, Duration) + Send + Sync>;

/// How to reach the upstream.
#[derive(Clone, Default)]
pub struct DoorOptions<'a> {
    /// Proxy for all requests; otherwise the environment's.
    pub proxy_url: Option<&'a str>,
    /// PEM file with certificate authorities added to the system's.
    pub ca_file: Option<&'a Path>,
    /// Idle connections kept for each host.
    pub idle_connections: usize,
}

/// The HTTP client. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    client: reqwest::Client,
    observer: Observer,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

/// A request.
pub(crate) struct Outgoing<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) headers: Vec<(&'static str, &'a str)>,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) body: Option<(&'static str, Vec<u8>)>,
    pub(crate) deadline: Instant,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// What the answer asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.headers
            .get("retry-after")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| parse_retry_after(v, self.headers.get("date").and_then(|d| d.to_str().ok())))
    }

    /// The id that Microsoft's support asks for.
    pub(crate) fn request_id(&self) -> Option<String> {
        let id = self.headers.get("request-id").or_else(|| self.headers.get("x-ms-request-id"))?;
        id.to_str().ok().map(|t| t.chars().take(64).collect())
    }
}

/// Seconds, with or without fraction, or an HTTP date (RFC 9110 section 10.2.3). Nonsense and negative values count as absent.
pub(crate) fn parse_retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let sane = seconds.is_finite() && seconds >= 0.0;
        return sane.then(|| Duration::from_secs_f64(seconds.min(RETRY_AFTER_LIMIT.as_secs_f64())));
    }
    let until = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    // The upstream's own clock, where it says it, so that ours need not agree.
    let now = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp())?;
    let wait = u64::try_from(until.as_second() - now.as_second()).ok()?;
    Some(Duration::from_secs(wait).min(RETRY_AFTER_LIMIT))
}

impl Door {
    /// Builds the client.
    ///
    /// # Errors
    /// The proxy or the certificate file is unusable.
    pub fn new(options: &DoorOptions<'_>, observer: Observer) -> anyhow::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(options.idle_connections.clamp(1, 64))
            .user_agent(concat!("consentry/", env!("CARGO_PKG_VERSION")));
        if let Some(url) = options.proxy_url {
            builder = builder.proxy(reqwest::Proxy::all(url)?);
        }
        if let Some(path) = options.ca_file {
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)?);
        }
        Ok(Self { client: builder.build()?, observer })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, outgoing: Outgoing<'_>) -> Result<Answer, Fault> {
        let (endpoint, deadline) = (outgoing.endpoint, outgoing.deadline);
        let started = Instant::now();
        let result = match tokio::time::timeout_at(deadline.into(), self.exchange(outgoing)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::new(Reason::Timeout, "no answer before the probe's time was over")),
        };
        let code = result.as_ref().map_or_else(|f| f.reason.label(), |a| a.status.as_str());
        (self.observer)(endpoint, code, started.elapsed());
        result
    }

    async fn exchange(&self, outgoing: Outgoing<'_>) -> Result<Answer, Fault> {
        let mut request = self.client.request(outgoing.method, outgoing.url).header("accept", "application/json");
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
        let mut response = request.send().await.map_err(|e| transport_fault(&e))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| transport_fault(&e))? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(Fault::new(Reason::InvalidResponse, format!("the answer is larger than {BODY_LIMIT} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }
}

/// The URL is left out of the text: it holds tenant and filter, which the caller knows anyway.
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
    if error.is_timeout() {
        return Fault::new(Reason::Timeout, format!("no answer in time: {text}"));
    }
    if error.is_decode() && !error.is_body() {
        return Fault::new(Reason::InvalidResponse, format!("the answer cannot be read: {text}"));
    }
    Fault::new(Reason::NetworkError, if text.is_empty() { "the connection failed".to_owned() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_all_its_forms() {
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
