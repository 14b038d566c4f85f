//! `consentry test-email`: sends a sample of the real alert through the configured mail server.

use anyhow::Context as _;
use clap::Args;

use super::arguments::Configured;
use super::output::{loaded, say};
use crate::app;
use crate::clock::Clock;
use crate::domain::{MailKind, Notification};
use crate::notify::{deliver, render_one, sample_incident};

#[derive(Debug, Args)]
pub(super) struct TestEmail {
    /// The recipient.
    address: String,
    #[command(flatten)]
    config: Configured,
}

pub(super) async fn run(test: &TestEmail) -> anyhow::Result<u8> {
    let config = loaded(&test.config.file)?.config;
    let email = config.email.as_ref().context("the configuration has no email section")?;
    let clock = Clock::system();
    let transport = app::transport(email, &app::entra(&config, None)?, &clock);
    let now = clock.now();
    let link = config.reauthentication.public_url.as_ref().map(|u| format!("{u}/reauth/sample?token=sample"));
    let alert = format!("test-{}", uuid::Uuid::new_v4());
    let notification = Notification {
        alert,
        sequence: 0,
        kind: MailKind::Test,
        recipient: test.address.clone(),
        for_admin: true,
        incident: sample_incident(now),
    };
    let mail = render_one(&notification, link.as_deref(), &app::branding(email, &config.cloud, None));
    let delivery = deliver(&transport, &test.address, &mail, now).await;
    match delivery.outcome {
        Ok(_) => {
            say(format_args!("{} has accepted the mail to {}.", transport.name(), test.address));
            Ok(0)
        }
        Err(failure) => {
            delivery.dialogue.iter().for_each(say);
            eprintln!("consentry: the mail was not sent ({})", failure.label());
            Ok(1)
        }
    }
}
