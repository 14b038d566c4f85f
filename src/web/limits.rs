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

/// Wrong guesses by source.
#[derive(Debug, Default)]
pub struct Guesses {
    left: Mutex<HashMap<IpAddr, (f64, Timestamp)>>,
}

impl Guesses {
    /// Counts a wrong guess; answers whether it may be answered like any other.
    pub fn wrong(&self, source: IpAddr, now: Timestamp) -> bool {
        let source = network(source);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= SOURCES && !left.contains_key(&source) {
            left.retain(|_, (tokens, at)| refilled(*tokens, *at, now) < BURST);
            if left.len() >= SOURCES {
                return false;
            }
        }
        let entry = left.entry(source).or_insert((BURST, now));
        let tokens = refilled(entry.0, entry.1, now);
        *entry = ((tokens - 1.0).max(0.0), now);
        tokens >= 1.0
    }
}

fn refilled(tokens: f64, at: Timestamp, now: Timestamp) -> f64 {
    (tokens + now.since(at).as_millis() as f64 / REFILL_MS).min(BURST)
}

/// Whoever has one IPv6 address has a network of them.
fn network(address: IpAddr) -> IpAddr {
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
