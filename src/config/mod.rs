//! The configuration: from the file as written to a [`Config`] that cannot hold nonsense.
//!
//! Reading gathers all problems of all files, each with its place and what to write instead. It contacts nothing.
//! The one thing it touches besides the configuration are the files that the configuration names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::{Cloud, Reason, Requirements};
use crate::secret::{ClientCredential, Secret, SecretSource};

mod apps;
mod cursor;
mod effective;
mod fields;
mod files;
mod include;
mod integrations;
mod permissions;
mod problem;
mod settings;
mod tree;
mod values;
mod web;

pub use effective::effective;
pub use files::{ABSENCE, FileStamps, Followed, Sources};
pub use include::{Files, Listing};
pub use problem::{Environment, Problem};
pub use values::{format_duration, parse_duration, shown_url};
pub use web::{ClientAuth, RateLimit, TlsVersion, WebConfig, WebTls, load_web};

/// What stands where a secret would.
const HIDDEN: &str = "<secret>";

/// Everything that the configuration says, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Hosts of Entra and Graph.
    pub cloud: Cloud,
    /// How they are reached.
    pub upstream: Upstream,
    /// The rhythm of probing.
    pub probe: Probe,
    /// Where state is kept.
    pub storage: Storage,
    /// How mail is sent; `None` runs without.
    pub email: Option<Email>,
    /// The re-authentication links.
    pub reauthentication: Reauthentication,
    /// Directory readers by name.
    pub readers: BTreeMap<String, Reader>,
    /// Applications by name.
    pub apps: BTreeMap<String, App>,
    /// Enabled and disabled integrations, sorted by name.
    pub integrations: Vec<Integration>,
    /// AADSTS numbers whose meaning the configuration fixes.
    pub reason_overrides: HashMap<u32, Reason>,
    /// Patterns of files with more integrations, which are watched.
    pub integration_files: Vec<String>,
}

/// How Entra and Graph are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upstream {
    /// Proxy; otherwise the environment's. Its URL may hold a password.
    pub proxy_url: Option<Secret>,
    /// PEM file with certificate authorities added to the system's.
    pub ca_file: Option<PathBuf>,
}

/// The rhythm of probing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Documented in config/consentry.example.yml, key by key.
pub struct Probe {
    pub interval: Duration,
    pub timeout: Duration,
    pub concurrency: usize,
    pub retry_interval: Duration,
    pub failure_threshold: u32,
    pub success_threshold: u32,
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// The SQLite database.
    pub path: PathBuf,
    /// The key that encrypts refresh tokens.
    pub encryption_key_file: PathBuf,
}

/// How mail is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Email {
    /// Sender.
    pub from: lettre::message::Mailbox,
    /// `Reply-To`.
    pub reply_to: Option<lettre::message::Mailbox>,
    /// Who runs Consentry.
    pub operators: Vec<String>,
    /// Whom a recipient may ask.
    pub support_contact: Option<String>,
    /// The mail server; `None` while another transport is configured that is not built yet.
    pub smtp: Option<Smtp>,
    /// Whether recovery is told.
    pub send_resolved: bool,
}

/// How the mail server's connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// STARTTLS, required.
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// None.
    None,
}

/// The mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Protection.
    pub tls: SmtpTls,
    /// PEM file with certificate authorities added to the system's.
    pub ca_file: Option<PathBuf>,
    /// User name and password.
    pub credentials: Option<(String, SecretSource)>,
    /// The name for EHLO; otherwise this machine's.
    pub hello: Option<String>,
    /// Connections at once, at most.
    pub connections: usize,
}

/// The re-authentication links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reauthentication {
    /// What links start with, without trailing slash.
    pub public_url: Option<String>,
    /// How long a link is good.
    pub link_ttl: Duration,
    /// A listener that serves the re-authentication pages and nothing else.
    pub listen_address: Option<String>,
}

/// An app registration that may read tenants' directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Application id.
    pub client_id: String,
    /// Its credential.
    pub credential: ClientCredential,
}

/// Where an admin fixes an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReauthenticationMode {
    /// On Consentry's own page.
    Builtin,
    /// On Entra's admin consent page.
    AdminConsent,
    /// On a page of the vendor's; placeholders are filled in.
    Url(String),
}

/// Whose sign-in re-authenticates an integration. A guest's never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reauthenticators {
    /// That of any member of the tenant who may accept the permissions.
    Members,
    /// That of an administrator only.
    Admins,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name in the configuration.
    pub name: String,
    /// Application id.
    pub client_id: String,
    /// Shown to people.
    pub display_name: String,
    /// Its credential.
    pub credential: ClientCredential,
    /// Where admins fix it.
    pub reauthentication: ReauthenticationMode,
    /// Whose sign-in is accepted.
    pub reauthenticators: Reauthenticators,
    /// Access, permissions and policy shared by its integrations.
    pub access: crate::domain::Access,
    /// What must be granted.
    pub required: std::sync::Arc<[crate::domain::RequiredPermissions]>,
    /// More than is required fails.
    pub unexpected_fails: bool,
    /// Where the product takes renewed refresh tokens.
    pub token_webhook: Option<TokenWebhook>,
}

/// Where a product takes renewed refresh tokens (Standard Webhooks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWebhook {
    /// https, or http on loopback.
    pub url: String,
    /// `whsec_` and base64.
    pub secret: SecretSource,
}

/// One customer's use of one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integration {
    /// Unique name.
    pub name: String,
    /// Shown to people.
    pub display_name: String,
    /// Name of its application.
    pub app: String,
    /// GUID or verified domain, lower case.
    pub tenant: String,
    /// Name of its directory reader.
    pub reader: Option<String>,
    /// Who gets the link.
    pub admins: Vec<String>,
    /// A refresh token that somebody else keeps.
    pub refresh_token_file: Option<PathBuf>,
    /// Labels for `consentry_integration_info`.
    pub labels: BTreeMap<String, String>,
    /// Whether it is probed.
    pub enabled: bool,
    /// What diagnosing needs.
    pub requirements: Requirements,
}

/// A configuration that was read, with what should be said about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
    /// Keys that are accepted but have no effect yet.
    pub not_implemented: Vec<String>,
}

/// Reads a configuration file and every file that it names.
///
/// # Errors
/// Every problem found, in the order of files and lines.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    load_with(path, &|name| std::env::var(name).ok(), Files::DISK)
}

/// The same with another environment, and files that come from elsewhere.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    path: &Path,
    environment: Environment<'_>,
    files: Files<'_>,
) -> Result<Loaded, Vec<Problem>> {
    let findings = problem::Diagnostics::new(environment, files);
    let config = read_tree(path, &findings).and_then(|root| settings::read(&root, path, &findings));
    let (problems, warnings, not_implemented) = findings.into_parts();
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings, not_implemented }),
        _ => Err(problems),
    }
}

fn read_tree(path: &Path, findings: &problem::Diagnostics<'_>) -> Option<tree::Node> {
    match findings.text(path) {
        Ok(text) => match tree::parse(&text) {
            Ok(node) => Some(node),
            Err(tree::SyntaxError { line, column, message }) => {
                let (file, message) = (path.display().to_string(), format!("not valid YAML: {message}"));
                findings.problem(Problem { file, line, column, path: String::new(), message });
                None
            }
        },
        Err(error) => {
            findings.problem(problem::unreadable(path, &error));
            None
        }
    }
}
