//! How many mails an account sends within a minute. Exchange Online takes thirty a minute of a mailbox (Microsoft, `exchange-online-limits`, "Sending
//! limits"), and says 432 4.3.2 when too many come at once.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What Exchange Online takes of a mailbox within a minute.
pub(super) const EXCHANGE: usize = 30;

const MINUTE: Duration = Duration::from_secs(60);

/// A pace that was lowered is the usual one again after this time.
const LOWERED_FOR: Duration = Duration::from_secs(600);

/// Limits the mails of an account within any minute.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The usual limit; `None` for servers without one.
    most: Option<usize>,
    /// A lower limit, and since when.
    lowered: Option<(usize, Instant)>,
    /// When the mails of the last minute were begun, oldest first.
    begun: VecDeque<Instant>,
}

impl Pace {
    pub(super) fn new(most: Option<usize>) -> Self {
        Self(Mutex::new(State { most, ..State::default() }))
    }

    /// Takes the turn of one mail at `now`, or says how long to wait for it.
    pub(super) fn turn(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.0.lock();
        while state.begun.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            state.begun.pop_front();
        }
        if state.lowered.is_some_and(|(_, since)| now.duration_since(since) >= LOWERED_FOR) {
            state.lowered = None;
        }
        let most = state.lowered.map(|(most, _)| most).or(state.most);
        match (most, state.begun.front()) {
            (Some(most), Some(oldest)) if state.begun.len() >= most => {
                Err(MINUTE.saturating_sub(now.duration_since(*oldest)).max(Duration::from_millis(10)))
            }
            _ => {
                state.begun.push_back(now);
                Ok(())
            }
        }
    }

    /// The server says that it gets too much: half of the current limit for a while.
    pub(super) fn lower(&self, now: Instant) {
        let mut state = self.0.lock();
        let current = state.lowered.map(|(most, _)| most).or(state.most).unwrap_or(EXCHANGE);
        state.lowered = Some(((current / 2).max(1), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_room_for_so_many_mails_and_for_fewer_after_a_complaint() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let pace = Pace::new(Some(4));
        let taken = |seconds: u64| (0..10).take_while(|_| pace.turn(at(seconds)).is_ok()).count();
        assert_eq!((taken(0), taken(59), taken(60)), (4, 0, 4));
        assert_eq!(pace.turn(at(70)), Err(Duration::from_secs(50)));
        pace.lower(at(70));
        assert_eq!((taken(119), taken(120), taken(180)), (0, 2, 2));
        pace.lower(at(180));
        pace.lower(at(180));
        assert_eq!(taken(240), 1, "never none");
        assert_eq!(taken(780), 4, "the usual one again");
        let unlimited = Pace::new(None);
        assert!((0..1000).all(|_| unlimited.turn(start).is_ok()));
    }
}
