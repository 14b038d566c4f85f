//! `group_wait`: what one person is to be notified of goes into one mail, and what ends before it goes out is not mentioned.

use std::time::Duration;

use entra_sim::mailbox::Parsed;

use crate::fleet::Fleet;
use crate::world::{MINUTE, World, header, situation};

const BOSS: &str = "boss@group.example";

/// A healthy fleet in which these integrations have the same admin.
async fn fleet_of(names: &[&str], settings: &[(&str, &str)]) -> Fleet {
    let mut world = World::demo().await;
    for name in names {
        world.set(&format!("integrations.{name}.admins"), &format!("[{BOSS}]"));
    }
    for (path, yaml) in settings {
        world.add(path, yaml);
    }
    world.set("email.group_wait", "30m");
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    fleet
}

fn breaks(fleet: &Fleet, name: &str) {
    let situation = situation(name);
    fleet.act((situation.breaks)(&situation.tenant()));
}

fn fix(fleet: &Fleet, name: &str) {
    let situation = situation(name);
    fleet.act((situation.fix)(&situation.tenant()));
}

/// The integrations that each mail names in its header.
fn about(fleet: &Fleet) -> Vec<Vec<String>> {
    let names = |mail: &Parsed| {
        let own = mail.headers.iter().filter(|(name, _)| name == "X-Consentry-Integration");
        let mut names: Vec<String> = own.map(|(_, value)| value.clone()).collect();
        names.sort();
        names
    };
    fleet.mails().iter().map(|(_, mail)| names(mail)).collect()
}

#[tokio::test]
async fn failures_of_one_admins_integrations_are_one_mail() {
    let fleet = fleet_of(&["contoso", "litware"], &[("email.reminders", "[]")]).await;
    breaks(&fleet, "contoso");
    breaks(&fleet, "litware");
    fleet.pass(20 * MINUTE).await;
    assert_eq!(fleet.notified(), [""; 0], "they wait for each other");
    fleet.pass(40 * MINUTE).await;
    assert_eq!(about(&fleet), [["contoso", "litware"]]);
    let (to, mail) = fleet.mails().pop().expect("a mail");
    assert_eq!(to, BOSS);
    assert!(mail.subject.contains("2 integrations"), "{}", mail.subject);
    for name in ["contoso", "litware"] {
        for part in [&mail.text, &mail.html] {
            assert!(part.contains(&format!("/reauth/{name}?token=")), "{part}");
        }
    }
    fix(&fleet, "contoso");
    fix(&fleet, "litware");
    fleet.pass(60 * MINUTE).await;
    assert_eq!(fleet.kinds(BOSS), ["alert", "resolved"]);
    let over = fleet.mails().pop().expect("a mail").1;
    let thread = header(&over, "References");
    assert_eq!(thread, Some(format!("<{}>", mail.message_id)), "it refers to the mail about both, once");
}

#[tokio::test]
async fn what_recovers_within_the_wait_sends_nothing() {
    for send_resolved in ["true", "false"] {
        let fleet = fleet_of(&["contoso"], &[("email.send_resolved", send_resolved)]).await;
        breaks(&fleet, "contoso");
        fleet.pass(15 * MINUTE).await;
        assert_eq!(fleet.up("contoso").as_deref(), Some("0"));
        fix(&fleet, "contoso");
        let fleet = fleet.restart().await;
        fleet.pass(120 * MINUTE).await;
        assert_eq!(fleet.up("contoso").as_deref(), Some("1"));
        assert_eq!(fleet.notified(), [""; 0], "send_resolved: {send_resolved}");
    }
}

/// A reload that names other people withdraws what has not gone out.
#[tokio::test]
async fn mails_that_wait_follow_the_setting() {
    for (setting, expected) in [("nobody", vec![]), ("operators", vec!["alert to operators@demo.example"])] {
        let mut world = World::live().await;
        world.set("email.group_wait", "1h");
        let daemon = world.daemon(&["--web.enable-lifecycle"]);
        world.breaks("contoso");
        daemon.becomes("contoso", "broken").await;
        world.database_says("SELECT count(*) FROM notifications WHERE kind = 'alert'", 1).await;
        world.set("email.group_wait", "0s").add("email.notify", setting);
        assert_eq!(daemon.reload().await.0, 200);
        world
            .database_says("SELECT count(*) FROM notifications WHERE recipient = 'it@contoso.example'", 0)
            .await;
        world.mails(expected.len()).await;
        let seen: Vec<String> = world
            .simulator
            .mailbox()
            .all()
            .iter()
            .map(|mail| {
                let event = header(&mail.parsed(), "X-Consentry-Event").unwrap_or_default();
                format!("{event} to {}", mail.to.join(","))
            })
            .collect();
        assert_eq!(seen, expected, "{setting}");
    }
}

/// Many integrations: the first twenty are listed, the rest is counted, and the mail says where all are.
#[tokio::test]
async fn a_mail_of_many_lists_the_first_twenty() {
    let mut world = World::demo().await;
    let copy = |number: u32| {
        let name = format!("copy-{number:02}");
        serde_json::json!({"name": name, "display_name": "Contoso", "app": "sequr", "tenant_id": "contoso.example", "admins": [BOSS]})
    };
    world.change(|configuration| {
        configuration.extend("integrations", (0..30).map(copy));
    });
    world.set("email.group_wait", "30m").add("email.brake", "{hold: 0s}");
    let fleet = world.fleet().await;
    fleet.pass(Duration::from_secs(3600)).await;
    let mails: Vec<_> = fleet.mails().into_iter().filter(|(to, _)| to == BOSS).collect();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0].1;
    assert!(mail.subject.contains("30 integrations"), "{}", mail.subject);
    assert_eq!(mail.text.matches("* Contoso").count(), 20, "{}", mail.text);
    assert!(mail.text.contains("And 10 more. All of them are listed at http"), "{}", mail.text);
    let longest = about(&fleet).into_iter().map(|names| names.len()).max();
    assert_eq!(longest, Some(30));
}
