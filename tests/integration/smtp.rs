//! Mail servers as they are: how they answer, whom they blame, where they fall silent. Over real sockets, with the whole outbox behind it.

use std::time::Duration;

use consentry::app::{self, Daemon, Front};
use consentry::clock::Clock;
use consentry::config::load;
use consentry::demo;
use consentry::notify::test_connection;
use entra_sim::{MailFaults, Options, ScriptedReply};

use crate::harness::{self, Fleet, MINUTE, PUBLIC_URL, START, USUAL, freeze, situation, tenants};
use crate::program::{Place, mails};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const ADMIN: &str = "it@contoso.example";
const OPERATORS: &str = "operators@demo.example";

/// A fleet with other keys under `email.smtp`.
async fn fleet(options: Options, tls: &str, keys: &str) -> Fleet {
    let simulator = tenants(options).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), simulator.ca_pem()).expect("written");
    let port = simulator.smtp.port();
    let text = demo::configuration(&simulator, PUBLIC_URL, USUAL);
    let usual = format!("smtp: {{host: 127.0.0.1, port: {port}, tls: none}}");
    assert!(text.contains(&usual), "the demo's mail server is written otherwise");
    let smtp =
        format!("smtp: {{host: localhost, port: {port}, tls: {tls}, tls_config: {{ca_file: ca.pem}}{keys}}}");
    let clock = Clock::manual(START);
    freeze(&simulator, START);
    let config = harness::load(&folder, &text.replace(&usual, &smtp));
    let daemon = Daemon::wire(&config, clock.clone(), Front::default()).await.expect("a daemon");
    demo::sign_in(&simulator, &daemon.store).await.expect("tokens");
    Fleet { simulator, folder, config, clock, daemon }
}

/// One where a mail waits for Contoso's admin.
async fn with_an_alert(options: Options, tls: &str, keys: &str) -> Fleet {
    let fleet = fleet(options, tls, keys).await;
    breaks(&fleet, "contoso").await;
    fleet
}

/// An integration breaks, and its mail is saved and not sent yet.
async fn breaks(fleet: &Fleet, name: &str) {
    fleet.act((situation(name).breaks)(&situation(name).tenant()));
    let before = fleet.daemon.store.outbox().await.expect("outbox").1;
    for _ in 0..6 {
        let step = fleet.clock.now().plus(2 * MINUTE);
        fleet.daemon.monitor.run_until(step).await;
        freeze(&fleet.simulator, step);
    }
    assert!(fleet.daemon.store.outbox().await.expect("outbox").1 > before, "{name} is told of");
}

/// Time passes for the outbox alone, from one due mail to the next.
async fn post(fleet: &Fleet, duration: Duration) {
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
    fleet.daemon.store.outbox().await.expect("outbox").1
}

fn counted(fleet: &Fleet, reason: &str) -> u64 {
    let line = format!("consentry_emails_failed_total{{kind=\"alert\",reason=\"{reason}\"}} ");
    let text = fleet.exposition();
    text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).expect("a counter")
}

/// Replies to commands about Contoso's admin alone; everybody else's mails go through.
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
            "texts that are no UTF-8",
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
        ("a server that knows no EHLO", MailFaults::replying(&[("EHLO", "502 5.5.1 Not implemented")])),
        ("an older one", MailFaults::replying(&[("EHLO", "500 What?")])),
        ("EHLO is a syntax error", MailFaults::replying(&[("EHLO", "501 Syntax error")])),
        ("EHLO is not available", MailFaults::replying(&[("EHLO", "550 No")])),
        ("EHLO's parameter is not implemented", MailFaults::replying(&[("EHLO", "504 No")])),
        ("offers without any", MailFaults::replying(&[("EHLO", "250")])),
        ("everything byte by byte", MailFaults { split: true, ..MailFaults::default() }),
        ("a farewell that is none", MailFaults::replying(&[("QUIT", "500 stay")])),
    ] {
        let fleet = with_an_alert(Options::default(), "none", "").await;
        fleet.simulator.mailbox().set_faults(faults);
        post(&fleet, MINUTE).await;
        assert_eq!(
            (fleet.told(), waiting(&fleet).await),
            (vec![format!("alert to {ADMIN}")], 0),
            "{sentence}"
        );
    }
}

/// The challenges of AUTH LOGIN are questions in any language.
#[tokio::test]
async fn a_login_answers_whatever_is_asked() {
    for (offer, challenges) in [
        ("250-localhost\r\n250 AUTH LOGIN", Some(["Benutzername?", "Kennwort?"])),
        ("250-localhost\r\n250 AUTH=LOGIN", Some(["", ""])),
        ("250-localhost\r\n250 AUTH LOGIN CRAM-MD5", Some(["User Name\0", "Password\0"])),
        ("250-localhost\r\n250 AUTH PLAIN", None),
    ] {
        let login = Some(("consentry".to_owned(), "geheim".to_owned()));
        let options = Options { smtp_credentials: login, ..Options::default() };
        let fleet = with_an_alert(options, "none", ", username: consentry, password: geheim").await;
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

/// A refusal that is about us waits for its repair, however long that takes, and says nothing of the recipient.
#[tokio::test]
async fn what_is_about_us_waits_until_it_is_repaired() {
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
        let fleet = with_an_alert(Options::default(), "none", "").await;
        fleet.simulator.mailbox().set_faults(to_the_admin(command, reply));
        for _ in 0..20 {
            fleet.daemon.notifier.as_ref().expect("mail").drain().await.expect("the outbox");
            fleet.clock.set(fleet.clock.steady().plus(12 * HOUR));
        }
        assert_eq!((fleet.told(), waiting(&fleet).await), (vec![], 1), "{sentence}: it waits");
        assert_eq!(counted(&fleet, reason), 20, "{sentence}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert_eq!(
            (fleet.told(), waiting(&fleet).await),
            (vec![format!("alert to {ADMIN}")], 0),
            "{sentence}: it goes out"
        );
    }
}

/// What is about the sender waits, too, whatever the code says.
#[tokio::test]
async fn a_refused_sender_waits() {
    for reply in [
        "550 5.1.1 Unknown",
        "550 5.1.8 Bad sender",
        "530 5.7.0 Authentication required",
        "552 5.3.4 Too big",
        "550",
    ] {
        let fleet = with_an_alert(Options::default(), "none", "").await;
        fleet.simulator.mailbox().set_faults(MailFaults::replying(&[("MAIL", reply)]));
        for _ in 0..16 {
            fleet.daemon.notifier.as_ref().expect("mail").drain().await.expect("the outbox");
            fleet.clock.set(fleet.clock.steady().plus(12 * HOUR));
        }
        assert_eq!((fleet.told(), waiting(&fleet).await), (vec![], 1), "{reply}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert_eq!(fleet.told(), [format!("alert to {ADMIN}")], "{reply}");
    }
}

/// A mailbox that does not exist, and a mail that is refused after DATA: eight attempts within five days, and the operators hear of it.
#[tokio::test]
async fn what_is_refused_for_good_is_tried_eight_times() {
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
        let fleet = with_an_alert(Options::default(), "none", "").await;
        fleet.simulator.mailbox().set_faults(to_the_admin(command, reply));
        post(&fleet, 5 * DAY).await;
        assert_eq!((counted(&fleet, "rejected"), waiting(&fleet).await), (8, 0), "{sentence}");
        assert_eq!(fleet.told(), [format!("operator to {OPERATORS}")], "{sentence}");
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

/// A server that refuses everybody, whatever code it gives, has a fault of its own: nothing is given up.
#[tokio::test]
async fn a_server_that_refuses_everybody_loses_no_mail() {
    let fleet = with_an_alert(Options::default(), "none", "").await;
    breaks(&fleet, "litware").await;
    fleet.simulator.mailbox().set_faults(MailFaults::replying(&[("RCPT", "550 5.1.1 No such user")]));
    post(&fleet, 8 * DAY).await;
    assert_eq!(fleet.told(), Vec::<String>::new());
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 2 * HOUR).await;
    assert_eq!(
        (fleet.kinds(ADMIN), fleet.kinds("it@litware.example")),
        (vec!["alert".to_owned()], vec!["alert".to_owned()])
    );
    post(&fleet, 3 * DAY).await;
    assert_eq!(waiting(&fleet).await, 0);
}

/// Bad addresses alone, in a fleet that has had no mail for long: the operators' mail shows that it is not the server, and they are given up.
#[tokio::test]
async fn several_bad_addresses_are_given_up() {
    let fleet = with_an_alert(Options::default(), "none", "").await;
    breaks(&fleet, "litware").await;
    let bad = vec![ADMIN.to_owned(), "it@litware.example".to_owned()];
    fleet.simulator.mailbox().set_faults(MailFaults { reject: bad, ..MailFaults::default() });
    post(&fleet, 5 * DAY).await;
    assert_eq!((waiting(&fleet).await, counted(&fleet, "rejected")), (0, 16));
    assert_eq!(fleet.kinds(OPERATORS), ["operator", "operator"]);
}

/// A server that took mails last week and refuses everybody now takes no mail: nothing is given up.
#[tokio::test]
async fn what_was_taken_before_the_refusals_proves_nothing() {
    let fleet = with_an_alert(Options::default(), "none", "").await;
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

/// However many go out at once, each goes out once.
#[tokio::test(flavor = "multi_thread")]
async fn many_mails_go_out_once_each() {
    let fleet = with_an_alert(Options::default(), "none", ", connections: 8").await;
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

/// An answer that never comes: perhaps the mail has arrived. An hour between the attempts, three at most, one `Message-ID`.
#[tokio::test]
async fn a_mail_without_an_answer_is_handed_over_three_times() {
    let fleet = with_an_alert(Options::default(), "none", "").await;
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
        fleet.told()
    );
    assert_eq!(waiting(&fleet).await, 0);
}

/// A wall clock that was ahead while the mail server was away: the mail is not due in ten years.
#[tokio::test]
async fn a_clock_that_was_ahead_delays_no_mail() {
    let fleet = with_an_alert(Options::default(), "none", "").await;
    let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
    let ten_years = 3650 * 86_400_000;
    fleet.simulator.mailbox().set_faults(MailFaults { refuse: true, ..MailFaults::default() });
    fleet.clock.step(ten_years);
    notifier.drain().await.expect("the outbox");
    fleet.clock.step(-ten_years);
    fleet.simulator.mailbox().set_faults(MailFaults::default());
    post(&fleet, 10 * MINUTE).await;
    assert_eq!((fleet.told(), waiting(&fleet).await), (vec![format!("alert to {ADMIN}")], 0));
}

/// Somebody in between appends answers to the 220, which would be read as those of the TLS server.
#[tokio::test]
async fn nothing_said_before_tls_is_believed_after_it() {
    let injected = [
        "250 hello",
        "250-localhost\r\n250 8BITMIME\r\n250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 go on\r\n250 2.0.0 Taken",
        "x",
    ];
    for text in injected {
        let fleet = with_an_alert(Options::default(), "starttls", "").await;
        fleet
            .simulator
            .mailbox()
            .set_faults(MailFaults { behind_starttls: Some(text.to_owned()), ..MailFaults::default() });
        post(&fleet, MINUTE).await;
        assert_eq!((fleet.told(), waiting(&fleet).await), (vec![], 1), "{text:?}");
        assert!(counted(&fleet, "tls") > 0, "{text:?}");
        fleet.simulator.mailbox().set_faults(MailFaults::default());
        post(&fleet, 10 * MINUTE).await;
        assert!(fleet.simulator.mailbox().all().iter().all(|m| m.tls) && fleet.told().len() == 1, "{text:?}");
    }
}

/// The wrong way to protect a connection is named; a server that is merely slow is waited for.
#[tokio::test]
async fn the_wrong_way_to_tls_is_named() {
    let seen = |implicit: bool, tls: &'static str, greets_after_ms: u64| async move {
        let fleet = fleet(Options { smtp_implicit_tls: implicit, ..Options::default() }, tls, "").await;
        fleet.simulator.mailbox().set_faults(MailFaults { greets_after_ms, ..MailFaults::default() });
        let settings = app::smtp(fleet.config.email.as_ref().expect("mail")).expect("a server");
        let greeting = test_connection(&settings).await;
        (greeting.outcome.map_err(|failure| failure.label()), greeting.dialogue.join("\n"))
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

/// EHLO says a name that others know, or an address; never a bare name.
#[tokio::test]
async fn the_name_that_ehlo_says() {
    for (keys, expected) in [
        (", hello: sentry.example.com", Some("EHLO sentry.example.com")),
        (", hello: \"[192.0.2.1]\"", Some("EHLO [192.0.2.1]")),
        ("", None),
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

/// Domains go out as A-labels, so that no server needs SMTPUTF8 for them.
#[tokio::test]
async fn internationalised_domains_need_no_extension() {
    let simulator = tenants(Options::default()).await;
    let text = demo::configuration(&simulator, PUBLIC_URL, USUAL)
        .replace("admins: [it@contoso.example]", "admins: [it@m\u{fc}nchen.example]")
        .replace("consentry@demo.example", "consentry@k\u{f6}ln.example");
    let fleet = Fleet::with(simulator, &text).await;
    demo::sign_in(&fleet.simulator, &fleet.daemon.store).await.expect("tokens");
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

/// As many connections as are configured, farewells included.
#[tokio::test]
async fn connections_are_limited() {
    for (keys, most) in [(", connections: 1", 1), ("", 2)] {
        let fleet = with_an_alert(Options::default(), "none", keys).await;
        for name in ["litware", "proseware"] {
            breaks(&fleet, name).await;
        }
        post(&fleet, MINUTE).await;
        assert_eq!(fleet.told().len(), 3);
        assert!(fleet.simulator.mailbox().most_connections() <= most, "{keys}");
    }
}

fn database(place: &Place, question: &str) -> i64 {
    let connection =
        rusqlite::Connection::open(place.folder.path().join("consentry.db")).expect("the database");
    connection.query_row(question, [], |r| r.get(0)).expect("an answer")
}

/// Asks the daemon until the database says so.
async fn until(place: &Place, url: &str, question: &str) {
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while database(place, question) != 1 {
            assert_eq!(reqwest::get(format!("{url}/-/healthy")).await.expect("an answer").status(), 200);
        }
    });
    patience.await.unwrap_or_else(|_| panic!("never: {question}"));
}

fn contoso_breaks(place: &Place) {
    (situation("contoso").breaks)("contoso.example")
        .into_iter()
        .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
}

/// What is waited for when the process ends is known to have been handed over, and is neither repeated at once nor taken for sent.
#[tokio::test]
async fn an_answer_that_is_cut_off_is_remembered() {
    for violent in [true, false] {
        let place = Place::new().await;
        place.simulator.mailbox().set_faults(MailFaults { hang_after_data: true, ..MailFaults::default() });
        let mut daemon = place.daemon(&[]);
        daemon.url().await;
        contoso_breaks(&place);
        mails(&place, 1).await;
        if violent {
            daemon.kill().await;
        } else {
            daemon.terminate().await;
        }
        let state = "SELECT count(*) FROM notifications WHERE sent_at IS NULL AND given_up_at IS NULL AND unanswered = 1";
        assert_eq!(database(&place, state), 1, "violent: {violent}");
        place.simulator.mailbox().set_faults(MailFaults::default());
        let mut daemon = place.daemon(&[]);
        let url = daemon.url().await;
        // Another mail goes through, so the outbox has been drained.
        (situation("litware").breaks)("litware.example")
            .into_iter()
            .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
        until(&place, &url, "SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL").await;
        let contoso = place.simulator.mailbox().all().iter().filter(|m| m.to == [ADMIN]).count();
        assert_eq!((contoso, database(&place, state)), (1, 1), "violent: {violent}");
        daemon.terminate().await;
    }
}

/// The number of connections holds for the process: what an earlier configuration has under way counts. And while all of them hang, those who
/// wait are counted.
#[tokio::test]
async fn connections_are_limited_across_reloads() {
    let place = Place::new().await;
    place.simulator.mailbox().set_faults(MailFaults { hang_after_data: true, ..MailFaults::default() });
    let mut daemon = place.daemon(&["--web.enable-lifecycle"]);
    let url = daemon.url().await;
    let breaks = |name: &str| {
        (situation(name).breaks)(&situation(name).tenant())
            .into_iter()
            .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
    };
    ["contoso", "litware"].into_iter().for_each(breaks);
    mails(&place, 2).await;
    ["proseware", "tailspin"].into_iter().for_each(breaks);
    let waiting = "SELECT count(*) >= 4 FROM notifications WHERE sent_at IS NULL AND given_up_at IS NULL";
    until(&place, &url, waiting).await;
    let queue = async || {
        let text =
            reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("a text");
        text.lines()
            .find_map(|l| l.strip_prefix("consentry_email_queue_length ")?.parse::<i64>().ok())
            .expect("a gauge")
    };
    let counted = async {
        while queue().await < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted)
        .await
        .expect("the queue is counted while all connections hang");
    for _ in 0..3 {
        let reloaded =
            reqwest::Client::new().post(format!("{url}/-/reload")).send().await.expect("an answer");
        assert_eq!(reloaded.status(), 200);
        // A reload waits for answers; then the next notifier has looked at what is due.
        until(&place, &url, waiting).await;
    }
    assert!(
        place.simulator.mailbox().most_connections() <= 2,
        "{}",
        place.simulator.mailbox().most_connections()
    );
    daemon.kill().await;
}

/// A server that never says goodbye delays neither the note that the mail was sent, nor the next mail for long, nor the end.
#[tokio::test]
async fn a_farewell_that_hangs_repeats_no_mail() {
    let place = Place::new().await;
    place.simulator.mailbox().set_faults(MailFaults { hang_at_quit: true, ..MailFaults::default() });
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    contoso_breaks(&place);
    until(&place, &url, "SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL").await;
    daemon.terminate().await;
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    (situation("contoso").fix)("contoso.example")
        .into_iter()
        .for_each(|a| drop(place.simulator.apply(a).expect("fixed")));
    until(&place, &url, "SELECT count(*) = 2 FROM notifications WHERE sent_at IS NOT NULL").await;
    assert_eq!(place.simulator.mailbox().all().len(), 2, "an alert and its end");
    daemon.terminate().await;
}

/// The dialogue of `test-email` shows every step, and never a password that a server repeats.
#[tokio::test]
async fn the_dialogue_is_shown_without_secrets() {
    let place = Place::new().await;
    let text = std::fs::read_to_string(place.file()).expect("readable");
    let with_login = text.replace(
        "tls: none}",
        "tls: none, hello: sentry.example.com, username: consentry, password: smtp-geheim}",
    );
    assert_ne!(with_login, text);
    std::fs::write(place.file(), with_login).expect("written");
    let faults = MailFaults::replying(&[(
        "AUTH",
        "535-5.7.8 no such login:\r\n535 consentry smtp-geheim c210cC1nZWhlaW0= \u{1b}[31m",
    )]);
    place.simulator.mailbox().set_faults(faults);
    let output = place.command(&["test-email", "me@example.com"]).await;
    let dialogue = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "* connecting to 127.0.0.1:",
        "> EHLO sentry.example.com",
        "> AUTH PLAIN (as consentry, password not shown)",
        "< 535 5.7.8",
    ] {
        assert!(dialogue.contains(part), "{part}: {dialogue}");
    }
    for secret in ["geheim", "c210cC1nZWhlaW0", "\u{1b}"] {
        assert!(!dialogue.contains(secret), "{secret}: {dialogue}");
    }
    assert!(load(&place.file()).is_ok());
}
