//! Secrets and tokens reach no log, metric, mail, page, error or Debug output.

use entra_sim::{Action, TokenDeath};

use crate::world::{World, text};

/// Everything that must not be shown: the client secret, and every refresh token that the simulator ever
/// issued.
fn secrets(world: &World) -> Vec<String> {
    let mut all: Vec<String> = world.simulator.with_world(|w| w.refresh_tokens.keys().cloned().collect());
    all.extend(["demo-secret".to_owned(), "smtp-geheim".to_owned(), "eyJ".to_owned()]);
    all
}

fn assert_clean(world: &World, what: &str, text: &str) {
    for secret in secrets(world) {
        assert!(!text.contains(&secret), "{what} shows {secret}");
    }
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let mut world = World::live().await;
    world.add("email.smtp.username", "consentry").add("email.smtp.password", "smtp-geheim");
    let mut daemon = world.daemon(&["--log.level=debug", "--log.format=json"]);
    for name in ["contoso", "litware", "proseware", "tailspin", "adatum", "lucerne"] {
        world.breaks(name);
    }
    // No secret is accepted any more.
    world.act([Action::RemoveSecrets { app: consentry::demo::READER }]);
    world.mails(6).await;
    daemon.becomes("contoso", "broken").await;
    let metrics = daemon.metrics().await;
    assert_clean(&world, "/metrics", &metrics);
    for mail in world.simulator.mailbox().all() {
        assert_clean(&world, "a mail", &String::from_utf8_lossy(&mail.raw));
    }
    daemon.terminate().await;
    let log = daemon.log().join("\n");
    assert!(log.contains("integration is broken"), "{log}");
    assert_clean(&world, "the log", &log);
    assert!(!log.contains("token="), "the log shows a link");
    world.simulator.mailbox().set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    for arguments in [
        &["probe", "proseware"][..],
        &["probe", "proseware", "--output=json"],
        &["test-email", "a@example.com"],
        &["check-config"],
    ] {
        let output = world.command(arguments).await;
        assert_clean(&world, &format!("{arguments:?}"), &(text(&output.stdout) + &text(&output.stderr)));
    }
    let config = consentry::config::load(&world.file()).expect("valid");
    assert_clean(&world, "Debug of the configuration", &format!("{config:?}"));
    for path in ["apps.sequr.credential", "apps.rota.credential", "directory_readers.reader.credential"] {
        world.set(path, "{client_secrett: demo-secret}");
    }
    let output = world.command(&["check-config"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_clean(&world, "an invalid configuration", &text(&output.stderr));
    let death = Action::KillRefreshTokens {
        tenant: "northwind.example".to_owned(),
        app: consentry::demo::APP,
        death: TokenDeath::Expired,
    };
    world.simulator.apply(death).expect("expired");
}

/// A sign-in from start to end, and one that is refused: link, state, code, cookie and token appear only
/// where they must.
#[tokio::test]
async fn a_sign_in_shows_no_secret() {
    let mut world = World::live_and_reachable().await;
    // Nobody listens there; many products treat the URL itself as a secret.
    let url = "\"http://127.0.0.1:9/geheimer-haken?key=geheimer-haken\"";
    let secret = "whsec_Z2VoZWltZXMgTWVzc2VyIDAwMDAwMDAwMDAwMDAwMDA=";
    world.add("apps.sequr.token_webhook", &format!("{{url: {url}, secret: {secret}}}"));
    let mut daemon = world.daemon(&["--log.level=debug"]);
    daemon.ready().await;
    let link = world.command(&["reauth-link", "northwind"]).await;
    let link = text(&link.stdout).trim().to_owned();
    let mut visitor = crate::visitor::Visitor::new();
    let mut seen: Vec<String> = vec!["geheimer-haken".to_owned(), "Z2VoZWltZXMg".to_owned()];
    let mut pages = Vec::new();
    for decision in ["cancel", "accept"] {
        let entra = visitor.press(&link).await;
        let callback = visitor.decide(&entra, decision, &[]).await;
        for (name, value) in url::Url::parse(&callback)
            .expect("a URL")
            .query_pairs()
            .chain(url::Url::parse(&entra).expect("a URL").query_pairs())
        {
            if matches!(&*name, "state" | "code" | "nonce" | "code_challenge") {
                seen.push(value.into_owned());
            }
        }
        let page = visitor.get(&callback).await;
        pages.push(
            page.body.replace(link.split("token=").nth(1).expect("a token"), "<the link, for another try>"),
        );
        if page.status == 303 {
            pages.push(visitor.get(&page.location()).await.body);
        }
    }
    seen.extend(visitor.cookies.values().cloned());
    seen.push(link.split("token=").nth(1).expect("a token").to_owned());
    daemon.counts("consentry_token_deliveries_total{result=\"error\"}", 1.0).await;
    daemon.probed(&["northwind"]).await;
    let metrics = daemon.metrics().await;
    for path in [
        "",
        "integrations/northwind",
        "config",
        "api/v1/integrations/northwind",
        "api/v1/integrations/northwind/events",
        "probe?target=northwind",
    ] {
        let page = visitor.get(&format!("{}/{path}", daemon.url)).await;
        assert_eq!(page.status, 200, "{path}");
        pages.push(page.body);
    }
    assert!(seen.len() >= 10, "{seen:?}");
    let database = ["consentry.db", "consentry.db-wal"]
        .map(|name| std::fs::read(world.path(name)).unwrap_or_default())
        .concat();
    let database = text(&database);
    daemon.terminate().await;
    let log = daemon.log().join("\n");
    assert!(log.contains("re-authenticated") && log.contains("re-authentication refused"), "{log}");
    assert!(log.contains("has not accepted the renewed token"), "{log}");
    for (what, text) in [
        ("the log", log.as_str()),
        ("/metrics", &metrics),
        ("a page", &pages.join("\n")),
        ("the database", &database),
    ] {
        for secret in &seen {
            assert!(!text.contains(secret), "{what} shows {secret}");
        }
        assert_clean(&world, what, text);
    }
}
