//! Managed identities of the machine that the daemon runs on: their tokens are the client assertions of applications that trust them
//! (Microsoft, `workload-identity-federation-config-app-trust-managed-identity.md`). Sources, order and names of environment variables are
//! those of the `azure-identity` libraries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::Value;

use super::http::{Endpoint, HttpClient, Request, Response};
use crate::domain::{Fault, Reason, one_line};
use crate::secret::{Secret, read_bytes};

/// Where tokens come from.
#[derive(Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// App Service, Functions, Container Apps: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`
    /// (Microsoft, `overview-managed-identity.md`, section "REST endpoint reference").
    AppService {
        /// The URL.
        endpoint: String,
        /// The value of `X-IDENTITY-HEADER`.
        header: Secret,
    },
    /// Azure Arc: `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT` (Microsoft, `managed-identity-authentication.md`).
    Arc {
        /// The URL.
        endpoint: String,
        /// The only folder in which challenge files may lie.
        folder: PathBuf,
    },
    /// The instance metadata service, or what stands in its place (Microsoft, `how-to-use-vm-token.md`).
    Metadata {
        /// The URL.
        endpoint: String,
    },
    /// A host that Consentry cannot use.
    Unsupported(&'static str),
}

/// Where the agent of Azure Arc writes challenge files (Microsoft, `managed-identity-authentication.md`).
const ARC_FOLDER: &str = if cfg!(windows) {
    r"C:\ProgramData\AzureConnectedMachineAgent\Tokens"
} else {
    "/var/opt/azcmagent/tokens"
};

const METADATA_HOST: &str = "http://169.254.169.254";

impl IdentitySource {
    /// The source that the environment names.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let host =
            || variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
        match (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER"), variable("IMDS_ENDPOINT")) {
            (Some(_), Some(_), _) if variable("IDENTITY_SERVER_THUMBPRINT").is_some() => {
                Self::Unsupported("managed identities of Service Fabric are not supported; use a certificate")
            }
            (Some(endpoint), Some(header), _) => Self::AppService { endpoint, header: Secret::new(header) },
            (Some(endpoint), None, Some(_)) => Self::Arc { endpoint, folder: PathBuf::from(ARC_FOLDER) },
            _ => Self::Metadata {
                endpoint: format!("{}/metadata/identity/oauth2/token", host().trim_end_matches('/')),
            },
        }
    }

    /// In words, with its address.
    fn words(&self) -> String {
        match self {
            Self::AppService { endpoint, .. } => {
                format!("the App Service endpoint {}", shown(endpoint))
            }
            Self::Arc { endpoint, .. } => format!("the Azure Arc endpoint {}", shown(endpoint)),
            Self::Metadata { endpoint } => {
                format!("the instance metadata service at {}", shown(endpoint))
            }
            Self::Unsupported(why) => (*why).to_owned(),
        }
    }
}

/// A token and how long it is used.
struct Cached {
    token: Secret,
    /// From this second since the epoch on, a new one is requested.
    renew: i64,
    /// From this second on, it is not used any more.
    end: i64,
}

/// What is known of one identity.
#[derive(Default)]
struct Known {
    cached: Option<Cached>,
    /// A request that failed: it is not repeated before this second.
    failed: Option<(Fault, i64)>,
}

/// Whoever holds the lock requests the token; the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Known>>;

/// Tokens of managed identities: requested once for all who wait for them, and renewed when half of their life is over.
pub struct ManagedIdentities {
    source: IdentitySource,
    known: Mutex<HashMap<Option<String>, Slot>>,
}

impl std::fmt::Debug for ManagedIdentities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManagedIdentities")
    }
}

/// A token that ends sooner may end on its way.
const MARGIN: i64 = 300;

/// A failure counts for this many seconds for all who ask.
const FAILURE_COUNTS: i64 = 10;

/// A failure that counts for longer was noted before the clock was set back.
const LONGEST_FAILURE: i64 = 600;

/// How often a service that is not ready is asked, and the first pause; each pause is twice the one before.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(800);

/// Which token.
#[derive(Clone, Copy)]
pub(super) struct IdentityRequest<'a> {
    /// Client id of a user-assigned identity.
    pub(super) client_id: Option<&'a str>,
    /// The audience of the token.
    pub(super) resource: &'a str,
    pub(super) now_seconds: i64,
    pub(super) deadline: Instant,
}

impl ManagedIdentities {
    /// Identities from this source.
    pub fn new(source: IdentitySource) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// A valid token.
    ///
    /// # Errors
    /// `credential_unreadable`: there is no such identity, or this machine has none. A transient reason: the service is not ready.
    pub(super) async fn token(
        &self,
        http: &HttpClient,
        wanted: IdentityRequest<'_>,
    ) -> Result<Secret, Fault> {
        let late =
            || Fault::new(Reason::Timeout, format!("no response in time from {}", self.source.words()));
        // One request for all who wait.
        let slot = Arc::clone(self.known.lock().entry(wanted.client_id.map(str::to_owned)).or_default());
        let mut known =
            tokio::time::timeout_at(wanted.deadline.into(), slot.lock()).await.map_err(|_| late())?;
        let now = wanted.now_seconds;
        let usable = known.cached.as_ref().filter(|c| now < c.end && c.end - now < 200_000);
        if let Some(cached) = usable.filter(|c| now < c.renew) {
            return Ok(cached.token.clone());
        }
        let counts = |until: i64| (1..=LONGEST_FAILURE).contains(&(until - now));
        if let Some((fault, _)) = known.failed.as_ref().filter(|(_, until)| counts(*until)) {
            return usable.map(|c| c.token.clone()).ok_or_else(|| fault.clone());
        }
        let begun = Instant::now();
        match self.request(http, wanted).await {
            Ok((token, lifetime)) => {
                let cached = Cached {
                    token: token.clone(),
                    renew: now + lifetime / 2,
                    end: now + (lifetime - MARGIN).max(lifetime / 2),
                };
                *known = Known { cached: Some(cached), failed: None };
                Ok(token)
            }
            Err(fault) => {
                let token = usable.map(|c| c.token.clone());
                // What one probe had no time for says nothing to the others.
                if Instant::now() < wanted.deadline {
                    let until = now + i64::try_from(begun.elapsed().as_secs()).unwrap_or(0) + FAILURE_COUNTS;
                    known.failed = Some((fault.clone(), until));
                }
                token.ok_or(fault)
            }
        }
    }

    /// Forgets a token that Entra has rejected, unless it was renewed meanwhile.
    pub(super) async fn forget(&self, client_id: Option<&str>, rejected: &Secret) {
        let slot = self.known.lock().get(&client_id.map(str::to_owned)).map(Arc::clone);
        let Some(slot) = slot else { return };
        let mut known = slot.lock().await;
        if known.cached.as_ref().is_some_and(|cached| cached.token == *rejected) {
            known.cached = None;
        }
    }

    /// A new token and its lifetime in seconds.
    async fn request(&self, http: &HttpClient, wanted: IdentityRequest<'_>) -> Result<(Secret, i64), Fault> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let answer = self.ask(http, wanted).await?;
            let status = answer.status.as_u16();
            // The service restarts, or does not know the identity yet (Microsoft, `how-to-use-vm-token.md`, section "Retry guidance").
            let is_passing = matches!(status, 404 | 410 | 429 | 500..);
            if !is_passing || attempt >= ATTEMPTS || Instant::now() + pause >= wanted.deadline {
                return self.understood(&answer, wanted.now_seconds);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Fault::new(Reason::Timeout, "no attempt was made"))
    }

    async fn ask(&self, http: &HttpClient, wanted: IdentityRequest<'_>) -> Result<Response, Fault> {
        let IdentityRequest { client_id, resource, .. } = wanted;
        match &self.source {
            IdentitySource::AppService { endpoint, header } => {
                let url = with_query(endpoint, "2019-08-01", resource, client_id)?;
                self.get(http, &url, vec![("x-identity-header", header.expose())], wanted.deadline).await
            }
            IdentitySource::Metadata { endpoint } => {
                let url = with_query(endpoint, "2018-02-01", resource, client_id)?;
                self.get(http, &url, vec![("metadata", "true")], wanted.deadline).await
            }
            IdentitySource::Arc { .. } if client_id.is_some() => Err(unreadable(
                "Azure Arc has no user-assigned identities: remove client_id of managed_identity".to_owned(),
            )),
            IdentitySource::Arc { endpoint, folder } => {
                let url = with_query(endpoint, "2020-06-01", resource, None)?;
                let challenged = self.get(http, &url, vec![("metadata", "true")], wanted.deadline).await?;
                if challenged.status != reqwest::StatusCode::UNAUTHORIZED {
                    return Ok(challenged);
                }
                let key = challenge(&challenged, folder)?;
                let authorization = Secret::new(format!("Basic {}", key.expose()));
                let headers = vec![("metadata", "true"), ("authorization", authorization.expose())];
                self.get(http, &url, headers, wanted.deadline).await
            }
            IdentitySource::Unsupported(why) => Err(unreadable((*why).to_owned())),
        }
    }

    async fn get(
        &self,
        http: &HttpClient,
        url: &str,
        headers: Vec<(&'static str, &str)>,
        deadline: Instant,
    ) -> Result<Response, Fault> {
        let request = Request {
            endpoint: Endpoint::ManagedIdentity,
            method: Method::GET,
            url,
            headers,
            bearer: None,
            body: None,
            deadline,
        };
        http.send(request).await.map_err(|fault| match fault.reason {
            // No file descriptor is left.
            Reason::CredentialUnreadable => fault,
            // Elsewhere than on Azure, nothing answers there. Entra is not the cause.
            _ => unreadable(format!(
                "{} does not respond ({}): a managed identity exists on Azure hosts only",
                self.source.words(),
                fault.detail
            )),
        })
    }

    fn understood(&self, answer: &Response, now: i64) -> Result<(Secret, i64), Fault> {
        let body = answer.json().unwrap_or_default();
        let status = answer.status.as_u16();
        if !answer.status.is_success() {
            // App Service writes `message`, the others `error` and `error_description`.
            let said =
                ["error", "error_description", "message"].map(|key| body[key].as_str().unwrap_or_default());
            let said = one_line(&said.join(" "), 300);
            let text = format!("{} answered {status}: {said}", self.source.words());
            return Err(match status {
                410 | 429 | 500.. => Fault::new(Reason::UpstreamUnavailable, text),
                _ => unreadable(text),
            });
        }
        let token = body["access_token"].as_str().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            Fault::new(Reason::InvalidResponse, format!("{} returned no access_token", self.source.words()))
        })?;
        Ok((Secret::new(token), lifetime(&body, now)))
    }
}

/// An address without its user and its query, which may hold secrets.
fn shown(endpoint: &str) -> String {
    match url::Url::parse(endpoint) {
        Ok(url) => one_line(&format!("{}{}", url.origin().ascii_serialization(), url.path()), 200),
        Err(_) => "(no URL)".to_owned(),
    }
}

fn unreadable(detail: String) -> Fault {
    Fault::new(Reason::CredentialUnreadable, detail)
}

/// Numbers are texts in these responses. Without any, a token counts as short-lived.
fn lifetime(body: &Value, now: i64) -> i64 {
    let number = |key: &str| match &body[key] {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        value => value.as_i64(),
    };
    let seconds =
        number("expires_on").map(|at| at.saturating_sub(now)).or_else(|| number("expires_in")).unwrap_or(600);
    seconds.clamp(0, 172_800)
}

fn with_query(
    endpoint: &str,
    version: &str,
    resource: &str,
    client_id: Option<&str>,
) -> Result<String, Fault> {
    let mut url = url::Url::parse(endpoint)
        .map_err(|e| unreadable(format!("the address of the managed identity is no URL: {e}")))?;
    url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", resource);
    if let Some(id) = client_id {
        url.query_pairs_mut().append_pair("client_id", id);
    }
    Ok(url.into())
}

/// The key that Azure Arc wrote to a file, to which only the administrators of this machine have access. A file elsewhere is not read: an
/// impostor at the endpoint would get its content.
fn challenge(answer: &Response, folder: &Path) -> Result<Secret, Fault> {
    const MOST: usize = 4096;
    let mut headers = answer.headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok());
    let realm = headers.find_map(|v| v.trim().strip_prefix("Basic realm="));
    let realm = realm
        .ok_or_else(|| unreadable("Azure Arc answered without the name of a challenge file".to_owned()))?;
    let path = PathBuf::from(realm.trim().trim_matches('"'));
    let named = one_line(&path.to_string_lossy(), 200);
    let refused = |why: &str| unreadable(format!("the challenge file {named} of Azure Arc {why}"));
    let outside = || refused(&format!("does not lie in {}", folder.display()));
    // Before anything of it is looked at: a path may lead to another machine.
    if path.parent() != Some(folder) {
        return Err(outside());
    }
    if path.extension().is_none_or(|e| e != "key") {
        return Err(refused("has no name that ends in .key"));
    }
    let found = path.canonicalize().map_err(|e| {
        refused(&format!("cannot be read: {e}; the daemon's user must be a member of the group himds"))
    })?;
    // A link may lead out of the folder.
    if found.parent() != Some(&folder.canonicalize().unwrap_or_else(|_| folder.to_owned())) {
        return Err(outside());
    }
    let bytes = read_bytes(&found).map_err(|e| refused(&format!("cannot be read: {e}")))?;
    if bytes.len() > MOST {
        return Err(refused("has more than 4096 bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("is not text"))?.trim();
    let is_valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if is_valid { Ok(Secret::new(text)) } else { Err(refused("contains no key")) }
}

#[cfg(test)]
#[path = "managed_identity_tests.rs"]
mod tests;
