//! Re-authentication: from a mailed link to renewed consent and token.
//!
//! Two objects, never mixed up: the link (days, revocable, names the integration) and the OAuth 2.0 state (ten minutes, once,
//! bound to a browser). Nothing is stored unless everything holds: the old token stays until the very moment of success.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::{CsrfToken, PkceCodeChallenge};
use serde::{Deserialize, Serialize};

use crate::domain::{Access, RequiredPermissions, Timestamp};
use crate::entra::{ClientCredential, Entra, SignIn};
use crate::metrics::Families;
use crate::secret::Secret;
use crate::store::{NewAuthorization, Store, TokenId, VERIFYING};

pub mod callback;
mod complete;
mod handover;
mod links;
mod proof;
mod refusal;

pub use crate::store::DeliveryState;
pub use complete::Completed;
pub use handover::{Handover, Hook, Hooks};
pub use links::{LinkError, Links, Signed};
pub use refusal::{Ending, Refusal};

/// A sign-in must be completed within this time.
const SIGN_IN: Duration = Duration::from_secs(600);

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
    pub hands_over: bool,
}

/// Finds who can be re-authenticated here, by name.
pub type Registry = Box<dyn Fn(&str) -> Option<Registered> + Send + Sync>;

/// What the browser needs to begin.
#[derive(Debug)]
pub struct Begun {
    /// Entra's page.
    pub location: String,
    /// Name of the cookie that binds the sign-in to the browser.
    pub cookie_name: String,
    /// Its value.
    pub cookie_value: Secret,
    /// How long it is good.
    pub lifetime: Duration,
}

/// Why a sign-in cannot begin.
#[derive(Debug)]
pub enum BeginError {
    /// The link opens nothing.
    Link(LinkError),
    /// It cannot be saved or built; the operators find out in the log.
    Unavailable,
}

/// How a sign-in that was accepted stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What the tenant grants is still being looked at.
    Verifying,
    /// Consent and token are renewed.
    Renewed,
    /// The tenant does not grant what is required.
    Incomplete,
    /// The administrator consented for another organization.
    WrongTenant,
}

/// What the callback needs of the beginning.
#[derive(Serialize, Deserialize)]
struct Pending {
    verifier: String,
    nonce: String,
    link: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Reauthentication {
    inner: Arc<Inner>,
}

struct Inner {
    entra: Entra,
    store: Store,
    families: Families,
    links: Links,
    registry: Registry,
    handed_over: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Reauthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reauthentication")
    }
}

impl Reauthentication {
    /// Puts the parts together. `handed_over` is nudged when a renewed token waits to be handed over.
    pub fn new(
        entra: Entra,
        store: Store,
        families: Families,
        links: Links,
        registry: Registry,
        handed_over: Arc<tokio::sync::Notify>,
    ) -> Self {
        Self { inner: Arc::new(Inner { entra, store, families, links, registry, handed_over }) }
    }

    /// Checks a link whole: signature, time, and whether it has been used.
    ///
    /// # Errors
    /// Why it opens nothing. When the database cannot say whether it was used, it opens nothing for now.
    pub async fn open_link(&self, integration: &str, token: &str, now: Timestamp) -> Result<Signed, LinkError> {
        let signed = self.inner.links.check(integration, token, now)?;
        match self.inner.store.links_not_after(integration).await {
            Ok(Some(dead)) if signed.issued <= dead => Err(LinkError::Used),
            Ok(_) => Ok(signed),
            Err(error) => {
                tracing::error!(integration, %error, "cannot look up whether a link was used");
                Err(LinkError::Expired)
            }
        }
    }

    /// Begins a sign-in: saves what the callback will need and says where the browser must go.
    ///
    /// # Errors
    /// The link opens nothing, or the sign-in cannot be saved.
    pub async fn begin(&self, integration: &str, link: &str, now: Timestamp) -> Result<Begun, BeginError> {
        let signed = self.open_link(integration, link, now).await.map_err(BeginError::Link)?;
        let registered = &self.registered(integration).ok_or(BeginError::Link(LinkError::Forged))?;
        let state = random();
        let (nonce, cookie) = (random(), random());
        let (_, verifier) = PkceCodeChallenge::new_random_sha256();
        let verifier = Secret::new(verifier.into_secret());
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::error!(integration, %error, "cannot begin a sign-in");
            BeginError::Unavailable
        };
        let location = self.location(registered, &state, &nonce, &verifier).await.map_err(|e| unavailable(&e))?;
        let pending = Pending { verifier: verifier.expose().to_owned(), nonce: nonce.expose().to_owned(), link: link.to_owned() };
        let id = hash(state.expose());
        let new = NewAuthorization {
            id: id.clone(),
            integration: integration.to_owned(),
            cookie: hash(cookie.expose()),
            secret: Secret::new(serde_json::to_string(&pending).map_err(|e| unavailable(&e))?),
            link_issued: signed.issued,
            created: now,
            expires: now.plus(SIGN_IN),
        };
        self.inner.store.save_authorization(new).await.map_err(|e| unavailable(&e))?;
        tracing::info!(integration, "a sign-in begins");
        Ok(Begun { location, cookie_name: cookie_name(&id), cookie_value: cookie, lifetime: SIGN_IN })
    }

    async fn location(&self, registered: &Registered, state: &Secret, nonce: &Secret, verifier: &Secret) -> Result<String, String> {
        let (entra, token) = (&self.inner.entra, &registered.token);
        let redirect_uri = self.inner.links.redirect_uri();
        if registered.access == Access::Application {
            return Ok(entra.admin_consent_url(&token.tenant, &token.client_id, &redirect_uri, state));
        }
        let login_hint = self.inner.store.consented_by(token).await.map_err(|e| e.to_string())?;
        let sign_in = SignIn {
            tenant: &token.tenant,
            client_id: &token.client_id,
            redirect_uri: &redirect_uri,
            required: &registered.required,
            state,
            nonce,
            verifier,
            login_hint: login_hint.as_deref(),
        };
        entra.authorize_url(sign_in).map_err(|fault| fault.detail)
    }

    /// How an accepted sign-in stands, and since when. `None` for one that is not known any more.
    pub async fn standing(&self, integration: &str, attempt: &str) -> Option<(Standing, Timestamp)> {
        let row = self.inner.store.authorization(attempt).await.ok().flatten().filter(|row| row.integration == integration)?;
        let standing = match row.outcome.as_deref()? {
            VERIFYING => Standing::Verifying,
            "success" => Standing::Renewed,
            "incomplete" => Standing::Incomplete,
            "wrong_tenant" => Standing::WrongTenant,
            _ => return None,
        };
        Some((standing, row.used?))
    }

    /// How far the renewed token's way to the product has come; `None` where nothing is handed over.
    pub async fn delivery(&self, integration: &str) -> Option<DeliveryState> {
        self.registered(integration).filter(|r| r.hands_over)?;
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

/// One cookie a sign-in, so that two tabs do not disturb each other.
fn cookie_name(id: &str) -> String {
    format!("consentry_sign_in_{}", id.chars().take(12).collect::<String>())
}
