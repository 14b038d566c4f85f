//! Microsoft Graph's `sendMail` (Microsoft, `user-sendmail.md`).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;

use super::Entra;
use super::http::{Endpoint, Lost, Request};
use crate::domain::Reason;
use crate::secret::Secret;

/// What Graph answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SendMailResponse {
    /// The HTTP status: 202 when the mail was accepted.
    pub status: u16,
    /// Graph's error code, such as `ErrorAccessDenied`.
    pub code: Option<String>,
    /// Graph's error text.
    pub message: Option<String>,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
    /// For Microsoft's support.
    pub request_id: Option<String>,
}

/// No answer came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendMailLost {
    /// Why, for people.
    pub detail: String,
    /// The request may have arrived.
    pub sent: bool,
    /// No answer came in time.
    pub timeout: bool,
}

impl Entra {
    /// Sends a message in MIME format from the mailbox `sender`; its recipients are those of the message.
    ///
    /// # Errors
    /// No answer came.
    pub async fn send_mail(
        &self,
        sender: &str,
        token: &Secret,
        message: &[u8],
        deadline: Instant,
    ) -> Result<SendMailResponse, SendMailLost> {
        let user: String = url::form_urlencoded::byte_serialize(sender.as_bytes()).collect();
        let url = format!("{}/v1.0/users/{user}/sendMail", self.cloud.graph_url);
        let request = Request {
            endpoint: Endpoint::Graph,
            method: Method::POST,
            url: &url,
            headers: Vec::new(),
            bearer: Some(token.expose()),
            body: Some(("text/plain", STANDARD.encode(message).into_bytes())),
            deadline,
        };
        let response = self.http.send_once(request).await.map_err(|Lost { fault, sent }| SendMailLost {
            timeout: fault.reason == Reason::Timeout,
            detail: fault.detail,
            sent,
        })?;
        let body = response.json();
        let error = |field: &str| Some(body.as_ref()?["error"][field].as_str()?.to_owned());
        Ok(SendMailResponse {
            status: response.status.as_u16(),
            code: error("code"),
            message: error("message"),
            retry_after: response.retry_after(),
            request_id: response.request_id(),
        })
    }
}
