//! The one door to Microsoft Entra ID and Microsoft Graph.
//!
//! Everything that comes in is hostile until checked: bodies are capped, shapes are checked, redirects are not followed,
//! next links must stay on the Graph host. This module never names a verdict: it returns facts, or a
//! [`crate::domain::Fault`] with the meaning of an error.

mod aadsts;
mod authorize;
mod classify;
mod credential;
mod directory;
mod graph;
mod http;
mod id_token;
mod me;
mod tenant;
mod token;

pub use aadsts::AADSTS;
pub use authorize::{SignIn, admin_consent_url};
pub use classify::{
    GraphCaller, ReasonOverrides, aadsts_numbers, classify_graph, classify_token, meaning_of,
};
pub use directory::{DirectoryQuestion, ResourceCache, ResourceKey};
pub use http::{ClientOptions, Endpoint, HttpClient, HttpClients, Observer, is_loopback};
pub use id_token::{Expected, IdTokenError, Person, PersonClaims, claims_about_person};
pub use token::{Client, CodeGrant, Granted};

use crate::domain::Cloud;

/// Entra and Graph of one cloud.
#[derive(Debug, Clone)]
pub struct Entra {
    pub(crate) door: HttpClient,
    pub(crate) cloud: Cloud,
    pub(crate) overrides: ReasonOverrides,
}

impl Entra {
    /// Puts the parts together.
    pub fn new(door: HttpClient, cloud: Cloud, overrides: ReasonOverrides) -> Self {
        Self { door, cloud, overrides }
    }

    /// The cloud.
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// `scope` for everything granted on Microsoft Graph.
    pub fn graph_scope(&self) -> String {
        format!("{}/.default", self.cloud.graph_url)
    }
}
