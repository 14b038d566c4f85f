//! Users of `--web.config.file`: basic authentication (RFC 7617) with bcrypt hashes.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::limits::{FailedAttemptLimiter, network};
use crate::clock::Clock;
use crate::secret::Secret;

/// The number of correct passwords that are remembered: every user's, and some that were changed.
const REMEMBERED: usize = 1_000;

/// The number of networks that are remembered because a correct password came from them.
const NETWORKS: usize = 1_000;

/// The number of passwords that may wait for verification, which takes a large part of a second each.
const WAITING: usize = 64;

/// The number of these that may come from one network.
const WAITING_OF_ONE: usize = 16;

/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of wrong passwords that one network may send at once; then one per second. Remembered passwords are always accepted.
const WRONG: f64 = 50.0;

/// Number and duration in milliseconds of the wrong passwords that are remembered per network for the order of verification. So guessing from
/// many addresses gains at most one attempt per hour and address ahead of other clients.
const STRIKES: (f64, f64) = (1_000.0, 3_600_000.0);

/// Verifies passwords, and remembers correct ones.
#[derive(Debug)]
pub(crate) struct Users {
    /// Digests of user, hash and password. Only correct ones, because wrong ones would displace them.
    right: Mutex<HashSet<[u8; 32]>>,
    /// Networks from which they came.
    networks: Mutex<HashSet<IpAddr>>,
    /// A random key, so that the digests are useless outside this process.
    key: aws_lc_rs::hmac::Key,
    turns: Arc<Turns>,
    failed_attempts: FailedAttemptLimiter,
    /// Wrong passwords for the order of verification. They are remembered for a long time, and do not cause rejections by themselves.
    strikes: FailedAttemptLimiter,
}

impl Default for Users {
    fn default() -> Self {
        let mut random = [0_u8; 32];
        // If this fails, the digests are as weak as unkeyed ones; nothing else depends on the key.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &random);
        Self {
            right: Mutex::default(),
            networks: Mutex::default(),
            key,
            turns: Arc::default(),
            failed_attempts: FailedAttemptLimiter::new(WRONG),
            strikes: FailedAttemptLimiter::lasting(STRIKES.0, STRIKES.1),
        }
    }
}

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No credentials, an unknown user or a wrong password.
    Unknown,
    /// Too many passwords are being verified.
    Busy,
}

impl Users {
    fn digest(&self, name: &str, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), hash.as_bytes(), password] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    /// Verifies user name and password of a request. Returns the user name.
    pub(crate) async fn admit(
        &self,
        users: &BTreeMap<String, Secret>,
        headers: &HeaderMap,
        peer: IpAddr,
        clock: &Clock,
    ) -> Result<String, Refused> {
        let (name, password) = credentials(headers).ok_or(Refused::Unknown)?;
        let known = users.get(&name);
        // For an unknown user, another user's hash is used, so that the response takes equally long.
        let hash = known.or_else(|| users.values().next()).ok_or(Refused::Unknown)?.expose().to_owned();
        let digest = self.digest(&name, &hash, &password);
        let is_remembered = || known.is_some() && self.right().contains(&digest);
        if is_remembered() {
            return Ok(name);
        }
        if !self.failed_attempts.has_more(peer, clock.steady()) {
            return Err(Refused::Busy);
        }
        let turn = self.turns.take(network(peer), self.rank(peer, clock)).await.ok_or(Refused::Busy)?;
        // Meanwhile the same password may have been verified, or this network may have used up its attempts.
        if is_remembered() {
            return Ok(name);
        }
        if !self.failed_attempts.has_more(peer, clock.steady()) {
            return Err(Refused::Busy);
        }
        // The turn moves into the task, so that it lasts until the hash is computed even if the client
        // disconnects.
        let check = tokio::task::spawn_blocking(move || {
            let _held = turn;
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        if !check.await.unwrap_or(false) || known.is_none() {
            self.failed_attempts.wrong(peer, clock.steady());
            self.strikes.wrong(peer, clock.steady());
            return Err(Refused::Unknown);
        }
        remember(&mut self.right(), REMEMBERED, digest);
        remember(&mut self.networks.lock(), NETWORKS, network(peer));
        Ok(name)
    }

    /// The rank of a network in the queue, lowest first: networks with correct passwords, then those with the fewest wrong ones. So guessing
    /// from many addresses delays only other guessing.
    fn rank(&self, peer: IpAddr, clock: &Clock) -> u32 {
        let is_good = self.networks.lock().contains(&network(peer));
        if is_good { 0 } else { 1 + self.strikes.held_against(peer, clock.steady()) }
    }

    fn right(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.right.lock()
    }
}

fn remember<T: Eq + std::hash::Hash>(remembered: &mut HashSet<T>, most: usize, one: T) {
    if remembered.len() >= most {
        remembered.clear();
    }
    remembered.insert(one);
}

/// Turns for hashing. A hash uses a whole CPU core, so only one is computed at a time. The next turn is chosen by rank.
#[derive(Debug, Default)]
struct Turns(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    tickets: u64,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// The lowest rank is next; equal ranks in order of arrival.
    rank: (u32, u64),
    network: IpAddr,
    call: oneshot::Sender<Turn>,
}

/// A turn for hashing; dropping it starts the next one.
#[derive(Debug)]
struct Turn(Arc<Turns>);

impl Turns {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
    }

    /// Waits for a turn. `None` when the queue is full of lower ranks, or after [`TURN_TIMEOUT`].
    async fn take(self: &Arc<Self>, network: IpAddr, rank: u32) -> Option<Turn> {
        let called = {
            let mut queue = self.queue();
            if !queue.taken {
                queue.taken = true;
                return Some(Turn(Arc::clone(self)));
            }
            queue.line_up(network, rank)?
        };
        tokio::time::timeout(TURN_TIMEOUT, called).await.ok()?.ok()
    }
}

impl Queue {
    fn line_up(&mut self, network: IpAddr, rank: u32) -> Option<oneshot::Receiver<Turn>> {
        // Remove clients that have disconnected.
        self.waiting.retain(|waiting| !waiting.call.is_closed());
        if self.waiting.iter().filter(|waiting| waiting.network == network).count() >= WAITING_OF_ONE {
            return None;
        }
        let rank = (rank, self.tickets);
        self.tickets += 1;
        if self.waiting.len() >= WAITING {
            let (last, worst) = self
                .waiting
                .iter()
                .enumerate()
                .map(|(index, waiting)| (index, waiting.rank))
                .max_by_key(|(_, rank)| *rank)?;
            if worst < rank {
                return None;
            }
            self.waiting.swap_remove(last);
        }
        let (call, called) = oneshot::channel();
        self.waiting.push(Waiting { rank, network, call });
        Some(called)
    }

    /// Removes the next one from the queue; the turn is free when the queue is empty.
    fn next(&mut self) -> Option<Waiting> {
        let first =
            self.waiting.iter().enumerate().min_by_key(|(_, waiting)| waiting.rank).map(|(index, _)| index);
        self.taken = first.is_some();
        first.map(|index| self.waiting.swap_remove(index))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.queue().next();
        if let Some(next) = next {
            // If the receiver is gone, the new turn is dropped, too, which starts the one after it.
            drop(next.call.send(Self(Arc::clone(&self.0))));
        }
    }
}

/// User and password (RFC 7617 section 2): the user ends at the first colon.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()
        .filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(decoded[..colon].to_vec()).ok()?, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().expect("a header"))])
    }

    #[test]
    fn basic_credentials_are_parsed() {
        for (value, expected) in [
            ("Basic YTpi", Some(("a", "b"))),
            ("basic YTpiOmM=", Some(("a", "b:c"))),
            ("Basic Og==", Some(("", ""))),
            ("Basic YQ==", None),
            ("Basic !", None),
            ("Bearer YTpi", None),
            ("Basic", None),
        ] {
            let expected = expected.map(|(name, password)| (name.to_owned(), password.as_bytes().to_vec()));
            assert_eq!(credentials(&header(value)), expected, "{value}");
        }
    }

    #[tokio::test]
    async fn passwords_are_checked_and_remembered_with_their_hash() {
        let (users, from) = (Users::default(), IpAddr::from([192, 0, 2, 1]));
        let clock = Clock::manual(crate::domain::Timestamp::from_seconds(1_000));
        let hash = |password: &str| Secret::new(bcrypt::hash(password, 4).expect("a hash"));
        let first = BTreeMap::from([("a".to_owned(), hash("b"))]);
        assert_eq!(users.admit(&first, &header("Basic YTpi"), from, &clock).await, Ok("a".to_owned()));
        assert_eq!(users.right().len(), 1);
        assert_eq!(
            users.admit(&first, &header("Basic YTpi"), from, &clock).await,
            Ok("a".to_owned()),
            "from memory"
        );
        let changed = BTreeMap::from([("a".to_owned(), hash("new"))]);
        assert_eq!(
            users.admit(&changed, &header("Basic YTpi"), from, &clock).await,
            Err(Refused::Unknown),
            "a remembered password does not match a changed hash"
        );
        assert_eq!(
            users.admit(&BTreeMap::new(), &header("Basic YTpi"), from, &clock).await,
            Err(Refused::Unknown)
        );
        assert_eq!(users.admit(&first, &HeaderMap::new(), from, &clock).await, Err(Refused::Unknown));
        // Wrong passwords are limited; remembered ones are not.
        let guess = |n: usize| {
            header(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("x:{n}"))))
        };
        let mut busy = 0;
        for n in 0..80 {
            busy += usize::from(users.admit(&first, &guess(n), from, &clock).await == Err(Refused::Busy));
        }
        assert!((29..=32).contains(&busy), "{busy} of 80 were rejected as busy");
        // Setting the system clock back by an hour does not lengthen the wait.
        clock.step(-3_600_000);
        clock.set(clock.steady().plus(Duration::from_secs(2)));
        assert_eq!(users.admit(&first, &guess(100), from, &clock).await, Err(Refused::Unknown));
        assert_eq!(users.admit(&first, &header("Basic YTpi"), from, &clock).await, Ok("a".to_owned()));
    }

    /// The order in which callers get their turn.
    async fn order(turns: &Arc<Turns>, callers: &[(u8, u32)]) -> Vec<u8> {
        let held = turns.take(IpAddr::from([192, 0, 2, 0]), 1).await.expect("the turn is free");
        let called: Vec<_> = callers
            .iter()
            .map(|(last, rank)| (*last, turns.queue().line_up(IpAddr::from([192, 0, 2, *last]), *rank)))
            .collect();
        drop(held);
        let mut served = Vec::new();
        let mut left: Vec<_> =
            called.into_iter().filter_map(|(last, called)| Some((last, called?))).collect();
        while !left.is_empty() {
            let before = left.len();
            left.retain_mut(|(last, called)| match called.try_recv() {
                Ok(turn) => {
                    served.push(*last);
                    drop(turn);
                    false
                }
                Err(oneshot::error::TryRecvError::Closed) => false,
                Err(oneshot::error::TryRecvError::Empty) => true,
            });
            assert!(left.len() < before, "the next one is always called");
        }
        served
    }

    #[tokio::test]
    async fn turns_go_to_networks_with_the_fewest_wrong_passwords() {
        let turns = Arc::new(Turns::default());
        assert_eq!(order(&turns, &[(1, 3), (2, 1), (3, 0), (4, 1)]).await, [3, 2, 4, 1]);
        assert!(!turns.queue().taken, "the turn is free in the end");
        // Many with wrong passwords, and then one without.
        let mut many: Vec<(u8, u32)> = (1..=100).map(|last| (last, 2)).collect();
        many.push((200, 1));
        let served = order(&turns, &many).await;
        assert_eq!(
            (served.len(), served[0]),
            (WAITING, 200),
            "the last one with wrong passwords is displaced"
        );
        let own = order(&turns, &[(7, 1); 40]).await;
        assert_eq!(own.len(), WAITING_OF_ONE, "one network does not fill the queue");
    }

    #[tokio::test]
    async fn a_disconnected_client_is_skipped() {
        let turns = Arc::new(Turns::default());
        let held = turns.take(IpAddr::from([192, 0, 2, 0]), 1).await.expect("the turn is free");
        let gone = turns.queue().line_up(IpAddr::from([192, 0, 2, 1]), 1).expect("a place");
        let patient = turns.queue().line_up(IpAddr::from([192, 0, 2, 2]), 1).expect("a place");
        drop(gone);
        drop(held);
        assert!(patient.await.is_ok());
        assert!(!turns.queue().taken);
    }

    /// Browsers send the same password on many connections at once.
    #[tokio::test]
    async fn the_same_password_from_many_connections_is_accepted() {
        let users = Arc::new(Users::default());
        let clock = Clock::manual(crate::domain::Timestamp::from_seconds(1_000));
        let known =
            Arc::new(BTreeMap::from([("a".to_owned(), Secret::new(bcrypt::hash("b", 4).expect("a hash")))]));
        let requests: Vec<_> = (0..10)
            .map(|_| {
                let (users, known, clock) = (Arc::clone(&users), Arc::clone(&known), clock.clone());
                tokio::spawn(async move {
                    users.admit(&known, &header("Basic YTpi"), IpAddr::from([192, 0, 2, 1]), &clock).await
                })
            })
            .collect();
        for result in requests {
            assert_eq!(result.await.expect("ended"), Ok("a".to_owned()));
        }
    }

    #[tokio::test]
    async fn networks_with_wrong_passwords_wait_behind_others_for_long() {
        let users = Users::default();
        let clock = Clock::manual(crate::domain::Timestamp::from_seconds(1_000));
        let known = BTreeMap::from([("a".to_owned(), Secret::new(bcrypt::hash("b", 4).expect("a hash")))]);
        let [guesser, newcomer] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        assert_eq!(users.admit(&known, &header("Basic YTpj"), guesser, &clock).await, Err(Refused::Unknown));
        clock.set(clock.steady().plus(Duration::from_secs(120)));
        assert!(users.rank(newcomer, &clock) < users.rank(guesser, &clock));
    }
}
