//! Sockets: binding them, and carrying requests from them to a [`Site`]. Every connection is bounded in time, size and number; nothing
//! that a client does or leaves undone holds one for longer than [`MAX_CONNECTION_AGE`] and [`DRAIN_TIMEOUT`].

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

/// A client that has not said who it is (TLS) or what it wants (headers) by then is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing arrives for so long is closed; longer than any request takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A client that takes nothing of its answer for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is asked to end after so long, whatever it is used for: those who scrape make a new one.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);

/// A connection that was asked to end has so long to take its last answers.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 16;

/// For a request's line and headers.
const HEAD: usize = 64 * 1024;

/// What the system keeps of an answer that is not taken, for each connection.
const SEND_BUFFER: usize = 64 * 1024;

/// What is kept of an answer that is not taken, for each HTTP/2 stream.
const STREAM_BUFFER: usize = 64 * 1024;

/// The log says so often that no connection can be accepted.
const COMPLAIN: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A path in the file system. Who may write to it is the file system's business, so there is no TLS on it.
    Unix(UnixListener, SocketFile),
}

/// Takes the socket's file away in the end, if it is ours.
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

/// Binds an address as Prometheus writes them (`:10143` means every interface, IPv6 and IPv4), or a path: `unix:/run/consentry.sock`.
///
/// # Errors
/// The address is malformed or taken.
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

/// A socket that a killed process left behind is taken over; one that answers is not.
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

    /// A socket that was bound by somebody else, who also takes its file away.
    ///
    /// # Errors
    /// It cannot be used without blocking.
    pub fn inherited_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    /// The same for a path.
    ///
    /// # Errors
    /// It cannot be used without blocking.
    pub fn inherited_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(UnixListener::from_std(listener)?, SocketFile(None)))
    }

    /// The connections to come keep little of what their clients do not take.
    fn keep_little(&self) {
        let set = match self {
            Self::Tcp(listener) => rustix::net::sockopt::set_socket_send_buffer_size(listener, SEND_BUFFER),
            Self::Unix(..) => Ok(()),
        };
        if let Err(error) = set {
            tracing::debug!(%error, "cannot bound the memory of connections");
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

/// Serves a site until told to stop; answers under way are finished.
pub async fn serve(listener: Listener, site: Arc<Site>, mut stop: watch::Receiver<bool>) {
    listener.keep_little();
    let stopping = stop.clone();
    let mut stopped = std::pin::pin!(async move { drop(stop.wait_for(|stopped| *stopped).await) });
    // Every connection holds one end of this for as long as it lasts.
    let (held, mut ended) = mpsc::channel::<Infallible>(1);
    let mut complained: Option<Instant> = None;
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
                // Out of descriptors, mostly: whoever does nothing with one gives it back.
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                    tracing::warn!(%error, "cannot accept connections");
                    complained = Some(Instant::now());
                }
                site.connections().relieve();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop((listener, held));
    // Nothing is ever sent: this ends with the last connection.
    let _ = ended.recv().await;
}

/// One connection from its first byte to its last. A client that goes away early is its own business.
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

/// A stream that ends when nothing moves on it.
fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Patient<S> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(IDLE_TIMEOUT));
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    Box::pin(stream)
}

/// The handshake. A client that speaks plain HTTP is told so, in plain HTTP.
async fn tls_handshake(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<tokio_rustls::server::TlsStream<Patient<TcpStream>>> {
    // A TLS record of a handshake begins with 22 (RFC 8446 section 5.1).
    let mut first = [0_u8; 1];
    if matches!(stream.peek(&mut first).await, Ok(1..) if first[0].is_ascii_uppercase()) {
        let text = "This is an HTTPS server; it was sent a plain HTTP request.\n";
        let answer = format!(
            "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        drop(stream.write_all(answer.as_bytes()).await);
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

/// HTTP, until one side has enough.
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
