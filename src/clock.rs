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
