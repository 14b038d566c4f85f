//! The top level of the file: hosts, rhythm, storage, mail, links.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use lettre::Address;
use lettre::message::Mailbox;
use url::{Host, Url};

use super::apps;
use super::reader::{At, Findings, Section};
use super::tree::Node;
use super::{Cloud, Config, Email, Probe, Reauthentication, ReauthenticationMode, Smtp, SmtpTls, Storage, Upstream};
use crate::domain::{Reason, parse_hello};
use crate::secret::Secret;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

pub(super) fn read(root: &Node, file: &Path, findings: &Findings<'_>) -> Option<Config> {
    let mut top = At::root(root, file, findings).section();
    let cloud = top.or("cloud", known_cloud("global"), cloud);
    let upstream = top.or("upstream", Upstream::default(), |at| Some(upstream(at)));
    let probe = top.get("probe").map_or_else(|| probe(None), |at| probe(Some(at.section())));
    let storage = top.get("storage").map(|at| at.section());
    let storage = storage_section(storage, file);
    let email = top.get("email").map(|at| email(&at));
    let section = top.get("reauthentication").map(|at| at.section());
    // One that is wrong is not missing.
    let has_public_url = section.as_ref().is_some_and(|s| s.has("public_url"));
    let reauthentication = reauthentication(section);
    let readers = top.get("directory_readers").map(|at| apps::readers(&at)).unwrap_or_default();
    let apps = top.get("apps").map(|at| apps::apps(&at)).unwrap_or_default();
    let mut integrations = apps::Integrations::new(&apps, &readers);
    if let Some(at) = top.get("integrations") {
        integrations.read(&at);
    }
    let integration_files = top.get("integration_files").map(|at| integrations.read_files(&at, findings)).unwrap_or_default();
    let reason_overrides = top.get("reason_overrides").map(|at| overrides(&at)).unwrap_or_default();
    if let Some(Some(_)) = &email
        && !has_public_url
        && apps.values().any(|a| a.value.reauthentication == ReauthenticationMode::Builtin)
    {
        top.at.problem("reauthentication.public_url is missing; mails need it for their links, for example https://consentry.example.com");
    }
    let integrations = integrations.finish();
    top.finish();
    Some(Config {
        cloud,
        upstream,
        probe,
        storage: storage?,
        email: match email {
            Some(email) => Some(email?),
            None => None,
        },
        reauthentication,
        readers: readers.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
        apps: apps.into_iter().map(|(k, v)| (k, v.value)).collect(),
        integrations,
        reason_overrides,
        integration_files,
    })
}

/// The hosts of Microsoft's clouds (Microsoft, `authentication-national-cloud.md`).
fn known_cloud(name: &str) -> Cloud {
    let (login, graph) = match name {
        "us_gov" => ("login.microsoftonline.us", "graph.microsoft.us"),
        "us_gov_dod" => ("login.microsoftonline.us", "dod-graph.microsoft.us"),
        "china" => ("login.partner.microsoftonline.cn", "microsoftgraph.chinacloudapi.cn"),
        _ => ("login.microsoftonline.com", "graph.microsoft.com"),
    };
    Cloud { login_url: format!("https://{login}"), graph_url: format!("https://{graph}") }
}

fn cloud(at: &At<'_, '_>) -> Option<Cloud> {
    if matches!(at.node.value, super::tree::Value::Mapping(_)) {
        let mut section = at.section();
        let url = |at: Option<At<'_, '_>>| at.and_then(|at| host_url(&at));
        let (login, graph) = (url(section.required("login_url")), url(section.required("graph_url")));
        section.finish();
        return Some(Cloud { login_url: login?, graph_url: graph? });
    }
    let names = ["global", "us_gov", "us_gov_dod", "china"].map(|n| (n, n));
    at.one_of(&names).map(known_cloud)
}

/// An absolute URL: https, or http on loopback. Without trailing slash.
fn host_url(at: &At<'_, '_>) -> Option<String> {
    at.parsed("must be an https URL without path, query or version (http is allowed on loopback only)", |text| {
        let url = Url::parse(text).ok()?;
        let plain =
            url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        (plain && safe).then(|| text.trim_end_matches('/').to_owned())
    })
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An http or https URL that may have a path. Without trailing slash.
fn web_url(at: &At<'_, '_>) -> Option<String> {
    at.parsed("must be an http or https URL without query, such as https://consentry.example.com", |text| {
        let url = Url::parse(text).ok()?;
        let good = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() && url.fragment().is_none();
        // As the parser writes it: scheme and host in lower case.
        good.then(|| url.as_str().trim_end_matches('/').to_owned())
    })
}

fn ca_file(section: &mut Section<'_, '_>) -> Option<std::path::PathBuf> {
    let mut tls = section.get("tls_config")?.section();
    let file = tls.get("ca_file").and_then(|at| {
        let path = at.readable_file()?;
        let pem = std::fs::read(&path).unwrap_or_default();
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map(|c| c.len()).unwrap_or(0);
        if certificates == 0 {
            at.problem(format!("{} holds no PEM certificate", path.display()));
            return None;
        }
        Some(path)
    });
    tls.finish();
    file
}

fn upstream(at: &At<'_, '_>) -> Upstream {
    let mut section = at.section();
    let proxy_url = section.get("proxy_url").and_then(|at| {
        let text = at.text()?;
        // A proxy URL may hold a password, so it is not shown.
        let good = Url::parse(&text).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        if !good {
            at.problem("must be an http or https URL, such as http://proxy.example.com:3128");
        }
        good.then(|| Secret::new(text))
    });
    let upstream = Upstream { proxy_url, ca_file: ca_file(&mut section) };
    section.finish();
    upstream
}

fn probe(section: Option<Section<'_, '_>>) -> Probe {
    let mut probe = Probe {
        interval: SECONDS(300),
        timeout: SECONDS(30),
        concurrency: 64,
        retry_interval: SECONDS(30),
        failure_threshold: 2,
        success_threshold: 1,
    };
    if let Some(mut section) = section {
        probe.interval = section.or("interval", probe.interval, At::duration);
        probe.timeout = section.or("timeout", probe.timeout, At::duration);
        probe.concurrency = section.or("concurrency", 64, |at| at.integer(1, 10_000)) as usize;
        probe.retry_interval = section.or("retry_interval", probe.retry_interval, At::duration);
        probe.failure_threshold = section.or("failure_threshold", 2, |at| at.integer(1, 1000));
        probe.success_threshold = section.or("success_threshold", 1, |at| at.integer(1, 1000));
        section.finish();
    }
    probe
}

fn storage_section(section: Option<Section<'_, '_>>, file: &Path) -> Option<Storage> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut storage = Storage { path: directory.join("consentry.db"), encryption_key_file: directory.join("consentry.key") };
    let Some(mut section) = section else { return Some(storage) };
    if let Some(at) = section.get("url") {
        let path = at.parsed("must be sqlite://PATH, such as sqlite://consentry.db", |text| {
            text.strip_prefix("sqlite://").filter(|p| !p.is_empty()).map(|p| directory.join(p))
        });
        storage.path = path.unwrap_or(storage.path);
    }
    if let Some(path) = section.get("encryption_key_file").and_then(|at| at.path()) {
        storage.encryption_key_file = path;
    }
    section.finish();
    Some(storage)
}

/// A bare mail address.
pub(super) fn mail_address(at: &At<'_, '_>) -> Option<String> {
    at.parsed("is not a mail address; write it like it-admin@example.com", |t| t.trim().parse::<Address>().ok().map(|a| a.to_string()))
}

fn mailbox(at: &At<'_, '_>) -> Option<Mailbox> {
    at.parsed("is not a mail address; write it like Consentry <consentry@example.com>", |t| t.parse().ok())
}

/// `None` when something in it is wrong, which is noted.
fn email(at: &At<'_, '_>) -> Option<Email> {
    let mut section = at.section();
    let from = section.required("from").and_then(|at| mailbox(&at));
    let reply_to = section.get("reply_to").and_then(|at| mailbox(&at));
    let operators = section.get("operators").map(|at| at.items().iter().filter_map(mail_address).collect()).unwrap_or_default();
    let support_contact = section.get("support_contact").and_then(|at| at.non_empty());
    let send_resolved = section.or("send_resolved", true, At::boolean);
    unbuilt_mail_keys(&mut section);
    let (smtp_at, graph_at) = (section.get("smtp"), section.get("graph"));
    let smtp = match (smtp_at, graph_at) {
        (Some(at), None) => smtp(&at).map(Some),
        (None, Some(at)) => {
            at.unbuilt();
            Some(None)
        }
        (Some(_), Some(at)) => {
            at.problem("is given as well as smtp; keep one of the two");
            None
        }
        (None, None) => {
            section.at.problem("smtp is missing; it is required, for example smtp: {host: smtp.example.com}");
            None
        }
    };
    let empty = matches!(&operators, v if Vec::<String>::is_empty(v));
    if empty {
        section.at.warn("operators is empty: nobody hears of failures that only operators can mend");
    }
    section.finish();
    Some(Email { from: from?, reply_to, operators, support_contact, smtp: smtp?, send_resolved })
}

/// Keys of grouping, reminders and the brake: validated already.
fn unbuilt_mail_keys(section: &mut Section<'_, '_>) {
    if let Some(at) = section.get("group_wait") {
        at.duration_or_zero();
        at.unbuilt();
    }
    if let Some(at) = section.get("reminders") {
        for item in at.items() {
            item.duration();
        }
        at.unbuilt();
    }
    if let Some(at) = section.get("brake") {
        let mut brake = at.section();
        let share = |t: &str| t.parse::<f64>().ok().filter(|s| (0.0..=1.0).contains(s));
        brake.get("share").map(|at| at.parsed("must be a share from 0 to 1, such as 0.25", share));
        brake.get("minimum").map(|at| at.integer(1, 1_000_000));
        brake.get("hold").map(|at| at.duration());
        brake.finish();
        at.unbuilt();
    }
}

fn smtp(at: &At<'_, '_>) -> Option<Smtp> {
    let mut section = at.section();
    let host = section.required("host").and_then(|at| at.non_empty());
    let tls = section.or("tls", SmtpTls::Starttls, |at| {
        at.one_of(&[("starttls", SmtpTls::Starttls), ("implicit", SmtpTls::Implicit), ("none", SmtpTls::None)])
    });
    let default_port = if tls == SmtpTls::Implicit { 465 } else { 587 };
    let port = section.or("port", default_port, |at| at.integer(1, 65_535));
    let ca_file = ca_file(&mut section);
    let hello = section.get("hello").and_then(|at| hello(&at));
    let connections = section.or("connections", 2, |at| at.integer(1, 50)) as usize;
    let username = section.get("username").and_then(|at| at.non_empty());
    let password = section.secret("password", "password_file");
    if let Some(at) = section.get("oauth2") {
        let mut oauth2 = at.section();
        oauth2.required("tenant_id").map(|at| apps::tenant(&at));
        oauth2.required("client_id").map(|at| at.guid());
        oauth2.secret("client_secret", "client_secret_file");
        oauth2.finish();
        at.unbuilt();
    }
    let credentials = match (username, password) {
        (Some(name), Some(password)) => Some((name, password)),
        (None, None) => None,
        (Some(_), None) if section.has("oauth2") || section.has("password") || section.has("password_file") => None,
        (Some(_), None) => {
            section.at.problem("username is given without a password; add password_file or remove username");
            None
        }
        (None, Some(_)) => {
            section.at.problem("a password is given without username; add it");
            None
        }
    };
    if credentials.is_some() && tls == SmtpTls::None {
        section.at.warn("the password crosses the network unprotected; use tls: starttls or implicit");
    }
    section.finish();
    Some(Smtp { host: host?, port: u16::try_from(port).ok()?, tls, ca_file, credentials, hello, connections })
}

/// The name for EHLO. A bare one is taken, because some relays inside a network know no other.
fn hello(at: &At<'_, '_>) -> Option<String> {
    let name = parse_hello(&at.non_empty()?).map_err(|problem| at.problem(problem)).ok()?;
    if !name.starts_with('[') && !name.contains('.') {
        at.warn("is no full host name; many mail servers refuse it. Write it like consentry.example.com");
    }
    Some(name)
}

fn reauthentication(section: Option<Section<'_, '_>>) -> Reauthentication {
    let mut settings = Reauthentication { public_url: None, link_ttl: SECONDS(7 * 86_400), listen_address: None };
    if let Some(mut section) = section {
        settings.public_url = section.get("public_url").and_then(|at| {
            let url = web_url(&at)?;
            if Url::parse(&url).is_ok_and(|u| u.scheme() == "http" && !is_loopback(&u)) {
                at.warn("is plain http: links cross the network unprotected, and Entra accepts http redirect URIs on localhost only");
            }
            Some(url)
        });
        settings.link_ttl = section.or("link_ttl", settings.link_ttl, At::duration);
        settings.listen_address = section.get("listen_address").and_then(|at| {
            at.parsed("is not an address; write it like :8443 or 127.0.0.1:8443", |t| {
                let (host, port) = t.rsplit_once(':')?;
                (port.parse::<u16>().is_ok() && !host.contains(['/', ' '])).then(|| t.to_owned())
            })
        });
        section.finish();
    }
    settings
}

fn overrides(at: &At<'_, '_>) -> HashMap<u32, Reason> {
    let words: Vec<(&str, Reason)> = Reason::ALL.iter().map(|r| (r.label(), *r)).collect();
    let entry = |(key, at): (String, At<'_, '_>)| {
        let number = key.strip_prefix("AADSTS").and_then(|n| n.parse().ok());
        if number.is_none() {
            at.problem("keys must look like AADSTS700082");
        }
        Some((number?, at.one_of(&words)?))
    };
    at.named().into_iter().filter_map(entry).collect()
}
