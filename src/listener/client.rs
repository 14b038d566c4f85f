//! The client's address of a request, and whether the request came through a proxy that is not trusted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::HeaderMap;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

/// What a listener knows of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Address of the peer; loopback for a Unix socket.
    pub(crate) peer: IpAddr,
    /// The certificates that the client sent in the handshake, its own first.
    pub(crate) certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// The origin of a request, for limits, log lines and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address that a trusted proxy reports, otherwise that of the peer.
    pub(crate) address: IpAddr,
    /// Whether the address is that of a proxy that is not trusted to report the client's address.
    pub(crate) through: bool,
}

/// Headers that proxies add, besides `X-Forwarded-*`: RFC 7239 (`Forwarded`), RFC 9110 section 7.6.3 (`Via`), and those of nginx,
/// Cloudflare and Akamai.
const FORWARDING: [&str; 6] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"];

/// Whether a proxy forwarded a request.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-forwarded") || FORWARDING.contains(&name.as_str()))
}

impl Client {
    /// The client of a request. Every proxy appends the address of its peer to `X-Forwarded-For`, so the entries are read from the end. The
    /// first address that is not trusted is the client; entries before it may be forged.
    pub(crate) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
        let mut address = peer.to_canonical();
        if !is_trusted(&address) {
            return Self { address, through: is_forwarded(headers) };
        }
        let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        let entries = values.iter().rev().flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
        let mut named = false;
        for entry in entries {
            let Some(before) = address_in(entry) else { return Self { address, through: true } };
            (address, named) = (before, true);
            if !is_trusted(&address) {
                break;
            }
        }
        Self { address, through: !named && is_forwarded(headers) }
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        if self.through { format!("through {}", self.address) } else { self.address.to_string() }
    }
}

/// Parses an entry of `X-Forwarded-For`: an address; some proxies add the port.
fn address_in(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// The address of [`Client`], as an extension of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_from_trusted_proxies_only() {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).to_vec();
        for (sentence, peer, headers, expected) in [
            ("no proxy", "192.0.2.7", vec![], "192.0.2.7"),
            (
                "an unknown client that claims to be a proxy",
                "192.0.2.7",
                vec![("x-forwarded-for", "198.51.100.1")],
                "through 192.0.2.7",
            ),
            ("an unknown client, another header", "192.0.2.7", vec![("via", "1.1 proxy")], "through 192.0.2.7"),
            ("a trusted proxy", "10.0.0.1", vec![("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            (
                "an IPv4 address on an IPv6 socket",
                "::ffff:10.0.0.1",
                vec![("x-forwarded-for", "198.51.100.1")],
                "198.51.100.1",
            ),
            (
                "a chain of trusted proxies",
                "10.0.0.1",
                vec![("x-forwarded-for", "198.51.100.1, 10.0.0.2")],
                "198.51.100.1",
            ),
            (
                "a forged start of the chain",
                "10.0.0.1",
                vec![("x-forwarded-for", "127.0.0.1, 198.51.100.1")],
                "198.51.100.1",
            ),
            (
                "one header per proxy",
                "10.0.0.1",
                vec![("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "198.51.100.1")],
                "198.51.100.1",
            ),
            ("trusted proxies only", "10.0.0.1", vec![("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            (
                "an address with a port",
                "10.0.0.1",
                vec![("x-forwarded-for", "198.51.100.1:4711")],
                "198.51.100.1",
            ),
            (
                "an IPv6 address with a port",
                "fd00::1",
                vec![("x-forwarded-for", "[2001:db8::1]:4711")],
                "2001:db8::1",
            ),
            ("no address at all", "10.0.0.1", vec![("x-forwarded-for", "unknown")], "through 10.0.0.1"),
            ("a trusted proxy without a header", "10.0.0.1", vec![], "10.0.0.1"),
            (
                "a trusted proxy with another header",
                "10.0.0.1",
                vec![("forwarded", "for=198.51.100.1")],
                "through 10.0.0.1",
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value.parse().expect("a value"));
            }
            let client = Client::of(peer.parse().expect("an address"), &map, &trusted);
            assert_eq!(client.shown(), expected, "{sentence}");
        }
    }
}
