//! Which processes may have a database open: one daemon, with any number of commands; a rotation of the key excludes all others.
//!
//! Two files are beside the database. `.lock` is locked by the daemon, and briefly by a command that checks whether a daemon runs.
//! `.commands` is locked by every command, together with others (flock(2), shared), and exclusively by a rotation of the key.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{StoreError, beside};

/// A command holds the daemon's lock while it opens the database; a daemon waits this long for it.
const MOMENT: Duration = Duration::from_secs(1);

/// How long commands and a rotation wait for each other.
const LOCK_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

const PAUSE: Duration = Duration::from_millis(25);

/// Held by the only daemon on a database. Clones share the lock.
#[derive(Debug, Clone)]
pub struct DaemonLock(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// Held for its lock, which ends with it.
    file: Mutex<File>,
}

impl DaemonLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another daemon holds it, or the file cannot be created.
    pub fn take(database: &Path) -> Result<Self, StoreError> {
        let path = lock_file(database, ".lock");
        match within(MOMENT, || lock(&path, Mode::Alone))? {
            Some(file) => Ok(Self(Arc::new(Held { path, file: Mutex::new(file) }))),
            None => Err(StoreError::Unusable(format!(
                "another consentry is running on {}{}; stop it first, or give this one its own database",
                database.display(),
                holders(&path).map(|who| format!(": {who}")).unwrap_or_default()
            ))),
        }
    }

    /// The lock, if it is available at once.
    pub(super) fn attempt(database: &Path) -> Result<Option<Self>, StoreError> {
        let path = lock_file(database, ".lock");
        let file = lock(&path, Mode::Alone)?;
        Ok(file.map(|file| Self(Arc::new(Held { path, file: Mutex::new(file) }))))
    }

    /// A lock on a removed file excludes nobody: creates the file again, and locks it.
    ///
    /// # Errors
    /// Another daemon was faster, or the file cannot be created.
    pub(super) fn renew(&self) -> Result<(), StoreError> {
        let Held { path, file } = &*self.0;
        let mut file = file.lock();
        if is_at(&file, path) {
            return Ok(());
        }
        let Some(new) = lock(path, Mode::Alone)? else {
            let who = holders(path).map(|who| format!(": {who}")).unwrap_or_default();
            return Err(StoreError::Unusable(format!(
                "{} was removed, and another consentry has taken it{who}",
                path.display()
            )));
        };
        *file = new;
        tracing::warn!(file = %path.display(), "the lock of the database was removed; it was created again");
        Ok(())
    }
}

/// Held by a command while it has the database open.
#[derive(Debug)]
pub(super) struct CommandLock(#[expect(dead_code, reason = "held for its lock, which ends with it")] File);

impl CommandLock {
    /// Waits for the lock, shared with other commands.
    ///
    /// # Errors
    /// The encryption key is being replaced, or the file cannot be created.
    pub(super) fn share(database: &Path) -> Result<Self, StoreError> {
        Self::wait(database, Mode::Together)
    }

    /// Waits for the lock, without any other command.
    ///
    /// # Errors
    /// Another command holds it, or the file cannot be created.
    pub(super) fn alone(database: &Path) -> Result<Self, StoreError> {
        Self::wait(database, Mode::Alone)
    }

    /// The lock without any other command, if it is available at once.
    pub(super) fn attempt(database: &Path) -> Result<Option<Self>, StoreError> {
        Ok(lock(&lock_file(database, ".commands"), Mode::Alone)?.map(Self))
    }

    fn wait(database: &Path, mode: Mode) -> Result<Self, StoreError> {
        let path = lock_file(database, ".commands");
        match within(LOCK_TIMEOUT, || lock(&path, mode))? {
            Some(file) => Ok(Self(file)),
            None => Err(StoreError::Unusable(format!(
                "{} is in use by {}; try again when that has ended",
                database.display(),
                holders(&path).unwrap_or_else(|| "another consentry command".to_owned())
            ))),
        }
    }
}

/// Excludes all other processes: daemon and commands.
#[derive(Debug)]
pub(super) struct ExclusiveLock {
    #[expect(dead_code, reason = "held for its lock, which ends with it")]
    daemon: DaemonLock,
    #[expect(dead_code, reason = "held for its lock, which ends with it")]
    commands: CommandLock,
}

impl ExclusiveLock {
    /// # Errors
    /// A daemon runs, or a command does not end in time.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        Ok(Self { daemon: DaemonLock::take(database)?, commands: CommandLock::alone(database)? })
    }
}

/// Links are followed, so that a database with two names has one lock.
fn lock_file(database: &Path, suffix: &str) -> PathBuf {
    match std::fs::canonicalize(database) {
        Ok(file) => beside(&file, suffix),
        Err(_) => beside(database, suffix),
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Alone,
    Together,
}

/// Repeats an attempt until it succeeds or the time is over.
fn within<T>(
    time: Duration,
    attempt: impl Fn() -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    let begun = Instant::now();
    loop {
        let granted = attempt()?;
        if granted.is_some() || begun.elapsed() >= time {
            return Ok(granted);
        }
        std::thread::sleep(PAUSE);
    }
}

/// A lock, if it is available at once. This program never removes the file, because a lock on a removed file excludes nobody.
fn lock(path: &Path, mode: Mode) -> Result<Option<File>, StoreError> {
    let unusable =
        |e: &dyn std::fmt::Display| StoreError::Unusable(format!("cannot lock {}: {e}", path.display()));
    for _ in 0..16 {
        let file = open(path).map_err(|e| unusable(&e))?;
        let locked = match mode {
            Mode::Alone => file.try_lock(),
            Mode::Together => file.try_lock_shared(),
        };
        match locked {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            // It was removed in between.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(unusable(&error)),
        }
    }
    Ok(None)
}

/// A file that another user has created can be locked if it can be read.
fn open(path: &Path) -> std::io::Result<File> {
    let made = OpenOptions::new().create(true).append(true).open(path);
    made.or_else(|e| if e.kind() == ErrorKind::PermissionDenied { File::open(path) } else { Err(e) })
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

/// The processes that hold locks on a file, if the system shows them (proc_locks(5)): "process 4242 (consentry probe)".
fn holders(path: &Path) -> Option<String> {
    let inode = std::fs::metadata(path).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let mut processes: Vec<u32> = locks.lines().filter_map(|line| holder(line, inode)).collect();
    processes.sort_unstable();
    processes.dedup();
    let named: Vec<String> = processes.into_iter().map(named).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// The process in a line about a file: `1: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF`.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, process, file, ..] = words[..] else { return None };
    let found: u64 = file.rsplit(':').next()?.parse().ok()?;
    if found == inode { process.parse().ok() } else { None }
}

/// A process with its program and its command. Other arguments are not shown, because they may be secret.
fn named(process: u32) -> String {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut arguments = line.split('\0');
    let program = arguments.next().and_then(|p| p.rsplit('/').next()).unwrap_or_default();
    let is_command = |a: &&str| {
        a.starts_with(|c: char| c.is_ascii_lowercase())
            && a.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let command = arguments.next().filter(is_command);
    match (program, command) {
        ("", _) => format!("process {process}"),
        (program, None) => format!("process {process} ({program})"),
        (program, Some(command)) => format!("process {process} ({program} {command})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_a_lock() {
        for (line, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF", Some(4242)),
            ("2: FLOCK  ADVISORY  READ 7 fd:01:131 0 EOF", Some(7)),
            ("3: -> FLOCK  ADVISORY  WRITE 8 fd:01:131 0 EOF", None),
            ("4: POSIX  ADVISORY  WRITE 9 fd:01:131 0 EOF", None),
            ("5: FLOCK  ADVISORY  WRITE 4242 fd:01:1310 0 EOF", None),
            ("6: FLOCK  ADVISORY  WRITE -1 fd:01:131 0 EOF", None),
            ("", None),
        ] {
            assert_eq!(holder(line, 131), expected, "{line}");
        }
    }

    #[test]
    fn a_daemon_and_commands_share_and_a_rotation_excludes_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("c.db");
        let daemon = DaemonLock::take(&database).expect("the first");
        let text = DaemonLock::take(&database).expect_err("the second").to_string();
        assert!(text.contains("another consentry is running"), "{text}");
        let commands = [CommandLock::share(&database), CommandLock::share(&database)];
        assert!(commands.iter().all(Result::is_ok), "commands work beside each other and beside a daemon");
        assert!(CommandLock::attempt(&database).expect("asked").is_none());
        assert!(ExclusiveLock::take(&database).is_err(), "a daemon holds its lock");
        drop(commands);
        drop(daemon);
        let alone = ExclusiveLock::take(&database).expect("no other process");
        assert!(
            lock(&beside(&database, ".commands"), Mode::Together).expect("asked").is_none(),
            "a command waits for a rotation"
        );
        drop(alone);
        assert!(CommandLock::share(&database).is_ok());
    }

    /// A removed lock file lets a second daemon in, unless it is created again at once.
    #[test]
    fn a_removed_lock_is_created_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (database, file) = (folder.path().join("c.db"), folder.path().join("c.db.lock"));
        let daemon = DaemonLock::take(&database).expect("the first");
        daemon.renew().expect("nothing to do");
        std::fs::remove_file(&file).expect("removed");
        daemon.renew().expect("created again");
        assert!(DaemonLock::attempt(&database).expect("asked").is_none());
        std::fs::remove_file(&file).expect("removed");
        let second = DaemonLock::attempt(&database).expect("asked");
        assert!(second.is_some(), "removed, and not checked since");
        let text = daemon.renew().expect_err("contested").to_string();
        assert!(text.contains("another consentry has taken it"), "{text}");
        drop(second);
        daemon.renew().expect("created again");
    }
}
