//! What others may do to the database and its key while the program runs, or beside it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use consentry::app;
use consentry::secret::Secret;
use consentry::store::TokenId;
use notify::{RecursiveMode, Watcher as _};

use crate::daemon::up;
use crate::world::{World, eventually, situation, text};

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

fn database(world: &World) -> PathBuf {
    world.path("consentry.db")
}

fn kept(world: &World) -> Vec<PathBuf> {
    let files = std::fs::read_dir(world.folder.path()).expect("a folder").flatten().map(|f| f.path());
    files.filter(|p| p.to_string_lossy().contains("consentry.db.replaced-")).collect()
}

/// Every token is still stored: nobody has to sign in again.
async fn assert_tokens(world: &World, what: &str) {
    for name in ["northwind", "contoso", "proseware"] {
        let probed = world.command(&["probe", name]).await;
        assert_eq!(
            probed.status.code(),
            Some(0),
            "{what}, {name}: {}{}",
            text(&probed.stdout),
            stderr(&probed)
        );
    }
}

/// A database that is deleted, moved away or replaced by another file is noticed. The daemon is not ready,
/// restores it, and is ready again, and nothing is lost.
#[tokio::test]
async fn a_database_that_is_lost_while_the_daemon_runs_is_restored() {
    type Deed = fn(&Path);
    let cases: [(&str, Deed, usize); 3] = [
        ("deleted", |file| std::fs::remove_file(file).expect("removed"), 0),
        (
            "deleted with its log",
            |file| {
                for suffix in ["", "-wal", "-shm"] {
                    std::fs::remove_file(format!("{}{suffix}", file.display())).expect("removed");
                }
            },
            0,
        ),
        (
            "replaced",
            |file| {
                let other = file.with_extension("other");
                std::fs::write(&other, "not a database").expect("written");
                std::fs::rename(&other, file).expect("moved");
            },
            1,
        ),
    ];
    let world = World::live().await;
    let mut daemon = world.daemon(&[]);
    daemon.ready().await;
    for (what, deed, strangers) in cases {
        deed(&database(&world));
        let lost = format!("the daemon is not ready: {what}");
        eventually(&lost, async || (daemon.get("/-/ready").await.0 == 503).then_some(())).await;
        assert_eq!(daemon.get("/-/healthy").await.0, 200, "{what}");
        daemon.ready().await;
        assert_eq!(kept(&world).len(), strangers, "{what}");
        assert_tokens(&world, what).await;
        // A token that is stored now is in the restored file.
        let token = world.refresh_token("northwind");
        let imported = world.command_with(&["import-token", "northwind"], &token).await;
        assert_eq!(imported.status.code(), Some(0), "{what}: {}", stderr(&imported));
    }
    assert_eq!(std::fs::read_to_string(&kept(&world)[0]).expect("readable"), "not a database");
    daemon.terminate().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    assert_tokens(&world, "after a restart").await;
    daemon.kill().await;
}

/// Another process keeps the database locked: pages and metrics respond, the waiting is counted, and
/// everything continues afterwards.
#[tokio::test]
async fn a_locked_database_delays_no_page() {
    let world = World::live().await;
    let mut daemon = world.daemon(&[]);
    daemon.metric_becomes(&up("northwind"), "1").await;
    let other = rusqlite::Connection::open(database(&world)).expect("opened");
    other.busy_timeout(Duration::from_secs(10)).expect("set");
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    daemon.counts("consentry_storage_errors_total ", 1.0).await;
    for path in ["/", "/integrations/northwind", "/metrics", "/-/healthy", "/-/ready"] {
        let asked = tokio::time::timeout(Duration::from_secs(8), daemon.get(path)).await;
        let (status, body) = asked.unwrap_or_else(|_| panic!("{path} is not answered"));
        assert_eq!(status, 200, "{path}: {body}");
    }
    other.execute_batch("ROLLBACK").expect("free again");
    drop(other);
    assert_tokens(&world, "once it is free").await;
    daemon.terminate().await;
}

/// The lock file is removed: a second daemon is still rejected.
#[tokio::test]
async fn a_removed_lock_still_excludes_a_second_daemon() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    daemon.ready().await;
    let lock = world.path("consentry.db.lock");
    std::fs::remove_file(&lock).expect("removed");
    eventually("the lock is made again", async || lock.exists().then_some(())).await;
    let second = world.command(&["run", "--web.listen-address=127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another consentry is running"), "{}", stderr(&second));
    daemon.kill().await;
}

/// A rotation is killed as soon as the new key exists, several times: the database and its key always belong
/// together.
#[tokio::test]
async fn a_rotation_that_is_killed_leaves_the_right_key() {
    let world = World::live().await;
    let (made, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| event.paths.iter().any(|path| path.ends_with("consentry.key.new"))) {
            // The receiver may be gone.
            let _ = made.send(());
        }
    })
    .expect("a watcher");
    watcher.watch(world.folder.path(), RecursiveMode::NonRecursive).expect("a folder");
    for round in 0..12 {
        // Left by the round before.
        while seen.try_recv().is_ok() {}
        let mut rotation = tokio::process::Command::new(env!("CARGO_BIN_EXE_consentry"))
            .arg("rotate-key")
            .arg(world.config_flag())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        tokio::select! {
            _ = seen.recv() => {}
            _ = rotation.wait() => {}
        }
        // A little later each time, so that every step is interrupted once.
        std::thread::sleep(Duration::from_micros(50) * round);
        let _ = rotation.start_kill();
        rotation.wait().await.expect("ended");
        let probed = world.command(&["probe", "northwind"]).await;
        assert_eq!(probed.status.code(), Some(0), "round {round}: {}", stderr(&probed));
    }
    assert_tokens(&world, "after all of them").await;
}

/// Commands and a rotation wait for each other. Either may give up with a message, and neither damages
/// anything.
#[tokio::test]
async fn commands_beside_a_rotation_break_nothing() {
    let world = World::live().await;
    for _ in 0..3 {
        let (rotated, first, second, link) = tokio::join!(
            world.command(&["rotate-key"]),
            world.command(&["probe", "northwind"]),
            world.command(&["probe", "contoso"]),
            world.command(&["reauth-link", "northwind"]),
        );
        assert_eq!(rotated.status.code(), Some(0), "{}", stderr(&rotated));
        for output in [first, second, link] {
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
        assert_tokens(&world, "afterwards").await;
    }
}

/// Without its key, a database accepts no token from a command, because the daemon could not decrypt what
/// another key encrypts.
#[tokio::test]
async fn a_command_beside_a_daemon_creates_no_key() {
    let world = World::live().await;
    let mut daemon = world.daemon(&[]);
    daemon.ready().await;
    let key = world.path("consentry.key");
    let saved = std::fs::read(&key).expect("a key");
    std::fs::remove_file(&key).expect("removed");
    let refused = world.command_with(&["import-token", "northwind"], "a-token").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("consentry.key"), "{}", stderr(&refused));
    assert!(!key.exists(), "a second key");
    std::fs::write(&key, saved).expect("written");
    daemon.terminate().await;
    let config = world.config();
    let store = app::store(&config).expect("the right key");
    let northwind = config.integrations.iter().find(|i| i.name == "northwind").expect("configured");
    let id = TokenId {
        integration: northwind.name.clone(),
        client_id: situation("northwind").app().to_string(),
        tenant: northwind.tenant.clone(),
    };
    assert_ne!(store.token(&id).await.expect("read").expect("a token").current, Secret::new("a-token"));
}
