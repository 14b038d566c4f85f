//! The evaluator's side of snoozes: a snooze belongs to one alert, and ends with it.

use super::evaluator::Evaluator;
use crate::domain::{Snooze, Timestamp};
use crate::fleet::FleetEntry;
use crate::store::StoreError;

impl Evaluator {
    /// The snooze of an entry's open alert, while it lasts.
    pub(super) fn snooze_of(&self, entry: &FleetEntry, now: Timestamp) -> Option<Snooze> {
        let alert = entry.alert.as_ref()?;
        let snoozes = self.snoozes.lock();
        snoozes
            .get(&entry.record.name)
            .filter(|snooze| snooze.alert == alert.id && now < snooze.until)
            .cloned()
    }

    /// Snoozes the reminders of an integration until a time; `who` is for the history. Returns whether it is broken, so that there is something to snooze.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn snooze(
        &self,
        name: &str,
        until: Timestamp,
        who: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let _steady = self.steady().await;
        let alert = self.outputs.fleet.get(name).and_then(|entry| Some(entry.alert.as_ref()?.id.clone()));
        let Some(alert) = alert else { return Ok(false) };
        let snooze = Snooze { alert, until };
        self.outputs.store.snooze(name, snooze.clone(), who.to_owned(), now).await?;
        tracing::info!(integration = name, who, "somebody has snoozed the reminders");
        self.snoozes.lock().insert(name.to_owned(), snooze);
        self.show_snooze(name, now);
        Ok(true)
    }

    /// Ends a snooze before its time. Returns whether there was one.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn end_snooze(&self, name: &str, who: &str, now: Timestamp) -> Result<bool, StoreError> {
        let ended = self.outputs.store.end_snooze(name, who.to_owned(), now).await?;
        self.snoozes.lock().remove(name);
        self.show_snooze(name, now);
        Ok(ended)
    }

    /// Publishes the snooze of an integration. What a probe publishes at the same time stays.
    pub(super) fn show_snooze(&self, name: &str, now: Timestamp) {
        self.outputs.fleet.update(name, |entry| entry.snooze = self.snooze_of(entry, now));
        if let Some(entry) = self.outputs.fleet.get(name) {
            self.outputs.published.set(&entry);
        }
    }
}
