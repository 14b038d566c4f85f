//! The state of the routes: what lasts as long as the process, and what a reload replaces.

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
use crate::signed::Signer;

/// The command line's settings for HTTP.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// Path of the exposition.
    pub telemetry_path: String,
    /// The URL under which browsers reach the pages, when it differs from the listener's; without trailing slash.
    pub external_url: Option<String>,
    /// The prefix of all paths: empty, or a path such as `/consentry`.
    pub route_prefix: String,
    /// The number of scrapes at once; more are rejected. 0 allows any number.
    pub max_requests: usize,
    /// Whether `POST /-/reload` is enabled.
    pub lifecycle: bool,
    /// Whether, without users, requests that change something are accepted from other machines, too.
    pub anonymous_actions: bool,
    /// Host names under which pages may be requested, besides the machine's own.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is trusted.
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

/// The parts of the process that the routes use.
pub struct Backend {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// The state of all integrations.
    pub fleet: Arc<Fleet>,
    /// The current time.
    pub clock: Clock,
    /// The monitor.
    pub commands: Arc<dyn Commands>,
    /// The database.
    pub history: Arc<dyn History>,
    /// Requests for a reload go here.
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
    /// The state of all integrations.
    pub fleet: Arc<Fleet>,
    /// The current time.
    pub clock: Clock,
    pub(super) commands: Arc<dyn Commands>,
    pub(super) history: Arc<dyn History>,
    pub(super) reloads: Reloads,
    /// Counts invalid links per network.
    pub failed_attempts: FailedAttemptLimiter,
    /// Whether configuration, database and the first pass are complete.
    pub ready: AtomicBool,
    /// The command line's settings.
    pub options: WebOptions,
    /// The settings of `--web.config.file`.
    pub security: Arc<WebSecurity>,
    /// The number of connections that may be open.
    pub capacity: Capacity,
    /// Host names under which pages may be requested, besides that of the public URL.
    names: Names,
    /// Whether `--web.external-url` names another machine than this one.
    pub(super) seen_from_elsewhere: bool,
    pub(super) exposition: Exposition,
    /// Limits the responses of the pages and the API.
    pub(super) bodies: Bodies,
    /// Limits the responses of the pages behind mailed links, separately, so that clients of one kind do not block the other.
    pub(super) link_bodies: Bodies,
    pub(super) uploads: Arc<Places>,
    /// Problems of configuration files that are therefore not in effect.
    trouble: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    /// The state before the first configuration is served.
    pub fn new(
        backend: Backend,
        options: WebOptions,
        security: Arc<WebSecurity>,
        capacity: Capacity,
    ) -> Self {
        let Backend { families, published, fleet, clock, commands, history, reloads } = backend;
        let external =
            options.external_url.as_deref().and_then(Authority::of_url).map(|authority| authority.host);
        Self {
            names: Names::with(
                options.allowed_hosts.iter().cloned().chain(external.iter().map(ToString::to_string)),
            ),
            // A host that cannot be parsed is not a name of this machine.
            seen_from_elsewhere: options.external_url.is_some()
                && !external.as_ref().is_some_and(Host::is_loopback),
            exposition: Exposition::new(options.max_requests),
            bodies: Bodies::default(),
            link_bodies: Bodies::default(),
            uploads: uploads::places(),
            failed_attempts: FailedAttemptLimiter::default(),
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
            security,
            capacity,
        }
    }
}

impl Process {
    /// Sets the problems of configuration files that the pages show.
    pub fn set_trouble(&self, trouble: Vec<String>) {
        *self.trouble.lock() = trouble;
    }

    /// The problems of configuration files.
    pub(super) fn trouble(&self) -> Vec<String> {
        self.trouble.lock().clone()
    }
}

/// The state of the routes for one configuration.
#[derive(Debug)]
pub struct Served {
    /// What a reload does not replace.
    pub process: Arc<Process>,
    /// Verifies mailed links and renews consent and token.
    pub reauthentication: Option<Reauthentication>,
    /// Verifies the operators' links to held mails.
    pub brake_links: Option<Signer>,
    /// Verifies the links that snooze reminders.
    pub snooze_links: Option<Signer>,
    /// The base URL of mailed links.
    pub public_url: Option<String>,
    /// The contact for questions, shown on pages.
    pub support: Option<String>,
    /// Headers of the pages.
    pub security_headers: SecurityHeaders,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Bytes,
}

impl Served {
    /// The state of an integration.
    pub(super) fn entry(&self, name: &str) -> Option<Arc<FleetEntry>> {
        self.process.fleet.get(name)
    }

    /// What the pages of re-authentication show of an integration.
    pub(super) fn summary(&self, name: &str) -> Option<IntegrationSummary> {
        self.entry(name).map(|entry| IntegrationSummary::of(&entry, &*self.process.commands))
    }

    /// The layout of a page one level below the root.
    pub(super) fn layout(&self) -> PageLayout {
        PageLayout { root: "../", support: self.support.clone() }
    }

    /// Whether a page of another site sent the request.
    pub(super) fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let own = [self.public_url.as_deref(), self.process.options.external_url.as_deref()];
        is_foreign(headers, &own)
    }

    /// Whether pages may be requested under this host name.
    pub(super) fn is_own_host(&self, host: &Host) -> bool {
        let is_public = || {
            self.public_url.as_deref().and_then(Authority::of_url).is_some_and(|public| public.host == *host)
        };
        self.process.names.contain(host) || is_public()
    }

    /// A cookie that is limited to the pages of re-authentication (RFC 6265bis).
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
