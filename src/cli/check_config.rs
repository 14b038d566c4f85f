//! `consentry check-config`: prints the problems of a configuration, or a summary of a valid one.

use std::path::{Path, PathBuf};

use clap::Args;

use super::arguments::Configured;
use super::online;
use super::output::{count, print_problems, say};
use crate::config::{Config, Loaded, MailTransport, SmtpLogin, load};

#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// The configuration file; the same as --config.file.
    #[arg(id = "path", value_name = "FILE")]
    path: Option<PathBuf>,
    /// Also resolves every tenant, tries every credential and connects to the mail server. Sends no mail.
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    config: Configured,
}

/// Validates and prints. Returns the configuration if it is valid.
pub(super) fn check_config(file: &Path) -> Option<Config> {
    match load(file) {
        Ok(Loaded { config, warnings }) => {
            for warning in &warnings {
                say(format_args!("warning: {warning}"));
            }
            print_summary(file, &config);
            Some(config)
        }
        Err(problems) => {
            print_problems(&problems);
            eprintln!("{}: invalid: {}", file.display(), count(problems.len(), "problem"));
            None
        }
    }
}

fn print_summary(file: &Path, config: &Config) {
    let enabled = config.integrations.iter().filter(|i| i.enabled).count();
    let duration = crate::config::format_duration;
    say(format_args!("{}: valid", file.display()));
    say(format_args!("  cloud         {} and {}", config.cloud.login_url, config.cloud.graph_url));
    say(format_args!(
        "  integrations  {} ({enabled} enabled) of {}, {}",
        config.integrations.len(),
        count(config.apps.len(), "app"),
        count(config.readers.len(), "directory reader")
    ));
    say(format_args!(
        "  probing       every {}, at most {} at once",
        duration(config.probe.interval),
        config.probe.concurrency
    ));
    say(format_args!(
        "  storage       {}, key {}",
        config.storage.path.display(),
        config.storage.encryption_key_file.display()
    ));
    match config.email.as_ref().map(|email| (&email.from, &email.transport)) {
        Some((from, MailTransport::Smtp(smtp))) => {
            let login = match &smtp.login {
                Some(SmtpLogin::OAuth2(mailbox, _)) => format!(", as {mailbox} with an access token"),
                Some(SmtpLogin::Password(name, _)) => format!(", as {name} with a password"),
                None => String::new(),
            };
            say(format_args!("  mail          from {from} through {}:{}{login}", smtp.host, smtp.port));
        }
        Some((from, MailTransport::Graph(graph))) => {
            say(format_args!(
                "  mail          from {from} through Microsoft Graph, mailbox {}",
                graph.mailbox
            ));
        }
        None => say(format_args!("  mail          none")),
    }
}

/// Validates, and with `--online` also checks the services that the configuration names.
pub(super) async fn run(check: CheckConfig) -> anyhow::Result<u8> {
    let file = check.path.unwrap_or(check.config.file);
    match check_config(&file) {
        Some(config) if check.online => {
            let wrong = online::check(&config).await?;
            say(format_args!("\n{}: {}", file.display(), online::verdict(wrong)));
            Ok(u8::from(wrong > 0))
        }
        valid => Ok(u8::from(valid.is_none())),
    }
}
