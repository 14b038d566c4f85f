//! Malicious requests, and clients that do not release their connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{World, eventually};

/// Sends a text unchanged; returns what arrives until the connection ends.
pub async fn raw(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // A server may respond and close before everything is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malicious_requests_are_rejected() {
    let world = World::live().await;
    let mut daemon = world.daemon(&[]);
    let address = daemon.address.clone();
    let headers = |count: usize, size: usize| {
        (0..count).map(|i| format!("X-{i}: {}\r\n", "a".repeat(size))).collect::<String>()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    for (name, request, expected) in [
        ("many headers", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", headers(2_000, 10)), "431"),
        ("a huge header", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", headers(1, 1_000_000)), "431"),
        ("a long address", get(&format!("/{}", "a".repeat(70_000))), "414"),
        (
            "a huge body",
            format!(
                "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10000000\r\nConnection: close\r\n\r\n{}",
                "a".repeat(200_000)
            ),
            "403",
        ),
        ("a wrong length", "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n".to_owned(), "400"),
        ("two lengths", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na".to_owned(), "400"),
        (
            "length and chunks",
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "405",
        ),
        ("no HTTP", "\x16\x03\x01 hello\r\n\r\n".to_owned(), "400"),
        ("a NUL byte in the path", get("/integrations/%00"), "404"),
        ("invalid UTF-8 in the path", get("/integrations/%ff%fe"), "400"),
        ("parent folders in the path", get("/assets/../../../etc/passwd"), "404"),
        ("encoded parent folders in the path", get("/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), "404"),
        ("an absolute URL as the target", get("http://evil.example/-/healthy"), "200"),
        ("a wrong method", "DELETE /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "405"),
        ("an invented method", "BREW /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "405"),
        ("a tunnel", "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "403"),
        ("another version", "GET / HTTP/3.7\r\nHost: localhost\r\n\r\n".to_owned(), "400"),
        (
            "a form that is none",
            "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".to_owned(),
            "403",
        ),
    ] {
        let answer = raw(&address, &request).await;
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{name}: {answer:.200}");
    }
    assert_eq!(reqwest::get(format!("http://{address}/-/healthy")).await.expect("an answer").status(), 200);
    daemon.terminate().await;
    assert!(!daemon.has_logged(&["panic"]), "{:#?}", daemon.log());
}

/// Clients that connect and send nothing, or send slowly, are disconnected; then there is room again.
#[tokio::test]
async fn clients_that_never_finish() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    let address = &daemon.address;
    let mut idle = Vec::new();
    for index in 0..256 {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        if index % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").await.expect("sent");
        }
        idle.push(stream);
    }
    let mut end = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(40), idle[1].read_to_end(&mut end)).await;
    assert!(cut.is_ok(), "the silent clients are disconnected");
    let cut = tokio::time::timeout(Duration::from_secs(40), idle[0].read_to_end(&mut end)).await;
    assert!(cut.is_ok(), "the slow clients are disconnected");
    let answer =
        tokio::time::timeout(Duration::from_secs(40), reqwest::get(format!("http://{address}/-/healthy")))
            .await;
    assert_eq!(answer.expect("in time").expect("an answer").status(), 200);
}

/// One client that opens as many connections as it can does not exclude others.
#[tokio::test]
async fn a_client_with_too_many_connections() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    let address = &daemon.address;
    let mut many = Vec::new();
    for _ in 0..300 {
        many.push(TcpStream::connect(address).await.expect("connected"));
    }
    // The first connections are closed in favor of the last one, before their time limit.
    let mut end = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), many[0].read_to_end(&mut end)).await;
    assert!(closed.is_ok(), "too many from one address");
    if std::net::TcpListener::bind("127.0.0.2:0").is_err() {
        println!("left out: this machine has one loopback address only");
        return;
    }
    let other = reqwest::Client::builder()
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .build()
        .expect("a client");
    let answer =
        tokio::time::timeout(Duration::from_secs(5), other.get(format!("http://{address}/-/healthy")).send())
            .await;
    assert_eq!(answer.expect("at once").expect("an answer").status(), 200);
}

/// More concurrent scrapes than allowed are rejected, as in the exporters.
#[tokio::test]
async fn scrapes_at_once() {
    let world = World::live().await;
    let daemon = world.daemon(&["--web.max-requests=1"]);
    let address = &daemon.address;
    // A client sends requests again and again and reads nothing. Once all buffers are full, one response
    // stays in progress permanently.
    let mut rude = TcpStream::connect(address).await.expect("connected");
    rude.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000).as_bytes()).await.expect("sent");
    let scraped = async |status: &str| {
        eventually(&format!("a scrape is answered with {status}"), async || {
            let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            Some(raw(address, request).await).filter(|answer| answer.split(' ').nth(1) == Some(status))
        })
        .await
    };
    let refused = scraped("503").await;
    assert!(
        refused.contains("retry-after: 1") && refused.contains("Limit of concurrent requests reached (1)"),
        "{refused}"
    );
    drop(rude);
    scraped("200").await;
}
