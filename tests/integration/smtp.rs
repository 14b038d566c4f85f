//! Mail servers as they are: how they reply, whom they reject, where they stop responding. Over real sockets,
//! with the whole outbox.

use std::time::Duration;

use consentry::app;
use consentry::notify::test_transport;
use entra_sim::{MailFaults, Options, ScriptedReply};

use crate::fleet::Fleet;
use crate::world::{MINUTE, World, freeze, situation};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const ADMIN: &str = "it@contoso.example";
const OPERATORS: &str = "operators@demo.example";

/// A fleet whose mail server is reached in this way, and with more keys under `email.smtp`.
async fn fleet(options: Options, tls: &str, keys: &[(&str, &str)]) -> Fleet {
    let mut world = World::demo_with(options).await;
    std::fs::write(world.path("ca.pem"), world.simulator.ca_pem()).expect("written");
    world
        .set("email.smtp.host", "localhost")
        .set("email.smtp.tls", tls)
        .add("email.smtp.tls_config", "{ca_file: ca.pem}");
    for (key, value) in keys {
        world.add(&format!("email.smtp.{key}"), value);
    }
    world.fleet().await
}

/// A fleet in which a mail to Contoso's admin waits.
pub async fn with_an_alert(options: Options, tls: &str, keys: &[(&str, &str)]) -> Fleet {
    let fleet = fleet(options, tls, keys).await;
    breaks(&fleet, "contoso").await;
    fleet
}

/// Breaks an integration; its mail is saved, but not sent yet.
pub async fn breaks(fleet: &Fleet, name: &str) {
    fleet.act((situation(name).breaks)(&situation(name).tenant()));
    let before = fleet.daemon.store.outbox(fleet.clock.now()).await.expect("outbox").waiting;
    for _ in 0..6 {
        let step = fleet.clock.now().plus(2 * MINUTE);
        fleet.daemon.monitor.run_until(step).await;
        freeze(&fleet.simulator, step);
    }
    assert!(
        fleet.daemon.store.outbox(fleet.clock.now()).await.expect("outbox").waiting > before,
        "the mail about {name} is saved"
    );
}

/// Lets time pass for the outbox only, from one due mail to the next.
pub async fn post(fleet: &Fleet, duration: Duration) {
    let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
    let until = fleet.clock.steady().plus(duration);
    loop {
        match notifier.drain().await.expect("the outbox") {
            Some(next) if next < until => fleet.clock.set(next.max(fleet.clock.steady())),
            _ if fleet.clock.steady() < until => fleet.clock.set(until),
            _ => return,
        }
    }
}

async fn waiting(fleet: &Fleet) -> i64 {
    fleet.daemon.store.outbox(fleet.clock.now()).await.expect("outbox").waiting
}

fn counted(fleet: &Fleet, reason: &str) -> u64 {
    let line = format!("consentry_emails_failed_total{{kind=\"alert\",reason=\"{reason}\"}} ");
    let text = fleet.exposition();
    text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).expect("a counter")
}

/// Replies to commands about Contoso's admin only; all other mails are accepted.
fn to_the_admin(command: &str, reply: &str) -> MailFaults {
    let reply = ScriptedReply {
        command: command.to_owned(),
        recipients: vec![ADMIN.to_owned()],
        reply: reply.to_owned(),
    };
    MailFaults { replies: vec![reply], ..MailFaults::default() }
}

/// RFC 5321 section 4.2 allows more than most servers do.
#[tokio::test]
async fn replies_are_read_as_the_standard_allows_them() {
    for (sentence, faults) in [
        (
            "codes without text",
            MailFaults::replying(&[
                ("GREETING", "220"),
                ("MAIL", "250"),
                ("RCPT", "250"),
                ("DATA", "354"),
                (".", "250"),
            ]),
        ),
        (
            "codes with a blank behind them",
            MailFaults::replying(&[("GREETING", "220 "), ("MAIL", "250 "), ("RCPT", "250 "), (".", "250 ")]),
        ),
        (
            "texts that are not UTF-8",
            MailFaults::replying(&[
                ("GREETING", "220 gr\u{fc}\u{df}e"),
                ("RCPT", "250 empf\u{e4}nger"),
                (".", "250 \u{ff}"),
            ]),
        ),
        (
            "several lines",
            MailFaults::replying(&[
                ("GREETING", "220-one\r\n220-\r\n220 three"),
                ("RCPT", "250-a\r\n250 b"),
                (".", "250-a\r\n250-b\r\n250"),
            ]),
        ),
        ("a server without EHLO", MailFaults::replying(&[("EHLO", "502 5.5.1 Not implemented")])),
        ("an older one", MailFaults::replying(&[("EHLO", "500 What?")])),
        ("EHLO is a syntax error", MailFaults::replying(&[("EHLO", "501 Syntax error")])),
        ("EHLO is not available", MailFaults::replying(&[("EHLO", "550 No")])),
        ("EHLO's parameter is not implemented", MailFaults::replying(&[("EHLO", "504 No")])),
        ("offers without any", MailFaults::replying(&[("EHLO", "250")])),
        ("everything byte by byte", MailFaults { split: true, ..MailFaults::default() }),
        ("a server that rejects QUIT", MailFaults::replying(&[("QUIT", "500 stay")])),
    ] {
        let fleet = with_an_alert(Options::default(), "none", &[]).await;
        fleet.simulator.mailbox().set_faults(faults);
        post(&fleet, MINUTE).await;
        assert_eq!(
            (fleet.notified(), waiting(&fleet).await),
            (vec![format!("alert to {ADMIN}")], 0),
            "{sentence}"
        );
    }
}

/// The challenges of AUTH LOGIN may be in any language.
#[tokio::test]
async fn a_login_answers_every_challenge() {
    for (offer, challenges) in [
        ("250-localhost\r\n250 AUTH LOGIN", Some(["Benutzername?", "Kennwort?"])),
        ("250-localhost\r\n250 AUTH=LOGIN", Some(["", ""])),
        ("250-localhost\r\n250 AUTH LOGIN CRAM-MD5", Some(["User Name\0", "Password\0"])),
        ("250-localhost\r\n250 AUTH PLAIN", None),
    ] {
        let login = Some(("consentry".to_owned(), "geheim".to_owned()));
        let options = Options { smtp_credentials: login, ..Options::default() };
        let fleet =
            with_an_alert(options, "none", &[("username", "consentry"), ("password", "geheim")]).await;
        let challenges = challenges.map(|both| both.map(str::to_owned));
        fleet
            .simulator
            .mailbox()
            .set_faults(MailFaults { challenges, ..MailFaults::replying(&[("EHLO", offer)]) });
        post(&fleet, MINUTE).await;
        let users: Vec<_> = fleet.simulator.mailbox().all().into_iter().map(|m| m.user).collect();
        assert_eq!(users, [Some("consentry".to_owned())], "{offer}");
    }
}

/// A rejection that is about us delays the mail until the fault is fixed, however long that takes, and says
/// nothing about the recipient.
#[tokio::test]
async fn rejections_about_us_delay_the_mail_until_the_fault_is_fixed() {
    for (sentence, command, reply, reason) in [
        (
            "our name",
            "RCPT",
            "504 5.5.2 <consentry>: Helo command rejected: need fully-qualified hostname",
            "other",
        ),
        ("our sender address", "RCPT", "550 5.1.8 Sender address rejected: Domain not found", "other"),
        ("our sender address, in Exim's words", "RCPT", "550 Sender verify failed", "other"),
        ("relaying", "RCPT", "554 5.7.1 Relay access denied", "other"),
        ("a quota", "RCPT", "550 5.4.5 Daily sending quota exceeded", "other"),
        ("a login that is missing", "RCPT", "503 5.5.1 Authentication first", "other"),
        ("a login that is asked for", "RCPT", "530 5.7.0 Authentication required", "auth"),
        ("codes that contradict each other", "RCPT", "550 4.2.0 Strange", "other"),
        ("a policy after DATA", ".", "550 5.7.1 Message refused", "rejected"),
        ("a quota after DATA", ".", "550 5.4.5 Daily sending quota exceeded", "rejected"),
    ] {
        let fleet = with_an_alert(Options::default(), "none", &[]).await;
        fleet.simulator.mailbox().set_faults(to_the_admin(command, reply));
        for _ in 0..20 {
            fleet.daemon.notifier.as_ref().expect("mail").drain().await.expect("the outbox");
            fleet.clock.set(fleet.clock.steady().plus(12 * HOUR));
        }
        assert_eq!((fleet.notified(), waiting(&fleet).await), (vec![], 1), "{sentence}: it waits");
        assert_eq!(counted(&fleet, reason), 20, "{sentence}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert_eq!(
            (fleet.notified(), waiting(&fleet).await),
            (vec![format!("alert to {ADMIN}")], 0),
            "{sentence}: it is sent"
        );
    }
}

/// A rejection of the sender delays the mail, too, whatever its code is.
#[tokio::test]
async fn a_rejected_sender_delays_the_mail() {
    for reply in [
        "550 5.1.1 Unknown",
        "550 5.1.8 Bad sender",
        "530 5.7.0 Authentication required",
        "552 5.3.4 Too big",
        "550",
    ] {
        let fleet = with_an_alert(Options::default(), "none", &[]).await;
        fleet.simulator.mailbox().set_faults(MailFaults::replying(&[("MAIL", reply)]));
        for _ in 0..16 {
            fleet.daemon.notifier.as_ref().expect("mail").drain().await.expect("the outbox");
            fleet.clock.set(fleet.clock.steady().plus(12 * HOUR));
        }
        assert_eq!((fleet.notified(), waiting(&fleet).await), (vec![], 1), "{reply}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert_eq!(fleet.notified(), [format!("alert to {ADMIN}")], "{reply}");
    }
}

/// A mailbox that does not exist, and a mail that is rejected after DATA: eight attempts within five days,
/// then the operators are notified.
#[tokio::test]
async fn permanent_rejections_are_tried_eight_times() {
    for (sentence, command, reply, word) in [
        ("no such user", "RCPT", "550 5.1.1 No such user", "refuses it@contoso.example"),
        ("no such domain", "RCPT", "550 5.1.2 No such domain", "refuses it@contoso.example"),
        (
            "an address that Exchange Online does not know",
            "RCPT",
            "550 5.4.1 Recipient address rejected: Access denied",
            "refuses it@",
        ),
        ("a mailbox that is disabled", "RCPT", "550 5.2.1 Disabled", "refuses it@contoso.example"),
        ("no enhanced code", "RCPT", "550 Unknown user", "refuses it@contoso.example"),
        (
            "an address that looks like a code",
            "RCPT",
            "550 5.1.1 u5.7.1@contoso.example",
            "refuses it@contoso.example",
        ),
        ("a code alone", "RCPT", "553", "refuses it@contoso.example"),
        ("spam", ".", "554 Transaction failed", "refuses a mail to it@contoso.example"),
        ("spam, in the middle of it", "DATA", "554 5.6.0 Refused", "refuses a mail to it@contoso.example"),
    ] {
        let fleet = with_an_alert(Options::default(), "none", &[]).await;
        fleet.simulator.mailbox().set_faults(to_the_admin(command, reply));
        post(&fleet, 5 * DAY).await;
        assert_eq!((counted(&fleet, "rejected"), waiting(&fleet).await), (8, 0), "{sentence}");
        assert_eq!(fleet.notified(), [format!("operator to {OPERATORS}")], "{sentence}");
        let text = fleet.mails()[0].1.text.clone();
        assert!(text.contains(word), "{sentence}: {text}");
        let records = fleet.daemon.store.mails_about("contoso").await.expect("mails");
        let given_up = records.iter().find(|m| m.given_up).expect("one that was given up");
        assert!(
            given_up.problem.as_deref().is_some_and(|p| p.starts_with(&reply[..3])),
            "{sentence}: {given_up:?}"
        );
    }
}

/// A server that rejects everybody, whatever its code is, has a fault of its own: nothing is given up.
#[tokio::test]
async fn no_mail_is_lost_if_the_server_rejects_everybody() {
    let fleet = with_an_alert(Options::default(), "none", &[]).await;
    breaks(&fleet, "litware").await;
    fleet.simulator.mailbox().set_faults(MailFaults::replying(&[("RCPT", "550 5.1.1 No such user")]));
    post(&fleet, 8 * DAY).await;
    assert_eq!(fleet.notified(), Vec::<String>::new());
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 2 * HOUR).await;
    assert_eq!(
        (fleet.kinds(ADMIN), fleet.kinds("it@litware.example")),
        (vec!["alert".to_owned()], vec!["alert".to_owned()])
    );
    post(&fleet, 3 * DAY).await;
    assert_eq!(waiting(&fleet).await, 0);
}

/// Only invalid addresses, in a fleet that has sent no mail for a long time: the operators' mail shows that
/// the server works, and the mails are given up.
#[tokio::test]
async fn several_bad_addresses_are_given_up() {
    let fleet = with_an_alert(Options::default(), "none", &[]).await;
    breaks(&fleet, "litware").await;
    let bad = vec![ADMIN.to_owned(), "it@litware.example".to_owned()];
    fleet.simulator.mailbox().set_faults(MailFaults { reject: bad, ..MailFaults::default() });
    post(&fleet, 5 * DAY).await;
    assert_eq!((waiting(&fleet).await, counted(&fleet, "rejected")), (0, 16));
    assert_eq!(fleet.kinds(OPERATORS), ["operator", "operator"]);
}

/// A server that accepted mails last week and rejects everybody now does not work: nothing is given up.
#[tokio::test]
async fn mails_accepted_before_the_rejections_do_not_count() {
    let fleet = with_an_alert(Options::default(), "none", &[]).await;
    post(&fleet, MINUTE).await;
    assert_eq!(fleet.kinds(ADMIN), ["alert"]);
    breaks(&fleet, "litware").await;
    breaks(&fleet, "proseware").await;
    fleet.simulator.mailbox().set_faults(MailFaults::replying(&[("RCPT", "550 5.1.1 No such user")]));
    post(&fleet, 8 * DAY).await;
    assert_eq!(fleet.kinds("it@litware.example"), Vec::<String>::new());
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 2 * HOUR).await;
    assert_eq!(fleet.kinds("it@litware.example"), ["alert"]);
}

/// However many mails are sent at once, each is sent once.
#[tokio::test(flavor = "multi_thread")]
async fn many_mails_are_sent_once_each() {
    let fleet = with_an_alert(Options::default(), "none", &[("connections", "8")]).await;
    let db = rusqlite::Connection::open(fleet.folder.path().join("consentry.db")).expect("the database");
    db.execute_batch(
        "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 1000)
         INSERT INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at)
         SELECT alert || i, sequence, recipient || i, kind, json_set(story, '$.integration', 'i' || i), created_at, due_at
         FROM notifications, k WHERE id = (SELECT min(id) FROM notifications)",
    )
    .expect("mails");
    post(&fleet, MINUTE).await;
    let ids: Vec<_> = fleet.mails().into_iter().map(|(_, m)| m.message_id).collect();
    let once: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), once.len()), (1001, 1001));
}

/// A response that never comes: the mail may have arrived. An hour between the attempts, at most three of
/// them, and one `Message-ID`.
#[tokio::test]
async fn a_mail_without_a_response_is_handed_over_three_times() {
    let fleet = with_an_alert(Options::default(), "none", &[]).await;
    let faults = MailFaults { drop_after_data: true, ..MailFaults::default() };
    fleet.simulator.mailbox().set_faults(faults);
    for copies in 1..=3 {
        fleet.daemon.notifier.as_ref().expect("mail").drain().await.expect("the outbox");
        assert_eq!(fleet.kinds(ADMIN).len(), copies);
        if copies < 3 {
            post(&fleet, 50 * MINUTE).await;
            assert_eq!(fleet.kinds(ADMIN).len(), copies, "not within the hour");
            fleet.clock.set(fleet.clock.steady().plus(11 * MINUTE));
        }
    }
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 7 * DAY).await;
    let mails = fleet.mails();
    let ids: Vec<_> = mails.iter().filter(|(to, _)| to == ADMIN).map(|(_, m)| m.message_id.clone()).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(
        mails.iter().any(|(to, m)| to == OPERATORS && m.text.contains("It may have arrived")),
        "{:?}",
        fleet.notified()
    );
    assert_eq!(waiting(&fleet).await, 0);
}

/// A wall clock that was ahead while the mail server was away: the mail is not due in ten years.
#[tokio::test]
async fn a_clock_that_was_ahead_delays_no_mail() {
    let fleet = with_an_alert(Options::default(), "none", &[]).await;
    let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
    let ten_years = 3650 * 86_400_000;
    fleet.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    fleet.clock.step(ten_years);
    notifier.drain().await.expect("the outbox");
    fleet.clock.step(-ten_years);
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 10 * MINUTE).await;
    assert_eq!((fleet.notified(), waiting(&fleet).await), (vec![format!("alert to {ADMIN}")], 0));
}

/// An attacker appends replies to the 220, which would be read as replies of the TLS server.
#[tokio::test]
async fn bytes_sent_before_tls_are_not_used_after_it() {
    let injected = [
        "250 hello",
        "250-localhost\r\n250 8BITMIME\r\n250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 go on\r\n250 2.0.0 Taken",
        "x",
    ];
    for text in injected {
        let fleet = with_an_alert(Options::default(), "starttls", &[]).await;
        fleet
            .simulator
            .mailbox()
            .set_faults(MailFaults { behind_starttls: Some(text.to_owned()), ..MailFaults::default() });
        post(&fleet, MINUTE).await;
        assert_eq!((fleet.notified(), waiting(&fleet).await), (vec![], 1), "{text:?}");
        assert!(counted(&fleet, "tls") > 0, "{text:?}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert!(
            fleet.simulator.mailbox().all().iter().all(|m| m.tls) && fleet.notified().len() == 1,
            "{text:?}"
        );
    }
}

/// The wrong kind of TLS is named; the client waits for a server that is only slow.
#[tokio::test]
async fn the_wrong_kind_of_tls_is_named() {
    let seen = |implicit: bool, tls: &'static str, greets_after_ms: u64| async move {
        let fleet = fleet(Options { smtp_implicit_tls: implicit, ..Options::default() }, tls, &[]).await;
        fleet.simulator.mailbox().set_faults(MailFaults { greets_after_ms, ..MailFaults::default() });
        let entra = app::entra(&fleet.config, None).expect("a client");
        let transport = app::transport(fleet.config.email.as_ref().expect("mail"), &entra, &fleet.clock);
        let greeting = test_transport(&transport).await;
        (greeting.outcome.map(drop).map_err(|failure| failure.label()), greeting.dialogue.join("\n"))
    };
    let (starttls, none, implicit, slow, slow_tls) = tokio::join!(
        seen(true, "starttls", 0),
        seen(true, "none", 0),
        seen(false, "implicit", 0),
        seen(false, "starttls", 11_000),
        seen(true, "implicit", 11_000),
    );
    for (sentence, (outcome, dialogue), expected, hint) in [
        ("STARTTLS at a port of TLS", starttls, Err("tls"), "use tls: implicit"),
        ("no TLS at a port of TLS", none, Err("tls"), "use tls: implicit"),
        ("TLS at a port without", implicit, Err("tls"), "use tls: starttls"),
        ("a slow server", slow, Ok(()), "TLS is up"),
        ("a slow server behind TLS", slow_tls, Ok(()), "TLS is up"),
    ] {
        assert!(outcome == expected && dialogue.contains(hint), "{sentence}: {outcome:?} {dialogue}");
    }
}

/// The name in EHLO is one that others know, or an address; never a bare name.
#[tokio::test]
async fn ehlo_contains_a_full_name_or_an_address() {
    for (keys, expected) in [
        (&[("hello", "sentry.example.com")][..], Some("EHLO sentry.example.com")),
        (&[("hello", "\"[192.0.2.1]\"")], Some("EHLO [192.0.2.1]")),
        (&[], None),
    ] {
        let fleet = with_an_alert(Options::default(), "none", keys).await;
        post(&fleet, MINUTE).await;
        let commands = fleet.simulator.mailbox().commands();
        let hello = commands.iter().find(|c| c.starts_with("EHLO")).expect("a hello");
        assert!(expected.map_or(hello.contains('.') || hello.contains("[IPv6:"), |e| e == hello), "{hello}");
        assert!(
            commands.iter().any(|c| c.starts_with("MAIL FROM:<consentry@demo.example> SIZE=")),
            "{commands:?}"
        );
        assert!(commands.contains(&format!("RCPT TO:<{ADMIN}>")), "{commands:?}");
    }
}

/// Domains are sent as A-labels, so that no server needs SMTPUTF8 for them.
#[tokio::test]
async fn internationalised_domains_need_no_extension() {
    let mut world = World::demo().await;
    world
        .set("integrations.contoso.admins", "[it@m\u{fc}nchen.example]")
        .set("email.from", "Consentry <consentry@k\u{f6}ln.example>");
    let fleet = world.fleet().await;
    fleet
        .simulator
        .mailbox()
        .set_faults(MailFaults::replying(&[("EHLO", "250-localhost\r\n250 SIZE 1000000")]));
    breaks(&fleet, "contoso").await;
    post(&fleet, MINUTE).await;
    let mail = fleet.simulator.mailbox().all().pop().expect("a mail");
    assert_eq!(
        (mail.from.as_str(), mail.to.join(",").as_str()),
        ("consentry@xn--kln-sna.example", "it@xn--mnchen-3ya.example")
    );
    assert!(
        mail.raw.is_ascii() && mail.parsed().message_id.ends_with("@xn--kln-sna.example"),
        "{:?}",
        mail.parsed().headers
    );
}

/// At most as many connections as are configured, including those that are being closed.
#[tokio::test]
async fn connections_are_limited() {
    for (keys, most) in [(&[("connections", "1")][..], 1), (&[], 2)] {
        let fleet = with_an_alert(Options::default(), "none", keys).await;
        for name in ["litware", "proseware"] {
            breaks(&fleet, name).await;
        }
        post(&fleet, MINUTE).await;
        assert_eq!(fleet.notified().len(), 3);
        assert!(fleet.simulator.mailbox().most_connections() <= most, "{keys:?}");
    }
}
