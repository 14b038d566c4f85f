//! Signed re-authentication links.
//!
//! A link names an integration and says until when it is good. It is a key: it goes into mails and nowhere else, never into
//! logs. Signature and time are checked without the database, which only knows up to when links have been used; a rotated
//! encryption key revokes all links.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::Timestamp;
use crate::store::TokenId;

/// Signs and checks links.
#[derive(Clone)]
pub struct Links {
    key: hmac::Key,
    public_url: String,
    lifetime: std::time::Duration,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

/// A link that was signed by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The integration it is for.
    pub integration: String,
    /// When it was made.
    pub issued: Timestamp,
    /// Until when it is good.
    pub expires: Timestamp,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// Not signed by us, or for another integration.
    Forged,
    /// Signed by us, but its time is over.
    Expired,
    /// It, or one made after it, has already led to a success.
    Used,
    /// Whether it was used cannot be found out now.
    Unavailable,
}

const VERSION: u8 = 1;

impl Links {
    /// Links below `public_url`, signed with `key`, good for `lifetime`.
    pub fn new(key: hmac::Key, public_url: &str, lifetime: std::time::Duration) -> Self {
        Self { key, public_url: public_url.trim_end_matches('/').to_owned(), lifetime }
    }

    /// A fresh link.
    pub fn make(&self, id: &TokenId, now: Timestamp) -> String {
        format!("{}/reauth/{}?token={}", self.public_url, id.integration, self.token(id, now))
    }

    /// See [`redirect_uri`].
    pub fn redirect_uri(&self) -> String {
        redirect_uri(&self.public_url)
    }

    /// Version, issue and expiry in milliseconds, name; then the tag.
    pub(super) fn token(&self, id: &TokenId, now: Timestamp) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(now.0.to_be_bytes());
        bytes.extend(now.plus(self.lifetime).0.to_be_bytes());
        bytes.extend(id.integration.as_bytes());
        let tag = hmac::sign(&self.key, &covered(&bytes, id));
        bytes.extend(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Checks a token that came with a link for an integration.
    ///
    /// # Errors
    /// It was not made by us for this integration, or its time is over.
    pub fn check(&self, id: &TokenId, token: &str, now: Timestamp) -> Result<Signed, LinkError> {
        let integration = &id.integration;
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| LinkError::Forged)?;
        let (signed, tag) = bytes.len().checked_sub(32).map(|at| bytes.split_at(at)).ok_or(LinkError::Forged)?;
        hmac::verify(&self.key, &covered(signed, id), tag).map_err(|_| LinkError::Forged)?;
        let (head, name) = signed.split_at_checked(17).filter(|(head, _)| head[0] == VERSION).ok_or(LinkError::Forged)?;
        let time = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes).map(Timestamp);
        let (issued, expires) = time(1).zip(time(9)).ok_or(LinkError::Forged)?;
        if name != integration.as_bytes() {
            return Err(LinkError::Forged);
        }
        if now >= expires {
            return Err(LinkError::Expired);
        }
        Ok(Signed { integration: integration.clone(), issued, expires })
    }
}

/// What the tag covers: the token itself, and whose integration it is. A name that is given to another customer takes no link along.
fn covered(token: &[u8], id: &TokenId) -> Vec<u8> {
    let identity = format!("\0{}\0{}", id.client_id, id.tenant);
    [token, identity.as_bytes()].concat()
}

/// Where Entra sends browsers back to. It must be registered as a redirect URI of platform Web.
pub fn redirect_uri(public_url: &str) -> String {
    format!("{}/reauth/callback", public_url.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> TokenId {
        TokenId { integration: name.to_owned(), client_id: "app".to_owned(), tenant: "contoso.com".to_owned() }
    }

    fn links(secret: &[u8]) -> Links {
        Links::new(hmac::Key::new(hmac::HMAC_SHA256, secret), "https://c.example.com/", Duration::from_secs(60))
    }

    proptest! {
        #[test]
        fn what_is_signed_opens_and_what_is_changed_does_not(name in "[a-z0-9][a-z0-9_.-]{0,40}", at in 0..4_000_000_000_000_i64, byte in 0..200_usize, bit in 0..8_u32) {
            let (ours, now) = (links(b"ours"), Timestamp(at));
            let token = ours.token(&id(&name), now);
            let signed = ours.check(&id(&name), &token, now).expect("our own link");
            prop_assert_eq!((&signed.integration, signed.issued, signed.expires), (&name, now, now.plus(Duration::from_secs(60))));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
            let place = byte % bytes.len();
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(ours.check(&id(&name), &URL_SAFE_NO_PAD.encode(bytes), now), Err(LinkError::Forged));
        }

        #[test]
        fn any_text_is_survived(name in ".{0,40}", token in ".{0,200}", at in any::<i64>()) {
            prop_assert_eq!(links(b"ours").check(&id(&name), &token, Timestamp(at)), Err(LinkError::Forged));
        }
    }

    #[test]
    fn a_link_is_good_for_its_integration_and_time_only() {
        let (ours, now) = (links(b"ours"), Timestamp::from_seconds(1_790_000_000));
        let link = ours.make(&id("acme"), now);
        let token = link.strip_prefix("https://c.example.com/reauth/acme?token=").expect("a link").to_owned();
        let mut tampered = token.clone().into_bytes();
        tampered[5] ^= 1;
        let tampered = String::from_utf8(tampered).unwrap_or_default();
        for (sentence, name, token, at, expected) in [
            ("good", "acme", token.as_str(), now, Ok(())),
            ("good to the last moment", "acme", &token, now.plus(Duration::from_millis(59_999)), Ok(())),
            ("over", "acme", &token, now.plus(Duration::from_secs(60)), Err(LinkError::Expired)),
            ("for somebody else", "other", &token, now, Err(LinkError::Forged)),
            ("tampered", "acme", &tampered, now, Err(LinkError::Forged)),
            ("empty", "acme", "", now, Err(LinkError::Forged)),
            ("nonsense", "acme", "%%%", now, Err(LinkError::Forged)),
            ("short", "acme", "AAAA", now, Err(LinkError::Forged)),
        ] {
            assert_eq!(ours.check(&id(name), token, at).map(|_| ()), expected, "{sentence}");
        }
        assert_eq!(links(b"rotated").check(&id("acme"), &token, now), Err(LinkError::Forged), "a rotated key revokes");
        let moved = TokenId { tenant: "fabrikam.com".to_owned(), ..id("acme") };
        assert_eq!(ours.check(&moved, &token, now), Err(LinkError::Forged), "the name now belongs to another tenant");
        assert_ne!(ours.make(&id("acme"), Timestamp(now.0 + 1)), link, "a later link is another, and both are good");
    }
}
