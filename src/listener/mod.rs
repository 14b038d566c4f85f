//! Connections: sockets, TLS, users and client certificates, and limits. The responses come from `web`.

pub(crate) mod accept;
pub(crate) mod client;
mod client_certificate;
pub(crate) mod connections;
pub(crate) mod limits;
mod pem;
pub(crate) mod security;
pub(crate) mod site;
mod tls;
pub(crate) mod users;

pub use accept::{Listener, bind, serve};
pub use connections::Capacity;
pub use limits::FailedAttemptLimiter;
pub use security::WebSecurity;
pub use site::Site;
