//! Client certificates: the five policies of Go's `tls.ClientAuthType`, and the allowed names.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::pem::certificates;
use crate::config::{ClientAuth, WebTls};

/// Verifies client certificates.
#[derive(Debug)]
pub(crate) struct ClientCertificates {
    mandatory: bool,
    /// `None` where any certificate is accepted.
    authorities: Option<Authorities>,
    allowed_names: Option<Vec<String>>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Authorities {
    chains: Arc<dyn ClientCertVerifier>,
    /// A certificate that is itself among the authorities is valid, as in Go; webpki requires a chain.
    themselves: Vec<CertificateDer<'static>>,
}

impl ClientCertificates {
    /// # Errors
    /// There are no usable authorities; the text is for people.
    pub(crate) fn new(tls: &WebTls, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let verified = matches!(tls.client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
        let authorities = verified.then(|| authorities(tls, provider)).transpose()?;
        Ok(Self {
            mandatory: matches!(tls.client_auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify),
            authorities,
            allowed_names: tls.client_allowed_sans.clone(),
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl ClientCertificates {
    /// The name in the first of these certificates, which the client sent; `None` where they are not valid now.
    pub(crate) fn owner(&self, shown: &[CertificateDer<'_>]) -> Option<String> {
        let (own, intermediates) = shown.split_first()?;
        self.verify_client_cert(own, intermediates, UnixTime::now()).ok()?;
        let (_, certificate) = X509Certificate::from_der(own).ok()?;
        let common_name =
            certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()).map(str::to_owned);
        common_name
            .filter(|name| !name.is_empty())
            .or_else(|| first_name(&certificate))
            .or_else(|| Some("without a name".to_owned()))
    }
}

fn first_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        _ => None,
    })
}

/// The configured authorities, or the system's where none are configured.
fn authorities(tls: &WebTls, provider: &Arc<CryptoProvider>) -> Result<Authorities, String> {
    let themselves = match &tls.client_ca {
        Some(source) => certificates(source)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(themselves.iter().cloned());
    let chains = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider)).build();
    let themselves = if tls.client_ca.is_some() { themselves } else { Vec::new() };
    Ok(Authorities {
        chains: chains
            .map_err(|error| format!("tls_server_config: no authority for client certificates: {error}"))?,
        themselves,
    })
}

/// Whether a certificate has one of these names (RFC 5280 section 4.2.1.6): DNS, mail address, IP address or URI, compared as written.
fn has_name(certificate: &X509Certificate<'_>, allowed: &[String]) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            allowed.iter().any(|a| a == text)
        }
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(std::net::IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(Into::into));
            address.is_ok_and(|address| allowed.iter().any(|a| *a == address.to_string()))
        }
        _ => false,
    })
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.as_ref().map_or(&[], |a| a.chains.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if let Some(authorities) = &self.authorities {
            if authorities.themselves.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
                let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                let (from, until) =
                    (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
                if now < from || now > until {
                    return Err(if now < from {
                        CertificateError::NotValidYet
                    } else {
                        CertificateError::Expired
                    }
                    .into());
                }
            } else {
                authorities.chains.verify_client_cert(end_entity, intermediates, now)?;
            }
        }
        match &self.allowed_names {
            Some(allowed) if !has_name(&parsed, allowed) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
