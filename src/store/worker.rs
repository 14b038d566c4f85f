//! The threads of the store. One writes, and commits together what arrives together; the other one reads, because readers need not wait for
//! a writer (<https://sqlite.org/wal.html>).
//!
//! If another process has locked the database, the writer waits up to a limit and logs this. Between two groups of writes it checks whether
//! the files are still in place, and restores them.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::OwnedSemaphorePermit;

use super::files::{Files, Finding, remove_beside};
use super::key::{self, Key};
use super::key_file;
use super::locks::{CommandLock, DaemonLock};
use super::{Observer, StoreError, StoreHealth, connect_reader, connect_writer};

/// Maximum number of writes that are committed together.
pub(super) const GROUP: usize = 256;

/// Interval between checks of the files.
const LOOK: Duration = Duration::from_secs(1);

/// How long one attempt to begin a transaction waits for another process; then this is logged, and the next attempt follows.
const STEP: Duration = Duration::from_secs(1);

/// How long a write waits for another process in total.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a read waits; a page is better shown without this part.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed restore, so that a full disk is not filled every second.
const RESTORE_PAUSE: Duration = Duration::from_secs(10);

/// How long to wait for a command that has the lost file open: its writes would be lost with that file.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(40);

/// Work on a thread of the store; the function that it returns is called with the result of the commit.
pub(super) type Work = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Completion + Send>;

pub(super) type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The durability that a job needs. A probe that repeats every few minutes is not worth a disk sync; a change that somebody is notified of
/// is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes nothing.
    Read,
    /// Survives the end of this process.
    Relaxed,
    /// Survives a power cut.
    Durable,
    /// The last job: the database is closed.
    Last,
}

/// A job, and its place in the queue, which is released when the job is done.
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) work: Work,
    pub(super) asked: Instant,
    #[expect(dead_code, reason = "held for its place, which is released with it")]
    pub(super) place: OwnedSemaphorePermit,
}

/// Shared by the handles and the threads.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) observer: OnceLock<Observer>,
    pub(super) lock: OnceLock<DaemonLock>,
    health: AtomicU8,
}

impl Shared {
    /// Reports an error of the database, or a wait for it.
    pub(super) fn failed(&self) {
        if let Some(observer) = self.observer.get() {
            observer();
        }
    }

    pub(super) fn health(&self) -> StoreHealth {
        match self.health.load(Ordering::Relaxed) {
            0 => StoreHealth::Well,
            1 => StoreHealth::Displaced,
            2 => StoreHealth::Contested,
            _ => StoreHealth::Overwritten,
        }
    }

    fn set_health(&self, health: StoreHealth) {
        let number = match health {
            StoreHealth::Well => 0,
            StoreHealth::Displaced => 1,
            StoreHealth::Contested => 2,
            StoreHealth::Overwritten => 3,
        };
        self.health.store(number, Ordering::Relaxed);
    }
}

/// What the store holds as long as the database is open.
pub(super) enum Role {
    /// A daemon checks the files.
    Daemon(Files),
    /// A command excludes a rotation of the key.
    Command(CommandLock),
}

/// A message to the reading thread.
pub(super) enum Message {
    Read(Job),
    /// Replaces the connection.
    Switch(Box<Connection>),
    Last,
}

/// Starts both threads. They end when the last handle is dropped, or with a job of [`Kind::Last`].
pub(super) fn start(
    writer: Connection,
    reader: Connection,
    key: &Key,
    role: Role,
    shared: Arc<Shared>,
) -> std::io::Result<(Sender<Job>, Sender<Message>)> {
    let (writes, inbox) = channel();
    let (reads, read_inbox) = channel();
    let reading = Reader { connection: reader, locked: Episode::new("reads"), shared: Arc::clone(&shared) };
    let reader = spawn("store-reader", move || reading.serve(&read_inbox))?;
    let (files, command) = match role {
        Role::Daemon(files) => (Some(files), None),
        Role::Command(lock) => (None, Some(lock)),
    };
    let fingerprint = key::fingerprint(key);
    let mut writer = Writer {
        connection: writer,
        inbox,
        reads: reads.clone(),
        files,
        fingerprint,
        shared,
        synced: true,
        locked: Episode::new("writes"),
        lost: None,
    };
    spawn("store", move || {
        let last = writer.serve();
        writer.close(reader);
        drop(writer);
        drop(command);
        if let Some(job) = last {
            (job.work)(Err(StoreError::Closed))(Ok(()));
        }
    })?;
    Ok((writes, reads))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(512 * 1024).spawn(work)
}

/// A time in which another process has locked the database: its begin and its end are logged.
struct Episode {
    what: &'static str,
    since: Option<Instant>,
}

impl Episode {
    fn new(what: &'static str) -> Self {
        Self { what, since: None }
    }

    fn goes_on(&mut self, asked: Instant, shared: &Shared) {
        if self.since.is_none() {
            self.since = Some(asked);
            shared.failed();
            let (what, waited_ms) = (self.what, asked.elapsed().as_millis());
            tracing::warn!(waited_ms, "another process has locked the database; {what} wait");
        }
    }

    fn ends(&mut self) {
        if let Some(since) = self.since.take() {
            let (what, waited_ms) = (self.what, since.elapsed().as_millis());
            tracing::warn!(waited_ms, "the database is unlocked again; {what} continue");
        }
    }
}

pub(super) fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

struct Reader {
    connection: Connection,
    locked: Episode,
    shared: Arc<Shared>,
}

impl Reader {
    fn serve(mut self, inbox: &Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Read(job) => {
                    let usable = self.usable(job.asked);
                    (job.work)(usable.map(|()| &self.connection))(Ok(()));
                }
                Message::Switch(connection) => self.connection = *connection,
                Message::Last => return,
            }
        }
    }

    /// Waits until the database can be read, up to the limit for this request.
    fn usable(&mut self, asked: Instant) -> Result<(), StoreError> {
        reject_overwritten(&self.shared)?;
        // A request that was queued for long may still wait briefly, unless the database is known to be
        // locked.
        let least = if self.locked.since.is_some() { Duration::ZERO } else { READ_TIMEOUT / 5 };
        self.connection.busy_timeout(READ_TIMEOUT.saturating_sub(asked.elapsed()).max(least))?;
        match self.connection.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0)) {
            Ok(_) => {
                self.locked.ends();
                Ok(())
            }
            Err(error) => {
                if is_locked(&error) {
                    self.locked.goes_on(asked, &self.shared);
                }
                Err(error.into())
            }
        }
    }
}

/// Files that are not in place.
struct Lost {
    since: Instant,
    /// When the next attempt follows.
    next: Instant,
    /// Whether they were restored; one more check has to confirm it.
    restored: bool,
    /// The last logged message.
    logged: String,
}

struct Writer {
    connection: Connection,
    inbox: Receiver<Job>,
    reads: Sender<Message>,
    files: Option<Files>,
    fingerprint: String,
    shared: Arc<Shared>,
    synced: bool,
    locked: Episode,
    lost: Option<Lost>,
}

impl Writer {
    /// Works until the last handle is dropped, or until the last job, which it returns.
    fn serve(&mut self) -> Option<Job> {
        let mut waiting: Option<Job> = None;
        let mut looked = Instant::now();
        // A job may have waited while the database was opened.
        let _ = self.connection.busy_timeout(STEP);
        loop {
            let next = waiting.take().map_or_else(|| self.inbox.recv_timeout(LOOK), Ok);
            match &next {
                Ok(job) if job.kind == Kind::Last => return next.ok(),
                Err(RecvTimeoutError::Disconnected) => return None,
                _ => {}
            }
            if looked.elapsed() >= LOOK {
                self.look(false);
                looked = Instant::now();
            }
            if let Ok(job) = next {
                waiting = self.group(job);
            }
        }
    }

    /// The reader is closed first: the last connection that is closed checkpoints the log.
    fn close(&mut self, reader: JoinHandle<()>) {
        self.look(true);
        let _ = self.reads.send(Message::Last);
        let _ = reader.join();
    }

    /// Runs one transaction. Returns the job that has to wait for the next one.
    fn group(&mut self, first: Job) -> Option<Job> {
        let durable = first.kind == Kind::Durable;
        if durable != self.synced {
            // In WAL mode NORMAL keeps the database consistent and syncs at checkpoints only; FULL syncs
            // every commit.
            let _ =
                self.connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" });
            self.synced = durable;
        }
        let mut outcome = self.begin();
        let mut completions: Vec<Completion> = Vec::new();
        let (mut next, mut waiting) = (Some(first), None);
        while let Some(job) = next.take() {
            if job.kind == Kind::Last || (job.kind == Kind::Durable && !durable) {
                waiting = Some(job);
                break;
            }
            // Outside a transaction a savepoint would commit by itself: then no job is run.
            let usable = outcome.as_ref().map(|()| &self.connection).map_err(Clone::clone);
            completions.push((job.work)(usable));
            if outcome.is_ok() && self.connection.is_autocommit() {
                // SQLite rolls everything back by itself if the disk is full or fails.
                outcome = Err(StoreError::Database(
                    "the transaction was rolled back; is the disk full?".to_owned(),
                ));
            }
            if completions.len() < GROUP {
                next = self.inbox.try_recv().ok();
            }
        }
        let outcome = outcome.and_then(|()| commit(&self.connection));
        if outcome.is_err() && self.locked.since.is_none() && self.shared.health() != StoreHealth::Overwritten
        {
            // If the disk is full because of our own log, this frees the space.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        if let Some(files) = &mut self.files {
            files.written();
        }
        completions.into_iter().for_each(|complete| complete(outcome.clone()));
        waiting
    }

    /// Begins a transaction; if another process has locked the database, waits up to a limit.
    fn begin(&mut self) -> Result<(), StoreError> {
        reject_overwritten(&self.shared)?;
        if self.shared.lock.get().is_some() && self.files.as_mut().is_some_and(Files::overwritten) {
            self.stop_writing();
            reject_overwritten(&self.shared)?;
        }
        // For a lock that is already known, a write makes one attempt only; ten seconds each would stop every
        // probe.
        let asked = self.locked.since.unwrap_or_else(Instant::now);
        loop {
            let attempt = Instant::now();
            match self.connection.execute_batch("BEGIN IMMEDIATE") {
                Ok(()) => break,
                Err(error) if is_locked(&error) && asked.elapsed() < WRITE_TIMEOUT => {
                    // SQLite does not wait if it detects that waiting cannot help.
                    std::thread::sleep((STEP / 20).saturating_sub(attempt.elapsed()));
                    if asked.elapsed() >= STEP {
                        self.locked.goes_on(asked, &self.shared);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.locked.ends();
        // Nothing is encrypted with a replaced key, even if somebody removed the locks that prevent this.
        match key_file::mark(&self.connection) {
            Ok(Some(mark)) if mark != self.fingerprint => {
                let _ = self.connection.execute_batch("ROLLBACK");
                Err(StoreError::Database(
                    "the encryption key was replaced while this process was running; restart it".to_owned(),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks the files, if this process may: it has the daemon's lock. At the end of the process it waits for nobody.
    fn look(&mut self, end: bool) {
        let (Some(files), Some(lock)) = (&mut self.files, self.shared.lock.get()) else { return };
        let contested = lock.renew().err();
        if self.shared.health() == StoreHealth::Overwritten {
            return;
        }
        if files.overwritten() {
            return self.stop_writing();
        }
        match (files.look(), contested) {
            (Finding::Displaced(what), _) => self.put_back(what, end),
            (Finding::InPlace, Some(error)) => {
                if self.shared.health() != StoreHealth::Contested {
                    tracing::error!(%error, "the lock of the database is lost; a second daemon on one database damages the data of both");
                }
                self.shared.set_health(StoreHealth::Contested);
            }
            (Finding::InPlace, None) => {
                if self.shared.health() != StoreHealth::Well {
                    tracing::info!("the files of the database are in place again");
                }
                self.lost = None;
                self.shared.set_health(StoreHealth::Well);
            }
        }
    }

    fn put_back(&mut self, what: &'static str, end: bool) {
        let Some(files) = &self.files else { return };
        let now = Instant::now();
        self.shared.set_health(StoreHealth::Displaced);
        let lost = self.lost.get_or_insert_with(|| Lost {
            since: now,
            next: now,
            restored: false,
            logged: String::new(),
        });
        if lost.logged.is_empty() || lost.restored {
            self.shared.failed();
            what.clone_into(&mut lost.logged);
            // Lost again immediately after a restore: on a file system with unstable inodes this would never
            // end.
            let next = if lost.restored { now + RESTORE_PAUSE } else { now };
            (lost.restored, lost.since, lost.next) = (false, now, next);
            tracing::error!(
                file = %files.database().display(),
                "{what} while it was in use; it is restored from what is still open. To restore a backup, stop the daemon, put the backup in the place of the database, remove the files -wal and -shm beside it, and start the daemon"
            );
        }
        if now < lost.next && !end {
            return;
        }
        // A command that still uses the old file may finish.
        let command = CommandLock::attempt(files.database());
        if matches!(command, Ok(None)) && lost.since.elapsed() < COMMAND_TIMEOUT && !end {
            return;
        }
        let restored = files.restore(&self.connection).and_then(|kept| {
            let connection = connect_writer(files.database())?;
            connection.busy_timeout(STEP)?;
            Ok((
                kept,
                Files::of(files.database(), &connection)?,
                connect_reader(files.database())?,
                connection,
            ))
        });
        drop(command);
        match restored {
            Ok((kept, files, reader, writer)) => {
                tracing::warn!(
                    file = %files.database().display(),
                    kept = kept.map(|path| path.display().to_string()),
                    "the database is restored; a file that was put in its place is kept under another name"
                );
                // Only now, because a copy may have been the only one left.
                remove_beside(files.database(), ".restoring-");
                (self.connection, self.files, self.synced) = (writer, Some(files), true);
                let _ = self.reads.send(Message::Switch(Box::new(reader)));
                lost.restored = true;
            }
            Err(error) => {
                let text = error.to_string();
                if lost.logged != text {
                    self.shared.failed();
                    tracing::error!(%error, "the database cannot be restored yet; what is written meanwhile is lost if this process ends");
                }
                (lost.logged, lost.next) = (text, now + RESTORE_PAUSE);
            }
        }
    }

    /// Another database was written into the open file. The old content is gone, and the new content is not ours to write into.
    fn stop_writing(&mut self) {
        let Some(files) = &self.files else { return };
        self.shared.set_health(StoreHealth::Overwritten);
        self.shared.failed();
        // Closing would checkpoint our log into the new content.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        let log = files
            .set_log_aside()
            .map(|path| path.display().to_string())
            .unwrap_or_else(|error| error.to_string());
        tracing::error!(
            file = %files.database().display(),
            log,
            "the database was overwritten in place while it was in use, and cannot be restored; nothing is saved any more. Restart the daemon to continue with the new content. To restore a backup, stop the daemon first"
        );
    }
}

fn reject_overwritten(shared: &Shared) -> Result<(), StoreError> {
    if shared.health() == StoreHealth::Overwritten {
        return Err(StoreError::Database(
            "the file was overwritten while it was in use; restart consentry".to_owned(),
        ));
    }
    Ok(())
}

fn commit(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("COMMIT").map_err(|error| {
        // A transaction that stays open would include later jobs.
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        StoreError::from(error)
    })
}
