//! The token endpoint: client credentials and refresh tokens, with every kind of client authentication.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::basic::BasicTokenType;
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EmptyExtraTokenFields, ExtraTokenFields, HttpRequest, HttpResponse,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken, StandardTokenIntrospectionResponse,
    StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Entra;
use super::assertion::client_assertion;
use super::classify::{EntraError, classify_token};
use super::http::{Answer, Endpoint, Outgoing};
use crate::domain::{Fault, Reason};
use crate::secret::{Secret, SecretSource};

/// How a client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCredential {
    /// A public client.
    None,
    /// A client secret.
    Secret(SecretSource),
    /// A certificate with its private key, PEM files.
    Certificate {
        /// The certificate.
        certificate_file: PathBuf,
        /// The private key.
        private_key_file: PathBuf,
    },
    /// A kind that this version cannot use yet.
    Unbuilt(&'static str),
}

/// A client in a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// GUID or verified domain.
    pub tenant: &'a str,
    /// Application id.
    pub client_id: &'a str,
    /// Its credential.
    pub credential: &'a ClientCredential,
    /// Seconds since the epoch, for assertions.
    pub now_seconds: i64,
    /// When the answer must be there.
    pub deadline: Instant,
}

/// What the token endpoint gave.
#[derive(Debug)]
pub struct Granted {
    /// For Graph or another resource.
    pub access_token: Secret,
    /// How long it is good.
    pub expires_in: Duration,
    /// `scope` of the answer (or `scp` of the token), without resource prefix and `.default`; `None` when neither says.
    pub scopes: Option<Vec<String>>,
    /// The next refresh token.
    pub refresh_token: Option<Secret>,
    /// `roles` of the access token; `None` when the token cannot be read.
    pub roles: Option<Vec<String>>,
    /// `oid` of the access token: the person, or the service principal.
    pub object_id: Option<String>,
    /// Says who signed in; not validated yet.
    pub id_token: Option<Secret>,
}

/// What OpenID Connect adds to a token answer (OpenID Connect Core, section 3.1.3.3).
#[derive(Default, Serialize, Deserialize)]
struct OpenidFields {
    #[serde(default, skip_serializing)]
    id_token: Option<String>,
}

impl std::fmt::Debug for OpenidFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenidFields")
    }
}

impl ExtraTokenFields for OpenidFields {}

/// An authorization code with what belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct CodeGrant<'a> {
    /// The code.
    pub code: &'a Secret,
    /// The PKCE verifier of the request (RFC 7636 section 4.5).
    pub verifier: &'a Secret,
    /// The redirect URI of the request, the very same.
    pub redirect_uri: &'a str,
    /// Scopes of one resource.
    pub scope: &'a str,
}

type Response = StandardTokenResponse<OpenidFields, BasicTokenType>;
type OauthClient = oauth2::Client<
    EntraError,
    Response,
    StandardTokenIntrospectionResponse<EmptyExtraTokenFields, BasicTokenType>,
    StandardRevocableToken,
    EntraError,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
>;

/// Parameters that authenticate the client besides `client_id`.
type Authentication = Vec<(&'static str, String)>;

impl Entra {
    /// An app-only token (RFC 6749 section 4.4) for the resource of `scope`, which must end in `/.default`.
    ///
    /// # Errors
    /// What Entra's refusal means.
    pub async fn client_credentials(&self, client: Client<'_>, scope: &str) -> Result<Granted, Fault> {
        let (oauth, authentication) = self.client(client)?;
        let mut request = oauth.exchange_client_credentials().add_scope(Scope::new(scope.to_owned()));
        for (name, value) in authentication {
            request = request.add_extra_param(name, value);
        }
        let wire = Wire::new(self, client.deadline);
        let result = request.request_async(&wire).await;
        self.granted(result, &wire)
    }

    /// A fresh access token and the next refresh token (RFC 6749 section 6).
    ///
    /// # Errors
    /// What Entra's refusal means.
    pub async fn refresh(&self, client: Client<'_>, refresh_token: &Secret, scope: &str) -> Result<Granted, Fault> {
        let (oauth, authentication) = self.client(client)?;
        let token = RefreshToken::new(refresh_token.expose().to_owned());
        let mut request = oauth.exchange_refresh_token(&token).add_scope(Scope::new(scope.to_owned()));
        for (name, value) in authentication {
            request = request.add_extra_param(name, value);
        }
        let wire = Wire::new(self, client.deadline);
        let result = request.request_async(&wire).await;
        self.granted(result, &wire)
    }

    /// Redeems an authorization code (RFC 6749 section 4.1.3, RFC 7636).
    ///
    /// # Errors
    /// What Entra's refusal means.
    pub async fn redeem(&self, client: Client<'_>, grant: CodeGrant<'_>) -> Result<Granted, Fault> {
        let (oauth, authentication) = self.client(client)?;
        let redirect = RedirectUrl::new(grant.redirect_uri.to_owned())
            .map_err(|e| Fault::new(Reason::ConfigurationInvalid, format!("redirect URI: {e}")))?;
        let oauth = oauth.set_redirect_uri(redirect);
        let mut request = oauth
            .exchange_code(AuthorizationCode::new(grant.code.expose().to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(grant.verifier.expose().to_owned()))
            .add_extra_param("scope", grant.scope);
        for (name, value) in authentication {
            request = request.add_extra_param(name, value);
        }
        let wire = Wire::new(self, client.deadline);
        let result = request.request_async(&wire).await;
        self.granted(result, &wire)
    }

    fn client(&self, client: Client<'_>) -> Result<(OauthClient, Authentication), Fault> {
        let endpoint = format!("{}/{}/oauth2/v2.0/token", self.hosts.login, client.tenant);
        let url = TokenUrl::new(endpoint.clone()).map_err(|e| Fault::new(Reason::ConfigurationInvalid, format!("token endpoint: {e}")))?;
        let oauth = oauth2::Client::new(ClientId::new(client.client_id.to_owned())).set_token_uri(url).set_auth_type(AuthType::RequestBody);
        match client.credential {
            ClientCredential::None => Ok((oauth, Vec::new())),
            ClientCredential::Secret(source) => {
                let secret = source.read().map_err(|e| Fault::new(Reason::ClientCredentialInvalid, e.to_string()))?;
                Ok((oauth.set_client_secret(ClientSecret::new(secret.expose().to_owned())), Vec::new()))
            }
            ClientCredential::Certificate { certificate_file, private_key_file } => {
                let assertion = client_assertion(client.client_id, &endpoint, certificate_file, private_key_file, client.now_seconds)
                    .map_err(|e| Fault::new(Reason::ClientCredentialInvalid, e))?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
                Ok((oauth, vec![("client_assertion_type", kind), ("client_assertion", assertion)]))
            }
            ClientCredential::Unbuilt(kind) => Err(Fault::new(
                Reason::Unclassified,
                format!("credentials of kind {kind} are accepted in the configuration but not usable in this version"),
            )),
        }
    }

    fn granted(&self, result: Result<Response, RequestTokenError<Lost, EntraError>>, wire: &Wire<'_>) -> Result<Granted, Fault> {
        let seen = wire.seen();
        match result {
            Ok(response) => Ok(granted(&response)),
            Err(RequestTokenError::ServerResponse(error)) => {
                let mut fault = classify_token(seen.status, &error, &self.overrides);
                fault.request_id = fault.request_id.or(seen.request_id);
                fault.retry_after = seen.retry_after;
                Err(fault)
            }
            Err(RequestTokenError::Request(lost)) => Err(lost.0),
            // Parse errors carry the body, so they are never shown.
            Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => Err(not_a_token_answer(&seen)),
        }
    }
}

/// An answer that is neither a token nor an error of the token endpoint: the status decides.
fn not_a_token_answer(seen: &Seen) -> Fault {
    let reason = match seen.status {
        429 => Reason::Throttled,
        500.. => Reason::UpstreamUnavailable,
        407 => Reason::NetworkError,
        _ => Reason::InvalidResponse,
    };
    let detail = format!("the token endpoint answered {} with something else than a token or an error", seen.status);
    Fault { request_id: seen.request_id.clone(), retry_after: seen.retry_after, ..Fault::new(reason, detail) }
}

fn granted(response: &Response) -> Granted {
    let token = response.access_token().secret();
    let claims = claims(token);
    let words = |claim: &Value| {
        claim.as_array().map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()).unwrap_or_default()
    };
    // With or without the resource in front, in whatever spelling of its host (Microsoft, `v2-oauth2-auth-code-flow.md`).
    let short = |scope: &str| scope.rsplit_once('/').map_or(scope, |(_, last)| last).to_owned();
    let split = |text: &str| text.split_whitespace().map(short).filter(|s| s != ".default").collect::<Vec<_>>();
    let said = response.scopes().map(|s| s.iter().flat_map(|v| split(v)).collect());
    let carried = || claims.as_ref().and_then(|c| c["scp"].as_str()).map(split);
    Granted {
        access_token: Secret::new(token.clone()),
        expires_in: response.expires_in().unwrap_or(Duration::from_secs(3599)),
        scopes: said.or_else(carried),
        refresh_token: response.refresh_token().map(|t| Secret::new(t.secret().clone())),
        roles: claims.as_ref().map(|c| words(&c["roles"])),
        object_id: claims.as_ref().and_then(|c| c["oid"].as_str()).map(str::to_owned),
        id_token: response.extra_fields().id_token.as_deref().map(Secret::new),
    }
}

/// Claims of an access token, for diagnosis only: its signature is Graph's business (Microsoft, `access-tokens.md`).
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
}

/// Our own fault, as an error that the `oauth2` crate can carry.
#[derive(Debug)]
pub(super) struct Lost(Fault);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.reason.label())
    }
}

impl std::error::Error for Lost {}

#[derive(Clone, Default)]
struct Seen {
    status: u16,
    request_id: Option<String>,
    retry_after: Option<Duration>,
}

/// Carries one request of the `oauth2` crate through our own door, and remembers what the crate does not pass on.
#[derive(Clone)]
struct Wire<'a> {
    entra: &'a Entra,
    deadline: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl<'a> Wire<'a> {
    fn new(entra: &'a Entra, deadline: Instant) -> Self {
        Self { entra, deadline, seen: Arc::default() }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Lost> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let outgoing = Outgoing {
            endpoint: Endpoint::Token,
            method: Method::POST,
            url: &url,
            headers: Vec::new(),
            bearer: None,
            body: Some(("application/x-www-form-urlencoded", body)),
            deadline: self.deadline,
        };
        let answer = self.entra.door.send(outgoing).await.map_err(Lost)?;
        let seen = Seen { status: answer.status.as_u16(), request_id: answer.request_id(), retry_after: answer.retry_after() };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let Answer { status, body, .. } = answer;
        let mut response = HttpResponse::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for Wire<'_> {
    type Error = Lost;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Lost>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}
