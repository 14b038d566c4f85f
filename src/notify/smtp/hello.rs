//! The name in EHLO (RFC 5321 section 4.1.1.1). It is fully qualified, because servers reject bare names (Postfix: `reject_non_fqdn_helo_hostname`),
//! often only after RCPT.
//!
//! The standard library cannot look up the canonical name, so this module reads what the resolver reads: the host name, `/etc/hosts`, and the domains
//! of `/etc/resolv.conf`, whose combination with the host name counts only if it has an address. If nothing gives a full name, an address literal
//! (section 4.1.4) is used, because a bare name is not valid.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::domain::parse_hello;

/// The time limit of a look-up.
const LOOK_UP: Duration = Duration::from_secs(3);

/// How long the result of a look-up is used, so that not every mail waits for a resolver that does not respond.
const BELIEVED: Duration = Duration::from_secs(600);

/// The last result of the resolver, and its time.
static RESOLVED: Mutex<Option<(Instant, Option<String>)>> = Mutex::const_new(None);

/// The name for EHLO on a connection from this address.
pub(super) async fn name(configured: Option<&str>, local: Option<IpAddr>) -> String {
    if let Some(name) = configured {
        return name.to_owned();
    }
    let host = hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Neither file has to exist.
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    match known(&host, &read("/etc/hosts")) {
        Some(name) => name,
        None => remembered(&host, &read("/etc/resolv.conf")).await.unwrap_or_else(|| literal(local)),
    }
}

/// The result of the resolver, looked up again after [`BELIEVED`].
async fn remembered(host: &str, resolv: &str) -> Option<String> {
    let mut last = RESOLVED.lock().await;
    if let Some((at, name)) = last.as_ref()
        && at.elapsed() < BELIEVED
    {
        return name.clone();
    }
    let name = resolved(host, resolv).await;
    *last = Some((Instant::now(), name.clone()));
    name
}

/// The first name under a search domain that has an address.
async fn resolved(host: &str, resolv: &str) -> Option<String> {
    for candidate in candidates(host, resolv) {
        let exists =
            match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((candidate.as_str(), 25))).await {
                Ok(Ok(mut addresses)) => addresses.next().is_some(),
                Ok(Err(_)) | Err(_) => false,
            };
        if exists {
            return Some(candidate);
        }
    }
    None
}

/// A fully qualified name that the machine itself knows: its host name, or the one beside it in `/etc/hosts` (hosts(5): address, canonical
/// name, aliases).
fn known(host: &str, hosts: &str) -> Option<String> {
    if let Some(name) = qualified(host) {
        return Some(name);
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let named = |line: &str| line.split_whitespace().skip(1).any(|name| name.eq_ignore_ascii_case(host));
    lines
        .filter(|line| !host.is_empty() && named(line))
        .find_map(|line| line.split_whitespace().skip(1).find_map(qualified))
}

/// The host name under each search domain (resolv.conf(5): the last `search` or `domain` line counts).
fn candidates(host: &str, resolv: &str) -> Vec<String> {
    let mut domains: Vec<&str> = Vec::new();
    for line in resolv.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            domains = words.collect();
        }
    }
    let host = host.trim_end_matches('.');
    domains.into_iter().take(3).filter_map(|domain| qualified(&format!("{host}.{domain}"))).collect()
}

/// A full name, in lower case; `None` for a bare name, and for names such as `localhost.localdomain`, which every machine has.
fn qualified(name: &str) -> Option<String> {
    let name = parse_hello(name).ok()?.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    (name.contains('.') && !name.starts_with('[') && !matches!(last, "localdomain" | "localhost" | "invalid"))
        .then_some(name)
}

/// An address literal (RFC 5321 section 4.1.3).
fn literal(address: Option<IpAddr>) -> String {
    match address.map(|a| a.to_canonical()) {
        Some(IpAddr::V4(address)) => format!("[{address}]"),
        Some(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
        None => "[127.0.0.1]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_known_name_is_used() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 old.example.com sentry\n10.0.0.2\tsentry.example.com sentry # us\n";
        for (sentence, host, hosts, expected) in [
            ("qualified already", "sentry.example.com", "", Some("sentry.example.com")),
            ("with a dot at its end", "sentry.example.com.", "", Some("sentry.example.com")),
            ("its line in /etc/hosts", "sentry", hosts, Some("sentry.example.com")),
            ("in capitals", "SENTRY", hosts, Some("sentry.example.com")),
            ("another machine's line", "other", hosts, None),
            ("a container", "3f2a1b", "172.17.0.2\t3f2a1b\n", None),
            (
                "everybody's name",
                "localhost.localdomain",
                "127.0.0.1 localhost.localdomain localhost\n",
                None,
            ),
            ("an underscore", "my_host.example.com", "", None),
            ("nothing", "", hosts, None),
        ] {
            assert_eq!(known(host, hosts).as_deref(), expected, "{sentence}");
        }
    }

    #[test]
    fn names_under_search_domains() {
        let of = |host, resolv| candidates(host, resolv).join(" ");
        assert_eq!(
            of("sentry", "nameserver 10.0.0.1\nsearch corp.example.com example.com\n"),
            "sentry.corp.example.com sentry.example.com"
        );
        assert_eq!(of("sentry", "domain a.example\nsearch b.example\n"), "sentry.b.example");
        assert_eq!(of("sentry", "nameserver 10.0.0.1\n"), "");
        assert_eq!(of("", "search example.com\n"), "");
    }

    #[test]
    fn an_address_is_used_if_there_is_no_name() {
        for (address, expected) in [
            (Some("192.0.2.1"), "[192.0.2.1]"),
            (Some("2001:db8::1"), "[IPv6:2001:db8::1]"),
            (Some("::ffff:192.0.2.1"), "[192.0.2.1]"),
            (None, "[127.0.0.1]"),
        ] {
            assert_eq!(literal(address.map(|a| a.parse().expect("an address"))), expected);
        }
    }
}
