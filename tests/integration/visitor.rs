//! A browser as far as HTTP is concerned: cookies, forms, and only those redirects that a test follows; and a
//! daemon that it can reach.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use consentry::app::Terms;
use consentry::listener::{self, Listener};
use consentry::store::TokenId;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::world::World;

/// A fleet whose links lead to a real listener.
pub struct Site {
    pub fleet: Fleet,
    pub url: String,
    _stop: watch::Sender<bool>,
}

impl Site {
    /// The demo's fleet.
    pub async fn start() -> Self {
        World::reachable("").await.site().await
    }

    /// The fleet of a world, served on the world's socket.
    pub async fn of(world: World) -> Self {
        let socket = world.listener.try_clone().expect("a socket");
        let listener = Listener::inherited_tcp(socket).expect("a listener");
        let url = world.url.clone();
        let fleet = Fleet::of(world).await;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener::serve(listener, Arc::clone(&fleet.daemon.sites.all), stopped));
        Self { fleet, url, _stop: stop }
    }

    /// The link of the last mail to an integration's admin.
    pub fn mailed_link(&self, integration: &str) -> String {
        let start = format!("{}/reauth/{integration}?token=", self.url);
        let mails = self.fleet.mails();
        let mut links =
            mails.iter().rev().flat_map(|(_, mail)| mail.text.lines()).filter(|l| l.starts_with(&start));
        links.next().unwrap_or_else(|| panic!("no link for {integration}")).to_owned()
    }

    /// A link as `reauth-link` prints it.
    pub fn fresh_link(&self, integration: &str) -> String {
        let links = consentry::app::links(&self.fleet.config, &self.fleet.daemon.store).expect("links");
        let targets = consentry::app::targets(&self.fleet.config);
        let id = targets.iter().find(|t| t.name == integration).map(consentry::monitor::Target::token_id);
        let nobody = || TokenId {
            integration: integration.to_owned(),
            client_id: String::new(),
            tenant: String::new(),
        };
        let terms = Terms { generation: self.generation(integration), accept_fewer: false };
        links.make(&id.unwrap_or_else(nobody), terms, self.fleet.clock.now())
    }

    /// The generation in which links are made now.
    pub fn generation(&self, integration: &str) -> i64 {
        let database =
            rusqlite::Connection::open(self.fleet.folder.path().join("consentry.db")).expect("the database");
        let sql = "SELECT generation FROM revocations WHERE integration = ?1";
        database.query_row(sql, [integration], |row| row.get(0)).unwrap_or(0)
    }

    /// A fresh link that is younger than whatever has just happened.
    pub async fn later_link(&self, integration: &str) -> String {
        self.fleet.pass(std::time::Duration::from_secs(1)).await;
        self.fresh_link(integration)
    }

    /// `consentry_reauthentications_total` by result, without zeroes.
    pub fn results(&self) -> BTreeMap<String, u32> {
        let text = self.fleet.exposition();
        let samples = text.lines().filter_map(|l| {
            l.strip_prefix("consentry_reauthentications_total{result=\"")?.split_once("\"} ")
        });
        samples
            .map(|(result, count)| (result.to_owned(), count.parse().expect("a count")))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// A response.
pub struct Page {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
    pub url: String,
}

impl Page {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Where it redirects to, resolved.
    pub fn location(&self) -> String {
        let base = url::Url::parse(&self.url).expect("a URL");
        base.join(self.header("location")).expect("a location").to_string()
    }

    /// Hidden and preset fields of its form, and where it goes.
    pub fn form(&self) -> (String, Vec<(String, String)>) {
        let action = attribute(
            self.body.split("<form").nth(1).unwrap_or_else(|| panic!("no form in {}", self.body)),
            "action",
        );
        let fields = self.body.split("<input").skip(1).map(|i| i.split('>').next().unwrap_or_default());
        let fields = fields.filter(|i| {
            attribute(i, "type") == "hidden" || (attribute(i, "type") == "radio" && i.contains("checked"))
        });
        let fields = fields.map(|i| (attribute(i, "name"), attribute(i, "value"))).collect();
        (url::Url::parse(&self.url).expect("a URL").join(&action).expect("an action").to_string(), fields)
    }
}

/// An attribute of a tag, quoted or not, unescaped.
fn attribute(tag: &str, name: &str) -> String {
    let Some((_, rest)) = tag.split_once(&format!(" {name}=")) else { return String::new() };
    let raw = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split([' ', '>']).next(),
    };
    let raw = raw.unwrap_or_default();
    ["&#38;", "&amp;"]
        .iter()
        .fold(raw.to_owned(), |text, entity| text.replace(entity, "&"))
        .replace("&#47;", "/")
}

#[derive(Default)]
pub struct Visitor {
    client: reqwest::Client,
    pub cookies: HashMap<String, String>,
}

impl Visitor {
    pub fn new() -> Self {
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { client, cookies: HashMap::new() }
    }

    pub async fn get(&mut self, url: &str) -> Page {
        self.send(self.client.get(url), url).await
    }

    pub async fn request(&mut self, method: &str, url: &str) -> Page {
        self.send(self.client.request(method.parse().expect("a method"), url), url).await
    }

    pub async fn post(&mut self, url: &str, fields: &[(String, String)], headers: &[(&str, &str)]) -> Page {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields);
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.finish());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, url).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder, url: &str) -> Page {
        let cookies = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
        let response = request.header("cookie", cookies).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        for set in headers.get_all("set-cookie") {
            let pair = set.to_str().expect("text").split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        Page { status, headers, body: response.text().await.expect("text"), url: url.to_owned() }
    }

    /// Presses the button on the page of a link; returns Entra's address.
    pub async fn press(&mut self, link: &str) -> String {
        let page = self.get(link).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let (action, fields) = page.form();
        let begun = self.post(&action, &fields, &[]).await;
        assert_eq!(begun.status, 303, "{}", begun.body);
        begun.location()
    }

    /// Decides on Entra's page; returns the address to which Entra sends the browser back.
    pub async fn decide(&mut self, entra: &str, decision: &str, more: &[(&str, &str)]) -> String {
        let page = self.get(entra).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let (action, mut fields) = page.form();
        fields.retain(|(name, _)| !more.iter().any(|(n, _)| n == name));
        fields.push(("sim_decision".to_owned(), decision.to_owned()));
        fields.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let answer = self.post(&action, &fields, &[]).await;
        assert_eq!(answer.status, 302, "{}", answer.body);
        answer.location()
    }

    /// From the link to Entra's response, accepting everything that is requested.
    pub async fn accept(&mut self, link: &str) -> String {
        let entra = self.press(link).await;
        self.decide(&entra, "accept", &[]).await
    }
}
