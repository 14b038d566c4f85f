//! HTTP: `/metrics`, health, and the pages behind a mailed link. Reads what is published; waits for nobody but Entra, and for that only
//! while a sign-in comes back.

mod access;
mod api;
mod bodies;
mod chunked_body;
mod client;
mod client_certificate;
mod connections;
mod exposition;
mod hosts;
mod integration;
mod layout;
mod limits;
mod listen;
mod pages;
mod reauth;
mod security;
mod server;
mod site;
mod status;
mod tls;
mod uploads;
mod users;

pub use connections::Capacity;
pub use hosts::allowed_host;
pub use integration::{CredentialRecord, Detail, MailRecord, Records, Remember};
pub use layout::SecurityHeaders;
pub use limits::FailedAttemptLimiter;
pub use listen::{Listener, bind, serve};
pub use reauth::{ExternalSignIn, Find, FindBy, FindLater, Later, Lookup, SignInStatus};
pub use security::WebSecurity;
pub use server::{Hooks, Process, Record, Served, Sites, WebOptions, compress, path_of};
pub use site::Site;
pub use status::Row;
