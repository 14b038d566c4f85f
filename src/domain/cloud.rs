//! A cloud of Microsoft's.

/// Base URLs without trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Entra's login host.
    pub login_url: String,
    /// Microsoft Graph, without version.
    pub graph_url: String,
}
