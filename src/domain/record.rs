//! What the configuration says of an integration.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alert::Notify;
use super::credential::CredentialState;
use super::integration::Access;
use super::notification::{Incident, LinkTarget};
use super::reason::{Check, Reason, Remedy};
use super::time::Timestamp;
use super::verdict::{IntegrationState, Verdict};

/// The properties of an integration that do not change from probe to probe. Texts that all integrations of an application share are stored
/// once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationRecord {
    /// Unique name.
    pub name: String,
    /// Shown to people.
    pub display_name: String,
    /// Name of the application in the configuration.
    pub app: Arc<str>,
    /// Display name of the application.
    pub app_display_name: Arc<str>,
    /// Application (client) id.
    pub client_id: Arc<str>,
    /// Tenant as configured: a GUID or a domain.
    pub tenant: String,
    /// Whose permissions it uses.
    pub access: Access,
    /// Name of its directory reader.
    pub reader: Option<Arc<str>>,
    /// Configured labels.
    pub labels: BTreeMap<String, String>,
    /// Enabled checks.
    pub checks: Vec<Check>,
    /// Who gets the link.
    pub admins: Vec<String>,
    /// Who gets the mails for its administrators.
    pub notify: Notify,
    /// Permissions that re-authentication asks for.
    pub permissions: Arc<[String]>,
    /// Where it is fixed, if not on Consentry's pages.
    pub external_sign_in: Option<ExternalSignIn>,
    /// Entra's page on which an administrator accepts all permissions, if application permissions need it besides a sign-in.
    pub admin_consent: Option<String>,
}

/// Where an integration is fixed, if not on Consentry's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalSignIn {
    /// On Entra's admin consent page.
    AdminConsent(String),
    /// On a page of the vendor.
    Vendor(String),
}

impl IntegrationRecord {
    /// A delegated integration without a directory reader, for tests.
    #[cfg(test)]
    pub(crate) fn example(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            display_name: name.to_uppercase(),
            app: "sequr".into(),
            app_display_name: "Sequr".into(),
            client_id: "c".into(),
            tenant: "t.example".to_owned(),
            access: Access::Delegated,
            reader: None,
            labels: BTreeMap::new(),
            checks: vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess],
            admins: Vec::new(),
            notify: Notify::Admins,
            permissions: Vec::new().into(),
            external_sign_in: None,
            admin_consent: None,
        }
    }

    /// Tenant and client id as configured. A saved state with another identity is not used.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.tenant, self.client_id)
    }

    /// Where the button of a mail leads.
    fn link(&self) -> LinkTarget {
        match &self.external_sign_in {
            None => LinkTarget::Builtin,
            Some(ExternalSignIn::AdminConsent(url) | ExternalSignIn::Vendor(url)) => {
                LinkTarget::Url(url.clone())
            }
        }
    }

    /// The incident of a mail about this integration, without its state.
    pub fn named(&self, reason: Reason, at: Timestamp) -> Incident {
        Incident {
            integration: self.name.clone(),
            display_name: self.display_name.clone(),
            app: self.app_display_name.to_string(),
            app_name: self.app.to_string(),
            client_id: self.client_id.to_string(),
            tenant: self.tenant.clone(),
            access: self.access,
            reason,
            items: Vec::new(),
            code: None,
            request_id: None,
            restorable_until: None,
            permissions: Vec::new(),
            since: at,
            at,
            link: LinkTarget::None,
            undeliverable: None,
            brake: None,
            by: None,
            origin: None,
            affected: None,
            reminds: false,
            instead_of: Vec::new(),
            renewed: None,
        }
    }

    /// The incident of a mail to the operators about a credential.
    pub fn about_credential(&self, credential: &CredentialState, reason: Reason, now: Timestamp) -> Incident {
        let since = credential.ends.map_or(now, |ends| ends.min(now));
        Incident { items: vec![credential.line(now)], since, ..self.named(reason, now) }
    }

    /// The incident of a mail about this integration, whose state shows `reason`.
    pub fn incident(&self, state: &IntegrationState, reason: Reason, now: Timestamp) -> Incident {
        let shows = state.checks.iter().find(|c| c.outcome.reason() == Some(reason));
        let details = shows.map(|c| c.details.clone()).unwrap_or_default();
        let since = match state.verdict {
            Verdict::Broken { since, .. } => since,
            _ => state.unknown_since.or(state.failing_since).unwrap_or(now),
        };
        // Only the note says which of our own files cannot be read.
        let is_ours = reason == Reason::CredentialUnreadable;
        Incident {
            items: if is_ours { details.note.into_iter().collect() } else { details.items },
            code: details.code,
            request_id: details.request_id,
            restorable_until: details.restorable_until,
            permissions: self.permissions.to_vec(),
            since,
            link: if reason.remedy() == Remedy::Reauthenticate { self.link() } else { LinkTarget::None },
            ..self.named(reason, now)
        }
    }
}
