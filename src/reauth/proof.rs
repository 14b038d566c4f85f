//! What an admin consent was worth: what counts is what the tenant grants afterwards, as probes see it.

use std::time::Instant;

use uuid::Uuid;

use super::complete::CALLBACK;
use super::{Ending, Reauthentication, Refusal, Registered};
use crate::domain::Timestamp;
use crate::store::{Authorization, StoreError, Success, VERIFYING};

/// The last probe of a proof starts two minutes after the sign-in.
const RECENT_MS: i64 = 150_000;

impl Reauthentication {
    /// The admin consent callback is unsigned: what counts is what the tenant grants from now on.
    pub(super) async fn verify_later(&self, row: &Authorization, registered: &Registered, tenant: Option<String>) -> Result<(), Refusal> {
        let ours = self.inner.entra.tenant_guid(&registered.token.tenant, Instant::now() + CALLBACK).await.ok();
        let foreign = matches!((&ours, &tenant), (Some(ours), Some(theirs)) if Uuid::try_parse(theirs).ok() != Uuid::try_parse(ours).ok());
        self.inner.store.end_authorization(&row.id, VERIFYING, foreign).await.map_err(|error| {
            tracing::error!(integration = %row.integration, %error, "cannot save a sign-in");
            Refusal::Storage
        })
    }

    /// Integrations to be proved: signed in to a moment ago, or still being verified.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn unproved(&self) -> Result<Vec<String>, StoreError> {
        let now = self.inner.clock.now();
        self.inner.store.unproved(Timestamp(now.0 - RECENT_MS)).await
    }

    /// A probe has seen whether enterprise app and consent are as required, or could not see it. After the `last` probe what does not hold
    /// is incomplete.
    pub async fn verify(&self, integration: &str, holds: Option<bool>, last: bool) {
        let rows = match self.inner.store.verifying().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(integration, %error, "cannot look up what is being verified");
                return;
            }
        };
        for row in rows.iter().filter(|row| row.integration == integration) {
            match holds {
                Some(true) => self.verified(row).await,
                Some(false) if last && row.foreign_tenant => self.count(row, &Refusal::WrongTenant).await,
                Some(false) if last => self.count(row, &Refusal::FewerPermissions(Vec::new())).await,
                None if last => self.count(row, &Refusal::Upstream).await,
                _ => {}
            }
        }
    }

    async fn verified(&self, row: &Authorization) {
        let success = Success {
            authorization: row.id.clone(),
            integration: row.integration.clone(),
            link_issued: row.link_issued,
            by: None,
            token: None,
            delivery: None,
            at: self.inner.clock.now(),
        };
        match self.save(success).await {
            Ok(()) => {}
            // Begun with the same link in another tab: it came to the same end, and is one success.
            Err(Refusal::LinkDied) => drop(self.inner.store.end_authorization(&row.id, Ending::Success.label(), false).await),
            Err(refusal) => self.count(row, &refusal).await,
        }
    }
}
