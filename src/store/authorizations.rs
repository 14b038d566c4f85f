//! Sign-ins in progress, and what a successful one changes in one transaction.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::deliveries::{self, NewDelivery};
use super::events::{Event, save_event};
use super::revocations::{links, next_generation};
use super::tokens::{self, TokenId};
use super::{Store, StoreError, notices};
use crate::domain::{DelayedMail, Notification, Timestamp};
use crate::secret::Secret;

/// How long used and expired sign-ins are kept, to distinguish a replay from an unknown state.
const REMEMBERED_MS: i64 = 86_400_000;

/// Maximum number of sign-ins in progress that one link began.
const OPEN_BY_LINK: i64 = 10;

/// Maximum number of sign-ins in progress that were begun from one network.
const OPEN_BY_SOURCE: i64 = 100;

/// From this many sign-ins in progress for one integration on, each of its links may have only one: the first sign-in of a link is never
/// rejected because of other links. Only we make links, so their total is bounded.
const OPEN_BY_INTEGRATION: i64 = 100;

/// Maximum number of sign-ins that one link may begin within the lifetime of a sign-in, whatever their result: each costs Entra and the
/// tenant requests.
const BEGUN_BY_LINK: i64 = 60;

/// Number of finished sign-ins that are kept for one link.
const OVER_BY_LINK: u32 = 100;

/// Number of successes that are kept for one integration.
const SUCCESSES: u32 = 100;

/// The stage of a sign-in after its callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The permissions that the tenant grants are still being verified.
    Verifying,
    /// Everything was verified and stored.
    Success,
    /// The tenant granted everything before the sign-in began, and still does.
    Unchanged,
    /// The user or an administrator declined.
    Denied,
    /// The user signed in to another tenant.
    WrongTenant,
    /// Less than required, or less than before.
    Incomplete,
    /// Too late, or a repeated callback.
    Expired,
    /// An error of Entra or of ours.
    Error,
}

impl Stage {
    const ALL: [Self; 8] = [
        Self::Verifying,
        Self::Success,
        Self::Unchanged,
        Self::Denied,
        Self::WrongTenant,
        Self::Incomplete,
        Self::Expired,
        Self::Error,
    ];

    /// The word in the database.
    const fn label(self) -> &'static str {
        match self {
            Self::Verifying => "verifying",
            Self::Success => "success",
            Self::Unchanged => "unchanged",
            Self::Denied => "denied",
            Self::WrongTenant => "wrong_tenant",
            Self::Incomplete => "incomplete",
            Self::Expired => "expired",
            Self::Error => "error",
        }
    }

    fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.label() == label)
    }
}

/// A quota that is full, so that a sign-in cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// The quota of the link.
    Link,
    /// The quota of the network from which the sign-in comes.
    Source,
    /// The quota of the integration.
    Integration,
}

impl Quota {
    /// A word for logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Source => "source",
            Self::Integration => "integration",
        }
    }
}

/// When a link was made: its generation, or for a link of the first version its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStamp {
    /// `None` for a link of the first version.
    pub generation: Option<i64>,
    /// By the wall clock when it was made.
    pub issued: Timestamp,
}

/// A sign-in that begins.
#[derive(Debug, Clone)]
pub struct NewAuthorization {
    /// Hash of the OAuth 2.0 state.
    pub id: String,
    /// Which integration.
    pub integration: String,
    /// Hash of the cookie's value.
    pub cookie: String,
    /// The secrets for the callback: encrypted, returned only once.
    pub secret: Secret,
    /// Hash of the link that began it.
    pub link: String,
    /// When that link was made.
    pub stamp: LinkStamp,
    /// The network from which it comes; empty if unknown.
    pub source: String,
    /// Now.
    pub created: Timestamp,
    /// When it expires.
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
    /// Hash of the link that began it.
    pub link: String,
    /// When that link was made.
    pub stamp: LinkStamp,
    /// When it expires.
    pub expires: Timestamp,
    /// When its callback came.
    pub used: Option<Timestamp>,
    /// Its stage since then.
    pub stage: Option<Stage>,
    /// Whether the unsigned callback named another tenant than ours.
    pub foreign_tenant: bool,
    /// The address from which the callback came.
    pub origin: String,
    /// Whether the tenant granted everything when the sign-in began; `None` if unknown.
    pub granted_before: Option<bool>,
}

/// A renewed token to be stored.
#[derive(Debug, Clone)]
pub struct RenewedToken {
    /// Its integration, application and tenant.
    pub id: TokenId,
    /// The token.
    pub token: Secret,
}

/// A sign-in that passed every verification.
#[derive(Debug, Clone)]
pub struct Success {
    /// Hash of the OAuth 2.0 state.
    pub authorization: String,
    /// Which integration.
    pub integration: String,
    /// When the link that began it was made.
    pub stamp: LinkStamp,
    /// User principal name of the person who consented, if known.
    pub by: Option<String>,
    /// The address from which they signed in.
    pub origin: String,
    /// The token to be stored.
    pub token: Option<RenewedToken>,
    /// The message to be delivered to the product.
    pub delivery: Option<NewDelivery>,
    /// The mails to be sent.
    pub mails: Vec<DelayedMail>,
    /// Now.
    pub at: Timestamp,
}

/// An integration that is being verified: it is probed until the result of a sign-in is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    /// Which one.
    pub integration: String,
    /// When the verification began.
    pub began: Timestamp,
    /// Whether consent or token were renewed; otherwise an unsigned callback says so.
    pub renewed: bool,
}

/// The last re-authentication of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReauthentication {
    /// When.
    pub at: Timestamp,
    /// User principal name, if the user signed in to us.
    pub by: Option<String>,
    /// The address from which they signed in.
    pub origin: String,
}

const COLUMNS: &str = "id, integration, cookie, link, link_generation, link_issued, expires_at, used_at, outcome, foreign_tenant, origin, granted_before";

/// Sign-ins in progress between two times: not used and not expired, or being verified. One that expires later than a sign-in that begins
/// now was saved while the clock was ahead.
const OPEN: &str = "((used_at IS NULL AND expires_at > ?2 AND expires_at <= ?3) OR outcome = 'verifying')";

fn bound(id: &str, integration: &str) -> String {
    format!("consentry authorization\0{id}\0{integration}")
}

/// Row id, binding and encrypted secret of the sign-ins in progress.
pub(super) fn rows(c: &rusqlite::Connection) -> Result<Vec<(i64, String, Vec<u8>)>, StoreError> {
    let mut statement =
        c.prepare("SELECT rowid, id, integration, sealed FROM authorizations WHERE used_at IS NULL")?;
    let row = |r: &rusqlite::Row<'_>| {
        Ok((r.get(0)?, bound(&r.get::<_, String>(1)?, &r.get::<_, String>(2)?), r.get(3)?))
    };
    Ok(statement.query_map([], row)?.collect::<Result<_, _>>()?)
}

impl Store {
    /// Saves a sign-in that begins, or returns the quota that is full. No sign-in is removed in favour of another.
    pub async fn save_authorization(&self, new: NewAuthorization) -> Result<Option<Quota>, StoreError> {
        let sealed = self.key.seal(&new.secret, &bound(&new.id, &new.integration))?;
        self.write_relaxed(move |c| {
            let now = new.created.0;
            c.execute(
                "DELETE FROM authorizations WHERE expires_at < ?1 OR expires_at > ?2",
                [now.saturating_sub(REMEMBERED_MS), now.saturating_add(REMEMBERED_MS)],
            )?;
            if let Some(full) = full(c, &new)? {
                return Ok(Some(full));
            }
            c.execute(
                "DELETE FROM authorizations WHERE id IN (SELECT id FROM authorizations WHERE link = ?1 AND (used_at IS NOT NULL OR expires_at <= ?2)
                     AND coalesce(outcome, '') NOT IN ('success', 'verifying') ORDER BY created_at DESC LIMIT -1 OFFSET ?3)",
                params![new.link, now, OVER_BY_LINK],
            )?;
            c.execute(
                "INSERT INTO authorizations (id, integration, cookie, sealed, link, link_generation, link_issued, source, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    new.id,
                    new.integration,
                    new.cookie,
                    sealed,
                    new.link,
                    new.stamp.generation,
                    new.stamp.issued.0,
                    new.source,
                    now,
                    new.expires.0
                ],
            )?;
            Ok(None)
        })
        .await
    }

    /// Saves whether the tenant granted everything when a sign-in began.
    pub async fn note_granted(&self, id: &str, granted: bool) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write_relaxed(move |c| {
            c.prepare_cached("UPDATE authorizations SET granted_before = ?1 WHERE id = ?2")?
                .execute(params![granted, id])?;
            Ok(())
        })
        .await
    }

    /// A sign-in by the hash of its state.
    pub async fn authorization(&self, id: &str) -> Result<Option<Authorization>, StoreError> {
        let id = id.to_owned();
        self.read(move |c| {
            let sql = format!("SELECT {COLUMNS} FROM authorizations WHERE id = ?1");
            Ok(c.prepare_cached(&sql)?.query_row([id], authorization).optional()?)
        })
        .await
    }

    /// Uses a sign-in once: returns its secret to the first caller and `None` to every other.
    pub async fn claim_authorization(
        &self,
        id: &str,
        origin: &str,
        now: Timestamp,
    ) -> Result<Option<Secret>, StoreError> {
        let (id, origin, key) = (id.to_owned(), origin.to_owned(), self.key.clone());
        self.write_relaxed(move |c| {
            let row = c
                .query_row(
                    "SELECT integration, sealed FROM authorizations WHERE id = ?1 AND used_at IS NULL",
                    [&id],
                    |r| Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?)),
                )
                .optional()?;
            let Some((integration, sealed)) = row else { return Ok(None) };
            c.execute(
                "UPDATE authorizations SET used_at = ?1, origin = ?2, sealed = x'' WHERE id = ?3",
                params![now.0, origin, id],
            )?;
            key.open(&sealed, &bound(&id, &integration))
                .map(Some)
                .ok_or_else(|| StoreError::Damaged("a sign-in does not decrypt".to_owned()))
        })
        .await
    }

    /// Saves how a sign-in ended without success, or that it is being verified.
    pub async fn end_authorization(
        &self,
        id: &str,
        stage: Stage,
        foreign_tenant: bool,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write_relaxed(move |c| {
            let sql = "UPDATE authorizations SET outcome = ?1, foreign_tenant = ?2 WHERE id = ?3";
            c.execute(sql, params![stage.label(), foreign_tenant, id])?;
            Ok(())
        })
        .await
    }

    /// Saves how a sign-in was rejected, with the mails that notify the operators of it.
    ///
    /// # Errors
    /// The database returns an error; then nothing is saved.
    pub async fn refuse_authorization(
        &self,
        id: &str,
        stage: Stage,
        mails: Vec<Notification>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |c| {
            c.execute("UPDATE authorizations SET outcome = ?1 WHERE id = ?2", params![stage.label(), id])?;
            mails.iter().try_for_each(|mail| notices::insert(c, mail, at, std::time::Duration::ZERO))
        })
        .await
    }

    /// Sign-ins that are being verified, oldest first.
    pub async fn verifying(&self) -> Result<Vec<Authorization>, StoreError> {
        self.read(|c| {
            let sql =
                format!("SELECT {COLUMNS} FROM authorizations WHERE outcome = 'verifying' ORDER BY used_at");
            Ok(c.prepare_cached(&sql)?.query_map([], authorization)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Integrations that are being verified: re-authenticated since `since` and not verified yet, or with a sign-in being verified. Rows
    /// with a time after `until` were saved while the clock was ahead, and are over.
    pub async fn unverified(
        &self,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Unverified>, StoreError> {
        self.read(move |c| {
            let sql = "SELECT integration, max(at), 1 FROM reauthentications WHERE proved_at IS NULL AND at BETWEEN ?1 AND ?2 GROUP BY integration
                       UNION ALL
                       SELECT integration, max(used_at), 0 FROM authorizations WHERE outcome = 'verifying' AND used_at IS NOT NULL GROUP BY integration";
            let row = |r: &rusqlite::Row<'_>| Ok(Unverified { integration: r.get(0)?, began: Timestamp(r.get(1)?), renewed: r.get(2)? });
            Ok(c.prepare_cached(sql)?.query_map([since.0, until.0], row)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Saves that what was renewed until `since` has been verified, or has had its last probe: after a restart it gets no further grace
    /// period.
    pub async fn proved(
        &self,
        integration: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let integration = integration.to_owned();
        self.write_relaxed(move |c| {
            let sql = "UPDATE reauthentications SET proved_at = ?1 WHERE integration = ?2 AND proved_at IS NULL AND (at <= ?3 OR at > ?1)";
            c.prepare_cached(sql)?.execute(params![now.0, integration, since.0])?;
            Ok(())
        })
        .await
    }

    /// The last re-authentication of an integration.
    pub async fn last_reauthentication(
        &self,
        integration: &str,
    ) -> Result<Option<LastReauthentication>, StoreError> {
        let integration = integration.to_owned();
        self.read(move |c| {
            // In the order of saving: a clock that was ahead for a while must not hide later rows.
            let sql = "SELECT at, person, origin FROM reauthentications WHERE integration = ?1 ORDER BY rowid DESC LIMIT 1";
            let row = |r: &rusqlite::Row<'_>| Ok(LastReauthentication { at: Timestamp(r.get(0)?), by: r.get(1)?, origin: r.get(2)? });
            Ok(c.prepare_cached(sql)?.query_row([integration], row).optional()?)
        })
        .await
    }

    /// Saves everything that a success changes: token, delivery, event, mails, and the end of every link made before. Returns false, and
    /// saves nothing, if the link that began it has become invalid meanwhile.
    ///
    /// # Errors
    /// The database returns an error; then nothing is saved.
    pub async fn save_success(&self, success: Success) -> Result<bool, StoreError> {
        let token = match &success.token {
            Some(renewed) => {
                Some((renewed.id.clone(), tokens::sealed(&self.key, &renewed.id, &renewed.token)?))
            }
            None => None,
        };
        let delivery = match &success.delivery {
            Some(new) => Some(deliveries::sealed(&self.key, &success.integration, new.clone())?),
            None => None,
        };
        self.write(move |c| {
            let (integration, at) = (&success.integration, success.at);
            if links(c, integration)?.is_dead(success.stamp.generation, success.stamp.issued) {
                return Ok(false);
            }
            next_generation(c, integration, success.stamp.generation)?;
            c.execute(
                "UPDATE authorizations SET outcome = 'success' WHERE id = ?1",
                [&success.authorization],
            )?;
            if let Some((id, sealed)) = &token {
                let origin =
                    tokens::TokenOrigin { source: "reauthentication", consented_by: success.by.as_deref() };
                tokens::put(c, id, sealed, origin, at)?;
            }
            save_event(
                c,
                integration,
                &Event { kind: "reauthenticated".to_owned(), at, detail: success.detail() },
            )?;
            remember(c, &success)?;
            if let Some(sealed) = &delivery {
                deliveries::put(c, integration, sealed, at)?;
            }
            for DelayedMail { notification, pause } in &success.mails {
                notices::insert(c, notification, success.at, *pause)?;
            }
            Ok(true)
        })
        .await
    }
}

impl Success {
    /// Who it was, and from where, for the history.
    fn detail(&self) -> String {
        let who = match (&self.by, &self.token, &self.delivery) {
            (Some(by), ..) => by.as_str(),
            (None, None, None) => "admin consent",
            (None, ..) => "somebody",
        };
        match self.origin.as_str() {
            "" => who.to_owned(),
            through if through.starts_with("through ") => format!("{who} {through}"),
            address => format!("{who} from {address}"),
        }
    }
}

fn remember(c: &Connection, success: &Success) -> Result<(), StoreError> {
    c.execute(
        "INSERT OR REPLACE INTO reauthentications (sign_in, integration, at, person, origin) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![success.authorization, success.integration, success.at.0, success.by, success.origin],
    )?;
    c.execute(
        "DELETE FROM reauthentications WHERE rowid IN (SELECT rowid FROM reauthentications WHERE integration = ?1
             ORDER BY rowid DESC LIMIT -1 OFFSET ?2)",
        params![success.integration, SUCCESSES],
    )?;
    Ok(())
}

/// The full quota for a sign-in that is about to begin, if any.
fn full(c: &Connection, new: &NewAuthorization) -> Result<Option<Quota>, StoreError> {
    let open = |column: &str, value: &str| -> Result<i64, StoreError> {
        let sql = format!("SELECT count(*) FROM authorizations WHERE {column} = ?1 AND {OPEN}");
        Ok(c.prepare_cached(&sql)?.query_row(params![value, new.created.0, new.expires.0], |r| r.get(0))?)
    };
    let by_link = open("link", &new.link)?;
    let since = new.created.0.saturating_sub(new.expires.0.saturating_sub(new.created.0));
    let sql = "SELECT count(*) FROM authorizations WHERE link = ?1 AND created_at > ?2 AND created_at <= ?3";
    let begun: i64 =
        c.prepare_cached(sql)?.query_row(params![new.link, since, new.created.0], |r| r.get(0))?;
    if by_link >= OPEN_BY_LINK || begun >= BEGUN_BY_LINK {
        return Ok(Some(Quota::Link));
    }
    if !new.source.is_empty() && open("source", &new.source)? >= OPEN_BY_SOURCE {
        return Ok(Some(Quota::Source));
    }
    if by_link > 0 && open("integration", &new.integration)? >= OPEN_BY_INTEGRATION {
        return Ok(Some(Quota::Integration));
    }
    Ok(None)
}

fn authorization(r: &rusqlite::Row<'_>) -> rusqlite::Result<Authorization> {
    Ok(Authorization {
        id: r.get(0)?,
        integration: r.get(1)?,
        cookie: r.get(2)?,
        link: r.get(3)?,
        stamp: LinkStamp { generation: r.get(4)?, issued: Timestamp(r.get(5)?) },
        expires: Timestamp(r.get(6)?),
        used: r.get::<_, Option<i64>>(7)?.map(Timestamp),
        stage: r.get::<_, Option<String>>(8)?.as_deref().and_then(Stage::from_label),
        foreign_tenant: r.get(9)?,
        origin: r.get(10)?,
        granted_before: r.get(11)?,
    })
}
