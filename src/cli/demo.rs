//! `consentry demo`: simulated Entra, mailbox and daemon on loopback.

use clap::Args;

use super::arguments::Logging;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Address of the daemon.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:10143", value_name = "ADDRESS")]
    listen: String,
    /// Address of the simulated Entra and of the mailbox. A container needs 0.0.0.0:10144, published as 127.0.0.1:10144.
    #[arg(long = "simulator.listen-address", default_value = "127.0.0.1:10144", value_name = "ADDRESS")]
    simulator: std::net::SocketAddr,
    #[command(flatten)]
    logging: Logging,
}

pub(super) async fn run(demo: Demo) -> anyhow::Result<u8> {
    telemetry::start(demo.logging.level, demo.logging.format);
    crate::demo::run(&demo.listen, demo.simulator).await.map(|()| 0)
}
