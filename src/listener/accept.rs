//! Sockets: binding them, and passing their requests to a [`Site`]. Connections are limited in time, size and number; no client can keep one
//! open for longer than [`MAX_CONNECTION_AGE`] plus [`DRAIN_TIMEOUT`].

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::client::Connection;
use super::connections::{Activity, Answer, Arrival};
use super::site::Site;

/// A connection is closed unless the TLS handshake and the request headers each arrive within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing arrives for this time is closed. This is longer than any request takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A connection is closed when the client reads nothing of its response for this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is shut down gracefully after this time, however much it is used; scrapers open a new one.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);

/// How long a connection may still send its last responses after the graceful shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 16;

/// The highest size of a request's line and headers, in bytes.
const HEAD: usize = 64 * 1024;

/// The send buffer of the operating system per connection, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// The send buffer per HTTP/2 stream, in bytes.
const STREAM_BUFFER: usize = 64 * 1024;

/// The interval of the warning that no connection can be accepted.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A path in the file system. The file's permissions protect it, so it does not use TLS.
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file when dropped, if Consentry created it.
#[derive(Debug)]
pub struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            drop(std::fs::remove_file(path));
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(listener, _) => {
                let path = listener
                    .local_addr()
                    .ok()
                    .and_then(|a| a.as_pathname().map(Path::to_owned))
                    .unwrap_or_default();
                write!(f, "unix:{}", path.display())
            }
        }
    }
}

/// Binds an address in the notation of Prometheus (`:10143` means every interface, IPv6 and IPv4), or a path: `unix:/run/consentry.sock`.
///
/// # Errors
/// The address is malformed or in use.
pub async fn bind(address: &str) -> anyhow::Result<Listener> {
    let failed = || format!("cannot listen on {address}");
    if let Some(path) = address.strip_prefix("unix:") {
        return bind_path(Path::new(path)).with_context(failed);
    }
    let Some(port) = address.strip_prefix(':') else {
        return TcpListener::bind(address).await.map(Listener::Tcp).with_context(failed);
    };
    let port: u16 = port
        .parse()
        .with_context(|| format!("{address} is not an address; write it like :10143 or 127.0.0.1:10143"))?;
    let listener = match TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            // Machines without IPv6.
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await
        }
        bound => bound,
    };
    listener.map(Listener::Tcp).with_context(failed)
}

/// Binds a path. The socket of a killed process is replaced; one that accepts connections is not.
fn bind_path(path: &Path) -> io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, SocketFile(Some(path.to_owned()))))
}

impl Listener {
    /// Address and port, where it has them.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// A socket that another process has bound.
    ///
    /// # Errors
    /// It cannot be used without blocking.
    pub fn inherited_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    /// Like [`Self::inherited_tcp`], for a Unix socket, whose file the other process removes.
    ///
    /// # Errors
    /// It cannot be used without blocking.
    pub fn inherited_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(UnixListener::from_std(listener)?, SocketFile(None)))
    }

    /// Limits the send buffer of the connections to come.
    fn limit_send_buffer(&self) {
        let set = match self {
            Self::Tcp(listener) => rustix::net::sockopt::set_socket_send_buffer_size(listener, SEND_BUFFER),
            Self::Unix(..) => Ok(()),
        };
        if let Err(error) = set {
            tracing::debug!(%error, "cannot limit the send buffer of connections");
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

enum Accepted {
    Tcp(TcpStream, IpAddr),
    Unix(tokio::net::UnixStream),
}

impl Accepted {
    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }
}

/// Serves a site until `stop` becomes true. Pending responses are finished.
pub async fn serve(listener: Listener, site: Arc<Site>, mut stop: watch::Receiver<bool>) {
    listener.limit_send_buffer();
    let stopping = stop.clone();
    let mut stopped = std::pin::pin!(async move { drop(stop.wait_for(|stopped| *stopped).await) });
    // Every connection holds a sender for as long as it lasts.
    let (held, mut ended) = mpsc::channel::<Infallible>(1);
    let mut warned: Option<Instant> = None;
    loop {
        let next = async {
            let accepted = listener.accept().await?;
            let network = site.limited_network(accepted.peer());
            Ok::<_, io::Error>((accepted, network, site.connections().arrive(network)))
        };
        let next = tokio::select! {
            next = next => next,
            () = &mut stopped => break,
        };
        match next {
            Ok((accepted, network, arrival)) => {
                let (site, stopping, held) = (Arc::clone(&site), stopping.clone(), held.clone());
                tokio::spawn(async move {
                    let admitted = match arrival {
                        Arrival::In(admitted) => Some(admitted),
                        Arrival::Waits(ticket) => site.connections().admit(network, ticket).await,
                    };
                    let Some(admitted) = admitted else { return };
                    let activity = Arc::clone(&admitted.activity);
                    tokio::select! {
                        () = serve_connection(accepted, site, &admitted.activity, stopping) => {}
                        () = activity.left() => {}
                    }
                    drop((admitted, held));
                });
            }
            Err(error) => {
                // Usually there are no file descriptors left, so an idle connection is closed.
                if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    tracing::warn!(%error, "cannot accept connections");
                    warned = Some(Instant::now());
                }
                site.connections().relieve();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop((listener, held));
    // Nothing is ever sent, so this returns when the last connection has ended.
    let _ = ended.recv().await;
}

/// Serves one connection from its first byte to its last. A client that disconnects early is not an error.
async fn serve_connection(
    accepted: Accepted,
    site: Arc<Site>,
    activity: &Arc<Activity>,
    stop: watch::Receiver<bool>,
) {
    match accepted {
        Accepted::Unix(stream) => {
            let connection = Connection { peer: Ipv4Addr::LOCALHOST.into(), certificates: None };
            run_http(patient(stream), false, Carried { site, connection, activity }, stop).await;
        }
        Accepted::Tcp(stream, peer) => {
            let _ = stream.set_nodelay(true);
            match site.tls() {
                None => {
                    run_http(
                        patient(stream),
                        false,
                        Carried { site, connection: Connection { peer, certificates: None }, activity },
                        stop,
                    )
                    .await;
                }
                Some(tls) => {
                    let Ok(Some(stream)) = tokio::time::timeout(
                        HANDSHAKE_TIMEOUT,
                        tls_handshake(stream, TlsAcceptor::from(tls)),
                    )
                    .await
                    else {
                        return;
                    };
                    let agreed = stream.get_ref().1;
                    let http2 = agreed.alpn_protocol() == Some(b"h2");
                    let connection =
                        Connection { peer, certificates: agreed.peer_certificates().map(Arc::from) };
                    run_http(stream, http2, Carried { site, connection, activity }, stop).await;
                }
            }
        }
    }
}

type Patient<S> = Pin<Box<TimeoutStream<S>>>;

/// A stream that fails when nothing is read or written for too long.
fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Patient<S> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(IDLE_TIMEOUT));
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    Box::pin(stream)
}

/// The handshake. A client that sends plain HTTP gets an error response in plain HTTP.
async fn tls_handshake(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<tokio_rustls::server::TlsStream<Patient<TcpStream>>> {
    // A TLS record of a handshake begins with 22 (RFC 8446 section 5.1).
    let mut first = [0_u8; 1];
    if matches!(stream.peek(&mut first).await, Ok(1..) if first[0].is_ascii_uppercase()) {
        let text = "This is an HTTPS server; it was sent a plain HTTP request.\n";
        let response = format!(
            "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        drop(stream.write_all(response.as_bytes()).await);
        drop(stream.shutdown().await);
        return None;
    }
    match acceptor.accept(patient(stream)).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
    }
}

/// What a connection is for.
struct Carried<'a> {
    site: Arc<Site>,
    connection: Connection,
    activity: &'a Arc<Activity>,
}

/// Serves HTTP until one side closes the connection.
async fn run_http<S>(stream: S, http2: bool, carried: Carried<'_>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Carried { site, connection, activity } = carried;
    let activity = Arc::clone(activity);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (site, activity) = (Arc::clone(&site), Arc::clone(&activity));
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(Arc::clone(&activity));
        async move {
            let working = activity.work();
            let response = site.answer(request.map(axum::body::Body::new)).await;
            drop(working);
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, &activity)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32);
    builder.http2().max_send_buf_size(STREAM_BUFFER);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
        () = tokio::time::sleep(MAX_CONNECTION_AGE) => connection.as_mut().graceful_shutdown(),
    }
    drop(tokio::time::timeout(DRAIN_TIMEOUT, connection).await);
}
