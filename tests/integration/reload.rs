//! Another configuration while it runs: asked for by a signal or over HTTP, or because watched files change.

use std::path::PathBuf;

use consentry::demo;
use entra_sim::{Endpoint, Fault, FaultKind};

use crate::certificates::replace;
use crate::harness::situation;
use crate::program::{Daemon, FAST, Place, mails};

/// A daemon whose configuration changes.
struct Changing {
    place: Place,
    daemon: Daemon,
    url: String,
}

const PUBLIC: &str = "https://c.example.com";

/// The line of an integration.
fn line(place: &Place, name: &str) -> String {
    let text = demo::configuration(&place.simulator, PUBLIC, FAST);
    text.lines().find(|l| l.contains(&format!("name: {name},"))).expect("in the demo").to_owned()
}

/// The demo's configuration with these integrations and no others, and more keys at the top.
fn with_only(place: &Place, names: &[&str], more: &str) -> String {
    let text = demo::configuration(&place.simulator, PUBLIC, FAST);
    let (head, _) = text.split_once("integrations:\n").expect("integrations");
    let lines: Vec<String> = names.iter().map(|n| line(place, n)).collect();
    let list = if lines.is_empty() { " []".to_owned() } else { format!("\n{}", lines.join("\n")) };
    format!("{more}{head}integrations:{list}\n")
}

impl Changing {
    async fn start(names: &[&str], more: &str) -> Self {
        let place = Place::new().await;
        replace(&place.file(), &with_only(&place, names, more));
        Self::of(place).await
    }

    async fn of(place: Place) -> Self {
        let mut daemon = place.daemon(&["--web.enable-lifecycle", "--log.level=debug"]);
        let url = daemon.url().await;
        daemon.until(&["ready"]).await;
        Self { place, daemon, url }
    }

    fn write(&self, text: &str) {
        replace(&self.place.file(), text);
    }

    async fn reload(&self) -> (u16, String) {
        let answer =
            reqwest::Client::new().post(format!("{}/-/reload", self.url)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn metric(&self, series: &str) -> Option<String> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|l| l.strip_prefix(&format!("{series} "))).map(str::to_owned)
    }

    /// Waits until a series has this value.
    async fn becomes(&self, series: &str, value: &str) {
        let asked = async { while self.metric(series).await.as_deref() != Some(value) {} };
        tokio::time::timeout(std::time::Duration::from_secs(30), asked)
            .await
            .unwrap_or_else(|_| panic!("{series} never is {value}"));
    }

    /// Waits until an integration has been probed by this process.
    async fn probed(&mut self, name: &str) {
        self.daemon.until(&["probed", &format!("integration={name} ")]).await;
    }

    fn up(name: &str) -> String {
        format!("consentry_integration_up{{integration=\"{name}\"}}")
    }

    fn breaks(&self, name: &str) {
        let situation = situation(name);
        (situation.breaks)(&situation.tenant())
            .into_iter()
            .for_each(|a| drop(self.place.simulator.apply(a).expect("broken")));
    }

    fn fix(&self, name: &str) {
        let situation = situation(name);
        (situation.fix)(&situation.tenant())
            .into_iter()
            .for_each(|a| drop(self.place.simulator.apply(a).expect("fixed")));
    }
}

/// Who stays keeps state and alert; who comes is probed soon; who leaves is gone from everything.
#[tokio::test]
async fn integrations_stay_come_and_go() {
    let mut changing = Changing::start(&["northwind", "contoso"], "").await;
    changing.breaks("contoso");
    changing.daemon.until(&["integration is broken", "integration=contoso"]).await;
    mails(&changing.place, 1).await;
    changing.probed("northwind").await;
    let link =
        String::from_utf8(changing.place.command(&["reauth-link", "northwind"]).await.stdout).expect("text");
    let link = link.trim().replace(PUBLIC, "");
    assert_eq!(changing.get(&link).await.0, 200);
    let since = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["since"].clone();
    let before = since(&changing.get("/api/v1/integrations/contoso").await.1);
    changing.write(&with_only(&changing.place, &["contoso", "fabrikam"], ""));
    assert_eq!(changing.reload().await, (200, String::new()));
    changing.daemon.until(&["configuration reloaded", "integrations=2 added=1 removed=1 changed=0"]).await;
    changing.probed("fabrikam").await;
    assert_eq!(changing.metric(&Changing::up("fabrikam")).await.as_deref(), Some("1"));
    assert_eq!(
        since(&changing.get("/api/v1/integrations/contoso").await.1),
        before,
        "broken since when it was"
    );
    let (_, metrics) = changing.get("/metrics").await;
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
        assert_eq!(changing.get(path).await.0, status, "{path}");
    }
    for path in ["/", "/config", "/api/v1/integrations"] {
        assert!(!changing.get(path).await.1.contains("northwind"), "{path}");
    }
    // The alert that was open is not told again, and is resolved once.
    changing.fix("contoso");
    changing.daemon.until(&["integration works again", "integration=contoso"]).await;
    mails(&changing.place, 2).await;
    // By a signal, and back: what was known of it is known again.
    changing.write(&with_only(&changing.place, &["northwind", "contoso", "fabrikam"], ""));
    let pid = changing.daemon.child.id().expect("a process").to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    changing.daemon.until(&["configuration reloaded", "added=1"]).await;
    assert_eq!(
        changing.metric(&Changing::up("northwind")).await.as_deref(),
        Some("1"),
        "before its next probe"
    );
    assert_eq!(changing.get(&link).await.0, 200);
    changing.daemon.terminate().await;
    assert_eq!(changing.place.simulator.mailbox().all().len(), 2);
}

/// All or nothing: one mistake, and everything stays as it was.
#[tokio::test]
async fn a_wrong_configuration_changes_nothing() {
    let mut changing = Changing::start(&["northwind"], "").await;
    changing.probed("northwind").await;
    let good = with_only(&changing.place, &["northwind", "contoso"], "");
    let successful = "consentry_config_last_reload_successful";
    assert_eq!(changing.metric(successful).await.as_deref(), Some("1"));
    let cases = [
        (
            good.replace("app: sequr, tenant_id: contoso.example", "app: sequa, tenant_id: contoso.example"),
            "did you mean sequr?",
        ),
        (good.replace("  interval: 1s", "  interval: soon"), "probe.interval"),
        ("integrations: [".to_owned(), "not valid YAML"),
        (
            format!("storage: {{url: \"sqlite://other.db\"}}\n{good}"),
            "storage: cannot change while Consentry runs",
        ),
        (
            good.replace("reauthentication: {", "reauthentication: {listen_address: \"192.0.2.1:1\", "),
            "cannot listen on 192.0.2.1:1",
        ),
    ];
    for (text, expected) in cases {
        changing.write(&text);
        let (status, said) = changing.reload().await;
        assert_eq!(status, 500, "{expected}");
        assert!(
            said.starts_with("failed to reload config: ") && said.contains(expected),
            "{expected}: {said}"
        );
        assert_eq!(changing.metric(successful).await.as_deref(), Some("0"), "{expected}");
        assert_eq!(changing.get("/integrations/contoso").await.0, 404, "{expected}");
        let (_, page) = changing.get("/").await;
        assert!(page.contains("The changed configuration is not in effect"), "{page}");
        changing.daemon.until(&["the configuration is not reloaded; the old one stays"]).await;
    }
    changing.probed("northwind").await;
    changing.write(&good);
    assert_eq!(changing.reload().await.0, 200);
    assert_eq!(changing.metric(successful).await.as_deref(), Some("1"));
    assert!(!changing.get("/").await.1.contains("not in effect"));
    changing.probed("contoso").await;
    // Another site's page cannot ask for it in somebody's browser.
    let request = reqwest::Client::new()
        .post(format!("{}/-/reload", changing.url))
        .header("sec-fetch-site", "cross-site");
    assert_eq!(request.send().await.expect("an answer").status(), 403);
    assert_eq!(changing.get("/-/reload").await.0, 405);
}

/// Mails, listeners and permissions follow; a mail that waits is neither lost nor sent twice.
#[tokio::test]
async fn everything_else_follows_too() {
    let place = Place::new().await;
    let whole = with_only(&place, &["contoso"], "");
    let (before, rest) = whole.split_once("email:\n").expect("an email section");
    let (_, after) = rest.split_once("reauthentication:").expect("links");
    replace(&place.file(), &format!("{before}reauthentication:{after}"));
    let mut changing = Changing::of(place).await;
    changing.breaks("contoso");
    changing.daemon.until(&["integration is broken", "integration=contoso"]).await;
    // With mail, but to a server that is away.
    let port = changing.place.simulator.smtp.port().to_string();
    changing
        .place
        .simulator
        .mailbox()
        .set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    changing.write(&whole);
    assert_eq!(changing.reload().await, (200, String::new()));
    // A failure that was there before the mail was configured is told, too.
    changing.daemon.until(&["mail not sent; it stays queued"]).await;
    for _ in 0..3 {
        assert_eq!(changing.reload().await.0, 200);
    }
    changing.becomes("consentry_email_queue_length", "1").await;
    // Without mail nothing waits to be sent, and no alert about it fires; with it, the same mail waits again.
    changing.write(&format!("{before}reauthentication:{after}"));
    assert_eq!(changing.reload().await.0, 200);
    changing.becomes("consentry_email_queue_length", "0").await;
    changing.place.simulator.mailbox().set_faults(entra_sim::MailFaults::default());
    changing
        .write(&whole.replace("from: Consentry <consentry@demo.example>", "from: New <new@demo.example>"));
    assert!(whole.contains(&port));
    assert_eq!(changing.reload().await.0, 200);
    mails(&changing.place, 1).await;
    assert!(changing.place.simulator.mailbox().all()[0].from.contains("new@demo.example"));
    // A listener of its own comes, moves and goes.
    let own = |address: &str| {
        whole.replace("reauthentication: {", &format!("reauthentication: {{listen_address: \"{address}\", "))
    };
    let mut addresses = Vec::new();
    for address in ["127.0.0.1:0", "localhost:0"] {
        changing.write(&own(address));
        assert_eq!(changing.reload().await.0, 200);
        let line = changing.daemon.until(&["listening for re-authentication only"]).await;
        addresses.push(line.split("address=").nth(1).expect("an address").trim().to_owned());
        let last = addresses.last().expect("an address");
        assert_eq!(
            reqwest::get(format!("http://{last}/reauth/contoso")).await.expect("an answer").status(),
            403
        );
    }
    changing.write(&whole);
    assert_eq!(changing.reload().await.0, 200);
    for address in addresses {
        let refused = async || {
            reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .expect("a client")
                .get(format!("http://{address}/"))
                .send()
                .await
                .is_err()
        };
        // It closes as soon as the last answer is out.
        let closed = async { while !refused().await {} };
        tokio::time::timeout(std::time::Duration::from_secs(60), closed).await.expect("closed");
    }
    // What is required changes: the next probe judges by it.
    changing.fix("contoso");
    changing.daemon.until(&["integration works again"]).await;
    changing.write(&whole.replace(
        "delegated: [User.Read, Group.Read.All]",
        "delegated: [User.Read, Group.Read.All, Mail.Read]",
    ));
    assert_eq!(changing.reload().await.0, 200);
    changing.daemon.until(&["configuration reloaded", "changed=1"]).await;
    changing.daemon.until(&["integration is broken", "permission_missing"]).await;
    changing.daemon.terminate().await;
}

/// What the operators were told of ends with the configuration that was wrong, and is told again when it comes again.
#[tokio::test]
async fn a_cause_ends_with_the_mistake_behind_it() {
    let place = Place::new().await;
    let good = with_only(&place, &["northwind", "contoso"], "");
    let wrong = good.replace("tenant_id: contoso.example", "tenant_id: contosso.example");
    replace(&place.file(), &wrong);
    let mut changing = Changing::of(place).await;
    let kinds = |place: &Place| {
        let event =
            |m: &entra_sim::Mail| crate::harness::header(&m.parsed(), "X-Consentry-Event").expect("an event");
        place.simulator.mailbox().all().iter().map(event).collect::<Vec<_>>()
    };
    mails(&changing.place, 1).await;
    changing.write(&good);
    assert_eq!(changing.reload().await.0, 200);
    // The tenant has no token under its right name yet.
    let token = changing.place.simulator.apply(entra_sim::Action::IssueRefreshToken {
        tenant: "contoso.example".to_owned(),
        app: situation("contoso").app(),
        user: None,
    });
    let token = token.expect("a token")["refresh_token"].as_str().expect("text").to_owned();
    let imported = changing.place.command_with(&["import-token", "contoso"], &token).await;
    assert!(imported.status.success());
    mails(&changing.place, 2).await;
    assert_eq!(kinds(&changing.place), ["operator", "resolved"]);
    changing.write(&wrong);
    assert_eq!(changing.reload().await.0, 200);
    mails(&changing.place, 3).await;
    assert_eq!(kinds(&changing.place), ["operator", "resolved", "operator"]);
    changing.daemon.terminate().await;
}

/// An integration that leaves before anybody has heard of its failure: nobody hears of it, until it comes back.
#[tokio::test]
async fn an_alert_that_nobody_has_heard_of_leaves_with_its_integration() {
    let mut changing = Changing::start(&["northwind", "litware"], "").await;
    changing
        .place
        .simulator
        .mailbox()
        .set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    changing.breaks("litware");
    changing.daemon.until(&["mail not sent; it stays queued"]).await;
    changing.write(&with_only(&changing.place, &["northwind"], ""));
    assert_eq!(changing.reload().await.0, 200);
    changing.place.simulator.mailbox().set_faults(entra_sim::MailFaults::default());
    changing.probed("northwind").await;
    changing.probed("northwind").await;
    assert_eq!(changing.metric("consentry_email_queue_length").await.as_deref(), Some("0"));
    changing.write(&with_only(&changing.place, &["northwind", "litware"], ""));
    assert_eq!(changing.reload().await.0, 200);
    mails(&changing.place, 1).await;
    changing.fix("litware");
    mails(&changing.place, 2).await;
    changing.daemon.terminate().await;
    assert_eq!(changing.place.simulator.mailbox().all().len(), 2, "told once, resolved once");
}

/// What a probe finds that began before a reload is about what was configured then: it does not count.
#[tokio::test]
async fn a_probe_in_flight_does_not_judge_by_what_is_gone() {
    let at_once = |text: String| text.replace("probe:\n", "probe:\n  failure_threshold: 1\n");
    let mut changing = Changing::start(&["northwind"], "").await;
    let good = at_once(with_only(&changing.place, &["northwind"], ""));
    let strict = good.replace("Door access - HQ", "No such group");
    changing.write(&good);
    assert_eq!(changing.reload().await.0, 200);
    changing.probed("northwind").await;
    let slow = FaultKind::Latency { milliseconds: 1_000 };
    changing.place.simulator.fault(Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: None,
        times: None,
        fault: slow,
    });
    changing.write(&strict);
    changing.place.simulator.take_requests();
    assert_eq!(changing.reload().await.0, 200);
    // It has its token and waits for the groups: its probe by the strict rules is under way when they are taken back.
    while !changing.place.simulator.take_requests().iter().any(|r| r.target.ends_with("/token")) {
        assert_eq!(changing.get("/-/healthy").await.0, 200);
    }
    changing.write(&good);
    assert_eq!(changing.reload().await.0, 200);
    changing.probed("northwind").await;
    changing.probed("northwind").await;
    changing.daemon.terminate().await;
    let wrong: Vec<&String> = changing.daemon.seen.iter().filter(|l| l.contains("group_missing")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A fleet that changes all the time while it is probed and scraped: nobody is lost, nobody is told nonsense, nothing breaks.
#[tokio::test]
async fn a_hundred_reloads_under_load() {
    let all: Vec<&str> = demo::SITUATIONS.iter().map(|s| s.name).filter(|n| *n != "adatum").collect();
    let mut changing = Changing::start(&all, "").await;
    let url = changing.url.clone();
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
            tokio::task::yield_now().await;
            if scrapes == u32::MAX {
                return;
            }
        }
    });
    for round in 0..100_usize {
        let some: Vec<&str> =
            all.iter().enumerate().filter(|(i, _)| (i + round) % 3 != 0).map(|(_, n)| *n).collect();
        let text = with_only(&changing.place, &some, "");
        changing.write(&if round % 2 == 0 {
            text
        } else {
            text.replace("groups: {", "checks: [consent, group_access], groups: {")
        });
        let (status, said) = changing.reload().await;
        assert_eq!((status, said.as_str()), (200, ""), "round {round}");
    }
    changing.write(&with_only(&changing.place, &all, ""));
    assert_eq!(changing.reload().await.0, 200);
    assert!(!scraper.is_finished(), "every answer was one");
    scraper.abort();
    for name in &all {
        changing.probed(name).await;
    }
    for name in &all {
        assert_eq!(changing.metric(&Changing::up(name)).await.as_deref(), Some("1"), "{name}");
    }
    changing.daemon.terminate().await;
    let wrong: Vec<&String> = changing
        .daemon
        .seen
        .iter()
        .filter(|l| l.contains("level=error") || l.contains("panic") || l.contains("is broken"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(changing.place.simulator.mailbox().all().is_empty());
}

/// Files that are dropped, changed, half written, swapped by links, and taken away; the main file does not count meanwhile.
#[tokio::test]
async fn watched_files() {
    let place = Place::new().await;
    let folder = place.folder.path().join("integrations.d");
    std::fs::create_dir(&folder).expect("a folder");
    replace(
        &place.file(),
        &with_only(&place, &["northwind"], "integration_files: [\"integrations.d/*.yml\"]\n"),
    );
    let mut changing = Changing::of(place).await;
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let list = |names: &[&str]| names.iter().map(|n| line(&changing.place, n) + "\n").collect::<String>();
    let [contoso, fabrikam, both, adatum] =
        [list(&["contoso"]), list(&["fabrikam"]), list(&["contoso", "fabrikam"]), list(&["wingtip"])];
    let (valid, broken) = ("consentry_config_last_reload_successful", "consentry_config_files_broken");
    changing.write("this is no configuration, and nobody has asked for it");
    replace(&file("one.yml"), &contoso);
    changing.daemon.until(&["configuration reloaded", "added=1 removed=0"]).await;
    changing.probed("contoso").await;
    // In place, and in pieces.
    std::fs::write(file("one.yml"), &both[..both.len() - 30]).expect("half");
    changing.daemon.until(&["a watched file is not used; its last good list stays in effect", "one.yml"]).await;
    assert_eq!(
        (changing.metric(valid).await.as_deref(), changing.metric(broken).await.as_deref()),
        (Some("0"), Some("1"))
    );
    let (_, page) = changing.get("/").await;
    assert!(page.contains("one.yml") && page.contains("not in effect"), "{page}");
    assert_eq!(changing.get("/integrations/contoso").await.0, 200, "the last good list");
    replace(&file("two.yml"), &adatum);
    changing.daemon.until(&["configuration reloaded", "added=1 removed=0"]).await;
    assert_eq!(changing.metric(broken).await.as_deref(), Some("1"), "the others are followed");
    std::fs::write(file("one.yml"), &both).expect("whole");
    changing.daemon.until(&["configuration reloaded", "added=1 removed=0"]).await;
    changing.probed("fabrikam").await;
    assert_eq!(
        (changing.metric(valid).await.as_deref(), changing.metric(broken).await.as_deref()),
        (Some("1"), Some("0"))
    );
    // As Kubernetes swaps a ConfigMap.
    std::fs::remove_file(file("one.yml")).expect("removed");
    changing.daemon.until(&["configuration reloaded", "removed=2"]).await;
    for (version, text) in [("..1", &contoso), ("..2", &fabrikam)] {
        std::fs::create_dir(file(version)).expect("a folder");
        std::fs::write(file(version).join("map.yml"), text).expect("written");
    }
    std::os::unix::fs::symlink("..1", file("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/map.yml", file("map.yml")).expect("a link");
    changing.daemon.until(&["configuration reloaded", "added=1 removed=0"]).await;
    std::os::unix::fs::symlink("..2", file("..data_tmp")).expect("a link");
    std::fs::rename(file("..data_tmp"), file("..data")).expect("swapped");
    changing.daemon.until(&["configuration reloaded", "added=1 removed=1"]).await;
    for (name, status) in [("contoso", 404), ("fabrikam", 200), ("wingtip", 200), ("northwind", 200)] {
        assert_eq!(changing.get(&format!("/integrations/{name}")).await.0, status, "{name}");
    }
    // A reload takes everything or nothing, and here nothing.
    assert_eq!(changing.reload().await.0, 500);
    changing.daemon.terminate().await;
}

/// A process that begins with a broken integration file does not begin: nothing is known of what it should hold.
#[tokio::test]
async fn a_start_with_a_broken_file_is_refused() {
    let place = Place::new().await;
    std::fs::create_dir(place.folder.path().join("d")).expect("a folder");
    std::fs::write(place.folder.path().join("d/a.yml"), "- {name: x").expect("written");
    replace(&place.file(), &with_only(&place, &["northwind"], "integration_files: [\"d/*.yml\"]\n"));
    let output = place.command(&["run", "--web.listen-address=127.0.0.1:0"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("d/a.yml:1:"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
