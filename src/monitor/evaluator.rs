//! The only writer of the fleet: folds a diagnosis into the state, lets the domain decide who is notified, saves verdict, event and
//! notifications in one transaction, and publishes.
//!
//! Probes of one integration never overlap, so its state needs no lock across the commit. Causes are shared by many integrations: they are
//! changed in memory first, and reverted if they cannot be saved.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use uuid::Uuid;

use super::changes::{log_checks, log_verdict};
use super::policy::Policy;
use crate::domain::{
    Affected, AlertChange, AlertEvent, Belongs, Brake, Causes, CredentialExpiry, Diagnosis, History,
    Incident, IntegrationState, Judgement, MailKind, Member, ProbeEnd, Probed, Reason, Snooze, Thresholds,
    Timestamp, Verdict, affected_by, change_alert, credential_of_cause, fold, wanted_causes,
    within_grace_period,
};
use crate::fleet::{Fleet, FleetEntry};
use crate::metrics::{Families, Published};
use crate::store::{Event, ProbeRecord as Record, SavedIntegration, Store, StoreError};

/// The results of a probe besides the diagnosis.
#[derive(Debug, Clone, Default)]
pub struct ProbeMeta {
    /// The tenant's GUID, if it was requested and found.
    pub tenant_guid: Option<String>,
    /// When its credentials expire, for those where it is known.
    pub credentials: Vec<CredentialExpiry>,
    /// Length of the probe.
    pub duration: Duration,
    /// When it ended, on the steady clock.
    pub steady: Timestamp,
    /// Whether the integration is within the grace period: it was re-authenticated a moment ago, so failures do not count.
    pub grace: bool,
    /// Whether it was re-authenticated before the probe began.
    pub renewed: bool,
}

/// Where the evaluator writes.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// The database.
    pub store: Store,
    /// The read model.
    pub fleet: Arc<Fleet>,
    /// Metrics of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// Notified whenever mails were saved.
    pub outbox: Arc<Notify>,
}

/// The only writer of the fleet.
#[derive(Debug)]
pub struct Evaluator {
    pub(super) outputs: Outputs,
    pub(super) policy: RwLock<Arc<Policy>>,
    pub(super) causes: Mutex<Causes>,
    pub(super) brake: Mutex<Brake>,
    /// Snoozes by integration; one counts only for the alert that it names.
    pub(super) snoozes: Mutex<HashMap<String, Snooze>>,
    /// The integrations whose checks have no result, by reason and place.
    pub(super) affected: Mutex<Affected>,
    /// Held for reading while a result is folded in, and for writing while the configuration changes.
    pub(super) steady: tokio::sync::RwLock<()>,
}

/// While this is held, the configuration does not change.
#[derive(Debug)]
pub struct ConfigGuard<'e>(
    #[expect(dead_code, reason = "held for its lock, which ends with it")]
    tokio::sync::RwLockReadGuard<'e, ()>,
);

impl Evaluator {
    /// Waits until no change of the configuration is pending, and prevents further ones.
    pub async fn steady(&self) -> ConfigGuard<'_> {
        ConfigGuard(self.steady.read().await)
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Whether the tenant's GUID is still unknown.
    pub fn wants_tenant_guid(&self, name: &str) -> bool {
        let entry = self.outputs.fleet.get(name);
        entry.is_some_and(|e| e.tenant_guid.is_none() && Uuid::try_parse(&e.record.tenant).is_err())
    }

    /// The wall clock was set: moves remembered times that lie in the future to `now`. Waits until no result is being folded in, which
    /// would be overwritten.
    pub async fn correct_times(&self, now: Timestamp) {
        let _alone = self.steady.write().await;
        self.brake.lock().cap(now);
        if let Ok(snoozes) = self.outputs.store.snoozes(now).await {
            *self.snoozes.lock() = snoozes;
        }
        for known in self.outputs.fleet.all() {
            let alert_is_ahead = known.alert.as_ref().is_some_and(|alert| alert.is_ahead_of(now));
            let state_is_ahead = known.state.is_ahead_of(now);
            if !alert_is_ahead && !state_is_ahead {
                continue;
            }
            let mut entry = FleetEntry::clone(&known);
            if let Some(alert) = &mut entry.alert {
                alert.cap(now);
            }
            if state_is_ahead {
                Arc::make_mut(&mut entry.state).cap(now);
                self.outputs.published.set(&entry);
            }
            self.outputs.fleet.replace(Arc::new(entry));
        }
    }

    /// Folds in a probe that ended at `now`. Returns the input for the schedule.
    ///
    /// The result is published before it is saved: a database that does not respond must not keep a gauge green.
    pub async fn apply(
        &self,
        _: &ConfigGuard<'_>,
        name: &str,
        diagnosis: &Diagnosis,
        seen: ProbeMeta,
        now: Timestamp,
    ) -> History {
        let Some(before) = self.outputs.fleet.get(name) else { return History::default() };
        let mut after = FleetEntry::clone(&before);
        after.tenant_guid = seen.tenant_guid.or(after.tenant_guid);
        after.credentials = seen.credentials;
        let elapsed = self.elapsed(&before, seen.steady, now);
        after.last_probe_steady = Some(seen.steady);
        let end = ProbeEnd { at: now, duration: seen.duration, elapsed, renewed: seen.renewed };
        let state = IntegrationState::clone(&before.state);
        let mut state = fold(state, diagnosis, &end, self.policy().thresholds);
        if seen.grace {
            state = within_grace_period(&before.state, state);
        }
        after.state = Arc::new(state);
        self.publish(name, &before, &after, now);
        if let Err(error) = self.decide_and_save(&before, &mut after, now).await {
            // The state is known, but nobody could be notified: the next probe decides again.
            tracing::error!(integration = name, %error, "cannot save the result of a probe");
            (after.alert, after.causes) = (before.alert.clone(), before.causes.clone());
        }
        log_verdict(name, before.state.verdict, after.state.verdict);
        let history = History::of(&after.state);
        let snoozed = after.snooze.take().is_some();
        after.snooze = self.snooze_of(&after, now);
        if after.snooze.is_none() && snoozed {
            self.snoozes.lock().remove(name);
            self.outputs.published.set(&after);
        }
        self.outputs.fleet.replace(Arc::new(after));
        history
    }

    /// Publishes the result of a probe to all readers.
    fn publish(&self, name: &str, before: &FleetEntry, after: &FleetEntry, now: Timestamp) {
        log_checks(name, &before.state, &after.state);
        if let (Verdict::Broken { since, .. }, Verdict::Healthy | Verdict::Unknown) =
            (before.state.verdict, after.state.verdict)
        {
            self.outputs.families.repaired(now.since(since));
        }
        let (old, new) = (affected_place(before), affected_place(after));
        self.affected.lock().note(old, new);
        self.outputs.published.set(after);
        // The alert is replaced only after the new one is saved.
        self.outputs.fleet.replace(Arc::new(after.clone()));
    }

    /// Time since the previous probe, on the steady clock. After a restart only the wall clock is known, and it counts up to the longest
    /// pause between two probes.
    fn elapsed(&self, before: &FleetEntry, steady: Timestamp, now: Timestamp) -> Duration {
        let longest = self.policy().thresholds.lasting / 3;
        match (before.last_probe_steady, before.state.last_probe) {
            (Some(probed), _) => steady.since(probed),
            (None, Some(last)) => now.since(last).min(longest),
            (None, None) => Duration::ZERO,
        }
    }

    /// Decides who must be notified and saves everything in one transaction.
    async fn decide_and_save(
        &self,
        before: &FleetEntry,
        after: &mut FleetEntry,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let policy = self.policy();
        let judgement = Judgement::of(&after.state);
        let snooze = self.snooze_of(before, now);
        let alert_policy = policy.alerts(&after.record, snooze.as_ref(), self.held_period(now));
        let AlertChange { alert, event, mails, reminds } =
            change_alert(before.alert.as_ref(), judgement, alert_policy, new_id, now);
        let instead_of = alert_policy.instead_of().to_vec();
        after.alert = alert;
        let mut record = Record {
            integration: saved(after),
            events: Vec::new(),
            causes: Vec::new(),
            notifications: Vec::new(),
            outdated: None,
            brake: None,
            group_wait: policy.group_wait,
            at: now,
        };
        if matches!(event, Some(AlertEvent::Changed(_) | AlertEvent::Recovered(_))) {
            record.outdated = before.alert.as_ref().map(|alert| alert.id.clone());
        }
        if let Some(event) = event {
            let (kind, detail) = (event.label().to_owned(), event.reason().label().to_owned());
            record.events.push(Event { kind, at: now, detail });
        }
        let mails_an_admin = mails.iter().any(|mail| mail.kind == MailKind::Alert && mail.for_admin);
        self.note_failure(mails_an_admin.then_some(&*after.record.name), &policy, &mut record);
        if !mails.is_empty() {
            let incident = self.incident(before, after, event, now).await;
            let incident = Incident { reminds, instead_of, ..incident };
            record.notifications.extend(mails.into_iter().map(|mail| mail.about(&incident)));
        }
        let name = &after.record.name;
        let wanted = self.wanted_causes(before, after, policy.thresholds);
        let member = Member { name, own: &before.causes, wanted: &wanted };
        if self.lock_causes().are_as_wanted(member, policy.causes()) {
            return self.save(record).await;
        }
        // No lock is held during the commit: in an outage the whole fleet joins one cause.
        let keys = || wanted.keys().chain(&before.causes);
        let (outlines, changes, changed) = {
            let mut causes = self.lock_causes();
            let outlines = causes.outlines(keys());
            let incident = |key: &str, reason| incident_of_cause(after, key, reason, now);
            let changes = causes.change(member, policy.causes(), incident, now);
            let changed = causes.progress(keys());
            (outlines, changes, changed)
        };
        after.causes = keys().filter(|key| wanted.contains_key(*key)).cloned().collect();
        record.causes = changes.changes;
        record.notifications.extend(changes.mails);
        let saved = self.save(record).await;
        if saved.is_err() {
            self.lock_causes().revert(member, &outlines, &changed);
        }
        saved
    }

    /// The content of the mails about an event. A recovery is described by the state in which it was broken, and by who re-authenticated
    /// while the alert was open: this mail replaces the one about the sign-in.
    async fn incident(
        &self,
        before: &FleetEntry,
        after: &FleetEntry,
        event: Option<AlertEvent>,
        now: Timestamp,
    ) -> Incident {
        let Some(AlertEvent::Recovered(reason)) = event else {
            let reason = after.alert.as_ref().map_or(Reason::Unclassified, |alert| alert.reason);
            return after.record.incident(&after.state, reason, now);
        };
        let (incident, since) = (
            before.record.incident(&before.state, reason, now),
            before.alert.as_ref().map_or(now, |a| a.since),
        );
        match self.outputs.store.last_reauthentication(&incident.integration).await {
            Ok(Some(last)) if last.at >= since => {
                let by = last.by.or_else(|| Some("an administrator, by admin consent".to_owned()));
                Incident {
                    by,
                    origin: Some(last.origin).filter(|o| !o.is_empty()),
                    renewed: Some(last.at),
                    ..incident
                }
            }
            // If it is not known who re-authenticated, the mail is sent without it.
            _ => incident,
        }
    }

    fn wanted_causes(
        &self,
        before: &FleetEntry,
        after: &FleetEntry,
        thresholds: Thresholds,
    ) -> BTreeMap<String, Reason> {
        let probed = Probed {
            before: &before.state,
            after: &after.state,
            alert: after.alert.as_ref(),
            own: &before.causes,
        };
        let affected = self.affected.lock();
        wanted_causes(probed, belongs(after), thresholds, &affected)
    }

    async fn save(&self, record: Record) -> Result<(), StoreError> {
        let mails = !record.notifications.is_empty();
        let change = record.brake.clone();
        self.outputs.store.save_probe(record).await?;
        if let Some(change) = change {
            self.brake.lock().saved(&change);
        }
        if mails {
            self.outputs.outbox.notify_one();
        }
        Ok(())
    }

    fn lock_causes(&self) -> parking_lot::MutexGuard<'_, Causes> {
        self.causes.lock()
    }
}

/// The content of a mail about a cause that affects an integration.
fn incident_of_cause(entry: &FleetEntry, key: &str, reason: Reason, now: Timestamp) -> Incident {
    match credential_of_cause(key, belongs(entry), &entry.state) {
        Some(credential) => entry.record.about_credential(credential, reason, now),
        None => entry.record.incident(&entry.state, reason, now),
    }
}

fn belongs(entry: &FleetEntry) -> Belongs<'_> {
    let record = &entry.record;
    Belongs { app: &record.app, tenant: &record.tenant, reader: record.reader.as_deref() }
}

/// Why and where the checks of an integration have no result: see [`affected_by`].
pub(super) fn affected_place(entry: &FleetEntry) -> Option<(Reason, String)> {
    affected_by(&entry.state, &entry.record.tenant)
}

/// An integration as it is saved.
fn saved(entry: &FleetEntry) -> SavedIntegration {
    SavedIntegration {
        name: entry.record.name.clone(),
        identity: entry.record.identity(),
        state: IntegrationState::clone(&entry.state),
        tenant_guid: entry.tenant_guid.clone(),
        alert: entry.alert.clone(),
    }
}

pub(super) fn new_id() -> String {
    Uuid::new_v4().to_string()
}
