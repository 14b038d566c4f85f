//! TLS of the listener: from `tls_server_config` to the configuration of rustls.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::agreement::{self, ECDH_P521, EphemeralPrivateKey, UnparsedPublicKey};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, aws_lc_rs as provider,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved, ServerConfig};

use super::client_certificate::ClientCertificates;
use super::pem::{certificates, named, private_key};
use crate::config::{ClientAuth, TlsVersion, WebTls};

/// The TLS configuration. `client_certificates` is false for the pages behind mailed links, which accept everybody.
///
/// # Errors
/// What cannot be used; the text is for people.
pub(crate) fn server_config(
    tls: &WebTls,
    http2: bool,
    client_certificates: bool,
) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(provider_for(tls)?);
    let (lowest, highest) = (tls.min_version, tls.max_version);
    let versions: Vec<_> =
        [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
            .into_iter()
            .filter_map(|(version, spoken)| (lowest <= version && version <= highest).then_some(spoken))
            .collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| format!("tls_server_config: {error}; no cipher suite is left for these versions"))?;
    let builder = match tls.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        _ if !client_certificates => builder.with_no_client_auth(),
        _ => builder.with_client_cert_verifier(Arc::new(ClientCertificates::new(tls, &provider)?)),
    };
    let (chain, key) = (certificates(&tls.certificate)?, private_key(&tls.private_key)?);
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let (certificate, key) = (named(&tls.certificate), named(&tls.private_key));
        format!("tls_server_config: certificate ({certificate}) and private key ({key}) cannot be used together: {error}")
    })?;
    if tls.client_auth != ClientAuth::None && client_certificates {
        // A resumed session does not send the certificate again, so it would remain valid after the
        // certificate has expired.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.alpn_protocols =
        if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}

/// The verifier of client certificates outside handshakes, where they are verified at all.
///
/// # Errors
/// There are no usable authorities; the text is for people.
pub(crate) fn verifier(tls: &WebTls) -> Result<Option<Arc<ClientCertificates>>, String> {
    if !matches!(tls.client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify) {
        return Ok(None);
    }
    ClientCertificates::new(tls, &Arc::new(provider_for(tls)?))
        .map(|certificates| Some(Arc::new(certificates)))
}

/// The provider's algorithms, limited to those that the configuration allows.
fn provider_for(tls: &WebTls) -> Result<CryptoProvider, String> {
    let mut provider = provider::default_provider();
    if !tls.cipher_suites.is_empty() {
        let all = provider::ALL_CIPHER_SUITES;
        let chosen = |name: &&str| all.iter().find(|s| s.suite().as_str() == Some(*name)).copied();
        let older = tls.cipher_suites.iter().filter_map(chosen).filter(|s| s.tls13().is_none());
        // The list applies to TLS up to 1.2 only, as in Go.
        provider.cipher_suites = all.iter().filter(|s| s.tls13().is_some()).copied().chain(older).collect();
    }
    if !tls.curves.is_empty() {
        provider.kx_groups = tls.curves.iter().filter_map(|name| curve(name)).collect();
    }
    if provider.kx_groups.is_empty() {
        Err("tls_server_config: no curve is left".to_owned())
    } else {
        Ok(provider)
    }
}

fn curve(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    match name {
        "CurveP256" => Some(provider::kx_group::SECP256R1),
        "CurveP384" => Some(provider::kx_group::SECP384R1),
        "CurveP521" => Some(&Secp521r1),
        "X25519" => Some(provider::kx_group::X25519),
        _ => None,
    }
}

/// The one curve of the toolkit that rustls does not provide (RFC 8446 section 4.2.7). The cryptography is that of aws-lc.
#[derive(Debug)]
struct Secp521r1;

impl SupportedKxGroup for Secp521r1 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let failed = |_| Error::General("cannot generate a key".to_owned());
        let key = EphemeralPrivateKey::generate(&ECDH_P521, &aws_lc_rs::rand::SystemRandom::new())
            .map_err(failed)?;
        let public = key.compute_public_key().map_err(failed)?;
        Ok(Box::new(P521Exchange { key, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct P521Exchange {
    key: EphemeralPrivateKey,
    public: agreement::PublicKey,
}

impl fmt::Debug for P521Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P521Exchange")
    }
}

impl ActiveKeyExchange for P521Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let invalid = || Error::from(PeerMisbehaved::InvalidKeyShare);
        // TLS uses the uncompressed form only (RFC 8446 section 4.2.8.2).
        if peer.first() != Some(&0x04) {
            return Err(invalid());
        }
        let peer = UnparsedPublicKey::new(&ECDH_P521, peer);
        agreement::agree_ephemeral(self.key, peer, invalid(), |secret| Ok(SharedSecret::from(secret)))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_p521_agree() {
        let (a, b) = (Secp521r1.start().expect("a key"), Secp521r1.start().expect("a key"));
        let (public_a, public_b) = (a.pub_key().to_vec(), b.pub_key().to_vec());
        assert_eq!((public_a.len(), public_a[0]), (133, 4), "uncompressed: two coordinates of 66 bytes");
        let (secret_a, secret_b) =
            (a.complete(&public_b).expect("agreed"), b.complete(&public_a).expect("agreed"));
        assert_eq!(secret_a.secret_bytes(), secret_b.secret_bytes());
        assert!(Secp521r1.start().expect("a key").complete(&public_a[1..]).is_err());
    }
}
