//! Every older schema, with rows in its tables, is migrated with all its data.

use rusqlite::params;

use super::*;
use crate::domain::{Reason, Timestamp, Verdict};
use crate::secret::Secret;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// As the first versions wrote it, without later fields.
const STATE: &str = r#"{"checks":[{"check":"group_access","outcome":"fail","reason":"token_revoked","since":1699999000000,"success":false,
    "last_success":1699990000000}],"verdict":"broken","verdict_reason":"token_revoked","verdict_since":1699999000000,"failures":3,"successes":0,
    "unknowns":0,"failing_since":1699999000000,"unknown_since":null,"candidate":null,"last_probe":1699999900000,"duration_ms":120,
    "groups_visible":3,"permissions":[],"reader_fault":null}"#;

const STORY: &str = r#"{"integration":"acme","display_name":"Acme","app":"Sequr","client_id":"client","tenant":"tenant",
    "application_access":false,"reason":"token_revoked","items":[],"code":"AADSTS50173","request_id":null,"restorable_until":null,
    "permissions":["User.Read"],"since":1699999000000,"at":1699999100000,"builtin_link":true,"url":null}"#;

/// A database as a version with this many migrations left it, with rows in every table that it had.
fn written_by(version: usize, database: &Path, key_file: &Path) {
    let key = key_file::create(key_file).expect("a key");
    let id = TokenId {
        integration: "acme".to_owned(),
        client_id: "client".to_owned(),
        tenant: "tenant".to_owned(),
    };
    let sealed = |text: &str| tokens::sealed(&key, &id, &Secret::new(text)).expect("sealed");
    let c = Connection::open(database).expect("a database");
    for migration in &MIGRATIONS[..version] {
        c.execute_batch(migration).expect("an old schema");
    }
    c.pragma_update(None, "user_version", version as i64).expect("its version");
    c.execute("INSERT INTO meta VALUES ('key_check', ?1)", [key::fingerprint(&key)]).expect("a key check");
    c.execute("INSERT INTO integrations VALUES ('acme', 'tenant/client', ?1, 'guid', 'a1', 'token_revoked', 1699999000000, 1)", [STATE])
        .expect("an integration");
    c.execute(
        "INSERT INTO causes (key, alert, reason, story, since) VALUES ('app:sequr:client_credential_expired', 'a2', 'client_credential_expired', ?1, ?2)",
        params![STORY, NOW.0],
    )
    .expect("a cause");
    for member in ["acme", "beta"] {
        c.execute("INSERT INTO cause_members VALUES ('app:sequr:client_credential_expired', ?1)", [member])
            .expect("a member");
    }
    c.execute(
        "INSERT INTO events (integration, at, kind, detail) VALUES ('acme', ?1, 'broken', 'token_revoked')",
        [NOW.0],
    )
    .expect("an event");
    for (sequence, sent) in [(0, Some(NOW.0)), (1, None)] {
        let sql = "INSERT INTO notifications (alert, sequence, recipient, kind, story, created_at, due_at, attempts, sent_at)
                   VALUES ('a1', ?1, 'it@example.com', 'alert', ?2, ?3, ?3, 1, ?4)";
        c.execute(sql, params![sequence, STORY, NOW.0, sent]).expect("a mail");
    }
    c.execute(
        "INSERT INTO tokens (integration, client_id, tenant, current, previous, generation, source, updated_at)
         VALUES ('acme', 'client', 'tenant', ?1, ?2, 7, 'import', ?3)",
        params![sealed("current"), sealed("previous"), NOW.0],
    )
    .expect("a token");
    if version >= 2 {
        c.execute("INSERT INTO revocations (integration, not_after) VALUES ('acme', ?1)", [NOW.0])
            .expect("a used link");
        c.execute(
            "INSERT INTO deliveries (integration, message, sealed, created_at, due_at) VALUES ('acme', 'msg', x'00', ?1, ?1)",
            [NOW.0],
        )
        .expect("a delivery");
        let sql = "INSERT INTO authorizations (id, integration, cookie, sealed, link_issued, created_at, expires_at, used_at, outcome)
                   VALUES ('state', 'acme', 'cookie', x'', ?1, ?1, ?1, ?1, 'success')";
        c.execute(sql, [NOW.0]).expect("a sign-in");
    }
}

#[tokio::test]
async fn every_older_schema_is_migrated() {
    for version in 1..MIGRATIONS.len() {
        let folder = tempfile::tempdir().expect("a folder");
        let (database, key_file) = (folder.path().join("c.db"), folder.path().join("c.key"));
        written_by(version, &database, &key_file);
        let store =
            Store::open(&database, &key_file).unwrap_or_else(|error| panic!("schema {version}: {error}"));
        let (integrations, causes) = store.load(NOW).await.expect("loaded");
        let acme = &integrations[0];
        let since = Timestamp(1_699_999_000_000);
        assert_eq!(
            acme.state.verdict,
            Verdict::Broken { reason: Reason::TokenRevoked, since },
            "schema {version}"
        );
        assert_eq!(
            (acme.state.failures, acme.state.checks.len(), acme.tenant_guid.as_deref()),
            (3, 1, Some("guid")),
            "schema {version}"
        );
        assert_eq!(
            acme.alert.as_ref().map(|a| (a.id.as_str(), a.notices)),
            Some(("a1", 1)),
            "schema {version}"
        );
        let cause = &causes[0];
        assert_eq!(
            (cause.members.len(), cause.progress.notices, cause.progress.size),
            // The migration to the seventh schema counts the members.
            (2, 1, if version < 7 { 2 } else { 1 }),
            "schema {version}"
        );
        assert_eq!(
            cause.progress.notified,
            if version < 7 { NOW } else { Timestamp(0) },
            "schema {version}: the migration takes the time of the beginning"
        );
        assert_eq!(store.events("acme").await.expect("events").len(), 1, "schema {version}");
        let due = store.due_notifications(NOW, 10).await.expect("due");
        assert_eq!(
            due.iter().map(|q| q.notification.sequence).collect::<Vec<_>>(),
            [1],
            "schema {version}: sent mails stay sent"
        );
        let id = TokenId {
            integration: "acme".to_owned(),
            client_id: "client".to_owned(),
            tenant: "tenant".to_owned(),
        };
        let token = store.token(&id).await.expect("read").expect("a token");
        assert_eq!(
            (token.current.expose(), token.previous.as_ref().map(Secret::expose), token.generation),
            ("current", Some("previous"), 7)
        );
        if version >= 2 {
            assert!(store.delivery("acme").await.expect("read").is_some(), "schema {version}");
            assert!(store.authorization("state").await.expect("read").is_some(), "schema {version}");
        }
        store.close().await;
        Store::open(&database, &key_file).expect("a second time");
    }
}
