//! The command line: flags in the Prometheus style, one file per command. Exit statuses: 0 success, 1 failure, 2 wrong usage or could not
//! run.

use clap::{Parser, Subcommand};

mod arguments;
mod backup;
mod check_config;
#[cfg(feature = "demo")]
mod demo;
mod healthcheck;
mod import_token;
mod online;
mod output;
mod probe;
mod reauth_link;
mod rotate_key;
mod run;
mod setup;
mod setup_mail;
mod test_email;

use arguments::{Configured, Named};
use backup::Backup;
use check_config::CheckConfig;
#[cfg(feature = "demo")]
use demo::Demo;
use healthcheck::Healthcheck;
use probe::Probe;
use reauth_link::ReauthLink;
use run::Run;
use setup::Setup;
use test_email::TestEmail;

/// Watches integrations with Microsoft Entra ID.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon.
    Run(Run),
    /// Validates a configuration and prints a summary.
    CheckConfig(CheckConfig),
    /// Probes one integration now and explains what was found. Sends no mail.
    Probe(Probe),
    /// Sends a sample of the real alert through the configured mail server.
    TestEmail(TestEmail),
    /// Reads a refresh token on standard input and stores it encrypted.
    ImportToken(Named),
    /// Prints a new signed re-authentication link.
    ReauthLink(ReauthLink),
    /// Prints what has to be registered and granted once for an integration, as text and as a script for Azure CLI.
    Setup(Setup),
    /// Copies the whole database, also while the daemon is running. The encryption key is not in the copy.
    Backup(Backup),
    /// Encrypts the stored tokens with a new key. The daemon must be stopped; links that were mailed before are no longer valid.
    RotateKey(Configured),
    /// Checks the health of a running daemon, for containers and supervisors. Exit status 0 or 1.
    Healthcheck(Healthcheck),
    /// Starts a simulated tenant, a mailbox and the daemon on loopback, without any configuration.
    #[cfg(feature = "demo")]
    Demo(Demo),
}

/// Runs a command. Returns the exit status.
///
/// # Errors
/// The command failed; the caller prints the chain of causes on one line.
pub async fn run(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Command::Run(arguments) => run::run(arguments).await,
        Command::CheckConfig(arguments) => check_config::run(arguments).await,
        Command::Probe(arguments) => Ok(probe::run(&arguments).await),
        Command::TestEmail(arguments) => test_email::run(&arguments).await,
        Command::ImportToken(arguments) => import_token::run(&arguments).await,
        Command::ReauthLink(arguments) => reauth_link::run(&arguments).await,
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::RotateKey(arguments) => rotate_key::run(&arguments),
        Command::Healthcheck(arguments) => healthcheck::run(&arguments).await,
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::run(arguments).await,
    }
}
