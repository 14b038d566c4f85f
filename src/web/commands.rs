//! The interfaces through which the routes use the rest of the process: the monitor, the database, and the reload.

use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

use crate::domain::{BrakeAction, HeldMails, Hold, Timestamp};

/// A boxed future, because the traits below are used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the routes need from the monitor.
pub trait Commands: Send + Sync {
    /// Whether the monitor's loop is running.
    fn is_alive(&self) -> bool;

    /// When the next probe of an integration is due.
    fn next_probe(&self, name: &str) -> Option<Timestamp>;

    /// Until when an integration waits because Microsoft asked for a pause for its tenant (`Retry-After`).
    fn paused_until(&self, name: &str) -> Option<Timestamp>;

    /// `Some` while a re-authentication of an integration is being verified: whether a probe that began after it has ended.
    fn verification(&self, name: &str) -> Option<bool>;

    /// Schedules an extra probe of an integration as soon as possible.
    fn probe_soon(&self, name: &str);

    /// Runs an extra probe of an integration and waits until it ends.
    fn probe_now<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;

    /// Probes an integration that was re-authenticated at `began` immediately, and again while the consent propagates.
    fn verify_renewal(&self, name: &str, began: Timestamp);

    /// The mails that the brake holds; `None` while it holds none.
    fn held(&self) -> BoxFuture<'_, Option<(Hold, HeldMails)>>;

    /// Does something with the mails that a hold holds; `who` is for the history.
    fn act_on_brake<'a>(
        &'a self,
        id: &'a str,
        action: BrakeAction,
        who: &'a str,
    ) -> BoxFuture<'a, BrakeOutcome>;

    /// Snoozes the reminders of an integration until a time; `who` is for the history. Returns whether it is broken. An error means that the database
    /// cannot be written.
    fn snooze<'a>(&'a self, name: &'a str, until: Timestamp, who: &'a str)
    -> BoxFuture<'a, Result<bool, ()>>;

    /// Ends a snooze before its time. Returns whether there was one. An error means that the database cannot be written.
    fn end_snooze<'a>(&'a self, name: &'a str, who: &'a str) -> BoxFuture<'a, Result<bool, ()>>;

    /// Like [`Self::verify_renewal`] for an unverified claim of a re-authentication: failures count as usual.
    fn verify_claim(&self, name: &str, began: Timestamp);
}

/// What came of an action on held mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrakeOutcome {
    /// It was done, with this number of mails.
    Done(usize),
    /// That hold is over.
    Over,
    /// The database cannot be written.
    Unavailable,
}

/// An event of an integration, to be saved in its history.
#[derive(Debug, Clone)]
pub struct Record {
    /// Name of the integration.
    pub integration: String,
    /// `link_made`, …
    pub kind: &'static str,
    /// Who did it.
    pub detail: String,
}

/// What the database has stored about an integration.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Events, newest first: kind, time, detail.
    pub events: Vec<(String, Timestamp, String)>,
    /// Mails, newest first.
    pub mails: Vec<MailRecord>,
    /// The stored token: its source, when it was last renewed, who consented.
    pub token: Option<(String, Timestamp, Option<String>)>,
    /// The file of a token that another program maintains.
    pub token_file: Option<String>,
    /// The credentials of the application and its directory reader.
    pub credentials: Vec<CredentialRecord>,
}

/// A credential, without its secret.
#[derive(Debug, Clone)]
pub struct CredentialRecord {
    /// The directory reader that has it; `None` for the application itself.
    pub reader: Option<String>,
    /// `client secret`, `certificate`, `federated token`, `managed identity`, `none`.
    pub kind: &'static str,
    /// When it expires; `None` where the credential does not contain that.
    pub expires: Option<Timestamp>,
}

/// A mail about an integration.
#[derive(Debug, Clone)]
pub struct MailRecord {
    /// `alert`, `resolved`, …
    pub kind: String,
    /// Mail address.
    pub recipient: String,
    /// When it was put into the outbox.
    pub created: Timestamp,
    /// When the mail server accepted it.
    pub sent: Option<Timestamp>,
    /// Whether Consentry no longer tries to send it.
    pub given_up: bool,
    /// Why it is pending or was given up, in the mail server's words.
    pub problem: Option<String>,
    /// Why it waits, in words, besides the mail server's.
    pub waits: &'static str,
    /// The brake holds it.
    pub held: bool,
}

/// An event of the fleet.
#[derive(Debug, Clone)]
pub struct FleetEvent {
    /// Its number: later events have higher ones.
    pub id: i64,
    /// The integration; empty for an event of the fleet.
    pub integration: String,
    /// `broken`, `snoozed`, …
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// A reason's label, or who did it.
    pub detail: String,
}

/// Which events of the fleet are wanted; `None` means any.
#[derive(Debug, Clone)]
pub struct EventQuery {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only with this reason's label.
    pub reason: Option<String>,
    /// Only of this integration.
    pub integration: Option<String>,
    /// Only of these integrations.
    pub integrations: Option<Vec<String>>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Only with lower numbers.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// What the routes need from the database.
pub trait History: Send + Sync {
    /// What is wrong with the database, in one sentence.
    fn problem(&self) -> Option<&'static str>;

    /// What is stored about an integration. Parts that cannot be read now are empty.
    fn records<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Records>;

    /// What happened in the fleet, newest first; `None` if it cannot be read now.
    fn fleet_events(&self, wanted: EventQuery) -> BoxFuture<'_, Option<Vec<FleetEvent>>>;

    /// Saves an event. Returns whether that succeeded.
    fn keep(&self, record: Record) -> BoxFuture<'_, bool>;
}

/// A request for a reload. The result is sent back: what is wrong with the configuration, if anything.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// Passes requests for a reload to the task that performs them.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

impl Reloads {
    /// The sending side, and the receiver of the requests.
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
        let (reply, result) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| unable)?;
        result.await.map_err(|_| unable)?
    }
}
