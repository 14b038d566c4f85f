//! `consentry healthcheck`: checks the health of a running daemon, for containers that contain no other program.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use url::Url;

use crate::urls::{is_loopback, without_user};

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// The URL of /-/healthy or /-/ready, of the daemon or of its --health.listen-address.
    // Not parsed by clap, which would print an invalid URL with the password that it may contain.
    #[arg(long, default_value = "http://127.0.0.1:10143/-/healthy", value_name = "URL")]
    url: String,
    /// How long to wait for the response.
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    /// Accepted as for every command, but not used.
    #[arg(long = "config.file", hide = true)]
    _config: Option<std::path::PathBuf>,
}

/// Prints nothing if the daemon is healthy. Returns the exit status: 2 for wrong usage.
///
/// # Errors
/// There is no daemon, or it is not healthy.
pub(super) async fn run(check: &Healthcheck) -> anyhow::Result<u8> {
    let Healthcheck { url, timeout, .. } = check;
    let Some(url) = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        eprintln!("consentry: --url must be an http or https URL, such as http://127.0.0.1:10143/-/healthy");
        return Ok(2);
    };
    // The certificate is issued for the name that others use, not for loopback; and the request contains no
    // secret.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(is_loopback(&url))
        .timeout(*timeout)
        .build()
        .context("cannot set up the request")?;
    let shown = without_user(&url).context("the URL cannot be shown without its user")?;
    let response = client
        .get(url.clone())
        .send()
        .await
        .map_err(|e| e.without_url())
        .with_context(|| format!("{shown} does not respond"))?;
    match response.status() {
        status if status.is_success() => Ok(0),
        status @ reqwest::StatusCode::UNAUTHORIZED => {
            bail!(
                "{shown} returns {status}: start the daemon with --health.listen-address, which requires no user, and use that address"
            )
        }
        status => bail!("{shown} returns {status}"),
    }
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    crate::config::parse_duration(text)
        .filter(|d| !d.is_zero())
        .ok_or("expected a duration above zero, such as 500ms or 5s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_verified_except_on_loopback() {
        for (url, expected) in [
            ("https://127.0.0.1:10143/-/healthy", true),
            ("https://[::1]:10143/-/healthy", true),
            ("https://localhost/-/ready", true),
            ("https://10.0.0.1/-/healthy", false),
            ("https://localhost.example.com/-/healthy", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).expect(url)), expected, "{url}");
        }
    }
}
