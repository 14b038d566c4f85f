//! What a mail is to say, as plain values: decided with the verdict, saved with it, rendered when it is sent.

use super::integration::Access;
use super::reason::Reason;
use super::time::Timestamp;

/// Kinds of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MailKind {
    /// Something broke.
    Alert,
    /// It is still broken.
    Reminder,
    /// It is still broken, for another reason.
    Changed,
    /// It works again.
    Resolved,
    /// Somebody has renewed consent or token.
    Reauthenticated,
    /// For those who run Consentry.
    Operator,
    /// A sample.
    Test,
}

impl MailKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Alert,
        Self::Reminder,
        Self::Changed,
        Self::Resolved,
        Self::Reauthenticated,
        Self::Operator,
        Self::Test,
    ];

    /// The label value and header word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Reminder => "reminder",
            Self::Changed => "changed",
            Self::Resolved => "resolved",
            Self::Reauthenticated => "reauthenticated",
            Self::Operator => "operator",
            Self::Test => "test",
        }
    }

    /// The kind with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.label() == label)
    }
}

/// Where the mail's button leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// Consentry's own page, with a signed link made when the mail is sent.
    Builtin,
    /// A fixed address.
    Url(String),
    /// No button: nothing an admin can do there.
    None,
}

/// A mail that did not reach its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undeliverable {
    /// To whom it was.
    pub address: String,
    /// What stands in its way.
    pub obstacle: Obstacle,
}

/// Why a mail does not reach its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The mail server refuses this recipient for good.
    Recipient,
    /// The mail server refuses this mail for good, after it has read it.
    Content,
    /// The mail server took the mail and never said whether it accepts it: it may have arrived.
    Silence,
}

impl Obstacle {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Recipient, Self::Content, Self::Silence];

    /// The word under which it is saved.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Content => "content",
            Self::Silence => "silence",
        }
    }

    /// The obstacle with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.label() == label)
    }
}

/// What happened, to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Name of the integration (of the first one, when a cause has many).
    pub integration: String,
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Application id.
    pub client_id: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Whose rights the integration uses.
    pub access: Access,
    /// What is wrong, or was.
    pub reason: Reason,
    /// Missing permissions or groups.
    pub items: Vec<String>,
    /// `AADSTS…` or Graph's error code.
    pub code: Option<String>,
    /// Correlation or request id.
    pub request_id: Option<String>,
    /// Until when a deleted application can be restored.
    pub restorable_until: Option<Timestamp>,
    /// Permissions that re-authentication will ask for.
    pub permissions: Vec<String>,
    /// When it broke.
    pub since: Timestamp,
    /// When this was decided.
    pub at: Timestamp,
    /// Where the button leads.
    pub link: LinkTarget,
    /// A mail that could not be delivered: then this tells the operators so.
    pub undeliverable: Option<Undeliverable>,
    /// So many integrations suffer from it by now, where operators are notified of a cause again.
    pub affected: Option<u32>,
    /// When it was re-authenticated, where that has ended the alert.
    pub renewed: Option<Timestamp>,
    /// Who re-authenticated, for [`MailKind::Reauthenticated`].
    pub by: Option<String>,
    /// From which address, as far as it is known: an address, or `through ADDRESS`.
    pub origin: Option<String>,
}

/// A mail to one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The alert it belongs to: stable for one episode of failure.
    pub alert: String,
    /// Counts the notices of an alert: 0 for the first.
    pub sequence: u32,
    /// Its kind.
    pub kind: MailKind,
    /// Mail address.
    pub recipient: String,
    /// What it says.
    pub incident: Incident,
}
