//! The client of Microsoft Entra ID and Microsoft Graph.
//!
//! No response is trusted until it is checked: the size of bodies is limited, their shape is checked, redirects are not followed, next
//! links must stay on the Graph host. This module decides no verdict: it returns data, or a [`crate::domain::Fault`] with the meaning of an
//! error.

mod aadsts;
mod authorize;
mod classify;
mod credential;
mod directory;
mod graph;
mod http;
mod id_token;
mod mail;
mod managed_identity;
mod me;
mod provisioning;
mod registration;
mod tenant;
mod token;

pub use aadsts::AADSTS;
pub use authorize::{SignIn, admin_consent_url};
pub use classify::{
    GraphCaller, ReasonOverrides, aadsts_numbers, classify_graph, classify_token, meaning_of,
};
pub use directory::{DirectoryQuestion, ResourceCache, ResourceKey};
pub use http::{ClientOptions, Endpoint, HttpClient, HttpClients, Observer};
pub use id_token::{Expected, IdTokenError, Person, PersonClaims, claims_about_person};
pub use mail::{SendMailLost, SendMailResponse};
pub use managed_identity::{IdentitySource, ManagedIdentities};
pub use token::{Client, CodeGrant, Granted};

use std::sync::Arc;

use crate::domain::Cloud;

/// Entra and Graph of one cloud.
#[derive(Debug, Clone)]
pub struct Entra {
    pub(crate) http: HttpClient,
    pub(crate) cloud: Cloud,
    pub(crate) overrides: ReasonOverrides,
    identities: Arc<ManagedIdentities>,
}

impl Entra {
    /// An Entra client for a cloud.
    pub fn new(http: HttpClient, cloud: Cloud, overrides: ReasonOverrides) -> Self {
        let source = IdentitySource::from_environment(|name| std::env::var(name).ok());
        Self::with_identities(http, cloud, overrides, ManagedIdentities::new(source))
    }

    /// The same with managed identities from another source than the environment's.
    pub fn with_identities(
        http: HttpClient,
        cloud: Cloud,
        overrides: ReasonOverrides,
        identities: ManagedIdentities,
    ) -> Self {
        Self { http, cloud, overrides, identities: Arc::new(identities) }
    }

    /// The cloud.
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// The scope for everything that is granted on Microsoft Graph.
    pub fn graph_scope(&self) -> String {
        self.cloud.graph_scope()
    }
}
