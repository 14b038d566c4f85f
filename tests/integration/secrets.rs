//! Secrets and tokens reach no log, metric, mail, page, error or Debug output.

use entra_sim::{Action, TokenDeath};

use crate::harness::situation;
use crate::program::{Place, mails};

/// Everything that must not be seen: the client secret, and every refresh token that the simulator ever issued.
fn secrets(place: &Place) -> Vec<String> {
    let mut all: Vec<String> = place.simulator.with_world(|w| w.refresh_tokens.keys().cloned().collect());
    all.extend(["demo-secret".to_owned(), "smtp-geheim".to_owned(), "eyJ".to_owned()]);
    all
}

fn assert_clean(place: &Place, what: &str, text: &str) {
    for secret in secrets(place) {
        assert!(!text.contains(&secret), "{what} shows {secret}");
    }
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let place = Place::new().await;
    let file = place.file();
    let text = std::fs::read_to_string(&file)
        .expect("readable")
        .replace("tls: none}", "tls: none, username: consentry, password: smtp-geheim}");
    std::fs::write(&file, &text).expect("written");
    let mut daemon = place.daemon(&["--log.level=debug", "--log.format=json"]);
    let line = daemon.until(&["listening"]).await;
    let listening: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let url = format!("http://{}", listening["address"].as_str().expect("an address"));
    for name in ["contoso", "litware", "proseware", "tailspin", "adatum", "lucerne"] {
        let situation = situation(name);
        (situation.breaks)(&situation.tenant())
            .into_iter()
            .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
    }
    place
        .simulator
        .apply(Action::RemoveSecrets { app: consentry::demo::READER })
        .expect("no secret is accepted");
    mails(&place, 6).await;
    daemon.until(&["integration is broken"]).await;
    let metrics =
        reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("text");
    assert_clean(&place, "/metrics", &metrics);
    for mail in place.simulator.mailbox().all() {
        assert_clean(&place, "a mail", &String::from_utf8_lossy(&mail.raw));
    }
    assert_clean(&place, "the log", &daemon.seen.join("\n"));
    let links = daemon.seen.join("\n");
    assert!(!links.contains("token="), "the log shows a link");
    daemon.kill().await;
    place.simulator.mailbox().set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    for arguments in [
        &["probe", "proseware"][..],
        &["probe", "proseware", "--output=json"],
        &["test-email", "a@example.com"],
        &["check-config"],
    ] {
        let output = place.command(arguments).await;
        assert_clean(
            &place,
            &format!("{arguments:?}"),
            &(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)),
        );
    }
    let config = consentry::config::load(&file).expect("valid");
    assert_clean(&place, "Debug of the configuration", &format!("{config:?}"));
    let broken = text.replace("client_secret: demo-secret", "client_secrett: demo-secret");
    std::fs::write(&file, broken).expect("written");
    let output = place.command(&["check-config"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_clean(&place, "an invalid configuration", &String::from_utf8_lossy(&output.stderr));
    let death = Action::KillRefreshTokens {
        tenant: "northwind.example".to_owned(),
        app: consentry::demo::APP,
        death: TokenDeath::Expired,
    };
    place.simulator.apply(death).expect("expired");
}

/// A sign-in from begin to end, and one that is refused: neither link, state, code, cookie nor token is seen anywhere but where it must be.
#[tokio::test]
async fn a_sign_in_shows_no_secret() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a socket")
        .local_addr()
        .expect("an address")
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let place = Place::at(&url).await;
    let text = std::fs::read_to_string(place.file()).expect("readable");
    // Nobody listens there; the URL itself is a secret to many products.
    let hook = "token_webhook: {url: \"http://127.0.0.1:9/geheimer-haken?key=geheimer-haken\", secret: whsec_Z2VoZWltZXMgTWVzc2VyIDAwMDAwMDAwMDAwMDAwMDA=}";
    std::fs::write(
        place.file(),
        text.replace("    display_name: Sequr\n", &format!("    display_name: Sequr\n    {hook}\n")),
    )
    .expect("written");
    let mut daemon = place.daemon(&["--log.level=debug", &format!("--web.listen-address=127.0.0.1:{port}")]);
    daemon.until(&["ready"]).await;
    let link = place.command(&["reauth-link", "northwind"]).await;
    let link = String::from_utf8_lossy(&link.stdout).trim().to_owned();
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
    daemon.until(&["has not taken the renewed token"]).await;
    daemon.until(&["probed", "integration=northwind"]).await;
    let metrics =
        reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("text");
    for path in [
        "",
        "integrations/northwind",
        "config",
        "api/v1/integrations/northwind",
        "api/v1/integrations/northwind/events",
        "probe?target=northwind",
    ] {
        let page = visitor.get(&format!("{url}/{path}")).await;
        assert_eq!(page.status, 200, "{path}");
        pages.push(page.body);
    }
    let log = daemon.seen.join("\n");
    assert!(log.contains("re-authenticated") && log.contains("re-authentication refused"), "{log}");
    assert!(seen.len() >= 10, "{seen:?}");
    let database = ["consentry.db", "consentry.db-wal"]
        .map(|name| std::fs::read(place.folder.path().join(name)).unwrap_or_default())
        .concat();
    let database = String::from_utf8_lossy(&database);
    for (what, text) in [
        ("the log", log.as_str()),
        ("/metrics", &metrics),
        ("a page", &pages.join("\n")),
        ("the database", &*database),
    ] {
        for secret in &seen {
            assert!(!text.contains(secret), "{what} shows {secret}");
        }
        assert_clean(&place, what, text);
    }
    daemon.kill().await;
}
