//! Validates an id_token with the keys of the tenant that must have issued it.
//!
//! Keys are fetched for every validation: sign-ins are rare, and keys that were rotated a moment ago are then included.

use std::time::Instant;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::Entra;
use crate::domain::{Fault, one_line};
use crate::encoding::unverified_claims;
use crate::secret::Secret;

/// The tenant of personal Microsoft accounts (Microsoft, `id-token-claims-reference.md`).
const CONSUMER_TENANT: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The allowed difference between clocks.
const SLACK_SECONDS: i64 = 120;

/// What an id_token must contain.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// GUID or verified domain.
    pub tenant: &'a str,
    /// `aud`.
    pub client_id: &'a str,
    /// `nonce`, as it was sent.
    pub nonce: &'a str,
    /// Seconds since the epoch.
    pub now_seconds: i64,
    /// When the validation must be complete.
    pub deadline: Instant,
}

/// The person who signed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// `oid`: stable within the tenant.
    pub object_id: Option<String>,
    /// `preferred_username`: for display only, never for decisions.
    pub username: Option<String>,
    /// The token's claims about the account.
    pub claims: PersonClaims,
}

/// Claims about the account of a token. Each is present only if the registration asks for it, or if Entra adds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonClaims {
    /// `acct`: whether the account is a guest in the tenant (1) or a member of it (0; Microsoft, `optional-claims-reference.md`).
    pub guest: Option<bool>,
    /// `idp`: whether an identity provider other than the tenant has authenticated the account (Microsoft, `id-token-claims-reference.md`:
    /// the same as the issuer, or missing, unless the account belongs to another tenant).
    pub foreign_provider: Option<bool>,
    /// `wids`: template ids of the directory roles that the account holds (Microsoft, `access-token-claims-reference.md`).
    pub roles: Option<Vec<String>>,
}

/// Why an id_token is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdTokenError {
    /// It is from another tenant.
    WrongTenant,
    /// It is from a personal Microsoft account.
    PersonalAccount,
    /// It is invalid; the text says why.
    Invalid(&'static str),
    /// The tenant's keys cannot be read.
    Upstream(Fault),
}

impl Entra {
    /// Validates an id_token (OpenID Connect Core, section 3.1.3.7; Microsoft, `id-tokens.md`): RS256 signature by a key of the
    /// tenant, `iss`, `aud`, `tid`, `nonce`, `exp` and `nbf`.
    ///
    /// # Errors
    /// The check that failed.
    pub async fn validate_id_token(
        &self,
        token: &Secret,
        expected: Expected<'_>,
    ) -> Result<Person, IdTokenError> {
        let configuration = self
            .openid_configuration(expected.tenant, expected.deadline)
            .await
            .map_err(IdTokenError::Upstream)?;
        let token = token.expose();
        // Read before the signature is checked, and used only to reject: another tenant may have other keys.
        let claimed = unverified_claims(token).ok_or(IdTokenError::Invalid("it is not a JSON Web Token"))?;
        same_tenant(&claimed, &configuration.tenant_guid, &configuration.issuer)?;
        let header = decode_header(token).map_err(|_| IdTokenError::Invalid("its header cannot be read"))?;
        let kid = header.kid.ok_or(IdTokenError::Invalid("it names no key"))?;
        let keys = self
            .openid_document(&configuration.jwks_uri, expected.deadline)
            .await
            .map_err(IdTokenError::Upstream)?;
        let key = find_key(&keys, &kid)
            .ok_or(IdTokenError::Invalid("it is signed with a key that the tenant does not publish"))?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[expected.client_id]);
        validation.set_issuer(&[&configuration.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        // The times are checked below, with the program's clock.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let claims = decode::<Value>(token, &key, &validation)
            .map_err(|error| IdTokenError::Invalid(rejection(&error)))?
            .claims;
        same_tenant(&claims, &configuration.tenant_guid, &configuration.issuer)?;
        check_times(&claims, expected.now_seconds)?;
        if claims["nonce"].as_str() != Some(expected.nonce) {
            return Err(IdTokenError::Invalid("it belongs to another sign-in"));
        }
        let text = |name: &str| claims[name].as_str().map(|t| one_line(t, 256)).filter(|t| !t.is_empty());
        let about = person_claims(&claims, &configuration.tenant_guid, &configuration.issuer);
        Ok(Person { object_id: text("oid"), username: text("preferred_username"), claims: about })
    }
}

/// The claims about the account in an access token, if it can be read. It came from the token endpoint itself; only the resource validates
/// its signature (Microsoft, `access-tokens.md`).
pub fn claims_about_person(access_token: &Secret) -> PersonClaims {
    let claims = unverified_claims(access_token.expose()).unwrap_or_default();
    // The `idp` of these tokens has another format than their issuer.
    PersonClaims { foreign_provider: None, ..person_claims(&claims, "", "") }
}

fn person_claims(claims: &Value, guid: &str, issuer: &str) -> PersonClaims {
    let account = match &claims["acct"] {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let own = |provider: &str| {
        provider == issuer || provider.split('/').any(|part| part.eq_ignore_ascii_case(guid))
    };
    let roles = claims["wids"].as_array();
    PersonClaims {
        guest: account.map(|account| account == 1),
        foreign_provider: claims["idp"].as_str().map(|provider| !own(provider)),
        roles: roles.map(|roles| {
            roles.iter().filter_map(|role| role.as_str().map(str::to_ascii_lowercase)).collect()
        }),
    }
}

/// The token must be from exactly the configured tenant; a personal account is from none.
fn same_tenant(claims: &Value, guid: &str, issuer: &str) -> Result<(), IdTokenError> {
    let tid = claims["tid"].as_str().unwrap_or_default();
    if tid.eq_ignore_ascii_case(CONSUMER_TENANT) {
        return Err(IdTokenError::PersonalAccount);
    }
    if !tid.eq_ignore_ascii_case(guid) || claims["iss"].as_str() != Some(issuer) {
        return Err(IdTokenError::WrongTenant);
    }
    Ok(())
}

fn check_times(claims: &Value, now: i64) -> Result<(), IdTokenError> {
    let seconds = |name: &str| claims[name].as_i64().or_else(|| claims[name].as_f64().map(|f| f as i64));
    if seconds("exp").is_none_or(|exp| exp.saturating_add(SLACK_SECONDS) < now) {
        return Err(IdTokenError::Invalid("it has expired; check the clock of this machine"));
    }
    if ["nbf", "iat"]
        .iter()
        .filter_map(|name| seconds(name))
        .any(|start| start.saturating_sub(SLACK_SECONDS) > now)
    {
        return Err(IdTokenError::Invalid("it is not valid yet; check the clock of this machine"));
    }
    Ok(())
}

/// A key that cannot be read does not hide the others.
fn find_key(keys: &Value, kid: &str) -> Option<DecodingKey> {
    let keys = keys["keys"].as_array()?;
    let key = keys.iter().find(|k| k["kid"].as_str() == Some(kid) && k["kty"].as_str() == Some("RSA"))?;
    let jwk: Jwk =
        serde_json::from_value(serde_json::json!({"kty": "RSA", "n": key["n"], "e": key["e"]})).ok()?;
    DecodingKey::from_jwk(&jwk).ok()
}

fn rejection(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidAudience => "it is for another application",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "it is not signed with RS256",
        _ => "it is not a valid id_token",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tenants_claims_and_times_are_checked() {
        let guid = "11111111-1111-1111-1111-111111111111";
        let issuer = format!("https://login.example/{guid}/v2.0");
        for (sentence, tid, iss, expected) in [
            ("the tenant itself", guid, issuer.as_str(), Ok(())),
            (
                "another tenant",
                "22222222-2222-2222-2222-222222222222",
                issuer.as_str(),
                Err(IdTokenError::WrongTenant),
            ),
            ("another issuer", guid, "https://evil.example/v2.0", Err(IdTokenError::WrongTenant)),
            ("a personal account", CONSUMER_TENANT, issuer.as_str(), Err(IdTokenError::PersonalAccount)),
            ("no tenant", "", issuer.as_str(), Err(IdTokenError::WrongTenant)),
        ] {
            assert_eq!(same_tenant(&json!({"tid": tid, "iss": iss}), guid, &issuer), expected, "{sentence}");
        }
        for (sentence, claims, expected) in [
            ("no claims", json!({}), (None, None, None)),
            ("a member", json!({"acct": 0}), (Some(false), None, None)),
            ("a guest", json!({"acct": 1}), (Some(true), None, None)),
            ("a guest, written as a text", json!({"acct": "1"}), (Some(true), None, None)),
            ("authenticated by the tenant", json!({"idp": issuer}), (None, Some(false), None)),
            (
                "in the older spelling",
                json!({"idp": format!("https://sts.windows.net/{guid}/")}),
                (None, Some(false), None),
            ),
            (
                "authenticated elsewhere",
                json!({"idp": "https://sts.windows.net/22222222-2222-2222-2222-222222222222/"}),
                (None, Some(true), None),
            ),
            ("by a mail provider", json!({"idp": "mail"}), (None, Some(true), None)),
            (
                "roles",
                json!({"wids": ["62E90394-69F5-4237-9190-012177145E10", 1]}),
                (None, None, Some("62e90394-69f5-4237-9190-012177145e10")),
            ),
        ] {
            let actual = person_claims(&claims, guid, &issuer);
            let role = actual.roles.as_ref().and_then(|r| r.first()).map(String::as_str);
            assert_eq!((actual.guest, actual.foreign_provider, role), expected, "{sentence}");
        }
        for (sentence, claims, good) in [
            ("in time", json!({"exp": 1100, "nbf": 1000, "iat": 1000}), true),
            ("expired, within the allowed difference", json!({"exp": 900}), true),
            ("expired", json!({"exp": 879}), false),
            ("not valid yet, within the allowed difference", json!({"exp": 2000, "nbf": 1120}), true),
            ("not valid yet", json!({"exp": 2000, "nbf": 1121}), false),
            ("issued in the future", json!({"exp": 9000, "iat": 5000}), false),
            ("no expiry", json!({}), false),
        ] {
            assert_eq!(check_times(&claims, 1000).is_ok(), good, "{sentence}");
        }
    }
}
