//! Signed texts in links: whoever has such a link may do what it is for, so it must never be logged.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Signs texts for one purpose, and makes links of them.
#[derive(Clone)]
pub struct Signer {
    key: hmac::Key,
    base: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("base", &self.base).finish_non_exhaustive()
    }
}

/// The length of a tag of HMAC-SHA-256.
const TAG: usize = 32;

impl Signer {
    /// Links below the URL `base`. The key must be derived for one purpose only.
    pub fn new(key: hmac::Key, base: &str) -> Self {
        Self { key, base: base.trim_end_matches('/').to_owned() }
    }

    /// `BASE/PATH?token=TOKEN` for a text.
    pub fn url(&self, path: &str, text: &str) -> String {
        format!("{}/{path}?token={}", self.base, self.token(text))
    }

    /// The text and its tag as base64url.
    pub fn token(&self, text: &str) -> String {
        let tag = hmac::sign(&self.key, text.as_bytes());
        URL_SAFE_NO_PAD.encode([text.as_bytes(), tag.as_ref()].concat())
    }

    /// The text of a token with a valid tag.
    pub fn open(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (text, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
        hmac::verify(&self.key, text, tag).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(secret: &[u8]) -> Signer {
        Signer::new(hmac::Key::new(hmac::HMAC_SHA256, secret), "https://c.example.com/")
    }

    proptest! {
        #[test]
        fn tokens_open_with_their_own_key_only(text in ".{0,40}", position in any::<prop::sample::Index>()) {
            let token = signer(b"one").token(&text);
            prop_assert_eq!(signer(b"one").open(&token), Some(text));
            prop_assert_eq!(signer(b"two").open(&token), None);
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
            let at = position.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(signer(b"one").open(&URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn nothing_else_opens(text in ".{0,80}") {
            prop_assert_eq!(signer(b"one").open(&text), None);
        }
    }

    #[test]
    fn links_stand_below_the_base() {
        assert!(signer(b"one").url("brake", "x").starts_with("https://c.example.com/brake?token="));
    }
}
