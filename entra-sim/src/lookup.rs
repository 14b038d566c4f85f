//! Finding things of the simulated world, with an error that names what is not there.

use uuid::Uuid;

use crate::model::{Registration, ServicePrincipal, Tenant, User, World};

pub(crate) fn install(tenant: &mut Tenant, app_id: Uuid) {
    if tenant.principal(app_id).is_none() {
        let id = Uuid::new_v4();
        tenant.principals.push(ServicePrincipal {
            id,
            app_id,
            enabled: true,
            disabled_by_microsoft: None,
            deleted: None,
            signing: None,
        });
    }
}

pub(crate) fn role_id(world: &World, resource: Uuid, value: &str) -> Result<Uuid, String> {
    let registration = world.apps.get(&resource).ok_or_else(|| format!("no resource app {resource}"))?;
    let offered =
        registration.offers.iter().find(|(name, role, _)| name.eq_ignore_ascii_case(value) && role.is_some());
    offered
        .and_then(|(_, role, _)| *role)
        .ok_or_else(|| format!("{} offers no app role {value}", registration.name))
}

pub(crate) fn tenant_id(world: &World, key: &str) -> Result<Uuid, String> {
    world.tenant_id(key).ok_or_else(|| format!("no tenant {key}"))
}

pub(crate) fn tenant_mut<'w>(world: &'w mut World, key: &str) -> Result<&'w mut Tenant, String> {
    let id = tenant_id(world, key)?;
    world.tenants.get_mut(&id).ok_or_else(|| format!("no tenant {key}"))
}

pub(crate) fn app_mut(world: &mut World, app: Uuid) -> Result<&mut Registration, String> {
    world.apps.get_mut(&app).ok_or_else(|| format!("no app {app}"))
}

pub(crate) fn principal(tenant: &mut Tenant, app: Uuid) -> Result<&mut ServicePrincipal, String> {
    let domain = tenant.domain.clone();
    tenant.principal_mut(app).ok_or_else(|| format!("no enterprise application {app} in {domain}"))
}

pub(crate) fn user_id(world: &World, tenant: &str, key: &str) -> Result<Uuid, String> {
    let tenant = world.tenant(tenant).ok_or_else(|| format!("no tenant {tenant}"))?;
    let found = tenant
        .users
        .iter()
        .find(|u| u.upn == key || u.id.to_string() == key || u.upn.split('@').next() == Some(key));
    found.map(|u| u.id).ok_or_else(|| format!("no user {key} in {}", tenant.domain))
}

pub(crate) fn user_mut<'w>(world: &'w mut World, tenant: &str, key: &str) -> Result<&'w mut User, String> {
    let id = user_id(world, tenant, key)?;
    let tenant = tenant_mut(world, tenant)?;
    tenant.users.iter_mut().find(|u| u.id == id).ok_or_else(|| format!("no user {key}"))
}
