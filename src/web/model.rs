//! What the pages and the API show of integrations.

use std::sync::Arc;

use super::commands::Commands;
use crate::domain::{Access, Check, ExternalSignIn, Health, IntegrationRecord, Outcome, Timestamp, one_line};
use crate::fleet::FleetEntry;

/// What the pages of re-authentication say of an integration.
#[derive(Debug, Clone)]
pub(super) struct IntegrationSummary {
    /// What the configuration says of it.
    pub(super) record: Arc<IntegrationRecord>,
    /// Its display name, fit for a sentence.
    pub(super) display_name: String,
    /// Display name of the application, fit for a sentence.
    pub(super) app: String,
    /// Tenant as configured, fit for a sentence.
    pub(super) tenant: String,
    /// What is held to be true of it.
    pub(super) health: Health,
    /// What the last probe saw.
    pub(super) checks: Vec<(Check, Outcome)>,
    /// When the last probe ended; `None` while it says nothing of a sign-in that came later.
    pub(super) last_probe: Option<Timestamp>,
    /// It was re-authenticated a moment ago, and further probes will verify that.
    pub(super) verifying: bool,
    /// Until when the tenant has asked for a pause.
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

    /// Whether the last probe saw enterprise app and consent as required; `None` when it could not, or when they are not checked.
    pub(super) fn granted(&self) -> Option<bool> {
        let outcome =
            |check| self.checks.iter().find(|(known, _)| *known == check).map(|(_, outcome)| *outcome);
        match (outcome(Check::EnterpriseApp)?, outcome(Check::Consent)?) {
            (Outcome::Fail(_), _) | (_, Outcome::Fail(_)) => Some(false),
            (Outcome::Pass, Outcome::Pass) => Some(true),
            _ => None,
        }
    }

    /// Nothing would change on the admin consent page: the whole organization has accepted everything already.
    pub(super) fn has_all_consent(&self) -> bool {
        let organization = self.record.access == Access::Application
            || matches!(self.record.external_sign_in, Some(ExternalSignIn::AdminConsent(_)));
        organization && self.granted() == Some(true)
    }
}
