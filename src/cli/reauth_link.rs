//! `consentry reauth-link`: makes a new link, or ends all earlier links.

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
    /// A sign-in through this link must only satisfy the configuration, and may see less than the stored token did. For groups that were
    /// deleted permanently, when nobody with an administrator's role can sign in.
    #[arg(long, conflicts_with = "revoke")]
    accept_fewer: bool,
    /// Ends all earlier links, and the sign-ins begun with them, instead of making one.
    #[arg(long)]
    revoke: bool,
}

pub(super) async fn run(arguments: &ReauthLink) -> anyhow::Result<u8> {
    let named = &arguments.named;
    let config = loaded(&named.config.file)?.config;
    let integration = integration(&config, &named.name)?;
    let (store, now) = (app::store(&config)?, Clock::system().now());
    if arguments.revoke {
        store.revoke_links(&named.name, "command", now).await?;
        say(format_args!(
            "All earlier links of {} are ended, and so are the sign-ins that were begun with them.",
            named.name
        ));
        return Ok(0);
    }
    if !integration.enabled {
        bail!("{} is not enabled, so no link to it is valid", named.name);
    }
    let links =
        app::links(&config, &store).context("reauthentication.public_url is missing; links start with it")?;
    let target = app::targets(&config)
        .into_iter()
        .find(|t| t.name == named.name)
        .context("the integration has no application")?;
    let terms = app::Terms {
        generation: store.links(&named.name).await?.generation,
        accept_fewer: arguments.accept_fewer,
    };
    store
        .link_made(
            &named.name,
            if arguments.accept_fewer {
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
