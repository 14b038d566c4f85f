//! Alerts of which nobody is reminded for a while.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::events::{Event, save_event};
use super::{Store, StoreError};
use crate::domain::{Snooze, Timestamp};

impl Store {
    /// All snoozes, by integration. One that was made while the wall clock was ahead lasts as long as it was meant to, from `now` on.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn snoozes(&self, now: Timestamp) -> Result<HashMap<String, Snooze>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare("SELECT integration, alert, until, since FROM snoozes")?;
            let snooze = |r: &rusqlite::Row<'_>| {
                let (until, since) = (Timestamp(r.get(2)?), Timestamp(r.get(3)?));
                let until = if since > now { now.plus(until.since(since)) } else { until };
                Ok((r.get(0)?, Snooze { alert: r.get(1)?, until }))
            };
            Ok(statement.query_map([], snooze)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Snoozes the reminders of an integration's alert; `who` is for the history.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn snooze(
        &self,
        integration: &str,
        snooze: Snooze,
        who: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let integration = integration.to_owned();
        self.write(move |c| {
            c.execute(
                "INSERT OR REPLACE INTO snoozes (integration, alert, until, since) VALUES (?1, ?2, ?3, ?4)",
                params![integration, snooze.alert, snooze.until.0, now.0],
            )?;
            save_event(c, &integration, &Event { kind: "snoozed".to_owned(), at: now, detail: who })
        })
        .await
    }

    /// Ends a snooze before its time; `who` is for the history. Returns whether there was one.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn end_snooze(
        &self,
        integration: &str,
        who: String,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let integration = integration.to_owned();
        self.write(move |c| {
            let ended = forget(c, &integration)?;
            if ended {
                let event = Event { kind: "snooze_ended".to_owned(), at: now, detail: who };
                save_event(c, &integration, &event)?;
            }
            Ok(ended)
        })
        .await
    }
}

/// Deletes the snooze of an integration whose alert has ended.
pub(super) fn forget(c: &Connection, integration: &str) -> Result<bool, StoreError> {
    Ok(c.prepare_cached("DELETE FROM snoozes WHERE integration = ?1")?.execute([integration])? > 0)
}
