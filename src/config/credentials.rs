//! Credentials of applications, directory readers and mail accounts.

use std::path::PathBuf;

use super::cursor::{Cursor, Section};
use super::tree::Value;
use crate::certificate::CertificateFiles;
use crate::credential::ClientCredential;
use crate::encoding::unverified_claims;
use crate::secret::SecretSource;

/// What can be written.
const KINDS: &str = "{client_secret_file: app-secret}, {certificate_file: app.pem, private_key_file: app.key}, {federated_token_file: token} or {managed_identity: {client_id: ...}}";

/// A client secret. The portal shows its id next to its value, and still shows the id when it no longer shows the value.
pub(super) fn client_secret(section: &mut Section<'_, '_>) -> Option<SecretSource> {
    let source = section.secret("client_secret", "client_secret_file")?;
    if source.read().is_ok_and(|secret| uuid::Uuid::try_parse(secret.expose()).is_ok()) {
        section
            .at
            .warn("the client secret looks like a GUID: its id was copied instead of its value; make a new secret and copy the value");
    }
    Some(source)
}

/// How a client authenticates: `none`, or a mapping with one kind.
pub(super) fn credential(at: &Cursor<'_, '_>) -> Option<ClientCredential> {
    if let Value::Scalar(text) = &at.node.value {
        if text == "none" {
            return Some(ClientCredential::None);
        }
        at.problem(format!("must be none, or a mapping such as {KINDS}"));
        return None;
    }
    let mut section = at.section();
    let has = |section: &Section<'_, '_>, keys: &[&str]| keys.iter().any(|key| section.has(key));
    let kinds = [
        has(&section, &["client_secret", "client_secret_file"]),
        has(
            &section,
            &["certificate_file", "private_key_file", "certificate_password", "certificate_password_file"],
        ),
        section.has("federated_token_file"),
        section.has("managed_identity"),
    ];
    // Every key is read, so that each of its problems is found.
    let secret = client_secret(&mut section).map(ClientCredential::Secret);
    let certificate = certificate(&mut section);
    let federated = section.get("federated_token_file").and_then(|at| federated_token(&at));
    let managed = section.get("managed_identity").map(|at| managed_identity(&at));
    let found = match kinds {
        [false, false, false, false] => {
            section.at.problem(format!("is empty; write none, or {KINDS}"));
            None
        }
        _ if kinds.iter().filter(|kind| **kind).count() > 1 => {
            section.at.problem("names several kinds of credential; keep one");
            None
        }
        _ => secret.or(certificate).or(federated).or(managed),
    };
    section.finish();
    found
}

/// The credential of a client that signs in by itself.
pub(super) fn own_credential(at: &Cursor<'_, '_>, who: &str) -> Option<ClientCredential> {
    let credential = credential(at)?;
    if credential == ClientCredential::None {
        at.problem(format!(
            "must not be none: {who} signs in by itself; write it like {{client_secret_file: secret}}"
        ));
        return None;
    }
    Some(credential)
}

fn certificate(section: &mut Section<'_, '_>) -> Option<ClientCredential> {
    let certificate_file = section.get("certificate_file").map(|at| at.readable_file());
    let private_key_file = section.get("private_key_file").map(|at| at.readable_file());
    let has_password = section.has("certificate_password") || section.has("certificate_password_file");
    let password = section.secret("certificate_password", "certificate_password_file");
    let Some(certificate_file) = certificate_file else {
        if private_key_file.is_some() || has_password {
            section.at.problem("certificate_file is missing; give the certificate in PEM, or a PFX file");
        }
        return None;
    };
    // An unreadable file has been reported.
    let private_key_file: Option<PathBuf> = match private_key_file {
        Some(None) => return None,
        Some(Some(path)) => Some(path),
        None => None,
    };
    if has_password && password.is_none() {
        return None;
    }
    let files = CertificateFiles { certificate_file: certificate_file?, private_key_file, password };
    if let Err(message) = files.load() {
        section.at.problem(message);
        return None;
    }
    Some(ClientCredential::Certificate(files))
}

fn federated_token(at: &Cursor<'_, '_>) -> Option<ClientCredential> {
    let path = at.readable_file()?;
    let read = SecretSource::File(path.clone()).read();
    if read.ok().and_then(|token| unverified_claims(token.expose())).is_none() {
        at.warn(format!("{} contains no JSON Web Token now; it is read again at every use", path.display()));
    }
    Some(ClientCredential::FederatedToken(path))
}

fn managed_identity(at: &Cursor<'_, '_>) -> ClientCredential {
    let mut identity = at.section();
    let client_id = identity.get("client_id").and_then(|at| at.guid());
    identity.finish();
    ClientCredential::ManagedIdentity(client_id)
}
