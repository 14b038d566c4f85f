//! The simulator as a program: an empty world on fixed addresses, which is filled through the control API.

use std::net::SocketAddr;

use clap::Parser;
use entra_sim::{Options, Simulator};

/// A simulated Microsoft Entra ID, Microsoft Graph and mailbox on loopback.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Plain HTTP: login host, Graph, mailbox pages, control API.
    #[arg(long, default_value = "127.0.0.1:8180")]
    http: SocketAddr,
    /// The same over TLS. The certificate is at /_sim/ca.pem.
    #[arg(long, default_value = "127.0.0.1:8181")]
    https: SocketAddr,
    /// The SMTP sink.
    #[arg(long, default_value = "127.0.0.1:8125")]
    smtp: SocketAddr,
    /// TLS from the first byte on the SMTP sink.
    #[arg(long)]
    smtp_implicit_tls: bool,
    /// JSON array of actions to apply at the start.
    #[arg(long)]
    actions: Option<std::path::PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        http: arguments.http,
        https: arguments.https,
        smtp: arguments.smtp,
        smtp_implicit_tls: arguments.smtp_implicit_tls,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await?;
    if let Some(path) = arguments.actions {
        let actions: Vec<entra_sim::Action> = serde_json::from_slice(&tokio::fs::read(path).await?)?;
        for action in actions {
            simulator.apply(action)?;
        }
    }
    println!(
        "http  {}\nhttps {}\nsmtp  {}\nmailbox {}/",
        simulator.url(),
        simulator.https_url(),
        simulator.smtp,
        simulator.url()
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}
