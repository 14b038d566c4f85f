//! The configuration: from the file as written to a validated [`Config`].
//!
//! Reading collects all problems of all files, each with its position and what to write instead. It makes no network connections, and
//! reads only the configuration and the files that it names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::credential::ClientCredential;
use crate::domain::{Cloud, Notify, Reason, Requirements};
use crate::secret::{Secret, SecretSource};

mod apps;
mod credentials;
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

/// The placeholder for a secret.
const HIDDEN: &str = "<secret>";

/// The whole configuration, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Hosts of Entra and Graph.
    pub cloud: Cloud,
    /// How Consentry connects to them.
    pub upstream: Upstream,
    /// The timing of probes.
    pub probe: Probe,
    /// Where state is kept.
    pub storage: Storage,
    /// How mail is sent; `None` sends no mail.
    pub email: Option<Email>,
    /// The re-authentication links.
    pub reauthentication: Reauthentication,
    /// Directory readers by name.
    pub readers: BTreeMap<String, Reader>,
    /// Applications by name.
    pub apps: BTreeMap<String, App>,
    /// Enabled and disabled integrations, sorted by name.
    pub integrations: Vec<Integration>,
    /// Reasons that the configuration assigns to AADSTS numbers.
    pub reason_overrides: HashMap<u32, Reason>,
    /// Patterns of files with more integrations, which are watched.
    pub integration_files: Vec<String>,
}

/// How Consentry connects to Entra and Graph.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upstream {
    /// Proxy; otherwise the environment's. Its URL may contain a password.
    pub proxy_url: Option<Secret>,
    /// PEM file with certificate authorities added to the system's.
    pub ca_file: Option<PathBuf>,
}

/// The timing of probes.
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
    /// Mail addresses of those who run Consentry.
    pub operators: Vec<String>,
    /// The contact for recipients with questions.
    pub support_contact: Option<String>,
    /// How mails are sent.
    pub transport: MailTransport,
    /// Whether recipients are notified when an integration works again.
    pub send_resolved: bool,
    /// Who gets the mails for administrators, where application and integration name nobody.
    pub notify: Notify,
    /// How long mails wait for others to the same person.
    pub group_wait: Duration,
    /// Pauses between the mails about a failure that lasts; none after the last one.
    pub reminders: Vec<Duration>,
    /// When mails to administrators are held.
    pub brake: Brake,
}

/// When mails to administrators are held because too much breaks at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Brake {
    /// The share of the enabled integrations that must break within one interval, from 0 to 1.
    pub share: f64,
    /// The number of integrations that must break.
    pub minimum: u32,
    /// How long mails are held; zero for never.
    pub hold: Duration,
}

impl Default for Brake {
    fn default() -> Self {
        Self { share: 0.25, minimum: 20, hold: Duration::from_secs(3600) }
    }
}

/// How mails are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailTransport {
    /// Through a mail server.
    Smtp(Smtp),
    /// Through Microsoft Graph's `sendMail`.
    Graph(GraphMail),
}

/// Sending through Microsoft Graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphMail {
    /// The application registration that sends.
    pub account: MailAccount,
    /// The mailbox that it sends from.
    pub mailbox: String,
}

/// An application registration that may send mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAccount {
    /// Tenant: a GUID or a domain.
    pub tenant: String,
    /// Application id.
    pub client_id: String,
    /// Its credential.
    pub credential: ClientCredential,
}

/// How to log in to a mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmtpLogin {
    /// With user name and password.
    Password(String, SecretSource),
    /// With user name (the mailbox) and an access token (XOAUTH2).
    OAuth2(String, MailAccount),
}

impl SmtpLogin {
    /// The user name.
    pub fn username(&self) -> &str {
        match self {
            Self::Password(name, _) | Self::OAuth2(name, _) => name,
        }
    }
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
    /// How to log in, if at all.
    pub login: Option<SmtpLogin>,
    /// The name for EHLO; otherwise this machine's.
    pub hello: Option<String>,
    /// The highest number of connections at once.
    pub connections: usize,
}

/// The re-authentication links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reauthentication {
    /// What links start with, without trailing slash.
    pub public_url: Option<String>,
    /// How long a link is valid.
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

/// Where an admin re-authenticates an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReauthenticationMode {
    /// On Consentry's own page.
    Builtin,
    /// On Entra's admin consent page.
    AdminConsent,
    /// On a page of the vendor; the URL's placeholders are filled in.
    Url(String),
}

/// Whose sign-in re-authenticates an integration. A guest's sign-in never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reauthenticators {
    /// Any member of the tenant who may accept the permissions.
    Members,
    /// Administrators only.
    Admins,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name in the configuration.
    pub name: String,
    /// Application id.
    pub client_id: String,
    /// The name on pages and in mails.
    pub display_name: String,
    /// Its credential.
    pub credential: ClientCredential,
    /// Where admins re-authenticate its integrations.
    pub reauthentication: ReauthenticationMode,
    /// Whose sign-in is accepted.
    pub reauthenticators: Reauthenticators,
    /// Delegated or application access.
    pub access: crate::domain::Access,
    /// The permissions that must be granted.
    pub required: std::sync::Arc<[crate::domain::RequiredPermissions]>,
    /// Whether granted permissions beyond the required ones fail the check.
    pub unexpected_fails: bool,
    /// Where the product receives renewed refresh tokens.
    pub token_webhook: Option<TokenWebhook>,
    /// Who gets the mails for administrators.
    pub notify: Option<Notify>,
    /// GUID of the tenant where it is registered.
    pub home_tenant: Option<String>,
}

/// Where a product receives renewed refresh tokens (Standard Webhooks).
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
    /// The name on pages and in mails.
    pub display_name: String,
    /// Name of its application.
    pub app: String,
    /// GUID or verified domain, lower case.
    pub tenant: String,
    /// Name of its directory reader.
    pub reader: Option<String>,
    /// Mail addresses of those who get the link.
    pub admins: Vec<String>,
    /// Who gets the mails for its administrators.
    pub notify: Option<Notify>,
    /// A file with a refresh token that another program maintains.
    pub refresh_token_file: Option<PathBuf>,
    /// Labels for `consentry_integration_info`.
    pub labels: BTreeMap<String, String>,
    /// Whether it is probed.
    pub enabled: bool,
    /// What the checks require.
    pub requirements: Requirements,
}

/// A valid configuration, with remarks on it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably a mistake.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration file and every file that it names.
///
/// # Errors
/// Every problem found, ordered by file and line.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    load_with(path, &|name| std::env::var(name).ok(), Files::DISK)
}

/// Like [`load`], with the given environment variables and source of files.
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
    let (problems, warnings) = findings.into_parts();
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings }),
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
