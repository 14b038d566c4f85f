//! Directory readers and applications.

use std::collections::BTreeMap;

use super::credentials::{credential, own_credential};
use super::cursor::Cursor;
use super::fields::notify;
use super::permissions::{permission, resource};
use super::values::{hidden_path, is_no_tenant, parse_tenant, shown_url};
use super::{App, Reader, ReauthenticationMode, Reauthenticators, TokenWebhook};
use crate::credential::ClientCredential;
use crate::domain::{Access, RequiredPermissions, same_permission};
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
        let credential =
            section.required("credential").and_then(|at| own_credential(&at, "a directory reader"));
        section.finish();
        Some(Reader { client_id: client_id?, credential: credential? })
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
    let home_tenant = section.get("home_tenant_id").and_then(|at| home_tenant(&at));
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
        home_tenant,
        token_webhook,
    }
}

/// Where the app is registered.
fn home_tenant(at: &Cursor<'_, '_>) -> Option<String> {
    let id = at.guid()?;
    if is_no_tenant(&id) {
        at.problem("is the tenant of personal accounts; write the one where the app is registered");
        return None;
    }
    Some(id)
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
