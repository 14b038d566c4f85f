//! The only writer of verdicts: folds a diagnosis into the state, asks the domain whether somebody must be told, saves verdict,
//! event and notification in one transaction, and publishes.
//!
//! Probes of one integration never overlap, so its state needs no lock across the commit. Causes are shared by many integrations: they are
//! changed in memory first, and taken back where that cannot be saved.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use uuid::Uuid;

use super::tracked::{IntegrationRecord, Tracked, log_checks, log_verdict};
use crate::domain::{
    AlertChange, AlertEvent, AlertPolicy, Belongs, CausePolicy, Causes, CredentialExpiry, Diagnosis, History,
    Incident, IntegrationState, Judgement, Member, OpenAlert, ProbeEnd, Probed, Reason, Suffering,
    Thresholds, Timestamp, Verdict, change_alert, fold, wanted_causes, within_grace_period,
};
use crate::metrics::{Families, Published};
use crate::store::{Event, ProbeRecord as Record, SavedIntegration, Store, StoreError};

/// Who is told, and when something counts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How often something must be seen.
    pub thresholds: Thresholds,
    /// Whether mail is configured at all.
    pub mail: bool,
    /// Who runs Consentry.
    pub operators: Vec<String>,
    /// Whether recovery is told.
    pub send_resolved: bool,
}

/// What a probe brought besides the diagnosis.
#[derive(Debug, Clone, Default)]
pub struct ProbeMeta {
    /// The tenant's GUID, when it was asked for and answered.
    pub tenant_guid: Option<String>,
    /// Until when the credentials are good that say so.
    pub credentials: Vec<CredentialExpiry>,
    /// Length of the probe.
    pub duration: Duration,
    /// When it ended, on a clock that nobody sets.
    pub steady: Timestamp,
    /// What fails is not held against the integration: it was re-authenticated a moment ago.
    pub grace: bool,
    /// It was re-authenticated before the probe began.
    pub renewed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Evaluator {
    store: Store,
    policy: RwLock<Arc<Policy>>,
    published: Arc<Published>,
    families: Families,
    outbox: Arc<Notify>,
    tracked: Mutex<HashMap<String, Tracked>>,
    causes: Mutex<Causes>,
    /// Of whom nothing is known, and why.
    suffering: Mutex<Suffering>,
    /// Held for reading while a result is folded in, and for writing while it changes what is configured.
    steady: tokio::sync::RwLock<()>,
}

/// While this is held, what is configured stays as it is.
#[derive(Debug)]
pub struct ConfigGuard<'e>(
    #[expect(dead_code, reason = "held for its lock, which ends with it")]
    tokio::sync::RwLockReadGuard<'e, ()>,
);

impl Evaluator {
    /// Takes over what was saved about the integrations that are still configured, and publishes it. `outbox` is nudged
    /// whenever mails were saved.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn start(
        store: Store,
        policy: Policy,
        (families, published): (Families, Arc<Published>),
        outbox: Arc<Notify>,
        watched: Vec<IntegrationRecord>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let (saved, causes) = store.load(now).await?;
        let mut causes = Causes::new(causes);
        let mut saved: HashMap<String, SavedIntegration> =
            saved.into_iter().map(|s| (s.name.clone(), s)).collect();
        store.keep_only(identities(&watched)).await?;
        let mut memberships = causes.memberships();
        let mut tracked = HashMap::with_capacity(watched.len());
        for watched in watched {
            let old = saved.remove(&watched.facts.name);
            let own = memberships.remove(&watched.facts.name);
            let entry = Tracked::adopt(watched, old, own);
            published.set(&entry.facts(), &entry.state);
            tracked.insert(entry.watched.facts.name.clone(), entry);
        }
        causes.keep_members(|name| tracked.contains_key(name));
        forget_unnotified(&policy, &mut tracked, &mut causes);
        let suffering = Mutex::new(suffering(&tracked));
        let (policy, tracked, causes) =
            (RwLock::new(Arc::new(policy)), Mutex::new(tracked), Mutex::new(causes));
        Ok(Self {
            store,
            policy,
            published,
            families,
            outbox,
            tracked,
            causes,
            suffering,
            steady: tokio::sync::RwLock::default(),
        })
    }

    /// Waits until nothing is being folded in, then watches these integrations and no others. What is known of those that stay, stays;
    /// of those that come (back), what was saved is taken over. `swap` is called in the same moment, with the names
    /// of those of which no result is known.
    ///
    /// # Errors
    /// The database refuses; then nothing has changed.
    pub async fn reconfigure(
        &self,
        policy: Policy,
        watched: Vec<IntegrationRecord>,
        now: Timestamp,
        swap: impl FnOnce(&HashSet<String>),
    ) -> Result<(), StoreError> {
        let _alone = self.steady.write().await;
        let fresh: Vec<String> = {
            let tracked = self.lock();
            let known = |w: &&IntegrationRecord| {
                tracked.get(&w.facts.name).is_some_and(|t| t.watched.identity == w.identity)
            };
            watched.iter().filter(|w| !known(w)).map(|w| w.facts.name.clone()).collect()
        };
        let comes = !fresh.is_empty();
        let saved = self.store.load_named(fresh, now).await?;
        let mut saved: HashMap<String, SavedIntegration> =
            saved.into_iter().map(|s| (s.name.clone(), s)).collect();
        let identities = identities(&watched);
        let left: Vec<String> =
            self.lock().keys().filter(|name| !identities.contains_key(*name)).cloned().collect();
        // The last thing that can fail: memory follows it.
        if !left.is_empty() || comes {
            self.store.keep_only(identities).await?;
        }
        *self.policy.write() = Arc::new(policy);
        let (mut tracked, mut causes) = (self.lock(), self.lock_causes());
        let mut memberships = if comes { causes.memberships() } else { HashMap::new() };
        for name in &left {
            tracked.remove(name);
            self.published.remove(name);
        }
        for watched in watched {
            let entry = match tracked
                .remove(&watched.facts.name)
                .filter(|old| old.watched.identity == watched.identity)
            {
                Some(old) if *old.watched == watched => {
                    tracked.insert(watched.facts.name, old);
                    continue;
                }
                Some(old) => old.watching(Arc::new(watched)),
                None => {
                    let saved = saved.remove(&watched.facts.name);
                    let own = memberships.remove(&watched.facts.name);
                    Tracked::adopt(watched, saved, own)
                }
            };
            self.published.set(&entry.facts(), &entry.state);
            tracked.insert(entry.watched.facts.name.clone(), entry);
        }
        causes.keep_members(|name| tracked.contains_key(name));
        forget_unnotified(&self.policy(), &mut tracked, &mut causes);
        *self.suffering.lock() = suffering(&tracked);
        let never_probed = never_probed(&tracked);
        drop((tracked, causes));
        swap(&never_probed);
        Ok(())
    }

    /// Waits until what is configured is not about to change, and keeps it so.
    pub async fn steady(&self) -> ConfigGuard<'_> {
        ConfigGuard(self.steady.read().await)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<String, Tracked>> {
        self.tracked.lock()
    }

    /// Whether the tenant's GUID is still to be found out.
    pub fn wants_tenant_guid(&self, name: &str) -> bool {
        self.lock()
            .get(name)
            .is_some_and(|t| t.tenant_guid.is_none() && Uuid::try_parse(&t.watched.tenant).is_err())
    }

    /// What is known of an integration that does not change from probe to probe.
    pub fn watched(&self, name: &str) -> Option<Arc<IntegrationRecord>> {
        self.lock().get(name).map(|t| Arc::clone(&t.watched))
    }

    /// Looks at every integration, in no order: its properties, the tenant's GUID once known, its state.
    pub fn each<T>(
        &self,
        mut look: impl FnMut(&IntegrationRecord, Option<&str>, &IntegrationState) -> T,
    ) -> Vec<T> {
        self.lock().values().map(|t| look(&t.watched, t.tenant_guid.as_deref(), &t.state)).collect()
    }

    /// Looks at one integration.
    pub fn one<T>(
        &self,
        name: &str,
        look: impl FnOnce(&IntegrationRecord, Option<&str>, &IntegrationState) -> T,
    ) -> Option<T> {
        self.lock().get(name).map(|t| look(&t.watched, t.tenant_guid.as_deref(), &t.state))
    }

    /// Integrations of which no result is known.
    pub fn never_probed(&self) -> HashSet<String> {
        never_probed(&self.lock())
    }

    /// The wall clock was set: no moment that is remembered lies in the future.
    pub fn heal(&self, now: Timestamp) {
        let mut tracked = self.lock();
        for alert in tracked.values_mut().filter_map(|entry| entry.alert.as_mut()) {
            alert.since = alert.since.min(now);
        }
        for entry in tracked.values_mut().filter(|entry| entry.state.is_ahead_of(now)) {
            entry.state.cap(now);
            self.published.set(&entry.facts(), &entry.state);
        }
    }

    /// The present state of an integration.
    pub fn state(&self, name: &str) -> Option<IntegrationState> {
        self.lock().get(name).map(|t| t.state.clone())
    }

    /// Folds in a probe that ended at `now`. Answers what the schedule needs to know.
    ///
    /// What was observed is published before it is saved: a database that does not answer must not keep a gauge green.
    pub async fn apply(
        &self,
        _: &ConfigGuard<'_>,
        name: &str,
        diagnosis: &Diagnosis,
        seen: ProbeMeta,
        now: Timestamp,
    ) -> History {
        let Some(before) = self.lock().get(name).cloned() else { return History::default() };
        let mut after = before.clone();
        after.tenant_guid = seen.tenant_guid.or(after.tenant_guid);
        after.credentials = seen.credentials;
        let elapsed = self.elapsed(&before, seen.steady, now);
        after.probed = Some(seen.steady);
        let end = ProbeEnd { at: now, duration: seen.duration, elapsed, renewed: seen.renewed };
        after.state = fold(after.state, diagnosis, &end, self.policy().thresholds);
        if seen.grace {
            after.state = within_grace_period(&before.state, after.state);
        }
        self.publish(name, &before, &after, now);
        if let Err(error) = self.settle(&before, &mut after, now).await {
            // The state is known, only nobody could be notified: the next probe decides again.
            tracing::error!(integration = name, %error, "cannot save the result of a probe");
            (after.alert, after.causes) = (before.alert.clone(), before.causes.clone());
        }
        log_verdict(name, before.state.verdict, after.state.verdict);
        let history = History::of(&after.state);
        if let Some(entry) = self.lock().get_mut(name) {
            *entry = after;
        }
        history
    }

    /// Shows what a probe has seen, to everybody who reads.
    fn publish(&self, name: &str, before: &Tracked, after: &Tracked, now: Timestamp) {
        log_checks(name, &before.state, &after.state);
        if let (Verdict::Broken { since, .. }, Verdict::Healthy | Verdict::Unknown) =
            (before.state.verdict, after.state.verdict)
        {
            self.families.repaired(now.since(since));
        }
        let (old, new) = (before.suffers(), after.suffers());
        self.suffering.lock().note(old, new);
        self.published.set(&after.facts(), &after.state);
        if let Some(entry) = self.lock().get_mut(name) {
            entry.state = after.state.clone();
        }
    }

    /// Time since the probe before, on a clock that nobody sets. After a restart there is only the wall clock, which is believed within the
    /// longest pause between two probes.
    fn elapsed(&self, before: &Tracked, steady: Timestamp, now: Timestamp) -> Duration {
        let longest = self.policy().thresholds.lasting / 3;
        match (before.probed, before.state.last_probe) {
            (Some(probed), _) => steady.since(probed),
            (None, Some(last)) => now.since(last).min(longest),
            (None, None) => Duration::ZERO,
        }
    }

    /// Decides who must be notified and saves everything in one transaction.
    async fn settle(&self, before: &Tracked, after: &mut Tracked, now: Timestamp) -> Result<(), StoreError> {
        let policy = self.policy();
        // What was wrong is over when everything that is looked at passes, also where something else is unknown.
        let verdict = match after.state.verdict {
            Verdict::Unknown if after.state.looked_at_passes() => Verdict::Healthy,
            verdict => verdict,
        };
        let judgement = Judgement { verdict, exact: after.state.exact };
        let AlertChange { alert, event, mails } =
            change_alert(before.alert.as_ref(), judgement, policy.alerts(&after.watched), new_id, now);
        after.alert = alert;
        let mut record = Record {
            integration: after.saved(),
            events: Vec::new(),
            causes: Vec::new(),
            notifications: Vec::new(),
            at: now,
        };
        if let Some((event, id)) = event {
            let incident = self.incident(before, after, event, now).await;
            record.notifications = mails.into_iter().map(|mail| mail.about(&id, &incident)).collect();
            record.events.push(Event {
                kind: event.label().to_owned(),
                at: now,
                detail: event.reason().label().to_owned(),
            });
        }
        let name = &after.watched.facts.name;
        let wanted = self.wanted_causes(before, after, policy.thresholds);
        let member = Member { name, own: &before.causes, wanted: &wanted };
        if self.lock_causes().are_as_wanted(member, policy.causes()) {
            return self.save(record).await;
        }
        // No lock is held over the commit: in an outage the whole fleet joins one cause.
        let keys = || wanted.keys().chain(&before.causes);
        let (outlines, changes) = {
            let mut causes = self.lock_causes();
            let outlines = causes.outlines(keys());
            (outlines, causes.change(member, policy.causes(), |reason| after.incident(reason, now), now))
        };
        after.causes = keys().filter(|key| wanted.contains_key(*key)).cloned().collect();
        record.causes = changes.changes;
        record.notifications.extend(changes.mails);
        let saved = self.save(record).await;
        if saved.is_err() {
            self.lock_causes().revert(member, &outlines);
        }
        saved
    }

    /// What the mails about an event say. What is over is told from the state in which it was broken, and with whoever re-authenticated while
    /// the alert stood: that mail goes out instead of one about the sign-in.
    async fn incident(
        &self,
        before: &Tracked,
        after: &Tracked,
        event: AlertEvent,
        now: Timestamp,
    ) -> Incident {
        let AlertEvent::Recovered(reason) = event else { return after.incident(event.reason(), now) };
        let (incident, since) =
            (before.incident(reason, now), before.alert.as_ref().map_or(now, |a| a.since));
        match self.store.last_reauthentication(&incident.integration).await {
            Ok(Some(last)) if last.at >= since => {
                let by = last.by.or_else(|| Some("an administrator, by admin consent".to_owned()));
                Incident {
                    by,
                    origin: Some(last.origin).filter(|o| !o.is_empty()),
                    renewed: Some(last.at),
                    ..incident
                }
            }
            // Who it was is worth a sentence, not the mail.
            _ => incident,
        }
    }

    fn wanted_causes(
        &self,
        before: &Tracked,
        after: &Tracked,
        thresholds: Thresholds,
    ) -> BTreeMap<String, Reason> {
        let watched = &after.watched;
        let belongs =
            Belongs { app: &watched.facts.app, tenant: &watched.tenant, reader: watched.reader.as_deref() };
        let probed = Probed {
            before: &before.state,
            after: &after.state,
            alert: after.alert.as_ref(),
            own: &before.causes,
        };
        let suffering = self.suffering.lock();
        wanted_causes(probed, belongs, thresholds, &suffering)
    }

    async fn save(&self, record: Record) -> Result<(), StoreError> {
        let mails = !record.notifications.is_empty();
        self.store.save_probe(record).await?;
        if mails {
            self.outbox.notify_one();
        }
        Ok(())
    }

    fn lock_causes(&self) -> parking_lot::MutexGuard<'_, Causes> {
        self.causes.lock()
    }
}

impl Policy {
    /// Who is notified of an integration's alerts.
    fn alerts<'a>(&'a self, watched: &'a IntegrationRecord) -> AlertPolicy<'a> {
        AlertPolicy {
            admins: &watched.admins,
            operators: &self.operators,
            mail: self.mail,
            send_resolved: self.send_resolved,
        }
    }

    /// Who is notified of causes.
    fn causes(&self) -> CausePolicy<'_> {
        CausePolicy {
            operators: if self.mail { &self.operators } else { &[] },
            send_resolved: self.send_resolved,
        }
    }
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

fn suffering(tracked: &HashMap<String, Tracked>) -> Suffering {
    let mut suffering = Suffering::default();
    for entry in tracked.values() {
        suffering.note(None, entry.suffers());
    }
    suffering
}

fn never_probed(tracked: &HashMap<String, Tracked>) -> HashSet<String> {
    tracked
        .iter()
        .filter(|(_, entry)| entry.state.last_probe.is_none())
        .map(|(name, _)| name.clone())
        .collect()
}

/// Names, and tenants with client ids.
fn identities(watched: &[IntegrationRecord]) -> HashMap<String, String> {
    watched.iter().map(|w| (w.facts.name.clone(), w.identity.clone())).collect()
}

/// What was opened while nobody was to be mailed counts as not opened: the next probe opens it again, and notifies.
fn forget_unnotified(policy: &Policy, tracked: &mut HashMap<String, Tracked>, causes: &mut Causes) {
    for entry in tracked.values_mut() {
        let recipients = |alert: &OpenAlert| policy.alerts(&entry.watched).recipients(alert.reason);
        if entry
            .alert
            .as_ref()
            .is_some_and(|alert| alert.notified.is_empty() && !recipients(alert).is_empty())
        {
            entry.alert = None;
        }
    }
    if policy.mail && !policy.operators.is_empty() {
        let forgotten = causes.forget_unnotified();
        tracked
            .values_mut()
            .filter(|_| !forgotten.is_empty())
            .for_each(|entry| entry.causes.retain(|key| !forgotten.contains(key)));
    }
}
