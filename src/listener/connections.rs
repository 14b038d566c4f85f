//! Limits the number of connections, in total and per network. When the limit is reached, an idle connection is closed: of the network with
//! the most connections, the one that has been idle longest. Connections that send requests and read responses are not closed.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// A connection that has not sent a complete request for this time may be closed in favor of another.
const QUIET: Duration = Duration::from_secs(2);

/// A connection that has not read its response for this time may be closed, too.
const SLOW: Duration = Duration::from_secs(10);

/// The interval at which a waiting connection looks for one that may be closed.
const RETRY: Duration = Duration::from_millis(250);

/// The highest number of connections at once, where file descriptors are not limited.
const MOST: usize = 512;

/// The same for the listener of health checks.
const MOST_HEALTH: usize = 64;

/// The lowest number of connections, however few file descriptors there are.
const FEWEST: usize = 4;

/// File descriptors for the database, watched files, listening sockets, the log and mail.
const RESERVE: u64 = 48;

/// How many connections the listeners may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Of the listeners that serve everything, together.
    pub all: usize,
    /// Of the listener of the re-authentication pages.
    pub reauthentication: usize,
    /// Of the listener for orchestrators.
    pub health: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { all: MOST, reauthentication: MOST, health: MOST_HEALTH }
    }
}

impl Capacity {
    /// The capacity of a process with this many file descriptors (`RLIMIT_NOFILE`; `None` for any number) that probes this many integrations
    /// at once, each with a connection to the login host and one to Graph.
    pub fn within(descriptors: Option<u64>, probes: usize) -> Self {
        let Some(descriptors) = descriptors else { return Self::default() };
        let free = descriptors.saturating_sub(RESERVE);
        let rest = free - (2 * probes as u64).min(free / 2);
        let share = |eighths: u64, most: usize| {
            usize::try_from(rest / 8 * eighths).unwrap_or(most).clamp(FEWEST, most)
        };
        Self { all: share(4, MOST), reauthentication: share(3, MOST), health: share(1, MOST_HEALTH) }
    }

    /// Whether file descriptors limit the capacity.
    pub fn is_reduced(self) -> bool {
        self != Self::default()
    }
}

/// The connections of a site; see the module.
#[derive(Debug)]
pub(crate) struct Connections {
    all: usize,
    /// The limit per network, which does not apply to trusted proxies.
    each: usize,
    carried: Mutex<Carried>,
    freed: Notify,
    /// Connections that wait for a place, the longest waiting first.
    lobby: Mutex<VecDeque<Arc<Notify>>>,
    lobby_size: usize,
}

/// How a new connection begins.
pub(crate) enum Arrival {
    /// It has a place.
    In(Admitted),
    /// It waits for a place. A notification means that it must be closed in favor of a later one.
    Waits(Arc<Notify>),
}

/// The number of connections that may wait.
const LOBBY: usize = 64;

/// How long a connection waits for a place. Idle connections can be closed well before that.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Carried {
    next: u64,
    connections: HashMap<u64, Entry>,
    by: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    network: Option<IpAddr>,
    activity: Arc<Activity>,
}

/// The place of one connection; released when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    connections: Arc<Connections>,
    id: u64,
    pub(crate) activity: Arc<Activity>,
}

impl Connections {
    pub(crate) fn new(all: usize) -> Arc<Self> {
        let (each, lobby_size) = ((all / 2).max(1), (all / 4).clamp(1, LOBBY));
        Arc::new(Self {
            all,
            each,
            carried: Mutex::default(),
            freed: Notify::new(),
            lobby: Mutex::default(),
            lobby_size,
        })
    }

    fn carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock()
    }

    fn lobby(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.lobby.lock()
    }

    /// Finds a place for a connection, or lets it wait. `network` is `None` for connections without a limit per network. When too many wait,
    /// the one that has waited longest is closed, so that many idle connections cannot block a later one with a request.
    pub(crate) fn arrive(self: &Arc<Self>, network: Option<IpAddr>) -> Arrival {
        if let Some(admitted) = self.attempt(network) {
            return Arrival::In(admitted);
        }
        let (ticket, mut lobby) = (Arc::new(Notify::new()), self.lobby());
        if lobby.len() >= self.lobby_size
            && let Some(oldest) = lobby.pop_front()
        {
            oldest.notify_one();
        }
        lobby.push_back(Arc::clone(&ticket));
        Arrival::Waits(ticket)
    }

    /// Waits for a place, for at most [`PERMIT_TIMEOUT`].
    pub(crate) async fn admit(
        self: &Arc<Self>,
        network: Option<IpAddr>,
        ticket: Arc<Notify>,
    ) -> Option<Admitted> {
        let end = Instant::now() + PERMIT_TIMEOUT;
        let admitted = loop {
            let has_to_leave = tokio::select! {
                () = ticket.notified() => true,
                () = self.freed.notified() => false,
                () = tokio::time::sleep(RETRY) => false,
            };
            if has_to_leave || Instant::now() >= end {
                break None;
            }
            if let Some(admitted) = self.attempt(network) {
                break Some(admitted);
            }
        };
        self.lobby().retain(|waiting| !Arc::ptr_eq(waiting, &ticket));
        admitted
    }

    /// A place, if one is free or can be freed by closing an idle connection; of the same network, where that has reached its limit.
    fn attempt(self: &Arc<Self>, network: Option<IpAddr>) -> Option<Admitted> {
        let mut carried = self.carried();
        let of_its_own = network.map_or(0, |network| carried.by.get(&network).copied().unwrap_or_default());
        if of_its_own >= self.each && !carried.make_way(|entry| entry.network == network) {
            return None;
        }
        if carried.connections.len() >= self.all && !carried.make_way(|_| true) {
            return None;
        }
        let (id, activity) = (carried.next, Arc::new(Activity::default()));
        carried.next += 1;
        carried.connections.insert(id, Entry { network, activity: Arc::clone(&activity) });
        if let Some(network) = network {
            *carried.by.entry(network).or_default() += 1;
        }
        Some(Admitted { connections: Arc::clone(self), id, activity })
    }

    /// Closes one idle connection, if there is one, to free a file descriptor.
    pub(crate) fn relieve(&self) {
        self.carried().make_way(|_| true);
    }
}

impl Carried {
    /// Closes one of these connections, if one is idle. It no longer counts from now on.
    fn make_way(&mut self, among: impl Fn(&Entry) -> bool) -> bool {
        let now = Instant::now();
        let of_its_network = |entry: &Entry| {
            entry.network.and_then(|network| self.by.get(&network)).copied().unwrap_or_default()
        };
        let candidates = self.connections.iter().filter(|(_, entry)| among(entry));
        let ranked = candidates.filter_map(|(id, entry)| {
            let (answering, since) = entry.activity.gives_way(now)?;
            Some(((std::cmp::Reverse(of_its_network(entry)), answering, since), *id))
        });
        let Some((_, id)) = ranked.min() else { return false };
        if let Some(entry) = self.remove(id) {
            entry.activity.leave.notify_one();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.connections.remove(&id)?;
        if let Some(network) = entry.network
            && let Some(count) = self.by.get_mut(&network)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by.remove(&network);
            }
        }
        Some(entry)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.carried().remove(self.id);
        self.connections.freed.notify_one();
    }
}

/// What a connection is doing.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    doing: Mutex<Doing>,
    leave: Notify,
}

#[derive(Debug)]
struct Doing {
    /// Complete requests whose responses are not ready yet. The client is not idle meanwhile.
    working: u32,
    /// Responses that the client has not read completely.
    answering: u32,
    /// When one of these numbers last changed.
    since: Instant,
}

impl Default for Doing {
    fn default() -> Self {
        Self { working: 0, answering: 0, since: Instant::now() }
    }
}

#[derive(Debug, Clone, Copy)]
enum Count {
    Working,
    Answering,
}

/// Increments a count until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Activity>, Count);

/// Marks a request as incomplete until it is dropped.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<Activity>);

impl Activity {
    fn change(&self, count: Count, by: i32) {
        let mut doing = self.doing.lock();
        let number = match count {
            Count::Working => &mut doing.working,
            Count::Answering => &mut doing.answering,
        };
        *number = number.saturating_add_signed(by);
        doing.since = Instant::now();
    }

    /// A request has arrived.
    pub(crate) fn work(self: &Arc<Self>) -> Counted {
        self.change(Count::Working, 1);
        Counted(Arc::clone(self), Count::Working)
    }

    /// The body of a request is still arriving.
    pub(crate) fn arriving(self: &Arc<Self>) -> Arriving {
        self.change(Count::Working, -1);
        Arriving(Arc::clone(self))
    }

    /// A response is being sent.
    fn answer(self: &Arc<Self>) -> Counted {
        self.change(Count::Answering, 1);
        Counted(Arc::clone(self), Count::Answering)
    }

    /// `Some` if the connection may be closed in favor of another: whether that aborts a response, and since when the connection is idle.
    fn gives_way(&self, now: Instant) -> Option<(bool, Instant)> {
        let doing = self.doing.lock();
        let answering = doing.answering > 0;
        let patience = if answering { SLOW } else { QUIET };
        (doing.working == 0 && now.saturating_duration_since(doing.since) >= patience)
            .then_some((answering, doing.since))
    }

    /// Waits until the connection must be closed in favor of another.
    pub(crate) async fn left(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(self.1, -1);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.change(Count::Working, 1);
    }
}

/// The body of a response. The connection counts as answering until it is dropped.
pub(crate) struct Answer {
    body: Body,
    _answering: Counted,
}

impl Answer {
    pub(crate) fn new(body: Body, activity: &Arc<Activity>) -> Self {
        Self { body, _answering: activity.answer() }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_descriptors_for_everything_else() {
        for (sentence, descriptors, probes, expected) in [
            ("no limit", None, 64, (512, 512, 64)),
            ("the limit of the systemd unit", Some(65_536), 64, (512, 512, 64)),
            ("the limit of a shell", Some(1_024), 64, (424, 318, 64)),
            ("a large fleet in a shell", Some(1_024), 1_000, (244, 183, 61)),
            ("few", Some(256), 64, (52, 39, 13)),
            ("very few", Some(64), 64, (4, 4, 4)),
            ("none", Some(0), 64, (4, 4, 4)),
        ] {
            let Capacity { all, reauthentication, health } = Capacity::within(descriptors, probes);
            assert_eq!((all, reauthentication, health), expected, "{sentence}");
        }
    }

    /// Makes a connection look idle for longer.
    fn age(admitted: &Admitted, by: Duration) {
        let mut doing = admitted.activity.doing.lock();
        doing.since = doing.since.checked_sub(by).expect("a machine that has run for some seconds");
    }

    fn try_in(connections: &Arc<Connections>, last: u8) -> Option<Admitted> {
        connections.attempt(Some(IpAddr::from([192, 0, 2, last])))
    }

    #[tokio::test]
    async fn the_longest_waiting_connection_is_closed_when_too_many_wait() {
        let connections = Connections::new(4);
        let network = Some(IpAddr::from([192, 0, 2, 1]));
        let carried: Vec<_> = (0..2).filter_map(|_| connections.attempt(network)).collect();
        let arrive = || match connections.arrive(network) {
            Arrival::Waits(ticket) => ticket,
            Arrival::In(_) => panic!("there is no free place"),
        };
        let (first, second) = (arrive(), arrive());
        assert!(connections.admit(network, first).await.is_none(), "closed in favor of a later one");
        age(&carried[0], QUIET);
        assert!(connections.admit(network, second).await.is_some(), "an idle connection is closed");
        assert!(connections.lobby().is_empty());
    }

    #[test]
    fn idle_connections_are_closed_in_favor_of_new_ones() {
        let connections = Connections::new(4);
        let [first, second] = [1, 1].map(|last| try_in(&connections, last).expect("a place"));
        assert!(try_in(&connections, 1).is_none(), "half of all for one network");
        let [third, fourth] = [2, 3].map(|last| try_in(&connections, last).expect("a place"));
        assert!(try_in(&connections, 4).is_none(), "full");
        for admitted in [&first, &second, &third, &fourth] {
            age(admitted, QUIET);
        }
        age(&third, QUIET);
        let working = first.activity.work();
        let fifth = try_in(&connections, 4)
            .expect("the idle connection of the network with the most connections is closed");
        assert!(!connections.carried().connections.contains_key(&second.id));
        drop((second, working));
        assert_eq!(connections.carried().connections.len(), 4, "the closed connection is not counted twice");
        let answering = third.activity.answer();
        age(&third, QUIET);
        let sixth = try_in(&connections, 5).expect("a connection with a response may be idle for longer");
        assert!(!connections.carried().connections.contains_key(&fourth.id));
        age(&third, SLOW);
        let seventh = try_in(&connections, 6).expect("but not forever");
        assert!(!connections.carried().connections.contains_key(&third.id));
        drop((answering, first, third, fourth, fifth, sixth, seventh));
        assert!(connections.carried().by.is_empty() && connections.carried().connections.is_empty());
    }

    #[test]
    fn a_connection_is_idle_while_its_request_body_does_not_arrive() {
        let connections = Connections::new(1);
        let admitted = try_in(&connections, 1).expect("a place");
        let _working = admitted.activity.work();
        age(&admitted, SLOW);
        assert!(admitted.activity.gives_way(Instant::now()).is_none(), "the response is being prepared");
        let arriving = admitted.activity.arriving();
        age(&admitted, QUIET);
        assert!(admitted.activity.gives_way(Instant::now()).is_some(), "the body does not arrive");
        drop(arriving);
        age(&admitted, SLOW);
        assert!(admitted.activity.gives_way(Instant::now()).is_none(), "the body has arrived");
    }
}
