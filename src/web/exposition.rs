//! The exposition for `/metrics`: generated once for all requests that wait at the same time, for a limited number of clients at once, and
//! held compressed in memory for clients that read slowly.

use std::sync::Arc;

use axum::body::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::chunked_body::Prepared;
use super::compression::compress;
use crate::listener::limits::Places;
use crate::metrics::{Families, Format, Published, write};

/// Smaller responses are not compressed, in bytes.
const GZIP_FROM: usize = 1024;

/// Kilobytes of expositions that are held uncompressed for clients that do not accept gzip; beyond that, expositions are held compressed.
const PLAIN: usize = 24 * 1024;

/// The number of expositions that are generated at the same time.
const MADE_AT_ONCE: usize = 2;

/// A generated exposition, shared by the clients that waited for it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) body: Prepared,
    /// Whether it is sent compressed.
    pub(super) gzipped: bool,
    _room: Option<OwnedSemaphorePermit>,
}

/// An exposition that several requests wait for. `None` when it cannot be generated.
type Waited = Arc<OnceCell<Option<Arc<Made>>>>;

/// Generates expositions and limits how many clients get one at the same time.
#[derive(Debug)]
pub(super) struct Exposition {
    /// `None` allows any number of clients.
    pub(super) places: Option<Arc<Places>>,
    pub(super) most: usize,
    turns: Arc<Semaphore>,
    plain: Arc<Semaphore>,
    /// Expositions that are requested but not begun.
    waited: Mutex<Vec<((Format, bool), Waited)>>,
}

impl Exposition {
    /// For at most `most` clients at once, of which one network may have three quarters; 0 allows any number.
    pub(super) fn new(most: usize) -> Self {
        let places = (most > 0).then(|| Places::new(most, most.saturating_mul(3).div_ceil(4)));
        let [turns, plain] = [MADE_AT_ONCE, PLAIN].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { places, most, turns, plain, waited: Mutex::default() }
    }

    fn waited(&self) -> MutexGuard<'_, Vec<((Format, bool), Waited)>> {
        self.waited.lock()
    }

    /// An exposition whose generation begins after this call. All requests that arrive before it begins wait for the same one.
    pub(super) async fn made(
        &self,
        families: &Families,
        published: &Arc<Published>,
        format: Format,
        gzip: bool,
    ) -> Option<Arc<Made>> {
        let wanted = (format, gzip);
        let waited: Waited = {
            let mut all = self.waited();
            let known = all.iter().find(|(key, _)| *key == wanted).map(|(_, waited)| Arc::clone(waited));
            known.unwrap_or_else(|| {
                let fresh = Waited::default();
                all.push((wanted, Arc::clone(&fresh)));
                fresh
            })
        };
        let begin = || async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
            self.waited().retain(|(_, other)| !Arc::ptr_eq(other, &waited));
            let (families, published, plain) =
                (families.clone(), Arc::clone(published), Arc::clone(&self.plain));
            // Generating the exposition of a large fleet takes milliseconds and compressing it takes longer,
            // so this must not block an async thread. The permit moves into the task: a client that
            // disconnects does not allow more work at once.
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                make(&write(&families, &published, format), gzip, &plain)
            });
            work.await.ok().and_then(Result::ok).map(Arc::new)
        };
        waited.get_or_init(begin).await.clone()
    }
}

fn make(text: &str, gzip: bool, plain: &Arc<Semaphore>) -> std::io::Result<Made> {
    if gzip && text.len() > GZIP_FROM {
        return Ok(Made { body: Prepared::Plain(compress(text)?.into()), gzipped: true, _room: None });
    }
    let kilobytes = u32::try_from(text.len().div_ceil(1024)).unwrap_or(u32::MAX);
    Ok(match Arc::clone(plain).try_acquire_many_owned(kilobytes) {
        Ok(room) => Made {
            body: Prepared::Plain(Bytes::copy_from_slice(text.as_bytes())),
            gzipped: false,
            _room: Some(room),
        },
        Err(_) => {
            Made { body: Prepared::Packed(compress(text)?.into(), text.len()), gzipped: false, _room: None }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_uncompressed_expositions_is_bounded() {
        let (text, room) = ("x".repeat(100 * 1024), Arc::new(Semaphore::new(150)));
        let first = make(&text, false, &room).expect("made");
        assert!(matches!(&first.body, Prepared::Plain(bytes) if bytes.len() == text.len()));
        let second = make(&text, false, &room).expect("made");
        assert!(
            matches!(&second.body, Prepared::Packed(bytes, length) if bytes.len() < 1024 && *length == text.len())
        );
        drop(first);
        assert!(matches!(make(&text, false, &room).expect("made").body, Prepared::Plain(_)), "room again");
        assert!(make(&text, true, &room).expect("made").gzipped);
    }
}
