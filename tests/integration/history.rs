//! What happened in the fleet: the page `/events` and `/api/v1/events`.

use serde_json::Value;

use crate::visitor::Visitor;
use crate::world::{MINUTE, World, situation};

async fn api(url: &str, query: &str) -> (u16, Value) {
    let answer = Visitor::new().get(&format!("{url}/api/v1/events{query}")).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
}

fn kinds(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|e| {
            format!("{} {}", e["integration"].as_str().unwrap_or("-"), e["kind"].as_str().unwrap_or("?"))
        })
        .collect()
}

#[tokio::test]
async fn the_history_of_the_fleet_is_listed_filtered_and_paged() {
    let site = World::reachable("").await.site().await;
    let fleet = &site.fleet;
    fleet.pass(6 * MINUTE).await;
    let begun = jiff::Timestamp::from_millisecond(fleet.clock.now().0).expect("a time");
    for name in ["contoso", "litware"] {
        fleet.act((situation(name).breaks)(&situation(name).tenant()));
        fleet.pass(12 * MINUTE).await;
    }
    fleet.act((situation("litware").fix)("litware.example"));
    fleet.pass(12 * MINUTE).await;

    // The tokens of the demo were imported by the real clock.
    let day = begun.to_string();
    let (status, all) = api(&site.url, &format!("?since={day}")).await;
    assert_eq!(status, 200);
    let all = {
        let mut all = all;
        all["items"].as_array_mut().expect("a list").retain(|e| e["kind"] != "token_stored");
        all
    };
    assert_eq!(kinds(&all), ["litware recovered", "litware broken", "contoso broken"], "{all}");
    assert_eq!(all["items"][2]["text"], "Broken: A permission that the integration needs was taken away.");
    assert_eq!((&all["items"][2]["app"], &all["next"]), (&"sequr".into(), &Value::Null));
    for (query, expected) in [
        ("?kind=broken", vec!["litware broken", "contoso broken"]),
        ("?reason=app_deleted", vec!["litware recovered", "litware broken"]),
        ("?integration=contoso&kind=broken", vec!["contoso broken"]),
        ("?app=sequr&kind=recovered", vec!["litware recovered"]),
        ("?app=rota", vec![]),
        (&format!("?until={day}"), vec![]),
        (&format!("?since={day}&kind=recovered"), vec!["litware recovered"]),
        ("?limit=1", vec!["litware recovered"]),
    ] {
        assert_eq!(kinds(&api(&site.url, query).await.1), expected, "{query}");
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = api(&site.url, &format!("?limit=1&since={day}{after}")).await.1;
        seen.extend(kinds(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    seen.retain(|event| !event.ends_with("token_stored"));
    assert_eq!(seen, kinds(&all), "page by page");
    for (query, words) in [
        ("?kind=nothing", "kind must be one of"),
        ("?since=soon", "since must be a time"),
        ("?limit=0", "limit"),
    ] {
        let (status, problem) = api(&site.url, query).await;
        assert_eq!(status, 400, "{query}");
        assert!(problem["detail"].as_str().unwrap_or_default().contains(words), "{query}: {problem}");
    }

    let page = |query: &str| {
        let url = format!("{}/events{query}", site.url);
        async move { Visitor::new().get(&url).await }
    };
    let shown = page("?kind=broken&app=&reason=").await;
    assert_eq!(shown.status, 200);
    assert!(
        shown.body.contains("integrations/litware") && shown.body.contains("app_deleted"),
        "{}",
        shown.body
    );
    assert!(!shown.body.contains("Working again"), "{}", shown.body);
    let wrong = page("?since=%3Cscript%3E").await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.body.contains("since must be a time") && !wrong.body.contains("<script>"),
        "{}",
        wrong.body
    );
}
