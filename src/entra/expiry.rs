//! Until when a credential is good, as far as it says so itself.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ClientCredential;
use crate::domain::{CredentialExpiry, Timestamp};

impl ClientCredential {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Secret(_) => "client secret",
            Self::Certificate { .. } => "certificate",
            Self::Unbuilt(kind) => kind,
        }
    }

    /// When its certificate expires (RFC 5280 section 4.1.2.5). A client secret does not say; only its registration knows.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expiry().map(|expiry| expiry.at)
    }

    /// The same with the certificate's thumbprint. Reads the file.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_when_it_expires() {
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
