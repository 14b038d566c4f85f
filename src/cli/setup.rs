//! `consentry setup`: prints what has to be registered and granted once, as text and as a script for Azure CLI.
//!
//! The text is written as comments above the script, so that the whole output is a script.

use std::fmt::Write as _;

use anyhow::Context as _;

use crate::app;
use crate::config::{App, Config, Integration, Reader, ReauthenticationMode, Reauthenticators};
use crate::credential::ClientCredential;
use crate::domain::{
    Access, Check, Cloud, GRAPH_APP_ID, OPENID_SCOPES, RequiredPermissions, SIGN_IN_SCOPES,
    permission_purpose, same_permission,
};

use clap::Args;

use super::arguments::Configured;
use super::output::{integration, loaded, say};
use super::setup_mail;

#[derive(Debug, Args)]
pub(super) struct Setup {
    /// Name of the integration.
    #[arg(required_unless_present = "mail")]
    name: Option<String>,
    /// The mail account without a password, instead of an integration.
    #[arg(long, conflicts_with = "name")]
    mail: bool,
    /// The text as comments above the script, or the text alone.
    #[arg(long, value_enum, default_value = "script")]
    output: Output,
    #[command(flatten)]
    config: Configured,
}

pub(super) fn run(setup: &Setup) -> anyhow::Result<u8> {
    let config = loaded(&setup.config.file)?.config;
    let text = match &setup.name {
        Some(name) => render(&config, integration(&config, name)?, setup.output)?,
        None => setup_mail::render(&config),
    };
    say(text.trim_end());
    Ok(0)
}

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// A script with the text in its comments.
    Script,
    /// The text alone.
    Text,
}

/// The data of the text and the script.
struct Plan<'c> {
    integration: &'c Integration,
    app: &'c App,
    reader: Option<(&'c str, &'c Reader)>,
    redirect_uri: Option<String>,
    reader_redirect_uri: Option<String>,
    required: Vec<RequiredPermissions>,
    reader_permissions: Vec<&'static str>,
    app_link: String,
    reader_link: Option<String>,
    /// For the reader, in the tenant where the application is registered.
    home_link: Option<String>,
    cloud: &'c Cloud,
}

/// Renders the text or the script for an integration.
fn render(config: &Config, integration: &Integration, output: Output) -> anyhow::Result<String> {
    let app = config.apps.get(&integration.app).context("the integration has no application")?;
    let reader = integration.reader.as_deref().and_then(|name| Some((name, config.readers.get(name)?)));
    let builtin = app.reauthentication == ReauthenticationMode::Builtin;
    let redirect_uri =
        app::redirect_uri(config).filter(|_| !matches!(app.reauthentication, ReauthenticationMode::Url(_)));
    let plan = Plan {
        integration,
        app,
        reader,
        redirect_uri,
        reader_redirect_uri: app::redirect_uri(config),
        required: required(app, builtin),
        reader_permissions: reader_permissions(integration),
        app_link: app::admin_consent(config, &integration.tenant, &app.client_id),
        reader_link: reader
            .map(|(_, reader)| app::admin_consent(config, &integration.tenant, &reader.client_id)),
        home_link: home_link(config, integration, app, reader),
        cloud: &config.cloud,
    };
    let text = text(&plan);
    match output {
        Output::Text => Ok(text),
        Output::Script => Ok(script(&plan, &text)),
    }
}

/// A reader that reads registrations in another tenant has to be accepted there, too.
fn home_link(
    config: &Config,
    integration: &Integration,
    app: &App,
    reader: Option<(&str, &Reader)>,
) -> Option<String> {
    let wanted = checks(integration).any(|check| check == Check::Credential);
    let home = app.home_tenant.as_deref().filter(|home| wanted && *home != integration.tenant)?;
    Some(app::admin_consent(config, home, &reader?.1.client_id))
}

fn checks(integration: &Integration) -> impl Iterator<Item = Check> {
    integration.requirements.checks.iter().copied()
}

/// The permissions of the registration: a sign-in needs the scopes of OpenID Connect besides the configured ones.
fn required(app: &App, builtin: bool) -> Vec<RequiredPermissions> {
    let mut required = app.required.to_vec();
    if app.access == Access::Delegated && builtin {
        let graph = required.iter().position(|r| r.resource == "microsoft_graph").unwrap_or_else(|| {
            let resource = "microsoft_graph".to_owned();
            required.push(RequiredPermissions { resource, delegated: Vec::new(), application: Vec::new() });
            required.len() - 1
        });
        for scope in SIGN_IN_SCOPES {
            if !required[graph].delegated.iter().any(|d| same_permission(d, scope)) {
                required[graph].delegated.push(scope.to_owned());
            }
        }
    }
    required
}

/// The least permissions that a directory reader needs for the enabled checks (Microsoft Graph, `oauth2permissiongrant-list.md`,
/// `serviceprincipal-get.md`, `synchronization-synchronizationjob-get.md`).
fn reader_permissions(integration: &Integration) -> Vec<&'static str> {
    let mut permissions = Vec::new();
    let enabled: Vec<Check> = checks(integration).collect();
    if enabled.contains(&Check::Consent) {
        permissions.push("Directory.Read.All");
    } else if !enabled.iter().all(|check| *check == Check::GroupAccess) {
        // The jobs are found through the service principal.
        permissions.push("Application.Read.All");
    }
    if enabled.contains(&Check::Provisioning) {
        permissions.push("Synchronization.Read.All");
    }
    permissions
}

/// The least permission for a check, and which application needs it.
fn least(check: Check, plan: &Plan<'_>) -> String {
    let reader = plan.reader.is_some();
    let own = match plan.app.access {
        Access::Delegated => "delegated",
        Access::Application => "application",
    };
    match check {
        Check::EnterpriseApp if reader => {
            "reader: Application.Read.All (Directory.Read.All includes it)".to_owned()
        }
        Check::Consent if reader => {
            "reader: Directory.Read.All, the least that may read delegated grants".to_owned()
        }
        Check::EnterpriseApp | Check::Consent => {
            "nothing: the integration's own tokens are the evidence".to_owned()
        }
        Check::GroupAccess => {
            const ENOUGH: [&str; 5] = [
                "GroupMember.Read.All",
                "Group.Read.All",
                "Group.ReadBasic.All",
                "Directory.Read.All",
                "Group.ReadWrite.All",
            ];
            let values = plan.app.required.iter().flat_map(|r| {
                if plan.app.access == Access::Delegated { &r.delegated } else { &r.application }
            });
            match values.into_iter().find(|v| ENOUGH.iter().any(|e| same_permission(e, v))) {
                Some(has) => {
                    format!("the integration itself, {own}: {has} (GroupMember.Read.All is the least)")
                }
                None => format!(
                    "the integration itself, {own}: GroupMember.Read.All. None of its required_permissions lets it list groups; add it there"
                ),
            }
        }
        Check::Provisioning if reader => "reader: Synchronization.Read.All".to_owned(),
        Check::Provisioning => {
            "the application itself, application permission: Synchronization.Read.All; a directory reader is the better way".to_owned()
        }
        Check::Credential if plan.app.credential == ClientCredential::None => {
            "reader, also in the tenant where the application is registered: Application.Read.All".to_owned()
        }
        Check::Credential if reader => "nothing for the registration, which an app reads itself; reader, for SAML certificates: Application.Read.All".to_owned(),
        Check::Credential => "nothing: an app reads its own registration and its own enterprise application".to_owned(),
    }
}

fn text(plan: &Plan<'_>) -> String {
    let (integration, app) = (plan.integration, plan.app);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "What has to be registered and granted, once, for the integration {} ({}):",
        integration.name,
        plain(&integration.display_name)
    );
    let _ =
        writeln!(out, "the application {} in the tenant {}.\n", plain(&app.display_name), integration.tenant);
    application_text(&mut out, plan);
    out.push_str("\n2. What each enabled check needs at least\n");
    for check in checks(integration) {
        let _ = writeln!(out, "   {:<15} {}", check.label(), least(check, plan));
    }
    reader_text(&mut out, plan);
    consent_text(&mut out, plan);
    out
}

fn application_text(out: &mut String, plan: &Plan<'_>) {
    let app = plan.app;
    let id = &app.client_id;
    let _ = writeln!(out, "1. The application, in the tenant where it is registered (client id {id})");
    match &plan.redirect_uri {
        Some(uri) => {
            let _ = writeln!(out, "   Redirect URI: {uri}");
            let _ = writeln!(
                out,
                "   Its platform must be Web, never SPA: refresh tokens of SPA redirect URIs expire after 24 hours."
            );
        }
        None => out.push_str(
            "   Redirect URI: none of ours; re-authentication does not lead back to Consentry's own pages.\n",
        ),
    }
    for required in &plan.required {
        for (kind, values) in [("delegated", &required.delegated), ("application", &required.application)] {
            for value in values {
                let (resource, purpose) = (plain(&required.resource), permission_purpose(value));
                let _ = writeln!(out, "   Permission: {resource} {kind} {value}: {purpose}");
            }
        }
    }
    if app.access == Access::Delegated && app.reauthentication == ReauthenticationMode::Builtin {
        out.push_str(claims(app.reauthenticators));
    }
    out.push_str(&federated_text(&app.credential, plan.cloud));
}

/// What the registration must trust, where another identity signs in for the application (Microsoft,
/// `workload-identity-federation-create-trust.md`).
fn federated_text(credential: &ClientCredential, cloud: &Cloud) -> String {
    let otherwise = match credential {
        ClientCredential::FederatedToken(_) => (
            "the claim iss of the token; for Kubernetes, the issuer URL of the cluster".to_owned(),
            "the claim sub of the token; for Kubernetes, system:serviceaccount:NAMESPACE:NAME".to_owned(),
        ),
        ClientCredential::ManagedIdentity(_) => (
            cloud.identity_issuer("TENANT-OF-THE-IDENTITY"),
            "the object (principal) id of the managed identity".to_owned(),
        ),
        _ => return String::new(),
    };
    let (issuer, subject) = credential.issuer_and_subject().unwrap_or(otherwise);
    format!(
        "   Federated identity credential (Certificates & secrets > Federated credentials), by which it trusts the {}:\n     issuer: {}\n     subject: {}\n     audience: {}\n",
        credential.kind(),
        plain(&issuer),
        plain(&subject),
        cloud.assertion_audience()
    )
}

fn reader_text(out: &mut String, plan: &Plan<'_>) {
    let Some((name, reader)) = plan.reader else {
        out.push_str("\n3. No directory reader: the integration's own tokens give the evidence.\n");
        return;
    };
    let id = &reader.client_id;
    let _ = writeln!(
        out,
        "\n3. The directory reader {name} (client id {id}), in the tenant where it is registered"
    );
    if let Some(uri) = &plan.reader_redirect_uri {
        let _ = writeln!(
            out,
            "   Redirect URI: {uri} (platform Web; Microsoft's consent page needs one to return to)"
        );
    }
    for value in &plan.reader_permissions {
        let purpose = permission_purpose(value);
        let _ = writeln!(out, "   Permission: microsoft_graph application {value}: {purpose}");
    }
    out.push_str(&federated_text(&reader.credential, plan.cloud));
}

fn consent_text(out: &mut String, plan: &Plan<'_>) {
    let integration = plan.integration;
    let _ = writeln!(out, "\n4. An administrator of {} opens and accepts, once", integration.tenant);
    let _ = writeln!(out, "   {}", plan.app_link);
    if let Some(link) = &plan.reader_link {
        let _ = writeln!(out, "   {link}");
    }
    if let Some(link) = &plan.home_link {
        let _ = writeln!(
            out,
            "   and one of the tenant where the application is registered, so that the reader sees its registration:\n   {link}"
        );
    }
    if plan.app.access == Access::Delegated {
        let link = format!("consentry reauth-link {}", integration.name);
        let token = format!("consentry import-token {}", integration.name);
        let how = if plan.redirect_uri.is_some() {
            format!("open the link of `{link}`, or use `{token}`")
        } else {
            format!("use `{token}`")
        };
        let _ = writeln!(out, "   Then the first sign-in: {how}.");
    }
}

/// The claims that identify guests and administrators where Graph does not permit the request (Microsoft, `optional-claims-reference.md` for
/// `acct`, `reference-microsoft-graph-app-manifest.md` for `groupMembershipClaims`, which adds `wids`).
const fn claims(reauthenticators: Reauthenticators) -> &'static str {
    match reauthenticators {
        Reauthenticators::Members => {
            "   Optional claims (Token configuration), so that guests are recognized where User.Read is not granted: acct in the ID token.\n   \
             And wids, so that administrators are recognized: in the manifest, groupMembershipClaims: DirectoryRole.\n"
        }
        Reauthenticators::Admins => {
            "   Optional claims (Token configuration): acct in the ID token, so that guests are recognized.\n   \
             And wids, without which no sign-in is accepted unless User.Read is granted (reauthenticators: admins): in the manifest,\n   \
             groupMembershipClaims: DirectoryRole.\n"
        }
    }
}

fn script(plan: &Plan<'_>, text: &str) -> String {
    let mut out = "#!/usr/bin/env bash\n".to_owned();
    for line in text.trim_end().lines() {
        let _ = writeln!(out, "# {line}");
    }
    out = out.replace("# \n", "#\n");
    if let Some(name) = plan.cloud.azure_cli().filter(|name| *name != "AzureCloud") {
        let _ = writeln!(out, "#\n# For this cloud, run `az cloud set --name {name}` before `az login`.");
    }
    out.push_str(FUNCTIONS);
    let _ = writeln!(out, "\napp={}", quoted(&plan.app.client_id));
    if let Some(uri) = &plan.redirect_uri {
        let _ = writeln!(out, "add_redirect_uri \"$app\" {}", quoted(uri));
    }
    for required in &plan.required {
        let resource = if required.resource == "microsoft_graph" { GRAPH_APP_ID } else { &required.resource };
        for (kind, values) in [("Scope", &required.delegated), ("Role", &required.application)] {
            for value in values {
                // Only Microsoft Graph offers `email` and the other scopes of OpenID Connect.
                let openid = OPENID_SCOPES.iter().any(|o| same_permission(o, value));
                let resource = if openid { GRAPH_APP_ID } else { resource };
                let _ =
                    writeln!(out, "add_permission \"$app\" {} {} {kind}", quoted(resource), quoted(value));
            }
        }
    }
    if let Some((_, reader)) = plan.reader {
        let _ = writeln!(out, "\nreader={}", quoted(&reader.client_id));
        if let Some(uri) = &plan.reader_redirect_uri {
            let _ = writeln!(out, "add_redirect_uri \"$reader\" {}", quoted(uri));
        }
        for value in &plan.reader_permissions {
            let _ =
                writeln!(out, "add_permission \"$reader\" {} {} Role", quoted(GRAPH_APP_ID), quoted(value));
        }
    }
    let _ = writeln!(
        out,
        "\necho {}",
        quoted(&format!("Now an administrator of {} opens and accepts, once:", plan.integration.tenant))
    );
    for link in std::iter::once(&plan.app_link).chain(&plan.reader_link).chain(&plan.home_link) {
        let _ = writeln!(out, "echo {}", quoted(link));
    }
    out
}

const FUNCTIONS: &str = r#"
# Sign in with `az login` to the tenant where the application is registered, then run this. It adds what is missing and removes nothing.
set -euo pipefail

# Adds a redirect URI of platform Web, keeping the others.
add_redirect_uri() {
  local app=$1 uri=$2 known all=()
  known=$(az ad app show --id "$app" --query 'web.redirectUris' --output tsv)
  while IFS= read -r line; do
    if [ "$line" = "$uri" ]; then
      echo "$app: the redirect URI is registered already"
      return
    fi
    if [ -n "$line" ]; then all+=("$line"); fi
  done <<<"$known"
  all+=("$uri")
  az ad app update --id "$app" --web-redirect-uris "${all[@]}"
  echo "$app: redirect URI $uri added"
}

# Adds a permission by its name: Scope is delegated, Role is application.
add_permission() {
  local app=$1 name=$2 value=$3 kind=$4 list=oauth2PermissionScopes resource id known
  if [ "$kind" = Role ]; then list=appRoles; fi
  resource=$(az ad sp show --id "$name" --query appId --output tsv)
  id=$(az ad sp show --id "$name" --query "${list}[?value=='${value}'].id | [0]" --output tsv)
  if [ -z "$id" ]; then
    echo "$name offers no permission $value of kind $kind" >&2
    exit 1
  fi
  known=$(az ad app show --id "$app" --query "requiredResourceAccess[?resourceAppId=='${resource}'].resourceAccess[].id" --output tsv)
  if grep -Fxq "$id" <<<"$known"; then
    echo "$app: permission $value is registered already"
    return
  fi
  az ad app permission add --id "$app" --api "$resource" --api-permissions "$id=$kind" --only-show-errors
  echo "$app: permission $value added"
}
"#;

/// The text on one line, so that a name from the configuration cannot end a comment.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The text as one quoted word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_for_the_shell() {
        for (text, expected) in [("a b", "'a b'"), ("it's", "'it'\\''s'"), ("$(rm)", "'$(rm)'")] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(plain("a\nrm -rf b"), "a rm -rf b");
    }
}
