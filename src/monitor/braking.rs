//! The evaluator's side of the brake: counts failures, saves what follows from them, and carries out what people do with held mails.

use super::evaluator::{Evaluator, new_id};
use super::policy::Policy;
use crate::domain::{BrakeAction, BrakeChange, BrakeNotice, HeldMails, HeldPeriod, Hold, Timestamp};
use crate::store::{ProbeRecord, StoreError};

impl Evaluator {
    /// Counts an integration that has broken such that an administrator would be mailed. A change of the brake is saved with the record, also one that an
    /// earlier transaction could not save.
    pub(super) fn note_failure(&self, broken: Option<&str>, policy: &Policy, record: &mut ProbeRecord) {
        let mut brake = self.brake.lock();
        if let Some(name) = broken {
            brake.broke(name, self.outputs.fleet.size(), policy.brake, record.at, new_id);
        }
        record.brake = brake.unsaved();
        if let Some(BrakeChange::Holds(hold)) = &record.brake
            && policy.mail
        {
            tracing::warn!(
                broken = hold.broken,
                integrations = hold.integrations,
                "so much breaks at once that mails to administrators are held; the operators are notified"
            );
            record.notifications.extend(BrakeNotice::mails(hold, &policy.operators));
        }
    }

    /// The present hold up to now, or the last one.
    pub(super) fn held_period(&self, now: Timestamp) -> Option<HeldPeriod> {
        self.brake.lock().held_period(now)
    }

    /// The hold, while it lasts.
    pub fn hold(&self, now: Timestamp) -> Option<Hold> {
        self.brake.lock().hold(now).cloned()
    }

    /// The hold, and what it holds. If the database cannot be read now, it is not known what is held.
    pub async fn held(&self, now: Timestamp) -> Option<(Hold, HeldMails)> {
        let hold = self.hold(now)?;
        match self.outputs.store.brake().await {
            Ok(saved) => saved.filter(|(saved, _)| saved.id == hold.id),
            Err(_) => Some((hold, HeldMails::default())),
        }
    }

    /// Does something with the mails that a hold holds; `who` is for the history. Returns the number of notices, or `None` if that hold is over.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn act_on_brake(
        &self,
        id: &str,
        action: BrakeAction,
        who: &str,
        now: Timestamp,
    ) -> Result<Option<usize>, StoreError> {
        let longer = self.policy().brake.hold;
        let acted = self.outputs.store.act_on_brake(id, action, longer, who.to_owned(), now).await?;
        let Some((notices, until)) = acted else { return Ok(None) };
        tracing::info!(action = action.label(), notices, who, "somebody has decided about the held mails");
        match action {
            BrakeAction::Release | BrakeAction::Discard => self.brake.lock().ended(id, now),
            BrakeAction::HoldLonger => self.brake.lock().prolonged(id, until),
        }
        self.outputs.outbox.notify_one();
        Ok(Some(notices))
    }

    /// Releases held mails if the brake is switched off now.
    pub(super) async fn release_if_switched_off(&self, now: Timestamp) {
        let Some(hold) = self.hold(now).filter(|_| self.policy().brake.hold.is_zero()) else { return };
        if let Err(error) = self.act_on_brake(&hold.id, BrakeAction::Release, "the configuration", now).await
        {
            tracing::error!(%error, "the brake is switched off, but cannot release the mails that it holds");
        }
    }
}
