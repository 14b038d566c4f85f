//! The store on real files.

use tempfile::TempDir;

use super::*;
use crate::domain::{Access, IntegrationState, LinkTarget, MailKind, Notification, Reason, Story, Timestamp, Verdict};
use crate::secret::Secret;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn open(folder: &TempDir) -> Result<Store, StoreError> {
    Store::open(&folder.path().join("c.db"), &folder.path().join("c.key"))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn token_id(integration: &str) -> TokenId {
    TokenId { integration: integration.to_owned(), client_id: "client".to_owned(), tenant: "tenant".to_owned() }
}

fn story() -> Story {
    Story {
        integration: "acme".to_owned(),
        display_name: "Acme".to_owned(),
        app: "Sequr".to_owned(),
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
        by: None,
        origin: None,
    }
}

fn notification(sequence: u32, recipient: &str) -> Notification {
    Notification { alert: "a1".to_owned(), sequence, kind: MailKind::Alert, recipient: recipient.to_owned(), story: story() }
}

fn record(notifications: Vec<Notification>, causes: Vec<CauseChange>) -> ProbeRecord {
    let state = IntegrationState {
        verdict: Verdict::Broken { reason: Reason::TokenRevoked, since: NOW },
        failures: 2,
        ..IntegrationState::default()
    };
    let alert = OpenAlert { id: "a1".to_owned(), reason: Reason::TokenRevoked, since: NOW, notices: 1 };
    let integration =
        SavedIntegration { name: "acme".to_owned(), identity: "t/c".to_owned(), state, tenant_guid: None, alert: Some(alert) };
    let events = vec![Event { kind: "broken".to_owned(), at: NOW, detail: "token_revoked".to_owned() }];
    ProbeRecord { integration, events, causes, notifications, at: NOW }
}

#[tokio::test]
async fn what_a_probe_changes_survives() {
    let folder = folder();
    let cause = Cause {
        key: "app:x".to_owned(),
        alert: "a2".to_owned(),
        reason: Reason::ClientCredentialExpired,
        story: story(),
        since: NOW,
        members: vec!["acme".to_owned()],
    };
    let written = record(
        vec![notification(0, "ada@example.com")],
        vec![CauseChange::Open(Box::new(cause.clone())), CauseChange::Join("app:x".to_owned())],
    );
    open(&folder).expect("a new database").save_probe(written.clone()).await.expect("saved");
    let store = open(&folder).expect("the same database");
    assert_eq!(store.load().await.expect("loaded"), (vec![written.integration.clone()], vec![cause]));
    assert_eq!(store.events("acme").await.expect("events"), written.events);
    let due = store.due_notifications(NOW, 10).await.expect("due");
    assert_eq!(due.iter().map(|q| &q.notification).collect::<Vec<_>>(), [&written.notifications[0]]);
    store
        .save_probe(record(vec![], vec![CauseChange::Leave("app:x".to_owned()), CauseChange::Close("app:x".to_owned())]))
        .await
        .expect("saved");
    assert_eq!(store.load().await.expect("loaded").1, vec![]);
}

#[tokio::test]
async fn mails_to_one_person_keep_their_order_and_are_saved_once() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let all = vec![notification(0, "ada@x.org"), notification(0, "ada@x.org"), notification(0, "bob@x.org"), notification(1, "ada@x.org")];
    store.save_probe(record(all, vec![])).await.expect("saved");
    let due = store.due_notifications(NOW, 10).await.expect("due");
    assert_eq!(
        due.iter().map(|q| (q.notification.recipient.as_str(), q.notification.sequence)).collect::<Vec<_>>(),
        [("ada@x.org", 0), ("bob@x.org", 0)]
    );
    let later = Timestamp(NOW.0 + 1000);
    store.mark_failed(due[0].id, later, false).await.expect("marked");
    store.mark_sent(due[1].id, NOW).await.expect("marked");
    assert_eq!(store.due_notifications(NOW, 10).await.expect("due"), vec![], "the second mail waits for the first");
    assert_eq!(store.outbox().await.expect("outbox"), (Some(later), 2), "the second is due no sooner than the first");
    store.mark_sent(due[0].id, later).await.expect("marked");
    let second = store.due_notifications(later, 10).await.expect("due");
    assert_eq!((second.len(), second[0].notification.sequence, second[0].first_sequence), (1, 1, 0));
    assert_eq!(store.last_mail().await.expect("last"), Some(later));
    assert_eq!(store.told("a1").await.expect("told"), ["ada@x.org", "bob@x.org"]);
    assert_eq!(store.prune_notifications(Timestamp(i64::MAX)).await.expect("pruned"), 0, "the alert is still open");
}

/// What was not mailed yet waits while its integration is away, or is another one by the same name.
#[tokio::test]
async fn mails_wait_for_their_integration() {
    let folder = folder();
    let store = open(&folder).expect("a database");
    store
        .save_probe(record(vec![notification(0, "ada@example.com"), notification(0, "bob@example.com")], Vec::new()))
        .await
        .expect("saved");
    let due = async || store.due_notifications(NOW, 10).await.expect("mails");
    let sent = due().await[0].id;
    store.mark_sent(sent, NOW).await.expect("marked");
    let keep = async |names: &[(&str, &str)]| {
        let names = names.iter().map(|(name, identity)| ((*name).to_owned(), (*identity).to_owned())).collect();
        store.keep_only(names).await.expect("kept");
    };
    for (names, waiting) in [
        (&[("acme", "t/c")][..], 1),
        (&[("other", "t/c")], 0),
        (&[("acme", "u/c")], 0),
        (&[("acme", "u/c"), ("new", "t/c")], 0),
        (&[("acme", "t/c")], 1),
    ] {
        keep(names).await;
        let now = due().await;
        assert_eq!((now.len(), store.outbox().await.expect("an outbox").1), (waiting, waiting as i64), "{names:?}");
        assert!(now.iter().all(|m| m.notification.recipient == "bob@example.com"), "the one that was sent is not sent again");
    }
    assert_eq!(store.untold().await.expect("names").0.len(), 0);
    let silent = record(Vec::new(), Vec::new());
    let alert = OpenAlert { id: "a9".to_owned(), reason: Reason::TokenRevoked, since: NOW, notices: 1 };
    let integration = SavedIntegration { alert: Some(alert), ..silent.integration.clone() };
    store.save_probe(ProbeRecord { integration, ..silent }).await.expect("saved");
    assert!(store.untold().await.expect("names").0.contains("acme"), "an alert without a mail");
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
    assert_eq!(store.save_rotated(&id, stored.generation, &second, &first, NOW).await.expect("saved"), Some(stored.generation + 1));
    assert_eq!(store.save_rotated(&id, stored.generation, &first, &first, NOW).await.expect("saved"), None, "somebody else was faster");
    let stored = store.token(&id).await.expect("read").expect("a token");
    assert_eq!((stored.current.expose(), stored.previous.as_ref().map(Secret::expose)), ("second-token", Some("first-token")));
    assert_eq!(store.token(&TokenId { tenant: "other".to_owned(), ..id.clone() }).await.expect("read"), None);
    drop(store);
    let raw = |name| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let bytes = [raw("c.db"), raw("c.db-wal")].concat();
    assert!(
        !bytes.windows(5).any(|w| w == b"token-" || w == b"first" && bytes.windows(11).any(|w| w == b"first-token")),
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

/// One damaged row is one integration's trouble; a database that refuses is everybody's.
#[tokio::test]
async fn what_the_database_refuses_is_told() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let folder = folder();
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let observer: Observer = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let store = open(&folder).expect("a database").observed(observer);
    let acme = token_id("acme");
    store.put_token(&acme, &Secret::new("token"), "import", Timestamp::from_seconds(1)).await.expect("stored");
    let raw = rusqlite::Connection::open(folder.path().join("c.db")).expect("opened");
    raw.execute("UPDATE tokens SET current = x'00'", []).expect("damaged");
    assert!(matches!(store.token(&acme).await, Err(StoreError::Damaged(_))));
    assert_eq!(told.load(Ordering::Relaxed), 0);
    raw.execute("ALTER TABLE tokens RENAME TO elsewhere", []).expect("gone");
    assert!(matches!(store.token(&acme).await, Err(StoreError::Database(_))));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_wrong_or_lost_key_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let key = folder.path().join("c.key");
    let store = open(&folder).expect("a database");
    let database = ["c.db", "c.db-wal"].map(|name| folder.path().join(name));
    for file in [&key, &database[0], &database[1]] {
        assert_eq!(std::fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    drop(store);
    std::fs::remove_file(&key).expect("removed");
    let store = open(&folder).expect("without tokens a new key is as good");
    store.put_token(&token_id("acme"), &Secret::new("x"), "import", NOW).await.expect("stored");
    drop(store);
    let original = std::fs::read(&key).expect("a key");
    std::fs::remove_file(&key).expect("removed");
    let text = open(&folder).expect_err("the key is gone").to_string();
    assert!(text.contains("c.key") && text.contains("restore"), "{text}");
    assert!(!key.exists(), "no new key hides the loss");
    for (wrong, hint) in [("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not the key"), ("nonsense", "32 bytes")] {
        std::fs::write(&key, wrong).expect("written");
        let text = open(&folder).expect_err("a wrong key").to_string();
        assert!(text.contains(hint), "{text}");
    }
    std::fs::write(&key, original).expect("written");
    assert!(open(&folder).is_ok());
}

#[test]
fn one_daemon_a_database_and_no_newer_schema() {
    let folder = folder();
    let database = folder.path().join("c.db");
    let lock = DaemonLock::take(&database).expect("the first");
    let text = DaemonLock::take(&database).expect_err("the second").to_string();
    assert!(text.contains("another consentry"), "{text}");
    drop(lock);
    DaemonLock::take(&database).expect("after the first is gone");
    drop(open(&folder).expect("a database"));
    rusqlite::Connection::open(&database).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("changed");
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
    assert_eq!(store.outbox().await.expect("outbox").1, 1);
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
    let claim = async |id: &str| store.claim_authorization(id, "192.0.2.1", now).await.expect("read").map(|s| s.expose().to_owned());
    assert_eq!(claim("one").await, Some("the-verifier".to_owned()));
    assert_eq!(claim("one").await, None, "once");
    assert_eq!(claim("three").await, None, "of nobody");
    let success = |authorization: &str, generation| Success {
        authorization: authorization.to_owned(),
        integration: "acme".to_owned(),
        // By a clock that is ahead: no time is compared.
        stamp: LinkStamp { generation: Some(generation), issued: Timestamp::from_seconds(9_000_000) },
        by: Some("ada@contoso.com".to_owned()),
        origin: "192.0.2.1".to_owned(),
        announcement: None,
        token: Some(RenewedToken { id: token_id("acme"), token: Secret::new("renewed-token") }),
        delivery: Some(NewDelivery { message: "msg_1".to_owned(), body: Secret::new("a renewed-token") }),
        at: now,
    };
    assert!(store.save_success(success("one", 0)).await.expect("saved"));
    assert_eq!(store.token(&token_id("acme")).await.expect("read").expect("a token").current.expose(), "renewed-token");
    assert_eq!(store.consented_by(&token_id("acme")).await.expect("read").as_deref(), Some("ada@contoso.com"));
    assert_eq!(store.links("acme").await.expect("read"), LinksState { generation: 1, not_after: None });
    assert_eq!(store.links("other").await.expect("read"), LinksState::default());
    let last = store.last_reauthentication("acme").await.expect("read").expect("one");
    assert_eq!((last.at, last.by.as_deref(), last.origin.as_str()), (now, Some("ada@contoso.com"), "192.0.2.1"));
    assert!(!store.save_success(success("two", 0)).await.expect("answered"), "its link has died meanwhile");
    assert!(store.save_success(success("two", 1)).await.expect("answered"), "a later link is not touched");
    store.revoke_links("acme", "command", now).await.expect("revoked");
    assert!(!store.save_success(success("two", 2)).await.expect("answered"), "revoked");
    let unproved = async || store.unproved(now.minus(std::time::Duration::from_secs(150)), now).await.expect("read");
    assert_eq!(unproved().await, [Unproved { integration: "acme".to_owned(), began: now, renewed: true }]);
    store.proved("acme", now, now).await.expect("noted");
    assert_eq!(unproved().await, Vec::new());
    let kinds: Vec<String> = store.events("acme").await.expect("events").into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["links_revoked", "reauthenticated", "token_stored", "reauthenticated", "token_stored"]);

    let due = store.due_deliveries(now).await.expect("read");
    assert_eq!((due.len(), due[0].body.as_ref().map(Secret::expose)), (1, Some("a renewed-token")));
    assert_eq!(store.waiting_deliveries().await.expect("read"), [("acme".to_owned(), now)]);
    let later = Timestamp::from_seconds(2_000);
    store.delivery_failed("acme", "msg_1", "it answered 500".to_owned(), later).await.expect("saved");
    assert!(store.due_deliveries(now).await.expect("read").is_empty());
    assert_eq!(store.waiting_deliveries().await.expect("read"), [("acme".to_owned(), later)]);
    store.delivered("acme", "msg_1", later).await.expect("saved");
    assert!(store.waiting_deliveries().await.expect("read").is_empty());
    let state = store.delivery("acme").await.expect("read").expect("a delivery");
    assert_eq!((state.attempts, state.delivered, state.failure), (2, Some(later), None));
    drop(store);
    let raw = |name| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let bytes = [raw("c.db"), raw("c.db-wal")].concat();
    for secret in [&b"renewed-token"[..], b"the-verifier"] {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "not in plain text");
    }
}

/// A quota for each link and each network; nobody's sign-in gives way to another's.
#[tokio::test]
async fn sign_ins_do_not_pile_up_and_evict_nobody() {
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
    assert!(store.authorization("admin").await.expect("read").is_some(), "nobody's is evicted");
    assert_eq!(begin("again".to_owned(), "admin's", "192.0.2.9", 1_002).await, None, "another link of the integration goes on");
    let mut refused = None;
    for i in 0..100 {
        refused = refused.or(begin(format!("n{i}"), &format!("link{i}"), "192.0.2.9", 1_003).await);
    }
    assert_eq!(refused, Some(Quota::Source));
    assert_eq!(begin("elsewhere".to_owned(), "fresh", "192.0.2.2", 1_003).await, None, "the first sign-in of a link is never shut out");
    assert_eq!(begin("elsewhere2".to_owned(), "fresh", "192.0.2.2", 1_003).await, Some(Quota::Integration));
    assert_eq!(begin("later".to_owned(), "other", "192.0.2.9", 1_700).await, None, "those that were not completed end by themselves");
    assert_eq!(begin("back".to_owned(), "other", "192.0.2.9", 100_000).await, None, "as they do when the clock jumps");
    assert!(store.authorization("s0").await.expect("read").is_none(), "the old ones are forgotten");
}

/// An integration's page must not read the mails of all others.
#[test]
fn mails_about_an_integration_are_found_by_an_index() {
    let folder = folder();
    drop(open(&folder).expect("a database"));
    let connection = rusqlite::Connection::open(folder.path().join("c.db")).expect("opened");
    let plan: String =
        connection.query_row(&format!("EXPLAIN QUERY PLAN {}", notifications::ABOUT), ["acme"], |row| row.get(3)).expect("a plan");
    assert!(plan.contains("USING INDEX notifications_about"), "{plan}");
}
