//! A request to the token endpoint, and what is checked for every grant.

use std::collections::HashMap;

use uuid::Uuid;

use crate::model::{World, graph_app_id};
use crate::reply::{EntraError, Reply};

/// A request to the token endpoint.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// `{tenant}` of the path.
    pub tenant: &'a str,
    /// Form fields, with `client_id` and `client_secret` of HTTP Basic merged in.
    pub form: HashMap<String, String>,
    /// Base URL of the login host as the client sees it.
    pub login: &'a str,
    /// Base URL of Graph as the client sees it.
    pub graph: &'a str,
}

pub(crate) type Refused<T> = Result<T, Box<Reply>>;

pub(crate) fn refuse<T>(world: &World, error: EntraError<'_>) -> Refused<T> {
    Err(Box::new(Reply::entra_error(world, error)))
}

/// The resource of a scope parameter, the requested permissions (`None` for `.default`), and whether `offline_access` is requested.
pub(crate) fn parse_scope(
    world: &World,
    scope: &str,
    graph: &str,
) -> Refused<(Uuid, Option<Vec<String>>, bool)> {
    let mut resource = None;
    let mut wanted = Vec::new();
    let (mut default, mut offline) = (false, false);
    for value in scope.split_whitespace() {
        if matches!(value, "openid" | "profile" | "email" | "offline_access") {
            offline |= value == "offline_access";
            continue;
        }
        let (name, permission) = value.rsplit_once('/').unwrap_or((graph, value));
        let found = if name == graph || name.is_empty() {
            Some(graph_app_id())
        } else {
            world.resource(name).map(|r| r.app_id)
        };
        let Some(found) = found else {
            return refuse(
                world,
                EntraError::new(
                    400,
                    "invalid_resource",
                    500_011,
                    &format!("The resource principal named {name} was not found in the tenant."),
                ),
            );
        };
        if resource.is_some_and(|r| r != found) {
            return refuse(
                world,
                EntraError::invalid_request(
                    28000,
                    "Provided value for the input parameter scope is not valid because it contains more than one resource.",
                ),
            );
        }
        resource = Some(found);
        if permission == ".default" { default = true } else { wanted.push(permission.to_owned()) }
    }
    Ok((resource.unwrap_or_else(graph_app_id), (!default).then_some(wanted), offline))
}

pub(crate) fn audience(world: &World, resource: Uuid, graph: &str) -> String {
    if resource == graph_app_id() {
        return graph.to_owned();
    }
    world.apps.get(&resource).and_then(|a| a.names.last().cloned()).unwrap_or_else(|| resource.to_string())
}

pub(crate) fn revoked<T>(world: &World, issued: &str) -> Refused<T> {
    let message = format!(
        "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have changed or reset their password. The grant was issued on '{issued}'."
    );
    refuse(world, EntraError::invalid_grant(50173, &message).because("bad_token"))
}

/// Whether tokens may be issued for this user without interaction.
pub(crate) fn check_user(
    world: &World,
    tenant: Uuid,
    user: Uuid,
    issued: Option<jiff::Timestamp>,
) -> Refused<()> {
    let Some(directory) = world.tenants.get(&tenant) else { return Ok(()) };
    let Some(person) = directory.user(user) else {
        return refuse(
            world,
            EntraError::invalid_grant(50034, "The user account does not exist in the directory."),
        );
    };
    if person.deleted {
        return refuse(
            world,
            EntraError::invalid_grant(500_341, "The user account has been deleted from the directory."),
        );
    }
    if !person.enabled {
        return refuse(world, EntraError::invalid_grant(50057, "The user account is disabled."));
    }
    if let Some(issued) = issued {
        if issued < person.tokens_valid_from {
            return revoked(world, &issued.to_string());
        }
        if directory.demand_mfa {
            let message = "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access the resource.";
            return refuse(
                world,
                EntraError::new(400, "interaction_required", 50076, message).because("basic_action"),
            );
        }
    }
    if directory.block_users {
        return refuse(world, EntraError::invalid_grant(53003, "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.").because("message_only"));
    }
    Ok(())
}
