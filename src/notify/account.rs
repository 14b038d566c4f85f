//! The access tokens of a mail account without a password: client credentials of an application registration (Microsoft,
//! `how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth.md`, section "Use client credentials grant flow").

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::smtp::blame::Failure;
use crate::clock::Clock;
use crate::config::MailAccount;
use crate::domain::{Fault, Reason, Remedy};
use crate::entra::{Client, Entra};
use crate::metrics::EmailFailure;
use crate::secret::Secret;

/// A token is used until this long before its end, so that it does not end on its way.
const MARGIN: Duration = Duration::from_secs(120);

/// The time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Gets access tokens, and keeps the current one. Cheap to clone; clones share the token.
#[derive(Clone)]
pub struct MailTokens {
    entra: Entra,
    account: Arc<MailAccount>,
    scope: String,
    clock: Clock,
    current: Arc<Mutex<Option<(Secret, Instant)>>>,
}

impl std::fmt::Debug for MailTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailTokens").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl MailTokens {
    /// Tokens of an account for the resource of `scope`, which ends in `/.default`.
    pub fn new(entra: Entra, account: MailAccount, scope: String, clock: Clock) -> Self {
        Self { entra, account: Arc::new(account), scope, clock, current: Arc::default() }
    }

    /// The current token; a new one if there is none or it is about to end.
    ///
    /// # Errors
    /// The reason of Entra's error.
    pub async fn token(&self) -> Result<Secret, Fault> {
        let mut current = self.current.lock().await;
        if let Some((token, _)) = current.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Ok(token.clone());
        }
        let client = Client {
            tenant: &self.account.tenant,
            client_id: &self.account.client_id,
            credential: &self.account.credential,
            now_seconds: self.clock.now().0 / 1000,
            deadline: Instant::now() + REQUEST_TIMEOUT,
        };
        let granted = self.entra.client_credentials(client, &self.scope).await?;
        let until = Instant::now() + granted.expires_in.saturating_sub(MARGIN);
        *current = Some((granted.access_token.clone(), until));
        Ok(granted.access_token)
    }

    /// Forgets a token that a server has refused, unless there is a newer one.
    pub async fn forget(&self, refused: &Secret) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|(token, _)| token.expose() == refused.expose()) {
            *current = None;
        }
    }

    /// Entra and Graph, for requests with these tokens.
    pub fn entra(&self) -> &Entra {
        &self.entra
    }
}

/// Why there is no access token, in a line of the dialogue.
pub(super) fn token_problem(fault: &Fault) -> String {
    let code = fault.code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
    format!("! no access token for the mail account: {}{code}", fault.detail)
}

/// The failure when there is no access token, with the pause that Entra asks for.
pub(super) fn token_failure(fault: &Fault) -> Failure {
    let kind = match fault.reason {
        Reason::Timeout => EmailFailure::Timeout,
        Reason::NetworkError => EmailFailure::Connect,
        reason if reason.remedy() == Remedy::Wait => EmailFailure::Other,
        _ => EmailFailure::Auth,
    };
    Failure { pause: fault.retry_after, ..Failure::transport(kind) }
}
