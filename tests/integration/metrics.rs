//! `/metrics` over a real socket.

use std::io::Read as _;

use consentry::domain::{Check, Reason};

use crate::fleet::Fleet;
use crate::visitor::Site;
use crate::world::{MINUTE, World, situation};

/// The demo's fleet, served. Its links lead elsewhere.
async fn served() -> Site {
    World::demo().await.site().await
}

async fn get(url: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn formats_and_compression() {
    let site = served().await;
    let (fleet, url) = (&site.fleet, &site.url);
    fleet.pass(6 * MINUTE).await;
    let metrics = format!("{url}/metrics");
    let plain = get(&metrics, &[]).await;
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let plain = plain.text().await.expect("text");
    let open =
        get(&metrics, &[("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")]).await;
    assert_eq!(open.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text().await.expect("text").ends_with("# EOF\n"));
    let packed = get(&metrics, &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.bytes().await.expect("bytes")[..])
        .read_to_string(&mut unpacked)
        .expect("gzip");
    let own = |text: &str| {
        text.lines().filter(|l| l.contains("integration=")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(own(&unpacked), own(&plain));
}

/// `consentry_checks` has a series for every state from the start. (The catalogue's test compares the families.)
#[tokio::test]
async fn every_state_of_a_check_has_a_series_from_the_start() {
    let fleet = Fleet::start().await;
    fleet.pass(12 * MINUTE).await;
    let text = fleet.exposition();
    for check in Check::ALL {
        let reasons = Reason::ALL.iter().filter(|r| r.possible_in(check)).count();
        let series = text
            .lines()
            .filter(|l| l.starts_with(&format!("consentry_checks{{check=\"{}\"", check.label())))
            .count();
        assert_eq!(series, reasons + 1, "every state of {check:?} is there from the start");
    }
}

/// A scrape does not wait for probes: it gets a response while the upstream hangs.
#[tokio::test]
async fn health_readiness_and_pages() {
    let site = served().await;
    let (fleet, url) = (&site.fleet, &site.url);
    assert_eq!(get(&format!("{url}/-/healthy"), &[]).await.status(), 200);
    assert_eq!(get(&format!("{url}/-/ready"), &[]).await.status(), 503, "not before it runs");
    assert_eq!(get(&format!("{url}/nowhere"), &[]).await.status(), 404);
    assert_eq!(get(&format!("{url}/"), &[]).await.status(), 200);
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    let mail = fleet.mails().remove(0).1;
    let path =
        mail.text.lines().find_map(|l| l.strip_prefix("https://c.example.com")).expect("a link").to_owned();
    let page = get(&format!("{url}{path}"), &[]).await;
    assert_eq!(
        (page.status().as_u16(), page.headers()["referrer-policy"].to_str().expect("text")),
        (200, "same-origin")
    );
    let page = page.text().await.expect("text");
    assert!(page.contains("A permission that the integration needs was taken away."));
    for forged in [
        "/reauth/contoso?token=AAAA",
        "/reauth/contoso",
        "/reauth/nobody?token=AAAA",
        &path.replace("contoso", "litware"),
    ] {
        assert_eq!(get(&format!("{url}{forged}"), &[]).await.status(), 403, "{forged}");
    }
    fleet.clock.set(fleet.clock.now().plus(8 * 24 * 60 * MINUTE));
    assert_eq!(get(&format!("{url}{path}"), &[]).await.status(), 410, "after a week");
}
