//! The brake: when much breaks at once, the mails to administrators wait, and the operators look first.

use std::time::Duration;

use entra_sim::MailFaults;
use entra_sim::mailbox::Parsed;

use crate::daemon::Daemon;
use crate::fleet::Fleet;
use crate::world::{MINUTE, World, header, situation};

const FOUR: [&str; 4] = ["contoso", "litware", "tailspin", "wingtip"];
const FORM: &str = "application/x-www-form-urlencoded";
const OPERATORS: &str = "operators@demo.example";

/// A healthy fleet of ten, on a manual clock.
async fn fleet_with(brake: &str) -> Fleet {
    fleet_reminded(brake, "[]").await
}

/// The same with these reminders.
async fn fleet_reminded(brake: &str, reminders: &str) -> Fleet {
    let mut world = World::demo().await;
    world.add("email.brake", brake).add("email.reminders", reminders);
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    assert_eq!(fleet.notified(), [""; 0]);
    fleet
}

fn breaks(fleet: &Fleet, names: &[&str]) {
    for name in names {
        let situation = situation(name);
        fleet.act((situation.breaks)(&situation.tenant()));
    }
}

fn fix(fleet: &Fleet, name: &str) {
    let situation = situation(name);
    fleet.act((situation.fix)(&situation.tenant()));
}

fn held(fleet: &Fleet) -> String {
    let exposition = fleet.exposition();
    let line = exposition.lines().find(|line| line.starts_with("consentry_emails_held "));
    line.and_then(|line| line.split(' ').next_back()).unwrap_or_default().to_owned()
}

fn to_admins(fleet: &Fleet) -> Vec<String> {
    let mut mails: Vec<String> =
        fleet.notified().into_iter().filter(|mail| !mail.ends_with(OPERATORS)).collect();
    mails.sort();
    mails
}

/// Released by time, across restarts; what recovers meanwhile is dropped, and what breaks meanwhile is held, too.
#[tokio::test]
async fn the_brake_holds_what_breaks_at_once() {
    let fleet = fleet_with("{share: 0.3, minimum: 3, hold: 2h}").await;
    breaks(&fleet, &FOUR);
    let fleet = fleet.restart().await;
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.notified(), [format!("operator to {OPERATORS}")], "one mail to the operators");
    let mail = &fleet.mails()[0].1;
    for words in [
        "3 of 10 integrations broke",
        "4 mails to 4 people about 4 integrations",
        "Sequr (4)",
        "contoso[.]example (1)",
        "Held until",
        "/brake?token=",
    ] {
        assert!(mail.text.contains(words), "{words}: {}", mail.text);
    }
    assert_eq!(held(&fleet), "4");
    fix(&fleet, "contoso");
    breaks(&fleet, &["adatum"]);
    let fleet = fleet.restart().await;
    fleet.pass(60 * MINUTE).await;
    assert_eq!(held(&fleet), "4", "Contoso works again; Adatum is held");
    assert_eq!(to_admins(&fleet), [""; 0]);
    fleet.pass(60 * MINUTE).await;
    let expected =
        ["adatum", "litware", "tailspin", "wingtip"].map(|name| format!("alert to it@{name}.example"));
    assert_eq!(to_admins(&fleet), expected);
    assert_eq!(held(&fleet), "0");
    let fleet = fleet.restart().await;
    fleet.pass(Duration::from_secs(24 * 3600)).await;
    assert_eq!(fleet.notified().len(), 5, "what was released is not held again, and nothing is repeated");
}

/// The pauses of reminders count from the release.
#[tokio::test]
async fn reminders_follow_the_release() {
    let fleet = fleet_reminded("{share: 0.3, minimum: 3, hold: 2h}", "[1h]").await;
    breaks(&fleet, &FOUR);
    fleet.pass(90 * MINUTE).await;
    let fleet = fleet.restart().await;
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds("it@litware.example"), ["alert"]);
    let fleet = fleet.restart().await;
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.kinds("it@litware.example"), ["alert"], "half an hour after the release");
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds("it@litware.example"), ["alert", "reminder"]);
}

/// From the minimum on, mails wait until the interval is over: the share may still be reached.
#[tokio::test]
async fn from_the_minimum_on_mails_wait_for_the_rest_of_the_interval() {
    let mut world = World::demo().await;
    world.add("email.brake", "{share: 0.9, minimum: 3, hold: 2h}").set("probe.interval", "60m");
    let fleet = world.fleet().await;
    fleet.pass(70 * MINUTE).await;
    breaks(&fleet, &FOUR);
    fleet.pass(61 * MINUTE).await;
    let early = to_admins(&fleet).len();
    assert!(early < 4, "the third and fourth wait: {early}");
    assert_eq!(held(&fleet), "0", "it does not hold");
    fleet.pass(60 * MINUTE).await;
    assert_eq!(to_admins(&fleet), FOUR.map(|name| format!("alert to it@{name}.example")));
    assert_eq!(fleet.kinds(OPERATORS), [""; 0]);
}

#[tokio::test]
async fn a_fleet_brought_in_broken_brakes() {
    let mut world = World::demo().await;
    world.add("email.brake", "{share: 0.3, minimum: 3, hold: 2h}");
    FOUR.iter().for_each(|name| world.breaks(name));
    let fleet = world.fleet().await;
    fleet.pass(12 * MINUTE).await;
    assert_eq!(fleet.notified(), [format!("operator to {OPERATORS}")]);
}

#[tokio::test]
async fn only_failures_that_would_mail_an_admin_count() {
    for setting in ["operators", "nobody"] {
        let mut world = World::demo().await;
        world.add("email.brake", "{share: 0.3, minimum: 3, hold: 2h}").add("email.notify", setting);
        let fleet = world.fleet().await;
        fleet.pass(6 * MINUTE).await;
        breaks(&fleet, &FOUR);
        fleet.pass(12 * MINUTE).await;
        assert_eq!(held(&fleet), "0", "{setting}");
        let expected = if setting == "operators" { vec!["alert"] } else { vec![] };
        assert_eq!(fleet.kinds(OPERATORS), expected, "{setting}: one mail about all of them");
        // When the setting changes to admins, their mails are braked like any others.
        let fleet = fleet
            .restart_with(|configuration| {
                configuration.set("email.notify", "admins");
            })
            .await;
        fleet.pass(12 * MINUTE).await;
        assert_eq!(to_admins(&fleet), [""; 0], "{setting}");
        assert_eq!(held(&fleet), "4", "{setting}");
    }
}

#[tokio::test]
async fn a_brake_that_is_switched_off_releases_what_it_holds() {
    let fleet = fleet_with("{share: 0.3, minimum: 3, hold: 2h}").await;
    breaks(&fleet, &FOUR);
    fleet.pass(12 * MINUTE).await;
    assert_eq!(held(&fleet), "4");
    let fleet = fleet
        .restart_with(|configuration| {
            configuration.set("email.brake", "{hold: 0s}");
        })
        .await;
    fleet.pass(MINUTE).await;
    assert_eq!(to_admins(&fleet).len(), 4);
}

/// A daemon whose brake holds, and the link of the operators' mail.
async fn braking(flags: &[&str]) -> (World, Daemon, String) {
    let mut world = World::live_and_reachable().await;
    world.add("email.brake", "{share: 0.1, minimum: 1, hold: 1h}").set("email.group_wait", "10m");
    let daemon = world.daemon(flags);
    for name in ["contoso", "litware"] {
        daemon.becomes(name, "healthy").await;
    }
    for name in ["contoso", "litware"] {
        world.breaks(name);
    }
    world.mails(1).await;
    let mail: Parsed = world.simulator.mailbox().all()[0].parsed();
    assert_eq!(header(&mail, "X-Consentry-Event").as_deref(), Some("operator"));
    let link =
        mail.text.split_whitespace().find(|word| word.contains("/brake?token=")).expect("a link").to_owned();
    daemon.becomes("litware", "broken").await;
    daemon.becomes("contoso", "broken").await;
    daemon.metric_becomes("consentry_emails_held", "2").await;
    (world, daemon, link)
}

async fn press(link: &str, action: &str, origin: Option<&str>) -> (u16, String) {
    let (address, token) = link.split_once("?token=").expect("a link");
    let client = reqwest::Client::new();
    let request =
        client.post(address).header("Content-Type", FORM).body(format!("token={token}&action={action}"));
    let request = origin.into_iter().fold(request, |request, origin| request.header("Origin", origin));
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

#[tokio::test]
async fn the_operators_link_asks_and_its_buttons_act() {
    let (world, daemon, link) = braking(&[]).await;
    for _ in 0..3 {
        let page = reqwest::get(&link).await.expect("an answer");
        assert_eq!(page.status(), 200);
        let text = page.text().await.expect("text");
        assert!(text.contains("1 of 10 integrations") && text.contains("2 mails to 2 people"), "{text}");
    }
    assert_eq!(world.simulator.mailbox().all().len(), 1, "a scanner that opens the link releases nothing");
    assert_eq!(press(&link, "release", Some("https://evil.example")).await.0, 403);
    assert_eq!(press(&link, "explode", None).await.0, 400);
    assert_eq!(press(&link[..link.len() - 2], "release", None).await.0, 403, "forged");
    let until = "SELECT until - since FROM brake";
    world.database_says(until, 3_600_000).await;
    assert_eq!(press(&link, "hold_longer", None).await.0, 200);
    world.database_says(until, 7_200_000).await;
    let (status, text) = press(&link, "release", None).await;
    assert_eq!(status, 200);
    assert!(text.contains("2 mails go out now"), "{text}");
    world.mails(3).await;
    daemon.metric_becomes("consentry_emails_held", "0").await;
    assert_eq!(press(&link, "release", None).await.0, 410, "it is over");
    assert_eq!(reqwest::get(&link).await.expect("an answer").status(), 410);
    world.database_says("SELECT count(*) FROM events WHERE kind = 'brake_held'", 1).await;
    let by = "SELECT count(*) FROM events WHERE kind = 'brake_released' AND detail LIKE '%the operators'' link, anonymous from 127.0.0.1%'";
    world.database_says(by, 1).await;
}

#[tokio::test]
async fn the_status_page_has_a_banner_with_buttons() {
    let (world, daemon, _) = braking(&[]).await;
    let (status, page) = daemon.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("Mails to administrators are held"), "{page}");
    let hold =
        page.split("name=\"hold\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
    let press = async |origin: &str| {
        let request = reqwest::Client::new()
            .post(format!("{}/brake/discard", daemon.url))
            .header("Content-Type", FORM)
            .body(format!("hold={hold}"));
        request.header("Origin", origin).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(press("https://evil.example").await, 403);
    world.database_says("SELECT count(*) FROM notifications WHERE hold = 1", 2).await;
    assert_eq!(press(&daemon.url).await, 200, "back on the status page");
    world.database_says("SELECT count(*) FROM notifications WHERE given_up_at IS NOT NULL", 2).await;
    assert!(!daemon.get("/").await.1.contains("Mails to administrators are held"));
    world.fix("contoso");
    daemon.becomes("contoso", "healthy").await;
    assert_eq!(world.simulator.mailbox().all().len(), 1, "nobody learns of the end of what nobody learnt of");
}

/// Killed while mails are held, and right after the release: each goes out once. The first failure brakes, so that no timing decides.
#[tokio::test]
async fn a_kill_while_mails_are_held_or_released_loses_and_repeats_nothing() {
    let mut world = World::live_and_reachable().await;
    world.add("email.brake", "{share: 0.1, minimum: 1, hold: 1h}").set("email.group_wait", "3s");
    let daemon = world.daemon(&[]);
    for name in ["contoso", "litware"] {
        daemon.becomes(name, "healthy").await;
    }
    for name in ["contoso", "litware"] {
        world.breaks(name);
    }
    world.database_says("SELECT count(*) FROM notifications WHERE hold = 1 AND kind = 'alert'", 2).await;
    daemon.kill().await;
    let daemon = world.daemon(&[]);
    daemon.metric_becomes("consentry_emails_held", "2").await;
    world.mails(1).await;
    let mail = world.simulator.mailbox().all()[0].parsed();
    assert_eq!(header(&mail, "X-Consentry-Event").as_deref(), Some("operator"));
    assert_eq!(header(&mail, "X-Consentry-Integration"), None, "it is about no integration");
    let link = mail.text.split_whitespace().find(|word| word.contains("/brake?token=")).expect("a link");
    // No mail is under way when the daemon is killed.
    world.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    assert_eq!(press(link, "release", None).await.0, 200);
    daemon.kill().await;
    world.simulator.mailbox().set_faults(MailFaults::default());
    let daemon = world.daemon(&[]);
    world.mails(3).await;
    world.database_says("SELECT count(*) FROM notifications WHERE sent_at IS NULL", 0).await;
    let ids: std::collections::BTreeSet<String> =
        world.simulator.mailbox().all().iter().map(|mail| mail.parsed().message_id).collect();
    assert_eq!(ids.len(), 3, "three mails, and a copy only with the same Message-ID");
    daemon.kill().await;
}

/// What the brake holds for administrators is not for them any more when the setting changes, also by a restart.
#[tokio::test]
async fn held_mails_follow_the_setting() {
    for (setting, expected) in [("nobody", 0), ("operators", 1)] {
        let fleet = fleet_with("{share: 0.3, minimum: 3, hold: 2h}").await;
        breaks(&fleet, &FOUR);
        fleet.pass(12 * MINUTE).await;
        assert_eq!(held(&fleet), "4");
        let fleet = fleet
            .restart_with(|configuration| {
                configuration.add("email.notify", setting);
            })
            .await;
        fleet.pass(180 * MINUTE).await;
        assert_eq!((to_admins(&fleet), held(&fleet)), (Vec::new(), "0".to_owned()), "{setting}");
        let stand_ins = fleet.kinds(OPERATORS).into_iter().filter(|kind| kind == "alert").count();
        assert_eq!(stand_ins, expected, "{setting}: one mail about all four");
    }
}
