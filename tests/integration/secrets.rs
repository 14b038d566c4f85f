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
    let text =
        std::fs::read_to_string(&file).expect("readable").replace("tls: none}", "tls: none, username: consentry, password: smtp-geheim}");
    std::fs::write(&file, &text).expect("written");
    let mut daemon = place.daemon(&["--log.level=debug", "--log.format=json"]);
    let line = daemon.until(&["listening"]).await;
    let listening: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let url = format!("http://{}", listening["address"].as_str().expect("an address"));
    for name in ["contoso", "litware", "proseware", "tailspin", "adatum", "lucerne"] {
        let situation = situation(name);
        (situation.breaks)(&situation.tenant()).into_iter().for_each(|a| drop(place.simulator.apply(a).expect("broken")));
    }
    place.simulator.apply(Action::RemoveSecrets { app: consentry::demo::READER }).expect("no secret is accepted");
    mails(&place, 6).await;
    daemon.until(&["integration is broken"]).await;
    let metrics = reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("text");
    assert_clean(&place, "/metrics", &metrics);
    for mail in place.simulator.mailbox().all() {
        assert_clean(&place, "a mail", &String::from_utf8_lossy(&mail.raw));
    }
    assert_clean(&place, "the log", &daemon.seen.join("\n"));
    let links = daemon.seen.join("\n");
    assert!(!links.contains("token="), "the log shows a link");
    daemon.kill().await;
    place.simulator.mailbox().set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    for arguments in
        [&["probe", "proseware"][..], &["probe", "proseware", "--output=json"], &["test-email", "a@example.com"], &["check-config"]]
    {
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
    let death = Action::KillRefreshTokens { tenant: "northwind.example".to_owned(), app: consentry::demo::APP, death: TokenDeath::Expired };
    place.simulator.apply(death).expect("expired");
}
