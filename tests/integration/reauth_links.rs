//! Links and kinds of re-authentication: how long a link is valid, which browser may complete a sign-in, and
//! the paths of the pages.

use std::collections::BTreeMap;
use std::time::Duration;

use consentry::demo;
use entra_sim::Action;

use crate::reauth::{broken, counted};
use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, World};

#[tokio::test]
async fn a_sign_in_is_bound_to_browser_time_and_one_use() {
    let site = Site::start().await;
    let link = site.fresh_link("northwind");
    let (mut visitor, mut stranger) = (Visitor::new(), Visitor::new());
    let callback = visitor.accept(&link).await;
    let page = stranger.get(&callback).await;
    assert_eq!((page.status, page.body.contains("another browser")), (403, true), "{}", page.body);
    assert_eq!(visitor.get(&callback).await.status, 303, "a stranger cannot use it up");
    assert_eq!(stranger.get(&callback).await.status, 403, "nor see how it went");
    assert_eq!(site.results(), counted(&[("error", 2), ("success", 1)]));

    let link = site.fresh_link("fabrikam");
    let late = visitor.accept(&site.fresh_link("contoso")).await;
    let entra = visitor.press(&link).await;
    site.fleet.pass(11 * MINUTE).await;
    let page = visitor.get(&late).await;
    assert_eq!(
        (page.status, page.body.contains("took too long"), page.body.contains("Try again")),
        (410, true, true),
        "{}",
        page.body
    );
    assert_eq!(site.results(), counted(&[("error", 2), ("expired", 1), ("success", 1)]));
    assert!(entra.contains("adminconsent"));

    for unknown in
        ["", "?state=nobody&code=1.x", "?code=1.x", "?error=access_denied&state=x", "?state=a&state=b&code=c"]
    {
        assert_eq!(
            visitor.get(&format!("{}/reauth/callback{unknown}", site.url)).await.status,
            400,
            "{unknown}"
        );
    }
    assert_eq!(
        site.results(),
        counted(&[("error", 2), ("expired", 1), ("success", 1)]),
        "strangers are not counted"
    );
}

/// Two links, two tabs: a later link does not end an earlier one. The first success ends all links that were
/// made before it.
#[tokio::test]
async fn a_success_ends_all_links_made_before_it() {
    let site = Site::start().await;
    let first = site.fresh_link("northwind");
    site.fleet.pass(MINUTE).await;
    let second = site.fresh_link("northwind");
    let (mut one, mut two) = (Visitor::new(), Visitor::new());
    let slow = two.accept(&first).await;
    let callback = one.accept(&second).await;
    assert_eq!(one.get(&callback).await.status, 303);
    for dead in [&first, &second] {
        let page = one.get(dead).await;
        assert_eq!((page.status, page.body.contains("<form")), (410, false));
        let posted = one
            .post(
                &dead.replace("?token=", "?x="),
                &[("token".to_owned(), dead.split("token=").nth(1).expect("a token").to_owned())],
                &[],
            )
            .await;
        assert_eq!(posted.status, 410, "nor does the button work");
    }
    let page = two.get(&slow).await;
    assert_eq!((page.status, page.body.contains("used meanwhile")), (410, true), "{}", page.body);
    site.fleet.pass(MINUTE).await;
    assert_eq!(one.get(&site.fresh_link("northwind")).await.status, 200, "a link made afterwards is valid");
    assert_eq!(one.get(&site.fresh_link("fabrikam")).await.status, 200, "others are not affected");
    assert_eq!(one.get(&site.fresh_link("nobody")).await.status, 403, "an unknown integration");
}

/// Mail scanners open links; nothing changes, however often and with whatever method.
#[tokio::test]
async fn opening_a_link_changes_nothing() {
    let site = Site::start().await;
    broken(&site, "proseware").await;
    let link = site.mailed_link("proseware");
    let rows = || std::fs::read(site.fleet.folder.path().join("consentry.db-wal")).unwrap_or_default();
    let (mut visitor, before) = (Visitor::new(), rows());
    for _ in 0..20 {
        assert_eq!(visitor.get(&link).await.status, 200);
        let head = visitor.request("HEAD", &link).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    }
    for method in ["PUT", "DELETE", "PATCH"] {
        assert_eq!(visitor.request(method, &link).await.status, 405, "{method}");
    }
    assert!(rows() == before, "the database is as it was");
    assert!(visitor.cookies.is_empty());
    let page = visitor.get(&link).await;
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("strict-transport-security", ""),
    ] {
        assert_eq!(page.header(name), value, "{name}");
    }
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("frame-ancestors 'none'")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(
        !page.body.contains("<script") && !page.body.contains("style=") && !page.body.contains("<style"),
        "nothing inline"
    );
    let (action, fields) = page.form();
    for (name, value) in
        [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example"), ("origin", "null")]
    {
        assert_eq!(visitor.post(&action, &fields, &[(name, value)]).await.status, 403, "{name}");
    }
    assert_eq!(visitor.post(&action, &[], &[]).await.status, 403, "no token, no sign-in");
    let begun =
        visitor.post(&action, &fields, &[("sec-fetch-site", "same-origin"), ("origin", "null")]).await;
    let cookie = begun.header("set-cookie");
    assert!(
        begun.status == 303
            && cookie.contains("HttpOnly; SameSite=Lax")
            && cookie.contains("Path=/reauth;")
            && !cookie.contains("Secure"),
        "{cookie}"
    );
}

#[tokio::test]
async fn guessing_is_limited_and_valid_links_are_not() {
    let site = Site::start().await;
    let (mut visitor, link) = (Visitor::new(), site.fresh_link("northwind"));
    let mut statuses = BTreeMap::new();
    for i in 0..200 {
        let status = visitor.get(&format!("{}/reauth/northwind?token=guess{i}", site.url)).await.status;
        *statuses.entry(status).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(403, 150), (429, 50)]));
    assert_eq!(visitor.get(&link).await.status, 200);
    assert_eq!(visitor.get(&format!("{}/reauth/callback?state=guess&code=x", site.url)).await.status, 429);
}

/// Two proxies in front of the same pages: one strips the path of the public URL, and one does not.
#[tokio::test]
async fn the_pages_work_below_a_path() {
    let site = World::reachable("/watch/dogs").await.site().await;
    let link = site.fresh_link("northwind");
    assert!(link.contains("/watch/dogs/reauth/northwind?token="));
    let mut visitor = Visitor::new();
    let page = visitor.get(&link).await;
    let style = url::Url::parse(&page.url).expect("a URL").join(
        page.body
            .split("stylesheet\" href=\"")
            .nth(1)
            .and_then(|h| h.split('"').next())
            .expect("a style sheet"),
    );
    assert_eq!(visitor.get(style.expect("a URL").as_str()).await.status, 200);
    let callback = visitor.accept(&link).await;
    assert!(callback.contains("/watch/dogs/reauth/callback?"));
    let accepted = visitor.get(&callback).await;
    assert!(accepted.location().contains("/watch/dogs/reauth/northwind/result?attempt="));
    assert_eq!(visitor.get(&accepted.location()).await.status, 200);
    let stripped = link.replace("/watch/dogs", "");
    assert_eq!(visitor.get(&stripped).await.status, 410, "the same page, with the path stripped");
    assert_eq!(visitor.get(&site.fresh_link("fabrikam").replace("/watch/dogs", "")).await.status, 200);
}

/// Links that lead elsewhere are built, escaped, mailed and explained.
#[tokio::test]
async fn other_ways_to_re_authenticate() {
    let vendor =
        "{url: \"https://dash.example.com/azure?tenant={tenant_id}&i={name}&c={client_id}&a={app}\"}";
    let mut world = World::reachable("").await;
    world.add("apps.sequr.reauthentication", vendor).add("apps.rota.reauthentication", "admin_consent");
    let site = world.site().await;
    for (integration, words, target) in [
        (
            "proseware",
            "has a page of its own",
            format!(
                "https://dash.example.com/azure?tenant=proseware.example&i=proseware&c={}&a=sequr",
                demo::APP
            ),
        ),
        (
            "adatum",
            "for the whole organization",
            format!(
                "{}/adatum.example/v2.0/adminconsent?client_id={}",
                site.fleet.simulator.url(),
                demo::APPLICATION_APP
            ),
        ),
    ] {
        broken(&site, integration).await;
        let mails = site.fleet.mails();
        assert!(mails.iter().any(|(_, m)| m.text.contains(&target)), "{integration}: the mail leads there");
        let page = Visitor::new().get(&site.fresh_link(integration)).await;
        let body = page.body.replace("&#38;", "&").replace("&amp;", "&");
        assert!(
            page.status == 200 && body.contains(words) && body.contains(&target) && !body.contains("<form"),
            "{integration}: {body}"
        );
    }
}

/// Without a client credential PKCE alone protects the code.
#[tokio::test]
async fn a_public_client_signs_in() {
    let mut world = World::reachable("").await;
    world.set("apps.sequr.credential", "none");
    let site = world.site().await;
    site.fleet.act(vec![Action::RemoveSecrets { app: demo::APP }]);
    broken(&site, "proseware").await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.mailed_link("proseware")).await;
    let accepted = visitor.get(&callback).await;
    assert_eq!(accepted.status, 303, "{}", accepted.body);
    site.fleet.pass(Duration::from_secs(1)).await;
    assert_eq!(site.fleet.up("proseware").as_deref(), Some("1"));
}

/// Under https the cookie is Secure and the pages ask for HSTS, however the scheme is written.
#[tokio::test]
async fn https_makes_cookies_secure_and_enables_hsts() {
    let mut world = World::reachable("").await;
    world.set("reauthentication.public_url", "\"HTTPS://Consentry.Example.com\"");
    let site = world.site().await;
    let link = site.fresh_link("northwind");
    let local = link.replace("https://consentry.example.com", &site.url);
    let mut visitor = Visitor::new();
    let page = visitor.get(&local).await;
    assert_eq!((page.status, page.header("strict-transport-security")), (200, "max-age=31536000"), "{link}");
    let (action, fields) = page.form();
    let begun = visitor.post(&action, &fields, &[]).await;
    assert!(begun.header("set-cookie").ends_with("; Secure"), "{}", begun.header("set-cookie"));
}

/// If a name is given to another tenant, its old links are not valid.
#[tokio::test]
async fn links_do_not_follow_a_name() {
    let site = Site::start().await;
    let link = site.fresh_link("northwind");
    let token = link.split("token=").nth(1).expect("a token").to_owned();
    let links = consentry::app::links(&site.fleet.config, &site.fleet.daemon.store).expect("links");
    let (integration, client_id) = ("northwind".to_owned(), demo::APP.to_string());
    let moved = consentry::store::TokenId { integration, client_id, tenant: "contoso.example".to_owned() };
    assert!(links.check(&moved, &token, site.fleet.clock.now()).is_err());
    assert_eq!(Visitor::new().get(&link).await.status, 200);
}
