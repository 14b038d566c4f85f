//! The daemon: wiring its parts, running them, and changing from one configuration to another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::commands::Database;
use super::components::Components;
use super::services::SharedServices;
use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::listener::{self, Capacity, Listener, WebSecurity};
use crate::metrics::{Families, Published};
use crate::monitor::{ConfigDiff, Evaluator, Monitor, Outputs, Schedule};
use crate::notify::{Notifier, Outbox};
use crate::reauth::{Unverified, WebhookSender};
use crate::store::Store;
use crate::web::{Backend, Process, ReloadRequest, Reloads, Sites, WebOptions};

/// The parts of a daemon, wired together but not running.
pub struct Daemon {
    /// Probes the fleet.
    pub monitor: Monitor,
    /// Sends mail, when it is configured.
    pub notifier: Option<Notifier>,
    /// Delivers renewed tokens to the products that use them.
    pub webhook: WebhookSender,
    /// What the listeners serve.
    pub sites: Sites,
    /// What lasts as long as the process.
    pub process: Arc<Process>,
    /// The database.
    pub store: Store,
    services: SharedServices,
    requests: mpsc::Receiver<ReloadRequest>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Daemon")
    }
}

/// The sockets of the daemon.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Serve everything.
    pub all: Vec<Listener>,
    /// Serves only the pages of re-authentication.
    pub reauthentication: Option<Listener>,
    /// Serves only health and readiness.
    pub health: Option<Listener>,
}

/// The command line's settings of the listeners, besides their addresses.
#[derive(Debug, Default)]
pub struct Front {
    /// Settings of HTTP.
    pub options: WebOptions,
    /// The file of `--web.config.file`.
    pub web_config_file: Option<PathBuf>,
}

/// Reads `--web.config.file`, if there is one.
///
/// # Errors
/// Every problem, one line each.
pub fn web_security(file: Option<&Path>, clock: Clock) -> anyhow::Result<WebSecurity> {
    WebSecurity::load(file, clock).map_err(|problems| anyhow::anyhow!("{}", problems.join("\n")))
}

impl Daemon {
    /// Wires the parts together. Nothing runs yet.
    ///
    /// # Errors
    /// Database, key, proxy or certificate file cannot be used.
    pub async fn wire(config: &Config, clock: Clock, front: Front) -> anyhow::Result<Self> {
        let families = Families::new().context("cannot register metrics")?;
        families.configuration_read(clock.now());
        families.configuration_state(true, 0);
        families.set_interval(config.probe.interval);
        let security = Arc::new(web_security(front.web_config_file.as_deref(), clock.clone())?);
        let counted = families.clone();
        let store = Store::open(&config.storage.path, &config.storage.encryption_key_file)?;
        let store = store.observed(Arc::new(move || counted.storage_failed()));
        let (published, fleet) = (Arc::new(Published::default()), Arc::new(Fleet::default()));
        let services = SharedServices {
            store: store.clone(),
            families: families.clone(),
            fleet: Arc::clone(&fleet),
            clock: clock.clone(),
            external_url: front.options.external_url.clone(),
            outbox: Outbox::default(),
            token_ready: Arc::new(Notify::new()),
            upstream: Arc::default(),
        };
        let Components { setup, change, notifier, webhook, pages } = Components::new(config, &services)?;
        let outputs = Outputs {
            store: store.clone(),
            fleet: Arc::clone(&fleet),
            families: families.clone(),
            published: Arc::clone(&published),
            outbox: Arc::clone(&services.outbox.nudge),
        };
        let queue: Vec<_> = change.records.iter().map(|r| (r.name.clone(), r.tenant.clone())).collect();
        let evaluator = Evaluator::start(outputs, change.policy, change.records, clock.now()).await?;
        let schedule = Schedule::new(change.schedule, queue, &fleet.never_probed(), clock.steady());
        let monitor = Monitor::new(schedule, setup, evaluator, families.clone(), clock.clone());
        if let Some(reauthentication) = &pages.reauthentication {
            reauthentication.unverified().await?.iter().for_each(|u| resume_verification(&monitor, u));
        }
        let (reloads, requests) = Reloads::new();
        let capacity = Capacity::within(
            super::descriptors(),
            super::descriptors::probes(config.probe.concurrency, super::descriptors()),
        );
        let history = Database { store: store.clone(), monitor: monitor.clone(), clock: clock.clone() };
        let backend = Backend {
            families,
            published,
            fleet,
            clock,
            commands: Arc::new(monitor.clone()),
            history: Arc::new(history),
            reloads,
        };
        let process = Arc::new(Process::new(backend, front.options, security, capacity));
        let sites = Sites::new(&pages.served(config, &process)?);
        Ok(Self { monitor, notifier, webhook, sites, process, store, services, requests })
    }

    /// Starts the daemon. The caller must call [`Running::finish`] in the end.
    pub fn start(self, listeners: Listeners) -> Running {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        // Before the first request can arrive.
        self.process.ready.store(true, Ordering::Relaxed);
        for listener in listeners.all {
            tasks.spawn(listener::serve(listener, Arc::clone(&self.sites.all), stopped.clone()));
        }
        if let Some(listener) = listeners.health {
            tasks.spawn(listener::serve(listener, Arc::clone(&self.sites.health), stopped.clone()));
        }
        let site = Arc::clone(&self.sites.reauthentication);
        let reauthentication = listeners
            .reauthentication
            .map(|listener| Worker::start(|stop| listener::serve(listener, site, stop)));
        tasks.spawn(self.monitor.clone().run(stopped));
        let notifier = self.notifier.map(|notifier| Worker::start(|stop| notifier.run(stop)));
        let webhook = Worker::start(|stop| self.webhook.run(stop));
        tracing::info!("ready");
        let Self { monitor, sites, process, services, requests, .. } = self;
        Running {
            monitor,
            sites,
            process,
            services,
            requests,
            stop,
            tasks,
            reauthentication,
            notifier,
            webhook: Some(webhook),
        }
    }
}

/// Resumes a verification that an earlier process or an earlier configuration has begun, for the rest of its time.
fn resume_verification(monitor: &Monitor, unverified: &Unverified) {
    match unverified.renewed {
        true => monitor.verify_renewal(&unverified.integration, unverified.began),
        false => monitor.verify_claim(&unverified.integration, unverified.began),
    }
}

/// How a reload changes the listener of the re-authentication pages.
pub(super) enum ListenerChange {
    /// Its address is the same.
    Keep,
    /// It has another address.
    Replace(Listener),
    /// It is no longer configured.
    Close,
}

/// A task that runs until it is stopped.
struct Worker {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Worker {
    fn start<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(watch::Receiver<bool>) -> F) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(work(stopped)) }
    }

    /// Starts a task that begins its work after the earlier one has finished. Does not block the caller.
    fn after<F: Future<Output = ()> + Send + 'static>(
        earlier: Option<Self>,
        work: impl FnOnce(watch::Receiver<bool>) -> F + Send + 'static,
    ) -> Self {
        Self::start(move |stopped| async move {
            if let Some(earlier) = earlier {
                earlier.finish().await;
            }
            work(stopped).await;
        })
    }

    async fn finish(self) {
        self.stop.send_replace(true);
        drop(self.task.await);
    }
}

/// A running daemon.
pub struct Running {
    pub(super) process: Arc<Process>,
    pub(super) requests: mpsc::Receiver<ReloadRequest>,
    pub(super) monitor: Monitor,
    sites: Sites,
    services: SharedServices,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    reauthentication: Option<Worker>,
    notifier: Option<Worker>,
    webhook: Option<Worker>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl Running {
    /// Applies another configuration. Returns how the fleet has changed.
    ///
    /// # Errors
    /// Proxy, certificate file or database cannot be used; then nothing has changed.
    pub(super) async fn apply(
        &mut self,
        config: &Config,
        listener: ListenerChange,
    ) -> anyhow::Result<ConfigDiff> {
        let Components { setup, change, notifier, webhook, pages } = Components::new(config, &self.services)?;
        let served = pages.served(config, &self.process)?;
        let diff = self.monitor.reconfigure(setup, change).await?;
        self.services.families.set_interval(config.probe.interval);
        if let Some(reauthentication) = &served.reauthentication {
            // Added integrations resume their verification; it was never interrupted for those that were
            // configured before.
            let unverified = reauthentication.unverified().await.unwrap_or_default();
            unverified
                .iter()
                .filter(|u| diff.added.contains(&u.integration))
                .for_each(|u| resume_verification(&self.monitor, u));
        }
        self.sites.replace(&served);
        let earlier = self.notifier.take();
        self.notifier = match (earlier, notifier) {
            (None, None) => None,
            (earlier, Some(notifier)) => Some(Worker::after(earlier, |stop| notifier.run(stop))),
            (earlier @ Some(_), None) => {
                // Without mail, what is left in the outbox does not count as pending.
                let families = self.services.families.clone();
                Some(Worker::after(earlier, move |_| async move {
                    families.set_queue(0);
                    families.set_held(0);
                }))
            }
        };
        self.webhook = Some(Worker::after(self.webhook.take(), |stop| webhook.run(stop)));
        match listener {
            ListenerChange::Keep => {}
            ListenerChange::Replace(listener) => {
                let site = Arc::clone(&self.sites.reauthentication);
                self.close_listener();
                self.reauthentication = Some(Worker::start(|stop| listener::serve(listener, site, stop)));
            }
            ListenerChange::Close => self.close_listener(),
        }
        Ok(diff)
    }

    /// Closes the listener. Pending responses are finished in the background.
    fn close_listener(&mut self) {
        if let Some(earlier) = self.reauthentication.take() {
            self.tasks.spawn(earlier.finish());
        }
    }

    /// The database, for closing it in the end.
    pub(super) fn store(&self) -> Store {
        self.services.store.clone()
    }

    /// Stops, and waits until all pending work is done.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        for worker in [self.reauthentication, self.notifier, self.webhook].into_iter().flatten() {
            self.tasks.spawn(worker.finish());
        }
        while self.tasks.join_next().await.is_some() {}
    }
}
