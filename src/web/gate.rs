//! What `--web.config.file` says, as it stands now: the file and those it names are read again when they change. One that is wrong
//! changes nothing and is told in the log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderName, HeaderValue};
use rustls::ServerConfig;

use super::limits::Bucket;
use super::tls::server_config;
use super::users::Users;
use crate::clock::Clock;
use crate::config::{Looks, RateLimit, WebConfig, load_web};

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
    bucket: Mutex<Option<(RateLimit, Bucket)>>,
    /// Whose password was right.
    pub(super) users: Users,
}

#[derive(Debug)]
struct State {
    posture: Arc<Posture>,
    seen: Looks,
    complaint: Option<String>,
}

impl Gate {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn load(path: Option<&Path>, clock: Clock) -> Result<Self, Vec<String>> {
        let config = path.map(load_web).transpose().map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let config = config.unwrap_or_default();
        let seen = Looks::at(&config.files);
        let posture = Arc::new(posture(config).map_err(|problem| vec![in_file(path, &problem)])?);
        let state = Mutex::new(State { posture, seen, complaint: None });
        Ok(Self { path: path.map(Path::to_owned), clock, state, bucket: Mutex::default(), users: Users::default() })
    }

    /// Reads the file again, for [`Self::swap`].
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn prepare(&self) -> Result<Self, Vec<String>> {
        Self::load(self.path.as_deref(), self.clock.clone())
    }

    /// From now on protects as this one does.
    pub fn swap(&self, fresh: Self) {
        let fresh = fresh.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// The protection as the files are now.
    pub(super) fn current(&self) -> Arc<Posture> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = Looks::at(&state.posture.config.files);
        // What is wrong may be mended in a file that is not among these.
        if looks.may_differ(&state.seen) || state.complaint.is_some() {
            self.look_again(&mut state, looks);
        }
        Arc::clone(&state.posture)
    }

    fn look_again(&self, state: &mut State, looks: Looks) {
        match Self::load(self.path.as_deref(), self.clock.clone()) {
            Ok(fresh) => {
                let fresh = fresh.state.into_inner().unwrap_or_else(PoisonError::into_inner);
                if looks.differ(&state.seen) || state.complaint.is_some() {
                    tracing::info!(file = %self.path.as_deref().unwrap_or(Path::new("")).display(), "protection of the listener read again");
                }
                *state = fresh;
            }
            Err(problems) => {
                state.seen = looks;
                let complaint = problems.join("; ");
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(error = complaint, "cannot read the protection of the listener again; the old one stays");
                    state.complaint = Some(complaint);
                }
            }
        }
    }

    /// Whether one more request is within the limit. Counts it.
    pub(super) fn has_room(&self, limit: Option<RateLimit>) -> bool {
        let Some(limit) = limit else { return true };
        let (mut bucket, now) = (self.bucket.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now());
        let fresh = || (limit, Bucket::full(f64::from(limit.burst), now));
        let kept = bucket.take().filter(|(old, _)| *old == limit).unwrap_or_else(fresh);
        let (limit, mut tokens) = kept;
        let room = tokens.take(f64::from(limit.burst), limit.interval.as_secs_f64() * 1000.0, now);
        *bucket = Some((limit, tokens));
        room
    }
}

fn in_file(path: Option<&Path>, problem: &str) -> String {
    format!("{}: {problem}", path.unwrap_or(Path::new("")).display())
}

fn posture(config: WebConfig) -> Result<Posture, String> {
    let tls = |certificates| config.tls.as_ref().map(|tls| server_config(tls, config.http2, certificates)).transpose();
    let (policy, open) = (tls(true)?, tls(false)?);
    let header = |(name, value): &(&'static str, String)| {
        let wrong = |_| format!("http_server_config.headers.{name}: not a header value");
        Ok((
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is no header"))?,
            HeaderValue::from_str(value).map_err(wrong)?,
        ))
    };
    let headers = config.headers.iter().map(header).collect::<Result<_, String>>()?;
    Ok(Posture { tls: policy, open_tls: open, headers, config })
}
