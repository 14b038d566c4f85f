//! The outbox: mails from the decision to the delivery.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{incident_from_json, incident_to_json};
use super::{Store, StoreError};
use crate::domain::{MailKind, Notification, Timestamp};

/// A waiting mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Row id.
    pub id: i64,
    /// Its content and recipient.
    pub notification: Notification,
    /// Sequence of the first mail of this alert to this recipient, which begins the mail thread.
    pub first_sequence: u32,
    /// Number of attempts so far.
    pub attempts: u32,
    /// Number of attempts in which the server permanently rejected recipient or mail.
    pub rejections: u32,
    /// When the first of them was.
    pub first_rejection: Option<Timestamp>,
    /// How often it was handed over without a response: it may have been delivered.
    pub unanswered: u32,
}

/// An attempt that failed, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When.
    pub at: Timestamp,
    /// The pause before the next attempt.
    pub pause: Duration,
    /// Whether the server permanently rejected recipient or mail.
    pub rejected: bool,
    /// Whether the server has responded although the mail was already marked as handed over.
    pub answered: bool,
    /// Why, for people.
    pub problem: String,
}

/// What is known of mails to other recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherMails {
    /// Whether the server has accepted a mail since then.
    pub taken: bool,
    /// Whether a mail to another recipient waits after a failed attempt.
    pub failing: bool,
}

/// Saves a notification; the same notice to the same recipient is saved once.
pub(super) fn insert(c: &Connection, n: &Notification, now: Timestamp) -> Result<(), StoreError> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )?
    .execute(params![n.alert, n.sequence, n.recipient, n.kind.label(), incident_to_json(&n.incident), now.0])?;
    Ok(())
}

/// Delays a mail that may turn out not to be needed.
pub(super) fn postpone(
    c: &Connection,
    n: &Notification,
    now: Timestamp,
    pause: Duration,
) -> Result<(), StoreError> {
    c.prepare_cached(
        "UPDATE notifications SET due_at = ?1, pause = ?2
         WHERE alert = ?3 AND sequence = ?4 AND recipient = ?5 AND attempts = 0 AND sent_at IS NULL",
    )?
    .execute(params![now.plus(pause).0, millis(pause), n.alert, n.sequence, n.recipient])?;
    Ok(())
}

/// Deletes a delayed mail about a re-authentication: the mail about the end of the alert says who re-authenticated.
pub(super) fn supersede(c: &Connection, integration: &str, recipient: &str) -> Result<(), StoreError> {
    c.prepare_cached(
        "DELETE FROM notifications WHERE kind = 'reauthenticated' AND recipient = ?2 AND pause > 0 AND attempts = 0 AND unanswered = 0
           AND sent_at IS NULL AND given_up_at IS NULL AND json_extract(story, '$.integration') = ?1",
    )?
    .execute(params![integration, recipient])?;
    Ok(())
}

/// Condition: no earlier mail to the same recipient waits that belongs to the same alert or is about the same integration. So the last mail
/// that a person reads is up to date. The story of a cause may name different integrations over time.
const FIRST: &str = "
    NOT EXISTS (SELECT 1 FROM notifications e WHERE e.alert = n.alert AND e.recipient = n.recipient
                AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM notifications e
                    WHERE json_extract(e.story, '$.integration') = json_extract(n.story, '$.integration') AND e.recipient = n.recipient
                    AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL AND e.suspended = 0)";

/// Waiting mails in the order in which they were decided.
const DUE: &str = "
    SELECT id, alert, sequence, recipient, kind, story, attempts, rejections,
           (SELECT min(f.sequence) FROM notifications f WHERE f.alert = n.alert AND f.recipient = n.recipient),
           first_rejected_at, unanswered
    FROM notifications n
    WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0 AND due_at <= ?1 AND ";

/// A mail about an integration, for its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAbout {
    /// Kind of the mail.
    pub kind: MailKind,
    /// To whom.
    pub recipient: String,
    /// When it was decided.
    pub created: Timestamp,
    /// When the mail server accepted it.
    pub sent: Option<Timestamp>,
    /// Whether it was given up.
    pub given_up: bool,
    /// Why it waits, or was given up, in the mail server's words.
    pub problem: Option<String>,
}

/// The expression is the same as in the index.
pub(super) const ABOUT: &str =
    "SELECT kind, recipient, created_at, sent_at, given_up_at, problem FROM notifications
    WHERE json_extract(story, '$.integration') = ?1 ORDER BY id DESC LIMIT 50";

impl Store {
    /// The newest mails about an integration, newest first.
    pub async fn mails_about(&self, integration: &str) -> Result<Vec<MailAbout>, StoreError> {
        let name = integration.to_owned();
        self.read(move |c| {
            let mut statement = c.prepare_cached(ABOUT)?;
            let mail = |r: &rusqlite::Row<'_>| {
                Ok((
                    r.get::<_, String>(0)?,
                    r.get(1)?,
                    r.get(2)?,
                    r.get::<_, Option<i64>>(3)?,
                    r.get::<_, Option<i64>>(4)?,
                    r.get(5)?,
                ))
            };
            let mails = statement.query_map([name], mail)?.collect::<Result<Vec<_>, _>>()?;
            let known =
                mails.into_iter().filter_map(|(kind, recipient, created, sent, given_up, problem)| {
                    let (created, sent, given_up) =
                        (Timestamp(created), sent.map(Timestamp), given_up.is_some());
                    Some(MailAbout {
                        kind: MailKind::from_label(&kind)?,
                        recipient,
                        created,
                        sent,
                        given_up,
                        problem,
                    })
                });
            Ok(known.collect())
        })
        .await
    }

    /// Mails to send now.
    pub async fn due_notifications(&self, now: Timestamp, limit: u32) -> Result<Vec<Queued>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!("{DUE}{FIRST} ORDER BY id LIMIT ?2"))?;
            let mut rows = statement.query(params![now.0, limit])?;
            let mut due = Vec::new();
            while let Some(r) = rows.next()? {
                let (kind, incident): (String, String) = (r.get(4)?, r.get(5)?);
                let (Some(kind), Some(incident)) =
                    (MailKind::from_label(&kind), incident_from_json(&incident))
                else {
                    continue;
                };
                let notification = Notification {
                    alert: r.get(1)?,
                    sequence: r.get(2)?,
                    kind,
                    recipient: r.get(3)?,
                    incident,
                };
                due.push(Queued {
                    id: r.get(0)?,
                    notification,
                    first_sequence: r.get(8)?,
                    attempts: r.get(6)?,
                    rejections: r.get(7)?,
                    first_rejection: r.get::<_, Option<i64>>(9)?.map(Timestamp),
                    unanswered: r.get(10)?,
                });
            }
            Ok(due)
        })
        .await
    }

    /// Whether a mail still waits as it was read: it was not sent, has not failed and was not handed over since.
    pub async fn is_as_read(&self, queued: &Queued) -> Result<bool, StoreError> {
        let (id, attempts, unanswered) = (queued.id, queued.attempts, queued.unanswered);
        self.read(move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE id = ?1 AND attempts = ?2 AND unanswered = ?3
                           AND sent_at IS NULL AND given_up_at IS NULL AND suspended = 0)";
            Ok(c.prepare_cached(sql)?.query_row(params![id, attempts, unanswered], |r| r.get(0))?)
        })
        .await
    }

    /// When the next waiting mail is due, and the number of waiting mails.
    pub async fn outbox(&self) -> Result<(Option<Timestamp>, i64), StoreError> {
        self.read(|c| {
            const WAITING: &str =
                "FROM notifications n WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0";
            // A mail behind an earlier one to the same recipient is not due before that one. The query uses
            // the index of due times, because in an outage a hundred thousand mails may wait, and it runs
            // after every mail that is sent.
            let next = format!("SELECT due_at {WAITING} AND {FIRST} ORDER BY due_at LIMIT 1");
            let next = c.prepare_cached(&next)?.query_row([], |r| r.get(0)).optional()?;
            let waiting =
                c.prepare_cached(&format!("SELECT count(*) {WAITING}"))?.query_row([], |r| r.get(0))?;
            Ok((next.map(Timestamp), waiting))
        })
        .await
    }

    /// Records that the mail is about to be handed over. From now on it may have been delivered, so it is not sent again before `pause` is
    /// over, even if this process ends.
    pub async fn mark_handed_over(&self, id: i64, now: Timestamp, pause: Duration) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql =
                "UPDATE notifications SET due_at = ?1, pause = ?2, unanswered = unanswered + 1 WHERE id = ?3";
            c.prepare_cached(sql)?.execute(params![now.plus(pause).0, millis(pause), id])?;
            Ok(())
        })
        .await
    }

    /// Records that the server accepted the mail.
    ///
    /// # Errors
    /// The database returns an error; then the mail will be sent again, with the same `Message-ID`.
    pub async fn mark_sent(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |c| {
            c.prepare_cached("UPDATE notifications SET sent_at = ?1, attempts = attempts + 1, problem = NULL WHERE id = ?2")?
                .execute(params![now.0, id])?;
            Ok(())
        })
        .await
    }

    /// Records a failed attempt; the next one follows after a pause. `reports` are mails to the operators, saved with it.
    pub async fn mark_failed(
        &self,
        id: i64,
        failed: FailedAttempt,
        reports: Vec<Notification>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql = "UPDATE notifications SET due_at = ?1, pause = ?2, attempts = attempts + 1, rejections = rejections + ?3,
                           first_rejected_at = iif(?3, coalesce(first_rejected_at, ?4), first_rejected_at),
                           unanswered = max(unanswered - ?5, 0), problem = ?6
                       WHERE id = ?7";
            let FailedAttempt { at, pause, rejected, answered, problem } = &failed;
            c.prepare_cached(sql)?.execute(params![at.plus(*pause).0, millis(*pause), rejected, at.0, answered, problem, id])?;
            reports.iter().try_for_each(|n| insert(c, n, *at))
        })
        .await
    }

    /// Gives a mail up, because it will not be delivered, or because its delivery will never be known. `reports` are mails to the
    /// operators, saved with it.
    pub async fn give_up(
        &self,
        id: i64,
        now: Timestamp,
        problem: String,
        reports: Vec<Notification>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql = "UPDATE notifications SET given_up_at = ?1, attempts = attempts + 1, problem = ?2 WHERE id = ?3";
            c.prepare_cached(sql)?.execute(params![now.0, problem, id])?;
            reports.iter().try_for_each(|n| insert(c, n, now))
        })
        .await
    }

    /// The state of mails to other recipients: it distinguishes a rejected recipient from a server that rejects everybody.
    pub async fn other_mails(&self, recipient: &str, since: Timestamp) -> Result<OtherMails, StoreError> {
        let recipient = recipient.to_owned();
        self.read(move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE sent_at >= ?1),
                              EXISTS (SELECT 1 FROM notifications WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0
                                      AND attempts > 0 AND recipient <> ?2)";
            let found = c
                .prepare_cached(sql)?
                .query_row(params![since.0, recipient], |r| Ok(OtherMails { taken: r.get(0)?, failing: r.get(1)? }))?;
            Ok(found)
        })
        .await
    }

    /// Corrects times that were saved while the wall clock was ahead: a mail is due after its pause at the latest, and no past time lies
    /// after `now`. Returns the number of corrected mails.
    pub async fn heal_mail_times(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write_relaxed(move |c| {
            // A time that was saved between the reading of `now` and this write does not mean that the clock
            // was set.
            let due = "UPDATE notifications SET due_at = ?1 + pause
                       WHERE sent_at IS NULL AND given_up_at IS NULL AND due_at > ?1 + pause + 5000";
            let past =
                "UPDATE notifications SET created_at = min(created_at, ?1), sent_at = min(sent_at, ?1), given_up_at = min(given_up_at, ?1),
                            first_rejected_at = min(first_rejected_at, ?1)
                        WHERE created_at > ?1 + 5000 OR sent_at > ?1 + 5000 OR given_up_at > ?1 + 5000 OR first_rejected_at > ?1 + 5000";
            let corrected = c.prepare_cached(due)?.execute([now.0])?;
            Ok(corrected + c.prepare_cached(past)?.execute([now.0])?)
        })
        .await
    }

    /// When the server last accepted a mail.
    pub async fn last_mail(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|c| {
            Ok(c.query_row("SELECT max(sent_at) FROM notifications", [], |r| r.get::<_, Option<i64>>(0))?
                .map(Timestamp))
        })
        .await
    }

    /// Deletes mails that were delivered, given up or suspended before `before`, and whose alert is over.
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

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
