//! Telling people: rendering (pure), the SMTP dialogue, what follows from a failed attempt (pure), and the notifier that drains the outbox.

mod message;
mod notifier;
mod retry;
mod smtp;

pub use message::{Letterhead, Rendered, render, sample_story};
pub use notifier::{LinkMade, LinkMaker, Notifier, NotifierSettings, Outbox};
pub use smtp::{Blame, Delivery, Failure, Protection, SmtpSettings, deliver, greet};
