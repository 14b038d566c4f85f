//! Whose mails they are, and how they are sent.

use lettre::message::Mailbox;

use super::account::MailTokens;
use super::pace::EXCHANGE;
use crate::config::{Smtp, SmtpLogin};

/// Whose mails they are.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Sender of every mail.
    pub from: Mailbox,
    /// Where answers go, when not to the sender.
    pub reply_to: Option<Mailbox>,
}

/// Sending through a mail server.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Whose mails they are.
    pub sender: Sender,
    /// The mail server.
    pub server: Smtp,
    /// Access tokens for XOAUTH2.
    pub tokens: Option<MailTokens>,
}

/// Sending through Microsoft Graph.
#[derive(Debug, Clone)]
pub struct GraphSettings {
    /// Whose mails they are.
    pub sender: Sender,
    /// The mailbox that sends.
    pub mailbox: String,
    /// Access tokens for Graph.
    pub tokens: MailTokens,
}

/// How mails are sent.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Through a mail server.
    Smtp(Box<SmtpSettings>),
    /// Through Microsoft Graph.
    Graph(Box<GraphSettings>),
}

/// Graph sends this many mails of a mailbox at once; it serves four requests of an application at once (Microsoft, `throttling-limits.md`, Outlook).
const GRAPH_CONNECTIONS: usize = 2;

impl Transport {
    /// Mails at once, at most.
    pub(super) fn connections(&self) -> usize {
        match self {
            Self::Smtp(settings) => settings.server.connections.max(1),
            Self::Graph(_) => GRAPH_CONNECTIONS,
        }
    }

    /// Identifies the account, whose limits are counted together.
    pub(super) fn account(&self) -> String {
        match self {
            Self::Smtp(settings) => {
                let user = settings.server.login.as_ref().map(SmtpLogin::username).unwrap_or_default();
                format!("smtp {}:{} {user}", settings.server.host, settings.server.port)
            }
            Self::Graph(settings) => format!("graph {}", settings.mailbox),
        }
    }

    /// The mails that the account sends within a minute, if that is limited.
    pub(super) fn per_minute(&self) -> Option<usize> {
        let is_exchange = match self {
            Self::Smtp(settings) => is_exchange_online(&settings.server.host),
            Self::Graph(_) => true,
        };
        is_exchange.then_some(EXCHANGE)
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Smtp(settings) => format!("{}:{}", settings.server.host, settings.server.port),
            Self::Graph(settings) => format!("Microsoft Graph ({})", settings.mailbox),
        }
    }
}

/// Whether a mail server is Exchange Online's, in any cloud.
fn is_exchange_online(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    ["office365.com", "office365.us", "outlook.com", "outlook.cn"]
        .iter()
        .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}
