//! What a directory reader asks of a tenant: one `$batch`, and one more request only when the application is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Entra;
use super::classify::GraphCaller;
use super::graph::{Asker, BATCH_LIMIT, BatchItem, ItemAnswer, encode, literal};
use crate::domain::{Directory, Fault, Presence, Reason, RequiredPermissions, ResourceGrants, ScopeGrant, Timestamp};

/// App id of Microsoft Graph, the same in every tenant and cloud (Microsoft Graph, `concepts/paging.md`).
const GRAPH_APP_ID: &str = "00000003-0000-0000-c000-000000000000";

/// Deleted applications can be restored for so long (Microsoft, `restore-application.md`).
const RESTORABLE: Duration = Duration::from_secs(30 * 86_400);

/// How a resource is named in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceKey<'a> {
    /// By app id.
    AppId(&'a str),
    /// By one of its service principal names.
    Name(&'a str),
}

impl<'a> ResourceKey<'a> {
    /// Reads `microsoft_graph`, an app id, or a service principal name.
    pub fn of(configured: &'a str) -> Self {
        match configured {
            "microsoft_graph" => Self::AppId(GRAPH_APP_ID),
            id if uuid::Uuid::try_parse(id).is_ok() => Self::AppId(id),
            name => Self::Name(name),
        }
    }

    /// The `.default` scope of the resource (Microsoft, `v2-oauth2-client-creds-grant-flow.md`), for tokens.
    pub fn scope(&self, graph: &str) -> String {
        match self {
            Self::AppId(GRAPH_APP_ID) => format!("{graph}/.default"),
            Self::AppId(id) => format!("{id}/.default"),
            Self::Name(name) => format!("{}/.default", name.trim_end_matches('/')),
        }
    }
}

/// A resource in a tenant: its object id there, and the names of its roles (shared by all tenants).
#[derive(Debug, Clone)]
struct Resource {
    object_id: String,
    roles: Arc<HashMap<String, String>>,
}

/// Resources that were looked up before. Role names are kept once per resource, object ids once per tenant.
#[derive(Debug, Default)]
pub struct ResourceCache {
    by_tenant: Mutex<HashMap<(String, String), Resource>>,
    roles: Mutex<HashMap<String, Arc<HashMap<String, String>>>>,
}

impl ResourceCache {
    fn get(&self, tenant: &str, resource: &str) -> Option<Resource> {
        lock(&self.by_tenant).get(&(tenant.to_owned(), resource.to_owned())).cloned()
    }

    fn put(&self, tenant: &str, resource: &str, object: &Value) -> Option<Resource> {
        let object_id = object["id"].as_str()?.to_owned();
        let listed = object["appRoles"].as_array().map(|roles| {
            let role = |r: &Value| Some((r["id"].as_str()?.to_ascii_lowercase(), r["value"].as_str()?.to_owned()));
            roles.iter().filter_map(role).collect::<HashMap<_, _>>()
        });
        let mut known = lock(&self.roles);
        let complete = listed.as_ref().is_some_and(|l| !l.is_empty()) || known.contains_key(resource);
        let roles = match listed.filter(|l| !l.is_empty()) {
            // Roles are the same in every tenant; the newest list wins, the old allocation stays when nothing changed.
            Some(listed) if known.get(resource).is_none_or(|k| **k != listed) => {
                let shared = Arc::new(listed);
                known.insert(resource.to_owned(), Arc::clone(&shared));
                shared
            }
            _ => known.get(resource).cloned().unwrap_or_default(),
        };
        let found = Resource { object_id, roles };
        if !complete {
            // Without role names it serves this probe only.
            return Some(found);
        }
        lock(&self.by_tenant).insert((tenant.to_owned(), resource.to_owned()), found.clone());
        Some(found)
    }

    fn forget(&self, tenant: &str) {
        lock(&self.by_tenant).retain(|(t, _), _| t != tenant);
    }

    /// A role that no list names: the lists are old.
    fn forget_roles(&self) {
        lock(&self.roles).clear();
        lock(&self.by_tenant).clear();
    }

    /// Whether the roles of a resource are known already, from whatever tenant.
    fn knows_roles(&self, resource: &str) -> bool {
        lock(&self.roles).contains_key(resource)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked of a tenant's directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryQuestion<'a> {
    /// GUID or verified domain, as configured.
    pub tenant: &'a str,
    /// The application asked after.
    pub app_id: &'a str,
    /// Its required permissions: the resources to look at.
    pub required: &'a [RequiredPermissions],
    /// When the answer must be there.
    pub deadline: Instant,
}

impl Entra {
    /// Asks the directory, with a reader's token.
    pub async fn directory(&self, token: &str, question: DirectoryQuestion<'_>, cache: &ResourceCache) -> Directory {
        let asker = Asker { token, caller: GraphCaller::Reader, deadline: question.deadline };
        let mut answers = match self.batch(asker, &questions(question, cache)).await {
            Ok(answers) => answers,
            Err(fault) => return Directory { presence: Err(fault.clone()), delegated: Err(fault.clone()), application: Err(fault) },
        };
        let presence = match answers.remove("app").map(|a| a.found(asker.caller)) {
            Some(Ok(Some(object))) => presence(&object),
            Some(Ok(None)) => self.deleted(asker, question.app_id).await,
            Some(Err(fault)) => Err(fault),
            None => Err(Fault::new(Reason::InvalidResponse, "no answer about the service principal")),
        };
        let resources = match resources(question, cache, &mut answers) {
            Ok(resources) => resources,
            Err(fault) => return Directory { presence, delegated: Err(fault.clone()), application: Err(fault) },
        };
        let delegated = self.listed(asker, answers.remove("grants")).await.and_then(|items| delegated(&items, &resources));
        let application = self.listed(asker, answers.remove("roles")).await.and_then(|items| application(&items, &resources));
        if has_nameless_roles(&application, question) {
            cache.forget_roles();
        }
        if has_strangers(&delegated, question) || has_strangers(&application, question) {
            // A resource that was deleted and consented again has a new object id (Microsoft, `restore-application.md`).
            cache.forget(question.tenant);
        }
        Directory { presence, delegated, application }
    }

    /// Asked only after a 404. A reader that may not look there has still seen that the application is gone.
    async fn deleted(&self, asker: Asker<'_>, app_id: &str) -> Result<Presence, Fault> {
        let url = format!(
            "{}/v1.0/directory/deletedItems/microsoft.graph.servicePrincipal?$filter={}&$select=id,appId,displayName,deletedDateTime",
            self.hosts.graph,
            encode(&format!("appId eq {}", literal(app_id)))
        );
        let body = match self.get(asker, &url).await {
            Ok(body) => body,
            Err(fault) if fault.reason == Reason::ReaderPermissionMissing => return Ok(Presence::Absent),
            // Not knowing whether it can be restored is not knowing what to tell the admin.
            Err(fault) => return Err(fault),
        };
        let times = body["value"].as_array().into_iter().flatten();
        let deleted = times.map(|i| i["deletedDateTime"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()));
        Ok(match deleted.max() {
            Some(newest) => Presence::Deleted { restorable_until: newest.map(|t| Timestamp(t.as_millisecond()).plus(RESTORABLE)) },
            None => Presence::Absent,
        })
    }

    /// All items of a collection whose first page came in a batch.
    async fn listed(&self, asker: Asker<'_>, first: Option<ItemAnswer>) -> Result<Vec<Value>, Fault> {
        let mut items = Vec::new();
        let Some(answer) = first else { return Ok(items) };
        // 404: the application is gone, and so are its grants.
        let Some(mut page) = answer.found(asker.caller)? else { return Ok(items) };
        for _ in 0..BATCH_LIMIT {
            match &page["value"] {
                Value::Array(values) => items.extend(values.iter().cloned()),
                _ => return Err(Fault::new(Reason::InvalidResponse, "a list has no value")),
            }
            match self.next_link(&page)?.map(str::to_owned) {
                Some(next) => page = self.get(asker, &next).await?,
                None => return Ok(items),
            }
        }
        // Half a list would make missing what stands in the other half.
        Err(Fault::new(Reason::InvalidResponse, "a list has too many pages"))
    }
}

fn questions(question: DirectoryQuestion<'_>, cache: &ResourceCache) -> Vec<BatchItem> {
    let principal = format!("/servicePrincipals(appId='{}')", question.app_id);
    let item = |id: &str, url: String| BatchItem { id: id.to_owned(), url };
    let select = "id,appId,displayName,accountEnabled,isDisabled,disabledByMicrosoftStatus";
    let mut items = vec![
        item("app", format!("{principal}?$select={select}")),
        item("grants", format!("{principal}/oauth2PermissionGrants")),
        item("roles", format!("{principal}/appRoleAssignments")),
    ];
    let unknown = question.required.iter().enumerate().filter(|(_, r)| cache.get(question.tenant, &r.resource).is_none());
    for (index, required) in unknown.take(BATCH_LIMIT - items.len()) {
        // Graph's own list of roles is long; one tenant's answer serves all.
        let properties = if cache.knows_roles(&required.resource) { "id,appId" } else { "id,appId,appRoles" };
        let url = match ResourceKey::of(&required.resource) {
            ResourceKey::AppId(id) => format!("/servicePrincipals(appId='{id}')?$select={properties}"),
            ResourceKey::Name(name) => {
                format!(
                    "/servicePrincipals?$select={properties}&$filter={}",
                    encode(&format!("servicePrincipalNames/any(n:n eq {})", literal(name)))
                )
            }
        };
        items.push(item(&format!("res{index}"), url));
    }
    items
}

/// The required resources with their object ids; one that is not in the tenant grants nothing and is left out.
fn resources(
    question: DirectoryQuestion<'_>,
    cache: &ResourceCache,
    answers: &mut HashMap<String, ItemAnswer>,
) -> Result<Vec<(String, Resource)>, Fault> {
    let mut found = Vec::new();
    for (index, required) in question.required.iter().enumerate() {
        let name = required.resource.clone();
        if let Some(answer) = answers.remove(&format!("res{index}")) {
            let Some(body) = answer.found(GraphCaller::Reader)? else { continue };
            let object = if body["value"].is_array() { body["value"][0].clone() } else { body };
            if object.is_null() {
                continue;
            }
            let resource = cache.put(question.tenant, &name, &object);
            found.push((name, resource.ok_or_else(|| Fault::new(Reason::InvalidResponse, "a service principal has no id"))?));
        } else if let Some(resource) = cache.get(question.tenant, &name) {
            found.push((name, resource));
        }
    }
    Ok(found)
}

fn presence(object: &Value) -> Result<Presence, Fault> {
    if object["id"].as_str().is_none() {
        return Err(Fault::new(Reason::InvalidResponse, "a service principal has no id"));
    }
    let by_microsoft = object["disabledByMicrosoftStatus"].as_str().filter(|s| !s.is_empty() && *s != "NotDisabled");
    let by_owner = (object["isDisabled"] == true).then_some("deactivated by the owner of the app registration");
    let blocked =
        by_microsoft.map(|s| format!("disabled by Microsoft: {}", s.chars().filter(char::is_ascii_graphic).take(80).collect::<String>()));
    Ok(Presence::Present { enabled: object["accountEnabled"] != false, blocked: blocked.or(by_owner.map(str::to_owned)) })
}

/// The entry of a resource among the grants, made when it is not there yet.
fn entry<'g>(
    grants: &'g mut Vec<ResourceGrants>,
    resources: &[(String, Resource)],
    id: &str,
) -> (&'g mut ResourceGrants, Option<Resource>) {
    let known = resources.iter().find(|(_, r)| r.object_id.eq_ignore_ascii_case(id));
    let name = known.map_or(id, |(name, _)| name);
    let index = grants.iter().position(|g| g.resource == name).unwrap_or_else(|| {
        grants.push(ResourceGrants { resource: name.to_owned(), ..ResourceGrants::default() });
        grants.len() - 1
    });
    (&mut grants[index], known.map(|(_, r)| r.clone()))
}

fn delegated(items: &[Value], resources: &[(String, Resource)]) -> Result<Vec<ResourceGrants>, Fault> {
    let mut grants = Vec::new();
    for item in items {
        let id = item["resourceId"].as_str().ok_or_else(|| Fault::new(Reason::InvalidResponse, "a grant has no resourceId"))?;
        let principal =
            if item["consentType"] == "AllPrincipals" { None } else { Some(item["principalId"].as_str().unwrap_or_default().to_owned()) };
        // Leading blanks, double blanks, null: as found in the wild (Microsoft Graph, `oauth2permissiongrant.md`, and replies seen in the field).
        let scopes = item["scope"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        entry(&mut grants, resources, id).0.delegated.push(ScopeGrant { principal, scopes });
    }
    Ok(grants)
}

fn application(items: &[Value], resources: &[(String, Resource)]) -> Result<Vec<ResourceGrants>, Fault> {
    let mut grants = Vec::new();
    for item in items {
        let id = item["resourceId"].as_str().ok_or_else(|| Fault::new(Reason::InvalidResponse, "an assignment has no resourceId"))?;
        let role = item["appRoleId"].as_str().unwrap_or_default().to_ascii_lowercase();
        let (grant, resource) = entry(&mut grants, resources, id);
        // All zeros is "default access": no role (Microsoft Graph, `approleassignment.md`). A role that is no longer defined is reported by its id.
        if role != "00000000-0000-0000-0000-000000000000" {
            let name = resource.and_then(|r| r.roles.get(&role).cloned());
            grant.application.push(name.unwrap_or(role));
        }
    }
    Ok(grants)
}

/// Whether there are grants on resources that nobody required: maybe a required one under a new object id.
fn has_strangers(grants: &Result<Vec<ResourceGrants>, Fault>, question: DirectoryQuestion<'_>) -> bool {
    grants.as_ref().is_ok_and(|g| g.iter().any(|g| !question.required.iter().any(|r| r.resource == g.resource)))
}

/// Whether a required resource has granted a role that its list does not name.
fn has_nameless_roles(grants: &Result<Vec<ResourceGrants>, Fault>, question: DirectoryQuestion<'_>) -> bool {
    let nameless = |g: &ResourceGrants| g.application.iter().any(|role| uuid::Uuid::try_parse(role).is_ok());
    grants.as_ref().is_ok_and(|g| g.iter().any(|g| nameless(g) && question.required.iter().any(|r| r.resource == g.resource)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_four_ways_to_be_off() {
        let present = |enabled, blocked: Option<&str>| Presence::Present { enabled, blocked: blocked.map(str::to_owned) };
        for (object, expected) in [
            (json!({"id": "x", "accountEnabled": true, "isDisabled": null, "disabledByMicrosoftStatus": null}), present(true, None)),
            (json!({"id": "x", "accountEnabled": true, "disabledByMicrosoftStatus": "NotDisabled"}), present(true, None)),
            (json!({"id": "x", "accountEnabled": false}), present(false, None)),
            (json!({"id": "x", "isDisabled": true}), present(true, Some("deactivated by the owner of the app registration"))),
            (
                json!({"id": "x", "disabledByMicrosoftStatus": "DisabledDueToX"}),
                present(true, Some("disabled by Microsoft: DisabledDueToX")),
            ),
            (json!({"id": "x"}), present(true, None)),
        ] {
            assert_eq!(presence(&object), Ok(expected), "{object}");
        }
        assert_eq!(presence(&json!({})).map_err(|f| f.reason), Err(Reason::InvalidResponse));
    }

    #[test]
    fn grants_as_found_in_the_wild() {
        let graph =
            Resource { object_id: "G".to_owned(), roles: Arc::new(HashMap::from([("r1".to_owned(), "Group.Read.All".to_owned())])) };
        let resources = vec![("microsoft_graph".to_owned(), graph)];
        let items = [
            json!({"resourceId": "g", "consentType": "AllPrincipals", "scope": " User.Read  Group.Read.All"}),
            json!({"resourceId": "G", "consentType": "Principal", "principalId": "ada", "scope": null}),
            json!({"resourceId": "other", "consentType": "AllPrincipals", "scope": "x"}),
        ];
        let grants = delegated(&items, &resources).expect("grants");
        assert_eq!(grants[0].delegated[0].scopes, ["User.Read", "Group.Read.All"]);
        assert_eq!((grants[0].delegated[1].principal.as_deref(), grants[0].delegated[1].scopes.len()), (Some("ada"), 0));
        assert_eq!(grants[1].resource, "other");
        let roles = [json!({"resourceId": "G", "appRoleId": "R1"}), json!({"resourceId": "G", "appRoleId": "gone"})];
        assert_eq!(application(&roles, &resources).expect("roles")[0].application, ["Group.Read.All", "gone"]);
    }
}
