//! Consentry watches integrations with Microsoft Entra ID: it probes consent, enterprise application and group access of every
//! configured integration, exports what it finds to Prometheus, and mails the person who can fix it.
//!
//! Start reading in [`domain`], which contains the rules, without I/O. ARCHITECTURE.md describes the structure.

// Tests with tables of cases are long.
#![cfg_attr(test, allow(clippy::too_many_lines))]

pub mod app;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
#[cfg(feature = "demo")]
pub mod demo;
pub mod domain;
mod encoding;
pub mod entra;
pub mod fleet;
pub mod listener;
pub mod metrics;
pub mod monitor;
pub mod notify;
pub mod reauth;
pub mod secret;
pub mod signed;
pub mod store;
mod telemetry;
mod urls;
mod web;
