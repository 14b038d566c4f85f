//! The key file and what is done with it: sealing refresh tokens, deriving the key that signs links.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension as _};

use super::{StoreError, rotation};
use crate::secret::Secret;

const LENGTH: usize = 32;
const NONCE: usize = 12;

/// The key that encrypts refresh tokens (AES-256-GCM). `Debug` hides it.
#[derive(Clone)]
pub struct Key(Arc<[u8; LENGTH]>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<key>")
    }
}

impl Key {
    /// A key for another purpose, from which this one cannot be computed.
    pub fn derive(&self, purpose: &str) -> hmac::Key {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0[..]), purpose.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }

    /// Encrypts; `bound` must be given again to decrypt. Nonce first, then text and tag.
    pub(super) fn seal(&self, plain: &Secret, bound: &str) -> Result<Vec<u8>, StoreError> {
        let failed = |_| StoreError::Database("cannot encrypt".to_owned());
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0[..]).map_err(failed)?;
        let mut text = plain.expose().as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(bound.as_bytes()), &mut text).map_err(failed)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    /// Decrypts what [`Key::seal`] made; `None` when key, binding or bytes are not the same.
    pub(super) fn open(&self, sealed: &[u8], bound: &str) -> Option<Secret> {
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0[..]).ok()?;
        let mut text = text.to_vec();
        let plain = key.open_in_place(Nonce::try_assume_unique_for_key(nonce).ok()?, Aad::from(bound.as_bytes()), &mut text).ok()?;
        String::from_utf8(plain.to_vec()).ok().map(Secret::new)
    }
}

/// Tells keys apart without giving them away.
pub(super) fn fingerprint(key: &Key) -> String {
    let tag = hmac::sign(&key.derive("consentry key check"), b"");
    STANDARD.encode(&tag.as_ref()[..16])
}

/// Reads the key file, or makes it where none is needed yet.
pub(super) fn load_or_create(connection: &Connection, path: &Path) -> Result<Key, StoreError> {
    let tokens: i64 = connection.query_row(
        "SELECT (SELECT count(*) FROM tokens) + (SELECT count(*) FROM deliveries WHERE delivered_at IS NULL)",
        [],
        |row| row.get(0),
    )?;
    let unusable = |text: String| Err(StoreError::Unusable(text));
    let shown = path.display();
    let saved: Option<String> = connection.query_row("SELECT value FROM meta WHERE key = 'key_check'", [], |row| row.get(0)).optional()?;
    rotation::finish(saved.as_deref(), path)?;
    let key = match read(path)? {
        Some(key) => key,
        None if tokens > 0 => {
            return unusable(format!(
                "the encryption key {shown} is gone, and the database holds {tokens} refresh tokens that only it can decrypt; \
                 restore the file from a backup, or move the database away and let every integration re-authenticate"
            ));
        }
        None => create(path)?,
    };
    warn_if_open(path, "the encryption key");
    match saved {
        Some(saved) if saved != fingerprint(&key) && tokens > 0 => unusable(format!(
            "{shown} is not the key that encrypted the {tokens} refresh tokens in the database; \
             restore the right file from a backup, or move the database away and let every integration re-authenticate"
        )),
        _ => {
            connection.execute(
                "INSERT INTO meta VALUES ('key_check', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [fingerprint(&key)],
            )?;
            Ok(key)
        }
    }
}

/// The key of a file, if the file is there.
pub(super) fn read(path: &Path) -> Result<Option<Key>, StoreError> {
    let shown = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map(Some).ok_or_else(|| {
            StoreError::Unusable(format!(
                "{shown} is not an encryption key: 32 bytes in base64 are expected; restore the file from a backup"
            ))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Unusable(format!("cannot read the encryption key {shown}: {error}"))),
    }
}

fn parse(text: &str) -> Option<Key> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    Some(Key(Arc::new(bytes.try_into().ok()?)))
}

pub(super) fn create(path: &Path) -> Result<Key, StoreError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::Unusable("no randomness for an encryption key".to_owned()))?;
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        writeln!(file, "{}", STANDARD.encode(bytes))?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(Key(Arc::new(bytes))),
        // Another process made it in the same moment: theirs is as good.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => std::fs::read_to_string(path)
            .ok()
            .and_then(|text| parse(&text))
            .ok_or_else(|| StoreError::Unusable(format!("cannot read the encryption key {}", path.display()))),
        Err(error) => Err(StoreError::Unusable(format!("cannot create the encryption key {}: {error}", path.display()))),
    }
}

pub(super) fn warn_if_open(path: &Path, what: &str) {
    let mode = std::fs::metadata(path).map(|m| m.permissions().mode() & 0o777).unwrap_or(0o600);
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), mode = format!("{mode:o}"), "others may read {what}; chmod 600 it");
    }
}
