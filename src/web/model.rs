//! What the pages of re-authentication show of an integration.

use std::sync::Arc;

use super::commands::Commands;
use crate::domain::{Access, Check, ExternalSignIn, Health, IntegrationRecord, Outcome, Timestamp, one_line};
use crate::fleet::FleetEntry;

/// What the pages of re-authentication show of an integration.
#[derive(Debug, Clone)]
pub(super) struct IntegrationSummary {
    /// What the configuration says of it.
    pub(super) record: Arc<IntegrationRecord>,
    /// Its display name on one line, truncated.
    pub(super) display_name: String,
    /// Display name of the application on one line, truncated.
    pub(super) app: String,
    /// Tenant as configured, on one line, truncated.
    pub(super) tenant: String,
    /// Its confirmed state.
    pub(super) health: Health,
    /// The results of the last probe.
    pub(super) checks: Vec<(Check, Outcome)>,
    /// When the last probe ended; `None` when that probe began before the latest sign-in.
    pub(super) last_probe: Option<Timestamp>,
    /// Whether a recent re-authentication is still being verified by further probes.
    pub(super) verifying: bool,
    /// Until when Microsoft asked for a pause for the tenant.
    pub(super) waits_until: Option<Timestamp>,
}

impl IntegrationSummary {
    pub(super) fn of(entry: &FleetEntry, commands: &dyn Commands) -> Self {
        let record = &entry.record;
        let verification = commands.verification(&record.name);
        Self {
            display_name: one_line(&record.display_name, 120),
            app: one_line(&record.app_display_name, 120),
            tenant: one_line(&record.tenant, 253),
            health: entry.state.health(&record.checks),
            checks: entry.outcomes().collect(),
            last_probe: entry.state.last_probe.filter(|_| verification != Some(false)),
            verifying: verification.is_some(),
            waits_until: commands.paused_until(&record.name),
            record: Arc::clone(record),
        }
    }

    /// Whether enterprise app and consent passed in the last probe; `None` when their result is unknown or they are not checked.
    pub(super) fn granted(&self) -> Option<bool> {
        let outcome =
            |check| self.checks.iter().find(|(known, _)| *known == check).map(|(_, outcome)| *outcome);
        match (outcome(Check::EnterpriseApp)?, outcome(Check::Consent)?) {
            (Outcome::Fail(_), _) | (_, Outcome::Fail(_)) => Some(false),
            (Outcome::Pass, Outcome::Pass) => Some(true),
            _ => None,
        }
    }

    /// Whether the admin consent page would change nothing, because the whole organization has accepted everything already.
    pub(super) fn has_all_consent(&self) -> bool {
        let organization = self.record.access == Access::Application
            || matches!(self.record.external_sign_in, Some(ExternalSignIn::AdminConsent(_)));
        organization && self.granted() == Some(true)
    }
}
