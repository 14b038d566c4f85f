//! The effective configuration: every default filled in, every secret hidden. The output is itself a valid configuration.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::values::hidden_path;
use super::{
    App, Config, Email, HIDDEN, Integration, MailAccount, MailTransport, ReauthenticationMode,
    Reauthenticators, Smtp, SmtpLogin, SmtpTls, format_duration,
};
use crate::credential::ClientCredential;
use crate::domain::{Check, GroupRef, RequiredPermissions};
use crate::secret::SecretSource;
use crate::urls::without_user;

/// The effective configuration as YAML.
pub fn effective(config: &Config) -> String {
    let probe = &config.probe;
    let value = json!({
        "cloud": {"login_url": config.cloud.login_url, "graph_url": config.cloud.graph_url},
        "upstream": without_nulls(json!({
            "proxy_url": config.upstream.proxy_url.as_ref().map(|url| without_keys(url.expose())),
            "tls_config": tls(config.upstream.ca_file.as_deref()),
        })),
        "probe": {
            "interval": format_duration(probe.interval),
            "timeout": format_duration(probe.timeout),
            "concurrency": probe.concurrency,
            "retry_interval": format_duration(probe.retry_interval),
            "failure_threshold": probe.failure_threshold,
            "success_threshold": probe.success_threshold,
        },
        "storage": {
            "url": format!("sqlite://{}", config.storage.path.display()),
            "encryption_key_file": config.storage.encryption_key_file,
        },
        "email": config.email.as_ref().map(email),
        "reauthentication": without_nulls(json!({
            "public_url": config.reauthentication.public_url,
            "link_ttl": format_duration(config.reauthentication.link_ttl),
            "listen_address": config.reauthentication.listen_address,
        })),
        "directory_readers": config.readers.iter().map(|(name, reader)| {
            (name.clone(), json!({"client_id": reader.client_id, "credential": credential(&reader.credential)}))
        }).collect::<Map<_, _>>(),
        "apps": config.apps.iter().map(|(name, a)| (name.clone(), app(a))).collect::<Map<_, _>>(),
        "integrations": config.integrations.iter().map(integration).collect::<Vec<_>>(),
        "reason_overrides": config.reason_overrides.iter()
            .map(|(code, reason)| (format!("AADSTS{code}"), json!(reason.label()))).collect::<Map<_, _>>(),
    });
    serde_yaml::to_string(&without_nulls(value)).unwrap_or_default()
}

/// A URL without user name, password and query, because each may contain a secret.
fn without_keys(url: &str) -> String {
    let Some(mut parsed) = url::Url::parse(url).ok().and_then(|url| without_user(&url)) else {
        return HIDDEN.to_owned();
    };
    if parsed.query().is_some() {
        parsed.set_query(Some(HIDDEN));
    }
    parsed.to_string()
}

/// Leaves out keys that are not set.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>().into(),
        other => other,
    }
}

fn tls(ca_file: Option<&Path>) -> Option<Value> {
    ca_file.map(|file| json!({"ca_file": file}))
}

/// A secret's file is named; an inline secret is hidden.
fn secret(section: &mut Map<String, Value>, key: &str, source: &SecretSource) {
    match source {
        SecretSource::Inline(_) => section.insert(key.to_owned(), json!(HIDDEN)),
        SecretSource::File(path) => section.insert(format!("{key}_file"), json!(path)),
    };
}

fn credential(credential: &ClientCredential) -> Value {
    match credential {
        ClientCredential::None => json!("none"),
        ClientCredential::Secret(source) => {
            let mut section = Map::new();
            secret(&mut section, "client_secret", source);
            section.into()
        }
        ClientCredential::Certificate(files) => {
            let mut section = Map::new();
            section.insert("certificate_file".to_owned(), json!(files.certificate_file));
            if let Some(key) = &files.private_key_file {
                section.insert("private_key_file".to_owned(), json!(key));
            }
            if let Some(password) = &files.password {
                secret(&mut section, "certificate_password", password);
            }
            section.into()
        }
        ClientCredential::FederatedToken(file) => json!({"federated_token_file": file}),
        ClientCredential::ManagedIdentity(client_id) => {
            json!({"managed_identity": without_nulls(json!({"client_id": client_id}))})
        }
    }
}

fn email(email: &Email) -> Value {
    without_nulls(json!({
        "from": email.from.to_string(),
        "reply_to": email.reply_to.as_ref().map(ToString::to_string),
        "operators": email.operators,
        "support_contact": email.support_contact,
        "smtp": match &email.transport {
            MailTransport::Smtp(server) => Some(smtp(server)),
            MailTransport::Graph(_) => None,
        },
        "graph": match &email.transport {
            MailTransport::Smtp(_) => None,
            MailTransport::Graph(graph) => {
                let mut section = account(&graph.account);
                section.insert("sender".to_owned(), json!(graph.mailbox));
                Some(section)
            }
        },
        "send_resolved": email.send_resolved,
        "notify": email.notify.label(),
        "brake": {
            "share": email.brake.share,
            "minimum": email.brake.minimum,
            "hold": format_duration(email.brake.hold),
        },
        "group_wait": format_duration(email.group_wait),
        "reminders": email.reminders.iter().map(|pause| format_duration(*pause)).collect::<Vec<_>>(),
    }))
}

fn smtp(smtp: &Smtp) -> Value {
    let tls_word = match smtp.tls {
        SmtpTls::Starttls => "starttls",
        SmtpTls::Implicit => "implicit",
        SmtpTls::None => "none",
    };
    let mut section = Map::new();
    section.insert("host".to_owned(), json!(smtp.host));
    section.insert("port".to_owned(), json!(smtp.port));
    section.insert("tls".to_owned(), json!(tls_word));
    section.extend(tls(smtp.ca_file.as_deref()).map(|tls| ("tls_config".to_owned(), tls)));
    section.extend(smtp.hello.as_ref().map(|name| ("hello".to_owned(), json!(name))));
    section.insert("connections".to_owned(), json!(smtp.connections));
    if let Some(login) = &smtp.login {
        section.insert("username".to_owned(), json!(login.username()));
    }
    match &smtp.login {
        Some(SmtpLogin::Password(_, password)) => secret(&mut section, "password", password),
        Some(SmtpLogin::OAuth2(_, registration)) => {
            let mut oauth2 = account(registration);
            if let Some(Value::Object(credential)) = oauth2.remove("credential") {
                oauth2.extend(credential);
            }
            section.insert("oauth2".to_owned(), oauth2.into());
        }
        None => {}
    }
    section.into()
}

fn account(account: &MailAccount) -> Map<String, Value> {
    Map::from_iter([
        ("tenant_id".to_owned(), json!(account.tenant)),
        ("client_id".to_owned(), json!(account.client_id)),
        ("credential".to_owned(), credential(&account.credential)),
    ])
}

fn app(app: &App) -> Value {
    let required = |r: &RequiredPermissions| json!({"resource": r.resource, "delegated": r.delegated, "application": r.application});
    let webhook = app.token_webhook.as_ref().map(|webhook| {
        let mut section = Map::from_iter([("url".to_owned(), json!(hidden_path(&webhook.url)))]);
        secret(&mut section, "secret", &webhook.secret);
        section
    });
    without_nulls(json!({
        "client_id": app.client_id,
        "home_tenant_id": app.home_tenant,
        "display_name": app.display_name,
        "access": app.access.label(),
        "credential": credential(&app.credential),
        "required_permissions": app.required.iter().map(required).collect::<Vec<_>>(),
        "unexpected_permissions": if app.unexpected_fails { "fail" } else { "ignore" },
        "token_webhook": webhook,
        "reauthenticators": match app.reauthenticators {
            Reauthenticators::Members => "members",
            Reauthenticators::Admins => "admins",
        },
        "reauthentication": match &app.reauthentication {
            ReauthenticationMode::Builtin => json!("builtin"),
            ReauthenticationMode::AdminConsent => json!("admin_consent"),
            ReauthenticationMode::Url(url) => json!({"url": url}),
        },
    }))
}

fn integration(integration: &Integration) -> Value {
    without_nulls(json!({
        "name": integration.name,
        "display_name": integration.display_name,
        "app": integration.app,
        "tenant_id": integration.tenant,
        "directory_reader": integration.reader,
        "admins": integration.admins,
        "refresh_token_file": integration.refresh_token_file,
        "groups": {
            "minimum": integration.requirements.groups.minimum,
            "required": integration.requirements.groups.required.iter().map(GroupRef::text).collect::<Vec<_>>(),
        },
        "checks": integration.requirements.checks.iter().map(|c: &Check| c.label()).collect::<Vec<_>>(),
        "credential_expiry_warning": format_duration(integration.requirements.credential_warning),
        "labels": integration.labels,
        "enabled": integration.enabled,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, expected) in [
            ("http://user:geheim@proxy.example.com:3128", "http://proxy.example.com:3128/"),
            ("http://proxy.example.com:3128/", "http://proxy.example.com:3128/"),
            ("https://app.example.com/hook?key=geheim", "https://app.example.com/hook?%3Csecret%3E"),
            ("nonsense geheim", HIDDEN),
        ] {
            assert_eq!(without_keys(url), expected);
        }
    }
}
