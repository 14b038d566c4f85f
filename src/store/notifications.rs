//! The outbox: notices from the decision to the delivery, and the mails that they are sent in.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::brake::held_mails;
use super::rows::incident_from_json;
use super::{Store, StoreError, millis, notices};
use crate::domain::{MailKind, Notification, Timestamp};

/// A waiting notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Row id.
    pub id: i64,
    /// Its content and recipient.
    pub notification: Notification,
    /// The Message-ID with which it was handed over.
    pub message_id: Option<String>,
    /// Number of attempts so far.
    pub attempts: u32,
    /// Number of attempts in which the server permanently rejected recipient or mail.
    pub rejections: u32,
    /// When the first of them was.
    pub first_rejection: Option<Timestamp>,
    /// How often it was handed over without a response: it may have been delivered.
    pub unanswered: u32,
}

/// Notices that are sent in one mail, in the order in which they were decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The row ids of all.
    pub ids: Vec<i64>,
    /// The oldest one; its history is that of the mail.
    pub first: Queued,
    /// Those that the mail shows: the most urgent ones.
    pub shown: Vec<Shown>,
    /// All kinds, and how many notices of each.
    pub kinds: Vec<(MailKind, usize)>,
    /// The integrations that they are about, without repetition.
    pub integrations: Vec<String>,
}

/// A notice that a mail shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What it says.
    pub notification: Notification,
    /// The first mail of its alert to this recipient, if this is a later one.
    pub thread: Option<Thread>,
}

/// The first mail of an alert to a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its Message-ID; `None` for mails of older versions.
    pub message_id: Option<String>,
    /// The number of its notice.
    pub sequence: u32,
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

/// The state of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxState {
    /// When the next notice is due, or the brake ends.
    pub next: Option<Timestamp>,
    /// Number of notices that are due or were tried, without those that the brake holds.
    pub waiting: i64,
    /// Number of notices that the brake holds.
    pub held: i64,
}

/// What is known of mails to other recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherMails {
    /// Whether the server has accepted a mail since then.
    pub taken: bool,
    /// Whether a mail to another recipient waits after a failed attempt.
    pub failing: bool,
}

/// Notices that wait to be sent.
const WAITING: &str = "n.sent_at IS NULL AND n.given_up_at IS NULL AND n.hold <> 1 AND n.suspended = 0";

/// Condition: no earlier notice to the same recipient waits that belongs to the same alert or is about the same integration. So the last mail
/// that a person reads is up to date. The story of a cause may name different integrations over time. The unary plus keeps the index of recipients
/// out, which is slow where thousands wait for one person.
const FIRST: &str = "
    NOT EXISTS (SELECT 1 FROM notifications e WHERE e.alert = n.alert AND +e.recipient = n.recipient
                AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM notifications e
                    WHERE json_extract(e.story, '$.integration') = json_extract(n.story, '$.integration') AND +e.recipient = n.recipient
                    AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL AND e.suspended = 0)";

/// A notice with its history.
const NOTICE: &str = "
    SELECT n.id, n.alert, n.sequence, n.recipient, n.kind, n.story, n.attempts, n.rejections, n.first_rejected_at, n.unanswered, n.for_admin,
           n.message_id
    FROM notifications n";

/// Numbers as a JSON list, for `json_each`.
fn json_list(ids: &[i64]) -> String {
    serde_json::to_string(ids).unwrap_or_default()
}

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
    /// When it is due, while it waits.
    pub due: Timestamp,
    /// Why it waits besides.
    pub waits: MailWait,
}

/// Why a mail about an integration waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailWait {
    /// For its time.
    Due,
    /// The brake holds it.
    Held,
    /// For an earlier mail to the same person.
    Earlier,
    /// The integration has left the configuration.
    Suspended,
}

/// The expression is the same as in the index.
pub(super) const ABOUT: &str = "
    SELECT n.kind, n.recipient, n.created_at, n.sent_at, n.given_up_at, n.problem, n.due_at, n.hold = 1, n.suspended,
           EXISTS (SELECT 1 FROM notifications e
                   WHERE json_extract(e.story, '$.integration') = ?1 AND +e.recipient = n.recipient
                     AND e.id < n.id AND e.sent_at IS NULL AND e.given_up_at IS NULL AND e.suspended = 0)
    FROM notifications n WHERE json_extract(n.story, '$.integration') = ?1 ORDER BY n.id DESC LIMIT 50";

impl Store {
    /// The newest mails about an integration, newest first.
    pub async fn mails_about(&self, integration: &str) -> Result<Vec<MailAbout>, StoreError> {
        let name = integration.to_owned();
        self.read(move |c| {
            let mut statement = c.prepare_cached(ABOUT)?;
            let mail = |r: &rusqlite::Row<'_>| {
                let waits = match (r.get(7)?, r.get(8)?, r.get(9)?) {
                    (true, ..) => MailWait::Held,
                    (_, true, _) => MailWait::Suspended,
                    (.., true) => MailWait::Earlier,
                    _ => MailWait::Due,
                };
                // A newer version may know more kinds.
                let Some(kind) = MailKind::from_label(&r.get::<_, String>(0)?) else { return Ok(None) };
                Ok(Some(MailAbout {
                    kind,
                    recipient: r.get(1)?,
                    created: Timestamp(r.get(2)?),
                    sent: r.get::<_, Option<i64>>(3)?.map(Timestamp),
                    given_up: r.get::<_, Option<i64>>(4)?.is_some(),
                    problem: r.get(5)?,
                    due: Timestamp(r.get(6)?),
                    waits,
                }))
            };
            let mails = statement.query_map([name], mail)?.collect::<Result<Vec<_>, _>>()?;
            Ok(mails.into_iter().flatten().collect())
        })
        .await
    }

    /// The notices that are due now, oldest first; each may take others with it: see [`Self::group`].
    pub async fn due_notifications(&self, now: Timestamp, limit: u32) -> Result<Vec<Queued>, StoreError> {
        self.due_to_others(now, limit, &[]).await
    }

    /// Like [`Self::due_notifications`], without those for these people.
    pub async fn due_to_others(
        &self,
        now: Timestamp,
        limit: u32,
        people: &[String],
    ) -> Result<Vec<Queued>, StoreError> {
        let people = serde_json::to_string(people).unwrap_or_default();
        self.read(move |c| {
            let sql = format!(
                "{NOTICE} WHERE {WAITING} AND n.due_at <= ?1 AND n.recipient NOT IN (SELECT value FROM json_each(?3))
                   AND {FIRST} ORDER BY n.id LIMIT ?2"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let due =
                statement.query_map(params![now.0, limit, people], queued)?.collect::<Result<Vec<_>, _>>()?;
            Ok(due.into_iter().flatten().collect())
        })
        .await
    }

    /// The mail in which a notice goes out: all notices to the same recipient that may share one and need not wait for an earlier one. `None` if the
    /// notice does not wait any more as it was read: it was sent, dropped or replaced, or an attempt has failed since.
    ///
    /// A mail that was handed over before is the same again. Notices that wait longer than `wait` for a reason of their own do not join before they are
    /// due. `most` notices are shown.
    pub async fn group(
        &self,
        leader: &Queued,
        now: Timestamp,
        wait: Duration,
        most: usize,
    ) -> Result<Option<Group>, StoreError> {
        let leader = leader.clone();
        self.read(move |c| {
            let Some(leader) = reread(c, &leader)? else { return Ok(None) };
            let mut members = members(c, &leader, now, wait)?;
            if members.is_empty() {
                return Ok(None);
            }
            let ids = members.iter().map(|m| m.id).collect();
            let first = notice(c, members[0].id)?;
            members.sort_by_key(|m| (m.kind.urgency(), m.id));
            let mut shown = Vec::new();
            for member in members.iter().take(most) {
                let Some(Queued { id, mut notification, .. }) = notice(c, member.id)? else { continue };
                if let Some(brake) = &mut notification.incident.brake {
                    brake.held = held_mails(c)?;
                }
                let thread = thread(c, id, &notification)?;
                shown.push(Shown { notification, thread });
            }
            let mut kinds: Vec<(MailKind, usize)> = Vec::new();
            for member in &members {
                match kinds.iter_mut().find(|(kind, _)| *kind == member.kind) {
                    Some((_, count)) => *count += 1,
                    None => kinds.push((member.kind, 1)),
                }
            }
            let mut integrations: Vec<String> = members.into_iter().map(|m| m.integration).collect();
            let mut known = std::collections::HashSet::new();
            integrations.retain(|name| known.insert(name.clone()));
            Ok(first.map(|first| Group { ids, first, shown, kinds, integrations }))
        })
        .await
    }

    /// The state of the outbox.
    pub async fn outbox(&self, now: Timestamp) -> Result<OutboxState, StoreError> {
        self.read(move |c| {
            // A notice behind an earlier one to the same recipient is not due before that one. The query uses
            // the index of due times, because in an outage a hundred thousand mails may wait, and it runs after
            // every drain.
            let next =
                format!("SELECT due_at FROM notifications n WHERE {WAITING} AND {FIRST} ORDER BY due_at LIMIT 1");
            let next: Option<i64> = c.prepare_cached(&next)?.query_row([], |r| r.get(0)).optional()?;
            let release: Option<i64> = c.prepare_cached("SELECT until FROM brake")?.query_row([], |r| r.get(0))?;
            let waiting = format!(
                "SELECT count(*) FROM notifications n WHERE {WAITING} AND (n.due_at <= ?1 OR n.attempts > 0 OR n.unanswered > 0)"
            );
            let held = "SELECT count(*) FROM notifications WHERE hold = 1 AND sent_at IS NULL AND given_up_at IS NULL";
            Ok(OutboxState {
                next: next.into_iter().chain(release).min().map(Timestamp),
                waiting: c.prepare_cached(&waiting)?.query_row([now.0], |r| r.get(0))?,
                held: c.prepare_cached(held)?.query_row([], |r| r.get(0))?,
            })
        })
        .await
    }

    /// Records that a mail with these notices is about to be handed over. From now on it may have been delivered, so it is not sent again before
    /// `pause` is over, even if this process ends, and always with the same Message-ID and the same notices. Returns false if one of them does not wait
    /// any more as it was read; then nothing is recorded, and the mail must not be sent.
    pub async fn mark_handed_over(
        &self,
        ids: &[i64],
        message_id: &str,
        now: Timestamp,
        pause: Duration,
    ) -> Result<bool, StoreError> {
        let (ids, message_id, expected) =
            (json_list(ids), message_id.to_owned(), i64::try_from(ids.len()).unwrap_or(i64::MAX));
        self.write(move |c| {
            let waiting = format!(
                "SELECT count(*) FROM notifications n WHERE n.id IN (SELECT value FROM json_each(?1)) AND {WAITING}
                   AND coalesce(n.message_id, ?2) = ?2"
            );
            let waiting: i64 = c.prepare_cached(&waiting)?.query_row(params![ids, message_id], |r| r.get(0))?;
            if waiting != expected {
                return Ok(false);
            }
            let sql = "UPDATE notifications SET due_at = ?1, pause = ?2, unanswered = unanswered + 1, message_id = ?4
                       WHERE id IN (SELECT value FROM json_each(?3))";
            c.prepare_cached(sql)?.execute(params![now.plus(pause).0, millis(pause), ids, message_id])?;
            Ok(true)
        })
        .await
    }

    /// Records that the server accepted the mail, and under which Message-ID.
    ///
    /// # Errors
    /// The database returns an error; then the mail will be sent again, with the same `Message-ID`.
    pub async fn mark_sent(&self, ids: &[i64], message_id: &str, now: Timestamp) -> Result<(), StoreError> {
        let (ids, message_id) = (json_list(ids), message_id.to_owned());
        self.write(move |c| {
            let sql = "UPDATE notifications SET sent_at = ?1, attempts = attempts + 1, problem = NULL, message_id = ?3
                       WHERE id IN (SELECT value FROM json_each(?2))";
            c.prepare_cached(sql)?.execute(params![now.0, ids, message_id])?;
            Ok(())
        })
        .await
    }

    /// Records a failed attempt; the next one follows after a pause. `reports` are mails to the operators, saved with it. The notices of a mail that the
    /// server has certainly not accepted may be sent in another group next time.
    pub async fn mark_failed(
        &self,
        ids: &[i64],
        failed: FailedAttempt,
        reports: Vec<Notification>,
    ) -> Result<(), StoreError> {
        let ids = json_list(ids);
        self.write(move |c| {
            let sql = "UPDATE notifications SET due_at = ?1, pause = ?2, attempts = attempts + 1, rejections = rejections + ?3,
                           first_rejected_at = iif(?3, coalesce(first_rejected_at, ?4), first_rejected_at),
                           message_id = iif(unanswered - ?5 <= 0, NULL, message_id),
                           unanswered = max(unanswered - ?5, 0), problem = ?6
                       WHERE id IN (SELECT value FROM json_each(?7))";
            let FailedAttempt { at, pause, rejected, answered, problem } = &failed;
            c.prepare_cached(sql)?
                .execute(params![at.plus(*pause).0, millis(*pause), rejected, at.0, answered, problem, ids])?;
            reports.iter().try_for_each(|n| notices::insert(c, n, *at, Duration::ZERO))
        })
        .await
    }

    /// Gives a mail up, because it will not be delivered, or because its delivery will never be known. `reports` are mails to the
    /// operators, saved with it.
    pub async fn give_up(
        &self,
        ids: &[i64],
        now: Timestamp,
        problem: String,
        reports: Vec<Notification>,
    ) -> Result<(), StoreError> {
        let ids = json_list(ids);
        self.write(move |c| {
            let sql = "UPDATE notifications SET given_up_at = ?1, attempts = attempts + 1, problem = ?2
                       WHERE id IN (SELECT value FROM json_each(?3))";
            c.prepare_cached(sql)?.execute(params![now.0, problem, ids])?;
            reports.iter().try_for_each(|n| notices::insert(c, n, now, Duration::ZERO))
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
            let brake = "UPDATE brake SET since = min(since, ?1), until = iif(since > ?1 + 5000, ?1 + until - since, until),
                             waits_until = iif(waits_since > ?1 + 5000, NULL, waits_until)
                         WHERE since > ?1 + 5000 OR waits_since > ?1 + 5000";
            c.prepare_cached(brake)?.execute([now.0])?;
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

/// A row of [`NOTICE`]; `None` if a newer version has written it.
fn queued(r: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Queued>> {
    let (kind, incident): (String, String) = (r.get(4)?, r.get(5)?);
    let (Some(kind), Some(incident)) = (MailKind::from_label(&kind), incident_from_json(&incident)) else {
        return Ok(None);
    };
    let notification = Notification {
        alert: r.get(1)?,
        sequence: r.get(2)?,
        recipient: r.get(3)?,
        kind,
        for_admin: r.get(10)?,
        incident,
    };
    Ok(Some(Queued {
        id: r.get(0)?,
        notification,
        message_id: r.get(11)?,
        attempts: r.get(6)?,
        rejections: r.get(7)?,
        first_rejection: r.get::<_, Option<i64>>(8)?.map(Timestamp),
        unanswered: r.get(9)?,
    }))
}

fn notice(c: &Connection, id: i64) -> Result<Option<Queued>, StoreError> {
    let mut statement = c.prepare_cached(&format!("{NOTICE} WHERE n.id = ?1"))?;
    Ok(statement.query_row([id], queued).optional()?.flatten())
}

/// The notice as it is now, if it still waits and was not tried since it was read.
fn reread(c: &Connection, read: &Queued) -> Result<Option<Queued>, StoreError> {
    let sql = format!("{NOTICE} WHERE n.id = ?1 AND n.attempts = ?2 AND n.unanswered = ?3 AND {WAITING}");
    let mut statement = c.prepare_cached(&sql)?;
    Ok(statement.query_row(params![read.id, read.attempts, read.unanswered], queued).optional()?.flatten())
}

/// A notice of a group.
struct GroupMember {
    id: i64,
    kind: MailKind,
    integration: String,
}

/// The notices that go out together with this one, in the order in which they were decided. Those that wait after a failed attempt join only when they
/// are due, and none that the server has refused before.
fn members(
    c: &Connection,
    leader: &Queued,
    now: Timestamp,
    wait: Duration,
) -> Result<Vec<GroupMember>, StoreError> {
    let same = match (&leader.message_id, leader.notification.group_key()) {
        (Some(_), _) => "n.message_id = :message_id".to_owned(),
        // A server that refused a mail may have refused one of its notices: they go separately then.
        (None, _) if leader.rejections > 0 => "n.id = :id".to_owned(),
        (None, Some(_)) => format!(
            "n.message_id IS NULL AND n.unanswered = 0 AND n.rejections = 0 AND (n.attempts = 0 AND n.pause <= :wait AND n.kind <> 'reauthenticated' OR n.due_at <= :now)
             AND n.group_key = :group_key AND {FIRST}"
        ),
        (None, None) => "n.id = :id".to_owned(),
    };
    let sql = format!(
        "SELECT n.id, n.kind, json_extract(n.story, '$.integration') FROM notifications n
         WHERE n.recipient = :recipient AND {WAITING} AND (n.id = :id OR {same}) ORDER BY n.id"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let parameters: [(&str, &dyn rusqlite::ToSql); 6] = [
        (":wait", &millis(wait)),
        (":id", &leader.id),
        (":recipient", &leader.notification.recipient),
        (":message_id", &leader.message_id),
        (":now", &now.0),
        (":group_key", &leader.notification.group_key()),
    ];
    for (name, value) in parameters {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    let (mut found, mut rows) = (Vec::new(), statement.raw_query());
    while let Some(r) = rows.next()? {
        let (id, kind, integration): (i64, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if let Some(kind) = MailKind::from_label(&kind) {
            found.push(GroupMember { id, kind, integration });
        }
    }
    Ok(found)
}

/// The mail in which an alert first went out to a recipient, or may have.
fn thread(c: &Connection, id: i64, notification: &Notification) -> Result<Option<Thread>, StoreError> {
    let sql = "SELECT message_id, sequence FROM notifications
               WHERE alert = ?1 AND recipient = ?2 AND id <> ?3 AND (sent_at IS NOT NULL OR unanswered > 0) ORDER BY sequence, id LIMIT 1";
    let first =
        c.prepare_cached(sql)?.query_row(params![notification.alert, notification.recipient, id], |r| {
            Ok(Thread { message_id: r.get(0)?, sequence: r.get(1)? })
        });
    Ok(first.optional()?)
}
