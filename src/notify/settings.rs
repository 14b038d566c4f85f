//! Whose mails they are, and through which server they go.

use lettre::message::Mailbox;

use crate::config::Smtp;

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
