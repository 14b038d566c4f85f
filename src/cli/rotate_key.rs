//! `consentry rotate-key`: encrypts everything that is stored encrypted with a new key.

use super::arguments::Configured;
use super::output::{count, loaded, say};
use crate::app::{self, Rotated};

pub(super) fn run(configured: &Configured) -> anyhow::Result<u8> {
    let config = loaded(&configured.file)?.config;
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
        "Links that were mailed before are no longer valid; consentry reauth-link NAME makes new ones. Copies of the old key still decrypt old copies of the database.",
    );
    Ok(0)
}
