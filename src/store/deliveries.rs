//! Renewed refresh tokens that wait for their delivery to the product.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::key::Key;
use super::{Store, StoreError};
use crate::domain::Timestamp;
use crate::secret::Secret;

/// A message to be delivered.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id, the same for every attempt.
    pub message: String,
    /// The body; it contains a refresh token.
    pub body: Secret,
}

/// A waiting message.
#[derive(Debug, Clone)]
pub struct WaitingDelivery {
    /// Which integration.
    pub integration: String,
    /// Its id, the same for every attempt.
    pub message: String,
    /// The body; it contains a refresh token. `None` if it does not decrypt.
    pub body: Option<Secret>,
    /// Number of attempts so far.
    pub attempts: u32,
}

/// The state of the last message of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryState {
    /// When it was queued.
    pub created: Timestamp,
    /// When the product accepted it.
    pub delivered: Option<Timestamp>,
    /// Number of attempts so far.
    pub attempts: u32,
    /// When the next attempt is due.
    pub due: Timestamp,
    /// Why the last attempt failed.
    pub failure: Option<String>,
}

/// A message in the form for the database.
#[derive(Debug)]
pub(super) struct Sealed {
    message: String,
    body: Vec<u8>,
}

fn bound(integration: &str, message: &str) -> String {
    format!("consentry token delivery\0{integration}\0{message}")
}

/// Row id, binding and encrypted message of everything that was not accepted yet.
pub(super) fn rows(c: &Connection) -> Result<Vec<(i64, String, Vec<u8>)>, StoreError> {
    let mut statement =
        c.prepare("SELECT rowid, integration, message, sealed FROM deliveries WHERE delivered_at IS NULL")?;
    let row = |r: &rusqlite::Row<'_>| {
        Ok((r.get(0)?, bound(&r.get::<_, String>(1)?, &r.get::<_, String>(2)?), r.get(3)?))
    };
    Ok(statement.query_map([], row)?.collect::<Result<_, _>>()?)
}

pub(super) fn sealed(key: &Key, integration: &str, new: NewDelivery) -> Result<Sealed, StoreError> {
    let body = key.seal(&new.body, &bound(integration, &new.message))?;
    Ok(Sealed { message: new.message, body })
}

/// Queues a message; it replaces an older one that was not accepted yet.
pub(super) fn put(
    c: &Connection,
    integration: &str,
    sealed: &Sealed,
    at: Timestamp,
) -> Result<(), StoreError> {
    c.execute(
        "INSERT INTO deliveries (integration, message, sealed, created_at, due_at) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT (integration) DO UPDATE SET message = excluded.message, sealed = excluded.sealed, created_at = excluded.created_at,
             due_at = excluded.due_at, attempts = 0, delivered_at = NULL, failure = NULL",
        params![integration, sealed.message, sealed.body, at.0],
    )?;
    Ok(())
}

/// The longest pause before an attempt, in milliseconds: a message that is due later was saved while the clock was ahead.
const LONGEST_PAUSE: i64 = 3_600_000;

impl Store {
    /// Messages that are due, the longest waiting first, up to a limit.
    pub async fn due_deliveries(&self, now: Timestamp) -> Result<Vec<WaitingDelivery>, StoreError> {
        let key = self.key.clone();
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT integration, message, sealed, attempts FROM deliveries WHERE delivered_at IS NULL AND (due_at <= ?1 OR due_at > ?2) ORDER BY due_at LIMIT 32",
            )?;
            let waiting = |r: &rusqlite::Row<'_>| {
                let (integration, message): (String, String) = (r.get(0)?, r.get(1)?);
                let body = key.open(&r.get::<_, Vec<u8>>(2)?, &bound(&integration, &message));
                Ok(WaitingDelivery { integration, message, body, attempts: r.get(3)? })
            };
            Ok(statement.query_map([now.0, now.0.saturating_add(LONGEST_PAUSE)], waiting)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Waiting messages: integration, and when the next attempt is due.
    pub async fn waiting_deliveries(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.read(|c| {
            let mut statement =
                c.prepare_cached("SELECT integration, due_at FROM deliveries WHERE delivered_at IS NULL")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, Timestamp(row.get(1)?))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The product has accepted a message: only that fact is kept.
    pub async fn delivered(&self, integration: &str, message: &str, at: Timestamp) -> Result<(), StoreError> {
        let (integration, message) = (integration.to_owned(), message.to_owned());
        self.write(move |c| {
            let sql = "UPDATE deliveries SET delivered_at = ?1, attempts = attempts + 1, sealed = x'', failure = NULL
                       WHERE integration = ?2 AND message = ?3 AND delivered_at IS NULL";
            if c.execute(sql, params![at.0, integration, message])? == 1 {
                let event = super::Event { kind: "token_delivered".to_owned(), at, detail: String::new() };
                super::events::save_event(c, &integration, &event)?;
            }
            Ok(())
        })
        .await
    }

    /// Records that an attempt failed; the next one is due at `due`.
    pub async fn delivery_failed(
        &self,
        integration: &str,
        message: &str,
        failure: String,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        let (integration, message) = (integration.to_owned(), message.to_owned());
        self.write_relaxed(move |c| {
            let sql = "UPDATE deliveries SET attempts = attempts + 1, failure = ?1, due_at = ?2 WHERE integration = ?3 AND message = ?4";
            c.execute(sql, params![failure, due.0, integration, message])?;
            Ok(())
        })
        .await
    }

    /// The state of the last message of an integration.
    pub async fn delivery(&self, integration: &str) -> Result<Option<DeliveryState>, StoreError> {
        let integration = integration.to_owned();
        self.read(move |c| {
            let sql = "SELECT created_at, delivered_at, attempts, due_at, failure FROM deliveries WHERE integration = ?1";
            let state = |r: &rusqlite::Row<'_>| {
                Ok(DeliveryState {
                    created: Timestamp(r.get(0)?),
                    delivered: r.get::<_, Option<i64>>(1)?.map(Timestamp),
                    attempts: r.get(2)?,
                    due: Timestamp(r.get(3)?),
                    failure: r.get(4)?,
                })
            };
            Ok(c.prepare_cached(sql)?.query_row([integration], state).optional()?)
        })
        .await
    }

    /// Removes the message of an integration that does not deliver tokens any more.
    pub async fn forget_delivery(&self, integration: &str) -> Result<(), StoreError> {
        let integration = integration.to_owned();
        self.write(move |c| {
            Ok(c.execute("DELETE FROM deliveries WHERE integration = ?1", [integration]).map(drop)?)
        })
        .await
    }
}
