//! Re-authentication: from a mailed link to renewed consent and token.
//!
//! Two objects, never mixed up: the link (days, revocable, names the integration) and the OAuth 2.0 state (ten minutes, once,
//! bound to a browser). Nothing is stored unless everything holds: the old token stays until the very moment of success.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::{CsrfToken, PkceCodeChallenge};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::domain::{Access, GroupPolicy, RequiredPermissions, Timestamp};
use crate::entra::{Entra, SignIn};
use crate::fleet::Fleet;
use crate::metrics::Families;
use crate::secret::{ClientCredential, Secret};
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
pub use complete::{Came, Completed};
pub use links::{LinkError, Links, Signed, Terms, redirect_uri};
pub use refusal::{Refusal, SignInResult};
pub use subject::Mailing;
use subject::Subject;
pub use verification::Observation;
pub use webhook::{Recipient, WebhookParts, WebhookSender, Webhooks};

/// A sign-in must be completed within this time.
const SIGN_IN: Duration = Duration::from_secs(600);

/// The browser keeps the cookie longer than that, so that it can be told what happened: that it took too long, or how it went.
const COOKIE: Duration = Duration::from_secs(86_400);

/// An integration that can be re-authenticated here.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Under what its token is stored.
    pub token: TokenId,
    /// The application's credential.
    pub credential: Arc<ClientCredential>,
    /// Delegated or application access.
    pub access: Access,
    /// Permissions to consent to.
    pub required: Arc<[RequiredPermissions]>,
    /// The token is kept here; otherwise somebody else keeps it.
    pub keeps_token: bool,
    /// Renewed tokens are handed to the product.
    pub has_webhook: bool,
    /// The groups that must be visible; `None` where groups are not checked.
    pub groups: Option<GroupPolicy>,
    /// Only the sign-in of an administrator is accepted.
    pub admins_only: bool,
}

/// Finds who can be re-authenticated here, by name.
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
pub struct Asked<'a> {
    /// The account that consented last is proposed.
    pub hint: bool,
    /// The network from which it comes, for its quota; empty where that is not known.
    pub source: &'a str,
    /// Whether the last probe saw enterprise app and consent as required; `None` when it could not see it.
    pub granted: Option<bool>,
}

/// How a sign-in that was accepted stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInStatus {
    /// What the tenant grants is still being looked at.
    Verifying,
    /// Consent and token are renewed.
    Renewed,
    /// The tenant granted everything before, and still does. The link stays good.
    Unchanged,
    /// The tenant does not grant what is required.
    Incomplete,
    /// The administrator consented for another organization.
    WrongTenant,
    /// What the tenant grants could not be found out.
    Unclear,
}

/// What the callback needs of the beginning.
#[derive(Serialize, Deserialize)]
struct Pending {
    verifier: String,
    nonce: String,
    link: String,
    /// The link says that the configuration alone counts.
    #[serde(default)]
    accept_fewer: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Reauthentication {
    inner: Arc<Dependencies>,
}

/// What it works with.
#[allow(missing_debug_implementations)] // Holds a closure; nobody prints it.
pub struct Dependencies {
    /// Tokens, keys and pages of Entra.
    pub entra: Entra,
    /// Sign-ins, tokens, deliveries.
    pub store: Store,
    /// Counts how re-authentications end.
    pub families: Families,
    /// Signs and checks links.
    pub links: Links,
    /// Who can be re-authenticated.
    pub registry: Registry,
    /// What is known of the integrations.
    pub fleet: Arc<Fleet>,
    /// Who is mailed about sign-ins.
    pub mailing: Mailing,
    /// The present moment.
    pub clock: Clock,
    /// Nudged when a renewed token waits to be handed over.
    pub handed_over: Arc<tokio::sync::Notify>,
    /// Nudged when mails were saved.
    pub outbox: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Reauthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reauthentication")
    }
}

impl Reauthentication {
    /// Puts the parts together.
    pub fn new(parts: Dependencies) -> Self {
        Self { inner: Arc::new(parts) }
    }

    /// Checks a link whole: signature, time, and whether it has been used. An integration that is not there has no links.
    ///
    /// # Errors
    /// Why it opens nothing.
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

    /// Begins a sign-in with an opened link, whose token is kept for another try: saves what the callback will need and says where the
    /// browser must go.
    ///
    /// # Errors
    /// A quota of sign-ins under way is full, or it cannot be saved or built; the log says why.
    pub async fn begin(
        &self,
        link: &Signed,
        token: &str,
        asked: Asked<'_>,
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
            .location(registered, asked.hint, &state, &nonce, &verifier)
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
            source: asked.source.to_owned(),
            created: now,
            expires: now.plus(SIGN_IN),
        };
        if let Some(quota) = self.inner.store.save_authorization(new).await.map_err(|e| unavailable(&e))? {
            tracing::warn!(
                integration,
                quota = quota.label(),
                "a sign-in does not begin: too many are under way"
            );
            return Err(LinkError::TooMany);
        }
        // Entra is asked only for a sign-in that really begins.
        if let Some(granted) = self.granted_already(registered, asked.granted).await {
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
            // An object id is no name to sign in with.
            login_hint: known.as_deref().filter(|name| name.contains('@')),
        };
        entra.authorize_url(sign_in).map_err(|fault| fault.detail)
    }

    /// How an accepted sign-in stands, and since when. `None` for one that is not known any more.
    pub async fn standing(&self, integration: &str, attempt: &str) -> Option<(SignInStatus, Timestamp)> {
        let row = self
            .inner
            .store
            .authorization(attempt)
            .await
            .ok()
            .flatten()
            .filter(|row| row.integration == integration)?;
        let standing = match row.stage? {
            Stage::Verifying => SignInStatus::Verifying,
            Stage::Success => SignInStatus::Renewed,
            Stage::Unchanged => SignInStatus::Unchanged,
            Stage::Incomplete => SignInStatus::Incomplete,
            Stage::WrongTenant => SignInStatus::WrongTenant,
            Stage::Error => SignInStatus::Unclear,
            Stage::Denied | Stage::Expired => return None,
        };
        Some((standing, row.used?))
    }

    /// A fresh link, for somebody who may hand it on; `None` for an integration that is not there.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn fresh_link(&self, integration: &str) -> Result<Option<String>, StoreError> {
        let Some(registered) = self.registered(integration) else { return Ok(None) };
        let terms =
            Terms { generation: self.inner.store.links(integration).await?.generation, accept_fewer: false };
        Ok(Some(self.inner.links.make(&registered.token, terms, self.inner.clock.now())))
    }

    /// How far the renewed token's way to the product has come; `None` where nothing is handed over.
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

/// One cookie a sign-in, so that two tabs do not disturb each other.
fn cookie_name(id: &str) -> String {
    format!("consentry_sign_in_{}", id.chars().take(12).collect::<String>())
}
