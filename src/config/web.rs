//! The file of `--web.config.file`: TLS, users, headers and rate limit of the listener, in the format of Prometheus' exporter-toolkit
//! (`docs/web-configuration.md` there). Consentry accepts and rejects what the toolkit accepts and rejects. As in the toolkit's YAML
//! library, an empty value means the same as no value, except where that would leave the listener unprotected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cursor::{Cursor, Section};
use super::problem::{Diagnostics, Problem};
use super::tree::Value;
use crate::secret::{Secret, SecretSource};

/// How the listener is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebConfig {
    /// `None` serves plain HTTP.
    pub tls: Option<WebTls>,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// Headers of every response.
    pub headers: Vec<(&'static str, String)>,
    /// User names and bcrypt hashes; when empty, no authentication is required.
    pub users: BTreeMap<String, Secret>,
    /// The limit for all requests together.
    pub rate_limit: Option<RateLimit>,
    /// Files to watch for changes: the file itself and those it names.
    pub files: Vec<PathBuf>,
    /// The file says `{}`: the listener is unprotected on purpose.
    pub open: bool,
}

impl Default for WebConfig {
    /// Plain HTTP without authentication.
    fn default() -> Self {
        Self {
            tls: None,
            http2: true,
            headers: Vec::new(),
            users: BTreeMap::new(),
            rate_limit: None,
            files: Vec::new(),
            open: false,
        }
    }
}

/// `tls_server_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebTls {
    /// PEM certificate chain.
    pub certificate: SecretSource,
    /// PEM private key.
    pub private_key: SecretSource,
    /// Whether clients must send certificates.
    pub client_auth: ClientAuth,
    /// PEM certificate authorities of clients; `None` means the system's.
    pub client_ca: Option<SecretSource>,
    /// A client's certificate must have one of these subject alternative names.
    pub client_allowed_sans: Option<Vec<String>>,
    /// Lowest version.
    pub min_version: TlsVersion,
    /// Highest version.
    pub max_version: TlsVersion,
    /// IANA names of the cipher suites up to TLS 1.2; empty means the defaults.
    pub cipher_suites: Vec<&'static str>,
    /// Whether the order of `cipher_suites` takes precedence over the client's order.
    pub prefer_server_cipher_suites: bool,
    /// Names of the curves, in order of preference; empty means the defaults.
    pub curves: Vec<&'static str>,
}

/// Whether clients must send certificates; after Go's `tls.ClientAuthType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is requested.
    None,
    /// A certificate is requested but neither required nor verified.
    Request,
    /// A certificate is required but not verified.
    RequireAny,
    /// A certificate is optional; if the client sends one, it must be valid.
    VerifyIfGiven,
    /// A valid certificate is required.
    RequireAndVerify,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// `rate_limit`: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The average time between two requests.
    pub interval: Duration,
    /// The number of requests that may come at once.
    pub burst: u32,
}

/// The suites that Go's `tls.CipherSuites` lists: the toolkit knows no others.
const CIPHER_SUITES: [&str; 13] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// HTTP/2 requires one of these below TLS 1.3 (RFC 9113 section 9.2.2).
const HTTP2_SUITES: [&str; 2] =
    ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];

const CURVES: [&str; 4] = ["CurveP256", "CurveP384", "CurveP521", "X25519"];

const VERSIONS: [(&str, TlsVersion); 4] = [
    ("TLS10", TlsVersion::Tls10),
    ("TLS11", TlsVersion::Tls11),
    ("TLS12", TlsVersion::Tls12),
    ("TLS13", TlsVersion::Tls13),
];

const CLIENT_AUTH: [(&str, ClientAuth); 6] = [
    ("NoClientCert", ClientAuth::None),
    ("RequestClientCert", ClientAuth::Request),
    ("RequireAnyClientCert", ClientAuth::RequireAny),
    ("RequireClientCert", ClientAuth::RequireAny),
    ("VerifyClientCertIfGiven", ClientAuth::VerifyIfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerify),
];

/// The headers that may be set, and the values that each may have; an empty list allows any value.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Reads the file and the secrets it names.
///
/// # Errors
/// Every problem found, with its position.
pub fn load_web(path: &Path) -> Result<WebConfig, Vec<Problem>> {
    let findings = Diagnostics::verbatim();
    let config = super::read_tree(path, &findings).map(|root| {
        let at = Cursor::root(&root, path, &findings);
        // The file may not be written yet, or the disk may have been full.
        if matches!(root.value, Value::Null) {
            at.problem("is empty; write {} if the listener is meant to be unprotected");
        }
        WebConfig { open: matches!(&root.value, Value::Mapping(entries) if entries.is_empty()), ..read(&at) }
    });
    let (problems, ..) = findings.into_parts();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn read(root: &Cursor<'_, '_>) -> WebConfig {
    let mut top = root.section();
    let mut config = WebConfig { files: vec![root.file.to_owned()], ..WebConfig::default() };
    if let Some(at) = given(&mut top, "http_server_config") {
        let mut http = at.section();
        config.http2 = given(&mut http, "http2").and_then(|at| boolean(&at)).unwrap_or(true);
        config.headers = given(&mut http, "headers").map(|at| headers(&at)).unwrap_or_default();
        http.finish();
    }
    if let Some(at) = protecting(&mut top, "tls_server_config") {
        config.tls = tls(&at, config.http2, &mut config.files);
    }
    if let Some(at) = protecting(&mut top, "basic_auth_users") {
        config.users = at.named().into_iter().filter_map(|(name, at)| Some((name, user(&at)?))).collect();
    }
    config.rate_limit = given(&mut top, "rate_limit").and_then(|at| rate_limit(&at));
    top.finish();
    config
}

/// A value that is not empty.
fn given<'n, 'e>(section: &mut Section<'n, 'e>, key: &'static str) -> Option<Cursor<'n, 'e>> {
    section.get(key).filter(|at| match &at.node.value {
        Value::Null => false,
        Value::Scalar(text) => !text.is_empty(),
        Value::Sequence(_) | Value::Mapping(_) => true,
    })
}

/// The value of a key that protects the listener. An empty one means a half-written file; the listener must not be unprotected meanwhile.
fn protecting<'n, 'e>(section: &mut Section<'n, 'e>, key: &'static str) -> Option<Cursor<'n, 'e>> {
    let at = section.get(key)?;
    if matches!(&at.node.value, Value::Null)
        || matches!(&at.node.value, Value::Scalar(text) if text.is_empty())
    {
        at.problem(
            "is empty; give a value or remove the key (write {} in a file that is meant to protect nothing)",
        );
        return None;
    }
    Some(at)
}

/// A boolean of YAML 1.1, as the toolkit reads it.
fn boolean(at: &Cursor<'_, '_>) -> Option<bool> {
    at.parsed("must be true or false", |text| match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" => Some(true),
        "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    })
}

fn headers(at: &Cursor<'_, '_>) -> Vec<(&'static str, String)> {
    let read = |(name, at): (String, Cursor<'_, '_>)| {
        let Some((header, values)) = HEADERS.iter().find(|(header, _)| *header == name) else {
            let all: Vec<&str> = HEADERS.iter().map(|(header, _)| *header).collect();
            at.problem(format!("this header cannot be set here; use one of: {}", all.join(", ")));
            return None;
        };
        let hint = format!("must be one of: {}", values.join(", "));
        let value = if values.is_empty() {
            at.text()?
        } else {
            at.parsed(&hint, |t| values.contains(&t).then(|| t.to_owned()))?
        };
        if value.contains(|c: char| c.is_control()) {
            at.problem("must be one line of visible characters");
            return None;
        }
        (!value.is_empty()).then_some((*header, value))
    };
    at.named().into_iter().filter_map(read).collect()
}

/// The highest bcrypt cost, a power of two: about a second per password check. Anybody can cause such a check.
const HIGHEST_COST: u32 = 14;

/// A bcrypt hash: `$2y$`, two digits of cost, `$`, 53 characters of salt and hash.
fn user(at: &Cursor<'_, '_>) -> Option<Secret> {
    let text = at.text()?;
    let parts: Vec<&str> = text.split('$').collect();
    let cost = match parts[..] {
        ["", "2a" | "2b" | "2x" | "2y", cost, hash] if hash.len() == 53 => {
            cost.parse::<u32>().ok().filter(|cost| (4..=31).contains(cost))
        }
        _ => None,
    };
    let Some(cost) = cost else {
        at.problem("is not a bcrypt hash; make one with: htpasswd -nBC 10 \"\" | tr -d ':\\n'");
        return None;
    };
    if cost > HIGHEST_COST {
        at.problem(format!(
            "has a cost of {cost}: each login attempt would take seconds of CPU time; the highest cost is {HIGHEST_COST}, and 10 is \
             enough: htpasswd -nBC 10 \"\" | tr -d ':\\n'"
        ));
        return None;
    }
    Some(Secret::new(text))
}

fn rate_limit(at: &Cursor<'_, '_>) -> Option<RateLimit> {
    let mut section = at.section();
    let interval = given(&mut section, "interval").map_or(Some(Duration::ZERO), |at| {
        at.parsed("is not a duration; write it like 100ms, 1s or 1m30s, or 0 for off", go_duration)
    });
    let burst = given(&mut section, "burst").map_or(Some(0), |at| at.integer(0, u32::MAX));
    section.finish();
    Some(RateLimit { interval: interval?, burst: burst? }).filter(|limit| !limit.interval.is_zero())
}

/// Go's `time.ParseDuration` without negative values; a bare number means nanoseconds, as in Go's YAML library.
fn go_duration(text: &str) -> Option<Duration> {
    if let Ok(nanoseconds) = text.parse::<u64>() {
        return Some(Duration::from_nanos(nanoseconds));
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|n| *n > 0)?;
        let unit =
            rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| digits + n);
        let seconds = match &rest[digits..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total
            .checked_add(Duration::try_from_secs_f64(rest[..digits].parse::<f64>().ok()? * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

fn tls(at: &Cursor<'_, '_>, http2: bool, files: &mut Vec<PathBuf>) -> Option<WebTls> {
    let mut section = at.section();
    let sources = [("cert", "cert_file"), ("key", "key_file"), ("client_ca", "client_ca_file")]
        .map(|(inline, file)| pem(&mut section, inline, file, files));
    let client_auth_at = given(&mut section, "client_auth_type");
    let asked_for = client_auth_at.is_some() || sources.iter().any(|s| !matches!(s, Pem::Absent));
    let client_auth = client_auth_at.and_then(|at| at.one_of(&CLIENT_AUTH)).unwrap_or(ClientAuth::None);
    let words = |at: Option<Cursor<'_, '_>>| {
        at.map(|at| at.items().iter().filter_map(Cursor::text).collect::<Vec<_>>())
    };
    let client_allowed_sans = words(given(&mut section, "client_allowed_sans"));
    let mut version =
        |key, default| given(&mut section, key).and_then(|at| at.one_of(&VERSIONS)).unwrap_or(default);
    let (min_version, max_version) =
        (version("min_version", TlsVersion::Tls12), version("max_version", TlsVersion::Tls13));
    let cipher_suites = given(&mut section, "cipher_suites").map(|at| (names(&at, &CIPHER_SUITES), at));
    let curves = given(&mut section, "curve_preferences").map(|at| names(&at, &CURVES)).unwrap_or_default();
    let prefer_server_cipher_suites =
        given(&mut section, "prefer_server_cipher_suites").and_then(|at| boolean(&at)).unwrap_or(true);
    if let Some((suites, at)) = &cipher_suites
        && http2
        && !suites.is_empty()
        && min_version < TlsVersion::Tls13
        && !suites.iter().any(|s| HTTP2_SUITES.contains(s))
    {
        at.problem(format!(
            "HTTP/2 needs one of {}; add it, or set http_server_config.http2 to false",
            HTTP2_SUITES.join(", ")
        ));
    }
    if max_version < TlsVersion::Tls12 || max_version < min_version {
        at.problem("allows no TLS version: this program supports TLS12 and TLS13");
    }
    let [certificate, private_key, client_ca] = sources;
    if asked_for {
        for (source, what) in [(&certificate, "cert"), (&private_key, "key")] {
            if matches!(source, Pem::Absent) {
                at.problem(format!("{what} and {what}_file are missing; one of them is required"));
            }
        }
    }
    let has_authority = !matches!(client_ca, Pem::Absent);
    check_client_auth(at, client_auth, has_authority, client_allowed_sans.is_some());
    section.finish();
    Some(WebTls {
        certificate: certificate.good()?,
        private_key: private_key.good()?,
        client_auth,
        client_ca: client_ca.good(),
        client_allowed_sans,
        min_version,
        max_version,
        cipher_suites: cipher_suites.map(|(suites, _)| suites).unwrap_or_default(),
        prefer_server_cipher_suites,
        curves,
    })
}

/// `client_ca` and the allowed names need a policy that verifies client certificates.
fn check_client_auth(at: &Cursor<'_, '_>, client_auth: ClientAuth, has_authority: bool, has_sans: bool) {
    if has_authority && client_auth == ClientAuth::None {
        at.problem(
            "client_ca is given without client_auth_type; write client_auth_type: RequireAndVerifyClientCert",
        );
    }
    if has_sans && !matches!(client_auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify) {
        at.problem("client_allowed_sans protects nothing while clients may show no certificate; write client_auth_type: RequireAndVerifyClientCert");
    }
}

/// A PEM text as it was given.
enum Pem {
    Absent,
    /// The problem is recorded.
    Wrong,
    Good(SecretSource),
}

impl Pem {
    fn good(self) -> Option<SecretSource> {
        match self {
            Self::Good(source) => Some(source),
            Self::Absent | Self::Wrong => None,
        }
    }
}

/// Inline or in a file; the file takes precedence where both are given.
fn pem(
    section: &mut Section<'_, '_>,
    inline: &'static str,
    file: &'static str,
    files: &mut Vec<PathBuf>,
) -> Pem {
    let (text, path) = (given(section, inline), given(section, file));
    match (text, path.and_then(|at| Some((at.path()?, at)))) {
        (_, Some((path, at))) => {
            files.push(path.clone());
            let source = SecretSource::File(path);
            match source.read_text() {
                Ok(_) => Pem::Good(source),
                Err(error) => {
                    at.problem(format!("{error}; correct the path or the file"));
                    Pem::Wrong
                }
            }
        }
        (Some(at), None) => {
            at.text().map_or(Pem::Wrong, |text| Pem::Good(SecretSource::Inline(Secret::new(text))))
        }
        (None, None) => Pem::Absent,
    }
}

/// The items of a list that are among the known names.
fn names(at: &Cursor<'_, '_>, known: &[&'static str]) -> Vec<&'static str> {
    let words: Vec<(&str, &'static str)> = known.iter().map(|name| (*name, *name)).collect();
    at.items().iter().filter_map(|item| item.one_of(&words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_durations() {
        for (text, expected) in [
            ("1s", Some(1_000_000_000)),
            ("0", Some(0)),
            ("250", Some(250)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("5µs", Some(5_000)),
            ("", None),
            ("1d", None),
            ("s", None),
            ("-1s", None),
            ("1..5s", None),
        ] {
            assert_eq!(go_duration(text), expected.map(Duration::from_nanos), "{text}");
        }
    }
}
