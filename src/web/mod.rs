//! HTTP: `/metrics`, health, the API, and the pages, including those behind mailed links. The routes read published state; only the
//! callback of a sign-in and `/probe` wait for Entra.

mod access;
mod api;
mod bodies;
mod chunked_body;
mod commands;
mod compression;
mod events;
mod exposition;
mod filter;
mod hosts;
mod model;
mod operations;
mod origin;
mod pages;
mod routes;
mod state;
mod uploads;
mod wording;

pub use commands::{
    BoxFuture, BrakeOutcome, Commands, CredentialRecord, EventQuery, FleetEvent, History, MailRecord, Record,
    Records, ReloadRequest, Reloads,
};
pub use compression::compress;
pub use hosts::allowed_host;
pub use pages::layout::SecurityHeaders;
pub use routes::Sites;
pub use state::{Backend, Process, Served, WebOptions, path_of};
