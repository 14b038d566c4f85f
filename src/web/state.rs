//! What the routes read: what lasts as long as the process, and what a configuration makes anew.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::body::Bytes;
use axum::http::HeaderMap;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::bodies::Bodies;
use super::commands::{Commands, History, Reloads};
use super::exposition::Exposition;
use super::hosts::{Authority, Host, Names};
use super::model::IntegrationSummary;
use super::origin::is_foreign;
use super::pages::layout::{PageLayout, SecurityHeaders};
use super::uploads;
use crate::clock::Clock;
use crate::fleet::{Fleet, FleetEntry};
use crate::listener::connections::Capacity;
use crate::listener::limits::{FailedAttemptLimiter, Places};
use crate::listener::security::WebSecurity;
use crate::metrics::{Families, Published};
use crate::reauth::Reauthentication;

/// What the command line says about the pages.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// Path of the exposition.
    pub telemetry_path: String,
    /// Where browsers see the pages, when that is not where they are served; without trailing slash.
    pub external_url: Option<String>,
    /// What all paths begin with: empty, or a path such as `/consentry`.
    pub route_prefix: String,
    /// Scrapes at once; more are refused. 0 means any number.
    pub max_requests: usize,
    /// `POST /-/reload` reloads.
    pub lifecycle: bool,
    /// Without users, everybody may do what changes something, and not this machine alone.
    pub anonymous_actions: bool,
    /// Names by which pages may be asked for, besides the machine's own.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for WebOptions {
    fn default() -> Self {
        Self {
            telemetry_path: "/metrics".to_owned(),
            external_url: None,
            route_prefix: String::new(),
            max_requests: 40,
            lifecycle: false,
            anonymous_actions: false,
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// The rest of the process, as the routes see it.
pub struct Backend {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// What is known of the integrations.
    pub fleet: Arc<Fleet>,
    /// The present moment.
    pub clock: Clock,
    /// The monitor.
    pub commands: Arc<dyn Commands>,
    /// The database.
    pub history: Arc<dyn History>,
    /// Whoever can reload.
    pub reloads: Reloads,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

/// What lasts as long as the process, whatever its configuration.
pub struct Process {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// What is known of the integrations.
    pub fleet: Arc<Fleet>,
    /// For the expiry of links.
    pub clock: Clock,
    pub(super) commands: Arc<dyn Commands>,
    pub(super) history: Arc<dyn History>,
    pub(super) reloads: Reloads,
    /// Wrong links so far.
    pub guesses: FailedAttemptLimiter,
    /// Configuration, database and the first pass are there.
    pub ready: AtomicBool,
    /// What the command line says.
    pub options: WebOptions,
    /// What `--web.config.file` says.
    pub gate: Arc<WebSecurity>,
    /// How many connections are carried.
    pub capacity: Capacity,
    /// By which names pages may be asked for, besides that of the public URL.
    names: Names,
    /// `--web.external-url` names another machine than this one.
    pub(super) seen_from_elsewhere: bool,
    pub(super) exposition: Exposition,
    /// Of the pages and the API.
    pub(super) bodies: Bodies,
    /// Of the pages behind mailed links: whoever holds up the one does not hold up the other.
    pub(super) link_bodies: Bodies,
    pub(super) uploads: Arc<Places>,
    /// What is wrong with files, so that what stands in them is not in effect.
    trouble: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    /// Puts the parts together.
    pub fn new(backend: Backend, options: WebOptions, gate: Arc<WebSecurity>, capacity: Capacity) -> Self {
        let Backend { families, published, fleet, clock, commands, history, reloads } = backend;
        let external =
            options.external_url.as_deref().and_then(Authority::of_url).map(|authority| authority.host);
        Self {
            names: Names::with(
                options.allowed_hosts.iter().cloned().chain(external.iter().map(ToString::to_string)),
            ),
            // A name that cannot be read is no name of this machine.
            seen_from_elsewhere: options.external_url.is_some()
                && !external.as_ref().is_some_and(Host::is_loopback),
            exposition: Exposition::new(options.max_requests),
            bodies: Bodies::default(),
            link_bodies: Bodies::default(),
            uploads: uploads::places(),
            guesses: FailedAttemptLimiter::default(),
            ready: AtomicBool::new(false),
            trouble: Mutex::default(),
            families,
            published,
            fleet,
            clock,
            commands,
            history,
            reloads,
            options,
            gate,
            capacity,
        }
    }
}

impl Process {
    /// The pages say from now on what is wrong with the files of the configuration.
    pub fn set_trouble(&self, trouble: Vec<String>) {
        *self.trouble.lock() = trouble;
    }

    /// What is wrong with the files of the configuration.
    pub(super) fn trouble(&self) -> Vec<String> {
        self.trouble.lock().clone()
    }
}

/// What the routes read.
#[derive(Debug)]
pub struct Served {
    /// What a reload leaves alone.
    pub process: Arc<Process>,
    /// Opens mailed links, and renews consent and token.
    pub reauthentication: Option<Reauthentication>,
    /// What mailed links start with.
    pub public_url: Option<String>,
    /// Whom a reader of the pages may ask.
    pub support: Option<String>,
    /// Headers of the pages.
    pub security_headers: SecurityHeaders,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Bytes,
}

impl Served {
    /// What is known of an integration.
    pub(super) fn entry(&self, name: &str) -> Option<Arc<FleetEntry>> {
        self.process.fleet.get(name)
    }

    /// What the pages of re-authentication say of an integration.
    pub(super) fn summary(&self, name: &str) -> Option<IntegrationSummary> {
        self.entry(name).map(|entry| IntegrationSummary::of(&entry, &*self.process.commands))
    }

    /// The layout of a page one level below the root.
    pub(super) fn shell(&self) -> PageLayout {
        PageLayout { root: "../", support: self.support.clone() }
    }

    /// Whether a request comes from a page that is not ours.
    pub(super) fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let own = [self.public_url.as_deref(), self.process.options.external_url.as_deref()];
        is_foreign(headers, &own)
    }

    /// Whether pages may be asked for by this name.
    pub(super) fn goes_by(&self, host: &Host) -> bool {
        let is_public = || {
            self.public_url.as_deref().and_then(Authority::of_url).is_some_and(|public| public.host == *host)
        };
        self.process.names.contain(host) || is_public()
    }

    /// A cookie for the pages of re-authentication alone (RFC 6265bis).
    pub(super) fn cookie(&self, name: &str, value: &str, seconds: u64) -> String {
        let public = self.public_url.as_deref().unwrap_or_default();
        let secure = if public.starts_with("https://") { "; Secure" } else { "" };
        format!(
            "{name}={value}; Path={}/reauth; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
            path_of(public)
        )
    }
}

/// The path of a URL without trailing slash; empty for none.
pub fn path_of(url: &str) -> &str {
    let after = url.split_once("://").map_or("", |(_, rest)| rest);
    after.find('/').map_or("", |start| after[start..].trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_public_urls() {
        for (url, path) in [
            ("https://c.example.com", ""),
            ("https://c.example.com/", ""),
            ("https://c.example.com/base/", "/base"),
            ("http://127.0.0.1:1/a/b", "/a/b"),
            ("", ""),
        ] {
            assert_eq!(path_of(url), path, "{url}");
        }
    }
}
