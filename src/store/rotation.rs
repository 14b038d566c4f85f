//! A new encryption key: everything that is encrypted with the old one is encrypted again, in one transaction.
//!
//! The new key is written beside the old one before anything changes, and replaces it after the database is saved. After a crash in
//! between, the database decides which of the two is right: it contains a fingerprint of its key.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::files::remove_beside;
use super::key::{Key, fingerprint};
use super::key_file::{KeyFile, create, itself, load_or_create, put_in_place, read, successor};
use super::locks::ExclusiveLock;
use super::{Rights, StoreError, authorizations, connect_writer, deliveries, migrate, tokens};

/// Every encrypted column; all are of type BLOB, and no other column is. Each is handled in [`seal_again`].
#[cfg(test)]
const SEALED: &[(&str, &str)] =
    &[("authorizations", "sealed"), ("deliveries", "sealed"), ("tokens", "current"), ("tokens", "previous")];

/// The log is truncated once no process reads it; after a rotation none should.
const TRUNCATING: Duration = Duration::from_secs(10);

/// The result of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// Number of refresh tokens that are encrypted with the new key.
    pub tokens: usize,
    /// Number of rows that were encrypted with neither key, and are unchanged.
    pub damaged: usize,
}

/// Replaces the key of a database that neither a daemon nor a command has open.
///
/// # Errors
/// Another process has the database open, or database or key cannot be used or written: then the old key stays valid.
pub fn rotate_key(database: &Path, key_file: &Path) -> Result<Rotated, StoreError> {
    if !database.exists() {
        return Err(StoreError::Unusable(format!(
            "there is no database {}, so no key to replace",
            database.display()
        )));
    }
    let _alone = ExclusiveLock::take(database)?;
    let connection = connect_writer(database)?;
    migrate(&connection, database, Rights::Daemon)?;
    let old = load_or_create(&connection, key_file, Rights::Daemon)?;
    let waiting = successor(key_file);
    // Left by a rotation that was interrupted before it changed anything. No other process can be using it.
    if std::fs::symlink_metadata(&waiting).is_ok() {
        std::fs::remove_file(&waiting)
            .map_err(|e| StoreError::Unusable(format!("cannot remove {}: {e}", waiting.display())))?;
    }
    // No other process can be writing a draft, so all drafts are left by killed processes.
    remove_beside(&waiting, ".draft-");
    remove_beside(&itself(key_file), ".draft-");
    let new = create(&waiting)?;
    let begun = connection.execute_batch("BEGIN EXCLUSIVE").map_err(StoreError::from);
    let rotated = begun.and_then(|()| seal_again(&connection, &old, &new)).and_then(|rotated| {
        connection.execute_batch("COMMIT")?;
        Ok(rotated)
    });
    // The new key stays where it is: a commit that failed on the disk may have been written after all, and
    // then this key is the right one. The next rotation removes it.
    let rotated = rotated.inspect_err(|_| {
        let _ = connection.execute_batch("ROLLBACK");
    })?;
    // Another command that opens the database from now on may do this first.
    put_in_place(&waiting, key_file).or_else(|error| match read(key_file) {
        Ok(KeyFile::Whole(key)) if fingerprint(&key) == fingerprint(&new) => Ok(()),
        _ => Err(error),
    })?;
    leave_nothing(&connection)?;
    Ok(rotated)
}

/// Removes what the old key encrypted from free pages, from between rows, and from the log.
fn leave_nothing(connection: &Connection) -> Result<(), StoreError> {
    // With `secure_delete` nothing is left in the file, but older versions did not set it. This needs disk
    // space, which may be missing.
    if let Err(error) = connection.execute_batch("VACUUM") {
        tracing::warn!(%error, "the database is not compacted; what the old key encrypted may be in its free pages");
    }
    let begun = Instant::now();
    loop {
        let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if !busy {
            return Ok(());
        }
        if begun.elapsed() >= TRUNCATING {
            tracing::warn!(
                "another process reads the database; what the old key encrypted stays in its log until that has ended"
            );
            return Ok(());
        }
    }
}

/// Encrypts everything again. Every new table with encrypted columns has to be added here.
fn seal_again(c: &Connection, old: &Key, new: &Key) -> Result<Rotated, StoreError> {
    let mut rotated = Rotated { tokens: 0, damaged: 0 };
    let reseal =
        |sealed: &[u8], bound: &str| old.open(sealed, bound).map(|plain| new.seal(&plain, bound)).transpose();
    // Row by row, so that the tokens of a large fleet are not in memory together.
    for row in tokens::row_ids(c)? {
        let (bound, current, previous) = tokens::row(c, row)?;
        let Some(current) = reseal(&current, &bound)? else {
            rotated.damaged += 1;
            continue;
        };
        let previous = previous.map(|p| reseal(&p, &bound)).transpose()?.flatten();
        c.prepare_cached("UPDATE tokens SET current = ?1, previous = ?2 WHERE rowid = ?3")?
            .execute(params![current, previous, row])?;
        rotated.tokens += 1;
    }
    for (table, rows) in [("deliveries", deliveries::rows(c)?), ("authorizations", authorizations::rows(c)?)]
    {
        for (row, bound, sealed) in rows {
            match reseal(&sealed, &bound)? {
                Some(sealed) => {
                    let sql = format!("UPDATE {table} SET sealed = ?1 WHERE rowid = ?2");
                    c.prepare_cached(&sql)?.execute(params![sealed, row])?;
                }
                None => rotated.damaged += 1,
            }
        }
    }
    c.execute("UPDATE meta SET value = ?1 WHERE key = 'key_check'", [fingerprint(new)])?;
    c.execute(
        "INSERT INTO meta VALUES ('key_checks_before', ?1) ON CONFLICT (key) DO UPDATE SET value = value || char(10) || excluded.value",
        [fingerprint(old)],
    )?;
    Ok(rotated)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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

        /// Two integrations with tokens, of which one has rotated and one waits for its delivery.
        async fn new() -> Self {
            let place = Self { folder: tempfile::tempdir().expect("a folder") };
            let (store, now) = (place.open().expect("a database"), Timestamp::from_seconds(1_000));
            for name in ["acme", "beta"] {
                store
                    .put_token(&id(name), &Secret::new(format!("{name}-1")), "import", now)
                    .await
                    .expect("stored");
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
            assert_eq!(
                (acme.current.expose(), acme.previous.as_ref().map(Secret::expose)),
                ("acme-2", Some("acme-1"))
            );
            assert_eq!(
                store.token(&id("beta")).await.expect("read").expect("a token").current.expose(),
                "beta-1"
            );
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
    async fn an_interrupted_rotation_is_finished_or_started_again() {
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
            .write(|c| {
                Ok(c.execute("UPDATE tokens SET current = x'00' WHERE integration = 'beta'", []).map(drop)?)
            })
            .await
            .expect("damaged");
        drop(store);
        assert_eq!(place.rotate(), Rotated { tokens: 1, damaged: 1 });
        let store = place.open().expect("a database");
        assert_eq!(
            store.token(&id("acme")).await.expect("read").expect("a token").current.expose(),
            "acme-2"
        );
    }

    /// The database decides which key is right, and only a rotation changes that.
    #[tokio::test]
    async fn nothing_is_written_with_a_key_that_was_replaced() {
        let place = Place::new().await;
        let before = place.open().expect("a database");
        place.rotate();
        let rejected = before
            .put_token(
                &id("acme"),
                &Secret::new("with the old key"),
                "import",
                Timestamp::from_seconds(3_000),
            )
            .await;
        assert!(matches!(rejected, Err(StoreError::Database(_))), "{rejected:?}");
        drop(before);
        place.assert_readable().await;
    }

    #[tokio::test]
    async fn an_old_key_is_called_an_old_key() {
        let place = Place::new().await;
        let keys = |place: &Place| std::fs::read(place.path("c.key")).expect("a key");
        let oldest = keys(&place);
        place.rotate();
        let older = keys(&place);
        place.rotate();
        let right = keys(&place);
        for (key, older) in
            [(oldest, true), (older, true), (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_vec(), false)]
        {
            std::fs::write(place.path("c.key"), key).expect("written");
            let error = place.open().map(drop).expect_err("a wrong key opens it").to_string();
            assert_eq!(error.contains("it is an older one"), older, "{error}");
        }
        std::fs::write(place.path("c.key"), right).expect("written");
        place.assert_readable().await;
    }

    /// Killed while the new key was being written: whatever was written, the old key counts.
    #[tokio::test]
    async fn an_incomplete_new_key_is_ignored() {
        for half in ["", "AAAA", "\u{0}\u{0}\u{0}\u{0}"] {
            let place = Place::new().await;
            std::fs::write(place.path("c.key.new"), half).expect("written");
            place.assert_readable().await;
            assert_eq!(place.rotate(), Rotated { tokens: 2, damaged: 0 });
            assert!(!place.path("c.key.new").exists());
            place.assert_readable().await;
        }
    }

    /// The key file is a link, as in many deployments: the file itself is replaced, and the link stays.
    #[tokio::test]
    async fn a_key_behind_a_link_is_replaced_in_place() {
        let place = Place::new().await;
        std::fs::create_dir(place.path("keys")).expect("a folder");
        std::fs::rename(place.path("c.key"), place.path("keys/the.key")).expect("moved");
        std::os::unix::fs::symlink(place.path("keys/the.key"), place.path("c.key")).expect("a link");
        place.rotate();
        assert!(std::fs::symlink_metadata(place.path("c.key")).expect("a link").is_symlink());
        place.assert_readable().await;
    }

    /// A rotation waits for a command that has the database open, and names it if that takes too long.
    #[tokio::test]
    async fn a_rotation_waits_for_commands() {
        let place = Place::new().await;
        let command = Store::open_for_command(&place.path("c.db"), &place.path("c.key")).expect("a command");
        let error = rotate_key(&place.path("c.db"), &place.path("c.key"))
            .expect_err("a command has it open")
            .to_string();
        assert!(error.contains("is in use by"), "{error}");
        command.close().await;
        assert_eq!(place.rotate(), Rotated { tokens: 2, damaged: 0 });
        place.assert_readable().await;
    }

    /// A new column of encrypted bytes has to be added to the rotation.
    #[tokio::test]
    async fn every_encrypted_column_is_encrypted_again() {
        let place = Place::new().await;
        drop(place.open().expect("a database"));
        let connection = Connection::open(place.path("c.db")).expect("opened");
        let sql = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
                   WHERE m.type = 'table' AND c.type = 'BLOB' ORDER BY 1, 2";
        let mut statement = connection.prepare(sql).expect("a query");
        let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("columns");
        let columns: Vec<(String, String)> = columns.collect::<Result<_, _>>().expect("columns");
        let named: Vec<(&str, &str)> =
            columns.iter().map(|(table, column)| (table.as_str(), column.as_str())).collect();
        assert_eq!(named, SEALED);
    }

    #[tokio::test]
    async fn the_next_rotation_removes_drafts_of_killed_processes() {
        let place = Place::new().await;
        let drafts = ["c.key.draft-x", "c.key.new.draft-y"].map(|name| place.path(name));
        for draft in &drafts {
            std::fs::write(draft, "a key").expect("written");
        }
        place.rotate();
        assert!(drafts.iter().all(|draft| !draft.exists()));
    }
}
