//! The embedded store: states, alerts, events, notifications, encrypted refresh tokens. SQLite behind one narrow interface.
//!
//! One thread owns the connection that writes. Writes that arrive together are committed together, each behind a savepoint of its
//! own. A write is answered only after its commit: what the store confirms survives `kill -9`, and where somebody is told
//! because of it, a power cut. Another thread reads, so that no page waits for a write.
//!
//! Several processes may have one database open (`import-token` beside the daemon); only one daemon may, and nobody beside a rotation of
//! the key: `locks` sees to that. `files` and `worker` look after the files of an open database.

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
mod deliveries;
mod files;
mod key;
mod key_file;
mod locks;
mod notifications;
mod revocations;
mod rotation;
mod rows;
mod states;
mod tokens;
mod worker;

pub use authorizations::{
    Announcement, Authorization, LastReauthentication, LinkStamp, NewAuthorization, Quota, RenewedToken,
    Stage, Success, Unverified,
};
pub use backup::{backup, write_backup};
pub use deliveries::{DeliveryState, NewDelivery, WaitingDelivery};
pub use key::Key;
pub use locks::DaemonLock;
pub use notifications::{FailedAttempt, MailAbout, OtherMails, Queued};
pub use revocations::LinksState;
pub use rotation::{Rotated, rotate_key};
pub use states::{Event, ProbeRecord, SavedIntegration};
pub use tokens::{StoredToken, TokenId};

use locks::CommandLock;
use worker::{Custody, GROUP, Job, Kind, Message, Shared, Work};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_reauthentication.sql"),
    include_str!("migrations/0003_mails_about.sql"),
    include_str!("migrations/0004_suspended.sql"),
    include_str!("migrations/0005_mail_attempts.sql"),
    include_str!("migrations/0006_reauthentications.sql"),
    include_str!("migrations/0007_causes.sql"),
];

/// So many jobs wait for a thread at most; whoever comes then waits for a place.
const QUEUE: usize = 4 * GROUP;

/// While a database is opened, another process is waited for so long.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// A command waits so long for what another one may be making.
const MAKING: Duration = Duration::from_secs(1);

/// Why the store cannot do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("database: {0}")]
    Database(String),
    /// A row was encrypted with another key, or changed from outside. The database itself is well; the text says whose row it is.
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

/// Is told of everything that the database refuses.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

/// Whether the files of the database are what and where they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// They are.
    Well,
    /// One was deleted or replaced, and is about to be restored.
    Displaced,
    /// Another daemon has taken the lock, which was removed.
    Contested,
    /// Another database was written into the open file. Nothing is saved any more.
    Overwritten,
}

impl StoreHealth {
    /// What is wrong, in a sentence; nothing when all is well.
    pub fn problem(self) -> Option<&'static str> {
        match self {
            Self::Well => None,
            Self::Displaced => Some("The database file is not in its place; it is being restored."),
            Self::Contested => Some("Another daemon has the lock of the database."),
            Self::Overwritten => {
                Some("The database was overwritten while it was in use; start Consentry again.")
            }
        }
    }
}

/// What a process may do to a database that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// Everything: no other process can be about to do the same.
    Daemon,
    /// A command while no daemon runs: makes what was never there, and replaces nothing.
    Alone,
    /// A command beside a daemon: uses what is there.
    Beside,
}

/// A handle. Cheap to clone; the last one to go closes the database.
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

/// A new name in a folder survives a power cut only once the folder is on disk, too.
fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

impl Store {
    /// Opens or creates a database and the key beside it, for a daemon, which has its lock.
    ///
    /// # Errors
    /// The database is newer than this program, damaged, or encrypted with another key; the text says how to go on.
    pub fn open(database: &Path, key_file: &Path) -> Result<Self, StoreError> {
        let (connection, key) = connect(database, key_file, Rights::Daemon)?;
        let files = files::Files::of(database, &connection)?;
        Self::start(database, connection, key, Custody::Daemon(files))
    }

    /// Opens a database for a command, which may work beside a daemon and beside other commands. It makes database and key only when
    /// neither is there and no daemon runs.
    ///
    /// # Errors
    /// As for [`Store::open`]; the key is being replaced; a daemon runs and what it uses is gone.
    pub fn open_for_command(database: &Path, key_file: &Path) -> Result<Self, StoreError> {
        let lock = CommandLock::share(database)?;
        let begun = Instant::now();
        loop {
            let daemon = DaemonLock::attempt(database)?;
            let rights = if daemon.is_some() { Rights::Alone } else { Rights::Beside };
            match connect(database, key_file, rights) {
                // Another command may be making what this one needs.
                Err(_) if rights == Rights::Beside && begun.elapsed() < MAKING => {
                    std::thread::sleep(MAKING / 20);
                }
                connected => {
                    let (connection, key) = connected?;
                    return Self::start(database, connection, key, Custody::Command(lock));
                }
            }
        }
    }

    fn start(
        database: &Path,
        connection: Connection,
        key: Key,
        custody: Custody,
    ) -> Result<Self, StoreError> {
        let reader = connect_reader(database)?;
        let shared = Arc::<Shared>::default();
        let (writes, reads) = worker::start(connection, reader, &key, custody, Arc::clone(&shared))
            .map_err(|e| StoreError::Unusable(format!("cannot start a thread of the store: {e}")))?;
        let [write_places, read_places] = [(); 2].map(|()| Arc::new(Semaphore::new(QUEUE)));
        Ok(Self { writes, reads, write_places, read_places, key, shared, unsaved: Arc::default() })
    }

    /// The same store, of whose failures somebody is told from now on.
    #[must_use]
    pub fn observed(self, observer: Observer) -> Self {
        // Whoever came first is told.
        let _ = self.shared.observer.set(observer);
        self
    }

    /// The daemon's lock is looked after with the files from now on.
    pub fn guard(&self, lock: DaemonLock) {
        let _ = self.shared.lock.set(lock);
    }

    /// Whether the files of the database are what and where they should be, as of the last look.
    pub fn health(&self) -> StoreHealth {
        self.shared.health()
    }

    /// Closes the database once everything that was asked before is done: its log is folded in, and the one file is whole.
    pub async fn close(&self) {
        self.save_unsaved().await;
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
        let asked = Instant::now();
        let places = if kind == Kind::Read { &self.read_places } else { &self.write_places };
        // All places are taken only while the disk is slower than the probes, or the database is locked; then waiting here is the right brake.
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

/// Opens a database, brings it up to date, and reads its key, as far as the rights go.
fn connect(database: &Path, key_file: &Path, rights: Rights) -> Result<(Connection, Key), StoreError> {
    match rights {
        Rights::Daemon | Rights::Alone => make_file(database)?,
        Rights::Beside if !database.exists() => {
            return Err(StoreError::Unusable(format!(
                "the database {} is gone while a daemon is at work on it; the daemon restores it within seconds, then try again",
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

/// A new one is readable for its owner only, whatever the umask; SQLite gives its log the same mode. One that is there is not opened
/// here: closing a file ends the locks that this process has on it.
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

/// A connection to a file that is there.
fn connect_writer(database: &Path) -> Result<Connection, StoreError> {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|c| prepare(&c).map(|()| c))
        .map_err(|e| StoreError::Unusable(format!("cannot open the database {}: {e}", database.display())))
}

/// The same for reading. The last connection that is closed folds the log in; that is the other one.
fn connect_reader(database: &Path) -> Result<Connection, StoreError> {
    let connection = connect_writer(database)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(OPEN_PATIENCE)?;
    let begun = Instant::now();
    // SQLite waits for nobody who changes the mode in the same moment.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if !worker::is_locked(&error) || begun.elapsed() >= OPEN_PATIENCE {
            return Err(error);
        }
        std::thread::sleep(OPEN_PATIENCE / 400);
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What a token was encrypted to before is not to be found in free pages.
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
    // Another process may have been faster.
    for migration in MIGRATIONS.get(schema()?..).unwrap_or_default() {
        connection.execute_batch(migration)?;
    }
    if schema()? < MIGRATIONS.len() {
        connection.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// One job behind a savepoint: its failure leaves the others' work alone.
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
