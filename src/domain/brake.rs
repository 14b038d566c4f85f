//! The brake: when so much breaks at once that the fault is probably not the tenants', the mails to their administrators wait, and the operators look
//! first. Pure; the store holds the mails.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::reason::Reason;
use super::text::foreign;
use super::time::Timestamp;

/// When the brake holds mails, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrakePolicy {
    /// The share of the integrations that must break within an interval, from 0 to 1.
    pub share: f64,
    /// The number that must break, however small the fleet.
    pub minimum: usize,
    /// How long mails are held; zero switches the brake off.
    pub hold: Duration,
    /// Failures are counted over this time: the interval of probes.
    pub interval: Duration,
}

/// The brake holds mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Stable for one time that the brake holds.
    pub id: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when, unless somebody releases the mails earlier.
    pub until: Timestamp,
    /// Integrations that had broken within an interval by then.
    pub broken: usize,
    /// Integrations in the fleet.
    pub integrations: usize,
}

/// A time in which mails were held: from the beginning to the end, or to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldPeriod {
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub until: Timestamp,
}

impl HeldPeriod {
    /// When a notice that was decided at `noticed` can have gone out.
    pub fn went_out(self, noticed: Timestamp) -> Timestamp {
        if noticed >= self.from { noticed.max(self.until) } else { noticed }
    }
}

/// The mails that the brake holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldMails {
    /// Number of notices.
    pub notices: usize,
    /// Number of integrations that they are about.
    pub integrations: usize,
    /// Number of people whom they are for.
    pub people: usize,
    /// Display names of applications, and how many integrations of each; the most frequent first.
    pub apps: Vec<(String, usize)>,
    /// Tenants, and how many integrations of each; the most frequent first.
    pub tenants: Vec<(String, usize)>,
    /// Number of tenants.
    pub tenant_count: usize,
    /// Reasons, and how many integrations have each; the most frequent first.
    pub reasons: Vec<(Reason, usize)>,
}

impl HeldMails {
    /// Applications, tenants and reasons, each with the number of its integrations. The names are made safe to show.
    pub fn lists(&self) -> Vec<(&'static str, String)> {
        let named = |list: &[(String, usize)]| {
            list.iter()
                .map(|(name, number)| format!("{} ({number})", foreign(name, 80)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let reasons: Vec<String> =
            self.reasons.iter().map(|(reason, number)| format!("{} ({number})", reason.label())).collect();
        let more = match self.tenant_count.saturating_sub(self.tenants.len()) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let lists = [
            ("Applications", named(&self.apps)),
            ("Tenants", format!("{}{more}", named(&self.tenants))),
            ("Reasons", reasons.join(", ")),
        ];
        lists.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }
}

/// A change of the brake, to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrakeChange {
    /// Enough has broken to wait until the interval is over or the share is reached.
    Waits {
        /// The oldest failure that counts.
        first: Timestamp,
        /// When this was decided.
        since: Timestamp,
        /// Until when mails to administrators wait.
        until: Timestamp,
    },
    /// The brake holds mails.
    Holds(Hold),
}

/// What somebody does with held mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrakeAction {
    /// They go out now.
    Release,
    /// They wait as long again.
    HoldLonger,
    /// They never go out.
    Discard,
}

impl BrakeAction {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Release, Self::HoldLonger, Self::Discard];

    /// The word in forms.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::HoldLonger => "hold_longer",
            Self::Discard => "discard",
        }
    }

    /// The action with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.label() == label)
    }

    /// The word in the history.
    pub const fn event(self) -> &'static str {
        match self {
            Self::Release => "brake_released",
            Self::HoldLonger => "brake_prolonged",
            Self::Discard => "brake_discarded",
        }
    }
}

/// Counts failures, and knows whether mails are held.
#[derive(Debug, Default)]
pub struct Brake {
    /// Integrations that broke within the last interval, oldest first, each once.
    recent: VecDeque<(Timestamp, String)>,
    names: HashSet<String>,
    waits_until: Option<Timestamp>,
    hold: Option<Hold>,
    /// The last hold that is over.
    last: Option<HeldPeriod>,
    unsaved: Option<BrakeChange>,
}

impl Brake {
    /// The brake as it was saved; `recent` are the failures within the last interval that would have mailed an administrator, oldest first, and `last` is
    /// the last hold that is over.
    pub fn new(hold: Option<Hold>, last: Option<HeldPeriod>, recent: Vec<(Timestamp, String)>) -> Self {
        let names = recent.iter().map(|(_, name)| name.clone()).collect();
        Self { recent: recent.into(), names, hold, last, ..Self::default() }
    }

    /// The present hold up to now, or the last one.
    pub fn held_period(&self, now: Timestamp) -> Option<HeldPeriod> {
        let present =
            self.hold.as_ref().map(|hold| HeldPeriod { from: hold.since, until: hold.until.min(now) });
        present.or(self.last)
    }

    /// Counts an integration that has broken such that an administrator would be mailed. `integrations` is the size of the fleet, `id` makes the name of
    /// a new hold.
    pub fn broke(
        &mut self,
        name: &str,
        integrations: usize,
        policy: BrakePolicy,
        now: Timestamp,
        id: impl FnOnce() -> String,
    ) {
        if policy.hold.is_zero() || self.hold(now).is_some() {
            return;
        }
        if self.hold.is_some() {
            // What was held and released is not counted again.
            self.last = self.held_period(now);
            self.hold = None;
            self.forget();
        }
        while self.recent.front().is_some_and(|(at, _)| now.since(*at) >= policy.interval) {
            self.recent.pop_front().map(|(_, name)| self.names.remove(&name));
        }
        if self.names.insert(name.to_owned()) {
            self.recent.push_back((now, name.to_owned()));
        }
        let broken = self.names.len();
        if broken < policy.minimum {
            return;
        }
        // A fleet has fewer integrations than a float counts exactly.
        #[expect(clippy::cast_precision_loss)]
        let reached = broken as f64 >= policy.share * integrations as f64;
        if reached {
            let until = now.plus(policy.hold);
            let hold = Hold { id: id(), since: now, until, broken, integrations };
            self.forget();
            self.hold = Some(hold.clone());
            self.unsaved = Some(BrakeChange::Holds(hold));
        } else if let Some((oldest, _)) = self.recent.front() {
            let until = oldest.plus(policy.interval);
            if self.waits_until != Some(until) {
                self.waits_until = Some(until);
                self.unsaved = Some(BrakeChange::Waits { first: *oldest, since: now, until });
            }
        }
    }

    /// The change that is not saved yet.
    pub fn unsaved(&self) -> Option<BrakeChange> {
        self.unsaved.clone()
    }

    /// A change was saved.
    pub fn saved(&mut self, change: &BrakeChange) {
        if self.unsaved.as_ref() == Some(change) {
            self.unsaved = None;
        }
    }

    /// The hold, while it lasts.
    pub fn hold(&self, now: Timestamp) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| now < hold.until)
    }

    /// Somebody has released or discarded the held mails.
    pub fn ended(&mut self, id: &str, now: Timestamp) {
        if self.hold.as_ref().is_some_and(|hold| hold.id != id) {
            return;
        }
        self.last = self.held_period(now);
        (self.hold, self.unsaved) = (None, None);
        self.forget();
    }

    /// Somebody has made the hold longer.
    pub fn prolonged(&mut self, id: &str, until: Timestamp) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.id == id) {
            hold.until = until;
        }
    }

    /// The wall clock was set: moves times that lie in the future to `now`.
    pub fn cap(&mut self, now: Timestamp) {
        self.recent.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
        self.last = self.last.map(|last| HeldPeriod { from: last.from.min(now), until: last.until.min(now) });
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.since > now) {
            hold.until = now.plus(hold.until.since(hold.since));
            hold.since = now;
        }
    }

    fn forget(&mut self) {
        self.recent.clear();
        self.names.clear();
        self.waits_until = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BrakePolicy = BrakePolicy {
        share: 0.25,
        minimum: 4,
        hold: Duration::from_secs(3600),
        interval: Duration::from_secs(300),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_790_000_000 + seconds)
    }

    /// What the brake does when integrations break at these seconds, each another one: `-` nothing, `w` waits until, `h` holds until.
    fn run(seconds: &[i64], integrations: usize, policy: BrakePolicy) -> String {
        let mut brake = Brake::default();
        let steps = seconds.iter().enumerate().map(|(number, second)| {
            brake.broke(&format!("i{number}"), integrations, policy, at(*second), || "h".to_owned());
            let change = brake.unsaved();
            change.iter().for_each(|change| brake.saved(change));
            let after = |until: Timestamp| until.since(at(0)).as_secs();
            match change {
                None => "-".to_owned(),
                Some(BrakeChange::Waits { until, .. }) => format!("w{}", after(until)),
                Some(BrakeChange::Holds(hold)) => format!("h{} {}", after(hold.until), hold.broken),
            }
        });
        steps.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_brake_holds_when_minimum_and_share_are_reached() {
        let off = BrakePolicy { hold: Duration::ZERO, ..POLICY };
        let everything = BrakePolicy { share: 0.0, ..POLICY };
        for (sentence, seconds, integrations, policy, expected) in [
            ("both at once", &[0, 1, 2, 3][..], 16, POLICY, "-, -, -, h3603 4"),
            ("fewer than the minimum", &[0, 1, 2], 3, POLICY, "-, -, -"),
            ("the minimum first, then the share", &[0, 1, 2, 3, 4], 20, POLICY, "-, -, -, w300, h3604 5"),
            ("the share is never reached", &[0, 1, 2, 3, 4], 1000, POLICY, "-, -, -, w300, -"),
            ("too slowly", &[0, 100, 200, 300, 400, 500], 4, POLICY, "-, -, -, -, -, -"),
            ("the window slides", &[0, 100, 150, 160, 310], 1000, POLICY, "-, -, -, w300, w400"),
            (
                "the window slides until it is full",
                &[0, 200, 250, 300, 320],
                16,
                POLICY,
                "-, -, -, -, h3920 4",
            ),
            ("while it holds, nothing is counted", &[0, 1, 2, 3, 4, 5], 16, POLICY, "-, -, -, h3603 4, -, -"),
            (
                "what was released is not counted again",
                &[0, 1, 2, 3, 4, 3603, 3604, 3605, 3606],
                16,
                POLICY,
                "-, -, -, h3603 4, -, -, -, -, h7206 4",
            ),
            ("switched off", &[0, 1, 2, 3, 4], 5, off, "-, -, -, -, -"),
            (
                "without a share, the minimum is enough",
                &[0, 1, 2, 3],
                1_000_000,
                everything,
                "-, -, -, h3603 4",
            ),
        ] {
            assert_eq!(run(seconds, integrations, policy), expected, "{sentence}");
        }
    }

    #[test]
    fn an_integration_counts_once() {
        let mut brake = Brake::default();
        for second in 0..10 {
            brake.broke("acme", 4, POLICY, at(second), || unreachable!("one integration does not brake"));
        }
        assert_eq!((brake.unsaved(), brake.hold(at(10))), (None, None));
    }

    #[test]
    fn a_change_is_offered_until_it_is_saved() {
        let mut brake = Brake::default();
        for number in 0..4 {
            brake.broke(&number.to_string(), 4, POLICY, at(0), || "h".to_owned());
        }
        let change = brake.unsaved().expect("it holds");
        brake.broke("another", 4, POLICY, at(1), || unreachable!("it holds already"));
        assert_eq!(brake.unsaved(), Some(change.clone()));
        brake.saved(&change);
        assert_eq!(brake.unsaved(), None);
    }

    #[test]
    fn a_hold_ends_with_its_time_or_by_somebody() {
        let hold = Hold { id: "h".to_owned(), since: at(0), until: at(60), broken: 4, integrations: 4 };
        let mut brake = Brake::new(Some(hold), None, Vec::new());
        assert!(brake.hold(at(59)).is_some() && brake.hold(at(60)).is_none());
        brake.prolonged("h", at(120));
        assert!(brake.hold(at(119)).is_some());
        brake.ended("another", at(80));
        assert!(brake.hold(at(80)).is_some());
        brake.ended("h", at(90));
        assert!(brake.hold(at(90)).is_none());
        let period = brake.held_period(at(500)).expect("it held");
        let went_out = |decided| period.went_out(at(decided)).since(at(-10)).as_secs() as i64 - 10;
        assert_eq!((went_out(-5), went_out(5), went_out(120)), (-5, 90, 120), "with the end of the hold");
    }

    #[test]
    fn a_clock_that_was_ahead_holds_nothing_for_years() {
        let ahead = 10 * 365 * 86_400;
        let hold =
            Hold { id: "h".to_owned(), since: at(ahead), until: at(ahead + 60), broken: 4, integrations: 4 };
        let mut brake = Brake::new(Some(hold), None, vec![(at(ahead), "acme".to_owned())]);
        brake.cap(at(0));
        assert!(brake.hold(at(59)).is_some() && brake.hold(at(60)).is_none());
    }

    #[test]
    fn failures_before_a_restart_count() {
        let recent = (0..3).map(|number| (at(0), format!("i{number}"))).collect();
        let mut brake = Brake::new(None, None, recent);
        brake.broke("i3", 16, POLICY, at(10), || "h".to_owned());
        assert!(brake.hold(at(10)).is_some());
    }

    proptest! {
        /// Whatever breaks when: the brake holds only when enough different integrations broke within one interval, every wait has an end that is at most an
        /// interval away from the failure, and a hold ends after its time.
        #[test]
        fn nothing_waits_for_ever(
            pauses in prop::collection::vec((0_i64..200, 0_usize..12), 1..120),
            integrations in 4_usize..40,
        ) {
            let (mut brake, mut now, mut holds) = (Brake::default(), 0_i64, 0);
            let mut history: Vec<(i64, usize)> = Vec::new();
            let mut held_until = 0;
            for (pause, which) in pauses {
                now += pause;
                let holding = brake.hold(at(now)).is_some();
                prop_assert_eq!(holding, now < held_until, "a hold lasts exactly as long as it said");
                brake.broke(&which.to_string(), integrations, POLICY, at(now), || "h".to_owned());
                if !holding {
                    history.push((now, which));
                }
                let change = brake.unsaved();
                change.iter().for_each(|change| brake.saved(change));
                match change {
                    None => {}
                    Some(BrakeChange::Waits { first, until, .. }) => {
                        prop_assert!(!holding && first <= at(now) && until == first.plus(POLICY.interval));
                        prop_assert!(until <= at(now).plus(POLICY.interval), "no longer than an interval");
                    }
                    Some(BrakeChange::Holds(hold)) => {
                        let recent: HashSet<usize> = history
                            .iter()
                            .filter(|(second, _)| now - second < 300)
                            .map(|(_, which)| *which)
                            .collect();
                        prop_assert!(!holding && hold.broken <= recent.len(), "each counts once");
                        prop_assert!(hold.broken >= POLICY.minimum);
                        prop_assert!(hold.broken * 4 >= integrations, "the share is reached");
                        held_until = now + 3600;
                        history.clear();
                        holds += 1;
                    }
                }
            }
            prop_assert!(holds <= 1 + now / 3600, "once an hour at most");
        }
    }
}
