//! The credentials of a client: when they expire, and the signed assertion that replaces a client secret.

use std::fmt::Write as _;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::domain::{CredentialExpiry, Timestamp};
use crate::secret::ClientCredential;

impl ClientCredential {
    /// The kind of credential, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Secret(_) => "client secret",
            Self::Certificate { .. } => "certificate",
            Self::Unbuilt(kind) => kind,
        }
    }

    /// When its certificate expires (RFC 5280 section 4.1.2.5). `None` for a client secret: only its registration contains the date.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expiry().map(|expiry| expiry.at)
    }

    /// The expiry with the certificate's thumbprint. Reads the file.
    pub fn expiry(&self) -> Option<CredentialExpiry> {
        let Self::Certificate { certificate_file, .. } = self else { return None };
        let certificate = CertificateDer::from_pem_file(certificate_file).ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        let at = Timestamp::from_seconds(parsed.validity().not_after.timestamp());
        let mut key_id = String::with_capacity(40);
        for byte in digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate).as_ref() {
            let _ = write!(key_id, "{byte:02X}");
        }
        Some(CredentialExpiry { kind: "certificate", key_id, at })
    }
}

/// Shorter than Entra's limit of ten minutes.
const LIFETIME_SECONDS: i64 = 300;

/// A client assertion for `audience`, the token endpoint's URL: PS256 with `x5t#S256`, as in Microsoft's `certificate-credentials.md`
/// (2025-01). The files are read at every call, because certificates are renewed.
///
/// # Errors
/// A sentence that names the unusable file.
pub(super) fn client_assertion(
    client_id: &str,
    audience: &str,
    certificate: &Path,
    key: &Path,
    now_seconds: i64,
) -> Result<String, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    // The parser's error is not shown: it may quote the file, which may be the key.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_of_a_certificate_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let file = folder.path().join("app.crt");
        std::fs::write(&file, params.self_signed(&key).expect("a certificate").pem()).expect("written");
        let credential =
            ClientCredential::Certificate { certificate_file: file.clone(), private_key_file: file };
        let key_id = credential.expiry().expect("an expiry").key_id;
        assert!(key_id.len() == 40 && key_id.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F')), "{key_id}");
        assert_eq!(credential.expires().map(crate::clock::rfc3339).as_deref(), Some("2031-05-17T00:00:00Z"));
        assert_eq!((credential.kind(), ClientCredential::None.expires()), ("certificate", None));
    }
}
