//! Implements the interfaces of the pages to monitor and database.

use crate::clock::Clock;
use crate::credential::ClientCredential;
use crate::domain::{BrakeAction, HeldMails, Hold, Timestamp};
use crate::monitor::{Monitor, Target};
use crate::store::{Event, EventQuery, FleetEvent, MailAbout, MailWait, Store, StoreError};
use crate::web::{
    self, BoxFuture, BrakeOutcome, Commands, CredentialRecord, History, MailRecord, Record, Records,
};

impl Commands for Monitor {
    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn next_probe(&self, name: &str) -> Option<Timestamp> {
        Self::next_probe(self, name)
    }

    fn paused_until(&self, name: &str) -> Option<Timestamp> {
        Self::paused_until(self, name)
    }

    fn verification(&self, name: &str) -> Option<bool> {
        Self::verification(self, name)
    }

    fn probe_soon(&self, name: &str) {
        Self::probe_soon(self, name);
    }

    fn probe_now<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(Self::probe_now(self, name))
    }

    fn verify_renewal(&self, name: &str, began: Timestamp) {
        Self::verify_renewal(self, name, began);
    }

    fn held(&self) -> BoxFuture<'_, Option<(Hold, HeldMails)>> {
        Box::pin(Self::held(self))
    }

    fn act_on_brake<'a>(
        &'a self,
        id: &'a str,
        action: BrakeAction,
        who: &'a str,
    ) -> BoxFuture<'a, BrakeOutcome> {
        Box::pin(async move {
            match Self::act_on_brake(self, id, action, who).await {
                Ok(Some(notices)) => BrakeOutcome::Done(notices),
                Ok(None) => BrakeOutcome::Over,
                Err(error) => {
                    unsaved(&error);
                    BrakeOutcome::Unavailable
                }
            }
        })
    }

    fn snooze<'a>(
        &'a self,
        name: &'a str,
        until: Timestamp,
        who: &'a str,
    ) -> BoxFuture<'a, Result<bool, ()>> {
        Box::pin(async move { Self::snooze(self, name, until, who).await.map_err(|error| unsaved(&error)) })
    }

    fn end_snooze<'a>(&'a self, name: &'a str, who: &'a str) -> BoxFuture<'a, Result<bool, ()>> {
        Box::pin(async move { Self::end_snooze(self, name, who).await.map_err(|error| unsaved(&error)) })
    }

    fn verify_claim(&self, name: &str, began: Timestamp) {
        Self::verify_claim(self, name, began);
    }
}

/// Logs that an action of a person was not saved, so that it was not done.
fn unsaved(error: &StoreError) {
    tracing::error!(%error, "cannot save what somebody has decided; nothing has changed");
}

/// The database, and the configured tokens and credentials.
pub(super) struct Database {
    pub(super) store: Store,
    pub(super) monitor: Monitor,
    pub(super) clock: Clock,
}

impl Database {
    async fn read(&self, name: &str) -> Records {
        // If the database cannot be read now, its part of the page is empty; the rest is in memory.
        let events = self.store.events(name).await.unwrap_or_default();
        let mails = self.store.mails_about(name).await.unwrap_or_default();
        let targets = self.monitor.targets();
        let target = targets.get(name);
        let token = match target.filter(|t| t.refresh_token_file.is_none()) {
            Some(target) => self.store.token_history(&target.token_id()).await.ok().flatten(),
            None => None,
        };
        let token_file =
            target.and_then(|t| t.refresh_token_file.as_ref()).map(|path| path.display().to_string());
        // Opening a PFX file takes many rounds of hashing.
        let credentials = match target.cloned() {
            Some(target) => {
                tokio::task::spawn_blocking(move || credentials(&target)).await.unwrap_or_default()
            }
            None => Vec::new(),
        };
        Records {
            events: events.into_iter().map(|e| (e.kind, e.at, e.detail)).collect(),
            mails: mails.into_iter().map(mail_record).collect(),
            token,
            token_file,
            credentials,
        }
    }

    async fn read_events(&self, wanted: web::EventQuery) -> Option<Vec<web::FleetEvent>> {
        let web::EventQuery { kind, reason, integration, integrations, since, until, before, limit } = wanted;
        let query = EventQuery { kind, reason, integration, integrations, since, until, before, limit };
        let found = self.store.fleet_events(query).await;
        let found = found.inspect_err(|error| tracing::error!(%error, "the history cannot be read")).ok()?;
        let event = |found: FleetEvent| web::FleetEvent {
            id: found.id,
            integration: found.integration,
            kind: found.event.kind,
            at: found.event.at,
            detail: found.event.detail,
        };
        Some(found.into_iter().map(event).collect())
    }

    async fn write(&self, record: Record) -> bool {
        let Record { integration, kind, detail } = record;
        let event = Event { kind: kind.to_owned(), at: self.clock.now(), detail };
        let saved = self.store.add_event(&integration, event).await;
        if let Err(error) = &saved {
            tracing::error!(integration, event = kind, %error, "an event cannot be saved");
        }
        saved.is_ok()
    }
}

impl History for Database {
    fn problem(&self) -> Option<&'static str> {
        self.store.health().problem()
    }

    fn records<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Records> {
        Box::pin(self.read(name))
    }

    fn fleet_events(&self, wanted: web::EventQuery) -> BoxFuture<'_, Option<Vec<web::FleetEvent>>> {
        Box::pin(self.read_events(wanted))
    }

    fn keep(&self, record: Record) -> BoxFuture<'_, bool> {
        Box::pin(self.write(record))
    }
}

fn mail_record(mail: MailAbout) -> MailRecord {
    MailRecord {
        kind: mail.kind.label().to_owned(),
        recipient: mail.recipient,
        created: mail.created,
        sent: mail.sent,
        given_up: mail.given_up,
        problem: mail.problem,
        waits: match mail.waits {
            MailWait::Due => "waiting to be sent",
            MailWait::Held => "held by the brake",
            MailWait::Earlier => "waiting for the earlier mail to the same person",
            MailWait::Suspended => "suspended: the integration has left the configuration",
        },
        held: mail.waits == MailWait::Held,
    }
}

fn credentials(target: &Target) -> Vec<CredentialRecord> {
    let record = |reader, credential: &ClientCredential| CredentialRecord {
        reader,
        kind: credential.kind(),
        expires: credential.expiry().map(|expiry| expiry.at),
    };
    let reader = target.reader.as_ref().map(|r| record(Some(r.name.clone()), &r.credential));
    [record(None, &target.credential)].into_iter().chain(reader).collect()
}
