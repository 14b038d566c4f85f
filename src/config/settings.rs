//! The top level of the file: hosts, timing, storage, mail, links.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use lettre::message::Mailbox;
use url::{Host, Url};

use super::apps;
use super::credentials::{client_secret, own_credential};
use super::cursor::{Cursor, Section};
use super::fields::{can_go_out, mail_address, notify};
use super::integrations::Integrations;
use super::problem::Diagnostics;
use super::tree::Node;
use super::values::shown_url;
use super::{
    App, Brake, Cloud, Config, Email, GraphMail, MailAccount, MailTransport, Probe, Reauthentication,
    ReauthenticationMode, Smtp, SmtpLogin, SmtpTls, Storage, Upstream,
};
use crate::credential::ClientCredential;
use crate::domain::{Notify, Reason, parse_hello, parse_mailbox};
use crate::secret::Secret;
use crate::urls::is_loopback;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// The longest validity of a link.
const LONGEST_LINK: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn read(root: &Node, file: &Path, findings: &Diagnostics<'_>) -> Option<Config> {
    let mut top = Cursor::root(root, file, findings).section();
    let cloud = top.or("cloud", Cloud::default(), cloud);
    let upstream = top.or("upstream", Upstream::default(), |at| Some(upstream(at)));
    let probe = top.get("probe").map_or_else(|| probe(None), |at| probe(Some(at.section())));
    let storage = top.get("storage").map(|at| at.section());
    let storage = storage_section(storage, file);
    let email = top.get("email").map(|at| email(&at));
    let section = top.get("reauthentication").map(|at| at.section());
    // An invalid public_url is reported as invalid, not as missing.
    let has_public_url = section.as_ref().is_some_and(|s| s.has("public_url"));
    let reauthentication = reauthentication(section);
    let readers = top.get("directory_readers").map(|at| apps::readers(&at)).unwrap_or_default();
    let apps = top.get("apps").map(|at| apps::apps(&at, &cloud.graph_url)).unwrap_or_default();
    let mut integrations = Integrations::new(&apps, &readers);
    if let Some(at) = top.get("integrations") {
        integrations.read(&at);
    }
    let integration_files =
        top.get("integration_files").map(|at| integrations.read_files(&at, findings)).unwrap_or_default();
    let reason_overrides = top.get("reason_overrides").map(|at| overrides(&at)).unwrap_or_default();
    if let Some(Some(_)) = &email
        && !has_public_url
        && apps.values().any(|a| a.value.reauthentication == ReauthenticationMode::Builtin)
    {
        top.at.problem("reauthentication.public_url is missing; mails need it for their links, for example https://consentry.example.com");
    }
    let integrations = integrations.finish();
    let settings = email.iter().flatten().map(|email| email.notify);
    let settings = settings.chain(apps.values().filter_map(|app| app.value.notify));
    let mut settings = settings.chain(integrations.iter().filter_map(|integration| integration.notify));
    if let Some(Some(email)) = &email
        && email.operators.is_empty()
        && settings.any(|setting| setting == Notify::Operators)
    {
        top.at.warn("notify: operators reaches nobody, because email.operators is empty; list the people who run Consentry there");
    }
    if let Some(Some(email)) = &email {
        own_mail_account(email, &apps, &top.at);
    }
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

/// The mail account must work when an integration does not, so it is none of the applications that are probed.
fn own_mail_account(email: &Email, apps: &BTreeMap<String, apps::Known<App>>, at: &Cursor<'_, '_>) {
    let (account, mailbox, key) = match &email.transport {
        MailTransport::Graph(graph) => (&graph.account, &graph.mailbox, "email.graph"),
        MailTransport::Smtp(Smtp { login: Some(SmtpLogin::OAuth2(mailbox, account)), .. }) => {
            (account, mailbox, "email.smtp.oauth2")
        }
        MailTransport::Smtp(_) => return,
    };
    if let Some((name, _)) = apps.iter().find(|(_, app)| app.value.client_id == account.client_id) {
        at.problem(format!(
            "{key}.client_id is that of the application {name}, which is probed; its failure would silence the mails about it, so register an application of its own for mail"
        ));
    }
    let from = email.from.email.to_string();
    if !from.eq_ignore_ascii_case(mailbox) {
        at.warn(format!(
            "email.from is {from}, but the mails are sent by the mailbox {mailbox}; it needs Send As for that address, and consentry test-email shows whether it has it"
        ));
    }
}

fn cloud(at: &Cursor<'_, '_>) -> Option<Cloud> {
    if matches!(at.node.value, super::tree::Value::Mapping(_)) {
        let mut section = at.section();
        let url = |at: Option<Cursor<'_, '_>>| at.and_then(|at| host_url(&at));
        let (login, graph) = (url(section.required("login_url")), url(section.required("graph_url")));
        section.finish();
        return Some(Cloud { login_url: login?, graph_url: graph? });
    }
    let names: Vec<(&str, &str)> = Cloud::words().map(|word| (word, word)).collect();
    at.one_of(&names).and_then(Cloud::named)
}

/// An absolute URL: https, or http on loopback. Without trailing slash.
fn host_url(at: &Cursor<'_, '_>) -> Option<String> {
    at.parsed(
        "must be an https URL without path, query or version (http is allowed on loopback only)",
        |text| {
            let url = Url::parse(text).ok()?;
            let plain = url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none();
            let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
            (plain && safe).then(|| url.as_str().trim_end_matches('/').to_owned())
        },
    )
}

/// An http or https URL that may have a path. Without trailing slash.
fn web_url(at: &Cursor<'_, '_>) -> Option<String> {
    const HINT: &str = "must be an http or https URL without query, such as https://consentry.example.com";
    at.checked(|text| {
        Url::parse(text).map_err(|_| HINT)?;
        let url = shown_url(text)?;
        let good = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none();
        // As the parser writes it: scheme and host in lower case.
        good.then(|| url.as_str().trim_end_matches('/').to_owned()).ok_or(HINT)
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

fn upstream(at: &Cursor<'_, '_>) -> Upstream {
    let mut section = at.section();
    let proxy_url = section.get("proxy_url").and_then(|at| {
        let text = at.text()?;
        // A proxy URL may contain a password, so it is not shown.
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
        probe.interval = section.or("interval", probe.interval, Cursor::duration);
        probe.timeout = section.or("timeout", probe.timeout, Cursor::duration);
        probe.concurrency = section.or("concurrency", 64, |at| at.integer(1, 10_000)) as usize;
        probe.retry_interval = section.or("retry_interval", probe.retry_interval, Cursor::duration);
        probe.failure_threshold = section.or("failure_threshold", 2, |at| at.integer(1, 1000));
        probe.success_threshold = section.or("success_threshold", 1, |at| at.integer(1, 1000));
        section.finish();
    }
    probe
}

fn storage_section(section: Option<Section<'_, '_>>, file: &Path) -> Option<Storage> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut storage = Storage {
        path: directory.join("consentry.db"),
        encryption_key_file: directory.join("consentry.key"),
    };
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

/// A mail address with or without a display name. The rules for the address are those of a bare one.
fn mailbox(at: &Cursor<'_, '_>) -> Option<Mailbox> {
    at.checked(|text| {
        let (name, address) =
            parse_mailbox(text).map_err(|why| format!("is not a mail address: it {why}"))?;
        can_go_out(&address)?;
        let unusable =
            |_| "is not a mail address; write it like Consentry <consentry@example.com>".to_owned();
        Ok::<_, String>(Mailbox::new(name, address.parse().map_err(unusable)?))
    })
}

/// `None` when something in it is invalid; the problem is recorded.
fn email(at: &Cursor<'_, '_>) -> Option<Email> {
    let mut section = at.section();
    let from = section.required("from").and_then(|at| mailbox(&at));
    let reply_to = section.get("reply_to").and_then(|at| mailbox(&at));
    let operators = section
        .get("operators")
        .map(|at| at.items().iter().filter_map(mail_address).collect())
        .unwrap_or_default();
    let support_contact = section.get("support_contact").and_then(|at| at.non_empty());
    let send_resolved = section.or("send_resolved", true, Cursor::boolean);
    let setting = section.or("notify", Notify::Admins, notify);
    let group_wait = section.or("group_wait", SECONDS(30), Cursor::duration_or_zero);
    let reminders = section.get("reminders").map_or_else(usual_reminders, |at| reminders(&at));
    let brake = section.get("brake").map(|at| brake(&at)).unwrap_or_default();
    let (smtp_at, graph_at) = (section.get("smtp"), section.get("graph"));
    let transport = match (smtp_at, graph_at) {
        (Some(at), None) => smtp(&at).map(MailTransport::Smtp),
        (None, Some(at)) => graph_mail(&at).map(MailTransport::Graph),
        (Some(_), Some(at)) => {
            at.problem("is given as well as smtp; keep one of the two");
            None
        }
        (None, None) => {
            section.at.problem("smtp is missing; it is required, for example smtp: {host: smtp.example.com}");
            None
        }
    };
    let operators: Vec<String> = operators;
    if operators.is_empty() {
        section.at.warn("operators is empty: nobody is notified of failures that only operators can fix");
    }
    section.finish();
    Some(Email {
        from: from?,
        reply_to,
        operators,
        support_contact,
        transport: transport?,
        send_resolved,
        notify: setting,
        group_wait,
        reminders,
        brake,
    })
}

fn graph_mail(at: &Cursor<'_, '_>) -> Option<GraphMail> {
    let mut graph = at.section();
    let tenant = graph.required("tenant_id").and_then(|at| apps::tenant(&at));
    let client_id = graph.required("client_id").and_then(|at| at.guid());
    let credential = graph.required("credential").and_then(|at| own_credential(&at, "the mail account"));
    let mailbox = graph.required("sender").and_then(|at| mail_address(&at));
    graph.finish();
    let account = MailAccount { tenant: tenant?, client_id: client_id?, credential: credential? };
    Some(GraphMail { account, mailbox: mailbox? })
}

/// XOAUTH2's account.
fn oauth2(at: &Cursor<'_, '_>) -> Option<MailAccount> {
    let mut section = at.section();
    let tenant = section.required("tenant_id").and_then(|at| apps::tenant(&at));
    let client_id = section.required("client_id").and_then(|at| at.guid());
    let secret = client_secret(&mut section);
    if secret.is_none() && !section.has("client_secret") && !section.has("client_secret_file") {
        section
            .at
            .problem("client_secret_file is missing; it holds the secret of the mail account's registration");
    }
    section.finish();
    Some(MailAccount {
        tenant: tenant?,
        client_id: client_id?,
        credential: ClientCredential::Secret(secret?),
    })
}

/// How to log in to the mail server. An error means that something is invalid; the problem is recorded.
fn smtp_login(section: &mut Section<'_, '_>) -> Result<Option<SmtpLogin>, ()> {
    let username = section.get("username").and_then(|at| at.non_empty());
    let password = section.secret("password", "password_file");
    let has_password = section.has("password") || section.has("password_file");
    if let Some(at) = section.get("oauth2") {
        let account = oauth2(&at);
        if has_password {
            at.problem("is given as well as a password; keep one of the two");
            return Err(());
        }
        if username.is_none() && !section.has("username") {
            section
                .at
                .problem("oauth2 is given without username; add it: the address of the mailbox that sends");
        }
        return username.zip(account).map(|(name, account)| Some(SmtpLogin::OAuth2(name, account))).ok_or(());
    }
    match (username, password) {
        (Some(name), Some(password)) => Ok(Some(SmtpLogin::Password(name, password))),
        (Some(_), None) if !has_password => {
            section.at.problem("username is given without a password; add password_file or remove username");
            Err(())
        }
        (None, Some(_)) => {
            section.at.problem("a password is given without username; add it");
            Err(())
        }
        _ => Ok(None),
    }
}

/// Three reminders a day apart, four three days apart, three a week apart.
fn usual_reminders() -> Vec<Duration> {
    [[1; 3].as_slice(), &[3; 4], &[7; 3]].concat().into_iter().map(|days| SECONDS(days * 86_400)).collect()
}

fn reminders(at: &Cursor<'_, '_>) -> Vec<Duration> {
    let pause = |item: &Cursor<'_, '_>| {
        let pause = item.duration()?;
        if pause < SECONDS(3600) {
            item.warn(
                "a reminder within an hour of the last mail leaves too little time to act; 1d is usual",
            );
        }
        Some(pause)
    };
    at.items().iter().filter_map(pause).collect()
}

fn brake(at: &Cursor<'_, '_>) -> Brake {
    let mut section = at.section();
    let usual = Brake::default();
    let share = |t: &str| t.parse::<f64>().ok().filter(|s| (0.0..=1.0).contains(s));
    let brake = Brake {
        share: section
            .or("share", usual.share, |at| at.parsed("must be a share from 0 to 1, such as 0.25", share)),
        minimum: section.or("minimum", usual.minimum, |at| at.integer(1, 1_000_000)),
        hold: section.or("hold", usual.hold, Cursor::duration_or_zero),
    };
    section.finish();
    brake
}

/// A mail server's name or address, without port, scheme or user.
///
/// # Errors
/// What the text contains besides, and which key that belongs to.
fn mail_host(text: &str) -> Result<String, String> {
    let example = "write the name or address alone, such as host: smtp.example.com";
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    if text.contains(char::is_whitespace) {
        return Err(format!("contains spaces; {example}"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let tls = if matches!(scheme, "smtps" | "ssl" | "tls") { " and tls: implicit" } else { "" };
        let host =
            rest.rsplit('@').next().unwrap_or_default().split(['/', ':', '?']).next().unwrap_or_default();
        return Err(format!("is a URL; write host: {host}{tls}"));
    }
    if text.contains('@') {
        return Err(format!(
            "contains a user name or a mail address; {example}, and the user under username"
        ));
    }
    if let Some(address) = text.strip_prefix('[') {
        let address = address.split(']').next().unwrap_or_default();
        return Err(format!("has brackets; write host: \"{address}\", and a port under port"));
    }
    if text.contains([',', ';', '%']) || text.matches(':').count() > 1 {
        return Err(format!("is not a single host name or address; {example}"));
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        let port = if port.is_empty() { "587" } else { port };
        return Err(format!("names a port; write host: {host} and port: {port}"));
    }
    // The rules of URLs, which are also those of server names in certificates. A name with letters beyond
    // ASCII is used in its ASCII form (RFC 5891).
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    match Host::parse(text) {
        Ok(Host::Domain(name)) if plain(&name) => Ok(if text.is_ascii() { text.to_owned() } else { name }),
        _ => Err(format!("is not a host name; {example}")),
    }
}

fn smtp(at: &Cursor<'_, '_>) -> Option<Smtp> {
    let mut section = at.section();
    let host =
        section.required("host").filter(|at| at.non_empty().is_some()).and_then(|at| at.checked(mail_host));
    let tls = section.or("tls", SmtpTls::Starttls, |at| {
        at.one_of(&[
            ("starttls", SmtpTls::Starttls),
            ("implicit", SmtpTls::Implicit),
            ("none", SmtpTls::None),
        ])
    });
    let default_port = if tls == SmtpTls::Implicit { 465 } else { 587 };
    let port = section.or("port", default_port, |at| at.integer(1, 65_535));
    let ca_file = ca_file(&mut section);
    let hello = section.get("hello").and_then(|at| hello(&at));
    let connections = section.or("connections", 2, |at| at.integer(1, 50)) as usize;
    let login = smtp_login(&mut section);
    if matches!(login, Ok(Some(SmtpLogin::OAuth2(..))))
        && tls == SmtpTls::None
        && !is_on_loopback(host.as_deref())
    {
        section.at.problem("an access token must not be sent unencrypted; use tls: starttls or implicit");
    }
    if matches!(login, Ok(Some(SmtpLogin::Password(..)))) && tls == SmtpTls::None {
        section.at.warn("the password is sent unencrypted; use tls: starttls or implicit");
    }
    section.finish();
    Some(Smtp {
        host: host?,
        port: u16::try_from(port).ok()?,
        tls,
        ca_file,
        login: login.ok()?,
        hello,
        connections,
    })
}

/// Whether a mail server is on this machine, where nobody else reads what is sent to it.
fn is_on_loopback(host: Option<&str>) -> bool {
    host.is_some_and(|host| {
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The name for EHLO. A name without a domain is accepted, because some internal relays know only such names.
fn hello(at: &Cursor<'_, '_>) -> Option<String> {
    let name = parse_hello(&at.non_empty()?).map_err(|problem| at.problem(problem)).ok()?;
    if !name.starts_with('[') && !name.contains('.') {
        at.warn("is not a full host name; many mail servers reject it. Write it like consentry.example.com");
    }
    Some(name)
}

fn reauthentication(section: Option<Section<'_, '_>>) -> Reauthentication {
    let mut settings =
        Reauthentication { public_url: None, link_ttl: SECONDS(7 * 86_400), listen_address: None };
    if let Some(mut section) = section {
        settings.public_url = section.get("public_url").and_then(|at| {
            let url = web_url(&at)?;
            if Url::parse(&url).is_ok_and(|u| u.scheme() == "http" && !is_loopback(&u)) {
                at.warn("is plain http: links are sent unencrypted, and Entra accepts http redirect URIs on localhost only");
            }
            Some(url)
        });
        settings.link_ttl = section.or("link_ttl", settings.link_ttl, |at| {
            at.duration().filter(|ttl| {
                if *ttl > LONGEST_LINK {
                    at.problem("is longer than 30d: whoever finds the mail until then can use its link; write 30d or less");
                }
                *ttl <= LONGEST_LINK
            })
        });
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

fn overrides(at: &Cursor<'_, '_>) -> HashMap<u32, Reason> {
    let words: Vec<(&str, Reason)> = Reason::ALL.iter().map(|r| (r.label(), *r)).collect();
    let entry = |(key, at): (String, Cursor<'_, '_>)| {
        let number = key.strip_prefix("AADSTS").and_then(|n| n.parse().ok());
        if number.is_none() {
            at.problem("keys must look like AADSTS700082");
        }
        Some((number?, at.one_of(&words)?))
    };
    at.named().into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_hosts_with_anything_but_a_name_or_address_are_rejected() {
        for (text, expected) in [
            ("smtp.example.com", Ok("smtp.example.com")),
            ("SMTP.example.com", Ok("SMTP.example.com")),
            ("smtp.example.com.", Ok("smtp.example.com.")),
            ("mail_relay", Ok("mail_relay")),
            ("localhost", Ok("localhost")),
            ("192.0.2.1", Ok("192.0.2.1")),
            ("2001:db8::1", Ok("2001:db8::1")),
            ("::1", Ok("::1")),
            ("smtp.müller.example", Ok("smtp.xn--mller-kva.example")),
            ("smtp.example.com:587", Err("host: smtp.example.com and port: 587")),
            ("192.0.2.1:25", Err("host: 192.0.2.1 and port: 25")),
            ("smtp.example.com:", Err("host: smtp.example.com and port: 587")),
            ("[::1]:587", Err("host: \"::1\", and a port under port")),
            ("[::1]", Err("has brackets")),
            ("smtp://smtp.example.com", Err("host: smtp.example.com")),
            ("smtp://smtp.example.com:587/", Err("host: smtp.example.com")),
            ("smtps://user:hunter@smtp.example.com:465", Err("host: smtp.example.com and tls: implicit")),
            ("https://smtp.example.com", Err("is a URL")),
            ("smtp.example.com ", Err("contains spaces")),
            (" smtp.example.com", Err("contains spaces")),
            ("smtp example.com", Err("contains spaces")),
            ("smtp.example.com\n", Err("contains spaces")),
            ("smtp.example.com\u{a0}", Err("contains spaces")),
            ("user@smtp.example.com", Err("user under username")),
            ("smtp.example.com/relay", Err("is not a host name")),
            ("smtp.example.com|x", Err("is not a host name")),
            ("a.example,b.example", Err("is not a single host name")),
            ("a.example;b.example", Err("is not a single host name")),
            ("smtp%2eexample.com", Err("is not a single host name")),
            ("fe80::1%eth0:25", Err("is not a single host name")),
        ] {
            match (mail_host(text), expected) {
                (Ok(host), Ok(expected)) => assert_eq!(host, expected, "{text}"),
                (Err(error), Err(expected)) => {
                    assert!(error.contains(expected) && !error.contains("hunter"), "{text}: {error}");
                }
                (host, _) => panic!("{text}: {host:?}"),
            }
        }
    }
}
