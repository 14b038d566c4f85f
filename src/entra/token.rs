//! The token endpoint: client credentials and refresh tokens, with every kind of client authentication.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oauth2::basic::BasicTokenType;
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EmptyExtraTokenFields, ExtraTokenFields,
    HttpRequest, HttpResponse, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardRevocableToken, StandardTokenIntrospectionResponse, StandardTokenResponse, TokenResponse as _,
    TokenUrl,
};
use parking_lot::Mutex;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Entra;
use super::classify::{EntraError, classify_token, without_mark};
use super::credential::{Signing, federated_token};
use super::http::{Endpoint, Request, Response};
use super::managed_identity::IdentityRequest;
use crate::credential::ClientCredential;
use crate::domain::{Fault, Reason, one_line};
use crate::encoding::unverified_claims;
use crate::secret::Secret;

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
    /// When the response must be complete.
    pub deadline: Instant,
}

/// The response of the token endpoint.
#[derive(Debug)]
pub struct Granted {
    /// For Graph or another resource.
    pub access_token: Secret,
    /// Its lifetime.
    pub expires_in: Duration,
    /// `scope` of the response (or `scp` of the token), without resource prefix and `.default`; `None` if both are missing.
    pub scopes: Option<Vec<String>>,
    /// The next refresh token.
    pub refresh_token: Option<Secret>,
    /// `roles` of the access token; `None` if the token cannot be read.
    pub roles: Option<Vec<String>>,
    /// `oid` of the access token: of the user, or of the service principal.
    pub object_id: Option<String>,
    /// Identifies the user; not validated yet.
    pub id_token: Option<Secret>,
}

/// What OpenID Connect adds to a token response (OpenID Connect Core, section 3.1.3.3).
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

/// An authorization code and the parameters to redeem it.
#[derive(Debug, Clone, Copy)]
pub struct CodeGrant<'a> {
    /// The code.
    pub code: &'a Secret,
    /// The PKCE verifier of the request (RFC 7636 section 4.5).
    pub verifier: &'a Secret,
    /// The redirect URI of the request, unchanged.
    pub redirect_uri: &'a str,
    /// Scopes of one resource.
    pub scope: &'a str,
}

type TokenResponse = StandardTokenResponse<OpenidFields, BasicTokenType>;
type OauthClient = oauth2::Client<
    EntraError,
    TokenResponse,
    StandardTokenIntrospectionResponse<EmptyExtraTokenFields, BasicTokenType>,
    StandardRevocableToken,
    EntraError,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
>;

/// A client that is ready to send a request.
struct Prepared {
    oauth: OauthClient,
    assertion: Option<Assertion>,
}

/// A client assertion (RFC 7521 section 4.2).
struct Assertion {
    token: Secret,
    /// Who issued it, if it is not signed by a certificate of ours.
    identity: Option<Identity>,
}

/// Where the token of another identity comes from.
enum Identity {
    File(PathBuf),
    /// Client id of a user-assigned identity.
    Managed(Option<String>),
}

/// Parameters that authenticate the client besides `client_id` (RFC 7523 section 2.2).
fn authentication(assertion: Option<&Assertion>) -> Vec<(&'static str, String)> {
    let Some(Assertion { token, .. }) = assertion else { return Vec::new() };
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
    vec![("client_assertion_type", kind), ("client_assertion", token.expose().to_owned())]
}

fn unreadable(detail: String) -> Fault {
    Fault::new(Reason::CredentialUnreadable, detail)
}

/// Issuer, subject and audience of a token that Entra did not accept, beside which the federated identity credential has to be compared.
/// They are identifiers, not secrets.
fn presented(token: &Secret, code: Option<&str>) -> String {
    let claims = unverified_claims(token.expose()).unwrap_or_default();
    let claim = |name: &str| match &claims[name] {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        value => value.as_str().unwrap_or("(none)").to_owned(),
    };
    let named = |name: &str| one_line(&claim(name), 200);
    // Microsoft, `reference-error-codes.md` and `workload-identity-federation-create-trust.md`.
    let compare = match code {
        Some("AADSTS700211") => "no federated identity credential of the app registration has this issuer",
        Some("AADSTS700212") => "no federated identity credential of the app registration has this audience",
        Some("AADSTS700213") => "no federated identity credential of the app registration has this subject",
        _ => "compare them with the federated identity credentials of the app registration",
    };
    format!("has issuer {}, subject {}, audience {}: {compare}", named("iss"), named("sub"), named("aud"))
}

impl Entra {
    /// An app-only token (RFC 6749 section 4.4) for the resource of `scope`, which must end in `/.default`.
    ///
    /// # Errors
    /// The reason of Entra's error.
    pub async fn client_credentials(&self, client: Client<'_>, scope: &str) -> Result<Granted, Fault> {
        let Prepared { oauth, assertion } = self.client(client).await?;
        let mut request = oauth.exchange_client_credentials().add_scope(Scope::new(scope.to_owned()));
        for (name, value) in authentication(assertion.as_ref()) {
            request = request.add_extra_param(name, value);
        }
        let transport = OauthTransport::new(self, client.deadline);
        let result = request.request_async(&transport).await;
        self.granted(result, &transport, assertion.as_ref()).await
    }

    /// Returns a new access token and the next refresh token (RFC 6749 section 6).
    ///
    /// # Errors
    /// The reason of Entra's error.
    pub async fn refresh(
        &self,
        client: Client<'_>,
        refresh_token: &Secret,
        scope: &str,
    ) -> Result<Granted, Fault> {
        let Prepared { oauth, assertion } = self.client(client).await?;
        let token = RefreshToken::new(refresh_token.expose().to_owned());
        let mut request = oauth.exchange_refresh_token(&token).add_scope(Scope::new(scope.to_owned()));
        for (name, value) in authentication(assertion.as_ref()) {
            request = request.add_extra_param(name, value);
        }
        let transport = OauthTransport::new(self, client.deadline);
        let result = request.request_async(&transport).await;
        self.granted(result, &transport, assertion.as_ref()).await
    }

    /// Redeems an authorization code (RFC 6749 section 4.1.3, RFC 7636).
    ///
    /// # Errors
    /// The reason of Entra's error.
    pub async fn redeem(&self, client: Client<'_>, grant: CodeGrant<'_>) -> Result<Granted, Fault> {
        let Prepared { oauth, assertion } = self.client(client).await?;
        let redirect = RedirectUrl::new(grant.redirect_uri.to_owned())
            .map_err(|e| Fault::new(Reason::ConfigurationInvalid, format!("redirect URI: {e}")))?;
        let oauth = oauth.set_redirect_uri(redirect);
        let mut request = oauth
            .exchange_code(AuthorizationCode::new(grant.code.expose().to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(grant.verifier.expose().to_owned()))
            .add_extra_param("scope", grant.scope);
        for (name, value) in authentication(assertion.as_ref()) {
            request = request.add_extra_param(name, value);
        }
        let transport = OauthTransport::new(self, client.deadline);
        let result = request.request_async(&transport).await;
        self.granted(result, &transport, assertion.as_ref()).await
    }

    async fn client(&self, client: Client<'_>) -> Result<Prepared, Fault> {
        let endpoint = format!("{}/{}/oauth2/v2.0/token", self.cloud.login_url, client.tenant);
        let url = TokenUrl::new(endpoint.clone())
            .map_err(|e| Fault::new(Reason::ConfigurationInvalid, format!("token endpoint: {e}")))?;
        let oauth = oauth2::Client::new(ClientId::new(client.client_id.to_owned()))
            .set_token_uri(url)
            .set_auth_type(AuthType::RequestBody);
        let assertion = match client.credential {
            ClientCredential::None => return Ok(Prepared { oauth, assertion: None }),
            ClientCredential::Secret(source) => {
                let secret = source.read().map_err(|e| unreadable(e.to_string()))?;
                let oauth = oauth.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
                return Ok(Prepared { oauth, assertion: None });
            }
            ClientCredential::Certificate(files) => {
                let assertion = Signing {
                    files: files.clone(),
                    client_id: client.client_id.to_owned(),
                    audience: endpoint,
                };
                Assertion {
                    token: assertion.sign(client.now_seconds).await.map_err(unreadable)?,
                    identity: None,
                }
            }
            ClientCredential::FederatedToken(file) => Assertion {
                token: federated_token(file).map_err(unreadable)?,
                identity: Some(Identity::File(file.clone())),
            },
            ClientCredential::ManagedIdentity(id) => {
                let wanted = IdentityRequest {
                    client_id: id.as_deref(),
                    resource: self.cloud.assertion_audience(),
                    now_seconds: client.now_seconds,
                    deadline: client.deadline,
                };
                let token = self.identities.token(&self.http, wanted).await?;
                Assertion { token, identity: Some(Identity::Managed(id.clone())) }
            }
        };
        Ok(Prepared { oauth, assertion: Some(assertion) })
    }

    /// An error about the assertion is about the client's own credential, also where it would be about a token of the integration if there were
    /// no assertion (Microsoft, `reference-error-codes.md`). Says which token was presented, and requests a new one next time.
    async fn explained(&self, assertion: Option<&Assertion>, fault: Fault) -> Fault {
        let Some(Assertion { token, identity }) = assertion else { return fault };
        let code = fault.code.as_deref();
        let about_assertion = matches!(code, Some("AADSTS500133" | "AADSTS50013" | "AADSTS50027"))
            && !code
                .and_then(|c| c.strip_prefix("AADSTS")?.parse().ok())
                .is_some_and(|n| self.overrides.contains_key(&n));
        let fault =
            if about_assertion { Fault { reason: Reason::ClientCredentialInvalid, ..fault } } else { fault };
        let Some(identity) = identity.as_ref().filter(|_| fault.reason == Reason::ClientCredentialInvalid)
        else {
            return fault;
        };
        let what = match identity {
            Identity::Managed(id) => {
                self.identities.forget(id.as_deref(), token).await;
                "the token of the managed identity".to_owned()
            }
            Identity::File(file) => format!("the token in {}", file.display()),
        };
        let detail = format!("{}; {what} {}", fault.detail, presented(token, fault.code.as_deref()));
        Fault { detail, ..fault }
    }

    async fn granted(
        &self,
        result: Result<TokenResponse, RequestTokenError<TransportError, EntraError>>,
        transport: &OauthTransport<'_>,
        assertion: Option<&Assertion>,
    ) -> Result<Granted, Fault> {
        let seen = transport.seen();
        match result {
            Ok(response) => Ok(granted(&response)),
            Err(RequestTokenError::ServerResponse(error)) => {
                let mut fault = classify_token(seen.status, &error, &self.overrides);
                fault.request_id = fault.request_id.or(seen.request_id);
                fault.retry_after = seen.retry_after;
                Err(self.explained(assertion, fault).await)
            }
            Err(RequestTokenError::Request(lost)) => Err(lost.0),
            // Parse errors contain the body, so they are never shown.
            Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => Err(unusable_response(&seen)),
        }
    }
}

/// A response that is neither a token nor an error of the token endpoint: the status decides.
fn unusable_response(seen: &Seen) -> Fault {
    let reason = match seen.status {
        429 => Reason::Throttled,
        500.. => Reason::UpstreamUnavailable,
        407 => Reason::NetworkError,
        408 => Reason::Timeout,
        _ => Reason::InvalidResponse,
    };
    let detail = format!("the token endpoint answered {} with neither a token nor an error", seen.status);
    Fault { request_id: seen.request_id.clone(), retry_after: seen.retry_after, ..Fault::new(reason, detail) }
}

fn granted(response: &TokenResponse) -> Granted {
    let token = response.access_token().secret();
    let claims = unverified_claims(token);
    let words = |claim: &Value| {
        claim
            .as_array()
            .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    // With or without the resource as prefix, in any spelling of its host (Microsoft,
    // `v2-oauth2-auth-code-flow.md`).
    let short = |scope: &str| scope.rsplit_once('/').map_or(scope, |(_, last)| last).to_owned();
    let split =
        |text: &str| text.split_whitespace().map(short).filter(|s| s != ".default").collect::<Vec<_>>();
    let listed = response.scopes().map(|s| s.iter().flat_map(|v| split(v)).collect());
    let claimed = || claims.as_ref().and_then(|c| c["scp"].as_str()).map(split);
    Granted {
        access_token: Secret::new(token.clone()),
        expires_in: response.expires_in().unwrap_or(Duration::from_secs(3599)),
        scopes: listed.or_else(claimed),
        refresh_token: response.refresh_token().map(|t| Secret::new(t.secret().clone())),
        roles: claims.as_ref().map(|c| words(&c["roles"])),
        object_id: claims.as_ref().and_then(|c| c["oid"].as_str()).map(str::to_owned),
        id_token: response.extra_fields().id_token.as_deref().map(Secret::new),
    }
}

/// Longer than the lifetime of any access token (28 hours, Microsoft, `concept-continuous-access-evaluation.md`); it only limits what is
/// cached.
const LONGEST_LIFE_SECONDS: u64 = 7 * 86_400;

/// Changes a response of the token endpoint to the form that the `oauth2` crate accepts: Microsoft writes some numbers as strings, and null
/// or a list where RFC 6749 section 5.1 has a string. The important rule stays strict: an access token is a string that is not empty.
/// Anything but a JSON object is unchanged, and the crate rejects it.
fn normalised(body: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(without_mark(&body)) else { return body };
    if let Some(written) = fields.remove("expires_in")
        && let Some(seconds) = whole_seconds(&written)
    {
        fields.insert("expires_in".to_owned(), seconds.min(LONGEST_LIFE_SECONDS).into());
    }
    for name in ["access_token", "refresh_token", "id_token"] {
        if fields.get(name).is_some_and(|value| value.as_str().is_some_and(str::is_empty)) {
            fields.remove(name);
        }
    }
    for name in ["refresh_token", "id_token"] {
        if fields.get(name).is_some_and(|value| !value.is_string()) {
            fields.remove(name);
        }
    }
    match fields.remove("scope") {
        Some(Value::String(words)) => drop(fields.insert("scope".to_owned(), words.into())),
        Some(Value::Array(words)) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            fields.insert("scope".to_owned(), words.join(" ").into());
        }
        _ => {}
    }
    if fields.contains_key("access_token") && !fields.get("token_type").is_some_and(Value::is_string) {
        fields.insert("token_type".to_owned(), "Bearer".into());
    }
    serde_json::to_vec(&fields).unwrap_or(body)
}

/// Seconds, as a number or as a string; the fraction is ignored.
fn whole_seconds(value: &Value) -> Option<u64> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse::<f64>().ok())?;
    (seconds.is_finite() && seconds >= 0.0).then_some(seconds as u64)
}

/// Our own fault, as an error that the `oauth2` crate can carry.
#[derive(Debug)]
pub(super) struct TransportError(Fault);

impl std::fmt::Display for TransportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.reason.label())
    }
}

impl std::error::Error for TransportError {}

#[derive(Clone, Default)]
struct Seen {
    status: u16,
    request_id: Option<String>,
    retry_after: Option<Duration>,
}

/// Sends one request of the `oauth2` crate through our own HTTP client, and keeps the values that the crate does not pass on.
#[derive(Clone)]
struct OauthTransport<'a> {
    entra: &'a Entra,
    deadline: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl<'a> OauthTransport<'a> {
    fn new(entra: &'a Entra, deadline: Instant) -> Self {
        Self { entra, deadline, seen: Arc::default() }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let outgoing = Request {
            endpoint: Endpoint::Token,
            method: Method::POST,
            url: &url,
            headers: Vec::new(),
            bearer: None,
            body: Some(("application/x-www-form-urlencoded", body)),
            deadline: self.deadline,
        };
        let answer = self.entra.http.send(outgoing).await.map_err(TransportError)?;
        let seen = Seen {
            status: answer.status.as_u16(),
            request_id: answer.request_id(),
            retry_after: answer.retry_after(),
        };
        *self.seen.lock() = seen;
        let Response { status, body, .. } = answer;
        let mut response = HttpResponse::new(normalised(body));
        *response.status_mut() = status;
        Ok(response)
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for OauthTransport<'_> {
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, TransportError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::certificate::CertificateFiles;
    use crate::secret::SecretSource;

    /// How the crate reads a response: lifetime in seconds, scopes, whether there is a refresh token. `None` if it is not a token response.
    fn read(body: &[u8]) -> Option<(u64, Option<Vec<String>>, bool)> {
        let response: TokenResponse = serde_json::from_slice(&normalised(body.to_vec())).ok()?;
        let granted = granted(&response);
        Some((granted.expires_in.as_secs(), granted.scopes, granted.refresh_token.is_some()))
    }

    #[test]
    fn all_observed_forms_of_token_responses_are_read() {
        let scopes = || Some(vec!["User.Read".to_owned(), "Group.Read.All".to_owned()]);
        for (sentence, changed, expected) in [
            ("as documented", json!({}), Some((3599, scopes(), true))),
            ("a lifetime as a text", json!({"expires_in": "4011"}), Some((4011, scopes(), true))),
            (
                "a lifetime as a text with blanks",
                json!({"expires_in": " 4011 "}),
                Some((4011, scopes(), true)),
            ),
            ("a lifetime with a fraction", json!({"expires_in": 4011.7}), Some((4011, scopes(), true))),
            ("a lifetime that is null", json!({"expires_in": null}), Some((3599, scopes(), true))),
            ("a lifetime that is invalid", json!({"expires_in": "soon"}), Some((3599, scopes(), true))),
            ("a negative lifetime", json!({"expires_in": -5}), Some((3599, scopes(), true))),
            (
                "a lifetime without end",
                json!({"expires_in": 1e30}),
                Some((LONGEST_LIFE_SECONDS, scopes(), true)),
            ),
            ("another lifetime as a text", json!({"ext_expires_in": "86399"}), Some((3599, scopes(), true))),
            ("a type in lower case", json!({"token_type": "bearer"}), Some((3599, scopes(), true))),
            ("a type in capitals", json!({"token_type": "BEARER"}), Some((3599, scopes(), true))),
            ("no type", json!({"token_type": null}), Some((3599, scopes(), true))),
            (
                "scopes as a list",
                json!({"scope": ["User.Read", "Group.Read.All"]}),
                Some((3599, scopes(), true)),
            ),
            ("scopes that are null", json!({"scope": null}), Some((3599, None, true))),
            ("a refresh token that is null", json!({"refresh_token": null}), Some((3599, scopes(), false))),
            ("an empty refresh token", json!({"refresh_token": ""}), Some((3599, scopes(), false))),
            ("an id_token that is null", json!({"id_token": null}), Some((3599, scopes(), true))),
            ("an access token that is a number", json!({"access_token": 5}), None),
            ("an access token that is null", json!({"access_token": null}), None),
            ("an empty access token", json!({"access_token": ""}), None),
        ] {
            let mut answer = json!({"token_type": "Bearer", "expires_in": 3599, "access_token": "opaque", "refresh_token": "0.A",
                "scope": "User.Read Group.Read.All", "id_token": "a.b.c"});
            for (name, value) in changed.as_object().into_iter().flatten() {
                answer[name] = value.clone();
            }
            assert_eq!(read(answer.to_string().as_bytes()), expected, "{sentence}");
            assert_eq!(
                read(format!("\u{feff}{answer}").as_bytes()),
                expected,
                "{sentence}, after a byte order mark"
            );
        }
        for invalid in ["", "[]", "null", "<html></html>", "{", "{}"] {
            assert_eq!(read(invalid.as_bytes()), None, "{invalid}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_credential_is_not_reported_as_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("empty"), "\n").expect("written");
        std::fs::write(path("text"), "no certificate").expect("written");
        std::fs::write(path("binary"), [0xff, 0xfe, 0x00]).expect("written");
        let hosts = crate::domain::Cloud {
            login_url: "http://127.0.0.1:1".to_owned(),
            graph_url: "http://127.0.0.1:1".to_owned(),
        };
        let observer = Arc::new(|_: crate::entra::Endpoint, _: &str, _: Duration| {});
        let http = crate::entra::HttpClient::new(&crate::entra::ClientOptions::default(), observer)
            .expect("a client");
        let entra = Entra::new(http, hosts, Arc::default());
        let secret = |name: &str| ClientCredential::Secret(SecretSource::File(path(name)));
        let pair = |certificate: &str, key: &str| {
            ClientCredential::Certificate(CertificateFiles {
                certificate_file: path(certificate),
                private_key_file: Some(path(key)),
                password: None,
            })
        };
        let federated = |name: &str| ClientCredential::FederatedToken(path(name));
        for (sentence, credential, named) in [
            ("no secret file", secret("missing"), "missing"),
            ("an empty secret file", secret("empty"), "empty"),
            ("a secret file that is not text", secret("binary"), "binary"),
            ("a folder", secret("."), ""),
            ("no certificate", pair("missing", "text"), "missing"),
            ("a certificate file without one", pair("text", "text"), "text"),
            ("an empty certificate file", pair("empty", "text"), "empty"),
            ("no federated token", federated("missing"), "missing"),
            ("a federated token that is none", federated("text"), "text"),
        ] {
            let client = Client {
                tenant: "t",
                client_id: "c",
                credential: &credential,
                now_seconds: 0,
                deadline: Instant::now(),
            };
            let fault = entra.client(client).await.map(|_| ()).expect_err(sentence);
            assert_eq!(fault.reason, Reason::CredentialUnreadable, "{sentence}");
            assert!(fault.detail.contains(&*path(named).to_string_lossy()), "{sentence}: {}", fault.detail);
        }
    }
}
