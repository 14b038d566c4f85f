//! The callback: either everything about a successful sign-in is stored, or nothing is.

use std::time::{Duration, Instant};

use super::callback::{self, Answer};
use super::trial::{SPREADING, Trial};
use super::{
    Pending, Reauthentication, Refusal, Registered, SignInResult, Subject, cookie_name, hash, same, webhook,
};
use crate::domain::{Access, Fault, Notification, Timestamp};
use crate::entra::{Client, CodeGrant, Expected, Granted, IdTokenError, Person};
use crate::secret::Secret;
use crate::store::{Authorization, RenewedToken, Stage, Success};

/// The time for all requests of one callback, because a browser is waiting.
pub(super) const CALLBACK: Duration = Duration::from_secs(25);

/// The HTTP request of a callback.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)] // Contains a closure.
pub struct CallbackRequest<'a> {
    /// Its query.
    pub query: &'a str,
    /// Finds a cookie of the request by name.
    pub cookie: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
    /// The client's address, for people.
    pub origin: &'a str,
}

/// A sign-in that is being verified.
#[derive(Clone, Copy)]
struct Case<'a> {
    row: &'a Authorization,
    registered: &'a Registered,
    pending: &'a Pending,
    subject: Option<&'a Subject<'a>>,
}

/// A refusal, and who was refused where that is known.
struct Rejection {
    refusal: Refusal,
    by: Option<String>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, by: None }
    }
}

/// How a callback ended.
#[derive(Debug)]
pub enum Completed {
    /// The state belongs to no sign-in of ours. Not counted.
    Unknown,
    /// The sign-in cannot be looked up now.
    Unavailable,
    /// Nothing was stored.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The integration.
        integration: String,
        /// Token of the link that began it, for another try.
        link: Option<Secret>,
        /// The id for the page of the result, where the same sign-in has been accepted before.
        attempt: Option<String>,
    },
    /// Stored, or still to be verified by probes.
    Accepted {
        /// The integration.
        integration: String,
        /// The id for the page of the result.
        attempt: String,
        /// When consent and token were renewed; `None` for an unsigned admin consent, which is still to be verified.
        renewed: Option<Timestamp>,
    },
}

impl Reauthentication {
    /// Processes a callback.
    ///
    /// Must run to its end even if the client disconnects, because the first step uses the sign-in up.
    pub async fn complete(&self, request: CallbackRequest<'_>) -> Completed {
        let Ok(callback) = callback::parse(request.query) else { return Completed::Unknown };
        let id = hash(callback.state.expose());
        let mut row = match self.inner.store.authorization(&id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Completed::Unknown,
            Err(error) => {
                tracing::error!(%error, "cannot look up a sign-in");
                return Completed::Unavailable;
            }
        };
        let bound = (request.cookie)(&cookie_name(&id)).is_some_and(|value| same(&hash(&value), &row.cookie));
        let (refusal, mails, link) = match self.claim(&row, bound, request.origin).await {
            Ok(pending) => {
                request.origin.clone_into(&mut row.origin);
                let subject = self.subject(&row.integration);
                match self.verify_answer(&row, &pending, callback.answer, subject.as_ref()).await {
                    Ok(renewed) => {
                        return Completed::Accepted { integration: row.integration, attempt: id, renewed };
                    }
                    Err(turned) => {
                        let mails = self.mails(&row, &turned, subject.as_ref());
                        (turned.refusal, mails, Some(Secret::new(pending.link)))
                    }
                }
            }
            Err(refusal) => (refusal, Vec::new(), None),
        };
        self.refused(row, refusal, mails, link).await
    }

    /// The operators' mails about a refusal.
    fn mails(
        &self,
        row: &Authorization,
        rejection: &Rejection,
        subject: Option<&Subject<'_>>,
    ) -> Vec<Notification> {
        let now = self.inner.clock.now();
        subject.map(|s| s.refusal(row, &rejection.refusal, rejection.by.as_deref(), now)).unwrap_or_default()
    }

    async fn refused(
        &self,
        row: Authorization,
        refusal: Refusal,
        mails: Vec<Notification>,
        link: Option<Secret>,
    ) -> Completed {
        let (mut refusal, mut attempt) = (refusal, None);
        if refusal == Refusal::Replayed {
            // Looked up again, because the first callback may have finished meanwhile.
            let now = self.inner.store.authorization(&row.id).await.ok().flatten();
            match now.and_then(|row| row.stage) {
                None => refusal = Refusal::Interrupted,
                Some(Stage::Success | Stage::Verifying | Stage::Unchanged) => attempt = Some(row.id.clone()),
                Some(_) => {}
            }
        }
        self.count(&row, &refusal, mails).await;
        Completed::Refused { refusal, integration: row.integration, link, attempt }
    }

    /// Marks a sign-in as used. The cookie is verified first, so that somebody else can neither use a sign-in up nor learn its state.
    async fn claim(&self, row: &Authorization, bound: bool, origin: &str) -> Result<Pending, Refusal> {
        if !bound {
            return Err(Refusal::OtherBrowser);
        }
        if row.used.is_some() {
            return Err(Refusal::Replayed);
        }
        match self.inner.store.claim_authorization(&row.id, origin, self.inner.clock.now()).await {
            Ok(Some(secret)) => serde_json::from_str(secret.expose()).map_err(|_| Refusal::Storage),
            Ok(None) => Err(Refusal::Replayed),
            Err(error) => {
                tracing::error!(integration = %row.integration, %error, "cannot use a sign-in");
                Err(Refusal::Storage)
            }
        }
    }

    /// Counts, logs and saves a refusal.
    pub(super) async fn count(&self, row: &Authorization, refusal: &Refusal, mails: Vec<Notification>) {
        let ending = refusal.ending();
        self.inner.families.reauthentication(ending.label());
        let items = match refusal {
            Refusal::FewerPermissions(items) | Refusal::SeesLess(items) => items.join(","),
            _ => String::new(),
        };
        tracing::warn!(integration = %row.integration, result = ending.label(), refusal = refusal.label(), items, "re-authentication refused");
        // A sign-in that another request has used keeps its own result.
        if matches!(refusal, Refusal::Replayed | Refusal::Interrupted | Refusal::OtherBrowser) {
            return;
        }
        let mailed = !mails.is_empty();
        let ended = match mailed {
            true => {
                self.inner
                    .store
                    .refuse_authorization(&row.id, ending.stage(), mails, self.inner.clock.now())
                    .await
            }
            false => self.inner.store.end_authorization(&row.id, ending.stage(), false).await,
        };
        match ended {
            Ok(()) if mailed => self.inner.outbox.notify_one(),
            Ok(()) => {}
            Err(error) => {
                tracing::error!(integration = %row.integration, %error, "cannot save how a sign-in ended");
            }
        }
    }

    /// Verifies the result of a sign-in. Returns when consent and token were renewed; `None` where probes still have to verify that.
    async fn verify_answer(
        &self,
        row: &Authorization,
        pending: &Pending,
        answer: Answer,
        subject: Option<&Subject<'_>>,
    ) -> Result<Option<Timestamp>, Rejection> {
        if self.inner.clock.now() >= row.expires {
            return Err(Refusal::Expired.into());
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
                Err(Refusal::of_redirect(&error, &self.inner.entra.overrides).into())
            }
            (Answer::Code(code), Access::Delegated) => {
                self.redeem(Case { row, registered, pending, subject }, &code).await.map(Some)
            }
            (Answer::AdminConsent { tenant }, Access::Application) => {
                self.verify_later(row, registered, tenant).await?;
                Ok(None)
            }
            _ => Err(Refusal::Invalid.into()),
        }
    }

    /// Redeems the code, verifies who signed in and what was granted, tries the new token, and only then stores anything.
    async fn redeem(&self, case: Case<'_>, code: &Secret) -> Result<Timestamp, Rejection> {
        let Case { row, registered, pending, subject } = case;
        let token = &registered.token;
        let client = Client {
            tenant: &token.tenant,
            client_id: &token.client_id,
            credential: &registered.credential,
            now_seconds: self.inner.clock.now().0 / 1000,
            deadline: Instant::now() + CALLBACK,
        };
        let granted = self.granted(client, registered, pending, code).await?;
        let person = self.person(client, pending, &granted).await?;
        let view = subject.and_then(|s| s.good_view()).filter(|_| !pending.accept_fewer);
        let known = subject.map_or(&[][..], |s| s.known_groups());
        let tried = self.try_out(Trial { client, registered, view, known, person: &person }, &granted).await;
        let by = person.username.or(person.object_id);
        let refresh_token = match tried {
            Ok(newest) => newest,
            Err(refusal) => return Err(Rejection { refusal, by }),
        };
        // Every link made before this moment becomes invalid, not only those made before the callback.
        let now = self.inner.clock.now();
        let success = Success {
            authorization: row.id.clone(),
            integration: row.integration.clone(),
            stamp: row.stamp,
            mails: subject
                .map(|s| s.announcements(&row.id, by.as_deref(), &row.origin, now))
                .unwrap_or_default(),
            by,
            origin: row.origin.clone(),
            delivery: registered.has_webhook.then(|| webhook::message(token, &refresh_token, now)),
            token: registered.keeps_token.then(|| RenewedToken { id: token.clone(), token: refresh_token }),
            at: now,
        };
        self.save(success).await?;
        Ok(now)
    }

    pub(super) async fn save(&self, success: Success) -> Result<(), Refusal> {
        let (integration, origin) = (success.integration.clone(), success.origin.clone());
        match self.inner.store.save_success(success).await {
            Ok(true) => {
                self.inner.families.reauthentication(SignInResult::Success.label());
                self.inner.token_ready.notify_one();
                self.inner.outbox.notify_one();
                // The account is recorded in the event, not in logs, which may be sent elsewhere.
                tracing::info!(
                    integration,
                    result = SignInResult::Success.label(),
                    from = origin,
                    "re-authenticated"
                );
                Ok(())
            }
            Ok(false) => Err(Refusal::LinkDied),
            Err(error) => {
                tracing::error!(integration, %error, "cannot save a re-authentication");
                Err(Refusal::Storage)
            }
        }
    }

    /// Redeems the code. Tries again for a few seconds while the consent has not propagated yet.
    async fn granted(
        &self,
        client: Client<'_>,
        registered: &Registered,
        pending: &Pending,
        code: &Secret,
    ) -> Result<Granted, Refusal> {
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
            // The first error may have used the code up; then the second error only reports that, and the
            // first one is returned.
            let used_up = matches!(Refusal::of_fault(&fault), Refusal::Invalid | Refusal::Expired);
            let fault = first.take().filter(|_| used_up).unwrap_or(fault);
            let Some(pause) = pause else {
                let (code, request_id) = (
                    fault.code.as_deref().unwrap_or_default(),
                    fault.request_id.as_deref().unwrap_or_default(),
                );
                let integration = &registered.token.integration;
                tracing::warn!(%integration, code, request_id, detail = fault.detail, "Entra does not redeem the code");
                return Err(Refusal::of_fault(&fault));
            };
            first = Some(fault);
            tokio::time::sleep(*pause).await;
        }
    }

    async fn person(
        &self,
        client: Client<'_>,
        pending: &Pending,
        granted: &Granted,
    ) -> Result<Person, Refusal> {
        let expected = Expected {
            tenant: client.tenant,
            client_id: client.client_id,
            nonce: &pending.nonce,
            now_seconds: client.now_seconds,
            deadline: client.deadline,
        };
        let Some(id_token) = &granted.id_token else {
            tracing::warn!("the token endpoint returned no id_token");
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
}
