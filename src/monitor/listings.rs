//! Gathers what two checks list: synchronization jobs and credentials.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

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

/// An app-only token of the application itself, or why there is none.
pub(super) type OwnAppToken<'a> = Option<Result<&'a Secret, &'a Fault>>;

impl Prober {
    /// Forgets answers about applications and tenants that are not among the targets any more.
    pub fn keep_only<'t>(&self, targets: impl Iterator<Item = &'t Target>) {
        let mut wanted = HashSet::new();
        for target in targets.filter(|t| t.requirements.checks.contains(&Check::Credential)) {
            let home = home(target);
            wanted.insert(app_key(home, target));
            wanted.insert(signing_key(target));
            if let Some(reader) = &target.reader {
                wanted.extend([reader_key(home, reader), substitute_key(home, target, reader)]);
            }
        }
        self.registrations.retain(|key| wanted.contains(key));
        self.signing.retain(|key| wanted.contains(key));
    }

    /// The synchronization jobs. `None` if the check is off, or there is no enterprise application that could have any.
    pub(super) async fn ask_jobs(
        &self,
        target: &Target,
        directory: Option<&Directory>,
        own: OwnAppToken<'_>,
        deadline: Instant,
    ) -> Option<Result<Vec<ProvisioningJob>, Fault>> {
        if !target.requirements.checks.contains(&Check::Provisioning) {
            return None;
        }
        if let (Some(reader), Some(directory)) = (&target.reader, directory) {
            return match (&directory.presence, &directory.object_id) {
                (Ok(Presence::Present { .. }), Some(id)) => {
                    Some(self.jobs_through(target, reader, id, deadline).await.map_err(of_reader))
                }
                (Err(fault) | Ok(Presence::Unclear(fault)), _) => Some(Err(of_reader(fault.clone()))),
                _ => None,
            };
        }
        match own {
            Some(Ok(token)) => self.own_jobs(target, token, deadline).await,
            // The earlier cause says why.
            Some(Err(fault)) if fault.reason.is_presence() => None,
            Some(Err(fault)) => Some(Err(reader_fault(fault.clone()))),
            None => Some(Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER))),
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

    /// New roles never appear in an old token (Microsoft, `managed-identity-best-practice-recommendations.md`), so an error counts only with a
    /// new one.
    async fn new_reader_token(
        &self,
        tenant: &str,
        reader: &ReaderClient,
        deadline: Instant,
    ) -> Result<Secret, Fault> {
        self.forget_reader_token(tenant, reader);
        self.reader_token(tenant, reader, deadline).await.map(|(token, _)| token)
    }

    /// The credentials of the application, of its directory reader, and the certificates with which Entra signs SAML tokens for it. `None`
    /// if the check is off. While the tenant asks for a pause, only kept answers count.
    pub(super) async fn ask_credentials(
        &self,
        target: &Target,
        pause: Option<&Fault>,
        asking: Asking,
    ) -> Option<CredentialEvidence> {
        if !target.requirements.checks.contains(&Check::Credential) {
            return None;
        }
        let home = home(target);
        let is_elsewhere = home != target.tenant;
        let here = pause.filter(|_| !is_elsewhere);
        let registration = self.app_registration(target, here, asking).await;
        let signing = self.signing_certificates(target, pause, asking).await;
        let reader = match &target.reader {
            Some(reader) if reader.client_id != target.client_id => {
                Some(self.reader_credentials(reader, home, here, asking).await)
            }
            _ => None,
        };
        let own = own(&target.credential).await;
        Some(CredentialEvidence { registration, signing, own, reader, is_elsewhere })
    }

    /// One request for all integrations of an application. It reads its own registration without any permission (Microsoft Graph,
    /// `application-get.md`); where its own credential does not suffice, the directory reader's does.
    async fn app_registration(
        &self,
        target: &Target,
        pause: Option<&Fault>,
        asking: Asking,
    ) -> Result<Registration, Fault> {
        let home = home(target);
        let mark = mark(&target.credential).await;
        let wanted = self.freshness(&mark, asking);
        let life = |found: &Registration| self.life(found);
        let (key, reader) = (app_key(home, target), target.reader.as_deref());
        let substitute = reader.map(|reader| substitute_key(home, target, reader));
        let keys = std::iter::once(&key).chain(&substitute);
        if let Some(known) = keys.clone().find_map(|key| self.registrations.peek(key, wanted, life)) {
            return Ok(known);
        }
        if let Some(fault) = pause {
            return Err(fault.clone());
        }
        let by_itself = self.own_registration(target, home, asking.deadline);
        let by_itself = self.registrations.get(&key, wanted, life, by_itself).await;
        let found = match (by_itself, reader.zip(substitute)) {
            (Err(fault), Some((reader, key))) if !fault.asks_to_wait() => {
                let request = self.registration_through(reader, home, &target.client_id, asking.deadline);
                let found = self.registrations.get(&key, wanted, life, request).await;
                // A passing fault, or what is wrong with our own credential, says more than what is wrong with its substitute.
                let says_more = fault.reason.is_our_side() || fault.reason.is_inconclusive();
                found.map_err(|second| if says_more { fault } else { of_reader(second) })
            }
            (by_itself, _) => by_itself,
        };
        found.map_err(|fault| home_fault(fault, home, target))
    }

    async fn own_registration(
        &self,
        target: &Target,
        home: &str,
        deadline: Instant,
    ) -> Result<Registration, Fault> {
        if *target.credential == ClientCredential::None {
            return Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER));
        }
        let token = self.client_token(home, target, deadline).await?;
        self.entra.registration(token.expose(), &target.client_id, deadline).await
    }

    async fn registration_through(
        &self,
        reader: &ReaderClient,
        home: &str,
        client_id: &str,
        deadline: Instant,
    ) -> Result<Registration, Fault> {
        let ask = async |token: Secret| self.entra.registration(token.expose(), client_id, deadline).await;
        let (token, cached) = self.reader_token(home, reader, deadline).await?;
        let found = ask(token).await;
        if !cached || !is_denied(&found) {
            return found;
        }
        ask(self.new_reader_token(home, reader, deadline).await?).await
    }

    /// Of the service principal in the integration's tenant.
    async fn signing_certificates(
        &self,
        target: &Target,
        pause: Option<&Fault>,
        asking: Asking,
    ) -> Result<Vec<ListedCredential>, Fault> {
        let (key, wanted) = (signing_key(target), self.freshness("", asking));
        let life = |found: &Vec<ListedCredential>| self.life_of(found);
        if let Some(fault) = pause {
            return self.signing.peek(&key, wanted, life).ok_or_else(|| fault.clone());
        }
        self.signing.get(&key, wanted, life, self.read_signing_certificates(target, asking.deadline)).await
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
            let (token, cached) =
                self.reader_token(&target.tenant, reader, deadline).await.map_err(of_reader)?;
            let found = ask(token).await;
            if !cached || !is_denied(&found) {
                return found;
            }
            let token = self.new_reader_token(&target.tenant, reader, deadline).await.map_err(of_reader)?;
            return ask(token).await;
        }
        if *target.credential == ClientCredential::None {
            return Err(Fault::new(Reason::ReaderPermissionMissing, NEEDS_READER));
        }
        match self.client_token(&target.tenant, target, deadline).await {
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
        pause: Option<&Fault>,
        asking: Asking,
    ) -> ReaderCredentials {
        let key = reader_key(home, reader);
        let mark = mark(&reader.credential).await;
        let wanted = self.freshness(&mark, asking);
        let life = |found: &Registration| self.life(found);
        let found = if pause.is_some() {
            self.registrations.peek(&key, wanted, life)
        } else {
            let request = self.registration_through(reader, home, &reader.client_id, asking.deadline);
            self.registrations.get(&key, wanted, life, request).await.ok()
        };
        let listed = found.map(|found| match found {
            Registration::Listed(listed) => listed,
            Registration::Elsewhere => Vec::new(),
        });
        ReaderCredentials { reader: reader.name.clone(), listed, own: own(&reader.credential).await }
    }

    /// An app-only token of the application for Graph, in a tenant where it is not necessarily installed.
    async fn client_token(&self, tenant: &str, target: &Target, deadline: Instant) -> Result<Secret, Fault> {
        let client = Client {
            tenant,
            client_id: &target.client_id,
            credential: &target.credential,
            now_seconds: self.clock.now().0 / 1000,
            deadline,
        };
        let granted = self.entra.client_credentials(client, &self.entra.graph_scope()).await?;
        Ok(granted.access_token)
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

fn app_key(home: &str, target: &Target) -> String {
    format!("app:{home}:{}", target.client_id)
}

/// Readers have different rights, so that the answer depends on which one was asked.
fn substitute_key(home: &str, target: &Target, reader: &ReaderClient) -> String {
    format!("app:{home}:{}:{}", target.client_id, reader.name)
}

fn reader_key(home: &str, reader: &ReaderClient) -> String {
    format!("reader:{home}:{}", reader.client_id)
}

fn signing_key(target: &Target) -> String {
    let reader = target.reader.as_ref().map(|reader| reader.name.as_str()).unwrap_or_default();
    format!("saml:{}:{}:{reader}", target.tenant, target.client_id)
}

fn is_denied<T>(result: &Result<T, Fault>) -> bool {
    result.as_ref().is_err_and(|fault| fault.reason == Reason::ReaderPermissionMissing)
}

/// A fault of the reader's own credential breaks no integration: the reader may not read, and its own fault is reported with the directory.
fn of_reader(fault: Fault) -> Fault {
    let reason = if fault.reason.is_our_side() { Reason::ReaderPermissionMissing } else { fault.reason };
    Fault { reason, ..fault }
}

/// Why the registration cannot be read. What is wrong with its tenant is not wrong with the integration's tenant.
fn home_fault(fault: Fault, home: &str, target: &Target) -> Fault {
    let is_elsewhere = home != target.tenant;
    if is_elsewhere && fault.reason == Reason::TenantMissing {
        let detail = format!("home_tenant_id {home} is no tenant of this cloud: {}", fault.detail);
        return Fault { reason: Reason::Unclassified, detail, ..fault };
    }
    // Where the integration is, the earlier check says that the application is gone or switched off.
    if !is_elsewhere && fault.reason.is_presence() { fault } else { reader_fault(fault) }
}

/// What the daemon authenticates with. Its files are read away from the threads that serve requests.
async fn own(credential: &ClientCredential) -> OwnCredential {
    let credential = credential.clone();
    tokio::task::spawn_blocking(move || credential.own()).await.unwrap_or(OwnCredential::Unreadable)
}

/// Changes when the credential in use changes.
async fn mark(credential: &ClientCredential) -> String {
    let hash = |text: &str| {
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        hash.as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    };
    match credential {
        ClientCredential::Secret(source) => source.read().map_or(String::new(), |s| hash(s.expose())),
        other => match own(other).await {
            OwnCredential::Certificate { thumbprint, .. } => thumbprint,
            _ => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_reader_break_nothing() {
        for (reason, expected) in [
            (Reason::ClientCredentialExpired, Reason::ReaderPermissionMissing),
            (Reason::ClientCredentialInvalid, Reason::ReaderPermissionMissing),
            (Reason::ConfigurationInvalid, Reason::ReaderPermissionMissing),
            (Reason::ReaderPermissionMissing, Reason::ReaderPermissionMissing),
            (Reason::Throttled, Reason::Throttled),
            (Reason::TenantMissing, Reason::TenantMissing),
        ] {
            assert_eq!(of_reader(Fault::new(reason, "")).reason, expected, "{reason:?}");
        }
    }
}
