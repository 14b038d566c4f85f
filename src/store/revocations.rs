//! Which links are valid: a generation counter for each integration. A link contains the generation in which it was made; a success and a
//! revocation begin the next one. No times are compared: a clock that was ahead for a while must not make later links invalid.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::events::{Event, save_event};
use super::{Store, StoreError};
use crate::domain::Timestamp;

/// The state of the links of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinksState {
    /// The generation in which links are made now.
    pub generation: i64,
    /// Links of the first version, which have no generation, are invalid if they were made at or before this time.
    pub not_after: Option<Timestamp>,
}

impl LinksState {
    /// Whether a link is invalid: it, or another one of its generation, has led to a success, or all of them were revoked. `generation` is
    /// `None` for a link of the first version.
    pub fn is_dead(&self, generation: Option<i64>, issued: Timestamp) -> bool {
        match generation {
            Some(generation) => generation < self.generation,
            None => self.generation > 0 || self.not_after.is_some_and(|dead| issued <= dead),
        }
    }
}

impl Store {
    /// The state of the links of an integration.
    pub async fn links(&self, integration: &str) -> Result<LinksState, StoreError> {
        let integration = integration.to_owned();
        self.read(move |c| links(c, &integration)).await
    }

    /// Makes all existing links of an integration invalid, and the sign-ins that they began.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn revoke_links(
        &self,
        integration: &str,
        by: &'static str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let integration = integration.to_owned();
        self.write(move |c| {
            next_generation(c, &integration, None)?;
            save_event(
                c,
                &integration,
                &Event { kind: "links_revoked".to_owned(), at, detail: by.to_owned() },
            )
        })
        .await
    }

    /// Saves that a link was made for somebody to pass on.
    pub async fn link_made(&self, integration: &str, detail: &str, at: Timestamp) -> Result<(), StoreError> {
        let (integration, detail) = (integration.to_owned(), detail.to_owned());
        self.write(move |c| save_event(c, &integration, &Event { kind: "link_made".to_owned(), at, detail }))
            .await
    }
}

pub(super) fn links(c: &Connection, integration: &str) -> Result<LinksState, StoreError> {
    let sql = "SELECT generation, not_after FROM revocations WHERE integration = ?1";
    let state = c.prepare_cached(sql)?.query_row([integration], |r| {
        let not_after: i64 = r.get(1)?;
        // Rows that were inserted since links have generations contain no time.
        Ok(LinksState { generation: r.get(0)?, not_after: (not_after > 0).then_some(Timestamp(not_after)) })
    });
    Ok(state.optional()?.unwrap_or_default())
}

/// Begins the next generation. A database that was restored from a copy may have a lower generation than the link that has just led to a
/// success: that link must become invalid as well.
pub(super) fn next_generation(
    c: &Connection,
    integration: &str,
    used: Option<i64>,
) -> Result<(), StoreError> {
    let next = links(c, integration)?.generation.max(used.unwrap_or_default()).saturating_add(1);
    c.execute(
        "INSERT INTO revocations (integration, not_after, generation) VALUES (?1, 0, ?2)
         ON CONFLICT (integration) DO UPDATE SET generation = excluded.generation",
        params![integration, next],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_die_by_generation_and_old_ones_by_time() {
        let at = Timestamp::from_seconds;
        let state =
            |generation, not_after: Option<i64>| LinksState { generation, not_after: not_after.map(at) };
        for (sentence, state, generation, issued, dead) in [
            ("the first link of all", state(0, None), Some(0), 100, false),
            ("of this generation, made while the clock was ahead", state(3, None), Some(3), 9_000_000, false),
            ("of this generation, made while the clock was behind", state(3, None), Some(3), 1, false),
            ("of the generation before", state(3, None), Some(2), 9_000_000, true),
            (
                "of a generation that a restored database does not know yet",
                state(3, None),
                Some(5),
                100,
                false,
            ),
            ("of the first version, never used", state(0, None), None, 100, false),
            ("of the first version, used before the upgrade", state(0, Some(100)), None, 100, true),
            ("of the first version, made after the use", state(0, Some(100)), None, 101, false),
            ("of the first version, used since", state(1, Some(100)), None, 101, true),
            (
                "a new one after the clock was ahead at the time of an old use",
                state(0, Some(9_000_000)),
                Some(0),
                100,
                false,
            ),
        ] {
            assert_eq!(state.is_dead(generation, at(issued)), dead, "{sentence}");
        }
    }
}
