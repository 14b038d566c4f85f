//! What the routes ask of the rest of the process: of the monitor, of the database, of whoever can reload.

use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

use crate::domain::Timestamp;

/// Something that takes a while.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the routes ask of the monitor.
pub trait Commands: Send + Sync {
    /// Whether the fleet is being probed.
    fn is_alive(&self) -> bool;

    /// When an integration is probed next.
    fn next_probe(&self, name: &str) -> Option<Timestamp>;

    /// Until when an integration waits because its tenant asked for a pause (`Retry-After`).
    fn paused_until(&self, name: &str) -> Option<Timestamp>;

    /// Whether a re-authentication of an integration is being verified, and if so whether a probe that began afterwards has ended.
    fn verification(&self, name: &str) -> Option<bool>;

    /// Probes an integration soon, out of turn.
    fn probe_soon(&self, name: &str);

    /// Probes an integration, out of turn, and waits for the end.
    fn probe_now<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;

    /// Probes an integration that was re-authenticated at this moment at once, and again while consent spreads.
    fn verify_renewal(&self, name: &str, began: Timestamp);

    /// The same for one of which somebody merely says so: what fails is held against it, as ever.
    fn verify_claim(&self, name: &str, began: Timestamp);
}

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

/// What the database remembers of an integration.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// What happened, newest first: kind, when, detail.
    pub events: Vec<(String, Timestamp, String)>,
    /// Who was notified, newest first.
    pub mails: Vec<MailRecord>,
    /// Where the stored token came from, when it was last renewed, who consented.
    pub token: Option<(String, Timestamp, Option<String>)>,
    /// The file in which somebody else keeps the token.
    pub token_file: Option<String>,
    /// With what the application and its directory reader sign in.
    pub credentials: Vec<CredentialRecord>,
}

/// A credential, without its secret.
#[derive(Debug, Clone)]
pub struct CredentialRecord {
    /// The directory reader that has it; `None` for the application itself.
    pub reader: Option<String>,
    /// `client secret`, `certificate`, `none`.
    pub kind: &'static str,
    /// When it expires, as far as it says so itself.
    pub expires: Option<Timestamp>,
}

/// A mail about an integration.
#[derive(Debug, Clone)]
pub struct MailRecord {
    /// `alert`, `resolved`, …
    pub kind: String,
    /// To whom.
    pub recipient: String,
    /// When it was decided.
    pub created: Timestamp,
    /// When the mail server took it.
    pub sent: Option<Timestamp>,
    /// It was given up.
    pub given_up: bool,
    /// Why it waits, or was given up, in the mail server's words.
    pub problem: Option<String>,
}

/// What the routes ask of the database.
pub trait History: Send + Sync {
    /// What is wrong with the database, in a sentence; nothing when all is well.
    fn problem(&self) -> Option<&'static str>;

    /// What is remembered of an integration. What cannot be read now is empty.
    fn records<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Records>;

    /// Keeps a record. Answers whether that has worked.
    fn keep(&self, record: Record) -> BoxFuture<'_, bool>;
}

/// Somebody asks for a reload, and waits for what is wrong with the configuration.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// Hands requests for a reload to whoever can reload.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

impl Reloads {
    /// Requests arrive at the other end.
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(8);
        (Self(sender), receiver)
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// What is wrong with the configuration, or that this process cannot reload it.
    pub async fn reload(&self) -> Result<(), String> {
        let unable = "this process cannot reload its configuration";
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| unable)?;
        answer.await.map_err(|_| unable)?
    }
}
