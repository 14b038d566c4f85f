//! The addresses of the program: a socket with a path, and a prefix for all paths.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::world::{World, eventually, text};

#[tokio::test]
async fn a_socket_with_a_path() {
    let world = World::live().await;
    let path = world.path("consentry.sock");
    let flag = format!("--web.listen-address=unix:{}", path.display());
    let first = world.daemon(&[&flag]);
    eventually("the socket is there", async || UnixStream::connect(&path).await.ok()).await;
    let get = async || {
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        stream
            .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    assert!(get().await.starts_with("HTTP/1.1 200"));
    first.logged(&["listening", "unix:"]).await;
    first.kill().await;
    assert!(path.exists(), "a killed process leaves its socket behind");
    let mut second = world.daemon(&[&flag]);
    eventually("the socket is taken over", async || UnixStream::connect(&path).await.ok()).await;
    assert!(get().await.starts_with("HTTP/1.1 200"), "taken over");
    second.terminate().await;
    assert!(!path.exists(), "a process that ends removes its socket");
}

/// A mistyped path must not delete a file.
#[tokio::test]
async fn a_path_that_is_no_socket() {
    let world = World::live().await;
    let precious = world.path("precious.db");
    std::fs::write(&precious, "years of work").expect("written");
    let output = world.command(&["run", &format!("--web.listen-address=unix:{}", precious.display())]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&precious).expect("still there"), "years of work");
}

#[tokio::test]
async fn a_prefix_for_all_paths() {
    let world = World::live_at("https://c.example.com/consentry").await;
    let daemon = world.daemon(&["--web.external-url=https://c.example.com/consentry/"]);
    daemon.ready_at("/consentry/-/ready").await;
    let url = daemon.url.clone();
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    for (path, status) in [
        ("/", 302),
        ("/consentry", 302),
        ("/consentry/", 200),
        ("/consentry/metrics", 200),
        ("/consentry/-/healthy", 200),
        ("/consentry/integrations/northwind", 200),
        ("/consentry/api/v1/integrations", 200),
        ("/metrics", 404),
        ("/-/healthy", 404),
        ("/config", 404),
        ("/api/v1/integrations", 404),
        ("/consentryx/metrics", 404),
        ("/consentry/reauth/northwind?token=x", 403),
        ("/reauth/northwind?token=x", 403),
    ] {
        let answer = client.get(format!("{url}{path}")).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
        if status == 302 {
            assert_eq!(answer.headers()["location"], "/consentry/", "{path}");
        }
    }
    let document: serde_json::Value = serde_json::from_str(
        &client
            .get(format!("{url}/consentry/api/v1/openapi.json"))
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("text"),
    )
    .expect("JSON");
    assert_eq!(document["servers"][0]["url"], "https://c.example.com/consentry");
    daemon.kill().await;
    // A proxy that strips the prefix.
    let _daemon =
        world.daemon(&["--web.external-url=https://c.example.com/consentry", "--web.route-prefix=/"]);
    for (path, status) in
        [("/metrics", 200), ("/consentry/metrics", 404), ("/consentry/reauth/northwind?token=x", 403)]
    {
        assert_eq!(
            client.get(format!("{url}{path}")).send().await.expect("an answer").status(),
            status,
            "{path}"
        );
    }
    // A path that a router may interpret in another way.
    let odd = World::live_at("https://c.example.com/:a/*b").await;
    odd.daemon(&[]).ready().await;
    for wrong in [
        "--web.external-url=consentry.example.com",
        "--web.route-prefix=/a b",
        "--web.telemetry-path=/config",
        "--web.telemetry-path=m",
    ] {
        let output = world.command(&["run", wrong]).await;
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert!(text(&output.stderr).contains(wrong.split('=').next().expect("a flag")), "{wrong}");
    }
}
