//! Client assertions: what a client presents instead of a secret.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use uuid::Uuid;

use crate::certificate::thumbprint;
use crate::federation;
use crate::model::Registration;
use crate::token_request::TokenRequest;
use crate::tokens::Keys;

/// An AADSTS number and its text.
type Wrong = (u32, String);

/// A token in three parts, taken apart.
pub(crate) struct Jwt<'a> {
    /// The text that is signed.
    pub(crate) signed: &'a str,
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) signature: Vec<u8>,
}

fn malformed(what: &str) -> Wrong {
    (50027, format!("JWT token is invalid or malformed: {what}."))
}

impl<'a> Jwt<'a> {
    /// Takes a token apart without checking it.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Wrong> {
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("not base64url"));
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return Err(malformed("three parts expected"));
        };
        Ok(Self {
            signed: &text[..header.len() + 1 + payload.len()],
            header: serde_json::from_slice(&decode(header)?).map_err(|_| malformed("header"))?,
            claims: serde_json::from_slice(&decode(payload)?).map_err(|_| malformed("claims"))?,
            signature: decode(signature)?,
        })
    }
}

/// Checks a client assertion. A client that signs it itself names an application id as the issuer; every other issuer
/// must be that of a federated credential.
pub(crate) fn check(
    app: &Registration,
    keys: &Keys,
    text: &str,
    request: &TokenRequest<'_>,
    now: i64,
) -> Result<(), Wrong> {
    let jwt = Jwt::parse(text)?;
    match jwt.claims["iss"].as_str() {
        Some(issuer) if Uuid::parse_str(issuer).is_err() => federation::check(app, keys, &jwt, now),
        _ => check_certificate(app, &jwt, request, now),
    }
}

/// Certificate credentials: RS256 with `x5t`, or PS256 with `x5t#S256`.
fn check_certificate(
    app: &Registration,
    jwt: &Jwt<'_>,
    request: &TokenRequest<'_>,
    now: i64,
) -> Result<(), Wrong> {
    let claims = &jwt.claims;
    verify_signature(app, jwt)?;
    let id = app.app_id.to_string();
    if claims["iss"].as_str() != Some(&id) || claims["sub"].as_str() != Some(&id) {
        return Err((
            700_021,
            "Client assertion application identifier does not match 'client_id' parameter.".to_owned(),
        ));
    }
    let endpoint = format!("{}/{}/oauth2/v2.0/token", request.login, request.tenant);
    if !claims["aud"].as_str().is_some_and(|a| a.eq_ignore_ascii_case(&endpoint)) {
        return Err(malformed(&format!("the audience must be {endpoint}")));
    }
    // NumericDate may have a fraction (RFC 7519 section 2); some libraries send one.
    let (nbf, exp) = (claims["nbf"].as_f64().unwrap_or(0.0), claims["exp"].as_f64().unwrap_or(0.0));
    if exp <= (now - 300) as f64 || nbf > (now + 300) as f64 {
        return Err((700_024, "Client assertion is not within its valid time range.".to_owned()));
    }
    Ok(())
}

/// Whether the registered certificate that the header names has signed.
fn verify_signature(app: &Registration, jwt: &Jwt<'_>) -> Result<(), Wrong> {
    let header = &jwt.header;
    let named = |der: &[u8]| match (header["x5t#S256"].as_str(), header["x5t"].as_str()) {
        (Some(wanted), _) => {
            URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der)) == wanted.trim_end_matches('=')
        }
        (None, Some(wanted)) => URL_SAFE_NO_PAD.encode(thumbprint(der)) == wanted.trim_end_matches('='),
        (None, None) => true,
    };
    let Some(certificate) = app.certificates.iter().find(|der| named(der)) else {
        return Err((
            700_027,
            "Client assertion failed signature validation: the certificate with this thumbprint is not registered.".to_owned(),
        ));
    };
    let algorithm = match header["alg"].as_str() {
        Some("RS256") => webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
        Some("PS256") => webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        other => return Err(malformed(&format!("algorithm {other:?}"))),
    };
    let der = rustls::pki_types::CertificateDer::from(certificate.as_slice());
    let entity = webpki::EndEntityCert::try_from(&der).map_err(|e| (50012, format!("certificate: {e}")))?;
    entity
        .verify_signature(algorithm, jwt.signed.as_bytes(), &jwt.signature)
        .map_err(|_| (700_027, "Client assertion failed signature validation.".to_owned()))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
    use serde_json::json;

    use super::*;
    use crate::fixture::{APP, CUSTOMER, LOGIN, NOW, act, request_token, world};

    /// An assertion that names the certificate by this header property.
    fn assertion(key: &RsaKeyPair, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let padding: &dyn aws_lc_rs::signature::RsaEncoding =
            if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn a_certificate_authenticates_its_client() {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let certificate =
            CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let key = RsaKeyPair::from_pkcs8(&pair.serialize_der()).unwrap();
        let mut world = world();
        let add = json!({"action": "add_certificate", "app": APP, "certificate_pem": certificate.pem()});
        act(&mut world, add).unwrap();
        let sha1 = URL_SAFE_NO_PAD.encode(thumbprint(certificate.der()));
        let sha256 = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, certificate.der()));
        let old = json!({"alg": "RS256", "x5t": sha1});
        let audience = format!("{LOGIN}/{CUSTOMER}/oauth2/v2.0/token");
        for (case, header, claim, value, expected) in [
            ("is signed the old way", old.clone(), "jti", json!("1"), None),
            ("is signed the new way", json!({"alg": "PS256", "x5t#S256": sha256}), "jti", json!("1"), None),
            (
                "names another certificate",
                json!({"alg": "RS256", "x5t": "AA"}),
                "jti",
                json!("1"),
                Some(700_027),
            ),
            ("has another algorithm", json!({"alg": "HS256"}), "jti", json!("1"), Some(50027)),
            ("has another client as issuer", old.clone(), "iss", json!(Uuid::nil()), Some(700_021)),
            ("has another subject", old.clone(), "sub", json!("x"), Some(700_021)),
            ("has another audience", old.clone(), "aud", json!(LOGIN), Some(50027)),
            ("ended six minutes ago", old.clone(), "exp", json!(NOW - 360), Some(700_024)),
            ("ended a minute ago", old, "exp", json!(NOW - 60), None),
        ] {
            let mut claims = json!({"iss": APP, "sub": APP, "aud": audience, "nbf": NOW, "exp": NOW + 60});
            claims[claim] = value;
            let text = assertion(&key, &header, &claims);
            let (_, body) = request_token(&mut world, ("client_assertion", &text));
            assert_eq!(body["error_codes"][0].as_u64(), expected, "an assertion that {case}: {body}");
        }
    }
}
