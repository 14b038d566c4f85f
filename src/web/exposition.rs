//! `/metrics`: made once for all who ask at the same time, given to so many at once, kept compressed for those who take it slowly. And
//! `/probe`, the same for one integration.

use std::sync::Arc;

use axum::body::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::chunked_body::Prepared;
use super::compression::compress;
use crate::listener::limits::Places;
use crate::metrics::{Families, Format, Published, write};

/// Small answers are not worth compressing.
const GZIP_FROM: usize = 1024;

/// Kilobytes of expositions that are kept as they are, for those who do not take them compressed; more are kept compressed.
const PLAIN: usize = 24 * 1024;

/// So many are made at once.
const MADE_AT_ONCE: usize = 2;

/// What was made for some clients.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) body: Prepared,
    /// It is sent compressed.
    pub(super) gzipped: bool,
    _room: Option<OwnedSemaphorePermit>,
}

/// One that several wait for. `None` when it cannot be made.
type Waited = Arc<OnceCell<Option<Arc<Made>>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Exposition {
    /// For so many at once; `None` means any number.
    pub(super) places: Option<Arc<Places>>,
    pub(super) most: usize,
    turns: Arc<Semaphore>,
    plain: Arc<Semaphore>,
    /// Those that nobody has begun to make.
    waited: Mutex<Vec<((Format, bool), Waited)>>,
}

impl Exposition {
    /// For so many clients at once, of which one network may be three quarters; 0 means any number.
    pub(super) fn new(most: usize) -> Self {
        let places = (most > 0).then(|| Places::new(most, most.saturating_mul(3).div_ceil(4)));
        let [turns, plain] = [MADE_AT_ONCE, PLAIN].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { places, most, turns, plain, waited: Mutex::default() }
    }

    fn waited(&self) -> MutexGuard<'_, Vec<((Format, bool), Waited)>> {
        self.waited.lock()
    }

    /// One that is made from now on; whoever asks before it is begun waits for the same.
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
            // A big fleet's exposition takes milliseconds, and compressing it more: not on a thread that others wait for. The turn goes
            // with the work: clients that have gone do not make room for more.
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
    fn what_waits_uncompressed_is_bounded() {
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
