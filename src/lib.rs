//! Consentry watches integrations with Microsoft Entra ID.
pub mod clock;
pub mod config;
pub mod domain;
pub mod entra;
pub mod secret;
pub mod store;
