//! Users of `--web.config.file`: basic authentication (RFC 7617) with bcrypt hashes.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use tokio::sync::Semaphore;

use super::gate::Gate;
use super::limits::Guesses;
use super::reauth::Peer;
use crate::clock::Clock;
use crate::secret::Secret;

/// So many right passwords are remembered: every user's, and some that were changed.
const REMEMBERED: usize = 1_000;

/// So many passwords wait for being checked, which takes a good part of a second each.
const WAITING: usize = 32;

/// Whoever finds no place waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many wrong passwords at once from one network; then one a second. Right ones that are remembered always pass.
const WRONG: f64 = 50.0;

/// Whose password was right.
#[derive(Debug)]
pub(super) struct Users {
    /// Digests of user, hash and password. Only right ones: wrong ones would push them out.
    right: Mutex<HashSet<[u8; 32]>>,
    /// Makes the digests worthless elsewhere.
    key: aws_lc_rs::hmac::Key,
    queue: Arc<Semaphore>,
    /// Hashing uses a whole processor; one at a time leaves the other requests theirs.
    one: Arc<tokio::sync::Mutex<()>>,
    guesses: Guesses,
}

impl Default for Users {
    fn default() -> Self {
        let mut random = [0_u8; 32];
        // Without randomness the digests are as good as plain ones, and nothing else suffers.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &random);
        Self { right: Mutex::default(), key, queue: Arc::new(Semaphore::new(WAITING)), one: Arc::default(), guesses: Guesses::new(WRONG) }
    }
}

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// No user, or not with this password.
    Unknown,
    /// Too many passwords are being tried.
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

    /// Checks user and password of a request against the hashes.
    async fn admit(&self, users: &BTreeMap<String, Secret>, headers: &HeaderMap, peer: IpAddr, clock: &Clock) -> Result<(), Refused> {
        let (name, password) = credentials(headers).ok_or(Refused::Unknown)?;
        let known = users.get(&name);
        // Somebody else's hash for an unknown user: that takes as long.
        let hash = known.or_else(|| users.values().next()).ok_or(Refused::Unknown)?.expose().to_owned();
        let digest = self.digest(&name, &hash, &password);
        if known.is_some() && self.right().contains(&digest) {
            return Ok(());
        }
        if !self.guesses.has_more(peer, clock.now()) {
            return Err(Refused::Busy);
        }
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.queue).acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(Refused::Busy)?;
        let turn = Arc::clone(&self.one).lock_owned().await;
        // Those who waited in the same queue may have used it up.
        if !self.guesses.has_more(peer, clock.now()) {
            return Err(Refused::Busy);
        }
        // Whoever asks and goes away keeps place and turn until the hash is done.
        let check = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        if !check.await.unwrap_or(false) || known.is_none() {
            self.guesses.wrong(peer, clock.now());
            return Err(Refused::Unknown);
        }
        let mut right = self.right();
        if right.len() >= REMEMBERED {
            right.clear();
        }
        right.insert(digest);
        Ok(())
    }

    fn right(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// User and password (RFC 7617 section 2): the user ends at the first colon.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(decoded[..colon].to_vec()).ok()?, decoded[colon + 1..].to_vec()))
}

/// Lets nobody pass who is not a configured user, where users are configured.
pub(super) async fn ask(State(gate): State<Arc<Gate>>, Extension(Peer(peer)): Extension<Peer>, request: Request, next: Next) -> Response {
    let posture = gate.current();
    let users = &posture.config.users;
    let admitted = if users.is_empty() { Ok(()) } else { gate.users.admit(users, request.headers(), peer, gate.clock()).await };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(Refused::Unknown) => {
            let mut response = refusal(&request, StatusCode::UNAUTHORIZED, "a user's name and password are needed");
            let scheme = HeaderValue::from_static("Basic realm=\"Consentry\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            response
        }
        Err(Refused::Busy) => refusal(&request, StatusCode::TOO_MANY_REQUESTS, "too many passwords are being tried; wait a little"),
    }
}

fn refusal(request: &Request, status: StatusCode, detail: &str) -> Response {
    if request.uri().path().starts_with("/api/") {
        return super::api::problem(status, detail);
    }
    (status, format!("{}: {detail}.\n", status.canonical_reason().unwrap_or_default())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().expect("a header"))])
    }

    #[test]
    fn credentials_as_they_travel() {
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
        assert_eq!(users.admit(&first, &header("Basic YTpi"), from, &clock).await, Ok(()));
        assert_eq!(users.right().len(), 1);
        assert_eq!(users.admit(&first, &header("Basic YTpi"), from, &clock).await, Ok(()), "from memory");
        let changed = BTreeMap::from([("a".to_owned(), hash("new"))]);
        assert_eq!(
            users.admit(&changed, &header("Basic YTpi"), from, &clock).await,
            Err(Refused::Unknown),
            "another hash, another password"
        );
        assert_eq!(users.admit(&BTreeMap::new(), &header("Basic YTpi"), from, &clock).await, Err(Refused::Unknown));
        assert_eq!(users.admit(&first, &HeaderMap::new(), from, &clock).await, Err(Refused::Unknown));
        // Guessing is slowed down; who is remembered is not.
        let guess = |n: usize| header(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("x:{n}"))));
        let mut busy = 0;
        for n in 0..80 {
            busy += usize::from(users.admit(&first, &guess(n), from, &clock).await == Err(Refused::Busy));
        }
        assert!((29..=32).contains(&busy), "{busy} of 80 were turned away");
        assert_eq!(users.admit(&first, &header("Basic YTpi"), from, &clock).await, Ok(()));
    }
}
