//! Integrations, from the main file and from `integration_files`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apps::{Known, tenant};
use super::cursor::{Cursor, Section};
use super::fields::{mail_address, notify};
use super::problem::Diagnostics;
use super::values::{is_label_name, is_name, nearest, parse_guid};
use super::{App, Integration, Reader, ReauthenticationMode, read_tree};
use crate::credential::ClientCredential;
use crate::domain::{Access, Check, GroupPolicy, GroupRef, RequiredPermissions, Requirements};
use crate::secret::{self, SecretError};

/// How long before the end of a credential operators are warned, unless the configuration says otherwise.
const CREDENTIAL_WARNING: Duration = Duration::from_secs(30 * 86_400);

/// Collects the integrations of all files.
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

    /// Reads more lists from the files that match the patterns. Returns the patterns.
    pub(super) fn read_files(&mut self, at: &Cursor<'_, '_>, findings: &Diagnostics<'_>) -> Vec<String> {
        let mut patterns = Vec::new();
        for item in at.items() {
            let Some(pattern) = item.path() else { continue };
            let pattern = pattern.to_string_lossy().into_owned();
            match findings.list(&pattern) {
                Ok(listing) => {
                    for (folder, error) in &listing.unreadable {
                        item.warn(format!("cannot read the folder {}: {error}", folder.display()));
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

    /// The integrations, sorted by name.
    pub(super) fn finish(mut self) -> Vec<Integration> {
        self.found.sort_by(|a, b| a.name.cmp(&b.name));
        self.found
    }

    fn one(&mut self, at: &Cursor<'_, '_>) -> Option<Integration> {
        let mut section = at.section();
        let name = section.required("name").and_then(|at| self.name(&at));
        let display_name = section.get("display_name").and_then(|at| at.non_empty());
        let app = section.required("app").and_then(|at| self.known_app(&at));
        let tenant = section.required("tenant_id").and_then(|at| tenant(&at));
        let reader = section.get("directory_reader").and_then(|at| self.known_reader(&at));
        let admins: Vec<String> = section
            .get("admins")
            .map(|at| at.items().iter().filter_map(mail_address).collect())
            .unwrap_or_default();
        let notify = section.get("notify").and_then(|at| notify(&at));
        if admins.is_empty() {
            at.warn("admins is empty: the operators get the link instead");
        }
        let refresh_token_file = section.get("refresh_token_file").and_then(|at| token_file(&at));
        let groups =
            section.get("groups").map_or(GroupPolicy { minimum: 1, required: Vec::new() }, |at| groups(&at));
        let checks = checks(&mut section);
        let credential_warning =
            section.or("credential_expiry_warning", CREDENTIAL_WARNING, Cursor::duration_or_zero);
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
            at.warn("a renewed refresh token is delivered to nobody, because Consentry never writes refresh_token_file; add token_webhook to the app, or reauthentication: {url: ...}");
        }
        let requirements = Requirements {
            access: known.access,
            checks,
            required: known.required.clone(),
            unexpected_fails: known.unexpected_fails,
            groups,
            credential_warning,
        };
        let display_name = display_name.unwrap_or_else(|| name.clone());
        Some(Integration {
            name,
            display_name,
            app,
            tenant: tenant?,
            reader,
            admins,
            notify,
            refresh_token_file,
            labels,
            enabled,
            requirements,
        })
    }

    /// A name that is its own in all files.
    fn name(&mut self, at: &Cursor<'_, '_>) -> Option<String> {
        let name = at.parsed(
            "is not a name; use lower-case letters, digits, _ . and -, beginning with a letter or digit",
            |t| is_name(t).then(|| t.to_owned()),
        )?;
        if name == "callback" {
            at.problem("callback is reserved for the path /reauth/callback; choose another name");
        }
        self.claim(&name, at);
        Some(name)
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
    // Consentry counts at most a thousand groups, so more cannot be required.
    let minimum = section.or("minimum", 1, |at| at.integer(0, 1000));
    let group =
        |at: &Cursor<'_, '_>| at.non_empty().map(|t| parse_guid(&t).map_or(GroupRef::Name(t), GroupRef::Id));
    let required =
        section.get("required").map(|at| at.items().iter().filter_map(group).collect()).unwrap_or_default();
    section.finish();
    GroupPolicy { minimum, required }
}

/// The file of a token that another program maintains. A missing file means that the customer has not signed in yet. An unusable one is
/// only a warning, so that the other integrations are still probed.
fn token_file(at: &Cursor<'_, '_>) -> Option<PathBuf> {
    let path = at.path()?;
    match secret::read_refresh_token(&path) {
        Ok(_) => {}
        Err(SecretError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => at.warn(error.to_string()),
    }
    Some(path)
}

/// The configured checks.
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

/// Warns when a required permission can never be verified with this configuration.
fn warn_about_evidence(at: &Cursor<'_, '_>, app: &App, reader: bool, checks: &[Check]) {
    let public = app.credential == ClientCredential::None;
    if checks.contains(&Check::Provisioning) && !reader {
        at.warn(if public {
            "the check provisioning needs a directory_reader with Synchronization.Read.All; without one its result is unknown"
        } else {
            "the check provisioning without a directory_reader works only if the app itself holds the application permission Synchronization.Read.All"
        });
    }
    if checks.contains(&Check::Credential) && public && !reader {
        at.warn("the check credential of a public client needs a directory_reader; without one its result is unknown");
    }
    if checks.contains(&Check::Credential) && app.home_tenant.is_none() {
        at.warn("the check credential reads the app registration only if it is in the integration's own tenant; set home_tenant_id of the app if it is in another one");
    }
    if !checks.contains(&Check::Consent) {
        return;
    }
    let blind = |values: fn(&RequiredPermissions) -> &Vec<String>| {
        !reader && app.required.iter().any(|r| !values(r).is_empty())
    };
    if app.access == Access::Application && blind(|r| &r.delegated) {
        at.warn("delegated permissions of an app with access: application can be read only by a directory_reader; without one they are not checked");
    }
    if public && blind(|r| &r.application) {
        at.warn("application permissions of a public client can be read only by a directory_reader; without one they are not checked");
    }
}
