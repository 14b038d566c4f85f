//! Where the token is stored: the last one counts, the file of another program is never changed, and a
//! product gets its renewed token.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use entra_sim::Action;
use serde_json::Value;

use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, World, situation};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A product that responds with these statuses in turn, and records what it receives.
struct Product {
    url: String,
    answers: Arc<Mutex<VecDeque<u16>>>,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Product {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url = format!("http://{}/hooks/azure-token", listener.local_addr().expect("an address"));
        let (answers, got) =
            (Arc::<Mutex<VecDeque<u16>>>::default(), Arc::<Mutex<Vec<(HeaderMap, Bytes)>>>::default());
        let (next, seen) = (Arc::clone(&answers), Arc::clone(&got));
        let take = move |headers: HeaderMap, body: Bytes| async move {
            seen.lock().expect("a list").push((headers, body));
            let status = next.lock().expect("a list").pop_front().unwrap_or(200);
            StatusCode::from_u16(status).expect("a status")
        };
        let router = axum::Router::new().route("/hooks/azure-token", post(take));
        tokio::spawn(async move { axum_serve(listener, router).await });
        Self { url, answers, got }
    }

    fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().expect("a list").clone()
    }
}

async fn axum_serve(listener: tokio::net::TcpListener, router: axum::Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

/// A world whose application delivers its tokens to a product.
async fn world(product: &Product) -> World {
    let mut world = World::reachable("").await;
    world.add("apps.sequr.token_webhook", &format!("{{url: \"{}\", secret: {SECRET}}}", product.url));
    world
}

async fn reauthenticate(site: &Site, integration: &str) -> (Visitor, String) {
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link(integration)).await;
    let accepted = visitor.get(&callback).await;
    assert_eq!(accepted.status, 303, "{}", accepted.body);
    let result = accepted.location();
    site.fleet.pass(Duration::from_secs(1)).await;
    (visitor, result)
}

#[tokio::test]
async fn a_renewed_token_is_delivered_until_it_is_accepted() {
    let product = Product::start().await;
    let site = world(&product).await.site().await;
    site.fleet.act((situation("proseware").breaks)("proseware.example"));
    site.fleet.pass(12 * MINUTE).await;
    product.answers.lock().expect("a list").extend([500, 301, 429]);
    let (mut visitor, result) = reauthenticate(&site, "proseware").await;
    assert!(
        visitor.get(&result).await.body.contains("is being handed to Sequr"),
        "not fixed for the product yet"
    );
    let webhook = &site.fleet.daemon.webhook;
    let mut waits = Vec::new();
    while let Some(next) = webhook.drain().await.expect("the database") {
        waits.push(next.since(site.fleet.clock.now()).as_secs());
        assert!(visitor.get(&result).await.body.contains("could not take it yet"));
        site.fleet.clock.set(next);
    }
    assert_eq!(waits, [5, 30, 120], "growing pauses");
    assert!(visitor.get(&result).await.body.contains("Sequr has taken over the new sign-in"));
    let got = product.got();
    assert_eq!(got.len(), 4);
    let ids: std::collections::BTreeSet<_> =
        got.iter().map(|(headers, _)| headers["webhook-id"].clone()).collect();
    assert_eq!(ids.len(), 1, "one message, however often it is tried");
    let (headers, body) = &got[3];
    let said: Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(
        (said["type"].as_str(), said["data"]["integration"].as_str()),
        (Some("integration.reauthenticated"), Some("proseware"))
    );
    assert_eq!(said["data"]["tenant_id"], "proseware.example");
    assert_eq!(said["data"]["client_id"], consentry::demo::APP.to_string());
    let token = said["data"]["refresh_token"].as_str().expect("a token").to_owned();
    assert!(
        site.fleet.simulator.with_world(|w| w.refresh_tokens.contains_key(&token)),
        "a token that Entra issued"
    );
    let id = headers["webhook-id"].to_str().expect("text");
    let time = headers["webhook-timestamp"].to_str().expect("text");
    let signature = standardwebhooks::Webhook::new(SECRET)
        .expect("a secret")
        .sign(id, time.parse().expect("seconds"), body)
        .expect("signed");
    assert_eq!(
        headers["webhook-signature"].to_str().expect("text"),
        signature,
        "the reference implementation signs the same"
    );
    let exposition = site.fleet.exposition();
    for line in [
        "consentry_token_deliveries_total{result=\"success\"} 1\n",
        "consentry_token_deliveries_total{result=\"error\"} 3\n",
    ] {
        assert!(exposition.contains(line), "{line}");
    }
    assert!(!exposition.contains(&token));
    let events = site.fleet.daemon.store.events("proseware").await.expect("events");
    assert!(events.iter().any(|e| e.kind == "token_delivered"));
    webhook.drain().await.expect("the database");
    assert_eq!(product.got().len(), 4, "never again after it was accepted");
}

/// A pending delivery survives the end of the process, and a newer token replaces an older one that was not
/// accepted.
#[tokio::test]
async fn the_newest_token_survives_and_is_delivered() {
    let product = Product::start().await;
    let site = world(&product).await.site().await;
    product.answers.lock().expect("a list").extend([500, 500]);
    reauthenticate(&site, "northwind").await;
    site.fleet.daemon.webhook.drain().await.expect("the database");
    site.fleet.pass(Duration::from_secs(2)).await;
    reauthenticate(&site, "northwind").await;
    site.fleet.daemon.webhook.drain().await.expect("the database");
    let Site { fleet, .. } = site;
    let fleet = fleet.restart().await;
    fleet.clock.set(fleet.clock.now().plus(MINUTE));
    assert_eq!(fleet.daemon.webhook.drain().await.expect("the database"), None);
    let got = product.got();
    let token = |body: &Bytes| {
        serde_json::from_slice::<Value>(body).expect("JSON")["data"]["refresh_token"].to_string()
    };
    assert_eq!(got.len(), 3);
    assert_ne!(token(&got[0].1), token(&got[2].1));
    assert_eq!(token(&got[1].1), token(&got[2].1), "the second one, after the restart");
}

#[tokio::test]
async fn an_imported_token_and_a_renewed_one_meet() {
    let site = Site::start().await;
    let stored = || async {
        let id = consentry::store::TokenId {
            integration: "northwind".to_owned(),
            client_id: consentry::demo::APP.to_string(),
            tenant: "northwind.example".to_owned(),
        };
        site.fleet.daemon.store.token(&id).await.expect("read").expect("a token").current.expose().to_owned()
    };
    let first = stored().await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    visitor.get(&callback).await;
    let renewed = stored().await;
    site.fleet.import_token("northwind").await;
    let imported = stored().await;
    assert!(first != renewed && renewed != imported, "the last one counts");
    let kinds: Vec<_> = site
        .fleet
        .daemon
        .store
        .events("northwind")
        .await
        .expect("events")
        .into_iter()
        .map(|e| (e.kind, e.detail))
        .collect();
    let event = |kind: &str, detail: &str| (kind.to_owned(), detail.to_owned());
    assert_eq!(
        kinds,
        [
            event("token_stored", "import"),
            event("reauthenticated", "admin@northwind.example from 127.0.0.1"),
            event("token_stored", "reauthentication"),
            event("token_stored", "import")
        ]
    );
    // The person who consented last is proposed at the next sign-in; after an import nobody is known.
    let entra = visitor.press(&site.later_link("northwind").await).await;
    assert!(!entra.contains("login_hint"), "{entra}");
    let callback = visitor.decide(&entra, "accept", &[]).await;
    visitor.get(&callback).await;
    let entra = visitor.press(&site.later_link("northwind").await).await;
    assert!(entra.contains("login_hint=admin%40northwind.example"), "{entra}");
}

/// `refresh_token_file`: another program maintains the token. The file is read when it changes, and we never
/// write it.
#[tokio::test]
async fn the_token_file_of_another_program_is_never_written() {
    let product = Product::start().await;
    let mut world = world(&product).await;
    world.add("integrations.northwind.refresh_token_file", "northwind.token");
    let site = world.site().await;
    let file = site.fleet.folder.path().join("northwind.token");
    let issue = || {
        let (tenant, app) = ("northwind.example".to_owned(), consentry::demo::APP);
        let answer = site
            .fleet
            .simulator
            .apply(Action::IssueRefreshToken { tenant, app, user: None })
            .expect("a token");
        answer["refresh_token"].as_str().expect("a token").to_owned()
    };
    std::fs::write(&file, issue()).expect("written");
    site.fleet.pass(6 * MINUTE).await;
    assert_eq!(site.fleet.up("northwind").as_deref(), Some("1"));
    std::fs::write(&file, "1.damaged").expect("written");
    site.fleet.pass(12 * MINUTE).await;
    assert_eq!(site.fleet.up("northwind").as_deref(), Some("0"));
    let (mut visitor, result) = reauthenticate(&site, "northwind").await;
    assert_eq!(std::fs::read_to_string(&file).expect("readable"), "1.damaged", "the file is not written");
    assert!(
        visitor.get(&result).await.body.contains("is being checked"),
        "the old token is still in the file"
    );
    site.fleet.daemon.webhook.drain().await.expect("the database");
    let said: Value = serde_json::from_slice(&product.got()[0].1).expect("JSON");
    // The product writes it into the file.
    std::fs::write(&file, said["data"]["refresh_token"].as_str().expect("a token")).expect("written");
    site.fleet.pass(MINUTE).await;
    assert_eq!(site.fleet.up("northwind").as_deref(), Some("1"));
    let page = visitor.get(&result).await.body;
    assert!(page.contains("works again") && page.contains("has taken over"), "{page}");
}

/// `reauthentication.listen_address`: the same pages, and nothing else.
#[tokio::test]
async fn the_reauthentication_listener_serves_nothing_else() {
    let site = Site::start().await;
    let listener = consentry::listener::bind("127.0.0.1:0").await.expect("a socket");
    let url = format!("http://{listener}");
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(consentry::listener::serve(
        listener,
        Arc::clone(&site.fleet.daemon.sites.reauthentication),
        stopped,
    ));
    let mut visitor = Visitor::new();
    let link = site.fresh_link("northwind").replace(&site.url, &url);
    assert_eq!(visitor.get(&link).await.status, 200);
    for (path, status) in [
        ("/reauth/assets/page.css", 200),
        ("/reauth/callback?state=x&code=y", 400),
        ("/reauth/northwind", 403),
    ] {
        assert_eq!(visitor.get(&format!("{url}{path}")).await.status, status, "{path}");
    }
    for path in
        ["/", "/metrics", "/-/healthy", "/-/ready", "/config", "/api/v1/integrations", "/reauth", "/reauth/"]
    {
        assert_eq!(visitor.get(&format!("{url}{path}")).await.status, 404, "{path}");
    }
}

/// One product rejects its token, the other accepts: the rejected one is delivered later, whatever the order.
#[tokio::test]
async fn a_rejected_token_waits_for_its_own_next_attempt() {
    let product = Product::start().await;
    let site = world(&product).await.site().await;
    reauthenticate(&site, "northwind").await;
    product.answers.lock().expect("a list").push_back(500);
    site.fleet.daemon.webhook.drain().await.expect("the database");
    reauthenticate(&site, "contoso").await;
    site.fleet.clock.set(site.fleet.clock.now().plus(Duration::from_secs(60)));
    // Both are due now: the one that waited, and the new one.
    assert_eq!(site.fleet.daemon.webhook.drain().await.expect("the database"), None);
    assert_eq!(product.got().len(), 3);
}
