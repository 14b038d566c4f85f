//! Reloads while the program runs: requested by a signal or over HTTP, or because watched files change.

use std::path::PathBuf;

use consentry::demo;
use entra_sim::{Endpoint, Fault, FaultKind, Mail, MailFaults};

use crate::configuration::Configuration;
use crate::daemon::{Daemon, up};
use crate::world::{PUBLIC_URL, World, eventually, free_address, header, replace, text};

/// The world's configuration with these integrations and no others. The world keeps all of them.
fn with_only(world: &World, names: &[&str]) -> Configuration {
    let mut configuration = world.configuration.clone();
    configuration.only(names);
    configuration
}

/// A daemon with these integrations.
async fn started(names: &[&str]) -> (World, Daemon) {
    let world = World::live().await;
    with_only(&world, names).write(&world.file());
    let daemon = daemon(&world).await;
    (world, daemon)
}

/// A daemon that reloads on a request over HTTP.
async fn daemon(world: &World) -> Daemon {
    let daemon = world.daemon(&["--web.enable-lifecycle", "--log.level=debug"]);
    daemon.ready().await;
    daemon
}

/// Puts a configuration into effect.
async fn reload(world: &World, daemon: &Daemon, configuration: &Configuration) {
    configuration.write(&world.file());
    assert_eq!(daemon.reload().await, (200, String::new()));
}

/// Integrations that stay keep state and alert, new ones are probed soon, and removed ones disappear
/// everywhere.
#[tokio::test]
async fn integrations_stay_come_and_go() {
    let (world, mut daemon) = started(&["northwind", "contoso"]).await;
    world.breaks("contoso");
    daemon.becomes("contoso", "broken").await;
    world.mails(1).await;
    daemon.probed(&["northwind"]).await;
    let link = text(&world.command(&["reauth-link", "northwind"]).await.stdout);
    let link = link.trim().replace(PUBLIC_URL, "");
    assert_eq!(daemon.get(&link).await.0, 200);
    let since = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["since"].clone();
    let before = since(&daemon.get("/api/v1/integrations/contoso").await.1);
    reload(&world, &daemon, &with_only(&world, &["contoso", "fabrikam"])).await;
    daemon.watches(&["contoso", "fabrikam"]).await;
    daemon.probed(&["fabrikam"]).await;
    assert_eq!(daemon.metric(&up("fabrikam")).await.as_deref(), Some("1"));
    assert_eq!(
        since(&daemon.get("/api/v1/integrations/contoso").await.1),
        before,
        "broken since when it was"
    );
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(!metrics.contains("northwind"), "{metrics}");
    let checks: f64 = metrics
        .lines()
        .filter(|l| l.starts_with("consentry_checks{"))
        .map(|l| l.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
        .sum();
    assert!((checks - 6.0).abs() < 0.1, "three checks of two integrations, not {checks}");
    for (path, status) in [
        ("/integrations/northwind", 404),
        ("/api/v1/integrations/northwind", 404),
        ("/api/v1/integrations/northwind/events", 404),
        ("/integrations/northwind/badge.svg", 404),
        ("/probe?target=northwind", 404),
        (link.as_str(), 403),
        ("/integrations/fabrikam", 200),
    ] {
        assert_eq!(daemon.get(path).await.0, status, "{path}");
    }
    for path in ["/", "/config", "/api/v1/integrations"] {
        assert!(!daemon.get(path).await.1.contains("northwind"), "{path}");
    }
    // The open alert is not notified again, and is resolved once.
    world.fix("contoso");
    daemon.becomes("contoso", "healthy").await;
    world.mails(2).await;
    // By a signal, and back: the earlier state is used again.
    with_only(&world, &["northwind", "contoso", "fabrikam"]).write(&world.file());
    let before = daemon.last_reload().await;
    daemon.signal("-HUP");
    daemon.reloaded_since(before).await;
    assert_eq!(daemon.metric(&up("northwind")).await.as_deref(), Some("1"), "before its next probe");
    assert_eq!(daemon.get(&link).await.0, 200);
    daemon.terminate().await;
    assert_eq!(world.simulator.mailbox().all().len(), 2);
    for words in ["integrations=2 added=1 removed=1 changed=0", "added=1 removed=0"] {
        assert!(daemon.has_logged(&["configuration reloaded", words]), "{words}: {:#?}", daemon.log());
    }
}

/// All or nothing: after one mistake, nothing has changed.
#[tokio::test]
async fn a_wrong_configuration_changes_nothing() {
    let (world, mut daemon) = started(&["northwind"]).await;
    daemon.probed(&["northwind"]).await;
    let good = with_only(&world, &["northwind", "contoso"]);
    let wrong = |change: fn(&mut Configuration) -> &mut Configuration| change(&mut good.clone()).text();
    let successful = "consentry_config_last_reload_successful";
    assert_eq!(daemon.metric(successful).await.as_deref(), Some("1"));
    let cases = [
        (wrong(|good| good.set("integrations.contoso.app", "sequa")), "did you mean sequr?"),
        (wrong(|good| good.set("probe.interval", "soon")), "probe.interval"),
        ("integrations: [".to_owned(), "not valid YAML"),
        (
            wrong(|good| good.add("storage", "{url: \"sqlite://other.db\"}")),
            "storage: cannot change while Consentry runs",
        ),
        (
            wrong(|good| good.add("reauthentication.listen_address", "\"192.0.2.1:1\"")),
            "cannot listen on 192.0.2.1:1",
        ),
    ];
    for (text, expected) in cases {
        replace(&world.file(), &text);
        let (status, said) = daemon.reload().await;
        assert_eq!(status, 500, "{expected}");
        assert!(
            said.starts_with("failed to reload config: ") && said.contains(expected),
            "{expected}: {said}"
        );
        assert_eq!(daemon.metric(successful).await.as_deref(), Some("0"), "{expected}");
        assert_eq!(daemon.get("/integrations/contoso").await.0, 404, "{expected}");
        let (_, page) = daemon.get("/").await;
        assert!(page.contains("The changed configuration is not in effect"), "{page}");
    }
    daemon.probed(&["northwind"]).await;
    reload(&world, &daemon, &good).await;
    assert_eq!(daemon.metric(successful).await.as_deref(), Some("1"));
    assert!(!daemon.get("/").await.1.contains("not in effect"));
    daemon.probed(&["contoso"]).await;
    // A page of another site cannot request it in somebody's browser.
    let request = reqwest::Client::new()
        .post(format!("{}/-/reload", daemon.url))
        .header("sec-fetch-site", "cross-site");
    assert_eq!(request.send().await.expect("an answer").status(), 403);
    assert_eq!(daemon.get("/-/reload").await.0, 405);
    daemon.terminate().await;
    let told = "the configuration is not reloaded; the old one stays";
    assert_eq!(daemon.log().iter().filter(|line| line.contains(told)).count(), 5, "{:#?}", daemon.log());
}

/// Mails, listeners and permissions change with the configuration. A waiting mail is neither lost nor sent
/// twice.
#[tokio::test]
async fn everything_else_changes_with_the_configuration() {
    let world = World::live().await;
    let whole = with_only(&world, &["contoso"]);
    let mut without_mail = whole.clone();
    without_mail.remove("email").write(&world.file());
    let mut daemon = daemon(&world).await;
    world.breaks("contoso");
    daemon.becomes("contoso", "broken").await;
    // With mail, but the mail server is unreachable.
    world.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    reload(&world, &daemon, &whole).await;
    // A failure from the time before mail was configured is notified, too.
    daemon.counts("consentry_emails_failed_total{kind=\"alert\"", 1.0).await;
    for _ in 0..3 {
        assert_eq!(daemon.reload().await.0, 200);
    }
    daemon.metric_becomes("consentry_email_queue_length", "1").await;
    // Without mail nothing waits to be sent, and no alert about it fires; with it, the same mail waits again.
    reload(&world, &daemon, &without_mail).await;
    daemon.metric_becomes("consentry_email_queue_length", "0").await;
    world.simulator.mailbox().set_faults(MailFaults::default());
    reload(&world, &daemon, whole.clone().set("email.from", "New <new@demo.example>")).await;
    world.mails(1).await;
    assert!(world.simulator.mailbox().all()[0].from.contains("new@demo.example"));
    // The listener of the re-authentication pages is added, moved and removed.
    let addresses = [free_address(), free_address().replace("127.0.0.1", "localhost")];
    for address in &addresses {
        let mut own = whole.clone();
        own.add("reauthentication.listen_address", &format!("\"{address}\""));
        reload(&world, &daemon, &own).await;
        let answer = reqwest::get(format!("http://{address}/reauth/contoso")).await.expect("an answer");
        assert_eq!(answer.status(), 403);
    }
    reload(&world, &daemon, &whole).await;
    for address in addresses {
        // It closes as soon as the last response is sent.
        eventually(&format!("{address} is closed"), async || {
            let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
            client.get(format!("http://{address}/")).send().await.is_err().then_some(())
        })
        .await;
    }
    // The requirements change, and the next probe uses the new ones.
    world.fix("contoso");
    daemon.becomes("contoso", "healthy").await;
    let mut more = whole.clone();
    more.set(
        "apps.sequr.required_permissions",
        "[{resource: microsoft_graph, delegated: [User.Read, Group.Read.All, Mail.Read]}]",
    );
    reload(&world, &daemon, &more).await;
    daemon.broken_by("contoso", "permission_missing").await;
    daemon.terminate().await;
    assert!(daemon.has_logged(&["configuration reloaded", "changed=1"]), "{:#?}", daemon.log());
}

/// A cause that a wrong configuration has opened ends with that configuration, and is notified again if it
/// returns.
#[tokio::test]
async fn a_cause_ends_with_the_mistake_behind_it() {
    let world = World::live().await;
    let good = with_only(&world, &["northwind", "contoso"]);
    let mut wrong = good.clone();
    wrong.set("integrations.contoso.tenant_id", "contosso.example").write(&world.file());
    let mut daemon = daemon(&world).await;
    let kinds = || {
        let event = |mail: &Mail| header(&mail.parsed(), "X-Consentry-Event").expect("an event");
        world.simulator.mailbox().all().iter().map(event).collect::<Vec<_>>()
    };
    world.mails(1).await;
    reload(&world, &daemon, &good).await;
    // The tenant has no token under its right name yet.
    let token = world.refresh_token("contoso");
    let imported = world.command_with(&["import-token", "contoso"], &token).await;
    assert!(imported.status.success());
    world.mails(2).await;
    assert_eq!(kinds(), ["operator", "resolved"]);
    reload(&world, &daemon, &wrong).await;
    world.mails(3).await;
    assert_eq!(kinds(), ["operator", "resolved", "operator"]);
    daemon.terminate().await;
}

/// An integration is removed before anybody was notified of its failure: nobody is notified until it is added
/// again.
#[tokio::test]
async fn an_unnotified_alert_leaves_with_its_integration() {
    let (world, mut daemon) = started(&["northwind", "litware"]).await;
    world.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    world.breaks("litware");
    daemon.counts("consentry_emails_failed_total{kind=\"alert\"", 1.0).await;
    reload(&world, &daemon, &with_only(&world, &["northwind"])).await;
    world.simulator.mailbox().set_faults(MailFaults::default());
    daemon.probed(&["northwind"]).await;
    assert_eq!(daemon.metric("consentry_email_queue_length").await.as_deref(), Some("0"));
    reload(&world, &daemon, &with_only(&world, &["northwind", "litware"])).await;
    world.mails(1).await;
    world.fix("litware");
    world.mails(2).await;
    daemon.terminate().await;
    assert_eq!(world.simulator.mailbox().all().len(), 2, "notified once, resolved once");
}

/// A probe that began before a reload used the earlier configuration, so its result does not count.
#[tokio::test]
async fn a_probe_in_flight_does_not_count_after_a_reload() {
    let (world, mut daemon) = started(&["northwind"]).await;
    let mut good = with_only(&world, &["northwind"]);
    good.add("probe.failure_threshold", "1");
    let mut strict = good.clone();
    strict.set("integrations.northwind.groups", "{required: [No such group]}");
    reload(&world, &daemon, &good).await;
    daemon.probed(&["northwind"]).await;
    let slow = FaultKind::Latency { milliseconds: 1_000 };
    world.simulator.fault(Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: None,
        times: None,
        fault: slow,
    });
    strict.write(&world.file());
    world.simulator.take_requests();
    assert_eq!(daemon.reload().await.0, 200);
    // The probe with the strict requirements has its token and waits for the groups when the requirements are
    // removed.
    eventually("a token is asked for", async || {
        let asked = world.simulator.take_requests();
        asked.iter().any(|request| request.target.ends_with("/token")).then_some(())
    })
    .await;
    reload(&world, &daemon, &good).await;
    daemon.probed(&["northwind"]).await;
    daemon.terminate().await;
    assert!(!daemon.has_logged(&["group_missing"]), "{:#?}", daemon.log());
}

/// A fleet that changes continuously while it is probed and scraped: no integration is lost, no wrong mail is
/// sent, and nothing breaks.
#[tokio::test]
async fn a_hundred_reloads_under_load() {
    let all: Vec<&str> = demo::SITUATIONS.iter().map(|s| s.name).filter(|n| *n != "adatum").collect();
    let (world, mut daemon) = started(&all).await;
    let url = daemon.url.clone();
    let scraper = tokio::spawn(async move {
        let client = reqwest::Client::new();
        let mut scrapes = 0_u32;
        loop {
            for path in ["/metrics", "/", "/api/v1/integrations", "/-/ready"] {
                let answer = client.get(format!("{url}{path}")).send().await.expect("an answer");
                assert_eq!(answer.status(), 200, "{path}");
                drop(answer.bytes().await.expect("whole"));
            }
            scrapes += 1;
            if scrapes == u32::MAX {
                return;
            }
        }
    });
    for round in 0..100_usize {
        let some: Vec<&str> =
            all.iter().enumerate().filter(|(i, _)| (i + round) % 3 != 0).map(|(_, n)| *n).collect();
        let mut configuration = with_only(&world, &some);
        if round % 2 == 1 {
            for name in &some {
                configuration.add(&format!("integrations.{name}.checks"), "[consent, group_access]");
            }
        }
        configuration.write(&world.file());
        assert_eq!(daemon.reload().await, (200, String::new()), "round {round}");
    }
    reload(&world, &daemon, &with_only(&world, &all)).await;
    assert!(!scraper.is_finished(), "every answer was one");
    scraper.abort();
    daemon.probed(&all).await;
    for name in &all {
        assert_eq!(daemon.metric(&up(name)).await.as_deref(), Some("1"), "{name}");
    }
    daemon.terminate().await;
    let wrong = ["level=error", "panic", "is broken"];
    let wrong: Vec<String> =
        daemon.log().into_iter().filter(|line| wrong.iter().any(|words| line.contains(words))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(world.simulator.mailbox().all().is_empty());
}

/// Files that are added, changed, half written, replaced by links, and removed. The main file is not read in
/// the meantime.
#[tokio::test]
async fn watched_files() {
    let world = World::live().await;
    let folder = world.path("integrations.d");
    std::fs::create_dir(&folder).expect("a folder");
    with_only(&world, &["northwind"])
        .add("integration_files", "[\"integrations.d/*.yml\"]")
        .write(&world.file());
    let mut daemon = daemon(&world).await;
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let list = |names: &[&str]| world.configuration.integration_file(names);
    let [contoso, fabrikam, both, wingtip] =
        [list(&["contoso"]), list(&["fabrikam"]), list(&["contoso", "fabrikam"]), list(&["wingtip"])];
    let (valid, broken) = ("consentry_config_last_reload_successful", "consentry_config_files_broken");
    replace(&world.file(), "this is no configuration, and nobody has asked for it");
    replace(&file("one.yml"), &contoso);
    daemon.watches(&["contoso", "northwind"]).await;
    daemon.probed(&["contoso"]).await;
    // In place, and in pieces.
    std::fs::write(file("one.yml"), &both[..both.len() - 30]).expect("half");
    daemon.metric_becomes(broken, "1").await;
    assert_eq!(daemon.metric(valid).await.as_deref(), Some("0"));
    eventually("the page names the file", async || {
        let (_, page) = daemon.get("/").await;
        (page.contains("one.yml") && page.contains("not in effect")).then_some(())
    })
    .await;
    assert_eq!(daemon.get("/integrations/contoso").await.0, 200, "the last good list");
    replace(&file("two.yml"), &wingtip);
    daemon.watches(&["contoso", "northwind", "wingtip"]).await;
    assert_eq!(daemon.metric(broken).await.as_deref(), Some("1"), "the others are followed");
    std::fs::write(file("one.yml"), &both).expect("whole");
    daemon.watches(&["contoso", "fabrikam", "northwind", "wingtip"]).await;
    daemon.probed(&["fabrikam"]).await;
    assert_eq!(
        (daemon.metric(valid).await.as_deref(), daemon.metric(broken).await.as_deref()),
        (Some("1"), Some("0"))
    );
    // As Kubernetes swaps a ConfigMap.
    std::fs::remove_file(file("one.yml")).expect("removed");
    daemon.watches(&["northwind", "wingtip"]).await;
    for (version, text) in [("..1", &contoso), ("..2", &fabrikam)] {
        std::fs::create_dir(file(version)).expect("a folder");
        std::fs::write(file(version).join("map.yml"), text).expect("written");
    }
    std::os::unix::fs::symlink("..1", file("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/map.yml", file("map.yml")).expect("a link");
    daemon.watches(&["contoso", "northwind", "wingtip"]).await;
    std::os::unix::fs::symlink("..2", file("..data_tmp")).expect("a link");
    std::fs::rename(file("..data_tmp"), file("..data")).expect("swapped");
    daemon.watches(&["fabrikam", "northwind", "wingtip"]).await;
    for (name, status) in [("contoso", 404), ("fabrikam", 200), ("wingtip", 200), ("northwind", 200)] {
        assert_eq!(daemon.get(&format!("/integrations/{name}")).await.0, status, "{name}");
    }
    // A reload takes effect completely or not at all; here, not at all.
    assert_eq!(daemon.reload().await.0, 500);
    daemon.terminate().await;
    for words in ["added=1 removed=0", "added=0 removed=2", "added=1 removed=1"] {
        assert!(daemon.has_logged(&["configuration reloaded", words]), "{words}: {:#?}", daemon.log());
    }
    let kept = "a watched file is not used; its last good list stays in effect";
    assert!(daemon.has_logged(&[kept, "one.yml"]), "{:#?}", daemon.log());
}

/// The daemon does not start with an invalid integration file, because the integrations of that file are
/// unknown.
#[tokio::test]
async fn the_daemon_does_not_start_with_an_invalid_file() {
    let mut world = World::live().await;
    std::fs::create_dir(world.path("d")).expect("a folder");
    std::fs::write(world.path("d/a.yml"), "- {name: x").expect("written");
    world.only(&["northwind"]).add("integration_files", "[\"d/*.yml\"]");
    let output = world.command(&["run", "--web.listen-address=127.0.0.1:0"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("d/a.yml:1:"), "{}", text(&output.stderr));
}
