//! A new encryption key: everything that the old one encrypts is encrypted anew, in one transaction.
//!
//! The new key is written beside the old one before anything changes, and takes its place once the database is saved. Which of the
//! two is right after a crash in between, the database says: it keeps a fingerprint of its key.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::key::{Key, create, fingerprint, load_or_create, read};
use super::{StoreError, authorizations, beside, deliveries, migrate, prepare, tokens};

/// What a rotation has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// So many refresh tokens are encrypted with the new key.
    pub tokens: usize,
    /// So many rows were encrypted with neither key, and are left as they were.
    pub damaged: usize,
}

/// Replaces the key of a database on which no daemon runs: whoever calls this holds its lock.
///
/// # Errors
/// The database or the key cannot be used or written; then the old key still counts.
pub fn rotate_key(database: &Path, key_file: &Path) -> Result<Rotated, StoreError> {
    let connection = Connection::open(database)
        .and_then(|c| prepare(&c).map(|()| c))
        .map_err(|e| StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())))?;
    migrate(&connection, database)?;
    // What the old key encrypted is not to be found in free pages.
    connection.pragma_update(None, "secure_delete", true)?;
    let old = load_or_create(&connection, key_file)?;
    let beside = successor(key_file);
    // Left by a rotation that was cut off before it changed anything; whoever holds the lock may say so.
    if beside.exists() {
        std::fs::remove_file(&beside).map_err(|e| StoreError::Unusable(format!("cannot remove {}: {e}", beside.display())))?;
    }
    let new = create(&beside)?;
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    let rotated = seal_anew(&connection, &old, &new).and_then(|rotated| {
        connection.execute_batch("COMMIT")?;
        Ok(rotated)
    });
    let rotated = rotated.inspect_err(|_| {
        let _ = connection.execute_batch("ROLLBACK");
        let _ = std::fs::remove_file(&beside);
    })?;
    // Another command that opened the database meanwhile may have done this already.
    put_in_place(&beside, key_file).or_else(|error| match read(key_file) {
        Ok(Some(key)) if fingerprint(&key) == fingerprint(&new) => Ok(()),
        _ => Err(error),
    })?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(rotated)
}

/// Where a new key waits until the database is saved.
fn successor(key_file: &Path) -> PathBuf {
    beside(key_file, ".new")
}

fn put_in_place(new: &Path, key_file: &Path) -> Result<(), StoreError> {
    let moved = std::fs::rename(new, key_file).and_then(|()| {
        let folder = key_file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    });
    moved.map_err(|e| StoreError::Unusable(format!("cannot move {} to {}: {e}; do it by hand", new.display(), key_file.display())))
}

/// After a crash: the key that waits takes its place if the database was saved with it. Otherwise it is left alone: a rotation
/// may be at work.
pub(super) fn finish(saved: Option<&str>, key_file: &Path) -> Result<(), StoreError> {
    let waiting = successor(key_file);
    let Ok(Some(new)) = read(&waiting) else { return Ok(()) };
    if saved != Some(fingerprint(&new).as_str()) {
        return Ok(());
    }
    tracing::warn!(file = %key_file.display(), "the encryption key is replaced: a rotation was interrupted");
    put_in_place(&waiting, key_file)
}

fn seal_anew(c: &Connection, old: &Key, new: &Key) -> Result<Rotated, StoreError> {
    let mut rotated = Rotated { tokens: 0, damaged: 0 };
    let anew = |sealed: &[u8], bound: &str| old.open(sealed, bound).map(|plain| new.seal(&plain, bound)).transpose();
    // Row by row: the tokens of a large fleet need not be in memory together.
    for row in tokens::row_ids(c)? {
        let (bound, current, previous) = tokens::row(c, row)?;
        let Some(current) = anew(&current, &bound)? else {
            rotated.damaged += 1;
            continue;
        };
        let previous = previous.map(|p| anew(&p, &bound)).transpose()?.flatten();
        c.prepare_cached("UPDATE tokens SET current = ?1, previous = ?2 WHERE rowid = ?3")?.execute(params![current, previous, row])?;
        rotated.tokens += 1;
    }
    for (table, rows) in [("deliveries", deliveries::rows(c)?), ("authorizations", authorizations::rows(c)?)] {
        for (row, bound, sealed) in rows {
            match anew(&sealed, &bound)? {
                Some(sealed) => {
                    let sql = format!("UPDATE {table} SET sealed = ?1 WHERE rowid = ?2");
                    c.prepare_cached(&sql)?.execute(params![sealed, row])?;
                }
                None => rotated.damaged += 1,
            }
        }
    }
    c.execute("UPDATE meta SET value = ?1 WHERE key = 'key_check'", [fingerprint(new)])?;
    Ok(rotated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::secret::Secret;
    use crate::store::{NewDelivery, Store, TokenId};

    fn id(integration: &str) -> TokenId {
        TokenId { integration: integration.to_owned(), client_id: "c".to_owned(), tenant: "t".to_owned() }
    }

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn open(&self) -> Result<Store, StoreError> {
            Store::open(&self.path("c.db"), &self.path("c.key"))
        }

        fn rotate(&self) -> Rotated {
            rotate_key(&self.path("c.db"), &self.path("c.key")).expect("rotated")
        }

        /// Two integrations with tokens, of which one has rotated and one waits to be handed over.
        async fn new() -> Self {
            let place = Self { folder: tempfile::tempdir().expect("a folder") };
            let (store, now) = (place.open().expect("a database"), Timestamp::from_seconds(1_000));
            for name in ["acme", "beta"] {
                store.put_token(&id(name), &Secret::new(format!("{name}-1")), "import", now).await.expect("stored");
            }
            let (first, second) = (Secret::new("acme-1"), Secret::new("acme-2"));
            store.save_rotated(&id("acme"), 1, &second, &first, now).await.expect("saved");
            let new = NewDelivery { message: "msg".to_owned(), body: Secret::new("handed over") };
            let sealed = deliveries::sealed(store.key(), "beta", new).expect("sealed");
            store.write(move |c| deliveries::put(c, "beta", &sealed, now)).await.expect("queued");
            place
        }

        async fn assert_readable(&self) {
            let (store, now) = (self.open().expect("the right key"), Timestamp::from_seconds(2_000));
            let acme = store.token(&id("acme")).await.expect("read").expect("a token");
            assert_eq!((acme.current.expose(), acme.previous.as_ref().map(Secret::expose)), ("acme-2", Some("acme-1")));
            assert_eq!(store.token(&id("beta")).await.expect("read").expect("a token").current.expose(), "beta-1");
            let due = store.due_deliveries(now).await.expect("read");
            assert_eq!(due[0].body.as_ref().map(Secret::expose), Some("handed over"));
        }
    }

    #[tokio::test]
    async fn everything_is_readable_with_the_new_key_and_nothing_with_the_old_one() {
        let place = Place::new().await;
        let old = std::fs::read(place.path("c.key")).expect("a key");
        assert_eq!(place.rotate(), Rotated { tokens: 2, damaged: 0 });
        assert_ne!(std::fs::read(place.path("c.key")).expect("a key"), old);
        assert!(!place.path("c.key.new").exists());
        place.assert_readable().await;
        std::fs::write(place.path("c.key"), old).expect("written");
        let error = place.open().map(drop).expect_err("the old key opens it").to_string();
        assert!(error.contains("is not the key"), "{error}");
    }

    /// Killed after the database was saved, and killed before.
    #[tokio::test]
    async fn a_rotation_that_was_cut_off_is_finished_or_begun_anew() {
        let place = Place::new().await;
        let old = std::fs::read(place.path("c.key")).expect("a key");
        place.rotate();
        std::fs::rename(place.path("c.key"), place.path("c.key.new")).expect("moved");
        std::fs::write(place.path("c.key"), &old).expect("written");
        place.assert_readable().await;
        assert!(!place.path("c.key.new").exists());
        let right = std::fs::read(place.path("c.key")).expect("a key");
        std::fs::write(place.path("c.key.new"), old).expect("written");
        place.assert_readable().await;
        assert_eq!(std::fs::read(place.path("c.key")).expect("a key"), right);
        place.rotate();
        assert!(!place.path("c.key.new").exists());
        place.assert_readable().await;
    }

    #[tokio::test]
    async fn a_damaged_row_stays_as_it_is() {
        let place = Place::new().await;
        let store = place.open().expect("a database");
        store
            .write(|c| Ok(c.execute("UPDATE tokens SET current = x'00' WHERE integration = 'beta'", []).map(drop)?))
            .await
            .expect("damaged");
        drop(store);
        assert_eq!(place.rotate(), Rotated { tokens: 1, damaged: 1 });
        let store = place.open().expect("a database");
        assert_eq!(store.token(&id("acme")).await.expect("read").expect("a token").current.expose(), "acme-2");
    }
}
