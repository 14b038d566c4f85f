//! `--web.config.file`: what Prometheus' exporter-toolkit accepts is accepted, and what it rejects is
//! rejected. The cases are those of its own tests (`web/tls_config_test.go`), with our own files, and some
//! that it does not test.

use consentry::clock::Clock;
use consentry::listener::WebSecurity;

use crate::certificates::{Authority, self_signed};

const USER: &str = "$2y$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe";

/// A file's text, and a part of the expected problem; empty for a valid file. `TLS` is replaced by a server's
/// certificate and key.
const CASES: &[(&str, &str)] = &[
    // Here the toolkit serves everybody. An empty file may be one that is not written yet; `{}` is intended.
    ("", "write {} if the listener is meant to be unprotected"),
    ("# users come later\n", "write {} if the listener is meant to be unprotected"),
    ("{}", ""),
    ("hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n", "must be a mapping"),
    ("tls_server_config: {cert_filse: server.crt}", "did you mean cert_file?"),
    ("tls_server_config: {cert_file: '', key_file: server.key}", "cert and cert_file are missing"),
    ("tls_server_config: {cert: '', key_file: server.key}", "cert and cert_file are missing"),
    ("tls_server_config: {cert_file: server.crt, key_file: ''}", "key and key_file are missing"),
    ("tls_server_config: {cert_file: server.crt, key: ''}", "key and key_file are missing"),
    (
        "tls_server_config: {cert_file: '', key_file: '', client_auth_type: x}",
        "cert and cert_file are missing",
    ),
    ("tls_server_config: {cert_file: somefile, key_file: server.key}", "somefile: No such file"),
    ("tls_server_config: {cert_file: server.crt, key_file: somefile}", "somefile: No such file"),
    ("tls_server_config: {TLS, client_ca_file: ca.pem}", "client_ca is given without client_auth_type"),
    ("tls_server_config: {TLS, client_ca_file: somefile}", "somefile: No such file"),
    ("tls_server_config: {TLS, client_auth_type: x}", "client_auth_type: \"x\" is unknown"),
    ("basic_auth_users: {john: doe}", "basic_auth_users.john: is not a bcrypt hash"),
    (
        "tls_server_config: {TLS, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]}",
        "cipher_suites[0]",
    ),
    ("tls_server_config: {TLS, curve_preferences: [CurveP257]}", "did you mean CurveP256?"),
    ("tls_server_config: {TLS, min_version: TLS111}", "min_version: \"TLS111\" is unknown"),
    ("tls_server_config: {TLS, client_auth_type: VerifyClientCertIfGiven}", ""),
    ("tls_server_config: {TLS, client_auth_type: RequireAnyClientCert}", ""),
    ("tls_server_config: {TLS, client_auth_type: RequireClientCert}", ""),
    ("tls_server_config: {TLS, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem}", ""),
    (
        "tls_server_config: {TLS, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem, client_allowed_sans: [one]}",
        "",
    ),
    (
        "tls_server_config: {TLS, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]}",
        "",
    ),
    ("tls_server_config: {TLS, curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]}", ""),
    ("tls_server_config: {TLS, min_version: TLS13, curve_preferences: [CurveP521]}", ""),
    (
        "tls_server_config: {TLS, max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]}\nhttp_server_config: {http2: false}",
        "",
    ),
    (
        "tls_server_config: {TLS, max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]}",
        "HTTP/2 needs one of",
    ),
    (
        "http_server_config: {headers: {X-Frame-Options: deny, X-Content-Type-Options: nosniff, X-XSS-Protection: 1, \
         Strict-Transport-Security: max-age=31536000; includeSubDomains, Content-Security-Policy: \"default-src 'self' *.test.example.net\"}}",
        "",
    ),
    ("http_server_config: {headers: {X-Content-Type-Options: sniff}}", "must be one of: nosniff"),
    ("http_server_config: {headers: {X-Frame-Options: foo}}", "must be one of: deny, sameorigin"),
    ("http_server_config: {headers: {Content-Type: foo}}", "this header cannot be set here"),
    ("rate_limit: {interval: 0, burst: 0}", ""),
    ("rate_limit: {interval: 1s, burst: 0}", ""),
    ("basic_auth_users: {alice: 'HASH', bob: 'HASH'}", ""),
    // Found by running the toolkit itself.
    ("tls_server_config:\n", "is empty"),
    ("tls_server_config: {min_version: TLS10}", ""),
    ("tls_server_config: {TLS, min_version: TLS10}", ""),
    ("tls_server_config: {TLS, cert_file: x}", "duplicate key"),
    ("tls_server_config: {TLS, cert: junk, key: junk}", ""),
    ("tls_server_config: {TLS, curve_preferences: CurveP256}", "must be a list"),
    ("tls_server_config: {cert_file: server.crt, key_file: server.crt}", "contains no private key"),
    ("tls_server_config: {cert_file: server.crt, key_file: other.key}", "cannot be used together"),
    ("http_server_config: {http2: off}", ""),
    ("http_server_config: {http2: maybe}", "must be true or false"),
    ("http_server_config: {headers: {x-frame-options: deny}}", "this header cannot be set here"),
    ("basic_auth_users:\n", "is empty"),
    ("rate_limit: {interval: 1m30s, burst: 3}", ""),
    // Here the toolkit accepts what nobody can intend: a listener that no client can use, and policies that
    // protect nothing.
    ("tls_server_config: {TLS, max_version: TLS11}", "allows no TLS version"),
    ("tls_server_config: {TLS, client_allowed_sans: [one]}", "protects nothing"),
    (
        "tls_server_config: {TLS, client_auth_type: RequireAndVerifyClientCert, client_ca_file: /dev/null}",
        "not a regular file",
    ),
    (
        "basic_auth_users: {john: '$2y$15$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}",
        "the highest cost is 14, and 10 is enough",
    ),
    ("basic_auth_users: {john: '$2y$14$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}", ""),
    (
        "basic_auth_users: {john: '$1$10$ABCDEFGHIJKLMNOPQRSTUOuqZ5tW4GDHbPPhd3Qf3tiQTuKGQSgXe'}",
        "is not a bcrypt hash",
    ),
];

#[test]
fn files_are_accepted_and_rejected_as_by_the_toolkit() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("Clients");
    let (server, other) = (self_signed("localhost"), self_signed("localhost"));
    let files = [
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("other.key", &other.key),
        ("ca.pem", &authority.certificate),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let file = folder.path().join("web.yml");
    for (text, expected) in CASES {
        let text = text.replace("TLS,", "cert_file: server.crt, key_file: server.key,").replace("HASH", USER);
        std::fs::write(&file, &text).expect("written");
        let problems = WebSecurity::load(Some(&file), Clock::system()).err().unwrap_or_default().join("\n");
        assert_eq!(problems.is_empty(), expected.is_empty(), "{text}: {problems}");
        assert!(problems.contains(expected), "{text}: {problems}");
        assert!(expected.is_empty() || problems.contains("web.yml"), "says where: {problems}");
        assert!(!problems.contains("$2y$") && !problems.contains("PRIVATE KEY"), "{problems}");
    }
    assert!(WebSecurity::load(Some(&folder.path().join("missing.yml")), Clock::system()).is_err());
}

/// Certificate and key in the file itself.
#[test]
fn certificate_and_key_inline() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, file) = (self_signed("localhost"), folder.path().join("web.yml"));
    let indented = |pem: &str| pem.lines().map(|l| format!("    {l}\n")).collect::<String>();
    let text = format!(
        "tls_server_config:\n  cert: |\n{}  key: |\n{}",
        indented(&server.certificate),
        indented(&server.key)
    );
    std::fs::write(&file, text).expect("written");
    WebSecurity::load(Some(&file), Clock::system()).expect("good");
}
