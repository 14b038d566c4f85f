//! What the pages and the API know of integrations, and how they ask for it.

use std::sync::Arc;

use crate::domain::{Access, Check, CheckState, Day, Health, Outcome, PermissionState, Reason, Timestamp};
use crate::reauth::Subject;

/// What the pages say of an integration.
#[derive(Debug, Clone)]
pub struct SignInStatus {
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Delegated or application access.
    pub access: Access,
    /// Permissions that re-authentication asks for.
    pub permissions: Vec<String>,
    /// Where it is fixed, when not here.
    pub elsewhere: Option<ExternalSignIn>,
    /// Entra's page on which an administrator accepts everything, where application permissions need it besides a sign-in.
    pub admin_consent: Option<String>,
    /// What is held to be true of it.
    pub health: Health,
    /// What the last probe saw.
    pub checks: Vec<(Check, Outcome)>,
    /// When the last probe ended; `None` while it says nothing of a sign-in that came later.
    pub last_probe: Option<Timestamp>,
    /// It was re-authenticated a moment ago, and probes are owed to it.
    pub proving: bool,
    /// Until when the tenant has asked for a pause.
    pub waits_until: Option<Timestamp>,
}

impl SignInStatus {
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
        let organization = self.access == Access::Application
            || matches!(self.elsewhere, Some(ExternalSignIn::AdminConsent(_)));
        organization && self.granted() == Some(true)
    }
}

/// Where an integration is fixed, when not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalSignIn {
    /// On Entra's admin consent page.
    AdminConsent(String),
    /// On a page of the vendor's.
    Vendor(String),
}

/// What finds something of an integration by name.
pub type FindBy<T> = dyn Fn(&str) -> Option<T> + Send + Sync;

/// What does something for an integration that takes a while.
pub type FindLater<T> = dyn Fn(&str) -> std::pin::Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync;

/// What does something that takes a while.
pub type Later<T> = dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync;

/// What does something for an integration about a sign-in of that moment.
pub type Since = dyn Fn(&str, Timestamp) + Send + Sync;

/// What finds an integration by name.
pub type Find = FindBy<SignInStatus>;

/// What the monitor offers the pages.
pub struct Lookup {
    /// Every integration, for the status page.
    pub rows: Box<dyn Fn() -> Vec<Row> + Send + Sync>,
    /// When an integration is probed next.
    pub next_probe: Box<FindBy<Timestamp>>,
    /// Until when an integration waits because its tenant asked for a pause.
    pub paused_until: Box<FindBy<Timestamp>>,
    /// Everything that is known of an integration.
    pub detail: Box<FindBy<Detail>>,
    /// What the database remembers of an integration.
    pub records: Box<Remember>,
    /// Probes an integration soon, out of turn.
    pub probe: Box<dyn Fn(&str) + Send + Sync>,
    /// Probes an integration and waits for the end.
    pub probe_now: Box<FindLater<()>>,
    /// Finds an integration by name.
    pub find: Box<Find>,
    /// Probes an integration that was re-authenticated at this moment at once, and again while consent spreads.
    pub prove: Box<Since>,
    /// The same for one of which somebody merely says so: nothing is spared.
    pub verify: Box<Since>,
    /// What a sign-in is measured by.
    pub subject: Box<FindBy<Subject>>,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}

/// What the monitor holds of an integration.
#[derive(Debug, Clone)]
pub struct Detail {
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Name of the application in the configuration.
    pub app_name: String,
    /// Application id.
    pub client_id: String,
    /// Tenant as configured.
    pub tenant: String,
    /// The tenant's GUID, once it was resolved from another name.
    pub tenant_guid: Option<String>,
    /// Delegated or application access.
    pub access: Access,
    /// Name of its directory reader.
    pub reader: Option<String>,
    /// Why the reader cannot read, if it cannot.
    pub reader_fault: Option<Reason>,
    /// Configured labels.
    pub labels: Vec<(String, String)>,
    /// What is held to be true of it.
    pub health: Health,
    /// The enabled checks.
    pub enabled: Vec<Check>,
    /// What the last probe saw, check by check.
    pub checks: Vec<CheckState>,
    /// Required permissions as last known.
    pub permissions: Vec<PermissionState>,
    /// Groups seen last.
    pub groups_visible: Option<u32>,
    /// When the last probe ended.
    pub last_probe: Option<Timestamp>,
    /// Its length in milliseconds.
    pub duration_ms: u128,
    /// The last day.
    pub day: Day,
}

/// What the database remembers of an integration.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// What happened, newest first: kind, when, detail.
    pub events: Vec<(String, Timestamp, String)>,
    /// Who was told, newest first.
    pub mails: Vec<MailRecord>,
    /// Where the stored token came from, when it was last renewed, who consented.
    pub token: Option<(String, Timestamp, Option<String>)>,
    /// The file in which somebody else keeps the token.
    pub token_file: Option<String>,
    /// With what the application and its directory reader sign in.
    pub credentials: Vec<CredentialRecord>,
}

/// A credential, without its secret.
#[derive(Debug, Clone)]
pub struct CredentialRecord {
    /// The directory reader that has it; `None` for the application itself.
    pub reader: Option<String>,
    /// `client secret`, `certificate`, `none`.
    pub kind: &'static str,
    /// When it expires, as far as it says so itself.
    pub expires: Option<Timestamp>,
}

/// A mail about an integration.
#[derive(Debug, Clone)]
pub struct MailRecord {
    /// `alert`, `resolved`, …
    pub kind: String,
    /// To whom.
    pub recipient: String,
    /// When it was decided.
    pub created: Timestamp,
    /// When the mail server took it.
    pub sent: Option<Timestamp>,
    /// It was given up.
    pub given_up: bool,
    /// Why it waits, or was given up, in the mail server's words.
    pub problem: Option<String>,
}

/// Reads the records of an integration.
pub type Remember = FindLater<Records>;

/// What the status page shows of an integration.
#[derive(Debug, Clone)]
pub struct Row {
    /// Unique name.
    pub name: String,
    /// Its display name.
    pub display_name: String,
    /// Name of the application in the configuration.
    pub app_name: Arc<str>,
    /// Display name of the application.
    pub app: Arc<str>,
    /// Tenant as configured.
    pub tenant: String,
    /// What is held to be true of it.
    pub health: Health,
    /// What the last probe saw.
    pub checks: Vec<(Check, Outcome)>,
    /// Enabled checks that were never run.
    pub never_run: Vec<Check>,
    /// When the last probe ended.
    pub last_probe: Option<Timestamp>,
    /// The last day.
    pub day: Day,
}

impl Row {
    pub(super) fn reason(&self) -> Option<Reason> {
        match self.health {
            Health::Broken { reason, .. } => Some(reason),
            _ => self.checks.iter().find_map(|(_, outcome)| outcome.reason()),
        }
    }

    pub(super) fn matches(&self, words: &[String]) -> bool {
        let has = |text: &str, word: &String| text.to_lowercase().contains(word.as_str());
        words.iter().all(|w| {
            has(&self.name, w) || has(&self.display_name, w) || has(&self.tenant, w) || has(&self.app, w)
        })
    }
}
