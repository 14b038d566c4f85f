//! Directory readers and applications.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cursor::{Cursor, Section};
use super::fields::notify;
use super::permissions::{permission, resource};
use super::values::{hidden_path, is_no_tenant, parse_tenant, shown_url};
use super::{App, Reader, ReauthenticationMode, Reauthenticators, TokenWebhook};
use crate::domain::{Access, RequiredPermissions, same_permission};
use crate::secret::{ClientCredential, SecretSource};
use crate::urls::is_loopback;

/// An application of the configuration. Integrations may refer to it even when something in it is wrong.
pub(super) struct Known<T> {
    pub(super) value: T,
}

/// `None` for an invalid reader: its name is known, so that its integrations report no error of their own.
pub(super) fn readers(at: &Cursor<'_, '_>) -> BTreeMap<String, Option<Reader>> {
    let read = |at: &Cursor<'_, '_>| {
        let mut section = at.section();
        let client_id = section.required("client_id").and_then(|at| at.guid());
        let credential = section.required("credential").map(|at| credential(&at));
        if matches!(credential, Some(Some(ClientCredential::None))) {
            section.at.problem("a directory reader needs a credential, such as credential: {client_secret_file: reader-secret}");
        }
        section.finish();
        Some(Reader { client_id: client_id?, credential: credential?? })
    };
    at.named().iter().map(|(name, at)| (name.clone(), read(at))).collect()
}

/// `graph_url` is the URL of Microsoft Graph in the configured cloud, one of the names of that resource.
pub(super) fn apps(at: &Cursor<'_, '_>, graph_url: &str) -> BTreeMap<String, Known<App>> {
    at.named().iter().map(|(name, at)| (name.clone(), Known { value: app(name, at, graph_url) })).collect()
}

/// A GUID or verified domain.
pub(super) fn tenant(at: &Cursor<'_, '_>) -> Option<String> {
    at.checked(|text| {
        if is_no_tenant(text) {
            return Err("stands for many tenants or for personal accounts; write the GUID or a verified domain of one tenant");
        }
        parse_tenant(text).ok_or("is neither a tenant GUID nor a verified domain such as contoso.onmicrosoft.com")
    })
}

fn app(name: &str, at: &Cursor<'_, '_>, graph_url: &str) -> App {
    let mut section = at.section();
    // Problems are recorded. The values returned for them are never used, because a configuration with
    // problems is rejected.
    let client_id = section.required("client_id").and_then(|at| at.guid()).unwrap_or_default();
    let display_name = section.or("display_name", name.to_owned(), Cursor::non_empty);
    let access = section.or("access", Access::Delegated, |at| {
        at.one_of(&[("delegated", Access::Delegated), ("application", Access::Application)])
    });
    let credential = section.or("credential", ClientCredential::None, credential);
    if let Some(at) = section.get("home_tenant_id") {
        if at.guid().is_some_and(|id| is_no_tenant(&id)) {
            at.problem("is the tenant of personal accounts; write the one where the app is registered");
        }
        at.not_implemented();
    }
    let notify = section.get("notify").and_then(|at| notify(&at));
    let required = section.get("required_permissions").map(|at| at.items()).unwrap_or_default();
    let required: Vec<RequiredPermissions> =
        required.iter().filter_map(|at| permissions(at, graph_url)).collect();
    let unexpected_fails =
        section.or("unexpected_permissions", false, |at| at.one_of(&[("ignore", false), ("fail", true)]));
    let token_webhook = section.get("token_webhook").and_then(|at| token_webhook(&at));
    let reauthenticators = section.or("reauthenticators", Reauthenticators::Members, |at| {
        at.one_of(&[("members", Reauthenticators::Members), ("admins", Reauthenticators::Admins)])
    });
    let reauthentication = section.or("reauthentication", ReauthenticationMode::Builtin, reauthentication);
    if reauthenticators == Reauthenticators::Admins && access == Access::Application {
        section.at.warn("reauthenticators has no effect with access: application: nobody signs in to Consentry there, and Entra lets only administrators accept");
    }
    if access == Access::Application && credential == ClientCredential::None {
        section.at.problem(
            "access: application needs a credential, such as credential: {client_secret_file: app-secret}",
        );
    }
    section.finish();
    App {
        name: name.to_owned(),
        client_id,
        display_name,
        credential,
        reauthentication,
        reauthenticators,
        access,
        required: merged(required).into(),
        unexpected_fails,
        notify,
        token_webhook,
    }
}

/// Where a product receives renewed refresh tokens. They leave this machine over https or loopback only.
fn token_webhook(at: &Cursor<'_, '_>) -> Option<TokenWebhook> {
    let mut section = at.section();
    let url = section.required("url").and_then(|at| webhook_url(&at));
    let given = section.has("secret") || section.has("secret_file");
    let secret = section.secret("secret", "secret_file");
    if !given {
        section.at.problem("secret_file is missing; it is required");
    }
    if let Some(message) =
        secret.as_ref().and_then(|s| s.read().ok()).and_then(|s| signing_key_fault(s.expose()))
    {
        section.at.problem(message);
    }
    section.finish();
    Some(TokenWebhook { url: url?, secret: secret? })
}

/// A webhook's URL. Its path and query may hold a key to the product, so no message shows them.
fn webhook_url(at: &Cursor<'_, '_>) -> Option<String> {
    let text = at.text()?;
    let found = shown_url(&text).and_then(|url| {
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        let hint = "must be an https URL such as https://app.example.com/hooks/azure-token (http is allowed on loopback only)";
        if safe && url.has_host() { Ok(url.to_string()) } else { Err(hint) }
    });
    match found {
        Ok(url) => Some(url),
        Err(message) => {
            at.problem(format!("{} {message}", hidden_path(&text)));
            None
        }
    }
}

/// What is wrong with a signing secret, if anything. The Standard Webhooks specification ("Signature scheme") requires 24 to 64 bytes.
fn signing_key_fault(text: &str) -> Option<&'static str> {
    use base64::Engine as _;
    let key =
        text.strip_prefix("whsec_").and_then(|t| base64::engine::general_purpose::STANDARD.decode(t).ok());
    match key.map(|key| key.len()) {
        None => Some(
            "the secret must be whsec_ followed by base64 (Standard Webhooks); make one with: echo whsec_$(openssl rand -base64 32)",
        ),
        Some(0..24) => Some(
            "the secret is shorter than 24 bytes, so that signatures can be forged; make one with: echo whsec_$(openssl rand -base64 32)",
        ),
        Some(24..=64) => None,
        Some(_) => Some(
            "the secret is longer than 64 bytes, which Standard Webhooks forbids; make one with: echo whsec_$(openssl rand -base64 32)",
        ),
    }
}

/// A client secret. The portal shows its id next to its value, and still shows the id when it no longer shows the value.
pub(super) fn client_secret(section: &mut Section<'_, '_>) -> Option<SecretSource> {
    let source = section.secret("client_secret", "client_secret_file")?;
    if source.read().is_ok_and(|secret| uuid::Uuid::try_parse(secret.expose()).is_ok()) {
        section
            .at
            .warn("the client secret looks like a GUID: its id was copied instead of its value; make a new secret and copy the value");
    }
    Some(source)
}

pub(super) fn credential(at: &Cursor<'_, '_>) -> Option<ClientCredential> {
    if let super::tree::Value::Scalar(text) = &at.node.value {
        if text == "none" {
            return Some(ClientCredential::None);
        }
        at.problem("must be none, or a mapping such as {client_secret_file: app-secret}");
        return None;
    }
    let mut section = at.section();
    let secret = client_secret(&mut section);
    let certificate = (
        section.get("certificate_file").map(|at| at.readable_file()),
        section.get("private_key_file").map(|at| at.readable_file()),
    );
    let federated = section.get("federated_token_file");
    let managed = section.get("managed_identity");
    if let Some(at) = &managed {
        let mut identity = at.section();
        identity.get("client_id").map(|at| at.guid());
        identity.finish();
    }
    let has_secret = section.has("client_secret") || section.has("client_secret_file");
    let has_certificate = certificate.0.is_some() || certificate.1.is_some();
    let kinds =
        [has_secret, has_certificate, federated.is_some(), managed.is_some()].iter().filter(|k| **k).count();
    let found = match (secret, certificate, federated, managed) {
        _ if kinds > 1 => {
            section.at.problem("names several kinds of credential; keep one");
            None
        }
        (Some(secret), ..) => Some(ClientCredential::Secret(secret)),
        (_, (Some(certificate), Some(key)), ..) => {
            certificate.zip(key).and_then(|(certificate, key)| certificate_credential(at, certificate, key))
        }
        (_, (Some(_), None) | (None, Some(_)), ..) => {
            section.at.problem("certificate_file and private_key_file belong together; give both");
            None
        }
        (_, _, Some(at), _) => {
            at.not_implemented();
            Some(ClientCredential::Unbuilt("federated_token_file"))
        }
        (_, _, _, Some(at)) => {
            at.not_implemented();
            Some(ClientCredential::Unbuilt("managed_identity"))
        }
        _ if has_secret => None,
        _ => {
            section
                .at
                .problem("is empty; give client_secret_file, certificate_file and private_key_file, or none");
            None
        }
    };
    section.finish();
    found
}

fn certificate_credential(
    at: &Cursor<'_, '_>,
    certificate_file: PathBuf,
    private_key_file: PathBuf,
) -> Option<ClientCredential> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    if CertificateDer::from_pem_file(&certificate_file).is_err() {
        at.problem(format!("{} holds no PEM certificate", certificate_file.display()));
        return None;
    }
    if PrivateKeyDer::from_pem_file(&private_key_file).is_err() {
        at.problem(format!("{} holds no PEM private key", private_key_file.display()));
        return None;
    }
    Some(ClientCredential::Certificate { certificate_file, private_key_file })
}

fn permissions(at: &Cursor<'_, '_>, graph_url: &str) -> Option<RequiredPermissions> {
    let mut section = at.section();
    let named = section
        .required("resource")
        .filter(|at| at.non_empty().is_some())
        .and_then(|at| at.checked(|text| resource(text, graph_url)));
    let mut values = |key| {
        let items = section.get(key).map(|at| at.items()).unwrap_or_default();
        // Which spellings are valid depends on the resource, so nothing is checked while the resource is
        // wrong.
        let Some(of) = named.as_deref() else { return Vec::new() };
        items.iter().filter_map(|at| at.checked(|text| permission(text, of, graph_url))).collect::<Vec<_>>()
    };
    let (delegated, application) = (values("delegated"), values("application"));
    section.finish();
    Some(RequiredPermissions { resource: named?, delegated, application })
}

/// One entry per resource, each permission once.
fn merged(entries: Vec<RequiredPermissions>) -> Vec<RequiredPermissions> {
    let mut merged: Vec<RequiredPermissions> = Vec::new();
    for entry in entries {
        let index = merged.iter().position(|m| m.resource == entry.resource).unwrap_or_else(|| {
            merged.push(RequiredPermissions {
                resource: entry.resource.clone(),
                delegated: Vec::new(),
                application: Vec::new(),
            });
            merged.len() - 1
        });
        let known = &mut merged[index];
        for (values, all) in
            [(entry.delegated, &mut known.delegated), (entry.application, &mut known.application)]
        {
            for value in values {
                if !all.iter().any(|a| same_permission(a, &value)) {
                    all.push(value);
                }
            }
        }
    }
    merged
}

fn reauthentication(at: &Cursor<'_, '_>) -> Option<ReauthenticationMode> {
    if !matches!(at.node.value, super::tree::Value::Mapping(_)) {
        return at.one_of(&[("builtin", false), ("admin_consent", true)]).map(|admin| {
            if admin { ReauthenticationMode::AdminConsent } else { ReauthenticationMode::Builtin }
        });
    }
    let mut section = at.section();
    let url = section.required("url").and_then(|at| at.checked(valid_template));
    section.finish();
    url.map(ReauthenticationMode::Url)
}

/// A link template: an http or https URL once its placeholders are filled in, without unknown placeholders. Links keep the template's
/// spelling, so the template must not contain characters that a URL cannot contain. The error says what is wrong.
fn valid_template(text: &str) -> Result<String, &'static str> {
    const HINT: &str = "must be an https URL; placeholders: {tenant_id}, {client_id}, {name}, {app}";
    let filled = ["{tenant_id}", "{client_id}", "{name}", "{app}"]
        .iter()
        .fold(text.to_owned(), |t, p| t.replace(p, "x"));
    if filled.contains(|c: char| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control())
        || url::Url::parse(&filled).is_err()
    {
        return Err(HINT);
    }
    let url = shown_url(&filled)?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(text.to_owned()) } else { Err(HINT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_secrets_have_the_length_that_the_standard_requires() {
        use base64::Engine as _;
        let of = |length: usize| {
            format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(vec![7; length]))
        };
        for (text, expected) in [
            (of(24), None),
            (of(32), None),
            (of(64), None),
            (of(23), Some("shorter than 24")),
            (of(1), Some("shorter than 24")),
            ("whsec_".to_owned(), Some("shorter than 24")),
            (of(65), Some("longer than 64")),
            ("whsec_!".to_owned(), Some("followed by base64")),
            (of(32).replace("whsec_", ""), Some("followed by base64")),
        ] {
            let fault = signing_key_fault(&text);
            assert!(
                fault.is_some() == expected.is_some()
                    && fault.unwrap_or_default().contains(expected.unwrap_or_default()),
                "{text}: {fault:?}"
            );
        }
    }

    #[test]
    fn link_templates_that_are_no_urls_are_rejected() {
        for (text, valid) in [
            ("https://dash.example.com/azure?tenant={tenant_id}&integration={name}", true),
            ("https://{name}.example.com/", true),
            ("http://localhost:3000/{app}/{client_id}", true),
            ("https://example.com/{tenant}", false),
            ("https://user:hunter@dash.example.com/{name}", false),
            ("https://user@dash.example.com/{name}", false),
            ("https://{name}@dash.example.com/", false),
            ("https://@dash.example.com/{name}", false),
            ("https://dash.example.com/a b", false),
            ("https://dash.example.com/\n{name}", false),
            ("javascript:alert(1)", false),
            ("dash.example.com/{name}", false),
        ] {
            assert_eq!(valid_template(text).is_ok(), valid, "{text}");
        }
    }
}
