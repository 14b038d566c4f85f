//! URLs to which a browser is sent: the authorize endpoint and the admin consent endpoint.

use oauth2::basic::BasicClient;
use oauth2::{AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope};

use super::Entra;
use super::directory::ResourceKey;
use crate::domain::{
    Cloud, Fault, OPENID_SCOPES, Reason, RequiredPermissions, SIGN_IN_SCOPES, same_permission,
};
use crate::secret::Secret;

/// The parameters of a sign-in.
#[derive(Debug, Clone, Copy)]
pub struct SignIn<'a> {
    /// GUID or verified domain.
    pub tenant: &'a str,
    /// Application id.
    pub client_id: &'a str,
    /// Where Entra sends the browser afterwards.
    pub redirect_uri: &'a str,
    /// Delegated permissions to consent to.
    pub required: &'a [RequiredPermissions],
    /// Binds the response to the browser.
    pub state: &'a Secret,
    /// Binds the id_token to this request.
    pub nonce: &'a Secret,
    /// The PKCE verifier (RFC 7636).
    pub verifier: &'a Secret,
    /// The expected user, if known.
    pub login_hint: Option<&'a str>,
}

impl Entra {
    /// The tenant's authorize endpoint with an authorization code request (Microsoft, `v2-oauth2-auth-code-flow.md`). `prompt=consent`
    /// shows the consent page even if some consent exists, which completes a partial consent.
    ///
    /// # Errors
    /// A configured URL is invalid.
    pub fn authorize_url(&self, sign_in: SignIn<'_>) -> Result<String, Fault> {
        let invalid = |e: oauth2::url::ParseError| {
            Fault::new(Reason::ConfigurationInvalid, format!("authorize URL: {e}"))
        };
        let endpoint = format!("{}/{}/oauth2/v2.0/authorize", self.cloud.login_url, sign_in.tenant);
        let client = BasicClient::new(ClientId::new(sign_in.client_id.to_owned()))
            .set_auth_uri(AuthUrl::new(endpoint).map_err(invalid)?)
            .set_redirect_uri(RedirectUrl::new(sign_in.redirect_uri.to_owned()).map_err(invalid)?);
        let verifier = PkceCodeVerifier::new(sign_in.verifier.expose().to_owned());
        let mut request = client
            .authorize_url(|| CsrfToken::new(sign_in.state.expose().to_owned()))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .add_scopes(self.sign_in_scopes(sign_in.required).into_iter().map(Scope::new))
            .add_extra_param("nonce", sign_in.nonce.expose())
            .add_extra_param("response_mode", "query")
            .add_extra_param("prompt", "consent");
        if let Some(hint) = sign_in.login_hint {
            request = request.add_extra_param("login_hint", hint.to_owned());
        }
        Ok(request.url().0.to_string())
    }

    /// The required scopes and those of OpenID Connect, each once. The authorize endpoint accepts scopes of several resources.
    fn sign_in_scopes(&self, required: &[RequiredPermissions]) -> Vec<String> {
        let mut scopes: Vec<String> = SIGN_IN_SCOPES.map(str::to_owned).to_vec();
        for permissions in required {
            for value in &permissions.delegated {
                if SIGN_IN_SCOPES.iter().any(|a| same_permission(a, value)) {
                    continue;
                }
                scopes.push(self.scope_of(&permissions.resource, value));
            }
        }
        scopes
    }

    /// The scopes for redeeming a code: those of the first resource (Microsoft, `v2-oauth2-auth-code-flow.md` allows one resource only).
    pub fn code_scope(&self, required: &[RequiredPermissions]) -> String {
        let first = required.iter().position(|r| !r.delegated.is_empty()).unwrap_or(0);
        self.sign_in_scopes(required.get(first..=first).unwrap_or_default()).join(" ")
    }

    /// A delegated permission as a scope. Without a resource it means Microsoft Graph (Microsoft, `scopes-oidc.md`); in national clouds the
    /// resource is written out, as in Microsoft's examples.
    fn scope_of(&self, resource: &str, value: &str) -> String {
        let default = ResourceKey::of(resource).scope(&self.cloud.graph_url);
        let national =
            ["us", "cn"].iter().any(|country| self.cloud.graph_url.rsplit('.').next() == Some(*country));
        let openid = OPENID_SCOPES.iter().any(|o| same_permission(o, value));
        if openid || (default == self.graph_scope() && !national) {
            return value.to_owned();
        }
        default
            .strip_suffix("/.default")
            .map_or_else(|| value.to_owned(), |resource| format!("{resource}/{value}"))
    }

    /// The admin consent page of this cloud: see [`admin_consent_url`].
    pub fn admin_consent_url(
        &self,
        tenant: &str,
        client_id: &str,
        redirect_uri: &str,
        state: &Secret,
    ) -> String {
        admin_consent_url(&self.cloud, tenant, client_id, Some(redirect_uri), Some(state))
    }
}

/// Entra's page on which an administrator accepts everything that the registration lists (Microsoft, `v2-admin-consent.md`). Without a
/// redirect URI Entra returns to the first registered one.
pub fn admin_consent_url(
    cloud: &Cloud,
    tenant: &str,
    client_id: &str,
    redirect_uri: Option<&str>,
    state: Option<&Secret>,
) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("client_id", client_id).append_pair("scope", &cloud.graph_scope());
    if let Some(redirect_uri) = redirect_uri {
        query.append_pair("redirect_uri", redirect_uri);
    }
    if let Some(state) = state {
        query.append_pair("state", state.expose());
    }
    format!("{}/{tenant}/v2.0/adminconsent?{}", cloud.login_url, query.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::entra::{ClientOptions, HttpClient};

    #[test]
    fn a_browser_is_sent_to_the_hosts_of_the_cloud() {
        for (word, login, graph) in [
            ("global", "login.microsoftonline.com", "graph.microsoft.com"),
            ("us_gov", "login.microsoftonline.us", "graph.microsoft.us"),
            ("us_gov_dod", "login.microsoftonline.us", "dod-graph.microsoft.us"),
            ("china", "login.partner.microsoftonline.cn", "microsoftgraph.chinacloudapi.cn"),
        ] {
            let cloud = Cloud::named(word).expect("known");
            let consent =
                admin_consent_url(&cloud, "t", "c", Some("https://c.example/reauth/callback"), None);
            assert!(
                consent.starts_with(&format!("https://{login}/t/v2.0/adminconsent?client_id=c&")),
                "{consent}"
            );
            assert!(consent.contains(&format!("scope=https%3A%2F%2F{graph}%2F.default&")), "{consent}");
            let http = HttpClient::new(&ClientOptions::default(), Arc::new(|_, _, _| {})).expect("a client");
            let entra = Entra::new(http, cloud, Arc::default());
            // The shortest verifier (RFC 7636 section 4.1).
            let secret = Secret::new("s".repeat(43));
            let required = [RequiredPermissions {
                resource: "microsoft_graph".to_owned(),
                delegated: vec!["User.Read".to_owned()],
                application: Vec::new(),
            }];
            let sign_in = SignIn {
                tenant: "t",
                client_id: "c",
                redirect_uri: "https://c.example/reauth/callback",
                required: &required,
                state: &secret,
                nonce: &secret,
                verifier: &secret,
                login_hint: None,
            };
            let url = entra.authorize_url(sign_in).expect("a URL");
            assert!(url.starts_with(&format!("https://{login}/t/oauth2/v2.0/authorize?")), "{url}");
            // Without a resource, a scope is one of the global cloud's Graph.
            let scope = if word == "global" {
                "+User.Read".to_owned()
            } else {
                format!("https%3A%2F%2F{graph}%2FUser.Read")
            };
            assert!(url.contains(&scope), "{url}");
            assert!(!url.contains("graph.microsoft.com") || word == "global", "{url}");
        }
    }
}
