//! The history: what happened to each integration, and to the fleet as a whole.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Kind, Store, StoreError};
use crate::domain::Timestamp;

/// An entry in the history of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `broken`, `changed`, `recovered`, `token_stored`, …
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// A reason label, or the source of the change.
    pub detail: String,
}

/// Number of events that are kept for an integration.
const HISTORY: u32 = 200;

impl Store {
    /// Saves an event that does not come from a probe.
    ///
    /// # Errors
    /// The database returns an error; then nothing is saved.
    pub async fn add_event(&self, integration: &str, event: Event) -> Result<(), StoreError> {
        let name = integration.to_owned();
        self.run(Kind::Durable, move |c| save_event(c, &name, &event)).await
    }

    /// The newest events of an integration, newest first.
    pub async fn events(&self, integration: &str) -> Result<Vec<Event>, StoreError> {
        let name = integration.to_owned();
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT kind, at, detail FROM events WHERE integration = ?1 ORDER BY id DESC LIMIT ?2",
            )?;
            let event = |r: &rusqlite::Row<'_>| {
                Ok(Event { kind: r.get(0)?, at: Timestamp(r.get(1)?), detail: r.get(2)? })
            };
            Ok(statement.query_map(params![name, HISTORY], event)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }
}

/// Saves an event. The events of the fleet have an empty name.
pub(super) fn save_event(c: &Connection, integration: &str, event: &Event) -> Result<(), StoreError> {
    c.prepare_cached("INSERT INTO events (integration, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![integration, event.at.0, event.kind, event.detail])?;
    let oldest: Option<i64> = c
        .prepare_cached("SELECT id FROM events WHERE integration = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![integration, HISTORY], |r| r.get(0))
        .optional()?;
    if let Some(oldest) = oldest {
        c.prepare_cached("DELETE FROM events WHERE integration = ?1 AND id <= ?2")?
            .execute(params![integration, oldest])?;
    }
    Ok(())
}
