//! What the simulated cloud holds: app registrations, tenants, and the objects inside them.
//!
//! Plain data and look-ups without HTTP. [`crate::actions`] changes it; [`crate::login`] and [`crate::graph`] respond from it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

/// Application id of Microsoft Graph, the same in every tenant and cloud.
pub const GRAPH_APP_ID: &str = "00000003-0000-0000-c000-000000000000";

/// Permissions of Microsoft Graph that the simulator offers: value, id of the app role, id of the scope,
/// and whether only an administrator may consent to the scope.
/// Ids as published in Microsoft's permissions reference.
pub const GRAPH_PERMISSIONS: &[(&str, Option<&str>, Option<&str>, bool)] = &[
    (
        "Application.Read.All",
        Some("9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30"),
        Some("c79f8feb-a9db-4090-85f9-90d820caa0eb"),
        true,
    ),
    (
        "Directory.Read.All",
        Some("7ab1d382-f21e-4acd-a863-ba3e13f7da61"),
        Some("06da0dbc-49e2-44d2-8312-53f166ab848a"),
        true,
    ),
    (
        "Group.Read.All",
        Some("5b567255-7703-4780-807c-7be8301ae99b"),
        Some("5f8c59db-677d-491f-a6b8-5f174b11ec1d"),
        true,
    ),
    (
        "GroupMember.Read.All",
        Some("98830695-27a2-44f7-8c18-0c3ebc9698f6"),
        Some("bc024368-1153-4739-b217-4326f2e966d0"),
        true,
    ),
    (
        "Synchronization.Read.All",
        Some("5ba43d2f-fa88-4db2-bd1c-a67c5f0fb1ce"),
        Some("7aa02aeb-824f-4fbe-a3f7-611f751f5b55"),
        true,
    ),
    (
        "Organization.Read.All",
        Some("498476ce-e0fe-48b0-b801-37ba7e2685c6"),
        Some("4908d5b9-3fb2-4b1e-9336-1888b7937185"),
        true,
    ),
    ("Application.ReadWrite.OwnedBy", Some("18a4783c-866b-4cc7-a460-3d5e5662c884"), None, true),
    ("User.Read", None, Some("e1fe6dd8-ba31-4d61-89e7-88639da4683d"), false),
    ("openid", None, Some("37f7f235-527c-4136-accd-4a02d197296e"), false),
    ("profile", None, Some("14dad69e-099b-42c9-810b-d002981feec1"), false),
    ("email", None, Some("64a6cdd6-aab1-4aaf-94b8-3cc8405e90d0"), false),
    ("offline_access", None, Some("7427e0e9-2fba-42fe-b0c0-848c9e6a8182"), false),
];

/// A permission that a resource offers: value, id of the app role, id of the scope.
pub type Offer = (String, Option<Uuid>, Option<Uuid>);

/// A client secret of a registration.
#[derive(Debug, Clone)]
pub struct Secret {
    /// `keyId`.
    pub key_id: Uuid,
    /// `displayName`.
    pub name: String,
    /// The secret itself.
    pub value: String,
    /// When it stops working.
    pub expires: Timestamp,
}

/// A federated identity credential of a registration: tokens of another issuer that count as its client assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federated {
    /// `name`, unique in the registration.
    pub name: String,
    /// `iss` of accepted tokens.
    pub issuer: String,
    /// `sub` of accepted tokens.
    pub subject: String,
    /// `aud` of accepted tokens.
    pub audience: String,
}

/// A managed identity of the machine on which the client runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Client id of a user-assigned identity; `None` for the system-assigned one.
    pub client_id: Option<Uuid>,
    /// `sub` of its tokens: the object id of its service principal.
    pub subject: String,
}

/// The SAML signing certificates of a service principal, as raw Graph JSON.
#[derive(Debug, Clone, Default)]
pub struct Signing {
    /// `keyCredentials`.
    pub key_credentials: Vec<serde_json::Value>,
    /// `passwordCredentials`.
    pub password_credentials: Vec<serde_json::Value>,
    /// `preferredTokenSigningKeyThumbprint`.
    pub preferred_thumbprint: Option<String>,
}

/// An app registration: exists once, in its home tenant, and is installed into others as a service principal.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// Application (client) id.
    pub app_id: Uuid,
    /// Shown on consent pages.
    pub name: String,
    /// Home tenant: only there the application object can be read. `None` for a registration that every tenant shows.
    pub home: Option<Uuid>,
    /// Accepted client secrets; empty together with `certificates` and `federated` means a public client.
    pub secrets: Vec<Secret>,
    /// Accepted client certificates, DER.
    pub certificates: Vec<Vec<u8>>,
    /// Accepted tokens of other issuers.
    pub federated: Vec<Federated>,
    /// Shown as `passwordCredentials` of the application instead of the entries of `secrets`.
    pub raw_password_credentials: Option<Vec<serde_json::Value>>,
    /// Shown as `keyCredentials` of the application instead of the entries of `certificates`.
    pub raw_key_credentials: Option<Vec<serde_json::Value>>,
    /// Redirect URIs of platform "web".
    pub redirect_uris: Vec<String>,
    /// `requiredResourceAccess`: for each resource app id, the delegated and the application permissions that `.default` consents to.
    pub required: Vec<RequiredAccess>,
    /// The owner deactivated the registration for every tenant (`isDisabled`).
    pub deactivated: bool,
    /// Permissions that this app offers as a resource: value, role id, scope id.
    pub offers: Vec<Offer>,
    /// `servicePrincipalNames` besides the app id.
    pub names: Vec<String>,
}

impl Registration {
    /// Whether it authenticates with a secret, a certificate or a token of another issuer.
    pub fn is_confidential(&self) -> bool {
        !self.secrets.is_empty() || !self.certificates.is_empty() || !self.federated.is_empty()
    }

    /// The first key id that no secret has, counted from the application id: the same in every run.
    pub fn free_key_id(&self) -> Uuid {
        let numbered = |number: usize| Uuid::from_u128(self.app_id.as_u128() ^ number as u128);
        let mut number = self.secrets.len() + 1;
        while self.secrets.iter().any(|s| s.key_id == numbered(number)) {
            number += 1;
        }
        numbered(number)
    }
}

/// The permissions for one resource that a registration declares.
#[derive(Debug, Clone)]
pub struct RequiredAccess {
    /// App id of the resource.
    pub resource: Uuid,
    /// Delegated permission values.
    pub delegated: Vec<String>,
    /// Application permission values.
    pub application: Vec<String>,
}

/// A service principal ("enterprise application") in one tenant.
#[derive(Debug, Clone)]
pub struct ServicePrincipal {
    /// Object id; a new one is used after a permanent deletion.
    pub id: Uuid,
    /// The registration behind it.
    pub app_id: Uuid,
    /// `accountEnabled`.
    pub enabled: bool,
    /// `disabledByMicrosoftStatus`.
    pub disabled_by_microsoft: Option<String>,
    /// Set while it is among the deleted items.
    pub deleted: Option<Timestamp>,
    /// SAML signing certificates; with them `preferredSingleSignOnMode` is `saml`.
    pub signing: Option<Signing>,
}

/// An `oAuth2PermissionGrant`.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Opaque id.
    pub id: String,
    /// Object id of the client service principal.
    pub client: Uuid,
    /// Object id of the resource service principal.
    pub resource: Uuid,
    /// `None` for an `AllPrincipals` grant.
    pub principal: Option<Uuid>,
    /// Separated by spaces, with the leading space that Entra's grants have.
    pub scope: String,
    /// Before this time the token endpoint does not know the grant yet.
    pub effective: Timestamp,
}

/// An `appRoleAssignment`.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Opaque id.
    pub id: String,
    /// Object id of the holder.
    pub principal: Uuid,
    /// Object id of the resource.
    pub resource: Uuid,
    /// Role id.
    pub role: Uuid,
    /// When it was made.
    pub created: Timestamp,
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// Object id.
    pub id: Uuid,
    /// `userPrincipalName`.
    pub upn: String,
    /// Display name.
    pub name: String,
    /// May consent for the organisation.
    pub admin: bool,
    /// `accountEnabled`.
    pub enabled: bool,
    /// Deleted from the directory.
    pub deleted: bool,
    /// Refresh tokens issued before this time are revoked.
    pub tokens_valid_from: Timestamp,
    /// `userType` is `Guest`: an account that another organization manages.
    pub guest: bool,
    /// Template ids of the directory roles that the account holds.
    pub roles: Vec<String>,
    /// Names of groups that the account does not see.
    pub blind_to: Vec<String>,
}

/// Template id of Global Administrator, as published in Microsoft's list of built-in roles.
pub const GLOBAL_ADMINISTRATOR: &str = "62e90394-69f5-4237-9190-012177145e10";

/// Which optional claims tokens contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OptionalClaims {
    /// `acct` in id_tokens.
    pub acct: bool,
    /// `wids` in id_tokens.
    pub wids: bool,
    /// `wids` in access tokens.
    pub access_wids: bool,
}

/// A group.
#[derive(Debug, Clone)]
pub struct Group {
    /// Object id.
    pub id: Uuid,
    /// Display name.
    pub name: String,
    /// Not listed for anybody (lost role, hidden by policy).
    pub hidden: bool,
}

/// A refresh token as the token endpoint remembers it.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    /// Tenant of the grant.
    pub tenant: Uuid,
    /// Client it was issued to.
    pub app_id: Uuid,
    /// User who consented.
    pub user: Uuid,
    /// Time of issue.
    pub issued: Timestamp,
    /// Why the token does not work any more.
    pub dead: Option<TokenDeath>,
}

/// Why a refresh token stopped working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenDeath {
    /// Damaged: AADSTS9002313.
    Corrupted,
    /// Unused for too long: AADSTS700082.
    Expired,
    /// Sessions revoked: AADSTS50173.
    Revoked,
}

/// An authorization code.
#[derive(Debug, Clone)]
pub struct Code {
    /// Tenant of the request.
    pub tenant: Uuid,
    /// Client of the request.
    pub app_id: Uuid,
    /// Who signed in.
    pub user: Uuid,
    /// Redirect URI of the request.
    pub redirect_uri: String,
    /// `code_challenge`, S256.
    pub challenge: Option<String>,
    /// `nonce`.
    pub nonce: Option<String>,
    /// Requested scopes.
    pub scope: String,
    /// Codes are valid for ten minutes.
    pub expires: Timestamp,
    /// Codes can be redeemed once.
    pub used: bool,
    /// To whom the account belongs.
    pub account: Account,
}

/// To whom an account belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Account {
    /// To the tenant itself.
    #[default]
    Own,
    /// To another organization.
    Foreign,
    /// A personal Microsoft account.
    Personal,
}

/// What is wrong with the id_tokens that are issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdTokenFlaw {
    /// There is no id_token.
    Missing,
    /// Another nonce.
    Nonce,
    /// The audience is another client.
    Audience,
    /// Another issuer.
    Issuer,
    /// It has expired.
    Expired,
    /// The signature does not match.
    Signature,
    /// `alg` is `none`.
    Unsigned,
    /// It is signed with a key that is not published.
    UnknownKey,
}

/// One directory.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    /// GUID.
    pub id: Uuid,
    /// Verified domain.
    pub domain: String,
    /// Display name of the organisation.
    pub name: String,
    /// Service principals, deleted ones included.
    pub principals: Vec<ServicePrincipal>,
    /// Delegated grants.
    pub grants: Vec<Grant>,
    /// App role assignments.
    pub assignments: Vec<Assignment>,
    /// Users.
    pub users: Vec<User>,
    /// Groups.
    pub groups: Vec<Group>,
    /// Every refresh for a user requires MFA (AADSTS50076).
    pub demand_mfa: bool,
    /// Conditional Access blocks token issuance for users (AADSTS53003).
    pub block_users: bool,
    /// Conditional Access for workload identities blocks app-only tokens (AADSTS53003).
    pub block_apps: bool,
    /// User consent is switched off: only administrators consent (AADSTS90094).
    pub user_consent_off: bool,
    /// Maximum number of items on a page of a list, whatever `$top` requests.
    pub page_size: Option<usize>,
    /// `synchronization/jobs` by service principal app id, as raw Graph JSON.
    pub jobs: HashMap<Uuid, Vec<serde_json::Value>>,
}

impl Tenant {
    /// The service principal of an application, unless it is deleted.
    pub fn principal(&self, app_id: Uuid) -> Option<&ServicePrincipal> {
        self.principals.iter().find(|p| p.app_id == app_id && p.deleted.is_none())
    }

    /// The same, to change it.
    pub fn principal_mut(&mut self, app_id: Uuid) -> Option<&mut ServicePrincipal> {
        self.principals.iter_mut().find(|p| p.app_id == app_id && p.deleted.is_none())
    }

    /// The service principal with this object id, unless it is deleted.
    pub fn principal_by_id(&self, id: Uuid) -> Option<&ServicePrincipal> {
        self.principals.iter().find(|p| p.id == id && p.deleted.is_none())
    }

    /// A user by object id, deleted ones included.
    pub fn user(&self, id: Uuid) -> Option<&User> {
        self.users.iter().find(|u| u.id == id)
    }

    /// Delegated permissions that `client` may use on `resource` for `user`: the tenant-wide grant and the user's own.
    pub fn granted_scopes(&self, client: Uuid, resource: Uuid, user: Uuid, now: Timestamp) -> Vec<String> {
        let mut scopes: Vec<String> = Vec::new();
        let relevant = self.grants.iter().filter(|g| {
            g.client == client
                && g.resource == resource
                && g.principal.is_none_or(|p| p == user)
                && g.effective <= now
        });
        for value in relevant.flat_map(|g| g.scope.split_whitespace()) {
            if !scopes.iter().any(|s| s.eq_ignore_ascii_case(value)) {
                scopes.push(value.to_owned());
            }
        }
        scopes
    }
}

/// Everything that exists.
#[derive(Debug, Default)]
pub struct World {
    /// Tenants by GUID.
    pub tenants: BTreeMap<Uuid, Tenant>,
    /// Tenants by verified domain.
    pub domains: HashMap<String, Uuid>,
    /// Registrations by app id.
    pub apps: BTreeMap<Uuid, Registration>,
    /// Refresh tokens by their text.
    pub refresh_tokens: HashMap<String, RefreshToken>,
    /// Authorization codes by their text.
    pub codes: HashMap<String, Code>,
    /// Seconds that are added to the machine's clock.
    pub clock_offset_seconds: i64,
    /// Frozen time in seconds since the epoch, for tests that control the clock.
    pub frozen_at: Option<i64>,
    /// What is wrong with the id_tokens that are issued.
    pub id_token_flaw: Option<IdTokenFlaw>,
    /// Seconds until the token endpoint knows a new consent.
    pub consent_delay_seconds: i64,
    /// Optional claims of the issued tokens.
    pub optional_claims: OptionalClaims,
    /// A refresh token can be used once.
    pub single_use_refresh_tokens: bool,
    /// Managed identities of the machine.
    pub identities: Vec<Identity>,
    /// The value of `X-IDENTITY-HEADER` that the App Service endpoint requires.
    pub identity_header: String,
    /// The file that the Azure Arc endpoint names in its challenge, and the file's content.
    pub arc_challenge: Option<(String, String)>,
    /// Lifetime of managed identity tokens; `None` is a day.
    pub identity_lifetime_seconds: Option<i64>,
}

impl World {
    /// The simulator's time.
    pub fn now(&self) -> Timestamp {
        let base = self
            .frozen_at
            .map_or_else(Timestamp::now, |s| Timestamp::from_second(s).unwrap_or(Timestamp::UNIX_EPOCH));
        Timestamp::from_second(base.as_second() + self.clock_offset_seconds).unwrap_or(base)
    }

    /// A tenant by GUID or verified domain, as in a URL path.
    pub fn tenant(&self, key: &str) -> Option<&Tenant> {
        self.tenant_id(key).and_then(|id| self.tenants.get(&id))
    }

    /// The GUID behind a GUID or domain, if that tenant exists.
    pub fn tenant_id(&self, key: &str) -> Option<Uuid> {
        match Uuid::parse_str(key) {
            Ok(id) => self.tenants.contains_key(&id).then_some(id),
            Err(_) => self
                .domains
                .get(&key.to_ascii_lowercase())
                .copied()
                .filter(|id| self.tenants.contains_key(id)),
        }
    }

    /// A registration by app id, by one of its names, or by a Graph host URL.
    pub fn resource(&self, name: &str) -> Option<&Registration> {
        if let Ok(id) = Uuid::parse_str(name) {
            return self.apps.get(&id);
        }
        self.apps
            .values()
            .find(|a| a.names.iter().any(|n| n.trim_end_matches('/') == name.trim_end_matches('/')))
    }
}

/// App id of Microsoft Graph as a [`Uuid`].
pub fn graph_app_id() -> Uuid {
    Uuid::parse_str(GRAPH_APP_ID).unwrap_or_default()
}
