//! The connection to a mail server: bytes in both directions, each step with a time limit, replies of bounded size.
//!
//! Bytes that were read ahead belong to one [`SmtpStream`] and are dropped with it, so bytes from before TLS are never read as if they had come
//! through TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reply::{Assembly, LONGEST_LINE, Reply};

/// Time limits. RFC 5321 section 4.5.3.2 gives a minimum for each step. Servers that process mails slowly (filters, greylisting, slow disks) rely on
/// them, and a client that gives up earlier sends the same mail again and again.
pub(super) mod limit {
    use std::time::Duration;

    /// One address of the server. No RFC has a limit; a firewall that drops packets never responds.
    pub(in super::super) const CONNECT: Duration = Duration::from_secs(30);
    /// The initial 220 (section 4.5.3.2.1).
    pub(in super::super) const GREETING: Duration = Duration::from_secs(300);
    /// EHLO, HELO and AUTH, for which the RFC has no limit: the same as for MAIL.
    pub(in super::super) const HELLO: Duration = Duration::from_secs(300);
    /// The reply to STARTTLS, and the TLS handshake.
    pub(in super::super) const TLS: Duration = Duration::from_secs(120);
    /// MAIL (section 4.5.3.2.2).
    pub(in super::super) const MAIL: Duration = Duration::from_secs(300);
    /// RCPT (section 4.5.3.2.3).
    pub(in super::super) const RCPT: Duration = Duration::from_secs(300);
    /// DATA until its 354 (section 4.5.3.2.4).
    pub(in super::super) const DATA: Duration = Duration::from_secs(120);
    /// Each block of the mail (section 4.5.3.2.5).
    pub(in super::super) const BLOCK: Duration = Duration::from_secs(180);
    /// The response to the final dot (section 4.5.3.2.6).
    pub(in super::super) const END: Duration = Duration::from_secs(600);
    /// QUIT: everything is saved by then, so a short wait is enough.
    pub(in super::super) const QUIT: Duration = Duration::from_secs(3);
    /// If a server is silent for this time, it may expect TLS, or no TLS.
    /// RSET: another session is opened otherwise.
    pub(in super::super) const RESET: Duration = Duration::from_secs(60);
    pub(in super::super) const SILENCE: Duration = Duration::from_secs(10);
}

/// The mail is written in blocks of this size, each with its own time limit.
const BLOCK_SIZE: usize = 16 * 1024;

/// Why the connection cannot be used any more.
#[derive(Debug)]
pub(super) enum Break {
    /// The time limit of a step.
    Timeout,
    /// The connection failed, or the server has closed it.
    Io(io::Error),
    /// The server sent something that is not a reply.
    Nonsense(String),
}

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("the server took too long to answer"),
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the server has closed the connection")
            }
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Nonsense(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for Break {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A stream of bytes, encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream from which replies are read.
pub(super) struct SmtpStream<S> {
    stream: S,
    /// Bytes that were read but not parsed yet.
    ahead: Vec<u8>,
}

impl<S> SmtpStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Whether the server has sent nothing that nobody asked for.
    pub(super) fn is_silent(&self) -> bool {
        self.ahead.is_empty()
    }

    /// The connection itself, if nothing was read ahead.
    pub(super) fn into_silent(self) -> Option<S> {
        self.ahead.is_empty().then_some(self.stream)
    }
}

impl<S: Duplex + 'static> SmtpStream<S> {
    /// The same stream as a trait object.
    pub(super) fn boxed(self) -> SmtpStream<Box<dyn Duplex>> {
        SmtpStream { stream: Box::new(self.stream), ahead: self.ahead }
    }
}

impl<S: Duplex> SmtpStream<S> {
    /// The next complete reply, within a time limit.
    pub(super) async fn reply(&mut self, within: Duration) -> Result<Reply, Break> {
        tokio::time::timeout(within, self.read_reply()).await.unwrap_or(Err(Break::Timeout))
    }

    async fn read_reply(&mut self) -> Result<Reply, Break> {
        let mut assembly = Assembly::default();
        loop {
            let line = self.line().await?;
            if let Some(reply) = assembly.take(&line).map_err(Break::Nonsense)? {
                return Ok(reply);
            }
        }
    }

    /// The next line without its end. A bare line feed ends it, too, because it does not change the meaning of a reply.
    async fn line(&mut self) -> Result<Vec<u8>, Break> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.ahead[looked_at..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=looked_at + end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            looked_at = self.ahead.len();
            if looked_at > LONGEST_LINE {
                return Err(Break::Nonsense(format!(
                    "the server sends a line of more than {LONGEST_LINE} bytes"
                )));
            }
            self.ahead.reserve(1024);
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Sends a command and reads its reply.
    pub(super) async fn command(&mut self, command: &str, within: Duration) -> Result<Reply, Break> {
        // No part of a command contains a line end; this check ensures that.
        if command.contains(['\r', '\n']) {
            return Err(Break::Nonsense("a command with a line end inside is not sent".to_owned()));
        }
        let line = format!("{command}\r\n");
        tokio::time::timeout(within, async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.flush().await?;
            self.read_reply().await
        })
        .await
        .unwrap_or(Err(Break::Timeout))
    }

    /// Writes everything, block by block.
    pub(super) async fn write(&mut self, bytes: &[u8], within: Duration) -> Result<(), Break> {
        for block in bytes.chunks(BLOCK_SIZE) {
            tokio::time::timeout(within, async {
                self.stream.write_all(block).await?;
                self.stream.flush().await
            })
            .await
            .map_err(|_| Break::Timeout)??;
        }
        Ok(())
    }
}

/// Connects to the first address that responds.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, Break> {
    let found = tokio::time::timeout(limit::CONNECT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| Break::Timeout)?;
    let addresses: Vec<SocketAddr> = found?.collect();
    let each = if addresses.len() > 1 { limit::CONNECT / 2 } else { limit::CONNECT };
    let mut last = Break::Io(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses.into_iter().take(4) {
        last = match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Commands are short and wait for their replies.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => Break::Io(io::Error::new(error.kind(), format!("{address}: {error}"))),
            Err(_) => Break::Timeout,
        };
    }
    Err(last)
}

/// Why TLS could not be established.
#[derive(Debug)]
pub(super) struct NoTls {
    /// For people.
    pub(super) text: String,
    /// Whether the server uses TLS, although the handshake failed.
    pub(super) spoken: bool,
}

/// Establishes TLS on a stream.
pub(super) async fn protect<S: Duplex>(
    stream: S,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>, NoTls> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|e| NoTls { text: format!("{host}: {e}"), spoken: false })?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let spoken = cause.is_some_and(|cause| {
            use rustls::Error::{
                AlertReceived, InvalidCertificate, NoCertificatesPresented, PeerIncompatible,
            };
            matches!(
                cause,
                InvalidCertificate(_) | AlertReceived(_) | NoCertificatesPresented | PeerIncompatible(_)
            )
        });
        NoTls { text: format!("TLS cannot be set up: {error}"), spoken }
    })
}

/// TLS with the system's authorities (`SSL_CERT_FILE` counts) and those of a file.
pub(super) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(format!("{} holds no PEM certificate", path.display()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// What a client reads if the server sends this, byte by byte.
    async fn read_reply_of(said: &[u8]) -> Result<Reply, Break> {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let said = said.to_vec();
        let server = tokio::spawn(async move {
            // A client that has read enough closes the connection.
            let _ = theirs.write_all(&said).await;
        });
        let reply = SmtpStream::new(ours).reply(SOON).await;
        server.await.expect("said");
        reply
    }

    #[tokio::test]
    async fn replies_are_read_however_they_are_split() {
        for (said, code, lines) in [
            (&b"250\r\n"[..], 250, 1),
            (b"250-a\r\n250-\r\n250\r\n", 250, 3),
            (b"220 x\n", 220, 1),
            (b"550 \xff\xfe\r\n", 550, 1),
        ] {
            let reply = read_reply_of(said).await.expect("a reply");
            assert_eq!((reply.code, reply.lines.len()), (code, lines), "{said:?}");
        }
    }

    #[tokio::test]
    async fn unending_replies_are_rejected() {
        let long = [b"250 ".to_vec(), vec![b'x'; 3 * LONGEST_LINE]].concat();
        assert!(matches!(read_reply_of(&long).await, Err(Break::Nonsense(_))));
        assert!(matches!(read_reply_of(&b"250-x\r\n".repeat(1000)).await, Err(Break::Nonsense(_))));
        assert!(matches!(read_reply_of(b"250-x\r\n").await, Err(Break::Io(_))), "closed in the middle");
        let (ours, _theirs) = tokio::io::duplex(64);
        assert!(matches!(SmtpStream::new(ours).reply(Duration::from_millis(10)).await, Err(Break::Timeout)));
    }

    #[tokio::test]
    async fn bytes_sent_before_tls_are_noticed() {
        for (said, silent) in [(&b"220 go ahead\r\n"[..], true), (b"220 go ahead\r\n250 injected\r\n", false)]
        {
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_all(said).await.expect("said");
            let mut wire = SmtpStream::new(ours);
            assert_eq!(wire.reply(SOON).await.expect("a reply").code, 220);
            assert_eq!(wire.into_silent().is_some(), silent, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_command_cannot_contain_another() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let refused = SmtpStream::new(ours).command("RCPT TO:<a@b.example>\r\nDATA", SOON).await;
        assert!(matches!(refused, Err(Break::Nonsense(_))));
    }
}
