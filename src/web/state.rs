//! What the routes read: what lasts as long as the process, and what a configuration makes anew.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::http::HeaderMap;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::bodies::Bodies;
use super::exposition::Exposition;
use super::hosts::{Authority, Host, Names, is_foreign};
use super::layout::{PageLayout, SecurityHeaders};
use super::model::{Later, Lookup};
use super::uploads;
use crate::clock::Clock;
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

/// What is wrong with the database, in a sentence; nothing when all is well.
pub type StorageProblem = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// Something that happened to an integration, to be kept in its history.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose history.
    pub integration: String,
    /// `link_made`, …
    pub kind: &'static str,
    /// Who did it.
    pub detail: String,
}

/// What keeps a record; whether that has worked.
pub type Keep = dyn Fn(Record) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// What the pages want of the process around them.
pub struct Hooks {
    /// Reads the configuration again; the answer is what is wrong with it.
    pub reload: Box<Later<Result<(), String>>>,
    /// Whether the fleet is being probed.
    pub alive: Box<dyn Fn() -> bool + Send + Sync>,
    /// Keeps a record; whether that has worked.
    pub record: Box<Keep>,
}

/// What lasts as long as the process, whatever its configuration.
pub struct Process {
    /// Counters of the process.
    pub families: Families,
    /// Series of the integrations.
    pub published: Arc<Published>,
    /// For the expiry of links.
    pub clock: Clock,
    /// Wrong links so far.
    pub guesses: FailedAttemptLimiter,
    /// Configuration, database and the first pass are there.
    pub ready: AtomicBool,
    /// What the command line says.
    pub options: WebOptions,
    /// What `--web.config.file` says.
    pub gate: Arc<WebSecurity>,
    /// What the pages want of the process.
    pub hooks: Hooks,
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
    /// Says what is wrong with the database, if anything is.
    pub(super) storage: OnceLock<StorageProblem>,
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
    pub fn new(
        (families, published, clock): (Families, Arc<Published>, Clock),
        options: WebOptions,
        gate: Arc<WebSecurity>,
        hooks: Hooks,
        capacity: Capacity,
    ) -> Self {
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
            storage: OnceLock::new(),
            trouble: Mutex::default(),
            families,
            published,
            clock,
            options,
            gate,
            hooks,
            capacity,
        }
    }
}

impl Process {
    /// The process is ready only while this finds nothing wrong with the database.
    pub fn watch_storage(&self, problem: StorageProblem) {
        // The first one stays.
        drop(self.storage.set(problem));
    }

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
    pub guard: SecurityHeaders,
    /// Says what is wrong with an integration.
    pub monitor: Lookup,
    /// The effective configuration as YAML, compressed: it is long and seldom asked for.
    pub configuration: Bytes,
}

impl Served {
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
