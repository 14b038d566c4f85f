//! `consentry reauth-link`: a fresh link, or the end of all links that are out.

use anyhow::{Context as _, bail};
use clap::Args;

use super::arguments::Named;
use super::output::{integration, loaded, say};
use crate::app;
use crate::clock::Clock;

#[derive(Debug, Args)]
pub(super) struct ReauthLink {
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

pub(super) async fn run(asked: &ReauthLink) -> anyhow::Result<u8> {
    let named = &asked.named;
    let config = loaded(&named.config.file)?.config;
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
