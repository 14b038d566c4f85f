//! The embedded store: states, alerts, events, notifications, encrypted refresh tokens. SQLite behind one narrow interface.
//!
//! One thread owns the connection. Writes that arrive together are committed together, each behind a savepoint of its
//! own. A write is answered only after its commit: what the store confirms survives `kill -9`, and where somebody is told
//! because of it, a power cut.
//!
//! Several processes may have one database open (`import-token` beside the daemon); only one daemon may, which the lock
//! file beside the database ensures.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

mod authorizations;
mod deliveries;
mod key;
mod notifications;
mod revocations;
mod rotation;
mod rows;
mod states;
mod tokens;

pub use authorizations::{
    Announcement, Authorization, LastReauthentication, LinkStamp, NewAuthorization, Quota, RenewedToken, Stage, Success, Unproved,
};
pub use deliveries::{DeliveryState, NewDelivery, WaitingDelivery};
pub use key::Key;
pub use notifications::{MailAbout, Queued};
pub use revocations::LinksState;
pub use rotation::{Rotated, rotate_key};
pub use states::{Cause, CauseChange, Event, OpenAlert, ProbeRecord, SavedIntegration};
pub use tokens::{StoredToken, TokenId};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_reauthentication.sql"),
    include_str!("migrations/0003_mails_about.sql"),
    include_str!("migrations/0004_suspended.sql"),
    include_str!("migrations/0007_reauthentications.sql"),
];

/// So many writes are committed together at most.
const GROUP: usize = 256;

/// Why the store cannot do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("database: {0}")]
    Database(String),
    /// A row was encrypted with another key, or changed from outside. The database itself is well.
    #[error("{0}")]
    Damaged(String),
    /// The database cannot be opened as it is; the text says how to go on.
    #[error("{0}")]
    Unusable(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// Work on the store's thread; what it returns is called with the fate of the commit.
type Work = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Completion + Send>;

/// What a job asks of its commit. What a probe merely repeats every few minutes is not worth a disk sync each; what somebody is
/// told because of it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: it changes nothing.
    Read,
    /// To survive the end of this process.
    Relaxed,
    /// To survive a power cut.
    Durable,
    /// Nothing comes after it: the database is closed.
    Last,
}

struct Job {
    kind: Kind,
    work: Work,
}

type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Is told of everything that the database refuses.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

/// A handle. Cheap to clone; the last one to go closes the database.
#[derive(Clone)]
pub struct Store {
    jobs: SyncSender<Job>,
    key: Key,
    observer: Option<Observer>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Held by the one daemon on a database.
#[derive(Debug)]
pub struct DaemonLock(#[expect(dead_code, reason = "held for its lock, which ends with it")] File);

impl DaemonLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another daemon holds it, or the file cannot be made.
    pub fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database, ".lock");
        let unusable = |e: &dyn std::fmt::Display| StoreError::Unusable(format!("cannot lock {}: {e}", path.display()));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| unusable(&e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
                "another consentry is running on {}; stop it first, or give this one a database of its own",
                database.display()
            ))),
            Err(TryLockError::Error(error)) => Err(unusable(&error)),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Store {
    /// Opens or creates a database and the key beside it.
    ///
    /// # Errors
    /// The database is newer than this program, damaged, or encrypted with another key; the text says how to go on.
    pub fn open(database: &Path, key_file: &Path) -> Result<Self, StoreError> {
        // A new one is readable for its owner only, whatever the umask; SQLite gives its log the same mode. One that is there is not opened
        // here: closing a file ends the locks that this process has on it.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(database) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())));
            }
            _ => key::warn_if_open(database, "the database"),
        }
        let connection = Connection::open(database)
            .and_then(|c| prepare(&c).map(|()| c))
            .map_err(|e| StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())))?;
        migrate(&connection, database)?;
        let key = key::load_or_create(&connection, key_file)?;
        let (jobs, inbox) = sync_channel(4 * GROUP);
        std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                let last = serve(&connection, &inbox);
                drop(connection);
                if let Some(job) = last {
                    (job.work)(Err(StoreError::Closed))(Ok(()));
                }
            })
            .map_err(|e| StoreError::Unusable(format!("cannot start the store's thread: {e}")))?;
        Ok(Self { jobs, key, observer: None })
    }

    /// The same store, of whose failures somebody is told from now on.
    #[must_use]
    pub fn observed(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Closes the database once everything that was asked before is done: its log is folded in, and the one file is whole.
    pub async fn close(&self) {
        // Its answer is that the store is closed.
        let _ = self.run(Kind::Last, |_| Ok(())).await;
    }

    /// The key, for signing links.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Runs a job in a transaction, which it may share with others, and waits until its commit is on disk.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Kind::Durable, work).await
    }

    /// Runs a job that changes nothing.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Kind::Read, work).await
    }

    /// The same for what survives the end of the process but need not survive a power cut.
    async fn write_relaxed<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Kind::Relaxed, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let result = connection.and_then(|c| isolated(c, work));
            Box::new(move |committed| {
                // A caller that stopped waiting has no use for the answer.
                // What was read is true, whatever became of the others' writes.
                let _ = reply.send(if kind == Kind::Read { result } else { committed.and(result) });
            })
        });
        let (jobs, job) = (self.jobs.clone(), Job { kind, work });
        // The channel is full only while the disk is slower than the probes; then waiting here is the right brake.
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
            Err(std::sync::mpsc::TrySendError::Full(job)) => {
                tokio::task::spawn_blocking(move || jobs.send(job))
                    .await
                    .map_err(|_| StoreError::Closed)?
                    .map_err(|_| StoreError::Closed)?;
            }
        }
        let result = answer.await.map_err(|_| StoreError::Closed)?;
        if let (Err(StoreError::Database(_)), Some(observer)) = (&result, &self.observer) {
            observer();
        }
        result
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.pragma_update(None, "wal_autocheckpoint", 256)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn migrate(connection: &Connection, database: &Path) -> Result<(), StoreError> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        connection.execute_batch("ROLLBACK")?;
        return Err(StoreError::Unusable(format!(
            "{} was written by a newer consentry (schema {version}, this one knows {}); run the newer version or restore a backup",
            database.display(),
            MIGRATIONS.len()
        )));
    }
    for migration in &MIGRATIONS[version..] {
        connection.execute_batch(migration)?;
    }
    connection.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// One job behind a savepoint: its failure leaves the others' work alone.
fn isolated<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end)?;
    result
}

/// Works until there is nobody left to ask for anything, or until the job after which nothing comes, which it answers.
fn serve(connection: &Connection, inbox: &Receiver<Job>) -> Option<Job> {
    let mut waiting: Option<Job> = None;
    let mut synced = true;
    while let Some(first) = waiting.take().or_else(|| inbox.recv().ok()) {
        if first.kind == Kind::Last {
            return Some(first);
        }
        let durable = first.kind == Kind::Durable;
        if durable != synced {
            // In WAL mode NORMAL keeps the database whole and syncs at checkpoints only; FULL syncs every commit.
            let _ = connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" });
            synced = durable;
        }
        let mut fate = connection.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
        let mut completions: Vec<Completion> = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            if job.kind == Kind::Last || (job.kind == Kind::Durable && !durable) {
                waiting = Some(job);
                break;
            }
            // Outside a transaction a savepoint would commit by itself: then no job is run.
            let usable = if job.kind == Kind::Read { Ok(connection) } else { fate.as_ref().map(|()| connection).map_err(Clone::clone) };
            completions.push((job.work)(usable));
            if fate.is_ok() && connection.is_autocommit() {
                // SQLite rolls everything back by itself when the disk is full or fails.
                fate = Err(StoreError::Database("the transaction was rolled back; is the disk full?".to_owned()));
            }
            if completions.len() < GROUP {
                next = inbox.try_recv().ok();
            }
        }
        let fate = fate.and_then(|()| commit(connection));
        if fate.is_err() {
            // A disk that is full of our own log gets it back.
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        completions.into_iter().for_each(|complete| complete(fate.clone()));
    }
    None
}

/// A copy of a database, whole, while a daemon may be at work on it. The copy is readable for its owner only.
///
/// # Errors
/// The database cannot be read, or the file is there already or cannot be written.
pub fn backup(database: &Path, copy: &Path) -> Result<(), StoreError> {
    let unusable = |what: &str, e: &dyn std::fmt::Display| StoreError::Unusable(format!("{what}: {e}"));
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|c| c.busy_timeout(std::time::Duration::from_secs(10)).map(|()| c))
        .map_err(|e| unusable(&format!("cannot open the database {}", database.display()), &e))?;
    let shown = copy.display();
    // SQLite writes into a file that is there only if it is empty.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy).map_err(|e| unusable(&format!("cannot create {shown}"), &e))?;
    let path = copy.to_str().ok_or_else(|| unusable(&shown.to_string(), &"the path must be UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [path]).map(drop).map_err(|e| {
        let _ = std::fs::remove_file(copy);
        unusable(&format!("cannot copy the database to {shown}"), &e)
    })
}

/// The same, written to a stream. The copy lies beside the database meanwhile, because that is where there is room for one and where a
/// container may write. It loses its name before it is read; a program that is killed meanwhile leaves it behind.
///
/// # Errors
/// The database cannot be read, there is no room for a copy, or the stream takes no more.
pub fn write_backup(database: &Path, stream: &mut impl std::io::Write) -> Result<(), StoreError> {
    let copy = beside(database, &format!(".backup-{}", std::process::id()));
    // In a container, another process had this number before.
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

fn commit(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("COMMIT").map_err(|error| {
        // A transaction left behind would swallow what comes later.
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        StoreError::from(error)
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
