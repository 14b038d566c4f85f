//! Draining the outbox: oldest first, growing pauses while the mail server is away, nothing lost, nothing sent twice.
//!
//! That a mail is being handed over is saved before the dot that ends it, and that it was taken before the farewell. So a crash, a server that
//! breaks off, or one that never answers leaves a mail of which it is known that it may have arrived: it is tried again after an hour, with the
//! same `Message-ID`, and three times at most. What follows from a failure is decided in [`super::retry`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::message::{MailBranding, fingerprint, render};
use super::retry::{AFTER_SILENCE, History, Next, SILENCES, next};
use super::smtp::{Blame, Connection, Dictated, Failure, SmtpSettings, Undelivered, on_the_wire};
use crate::clock::Clock;
use crate::domain::{
    Incident, LinkTarget, MailKind, Notification, Obstacle, Timestamp, Undeliverable, one_line,
};
use crate::metrics::Families;
use crate::store::{FailedAttempt, OtherMails, Queued, Store, StoreError};

/// What becomes of mails, whoever sends them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Nudged when mails were saved.
    pub nudge: Arc<Notify>,
    /// What has become of mails and the database could not save yet: it is saved before anything else is done with them.
    unsaved: Arc<Mutex<HashMap<i64, Unsaved>>>,
    /// Mails that are being sent, by this notifier or by one that has been replaced meanwhile.
    under_way: Arc<Mutex<HashSet<i64>>>,
    /// The mail server, and how many connections to it are open: attempts of a notifier that has been replaced count, too.
    server: Arc<Mutex<Option<ServerConnections>>>,
}

/// Connections to one mail server.
#[derive(Debug)]
struct ServerConnections {
    host: String,
    port: u16,
    most: usize,
    open: Arc<Semaphore>,
}

/// What the database does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsaved {
    /// The server has taken the mail.
    Sent,
    /// The mail was handed over and no answer came.
    HandedOver,
}

impl Outbox {
    fn unsaved(&self) -> MutexGuard<'_, HashMap<i64, Unsaved>> {
        self.unsaved.lock()
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.under_way.lock()
    }

    /// The connections to a mail server, which are the same as long as server and number are.
    fn connections(&self, smtp: &SmtpSettings) -> Arc<Semaphore> {
        let most = smtp.server.connections.max(1);
        let mut server = self.server.lock();
        if let Some(same) = server
            .as_ref()
            .filter(|d| d.host == smtp.server.host && d.port == smtp.server.port && d.most == most)
        {
            return Arc::clone(&same.open);
        }
        let open = Arc::new(Semaphore::new(most));
        *server = Some(ServerConnections {
            host: smtp.server.host.clone(),
            port: smtp.server.port,
            most,
            open: Arc::clone(&open),
        });
        open
    }

    /// Takes a mail, unless it is under way already.
    fn claim(&self, id: i64) -> Option<Claim> {
        self.under_way().insert(id).then(|| Claim { outbox: self.clone(), id })
    }
}

/// A mail that is under way for as long as this lives.
struct Claim {
    outbox: Outbox,
    id: i64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.outbox.under_way().remove(&self.id);
    }
}

/// A signed link that is being made; `None` where there is none to make.
pub type LinkMade = std::pin::Pin<Box<dyn Future<Output = Result<Option<String>, StoreError>> + Send>>;

/// Makes the signed link of an integration, good from now on.
pub type LinkMaker = Arc<dyn Fn(&str, Timestamp) -> LinkMade + Send + Sync>;

/// How mail is sent.
#[derive(Clone)]
pub struct NotifierSettings {
    /// The mail server.
    pub smtp: SmtpSettings,
    /// What every mail has in common.
    pub branding: MailBranding,
    /// Who runs Consentry.
    pub operators: Vec<String>,
    /// Makes links to Consentry's own page.
    pub link: LinkMaker,
}

impl std::fmt::Debug for NotifierSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifierSettings").field("smtp", &self.smtp).finish_non_exhaustive()
    }
}

/// So many waiting mails are looked at together; how many are sent at once is configured.
const LOOKED_AT: u32 = 64;

/// After the order to stop, a mail has so long to come to the point from which on it may have arrived; then it stays in the queue.
const GRACE: Duration = Duration::from_secs(3);

/// After the order to stop, an answer is waited for so long. It is less than what the end of the process allows; after a reload the mail goes on
/// by itself.
const LAST_ANSWER: Duration = Duration::from_secs(6);

/// While mails are under way, others are looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Nobody sleeps longer than this, whatever the next mail's time is.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// So much of a mail server's words is kept.
const PROBLEM: usize = 300;

/// Nothing is older than this and still kept, once it was delivered.
const KEEP: Duration = Duration::from_secs(90 * 86_400);

/// Mails that were read from the outbox together, for all connections.
struct Drain {
    claimed: tokio::sync::Mutex<VecDeque<(Claim, Queued)>>,
    stop: watch::Receiver<bool>,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    settings: Arc<NotifierSettings>,
    store: Store,
    families: Families,
    clock: Clock,
    outbox: Outbox,
    /// One for each connection that is open or ending.
    connections: Arc<Semaphore>,
}

impl Notifier {
    /// Puts the parts together.
    pub fn new(
        settings: NotifierSettings,
        store: Store,
        families: Families,
        clock: Clock,
        outbox: Outbox,
    ) -> Self {
        let connections = outbox.connections(&settings.smtp);
        Self { settings: Arc::new(settings), store, families, clock, outbox, connections }
    }

    /// Runs until it is stopped; a mail that is being handed over is finished first, as far as that takes seconds.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        if let Ok(Some(at)) = self.store.last_mail().await {
            // Noted while the wall clock was ahead, it would hide for years that no mail goes through.
            self.families.set_last_email(at.min(self.clock.now()));
        }
        loop {
            let wait = match self.drain_while(stop.clone()).await {
                Ok(next) => next.map_or(LONGEST_SLEEP, |n| {
                    n.since(self.clock.now()).clamp(Duration::from_millis(100), LONGEST_SLEEP)
                }),
                Err(error) => {
                    tracing::error!(%error, "cannot read the outbox");
                    Duration::from_secs(5)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.outbox.nudge.notified() => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
    }

    /// Sends everything that is due now; answers when the next mail is.
    pub async fn drain(&self) -> Result<Option<Timestamp>, StoreError> {
        let (_going_on, stop) = watch::channel(false);
        self.drain_while(stop).await
    }

    /// The same, until it should stop. As many mails are under way as connections are allowed; a slow one holds up its connection only.
    async fn drain_while(&self, stop: watch::Receiver<bool>) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        self.store.prune_notifications(now.minus(KEEP)).await?;
        let healed = self.store.heal_mail_times(now).await?;
        if healed > 0 {
            tracing::info!(
                mails = healed,
                "the wall clock was set; times of mails that lay too far ahead are corrected"
            );
        }
        let drain = Arc::new(Drain { claimed: tokio::sync::Mutex::default(), stop });
        let (mut workers, mut outcome) = (JoinSet::new(), Ok(()));
        let last_answer = stopped(drain.stop.clone(), LAST_ANSWER);
        tokio::pin!(last_answer);
        loop {
            // Every worker is waited for before an error is returned: dropping one would leave a mail sent and not marked.
            if outcome.is_ok() {
                outcome = self.start_workers(&mut workers, &drain).await;
            }
            tokio::select! {
                biased;
                ended = workers.join_next() => match ended {
                    Some(result) => outcome = outcome.and(flattened(result)),
                    None => break,
                },
                () = &mut last_answer => {
                    workers.detach_all();
                    break;
                }
                () = self.outbox.nudge.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        outcome?;
        let (next, waiting) = self.store.outbox().await?;
        self.families.set_queue(waiting);
        Ok(next)
    }

    /// Starts a worker for each connection that is allowed, as long as there are mails for it.
    async fn start_workers(
        &self,
        workers: &mut JoinSet<Result<(), StoreError>>,
        drain: &Arc<Drain>,
    ) -> Result<(), StoreError> {
        self.families.set_queue(self.store.outbox().await?.1);
        while workers.len() < self.settings.smtp.server.connections.max(1) {
            let Some(first) = self.next_mail(drain).await? else { break };
            workers.spawn(self.clone().work(Arc::clone(drain), first));
        }
        Ok(())
    }

    /// The next mail that is due, oldest first. The outbox is read again when all that was read is taken.
    async fn next_mail(&self, drain: &Drain) -> Result<Option<(Claim, Queued)>, StoreError> {
        if *drain.stop.borrow() {
            return Ok(None);
        }
        let mut claimed = drain.claimed.lock().await;
        if claimed.is_empty() {
            let busy = u32::try_from(self.outbox.under_way().len()).unwrap_or(u32::MAX);
            let due = self.store.due_notifications(self.clock.now(), LOOKED_AT.saturating_add(busy)).await?;
            let free = due.into_iter().filter_map(|queued| Some((self.outbox.claim(queued.id)?, queued)));
            claimed.extend(free);
        }
        Ok(claimed.pop_front())
    }

    /// Sends mails through one connection until none is due.
    async fn work(self, drain: Arc<Drain>, first: (Claim, Queued)) -> Result<(), StoreError> {
        // It waits for sessions that are ending, or for what an earlier configuration has under way. Nobody closes it.
        let permit = tokio::select! {
            permit = Arc::clone(&self.connections).acquire_owned() => permit,
            () = stopped(drain.stop.clone(), Duration::ZERO) => return Ok(()),
        };
        let Ok(permit) = permit else { return Ok(()) };
        let (mut connection, mut outcome, mut next) = (Connection::default(), Ok(()), Some(first));
        while let Some((claim, queued)) = next.take() {
            outcome = self.send(&queued, &mut connection, drain.stop.clone()).await;
            drop(claim);
            if outcome.is_err() {
                break;
            }
            match self.next_mail(&drain).await {
                Ok(mail) => next = mail,
                Err(error) => outcome = Err(error),
            }
        }
        // The end of a session takes seconds, and neither the drain nor the end of the process waits for it.
        tokio::spawn(async move {
            connection.quit().await;
            drop(permit);
        });
        outcome
    }

    async fn send(
        &self,
        queued: &Queued,
        connection: &mut Connection,
        stop: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let notification = &queued.notification;
        let now = self.clock.now();
        let unsaved = self.outbox.unsaved().get(&queued.id).copied();
        match unsaved {
            Some(Unsaved::Sent) => return self.mark_sent(queued.id, now).await,
            Some(Unsaved::HandedOver) => return self.mark_handed_over(queued.id, now).await,
            None => {}
        }
        // Between the reading of what is due and the claim, an earlier attempt may have ended.
        if !self.store.is_as_read(queued).await? {
            return Ok(());
        }
        if queued.unanswered >= SILENCES {
            // The last time this process ended while it waited for the answer.
            return self.give_up(queued, Obstacle::Silence, "no answer came when it was handed over").await;
        }
        let link = match &notification.incident.link {
            LinkTarget::Builtin => (self.settings.link)(&notification.incident.integration, now).await?,
            LinkTarget::Url(url) => Some(url.clone()),
            LinkTarget::None => None,
        };
        let mail = render(notification, queued.first_sequence, link.as_deref(), &self.settings.branding);
        let dictated = tokio::select! {
            dictated = connection.dictate(&self.settings.smtp, notification, &mail, now) => dictated,
            // Nothing has arrived yet, and the mail stays in the queue.
            () = stopped(stop, GRACE) => return Ok(()),
        };
        match dictated {
            Ok(dictated) => self.send_message(queued, dictated).await,
            Err(Undelivered { failure, dialogue }) => self.failed(queued, failure, &dialogue, false).await,
        }
    }

    /// From the dot that ends the mail to the note of what became of it.
    async fn send_message(&self, queued: &Queued, dictated: Dictated<'_>) -> Result<(), StoreError> {
        // A database that is full must silence nobody: the mail is sent, and this process remembers what it could not save.
        let noted = self.store.mark_handed_over(queued.id, self.clock.now(), AFTER_SILENCE).await;
        let delivery = dictated.end().await;
        let notification = &queued.notification;
        match delivery.outcome {
            Ok(()) => {
                let now = self.clock.now();
                self.outbox.unsaved().insert(queued.id, Unsaved::Sent);
                self.families.email_sent(notification.kind, now);
                let marked = self.mark_sent(queued.id, now).await;
                if marked.is_ok() {
                    let (integration, to) =
                        (&notification.incident.integration, masked(&notification.recipient));
                    tracing::info!(%integration, kind = notification.kind.label(), %to, "mail sent");
                }
                marked
            }
            Err(failure) if failure.blame == Blame::Unanswered && noted.is_err() => {
                self.families.email_failed(notification.kind, failure.kind);
                self.outbox.unsaved().insert(queued.id, Unsaved::HandedOver);
                self.mark_handed_over(queued.id, self.clock.now()).await
            }
            Err(failure) => self.failed(queued, failure, &delivery.dialogue, noted.is_ok()).await,
        }
    }

    /// Counts and saves a failure, and decides what follows. `noted` says that the mail is saved as being handed over.
    async fn failed(
        &self,
        queued: &Queued,
        failure: Failure,
        dialogue: &[String],
        noted: bool,
    ) -> Result<(), StoreError> {
        let notification = &queued.notification;
        self.families.email_failed(notification.kind, failure.kind);
        let problem = problem(dialogue, &notification.recipient);
        let now = self.clock.now();
        let others = match failure.blame {
            Blame::Recipient => {
                // What was taken before this recipient was refused for the first time does not show whether the server takes mails now.
                let since = queued.first_rejection.map_or(now, |first| first.min(now));
                self.store.other_mails(&notification.recipient, since).await?
            }
            Blame::Content | Blame::Transport | Blame::Unanswered => {
                OtherMails { taken: true, failing: false }
            }
        };
        let history = History {
            attempts: queued.attempts,
            rejections: queued.rejections,
            first_rejection: queued.first_rejection,
            unanswered: queued.unanswered + 1,
        };
        let (pause, reported) = match next(failure.blame, history, others, now) {
            Next::Again(pause) => (pause, None),
            Next::AgainAndReport(pause, obstacle) => (pause, Some(obstacle)),
            Next::GiveUp(obstacle) => return self.give_up(queued, obstacle, &problem).await,
        };
        let (integration, to) = (&notification.incident.integration, masked(&notification.recipient));
        let (kind, reason) = (notification.kind.label(), failure.label());
        tracing::warn!(%integration, kind, %to, reason, error = problem, "mail not sent; it stays queued");
        let rejected = matches!(failure.blame, Blame::Recipient | Blame::Content);
        let answered = noted && failure.blame != Blame::Unanswered;
        let reports =
            reported.map(|obstacle| self.operator_mails(notification, obstacle)).unwrap_or_default();
        self.store
            .mark_failed(queued.id, FailedAttempt { at: now, pause, rejected, answered, problem }, reports)
            .await
    }

    async fn give_up(&self, queued: &Queued, obstacle: Obstacle, problem: &str) -> Result<(), StoreError> {
        let notification = &queued.notification;
        let (integration, to) = (&notification.incident.integration, masked(&notification.recipient));
        let (kind, obstacle_label) = (notification.kind.label(), obstacle.label());
        tracing::error!(%integration, kind, %to, obstacle = obstacle_label, error = problem, "mail given up");
        let reports = self.operator_mails(notification, obstacle);
        self.store.give_up(queued.id, self.clock.now(), problem.to_owned(), reports).await?;
        self.families.mail_left_queue();
        Ok(())
    }

    async fn mark_sent(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.store.mark_sent(id, now).await?;
        self.outbox.unsaved().remove(&id);
        self.families.mail_left_queue();
        Ok(())
    }

    async fn mark_handed_over(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.store.mark_handed_over(id, now, AFTER_SILENCE).await?;
        self.outbox.unsaved().remove(&id);
        Ok(())
    }

    /// The operators are notified of a mail that is not delivered. A mail to an operator is reported to the others, once.
    fn operator_mails(&self, undelivered: &Notification, obstacle: Obstacle) -> Vec<Notification> {
        if undelivered.incident.undeliverable.is_some() {
            return Vec::new();
        }
        let others = self.settings.operators.iter().filter(|o| **o != undelivered.recipient);
        let undeliverable = Some(Undeliverable { address: undelivered.recipient.clone(), obstacle });
        let incident = Incident { undeliverable, link: LinkTarget::None, ..undelivered.incident.clone() };
        others
            .map(|operator| Notification {
                // One notice for each address.
                alert: format!("undeliverable-{}-{}", undelivered.alert, fingerprint(&undelivered.recipient)),
                sequence: undelivered.sequence,
                kind: MailKind::Operator,
                recipient: operator.clone(),
                incident: incident.clone(),
            })
            .collect()
    }
}

/// Ends so long after the order to stop.
async fn stopped(mut stop: watch::Receiver<bool>, grace: Duration) {
    // Whoever could give the order and has gone has given it.
    let _ = stop.wait_for(|stopped| *stopped).await.map(drop);
    tokio::time::sleep(grace).await;
}

/// A task that ends by itself has answered; one that was ended has left its mail in the queue.
fn flattened(result: Result<Result<(), StoreError>, JoinError>) -> Result<(), StoreError> {
    result.map_err(|e| StoreError::Database(e.to_string())).and_then(|sent| sent)
}

/// The end of a dialogue in one line, without the recipient's address.
fn problem(dialogue: &[String], recipient: &str) -> String {
    let last = dialogue.last().map(|line| line.trim_start_matches(['<', '!', ' '])).unwrap_or_default();
    let forms = [Some(recipient.to_owned()), on_the_wire(recipient)];
    let said = forms
        .into_iter()
        .flatten()
        .fold(last.to_owned(), |text, form| text.replace(&form, &masked(recipient)));
    one_line(&said, PROBLEM)
}

/// An address as a log may show it.
fn masked(address: &str) -> String {
    let (local, domain) = address.split_once('@').unwrap_or((address, ""));
    let first: String = local.chars().take(1).collect();
    format!("{first}***@{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_show_no_addresses() {
        assert_eq!(masked("ada@example.com"), "a***@example.com");
        for (recipient, said, expected) in [
            (
                "ada@example.com",
                "< 550 5.1.1 <ada@example.com> unknown",
                "550 5.1.1 <a***@example.com> unknown",
            ),
            ("ada@m\u{fc}nchen.example", "< 550 ada@xn--mnchen-3ya.example", "550 a***@m\u{fc}nchen.example"),
            ("ada@example.com", "! the server took too long to answer", "the server took too long to answer"),
        ] {
            assert_eq!(problem(&[said.to_owned()], recipient), expected);
        }
    }
}
