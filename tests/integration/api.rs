//! The API over real sockets: lists in a stable order, evidence, problem details, and probes that Prometheus
//! triggers.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, World, situation};

async fn json(visitor: &mut Visitor, url: &str) -> Value {
    let page = visitor.get(url).await;
    assert!(
        page.status == 200 && page.header("content-type") == "application/json",
        "{url}: {} {}",
        page.status,
        page.body
    );
    serde_json::from_str(&page.body).expect("JSON")
}

async fn names(visitor: &mut Visitor, url: &str) -> Vec<String> {
    let list = json(visitor, url).await;
    list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|i| i["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn integrations_are_listed_filtered_and_paged() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    for name in ["contoso", "litware"] {
        let situation = situation(name);
        site.fleet.act((situation.breaks)(&situation.tenant()));
    }
    site.fleet.pass(12 * MINUTE).await;
    let (mut visitor, base) = (Visitor::new(), format!("{}/api/v1/integrations", site.url));
    let all = names(&mut visitor, &base).await;
    assert!(all.len() == 10 && all.is_sorted(), "{all:?}");
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = json(&mut visitor, &format!("{base}?limit=3&after={after}")).await;
        assert_eq!(page["total"], 10);
        paged.extend(
            page["items"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|i| i["name"].as_str().expect("a name").to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut after);
    }
    assert_eq!(paged, all, "page by page, each once");
    for (query, expected) in [
        ("state=broken", vec!["contoso", "litware"]),
        ("reason=app_deleted", vec!["litware"]),
        ("app=rota", vec!["adatum", "fabrikam"]),
        ("q=conto", vec!["contoso"]),
        ("state=unknown", vec![]),
    ] {
        assert_eq!(names(&mut visitor, &format!("{base}?{query}")).await, expected, "{query}");
    }
    let detail = json(&mut visitor, &format!("{base}/litware")).await;
    assert_eq!((detail["state"].as_str(), detail["reason"].as_str()), (Some("broken"), Some("app_deleted")));
    assert_eq!(detail["checks"][0]["remedy"], "reauthenticate");
    assert!(
        detail["checks"][0]["restorable_until"].is_string() && detail["checks"][2]["code"] == "AADSTS7000229",
        "{detail}"
    );
    assert_eq!(detail["tenant_id"], situation("litware").tenant_id().to_string());
    assert!(detail["last_24_hours"].as_str().is_some_and(|d| d.ends_with('f') && d.len() == 24));
    assert!(!detail.to_string().contains("1.SIM"), "no token");
    let credentials = serde_json::json!([
        {"directory_reader": null, "kind": "client secret", "expires": null},
        {"directory_reader": "reader", "kind": "client secret", "expires": null},
    ]);
    assert_eq!(detail["credentials"], credentials);
    let events = json(&mut visitor, &format!("{base}/litware/events")).await;
    assert_eq!(
        (events["items"][0]["kind"].as_str(), events["items"][0]["detail"].as_str()),
        (Some("broken"), Some("app_deleted"))
    );
}

#[tokio::test]
async fn errors_are_problem_details() {
    let site = Site::start().await;
    let (mut visitor, base) = (Visitor::new(), format!("{}/api/v1", site.url));
    for (method, path, status, words) in [
        ("GET", "integrations?state=sick", 400, "healthy, broken or unknown"),
        ("GET", "integrations?limit=0", 400, "from 1 to 1000"),
        ("GET", "integrations?reason=bad_luck", 400, "known reasons"),
        ("GET", "integrations/nobody", 404, "no integration has this name"),
        ("GET", "integrations/nobody/events", 404, "no integration has this name"),
        ("POST", "integrations/nobody/probe", 404, "no integration has this name"),
        ("GET", "integrations/%ff", 400, "UTF-8"),
        ("DELETE", "integrations/contoso", 405, "DELETE"),
        ("GET", "nothing", 404, "openapi.json"),
    ] {
        let page = visitor.request(method, &format!("{base}/{path}")).await;
        let problem: Value = serde_json::from_str(&page.body).unwrap_or_default();
        let said = problem["detail"].as_str().unwrap_or_default();
        assert_eq!(
            (page.status, page.header("content-type")),
            (status, "application/problem+json"),
            "{method} {path}: {}",
            page.body
        );
        assert!(
            said.contains(words) && problem["status"] == status && problem["title"].is_string(),
            "{method} {path}: {said}"
        );
    }
    let probe = format!("{base}/integrations/contoso/probe");
    assert_eq!(visitor.post(&probe, &[], &[("sec-fetch-site", "cross-site")]).await.status, 403);
    assert_eq!(visitor.post(&probe, &[], &[]).await.status, 202);
    assert_eq!(visitor.get(&probe).await.status, 405);
}

/// The document names every path and every reason that there is.
#[tokio::test]
async fn the_openapi_document_matches_the_api() {
    let site = Site::start().await;
    let document = json(&mut Visitor::new(), &format!("{}/api/v1/openapi.json", site.url)).await;
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")));
    let paths: Vec<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    for path in ["", "/{name}", "/{name}/events", "/{name}/probe"] {
        assert!(paths.contains(&format!("/api/v1/integrations{path}").as_str()), "{path}: {paths:?}");
    }
    let parameters =
        document["paths"]["/api/v1/integrations"]["get"]["parameters"].as_array().expect("parameters");
    let reason = parameters.iter().find(|p| p["name"] == "reason").expect("a parameter");
    let named: BTreeSet<&str> =
        reason["schema"]["enum"].as_array().expect("an enum").iter().filter_map(Value::as_str).collect();
    assert_eq!(named, consentry::domain::Reason::ALL.iter().map(|r| r.label()).collect());
}

/// `/probe?target=NAME` in the running program: probes now, unless the last result is very recent, and
/// returns the metrics of this integration only.
#[tokio::test]
async fn prometheus_can_trigger_probes() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    let url = &daemon.url;
    let mut visitor = Visitor::new();
    for (query, status) in [("", 400), ("?target=", 400), ("?target=nobody", 404)] {
        assert_eq!(visitor.get(&format!("{url}/probe{query}")).await.status, status, "{query}");
    }
    let page = visitor.get(&format!("{url}/probe?target=contoso")).await;
    assert!(page.body.contains("consentry_integration_up{integration=\"contoso\"} 1\n"), "{}", page.body);
    assert!(!page.body.contains("litware") && !page.body.contains("consentry_build_info"));
    let badge = visitor.get(&format!("{url}/integrations/contoso/badge.svg")).await;
    assert!(
        badge.header("content-type") == "image/svg+xml" && badge.body.contains("Contoso: healthy"),
        "{}",
        badge.body
    );
    assert_eq!(visitor.get(&format!("{url}/integrations/nobody/badge.svg")).await.status, 404);
    daemon.kill().await;
}
