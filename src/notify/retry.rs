//! What follows from a failed attempt to send a mail. Pure: the failure and what went before, nothing else.
//!
//! A mail is given up in three cases only: the server refuses its recipient for good while it takes other mails; it refuses the mail itself for
//! good; or it took the mail three times without an answer. Everything else waits for as long as it takes.

use std::time::Duration;

use super::smtp::Blame;
use crate::domain::{Obstacle, Timestamp};
use crate::store::OtherMails;

/// What went before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct History {
    /// Attempts before this one.
    pub(super) attempts: u32,
    /// Refusals for good before this one.
    pub(super) rejections: u32,
    /// When the first of them was.
    pub(super) first_rejection: Option<Timestamp>,
    /// How often the mail was handed over without an answer, this time included.
    pub(super) unanswered: u32,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The mail is tried again after this pause.
    Again(Duration),
    /// The same, and the operators are notified now: whether that mail goes through says whom the refusals are about.
    AgainAndReport(Duration, Obstacle),
    /// The mail is given up, and the operators are notified.
    GiveUp(Obstacle),
}

/// The pauses between eight refusals for good: quick at first, because directories and greylists are slow to learn of a new address, and
/// three days and nineteen hours in all.
const AFTER_REJECTION: [Duration; 7] = [
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(12 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(48 * 3600),
];

/// A recipient or mail that is refused for good is tried so many times.
const REJECTIONS: u32 = 8;

/// A mail that is refused for good is tried for so long: where the machine sleeps or stands still in between, fewer attempts have to do.
const REJECTED_FOR: Duration = Duration::from_secs(5 * 86_400);

/// Fewer refusals than this never end a mail, however long ago the first was: the wall clock may have been set.
const LEAST_REJECTIONS: u32 = 4;

/// The pause after a mail that was handed over without an answer: a server that is slow today has found its way back by then, and the reader
/// does not get one copy after the other.
pub(super) const AFTER_SILENCE: Duration = Duration::from_secs(3600);

/// A mail is handed over so many times without an answer.
pub(super) const SILENCES: u32 = 3;

/// A mail that waits for the server to take any mail at all is tried so often.
const WHILE_ALL_ARE_REFUSED: Duration = Duration::from_secs(3600);

/// What follows from a failed attempt.
pub(super) fn next(blame: Blame, history: History, others: OtherMails, now: Timestamp) -> Next {
    match blame {
        Blame::Transport => Next::Again(backoff(history.attempts)),
        Blame::Unanswered if history.unanswered >= SILENCES => Next::GiveUp(Obstacle::Silence),
        Blame::Unanswered => Next::Again(AFTER_SILENCE),
        Blame::Content if spent(history, now) => Next::GiveUp(Obstacle::Content),
        Blame::Recipient if others.taken && spent(history, now) => Next::GiveUp(Obstacle::Recipient),
        // With nobody else to compare with, the refusal is believed.
        Blame::Recipient if !others.failing && spent(history, now) => Next::GiveUp(Obstacle::Recipient),
        Blame::Recipient if spent(history, now) => {
            Next::AgainAndReport(WHILE_ALL_ARE_REFUSED, Obstacle::Recipient)
        }
        // The last attempt but one: early enough for the operators' mail to show whether the server takes mails.
        Blame::Recipient if !others.taken && others.failing && history.rejections + 2 >= REJECTIONS => {
            Next::AgainAndReport(after_rejection(history), Obstacle::Recipient)
        }
        Blame::Content | Blame::Recipient => Next::Again(after_rejection(history)),
    }
}

/// Whether this was the last refusal that is waited for.
fn spent(history: History, now: Timestamp) -> bool {
    let count = history.rejections + 1;
    // A first refusal in the future was noted under another wall clock.
    let first = history.first_rejection.filter(|first| *first <= now).unwrap_or(now);
    let too_late = now.plus(after_rejection(history)).since(first) > REJECTED_FOR;
    count >= REJECTIONS || (count >= LEAST_REJECTIONS && too_late)
}

fn after_rejection(history: History) -> Duration {
    let index = usize::try_from(history.rejections).unwrap_or(usize::MAX);
    AFTER_REJECTION.get(index).copied().unwrap_or(AFTER_REJECTION[AFTER_REJECTION.len() - 1])
}

/// The pause after the attempt that came after `before` others: doubling from five seconds to five minutes.
fn backoff(before: u32) -> Duration {
    let factor = 2_u64.saturating_pow(before.min(10));
    Duration::from_secs(5 * factor).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);
    const WELL: OtherMails = OtherMails { taken: true, failing: false };
    const NOBODY: OtherMails = OtherMails { taken: false, failing: true };
    const ALONE: OtherMails = OtherMails { taken: false, failing: false };
    const HOUR: Duration = Duration::from_secs(3600);

    fn refused(rejections: u32, days_ago: u64) -> History {
        let first = (rejections > 0).then(|| NOW.minus(24 * HOUR * u32::try_from(days_ago).expect("days")));
        History { attempts: rejections, rejections, first_rejection: first, unanswered: 0 }
    }

    #[test]
    fn what_follows_from_a_failure() {
        use Next::{Again, AgainAndReport, GiveUp};
        let silent = |unanswered| History { unanswered, ..History::default() };
        let waiting = |attempts| History { attempts, ..History::default() };
        for (sentence, blame, history, others, expected) in [
            (
                "a server that is away is tried soon",
                Blame::Transport,
                waiting(0),
                WELL,
                Again(Duration::from_secs(5)),
            ),
            ("and for ever", Blame::Transport, waiting(1_000_000), WELL, Again(Duration::from_secs(300))),
            (
                "an address is tried soon at first",
                Blame::Recipient,
                refused(0, 0),
                WELL,
                Again(Duration::from_secs(60)),
            ),
            ("then slowly", Blame::Recipient, refused(6, 2), WELL, Again(48 * HOUR)),
            ("eight times", Blame::Recipient, refused(7, 4), WELL, GiveUp(Obstacle::Recipient)),
            ("five days at most", Blame::Recipient, refused(4, 5), WELL, GiveUp(Obstacle::Recipient)),
            (
                "a clock that was set ahead ends nothing",
                Blame::Recipient,
                refused(2, 3650),
                WELL,
                Again(HOUR),
            ),
            (
                "one address, and nothing else to compare with",
                Blame::Recipient,
                refused(7, 4),
                ALONE,
                GiveUp(Obstacle::Recipient),
            ),
            (
                "where everybody is refused the operators hear of it in time",
                Blame::Recipient,
                refused(6, 2),
                NOBODY,
                AgainAndReport(48 * HOUR, Obstacle::Recipient),
            ),
            (
                "where everybody is refused nothing is given up",
                Blame::Recipient,
                refused(7, 4),
                NOBODY,
                AgainAndReport(HOUR, Obstacle::Recipient),
            ),
            (
                "nor after weeks",
                Blame::Recipient,
                refused(100, 60),
                NOBODY,
                AgainAndReport(HOUR, Obstacle::Recipient),
            ),
            (
                "a mail that is refused ends the same way",
                Blame::Content,
                refused(7, 4),
                NOBODY,
                GiveUp(Obstacle::Content),
            ),
            ("and is tried before", Blame::Content, refused(3, 0), WELL, Again(6 * HOUR)),
            ("no answer: an hour", Blame::Unanswered, silent(1), WELL, Again(HOUR)),
            ("no answer again", Blame::Unanswered, silent(2), WELL, Again(HOUR)),
            ("no answer three times", Blame::Unanswered, silent(3), WELL, GiveUp(Obstacle::Silence)),
        ] {
            assert_eq!(next(blame, history, others, NOW), expected, "{sentence}");
        }
    }

    #[test]
    fn pauses_grow() {
        assert_eq!(
            (0..8).map(|n| backoff(n).as_secs()).collect::<Vec<_>>(),
            [5, 10, 20, 40, 80, 160, 300, 300]
        );
        let all: Duration = AFTER_REJECTION.iter().sum();
        assert!(all < REJECTED_FOR && AFTER_REJECTION.is_sorted(), "{all:?}");
        assert_eq!(AFTER_REJECTION.len() + 1, REJECTIONS as usize);
    }
}
