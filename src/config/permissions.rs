//! Resources and permissions have several spellings each, and administrators copy all of them from various places. This module reduces
//! them to one spelling, because the rest of the program compares them.

use super::values::{is_permission, parse_guid};
use crate::domain::GRAPH_APP_ID;

/// How the configuration names Microsoft Graph.
const GRAPH: &str = "microsoft_graph";

/// Its hosts in Microsoft's clouds (Microsoft Graph, `deployments.md`).
const GRAPH_HOSTS: [&str; 4] = [
    "graph.microsoft.com",
    "graph.microsoft.us",
    "dod-graph.microsoft.us",
    "microsoftgraph.chinacloudapi.cn",
];

/// Common informal names of Microsoft Graph, in lower case and without spaces and punctuation.
const GRAPH_NAMES: [&str; 7] =
    ["graph", "msgraph", "graphapi", "msgraphapi", "microsoftgraph", "microsoftgraphapi", "azuregraph"];

/// A resource in its one spelling: `microsoft_graph`, an application id in lower case, or the name of a service principal. The error says
/// what is wrong.
pub(super) fn resource(text: &str, graph_url: &str) -> Result<String, &'static str> {
    let text = text.trim();
    // This accepts a GUID in braces or without dashes, too.
    if let Ok(id) = uuid::Uuid::try_parse(text) {
        let id = id.to_string();
        return Ok(if id == GRAPH_APP_ID { GRAPH.to_owned() } else { id });
    }
    if text == GRAPH || graph_urls(graph_url).any(|url| text.trim_end_matches('/').eq_ignore_ascii_case(&url))
    {
        return Ok(GRAPH.to_owned());
    }
    if means_graph(text, graph_url) {
        return Err("is not the name of Microsoft Graph here; did you mean microsoft_graph?");
    }
    if text.to_ascii_lowercase().ends_with("/.default") {
        return Err("is a scope, not a resource; write it without /.default");
    }
    if text.chars().filter(char::is_ascii_hexdigit).count() >= 30
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-{}".contains(c))
    {
        return Err(
            "is not an application id, which has 32 hexadecimal digits like 00000003-0000-0000-c000-000000000000",
        );
    }
    if text.contains(char::is_whitespace) {
        return Err(
            "is a display name; write an app id, or one of the servicePrincipalNames, such as https://vault.azure.net",
        );
    }
    if text.chars().any(char::is_control) {
        return Err("contains a control character; write an app id, or the name of a service principal");
    }
    Ok(text.to_owned())
}

/// A permission's bare value. The error says what is wrong and what to write instead.
pub(super) fn permission(text: &str, resource: &str, graph_url: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let value = without_own_prefix(text, resource, graph_url).unwrap_or(text);
    if value.eq_ignore_ascii_case(".default") || value.to_ascii_lowercase().ends_with("/.default") {
        return Err(
            "is not a permission: .default stands for whatever is registered; list the permissions one by one",
        );
    }
    // Permission values may contain slashes, but Graph's never do.
    if names_a_resource(value) || (resource == GRAPH && value.contains('/')) {
        return Err(
            "begins with another resource than this entry's; give that resource an entry of its own, and write the value alone here",
        );
    }
    if parse_guid(value).is_some() {
        return Err("is the id of a permission; write its value, such as Group.Read.All");
    }
    if is_permission(value) {
        Ok(value.to_owned())
    } else {
        Err("is not a permission value such as Group.Read.All")
    }
}

fn graph_urls(graph_url: &str) -> impl Iterator<Item = String> {
    GRAPH_HOSTS
        .into_iter()
        .map(|host| format!("https://{host}"))
        .chain([graph_url.trim_end_matches('/').to_owned()])
}

/// Whether a text that is not one of Microsoft Graph's names is probably meant as one.
fn means_graph(text: &str, graph_url: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let squeezed: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    let authority = lower.split_once("//").map_or(lower.as_str(), |(_, rest)| rest);
    let host = authority.split(['/', ':', '?']).next().unwrap_or_default();
    let own = graph_url.split_once("://").map_or(graph_url, |(_, rest)| rest);
    GRAPH_NAMES.contains(&squeezed.as_str())
        || strsim::damerau_levenshtein(&squeezed, "microsoftgraph") <= 2
        || GRAPH_HOSTS.contains(&host)
        || authority.trim_end_matches('/').eq_ignore_ascii_case(own)
        || lower.contains(GRAPH_APP_ID)
        || strsim::damerau_levenshtein(&lower, GRAPH_APP_ID) <= 2
}

/// The value of a scope that begins with its resource (Microsoft, `scopes-oidc.md`): `https://graph.microsoft.com/User.Read`,
/// `api://…/access_as_user`. Scopes of a resource that ends with a slash contain two slashes.
fn without_own_prefix<'t>(text: &'t str, resource: &str, graph_url: &str) -> Option<&'t str> {
    let after = |prefix: &str| {
        let start = text.get(..prefix.len())?;
        let rest = text[prefix.len()..].strip_prefix('/')?;
        start.eq_ignore_ascii_case(prefix).then(|| rest.trim_start_matches('/'))
    };
    if resource == GRAPH {
        let names = [GRAPH, GRAPH_APP_ID].into_iter().chain(GRAPH_HOSTS).map(str::to_owned);
        return graph_urls(graph_url).chain(names).find_map(|prefix| after(&prefix));
    }
    let resource = resource.trim_end_matches('/');
    let bare = resource.split_once("://").map_or(resource, |(_, host)| host);
    if let Some(value) = after(resource).or_else(|| after(bare)) {
        return Some(value);
    }
    // An application id URI ends with the id: api://ID, api://TENANT/ID, https://contoso.com/ID.
    let id = resource.rsplit('/').next().and_then(parse_guid)?;
    let (prefix, value) = text.rsplit_once('/')?;
    let start = prefix.len().checked_sub(id.len()).filter(|at| prefix.is_char_boundary(*at))?;
    let bounded = start == 0 || prefix[..start].ends_with('/');
    (bounded && prefix[start..].eq_ignore_ascii_case(&id)).then_some(value)
}

/// Whether a value begins with the name of a resource: a URI, an application id, or a name of Microsoft Graph.
fn names_a_resource(value: &str) -> bool {
    let graph =
        |first: &str| first == GRAPH || GRAPH_HOSTS.iter().any(|host| first.eq_ignore_ascii_case(host));
    value.contains("://")
        || value.split_once('/').is_some_and(|(first, _)| parse_guid(first).is_some() || graph(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBAL: &str = "https://graph.microsoft.com";
    const APP: &str = "6f1c0000-0000-0000-0000-00000000000a";

    #[test]
    fn resources_have_one_name_each() {
        for (text, graph_url, expected) in [
            ("microsoft_graph", GLOBAL, Ok(GRAPH)),
            (" microsoft_graph ", GLOBAL, Ok(GRAPH)),
            ("00000003-0000-0000-c000-000000000000", GLOBAL, Ok(GRAPH)),
            ("00000003-0000-0000-C000-000000000000", GLOBAL, Ok(GRAPH)),
            ("https://graph.microsoft.com", GLOBAL, Ok(GRAPH)),
            ("https://graph.microsoft.com/", GLOBAL, Ok(GRAPH)),
            ("https://Graph.Microsoft.com", GLOBAL, Ok(GRAPH)),
            ("https://graph.microsoft.us", "https://graph.microsoft.us", Ok(GRAPH)),
            (
                "https://microsoftgraph.chinacloudapi.cn/",
                "https://microsoftgraph.chinacloudapi.cn",
                Ok(GRAPH),
            ),
            ("http://127.0.0.1:9", "http://127.0.0.1:9", Ok(GRAPH)),
            ("6F1C0000-0000-0000-0000-00000000000A", GLOBAL, Ok(APP)),
            ("https://vault.azure.net", GLOBAL, Ok("https://vault.azure.net")),
            ("api://contoso/orders", GLOBAL, Ok("api://contoso/orders")),
            ("Contoso Graph of Orders", GLOBAL, Err("display name")),
            ("{6f1c0000-0000-0000-0000-00000000000a}", GLOBAL, Ok(APP)),
            ("6f1c000000000000000000000000000a", GLOBAL, Ok(APP)),
            ("{00000003-0000-0000-c000-000000000000}", GLOBAL, Ok(GRAPH)),
            ("6f1c0000-0000-0000-0000-0000000000", GLOBAL, Err("not an application id")),
            ("6f1c0000-0000-0000-0000-00000000000g", GLOBAL, Err("not an application id")),
            ("00000003-0000-0000-c000-00000000000", GLOBAL, Err("microsoft_graph")),
            ("https://vault.azure.net/.default", GLOBAL, Err("without /.default")),
            ("//graph.microsoft.com", GLOBAL, Err("microsoft_graph")),
            ("Microsoft Graph", GLOBAL, Err("microsoft_graph")),
            ("microsoft graph", GLOBAL, Err("microsoft_graph")),
            ("Microsoft\u{a0}Graph", GLOBAL, Err("microsoft_graph")),
            ("Microsoft_Graph", GLOBAL, Err("microsoft_graph")),
            ("MICROSOFT_GRAPH", GLOBAL, Err("microsoft_graph")),
            ("MicrosoftGraph", GLOBAL, Err("microsoft_graph")),
            ("microsoft-graph", GLOBAL, Err("microsoft_graph")),
            ("microsft_grpah", GLOBAL, Err("microsoft_graph")),
            ("graph", GLOBAL, Err("microsoft_graph")),
            ("Graph API", GLOBAL, Err("microsoft_graph")),
            ("ms_graph", GLOBAL, Err("microsoft_graph")),
            ("graph.microsoft.com", GLOBAL, Err("microsoft_graph")),
            ("http://graph.microsoft.com", GLOBAL, Err("microsoft_graph")),
            ("https://graph.microsoft.com/v1.0", GLOBAL, Err("microsoft_graph")),
            ("https://graph.microsoft.com/.default", GLOBAL, Err("microsoft_graph")),
            ("dod-graph.microsoft.us", GLOBAL, Err("microsoft_graph")),
            ("127.0.0.1:9", "http://127.0.0.1:9", Err("microsoft_graph")),
            ("api://00000003-0000-0000-c000-000000000000", GLOBAL, Err("microsoft_graph")),
            ("contoso\u{7}", GLOBAL, Err("control character")),
        ] {
            match (resource(text, graph_url), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn permissions_have_one_spelling_each() {
        let china = "https://microsoftgraph.chinacloudapi.cn";
        let (other, api) = ("another resource", "api://contoso/orders");
        for (text, of, graph_url, expected) in [
            ("User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            (" User.Read ", GRAPH, GLOBAL, Ok("User.Read")),
            ("https://graph.microsoft.com/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("https://graph.microsoft.com//User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("https://GRAPH.microsoft.com/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("00000003-0000-0000-c000-000000000000/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("00000003-0000-0000-C000-000000000000/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("graph.microsoft.com/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("microsoft_graph/User.Read", GRAPH, GLOBAL, Ok("User.Read")),
            ("https://microsoftgraph.chinacloudapi.cn/User.Read", GRAPH, china, Ok("User.Read")),
            ("http://127.0.0.1:9/User.Read", GRAPH, "http://127.0.0.1:9", Ok("User.Read")),
            ("openid", GRAPH, GLOBAL, Ok("openid")),
            ("access_as_user", APP, GLOBAL, Ok("access_as_user")),
            ("api://6f1c0000-0000-0000-0000-00000000000a/access_as_user", APP, GLOBAL, Ok("access_as_user")),
            (
                "api://contoso.com/6F1C0000-0000-0000-0000-00000000000A/access_as_user",
                APP,
                GLOBAL,
                Ok("access_as_user"),
            ),
            ("6f1c0000-0000-0000-0000-00000000000a/access_as_user", APP, GLOBAL, Ok("access_as_user")),
            ("api://contoso/orders/Orders.Read", api, GLOBAL, Ok("Orders.Read")),
            (
                "https://vault.azure.net/user_impersonation",
                "https://vault.azure.net/",
                GLOBAL,
                Ok("user_impersonation"),
            ),
            (
                "vault.azure.net/user_impersonation",
                "https://vault.azure.net",
                GLOBAL,
                Ok("user_impersonation"),
            ),
            ("orders/read", api, GLOBAL, Ok("orders/read")),
            ("graph.microsoft.com/User.Read", APP, GLOBAL, Err(other)),
            ("microsoft_graph/User.Read", APP, GLOBAL, Err(other)),
            (".default", GRAPH, GLOBAL, Err(".default")),
            (".Default", GRAPH, GLOBAL, Err(".default")),
            ("https://graph.microsoft.com/.default", GRAPH, GLOBAL, Err(".default")),
            ("api://contoso/orders/.default", api, GLOBAL, Err(".default")),
            ("https://vault.azure.net/.default", GRAPH, GLOBAL, Err(".default")),
            ("https://vault.azure.net/user_impersonation", GRAPH, GLOBAL, Err(other)),
            ("api://contoso/orders/Orders.Read", GRAPH, GLOBAL, Err(other)),
            ("https://graph.microsoft.com/User.Read", APP, GLOBAL, Err(other)),
            ("00000003-0000-0000-c000-000000000000/User.Read", APP, GLOBAL, Err(other)),
            ("00000002-0000-0000-c000-000000000000/User.Read", GRAPH, GLOBAL, Err(other)),
            ("x6f1c0000-0000-0000-0000-00000000000a/User.Read", GRAPH, GLOBAL, Err(other)),
            ("https://graph.microsoft.com.example.com/User.Read", GRAPH, GLOBAL, Err(other)),
            ("e1fe6dd8-ba31-4d61-89e7-88639da4683d", GRAPH, GLOBAL, Err("id of a permission")),
            ("User.Read Group.Read.All", GRAPH, GLOBAL, Err("not a permission value")),
            ("User.Read,Group.Read.All", GRAPH, GLOBAL, Err("not a permission value")),
            ("User\u{200b}.Read", GRAPH, GLOBAL, Err("not a permission value")),
            ("https://graph.microsoft.com/", GRAPH, GLOBAL, Err("not a permission value")),
            ("", GRAPH, GLOBAL, Err("not a permission value")),
        ] {
            match (permission(text, of, graph_url), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
