//! All changes of the simulated world as one enumeration: the HTTP control API deserialises it, Rust callers construct it.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::certificate::certificate_der;
use crate::consent::{Accepted, Edited, consent, edit_consent, role_ids};
use crate::credentials::{NewSecret, SamlCertificate, add_saml_certificate, add_secret, remove_secret};
use crate::directory::{add_tenant, person};
use crate::lookup::{app_mut, install, principal, tenant_id, tenant_mut, user_id, user_mut};
use crate::model::{
    Federated, Group, IdTokenFlaw, Identity, OptionalClaims, RefreshToken, Registration, RequiredAccess,
    Signing, TokenDeath, User, World, graph_app_id,
};

/// A change. JSON form: `{"action": "disable_app", "tenant": "contoso.example", "app": "<client id>"}`.
/// Tenants are named by GUID or domain, users by object id or user principal name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Action {
    /// Creates a tenant with one administrator (`admin@domain`), one ordinary user (`user@domain`) and Microsoft Graph.
    AddTenant {
        id: Uuid,
        domain: String,
        #[serde(default)]
        name: Option<String>,
    },
    /// Removes the tenant: AADSTS90002.
    RemoveTenant {
        tenant: String,
    },
    /// Registers an app. Without secret and certificate it is a public client.
    AddApp {
        id: Uuid,
        name: String,
        #[serde(default)]
        secret: Option<String>,
        #[serde(default)]
        certificate_pem: Option<String>,
        #[serde(default)]
        redirect_uris: Vec<String>,
        #[serde(default)]
        delegated: Vec<String>,
        #[serde(default)]
        application: Vec<String>,
    },
    /// Makes an app a resource with these scopes and roles. `names` are further service principal names.
    OfferPermissions {
        app: Uuid,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        scopes: Vec<String>,
        #[serde(default)]
        roles: Vec<String>,
    },
    /// Deletes the registration itself: AADSTS700016 in every tenant.
    RemoveApp {
        app: Uuid,
    },
    /// The owner switches the registration off for all tenants (`isDisabled`).
    DeactivateApp {
        app: Uuid,
        value: bool,
    },
    /// Sets the home tenant: every other tenant answers 404 for the application object.
    SetHomeTenant {
        app: Uuid,
        tenant: String,
    },
    /// Adds a client secret. `expires_in_seconds` may be negative. Without `key_id` the ids are counted from the application id.
    AddSecret {
        app: Uuid,
        secret: String,
        #[serde(default = "year")]
        expires_in_seconds: i64,
        #[serde(default)]
        key_id: Option<Uuid>,
        #[serde(default)]
        display_name: Option<String>,
    },
    /// Removes one client secret.
    RemoveSecret {
        app: Uuid,
        key_id: Uuid,
    },
    /// Adds a client certificate.
    AddCertificate {
        app: Uuid,
        certificate_pem: String,
    },
    /// Accepts tokens of another issuer as client assertions of the app.
    AddFederatedCredential {
        app: Uuid,
        name: String,
        issuer: String,
        subject: String,
        #[serde(default = "exchange_audience")]
        audience: String,
    },
    /// Replaces what the application object shows as credentials with raw Graph objects; `None` shows the real ones.
    SetRawCredentials {
        app: Uuid,
        #[serde(default)]
        password_credentials: Option<Vec<Value>>,
        #[serde(default)]
        key_credentials: Option<Vec<Value>>,
    },
    /// Replaces the SAML signing certificates of the enterprise application with raw Graph objects.
    SetSigningCertificates {
        tenant: String,
        app: Uuid,
        key_credentials: Vec<Value>,
        password_credentials: Vec<Value>,
        #[serde(default)]
        preferred_thumbprint: Option<String>,
    },
    /// Adds the three entries of one SAML signing certificate to the enterprise application. `thumbprint` has 40 hexadecimal digits.
    AddSamlCertificate {
        tenant: String,
        app: Uuid,
        thumbprint: String,
        expires_in_seconds: i64,
        #[serde(default)]
        active: bool,
    },
    /// Adds a managed identity to the machine; without `client_id` it is the system-assigned one.
    AddManagedIdentity {
        #[serde(default)]
        client_id: Option<Uuid>,
        subject: String,
    },
    /// Sets the value of `X-IDENTITY-HEADER` that the App Service endpoint requires.
    SetIdentityHeader {
        value: String,
    },
    /// Sets the file that the Azure Arc endpoint names, and its content. The simulator does not write the file.
    SetArcChallenge {
        file: String,
        content: String,
    },
    /// Sets the lifetime of managed identity tokens.
    SetManagedIdentityLifetime {
        seconds: i64,
    },
    /// Lets all secrets of the app expire now: AADSTS7000222.
    ExpireSecrets {
        app: Uuid,
    },
    /// Removes all secrets of the app: AADSTS7000215 for requests that still use one.
    RemoveSecrets {
        app: Uuid,
    },
    /// Creates the enterprise application without any permission.
    InstallApp {
        tenant: String,
        app: Uuid,
    },
    /// An accepted consent: creates enterprise application, grant and role assignments. Without `user` it is for the whole organisation.
    Consent {
        tenant: String,
        app: Uuid,
        #[serde(default)]
        user: Option<String>,
        #[serde(default)]
        resource: Option<Uuid>,
        #[serde(default)]
        delegated: Vec<String>,
        #[serde(default)]
        application: Vec<String>,
    },
    /// Replaces delegated scopes and app roles for one resource, as an admin can do.
    EditConsent {
        tenant: String,
        app: Uuid,
        #[serde(default)]
        resource: Option<Uuid>,
        #[serde(default)]
        delegated: Option<Vec<String>>,
        #[serde(default)]
        application: Option<Vec<String>>,
    },
    /// Removes all grants and role assignments of the app in the tenant.
    RevokeConsent {
        tenant: String,
        app: Uuid,
    },
    /// Moves the enterprise application to the deleted items.
    DeleteApp {
        tenant: String,
        app: Uuid,
    },
    /// Restores the deleted enterprise application with the same object id.
    RestoreApp {
        tenant: String,
        app: Uuid,
    },
    /// Removes the app from the deleted items.
    PurgeApp {
        tenant: String,
        app: Uuid,
    },
    /// Sets `accountEnabled` of the enterprise application.
    EnableApp {
        tenant: String,
        app: Uuid,
        value: bool,
    },
    /// Sets `disabledByMicrosoftStatus` of the enterprise application.
    BlockApp {
        tenant: String,
        app: Uuid,
        #[serde(default)]
        status: Option<String>,
    },
    /// A successful sign-in: returns `{"refresh_token": …}`.
    IssueRefreshToken {
        tenant: String,
        app: Uuid,
        #[serde(default)]
        user: Option<String>,
    },
    /// Invalidates all refresh tokens of the app in the tenant.
    KillRefreshTokens {
        tenant: String,
        app: Uuid,
        death: TokenDeath,
    },
    /// Sets `accountEnabled` of a user: AADSTS50057 while false.
    EnableUser {
        tenant: String,
        user: String,
        value: bool,
    },
    /// Deletes a user: AADSTS500341.
    DeleteUser {
        tenant: String,
        user: String,
    },
    /// Adds an account, `NAME@domain`: returns `{"id": …}`. Another organization manages a guest.
    AddUser {
        tenant: String,
        name: String,
        #[serde(default)]
        admin: bool,
        #[serde(default)]
        guest: bool,
        /// Template ids of directory roles.
        #[serde(default)]
        roles: Vec<String>,
    },
    /// Replaces the directory roles that an account holds.
    AssignRoles {
        tenant: String,
        user: String,
        roles: Vec<String>,
    },
    /// Hides these groups from an account.
    BlindUser {
        tenant: String,
        user: String,
        groups: Vec<String>,
    },
    /// Sets the optional claims of tokens.
    OptionalClaims {
        #[serde(default)]
        acct: bool,
        #[serde(default)]
        wids: bool,
        #[serde(default)]
        access_wids: bool,
    },
    /// Whether a refresh token can be used only once.
    SingleUseRefreshTokens {
        value: bool,
    },
    /// Revokes all tokens of the user that were issued until now: AADSTS50173.
    RevokeSessions {
        tenant: String,
        user: String,
    },
    /// Whether refreshes require MFA: AADSTS50076.
    DemandMfa {
        tenant: String,
        value: bool,
    },
    /// Blocks users, app-only tokens, or both, by Conditional Access: AADSTS53003.
    BlockByPolicy {
        tenant: String,
        #[serde(default)]
        users: bool,
        #[serde(default)]
        apps: bool,
    },
    /// Whether only administrators may consent.
    UserConsentOff {
        tenant: String,
        value: bool,
    },
    AddGroup {
        tenant: String,
        name: String,
        #[serde(default)]
        id: Option<Uuid>,
    },
    DeleteGroup {
        tenant: String,
        name: String,
    },
    /// Hides or shows all groups.
    HideGroups {
        tenant: String,
        value: bool,
    },
    /// Limits the items on a page of a list; without `size` the request decides.
    LimitPages {
        tenant: String,
        #[serde(default)]
        size: Option<usize>,
    },
    /// Replaces the provisioning jobs of an app with raw Graph objects.
    SetProvisioningJobs {
        tenant: String,
        app: Uuid,
        jobs: Vec<Value>,
    },
    /// Advances the simulator's clock.
    AdvanceClock {
        seconds: i64,
    },
    /// Freezes the clock at a time (seconds since the epoch); `None` lets it run again.
    FreezeClock {
        at: Option<i64>,
    },
    /// How long a new consent takes to reach the token endpoint.
    ConsentDelay {
        seconds: i64,
    },
    /// Issues id_tokens with this flaw; `None` issues valid ones.
    FlawIdTokens {
        flaw: Option<IdTokenFlaw>,
    },
}

fn year() -> i64 {
    31_536_000
}

fn exchange_audience() -> String {
    crate::federation::EXCHANGE_AUDIENCE.to_owned()
}

/// Applies one change.
///
/// # Errors
/// A message that names the object that does not exist.
#[allow(clippy::too_many_lines)] // One arm a change; splitting the list would hide it.
pub fn apply(world: &mut World, action: Action) -> Result<Value, String> {
    let now = world.now();
    match action {
        Action::AddTenant { id, domain, name } => add_tenant(world, id, &domain, name),
        Action::RemoveTenant { tenant } => {
            let id = tenant_id(world, &tenant)?;
            world.tenants.remove(&id);
        }
        Action::AddApp { id, name, secret, certificate_pem, redirect_uris, delegated, application } => {
            let certificates =
                certificate_pem.map(|pem| certificate_der(&pem)).transpose()?.into_iter().collect();
            let required = vec![RequiredAccess { resource: graph_app_id(), delegated, application }];
            let mut app = Registration {
                app_id: id,
                name,
                certificates,
                redirect_uris,
                required,
                names: vec![id.to_string()],
                ..Registration::default()
            };
            if let Some(value) = secret {
                let expires = now + SignedDuration::from_secs(year());
                add_secret(&mut app, NewSecret { value, expires, key_id: None, name: None });
            }
            world.apps.insert(id, app);
        }
        Action::OfferPermissions { app, names, scopes, roles } => {
            let registration = app_mut(world, app)?;
            registration.names.extend(names);
            registration.offers.extend(scopes.into_iter().map(|s| (s, None, Some(Uuid::new_v4()))));
            registration.offers.extend(roles.into_iter().map(|r| (r, Some(Uuid::new_v4()), None)));
        }
        Action::RemoveApp { app } => {
            world.apps.remove(&app).ok_or_else(|| format!("no app {app}"))?;
        }
        Action::DeactivateApp { app, value } => app_mut(world, app)?.deactivated = value,
        Action::SetHomeTenant { app, tenant } => {
            let home = tenant_id(world, &tenant)?;
            app_mut(world, app)?.home = Some(home);
        }
        Action::AddSecret { app, secret, expires_in_seconds, key_id, display_name } => {
            let expires = now + SignedDuration::from_secs(expires_in_seconds);
            let secret = NewSecret { value: secret, expires, key_id, name: display_name };
            add_secret(app_mut(world, app)?, secret);
        }
        Action::RemoveSecret { app, key_id } => remove_secret(app_mut(world, app)?, key_id)?,
        Action::AddCertificate { app, certificate_pem } => {
            let der = certificate_der(&certificate_pem)?;
            app_mut(world, app)?.certificates.push(der);
        }
        Action::AddFederatedCredential { app, name, issuer, subject, audience } => {
            app_mut(world, app)?.federated.push(Federated { name, issuer, subject, audience });
        }
        Action::SetRawCredentials { app, password_credentials, key_credentials } => {
            let app = app_mut(world, app)?;
            (app.raw_password_credentials, app.raw_key_credentials) = (password_credentials, key_credentials);
        }
        Action::SetSigningCertificates {
            tenant,
            app,
            key_credentials,
            password_credentials,
            preferred_thumbprint,
        } => {
            principal(tenant_mut(world, &tenant)?, app)?.signing =
                Some(Signing { key_credentials, password_credentials, preferred_thumbprint });
        }
        Action::AddSamlCertificate { tenant, app, thumbprint, expires_in_seconds, active } => {
            let expires = now + SignedDuration::from_secs(expires_in_seconds);
            let certificate = SamlCertificate { thumbprint: &thumbprint, expires, active };
            add_saml_certificate(principal(tenant_mut(world, &tenant)?, app)?, certificate)?;
        }
        Action::AddManagedIdentity { client_id, subject } => {
            world.identities.push(Identity { client_id, subject });
        }
        Action::SetIdentityHeader { value } => world.identity_header = value,
        Action::SetArcChallenge { file, content } => world.arc_challenge = Some((file, content)),
        Action::SetManagedIdentityLifetime { seconds } => world.identity_lifetime_seconds = Some(seconds),
        Action::ExpireSecrets { app } => {
            app_mut(world, app)?.secrets.iter_mut().for_each(|s| s.expires = now);
        }
        Action::RemoveSecrets { app } => app_mut(world, app)?.secrets.clear(),
        Action::InstallApp { tenant, app } => install(tenant_mut(world, &tenant)?, app),
        Action::Consent { tenant, app, user, resource, delegated, application } => {
            let user = user.map(|u| user_id(world, &tenant, &u)).transpose()?;
            let resource = resource.unwrap_or_else(graph_app_id);
            let accepted = Accepted { user, resource, delegated: &delegated, application: &application };
            consent(world, &tenant, app, accepted)?;
        }
        Action::EditConsent { tenant, app, resource, delegated, application } => {
            let roles = application
                .map(|values| role_ids(world, resource.unwrap_or_else(graph_app_id), &values))
                .transpose()?;
            let edited = Edited { app, resource: resource.unwrap_or_else(graph_app_id), delegated, roles };
            edit_consent(world, &tenant, edited)?;
        }
        Action::RevokeConsent { tenant, app } => {
            let tenant = tenant_mut(world, &tenant)?;
            let client = principal(tenant, app)?.id;
            tenant.grants.retain(|g| g.client != client);
            tenant.assignments.retain(|a| a.principal != client);
        }
        Action::DeleteApp { tenant, app } => principal(tenant_mut(world, &tenant)?, app)?.deleted = Some(now),
        Action::RestoreApp { tenant, app } => {
            let tenant = tenant_mut(world, &tenant)?;
            let deleted = tenant
                .principals
                .iter_mut()
                .filter(|p| p.app_id == app && p.deleted.is_some())
                .max_by_key(|p| p.deleted);
            deleted.ok_or_else(|| format!("no deleted app {app}"))?.deleted = None;
        }
        Action::PurgeApp { tenant, app } => {
            tenant_mut(world, &tenant)?.principals.retain(|p| p.app_id != app || p.deleted.is_none());
        }
        Action::EnableApp { tenant, app, value } => {
            principal(tenant_mut(world, &tenant)?, app)?.enabled = value;
        }
        Action::BlockApp { tenant, app, status } => {
            principal(tenant_mut(world, &tenant)?, app)?.disabled_by_microsoft = status;
        }
        Action::IssueRefreshToken { tenant, app, user } => {
            let user = user_id(world, &tenant, user.as_deref().unwrap_or("admin"))?;
            let tenant = tenant_id(world, &tenant)?;
            return Ok(json!({ "refresh_token": issue_refresh_token(world, tenant, app, user) }));
        }
        Action::KillRefreshTokens { tenant, app, death } => {
            let tenant = tenant_id(world, &tenant)?;
            let hit = world.refresh_tokens.values_mut().filter(|t| t.tenant == tenant && t.app_id == app);
            hit.for_each(|t| t.dead = Some(death));
        }
        Action::EnableUser { tenant, user, value } => user_mut(world, &tenant, &user)?.enabled = value,
        Action::DeleteUser { tenant, user } => user_mut(world, &tenant, &user)?.deleted = true,
        Action::AddUser { tenant, name, admin, guest, roles } => {
            let tenant = tenant_mut(world, &tenant)?;
            let (upn, id) = (format!("{name}@{}", tenant.domain), Uuid::new_v4());
            tenant.users.push(User { id, admin, guest, roles, ..person(upn, name) });
            return Ok(json!({ "id": id }));
        }
        Action::AssignRoles { tenant, user, roles } => user_mut(world, &tenant, &user)?.roles = roles,
        Action::BlindUser { tenant, user, groups } => user_mut(world, &tenant, &user)?.blind_to = groups,
        Action::OptionalClaims { acct, wids, access_wids } => {
            world.optional_claims = OptionalClaims { acct, wids, access_wids }
        }
        Action::SingleUseRefreshTokens { value } => world.single_use_refresh_tokens = value,
        Action::RevokeSessions { tenant, user } => {
            user_mut(world, &tenant, &user)?.tokens_valid_from = now + SignedDuration::from_secs(1);
        }
        Action::DemandMfa { tenant, value } => tenant_mut(world, &tenant)?.demand_mfa = value,
        Action::BlockByPolicy { tenant, users, apps } => {
            let tenant = tenant_mut(world, &tenant)?;
            (tenant.block_users, tenant.block_apps) = (users, apps);
        }
        Action::UserConsentOff { tenant, value } => tenant_mut(world, &tenant)?.user_consent_off = value,
        Action::AddGroup { tenant, name, id } => {
            let id = id.unwrap_or_else(Uuid::new_v4);
            tenant_mut(world, &tenant)?.groups.push(Group { id, name, hidden: false });
            return Ok(json!({ "id": id }));
        }
        Action::DeleteGroup { tenant, name } => tenant_mut(world, &tenant)?.groups.retain(|g| g.name != name),
        Action::HideGroups { tenant, value } => {
            tenant_mut(world, &tenant)?.groups.iter_mut().for_each(|g| g.hidden = value);
        }
        Action::LimitPages { tenant, size } => tenant_mut(world, &tenant)?.page_size = size,
        Action::SetProvisioningJobs { tenant, app, jobs } => {
            tenant_mut(world, &tenant)?.jobs.insert(app, jobs);
        }
        Action::AdvanceClock { seconds } => world.clock_offset_seconds += seconds,
        Action::FreezeClock { at } => (world.frozen_at, world.clock_offset_seconds) = (at, 0),
        Action::FlawIdTokens { flaw } => world.id_token_flaw = flaw,
        Action::ConsentDelay { seconds } => world.consent_delay_seconds = seconds,
    }
    Ok(json!({}))
}

/// Issues a refresh token for a user, client and tenant.
pub fn issue_refresh_token(world: &mut World, tenant: Uuid, app_id: Uuid, user: Uuid) -> String {
    let text = format!("1.SIM{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let issued = world.now();
    world.refresh_tokens.insert(text.clone(), RefreshToken { tenant, app_id, user, issued, dead: None });
    text
}
