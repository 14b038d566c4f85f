//! Replies of a mail server, as RFC 5321 section 4.2 allows them: several lines, no text, text that is not UTF-8, split over packets.
//!
//! This module only reads replies; [`super::blame`] decides what they mean for a mail.

use crate::domain::one_line;

/// The highest length of a line in bytes. RFC 5321 section 4.5.3.1.5 has 512 octets; extensions and real servers exceed that.
pub(super) const LONGEST_LINE: usize = 4096;

/// The highest number of lines of a reply.
pub(super) const MOST_LINES: usize = 128;

/// The number of characters of a line that are kept and shown.
const SHOWN: usize = 500;

/// An enhanced status code (RFC 3463): class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Enhanced {
    pub(super) class: u16,
    pub(super) subject: u16,
    pub(super) detail: u16,
}

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// Three digits.
    pub(super) code: u16,
    /// The text of each line, made safe to show.
    pub(super) lines: Vec<String>,
    /// The enhanced status code, if there is one.
    pub(super) enhanced: Option<Enhanced>,
}

impl Reply {
    /// 2yz: done.
    pub(super) fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 5yz: rejected permanently.
    pub(super) fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// All lines.
    pub(super) fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// All lines in lower case, for searching.
    pub(super) fn words(&self) -> String {
        self.lines.join(" ").to_lowercase()
    }
}

/// What the server says of a mail that it has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The Message-ID that it has now, if the server names one.
    pub message_id: Option<String>,
}

impl Accepted {
    /// Exchange Online answers `250 2.6.0 <id> [InternalId=...] Queued mail for delivery`, with the id that the mail has from now on.
    pub(super) fn of(reply: &Reply) -> Self {
        let text = reply.text();
        let named = text.strip_prefix("2.6.0 <").filter(|rest| rest.contains("[InternalId="));
        let id = named.and_then(|rest| rest.split_once('>')).map(|(id, _)| id);
        let usable = |id: &&str| {
            id.len() <= 250 && id.contains('@') && id.chars().all(|c| c.is_ascii_graphic() && c != '<')
        };
        Self { message_id: id.filter(usable).map(|id| format!("<{id}>")) }
    }
}

/// Assembles a reply from its lines.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    code: Option<u16>,
    lines: Vec<String>,
    enhanced: Option<Enhanced>,
}

impl Assembly {
    /// Takes the next line, without its line end. Returns the reply after its last line.
    ///
    /// # Errors
    /// It is not a line of a reply; the text is for people.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, String> {
        let text = String::from_utf8_lossy(line);
        let nonsense =
            || format!("the server sent something that is not an SMTP reply: {}", one_line(&text, 100));
        let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
            return Err(nonsense());
        };
        let code = [a, b, c].iter().fold(0, |number, digit| number * 10 + u16::from(**digit - b'0'));
        // A code may be alone: RFC 5321 section 4.2 makes the text optional for the receiver.
        let (last, text) = match rest {
            [] => (true, b"".as_slice()),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(nonsense()),
        };
        // RFC 5321 section 4.2.1: the code of every line is the same.
        if let Some(first) = self.code.filter(|first| *first != code) {
            return Err(format!(
                "the server's reply changes its code from line to line: {first}, then {code}"
            ));
        }
        if self.lines.len() >= MOST_LINES {
            return Err(format!("the server's reply has more than {MOST_LINES} lines"));
        }
        self.code = Some(code);
        let text = String::from_utf8_lossy(text);
        self.enhanced = self.enhanced.or_else(|| enhanced(&text));
        self.lines.push(one_line(&text, SHOWN));
        if !last {
            return Ok(None);
        }
        let whole = std::mem::take(self);
        Ok(Some(Reply { code, lines: whole.lines, enhanced: whole.enhanced }))
    }
}

/// The enhanced status code at the beginning of a text (RFC 2034 section 4). IP addresses, and codes further on in the text, do not count.
pub(super) fn enhanced(text: &str) -> Option<Enhanced> {
    // Cisco's gateways write it after a hash sign.
    let text = text.strip_prefix('#').unwrap_or(text);
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (code, after) = text.split_at(end);
    if after.starts_with(|c: char| c.is_alphanumeric()) {
        return None;
    }
    // "5.1.1." at the end of a sentence is still the code.
    let mut numbers = code.strip_suffix('.').unwrap_or(code).split('.');
    let mut number =
        |most: usize| numbers.next().filter(|n| (1..=most).contains(&n.len()))?.parse::<u16>().ok();
    let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
    let nothing_more =
        number(usize::MAX).is_none() && code.matches('.').count() - usize::from(code.ends_with('.')) == 2;
    (nothing_more && matches!(class, 2 | 4 | 5)).then_some(Enhanced { class, subject, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_that_a_server_gives_a_mail_is_read() {
        for (text, expected) in [
            (
                "2.6.0 <DB9P1@EURP.PROD.OUTLOOK.COM> [InternalId=1, Hostname=DB9] 8 bytes in 0.1, 1 KB/sec Queued mail for delivery",
                Some("<DB9P1@EURP.PROD.OUTLOOK.COM>"),
            ),
            ("2.0.0 Ok: queued as 4F2A", None),
            ("2.6.0 <a@b> Queued mail for delivery", None),
            ("2.6.0 <nonsense> [InternalId=1]", None),
            ("2.6.0 <a b@c> [InternalId=1]", None),
            ("", None),
        ] {
            let reply = Reply { code: 250, lines: vec![text.to_owned()], enhanced: None };
            assert_eq!(Accepted::of(&reply).message_id.as_deref(), expected, "{text}");
        }
    }

    fn read(lines: &[&[u8]]) -> Result<Reply, String> {
        let mut assembly = Assembly::default();
        for line in lines {
            if let Some(reply) = assembly.take(line)? {
                return Ok(reply);
            }
        }
        Err("unfinished".to_owned())
    }

    #[test]
    fn all_observed_forms_of_replies_are_read() {
        for (sentence, lines, code, text) in [
            ("a code and a text", &[&b"250 OK"[..]][..], 250, &["OK"][..]),
            ("a code alone", &[b"250"], 250, &[""]),
            ("a code and a blank", &[b"250 "], 250, &[""]),
            (
                "several lines",
                &[b"250-mail.example.com", b"250-SIZE 1000", b"250 STARTTLS"],
                250,
                &["mail.example.com", "SIZE 1000", "STARTTLS"],
            ),
            ("several lines without text", &[b"220-", b"220"], 220, &["", ""]),
            ("Latin-1", &[b"550 Empf\xe4nger unbekannt"], 550, &["Empf\u{fffd}nger unbekannt"]),
            ("control characters", &[b"250 a\x1b[31mb\0c"], 250, &["a [31mb c"]),
        ] {
            let reply = read(lines).unwrap_or_else(|e| panic!("{sentence}: {e}"));
            assert_eq!(
                (reply.code, reply.lines.iter().map(String::as_str).collect::<Vec<_>>()),
                (code, text.to_vec()),
                "{sentence}"
            );
        }
    }

    #[test]
    fn invalid_replies_are_rejected() {
        for (sentence, lines) in [
            ("nothing", &[&b""[..]][..]),
            ("a text", &[b"HTTP/1.1 400 Bad Request"]),
            ("two digits", &[b"25 OK"]),
            ("a code that does not exist", &[b"650 OK"]),
            ("a code with a fourth digit", &[b"2500 OK"]),
            ("a code with something else behind it", &[b"250:OK"]),
            ("TLS", &[b"\x15\x03\x01\x00\x02\x02\x28"]),
            ("codes that differ", &[b"250-mail.example.com", b"220 go ahead"]),
        ] {
            assert!(read(lines).is_err(), "{sentence}");
        }
        let many = vec![&b"250-x"[..]; MOST_LINES + 1];
        assert!(read(&many).expect_err("endless").contains("lines"));
    }

    #[test]
    fn enhanced_status_codes() {
        let code = |class, subject, detail| Some(Enhanced { class, subject, detail });
        for (text, expected) in [
            ("5.1.1 No such user", code(5, 1, 1)),
            ("5.7.606 Access denied", code(5, 7, 606)),
            ("5.1.10", code(5, 1, 10)),
            ("5.1.1: unknown", code(5, 1, 1)),
            ("5.1.1. Unknown", code(5, 1, 1)),
            ("4.7.1 <x@example.com>: greylisted", code(4, 7, 1)),
            ("2.1.5 OK", code(2, 1, 5)),
            ("", None),
            ("No such user 5.1.1", None),
            ("5.7.1.9 is blocked", None),
            ("198.51.5.7 is blocked", None),
            ("5.1", None),
            ("5.1.", None),
            ("3.1.1 x", None),
            ("5.1.1x", None),
            ("5..1 x", None),
            ("5.1.1000 x", None),
            ("55.1.1 x", None),
        ] {
            assert_eq!(enhanced(text), expected, "{text}");
        }
    }
}
