//! From changes in a tenant to gauges, reasons and mails, and back to green.

use consentry::demo::SITUATIONS;
use consentry::domain::Reason;
use entra_sim::{Action, TokenDeath};

use crate::configuration::Configuration;
use crate::fleet::Fleet;
use crate::world::{MINUTE, World, header, situation};

#[tokio::test]
async fn a_healthy_fleet_is_green_and_quiet() {
    let fleet = Fleet::start().await;
    assert_eq!(fleet.up("northwind"), None, "absent until known");
    fleet.pass(6 * MINUTE).await;
    for situation in SITUATIONS {
        assert_eq!(
            (fleet.up(situation.name).as_deref(), fleet.reasons(situation.name)),
            (Some("1"), vec![]),
            "{situation:?}"
        );
    }
    assert_eq!(
        fleet.series("consentry_groups_visible", "northwind"),
        ["consentry_groups_visible{integration=\"northwind\"} 3"]
    );
    assert_eq!(fleet.series("consentry_permission_granted", "contoso").len(), 2);
    let guid = situation("contoso").tenant_id().to_string();
    assert!(
        fleet.series("consentry_integration_info", "contoso")[0].contains(&format!("tenant_id=\"{guid}\"")),
        "the domain was resolved"
    );
    assert_eq!(fleet.notified(), Vec::<String>::new());
}

/// Every situation of the demo's list: broken with its reason, one mail, no further mail, fixed, and one
/// resolved mail in the same thread.
#[tokio::test]
async fn every_situation_from_green_to_mail_to_green() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let broken = || SITUATIONS.iter().filter_map(|s| s.reason.map(|r| (s, r)));
    for (situation, _) in broken() {
        fleet.act((situation.breaks)(&situation.tenant()));
    }
    fleet.pass(12 * MINUTE).await;
    for (situation, reason) in broken() {
        assert_eq!(
            fleet.up(situation.name).as_deref(),
            Some("0"),
            "{situation:?}: {:?}",
            fleet.reasons(situation.name)
        );
        let reasons = fleet.reasons(situation.name);
        assert!(reasons.iter().any(|(_, r)| r == reason.label()), "{situation:?}: {reasons:?}");
        let needed = fleet.series("consentry_integration_reauthentication_required", situation.name);
        let expected = u8::from(reason.remedy().label() == "reauthenticate");
        assert!(needed[0].ends_with(&format!(" {expected}")), "{needed:?}");
        assert_eq!(fleet.kinds(&format!("it@{}", situation.tenant())), ["alert"], "{situation:?}");
    }
    fleet.pass(120 * MINUTE).await;
    assert_eq!(fleet.mails().len(), broken().count(), "one mail each, not one a probe");
    for (situation, _) in broken() {
        fleet.act((situation.fix)(&situation.tenant()));
    }
    fleet.import_token("proseware").await;
    fleet.pass(30 * MINUTE).await;
    for (situation, _) in broken() {
        assert_eq!(
            (fleet.up(situation.name).as_deref(), fleet.reasons(situation.name)),
            (Some("1"), vec![]),
            "{situation:?}"
        );
        let own: Vec<_> = fleet
            .mails()
            .into_iter()
            .filter(|(to, _)| *to == format!("it@{}", situation.tenant()))
            .map(|(_, m)| m)
            .collect();
        assert_eq!(
            own.iter().filter_map(|m| header(m, "X-Consentry-Event")).collect::<Vec<_>>(),
            ["alert", "resolved"],
            "{situation:?}"
        );
        let first = format!("<{}>", own[0].message_id);
        assert_eq!(
            (header(&own[1], "In-Reply-To"), header(&own[1], "References")),
            (Some(first.clone()), Some(first)),
            "{situation:?}"
        );
        assert_eq!(header(&own[0], "X-Consentry-Integration").as_deref(), Some(situation.name));
        assert_eq!(header(&own[0], "Auto-Submitted").as_deref(), Some("auto-generated"));
    }
}

#[tokio::test]
async fn a_mail_carries_both_parts_and_a_link() {
    let fleet = Fleet::start().await;
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    let (to, mail) = &fleet.mails()[0];
    assert_eq!(to, "it@contoso.example");
    assert_eq!(mail.parts, ["multipart/alternative", "text/plain", "text/html"]);
    for part in [&mail.text, &mail.html] {
        assert!(part.contains("https://c.example.com/reauth/contoso?token="), "{part}");
        assert!(
            part.contains("Group.Read.All") && part.contains("SCIM") && part.contains("Demo Support"),
            "{part}"
        );
    }
}

/// At most two Graph round trips while nothing changes, and one batch for all directory requests.
#[tokio::test]
async fn few_round_trips() {
    let fleet = Fleet::start().await;
    fleet.pass(12 * MINUTE).await;
    fleet.simulator.take_requests();
    fleet.pass(5 * MINUTE).await;
    let requests = fleet.simulator.take_requests();
    let graph = requests.iter().filter(|r| r.host == "graph");
    let readers = SITUATIONS.iter().filter(|s| s.reader).count();
    assert_eq!(graph.clone().filter(|r| r.target.contains("$batch")).count(), readers);
    assert_eq!(graph.clone().count(), SITUATIONS.len() + readers);
    assert!(
        graph.clone().filter(|r| !r.batch.is_empty()).all(|r| r.batch.len() == 3),
        "resources are remembered"
    );
    assert!(
        graph.clone().all(|r| r.headers.iter().any(|(n, v)| n == "x-ms-throttle-priority" && v == "Low"))
    );
    let tokens = requests.iter().filter(|r| r.grant_type.is_some()).count();
    let two_tokens = SITUATIONS.iter().filter(|s| !s.application && !s.reader).count();
    assert_eq!(
        tokens,
        SITUATIONS.len() + two_tokens,
        "a refresh each, and an app-only token where no reader looks"
    );
    assert!(!requests.iter().any(|r| r.target.contains("openid-configuration")), "tenants are resolved once");
}

#[tokio::test]
async fn a_changed_reason_is_notified_once() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let tenant = "northwind.example".to_owned();
    let app = situation("northwind").app();
    fleet.act(vec![Action::KillRefreshTokens { tenant: tenant.clone(), app, death: TokenDeath::Revoked }]);
    fleet.pass(12 * MINUTE).await;
    fleet.act(vec![Action::DeleteApp { tenant: tenant.clone(), app }]);
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds("it@northwind.example"), ["alert", "changed"]);
    assert!(
        fleet.reasons("northwind").iter().all(|(_, r)| r == "app_missing"),
        "{:?}",
        fleet.reasons("northwind")
    );
    fleet.act(vec![Action::RestoreApp { tenant, app }]);
    fleet.import_token("northwind").await;
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds("it@northwind.example"), ["alert", "changed", "resolved"]);
    let mails = fleet.mails();
    let threads: Vec<_> = mails.iter().skip(1).map(|(_, m)| header(m, "References")).collect();
    assert!(threads.iter().all(|t| *t == Some(format!("<{}>", mails[0].1.message_id))), "{threads:?}");
}

/// A rotated token is saved. If Entra rejects the newest one, the previous one is tried before anybody is
/// notified.
#[tokio::test]
async fn rotation_loses_nothing() {
    let fleet = Fleet::start().await;
    fleet.pass(11 * MINUTE).await;
    let newest = |world: &mut entra_sim::World| {
        let tenant = situation("northwind").tenant_id();
        let own: Vec<String> =
            world.refresh_tokens.iter().filter(|(_, t)| t.tenant == tenant).map(|(k, _)| k.clone()).collect();
        own.len()
    };
    assert!(fleet.simulator.with_world(newest) >= 3, "every probe rotated");
    let id = consentry::store::TokenId {
        integration: "northwind".to_owned(),
        client_id: situation("northwind").app().to_string(),
        tenant: "northwind.example".to_owned(),
    };
    let stored = fleet.daemon.store.token(&id).await.expect("read").expect("a token");
    let (current, previous) =
        (stored.current.expose().to_owned(), stored.previous.expect("a previous one").expose().to_owned());
    fleet.simulator.with_world(|w| {
        w.refresh_tokens.get_mut(&current).expect("known").dead = Some(TokenDeath::Corrupted);
    });
    fleet.pass(6 * MINUTE).await;
    assert_eq!((fleet.up("northwind").as_deref(), fleet.reasons("northwind")), (Some("1"), vec![]));
    let stored = fleet.daemon.store.token(&id).await.expect("read").expect("a token");
    assert_eq!(stored.previous.map(|p| p.expose().to_owned()), Some(previous), "the one that worked is kept");
    assert_ne!(stored.current.expose(), current);
    assert_eq!(fleet.notified(), Vec::<String>::new());
}

#[tokio::test]
async fn states_survive_a_restart() {
    let fleet = Fleet::start().await;
    fleet.act((situation("litware").breaks)("litware.example"));
    fleet.pass(12 * MINUTE).await;
    let before = fleet.exposition();
    let own = |text: &str| {
        text.lines()
            .filter(|l| l.contains("integration=\"") && !l.contains("duration"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let fleet = fleet.restart().await;
    assert_eq!(own(&fleet.exposition()), own(&before), "gauges are there before the first probe");
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.kinds("it@litware.example"), ["alert"], "no second alert");
    assert_eq!(fleet.reasons("litware").len(), 3);
    let events = fleet.daemon.store.events("litware").await.expect("events");
    assert_eq!(
        events.iter().map(|e| (e.kind.as_str(), e.detail.as_str())).next(),
        Some(("broken", Reason::AppDeleted.label()))
    );
}

/// A week in seconds: a probe at once and 2,016 in its slots, nobody notified, nothing lost.
#[tokio::test]
async fn a_simulated_week() {
    let mut world = World::demo().await;
    world.only(&["northwind"]);
    let fleet = world.fleet().await;
    for _ in 0..7 {
        fleet.pass(24 * 60 * MINUTE).await;
    }
    assert_eq!((fleet.up("northwind").as_deref(), fleet.notified()), (Some("1"), vec![]));
    let passed = "consentry_probes_total{result=\"pass\"} 2017";
    assert!(fleet.exposition().lines().any(|l| l == passed), "{passed}");
}

/// An RSA key and a certificate, PEM.
fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let certificate = rcgen::CertificateParams::new(Vec::new())
        .expect("parameters")
        .self_signed(&key)
        .expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

const OWN_APP: uuid::Uuid = uuid::Uuid::from_u128(0x77);
const VAULT: uuid::Uuid = uuid::Uuid::from_u128(0x88);

/// A certificate, a public client, a token that another program maintains, and permissions on a resource
/// other than Graph.
#[tokio::test]
async fn other_credentials_and_resources() {
    let mut world = World::demo().await;
    let (pem, key) = certificate();
    let files = tempfile::tempdir().expect("a folder");
    std::fs::write(files.path().join("app.pem"), &pem).expect("written");
    std::fs::write(files.path().join("app.key"), &key).expect("written");
    let public = uuid::Uuid::from_u128(0x99);
    let tenant = "northwind.example".to_owned();
    let add = |id, certificate_pem| Action::AddApp {
        id,
        name: "Own".to_owned(),
        secret: None,
        certificate_pem,
        redirect_uris: vec![],
        delegated: vec![],
        application: vec![],
    };
    let consent = |app, resource, delegated: &[&str], application: &[&str]| Action::Consent {
        tenant: tenant.clone(),
        app,
        user: None,
        resource,
        delegated: delegated.iter().map(|s| (*s).to_owned()).collect(),
        application: application.iter().map(|s| (*s).to_owned()).collect(),
    };
    for action in [
        add(OWN_APP, Some(pem)),
        add(public, None),
        add(VAULT, None),
        Action::OfferPermissions {
            app: VAULT,
            names: vec!["https://vault.example".to_owned()],
            scopes: vec!["Doors.Read".to_owned()],
            roles: vec!["Doors.Manage".to_owned()],
        },
        consent(OWN_APP, None, &[], &["Group.Read.All"]),
        consent(OWN_APP, Some(VAULT), &[], &["Doors.Manage"]),
        consent(public, None, &["User.Read", "Group.Read.All"], &[]),
        consent(public, Some(VAULT), &["Doors.Read"], &[]),
    ] {
        world.act([action]);
    }
    let answer = world
        .simulator
        .apply(Action::IssueRefreshToken { tenant: tenant.clone(), app: public, user: None })
        .expect("a token");
    let foreign = files.path().join("token");
    std::fs::write(&foreign, answer["refresh_token"].as_str().expect("a token")).expect("written");
    let text = format!(
        "cloud: {{login_url: \"{url}\", graph_url: \"{url}\"}}\ndirectory_readers: {{r: {{client_id: {reader}, credential: {{client_secret: demo-secret}}}}}}\napps:\n  \
         cert: {{client_id: {OWN_APP}, access: application, credential: {{certificate_file: {dir}/app.pem, private_key_file: {dir}/app.key}}, required_permissions: \
           [{{resource: microsoft_graph, application: [Group.Read.All]}}, {{resource: \"https://vault.example\", application: [Doors.Manage]}}]}}\n  \
         public: {{client_id: {public}, credential: none, required_permissions: \
           [{{resource: microsoft_graph, delegated: [Group.Read.All]}}, {{resource: {VAULT}, delegated: [Doors.Read]}}]}}\nintegrations:\n  \
         - {{name: cert, app: cert, tenant_id: {tenant}}}\n  - {{name: cert-read, app: cert, tenant_id: {tenant}, directory_reader: r}}\n  \
         - {{name: public, app: public, tenant_id: {tenant}, refresh_token_file: {dir}/token}}\n  \
         - {{name: nobody, app: public, tenant_id: {tenant}}}\n",
        url = world.simulator.url(),
        dir = files.path().display(),
        reader = consentry::demo::READER,
    );
    world.act([consent(consentry::demo::READER, None, &[], &["Directory.Read.All"])]);
    world.change(|configuration| *configuration = Configuration::parse(&text));
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    for name in ["cert", "cert-read", "public"] {
        assert_eq!((fleet.up(name).as_deref(), fleet.reasons(name)), (Some("1"), vec![]), "{name}");
        assert_eq!(
            fleet.series("consentry_permission_granted", name).iter().filter(|l| l.ends_with(" 1")).count(),
            2,
            "{name}"
        );
    }
    let nobody: Vec<String> = fleet.reasons("nobody").into_iter().map(|(_, r)| r).collect();
    assert_eq!(nobody, ["token_missing"; 3], "of a public client without token nothing is known");
    assert_eq!(
        std::fs::read_to_string(&foreign).expect("readable"),
        answer["refresh_token"].as_str().expect("a token"),
        "never written"
    );
    fleet.act(vec![
        Action::EditConsent {
            tenant: tenant.clone(),
            app: OWN_APP,
            resource: Some(VAULT),
            delegated: None,
            application: Some(vec![]),
        },
        Action::EditConsent {
            tenant,
            app: public,
            resource: Some(VAULT),
            delegated: Some(vec![]),
            application: None,
        },
    ]);
    fleet.pass(12 * MINUTE).await;
    for name in ["cert", "cert-read", "public"] {
        assert!(
            fleet.reasons(name).contains(&("consent".to_owned(), "permission_missing".to_owned())),
            "{name}: {:?}",
            fleet.reasons(name)
        );
        assert!(
            !fleet.reasons(name).iter().any(|(check, _)| check == "group_access"),
            "{name}: groups still answer"
        );
    }
}

/// TLS with a private authority, which must be configured to be trusted.
#[tokio::test]
async fn a_corporate_authority_is_trusted_when_it_is_named() {
    for (named, expected) in [(true, None), (false, Some("network_error"))] {
        let mut world = World::demo().await;
        std::fs::write(world.path("ca.pem"), world.simulator.ca_pem()).expect("written");
        let url = world.simulator.https_url();
        world.set("cloud.login_url", &url).set("cloud.graph_url", &url);
        if named {
            world.add("upstream", "{tls_config: {ca_file: ca.pem}}");
        }
        let fleet = world.fleet().await;
        fleet.pass(6 * MINUTE).await;
        for name in ["northwind", "fabrikam", "litware"] {
            let reasons = fleet.reasons(name);
            match expected {
                None => assert_eq!((fleet.up(name).as_deref(), reasons), (Some("1"), vec![])),
                Some(expected) => {
                    assert!(!reasons.is_empty() && reasons.iter().all(|(_, r)| r == expected), "{reasons:?}");
                }
            }
        }
    }
}
