//! Gathers what two checks list: synchronization jobs and credentials.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::kept::{Asking, Freshness};
use super::prober::{Prober, ReaderClient, Target, reader_fault};
use crate::credential::ClientCredential;
use crate::domain::{
    Check, CredentialEvidence, CredentialKind, Directory, Fault, ListedCredential, OwnCredential, Presence,
    ProvisioningJob, ReaderCredentials, Reason, Registration, Timestamp,
};
use crate::entra::Client;
use crate::secret::Secret;

/// How long an answer about credentials counts.
const CALM: Duration = Duration::from_secs(24 * 3600);

/// The same while a credential ends soon, so that a new one is seen soon.
const ALERT: Duration = Duration::from_secs(3600);

/// When a credential ends soon, whatever the configured warnings are.
const SOON: Duration = Duration::from_secs(60 * 86_400);

const NEEDS_READER: &str = "a public client has no token to ask with: the check needs a directory_reader";

impl Prober {
    /// Forgets answers about applications and tenants that are not among the targets any more.
    pub fn keep_only<'t>(&self, targets: impl Iterator<Item = &'t Target>) {
        let mut wanted = HashSet::new();
        for target in targets.filter(|t| t.requirements.checks.contains(&Check::Credential)) {
            let home = home(target);
            wanted.insert(app_key(home, &target.client_id));
            wanted.insert(signing_key(target));
            wanted.extend(target.reader.as_ref().map(|reader| reader_key(home, reader)));
        }
        self.registrations.retain(|key| wanted.contains(key));
        self.signing.retain(|key| wanted.contains(key));
    }

    /// The synchronization jobs. `None` if the check is off, or there is no enterprise application that could have any. `own` is the
    /// application's own app-only token.
    pub(super) async fn ask_jobs(
        &self,
        target: &Target,
        directory: Option<&Directory>,
        own: Option<Result<&Secret, &Fault>>,
        deadline: Instant,
    ) -> Option<Result<Vec<ProvisioningJob>, Fault>> {
        if !target.requirements.checks.contains(&Check::Provisioning) {
            return None;
        }
        match (&target.reader, directory) {
            (Some(reader), Some(directory)) => match (&directory.presence, &directory.object_id) {
                (Ok(Presence::Present { .. }), Some(id)) => {
                    Some(self.jobs_through(target, reader, id, deadline).await)
                }
                (Err(fault) | Ok(Presence::Unclear(fault)), _) => Some(Err(fault.clone())),
                _ => None,
            },
            _ => match own {
                Some(Ok(token)) => self.own_jobs(target, token, deadline).await,
                // The earlier cause says why.
                Some(Err(fault)) if fault.reason.is_presence() => None,
                Some(Err(fault)) => Some(Err(reader_fault(fault.clone()))),
                None => Some(Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER))),
            },
        }
    }

    async fn jobs_through(
        &self,
        target: &Target,
        reader: &ReaderClient,
        object_id: &str,
        deadline: Instant,
    ) -> Result<Vec<ProvisioningJob>, Fault> {
        let ask =
            async |token: Secret| self.entra.synchronization_jobs(token.expose(), object_id, deadline).await;
        let (token, cached) = self.reader_token(&target.tenant, reader, deadline).await?;
        let jobs = ask(token).await;
        if !cached || !is_denied(&jobs) {
            return jobs;
        }
        ask(self.new_reader_token(&target.tenant, reader, deadline).await?).await
    }

    /// New roles never appear in an old token (Microsoft, `managed-identity-best-practice-recommendations.md`), so that an error counts only
    /// with a new one.
    async fn new_reader_token(
        &self,
        tenant: &str,
        reader: &ReaderClient,
        deadline: Instant,
    ) -> Result<Secret, Fault> {
        self.forget_reader_token(tenant, reader);
        self.reader_token(tenant, reader, deadline).await.map(|(token, _)| token)
    }

    /// With a token of the application itself: it may read its own service principal, and the jobs if it holds the permission.
    async fn own_jobs(
        &self,
        target: &Target,
        token: &Secret,
        deadline: Instant,
    ) -> Option<Result<Vec<ProvisioningJob>, Fault>> {
        match self.entra.service_principal_id(token.expose(), &target.client_id, deadline).await {
            Ok(Some(id)) => Some(self.entra.synchronization_jobs(token.expose(), &id, deadline).await),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    /// The credentials of the application, of its directory reader, and the certificates with which Entra signs SAML tokens for it. `None`
    /// if the check is off.
    pub(super) async fn ask_credentials(
        &self,
        target: &Target,
        pause: Option<&Fault>,
        asking: Asking,
    ) -> Option<CredentialEvidence> {
        if !target.requirements.checks.contains(&Check::Credential) {
            return None;
        }
        let own = own(&target.credential).await;
        let home = home(target);
        let registration = match pause.filter(|_| home == target.tenant) {
            Some(fault) => Err(fault.clone()),
            None => self.app_registration(target, home, &own, asking).await,
        };
        let signing = match pause {
            Some(fault) => Err(fault.clone()),
            None => self.signing_certificates(target, asking).await,
        };
        let reader = match &target.reader {
            Some(reader) if reader.client_id != target.client_id => {
                Some(self.reader_credentials(reader, home, asking).await)
            }
            _ => None,
        };
        Some(CredentialEvidence { registration, signing, own, reader })
    }

    /// One request for all integrations of an application. It reads its own registration without any permission (Microsoft Graph,
    /// `application-get.md`); where its own credential does not suffice, the directory reader's does.
    async fn app_registration(
        &self,
        target: &Target,
        home: &str,
        own: &OwnCredential,
        asking: Asking,
    ) -> Result<Registration, Fault> {
        let key = app_key(home, &target.client_id);
        let mark = mark(own);
        let wanted = self.freshness(&mark, asking);
        let life = |found: &Registration| self.life(found);
        let request = async {
            let by_itself = match *target.credential {
                ClientCredential::None => Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER)),
                _ => self.own_registration(target, home, asking.deadline).await,
            };
            match (by_itself, &target.reader) {
                (Err(fault), Some(reader)) if !fault.asks_to_wait() => {
                    let found =
                        self.registration_through(reader, home, &target.client_id, asking.deadline).await;
                    // What is wrong with our own credential says more than what is wrong with its substitute.
                    found.map_err(|second| if fault.reason.is_our_side() { fault } else { second })
                }
                (by_itself, _) => by_itself,
            }
        };
        self.registrations.get(&key, wanted, life, request).await
    }

    async fn own_registration(
        &self,
        target: &Target,
        home: &str,
        deadline: Instant,
    ) -> Result<Registration, Fault> {
        let token = self
            .client_token(home, &target.client_id, &target.credential, deadline)
            .await
            .map_err(reader_fault)?;
        self.entra.registration(token.expose(), &target.client_id, deadline).await
    }

    async fn registration_through(
        &self,
        reader: &ReaderClient,
        home: &str,
        client_id: &str,
        deadline: Instant,
    ) -> Result<Registration, Fault> {
        let (token, cached) = self.reader_token(home, reader, deadline).await?;
        let found = self.entra.registration(token.expose(), client_id, deadline).await;
        if !cached || !is_denied(&found) {
            return found;
        }
        let token = self.new_reader_token(home, reader, deadline).await?;
        self.entra.registration(token.expose(), client_id, deadline).await
    }

    /// Of the service principal in the integration's tenant.
    async fn signing_certificates(
        &self,
        target: &Target,
        asking: Asking,
    ) -> Result<Vec<ListedCredential>, Fault> {
        let key = signing_key(target);
        let life = |found: &Vec<ListedCredential>| self.life_of(found);
        let request = self.read_signing_certificates(target, asking.deadline);
        self.signing.get(&key, self.freshness("", asking), life, request).await
    }

    async fn read_signing_certificates(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<Vec<ListedCredential>, Fault> {
        let ask = async |token: Secret| {
            self.entra.signing_certificates(token.expose(), &target.client_id, deadline).await
        };
        if let Some(reader) = &target.reader {
            let (token, cached) = self.reader_token(&target.tenant, reader, deadline).await?;
            let found = ask(token).await;
            if !cached || !is_denied(&found) {
                return found;
            }
            return ask(self.new_reader_token(&target.tenant, reader, deadline).await?).await;
        }
        if *target.credential == ClientCredential::None {
            return Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER));
        }
        match self.client_token(&target.tenant, &target.client_id, &target.credential, deadline).await {
            Ok(token) => ask(token).await,
            // No tokens are signed for an application that is gone or switched off: the earlier check says so.
            Err(fault) if fault.reason.is_presence() && fault.reason != Reason::TenantMissing => {
                Ok(Vec::new())
            }
            Err(fault) => Err(reader_fault(fault)),
        }
    }

    /// A reader is expected to be registered where the application is; elsewhere, only a certificate of ours shows its end.
    async fn reader_credentials(
        &self,
        reader: &ReaderClient,
        home: &str,
        asking: Asking,
    ) -> ReaderCredentials {
        let own = own(&reader.credential).await;
        let key = reader_key(home, reader);
        let mark = mark(&own);
        let life = |found: &Registration| self.life(found);
        let request =
            async { self.registration_through(reader, home, &reader.client_id, asking.deadline).await };
        let found = self.registrations.get(&key, self.freshness(&mark, asking), life, request).await;
        let listed = match found {
            Ok(Registration::Listed(listed)) => listed,
            Ok(Registration::Elsewhere) | Err(_) => Vec::new(),
        };
        ReaderCredentials { reader: reader.name.clone(), listed, own }
    }

    /// An app-only token for Graph, in a tenant where the client is not necessarily installed.
    async fn client_token(
        &self,
        tenant: &str,
        client_id: &str,
        credential: &ClientCredential,
        deadline: Instant,
    ) -> Result<Secret, Fault> {
        let now_seconds = self.clock.now().0 / 1000;
        let client = Client { tenant, client_id, credential, now_seconds, deadline };
        let granted = self.entra.client_credentials(client, &self.entra.graph_scope()).await;
        granted.map(|granted| granted.access_token)
    }

    fn freshness<'a>(&self, mark: &'a str, asking: Asking) -> Freshness<'a> {
        Freshness { now: self.clock.steady(), mark, asked: asking.asked, deadline: asking.deadline }
    }

    fn life(&self, found: &Registration) -> Duration {
        match found {
            Registration::Listed(listed) => self.life_of(listed),
            Registration::Elsewhere => CALM,
        }
    }

    fn life_of(&self, listed: &[ListedCredential]) -> Duration {
        let (soon, long_ago) = (self.clock.now().plus(SOON), self.clock.now().minus(SOON));
        let end = |c: &&ListedCredential| (c.active, c.ends.unwrap_or(Timestamp(i64::MAX)));
        // An expired leftover beside a valid credential is no reason to look more often.
        let ends_soon = |kind| {
            let counts = listed.iter().filter(|c| c.kind == kind).max_by_key(end);
            counts.and_then(|c| c.ends).is_some_and(|ends| ends < soon && ends > long_ago)
        };
        if CredentialKind::ALL.into_iter().any(ends_soon) { ALERT } else { CALM }
    }
}

/// Where the application is registered.
fn home(target: &Target) -> &str {
    target.home_tenant.as_deref().unwrap_or(&target.tenant)
}

fn app_key(home: &str, client_id: &str) -> String {
    format!("app:{home}:{client_id}")
}

fn reader_key(home: &str, reader: &ReaderClient) -> String {
    format!("reader:{home}:{}", reader.client_id)
}

fn signing_key(target: &Target) -> String {
    format!("saml:{}:{}", target.tenant, target.client_id)
}

fn is_denied<T>(result: &Result<T, Fault>) -> bool {
    result.as_ref().is_err_and(|fault| fault.reason == Reason::ReaderPermissionMissing)
}

/// What the daemon authenticates with. Its files are read away from the threads that serve requests.
async fn own(credential: &ClientCredential) -> OwnCredential {
    let credential = credential.clone();
    tokio::task::spawn_blocking(move || credential.own()).await.unwrap_or(OwnCredential::Unreadable)
}

/// Changes when the credential in use changes.
fn mark(own: &OwnCredential) -> String {
    match own {
        OwnCredential::None | OwnCredential::Unreadable => String::new(),
        OwnCredential::Secret { hint } => format!("secret {hint}"),
        OwnCredential::Certificate { thumbprint, .. } => format!("certificate {thumbprint}"),
        OwnCredential::Federated => "federated".to_owned(),
    }
}
