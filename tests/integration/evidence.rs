//! What counts as evidence: responses that Entra and Graph did not write, that contradict each other, or
//! whose format differs from the documentation.

use consentry::demo::APP;
use entra_sim::{Action, Endpoint, Fault, FaultKind};

use crate::fleet::Fleet;
use crate::world::{MINUTE, situation};

const PAGE: &str = "<!doctype html><title>Blocked</title><p>This site is blocked by your organization.</p>";

/// A response that replaces the right one.
fn answer(status: u16, content_type: &str, body: &str) -> FaultKind {
    FaultKind::Answer {
        status,
        headers: Vec::new(),
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    }
}

/// Graph's own error.
pub fn error(status: u16, code: &str) -> FaultKind {
    FaultKind::Error { status, error: code.to_owned(), aadsts: None, suberror: None }
}

fn rewrite(find: &str, replace: &str) -> FaultKind {
    FaultKind::Rewrite { find: find.to_owned(), replace: replace.to_owned() }
}

/// Faults for one tenant's requests that contain a text.
fn befalls(fleet: &Fleet, name: &str, endpoint: Endpoint, contains: &str, fault: FaultKind) {
    // The items of a batch contain the tenant's GUID only.
    let tenant = situation(name).tenant_id().to_string();
    let contains = (!contains.is_empty()).then(|| contains.to_owned());
    fleet.simulator.fault(Fault { endpoint, tenant: Some(tenant), contains, times: None, fault });
}

pub fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(check, reason)| ((*check).to_owned(), (*reason).to_owned())).collect()
}

/// Removes all faults, and asserts that the integrations are healthy afterwards.
pub async fn recovered(fleet: &Fleet, names: &[&str], sentence: &str) {
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

/// A proxy that inspects TLS returns errors, too. Nobody in the tenant can fix that, so nobody is mailed.
#[tokio::test]
async fn errors_that_graph_did_not_write_notify_nobody() {
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
    assert_eq!(fleet.notified(), Vec::<String>::new());
}

/// An object is absent only after Graph's own 404 or an empty list, and only if nothing else contradicts
/// that.
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
    assert_eq!(fleet.notified(), Vec::<String>::new());
}

/// The opposite case: an application that is really gone, with every source agreeing, is reported.
#[tokio::test]
async fn an_application_that_is_gone_is_reported() {
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

/// Numbers as texts, a byte order mark, another case: all are read, and nothing is reported.
#[tokio::test]
async fn all_observed_forms_of_responses_are_read() {
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
    // A rejected token is rejected, even if the error body has an unusual format.
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

/// Numbers that Microsoft's page does not list, and unknown numbers.
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

/// Microsoft Graph is in every tenant: a directory that does not show it is not trusted, and consent is
/// judged by the token.
#[tokio::test]
async fn microsoft_graph_is_in_every_tenant() {
    let fleet = Fleet::start().await;
    befalls(&fleet, "litware", Endpoint::BatchItem, "appRoles", error(404, "Request_ResourceNotFound"));
    fleet.pass(12 * MINUTE).await;
    assert_eq!(
        (fleet.up("litware").as_deref(), fleet.notified()),
        (Some("1"), vec![]),
        "{:?}",
        fleet.reasons("litware")
    );
}
