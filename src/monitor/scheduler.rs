//! The queue of due integrations, in memory, rebuilt from names alone after a restart. Times are arguments, and are those of the steady
//! clock.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::domain::{Backoff, History, SchedulePolicy, Timestamp};

/// One integration's place in the queue.
#[derive(Debug, Clone)]
struct Slot {
    tenant: String,
    due: Timestamp,
    /// When the last probe that has ended was started.
    started: Option<Timestamp>,
}

/// A probe that ended, as the schedule sees it.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The history of the integration.
    pub history: History,
    /// How long a response asked to wait.
    pub retry_after: Option<Duration>,
    /// Whether the upstream as a whole had a fault.
    pub trouble: bool,
    /// When the probe started.
    pub started: Timestamp,
}

/// Minimum time between the first probes of new integrations, also in a small fleet.
const MIN_SPACING: Duration = Duration::from_millis(100);

/// The queue.
#[derive(Debug)]
pub struct Schedule {
    policy: SchedulePolicy,
    places: HashMap<String, Slot>,
    queue: BTreeSet<(Timestamp, String)>,
    /// Integrations that have no result yet: they are probed as soon as there is room, after those that are due.
    fresh: VecDeque<String>,
    in_flight: HashSet<String>,
    paused: HashMap<String, Timestamp>,
    /// Times at which an integration is probed in addition to its schedule, in order.
    extra: HashMap<String, Vec<Timestamp>>,
    /// Integrations whose next probe a person asked for: it is made once although the tenant asked for a pause.
    requested: HashSet<String>,
    /// Those of them that are in flight.
    asked_for: HashSet<String>,
    backoff: Backoff,
}

impl Schedule {
    /// A queue of integrations (name, tenant), each in its own slot; those in `fresh` are probed as soon as there is room.
    pub fn new(
        policy: SchedulePolicy,
        integrations: impl IntoIterator<Item = (String, String)>,
        fresh: &HashSet<String>,
        now: Timestamp,
    ) -> Self {
        let mut schedule = Self {
            policy,
            places: HashMap::new(),
            queue: BTreeSet::new(),
            fresh: VecDeque::new(),
            in_flight: HashSet::new(),
            paused: HashMap::new(),
            extra: HashMap::new(),
            requested: HashSet::new(),
            asked_for: HashSet::new(),
            backoff: Backoff::default(),
        };
        for (name, tenant) in integrations {
            if fresh.contains(&name) {
                schedule.places.insert(name.clone(), Slot { tenant, due: now, started: None });
                schedule.fresh.push_back(name);
                continue;
            }
            let due = policy.first_due(&name, now);
            schedule.queue.insert((due, name.clone()));
            schedule.places.insert(name, Slot { tenant, due, started: None });
        }
        schedule
    }

    /// Replaces the integrations (name, tenant). Those in `fresh` are probed as soon as there is room; new ones and those in `changed` are
    /// probed soon: one at once, several spread over the retry interval, a large fleet over its interval. Probes in flight continue.
    pub fn reconfigure(
        &mut self,
        policy: SchedulePolicy,
        integrations: impl IntoIterator<Item = (String, String)>,
        changed: &HashSet<String>,
        fresh: &HashSet<String>,
        now: Timestamp,
    ) {
        let moved = policy != self.policy;
        self.policy = policy;
        self.queue.clear();
        self.fresh.clear();
        let mut earlier = std::mem::take(&mut self.places);
        let mut soon = Vec::new();
        for (name, tenant) in integrations {
            let old = earlier.remove(&name);
            let due = match &old {
                Some(place) if !moved => place.due,
                _ => policy.first_due(&name, now),
            };
            // A requested probe is kept when the intervals change.
            let asked = self.extra.get(&name).and_then(|moments| moments.first());
            let due = asked.map_or(due, |moment| due.min(*moment));
            if fresh.contains(&name) && asked.is_none() {
                self.fresh.push_back(name.clone());
            } else if old.is_none() || changed.contains(&name) {
                soon.push(name.clone());
            }
            self.places.insert(name, Slot { tenant, due, started: old.and_then(|place| place.started) });
        }
        self.extra.retain(|name, _| self.places.contains_key(name));
        self.requested.retain(|name| self.places.contains_key(name));
        let fleet = u32::try_from(self.places.len().max(1)).unwrap_or(u32::MAX);
        let few = u32::try_from(soon.len().max(1)).unwrap_or(u32::MAX);
        let step = (policy.retry_interval / few).max((policy.interval / fleet).min(MIN_SPACING));
        for (place, name) in (0_u32..).zip(&soon) {
            if let Some(p) = self.places.get_mut(name) {
                p.due = p.due.min(now.plus(step.saturating_mul(place)));
            }
        }
        let fresh: HashSet<&String> = self.fresh.iter().collect();
        let waiting =
            self.places.iter().filter(|(name, _)| !self.in_flight.contains(*name) && !fresh.contains(name));
        self.queue.extend(waiting.map(|(name, place)| (place.due, name.clone())));
        self.fresh.retain(|name| !self.in_flight.contains(name));
    }

    /// A probe ended whose result does not apply to the current configuration: queues another one at once, if the integration still exists.
    pub fn requeue(&mut self, name: &str, now: Timestamp) {
        self.in_flight.remove(name);
        self.asked_for.remove(name);
        self.put(name, now);
    }

    /// Takes the integrations that are due, the longest waiting first, with the time at which each was due, up to the limit of probes in
    /// flight. A pause that a tenant asked for is kept, except for one probe that a person asks for. If there is room left, integrations
    /// without a result follow.
    pub fn start(&mut self, concurrency: usize, now: Timestamp) -> Vec<(String, Timestamp)> {
        let mut started = Vec::new();
        let room = self.backoff.concurrency(concurrency).saturating_sub(self.in_flight.len());
        while started.len() < room {
            let Some((due, name)) = self.next_waiting(now) else { break };
            if let Some(until) = self.pause(&name, now).filter(|_| !self.requested.contains(&name)) {
                self.put(&name, until);
                continue;
            }
            if self.requested.remove(&name) {
                self.asked_for.insert(name.clone());
            }
            self.in_flight.insert(name.clone());
            started.push((name, due));
        }
        started
    }

    /// Whether a person asked for the probe that is in flight.
    pub fn was_asked_for(&self, name: &str) -> bool {
        self.asked_for.contains(name)
    }

    /// The next integration that is due, otherwise one that has no result yet.
    fn next_waiting(&mut self, now: Timestamp) -> Option<(Timestamp, String)> {
        if self.queue.first().is_some_and(|(due, _)| *due <= now) {
            return self.queue.pop_first();
        }
        let name = self.fresh.pop_front()?;
        let due = self.places.get(&name).map_or(now, |place| place.due);
        Some((due.min(now), name))
    }

    /// When the pause ends that an integration's tenant asked for.
    fn pause(&mut self, name: &str, now: Timestamp) -> Option<Timestamp> {
        let tenant = &self.places.get(name)?.tenant;
        let until = *self.paused.get(tenant)?;
        if until <= now {
            self.paused.remove(tenant);
            return None;
        }
        Some(until)
    }

    /// When the pause ends that an integration's tenant asked for.
    pub fn paused_until(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.places
            .get(name)
            .and_then(|place| self.paused.get(&place.tenant))
            .copied()
            .filter(|until| *until > now)
    }

    /// When the last probe of an integration that has ended was started.
    pub fn last_started(&self, name: &str) -> Option<Timestamp> {
        self.places.get(name)?.started
    }

    /// Records that a probe ended, and queues the next one.
    pub fn ended(&mut self, name: &str, ended: Ended, now: Timestamp) {
        self.in_flight.remove(name);
        self.asked_for.remove(name);
        let Some(place) = self.places.get_mut(name) else { return };
        place.started = Some(ended.started);
        let place = place.clone();
        let before = self.backoff.interval_multiplier();
        self.backoff.record(&place.tenant, ended.trouble);
        let mut due = self.policy.next_due(
            name,
            &ended.history,
            self.backoff.interval_multiplier(),
            ended.started,
            now,
        );
        if let Some(moments) = self.extra.get_mut(name) {
            moments.retain(|m| *m > ended.started);
            due = moments.first().map_or(due, |m| due.min(*m));
            if moments.is_empty() {
                self.extra.remove(name);
            }
        }
        if let Some(wait) = ended.retry_after {
            let until = now.plus(wait);
            let paused = self.paused.entry(place.tenant.clone()).or_insert(until);
            *paused = (*paused).max(until);
            // A probe that a person has asked for meanwhile is still made once.
            due = if self.requested.contains(name) { due } else { due.max(*paused) };
        }
        self.put(name, due);
        if before > 1 && self.backoff.interval_multiplier() == 1 {
            self.shorten_waits(now);
        }
    }

    /// The upstream works again: no integration waits longer than an interval because it was slowed down.
    fn shorten_waits(&mut self, now: Timestamp) {
        let latest = now.plus(self.policy.interval);
        let late: Vec<(Timestamp, String)> = self.queue.range((latest, String::new())..).cloned().collect();
        for (due, name) in late {
            let paused = self
                .places
                .get(&name)
                .and_then(|p| self.paused.get(&p.tenant))
                .is_some_and(|until| *until > now);
            if !paused {
                self.queue.remove(&(due, name.clone()));
                self.put(&name, self.policy.first_due(&name, now));
            }
        }
    }

    /// The number of probes that may be in flight now.
    pub fn concurrency(&self, configured: usize) -> usize {
        self.backoff.concurrency(configured)
    }

    /// Probes an integration at these times, in addition to its schedule and to earlier requests. One that is in flight is probed again
    /// afterwards. A person asks for this: the first of these probes is made although the tenant has asked for a pause.
    pub fn add_extra_probes(&mut self, name: &str, moments: &[Timestamp]) {
        let Some(place) = self.places.get(name) else { return };
        let (due, first) = (place.due, moments.first().copied());
        self.requested.insert(name.to_owned());
        let fresh = self.fresh.iter().position(|waiting| waiting == name);
        if let Some(first) =
            first.filter(|first| (*first < due || fresh.is_some()) && !self.in_flight.contains(name))
        {
            self.queue.remove(&(due, name.to_owned()));
            fresh.map(|index| self.fresh.remove(index));
            self.put(name, first);
        }
        let extra = self.extra.entry(name.to_owned()).or_default();
        extra.extend(moments);
        extra.sort_unstable();
        extra.dedup();
    }

    /// Removes the additional probes of an integration.
    pub fn drop_extra_probes(&mut self, name: &str) {
        self.extra.remove(name);
    }

    /// When an integration is probed next; `None` if it does not exist or is in flight.
    pub fn due(&self, name: &str) -> Option<Timestamp> {
        self.places.get(name).filter(|_| !self.in_flight.contains(name)).map(|p| p.due)
    }

    /// When the next probe is due: in the past while an integration without a result waits.
    pub fn next(&self) -> Option<Timestamp> {
        if self.fresh.is_empty() {
            self.queue.first().map(|(due, _)| *due)
        } else {
            Some(Timestamp(i64::MIN))
        }
    }

    /// Number of probes in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn put(&mut self, name: &str, due: Timestamp) {
        if let Some(place) = self.places.get_mut(name) {
            place.due = due;
            self.queue.insert((due, name.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SchedulePolicy = SchedulePolicy {
        interval: Duration::from_secs(300),
        retry_interval: Duration::from_secs(30),
        failure_threshold: 2,
    };
    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn fleet(size: usize) -> Schedule {
        Schedule::new(
            POLICY,
            (0..size).map(|i| (format!("i{i}"), format!("t{}", i / 10))),
            &HashSet::new(),
            START,
        )
    }

    fn well(started: Timestamp) -> Ended {
        Ended { history: History::default(), retry_after: None, trouble: false, started }
    }

    /// A week of two hundred integrations: each is probed once per interval, never twice at a time, never in bunches.
    #[test]
    fn every_integration_is_probed_once_per_interval_for_a_week() {
        let mut schedule = fleet(200);
        let end = START.plus(Duration::from_secs(7 * 86_400));
        let (mut now, mut probes, mut most) = (START, HashMap::<String, u32>::new(), 0);
        while let Some(next) = schedule.next().filter(|n| *n < end) {
            now = now.max(next);
            let started = schedule.start(64, now);
            most = most.max(started.len());
            for (name, due) in started {
                assert_eq!(due, now, "in time");
                *probes.entry(name.clone()).or_default() += 1;
                schedule.ended(&name, well(now), now);
            }
        }
        assert_eq!(probes.len(), 200);
        assert!(probes.values().all(|p| *p == 7 * 288), "{:?}", probes.values().max());
        assert!(most <= 3, "{most} at once");
    }

    #[test]
    fn probes_do_not_overlap_and_are_limited() {
        let mut schedule = fleet(100);
        let now = START.plus(Duration::from_secs(300));
        let first = schedule.start(10, now);
        assert_eq!((first.len(), schedule.in_flight()), (10, 10));
        assert!(schedule.start(10, now).is_empty());
        schedule.add_extra_probes(&first[0].0, &[now]);
        schedule.ended(&first[1].0, well(now), now);
        let next = schedule.start(10, now);
        assert_eq!(next.len(), 1);
        assert!(first.iter().all(|(name, _)| *name != next[0].0));
    }

    #[test]
    fn the_pause_that_a_tenant_asked_for_is_kept() {
        let names = [("a", "t"), ("b", "t"), ("c", "u")];
        let mut schedule =
            Schedule::new(POLICY, names.map(|(n, t)| (n.to_owned(), t.to_owned())), &HashSet::new(), START);
        let started = |schedule: &mut Schedule, now| {
            schedule.start(10, now).into_iter().map(|(n, _)| n).collect::<Vec<_>>()
        };
        schedule.add_extra_probes("a", &[START]);
        assert_eq!(started(&mut schedule, START), ["a"]);
        schedule.add_extra_probes("c", &[START]);
        schedule.ended("a", Ended { retry_after: Some(Duration::from_secs(900)), ..well(START) }, START);
        assert_eq!(started(&mut schedule, START), ["c"], "another tenant does not wait");
        let almost = START.plus(Duration::from_secs(899));
        assert!(started(&mut schedule, almost).is_empty(), "the other integration of the tenant waits, too");
        let mut after = started(&mut schedule, START.plus(Duration::from_secs(900)));
        after.sort();
        assert_eq!(after, ["a", "b"]);
    }

    #[test]
    fn extra_probes_are_made_at_the_requested_times() {
        let mut schedule = fleet(3);
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        schedule.add_extra_probes("i1", &[START, at(15), at(200)]);
        schedule.add_extra_probes("i1", &[at(60)]);
        let mut probed = Vec::new();
        while let Some(now) = schedule.next().filter(|n| *n <= at(300)) {
            for (name, due) in schedule.start(10, now) {
                if name == "i1" {
                    probed.push(due.since(START).as_secs());
                }
                schedule.ended(&name, well(now), now);
            }
        }
        let own = POLICY.first_due("i1", START).since(START).as_secs();
        let mut expected = vec![0, 15, 60, 200, own];
        expected.sort_unstable();
        assert_eq!(probed, expected, "besides its own slot at {own} s");
    }

    #[test]
    fn the_fleet_changes_while_it_is_probed() {
        let named =
            |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), "t".to_owned())).collect::<Vec<_>>();
        let mut schedule = Schedule::new(POLICY, named(&["a", "b", "c"]), &HashSet::new(), START);
        let (a, b) = (schedule.due("a"), schedule.due("b"));
        schedule.add_extra_probes("c", &[START]);
        assert_eq!(schedule.start(10, START).len(), 1, "c is in flight");
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<HashSet<String>>();
        schedule.reconfigure(POLICY, named(&["a", "b", "d", "e"]), &set(&["b"]), &set(&["d"]), START);
        assert_eq!(schedule.due("a"), a, "who stays keeps its place");
        assert!(schedule.due("b") <= b);
        let second = START.plus(Duration::from_secs(1));
        let mut soon: Vec<String> =
            schedule.start(10, START.plus(POLICY.retry_interval)).into_iter().map(|(n, _)| n).collect();
        soon.sort();
        assert_eq!(soon, ["b", "d", "e"], "new and changed ones are probed soon");
        schedule.ended("c", well(START), second);
        assert_eq!((schedule.due("c"), schedule.in_flight()), (None, 3), "one that has left stays away");
        schedule.requeue("b", second);
        assert_eq!(schedule.start(10, second), [("b".to_owned(), second)]);
        // One that is in flight while it stays is neither forgotten nor probed twice at a time.
        schedule.reconfigure(POLICY, named(&["b"]), &set(&["b"]), &set(&[]), second);
        assert!(schedule.start(10, second).is_empty());
        schedule.ended("b", well(second), second);
        assert!(schedule.due("b").is_some());
    }

    /// An integration without a result is probed as soon as there is room, after those that are due; the others keep their slots.
    #[test]
    fn integrations_without_a_result_are_probed_as_soon_as_there_is_room() {
        let names: Vec<(String, String)> = (0..30).map(|i| (format!("i{i}"), format!("t{i}"))).collect();
        let fresh: HashSet<String> = (10..30).map(|i| format!("i{i}")).collect();
        let mut schedule = Schedule::new(POLICY, names.clone(), &fresh, START);
        let slots: Vec<_> = (0..10).map(|i| schedule.due(&format!("i{i}"))).collect();
        schedule.add_extra_probes("i3", &[START]);
        assert!(schedule.next().is_some_and(|next| next <= START));
        let first: Vec<String> = schedule.start(8, START).into_iter().map(|(name, _)| name).collect();
        assert_eq!((first[0].as_str(), first.len()), ("i3", 8), "those that are due come first");
        assert!(first[1..].iter().all(|name| fresh.contains(name)), "{first:?}");
        for name in &first {
            schedule.ended(name, well(START), START);
        }
        let (mut rounds, mut probed) = (0, first.len());
        while schedule.next().is_some_and(|next| next <= START) {
            let started = schedule.start(8, START);
            probed += started.len();
            rounds += 1;
            started.iter().for_each(|(name, _)| schedule.ended(name, well(START), START));
        }
        assert_eq!((rounds, probed), (2, 21), "all of them, within the limit");
        let kept = (0..10).filter(|i| *i != 3).all(|i| schedule.due(&format!("i{i}")) == slots[i]);
        assert!(kept, "the others keep their slots");
        schedule.reconfigure(POLICY, names, &HashSet::new(), &HashSet::from(["i5".to_owned()]), START);
        assert_eq!(schedule.start(8, START), [("i5".to_owned(), START)], "nothing is known of it any more");
    }

    #[test]
    fn a_probe_that_a_person_asks_for_is_made_once_during_a_pause() {
        let mut schedule = Schedule::new(POLICY, [("a".to_owned(), "t".to_owned())], &HashSet::new(), START);
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        let asked_to_wait = |started| Ended { retry_after: Some(Duration::from_secs(3600)), ..well(started) };
        schedule.add_extra_probes("a", &[START]);
        assert_eq!(schedule.start(10, START).len(), 1);
        schedule.ended("a", asked_to_wait(START), START);
        assert_eq!(
            (schedule.start(10, at(60)).len(), schedule.paused_until("a", at(60))),
            (0, Some(at(3600)))
        );
        schedule.add_extra_probes("a", &[at(60), at(75)]);
        assert_eq!(schedule.start(10, at(60)).len(), 1, "once");
        schedule.ended("a", asked_to_wait(at(60)), at(60));
        assert_eq!(schedule.start(10, at(80)).len(), 0, "and not again");
        assert_eq!(schedule.start(10, at(3660)).len(), 1, "after the pause");
        schedule.add_extra_probes("a", &[at(3661)]);
        schedule.ended("a", asked_to_wait(at(3660)), at(3662));
        assert_eq!(schedule.start(10, at(3662)).len(), 1, "requested while another probe was in flight");
    }

    #[test]
    fn an_integration_in_flight_is_probed_again_on_request() {
        let mut schedule = fleet(1);
        schedule.add_extra_probes("i0", &[START]);
        assert_eq!(schedule.start(10, START).len(), 1);
        let later = START.plus(Duration::from_secs(1));
        schedule.add_extra_probes("i0", &[later]);
        schedule.ended("i0", well(START), later);
        assert_eq!(schedule.start(10, later), [("i0".to_owned(), later)]);
        schedule.add_extra_probes("i0", &[later.plus(Duration::from_secs(5))]);
        schedule.drop_extra_probes("i0");
        schedule.ended("i0", well(later), later);
        assert!(schedule.next() > Some(later.plus(Duration::from_secs(5))));
    }
}
