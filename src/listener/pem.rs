//! Certificates and keys in PEM (RFC 7468), from files or inline.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::secret::SecretSource;

/// The certificates of a PEM text; at least one.
pub(crate) fn certificates(source: &SecretSource) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = source.read_text().map_err(|error| format!("tls_server_config: {error}"))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem.expose().as_bytes()).filter_map(Result::ok).collect();
    if found.is_empty() {
        Err(format!("tls_server_config: {} contains no PEM certificate", named(source)))
    } else {
        Ok(found)
    }
}

pub(crate) fn private_key(source: &SecretSource) -> Result<PrivateKeyDer<'static>, String> {
    let pem = source.read_text().map_err(|error| format!("tls_server_config: {error}"))?;
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| {
        format!("tls_server_config: {} contains no private key in PEM without a passphrase", named(source))
    })
}

pub(crate) fn named(source: &SecretSource) -> String {
    match source {
        SecretSource::Inline(_) => "the inline value".to_owned(),
        SecretSource::File(path) => path.display().to_string(),
    }
}
