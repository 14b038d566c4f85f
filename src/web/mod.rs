//! HTTP: `/metrics`, health, and the pages behind a mailed link. Reads what is published; waits for nobody but Entra, and for that only
//! while a sign-in comes back.

mod access;
mod api;
mod bodies;
mod client;
mod client_certificate;
mod connections;
mod exposition;
mod gate;
mod hosts;
mod integration;
mod limits;
mod listen;
mod pages;
mod pieces;
mod reauth;
mod server;
mod shell;
mod site;
mod status;
mod tls;
mod uploads;
mod users;

pub use connections::Capacity;
pub use gate::Gate;
pub use hosts::allowed_host;
pub use integration::{CredentialRecord, Detail, MailRecord, Records, Remember};
pub use limits::Guesses;
pub use listen::{Listener, bind, serve};
pub use reauth::{Elsewhere, Find, FindBy, FindLater, Later, Lookup, Standing};
pub use server::{Hooks, Process, Record, Served, Sites, WebOptions, compress, path_of};
pub use shell::Guard;
pub use site::Site;
pub use status::Row;
