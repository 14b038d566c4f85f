//! Limits. [`FailedAttemptLimiter`] works against guessing: networks that send many invalid links or callbacks must wait, while valid ones
//! are always accepted. [`Places`] limits how many of something are in use at once, in total and per network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::Timestamp;

/// The number of failed attempts that one network may make at once.
const BURST: f64 = 150.0;

/// The time until one more is allowed, in milliseconds.
const REFILL_MS: f64 = 1_000.0;

/// The number of networks that are remembered.
const SOURCES: usize = 4_096;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub(crate) fn full(burst: f64, now: Timestamp) -> Self {
        Self { tokens: burst, at: now }
    }

    /// Takes a token, if there is one. One token is added every `refill_ms` milliseconds, up to `burst`.
    pub(crate) fn take(&mut self, burst: f64, refill_ms: f64, now: Timestamp) -> bool {
        let tokens = self.refilled(burst, refill_ms, now);
        *self = Self { tokens: if tokens >= 1.0 { tokens - 1.0 } else { tokens }, at: now };
        tokens >= 1.0
    }

    fn refilled(self, burst: f64, refill_ms: f64, now: Timestamp) -> f64 {
        (self.tokens + now.since(self.at).as_millis() as f64 / refill_ms).min(burst)
    }
}

/// Counts failed attempts per network.
#[derive(Debug)]
pub struct FailedAttemptLimiter {
    burst: f64,
    refill_ms: f64,
    left: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Default for FailedAttemptLimiter {
    fn default() -> Self {
        Self::new(BURST)
    }
}

impl FailedAttemptLimiter {
    /// Allows `burst` failed attempts at once, then one per second.
    pub(crate) fn new(burst: f64) -> Self {
        Self::lasting(burst, REFILL_MS)
    }

    /// Allows `burst` failed attempts at once, then one every `refill_ms` milliseconds.
    pub(crate) fn lasting(burst: f64, refill_ms: f64) -> Self {
        Self { burst, refill_ms, left: Mutex::default() }
    }

    /// Whether another attempt may be processed.
    pub(crate) fn has_more(&self, source: IpAddr, now: Timestamp) -> bool {
        let left = self.left.lock();
        left.get(&network(source))
            .is_none_or(|bucket| bucket.refilled(self.burst, self.refill_ms, now) >= 1.0)
    }

    /// The number of failed attempts that still count.
    pub(crate) fn held_against(&self, source: IpAddr, now: Timestamp) -> u32 {
        let left = self.left.lock();
        left.get(&network(source))
            .map_or(0, |bucket| (self.burst - bucket.refilled(self.burst, self.refill_ms, now)).ceil() as u32)
    }

    /// Counts a failed attempt. Returns false when there were too many. `now` comes from the monotonic clock
    /// ([`crate::clock::Clock::steady`]).
    pub fn wrong(&self, source: IpAddr, now: Timestamp) -> bool {
        let source = network(source);
        let mut left = self.left.lock();
        if left.len() >= SOURCES && !left.contains_key(&source) {
            left.retain(|_, bucket| bucket.refilled(self.burst, self.refill_ms, now) < self.burst);
            if left.len() >= SOURCES {
                return false;
            }
        }
        left.entry(source).or_insert(Bucket::full(self.burst, now)).take(self.burst, self.refill_ms, now)
    }
}

/// Limits how many of something are in use at once, in total and per network.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// One of some [`Places`]; released when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    network: IpAddr,
}

impl Places {
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// Takes a place, if one is left in total and for the network of this address.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut taken = self.taken.lock();
        let own = taken.by.get(&network).copied().unwrap_or_default();
        if taken.all >= self.all || own >= self.each {
            return None;
        }
        taken.all += 1;
        taken.by.insert(network, own + 1);
        Some(Place { places: Arc::clone(self), network })
    }

    /// Whether at least half of the places are taken, in total or of one network.
    pub(crate) fn is_scarce(&self) -> bool {
        let taken = self.taken.lock();
        2 * taken.all >= self.all || taken.by.values().any(|own| 2 * own >= self.each)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        match taken.by.get_mut(&self.network) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by.remove(&self.network);
            }
        }
    }
}

/// The network of an address: the /64 of an IPv6 address, because one client usually has all of it, and an IPv4 address itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_failed_attempts_are_limited() {
        let (failed_attempts, now) = (FailedAttemptLimiter::default(), Timestamp::from_seconds(1_000));
        let source: IpAddr = "2001:db8::1".parse().expect("an address");
        let neighbour: IpAddr = "2001:db8::2".parse().expect("an address");
        assert_eq!((0..1000).filter(|_| failed_attempts.wrong(source, now)).count(), 150);
        assert!(!failed_attempts.wrong(neighbour, now), "a network shares one limit");
        assert!(
            failed_attempts.wrong("127.0.0.1".parse().expect("an address"), now),
            "other networks are not affected"
        );
        assert!(failed_attempts.wrong(source, now.plus(Duration::from_secs(4))), "after a while");
        for i in 0..u32::try_from(SOURCES).unwrap_or_default() * 2 {
            failed_attempts.wrong(IpAddr::V4(i.into()), now);
        }
        assert!(failed_attempts.left.lock().len() <= SOURCES, "memory is bounded");
    }

    #[test]
    fn places_are_limited_in_total_and_per_network() {
        let places = Places::new(3, 2);
        let [one, two]: [IpAddr; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let first = places.take(one).expect("the first");
        let second = places.take(one).expect("the second");
        assert!(places.take(one).is_none(), "the limit of one network");
        let third = places.take(two).expect("another network has its own limit");
        assert!(places.is_scarce() && places.take(two).is_none(), "all are taken");
        drop((first, third));
        assert!(places.take(two).is_some(), "released");
        drop(second);
        assert!(places.taken.lock().by.is_empty(), "networks without a place are not remembered");
    }

    #[test]
    fn failed_attempts_count_for_a_while() {
        let (failed_attempts, now) = (FailedAttemptLimiter::new(50.0), Timestamp::from_seconds(1_000));
        let source = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(failed_attempts.held_against(source, now), 0);
        for _ in 0..3 {
            failed_attempts.wrong(source, now);
        }
        assert_eq!(failed_attempts.held_against(source, now), 3);
        assert_eq!(failed_attempts.held_against(source, now.plus(Duration::from_secs(60))), 0);
    }
}
