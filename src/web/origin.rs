//! Whether a page of ours or another site's page sent a request.

use axum::http::HeaderMap;
use axum::http::header::ORIGIN;

use super::hosts::{Asked, Authority};

/// Whether another site's page sent a request. Browsers say so in `Origin` (RFC 6454, Fetch standard) and `Sec-Fetch-Site` (Fetch Metadata);
/// what says neither is no browser's. `own` are URLs under which browsers see us, besides the host that was asked.
pub(super) fn is_foreign(headers: &HeaderMap, own: &[Option<&str>]) -> bool {
    let sites: Vec<_> = headers.get_all("sec-fetch-site").iter().map(|value| value.as_bytes()).collect();
    if sites.iter().any(|site| !matches!(*site, b"same-origin" | b"none")) {
        return true;
    }
    let asked = match Asked::of(headers) {
        Asked::Named(authority) => Some(authority),
        Asked::Nothing | Asked::Nonsense => None,
    };
    headers.get_all(ORIGIN).iter().any(|origin| match origin.to_str() {
        Ok("null") => sites.is_empty() || sites.iter().any(|site| *site != b"same-origin"),
        Ok(origin) => {
            let origin = Authority::of_url(origin);
            let is_own = |authority: Option<Authority>| authority.is_some() && authority == origin;
            !is_own(asked.clone()) && !own.iter().flatten().any(|url| is_own(Authority::of_url(url)))
        }
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn requests_of_other_sites_are_told_apart() {
        let public = Some("https://consentry.example.com/base");
        for (sentence, headers, foreign) in [
            ("a script", vec![("host", "10.0.0.1")], false),
            (
                "a browser on our page",
                vec![("host", "a"), ("sec-fetch-site", "same-origin"), ("origin", "https://a")],
                false,
            ),
            ("a person who typed the address", vec![("host", "a"), ("sec-fetch-site", "none")], false),
            (
                "a browser on another page",
                vec![("host", "a"), ("sec-fetch-site", "cross-site"), ("origin", "https://b")],
                true,
            ),
            (
                "a neighbour",
                vec![("host", "a"), ("sec-fetch-site", "same-site"), ("origin", "https://a")],
                true,
            ),
            (
                "two answers",
                vec![("host", "a"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
                true,
            ),
            ("a page that hides where it is from", vec![("host", "a"), ("origin", "null")], true),
            (
                "the same, typed by a person",
                vec![("host", "a"), ("origin", "null"), ("sec-fetch-site", "none")],
                true,
            ),
            (
                "our own page that sends no referrer",
                vec![("host", "a"), ("origin", "null"), ("sec-fetch-site", "same-origin")],
                false,
            ),
            (
                "our public name behind a proxy",
                vec![("host", "10.0.0.1:10143"), ("origin", "https://consentry.example.com")],
                false,
            ),
            (
                "our public name in capitals",
                vec![("host", "10.0.0.1"), ("origin", "HTTPS://Consentry.Example.COM:443")],
                false,
            ),
            (
                "our public name on another port",
                vec![("host", "10.0.0.1"), ("origin", "https://consentry.example.com:8443")],
                true,
            ),
            ("our address", vec![("host", "10.0.0.1:10143"), ("origin", "http://10.0.0.1:10143")], false),
            (
                "another program at our address",
                vec![("host", "10.0.0.1:10143"), ("origin", "http://10.0.0.1:3000")],
                true,
            ),
            ("a proxy that ends TLS", vec![("host", "a:443"), ("origin", "https://a")], false),
            ("another site", vec![("host", "10.0.0.1:10143"), ("origin", "https://evil.example")], true),
            (
                "another site, and our own page",
                vec![("host", "a"), ("origin", "https://a"), ("origin", "https://evil.example")],
                true,
            ),
            (
                "another site that a browser calls ours",
                vec![("host", "a"), ("origin", "http://b"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            ("an origin that is none", vec![("host", "a"), ("origin", "a")], true),
            ("an origin and no host", vec![("origin", "http://a")], true),
        ] {
            assert_eq!(is_foreign(&map(&headers), &[public, None]), foreign, "{sentence}");
        }
    }
}
