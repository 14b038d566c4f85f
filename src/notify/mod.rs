//! Mail: rendering (pure), the SMTP dialogue, what follows from a failed attempt (pure), and the notifier, which sends the mails of the outbox.

mod account;
mod graph_mail;
mod grouped;
mod message;
mod mime;
mod notifier;
mod pace;
mod retry;
mod settings;
mod smtp;
mod transport;

pub use account::MailTokens;
pub use message::{MailBranding, Rendered, render_one, sample_incident};
pub use notifier::{LinkMade, LinkMaker, Notifier, NotifierSettings, Outbox};
pub use settings::{GraphSettings, Sender, SmtpSettings, Transport};
pub use smtp::{Accepted, Blame, Delivery, Failure};
pub use transport::{deliver, test_transport};
