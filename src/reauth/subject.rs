//! The integration of a sign-in: what its stored token could see, and who is notified.

use std::sync::Arc;

use super::{Reauthentication, Refusal};
use crate::domain::{
    Announced, Check, DelayedMail, GoodView, Incident, KnownGroup, MailKind, Notification, Reason, Timestamp,
    announcements, one_line,
};
use crate::fleet::FleetEntry;
use crate::store::Authorization;

/// The settings of mails about sign-ins.
#[derive(Debug, Clone)]
pub struct Mailing {
    /// Mail addresses of the operators.
    pub operators: Arc<[String]>,
    /// Whether mail is configured.
    pub mail: bool,
    /// Whether resolved mails are sent.
    pub send_resolved: bool,
}

/// The integration of a sign-in: its names, its recipients, and what the stored token saw in its last successful probe.
#[derive(Debug)]
pub(super) struct Subject<'m> {
    entry: Arc<FleetEntry>,
    mailing: &'m Mailing,
}

impl Reauthentication {
    /// The integration of a sign-in; `None` for one that is no longer configured.
    pub(super) fn subject(&self, integration: &str) -> Option<Subject<'_>> {
        let entry = self.inner.fleet.get(integration)?;
        Some(Subject { entry, mailing: &self.inner.mailing })
    }
}

impl Subject<'_> {
    /// What the stored token saw in its last successful probe.
    pub(super) fn good_view(&self) -> Option<&GoodView> {
        self.entry.state.good_view.as_ref()
    }

    /// The groups that are required by name, with their last seen ids.
    pub(super) fn known_groups(&self) -> &[KnownGroup] {
        &self.entry.state.known_groups
    }

    /// Whether the stored token once had all permissions.
    fn had_consent(&self) -> bool {
        self.entry.state.check(Check::Consent).is_some_and(|c| c.last_success.is_some())
    }

    fn incident(
        &self,
        reason: Reason,
        items: Vec<String>,
        by: Option<&str>,
        origin: &str,
        at: Timestamp,
    ) -> Incident {
        Incident {
            items,
            by: by.map(|by| one_line(by, 256)),
            origin: (!origin.is_empty()).then(|| origin.to_owned()),
            ..self.entry.record.named(reason, at)
        }
    }

    /// The mails about a success.
    pub(super) fn announcements(
        &self,
        authorization: &str,
        by: Option<&str>,
        origin: &str,
        at: Timestamp,
    ) -> Vec<DelayedMail> {
        if !self.mailing.mail {
            return Vec::new();
        }
        // The reason is not shown: nothing is wrong.
        let incident = self.incident(Reason::TokenMissing, Vec::new(), by, origin, at);
        let FleetEntry { record, alert, .. } = &*self.entry;
        let Mailing { operators, send_resolved, .. } = self.mailing;
        let about = Announced { record, operators, alert: alert.as_ref(), send_resolved: *send_resolved };
        announcements(authorization, &incident, about)
    }

    /// The operators' mails about a token that sees less than the stored one; once per link, however often it is tried.
    pub(super) fn refusal(
        &self,
        row: &Authorization,
        refusal: &Refusal,
        by: Option<&str>,
        at: Timestamp,
    ) -> Vec<Notification> {
        let (reason, items) = match refusal {
            Refusal::SeesLess(items) => (Reason::GroupsNotVisible, items.clone()),
            // The stored token had all of them.
            Refusal::FewerPermissions(missing) if self.had_consent() || self.good_view().is_some() => {
                (Reason::PermissionMissing, missing.clone())
            }
            _ => return Vec::new(),
        };
        if !self.mailing.mail {
            return Vec::new();
        }
        let incident = self.incident(reason, items, Some(by.unwrap_or("somebody")), &row.origin, at);
        let link = if row.link.is_empty() { &row.id } else { &row.link };
        let people: std::collections::BTreeSet<&String> = self.mailing.operators.iter().collect();
        let mail = |recipient: &String| Notification {
            alert: format!("refused-{link}"),
            sequence: 0,
            kind: MailKind::Operator,
            recipient: recipient.clone(),
            for_admin: false,
            incident: incident.clone(),
        };
        people.into_iter().map(mail).collect()
    }
}
