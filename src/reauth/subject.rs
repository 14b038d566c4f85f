//! What a sign-in is measured by, and who is told of it.

use std::sync::Arc;

use super::Refusal;
use crate::domain::{
    Access, GoodView, Incident, KnownGroup, LinkTarget, MailKind, Notification, Reason, Timestamp, one_line,
};
use crate::store::{Announcement, Authorization};

/// An integration as a sign-in meets it: its names, its people, and what the stored token saw when it was well last.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Name in the configuration.
    pub integration: String,
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Application id.
    pub client_id: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Delegated or application access.
    pub access: Access,
    /// Who administers it.
    pub admins: Vec<String>,
    /// Who runs Consentry.
    pub operators: Arc<[String]>,
    /// Whether mail is configured at all.
    pub mail: bool,
    /// Whether the end of an alert is mailed.
    pub send_resolved: bool,
    /// What the stored token saw at its last good probe.
    pub good_view: Option<GoodView>,
    /// The groups that are required by name, and with which ids they were seen.
    pub known_groups: Vec<KnownGroup>,
    /// The stored token has had all permissions.
    pub had_consent: bool,
}

/// Finds an integration as a sign-in meets it.
pub type FindSubject<'f> = &'f (dyn Fn(&str) -> Option<Subject> + Send + Sync);

impl Subject {
    fn incident(
        &self,
        reason: Reason,
        items: Vec<String>,
        (by, origin): (Option<&str>, &str),
        at: Timestamp,
    ) -> Incident {
        Incident {
            integration: self.integration.clone(),
            display_name: self.display_name.clone(),
            app: self.app.clone(),
            client_id: self.client_id.clone(),
            tenant: self.tenant.clone(),
            access: self.access,
            reason,
            items,
            code: None,
            request_id: None,
            restorable_until: None,
            permissions: Vec::new(),
            since: at,
            at,
            link: LinkTarget::None,
            undeliverable: None,
            by: by.map(|by| one_line(by, 256)),
            origin: (!origin.is_empty()).then(|| origin.to_owned()),
            affected: None,
            renewed: None,
        }
    }

    /// The mail about a success: to the admins and the operators, once each person.
    pub(super) fn announcement(&self, by: Option<&str>, origin: &str, at: Timestamp) -> Option<Announcement> {
        // The reason is not shown: nothing is wrong.
        let incident = self.incident(Reason::TokenMissing, Vec::new(), (by, origin), at);
        let recipients = self.admins.iter().chain(self.operators.iter()).cloned().collect();
        self.mail.then_some(Announcement { recipients, resolved_follows: self.send_resolved, incident })
    }

    /// The operators' mails about a token that sees less than the stored one: once for each link, however often it is tried.
    pub(super) fn refusal(
        &self,
        row: &Authorization,
        (refusal, by): (&Refusal, Option<&str>),
        at: Timestamp,
    ) -> Vec<Notification> {
        let (reason, items) = match refusal {
            Refusal::SeesLess(items) => (Reason::GroupsNotVisible, items.clone()),
            // The stored one had all of them.
            Refusal::FewerPermissions(missing) if self.had_consent || self.good_view.is_some() => {
                (Reason::PermissionMissing, missing.clone())
            }
            _ => return Vec::new(),
        };
        if !self.mail {
            return Vec::new();
        }
        let incident = self.incident(reason, items, (Some(by.unwrap_or("somebody")), &row.origin), at);
        let link = if row.link.is_empty() { &row.id } else { &row.link };
        let people: std::collections::BTreeSet<&String> = self.operators.iter().collect();
        let mail = |recipient: &String| Notification {
            alert: format!("refused-{link}"),
            sequence: 0,
            kind: MailKind::Operator,
            recipient: recipient.clone(),
            incident: incident.clone(),
        };
        people.into_iter().map(mail).collect()
    }
}
