//! Decides whom a rejection is about. Pure: it depends on the step of the dialogue and the reply only.
//!
//! The step alone is not enough: servers that object to our name, our sender address or a missing login often report that only after RCPT. The
//! enhanced status code (RFC 3463, RFC 5248) distinguishes these cases; if there is none, the code and known phrases decide.

use std::time::Duration;

use super::reply::{Enhanced, Reply};
use crate::metrics::EmailFailure;

/// Whom a failed attempt is about, and so whether another attempt can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The recipient does not exist, does not accept mail, or cannot be addressed.
    Recipient,
    /// This mail, which the server has read and rejects permanently.
    Content,
    /// Us, the server or the network: the mail waits until the fault is fixed.
    Transport,
    /// Unknown: the mail was handed over, and there was no response.
    Unanswered,
}

/// Why an attempt failed, for the metrics and for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Its kind, for the metrics.
    pub kind: EmailFailure,
    /// Whom it is about.
    pub blame: Blame,
    /// The pause that the server asks for.
    pub pause: Option<Duration>,
    /// The server says that it gets too much from this account at once.
    pub too_much: bool,
}

impl Failure {
    /// A failure that says nothing about the recipient or the mail.
    pub const fn transport(kind: EmailFailure) -> Self {
        Self::of(kind, Blame::Transport)
    }

    /// A failure without a pause.
    pub const fn of(kind: EmailFailure, blame: Blame) -> Self {
        Self { kind, blame, pause: None, too_much: false }
    }

    /// The label value of its kind.
    pub const fn label(self) -> &'static str {
        self.kind.label()
    }
}

/// The steps at which a mail can be rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `MAIL FROM`.
    Sender,
    /// `RCPT TO`.
    Recipient,
    /// `DATA`, or the final dot.
    Data,
}

/// What a rejection at a step means.
pub(super) fn judge(step: Step, reply: &Reply) -> Failure {
    let failure = about(step, reply);
    // Greylisting servers often say when to come back (RFC 6647 section 5).
    let pause = matches!(reply.code, 450 | 451).then(|| named_pause(&reply.text())).flatten();
    // Exchange Online's code for too many connections or mails at once.
    let too_much = reply.code == 432
        || reply.enhanced.is_some_and(|e| (e.class, e.subject, e.detail) == (4, 3, 2) && reply.code != 421);
    Failure { pause: pause.or(too_much.then_some(TOO_MUCH)), too_much, ..failure }
}

/// The pause after a server has got too much.
const TOO_MUCH: Duration = Duration::from_secs(60);

/// The longest pause that a reply is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A pause that a text names: `00:05:00`, `300 seconds`, `5 minutes`, `300s`.
fn named_pause(text: &str) -> Option<Duration> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '.' | '=' | '<' | '>'))
        .filter(|word| !word.is_empty())
        .collect();
    let clock = |word: &str| -> Option<u64> {
        let parts: Vec<u64> = word.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        match parts[..] {
            [hours, minutes, seconds] if minutes < 60 && seconds < 60 => {
                hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)
            }
            _ => None,
        }
    };
    let unit = |word: &str| match word.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60),
        "h" | "hour" | "hours" => Some(3600),
        _ => None,
    };
    let seconds = words.iter().enumerate().find_map(|(index, word)| {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = word.split_at(digits);
        let factor = if rest.is_empty() { unit(words.get(index + 1)?) } else { unit(rest) };
        clock(word).or_else(|| number.parse::<u64>().ok()?.checked_mul(factor?))
    })?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

fn about(step: Step, reply: &Reply) -> Failure {
    match step {
        // A rejected mail counts as rejected in any case; if the rejection is about us, the mail waits.
        Step::Data if reply.is_permanent() && is_about_us(reply) => {
            Failure::transport(EmailFailure::Rejected)
        }
        Step::Data if reply.is_permanent() => Failure::of(EmailFailure::Rejected, Blame::Content),
        _ if wants_login(reply) => Failure::transport(EmailFailure::Auth),
        Step::Recipient if reply.is_permanent() && names_mailbox(reply) => {
            Failure::of(EmailFailure::Rejected, Blame::Recipient)
        }
        Step::Sender | Step::Recipient | Step::Data => Failure::transport(EmailFailure::Other),
    }
}

/// Whether a login is missing, too weak or wrong (RFC 4954 section 6). The rejection is then not about the recipient.
fn wants_login(reply: &Reply) -> bool {
    matches!(reply.code, 530 | 534 | 535 | 538)
}

/// Whether a permanent rejection of `RCPT` is about that mailbox.
fn names_mailbox(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(code) if code.class == 5 => match code.subject {
            // RFC 3463 section 3.2: no such mailbox, no such domain, bad syntax, moved; 5.1.10 is a domain
            // that accepts no mail (RFC 7505 section 4.2).
            1 => matches!(code.detail, 1 | 2 | 3 | 6 | 10),
            // The mailbox' own state (RFC 3463 section 3.3).
            2 => true,
            // Exchange Online's code for an unknown address.
            4 => code.detail == 1,
            _ => false,
        },
        // A temporary enhanced code with a permanent code is a contradiction.
        Some(_) => false,
        // RFC 5321 section 4.2.3: mailbox unavailable, user not local, mailbox name not allowed. Servers
        // without enhanced codes use 550 for everything else, too.
        None => matches!(reply.code, 550 | 551 | 553) && !speaks_of_us(reply),
    }
}

/// Whether a rejection after `DATA` is about us: login, relaying, policy towards the sender, quota, or the order of commands.
fn is_about_us(reply: &Reply) -> bool {
    let Some(Enhanced { subject, detail, .. }) = reply.enhanced else {
        return wants_login(reply) || reply.code == 503 || speaks_of_us(reply);
    };
    wants_login(reply)
        || match subject {
            // Our sender address (RFC 3463 section 3.2), and Exchange Online's daily limit.
            1 => matches!(detail, 7 | 8 | 90),
            // The server itself (section 3.4), except for a mail that is too big for it.
            3 => detail != 4,
            // Gmail's quota.
            4 => detail == 5,
            // The protocol (section 3.6), security and policy (section 3.8).
            5 | 7 => true,
            _ => false,
        }
}

/// Whether a reply without an enhanced code (Exim, older Sendmail) contains a phrase that is about us and not about the recipient.
fn speaks_of_us(reply: &Reply) -> bool {
    const WORDS: [&str; 9] = [
        "sender verify",
        "sender address",
        "relaying",
        "relay not permitted",
        "relay access",
        "relay denied",
        "authentication required",
        "not authenticated",
        "helo",
    ];
    let text = reply.words();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::super::reply::Assembly;
    use super::*;

    fn reply(text: &str) -> Reply {
        Assembly::default().take(text.as_bytes()).expect("a reply").expect("one line")
    }

    #[test]
    fn rejections_are_about_recipient_mail_or_us() {
        use Blame::{Content, Recipient, Transport};
        use EmailFailure::{Auth, Other, Rejected};
        let rows = [
            ("no such user", Step::Recipient, "550 5.1.1 No such user", Rejected, Recipient),
            ("no such domain", Step::Recipient, "550 5.1.2 Bad destination system", Rejected, Recipient),
            ("bad syntax", Step::Recipient, "501 5.1.3 Bad recipient address syntax", Rejected, Recipient),
            ("moved", Step::Recipient, "551 5.1.6 Moved", Rejected, Recipient),
            ("a domain that takes no mail", Step::Recipient, "556 5.1.10 Null MX", Rejected, Recipient),
            ("a disabled mailbox", Step::Recipient, "550 5.2.1 Mailbox disabled", Rejected, Recipient),
            ("a full mailbox", Step::Recipient, "552 5.2.2 Mailbox full", Rejected, Recipient),
            (
                "Exchange Online and an unknown address",
                Step::Recipient,
                "550 5.4.1 Recipient address rejected: Access denied",
                Rejected,
                Recipient,
            ),
            ("no enhanced code", Step::Recipient, "550 No such user", Rejected, Recipient),
            ("a code alone", Step::Recipient, "550", Rejected, Recipient),
            ("not local", Step::Recipient, "551 User not local", Rejected, Recipient),
            ("name not allowed", Step::Recipient, "553 Mailbox name not allowed", Rejected, Recipient),
            (
                "our name",
                Step::Recipient,
                "504 5.5.2 <consentry>: Helo command rejected: need fully-qualified hostname",
                Other,
                Transport,
            ),
            ("our name without a code", Step::Recipient, "550 HELO should be a FQDN", Other, Transport),
            (
                "our sender address",
                Step::Recipient,
                "550 5.1.8 <c@x.example>: Sender address rejected: Domain not found",
                Other,
                Transport,
            ),
            ("our sender address, Exim", Step::Recipient, "550 Sender verify failed", Other, Transport),
            ("relaying", Step::Recipient, "554 5.7.1 <a@b.example>: Relay access denied", Other, Transport),
            ("relaying, Exim", Step::Recipient, "550 relay not permitted", Other, Transport),
            ("relaying, Sendmail", Step::Recipient, "550 Relaying denied", Other, Transport),
            ("quota", Step::Recipient, "550 5.4.5 Daily sending quota exceeded", Other, Transport),
            (
                "Cisco's way to write a code",
                Step::Recipient,
                "550 #5.7.1 Your access is refused",
                Other,
                Transport,
            ),
            (
                "no login, in the order of commands",
                Step::Recipient,
                "503 5.5.1 Authentication first",
                Other,
                Transport,
            ),
            ("no login", Step::Recipient, "530 5.7.0 Authentication required", Auth, Transport),
            ("554 says nothing about a mailbox", Step::Recipient, "554 Transaction failed", Other, Transport),
            ("an IP address is no code", Step::Recipient, "550 5.7.1.9 is on a list", Rejected, Recipient),
            (
                "5.7 in the text is no code",
                Step::Recipient,
                "550 5.1.1 <u5.7.1@x.example> unknown",
                Rejected,
                Recipient,
            ),
            ("codes that contradict each other", Step::Recipient, "550 4.2.2 Mailbox full", Other, Transport),
            ("greylisting", Step::Recipient, "450 4.7.1 Greylisted", Other, Transport),
            ("a mailbox that is full for now", Step::Recipient, "452 4.2.2 Mailbox full", Other, Transport),
            (
                "a rejected sender says nothing about the recipient",
                Step::Sender,
                "550 5.1.1 Who are you",
                Other,
                Transport,
            ),
            ("a sender that is rejected", Step::Sender, "550 5.1.8 Bad sender", Other, Transport),
            ("a sender without a login", Step::Sender, "530 5.7.0 Authentication required", Auth, Transport),
            ("spam", Step::Data, "554 5.6.0 Content refused", Rejected, Content),
            ("no reason", Step::Data, "554 Transaction failed", Rejected, Content),
            ("a code alone at the end", Step::Data, "550", Rejected, Content),
            ("too big", Step::Data, "552 5.3.4 Message too big", Rejected, Content),
            ("policy", Step::Data, "550 5.7.1 Message refused", Rejected, Transport),
            ("a quota at the end", Step::Data, "550 5.4.5 Quota exceeded", Rejected, Transport),
            ("Exchange Online's quota", Step::Data, "550 5.1.90 Daily limit", Rejected, Transport),
            ("relaying at the end", Step::Data, "554 Relaying denied", Rejected, Transport),
            (
                "a system that accepts no mail",
                Step::Data,
                "554 5.3.2 System not accepting mail",
                Rejected,
                Transport,
            ),
            ("a login at the end", Step::Data, "530 5.7.0 Authentication required", Rejected, Transport),
            ("later", Step::Data, "451 4.3.0 Try again later", Other, Transport),
        ];
        for (sentence, step, text, kind, blame) in rows {
            let judged = judge(step, &reply(text));
            assert_eq!((judged.kind, judged.blame), (kind, blame), "{sentence}: {text}");
        }
    }

    #[test]
    fn greylisting_servers_and_exchange_say_when_to_come_back() {
        for (text, pause, too_much) in [
            (
                "450 4.2.0 <it@x>: Recipient address rejected: Greylisted, try again in 300 seconds",
                Some(300),
                false,
            ),
            ("451 4.7.1 Greylisting in action, please come back in 00:05:00", Some(300), false),
            ("450 4.2.0 Greylisted for 5 minutes", Some(300), false),
            ("451 Temporary failure, retry in 90s", Some(90), false),
            ("451 4.3.0 wait 9 hours", Some(3600), false),
            ("450 4.2.0 Greylisted, see http://postgrey.example/help/x.html", None, false),
            ("451 4.3.0 see 192.0.2.1:25", None, false),
            ("452 4.3.1 Insufficient storage, 10 minutes", None, false),
            ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Some(60), true),
            ("450 4.3.2 too many connections", Some(60), true),
            ("550 5.1.1 unknown for 5 minutes", None, false),
        ] {
            let judged = judge(Step::Recipient, &reply(text));
            assert_eq!(
                (judged.pause.map(|pause| pause.as_secs()), judged.too_much),
                (pause, too_much),
                "{text}"
            );
        }
    }
}
