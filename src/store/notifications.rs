//! The outbox: mails from the decision to the delivery.

use rusqlite::{Connection, params};

use super::rows::{story_from_json, story_to_json};
use super::{Store, StoreError};
use crate::domain::{MailKind, Notification, Timestamp};

/// A mail that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Row.
    pub id: i64,
    /// What it says, to whom.
    pub notification: Notification,
    /// Sequence of the first mail of this alert to this person: the head of the thread.
    pub first_sequence: u32,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts that ended with the server refusing this recipient for good.
    pub rejections: u32,
}

/// Saves a notification; the same notice to the same person is saved once.
pub(super) fn insert(c: &Connection, n: &Notification, now: Timestamp) -> Result<(), StoreError> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )?
    .execute(params![n.alert, n.sequence, n.recipient, n.kind.label(), story_to_json(&n.story), now.0])?;
    Ok(())
}

/// Waiting mails in the order in which they were decided; a later mail of an alert waits for the earlier ones to the same person.
const DUE: &str = "
    SELECT id, alert, sequence, recipient, kind, story, attempts, rejections,
           (SELECT min(f.sequence) FROM notifications f WHERE f.alert = n.alert AND f.recipient = n.recipient)
    FROM notifications n
    WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0 AND due_at <= ?1
      AND NOT EXISTS (SELECT 1 FROM notifications e WHERE e.alert = n.alert AND e.recipient = n.recipient
                      AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL)
    ORDER BY id LIMIT ?2";

/// A mail about an integration, for its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAbout {
    /// Kind of the mail.
    pub kind: MailKind,
    /// To whom.
    pub recipient: String,
    /// When it was decided.
    pub created: Timestamp,
    /// When the mail server took it.
    pub sent: Option<Timestamp>,
    /// It was given up.
    pub given_up: bool,
}

/// The expression is that of the index.
pub(super) const ABOUT: &str = "SELECT kind, recipient, created_at, sent_at, given_up_at FROM notifications
    WHERE json_extract(story, '$.integration') = ?1 ORDER BY id DESC LIMIT 50";

impl Store {
    /// The newest mails about an integration, newest first.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn mails_about(&self, integration: &str) -> Result<Vec<MailAbout>, StoreError> {
        let name = integration.to_owned();
        self.read(move |c| {
            let mut statement = c.prepare_cached(ABOUT)?;
            let mail = |r: &rusqlite::Row<'_>| {
                Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?, r.get::<_, Option<i64>>(3)?, r.get::<_, Option<i64>>(4)?))
            };
            let mails = statement.query_map([name], mail)?.collect::<Result<Vec<_>, _>>()?;
            let known = mails.into_iter().filter_map(|(kind, recipient, created, sent, given_up)| {
                let (created, sent, given_up) = (Timestamp(created), sent.map(Timestamp), given_up.is_some());
                Some(MailAbout { kind: MailKind::from_label(&kind)?, recipient, created, sent, given_up })
            });
            Ok(known.collect())
        })
        .await
    }

    /// Mails to send now.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn due_notifications(&self, now: Timestamp, limit: u32) -> Result<Vec<Queued>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(DUE)?;
            let mut rows = statement.query(params![now.0, limit])?;
            let mut due = Vec::new();
            while let Some(r) = rows.next()? {
                let (kind, story): (String, String) = (r.get(4)?, r.get(5)?);
                let (Some(kind), Some(story)) = (MailKind::from_label(&kind), story_from_json(&story)) else { continue };
                let notification = Notification { alert: r.get(1)?, sequence: r.get(2)?, kind, recipient: r.get(3)?, story };
                due.push(Queued { id: r.get(0)?, notification, first_sequence: r.get(8)?, attempts: r.get(6)?, rejections: r.get(7)? });
            }
            Ok(due)
        })
        .await
    }

    /// When the next waiting mail is due, and how many wait.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn outbox(&self) -> Result<(Option<Timestamp>, i64), StoreError> {
        self.read(|c| {
            // A mail behind an earlier one to the same person is due no sooner than that one.
            let sql = "SELECT min(due_at) FILTER (WHERE NOT EXISTS (SELECT 1 FROM notifications e WHERE e.alert = n.alert AND e.recipient = n.recipient
                           AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL)), count(*)
                       FROM notifications n WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0";
            Ok(c.prepare_cached(sql)?.query_row([], |r| Ok((r.get::<_, Option<i64>>(0)?.map(Timestamp), r.get(1)?)))?)
        })
        .await
    }

    /// The mail was taken by the server.
    ///
    /// # Errors
    /// The database refuses; then the mail will be sent again, with the same `Message-ID`.
    pub async fn mark_sent(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |c| {
            c.prepare_cached("UPDATE notifications SET sent_at = ?1, attempts = attempts + 1 WHERE id = ?2")?
                .execute(params![now.0, id])?;
            Ok(())
        })
        .await
    }

    /// The attempt failed; the next is at `due`.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn mark_failed(&self, id: i64, due: Timestamp, rejected: bool) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql = "UPDATE notifications SET due_at = ?1, attempts = attempts + 1, rejections = rejections + ?2 WHERE id = ?3";
            c.prepare_cached(sql)?.execute(params![due.0, rejected, id])?;
            Ok(())
        })
        .await
    }

    /// The recipient does not exist, said the server, again and again: `tell` goes to the operators instead.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn give_up(&self, id: i64, now: Timestamp, tell: Vec<Notification>) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute("UPDATE notifications SET given_up_at = ?1, attempts = attempts + 1 WHERE id = ?2", params![now.0, id])?;
            tell.iter().try_for_each(|n| insert(c, n, now))
        })
        .await
    }

    /// When a mail was last taken by the server.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn last_mail(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|c| Ok(c.query_row("SELECT max(sent_at) FROM notifications", [], |r| r.get::<_, Option<i64>>(0))?.map(Timestamp))).await
    }

    /// Forgets mails that were delivered, given up or left waiting in vain before `before`, and whose alert is over.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn prune_notifications(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.write_relaxed(move |c| {
            let sql = "DELETE FROM notifications WHERE coalesce(sent_at, given_up_at, iif(suspended, created_at, NULL)) < ?1
                         AND alert NOT IN (SELECT alert FROM integrations WHERE alert IS NOT NULL)
                         AND alert NOT IN (SELECT alert FROM causes)";
            Ok(c.execute(sql, [before.0])?)
        })
        .await
    }
}
