//! The only writer of verdicts: folds a diagnosis into the state, asks the domain whether somebody must be told, saves verdict,
//! event and notification in one transaction, and publishes.
//!
//! Probes of one integration never overlap, so its state needs no lock across the commit. Causes are shared by many
//! integrations; whoever changes one holds their lock until the change is saved.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::tracked::{Tracked, Watched, ignorance, log_checks, log_verdict, reader_key};
use crate::domain::{
    Alert, Audience, Cause, CredentialExpiry, Diagnosis, History, IntegrationState, MailKind, Notice, Notification, ProbeEnd, Progress,
    Reason, Story, Suffering, Thresholds, Timestamp, Verdict, cause_key, decide, fold, lasting_key, within_grace_period,
};
use crate::metrics::{Families, Published};
use crate::store::{CauseChange, Event, OpenAlert, ProbeRecord, SavedIntegration, Store, StoreError};

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
pub struct Seen {
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
    causes: tokio::sync::Mutex<HashMap<String, Cause>>,
    /// Of whom nothing is known, and why.
    suffering: Mutex<Suffering>,
    /// Held for reading while a result is folded in, and for writing while it changes what is configured.
    steady: tokio::sync::RwLock<()>,
}

/// While this is held, what is configured stays as it is.
#[derive(Debug)]
pub struct Steady<'e>(#[expect(dead_code, reason = "held for its lock, which ends with it")] tokio::sync::RwLockReadGuard<'e, ()>);

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
        watched: Vec<Watched>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let (saved, causes) = store.load(now).await?;
        let mut saved: HashMap<String, SavedIntegration> = saved.into_iter().map(|s| (s.name.clone(), s)).collect();
        store.keep_only(identities(&watched)).await?;
        let mut tracked = HashMap::with_capacity(watched.len());
        for watched in watched {
            let old = saved.remove(&watched.facts.name);
            let entry = Tracked::adopt(watched, old, causes.iter());
            published.set(&entry.facts(), &entry.state);
            tracked.insert(entry.watched.facts.name.clone(), entry);
        }
        let mut causes: HashMap<String, Cause> = causes.into_iter().map(|c| (c.key.clone(), c)).collect();
        keep_members(&mut causes, |name| tracked.contains_key(name));
        if policy.mail {
            forget_untold(store.untold().await?, &policy, &mut tracked, &mut causes);
        }
        let suffering = Mutex::new(suffering(&tracked));
        let (policy, tracked, causes) = (RwLock::new(Arc::new(policy)), Mutex::new(tracked), tokio::sync::Mutex::new(causes));
        Ok(Self { store, policy, published, families, outbox, tracked, causes, suffering, steady: tokio::sync::RwLock::default() })
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
        watched: Vec<Watched>,
        now: Timestamp,
        swap: impl FnOnce(&HashSet<String>),
    ) -> Result<(), StoreError> {
        let _alone = self.steady.write().await;
        let mut causes = self.causes.lock().await;
        let fresh: Vec<String> = {
            let tracked = self.lock();
            let known = |w: &&Watched| tracked.get(&w.facts.name).is_some_and(|t| t.watched.identity == w.identity);
            watched.iter().filter(|w| !known(w)).map(|w| w.facts.name.clone()).collect()
        };
        let comes = !fresh.is_empty();
        let saved = self.store.load_named(fresh, now).await?;
        let mut saved: HashMap<String, SavedIntegration> = saved.into_iter().map(|s| (s.name.clone(), s)).collect();
        let identities = identities(&watched);
        let left: Vec<String> = self.lock().keys().filter(|name| !identities.contains_key(*name)).cloned().collect();
        let untold = if policy.mail { self.store.untold().await? } else { Default::default() };
        // The last thing that can fail: memory follows it.
        if !left.is_empty() || comes {
            self.store.keep_only(identities).await?;
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        let mut tracked = self.lock();
        for name in &left {
            tracked.remove(name);
            self.published.remove(name);
        }
        for watched in watched {
            let entry = match tracked.remove(&watched.facts.name).filter(|old| old.watched.identity == watched.identity) {
                Some(old) if *old.watched == watched => {
                    tracked.insert(watched.facts.name, old);
                    continue;
                }
                Some(old) => old.watching(Arc::new(watched)),
                None => {
                    let saved = saved.remove(&watched.facts.name);
                    Tracked::adopt(watched, saved, causes.values())
                }
            };
            self.published.set(&entry.facts(), &entry.state);
            tracked.insert(entry.watched.facts.name.clone(), entry);
        }
        keep_members(&mut causes, |name| tracked.contains_key(name));
        forget_untold(untold, &self.policy(), &mut tracked, &mut causes);
        *self.suffering.lock().unwrap_or_else(PoisonError::into_inner) = suffering(&tracked);
        let never_probed = never_probed(&tracked);
        drop(tracked);
        swap(&never_probed);
        Ok(())
    }

    /// Waits until what is configured is not about to change, and keeps it so.
    pub async fn steady(&self) -> Steady<'_> {
        Steady(self.steady.read().await)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Tracked>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tenant's GUID is still to be found out.
    pub fn wants_tenant_guid(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|t| t.tenant_guid.is_none() && Uuid::try_parse(&t.watched.tenant).is_err())
    }

    /// What is known of an integration that does not change from probe to probe.
    pub fn watched(&self, name: &str) -> Option<Arc<Watched>> {
        self.lock().get(name).map(|t| Arc::clone(&t.watched))
    }

    /// Looks at every integration, in no order: its properties, the tenant's GUID once known, its state.
    pub fn each<T>(&self, mut look: impl FnMut(&Watched, Option<&str>, &IntegrationState) -> T) -> Vec<T> {
        self.lock().values().map(|t| look(&t.watched, t.tenant_guid.as_deref(), &t.state)).collect()
    }

    /// Looks at one integration.
    pub fn one<T>(&self, name: &str, look: impl FnOnce(&Watched, Option<&str>, &IntegrationState) -> T) -> Option<T> {
        self.lock().get(name).map(|t| look(&t.watched, t.tenant_guid.as_deref(), &t.state))
    }

    /// Integrations of which no result is known.
    pub fn never_probed(&self) -> HashSet<String> {
        never_probed(&self.lock())
    }

    /// The wall clock was set: no moment that is remembered lies in the future.
    pub fn heal(&self, now: Timestamp) {
        let mut tracked = self.lock();
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
    pub async fn apply(&self, _: &Steady<'_>, name: &str, diagnosis: &Diagnosis, seen: Seen, now: Timestamp) -> History {
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
            after.state.alert_exact = before.state.alert_exact;
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
        if let (Verdict::Broken { since, .. }, Verdict::Healthy) = (before.state.verdict, after.state.verdict) {
            self.families.repaired(now.since(since));
        }
        let (old, new) = (ignorance(&before.state), ignorance(&after.state));
        self.suffering.lock().unwrap_or_else(PoisonError::into_inner).note(&after.watched.tenant, old, new);
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
        let exact = before.state.alert_exact;
        let open = before.alert.as_ref().map_or(Alert::Resolved, |a| Alert::Firing { reason: a.reason, exact });
        let (next, notice) = decide(open, &after.state.verdict, after.state.exact);
        let mut notifications = Vec::new();
        let mut events = Vec::new();
        if let Some(notice) = notice {
            let (event, mails) = self.tell(before, after, notice, now).await?;
            events.push(event);
            notifications.extend(mails);
        }
        if let (Alert::Firing { reason, exact }, Some(open)) = (next, &mut after.alert) {
            open.reason = reason;
            after.state.alert_exact = exact;
        }
        let wanted = self.wanted_causes(before, after);
        if wanted.keys().eq(before.causes.iter()) {
            return self.save(after, events, Vec::new(), notifications, now).await;
        }
        let mut causes = self.causes.lock().await;
        let (changes, mails) = self.change_causes(&causes, before, after, &wanted, now).await?;
        notifications.extend(mails);
        after.causes = wanted.into_keys().collect();
        self.save(after, events, changes.clone(), notifications, now).await?;
        for change in changes {
            remember(&mut causes, change, &after.watched.facts.name);
        }
        Ok(())
    }

    async fn save(
        &self,
        after: &Tracked,
        events: Vec<Event>,
        causes: Vec<CauseChange>,
        notifications: Vec<Notification>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let integration = SavedIntegration {
            name: after.watched.facts.name.clone(),
            identity: after.watched.identity.clone(),
            state: after.state.clone(),
            tenant_guid: after.tenant_guid.clone(),
            alert: after.alert.clone(),
        };
        let notifications = if self.policy().mail { notifications } else { Vec::new() };
        let mails = !notifications.is_empty();
        self.store.save_probe(ProbeRecord { integration, events, causes, notifications, at: now }).await?;
        if mails {
            self.outbox.notify_one();
        }
        Ok(())
    }

    /// The event and the admins' mails of a notice. Operators hear of causes instead.
    async fn tell(
        &self,
        before: &Tracked,
        after: &mut Tracked,
        notice: Notice,
        now: Timestamp,
    ) -> Result<(Event, Vec<Notification>), StoreError> {
        let alert = Self::alert_kind(after);
        let policy = self.policy();
        let event = |kind: &str, reason: Reason| Event { kind: kind.to_owned(), at: now, detail: reason.label().to_owned() };
        match notice {
            Notice::Opened(reason) => {
                let opened = OpenAlert { id: Uuid::new_v4().to_string(), reason, since: now, notices: 1 };
                let mails = notify(&opened.id, 0, people(&policy, &after.watched, reason), &after.story(reason, now), |_| alert);
                after.alert = Some(opened);
                Ok((event("broken", reason), mails))
            }
            Notice::Changed(reason) => {
                let Some(open) = &mut after.alert else { return Ok((event("changed", reason), Vec::new())) };
                let (id, sequence) = (open.id.clone(), open.notices);
                (open.reason, open.notices) = (reason, sequence + 1);
                let told = self.store.told(&id).await?;
                let kind =
                    |person: &str| if alert == MailKind::Alert && told.iter().any(|t| t == person) { MailKind::Changed } else { alert };
                let mails = notify(&id, sequence, people(&policy, &after.watched, reason), &after.story(reason, now), kind);
                Ok((event("changed", reason), mails))
            }
            Notice::Resolved => {
                after.alert = None;
                let Some(alert) = &before.alert else { return Ok((event("recovered", Reason::Unclassified), Vec::new())) };
                let told = if policy.send_resolved { self.store.told(&alert.id).await? } else { Vec::new() };
                // The story of what is over is told from the state in which it was broken.
                let story = self.renewed(before.story(alert.reason, now), alert.since).await;
                let mails = notify(&alert.id, alert.notices, &told, &story, |_| MailKind::Resolved);
                Ok((event("recovered", alert.reason), mails))
            }
        }
    }

    /// The story with whoever re-authenticated while the alert stood: the mail about its end says so, instead of one of its own.
    async fn renewed(&self, story: Story, since: Timestamp) -> Story {
        match self.store.last_reauthentication(&story.integration).await {
            Ok(Some(last)) if last.at >= since => {
                let by = last.by.or_else(|| Some("an administrator, by admin consent".to_owned()));
                Story { by, origin: Some(last.origin).filter(|o| !o.is_empty()), renewed: Some(last.at), ..story }
            }
            // Who it was is worth a sentence, not the mail.
            _ => story,
        }
    }

    /// Operators' mails about failures are of their own kind, whoever should have got them.
    fn alert_kind(tracked: &Tracked) -> MailKind {
        if tracked.watched.admins.is_empty() { MailKind::Operator } else { MailKind::Alert }
    }

    /// The causes that this integration suffers from now, each with its reason.
    fn wanted_causes(&self, before: &Tracked, after: &Tracked) -> std::collections::BTreeMap<String, Reason> {
        let watched = &after.watched;
        let key = |reason| cause_key(reason, &watched.facts.app, &watched.tenant, watched.reader.as_deref());
        let broken = after.alert.as_ref().and_then(|a| Some((key(a.reason)?, a.reason)));
        // Seen twice, like every failure.
        let reader = after.state.reader_fault.filter(|_| before.state.reader_fault.is_some());
        let reader = reader.and_then(|r| Some((reader_key(watched, r)?, r)));
        let unknown = ignorance(&after.state).and_then(|reason| Some((self.unknown_key(before, after, reason)?, reason)));
        [broken, unknown, reader].into_iter().flatten().collect()
    }

    /// The cause of an ignorance that has lasted long enough to be somebody's business. Whoever belongs to one stays while it lasts.
    fn unknown_key(&self, before: &Tracked, after: &Tracked, reason: Reason) -> Option<String> {
        let (watched, thresholds) = (&after.watched, self.policy().thresholds);
        if reason == Reason::CredentialUnreadable {
            let confirmed = after.state.unknowns >= thresholds.failure;
            return cause_key(reason, &watched.facts.app, &watched.tenant, watched.reader.as_deref()).filter(|_| confirmed);
        }
        if after.state.unknown_for < thresholds.lasting {
            return None;
        }
        let suffering = self.suffering.lock().unwrap_or_else(PoisonError::into_inner);
        lasting_key(reason, &watched.tenant, &suffering, before.causes.iter().map(String::as_str))
    }

    async fn change_causes(
        &self,
        causes: &HashMap<String, Cause>,
        before: &Tracked,
        after: &Tracked,
        wanted: &std::collections::BTreeMap<String, Reason>,
        now: Timestamp,
    ) -> Result<(Vec<CauseChange>, Vec<Notification>), StoreError> {
        let (mut changes, mut mails, policy) = (Vec::new(), Vec::new(), self.policy());
        let name = &after.watched.facts.name;
        for (key, reason) in wanted.iter().filter(|(key, _)| !before.causes.contains(*key)) {
            let story = after.story(*reason, now);
            let Some(cause) = causes.get(key) else {
                let cause = opened(key, *reason, story, now);
                mails.extend(notify(&cause.alert, 0, &policy.operators, &cause.story, |_| MailKind::Operator));
                changes.push(CauseChange::Open(Box::new(cause)));
                continue;
            };
            let (progress, again) = cause.progress.joined(cause.members.len() + 1, now);
            if again {
                let story = Story { affected: Some(progress.size), ..story.clone() };
                mails.extend(notify(&cause.alert, cause.progress.notices, &policy.operators, &story, |_| MailKind::Operator));
            }
            changes.push(CauseChange::Join(key.clone(), Box::new((progress, again.then_some(story)))));
        }
        for key in before.causes.iter().filter(|key| !wanted.contains_key(*key)) {
            match causes.get(key) {
                Some(cause) if cause.members.iter().all(|m| m == name) => {
                    let told = if policy.send_resolved { self.store.told(&cause.alert).await? } else { Vec::new() };
                    let story = Story { at: now, ..cause.story.clone() };
                    mails.extend(notify(&cause.alert, cause.progress.notices, &told, &story, |_| MailKind::Resolved));
                    changes.push(CauseChange::Close(key.clone()));
                }
                cause => {
                    let named = cause.is_some_and(|c| c.story.integration == *name);
                    changes.push(CauseChange::Leave(key.clone(), named.then_some(now)));
                }
            }
        }
        Ok((changes, mails))
    }
}

/// A cause with its first member.
fn opened(key: &str, reason: Reason, story: Story, now: Timestamp) -> Cause {
    let (key, alert, members) = (key.to_owned(), Uuid::new_v4().to_string(), HashSet::from([story.integration.clone()]));
    Cause { key, alert, reason, story, since: now, members, progress: Progress::opened(now) }
}

fn suffering(tracked: &HashMap<String, Tracked>) -> Suffering {
    let mut suffering = Suffering::default();
    for entry in tracked.values() {
        suffering.note(&entry.watched.tenant, None, ignorance(&entry.state));
    }
    suffering
}

fn never_probed(tracked: &HashMap<String, Tracked>) -> HashSet<String> {
    tracked.iter().filter(|(_, entry)| entry.state.last_probe.is_none()).map(|(name, _)| name.clone()).collect()
}

/// Names, and tenants with client ids.
fn identities(watched: &[Watched]) -> HashMap<String, String> {
    watched.iter().map(|w| (w.facts.name.clone(), w.identity.clone())).collect()
}

/// Who gets an integration's own mails: its admins, or the operators where it has none. Nobody, when the reason is a cause's.
fn people<'a>(policy: &'a Policy, watched: &'a Watched, reason: Reason) -> &'a [String] {
    match reason.audience() {
        Audience::Operators => &[],
        Audience::Admins if watched.admins.is_empty() => &policy.operators,
        Audience::Admins => &watched.admins,
    }
}

/// Causes keep the members that are still there, and go with the last one.
fn keep_members(causes: &mut HashMap<String, Cause>, is_there: impl Fn(&str) -> bool) {
    causes.retain(|_, cause| {
        cause.members.retain(|member| is_there(member));
        !cause.members.is_empty()
    });
}

/// What was opened while nobody was to be mailed counts as not opened: the next probe opens it again, and tells.
fn forget_untold(
    (alerts, keys): (HashSet<String>, HashSet<String>),
    policy: &Policy,
    tracked: &mut HashMap<String, Tracked>,
    causes: &mut HashMap<String, Cause>,
) {
    for name in &alerts {
        let Some(entry) = tracked.get_mut(name) else { continue };
        if entry.alert.as_ref().is_some_and(|alert| !people(policy, &entry.watched, alert.reason).is_empty()) {
            entry.alert = None;
        }
    }
    if !policy.operators.is_empty() && !keys.is_empty() {
        causes.retain(|key, _| !keys.contains(key));
        tracked.values_mut().for_each(|entry| entry.causes.retain(|key| !keys.contains(key)));
    }
}

/// One mail a person, each address once.
fn notify(alert: &str, sequence: u32, people: &[String], story: &Story, kind: impl Fn(&str) -> MailKind) -> Vec<Notification> {
    let unique: BTreeSet<&String> = people.iter().collect();
    let mail = |person: &String| Notification {
        alert: alert.to_owned(),
        sequence,
        kind: kind(person),
        recipient: person.clone(),
        story: story.clone(),
    };
    unique.into_iter().map(mail).collect()
}

fn remember(causes: &mut HashMap<String, Cause>, change: CauseChange, integration: &str) {
    match change {
        CauseChange::Open(cause) => drop(causes.insert(cause.key.clone(), *cause)),
        CauseChange::Join(key, change) => {
            if let Some(cause) = causes.get_mut(&key) {
                let (progress, story) = *change;
                cause.members.insert(integration.to_owned());
                cause.progress = progress;
                cause.story = story.unwrap_or_else(|| cause.story.clone());
            }
        }
        CauseChange::Leave(key, named_left) => {
            if let Some(cause) = causes.get_mut(&key) {
                cause.members.remove(integration);
                cause.progress.named_left = named_left.or(cause.progress.named_left);
            }
        }
        CauseChange::Close(key) => drop(causes.remove(&key)),
    }
}
