//! The one door to Microsoft Entra ID and Microsoft Graph.
//!
//! Everything that comes in is hostile until checked: bodies are capped, shapes are checked, redirects are not followed,
//! next links must stay on the Graph host. This module never names a verdict: it returns facts, or a
//! [`crate::domain::Fault`] with the meaning of an error.

mod aadsts;
mod assertion;
mod authorize;
mod classify;
mod directory;
mod expiry;
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
pub use token::{Client, ClientCredential, CodeGrant, Granted};

/// Hosts of one cloud, without trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// Entra's login host.
    pub login: String,
    /// Microsoft Graph, without version.
    pub graph: String,
}

/// Entra and Graph of one cloud.
#[derive(Debug, Clone)]
pub struct Entra {
    pub(crate) door: HttpClient,
    pub(crate) hosts: Hosts,
    pub(crate) overrides: ReasonOverrides,
}

impl Entra {
    /// Puts the parts together.
    pub fn new(door: HttpClient, hosts: Hosts, overrides: ReasonOverrides) -> Self {
        Self { door, hosts, overrides }
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// `scope` for everything granted on Microsoft Graph.
    pub fn graph_scope(&self) -> String {
        format!("{}/.default", self.hosts.graph)
    }
}
