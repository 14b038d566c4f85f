//! Copies of a database.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::locks::CommandLock;
use super::{StoreError, beside};

fn unusable(what: &str, e: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unusable(format!("{what}: {e}"))
}

/// The key in the table `meta` of the mark by which the files of an open database are recognised. No copy has it.
pub(super) const IMPRINT: &str = "imprint";

/// Writes everything that a connection sees into a new file, readable for its owner only. A copy that fails is removed.
pub(super) fn copy(connection: &Connection, copy: &Path) -> Result<(), StoreError> {
    let shown = copy.display();
    // SQLite writes into an existing file only if it is empty.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(copy)
        .map_err(|e| unusable(&format!("cannot create {shown}"), &e))?;
    let path = copy.to_str().ok_or_else(|| unusable(&shown.to_string(), &"the path must be UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [path]).map(drop).map_err(|e| {
        let _ = std::fs::remove_file(copy);
        unusable(&format!("cannot copy the database to {shown}"), &e)
    })
}

/// Copies a database completely, even while a daemon is using it. The copy is readable for its owner only.
///
/// # Errors
/// The database cannot be read, or the file exists or cannot be written.
pub fn backup(database: &Path, file: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let _lock = CommandLock::share(database)?;
    let connection = Connection::open_with_flags(database, flags)
        .and_then(|c| c.busy_timeout(Duration::from_secs(10)).map(|()| c))
        .map_err(|e| unusable(&format!("cannot open the database {}", database.display()), &e))?;
    copy(&connection, file)?;
    // If the copy replaces the open database, it must be recognised as another one. The copy is complete even
    // with the mark.
    let _ = Connection::open_with_flags(file, flags)
        .and_then(|c| c.execute("DELETE FROM meta WHERE key = ?1", [IMPRINT]));
    Ok(())
}

/// Writes a copy to a stream. The copy is first written beside the database, because there is room for it and a container may write there.
/// It is unlinked before it is read; a program that is killed before that leaves it behind.
///
/// # Errors
/// The database cannot be read, there is no room for a copy, or writing to the stream fails.
pub fn write_backup(database: &Path, stream: &mut impl std::io::Write) -> Result<(), StoreError> {
    let copy = beside(database, &format!(".backup-{}", std::process::id()));
    // In a container, an earlier process may have had this id.
    for left in [&copy, &beside(&copy, "-journal")] {
        let _ = std::fs::remove_file(left);
    }
    backup(database, &copy)?;
    let opened = File::open(&copy);
    let _ = std::fs::remove_file(&copy);
    opened
        .and_then(|mut file| std::io::copy(&mut file, stream))
        .and_then(|_| stream.flush())
        .map_err(|e| StoreError::Unusable(format!("cannot write the copy: {e}")))
}
