//! HTTP: `/metrics`, health, and the pages behind a mailed link. Reads what is published; waits for nobody but Entra, and for that only
//! while a sign-in comes back.

mod access;
mod api;
mod bodies;
mod chunked_body;
mod exposition;
mod hosts;
mod integration;
mod layout;
mod pages;
mod reauth;
mod server;
mod status;
mod uploads;

pub use hosts::allowed_host;
pub use integration::{CredentialRecord, Detail, MailRecord, Records, Remember};
pub use layout::SecurityHeaders;
pub use reauth::{ExternalSignIn, Find, FindBy, FindLater, Later, Lookup, SignInStatus};
pub use server::{Hooks, Process, Record, Served, Sites, WebOptions, compress, path_of};
pub use status::Row;
