//! Delivers renewed refresh tokens to the products that use them (Standard Webhooks), with retries until the product accepts them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::clock::{Clock, rfc3339};
use crate::config::TokenWebhook;
use crate::domain::Timestamp;
use crate::entra::{ClientOptions, HttpClients};
use crate::metrics::Families;
use crate::secret::Secret;
use crate::store::{NewDelivery, Store, StoreError, TokenId, WaitingDelivery};

/// Where an integration's renewed token is delivered to.
#[derive(Debug, Clone)]
pub enum Recipient {
    /// To the webhook of a product.
    Webhook(Arc<TokenWebhook>),
    /// Nowhere: its application has no webhook.
    Nobody,
    /// The integration is not configured. It may come back.
    Unknown,
}

/// Finds where an integration's renewed token is delivered to, by name.
pub type Webhooks = Box<dyn Fn(&str) -> Recipient + Send + Sync>;

/// The time for the product's response.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Pauses after the first, second, … failure; the last one is repeated until the token is delivered.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(1800),
    Duration::from_secs(3600),
];

/// The body of a message (Standard Webhooks, "Payload structure").
pub(super) fn message(token: &TokenId, refresh_token: &Secret, now: Timestamp) -> NewDelivery {
    let body = json!({
        "type": "integration.reauthenticated",
        "timestamp": rfc3339(now),
        "data": {
            "integration": token.integration,
            "tenant_id": token.tenant,
            "client_id": token.client_id,
            "refresh_token": refresh_token.expose(),
        },
    });
    NewDelivery { message: format!("msg_{}", Uuid::new_v4().simple()), body: Secret::new(body.to_string()) }
}

/// The signature `v1,` and base64 of the HMAC-SHA256 over id, time in seconds and body (Standard Webhooks, "Signature scheme").
fn sign(secret: &Secret, message: &str, seconds: i64, body: &str) -> Result<String, String> {
    let encoded =
        secret.expose().trim().strip_prefix("whsec_").ok_or("the secret does not begin with whsec_")?;
    let key = STANDARD.decode(encoded).map_err(|_| "the secret is not whsec_ and base64")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{message}.{seconds}.{body}").as_bytes());
    Ok(format!("v1,{}", STANDARD.encode(tag)))
}

/// Sends the pending deliveries of the database.
#[derive(Clone)]
pub struct WebhookSender {
    inner: Arc<Inner>,
}

/// The dependencies of [`WebhookSender`].
#[allow(missing_debug_implementations)] // Contains a closure.
pub struct WebhookParts {
    /// The pending deliveries.
    pub store: Store,
    /// Counts attempts.
    pub families: Families,
    /// The current time.
    pub clock: Clock,
    /// Finds where a token is delivered to.
    pub webhooks: Webhooks,
    /// Notified when a renewed token is ready for delivery.
    pub wake: Arc<Notify>,
}

struct Inner {
    parts: WebhookParts,
    clients: HttpClients,
}

impl std::fmt::Debug for WebhookSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSender")
    }
}

impl WebhookSender {
    /// `wake` is notified when a delivery was saved.
    ///
    /// # Errors
    /// The certificate file cannot be used.
    pub fn new(parts: WebhookParts, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let clients =
            HttpClients::new(&ClientOptions { ca_file, ..ClientOptions::default() }, Some(TIMEOUT))?;
        Ok(Self { inner: Arc::new(Inner { parts, clients }) })
    }

    /// Runs until `stop` becomes true. An attempt that is aborted by that is repeated after the next start, with the same message id.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut stopped = std::pin::pin!(async move { drop(stop.wait_for(|stopped| *stopped).await) });
        loop {
            let drained = tokio::select! {
                drained = self.drain() => drained,
                () = &mut stopped => return,
            };
            let next = drained.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot look up tokens to deliver");
                Some(self.inner.parts.clock.now().plus(PAUSES[1]))
            });
            let pause = next
                .map_or(PAUSES[5], |at| at.since(self.inner.parts.clock.now()))
                .clamp(Duration::from_millis(20), PAUSES[5]);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.parts.wake.notified() => {}
                () = &mut stopped => return,
            }
        }
    }

    /// Attempts every delivery that is due, in parallel, so that slow products do not delay others. Returns when the next attempt is due.
    pub async fn drain(&self) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let due = self.inner.parts.store.due_deliveries(self.inner.parts.clock.now()).await?;
            if due.is_empty() {
                let waiting = self.inner.parts.store.waiting_deliveries().await?;
                // Deliveries of removed integrations wait until the integration is added again; nobody has to
                // act.
                let owed = waiting
                    .iter()
                    .filter(|(name, _)| !matches!((self.inner.parts.webhooks)(name), Recipient::Unknown))
                    .count();
                self.inner.parts.families.set_token_queue(owed);
                return Ok(waiting.into_iter().map(|(_, due)| due).min());
            }
            let mut attempts = tokio::task::JoinSet::new();
            for waiting in due {
                let inner = Arc::clone(&self.inner);
                attempts.spawn(async move { inner.attempt(&waiting).await });
            }
            while let Some(attempt) = attempts.join_next().await {
                attempt.unwrap_or(Err(StoreError::Closed))?;
            }
        }
    }
}

impl Inner {
    async fn attempt(&self, waiting: &WaitingDelivery) -> Result<(), StoreError> {
        let name = &waiting.integration;
        let webhook = match (self.parts.webhooks)(name) {
            Recipient::Webhook(webhook) => webhook,
            Recipient::Nobody => {
                tracing::info!(integration = %name, "a renewed token is no longer delivered: the configuration has no webhook for it");
                return self.parts.store.forget_delivery(name).await;
            }
            Recipient::Unknown => {
                let failure = "the integration is not configured".to_owned();
                return self
                    .parts
                    .store
                    .delivery_failed(name, &waiting.message, failure, self.parts.clock.now().plus(PAUSES[3]))
                    .await;
            }
        };
        match self.post(&webhook, waiting).await {
            Ok(()) => {
                self.parts.families.token_delivery("success");
                tracing::info!(integration = %name, attempts = waiting.attempts + 1, "the product has accepted the renewed token");
                self.parts.store.delivered(name, &waiting.message, self.parts.clock.now()).await
            }
            Err(failure) => {
                self.parts.families.token_delivery("error");
                let pause = PAUSES[(waiting.attempts as usize).min(PAUSES.len() - 1)];
                let attempts = waiting.attempts + 1;
                tracing::warn!(integration = %name, attempts, failure, retry_in = ?pause, "the product has not accepted the renewed token");
                self.parts
                    .store
                    .delivery_failed(name, &waiting.message, failure, self.parts.clock.now().plus(pause))
                    .await
            }
        }
    }

    /// One attempt. The error never contains the URL or the token.
    async fn post(&self, webhook: &TokenWebhook, waiting: &WaitingDelivery) -> Result<(), String> {
        let secret = webhook.secret.read().map_err(|e| e.to_string())?;
        let body = waiting
            .body
            .as_ref()
            .ok_or("the token cannot be decrypted; the integration has to be re-authenticated")?
            .expose();
        let seconds = self.parts.clock.now().0.div_euclid(1000);
        let request = self
            .clients
            .of(&webhook.url)
            .post(&webhook.url)
            .header("content-type", "application/json")
            .header("webhook-id", &waiting.message)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", sign(&secret, &waiting.message, seconds, body)?)
            .body(body.to_owned());
        let response = request.send().await.map_err(|error| {
            let what = if error.is_timeout() { "no response in time" } else { "the connection failed" };
            let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
            format!("{what}{cause}")
        })?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("it returned {}", status.as_u16())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_implementation_verifies_our_signature() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let token =
            TokenId { integration: "acme".to_owned(), client_id: "c".to_owned(), tenant: "t".to_owned() };
        let now = Clock::system().now();
        let new = message(&token, &Secret::new("0.refresh"), now);
        let signature = sign(&secret, &new.message, now.0 / 1000, new.body.expose()).expect("signed");
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("webhook-id", new.message.clone()),
            ("webhook-timestamp", (now.0 / 1000).to_string()),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        let reference = standardwebhooks::Webhook::new(secret.expose()).expect("a secret");
        assert!(reference.verify(new.body.expose().as_bytes(), &headers).is_ok());
        assert!(
            reference.verify(b"{}", &headers).is_err(),
            "the reference implementation rejects another body"
        );
        assert!(sign(&Secret::new("plain"), "m", 0, "").is_err());
    }
}
