//! One integration as the evaluator holds it, and what is logged when it changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::{
    CredentialExpiry, Incident, IntegrationState, LinkTarget, OpenAlert, Reason, Remedy, Timestamp, Verdict,
    suffers,
};
use crate::metrics::IntegrationLabels;
use crate::store::SavedIntegration;

/// What the evaluator needs to know of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationRecord {
    /// What is published.
    pub facts: IntegrationLabels,
    /// Tenant and client id as configured; a saved state of another identity is not taken over.
    pub identity: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Display name of the application.
    pub app_display_name: Arc<str>,
    /// Name of its directory reader.
    pub reader: Option<String>,
    /// Who gets the link.
    pub admins: Vec<String>,
    /// Permissions that re-authentication asks for.
    pub permissions: Arc<[String]>,
    /// Where the mail's button leads.
    pub link: LinkTarget,
}

/// What the evaluator holds of an integration.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub(super) watched: Arc<IntegrationRecord>,
    pub(super) state: IntegrationState,
    pub(super) tenant_guid: Option<String>,
    pub(super) credentials: Vec<CredentialExpiry>,
    pub(super) alert: Option<OpenAlert>,
    pub(super) causes: BTreeSet<String>,
    /// When the last probe of this process ended, on a clock that nobody sets.
    pub(super) probed: Option<Timestamp>,
}

impl Tracked {
    /// Begins with what was saved, if that was about the same tenant and application, and as a member of the causes that know it.
    pub(super) fn adopt(
        watched: IntegrationRecord,
        saved: Option<SavedIntegration>,
        causes: Option<BTreeSet<String>>,
    ) -> Self {
        let (state, tenant_guid, alert) = match saved.filter(|s| s.identity == watched.identity) {
            Some(saved) => (saved.state, saved.tenant_guid, saved.alert),
            None => (IntegrationState::default(), None, None),
        };
        let causes = causes.unwrap_or_default();
        let watched = Arc::new(watched);
        Self {
            state,
            tenant_guid,
            credentials: Vec::new(),
            alert,
            causes,
            probed: None,
            watched: Arc::clone(&watched),
        }
        .watching(watched)
    }

    /// The same with other properties. A check that was switched off leaves with its results.
    pub(super) fn watching(mut self, watched: Arc<IntegrationRecord>) -> Self {
        self.state.checks.retain(|c| watched.facts.checks.contains(&c.check));
        self.watched = watched;
        self
    }

    /// As it is saved.
    pub(super) fn saved(&self) -> SavedIntegration {
        SavedIntegration {
            name: self.watched.facts.name.clone(),
            identity: self.watched.identity.clone(),
            state: self.state.clone(),
            tenant_guid: self.tenant_guid.clone(),
            alert: self.alert.clone(),
        }
    }

    /// Why and where nothing is known of it: see [`suffers`].
    pub(super) fn suffers(&self) -> Option<(Reason, String)> {
        suffers(&self.state, &self.watched.tenant)
    }

    /// What is published, with the tenant's GUID once it is known.
    pub(super) fn facts(&self) -> IntegrationLabels {
        let tenant = self.tenant_guid.clone().unwrap_or_else(|| self.watched.facts.tenant.clone());
        IntegrationLabels { tenant, credentials: self.credentials.clone(), ..self.watched.facts.clone() }
    }

    /// What a mail about it says.
    pub(super) fn incident(&self, reason: Reason, now: Timestamp) -> Incident {
        let watched = &self.watched;
        let details = self
            .state
            .checks
            .iter()
            .find(|c| c.outcome.reason() == Some(reason))
            .map(|c| c.details.clone())
            .unwrap_or_default();
        let since = match self.state.verdict {
            Verdict::Broken { since, .. } => since,
            _ => self.state.unknown_since.or(self.state.failing_since).unwrap_or(now),
        };
        Incident {
            integration: watched.facts.name.clone(),
            display_name: watched.facts.display_name.clone(),
            app: watched.app_display_name.to_string(),
            client_id: watched.facts.client_id.to_string(),
            tenant: watched.tenant.clone(),
            access: watched.facts.access,
            reason,
            // What of ours cannot be read is named by the note alone.
            items: if reason == Reason::CredentialUnreadable {
                details.note.into_iter().collect()
            } else {
                details.items
            },
            code: details.code,
            request_id: details.request_id,
            restorable_until: details.restorable_until,
            permissions: watched.permissions.to_vec(),
            since,
            at: now,
            link: if reason.remedy() == Remedy::Reauthenticate {
                watched.link.clone()
            } else {
                LinkTarget::None
            },
            undeliverable: None,
            by: None,
            origin: None,
            affected: None,
            renewed: None,
        }
    }
}

/// One line for every change worth reading; probes that change nothing are silent.
pub(super) fn log_checks(name: &str, before: &IntegrationState, after: &IntegrationState) {
    for check in &after.checks {
        let old = before.check(check.check).map(|c| c.outcome);
        if old == Some(check.outcome) {
            continue;
        }
        let (result, label) = (check.outcome.label(), check.check.label());
        match check.outcome.reason() {
            None if old.is_none() => {
                tracing::debug!(integration = name, check = label, result, "check passes");
            }
            None => tracing::info!(integration = name, check = label, result, "check passes"),
            Some(reason) => tracing::warn!(
                integration = name,
                check = label,
                result,
                reason = reason.label(),
                code = check.details.code.as_deref().unwrap_or_default(),
                request_id = check.details.request_id.as_deref().unwrap_or_default(),
                items = check.details.items.join(","),
                note = check.details.note.as_deref().unwrap_or_default(),
                "check does not pass"
            ),
        }
    }
}

pub(super) fn log_verdict(name: &str, before: Verdict, after: Verdict) {
    match (before, after) {
        (old, new) if old == new => {}
        (_, Verdict::Broken { reason, .. }) => {
            tracing::warn!(
                integration = name,
                reason = reason.label(),
                remedy = reason.remedy().label(),
                "integration is broken"
            );
        }
        (Verdict::Broken { .. }, _) => tracing::info!(integration = name, "integration works again"),
        _ => tracing::debug!(integration = name, "integration is healthy"),
    }
}
