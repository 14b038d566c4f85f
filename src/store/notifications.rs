//! The outbox: mails from the decision to the delivery.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{incident_from_json, incident_to_json};
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
    /// Attempts that ended with the server refusing recipient or mail for good.
    pub rejections: u32,
    /// When the first of them was.
    pub first_rejection: Option<Timestamp>,
    /// How often it was handed over without an answer: it may have arrived.
    pub unanswered: u32,
}

/// An attempt that failed, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When.
    pub at: Timestamp,
    /// The next one comes after this.
    pub pause: Duration,
    /// The server refused recipient or mail for good.
    pub rejected: bool,
    /// It was noted that the mail is being handed over, and the server has answered after all.
    pub answered: bool,
    /// Why, for people.
    pub problem: String,
}

/// What is known of other mails than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherMails {
    /// The server has taken one since then.
    pub taken: bool,
    /// One to somebody else waits after a failed attempt.
    pub failing: bool,
}

/// Saves a notification; the same notice to the same person is saved once.
pub(super) fn insert(c: &Connection, n: &Notification, now: Timestamp) -> Result<(), StoreError> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )?
    .execute(params![n.alert, n.sequence, n.recipient, n.kind.label(), incident_to_json(&n.incident), now.0])?;
    Ok(())
}

/// A mail that may turn out not to be needed is due later.
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

/// The mail about the end of an alert says who re-authenticated: the one that was postponed is not needed.
pub(super) fn supersede(c: &Connection, integration: &str, recipient: &str) -> Result<(), StoreError> {
    c.prepare_cached(
        "DELETE FROM notifications WHERE kind = 'reauthenticated' AND recipient = ?2 AND pause > 0 AND attempts = 0 AND unanswered = 0
           AND sent_at IS NULL AND given_up_at IS NULL AND json_extract(story, '$.integration') = ?1",
    )?
    .execute(params![integration, recipient])?;
    Ok(())
}

/// That no earlier mail waits that is of the same alert, or about the same integration, and to the same person: the last mail that is read
/// tells the truth. The story of a cause may name one integration now and another one later.
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
    /// When the mail server took it.
    pub sent: Option<Timestamp>,
    /// It was given up.
    pub given_up: bool,
    /// Why it waits, or was given up, in the mail server's words.
    pub problem: Option<String>,
}

/// The expression is that of the index.
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

    /// Whether a mail still waits as it was read: nobody has sent, failed or handed it over since.
    pub async fn is_as_read(&self, queued: &Queued) -> Result<bool, StoreError> {
        let (id, attempts, unanswered) = (queued.id, queued.attempts, queued.unanswered);
        self.read(move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE id = ?1 AND attempts = ?2 AND unanswered = ?3
                           AND sent_at IS NULL AND given_up_at IS NULL AND suspended = 0)";
            Ok(c.prepare_cached(sql)?.query_row(params![id, attempts, unanswered], |r| r.get(0))?)
        })
        .await
    }

    /// When the next waiting mail is due, and how many wait.
    pub async fn outbox(&self) -> Result<(Option<Timestamp>, i64), StoreError> {
        self.read(|c| {
            const WAITING: &str =
                "FROM notifications n WHERE sent_at IS NULL AND given_up_at IS NULL AND suspended = 0";
            // A mail behind an earlier one to the same person is due no sooner than that one. Found by the index of due times: in an outage
            // a hundred thousand mails may wait, and this is asked with every one that goes out.
            let next = format!("SELECT due_at {WAITING} AND {FIRST} ORDER BY due_at LIMIT 1");
            let next = c.prepare_cached(&next)?.query_row([], |r| r.get(0)).optional()?;
            let waiting =
                c.prepare_cached(&format!("SELECT count(*) {WAITING}"))?.query_row([], |r| r.get(0))?;
            Ok((next.map(Timestamp), waiting))
        })
        .await
    }

    /// The mail is about to be handed over. From here on it may have arrived, so it is not sent again before `pause` is over, whatever
    /// becomes of this process.
    pub async fn mark_handed_over(&self, id: i64, now: Timestamp, pause: Duration) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql =
                "UPDATE notifications SET due_at = ?1, pause = ?2, unanswered = unanswered + 1 WHERE id = ?3";
            c.prepare_cached(sql)?.execute(params![now.plus(pause).0, millis(pause), id])?;
            Ok(())
        })
        .await
    }

    /// The mail was taken by the server.
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

    /// The attempt failed; the next is after a pause. `tell` goes to the operators at once.
    pub async fn mark_failed(
        &self,
        id: i64,
        failed: FailedAttempt,
        tell: Vec<Notification>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql = "UPDATE notifications SET due_at = ?1, pause = ?2, attempts = attempts + 1, rejections = rejections + ?3,
                           first_rejected_at = iif(?3, coalesce(first_rejected_at, ?4), first_rejected_at),
                           unanswered = max(unanswered - ?5, 0), problem = ?6
                       WHERE id = ?7";
            let FailedAttempt { at, pause, rejected, answered, problem } = &failed;
            c.prepare_cached(sql)?.execute(params![at.plus(*pause).0, millis(*pause), rejected, at.0, answered, problem, id])?;
            tell.iter().try_for_each(|n| insert(c, n, *at))
        })
        .await
    }

    /// The mail will not be delivered, or nobody will ever know: `tell` goes to the operators instead.
    pub async fn give_up(
        &self,
        id: i64,
        now: Timestamp,
        problem: String,
        tell: Vec<Notification>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let sql = "UPDATE notifications SET given_up_at = ?1, attempts = attempts + 1, problem = ?2 WHERE id = ?3";
            c.prepare_cached(sql)?.execute(params![now.0, problem, id])?;
            tell.iter().try_for_each(|n| insert(c, n, now))
        })
        .await
    }

    /// What has become of other mails than those to this person: it tells a recipient that is refused from a server that refuses everybody.
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

    /// Brings times that were noted while the wall clock was ahead back to what they may be: a mail is due after its pause at the latest, and nothing
    /// has happened later than now. Answers how many mails had such times.
    pub async fn heal_mail_times(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write_relaxed(move |c| {
            // What was saved between the reading of `now` and this write is no sign of a clock that was set.
            let due = "UPDATE notifications SET due_at = ?1 + pause
                       WHERE sent_at IS NULL AND given_up_at IS NULL AND due_at > ?1 + pause + 5000";
            let past =
                "UPDATE notifications SET created_at = min(created_at, ?1), sent_at = min(sent_at, ?1), given_up_at = min(given_up_at, ?1),
                            first_rejected_at = min(first_rejected_at, ?1)
                        WHERE created_at > ?1 + 5000 OR sent_at > ?1 + 5000 OR given_up_at > ?1 + 5000 OR first_rejected_at > ?1 + 5000";
            let healed = c.prepare_cached(due)?.execute([now.0])?;
            Ok(healed + c.prepare_cached(past)?.execute([now.0])?)
        })
        .await
    }

    /// When a mail was last taken by the server.
    pub async fn last_mail(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|c| {
            Ok(c.query_row("SELECT max(sent_at) FROM notifications", [], |r| r.get::<_, Option<i64>>(0))?
                .map(Timestamp))
        })
        .await
    }

    /// Forgets mails that were delivered, given up or left waiting in vain before `before`, and whose alert is over.
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
