//! Re-authentication over real sockets: links, sign-ins, every refusal, and the verification.

use std::collections::BTreeMap;
use std::time::Duration;

use consentry::demo;
use entra_sim::{Action, FaultKind, IdTokenFlaw};
use serde_json::json;

use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, eventually, situation};

pub async fn broken(site: &Site, integration: &str) {
    let situation = situation(integration);
    site.fleet.act((situation.breaks)(&situation.tenant()));
    site.fleet.pass(12 * MINUTE).await;
    assert_eq!(site.fleet.up(integration).as_deref(), Some("0"), "{integration} is broken");
}

pub async fn token(site: &Site, integration: &str) -> Option<String> {
    let situation = situation(integration);
    let id = consentry::store::TokenId {
        integration: integration.to_owned(),
        client_id: situation.app().to_string(),
        tenant: situation.tenant(),
    };
    site.fleet.daemon.store.token(&id).await.expect("read").map(|t| t.current.expose().to_owned())
}

async fn events(site: &Site, integration: &str) -> Vec<(String, String)> {
    let events = site.fleet.daemon.store.events(integration).await.expect("events");
    events.into_iter().map(|e| (e.kind, e.detail)).collect()
}

pub fn counted(results: &[(&str, u32)]) -> BTreeMap<String, u32> {
    results.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect()
}

/// Everything in a tenant that a re-authentication must not touch.
fn untouched(site: &Site, integration: &str) -> String {
    let tenant = situation(integration).tenant();
    site.fleet.simulator.with_world(|world| {
        let tenant = world.tenant(&tenant).expect("a tenant");
        format!("{:?} {:?} {:?} {:?}", tenant.jobs, tenant.groups, tenant.users, world.apps)
    })
}

/// The complete way of an admin with a damaged token: mail, page, Entra, green, resolved mail.
#[tokio::test]
async fn from_the_mail_back_to_green() {
    let site = Site::start().await;
    let jobs = vec![json!({"id": "scim.1", "status": {"code": "Active"}})];
    site.fleet.act(vec![Action::SetProvisioningJobs {
        tenant: "proseware.example".to_owned(),
        app: demo::APP,
        jobs,
    }]);
    broken(&site, "proseware").await;
    let (link, mut visitor) = (site.mailed_link("proseware"), Visitor::new());
    let before = untouched(&site, "proseware");

    let page = visitor.get(&link).await;
    for words in [
        "Sequr has lost access for Proseware",
        "proseware.example",
        "Group.Read.All",
        "Reads your groups",
        "Re-authenticate",
        "offline_access",
    ] {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    let entra = visitor.press(&link).await;
    let query: BTreeMap<String, String> =
        url::Url::parse(&entra).expect("a URL").query_pairs().into_owned().collect();
    assert!(
        entra
            .starts_with(&format!("{}/proseware.example/oauth2/v2.0/authorize?", site.fleet.simulator.url())),
        "{entra}"
    );
    let mut scopes: Vec<&str> = query["scope"].split(' ').collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["Group.Read.All", "User.Read", "offline_access", "openid", "profile"]);
    for (name, value) in [
        ("prompt", "consent"),
        ("response_type", "code"),
        ("code_challenge_method", "S256"),
        ("response_mode", "query"),
    ] {
        assert_eq!(query[name], value, "{name}");
    }
    assert!(query["state"].len() >= 43 && query["nonce"].len() >= 43 && query["code_challenge"].len() == 43);
    assert_eq!(query["redirect_uri"], format!("{}/reauth/callback", site.url));

    let callback = visitor.decide(&entra, "accept", &[]).await;
    let accepted = visitor.get(&callback).await;
    assert_eq!(accepted.status, 303, "{}", accepted.body);
    let result = accepted.location();
    assert!(
        !result.contains("code=") && !result.contains("state="),
        "neither code nor state stays in the address: {result}"
    );
    let waiting = visitor.get(&result).await;
    assert_eq!((waiting.status, waiting.header("refresh")), (200, "4"), "it reloads by itself");
    site.fleet.pass(Duration::from_secs(1)).await;
    let green = visitor.get(&result).await;
    assert!(
        green.body.contains("Sequr works again for Proseware") && green.header("refresh").is_empty(),
        "{}",
        green.body
    );
    assert_eq!(site.fleet.up("proseware").as_deref(), Some("1"));
    assert_eq!(site.fleet.kinds("it@proseware.example"), ["alert", "resolved"]);
    assert_eq!(site.results(), counted(&[("success", 1)]));
    let said = ("reauthenticated".to_owned(), "admin@proseware.example from 127.0.0.1".to_owned());
    assert!(events(&site, "proseware").await.contains(&said));
    assert_eq!(
        site.fleet.kinds("operators@demo.example"),
        ["reauthenticated"],
        "recipients without a resolved mail are notified of the sign-in"
    );
    assert_eq!(untouched(&site, "proseware"), before, "nothing but consent and token has changed");

    let used = visitor.get(&link).await;
    assert_eq!(
        (used.status, used.body.contains("already been used"), used.body.contains("<form")),
        (410, true, false)
    );
    let again = visitor.get(&callback).await;
    assert_eq!((again.status, again.body.contains("already been used")), (410, true));
    assert!(again.body.contains("See the result"), "the browser that did it is led to the result");
    assert_eq!(site.results(), counted(&[("success", 1), ("expired", 1)]));
}

/// Permissions that were edited, and an application that was deleted permanently: consent restores both.
#[tokio::test]
async fn consent_and_app_come_back() {
    let site = Site::start().await;
    for integration in ["contoso", "litware"] {
        broken(&site, integration).await;
        let mut visitor = Visitor::new();
        let link = site.mailed_link(integration);
        // The provisioning job was deleted with the application, so the page must not say that it stays.
        let page = visitor.get(&link).await.body;
        let deleted = integration == "litware";
        assert_eq!(
            (page.contains("restore that one instead"), page.contains("stay as they are")),
            (deleted, !deleted),
            "{page}"
        );
        let callback = visitor.accept(&link).await;
        let result = visitor.get(&callback).await.location();
        site.fleet.pass(3 * MINUTE).await;
        assert_eq!(site.fleet.up(integration).as_deref(), Some("1"), "{:?}", site.fleet.reasons(integration));
        assert!(visitor.get(&result).await.body.contains("works again"));
    }
    assert_eq!(site.results(), counted(&[("success", 2)]));
}

/// `access: application`: the admin consent endpoint, whose callback is unsigned and therefore no evidence.
#[tokio::test]
async fn admin_consent_counts_when_the_tenant_grants_it() {
    let site = Site::start().await;
    broken(&site, "adatum").await;
    let (link, mut visitor) = (site.mailed_link("adatum"), Visitor::new());
    let entra = visitor.press(&link).await;
    assert!(
        entra.starts_with(&format!("{}/adatum.example/v2.0/adminconsent?", site.fleet.simulator.url())),
        "{entra}"
    );
    // A callback claims that consent was accepted, which is not true: the claim is not believed.
    let state = url::Url::parse(&entra)
        .expect("a URL")
        .query_pairs()
        .find(|(n, _)| n == "state")
        .expect("a state")
        .1
        .into_owned();
    let forged = format!(
        "{}/reauth/callback?admin_consent=True&tenant={}&state={state}",
        site.url,
        situation("adatum").tenant_id()
    );
    let result = visitor.get(&forged).await.location();
    site.fleet.pass(MINUTE).await;
    assert!(visitor.get(&result).await.body.contains("is being checked"));
    site.fleet.pass(2 * MINUTE).await;
    let page = visitor.get(&result).await.body;
    assert!(
        page.contains("Something is still wrong")
            && page.contains("does not show the permissions as granted"),
        "{page}"
    );
    assert_eq!(
        (site.results(), site.fleet.up("adatum").as_deref()),
        (counted(&[("incomplete", 1)]), Some("0"))
    );
    // A callback of another tenant is named as such.
    let entra = visitor.press(&link).await;
    let state = url::Url::parse(&entra)
        .expect("a URL")
        .query_pairs()
        .find(|(n, _)| n == "state")
        .expect("a state")
        .1
        .into_owned();
    let foreign = format!(
        "{}/reauth/callback?admin_consent=True&tenant=99999999-0000-0000-0000-000000000001&state={state}",
        site.url
    );
    let result = visitor.get(&foreign).await.location();
    site.fleet.pass(3 * MINUTE).await;
    assert!(visitor.get(&result).await.body.contains("for another organization"));
    assert_eq!(site.results(), counted(&[("incomplete", 1), ("wrong_tenant", 1)]));
    // The link is still valid for the real consent.
    let callback = visitor.accept(&link).await;
    let result = visitor.get(&callback).await.location();
    site.fleet.pass(Duration::from_secs(1)).await;
    assert!(visitor.get(&result).await.body.contains("works again"));
    assert_eq!(site.results(), counted(&[("incomplete", 1), ("success", 1), ("wrong_tenant", 1)]));
    assert_eq!(site.fleet.kinds("it@adatum.example"), ["alert", "resolved"]);
    assert_eq!(visitor.get(&link).await.status, 410);
}

/// Each refusal has its own sentence and result. Nothing is stored, the old token stays, and the link stays
/// valid.
#[tokio::test]
async fn every_refusal_is_explained_and_stores_nothing() {
    let site = Site::start().await;
    broken(&site, "proseware").await;
    let link = site.mailed_link("proseware");
    let old = token(&site, "proseware").await;
    let tenant = || "proseware.example".to_owned();
    let user = site
        .fleet
        .simulator
        .with_world(|w| w.tenant("proseware.example").expect("a tenant").users[1].id.to_string());
    let flaw = |flaw| vec![Action::FlawIdTokens { flaw: Some(flaw) }];
    let revoke = || vec![Action::RevokeConsent { tenant: tenant(), app: demo::APP }];
    type Case<'a> = (&'a str, Vec<Action>, &'a str, Vec<(&'a str, &'a str)>, &'a str, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("cancelled or declined", vec![], "cancel", vec![], "denied", "The permissions were not accepted"),
        (
            "admin approval",
            vec![],
            "accept",
            vec![("sim_user", &user)],
            "denied",
            "An administrator has to accept this",
        ),
        (
            "another tenant",
            vec![],
            "accept",
            vec![("sim_user", "foreign")],
            "wrong_tenant",
            "another organization",
        ),
        (
            "a personal account",
            vec![],
            "accept",
            vec![("sim_user", "personal")],
            "wrong_tenant",
            "personal Microsoft account",
        ),
        (
            "fewer permissions",
            revoke(),
            "accept",
            vec![("sim_without_Group.Read.All", "1")],
            "incomplete",
            "Group.Read.All",
        ),
        ("another nonce", flaw(IdTokenFlaw::Nonce), "accept", vec![], "error", "is not valid"),
        ("another client", flaw(IdTokenFlaw::Audience), "accept", vec![], "error", "is not valid"),
        (
            "another issuer",
            flaw(IdTokenFlaw::Issuer),
            "accept",
            vec![],
            "wrong_tenant",
            "another organization",
        ),
        ("an old id_token", flaw(IdTokenFlaw::Expired), "accept", vec![], "error", "is not valid"),
        ("a wrong signature", flaw(IdTokenFlaw::Signature), "accept", vec![], "error", "is not valid"),
        ("no signature", flaw(IdTokenFlaw::Unsigned), "accept", vec![], "error", "is not valid"),
        ("an unknown key", flaw(IdTokenFlaw::UnknownKey), "accept", vec![], "error", "is not valid"),
        ("no id_token", flaw(IdTokenFlaw::Missing), "accept", vec![], "error", "is not valid"),
    ];
    let mut expected = BTreeMap::new();
    for (sentence, actions, decision, more, result, words) in cases {
        site.fleet.act(actions);
        let mut visitor = Visitor::new();
        let entra = visitor.press(&link).await;
        let callback = visitor.decide(&entra, decision, &more).await;
        let page = visitor.get(&callback).await;
        assert!((400..500).contains(&page.status), "{sentence}: {}", page.status);
        assert!(page.body.contains(words), "{sentence}: {}", page.body);
        *expected.entry(result.to_owned()).or_insert(0) += 1;
        assert_eq!(site.results(), expected, "{sentence}");
        assert_eq!(token(&site, "proseware").await, old, "{sentence}: the old token stays");
        site.fleet.act(vec![Action::FlawIdTokens { flaw: None }]);
        let retry = page
            .body
            .split("href=\"")
            .find_map(|h| h.split('"').next().filter(|h| h.contains("?token=")))
            .expect("another try");
        assert_eq!(
            visitor.get(&format!("{}/reauth/{retry}", site.url)).await.status,
            200,
            "{sentence}: the link stays valid"
        );
    }
    for (sentence, fault) in [
        ("an outage", FaultKind::Status { status: 503, retry_after: None }),
        ("a cut connection", FaultKind::Reset),
    ] {
        let mut visitor = Visitor::new();
        let callback = visitor.accept(&link).await;
        let fault = entra_sim::Fault {
            endpoint: entra_sim::Endpoint::Token,
            tenant: None,
            contains: None,
            times: None,
            fault,
        };
        site.fleet.simulator.fault(fault);
        let page = visitor.get(&callback).await;
        site.fleet.simulator.clear_faults();
        assert_eq!(
            (page.status, page.body.contains("Microsoft could not complete")),
            (502, true),
            "{sentence}: {}",
            page.body
        );
        *expected.entry("error".to_owned()).or_insert(0) += 1;
    }
    assert_eq!(site.results(), expected);
    assert!(!events(&site, "proseware").await.iter().any(|(kind, _)| kind == "reauthenticated"));
    assert_eq!(site.fleet.kinds("it@proseware.example"), ["alert"], "no mail for a refusal");
    // Afterwards, a sign-in succeeds.
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&link).await;
    assert_eq!(visitor.get(&callback).await.status, 303);
    assert_ne!(token(&site, "proseware").await, old);
}

/// Keys that were rotated a moment ago are used.
#[tokio::test]
async fn rotated_signing_keys_do_no_harm() {
    let site = Site::start().await;
    for _ in 0..3 {
        let mut visitor = Visitor::new();
        let callback = visitor.accept(&site.fresh_link("northwind")).await;
        let rotated =
            visitor.request("POST", &format!("{}/_sim/rotate-keys", site.fleet.simulator.url())).await;
        assert_eq!(rotated.status, 200);
        assert_eq!(visitor.get(&callback).await.status, 303);
        site.fleet.pass(MINUTE).await;
    }
}

/// Consent takes a while to spread: failures in this time do not count, and the page reloads until the result
/// is final.
#[tokio::test]
async fn consent_spreads_slowly() {
    let site = Site::start().await;
    site.fleet.act(vec![Action::RevokeConsent { tenant: "northwind.example".to_owned(), app: demo::APP }]);
    site.fleet.pass(12 * MINUTE).await;
    assert_eq!(site.fleet.reasons("northwind").first().map(|(_, r)| r.as_str()), Some("consent_missing"));
    let (mut visitor, link) = (Visitor::new(), site.mailed_link("northwind"));
    let callback = visitor.accept(&link).await;
    let result = visitor.get(&callback).await.location();
    // The token is stored, but a replica does not know its permissions for a minute.
    site.fleet.act(vec![Action::RevokeConsent { tenant: "northwind.example".to_owned(), app: demo::APP }]);
    site.fleet.pass(Duration::from_secs(40)).await;
    assert!(visitor.get(&result).await.body.contains("is being checked"));
    let delegated = ["User.Read", "Group.Read.All"].map(str::to_owned).to_vec();
    let (tenant, app) = ("northwind.example".to_owned(), demo::APP);
    site.fleet.act(vec![Action::Consent {
        tenant,
        app,
        user: None,
        resource: None,
        delegated,
        application: Vec::new(),
    }]);
    site.fleet.pass(Duration::from_secs(25)).await;
    assert!(visitor.get(&result).await.body.contains("works again"));
    assert_eq!(site.fleet.kinds("it@northwind.example"), ["alert", "resolved"]);
}

/// The same callback twice at once is one sign-in. A sign-in whose browser disconnects is still completed.
#[tokio::test]
async fn repeated_and_interrupted_callbacks_complete_one_sign_in() {
    use tokio::io::AsyncWriteExt as _;
    let site = Site::start().await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    let mut twin = Visitor::new();
    twin.cookies.clone_from(&visitor.cookies);
    let (one, two) = tokio::join!(visitor.get(&callback), twin.get(&callback));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 410]);
    assert_eq!(site.results(), counted(&[("expired", 1), ("success", 1)]));

    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.later_link("contoso").await).await;
    let before = token(&site, "contoso").await;
    let slow = FaultKind::Latency { milliseconds: 300 };
    let fault = entra_sim::Fault {
        endpoint: entra_sim::Endpoint::Token,
        tenant: None,
        contains: None,
        times: Some(1),
        fault: slow,
    };
    site.fleet.simulator.fault(fault);
    let address = url::Url::parse(&callback).expect("a URL");
    let mut stream = tokio::net::TcpStream::connect(address.socket_addrs(|| None).expect("an address")[0])
        .await
        .expect("connected");
    let cookies = visitor.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
    let query = address.query().expect("a query");
    let request = format!("GET {}?{query} HTTP/1.1\r\nHost: x\r\nCookie: {cookies}\r\n\r\n", address.path());
    stream.write_all(request.as_bytes()).await.expect("sent");
    // The request to Entra is in progress when the browser disconnects.
    site.fleet.simulator.take_requests();
    eventually("Entra is asked for the token", async || {
        let asked = site.fleet.simulator.take_requests();
        asked.iter().any(|r| format!("{r:?}").contains("oauth2/v2.0/token")).then_some(())
    })
    .await;
    drop(stream);
    eventually("the token is another one", async || (token(&site, "contoso").await != before).then_some(()))
        .await;
    let again = visitor.get(&callback).await;
    assert_eq!((again.status, again.body.contains("See the result")), (410, true), "{}", again.body);
    site.fleet.pass(Duration::from_secs(1)).await;
    assert_eq!(site.results(), counted(&[("expired", 2), ("success", 2)]));
}

/// Before the first probe nothing is known, and the page says so.
#[tokio::test]
async fn what_is_not_known_is_not_claimed() {
    let site = Site::start().await;
    let page = Visitor::new().get(&site.fresh_link("northwind")).await;
    assert!(
        page.body.contains("not known yet")
            && page.body.contains("Sign in")
            && !page.body.contains("Everything works"),
        "{}",
        page.body
    );
    site.fleet.pass(6 * MINUTE).await;
    let page = Visitor::new().get(&site.later_link("northwind").await).await;
    assert!(page.body.contains("Everything works at the moment"), "{}", page.body);
}

/// The sign-in succeeded, but the account sees no groups: the page says so, and that the link has ended. The
/// page never contains a new link, whatever cookies its reader has.
#[tokio::test]
async fn a_success_that_fixes_nothing_says_how_to_continue() {
    let site = Site::start().await;
    site.fleet.act(vec![Action::HideGroups { tenant: "northwind.example".to_owned(), value: true }]);
    site.fleet.pass(12 * MINUTE).await;
    assert_eq!(site.fleet.reasons("northwind").first().map(|(_, r)| r.as_str()), Some("groups_not_visible"));
    let mut visitor = Visitor::new();
    let link = site.mailed_link("northwind");
    let callback = visitor.accept(&link).await;
    let result = visitor.get(&callback).await.location();
    site.fleet.pass(3 * MINUTE).await;
    let page = visitor.get(&result).await;
    assert!(
        page.body.contains("Something is still wrong") && page.header("refresh").is_empty(),
        "{}",
        page.body
    );
    assert!(page.body.contains("ask whoever sent you the link for a new one"), "{}", page.body);
    assert!(!page.body.contains("token="), "{}", page.body);
    assert_eq!(visitor.get(&link).await.status, 410);
    let entra = visitor.press(&site.fresh_link("northwind")).await;
    assert!(!entra.contains("login_hint"), "the account that sees no groups is not proposed again");
    assert_eq!(
        site.fleet.kinds("it@northwind.example"),
        ["alert", "reauthenticated"],
        "the token is new, and the alert is still open"
    );
    assert_eq!(site.fleet.kinds("operators@demo.example"), ["reauthenticated"]);
}

/// All permissions are left out: Entra rejects the code because consent is missing.
#[tokio::test]
async fn nothing_granted_at_all() {
    let site = Site::start().await;
    site.fleet.act(vec![Action::RevokeConsent { tenant: "northwind.example".to_owned(), app: demo::APP }]);
    let mut visitor = Visitor::new();
    let entra = visitor.press(&site.fresh_link("northwind")).await;
    let all = ["User.Read", "Group.Read.All", "openid", "profile", "offline_access"]
        .map(|s| format!("sim_without_{s}"));
    let without: Vec<(&str, &str)> = all.iter().map(|name| (name.as_str(), "1")).collect();
    let callback = visitor.decide(&entra, "accept", &without).await;
    let page = visitor.get(&callback).await;
    assert_eq!((page.status, site.results()), (403, counted(&[("incomplete", 1)])), "{}", page.body);
}

/// The consent page of a mail or of `setup` returns here without a sign-in of ours.
#[tokio::test]
async fn admin_consent_without_a_sign_in_gets_an_explanation() {
    let site = Site::start().await;
    let mut visitor = Visitor::new();
    for (query, words) in [
        ("admin_consent=True&tenant=x&scope=y", "Nothing more to do here"),
        ("admin_consent=True&error=access_denied&error_subcode=cancel", "were not accepted"),
    ] {
        let page = visitor.get(&format!("{}/reauth/callback?{query}", site.url)).await;
        assert_eq!((page.status, page.body.contains(words)), (200, true), "{query}: {}", page.body);
    }
    assert_eq!(site.results(), BTreeMap::new());
}
