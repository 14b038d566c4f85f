//! Whether Consentry's own page or another site's page sent a request.

use axum::http::HeaderMap;
use axum::http::header::ORIGIN;

use super::hosts::{Authority, RequestedHost};

/// Whether another site's page sent a request. Browsers send this in `Origin` (RFC 6454, Fetch standard) and `Sec-Fetch-Site` (Fetch
/// Metadata); a request without both does not come from a browser. `own` are the URLs of Consentry's pages, besides the requested host.
pub(super) fn is_foreign(headers: &HeaderMap, own: &[Option<&str>]) -> bool {
    let sites: Vec<_> = headers.get_all("sec-fetch-site").iter().map(|value| value.as_bytes()).collect();
    if sites.iter().any(|site| !matches!(*site, b"same-origin" | b"none")) {
        return true;
    }
    let requested = match RequestedHost::of(headers) {
        RequestedHost::Named(authority) => Some(authority),
        RequestedHost::Missing | RequestedHost::Invalid => None,
    };
    headers.get_all(ORIGIN).iter().any(|origin| match origin.to_str() {
        Ok("null") => sites.is_empty() || sites.iter().any(|site| *site != b"same-origin"),
        Ok(origin) => {
            let origin = Authority::of_url(origin);
            let is_own = |authority: Option<Authority>| authority.is_some() && authority == origin;
            !is_own(requested.clone()) && !own.iter().flatten().any(|url| is_own(Authority::of_url(url)))
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
    fn requests_from_pages_of_other_sites_are_recognized() {
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
                "a page of the same site with another origin",
                vec![("host", "a"), ("sec-fetch-site", "same-site"), ("origin", "https://a")],
                true,
            ),
            (
                "contradicting headers",
                vec![("host", "a"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
                true,
            ),
            ("a page that hides its origin", vec![("host", "a"), ("origin", "null")], true),
            (
                "a hidden origin and no site",
                vec![("host", "a"), ("origin", "null"), ("sec-fetch-site", "none")],
                true,
            ),
            (
                "our own page without referrer",
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
            ("a proxy that terminates TLS", vec![("host", "a:443"), ("origin", "https://a")], false),
            ("another site", vec![("host", "10.0.0.1:10143"), ("origin", "https://evil.example")], true),
            (
                "another site and our own page",
                vec![("host", "a"), ("origin", "https://a"), ("origin", "https://evil.example")],
                true,
            ),
            (
                "another site with same-origin",
                vec![("host", "a"), ("origin", "http://b"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            ("an invalid origin", vec![("host", "a"), ("origin", "a")], true),
            ("an origin without host", vec![("origin", "http://a")], true),
        ] {
            assert_eq!(is_foreign(&map(&headers), &[public, None]), foreign, "{sentence}");
        }
    }
}
