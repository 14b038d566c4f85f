//! Client assertions of other issuers: federated identity credentials.
//!
//! Issuer, audience, subject and lifetime of such an assertion are checked. Its signature is checked only if the simulator has
//! issued it itself, for a managed identity; the keys of foreign issuers are unknown, and so every signature of theirs counts.

use serde_json::Value;

use crate::assertion::Jwt;
use crate::managed_identity::is_own_issuer;
use crate::model::{Federated, Registration};
use crate::tokens::Keys;

/// The audience of tokens that are exchanged, in the global cloud.
pub const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// Checks an assertion whose issuer is not the client itself; the error is an AADSTS number and its text.
pub(crate) fn check(app: &Registration, keys: &Keys, jwt: &Jwt<'_>, now: i64) -> Result<(), (u32, String)> {
    let claims = &jwt.claims;
    let text = |claim: &str| claims[claim].as_str().unwrap_or_default();
    let unknown = |aadsts: u32, what: &str, value: &str| {
        let message =
            format!("No matching federated identity record found for presented assertion {what} '{value}'.");
        Err((aadsts, message))
    };
    let issuer = text("iss");
    let mut matching: Vec<&Federated> = app.federated.iter().filter(|f| f.issuer == issuer).collect();
    if matching.is_empty() {
        return unknown(700_211, "issuer", issuer);
    }
    let audiences = audiences(&claims["aud"]);
    matching.retain(|f| audiences.contains(&f.audience.as_str()));
    if matching.is_empty() {
        return unknown(700_212, "audience", &audiences.join(", "));
    }
    matching.retain(|f| f.subject == text("sub"));
    if matching.is_empty() {
        return unknown(700_213, "subject", text("sub"));
    }
    if is_own_issuer(issuer) && !keys.verify(jwt.signed, &jwt.signature) {
        return Err((700_027, "Client assertion failed signature validation.".to_owned()));
    }
    // A token without an end has none in the future.
    let (from, until) = (claims["nbf"].as_f64().unwrap_or(0.0), claims["exp"].as_f64().unwrap_or(0.0));
    if until <= now as f64 || from > (now + 300) as f64 {
        return Err((700_024, "Client assertion is not within its valid time range.".to_owned()));
    }
    Ok(())
}

/// `aud` is a text or a list of texts (RFC 7519, section 4.1.3).
fn audiences(claim: &Value) -> Vec<&str> {
    match claim {
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::fixture::{APP, KEYS, LOGIN, NOW, act, foreign_token, request_token, world};
    use crate::managed_identity;
    use crate::model::World;

    const ISSUER: &str = "https://issuer.example/";
    const SUBJECT: &str = "system:serviceaccount:monitoring:client";

    fn federated(issuer: &str) -> World {
        let mut world = world();
        let add = json!({"action": "add_federated_credential", "app": APP, "name": "one", "issuer": issuer, "subject": SUBJECT});
        act(&mut world, add).unwrap();
        world
    }

    fn claims() -> Value {
        json!({"iss": ISSUER, "sub": SUBJECT, "aud": EXCHANGE_AUDIENCE, "nbf": NOW, "exp": NOW + 60})
    }

    /// The status and the beginning of the error's description.
    fn outcome(world: &mut World, assertion: &str) -> (u16, String) {
        let (status, body) = request_token(world, ("client_assertion", assertion));
        let text = body["error_description"].as_str().unwrap_or_default();
        assert!(status == 200 || body["error"] == "invalid_client", "{body}");
        (status, text.split(" Trace ID").next().unwrap_or_default().to_owned())
    }

    #[test]
    fn an_assertion_of_another_issuer_must_match_a_federated_credential() {
        let unknown = |code: u32, what: &str, value: &str| {
            format!(
                "AADSTS{code}: No matching federated identity record found for presented assertion {what} '{value}'."
            )
        };
        let late = "AADSTS700024: Client assertion is not within its valid time range.".to_owned();
        for (case, claim, value, error) in [
            ("matches", "jti", json!("1"), None),
            ("has several audiences", "aud", json!(["x", EXCHANGE_AUDIENCE]), None),
            (
                "has another issuer",
                "iss",
                json!("https://other"),
                Some(unknown(700_211, "issuer", "https://other")),
            ),
            (
                "lacks the issuer's slash",
                "iss",
                json!("https://issuer.example"),
                Some(unknown(700_211, "issuer", "https://issuer.example")),
            ),
            ("has another audience", "aud", json!("api://x"), Some(unknown(700_212, "audience", "api://x"))),
            ("has no audience", "aud", json!(null), Some(unknown(700_212, "audience", ""))),
            ("has another subject", "sub", json!("x"), Some(unknown(700_213, "subject", "x"))),
            ("ended now", "exp", json!(NOW), Some(late.clone())),
            ("has no end", "exp", json!(null), Some(late.clone())),
            ("begins in ten minutes", "nbf", json!(NOW + 600), Some(late)),
        ] {
            let mut changed = claims();
            changed[claim] = value;
            let expected = error.map_or((200, String::new()), |text| (401, text));
            let found = outcome(&mut federated(ISSUER), &foreign_token(&changed));
            assert_eq!(found, expected, "an assertion that {case}");
        }
    }

    #[test]
    fn what_is_no_federated_assertion_has_the_errors_of_a_certificate() {
        for (case, assertion, code) in [
            ("is no token", "text".to_owned(), 50027),
            ("is not base64url", "%.%.%".to_owned(), 50027),
            ("has claims that are no JSON", "e30.eA.eA".to_owned(), 50027),
            ("has the client as issuer", foreign_token(&json!({"iss": APP, "sub": APP})), 700_027),
            ("has another client as issuer", foreign_token(&json!({"iss": Uuid::from_u128(4)})), 700_027),
            ("has no issuer", foreign_token(&json!({})), 700_027),
        ] {
            let (status, text) = outcome(&mut federated(ISSUER), &assertion);
            assert_eq!(status, 401, "an assertion that {case}");
            assert!(text.starts_with(&format!("AADSTS{code}: ")), "an assertion that {case}: {text}");
        }
    }

    #[test]
    fn a_client_with_a_federated_credential_is_confidential() {
        for (case, field, code) in [
            ("a secret that does not exist", ("client_secret", "x"), 7_000_215),
            ("nothing", ("unused", "x"), 7_000_216),
        ] {
            let (_, body) = request_token(&mut federated(ISSUER), field);
            assert_eq!(body["error_codes"], json!([code]), "{case}");
        }
    }

    #[test]
    fn only_signatures_of_the_own_tokens_are_checked() {
        let own = managed_identity::issuer(LOGIN);
        let mut signed = claims();
        signed["iss"] = json!(own);
        let token = KEYS.sign(&signed).unwrap();
        assert_eq!(outcome(&mut federated(&own), &token).0, 200);
        let (status, text) = outcome(&mut federated(&own), &foreign_token(&signed));
        assert_eq!(status, 401);
        assert_eq!(text, "AADSTS700027: Client assertion failed signature validation.");
        assert_eq!(outcome(&mut federated(ISSUER), &foreign_token(&claims())).0, 200);
    }
}
