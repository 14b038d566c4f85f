//! Decides what follows from a failed attempt to send a mail. Pure: it depends on the failure and the mail's history only.
//!
//! A mail is given up in three cases only: the server rejects its recipient permanently while it accepts other mails; it rejects the mail itself
//! permanently; or it received the mail three times and did not respond. In all other cases the mail waits as long as necessary.

use std::time::Duration;

use super::smtp::Blame;
use crate::domain::{Obstacle, Timestamp};
use crate::store::OtherMails;

/// The history of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct History {
    /// Attempts before this one.
    pub(super) attempts: u32,
    /// Permanent rejections before this one.
    pub(super) rejections: u32,
    /// When the first of them was.
    pub(super) first_rejection: Option<Timestamp>,
    /// How often the mail was handed over without a response, including this time.
    pub(super) unanswered: u32,
}

/// What follows from a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The mail is tried again after this pause.
    Again(Duration),
    /// The same, and the operators are notified now: whether their mail is accepted shows whom the rejections are about.
    AgainAndReport(Duration, Obstacle),
    /// The mail is given up, and the operators are notified.
    GiveUp(Obstacle),
}

/// The pauses between eight permanent rejections, three days and nineteen hours in total. The first ones are short, because a new address may be
/// unknown to directories and greylists for some minutes.
const AFTER_REJECTION: [Duration; 7] = [
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(12 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(48 * 3600),
];

/// A mail is given up after this many permanent rejections.
const REJECTIONS: u32 = 8;

/// A permanently rejected mail is tried for at most this time. There are fewer attempts if the machine sleeps in between.
const REJECTED_FOR: Duration = Duration::from_secs(5 * 86_400);

/// A mail is never given up after fewer rejections than this, however long ago the first one was: the wall clock may have been set.
const LEAST_REJECTIONS: u32 = 4;

/// The pause after a mail was handed over without a response. A slow server has usually recovered by then, and the recipient does not get several
/// copies at once.
pub(super) const AFTER_SILENCE: Duration = Duration::from_secs(3600);

/// A mail is given up after it was handed over this many times without a response.
pub(super) const SILENCES: u32 = 3;

/// The interval of attempts while the server rejects every recipient.
const WHILE_ALL_ARE_REFUSED: Duration = Duration::from_secs(3600);

/// Decides what follows from a failed attempt.
pub(super) fn next(blame: Blame, history: History, others: OtherMails, now: Timestamp) -> Next {
    match blame {
        Blame::Transport => Next::Again(backoff(history.attempts)),
        Blame::Unanswered if history.unanswered >= SILENCES => Next::GiveUp(Obstacle::Silence),
        Blame::Unanswered => Next::Again(AFTER_SILENCE),
        Blame::Content if spent(history, now) => Next::GiveUp(Obstacle::Content),
        Blame::Recipient if others.taken && spent(history, now) => Next::GiveUp(Obstacle::Recipient),
        // There is no other mail to compare with, so the rejection is believed.
        Blame::Recipient if !others.failing && spent(history, now) => Next::GiveUp(Obstacle::Recipient),
        Blame::Recipient if spent(history, now) => {
            Next::AgainAndReport(WHILE_ALL_ARE_REFUSED, Obstacle::Recipient)
        }
        // The second last attempt: early enough for the operators' mail to show whether the server accepts
        // mails.
        Blame::Recipient if !others.taken && others.failing && history.rejections + 2 >= REJECTIONS => {
            Next::AgainAndReport(after_rejection(history), Obstacle::Recipient)
        }
        Blame::Content | Blame::Recipient => Next::Again(after_rejection(history)),
    }
}

/// Whether the mail is given up after this rejection.
fn spent(history: History, now: Timestamp) -> bool {
    let count = history.rejections + 1;
    // A first rejection in the future was saved while the wall clock was ahead.
    let first = history.first_rejection.filter(|first| *first <= now).unwrap_or(now);
    let too_late = now.plus(after_rejection(history)).since(first) > REJECTED_FOR;
    count >= REJECTIONS || (count >= LEAST_REJECTIONS && too_late)
}

fn after_rejection(history: History) -> Duration {
    let index = usize::try_from(history.rejections).unwrap_or(usize::MAX);
    AFTER_REJECTION.get(index).copied().unwrap_or(AFTER_REJECTION[AFTER_REJECTION.len() - 1])
}

/// The pause after an attempt that followed `before` others. It doubles from five seconds to five minutes.
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
    fn failed_attempts_are_repeated_or_given_up() {
        use Next::{Again, AgainAndReport, GiveUp};
        let silent = |unanswered| History { unanswered, ..History::default() };
        let waiting = |attempts| History { attempts, ..History::default() };
        for (sentence, blame, history, others, expected) in [
            (
                "an unreachable server is tried soon",
                Blame::Transport,
                waiting(0),
                WELL,
                Again(Duration::from_secs(5)),
            ),
            ("and without end", Blame::Transport, waiting(1_000_000), WELL, Again(Duration::from_secs(300))),
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
                "if everybody is rejected, the operators are notified in time",
                Blame::Recipient,
                refused(6, 2),
                NOBODY,
                AgainAndReport(48 * HOUR, Obstacle::Recipient),
            ),
            (
                "if everybody is rejected, nothing is given up",
                Blame::Recipient,
                refused(7, 4),
                NOBODY,
                AgainAndReport(HOUR, Obstacle::Recipient),
            ),
            (
                "not even after weeks",
                Blame::Recipient,
                refused(100, 60),
                NOBODY,
                AgainAndReport(HOUR, Obstacle::Recipient),
            ),
            (
                "a rejected mail is given up after as many rejections",
                Blame::Content,
                refused(7, 4),
                NOBODY,
                GiveUp(Obstacle::Content),
            ),
            ("and is repeated until then", Blame::Content, refused(3, 0), WELL, Again(6 * HOUR)),
            ("no response: an hour", Blame::Unanswered, silent(1), WELL, Again(HOUR)),
            ("no response again", Blame::Unanswered, silent(2), WELL, Again(HOUR)),
            ("no response three times", Blame::Unanswered, silent(3), WELL, GiveUp(Obstacle::Silence)),
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
