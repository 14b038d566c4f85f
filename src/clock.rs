//! The one place that reads the time. Tests turn the hands themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::Timestamp;

/// A source of the present moment. Cheap to clone; clones of a manual clock share their hands.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// Stands still until it is set.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at a moment.
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.0)))
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(hands) => Timestamp(hands.load(Ordering::SeqCst)),
        }
    }

    /// Sets a manual clock; the machine's cannot be set.
    pub fn set(&self, at: Timestamp) {
        if let Self::Manual(hands) = self {
            hands.store(at.0, Ordering::SeqCst);
        }
    }
}

/// A moment as people and programs write it (RFC 3339, UTC, whole seconds).
pub fn rfc3339(at: Timestamp) -> String {
    let whole = jiff::Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    whole.to_string()
}

/// A moment as people read it: "23 November 2026, 21:30 UTC".
pub fn moment(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%e %B %Y, %H:%M UTC").to_string().trim().to_owned()
}

/// How far a moment is from now, in words: "12 min ago", "in 3 min", "now".
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(ago(Timestamp::from_seconds(1_000_000), Timestamp::from_seconds(1_000_000 + seconds)), expected);
        }
    }
}
