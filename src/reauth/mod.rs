//! Re-authentication: from a mailed link to renewed consent and token.
//!
//! Two objects are kept apart: the link (valid for days, revocable, names the integration) and the OAuth 2.0 state (valid for ten minutes,
//! once, bound to a browser). Nothing is stored unless every verification succeeds; until then the old token stays.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::{CsrfToken, PkceCodeChallenge};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::credential::ClientCredential;
use crate::domain::{Access, GroupPolicy, RequiredPermissions, Timestamp};
use crate::entra::{Entra, SignIn};
use crate::fleet::Fleet;
use crate::metrics::Families;
use crate::secret::Secret;
use crate::store::{NewAuthorization, Stage, Store, StoreError, TokenId};

pub mod callback;
mod complete;
mod links;
mod person;
mod refusal;
mod subject;
mod trial;
mod verification;
mod webhook;

pub use crate::store::{DeliveryState, Unverified};
pub use complete::{CallbackRequest, Completed};
pub use links::{LinkError, Links, Signed, Terms, redirect_uri};
pub use refusal::{Refusal, SignInResult};
pub use subject::Mailing;
use subject::Subject;
pub use webhook::{Recipient, WebhookParts, WebhookSender, Webhooks};

/// A sign-in must be completed within this time.
const SIGN_IN: Duration = Duration::from_secs(600);

/// The lifetime of the cookie. It is longer than [`SIGN_IN`], so that a late callback gets the page that says so.
const COOKIE: Duration = Duration::from_secs(86_400);

/// An integration that can be re-authenticated here.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The key under which its token is stored.
    pub token: TokenId,
    /// The application's credential.
    pub credential: Arc<ClientCredential>,
    /// Delegated or application access.
    pub access: Access,
    /// Permissions to consent to.
    pub required: Arc<[RequiredPermissions]>,
    /// Whether Consentry stores the token; otherwise another program maintains it.
    pub keeps_token: bool,
    /// Whether renewed tokens are delivered to the product.
    pub has_webhook: bool,
    /// The groups that must be visible; `None` where groups are not checked.
    pub groups: Option<GroupPolicy>,
    /// Whether only the sign-in of an administrator is accepted.
    pub admins_only: bool,
}

/// Finds an integration that can be re-authenticated here by its name.
pub type Registry = Box<dyn Fn(&str) -> Option<Registered> + Send + Sync>;

/// What the browser needs to begin.
#[derive(Debug)]
pub struct StartedSignIn {
    /// Entra's page.
    pub location: String,
    /// Name of the cookie that binds the sign-in to the browser.
    pub cookie_name: String,
    /// Its value.
    pub cookie_value: Secret,
    /// How long the browser keeps it.
    pub cookie_lifetime: Duration,
}

/// What is known of a sign-in when it begins.
#[derive(Debug, Clone, Copy)]
pub struct SignInContext<'a> {
    /// Whether the account that last consented is proposed (`login_hint`).
    pub hint: bool,
    /// The client's network, for the quota per network; empty where it is unknown.
    pub source: &'a str,
    /// Whether enterprise app and consent passed in the last probe; `None` when their result is unknown.
    pub granted: Option<bool>,
}

/// The status of an accepted sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInStatus {
    /// Probes are still verifying what the tenant grants.
    Verifying,
    /// Consent and token are renewed.
    Renewed,
    /// The tenant granted everything before, and still does. The link stays valid.
    Unchanged,
    /// The tenant does not grant what is required.
    Incomplete,
    /// The administrator consented for another organization.
    WrongTenant,
    /// It could not be determined what the tenant grants.
    Unclear,
}

/// Data of a pending sign-in for its callback, stored encrypted.
#[derive(Serialize, Deserialize)]
struct Pending {
    verifier: String,
    nonce: String,
    link: String,
    /// From [`Terms::accept_fewer`].
    #[serde(default)]
    accept_fewer: bool,
}

/// Re-authentication; see the module. Cheap to clone.
#[derive(Clone)]
pub struct Reauthentication {
    inner: Arc<Dependencies>,
}

/// The dependencies of [`Reauthentication`].
#[allow(missing_debug_implementations)] // Contains a closure.
pub struct Dependencies {
    /// Tokens, keys and pages of Entra.
    pub entra: Entra,
    /// Sign-ins, tokens, deliveries.
    pub store: Store,
    /// Counts the results of re-authentications.
    pub families: Families,
    /// Signs and verifies links.
    pub links: Links,
    /// The integrations that can be re-authenticated.
    pub registry: Registry,
    /// The state of all integrations.
    pub fleet: Arc<Fleet>,
    /// Settings of mails about sign-ins.
    pub mailing: Mailing,
    /// The current time.
    pub clock: Clock,
    /// Notified when a renewed token is ready for delivery.
    pub token_ready: Arc<tokio::sync::Notify>,
    /// Notified when mails were saved.
    pub outbox: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Reauthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reauthentication")
    }
}

impl Reauthentication {
    /// Re-authentication with these dependencies.
    pub fn new(dependencies: Dependencies) -> Self {
        Self { inner: Arc::new(dependencies) }
    }

    /// Verifies a link completely: signature, expiry, and whether it has been used. An unknown integration has no links.
    ///
    /// # Errors
    /// Why the link is invalid.
    pub async fn open_link(&self, integration: &str, token: &str) -> Result<Signed, LinkError> {
        let registered = self.registered(integration).ok_or(LinkError::Forged)?;
        let signed = self.inner.links.check(&registered.token, token, self.inner.clock.now())?;
        match self.inner.store.links(integration).await {
            Ok(state) if state.is_dead(signed.stamp.generation, signed.stamp.issued) => Err(LinkError::Used),
            Ok(_) => Ok(signed),
            Err(error) => {
                tracing::error!(integration, %error, "cannot look up whether a link was used");
                Err(LinkError::Unavailable)
            }
        }
    }

    /// Begins a sign-in with a verified link: saves the data for the callback and returns the redirect. The link's token is saved, too, for
    /// another attempt.
    ///
    /// # Errors
    /// A quota of pending sign-ins is reached, or the sign-in cannot be built or saved; the log says why.
    pub async fn begin(
        &self,
        link: &Signed,
        token: &str,
        context: SignInContext<'_>,
    ) -> Result<StartedSignIn, LinkError> {
        let integration = &link.integration;
        let registered = &self.registered(integration).ok_or(LinkError::Forged)?;
        let (state, nonce, cookie) = (random(), random(), random());
        let (_, verifier) = PkceCodeChallenge::new_random_sha256();
        let verifier = Secret::new(verifier.into_secret());
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::error!(integration, %error, "cannot begin a sign-in");
            LinkError::Unavailable
        };
        let location = self
            .location(registered, context.hint, &state, &nonce, &verifier)
            .await
            .map_err(|e| unavailable(&e))?;
        let (verifier, nonce) = (verifier.expose().to_owned(), nonce.expose().to_owned());
        let pending = Pending { verifier, nonce, link: token.to_owned(), accept_fewer: link.accept_fewer };
        let secret = Secret::new(serde_json::to_string(&pending).map_err(|e| unavailable(&e))?);
        let (id, now) = (hash(state.expose()), self.inner.clock.now());
        let new = NewAuthorization {
            id: id.clone(),
            integration: integration.clone(),
            cookie: hash(cookie.expose()),
            secret,
            link: link.id.clone(),
            stamp: link.stamp,
            source: context.source.to_owned(),
            created: now,
            expires: now.plus(SIGN_IN),
        };
        if let Some(quota) = self.inner.store.save_authorization(new).await.map_err(|e| unavailable(&e))? {
            tracing::warn!(integration, quota = quota.label(), "a sign-in is rejected: too many are pending");
            return Err(LinkError::TooMany);
        }
        // Entra is asked only after the quotas have admitted the sign-in.
        if let Some(granted) = self.granted_already(registered, context.granted).await {
            self.inner.store.note_granted(&id, granted).await.map_err(|e| unavailable(&e))?;
        }
        tracing::info!(integration, "a sign-in begins");
        Ok(StartedSignIn {
            location,
            cookie_name: cookie_name(&id),
            cookie_value: cookie,
            cookie_lifetime: COOKIE,
        })
    }

    async fn location(
        &self,
        registered: &Registered,
        hint: bool,
        state: &Secret,
        nonce: &Secret,
        verifier: &Secret,
    ) -> Result<String, String> {
        let (entra, token) = (&self.inner.entra, &registered.token);
        let redirect_uri = self.inner.links.redirect_uri();
        if registered.access == Access::Application {
            return Ok(entra.admin_consent_url(&token.tenant, &token.client_id, &redirect_uri, state));
        }
        let known =
            if hint { self.inner.store.consented_by(token).await.map_err(|e| e.to_string())? } else { None };
        let sign_in = SignIn {
            tenant: &token.tenant,
            client_id: &token.client_id,
            redirect_uri: &redirect_uri,
            required: &registered.required,
            state,
            nonce,
            verifier,
            // An object id cannot be used as a login hint.
            login_hint: known.as_deref().filter(|name| name.contains('@')),
        };
        entra.authorize_url(sign_in).map_err(|fault| fault.detail)
    }

    /// The status of an accepted sign-in, and when its callback came. `None` for one that is no longer stored.
    pub async fn sign_in_status(
        &self,
        integration: &str,
        attempt: &str,
    ) -> Option<(SignInStatus, Timestamp)> {
        let row = self
            .inner
            .store
            .authorization(attempt)
            .await
            .ok()
            .flatten()
            .filter(|row| row.integration == integration)?;
        let status = match row.stage? {
            Stage::Verifying => SignInStatus::Verifying,
            Stage::Success => SignInStatus::Renewed,
            Stage::Unchanged => SignInStatus::Unchanged,
            Stage::Incomplete => SignInStatus::Incomplete,
            Stage::WrongTenant => SignInStatus::WrongTenant,
            Stage::Error => SignInStatus::Unclear,
            Stage::Denied | Stage::Expired => return None,
        };
        Some((status, row.used?))
    }

    /// A new link; `None` for an unknown integration.
    pub async fn fresh_link(&self, integration: &str) -> Result<Option<String>, StoreError> {
        let Some(registered) = self.registered(integration) else { return Ok(None) };
        let terms =
            Terms { generation: self.inner.store.links(integration).await?.generation, accept_fewer: false };
        Ok(Some(self.inner.links.make(&registered.token, terms, self.inner.clock.now())))
    }

    /// The delivery of the renewed token to the product; `None` without a webhook or a delivery.
    pub async fn delivery(&self, integration: &str) -> Option<DeliveryState> {
        self.registered(integration).filter(|r| r.has_webhook)?;
        self.inner.store.delivery(integration).await.ok().flatten()
    }

    fn registered(&self, integration: &str) -> Option<Registered> {
        (self.inner.registry)(integration)
    }
}

/// 256 random bits.
fn random() -> Secret {
    Secret::new(CsrfToken::new_random_len(32).into_secret())
}

fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

fn same(a: &str, b: &str) -> bool {
    constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// Each sign-in has its own cookie, so that two tabs do not interfere with each other.
fn cookie_name(id: &str) -> String {
    format!("consentry_sign_in_{}", id.chars().take(12).collect::<String>())
}
