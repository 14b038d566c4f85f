//! The files of an open database: whether they are still in place, and how they are restored.
//!
//! A process continues to write to a file that was deleted or replaced, and these writes are lost when it ends. So the files are compared
//! with the open ones by device and inode. A file that was overwritten in place keeps its inode; it is recognised by a mark that the daemon
//! writes at every start, and that no copy has.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};
use uuid::Uuid;

use super::backup::{self, IMPRINT};
use super::{StoreError, beside, sync_folder};
use crate::clock::{Clock, rfc3339};

/// The database, its log, and the index of the log.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

type Identity = (u64, u64);

/// Removes what killed processes have left beside a file: files whose names begin with its name and `middle`.
pub(super) fn remove_beside(file: &Path, middle: &str) {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let begin = format!("{name}{middle}");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(&begin)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The properties that change whenever a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    identity: Identity,
    length: u64,
    modified: (i64, i64),
}

/// The state of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// All files are in place.
    InPlace,
    /// A file was deleted or replaced; the text for the log says which.
    Displaced(&'static str),
}

/// The files of the database that a daemon has open.
#[derive(Debug)]
pub(super) struct Files {
    /// The database file, links followed: SQLite keeps the log beside it.
    database: PathBuf,
    open: [Option<Identity>; 3],
    stamp: Option<Stamp>,
    /// The mark, if it is in the file itself and not only in its log.
    imprint: Option<String>,
}

impl Files {
    /// The files of a database that has just been opened.
    pub(super) fn of(database: &Path, connection: &Connection) -> Result<Self, StoreError> {
        let database = std::fs::canonicalize(database).map_err(|e| {
            StoreError::Unusable(format!("cannot find the database {}: {e}", database.display()))
        })?;
        let imprint = Uuid::new_v4().to_string();
        let marked = connection.execute(
            "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [IMPRINT, imprint.as_str()],
        );
        // Checkpoints the mark into the file itself. A database that is locked at this moment has no mark.
        let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        let written = marked.is_ok() && matches!(imprint_in(&database), Ok(Some(found)) if found == imprint);
        Ok(Self {
            open: identities(&database),
            stamp: stamp(&database),
            imprint: written.then_some(imprint),
            database,
        })
    }

    /// The database file, links followed.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Compares the existing files with the open ones.
    pub(super) fn look(&mut self) -> Finding {
        let there = identities(&self.database);
        // The log is created with the first use.
        for (open, found) in self.open.iter_mut().zip(there).skip(1) {
            *open = open.or(found);
        }
        match (there[0], self.open[0]) {
            (None, _) => Finding::Displaced("the database file was deleted"),
            (found, open) if found != open => {
                Finding::Displaced("another file has taken the place of the database")
            }
            _ if there != self.open => Finding::Displaced("the log of the database was deleted or replaced"),
            _ => Finding::InPlace,
        }
    }

    /// Records that all writes until now were made by this process.
    pub(super) fn written(&mut self) {
        self.stamp = stamp(&self.database).filter(|s| Some(s.identity) == self.open[0]);
    }

    /// Whether somebody has written another database into the open file.
    pub(super) fn overwritten(&mut self) -> bool {
        let found = stamp(&self.database);
        if found == self.stamp || found.map(|s| s.identity) != self.open[0] {
            return false;
        }
        let Some(imprint) = &self.imprint else { return false };
        let shorter = found.zip(self.stamp).is_some_and(|(found, known)| found.length < known.length);
        // Twice, because another process may be checkpointing the log at this moment.
        for _ in 0..2 {
            match imprint_in(&self.database) {
                Ok(Some(there)) if there == *imprint => {
                    self.stamp = found;
                    return false;
                }
                // Without a file descriptor the result is unknown; the next check will show it.
                Err(error) if is_ours(&error) => return false,
                // A half checkpointed log (a full disk, or a process that was killed during a checkpoint)
                // also leaves this, and the log beside the file repairs it. A checkpoint never makes a file
                // shorter.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) && !shorter => {
                    return false;
                }
                _ => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        }
        true
    }

    /// Replaces the database by a complete copy of what an open connection sees. A file that somebody has put there is kept under another
    /// name, which is returned.
    pub(super) fn restore(&self, connection: &Connection) -> Result<Option<PathBuf>, StoreError> {
        let failed = |e: std::io::Error| {
            StoreError::Unusable(format!("cannot put the database back to {}: {e}", self.database.display()))
        };
        let copy = beside(&self.database, &format!(".restoring-{}", std::process::id()));
        // Left by an earlier attempt.
        for left in [&copy, &beside(&copy, "-journal")] {
            let _ = std::fs::remove_file(left);
        }
        backup::copy(connection, &copy)?;
        let placed = std::fs::File::open(&copy).and_then(|file| file.sync_all()).and_then(|()| {
            let kept = self.set_aside()?;
            std::fs::rename(&copy, &self.database)?;
            sync_folder(&self.database)?;
            Ok(kept)
        });
        placed.map_err(|error| {
            let _ = std::fs::remove_file(&copy);
            failed(error)
        })
    }

    /// Keeps files that are not ours under another name. Our own log is removed: the copy contains its content, and SQLite would apply it
    /// to the copy. It is removed before the copy is put in place, so that the two never exist together.
    fn set_aside(&self) -> std::io::Result<Option<PathBuf>> {
        let there = identities(&self.database);
        let foreign = [0, 1, 2].map(|i| there[i].is_some() && there[i] != self.open[i]);
        // A log that somebody began beside our file is useful only with that file.
        let keep = [foreign.contains(&true) && there[0].is_some(), foreign[1], foreign[2]];
        let name = self.unused_name("replaced");
        for (i, suffix) in SUFFIXES.iter().enumerate().rev() {
            let (path, kept) = (beside(&self.database, suffix), beside(&name, suffix));
            if i == 0 && keep[0] {
                // Both names exist until the copy takes one of them; a link never overwrites. Folders, and
                // some file systems, do not support links.
                std::fs::hard_link(&path, &kept).or_else(|_| {
                    if kept.exists() { Err(taken(&kept)) } else { std::fs::rename(&path, &kept) }
                })?;
            } else if keep[i] {
                std::fs::rename(&path, &kept)?;
            } else if i > 0 && there[i].is_some() {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(keep.contains(&true).then_some(name))
    }

    /// The file was overwritten: our log does not belong to its new content, and would be applied to it at the next start.
    pub(super) fn set_log_aside(&self) -> std::io::Result<PathBuf> {
        let name = self.unused_name("overwritten");
        for suffix in &SUFFIXES[1..] {
            match std::fs::rename(beside(&self.database, suffix), beside(&name, suffix)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        sync_folder(&self.database)?;
        Ok(beside(&name, "-wal"))
    }

    /// An unused name beside the database.
    fn unused_name(&self, what: &str) -> PathBuf {
        let now = rfc3339(Clock::system().now()).replace(['-', ':'], "");
        let free =
            |name: &PathBuf| SUFFIXES.iter().all(|s| std::fs::symlink_metadata(beside(name, s)).is_err());
        let first = beside(&self.database, &format!(".{what}-{now}"));
        let mut names = (2..1000).map(|n| beside(&first, &format!("-{n}")));
        if free(&first) {
            first
        } else {
            names.find(free).unwrap_or_else(|| beside(&first, &Uuid::new_v4().to_string()))
        }
    }
}

fn taken(path: &Path) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::AlreadyExists, format!("{} already exists", path.display()))
}

fn identities(database: &Path) -> [Option<Identity>; 3] {
    SUFFIXES.map(|suffix| std::fs::metadata(beside(database, suffix)).ok().map(|m| (m.dev(), m.ino())))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = std::fs::metadata(path).ok()?;
    Some(Stamp { identity: (m.dev(), m.ino()), length: m.len(), modified: (m.mtime(), m.mtime_nsec()) })
}

/// The mark in the file itself, without its log: `immutable` reads only the file and takes no lock (<https://sqlite.org/uri.html>). SQLite
/// keeps the locks of this process when it closes the file, which a plain read would lose.
fn imprint_in(database: &Path) -> rusqlite::Result<Option<String>> {
    let mut url =
        url::Url::from_file_path(database).map_err(|()| rusqlite::Error::InvalidPath(database.to_owned()))?;
    url.set_query(Some("immutable=1"));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(url.as_str(), flags)?;
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [IMPRINT], |row| row.get(0)).optional()
}

/// Errors about this process, not about the file.
fn is_ours(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::InvalidPath(_))
        || matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::CannotOpen
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::DatabaseBusy
            )
        )
}
