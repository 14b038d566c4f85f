//! Handing one mail to the mail server, step by step, so that a failure can be named and the dialogue shown.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use lettre::{Address, Message};

use super::message::Rendered;
use crate::domain::{Notification, Timestamp};
use crate::metrics::EmailFailure;
use crate::secret::SecretSource;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// STARTTLS (RFC 3207), required: without it no mail is sent.
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// None.
    None,
}

/// The mail server and the sender.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Sender.
    pub from: Mailbox,
    /// `Reply-To`.
    pub reply_to: Option<Mailbox>,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Protection.
    pub protection: Protection,
    /// PEM file with certificate authorities added to the system's.
    pub ca_file: Option<PathBuf>,
    /// User name and password.
    pub credentials: Option<(String, SecretSource)>,
}

/// What became of an attempt.
#[derive(Debug)]
pub struct Delivery {
    /// `Ok` when the server took the mail.
    pub outcome: Result<(), EmailFailure>,
    /// What was said, line by line; passwords and the mail itself left out.
    pub dialogue: Vec<String>,
}

const STEP: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(90);

/// Hands one mail to the server.
pub async fn deliver(settings: &SmtpSettings, notification: &Notification, mail: &Rendered, now: Timestamp) -> Delivery {
    let mut talk = Talk::default();
    let outcome = if let Ok(outcome) = tokio::time::timeout(WHOLE, attempt(settings, notification, mail, now, &mut talk)).await {
        outcome
    } else {
        talk.note("! the server took longer than 90 s");
        Err(EmailFailure::Timeout)
    };
    Delivery { outcome, dialogue: talk.0 }
}

/// Greets the server, with TLS and login as configured, and says goodbye. No mail is sent.
pub async fn greet(settings: &SmtpSettings) -> Delivery {
    let mut talk = Talk::default();
    let greeted = async {
        let mut connection = connect(settings, &mut talk).await?;
        drop(connection.quit().await);
        Ok(())
    };
    let outcome = tokio::time::timeout(WHOLE, greeted).await.unwrap_or(Err(EmailFailure::Timeout));
    Delivery { outcome, dialogue: talk.0 }
}

/// The dialogue so far.
#[derive(Default)]
struct Talk(Vec<String>);

impl Talk {
    fn note(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    fn heard(&mut self, response: &Response) {
        let lines = response.message().map(|m| format!("< {} {m}", response.code()));
        self.0.extend(lines);
    }

    /// Notes a failure and names it. `refused` is what a permanent refusal at this step means, `otherwise` what anything else does.
    fn failed(&mut self, error: &lettre::transport::smtp::Error, refused: EmailFailure, otherwise: EmailFailure) -> EmailFailure {
        let text = chain(error);
        let tls = error.is_tls() || ["certificate", "handshake", "TLS"].iter().any(|word| text.contains(word));
        self.note(format!("! {text}"));
        match () {
            () if error.is_timeout() => EmailFailure::Timeout,
            () if error.is_permanent() => refused,
            () if tls => EmailFailure::Tls,
            () => otherwise,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = cause.source();
    }
    text
}

async fn attempt(
    settings: &SmtpSettings,
    notification: &Notification,
    mail: &Rendered,
    now: Timestamp,
    talk: &mut Talk,
) -> Result<(), EmailFailure> {
    let message = message(settings, notification, mail, now).map_err(|text| {
        talk.note(format!("! {text}"));
        EmailFailure::Rejected
    })?;
    let mut connection = connect(settings, talk).await?;
    let result = hand_over(&mut connection, settings, &message, talk).await;
    // The server has taken the mail or not; how the farewell goes changes nothing.
    if result.is_ok() {
        drop(connection.quit().await);
    } else {
        connection.abort().await;
    }
    result
}

async fn connect(settings: &SmtpSettings, talk: &mut Talk) -> Result<AsyncSmtpConnection, EmailFailure> {
    let hello = ClientId::default();
    let tls = |talk: &mut Talk| {
        tls_parameters(settings).map_err(|text| {
            talk.note(format!("! {text}"));
            EmailFailure::Tls
        })
    };
    talk.note(format!("* connecting to {}:{}", settings.host, settings.port));
    let implicit = if settings.protection == Protection::Implicit { Some(tls(talk)?) } else { None };
    let connected = AsyncSmtpConnection::connect_tokio1((settings.host.as_str(), settings.port), Some(STEP), &hello, implicit, None).await;
    let mut connection = connected.map_err(|e| talk.failed(&e, EmailFailure::Connect, EmailFailure::Connect))?;
    talk.note(format!("> EHLO {hello}\n< {}", connection.server_info().name()));
    if settings.protection == Protection::Starttls {
        talk.note("> STARTTLS");
        if !connection.can_starttls() {
            talk.note("! the server does not offer STARTTLS; use tls: implicit, or tls: none on a trusted network");
            connection.abort().await;
            return Err(EmailFailure::Tls);
        }
        connection.starttls(tls(talk)?, &hello).await.map_err(|e| talk.failed(&e, EmailFailure::Tls, EmailFailure::Tls))?;
        talk.note("* TLS is up");
    }
    if let Some((name, password)) = &settings.credentials {
        talk.note(format!("> AUTH (as {name}, password not shown)"));
        let password = password.read().map_err(|e| {
            talk.note(format!("! {e}"));
            EmailFailure::Auth
        })?;
        let credentials = Credentials::new(name.clone(), password.expose().to_owned());
        match connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await {
            Ok(response) => talk.heard(&response),
            Err(error) => {
                // A server that knows no mechanism of ours refuses us just as well.
                let otherwise = if error.is_client() { EmailFailure::Auth } else { EmailFailure::Other };
                let failure = talk.failed(&error, EmailFailure::Auth, otherwise);
                connection.abort().await;
                return Err(failure);
            }
        }
    }
    Ok(connection)
}

async fn hand_over(
    connection: &mut AsyncSmtpConnection,
    settings: &SmtpSettings,
    message: &Message,
    talk: &mut Talk,
) -> Result<(), EmailFailure> {
    let bytes = message.formatted();
    let mut parameters = Vec::new();
    let addresses = message.envelope().to().iter().chain(message.envelope().from());
    if addresses.map(AsRef::<str>::as_ref).any(|a| !a.is_ascii()) {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            talk.note("! the address needs SMTPUTF8, which the server does not offer");
            return Err(EmailFailure::Rejected);
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !bytes.is_ascii() {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    // Our own sender being refused, or a login being asked for, is no word about the recipient.
    step(connection, Mail::new(Some(settings.from.email.clone()), parameters), EmailFailure::Other, talk).await?;
    for recipient in message.envelope().to() {
        step(connection, Rcpt::new(recipient.clone(), vec![]), EmailFailure::Rejected, talk).await?;
    }
    step(connection, Data, EmailFailure::Other, talk).await?;
    talk.note(format!("> (the mail, {} bytes)", bytes.len()));
    // A refusal of the mail itself is a policy, or a size, or a mood; it is no word about the recipient either.
    let response = connection.message(&bytes).await.map_err(|e| talk.failed(&e, EmailFailure::Other, EmailFailure::Other))?;
    talk.heard(&response);
    Ok(())
}

async fn step(
    connection: &mut AsyncSmtpConnection,
    command: impl Display,
    refused: EmailFailure,
    talk: &mut Talk,
) -> Result<(), EmailFailure> {
    let text = command.to_string();
    talk.note(format!("> {}", text.trim_end()));
    let response = connection.command(text).await.map_err(|e| {
        // "Relaying denied" and the like (RFC 3463, 5.7.x) are about us.
        let policy = chain(&e).contains("5.7.");
        talk.failed(&e, if policy { EmailFailure::Other } else { refused }, EmailFailure::Other)
    })?;
    talk.heard(&response);
    Ok(())
}

fn tls_parameters(settings: &SmtpSettings) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    builder.build().map_err(|e| chain(&e))
}

/// The message with its headers (contract: stable `Message-ID`, thread, `Auto-Submitted` of RFC 3834, Consentry's own).
fn message(settings: &SmtpSettings, notification: &Notification, mail: &Rendered, now: Timestamp) -> Result<Message, String> {
    let to: Address = notification.recipient.parse().map_err(|e| format!("the recipient is no mail address: {e}"))?;
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let own = |name: &str, value: &str| -> Result<HeaderValue, String> {
        let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|e| e.to_string())?;
        Ok(HeaderValue::new(name, value.to_owned()))
    };
    let mut builder = Message::builder()
        .from(settings.from.clone())
        .to(Mailbox::new(None, to))
        .subject(mail.subject.clone())
        .date(date)
        .message_id(Some(mail.message_id.clone()))
        .raw_header(own("Auto-Submitted", "auto-generated")?)
        .raw_header(own("X-Consentry-Event", notification.kind.label())?)
        .raw_header(own("X-Consentry-Integration", &notification.story.integration)?);
    if let Some(reply_to) = &settings.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    if let Some(thread) = &mail.thread {
        builder = builder.in_reply_to(thread.clone()).references(thread.clone());
    }
    builder.multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone())).map_err(|e| e.to_string())
}
