//! Who is at the other end: from which address a request comes, and whether it came through somebody whose word about that does not count.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::HeaderMap;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

/// What a listener knows of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Its other end; loopback for a socket with a path.
    pub(crate) peer: IpAddr,
    /// The certificates that it showed in the handshake, its own first.
    pub(crate) certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// From where a request comes, as limits, log lines and events have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address: what a trusted proxy says, otherwise the other end of the connection.
    pub(crate) address: IpAddr,
    /// The address is that of somebody who passes requests on, and whose word about their origin does not count.
    pub(crate) through: bool,
}

/// Headers of those who pass requests on, besides `X-Forwarded-*`: RFC 7239 (`Forwarded`), RFC 9110 section 7.6.3 (`Via`), and what nginx,
/// Cloudflare and Akamai are used to.
const FORWARDING: [&str; 6] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"];

/// Whether somebody passed a request on.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-forwarded") || FORWARDING.contains(&name.as_str()))
}

impl Client {
    /// The client of a request. Every proxy adds the address that it sees at the end of `X-Forwarded-For`; whatever stands before the
    /// first one that is not trusted may be invented.
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

    /// As people read it.
    pub(crate) fn shown(&self) -> String {
        if self.through { format!("through {}", self.address) } else { self.address.to_string() }
    }
}

/// An entry of `X-Forwarded-For`: an address; some proxies add the port.
fn address_in(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// The address from which a request comes, as [`Client`] has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_whom_trusted_proxies_name() {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).to_vec();
        for (sentence, peer, headers, expected) in [
            ("nobody between", "192.0.2.7", vec![], "192.0.2.7"),
            (
                "a stranger who claims to be a proxy",
                "192.0.2.7",
                vec![("x-forwarded-for", "198.51.100.1")],
                "through 192.0.2.7",
            ),
            ("a stranger with another header", "192.0.2.7", vec![("via", "1.1 proxy")], "through 192.0.2.7"),
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
                "an invented start of the chain",
                "10.0.0.1",
                vec![("x-forwarded-for", "127.0.0.1, 198.51.100.1")],
                "198.51.100.1",
            ),
            (
                "one header for each proxy",
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
            ("a trusted proxy that names nobody", "10.0.0.1", vec![], "10.0.0.1"),
            (
                "a trusted proxy that names nobody in this way",
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
