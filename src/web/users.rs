//! Users of `--web.config.file`: basic authentication (RFC 7617) with bcrypt hashes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use tokio::sync::Semaphore;

use super::gate::Gate;
use crate::secret::Secret;

/// So many right passwords are remembered: every user's, and some that were changed.
const REMEMBERED: usize = 1_000;

/// So many passwords wait for being checked, which takes a good part of a second each.
const WAITING: usize = 32;

/// A hash of no password of anybody's, at the usual cost: an unknown user takes as long as a known one.
const NOBODY: &str = "$2b$10$ZpV7fHS/HueVyaAZ04o4xOTcCQ.RTgfFQ6xfZPeVVMdXbbGfThVLW";

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
}

impl Default for Users {
    fn default() -> Self {
        let mut random = [0_u8; 32];
        // Without randomness the digests are as good as plain ones, and nothing else suffers.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &random);
        Self { right: Mutex::default(), key, queue: Arc::new(Semaphore::new(WAITING)), one: Arc::default() }
    }
}

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// No user, or not with this password.
    Unknown,
    /// Too many passwords are being checked.
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
    async fn admit(&self, users: &BTreeMap<String, Secret>, headers: &HeaderMap) -> Result<(), Refused> {
        let (name, password) = credentials(headers).ok_or(Refused::Unknown)?;
        let known = users.get(&name);
        let hash = known.map_or(NOBODY, Secret::expose).to_owned();
        let digest = self.digest(&name, &hash, &password);
        if self.right().contains(&digest) {
            return Ok(());
        }
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| Refused::Busy)?;
        let turn = Arc::clone(&self.one).lock_owned().await;
        // Whoever asks and goes away keeps place and turn until the hash is done.
        let check = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        if !check.await.unwrap_or(false) || known.is_none() {
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
pub(super) async fn ask(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let posture = gate.current();
    let admitted = if posture.config.users.is_empty() { Ok(()) } else { gate.users.admit(&posture.config.users, request.headers()).await };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(Refused::Unknown) => {
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Basic realm=\"Consentry\", charset=\"UTF-8\"")], "Unauthorized\n")
                .into_response()
        }
        Err(Refused::Busy) => (StatusCode::SERVICE_UNAVAILABLE, "Too many passwords are being checked; try again.\n").into_response(),
    }
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
        let users = Users::default();
        let hash = |password: &str| Secret::new(bcrypt::hash(password, 4).expect("a hash"));
        let first = BTreeMap::from([("a".to_owned(), hash("b"))]);
        assert_eq!(users.admit(&first, &header("Basic YTpi")).await, Ok(()));
        assert_eq!(users.right().len(), 1);
        assert_eq!(users.admit(&first, &header("Basic YTpi")).await, Ok(()), "from memory");
        let changed = BTreeMap::from([("a".to_owned(), hash("new"))]);
        assert_eq!(users.admit(&changed, &header("Basic YTpi")).await, Err(Refused::Unknown), "another hash, another password");
        assert_eq!(users.admit(&BTreeMap::new(), &header("Basic YTpi")).await, Err(Refused::Unknown));
        assert_eq!(users.admit(&first, &HeaderMap::new()).await, Err(Refused::Unknown));
        assert!(bcrypt::verify("b", NOBODY).is_ok(), "nobody's hash is one that takes its time");
    }
}
