//! The OpenID configuration of a tenant, which needs no credentials: its GUID, issuer and signing keys.

use std::time::Instant;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use super::Entra;
use super::classify::{EntraError, classify_token};
use super::http::{Endpoint, Request};
use crate::domain::{Cloud, Fault, Reason, one_line};

/// The parts of a tenant's OpenID configuration that are used (Microsoft, `v2-protocols-oidc.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenidConfiguration {
    /// `iss` of its id_tokens.
    pub(super) issuer: String,
    /// The tenant's GUID, as the issuer names it.
    pub(super) tenant_guid: String,
    /// The URL of its signing keys.
    pub(super) jwks_uri: String,
}

impl Entra {
    /// The GUID of a tenant that is configured by GUID or verified domain: the issuer in the OpenID configuration contains it (Microsoft,
    /// `access-tokens.md`).
    ///
    /// # Errors
    /// The tenant does not exist, or its configuration cannot be read.
    pub async fn tenant_guid(&self, tenant: &str, deadline: Instant) -> Result<String, Fault> {
        self.openid_configuration(tenant, deadline).await.map(|c| c.tenant_guid)
    }

    pub(super) async fn openid_configuration(
        &self,
        tenant: &str,
        deadline: Instant,
    ) -> Result<OpenidConfiguration, Fault> {
        let url = format!("{}/{tenant}/v2.0/.well-known/openid-configuration", self.cloud.login_url);
        let document = self.openid_document(&url, deadline).await?;
        let invalid = || Fault::new(Reason::InvalidResponse, "the OpenID configuration names no tenant");
        let issuer = document["issuer"].as_str().ok_or_else(invalid)?;
        self.known_issuer(issuer)?;
        let guid = issuer.split('/').find_map(|part| Uuid::try_parse(part).ok()).ok_or_else(invalid)?;
        let jwks_uri = document["jwks_uri"].as_str().unwrap_or_default().to_owned();
        Ok(OpenidConfiguration { issuer: issuer.to_owned(), tenant_guid: guid.to_string(), jwks_uri })
    }

    /// An issuer that is not the cloud's own is refused: another server answers, or the tenant is in another cloud.
    fn known_issuer(&self, issuer: &str) -> Result<(), Fault> {
        let parsed = url::Url::parse(issuer).ok();
        let host = parsed.as_ref().and_then(url::Url::host_str).unwrap_or_default();
        let scheme = parsed.as_ref().map(url::Url::scheme).unwrap_or_default();
        if self.cloud.accepts_issuer(scheme, host) {
            return Ok(());
        }
        let shown = one_line(issuer, 120);
        let expected = &self.cloud.login_url;
        let home = Cloud::of_issuer(host);
        let (reason, detail) = if home.is_empty() {
            let detail = format!(
                "the OpenID configuration of {expected} names the unknown issuer {shown}; it is not used"
            );
            (Reason::InvalidResponse, detail)
        } else {
            let detail =
                format!("the tenant is in another cloud: its issuer is {shown}; set cloud to {home}");
            (Reason::ConfigurationInvalid, detail)
        };
        Err(Fault::new(reason, detail))
    }

    /// A JSON document of the login host.
    pub(super) async fn openid_document(&self, url: &str, deadline: Instant) -> Result<Value, Fault> {
        let outgoing = Request {
            endpoint: Endpoint::Openid,
            method: Method::GET,
            url,
            headers: Vec::new(),
            bearer: None,
            body: None,
            deadline,
        };
        let answer = self.http.send(outgoing).await?;
        if !answer.status.is_success() {
            let fault =
                classify_token(answer.status.as_u16(), &EntraError::parse(&answer.body), &self.overrides);
            let request_id = fault.request_id.clone().or_else(|| answer.request_id());
            return Err(Fault { request_id, retry_after: answer.retry_after(), ..fault });
        }
        answer.json().ok_or_else(|| Fault::new(Reason::InvalidResponse, "an OpenID document is not JSON"))
    }
}
