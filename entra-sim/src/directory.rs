//! New tenants and what they hold at the start.

use jiff::Timestamp;
use uuid::Uuid;

use crate::lookup::install;
use crate::model::{
    GLOBAL_ADMINISTRATOR, GRAPH_PERMISSIONS, Registration, Tenant, User, World, graph_app_id,
};

/// A member without roles.
pub(crate) fn person(upn: String, name: String) -> User {
    User {
        id: Uuid::new_v4(),
        upn,
        name,
        admin: false,
        enabled: true,
        deleted: false,
        tokens_valid_from: Timestamp::UNIX_EPOCH,
        guest: false,
        roles: Vec::new(),
        blind_to: Vec::new(),
    }
}

/// A tenant with an administrator, a user and Microsoft Graph.
pub(crate) fn add_tenant(world: &mut World, id: Uuid, domain: &str, name: Option<String>) {
    let admin = User {
        admin: true,
        roles: vec![GLOBAL_ADMINISTRATOR.to_owned()],
        ..person(format!("admin@{domain}"), format!("Ada Admin of {domain}"))
    };
    let user = person(format!("user@{domain}"), format!("Uwe User of {domain}"));
    let mut tenant = Tenant {
        id,
        domain: domain.to_owned(),
        name: name.unwrap_or_else(|| domain.to_owned()),
        users: vec![admin, user],
        ..Tenant::default()
    };
    install(&mut tenant, graph_app_id());
    world.domains.insert(domain.to_ascii_lowercase(), id);
    world.tenants.insert(id, tenant);
    world.apps.entry(graph_app_id()).or_insert_with(microsoft_graph);
}

fn microsoft_graph() -> Registration {
    let id = |text: Option<&str>| text.and_then(|t| Uuid::parse_str(t).ok());
    Registration {
        app_id: graph_app_id(),
        name: "Microsoft Graph".to_owned(),
        offers: GRAPH_PERMISSIONS
            .iter()
            .map(|(value, role, scope, _)| ((*value).to_owned(), id(*role), id(*scope)))
            .collect(),
        names: vec![
            graph_app_id().to_string(),
            "https://graph.microsoft.com".to_owned(),
            "https://graph.microsoft.us".to_owned(),
        ],
        ..Registration::default()
    }
}
