//! How a client of ours authenticates itself to Entra.

use std::path::PathBuf;

use crate::certificate::CertificateFiles;
use crate::domain::{CredentialExpiry, Hint, OwnCredential, Timestamp};
use crate::encoding::unverified_claims;
use crate::secret::SecretSource;

/// How a client authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCredential {
    /// A public client.
    None,
    /// A client secret.
    Secret(SecretSource),
    /// A certificate and its private key.
    Certificate(CertificateFiles),
    /// A token of another identity provider, such as Kubernetes, which a federated identity credential of the app registration trusts. The
    /// file is read at every use, because its token is replaced while the daemon runs.
    FederatedToken(PathBuf),
    /// A managed identity of this machine, which a federated identity credential of the app registration trusts: the client id of a
    /// user-assigned one, `None` for the machine's own.
    ManagedIdentity(Option<String>),
}

impl ClientCredential {
    /// The kind of credential, in words.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Secret(_) => "client secret",
            Self::Certificate(_) => "certificate",
            Self::FederatedToken(_) => "federated token",
            Self::ManagedIdentity(_) => "managed identity",
        }
    }

    /// When its certificate expires (RFC 5280 section 4.1.2.5), with the certificate's thumbprint. Reads the file. `None` for other kinds:
    /// only the app registration contains the end of a client secret.
    pub fn expiry(&self) -> Option<CredentialExpiry> {
        let Self::Certificate(files) = self else { return None };
        let certificate = files.load().ok()?;
        let at = Timestamp::from_seconds(certificate.not_after);
        Some(CredentialExpiry { key_id: certificate.thumbprint(), at })
    }

    /// Issuer and subject of the token in its file, which a federated identity credential has to name. They are identifiers, not secrets.
    pub fn issuer_and_subject(&self) -> Option<(String, String)> {
        let Self::FederatedToken(file) = self else { return None };
        let token = SecretSource::File(file.clone()).read().ok()?;
        let claims = unverified_claims(token.expose())?;
        Some((claims["iss"].as_str()?.to_owned(), claims["sub"].as_str()?.to_owned()))
    }

    /// What the app registration may list of it. Reads its files; one that cannot be read is nothing.
    pub fn own(&self) -> OwnCredential {
        match self {
            Self::None => OwnCredential::None,
            Self::Secret(source) => source.read().map_or(OwnCredential::Unreadable, |secret| {
                OwnCredential::Secret { hint: Hint::of(secret.expose()) }
            }),
            Self::Certificate(files) => {
                files.load().map_or(OwnCredential::Unreadable, |certificate| OwnCredential::Certificate {
                    thumbprint: certificate.thumbprint(),
                    ends: Timestamp::from_seconds(certificate.not_after),
                })
            }
            Self::FederatedToken(_) | Self::ManagedIdentity(_) => OwnCredential::Federated,
        }
    }
}
