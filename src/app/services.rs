//! What no reload replaces: database, metrics, read model, clock, and the connections to Entra and Graph.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entra;
use crate::clock::Clock;
use crate::config::{Config, Upstream};
use crate::domain::{Cloud, Reason};
use crate::entra::Entra;
use crate::fleet::Fleet;
use crate::metrics::Families;
use crate::monitor::Prober;
use crate::notify::Outbox;
use crate::signed::Signer;
use crate::store::Store;

/// The parts that a reload does not replace.
#[derive(Debug, Clone)]
pub(super) struct SharedServices {
    pub(super) store: Store,
    pub(super) families: Families,
    pub(super) fleet: Arc<Fleet>,
    pub(super) clock: Clock,
    pub(super) outbox: Outbox,
    /// The command line's URL of the pages.
    pub(super) external_url: Option<String>,
    /// Notified when a renewed token is ready for delivery.
    pub(super) token_ready: Arc<Notify>,
    /// Connections and cached tokens survive a reload that does not change what they depend on.
    pub(super) upstream: Arc<Mutex<Option<UpstreamCache>>>,
}

/// Connections to Entra and Graph, and the data cached with them.
#[derive(Debug)]
pub(super) struct UpstreamCache {
    key: UpstreamKey,
    entra: Entra,
    prober: Arc<Prober>,
}

/// The settings that connections to Entra and Graph depend on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamKey {
    cloud: Cloud,
    upstream: Upstream,
    authorities: Option<Vec<u8>>,
    connections: usize,
    overrides: HashMap<u32, Reason>,
}

impl SharedServices {
    /// The URL of the status page as people see it.
    pub(super) fn status_page(&self, config: &Config) -> Option<String> {
        self.external_url.clone().or_else(|| config.reauthentication.public_url.clone())
    }

    /// Signs the operators' links to the mails that the brake holds.
    pub(super) fn brake_links(&self, config: &Config) -> Option<Signer> {
        let base = self.status_page(config)?;
        Some(Signer::new(self.store.key().derive("consentry brake link v1"), &base))
    }

    /// Signs the links that snooze reminders.
    pub(super) fn snooze_links(&self, config: &Config) -> Option<Signer> {
        let base = config.reauthentication.public_url.as_ref().or(self.external_url.as_ref())?;
        Some(Signer::new(self.store.key().derive("consentry snooze link v1"), base))
    }

    pub(super) fn upstream(&self, config: &Config) -> anyhow::Result<(Entra, Arc<Prober>)> {
        let key = UpstreamKey {
            cloud: config.cloud.clone(),
            upstream: config.upstream.clone(),
            authorities: config.upstream.ca_file.as_ref().and_then(|file| std::fs::read(file).ok()),
            connections: config.probe.concurrency,
            overrides: config.reason_overrides.clone(),
        };
        let mut kept = self.upstream.lock();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.key == key) {
            return Ok((kept.entra.clone(), Arc::clone(&kept.prober)));
        }
        let entra = entra(config, Some(self.families.clone()))?;
        let prober = Arc::new(Prober::new(entra.clone(), self.store.clone(), self.clock.clone()));
        *kept = Some(UpstreamCache { key, entra: entra.clone(), prober: Arc::clone(&prober) });
        Ok((entra, prober))
    }
}
