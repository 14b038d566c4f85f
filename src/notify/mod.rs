//! Telling people: rendering (pure), the SMTP dialogue, what follows from a failed attempt (pure), and the notifier that drains the outbox.

mod message;
mod mime;
mod notifier;
mod retry;
mod smtp;

pub use message::{MailBranding, Rendered, render, sample_incident};
pub use notifier::{LinkMade, LinkMaker, Notifier, NotifierSettings, Outbox};
pub use smtp::{Blame, Delivery, Failure, SmtpSettings, deliver, test_connection};
