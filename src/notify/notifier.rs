//! Draining the outbox: oldest first, growing pauses while the mail server is away, nothing lost, nothing sent twice.
//!
//! A mail is marked as sent as soon as the server has taken it. A crash in between repeats it once, with the same
//! `Message-ID`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::message::{Letterhead, fingerprint, render};
use super::smtp::{SmtpSettings, deliver};
use crate::clock::Clock;
use crate::domain::{LinkTarget, MailKind, Notification, Story, Timestamp};
use crate::metrics::{EmailFailure, Families};
use crate::store::{Queued, Store, StoreError};

/// What becomes of mails, whoever sends them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Nudged when mails were saved.
    pub nudge: Arc<Notify>,
    /// Mails that the server has taken and the database could not mark yet: they are marked, never sent again.
    taken: Arc<Mutex<HashSet<i64>>>,
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
    pub letterhead: Letterhead,
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

/// Mails handed over at once.
const AT_ONCE: u32 = 8;

/// A refused recipient is tried so many times.
const REJECTIONS: u32 = 4;

/// Nothing is older than this and still kept, once it was delivered.
const KEEP: Duration = Duration::from_secs(90 * 86_400);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    settings: Arc<NotifierSettings>,
    store: Store,
    families: Families,
    clock: Clock,
    outbox: Outbox,
}

impl Notifier {
    /// Puts the parts together.
    pub fn new(settings: NotifierSettings, store: Store, families: Families, clock: Clock, outbox: Outbox) -> Self {
        Self { settings: Arc::new(settings), store, families, clock, outbox }
    }

    /// Runs until told to stop; a mail that is being handed over is finished first.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        if let Ok(Some(at)) = self.store.last_mail().await {
            self.families.set_last_email(at);
        }
        loop {
            let going_on = stop.clone();
            let wait = match self.drain_while(|| !*going_on.borrow()).await {
                Ok(next) => next.map_or(Duration::from_secs(3600), |n| n.since(self.clock.now()).max(Duration::from_millis(100))),
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
    ///
    /// # Errors
    /// The database refuses.
    pub async fn drain(&self) -> Result<Option<Timestamp>, StoreError> {
        self.drain_while(|| true).await
    }

    /// The same, a batch at a time, for as long as it should go on.
    async fn drain_while(&self, go_on: impl Fn() -> bool) -> Result<Option<Timestamp>, StoreError> {
        self.store.prune_notifications(self.clock.now().minus(KEEP)).await?;
        loop {
            let due = self.store.due_notifications(self.clock.now(), AT_ONCE).await?;
            self.families.set_queue(self.store.outbox().await?.1);
            if due.is_empty() || !go_on() {
                return Ok(self.store.outbox().await?.0);
            }
            let mut attempts = JoinSet::new();
            for queued in due {
                let notifier = self.clone();
                attempts.spawn(async move { notifier.send(&queued).await });
            }
            // Every attempt is finished before an error is told: dropping one would leave a mail sent and not marked.
            let mut outcome = Ok(());
            while let Some(result) = attempts.join_next().await {
                outcome = outcome.and(result.map_err(|e| StoreError::Database(e.to_string())).and_then(|sent| sent));
            }
            outcome?;
        }
    }

    async fn send(&self, queued: &Queued) -> Result<(), StoreError> {
        let notification = &queued.notification;
        let now = self.clock.now();
        if self.lock_taken().contains(&queued.id) {
            return self.mark(queued.id, now).await;
        }
        let link = match &notification.story.link {
            LinkTarget::Builtin => (self.settings.link)(&notification.story.integration, now).await?,
            LinkTarget::Url(url) => Some(url.clone()),
            LinkTarget::None => None,
        };
        let mail = render(notification, queued.first_sequence, link.as_deref(), &self.settings.letterhead);
        let delivery = deliver(&self.settings.smtp, notification, &mail, now).await;
        let (kind, to, integration) = (notification.kind, masked(&notification.recipient), &notification.story.integration);
        let now = self.clock.now();
        match delivery.outcome {
            Ok(()) => {
                self.lock_taken().insert(queued.id);
                self.families.email_sent(kind, now);
                // Marked before anything else: a crash in between would repeat it.
                self.mark(queued.id, now).await?;
                tracing::info!(%integration, kind = kind.label(), %to, "mail sent");
            }
            Err(failure) => {
                self.families.email_failed(kind, failure);
                let last = delivery.dialogue.last().map(|l| l.replace(&notification.recipient, &to)).unwrap_or_default();
                let rejected = failure == EmailFailure::Rejected;
                if rejected && queued.rejections + 1 >= REJECTIONS {
                    tracing::error!(%integration, kind = kind.label(), %to, error = last, "mail given up: the server refuses the recipient");
                    self.store.give_up(queued.id, now, self.tell_operators(notification)).await?;
                } else {
                    let due = now.plus(pause(if rejected { queued.rejections } else { queued.attempts }, rejected));
                    tracing::warn!(%integration, kind = kind.label(), %to, reason = failure.label(), error = last, "mail not sent; it stays queued");
                    self.store.mark_failed(queued.id, due, rejected).await?;
                }
            }
        }
        self.families.set_queue(self.store.outbox().await?.1);
        Ok(())
    }

    fn lock_taken(&self) -> std::sync::MutexGuard<'_, HashSet<i64>> {
        self.outbox.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn mark(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.store.mark_sent(id, now).await?;
        self.lock_taken().remove(&id);
        Ok(())
    }

    /// The operators hear that an address is refused; an operator's own refused address tells the others, once.
    fn tell_operators(&self, refused: &Notification) -> Vec<Notification> {
        if refused.story.undeliverable.is_some() {
            return Vec::new();
        }
        let others = self.settings.operators.iter().filter(|o| **o != refused.recipient);
        let story = Story { undeliverable: Some(refused.recipient.clone()), link: LinkTarget::None, ..refused.story.clone() };
        others
            .map(|operator| Notification {
                // One notice for each refused address.
                alert: format!("undeliverable-{}-{}", refused.alert, fingerprint(&refused.recipient)),
                sequence: refused.sequence,
                kind: MailKind::Operator,
                recipient: operator.clone(),
                story: story.clone(),
            })
            .collect()
    }
}

/// The pause after the attempt that came after `before` others: doubling from five seconds to five minutes; a refused
/// recipient is tried more slowly.
fn pause(before: u32, rejected: bool) -> Duration {
    let (first, most) = if rejected { (60, 3600) } else { (5, 300) };
    let factor = if rejected { 5_u64 } else { 2 }.saturating_pow(before.min(10));
    Duration::from_secs(first * factor).min(Duration::from_secs(most))
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
    fn pauses_grow() {
        let seconds = |rejected| (0..8).map(|n| pause(n, rejected).as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(false), [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(seconds(true)[..4], [60, 300, 1500, 3600]);
    }

    #[test]
    fn logs_show_no_addresses() {
        assert_eq!(masked("ada@example.com"), "a***@example.com");
    }
}
