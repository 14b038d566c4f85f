//! What an accepted, edited or revoked consent leaves in a tenant.

use jiff::SignedDuration;
use uuid::Uuid;

use crate::lookup::{install, principal, role_id, tenant_mut};
use crate::model::{Assignment, Grant, World};

/// What somebody has accepted on a consent page.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    /// The person for whom it counts; `None` for the whole organization.
    pub user: Option<Uuid>,
    /// Application id of the resource.
    pub resource: Uuid,
    /// Delegated permissions.
    pub delegated: &'a [String],
    /// Application permissions.
    pub application: &'a [String],
}

/// What an accepted consent page does.
///
/// # Errors
/// The tenant, the app, or a permission value does not exist.
pub fn consent(world: &mut World, tenant: &str, app: Uuid, accepted: Accepted<'_>) -> Result<(), String> {
    let Accepted { user, resource, delegated, application } = accepted;
    let now = world.now();
    let effective = now + SignedDuration::from_secs(world.consent_delay_seconds);
    let roles = role_ids(world, resource, application)?;
    world.apps.get(&app).ok_or_else(|| format!("no app {app}"))?;
    let tenant = tenant_mut(world, tenant)?;
    install(tenant, app);
    install(tenant, resource);
    let client = principal(tenant, app)?.id;
    let resource = principal(tenant, resource)?.id;
    if !delegated.is_empty() {
        let existing = tenant
            .grants
            .iter_mut()
            .find(|g| g.client == client && g.resource == resource && g.principal == user);
        let old: Vec<String> = existing
            .as_ref()
            .map(|g| g.scope.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        let added = delegated.iter().filter(|d| !old.iter().any(|o| o.eq_ignore_ascii_case(d)));
        // Entra's grants begin with a space.
        let scope = old.iter().chain(added).fold(String::new(), |text, value| text + " " + value);
        match existing {
            Some(grant) if grant.scope == scope => {}
            Some(grant) => (grant.scope, grant.effective) = (scope, effective),
            None => {
                tenant.grants.push(Grant {
                    id: Uuid::new_v4().simple().to_string(),
                    client,
                    resource,
                    principal: user,
                    scope,
                    effective,
                });
            }
        }
    }
    for role in roles {
        if !tenant
            .assignments
            .iter()
            .any(|a| a.principal == client && a.resource == resource && a.role == role)
        {
            tenant.assignments.push(Assignment {
                id: Uuid::new_v4().simple().to_string(),
                principal: client,
                resource,
                role,
                created: now,
            });
        }
    }
    Ok(())
}

/// What stands in a consent afterwards; `None` leaves it as it is.
pub(crate) struct Edited {
    pub(crate) app: Uuid,
    pub(crate) resource: Uuid,
    pub(crate) delegated: Option<Vec<String>>,
    pub(crate) roles: Option<Vec<Uuid>>,
}

pub(crate) fn role_ids(world: &World, resource: Uuid, values: &[String]) -> Result<Vec<Uuid>, String> {
    values.iter().map(|value| role_id(world, resource, value)).collect()
}

pub(crate) fn edit_consent(world: &mut World, tenant: &str, edited: Edited) -> Result<(), String> {
    let Edited { app, resource, delegated, roles } = edited;
    let now = world.now();
    let tenant = tenant_mut(world, tenant)?;
    let client = principal(tenant, app)?.id;
    let resource = principal(tenant, resource)?.id;
    if let Some(values) = delegated {
        let scope = values.iter().fold(String::new(), |text, value| text + " " + value);
        tenant
            .grants
            .iter_mut()
            .filter(|g| g.client == client && g.resource == resource)
            .for_each(|g| g.scope.clone_from(&scope));
        if values.is_empty() {
            tenant.grants.retain(|g| g.client != client || g.resource != resource);
        }
    }
    if let Some(roles) = roles {
        tenant.assignments.retain(|a| a.principal != client || a.resource != resource);
        let made = roles.into_iter().map(|role| Assignment {
            id: Uuid::new_v4().simple().to_string(),
            principal: client,
            resource,
            role,
            created: now,
        });
        tenant.assignments.extend(made);
    }
    Ok(())
}
