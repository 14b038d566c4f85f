//! From a rendered mail to the bytes that cross the network, and the envelope around them.

use std::time::{Duration, SystemTime};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use url::Host;

use super::message::Rendered;
use super::settings::Sender;
use crate::domain::{Timestamp, parse_mail_address};

/// A mail with its envelope.
#[derive(Debug)]
pub(super) struct Letter {
    /// Envelope sender.
    pub(super) from: String,
    /// Envelope recipient.
    pub(super) to: String,
    /// Header and body, with CRLF at the end of every line, dots doubled, without the final dot.
    pub(super) bytes: Vec<u8>,
}

impl Letter {
    /// Whether an address is not ASCII, so that the server must support SMTPUTF8 (RFC 6531). Only local parts can be, because domains are A-labels.
    pub(super) fn needs_utf8(&self) -> bool {
        !(self.from.is_ascii() && self.to.is_ascii())
    }
}

/// The message with its headers: a stable `Message-ID`, the thread, `Auto-Submitted` (RFC 3834) and Consentry's own.
///
/// # Errors
/// The message cannot be built; the text is for people.
pub(super) fn compose(
    sender: &Sender,
    to: Address,
    mail: &Rendered,
    now: Timestamp,
) -> Result<Letter, String> {
    let envelope = (sendable(&sender.from)?.email.to_string(), to.to_string());
    let bytes = compose_message(sender, to, mail, now)?;
    Ok(Letter { from: envelope.0, to: envelope.1, bytes: stuffed(&bytes) })
}

/// The message without envelope, in MIME format.
///
/// # Errors
/// As for [`compose`].
pub(super) fn compose_message(
    sender: &Sender,
    to: Address,
    mail: &Rendered,
    now: Timestamp,
) -> Result<Vec<u8>, String> {
    let from = sendable(&sender.from)?;
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let own = |name: &str, value: &str| -> Result<HeaderValue, String> {
        let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|e| e.to_string())?;
        Ok(HeaderValue::new(name, value.to_owned()))
    };
    let mut builder = Message::builder()
        .from(from)
        .to(Mailbox::new(None, to))
        .subject(mail.subject.clone())
        .date(date)
        .message_id(Some(ascii_id(&mail.message_id)))
        .raw_header(own("Auto-Submitted", "auto-generated")?)
        .raw_header(own("X-Consentry-Event", mail.event.label())?);
    if let Some(reply_to) = &sender.reply_to {
        builder = builder.reply_to(sendable(reply_to)?);
    }
    if let Some(url) = &mail.unsubscribe {
        // Without List-Unsubscribe-Post (RFC 8058), because scanners press such links.
        builder = builder.raw_header(own("List-Unsubscribe", &format!("<{url}>"))?);
    }
    if !mail.threads.is_empty() {
        // RFC 5322 section 3.6.4 allows several of them in both fields.
        let ids = mail.threads.iter().map(|id| ascii_id(id)).collect::<Vec<_>>().join(" ");
        builder = builder.in_reply_to(ids.clone()).references(ids);
    }
    let message = builder
        .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
        .map_err(|e| e.to_string())?;
    let mut bytes = integration_fields(&mail.integrations).into_bytes();
    bytes.extend(message.formatted());
    Ok(bytes)
}

/// One `X-Consentry-Integration` for each integration. lettre writes a field once only. Servers limit the size of a header (Exchange Online to 256 KB),
/// so a mail about more than a thousand integrations names the first thousand.
fn integration_fields(integrations: &[String]) -> String {
    // The brake is about no integration.
    let named = integrations.iter().filter(|name| !name.is_empty());
    named.take(1000).map(|name| format!("X-Consentry-Integration: {name}\r\n")).collect()
}

/// A recipient in the form that SMTP commands use.
///
/// # Errors
/// It is not a mail address; the text is for people.
pub(super) fn recipient(text: &str) -> Result<Address, String> {
    let address = parse_mail_address(text).map_err(|problem| format!("the recipient's address {problem}"))?;
    let (local, domain) = address.split_once('@').unwrap_or_default();
    Address::new(local, a_label(domain)?).map_err(|e| format!("the recipient is not a mail address: {e}"))
}

/// A mailbox of the configuration, its domain as A-labels.
fn sendable(mailbox: &Mailbox) -> Result<Mailbox, String> {
    let email = &mailbox.email;
    let address = Address::new(email.user(), a_label(email.domain())?)
        .map_err(|e| format!("{email} is not a mail address: {e}"))?;
    Ok(Mailbox::new(mailbox.name.clone(), address))
}

/// An internationalised domain as A-labels (RFC 5890 section 2.3.2.1), which every server accepts.
pub(super) fn a_label(domain: &str) -> Result<String, String> {
    if domain.is_ascii() {
        return Ok(domain.to_owned());
    }
    match Host::parse(domain) {
        Ok(Host::Domain(ascii)) => Ok(ascii),
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => Err(format!("{domain} is not a domain")),
        Err(error) => Err(format!("{domain} is not a domain: {error}")),
    }
}

/// A `Message-ID` in ASCII (RFC 5322 section 3.6.4): its domain is that of the sender.
fn ascii_id(id: &str) -> String {
    let ascii = || {
        let (left, domain) = id.strip_suffix('>')?.rsplit_once('@')?;
        Some(format!("{left}@{}>", a_label(domain).ok()?))
    };
    ascii().unwrap_or_else(|| id.to_owned())
}

/// Ends every line with CRLF, and doubles a dot at the beginning of a line (RFC 5321 section 4.5.2). Bare carriage returns and line feeds become
/// CRLF, because some servers accept them as line ends and could see the end of the mail too early.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 50 + 2);
    let mut rest = message.iter().copied().peekable();
    let mut at_start = true;
    while let Some(byte) = rest.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    rest.next_if_eq(&b'\n');
                }
                out.extend_from_slice(b"\r\n");
                at_start = true;
                continue;
            }
            b'.' if at_start => out.extend_from_slice(b".."),
            byte => out.push(byte),
        }
        at_start = false;
    }
    if !at_start {
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_line_ends() {
        for (sentence, message, expected) in [
            ("as it is", "a\r\nb\r\n", "a\r\nb\r\n"),
            ("no end", "a", "a\r\n"),
            ("a dot alone", "a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n"),
            ("a dot at the very beginning", ".a\r\n", "..a\r\n"),
            ("dots elsewhere", "a.\r\n b.c\r\n", "a.\r\n b.c\r\n"),
            (
                "an end for servers that accept bare line feeds",
                "a\n.\nMAIL FROM:<x>\n",
                "a\r\n..\r\nMAIL FROM:<x>\r\n",
            ),
            ("an end with bare carriage returns", "a\r.\rb", "a\r\n..\r\nb\r\n"),
            ("an end in a mixture", "a\r\n.\n.\r\n", "a\r\n..\r\n..\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&stuffed(message.as_bytes())), expected, "{sentence}");
        }
    }

    #[test]
    fn recipients_are_converted_for_commands() {
        for (text, expected) in [
            ("it@example.com", Some("it@example.com")),
            ("it@münchen.example", Some("it@xn--mnchen-3ya.example")),
            ("it@例え.example", Some("it@xn--r8jz45g.example")),
            ("jörg@münchen.example", Some("jörg@xn--mnchen-3ya.example")),
            ("it@example.com>\r\nRCPT TO:<x@example.com", None),
            ("it\u{200b}@example.com", None),
            ("\"it admin\"@example.com", None),
            ("it@[192.0.2.1]", None),
        ] {
            assert_eq!(recipient(text).ok().map(|a| a.to_string()).as_deref(), expected, "{text:?}");
        }
        assert_eq!(ascii_id("<a1.0.ff@münchen.example>"), "<a1.0.ff@xn--mnchen-3ya.example>");
        assert_eq!(ascii_id("<a1.0.ff@example.com>"), "<a1.0.ff@example.com>");
    }
}
