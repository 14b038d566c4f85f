//! The loop that starts due probes, and a probe from start to verdict.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::evaluator::{Evaluator, ProbeMeta};
use super::policy::Policy;
use super::prober::{ProbeRequest, Prober, Target};
use super::scheduler::{Ended, Schedule};
use crate::clock::Clock;
use crate::domain::{
    BrakeAction, Check, Diagnosis, Evidence, HeldMails, Hold, IntegrationRecord, Outcome, Requirements,
    SchedulePolicy, Timestamp, VERIFICATION_PROBES, Verification, diagnose,
};
use crate::metrics::Families;
use crate::store::StoreError;

/// Limits of probes.
#[derive(Debug, Clone, Copy)]
pub struct ProbeLimits {
    /// Time-out of one whole probe.
    pub timeout: Duration,
    /// Maximum number of probes in flight.
    pub concurrency: usize,
}

/// The minimum pause between extra probes because of unsigned callbacks that say that consent was given.
const REPEAT: Duration = VERIFICATION_PROBES[1];

/// The verification of an integration after a re-authentication, or after a callback that claims one.
#[derive(Debug, Clone, Copy)]
struct PendingVerification {
    /// When it began, on the wall clock.
    began: Timestamp,
    /// When it began, on the steady clock. The following times are on the steady clock, too.
    since: Timestamp,
    /// The first probe that starts at this time or later is the last.
    last: Timestamp,
    /// The end of the grace period, in which a failure does not count. `None` while it is not known that anything was renewed: an unsigned
    /// callback gets no grace period.
    grace: Option<Timestamp>,
    /// When the verification was last requested.
    asked: Timestamp,
    /// Whether a probe that began afterwards has ended.
    seen: bool,
}

/// Called with every result of a verification; returns whether consent has just turned out to be renewed.
pub type VerificationListener =
    Arc<dyn Fn(Verification) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// The integrations by name.
pub type Targets = Arc<HashMap<String, Target>>;

/// The configuration of probing. A probe keeps the setup with which it began.
pub struct Setup {
    /// The targets of probes.
    pub targets: Targets,
    /// Sends the requests to Entra.
    pub prober: Arc<Prober>,
    /// Limits of probes.
    pub limits: ProbeLimits,
    /// Called with results of verifications.
    pub listener: VerificationListener,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Setup")
    }
}

/// What changes with the configuration besides the [`Setup`].
#[derive(Debug)]
pub struct Change {
    /// The intervals of the schedule.
    pub schedule: SchedulePolicy,
    /// Who is notified, and when a failure counts.
    pub policy: Policy,
    /// The integrations, as the evaluator sees them.
    pub records: Vec<IntegrationRecord>,
}

/// The difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDiff {
    /// Names of integrations that are new.
    pub added: HashSet<String>,
    /// Number of integrations that have left.
    pub removed: usize,
    /// Number of integrations with a change that affects probing.
    pub changed: usize,
}

/// The loop runs at least this often, to show that it is alive, and to notice a clock that was set.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// A wall clock that moves this far at once was set; NTP moves it less.
const STEP_MS: i64 = 2_000;

/// Probes the fleet. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

struct Inner {
    schedule: Mutex<Schedule>,
    setup: RwLock<Arc<Setup>>,
    evaluator: Evaluator,
    families: Families,
    clock: Clock,
    wake: Notify,
    ended: Notify,
    verifications: Mutex<HashMap<String, PendingVerification>>,
    /// When the loop last ran.
    last_loop: Mutex<Instant>,
    /// How far the wall clock was ahead of the steady one, in milliseconds.
    offset: Mutex<i64>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    /// Puts the parts together.
    pub fn new(
        schedule: Schedule,
        setup: Setup,
        evaluator: Evaluator,
        families: Families,
        clock: Clock,
    ) -> Self {
        let (schedule, setup) = (Mutex::new(schedule), RwLock::new(Arc::new(setup)));
        let (wake, ended, verifications, last_loop) =
            (Notify::new(), Notify::new(), Mutex::default(), Mutex::new(Instant::now()));
        let offset = Mutex::new(clock.now().0 - clock.steady().0);
        Self {
            inner: Arc::new(Inner {
                schedule,
                setup,
                evaluator,
                families,
                clock,
                wake,
                ended,
                verifications,
                last_loop,
                offset,
            }),
        }
    }

    /// The targets of probes.
    pub fn targets(&self) -> Targets {
        Arc::clone(&self.setup().targets)
    }

    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.inner.setup.read())
    }

    /// Continues with another configuration. Probes in flight end; their results count if their integration has not changed.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn reconfigure(&self, setup: Setup, change: Change) -> Result<ConfigDiff, StoreError> {
        let earlier = self.setup();
        let added: HashSet<String> =
            setup.targets.keys().filter(|name| !earlier.targets.contains_key(*name)).cloned().collect();
        let removed = earlier.targets.keys().filter(|name| !setup.targets.contains_key(*name)).count();
        let differs = |name: &&String| setup.targets.get(*name) != earlier.targets.get(*name);
        let changed: HashSet<String> = setup.targets.keys().filter(differs).cloned().collect();
        let queue: Vec<(String, String)> =
            change.records.iter().map(|r| (r.name.clone(), r.tenant.clone())).collect();
        let swap = |never_probed: &HashSet<String>| {
            self.verifications().retain(|name, _| setup.targets.contains_key(name));
            self.schedule().reconfigure(
                change.schedule,
                queue,
                &changed,
                never_probed,
                self.inner.clock.steady(),
            );
            *self.inner.setup.write() = Arc::new(setup);
        };
        self.inner.evaluator.reconfigure(change.policy, change.records, self.inner.clock.now(), swap).await?;
        self.inner.evaluator.release_if_switched_off(self.inner.clock.now()).await;
        self.inner.wake.notify_one();
        Ok(ConfigDiff { changed: changed.len() - added.len(), added, removed })
    }

    /// The mails that the brake holds; `None` while it holds none.
    pub async fn held(&self) -> Option<(Hold, HeldMails)> {
        self.inner.evaluator.held(self.inner.clock.now()).await
    }

    /// Does something with the mails that a hold holds. Returns the number of notices, or `None` if that hold is over.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn act_on_brake(
        &self,
        id: &str,
        action: BrakeAction,
        who: &str,
    ) -> Result<Option<usize>, StoreError> {
        self.inner.evaluator.act_on_brake(id, action, who, self.inner.clock.now()).await
    }

    /// Snoozes the reminders of an integration until a time. Returns whether it is broken, so that there is something to snooze.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn snooze(&self, name: &str, until: Timestamp, who: &str) -> Result<bool, StoreError> {
        self.inner.evaluator.snooze(name, until, who, self.inner.clock.now()).await
    }

    /// Ends a snooze before its time. Returns whether there was one.
    ///
    /// # Errors
    /// The database returns an error; then nothing has changed.
    pub async fn end_snooze(&self, name: &str, who: &str) -> Result<bool, StoreError> {
        self.inner.evaluator.end_snooze(name, who, self.inner.clock.now()).await
    }

    fn schedule(&self) -> parking_lot::MutexGuard<'_, Schedule> {
        self.inner.schedule.lock()
    }

    /// An integration was re-authenticated: probes it now, and again while consent spreads. Until the last of these probes it is within the
    /// grace period. After a restart, only the rest of that period is left.
    pub fn verify_renewal(&self, name: &str, began: Timestamp) {
        let (now, since) = self.steady_since(began);
        let last = since.plus(VERIFICATION_PROBES[VERIFICATION_PROBES.len() - 1]);
        let pending = PendingVerification { began, since, last, grace: Some(last), asked: now, seen: false };
        self.verifications().insert(name.to_owned(), pending);
        self.follow_verification(name, since, now);
    }

    /// An unsigned callback says that consent was given: probes the integration now, and again while consent spreads. Failures count as
    /// usual.
    pub fn verify_claim(&self, name: &str, began: Timestamp) {
        let (now, since) = self.steady_since(began);
        {
            let mut verifications = self.verifications();
            let last = since.plus(VERIFICATION_PROBES[VERIFICATION_PROBES.len() - 1]);
            let fresh = PendingVerification {
                began,
                since,
                last,
                grace: None,
                asked: Timestamp(i64::MIN),
                seen: false,
            };
            let pending = verifications.entry(name.to_owned()).or_insert(fresh);
            // Repeated callbacks neither get a probe each time nor delay the last probe.
            if now.since(pending.asked) < REPEAT {
                return;
            }
            (pending.asked, pending.last) = (now, pending.last.max(last));
        }
        self.follow_verification(name, since, now);
    }

    /// The current time, and a wall clock time, on the steady clock. A time in the future becomes now: a clock that was ahead must not make
    /// a verification longer.
    fn steady_since(&self, began: Timestamp) -> (Timestamp, Timestamp) {
        let (now, wall) = (self.inner.clock.steady(), self.inner.clock.now());
        (now, now.minus(wall.since(began)))
    }

    /// Adds probes now and at the pauses that are still to come.
    fn follow_verification(&self, name: &str, since: Timestamp, now: Timestamp) {
        if !self.setup().targets.contains_key(name) {
            self.verifications().remove(name);
            return;
        }
        let later = VERIFICATION_PROBES.iter().map(|pause| since.plus(*pause)).filter(|at| *at > now);
        let moments: Vec<Timestamp> = std::iter::once(now).chain(later).collect();
        self.schedule().add_extra_probes(name, &moments);
        self.inner.wake.notify_one();
    }

    /// Probes an integration now, in addition to its schedule.
    pub fn probe_soon(&self, name: &str) {
        self.schedule().add_extra_probes(name, &[self.inner.clock.steady()]);
        self.inner.wake.notify_one();
    }

    /// Probes an integration now, and waits until a probe that began afterwards has ended, for at most twice the time-out of a probe.
    pub async fn probe_now(&self, name: &str) {
        let asked = self.inner.clock.steady();
        // A scrape is not urgent, so the pause that the tenant asked for is kept.
        if self.schedule().paused_until(name, asked).is_some() {
            return;
        }
        self.schedule().add_extra_probes(name, &[asked]);
        self.inner.wake.notify_one();
        let ended = async {
            loop {
                let wait = self.inner.ended.notified();
                // An older probe may still have been in flight.
                let is_there = self.setup().targets.contains_key(name);
                if !is_there || self.schedule().last_started(name).is_some_and(|started| started >= asked) {
                    break;
                }
                wait.await;
            }
        };
        drop(tokio::time::timeout(2 * self.setup().limits.timeout, ended).await);
    }

    /// When the pause ends that the integration's tenant asked for (`Retry-After`).
    pub fn paused_until(&self, name: &str) -> Option<Timestamp> {
        let clock = &self.inner.clock;
        self.schedule().paused_until(name, clock.steady()).map(|until| clock.wall_at(until))
    }

    /// Detects that the wall clock was set. Nothing that waits is affected, because it uses the steady clock; remembered times are
    /// corrected.
    /// Returns the corrected time, if it was set.
    fn notice_step(&self) -> Option<Timestamp> {
        let offset = self.inner.clock.now().0 - self.inner.clock.steady().0;
        let before = std::mem::replace(&mut *self.inner.offset.lock(), offset);
        let step = offset - before;
        if step.abs() < STEP_MS {
            return None;
        }
        let direction = if step > 0 { "ahead" } else { "back" };
        tracing::warn!(seconds = step.abs() / 1000, direction, "the clock of this machine was set");
        Some(self.inner.clock.now())
    }

    /// Whether the loop is running.
    pub fn is_alive(&self) -> bool {
        self.inner.last_loop.lock().elapsed() < 6 * LONGEST_SLEEP
    }

    /// Number of integrations that are probed.
    pub fn size(&self) -> usize {
        self.setup().targets.len()
    }

    /// When an integration is probed next.
    pub fn next_probe(&self, name: &str) -> Option<Timestamp> {
        self.schedule().due(name).map(|due| self.inner.clock.wall_at(due))
    }

    /// Whether an integration is being verified, and if so whether a probe that began afterwards has ended.
    pub fn verification(&self, name: &str) -> Option<bool> {
        self.verifications().get(name).map(|p| p.seen)
    }

    fn verifications(&self) -> parking_lot::MutexGuard<'_, HashMap<String, PendingVerification>> {
        self.inner.verifications.lock()
    }

    /// Applies a probe that began after the re-authentication. The verification ends when everything passes, or with the last probe. Returns whether
    /// this probe has shown that consent is renewed.
    async fn verified(&self, setup: &Setup, seen: Verification, since: Timestamp) -> bool {
        let name = seen.integration.clone();
        let passed = seen.passed;
        let began;
        {
            let mut verifications = self.verifications();
            // A newer sign-in has its own verification.
            let Some(pending) = verifications.get_mut(&name).filter(|p| p.since == since) else {
                return false;
            };
            pending.seen = true;
            began = pending.began;
            // If consent is not an enabled check, passing checks say nothing about it.
            let verified = passed && (pending.grace.is_some() || seen.consent_holds == Some(true));
            if seen.last || verified {
                verifications.remove(&name);
                self.schedule().drop_extra_probes(&name);
            }
        }
        let renewed = (setup.listener)(Verification { since: began, ..seen }).await;
        // The change is confirmed now, and Entra's replicas may still disagree about it for a while.
        if renewed && !passed {
            self.verify_renewal(&name, self.inner.clock.now());
        }
        renewed
    }

    /// Runs until `stop` is set, then waits for the probes in flight.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut probes = JoinSet::new();
        loop {
            *self.inner.last_loop.lock() = Instant::now();
            if let Some(now) = self.notice_step() {
                // In a task of its own: a database that does not answer must not stop the loop.
                let inner = Arc::clone(&self.inner);
                probes.spawn(async move { inner.evaluator.correct_times(now).await });
            }
            let now = self.inner.clock.steady();
            let concurrency = self.setup().limits.concurrency;
            let started = self.schedule().start(concurrency, now);
            for (name, due) in started {
                let monitor = self.clone();
                probes.spawn(async move { monitor.probe(&name, due).await });
            }
            // If no more probes can start, only the end of one wakes the loop.
            let next = {
                let schedule = self.schedule();
                let room = schedule.in_flight() < schedule.concurrency(concurrency);
                if room { schedule.next() } else { None }
            };
            let sleep =
                next.map_or(LONGEST_SLEEP, |n| n.since(now).min(LONGEST_SLEEP)).max(Duration::from_millis(5));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                Some(_) = probes.join_next() => {}
                () = self.inner.wake.notified() => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
        while probes.join_next().await.is_some() {}
    }

    /// Simulates the time until `end` (of the steady clock) on a manual clock: runs every due probe, one after the other.
    pub async fn run_until(&self, end: Timestamp) {
        let clock = &self.inner.clock;
        loop {
            if let Some(now) = self.notice_step() {
                self.inner.evaluator.correct_times(now).await;
            }
            let next = self.schedule().next().filter(|next| *next <= end);
            let Some(next) = next else { break };
            clock.set(next.max(clock.steady()));
            let started = self.schedule().start(1, clock.steady());
            for (name, due) in started {
                self.probe(&name, due).await;
            }
        }
        clock.set(end.max(clock.steady()));
    }

    /// What a probe of an integration has to find out.
    fn request(&self, name: &str, limits: ProbeLimits) -> ProbeRequest {
        ProbeRequest {
            tenant_guid: self.inner.evaluator.wants_tenant_guid(name),
            asked: self.schedule().was_asked_for(name),
            timeout: limits.timeout,
        }
    }

    /// One probe, from evidence to verdict.
    async fn probe(&self, name: &str, due: Timestamp) {
        let (inner, setup) = (&self.inner, self.setup());
        let clock = &inner.clock;
        let Some(target) = setup.targets.get(name) else {
            return self.schedule().requeue(name, clock.steady());
        };
        let (started, stopwatch) = (clock.steady(), Instant::now());
        let probed = setup.prober.probe(target, self.request(name, setup.limits)).await;
        let steady = inner.evaluator.steady().await;
        if self.setup().targets.get(name) != Some(target) {
            self.schedule().requeue(name, clock.steady());
            inner.wake.notify_one();
            inner.ended.notify_waiters();
            return;
        }
        let diagnosis = diagnose(&target.requirements, &probed.evidence);
        let duration = stopwatch.elapsed();
        let pending = self.verifications().get(name).copied();
        let due_verification = pending.filter(|p| p.since <= started);
        let passed = sign_in_passes(&diagnosis);
        // Before the verdict, because the mail about the end of an alert names the sign-in that ended it.
        let renewed = match due_verification {
            Some(pending) => {
                let seen = Verification {
                    integration: name.to_owned(),
                    consent_holds: consent_holds(&target.requirements, &probed.evidence),
                    passed,
                    last: started >= pending.last,
                    since: pending.began,
                };
                self.verified(&setup, seen, pending.since).await
            }
            None => false,
        };
        // While consent spreads, a failure does not count, and neither does one that a probe with the old
        // token has seen.
        let grace = renewed || pending.and_then(|p| p.grace).is_some_and(|until| started < until);
        let seen = ProbeMeta {
            tenant_guid: probed.tenant_guid,
            credentials: target.credential_expiries().await,
            duration,
            steady: clock.steady(),
            grace,
            renewed: renewed || due_verification.is_some() && pending.is_some_and(|p| p.grace.is_some()),
        };
        let history = inner.evaluator.apply(&steady, name, &diagnosis, seen, clock.now()).await;
        drop(steady);
        tracing::debug!(
            integration = name,
            result = diagnosis.overall().label(),
            duration_ms = duration.as_millis(),
            "probed"
        );
        inner.families.probe(diagnosis.overall(), duration, started.since(due));
        let trouble = probed.evidence.faults().iter().any(|f| f.reason.is_upstream_trouble());
        let ended = Ended { history, retry_after: probed.evidence.retry_after(), trouble, started };
        self.schedule().ended(name, ended, clock.steady());
        inner.wake.notify_one();
        inner.ended.notify_waiters();
    }
}

/// Whether the checks that a sign-in can fix pass. It fixes neither provisioning nor credentials.
fn sign_in_passes(diagnosis: &Diagnosis) -> bool {
    let fixed = |check| matches!(check, Check::EnterpriseApp | Check::Consent | Check::GroupAccess);
    let mut own = diagnosis.checks.iter().filter(|c| fixed(c.check)).peekable();
    own.peek().is_some() && own.all(|c| c.outcome == Outcome::Pass)
}

/// Whether enterprise app and consent are as required, whichever checks are enabled.
fn consent_holds(requirements: &Requirements, evidence: &Evidence) -> Option<bool> {
    let checks = vec![Check::EnterpriseApp, Check::Consent];
    match diagnose(&Requirements { checks, ..requirements.clone() }, evidence).overall() {
        Outcome::Pass => Some(true),
        Outcome::Fail(_) => Some(false),
        Outcome::Unknown(_) => None,
    }
}
