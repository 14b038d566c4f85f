//! Re-authentication: from a mailed link to renewed consent and token.
//!
//! Two objects, never mixed up: the link (days, revocable, names the integration) and the OAuth 2.0 state (ten minutes, once,
//! bound to a browser). Nothing is stored unless everything holds: the old token stays until the very moment of success.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::{CsrfToken, PkceCodeChallenge};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Access, RequiredPermissions, Timestamp, same_permission};
use crate::entra::{Client, ClientCredential, CodeGrant, Entra, Expected, Granted, IdTokenError, Person, ResourceKey, SignIn};
use crate::metrics::Families;
use crate::secret::Secret;
use crate::store::{Authorization, NewAuthorization, RenewedToken, Store, StoreError, Success, TokenId, VERIFYING};

pub mod callback;
mod handover;
mod links;
mod refusal;

pub use crate::store::DeliveryState;
use callback::Answer;
pub use handover::{Handover, Hook, Hooks};
pub use links::{LinkError, Links, Signed};
pub use refusal::{Ending, Refusal};

/// A sign-in must be completed within this time.
const SIGN_IN: Duration = Duration::from_secs(600);

/// All requests of one callback must be answered by then: a browser is waiting.
const CALLBACK: Duration = Duration::from_secs(25);

/// A consent that was given a moment ago may not be known everywhere yet: asked again after these pauses before permissions
/// count as missing.
const SPREADING: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

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

/// How a callback ended.
#[derive(Debug)]
pub enum Completed {
    /// Not one of our sign-ins. Not counted.
    Unknown,
    /// Nothing was stored.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The integration.
        integration: String,
        /// Token of the link that began it, for another try.
        link: Option<Secret>,
        /// The sign-in itself came through before: where its result can be seen.
        attempt: Option<String>,
    },
    /// Stored, or to be verified by what the tenant grants from now on.
    Accepted {
        /// The integration.
        integration: String,
        /// Under what its result can be seen.
        attempt: String,
    },
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

    /// Takes what Entra sent the browser back with. `cookie` finds a cookie of the request by name.
    pub async fn complete(&self, query: &str, cookie: impl Fn(&str) -> Option<String>, now: Timestamp) -> Completed {
        let Ok(callback) = callback::parse(query) else { return Completed::Unknown };
        let id = hash(callback.state.expose());
        let row = match self.inner.store.authorization(&id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Completed::Unknown,
            Err(error) => {
                tracing::error!(%error, "cannot look up a sign-in");
                return Completed::Unknown;
            }
        };
        let bound = cookie(&cookie_name(&id)).is_some_and(|value| same(&hash(&value), &row.cookie));
        let (refusal, link) = match self.claim(&row, bound, now).await {
            Ok(pending) => match self.judge(&row, &pending, callback.answer, now).await {
                Ok(()) => return Completed::Accepted { integration: row.integration, attempt: id },
                Err(refusal) => (refusal, Some(Secret::new(pending.link))),
            },
            Err(refusal) => (refusal, None),
        };
        self.count(&row, &refusal).await;
        // A reload after a success leads to its result, in the browser that began it.
        let came_through = matches!(row.outcome.as_deref(), Some("success" | VERIFYING));
        let attempt = (refusal == Refusal::Replayed && came_through && bound).then_some(id);
        Completed::Refused { refusal, integration: row.integration, link, attempt }
    }

    /// Cookie first, so that a stranger can neither use up a sign-in nor learn anything of it; then single use.
    async fn claim(&self, row: &Authorization, bound: bool, now: Timestamp) -> Result<Pending, Refusal> {
        if !bound {
            return Err(Refusal::OtherBrowser);
        }
        if row.used.is_some() {
            return Err(Refusal::Replayed);
        }
        match self.inner.store.claim_authorization(&row.id, now).await {
            Ok(Some(secret)) => serde_json::from_str(secret.expose()).map_err(|_| Refusal::Storage),
            Ok(None) => Err(Refusal::Replayed),
            Err(error) => {
                tracing::error!(integration = %row.integration, %error, "cannot use a sign-in");
                Err(Refusal::Storage)
            }
        }
    }

    async fn count(&self, row: &Authorization, refusal: &Refusal) {
        let ending = refusal.ending();
        self.inner.families.reauthentication(ending.label());
        let items = if let Refusal::FewerPermissions(missing) = refusal { missing.join(",") } else { String::new() };
        tracing::warn!(integration = %row.integration, result = ending.label(), refusal = refusal.label(), items, "re-authentication refused");
        // What was used up by somebody else keeps its own ending.
        if matches!(refusal, Refusal::Replayed | Refusal::OtherBrowser) {
            return;
        }
        if let Err(error) = self.inner.store.end_authorization(&row.id, ending.label(), false).await {
            tracing::error!(integration = %row.integration, %error, "cannot note how a sign-in ended");
        }
    }

    async fn judge(&self, row: &Authorization, pending: &Pending, answer: Answer, now: Timestamp) -> Result<(), Refusal> {
        if now >= row.expires {
            return Err(Refusal::Expired);
        }
        let registered = &self.registered(&row.integration).ok_or(Refusal::LinkDied)?;
        match (answer, registered.access) {
            (Answer::Refused(error), _) => {
                tracing::info!(
                    integration = %row.integration,
                    error = error.error,
                    code = error.codes.first().map(|c| format!("AADSTS{c}")).unwrap_or_default(),
                    "Entra refused a sign-in"
                );
                Err(Refusal::of_redirect(&error))
            }
            (Answer::Code(code), Access::Delegated) => self.redeem(row, registered, pending, &code, now).await,
            (Answer::AdminConsent { tenant }, Access::Application) => self.verify_later(row, registered, tenant).await,
            _ => Err(Refusal::Invalid),
        }
    }

    /// Redeems the code, checks who signed in and what was granted, and only then stores anything.
    async fn redeem(
        &self,
        row: &Authorization,
        registered: &Registered,
        pending: &Pending,
        code: &Secret,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let deadline = Instant::now() + CALLBACK;
        let token = &registered.token;
        let client = Client {
            tenant: &token.tenant,
            client_id: &token.client_id,
            credential: &registered.credential,
            now_seconds: now.0 / 1000,
            deadline,
        };
        let granted = self.granted(client, registered, pending, code).await?;
        let person = self.person(client, pending, &granted).await?;
        let refresh_token = granted.refresh_token.clone().ok_or_else(|| Refusal::FewerPermissions(vec!["offline_access".to_owned()]))?;
        self.covers(client, registered, &granted, &refresh_token).await?;
        let delivery = registered.hands_over.then(|| handover::message(token, &refresh_token, now));
        let success = Success {
            authorization: row.id.clone(),
            integration: row.integration.clone(),
            link_issued: row.link_issued,
            by: person.username.or(person.object_id),
            token: registered.keeps_token.then(|| RenewedToken { id: token.clone(), token: refresh_token }),
            delivery,
            at: now,
        };
        self.save(success).await
    }

    async fn save(&self, success: Success) -> Result<(), Refusal> {
        let (integration, by) = (success.integration.clone(), success.by.clone().unwrap_or_default());
        match self.inner.store.save_success(success).await {
            Ok(true) => {
                self.inner.families.reauthentication(Ending::Success.label());
                self.inner.handed_over.notify_one();
                tracing::info!(integration, by, result = Ending::Success.label(), "re-authenticated");
                Ok(())
            }
            Ok(false) => Err(Refusal::LinkDied),
            Err(error) => {
                tracing::error!(integration, %error, "cannot save a re-authentication");
                Err(Refusal::Storage)
            }
        }
    }

    /// Redeems the code. A consent that is not known everywhere yet is waited for, a little.
    async fn granted(&self, client: Client<'_>, registered: &Registered, pending: &Pending, code: &Secret) -> Result<Granted, Refusal> {
        let (verifier, redirect_uri) = (Secret::new(&*pending.verifier), self.inner.links.redirect_uri());
        let scope = self.inner.entra.code_scope(&registered.required);
        let grant = CodeGrant { code, verifier: &verifier, redirect_uri: &redirect_uri, scope: &scope };
        let mut pauses = SPREADING.iter();
        loop {
            let fault = match self.inner.entra.redeem(client, grant).await {
                Ok(granted) => return Ok(granted),
                Err(fault) => fault,
            };
            let spreading = fault.code.as_deref() == Some("AADSTS65001");
            let Some(pause) = pauses.next().filter(|_| spreading) else {
                let (code, request_id) = (fault.code.as_deref().unwrap_or_default(), fault.request_id.as_deref().unwrap_or_default());
                let integration = &registered.token.integration;
                tracing::warn!(%integration, code, request_id, detail = fault.detail, "Entra does not redeem the code");
                return Err(Refusal::of_fault(&fault));
            };
            tokio::time::sleep(*pause).await;
        }
    }

    async fn person(&self, client: Client<'_>, pending: &Pending, granted: &Granted) -> Result<Person, Refusal> {
        let expected = Expected {
            tenant: client.tenant,
            client_id: client.client_id,
            nonce: &pending.nonce,
            now_seconds: client.now_seconds,
            deadline: client.deadline,
        };
        let Some(id_token) = &granted.id_token else {
            tracing::warn!("the token endpoint sent no id_token");
            return Err(Refusal::Invalid);
        };
        self.inner.entra.validate_id_token(id_token, expected).await.map_err(|error| match error {
            IdTokenError::WrongTenant => Refusal::WrongTenant,
            IdTokenError::PersonalAccount => Refusal::PersonalAccount,
            IdTokenError::Upstream(fault) => Refusal::of_fault(&fault),
            IdTokenError::Invalid(what) => {
                tracing::warn!(what, "an id_token is not valid");
                Refusal::Invalid
            }
        })
    }

    /// Whether the granted scopes cover what is required, resource by resource.
    async fn covers(&self, client: Client<'_>, registered: &Registered, granted: &Granted, token: &Secret) -> Result<(), Refusal> {
        let entra = &self.inner.entra;
        let mut missing = Vec::new();
        let mut first = Some(granted.scopes.clone().unwrap_or_default());
        for required in registered.required.iter().filter(|r| !r.delegated.is_empty()) {
            let scope = ResourceKey::of(&required.resource).scope(&entra.hosts().graph);
            // The code was redeemed for the first resource; the others are asked for with the refresh token.
            let mut scopes = first.take();
            let mut pauses = SPREADING.iter();
            loop {
                if let Some(lacking) = scopes.as_ref().map(|s| lacking(&required.delegated, s)) {
                    if lacking.is_empty() {
                        break;
                    }
                    let Some(pause) = pauses.next() else {
                        missing.extend(lacking);
                        break;
                    };
                    tokio::time::sleep(*pause).await;
                }
                scopes = match entra.refresh(client, token, &scope).await {
                    Ok(granted) => Some(granted.scopes.unwrap_or_default()),
                    Err(fault) => match Refusal::of_fault(&fault) {
                        Refusal::FewerPermissions(_) => Some(Vec::new()),
                        refusal => return Err(refusal),
                    },
                };
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(Refusal::FewerPermissions(missing)) }
    }

    /// The admin consent callback is unsigned: what counts is what the tenant grants from now on.
    async fn verify_later(&self, row: &Authorization, registered: &Registered, tenant: Option<String>) -> Result<(), Refusal> {
        let ours = self.inner.entra.tenant_guid(&registered.token.tenant, Instant::now() + CALLBACK).await.ok();
        let foreign = matches!((&ours, &tenant), (Some(ours), Some(theirs)) if Uuid::try_parse(theirs).ok() != Uuid::try_parse(ours).ok());
        self.inner.store.end_authorization(&row.id, VERIFYING, foreign).await.map_err(|error| {
            tracing::error!(integration = %row.integration, %error, "cannot save a sign-in");
            Refusal::Storage
        })
    }

    /// Integrations with a consent that is still being verified.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn verifying(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.inner.store.verifying().await?.into_iter().map(|row| row.integration).collect())
    }

    /// A probe has seen what the tenant grants: `holds` when enterprise app and consent are as required. After the `last` probe
    /// what does not hold is incomplete.
    pub async fn verify(&self, integration: &str, holds: bool, last: bool, now: Timestamp) {
        let rows = match self.inner.store.verifying().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(integration, %error, "cannot look up what is being verified");
                return;
            }
        };
        for row in rows.iter().filter(|row| row.integration == integration) {
            if holds {
                let success = Success {
                    authorization: row.id.clone(),
                    integration: row.integration.clone(),
                    link_issued: row.link_issued,
                    by: None,
                    token: None,
                    delivery: None,
                    at: now,
                };
                if let Err(refusal) = self.save(success).await {
                    self.count(row, &refusal).await;
                }
            } else if last {
                self.count(row, &if row.foreign_tenant { Refusal::WrongTenant } else { Refusal::FewerPermissions(Vec::new()) }).await;
            }
        }
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

/// Required values that are not among the granted ones.
fn lacking(required: &[String], granted: &[String]) -> Vec<String> {
    let openid = |value: &str| crate::domain::OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    required.iter().filter(|r| !openid(r) && !granted.iter().any(|g| same_permission(g, r))).cloned().collect()
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
