//! A Microsoft cloud.

/// Base URLs without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Entra's login host.
    pub login_url: String,
    /// Microsoft Graph, without version.
    pub graph_url: String,
}
