//! The encryption key: encrypts refresh tokens, and derives the key that signs links.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, Zeroizing};

use super::StoreError;
use crate::secret::Secret;

pub(super) const LENGTH: usize = 32;
const NONCE: usize = 12;

/// Length of the tag of AES-GCM.
const TAG: usize = 16;

/// The key that encrypts refresh tokens (AES-256-GCM). `Debug` hides it; its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Key(Arc<Zeroizing<[u8; LENGTH]>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<key>")
    }
}

impl Key {
    pub(super) fn new(bytes: Zeroizing<[u8; LENGTH]>) -> Self {
        Self(Arc::new(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// A key for another purpose, from which this one cannot be computed.
    pub fn derive(&self, purpose: &str) -> hmac::Key {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0[..]), purpose.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }

    /// Encrypts; `bound` must be given again to decrypt. The result is nonce, text and tag.
    pub(super) fn seal(&self, plain: &Secret, bound: &str) -> Result<Vec<u8>, StoreError> {
        let failed = |_| StoreError::Database("cannot encrypt".to_owned());
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0[..]).map_err(failed)?;
        let plain = plain.expose().as_bytes();
        // Room for the tag from the beginning: a buffer that grows leaves copies of its text behind.
        let mut text: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(plain.len() + TAG));
        text.extend_from_slice(plain);
        let nonce = key.seal_in_place_append_tag(Aad::from(bound.as_bytes()), &mut *text).map_err(failed)?;
        Ok([nonce.as_ref().as_slice(), text.as_slice()].concat())
    }

    /// Decrypts the result of [`Key::seal`]; `None` if key, binding or bytes differ.
    pub(super) fn open(&self, sealed: &[u8], bound: &str) -> Option<Secret> {
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0[..]).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = key.open_in_place(nonce, Aad::from(bound.as_bytes()), &mut text[..]).ok()?.len();
        text.truncate(length);
        match String::from_utf8(std::mem::take(&mut *text)) {
            Ok(plain) => Some(Secret::new(plain)),
            Err(error) => {
                error.into_bytes().zeroize();
                None
            }
        }
    }
}

/// Identifies a key without revealing it.
pub(super) fn fingerprint(key: &Key) -> String {
    let tag = hmac::sign(&key.derive("consentry key check"), b"");
    STANDARD.encode(&tag.as_ref()[..16])
}
