//! The callback: from what Entra sent the browser back with to a success that is stored whole, or a refusal that stores nothing.

use std::time::{Duration, Instant};

use super::callback::{self, Answer};
use super::{Ending, Pending, Reauthentication, Refusal, Registered, cookie_name, handover, hash, same};
use crate::domain::{Access, Fault, OPENID_SCOPES, same_permission};
use crate::entra::{Client, CodeGrant, Expected, Granted, IdTokenError, Person, ResourceKey};
use crate::secret::Secret;
use crate::store::{Authorization, RenewedToken, Success, VERIFYING};

/// All requests of one callback must be answered by then: a browser is waiting.
pub(super) const CALLBACK: Duration = Duration::from_secs(25);

/// A consent that was given a moment ago may not be known everywhere yet: asked again after these pauses before permissions
/// count as missing.
const SPREADING: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// How a callback ended.
#[derive(Debug)]
pub enum Completed {
    /// Not one of our sign-ins. Not counted.
    Unknown,
    /// It cannot be looked up now.
    Unavailable,
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

impl Reauthentication {
    /// Takes what Entra sent the browser back with. `cookie` finds a cookie of the request by name.
    ///
    /// Must run to its end, whatever becomes of the connection: a sign-in is used up by its first step.
    pub async fn complete(&self, query: &str, cookie: impl Fn(&str) -> Option<String> + Send) -> Completed {
        let Ok(callback) = callback::parse(query) else { return Completed::Unknown };
        let id = hash(callback.state.expose());
        let row = match self.inner.store.authorization(&id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Completed::Unknown,
            Err(error) => {
                tracing::error!(%error, "cannot look up a sign-in");
                return Completed::Unavailable;
            }
        };
        let bound = cookie(&cookie_name(&id)).is_some_and(|value| same(&hash(&value), &row.cookie));
        let (refusal, link) = match self.claim(&row, bound).await {
            Ok(pending) => match self.judge(&row, &pending, callback.answer).await {
                Ok(()) => return Completed::Accepted { integration: row.integration, attempt: id },
                Err(refusal) => (refusal, Some(Secret::new(pending.link))),
            },
            Err(refusal) => (refusal, None),
        };
        self.refused(row, refusal, link).await
    }

    async fn refused(&self, row: Authorization, refusal: Refusal, link: Option<Secret>) -> Completed {
        let (mut refusal, mut attempt) = (refusal, None);
        if refusal == Refusal::Replayed {
            // Looked up again: the first callback may have come to its end meanwhile.
            let now = self.inner.store.authorization(&row.id).await.ok().flatten();
            match now.and_then(|row| row.outcome).as_deref() {
                None => refusal = Refusal::Interrupted,
                Some("success" | VERIFYING) => attempt = Some(row.id.clone()),
                Some(_) => {}
            }
        }
        self.count(&row, &refusal).await;
        Completed::Refused { refusal, integration: row.integration, link, attempt }
    }

    /// Cookie first, so that a stranger can neither use up a sign-in nor learn anything of it; then single use.
    async fn claim(&self, row: &Authorization, bound: bool) -> Result<Pending, Refusal> {
        if !bound {
            return Err(Refusal::OtherBrowser);
        }
        if row.used.is_some() {
            return Err(Refusal::Replayed);
        }
        match self.inner.store.claim_authorization(&row.id, self.inner.clock.now()).await {
            Ok(Some(secret)) => serde_json::from_str(secret.expose()).map_err(|_| Refusal::Storage),
            Ok(None) => Err(Refusal::Replayed),
            Err(error) => {
                tracing::error!(integration = %row.integration, %error, "cannot use a sign-in");
                Err(Refusal::Storage)
            }
        }
    }

    pub(super) async fn count(&self, row: &Authorization, refusal: &Refusal) {
        let ending = refusal.ending();
        self.inner.families.reauthentication(ending.label());
        let items = if let Refusal::FewerPermissions(missing) = refusal { missing.join(",") } else { String::new() };
        tracing::warn!(integration = %row.integration, result = ending.label(), refusal = refusal.label(), items, "re-authentication refused");
        // What was used up by somebody else keeps its own ending.
        if matches!(refusal, Refusal::Replayed | Refusal::Interrupted | Refusal::OtherBrowser) {
            return;
        }
        if let Err(error) = self.inner.store.end_authorization(&row.id, ending.label(), false).await {
            tracing::error!(integration = %row.integration, %error, "cannot note how a sign-in ended");
        }
    }

    async fn judge(&self, row: &Authorization, pending: &Pending, answer: Answer) -> Result<(), Refusal> {
        if self.inner.clock.now() >= row.expires {
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
            (Answer::Code(code), Access::Delegated) => self.redeem(row, registered, pending, &code).await,
            (Answer::AdminConsent { tenant }, Access::Application) => self.verify_later(row, registered, tenant).await,
            _ => Err(Refusal::Invalid),
        }
    }

    /// Redeems the code, checks who signed in and what was granted, and only then stores anything.
    async fn redeem(&self, row: &Authorization, registered: &Registered, pending: &Pending, code: &Secret) -> Result<(), Refusal> {
        let deadline = Instant::now() + CALLBACK;
        let token = &registered.token;
        let client = Client {
            tenant: &token.tenant,
            client_id: &token.client_id,
            credential: &registered.credential,
            now_seconds: self.inner.clock.now().0 / 1000,
            deadline,
        };
        let granted = self.granted(client, registered, pending, code).await?;
        let person = self.person(client, pending, &granted).await?;
        let refresh_token = granted.refresh_token.clone().ok_or_else(|| Refusal::FewerPermissions(vec!["offline_access".to_owned()]))?;
        self.covers(client, registered, &granted, &refresh_token).await?;
        // Every link made before this moment dies, not only those made before the callback came.
        let now = self.inner.clock.now();
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

    pub(super) async fn save(&self, success: Success) -> Result<(), Refusal> {
        let integration = success.integration.clone();
        match self.inner.store.save_success(success).await {
            Ok(true) => {
                self.inner.families.reauthentication(Ending::Success.label());
                self.inner.handed_over.notify_one();
                // Who it was stands in the event, not in logs that travel.
                tracing::info!(integration, result = Ending::Success.label(), "re-authenticated");
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
        let mut first: Option<Fault> = None;
        loop {
            let fault = match self.inner.entra.redeem(client, grant).await {
                Ok(granted) => return Ok(granted),
                Err(fault) => fault,
            };
            let pause = pauses.next().filter(|_| fault.code.as_deref() == Some("AADSTS65001"));
            // The first refusal may have used the code up; then the second one is about that alone.
            let used_up = matches!(Refusal::of_fault(&fault), Refusal::Invalid | Refusal::Expired);
            let fault = first.take().filter(|_| used_up).unwrap_or(fault);
            let Some(pause) = pause else {
                let (code, request_id) = (fault.code.as_deref().unwrap_or_default(), fault.request_id.as_deref().unwrap_or_default());
                let integration = &registered.token.integration;
                tracing::warn!(%integration, code, request_id, detail = fault.detail, "Entra does not redeem the code");
                return Err(Refusal::of_fault(&fault));
            };
            first = Some(fault);
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
        let mut first = true;
        for required in registered.required.iter().filter(|r| !r.delegated.is_empty()) {
            let scope = ResourceKey::of(&required.resource).scope(&entra.hosts().graph);
            // The code was redeemed for the first resource (an answer that names no scopes grants what was asked for: RFC 6749
            // section 5.1); the others are asked for with the refresh token.
            let mut scopes = std::mem::take(&mut first).then(|| granted.scopes.clone().unwrap_or_else(|| required.delegated.clone()));
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
}

/// Required values that are not among the granted ones.
fn lacking(required: &[String], granted: &[String]) -> Vec<String> {
    let openid = |value: &str| OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    required.iter().filter(|r| !openid(r) && !granted.iter().any(|g| same_permission(g, r))).cloned().collect()
}
