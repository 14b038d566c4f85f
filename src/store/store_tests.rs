//! The store on real files.

use std::collections::{BTreeSet, HashSet};

use tempfile::TempDir;

use super::*;
use crate::domain::{
    Access, AlertProgress, BrakeChange, Cause, CauseChange, Incident, IntegrationState, LinkTarget, MailKind,
    Notification, Notify, OpenAlert, Progress, Reason, Timestamp, Verdict,
};
use crate::secret::Secret;

#[path = "file_tests.rs"]
mod file_tests;
#[path = "history_tests.rs"]
mod history_tests;
#[path = "notices_tests.rs"]
mod notices_tests;
#[path = "outbox_tests.rs"]
mod outbox_tests;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn open(folder: &TempDir) -> Result<Store, StoreError> {
    Store::open(&folder.path().join("c.db"), &folder.path().join("c.key"))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn token_id(integration: &str) -> TokenId {
    TokenId {
        integration: integration.to_owned(),
        client_id: "client".to_owned(),
        tenant: "tenant".to_owned(),
    }
}

fn incident() -> Incident {
    Incident {
        integration: "acme".to_owned(),
        display_name: "Acme".to_owned(),
        app: "Sequr".to_owned(),
        app_name: "sequr".to_owned(),
        client_id: "client".to_owned(),
        tenant: "tenant".to_owned(),
        access: Access::Delegated,
        reason: Reason::TokenRevoked,
        items: vec!["Group.Read.All".to_owned()],
        code: Some("AADSTS50173".to_owned()),
        request_id: None,
        restorable_until: Some(NOW),
        permissions: vec!["User.Read".to_owned()],
        since: NOW,
        at: NOW,
        link: LinkTarget::Builtin,
        undeliverable: None,
        brake: None,
        by: None,
        origin: None,
        affected: None,
        reminds: false,
        instead_of: Vec::new(),
        renewed: None,
    }
}

fn notification(sequence: u32, recipient: &str) -> Notification {
    Notification {
        alert: "a1".to_owned(),
        sequence,
        kind: MailKind::Alert,
        recipient: recipient.to_owned(),
        for_admin: true,
        incident: incident(),
    }
}

fn open_alert(id: &str, since: Timestamp) -> OpenAlert {
    OpenAlert {
        id: id.to_owned(),
        reason: Reason::TokenRevoked,
        exact: false,
        since,
        notices: 1,
        notified: BTreeSet::new(),
        progress: AlertProgress { notify: Notify::Admins, noticed: since, reminders: 0 },
    }
}

fn record(notifications: Vec<Notification>, causes: Vec<CauseChange>) -> ProbeRecord {
    let state = IntegrationState {
        verdict: Verdict::Broken { reason: Reason::TokenRevoked, since: NOW },
        failures: 2,
        ..IntegrationState::default()
    };
    let alert = open_alert("a1", NOW);
    let integration = SavedIntegration {
        name: "acme".to_owned(),
        identity: "t/c".to_owned(),
        state,
        tenant_guid: None,
        alert: Some(alert),
    };
    let events = vec![Event { kind: "broken".to_owned(), at: NOW, detail: "token_revoked".to_owned() }];
    ProbeRecord {
        integration,
        events,
        causes,
        notifications,
        outdated: None,
        brake: None,
        group_wait: std::time::Duration::ZERO,
        at: NOW,
    }
}

#[tokio::test]
async fn what_a_probe_changes_survives() {
    let folder = folder();
    let cause = Cause {
        key: "app:x".to_owned(),
        alert: "a2".to_owned(),
        reason: Reason::ClientCredentialExpired,
        incident: incident(),
        since: NOW,
        members: HashSet::from(["acme".to_owned()]),
        progress: Progress::opened(NOW),
        notified: BTreeSet::new(),
    };
    let grown = Progress { notices: 2, size: 2, named_left: None, notified: Timestamp(NOW.0 - 5) };
    let written = record(
        vec![notification(0, "ada@example.com")],
        vec![
            CauseChange::Open(Box::new(cause.clone())),
            CauseChange::Join(Box::new(Cause { progress: grown.clone(), ..cause.clone() })),
        ],
    );
    open(&folder).expect("a new database").save_probe(written.clone()).await.expect("saved");
    let store = open(&folder).expect("the same database");
    let mut integration = written.integration.clone();
    integration.alert.as_mut().expect("open").notified.insert("ada@example.com".to_owned());
    assert_eq!(
        store.load(NOW).await.expect("loaded"),
        (vec![integration], vec![Cause { progress: grown, ..cause }])
    );
    assert_eq!(store.events("acme").await.expect("events"), written.events);
    let due = store.due_notifications(NOW, 10).await.expect("due");
    assert_eq!(due.iter().map(|q| &q.notification).collect::<Vec<_>>(), [&written.notifications[0]]);
    store
        .save_probe(record(
            vec![],
            vec![
                CauseChange::Leave("app:x".to_owned(), Some(NOW)),
                CauseChange::Close("app:x".to_owned(), "another".to_owned()),
            ],
        ))
        .await
        .expect("saved");
    assert_eq!(store.load(NOW).await.expect("loaded").1.len(), 1, "it was opened again since");
    store
        .save_probe(record(vec![], vec![CauseChange::Close("app:x".to_owned(), "a2".to_owned())]))
        .await
        .expect("saved");
    assert_eq!(store.load(NOW).await.expect("loaded").1, vec![]);
}

#[tokio::test]
async fn tokens_are_encrypted_rotated_and_bound() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let (id, first, second) = (token_id("acme"), Secret::new("first-token"), Secret::new("second-token"));
    assert_eq!(store.token(&id).await.expect("read"), None);
    store.put_token(&id, &first, "import", NOW).await.expect("stored");
    let stored = store.token(&id).await.expect("read").expect("a token");
    assert_eq!((stored.current.expose(), &stored.previous), ("first-token", &None));
    assert_eq!(
        store.save_rotated(&id, stored.generation, &second, &first, NOW).await.expect("saved"),
        Some(stored.generation + 1)
    );
    assert_eq!(
        store.save_rotated(&id, stored.generation, &first, &first, NOW).await.expect("saved"),
        None,
        "the stored token has changed"
    );
    let stored = store.token(&id).await.expect("read").expect("a token");
    assert_eq!(
        (stored.current.expose(), stored.previous.as_ref().map(Secret::expose)),
        ("second-token", Some("first-token"))
    );
    assert_eq!(store.token(&TokenId { tenant: "other".to_owned(), ..id.clone() }).await.expect("read"), None);
    drop(store);
    let raw = |name| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let bytes = [raw("c.db"), raw("c.db-wal")].concat();
    assert!(
        !bytes
            .windows(5)
            .any(|w| w == b"token-" || w == b"first" && bytes.windows(11).any(|w| w == b"first-token")),
        "not in plain text"
    );
    let copied = rusqlite::Connection::open(folder.path().join("c.db")).expect("opened");
    copied
        .execute("INSERT INTO tokens SELECT 'other', client_id, tenant, current, previous, generation, source, updated_at, consented_by FROM tokens", [])
        .expect("copied");
    drop(copied);
    let stolen = open(&folder).expect("a database").token(&token_id("other")).await;
    assert!(matches!(stolen, Err(StoreError::Damaged(_))), "{stolen:?}");
}

/// A damaged row affects one integration; an error of the database affects all.
#[tokio::test]
async fn errors_of_the_database_are_observed() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let folder = folder();
    let observed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&observed);
    let observer: Observer = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let store = open(&folder).expect("a database").observed(observer);
    let acme = token_id("acme");
    store
        .put_token(&acme, &Secret::new("token"), "import", Timestamp::from_seconds(1))
        .await
        .expect("stored");
    let raw = rusqlite::Connection::open(folder.path().join("c.db")).expect("opened");
    raw.execute("UPDATE tokens SET current = x'00'", []).expect("damaged");
    assert!(matches!(store.token(&acme).await, Err(StoreError::Damaged(_))));
    assert_eq!(observed.load(Ordering::Relaxed), 0);
    raw.execute("ALTER TABLE tokens RENAME TO elsewhere", []).expect("gone");
    assert!(matches!(store.token(&acme).await, Err(StoreError::Database(_))));
    assert_eq!(observed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_wrong_or_lost_key_is_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let key = folder.path().join("c.key");
    let store = open(&folder).expect("a database");
    let database = ["c.db", "c.db-wal"].map(|name| folder.path().join(name));
    for file in [&key, &database[0], &database[1]] {
        assert_eq!(
            std::fs::metadata(file).expect("a file").permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
    drop(store);
    std::fs::remove_file(&key).expect("removed");
    let store = open(&folder).expect("without tokens a new key is accepted");
    store.put_token(&token_id("acme"), &Secret::new("x"), "import", NOW).await.expect("stored");
    drop(store);
    let original = std::fs::read(&key).expect("a key");
    std::fs::remove_file(&key).expect("removed");
    let text = open(&folder).expect_err("the key is gone").to_string();
    assert!(text.contains("c.key") && text.contains("restore"), "{text}");
    assert!(!key.exists(), "no new key hides the loss");
    for (wrong, hint) in
        [("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not the key"), ("nonsense", "32 bytes")]
    {
        std::fs::write(&key, wrong).expect("written");
        let text = open(&folder).expect_err("a wrong key").to_string();
        assert!(text.contains(hint), "{text}");
    }
    std::fs::write(&key, original).expect("written");
    assert!(open(&folder).is_ok());
}

#[test]
fn a_second_daemon_and_a_newer_schema_are_rejected() {
    let folder = folder();
    let database = folder.path().join("c.db");
    let lock = DaemonLock::take(&database).expect("the first");
    let text = DaemonLock::take(&database).expect_err("the second").to_string();
    assert!(text.contains("another consentry"), "{text}");
    drop(lock);
    DaemonLock::take(&database).expect("after the first is gone");
    drop(open(&folder).expect("a database"));
    rusqlite::Connection::open(&database)
        .and_then(|c| c.pragma_update(None, "user_version", 99))
        .expect("changed");
    let text = open(&folder).expect_err("newer").to_string();
    assert!(text.contains("newer"), "{text}");
}

#[tokio::test]
async fn a_failing_write_leaves_the_others_alone() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let good = store.save_probe(record(vec![notification(0, "ada@x.org")], vec![]));
    let bad = store.write(|c| -> Result<(), StoreError> {
        c.execute("INSERT INTO events (integration, at, kind, detail) VALUES ('half', 0, '', '')", [])?;
        Err(StoreError::Database("refused".to_owned()))
    });
    let (good, bad) = tokio::join!(good, bad);
    assert!(good.is_ok() && bad.is_err());
    assert_eq!(store.events("half").await.expect("events"), vec![]);
    assert_eq!(store.outbox(NOW).await.expect("outbox").waiting, 1);
}

fn sign_in(id: &str, generation: i64) -> NewAuthorization {
    NewAuthorization {
        id: id.to_owned(),
        integration: "acme".to_owned(),
        cookie: "cookie-hash".to_owned(),
        secret: Secret::new("the-verifier"),
        link: "link-hash".to_owned(),
        stamp: LinkStamp { generation: Some(generation), issued: Timestamp::from_seconds(900) },
        source: "192.0.2.1".to_owned(),
        created: Timestamp::from_seconds(1_000),
        expires: Timestamp::from_seconds(1_600),
    }
}

#[tokio::test]
async fn a_sign_in_is_used_once_and_a_success_ends_the_links_before_it() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let now = Timestamp::from_seconds(1_100);
    for id in ["one", "two"] {
        assert_eq!(store.save_authorization(sign_in(id, 0)).await.expect("saved"), None);
    }
    let claim = async |id: &str| {
        store.claim_authorization(id, "192.0.2.1", now).await.expect("read").map(|s| s.expose().to_owned())
    };
    assert_eq!(claim("one").await, Some("the-verifier".to_owned()));
    assert_eq!(claim("one").await, None, "once");
    assert_eq!(claim("three").await, None, "an unknown one");
    let success = |authorization: &str, generation| Success {
        authorization: authorization.to_owned(),
        integration: "acme".to_owned(),
        // The time of a clock that is ahead: no time is compared.
        stamp: LinkStamp { generation: Some(generation), issued: Timestamp::from_seconds(9_000_000) },
        by: Some("ada@contoso.com".to_owned()),
        origin: "192.0.2.1".to_owned(),
        mails: Vec::new(),
        token: Some(RenewedToken { id: token_id("acme"), token: Secret::new("renewed-token") }),
        delivery: Some(NewDelivery { message: "msg_1".to_owned(), body: Secret::new("a renewed-token") }),
        at: now,
    };
    assert!(store.save_success(success("one", 0)).await.expect("saved"));
    assert_eq!(
        store.token(&token_id("acme")).await.expect("read").expect("a token").current.expose(),
        "renewed-token"
    );
    assert_eq!(
        store.consented_by(&token_id("acme")).await.expect("read").as_deref(),
        Some("ada@contoso.com")
    );
    assert_eq!(store.links("acme").await.expect("read"), LinksState { generation: 1, not_after: None });
    assert_eq!(store.links("other").await.expect("read"), LinksState::default());
    let last = store.last_reauthentication("acme").await.expect("read").expect("one");
    assert_eq!(
        (last.at, last.by.as_deref(), last.origin.as_str()),
        (now, Some("ada@contoso.com"), "192.0.2.1")
    );
    assert!(!store.save_success(success("two", 0)).await.expect("answered"), "its link is invalid by now");
    assert!(store.save_success(success("two", 1)).await.expect("answered"), "a later link is not touched");
    store.revoke_links("acme", "command", now).await.expect("revoked");
    assert!(!store.save_success(success("two", 2)).await.expect("answered"), "revoked");
    let unverified =
        async || store.unverified(now.minus(std::time::Duration::from_secs(150)), now).await.expect("read");
    assert_eq!(
        unverified().await,
        [Unverified { integration: "acme".to_owned(), began: now, renewed: true }]
    );
    store.proved("acme", now, now).await.expect("noted");
    assert_eq!(unverified().await, Vec::new());
    let kinds: Vec<String> =
        store.events("acme").await.expect("events").into_iter().map(|e| e.kind).collect();
    assert_eq!(
        kinds,
        ["links_revoked", "reauthenticated", "token_stored", "reauthenticated", "token_stored"]
    );

    let due = store.due_deliveries(now).await.expect("read");
    assert_eq!((due.len(), due[0].body.as_ref().map(Secret::expose)), (1, Some("a renewed-token")));
    assert_eq!(store.waiting_deliveries().await.expect("read"), [("acme".to_owned(), now)]);
    let later = Timestamp::from_seconds(2_000);
    store.delivery_failed("acme", "msg_1", "it answered 500".to_owned(), later).await.expect("saved");
    assert!(store.due_deliveries(now).await.expect("read").is_empty());
    assert_eq!(store.waiting_deliveries().await.expect("read"), [("acme".to_owned(), later)]);
    let ten_years = now.plus(std::time::Duration::from_secs(315_360_000));
    store.delivery_failed("acme", "msg_1", "it answered 500".to_owned(), ten_years).await.expect("saved");
    assert_eq!(
        store.due_deliveries(now).await.expect("read").len(),
        1,
        "saved while the clock was ahead: due now"
    );
    store.delivered("acme", "msg_1", later).await.expect("saved");
    assert!(store.waiting_deliveries().await.expect("read").is_empty());
    let state = store.delivery("acme").await.expect("read").expect("a delivery");
    assert_eq!((state.attempts, state.delivered, state.failure), (3, Some(later), None));
    drop(store);
    let raw = |name| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let bytes = [raw("c.db"), raw("c.db-wal")].concat();
    for secret in [&b"renewed-token"[..], b"the-verifier"] {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "not in plain text");
    }
}

/// A quota for each link and each network; no sign-in is removed in favour of another.
#[tokio::test]
async fn sign_ins_are_limited_and_never_removed_for_others() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let begin = async |id: String, link: &str, source: &str, created: i64| {
        let new = NewAuthorization {
            link: link.to_owned(),
            source: source.to_owned(),
            created: Timestamp::from_seconds(created),
            expires: Timestamp::from_seconds(created + 600),
            ..sign_in(&id, 0)
        };
        store.save_authorization(new).await.expect("answered")
    };
    assert_eq!(begin("admin".to_owned(), "admin's", "192.0.2.1", 1_000).await, None);
    let mut begun = 0;
    for i in 0..30 {
        match begin(format!("s{i}"), "other", "192.0.2.9", 1_001).await {
            None => begun += 1,
            full => assert_eq!(full, Some(Quota::Link)),
        }
    }
    assert_eq!(begun, 10, "no more at once by one link");
    assert!(store.authorization("admin").await.expect("read").is_some(), "none is removed");
    assert_eq!(
        begin("again".to_owned(), "admin's", "192.0.2.9", 1_002).await,
        None,
        "another link of the integration still works"
    );
    let mut full = None;
    for i in 0..100 {
        full = full.or(begin(format!("n{i}"), &format!("link{i}"), "192.0.2.9", 1_003).await);
    }
    assert_eq!(full, Some(Quota::Source));
    assert_eq!(
        begin("elsewhere".to_owned(), "fresh", "192.0.2.2", 1_003).await,
        None,
        "the first sign-in of a link is never rejected"
    );
    assert_eq!(begin("elsewhere2".to_owned(), "fresh", "192.0.2.2", 1_003).await, Some(Quota::Integration));
    assert_eq!(
        begin("later".to_owned(), "other", "192.0.2.9", 1_700).await,
        None,
        "those that were not completed end by themselves"
    );
    assert_eq!(
        begin("back".to_owned(), "other", "192.0.2.9", 100_000).await,
        None,
        "as they do when the clock jumps"
    );
    assert!(store.authorization("s0").await.expect("read").is_none(), "the old ones are forgotten");
}

fn raw(folder: &TempDir) -> Connection {
    Connection::open(folder.path().join("c.db")).expect("opened")
}

/// A command creates a key only if there never was one and no daemon runs.
#[tokio::test]
async fn a_command_creates_no_second_key() {
    let folder = folder();
    let (database, key) = (folder.path().join("c.db"), folder.path().join("c.key"));
    let command = || Store::open_for_command(&database, &key);
    let lock = DaemonLock::take(&database).expect("a daemon");
    let text = command().expect_err("nothing is there yet").to_string();
    assert!(text.contains("c.db"), "{text}");
    assert!(!key.exists() && !database.exists());
    drop(lock);
    drop(command().expect("no daemon: the first key"));
    assert!(command().is_ok());
    std::fs::remove_file(&key).expect("removed");
    for daemon in [None, Some(())] {
        let _lock = daemon.map(|()| DaemonLock::take(&database).expect("a daemon"));
        let text = command().expect_err("the key is gone").to_string();
        assert!(text.contains("c.key") && text.contains("restore"), "{text}");
        assert!(!key.exists(), "a second key");
    }
}

#[test]
fn processes_that_start_together_create_one_key() {
    for empty in [false, true] {
        let folder = folder();
        if empty {
            // Left by a process that was killed before it wrote anything.
            std::fs::write(folder.path().join("c.key"), "").expect("written");
        }
        let prints: Vec<String> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| key::fingerprint(open(&folder).expect("a database").key())))
                .collect();
            started.into_iter().map(|s| s.join().expect("opened")).collect()
        });
        assert!(prints.iter().all(|p| *p == prints[0]), "{prints:?}");
        let left = std::fs::read_dir(folder.path()).expect("a folder").flatten();
        assert!(
            !left.into_iter().any(|f| f.file_name().to_string_lossy().contains("draft")),
            "a draft was left behind"
        );
    }
}

/// A command beside a daemon of an older version must not change its tables.
#[test]
fn a_command_does_not_migrate_under_a_daemon() {
    let folder = folder();
    let (database, key) = (folder.path().join("c.db"), folder.path().join("c.key"));
    drop(open(&folder).expect("a database"));
    raw(&folder).pragma_update(None, "user_version", 3).expect("changed");
    let _daemon = DaemonLock::take(&database).expect("a daemon");
    let text = Store::open_for_command(&database, &key).expect_err("older").to_string();
    assert!(text.contains("restart that daemon"), "{text}");
}

/// A row that was overwritten or deleted is not left in the file.
#[tokio::test]
async fn old_ciphertext_does_not_survive() {
    let folder = folder();
    let (store, id) = (open(&folder).expect("a database"), token_id("acme"));
    let sealed = || -> Vec<u8> {
        raw(&folder)
            .query_row("SELECT current FROM tokens WHERE integration = 'acme'", [], |row| row.get(0))
            .expect("a token")
    };
    let long = |letter: &str| Secret::new(letter.repeat(1_500));
    store.put_token(&id, &long("a"), "import", NOW).await.expect("stored");
    let first = sealed();
    store.put_token(&id, &Secret::new("short"), "import", NOW).await.expect("stored");
    let second = sealed();
    store.close().await;
    rotate_key(&folder.path().join("c.db"), &folder.path().join("c.key")).expect("rotated");
    let bytes =
        ["c.db", "c.db-wal"].map(|name| std::fs::read(folder.path().join(name)).unwrap_or_default()).concat();
    for old in [&first[..32], &second[..]] {
        assert!(
            !bytes.windows(old.len()).any(|w| w == old),
            "what an old key, or an old token, was encrypted to"
        );
    }
}

/// Saved while the clock was ahead by a year.
#[tokio::test]
async fn saved_times_never_lie_in_the_future() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let ahead = |at: Timestamp| at.plus(Duration::from_secs(365 * 86_400));
    let mut written = record(vec![], vec![]);
    let late = ahead(NOW);
    let check = crate::domain::CheckState {
        check: crate::domain::Check::GroupAccess,
        outcome: crate::domain::Outcome::Pass,
        details: crate::domain::Details::default(),
        since: late,
        success: Some(true),
        last_success: Some(late),
        blind: None,
        dark: None,
    };
    written.integration.state = IntegrationState {
        checks: vec![check],
        verdict: Verdict::Broken { reason: Reason::TokenRevoked, since: late },
        failing_since: Some(late),
        unknown_since: Some(late),
        last_probe: Some(late),
        ..IntegrationState::default()
    };
    written.integration.alert = Some(open_alert("a1", late));
    let cause = Cause {
        key: "app:x".to_owned(),
        alert: "a2".to_owned(),
        reason: Reason::ClientCredentialExpired,
        incident: Incident { since: late, at: late, ..incident() },
        since: late,
        members: HashSet::from(["acme".to_owned()]),
        progress: Progress::opened(late),
        notified: BTreeSet::new(),
    };
    written.causes = vec![CauseChange::Open(Box::new(cause))];
    store.save_probe(written).await.expect("saved");
    let (loaded, causes) = store.load(NOW).await.expect("loaded");
    let named = store.load_named(vec!["acme".to_owned()], NOW).await.expect("loaded");
    assert_eq!(loaded, named);
    let state = &loaded[0].state;
    assert_eq!(
        (state.last_probe, state.failing_since, state.unknown_since),
        (Some(NOW), Some(NOW), Some(NOW))
    );
    assert_eq!((state.checks[0].since, state.checks[0].last_success), (NOW, Some(NOW)));
    assert_eq!(state.verdict, Verdict::Broken { reason: Reason::TokenRevoked, since: NOW });
    assert_eq!(loaded[0].alert.as_ref().map(|a| a.since), Some(NOW));
    assert_eq!((causes[0].since, causes[0].incident.at, causes[0].progress.notified), (NOW, NOW, NOW));
    assert_eq!(
        store.load(ahead(late)).await.expect("loaded").0[0].state.last_probe,
        Some(late),
        "past times stay unchanged"
    );
}

/// If tokens are single-use, the previous one is invalid: the newest one is used, saved or not.
#[tokio::test]
async fn a_new_token_that_cannot_be_saved_is_still_used() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let (id, [one, two, three]) = (token_id("acme"), ["1", "2", "3"].map(Secret::new));
    store.put_token(&id, &one, "import", NOW).await.expect("stored");
    let other = raw(&folder);
    other
        .execute_batch("CREATE TRIGGER no BEFORE UPDATE ON tokens BEGIN SELECT raise(ABORT, 'no'); END")
        .expect("failing writes");
    assert!(store.save_rotated(&id, 1, &two, &one, NOW).await.is_err());
    let stored = store.token(&id).await.expect("read").expect("a token");
    assert_eq!(
        (stored.current.expose(), stored.previous.as_ref().map(Secret::expose), stored.generation),
        ("2", Some("1"), 1)
    );
    other.execute_batch("DROP TRIGGER no").expect("works again");
    assert_eq!(store.save_rotated(&id, 1, &three, &two, NOW).await.expect("saved"), Some(2));
    assert_eq!(store.token(&id).await.expect("read").expect("a token").current.expose(), "3");
    other
        .execute_batch("CREATE TRIGGER no BEFORE UPDATE ON tokens BEGIN SELECT raise(ABORT, 'no'); END")
        .expect("failing writes");
    assert!(store.save_rotated(&id, 2, &one, &three, NOW).await.is_err());
    other.execute_batch("DROP TRIGGER no").expect("works again");
    drop(other);
    store.close().await;
    let stored = open(&folder).expect("the same").token(&id).await.expect("read").expect("a token");
    assert_eq!((stored.current.expose(), stored.generation), ("1", 3), "saved before the end");
}

#[tokio::test]
async fn the_error_about_another_key_counts_no_tokens_of_an_empty_database() {
    let folder = folder();
    drop(open(&folder).expect("a database"));
    let (database, key) = (folder.path().join("c.db"), folder.path().join("c.key"));
    std::fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("written");
    let text = Store::open_for_command(&database, &key).map(drop).expect_err("another key").to_string();
    assert!(text.contains("start the daemon") && !text.contains("0 refresh tokens"), "{text}");
}
