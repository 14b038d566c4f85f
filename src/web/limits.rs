//! A limit against guessing: who sends many links or answers that open nothing is told to wait. Good ones always pass.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::domain::Timestamp;

/// So many wrong guesses at once.
const BURST: f64 = 150.0;

/// One more after so many milliseconds.
const REFILL_MS: f64 = 1_000.0;

/// So many sources are remembered.
const SOURCES: usize = 4_096;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub(super) fn full(burst: f64, now: Timestamp) -> Self {
        Self { tokens: burst, at: now }
    }

    /// Takes one, if there is one; one more comes after `refill_ms`, up to `burst`.
    pub(super) fn take(&mut self, burst: f64, refill_ms: f64, now: Timestamp) -> bool {
        let tokens = self.refilled(burst, refill_ms, now);
        *self = Self { tokens: if tokens >= 1.0 { tokens - 1.0 } else { tokens }, at: now };
        tokens >= 1.0
    }

    fn refilled(self, burst: f64, refill_ms: f64, now: Timestamp) -> f64 {
        (self.tokens + now.since(self.at).as_millis() as f64 / refill_ms).min(burst)
    }
}

/// Wrong guesses by source.
#[derive(Debug)]
pub struct Guesses {
    burst: f64,
    left: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self::new(BURST)
    }
}

impl Guesses {
    /// So many wrong ones at once, then one a second.
    pub(super) fn new(burst: f64) -> Self {
        Self { burst, left: Mutex::default() }
    }

    /// Whether a further guess may be looked at.
    pub(super) fn has_more(&self, source: IpAddr, now: Timestamp) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.get(&network(source)).is_none_or(|bucket| bucket.refilled(self.burst, REFILL_MS, now) >= 1.0)
    }

    /// Counts a wrong guess; answers whether it may be answered like any other.
    pub fn wrong(&self, source: IpAddr, now: Timestamp) -> bool {
        let source = network(source);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= SOURCES && !left.contains_key(&source) {
            left.retain(|_, bucket| bucket.refilled(self.burst, REFILL_MS, now) < self.burst);
            if left.len() >= SOURCES {
                return false;
            }
        }
        left.entry(source).or_insert(Bucket::full(self.burst, now)).take(self.burst, REFILL_MS, now)
    }
}

/// Whoever has one IPv6 address has a network of them.
pub(super) fn network(address: IpAddr) -> IpAddr {
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
    fn many_wrong_guesses_are_slowed_down() {
        let (guesses, now) = (Guesses::default(), Timestamp::from_seconds(1_000));
        let source: IpAddr = "2001:db8::1".parse().expect("an address");
        let neighbour: IpAddr = "2001:db8::2".parse().expect("an address");
        assert_eq!((0..1000).filter(|_| guesses.wrong(source, now)).count(), 150);
        assert!(!guesses.wrong(neighbour, now), "one network, one budget");
        assert!(guesses.wrong("127.0.0.1".parse().expect("an address"), now), "others are not disturbed");
        assert!(guesses.wrong(source, now.plus(Duration::from_secs(4))), "after a while");
        for i in 0..u32::try_from(SOURCES).unwrap_or_default() * 2 {
            guesses.wrong(IpAddr::V4(i.into()), now);
        }
        assert!(guesses.left.lock().unwrap_or_else(PoisonError::into_inner).len() <= SOURCES, "memory is bounded");
    }
}
