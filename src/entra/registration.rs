//! Credentials as Graph lists them: of an app registration, and of a service principal (Microsoft Graph, `application-get.md`,
//! `serviceprincipal-get.md`, `keycredential.md`, `passwordcredential.md`).

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Entra;
use super::classify::GraphCaller;
use super::directory::is_another;
use super::graph::{GraphRequest, moment};
use crate::certificate::thumbprint;
use crate::domain::{
    CredentialKind, Fault, Hint, ListedCredential, Reason, Registration, Timestamp, one_line,
};

impl Entra {
    /// The credentials of an app registration, and its federated identity credentials. `keyCredentials` are returned only if `$select`
    /// names them, and such requests are limited to 150 a minute and tenant: callers keep the answer.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn registration(
        &self,
        token: &str,
        app_id: &str,
        deadline: Instant,
    ) -> Result<Registration, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Reader, deadline };
        let object = format!("{}/v1.0/applications(appId='{app_id}')", self.cloud.graph_url);
        let url = format!("{object}?$select=id,appId,displayName,keyCredentials,passwordCredentials");
        let Some(found) = self.find(request, &url).await? else { return Ok(Registration::Elsewhere) };
        if is_another(&found, app_id) {
            return Err(invalid("the directory shows another app registration"));
        }
        let mut listed = secrets(&found)?;
        listed.extend(certificates(&found)?);
        // They never expire, so that nothing depends on them: they are shown if they can be read.
        let federated = match self.find(request, &format!("{object}/federatedIdentityCredentials")).await {
            Ok(Some(page)) => self.pages(request, page).await.unwrap_or_default(),
            _ => Vec::new(),
        };
        listed.extend(federated.iter().filter_map(federated_credential));
        Ok(Registration::Listed(listed))
    }

    /// The object id of a service principal; `None` if it is not in the tenant.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn service_principal_id(
        &self,
        token: &str,
        app_id: &str,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Reader, deadline };
        let url =
            format!("{}/v1.0/servicePrincipals(appId='{app_id}')?$select=id,appId", self.cloud.graph_url);
        let Some(found) = self.find(request, &url).await? else { return Ok(None) };
        let id = found["id"].as_str().filter(|id| !id.is_empty());
        id.map(|id| Some(id.to_owned())).ok_or_else(|| invalid("a service principal has no id"))
    }

    /// The certificates with which Entra signs SAML tokens for an enterprise application; none if it is not in the tenant.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn signing_certificates(
        &self,
        token: &str,
        app_id: &str,
        deadline: Instant,
    ) -> Result<Vec<ListedCredential>, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Reader, deadline };
        let select = "id,appId,preferredSingleSignOnMode,preferredTokenSigningKeyThumbprint,keyCredentials,passwordCredentials";
        let url =
            format!("{}/v1.0/servicePrincipals(appId='{app_id}')?$select={select}", self.cloud.graph_url);
        let Some(found) = self.find(request, &url).await? else { return Ok(Vec::new()) };
        if is_another(&found, app_id) {
            return Err(invalid("the directory shows another application"));
        }
        signing(&found)
    }
}

fn invalid(detail: &str) -> Fault {
    Fault::new(Reason::InvalidResponse, detail)
}

/// A list of credentials; a missing one is empty.
fn list<'v>(object: &'v Value, key: &str) -> Result<&'v [Value], Fault> {
    match &object[key] {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(&[]),
        _ => Err(invalid("credentials are no list")),
    }
}

/// When a credential expires; `None` if it never does.
fn end(item: &Value) -> Result<Option<Timestamp>, Fault> {
    match &item["endDateTime"] {
        Value::Null => Ok(None),
        value => moment(value).map(Some).ok_or_else(|| invalid("the end of a credential is no time")),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|t| !t.is_empty()).map(|t| one_line(t, 120))
}

fn key_id(item: &Value) -> Result<String, Fault> {
    text(&item["keyId"]).ok_or_else(|| invalid("a credential has no keyId"))
}

fn secrets(object: &Value) -> Result<Vec<ListedCredential>, Fault> {
    let one = |item: &Value| {
        Ok(ListedCredential {
            kind: CredentialKind::ClientSecret,
            key_id: key_id(item)?,
            name: text(&item["displayName"]),
            thumbprint: None,
            hint: item["hint"].as_str().filter(|h| !h.is_empty()).map(Hint::of),
            ends: end(item)?,
            active: false,
        })
    };
    list(object, "passwordCredentials")?.iter().map(one).collect()
}

/// Certificates with which the application signs in: `Verify`. Others encrypt tokens.
fn certificates(object: &Value) -> Result<Vec<ListedCredential>, Fault> {
    let signs_in =
        |item: &&Value| item["usage"].as_str().is_none_or(|usage| usage.eq_ignore_ascii_case("verify"));
    list(object, "keyCredentials")?
        .iter()
        .filter(signs_in)
        .map(|item| certificate(item, CredentialKind::Certificate))
        .collect()
}

fn certificate(item: &Value, kind: CredentialKind) -> Result<ListedCredential, Fault> {
    Ok(ListedCredential {
        kind,
        key_id: key_id(item)?,
        name: text(&item["displayName"]),
        thumbprint: thumbprint_of(item),
        hint: None,
        ends: end(item)?,
        active: false,
    })
}

/// From the certificate itself, or from `customKeyIdentifier`: the thumbprint as bytes, or as hexadecimal text.
fn thumbprint_of(item: &Value) -> Option<String> {
    let decoded = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    if let Some(der) = decoded(&item["key"]).filter(|der| !der.is_empty()) {
        return Some(thumbprint(&der));
    }
    let is_hex = |text: &str| text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit());
    let identifier = item["customKeyIdentifier"].as_str()?;
    if is_hex(identifier) {
        return Some(identifier.to_ascii_uppercase());
    }
    let bytes = decoded(&item["customKeyIdentifier"])?;
    if let Some(text) = std::str::from_utf8(&bytes).ok().filter(|text| is_hex(text)) {
        return Some(text.to_ascii_uppercase());
    }
    (bytes.len() == 20).then(|| bytes.iter().map(|byte| format!("{byte:02X}")).collect())
}

/// A SAML signing certificate that Entra has made is three entries with one `customKeyIdentifier`: the key that signs, the certificate that
/// verifies, and the password of the key. They are one credential.
fn signing(object: &Value) -> Result<Vec<ListedCredential>, Fault> {
    let preferred = object["preferredTokenSigningKeyThumbprint"].as_str().unwrap_or_default();
    // An application that signs in by OpenID Connect may have certificates that nothing uses.
    let mode = object["preferredSingleSignOnMode"].as_str().map(str::trim).filter(|mode| !mode.is_empty());
    if mode.is_some_and(|mode| !mode.eq_ignore_ascii_case("saml")) {
        return Ok(Vec::new());
    }
    let keys = list(object, "keyCredentials")?;
    let usage =
        |item: &Value, usage: &str| item["usage"].as_str().is_some_and(|u| u.eq_ignore_ascii_case(usage));
    let mut found: Vec<ListedCredential> = Vec::new();
    for key in keys.iter().filter(|key| usage(key, "Sign")) {
        let identifier = &key["customKeyIdentifier"];
        let partner = keys.iter().find(|other| {
            usage(other, "Verify") && !identifier.is_null() && other["customKeyIdentifier"] == *identifier
        });
        let credential = certificate(partner.unwrap_or(key), CredentialKind::SamlCertificate)?;
        if found.iter().any(|known| known.key_id == credential.key_id) {
            continue;
        }
        let active = credential.thumbprint.as_ref().is_some_and(|t| t.eq_ignore_ascii_case(preferred.trim()));
        found.push(ListedCredential { active, ..credential });
    }
    Ok(found)
}

/// Microsoft Graph, `federatedidentitycredential.md`.
fn federated_credential(item: &Value) -> Option<ListedCredential> {
    Some(ListedCredential {
        kind: CredentialKind::Federated,
        key_id: text(&item["id"])?,
        name: text(&item["name"]),
        thumbprint: None,
        hint: None,
        ends: None,
        active: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_of_a_registration_in_every_shape() {
        let object = json!({
            "passwordCredentials": [
                {"keyId": "s1", "displayName": "prod", "hint": "abc", "endDateTime": "2026-03-01T00:00:00Z"},
                {"keyId": "s2", "displayName": null, "hint": null, "endDateTime": null},
            ],
            "keyCredentials": [
                {"keyId": "c1", "usage": "Verify", "customKeyIdentifier": "AQIDBAUGBwgJCgsMDQ4PEBESExQ=", "endDateTime": "2027-01-01T00:00:00Z"},
                {"keyId": "c2", "usage": "Encrypt", "endDateTime": "2020-01-01T00:00:00Z"},
            ],
        });
        let secrets = secrets(&object).expect("secrets");
        assert_eq!(secrets[0].ends, Some(Timestamp::from_seconds(1_772_323_200)));
        assert_eq!((secrets[0].hint.clone(), secrets[1].ends), (Some(Hint::of("abc")), None));
        let certificates = certificates(&object).expect("certificates");
        assert_eq!(
            certificates.len(),
            1,
            "a certificate that encrypts is none with which the application signs in"
        );
        assert_eq!(certificates[0].thumbprint.as_deref(), Some("0102030405060708090A0B0C0D0E0F1011121314"));
        for (sentence, object) in [
            ("no keyId", json!({"passwordCredentials": [{"endDateTime": null}]})),
            (
                "an end that is no time",
                json!({"passwordCredentials": [{"keyId": "s", "endDateTime": "soon"}]}),
            ),
            ("no list", json!({"passwordCredentials": "none"})),
        ] {
            let fault = super::secrets(&object).expect_err(sentence);
            assert_eq!(fault.reason, Reason::InvalidResponse, "{sentence}");
        }
        assert_eq!(super::secrets(&json!({"passwordCredentials": null})), Ok(Vec::new()));
        assert_eq!(super::secrets(&json!({})), Ok(Vec::new()));
    }

    #[test]
    fn thumbprints_are_read_in_every_form() {
        let hex = "0102030405060708090A0B0C0D0E0F1011121314";
        for (sentence, item, expected) in [
            ("bytes", json!({"customKeyIdentifier": "AQIDBAUGBwgJCgsMDQ4PEBESExQ="}), Some(hex)),
            ("hexadecimal text", json!({"customKeyIdentifier": hex.to_lowercase()}), Some(hex)),
            ("hexadecimal text as bytes", json!({"customKeyIdentifier": STANDARD.encode(hex)}), Some(hex)),
            (
                "the certificate itself",
                json!({"key": STANDARD.encode(b"der"), "customKeyIdentifier": null}),
                Some("7D44C33CF9A82AB9BD5300D266784504E9772177"),
            ),
            ("another identifier", json!({"customKeyIdentifier": "AQID"}), None),
            ("none", json!({}), None),
        ] {
            assert_eq!(thumbprint_of(&item).as_deref(), expected, "{sentence}");
        }
    }

    #[test]
    fn a_saml_certificate_is_one_credential() {
        let identifier = "AQIDBAUGBwgJCgsMDQ4PEBESExQ=";
        let entry = |id: &str, usage: &str, identifier: &str| json!({"keyId": id, "usage": usage, "customKeyIdentifier": identifier, "endDateTime": "2027-01-01T00:00:00Z"});
        let object = json!({
            "preferredTokenSigningKeyThumbprint": "0102030405060708090a0b0c0d0e0f1011121314",
            "keyCredentials": [
                entry("sign", "Sign", identifier), entry("verify", "Verify", identifier),
                entry("sign2", "Sign", "ERITFBUWFxgZGhscHR4fICEiIyQ="), entry("other", "Verify", "AAAA"),
            ],
            "passwordCredentials": [{"keyId": "password", "customKeyIdentifier": identifier, "endDateTime": "2027-01-01T00:00:00Z"}],
        });
        let found = signing(&object).expect("certificates");
        let shown: Vec<(&str, bool)> = found.iter().map(|c| (c.key_id.as_str(), c.active)).collect();
        assert_eq!(shown, [("verify", true), ("sign2", false)]);
        assert_eq!(signing(&json!({"keyCredentials": []})), Ok(Vec::new()));
        let unused = json!({"preferredSingleSignOnMode": "oidc", "keyCredentials": object["keyCredentials"]});
        assert_eq!(signing(&unused), Ok(Vec::new()), "nothing is signed with it");
    }
}
