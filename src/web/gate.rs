//! What `--web.config.file` says, as it stands now: the file and those it names are read again when they change. One that is wrong
//! changes nothing and is told in the log. A file is empty, or half there, for a moment while somebody writes it: an empty one counts as
//! wrong, and one that takes protection away counts only when nothing has happened to it for a while.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use rustls::ServerConfig;

use super::tls::server_config;
use super::users::Users;
use crate::clock::Clock;
use crate::config::{ClientAuth, Looks, WebConfig, load_web};

/// The protection at one moment.
#[derive(Debug)]
pub(super) struct Posture {
    /// As configured.
    pub(super) config: WebConfig,
    /// For handshakes with those whom the policy admits.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// For handshakes with everybody.
    pub(super) open_tls: Option<Arc<ServerConfig>>,
    /// Headers of every answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// How the listeners are protected.
#[derive(Debug)]
pub struct Gate {
    path: Option<PathBuf>,
    clock: Clock,
    state: Mutex<State>,
    /// Whose password was right.
    pub(super) users: Users,
}

#[derive(Debug)]
struct State {
    posture: Arc<Posture>,
    /// How the files looked before they were read last.
    seen: Looks,
    read: Instant,
    complaint: Option<String>,
}

/// Files that look the same are read again no sooner than this, however often somebody connects.
const PAUSE: Duration = Duration::from_secs(1);

/// Whoever writes a file has written it whole by then.
const YOUNG: Duration = Duration::from_millis(150);

impl Gate {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn load(path: Option<&Path>, clock: Clock) -> Result<Self, Vec<String>> {
        let state = State::read(path)?;
        Ok(Self { path: path.map(Path::to_owned), clock, state: Mutex::new(state), users: Users::default() })
    }

    /// Reads the file again, for [`Self::swap`].
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn prepare(&self) -> Result<Self, Vec<String>> {
        self.not_empty()?;
        Self::load(self.path.as_deref(), self.clock.clone())
    }

    /// From now on protects as this one does.
    pub fn swap(&self, fresh: Self) {
        let fresh = fresh.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// For the present moment.
    /// Whether the listeners speak TLS now.
    pub fn speaks_tls(&self) -> bool {
        self.current().tls.is_some()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The protection as the files are now.
    pub(super) fn current(&self) -> Arc<Posture> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = Looks::at(&state.posture.config.files);
        // What is wrong may be mended in a file that is not among these.
        let again = (looks.may_differ(&state.seen) || state.complaint.is_some()) && state.read.elapsed() >= PAUSE;
        if looks.differ(&state.seen) || again {
            self.look_again(&mut state, looks);
        }
        Arc::clone(&state.posture)
    }

    /// A file that nobody has written yet, or that found no room on its disk, is no file that protects nothing.
    fn not_empty(&self) -> Result<(), Vec<String>> {
        let empty = |path: &&PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.trim().is_empty());
        match self.path.as_ref().filter(empty) {
            Some(path) => Err(vec![format!("{}: is empty; write {{}} if it is meant to protect nothing", path.display())]),
            None => Ok(()),
        }
    }

    fn look_again(&self, state: &mut State, looks: Looks) {
        let file = self.path.as_deref().unwrap_or(Path::new(""));
        match self.not_empty().and_then(|()| State::read(self.path.as_deref())) {
            Ok(fresh) if is_weaker(&state.posture.config, &fresh.posture.config) && is_young(file) => {}
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
                    tracing::error!(error = complaint, "cannot read the protection of the listener again; the old one stays");
                    state.complaint = Some(complaint);
                }
            }
        }
    }
}

impl State {
    fn read(path: Option<&Path>) -> Result<Self, Vec<String>> {
        let load = || path.map(load_web).transpose().map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>());
        // Looked at before the reading that counts: what changes in between is seen next time.
        let seen = Looks::at(&load()?.unwrap_or_default().files);
        let config = load()?.unwrap_or_default();
        let in_file = |problem| vec![format!("{}: {problem}", path.unwrap_or(Path::new("")).display())];
        Ok(Self { posture: Arc::new(posture(config).map_err(in_file)?), seen, read: Instant::now(), complaint: None })
    }
}

/// Whether somebody may still be writing the file.
fn is_young(file: &Path) -> bool {
    let modified = std::fs::metadata(file).and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < YOUNG))
}

/// Whether one configuration protects in a way in which the next does not.
fn is_weaker(before: &WebConfig, after: &WebConfig) -> bool {
    let policy = |config: &WebConfig| config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.client_auth);
    let demanded = |config: &WebConfig| matches!(policy(config), ClientAuth::RequireAny | ClientAuth::RequireAndVerify);
    let verified = |config: &WebConfig| matches!(policy(config), ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
    let named = |config: &WebConfig| config.tls.as_ref().is_some_and(|tls| tls.client_allowed_sans.is_some());
    let tls = |config: &WebConfig| config.tls.is_some();
    let users = |config: &WebConfig| !config.users.is_empty();
    let ways: [&dyn Fn(&WebConfig) -> bool; 5] = [&tls, &users, &demanded, &verified, &named];
    ways.iter().any(|protects| protects(before) && !protects(after))
}

fn posture(config: WebConfig) -> Result<Posture, String> {
    let tls = |certificates| config.tls.as_ref().map(|tls| server_config(tls, config.http2, certificates)).transpose();
    let (policy, open) = (tls(true)?, tls(false)?);
    let header = |(name, value): &(&'static str, String)| {
        let wrong = |_| format!("http_server_config.headers.{name}: not a header value");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is no header"))?;
        Ok((name, HeaderValue::from_str(value).map_err(wrong)?))
    };
    let headers = config.headers.iter().map(header).collect::<Result<_, String>>()?;
    Ok(Posture { tls: policy, open_tls: open, headers, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file as it is read while somebody writes it, and some time after that.
    fn at(folder: &Path, text: &str, age: Duration) {
        let file = folder.join("web.yml");
        std::fs::write(&file, text).expect("written");
        let modified = std::time::SystemTime::now() - age;
        std::fs::File::options().write(true).open(file).and_then(|f| f.set_modified(modified)).expect("an age");
    }

    #[test]
    fn protection_does_not_fall_away_while_the_file_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let users =
            "basic_auth_users: {alice: '$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}\nrate_limit: {interval: 1s}\n";
        let (old, young) = (Duration::from_secs(60), Duration::ZERO);
        at(folder.path(), users, old);
        let gate = Gate::load(Some(&folder.path().join("web.yml")), Clock::system()).expect("good");
        let asks = || !gate.current().config.users.is_empty();
        assert!(asks());
        for (text, age, expected) in [
            ("", young, true),
            ("", old, true),
            ("rate_limit: {interval: 2s}\n", young, true),
            ("basic_auth_users: {al", old, true),
            ("rate_limit: {interval: 2s}\n", old, false),
            (users, young, true),
            ("{}\n", old, false),
        ] {
            at(folder.path(), text, age);
            assert_eq!(asks(), expected, "{text:?}, {age:?} old");
        }
    }
}
