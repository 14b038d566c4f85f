//! The only place that reads the time. Tests set the clock themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::domain::Timestamp;

/// A clock. Cheap to clone; clones of a manual clock share their time.
///
/// There are two times. [`Clock::now`] is the wall clock, used for what is saved, shown and signed; it may be set back or ahead.
/// [`Clock::steady`] only goes forward, at a constant rate; everything that waits uses it.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clock.
    System(Origin),
    /// A clock that does not move until it is set.
    Manual(Arc<Hands>),
}

/// The time on both of the machine's clocks when the process began.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    instant: Instant,
    wall: Timestamp,
}

/// A manual clock: the steady time, and how far the wall clock was set ahead (or back), in milliseconds.
#[derive(Debug, Default)]
pub struct Hands {
    steady: AtomicI64,
    stepped: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::System(Origin { instant: Instant::now(), wall: wall() })
    }

    /// A clock that shows `at` until it is set.
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(Hands { steady: AtomicI64::new(at.0), stepped: AtomicI64::new(0) }))
    }

    /// The current time on the wall clock.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System(_) => wall(),
            Self::Manual(hands) => {
                Timestamp(hands.steady.load(Ordering::SeqCst) + hands.stepped.load(Ordering::SeqCst))
            }
        }
    }

    /// The current time on a clock that is never set. It agrees with the wall clock as of the start of the process.
    pub fn steady(&self) -> Timestamp {
        match self {
            Self::System(origin) => origin.wall.plus(origin.instant.elapsed()),
            Self::Manual(hands) => Timestamp(hands.steady.load(Ordering::SeqCst)),
        }
    }

    /// The expected wall clock time when the steady clock shows `at`.
    pub fn wall_at(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_add(self.now().0.saturating_sub(self.steady().0)))
    }

    /// Sets the steady time of a manual clock to `at`; does nothing to the machine's clock.
    pub fn set(&self, at: Timestamp) {
        if let Self::Manual(hands) = self {
            hands.steady.store(at.0, Ordering::SeqCst);
        }
    }

    /// Sets the wall clock of a manual clock ahead or back by `milliseconds`, as an administrator or NTP does.
    pub fn step(&self, milliseconds: i64) {
        if let Self::Manual(hands) = self {
            hands.stepped.fetch_add(milliseconds, Ordering::SeqCst);
        }
    }
}

fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A time in RFC 3339: UTC, whole seconds.
pub fn rfc3339(at: Timestamp) -> String {
    let whole = jiff::Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    whole.to_string()
}

/// A time for people: "23 November 2026, 21:30 UTC".
pub fn moment(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%e %B %Y, %H:%M UTC").to_string().trim().to_owned()
}

/// How far a time is from now, in words: "12 min ago", "in 3 min", "now".
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now.0 - at.0) / 1000;
    let (amount, unit) = match seconds.unsigned_abs() {
        0..5 => return "now".to_owned(),
        s @ 5..120 => (s, "s"),
        s @ 120..7_200 => (s / 60, "min"),
        s @ 7_200..172_800 => (s / 3_600, "h"),
        s => (s / 86_400, "days"),
    };
    if seconds > 0 { format!("{amount} {unit} ago") } else { format!("in {amount} {unit}") }
}

/// For how long something has lasted, in words: "12 min", "a moment".
pub fn lasting(since: Timestamp, now: Timestamp) -> String {
    let words = ago(since.min(now), now);
    words.strip_suffix(" ago").map_or_else(|| "a moment".to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_words() {
        for (seconds, expected) in [(0, "a moment"), (90, "90 s"), (720, "12 min"), (-90, "a moment")] {
            let since = Timestamp::from_seconds(1_000_000);
            assert_eq!(lasting(since, Timestamp::from_seconds(1_000_000 + seconds)), expected);
        }
    }

    #[test]
    fn distances_in_words() {
        for (seconds, expected) in [
            (0, "now"),
            (4, "now"),
            (-3, "now"),
            (90, "90 s ago"),
            (-90, "in 90 s"),
            (720, "12 min ago"),
            (10_800, "3 h ago"),
            (-300, "in 5 min"),
            (1_000_000, "11 days ago"),
        ] {
            assert_eq!(
                ago(Timestamp::from_seconds(1_000_000), Timestamp::from_seconds(1_000_000 + seconds)),
                expected
            );
        }
    }
}
