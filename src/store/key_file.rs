//! The key file: reads it, creates it, and checks whether it is the right one for a database.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension as _};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::key::{Key, LENGTH, fingerprint};
use super::{Rights, StoreError, beside, sync_folder};

/// Another process may be writing the key file at this moment.
const WRITING: Duration = Duration::from_secs(1);

/// The fingerprint of the key with which everything in a database is encrypted; `None` in a new database.
pub(super) fn mark(c: &Connection) -> Result<Option<String>, StoreError> {
    Ok(c.prepare_cached("SELECT value FROM meta WHERE key = 'key_check'")?
        .query_row([], |row| row.get(0))
        .optional()?)
}

/// Reads the key file, or creates it if none is needed yet. Usually nothing is written: the database already knows the key.
pub(super) fn load_or_create(c: &Connection, path: &Path, rights: Rights) -> Result<Key, StoreError> {
    let known = match (mark(c)?, read(path)) {
        (Some(mark), Ok(KeyFile::Whole(key))) if fingerprint(&key) == mark => Some(key),
        _ => None,
    };
    let key = if let Some(key) = known {
        key
    } else {
        c.execute_batch("BEGIN IMMEDIATE")?;
        let chosen = choose(c, path, rights);
        c.execute_batch(if chosen.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        chosen?
    };
    warn_if_open(path, "the encryption key");
    Ok(key)
}

/// Runs in an exclusive transaction: finds the key with which the database was written, or creates the first one.
fn choose(c: &Connection, path: &Path, rights: Rights) -> Result<Key, StoreError> {
    let mark = mark(c)?;
    if let Some(key) = finish(mark.as_deref(), path) {
        return Ok(key);
    }
    let sealed = count(c)?;
    let key = match read_whole(path)? {
        KeyFile::Whole(key) => key,
        missing if sealed == 0 && (rights == Rights::Daemon || rights == Rights::Alone && mark.is_none()) => {
            if matches!(missing, KeyFile::Empty) {
                // Left by a process that was killed before it wrote anything.
                std::fs::remove_file(path).map_err(|e| {
                    StoreError::Unusable(format!(
                        "cannot replace the empty encryption key {}: {e}",
                        path.display()
                    ))
                })?;
            }
            create(path)?
        }
        missing => return Err(lost(path, matches!(missing, KeyFile::Empty), sealed, rights)),
    };
    match mark {
        Some(mark) if mark == fingerprint(&key) => {}
        // Nothing is encrypted yet, so another key can be used.
        Some(_) if sealed == 0 && rights == Rights::Daemon => {
            c.execute("UPDATE meta SET value = ?1 WHERE key = 'key_check'", [fingerprint(&key)])?;
        }
        Some(_) => return Err(wrong(c, path, &key, sealed, rights)?),
        None if rights == Rights::Beside => {}
        None => {
            c.execute("INSERT INTO meta VALUES ('key_check', ?1)", [fingerprint(&key)])?;
        }
    }
    Ok(key)
}

fn lost(path: &Path, empty: bool, sealed: i64, rights: Rights) -> StoreError {
    let (shown, state) = (path.display(), if empty { "empty" } else { "gone" });
    StoreError::Unusable(if sealed > 0 {
        format!(
            "the encryption key {shown} is {state}, and the database holds {sealed} refresh tokens that only it can decrypt; \
             restore the file from a backup, or move the database away and let every integration re-authenticate"
        )
    } else if rights == Rights::Beside {
        format!(
            "the encryption key {shown} is {state} while a daemon is using it; restore the file from a backup, because \
             what another key encrypts, that daemon cannot decrypt"
        )
    } else {
        format!(
            "the encryption key {shown} is {state}; restore the file from a backup, or start the daemon, which makes another one \
             as long as nothing is encrypted"
        )
    })
}

fn wrong(
    c: &Connection,
    path: &Path,
    key: &Key,
    sealed: i64,
    rights: Rights,
) -> Result<StoreError, StoreError> {
    let shown = path.display();
    if sealed == 0 {
        let advice = match rights {
            Rights::Beside => {
                "put back the one that the running daemon has, or restart the daemon, which takes this one as long as nothing is encrypted"
            }
            Rights::Daemon | Rights::Alone => {
                "start the daemon, which takes this one as long as nothing is encrypted"
            }
        };
        return Ok(StoreError::Unusable(format!(
            "{shown} is not the key that this database was created with; {advice}"
        )));
    }
    Ok(StoreError::Unusable(if replaced(c, &fingerprint(key))? {
        format!(
            "{shown} is not the key that encrypted the {sealed} refresh tokens in the database: it is an older one, which \
             consentry rotate-key has replaced; replace it by the newer key"
        )
    } else {
        format!(
            "{shown} is not the key that encrypted the {sealed} refresh tokens in the database; restore the key that belongs to this database \
             from a backup (a copy of the database from before a rotation needs the key from before it), \
             or move the database away and let every integration re-authenticate"
        )
    }))
}

/// The content of a key file.
pub(super) enum KeyFile {
    /// The file does not exist.
    Missing,
    /// The file is empty.
    Empty,
    /// The file contains this key.
    Whole(Key),
}

/// Reads the key file.
pub(super) fn read(path: &Path) -> Result<KeyFile, StoreError> {
    let shown = path.display();
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) if text.trim().is_empty() => Ok(KeyFile::Empty),
        Ok(text) => parse(&text).map(KeyFile::Whole).ok_or_else(|| {
            StoreError::Unusable(format!(
                "{shown} is not an encryption key: 32 bytes in base64 are expected; restore the file from a backup"
            ))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(KeyFile::Missing),
        Err(error) => Err(StoreError::Unusable(format!("cannot read the encryption key {shown}: {error}"))),
    }
}

/// Reads the key file, and waits for another process that may be writing it.
fn read_whole(path: &Path) -> Result<KeyFile, StoreError> {
    let begun = Instant::now();
    loop {
        let found = read(path);
        if matches!(found, Ok(KeyFile::Whole(_) | KeyFile::Missing)) || begun.elapsed() >= WRITING {
            return found;
        }
        std::thread::sleep(WRITING / 40);
    }
}

fn parse(text: &str) -> Option<Key> {
    // Some editors write a byte order mark.
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_start_matches('\u{feff}').trim()).ok()?);
    let mut key = Zeroizing::new([0_u8; LENGTH]);
    if bytes.len() != LENGTH {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(Key::new(key))
}

/// Creates a key file, unless another process creates one at the same time: then that one is used.
pub(super) fn create(path: &Path) -> Result<Key, StoreError> {
    let mut bytes = Zeroizing::new([0_u8; LENGTH]);
    SystemRandom::new()
        .fill(&mut bytes[..])
        .map_err(|_| StoreError::Unusable("no randomness for an encryption key".to_owned()))?;
    let key = Key::new(bytes);
    match write_whole(path, &key) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match read_whole(path)? {
            KeyFile::Whole(theirs) => Ok(theirs),
            _ => Err(StoreError::Unusable(format!("cannot read the encryption key {}", path.display()))),
        },
        Err(error) => {
            Err(StoreError::Unusable(format!("cannot create the encryption key {}: {error}", path.display())))
        }
    }
}

/// The file appears completely or not at all, and is on disk before anything is encrypted with it. If the file system does not support
/// links, a process that is killed in between leaves an empty file.
fn write_whole(path: &Path, key: &Key) -> std::io::Result<()> {
    let draft = beside(path, &format!(".draft-{}", Uuid::new_v4().simple()));
    let linked = write_new(&draft, key).and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => write_new(path, key)?,
        linked => linked?,
    }
    sync_folder(path)
}

fn write_new(path: &Path, key: &Key) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let text = Zeroizing::new(STANDARD.encode(key.bytes()) + "\n");
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(super) fn warn_if_open(path: &Path, what: &str) {
    let mode = std::fs::metadata(path).map(|m| m.permissions().mode() & 0o777).unwrap_or(0o600);
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), mode = format!("{mode:o}"), "{what} is readable by other users; run chmod 600 on it");
    }
}

/// Where a new key is kept until the database is saved: beside the key file, links followed.
pub(super) fn successor(key_file: &Path) -> PathBuf {
    beside(&itself(key_file), ".new")
}

pub(super) fn itself(key_file: &Path) -> PathBuf {
    std::fs::canonicalize(key_file).unwrap_or_else(|_| key_file.to_owned())
}

pub(super) fn put_in_place(new: &Path, key_file: &Path) -> Result<(), StoreError> {
    let place = itself(key_file);
    let moved = std::fs::rename(new, &place).and_then(|()| sync_folder(&place));
    moved.map_err(|e| {
        StoreError::Unusable(format!(
            "the database is encrypted with the new key, but {} cannot be moved to {}: {e}; move it by hand",
            new.display(),
            place.display()
        ))
    })
}

/// After a crash: if the database was saved with the new key, that key replaces the old one, and counts even if it cannot be moved.
/// Otherwise it is left alone, because a rotation may be running.
pub(super) fn finish(mark: Option<&str>, key_file: &Path) -> Option<Key> {
    let waiting = successor(key_file);
    let Ok(KeyFile::Whole(new)) = read(&waiting) else { return None };
    if mark != Some(fingerprint(&new).as_str()) {
        return None;
    }
    match put_in_place(&waiting, key_file) {
        Ok(()) => {
            tracing::warn!(file = %key_file.display(), "the encryption key is replaced: a rotation was interrupted");
        }
        Err(error) => tracing::warn!(%error, "a rotation was interrupted"),
    }
    Some(new)
}

/// Number of rows that only the key can decrypt and that cannot be replaced: refresh tokens, stored or waiting for delivery.
pub(super) fn count(c: &Connection) -> Result<i64, StoreError> {
    let sql =
        "SELECT (SELECT count(*) FROM tokens) + (SELECT count(*) FROM deliveries WHERE delivered_at IS NULL)";
    Ok(c.query_row(sql, [], |row| row.get(0))?)
}

/// Whether a key, given by its fingerprint, was replaced by a rotation.
pub(super) fn replaced(c: &Connection, fingerprint: &str) -> Result<bool, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = 'key_checks_before'";
    let before: Option<String> = c.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(before.is_some_and(|all| all.lines().any(|one| one == fingerprint)))
}
