//! Readers, applications and integrations.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Diagnostics, Section};
use super::fields::{is_loopback, mail_address};
use super::permissions::{permission, resource};
use super::values::{
    hidden_path, is_label_name, is_name, is_no_tenant, nearest, parse_guid, parse_tenant, shown_url,
};
use super::{
    App, Credential, Integration, Reader, ReauthenticationMode, Reauthenticators, TokenWebhook, read_tree,
};
use crate::domain::{
    Access, Check, GroupPolicy, GroupRef, RequiredPermissions, Requirements, same_permission,
};
use crate::secret::{self, SecretError, SecretSource};

/// An application together with whether it could be read whole: integrations may refer to it either way.
pub(super) struct Known<T> {
    pub(super) value: T,
}

/// `None` for one that is wrong: its name is known, so that its integrations report no error of their own.
pub(super) fn readers(at: &Cursor<'_, '_>) -> BTreeMap<String, Option<Reader>> {
    let read = |at: &Cursor<'_, '_>| {
        let mut section = at.section();
        let client_id = section.required("client_id").and_then(|at| at.guid());
        let credential = section.required("credential").map(|at| credential(&at));
        if matches!(credential, Some(Some(Credential::None))) {
            section.at.problem("a directory reader needs a credential, such as credential: {client_secret_file: reader-secret}");
        }
        section.finish();
        Some(Reader { client_id: client_id?, credential: credential?? })
    };
    at.named().iter().map(|(name, at)| (name.clone(), read(at))).collect()
}

/// `graph_url` is where the configured cloud has Microsoft Graph: one of the names of that resource.
pub(super) fn apps(at: &Cursor<'_, '_>, graph_url: &str) -> BTreeMap<String, Known<App>> {
    at.named().iter().map(|(name, at)| (name.clone(), Known { value: app(name, at, graph_url) })).collect()
}

/// A GUID or verified domain.
pub(super) fn tenant(at: &Cursor<'_, '_>) -> Option<String> {
    at.checked(|text| {
        if is_no_tenant(text) {
            return Err("stands for many tenants or for personal accounts; write the one tenant's GUID or verified domain");
        }
        parse_tenant(text).ok_or("is neither a tenant GUID nor a verified domain such as contoso.onmicrosoft.com")
    })
}

fn app(name: &str, at: &Cursor<'_, '_>, graph_url: &str) -> App {
    let mut section = at.section();
    // What is wrong is noted; the value returned for it is never used, because a configuration with problems is refused.
    let client_id = section.required("client_id").and_then(|at| at.guid()).unwrap_or_default();
    let display_name = section.or("display_name", name.to_owned(), Cursor::non_empty);
    let access = section.or("access", Access::Delegated, |at| {
        at.one_of(&[("delegated", Access::Delegated), ("application", Access::Application)])
    });
    let credential = section.or("credential", Credential::None, credential);
    if let Some(at) = section.get("home_tenant_id") {
        if at.guid().is_some_and(|id| is_no_tenant(&id)) {
            at.problem("is the tenant of personal accounts; write the one where the app is registered");
        }
        at.not_implemented();
    }
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
    if access == Access::Application && credential == Credential::None {
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
        token_webhook,
    }
}

/// Where a product takes renewed refresh tokens: they leave this machine protected or not at all.
fn token_webhook(at: &Cursor<'_, '_>) -> Option<TokenWebhook> {
    let mut hook = at.section();
    let url = hook.required("url").and_then(|at| webhook_url(&at));
    let given = hook.has("secret") || hook.has("secret_file");
    let secret = hook.secret("secret", "secret_file");
    if !given {
        hook.at.problem("secret_file is missing; it is required");
    }
    if let Some(message) =
        secret.as_ref().and_then(|s| s.read().ok()).and_then(|s| signing_key_fault(s.expose()))
    {
        hook.at.problem(message);
    }
    hook.finish();
    Some(TokenWebhook { url: url?, secret: secret? })
}

/// A webhook's URL. Its path and query may be a key to the product, so that no message shows them.
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

/// What is wrong with a secret for signing, if anything is. Standard Webhooks (its specification, "Signature scheme") asks for 24 to 64
/// bytes.
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

/// A client secret. In the portal its id stands beside its value, and stays there when the value is not shown any more.
pub(super) fn client_secret(section: &mut Section<'_, '_>) -> Option<SecretSource> {
    let source = section.secret("client_secret", "client_secret_file")?;
    if source.read().is_ok_and(|secret| uuid::Uuid::try_parse(secret.expose()).is_ok()) {
        section
            .at
            .warn("the client secret looks like a GUID: its id was copied instead of its value; make a new secret and copy the value");
    }
    Some(source)
}

pub(super) fn credential(at: &Cursor<'_, '_>) -> Option<Credential> {
    if let super::tree::Value::Scalar(text) = &at.node.value {
        if text == "none" {
            return Some(Credential::None);
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
        (Some(secret), ..) => Some(Credential::Secret(secret)),
        (_, (Some(certificate), Some(key)), ..) => {
            certificate.zip(key).and_then(|files| certificate_credential(at, files))
        }
        (_, (Some(_), None) | (None, Some(_)), ..) => {
            section.at.problem("certificate_file and private_key_file belong together; give both");
            None
        }
        (_, _, Some(at), _) => {
            at.not_implemented();
            Some(Credential::Unbuilt("federated_token_file"))
        }
        (_, _, _, Some(at)) => {
            at.not_implemented();
            Some(Credential::Unbuilt("managed_identity"))
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
    (certificate_file, private_key_file): (PathBuf, PathBuf),
) -> Option<Credential> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    if CertificateDer::from_pem_file(&certificate_file).is_err() {
        at.problem(format!("{} holds no PEM certificate", certificate_file.display()));
        return None;
    }
    if PrivateKeyDer::from_pem_file(&private_key_file).is_err() {
        at.problem(format!("{} holds no PEM private key", private_key_file.display()));
        return None;
    }
    Some(Credential::Certificate { certificate_file, private_key_file })
}

fn permissions(at: &Cursor<'_, '_>, graph_url: &str) -> Option<RequiredPermissions> {
    let mut section = at.section();
    let named = section
        .required("resource")
        .filter(|at| at.non_empty().is_some())
        .and_then(|at| at.checked(|text| resource(text, graph_url)));
    let mut values = |key| {
        let items = section.get(key).map(|at| at.items()).unwrap_or_default();
        // Which spellings are good is not known while the resource is wrong.
        let Some(of) = named.as_deref() else { return Vec::new() };
        items.iter().filter_map(|at| at.checked(|text| permission(text, of, graph_url))).collect::<Vec<_>>()
    };
    let (delegated, application) = (values("delegated"), values("application"));
    section.finish();
    Some(RequiredPermissions { resource: named?, delegated, application })
}

/// One entry a resource, each permission once.
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

/// A link template: an http or https URL once its placeholders are filled in, without unknown placeholders. It goes out as it is
/// written, so it holds nothing that a URL cannot hold.
///
/// # Errors
/// What is wrong with it.
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

/// Integrations of all files together.
pub(super) struct Integrations<'k> {
    apps: &'k BTreeMap<String, Known<App>>,
    readers: &'k BTreeMap<String, Option<Reader>>,
    found: Vec<Integration>,
    places: HashMap<String, String>,
}

impl<'k> Integrations<'k> {
    pub(super) fn new(
        apps: &'k BTreeMap<String, Known<App>>,
        readers: &'k BTreeMap<String, Option<Reader>>,
    ) -> Self {
        Self { apps, readers, found: Vec::new(), places: HashMap::new() }
    }

    /// Reads a list.
    pub(super) fn read(&mut self, at: &Cursor<'_, '_>) {
        for item in at.items() {
            if let Some(integration) = self.one(&item) {
                self.found.push(integration);
            }
        }
    }

    /// Reads more lists from the files that the patterns match.
    /// Answers the patterns.
    pub(super) fn read_files(&mut self, at: &Cursor<'_, '_>, findings: &Diagnostics<'_>) -> Vec<String> {
        let mut patterns = Vec::new();
        for item in at.items() {
            let Some(pattern) = item.path() else { continue };
            let pattern = pattern.to_string_lossy().into_owned();
            match findings.list(&pattern) {
                Ok(listing) => {
                    for (folder, error) in &listing.unreadable {
                        item.warn(format!("cannot look into {}: {error}", folder.display()));
                    }
                    listing.files.iter().for_each(|file| self.read_file(file, findings));
                }
                Err(message) => item.problem(message),
            }
            patterns.push(pattern);
        }
        patterns
    }

    fn read_file(&mut self, file: &Path, findings: &Diagnostics<'_>) {
        let Some(root) = read_tree(file, findings) else { return };
        self.read(&Cursor::root(&root, file, findings));
    }

    /// The integrations by name, and what is odd about them all together.
    pub(super) fn finish(mut self) -> Vec<Integration> {
        self.found.sort_by(|a, b| a.name.cmp(&b.name));
        self.found
    }

    fn one(&mut self, at: &Cursor<'_, '_>) -> Option<Integration> {
        let mut section = at.section();
        let name = section.required("name").and_then(|at| {
            let name = at.parsed(
                "is not a name; use lower-case letters, digits, _ . and -, beginning with a letter or digit",
                |t| is_name(t).then(|| t.to_owned()),
            )?;
            if name == "callback" {
                at.problem("callback is a path of its own (/reauth/callback); choose another name");
            }
            self.claim(&name, &at);
            Some(name)
        });
        let display_name = section.get("display_name").and_then(|at| at.non_empty());
        let app = section.required("app").and_then(|at| self.known_app(&at));
        let tenant = section.required("tenant_id").and_then(|at| tenant(&at));
        let reader = section.get("directory_reader").and_then(|at| self.known_reader(&at));
        let admins: Vec<String> = section
            .get("admins")
            .map(|at| at.items().iter().filter_map(mail_address).collect())
            .unwrap_or_default();
        if admins.is_empty() {
            at.warn("admins is empty: the operators get the link instead");
        }
        let refresh_token_file = section.get("refresh_token_file").and_then(|at| token_file(&at));
        let groups =
            section.get("groups").map_or(GroupPolicy { minimum: 1, required: Vec::new() }, |at| groups(&at));
        let checks = checks(&mut section);
        if let Some(at) = section.get("credential_expiry_warning") {
            at.duration_or_zero();
            at.not_implemented();
        }
        let labels = section.get("labels").map(|at| labels(&at)).unwrap_or_default();
        let enabled = section.or("enabled", true, Cursor::boolean);
        section.finish();
        let (name, app) = (name?, app?);
        let known = &self.apps.get(&app)?.value;
        warn_about_evidence(at, known, reader.is_some(), &checks);
        if refresh_token_file.is_some()
            && known.token_webhook.is_none()
            && known.reauthentication == ReauthenticationMode::Builtin
        {
            at.warn("a renewed refresh token reaches nobody: refresh_token_file is never written by us; add token_webhook to the app, or reauthentication: {url: ...}");
        }
        let requirements = Requirements {
            access: known.access,
            checks,
            required: known.required.clone(),
            unexpected_fails: known.unexpected_fails,
            groups,
        };
        let display_name = display_name.unwrap_or_else(|| name.clone());
        Some(Integration {
            name,
            display_name,
            app,
            tenant: tenant?,
            reader,
            admins,
            refresh_token_file,
            labels,
            enabled,
            requirements,
        })
    }

    fn claim(&mut self, name: &str, at: &Cursor<'_, '_>) {
        let place = format!("{}:{}", at.file.display(), at.node.line);
        if let Some(first) = self.places.get(name) {
            at.problem(format!("duplicate name {}; it is already used at {first}", at.written()));
        } else {
            self.places.insert(name.to_owned(), place);
        }
    }

    fn known_app(&self, at: &Cursor<'_, '_>) -> Option<String> {
        known_name(at, self.apps.keys().map(String::as_str), "app", "apps")
    }

    fn known_reader(&self, at: &Cursor<'_, '_>) -> Option<String> {
        known_name(at, self.readers.keys().map(String::as_str), "directory reader", "directory_readers")
    }
}

fn known_name<'a>(
    at: &Cursor<'_, '_>,
    names: impl Iterator<Item = &'a str> + Clone,
    what: &str,
    section: &str,
) -> Option<String> {
    let text = at.text()?;
    if names.clone().any(|n| n == text) {
        return Some(text);
    }
    let meant = nearest(&text, names)
        .map(|n| format!("; did you mean {n}?"))
        .unwrap_or_else(|| format!("; define it under {section}"));
    at.problem(format!("unknown {what} {}{meant}", at.written()));
    None
}

fn groups(at: &Cursor<'_, '_>) -> GroupPolicy {
    let mut section = at.section();
    // More than a thousand groups are not counted, so more cannot be demanded.
    let minimum = section.or("minimum", 1, |at| at.integer(0, 1000));
    let group =
        |at: &Cursor<'_, '_>| at.non_empty().map(|t| parse_guid(&t).map_or(GroupRef::Name(t), GroupRef::Id));
    let required =
        section.get("required").map(|at| at.items().iter().filter_map(group).collect()).unwrap_or_default();
    section.finish();
    GroupPolicy { minimum, required }
}

/// A token that somebody else keeps. One that is not there yet is a customer who has not signed in yet; one that cannot be used is told
/// here, but does not keep the others from being probed.
fn token_file(at: &Cursor<'_, '_>) -> Option<PathBuf> {
    let path = at.path()?;
    match secret::read_refresh_token(&path) {
        Ok(_) => {}
        Err(SecretError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => at.warn(error.to_string()),
    }
    Some(path)
}

/// The checks that are asked for. Those that this version does not run are among them: their result is unknown, and nothing passes
/// without it.
fn checks(section: &mut Section<'_, '_>) -> Vec<Check> {
    let words: Vec<(&str, Check)> = Check::ALL.iter().map(|c| (c.label(), *c)).collect();
    let Some(at) = section.get("checks") else {
        return vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess];
    };
    let mut checks = Vec::new();
    for item in at.items() {
        let Some(check) = item.one_of(&words) else { continue };
        if checks.contains(&check) {
            item.problem("is listed twice");
            continue;
        }
        if matches!(check, Check::Provisioning | Check::Credential) {
            let mut named = item.clone();
            named.path = format!("{} ({})", at.path, check.label());
            named.not_implemented();
        }
        checks.push(check);
    }
    if at.items().is_empty() {
        at.problem("is empty; list at least one check, or remove the key for the default");
    }
    checks.sort();
    checks
}

fn labels(at: &Cursor<'_, '_>) -> BTreeMap<String, String> {
    let entry = |(name, at): (String, Cursor<'_, '_>)| {
        if !is_label_name(&name) {
            at.problem(
                "is not a Prometheus label name; use letters, digits and _, not beginning with a digit",
            );
            return None;
        }
        Some((name, at.text()?))
    };
    at.named().into_iter().filter_map(entry).collect()
}

/// Says when a required permission can never be seen with this set-up.
fn warn_about_evidence(at: &Cursor<'_, '_>, app: &App, reader: bool, checks: &[Check]) {
    if !checks.contains(&Check::Consent) {
        return;
    }
    let blind = |values: fn(&RequiredPermissions) -> &Vec<String>| {
        !reader && app.required.iter().any(|r| !values(r).is_empty())
    };
    if app.access == Access::Application && blind(|r| &r.delegated) {
        at.warn("delegated permissions of an app with access: application are seen by a directory_reader only; without one they are not checked");
    }
    if app.credential == Credential::None && blind(|r| &r.application) {
        at.warn("application permissions of a public client are seen by a directory_reader only; without one they are not checked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_for_signing_have_the_length_that_the_standard_asks_for() {
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
    fn link_templates_hold_what_a_link_may_hold() {
        for (text, good) in [
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
            assert_eq!(valid_template(text).is_ok(), good, "{text}");
        }
    }
}
