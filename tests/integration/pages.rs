//! The status pages over real sockets: what is shown, found, filtered; the two buttons.

use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, World, situation};

#[tokio::test]
async fn the_status_page_says_what_is_wrong_since_when() {
    let site = Site::start().await;
    let mut visitor = Visitor::new();
    let page = visitor.get(&format!("{}/", site.url)).await;
    assert!(page.status == 200 && page.body.contains("Nothing is broken, 10 not known yet"), "{}", page.body);
    site.fleet.pass(6 * MINUTE).await;
    assert!(visitor.get(&format!("{}/", site.url)).await.body.contains("All 10 integrations work"));
    for name in ["contoso", "litware"] {
        let situation = situation(name);
        site.fleet.act((situation.breaks)(&situation.tenant()));
    }
    site.fleet.pass(12 * MINUTE).await;
    let body = visitor.get(&format!("{}/", site.url)).await.body;
    for words in [
        "2 of 10 integrations broken",
        "A permission that the integration needs was taken away.",
        "The enterprise application was deleted.",
        "favicon.svg?state=broken",
        "href=\"integrations/contoso\"",
        "<time datetime=\"2026-",
    ] {
        assert!(body.contains(words), "{words}: {body}");
    }
    assert!(
        body.find("integrations/litware") < body.find("integrations/adatum"),
        "what is broken comes first"
    );
    for (query, found) in [
        ("?state=broken", "1–2 of 2"),
        ("?state=healthy", "1–8 of 8"),
        ("?reason=app_deleted", "1–1 of 1"),
        ("?app=Rota", "1–2 of 2"),
        ("?q=contoso", "1–1 of 1"),
        ("?q=%3Cscript%3E", "No integration matches."),
        ("?page=99", "1–10 of 10"),
        ("?page=-1&sort=nonsense&state=healthy", "1–8 of 8"),
    ] {
        let page = visitor.get(&format!("{}/{query}", site.url)).await;
        assert!(
            page.status == 200 && page.body.contains(found) && !page.body.contains("<script>"),
            "{query}: {}",
            page.body
        );
    }
    let policy = visitor.get(&format!("{}/", site.url)).await.header("content-security-policy").to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    for (path, kind) in [
        ("assets/status.css", "text/css"),
        ("assets/status.js", "text/javascript"),
        ("favicon.svg?state=broken", "image/svg+xml"),
    ] {
        let asset = visitor.get(&format!("{}/{path}", site.url)).await;
        assert!(asset.status == 200 && asset.header("content-type").starts_with(kind), "{path}");
    }
}

#[tokio::test]
async fn one_integration_in_full() {
    let site = Site::start().await;
    let situation = situation("litware");
    site.fleet.pass(6 * MINUTE).await;
    site.fleet.act((situation.breaks)(&situation.tenant()));
    site.fleet.pass(12 * MINUTE).await;
    let address = format!("{}/integrations/litware", site.url);
    let mut visitor = Visitor::new();
    let body = visitor.get(&address).await.body;
    for words in [
        "The enterprise application was deleted.",
        "What to do:",
        "Can be restored until",
        "Permissions: for the same reason.",
        "AADSTS7000229",
        "Group.Read.All",
        "by import, renewed",
        "Broken: The enterprise application was deleted.",
        "A refresh token was imported",
        "alert to it@litware.example, sent",
        "Groups visible",
        "directory reader reader",
    ] {
        assert!(body.contains(words), "{words}: {body}");
    }
    assert!(!body.contains("demo-secret") && !body.contains("1.SIM"), "no secrets");
    for path in ["nobody", "nobody/probe", "../nowhere", "%2e%2e%2f", "litware/nothing"] {
        assert_eq!(visitor.get(&format!("{}/integrations/{path}", site.url)).await.status / 100, 4, "{path}");
    }
    // The buttons: only from our own page, and by POST.
    for (button, refused, accepted) in [("probe", 403, 303), ("link", 403, 200)] {
        let address = format!("{address}/{button}");
        assert_eq!(visitor.get(&address).await.status, 405, "{button}");
        assert_eq!(
            visitor.post(&address, &[], &[("sec-fetch-site", "cross-site")]).await.status,
            refused,
            "{button}"
        );
        assert_eq!(
            visitor.post(&address, &[], &[("origin", "https://evil.example")]).await.status,
            refused,
            "{button}"
        );
        assert_eq!(
            visitor.post(&address, &[], &[("sec-fetch-site", "same-origin")]).await.status,
            accepted,
            "{button}"
        );
        assert_eq!(
            visitor.post(&address.replace("litware", "nobody"), &[], &[]).await.status,
            404,
            "{button}"
        );
    }
    let link = visitor.post(&format!("{address}/link"), &[], &[]).await.body;
    let link = link
        .split("<code>")
        .nth(1)
        .and_then(|l| l.split("</code>").next())
        .expect("a link")
        .replace("&#38;", "&");
    assert_eq!(visitor.get(&link).await.status, 200, "{link}");
    let before = site.fleet.series("consentry_integration_last_probe_timestamp_seconds", "litware");
    site.fleet.clock.set(site.fleet.clock.now().plus(std::time::Duration::from_secs(2)));
    visitor.post(&format!("{address}/probe"), &[], &[]).await;
    site.fleet.daemon.monitor.run_until(site.fleet.clock.now()).await;
    assert_ne!(
        site.fleet.series("consentry_integration_last_probe_timestamp_seconds", "litware"),
        before,
        "an extra probe was made"
    );
}

/// Names from the configuration and from the directory are shown as text, whatever they contain.
#[tokio::test]
async fn hostile_names_stay_text() {
    let mut world = World::reachable("").await;
    world
        .set("integrations.contoso.display_name", "\"<script>alert(1)</script>\"")
        .set("apps.sequr.display_name", "\"<b>&amp;\\\"'\"");
    let site = world.site().await;
    site.fleet.pass(6 * MINUTE).await;
    let mut visitor = Visitor::new();
    for path in ["", "integrations/contoso", "?app=%3Cb%3E%26amp%3B%22%27"] {
        let page = visitor.get(&format!("{}/{path}", site.url)).await;
        assert!(
            page.status == 200 && !page.body.contains("<script>alert") && !page.body.contains("<b>&amp;"),
            "{path}: {}",
            page.body
        );
    }
}
