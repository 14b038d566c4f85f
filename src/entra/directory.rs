//! What a directory reader requests of a tenant: one `$batch`, and one more request only if the application is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use super::Entra;
use super::classify::GraphCaller;
use super::graph::{BATCH_LIMIT, BatchItem, GraphRequest, ItemAnswer, PAGE_LIMIT, encode, literal};
use crate::domain::{
    Directory, Fault, GRAPH_APP_ID, Presence, Reason, RequiredPermissions, ResourceGrants, ScopeGrant,
    Timestamp,
};

/// How long deleted applications can be restored (Microsoft, `restore-application.md`).
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

/// Resources that were looked up before. Role names are stored once per resource, object ids once per tenant.
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
            let role =
                |r: &Value| Some((r["id"].as_str()?.to_ascii_lowercase(), r["value"].as_str()?.to_owned()));
            roles.iter().filter_map(role).collect::<HashMap<_, _>>()
        });
        let mut known = lock(&self.roles);
        let complete = listed.as_ref().is_some_and(|l| !l.is_empty()) || known.contains_key(resource);
        let roles = match listed.filter(|l| !l.is_empty()) {
            // Roles are the same in every tenant. The newest list counts; the old allocation stays if nothing
            // has changed.
            Some(listed) if known.get(resource).is_none_or(|k| **k != listed) => {
                let shared = Arc::new(listed);
                known.insert(resource.to_owned(), Arc::clone(&shared));
                shared
            }
            _ => known.get(resource).cloned().unwrap_or_default(),
        };
        let found = Resource { object_id, roles };
        if !complete {
            // Without role names it is used for this probe only.
            return Some(found);
        }
        lock(&self.by_tenant).insert((tenant.to_owned(), resource.to_owned()), found.clone());
        Some(found)
    }

    fn forget(&self, tenant: &str) {
        lock(&self.by_tenant).retain(|(t, _), _| t != tenant);
    }

    /// Clears the lists, because a role was seen that they do not contain.
    fn forget_roles(&self) {
        lock(&self.roles).clear();
        lock(&self.by_tenant).clear();
    }

    /// Whether the roles of a resource are known, from any tenant.
    fn knows_roles(&self, resource: &str) -> bool {
        lock(&self.roles).contains_key(resource)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
    mutex.lock()
}

/// What is requested of a tenant's directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryQuestion<'a> {
    /// GUID or verified domain, as configured.
    pub tenant: &'a str,
    /// The application to look for.
    pub app_id: &'a str,
    /// Its required permissions: their resources are looked up.
    pub required: &'a [RequiredPermissions],
    /// When the answer must be complete.
    pub deadline: Instant,
}

impl Entra {
    /// Reads the directory with a reader's token.
    pub async fn directory(
        &self,
        token: &str,
        question: DirectoryQuestion<'_>,
        cache: &ResourceCache,
    ) -> Directory {
        let request = GraphRequest { token, caller: GraphCaller::Reader, deadline: question.deadline };
        let mut answers = match self.batch(request, &questions(question, cache)).await {
            Ok(answers) => answers,
            Err(fault) => return Directory::failed(fault),
        };
        let mut object_id = None;
        let shown = match answers.remove("app").map(|a| a.found(request.caller)) {
            Some(Ok(Some(object))) if is_another(&object, question.app_id) => {
                Err(invalid("the directory shows another application"))
            }
            Some(Ok(Some(object))) => {
                object_id = object["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
                presence(&object)
            }
            Some(Ok(None)) => self.deleted(request, question.app_id).await,
            Some(Err(fault)) => Err(fault),
            None => Err(invalid("no answer about the service principal")),
        };
        // An empty list differs from the list of an application that does not exist.
        let grants = self.listed(request, answers.remove("grants")).await;
        let roles = self.listed(request, answers.remove("roles")).await;
        let (presence, grants, roles) = agreed(shown, grants, roles);
        let resources = match resources(question, cache, &mut answers) {
            Ok(resources) => resources,
            Err(fault) => {
                return Directory {
                    presence,
                    object_id,
                    delegated: Err(fault.clone()),
                    application: Err(fault),
                };
            }
        };
        let delegated = grants.and_then(|items| delegated(&items, &resources));
        let application = roles.and_then(|items| application(&items, &resources));
        if has_nameless_roles(&application, question) {
            cache.forget_roles();
        }
        if has_strangers(&delegated, question) || has_strangers(&application, question) {
            // A resource that was deleted and consented to again has a new object id (Microsoft,
            // `restore-application.md`).
            cache.forget(question.tenant);
        }
        Directory { presence, object_id, delegated, application }
    }

    /// Requested only after a 404. A reader that may not read the deleted items has still seen that the application is gone.
    async fn deleted(&self, request: GraphRequest<'_>, app_id: &str) -> Result<Presence, Fault> {
        let url = format!(
            "{}/v1.0/directory/deletedItems/microsoft.graph.servicePrincipal?$filter={}&$select=id,appId,displayName,deletedDateTime",
            self.cloud.graph_url,
            encode(&format!("appId eq {}", literal(app_id)))
        );
        let found = match self.get(request, &url).await {
            Ok(page) => self.pages(request, page).await,
            Err(fault) => Err(fault),
        };
        match found {
            Ok(mut items) => {
                items.retain(|item| !is_another(item, app_id));
                Ok(newest_deletion(&items))
            }
            Err(fault) if fault.reason == Reason::ReaderPermissionMissing => Ok(Presence::Absent),
            Err(fault) if fault.reason == Reason::TenantMissing => Err(fault),
            // The advice to the admin depends on whether it can be restored.
            Err(fault) => {
                let detail = format!(
                    "the directory does not show the application, and whether it was deleted cannot be read: {}",
                    fault.detail
                );
                Ok(Presence::Unclear(Fault { detail, ..fault }))
            }
        }
    }

    /// All items of a collection whose first page came in a batch; `None` if Graph says that the object they belong to does not exist.
    async fn listed(
        &self,
        request: GraphRequest<'_>,
        first: Option<ItemAnswer>,
    ) -> Result<Option<Vec<Value>>, Fault> {
        let answer = first.ok_or_else(|| invalid("no answer about a list of permissions"))?;
        match answer.found(request.caller)? {
            Some(page) => self.pages(request, page).await.map(Some),
            None => Ok(None),
        }
    }

    /// The items of a page and of the pages that follow it.
    pub(super) async fn pages(
        &self,
        request: GraphRequest<'_>,
        mut page: Value,
    ) -> Result<Vec<Value>, Fault> {
        let (mut items, mut links) = (Vec::new(), HashSet::new());
        for _ in 0..PAGE_LIMIT {
            match &page["value"] {
                Value::Array(values) => items.extend(values.iter().cloned()),
                _ => return Err(invalid("a list has no value")),
            }
            let Some(next) = self.next_link(&page)?.map(str::to_owned) else { return Ok(items) };
            if !links.insert(next.clone()) {
                break;
            }
            page = self.get(request, &next).await?;
        }
        // With half a list, the permissions in the other half would count as missing.
        Err(invalid("a list has too many pages, or links back to one that was read"))
    }
}

fn invalid(detail: &str) -> Fault {
    Fault::new(Reason::InvalidResponse, detail)
}

/// The items of a list, `None` if Graph says that the object they belong to does not exist.
type Listed = Result<Option<Vec<Value>>, Fault>;

/// The items of a list.
type Items = Result<Vec<Value>, Fault>;

/// Combines the responses of one batch. They come from one caller at one time, so they have to agree: an application that is shown has
/// lists, even if they are empty, and one that does not exist has none. If they do not agree, a replica is behind or a proxy answers
/// instead of Graph, and neither response is used.
fn agreed(
    shown: Result<Presence, Fault>,
    grants: Listed,
    roles: Listed,
) -> (Result<Presence, Fault>, Items, Items) {
    let lists_something = |list: &Listed| matches!(list, Ok(Some(items)) if !items.is_empty());
    let shown = match shown {
        Ok(Presence::Absent) if lists_something(&grants) || lists_something(&roles) => Ok(Presence::Unclear(
            invalid("the directory does not show the application, but lists permissions of it"),
        )),
        other => other,
    };
    let missing = match &shown {
        Ok(Presence::Present { .. }) => Err(invalid(
            "the directory shows the application, but says that the lists of its permissions do not exist",
        )),
        Ok(Presence::Unclear(fault)) | Err(fault) => Err(fault.clone()),
        // Its permissions were deleted with it.
        Ok(Presence::Absent | Presence::Deleted { .. }) => Ok(Vec::new()),
    };
    let complete = |list: Listed| list.and_then(|items| items.map_or_else(|| missing.clone(), Ok));
    let (grants, roles) = (complete(grants), complete(roles));
    (shown, grants, roles)
}

/// The deletion in the list of deleted service principals, which was filtered for the application. It may have been deleted more than once.
fn newest_deletion(items: &[Value]) -> Presence {
    let deleted =
        items.iter().map(|i| i["deletedDateTime"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()));
    match deleted.max() {
        Some(newest) => Presence::Deleted {
            restorable_until: newest.map(|t| Timestamp(t.as_millisecond()).plus(RESTORABLE)),
        },
        None => Presence::Absent,
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
    let unknown = question
        .required
        .iter()
        .enumerate()
        .filter(|(_, r)| cache.get(question.tenant, &r.resource).is_none());
    for (index, required) in unknown.take(BATCH_LIMIT - items.len()) {
        // Graph's own list of roles is long, and one tenant's list is valid for all.
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

/// The required resources with their object ids. One that is not in the tenant grants nothing and is left out.
fn resources(
    question: DirectoryQuestion<'_>,
    cache: &ResourceCache,
    answers: &mut HashMap<String, ItemAnswer>,
) -> Result<Vec<(String, Resource)>, Fault> {
    let mut found = Vec::new();
    for (index, required) in question.required.iter().enumerate() {
        let name = required.resource.clone();
        if let Some(answer) = answers.remove(&format!("res{index}")) {
            let Some(body) = answer.found(GraphCaller::Reader)? else {
                may_be_absent(&name)?;
                continue;
            };
            let object = if body["value"].is_array() { body["value"][0].clone() } else { body.clone() };
            if object.is_null() {
                if body["@odata.nextLink"].is_string() {
                    return Err(invalid("a service principal is on no page that was read"));
                }
                may_be_absent(&name)?;
                continue;
            }
            let resource = cache.put(question.tenant, &name, &object);
            found.push((name, resource.ok_or_else(|| invalid("a service principal has no id"))?));
        } else if let Some(resource) = cache.get(question.tenant, &name) {
            found.push((name, resource));
        }
    }
    Ok(found)
}

/// Whether an object belongs to another application than the requested one: then a server answers that ignores the request.
pub(super) fn is_another(object: &Value, app_id: &str) -> bool {
    object["appId"].as_str().is_some_and(|id| !id.eq_ignore_ascii_case(app_id))
}

/// Microsoft Graph is in every tenant, so a directory that does not show it is not trusted.
fn may_be_absent(resource: &str) -> Result<(), Fault> {
    match ResourceKey::of(resource) {
        ResourceKey::AppId(GRAPH_APP_ID) => {
            Err(invalid("the directory does not show Microsoft Graph, which is in every tenant"))
        }
        _ => Ok(()),
    }
}

fn presence(object: &Value) -> Result<Presence, Fault> {
    if object["id"].as_str().is_none() {
        return Err(invalid("a service principal has no id"));
    }
    let by_microsoft =
        object["disabledByMicrosoftStatus"].as_str().filter(|s| !s.is_empty() && *s != "NotDisabled");
    let by_owner =
        (object["isDisabled"] == true).then_some("deactivated by the owner of the app registration");
    let blocked = by_microsoft.map(|s| {
        format!(
            "disabled by Microsoft: {}",
            s.chars().filter(char::is_ascii_graphic).take(80).collect::<String>()
        )
    });
    Ok(Presence::Present {
        enabled: object["accountEnabled"] != false,
        blocked: blocked.or(by_owner.map(str::to_owned)),
    })
}

/// The entry of a resource among the grants, created if it does not exist.
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
        let id = item["resourceId"].as_str().ok_or_else(|| invalid("a grant has no resourceId"))?;
        // A grant that is not for everybody is for one user, whose id may be unknown.
        let everybody =
            item["consentType"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("AllPrincipals"));
        let principal = (!everybody).then(|| item["principalId"].as_str().unwrap_or_default().to_owned());
        // Leading blanks, double blanks and null occur (Microsoft Graph, `oauth2permissiongrant.md`, and
        // observed responses).
        let scopes =
            item["scope"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        entry(&mut grants, resources, id).0.delegated.push(ScopeGrant { principal, scopes });
    }
    Ok(grants)
}

fn application(items: &[Value], resources: &[(String, Resource)]) -> Result<Vec<ResourceGrants>, Fault> {
    let mut grants = Vec::new();
    for item in items {
        let id = item["resourceId"].as_str().ok_or_else(|| invalid("an assignment has no resourceId"))?;
        let role = item["appRoleId"].as_str().unwrap_or_default().to_ascii_lowercase();
        let (grant, resource) = entry(&mut grants, resources, id);
        // All zeros is "default access", which is no role (Microsoft Graph, `approleassignment.md`). A role
        // that is no longer defined appears with its id.
        if role != "00000000-0000-0000-0000-000000000000" {
            let name = resource.and_then(|r| r.roles.get(&role).cloned());
            grant.application.push(name.unwrap_or(role));
        }
    }
    Ok(grants)
}

/// Whether there are grants on resources that are not required: one may be a required resource with a new object id.
fn has_strangers(grants: &Result<Vec<ResourceGrants>, Fault>, question: DirectoryQuestion<'_>) -> bool {
    grants
        .as_ref()
        .is_ok_and(|g| g.iter().any(|g| !question.required.iter().any(|r| r.resource == g.resource)))
}

/// Whether a required resource has granted a role that its list does not contain.
fn has_nameless_roles(grants: &Result<Vec<ResourceGrants>, Fault>, question: DirectoryQuestion<'_>) -> bool {
    let nameless = |g: &ResourceGrants| g.application.iter().any(|role| uuid::Uuid::try_parse(role).is_ok());
    grants.as_ref().is_ok_and(|g| {
        g.iter().any(|g| nameless(g) && question.required.iter().any(|r| r.resource == g.resource))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_ways_to_disable_an_application_are_seen() {
        let present = |enabled, blocked: Option<&str>| Presence::Present {
            enabled,
            blocked: blocked.map(str::to_owned),
        };
        for (object, expected) in [
            (
                json!({"id": "x", "accountEnabled": true, "isDisabled": null, "disabledByMicrosoftStatus": null}),
                present(true, None),
            ),
            (
                json!({"id": "x", "accountEnabled": true, "disabledByMicrosoftStatus": "NotDisabled"}),
                present(true, None),
            ),
            (json!({"id": "x", "accountEnabled": false}), present(false, None)),
            (
                json!({"id": "x", "isDisabled": true}),
                present(true, Some("deactivated by the owner of the app registration")),
            ),
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
    fn all_observed_forms_of_grants_are_read() {
        let graph = Resource {
            object_id: "G".to_owned(),
            roles: Arc::new(HashMap::from([("r1".to_owned(), "Group.Read.All".to_owned())])),
        };
        let resources = vec![("microsoft_graph".to_owned(), graph)];
        let items = [
            json!({"resourceId": "g", "consentType": "AllPrincipals", "scope": " User.Read  Group.Read.All"}),
            json!({"resourceId": "G", "consentType": "Principal", "principalId": "ada", "scope": null}),
            json!({"resourceId": "other", "consentType": "AllPrincipals", "scope": "x"}),
            json!({"resourceId": "G", "consentType": "allprincipals", "principalId": null, "scope": "Mail.Read"}),
            json!({"resourceId": "G", "consentType": null, "principalId": null, "scope": "Mail.Send"}),
        ];
        let grants = delegated(&items, &resources).expect("grants");
        assert_eq!(grants[0].delegated[0].scopes, ["User.Read", "Group.Read.All"]);
        assert_eq!(
            (grants[0].delegated[1].principal.as_deref(), grants[0].delegated[1].scopes.len()),
            (Some("ada"), 0)
        );
        assert_eq!(
            (grants[0].delegated[2].principal.as_deref(), &*grants[0].delegated[2].scopes),
            (None, &["Mail.Read".to_owned()][..])
        );
        assert_eq!(grants[0].delegated[3].principal.as_deref(), Some(""), "an unknown user's");
        assert_eq!(grants[1].resource, "other");
        let roles =
            [json!({"resourceId": "G", "appRoleId": "R1"}), json!({"resourceId": "G", "appRoleId": "gone"})];
        assert_eq!(
            application(&roles, &resources).expect("roles")[0].application,
            ["Group.Read.All", "gone"]
        );
    }

    #[test]
    fn responses_of_one_batch_have_to_agree() {
        let present = || Ok(Presence::Present { enabled: true, blocked: None });
        let deleted = || Ok(Presence::Deleted { restorable_until: None });
        let down = || Fault::new(Reason::UpstreamUnavailable, "");
        let some = || Ok(Some(vec![json!({"id": "1"})]));
        let empty = || Ok(Some(Vec::new()));
        let none = || Ok(None);
        let invalid = Err(Reason::InvalidResponse);
        let unclear = |reason| Ok(Err(reason));
        for (sentence, shown, grants, roles, expected) in [
            ("all is well", present(), some(), empty(), (Ok(Ok(true)), Ok(1), Ok(0))),
            ("no permissions at all", present(), empty(), empty(), (Ok(Ok(true)), Ok(0), Ok(0))),
            ("shown, and its grants do not exist", present(), none(), some(), (Ok(Ok(true)), invalid, Ok(1))),
            ("shown, and its roles do not exist", present(), some(), none(), (Ok(Ok(true)), Ok(1), invalid)),
            (
                "gone, and all lists with it",
                Ok(Presence::Absent),
                none(),
                none(),
                (Ok(Ok(false)), Ok(0), Ok(0)),
            ),
            (
                "gone, and the lists are empty",
                Ok(Presence::Absent),
                empty(),
                empty(),
                (Ok(Ok(false)), Ok(0), Ok(0)),
            ),
            (
                "gone, and yet it has grants",
                Ok(Presence::Absent),
                some(),
                none(),
                (unclear(Reason::InvalidResponse), Ok(1), invalid),
            ),
            (
                "gone, and yet it has roles",
                Ok(Presence::Absent),
                none(),
                some(),
                (unclear(Reason::InvalidResponse), invalid, Ok(1)),
            ),
            ("among the deleted items", deleted(), none(), none(), (Ok(Ok(false)), Ok(0), Ok(0))),
            (
                "gone, and the deleted items cannot be read",
                Ok(Presence::Unclear(down())),
                none(),
                none(),
                (
                    unclear(Reason::UpstreamUnavailable),
                    Err(Reason::UpstreamUnavailable),
                    Err(Reason::UpstreamUnavailable),
                ),
            ),
            (
                "it is unknown, and its lists do not exist",
                Err(down()),
                none(),
                some(),
                (Err(Reason::UpstreamUnavailable), Err(Reason::UpstreamUnavailable), Ok(1)),
            ),
            (
                "a list fails",
                present(),
                Err(down()),
                empty(),
                (Ok(Ok(true)), Err(Reason::UpstreamUnavailable), Ok(0)),
            ),
        ] {
            let (presence, grants, roles) = agreed(shown, grants, roles);
            let presence = presence.map_err(|f| f.reason).map(|p| match p {
                Presence::Unclear(fault) => Err(fault.reason),
                Presence::Present { .. } => Ok(true),
                Presence::Absent | Presence::Deleted { .. } => Ok(false),
            });
            let length =
                |list: Result<Vec<Value>, Fault>| list.map(|items| items.len()).map_err(|f| f.reason);
            assert_eq!((presence, length(grants), length(roles)), expected, "{sentence}");
        }
    }

    #[test]
    fn the_newest_deletion_counts() {
        let deletion = |at: &str| json!({"id": "x", "deletedDateTime": at});
        for (items, expected) in [
            (vec![], Presence::Absent),
            (vec![json!({"id": "x"})], Presence::Deleted { restorable_until: None }),
            (
                vec![deletion("2026-01-01T00:00:00Z"), deletion("2026-03-01T00:00:00Z"), json!({"id": "y"})],
                Presence::Deleted {
                    restorable_until: Some(Timestamp::from_seconds(1_772_323_200).plus(RESTORABLE)),
                },
            ),
        ] {
            assert_eq!(newest_deletion(&items), expected);
        }
    }
}
