//! A small SMTP server (RFC 5321) that accepts everything into the [`Mailbox`], with STARTTLS (RFC 3207), implicit TLS,
//! and AUTH PLAIN and LOGIN (RFC 4954) and XOAUTH2. [`MailFaults`] are its faults.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::mailbox::{Mail, MailFaults, Mailbox};

/// How the sink listens.
#[derive(Clone, Default)]
pub struct SmtpOptions {
    /// Certificate for TLS; without it STARTTLS is not offered.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// User name and password that are required before mail is accepted.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for SmtpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmtpOptions")
            .field("tls", &self.tls.is_some())
            .field("implicit_tls", &self.implicit_tls)
            .finish_non_exhaustive()
    }
}

const MAX_LINE: usize = 16 * 1024;
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, mailbox: Arc<Mailbox>, options: SmtpOptions) {
    while let Ok((stream, _)) = listener.accept().await {
        let (mailbox, options) = (Arc::clone(&mailbox), options.clone());
        tokio::spawn(async move {
            let _open = mailbox.connected();
            if mailbox.faults().refuse {
                return;
            }
            let result = match (&options.tls, options.implicit_tls) {
                (Some(tls), true) => match TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                    Ok(stream) => session(stream, &mailbox, &options, true, true).await.map(|_| ()),
                    Err(error) => Err(error),
                },
                _ => match session(stream, &mailbox, &options, false, true).await {
                    Ok(Some(stream)) => upgrade(stream, &mailbox, &options).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            // A client that closes the connection ends its session; that is not reported.
            drop(result);
        });
    }
}

async fn upgrade(
    stream: tokio::net::TcpStream,
    mailbox: &Mailbox,
    options: &SmtpOptions,
) -> std::io::Result<()> {
    let Some(tls) = &options.tls else { return Ok(()) };
    let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?;
    session(stream, mailbox, options, true, false).await.map(|_| ())
}

#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

/// What follows a command.
enum Next {
    Command,
    Tls,
    End,
}

struct Session<'a, S> {
    stream: BufStream<S>,
    mailbox: &'a Mailbox,
    options: &'a SmtpOptions,
    tls: bool,
    user: Option<String>,
    envelope: Envelope,
}

/// One session; returns the stream if the client requested STARTTLS.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    mailbox: &Mailbox,
    options: &SmtpOptions,
    tls: bool,
    greet: bool,
) -> std::io::Result<Option<S>> {
    let mut session = Session {
        stream: BufStream::new(stream),
        mailbox,
        options,
        tls,
        user: None,
        envelope: Envelope::default(),
    };
    let faults = mailbox.faults();
    if faults.hang {
        std::future::pending::<()>().await;
    }
    if greet {
        tokio::time::sleep(std::time::Duration::from_millis(faults.greets_after_ms)).await;
        if !session.answer("GREETING", "220 localhost ESMTP entra-sim").await? {
            return Ok(None);
        }
    }
    while let Some(line) = read_line(&mut session.stream).await? {
        mailbox.record_command(&line);
        match session.command(&line).await? {
            Next::Command => {}
            Next::Tls => return Ok(Some(session.stream.into_inner())),
            Next::End => return Ok(None),
        }
    }
    Ok(None)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Sends the usual reply or the scripted one. Returns whether it begins with the same digit as the usual one.
    async fn answer(&mut self, command: &str, usual: &str) -> std::io::Result<bool> {
        let faults = self.mailbox.faults();
        let reply = faults.reply(command, &self.envelope.to).unwrap_or(usual);
        self.say(reply).await?;
        Ok(reply.as_bytes().first() == usual.as_bytes().first())
    }

    async fn say(&mut self, text: &str) -> std::io::Result<()> {
        let bytes: Vec<u8> =
            text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).chain(*b"\r\n").collect();
        let piece = if self.mailbox.faults().split { 1 } else { bytes.len() };
        for part in bytes.chunks(piece) {
            self.stream.write_all(part).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }

    async fn command(&mut self, line: &str) -> std::io::Result<Next> {
        let upper = line.to_ascii_uppercase();
        let command = upper.split_whitespace().next().unwrap_or_default();
        match command {
            "EHLO" => {
                let usual = capabilities(self.options, self.tls);
                self.answer(command, &usual).await?;
            }
            "HELO" | "RSET" | "NOOP" => {
                self.envelope = Envelope::default();
                self.answer(command, "250 OK").await?;
            }
            "STARTTLS" if self.options.tls.is_some() && !self.tls => return self.start_tls().await,
            "AUTH" => self.log_in(line).await?,
            "MAIL" if self.options.credentials.is_some() && self.user.is_none() => {
                self.say("530 5.7.0 Authentication required").await?;
            }
            "MAIL" => {
                if self.answer(command, "250 2.1.0 OK").await? {
                    self.envelope = Envelope { from: Some(address(line)), to: Vec::new() };
                }
            }
            "RCPT" if self.mailbox.faults().reject.contains(&address(line)) => {
                self.say("550 5.1.1 No such user").await?;
            }
            "RCPT" => {
                self.envelope.to.push(address(line));
                if !self.answer(command, "250 2.1.5 OK").await? {
                    self.envelope.to.pop();
                }
            }
            "DATA" if self.envelope.to.is_empty() => self.say("503 5.5.1 RCPT first").await?,
            "DATA" => return self.take_mail().await,
            "QUIT" => {
                if self.mailbox.faults().hang_at_quit {
                    std::future::pending::<()>().await;
                }
                self.answer(command, "221 2.0.0 Bye").await?;
                return Ok(Next::End);
            }
            _ => self.say("500 5.5.1 Command unknown").await?,
        }
        Ok(Next::Command)
    }

    async fn start_tls(&mut self) -> std::io::Result<Next> {
        let behind =
            self.mailbox.faults().behind_starttls.map(|text| format!("\r\n{text}")).unwrap_or_default();
        let good = self.answer("STARTTLS", &format!("220 Go ahead{behind}")).await?;
        Ok(if good { Next::Tls } else { Next::Command })
    }

    async fn log_in(&mut self, line: &str) -> std::io::Result<()> {
        let given = self.authenticate(line).await?;
        let is_token = line.to_ascii_uppercase().contains("XOAUTH2");
        let good = given.filter(|g| is_token || self.options.credentials.as_ref().is_none_or(|c| c == g));
        let usual = if good.is_some() {
            "235 2.7.0 Accepted"
        } else {
            "535 5.7.8 Authentication credentials invalid"
        };
        let accepted = self.answer("AUTH", usual).await? && good.is_some();
        self.user = good.filter(|_| accepted).map(|(name, _)| name);
        Ok(())
    }

    async fn take_mail(&mut self) -> std::io::Result<Next> {
        if !self.answer("DATA", "354 End data with <CR><LF>.<CR><LF>").await? {
            return Ok(Next::Command);
        }
        let raw = read_message(&mut self.stream).await?;
        let faults = self.mailbox.faults();
        let refused =
            faults.temporary || faults.reply(".", &self.envelope.to).is_some_and(|r| !r.starts_with('2'));
        let to = self.envelope.to.clone();
        if !refused {
            let from = self.envelope.from.take().unwrap_or_default();
            self.mailbox.add(Mail { from, to, raw, tls: self.tls, user: self.user.clone() });
        }
        match faults {
            MailFaults { drop_after_data: true, .. } => return Ok(Next::End),
            MailFaults { hang_after_data: true, .. } => std::future::pending::<()>().await,
            MailFaults { temporary: true, .. } => self.say("451 4.3.0 Try again later").await?,
            _ => {
                self.answer(".", "250 2.0.0 Taken").await?;
            }
        }
        self.envelope = Envelope::default();
        Ok(Next::Command)
    }

    async fn authenticate(&mut self, line: &str) -> std::io::Result<Option<(String, String)>> {
        let mut words = line.split_whitespace().skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next().map(str::to_owned);
        let decode = |text: &str| STANDARD.decode(text.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        if mechanism == "XOAUTH2" {
            let text = decode(&initial.unwrap_or_default()).unwrap_or_default();
            let mut fields = text.split('\u{1}');
            let user = fields.next().and_then(|f| f.strip_prefix("user=")).map(str::to_owned);
            let token = fields.next().and_then(|f| f.strip_prefix("auth=Bearer ")).map(str::to_owned);
            if self.mailbox.takes_token(token.as_deref().unwrap_or_default()) {
                return Ok(user.zip(token));
            }
            // Exchange Online explains in a challenge, which the client answers with an empty line.
            self.challenge("{\"status\":\"400\",\"schemes\":\"Bearer\"}").await?;
            return Ok(None);
        }
        if mechanism == "PLAIN" {
            let response = match initial {
                Some(response) => response,
                None => self.challenge("").await?,
            };
            let text = decode(&response).unwrap_or_default();
            let mut parts = text.split('\0').skip(1);
            return Ok(parts.next().zip(parts.next()).map(|(u, p)| (u.to_owned(), p.to_owned())));
        }
        let [first, second] =
            self.mailbox.faults().challenges.unwrap_or_else(|| ["Username:", "Password:"].map(str::to_owned));
        let name = match initial {
            Some(name) => name,
            None => self.challenge(&first).await?,
        };
        let password = self.challenge(&second).await?;
        Ok(decode(&name).zip(decode(&password)))
    }

    async fn challenge(&mut self, prompt: &str) -> std::io::Result<String> {
        self.say(&format!("334 {}", STANDARD.encode(prompt))).await?;
        Ok(read_line(&mut self.stream).await?.unwrap_or_default())
    }
}

fn capabilities(options: &SmtpOptions, tls: bool) -> String {
    let mut lines = vec!["localhost", "8BITMIME", "SMTPUTF8", "SIZE 8388608"];
    if options.tls.is_some() && !tls {
        lines.push("STARTTLS");
    }
    lines.push("AUTH PLAIN LOGIN XOAUTH2");
    let last = lines.len() - 1;
    lines
        .iter()
        .enumerate()
        .map(|(i, l)| format!("250{}{l}", if i == last { ' ' } else { '-' }))
        .collect::<Vec<_>>()
        .join("\r\n")
}

fn address(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(a, _)| a.to_owned())
        .unwrap_or_default()
}

async fn read_line<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if read_until_limited(stream, &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

async fn read_until_limited<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    line: &mut Vec<u8>,
) -> std::io::Result<usize> {
    use tokio::io::AsyncReadExt as _;
    stream.take(MAX_LINE as u64).read_until(b'\n', line).await
}

async fn read_message<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        if read_until_limited(stream, &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(message);
        }
        let unstuffed = if line.starts_with(b".") { &line[1..] } else { &line[..] };
        if message.len() + unstuffed.len() > MAX_MESSAGE {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        message.extend_from_slice(unstuffed);
    }
}
