//! What a mail says, as plain values: decided and saved with the verdict, rendered when the mail is sent.

use std::collections::BTreeSet;

use super::brake::{HeldMails, Hold};
use super::integration::Access;
use super::reason::{Audience, Reason};
use super::time::Timestamp;

/// Kinds of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MailKind {
    /// An integration failed.
    Alert,
    /// It is still broken.
    Reminder,
    /// It is still broken, for another reason.
    Changed,
    /// It works again.
    Resolved,
    /// Somebody re-authenticated the integration.
    Reauthenticated,
    /// For whoever runs Consentry.
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

    /// The kind of a mail with notices of these kinds: the most urgent one.
    pub fn of_group(kinds: impl IntoIterator<Item = Self>) -> Option<Self> {
        kinds.into_iter().min_by_key(|kind| kind.urgency())
    }

    /// The lowest number is the most urgent.
    pub const fn urgency(self) -> u8 {
        match self {
            Self::Alert => 0,
            Self::Changed => 1,
            Self::Reminder => 2,
            Self::Operator => 3,
            Self::Reauthenticated => 4,
            Self::Resolved => 5,
            Self::Test => 6,
        }
    }

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

/// Where the button of the mail leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// Consentry's own page, with a signed link made when the mail is sent.
    Builtin,
    /// A fixed address.
    Url(String),
    /// No button: there is nothing that an admin can do there.
    None,
}

/// A mail that did not reach its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undeliverable {
    /// Its recipient.
    pub address: String,
    /// Why it was not delivered.
    pub obstacle: Obstacle,
}

/// Why a mail does not reach its recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The mail server rejected the recipient permanently.
    Recipient,
    /// The mail server rejected the mail permanently, after it had read it.
    Content,
    /// The mail server did not respond after the mail was sent: it may have been delivered.
    Silence,
}

impl Obstacle {
    /// Every obstacle.
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

/// What operators are told of the brake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrakeNotice {
    /// The hold as it began.
    pub hold: Hold,
    /// What it holds when the mail is sent; nothing if it is over by then.
    pub held: HeldMails,
}

impl BrakeNotice {
    /// The mails to the operators about a hold.
    pub fn mails(hold: &Hold, operators: &[String]) -> Vec<Notification> {
        let people: BTreeSet<&String> = operators.iter().collect();
        let incident = Incident::of_fleet(hold);
        let mail = |person: &String| Notification {
            alert: format!("brake-{}", hold.id),
            sequence: 0,
            kind: MailKind::Operator,
            recipient: person.clone(),
            for_admin: false,
            incident: incident.clone(),
        };
        people.into_iter().map(mail).collect()
    }
}

/// What happened to which integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Name of the integration (of one member, if it is about a cause).
    pub integration: String,
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Name of the application in the configuration.
    pub app_name: String,
    /// Application id.
    pub client_id: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Whose permissions the integration uses.
    pub access: Access,
    /// The reason of the failure, which may be over.
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
    /// When it failed.
    pub since: Timestamp,
    /// When this was decided.
    pub at: Timestamp,
    /// Where the button leads.
    pub link: LinkTarget,
    /// A mail that could not be delivered, if this one reports that to the operators.
    pub undeliverable: Option<Undeliverable>,
    /// The brake, if the mail tells the operators of it.
    pub brake: Option<BrakeNotice>,
    /// Number of integrations that are affected, if operators are notified of a cause again.
    pub affected: Option<u32>,
    /// The mail says once more what its recipients know already.
    pub reminds: bool,
    /// The administrators in whose place its recipients get it.
    pub instead_of: Vec<String>,
    /// When it was re-authenticated, if that has ended the alert.
    pub renewed: Option<Timestamp>,
    /// Who re-authenticated, for [`MailKind::Reauthenticated`].
    pub by: Option<String>,
    /// From which address, if it is known: an address, or `through ADDRESS`.
    pub origin: Option<String>,
}

impl Incident {
    /// The brake holds mails of the whole fleet: the incident of no integration.
    fn of_fleet(hold: &Hold) -> Self {
        Self {
            integration: String::new(),
            display_name: String::new(),
            app: String::new(),
            app_name: String::new(),
            client_id: String::new(),
            tenant: String::new(),
            access: Access::Delegated,
            reason: Reason::Unclassified,
            items: Vec::new(),
            code: None,
            request_id: None,
            restorable_until: None,
            permissions: Vec::new(),
            since: hold.since,
            at: hold.since,
            link: LinkTarget::None,
            undeliverable: None,
            brake: Some(BrakeNotice { hold: hold.clone(), held: HeldMails::default() }),
            affected: None,
            reminds: false,
            instead_of: Vec::new(),
            renewed: None,
            by: None,
            origin: None,
        }
    }
}

/// A mail to one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The alert it belongs to: stable for one episode of failure.
    pub alert: String,
    /// Number of the notice within the alert: 0 for the first.
    pub sequence: u32,
    /// Its kind.
    pub kind: MailKind,
    /// Mail address.
    pub recipient: String,
    /// It goes to an administrator of the tenant, not to an operator in their place.
    pub for_admin: bool,
    /// What it says.
    pub incident: Incident,
}

impl Notification {
    /// Notices to one person with the same key may go into one mail: those of one application, separately for what administrators read and for what is
    /// the operators' own. `None` for a notice that goes alone.
    pub fn group_key(&self) -> Option<String> {
        let incident = &self.incident;
        let is_refused_sign_in = self.kind == MailKind::Operator && incident.by.is_some();
        if incident.undeliverable.is_some()
            || incident.brake.is_some()
            || is_refused_sign_in
            || self.kind == MailKind::Test
        {
            return None;
        }
        let readers = if self.is_admins() { "admins" } else { "operators" };
        Some(format!("{readers}/{}", incident.app_name))
    }

    /// Whether reminders of the same alert may follow.
    pub fn may_be_repeated(&self) -> bool {
        let about_failure = matches!(
            self.kind,
            MailKind::Alert | MailKind::Changed | MailKind::Reminder | MailKind::Operator
        );
        about_failure && self.group_key().is_some() && self.incident.reason.audience() == Audience::Admins
    }

    /// Whether it is worded for administrators: it goes to one, or to an operator in their place.
    pub fn is_admins(&self) -> bool {
        self.for_admin || !self.incident.instead_of.is_empty()
    }

    /// The operators are notified of a mail that is not delivered, once for each address, which `fingerprint` tells apart. A mail to an operator
    /// is reported to the other operators, and a report that is not delivered to nobody.
    pub fn reports(&self, obstacle: Obstacle, fingerprint: &str, operators: &[String]) -> Vec<Self> {
        if self.incident.undeliverable.is_some() {
            return Vec::new();
        }
        let undeliverable = Some(Undeliverable { address: self.recipient.clone(), obstacle });
        let incident = Incident { undeliverable, link: LinkTarget::None, ..self.incident.clone() };
        let report = |operator: &String| Self {
            alert: format!("undeliverable-{}-{fingerprint}", self.alert),
            sequence: self.sequence,
            kind: MailKind::Operator,
            recipient: operator.clone(),
            for_admin: false,
            incident: incident.clone(),
        };
        operators.iter().filter(|operator| **operator != self.recipient).map(report).collect()
    }
}
