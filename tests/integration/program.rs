//! The program itself: commands, exit statuses, signals.

use consentry::demo;
use entra_sim::Action;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::daemon::up;
use crate::world::{World, eventually, free_address, header, situation, text};

/// Runs the program without a configuration.
async fn alone(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_consentry")).args(arguments).output().await.expect("run")
}

/// The three failures of a tenant, with the program as a user starts it: green, mail, green.
#[tokio::test]
async fn the_program_from_green_to_mail_to_green() {
    let world = World::live().await;
    let daemon = world.daemon(&[]);
    for (index, name) in ["contoso", "litware", "proseware"].into_iter().enumerate() {
        let reason = situation(name).reason.expect("a reason").label();
        world.breaks(name);
        daemon.broken_by(name, reason).await;
        world.mails(2 * index + 1).await;
        assert_eq!(daemon.metric(&up(name)).await.as_deref(), Some("0"));
        world.fix(name);
        if name == "proseware" {
            let token = format!("{}\n", world.refresh_token(name));
            let output = world.command_with(&["import-token", name], &token).await;
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        }
        daemon.becomes(name, "healthy").await;
        world.mails(2 * index + 2).await;
        assert_eq!(daemon.metric(&up(name)).await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn usage_and_exit_statuses() {
    let version = alone(&["--version"]).await;
    assert_eq!((version.status.code(), text(&version.stdout).starts_with("consentry ")), (Some(0), true));
    assert_eq!(alone(&["--help"]).await.status.code(), Some(0));
    assert_eq!(alone(&["run", "--no-such-flag"]).await.status.code(), Some(2));
    assert_eq!(alone(&["no-such-command"]).await.status.code(), Some(2));
    let missing = alone(&["run", "--config.file=/nonexistent.yml"]).await;
    assert_eq!(
        (missing.status.code(), text(&missing.stderr).contains("cannot read the file")),
        (Some(1), true),
        "{}",
        text(&missing.stderr)
    );
    assert_eq!(alone(&["check-config", "/nonexistent.yml"]).await.status.code(), Some(1));
    assert_eq!(alone(&["probe", "x", "--config.file=/nonexistent.yml"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn probe_explains_and_changes_nothing() {
    let world = World::live().await;
    let well = world.command(&["probe", "northwind"]).await;
    assert_eq!(well.status.code(), Some(0), "{}", text(&well.stderr));
    world.breaks("litware");
    let ill = world.command(&["probe", "litware"]).await;
    let table = text(&ill.stdout);
    assert_eq!(ill.status.code(), Some(1));
    for expected in [
        "CHECK",
        "enterprise_app  FAIL     app_deleted: The enterprise application was deleted.",
        "-> Re-authenticate, or restore it",
        "can be restored until",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }
    let json = world.command(&["probe", "litware", "--output=json"]).await;
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (parsed["result"].as_str(), parsed["reason"].as_str(), parsed["checks"].as_array().map(Vec::len)),
        (Some("fail"), Some("app_deleted"), Some(3))
    );
    let unknown = world.command(&["probe", "litwear"]).await;
    assert_eq!((unknown.status.code(), text(&unknown.stderr).contains("litware")), (Some(2), true));
    assert!(world.simulator.mailbox().all().is_empty(), "no mail");
}

#[tokio::test]
async fn test_email_shows_the_dialogue_when_it_fails() {
    let world = World::live().await;
    let sent = world.command(&["test-email", "me@example.com"]).await;
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    let mail = world.simulator.mailbox().all()[0].parsed();
    assert_eq!(header(&mail, "X-Consentry-Event").as_deref(), Some("test"));
    world.simulator.mailbox().set_faults(entra_sim::MailFaults {
        reject: vec!["me@example.com".to_owned()],
        ..Default::default()
    });
    let refused = world.command(&["test-email", "me@example.com"]).await;
    let dialogue = text(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1));
    assert!(dialogue.contains("> RCPT TO:<me@example.com>") && dialogue.contains("550"), "{dialogue}");
}

#[tokio::test]
async fn a_second_daemon_is_rejected_and_the_first_ends_cleanly() {
    let world = World::live().await;
    let mut first = world.daemon(&[]);
    first.ready().await;
    let second = world.command(&["run", "--web.listen-address=127.0.0.1:0"]).await;
    assert_eq!(
        (second.status.code(), text(&second.stderr).contains("another consentry is running")),
        (Some(1), true),
        "{}",
        text(&second.stderr)
    );
    first.terminate().await;
}

/// Probes that hang forever, and a client that never reads its response, do not keep the program from ending
/// in time.
#[tokio::test]
async fn the_program_ends_while_everything_hangs() {
    let mut world = World::live().await;
    let hang = entra_sim::FaultKind::Hang;
    world.simulator.fault(entra_sim::Fault {
        endpoint: entra_sim::Endpoint::Graph,
        tenant: None,
        contains: None,
        times: None,
        fault: hang,
    });
    world.set("probe.timeout", "5m");
    let mut daemon = world.daemon(&[]);
    let mut rude = tokio::net::TcpStream::connect(&daemon.address).await.expect("connected");
    rude.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200).as_bytes()).await.expect("sent");
    daemon.ready().await;
    eventually("a probe hangs", async || {
        assert_eq!(daemon.get("/-/ready").await.0, 200);
        let asked = world.simulator.take_requests();
        asked.iter().any(|request| request.target.contains("/token")).then_some(())
    })
    .await;
    daemon.terminate().await;
    assert!(daemon.has_logged(&["were not finished"]), "{:#?}", daemon.log());
}

#[tokio::test]
async fn tokens_and_links_on_the_command_line() {
    let world = World::live().await;
    for (arguments, input, code, expected) in [
        (["import-token", "northwind"], "1.abc\n", 0, "stored"),
        (["import-token", "northwind"], "  \n", 1, "one refresh token"),
        (["import-token", "northwind"], "two words", 1, "one refresh token"),
        (["import-token", "fabrikam"], "1.abc", 1, "access: application"),
        (["import-token", "nobody"], "1.abc", 1, "no integration is called nobody"),
        (["reauth-link", "northwind"], "", 0, "https://c.example.com/reauth/northwind?token="),
    ] {
        let output = world.command_with(&arguments, input).await;
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(
            (output.status.code(), said.contains(expected)),
            (Some(code), true),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("1.abc"));
    }
}

/// The output of `setup` is a script in which shellcheck finds nothing, and which calls Azure CLI correctly.
#[tokio::test]
async fn setup_prints_text_and_a_script() {
    let mut world = World::live().await;
    // A name that tries to end a comment or a word of the shell.
    world.set("integrations.litware.display_name", "\"Lit\\nrm -rf ~; echo 'ware'\"");
    let output = world.command(&["setup", "litware"]).await;
    let script = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for expected in [
        "# 1. The application",
        "platform must be Web, never SPA",
        "https://c.example.com/reauth/callback",
        "# 3. The directory reader reader",
        "Directory.Read.All",
        "litware.example/v2.0/adminconsent?client_id=",
        "add_permission \"$app\" '00000003-0000-0000-c000-000000000000' 'Group.Read.All' Scope",
        "add_permission \"$reader\" '00000003-0000-0000-c000-000000000000' 'Directory.Read.All' Role",
    ] {
        assert!(script.contains(expected), "{expected}: {script}");
    }
    assert!(!script.contains("demo-secret"));
    let file = world.path("setup.sh");
    std::fs::write(&file, &script).expect("written");
    // A replacement for Azure CLI that responds and records its arguments.
    let asked = world.path("asked");
    let az = "case \"$*\" in *redirectUris*) echo https://other.example/cb;; *requiredResourceAccess*) echo 77777777-2222-3333-4444-555555555555;; \
              *appId*) echo 00000003-0000-0000-c000-000000000000;; *User.Read*) echo 77777777-2222-3333-4444-555555555555;; \
              *'sp show'*) echo 11111111-2222-3333-4444-555555555555;; esac";
    let bin = world.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(
        bin.join("az"),
        format!("#!/usr/bin/env bash\necho \"$*\" >>'{}'\n{az}\n", asked.display()),
    )
    .expect("written");
    let mut permissions = std::fs::metadata(bin.join("az")).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(bin.join("az"), permissions).expect("executable");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new("bash").arg(&file).env("PATH", path).output().await.expect("bash");
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let asked = std::fs::read_to_string(asked).expect("asked");
    assert!(
        asked.contains("--web-redirect-uris https://other.example/cb https://c.example.com/reauth/callback"),
        "{asked}"
    );
    let added = asked.matches("--api 00000003-0000-0000-c000-000000000000 --api-permissions 11111111-2222-3333-4444-555555555555=").count();
    assert_eq!(added, 5, "four scopes and one role; what is registered already is not added again: {asked}");
    if crate::tools::available("shellcheck") {
        let checked = Command::new("shellcheck").arg(&file).output().await.expect("shellcheck");
        assert!(checked.status.success(), "{}", text(&checked.stdout));
    }
    let plain = text(&world.command(&["setup", "adatum", "--output=text"]).await.stdout);
    assert!(
        plain.starts_with("What has to be registered")
            && plain.contains("application Group.Read.All")
            && !plain.contains("reauth-link")
    );
}

/// The listener of the re-authentication pages, as the daemon starts it from the configuration, and the one
/// for orchestrators.
#[tokio::test]
async fn the_reauthentication_listener_of_the_configuration() {
    let mut world = World::live().await;
    let (health, own) = (free_address(), free_address());
    world.add("reauthentication.listen_address", &format!("\"{own}\""));
    let daemon = world.daemon(&[&format!("--health.listen-address={health}")]);
    daemon.ready().await;
    for (path, status) in
        [("/-/healthy", 200), ("/-/ready", 200), ("/metrics", 404), ("/", 404), ("/reauth/northwind", 404)]
    {
        let answer = reqwest::get(format!("http://{health}{path}")).await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }
    let (_, shown) = daemon.get("/config").await;
    assert!(
        shown.contains("northwind.example") && shown.contains("<secret>") && !shown.contains("demo-secret"),
        "{shown}"
    );
    assert_eq!(daemon.reload().await.0, 403, "as in Prometheus without its lifecycle API");
    for (path, status) in
        [("/reauth/assets/page.css", 200), ("/metrics", 404), ("/", 404), ("/reauth/northwind", 403)]
    {
        let answer = reqwest::get(format!("http://{own}{path}")).await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }
    daemon.logged(&["listening for health checks only", &health]).await;
    daemon.logged(&["listening for re-authentication only", &own]).await;
    daemon.kill().await;
}

/// `check-config --online` checks the services and prints what was expected, what was seen and what to
/// change. It sends no mail.
#[tokio::test]
async fn check_config_online() {
    let world = World::live().await;
    let well = world.command(&["check-config", "--online"]).await;
    let said = text(&well.stdout);
    assert_eq!(well.status.code(), Some(0), "{said}{}", text(&well.stderr));
    for words in [
        "10 of 10 found",
        "app sequr: accepted in",
        "directory reader reader: accepted in",
        "accepts the connection",
        "every service works",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let secret = "another".to_owned();
    world.act([
        Action::RemoveTenant { tenant: "contoso.example".to_owned() },
        Action::RemoveSecrets { app: demo::READER },
        Action::AddSecret {
            app: demo::READER,
            secret,
            expires_in_seconds: 3600,
            key_id: None,
            display_name: None,
        },
    ]);
    world.simulator.mailbox().set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    let ill = world.command(&["check-config", "--online"]).await;
    let said = text(&ill.stdout);
    assert_eq!(ill.status.code(), Some(1), "{said}");
    for words in [
        "9 of 10 found",
        "tenant contoso.example (of contoso)",
        "expected  an OpenID configuration",
        "AADSTS90002",
        "credential of directory reader reader",
        "AADSTS7000215",
        "mail server 127.0.0.1:",
        "change    ",
        "3 problems found online",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // A credential that could not be tried does not count as valid.
    let app_login = |fault| entra_sim::Fault {
        endpoint: entra_sim::Endpoint::Token,
        tenant: None,
        contains: None,
        times: None,
        fault,
    };
    world.simulator.fault(app_login(entra_sim::FaultKind::Status { status: 503, retry_after: None }));
    let untried = text(&world.command(&["check-config", "--online"]).await.stdout);
    world.simulator.clear_faults();
    assert!(
        untried.contains("credential of app sequr") && untried.contains("could not be tried"),
        "{untried}"
    );
    assert!(
        !said.contains("demo-secret") && world.simulator.mailbox().all().is_empty(),
        "no secret, no mail"
    );
    assert_eq!(
        world.command(&["check-config"]).await.status.code(),
        Some(0),
        "offline it is valid all the same"
    );
}

#[tokio::test]
async fn healthcheck_reports_whether_a_daemon_is_healthy() {
    let world = World::live().await;
    let pair = crate::certificates::self_signed("localhost");
    std::fs::write(world.path("tls.crt"), pair.certificate).expect("written");
    std::fs::write(world.path("tls.key"), pair.key).expect("written");
    let hash = "$2y$04$WCEEjqX6UYSTuqPpOjCBqO5kVw.bVqRD1xvNuoTgBRCfUPVdVP7Ve";
    let web = format!(
        "tls_server_config: {{cert_file: tls.crt, key_file: tls.key}}\nbasic_auth_users: {{somebody: {hash}}}\n"
    );
    let file = world.web_config(&web);
    let health = free_address();
    let daemon = world.daemon(&[&file, &format!("--health.listen-address={health}")]);
    let (guarded, health) = (format!("https://{}", daemon.address), format!("http://{health}"));
    eventually("the daemon is ready", async || {
        let answer = reqwest::get(format!("{health}/-/ready")).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    let as_somebody = guarded.replace("https://", "https://somebody:hidden@");
    for (url, code, said) in [
        (format!("{health}/-/healthy"), 0, ""),
        (format!("{health}/-/ready"), 0, ""),
        // Its certificate is for another name, which does not matter here; and a user is required, but none
        // is given.
        (format!("{guarded}/-/healthy"), 1, "--health.listen-address"),
        (format!("{as_somebody}/-/healthy"), 1, "401"),
        ("http://somebody:hidden@127.0.0.1:1/-/healthy".to_owned(), 1, "does not respond"),
        (format!("{health}/metrics"), 1, "404"),
        ("http://127.0.0.1:1/-/healthy".to_owned(), 1, "does not respond"),
        ("ftp://127.0.0.1/".to_owned(), 2, "http or https"),
        ("http://somebody:hidden@127.0.0.1:99999/".to_owned(), 2, "--url"),
        ("nonsense".to_owned(), 2, "--url"),
    ] {
        let output = world.command(&["healthcheck", &format!("--url={url}")]).await;
        assert_eq!(output.status.code(), Some(code), "{url}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{url}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("hidden"), "{}", text(&output.stderr));
    }
}

/// After a new key nobody has to sign in again; holders of an old link need a new one.
#[tokio::test]
async fn rotate_key_keeps_the_tokens() {
    let world = World::live().await;
    let link = text(&world.command(&["reauth-link", "northwind"]).await.stdout).trim().to_owned();
    let mut daemon = world.daemon(&[]);
    daemon.ready().await;
    let refused = world.command(&["rotate-key"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another consentry is running"), "{}", text(&refused.stderr));
    daemon.terminate().await;
    let before = std::fs::read(world.path("consentry.key")).expect("a key");
    let rotated = world.command(&["rotate-key"]).await;
    assert_eq!(rotated.status.code(), Some(0), "{}", text(&rotated.stderr));
    assert!(
        text(&rotated.stdout).starts_with("8 refresh tokens encrypted with a new key"),
        "{}",
        text(&rotated.stdout)
    );
    assert_ne!(std::fs::read(world.path("consentry.key")).expect("a key"), before);
    assert_eq!(world.command(&["probe", "northwind"]).await.status.code(), Some(0));
    let daemon = world.daemon(&[]);
    let (_, path) = link.split_once("/reauth/").expect("a link");
    assert_eq!(daemon.get(&format!("/reauth/{path}")).await.0, 403);
}

#[tokio::test]
async fn a_database_that_others_can_read_is_logged() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::live().await;
    let database = world.path("consentry.db");
    std::fs::set_permissions(database, std::fs::Permissions::from_mode(0o644)).expect("a database");
    let daemon = world.daemon(&[]);
    daemon.logged(&["the database is readable by other users; run chmod 600 on it"]).await;
}

/// A copy is complete, whether the daemon runs or has ended. The ended daemon leaves a single file.
#[tokio::test]
async fn backups_are_complete() {
    let world = World::live().await;
    let at = |name: &str| world.path(name);
    let mut daemon = world.daemon(&[]);
    daemon.ready().await;
    let copied = world.command(&["backup", at("copy.db").to_str().expect("a path")]).await;
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied.stderr));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(at("copy.db")).expect("a copy").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let again = world.command(&["backup", at("copy.db").to_str().expect("a path")]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("cannot create"), "{}", text(&again.stderr));
    let streamed = world.command(&["backup", "-"]).await;
    assert_eq!(streamed.status.code(), Some(0), "{}", text(&streamed.stderr));
    std::fs::write(at("streamed.db"), &streamed.stdout).expect("written");
    let left = std::fs::read_dir(world.folder.path()).expect("a folder").flatten();
    assert!(
        !left.into_iter().any(|f| f.file_name().to_string_lossy().contains("backup")),
        "a copy was left behind"
    );
    daemon.terminate().await;
    assert!(!at("consentry.db-wal").exists(), "the log was not folded in");
    for copy in ["copy.db", "streamed.db", "consentry.db"] {
        let restored = tempfile::tempdir().expect("a folder");
        for (from, to) in
            [(copy, "consentry.db"), ("consentry.key", "consentry.key"), ("consentry.yml", "consentry.yml")]
        {
            std::fs::copy(at(from), restored.path().join(to)).expect("copied");
        }
        let file = restored.path().join("consentry.yml");
        let probed = alone(&["probe", "northwind", &format!("--config.file={}", file.display())]).await;
        assert_eq!(probed.status.code(), Some(0), "{copy}: {}{}", text(&probed.stdout), text(&probed.stderr));
    }
}
