//! `consentry import-token`: stores a refresh token from standard input, encrypted.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::arguments::Named;
use super::output::{integration, loaded, say};
use crate::app;
use crate::clock::Clock;
use crate::domain::Access;
use crate::secret::refresh_token;

/// The highest length of a refresh token in bytes. Entra's have one to three thousand bytes.
const LONGEST_TOKEN: usize = 64 * 1024;

pub(super) async fn run(named: &Named) -> anyhow::Result<u8> {
    let config = loaded(&named.config.file)?.config;
    let integration = integration(&config, &named.name)?;
    if integration.requirements.access == Access::Application {
        bail!("{} uses access: application, which has no refresh token", named.name);
    }
    if let Some(path) = &integration.refresh_token_file {
        bail!(
            "the refresh token of {} is maintained by another program in {}; put it there, or remove refresh_token_file",
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
        bail!("standard input is longer than any refresh token; it must contain one and nothing else");
    }
    let token = refresh_token(&input).map_err(|fault| {
        anyhow::anyhow!("standard input {fault}; it must contain one refresh token and nothing else")
    })?;
    let target = app::targets(&config)
        .into_iter()
        .find(|t| t.name == named.name)
        .context("the integration has no application")?;
    app::store(&config)?.put_token(&target.token_id(), &token, "import", Clock::system().now()).await?;
    say(format_args!("The token of {} is stored. A running daemon uses it at the next probe.", named.name));
    Ok(0)
}
