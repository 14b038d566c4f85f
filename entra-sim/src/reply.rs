//! The response of an endpoint, independent of HTTP: status, headers, text.

use std::borrow::Cow;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::model::World;

/// A response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers besides `Content-Type`.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// `Content-Type`.
    pub content_type: Cow<'static, str>,
    /// Body.
    pub body: String,
}

impl Reply {
    /// A JSON response.
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: "application/json; charset=utf-8".into(),
            body: body.to_string(),
        }
    }

    /// A page.
    pub fn html(status: u16, body: String) -> Self {
        Self { status, headers: Vec::new(), content_type: "text/html; charset=utf-8".into(), body }
    }

    /// Plain text.
    pub fn text(status: u16, body: String) -> Self {
        Self { status, headers: Vec::new(), content_type: "text/plain; charset=utf-8".into(), body }
    }

    /// A redirect (302).
    pub fn redirect(location: String) -> Self {
        Self {
            status: 302,
            headers: vec![("Location".into(), location)],
            content_type: "text/plain".into(),
            body: String::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A response with the given content, such as one of a proxy.
    pub fn raw(status: u16, headers: Vec<(String, String)>, content_type: String, body: String) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect();
        Self { status, headers, content_type: Cow::Owned(content_type), body }
    }

    /// Replaces the first occurrence of a text in the body.
    #[must_use]
    pub fn rewritten(mut self, find: &str, replace: &str) -> Self {
        self.body = self.body.replacen(find, replace, 1);
        self
    }

    /// An error of Graph, in the form of Microsoft's `concepts/errors.md`.
    pub fn graph_error(status: u16, code: &str, message: &str) -> Self {
        let id = Uuid::new_v4();
        Self::json(
            status,
            &json!({"error": {"code": code, "message": message,
            "innerError": {"date": "2026-01-01T00:00:00", "request-id": id, "client-request-id": id}}}),
        )
        .with("request-id", id.to_string())
    }

    /// An error of the token endpoint, in the form of Microsoft's reference.
    pub fn entra_error(world: &World, error: EntraError<'_>) -> Self {
        let EntraError { status, error, aadsts, message, suberror } = error;
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let stamp = world.now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = format!(
            "AADSTS{aadsts}: {message} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}"
        );
        let mut body = json!({"error": error, "error_description": description, "error_codes": [aadsts], "timestamp": stamp,
            "trace_id": trace, "correlation_id": correlation, "error_uri": format!("https://login.microsoftonline.com/error?code={aadsts}")});
        if let Some(suberror) = suberror {
            body["suberror"] = json!(suberror);
        }
        Self::json(status, &body).with("x-ms-request-id", trace.to_string())
    }
}

/// An error of the token endpoint (Microsoft, `reference-error-codes.md`).
#[derive(Debug, Clone, Copy)]
pub struct EntraError<'a> {
    status: u16,
    error: &'a str,
    aadsts: u32,
    message: &'a str,
    suberror: Option<&'a str>,
}

impl<'a> EntraError<'a> {
    /// An error without suberror.
    pub const fn new(status: u16, error: &'a str, aadsts: u32, message: &'a str) -> Self {
        Self { status, error, aadsts, message, suberror: None }
    }

    /// 400 `invalid_grant`.
    pub const fn invalid_grant(aadsts: u32, message: &'a str) -> Self {
        Self::new(400, "invalid_grant", aadsts, message)
    }

    /// 400 `invalid_request`.
    pub const fn invalid_request(aadsts: u32, message: &'a str) -> Self {
        Self::new(400, "invalid_request", aadsts, message)
    }

    /// 401 `invalid_client`.
    pub const fn invalid_client(aadsts: u32, message: &'a str) -> Self {
        Self::new(401, "invalid_client", aadsts, message)
    }

    /// The same with a suberror.
    #[must_use]
    pub const fn because(self, suberror: &'a str) -> Self {
        Self { suberror: Some(suberror), ..self }
    }

    /// The same with a suberror, if there is one.
    #[must_use]
    pub const fn with_suberror(self, suberror: Option<&'a str>) -> Self {
        Self { suberror, ..self }
    }
}

/// HTML-escapes a text.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// The fields of a form or query; of several values of a field the last one counts, as in most servers.
pub fn fields(encoded: &str) -> std::collections::HashMap<String, String> {
    url::form_urlencoded::parse(encoded.as_bytes()).into_owned().collect()
}
