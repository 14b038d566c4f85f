//! The life of the daemon process: sockets, signals, reloads, shutdown.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::daemon::{Daemon, Front, Listeners, Running};
use super::reload::Reloader;
use super::{descriptors, systemd};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::listener::{self, Listener};
use crate::store::DaemonLock;
use crate::web::Process;

/// Addresses to listen on, as the command line gives them.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// Serve everything. If empty, the sockets that systemd passes are used, or `:10143` without those.
    pub all: &'a [String],
    /// Serves only health and readiness.
    pub health: Option<&'a str>,
}

/// The default address.
pub const DEFAULT: &str = ":10143";

/// How long pending work may take at the shutdown. Some service managers kill the process soon afterwards.
const END: Duration = Duration::from_secs(8);

/// How long the checkpoint of the database's write-ahead log may take.
const CLOSE: Duration = Duration::from_millis(1500);

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
    }
}

/// Runs the daemon of a configuration until a signal.
///
/// # Errors
/// It cannot start.
pub async fn run(
    config: Config,
    sources: Sources,
    addresses: &Addresses<'_>,
    front: Front,
) -> anyhow::Result<()> {
    // This must come first, because it changes the environment.
    let handed = systemd::sockets()?;
    descriptors::raise();
    let signals = Signals::new()?;
    let lock = DaemonLock::take(&config.storage.path)?;
    let listeners = listeners(&config, addresses, handed).await?;
    let daemon = Daemon::wire(&config, Clock::system(), front).await?;
    // The lock is held to the end; the store ensures that it stays effective.
    daemon.store.guard(lock.clone());
    let reloader = Reloader::new(sources, &config);
    // The parts have their own copies of what they need.
    drop(config);
    log_addresses(&listeners);
    let capacity = daemon.process.capacity;
    if capacity.is_reduced() {
        let (limit, connections) = (super::descriptors().unwrap_or_default(), capacity.all);
        tracing::warn!(
            limit,
            connections,
            "few files may be open at once (RLIMIT_NOFILE), so fewer connections are accepted"
        );
    }
    if let Some(url) = status_page(&daemon.process, &listeners) {
        daemon.process.families.set_url(&url);
    }
    let mut running = daemon.start(listeners);
    systemd::ready(running.monitor.size());
    // In its own task, so that a long reload does not trigger the watchdog.
    let watchdog = tokio::spawn(systemd::watchdog(running.monitor.clone()));
    let Signals { mut terminate, mut interrupt, hangup } = signals;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = serve(&mut running, reloader, hangup) => {}
    }
    watchdog.abort();
    systemd::stopping();
    tracing::info!("stopping");
    // Work that is not finished by then is resumed after the next start; nothing is lost.
    let store = running.store();
    if tokio::time::timeout(END, running.finish()).await.is_err() {
        tracing::warn!("some probes or mails were not finished");
    }
    if tokio::time::timeout(CLOSE, store.close()).await.is_err() {
        tracing::warn!("the database could not be closed in time; its write-ahead log stays next to it");
    }
    Ok(())
}

async fn listeners(
    config: &Config,
    addresses: &Addresses<'_>,
    mut listeners: Listeners,
) -> anyhow::Result<Listeners> {
    let default = [DEFAULT.to_owned()];
    let all = if addresses.all.is_empty() && listeners.all.is_empty() { &default } else { addresses.all };
    for address in all {
        listeners.all.push(listener::bind(address).await?);
    }
    if let Some(address) = addresses.health {
        listeners.health = Some(listener::bind(address).await?);
    }
    if let (Some(address), None) = (&config.reauthentication.listen_address, &listeners.reauthentication) {
        listeners.reauthentication = Some(listener::bind(address).await?);
    }
    Ok(listeners)
}

/// The URL of the status page: from the command line, otherwise from this machine's name and the first port.
fn status_page(process: &Process, listeners: &Listeners) -> Option<String> {
    if let Some(url) = &process.options.external_url {
        return Some(url.clone());
    }
    let address = listeners.all.iter().find_map(Listener::socket_address)?;
    let scheme = if process.security.speaks_tls() { "https" } else { "http" };
    let host = match hostname::get() {
        Ok(name) if address.ip().is_unspecified() => format!("{}:{}", name.to_string_lossy(), address.port()),
        _ => address.to_string(),
    };
    Some(format!("{scheme}://{host}{}", process.options.route_prefix))
}

fn log_addresses(listeners: &Listeners) {
    for listener in &listeners.all {
        tracing::info!(address = %listener, "listening");
    }
    if let Some(listener) = &listeners.health {
        tracing::info!(address = %listener, "listening for health checks only");
    }
    if let Some(listener) = &listeners.reauthentication {
        tracing::info!(address = %listener, "listening for re-authentication only");
    }
}

/// Reloads when requested and when watched files change. Never ends.
async fn serve(running: &mut Running, mut reloader: Reloader, mut hangup: Signal) {
    loop {
        tokio::select! {
            _ = hangup.recv() => drop(reload(running, &mut reloader).await),
            request = reloader.next_event(&mut running.requests) => match request {
                Some(reply) => {
                    let outcome = reload(running, &mut reloader).await;
                    // The client may have disconnected.
                    drop(reply.send(outcome));
                }
                None => reloader.follow(running).await,
            },
        }
    }
}

async fn reload(running: &mut Running, reloader: &mut Reloader) -> Result<(), String> {
    systemd::reloading();
    let outcome = reloader.reload(running).await;
    systemd::ready(running.monitor.size());
    outcome
}
