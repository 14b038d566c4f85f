//! What a probe found, before it is judged.

use std::time::Duration;

use super::credential::{ListedCredential, OwnCredential, ReaderCredentials, Registration};
use super::provisioning::ProvisioningJob;
use super::reason::Reason;
use super::time::Timestamp;

/// A request that failed: with an error response, or without any response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What the error means.
    pub reason: Reason,
    /// `AADSTS…` or Graph's error code, if there was one.
    pub code: Option<String>,
    /// Entra's correlation id or Graph's request id.
    pub request_id: Option<String>,
    /// One sentence for operators; never a token, never a secret.
    pub detail: String,
    /// How long the response asks to wait.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault without protocol evidence.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, code: None, request_id: None, detail: detail.into(), retry_after: None }
    }
}

impl Fault {
    /// Whether the tenant asked for a pause. An error with its own meaning is not a pause, whatever headers it has.
    pub fn asks_to_wait(&self) -> bool {
        self.reason == Reason::Throttled || (self.retry_after.is_some() && self.reason.is_inconclusive())
    }
}

/// The enterprise application as the directory shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The service principal exists.
    Present {
        /// `accountEnabled`.
        enabled: bool,
        /// `isDisabled` or `disabledByMicrosoftStatus`: switched off by the owner or by Microsoft.
        blocked: Option<String>,
    },
    /// It is among the deleted items.
    Deleted {
        /// Until when it can be restored (30 days after deletion).
        restorable_until: Option<Timestamp>,
    },
    /// It is not there.
    Absent,
    /// It is not among the live ones, and the request for the deleted ones failed or contradicts that.
    Unclear(Fault),
}

/// One delegated grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeGrant {
    /// Object id of the one user it is for; `None` for everybody.
    pub principal: Option<String>,
    /// Permission values.
    pub scopes: Vec<String>,
}

/// What the directory lists as granted on one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceGrants {
    /// The resource as the configuration names it, or its id when it is not a required one.
    pub resource: String,
    /// Delegated grants.
    pub delegated: Vec<ScopeGrant>,
    /// Application permission values.
    pub application: Vec<String>,
}

/// The directory's answers to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The service principal.
    pub presence: Result<Presence, Fault>,
    /// Object id of the service principal, if it is present.
    pub object_id: Option<String>,
    /// `oauth2PermissionGrants`.
    pub delegated: Result<Vec<ResourceGrants>, Fault>,
    /// `appRoleAssignments`.
    pub application: Result<Vec<ResourceGrants>, Fault>,
}

impl Directory {
    /// A directory that could not be read at all: every part has this fault.
    pub fn failed(fault: Fault) -> Self {
        Self {
            presence: Err(fault.clone()),
            object_id: None,
            delegated: Err(fault.clone()),
            application: Err(fault),
        }
    }

    /// Whether it says what happened to the application: present, deleted, or not there.
    pub const fn knows_presence(&self) -> bool {
        matches!(self.presence, Ok(Presence::Present { .. } | Presence::Deleted { .. } | Presence::Absent))
    }

    /// The faults of its answers.
    pub fn faults(&self) -> Vec<&Fault> {
        let presence = match &self.presence {
            Err(fault) | Ok(Presence::Unclear(fault)) => Some(fault),
            Ok(_) => None,
        };
        [presence, self.delegated.as_ref().err(), self.application.as_ref().err()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The fault with which the tenant asked for a pause, if it did.
    pub fn pause(&self) -> Option<Fault> {
        self.faults().into_iter().find(|f| f.asks_to_wait()).cloned()
    }
}

/// Roles in an app-only token of the application itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleEvidence {
    /// The resource as the configuration names it.
    pub resource: String,
    /// Role values, `None` if the token could not be read; or why there is no token for this resource.
    pub roles: Result<Option<Vec<String>>, Fault>,
}

/// The result of using the stored refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnToken {
    /// The integration does not use one.
    NotUsed,
    /// None is stored.
    Missing,
    /// Entra rejected it.
    Rejected(Fault),
    /// Entra issued a new access token.
    Granted {
        /// Per required resource: the scopes, or why they are unknown.
        scopes: Vec<(String, Result<Vec<String>, Fault>)>,
        /// Object id of the user who signed in.
        principal: Option<String>,
    },
}

/// A required group and whether it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredGroup {
    /// As configured.
    pub name: String,
    /// Object ids of the matching groups that the integration's own token sees: none if it is not visible, several if several groups have
    /// the required name. A group that is required by its id matches that id only.
    pub ids: Vec<String>,
}

impl RequiredGroup {
    /// Whether the integration's own token sees it.
    pub fn visible(&self) -> bool {
        !self.ids.is_empty()
    }
}

/// Groups that the integration's own token sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// Counted up to 1000.
    pub visible: u32,
    /// The required ones.
    pub required: Vec<RequiredGroup>,
}

/// What a probe found about credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialEvidence {
    /// Of the app registration.
    pub registration: Result<Registration, Fault>,
    /// SAML signing certificates of the enterprise application.
    pub signing: Result<Vec<ListedCredential>, Fault>,
    /// What the daemon authenticates with as the application.
    pub own: OwnCredential,
    /// The same of the directory reader.
    pub reader: Option<ReaderCredentials>,
    /// The registration is in another tenant than the integration: its faults are not those of the integration's tenant.
    pub is_elsewhere: bool,
}

impl CredentialEvidence {
    /// The faults in it.
    pub fn faults(&self) -> Vec<&Fault> {
        [self.registration.as_ref().err(), self.signing.as_ref().err()].into_iter().flatten().collect()
    }

    /// Those of the integration's own tenant.
    pub fn own_faults(&self) -> Vec<&Fault> {
        let registration = self.registration.as_ref().err().filter(|_| !self.is_elsewhere);
        [registration, self.signing.as_ref().err()].into_iter().flatten().collect()
    }
}

/// Everything that one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Through a directory reader; `None` without one.
    pub directory: Option<Directory>,
    /// App-only tokens of the application itself; `None` when not asked for.
    pub app_only: Option<Result<Vec<RoleEvidence>, Fault>>,
    /// The refresh token.
    pub own_token: OwnToken,
    /// Groups; `None` if there was no token to ask with, or if the check is off.
    pub groups: Option<Result<Groups, Fault>>,
    /// Synchronization jobs; `None` if they were not requested: the check is off, or there is no enterprise application to have any.
    pub jobs: Option<Result<Vec<ProvisioningJob>, Fault>>,
    /// Credentials; `None` if the check is off.
    pub credentials: Option<CredentialEvidence>,
    /// When it was gathered.
    pub at: Timestamp,
}

impl Evidence {
    /// Nothing was requested, for tests.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            directory: None,
            app_only: None,
            own_token: OwnToken::NotUsed,
            groups: None,
            jobs: None,
            credentials: None,
            at: Timestamp(0),
        }
    }

    /// Every fault in it.
    pub fn faults(&self) -> Vec<&Fault> {
        let directory = self.directory.iter().flat_map(|d| d.faults().into_iter().map(Some));
        let own = match &self.own_token {
            OwnToken::Rejected(fault) => vec![Some(fault)],
            OwnToken::Granted { scopes, .. } => scopes.iter().map(|(_, s)| s.as_ref().err()).collect(),
            OwnToken::NotUsed | OwnToken::Missing => Vec::new(),
        };
        let app_only = self.app_only.iter().flat_map(|a| match a {
            Ok(roles) => roles.iter().map(|r| r.roles.as_ref().err()).collect(),
            Err(fault) => vec![Some(fault)],
        });
        let groups = self.groups.iter().map(|g| g.as_ref().err());
        let jobs = self.jobs.iter().map(|j| j.as_ref().err());
        let credentials = self.credentials.iter().flat_map(|c| c.own_faults().into_iter().map(Some));
        directory.chain(own).chain(app_only).chain(groups).chain(jobs).chain(credentials).flatten().collect()
    }

    /// The longest pause that a response asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.faults().iter().filter_map(|f| f.retry_after).max()
    }
}
