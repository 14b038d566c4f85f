//! Who may do what: with and without users, from this machine and from others, under which host names, and
//! from the pages of which sites.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::certificates::Authority;
use crate::daemon::Daemon;
use crate::world::{World, eventually, replace, text};

/// alice's password is `open sesame`.
const ALICE: &str = "$2b$04$n7uUmE/3WGpLHuS4j1en6.YBWqv/r0OJD5DlwPZ2cHVvRRMGeHE.i";

/// The header that a browser sends for alice.
const AS_ALICE: &str = "Authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=";

/// A world and the program that runs in it.
struct Site {
    world: World,
    daemon: Daemon,
}

impl Site {
    async fn start(flags: &[&str]) -> Self {
        Self::of(World::live().await, flags)
    }

    fn of(world: World, flags: &[&str]) -> Self {
        let daemon = world.daemon(flags);
        Self { world, daemon }
    }

    /// Status and body of the response to a request with these header lines.
    async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> (u16, String) {
        ask(TcpStream::connect(&self.daemon.address).await.expect("connected"), method, path, headers).await
    }

    /// Sends a request as a program on this machine does.
    async fn locally(&self, method: &str, path: &str, headers: &[&str]) -> (u16, String) {
        self.ask(method, path, &[&["Host: localhost"], headers].concat()).await
    }

    /// Who made links, newest first.
    async fn makers(&self, headers: &[&str]) -> Vec<String> {
        let (status, body) = self.locally("GET", "/api/v1/integrations/northwind/events", headers).await;
        assert_eq!(status, 200, "{body}");
        let list: Value = serde_json::from_str(&body).expect("JSON");
        let items =
            list["items"].as_array().expect("a list").iter().filter(|item| item["kind"] == "link_made");
        items.map(|item| item["detail"].as_str().expect("text").to_owned()).collect()
    }
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &[&str],
) -> (u16, String) {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request =
        format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (
        head.split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head}")),
        body.to_owned(),
    )
}

const LINK: &str = "/integrations/northwind/link";

/// The requests that change something, with their status if they are allowed.
const CHANGES: [(&str, u16); 3] =
    [("/integrations/northwind/probe", 303), (LINK, 200), ("/api/v1/integrations/northwind/probe", 202)];

#[tokio::test]
async fn without_users_only_this_machine_changes_anything() {
    let site = Site::start(&[]).await;
    let elsewhere = "--web.enable-anonymous-actions";
    for (sentence, headers, words) in [
        ("a program on this machine", vec!["Host: 127.0.0.1:10143"], None),
        ("a program that uses another name of this machine", vec!["Host: demo.localhost"], None),
        ("a proxy on this machine", vec!["Host: localhost", "X-Forwarded-For: 192.0.2.1"], Some(elsewhere)),
        (
            "a proxy that sends only the protocol",
            vec!["Host: localhost", "X-Forwarded-Proto: https"],
            Some(elsewhere),
        ),
        (
            "a proxy that sends the standard header",
            vec!["Host: localhost", "Forwarded: for=192.0.2.1"],
            Some(elsewhere),
        ),
        ("a proxy that names itself", vec!["Host: localhost", "Via: 1.1 proxy"], Some(elsewhere)),
        (
            "a proxy as nginx is often set up",
            vec!["Host: localhost", "X-Real-IP: 192.0.2.1"],
            Some(elsewhere),
        ),
        (
            "a proxy that claims that the client is this machine",
            vec!["Host: localhost", "X-Forwarded-For: 127.0.0.1"],
            Some(elsewhere),
        ),
        (
            "a client that uses an address that others reach, too",
            vec!["Host: 192.0.2.1:10143"],
            Some(elsewhere),
        ),
        ("a client that names no host", vec![], Some(elsewhere)),
        (
            "a page after DNS rebinding to this machine",
            vec!["Host: evil.example:10143"],
            Some("--web.allowed-host=evil.example"),
        ),
        ("two hosts", vec!["Host: localhost", "Host: evil.example"], Some("--web.allowed-host")),
        (
            "another site's page",
            vec!["Host: localhost", "Origin: https://evil.example"],
            Some("--web.external-url"),
        ),
        (
            "another program's page on this machine",
            vec!["Host: localhost:10143", "Origin: http://localhost:3000"],
            Some("another site"),
        ),
        ("a page that hides its origin", vec!["Host: localhost", "Origin: null"], Some("another site")),
        ("a neighbour's page", vec!["Host: localhost", "Sec-Fetch-Site: same-site"], Some("another site")),
        (
            "our page",
            vec!["Host: localhost:10143", "Origin: http://localhost:10143", "Sec-Fetch-Site: same-origin"],
            None,
        ),
        (
            "our page behind a proxy that terminates TLS",
            vec!["Host: localhost", "Origin: https://localhost"],
            None,
        ),
        (
            "our page in a browser that hides the origin",
            vec!["Host: localhost", "Origin: null", "Sec-Fetch-Site: same-origin"],
            None,
        ),
    ] {
        for (path, fine) in CHANGES {
            let (status, body) = site.ask("POST", path, &headers).await;
            assert_eq!(status, if words.is_some() { 403 } else { fine }, "{sentence}: {path}: {body}");
            assert!(words.is_none_or(|words| body.contains(words)), "{sentence}: {path}: {body}");
            assert_eq!(
                path.starts_with("/api/"),
                serde_json::from_str::<Value>(&body).is_ok(),
                "{path}: {body}"
            );
        }
    }
    assert_eq!(
        site.makers(&[]).await,
        ["anonymous from 127.0.0.1"; 5],
        "every link that was made, and no other"
    );
    let (_, page) = site.locally("GET", "/integrations/northwind", &[]).await;
    assert!(page.contains("A re-authentication link was made by anonymous from 127.0.0.1"), "{page}");
}

#[tokio::test]
async fn pages_need_a_known_host_name_and_monitoring_accepts_any() {
    let site = Site::start(&[
        "--web.allowed-host=Status.example.com:8443",
        "--web.external-url=https://c.example.com",
    ])
    .await;
    let own = hostname::get().expect("a name").to_string_lossy().into_owned();
    let hosts = [
        ("127.0.0.1", true),
        ("192.0.2.1:10143", true),
        ("[2001:db8::1]:10143", true),
        ("LOCALHOST.", true),
        (own.as_str(), true),
        ("status.example.com", true),
        ("STATUS.EXAMPLE.COM.:1", true),
        ("c.example.com", true),
        ("evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("status.example.com.evil.example", false),
        ("evil.example@localhost", false),
    ];
    for (host, ours) in hosts {
        let header = format!("Host: {host}");
        for path in [
            "/",
            "/integrations/northwind",
            "/config",
            "/api/v1/integrations",
            "/assets/status.css",
            "/no/such/page",
        ] {
            let (status, body) = site.ask("GET", path, &[&header]).await;
            assert_eq!(status == 403, !ours, "{host}{path}: {status}");
            assert!(ours || body.contains("--web.allowed-host"), "{host}{path}: {body}");
            assert!(ours || !path.starts_with("/api/") || body.contains("\"status\":403"), "{body}");
        }
        for path in ["/metrics", "/probe?target=northwind", "/-/healthy", "/-/ready"] {
            assert_eq!(site.ask("GET", path, &[&header]).await.0, 200, "{host}{path}");
        }
        // The link authorizes the request, whatever host name a proxy passes on.
        assert_eq!(site.ask("GET", "/reauth/assets/page.css", &[&header]).await.0, 200, "{host}");
    }
    assert_eq!(site.ask("GET", "/", &[]).await.0, 200, "no browser leaves out the host");
    // If the external URL names another machine, a local client may be a proxy for anybody.
    let (status, body) = site.locally("POST", LINK, &[]).await;
    assert!(status == 403 && body.contains("--web.enable-anonymous-actions"), "{status}: {body}");
    let wrong = site.world.command(&["run", "--web.allowed-host=https://status.example.com"]).await;
    let said = text(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && said.contains("--web.allowed-host"), "{said}");
}

#[tokio::test]
async fn anonymous_actions_are_allowed_if_they_are_enabled() {
    let flags = [
        "--web.enable-anonymous-actions",
        "--web.external-url=https://status.example.com",
        "--web.enable-lifecycle",
    ];
    let site = Site::start(&flags).await;
    let proxied =
        ["Host: 127.0.0.1:10143", "X-Forwarded-For: 198.51.100.7", "Origin: https://status.example.com"];
    for (path, fine) in CHANGES {
        let (status, body) = site.ask("POST", path, &proxied).await;
        assert_eq!(status, fine, "{path}: {body}");
        assert_eq!(
            site.locally("POST", path, &["Origin: https://evil.example"]).await.0,
            403,
            "{path}, by another site's page"
        );
        assert_eq!(
            site.ask("POST", path, &["Host: evil.example"]).await.0,
            403,
            "{path}, under a name that is not ours"
        );
    }
    assert_eq!(
        site.makers(&[]).await,
        ["anonymous through 127.0.0.1"],
        "a proxy that is not trusted to report the client"
    );
    // The pages of the public URL are our own pages, too.
    assert_eq!(site.locally("POST", LINK, &["Origin: https://c.example.com"]).await.0, 200);
    assert_eq!(site.locally("POST", "/-/reload", &["Origin: https://evil.example"]).await.0, 403);
    assert_eq!(site.ask("POST", "/-/reload", &["Host: evil.example"]).await.0, 403);
    assert_eq!(site.ask("PUT", "/-/reload", &proxied).await.0, 200);
}

#[tokio::test]
async fn a_trusted_proxy_reports_the_client() {
    let flags = [
        "--web.enable-anonymous-actions",
        "--web.trusted-proxy=127.0.0.0/8",
        "--web.trusted-proxy=192.0.2.1",
    ];
    let site = Site::start(&flags).await;
    for forwarded in [
        "X-Forwarded-For: 198.51.100.7",
        "X-Forwarded-For: 10.0.0.1, 198.51.100.8, 192.0.2.1",
        "X-Forwarded-For: nonsense",
    ] {
        assert_eq!(site.locally("POST", LINK, &[forwarded]).await.0, 200, "{forwarded}");
    }
    let expected =
        ["anonymous through 127.0.0.1", "anonymous from 198.51.100.8", "anonymous from 198.51.100.7"];
    assert_eq!(site.makers(&[]).await, expected);
    let wrong = site.world.command(&["run", "--web.trusted-proxy=everybody"]).await;
    assert_eq!(wrong.status.code(), Some(2));
}

/// A client that a trusted proxy reports is not a local client.
#[tokio::test]
async fn a_trusted_proxy_is_not_this_machine() {
    let site = Site::start(&["--web.trusted-proxy=127.0.0.1"]).await;
    for forwarded in ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 127.0.0.1"] {
        assert_eq!(site.locally("POST", LINK, &[forwarded]).await.0, 403, "{forwarded}");
    }
    assert_eq!(site.makers(&[]).await, Vec::<String>::new());
}

#[tokio::test]
async fn users_must_sign_in_for_everything() {
    let users = format!("basic_auth_users: {{alice: '{ALICE}'}}");
    let world = World::live().await;
    let users = world.web_config(&users);
    let site = Site::of(world, &[&users, "--web.enable-anonymous-actions", "--web.enable-lifecycle"]);
    for (path, fine) in CHANGES {
        assert_eq!(site.locally("POST", path, &[]).await.0, 401, "{path} by nobody");
        assert_eq!(site.locally("POST", path, &[AS_ALICE]).await.0, fine, "{path} by alice");
        assert_eq!(
            site.locally("POST", path, &[AS_ALICE, "X-Forwarded-For: 192.0.2.1"]).await.0,
            fine,
            "{path} by alice behind a proxy"
        );
        assert_eq!(
            site.locally("POST", path, &[AS_ALICE, "Origin: https://evil.example"]).await.0,
            403,
            "{path} by alice, led there"
        );
        assert_eq!(
            site.ask("POST", path, &["Host: evil.example", AS_ALICE]).await.0,
            403,
            "{path} by alice, by a name that is not ours"
        );
    }
    assert_eq!(site.makers(&[AS_ALICE]).await, ["alice", "alice"]);
    assert_eq!(site.locally("POST", "/-/reload", &[]).await.0, 401);
    assert_eq!(site.locally("POST", "/-/reload", &[AS_ALICE]).await.0, 200);
}

#[tokio::test]
async fn a_certificate_counts_as_a_user() {
    let (world, authority) = (World::live().await, Authority::new("Clients"));
    let (server, client) = (authority.pair(&["localhost", "127.0.0.1"]), authority.pair(&["prometheus"]));
    let write = |name: &str, text: &str| std::fs::write(world.path(name), text).expect("written");
    write("server.crt", &server.certificate);
    write("server.key", &server.key);
    write("ca.pem", &authority.certificate);
    let tls = "cert_file: server.crt, key_file: server.key, client_auth_type: VerifyClientCertIfGiven, client_ca_file: ca.pem";
    let flag = world.web_config(&format!("tls_server_config: {{{tls}}}\n"));
    let site = Site::of(world, &[&flag]);
    let root = reqwest::Certificate::from_pem(authority.certificate.as_bytes()).expect("a certificate");
    let identity = reqwest::Identity::from_pem((client.certificate.clone() + &client.key).as_bytes())
        .expect("an identity");
    let builder = || {
        let none = reqwest::redirect::Policy::none();
        reqwest::Client::builder().tls_certs_only([root.clone()]).redirect(none).pool_max_idle_per_host(0)
    };
    let (known, unknown) =
        (builder().identity(identity).build().expect("a client"), builder().build().expect("a client"));
    let post = async |client: &reqwest::Client, path: &str| {
        let request = client
            .post(format!("https://{}{path}", site.daemon.address))
            .header("x-forwarded-for", "192.0.2.1");
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        // Read completely, so that the connection can be used again.
        answer.bytes().await.expect("a body");
        status
    };
    for (path, fine) in CHANGES {
        assert_eq!((post(&known, path).await, post(&unknown, path).await), (fine, 403), "{path}");
    }
    let events = format!("https://{}/api/v1/integrations/northwind/events", site.daemon.address);
    let events = unknown.get(events).send().await.expect("an answer").text().await.expect("text");
    assert!(events.contains("\"detail\":\"certificate "), "{events}");
    // Certificates of a removed authority are rejected, on an open connection, too.
    let open = builder().pool_max_idle_per_host(1);
    let identity =
        reqwest::Identity::from_pem((client.certificate + &client.key).as_bytes()).expect("an identity");
    let open = open.identity(identity).build().expect("a client");
    assert_eq!(post(&open, LINK).await, 200);
    replace(&site.world.path("ca.pem"), &Authority::new("Others").certificate);
    assert_eq!(post(&open, LINK).await, 403);
}

/// The permissions of a socket's file decide who may connect.
#[tokio::test]
async fn a_socket_with_a_path_is_this_machine() {
    let world = World::live().await;
    let path = world.path("consentry.sock");
    let flag = format!("--web.listen-address=unix:{}", path.display());
    let _daemon = world.daemon(&[&flag]);
    eventually("the socket is there", async || UnixStream::connect(&path).await.ok()).await;
    for (headers, status) in [
        (vec!["Host: localhost"], 200),
        (vec!["Host: localhost", "X-Forwarded-For: 192.0.2.1"], 403),
        (vec!["Host: evil.example"], 403),
    ] {
        let stream = UnixStream::connect(&path).await.expect("connected");
        assert_eq!(ask(stream, "POST", LINK, &headers).await.0, status, "{headers:?}");
    }
}
