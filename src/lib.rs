//! Consentry watches integrations with Microsoft Entra ID.
pub mod domain;
