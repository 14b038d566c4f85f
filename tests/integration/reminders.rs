//! Who gets the mails for administrators, and how often: `notify` and `reminders`.

use std::time::Duration;

use crate::configuration::Configuration;
use crate::fleet::Fleet;
use crate::world::{MINUTE, World, header, situation};

const HOUR: Duration = Duration::from_secs(3600);

/// A fleet with these settings (path and YAML) in which Contoso breaks.
async fn broken(settings: &[(&str, &str)]) -> Fleet {
    let mut world = World::demo().await;
    for (path, yaml) in settings {
        world.add(path, yaml);
    }
    world.breaks("contoso");
    let fleet = world.fleet().await;
    fleet.pass(12 * MINUTE).await;
    fleet
}

fn fix(fleet: &Fleet) {
    fleet.act((situation("contoso").fix)("contoso.example"));
}

/// Reminders come after their pauses, in the thread of the alert, also across a restart; then there is silence, and one mail about the end.
#[tokio::test]
async fn reminders_follow_the_alert() {
    let mut fleet = broken(&[("email.reminders", "[1h, 2h]")]).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"]);
    fleet.pass(50 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"], "not early");
    fleet.pass(25 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder"]);
    fleet = fleet.restart().await;
    fleet.pass(90 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder"], "a restart repeats nothing");
    fleet.pass(24 * HOUR).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder", "reminder"], "then silence");
    fix(&fleet);
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder", "reminder", "resolved"]);
    let mails = fleet.mails();
    let first = format!("<{}>", mails[0].1.message_id);
    for (_, mail) in &mails[1..] {
        assert_eq!(header(mail, "References").as_deref(), Some(first.as_str()), "one thread");
    }
    assert!(mails[1].1.subject.starts_with("Reminder: "), "{}", mails[1].1.subject);
}

/// A trial run: the operators get the admin's mail as it is, with a line that names the admin; an application and an integration may say
/// otherwise.
#[tokio::test]
async fn operators_get_the_mails_of_a_trial_run() {
    for (settings, expected) in [
        (vec![("email.notify", "operators")], Some("operators@demo.example")),
        (vec![("email.notify", "operators"), ("apps.sequr.notify", "admins")], Some("it@contoso.example")),
        (vec![("apps.sequr.notify", "nobody")], None),
        (
            vec![("apps.sequr.notify", "nobody"), ("integrations.contoso.notify", "operators")],
            Some("operators@demo.example"),
        ),
    ] {
        let fleet = broken(&settings).await;
        let mails = fleet.mails();
        assert_eq!(mails.iter().map(|(to, _)| to.as_str()).next(), expected, "{settings:?}");
        assert_eq!(fleet.up("contoso").as_deref(), Some("0"), "{settings:?}: metrics say it in any case");
        let Some((to, mail)) = mails.first() else { continue };
        assert_eq!(header(mail, "X-Consentry-Event").as_deref(), Some("alert"), "{settings:?}");
        let line = "You get this mail in place of it@contoso.example (notify: operators).";
        for part in [&mail.text, &mail.html] {
            assert_eq!(part.contains(line), to == "operators@demo.example", "{settings:?}: {part}");
        }
        assert!(mail.text.contains("/reauth/contoso?token="), "{settings:?}: the link is the admin's");
    }
}

/// When the setting changes to admins, the admins of what is still broken are notified then, once.
#[tokio::test]
async fn a_trial_run_ends() {
    let mut fleet = broken(&[("email.notify", "operators"), ("email.reminders", "[]")]).await;
    assert_eq!(fleet.notified(), ["alert to operators@demo.example"]);
    let to_admins = |configuration: &mut Configuration| {
        configuration.set("email.notify", "admins");
    };
    fleet = fleet.restart_with(to_admins).await;
    fleet.pass(30 * MINUTE).await;
    let expected = ["alert to operators@demo.example", "alert to it@contoso.example"];
    assert_eq!(fleet.notified(), expected);
    fleet = fleet.restart().await;
    fleet.pass(6 * HOUR).await;
    assert_eq!(fleet.notified(), expected, "once");
    fix(&fleet);
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.notified().last().map(String::as_str), Some("resolved to it@contoso.example"));
    assert_eq!(fleet.notified().len(), 3, "the operators' trial is over");
}

/// The same by a reload of the running program, while the alert is open.
#[tokio::test]
async fn a_reload_changes_who_is_notified() {
    let mut world = World::live().await;
    world.add("email.notify", "nobody");
    let daemon = world.daemon(&["--web.enable-lifecycle"]);
    world.breaks("contoso");
    daemon.becomes("contoso", "broken").await;
    world.set("email.notify", "operators");
    assert_eq!(daemon.reload().await.0, 200);
    world.mails(1).await;
    world.set("email.notify", "admins");
    assert_eq!(daemon.reload().await.0, 200);
    world.mails(2).await;
    let recipients: Vec<_> = world.simulator.mailbox().all().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(recipients, ["operators@demo.example", "it@contoso.example"]);
}

/// The link in the mail's foot: GET asks, POST snoozes the reminders of this alert for a week; the page's button ends that, and so does recovery.
#[tokio::test]
async fn the_link_in_the_foot_snoozes_reminders() {
    let mut world = World::live_and_reachable().await;
    world.add("email.reminders", "[1h]");
    let mut daemon = world.daemon(&[]);
    world.breaks("contoso");
    world.mails(1).await;
    let mail = world.simulator.mailbox().all()[0].parsed();
    let link = header(&mail, "List-Unsubscribe").expect("a header");
    let link = link.trim_start_matches('<').trim_end_matches('>').to_owned();
    assert!(mail.text.contains(&link) && mail.html.contains(&link), "{}", mail.text);
    assert_eq!(header(&mail, "List-Unsubscribe-Post"), None, "scanners press such links");
    let page = reqwest::get(&link).await.expect("an answer");
    assert_eq!(page.status(), 200);
    world.database_says("SELECT count(*) FROM snoozes", 0).await;
    let (address, token) = link.split_once("?token=").expect("a token");
    let press = async |token: &str, origin: &str| {
        let request = reqwest::Client::new().post(address).header("Origin", origin);
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        request.body(format!("token={token}")).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(press(token, "https://evil.example").await, 403);
    assert_eq!(press(&token[..token.len() - 2], &daemon.url).await, 403, "forged");
    world.database_says("SELECT count(*) FROM snoozes", 0).await;
    assert_eq!(press(token, &daemon.url).await, 200);
    world.database_says("SELECT (until - since) / 86400000 FROM snoozes", 7).await;
    let series = "consentry_integration_snoozed{integration=\"contoso\"}";
    daemon.metric_becomes(series, "1").await;
    daemon.terminate().await;
    let daemon = world.daemon(&[]);
    daemon.metric_becomes(series, "1").await;
    let api = daemon.integration("contoso").await.expect("JSON");
    assert!(api["snoozed_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{api}");
    assert!(daemon.get("/integrations/contoso").await.1.contains("snoozed until"));
    let end = daemon.post("/integrations/contoso/end-snooze").await;
    assert_eq!(end.0, 200, "{}", end.1);
    assert_eq!(daemon.metric(series).await, None);
    assert_eq!(press(token, &daemon.url).await, 200, "once more");
    world.fix("contoso");
    daemon.becomes("contoso", "healthy").await;
    world.database_says("SELECT count(*) FROM snoozes", 0).await;
    assert_eq!(daemon.metric(series).await, None);
    assert_eq!(press(token, &daemon.url).await, 410, "the failure is over");
}

/// While reminders are snoozed there are none; a change and the end are mailed.
#[tokio::test]
async fn a_snooze_silences_reminders_only() {
    let mut fleet = broken(&[("email.reminders", "[1h, 1h, 1h, 1h]")]).await;
    let until = fleet.clock.now().plus(5 * HOUR);
    assert!(fleet.daemon.monitor.snooze("contoso", until, "a test").await.expect("saved"));
    assert!(!fleet.daemon.monitor.snooze("northwind", until, "a test").await.expect("read"), "it works");
    fleet.pass(2 * HOUR).await;
    fleet = fleet.restart().await;
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert"]);
    fleet.pass(2 * HOUR).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder"], "one, not all that were left out");
    let until = fleet.clock.now().plus(5 * HOUR);
    assert!(fleet.daemon.monitor.snooze("contoso", until, "a test").await.expect("saved"));
    fix(&fleet);
    fleet.pass(30 * MINUTE).await;
    assert_eq!(fleet.kinds("it@contoso.example"), ["alert", "reminder", "resolved"]);
}
