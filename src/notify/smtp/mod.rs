//! Handing mails to the mail server, step by step, so that a failure can be named and the dialogue shown.
//!
//! | file | what it does |
//! |---|---|
//! | `stream` | the connection: bytes, time limits, TLS |
//! | `reply` | what a server says, as RFC 5321 allows it |
//! | `hello` | the name that EHLO needs |
//! | `dialogue` | the steps: greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, the final dot, RSET, QUIT |
//! | `blame` | whom a refusal is about (pure) |
//!
//! Nothing here knows the outbox. A mail is handed over in two parts, so that the outbox can save in between that it is being handed over: from
//! the final dot on a mail may have arrived, whatever is heard of it, and before that it has not.
//!
//! Messages and the answers of AUTH are made by lettre; its client is not used, because it keeps what it has read ahead across STARTTLS, and
//! reads neither replies without text nor texts that are no UTF-8.

mod blame;
mod dialogue;
mod hello;
mod reply;
mod stream;

use lettre::message::Mailbox;

use super::mime::{Letter, compose, recipient};
pub use blame::{Blame, Failure};
use dialogue::{Session, SmtpDialogue};

use super::message::Rendered;
use crate::config::Smtp;
use crate::domain::{Notification, Timestamp};
use crate::metrics::EmailFailure;

/// Whose mails they are, and through which server they go.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Sender of every mail.
    pub from: Mailbox,
    /// Where answers go, when not to the sender.
    pub reply_to: Option<Mailbox>,
    /// The mail server.
    pub server: Smtp,
}

/// What became of an attempt.
#[derive(Debug)]
pub struct Delivery {
    /// `Ok` when the server took the mail.
    pub outcome: Result<(), Failure>,
    /// What was said, line by line; passwords and the mail itself left out.
    pub dialogue: Vec<String>,
}

/// Hands one mail to the server, on a connection of its own.
pub async fn deliver(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
) -> Delivery {
    let mut connection = Connection::default();
    let delivery = match connection.dictate(settings, notification, mail, now).await {
        Ok(dictated) => dictated.end().await,
        Err(Undelivered { failure, dialogue }) => Delivery { outcome: Err(failure), dialogue },
    };
    connection.quit().await;
    delivery
}

/// Greets the server, with TLS and login as configured, and ends the session. No mail is sent.
pub async fn test_connection(settings: &SmtpSettings) -> Delivery {
    let mut dialogue = SmtpDialogue::default();
    let outcome = match Session::open(settings, &mut dialogue).await {
        Ok(session) => {
            session.quit().await;
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    Delivery { outcome, dialogue: dialogue.into_lines() }
}

/// Servers close a connection after some number of mails (Postfix: `smtp_connection_reuse_count_limit`; others from 100 on).
const MOST_MAILS: u32 = 100;

/// A connection to the mail server that carries mails one after another. It is opened with the first one.
#[derive(Default)]
pub(super) struct Connection {
    session: Option<Session>,
    /// Mails that the session has carried.
    carried: u32,
}

/// A mail that the server has not got, and what was said.
pub(super) struct Undelivered {
    pub(super) failure: Failure,
    pub(super) dialogue: Vec<String>,
}

/// A mail that the server has got, all but the dot that ends it. Whoever drops this sends nothing.
pub(super) struct Dictated<'c> {
    connection: &'c mut Connection,
    session: Session,
    dialogue: SmtpDialogue,
}

impl Connection {
    /// Hands a mail over, all but the final dot. While this is under way the connection has no session, so that one that is cut off in
    /// the middle carries nothing more.
    pub(super) async fn dictate(
        &mut self,
        settings: &SmtpSettings,
        notification: &Notification,
        mail: &Rendered,
        now: Timestamp,
    ) -> Result<Dictated<'_>, Undelivered> {
        let mut dialogue = SmtpDialogue::default();
        let letter = match letter(settings, notification, mail, now, &mut dialogue) {
            Ok(letter) => letter,
            Err(failure) => return Err(Undelivered { failure, dialogue: dialogue.into_lines() }),
        };
        match self.carry(settings, &letter, &mut dialogue).await {
            Ok(session) => Ok(Dictated { connection: self, session, dialogue }),
            Err(failure) => Err(Undelivered { failure, dialogue: dialogue.into_lines() }),
        }
    }

    /// A session that has carried mails may have been closed by the server meanwhile, which says nothing about this mail: it goes through
    /// a new one then.
    async fn carry(
        &mut self,
        settings: &SmtpSettings,
        letter: &Letter,
        dialogue: &mut SmtpDialogue,
    ) -> Result<Session, Failure> {
        if let Some(mut session) = self.reusable(dialogue).await {
            match session.dictate(letter, dialogue).await {
                Ok(()) => return Ok(session),
                Err(failure) if session.is_usable() => {
                    self.session = Some(session);
                    return Err(failure);
                }
                Err(_) => dialogue.note("* the server has ended the session; opening another one"),
            }
        }
        self.carried = 0;
        let mut session = Session::open(settings, dialogue).await?;
        match session.dictate(letter, dialogue).await {
            Ok(()) => Ok(session),
            Err(failure) => {
                self.session = Some(session).filter(Session::is_usable);
                Err(failure)
            }
        }
    }

    /// The session of the mail before, reset (RFC 5321 section 4.1.1.5).
    async fn reusable(&mut self, dialogue: &mut SmtpDialogue) -> Option<Session> {
        let mut session = self.session.take()?;
        if self.carried >= MOST_MAILS {
            session.quit().await;
            return None;
        }
        session.reset(dialogue).await.then_some(session)
    }

    /// Ends the session, once the outcome of the last mail is saved. How that goes changes nothing, and it takes a few seconds at most.
    pub(super) async fn quit(self) {
        if let Some(session) = self.session {
            session.quit().await;
        }
    }
}

impl Dictated<'_> {
    /// Sends the final dot and waits for the response.
    pub(super) async fn end(mut self) -> Delivery {
        let outcome = self.session.end(&mut self.dialogue).await;
        self.connection.carried += 1;
        self.connection.session = Some(self.session).filter(Session::is_usable);
        Delivery { outcome, dialogue: self.dialogue.into_lines() }
    }
}

fn letter(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
    dialogue: &mut SmtpDialogue,
) -> Result<Letter, Failure> {
    let to = recipient(&notification.recipient).map_err(|text| {
        dialogue.note(format!("! {text}"));
        Failure { kind: EmailFailure::Rejected, blame: Blame::Recipient }
    })?;
    compose(settings, to, notification, mail, now).map_err(|text| {
        dialogue.note(format!("! {text}"));
        Failure::transport(EmailFailure::Other)
    })
}

/// A recipient as servers repeat it, where that is not how it was written.
pub(super) fn on_the_wire(address: &str) -> Option<String> {
    recipient(address).ok().map(|sent| sent.to_string()).filter(|sent| sent != address)
}
