//! Client assertions: signed with a certificate of ours, or issued by another identity provider.

use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

use crate::certificate::CertificateFiles;
use crate::encoding::unverified_claims;
use crate::secret::{Secret, SecretSource};

/// Shorter than Entra's limit of ten minutes.
const LIFETIME_SECONDS: i64 = 300;

/// A client assertion that is signed with a certificate.
pub(super) struct Signing {
    pub(super) files: CertificateFiles,
    pub(super) client_id: String,
    /// The token endpoint's URL.
    pub(super) audience: String,
}

impl Signing {
    /// PS256 with `x5t#S256`, as in Microsoft's `certificate-credentials.md` (2025-01). The files are read at every call, because
    /// certificates are renewed.
    ///
    /// # Errors
    /// A sentence that names the unusable file.
    pub(super) async fn sign(self, now_seconds: i64) -> Result<Secret, String> {
        // Opening a PFX file takes many rounds of hashing.
        let signing = tokio::task::spawn_blocking(move || self.sign_now(now_seconds));
        signing.await.map_err(|_| "the client assertion was not signed".to_owned())?
    }

    fn sign_now(&self, now_seconds: i64) -> Result<Secret, String> {
        let certificate = self.files.load()?;
        let key = EncodingKey::from_rsa_pem(certificate.key_pem.expose().as_bytes()).map_err(|e| {
            format!("{} contains no usable RSA key: {e}", self.files.certificate_file.display())
        })?;
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &certificate.der)));
        let (client, audience) = (&self.client_id, &self.audience);
        let claims = json!({
            "aud": audience, "iss": client, "sub": client, "jti": Uuid::new_v4().to_string(),
            "nbf": now_seconds, "iat": now_seconds, "exp": now_seconds + LIFETIME_SECONDS,
        });
        let token = jsonwebtoken::encode(&header, &claims, &key)
            .map_err(|e| format!("cannot sign the client assertion: {e}"))?;
        Ok(Secret::new(token))
    }
}

/// The token of another identity provider, which a federated identity credential trusts. The file is read at every use, because its token
/// is replaced while the daemon runs (Kubernetes: after 80 % of its life).
///
/// # Errors
/// A sentence that names the unusable file.
pub(super) fn federated_token(file: &Path) -> Result<Secret, String> {
    let token = SecretSource::File(file.to_owned()).read().map_err(|e| e.to_string())?;
    if unverified_claims(token.expose()).is_none() {
        return Err(format!("{} contains no JSON Web Token", file.display()));
    }
    Ok(token)
}
