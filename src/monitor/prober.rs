//! Gathers the evidence about one integration, in as few round trips as possible. Decides no verdict.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::kept::{Asking, Kept};
use crate::clock::Clock;
use crate::credential::ClientCredential;
use crate::domain::{
    Access, Check, CredentialExpiry, Directory, Evidence, Fault, ListedCredential, OwnToken, Reason,
    Registration, Requirements, RoleEvidence, Timestamp,
};
use crate::entra::{Client, DirectoryQuestion, Entra, Granted, ResourceCache, ResourceKey};
use crate::secret::{Secret, SecretError, read_refresh_token};
use crate::store::{Store, StoreError, StoredToken, TokenId};

/// A directory reader's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderClient {
    /// Its name in the configuration.
    pub name: String,
    /// Application id.
    pub client_id: String,
    /// Its credential.
    pub credential: ClientCredential,
}

/// What the prober needs to know of an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unique name.
    pub name: String,
    /// Name of its application in the configuration.
    pub app: Arc<str>,
    /// GUID or verified domain.
    pub tenant: String,
    /// Application id.
    pub client_id: String,
    /// The application's credential.
    pub credential: Arc<ClientCredential>,
    /// The directory reader, if there is one.
    pub reader: Option<Arc<ReaderClient>>,
    /// A file with a refresh token that another program maintains.
    pub refresh_token_file: Option<PathBuf>,
    /// What is required of the integration.
    pub requirements: Requirements,
    /// GUID of the tenant where the application is registered, if it is not the integration's own.
    pub home_tenant: Option<Arc<str>>,
}

/// What a probe has to find out besides the checks, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct ProbeRequest {
    /// The tenant's GUID.
    pub tenant_guid: bool,
    /// A person asked for it: no answer that was kept is used.
    pub asked: bool,
    /// For the whole probe.
    pub timeout: Duration,
}

impl Target {
    /// The key of its stored token.
    pub fn token_id(&self) -> TokenId {
        TokenId {
            integration: self.name.clone(),
            client_id: self.client_id.clone(),
            tenant: self.tenant.clone(),
        }
    }

    /// When its certificates and those of its reader expire. Reads their files.
    pub(super) async fn credential_expiries(&self) -> Vec<CredentialExpiry> {
        let reader = self.reader.as_ref().map(|r| &r.credential);
        let certificates = [Some(&*self.credential), reader].into_iter().flatten();
        let certificates: Vec<ClientCredential> =
            certificates.filter(|c| matches!(c, ClientCredential::Certificate(_))).cloned().collect();
        if certificates.is_empty() {
            return Vec::new();
        }
        // Opening a PFX file takes many rounds of hashing.
        let read = move || certificates.iter().filter_map(ClientCredential::expiry).collect::<Vec<_>>();
        let mut expiries = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        expiries.dedup();
        expiries
    }

    fn client(&self, now: Timestamp, deadline: Instant) -> Client<'_> {
        Client {
            tenant: &self.tenant,
            client_id: &self.client_id,
            credential: &self.credential,
            now_seconds: now.0 / 1000,
            deadline,
        }
    }
}

/// The result of a probe.
#[derive(Debug)]
pub struct Probed {
    /// The evidence.
    pub evidence: Evidence,
    /// The tenant's GUID, if it was requested and found.
    pub tenant_guid: Option<String>,
}

/// A token for Graph from the integration itself.
struct Own {
    token: OwnToken,
    access_token: Option<Secret>,
}

/// The result of using a refresh token.
struct Refreshed {
    granted: Granted,
    /// The refresh token that was used successfully.
    worked: Secret,
    /// Generation of the stored token, if the token is ours.
    generation: Option<i64>,
}

/// Gathers evidence. Shared by all probes.
#[derive(Debug)]
pub struct Prober {
    pub(super) entra: Entra,
    store: Store,
    pub(super) clock: Clock,
    resources: ResourceCache,
    /// Credentials of app registrations.
    pub(super) registrations: Kept<Registration>,
    /// SAML signing certificates.
    pub(super) signing: Kept<Vec<ListedCredential>>,
    reader_tokens: Mutex<HashMap<(String, String), (Secret, Timestamp)>>,
}

impl Prober {
    /// A prober with these dependencies.
    pub fn new(entra: Entra, store: Store, clock: Clock) -> Self {
        Self {
            entra,
            store,
            clock,
            resources: ResourceCache::default(),
            registrations: Kept::default(),
            signing: Kept::default(),
            reader_tokens: Mutex::default(),
        }
    }

    /// One probe. Always ends by `deadline`; requests that did not end by then are a `timeout` in the evidence.
    pub async fn probe(&self, target: &Target, wanted: ProbeRequest) -> Probed {
        let mut deadline = Instant::now() + wanted.timeout;
        let directory = match &target.reader {
            Some(reader) => Some(self.ask_directory(target, reader, deadline).await),
            None => None,
        };
        // After a tenant asked for a pause, the probe sends it no more requests (Microsoft Graph,
        // `concepts/throttling.md`).
        let mut pause = directory.as_ref().and_then(Directory::pause);
        let (app_only, app_token) = match &pause {
            Some(fault) => (Some(Err(fault.clone())), None),
            None => self.ask_app_only(target, directory.as_ref(), deadline).await,
        };
        pause = pause.or_else(|| {
            app_only.as_ref().and_then(|a| a.as_ref().err()).filter(|f| f.asks_to_wait()).cloned()
        });
        let own = match (target.requirements.access, &pause) {
            (Access::Delegated, Some(fault)) => {
                Own { token: OwnToken::Rejected(fault.clone()), access_token: None }
            }
            (Access::Delegated, None) => self.ask_refresh(target, &mut deadline).await,
            (Access::Application, _) => Own { token: OwnToken::NotUsed, access_token: app_token.clone() },
        };
        let groups = match (own.access_token, &pause) {
            (Some(_), Some(fault)) => Some(Err(fault.clone())),
            (Some(token), None) if target.requirements.checks.contains(&Check::GroupAccess) => {
                Some(self.entra.groups(token.expose(), &target.requirements.groups, deadline).await)
            }
            _ => None,
        };
        // After the others, which they must not delay.
        let own_app = match (&app_token, &app_only) {
            (Some(token), _) => Some(Ok(token)),
            (None, Some(Err(fault))) => Some(Err(fault)),
            (None, _) => None,
        };
        let jobs = match &pause {
            Some(fault) => {
                target.requirements.checks.contains(&Check::Provisioning).then(|| Err(fault.clone()))
            }
            None => Box::pin(self.ask_jobs(target, directory.as_ref(), own_app, deadline)).await,
        };
        pause = pause.or_else(|| jobs.as_ref()?.as_ref().err().filter(|f| f.asks_to_wait()).cloned());
        let asking = Asking { asked: wanted.asked, deadline };
        // Boxed: most probes ask for neither, and each has room for its largest step.
        let credentials = Box::pin(self.ask_credentials(target, pause.as_ref(), asking)).await;
        let at = self.clock.now();
        let evidence = Evidence { directory, app_only, own_token: own.token, groups, jobs, credentials, at };
        // The GUID is not urgent, so it is only requested in a probe without faults.
        let tenant_guid = if wanted.tenant_guid && evidence.faults().is_empty() {
            self.entra.tenant_guid(&target.tenant, deadline).await.ok()
        } else {
            None
        };
        Probed { evidence, tenant_guid }
    }

    /// The directory's responses. A cached reader token is used until it expires or is rejected: the evidence is in the directory, not in
    /// the token.
    async fn ask_directory(&self, target: &Target, reader: &ReaderClient, deadline: Instant) -> Directory {
        let question = DirectoryQuestion {
            tenant: &target.tenant,
            app_id: &target.client_id,
            required: &target.requirements.required,
            deadline,
        };
        let (directory, cached) = self.read_directory(target, reader, question).await;
        let denied = directory.faults().iter().any(|f| f.reason == Reason::ReaderPermissionMissing);
        if !denied {
            return directory;
        }
        // New roles never appear in an old token (Microsoft,
        // `managed-identity-best-practice-recommendations.md`): an error counts only with a new token.
        self.forget_reader_token(&target.tenant, reader);
        if cached { self.read_directory(target, reader, question).await.0 } else { directory }
    }

    /// The directory's responses, and whether a cached token was used.
    async fn read_directory(
        &self,
        target: &Target,
        reader: &ReaderClient,
        question: DirectoryQuestion<'_>,
    ) -> (Directory, bool) {
        match self.reader_token(&target.tenant, reader, question.deadline).await {
            Ok((token, cached)) => {
                (self.entra.directory(token.expose(), question, &self.resources).await, cached)
            }
            Err(fault) => (Directory::failed(fault), false),
        }
    }

    /// A token for the reader in this tenant, and whether it is a cached one.
    pub(super) async fn reader_token(
        &self,
        tenant: &str,
        reader: &ReaderClient,
        deadline: Instant,
    ) -> Result<(Secret, bool), Fault> {
        let now = self.clock.now();
        let key = (reader.client_id.clone(), tenant.to_owned());
        if let Some((token, _)) = self.lock_readers().get(&key).filter(|(_, until)| *until > now) {
            return Ok((token.clone(), true));
        }
        let client = Client {
            tenant,
            client_id: &reader.client_id,
            credential: &reader.credential,
            now_seconds: now.0 / 1000,
            deadline,
        };
        let granted =
            self.entra.client_credentials(client, &self.entra.graph_scope()).await.map_err(reader_fault)?;
        let until = now.plus(granted.expires_in.saturating_sub(Duration::from_secs(300)));
        self.lock_readers().insert(key, (granted.access_token.clone(), until));
        Ok((granted.access_token, false))
    }

    pub(super) fn forget_reader_token(&self, tenant: &str, reader: &ReaderClient) {
        self.lock_readers().remove(&(reader.client_id.clone(), tenant.to_owned()));
    }

    fn lock_readers(&self) -> parking_lot::MutexGuard<'_, HashMap<(String, String), (Secret, Timestamp)>> {
        self.reader_tokens.lock()
    }

    /// App-only tokens of the application itself: always for application access, and for confidential clients as evidence of presence and
    /// roles if the directory gives none.
    async fn ask_app_only(
        &self,
        target: &Target,
        directory: Option<&Directory>,
        deadline: Instant,
    ) -> (Option<Result<Vec<RoleEvidence>, Fault>>, Option<Secret>) {
        let delegated = target.requirements.access == Access::Delegated;
        let directory_answered = directory.is_some_and(|d| d.presence.is_ok() && d.application.is_ok());
        // "Nothing is granted" counts only if the tokens agree, so they are requested.
        let lists_roles = directory_answered
            && directory.is_some_and(|d| {
                d.application.as_ref().is_ok_and(|g| g.iter().any(|g| !g.application.is_empty()))
            });
        if delegated && (directory_answered || matches!(*target.credential, ClientCredential::None)) {
            return (None, None);
        }
        let now = self.clock.now();
        let graph = self.entra.graph_scope();
        let granted = match self.entra.client_credentials(target.client(now, deadline), &graph).await {
            Ok(granted) => granted,
            Err(fault) => return (Some(Err(fault)), None),
        };
        let mut roles = Vec::new();
        for required in target.requirements.required.iter() {
            let scope = ResourceKey::of(&required.resource).scope(&self.entra.cloud().graph_url);
            if scope == graph {
                roles.push(RoleEvidence {
                    resource: required.resource.clone(),
                    roles: Ok(granted.roles.clone()),
                });
            } else if !lists_roles && !required.application.is_empty() {
                let other = self.entra.client_credentials(target.client(now, deadline), &scope).await;
                roles.push(RoleEvidence {
                    resource: required.resource.clone(),
                    roles: other.map(|g| g.roles),
                });
            }
        }
        if !directory_answered && roles.iter().any(|r| r.roles == Ok(None)) {
            self.ask_own_assignments(target, &granted.access_token, &mut roles, deadline).await;
        }
        (Some(Ok(roles)), Some(granted.access_token))
    }

    /// Tokens that cannot be read say nothing about roles; the application may have the permission to list its own assignments.
    async fn ask_own_assignments(
        &self,
        target: &Target,
        token: &Secret,
        roles: &mut [RoleEvidence],
        deadline: Instant,
    ) {
        let question = DirectoryQuestion {
            tenant: &target.tenant,
            app_id: &target.client_id,
            required: &target.requirements.required,
            deadline,
        };
        let Ok(listed) = self.entra.directory(token.expose(), question, &self.resources).await.application
        else {
            return;
        };
        for role in roles.iter_mut().filter(|r| r.roles == Ok(None)) {
            let held =
                listed.iter().filter(|g| g.resource == role.resource).flat_map(|g| g.application.clone());
            role.roles = Ok(Some(held.collect()));
        }
    }

    /// A new access token from the stored refresh token: a cached one would be valid for up to an hour after consent was revoked.
    async fn ask_refresh(&self, target: &Target, deadline: &mut Instant) -> Own {
        let failed = |fault| Own { token: OwnToken::Rejected(fault), access_token: None };
        let granted = match &target.refresh_token_file {
            // A token that another program maintains: read at every probe, never rotated here.
            Some(path) => match read_refresh_token(path) {
                Ok(token) => self.refresh(target, &token, *deadline).await.map(|granted| Refreshed {
                    granted,
                    worked: token,
                    generation: None,
                }),
                Err(SecretError::Read { source, .. })
                    if source.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) =>
                {
                    return Own { token: OwnToken::Missing, access_token: None };
                }
                // A missing mount, wrong permissions or an empty file is our fault; no admin can fix it.
                Err(error) => return failed(Fault::new(Reason::CredentialUnreadable, error.to_string())),
            },
            None => match self.store.token(&target.token_id()).await {
                Ok(Some(stored)) => self.refresh_stored(target, stored, deadline).await,
                Ok(None) => return Own { token: OwnToken::Missing, access_token: None },
                Err(error) => return failed(store_fault(&error)),
            },
        };
        match granted {
            Ok(refreshed) => self.scopes(target, refreshed, deadline).await,
            Err(fault) => failed(fault),
        }
    }

    async fn refresh(&self, target: &Target, token: &Secret, deadline: Instant) -> Result<Granted, Fault> {
        self.entra.refresh(target.client(self.clock.now(), deadline), token, &self.entra.graph_scope()).await
    }

    /// Rotates safely: the new token is saved before its access token is used, the one that has just worked becomes the previous one, and
    /// when the current one is rejected the previous one is tried before anybody is notified.
    async fn refresh_stored(
        &self,
        target: &Target,
        stored: StoredToken,
        deadline: &mut Instant,
    ) -> Result<Refreshed, Fault> {
        let (granted, worked) = match self.refresh(target, &stored.current, *deadline).await {
            Ok(granted) => (granted, stored.current),
            Err(fault) => match stored.previous {
                Some(previous) if is_about_the_token(fault.reason) => match self
                    .refresh(target, &previous, *deadline)
                    .await
                {
                    Ok(granted) => (granted, previous),
                    Err(second) => {
                        return Err(Fault { retry_after: second.retry_after.or(fault.retry_after), ..fault });
                    }
                },
                _ => return Err(fault),
            },
        };
        let generation = match &granted.refresh_token {
            Some(next) => self.save_successor(target, stored.generation, next, &worked, deadline).await,
            None => Some(stored.generation),
        };
        Ok(Refreshed { granted, worked, generation })
    }

    /// Saves the next token. Returns its generation; `None` if the stored token was replaced meanwhile.
    async fn save_successor(
        &self,
        target: &Target,
        generation: i64,
        next: &Secret,
        worked: &Secret,
        deadline: &mut Instant,
    ) -> Option<i64> {
        let begun = Instant::now();
        let saved =
            self.store.save_rotated(&target.token_id(), generation, next, worked, self.clock.now()).await;
        // The database caused this delay, not Entra.
        *deadline += begun.elapsed();
        match saved {
            Ok(Some(generation)) => Some(generation),
            Ok(None) => {
                tracing::info!(integration = %target.name, "the stored token was replaced during a probe; the newer one stays");
                None
            }
            // The old token may be invalid if tokens are single-use, so the store continues with the new one
            // until it can be saved.
            Err(error) => {
                tracing::error!(integration = %target.name, %error, "cannot save the rotated refresh token yet; it is kept in memory");
                Some(generation)
            }
        }
    }

    /// The scopes of every required resource: one more token request for each resource besides Graph. Each response may contain a next
    /// refresh token; if tokens are single-use, the previous one is then invalid.
    async fn scopes(&self, target: &Target, refreshed: Refreshed, deadline: &mut Instant) -> Own {
        let Refreshed { granted, worked, mut generation } = refreshed;
        let graph = self.entra.graph_scope();
        let unsaid =
            || Fault::new(Reason::InvalidResponse, "the token endpoint did not return the granted scopes");
        let mut graph_scopes = granted.scopes.clone();
        if let (Some(scopes), Some(_)) = (&mut graph_scopes, &granted.refresh_token) {
            // The scope in the response leaves it out, but the refresh token in the response shows that it
            // was granted.
            scopes.push("offline_access".to_owned());
        }
        let mut token = granted.refresh_token.clone().unwrap_or(worked);
        let mut scopes = Vec::new();
        for required in target.requirements.required.iter() {
            let scope = ResourceKey::of(&required.resource).scope(&self.entra.cloud().graph_url);
            if scope == graph {
                scopes.push((required.resource.clone(), graph_scopes.clone().ok_or_else(unsaid)));
            } else if !required.delegated.is_empty() {
                let other =
                    self.entra.refresh(target.client(self.clock.now(), *deadline), &token, &scope).await;
                if let Some(next) = other.as_ref().ok().and_then(|g| g.refresh_token.clone()) {
                    if let Some(known) = generation {
                        generation = self.save_successor(target, known, &next, &token, deadline).await;
                    }
                    token = next;
                }
                scopes.push((required.resource.clone(), other.and_then(|g| g.scopes.ok_or_else(unsaid))));
            }
        }
        Own {
            token: OwnToken::Granted { scopes, principal: granted.object_id },
            access_token: Some(granted.access_token),
        }
    }
}

/// Whether another refresh token may work.
const fn is_about_the_token(reason: Reason) -> bool {
    matches!(reason, Reason::TokenInvalid | Reason::TokenExpired | Reason::TokenRevoked)
}

/// Why a stored token cannot be read. A row that does not decrypt needs the right key or a new sign-in, and has nothing to do with Entra. A database
/// error is reported elsewhere, and is transient.
fn store_fault(error: &StoreError) -> Fault {
    match error {
        StoreError::Damaged(what) => Fault::new(Reason::CredentialUnreadable, what.clone()),
        _ => Fault::new(Reason::Unclassified, format!("the stored token cannot be read: {error}")),
    }
}

/// A reader that is not installed, disabled or blocked in the tenant lacks permission: this is not a failure of the integration. A reason
/// about the tenant, our own files or the network is kept.
pub(super) fn reader_fault(fault: Fault) -> Fault {
    let reason = match fault.reason {
        Reason::TenantMissing
        | Reason::ClientCredentialInvalid
        | Reason::ClientCredentialExpired
        | Reason::ConfigurationInvalid => fault.reason,
        reason if reason.is_inconclusive() => reason,
        _ => Reason::ReaderPermissionMissing,
    };
    Fault { reason, ..fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_errors_are_not_blamed_on_entra() {
        for (sentence, error, expected) in [
            (
                "a row that does not decrypt",
                StoreError::Damaged("the stored token of acme does not decrypt".to_owned()),
                Reason::CredentialUnreadable,
            ),
            (
                "a database that is locked",
                StoreError::Database("database is locked".to_owned()),
                Reason::Unclassified,
            ),
            ("a store that is closed", StoreError::Closed, Reason::Unclassified),
        ] {
            let fault = store_fault(&error);
            assert_eq!(fault.reason, expected, "{sentence}");
            assert!(fault.reason.is_inconclusive() && !fault.detail.is_empty(), "{sentence}");
        }
    }

    #[test]
    fn errors_of_a_reader_mean_missing_permissions() {
        for (reason, expected) in [
            (Reason::AppMissing, Reason::ReaderPermissionMissing),
            (Reason::AppDisabled, Reason::ReaderPermissionMissing),
            (Reason::AccessBlocked, Reason::ReaderPermissionMissing),
            (Reason::ConsentMissing, Reason::ReaderPermissionMissing),
            (Reason::TenantMissing, Reason::TenantMissing),
            (Reason::ClientCredentialExpired, Reason::ClientCredentialExpired),
            (Reason::CredentialUnreadable, Reason::CredentialUnreadable),
            (Reason::Throttled, Reason::Throttled),
            (Reason::InvalidResponse, Reason::InvalidResponse),
        ] {
            assert_eq!(reader_fault(Fault::new(reason, "")).reason, expected, "{reason:?}");
        }
    }
}
