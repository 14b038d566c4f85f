//! A simulated Microsoft Entra login host, Microsoft Graph and mailbox, on loopback, for any number of tenants.
//!
//! It responds to real clients with the shapes and error codes of Entra and Graph, so that programs which check consent,
//! enterprise applications and group access can be tested without a tenant. Its state can be changed while it runs, from Rust
//! ([`Simulator::apply`]) or over HTTP. It deliberately does not depend on the programs that use it.
//!
//! HTTP control API: `POST /_sim/actions` ([`Action`]), `POST` and `DELETE /_sim/faults` ([`Fault`]), `POST /_sim/mail-faults`
//! ([`MailFaults`]), `GET` and `DELETE /_sim/requests`, `GET /_sim/mails`, `POST /_sim/rotate-keys`, `GET /_sim/ca.pem`.
//! The mailbox is at `/`.
//!
//! Managed identities: `GET /metadata/identity/oauth2/token` (virtual machines), `GET /msi/token` (App Service), `GET /arc/token`
//! (Azure Arc); see [`managed_identity`]. Federated credentials are described in [`federation`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub mod actions;
mod applications;
mod assertion;
pub mod authorize;
mod certificate;
mod consent;
mod credentials;
mod directory;
pub mod faults;
pub mod federation;
#[cfg(test)]
mod fixture;
pub mod graph;
#[cfg(test)]
mod http_tests;
pub mod jobs;
pub mod login;
mod lookup;
pub mod mailbox;
pub mod managed_identity;
pub mod model;
pub mod odata;
mod redeem;
pub mod reply;
pub mod server;
pub mod smtp;
mod token_request;
pub mod tokens;

pub use actions::Action;
pub use faults::{Endpoint, Fault, FaultKind};
pub use mailbox::{Mail, MailFaults, Mailbox, ScriptedReply};
pub use model::{GLOBAL_ADMINISTRATOR, GRAPH_APP_ID, IdTokenFlaw, TokenDeath, World};
pub use server::LogEntry;
pub use smtp::SmtpOptions;

/// Where the simulator listens. Port 0 picks a free one.
#[derive(Debug, Clone)]
pub struct Options {
    /// Plain HTTP: login host, Graph, mailbox pages and control API on one address.
    pub http: SocketAddr,
    /// The same over TLS, with a certificate made at the start.
    pub https: SocketAddr,
    /// The SMTP sink.
    pub smtp: SocketAddr,
    /// TLS from the first byte on the SMTP sink.
    pub smtp_implicit_tls: bool,
    /// User name and password that the SMTP sink requires.
    pub smtp_credentials: Option<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { http: any, https: any, smtp: any, smtp_implicit_tls: false, smtp_credentials: None }
    }
}

/// A running simulator. Dropping it stops its listeners.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<server::Shared>,
    tasks: Vec<JoinHandle<()>>,
    /// Address of the HTTP listener.
    pub http: SocketAddr,
    /// Address of the HTTPS listener.
    pub https: SocketAddr,
    /// Address of the SMTP sink.
    pub smtp: SocketAddr,
}

impl Simulator {
    /// Starts the listeners.
    ///
    /// # Errors
    /// An address cannot be bound, or no keys can be generated.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (tls, ca_pem) = certificates()?;
        let mailbox = Arc::new(Mailbox::default());
        let shared = Arc::new(server::Shared {
            world: std::sync::Mutex::default(),
            keys: std::sync::Mutex::new(tokens::Keys::generate()?),
            faults: faults::Faults::default(),
            mailbox: Arc::clone(&mailbox),
            log: std::sync::Mutex::default(),
            ca_pem,
        });
        let http = bind(options.http).await?;
        let https = bind(options.https).await?;
        let smtp = bind(options.smtp).await?;
        let addresses = (http.local_addr()?, https.local_addr()?, smtp.local_addr()?);
        let smtp_options = SmtpOptions {
            tls: Some(Arc::clone(&tls)),
            implicit_tls: options.smtp_implicit_tls,
            credentials: options.smtp_credentials,
        };
        let tasks = vec![
            tokio::spawn(serve(http, None, Arc::clone(&shared))),
            tokio::spawn(serve(https, Some(TlsAcceptor::from(tls)), Arc::clone(&shared))),
            tokio::spawn(smtp::serve(smtp, mailbox, smtp_options)),
        ];
        Ok(Self { shared, tasks, http: addresses.0, https: addresses.1, smtp: addresses.2 })
    }

    /// Base URL of login host and Graph.
    pub fn url(&self) -> String {
        // A listener on all addresses is reachable on loopback, too; a link cannot lead to 0.0.0.0.
        let host = if self.http.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.http.ip() };
        format!("http://{}", SocketAddr::new(host, self.http.port()))
    }

    /// The same over TLS; trust [`Simulator::ca_pem`].
    pub fn https_url(&self) -> String {
        format!("https://localhost:{}", self.https.port())
    }

    /// PEM of the certificate authority of HTTPS, STARTTLS and implicit TLS, whose certificate is for `localhost` and `127.0.0.1`.
    pub fn ca_pem(&self) -> &str {
        &self.shared.ca_pem
    }

    /// Applies a change to the world.
    ///
    /// # Errors
    /// An object that the change names does not exist.
    pub fn apply(&self, action: Action) -> anyhow::Result<serde_json::Value> {
        actions::apply(&mut self.shared.world(), action).map_err(anyhow::Error::msg)
    }

    /// Reads the world, or changes what no [`Action`] changes.
    pub fn with_world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.shared.world())
    }

    /// Switches a fault on.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(fault);
    }

    /// Switches all faults off.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// The mailbox.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.shared.mailbox
    }

    /// Requests that login host, Graph and the endpoints for managed identities have received since the previous call.
    pub fn take_requests(&self) -> Vec<LogEntry> {
        self.shared.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..).collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<server::Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(TokioIo::new(stream), shared, "http").await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(TokioIo::new(stream), shared, "https").await;
                    }
                }
            }
        });
    }
}

async fn connection<I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(
    io: I,
    shared: Arc<server::Shared>,
    scheme: &'static str,
) {
    let service = service_fn(move |request| server::handle(Arc::clone(&shared), request, scheme));
    // A connection ends early because the client closed it, or because of a requested fault.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service)
        .await;
}

/// A certificate authority for this run, and a server certificate signed by it: strict clients reject a self-signed one.
fn certificates() -> anyhow::Result<(Arc<rustls::ServerConfig>, String)> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "entra-sim authority");
    let authority_key = KeyPair::generate()?;
    let ca_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    let certificate = server.signed_by(&server_key, &issuer)?;
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((Arc::new(config), ca_pem))
}
