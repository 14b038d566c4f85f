//! Reading the configuration again, when a reload is requested and when watched files change. Either all of it takes effect, or nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::daemon::{ListenerChange, Running};
use crate::config::{ABSENCE, Config, Problem, Sources, Storage};
use crate::listener;
use crate::web::ReloadRequest;

/// Files are read when nothing has happened to them for this time, so that a program can finish writing several files or one in pieces.
const QUIET: Duration = Duration::from_millis(500);

/// The longest wait for [`QUIET`], so that continuous writing to one file does not delay the others forever.
const LONGEST: Duration = Duration::from_secs(5);

/// The interval of polling, because network file systems do not report changes.
const POLL: Duration = Duration::from_secs(15);

/// The number of problems that are logged.
const LOGGED: usize = 20;

/// The problems that were reported last.
#[derive(Debug, Default)]
struct Reported {
    /// Problems of the last requested reload, if it failed.
    reload: Vec<String>,
    /// Problems of watched files.
    watched: Vec<String>,
}

/// Reads the configuration again; see the module.
pub(super) struct Reloader {
    sources: Arc<Mutex<Sources>>,
    /// What cannot change while the process runs.
    storage: Storage,
    listen_address: Option<String>,
    watcher: Watcher,
    reported: Reported,
}

impl Reloader {
    pub(super) fn new(sources: Sources, config: &Config) -> Self {
        let watcher = Watcher::new(sources.folders());
        let listen_address = config.reauthentication.listen_address.clone();
        Self {
            sources: Arc::new(Mutex::new(sources)),
            storage: config.storage.clone(),
            listen_address,
            watcher,
            reported: Reported::default(),
        }
    }

    /// Waits for a request, or for changed files (`None`).
    pub(super) async fn next_event(
        &mut self,
        requests: &mut mpsc::Receiver<ReloadRequest>,
    ) -> Option<ReloadRequest> {
        tokio::select! {
            Some(request) = requests.recv() => Some(request),
            () = self.watcher.changed() => None,
        }
    }

    /// Reads everything again.
    pub(super) async fn reload(&mut self, running: &mut Running) -> Result<(), String> {
        let outcome = self.all(running).await;
        match &outcome {
            Ok(()) => self.reported = Reported::default(),
            Err(problems) => {
                for problem in problems.iter().take(LOGGED) {
                    tracing::error!(%problem, "configuration");
                }
                tracing::error!(
                    problems = problems.len(),
                    "the configuration is not reloaded; the old one stays"
                );
                self.reported.reload.clone_from(problems);
            }
        }
        self.publish(running);
        outcome.map_err(|problems| problems.join("\n"))
    }

    async fn all(&mut self, running: &mut Running) -> Result<(), Vec<String>> {
        let main = self.sources().main().to_owned();
        let read =
            blocking(move || Sources::load(&main, &environment).map_err(|problems| lines(&problems)));
        let (loaded, sources) = read.await?;
        if loaded.config.storage != self.storage {
            return Err(vec!["storage: cannot change while Consentry runs; restart it".to_owned()]);
        }
        let security = running.process.security.prepare()?;
        for warning in loaded.warnings.iter().take(LOGGED) {
            tracing::warn!(%warning, "configuration");
        }
        self.swap(running, &loaded.config).await?;
        running.process.security.swap(security);
        self.watcher.watch(sources.folders());
        *self.sources() = sources;
        Ok(())
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock()
    }

    /// Reads the watched files again.
    pub(super) async fn follow(&mut self, running: &mut Running) {
        // A folder that did not exist may exist now.
        let folders = self.sources().folders();
        self.watcher.watch(folders);
        let sources = Arc::clone(&self.sources);
        let follow = move || sources.lock().follow(&environment, std::time::Instant::now());
        let outcome = blocking(follow).await;
        if self.sources().waits() {
            self.watcher.again_in(ABSENCE);
        }
        let Some(outcome) = outcome else { return };
        let broken = match outcome {
            Ok(followed) => {
                let swapped =
                    if followed.changed { self.swap(running, &followed.loaded.config).await } else { Ok(()) };
                match swapped {
                    Ok(()) => {
                        *self.sources() = followed.sources;
                        lines(&followed.broken)
                    }
                    Err(problems) => {
                        self.sources().look_again();
                        problems
                    }
                }
            }
            Err(problems) => lines(&problems),
        };
        if broken != self.reported.watched {
            for problem in broken.iter().take(LOGGED) {
                tracing::error!(%problem, "a watched file is not used; its last good list stays in effect");
            }
            self.reported.watched = broken;
        }
        self.publish(running);
    }

    /// Applies a configuration.
    async fn swap(&mut self, running: &mut Running, config: &Config) -> Result<(), Vec<String>> {
        let wrong = |error: anyhow::Error| vec![format!("{error:#}")];
        let address = &config.reauthentication.listen_address;
        let listener = match address {
            same if *same == self.listen_address => ListenerChange::Keep,
            Some(address) => ListenerChange::Replace(listener::bind(address).await.map_err(wrong)?),
            None => ListenerChange::Close,
        };
        if let ListenerChange::Replace(listener) = &listener {
            tracing::info!(address = %listener, "listening for re-authentication only");
        }
        let diff = running.apply(config, listener).await.map_err(wrong)?;
        self.listen_address.clone_from(address);
        running.process.families.configuration_read(running.process.clock.now());
        let (added, removed, changed) = (diff.added.len(), diff.removed, diff.changed);
        let integrations = config.integrations.iter().filter(|i| i.enabled).count();
        tracing::info!(integrations, added, removed, changed, "configuration reloaded");
        Ok(())
    }

    /// Updates the metrics and the pages.
    fn publish(&self, running: &Running) {
        let files = self.sources().broken_files().max(usize::from(!self.reported.watched.is_empty()));
        running.process.families.configuration_state(self.reported.reload.is_empty(), files);
        let problems = self.reported.reload.iter().chain(&self.reported.watched).cloned().collect();
        running.process.set_trouble(problems);
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs blocking work in its own thread. Reading the configuration of a large fleet takes seconds.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Reports changes in folders.
struct Watcher {
    inner: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    folders: Vec<(PathBuf, bool)>,
    watched: Vec<(PathBuf, bool)>,
    /// The times of the first and the last unreported change.
    pending: Option<(Instant, Instant)>,
    /// The time of the next poll, if it is earlier than usual.
    again: Option<Instant>,
}

impl Watcher {
    fn new(folders: Vec<(PathBuf, bool)>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let inner = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is not a change, and Consentry itself reads the files.
            if !matches!(event.map(|e| e.kind), Ok(EventKind::Access(_))) {
                // If the channel is full, a change is already reported.
                let _ = sender.try_send(());
            }
        });
        let inner = inner.inspect_err(|error| tracing::warn!(%error, "cannot watch files; they are polled every {POLL:?} instead")).ok();
        let mut watcher =
            Self { inner, events, folders: Vec::new(), watched: Vec::new(), pending: None, again: None };
        watcher.watch(folders);
        watcher
    }

    /// Watches only these folders. A folder that does not exist is tried again at the next call.
    fn watch(&mut self, folders: Vec<(PathBuf, bool)>) {
        self.folders = folders;
        let Some(inner) = &mut self.inner else { return };
        self.watched.retain(|watched| {
            let wanted = self.folders.contains(watched) && watched.0.is_dir();
            if !wanted {
                drop(inner.unwatch(&watched.0));
            }
            wanted
        });
        for folder in &self.folders {
            let mode = if folder.1 { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            if !self.watched.contains(folder) && inner.watch(&folder.0, mode).is_ok() {
                self.watched.push(folder.clone());
            }
        }
    }

    /// Reports a change after this time, whether there was one or not.
    fn again_in(&mut self, pause: Duration) {
        self.again = Some(Instant::now() + pause);
    }

    /// Waits until something has changed and nothing has changed since for [`QUIET`], or until the next poll.
    async fn changed(&mut self) {
        if self.folders.is_empty() {
            return std::future::pending().await;
        }
        loop {
            let now = Instant::now();
            let otherwise = self.again.unwrap_or(now + POLL);
            let end = self.pending.map_or(otherwise, |(first, last)| (last + QUIET).min(first + LONGEST));
            tokio::select! {
                Some(()) = self.events.recv() => self.pending = Some((self.pending.map_or(now, |(first, _)| first), Instant::now())),
                () = tokio::time::sleep_until(end) => break,
            }
        }
        (self.pending, self.again) = (None, None);
    }
}
