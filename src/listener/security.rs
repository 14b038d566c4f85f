//! What `--web.config.file` says, as it stands now: the file and those it names are read again when they change. One that is wrong
//! changes nothing, and the log says so. A file is empty, or half there, while somebody writes it, and may stay so when the disk is full: so
//! an empty one counts as wrong, and one that takes protection away counts only after a reload that somebody asked for, or where it says
//! `{}`, which nobody writes by accident.

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

/// The protection at one moment.
#[derive(Debug)]
pub(crate) struct ListenerPolicy {
    /// As configured.
    pub(crate) config: WebConfig,
    /// For handshakes with those whom the policy admits.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// For handshakes with everybody.
    pub(crate) open_tls: Option<Arc<ServerConfig>>,
    /// Says whose a certificate is, where certificates are verified.
    pub(crate) certificates: Option<Arc<ClientCertificates>>,
    /// Headers of every answer.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl ListenerPolicy {
    /// Whether nobody comes in without a certificate that is verified.
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
    /// Whose password was right.
    pub(crate) users: Users,
}

#[derive(Debug)]
struct State {
    posture: Arc<ListenerPolicy>,
    /// How the files looked before they were read last.
    seen: FileStamps,
    read: Instant,
    complaint: Option<String>,
}

/// Files that look the same are read again no sooner than this, however often somebody connects.
const PAUSE: Duration = Duration::from_secs(1);

impl WebSecurity {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn load(path: Option<&Path>, clock: Clock) -> Result<Self, Vec<String>> {
        let state = State::read(path)?;
        Ok(Self { path: path.map(Path::to_owned), clock, state: Mutex::new(state), users: Users::default() })
    }

    /// Reads the file again, for [`Self::swap`]: somebody asks for it, so it may take protection away.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn prepare(&self) -> Result<Self, Vec<String>> {
        Self::load(self.path.as_deref(), self.clock.clone())
    }

    /// From now on protects as this one does.
    pub fn swap(&self, fresh: Self) {
        let fresh = fresh.state.into_inner();
        *self.state.lock() = fresh;
    }

    /// Whether the listeners speak TLS now.
    pub fn speaks_tls(&self) -> bool {
        self.current().tls.is_some()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The protection as the files are now.
    pub(crate) fn current(&self) -> Arc<ListenerPolicy> {
        let mut state = self.state.lock();
        let looks = FileStamps::at(&state.posture.config.files);
        // What is wrong may be fixed in a file that is not among these.
        let again =
            (looks.may_differ(&state.seen) || state.complaint.is_some()) && state.read.elapsed() >= PAUSE;
        if looks.differ(&state.seen) || again {
            self.look_again(&mut state, looks);
        }
        Arc::clone(&state.posture)
    }

    fn look_again(&self, state: &mut State, looks: FileStamps) {
        let file = self.path.as_deref().unwrap_or(Path::new(""));
        let fresh = State::read(self.path.as_deref()).and_then(|fresh| {
            let lost = if fresh.posture.config.open {
                Vec::new()
            } else {
                weakened(&state.posture.config, &fresh.posture.config)
            };
            if lost.is_empty() {
                Ok(fresh)
            } else {
                Err(vec![format!("{}: {}", file.display(), takes_away(&lost))])
            }
        });
        match fresh {
            Ok(fresh) => {
                if looks.differ(&state.seen) || state.complaint.is_some() {
                    tracing::info!(file = %file.display(), "protection of the listener read again");
                }
                *state = fresh;
            }
            Err(problems) => {
                (state.seen, state.read) = (looks, Instant::now());
                let complaint = problems.join("; ");
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        error = complaint,
                        "cannot read the protection of the listener again; the old one stays"
                    );
                    state.complaint = Some(complaint);
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
        // Looked at before the reading that counts: what changes in between is seen next time.
        let seen = FileStamps::at(&load()?.unwrap_or_default().files);
        let config = load()?.unwrap_or_default();
        let in_file = |problem| vec![format!("{}: {problem}", path.unwrap_or(Path::new("")).display())];
        Ok(Self {
            posture: Arc::new(posture(config).map_err(in_file)?),
            seen,
            read: Instant::now(),
            complaint: None,
        })
    }
}

fn client_auth(config: &WebConfig) -> ClientAuth {
    config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.client_auth)
}

/// Whether a configuration protects in one way.
type Protects<'a> = &'a dyn Fn(&WebConfig) -> bool;

/// What one configuration protects by, and the next does not. Users who are taken off the list, or change their password, are no such
/// thing: they have to be out at once, and somebody is still asked for.
fn weakened(before: &WebConfig, after: &WebConfig) -> Vec<&'static str> {
    let demanded = |config: &WebConfig| {
        matches!(client_auth(config), ClientAuth::RequireAny | ClientAuth::RequireAndVerify)
    };
    let verified = |config: &WebConfig| {
        matches!(client_auth(config), ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify)
    };
    let tls = |config: &WebConfig| config.tls.is_some();
    let users = |config: &WebConfig| !config.users.is_empty();
    let named = |config: &WebConfig| config.tls.as_ref().is_some_and(|tls| tls.client_allowed_sans.is_some());
    // Without one, the system's authorities count, who vouch for anybody.
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

fn takes_away(lost: &[&str]) -> String {
    let lost = lost.join(", ");
    format!(
        "lacks what protected until now ({lost}); if that is meant, reload (SIGHUP, or POST /-/reload with --web.enable-lifecycle)"
    )
}

fn posture(config: WebConfig) -> Result<ListenerPolicy, String> {
    let tls = |certificates| {
        config.tls.as_ref().map(|tls| server_config(tls, config.http2, certificates)).transpose()
    };
    let (policy, open) = (tls(true)?, tls(false)?);
    let header = |(name, value): &(&'static str, String)| {
        let wrong = |_| format!("http_server_config.headers.{name}: not a header value");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is no header"))?;
        Ok((name, HeaderValue::from_str(value).map_err(wrong)?))
    };
    let headers = config.headers.iter().map(header).collect::<Result<_, String>>()?;
    let certificates = config.tls.as_ref().map(verifier).transpose()?.flatten();
    Ok(ListenerPolicy { tls: policy, open_tls: open, certificates, headers, config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WebTls;
    use crate::secret::{Secret, SecretSource};

    const USERS: &str = "basic_auth_users: {alice: '$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}\nrate_limit: {interval: 1s}\n";

    fn gate(text: &str) -> (tempfile::TempDir, WebSecurity) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("web.yml"), text).expect("written");
        let gate = WebSecurity::load(Some(&folder.path().join("web.yml")), Clock::system()).expect("good");
        (folder, gate)
    }

    fn asks(gate: &WebSecurity) -> bool {
        !gate.current().config.users.is_empty()
    }

    #[test]
    fn protection_does_not_fall_away_with_the_file() {
        for (sentence, text, by_itself, when_asked) in [
            ("an empty file", "", true, true),
            ("blanks", " \n\n", true, true),
            ("a comment", "# users come later\n", true, true),
            ("nothing in YAML's own words", "---\nnull\n", true, true),
            ("half a word", "basic_auth_users: {al", true, true),
            ("a key without users", "basic_auth_users:\n", true, true),
            ("everything but the users", "rate_limit: {interval: 2s}\n", true, false),
            ("an empty mapping", "{}\n", false, false),
            ("an empty mapping that is explained", "# everybody may come\n{}\n", false, false),
            ("the same users", USERS, true, true),
        ] {
            let (folder, gate) = gate(USERS);
            assert!(asks(&gate));
            std::fs::write(folder.path().join("web.yml"), text).expect("written");
            // Age does not make it better.
            let file =
                std::fs::File::options().write(true).open(folder.path().join("web.yml")).expect("open");
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).expect("an age");
            assert_eq!(asks(&gate), by_itself, "{sentence}, by itself");
            if let Ok(fresh) = gate.prepare() {
                gate.swap(fresh);
            }
            assert_eq!(asks(&gate), when_asked, "{sentence}, when a reload is asked for");
        }
    }

    #[test]
    fn a_user_who_is_taken_off_the_list_is_out_at_once() {
        let (folder, gate) = gate(&USERS.replace(
            "{alice:",
            "{bob: '$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe', alice:",
        ));
        assert_eq!(gate.current().config.users.len(), 2);
        std::fs::write(folder.path().join("web.yml"), USERS).expect("written");
        assert_eq!(gate.current().config.users.len(), 1);
    }

    #[test]
    fn a_file_that_says_nothing_is_wrong_from_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "\n", "# users come later\n"] {
            std::fs::write(folder.path().join("web.yml"), text).expect("written");
            let problems = WebSecurity::load(Some(&folder.path().join("web.yml")), Clock::system())
                .expect_err("wrong")
                .join("\n");
            assert!(problems.contains("write {} if the listener is meant to be unprotected"), "{text:?}: {problems}");
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
    fn what_takes_protection_away() {
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
            ("users come", nothing(), users(&["alice"]), false),
            ("users go", users(&["alice"]), nothing(), true),
            ("one user goes", users(&["alice", "bob"]), users(&["alice"]), false),
            ("one user for another", users(&["alice"]), users(&["bob"]), false),
            ("TLS comes", nothing(), tls(), false),
            ("TLS goes", tls(), nothing(), true),
            ("TLS comes and users go", users(&["alice"]), tls(), true),
            ("certificates are asked for", tls(), auth(ClientAuth::Request), false),
            ("certificates are not asked for any more", auth(ClientAuth::Request), tls(), false),
            (
                "certificates are demanded",
                auth(ClientAuth::VerifyIfGiven),
                auth(ClientAuth::RequireAndVerify),
                false,
            ),
            (
                "certificates are not demanded any more",
                auth(ClientAuth::RequireAndVerify),
                auth(ClientAuth::VerifyIfGiven),
                true,
            ),
            (
                "certificates are not verified any more",
                auth(ClientAuth::RequireAndVerify),
                auth(ClientAuth::RequireAny),
                true,
            ),
            (
                "any certificate, and then good ones only",
                auth(ClientAuth::RequireAny),
                auth(ClientAuth::RequireAndVerify),
                false,
            ),
            (
                "any certificate, and then good ones or none",
                auth(ClientAuth::RequireAny),
                auth(ClientAuth::VerifyIfGiven),
                true,
            ),
            ("another authority", verified(true, None), verified(true, None), false),
            ("everybody's authorities", verified(true, None), verified(false, None), true),
            ("an authority of our own", verified(false, None), verified(true, None), false),
            ("names come", verified(true, None), verified(true, Some("a")), false),
            ("other names", verified(true, Some("a")), verified(true, Some("b")), false),
            ("names go", verified(true, Some("a")), verified(true, None), true),
            ("older versions of TLS", modern(), tls(), true),
            ("the rate limit goes", limited(), nothing(), true),
            ("a header goes", hsts(), nothing(), true),
            ("a header comes", nothing(), hsts(), false),
            ("newer versions of TLS", tls(), modern(), false),
        ] {
            assert_eq!(!weakened(&before, &after).is_empty(), weaker, "{sentence}");
        }
    }
}
