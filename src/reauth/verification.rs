//! Verifies an admin consent by what probes find that the tenant grants afterwards.
//!
//! The callback of the admin consent page is unsigned: everybody with a link can send it, any number of times. So it only causes probes. Only
//! when the tenant's grants have changed since the sign-in began is a success recorded and the grace period for failures started. That ends
//! the link, so it happens at most once per link.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::complete::CALLBACK;
use super::{Reauthentication, Refusal, Registered};
use crate::domain::{Access, Audience, RESUMABLE, VERIFICATION_WINDOW, Verification};
use crate::entra::{Client, ResourceKey};
use crate::store::{Authorization, Stage, StoreError, Success, Unverified};

/// The time to determine what the tenant grants when a sign-in begins, because a browser is waiting.
const BEGIN: Duration = Duration::from_secs(8);

impl Reauthentication {
    /// Marks a sign-in as being verified by probes, because the admin consent callback is unsigned.
    pub(super) async fn verify_later(
        &self,
        row: &Authorization,
        registered: &Registered,
        tenant: Option<String>,
    ) -> Result<(), Refusal> {
        let ours =
            self.inner.entra.tenant_guid(&registered.token.tenant, Instant::now() + CALLBACK).await.ok();
        let foreign = matches!((&ours, &tenant), (Some(ours), Some(theirs)) if Uuid::try_parse(theirs).ok() != Uuid::try_parse(ours).ok());
        self.inner.store.end_authorization(&row.id, Stage::Verifying, foreign).await.map_err(|error| {
            tracing::error!(integration = %row.integration, %error, "cannot save a sign-in");
            Refusal::Storage
        })
    }

    /// Whether the tenant grants everything already when an admin consent begins. `last` is the result of the last probe; it may be minutes
    /// old, so Entra is asked. `None` where it cannot be determined, and for delegated access, where it is not needed.
    pub(super) async fn granted_already(&self, registered: &Registered, last: Option<bool>) -> Option<bool> {
        if registered.access == Access::Delegated {
            return None;
        }
        let now = self.ask_roles(registered).await;
        // The application's own tokens do not contain delegated permissions; for those, the last probe's
        // result is used.
        let delegated = registered.required.iter().any(|r| !r.delegated.is_empty());
        if now == Some(true) && delegated { last } else { now.or(last) }
    }

    /// Whether the application's own tokens contain every required role now.
    async fn ask_roles(&self, registered: &Registered) -> Option<bool> {
        let (entra, token) = (&self.inner.entra, &registered.token);
        let client = Client {
            tenant: &token.tenant,
            client_id: &token.client_id,
            credential: &registered.credential,
            now_seconds: self.inner.clock.now().0 / 1000,
            deadline: Instant::now() + BEGIN,
        };
        let mut wanted: Vec<(String, &[String])> = Vec::new();
        for required in registered.required.iter().filter(|r| !r.application.is_empty()) {
            wanted.push((
                ResourceKey::of(&required.resource).scope(&entra.cloud().graph_url),
                &required.application,
            ));
        }
        if wanted.is_empty() {
            wanted.push((entra.graph_scope(), &[]));
        }
        for (scope, required) in wanted {
            match entra.client_credentials(client, &scope).await {
                Ok(granted) => {
                    let roles = granted.roles?;
                    if required
                        .iter()
                        .any(|r| !roles.iter().any(|held| crate::domain::same_permission(held, r)))
                    {
                        return Some(false);
                    }
                }
                Err(fault)
                    if fault.reason.is_inconclusive() || fault.reason.audience() == Audience::Operators =>
                {
                    return None;
                }
                Err(_) => return Some(false),
            }
        }
        Some(true)
    }

    /// Re-authentications that are recent and not verified yet.
    pub async fn unverified(&self) -> Result<Vec<Unverified>, StoreError> {
        let now = self.inner.clock.now();
        self.inner.store.unverified(now.minus(RESUMABLE), now.plus(RESUMABLE)).await
    }

    /// Processes the result of a probe that began after a sign-in. Returns whether it has just verified an admin consent as a success.
    pub async fn verify(&self, seen: &Verification) -> bool {
        let integration = seen.integration.as_str();
        let rows = match self.inner.store.verifying().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(integration, %error, "cannot look up what is being verified");
                return false;
            }
        };
        let now = self.inner.clock.now();
        let mut renewed = false;
        for row in rows.iter().filter(|row| row.integration == integration) {
            let over = seen.last || row.used.is_some_and(|used| now.since(used) >= VERIFICATION_WINDOW);
            match seen.consent_holds {
                Some(true) if row.granted_before == Some(false) => {
                    renewed |= self.verified(row).await;
                }
                Some(true) => self.unchanged(row).await,
                Some(false) if over && row.foreign_tenant => {
                    self.count(row, &Refusal::WrongTenant, Vec::new()).await;
                }
                Some(false) if over => {
                    self.count(row, &Refusal::FewerPermissions(Vec::new()), Vec::new()).await;
                }
                None if over => self.count(row, &Refusal::Upstream, Vec::new()).await,
                Some(false) | None => {}
            }
        }
        if seen.passed || (seen.last && !renewed) {
            let since = if renewed { self.inner.clock.now() } else { seen.since };
            if let Err(error) = self.inner.store.proved(integration, since, self.inner.clock.now()).await {
                tracing::error!(integration, %error, "cannot save that a re-authentication was verified");
            }
        }
        renewed
    }

    /// Saves a success. Returns whether it is a new one.
    async fn verified(&self, row: &Authorization) -> bool {
        let subject = self.subject(&row.integration);
        let now = self.inner.clock.now();
        let success = Success {
            authorization: row.id.clone(),
            integration: row.integration.clone(),
            stamp: row.stamp,
            by: None,
            origin: row.origin.clone(),
            token: None,
            delivery: None,
            mails: subject.map(|s| s.announcements(&row.id, None, &row.origin, now)).unwrap_or_default(),
            at: now,
        };
        match self.save(success).await {
            Ok(()) => return true,
            // Begun with the same link in another tab, with the same result: both are one success.
            Err(Refusal::LinkDied) => {
                drop(self.inner.store.end_authorization(&row.id, Stage::Success, false).await);
            }
            Err(refusal) => self.count(row, &refusal, Vec::new()).await,
        }
        false
    }

    /// The tenant granted everything before the sign-in began, or that is not known: nothing was renewed, nothing is counted, and the link
    /// stays valid.
    async fn unchanged(&self, row: &Authorization) {
        tracing::info!(integration = %row.integration, "an admin consent changed nothing: the tenant granted everything before");
        if let Err(error) = self.inner.store.end_authorization(&row.id, Stage::Unchanged, false).await {
            tracing::error!(integration = %row.integration, %error, "cannot save how a sign-in ended");
        }
    }
}
