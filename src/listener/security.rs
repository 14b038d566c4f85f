//! The settings of `--web.config.file`. The file and those it names are read again when they change. An invalid file is logged and does not
//! change the policy. A file is empty or incomplete while it is being written, and stays so when the disk is full. So an empty file is
//! invalid, and a file that removes protection takes effect only after a requested reload, or when it says `{}`, which nobody writes by
//! accident.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rustls::ServerConfig;

use super::client_certificate::ClientCertificates;
use super::tls::{server_config, verifier};
use super::users::Users;
use crate::clock::Clock;
use crate::config::{ClientAuth, FileStamps, TlsVersion, WebConfig, load_web};

/// The policy of the listeners at one moment.
#[derive(Debug)]
pub(crate) struct ListenerPolicy {
    /// As configured.
    pub(crate) config: WebConfig,
    /// TLS with the configured client certificates.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// TLS without client certificates, for the pages behind mailed links.
    pub(crate) open_tls: Option<Arc<ServerConfig>>,
    /// Determines the owner of a client certificate, where certificates are verified.
    pub(crate) certificates: Option<Arc<ClientCertificates>>,
    /// Headers of every response.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl ListenerPolicy {
    /// Whether every client needs a valid certificate.
    pub(crate) fn demands_certificates(&self) -> bool {
        client_auth(&self.config) == ClientAuth::RequireAndVerify
    }
}

/// How the listeners are protected.
#[derive(Debug)]
pub struct WebSecurity {
    path: Option<PathBuf>,
    clock: Clock,
    state: Mutex<State>,
    /// Verifies passwords, and remembers correct ones.
    pub(crate) users: Users,
}

#[derive(Debug)]
struct State {
    policy: Arc<ListenerPolicy>,
    /// The metadata of the files before they were last read.
    seen: FileStamps,
    read: Instant,
    /// The error that was logged last, so that it is logged once.
    problem: Option<String>,
}

/// Files with unchanged metadata are read again at most once in this time, however often clients connect.
const PAUSE: Duration = Duration::from_secs(1);

impl WebSecurity {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Every problem, one line each.
    pub fn load(path: Option<&Path>, clock: Clock) -> Result<Self, Vec<String>> {
        let state = State::read(path)?;
        Ok(Self { path: path.map(Path::to_owned), clock, state: Mutex::new(state), users: Users::default() })
    }

    /// Reads the file again, for [`Self::swap`]. The reload is requested, so the file may remove protection.
    ///
    /// # Errors
    /// Every problem, one line each.
    pub fn prepare(&self) -> Result<Self, Vec<String>> {
        Self::load(self.path.as_deref(), self.clock.clone())
    }

    /// Replaces the policy.
    pub fn swap(&self, fresh: Self) {
        let fresh = fresh.state.into_inner();
        *self.state.lock() = fresh;
    }

    /// Whether the listeners use TLS now.
    pub fn speaks_tls(&self) -> bool {
        self.current().tls.is_some()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The current policy. Reads changed files again.
    pub(crate) fn current(&self) -> Arc<ListenerPolicy> {
        let mut state = self.state.lock();
        let stamps = FileStamps::at(&state.policy.config.files);
        // After an error, a file that is not among these may have been fixed.
        let again =
            (stamps.may_differ(&state.seen) || state.problem.is_some()) && state.read.elapsed() >= PAUSE;
        if stamps.differ(&state.seen) || again {
            self.read_again(&mut state, stamps);
        }
        Arc::clone(&state.policy)
    }

    fn read_again(&self, state: &mut State, stamps: FileStamps) {
        let file = self.path.as_deref().unwrap_or(Path::new(""));
        let fresh = State::read(self.path.as_deref()).and_then(|fresh| {
            let lost = if fresh.policy.config.open {
                Vec::new()
            } else {
                lost_protection(&state.policy.config, &fresh.policy.config)
            };
            if lost.is_empty() {
                Ok(fresh)
            } else {
                Err(vec![format!("{}: {}", file.display(), lost_message(&lost))])
            }
        });
        match fresh {
            Ok(fresh) => {
                if stamps.differ(&state.seen) || state.problem.is_some() {
                    tracing::info!(file = %file.display(), "protection of the listener read again");
                }
                *state = fresh;
            }
            Err(problems) => {
                (state.seen, state.read) = (stamps, Instant::now());
                let problem = problems.join("; ");
                if state.problem.as_ref() != Some(&problem) {
                    tracing::error!(
                        error = problem,
                        "cannot read the protection of the listener again; the old one stays"
                    );
                    state.problem = Some(problem);
                }
            }
        }
    }
}

impl State {
    fn read(path: Option<&Path>) -> Result<Self, Vec<String>> {
        let load = || {
            path.map(load_web)
                .transpose()
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        // The metadata are read before the contents that are used, so that a change in between is noticed
        // next time.
        let seen = FileStamps::at(&load()?.unwrap_or_default().files);
        let config = load()?.unwrap_or_default();
        let in_file = |problem| vec![format!("{}: {problem}", path.unwrap_or(Path::new("")).display())];
        Ok(Self {
            policy: Arc::new(policy(config).map_err(in_file)?),
            seen,
            read: Instant::now(),
            problem: None,
        })
    }
}

fn client_auth(config: &WebConfig) -> ClientAuth {
    config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.client_auth)
}

/// Whether a configuration protects in one way.
type Protects<'a> = &'a dyn Fn(&WebConfig) -> bool;

/// The kinds of protection that `before` has and `after` lacks. Removed users and changed passwords are not among them: they must take
/// effect immediately, and users must still sign in.
fn lost_protection(before: &WebConfig, after: &WebConfig) -> Vec<&'static str> {
    let demanded = |config: &WebConfig| {
        matches!(client_auth(config), ClientAuth::RequireAny | ClientAuth::RequireAndVerify)
    };
    let verified = |config: &WebConfig| {
        matches!(client_auth(config), ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify)
    };
    let tls = |config: &WebConfig| config.tls.is_some();
    let users = |config: &WebConfig| !config.users.is_empty();
    let named = |config: &WebConfig| config.tls.as_ref().is_some_and(|tls| tls.client_allowed_sans.is_some());
    // Without `client_ca`, the system's authorities are used, which issue certificates to anybody.
    let authority = |config: &WebConfig| {
        verified(config) && config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    };
    let modern =
        |config: &WebConfig| config.tls.as_ref().is_some_and(|tls| tls.min_version == TlsVersion::Tls13);
    let limited = |config: &WebConfig| config.rate_limit.is_some();
    let ways: [(&'static str, Protects<'_>); 8] = [
        ("tls_server_config", &tls),
        ("basic_auth_users", &users),
        ("a client_auth_type that demands certificates", &demanded),
        ("a client_auth_type that verifies certificates", &verified),
        ("client_ca", &authority),
        ("client_allowed_sans", &named),
        ("min_version: TLS13", &modern),
        ("rate_limit", &limited),
    ];
    let mut lost: Vec<_> = ways
        .iter()
        .filter(|(_, protects)| protects(before) && !protects(after))
        .map(|(name, _)| *name)
        .collect();
    lost.extend(
        before
            .headers
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| after.headers.iter().all(|(other, _)| other != name)),
    );
    lost
}

fn lost_message(lost: &[&str]) -> String {
    let lost = lost.join(", ");
    format!(
        "removes existing protection ({lost}); if that is intended, reload (SIGHUP, or POST /-/reload with --web.enable-lifecycle)"
    )
}

fn policy(config: WebConfig) -> Result<ListenerPolicy, String> {
    let tls = |certificates| {
        config.tls.as_ref().map(|tls| server_config(tls, config.http2, certificates)).transpose()
    };
    let (protected, open) = (tls(true)?, tls(false)?);
    let header = |(name, value): &(&'static str, String)| {
        let wrong = |_| format!("http_server_config.headers.{name}: not a header value");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is not a header"))?;
        Ok((name, HeaderValue::from_str(value).map_err(wrong)?))
    };
    let headers = config.headers.iter().map(header).collect::<Result<_, String>>()?;
    let certificates = config.tls.as_ref().map(verifier).transpose()?.flatten();
    Ok(ListenerPolicy { tls: protected, open_tls: open, certificates, headers, config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WebTls;
    use crate::secret::{Secret, SecretSource};

    const USERS: &str = "basic_auth_users: {alice: '$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}\nrate_limit: {interval: 1s}\n";

    fn load(text: &str) -> (tempfile::TempDir, WebSecurity) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("web.yml"), text).expect("written");
        let file = folder.path().join("web.yml");
        let security = WebSecurity::load(Some(&file), Clock::system()).expect("valid");
        (folder, security)
    }

    fn has_users(security: &WebSecurity) -> bool {
        !security.current().config.users.is_empty()
    }

    #[test]
    fn a_changed_file_does_not_remove_protection_without_a_reload() {
        for (sentence, text, by_itself, after_reload) in [
            ("an empty file", "", true, true),
            ("spaces", " \n\n", true, true),
            ("a comment", "# users come later\n", true, true),
            ("a null document", "---\nnull\n", true, true),
            ("half a word", "basic_auth_users: {al", true, true),
            ("a key without users", "basic_auth_users:\n", true, true),
            ("everything but the users", "rate_limit: {interval: 2s}\n", true, false),
            ("an empty mapping", "{}\n", false, false),
            ("an empty mapping with a comment", "# no users\n{}\n", false, false),
            ("the same users", USERS, true, true),
        ] {
            let (folder, security) = load(USERS);
            assert!(has_users(&security));
            std::fs::write(folder.path().join("web.yml"), text).expect("written");
            // An old modification time makes no difference.
            let file =
                std::fs::File::options().write(true).open(folder.path().join("web.yml")).expect("open");
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).expect("an age");
            assert_eq!(has_users(&security), by_itself, "{sentence}, without a reload");
            if let Ok(fresh) = security.prepare() {
                security.swap(fresh);
            }
            assert_eq!(has_users(&security), after_reload, "{sentence}, after a reload");
        }
    }

    #[test]
    fn a_removed_user_is_rejected_immediately() {
        let (folder, security) = load(&USERS.replace(
            "{alice:",
            "{bob: '$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe', alice:",
        ));
        assert_eq!(security.current().config.users.len(), 2);
        std::fs::write(folder.path().join("web.yml"), USERS).expect("written");
        assert_eq!(security.current().config.users.len(), 1);
    }

    #[test]
    fn an_empty_file_is_invalid_at_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "\n", "# users come later\n"] {
            std::fs::write(folder.path().join("web.yml"), text).expect("written");
            let problems = WebSecurity::load(Some(&folder.path().join("web.yml")), Clock::system())
                .expect_err("wrong")
                .join("\n");
            assert!(
                problems.contains("write {} if the listener is meant to be unprotected"),
                "{text:?}: {problems}"
            );
        }
    }

    fn with_tls(change: impl FnOnce(&mut WebTls)) -> WebConfig {
        let source = || SecretSource::Inline(Secret::new("pem"));
        let mut tls = WebTls {
            certificate: source(),
            private_key: source(),
            client_auth: ClientAuth::None,
            client_ca: None,
            client_allowed_sans: None,
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            cipher_suites: Vec::new(),
            prefer_server_cipher_suites: true,
            curves: Vec::new(),
        };
        change(&mut tls);
        WebConfig { tls: Some(tls), ..WebConfig::default() }
    }

    #[test]
    fn lost_protection_is_recognized() {
        let nothing = WebConfig::default;
        let of =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Secret::new("hash"))).collect();
        let users = |names: &[&str]| WebConfig { users: of(names), ..WebConfig::default() };
        let tls = || with_tls(|_| {});
        let auth = |policy| with_tls(|tls| tls.client_auth = policy);
        let verified = |ca: bool, names: Option<&str>| {
            with_tls(|tls| {
                tls.client_auth = ClientAuth::RequireAndVerify;
                tls.client_ca = ca.then(|| SecretSource::Inline(Secret::new("pem")));
                tls.client_allowed_sans = names.map(|name| vec![name.to_owned()]);
            })
        };
        let rate_limit = Some(crate::config::RateLimit { interval: Duration::from_secs(1), burst: 5 });
        let limited = || WebConfig { rate_limit, ..WebConfig::default() };
        let hsts = || WebConfig {
            headers: vec![("Strict-Transport-Security", "max-age=1".to_owned())],
            ..WebConfig::default()
        };
        let modern = || with_tls(|tls| tls.min_version = TlsVersion::Tls13);
        for (sentence, before, after, weaker) in [
            ("nothing, and nothing", nothing(), nothing(), false),
            ("users are added", nothing(), users(&["alice"]), false),
            ("users are removed", users(&["alice"]), nothing(), true),
            ("one user is removed", users(&["alice", "bob"]), users(&["alice"]), false),
            ("one user for another", users(&["alice"]), users(&["bob"]), false),
            ("TLS is added", nothing(), tls(), false),
            ("TLS is removed", tls(), nothing(), true),
            ("TLS is added and users are removed", users(&["alice"]), tls(), true),
            ("certificates are requested", tls(), auth(ClientAuth::Request), false),
            ("certificates are no longer requested", auth(ClientAuth::Request), tls(), false),
            (
                "certificates are required",
                auth(ClientAuth::VerifyIfGiven),
                auth(ClientAuth::RequireAndVerify),
                false,
            ),
            (
                "certificates are no longer required",
                auth(ClientAuth::RequireAndVerify),
                auth(ClientAuth::VerifyIfGiven),
                true,
            ),
            (
                "certificates are no longer verified",
                auth(ClientAuth::RequireAndVerify),
                auth(ClientAuth::RequireAny),
                true,
            ),
            (
                "any certificate, and then only valid ones",
                auth(ClientAuth::RequireAny),
                auth(ClientAuth::RequireAndVerify),
                false,
            ),
            (
                "any certificate, and then valid ones or none",
                auth(ClientAuth::RequireAny),
                auth(ClientAuth::VerifyIfGiven),
                true,
            ),
            ("another authority", verified(true, None), verified(true, None), false),
            ("the system's authorities", verified(true, None), verified(false, None), true),
            ("an authority of our own", verified(false, None), verified(true, None), false),
            ("names are added", verified(true, None), verified(true, Some("a")), false),
            ("other names", verified(true, Some("a")), verified(true, Some("b")), false),
            ("names are removed", verified(true, Some("a")), verified(true, None), true),
            ("older versions of TLS", modern(), tls(), true),
            ("the rate limit is removed", limited(), nothing(), true),
            ("a header is removed", hsts(), nothing(), true),
            ("a header is added", nothing(), hsts(), false),
            ("newer versions of TLS", tls(), modern(), false),
        ] {
            assert_eq!(!lost_protection(&before, &after).is_empty(), weaker, "{sentence}");
        }
    }
}
