//! Our own credentials that cannot be read, and requests that must not go through a proxy.

use std::time::Duration;

use tokio::process::Command;

use crate::evidence::{pairs, recovered};
use crate::fleet::Fleet;
use crate::world::{MINUTE, World, text};

/// Our own files cannot be read: Entra is not asked, and no admin is mailed.
#[tokio::test]
async fn unreadable_credentials_are_reported_to_the_operators() {
    let mut world = World::demo().await;
    let (secret, token) = (world.path("secret"), world.path("token"));
    std::fs::write(&secret, "demo-secret\n").expect("written");
    let good = world.refresh_token("northwind");
    std::fs::write(&token, &good).expect("written");
    world
        .set("apps.sequr.credential", "{client_secret_file: secret}")
        .add("integrations.northwind.refresh_token_file", "token");
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    assert_eq!((fleet.up("northwind").as_deref(), fleet.up("contoso").as_deref()), (Some("1"), Some("1")));

    std::fs::write(&secret, "\n").expect("written");
    fleet.simulator.take_requests();
    fleet.pass(12 * MINUTE).await;
    let all = pairs(&[
        ("consent", "credential_unreadable"),
        ("enterprise_app", "credential_unreadable"),
        ("group_access", "credential_unreadable"),
    ]);
    let mut reasons = fleet.reasons("contoso");
    reasons.sort();
    assert_eq!((fleet.up("contoso").as_deref(), reasons), (Some("1"), all));
    let asked =
        fleet.simulator.take_requests().iter().filter(|r| r.target.starts_with("/contoso.example/")).count();
    assert_eq!(asked, 0, "Entra was not asked");
    std::fs::remove_file(&secret).expect("removed");
    fleet.pass(12 * MINUTE).await;
    assert!(
        fleet.reasons("contoso").iter().all(|(_, r)| r == "credential_unreadable"),
        "{:?}",
        fleet.reasons("contoso")
    );
    std::fs::write(&secret, "demo-secret\n").expect("written");
    recovered(&fleet, &["contoso", "northwind"], "the secret is back").await;

    std::fs::write(&token, "").expect("written");
    fleet.pass(6 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "an empty token file"
    );
    std::fs::remove_file(&token).expect("removed");
    std::fs::create_dir(&token).expect("a folder in its place");
    fleet.pass(6 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "a folder"
    );
    std::fs::remove_dir(&token).expect("removed");
    std::fs::write(&token, &good).expect("written");
    recovered(&fleet, &["northwind"], "the token is back").await;
    let to_admins: Vec<String> =
        fleet.notified().into_iter().filter(|mail| mail.contains("to it@")).collect();
    assert_eq!(to_admins, Vec::<String>::new());
}

/// A row that another key has encrypted is reported as such, and not as a fault of Entra.
#[tokio::test]
async fn a_stored_token_that_does_not_decrypt_is_reported_to_the_operators() {
    let fleet = Fleet::start().await;
    fleet.pass(6 * MINUTE).await;
    let database =
        rusqlite::Connection::open(fleet.folder.path().join("consentry.db")).expect("the database");
    database.busy_timeout(Duration::from_secs(5)).expect("patience");
    let changed = database
        .execute("UPDATE tokens SET current = x'00' WHERE integration = 'northwind'", [])
        .expect("changed");
    assert_eq!(changed, 1);
    fleet.pass(12 * MINUTE).await;
    assert!(
        fleet.reasons("northwind").contains(&("group_access".to_owned(), "credential_unreadable".to_owned())),
        "{:?}",
        fleet.reasons("northwind")
    );
    assert_eq!(fleet.kinds("it@northwind.example"), Vec::<String>::new());
}

/// Plain http is allowed on loopback because nobody else can read it there. A proxy could.
#[tokio::test]
async fn loopback_never_goes_through_a_configured_proxy() {
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let mut world = World::demo().await;
    let url = format!("http://localhost:{}", world.simulator.http.port());
    world
        .set("cloud.login_url", &url)
        .set("cloud.graph_url", &url)
        .add("upstream", &format!("{{proxy_url: \"http://{closed}\"}}"));
    let fleet = world.fleet().await;
    fleet.pass(6 * MINUTE).await;
    for name in ["northwind", "fabrikam", "litware"] {
        assert_eq!((fleet.up(name).as_deref(), fleet.reasons(name)), (Some("1"), vec![]), "{name}");
    }
}

#[tokio::test]
async fn loopback_never_goes_through_the_proxy_of_the_environment() {
    let mut world = World::live().await;
    for url in [world.simulator.url(), format!("http://localhost:{}", world.simulator.http.port())] {
        world.set("cloud.login_url", &url).set("cloud.graph_url", &url);
        let mut command = Command::new(env!("CARGO_BIN_EXE_consentry"));
        command.args(["probe", "northwind"]).arg(world.config_flag());
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(variable, "http://127.0.0.1:9");
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        let output = command.output().await.expect("ended");
        assert_eq!(output.status.code(), Some(0), "{url}: {}", text(&output.stdout));
    }
}
