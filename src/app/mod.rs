//! Wiring: from a configuration to running parts. Only this module and the command line see both.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::Clock;
use crate::config::{
    App, Config, Email, Integration, MailAccount, MailTransport, ReauthenticationMode, SmtpLogin,
};
use crate::credential::ClientCredential;
use crate::domain::{Access, Cloud, ExternalSignIn, IntegrationRecord};
use crate::entra::{ClientOptions, Entra, HttpClient, admin_consent_url};
use crate::metrics::Families;
use crate::monitor::{ReaderClient, Target};
use crate::notify::{GraphSettings, MailBranding, MailTokens, Sender, SmtpSettings, Transport};
pub use crate::reauth::Terms;
use crate::reauth::{self, Links};
use crate::secret::Secret;
pub use crate::store::Rotated;
use crate::store::{self, Store};

mod commands;
mod components;
mod daemon;
mod descriptors;
mod lifecycle;
mod reauthentication;
mod reload;
mod services;
mod systemd;

pub use daemon::{Daemon, Front, Listeners, Running, web_security};
pub use lifecycle::{Addresses, run};

use descriptors::descriptors;

/// Entra and Graph as configured. With `families`, the requests are counted.
///
/// # Errors
/// Proxy or certificate file cannot be used.
pub fn entra(config: &Config, families: Option<Families>) -> anyhow::Result<Entra> {
    let options = ClientOptions {
        proxy_url: config.upstream.proxy_url.as_ref().map(Secret::expose),
        ca_file: config.upstream.ca_file.as_deref(),
        idle_connections: config.probe.concurrency,
    };
    let observer = Arc::new(move |endpoint: crate::entra::Endpoint, code: &str, duration| {
        if let Some(families) = &families {
            families.upstream(endpoint.label(), code, duration);
        }
    });
    let client = HttpClient::new(&options, observer).context("cannot set up the connection to Entra")?;
    Ok(Entra::new(client, config.cloud.clone(), Arc::new(config.reason_overrides.clone())))
}

/// Opens the configured database for a command, which may run at the same time as a daemon.
///
/// # Errors
/// It cannot be used; the text says what to do.
pub fn store(config: &Config) -> anyhow::Result<Store> {
    Ok(Store::open_for_command(&config.storage.path, &config.storage.encryption_key_file)?)
}

/// Copies the configured database, which a daemon may be using.
///
/// # Errors
/// It cannot be read, or the file exists already or cannot be written.
pub fn backup(config: &Config, copy: &Path) -> anyhow::Result<()> {
    Ok(store::backup(&config.storage.path, copy)?)
}

/// Like [`backup`], written to a stream.
///
/// # Errors
/// The database cannot be read, there is no space for a copy in its folder, or the stream cannot be written.
pub fn write_backup(config: &Config, stream: &mut impl std::io::Write) -> anyhow::Result<()> {
    Ok(store::write_backup(&config.storage.path, stream)?)
}

/// Encrypts everything in the configured database with a new key.
///
/// # Errors
/// A daemon or a command has the database open, or database or key cannot be used; then the old key stays valid.
pub fn rotate_key(config: &Config) -> anyhow::Result<Rotated> {
    Ok(store::rotate_key(&config.storage.path, &config.storage.encryption_key_file)?)
}

/// The maker of re-authentication links, where a public URL is configured.
pub fn links(config: &Config, store: &Store) -> Option<Links> {
    let url = config.reauthentication.public_url.as_deref()?;
    Some(Links::new(
        store.key().derive("consentry reauthentication link v1"),
        url,
        config.reauthentication.link_ttl,
    ))
}

/// The integrations for the prober, in the order of the configuration, including disabled ones.
pub fn targets(config: &Config) -> Vec<Target> {
    let credentials: HashMap<&str, Arc<ClientCredential>> =
        config.apps.iter().map(|(name, app)| (name.as_str(), Arc::new(app.credential.clone()))).collect();
    let readers: HashMap<&str, Arc<ReaderClient>> = config
        .readers
        .iter()
        .map(|(name, r)| {
            (
                name.as_str(),
                Arc::new(ReaderClient {
                    name: name.clone(),
                    client_id: r.client_id.clone(),
                    credential: r.credential.clone(),
                }),
            )
        })
        .collect();
    let names: HashMap<&str, Arc<str>> =
        config.apps.keys().map(|name| (name.as_str(), name.as_str().into())).collect();
    let target = |i: &Integration| {
        let app = config.apps.get(&i.app)?;
        Some(Target {
            name: i.name.clone(),
            app: names.get(i.app.as_str()).cloned()?,
            tenant: i.tenant.clone(),
            client_id: app.client_id.clone(),
            credential: credentials.get(i.app.as_str()).cloned()?,
            reader: i.reader.as_deref().and_then(|r| readers.get(r).cloned()),
            refresh_token_file: i.refresh_token_file.clone(),
            requirements: i.requirements.clone(),
            home_tenant: app.home_tenant.as_deref().map(Arc::from),
        })
    };
    config.integrations.iter().filter_map(target).collect()
}

/// The redirect URI, where a public URL is configured.
pub fn redirect_uri(config: &Config) -> Option<String> {
    config.reauthentication.public_url.as_deref().map(reauth::redirect_uri)
}

/// The URL of Entra's page on which an administrator accepts all permissions of a registration. It has no state, so it belongs to no sign-in.
pub fn admin_consent(config: &Config, tenant: &str, client_id: &str) -> String {
    admin_consent_url(&config.cloud, tenant, client_id, redirect_uri(config).as_deref(), None)
}

/// Where an integration is re-authenticated, where not on Consentry's own pages.
fn external_sign_in(config: &Config, app: &App, integration: &Integration) -> Option<ExternalSignIn> {
    match &app.reauthentication {
        ReauthenticationMode::Builtin => None,
        ReauthenticationMode::AdminConsent => {
            Some(ExternalSignIn::AdminConsent(admin_consent(config, &integration.tenant, &app.client_id)))
        }
        ReauthenticationMode::Url(template) => {
            let encode = |text: &str| {
                url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
            };
            let values = [
                ("{tenant_id}", &integration.tenant),
                ("{client_id}", &app.client_id),
                ("{name}", &integration.name),
                ("{app}", &app.name),
            ];
            let url = values
                .iter()
                .fold(template.clone(), |url, (placeholder, value)| url.replace(placeholder, &encode(value)));
            Some(ExternalSignIn::Vendor(url))
        }
    }
}

/// Texts that all integrations of an application share.
struct SharedTexts {
    app: Arc<str>,
    client_id: Arc<str>,
    display_name: Arc<str>,
    permissions: Arc<[String]>,
}

fn shared_texts(app: &App) -> SharedTexts {
    let values = |r: &crate::domain::RequiredPermissions| match app.access {
        Access::Delegated => r.delegated.clone(),
        Access::Application => [r.delegated.clone(), r.application.clone()].concat(),
    };
    SharedTexts {
        app: app.name.as_str().into(),
        client_id: app.client_id.as_str().into(),
        display_name: app.display_name.as_str().into(),
        permissions: app.required.iter().flat_map(values).collect(),
    }
}

fn record(
    config: &Config,
    texts: &HashMap<&str, SharedTexts>,
    integration: &Integration,
) -> Option<IntegrationRecord> {
    let (app, texts) = (config.apps.get(&integration.app)?, texts.get(integration.app.as_str())?);
    // A sign-in by a person does not ask for application permissions.
    let two_pages = app.access == Access::Delegated && app.required.iter().any(|r| !r.application.is_empty());
    Some(IntegrationRecord {
        name: integration.name.clone(),
        display_name: integration.display_name.clone(),
        app: Arc::clone(&texts.app),
        app_display_name: Arc::clone(&texts.display_name),
        client_id: Arc::clone(&texts.client_id),
        tenant: integration.tenant.clone(),
        access: app.access,
        reader: integration.reader.as_deref().map(Into::into),
        labels: integration.labels.clone(),
        checks: integration.requirements.checks.clone(),
        admins: integration.admins.clone(),
        notify: integration
            .notify
            .or(app.notify)
            .or(config.email.as_ref().map(|email| email.notify))
            .unwrap_or_default(),
        permissions: Arc::clone(&texts.permissions),
        external_sign_in: external_sign_in(config, app, integration),
        admin_consent: two_pages.then(|| admin_consent(config, &integration.tenant, &app.client_id)),
    })
}

/// How mails are sent. `entra` gets the access tokens of an account without a password.
pub fn transport(email: &Email, entra: &Entra, clock: &Clock) -> Transport {
    let sender = Sender { from: email.from.clone(), reply_to: email.reply_to.clone() };
    let tokens =
        |account: &MailAccount, scope| MailTokens::new(entra.clone(), account.clone(), scope, clock.clone());
    match &email.transport {
        MailTransport::Smtp(server) => {
            let tokens = match &server.login {
                Some(SmtpLogin::OAuth2(_, account)) => Some(tokens(account, entra.cloud().smtp_scope())),
                _ => None,
            };
            Transport::Smtp(Box::new(SmtpSettings { sender, server: server.clone(), tokens }))
        }
        MailTransport::Graph(graph) => Transport::Graph(Box::new(GraphSettings {
            sender,
            mailbox: graph.mailbox.clone(),
            tokens: tokens(&graph.account, entra.graph_scope()),
        })),
    }
}

/// What all mails share. `status_page` is the URL of the status page.
pub fn branding(email: &Email, cloud: &Cloud, status_page: Option<String>) -> MailBranding {
    MailBranding {
        cloud: cloud.clone(),
        status_page,
        domain: email.from.email.domain().to_owned(),
        support_contact: email.support_contact.clone(),
    }
}
