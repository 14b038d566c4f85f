//! The history: what happened to each integration, and to the fleet as a whole.

use std::time::Duration;

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

/// Number of events of an integration that its page shows.
const HISTORY: u32 = 200;

/// How long events are kept.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Number of events that are kept for an integration, whatever happens to it.
const MOST: u32 = 10_000;

/// An event with its place in the history of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetEvent {
    /// Its number: later events have higher ones.
    pub id: i64,
    /// The integration; empty for an event of the fleet.
    pub integration: String,
    /// What happened.
    pub event: Event,
}

/// Which events of the fleet are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only with this reason's label.
    pub reason: Option<String>,
    /// Only of this integration.
    pub integration: Option<String>,
    /// Only of these integrations.
    pub integrations: Option<Vec<String>>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Only with lower numbers.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

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

impl Store {
    /// Events of the whole fleet, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn fleet_events(&self, wanted: EventQuery) -> Result<Vec<FleetEvent>, StoreError> {
        let EventQuery { kind, reason, integration, integrations, since, until, before, limit } = wanted;
        let names = integrations.map(|names| serde_json::to_string(&names).unwrap_or_default());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, integration, kind, at, detail FROM events
                 WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR detail = ?2) AND (?3 IS NULL OR integration = ?3)
                   AND (?4 IS NULL OR integration IN (SELECT value FROM json_each(?4)))
                   AND (?5 IS NULL OR at >= ?5) AND (?6 IS NULL OR at < ?6) AND (?7 IS NULL OR id < ?7)
                 ORDER BY id DESC LIMIT ?8",
            )?;
            let event = |r: &rusqlite::Row<'_>| {
                let event = Event { kind: r.get(2)?, at: Timestamp(r.get(3)?), detail: r.get(4)? };
                Ok(FleetEvent { id: r.get(0)?, integration: r.get(1)?, event })
            };
            let (since, until) = (since.map(|at| at.0), until.map(|at| at.0));
            let found = statement.query_map(
                params![kind, reason, integration, names, since, until, before, limit],
                event,
            )?;
            Ok(found.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }
}

/// Saves an event, and deletes those that are too old. The events of the fleet have an empty name.
pub(super) fn save_event(c: &Connection, integration: &str, event: &Event) -> Result<(), StoreError> {
    c.prepare_cached("INSERT INTO events (integration, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![integration, event.at.0, event.kind, event.detail])?;
    // A few at a time: a clock that was ahead for a moment deletes little.
    c.prepare_cached("DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ?1 LIMIT 10)")?
        .execute([event.at.minus(KEPT).0])?;
    let oldest: Option<i64> = c
        .prepare_cached("SELECT id FROM events WHERE integration = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![integration, MOST], |r| r.get(0))
        .optional()?;
    if let Some(oldest) = oldest {
        c.prepare_cached("DELETE FROM events WHERE integration = ?1 AND id <= ?2")?
            .execute(params![integration, oldest])?;
    }
    Ok(())
}
