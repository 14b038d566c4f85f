//! `consentry check-config --online`: checks the services that the configuration names. It resolves every tenant, tries every credential and
//! connects to the mail server. For every failure it prints what was expected, what was seen, and what to change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::output::{count, say};
use crate::app;
use crate::clock::Clock;
use crate::config::{Config, Integration, MailTransport};
use crate::credential::ClientCredential;
use crate::domain::{Fault, Reason};
use crate::entra::{Client, Entra};
use crate::monitor::Target;
use crate::notify::test_transport;

/// The number of tenants that are resolved at the same time.
const AT_ONCE: usize = 16;

/// The time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of tenants in which a credential is tried, until one accepts or rejects it.
const TRIES: usize = 5;

/// A failed check.
struct Finding {
    about: String,
    expected: String,
    seen: String,
    change: String,
}

/// Checks everything that the configuration refers to. Returns the number of failures.
///
/// # Errors
/// The connection to Entra cannot be set up.
pub(super) async fn check(config: &Config) -> anyhow::Result<usize> {
    let entra = app::entra(config, None)?;
    let mut findings = tenants(config, &entra).await;
    findings.extend(credentials(config, &entra).await);
    findings.extend(mail(config, &entra).await);
    for finding in &findings {
        say(format_args!(
            "\n{}\n  expected  {}\n  seen      {}\n  change    {}",
            finding.about, finding.expected, finding.seen, finding.change
        ));
    }
    Ok(findings.len())
}

fn enabled(config: &Config) -> impl Iterator<Item = &Integration> {
    config.integrations.iter().filter(|i| i.enabled)
}

fn seen(fault: &Fault) -> String {
    let code = fault.code.as_deref().map(|c| format!(" ({c})")).unwrap_or_default();
    format!("{}{code}", fault.detail)
}

/// Resolves every tenant once, by its OpenID configuration, which needs no credential.
async fn tenants(config: &Config, entra: &Entra) -> Vec<Finding> {
    let mut users: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for integration in enabled(config) {
        users.entry(integration.tenant.clone()).or_default().push(&integration.name);
    }
    let (permits, mut requests) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for tenant in users.keys().cloned() {
        let (entra, permits) = (entra.clone(), Arc::clone(&permits));
        requests.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let resolved = entra.tenant_guid(&tenant, Instant::now() + REQUEST_TIMEOUT).await;
            (tenant, resolved)
        });
    }
    let mut findings = BTreeMap::new();
    while let Some(Ok((tenant, resolved))) = requests.join_next().await {
        let Err(fault) = resolved else { continue };
        let names = users.get(&tenant).map(|n| n.join(", ")).unwrap_or_default();
        let change = match fault.reason {
            Reason::TenantMissing => {
                "tenant_id: the GUID or a verified domain of the customer's tenant; or cloud, when it is a national one".to_owned()
            }
            reason => reason.advice().to_owned(),
        };
        let finding = Finding {
            about: format!("tenant {tenant} (of {names})"),
            expected: format!("an OpenID configuration at {}/{tenant}/v2.0", config.cloud.login_url),
            seen: seen(&fault),
            change,
        };
        findings.insert(tenant, finding);
    }
    say(format_args!("  tenants       {} of {} found", users.len() - findings.len(), users.len()));
    findings.into_values().collect()
}

/// The result of trying a credential.
enum Tried {
    Accepted(String),
    Refused(Finding),
    /// No tenant accepted or rejected it.
    Untried(String),
}

/// Tries every credential in a tenant where it is used.
async fn credentials(config: &Config, entra: &Entra) -> Vec<Finding> {
    let targets = app::targets(config);
    let used: Vec<&Target> = targets.iter().filter(|t| enabled(config).any(|i| i.name == t.name)).collect();
    let mut findings = Vec::new();
    for (name, app) in &config.apps {
        let mine: Vec<&Target> = used.iter().copied().filter(|t| *t.app == **name).collect();
        let Some(first) = mine.first() else { continue };
        if matches!(*first.credential, ClientCredential::None) {
            say(format_args!("  app {name}: a public client, no credential to try"));
            continue;
        }
        let tenants = mine.iter().map(|t| t.tenant.as_str());
        findings.extend(report(
            &format!("app {name}"),
            attempt(entra, &app.client_id, &first.credential, tenants).await,
        ));
    }
    for name in config.readers.keys() {
        let mine: Vec<&Target> =
            used.iter().copied().filter(|t| t.reader.as_ref().is_some_and(|r| r.name == *name)).collect();
        let Some(reader) = mine.first().and_then(|t| t.reader.clone()) else { continue };
        let tenants = mine.iter().map(|t| t.tenant.as_str());
        findings.extend(report(
            &format!("directory reader {name}"),
            attempt(entra, &reader.client_id, &reader.credential, tenants).await,
        ));
    }
    findings
}

fn report(who: &str, tried: Tried) -> Option<Finding> {
    match tried {
        Tried::Accepted(tenant) => say(format_args!("  credential    {who}: accepted in {tenant}")),
        Tried::Untried(why) => {
            return Some(Finding {
                about: format!("credential of {who}"),
                expected: "a token in one of the tenants where it is used".to_owned(),
                seen: format!("it could not be tried: {why}"),
                change: "what the error names: the tenant's consent, the network, the proxy or the cloud"
                    .to_owned(),
            });
        }
        Tried::Refused(finding) => return Some(Finding { about: format!("credential of {who}"), ..finding }),
    }
    None
}

async fn attempt(
    entra: &Entra,
    client_id: &str,
    credential: &ClientCredential,
    tenants: impl Iterator<Item = &str>,
) -> Tried {
    let mut untried = String::new();
    for tenant in tenants.take(TRIES) {
        let client = Client {
            tenant,
            client_id,
            credential,
            now_seconds: Clock::system().now().0 / 1000,
            deadline: Instant::now() + REQUEST_TIMEOUT,
        };
        let Err(fault) = entra.client_credentials(client, &entra.graph_scope()).await else {
            return Tried::Accepted(tenant.to_owned());
        };
        if fault.reason.is_our_side() || fault.reason == Reason::CredentialUnreadable {
            return Tried::Refused(Finding {
                about: String::new(),
                expected: format!("a token for {client_id} in {tenant}"),
                seen: seen(&fault),
                change: fault.reason.advice().to_owned(),
            });
        }
        // A fault of the tenant or the network says nothing about the credential.
        untried = format!("{tenant}: {}", seen(&fault));
    }
    Tried::Untried(untried)
}

/// The mail transport, as far as it can be tried without a mail.
async fn mail(config: &Config, entra: &Entra) -> Option<Finding> {
    let email = config.email.as_ref()?;
    let transport = app::transport(email, entra, &Clock::system());
    let tried = test_transport(&transport).await;
    let name = transport.name();
    let Err(failure) = tried.outcome else {
        let what = match &email.transport {
            MailTransport::Graph(_) => {
                "its account gets a token; whether it may send shows only consentry test-email ADDRESS"
            }
            MailTransport::Smtp(smtp) if smtp.login.is_some() => "accepts the connection and the login",
            MailTransport::Smtp(_) => "accepts the connection",
        };
        say(format_args!("  mail          {name} {what}"));
        return None;
    };
    let dialogue = tried.dialogue.iter().map(|line| format!("\n            {line}")).collect::<String>();
    let (about, expected, change) = match &email.transport {
        MailTransport::Graph(_) => (
            "mail through",
            "an access token for Microsoft Graph with the account under email.graph",
            "tenant_id, client_id or credential under email.graph, whichever the error names",
        ),
        MailTransport::Smtp(_) => (
            "mail server",
            "a greeting, TLS and login as configured under email.smtp",
            "host, port, tls, tls_config, username, password or oauth2 under email.smtp, whichever the dialogue names",
        ),
    };
    Some(Finding {
        about: format!("{about} {name}"),
        expected: expected.to_owned(),
        seen: format!("{}{dialogue}", failure.label()),
        change: change.to_owned(),
    })
}

/// The last line.
pub(super) fn verdict(wrong: usize) -> String {
    if wrong == 0 {
        "every service works as configured".to_owned()
    } else {
        format!("{} found online", count(wrong, "problem"))
    }
}
