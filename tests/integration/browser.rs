//! Re-authentication in a real browser: Chromium with the screen of a phone, driven by WebDriver. From the
//! mail to the green page, and every refusal.

use std::process::Stdio;

use entra_sim::Action;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::daemon::{Daemon, up};
use crate::world::{LONGEST_WAIT, World, eventually, free_address, replace};

/// The accessibility checks (axe-core, MPL-2.0).
const AXE: &str = include_str!("../fixtures/axe-core/axe.min.js");

struct Browser {
    client: Client,
    _driver: Child,
}

impl Browser {
    /// A browser with the screen of a phone; `None` if none is installed. `scheme` is `light` or `dark`.
    async fn start(scheme: &str) -> Option<Self> {
        if !crate::tools::available("chromedriver") || !crate::tools::available("chromium") {
            return None;
        }
        let address = free_address();
        let (_, port) = address.rsplit_once(':').expect("a port");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            // Far from UTC, so that a time in the reader's zone differs from one in UTC.
            .env("TZ", "Asia/Kathmandu")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver");
        eventually("chromedriver is ready", async || {
            let answer = reqwest::get(format!("http://{address}/status")).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            &format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light")),
        ];
        let phone = json!({"deviceMetrics": {"width": 390, "height": 844, "pixelRatio": 2.0}});
        let options = json!({"args": arguments, "mobileEmulation": phone});
        let capabilities =
            [("browserName".to_owned(), json!("chrome")), ("goog:chromeOptions".to_owned(), options)];
        let connector = hyper_util::client::legacy::connect::HttpConnector::new();
        let client = ClientBuilder::new(connector)
            .capabilities(capabilities.into_iter().collect())
            .connect(&format!("http://{address}"))
            .await
            .expect("a session");
        Some(Self { client, _driver: driver })
    }

    async fn heading(&self) -> String {
        self.client.find(Locator::Css("h1")).await.expect("a heading").text().await.expect("text")
    }

    /// Waits until a page with such a heading is there; the pages refresh themselves.
    async fn until_heading(&self, words: &str) {
        let path = format!("//h1[contains(., \"{words}\")]");
        let found = self.client.wait().at_most(LONGEST_WAIT).for_element(Locator::XPath(&path)).await;
        let source = self.client.source().await.unwrap_or_default();
        assert!(found.is_ok(), "no {words:?}: {source}");
    }

    async fn text(&self) -> String {
        self.client.find(Locator::Css("body")).await.expect("a body").text().await.expect("text")
    }

    /// Clicks an element as soon as it exists. If the page is replaced by the next one at that moment, the
    /// element of the next page is clicked.
    async fn click(&self, css: &str) {
        for _ in 0..10 {
            let found = self.client.wait().at_most(LONGEST_WAIT).for_element(Locator::Css(css)).await;
            match found.unwrap_or_else(|e| panic!("{css}: {e}")).click().await {
                Ok(()) => return,
                Err(error)
                    if ["stale element", "does not belong to the document"]
                        .iter()
                        .any(|why| error.to_string().contains(why)) => {}
                Err(error) => panic!("{css}: {error}"),
            }
        }
        panic!("{css} is replaced all the time");
    }

    /// Presses the page's button with the keyboard alone.
    async fn press_by_keyboard(&self) {
        for _ in 0..20 {
            self.keys('\u{e004}').await;
            let active = self.client.active_element().await.expect("an element");
            if active.tag_name().await.expect("a tag") == "button" {
                return self.keys('\u{e007}').await;
            }
        }
        panic!("the button cannot be reached with the Tab key");
    }

    async fn keys(&self, key: char) {
        let stroke = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value: key })
            .then(KeyAction::Up { value: key });
        self.client.perform_actions(stroke).await.expect("a key");
    }

    /// The page is accessible (axe-core finds nothing serious) and fits the phone. A screenshot is saved on
    /// request.
    async fn inspect(&self, name: &str) {
        let script = format!(
            "{AXE}; const done = arguments[arguments.length - 1]; axe.run(document).then(found => done(found.violations), e => done(String(e)));"
        );
        let found = self.client.execute_async(&script, Vec::new()).await.expect("axe");
        let violations = found.as_array().unwrap_or_else(|| panic!("{name}: axe did not run: {found}"));
        let serious = |v: &&Value| matches!(v["impact"].as_str(), Some("serious" | "critical"));
        let serious: Vec<&Value> = violations.iter().filter(serious).collect();
        assert!(serious.is_empty(), "{name}: {serious:#?}");
        let wide = self
            .client
            .execute("return document.documentElement.scrollWidth - innerWidth", Vec::new())
            .await
            .expect("a width");
        assert!(wide.as_i64().is_some_and(|w| w <= 0), "{name} is {wide} pixels wider than the phone");
        if let Some(folder) = std::env::var_os("CONSENTRY_SCREENSHOTS") {
            let picture = self.client.screenshot().await.expect("a picture");
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), picture)
                .expect("written");
        }
    }

    async fn end(self) {
        let _ = self.client.close().await;
    }
}

/// A daemon whose links lead to itself.
async fn site() -> (World, Daemon) {
    let world = World::live_and_reachable().await;
    let daemon = world.daemon(&["--web.enable-lifecycle"]);
    daemon.ready().await;
    (world, daemon)
}

async fn break_it(world: &World, daemon: &Daemon, integration: &str) {
    world.breaks(integration);
    daemon.becomes(integration, "broken").await;
}

/// Opens the newest mail in the mailbox and presses its button.
async fn follow_the_mail(browser: &Browser, world: &World, count: usize) {
    world.mails(count).await;
    let address = format!("{}/mail/{}", world.simulator.url(), count - 1);
    browser.client.goto(&format!("{address}/html")).await.expect("the mail");
    browser.inspect(&format!("mail-{count}")).await;
    browser.client.goto(&address).await.expect("the mailbox");
    browser.client.enter_frame(0).await.expect("the mail");
    browser
        .client
        .wait()
        // The frame may still be loading.
        .for_element(Locator::LinkText("Re-authenticate"))
        .await
        .expect("a button")
        .click()
        .await
        .expect("pressed");
    let window = browser.client.window().await.expect("a window");
    browser.client.switch_to_window(window).await.expect("out of the frame");
    browser.until_heading("has lost access").await;
}

#[tokio::test]
async fn from_the_mail_to_green_on_a_phone() {
    let Some(browser) = Browser::start("light").await else { return };
    let (world, daemon) = site().await;
    for (step, integration) in ["proseware", "contoso", "litware", "adatum"].into_iter().enumerate() {
        break_it(&world, &daemon, integration).await;
        // Each time an alert, the operators' mail about the sign-in, and the mail about the end.
        follow_the_mail(&browser, &world, 3 * step + 1).await;
        browser.inspect(&format!("landing-{integration}")).await;
        browser.press_by_keyboard().await;
        browser.click("#accept").await;
        browser.until_heading("works again").await;
        browser.inspect(&format!("green-{integration}")).await;
        daemon.becomes(integration, "healthy").await;
        world.mails(3 * step + 3).await;
        let metrics = daemon.metrics().await;
        assert!(metrics.contains(&format!("{} 1\n", up(integration))));
        assert!(
            metrics
                .contains(&format!("consentry_reauthentications_total{{result=\"success\"}} {}\n", step + 1))
        );
    }
    browser.end().await;
    daemon.kill().await;
}

#[tokio::test]
async fn every_refusal_in_the_browser() {
    let Some(browser) = Browser::start("dark").await else { return };
    let (world, daemon) = site().await;
    break_it(&world, &daemon, "proseware").await;
    let tenant = "proseware.example".to_owned();
    world.simulator.apply(Action::RevokeConsent { tenant, app: consentry::demo::APP }).expect("revoked");
    follow_the_mail(&browser, &world, 1).await;
    let link = browser.client.current_url().await.expect("a URL").to_string();
    for (name, before, decision, words) in [
        ("declined", None, "#cancel", "The permissions were not accepted"),
        (
            "admin-approval",
            Some("input[name=sim_user]:not(:checked)"),
            "#accept",
            "An administrator has to accept this",
        ),
        (
            "fewer",
            Some("input[name='sim_without_Group.Read.All']"),
            "#accept",
            "Some permissions are still missing",
        ),
    ] {
        refused(&browser, name, before, decision, words).await;
        browser.click("a.button").await;
        assert_eq!(
            browser.client.current_url().await.expect("a URL").as_str(),
            link,
            "{name}: another try with the same link"
        );
    }
    let (tenant, delegated) =
        ("proseware.example".to_owned(), vec!["User.Read".to_owned(), "Group.Read.All".to_owned()]);
    let consent = Action::Consent {
        tenant,
        app: consentry::demo::APP,
        user: None,
        resource: None,
        delegated,
        application: Vec::new(),
    };
    world.simulator.apply(consent).expect("consented");
    for (name, before, words) in [
        ("wrong-tenant", "#foreign", "That was another organization"),
        ("personal-account", "#personal", "That was a personal Microsoft account"),
    ] {
        refused(&browser, name, Some(before), "#accept", words).await;
        browser.click("a.button").await;
    }
    for (name, address, words) in [
        ("forged-link", format!("{link}x"), "This link is not valid"),
        ("no-sign-in", format!("{}/reauth/callback?state=x&code=y", daemon.url), "No sign-in is under way"),
    ] {
        browser.client.goto(&address).await.expect("a page");
        assert!(browser.heading().await.contains(words), "{name}");
        browser.inspect(name).await;
    }
    let metrics = daemon.metrics().await;
    for (result, count) in [("denied", 2), ("incomplete", 1), ("wrong_tenant", 2), ("success", 0)] {
        assert!(
            metrics.contains(&format!("consentry_reauthentications_total{{result=\"{result}\"}} {count}\n")),
            "{result}"
        );
    }
    browser.client.goto(&link).await.expect("the page");
    browser.click("button").await;
    browser.click("#accept").await;
    browser.until_heading("works again").await;
    browser.client.goto(&link).await.expect("the page");
    assert!(browser.heading().await.contains("already been used"));
    browser.inspect("used-link").await;
    browser.end().await;
    daemon.kill().await;
}

async fn refused(browser: &Browser, name: &str, before: Option<&str>, decision: &str, words: &str) {
    browser.click("button").await;
    if let Some(before) = before {
        browser.click(before).await;
    }
    browser.click(decision).await;
    browser.until_heading(words).await;
    assert!(!browser.text().await.contains("AADSTS"), "{name}: no codes for people");
    browser.inspect(name).await;
}

/// The status pages on a phone: usable by everybody, and from one page to the other.
#[tokio::test]
async fn the_status_pages_in_the_browser() {
    for scheme in ["light", "dark"] {
        let Some(browser) = Browser::start(scheme).await else { return };
        let (world, daemon) = site().await;
        break_it(&world, &daemon, "litware").await;
        browser.client.goto(&daemon.url).await.expect("the status page");
        assert!(
            browser.heading().await.contains("1 of 10 integrations broken"),
            "{}",
            browser.heading().await
        );
        browser.inspect(&format!("status-{scheme}")).await;
        browser
            .client
            .find(Locator::LinkText("Litware"))
            .await
            .expect("a link")
            .click()
            .await
            .expect("followed");
        browser.until_heading("Litware").await;
        browser.inspect(&format!("integration-{scheme}")).await;
        browser.click("form[action$=probe] button").await;
        browser.until_heading("Litware").await;
        browser.click("form[action$=link] button").await;
        browser.until_heading("A fresh link").await;
        browser.inspect(&format!("link-{scheme}")).await;
        browser.client.goto(&format!("{}/events", daemon.url)).await.expect("the history");
        browser.until_heading("What happened").await;
        assert!(browser.text().await.contains("The enterprise application was deleted."));
        browser.inspect(&format!("events-{scheme}")).await;
        // Search and filter without a script's help.
        browser.client.goto(&format!("{}/?q=northwind", daemon.url)).await.expect("the status page");
        assert!(browser.text().await.contains("1–1 of 1"));
        let title = browser
            .client
            .execute("return document.querySelector('time[title]').title", Vec::new())
            .await
            .expect("a title");
        assert!(
            title.as_str().is_some_and(|t| t.contains("GMT+5:45")),
            "the exact time, in the reader's zone: {title}"
        );
        // A configuration that is not in effect is named on the page.
        replace(&world.file(), "a_key_that_nobody_knows: 1\n");
        assert_eq!(daemon.reload().await.0, 500);
        browser.client.goto(&daemon.url).await.expect("the status page");
        assert!(browser.text().await.contains("a_key_that_nobody_knows"), "{}", browser.text().await);
        browser.inspect(&format!("trouble-{scheme}")).await;
        browser.end().await;
        daemon.kill().await;
    }
}
