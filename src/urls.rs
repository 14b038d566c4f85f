//! What several modules ask of URLs.

use url::{Host, Url};

/// Whether a URL points to this machine: `localhost` and names that end in it (RFC 6761 section 6.3), 127.0.0.0/8 and `::1` (RFC 6890),
/// also as an IPv4-mapped address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
        }
        None => false,
    }
}

/// A URL as it may be shown: without user name and password. `None` where it cannot be said what they are.
pub fn without_user(url: &Url) -> Option<Url> {
    let mut shown = url.clone();
    if shown.username().is_empty() && shown.password().is_none() {
        return Some(shown);
    }
    shown.set_username("").ok()?;
    shown.set_password(None).ok()?;
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_this_machine_and_their_users() {
        for (text, loopback, shown) in [
            ("http://localhost/", true, "http://localhost/"),
            ("http://demo.LOCALHOST.:1/x", true, "http://demo.localhost.:1/x"),
            ("http://u:p@127.9.9.9/?a", true, "http://127.9.9.9/?a"),
            ("https://[::1]/", true, "https://[::1]/"),
            ("https://[::ffff:127.0.0.1]/", true, "https://[::ffff:7f00:1]/"),
            ("https://u@notlocalhost/", false, "https://notlocalhost/"),
            ("https://10.0.0.1/", false, "https://10.0.0.1/"),
        ] {
            let url = Url::parse(text).expect("a URL");
            let actual = without_user(&url).map(String::from);
            assert_eq!((is_loopback(&url), actual.as_deref()), (loopback, Some(shown)), "{text}");
        }
    }
}
