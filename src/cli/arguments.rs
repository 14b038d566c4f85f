//! Arguments that several commands share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::telemetry::{LogFormat, LogLevel};

#[derive(Debug, Args)]
pub(super) struct Configured {
    /// The configuration file.
    #[arg(long = "config.file", default_value_os_t = default_file(), value_name = "FILE")]
    pub(super) file: PathBuf,
}

/// `consentry.yml` in the current folder; if there is none, that of a package or a container.
fn default_file() -> PathBuf {
    let (here, installed) = (Path::new("consentry.yml"), Path::new("/etc/consentry/consentry.yml"));
    if !here.exists() && installed.exists() { installed } else { here }.to_owned()
}

#[derive(Debug, Args)]
pub(super) struct Logging {
    /// The lowest level of log lines that are written.
    #[arg(long = "log.level", value_enum, default_value = "info")]
    pub(super) level: LogLevel,
    /// The format of log lines.
    #[arg(long = "log.format", value_enum, default_value = "logfmt")]
    pub(super) format: LogFormat,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Name of the integration.
    pub(super) name: String,
    #[command(flatten)]
    pub(super) config: Configured,
}
