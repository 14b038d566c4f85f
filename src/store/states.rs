//! States, alerts, causes and events: everything that one probe changes is saved in one transaction.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::events::{Event, save_event};
use super::notices::Decided;
use super::rows::{Saved, incident_from_json, incident_to_json, state_from_json, state_to_json};
use super::{Kind, Store, StoreError, notices, snoozes};
use crate::domain::{
    AlertProgress, BrakeChange, Cause, CauseChange, Incident, IntegrationState, Notification, Notify,
    OpenAlert, Progress, Reason, Timestamp,
};

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

/// Everything that one probe changes: verdict, alert, event, causes and notifications, in one transaction.
#[derive(Debug, Clone)]
pub struct ProbeRecord {
    /// The integration afterwards.
    pub integration: SavedIntegration,
    /// What happened.
    pub events: Vec<Event>,
    /// The changes to causes.
    pub causes: Vec<CauseChange>,
    /// Mails to be sent.
    pub notifications: Vec<Notification>,
    /// The alert that has ended, or has another reason now: what was decided about it and has not gone out yet is outdated.
    pub outdated: Option<String>,
    /// The change of the brake.
    pub brake: Option<BrakeChange>,
    /// How long mails wait for others to the same person.
    pub group_wait: Duration,
    /// When this was decided.
    pub at: Timestamp,
}

/// Mails that were neither delivered nor given up.
const WAITING: &str = "sent_at IS NULL AND given_up_at IS NULL";

impl Store {
    /// Saves what a probe changed.
    ///
    /// # Errors
    /// The database returns an error; then nothing is saved.
    pub async fn save_probe(&self, record: ProbeRecord) -> Result<(), StoreError> {
        let durable =
            !(record.events.is_empty() && record.causes.is_empty() && record.notifications.is_empty());
        self.run(if durable { Kind::Durable } else { Kind::Relaxed }, move |c| {
            save_integration(c, &record.integration)?;
            for event in &record.events {
                save_event(c, &record.integration.name, event)?;
            }
            for change in &record.causes {
                save_cause(c, &record.integration.name, change)?;
            }
            let decided = Decided {
                causes: &record.causes,
                notifications: &record.notifications,
                outdated: record.outdated.as_ref(),
                brake: record.brake.as_ref(),
                wait: record.group_wait,
                at: record.at,
            };
            notices::save(c, &decided)?;
            if record.outdated.is_some() && record.integration.alert.is_none() {
                snoozes::forget(c, &record.integration.name)?;
            }
            Ok(())
        })
        .await
    }

    /// Everything that was saved, for the start. No time is later than `now`, because the clock may have been set back.
    pub async fn load(&self, now: Timestamp) -> Result<(Vec<SavedIntegration>, Vec<Cause>), StoreError> {
        self.read(move |c| {
            let mut statement =
                c.prepare("SELECT name, identity, state, tenant_guid, alert, alert_reason, alert_since, alert_notices FROM integrations")?;
            let mut integrations = statement.query_map([], |row| saved_integration(row, now))?.collect::<Result<Vec<_>, _>>()?;
            let mut notified = notified(c)?;
            for alert in integrations.iter_mut().filter_map(|saved| saved.alert.as_mut()) {
                alert.notified = notified.remove(&alert.id).unwrap_or_default();
            }
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
                let (key, alert, reason, incident, since, progress): (String, String, String, String, i64, Progress) = cause?;
                let (Some(reason), Some(incident)) = (Reason::from_label(&reason), incident_from_json(&incident)) else { continue };
                let incident = Incident { since: incident.since.min(now), at: incident.at.min(now), ..incident };
                let members = members.query_map([&key], |r| r.get(0))?.collect::<Result<_, _>>()?;
                let notified = notified.remove(&alert).unwrap_or_default();
                loaded.push(Cause { key, alert, reason, incident, since: Timestamp(since).min(now), members, progress, notified });
            }
            Ok((integrations, loaded))
        })
        .await
    }

    /// The saved state of some integrations; no time is later than `now`.
    pub async fn load_named(
        &self,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Vec<SavedIntegration>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT name, identity, state, tenant_guid, alert, alert_reason, alert_since, alert_notices FROM integrations WHERE name = ?1",
            )?;
            let mut people = c.prepare_cached("SELECT DISTINCT recipient FROM notifications WHERE alert = ?1")?;
            let mut loaded = Vec::with_capacity(names.len());
            for name in &names {
                let Some(mut saved) = statement.query_row([name], |row| saved_integration(row, now)).optional()? else { continue };
                if let Some(alert) = &mut saved.alert {
                    alert.notified = people.query_map([&alert.id], |r| r.get(0))?.collect::<Result<_, _>>()?;
                }
                loaded.push(saved);
            }
            Ok(loaded)
        })
        .await
    }

    /// Removes every integration that is not in `identities` (name and identity) from its causes (a cause without members would suppress
    /// the next alert), and suspends its unsent mails until it comes back. The same for mails about one that has another identity now.
    /// States and tokens stay.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn keep_only(&self, identities: HashMap<String, String>) -> Result<(), StoreError> {
        self.write(move |c| {
            let names = |sql: &str| -> Result<Vec<String>, StoreError> {
                let mut statement = c.prepare(sql)?;
                Ok(statement.query_map([], |r| r.get(0))?.collect::<Result<Vec<String>, _>>()?)
            };
            for gone in names("SELECT DISTINCT integration FROM cause_members")?
                .iter()
                .filter(|name| !identities.contains_key(*name))
            {
                c.execute("DELETE FROM cause_members WHERE integration = ?1", [gone])?;
            }
            const ORPHANS: &str = "SELECT alert FROM causes WHERE key NOT IN (SELECT key FROM cause_members)";
            c.execute(
                &format!("UPDATE notifications SET suspended = 1 WHERE {WAITING} AND alert IN ({ORPHANS})"),
                [],
            )?;
            c.execute("DELETE FROM causes WHERE key NOT IN (SELECT key FROM cause_members)", [])?;
            let mut statement =
                c.prepare("SELECT name, identity FROM integrations WHERE alert IS NOT NULL")?;
            let alerts = statement
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<Vec<(String, String)>, _>>()?;
            for (name, identity) in alerts {
                let suspended = identities.get(&name) != Some(&identity);
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
}

/// The recipients of mails about each open alert and each cause.
fn notified(c: &Connection) -> Result<HashMap<String, BTreeSet<String>>, StoreError> {
    let mut statement = c.prepare(
        "SELECT alert, recipient FROM notifications
         WHERE alert IN (SELECT alert FROM integrations WHERE alert IS NOT NULL UNION SELECT alert FROM causes)",
    )?;
    let mut notified: HashMap<String, BTreeSet<String>> = HashMap::new();
    for row in statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))? {
        let (alert, recipient): (String, String) = row?;
        notified.entry(alert).or_default().insert(recipient);
    }
    Ok(notified)
}

fn saved_integration(row: &rusqlite::Row<'_>, now: Timestamp) -> rusqlite::Result<SavedIntegration> {
    let (alert, reason): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
    let (since, notices): (Option<i64>, u32) = (row.get(6)?, row.get(7)?);
    let alert = alert.zip(reason.as_deref().and_then(Reason::from_label)).zip(since);
    let saved = state_from_json(&row.get::<_, String>(2)?).unwrap_or_default();
    let Saved { state, alert_exact: exact, alert_progress } = saved;
    let mut alert = alert.map(|((id, reason), since)| OpenAlert {
        id,
        reason,
        exact,
        since: Timestamp(since),
        notices,
        notified: BTreeSet::new(),
        // An alert of an older version was notified when it was opened.
        progress: alert_progress.unwrap_or(AlertProgress {
            notify: Notify::Admins,
            noticed: Timestamp(since),
            reminders: 0,
        }),
    });
    if let Some(alert) = &mut alert {
        alert.cap(now);
    }
    Ok(SavedIntegration {
        name: row.get(0)?,
        identity: row.get(1)?,
        state: not_after(now, state),
        tenant_guid: row.get(3)?,
        alert,
    })
}

/// Times that were saved while the clock was ahead must not lie in the future: a comparison with them would wait until then.
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
        state_to_json(&saved.state, alert),
        saved.tenant_guid,
        alert.map(|a| &a.id),
        alert.map(|a| a.reason.label()),
        alert.map(|a| a.since.0),
        alert.map_or(0, |a| a.notices),
    ])?;
    Ok(())
}

fn save_cause(c: &Connection, integration: &str, change: &CauseChange) -> Result<(), StoreError> {
    match change {
        CauseChange::Open(cause) | CauseChange::Join(cause) => {
            let progress = &cause.progress;
            // A member that joins saves the cause, too, because the transaction of the member that opened it
            // may have failed.
            c.prepare_cached(
                "INSERT INTO causes (key, alert, reason, story, since, notices, notified_at, size, named_left) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (key) DO UPDATE SET alert = excluded.alert, reason = excluded.reason, story = excluded.story, since = excluded.since,
                     notices = excluded.notices, notified_at = excluded.notified_at, size = excluded.size, named_left = excluded.named_left",
            )?
            .execute(params![
                cause.key,
                cause.alert,
                cause.reason.label(),
                incident_to_json(&cause.incident),
                cause.since.0,
                progress.notices,
                progress.notified.0,
                progress.size,
                progress.named_left.map(|at| at.0)
            ])?;
            c.prepare_cached("INSERT OR IGNORE INTO cause_members VALUES (?1, ?2)")?
                .execute(params![cause.key, integration])?;
        }
        CauseChange::Leave(key, named_left) => {
            leave(c, key, integration)?;
            if let Some(at) = named_left {
                c.execute("UPDATE causes SET named_left = ?2 WHERE key = ?1", params![key, at.0])?;
            }
        }
        CauseChange::Close(key, alert) => {
            leave(c, key, integration)?;
            // It may have been opened again since.
            c.execute("DELETE FROM causes WHERE key = ?1 AND alert = ?2", params![key, alert])?;
        }
    }
    Ok(())
}

fn leave(c: &Connection, key: &str, integration: &str) -> Result<(), StoreError> {
    c.prepare_cached("DELETE FROM cause_members WHERE key = ?1 AND integration = ?2")?
        .execute(params![key, integration])?;
    Ok(())
}
