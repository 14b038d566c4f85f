//! Keys and tokens: the RSA signing keys of `id_token`s and JWKS, and the access tokens for Graph.
//!
//! Access tokens have the form of Entra's (three base64url parts, an RS256 header with a `nonce`). Like Entra's, only Graph can
//! verify them: the last part is a keyed hash.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

/// The signing keys, newest last, and the key of the access tokens.
pub struct Keys {
    signing: Vec<(String, RsaKeyPair)>,
    access: hmac::Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("signing", &self.signing.len()).finish_non_exhaustive()
    }
}

/// The caller of Graph, read from an access token.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Tenant of the token.
    pub tenant: Uuid,
    /// Client of the token.
    pub app_id: Uuid,
    /// The user, for delegated tokens.
    pub user: Option<Uuid>,
    /// Scopes or roles.
    pub permissions: Vec<String>,
}

impl Caller {
    /// Whether the token has one of these permissions.
    pub fn may(&self, any_of: &[&str]) -> bool {
        self.permissions.iter().any(|p| any_of.iter().any(|a| a.eq_ignore_ascii_case(p)))
    }
}

impl Keys {
    /// Fresh keys.
    ///
    /// # Errors
    /// The platform provides no random numbers.
    pub fn generate() -> anyhow::Result<Self> {
        let mut keys = Self {
            signing: Vec::new(),
            access: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
        };
        keys.rotate()?;
        Ok(keys)
    }

    /// Adds a signing key; the previous one stays published.
    ///
    /// # Errors
    /// The platform provides no random numbers.
    pub fn rotate(&mut self) -> anyhow::Result<()> {
        self.signing.push((Uuid::new_v4().simple().to_string(), RsaKeyPair::generate(KeySize::Rsa2048)?));
        if self.signing.len() > 2 {
            self.signing.remove(0);
        }
        Ok(())
    }

    /// The JWKS document (RFC 7517).
    pub fn jwks(&self) -> Value {
        let key = |(kid, pair): &(String, RsaKeyPair)| {
            let public = pair.public_key();
            let (n, e) = (
                public.modulus().big_endian_without_leading_zero(),
                public.exponent().big_endian_without_leading_zero(),
            );
            json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e)})
        };
        json!({ "keys": self.signing.iter().map(key).collect::<Vec<_>>() })
    }

    /// A JWT signed with the newest key (RS256).
    ///
    /// # Errors
    /// The platform provides no random numbers.
    pub fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let (kid, pair) = self.signing.last().ok_or_else(|| anyhow::anyhow!("no signing key"))?;
        let signed =
            format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "RS256", "kid": kid})), encode(claims));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whether one of the published keys has made this signature (RS256).
    pub fn verify(&self, signed: &str, signature: &[u8]) -> bool {
        self.signing.iter().any(|(_, pair)| {
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
                .verify(signed.as_bytes(), signature)
                .is_ok()
        })
    }

    /// An access token with these claims.
    pub fn access_token(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "nonce": Uuid::new_v4().simple().to_string(), "alg": "RS256", "kid": "graph"});
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let tag = hmac::sign(&self.access, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// The caller of an access token for `audience`.
    ///
    /// # Errors
    /// One of Graph's 401 messages.
    pub fn caller(&self, token: &str, now_seconds: i64, audience: &str) -> Result<Caller, &'static str> {
        const MALFORMED: &str = "CompactToken parsing failed with error code: 80049217";
        let (signed, tag) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| MALFORMED)?;
        hmac::verify(&self.access, signed.as_bytes(), &tag).map_err(|_| MALFORMED)?;
        let payload =
            signed.split('.').nth(1).and_then(|p| URL_SAFE_NO_PAD.decode(p).ok()).ok_or(MALFORMED)?;
        let claims: Value = serde_json::from_slice(&payload).map_err(|_| MALFORMED)?;
        if claims["exp"].as_i64().unwrap_or(0) <= now_seconds {
            return Err("Lifetime validation failed, the token is expired.");
        }
        if claims["aud"].as_str() != Some(audience) {
            return Err("Access token validation failure. Invalid audience.");
        }
        let id = |claim: &str| claims[claim].as_str().and_then(|t| Uuid::parse_str(t).ok());
        let delegated =
            claims["scp"].as_str().map(|s| s.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let roles = || {
            claims["roles"]
                .as_array()
                .map(|r| r.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
                .unwrap_or_default()
        };
        Ok(Caller {
            tenant: id("tid").ok_or(MALFORMED)?,
            app_id: id("appid").ok_or(MALFORMED)?,
            user: delegated.as_ref().and_then(|_| id("oid")),
            permissions: delegated.unwrap_or_else(roles),
        })
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
