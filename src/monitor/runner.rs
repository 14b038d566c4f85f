//! The loop that starts what is due, and the one probe from start to verdict.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::evaluator::Evaluator;
use super::prober::{Prober, Target};
use super::scheduler::{Ended, Schedule};
use crate::clock::Clock;
use crate::domain::{Timestamp, diagnose};
use crate::metrics::Families;

/// How long and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// For one whole probe.
    pub timeout: Duration,
    /// Probes in flight at once.
    pub concurrency: usize,
}

/// A clock that jumps must not make the loop sleep through a slot.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Probes the fleet. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

struct Inner {
    schedule: Mutex<Schedule>,
    targets: HashMap<String, Arc<Target>>,
    prober: Prober,
    evaluator: Evaluator,
    families: Families,
    clock: Clock,
    rhythm: Rhythm,
    nudge: Notify,
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
        targets: Vec<Target>,
        prober: Prober,
        evaluator: Evaluator,
        families: Families,
        clock: Clock,
        rhythm: Rhythm,
    ) -> Self {
        let targets = targets.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect();
        let inner = Inner { schedule: Mutex::new(schedule), targets, prober, evaluator, families, clock, rhythm, nudge: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.inner.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The evaluator, for its states.
    pub fn evaluator(&self) -> &Evaluator {
        &self.inner.evaluator
    }

    /// Brings an integration's next probe forward.
    pub fn probe_soon(&self, name: &str) {
        self.schedule().soon(name, self.inner.clock.now());
        self.inner.nudge.notify_one();
    }

    /// Runs until told to stop, then waits for the probes in flight.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut probes = JoinSet::new();
        loop {
            let now = self.inner.clock.now();
            let started = self.schedule().start(self.inner.rhythm.concurrency, now);
            for (name, due) in started {
                let monitor = self.clone();
                probes.spawn(async move { monitor.probe(&name, due).await });
            }
            // With everybody busy there is nothing to wake up for but an end.
            let next = {
                let schedule = self.schedule();
                let room = schedule.in_flight() < schedule.concurrency(self.inner.rhythm.concurrency);
                if room { schedule.next() } else { None }
            };
            let sleep = next.map_or(LONGEST_SLEEP, |n| n.since(now).min(LONGEST_SLEEP)).max(Duration::from_millis(5));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                Some(_) = probes.join_next() => {}
                () = self.inner.nudge.notified() => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
        while probes.join_next().await.is_some() {}
    }

    /// Lives through the time until `end` on a manual clock: every probe that falls due, one after the other.
    pub async fn run_until(&self, end: Timestamp) {
        loop {
            let next = self.schedule().next().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.inner.clock.set(next.max(self.inner.clock.now()));
            let started = self.schedule().start(1, self.inner.clock.now());
            for (name, due) in started {
                self.probe(&name, due).await;
            }
        }
        self.inner.clock.set(end.max(self.inner.clock.now()));
    }

    /// One probe, from evidence to verdict.
    async fn probe(&self, name: &str, due: Timestamp) {
        let inner = &self.inner;
        let Some(target) = inner.targets.get(name).cloned() else { return };
        let (started, stopwatch) = (inner.clock.now(), Instant::now());
        let probed = inner.prober.probe(&target, inner.evaluator.wants_tenant_guid(name), inner.rhythm.timeout).await;
        let diagnosis = diagnose(&target.profile, &probed.evidence);
        let (duration, now) = (stopwatch.elapsed(), inner.clock.now());
        let history = inner.evaluator.apply(name, &diagnosis, probed.tenant_guid, duration, now).await;
        tracing::debug!(integration = name, result = diagnosis.overall().label(), duration_ms = duration.as_millis(), "probed");
        inner.families.probe(diagnosis.overall(), duration, started.since(due));
        let trouble = probed.evidence.faults().iter().any(|f| f.reason.is_upstream_trouble());
        let ended = Ended { history, retry_after: probed.evidence.retry_after(), trouble, started };
        self.schedule().ended(name, ended, inner.clock.now());
        inner.nudge.notify_one();
    }
}
