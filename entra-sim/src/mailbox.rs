//! The mailbox of the SMTP sink: all mails that arrived, and pages to read them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Mutex;

use mail_parser::{MessageParser, MimeHeaders as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::reply::{Reply, escape};

/// One mail as it arrived.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Envelope sender.
    pub from: String,
    /// Envelope recipients.
    pub to: Vec<String>,
    /// The message as sent, without dot-stuffing.
    pub raw: Vec<u8>,
    /// Whether it was received over TLS.
    pub tls: bool,
    /// User name, if the session was authenticated.
    pub user: Option<String>,
}

/// The parts of a mail that pages and tests use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Parsed {
    /// `Subject`, decoded.
    pub subject: String,
    /// `Message-ID`.
    pub message_id: String,
    /// Every header in order, decoded.
    pub headers: Vec<(String, String)>,
    /// The text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
    /// Content types of the parts.
    pub parts: Vec<String>,
}

impl Mail {
    /// Decodes headers and bodies.
    pub fn parsed(&self) -> Parsed {
        let Some(message) = MessageParser::default().parse(&self.raw) else { return Parsed::default() };
        let headers = message
            .headers_raw()
            .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        Parsed {
            subject: message.subject().unwrap_or_default().to_owned(),
            message_id: message.message_id().unwrap_or_default().to_owned(),
            headers,
            text: message.body_text(0).map(std::borrow::Cow::into_owned).unwrap_or_default(),
            html: message.body_html(0).map(std::borrow::Cow::into_owned).unwrap_or_default(),
            parts: message
                .parts
                .iter()
                .filter_map(|p| {
                    p.content_type().map(|c| format!("{}/{}", c.ctype(), c.subtype().unwrap_or("")))
                })
                .collect(),
        }
    }
}

/// Faults of the sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailFaults {
    /// Close every connection immediately.
    pub refuse: bool,
    /// Reply 451 to the end of `DATA`.
    pub temporary: bool,
    /// Reply 550 to these recipients.
    pub reject: Vec<String>,
    /// Accept the mail, but close the connection before the reply.
    pub drop_after_data: bool,
    /// Send nothing.
    pub hang: bool,
    /// Greet after this number of milliseconds.
    pub greets_after_ms: u64,
    /// Accept the mail, and never reply.
    pub hang_after_data: bool,
    /// Never reply to QUIT.
    pub hang_at_quit: bool,
    /// Send this right after the 220 reply to STARTTLS, without TLS, as an attacker in between would.
    pub behind_starttls: Option<String>,
    /// Send everything byte by byte.
    pub split: bool,
    /// The challenges of AUTH LOGIN, before base64.
    pub challenges: Option<[String; 2]>,
    /// Refuse this many access tokens (XOAUTH2).
    pub refuse_tokens: usize,
    /// Scripted replies. The first that matches is used.
    pub replies: Vec<ScriptedReply>,
}

/// A reply that replaces the usual one. If both begin with the same digit, the command is executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptedReply {
    /// `GREETING`, a command's first word, or `.` for the end of a mail.
    pub command: String,
    /// Only for these recipients; if it is empty, for all.
    pub recipients: Vec<String>,
    /// The complete reply without its last line end. Each character is one byte (Latin-1).
    pub reply: String,
}

impl MailFaults {
    /// Faults with scripted replies: command and reply.
    pub fn replying(replies: &[(&str, &str)]) -> Self {
        let scripted = |(command, reply): &(&str, &str)| ScriptedReply {
            command: (*command).to_owned(),
            recipients: Vec::new(),
            reply: (*reply).to_owned(),
        };
        Self { replies: replies.iter().map(scripted).collect(), ..Self::default() }
    }

    /// The scripted reply to a command, if there is one.
    pub(crate) fn reply(&self, command: &str, recipients: &[String]) -> Option<&str> {
        let fits = |r: &&ScriptedReply| {
            r.command == command
                && (r.recipients.is_empty()
                    || recipients.iter().any(|recipient| r.recipients.contains(recipient)))
        };
        self.replies.iter().find(fits).map(|r| r.reply.as_str())
    }
}

/// All mails, newest last.
#[derive(Debug)]
pub struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    faults: Mutex<MailFaults>,
    commands: Mutex<Vec<String>>,
    connections: Mutex<Connections>,
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Connections {
    open: usize,
    most: usize,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection<'a>(&'a Mailbox);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        lock(&self.0.connections).open -= 1;
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            mails: Mutex::default(),
            faults: Mutex::default(),
            commands: Mutex::default(),
            connections: Mutex::default(),
            count: watch::channel(0).0,
        }
    }
}

impl Mailbox {
    /// Stores a mail.
    pub fn add(&self, mail: Mail) {
        let mut mails = lock(&self.mails);
        mails.push(mail);
        self.count.send_replace(mails.len());
    }

    /// A copy of all mails.
    pub fn all(&self) -> Vec<Mail> {
        lock(&self.mails).clone()
    }

    /// Waits until at least `count` mails have arrived.
    pub async fn wait_for(&self, count: usize) {
        let mut watch = self.count.subscribe();
        // The sender lives as long as `self`.
        let _ = watch.wait_for(|have| *have >= count).await;
    }

    /// All commands so far, of all connections.
    pub fn commands(&self) -> Vec<String> {
        lock(&self.commands).clone()
    }

    /// Whether an access token is accepted: it is for Exchange Online, and no fault refuses it.
    pub(crate) fn takes_token(&self, token: &str) -> bool {
        let mut faults = lock(&self.faults);
        if faults.refuse_tokens > 0 {
            faults.refuse_tokens -= 1;
            return false;
        }
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        claims.is_some_and(|claims| claims["aud"] == crate::login::EXCHANGE)
    }

    pub(crate) fn record_command(&self, command: &str) {
        lock(&self.commands).push(command.to_owned());
    }

    /// The largest number of connections that were open at once.
    pub fn most_connections(&self) -> usize {
        lock(&self.connections).most
    }

    pub(crate) fn connected(&self) -> OpenConnection<'_> {
        let mut connections = lock(&self.connections);
        connections.open += 1;
        connections.most = connections.most.max(connections.open);
        OpenConnection(self)
    }

    /// The present faults.
    pub fn faults(&self) -> MailFaults {
        lock(&self.faults).clone()
    }

    /// Replaces the faults.
    pub fn set_faults(&self, faults: MailFaults) {
        *lock(&self.faults) = faults;
    }

    /// All mails as JSON.
    pub fn json(&self) -> Value {
        let mails = self.all();
        json!(
            mails
                .iter()
                .map(
                    |m| json!({"from": m.from, "to": m.to, "tls": m.tls, "user": m.user, "mail": m.parsed()})
                )
                .collect::<Vec<_>>()
        )
    }

    /// The list of mails.
    pub fn page(&self) -> Reply {
        let row = |(index, mail): (usize, &Mail)| {
            format!(
                "<li><a href=\"/mail/{index}\">{}</a> <small>to {}</small></li>",
                escape(&mail.parsed().subject),
                escape(&mail.to.join(", "))
            )
        };
        let rows: String = self.all().iter().enumerate().rev().map(row).collect();
        let rows = if rows.is_empty() { "<li>No mail yet.</li>".to_owned() } else { rows };
        Reply::html(
            200,
            format!(
                "{HEAD}<meta http-equiv=refresh content=5><title>Mailbox</title><h1>Mailbox</h1><ul>{rows}</ul></html>"
            ),
        )
    }

    /// One mail, both parts.
    pub fn mail_page(&self, index: usize) -> Reply {
        let Some(mail) = self.all().into_iter().nth(index) else {
            return Reply::html(404, format!("{HEAD}<h1>No such mail</h1>"));
        };
        let parsed = mail.parsed();
        let headers: String =
            parsed.headers.iter().map(|(k, v)| format!("{}: {}\n", escape(k), escape(v))).collect();
        Reply::html(
            200,
            format!(
                "{HEAD}<title>{0}</title><p><a href=/>All mails</a></p><h1>{0}</h1><iframe sandbox=\"allow-popups allow-top-navigation-by-user-activation\" src=\"/mail/{index}/html\" title=\"HTML part\"></iframe>\
             <h2>Text part</h2><pre>{1}</pre><details><summary>Headers</summary><pre>{headers}</pre></details></html>",
                escape(&parsed.subject),
                escape(&parsed.text)
            ),
        )
    }

    /// The HTML part only. Links open in the whole window.
    pub fn mail_html(&self, index: usize) -> Reply {
        match self.all().into_iter().nth(index) {
            Some(mail) => {
                Reply::html(200, mail.parsed().html.replace("<head>", "<head><base target=\"_top\">"))
            }
            None => Reply::html(404, String::new()),
        }
    }
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><style>body{font:16px system-ui;max-width:48rem;margin:2rem auto;padding:0 1rem}iframe{width:100%;height:46rem;border:1px solid #8888}pre{white-space:pre-wrap;overflow-wrap:anywhere}</style>";

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
