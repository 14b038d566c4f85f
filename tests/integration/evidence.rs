//! What counts as evidence: answers that Entra and Graph have not written, that contradict each other, or that are written in another way than
//! documented; lists of groups with many pages; credentials that cannot be read; and what never goes through a proxy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consentry::demo::{self, APP, APPLICATION_APP};
use consentry::domain::{Cloud, GroupPolicy, GroupRef, Groups, Reason};
use consentry::entra::{Client, ClientOptions, Endpoint as Upstream, Entra, HttpClient};
use consentry::secret::{ClientCredential, Secret, SecretSource};
use entra_sim::{Action, Endpoint, Fault, FaultKind, Options, Simulator};
use uuid::Uuid;

use crate::harness::{Fleet, MINUTE, USUAL, situation, tenants};

const PAGE: &str = "<!doctype html><title>Blocked</title><p>This site is blocked by your organization.</p>";

/// An answer that somebody has put in the place of the right one.
fn answer(status: u16, content_type: &str, body: &str) -> FaultKind {
    FaultKind::Answer {
        status,
        headers: Vec::new(),
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    }
}

/// Graph's own error.
fn error(status: u16, code: &str) -> FaultKind {
    FaultKind::Error { status, error: code.to_owned(), aadsts: None, suberror: None }
}

fn rewrite(find: &str, replace: &str) -> FaultKind {
    FaultKind::Rewrite { find: find.to_owned(), replace: replace.to_owned() }
}

/// Faults for one tenant's requests that contain a text.
fn befalls(fleet: &Fleet, name: &str, endpoint: Endpoint, contains: &str, fault: FaultKind) {
    // Items of a batch know their tenant by its GUID only.
    let tenant = situation(name).tenant_id().to_string();
    let contains = (!contains.is_empty()).then(|| contains.to_owned());
    fleet.simulator.fault(Fault { endpoint, tenant: Some(tenant), contains, times: None, fault });
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(check, reason)| ((*check).to_owned(), (*reason).to_owned())).collect()
}

/// Back to what is usual, and probed as good.
async fn recovered(fleet: &Fleet, names: &[&str], sentence: &str) {
    fleet.simulator.clear_faults();
    fleet.pass(15 * MINUTE).await;
    for name in names {
        assert_eq!(
            (fleet.up(name).as_deref(), fleet.reasons(name)),
            (Some("1"), vec![]),
            "{name} after: {sentence}"
        );
    }
}

/// A proxy that inspects TLS refuses, too. Nobody in the tenant can do anything about it, and nobody is mailed.
#[tokio::test]
async fn refusals_that_graph_did_not_write_blame_nobody() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let names = ["northwind", "litware"];
    for (sentence, kind, expected) in [
        ("a page with 403", answer(403, "text/html", PAGE), "invalid_response"),
        ("a page with 401", answer(401, "text/html", PAGE), "invalid_response"),
        ("403 without a body", answer(403, "text/plain", ""), "invalid_response"),
        (
            "a gateway's JSON with 403",
            answer(403, "application/json", r#"{"message":"Forbidden"}"#),
            "invalid_response",
        ),
        (
            "a gateway's JSON with 401",
            answer(401, "application/json", r#"{"message":"Unauthorized"}"#),
            "invalid_response",
        ),
        (
            "another API's error",
            answer(403, "application/json", r#"{"error":{"code":403,"message":"Forbidden"}}"#),
            "invalid_response",
        ),
        ("a page with 404", answer(404, "text/html", PAGE), "invalid_response"),
        ("a page with 400", answer(400, "text/html", PAGE), "invalid_response"),
        ("a proxy that wants a password", answer(407, "text/html", PAGE), "network_error"),
        ("a gateway that has waited", answer(408, "text/html", PAGE), "timeout"),
        ("a gateway without a backend", answer(502, "text/html", PAGE), "upstream_unavailable"),
    ] {
        for name in names {
            befalls(&fleet, name, Endpoint::Graph, "", kind.clone());
        }
        fleet.pass(7 * MINUTE).await;
        for name in names {
            let reasons = fleet.reasons(name);
            assert!(
                !reasons.is_empty() && reasons.iter().all(|(_, r)| r == expected),
                "{sentence}, {name}: {reasons:?}"
            );
            assert_eq!(fleet.up(name).as_deref(), Some("1"), "{sentence}, {name}");
        }
        recovered(&fleet, &names, sentence).await;
    }
    assert_eq!(fleet.told(), Vec::<String>::new());
}

/// Absence is believed from Graph's own 404 and an empty list, and only where nothing else says the opposite.
#[tokio::test]
async fn a_directory_that_contradicts_itself_or_the_token_breaks_nothing() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let gone = || error(404, "Request_ResourceNotFound");
    let (app, grants, roles, bin) =
        ("accountEnabled", "oauth2PermissionGrants", "appRoleAssignments", "deletedItems");
    let down = || FaultKind::Status { status: 503, retry_after: None };
    let item = Endpoint::BatchItem;
    for (sentence, faults, expected) in [
        ("a page with 404 for the application", vec![(item, app, FaultKind::Html { status: 404 })], vec![]),
        ("another code with 404 for the application", vec![(item, app, error(404, "UnknownError"))], vec![]),
        (
            "a gateway's 404 for everything",
            vec![(item, "", answer(404, "application/json", r#"{"message":"no route"}"#))],
            vec![],
        ),
        ("a page with 403 for everything", vec![(item, "", answer(403, "text/html", PAGE))], vec![]),
        ("grants of an application that does not exist", vec![(item, grants, gone())], vec![]),
        ("roles of an application that does not exist", vec![(item, roles, gone())], vec![]),
        (
            "no grants at all",
            vec![(item, grants, FaultKind::Body { text: "{\"value\":[]}".to_owned() })],
            vec![],
        ),
        (
            "another application than the one that was asked for",
            vec![(
                item,
                app,
                answer(
                    200,
                    "application/json",
                    r#"{"id":"x","appId":"00000000-0000-0000-0000-0000000000ff"}"#,
                ),
            )],
            vec![],
        ),
        (
            "no application, and yet its grants",
            vec![(item, app, gone())],
            vec![("enterprise_app", "invalid_response")],
        ),
        (
            "no application, and the token works",
            vec![(item, "", gone())],
            vec![("enterprise_app", "invalid_response")],
        ),
        (
            "no application, and the deleted items cannot be read",
            vec![(item, "", gone()), (Endpoint::Graph, bin, down())],
            vec![("enterprise_app", "upstream_unavailable")],
        ),
        (
            "no application, and a page instead of the deleted items",
            vec![(item, "", gone()), (Endpoint::Graph, bin, answer(403, "text/html", PAGE))],
            vec![("enterprise_app", "invalid_response")],
        ),
    ] {
        for (endpoint, contains, kind) in faults {
            befalls(&fleet, "litware", endpoint, contains, kind);
        }
        fleet.pass(12 * MINUTE).await;
        assert_eq!(
            (fleet.up("litware").as_deref(), fleet.reasons("litware")),
            (Some("1"), pairs(&expected)),
            "{sentence}"
        );
        recovered(&fleet, &["litware"], sentence).await;
    }
    assert_eq!(fleet.told(), Vec::<String>::new());
}

/// The other side of it: what is really gone, with every source agreeing, is said.
#[tokio::test]
async fn an_application_that_is_gone_is_still_missed() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let tenant = "litware.example".to_owned();
    fleet.act(vec![Action::DeleteApp { tenant: tenant.clone(), app: APP }]);
    fleet.pass(12 * MINUTE).await;
    assert!(
        fleet.reasons("litware").iter().all(|(_, r)| r == "app_deleted"),
        "{:?}",
        fleet.reasons("litware")
    );
    fleet.act(vec![Action::PurgeApp { tenant, app: APP }]);
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.reasons("litware").len(), 3);
    assert!(
        fleet.reasons("litware").iter().all(|(_, r)| r == "app_missing"),
        "{:?}",
        fleet.reasons("litware")
    );
    assert_eq!(fleet.up("litware").as_deref(), Some("0"));
}

#[tokio::test]
async fn a_claims_challenge_asks_for_a_new_sign_in() {
    let header = (
        "WWW-Authenticate".to_owned(),
        "Bearer realm=\"\", error=\"insufficient_claims\", claims=\"e30=\"".to_owned(),
    );
    let challenged = |headers: Vec<(String, String)>, status, body: &str| FaultKind::Answer {
        status,
        headers,
        content_type: "application/json".to_owned(),
        body: body.to_owned(),
    };
    let denied = r#"{"error":{"code":"Authorization_RequestDenied","message":""}}"#;
    let inside = r#"{"error":{"code":"Forbidden","message":"","innerError":{"code":"insufficient_claims"}}}"#;
    for (sentence, kind) in [
        ("in the header, with 403", challenged(vec![header.clone()], 403, denied)),
        ("in the header, with 401", challenged(vec![header], 401, "")),
        ("in the body", challenged(Vec::new(), 403, inside)),
    ] {
        let fleet = Fleet::start().await;
        fleet.pass(6 * MINUTE).await;
        befalls(&fleet, "northwind", Endpoint::Graph, "", kind);
        fleet.pass(12 * MINUTE).await;
        assert_eq!(
            fleet.reasons("northwind"),
            pairs(&[("group_access", "interaction_required")]),
            "{sentence}"
        );
        assert_eq!(fleet.kinds("it@northwind.example"), ["alert"], "{sentence}");
    }
}

/// Each item of a batch is throttled on its own; the longest pause counts for the tenant.
#[tokio::test]
async fn the_longest_pause_of_a_batch_is_kept() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let wait = |seconds: &str| FaultKind::Status { status: 429, retry_after: Some(seconds.to_owned()) };
    befalls(&fleet, "litware", Endpoint::BatchItem, "accountEnabled", wait("5"));
    befalls(&fleet, "litware", Endpoint::BatchItem, "appRoleAssignments", wait("1200"));
    fleet.pass(6 * MINUTE).await;
    fleet.simulator.clear_faults();
    fleet.simulator.take_requests();
    fleet.pass(12 * MINUTE).await;
    let asked =
        fleet.simulator.take_requests().iter().filter(|r| r.target.starts_with("/litware.example/")).count();
    assert_eq!(asked, 0, "twenty minutes are not over");
    assert!(fleet.reasons("litware").iter().all(|(_, r)| r == "throttled"), "{:?}", fleet.reasons("litware"));
}

/// Numbers as texts, a byte order mark, other letters: read, and nothing is said about it.
#[tokio::test]
async fn answers_are_read_as_microsoft_writes_them() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let names = ["northwind", "litware", "fabrikam", "adatum"];
    for (sentence, endpoint, find, replace) in [
        (
            "a delegated token's lifetime as a text",
            Endpoint::Token,
            "\"expires_in\":4011",
            "\"expires_in\":\"4011\"",
        ),
        (
            "an app-only token's lifetime as a text",
            Endpoint::Token,
            "\"expires_in\":3599",
            "\"expires_in\":\"3599\"",
        ),
        ("a type in lower case", Endpoint::Token, "\"Bearer\"", "\"bearer\""),
        ("a byte order mark before tokens", Endpoint::Token, "", "\u{feff}"),
        ("a byte order mark before Graph's JSON", Endpoint::Graph, "", "\u{feff}"),
        ("a grant for all in lower case", Endpoint::BatchItem, "AllPrincipals", "allprincipals"),
        ("an id that is null", Endpoint::Token, "\"token_type\"", "\"correlation_id\":null,\"token_type\""),
    ] {
        for name in names {
            befalls(&fleet, name, endpoint, "", rewrite(find, replace));
        }
        fleet.pass(11 * MINUTE).await;
        for name in names {
            assert_eq!(
                (fleet.up(name).as_deref(), fleet.reasons(name)),
                (Some("1"), vec![]),
                "{sentence}, {name}"
            );
        }
        fleet.simulator.clear_faults();
    }
    // A dead token, described in a loose way, is a dead token.
    let loose = [
        ("northwind", "\"error\":", "\"suberror\":7,\"error\":"),
        ("contoso", "", "\u{feff}"),
        ("proseware", "[50173]", "[\"50173\"]"),
        ("tailspin", "\"correlation_id\":\"", "\"suberror\":null,\"correlation_id\":\""),
    ];
    for (name, find, replace) in loose {
        let death = entra_sim::TokenDeath::Revoked;
        fleet.act(vec![Action::KillRefreshTokens { tenant: situation(name).tenant(), app: APP, death }]);
        befalls(&fleet, name, Endpoint::Token, "", rewrite(find, replace));
    }
    fleet.pass(11 * MINUTE).await;
    for (name, _, replace) in loose {
        assert!(
            fleet.reasons(name).contains(&("group_access".to_owned(), "token_revoked".to_owned())),
            "{replace}: {:?}",
            fleet.reasons(name)
        );
    }
}

/// Numbers that Microsoft's page does not list, and numbers that nobody knows.
#[tokio::test]
async fn numbers_known_and_unknown() {
    let names = ["northwind", "contoso", "proseware", "tailspin", "lucerne", "alpine"];
    let rows = [
        ("invalid_grant", None, 530_002, "access_blocked"),
        ("invalid_grant", None, 53_006, "interaction_required"),
        ("invalid_grant", None, 700_081, "token_expired"),
        ("unauthorized_client", None, 7_000_116, "app_disabled"),
        ("unauthorized_client", None, 7_000_217, "app_missing"),
        ("invalid_grant", None, 50_178, "account_disabled"),
        ("invalid_client", None, 7_000_226, "client_credential_invalid"),
        ("invalid_grant", None, 90_031, "upstream_unavailable"),
        ("invalid_grant", None, 53_999, "interaction_required"),
        ("invalid_grant", Some("message_only"), 53_999, "access_blocked"),
        ("invalid_grant", Some("bad_token"), 530_999, "interaction_required"),
        ("invalid_grant", None, 7_000_999, "unclassified"),
    ];
    for rows in rows.chunks(names.len()) {
        let fleet = Fleet::start().await;
        fleet.pass(6 * MINUTE).await;
        for (name, (error, suberror, aadsts, _)) in names.iter().zip(rows) {
            let (error, suberror) = ((*error).to_owned(), suberror.map(str::to_owned));
            befalls(
                &fleet,
                name,
                Endpoint::Token,
                "",
                FaultKind::Error { status: 400, error, aadsts: Some(*aadsts), suberror },
            );
        }
        fleet.pass(6 * MINUTE).await;
        for (name, (_, suberror, aadsts, expected)) in names.iter().zip(rows) {
            let reasons = fleet.reasons(name);
            let found = reasons.contains(&("group_access".to_owned(), (*expected).to_owned()));
            assert!(found, "AADSTS{aadsts} {suberror:?}: {reasons:?}");
        }
    }
}

/// The demo's tenant of an application with access of its own, asked directly.
struct Asked {
    simulator: Simulator,
    entra: Entra,
    token: Secret,
}

const TENANT: &str = "adatum.example";

impl Asked {
    async fn new() -> Self {
        let simulator = tenants(Options::default()).await;
        simulator.apply(Action::FreezeClock { at: None }).expect("a clock that runs");
        let url = simulator.url();
        let observer = Arc::new(|_: Upstream, _: &str, _: Duration| {});
        let door = HttpClient::new(&ClientOptions::default(), observer).expect("clients");
        let entra = Entra::new(door, Cloud { login_url: url.clone(), graph_url: url }, Arc::default());
        let credential = ClientCredential::Secret(SecretSource::Inline(Secret::new("demo-secret")));
        let client_id = APPLICATION_APP.to_string();
        let client = Client {
            tenant: TENANT,
            client_id: &client_id,
            credential: &credential,
            now_seconds: 0,
            deadline: deadline(),
        };
        let granted = entra.client_credentials(client, &entra.graph_scope()).await.expect("a token");
        Self { simulator, entra, token: granted.access_token }
    }

    fn group(&self, id: u128, name: &str) -> String {
        let id = Uuid::from_u128(id);
        self.simulator
            .apply(Action::AddGroup { tenant: TENANT.to_owned(), name: name.to_owned(), id: Some(id) })
            .expect("a group");
        id.to_string()
    }

    fn pages_of(&self, size: usize) {
        self.simulator
            .apply(Action::LimitPages { tenant: TENANT.to_owned(), size: Some(size) })
            .expect("a limit");
    }

    fn graph_fault(&self, contains: &str, fault: FaultKind) {
        self.simulator.fault(Fault {
            endpoint: Endpoint::Graph,
            tenant: None,
            contains: Some(contains.to_owned()),
            times: None,
            fault,
        });
    }

    async fn groups(&self, minimum: u32, required: Vec<GroupRef>) -> Result<Groups, Reason> {
        let policy = GroupPolicy { minimum, required };
        self.entra.groups(self.token.expose(), &policy, deadline()).await.map_err(|fault| fault.reason)
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn ids(groups: &Groups) -> Vec<Vec<String>> {
    let sorted = |ids: &Vec<String>| {
        let mut ids = ids.clone();
        ids.sort();
        ids
    };
    groups.required.iter().map(|g| sorted(&g.ids)).collect()
}

/// The same groups are found whatever the pages: by id, by name, two of one name, and more of them than fit into a batch.
#[tokio::test]
async fn groups_are_found_on_whatever_page_they_stand() {
    let asked = Asked::new().await;
    let first = asked.group(1, "Door access - Lab");
    let named_like_an_id = asked.group(2, "00000000-0000-0000-0000-000000000001");
    let many: Vec<String> = (100..125).map(|n| asked.group(n, &format!("Team {n}"))).collect();
    let second = asked.group(3, "door ACCESS - lab");
    let mut required = vec![
        GroupRef::Name("Door access - Lab".to_owned()),
        GroupRef::Id(first.to_uppercase()),
        GroupRef::Id(second.clone()),
        GroupRef::Id(Uuid::from_u128(999).to_string()),
        GroupRef::Name("Nobody".to_owned()),
        GroupRef::Name("00000000-0000-0000-0000-000000000001".to_owned()),
    ];
    let mut expected = vec![
        vec![first.clone(), second.clone()],
        vec![first],
        vec![second],
        vec![],
        vec![],
        vec![named_like_an_id],
    ];
    for (index, id) in many.into_iter().enumerate() {
        required.push(GroupRef::Name(format!("Team {}", 100 + index)));
        expected.push(vec![id]);
    }
    for size in [999, 31, 30, 10, 4, 2] {
        asked.pages_of(size);
        let groups = asked.groups(1, required.clone()).await.expect("groups");
        assert_eq!(ids(&groups), expected, "pages of {size}");
        assert_eq!(groups.visible, 31, "pages of {size}");
    }
}

/// A list that cannot be followed to its end is no fault where all that is required was seen.
#[tokio::test]
async fn lists_without_an_end_answer_with_what_was_seen() {
    let asked = Asked::new().await;
    let hq = || vec![GroupRef::Name("Door access - HQ".to_owned())];
    (100..140).for_each(|n| drop(asked.group(n, &format!("Team {n}"))));
    asked.pages_of(1);
    let groups = asked.groups(1, hq()).await.expect("groups");
    assert!(groups.required[0].visible() && groups.visible >= 20, "many small pages: {groups:?}");
    assert_eq!(asked.groups(43, hq()).await, Err(Reason::InvalidResponse), "too few of them were seen");
    let next = format!("{}/v1.0/groups?$skiptoken=SIM1", asked.simulator.url());
    let page = |groups: &str| FaultKind::Body {
        text: format!("{{\"value\":[{groups}],\"@odata.nextLink\":\"{next}\"}}"),
    };
    asked.graph_fault(
        "/groups?",
        page("{\"id\":\"a\",\"displayName\":\"x\"},{\"id\":\"b\",\"displayName\":\"y\"}"),
    );
    let groups = asked.groups(2, hq()).await.expect("groups");
    assert_eq!(
        (groups.visible >= 2, groups.required[0].visible()),
        (true, true),
        "a page that leads to itself"
    );
    assert_eq!(
        asked.groups(1000, hq()).await,
        Err(Reason::InvalidResponse),
        "and does not show what is required"
    );
    assert!(
        asked
            .groups(2, vec![GroupRef::Name("Nobody".to_owned())])
            .await
            .is_ok_and(|g| !g.required[0].visible()),
        "a look-up settles it"
    );
    asked.simulator.clear_faults();
    asked.graph_fault("skiptoken", FaultKind::Status { status: 503, retry_after: None });
    assert_eq!(
        asked.groups(3, Vec::new()).await,
        Err(Reason::UpstreamUnavailable),
        "a page that fails is not the end of the list"
    );
}

/// A required group whose look-up fails is not called missing.
#[tokio::test]
async fn a_look_up_that_fails_is_no_missing_group() {
    let asked = Asked::new().await;
    let lab = asked.group(7, "Door access - Lab");
    asked.pages_of(2);
    let by_id = || vec![GroupRef::Id(lab.clone())];
    for (sentence, kind, expected) in [
        (
            "Graph's own 404, while a later page shows the group",
            error(404, "Request_ResourceNotFound"),
            Ok(true),
        ),
        ("another 404", error(404, "UnknownError"), Err(Reason::Unclassified)),
        ("a page with 404", FaultKind::Html { status: 404 }, Err(Reason::InvalidResponse)),
        ("a page with 403", FaultKind::Html { status: 403 }, Err(Reason::InvalidResponse)),
        (
            "throttled",
            FaultKind::Status { status: 429, retry_after: Some("7".to_owned()) },
            Err(Reason::Throttled),
        ),
        ("the dependency was throttled", error(424, "TooManyRequests"), Err(Reason::Throttled)),
        (
            "another group",
            FaultKind::Body { text: "{\"id\":\"x\",\"displayName\":\"y\"}".to_owned() },
            Err(Reason::InvalidResponse),
        ),
    ] {
        let contains = Some(format!("/groups/{lab}"));
        asked.simulator.fault(Fault {
            endpoint: Endpoint::BatchItem,
            tenant: None,
            contains,
            times: None,
            fault: kind,
        });
        let seen = asked.groups(1, by_id()).await.map(|groups| groups.required[0].visible());
        assert_eq!(seen, expected, "{sentence}");
        asked.simulator.clear_faults();
    }
    assert_eq!(asked.groups(1, by_id()).await.map(|groups| ids(&groups)), Ok(vec![vec![lab.clone()]]));
}

/// Files of ours that cannot be read: Entra was not asked, and no admin is mailed.
#[tokio::test]
async fn credentials_that_cannot_be_read_are_ours() {
    let simulator = tenants(Options::default()).await;
    let files = tempfile::tempdir().expect("a folder");
    let (secret, token) = (files.path().join("secret"), files.path().join("token"));
    std::fs::write(&secret, "demo-secret\n").expect("written");
    let answer = simulator.apply(Action::IssueRefreshToken {
        tenant: "northwind.example".to_owned(),
        app: APP,
        user: None,
    });
    let good = answer.expect("a token")["refresh_token"].as_str().expect("a token").to_owned();
    std::fs::write(&token, &good).expect("written");
    let own = "    credential: {client_secret: demo-secret}\n    required_permissions: [{resource: microsoft_graph, delegated:";
    let kept = "app: sequr, tenant_id: northwind.example,";
    let text = demo::configuration(&simulator, "https://c.example.com", USUAL);
    assert!(text.contains(own) && text.contains(kept));
    let text = text
        .replace(
            own,
            &own.replace("client_secret: demo-secret", &format!("client_secret_file: {}", secret.display())),
        )
        .replace(kept, &format!("{kept} refresh_token_file: {},", token.display()));
    let fleet = Fleet::with(simulator, &text).await;
    demo::sign_in(&fleet.simulator, &fleet.daemon.store).await.expect("tokens");
    fleet.pass(6 * MINUTE).await;
    assert_eq!((fleet.up("northwind").as_deref(), fleet.up("contoso").as_deref()), (Some("1"), Some("1")));

    std::fs::write(&secret, "\n").expect("written");
    fleet.simulator.take_requests();
    fleet.pass(12 * MINUTE).await;
    let all = pairs(&[
        ("consent", "credential_unreadable"),
        ("enterprise_app", "credential_unreadable"),
        ("group_access", "credential_unreadable"),
    ]);
    let mut reasons = fleet.reasons("contoso");
    reasons.sort();
    assert_eq!((fleet.up("contoso").as_deref(), reasons), (Some("1"), all));
    let asked =
        fleet.simulator.take_requests().iter().filter(|r| r.target.starts_with("/contoso.example/")).count();
    assert_eq!(asked, 0, "Entra was not asked");
    std::fs::remove_file(&secret).expect("removed");
    fleet.pass(12 * MINUTE).await;
    assert!(
        fleet.reasons("contoso").iter().all(|(_, r)| r == "credential_unreadable"),
        "{:?}",
        fleet.reasons("contoso")
    );
    std::fs::write(&secret, "demo-secret\n").expect("written");
    recovered(&fleet, &["contoso", "northwind"], "the secret is back").await;

    std::fs::write(&token, "").expect("written");
    fleet.pass(6 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "an empty token file"
    );
    std::fs::remove_file(&token).expect("removed");
    std::fs::create_dir(&token).expect("a folder in its place");
    fleet.pass(6 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "a folder"
    );
    std::fs::remove_dir(&token).expect("removed");
    std::fs::write(&token, &good).expect("written");
    recovered(&fleet, &["northwind"], "the token is back").await;
    let to_admins: Vec<String> = fleet.told().into_iter().filter(|mail| mail.contains("to it@")).collect();
    assert_eq!(to_admins, Vec::<String>::new());
}

/// A row that another key has encrypted says so, and says nothing of Entra.
#[tokio::test]
async fn a_stored_token_that_does_not_decrypt_is_ours() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let database =
        rusqlite::Connection::open(fleet.folder.path().join("consentry.db")).expect("the database");
    database.busy_timeout(Duration::from_secs(5)).expect("patience");
    let changed = database
        .execute("UPDATE tokens SET current = x'00' WHERE integration = 'northwind'", [])
        .expect("changed");
    assert_eq!(changed, 1);
    fleet.pass(12 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "{:?}",
        fleet.reasons("northwind")
    );
    assert_eq!(fleet.kinds("it@northwind.example"), Vec::<String>::new());
}

/// Plain http is for loopback because nobody else reads it there. A proxy would.
#[tokio::test]
async fn loopback_never_goes_through_a_configured_proxy() {
    let simulator = tenants(Options::default()).await;
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let mut text = demo::configuration(&simulator, "https://c.example.com", USUAL);
    text = text.replace(&simulator.url(), &format!("http://localhost:{}", simulator.http.port()));
    text.push_str(&format!("upstream: {{proxy_url: \"http://{closed}\"}}\n"));
    let fleet = Fleet::with(simulator, &text).await;
    demo::sign_in(&fleet.simulator, &fleet.daemon.store).await.expect("tokens");
    fleet.pass(6 * MINUTE).await;
    for name in ["northwind", "fabrikam", "litware"] {
        assert_eq!((fleet.up(name).as_deref(), fleet.reasons(name)), (Some("1"), vec![]), "{name}");
    }
}

#[tokio::test]
async fn loopback_never_goes_through_the_proxy_of_the_environment() {
    let place = crate::program::Place::new().await;
    let file = place.file();
    let url = place.simulator.url();
    let text = std::fs::read_to_string(&file).expect("readable");
    let names = [url.clone(), format!("http://localhost:{}", place.simulator.http.port())];
    for name in names {
        std::fs::write(&file, text.replace(&url, &name)).expect("written");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_consentry"));
        command.args(["probe", "northwind", &format!("--config.file={}", file.display())]);
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(variable, "http://127.0.0.1:9");
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        let output = command.output().await.expect("ended");
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Microsoft Graph is in every tenant: a directory that does not show it is not believed, and consent is judged by the token.
#[tokio::test]
async fn microsoft_graph_is_in_every_tenant() {
    let fleet = Fleet::start().await;
    befalls(&fleet, "litware", Endpoint::BatchItem, "appRoles", error(404, "Request_ResourceNotFound"));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(
        (fleet.up("litware").as_deref(), fleet.told()),
        (Some("1"), vec![]),
        "{:?}",
        fleet.reasons("litware")
    );
}
