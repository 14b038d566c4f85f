//! The command line: flags in the Prometheus style, one function a command. Exit statuses: 0 fine, 1 not, 2 wrong usage or could not run.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::app::{self, Rotated};
use crate::clock::Clock;
use crate::config::{Config, Integration, Loaded, Problem, Sources, load};
use crate::domain::{Access, MailKind, Notification};
use crate::notify::{deliver, render, sample_incident};
use crate::secret::refresh_token;
use crate::telemetry::{self, LogFormat, LogLevel};
use crate::web::{WebOptions, path_of};

mod healthcheck;
mod online;
mod probe;
mod setup;

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
    /// Prints a fresh signed re-authentication link.
    ReauthLink(ReauthLink),
    /// Prints what has to be registered and granted once for an integration, as text and as a script for Azure CLI.
    Setup(Setup),
    /// Copies the database, whole, beside a running daemon. The encryption key is not in it.
    Backup(Backup),
    /// Encrypts the stored tokens with a new key. The daemon must be stopped; links that were mailed before open nothing any more.
    RotateKey(Configured),
    /// Asks a running daemon whether it is well, for containers and supervisors. Exit status 0 or 1.
    Healthcheck(healthcheck::Healthcheck),
    /// Starts everything on loopback with nothing to configure: a simulated tenant, a mailbox, the daemon.
    #[cfg(feature = "demo")]
    Demo(Demo),
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration file.
    #[arg(long = "config.file", default_value_os_t = default_file(), value_name = "FILE")]
    file: PathBuf,
}

/// `consentry.yml` here; where there is none, the one of a package or a container.
fn default_file() -> PathBuf {
    let (here, installed) = (Path::new("consentry.yml"), Path::new("/etc/consentry/consentry.yml"));
    if !here.exists() && installed.exists() { installed } else { here }.to_owned()
}

#[derive(Debug, Args)]
struct Logging {
    /// Log lines of this level and above.
    #[arg(long = "log.level", value_enum, default_value = "info")]
    level: LogLevel,
    /// How log lines are written.
    #[arg(long = "log.format", value_enum, default_value = "logfmt")]
    format: LogFormat,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    config: Configured,
    /// Only validates the configuration, then exits.
    #[arg(long = "config.check")]
    check: bool,
    /// Address to listen on: HOST:PORT, :PORT or unix:PATH (no TLS on that one); repeatable. Default: the sockets that systemd hands
    /// over, otherwise :10143.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    listen: Vec<String>,
    /// TLS, users, headers and rate limit of the listener, in the format of Prometheus' exporter-toolkit.
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config: Option<PathBuf>,
    #[command(flatten)]
    paths: Paths,
    /// Scrapes at once; more are answered with 503. 0 means any number.
    #[arg(long = "web.max-requests", default_value_t = 40, value_name = "NUMBER")]
    max_requests: usize,
    /// Lets POST /-/reload reload the configuration.
    #[arg(long = "web.enable-lifecycle")]
    lifecycle: bool,
    #[command(flatten)]
    callers: Callers,
    /// Address for health and readiness alone, for orchestrators.
    #[arg(long = "health.listen-address", value_name = "ADDRESS")]
    health: Option<String>,
    #[command(flatten)]
    logging: Logging,
}

/// Where browsers and scrapers find what is served.
#[derive(Debug, Args)]
struct Paths {
    /// Path of the metrics.
    #[arg(long = "web.telemetry-path", default_value = "/metrics", value_name = "PATH")]
    telemetry: String,
    /// Where browsers see Consentry, when a reverse proxy stands before it.
    #[arg(long = "web.external-url", value_name = "URL")]
    external_url: Option<String>,
    /// What all paths begin with. Default: the path of --web.external-url.
    #[arg(long = "web.route-prefix", value_name = "PATH")]
    route_prefix: Option<String>,
}

/// Who may do what.
#[derive(Debug, Args)]
struct Callers {
    /// Without users, lets everybody who reaches the pages probe and make links, and not this machine alone.
    #[arg(long = "web.enable-anonymous-actions")]
    anonymous_actions: bool,
    /// A name under which browsers and programs reach the pages and the API, besides this machine's name and those of
    /// --web.external-url and public_url; repeatable.
    #[arg(long = "web.allowed-host", value_name = "HOST", value_parser = crate::web::allowed_host)]
    allowed_hosts: Vec<String>,
    /// Address or network (CIDR) of a reverse proxy whose X-Forwarded-For counts; repeatable.
    #[arg(long = "web.trusted-proxy", value_name = "NETWORK", value_parser = network)]
    trusted_proxies: Vec<ipnet::IpNet>,
}

/// A network, or an address alone.
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
    network.map_err(|_| "write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8".to_owned())
}

#[derive(Debug, Args)]
struct CheckConfig {
    /// The configuration file; the same as --config.file.
    #[arg(id = "path", value_name = "FILE")]
    path: Option<PathBuf>,
    /// Also resolves every tenant, tries every credential and greets the mail server. Sends no mail.
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    config: Configured,
}

#[derive(Debug, Args)]
struct Probe {
    /// Name of the integration.
    name: String,
    /// How the result is written.
    #[arg(long, value_enum, default_value = "text")]
    output: probe::Output,
    #[command(flatten)]
    config: Configured,
}

#[derive(Debug, Args)]
struct Backup {
    /// Where the copy goes; a file that is there is not overwritten. `-` is standard output, for containers.
    copy: PathBuf,
    #[command(flatten)]
    config: Configured,
}

#[derive(Debug, Args)]
struct TestEmail {
    /// Who gets it.
    address: String,
    #[command(flatten)]
    config: Configured,
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the integration.
    name: String,
    #[command(flatten)]
    config: Configured,
}

#[derive(Debug, Args)]
struct ReauthLink {
    #[command(flatten)]
    named: Named,
    /// A sign-in through this link is measured by the configuration alone, not by what the stored token saw: for groups that are gone for
    /// good, and nobody with an administrator's role to say so.
    #[arg(long, conflicts_with = "revoke")]
    accept_fewer: bool,
    /// Ends all links that are out, and the sign-ins that they began, instead of making one.
    #[arg(long)]
    revoke: bool,
}

#[derive(Debug, Args)]
struct Setup {
    /// Name of the integration.
    name: String,
    /// The text as comments above the script, or the text alone.
    #[arg(long, value_enum, default_value = "script")]
    output: setup::Output,
    #[command(flatten)]
    config: Configured,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
struct Demo {
    /// Address of the daemon.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:10143", value_name = "ADDRESS")]
    listen: String,
    /// Address of the simulated Entra and of the mailbox. A container needs 0.0.0.0:10144, published as 127.0.0.1:10144.
    #[arg(long = "simulator.listen-address", default_value = "127.0.0.1:10144", value_name = "ADDRESS")]
    simulator: std::net::SocketAddr,
    #[command(flatten)]
    logging: Logging,
}

/// Runs a command; answers the exit status.
///
/// # Errors
/// The command failed; the chain of causes is the one line to print.
pub async fn run(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Command::Run(run) => run_daemon(run).await,
        Command::CheckConfig(check) => {
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
        Command::Probe(probe) => {
            // 2 tells scripts that nothing was probed, and 1 that something is wrong.
            match probe_now(&probe).await {
                Ok(code) => Ok(code),
                Err(error) => {
                    eprintln!("consentry: {error:#}");
                    Ok(2)
                }
            }
        }
        Command::TestEmail(test) => test_email(&test).await,
        Command::ImportToken(named) => import_token(&named).await,
        Command::ReauthLink(link) => reauth_link(&link).await,
        Command::Setup(setup) => print_setup(&setup),
        Command::Backup(backup) => make_backup(&backup),
        Command::RotateKey(configured) => rotate_key(&configured),
        Command::Healthcheck(check) => healthcheck::run(&check).await,
        #[cfg(feature = "demo")]
        Command::Demo(demo) => {
            telemetry::start(demo.logging.level, demo.logging.format);
            crate::demo::run(&demo.listen, demo.simulator).await.map(|()| 0)
        }
    }
}

/// Prints to standard output. A reader that has gone (`| head`) is no error of ours.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Reads a configuration, or prints its problems.
fn loaded(file: &Path) -> anyhow::Result<Loaded> {
    valid(load(file))
}

/// What was read, or its problems on standard error.
fn valid<T>(read: Result<T, Vec<Problem>>) -> anyhow::Result<T> {
    read.map_err(|problems| {
        print_problems(&problems);
        anyhow::anyhow!("the configuration is invalid: {}", count(problems.len(), "problem"))
    })
}

fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn unbuilt_warning(keys: &[String]) -> Option<String> {
    (!keys.is_empty()).then(|| {
        format!(
            "these keys are accepted, but this version does not do what they ask for: {}",
            keys.join(", ")
        )
    })
}

/// The flags about paths, checked.
fn web_options(run: &Run) -> anyhow::Result<WebOptions> {
    let Paths { telemetry, external_url, route_prefix } = &run.paths;
    let taken = ["/", "/-/healthy", "/-/ready", "/-/reload", "/config", "/probe", "/favicon.svg"]
        .contains(&telemetry.as_str())
        || ["/reauth/", "/integrations/", "/assets/", "/api/"].iter().any(|room| telemetry.starts_with(room));
    if taken || !is_path(telemetry) {
        bail!("--web.telemetry-path must be a path of its own, such as /metrics");
    }
    let external_url = external_url.as_deref().map(outside_url).transpose()?;
    let prefix = route_prefix
        .clone()
        .unwrap_or_else(|| external_url.as_deref().map(path_of).unwrap_or_default().to_owned());
    let prefix = prefix.trim_matches('/');
    let route_prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    if !route_prefix.is_empty() && !is_path(&route_prefix) {
        bail!("--web.route-prefix must be a path such as /consentry");
    }
    Ok(WebOptions {
        telemetry_path: telemetry.clone(),
        external_url,
        route_prefix,
        max_requests: run.max_requests,
        lifecycle: run.lifecycle,
        anonymous_actions: run.callers.anonymous_actions,
        allowed_hosts: run.callers.allowed_hosts.clone(),
        trusted_proxies: run.callers.trusted_proxies.clone(),
    })
}

/// A URL as browsers write it: with the ASCII form of its name, which is what they send as Host and Origin.
fn outside_url(text: &str) -> anyhow::Result<String> {
    let good = |url: &url::Url| {
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare
    };
    match url::Url::parse(text) {
        Ok(url) if good(&url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        _ => bail!(
            "--web.external-url must be an http or https URL without user, query or fragment, such as https://monitoring.example.com/consentry"
        ),
    }
}

/// A path that means itself.
fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    text.starts_with('/')
        && text.chars().all(plain)
        && !text.contains("//")
        && !text.split('/').any(|part| part == "." || part == "..")
}

async fn run_daemon(run: Run) -> anyhow::Result<u8> {
    let options = web_options(&run)?;
    if run.check {
        let gate = app::gate(run.web_config.as_deref(), Clock::system());
        if let Err(error) = &gate {
            eprintln!("{error}");
        }
        return Ok(u8::from(check_config(&run.config.file).is_none() || gate.is_err()));
    }
    telemetry::start(run.logging.level, run.logging.format);
    let (Loaded { config, warnings, not_implemented }, sources) =
        valid(Sources::load(&run.config.file, &|name| std::env::var(name).ok()))?;
    for warning in warnings.iter().take(20) {
        tracing::warn!(%warning, "configuration");
    }
    if let Some(warning) = unbuilt_warning(&not_implemented) {
        tracing::warn!("{warning}");
    }
    let enabled = config.integrations.iter().filter(|i| i.enabled).count();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("CONSENTRY_REVISION"),
        integrations = enabled,
        "starting"
    );
    let addresses = app::Addresses { all: &run.listen, health: run.health.as_deref() };
    let front = app::Front { options, web_config_file: run.web_config };
    app::run(config, sources, &addresses, front).await.map(|()| 0)
}

/// Validates and prints; the configuration when it is valid.
fn check_config(file: &Path) -> Option<Config> {
    match load(file) {
        Ok(Loaded { config, warnings, not_implemented }) => {
            for warning in &warnings {
                say(format_args!("warning: {warning}"));
            }
            if let Some(warning) = unbuilt_warning(&not_implemented) {
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
    match config.email.as_ref().map(|e| (&e.from, &e.smtp)) {
        Some((from, Some(smtp))) => {
            say(format_args!("  mail          from {from} through {}:{}", smtp.host, smtp.port));
        }
        Some((from, None)) => say(format_args!(
            "  mail          from {from}, but the configured transport is not usable in this version"
        )),
        None => say(format_args!("  mail          none")),
    }
}

fn integration<'c>(config: &'c Config, name: &str) -> anyhow::Result<&'c Integration> {
    config.integrations.iter().find(|i| i.name == name).with_context(|| {
        let names = config.integrations.iter().map(|i| i.name.as_str());
        let nearest = names.min_by_key(|n| strsim::damerau_levenshtein(n, name));
        nearest.map_or_else(
            || "no integration is configured".to_owned(),
            |n| format!("no integration is called {name}; the nearest is {n}"),
        )
    })
}

async fn probe_now(probe: &Probe) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&probe.config.file)?;
    let integration = integration(&config, &probe.name)?;
    probe::run(&config, integration, probe.output).await
}

async fn test_email(test: &TestEmail) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&test.config.file)?;
    let email = config.email.as_ref().context("the configuration has no email section")?;
    let settings = app::smtp(email).context("the configured mail transport is not usable in this version")?;
    let now = Clock::system().now();
    let link = config.reauthentication.public_url.as_ref().map(|u| format!("{u}/reauth/sample?token=sample"));
    let alert = format!("test-{}", uuid::Uuid::new_v4());
    let notification = Notification {
        alert,
        sequence: 0,
        kind: MailKind::Test,
        recipient: test.address.clone(),
        incident: sample_incident(now),
    };
    let mail = render(&notification, 0, link.as_deref(), &app::branding(email));
    let delivery = deliver(&settings, &notification, &mail, now).await;
    match delivery.outcome {
        Ok(()) => {
            say(format_args!("{}:{} has taken the mail to {}.", settings.host, settings.port, test.address));
            Ok(0)
        }
        Err(failure) => {
            delivery.dialogue.iter().for_each(say);
            eprintln!("consentry: the mail was not sent ({})", failure.label());
            Ok(1)
        }
    }
}

/// Entra's refresh tokens have one to three thousand bytes.
const LONGEST_TOKEN: usize = 64 * 1024;

async fn import_token(named: &Named) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&named.config.file)?;
    let integration = integration(&config, &named.name)?;
    if integration.requirements.access == Access::Application {
        bail!("{} uses access: application, which has no refresh token", named.name);
    }
    if let Some(path) = &integration.refresh_token_file {
        bail!(
            "the refresh token of {} is kept by somebody else in {}; put it there, or remove refresh_token_file",
            named.name,
            path.display()
        );
    }
    let mut input = Zeroizing::new(Vec::with_capacity(LONGEST_TOKEN + 2));
    std::io::stdin()
        .take(LONGEST_TOKEN as u64 + 1)
        .read_to_end(&mut input)
        .context("cannot read standard input")?;
    if input.len() > LONGEST_TOKEN {
        bail!("standard input is longer than any refresh token; it must hold one and nothing else");
    }
    let token = refresh_token(&input).map_err(|fault| {
        anyhow::anyhow!("standard input {fault}; it must hold one refresh token and nothing else")
    })?;
    let target = app::targets(&config)
        .into_iter()
        .find(|t| t.name == named.name)
        .context("the integration has no application")?;
    app::store(&config)?.put_token(&target.token_id(), &token, "import", Clock::system().now()).await?;
    say(format_args!("The token of {} is stored. A running daemon uses it at the next probe.", named.name));
    Ok(0)
}

fn make_backup(backup: &Backup) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&backup.config.file)?;
    if backup.copy.as_os_str() == "-" {
        let mut output = std::io::stdout().lock();
        if output.is_terminal() {
            bail!("the copy is no text for a terminal; write consentry backup - > FILE");
        }
        app::write_backup(&config, &mut output)?;
        return Ok(0);
    }
    app::backup(&config, &backup.copy)?;
    let key = config.storage.encryption_key_file.display();
    say(format_args!(
        "{} holds the whole database. Without {key} its tokens cannot be read: keep that elsewhere.",
        backup.copy.display()
    ));
    Ok(0)
}

fn rotate_key(configured: &Configured) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&configured.file)?;
    let Rotated { tokens, damaged } = app::rotate_key(&config)?;
    say(format_args!(
        "{} encrypted with a new key in {}.",
        count(tokens, "refresh token"),
        config.storage.encryption_key_file.display()
    ));
    if damaged > 0 {
        say(format_args!("{} could not be decrypted and stay as they were.", count(damaged, "row")));
    }
    say(
        "Links that were mailed before open nothing any more; consentry reauth-link NAME makes others. Copies of the old key still open old copies of the database.",
    );
    Ok(0)
}

fn print_setup(setup: &Setup) -> anyhow::Result<u8> {
    let Loaded { config, .. } = loaded(&setup.config.file)?;
    say(setup::render(&config, integration(&config, &setup.name)?, setup.output)?.trim_end());
    Ok(0)
}

async fn reauth_link(asked: &ReauthLink) -> anyhow::Result<u8> {
    let named = &asked.named;
    let Loaded { config, .. } = loaded(&named.config.file)?;
    let integration = integration(&config, &named.name)?;
    let (store, now) = (app::store(&config)?, Clock::system().now());
    if asked.revoke {
        store.revoke_links(&named.name, "command", now).await?;
        say(format_args!(
            "All links of {} that were out are dead, and so are the sign-ins that they began.",
            named.name
        ));
        return Ok(0);
    }
    if !integration.enabled {
        bail!("{} is not enabled, so no link to it opens anything", named.name);
    }
    let links =
        app::links(&config, &store).context("reauthentication.public_url is missing; links start with it")?;
    let target = app::targets(&config)
        .into_iter()
        .find(|t| t.name == named.name)
        .context("the integration has no application")?;
    let terms = app::Terms {
        generation: store.links(&named.name).await?.generation,
        accept_fewer: asked.accept_fewer,
    };
    store
        .link_made(
            &named.name,
            if asked.accept_fewer {
                "the command reauth-link, with --accept-fewer"
            } else {
                "the command reauth-link"
            },
            now,
        )
        .await?;
    say(links.make(&target.token_id(), terms, now));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_urls_are_what_browsers_send() {
        for (text, expected) in [
            ("https://m\u{fc}nchen.example/", "https://xn--mnchen-3ya.example"),
            ("https:c.example", "https://c.example"),
            (r"https:\\C.example/a/", "https://c.example/a"),
            ("http://127.1", "http://127.0.0.1"),
        ] {
            assert_eq!(outside_url(text).expect(text), expected);
        }
        for text in [
            "https://u:p@c.example",
            "https://u@c.example",
            "https://c.example/#x",
            "https://c.example/?x",
            "ftp://c.example",
        ] {
            assert!(outside_url(text).is_err(), "{text}");
        }
    }
}
