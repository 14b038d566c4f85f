//! No broken integration is shown as healthy, no fault of ours counts against a customer, and setting the
//! clock changes nothing.

use std::time::Duration;

use consentry::demo;
use entra_sim::{Action, Endpoint, Fault, FaultKind, TokenDeath};

use crate::fleet::Fleet;
use crate::visitor::{Site, Visitor};
use crate::world::{MINUTE, World, header};

const HOUR: Duration = Duration::from_secs(3600);

/// The demo's fleet, which runs these checks of Contoso and no others.
async fn checked(checks: &str) -> Fleet {
    let mut world = World::demo().await;
    world.add("integrations.contoso.checks", checks);
    world.fleet().await
}

fn kill_token(tenant: &str) -> Action {
    Action::KillRefreshTokens { tenant: tenant.to_owned(), app: demo::APP, death: TokenDeath::Revoked }
}

fn away(tenant: Option<&str>) -> Fault {
    let fault = FaultKind::Status { status: 503, retry_after: None };
    Fault { endpoint: Endpoint::Any, tenant: tenant.map(str::to_owned), contains: None, times: None, fault }
}

/// A rejected token leaves consent unknown. Only the admins can fix that, so they are notified after twelve
/// intervals.
#[tokio::test]
async fn a_lasting_unknown_that_only_admins_can_fix_is_a_failure() {
    let fleet = checked("[enterprise_app, consent]").await;
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![kill_token("contoso.example")]);
    fleet.pass(50 * MINUTE).await;
    assert_eq!((fleet.up("contoso").as_deref(), fleet.notified()), (Some("1"), vec![]), "not yet");
    assert_eq!(fleet.reasons("contoso"), [("consent".to_owned(), "token_revoked".to_owned())]);
    let fleet = fleet.restart().await;
    fleet.pass(25 * MINUTE).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.notified()),
        (Some("0"), vec!["alert to it@contoso.example".to_owned()])
    );
    assert!(fleet.mails()[0].1.text.contains("https://c.example.com/reauth/contoso?token="));
    let required = fleet.series("consentry_integration_reauthentication_required", "contoso");
    assert!(required[0].ends_with(" 1"), "{required:?}");
    fleet.pass(3 * HOUR).await;
    assert_eq!(fleet.notified().len(), 1, "once");
    fleet.import_token("contoso").await;
    fleet.pass(10 * MINUTE).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.kinds("it@contoso.example")),
        (Some("1"), vec!["alert".to_owned(), "resolved".to_owned()])
    );
}

/// A check that passes and fails in turn is broken until it has passed for a while.
#[tokio::test]
async fn flapping_is_broken() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let hide = |hidden| Action::HideGroups { tenant: "contoso.example".to_owned(), value: hidden };
    // A failure is probed again after half a minute; by then the check passes.
    let flap = async |times: usize| {
        for _ in 0..times {
            fleet.act(vec![hide(true)]);
            let due = fleet.daemon.monitor.next_probe("contoso").expect("a probe is due");
            fleet.daemon.monitor.run_until(due).await;
            fleet.act(vec![hide(false)]);
            let due = fleet.daemon.monitor.next_probe("contoso").expect("a probe is due");
            fleet.daemon.monitor.run_until(due).await;
        }
        fleet.pass(Duration::from_secs(1)).await;
    };
    flap(4).await;
    assert_eq!((fleet.up("contoso").as_deref(), fleet.notified()), (Some("1"), vec![]), "four failures");
    flap(1).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.notified()),
        (Some("0"), vec!["alert to it@contoso.example".to_owned()])
    );
    fleet.pass(20 * MINUTE).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.kinds("it@contoso.example").last().map(String::as_str)),
        (Some("1"), Some("resolved"))
    );
}

/// A lasting fault of one tenant does not hide that of another; three affected tenants are one cause of the
/// whole fleet.
#[tokio::test]
async fn lasting_faults_are_notified_per_tenant_until_three_are_affected() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let about = |fleet: &Fleet| -> Vec<String> {
        fleet.mails().iter().map(|(_, m)| header(m, "X-Consentry-Integration").expect("a header")).collect()
    };
    fleet.simulator.fault(away(Some("contoso.example")));
    fleet.pass(80 * MINUTE).await;
    assert_eq!(about(&fleet), ["contoso"]);
    fleet.simulator.fault(away(Some("tailspin.example")));
    fleet.pass(80 * MINUTE).await;
    assert_eq!(about(&fleet), ["contoso", "tailspin"], "the second one, too");
    assert!(fleet.mails().iter().all(|(to, _)| to == "operators@demo.example"));
    fleet.simulator.clear_faults();
    fleet.pass(20 * MINUTE).await;
    assert_eq!(fleet.kinds("operators@demo.example"), ["operator", "operator", "resolved"]);
    let over = fleet.mails().pop().expect("a mail").1;
    let about = header(&over, "X-Consentry-Integration").expect("a header");
    assert!(["contoso", "tailspin"].contains(&about.as_str()), "one mail about the end of both");
    fleet.simulator.fault(away(None));
    fleet.pass(3 * HOUR).await;
    assert_eq!(fleet.mails().len(), 4, "everybody: one mail");
}

/// The probe that confirms a deletion cannot read the directory, but the next one can: one alert, no
/// `changed`.
#[tokio::test]
async fn one_deletion_is_one_mail() {
    for first in ["deleted", "missing"] {
        let fleet = Fleet::start().await;
        fleet.pass(6 * MINUTE).await;
        let graph_is_away = || {
            let (fault, tenant) =
                (FaultKind::Status { status: 503, retry_after: None }, Some("litware.example".to_owned()));
            fleet.simulator.fault(Fault {
                endpoint: Endpoint::Graph,
                tenant,
                contains: None,
                times: None,
                fault,
            });
        };
        fleet.act(vec![Action::DeleteApp { tenant: "litware.example".to_owned(), app: demo::APP }]);
        if first == "missing" {
            graph_is_away();
        }
        let next = || fleet.daemon.monitor.next_probe("litware").expect("a probe is due");
        fleet.daemon.monitor.run_until(next()).await;
        if first == "deleted" {
            graph_is_away();
        }
        fleet.daemon.monitor.run_until(next()).await;
        fleet.pass(Duration::from_secs(1)).await;
        assert_eq!(fleet.notified(), ["alert to it@litware.example"], "{first}");
        fleet.simulator.clear_faults();
        fleet.pass(30 * MINUTE).await;
        assert_eq!(fleet.notified(), ["alert to it@litware.example"], "{first}");
        assert!(
            fleet.reasons("litware").iter().all(|(_, r)| r == "app_deleted"),
            "{first}: {:?}",
            fleet.reasons("litware")
        );
    }
}

/// Checks that nothing may answer are unknown, and the page does not say that everything passes.
#[tokio::test]
async fn a_check_without_an_answer_passes_nothing() {
    for (list, words) in [
        ("[credential]", "set home_tenant_id"),
        ("[enterprise_app, provisioning]", "The directory reader may not read"),
    ] {
        let mut world = World::reachable("").await;
        world.add("integrations.contoso.checks", list);
        // The application is registered somewhere else.
        let home = uuid::Uuid::from_u128(0xf00d);
        world.act([
            Action::AddTenant { id: home, domain: "vendor.example".to_owned(), name: None },
            Action::SetHomeTenant { app: demo::APP, tenant: "vendor.example".to_owned() },
        ]);
        let site = world.site().await;
        site.fleet.pass(6 * MINUTE).await;
        assert_eq!(site.fleet.up("contoso"), None, "{list}");
        assert!(!site.fleet.reasons("contoso").is_empty(), "{list}");
        let page = Visitor::new().get(&format!("{}/integrations/contoso", site.url)).await.body;
        assert!(page.contains(words), "{page}");
        assert!(page.contains("Not known now:") && !page.contains("All checks pass"), "{list}: {page}");
        let json = Visitor::new().get(&format!("{}/api/v1/integrations/contoso", site.url)).await.body;
        assert!(json.contains("\"state\":\"unknown\""), "{json}");
    }
}

/// The wall clock is set back and ahead: probing continues, nobody is notified, and no stored time lies in
/// the future.
#[tokio::test]
async fn setting_the_clock_changes_nothing() {
    for hours in [-1, 24 * 365, -24] {
        let fleet = checked("[enterprise_app, consent]").await;
        fleet.act(vec![kill_token("contoso.example")]);
        fleet.pass(12 * MINUTE).await;
        let probes = |fleet: &Fleet| {
            let text = fleet.exposition();
            let lines =
                text.lines().filter_map(|l| l.strip_prefix("consentry_probes_total")?.rsplit_once(' '));
            lines.map(|(_, count)| count.parse::<f64>().expect("a count")).sum::<f64>()
        };
        let before = probes(&fleet);
        fleet.clock.step(hours * 3_600_000);
        fleet.pass(12 * MINUTE).await;
        let size = demo::SITUATIONS.len() as f64;
        assert!(probes(&fleet) >= before + 2.0 * size - 2.0, "{hours} h: probing continues");
        assert_eq!(fleet.notified(), Vec::<String>::new(), "{hours} h: twelve intervals are not over");
        let now = fleet.clock.now().seconds();
        let text = fleet.exposition();
        let moments = text
            .lines()
            .filter(|l| l.starts_with("consentry_") && l.contains("_timestamp_seconds{integration"));
        for line in moments {
            let at: f64 = line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a moment");
            assert!(at <= now, "{hours} h: {line} is later than {now}");
        }
        let next = fleet.daemon.monitor.next_probe("contoso").expect("due");
        assert!(
            next.seconds() - now <= 301.0 && next.seconds() >= now - 1.0,
            "{hours} h: the next probe is shown by the clock as it is"
        );
    }
}

/// Another group has a required name now: the check passes with a note. Two groups of one name are noted,
/// too.
#[tokio::test]
async fn a_group_that_was_replaced_under_its_name_is_shown() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let group = |name: &str| Action::AddGroup {
        tenant: "contoso.example".to_owned(),
        name: name.to_owned(),
        id: None,
    };
    let page = async || Visitor::new().get(&format!("{}/integrations/contoso", site.url)).await.body;
    assert!(!page().await.contains("is another one"), "nothing to say yet");
    site.fleet.act(vec![group("Door access - HQ")]);
    site.fleet.pass(6 * MINUTE).await;
    assert!(page().await.contains("2 groups have the name"), "two of one name");
    site.fleet.act(vec![Action::DeleteGroup {
        tenant: "contoso.example".to_owned(),
        name: "Door access - HQ".to_owned(),
    }]);
    site.fleet.act(vec![group("Door access - HQ")]);
    site.fleet.pass(6 * MINUTE).await;
    assert_eq!(site.fleet.up("contoso").as_deref(), Some("1"));
    let shown = page().await;
    assert!(shown.contains("is a different one since") && shown.contains("its id is"), "{shown}");
}

/// The metrics and the page show that a directory reader cannot read, besides the mail.
#[tokio::test]
async fn a_readers_fault_is_visible() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let series = |site: &Site| {
        let text = site.fleet.exposition();
        text.lines()
            .filter(|l| l.starts_with("consentry_directory_reader_faults{"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(series(&site), Vec::<String>::new());
    site.fleet.act(vec![Action::RevokeConsent { tenant: "litware.example".to_owned(), app: demo::READER }]);
    site.fleet.pass(90 * MINUTE).await;
    assert_eq!(
        series(&site),
        ["consentry_directory_reader_faults{reader=\"reader\",reason=\"reader_permission_missing\"} 1"]
    );
    let page = Visitor::new().get(&format!("{}/integrations/litware", site.url)).await.body;
    assert!(
        page.contains("<code>reader_permission_missing</code>")
            && page.contains("runbooks/reader_permission_missing.md"),
        "{page}"
    );
}

/// A new integration is probed as soon as possible, before its own slot.
#[tokio::test]
async fn a_new_integration_is_probed_at_once() {
    let fleet = Fleet::start().await;
    fleet.pass(Duration::from_secs(1)).await;
    assert!(
        demo::SITUATIONS.iter().all(|s| fleet.up(s.name).as_deref() == Some("1")),
        "everybody within a second"
    );
}

/// One 429 with a long Retry-After: a probe that a person requests is still made once, and the page says how
/// long the pause is.
#[tokio::test]
async fn a_person_can_request_one_probe_during_a_pause() {
    let site = Site::start().await;
    site.fleet.pass(6 * MINUTE).await;
    let fault = FaultKind::Status { status: 429, retry_after: Some("3600".to_owned()) };
    let tenant = Some("contoso.example".to_owned());
    site.fleet.simulator.fault(Fault {
        endpoint: Endpoint::Token,
        tenant,
        contains: None,
        times: Some(1),
        fault,
    });
    site.fleet.pass(6 * MINUTE).await;
    assert!(!site.fleet.reasons("contoso").is_empty(), "throttled");
    site.fleet.pass(10 * MINUTE).await;
    let page = Visitor::new().get(&format!("{}/integrations/contoso", site.url)).await.body;
    assert!(page.contains("asked for a pause"), "{page}");
    let posted = Visitor::new().post(&format!("{}/integrations/contoso/probe", site.url), &[], &[]).await;
    assert_eq!(posted.status, 303);
    site.fleet.pass(Duration::from_secs(1)).await;
    assert_eq!(site.fleet.reasons("contoso"), vec![], "probed at once");
}

/// A check that nothing may answer does not affect the others: an alert ends when its failure is over.
#[tokio::test]
async fn a_check_without_an_answer_does_not_keep_an_alert_open() {
    let fleet = checked("[enterprise_app, consent, group_access, provisioning]").await;
    let (tenant, name) = ("contoso.example".to_owned(), "Door access - HQ".to_owned());
    fleet.pass(6 * MINUTE).await;
    fleet.act(vec![Action::DeleteGroup { tenant: tenant.clone(), name: name.clone() }]);
    fleet.pass(HOUR).await;
    assert_eq!(
        (fleet.up("contoso").as_deref(), fleet.kinds("it@contoso.example")),
        (Some("0"), vec!["alert".to_owned()])
    );
    fleet.act(vec![Action::AddGroup { tenant, name, id: None }]);
    fleet.pass(HOUR).await;
    assert_eq!(
        (fleet.up("contoso"), fleet.kinds("it@contoso.example")),
        (None, vec!["alert".to_owned(), "resolved".to_owned()])
    );
}

/// A check that is not run mails nobody, and hides no lasting fault.
#[tokio::test]
async fn a_check_that_is_not_run_hides_no_outage() {
    let fleet = checked("[enterprise_app, consent, group_access, credential]").await;
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.notified(), Vec::<String>::new());
    fleet.simulator.fault(away(Some("contoso.example")));
    fleet.pass(2 * HOUR).await;
    let subjects: Vec<String> = fleet.mails().iter().filter_map(|(_, m)| header(m, "Subject")).collect();
    assert_eq!(fleet.notified(), ["operator to operators@demo.example"], "{subjects:?}");
    assert!(fleet.mails()[0].1.text.contains("passing fault"), "{}", fleet.mails()[0].1.text);
}

/// Demo integrations whose tokens are in files, and the files.
async fn with_token_files(names: &[&str]) -> (Fleet, Vec<std::path::PathBuf>) {
    let mut world = World::demo().await;
    let mut files = Vec::new();
    for name in names {
        let file = world.path(name);
        std::fs::write(&file, world.refresh_token(name)).expect("written");
        world.add(&format!("integrations.{name}.refresh_token_file"), &file.display().to_string());
        files.push(file);
    }
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    (fleet, files)
}

/// Each of our own unreadable files is named with its path, even if something else is wrong. Two files are
/// two causes, and many are one.
#[tokio::test]
async fn unreadable_tokens_are_reported_by_file() {
    let (fleet, files) = with_token_files(&["litware", "contoso", "northwind", "tailspin"]).await;
    fleet.act(vec![Action::EnableApp { tenant: "litware.example".to_owned(), app: demo::APP, value: false }]);
    fleet.pass(20 * MINUTE).await;
    assert_eq!(fleet.notified(), ["alert to it@litware.example"]);
    let texts = |fleet: &Fleet| {
        fleet
            .mails()
            .into_iter()
            .filter(|(to, _)| to == "operators@demo.example")
            .map(|(_, m)| m.text)
            .collect::<Vec<_>>()
    };
    for (broken, mails) in [(0, 1), (1, 2), (2, 3), (3, 3)] {
        std::fs::write(&files[broken], "").expect("emptied");
        fleet.pass(20 * MINUTE).await;
        let texts = texts(&fleet);
        assert_eq!(texts.len(), mails, "{texts:#?}");
        let path = files[broken].display().to_string();
        assert!(
            broken == 3
                || texts[broken].contains(&format!("What cannot be read: {path}"))
                || texts[broken].contains(&path),
            "{texts:#?}"
        );
    }
}
