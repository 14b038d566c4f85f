//! Telling people: rendering (pure), the SMTP transport, and the notifier that drains the outbox.

mod message;
mod notifier;
mod smtp;

pub use message::{Letterhead, Rendered, render, sample_story};
pub use notifier::{LinkMade, LinkMaker, Notifier, NotifierSettings, Outbox};
pub use smtp::{Delivery, Protection, SmtpSettings, deliver, greet};
