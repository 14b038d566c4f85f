//! Clients that occupy what they can: bodies that arrive slowly, responses that are not read, all connections
//! at once, few file descriptors.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::daemon::Daemon;
use crate::world::{World, eventually_within};

/// A well-behaved client never waits longer than this, whatever others do.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A connection from one of this machine's loopback addresses; some machines have one only.
async fn from(last: u8, address: &str, receive_buffer: Option<u32>) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size).expect("a size");
    }
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).ok()?;
    let address: SocketAddr = address.parse().expect("an address");
    Some(socket.connect(address).await.expect("connected"))
}

/// The status of a path, asked for from an address.
async fn status(last: u8, address: &str, path: &str) -> u16 {
    let asked = async {
        let mut stream = from(last, address, None).await.expect("an address");
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer)
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status")
    };
    tokio::time::timeout(AT_ONCE, asked).await.unwrap_or_else(|_| panic!("{path} is not answered"))
}

/// 512 requests from three addresses with very slow bodies do not exclude other clients.
#[tokio::test]
async fn slow_bodies_exclude_no_other_client() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    let address = &daemon.address;
    if from(2, address, None).await.is_none() {
        println!("left out: this machine has one loopback address only");
        return;
    }
    let mut slow = Vec::new();
    for index in 0..512_u32 {
        let last = 1 + u8::try_from(index % 3).expect("small");
        let mut stream = from(last, address, None).await.expect("an address");
        let head = "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nt";
        // Some are rejected before they have sent everything.
        let _ = stream.write_all(head.as_bytes()).await;
        slow.push(stream);
    }
    for path in ["/-/healthy", "/metrics", "/", "/config", "/api/v1/integrations"] {
        assert_eq!(status(4, address, path).await, 200, "{path}, from elsewhere");
        assert_eq!(status(1, address, path).await, 200, "{path}, from the same address");
    }
    // A form of another client is still accepted: its only fault is its forged link.
    let mut stream = from(4, address, None).await.expect("an address");
    let form = "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoken=x";
    stream.write_all(form.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(AT_ONCE, stream.read_to_string(&mut answer))
        .await
        .expect("at once")
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("This link is not valid"), "{answer}");
}

/// A body that arrives in two parts is accepted as long as no other client needs its place.
#[tokio::test]
async fn a_body_in_two_parts_is_accepted() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    let address = &daemon.address;
    let mut stream = from(1, address, None).await.expect("an address");
    let head = "POST /reauth/northwind HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntok";
    stream.write_all(head.as_bytes()).await.expect("sent");
    assert_eq!(status(1, address, "/-/healthy").await, 200, "meanwhile");
    stream.write_all(b"en=x").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("This link is not valid"), "{answer}");
}

/// Resident memory of a process, in kilobytes.
fn resident(daemon: &Daemon) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id()?)).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// Waits until a process has no more than so many files and sockets open.
async fn settles(daemon: &Daemon, most: usize) {
    let folder = format!("/proc/{}/fd", daemon.child.id().expect("a process"));
    let open = || std::fs::read_dir(&folder).expect("a folder").count();
    let few = format!("no more than {most} files are open");
    eventually_within(AT_ONCE, &few, async || (open() <= most).then_some(())).await;
}

/// An integration that is not probed.
fn more(name: &str) -> Value {
    let (app, tenant) = ("sequr", "contoso.example");
    json!({"name": name, "display_name": "More of them", "app": app, "tenant_id": tenant, "enabled": false})
}

/// 250 clients of a large fleet read the first byte of a response and nothing more: the response is in memory
/// once.
#[tokio::test]
async fn unread_responses_use_little_memory() {
    let mut world = World::live().await;
    world.change(|configuration| {
        configuration.extend("integrations", (0..10_000).map(|index| more(&format!("more-{index}"))));
    });
    let daemon = world.daemon(&["--web.max-requests=0"]);
    daemon.ready().await;
    let address = &daemon.address;
    let Some(before) = resident(&daemon) else {
        println!("left out: this system does not say how much memory a process has");
        return;
    };
    for path in ["/config", "/", "/metrics", "/api/v1/integrations?limit=1000", "/integrations/northwind"] {
        let (mut held, mut answered) = (Vec::new(), 0);
        for _ in 0..250 {
            let mut stream = from(1, address, Some(4096)).await.expect("an address");
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                .await
                .expect("sent");
            held.push(stream);
        }
        for stream in &mut held {
            let mut first = [0_u8; 12];
            let read = tokio::time::timeout(AT_ONCE, stream.read_exact(&mut first)).await.expect("in time");
            read.expect("an answer");
            match &first {
                b"HTTP/1.1 200" => answered += 1,
                b"HTTP/1.1 503" => {}
                other => panic!("{path}: {}", String::from_utf8_lossy(other)),
            }
        }
        assert!(answered >= 30, "{path}: {answered} of 250 get a response");
        let more = resident(&daemon).expect("memory").saturating_sub(before) / 1024;
        assert!(more < 100, "{path}: 250 clients cost {more} MB");
        assert_eq!(status(1, address, "/-/healthy").await, 200, "{path}");
        if path != "/metrics" {
            assert_eq!(status(1, address, "/metrics").await, 200, "{path}");
        }
        drop(held);
        settles(&daemon, 100).await;
    }
}

/// A response that is sent in pieces arrives completely.
#[tokio::test]
async fn long_responses_arrive_completely() {
    let mut world = World::live().await;
    world.change(|configuration| {
        configuration.extend("integrations", (0..1_000).map(|index| more(&format!("more-{index:04}"))));
    });
    let daemon = world.daemon(&[]);
    let address = &daemon.address;
    let answer = reqwest::get(format!("http://{address}/config")).await.expect("an answer");
    let length: usize = answer.headers()["content-length"].to_str().expect("text").parse().expect("a number");
    let shown = answer.text().await.expect("text");
    assert_eq!(shown.len(), length);
    assert!(
        (0..1_000).all(|index| shown.contains(&format!("more-{index:04}"))),
        "every integration is there"
    );
    let head =
        reqwest::Client::new().head(format!("http://{address}/config")).send().await.expect("an answer");
    assert_eq!(head.headers()["content-length"].to_str().expect("text"), length.to_string());
}

/// With few descriptors there are fewer connections, and probes and mail go on.
#[tokio::test]
async fn connections_leave_descriptors_for_probes() {
    let world = World::live().await;
    let daemon = world.daemon_with_descriptors(160, &[]);
    daemon.ready().await;
    let address = &daemon.address;
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(address).await.expect("connected"));
    }
    world.breaks("contoso");
    world.mails(1).await;
    let metrics = tokio::time::timeout(AT_ONCE, reqwest::get(format!("http://{address}/metrics")))
        .await
        .expect("in time")
        .expect("an answer");
    let text = metrics.text().await.expect("text");
    assert!(text.contains("consentry_integration_up{integration=\"contoso\"} 0\n"), "{text}");
    assert!(
        !text.contains("consentry_check_reason{integration=\"northwind\""),
        "nothing is reported of anybody else: {text}"
    );
    let fds = text
        .lines()
        .find_map(|line| line.strip_prefix("process_open_fds "))
        .and_then(|count| count.parse::<f64>().ok());
    assert!(fds.is_none_or(|fds| fds < 150.0), "{fds:?} of 160");
}
