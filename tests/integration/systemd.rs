//! What systemd hands over and wants to hear. There is no systemd here, only its protocols: sockets and datagrams.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::program::Place;

/// Listens where a service manager would.
struct Manager {
    socket: tokio::net::UnixDatagram,
}

impl Manager {
    fn new(place: &Place) -> (Self, String) {
        let path = place.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("nonblocking");
        (
            Self { socket: tokio::net::UnixDatagram::from_std(socket).expect("a socket") },
            path.display().to_string(),
        )
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
    let place = Place::new().await;
    let (manager, path) = Manager::new(&place);
    let mut child = Command::new(env!("CARGO_BIN_EXE_consentry"))
        .args([
            "run",
            "--web.listen-address=127.0.0.1:0",
            &format!("--config.file={}", place.file().display()),
        ])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    assert_eq!(manager.next().await, "READY=1\nSTATUS=watching 10 integrations\n");
    assert_eq!(manager.any().await, "WATCHDOG=1\n");
    assert_eq!(manager.any().await, "WATCHDOG=1\n", "again and again");
    let signal = |name: &str| {
        let pid = child.id().expect("a process").to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().expect("kill").success());
    };
    for (text, integrations) in [(Some("nonsense"), 10), (None, 9)] {
        let whole = std::fs::read_to_string(place.file()).expect("readable");
        let fewer: String =
            whole.lines().filter(|l| !l.contains("name: wingtip,")).map(|l| format!("{l}\n")).collect();
        std::fs::write(place.file(), text.map_or(fewer, str::to_owned)).expect("written");
        signal("-HUP");
        let reloading = manager.next().await;
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(
            manager.next().await,
            format!("READY=1\nSTATUS=watching {integrations} integrations\n"),
            "ready, whether it went well or not"
        );
        if text.is_some() {
            std::fs::write(place.file(), whole).expect("written");
        }
    }
    signal("-TERM");
    assert_eq!(manager.next().await, "STOPPING=1\n");
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), child.wait())
            .await
            .expect("in time")
            .expect("ended")
            .code(),
        Some(0)
    );
}

/// Two sockets, told apart by name, of which the process never learns the addresses.
#[tokio::test]
async fn sockets_that_are_handed_over() {
    let place = Place::new().await;
    let (web, health) = (
        std::net::TcpListener::bind("127.0.0.1:0").expect("a socket"),
        std::os::unix::net::UnixListener::bind(place.folder.path().join("health.sock")).expect("a socket"),
    );
    let address = web.local_addr().expect("an address");
    // A shell puts them where systemd would: from descriptor 3 on.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:health; exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut child = Command::new("sh")
        .args([
            "-c",
            script,
            env!("CARGO_BIN_EXE_consentry"),
            "run",
            &format!("--config.file={}", place.file().display()),
        ])
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
    let client = reqwest::Client::builder()
        .unix_socket(place.folder.path().join("health.sock"))
        .build()
        .expect("a client");
    for (path, status) in [("/-/healthy", 200), ("/metrics", 404)] {
        assert_eq!(
            client.get(format!("http://localhost{path}")).send().await.expect("an answer").status(),
            status,
            "{path}"
        );
    }
    child.start_kill().expect("killed");
    child.wait().await.expect("ended");
    assert!(place.folder.path().join("health.sock").exists(), "the socket is systemd's");
}

/// Every line of the log is one JSON object; integrations are always called `integration`.
#[tokio::test]
async fn the_log_as_json() {
    let place = Place::new().await;
    let mut daemon = place.daemon(&["--log.format=json", "--log.level=debug"]);
    for name in ["northwind", "contoso"] {
        daemon.until(&["probed", &format!("\"{name}\"")]).await;
    }
    daemon.terminate().await;
    let mut about = 0;
    for line in &daemon.seen {
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
