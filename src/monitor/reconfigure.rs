//! Sets the integrations of the evaluator: at the start, and again with every reload.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::evaluator::{Evaluator, Outputs, affected_place};
use super::policy::Policy;
use crate::domain::{Affected, Brake, Causes, IntegrationRecord, Timestamp};
use crate::fleet::FleetEntry;
use crate::store::{SavedIntegration, StoreError};

type Entries = BTreeMap<String, Arc<FleetEntry>>;

impl Evaluator {
    /// Loads and publishes what was saved about the integrations that are still configured.
    pub async fn start(
        outputs: Outputs,
        policy: Policy,
        records: Vec<IntegrationRecord>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let (saved, causes) = outputs.store.load(now).await?;
        let mut causes = Causes::new(causes);
        let mut saved = by_name(saved);
        outputs.store.keep_only(identities(&records)).await?;
        let mut withdrawn = withdraw(&outputs, &records).await;
        let mut memberships = causes.memberships();
        let adopted = records.into_iter().map(|record| {
            let (saved, causes) = (saved.remove(&record.name), memberships.remove(&record.name));
            (record.name.clone(), Arc::new(without(adopt(record, saved, causes), &mut withdrawn)))
        });
        let mut entries: Entries = adopted.collect();
        entries.values().for_each(|entry| outputs.published.set(entry));
        causes.keep_members(|name| entries.contains_key(name));
        forget_unnotified(&policy, &mut entries, &mut causes);
        let affected = Mutex::new(affected(&entries));
        outputs.fleet.replace_all(entries);
        let saved = outputs.store.load_brake(now.minus(policy.brake.interval), now).await?;
        let mut brake = Brake::new(saved.hold, saved.last, saved.failures);
        brake.cap(now);
        let brake = Mutex::new(brake);
        let (policy, causes) = (RwLock::new(Arc::new(policy)), Mutex::new(causes));
        let steady = tokio::sync::RwLock::default();
        let snoozes = outputs.store.snoozes(now).await?;
        let evaluator =
            Self { outputs, policy, causes, brake, snoozes: Mutex::new(snoozes), affected, steady };
        let snoozed: Vec<String> = evaluator.snoozes.lock().keys().cloned().collect();
        snoozed.iter().for_each(|name| evaluator.show_snooze(name, now));
        evaluator.release_if_switched_off(now).await;
        Ok(evaluator)
    }

    /// Waits until no result is being folded in, then replaces the integrations. Integrations that stay keep their entries; for those that
    /// are new or come back, the saved state is loaded. `swap` is called under the same lock, with the names of those that have no result
    /// yet.
    ///
    /// # Errors
    /// The database cannot be read or written; then nothing has changed.
    pub async fn reconfigure(
        &self,
        policy: Policy,
        records: Vec<IntegrationRecord>,
        now: Timestamp,
        swap: impl FnOnce(&HashSet<String>),
    ) -> Result<(), StoreError> {
        let _alone = self.steady.write().await;
        let Outputs { store, fleet, published, .. } = &self.outputs;
        let stays = |record: &IntegrationRecord| {
            fleet.get(&record.name).filter(|known| known.record.identity() == record.identity())
        };
        let comes: Vec<String> =
            records.iter().filter(|r| stays(r).is_none()).map(|r| r.name.clone()).collect();
        let some_come = !comes.is_empty();
        let mut saved = by_name(store.load_named(comes, now).await?);
        let identities = identities(&records);
        let known = fleet.all();
        let left: Vec<&str> =
            known.iter().map(|e| e.record.name.as_str()).filter(|n| !identities.contains_key(*n)).collect();
        // The last step that can fail; the memory is changed after it.
        if !left.is_empty() || some_come {
            store.keep_only(identities).await?;
        }
        let mut withdrawn = withdraw(&self.outputs, &records).await;
        *self.policy.write() = Arc::new(policy);
        let mut causes = self.causes.lock();
        let mut memberships = if some_come { causes.memberships() } else { HashMap::new() };
        let mut entries = Entries::new();
        for record in records {
            let name = record.name.clone();
            let entry = match stays(&record) {
                Some(same) if *same.record == record => same,
                old => {
                    let entry = match old {
                        Some(old) => without(with_record(FleetEntry::clone(&old), record), &mut withdrawn),
                        None => adopt(record, saved.remove(&name), memberships.remove(&name)),
                    };
                    published.set(&entry);
                    Arc::new(entry)
                }
            };
            entries.insert(name, entry);
        }
        left.iter().for_each(|name| published.remove(name));
        causes.keep_members(|name| entries.contains_key(name));
        forget_unnotified(&self.policy(), &mut entries, &mut causes);
        *self.affected.lock() = affected(&entries);
        fleet.replace_all(entries);
        drop(causes);
        swap(&fleet.never_probed());
        Ok(())
    }
}

/// Takes back mails for administrators that have not begun to go out and would go to other people now. Returns whose they were, by alert. If that
/// fails, they go out: a change of the setting must not lose a mail.
async fn withdraw(outputs: &Outputs, records: &[IntegrationRecord]) -> Withdrawn {
    let settings = records.iter().map(|record| (record.name.clone(), record.notify)).collect();
    outputs.store.withdraw(settings).await.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot take back mails that are meant for other people now");
        HashMap::new()
    })
}

/// People whose mails were taken back, by alert.
type Withdrawn = HashMap<String, Vec<String>>;

/// The entry after mails about its alert were taken back: these people were not notified.
fn without(mut entry: FleetEntry, withdrawn: &mut Withdrawn) -> FleetEntry {
    if let Some(alert) = &mut entry.alert {
        let people = withdrawn.remove(&alert.id).unwrap_or_default();
        alert.notified.retain(|person| !people.contains(person));
    }
    entry
}

/// A new entry with the saved state, if that has the same tenant and application, and with the integration's causes.
fn adopt(
    record: IntegrationRecord,
    saved: Option<SavedIntegration>,
    causes: Option<BTreeSet<String>>,
) -> FleetEntry {
    let mut entry = FleetEntry::new(Arc::new(record.clone()));
    if let Some(saved) = saved.filter(|s| s.identity == record.identity()) {
        (entry.state, entry.tenant_guid, entry.alert) =
            (Arc::new(saved.state), saved.tenant_guid, saved.alert);
    }
    entry.causes = causes.unwrap_or_default();
    with_record(entry, record)
}

/// The entry with another record. A check that was disabled is removed with its results.
fn with_record(mut entry: FleetEntry, record: IntegrationRecord) -> FleetEntry {
    if entry.state.checks.iter().any(|c| !record.checks.contains(&c.check)) {
        Arc::make_mut(&mut entry.state).checks.retain(|c| record.checks.contains(&c.check));
    }
    entry.record = Arc::new(record);
    entry
}

fn by_name(saved: Vec<SavedIntegration>) -> HashMap<String, SavedIntegration> {
    saved.into_iter().map(|s| (s.name.clone(), s)).collect()
}

/// Identities (tenant and client id) by name.
fn identities(records: &[IntegrationRecord]) -> HashMap<String, String> {
    records.iter().map(|r| (r.name.clone(), r.identity())).collect()
}

fn affected(entries: &Entries) -> Affected {
    let mut affected = Affected::default();
    for entry in entries.values() {
        affected.note(None, affected_place(entry));
    }
    affected
}

/// Removes causes that were opened while there was nobody to notify: the next probe opens them again and notifies.
fn forget_unnotified(policy: &Policy, entries: &mut Entries, causes: &mut Causes) {
    if policy.mail && !policy.operators.is_empty() {
        let forgotten = causes.forget_unnotified();
        let members = entries.values_mut().filter(|e| e.causes.iter().any(|key| forgotten.contains(key)));
        members.for_each(|entry| Arc::make_mut(entry).causes.retain(|key| !forgotten.contains(key)));
    }
}
