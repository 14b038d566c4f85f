//! Microsoft's clouds, and every host that depends on them.

/// Base URLs without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Entra's login host.
    pub login_url: String,
    /// Microsoft Graph, without version.
    pub graph_url: String,
}

/// One of Microsoft's clouds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum National {
    Global,
    UsGov,
    UsGovDod,
    China,
}

/// The hosts of a cloud (Microsoft, `authentication-national-cloud.md`, `deployments.md`; mail: `office-365-endpoints`).
struct Hosts {
    /// The word in the configuration.
    word: &'static str,
    login: &'static str,
    graph: &'static str,
    admin_center: &'static str,
    /// Exchange Online's SMTP.
    mail: &'static str,
    /// Of tokens that are client assertions by workload identity federation (Microsoft,
    /// `workload-identity-federation-considerations.md`; those of the national clouds from the `azure-identity` libraries).
    assertion_audience: &'static str,
    /// Hosts that issue tokens.
    issuers: &'static [&'static str],
    /// The name for Azure CLI's `az cloud set`.
    azure_cli: &'static str,
}

const GLOBAL: Hosts = Hosts {
    word: "global",
    login: "login.microsoftonline.com",
    graph: "graph.microsoft.com",
    admin_center: "entra.microsoft.com",
    mail: "outlook.office365.com",
    assertion_audience: "api://AzureADTokenExchange",
    issuers: &["login.microsoftonline.com", "sts.windows.net"],
    azure_cli: "AzureCloud",
};

const US_GOV: Hosts = Hosts {
    word: "us_gov",
    login: "login.microsoftonline.us",
    graph: "graph.microsoft.us",
    admin_center: "entra.microsoft.us",
    mail: "outlook.office365.us",
    assertion_audience: "api://AzureADTokenExchangeUSGov",
    issuers: &["login.microsoftonline.us", "sts.windows.net"],
    azure_cli: "AzureUSGovernment",
};

const US_GOV_DOD: Hosts =
    Hosts { word: "us_gov_dod", graph: "dod-graph.microsoft.us", mail: "outlook-dod.office365.us", ..US_GOV };

/// Microsoft's documents name two login hosts, and either may issue tokens.
const CHINA: Hosts = Hosts {
    word: "china",
    login: "login.partner.microsoftonline.cn",
    graph: "microsoftgraph.chinacloudapi.cn",
    admin_center: "entra.microsoftonline.cn",
    mail: "partner.outlook.cn",
    assertion_audience: "api://AzureADTokenExchangeChina",
    issuers: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn", "sts.chinacloudapi.cn"],
    azure_cli: "AzureChinaCloud",
};

impl National {
    const ALL: [Self; 4] = [Self::Global, Self::UsGov, Self::UsGovDod, Self::China];

    const fn hosts(self) -> &'static Hosts {
        match self {
            Self::Global => &GLOBAL,
            Self::UsGov => &US_GOV,
            Self::UsGovDod => &US_GOV_DOD,
            Self::China => &CHINA,
        }
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::of(&GLOBAL)
    }
}

impl Cloud {
    /// The words in the configuration.
    pub fn words() -> impl Iterator<Item = &'static str> {
        National::ALL.into_iter().map(|national| national.hosts().word)
    }

    /// The cloud with this word.
    pub fn named(word: &str) -> Option<Self> {
        National::ALL.into_iter().map(National::hosts).find(|hosts| hosts.word == word).map(Self::of)
    }

    fn of(hosts: &Hosts) -> Self {
        Self { login_url: format!("https://{}", hosts.login), graph_url: format!("https://{}", hosts.graph) }
    }

    /// Which of Microsoft's clouds it is; `None` for hosts of its own.
    fn national(&self) -> Option<&'static Hosts> {
        National::ALL.into_iter().map(National::hosts).find(|hosts| *self == Self::of(hosts))
    }

    /// The hosts of the cloud to which Graph belongs, or else the login host: a proxy may stand before one of them. Those of the global cloud where
    /// nothing is known.
    fn hosts(&self) -> &'static Hosts {
        self.known().unwrap_or(&GLOBAL)
    }

    fn known(&self) -> Option<&'static Hosts> {
        let all = || National::ALL.into_iter().map(National::hosts);
        let (graph, login) = (host_of(&self.graph_url), host_of(&self.login_url));
        all().find(|hosts| hosts.graph == graph).or_else(|| all().find(|hosts| hosts.login == login))
    }

    /// The scope for everything that is granted on Microsoft Graph.
    pub fn graph_scope(&self) -> String {
        format!("{}/.default", self.graph_url)
    }

    /// The scope of access tokens for Exchange Online's SMTP.
    pub fn smtp_scope(&self) -> String {
        format!("https://{}/.default", self.hosts().mail)
    }

    /// The audience of tokens that are client assertions by workload identity federation.
    pub fn assertion_audience(&self) -> &'static str {
        self.hosts().assertion_audience
    }

    /// The Microsoft Entra admin center, opened for a tenant. `None` for hosts of its own.
    pub fn admin_center(&self, tenant: &str) -> Option<String> {
        self.national().map(|hosts| format!("https://{}/{tenant}", hosts.admin_center))
    }

    /// Microsoft's page about an error number (`reference-error-codes.md`).
    pub fn error_page(&self, number: &str) -> String {
        format!("https://{}/error?code={number}", self.hosts().login)
    }

    /// The name of the cloud for Azure CLI; `None` for hosts of its own.
    pub fn azure_cli(&self) -> Option<&'static str> {
        self.national().map(|hosts| hosts.azure_cli)
    }

    /// The host of a URL of this cloud, and whether tokens with this issuer are accepted: that of the cloud, in its own spelling. The OpenID
    /// configuration of a tenant names its issuer; one from elsewhere means that another server answers, or that the tenant is in another
    /// cloud. Hosts of our own choice may stand before any of Microsoft's clouds.
    pub fn accepts_issuer(&self, scheme: &str, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let own = url::Url::parse(&self.login_url).ok();
        let is_own = |own: &url::Url| {
            own.scheme() == scheme
                && own.host_str().is_some_and(|h| is_same_host(h.trim_end_matches('.'), host))
        };
        if own.as_ref().is_some_and(is_own) {
            return true;
        }
        let known = |hosts: &Hosts| hosts.issuers.iter().any(|issuer| issuer.eq_ignore_ascii_case(host));
        scheme == "https"
            && match self.national() {
                Some(hosts) => known(hosts),
                None => National::ALL.into_iter().map(National::hosts).any(known),
            }
    }

    /// The issuer of the tokens of a managed identity (Microsoft, `workload-identity-federation-config-app-trust-managed-identity.md`).
    pub fn identity_issuer(&self, tenant: &str) -> String {
        match self.known() {
            Some(hosts) => format!("https://{}/{tenant}/v2.0", hosts.login),
            None => format!("{}/{tenant}/v2.0", self.login_url),
        }
    }

    /// The words of the clouds in which an issuer is at home; empty for one that is no cloud's, or that of version 1 of several.
    pub fn of_issuer(host: &str) -> String {
        let is_own = |hosts: &&Hosts| {
            host != "sts.windows.net" && hosts.issuers.iter().any(|issuer| issuer.eq_ignore_ascii_case(host))
        };
        let hosts = National::ALL.into_iter().map(National::hosts).filter(is_own);
        hosts.map(|hosts| hosts.word).collect::<Vec<_>>().join(" or ")
    }
}

fn host_of(url: &str) -> &str {
    url.strip_prefix("https://").unwrap_or_default()
}

/// Tenants of external identities issue tokens under another name of the same domain (Microsoft, `concept-custom-url-domain.md`).
fn is_same_host(own: &str, issuer: &str) -> bool {
    const EXTERNAL: &str = ".ciamlogin.com";
    let is_external = |host: &str| host.to_ascii_lowercase().ends_with(EXTERNAL);
    own.eq_ignore_ascii_case(issuer) || is_external(own) && is_external(issuer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_in_every_cloud() {
        let custom = Cloud {
            login_url: "https://login.example.test".to_owned(),
            graph_url: "https://graph.example.test".to_owned(),
        };
        for (word, cloud, expected) in [
            (
                "global",
                Cloud::default(),
                [
                    "https://login.microsoftonline.com",
                    "https://graph.microsoft.com/.default",
                    "https://outlook.office365.com/.default",
                    "api://AzureADTokenExchange",
                    "https://entra.microsoft.com/t",
                    "https://login.microsoftonline.com/error?code=50173",
                    "https://login.microsoftonline.com/t/v2.0",
                    "AzureCloud",
                ],
            ),
            (
                "us_gov",
                Cloud::named("us_gov").expect("known"),
                [
                    "https://login.microsoftonline.us",
                    "https://graph.microsoft.us/.default",
                    "https://outlook.office365.us/.default",
                    "api://AzureADTokenExchangeUSGov",
                    "https://entra.microsoft.us/t",
                    "https://login.microsoftonline.us/error?code=50173",
                    "https://login.microsoftonline.us/t/v2.0",
                    "AzureUSGovernment",
                ],
            ),
            (
                "us_gov_dod",
                Cloud::named("us_gov_dod").expect("known"),
                [
                    "https://login.microsoftonline.us",
                    "https://dod-graph.microsoft.us/.default",
                    "https://outlook-dod.office365.us/.default",
                    "api://AzureADTokenExchangeUSGov",
                    "https://entra.microsoft.us/t",
                    "https://login.microsoftonline.us/error?code=50173",
                    "https://login.microsoftonline.us/t/v2.0",
                    "AzureUSGovernment",
                ],
            ),
            (
                "china",
                Cloud::named("china").expect("known"),
                [
                    "https://login.partner.microsoftonline.cn",
                    "https://microsoftgraph.chinacloudapi.cn/.default",
                    "https://partner.outlook.cn/.default",
                    "api://AzureADTokenExchangeChina",
                    "https://entra.microsoftonline.cn/t",
                    "https://login.partner.microsoftonline.cn/error?code=50173",
                    "https://login.partner.microsoftonline.cn/t/v2.0",
                    "AzureChinaCloud",
                ],
            ),
            (
                "hosts of its own",
                custom,
                [
                    "https://login.example.test",
                    "https://graph.example.test/.default",
                    "https://outlook.office365.com/.default",
                    "api://AzureADTokenExchange",
                    "(none)",
                    "https://login.microsoftonline.com/error?code=50173",
                    "https://login.example.test/t/v2.0",
                    "(none)",
                ],
            ),
        ] {
            let actual = [
                cloud.login_url.clone(),
                cloud.graph_scope(),
                cloud.smtp_scope(),
                cloud.assertion_audience().to_owned(),
                cloud.admin_center("t").unwrap_or_else(|| "(none)".to_owned()),
                cloud.error_page("50173"),
                cloud.identity_issuer("t"),
                cloud.azure_cli().unwrap_or("(none)").to_owned(),
            ];
            assert_eq!(actual, expected, "{word}");
        }
        assert_eq!(Cloud::words().collect::<Vec<_>>(), ["global", "us_gov", "us_gov_dod", "china"]);
        assert_eq!(Cloud::named("germany"), None, "it was closed in 2021");
    }

    #[test]
    fn unknown_issuers_are_refused() {
        let cloud = |word: &str| Cloud::named(word).expect("known");
        let custom =
            |login: &str| Cloud { login_url: login.to_owned(), graph_url: "http://127.0.0.1:9".to_owned() };
        for (sentence, cloud, scheme, host, expected) in [
            ("the cloud's own", cloud("global"), "https", "login.microsoftonline.com", true),
            ("in capitals", cloud("global"), "https", "LOGIN.microsoftonline.com", true),
            ("that of version 1", cloud("global"), "https", "sts.windows.net", true),
            ("without TLS", cloud("global"), "http", "login.microsoftonline.com", false),
            ("a tenant of another cloud", cloud("global"), "https", "login.microsoftonline.us", false),
            ("China's other host", cloud("china"), "https", "login.chinacloudapi.cn", true),
            ("the global host in China", cloud("china"), "https", "login.microsoftonline.com", false),
            ("somebody else", cloud("us_gov"), "https", "login.evil.example", false),
            ("a longer name", cloud("us_gov"), "https", "login.microsoftonline.us.evil.example", false),
            ("a host of its own", custom("http://127.0.0.1:8080"), "http", "127.0.0.1", true),
            ("with a path", custom("https://proxy.example.com/entra"), "https", "proxy.example.com", true),
            (
                "Microsoft behind a host of its own",
                custom("https://proxy.example.com"),
                "https",
                "login.microsoftonline.us",
                true,
            ),
            (
                "external identities",
                custom("https://contoso.ciamlogin.com"),
                "https",
                "0a1b.ciamlogin.com",
                true,
            ),
            ("not for a workforce tenant", cloud("global"), "https", "0a1b.ciamlogin.com", false),
            (
                "a name that only ends alike",
                custom("https://contoso.ciamlogin.com"),
                "https",
                "evilciamlogin.com",
                false,
            ),
            ("a trailing dot", custom("https://login.example.com."), "https", "login.example.com", true),
            ("somebody else behind it", custom("https://proxy.example.com"), "https", "evil.example", false),
        ] {
            assert_eq!(cloud.accepts_issuer(scheme, host), expected, "{sentence}");
        }
        for (host, expected) in [
            ("login.microsoftonline.us", "us_gov or us_gov_dod"),
            ("login.chinacloudapi.cn", "china"),
            ("sts.windows.net", ""),
            ("evil.example", ""),
        ] {
            assert_eq!(Cloud::of_issuer(host), expected, "{host}");
        }
    }
}
