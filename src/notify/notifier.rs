//! Sends the mails of the outbox, oldest first, with growing pauses while the mail server cannot be reached. No mail is lost, and no mail is sent
//! again once the server has accepted it.
//!
//! Before the final dot it is saved that the mail is being handed over, and before QUIT that the server accepted it. So after a crash, a broken
//! connection or a missing response it is known that the mail may have arrived. It is then sent again after an hour, with the same `Message-ID`, and
//! at most three times in total. [`super::retry`] decides what follows from a failure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::grouped::{NoticeLinks, render};
use super::message::{MailBranding, Rendered, fingerprint};
use super::pace::Pace;
use super::retry::{AFTER_SILENCE, History, Next, SILENCES, next};
use super::settings::Transport;
use super::smtp::{Blame, Failure, Undelivered, on_the_wire};
use super::transport::{Channel, Ready};
use crate::clock::Clock;
use crate::domain::{BrakeNotice, LinkTarget, MailKind, Notification, Obstacle, Timestamp, one_line};
use crate::metrics::Families;
use crate::signed::Signer;
use crate::store::{FailedAttempt, Group, OtherMails, OutboxState, Queued, Store, StoreError};

/// The state of mails that are being sent, shared by successive notifiers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Notified when mails were saved.
    pub nudge: Arc<Notify>,
    /// Results that the database could not save yet, by notice. They are saved before the same notice is processed again.
    unsaved: Arc<Mutex<HashMap<i64, Unsaved>>>,
    /// The recipients of mails that are being sent, by this notifier or by a replaced one. There is one mail at a time for each, because a mail may
    /// take other notices with it.
    under_way: Arc<Mutex<HashSet<String>>>,
    /// The account and its open connections; those of a replaced notifier count, too.
    account: Arc<Mutex<Option<AccountLimits>>>,
}

/// The limits of one account.
#[derive(Debug)]
struct AccountLimits {
    account: String,
    most: usize,
    open: Arc<Semaphore>,
    pace: Arc<Pace>,
}

/// A result that is not saved yet, with the Message-ID.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unsaved {
    /// The server accepted the mail.
    Sent(String),
    /// The mail was handed over, and there was no response.
    HandedOver(String),
}

impl Outbox {
    fn unsaved(&self) -> MutexGuard<'_, HashMap<i64, Unsaved>> {
        self.unsaved.lock()
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<String>> {
        self.under_way.lock()
    }

    /// The connections and the pace of an account. Notifiers share them as long as account and maximum are the same.
    fn limits(&self, transport: &Transport) -> (Arc<Semaphore>, Arc<Pace>) {
        let (account, most) = (transport.account(), transport.connections());
        let mut limits = self.account.lock();
        if let Some(same) = limits.as_ref().filter(|l| l.account == account && l.most == most) {
            return (Arc::clone(&same.open), Arc::clone(&same.pace));
        }
        let open = Arc::new(Semaphore::new(most));
        let pace = Arc::new(Pace::new(transport.per_minute()));
        *limits = Some(AccountLimits { account, most, open: Arc::clone(&open), pace: Arc::clone(&pace) });
        (open, pace)
    }

    /// Claims a recipient, unless a mail to them is being sent already.
    fn claim(&self, recipient: &str) -> Option<Claim> {
        let recipient = recipient.to_owned();
        self.under_way().insert(recipient.clone()).then(|| Claim { outbox: self.clone(), recipient })
    }
}

/// A mail to this recipient is being sent, until this is dropped.
struct Claim {
    outbox: Outbox,
    recipient: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.outbox.under_way().remove(&self.recipient);
    }
}

/// A signed link that is being made; `None` for an integration without links.
pub type LinkMade = std::pin::Pin<Box<dyn Future<Output = Result<Option<String>, StoreError>> + Send>>;

/// Makes the signed link of an integration, valid from the given time on.
pub type LinkMaker = Arc<dyn Fn(&str, Timestamp) -> LinkMade + Send + Sync>;

/// How mail is sent.
#[derive(Clone)]
pub struct NotifierSettings {
    /// How they are sent.
    pub transport: Transport,
    /// What every mail has in common.
    pub branding: MailBranding,
    /// Who runs Consentry.
    pub operators: Vec<String>,
    /// How long notices wait for others to the same person.
    pub group_wait: Duration,
    /// Makes links to Consentry's own page.
    pub link: LinkMaker,
    /// Makes the operators' link to the mails that the brake holds.
    pub brake_link: Option<Signer>,
    /// Makes links that snooze reminders.
    pub snooze_link: Option<Signer>,
}

impl std::fmt::Debug for NotifierSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifierSettings").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// A mail shows this many notices, and counts the rest.
const SHOWN: usize = 20;

/// The number of waiting mails that are read together. How many are sent at once is configured.
const LOOKED_AT: u32 = 64;

/// After the stop signal, a mail must reach its final dot within this time; otherwise it stays in the queue.
const GRACE: Duration = Duration::from_secs(3);

/// After the stop signal, the drain waits this long for responses, which is less than the shutdown of the process allows. After a reload, a mail that
/// takes longer is finished in the background.
const LAST_ANSWER: Duration = Duration::from_secs(6);

/// The interval of reading the outbox while mails are being sent.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The longest sleep, whenever the next mail is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The highest number of characters that are kept of a server's error text.
const PROBLEM: usize = 300;

/// Delivered mails are deleted after this time.
const KEEP: Duration = Duration::from_secs(90 * 86_400);

/// Mails that were read from the outbox together, for all connections. A mail is claimed when a connection takes it.
struct Drain {
    read: tokio::sync::Mutex<VecDeque<Queued>>,
    /// The database failed: nothing new is begun, and everything is tried again later.
    failed: AtomicBool,
    stop: watch::Receiver<bool>,
}

/// Sends the mails of the outbox; see the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    settings: Arc<NotifierSettings>,
    store: Store,
    families: Families,
    clock: Clock,
    outbox: Outbox,
    /// One permit for each connection that is open or being closed.
    connections: Arc<Semaphore>,
    pace: Arc<Pace>,
}

impl Notifier {
    /// A notifier with these settings. Nothing runs yet.
    pub fn new(
        settings: NotifierSettings,
        store: Store,
        families: Families,
        clock: Clock,
        outbox: Outbox,
    ) -> Self {
        let (connections, pace) = outbox.limits(&settings.transport);
        Self { settings: Arc::new(settings), store, families, clock, outbox, connections, pace }
    }

    /// Runs until `stop` becomes true. A mail that is being handed over is finished first if that takes a few seconds at most.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        if let Ok(Some(at)) = self.store.last_mail().await {
            // A time that was saved while the wall clock was ahead would hide for years that no mail is
            // delivered.
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

    /// Sends everything that is due now. Returns when the next mail is due.
    pub async fn drain(&self) -> Result<Option<Timestamp>, StoreError> {
        let (_going_on, stop) = watch::channel(false);
        self.drain_while(stop).await
    }

    /// Like [`Self::drain`], until `stop` becomes true. One mail per allowed connection is sent at once; a slow one delays only its own connection.
    async fn drain_while(&self, stop: watch::Receiver<bool>) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        self.store.prune_notifications(now.minus(KEEP)).await?;
        let healed = self.store.heal_mail_times(now).await?;
        if healed > 0 {
            tracing::info!(
                mails = healed,
                "the wall clock was set; times of mails that were too far in the future are corrected"
            );
        }
        let drain =
            Arc::new(Drain { read: tokio::sync::Mutex::default(), failed: AtomicBool::new(false), stop });
        let (mut workers, mut outcome) = (JoinSet::new(), Ok(()));
        let last_answer = stopped(drain.stop.clone(), LAST_ANSWER);
        tokio::pin!(last_answer);
        loop {
            // Waits for all workers before it returns an error: a mail of a dropped worker would be sent, but
            // not marked as sent.
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
        Ok(self.measure().await?.next)
    }

    /// Publishes the numbers of waiting and held notices.
    async fn measure(&self) -> Result<OutboxState, StoreError> {
        let state = self.store.outbox(self.clock.now()).await?;
        self.families.set_queue(state.waiting);
        self.families.set_held(state.held);
        Ok(state)
    }

    /// Starts a worker for each allowed connection, as long as there are mails for it.
    async fn start_workers(
        &self,
        workers: &mut JoinSet<Result<(), StoreError>>,
        drain: &Arc<Drain>,
    ) -> Result<(), StoreError> {
        if let Some(notices) = self.store.end_brake_by_time(self.clock.now()).await? {
            tracing::warn!(
                notices,
                "the brake has released the mails that it held, because its time is over"
            );
        }
        self.measure().await?;
        while workers.len() < self.settings.transport.connections() {
            let Some(first) = self.next_mail(drain).await? else { break };
            workers.spawn(self.clone().work(Arc::clone(drain), first));
        }
        Ok(())
    }

    /// The next due mail, oldest first. The outbox is read again when all mails that were read are taken, or are for people to whom one is being sent.
    async fn next_mail(&self, drain: &Drain) -> Result<Option<(Claim, Queued)>, StoreError> {
        if *drain.stop.borrow() || drain.failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut read = drain.read.lock().await;
        if let Some(next) = self.claim_first(&mut read) {
            return Ok(Some(next));
        }
        let busy: Vec<String> = self.outbox.under_way().iter().cloned().collect();
        *read = self.store.due_to_others(self.clock.now(), LOOKED_AT, &busy).await?.into();
        Ok(self.claim_first(&mut read))
    }

    /// Takes the oldest mail whose recipient is not busy.
    fn claim_first(&self, read: &mut VecDeque<Queued>) -> Option<(Claim, Queued)> {
        let (index, claim) = read.iter().enumerate().find_map(|(index, queued)| {
            self.outbox.claim(&queued.notification.recipient).map(|claim| (index, claim))
        })?;
        Some((claim, read.remove(index)?))
    }

    /// Sends mails through one connection until none is due.
    async fn work(self, drain: Arc<Drain>, first: (Claim, Queued)) -> Result<(), StoreError> {
        // Waits while ending sessions or a replaced notifier use the connections. The semaphore is never
        // closed.
        let permit = tokio::select! {
            permit = Arc::clone(&self.connections).acquire_owned() => permit,
            () = stopped(drain.stop.clone(), Duration::ZERO) => return Ok(()),
        };
        let Ok(permit) = permit else { return Ok(()) };
        let (mut channel, mut outcome, mut next) = (Channel::default(), Ok(()), Some(first));
        while let Some((claim, queued)) = next.take() {
            outcome = self.send(&queued, &mut channel, drain.stop.clone()).await;
            drop(claim);
            if outcome.is_ok() {
                match self.next_mail(&drain).await {
                    Ok(mail) => next = mail,
                    Err(error) => outcome = Err(error),
                }
            }
            if let Err(error) = &outcome {
                tracing::error!(%error, "cannot save what became of a mail, or read the next one");
                drain.failed.store(true, Ordering::Relaxed);
            }
        }
        // Ending a session takes seconds, and neither the drain nor the shutdown waits for it.
        tokio::spawn(async move {
            channel.quit().await;
            drop(permit);
        });
        outcome
    }

    async fn send(
        &self,
        queued: &Queued,
        channel: &mut Channel,
        stop: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        // An earlier attempt may have ended after the outbox was read and before the recipient was claimed.
        let Some(group) = self.store.group(queued, now, self.settings.group_wait, SHOWN).await? else {
            return Ok(());
        };
        if self.save_earlier_results(&group.ids, now).await? {
            return Ok(());
        }
        if group.first.unanswered >= SILENCES {
            // In the last attempt, the process ended while it waited for the response.
            return self.give_up(&group, Obstacle::Silence, "no response came when it was handed over").await;
        }
        let mut links = Vec::with_capacity(group.shown.len());
        for shown in &group.shown {
            let button = self.link(&shown.notification, now).await?;
            links.push(NoticeLinks { button, snooze: self.snooze_link(&shown.notification) });
        }
        let mail = render(&group, &links, &self.settings.branding);
        let recipient = &group.first.notification.recipient;
        let transport = &self.settings.transport;
        let ready = async {
            while let Err(wait) = self.pace.turn(tokio::time::Instant::now()) {
                tokio::time::sleep(wait).await;
            }
            channel.prepare(transport, recipient, &mail, now).await
        };
        let ready = tokio::select! {
            ready = ready => ready,
            // The server has not received the mail, which stays in the queue.
            () = stopped(stop, GRACE) => return Ok(()),
        };
        match ready {
            Ok(ready) => self.send_message(&group, &mail, ready).await,
            Err(Undelivered { failure, dialogue }) => self.failed(&group, failure, &dialogue, false).await,
        }
    }

    /// Saves results that the database could not save before. Returns whether there were any.
    async fn save_earlier_results(&self, ids: &[i64], now: Timestamp) -> Result<bool, StoreError> {
        let known = |id: &i64| self.outbox.unsaved().get(id).cloned().map(|result| (*id, result));
        let earlier: Vec<(i64, Unsaved)> = ids.iter().filter_map(known).collect();
        for (id, result) in &earlier {
            match result {
                Unsaved::Sent(message_id) => self.mark_sent(&[*id], message_id, now).await?,
                Unsaved::HandedOver(message_id) => self.mark_handed_over(&[*id], message_id, now).await?,
            }
        }
        Ok(!earlier.is_empty())
    }

    /// The URL of a notice's button.
    async fn link(&self, notification: &Notification, now: Timestamp) -> Result<Option<String>, StoreError> {
        if let Some(BrakeNotice { hold, .. }) = &notification.incident.brake {
            return Ok(self.settings.brake_link.as_ref().map(|signer| signer.url("brake", &hold.id)));
        }
        match &notification.incident.link {
            LinkTarget::Builtin => (self.settings.link)(&notification.incident.integration, now).await,
            LinkTarget::Url(url) => Ok(Some(url.clone())),
            LinkTarget::None => Ok(None),
        }
    }

    /// The URL that snooze reminders, for mails that are followed by reminders.
    fn snooze_link(&self, notification: &Notification) -> Option<String> {
        let signer = self.settings.snooze_link.as_ref().filter(|_| notification.may_be_repeated())?;
        let name = &notification.incident.integration;
        Some(signer.url(&format!("snooze/{name}"), &format!("{name}\n{}", notification.alert)))
    }

    /// From the final dot to saving the result.
    async fn send_message(&self, group: &Group, mail: &Rendered, ready: Ready<'_>) -> Result<(), StoreError> {
        // A full database must not prevent mails: the mail is sent, and this process remembers what it could
        // not save.
        let (ids, message_id) = (&group.ids, &mail.message_id);
        let noted = self.store.mark_handed_over(ids, message_id, self.clock.now(), AFTER_SILENCE).await;
        if let Ok(false) = noted {
            // A notice was dropped or replaced since it was read. What is left is read again.
            return Ok(());
        }
        let delivery = ready.end().await;
        match delivery.outcome {
            Ok(accepted) => {
                let now = self.clock.now();
                let message_id = accepted.message_id.as_ref().unwrap_or(message_id);
                self.remember(ids, &Unsaved::Sent(message_id.clone()));
                self.families.email_sent(mail.event, now);
                let marked = self.mark_sent(ids, message_id, now).await;
                if marked.is_ok() {
                    let notification = &group.first.notification;
                    let (integration, to) =
                        (&notification.incident.integration, masked(&notification.recipient));
                    tracing::info!(%integration, notices = ids.len(), kind = mail.event.label(), %to, "mail sent");
                }
                marked
            }
            Err(failure) if failure.blame == Blame::Unanswered && noted.is_err() => {
                self.families.email_failed(mail.event, failure.kind);
                self.remember(ids, &Unsaved::HandedOver(message_id.clone()));
                self.mark_handed_over(ids, message_id, self.clock.now()).await
            }
            Err(failure) => self.failed(group, failure, &delivery.dialogue, noted.is_ok()).await,
        }
    }

    /// Remembers a result until it is saved.
    fn remember(&self, ids: &[i64], result: &Unsaved) {
        self.outbox.unsaved().extend(ids.iter().map(|id| (*id, result.clone())));
    }

    /// Counts and saves a failure, and decides what follows. `noted` is true if it is saved that the mail was being handed over.
    async fn failed(
        &self,
        group: &Group,
        failure: Failure,
        dialogue: &[String],
        noted: bool,
    ) -> Result<(), StoreError> {
        let first = &group.first;
        let notification = &first.notification;
        let kind = MailKind::of_group(group.kinds.iter().map(|(kind, _)| *kind)).unwrap_or(notification.kind);
        self.families.email_failed(kind, failure.kind);
        let problem = problem(dialogue, &notification.recipient);
        let now = self.clock.now();
        let others = match failure.blame {
            Blame::Recipient => {
                // A mail that was accepted before the first rejection of this recipient does not show whether
                // the server accepts mails now.
                let since = first.first_rejection.map_or(now, |first| first.min(now));
                self.store.other_mails(&notification.recipient, since).await?
            }
            Blame::Content | Blame::Transport | Blame::Unanswered => {
                OtherMails { taken: true, failing: false }
            }
        };
        let history = History {
            attempts: first.attempts,
            rejections: first.rejections,
            first_rejection: first.first_rejection,
            unanswered: first.unanswered + 1,
        };
        if failure.too_much {
            self.pace.lower(tokio::time::Instant::now());
        }
        let (pause, reported) = match next(failure.blame, history, others, now) {
            Next::Again(pause) => (pause.max(failure.pause.unwrap_or_default()), None),
            Next::AgainAndReport(pause, obstacle) => (pause, Some(obstacle)),
            Next::GiveUp(obstacle) => return self.give_up(group, obstacle, &problem).await,
        };
        let (integration, to) = (&notification.incident.integration, masked(&notification.recipient));
        let (kind, reason) = (kind.label(), failure.label());
        tracing::warn!(%integration, kind, %to, reason, error = problem, "mail not sent; it stays queued");
        let rejected = matches!(failure.blame, Blame::Recipient | Blame::Content);
        let answered = noted && failure.blame != Blame::Unanswered;
        let reports =
            reported.map(|obstacle| self.operator_mails(notification, obstacle)).unwrap_or_default();
        let failed = FailedAttempt { at: now, pause, rejected, answered, problem };
        self.store.mark_failed(&group.ids, failed, reports).await
    }

    async fn give_up(&self, group: &Group, obstacle: Obstacle, problem: &str) -> Result<(), StoreError> {
        let notification = &group.first.notification;
        let (integration, to) = (&notification.incident.integration, masked(&notification.recipient));
        let (kind, obstacle_label) = (notification.kind.label(), obstacle.label());
        tracing::error!(%integration, kind, %to, obstacle = obstacle_label, error = problem, "mail given up");
        let reports = self.operator_mails(notification, obstacle);
        self.store.give_up(&group.ids, self.clock.now(), problem.to_owned(), reports).await?;
        self.families.notices_left_queue(group.ids.len());
        Ok(())
    }

    async fn mark_sent(&self, ids: &[i64], message_id: &str, now: Timestamp) -> Result<(), StoreError> {
        self.store.mark_sent(ids, message_id, now).await?;
        self.forget(ids);
        self.families.notices_left_queue(ids.len());
        Ok(())
    }

    async fn mark_handed_over(
        &self,
        ids: &[i64],
        message_id: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.store.mark_handed_over(ids, message_id, now, AFTER_SILENCE).await?;
        self.forget(ids);
        Ok(())
    }

    fn forget(&self, ids: &[i64]) {
        let mut unsaved = self.outbox.unsaved();
        ids.iter().for_each(|id| drop(unsaved.remove(id)));
    }

    /// The mails to the operators about a mail that is not delivered.
    fn operator_mails(&self, undelivered: &Notification, obstacle: Obstacle) -> Vec<Notification> {
        undelivered.reports(obstacle, &fingerprint(&undelivered.recipient), &self.settings.operators)
    }
}

/// Returns this long after the stop signal.
async fn stopped(mut stop: watch::Receiver<bool>, grace: Duration) {
    // A dropped sender counts as the signal.
    let _ = stop.wait_for(|stopped| *stopped).await.map(drop);
    tokio::time::sleep(grace).await;
}

/// The result of a worker. A worker that was aborted has left its mail in the queue.
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
