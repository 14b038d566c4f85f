//! Who is notified, and when something counts.

use crate::domain::{AlertPolicy, CausePolicy, IntegrationRecord, Thresholds};

/// Who is notified, and when something counts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How often something must be seen.
    pub thresholds: Thresholds,
    /// Whether mail is configured at all.
    pub mail: bool,
    /// Who runs Consentry.
    pub operators: Vec<String>,
    /// Whether the end of an alert is mailed.
    pub send_resolved: bool,
}

impl Policy {
    /// Who is notified of an integration's alerts.
    pub(super) fn alerts<'a>(&'a self, record: &'a IntegrationRecord) -> AlertPolicy<'a> {
        AlertPolicy {
            admins: &record.admins,
            operators: &self.operators,
            mail: self.mail,
            send_resolved: self.send_resolved,
        }
    }

    /// Who is notified of causes.
    pub(super) fn causes(&self) -> CausePolicy<'_> {
        CausePolicy {
            operators: if self.mail { &self.operators } else { &[] },
            send_resolved: self.send_resolved,
        }
    }
}
