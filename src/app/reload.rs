//! Reading the configuration again: when somebody asks for it, and when watched files change. All of it comes into effect, or nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::daemon::{Move, Running};
use crate::config::{ABSENCE, Config, Problem, Sources, Storage};
use crate::listener;
use crate::web::ReloadRequest;

/// Files are read once nothing has happened to them for so long: whoever writes several, or one in pieces, is done by then.
const QUIET: Duration = Duration::from_millis(500);

/// Whoever never stops writing does not keep others waiting for longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Files are looked at so often even if nobody says that they have changed: network file systems do not.
const POLL: Duration = Duration::from_secs(15);

/// So many problems are told in the log.
const TOLD: usize = 20;

/// What was said of the configuration last.
#[derive(Debug, Default)]
struct Said {
    /// The last reload that somebody asked for failed, for these reasons.
    refused: Vec<String>,
    /// Watched files are broken, or cannot be followed.
    broken: Vec<String>,
}

/// See the module.
pub(super) struct Reloader {
    sources: Arc<Mutex<Sources>>,
    /// What cannot change while the process runs.
    storage: Storage,
    listen_address: Option<String>,
    watcher: Watcher,
    said: Said,
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
            said: Said::default(),
        }
    }

    /// Waits for the next occasion: somebody asks, or files have changed.
    pub(super) async fn occasion(
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
            Ok(()) => self.said = Said::default(),
            Err(problems) => {
                for problem in problems.iter().take(TOLD) {
                    tracing::error!(%problem, "configuration");
                }
                tracing::error!(
                    problems = problems.len(),
                    "the configuration is not reloaded; the old one stays"
                );
                self.said.refused.clone_from(problems);
            }
        }
        self.tell(running);
        outcome.map_err(|problems| problems.join("\n"))
    }

    async fn all(&mut self, running: &mut Running) -> Result<(), Vec<String>> {
        let main = self.sources().main().to_owned();
        let read =
            off_the_runtime(move || Sources::load(&main, &environment).map_err(|problems| lines(&problems)));
        let (loaded, sources) = read.await?;
        if loaded.config.storage != self.storage {
            return Err(vec!["storage: cannot change while Consentry runs; restart it".to_owned()]);
        }
        let gate = running.process.security.prepare()?;
        for warning in loaded.warnings.iter().take(TOLD) {
            tracing::warn!(%warning, "configuration");
        }
        self.swap(running, &loaded.config).await?;
        running.process.security.swap(gate);
        self.watcher.watch(sources.folders());
        *self.sources() = sources;
        Ok(())
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock()
    }

    /// Reads the watched files again.
    pub(super) async fn follow(&mut self, running: &mut Running) {
        // A folder may be there now that was not there before.
        let folders = self.sources().folders();
        self.watcher.watch(folders);
        let sources = Arc::clone(&self.sources);
        let follow = move || sources.lock().follow(&environment, std::time::Instant::now());
        let outcome = off_the_runtime(follow).await;
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
        if broken != self.said.broken {
            for problem in broken.iter().take(TOLD) {
                tracing::error!(%problem, "a watched file is not taken over; its last good list stays");
            }
            self.said.broken = broken;
        }
        self.tell(running);
    }

    /// Puts a configuration into effect.
    async fn swap(&mut self, running: &mut Running, config: &Config) -> Result<(), Vec<String>> {
        let wrong = |error: anyhow::Error| vec![format!("{error:#}")];
        let address = &config.reauthentication.listen_address;
        let listener = match address {
            same if *same == self.listen_address => Move::Stays,
            Some(address) => Move::To(listener::bind(address).await.map_err(wrong)?),
            None => Move::Ends,
        };
        if let Move::To(listener) = &listener {
            tracing::info!(address = %listener, "listening for re-authentication only");
        }
        let shift = running.apply(config, listener).await.map_err(wrong)?;
        self.listen_address.clone_from(address);
        running.process.families.configuration_read(running.process.clock.now());
        let (added, removed, changed) = (shift.added.len(), shift.removed, shift.changed);
        let integrations = config.integrations.iter().filter(|i| i.enabled).count();
        tracing::info!(integrations, added, removed, changed, "configuration reloaded");
        Ok(())
    }

    /// In the metric and on the page.
    fn tell(&self, running: &Running) {
        let files = self.sources().broken_files().max(usize::from(!self.said.broken.is_empty()));
        running.process.families.configuration_state(self.said.refused.is_empty(), files);
        let trouble = self.said.refused.iter().chain(&self.said.broken).cloned().collect();
        running.process.set_trouble(trouble);
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reading a big fleet takes seconds: not on a thread that others wait for.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Says when something has happened in folders.
struct Watcher {
    inner: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    folders: Vec<(PathBuf, bool)>,
    watched: Vec<(PathBuf, bool)>,
    /// When something happened first and last.
    pending: Option<(Instant, Instant)>,
    /// When to look anyway.
    again: Option<Instant>,
}

impl Watcher {
    fn new(folders: Vec<(PathBuf, bool)>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let inner = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change of it, and we read them ourselves.
            if !matches!(event.map(|e| e.kind), Ok(EventKind::Access(_))) {
                // One that waits already says enough.
                let _ = sender.try_send(());
            }
        });
        let inner = inner.inspect_err(|error| tracing::warn!(%error, "cannot watch files; they are looked at every {POLL:?} instead")).ok();
        let mut watcher =
            Self { inner, events, folders: Vec::new(), watched: Vec::new(), pending: None, again: None };
        watcher.watch(folders);
        watcher
    }

    /// Watches these folders and no others. One that is not there is tried again next time.
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

    /// Says after so long that something has happened, whether it has or not.
    fn again_in(&mut self, pause: Duration) {
        self.again = Some(Instant::now() + pause);
    }

    /// Waits until something has happened and nothing more does, or until it is time to look anyway.
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
