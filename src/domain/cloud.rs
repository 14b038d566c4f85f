//! A Microsoft cloud.

/// Base URLs without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Entra's login host.
    pub login_url: String,
    /// Microsoft Graph, without version.
    pub graph_url: String,
}

impl Cloud {
    /// The scope of access tokens for Exchange Online's SMTP, which has a host of its own in each cloud (Microsoft, `office-365-endpoints`: US
    /// Government GCC High and DoD, and 21Vianet).
    pub fn smtp_scope(&self) -> String {
        let host = match self.graph_url.strip_prefix("https://").unwrap_or_default() {
            "graph.microsoft.us" => "outlook.office365.us",
            "dod-graph.microsoft.us" => "outlook-dod.office365.us",
            "microsoftgraph.chinacloudapi.cn" => "partner.outlook.cn",
            _ => "outlook.office365.com",
        };
        format!("https://{host}/.default")
    }
}
