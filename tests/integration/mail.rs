//! Mail of the running program: mails that are being sent when it ends or when its configuration changes, and
//! the output of `test-email`.

use consentry::config::load;
use entra_sim::MailFaults;

use crate::world::{World, text};

const ADMIN: &str = "it@contoso.example";

/// How many mails are sent.
const SENT: &str = "SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL";

/// A mail that waits for its response when the process ends is saved as handed over. It is neither sent again
/// at once nor counted as sent.
#[tokio::test]
async fn a_mail_without_a_response_is_saved_as_handed_over() {
    for violent in [true, false] {
        let world = World::live().await;
        world.simulator.mailbox().set_faults(MailFaults { hang_after_data: true, ..MailFaults::default() });
        let mut daemon = world.daemon(&[]);
        world.breaks("contoso");
        world.mails(1).await;
        if violent {
            daemon.kill().await;
        } else {
            daemon.terminate().await;
        }
        let state = "SELECT count(*) FROM notifications WHERE sent_at IS NULL AND given_up_at IS NULL AND unanswered = 1";
        assert_eq!(world.database(state), 1, "violent: {violent}");
        world.simulator.mailbox().set_faults(MailFaults::default());
        let mut daemon = world.daemon(&[]);
        // Another mail is sent, so the outbox has been read.
        world.breaks("litware");
        world.database_says(SENT, 1).await;
        let contoso = world.simulator.mailbox().all().iter().filter(|m| m.to == [ADMIN]).count();
        assert_eq!((contoso, world.database(state)), (1, 1), "violent: {violent}");
        daemon.terminate().await;
    }
}

/// The limit of connections applies to the process: mails that an earlier configuration is sending count.
/// Waiting mails are counted while all connections hang.
#[tokio::test]
async fn connections_are_limited_across_reloads() {
    let world = World::live().await;
    world.simulator.mailbox().set_faults(MailFaults { hang_after_data: true, ..MailFaults::default() });
    let daemon = world.daemon(&["--web.enable-lifecycle"]);
    ["contoso", "litware"].into_iter().for_each(|name| world.breaks(name));
    world.mails(2).await;
    ["proseware", "tailspin"].into_iter().for_each(|name| world.breaks(name));
    let waiting = "SELECT count(*) >= 4 FROM notifications WHERE sent_at IS NULL AND given_up_at IS NULL";
    world.database_says(waiting, 1).await;
    daemon.counts("consentry_email_queue_length ", 4.0).await;
    for _ in 0..3 {
        assert_eq!(daemon.reload().await.0, 200);
        // A reload waits for answers; then the next notifier has looked at what is due.
        daemon.ready().await;
        world.database_says(waiting, 1).await;
    }
    assert!(
        world.simulator.mailbox().most_connections() <= 2,
        "{}",
        world.simulator.mailbox().most_connections()
    );
    daemon.kill().await;
}

/// A server that never responds to QUIT delays neither saving that the mail was sent, nor the next mail for
/// long, nor the end of the process.
#[tokio::test]
async fn a_server_that_ignores_quit_causes_no_second_mail() {
    let world = World::live().await;
    world.simulator.mailbox().set_faults(MailFaults { hang_at_quit: true, ..MailFaults::default() });
    let mut daemon = world.daemon(&[]);
    world.breaks("contoso");
    world.database_says(SENT, 1).await;
    daemon.terminate().await;
    let mut daemon = world.daemon(&[]);
    world.fix("contoso");
    world.database_says(SENT, 2).await;
    assert_eq!(world.simulator.mailbox().all().len(), 2, "an alert and its end");
    daemon.terminate().await;
}

/// The dialogue of `test-email` shows every step, and never a password that a server repeats.
#[tokio::test]
async fn the_dialogue_is_shown_without_secrets() {
    let mut world = World::live().await;
    world
        .add("email.smtp.hello", "sentry.example.com")
        .add("email.smtp.username", "consentry")
        .add("email.smtp.password", "smtp-geheim");
    let faults = MailFaults::replying(&[(
        "AUTH",
        "535-5.7.8 no such login:\r\n535 consentry smtp-geheim c210cC1nZWhlaW0= \u{1b}[31m",
    )]);
    world.simulator.mailbox().set_faults(faults);
    let output = world.command(&["test-email", "me@example.com"]).await;
    let dialogue = text(&output.stdout);
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
    assert!(load(&world.file()).is_ok());
}
