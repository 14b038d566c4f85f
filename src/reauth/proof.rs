//! What an admin consent was worth: what counts is what the tenant grants afterwards, as probes see it.

use std::time::Instant;

use uuid::Uuid;

use super::complete::CALLBACK;
use super::{Reauthentication, Refusal, Registered};
use crate::domain::Timestamp;
use crate::store::{Authorization, StoreError, Success, VERIFYING};

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
}
