//! `consentry run`: the daemon.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::arguments::{Configured, Logging};
use super::check_config::check_config;
use super::output::valid;
use crate::app;
use crate::clock::Clock;
use crate::config::{Loaded, Sources};
use crate::telemetry;
use crate::web::{WebOptions, path_of};

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: Configured,
    /// Only validates the configuration, then exits.
    #[arg(long = "config.check")]
    check: bool,
    /// Address to listen on: HOST:PORT, :PORT or unix:PATH (without TLS); repeatable. Default: the sockets that systemd passes, otherwise
    /// :10143.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    listen: Vec<String>,
    /// TLS, users, headers and rate limit of the listener, in the format of Prometheus' exporter-toolkit.
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config: Option<PathBuf>,
    #[command(flatten)]
    paths: Paths,
    /// The number of concurrent scrapes; more are rejected with 503. 0 allows any number.
    #[arg(long = "web.max-requests", default_value_t = 40, value_name = "NUMBER")]
    max_requests: usize,
    /// Enables POST /-/reload.
    #[arg(long = "web.enable-lifecycle")]
    lifecycle: bool,
    #[command(flatten)]
    callers: Callers,
    /// Address that serves only health and readiness, for orchestrators.
    #[arg(long = "health.listen-address", value_name = "ADDRESS")]
    health: Option<String>,
    #[command(flatten)]
    logging: Logging,
}

/// Paths and URLs.
#[derive(Debug, Args)]
struct Paths {
    /// Path of the metrics.
    #[arg(long = "web.telemetry-path", default_value = "/metrics", value_name = "PATH")]
    telemetry: String,
    /// The URL under which browsers reach Consentry, when it is behind a reverse proxy.
    #[arg(long = "web.external-url", value_name = "URL")]
    external_url: Option<String>,
    /// The prefix of all paths. Default: the path of --web.external-url.
    #[arg(long = "web.route-prefix", value_name = "PATH")]
    route_prefix: Option<String>,
}

/// Which clients may do what.
#[derive(Debug, Args)]
struct Callers {
    /// Without users, allows everybody who reaches the pages, not only this machine, to probe and to make links.
    #[arg(long = "web.enable-anonymous-actions")]
    anonymous_actions: bool,
    /// A host name under which browsers and programs may reach the pages and the API, besides this machine's name and those of
    /// --web.external-url and public_url; repeatable.
    #[arg(long = "web.allowed-host", value_name = "HOST", value_parser = crate::web::allowed_host)]
    allowed_hosts: Vec<String>,
    /// Address or network (CIDR) of a reverse proxy whose X-Forwarded-For is trusted; repeatable.
    #[arg(long = "web.trusted-proxy", value_name = "NETWORK", value_parser = network)]
    trusted_proxies: Vec<ipnet::IpNet>,
}

/// A network, or a single address.
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
    network.map_err(|_| "write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8".to_owned())
}

pub(super) async fn run(run: Run) -> anyhow::Result<u8> {
    let options = web_options(&run)?;
    if run.check {
        let security = app::web_security(run.web_config.as_deref(), Clock::system());
        if let Err(error) = &security {
            eprintln!("{error}");
        }
        return Ok(u8::from(check_config(&run.config.file).is_none() || security.is_err()));
    }
    telemetry::start(run.logging.level, run.logging.format);
    let (Loaded { config, warnings }, sources) =
        valid(Sources::load(&run.config.file, &|name| std::env::var(name).ok()))?;
    for warning in warnings.iter().take(20) {
        tracing::warn!(%warning, "configuration");
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

/// Validates the flags.
fn web_options(run: &Run) -> anyhow::Result<WebOptions> {
    let Paths { telemetry, external_url, route_prefix } = &run.paths;
    let taken = ["/", "/-/healthy", "/-/ready", "/-/reload", "/config", "/probe", "/favicon.svg"]
        .contains(&telemetry.as_str())
        || ["/reauth/", "/integrations/", "/assets/", "/api/"].iter().any(|part| telemetry.starts_with(part));
    if taken || !is_path(telemetry) {
        bail!("--web.telemetry-path must be a path that is not used otherwise, such as /metrics");
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

/// A URL in the form that browsers use: with the ASCII form of its host, which they send as Host and Origin.
fn outside_url(text: &str) -> anyhow::Result<String> {
    let valid = |url: &url::Url| {
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare
    };
    match url::Url::parse(text) {
        Ok(url) if valid(&url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        _ => bail!(
            "--web.external-url must be an http or https URL without user, query or fragment, such as https://monitoring.example.com/consentry"
        ),
    }
}

/// Whether a text is a plain, normalized path.
fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    text.starts_with('/')
        && text.chars().all(plain)
        && !text.contains("//")
        && !text.split('/').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_urls_are_normalized_as_by_browsers() {
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
