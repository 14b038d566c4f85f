//! Handing one mail to the mail server, step by step, so that a failure can be named and the dialogue shown.
//!
//! | file | what it does |
//! |---|---|
//! | `compose` | header, body and envelope; A-labels, dots, line ends |
//! | `stream` | the connection: bytes, time limits, TLS |
//! | `reply` | what a server says, as RFC 5321 allows it |
//! | `hello` | the name that EHLO needs |
//! | `dialogue` | the steps: greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, the final dot, QUIT |
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

use super::mime::{compose, recipient};
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

/// Hands one mail to the server.
pub async fn deliver(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
) -> Delivery {
    match dictate(settings, notification, mail, now).await {
        Ok(dictated) => {
            let (delivery, farewell) = dictated.end().await;
            farewell.say().await;
            delivery
        }
        Err(Undelivered { failure, dialogue }) => Delivery { outcome: Err(failure), dialogue },
    }
}

/// Greets the server, with TLS and login as configured, and says goodbye. No mail is sent.
pub async fn test_connection(settings: &SmtpSettings) -> Delivery {
    let mut talk = SmtpDialogue::default();
    let outcome = match Session::open(settings, &mut talk).await {
        Ok(session) => {
            session.quit().await;
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    Delivery { outcome, dialogue: talk.into_lines() }
}

/// A mail that has not come to its end.
pub(super) struct Undelivered {
    pub(super) failure: Failure,
    pub(super) dialogue: Vec<String>,
}

/// A mail that the server has been told, all but its end.
pub(super) struct Dictated {
    session: Session,
    talk: SmtpDialogue,
}

/// Says a mail to the server, all but the final dot. Whoever drops the result sends nothing.
pub(super) async fn dictate(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
) -> Result<Dictated, Undelivered> {
    let mut talk = SmtpDialogue::default();
    match converse(settings, notification, mail, now, &mut talk).await {
        Ok(session) => Ok(Dictated { session, talk }),
        Err(failure) => Err(Undelivered { failure, dialogue: talk.into_lines() }),
    }
}

async fn converse(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
    talk: &mut SmtpDialogue,
) -> Result<Session, Failure> {
    let to = recipient(&notification.recipient).map_err(|text| {
        talk.note(format!("! {text}"));
        Failure { kind: EmailFailure::Rejected, blame: Blame::Recipient }
    })?;
    let letter = compose(settings, to, notification, mail, now).map_err(|text| {
        talk.note(format!("! {text}"));
        Failure::transport(EmailFailure::Other)
    })?;
    let mut session = Session::open(settings, talk).await?;
    match session.dictate(&letter, talk).await {
        Ok(()) => Ok(session),
        Err(failure) => {
            session.quit().await;
            Err(failure)
        }
    }
}

impl Dictated {
    /// Says the final dot and waits for the answer.
    pub(super) async fn end(mut self) -> (Delivery, Farewell) {
        let outcome = self.session.end(&mut self.talk).await;
        (Delivery { outcome, dialogue: self.talk.into_lines() }, Farewell(self.session))
    }
}

/// A recipient as servers repeat it, where that is not how it was written.
pub(super) fn on_the_wire(address: &str) -> Option<String> {
    recipient(address).ok().map(|sent| sent.to_string()).filter(|sent| sent != address)
}

/// What is left to say once the outcome is saved.
pub(super) struct Farewell(Session);

impl Farewell {
    /// Says it. How that goes changes nothing, and it takes a few seconds at most.
    pub(super) async fn say(self) {
        self.0.quit().await;
    }
}
