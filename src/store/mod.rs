//! The embedded store: states, alerts, events, notifications, encrypted refresh tokens, in SQLite.
//!
//! One thread owns the connection that writes. Writes that arrive together are committed together, each in its own savepoint. A write
//! returns only after its commit: what the store confirms survives `kill -9`, and, if it leads to a notification, also a power cut.
//! Another thread reads, so that no page waits for a write.
//!
//! Several processes may have one database open (`import-token` beside the daemon), but only one daemon, and no other process during a
//! rotation of the key: see `locks`. `files` and `worker` check the files of an open database.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

mod authorizations;
mod backup;
mod brake;
mod deliveries;
mod events;
mod files;
mod key;
mod key_file;
mod listed_rows;
mod locks;
mod notices;
mod notifications;
mod revocations;
mod rotation;
mod rows;
mod snoozes;
mod states;
mod tokens;
mod worker;

pub use authorizations::{
    Authorization, LastReauthentication, LinkStamp, NewAuthorization, Quota, RenewedToken, Stage, Success,
    Unverified,
};
pub use backup::{backup, write_backup};
pub use brake::SavedBrake;
pub use deliveries::{DeliveryState, NewDelivery, WaitingDelivery};
pub use events::{Event, EventQuery, FleetEvent};
pub use key::Key;
pub use locks::DaemonLock;
pub use notifications::{
    FailedAttempt, Group, MailAbout, MailWait, OtherMails, OutboxState, Queued, Shown, Thread,
};
pub use revocations::LinksState;
pub use rotation::{Rotated, rotate_key};
pub use states::{ProbeRecord, SavedIntegration};
pub use tokens::{StoredToken, TokenId};

use locks::CommandLock;
use worker::{GROUP, Job, Kind, Message, Role, Shared, Work};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_reauthentication.sql"),
    include_str!("migrations/0003_mails_about.sql"),
    include_str!("migrations/0004_suspended.sql"),
    include_str!("migrations/0005_mail_attempts.sql"),
    include_str!("migrations/0006_reauthentications.sql"),
    include_str!("migrations/0007_causes.sql"),
    include_str!("migrations/0008_grouped_mails.sql"),
    include_str!("migrations/0009_brake.sql"),
    include_str!("migrations/0010_snoozes.sql"),
    include_str!("migrations/0011_events_by_time.sql"),
];

/// Maximum number of jobs that wait for a thread; further callers wait for a place.
const QUEUE: usize = 4 * GROUP;

/// How long opening a database waits for another process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command waits for another one that may be creating the files.
const MAKING: Duration = Duration::from_secs(1);

/// Why the store cannot do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database returned an error.
    #[error("database: {0}")]
    Database(String),
    /// A row was encrypted with another key, or changed from outside. The database itself works; the text says whose row it is.
    #[error("{0}")]
    Damaged(String),
    /// The database cannot be opened as it is; the text says what to do.
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

/// Called for every error of the database.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

/// The state of the files of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// All are in place.
    Well,
    /// One was deleted or replaced, and is about to be restored.
    Displaced,
    /// The lock was removed, and another daemon has taken it.
    Contested,
    /// Another database was written into the open file. Nothing is saved any more.
    Overwritten,
}

impl StoreHealth {
    /// What is wrong, in a sentence; `None` if nothing is.
    pub fn problem(self) -> Option<&'static str> {
        match self {
            Self::Well => None,
            Self::Displaced => Some("The database file is not in its place; it is being restored."),
            Self::Contested => Some("Another daemon has the lock of the database."),
            Self::Overwritten => Some("The database was overwritten while it was in use; restart Consentry."),
        }
    }
}

/// What a process may do with a database that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// Everything, because no other process can do the same.
    Daemon,
    /// A command while no daemon runs: creates what never existed, and replaces nothing.
    Alone,
    /// A command beside a daemon: uses what exists.
    Beside,
}

/// A handle. Cheap to clone; dropping the last one closes the database.
#[derive(Clone)]
pub struct Store {
    writes: Sender<Job>,
    reads: Sender<Message>,
    write_places: Arc<Semaphore>,
    read_places: Arc<Semaphore>,
    key: Key,
    shared: Arc<Shared>,
    /// Rotated tokens that could not be saved yet.
    unsaved: Arc<Mutex<HashMap<TokenId, tokens::Unsaved>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A new name in a folder survives a power cut only after the folder is synced, too.
fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

impl Store {
    /// Opens or creates a database and the key beside it, for a daemon that holds its lock.
    ///
    /// # Errors
    /// The database is newer than this program, damaged, or encrypted with another key; the text says what to do.
    pub fn open(database: &Path, key_file: &Path) -> Result<Self, StoreError> {
        let (connection, key) = connect(database, key_file, Rights::Daemon)?;
        let files = files::Files::of(database, &connection)?;
        Self::start(database, connection, key, Role::Daemon(files))
    }

    /// Opens a database for a command, which may run beside a daemon and other commands. It creates database and key only if neither exists
    /// and no daemon runs.
    ///
    /// # Errors
    /// As for [`Store::open`]; the key is being replaced; a daemon runs and its files are missing.
    pub fn open_for_command(database: &Path, key_file: &Path) -> Result<Self, StoreError> {
        let lock = CommandLock::share(database)?;
        let begun = Instant::now();
        loop {
            let daemon = DaemonLock::attempt(database)?;
            let rights = if daemon.is_some() { Rights::Alone } else { Rights::Beside };
            match connect(database, key_file, rights) {
                // Another command may be creating the files.
                Err(_) if rights == Rights::Beside && begun.elapsed() < MAKING => {
                    std::thread::sleep(MAKING / 20);
                }
                connected => {
                    let (connection, key) = connected?;
                    return Self::start(database, connection, key, Role::Command(lock));
                }
            }
        }
    }

    fn start(database: &Path, connection: Connection, key: Key, role: Role) -> Result<Self, StoreError> {
        let reader = connect_reader(database)?;
        let shared = Arc::<Shared>::default();
        let (writes, reads) = worker::start(connection, reader, &key, role, Arc::clone(&shared))
            .map_err(|e| StoreError::Unusable(format!("cannot start a thread of the store: {e}")))?;
        let [write_places, read_places] = [(); 2].map(|()| Arc::new(Semaphore::new(QUEUE)));
        Ok(Self { writes, reads, write_places, read_places, key, shared, unsaved: Arc::default() })
    }

    /// The same store, with an observer of its errors.
    #[must_use]
    pub fn observed(self, observer: Observer) -> Self {
        // The first observer stays.
        let _ = self.shared.observer.set(observer);
        self
    }

    /// From now on, the daemon's lock is checked together with the files.
    pub fn guard(&self, lock: DaemonLock) {
        let _ = self.shared.lock.set(lock);
    }

    /// The state of the files of the database at the last check.
    pub fn health(&self) -> StoreHealth {
        self.shared.health()
    }

    /// Closes the database after everything that was requested before: its log is checkpointed, and only one file is left.
    pub async fn close(&self) {
        self.save_unsaved().await;
        // The result is always that the store is closed.
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

    /// As `write`, for changes that survive the end of the process but need not survive a power cut.
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
                // A caller that stopped waiting does not receive the result.
                // A read is valid, whatever happens to the writes of others.
                let _ = reply.send(if kind == Kind::Read { result } else { committed.and(result) });
            })
        });
        let asked = Instant::now();
        let places = if kind == Kind::Read { &self.read_places } else { &self.write_places };
        // All places are taken only while the disk is slower than the probes, or the database is locked; then
        // waiting here limits the load.
        let place = Arc::clone(places).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let job = Job { kind, work, asked, place };
        let sent = match kind {
            Kind::Read => self.reads.send(Message::Read(job)).is_ok(),
            Kind::Relaxed | Kind::Durable | Kind::Last => self.writes.send(job).is_ok(),
        };
        if !sent {
            return Err(StoreError::Closed);
        }
        let result = answer.await.map_err(|_| StoreError::Closed)?;
        if matches!(result, Err(StoreError::Database(_))) {
            self.shared.failed();
        }
        result
    }
}

/// Opens a database, migrates it, and reads its key, as far as the rights allow.
fn connect(database: &Path, key_file: &Path, rights: Rights) -> Result<(Connection, Key), StoreError> {
    match rights {
        Rights::Daemon | Rights::Alone => make_file(database)?,
        Rights::Beside if !database.exists() => {
            return Err(StoreError::Unusable(format!(
                "the database {} is gone while a daemon is using it; the daemon restores it within seconds, then try again",
                database.display()
            )));
        }
        Rights::Beside => {}
    }
    let connection = connect_writer(database)?;
    migrate(&connection, database, rights)?;
    let key = key_file::load_or_create(&connection, key_file, rights)?;
    Ok((connection, key))
}

/// A new file is readable for its owner only, whatever the umask; SQLite gives its log the same mode. An existing file is not opened here:
/// closing a file ends the locks that this process has on it.
fn make_file(database: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(database) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())))
        }
        _ => {
            key_file::warn_if_open(database, "the database");
            Ok(())
        }
    }
}

/// A connection to an existing file.
fn connect_writer(database: &Path) -> Result<Connection, StoreError> {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|c| prepare(&c).map(|()| c))
        .map_err(|e| StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())))
}

/// A connection for reading. The last connection that is closed checkpoints the log; that is the writing one.
fn connect_reader(database: &Path) -> Result<Connection, StoreError> {
    let connection = connect_writer(database)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(OPEN_TIMEOUT)?;
    let begun = Instant::now();
    // SQLite does not wait for another process that changes the mode at the same time.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if !worker::is_locked(&error) || begun.elapsed() >= OPEN_TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(OPEN_TIMEOUT / 400);
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Old ciphertexts of a token must not stay in free pages.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.pragma_update(None, "wal_autocheckpoint", 256)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn migrate(connection: &Connection, database: &Path, rights: Rights) -> Result<(), StoreError> {
    let schema = || -> rusqlite::Result<usize> {
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok(usize::try_from(version).unwrap_or(usize::MAX))
    };
    let version = schema()?;
    if version > MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "{} was written by a newer consentry (schema {version}, this one knows {}); run the newer version or restore a backup",
            database.display(),
            MIGRATIONS.len()
        )));
    }
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    if rights == Rights::Beside {
        return Err(StoreError::Unusable(format!(
            "{} is in use by a daemon of an older consentry; restart that daemon first",
            database.display()
        )));
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    // Another process may have migrated it meanwhile.
    for migration in MIGRATIONS.get(schema()?..).unwrap_or_default() {
        connection.execute_batch(migration)?;
    }
    if schema()? < MIGRATIONS.len() {
        connection.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Runs one job in a savepoint: its failure does not affect other jobs.
fn isolated<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end)?;
    result
}

#[cfg(test)]
mod migration_tests;
#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
