//! HTTP: `/metrics`, health, and the pages behind a mailed link. Reads what is published; waits for nobody but Entra, and for that only
//! while a sign-in comes back.

mod api;
mod integration;
mod limits;
mod pages;
mod reauth;
mod server;
mod shell;
mod status;

pub use integration::{Detail, MailRecord, Records, Remember};
pub use limits::Guesses;
pub use reauth::{Elsewhere, Find, Lookup, Standing};
pub use server::{Served, bind, compress, serve, serve_health, serve_reauthentication};
pub use shell::Guard;
pub use status::Row;
