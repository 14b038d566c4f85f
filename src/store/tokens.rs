//! Refresh tokens, encrypted and bound to their integration.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::events::{Event, save_event};
use super::{Key, Store, StoreError};
use crate::domain::Timestamp;
use crate::secret::Secret;

/// Whose token it is. A name that is given to another application or tenant has no token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenId {
    /// Name of the integration.
    pub integration: String,
    /// Application id.
    pub client_id: String,
    /// Tenant as configured.
    pub tenant: String,
}

impl TokenId {
    /// Bound into the encryption: a row that is copied to another integration does not decrypt.
    fn bound(&self) -> String {
        format!("consentry refresh token\0{}\0{}\0{}", self.integration, self.client_id, self.tenant)
    }
}

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// The token to use first.
    pub current: Secret,
    /// A token that has worked before, to use if the current one is rejected.
    pub previous: Option<Secret>,
    /// Changes with every write.
    pub generation: i64,
}

/// The newest token of an integration that could not be saved. If tokens are single-use, the previous one is already invalid.
#[derive(Clone)]
pub(super) struct Unsaved {
    generation: i64,
    current: Secret,
    previous: Secret,
    at: Timestamp,
}

impl Store {
    fn unsaved(&self) -> parking_lot::MutexGuard<'_, HashMap<TokenId, Unsaved>> {
        self.unsaved.lock()
    }

    /// Tries again to save tokens that could not be saved.
    pub(super) async fn save_unsaved(&self) {
        let waiting: Vec<(TokenId, Unsaved)> = self.unsaved().drain().collect();
        for (id, token) in waiting {
            if let Err(error) =
                self.save_rotated(&id, token.generation, &token.current, &token.previous, token.at).await
            {
                tracing::error!(integration = id.integration, %error, "a rotated refresh token is lost: it could not be saved");
            }
        }
    }

    /// The token of an integration: the newest one, even if it could not be saved yet.
    ///
    /// # Errors
    /// The database returns an error, or the row does not decrypt.
    pub async fn token(&self, id: &TokenId) -> Result<Option<StoredToken>, StoreError> {
        let waiting = self.unsaved().get(id).cloned();
        let (id, key) = (id.clone(), self.key.clone());
        self.read(move |c| {
            let row = c
                .prepare_cached(
                    "SELECT current, previous, generation FROM tokens WHERE integration = ?1 AND client_id = ?2 AND tenant = ?3",
                )?
                .query_row(params![id.integration, id.client_id, id.tenant], |r| {
                    Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, Option<Vec<u8>>>(1)?, r.get(2)?))
                })
                .optional()?;
            let Some((current, previous, generation)) = row else { return Ok(None) };
            let damaged = || {
                StoreError::Damaged(format!(
                    "the stored token of {} does not decrypt: it was written with another key, or changed from outside; \
                     restore the key, or re-authenticate",
                    id.integration
                ))
            };
            let current = key.open(&current, &id.bound()).ok_or_else(damaged)?;
            Ok(Some(match waiting {
                // A token that was stored meanwhile has another generation, and counts.
                Some(newest) if newest.generation == generation => {
                    StoredToken { current: newest.current, previous: Some(newest.previous), generation }
                }
                _ => StoredToken { current, previous: previous.and_then(|p| key.open(&p, &id.bound())), generation },
            }))
        })
        .await
    }

    /// Saves a rotated token, unless the stored token has changed since `generation`. `worked` becomes the previous one. Returns the new
    /// generation, or `None` if the stored token has changed.
    ///
    /// # Errors
    /// The database returns an error. Then the token is kept in memory, and [`Store::token`] returns it.
    pub async fn save_rotated(
        &self,
        id: &TokenId,
        generation: i64,
        rotated: &Secret,
        worked: &Secret,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let current = self.key.seal(rotated, &id.bound())?;
        let previous = self.key.seal(worked, &id.bound())?;
        let integration = id.integration.clone();
        let saved = self.write_relaxed(move |c| {
            let sql = "UPDATE tokens SET current = ?1, previous = ?2, generation = generation + 1, updated_at = ?3 WHERE integration = ?4 AND generation = ?5";
            let changed = c.prepare_cached(sql)?.execute(params![current, previous, now.0, integration, generation])?;
            Ok((changed == 1).then_some(generation + 1))
        })
        .await;
        if saved.is_ok() {
            self.unsaved().remove(id);
        } else {
            let kept = Unsaved { generation, current: rotated.clone(), previous: worked.clone(), at: now };
            self.unsaved().insert(id.clone(), kept);
        }
        saved
    }

    /// Stores a token from outside; it replaces any other.
    pub async fn put_token(
        &self,
        id: &TokenId,
        token: &Secret,
        source: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sealed = sealed(&self.key, id, token)?;
        let id = id.clone();
        self.write(move |c| put(c, &id, &sealed, TokenOrigin { source, consented_by: None }, now)).await
    }

    /// The source of the stored token, when it was last renewed, and who consented.
    pub async fn token_history(
        &self,
        id: &TokenId,
    ) -> Result<Option<(String, Timestamp, Option<String>)>, StoreError> {
        let id = id.clone();
        self.read(move |c| {
            let sql = "SELECT source, updated_at, consented_by FROM tokens WHERE integration = ?1 AND client_id = ?2 AND tenant = ?3";
            let incident = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, Timestamp(r.get(1)?), r.get(2)?));
            Ok(c.prepare_cached(sql)?.query_row(params![id.integration, id.client_id, id.tenant], incident).optional()?)
        })
        .await
    }

    /// User principal name of the person who consented when the token was last renewed here.
    pub async fn consented_by(&self, id: &TokenId) -> Result<Option<String>, StoreError> {
        let id = id.clone();
        self.read(move |c| {
            let sql =
                "SELECT consented_by FROM tokens WHERE integration = ?1 AND client_id = ?2 AND tenant = ?3";
            let by = c
                .prepare_cached(sql)?
                .query_row(params![id.integration, id.client_id, id.tenant], |r| r.get(0));
            Ok(by.optional()?.flatten())
        })
        .await
    }
}

/// The ids of all rows.
pub(super) fn row_ids(c: &Connection) -> Result<Vec<i64>, StoreError> {
    let mut statement = c.prepare("SELECT rowid FROM tokens")?;
    Ok(statement.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?)
}

/// The binding of a row, its current and its previous token, still encrypted.
pub(super) type Row = (String, Vec<u8>, Option<Vec<u8>>);

/// A row by its id.
pub(super) fn row(c: &Connection, row_id: i64) -> Result<Row, StoreError> {
    let sql = "SELECT integration, client_id, tenant, current, previous FROM tokens WHERE rowid = ?1";
    Ok(c.prepare_cached(sql)?.query_row([row_id], |r| {
        let id = TokenId { integration: r.get(0)?, client_id: r.get(1)?, tenant: r.get(2)? };
        Ok((id.bound(), r.get(3)?, r.get(4)?))
    })?)
}

/// Encrypts a token for its row.
pub(super) fn sealed(key: &Key, id: &TokenId, token: &Secret) -> Result<Vec<u8>, StoreError> {
    key.seal(token, &id.bound())
}

/// Where a token comes from.
#[derive(Clone, Copy)]
pub(super) struct TokenOrigin<'a> {
    /// `import` or `reauthentication`.
    pub(super) source: &'static str,
    /// User principal name of the person who consented, if known.
    pub(super) consented_by: Option<&'a str>,
}

/// Stores a token; it replaces any other. The change is saved as an event, too.
pub(super) fn put(
    c: &Connection,
    id: &TokenId,
    sealed: &[u8],
    origin: TokenOrigin<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    c.execute(
        "INSERT INTO tokens (integration, client_id, tenant, current, previous, generation, source, updated_at, consented_by)
         VALUES (?1, ?2, ?3, ?4, NULL, 1, ?5, ?6, ?7)
         ON CONFLICT (integration) DO UPDATE SET client_id = excluded.client_id, tenant = excluded.tenant, current = excluded.current,
             previous = NULL, generation = generation + 1, source = excluded.source, updated_at = excluded.updated_at,
             consented_by = excluded.consented_by",
        params![id.integration, id.client_id, id.tenant, sealed, origin.source, now.0, origin.consented_by],
    )?;
    let event = Event { kind: "token_stored".to_owned(), at: now, detail: origin.source.to_owned() };
    save_event(c, &id.integration, &event)
}
