//! Mail: rendering (pure), the SMTP dialogue, what follows from a failed attempt (pure), and the notifier, which sends the mails of the outbox.

mod grouped;
mod message;
mod mime;
mod notifier;
mod retry;
mod settings;
mod smtp;

pub use message::{MailBranding, Rendered, render_one, sample_incident};
pub use notifier::{LinkMade, LinkMaker, Notifier, NotifierSettings, Outbox};
pub use settings::SmtpSettings;
pub use smtp::{Blame, Delivery, Failure, deliver, test_connection};
