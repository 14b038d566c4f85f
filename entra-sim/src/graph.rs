//! The part of Microsoft Graph v1.0 that clients need to check consent, enterprise apps and groups.

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::faults::{Endpoint, FaultKind, Faults};
use crate::model::{Group, Offer, Registration, ServicePrincipal, Tenant, World};
use crate::odata::{Filter, Page, select, selects};
use crate::reply::{Reply, fields};
use crate::tokens::Caller;

pub(crate) const READ_APPS: [&str; 4] = [
    "Application.Read.All",
    "Directory.Read.All",
    "Application.ReadWrite.OwnedBy",
    "Application.ReadWrite.All",
];
const READ_DIRECTORY: [&str; 2] = ["Directory.Read.All", "Directory.ReadWrite.All"];
const READ_GROUPS: [&str; 5] = [
    "Group.Read.All",
    "GroupMember.Read.All",
    "Group.ReadBasic.All",
    "Directory.Read.All",
    "Group.ReadWrite.All",
];

/// One request to Graph.
#[derive(Debug)]
pub struct GraphRequest<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path below the version, with its query.
    pub target: &'a str,
    /// `ConsistencyLevel: eventual` was sent.
    pub eventual: bool,
    /// Base URL of Graph as the client sees it.
    pub graph: &'a str,
}

/// The response to one request, or to each request of a `$batch`.
pub fn answer(
    world: &World,
    faults: &Faults,
    caller: &Caller,
    request: &GraphRequest<'_>,
    body: &str,
) -> Reply {
    if request.target.split('?').next() == Some("/$batch") {
        return batch(world, faults, caller, request, body);
    }
    single(world, caller, request)
}

fn batch(world: &World, faults: &Faults, caller: &Caller, request: &GraphRequest<'_>, body: &str) -> Reply {
    let bad = |message: &str| Reply::graph_error(400, "BadRequest", message);
    let Ok(parsed) = serde_json::from_str::<Value>(body) else { return bad("Invalid batch payload format.") };
    let Some(items) = parsed["requests"].as_array() else { return bad("Invalid batch payload format.") };
    if items.len() > 20 {
        return bad("Number of batch request steps exceeds the maximum value of 20.");
    }
    let mut seen = Vec::new();
    let mut responses = Vec::new();
    for item in items {
        let (Some(id), Some(method), Some(url)) =
            (item["id"].as_str(), item["method"].as_str(), item["url"].as_str())
        else {
            return bad("Every batch request needs id, method and url.");
        };
        if seen.iter().any(|s: &String| s.eq_ignore_ascii_case(id)) {
            return bad("Request Id has to be unique in a batch.");
        }
        seen.push(id.to_owned());
        let target = format!("/{}", url.trim_start_matches('/'));
        let eventual = item["headers"].as_object().is_some_and(|h| {
            h.iter().any(|(k, v)| {
                k.eq_ignore_ascii_case("ConsistencyLevel")
                    && v.as_str().is_some_and(|v| v.eq_ignore_ascii_case("eventual"))
            })
        });
        let asked = GraphRequest { method, target: &target, eventual, graph: request.graph };
        let reply = batch_item(world, faults, caller, &asked);
        let mut headers = json!({"Content-Type": reply.content_type});
        for (name, value) in &reply.headers {
            headers[&**name] = json!(value);
        }
        let body = serde_json::from_str(&reply.body).unwrap_or(Value::String(reply.body));
        responses.push(json!({"id": id, "status": reply.status, "headers": headers, "body": body}));
    }
    // Graph returns the responses in any order.
    responses.reverse();
    Reply::json(200, &json!({ "responses": responses }))
}

/// The response to one request of a batch, or its fault.
fn batch_item(world: &World, faults: &Faults, caller: &Caller, asked: &GraphRequest<'_>) -> Reply {
    let tenant = caller.tenant.to_string();
    let regular = || single(world, caller, asked);
    match faults.take(Endpoint::BatchItem, &[&tenant], asked.target) {
        Some(FaultKind::Status { status, retry_after }) => {
            let reply = fault_status(status);
            match retry_after {
                Some(after) => reply.with("Retry-After", after),
                None => reply,
            }
        }
        Some(FaultKind::Error { status, error, .. }) => {
            Reply::graph_error(status, &error, "Simulated fault.")
        }
        Some(FaultKind::Body { text }) => Reply::raw(200, Vec::new(), "application/json".to_owned(), text),
        Some(FaultKind::Html { status }) => {
            Reply::html(status, "<html><body><h1>Gateway</h1></body></html>".to_owned())
        }
        Some(FaultKind::Answer { status, headers, content_type, body }) => {
            Reply::raw(status, headers, content_type, body)
        }
        Some(FaultKind::Rewrite { find, replace }) => regular().rewritten(&find, &replace),
        _ => regular(),
    }
}

/// Graph's error response for a status that a fault requests.
pub fn fault_status(status: u16) -> Reply {
    match status {
        429 => Reply::graph_error(429, "TooManyRequests", "Please retry again later."),
        500 => Reply::graph_error(500, "Service_InternalServerError", "Internal error."),
        503 => Reply::graph_error(503, "Directory_ReplicaUnavailable", "Please retry."),
        401 => Reply::graph_error(401, "InvalidAuthenticationToken", "Access token validation failure."),
        403 => denied(),
        status => Reply::graph_error(status, "UnknownError", ""),
    }
}

pub(crate) fn denied() -> Reply {
    Reply::graph_error(
        403,
        "Authorization_RequestDenied",
        "Insufficient privileges to complete the operation.",
    )
}

pub(crate) fn not_found(what: &str) -> Reply {
    Reply::graph_error(
        404,
        "Request_ResourceNotFound",
        &format!(
            "Resource '{what}' does not exist or one of its queried reference-property objects are not present."
        ),
    )
}

fn single(world: &World, caller: &Caller, request: &GraphRequest<'_>) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let query = fields(query);
    if request.method != "GET" {
        return Reply::graph_error(
            405,
            "Request_BadRequest",
            "Specified HTTP method is not allowed for the request target.",
        );
    }
    let Some(tenant) = world.tenants.get(&caller.tenant) else {
        return Reply::graph_error(
            404,
            "Directory_ObjectNotFound",
            "Unable to read the company information from the directory.",
        );
    };
    let path = percent_decode(path);
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let context = Context { world, tenant, caller, query: &query, request };
    match segments.as_slice() {
        ["servicePrincipals"] => context.service_principals(),
        ["servicePrincipals", id, "synchronization", "jobs"] => context.jobs(id),
        [key, "synchronization", "jobs"] if key.starts_with("servicePrincipals(") => context.jobs(key),
        ["directory", "deletedItems", "microsoft.graph.servicePrincipal"] => context.deleted(),
        ["oauth2PermissionGrants"] => context.all_grants(),
        ["groups"] => context.groups(),
        ["groups", "$count"] => context.group_count(),
        ["groups", id] => context.group(id),
        ["organization"] => context.organization(),
        ["me"] => context.me(),
        ["me", "transitiveMemberOf", "microsoft.graph.directoryRole"] => context.roles(),
        [key] if key.starts_with("servicePrincipals(") => context.service_principal(key),
        ["servicePrincipals", key] => context.service_principal(key),
        [key, "oauth2PermissionGrants"] | ["servicePrincipals", key, "oauth2PermissionGrants"] => {
            context.grants_of(key)
        }
        [key, "appRoleAssignments"] | ["servicePrincipals", key, "appRoleAssignments"] => {
            context.assignments_of(key)
        }
        [key] if key.starts_with("applications(") => context.application(key),
        ["applications", key] => context.application(key),
        [key, "federatedIdentityCredentials"] if key.starts_with("applications(") => {
            context.federated_credentials(key)
        }
        ["applications", key, "federatedIdentityCredentials"] => context.federated_credentials(key),
        _ => Reply::graph_error(400, "Request_InvalidRequestUrl", "Resource not found for the segment."),
    }
}

fn percent_decode(path: &str) -> String {
    // A plus sign in a path is a plus sign; in a form it is a space.
    fields(&format!("p={}", path.replace('+', "%2B").replace('&', "%26"))).remove("p").unwrap_or_default()
}

/// A request with what it may see.
pub(crate) struct Context<'a> {
    pub(crate) world: &'a World,
    pub(crate) tenant: &'a Tenant,
    pub(crate) caller: &'a Caller,
    pub(crate) query: &'a HashMap<String, String>,
    request: &'a GraphRequest<'a>,
}

/// The GUID in `servicePrincipals(appId='…')`.
pub(crate) fn alternate_key(segment: &str) -> Option<Uuid> {
    let inner = segment.split_once("(appId='")?.1.strip_suffix("')")?;
    Uuid::parse_str(inner).ok()
}

impl Context<'_> {
    fn find(&self, key: &str) -> Option<&ServicePrincipal> {
        if key.contains('(') {
            return alternate_key(key).and_then(|app| self.tenant.principal(app));
        }
        Uuid::parse_str(key).ok().and_then(|id| self.tenant.principal_by_id(id))
    }

    fn own(&self, key: &str) -> bool {
        self.caller.user.is_none()
            && (alternate_key(key) == Some(self.caller.app_id)
                || self.find(key).is_some_and(|p| p.app_id == self.caller.app_id))
    }

    pub(crate) fn page(&self, items: Vec<Value>) -> Reply {
        let filter = match self.query.get("$filter").map(|f| Filter::parse(f)).transpose() {
            Ok(filter) => filter,
            Err(message) => return Reply::graph_error(400, "Request_UnsupportedQuery", &message),
        };
        let items = items.into_iter().filter(|i| filter.as_ref().is_none_or(|f| f.matches(i))).collect();
        let page = Page {
            query: self.query,
            eventual: self.request.eventual,
            graph: self.request.graph,
            target: self.request.target,
            most: self.tenant.page_size,
        };
        page.answer(items).unwrap_or_else(|e| *e)
    }

    fn principal_json(&self, principal: &ServicePrincipal) -> Value {
        let app = self.world.apps.get(&principal.app_id);
        let names = app.map(|a| a.names.clone()).unwrap_or_default();
        let deleted = principal.deleted.map(|d| d.to_string());
        let mode = principal.signing.as_ref().map(|_| "saml");
        let signing = principal.signing.clone().unwrap_or_default();
        let keys = if selects(self.query, "keyCredentials") { signing.key_credentials } else { Vec::new() };
        let offer = |pick: fn(&Offer) -> Option<Uuid>, app: &Registration, role: bool| {
            let entry = |o: &Offer| {
                pick(o).map(|id| if role {
                    json!({"id": id, "value": o.0, "displayName": o.0, "isEnabled": true, "allowedMemberTypes": ["Application"], "origin": "Application"})
                } else {
                    json!({"id": id, "value": o.0, "adminConsentDisplayName": o.0, "isEnabled": true, "type": "Admin"})
                })
            };
            app.offers.iter().filter_map(entry).collect::<Vec<_>>()
        };
        json!({
            "id": principal.id, "appId": principal.app_id, "displayName": app.map(|a| a.name.clone()), "accountEnabled": principal.enabled,
            "isDisabled": app.is_some_and(|a| a.deactivated), "disabledByMicrosoftStatus": principal.disabled_by_microsoft, "deletedDateTime": deleted,
            "servicePrincipalType": "Application", "appOwnerOrganizationId": app.and_then(|a| a.home), "appRoleAssignmentRequired": false,
            "signInAudience": "AzureADMultipleOrgs", "tags": ["WindowsAzureActiveDirectoryIntegratedApp"], "servicePrincipalNames": names,
            "preferredSingleSignOnMode": mode, "preferredTokenSigningKeyThumbprint": signing.preferred_thumbprint, "notificationEmailAddresses": [],
            "verifiedPublisher": {"displayName": null, "verifiedPublisherId": null, "addedDateTime": null}, "passwordCredentials": signing.password_credentials, "keyCredentials": keys,
            "appRoles": app.map(|a| offer(|o| o.1, a, true)).unwrap_or_default(),
            "oauth2PermissionScopes": app.map(|a| offer(|o| o.2, a, false)).unwrap_or_default(),
        })
    }

    fn service_principal(&self, key: &str) -> Reply {
        if !self.own(key) && !self.caller.may(&READ_APPS) {
            return denied();
        }
        match self.find(key) {
            Some(principal) => Reply::json(200, &select(self.principal_json(principal), self.query)),
            None => not_found(key),
        }
    }

    fn service_principals(&self) -> Reply {
        if !self.caller.may(&READ_APPS) {
            return denied();
        }
        self.page(
            self.tenant
                .principals
                .iter()
                .filter(|p| p.deleted.is_none())
                .map(|p| self.principal_json(p))
                .collect(),
        )
    }

    fn deleted(&self) -> Reply {
        if !self.caller.may(&READ_APPS) {
            return denied();
        }
        self.page(
            self.tenant
                .principals
                .iter()
                .filter(|p| p.deleted.is_some())
                .map(|p| self.principal_json(p))
                .collect(),
        )
    }

    fn grant_values(&self, client: Option<Uuid>) -> Vec<Value> {
        let live = self.tenant.grants.iter().filter(|g| {
            client.is_none_or(|c| c == g.client) && self.tenant.principal_by_id(g.client).is_some()
        });
        live.map(|g| {
            json!({"id": g.id, "clientId": g.client, "consentType": if g.principal.is_some() { "Principal" } else { "AllPrincipals" },
            "principalId": g.principal, "resourceId": g.resource, "scope": g.scope})
        })
        .collect()
    }

    fn all_grants(&self) -> Reply {
        if self.caller.may(&READ_DIRECTORY) { self.page(self.grant_values(None)) } else { denied() }
    }

    fn grants_of(&self, key: &str) -> Reply {
        if !self.caller.may(&READ_DIRECTORY) {
            return denied();
        }
        match self.find(key) {
            Some(principal) => self.page(self.grant_values(Some(principal.id))),
            None => not_found(key),
        }
    }

    fn assignments_of(&self, key: &str) -> Reply {
        if !self.caller.may(&READ_APPS) {
            return denied();
        }
        let Some(holder) = self.find(key) else { return not_found(key) };
        let name = |id: Uuid| {
            self.tenant
                .principal_by_id(id)
                .and_then(|p| self.world.apps.get(&p.app_id))
                .map(|a| a.name.clone())
        };
        let held = self.tenant.assignments.iter().filter(|a| a.principal == holder.id);
        self.page(
            held.map(|a| {
                json!({"id": a.id, "appRoleId": a.role, "createdDateTime": a.created.to_string(), "deletedDateTime": null,
            "principalId": a.principal, "principalDisplayName": name(a.principal), "principalType": "ServicePrincipal",
            "resourceId": a.resource, "resourceDisplayName": name(a.resource)})
            })
            .collect(),
        )
    }

    fn jobs(&self, id: &str) -> Reply {
        if !self.caller.may(&["Synchronization.Read.All", "Synchronization.ReadWrite.All"]) {
            return Reply::graph_error(401, "Unauthorized", "");
        }
        // Only the object id is documented here, not `appId` as a key.
        match Uuid::parse_str(id).ok().and_then(|id| self.tenant.principal_by_id(id)) {
            Some(principal) => {
                self.page(self.tenant.jobs.get(&principal.app_id).cloned().unwrap_or_default())
            }
            None => not_found(id),
        }
    }

    fn may_read_groups(&self) -> bool {
        // Guests may not list groups, whatever permissions are granted.
        let person_may = self
            .caller
            .user
            .is_none_or(|u| self.tenant.user(u).is_some_and(|u| u.enabled && !u.deleted && !u.guest));
        person_may && self.caller.may(&READ_GROUPS)
    }

    /// Groups that the caller can see.
    fn visible_groups(&self) -> impl Iterator<Item = &Group> {
        let person = self.caller.user.and_then(|u| self.tenant.user(u));
        self.tenant
            .groups
            .iter()
            .filter(move |g| !g.hidden && person.is_none_or(|p| !p.blind_to.contains(&g.name)))
    }

    fn groups(&self) -> Reply {
        if !self.may_read_groups() {
            return denied();
        }
        self.page(
            self.visible_groups()
                .map(|g| json!({"id": g.id, "displayName": g.name, "mailEnabled": false, "securityEnabled": true, "groupTypes": []}))
                .collect(),
        )
    }

    fn group(&self, id: &str) -> Reply {
        if !self.may_read_groups() {
            return denied();
        }
        let found = Uuid::parse_str(id).ok().and_then(|id| self.visible_groups().find(|g| g.id == id));
        match found {
            Some(g) => Reply::json(200, &select(json!({"id": g.id, "displayName": g.name}), self.query)),
            None => not_found(id),
        }
    }

    fn group_count(&self) -> Reply {
        if !self.may_read_groups() {
            return denied();
        }
        if !self.request.eventual {
            return Reply::graph_error(
                400,
                "Request_BadRequest",
                "$count is not currently supported without the ConsistencyLevel header.",
            );
        }
        Reply::text(200, self.visible_groups().count().to_string())
    }

    fn organization(&self) -> Reply {
        if !self.caller.may(&["Organization.Read.All", "Directory.Read.All", "User.Read"]) {
            return denied();
        }
        self.page(vec![json!({"id": self.tenant.id, "displayName": self.tenant.name,
            "verifiedDomains": [{"name": self.tenant.domain, "isDefault": true, "isInitial": true}]})])
    }

    fn me(&self) -> Reply {
        match self.caller.user.and_then(|u| self.tenant.user(u)) {
            Some(user) if self.caller.may(&["User.Read"]) => {
                let kind = if user.guest { "Guest" } else { "Member" };
                let body = json!({"id": user.id, "displayName": user.name, "userPrincipalName": user.upn, "userType": kind});
                Reply::json(200, &select(body, self.query))
            }
            Some(_) => denied(),
            None => Reply::graph_error(
                400,
                "BadRequest",
                "/me request is only valid with delegated authentication flow.",
            ),
        }
    }

    fn roles(&self) -> Reply {
        match self.caller.user.and_then(|u| self.tenant.user(u)) {
            Some(user) if self.caller.may(&["User.Read"]) => self.page(
                user.roles
                    .iter()
                    .map(|role| json!({"@odata.type": "#microsoft.graph.directoryRole", "id": role, "roleTemplateId": role}))
                    .collect(),
            ),
            Some(_) => denied(),
            None => Reply::graph_error(400, "BadRequest", "/me request is only valid with delegated authentication flow."),
        }
    }
}
