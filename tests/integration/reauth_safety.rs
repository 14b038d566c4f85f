//! Re-authentication under attack: a link in the wrong hands, accounts that see little, forged callbacks,
//! wrong clocks. No token is replaced by a weaker one, no administrator is excluded, no failure is hidden,
//! and every replacement is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use consentry::app::Terms;
use consentry::demo;
use consentry::store::TokenId;
use entra_sim::{Action, Endpoint, Fault, FaultKind};
use uuid::Uuid;

use crate::visitor::{Page, Site, Visitor};
use crate::world::{MINUTE, World, situation};

const OPERATORS: &str = "operators@demo.example";

fn tenant(integration: &str) -> String {
    situation(integration).tenant()
}

fn id(site: &Site, integration: &str, name: &str) -> String {
    let upn = format!("{name}@{}", tenant(integration));
    let user = |w: &mut entra_sim::World| {
        w.tenant(&tenant(integration)).and_then(|t| t.users.iter().find(|u| u.upn == upn).map(|u| u.id))
    };
    site.fleet.simulator.with_world(user).expect("a user").to_string()
}

async fn token(site: &Site, integration: &str) -> String {
    let situation = situation(integration);
    let id = TokenId {
        integration: integration.to_owned(),
        client_id: situation.app().to_string(),
        tenant: situation.tenant(),
    };
    site.fleet.daemon.store.token(&id).await.expect("read").expect("a token").current.expose().to_owned()
}

async fn events(site: &Site, integration: &str) -> Vec<String> {
    let events = site.fleet.daemon.store.events(integration).await.expect("events");
    events.into_iter().map(|e| format!("{}: {}", e.kind, e.detail)).collect()
}

fn counted(results: &[(&str, u32)]) -> BTreeMap<String, u32> {
    results.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect()
}

/// Changes a sign-in so that Entra shows no consent page: existing consent then covers everything.
fn quiet(entra: &str) -> String {
    let mut url = url::Url::parse(entra).expect("a URL");
    let kept: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(n, _)| n != "prompt" && n != "login_hint").collect();
    url.query_pairs_mut().clear().extend_pairs(kept);
    url.to_string()
}

/// Signs in through a link with another account, without a consent page.
async fn sign_in_as(site: &Site, link: &str, integration: &str, name: &str) -> Page {
    let mut visitor = Visitor::new();
    let entra = visitor.press(link).await;
    let callback =
        visitor.decide(&quiet(&entra), "accept", &[("sim_user", &id(site, integration, name))]).await;
    visitor.get(&callback).await
}

fn state(entra: &str) -> String {
    url::Url::parse(entra)
        .expect("a URL")
        .query_pairs()
        .find(|(n, _)| n == "state")
        .expect("a state")
        .1
        .into_owned()
}

/// A member who sees less cannot replace the administrator's token. An administrator can, and so can a link
/// that allows it.
#[tokio::test]
async fn a_token_that_sees_less_replaces_nothing() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    assert_eq!(site.fleet.up("northwind").as_deref(), Some("1"));
    let blind = |user: &str, groups: &[&str]| Action::BlindUser {
        tenant: tenant("northwind"),
        user: user.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
    };
    let link = site.fresh_link("northwind");
    for (sentence, groups, words) in [
        ("a group fewer", &["Finance"][..], "Groups that can be seen: 2; before: 3."),
        (
            "without the required one",
            &["Door access - HQ"][..],
            "Required group that cannot be seen: Door access - HQ",
        ),
    ] {
        let before = token(&site, "northwind").await;
        site.fleet.act(vec![blind("user", groups)]);
        let page = sign_in_as(&site, &link, "northwind", "user").await;
        assert_eq!((page.status, page.body.contains("sees less")), (403, true), "{sentence}: {}", page.body);
        assert!(
            page.body.contains(words) && page.body.contains("Try again in a minute"),
            "{sentence}: {}",
            page.body
        );
        assert_eq!(token(&site, "northwind").await, before, "{sentence}: the old token stays");
        assert_eq!(Visitor::new().get(&link).await.status, 200, "{sentence}: the link stays valid");
    }
    site.fleet.pass(MINUTE).await;
    assert_eq!(site.results(), counted(&[("incomplete", 2)]));
    assert_eq!(site.fleet.kinds(OPERATORS), ["operator"], "notified once for each link");
    let mail = site.fleet.mails().into_iter().find(|(to, _)| to == OPERATORS).expect("a mail").1;
    assert!(mail.text.contains("user@northwind.example") && mail.text.contains("127.0.0.1"), "{}", mail.text);
    assert_eq!(site.fleet.up("northwind").as_deref(), Some("1"));

    // A group was deleted permanently. An administrator sees all groups that exist.
    site.fleet.act(vec![Action::DeleteGroup { tenant: tenant("northwind"), name: "Finance".to_owned() }]);
    let page = sign_in_as(&site, &link, "northwind", "admin").await;
    assert_eq!(page.status, 303, "{}", page.body);
    site.fleet.pass(MINUTE).await;
    // If no administrator can sign in, the operators allow it with a link.
    site.fleet.act(vec![blind("user", &["Everybody"])]);
    let links = consentry::app::links(&site.fleet.config, &site.fleet.daemon.store).expect("links");
    let target = consentry::app::targets(&site.fleet.config)
        .into_iter()
        .find(|t| t.name == "northwind")
        .expect("a target");
    let terms = Terms { generation: site.generation("northwind"), accept_fewer: true };
    let fewer = links.make(&target.token_id(), terms, site.fleet.clock.now());
    let page = sign_in_as(&site, &fewer, "northwind", "user").await;
    assert_eq!(page.status, 303, "{}", page.body);
    assert_eq!(site.results(), counted(&[("incomplete", 2), ("success", 2)]));
}

/// The sign-in of a guest is never accepted, whatever evidence shows that the account is a guest.
#[tokio::test]
async fn guests_are_refused() {
    let site = Site::start().await;
    site.fleet.act(vec![Action::AddUser {
        tenant: tenant("northwind"),
        name: "gast".to_owned(),
        admin: true,
        guest: true,
        roles: vec![entra_sim::GLOBAL_ADMINISTRATOR.to_owned()],
    }]);
    let before = token(&site, "northwind").await;
    let unreadable = || Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: Some("/me?".to_owned()),
        times: None,
        fault: FaultKind::Status { status: 403, retry_after: None },
    };
    for (sentence, acct, readable) in [("Graph", false, true), ("acct", true, false), ("idp", false, false)] {
        site.fleet.act(vec![Action::OptionalClaims { acct, wids: false, access_wids: false }]);
        site.fleet.simulator.clear_faults();
        if !readable {
            site.fleet.simulator.fault(unreadable());
        }
        let page = sign_in_as(&site, &site.fresh_link("northwind"), "northwind", "gast").await;
        assert_eq!(
            (page.status, page.body.contains("guest account")),
            (403, true),
            "{sentence}: {}",
            page.body
        );
    }
    assert_eq!(site.results(), counted(&[("denied", 3)]));
    assert_eq!(token(&site, "northwind").await, before);
    // A member is not a guest, even if only the claims say so.
    let page = sign_in_as(&site, &site.fresh_link("northwind"), "northwind", "user").await;
    assert_eq!(page.status, 303, "{}", page.body);
}

/// `reauthenticators: admins` requires a directory role, in the tokens or in Graph. Without evidence the
/// account has none.
#[tokio::test]
async fn only_administrators_if_it_is_configured() {
    let mut world = World::reachable("").await;
    world.add("apps.sequr.reauthenticators", "admins");
    let site = world.site().await;
    let roles = |roles: &[&str]| {
        let roles = roles.iter().map(|r| (*r).to_owned()).collect();
        vec![Action::AssignRoles { tenant: tenant("northwind"), user: "user".to_owned(), roles }]
    };
    let cloud_application_administrator = "158c047a-c907-4556-b7ef-446551a6b5f7";
    let denied = |contains: &str| Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: Some(contains.to_owned()),
        times: None,
        fault: FaultKind::Status { status: 403, retry_after: None },
    };
    for (sentence, held, claims, graph, status) in [
        ("no role", &[][..], (false, false), true, 403),
        (
            "a role that makes no administrator",
            &["88d8e3e3-8f55-4a1e-953a-9b9898b8876b"][..],
            (true, true),
            true,
            403,
        ),
        ("nothing can be read", &[cloud_application_administrator][..], (false, false), false, 403),
        ("Graph shows it", &[cloud_application_administrator][..], (false, false), true, 303),
        ("the id_token contains it", &[cloud_application_administrator][..], (true, false), false, 303),
        ("the access token contains it", &[cloud_application_administrator][..], (false, true), false, 303),
    ] {
        site.fleet.act(roles(held));
        site.fleet.act(vec![Action::OptionalClaims { acct: false, wids: claims.0, access_wids: claims.1 }]);
        site.fleet.simulator.clear_faults();
        if !graph {
            site.fleet.simulator.fault(denied("transitiveMemberOf"));
        }
        let page = sign_in_as(&site, &site.fresh_link("northwind"), "northwind", "user").await;
        assert_eq!(page.status, status, "{sentence}: {}", page.body);
        assert!(status == 303 || page.body.contains("done by an administrator"), "{sentence}: {}", page.body);
    }
    assert_eq!(site.results(), counted(&[("denied", 3), ("success", 3)]));
}

/// Every refresh invalidates the token that was used. The valid one is stored, with several resources, too.
#[tokio::test]
async fn the_newest_refresh_token_is_stored() {
    const DOORS: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_00dd);
    let mut world = World::reachable("").await;
    world.set(
        "apps.sequr.required_permissions",
        "[{resource: microsoft_graph, delegated: [User.Read, Group.Read.All]}, \
          {resource: \"api://doors\", delegated: [Door.Open]}]",
    );
    let site = world.site().await;
    site.fleet.act(vec![
        Action::AddApp {
            id: DOORS,
            name: "Doors".to_owned(),
            secret: None,
            certificate_pem: None,
            redirect_uris: Vec::new(),
            delegated: Vec::new(),
            application: Vec::new(),
        },
        Action::OfferPermissions {
            app: DOORS,
            names: vec!["api://doors".to_owned()],
            scopes: vec!["Door.Open".to_owned()],
            roles: Vec::new(),
        },
        Action::Consent {
            tenant: tenant("northwind"),
            app: demo::APP,
            user: None,
            resource: Some(DOORS),
            delegated: vec!["Door.Open".to_owned()],
            application: Vec::new(),
        },
        Action::SingleUseRefreshTokens { value: true },
    ]);
    let before = token(&site, "northwind").await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    let page = visitor.get(&callback).await;
    assert_eq!(page.status, 303, "{}", page.body);
    let stored = token(&site, "northwind").await;
    assert_ne!(stored, before);
    let dead = site
        .fleet
        .simulator
        .with_world(|w| w.refresh_tokens.get(&stored).expect("one that Entra issued").dead);
    assert!(dead.is_none(), "the stored token has been used up");
}

/// The holder of one link begins as many sign-ins as possible. The administrator's own sign-in is neither
/// ended nor rejected.
#[tokio::test]
async fn pending_sign_ins_end_no_other() {
    let site = Site::start().await;
    let (link, leaked) = (site.fresh_link("northwind"), {
        site.fleet.pass(Duration::from_secs(1)).await;
        site.fresh_link("northwind")
    });
    let mut admin = Visitor::new();
    let callback = admin.accept(&link).await;
    let mut statuses = BTreeMap::new();
    for _ in 0..30 {
        let mut holder = Visitor::new();
        let (action, fields) = holder.get(&leaked).await.form();
        let page = holder.post(&action, &fields, &[]).await;
        *statuses.entry(page.status).or_insert(0) += 1;
        if page.status == 429 {
            assert!(
                page.body.contains("Too many sign-ins are under way")
                    && !page.header("retry-after").is_empty(),
                "{}",
                page.body
            );
        }
    }
    assert_eq!(statuses, BTreeMap::from([(303, 10), (429, 20)]));
    assert_eq!(Visitor::new().get(&leaked).await.status, 200, "the link itself stays valid");
    assert!(Visitor::new().press(&link).await.contains("/authorize?"), "other links are not affected");
    assert_eq!(admin.get(&callback).await.status, 303, "the administrator's sign-in is still there");
    assert_eq!(site.results(), counted(&[("success", 1)]));
}

/// The admin consent callback is unsigned. Repeating it suppresses no alert.
#[tokio::test]
async fn forged_admin_consent_suppresses_nothing() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let link = site.fresh_link("fabrikam");
    site.fleet.act(vec![Action::DeleteApp { tenant: tenant("fabrikam"), app: demo::APPLICATION_APP }]);
    for _ in 0..12 {
        let mut holder = Visitor::new();
        let entra = holder.press(&link).await;
        let forged =
            format!("{}/reauth/callback?admin_consent=True&tenant=x&state={}", site.url, state(&entra));
        assert_eq!(holder.get(&forged).await.status, 303);
        site.fleet.pass(MINUTE).await;
    }
    assert_eq!(site.fleet.up("fabrikam").as_deref(), Some("0"), "{:?}", site.fleet.reasons("fabrikam"));
    assert_eq!(site.fleet.kinds("it@fabrikam.example"), ["alert"]);
    assert!(!site.results().contains_key("success"), "{:?}", site.results());
    // A real change is a success once, and it ends the link.
    let mut admin = Visitor::new();
    let callback = admin.accept(&link).await;
    let result = admin.get(&callback).await.location();
    site.fleet.pass(MINUTE).await;
    assert!(admin.get(&result).await.body.contains("works again"));
    assert_eq!(site.results().get("success"), Some(&1));
    assert_eq!(admin.get(&link).await.status, 410);
    assert_eq!(site.fleet.kinds("it@fabrikam.example"), ["alert", "resolved"]);
}

/// If everything is granted already, the page says so. Accepting again is not counted, grants no grace
/// period, and does not use up the link.
#[tokio::test]
async fn admin_consent_where_all_is_granted_changes_nothing() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let (link, mut admin) = (site.fresh_link("fabrikam"), Visitor::new());
    let page = admin.get(&link).await;
    assert!(page.body.contains("All permissions are granted already"), "{}", page.body);
    let callback = admin.accept(&link).await;
    let result = admin.get(&callback).await.location();
    // Something breaks at the same time: it is confirmed as quickly as usual.
    site.fleet.pass(Duration::from_secs(1)).await;
    let page = admin.get(&result).await;
    assert!(
        page.body.contains("had been granted already") && page.body.contains("stays good"),
        "{}",
        page.body
    );
    assert_eq!((site.results(), admin.get(&link).await.status), (BTreeMap::new(), 200));
    site.fleet.pass(MINUTE).await;
    assert_eq!(site.fleet.notified(), Vec::<String>::new());
    assert!(!events(&site, "fabrikam").await.iter().any(|e| e.starts_with("reauthenticated")));
}

/// Nothing was wrong, but the token was replaced: everybody is notified of that once.
#[tokio::test]
async fn every_replacement_is_notified() {
    for (send_resolved, broken, admin, operators) in [
        (true, false, vec!["reauthenticated"], vec!["reauthenticated"]),
        (true, true, vec!["alert", "resolved"], vec!["reauthenticated"]),
        (false, true, vec!["alert", "reauthenticated"], vec!["reauthenticated"]),
    ] {
        let mut world = World::reachable("").await;
        world.add("email.send_resolved", &send_resolved.to_string());
        let site = world.site().await;
        if broken {
            site.fleet.act((situation("proseware").breaks)("proseware.example"));
        }
        site.fleet.pass(12 * MINUTE).await;
        let mut visitor = Visitor::new();
        let callback = visitor.accept(&site.fresh_link("proseware")).await;
        assert_eq!(visitor.get(&callback).await.status, 303);
        site.fleet.pass(MINUTE).await;
        let sentence = format!("resolved mails {send_resolved}, broken {broken}");
        assert_eq!(site.fleet.kinds("it@proseware.example"), admin, "{sentence}");
        assert_eq!(site.fleet.kinds(OPERATORS), operators, "{sentence}");
        let mail = site.fleet.mails().into_iter().find(|(to, _)| to == OPERATORS).expect("a mail").1;
        for words in ["admin@proseware.example", "127.0.0.1", "21 September 2026"] {
            assert!(mail.text.contains(words), "{sentence}: {words}: {}", mail.text);
        }
        let said = "reauthenticated: admin@proseware.example from 127.0.0.1".to_owned();
        assert!(events(&site, "proseware").await.contains(&said), "{sentence}");
    }
}

/// A request with a proxy's headers comes from a proxy.
#[tokio::test]
async fn a_proxy_is_distinguished_from_a_client() {
    let site = Site::start().await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    let cookies = visitor.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let request = client.get(&callback).header("cookie", cookies).header("x-forwarded-for", "203.0.113.9");
    assert_eq!(request.send().await.expect("an answer").status().as_u16(), 303);
    let said = "reauthenticated: admin@northwind.example through 127.0.0.1".to_owned();
    assert!(events(&site, "northwind").await.contains(&said), "{:?}", events(&site, "northwind").await);
}

/// The clock is ahead during a re-authentication and correct afterwards: later links are valid, earlier ones
/// are not.
#[tokio::test]
async fn links_end_by_generation() {
    let site = Site::start().await;
    let earlier = site.fresh_link("northwind");
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&earlier).await;
    site.fleet.clock.step(300_000);
    assert_eq!(visitor.get(&callback).await.status, 303);
    site.fleet.clock.step(-300_000);
    assert_eq!(
        visitor.get(&site.fresh_link("northwind")).await.status,
        200,
        "made after the success, by a clock that is behind"
    );
    assert_eq!(visitor.get(&earlier).await.status, 410);
    // A link that was made while the clock was far ahead can be opened, too.
    site.fleet.clock.step(90 * 86_400_000);
    let ahead = site.fresh_link("northwind");
    site.fleet.clock.step(-90 * 86_400_000);
    assert_eq!(visitor.get(&ahead).await.status, 200);
    // A revocation ends all links, and the sign-ins that they began.
    let callback = visitor.accept(&ahead).await;
    site.fleet
        .daemon
        .store
        .revoke_links("northwind", "command", site.fleet.clock.now())
        .await
        .expect("revoked");
    assert_eq!(visitor.get(&ahead).await.status, 410);
    let page = visitor.get(&callback).await;
    assert_eq!((page.status, page.body.contains("used meanwhile")), (410, true), "{}", page.body);
    assert_eq!(visitor.get(&site.fresh_link("northwind")).await.status, 200);
    assert!(visitor.get(&ahead).await.body.contains("have ended all earlier links"));
}

/// A restart grants no grace period to what was verified, and only the rest of it to what was not.
#[tokio::test]
async fn a_restart_begins_no_new_grace_period() {
    let site = Site::start().await;
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    assert_eq!(visitor.get(&callback).await.status, 303);
    let callback = visitor.accept(&site.fresh_link("contoso")).await;
    // It is never verified, because the groups cannot be listed.
    let fault = FaultKind::Status { status: 503, retry_after: None };
    let (endpoint, tenant) = (Endpoint::Graph, Some("contoso.example".to_owned()));
    assert_eq!(visitor.get(&callback).await.status, 303);
    site.fleet.simulator.fault(Fault { endpoint, tenant, contains: None, times: None, fault });
    site.fleet.pass(Duration::from_secs(1)).await;
    assert_eq!(site.fleet.daemon.monitor.verification("northwind"), None, "proved");
    assert!(site.fleet.daemon.monitor.verification("contoso").is_some(), "not yet");
    let Site { fleet, .. } = site;
    fleet.pass(Duration::from_secs(59)).await;
    let fleet = fleet.restart().await;
    assert_eq!(fleet.daemon.monitor.verification("northwind"), None, "what was verified stays verified");
    assert!(fleet.daemon.monitor.verification("contoso").is_some(), "the rest of its time");
    fleet.pass(Duration::from_secs(61)).await;
    assert_eq!(
        fleet.daemon.monitor.verification("contoso"),
        None,
        "two minutes after the sign-in, not after the restart"
    );
    let fleet = fleet.restart().await;
    assert_eq!(fleet.daemon.monitor.verification("contoso"), None);
}

/// `reauth-link` with its flags, beside a running daemon.
#[tokio::test]
async fn links_are_revoked_from_the_command_line() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    let command = async |flags: &[&str]| {
        let output = world.command(&[&["reauth-link", "northwind"][..], flags].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let status = async |link: &str| {
        let (_, path) = link.split_once("/reauth/").expect("a link");
        daemon.get(&format!("/reauth/{path}")).await.0
    };
    let (plain, fewer) = (command(&[]).await, command(&["--accept-fewer"]).await);
    assert_ne!(plain, fewer);
    assert_eq!((status(&plain).await, status(&fewer).await), (200, 200));
    assert!(command(&["--revoke"]).await.contains("are ended"));
    assert_eq!((status(&plain).await, status(&fewer).await), (410, 410));
    assert_eq!(status(&command(&[]).await).await, 200);
    let both = world.command(&["reauth-link", "northwind", "--revoke", "--accept-fewer"]).await;
    assert_eq!(both.status.code(), Some(2), "one or the other");
    daemon.kill().await;
}

/// A sign-in that fixes nothing is also reported to those who wait for the end of the alert.
#[tokio::test]
async fn a_replacement_that_fixes_nothing_is_notified() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    site.fleet
        .act(vec![Action::DeleteGroup { tenant: tenant("northwind"), name: "Door access - HQ".to_owned() }]);
    site.fleet.pass(12 * MINUTE).await;
    assert_eq!(site.fleet.kinds("it@northwind.example"), ["alert"]);
    let mut visitor = Visitor::new();
    let callback = visitor.accept(&site.fresh_link("northwind")).await;
    assert_eq!(visitor.get(&callback).await.status, 303);
    site.fleet.pass(10 * MINUTE).await;
    assert_eq!(site.fleet.kinds("it@northwind.example"), ["alert", "reauthenticated"]);
}

/// Another group of the required name is not the one that the stored token saw: any member could create it.
#[tokio::test]
async fn another_group_of_the_same_name_is_no_substitute() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let (t, name) = (tenant("northwind"), "Door access - HQ".to_owned());
    site.fleet.act(vec![
        Action::KillRefreshTokens {
            tenant: t.clone(),
            app: demo::APP,
            death: entra_sim::TokenDeath::Revoked,
        },
        Action::DeleteGroup { tenant: t.clone(), name: name.clone() },
        Action::AddGroup { tenant: t, name, id: None },
    ]);
    let link = site.fresh_link("northwind");
    let page = sign_in_as(&site, &link, "northwind", "user").await;
    assert_eq!((page.status, page.body.contains("another group has its name")), (403, true), "{}", page.body);
    assert_eq!(
        sign_in_as(&site, &link, "northwind", "admin").await.status,
        303,
        "an administrator sees all groups"
    );
}

/// An admin consent is verified to its end, even if the check `consent` is not enabled.
#[tokio::test]
async fn admin_consent_is_verified_where_consent_is_not_checked() {
    let mut world = World::reachable("").await;
    world.add("integrations.fabrikam.checks", "[enterprise_app]");
    let site = world.site().await;
    site.fleet.act(vec![Action::RevokeConsent { tenant: tenant("fabrikam"), app: demo::APPLICATION_APP }]);
    site.fleet.pass(6 * MINUTE).await;
    let mut holder = Visitor::new();
    let entra = holder.press(&site.fresh_link("fabrikam")).await;
    let forged = format!("{}/reauth/callback?admin_consent=True&state={}", site.url, state(&entra));
    assert_eq!(holder.get(&forged).await.status, 303);
    site.fleet.pass(Duration::from_secs(5)).await;
    site.fleet.act(vec![Action::Consent {
        tenant: tenant("fabrikam"),
        app: demo::APPLICATION_APP,
        user: None,
        resource: None,
        delegated: Vec::new(),
        application: vec!["Group.Read.All".to_owned()],
    }]);
    site.fleet.pass(3 * MINUTE).await;
    assert_eq!(site.results(), counted(&[("success", 1)]));
}

/// The operators are notified of fewer permissions than the stored token had, even if no groups are checked.
#[tokio::test]
async fn fewer_permissions_are_reported_if_no_groups_are_checked() {
    let mut world = World::reachable("").await;
    world.add("integrations.northwind.checks", "[enterprise_app, consent]");
    let site = world.site().await;
    site.fleet.pass(6 * MINUTE).await;
    let mut visitor = Visitor::new();
    let entra = visitor.press(&site.fresh_link("northwind")).await;
    let admin = id(&site, "northwind", "admin");
    let callback = visitor.decide(&quiet(&entra), "accept", &[("sim_user", &admin)]).await;
    let fault = FaultKind::Rewrite { find: "Group.Read.All".to_owned(), replace: "X".to_owned() };
    site.fleet.simulator.fault(Fault {
        endpoint: Endpoint::Token,
        tenant: Some(tenant("northwind")),
        contains: None,
        times: None,
        fault,
    });
    assert_eq!(visitor.get(&callback).await.status, 403);
    site.fleet.simulator.clear_faults();
    site.fleet.pass(MINUTE).await;
    assert!(site.fleet.kinds(OPERATORS).contains(&"operator".to_owned()), "{:?}", site.fleet.notified());
}
