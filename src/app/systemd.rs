//! systemd: socket activation (`sd_listen_fds(3)`), status notifications (`sd_notify(3)`), and the watchdog.

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::daemon::Listeners;
use crate::listener::Listener;
use crate::monitor::Monitor;

/// Takes the sockets that systemd passes. `FileDescriptorName=` of the socket unit determines what each serves: `health`,
/// `reauthentication`, or everything for any other name.
///
/// # Errors
/// One of them is not a listening stream socket.
pub(super) fn sockets() -> anyhow::Result<Listeners> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = ListenFd::from_env();
    let mut listeners = Listeners::default();
    for index in 0..handed.len() {
        let listener = listener(&mut handed, index)
            .with_context(|| format!("socket {index} from systemd cannot be used"))?;
        let place = match names.split(':').nth(index) {
            Some("health") => &mut listeners.health,
            Some("reauthentication") => &mut listeners.reauthentication,
            _ => {
                listeners.all.push(listener);
                continue;
            }
        };
        if place.replace(listener).is_some() {
            bail!("systemd passes two sockets with the same name; only those that serve everything may share one");
        }
    }
    Ok(listeners)
}

fn listener(handed: &mut ListenFd, index: usize) -> anyhow::Result<Listener> {
    if let Ok(Some(tcp)) = handed.take_tcp_listener(index) {
        return Ok(Listener::inherited_tcp(tcp)?);
    }
    let unix = handed.take_unix_listener(index)?.context("it is not there")?;
    Ok(Listener::inherited_unix(unix)?)
}

/// Notifies the service manager, if there is one. A failure is not an error for the daemon.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

pub(super) fn ready(integrations: usize) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("watching {integrations} integrations"))]);
}

/// Must be followed by [`ready`], whether the reload succeeds or not.
pub(super) fn reloading() {
    // `Type=notify-reload` requires the time, so that an older message is not taken for this one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies the watchdog for as long as the monitor's loop is running. Never ends.
pub(super) async fn watchdog(monitor: Monitor) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        if monitor.is_alive() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}
