//! Signed re-authentication links.
//!
//! A link contains the name of an integration, its expiry, and the generation in which it was made. It authorizes a sign-in, so it must never
//! be logged. Signature and expiry are verified without the database, which contains the current generation. Rotating the encryption key
//! revokes all links.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::Timestamp;
use crate::store::{LinkStamp, TokenId};

/// Signs and verifies links.
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

/// The terms of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// The integration's generation of links.
    pub generation: i64,
    /// Whether a sign-in must only satisfy the configuration, and may see less than the stored token did.
    pub accept_fewer: bool,
}

/// A link with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The integration it is for.
    pub integration: String,
    /// When it was made.
    pub stamp: LinkStamp,
    /// When it expires.
    pub expires: Timestamp,
    /// See [`Terms::accept_fewer`].
    pub accept_fewer: bool,
    /// A hash that identifies the link without containing it.
    pub id: String,
}

/// Why a link is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// The signature is invalid, or the link is for another integration.
    Forged,
    /// It has expired.
    Expired,
    /// It, or one made after it, has already led to a success, or it was revoked.
    Used,
    /// Too many sign-ins of this link or of the client's network are pending.
    TooMany,
    /// The database cannot be read now.
    Unavailable,
}

/// The layout without generation: version, issue and expiry, name.
const FIRST_VERSION: u8 = 1;

/// The layout version, flags, generation, issue and expiry, name.
const VERSION: u8 = 2;

/// The flag of [`Terms::accept_fewer`].
const ACCEPT_FEWER: u8 = 1;

impl Links {
    /// Links below `public_url`, signed with `key`, valid for `lifetime`.
    pub fn new(key: hmac::Key, public_url: &str, lifetime: std::time::Duration) -> Self {
        Self { key, public_url: public_url.trim_end_matches('/').to_owned(), lifetime }
    }

    /// A new link.
    pub fn make(&self, id: &TokenId, terms: Terms, now: Timestamp) -> String {
        format!("{}/reauth/{}?token={}", self.public_url, id.integration, self.token(id, terms, now))
    }

    /// See [`redirect_uri`].
    pub fn redirect_uri(&self) -> String {
        redirect_uri(&self.public_url)
    }

    /// Version, flags, generation, issue and expiry in milliseconds, name; then the tag. Base64url.
    fn token(&self, id: &TokenId, terms: Terms, now: Timestamp) -> String {
        let mut bytes = vec![VERSION, if terms.accept_fewer { ACCEPT_FEWER } else { 0 }];
        bytes.extend(terms.generation.to_be_bytes());
        bytes.extend(now.0.to_be_bytes());
        bytes.extend(now.plus(self.lifetime).0.to_be_bytes());
        bytes.extend(id.integration.as_bytes());
        self.sealed(bytes, id)
    }

    fn sealed(&self, mut bytes: Vec<u8>, id: &TokenId) -> String {
        let tag = hmac::sign(&self.key, &covered(&bytes, id));
        bytes.extend(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Verifies the token of a link for an integration. A link from the future is accepted, because the clock may have been ahead when it was
    /// made, but it expires no later than a link that is made now.
    ///
    /// # Errors
    /// The signature is invalid, the link is for another integration, or it has expired.
    pub fn check(&self, id: &TokenId, token: &str, now: Timestamp) -> Result<Signed, LinkError> {
        let integration = &id.integration;
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| LinkError::Forged)?;
        let (signed, tag) =
            bytes.len().checked_sub(32).map(|at| bytes.split_at(at)).ok_or(LinkError::Forged)?;
        hmac::verify(&self.key, &covered(signed, id), tag).map_err(|_| LinkError::Forged)?;
        let parsed = parse(signed).ok_or(LinkError::Forged)?;
        if parsed.name != integration.as_bytes() {
            return Err(LinkError::Forged);
        }
        if now >= parsed.expires {
            return Err(LinkError::Expired);
        }
        Ok(Signed {
            integration: integration.clone(),
            stamp: parsed.stamp,
            expires: parsed.expires.min(now.plus(self.lifetime)),
            accept_fewer: parsed.accept_fewer,
            id: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &bytes)),
        })
    }
}

/// The fields of a token.
struct Parsed<'a> {
    stamp: LinkStamp,
    expires: Timestamp,
    accept_fewer: bool,
    name: &'a [u8],
}

/// Parses the signed part of a token of either version.
fn parse(signed: &[u8]) -> Option<Parsed<'_>> {
    let number = |at: usize| signed.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes);
    match *signed.first()? {
        FIRST_VERSION => Some(Parsed {
            stamp: LinkStamp { generation: None, issued: Timestamp(number(1)?) },
            expires: Timestamp(number(9)?),
            accept_fewer: false,
            name: signed.get(17..)?,
        }),
        VERSION => Some(Parsed {
            stamp: LinkStamp { generation: Some(number(2)?), issued: Timestamp(number(10)?) },
            expires: Timestamp(number(18)?),
            accept_fewer: signed.get(1)? & ACCEPT_FEWER != 0,
            name: signed.get(26..)?,
        }),
        _ => None,
    }
}

/// What the tag covers: the token itself, the client id and the tenant. So links become invalid when a name is reused for another customer.
fn covered(token: &[u8], id: &TokenId) -> Vec<u8> {
    let identity = format!("\0{}\0{}", id.client_id, id.tenant);
    [token, identity.as_bytes()].concat()
}

/// The redirect URI. It must be registered in Entra for the platform Web.
pub fn redirect_uri(public_url: &str) -> String {
    format!("{}/reauth/callback", public_url.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> TokenId {
        TokenId {
            integration: name.to_owned(),
            client_id: "app".to_owned(),
            tenant: "contoso.com".to_owned(),
        }
    }

    fn links(secret: &[u8]) -> Links {
        Links::new(
            hmac::Key::new(hmac::HMAC_SHA256, secret),
            "https://c.example.com/",
            Duration::from_secs(60),
        )
    }

    const TERMS: Terms = Terms { generation: 7, accept_fewer: false };

    /// A token in the layout of the first version.
    fn first_version(links: &Links, id: &TokenId, issued: Timestamp, expires: Timestamp) -> String {
        let mut bytes = vec![FIRST_VERSION];
        bytes.extend(issued.0.to_be_bytes());
        bytes.extend(expires.0.to_be_bytes());
        bytes.extend(id.integration.as_bytes());
        links.sealed(bytes, id)
    }

    proptest! {
        #[test]
        fn signed_tokens_are_accepted_and_changed_ones_rejected(
            name in "[a-z0-9][a-z0-9_.-]{0,40}",
            at in 0..4_000_000_000_000_i64,
            generation in 0..i64::MAX,
            accept_fewer in any::<bool>(),
            byte in 0..200_usize,
            bit in 0..8_u32,
        ) {
            let (ours, now) = (links(b"ours"), Timestamp(at));
            let token = ours.token(&id(&name), Terms { generation, accept_fewer }, now);
            let signed = ours.check(&id(&name), &token, now).expect("our own link");
            let stamp = LinkStamp { generation: Some(generation), issued: now };
            prop_assert_eq!((&signed.integration, signed.stamp, signed.accept_fewer), (&name, stamp, accept_fewer));
            prop_assert_eq!(signed.expires, now.plus(Duration::from_secs(60)));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
            let place = byte % bytes.len();
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(ours.check(&id(&name), &URL_SAFE_NO_PAD.encode(bytes), now), Err(LinkError::Forged));
        }

        #[test]
        fn any_text_is_rejected_without_panic(name in ".{0,40}", token in ".{0,200}", at in any::<i64>()) {
            prop_assert_eq!(links(b"ours").check(&id(&name), &token, Timestamp(at)), Err(LinkError::Forged));
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_link_is_valid_for_its_integration_and_lifetime_only() {
        let (ours, now) = (links(b"ours"), Timestamp::from_seconds(1_790_000_000));
        let link = ours.make(&id("acme"), TERMS, now);
        let token = link.strip_prefix("https://c.example.com/reauth/acme?token=").expect("a link").to_owned();
        let mut tampered = token.clone().into_bytes();
        tampered[5] ^= 1;
        let tampered = String::from_utf8(tampered).unwrap_or_default();
        for (sentence, name, token, at, expected) in [
            ("valid", "acme", token.as_str(), now, Ok(())),
            ("valid to the end", "acme", &token, now.plus(Duration::from_millis(59_999)), Ok(())),
            (
                "made an hour in the future, because the clock was ahead",
                "acme",
                &token,
                now.minus(Duration::from_secs(3600)),
                Ok(()),
            ),
            ("expired", "acme", &token, now.plus(Duration::from_secs(60)), Err(LinkError::Expired)),
            ("for another integration", "other", &token, now, Err(LinkError::Forged)),
            ("tampered", "acme", &tampered, now, Err(LinkError::Forged)),
            ("empty", "acme", "", now, Err(LinkError::Forged)),
            ("not base64", "acme", "%%%", now, Err(LinkError::Forged)),
            ("short", "acme", "AAAA", now, Err(LinkError::Forged)),
        ] {
            assert_eq!(ours.check(&id(name), token, at).map(|_| ()), expected, "{sentence}");
        }
        let early = now.minus(Duration::from_secs(3600));
        let signed = ours.check(&id("acme"), &token, early).expect("a link");
        assert_eq!(
            signed.expires,
            early.plus(Duration::from_secs(60)),
            "no link is valid for longer than one that is made now"
        );
        assert_eq!(
            links(b"rotated").check(&id("acme"), &token, now),
            Err(LinkError::Forged),
            "a rotated key revokes"
        );
        let moved = TokenId { tenant: "fabrikam.com".to_owned(), ..id("acme") };
        assert_eq!(
            ours.check(&moved, &token, now),
            Err(LinkError::Forged),
            "the name now belongs to another tenant"
        );
        assert_ne!(
            ours.make(&id("acme"), TERMS, Timestamp(now.0 + 1)),
            link,
            "a later link is different"
        );
    }

    #[test]
    fn links_of_the_first_version_are_accepted() {
        let (ours, now) = (links(b"ours"), Timestamp::from_seconds(1_790_000_000));
        let token = first_version(&ours, &id("acme"), now, now.plus(Duration::from_secs(60)));
        let signed = ours.check(&id("acme"), &token, now).expect("a link");
        assert_eq!((signed.stamp, signed.accept_fewer), (LinkStamp { generation: None, issued: now }, false));
        assert_eq!(ours.check(&id("other"), &token, now), Err(LinkError::Forged));
        assert_eq!(
            ours.check(&id("acme"), &token, now.plus(Duration::from_secs(60))),
            Err(LinkError::Expired)
        );
    }
}
