//! HTTP: `/metrics`, health, and the pages behind a mailed link. Reads what is published; waits for nobody but Entra, and for that only
//! while a sign-in comes back.

mod access;
mod api;
mod bodies;
mod chunked_body;
mod commands;
mod compression;
mod exposition;
mod hosts;
mod integration;
mod layout;
mod model;
mod operations;
mod pages;
mod problem;
mod reauth;
mod server;
mod state;
mod status;
mod uploads;
mod wording;

pub use commands::{BoxFuture, Commands, History, Record, ReloadRequest, Reloads};
pub use compression::compress;
pub use hosts::allowed_host;
pub use layout::SecurityHeaders;
pub use model::{CredentialRecord, MailRecord, Records};
pub use server::Sites;
pub use state::{Backend, Process, Served, WebOptions, path_of};
