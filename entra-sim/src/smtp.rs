//! A small SMTP server (RFC 5321) that accepts everything into the [`Mailbox`], with STARTTLS (RFC 3207), implicit TLS,
//! and AUTH PLAIN and LOGIN (RFC 4954).

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
    /// User name and password that must be given before mail is taken.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for SmtpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmtpOptions").field("tls", &self.tls.is_some()).field("implicit_tls", &self.implicit_tls).finish_non_exhaustive()
    }
}

const MAX_LINE: usize = 16 * 1024;
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, mailbox: Arc<Mailbox>, options: SmtpOptions) {
    while let Ok((stream, _)) = listener.accept().await {
        let (mailbox, options) = (Arc::clone(&mailbox), options.clone());
        tokio::spawn(async move {
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
            // A client that goes away ends its session; nobody needs to hear of it.
            drop(result);
        });
    }
}

async fn upgrade(stream: tokio::net::TcpStream, mailbox: &Mailbox, options: &SmtpOptions) -> std::io::Result<()> {
    let Some(tls) = &options.tls else { return Ok(()) };
    let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?;
    session(stream, mailbox, options, true, false).await.map(|_| ())
}

#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

/// One session; hands the stream back when the client asked for STARTTLS.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    mailbox: &Mailbox,
    options: &SmtpOptions,
    tls: bool,
    greet: bool,
) -> std::io::Result<Option<S>> {
    let mut stream = BufStream::new(stream);
    if mailbox.faults().hang {
        std::future::pending::<()>().await;
    }
    if greet {
        say(&mut stream, "220 localhost ESMTP entra-sim").await?;
    }
    let mut user: Option<String> = None;
    let mut envelope = Envelope::default();
    while let Some(line) = read_line(&mut stream).await? {
        let upper = line.to_ascii_uppercase();
        let command = upper.split_whitespace().next().unwrap_or_default();
        match command {
            "EHLO" => say(&mut stream, &capabilities(options, tls)).await?,
            "HELO" | "RSET" | "NOOP" => {
                envelope = Envelope::default();
                say(&mut stream, "250 OK").await?;
            }
            "STARTTLS" if options.tls.is_some() && !tls => {
                say(&mut stream, "220 Go ahead").await?;
                return Ok(Some(stream.into_inner()));
            }
            "AUTH" => {
                let given = authenticate(&mut stream, &line).await?;
                let good = given.filter(|g| options.credentials.as_ref().is_none_or(|c| c == g));
                user = good.map(|(name, _)| name);
                say(&mut stream, if user.is_some() { "235 2.7.0 Accepted" } else { "535 5.7.8 Authentication credentials invalid" })
                    .await?;
            }
            "MAIL" if options.credentials.is_some() && user.is_none() => say(&mut stream, "530 5.7.0 Authentication required").await?,
            "MAIL" => {
                envelope = Envelope { from: Some(address(&line)), to: Vec::new() };
                say(&mut stream, "250 2.1.0 OK").await?;
            }
            "RCPT" if mailbox.faults().reject.contains(&address(&line)) => say(&mut stream, "550 5.1.1 No such user").await?,
            "RCPT" => {
                envelope.to.push(address(&line));
                say(&mut stream, "250 2.1.5 OK").await?;
            }
            "DATA" if envelope.to.is_empty() => say(&mut stream, "503 5.5.1 RCPT first").await?,
            "DATA" => {
                say(&mut stream, "354 End data with <CR><LF>.<CR><LF>").await?;
                let raw = read_message(&mut stream).await?;
                let faults = mailbox.faults();
                if !faults.temporary {
                    let from = envelope.from.take().unwrap_or_default();
                    mailbox.add(Mail { from, to: std::mem::take(&mut envelope.to), raw, tls, user: user.clone() });
                }
                match faults {
                    MailFaults { drop_after_data: true, .. } => return Ok(None),
                    MailFaults { temporary: true, .. } => say(&mut stream, "451 4.3.0 Try again later").await?,
                    _ => say(&mut stream, "250 2.0.0 Taken").await?,
                }
            }
            "QUIT" => {
                say(&mut stream, "221 2.0.0 Bye").await?;
                return Ok(None);
            }
            _ => say(&mut stream, "500 5.5.1 Command unknown").await?,
        }
    }
    Ok(None)
}

fn capabilities(options: &SmtpOptions, tls: bool) -> String {
    let mut lines = vec!["localhost", "8BITMIME", "SMTPUTF8", "SIZE 8388608"];
    if options.tls.is_some() && !tls {
        lines.push("STARTTLS");
    }
    lines.push("AUTH PLAIN LOGIN");
    let last = lines.len() - 1;
    lines.iter().enumerate().map(|(i, l)| format!("250{}{l}", if i == last { ' ' } else { '-' })).collect::<Vec<_>>().join("\r\n")
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    line: &str,
) -> std::io::Result<Option<(String, String)>> {
    let mut words = line.split_whitespace().skip(1);
    let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
    let initial = words.next().map(str::to_owned);
    let decode = |text: &str| STANDARD.decode(text.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    if mechanism == "PLAIN" {
        let response = match initial {
            Some(response) => response,
            None => challenge(stream, "").await?,
        };
        let text = decode(&response).unwrap_or_default();
        let mut parts = text.split('\0').skip(1);
        return Ok(parts.next().zip(parts.next()).map(|(u, p)| (u.to_owned(), p.to_owned())));
    }
    let name = match initial {
        Some(name) => name,
        None => challenge(stream, "Username:").await?,
    };
    let password = challenge(stream, "Password:").await?;
    Ok(decode(&name).zip(decode(&password)))
}

async fn challenge<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, prompt: &str) -> std::io::Result<String> {
    say(stream, &format!("334 {}", STANDARD.encode(prompt))).await?;
    Ok(read_line(stream).await?.unwrap_or_default())
}

fn address(line: &str) -> String {
    line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(a, _)| a.to_owned()).unwrap_or_default()
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}

async fn read_line<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if read_until_limited(stream, &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

async fn read_until_limited<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, line: &mut Vec<u8>) -> std::io::Result<usize> {
    use tokio::io::AsyncReadExt as _;
    stream.take(MAX_LINE as u64).read_until(b'\n', line).await
}

async fn read_message<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>) -> std::io::Result<Vec<u8>> {
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
