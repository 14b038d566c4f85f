//! The brake: mails that it holds, and what becomes of them.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::events::{Event, save_event};
use super::{Store, StoreError};
use crate::domain::{
    BrakeAction, BrakeChange, HeldMails, HeldPeriod, Hold, MailKind, Notification, Reason, Timestamp,
};

/// Kinds of mail that the brake holds when they go to administrators. A mail about a sign-in is not held, because it may be a warning.
const HELD_KINDS: [MailKind; 4] =
    [MailKind::Alert, MailKind::Changed, MailKind::Reminder, MailKind::Resolved];

/// Mails that have not begun to go out, and that the brake has not held before.
const HOLDABLE: &str = "for_admin AND hold = 0 AND kind IN ('alert', 'changed', 'reminder', 'resolved')
     AND sent_at IS NULL AND given_up_at IS NULL AND attempts = 0 AND unanswered = 0";

/// Lets held mails go out.
const RELEASE: &str = "UPDATE notifications SET hold = 2, due_at = ?1, pause = 0 WHERE hold = 1";

/// The number of entries in each list of [`HeldMails`].
const MOST_FREQUENT: u32 = 10;

/// What the brake does to a notice that is saved now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Braked {
    /// It is held.
    pub(super) held: bool,
    /// It waits until then.
    pub(super) until: Option<Timestamp>,
}

/// The brake as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedBrake {
    /// The hold, if it holds.
    pub hold: Option<Hold>,
    /// The last hold that is over.
    pub last: Option<HeldPeriod>,
    /// The latest failures that would have mailed an administrator: when, and which integration; oldest first.
    pub failures: Vec<(Timestamp, String)>,
}

/// What the brake does to this notice.
pub(super) fn braked(c: &Connection, n: &Notification, now: Timestamp) -> Result<Braked, StoreError> {
    if !n.for_admin || !HELD_KINDS.contains(&n.kind) {
        return Ok(Braked::default());
    }
    let braked = c
        .prepare_cached("SELECT id IS NOT NULL AND until > ?1, waits_until FROM brake")?
        .query_row([now.0], |r| {
            Ok(Braked {
                held: r.get::<_, Option<bool>>(0)?.unwrap_or(false),
                until: r.get::<_, Option<i64>>(1)?.map(Timestamp),
            })
        })?;
    Ok(braked)
}

/// Saves a change of the brake: it concerns all mails that have not begun to go out.
pub(super) fn apply(c: &Connection, change: &BrakeChange, now: Timestamp) -> Result<(), StoreError> {
    match change {
        BrakeChange::Waits { first, since, until } => {
            // An earlier decision may be saved after a later one.
            let sql = "UPDATE brake SET waits_since = ?1, waits_until = ?2 WHERE coalesce(waits_until, 0) < ?2 AND id IS NULL";
            c.execute(sql, params![since.0, until.0])?;
            // Mails that were decided before the first failure that counts have waited long enough.
            let sql = format!(
                "UPDATE notifications SET due_at = ?1, pause = max(pause, ?1 - ?2)
                 WHERE due_at < ?1 AND created_at >= ?3 AND {HOLDABLE}"
            );
            c.execute(&sql, params![until.0, now.0, first.0])?;
        }
        BrakeChange::Holds(hold) => {
            let known: Option<String> = c.query_row("SELECT id FROM brake", [], |r| r.get(0))?;
            if known.as_ref() == Some(&hold.id) {
                return Ok(());
            }
            // What an earlier hold has held is over, and is not held again.
            c.execute(RELEASE, [now.0])?;
            let Hold { id, since, until, broken, integrations } = hold;
            c.execute(
                "UPDATE brake SET waits_since = NULL, waits_until = NULL, id = ?1, since = ?2, until = ?3, broken = ?4, integrations = ?5",
                params![id, since.0, until.0, count(*broken), count(*integrations)],
            )?;
            c.execute(&format!("UPDATE notifications SET hold = 1 WHERE {HOLDABLE}"), [])?;
            let detail = format!("{broken} of {integrations} integrations broke within one interval");
            save_event(c, "", &Event { kind: "brake_held".to_owned(), at: now, detail })?;
        }
    }
    Ok(())
}

impl Store {
    /// The hold that was saved, the last one that is over, and the failures since `since` that would have mailed an administrator, oldest first. What was
    /// released does not count.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn load_brake(&self, since: Timestamp, now: Timestamp) -> Result<SavedBrake, StoreError> {
        self.read(move |c| {
            let sql = "SELECT min(created_at), json_extract(story, '$.integration') AS name FROM notifications
                       WHERE kind = 'alert' AND for_admin AND hold = 0 AND created_at >= ?1 GROUP BY name ORDER BY 1";
            let mut statement = c.prepare(sql)?;
            let failures = statement
                .query_map([since.0], |r| Ok((Timestamp(r.get::<_, i64>(0)?).min(now), r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let last = c.query_row("SELECT held_from, held_until FROM brake", [], |r| {
                let (from, until): (Option<i64>, Option<i64>) = (r.get(0)?, r.get(1)?);
                Ok(from.zip(until).map(|(from, until)| HeldPeriod { from: Timestamp(from), until: Timestamp(until) }))
            })?;
            Ok(SavedBrake { hold: saved_hold(c)?, last, failures })
        })
        .await
    }

    /// The hold, and what it holds; `None` while the brake holds nothing.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn brake(&self) -> Result<Option<(Hold, HeldMails)>, StoreError> {
        self.read(|c| match saved_hold(c)? {
            Some(hold) => Ok(Some((hold, held_mails(c)?))),
            None => Ok(None),
        })
        .await
    }

    /// Does something with the held mails; `who` is for the history. With [`BrakeAction::HoldLonger`] they wait for `longer` in addition. Returns the
    /// number of notices and the end of the hold, or `None` if this hold is over.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn act_on_brake(
        &self,
        id: &str,
        action: BrakeAction,
        longer: Duration,
        who: String,
        now: Timestamp,
    ) -> Result<Option<(usize, Timestamp)>, StoreError> {
        let id = id.to_owned();
        self.write(move |c| {
            let Some(hold) = saved_hold(c)?.filter(|hold| hold.id == id) else { return Ok(None) };
            act(c, &hold, action, longer, &who, now).map(Some)
        })
        .await
    }

    /// Releases the held mails if their time is over. Returns their number, if it was.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn end_brake_by_time(&self, now: Timestamp) -> Result<Option<usize>, StoreError> {
        let is_over = move |c: &Connection| -> Result<Option<Hold>, StoreError> {
            Ok(saved_hold(c)?.filter(|hold| hold.until <= now))
        };
        if self.read(move |c| is_over(c)).await?.is_none() {
            return Ok(None);
        }
        self.write(move |c| {
            let Some(hold) = saved_hold(c)?.filter(|hold| hold.until <= now) else { return Ok(None) };
            act(c, &hold, BrakeAction::Release, Duration::ZERO, "the end of its time", now)
                .map(|(notices, _)| Some(notices))
        })
        .await
    }
}

fn act(
    c: &Connection,
    hold: &Hold,
    action: BrakeAction,
    longer: Duration,
    who: &str,
    now: Timestamp,
) -> Result<(usize, Timestamp), StoreError> {
    const OVER: &str =
        "UPDATE brake SET held_from = since, held_until = ?1, id = NULL, since = NULL, until = NULL,
                                         broken = NULL, integrations = NULL";
    let (notices, until) = match action {
        BrakeAction::Release => {
            c.execute(OVER, [now.0])?;
            (c.execute(RELEASE, [now.0])?, now)
        }
        BrakeAction::Discard => {
            c.execute(OVER, [now.0])?;
            let discarded = c.execute(DISCARD, params![now.0, format!("discarded by {who}")])?;
            // The end of what somebody has learnt of.
            c.execute(RELEASE, [now.0])?;
            (discarded, now)
        }
        BrakeAction::HoldLonger => {
            let until = hold.until.max(now).plus(longer);
            if hold.until <= now {
                // Its time was over, and its mails had not gone out yet: what was decided meanwhile was not held.
                c.execute(&format!("UPDATE notifications SET hold = 1 WHERE {HOLDABLE}"), [])?;
            }
            c.execute("UPDATE brake SET until = ?1", [until.0])?;
            let held: i64 =
                c.query_row("SELECT count(*) FROM notifications WHERE hold = 1", [], |r| r.get(0))?;
            (usize::try_from(held).unwrap_or_default(), until)
        }
    };
    let detail = format!("{notices} held mails, by {who}");
    save_event(c, "", &Event { kind: action.event().to_owned(), at: now, detail })?;
    Ok((notices, until))
}

/// The end of an alert is discarded with it, unless its recipient has learnt of the alert.
const DISCARD: &str = "UPDATE notifications SET hold = 2, given_up_at = ?1, problem = ?2
     WHERE hold = 1 AND (kind <> 'resolved' OR NOT EXISTS (
         SELECT 1 FROM notifications AS known
         WHERE known.alert = notifications.alert AND known.recipient = notifications.recipient
           AND (known.sent_at IS NOT NULL OR known.unanswered > 0)))";

fn saved_hold(c: &Connection) -> Result<Option<Hold>, StoreError> {
    let sql = "SELECT id, since, until, broken, integrations FROM brake WHERE id IS NOT NULL";
    let hold = c.prepare_cached(sql)?.query_row([], |r| {
        let number = |index| r.get::<_, i64>(index).map(|n| usize::try_from(n).unwrap_or_default());
        Ok(Hold {
            id: r.get(0)?,
            since: Timestamp(r.get(1)?),
            until: Timestamp(r.get(2)?),
            broken: number(3)?,
            integrations: number(4)?,
        })
    });
    Ok(hold.optional()?)
}

/// What the brake holds now.
pub(super) fn held_mails(c: &Connection) -> Result<HeldMails, StoreError> {
    let number = |sql: &str| -> Result<usize, StoreError> {
        let n: i64 = c.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        Ok(usize::try_from(n).unwrap_or_default())
    };
    let most_frequent = |field: &str| -> Result<Vec<(String, usize)>, StoreError> {
        let sql = format!(
            "SELECT json_extract(story, '$.{field}') AS value, count(DISTINCT json_extract(story, '$.integration')) AS number
             FROM notifications WHERE hold = 1 GROUP BY value ORDER BY number DESC, value LIMIT {MOST_FREQUENT}"
        );
        let mut statement = c.prepare_cached(&sql)?;
        let rows = statement
            .query_map([], |r| Ok((r.get(0)?, usize::try_from(r.get::<_, i64>(1)?).unwrap_or_default())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let reasons = most_frequent("reason")?;
    Ok(HeldMails {
        notices: number("SELECT count(*) FROM notifications WHERE hold = 1")?,
        integrations: number(
            "SELECT count(DISTINCT json_extract(story, '$.integration')) FROM notifications WHERE hold = 1",
        )?,
        people: number("SELECT count(DISTINCT recipient) FROM notifications WHERE hold = 1")?,
        apps: most_frequent("app")?,
        tenants: most_frequent("tenant")?,
        tenant_count: number(
            "SELECT count(DISTINCT json_extract(story, '$.tenant')) FROM notifications WHERE hold = 1",
        )?,
        reasons: reasons
            .into_iter()
            .filter_map(|(label, number)| Some((Reason::from_label(&label)?, number)))
            .collect(),
    })
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
