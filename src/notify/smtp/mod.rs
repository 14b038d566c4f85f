//! Sends mails to the mail server, step by step, so that a failure can be named and the dialogue can be shown.
//!
//! | file | what it does |
//! |---|---|
//! | `stream` | the connection: bytes, time limits, TLS |
//! | `reply` | the replies of a server (RFC 5321) |
//! | `hello` | the name in EHLO |
//! | `dialogue` | the steps: greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, the final dot, RSET, QUIT |
//! | `blame` | whom a rejection is about (pure) |
//!
//! This module does not know the outbox. A mail is handed over in two parts, so that the outbox can save in between that it is being handed over:
//! before the final dot the mail has not arrived; after it, it may have arrived, whatever the response is.
//!
//! lettre builds the messages and the responses of AUTH. Its client is not used, because it keeps bytes that it read ahead across STARTTLS, and reads
//! neither replies without text nor texts that are not UTF-8.

pub(super) mod blame;
mod dialogue;
mod hello;
mod reply;
mod stream;

use super::mime::{Letter, compose, recipient};
pub use blame::{Blame, Failure};
use dialogue::{Session, SmtpDialogue};
pub use reply::Accepted;

use super::message::Rendered;
use super::settings::SmtpSettings;
use crate::domain::Timestamp;
use crate::metrics::EmailFailure;

/// The result of an attempt.
#[derive(Debug)]
pub struct Delivery {
    /// `Ok` if the server accepted the mail.
    pub outcome: Result<Accepted, Failure>,
    /// The dialogue, line by line, without passwords and without the mail itself.
    pub dialogue: Vec<String>,
}

/// Starts a session with TLS and login as configured, and ends it. No mail is sent.
pub(super) async fn test_connection(settings: &SmtpSettings) -> Delivery {
    let mut dialogue = SmtpDialogue::default();
    let outcome = match Session::open(settings, &mut dialogue).await {
        Ok(session) => {
            session.quit().await;
            Ok(Accepted::default())
        }
        Err(failure) => Err(failure),
    };
    Delivery { outcome, dialogue: dialogue.into_lines() }
}

/// Some servers close a session after a number of mails, of which 100 is the least that is common.
const MOST_MAILS: u32 = 100;

/// A connection to the mail server that carries mails one after another. It is opened with the first one.
#[derive(Default)]
pub(super) struct Connection {
    session: Option<Session>,
    /// Mails that the session has carried, or tried to.
    carried: u32,
}

/// A mail that the server has not received, and the dialogue.
pub(super) struct Undelivered {
    pub(super) failure: Failure,
    pub(super) dialogue: Vec<String>,
}

/// A mail that the server has received except for its final dot. If this is dropped, the mail is not sent.
pub(super) struct Dictated<'c> {
    connection: &'c mut Connection,
    session: Session,
    dialogue: SmtpDialogue,
}

impl Connection {
    /// Hands over a mail except for its final dot. The connection has no session until this has succeeded, so that a dialogue that was cut off in the
    /// middle is never continued.
    pub(super) async fn dictate(
        &mut self,
        settings: &SmtpSettings,
        recipient: &str,
        mail: &Rendered,
        now: Timestamp,
    ) -> Result<Dictated<'_>, Undelivered> {
        let mut dialogue = SmtpDialogue::default();
        let letter = match letter(settings, recipient, mail, now, &mut dialogue) {
            Ok(letter) => letter,
            Err(failure) => return Err(Undelivered { failure, dialogue: dialogue.into_lines() }),
        };
        match self.carry(settings, &letter, &mut dialogue).await {
            Ok(session) => Ok(Dictated { connection: self, session, dialogue }),
            Err(failure) => Err(Undelivered { failure, dialogue: dialogue.into_lines() }),
        }
    }

    /// The server may have closed a session that has carried mails. That says nothing about this mail, which is then sent in a new session.
    async fn carry(
        &mut self,
        settings: &SmtpSettings,
        letter: &Letter,
        dialogue: &mut SmtpDialogue,
    ) -> Result<Session, Failure> {
        if let Some(mut session) = self.reusable(dialogue).await {
            match session.dictate(letter, dialogue).await {
                Ok(()) => return Ok(session),
                Err(_) if session.is_closed() => {
                    dialogue.note("* the server has ended the session; opening another one");
                }
                Err(failure) => {
                    self.session = Some(session).filter(Session::is_usable);
                    return Err(failure);
                }
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

    /// The session of the previous mail, reset (RFC 5321 section 4.1.1.5).
    async fn reusable(&mut self, dialogue: &mut SmtpDialogue) -> Option<Session> {
        let mut session = self.session.take()?;
        self.carried += 1;
        if self.carried >= MOST_MAILS {
            session.quit().await;
            return None;
        }
        session.reset(dialogue).await.then_some(session)
    }

    /// Ends the session, after the result of the last mail was saved. The outcome does not matter, and it takes a few seconds at most.
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
        self.connection.session = Some(self.session).filter(Session::is_usable);
        Delivery { outcome, dialogue: self.dialogue.into_lines() }
    }
}

fn letter(
    settings: &SmtpSettings,
    address: &str,
    mail: &Rendered,
    now: Timestamp,
    dialogue: &mut SmtpDialogue,
) -> Result<Letter, Failure> {
    let to = recipient(address).map_err(|text| {
        dialogue.note(format!("! {text}"));
        Failure::of(EmailFailure::Rejected, Blame::Recipient)
    })?;
    compose(&settings.sender, to, mail, now).map_err(|text| {
        dialogue.note(format!("! {text}"));
        Failure::transport(EmailFailure::Other)
    })
}

/// A recipient in the form in which servers repeat it, if that differs from the configured form.
pub(super) fn on_the_wire(address: &str) -> Option<String> {
    recipient(address).ok().map(|sent| sent.to_string()).filter(|sent| sent != address)
}
