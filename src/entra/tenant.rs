//! Who a tenant is: its GUID, from the OpenID configuration that needs no credentials.

use std::time::Instant;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use super::Entra;
use super::classify::{EntraError, classify_token};
use super::http::{Endpoint, Outgoing};
use crate::domain::{Fault, Reason};

impl Entra {
    /// The GUID behind a GUID or verified domain: the issuer in the OpenID configuration names it (Microsoft, `access-tokens.md`).
    ///
    /// # Errors
    /// The tenant does not exist, or cannot be asked after.
    pub async fn tenant_guid(&self, tenant: &str, deadline: Instant) -> Result<String, Fault> {
        let url = format!("{}/{tenant}/v2.0/.well-known/openid-configuration", self.hosts.login);
        let outgoing = Outgoing {
            endpoint: Endpoint::Openid,
            method: Method::GET,
            url: &url,
            headers: Vec::new(),
            bearer: None,
            body: None,
            deadline,
        };
        let answer = self.door.send(outgoing).await?;
        if !answer.status.is_success() {
            let error: EntraError = serde_json::from_slice(&answer.body).unwrap_or_default();
            return Err(classify_token(answer.status.as_u16(), &error, &self.overrides));
        }
        let invalid = || Fault::new(Reason::InvalidResponse, "the OpenID configuration names no tenant");
        let document: Value = serde_json::from_slice(&answer.body).map_err(|_| invalid())?;
        let issuer = document["issuer"].as_str().ok_or_else(invalid)?;
        let guid = issuer.split('/').find_map(|part| Uuid::try_parse(part).ok()).ok_or_else(invalid)?;
        Ok(guid.to_string())
    }
}
