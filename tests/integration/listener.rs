//! The listener: TLS, client certificates, users, headers and the rate limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Pair, self_signed};
use crate::daemon::Daemon;
use crate::requests::raw;
use crate::world::{World, eventually, free_address, replace};

/// alice's password is `open sesame`.
const ALICE: &str = "$2b$04$n7uUmE/3WGpLHuS4j1en6.YBWqv/r0OJD5DlwPZ2cHVvRRMGeHE.i";

/// A daemon behind `--web.config.file`.
struct Walled {
    world: World,
    daemon: Daemon,
    authority: Authority,
}

impl Walled {
    async fn start(web_config: &str, flags: &[&str]) -> Self {
        let (world, authority) = (World::live().await, Authority::new("Servers"));
        let server = authority.pair(&["localhost", "127.0.0.1"]);
        std::fs::write(world.path("server.crt"), &server.certificate).expect("written");
        std::fs::write(world.path("server.key"), &server.key).expect("written");
        let file = world.web_config(&with_pair(web_config));
        let daemon = world.daemon(&[&[file.as_str()], flags].concat());
        Self { world, daemon, authority }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// Removes all protection on purpose.
    async fn open_up(&self) {
        self.configure("{}");
        assert_eq!(
            reqwest::get(format!("http://{}/-/healthy", self.daemon.address))
                .await
                .expect("an answer")
                .status(),
            200
        );
    }

    /// As if it had been written some time ago.
    fn configure(&self, web_config: &str) {
        self.world.web_config(&with_pair(web_config));
        let ago = std::time::SystemTime::now() - Duration::from_secs(60);
        let file = self.file("web.yml");
        std::fs::File::options().write(true).open(file).and_then(|f| f.set_modified(ago)).expect("an age");
    }

    /// A client that trusts the authority, perhaps with a certificate of its own.
    fn client(&self, own: Option<&Pair>) -> reqwest::Client {
        let root =
            reqwest::Certificate::from_pem(self.authority.certificate.as_bytes()).expect("a certificate");
        let builder = reqwest::Client::builder().tls_certs_only([root]).pool_max_idle_per_host(0);
        let builder = match own {
            Some(pair) => builder.identity(
                reqwest::Identity::from_pem((pair.certificate.clone() + &pair.key).as_bytes())
                    .expect("an identity"),
            ),
            None => builder,
        };
        builder.build().expect("a client")
    }

    /// The status of an address over TLS; 0 if there is no response.
    async fn https(&self, path: &str, own: Option<&Pair>) -> u16 {
        match self.client(own).get(format!("https://{}{path}", self.daemon.address)).send().await {
            Ok(answer) => answer.status().as_u16(),
            Err(_) => 0,
        }
    }

    /// A handshake with these algorithms: the agreed protocol, or why there is none.
    async fn handshake(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        suites: &[&str],
        alpn: &[&[u8]],
    ) -> Result<(rustls::ProtocolVersion, rustls::CipherSuite, Vec<u8>), String> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if !suites.is_empty() {
            let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
            provider.cipher_suites = suites
                .iter()
                .filter_map(|name| all.iter().find(|s| s.suite().as_str() == Some(name)).copied())
                .collect();
        }
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes()).expect("PEM"))
            .expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(&self.daemon.address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        let agreed = stream.get_ref().1;
        let suite = agreed.negotiated_cipher_suite().expect("a suite").suite();
        Ok((
            agreed.protocol_version().expect("a version"),
            suite,
            agreed.alpn_protocol().unwrap_or_default().to_vec(),
        ))
    }
}

/// The configuration with certificate and key of the server where it says PAIR.
fn with_pair(web_config: &str) -> String {
    web_config.replace("PAIR", "cert_file: server.crt, key_file: server.key")
}

#[tokio::test]
async fn tls_and_its_files_that_change() {
    let mut walled = Walled::start("tls_server_config: {PAIR}", &[]).await;
    assert_eq!(walled.https("/-/healthy", None).await, 200);
    let plain = reqwest::get(format!("http://{}/-/healthy", walled.daemon.address)).await.expect("an answer");
    assert_eq!(plain.status(), 400);
    assert!(plain.text().await.expect("text").contains("HTTPS server"));
    let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let agreed = walled.handshake(rustls::ALL_VERSIONS, &[], &both).await.expect("agreed");
    assert_eq!((agreed.0, agreed.2), (rustls::ProtocolVersion::TLSv1_3, b"h2".to_vec()));
    walled.configure("tls_server_config: {PAIR, max_version: TLS12, prefer_server_cipher_suites: false, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}\nhttp_server_config: {http2: false}");
    let agreed = walled
        .handshake(rustls::ALL_VERSIONS, &["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], &both)
        .await
        .expect("agreed");
    assert_eq!((agreed.0, agreed.2), (rustls::ProtocolVersion::TLSv1_2, b"http/1.1".to_vec()));
    assert!(
        walled
            .handshake(rustls::ALL_VERSIONS, &["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"], &both)
            .await
            .is_err(),
        "no common suite"
    );
    for (prefer, expected) in [
        (true, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        (false, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let suites = "[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]";
        walled.configure(&format!(
            "tls_server_config: {{PAIR, max_version: TLS12, prefer_server_cipher_suites: {prefer}, cipher_suites: {suites}}}"
        ));
        let mine = ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"];
        let agreed = walled.handshake(&[&rustls::version::TLS12], &mine, &[]).await.expect("agreed");
        assert_eq!(agreed.1.as_str(), Some(expected), "prefer_server_cipher_suites: {prefer}");
    }
    walled.configure("tls_server_config: {PAIR, min_version: TLS13}");
    assert!(walled.handshake(&[&rustls::version::TLS12], &[], &[]).await.is_err(), "too old");
    // A renewed certificate is used from the next connection on. An invalid one changes nothing, and is
    // logged once.
    let other = Authority::new("Others");
    let renewed = other.pair(&["localhost", "127.0.0.1"]);
    replace(&walled.file("server.key"), &renewed.key);
    assert_eq!(
        walled.https("/-/healthy", None).await,
        200,
        "key and certificate do not belong together: the old ones stay"
    );
    walled
        .daemon
        .logged(&["cannot read the protection of the listener again", "cannot be used together"])
        .await;
    replace(&walled.file("server.crt"), &renewed.certificate);
    assert_eq!(walled.https("/-/healthy", None).await, 0, "another authority");
    walled.authority = other;
    assert_eq!(walled.https("/-/healthy", None).await, 200);
    std::fs::write(walled.file("web.yml"), "tls_server_config: {cert").expect("half written");
    assert_eq!(walled.https("/-/healthy", None).await, 200, "half a file changes nothing");
    walled.configure("tls_server_config: {PAIR}");
    assert_eq!(walled.https("/-/healthy", None).await, 200);
}

/// HTTP/2 over TLS, as Prometheus uses it.
#[tokio::test]
async fn http2_over_tls() {
    let walled = Walled::start("tls_server_config: {PAIR}", &[]).await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(walled.authority.certificate.as_bytes()).expect("PEM"))
        .expect("an authority");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(&walled.daemon.address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = |method: &str, path: &str| {
        let url = format!("https://localhost{path}");
        let builder = hyper::Request::builder().method(method).uri(url).header("origin", "https://localhost");
        builder.body(axum::body::Body::empty()).expect("a request")
    };
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/", 200),
        ("GET", "/nothing", 404),
        ("POST", "/api/v1/integrations/northwind/probe", 202),
    ] {
        let answer = sender.send_request(request(method, path)).await.expect("an answer");
        assert_eq!(
            (answer.version(), answer.status().as_u16()),
            (hyper::Version::HTTP_2, status),
            "{method} {path}"
        );
    }
}

/// The curve that rustls does not provide, tested against OpenSSL if it is installed.
#[tokio::test]
async fn every_curve_with_openssl() {
    if !crate::tools::available("openssl") {
        return;
    }
    let version =
        tokio::process::Command::new("openssl").arg("version").output().await.expect("openssl").stdout;
    if !version.starts_with(b"OpenSSL ") {
        println!("left out: {} knows other options", String::from_utf8_lossy(&version).trim());
        return;
    }
    let walled = Walled::start("tls_server_config: {PAIR, curve_preferences: [CurveP521]}", &[]).await;
    for (curves, version, works) in [
        ("P-521", "-tls1_3", true),
        ("P-521:P-256", "-tls1_2", true),
        ("P-256:X25519", "-tls1_3", false),
        ("X25519:P-521", "-tls1_3", true),
    ] {
        let output = tokio::process::Command::new("openssl")
            .args(["s_client", "-connect", &walled.daemon.address, "-curves", curves, version, "-brief"])
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .expect("openssl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), works, "{curves} {version}: {said}");
        assert!(!works || said.contains("secp521r1") || said.contains("P-521"), "{said}");
    }
}

#[tokio::test]
async fn certificates_of_clients() {
    let walled = Walled::start("tls_server_config: {PAIR}", &[]).await;
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    let (good, named, stranger) =
        (clients.pair(&["prometheus"]), clients.pair(&["grafana", "10.0.0.7"]), others.pair(&["prometheus"]));
    let own = self_signed("me");
    replace(&walled.file("ca.pem"), &(clients.certificate.clone() + &own.certificate));
    for (policy, [nobody, by_a_stranger, by_good, by_itself]) in [
        ("NoClientCert", [200, 200, 200, 200]),
        ("RequestClientCert", [200, 200, 200, 200]),
        ("RequireAnyClientCert", [0, 200, 200, 200]),
        ("VerifyClientCertIfGiven", [200, 0, 200, 200]),
        ("RequireAndVerifyClientCert", [0, 0, 200, 200]),
    ] {
        let authorities = if policy == "NoClientCert" { "" } else { ", client_ca_file: ca.pem" };
        // Not every one of these is stronger than the one before.
        walled.open_up().await;
        walled.configure(&format!("tls_server_config: {{PAIR, client_auth_type: {policy}{authorities}}}"));
        for (who, expected) in [
            (None, nobody),
            (Some(&stranger), by_a_stranger),
            (Some(&good), by_good),
            (Some(&own), by_itself),
        ] {
            let shown = who.map(|w| &w.certificate);
            assert_eq!(walled.https("/-/healthy", who).await, expected, "{policy} {shown:?}");
        }
    }
    let policy = "tls_server_config: {PAIR, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem, client_allowed_sans: ";
    for (names, by_good, by_named) in
        [("[prometheus]", 200, 0), ("[grafana]", 0, 200), ("[one, 10.0.0.7]", 0, 200), ("[]", 0, 0)]
    {
        walled.configure(&format!("{policy}{names}}}"));
        assert_eq!(walled.https("/-/healthy", Some(&good)).await, by_good, "{names}");
        assert_eq!(walled.https("/-/healthy", Some(&named)).await, by_named, "{names}");
    }
}

#[tokio::test]
async fn users_sign_in_where_it_is_required() {
    let users = format!("basic_auth_users: {{alice: '{ALICE}'}}");
    let health = free_address();
    let flag = format!("--health.listen-address={health}");
    let mut walled = Walled::start(&users, &["--web.enable-lifecycle", &flag]).await;
    let health = format!("http://{health}");
    eventually("the daemon is ready", async || {
        let answer = reqwest::get(format!("{health}/-/ready")).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    let url = format!("http://{}", walled.daemon.address);
    let client = reqwest::Client::new();
    for (method, path, stranger, alice) in [
        ("GET", "/", 401, 200),
        ("GET", "/metrics", 401, 200),
        ("GET", "/config", 401, 200),
        ("GET", "/-/healthy", 401, 200),
        ("GET", "/-/ready", 401, 200),
        ("GET", "/favicon.svg", 401, 200),
        ("GET", "/assets/status.css", 401, 200),
        ("GET", "/integrations/northwind", 401, 200),
        ("GET", "/integrations/northwind/badge.svg", 401, 200),
        ("POST", "/integrations/northwind/probe", 401, 303),
        ("POST", "/integrations/northwind/link", 401, 200),
        ("GET", "/probe?target=northwind", 401, 200),
        ("GET", "/api/v1/integrations", 401, 200),
        ("GET", "/api/v1/openapi.json", 401, 200),
        ("POST", "/api/v1/integrations/northwind/probe", 401, 202),
        ("GET", "/no/such/page", 401, 404),
        ("GET", "/reauthentication", 401, 404),
        ("GET", "//reauth/northwind", 401, 404),
        ("GET", "/metrics/../reauth/x", 401, 404),
        ("GET", "/%72eauth/northwind", 401, 404),
        // The link authorizes the request.
        ("GET", "/reauth/northwind?token=forged", 403, 403),
        ("GET", "/reauth/callback?state=x&code=y", 400, 400),
        ("GET", "/reauth/assets/page.css", 200, 200),
    ] {
        // The paths are sent unchanged; a URL library would normalize them.
        let status =
            raw(&walled.daemon.address, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
                .await;
        assert_eq!(
            status.split(' ').nth(1),
            Some(stranger.to_string().as_str()),
            "{method} {path} by nobody: {status}"
        );
        let credentials = "Authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=\r\n";
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{credentials}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let status = raw(&walled.daemon.address, &request).await;
        assert_eq!(
            status.split(' ').nth(1),
            Some(alice.to_string().as_str()),
            "{method} {path} by alice: {status}"
        );
    }
    for (user, password, status) in
        [("alice", "open sesame", 200), ("alice", "wrong", 401), ("bob", "open sesame", 401), ("", "", 401)]
    {
        let answer = client
            .get(format!("{url}/metrics"))
            .basic_auth(user, Some(password))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status, "{user} {password}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401);
    }
    assert_eq!(
        client.get(format!("{health}/-/healthy")).send().await.expect("an answer").status(),
        200,
        "orchestrators need no user"
    );
    // A removed user is rejected from the next request on, on the same connection, too.
    walled.configure(&format!("basic_auth_users: {{bob: '{ALICE}'}}"));
    for (user, status) in [("alice", 401), ("bob", 200)] {
        let answer = client
            .get(format!("{url}/metrics"))
            .basic_auth(user, Some("open sesame"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status, "{user}");
    }
    walled.daemon.terminate().await;
    let log = walled.daemon.log().join("\n");
    assert!(!log.contains("sesame") && !log.contains("$2b$"), "{log}");
}

#[tokio::test]
async fn headers_and_rate_limit() {
    let headers =
        "http_server_config: {headers: {X-Frame-Options: sameorigin, Strict-Transport-Security: max-age=7}}";
    let walled = Walled::start(headers, &[]).await;
    let url = format!("http://{}/-/healthy", walled.daemon.address);
    let answer = reqwest::get(&url).await.expect("an answer");
    let header = |name: &str| {
        answer
            .headers()
            .get_all(name)
            .iter()
            .map(|v| v.to_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (header("x-frame-options"), header("strict-transport-security")),
        (vec!["sameorigin".to_owned()], vec!["max-age=7".to_owned()])
    );
    walled.configure("rate_limit: {interval: 1h, burst: 3}");
    assert_eq!(
        reqwest::get(&url).await.expect("an answer").headers()["strict-transport-security"],
        "max-age=7",
        "not without a reload"
    );
    walled.configure(&format!("{headers}\nrate_limit: {{interval: 1h, burst: 3}}"));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(reqwest::get(&url).await.expect("an answer").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    walled.configure(&format!("{headers}\nrate_limit: {{interval: 1h, burst: 0}}"));
    assert_eq!(
        reqwest::get(&url).await.expect("an answer").status(),
        429,
        "as in the toolkit: no burst, no request"
    );
    walled.configure("{}");
    assert_eq!(reqwest::get(&url).await.expect("an answer").status(), 200);
}
