//! Host names: parsing them, and those under which pages may be requested.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::HOST;

/// The host part of a `Host` or `Origin` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    /// In lower case, without a trailing dot.
    Name(String),
}

impl Host {
    /// Whether the host is always this machine: `*.localhost` resolves to loopback (RFC 6761 section 6.3).
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Host and port. The port is `None` where it is a default port (80 or 443).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: Host,
    port: Option<u16>,
}

impl Authority {
    /// `name`, `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']')?;
                inside.parse::<std::net::Ipv6Addr>().ok()?;
                (inside, if after.is_empty() { "" } else { after.strip_prefix(':')? })
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let port = if port.is_empty() {
            None
        } else {
            Some(port.parse::<u16>().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit()))?)
        };
        let host = match name.parse::<IpAddr>() {
            Ok(address) => Host::Ip(address.to_canonical()),
            Err(_) => Host::Name(dotless(name)?),
        };
        // The scheme is not known here, and a proxy may have changed it.
        Some(Self { host, port: port.filter(|port| !matches!(port, 80 | 443)) })
    }

    /// The authority of a URL or an origin.
    pub(super) fn of_url(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        Self::parse(rest.split(['/', '?', '#']).next().unwrap_or_default())
    }
}

/// A host name in lower case, without a trailing dot.
fn dotless(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!name.is_empty() && name.len() <= 253 && name.chars().all(good)).then(|| name.to_ascii_lowercase())
}

/// A value of `--web.allowed-host`: a host name or address; a port is ignored. The error is for people.
pub fn allowed_host(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not a host name; write it like status.example.com");
    if text.contains("://") || text.contains('*') {
        return Err(wrong());
    }
    if let Some(authority) = Authority::parse(text) {
        return Ok(authority.host.to_string());
    }
    // Names with letters beyond ASCII are sent in their ASCII form (RFC 5891).
    match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) => dotless(&name).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// The host that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestedHost {
    /// None, which HTTP/1.0 allows. Browsers always send one.
    Missing,
    /// A valid host.
    Named(Authority),
    /// Several hosts, or an invalid one.
    Invalid,
}

impl RequestedHost {
    /// From the `Host` header. For HTTP/2, and where the request target is a whole URL, `Site` has copied the target's host into it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(HOST).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Missing,
            (Some(value), None) if value.is_empty() => Self::Missing,
            (Some(value), None) => {
                value.to_str().ok().and_then(Authority::parse).map_or(Self::Invalid, Self::Named)
            }
            (Some(_), Some(_)) => Self::Invalid,
        }
    }
}

/// The host names under which pages may be requested. Anybody can make a name of theirs resolve to this machine, and a browser then treats
/// the pages as that site's own (DNS rebinding). Addresses and this machine's own names are safe from that.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// This machine's names and the given ones.
    pub(super) fn with(others: impl IntoIterator<Item = String>) -> Self {
        let hostname = hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let mut names = names_of(&hostname, &read("/etc/hosts"), &read("/etc/resolv.conf"));
        names.extend(others);
        Self(names)
    }

    pub(super) fn contain(&self, host: &Host) -> bool {
        match host {
            Host::Ip(_) => true,
            Host::Name(name) => host.is_loopback() || self.0.contains(name),
        }
    }
}

/// A machine's names with and without a domain: the host name, with its search domains (`resolv.conf(5)`), and the names next to it in
/// `hosts(5)`. A name that only begins like the machine's is not included: `web1.evil.example` belongs to somebody else.
fn names_of(hostname: &str, hosts: &str, resolver: &str) -> BTreeSet<String> {
    let Some(full) = dotless(hostname.trim()) else { return BTreeSet::new() };
    let short = full.split('.').next().unwrap_or_default().to_owned();
    let mut names = BTreeSet::from([full.clone(), short.clone()]);
    for line in resolver.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            names.extend(words.filter_map(dotless).map(|domain| format!("{short}.{domain}")));
        }
    }
    for line in hosts.lines() {
        let words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(dotless)
            .collect::<Vec<_>>();
        if words.iter().any(|word| *word == full || *word == short) {
            let start = format!("{short}.");
            names.extend(words.into_iter().filter(|word| word.starts_with(&start)));
        }
    }
    names
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
    fn host_headers_are_parsed_and_recognized() {
        let names = Names(names_of(
            "Web1",
            "127.0.1.1 web1.example.com web1\n10.0.0.9 other.example.com",
            "search corp.example. .\n",
        ));
        for (text, known, loopback) in [
            ("127.0.0.1:10143", true, true),
            ("192.0.2.1", true, false),
            ("0.0.0.0:10143", true, false),
            ("[::1]:10143", true, true),
            ("[2001:db8::1]", true, false),
            ("localhost", true, true),
            ("LOCALHOST.:10143", true, true),
            ("demo.localhost", true, true),
            ("web1", true, false),
            ("WEB1.example.com.:80", true, false),
            ("web1.corp.example", true, false),
            ("web1.evil.example", false, false),
            ("other.example.com", false, false),
            ("evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("notlocalhost", false, false),
        ] {
            let host = Authority::parse(text).unwrap_or_else(|| panic!("{text}")).host;
            assert_eq!((names.contain(&host), host.is_loopback()), (known, loopback), "{text}");
        }
        for invalid in [
            "",
            ":80",
            "a b",
            "a:80:90",
            "a:+80",
            "a:99999",
            "[::1",
            "[web1]",
            "[::1]x",
            "user@web1",
            "web1/..",
            "a,b",
            "wéb1",
        ] {
            assert_eq!(Authority::parse(invalid), None, "{invalid}");
        }
        assert!(
            names_of("", "127.0.0.1 localhost", "search example.com").is_empty(),
            "a machine without a name"
        );
    }

    #[test]
    fn the_requested_host_is_read_from_the_header() {
        let named = |text: &str| RequestedHost::Named(Authority::parse(text).expect("an authority"));
        assert_eq!(RequestedHost::of(&map(&[])), RequestedHost::Missing);
        assert_eq!(RequestedHost::of(&map(&[("host", "")])), RequestedHost::Missing);
        assert_eq!(RequestedHost::of(&map(&[("host", "a:1")])), named("A:1"));
        assert_eq!(RequestedHost::of(&map(&[("host", "a"), ("host", "b")])), RequestedHost::Invalid);
        assert_eq!(RequestedHost::of(&map(&[("host", "a@b")])), RequestedHost::Invalid);
    }

    #[test]
    fn allowed_hosts_are_names() {
        for (text, expected) in [
            ("Status.Example.com", Some("status.example.com")),
            ("status.example.com.:8443", Some("status.example.com")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("https://status.example.com", None),
            ("*.example.com", None),
            ("two words", None),
            ("", None),
        ] {
            assert_eq!(allowed_host(text).ok().as_deref(), expected, "{text}");
        }
    }
}
