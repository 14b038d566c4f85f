//! The files of the database: locked, moved, replaced, overwritten.

use super::*;

/// Counts every error of the database, and every wait for it.
fn observed(store: Store) -> (Store, Arc<tokio::sync::Notify>) {
    let notified = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&notified);
    (store.observed(Arc::new(move || notify.notify_one())), notified)
}

/// Only ends a test that would hang; nothing here takes as long.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

async fn becomes(store: &Store, health: StoreHealth) {
    soon(async {
        while store.health() != health {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A backup tool, or somebody with a shell, has locked it.
#[tokio::test]
async fn reads_go_on_and_writes_wait_while_another_process_has_the_database_locked() {
    let folder = folder();
    let (store, notified) = observed(open(&folder).expect("a database"));
    let (acme, beta) = (token_id("acme"), token_id("beta"));
    store.put_token(&acme, &Secret::new("first"), "import", NOW).await.expect("stored");
    let other = raw(&folder);
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    let token = Secret::new("second");
    let write = store.put_token(&beta, &token, "import", NOW);
    let mut write = std::pin::pin!(write);
    let read = tokio::time::timeout(Duration::from_secs(3), async {
        assert_eq!(store.token(&acme).await.expect("read").expect("a token").current.expose(), "first");
        store.outbox(NOW).await.expect("read")
    });
    tokio::select! {
        biased;
        early = &mut write => panic!("a locked database was written to: {early:?}"),
        read = read => assert_eq!(read.expect("without waiting for the write").waiting, 0),
    }
    tokio::select! {
        biased;
        early = &mut write => panic!("a locked database was written to: {early:?}"),
        () = soon(notified.notified()) => {}
    }
    other.execute_batch("ROLLBACK").expect("unlocked again");
    soon(write).await.expect("written once it was unlocked");
    assert_eq!(store.token(&beta).await.expect("read").expect("a token").current.expose(), "second");
}

#[tokio::test]
async fn closing_leaves_one_file() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store.put_token(&token_id("acme"), &Secret::new("token"), "import", NOW).await.expect("stored");
    store.outbox(NOW).await.expect("read");
    store.close().await;
    assert!(!folder.path().join("c.db-wal").exists(), "the log is checkpointed");
    assert!(matches!(store.outbox(NOW).await, Err(StoreError::Closed)));
    assert!(matches!(
        store.put_token(&token_id("acme"), &Secret::new("x"), "import", NOW).await,
        Err(StoreError::Closed)
    ));
}

/// Changes to the files while the daemon runs, and whether a file that was put there is kept.
#[tokio::test]
async fn files_that_were_moved_away_or_replaced_are_restored() {
    type Change = fn(&Path);
    let cases: [(&str, Change, bool); 5] = [
        ("the database is deleted", |p| std::fs::remove_file(p).expect("removed"), false),
        (
            "all three files are deleted",
            |p| {
                ["", "-wal", "-shm"]
                    .iter()
                    .for_each(|s| std::fs::remove_file(beside(p, s)).expect("removed"));
            },
            false,
        ),
        (
            "the log is deleted",
            |p| ["-wal", "-shm"].iter().for_each(|s| std::fs::remove_file(beside(p, s)).expect("removed")),
            false,
        ),
        ("the database is moved away", |p| std::fs::rename(p, beside(p, ".old")).expect("moved"), false),
        (
            "another file is moved over it",
            |p| {
                std::fs::write(beside(p, ".strange"), "somebody's backup").expect("written");
                std::fs::rename(beside(p, ".strange"), p).expect("moved");
            },
            true,
        ),
    ];
    for (what, change, kept) in cases {
        let folder = folder();
        let database = folder.path().join("c.db");
        let (store, notified) = observed(open(&folder).expect("a database"));
        store.guard(DaemonLock::take(&database).expect("a lock"));
        store.put_token(&token_id("acme"), &Secret::new("before"), "import", NOW).await.expect("stored");
        change(&database);
        soon(notified.notified()).await;
        assert_eq!(store.health(), StoreHealth::Displaced, "{what}");
        store.put_token(&token_id("beta"), &Secret::new("after"), "import", NOW).await.expect("stored");
        becomes(&store, StoreHealth::Well).await;
        let strangers: Vec<PathBuf> = std::fs::read_dir(folder.path())
            .expect("a folder")
            .map(|f| f.expect("a file").path())
            .filter(|p| p.to_string_lossy().contains(".replaced-"))
            .collect();
        assert_eq!(strangers.len(), usize::from(kept), "{what}: {strangers:?}");
        for stranger in strangers {
            assert_eq!(std::fs::read_to_string(stranger).expect("readable"), "somebody's backup", "{what}");
        }
        store.close().await;
        let again = open(&folder).expect("the restored database");
        for (name, token) in [("acme", "before"), ("beta", "after")] {
            assert_eq!(
                again.token(&token_id(name)).await.expect("read").expect("a token").current.expose(),
                token,
                "{what}"
            );
        }
        let check: String =
            raw(&folder).query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        assert_eq!(check, "ok", "{what}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&database).expect("a file").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600, "{what}");
    }
}

/// The store keeps trying; what was written meanwhile is saved in the end.
#[tokio::test]
async fn a_folder_that_was_moved_away_is_waited_for() {
    let outer = folder();
    let inner = outer.path().join("state");
    std::fs::create_dir(&inner).expect("a folder");
    let (database, key) = (inner.join("c.db"), inner.join("c.key"));
    let (store, notified) = observed(Store::open(&database, &key).expect("a database"));
    store.guard(DaemonLock::take(&database).expect("a lock"));
    std::fs::rename(&inner, outer.path().join("away")).expect("moved");
    soon(notified.notified()).await;
    assert_eq!(store.health(), StoreHealth::Displaced);
    store.put_token(&token_id("acme"), &Secret::new("meanwhile"), "import", NOW).await.expect("stored");
    std::fs::rename(outer.path().join("away"), &inner).expect("moved back");
    becomes(&store, StoreHealth::Well).await;
    store.close().await;
    let again = Store::open(&database, &key).expect("the database");
    assert_eq!(
        again.token(&token_id("acme")).await.expect("read").expect("a token").current.expose(),
        "meanwhile"
    );
}

/// The file keeps its inode, but its content is gone: nothing is written into the new content.
#[tokio::test]
async fn a_file_that_was_overwritten_in_place_is_left_alone() {
    let folder = folder();
    let database = folder.path().join("c.db");
    let copy = folder.path().join("copy.db");
    let (store, notified) = observed(open(&folder).expect("a database"));
    store.guard(DaemonLock::take(&database).expect("a lock"));
    store.put_token(&token_id("acme"), &Secret::new("first"), "import", NOW).await.expect("stored");
    super::backup(&database, &copy).expect("a backup");
    store.put_token(&token_id("beta"), &Secret::new("second"), "import", NOW).await.expect("stored");
    let wanted = std::fs::read(&copy).expect("readable");
    std::fs::write(&database, &wanted).expect("overwritten");
    soon(notified.notified()).await;
    becomes(&store, StoreHealth::Overwritten).await;
    let rejected = store.put_token(&token_id("beta"), &Secret::new("third"), "import", NOW).await;
    assert!(matches!(rejected, Err(StoreError::Database(_))), "{rejected:?}");
    assert!(matches!(store.outbox(NOW).await, Err(StoreError::Database(_))));
    store.close().await;
    assert_eq!(std::fs::read(&database).expect("readable"), wanted, "the backup stays as it was put there");
    let again = open(&folder).expect("the backup");
    assert_eq!(
        again.token(&token_id("acme")).await.expect("read").expect("a token").current.expose(),
        "first"
    );
    assert_eq!(again.token(&token_id("beta")).await.expect("read"), None, "no old log was applied to it");
}

/// A full disk, or a command that is killed, leaves a half checkpointed log: page 1 is newer than the rest.
#[tokio::test]
async fn a_half_checkpointed_log_is_not_another_database() {
    use std::os::unix::fs::FileExt as _;
    let folder = folder();
    let database = folder.path().join("c.db");
    let store = open(&folder).expect("a database");
    store.guard(DaemonLock::take(&database).expect("a lock"));
    store.put_token(&token_id("acme"), &Secret::new("first"), "import", NOW).await.expect("stored");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&database).expect("opened");
    let mut pages = [0_u8; 4];
    file.read_exact_at(&mut pages, 28).expect("read");
    file.write_all_at(&(u32::from_be_bytes(pages) + 5).to_be_bytes(), 28).expect("written");
    // The writer checks the file before it begins.
    store.put_token(&token_id("beta"), &Secret::new("second"), "import", NOW).await.expect("still written");
    assert_eq!(store.health(), StoreHealth::Well);
    file.write_all_at(&pages, 28).expect("written");
}

#[tokio::test]
async fn only_the_first_write_waits_for_a_known_lock() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let other = raw(&folder);
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    store.put_token(&token_id("a"), &Secret::new("x"), "import", NOW).await.expect_err("locked");
    let begun = std::time::Instant::now();
    store.put_token(&token_id("b"), &Secret::new("x"), "import", NOW).await.expect_err("locked");
    assert!(begun.elapsed() < std::time::Duration::from_secs(6), "{:?}", begun.elapsed());
}
