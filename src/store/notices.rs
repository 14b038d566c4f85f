//! How a decision changes the outbox: notices that it adds, and unsent ones that are outdated by it.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::brake::{self, Braked, braked};
use super::rows::incident_to_json;
use super::{Store, StoreError, millis};
use crate::domain::{BrakeChange, CauseChange, MailKind, Notification, Notify, Timestamp};

/// Notices that have not begun to go out: nobody has learnt of them.
const PENDING: &str = "sent_at IS NULL AND given_up_at IS NULL AND attempts = 0 AND unanswered = 0 AND (due_at > :now OR hold = 1)";

/// Notices that were sent, or may have been, or will be.
const REACHING: &str = "(sent_at IS NOT NULL OR given_up_at IS NULL OR unanswered > 0)";

/// What a probe has decided about mails.
pub(super) struct Decided<'a> {
    /// The changes to causes.
    pub(super) causes: &'a [CauseChange],
    /// The mails to be sent.
    pub(super) notifications: &'a [Notification],
    /// The alert that has ended, or has another reason now.
    pub(super) outdated: Option<&'a String>,
    /// The change of the brake.
    pub(super) brake: Option<&'a BrakeChange>,
    /// How long mails wait for others to the same person.
    pub(super) wait: Duration,
    /// When this was decided.
    pub(super) at: Timestamp,
}

/// Saves a notice that is due after `pause`; the same notice to the same recipient is saved once.
pub(super) fn insert(
    c: &Connection,
    n: &Notification,
    now: Timestamp,
    pause: Duration,
) -> Result<(), StoreError> {
    insert_as(c, n, n.kind, now, pause)
}

fn insert_as(
    c: &Connection,
    n: &Notification,
    kind: MailKind,
    now: Timestamp,
    pause: Duration,
) -> Result<(), StoreError> {
    let Braked { held, until } = braked(c, n, now)?;
    let pause = until.map_or(pause, |until| pause.max(until.since(now)));
    c.prepare_cached(
        "INSERT OR IGNORE INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at, pause, group_key, for_admin, hold)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        n.alert,
        n.sequence,
        n.recipient,
        kind.label(),
        incident_to_json(&n.incident),
        now.0,
        now.plus(pause).0,
        millis(pause),
        n.group_key(),
        n.for_admin,
        held,
    ])?;
    Ok(())
}

/// Saves the notices of a probe. What was decided earlier about an alert and has not gone out yet is replaced where the alert has changed, and dropped
/// where it has ended.
pub(super) fn save(c: &Connection, decided: &Decided<'_>) -> Result<(), StoreError> {
    if let Some(change) = decided.brake {
        brake::apply(c, change, decided.at)?;
    }
    let closed = decided.causes.iter().filter_map(|change| match change {
        CauseChange::Close(_, alert) => Some(alert),
        _ => None,
    });
    let mut dropped: HashMap<&str, Vec<String>> = HashMap::new();
    for alert in decided.outdated.into_iter().chain(closed) {
        dropped.insert(alert, drop_pending(c, alert, decided)?);
    }
    for notice in decided.notifications {
        let dropped = dropped.get(notice.alert.as_str()).map(Vec::as_slice).unwrap_or_default();
        save_one(c, notice, dropped, decided)?;
    }
    Ok(())
}

/// Deletes the pending notices of an alert, except for those that a notice of the decision replaces. Returns whose they were.
fn drop_pending(c: &Connection, alert: &str, decided: &Decided<'_>) -> Result<Vec<String>, StoreError> {
    let is_replaced = |recipient: &str| {
        decided
            .notifications
            .iter()
            .any(|n| n.alert == alert && n.recipient == recipient && n.kind != MailKind::Resolved)
    };
    let mut statement = c.prepare_cached(&format!(
        "SELECT id, recipient FROM notifications WHERE alert = :alert AND {PENDING}"
    ))?;
    let pending = statement
        .query_map(rusqlite::named_params! { ":alert": alert, ":now": decided.at.0 }, |r| {
            Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let mut dropped = Vec::new();
    for (id, recipient) in pending.into_iter().filter(|(_, recipient)| !is_replaced(recipient)) {
        c.prepare_cached("DELETE FROM notifications WHERE id = ?1")?.execute([id])?;
        dropped.push(recipient);
    }
    Ok(dropped)
}

/// Saves one notice, in view of the earlier ones of its alert. `dropped` are the people whose notices of the alert were dropped just now.
fn save_one(
    c: &Connection,
    notice: &Notification,
    dropped: &[String],
    decided: &Decided<'_>,
) -> Result<(), StoreError> {
    // The operators learn of the brake at once.
    let is_brake = notice.incident.brake.is_some();
    let (now, wait) = (decided.at, if is_brake { Duration::ZERO } else { decided.wait });
    match notice.kind {
        MailKind::Resolved => {
            let mine = reaches(c, &notice.alert, Some(&notice.recipient))?;
            // Somebody else learns of it, because the setting has changed since.
            let others = || {
                let was_meant = dropped.contains(&notice.recipient) || is_known(c, notice)?;
                Ok::<_, StoreError>(!was_meant && reaches(c, &notice.alert, None)?)
            };
            if mine || others()? {
                insert(c, notice, now, wait)?;
                supersede(c, &notice.incident.integration, &notice.recipient)?;
            }
            Ok(())
        }
        MailKind::Changed | MailKind::Operator if replace_pending(c, notice, now)? => Ok(()),
        // The earlier mail says it, as soon as it goes out.
        MailKind::Reminder if waits(c, notice)? => Ok(()),
        MailKind::Operator if notice.incident.reminds && waits(c, notice)? => Ok(()),
        MailKind::Changed | MailKind::Reminder => {
            let knows = reaches(c, &notice.alert, Some(&notice.recipient))?;
            insert_as(c, notice, if knows { notice.kind } else { MailKind::Alert }, now, wait)
        }
        _ => insert(c, notice, now, wait),
    }
}

/// Puts a newer notice in the place of the pending one of the same alert to the same person, with its time. It is another row, so that a mail that is being
/// prepared with the earlier text is not sent. Returns whether there was one.
fn replace_pending(c: &Connection, notice: &Notification, now: Timestamp) -> Result<bool, StoreError> {
    let sql = format!(
        "DELETE FROM notifications WHERE alert = :alert AND recipient = :recipient AND {PENDING}
         RETURNING kind, sequence, created_at, due_at, pause, hold"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let parameters = rusqlite::named_params! {
        ":alert": notice.alert,
        ":recipient": notice.recipient,
        ":now": now.0,
    };
    type Row = (String, u32, i64, i64, i64, i64);
    let row = |r: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
        Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?))
    };
    let deleted = statement.query_map(parameters, row)?.collect::<Result<Vec<_>, _>>()?;
    let Some((kind, sequence, created, due, pause, hold)) = deleted.into_iter().min_by_key(|row| row.1)
    else {
        return Ok(false);
    };
    let kind = if kind == MailKind::Reminder.label() { notice.kind.label().to_owned() } else { kind };
    c.prepare_cached(
        "INSERT INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at, pause, group_key, for_admin, hold)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        notice.alert,
        sequence,
        notice.recipient,
        kind,
        incident_to_json(&notice.incident),
        created,
        due,
        pause,
        notice.group_key(),
        notice.for_admin,
        hold,
    ])?;
    Ok(true)
}

impl Store {
    /// Deletes what is meant for administrators, has not begun to go out, and would go to other people, or nobody, now. `settings` has the setting of every
    /// integration. Returns whose notices were deleted, by alert.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn withdraw(
        &self,
        settings: HashMap<String, Notify>,
    ) -> Result<HashMap<String, Vec<String>>, StoreError> {
        self.write(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, alert, recipient, for_admin, json_extract(story, '$.integration') FROM notifications
                 WHERE sent_at IS NULL AND given_up_at IS NULL AND attempts = 0 AND unanswered = 0 AND group_key LIKE 'admins/%'",
            )?;
            let mut delete = c.prepare_cached("DELETE FROM notifications WHERE id = ?1")?;
            let (mut withdrawn, mut rows) = (HashMap::<String, Vec<String>>::new(), statement.query([])?);
            let mut outdated = Vec::new();
            while let Some(r) = rows.next()? {
                let meant = if r.get(3)? { Notify::Admins } else { Notify::Operators };
                if settings.get(&r.get::<_, String>(4)?).is_some_and(|setting| *setting != meant) {
                    outdated.push(r.get::<_, i64>(0)?);
                    withdrawn.entry(r.get(1)?).or_default().push(r.get(2)?);
                }
            }
            drop(rows);
            for id in outdated {
                delete.execute([id])?;
            }
            Ok(withdrawn)
        })
        .await
    }
}

/// Whether there is any notice of the alert to the same person.
fn is_known(c: &Connection, notice: &Notification) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE alert = ?1 AND recipient = ?2)";
    Ok(c.prepare_cached(sql)?.query_row(params![notice.alert, notice.recipient], |r| r.get(0))?)
}

/// Whether an earlier notice of the alert to the same person has not gone out yet.
fn waits(c: &Connection, notice: &Notification) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE alert = ?1 AND recipient = ?2 AND sent_at IS NULL AND given_up_at IS NULL)";
    Ok(c.prepare_cached(sql)?.query_row(params![notice.alert, notice.recipient], |r| r.get(0))?)
}

/// Whether a notice of the alert reaches this person, or anybody.
fn reaches(c: &Connection, alert: &str, recipient: Option<&str>) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM notifications WHERE alert = ?1 AND recipient = coalesce(?2, recipient) AND {REACHING})"
    );
    Ok(c.prepare_cached(&sql)?.query_row(params![alert, recipient], |r| r.get(0))?)
}

/// Deletes a delayed notice of a re-authentication: the one about the end of the alert says who re-authenticated.
fn supersede(c: &Connection, integration: &str, recipient: &str) -> Result<(), StoreError> {
    c.prepare_cached(
        "DELETE FROM notifications WHERE kind = 'reauthenticated' AND recipient = ?2 AND pause > 0 AND attempts = 0 AND unanswered = 0
           AND sent_at IS NULL AND given_up_at IS NULL AND json_extract(story, '$.integration') = ?1",
    )?
    .execute(params![integration, recipient])?;
    Ok(())
}
