//! The last day of an integration: one cell per hour, each with the worst result of a probe in it.

use super::diagnosis::Outcome;
use super::time::Timestamp;

/// Hours in the strip.
pub const HOURS: usize = 24;

const HOUR_MS: i64 = 3_600_000;

/// The worst result in an hour. Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Cell {
    /// No probe.
    #[default]
    Empty,
    /// Everything passed.
    Pass,
    /// A check had no result.
    Unknown,
    /// Something failed.
    Fail,
}

impl Cell {
    const ALL: [Self; 4] = [Self::Empty, Self::Pass, Self::Unknown, Self::Fail];

    /// One letter, for the database.
    pub const fn letter(self) -> char {
        match self {
            Self::Empty => '-',
            Self::Pass => 'p',
            Self::Unknown => 'u',
            Self::Fail => 'f',
        }
    }
}

/// Twenty-four hours, the newest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Day {
    /// Hours since the epoch of the newest cell.
    hour: i64,
    cells: [Cell; HOURS],
}

impl Day {
    /// The day after a probe that ended at `now`.
    #[must_use]
    pub fn noted(self, outcome: Outcome, now: Timestamp) -> Self {
        let cell = match outcome {
            Outcome::Pass => Cell::Pass,
            Outcome::Unknown(_) => Cell::Unknown,
            Outcome::Fail(_) => Cell::Fail,
        };
        let mut day = self.moved_to(now);
        let last = &mut day.cells[HOURS - 1];
        *last = (*last).max(cell);
        day
    }

    /// The cells to show at `now`, the current hour last.
    pub fn cells(&self, now: Timestamp) -> [Cell; HOURS] {
        self.moved_to(now).cells
    }

    /// A clock that was set back moves nothing: the cells are then those of the last hours before `now`.
    fn moved_to(self, now: Timestamp) -> Self {
        let hour = now.0.div_euclid(HOUR_MS);
        let passed = usize::try_from(hour.saturating_sub(self.hour).max(0)).unwrap_or(HOURS).min(HOURS);
        let mut cells = [Cell::Empty; HOURS];
        cells[..HOURS - passed].copy_from_slice(&self.cells[passed..]);
        Self { hour, cells }
    }

    /// For the database: the newest hour and one letter per cell.
    pub fn to_text(self) -> String {
        let letters: String = self.cells.iter().map(|c| c.letter()).collect();
        format!("{}:{letters}", self.hour)
    }

    /// What [`Day::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        let (hour, letters) = text.split_once(':')?;
        let cells: Vec<Cell> =
            letters.chars().filter_map(|l| Cell::ALL.into_iter().find(|c| c.letter() == l)).collect();
        Some(Self { hour: hour.parse().ok()?, cells: cells.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    fn shown(day: &Day, hour: i64) -> String {
        day.cells(Timestamp(hour * HOUR_MS)).iter().map(|c| c.letter()).collect()
    }

    #[test]
    fn a_day_keeps_the_worst_of_each_hour() {
        let at = |hour: i64, minute: i64| Timestamp(hour * HOUR_MS + minute * 60_000);
        let (pass, fail, unknown) =
            (Outcome::Pass, Outcome::Fail(Reason::AppMissing), Outcome::Unknown(Reason::Timeout));
        let day = Day::default()
            .noted(pass, at(100, 0))
            .noted(fail, at(100, 5))
            .noted(pass, at(100, 10))
            .noted(unknown, at(102, 0));
        for (sentence, hour, before, tail) in [
            ("now", 102, 21, "f-u"),
            ("an hour later", 103, 20, "f-u-"),
            ("a clock that was set back", 90, 21, "f-u"),
        ] {
            assert_eq!(shown(&day, hour), format!("{}{tail}", "-".repeat(before)), "{sentence}");
        }
        assert_eq!(shown(&day, 126), "-".repeat(HOURS), "everything is forgotten after a day");
        assert_eq!(shown(&day, 125), format!("u{}", "-".repeat(HOURS - 1)));
        assert_eq!(Day::from_text(&day.to_text()), Some(day));
        for broken in ["", "x:y", "5:ppp", "5:", "a:pppppppppppppppppppppppp"] {
            assert_eq!(Day::from_text(broken), None, "{broken}");
        }
    }
}
