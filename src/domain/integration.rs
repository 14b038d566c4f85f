//! An integration as the rules see it: how it gets its tokens and what it must be able to do.

use std::sync::Arc;
use std::time::Duration;

use super::reason::Check;
use super::time::Timestamp;

/// Whose permissions the integration uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The token of the person who consented.
    Delegated,
    /// Client credentials: the application's own permissions.
    Application,
}

impl Access {
    /// The word in configuration and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delegated => "delegated",
            Self::Application => "application",
        }
    }
}

/// How a permission is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// An `oAuth2PermissionGrant`.
    Delegated,
    /// An `appRoleAssignment`.
    Application,
}

impl Grant {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delegated => "delegated",
            Self::Application => "application",
        }
    }
}

/// Permissions required of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredPermissions {
    /// `microsoft_graph`, an app id, or a service principal name, as configured.
    pub resource: String,
    /// Delegated permission values, such as `Group.Read.All`.
    pub delegated: Vec<String>,
    /// Application permission values.
    pub application: Vec<String>,
}

/// A group that must be visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRef {
    /// By object id.
    Id(String),
    /// By display name.
    Name(String),
}

impl GroupRef {
    /// As the configuration names it.
    pub fn text(&self) -> &str {
        match self {
            Self::Id(text) | Self::Name(text) => text,
        }
    }
}

/// What `group_access` requires besides a successful response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPolicy {
    /// Fewer visible groups are a failure.
    pub minimum: u32,
    /// Groups that must be visible.
    pub required: Vec<GroupRef>,
}

/// What a diagnosis needs to know of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    /// Whose permissions it uses.
    pub access: Access,
    /// Enabled checks, in the order of [`Check::ALL`].
    pub checks: Vec<Check>,
    /// What must be granted; shared by all integrations of an application.
    pub required: Arc<[RequiredPermissions]>,
    /// Whether a permission that is not required makes the check fail.
    pub unexpected_fails: bool,
    /// What `group_access` requires.
    pub groups: GroupPolicy,
    /// How long before the end of a credential operators are warned. Zero: not at all.
    pub credential_warning: Duration,
}

/// Scopes of OpenID Connect itself: re-authentication always asks for them, so they are never "unexpected".
pub const OPENID_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// Permission values compare without case (Microsoft Graph, `oauth2permissiongrant.md`, and observed responses).
pub fn same_permission(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// What a sign-in asks for besides the required permissions: the identity of the user, and a refresh token.
pub const SIGN_IN_SCOPES: [&str; 3] = ["openid", "profile", "offline_access"];

/// When a certificate of ours expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialExpiry {
    /// A certificate's SHA-1 thumbprint in capital hexadecimal digits, as the Entra admin center shows it.
    pub key_id: String,
    /// When it expires.
    pub at: Timestamp,
}
