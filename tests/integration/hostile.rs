//! Hostile upstreams and hostile names: limited, escaped, and without effect on other tenants.

use std::time::Duration;

use consentry::demo;
use entra_sim::{Action, Endpoint, Fault, FaultKind};

use crate::fleet::Fleet;
use crate::world::{MINUTE, World};

/// Invalid responses of one tenant are `invalid_response` there, within time and memory, and have no effect
/// elsewhere.
#[tokio::test]
async fn invalid_responses_affect_only_their_tenant() {
    let body = |text: &str| FaultKind::Body { text: text.to_owned() };
    let kinds = [
        (Endpoint::Graph, FaultKind::EndlessBody),
        (Endpoint::Graph, FaultKind::HugeJson { bytes: 10_000_000 }),
        (Endpoint::Graph, FaultKind::BrokenJson),
        (Endpoint::Graph, FaultKind::Html { status: 200 }),
        (Endpoint::Graph, FaultKind::Redirect { location: "http://127.0.0.1:1/".to_owned() }),
        (Endpoint::Graph, body("[]")),
        (Endpoint::Graph, body("null")),
        (Endpoint::Graph, body("{\"value\": 7}")),
        (Endpoint::Graph, body("{\"value\": [{\"id\": 5}]}")),
        (Endpoint::Graph, body("{\"value\": [], \"@odata.nextLink\": \"http://evil.example/v1.0/groups\"}")),
        (Endpoint::Token, FaultKind::EndlessBody),
        (Endpoint::Token, FaultKind::HugeJson { bytes: 10_000_000 }),
        (Endpoint::Token, FaultKind::BrokenJson),
        (Endpoint::Token, FaultKind::Html { status: 200 }),
        (Endpoint::Token, FaultKind::Redirect { location: "http://127.0.0.1:1/".to_owned() }),
        (Endpoint::Token, body("{\"access_token\": 5}")),
        (Endpoint::Token, body("{}")),
    ];
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    for (endpoint, kind) in kinds {
        for tenant in ["northwind.example", "litware.example"] {
            fleet.simulator.fault(Fault {
                endpoint,
                tenant: Some(tenant.to_owned()),
                contains: None,
                times: None,
                fault: kind.clone(),
            });
        }
        fleet.pass(7 * MINUTE).await;
        for name in ["northwind", "litware"] {
            let reasons = fleet.reasons(name);
            assert!(
                !reasons.is_empty() && reasons.iter().all(|(_, r)| r == "invalid_response"),
                "{endpoint:?} {kind:?} {name}: {reasons:?}"
            );
            assert_eq!(fleet.up(name).as_deref(), Some("1"));
        }
        assert_eq!(fleet.reasons("contoso"), vec![], "{kind:?}");
        fleet.simulator.clear_faults();
        fleet.pass(12 * MINUTE).await;
        assert_eq!((fleet.reasons("northwind"), fleet.reasons("litware")), (vec![], vec![]), "{kind:?}");
    }
    assert_eq!(fleet.notified(), Vec::<String>::new());
}

#[tokio::test]
async fn a_silent_upstream_ends_with_the_probe() {
    let mut world = World::demo().await;
    world.add("probe.timeout", "300ms");
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Any,
        tenant: Some("northwind.example".to_owned()),
        contains: None,
        times: None,
        fault: FaultKind::Hang,
    });
    fleet.pass(6 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").iter().all(|(_, r)| r == "timeout")
            && fleet.reasons("northwind").len() == 3,
        "{:?}",
        fleet.reasons("northwind")
    );
    assert_eq!(fleet.reasons("contoso"), vec![]);
}

/// A pause that a tenant asks for is kept, whatever its form; invalid and negative values do not cause a
/// pause.
#[tokio::test]
async fn retry_after_is_respected() {
    for (value, quiet) in [("1200", true), ("-5", false), ("soon", false)] {
        let fleet = Fleet::start().await;
        fleet.pass(6 * MINUTE).await;
        let fault = FaultKind::Status { status: 429, retry_after: Some(value.to_owned()) };
        fleet.simulator.fault(Fault {
            endpoint: Endpoint::Graph,
            tenant: Some("northwind.example".to_owned()),
            contains: None,
            times: Some(1),
            fault,
        });
        fleet.pass(5 * MINUTE).await;
        fleet.simulator.take_requests();
        fleet.pass(14 * MINUTE).await;
        let asked =
            fleet.simulator.take_requests().iter().any(|r| r.target.starts_with("/northwind.example/"));
        assert_eq!(asked, !quiet, "Retry-After: {value}");
    }
}

#[tokio::test]
async fn hostile_names_are_escaped_everywhere() {
    let mut world = World::demo().await;
    let hostile = ["<script>alert(1)</script>", "a\"b\\c", "\u{202e}🚪", "O'Brien & sons"];
    let long = "x".repeat(10_000);
    for name in hostile.iter().copied().chain([long.as_str()]) {
        let (tenant, name) = ("contoso.example".to_owned(), name.to_owned());
        world.act([Action::AddGroup { tenant, name, id: None }]);
    }
    let required = serde_json::json!(hostile).to_string();
    let display = serde_json::json!(format!("Evil\r\nBcc: x@example.com <script>\"{long}")).to_string();
    world
        .set("integrations.contoso.display_name", &display)
        .set("integrations.contoso.groups", &format!("{{required: {required}}}"));
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.reasons("contoso")),
        (Some("1"), vec![]),
        "every hostile group is found"
    );
    for name in hostile {
        fleet
            .simulator
            .apply(Action::DeleteGroup { tenant: "contoso.example".to_owned(), name: name.to_owned() })
            .expect("deleted");
    }
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.reasons("contoso"), [("group_access".to_owned(), "group_missing".to_owned())]);
    let mails = fleet.mails();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0].1;
    assert!(!mail.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("bcc")), "no header was smuggled in");
    assert!(!mail.html.contains("<script>") && mail.html.contains("&#60;script&#62;"), "escaped");
    assert!(
        fleet
            .series("consentry_integration_info", "contoso")
            .iter()
            .all(|l| l.len() < 1200 && l.contains("Evil\r\\nBcc")),
        "escaped and cut"
    );
}

/// A failing upstream gets fewer requests.
#[tokio::test]
async fn a_failing_upstream_gets_fewer_requests() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    fleet.simulator.take_requests();
    fleet.pass(60 * MINUTE).await;
    let usual = fleet.simulator.take_requests().len();
    let fault = FaultKind::Status { status: 503, retry_after: None };
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Any,
        tenant: None,
        contains: None,
        times: None,
        fault,
    });
    fleet.pass(60 * MINUTE).await;
    fleet.simulator.take_requests();
    fleet.pass(60 * MINUTE).await;
    let failing = fleet.simulator.take_requests().len();
    assert!(failing * 3 < usual, "{failing} requests an hour against {usual}");
    fleet.simulator.clear_faults();
    fleet.pass(Duration::from_secs(3 * 3600)).await;
    assert!(demo::SITUATIONS.iter().all(|s| fleet.reasons(s.name).is_empty()));
}

/// After a tenant has asked for a pause, the probe sends it no further requests.
#[tokio::test]
async fn a_pause_begins_at_once() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let fault = FaultKind::Status { status: 429, retry_after: Some("3600".to_owned()) };
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Token,
        tenant: Some("northwind.example".to_owned()),
        contains: None,
        times: None,
        fault,
    });
    fleet.simulator.take_requests();
    fleet.pass(60 * MINUTE).await;
    let asked = fleet
        .simulator
        .take_requests()
        .iter()
        .filter(|r| r.target.starts_with("/northwind.example/"))
        .count();
    assert_eq!(asked, 1, "one request, and then none for an hour");
    assert!(
        fleet.reasons("northwind").iter().all(|(_, r)| r == "throttled"),
        "{:?}",
        fleet.reasons("northwind")
    );
    assert_eq!(fleet.up("northwind").as_deref(), Some("1"));
}

/// A scrape of `/probe` is not a person's request, so it keeps the pause.
#[tokio::test]
async fn a_scraper_keeps_the_pause() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let fault = FaultKind::Status { status: 429, retry_after: Some("3600".to_owned()) };
    let tenant = Some("northwind.example".to_owned());
    fleet.simulator.fault(Fault { endpoint: Endpoint::Token, tenant, contains: None, times: None, fault });
    fleet.pass(6 * MINUTE).await;
    fleet.simulator.take_requests();
    fleet.daemon.monitor.probe_now("northwind").await;
    fleet.pass(MINUTE).await;
    let asked: Vec<_> = fleet
        .simulator
        .take_requests()
        .into_iter()
        .filter(|r| r.target.starts_with("/northwind.example/"))
        .collect();
    assert!(asked.is_empty(), "{asked:?}");
}

/// Faults of one tenant do not slow down the probes of others.
#[tokio::test]
async fn faults_of_one_tenant_do_not_affect_others() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let fault = FaultKind::Status { status: 503, retry_after: None };
    fleet.simulator.fault(Fault {
        endpoint: Endpoint::Any,
        tenant: Some("northwind.example".to_owned()),
        contains: None,
        times: None,
        fault,
    });
    fleet.pass(60 * MINUTE).await;
    fleet.simulator.take_requests();
    fleet.pass(60 * MINUTE).await;
    let refreshes = fleet
        .simulator
        .take_requests()
        .iter()
        .filter(|r| {
            r.target.starts_with("/contoso.example/") && r.grant_type.as_deref() == Some("refresh_token")
        })
        .count();
    assert_eq!(refreshes, 12, "every five minutes, as ever");
}
