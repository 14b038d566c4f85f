//! The dialogue with a mail server, step by step, and its lines that may be shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::TcpStream;

use super::blame::{Blame, Failure, Step, judge};
use super::hello;
use super::reply::{Accepted, Reply};
use super::stream::{Break, Duplex, NoTls, SmtpStream, connect, limit, protect, tls_config};
use crate::config::SmtpTls;
use crate::metrics::EmailFailure;
use crate::notify::mime::{Letter, a_label};
use crate::notify::settings::SmtpSettings;

mod login;

/// A part of a secret with at least this many characters is hidden like the whole.
const LONG_PART: usize = 16;

/// The dialogue so far. It contains no secrets; they are removed from the server's replies, too.
#[derive(Default)]
pub(super) struct SmtpDialogue {
    lines: Vec<String>,
    secrets: Vec<String>,
}

impl SmtpDialogue {
    pub(super) fn note(&mut self, line: impl Into<String>) {
        let line = line.into();
        self.lines.push(self.without_secrets(&line));
    }

    /// A line without the secrets. A long one may have been cut, or folded over several lines, so every long part of it is replaced, too.
    fn without_secrets(&self, line: &str) -> String {
        let whole = self
            .secrets
            .iter()
            .fold(line.to_owned(), |text, secret| text.replace(secret.as_str(), "<secret>"));
        let is_part = |word: &str| {
            let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            core.len() >= LONG_PART && self.secrets.iter().any(|secret| secret.contains(core))
        };
        let words = whole.split(' ').map(|word| if is_part(word) { "<secret>" } else { word });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Hides a secret in the server's replies, because a server may repeat what it received.
    fn hide(&mut self, secret: &str) {
        // A very short secret also occurs in ordinary words, so replacing it would only garble the replies.
        if secret.len() >= 4 {
            self.secrets.push(secret.to_owned());
        }
    }

    fn log_response(&mut self, reply: &Reply) {
        for line in &reply.lines {
            self.note(format!("< {} {line}", reply.code).trim_end());
        }
    }

    /// Records that the connection cannot be used any more. `otherwise` is the meaning of a broken connection at this step.
    fn broke(&mut self, broken: &Break, otherwise: EmailFailure) -> Failure {
        self.note(format!("! {broken}"));
        Failure::transport(if matches!(broken, Break::Timeout) { EmailFailure::Timeout } else { otherwise })
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

/// The extensions that the server offers (RFC 5321 section 4.1.1.1).
#[derive(Debug, Default)]
struct Offers {
    starttls: bool,
    utf8: bool,
    eight_bit: bool,
    size: bool,
    plain: bool,
    login: bool,
    xoauth2: bool,
}

impl Offers {
    /// Reads the lines of a reply to EHLO; the first one is a greeting.
    fn of(reply: &Reply) -> Self {
        let mut offers = Self::default();
        for line in reply.lines.iter().skip(1) {
            // Old servers write AUTH=LOGIN.
            let line = line.to_ascii_uppercase().replace("AUTH=", "AUTH ");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("STARTTLS") => offers.starttls = true,
                Some("SMTPUTF8") => offers.utf8 = true,
                Some("8BITMIME") => offers.eight_bit = true,
                Some("SIZE") => offers.size = true,
                Some("AUTH") => words.for_each(|mechanism| match mechanism {
                    "PLAIN" => offers.plain = true,
                    "LOGIN" => offers.login = true,
                    "XOAUTH2" => offers.xoauth2 = true,
                    _ => {}
                }),
                _ => {}
            }
        }
        offers
    }
}

/// A session after greeting, TLS and login.
pub(super) struct Session {
    wire: SmtpStream<Box<dyn Duplex>>,
    offers: Offers,
    /// Why no further mail may follow, once that is so.
    ended: Option<Ended>,
}

/// How a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server closed the connection without a word about a mail, or with 421 (RFC 5321 section 3.8).
    Closed,
    /// It did not answer in time, answered nonsense, or rejected a mail and closed the connection.
    Unusable,
}

impl Session {
    fn new(wire: SmtpStream<Box<dyn Duplex>>, offers: Offers) -> Self {
        Self { wire, offers, ended: None }
    }

    /// Whether another mail may follow.
    pub(super) fn is_usable(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether the server has closed the session, which says nothing about the mail.
    pub(super) fn is_closed(&self) -> bool {
        self.ended == Some(Ended::Closed)
    }

    /// Records whether the session has ended.
    fn noted(&mut self, heard: Result<Reply, Break>) -> Result<Reply, Break> {
        let ended = match &heard {
            Ok(reply) if reply.code == 421 => Some(Ended::Closed),
            Ok(_) => None,
            Err(Break::Io(_)) => Some(Ended::Closed),
            Err(Break::Timeout | Break::Nonsense(_)) => Some(Ended::Unusable),
        };
        self.ended = self.ended.or(ended);
        heard
    }

    async fn command(&mut self, command: &str, within: Duration) -> Result<Reply, Break> {
        let heard = self.wire.command(command, within).await;
        self.noted(heard)
    }

    /// Discards what the server knows of the current mail. Returns whether another mail may follow.
    pub(super) async fn reset(&mut self, dialogue: &mut SmtpDialogue) -> bool {
        if !self.wire.is_silent() {
            // The server has sent something that nothing asked for: replies can no longer be told apart.
            return false;
        }
        dialogue.note("> RSET");
        match self.command("RSET", limit::RESET).await {
            Ok(reply) => {
                dialogue.log_response(&reply);
                reply.is_positive()
            }
            Err(broken) => {
                dialogue.note(format!("* {broken}; opening another session"));
                false
            }
        }
    }

    /// Connects, and does everything before the first mail: greeting, TLS, login.
    pub(super) async fn open(settings: &SmtpSettings, dialogue: &mut SmtpDialogue) -> Result<Self, Failure> {
        let host = a_label(settings.server.host.trim_end_matches('.')).map_err(|problem| {
            dialogue.note(format!("! the mail server's host {problem}"));
            Failure::transport(EmailFailure::Connect)
        })?;
        dialogue.note(format!("* connecting to {host}:{}", settings.server.port));
        let stream = connect(&host, settings.server.port)
            .await
            .map_err(|broken| dialogue.broke(&broken, EmailFailure::Connect))?;
        let local = stream.local_addr().ok().map(|address| address.ip());
        let address = ServerAddress { settings, host: &host, local };
        let mut session = match settings.server.tls {
            // Boxed, because a handshake is large and an outbox has many mails.
            SmtpTls::Implicit => Box::pin(address.implicit(stream, dialogue)).await?,
            SmtpTls::Starttls | SmtpTls::None => Box::pin(address.plain(stream, dialogue)).await?,
        };
        session.log_in(settings, dialogue).await?;
        Ok(session)
    }

    /// Sends a line that the dialogue does not show.
    async fn say(&mut self, secret: &str, dialogue: &mut SmtpDialogue) -> Result<Reply, Failure> {
        self.command(secret, limit::HELLO)
            .await
            .map_err(|broken| dialogue.broke(&broken, EmailFailure::Other))
    }

    /// Hands over a mail except for its final dot. Until the dot is sent, the server discards the mail when the connection ends (RFC 5321 section
    /// 4.1.1.4).
    pub(super) async fn dictate(
        &mut self,
        letter: &Letter,
        dialogue: &mut SmtpDialogue,
    ) -> Result<(), Failure> {
        let mut parameters = String::new();
        if self.offers.size {
            // RFC 1870 section 5: the size as transmitted, doubled dots included.
            parameters.push_str(&format!(" SIZE={}", letter.bytes.len()));
        }
        if self.offers.eight_bit && !letter.bytes.is_ascii() {
            parameters.push_str(" BODY=8BITMIME");
        }
        if letter.needs_utf8() {
            if !self.offers.utf8 {
                dialogue.note("! the address needs SMTPUTF8, which the server does not offer");
                let blame = if letter.to.is_ascii() { Blame::Transport } else { Blame::Recipient };
                return Err(Failure::of(EmailFailure::Rejected, blame));
            }
            parameters.push_str(" SMTPUTF8");
        }
        self.step(Step::Sender, &format!("MAIL FROM:<{}>{parameters}", letter.from), dialogue).await?;
        self.step(Step::Recipient, &format!("RCPT TO:<{}>", letter.to), dialogue).await?;
        self.step(Step::Data, "DATA", dialogue).await?;
        dialogue.note(format!("> (the mail, {} bytes)", letter.bytes.len()));
        let Err(broken) = self.wire.write(&letter.bytes, limit::BLOCK).await else { return Ok(()) };
        Err(self.cut_off(&broken, dialogue).await)
    }

    /// The connection broke before the final dot. A server that rejects a mail in the middle says why before it closes the connection.
    async fn cut_off(&mut self, broken: &Break, dialogue: &mut SmtpDialogue) -> Failure {
        self.ended = Some(Ended::Closed);
        if let Ok(reply) = self.wire.reply(limit::QUIT).await
            && !reply.is_positive()
        {
            self.ended = Some(Ended::Unusable);
            dialogue.log_response(&reply);
            return judge(Step::Data, &reply);
        }
        dialogue.broke(broken, EmailFailure::Other)
    }

    async fn step(&mut self, step: Step, command: &str, dialogue: &mut SmtpDialogue) -> Result<(), Failure> {
        dialogue.note(format!("> {command}"));
        let (within, expected) = match step {
            Step::Sender => (limit::MAIL, 200..300),
            Step::Recipient => (limit::RCPT, 200..300),
            Step::Data => (limit::DATA, 354..355),
        };
        let reply = self
            .command(command, within)
            .await
            .map_err(|broken| dialogue.broke(&broken, EmailFailure::Other))?;
        dialogue.log_response(&reply);
        if expected.contains(&reply.code) { Ok(()) } else { Err(judge(step, &reply)) }
    }

    /// Sends the final dot and waits for the response. From now on the mail may have arrived, whatever the response is.
    pub(super) async fn end(&mut self, dialogue: &mut SmtpDialogue) -> Result<Accepted, Failure> {
        let answer = match self.wire.write(b".\r\n", limit::BLOCK).await {
            Ok(()) => {
                let heard = self.wire.reply(limit::END).await;
                self.noted(heard)
            }
            // The connection was closed before the dot, so the mail was not accepted.
            Err(broken @ Break::Io(_)) => return Err(self.cut_off(&broken, dialogue).await),
            Err(broken) => {
                self.ended = Some(Ended::Unusable);
                Err(broken)
            }
        };
        match answer {
            Ok(reply) => {
                dialogue.log_response(&reply);
                if reply.is_positive() { Ok(Accepted::of(&reply)) } else { Err(judge(Step::Data, &reply)) }
            }
            Err(broken) => {
                dialogue.note(format!("! {broken}; it is unknown whether the mail was accepted"));
                let kind = if matches!(broken, Break::Timeout) {
                    EmailFailure::Timeout
                } else {
                    EmailFailure::Other
                };
                Err(Failure::of(kind, Blame::Unanswered))
            }
        }
    }

    /// Sends QUIT (RFC 5321 section 4.1.1.10). The result does not matter.
    pub(super) async fn quit(mut self) {
        let _ = self.wire.command("QUIT", limit::QUIT).await;
    }
}

/// The start of a session: greeting, EHLO, TLS.
struct ServerAddress<'a> {
    settings: &'a SmtpSettings,
    host: &'a str,
    local: Option<IpAddr>,
}

impl ServerAddress<'_> {
    fn tls(&self, dialogue: &mut SmtpDialogue) -> Result<Arc<ClientConfig>, Failure> {
        tls_config(self.settings.server.ca_file.as_deref()).map_err(|text| {
            dialogue.note(format!("! {text}"));
            Failure::transport(EmailFailure::Tls)
        })
    }

    /// TLS from the first byte (RFC 8314 section 3.3).
    async fn implicit(&self, stream: TcpStream, dialogue: &mut SmtpDialogue) -> Result<Session, Failure> {
        let config = self.tls(dialogue)?;
        let handshake =
            async { tokio::time::timeout(limit::GREETING, protect(stream, self.host, config)).await };
        let outcome = unless(handshake, self.speaks_plainly()).await;
        let no_tls = match outcome {
            Some(Ok(Ok(stream))) => {
                dialogue.note("* TLS is up");
                let mut wire = SmtpStream::new(stream).boxed();
                greeting(&mut wire, dialogue, std::future::pending()).await?;
                let offers = self.introduce(&mut wire, dialogue).await?;
                return Ok(Session::new(wire, offers));
            }
            Some(Err(_)) => return Err(dialogue.broke(&Break::Timeout, EmailFailure::Connect)),
            Some(Ok(Err(error))) => Some(error),
            None => None,
        };
        let spoken = no_tls.as_ref().is_some_and(|error| error.spoken);
        if let Some(NoTls { text, .. }) = &no_tls {
            dialogue.note(format!("! {text}"));
        }
        // Bytes that are not TLS are usually a greeting. Only a second connection that gets a greeting
        // without TLS makes that certain.
        if no_tls.is_none() || (!spoken && within_silence(self.speaks_plainly()).await) {
            dialogue.note("! the server does not use implicit TLS at this port; use tls: starttls (usually 587), or the port of implicit TLS (usually 465)");
        }
        Err(Failure::transport(EmailFailure::Tls))
    }

    /// No TLS from the first byte; STARTTLS (RFC 3207) if it is configured.
    async fn plain(&self, stream: TcpStream, dialogue: &mut SmtpDialogue) -> Result<Session, Failure> {
        let mut wire = SmtpStream::new(stream);
        greeting(&mut wire, dialogue, self.speaks_tls()).await?;
        let offers = self.introduce(&mut wire, dialogue).await?;
        if self.settings.server.tls == SmtpTls::None {
            return Ok(Session::new(wire.boxed(), offers));
        }
        let failed = Failure::transport(EmailFailure::Tls);
        if !offers.starttls {
            dialogue.note(
                "! the server does not offer STARTTLS; use tls: implicit, or tls: none on a trusted network",
            );
            return Err(failed);
        }
        dialogue.note("> STARTTLS");
        let reply = wire
            .command("STARTTLS", limit::TLS)
            .await
            .map_err(|broken| dialogue.broke(&broken, EmailFailure::Tls))?;
        dialogue.log_response(&reply);
        if reply.code != 220 {
            return Err(failed);
        }
        // Bytes behind the 220 were sent before TLS, perhaps by an attacker in between (RFC 3207 section 6).
        // They are never used.
        let Some(stream) = wire.into_silent() else {
            dialogue.note(
                "! the server has sent bytes without TLS after its 220; the connection may be intercepted",
            );
            return Err(failed);
        };
        let config = self.tls(dialogue)?;
        let stream = match tokio::time::timeout(limit::TLS, protect(stream, self.host, config)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                dialogue.note(format!("! {}", error.text));
                return Err(failed);
            }
            Err(_) => return Err(dialogue.broke(&Break::Timeout, EmailFailure::Tls)),
        };
        dialogue.note("* TLS is up");
        // RFC 3207 section 4.2: everything that was learned before TLS is discarded.
        let mut wire = SmtpStream::new(stream).boxed();
        let offers = self.introduce(&mut wire, dialogue).await?;
        Ok(Session::new(wire, offers))
    }

    /// EHLO, or HELO if the server does not support EHLO (RFC 5321 section 3.2).
    async fn introduce<S: Duplex>(
        &self,
        wire: &mut SmtpStream<S>,
        dialogue: &mut SmtpDialogue,
    ) -> Result<Offers, Failure> {
        let name = hello::name(self.settings.server.hello.as_deref(), self.local).await;
        for command in ["EHLO", "HELO"] {
            let command = format!("{command} {name}");
            dialogue.note(format!("> {command}"));
            let reply = wire
                .command(&command, limit::HELLO)
                .await
                .map_err(|broken| dialogue.broke(&broken, EmailFailure::Connect))?;
            dialogue.log_response(&reply);
            match reply.code {
                200..300 if command.starts_with('E') => return Ok(Offers::of(&reply)),
                200..300 => return Ok(Offers::default()),
                // RFC 5321 section 3.2 names 500, 502 and 550; servers use others, too.
                500..600 => {}
                _ => break,
            }
        }
        Err(Failure::transport(EmailFailure::Connect))
    }

    /// Whether the server uses TLS from the first byte on a second connection.
    async fn speaks_tls(&self) -> bool {
        let Ok(config) = tls_config(self.settings.server.ca_file.as_deref()) else { return false };
        let Ok(stream) = connect(self.host, self.settings.server.port).await else { return false };
        match protect(stream, self.host, config).await {
            Ok(_) => true,
            Err(error) => error.spoken,
        }
    }

    /// Whether the server sends a greeting without TLS on a second connection.
    async fn speaks_plainly(&self) -> bool {
        let Ok(stream) = connect(self.host, self.settings.server.port).await else { return false };
        SmtpStream::new(stream).reply(limit::GREETING).await.is_ok()
    }
}

/// Reads the server's greeting.
async fn greeting<S: Duplex>(
    wire: &mut SmtpStream<S>,
    dialogue: &mut SmtpDialogue,
    tls: impl Future<Output = bool>,
) -> Result<(), Failure> {
    let Some(log_response) = unless(wire.reply(limit::GREETING), tls).await else {
        dialogue.note("! the server waits for TLS at this port; use tls: implicit, or the port of STARTTLS (usually 587)");
        return Err(Failure::transport(EmailFailure::Tls));
    };
    let reply = log_response.map_err(|broken| dialogue.broke(&broken, EmailFailure::Connect))?;
    dialogue.log_response(&reply);
    if reply.code == 220 { Ok(()) } else { Err(Failure::transport(EmailFailure::Connect)) }
}

/// The result of `work`; `None` if it is silent for long and `otherwise` (a second connection) finds the other kind of TLS.
async fn unless<T>(work: impl Future<Output = T>, otherwise: impl Future<Output = bool>) -> Option<T> {
    let look = async {
        tokio::time::sleep(limit::SILENCE).await;
        if !otherwise.await {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = look => None,
    }
}

/// Whether a second connection finds the other kind of TLS within [`limit::SILENCE`].
async fn within_silence(finding: impl Future<Output = bool>) -> bool {
    tokio::time::timeout(limit::SILENCE, finding).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;

    use super::super::reply::Assembly;
    use super::*;

    fn reply(lines: &[&str]) -> Reply {
        let mut assembly = Assembly::default();
        lines.iter().find_map(|line| assembly.take(line.as_bytes()).expect("a line")).expect("a reply")
    }

    #[test]
    fn offers_of_servers_are_read() {
        for (sentence, lines, plain, login, starttls) in [
            ("nothing", &["250 localhost"][..], false, false, false),
            ("both", &["250-localhost", "250-STARTTLS", "250 AUTH PLAIN LOGIN"], true, true, true),
            ("in small letters", &["250-localhost", "250-starttls", "250 auth login"], false, true, true),
            ("the old way", &["250-localhost", "250 AUTH=LOGIN PLAIN"], true, true, false),
            ("something else", &["250-localhost", "250 AUTH CRAM-MD5 XOAUTH2"], false, false, false),
            ("the greeting is not an offer", &["250-STARTTLS", "250 8BITMIME"], false, false, false),
        ] {
            let offers = Offers::of(&reply(lines));
            assert_eq!((offers.plain, offers.login, offers.starttls), (plain, login, starttls), "{sentence}");
        }
    }

    #[test]
    fn a_server_that_repeats_a_secret_shows_none() {
        let mut dialogue = SmtpDialogue::default();
        dialogue.hide("geheim");
        dialogue.log_response(&reply(&["535-5.7.8 not known:", "535 consentry/geheim"]));
        assert_eq!(dialogue.into_lines(), ["< 535 5.7.8 not known:", "< 535 consentry/<secret>"]);
    }

    /// The result of a mail if the server sends this response to the final dot after so many seconds, and then closes the connection.
    async fn ended(after: u64, said: &'static [u8]) -> Result<Accepted, Failure> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut session = Session::new(SmtpStream::new(ours).boxed(), Offers::default());
        let mut dialogue = SmtpDialogue::default();
        let server = async move {
            tokio::time::sleep(Duration::from_secs(after)).await;
            theirs.write_all(said).await.expect("said");
        };
        tokio::join!(session.end(&mut dialogue), server).0
    }

    /// RFC 5321 section 4.5.3.2.6: a server may take ten minutes. A missing response to the final dot is not a rejection.
    #[tokio::test(start_paused = true)]
    async fn the_response_to_the_final_dot_may_take_ten_minutes() {
        use EmailFailure::{Other, Rejected, Timeout};
        let failed = |kind, blame| Err(Failure::of(kind, blame));
        for (sentence, after, said, expected) in [
            ("at once", 0, &b"250 taken\r\n"[..], Ok(())),
            ("after 95 seconds", 95, b"250 taken\r\n", Ok(())),
            ("after nearly ten minutes", 599, b"250\r\n", Ok(())),
            ("too late", 601, b"250 taken\r\n", failed(Timeout, Blame::Unanswered)),
            ("hung up", 95, b"", failed(Other, Blame::Unanswered)),
            ("hung up in the middle", 95, b"250-tak", failed(Other, Blame::Unanswered)),
            ("nonsense", 1, b"hello\r\n", failed(Other, Blame::Unanswered)),
            ("later, please", 1, b"451 4.3.0 later\r\n", failed(Other, Blame::Transport)),
            ("shutting down", 1, b"421 bye\r\n", failed(Other, Blame::Transport)),
            ("refused", 1, b"554 no\r\n", failed(Rejected, Blame::Content)),
        ] {
            assert_eq!(ended(after, said).await.map(drop), expected, "{sentence}");
        }
    }

    #[test]
    fn parts_of_a_long_secret_are_hidden() {
        let token: String = ('a'..='z').cycle().take(2000).collect();
        let mut dialogue = SmtpDialogue::default();
        dialogue.hide(&token);
        for line in [
            token.clone(),
            format!("500 unknown: AUTH XOAUTH2 {}", &token[..480]),
            format!("({}...", &token[30..90]),
        ] {
            dialogue.note(line);
        }
        dialogue.note("235 2.7.0 Authentication successful, abcdefghij");
        let lines = dialogue.into_lines();
        assert!(
            lines[..3].iter().all(|line| line.contains("<secret>") && !line.contains("klmnopqrst")),
            "{lines:?}"
        );
        assert_eq!(lines[3], "235 2.7.0 Authentication successful, abcdefghij");
    }

    #[tokio::test]
    async fn a_mail_that_was_cut_off_before_the_dot_was_not_accepted() {
        for (said, kind, blame) in [
            (&b"554 5.6.0 virus\r\n"[..], EmailFailure::Rejected, Blame::Content),
            (b"421 4.3.2 bye\r\n", EmailFailure::Other, Blame::Transport),
            (b"", EmailFailure::Other, Blame::Transport),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let mut session = Session::new(SmtpStream::new(ours).boxed(), Offers::default());
            theirs.write_all(said).await.expect("said");
            drop(theirs);
            assert_eq!(session.end(&mut SmtpDialogue::default()).await, Err(Failure::of(kind, blame)));
        }
    }

    /// RFC 5321 section 4.5.3.2.1: a greeting may take five minutes, unless a second connection finds the other kind of TLS.
    #[tokio::test(start_paused = true)]
    async fn the_client_waits_for_a_slow_greeting() {
        for (sentence, after, other_way, expected) in [
            ("slow", 299, false, Ok(())),
            ("too slow", 301, false, Err(EmailFailure::Timeout)),
            ("it uses the other kind of TLS", 299, true, Err(EmailFailure::Tls)),
            ("too quick for a second connection", 9, true, Ok(())),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let mut wire = SmtpStream::new(ours);
            let mut dialogue = SmtpDialogue::default();
            let server = async move {
                tokio::time::sleep(Duration::from_secs(after)).await;
                theirs.write_all(b"220 hello\r\n").await.expect("said");
            };
            let (greeted, ()) = tokio::join!(greeting(&mut wire, &mut dialogue, async { other_way }), server);
            assert_eq!(greeted.map_err(|failure| failure.kind), expected, "{sentence}");
        }
    }
}
