//! Sign-ins under way, and what their success changes in one transaction.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::deliveries::{self, NewDelivery};
use super::states::{Event, save_event};
use super::tokens::{self, TokenId};
use super::{Store, StoreError};
use crate::domain::Timestamp;
use crate::secret::Secret;

/// Used and expired ones are remembered for so long, to tell a replay from a stranger.
const REMEMBERED_MS: i64 = 86_400_000;

/// So many may be open for one integration; the oldest gives way.
const OPEN: u32 = 20;

/// A sign-in that begins.
#[derive(Debug, Clone)]
pub struct NewAuthorization {
    /// Hash of the OAuth 2.0 state.
    pub id: String,
    /// Which integration.
    pub integration: String,
    /// Hash of the cookie's value.
    pub cookie: String,
    /// What the callback needs: encrypted, given out once.
    pub secret: Secret,
    /// When the link was made that began it.
    pub link_issued: Timestamp,
    /// Now.
    pub created: Timestamp,
    /// When it is too late.
    pub expires: Timestamp,
}

/// A sign-in as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Hash of the OAuth 2.0 state.
    pub id: String,
    /// Which integration.
    pub integration: String,
    /// Hash of the cookie's value.
    pub cookie: String,
    /// When the link was made that began it.
    pub link_issued: Timestamp,
    /// When it is too late.
    pub expires: Timestamp,
    /// When its callback came.
    pub used: Option<Timestamp>,
    /// How it ended, or `verifying`.
    pub outcome: Option<String>,
    /// The unsigned callback named another tenant than ours.
    pub foreign_tenant: bool,
}

/// A renewed token to keep.
#[derive(Debug, Clone)]
pub struct RenewedToken {
    /// Whose.
    pub id: TokenId,
    /// The token.
    pub token: Secret,
}

/// A sign-in that holds in every respect.
#[derive(Debug, Clone)]
pub struct Success {
    /// Hash of the OAuth 2.0 state.
    pub authorization: String,
    /// Which integration.
    pub integration: String,
    /// When the link was made that began it.
    pub link_issued: Timestamp,
    /// User principal name of who consented, as far as known.
    pub by: Option<String>,
    /// To be kept.
    pub token: Option<RenewedToken>,
    /// To be handed to the product.
    pub delivery: Option<NewDelivery>,
    /// Now.
    pub at: Timestamp,
}

/// The outcome while what the tenant grants is still being looked at.
pub const VERIFYING: &str = "verifying";

fn bound(id: &str, integration: &str) -> String {
    format!("consentry authorization\0{id}\0{integration}")
}

/// Row id, binding and encrypted secret of the sign-ins that are under way.
pub(super) fn rows(c: &rusqlite::Connection) -> Result<Vec<(i64, String, Vec<u8>)>, StoreError> {
    let mut statement = c.prepare("SELECT rowid, id, integration, sealed FROM authorizations WHERE used_at IS NULL")?;
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, bound(&r.get::<_, String>(1)?, &r.get::<_, String>(2)?), r.get(3)?));
    Ok(statement.query_map([], row)?.collect::<Result<_, _>>()?)
}

impl Store {
    /// Saves a sign-in that begins.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn save_authorization(&self, new: NewAuthorization) -> Result<(), StoreError> {
        let sealed = self.key.seal(&new.secret, &bound(&new.id, &new.integration))?;
        self.write_relaxed(move |c| {
            c.execute("DELETE FROM authorizations WHERE expires_at < ?1", [new.created.0 - REMEMBERED_MS])?;
            c.execute(
                "DELETE FROM authorizations WHERE id IN (SELECT id FROM authorizations WHERE integration = ?1 AND used_at IS NULL
                     ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
                params![new.integration, OPEN - 1],
            )?;
            c.execute(
                "INSERT INTO authorizations (id, integration, cookie, sealed, link_issued, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![new.id, new.integration, new.cookie, sealed, new.link_issued.0, new.created.0, new.expires.0],
            )?;
            Ok(())
        })
        .await
    }

    /// A sign-in by the hash of its state.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn authorization(&self, id: &str) -> Result<Option<Authorization>, StoreError> {
        let id = id.to_owned();
        self.read(move |c| {
            let sql = "SELECT id, integration, cookie, link_issued, expires_at, used_at, outcome, foreign_tenant FROM authorizations WHERE id = ?1";
            Ok(c.prepare_cached(sql)?.query_row([id], authorization).optional()?)
        })
        .await
    }

    /// Uses a sign-in, once: answers its secret to the first caller and `None` to every other.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn claim_authorization(&self, id: &str, now: Timestamp) -> Result<Option<Secret>, StoreError> {
        let (id, key) = (id.to_owned(), self.key.clone());
        self.write_relaxed(move |c| {
            let row = c
                .query_row("SELECT integration, sealed FROM authorizations WHERE id = ?1 AND used_at IS NULL", [&id], |r| {
                    Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?))
                })
                .optional()?;
            let Some((integration, sealed)) = row else { return Ok(None) };
            c.execute("UPDATE authorizations SET used_at = ?1, sealed = x'' WHERE id = ?2", params![now.0, id])?;
            key.open(&sealed, &bound(&id, &integration))
                .map(Some)
                .ok_or_else(|| StoreError::Damaged("a sign-in does not decrypt".to_owned()))
        })
        .await
    }

    /// Notes how a sign-in ended without success, or that it is being verified.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn end_authorization(&self, id: &str, outcome: &'static str, foreign_tenant: bool) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write_relaxed(move |c| {
            let sql = "UPDATE authorizations SET outcome = ?1, foreign_tenant = ?2 WHERE id = ?3";
            c.execute(sql, params![outcome, foreign_tenant, id])?;
            Ok(())
        })
        .await
    }

    /// Sign-ins whose effect is still being looked at, oldest first.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn verifying(&self) -> Result<Vec<Authorization>, StoreError> {
        self.read(|c| {
            let sql = "SELECT id, integration, cookie, link_issued, expires_at, used_at, outcome, foreign_tenant FROM authorizations
                       WHERE outcome = 'verifying' ORDER BY used_at";
            Ok(c.prepare_cached(sql)?.query_map([], authorization)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Integrations to be proved: re-authenticated since `since`, or still being verified.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn unproved(&self, since: Timestamp) -> Result<Vec<String>, StoreError> {
        self.read(move |c| {
            let sql =
                "SELECT DISTINCT integration FROM authorizations WHERE outcome = 'verifying' OR (outcome = 'success' AND used_at >= ?1)";
            Ok(c.prepare_cached(sql)?.query_map([since.0], |r| r.get(0))?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Saves a success whole: token, delivery, event, and the end of every link made before. Answers false, and saves nothing,
    /// when the link that began it has died meanwhile.
    ///
    /// # Errors
    /// The database refuses; then nothing is saved.
    pub async fn save_success(&self, success: Success) -> Result<bool, StoreError> {
        let token = match &success.token {
            Some(renewed) => Some((renewed.id.clone(), tokens::sealed(&self.key, &renewed.id, &renewed.token)?)),
            None => None,
        };
        let delivery = match success.delivery {
            Some(new) => Some(deliveries::sealed(&self.key, &success.integration, new)?),
            None => None,
        };
        let (integration, at) = (success.integration, success.at);
        self.write(move |c| {
            if links_not_after(c, &integration)?.is_some_and(|t| success.link_issued <= t) {
                return Ok(false);
            }
            c.execute(
                "INSERT INTO revocations VALUES (?1, ?2) ON CONFLICT (integration) DO UPDATE SET not_after = max(not_after, excluded.not_after)",
                params![integration, at.0],
            )?;
            c.execute("UPDATE authorizations SET outcome = 'success' WHERE id = ?1", [&success.authorization])?;
            if let Some((id, sealed)) = &token {
                tokens::put(c, id, sealed, "reauthentication", success.by.as_deref(), at)?;
            }
            let kind = "reauthenticated".to_owned();
            save_event(c, &integration, &Event { kind, at, detail: success.by.clone().unwrap_or_default() })?;
            if let Some(sealed) = &delivery {
                deliveries::put(c, &integration, sealed, at)?;
            }
            Ok(true)
        })
        .await
    }

    /// Links of an integration that were made up to this moment are dead.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn links_not_after(&self, integration: &str) -> Result<Option<Timestamp>, StoreError> {
        let integration = integration.to_owned();
        self.read(move |c| links_not_after(c, &integration)).await
    }
}

fn authorization(r: &rusqlite::Row<'_>) -> rusqlite::Result<Authorization> {
    Ok(Authorization {
        id: r.get(0)?,
        integration: r.get(1)?,
        cookie: r.get(2)?,
        link_issued: Timestamp(r.get(3)?),
        expires: Timestamp(r.get(4)?),
        used: r.get::<_, Option<i64>>(5)?.map(Timestamp),
        outcome: r.get(6)?,
        foreign_tenant: r.get(7)?,
    })
}

fn links_not_after(c: &Connection, integration: &str) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT not_after FROM revocations WHERE integration = ?1";
    Ok(c.prepare_cached(sql)?.query_row([integration], |r| r.get(0)).optional()?.map(Timestamp))
}
