//! Who is notified, and when a failure counts.

use std::time::Duration;

use crate::domain::{
    AlertPolicy, BrakePolicy, CausePolicy, HeldPeriod, IntegrationRecord, Snooze, Thresholds,
};

/// Who is notified, and when a failure counts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How often something must be seen.
    pub thresholds: Thresholds,
    /// Whether mail is configured.
    pub mail: bool,
    /// Whoever runs Consentry.
    pub operators: Vec<String>,
    /// Whether the end of an alert is mailed.
    pub send_resolved: bool,
    /// Pauses between the notices of a failure that lasts.
    pub reminders: Vec<Duration>,
    /// When mails to administrators are held.
    pub brake: BrakePolicy,
    /// How long mails wait for others to the same person.
    pub group_wait: Duration,
}

impl Policy {
    /// Who is notified of an integration's alerts.
    pub(super) fn alerts<'a>(
        &'a self,
        record: &'a IntegrationRecord,
        snooze: Option<&Snooze>,
        held: Option<HeldPeriod>,
    ) -> AlertPolicy<'a> {
        // What was decided within these times before the hold may have been held, too.
        let earlier = self.brake.interval.saturating_add(self.group_wait);
        AlertPolicy {
            held: held.map(|held| HeldPeriod { from: held.from.minus(earlier), ..held }),
            snoozed_until: snooze.map(|snooze| snooze.until),
            notify: record.notify,
            reminders: &self.reminders,
            admins: &record.admins,
            operators: &self.operators,
            mail: self.mail,
            send_resolved: self.send_resolved,
        }
    }

    /// The recipients of mails about causes.
    pub(super) fn causes(&self) -> CausePolicy<'_> {
        CausePolicy {
            operators: if self.mail { &self.operators } else { &[] },
            send_resolved: self.send_resolved,
        }
    }
}
