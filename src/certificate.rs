//! Client certificates of our own, with their private keys: from PEM files (RFC 7468), or from a PFX file (PKCS #12, RFC 7292).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::secret::{Secret, SecretSource, read_bytes};

/// Where a client certificate and its private key come from. The files are read at every use, because certificates are renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate in PEM, perhaps with its key, or a PFX file.
    pub certificate_file: PathBuf,
    /// The private key in PEM; `None` if `certificate_file` contains it.
    pub private_key_file: Option<PathBuf>,
    /// The password of a PFX file.
    pub password: Option<SecretSource>,
}

/// A certificate with its private key, ready to sign.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, DER.
    pub der: CertificateDer<'static>,
    /// Its private key in PEM, as PKCS #8 or PKCS #1.
    pub key_pem: Secret,
    /// End of its validity, in seconds since the epoch (RFC 5280 section 4.1.2.5).
    pub not_after: i64,
}

impl ClientCertificate {
    /// The SHA-1 thumbprint in capital hexadecimal digits, as the Entra admin center shows it.
    pub fn thumbprint(&self) -> String {
        thumbprint(&self.der)
    }
}

/// The SHA-1 thumbprint of a certificate in capital hexadecimal digits.
pub fn thumbprint(der: &[u8]) -> String {
    let mut text = String::with_capacity(40);
    for byte in digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref() {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

impl CertificateFiles {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// A sentence that names the unusable file and says what is expected. It never contains the content of a file.
    pub fn load(&self) -> Result<ClientCertificate, String> {
        let bytes = read_bytes(&self.certificate_file).map_err(|e| e.to_string())?;
        let bytes = without_mark(&self.certificate_file, &bytes)?;
        let (candidates, key_pem) = if is_pem(bytes) { self.read_pem(bytes)? } else { self.open_pfx(bytes)? };
        let key_place = self.private_key_file.as_deref().unwrap_or(&self.certificate_file);
        let public = public_key(&key_pem).ok_or_else(|| {
            format!("{} contains no RSA private key, which Entra requires", key_place.display())
        })?;
        // A file may contain the whole chain, in any order, and the predecessor of the certificate with the same key.
        let of_key = |der: &CertificateDer<'static>| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            let is_its = *parsed.public_key().subject_public_key.data == *public;
            is_its.then(|| parsed.validity().not_after.timestamp())
        };
        let found = candidates.into_iter().filter_map(|der| Some((of_key(&der)?, der)));
        if let Some((not_after, der)) = found.max_by_key(|(not_after, _)| *not_after) {
            return Ok(ClientCertificate { der, key_pem, not_after });
        }
        Err(format!(
            "the private key in {} belongs to no certificate in {}",
            key_place.display(),
            self.certificate_file.display()
        ))
    }

    fn read_pem(&self, bytes: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Secret), String> {
        let place = self.certificate_file.display();
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes).filter_map(Result::ok).collect();
        if certificates.is_empty() {
            return Err(format!("{place} contains no PEM certificate"));
        }
        if self.password.is_some() {
            return Err(format!("{place} is a PEM file; certificate_password is for PFX files only"));
        }
        let key = match &self.private_key_file {
            Some(path) => private_key(path, &read_bytes(path).map_err(|e| e.to_string())?)?,
            None => private_key(&self.certificate_file, bytes)?,
        };
        Ok((certificates, key))
    }

    fn open_pfx(&self, bytes: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Secret), String> {
        let place = self.certificate_file.display();
        if X509Certificate::from_der(bytes).is_ok() {
            return Err(format!(
                "{place} is a certificate in DER; give it in PEM, or with its key as a PFX file"
            ));
        }
        // Every PFX file is a SEQUENCE (RFC 7292 section 4).
        if bytes.first() != Some(&0x30) {
            return Err(format!("{place} contains no PEM certificate and is no PFX file"));
        }
        if let Some(path) = &self.private_key_file {
            return Err(format!(
                "{place} is a PFX file and contains its key; remove private_key_file {}",
                path.display()
            ));
        }
        let password = match &self.password {
            Some(source) => source.read().map_err(|e| e.to_string())?,
            None => Secret::new(""),
        };
        let hint =
            if self.password.is_some() { "the password is wrong" } else { "give certificate_password_file" };
        // The parser's error may quote the file, which contains the key.
        let store = KeyStore::from_pkcs12(bytes, password.expose(), Pkcs12ImportPolicy::Relaxed)
            .map_err(|_| format!("{place} cannot be opened as a PFX file: {hint}, or it is damaged"))?;
        let (_, chain) = store
            .private_key_chain()
            .ok_or_else(|| format!("{place} is a PFX file without a private key"))?;
        // Some programs write the certificate without the id that ties it to its key.
        let others = store.entries().filter_map(|(_, entry)| match entry {
            KeyStoreEntry::Certificate(certificate) => Some(certificate),
            _ => None,
        });
        let all = chain.certs().iter().chain(others);
        let certificates = all.map(|c| CertificateDer::from(c.as_der().to_vec())).collect();
        Ok((certificates, pkcs8_pem(chain.key().as_der())))
    }
}

/// PEM as editors save it: a byte order mark hides the first line from the parser.
fn without_mark<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b [u8], String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(format!("{} is UTF-16; save it as UTF-8", path.display()));
    }
    Ok(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

/// The private key section of a PEM text, alone.
fn private_key(path: &Path, bytes: &[u8]) -> Result<Secret, String> {
    let text = String::from_utf8_lossy(bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "the private key in {} is encrypted; store it without a passphrase, or use a PFX file with certificate_password_file",
            path.display()
        ));
    }
    let keys: Vec<_> =
        PrivateKeyDer::pem_slice_iter(without_mark(path, bytes)?).filter_map(Result::ok).collect();
    if keys.is_empty() {
        return Err(format!("{} contains no PEM private key", path.display()));
    }
    let pems = keys.iter().filter_map(|key| match key {
        PrivateKeyDer::Pkcs8(key) => Some(pkcs8_pem(key.secret_pkcs8_der())),
        PrivateKeyDer::Pkcs1(key) => Some(pem("RSA PRIVATE KEY", key.secret_pkcs1_der())),
        _ => None,
    });
    pems.into_iter()
        .find(|pem| public_key(pem).is_some())
        .ok_or_else(|| format!("{} contains no RSA private key, which Entra requires", path.display()))
}

fn pkcs8_pem(der: &[u8]) -> Secret {
    pem("PRIVATE KEY", der)
}

fn pem(label: &str, der: &[u8]) -> Secret {
    let encoded = Secret::new(STANDARD.encode(der));
    let mut text = String::with_capacity(encoded.expose().len() * 2 + 64);
    let _ = writeln!(text, "-----BEGIN {label}-----");
    for line in encoded.expose().as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap_or_default());
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    Secret::new(text)
}

/// The public key of an RSA private key, as a certificate contains it (`RSAPublicKey`, RFC 8017 appendix A.1.1).
fn public_key(key_pem: &Secret) -> Option<Vec<u8>> {
    let pair = match PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(key) => rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()?,
        PrivateKeyDer::Pkcs1(key) => rsa::KeyPair::from_der(key.secret_pkcs1_der()).ok()?,
        _ => return None,
    };
    use aws_lc_rs::signature::KeyPair as _;
    Some(pair.public_key().as_ref().to_vec())
}
