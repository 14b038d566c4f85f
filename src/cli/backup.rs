//! `consentry backup`: a copy of the database.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::arguments::Configured;
use super::output::{loaded, say};
use crate::app;

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file of the copy; an existing file is not overwritten. `-` is standard output, for containers.
    copy: PathBuf,
    #[command(flatten)]
    config: Configured,
}

pub(super) fn run(backup: &Backup) -> anyhow::Result<u8> {
    let config = loaded(&backup.config.file)?.config;
    if backup.copy.as_os_str() == "-" {
        let mut output = std::io::stdout().lock();
        if output.is_terminal() {
            bail!("the copy is binary and cannot be written to a terminal; write consentry backup - > FILE");
        }
        app::write_backup(&config, &mut output)?;
        return Ok(0);
    }
    app::backup(&config, &backup.copy)?;
    let key = config.storage.encryption_key_file.display();
    say(format_args!(
        "{} contains the whole database. Its tokens cannot be decrypted without {key}: keep a copy of that in another place.",
        backup.copy.display()
    ));
    Ok(0)
}
