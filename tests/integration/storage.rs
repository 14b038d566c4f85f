//! What somebody may do to the database and its key under the running program, or beside it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use consentry::app;
use consentry::config::load;
use consentry::secret::Secret;
use consentry::store::TokenId;

use crate::harness::situation;
use crate::program::Place;

/// Nothing in these tests takes as long as this; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn get(url: &str) -> (u16, String) {
    match reqwest::Client::builder()
        .timeout(Duration::from_secs(8))
        .build()
        .expect("a client")
        .get(url)
        .send()
        .await
    {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(error) => (0, error.to_string()),
    }
}

/// Asks until the answer is as it should be.
async fn until(url: &str, accept: impl Fn(u16, &str) -> bool) {
    let asked = async {
        loop {
            let (status, body) = get(url).await;
            if accept(status, &body) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| panic!("{url} never answers as it should"));
}

fn database(place: &Place) -> PathBuf {
    place.folder.path().join("consentry.db")
}

fn kept(place: &Place) -> Vec<PathBuf> {
    let files = std::fs::read_dir(place.folder.path()).expect("a folder").flatten().map(|f| f.path());
    files.filter(|p| p.to_string_lossy().contains("consentry.db.replaced-")).collect()
}

/// Every token is there: nobody has to sign in again.
async fn assert_tokens(place: &Place, what: &str) {
    for name in ["northwind", "contoso", "proseware"] {
        let probed = place.command(&["probe", name]).await;
        assert_eq!(
            probed.status.code(),
            Some(0),
            "{what}, {name}: {}{}",
            String::from_utf8_lossy(&probed.stdout),
            stderr(&probed)
        );
    }
}

/// Deleted, moved away, replaced by a file of somebody else: noticed, not ready, restored, ready, and nothing of it is lost.
#[tokio::test]
async fn a_database_that_is_lost_under_the_daemon_is_restored() {
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
    let place = Place::new().await;
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    let ready = format!("{url}/-/ready");
    until(&ready, |status, _| status == 200).await;
    for (what, deed, strangers) in cases {
        deed(&database(&place));
        until(&ready, |status, _| status == 503).await;
        assert_eq!(get(&format!("{url}/-/healthy")).await.0, 200, "{what}");
        until(&ready, |status, _| status == 200).await;
        assert_eq!(kept(&place).len(), strangers, "{what}");
        assert_tokens(&place, what).await;
        // A token that comes now is in the restored file.
        let import = place.simulator.apply(entra_sim::Action::IssueRefreshToken {
            tenant: situation("northwind").tenant(),
            app: situation("northwind").app(),
            user: None,
        });
        let token = import.expect("a token")["refresh_token"].as_str().expect("a token").to_owned();
        let imported = place.command_with(&["import-token", "northwind"], &token).await;
        assert_eq!(imported.status.code(), Some(0), "{what}: {}", stderr(&imported));
    }
    assert_eq!(std::fs::read_to_string(&kept(&place)[0]).expect("readable"), "not a database");
    daemon.terminate().await;
    let mut daemon = place.daemon(&[]);
    until(&format!("{}/-/ready", daemon.url().await), |status, _| status == 200).await;
    assert_tokens(&place, "after a restart").await;
    daemon.kill().await;
}

/// Another process keeps the database locked: pages and metrics answer, the waiting is counted, and all goes on afterwards.
#[tokio::test]
async fn a_locked_database_holds_up_no_page() {
    let place = Place::new().await;
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    until(&format!("{url}/metrics"), |_, body| {
        body.contains("consentry_integration_up{integration=\"northwind\"} 1")
    })
    .await;
    let other = rusqlite::Connection::open(database(&place)).expect("opened");
    other.busy_timeout(Duration::from_secs(10)).expect("set");
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    let errors = |body: &str| {
        body.lines().any(|l| l.strip_prefix("consentry_storage_errors_total ").is_some_and(|n| n != "0"))
    };
    until(&format!("{url}/metrics"), |_, body| errors(body)).await;
    for path in ["/", "/integrations/northwind", "/metrics", "/-/healthy", "/-/ready"] {
        let (status, body) = get(&format!("{url}{path}")).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    other.execute_batch("ROLLBACK").expect("free again");
    drop(other);
    assert_tokens(&place, "once it is free").await;
    daemon.terminate().await;
}

/// The file of the lock is removed: a second daemon is kept out all the same.
#[tokio::test]
async fn a_removed_lock_is_no_invitation() {
    let place = Place::new().await;
    let mut daemon = place.daemon(&[]);
    until(&format!("{}/-/ready", daemon.url().await), |status, _| status == 200).await;
    let lock = place.folder.path().join("consentry.db.lock");
    std::fs::remove_file(&lock).expect("removed");
    let back = async {
        while !lock.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the lock is made again");
    let second = place.command(&["run", "--web.listen-address=127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another consentry is running"), "{}", stderr(&second));
    daemon.kill().await;
}

/// Killed as soon as the new key is there, again and again: the database and its key always belong together.
#[tokio::test]
async fn a_rotation_that_is_killed_leaves_the_right_key() {
    let place = Place::new().await;
    let waiting = place.folder.path().join("consentry.key.new");
    for round in 0..12 {
        let mut rotation = tokio::process::Command::new(env!("CARGO_BIN_EXE_consentry"))
            .arg("rotate-key")
            .arg(format!("--config.file={}", place.file().display()))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        while !waiting.exists() && rotation.try_wait().expect("asked").is_none() {
            tokio::task::yield_now().await;
        }
        // A little later each time, so that every step is met.
        for _ in 0..round * 40 {
            tokio::task::yield_now().await;
        }
        let _ = rotation.start_kill();
        rotation.wait().await.expect("ended");
        let probed = place.command(&["probe", "northwind"]).await;
        assert_eq!(probed.status.code(), Some(0), "round {round}: {}", stderr(&probed));
    }
    assert_tokens(&place, "after all of them").await;
}

/// Commands beside a rotation wait for it, or it waits for them; either may give up and say so, and neither breaks anything.
#[tokio::test]
async fn commands_beside_a_rotation_break_nothing() {
    let place = Place::new().await;
    for _ in 0..3 {
        let (rotated, first, second, link) = tokio::join!(
            place.command(&["rotate-key"]),
            place.command(&["probe", "northwind"]),
            place.command(&["probe", "contoso"]),
            place.command(&["reauth-link", "northwind"]),
        );
        assert_eq!(rotated.status.code(), Some(0), "{}", stderr(&rotated));
        for output in [first, second, link] {
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
        assert_tokens(&place, "afterwards").await;
    }
}

/// Without its key, a database takes no token from a command; with another key it would be of no use to the daemon.
#[tokio::test]
async fn a_command_beside_a_daemon_makes_no_key() {
    let place = Place::new().await;
    let mut daemon = place.daemon(&[]);
    until(&format!("{}/-/ready", daemon.url().await), |status, _| status == 200).await;
    let key = place.folder.path().join("consentry.key");
    let saved = std::fs::read(&key).expect("a key");
    std::fs::remove_file(&key).expect("removed");
    let refused = place.command_with(&["import-token", "northwind"], "a-token").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("consentry.key"), "{}", stderr(&refused));
    assert!(!key.exists(), "a second key");
    std::fs::write(&key, saved).expect("written");
    daemon.terminate().await;
    let config = load(&place.file()).expect("valid").config;
    let store = app::store(&config).expect("the right key");
    let northwind = config.integrations.iter().find(|i| i.name == "northwind").expect("configured");
    let id = TokenId {
        integration: northwind.name.clone(),
        client_id: situation("northwind").app().to_string(),
        tenant: northwind.tenant.clone(),
    };
    assert_ne!(store.token(&id).await.expect("read").expect("a token").current, Secret::new("a-token"));
}
