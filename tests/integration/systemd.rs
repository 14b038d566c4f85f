//! The protocols of systemd, sockets and datagrams, without systemd itself.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::daemon::Daemon;
use crate::world::{World, replace};

/// Receives datagrams as a service manager does.
struct Manager {
    socket: tokio::net::UnixDatagram,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("nonblocking");
        Self { socket: tokio::net::UnixDatagram::from_std(socket).expect("a socket") }
    }

    /// The next message other than the watchdog's.
    async fn next(&self) -> String {
        loop {
            let text = self.any().await;
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    }

    async fn any(&self) -> String {
        let mut buffer = vec![0; 4096];
        let received = tokio::time::timeout(Duration::from_secs(60), self.socket.recv(&mut buffer)).await;
        let length = received.expect("in time").expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

#[tokio::test]
async fn ready_reloading_watchdog_and_stopping() {
    let mut world = World::live().await;
    let path = world.path("notify");
    let manager = Manager::new(&path);
    let mut daemon = world.daemon_with(&[], |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    });
    assert_eq!(manager.next().await, "READY=1\nSTATUS=watching 10 integrations\n");
    assert_eq!(manager.any().await, "WATCHDOG=1\n");
    assert_eq!(manager.any().await, "WATCHDOG=1\n", "again and again");
    replace(&world.file(), "nonsense");
    reloads(&manager, &daemon, 10).await;
    world.remove("integrations.wingtip");
    reloads(&manager, &daemon, 9).await;
    daemon.signal("-TERM");
    assert_eq!(manager.next().await, "STOPPING=1\n");
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), daemon.child.wait())
            .await
            .expect("in time")
            .expect("ended")
            .code(),
        Some(0)
    );
}

/// A reload ends with `READY=1`, whether it succeeds or not.
async fn reloads(manager: &Manager, daemon: &Daemon, integrations: usize) {
    daemon.signal("-HUP");
    let reloading = manager.next().await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.next().await, format!("READY=1\nSTATUS=watching {integrations} integrations\n"));
}

/// Two sockets that are distinguished by name; the process does not know their addresses.
#[tokio::test]
async fn sockets_that_systemd_passes_are_used() {
    let world = World::live().await;
    let (web, health) = (
        std::net::TcpListener::bind("127.0.0.1:0").expect("a socket"),
        std::os::unix::net::UnixListener::bind(world.path("health.sock")).expect("a socket"),
    );
    let address = web.local_addr().expect("an address");
    // A shell passes them as systemd does: from descriptor 3 on.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:health; exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_consentry"), "run", &world.config_flag()])
        .stdin(Stdio::from(OwnedFd::from(web)))
        .stdout(Stdio::from(OwnedFd::from(health)))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    // Requests wait in the socket until somebody serves it.
    let answer = reqwest::get(format!("http://{address}/-/healthy")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(reqwest::get(format!("http://{address}/metrics")).await.expect("an answer").status(), 200);
    let client = reqwest::Client::builder().unix_socket(world.path("health.sock")).build().expect("a client");
    for (path, status) in [("/-/healthy", 200), ("/metrics", 404)] {
        assert_eq!(
            client.get(format!("http://localhost{path}")).send().await.expect("an answer").status(),
            status,
            "{path}"
        );
    }
    child.start_kill().expect("killed");
    child.wait().await.expect("ended");
    assert!(world.path("health.sock").exists(), "the socket is systemd's");
}

/// Every line of the log is one JSON object; integrations are always called `integration`.
#[tokio::test]
async fn the_log_as_json() {
    let world = World::live().await;
    let mut daemon = world.daemon(&["--log.format=json", "--log.level=debug"]);
    daemon.probed(&["northwind", "contoso"]).await;
    daemon.terminate().await;
    let mut about = 0;
    for line in &daemon.log() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(parsed["level"].is_string() && parsed["timestamp"].is_string(), "{line}");
        if line.contains("northwind") {
            assert!(
                parsed["fields"]["integration"] == "northwind" || parsed["integration"] == "northwind",
                "{line}"
            );
            about += 1;
        }
    }
    assert!(about > 0);
}
