//! The read model of the fleet: what is known of each integration, by name. The evaluator writes it; metrics, pages, API and
//! re-authentication read it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::domain::{
    Check, CredentialExpiry, Health, IntegrationRecord, IntegrationState, OpenAlert, Outcome, Reason, Snooze,
    Timestamp,
};

/// Everything that is known of one integration at one moment.
#[derive(Debug, Clone)]
pub struct FleetEntry {
    /// What the configuration says of the integration.
    pub record: Arc<IntegrationRecord>,
    /// What probes have found.
    pub state: Arc<IntegrationState>,
    /// The tenant's GUID, once it was resolved.
    pub tenant_guid: Option<String>,
    /// When its credentials expire, for those where it is known.
    pub credentials: Vec<CredentialExpiry>,
    /// The open alert.
    pub alert: Option<OpenAlert>,
    /// Its reminders are snoozed.
    pub snooze: Option<Snooze>,
    /// Keys of the causes that the integration is a member of.
    pub causes: BTreeSet<String>,
    /// When the last probe of this process ended, on the steady clock.
    pub last_probe_steady: Option<Timestamp>,
}

impl FleetEntry {
    /// An integration of which nothing is known yet.
    pub fn new(record: Arc<IntegrationRecord>) -> Self {
        Self {
            record,
            state: Arc::default(),
            tenant_guid: None,
            credentials: Vec::new(),
            alert: None,
            snooze: None,
            causes: BTreeSet::new(),
            last_probe_steady: None,
        }
    }

    /// The tenant's GUID once it was resolved, otherwise the tenant as configured.
    pub fn tenant_id(&self) -> &str {
        self.tenant_guid.as_deref().unwrap_or(&self.record.tenant)
    }

    /// Its health as pages and the API count it.
    pub fn health(&self) -> Health {
        self.state.confirmed_health(&self.record.checks)
    }

    /// The enabled checks and their outcomes in the last probe, without checks that were never run.
    pub fn outcomes(&self) -> impl Iterator<Item = (Check, Outcome)> {
        self.record.checks.iter().filter_map(|check| self.state.check(*check).map(|s| (*check, s.outcome)))
    }

    /// Enabled checks that were never run.
    pub fn never_run(&self) -> impl Iterator<Item = Check> {
        self.record.checks.iter().copied().filter(|check| self.state.check(*check).is_none())
    }

    /// The reason of the failure; otherwise the reason of the first check that does not pass.
    pub fn reason(&self) -> Option<Reason> {
        match self.health() {
            Health::Broken { reason, .. } => Some(reason),
            _ => self.outcomes().find_map(|(_, outcome)| outcome.reason()),
        }
    }
}

/// The fleet, ordered by name. The lock is held only to exchange or copy pointers: no entry is copied or dropped under it.
#[derive(Debug, Default)]
pub struct Fleet(RwLock<Entries>);

/// Entries change with every probe, names only with the configuration.
#[derive(Debug, Default)]
struct Entries {
    /// Ordered by name.
    slots: Vec<Arc<FleetEntry>>,
    index: HashMap<String, usize>,
}

impl Fleet {
    /// One integration.
    pub fn get(&self, name: &str) -> Option<Arc<FleetEntry>> {
        let entries = self.0.read();
        entries.index.get(name).and_then(|slot| entries.slots.get(*slot)).cloned()
    }

    /// All integrations, ordered by name.
    pub fn all(&self) -> Vec<Arc<FleetEntry>> {
        self.0.read().slots.clone()
    }

    /// Number of integrations.
    pub fn size(&self) -> usize {
        self.0.read().slots.len()
    }

    /// Integrations without any result.
    pub fn never_probed(&self) -> HashSet<String> {
        let all = self.all();
        let never = all.iter().filter(|entry| entry.state.last_probe.is_none());
        never.map(|entry| entry.record.name.clone()).collect()
    }

    /// Replaces the entry of an integration, unless the integration has left the fleet. Only the evaluator calls this.
    pub(crate) fn replace(&self, entry: Arc<FleetEntry>) {
        let mut entries = self.0.write();
        let slot = entries.index.get(&entry.record.name).copied();
        let replaced =
            slot.and_then(|slot| entries.slots.get_mut(slot)).map(|known| std::mem::replace(known, entry));
        drop(entries);
        drop(replaced);
    }

    /// Changes the current entry of an integration. Only the evaluator calls this.
    pub(crate) fn update(&self, name: &str, change: impl FnOnce(&mut FleetEntry)) {
        let mut entries = self.0.write();
        let slot = entries.index.get(name).copied();
        if let Some(entry) = slot.and_then(|slot| entries.slots.get_mut(slot)) {
            change(Arc::make_mut(entry));
        }
    }

    /// Replaces the whole fleet. Only the evaluator calls this.
    pub(crate) fn replace_all(&self, entries: BTreeMap<String, Arc<FleetEntry>>) {
        let index = entries.keys().enumerate().map(|(slot, name)| (name.clone(), slot)).collect();
        let entries = Entries { slots: entries.into_values().collect(), index };
        let replaced = std::mem::replace(&mut *self.0.write(), entries);
        drop(replaced);
    }
}
