//! Certificate credentials: the signed assertion that stands in for a client secret.

use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use uuid::Uuid;

/// Shorter than Entra's limit of ten minutes.
const LIFETIME_SECONDS: i64 = 300;

/// A client assertion for `audience`, the token endpoint's URL: PS256 with `x5t#S256`, as in Microsoft's
/// `certificate-credentials.md` (2025-01). The files are read at every call, because certificates are renewed.
///
/// # Errors
/// A sentence that names the file that cannot be used.
pub(super) fn client_assertion(
    client_id: &str,
    audience: &str,
    certificate: &Path,
    key: &Path,
    now_seconds: i64,
) -> Result<String, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    // What a parser says of a file that is no certificate may quote it, and it may be the key.
    let der = CertificateDer::from_pem_slice(&read(certificate)?)
        .map_err(|_| format!("{} holds no PEM certificate", certificate.display()))?;
    let key = EncodingKey::from_rsa_pem(&read(key)?)
        .map_err(|e| format!("{} holds no usable RSA key: {e}", key.display()))?;
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der)));
    let claims = json!({
        "aud": audience, "iss": client_id, "sub": client_id, "jti": Uuid::new_v4().to_string(),
        "nbf": now_seconds, "iat": now_seconds, "exp": now_seconds + LIFETIME_SECONDS,
    });
    jsonwebtoken::encode(&header, &claims, &key).map_err(|e| format!("cannot sign the client assertion: {e}"))
}
