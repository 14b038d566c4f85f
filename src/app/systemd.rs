//! systemd: the sockets that it hands over (`sd_listen_fds(3)`), what it wants to be told (`sd_notify(3)`), and its watchdog.

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::daemon::Listeners;
use crate::listener::Listener;
use crate::monitor::Monitor;

/// Takes the sockets that were handed over. `FileDescriptorName=` of the socket unit says what each is for: `health`,
/// `reauthentication`, or anything else for everything.
///
/// # Errors
/// One of them is no listening stream socket.
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
            bail!("systemd hands over two sockets of one name; only those for everything may be several");
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

/// Tells the service manager, if there is one. One that does not listen is its own business.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}

pub(super) fn ready(integrations: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("watching {integrations} integrations"))]);
}

/// To be followed by [`ready`], whether the reload succeeds or not.
pub(super) fn reloading() {
    // `Type=notify-reload` wants to know when, so that an older message is not taken for this one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the watchdog that all is well for as long as the fleet is being probed. Never ends.
pub(super) async fn watchdog(monitor: Monitor) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        if monitor.is_alive() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
