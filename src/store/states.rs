//! States, alerts, causes and events: what one probe changes is saved in one piece.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{state_from_json, state_to_json, story_from_json, story_to_json};
use super::{Kind, Store, StoreError, notifications};
use crate::domain::{Cause, IntegrationState, Notification, Progress, Reason, Story, Timestamp};

/// An alert that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    /// Stable for one episode of failure.
    pub id: String,
    /// The reason last told.
    pub reason: Reason,
    /// When it was opened.
    pub since: Timestamp,
    /// Notices so far.
    pub notices: u32,
}

/// An integration as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedIntegration {
    /// Its name.
    pub name: String,
    /// Tenant and client id at that time.
    pub identity: String,
    /// Its state.
    pub state: IntegrationState,
    /// The tenant's GUID, once it was resolved.
    pub tenant_guid: Option<String>,
    /// Its open alert.
    pub alert: Option<OpenAlert>,
}

/// A change to the causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CauseChange {
    /// Opens a cause with its first member.
    Open(Box<Cause>),
    /// One more suffers from it: what the operators are notified of now, and the story of the mail if they are notified again.
    Join(String, Box<(Progress, Option<Story>)>),
    /// One fewer does; the moment, if it is the one that the last mail names.
    Leave(String, Option<Timestamp>),
    /// Nobody does any more.
    Close(String),
}

/// Something worth remembering in an integration's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `broken`, `changed`, `recovered`, `token_stored`, …
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// A reason label, or a word about the source.
    pub detail: String,
}

/// Everything that one probe changes: verdict, alert, event, causes and notifications, in one transaction.
#[derive(Debug, Clone)]
pub struct ProbeRecord {
    /// The integration afterwards.
    pub integration: SavedIntegration,
    /// What happened.
    pub events: Vec<Event>,
    /// What changes among the causes.
    pub causes: Vec<CauseChange>,
    /// Who must be told.
    pub notifications: Vec<Notification>,
    /// When this was decided.
    pub at: Timestamp,
}

/// Mails that were neither delivered nor given up.
const WAITING: &str = "sent_at IS NULL AND given_up_at IS NULL";

/// So many events are kept of an integration.
const HISTORY: u32 = 200;

impl Store {
    /// Saves what a probe changed.
    ///
    /// # Errors
    /// The database refuses; then nothing is saved.
    pub async fn save_probe(&self, record: ProbeRecord) -> Result<(), StoreError> {
        let durable = !(record.events.is_empty() && record.causes.is_empty() && record.notifications.is_empty());
        self.run(if durable { Kind::Durable } else { Kind::Relaxed }, move |c| {
            save_integration(c, &record.integration)?;
            for event in &record.events {
                save_event(c, &record.integration.name, event)?;
            }
            for change in &record.causes {
                save_cause(c, &record.integration.name, change)?;
            }
            for notification in &record.notifications {
                notifications::insert(c, notification, record.at)?;
            }
            Ok(())
        })
        .await
    }

    /// Everything that was saved, at the start. No time in it is later than now: somebody may have set the clock back.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn load(&self, now: Timestamp) -> Result<(Vec<SavedIntegration>, Vec<Cause>), StoreError> {
        self.read(move |c| {
            let mut statement =
                c.prepare("SELECT name, identity, state, tenant_guid, alert, alert_reason, alert_since, alert_notices FROM integrations")?;
            let integrations = statement.query_map([], |row| saved_integration(row, now))?.collect::<Result<Vec<_>, _>>()?;
            let mut statement = c.prepare("SELECT key, alert, reason, story, since, notices, notified_at, size, named_left FROM causes")?;
            let moment = |at: i64| Timestamp(at).min(now);
            let progress = |r: &rusqlite::Row<'_>| {
                let (notified, named_left) = (moment(r.get(6)?), r.get::<_, Option<i64>>(8)?.map(moment));
                Ok::<_, rusqlite::Error>(Progress { notices: r.get(5)?, notified, size: r.get(7)?, named_left })
            };
            let causes = statement
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get::<_, String>(3)?, r.get(4)?, progress(r)?)))?;
            let mut members = c.prepare("SELECT integration FROM cause_members WHERE key = ?1")?;
            let mut loaded = Vec::new();
            for cause in causes {
                let (key, alert, reason, story, since, progress): (String, String, String, String, i64, Progress) = cause?;
                let (Some(reason), Some(story)) = (Reason::from_label(&reason), story_from_json(&story)) else { continue };
                let story = Story { since: story.since.min(now), at: story.at.min(now), ..story };
                let members = members.query_map([&key], |r| r.get(0))?.collect::<Result<_, _>>()?;
                loaded.push(Cause { key, alert, reason, story, since: Timestamp(since).min(now), members, progress });
            }
            Ok((integrations, loaded))
        })
        .await
    }

    /// What was saved of some integrations; no time in it is later than now.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn load_named(&self, names: Vec<String>, now: Timestamp) -> Result<Vec<SavedIntegration>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT name, identity, state, tenant_guid, alert, alert_reason, alert_since, alert_notices FROM integrations WHERE name = ?1",
            )?;
            let mut load = |name: &String| Ok(statement.query_row([name], |row| saved_integration(row, now)).optional()?);
            names.iter().filter_map(|name| load(name).transpose()).collect()
        })
        .await
    }

    /// Lets go of every integration that is not among these (name and identity): it suffers from no cause any more (a cause without
    /// sufferers would swallow the next alert), and what was not mailed yet about it waits until it comes back, if ever. The same for
    /// mails about one that has another identity now. States and tokens stay.
    ///
    /// # Errors
    /// The database refuses; then nothing has changed.
    pub async fn keep_only(&self, watched: HashMap<String, String>) -> Result<(), StoreError> {
        self.write(move |c| {
            let names = |sql: &str| -> Result<Vec<String>, StoreError> {
                let mut statement = c.prepare(sql)?;
                Ok(statement.query_map([], |r| r.get(0))?.collect::<Result<Vec<String>, _>>()?)
            };
            for gone in names("SELECT DISTINCT integration FROM cause_members")?.iter().filter(|name| !watched.contains_key(*name)) {
                c.execute("DELETE FROM cause_members WHERE integration = ?1", [gone])?;
            }
            const ORPHANS: &str = "SELECT alert FROM causes WHERE key NOT IN (SELECT key FROM cause_members)";
            c.execute(&format!("UPDATE notifications SET suspended = 1 WHERE {WAITING} AND alert IN ({ORPHANS})"), [])?;
            c.execute("DELETE FROM causes WHERE key NOT IN (SELECT key FROM cause_members)", [])?;
            let mut statement = c.prepare("SELECT name, identity FROM integrations WHERE alert IS NOT NULL")?;
            let alerts = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<Vec<(String, String)>, _>>()?;
            for (name, identity) in alerts {
                let suspended = watched.get(&name) != Some(&identity);
                c.prepare_cached(&format!(
                    "UPDATE notifications SET suspended = ?1 WHERE {WAITING} AND suspended <> ?1
                     AND alert = (SELECT alert FROM integrations WHERE name = ?2)"
                ))?
                .execute(params![suspended, name])?;
            }
            Ok(())
        })
        .await
    }

    /// Alerts and causes that were opened while there was nobody to mail to: names of integrations, keys of causes.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn untold(&self) -> Result<(HashSet<String>, HashSet<String>), StoreError> {
        self.read(|c| {
            let names = |sql: &str| -> Result<HashSet<String>, StoreError> {
                let mut statement = c.prepare(sql)?;
                Ok(statement.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?)
            };
            let silent = "NOT EXISTS (SELECT 1 FROM notifications n WHERE n.alert = t.alert)";
            let alerts = names(&format!("SELECT name FROM integrations t WHERE alert IS NOT NULL AND {silent}"))?;
            Ok((alerts, names(&format!("SELECT key FROM causes t WHERE {silent}"))?))
        })
        .await
    }

    /// Saves something that happened to an integration, and that no probe found.
    ///
    /// # Errors
    /// The database refuses; then nothing is saved.
    pub async fn add_event(&self, integration: &str, event: Event) -> Result<(), StoreError> {
        let name = integration.to_owned();
        self.run(Kind::Durable, move |c| save_event(c, &name, &event)).await
    }

    /// The newest events of an integration, newest first.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn events(&self, integration: &str) -> Result<Vec<Event>, StoreError> {
        let name = integration.to_owned();
        self.read(move |c| {
            let mut statement = c.prepare_cached("SELECT kind, at, detail FROM events WHERE integration = ?1 ORDER BY id DESC LIMIT ?2")?;
            let event = |r: &rusqlite::Row<'_>| Ok(Event { kind: r.get(0)?, at: Timestamp(r.get(1)?), detail: r.get(2)? });
            Ok(statement.query_map(params![name, HISTORY], event)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// People who were told of an alert, in the order in which they were.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn told(&self, alert: &str) -> Result<Vec<String>, StoreError> {
        let alert = alert.to_owned();
        self.read(move |c| {
            let mut statement =
                c.prepare_cached("SELECT recipient FROM notifications WHERE alert = ?1 GROUP BY recipient ORDER BY min(id)")?;
            Ok(statement.query_map([alert], |r| r.get(0))?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }
}

fn saved_integration(row: &rusqlite::Row<'_>, now: Timestamp) -> rusqlite::Result<SavedIntegration> {
    let (alert, reason): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
    let (since, notices): (Option<i64>, u32) = (row.get(6)?, row.get(7)?);
    let alert = alert.zip(reason.as_deref().and_then(Reason::from_label)).zip(since);
    Ok(SavedIntegration {
        name: row.get(0)?,
        identity: row.get(1)?,
        state: not_after(now, state_from_json(&row.get::<_, String>(2)?).unwrap_or_default()),
        tenant_guid: row.get(3)?,
        alert: alert.map(|((id, reason), since)| OpenAlert { id, reason, since: Timestamp(since).min(now), notices }),
    })
}

/// What was saved while the clock stood ahead has happened, but not in the future: whatever is compared with it would wait until then.
fn not_after(now: Timestamp, mut state: IntegrationState) -> IntegrationState {
    state.cap(now);
    state
}

fn save_integration(c: &Connection, saved: &SavedIntegration) -> Result<(), StoreError> {
    let alert = saved.alert.as_ref();
    c.prepare_cached(
        "INSERT INTO integrations (name, identity, state, tenant_guid, alert, alert_reason, alert_since, alert_notices) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, state = excluded.state, tenant_guid = excluded.tenant_guid, alert = excluded.alert,
             alert_reason = excluded.alert_reason, alert_since = excluded.alert_since, alert_notices = excluded.alert_notices",
    )?
    .execute(params![
        saved.name,
        saved.identity,
        state_to_json(&saved.state),
        saved.tenant_guid,
        alert.map(|a| &a.id),
        alert.map(|a| a.reason.label()),
        alert.map(|a| a.since.0),
        alert.map_or(0, |a| a.notices),
    ])?;
    Ok(())
}

pub(super) fn save_event(c: &Connection, integration: &str, event: &Event) -> Result<(), StoreError> {
    c.prepare_cached("INSERT INTO events (integration, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        integration,
        event.at.0,
        event.kind,
        event.detail
    ])?;
    let oldest: Option<i64> = c
        .prepare_cached("SELECT id FROM events WHERE integration = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![integration, HISTORY], |r| r.get(0))
        .optional()?;
    if let Some(oldest) = oldest {
        c.prepare_cached("DELETE FROM events WHERE integration = ?1 AND id <= ?2")?.execute(params![integration, oldest])?;
    }
    Ok(())
}

fn save_cause(c: &Connection, integration: &str, change: &CauseChange) -> Result<(), StoreError> {
    match change {
        CauseChange::Open(cause) => {
            let progress = &cause.progress;
            c.execute(
                "INSERT INTO causes (key, alert, reason, story, since, notices, notified_at, size, named_left) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (key) DO UPDATE SET alert = excluded.alert, reason = excluded.reason, story = excluded.story, since = excluded.since,
                     notices = excluded.notices, notified_at = excluded.notified_at, size = excluded.size, named_left = excluded.named_left",
                params![
                    cause.key,
                    cause.alert,
                    cause.reason.label(),
                    story_to_json(&cause.story),
                    cause.since.0,
                    progress.notices,
                    progress.notified.0,
                    progress.size,
                    progress.named_left.map(|at| at.0)
                ],
            )?;
            c.execute("INSERT OR IGNORE INTO cause_members VALUES (?1, ?2)", params![cause.key, integration])?;
        }
        CauseChange::Join(key, change) => {
            let (progress, story) = &**change;
            c.prepare_cached("INSERT OR IGNORE INTO cause_members VALUES (?1, ?2)")?.execute(params![key, integration])?;
            c.prepare_cached(
                "UPDATE causes SET notices = ?2, notified_at = ?3, size = ?4, named_left = ?5, story = coalesce(?6, story) WHERE key = ?1",
            )?
            .execute(params![
                key,
                progress.notices,
                progress.notified.0,
                progress.size,
                progress.named_left.map(|at| at.0),
                story.as_ref().map(story_to_json)
            ])?;
        }
        CauseChange::Leave(key, named_left) => {
            c.prepare_cached("DELETE FROM cause_members WHERE key = ?1 AND integration = ?2")?.execute(params![key, integration])?;
            if let Some(at) = named_left {
                c.execute("UPDATE causes SET named_left = ?2 WHERE key = ?1", params![key, at.0])?;
            }
        }
        CauseChange::Close(key) => {
            c.execute("DELETE FROM causes WHERE key = ?1", params![key])?;
        }
    }
    Ok(())
}
