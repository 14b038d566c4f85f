//! One SMTP session carries many mails.

use entra_sim::{MailFaults, Options, ScriptedReply};

use crate::fleet::Fleet;
use crate::smtp::{breaks, post, with_an_alert};
use crate::world::MINUTE;

const ADMIN: &str = "it@contoso.example";

/// Three mails that wait, and one connection for them.
async fn three_mails() -> Fleet {
    let fleet = with_an_alert(Options::default(), "none", &[("connections", "1")]).await;
    for name in ["litware", "proseware"] {
        breaks(&fleet, name).await;
    }
    fleet
}

/// How often each of these commands was sent.
fn sent(fleet: &Fleet, commands: [&str; 3]) -> [usize; 3] {
    let all = fleet.simulator.mailbox().commands();
    commands.map(|command| all.iter().filter(|line| line.starts_with(command)).count())
}

fn failures(fleet: &Fleet) -> f64 {
    let text = fleet.exposition();
    let lines = text.lines().filter(|l| l.starts_with("consentry_emails_failed_total{"));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn one_session_carries_everything_that_is_due() {
    let fleet = three_mails().await;
    post(&fleet, MINUTE).await;
    assert_eq!(fleet.notified().len(), 3);
    assert_eq!(
        sent(&fleet, ["EHLO", "RSET", "MAIL"]),
        [1, 2, 3],
        "{:?}",
        fleet.simulator.mailbox().commands()
    );
}

/// A server may end a session after any mail. That says nothing about the next mail, which goes through another session at once.
#[tokio::test]
async fn a_session_that_the_server_ends_is_opened_again() {
    let fleet = three_mails().await;
    let faults = MailFaults::replying(&[("RSET", "421 4.7.0 too many messages in this session")]);
    fleet.simulator.mailbox().set_faults(faults);
    post(&fleet, MINUTE).await;
    assert_eq!(fleet.notified().len(), 3);
    assert_eq!((sent(&fleet, ["EHLO", "RSET", "MAIL"]), failures(&fleet)), ([3, 2, 3], 0.0));
}

/// The rejection of one recipient delays no other mail, whether it ends the session or not.
#[tokio::test]
async fn a_rejected_recipient_delays_no_other_mail() {
    for (reply, sessions) in [("550 5.1.1 no such user", 1), ("421 4.3.2 shutting down", 2)] {
        let fleet = three_mails().await;
        let scripted = ScriptedReply {
            command: "RCPT".to_owned(),
            recipients: vec![ADMIN.to_owned()],
            reply: reply.to_owned(),
        };
        fleet.simulator.mailbox().set_faults(MailFaults { replies: vec![scripted], ..MailFaults::default() });
        let notifier = fleet.daemon.notifier.as_ref().expect("mail is configured");
        notifier.drain().await.expect("the outbox");
        let others = ["alert to it@litware.example", "alert to it@proseware.example"];
        assert_eq!(fleet.notified(), others, "{reply}");
        assert_eq!(
            (sent(&fleet, ["EHLO", "MAIL", "DATA"]), failures(&fleet)),
            ([sessions, 3, 2], 1.0),
            "{reply}"
        );
    }
}
