//! When an integration is probed next.
//!
//! Each integration has a phase within the interval that depends on its name alone, so that starts are spread evenly and are the same after
//! a restart.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Timestamp;
use super::verdict::{IntegrationState, Verdict};
use crate::domain::Outcome;

/// The configured intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulePolicy {
    /// Each integration's period.
    pub interval: Duration,
    /// The interval after a failure, until it is confirmed or gone; at most `interval`.
    pub retry_interval: Duration,
    /// Failed probes before a failure is confirmed.
    pub failure_threshold: u32,
}

/// What the schedule needs to know of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Failed probes in a row.
    pub failures: u32,
    /// Probes in a row without result.
    pub unknowns: u32,
    /// Whether a failure is confirmed.
    pub broken: bool,
    /// Whether the last probe failed.
    pub failing: bool,
    /// Whether good probes are being counted towards recovery.
    pub recovering: bool,
}

impl History {
    /// The part of a state that the schedule looks at.
    pub fn of(state: &IntegrationState) -> Self {
        let overall = state.overall();
        let broken = matches!(state.verdict, Verdict::Broken { .. });
        Self {
            failures: state.failures,
            unknowns: state.unknowns,
            broken,
            failing: matches!(overall, Some(Outcome::Fail(_))),
            recovering: broken && matches!(overall, Some(Outcome::Pass)),
        }
    }
}

/// A hash that is the same on every machine and in every version (FNV-1a, 64 bit, with a final mix).
fn hash(name: &str) -> u64 {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // Otherwise, names that differ only in the last letter would start together.
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53) ^ (mixed >> 29)
}

/// The next start in the integration's own phase, strictly after `after`.
fn next_slot(name: &str, period: Duration, after: Timestamp) -> Timestamp {
    let period = i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1);
    let phase = i64::try_from(hash(name) % period.unsigned_abs()).unwrap_or(0);
    let elapsed = (after.0 - phase).rem_euclid(period);
    Timestamp(after.0.saturating_add(period - elapsed))
}

impl SchedulePolicy {
    /// When an integration without a probe in this process starts: its own next slot.
    pub fn first_due(&self, name: &str, now: Timestamp) -> Timestamp {
        next_slot(name, self.interval, now)
    }

    /// When to probe again after a probe that started at `started` and ended at `now`. `interval_multiplier` lengthens all intervals
    /// while the upstream fails; see [`Backoff`].
    pub fn next_due(
        &self,
        name: &str,
        history: &History,
        interval_multiplier: u32,
        started: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        let interval = self.interval.saturating_mul(interval_multiplier.max(1));
        let retry = self.retry_interval.min(self.interval);
        if history.unknowns > 0 {
            let doubled = retry.saturating_mul(1u32 << (history.unknowns - 1).min(16));
            // The first retry is never slowed down: most faults are over by then.
            return now.plus(if history.unknowns == 1 {
                doubled
            } else {
                doubled.saturating_mul(interval_multiplier.max(1)).min(interval)
            });
        }
        if history.failing && !history.broken || history.recovering {
            return now.plus(retry);
        }
        // A lasting failure is probed less often: identical requests that fail use up the tenant's quota.
        let confirmed = history.failures.saturating_sub(self.failure_threshold);
        let factor = match confirmed {
            0..12 => 1,
            12..36 => 2,
            _ => 4,
        };
        let slot = next_slot(name, self.interval, started);
        slot.plus(self.interval.saturating_mul(factor.max(interval_multiplier.max(1)) - 1)).max(now)
    }
}

/// The rate at which all integrations are probed, from the last result of each of the tenants that were probed last. A tenant counts once,
/// however often it is probed: its own faults must not slow the others down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backoff {
    recent: VecDeque<(u64, bool)>,
}

impl Backoff {
    const WINDOW: usize = 32;
    /// Fewer tenants with faults say nothing about the upstream.
    const MINIMUM: usize = 3;

    /// Records whether a probe in a tenant met a fault of the upstream as a whole.
    pub fn record(&mut self, tenant: &str, trouble: bool) {
        let key = hash(tenant);
        self.recent.retain(|(known, _)| *known != key);
        if self.recent.len() == Self::WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back((key, trouble));
    }

    /// The factor by which intervals grow: 1 normally, at most 4.
    pub fn interval_multiplier(&self) -> u32 {
        let troubled = self.recent.iter().filter(|(_, trouble)| *trouble).count();
        if troubled < Self::MINIMUM {
            return 1;
        }
        match troubled * 100 / self.recent.len() {
            0..30 => 1,
            30..60 => 2,
            _ => 4,
        }
    }

    /// The number of probes that may be in flight.
    pub fn concurrency(&self, configured: usize) -> usize {
        (configured / self.interval_multiplier() as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SchedulePolicy = SchedulePolicy {
        interval: Duration::from_secs(300),
        retry_interval: Duration::from_secs(30),
        failure_threshold: 2,
    };

    fn wait(history: History, interval_multiplier: u32) -> u64 {
        let now = Timestamp::from_seconds(1_700_000_000);
        POLICY.next_due("acme", &history, interval_multiplier, now, now).since(now).as_secs()
    }

    #[test]
    fn the_next_probe() {
        let h = History::default();
        for (sentence, history, interval_multiplier, range) in [
            ("healthy: its own slot", h, 1, 1..=300),
            ("healthy, upstream in trouble", h, 4, 901..=1200),
            ("a first failure is confirmed soon", History { failures: 1, failing: true, ..h }, 1, 30..=30),
            (
                "a confirmed failure returns to the interval",
                History { failures: 2, failing: true, broken: true, ..h },
                1,
                1..=300,
            ),
            (
                "after an hour of it, half as often",
                History { failures: 14, failing: true, broken: true, ..h },
                1,
                301..=600,
            ),
            (
                "after three hours, a quarter as often",
                History { failures: 60, failing: true, broken: true, ..h },
                1,
                901..=1200,
            ),
            ("recovery is confirmed soon", History { broken: true, recovering: true, ..h }, 1, 30..=30),
            ("unknown is retried", History { unknowns: 1, ..h }, 1, 30..=30),
            ("unknown again, doubled", History { unknowns: 3, ..h }, 1, 120..=120),
            ("unknown for long, at most the interval", History { unknowns: 200, ..h }, 1, 300..=300),
            ("unknown while the upstream fails", History { unknowns: 200, ..h }, 4, 1200..=1200),
            ("the first retry is never slowed down", History { unknowns: 1, ..h }, 4, 30..=30),
            (
                "never more than four intervals",
                History { failures: 60, failing: true, broken: true, ..h },
                4,
                901..=1200,
            ),
        ] {
            let seconds = wait(history, interval_multiplier);
            assert!(range.contains(&seconds), "{sentence}: {seconds} s");
        }
    }

    #[test]
    fn starts_are_spread_and_stable() {
        let now = Timestamp::from_seconds(1_700_000_123);
        let mut buckets = [0_u32; 10];
        for index in 0..10_000 {
            let name = format!("customer-{index}");
            let due = POLICY.first_due(&name, now);
            assert_eq!(
                POLICY.first_due(&name, now.plus(Duration::from_secs(300))),
                due.plus(Duration::from_secs(300)),
                "same after a restart"
            );
            buckets[(due.since(now).as_millis() / 30_001) as usize] += 1;
        }
        assert!(buckets.iter().all(|b| (850..=1150).contains(b)), "{buckets:?}");
    }

    #[test]
    fn upstream_faults_slow_all_probes_down_until_they_pass() {
        let mut backoff = Backoff::default();
        let mut after = |trouble: bool, tenants: std::ops::Range<u32>| {
            tenants.for_each(|t| backoff.record(&format!("t{t}"), trouble));
            backoff.interval_multiplier()
        };
        for (sentence, trouble, tenants, interval_multiplier) in [
            ("all is well", false, 0..10, 1),
            ("two tenants are too few", true, 0..2, 1),
            ("probed again, they are still two", true, 0..2, 1),
            ("a third of the tenants", true, 2..4, 2),
            ("all of them", true, 0..10, 4),
            ("half well again", false, 0..5, 2),
            ("mostly well again", false, 5..8, 1),
        ] {
            assert_eq!(after(trouble, tenants), interval_multiplier, "{sentence}");
        }
    }
}
