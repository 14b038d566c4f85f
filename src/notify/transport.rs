//! One interface to both ways of sending mail: a session with a mail server, and requests to Microsoft Graph.

use super::graph_mail::{self, Prepared};
use super::message::Rendered;
use super::settings::Transport;
use super::smtp::{Connection, Delivery, Dictated, Undelivered, test_connection};
use crate::domain::Timestamp;

/// What carries mails one after another. Graph needs no connection of ours.
#[derive(Default)]
pub(super) struct Channel(Connection);

/// A mail that is prepared except for the last step. If this is dropped, the mail is not sent.
pub(super) enum Ready<'c> {
    Smtp(Dictated<'c>),
    Graph(Box<Prepared>),
}

impl Channel {
    /// Does everything before the step after which the mail may have arrived.
    pub(super) async fn prepare(
        &mut self,
        transport: &Transport,
        recipient: &str,
        mail: &Rendered,
        now: Timestamp,
    ) -> Result<Ready<'_>, Undelivered> {
        match transport {
            Transport::Smtp(settings) => {
                self.0.dictate(settings, recipient, mail, now).await.map(Ready::Smtp)
            }
            Transport::Graph(settings) => graph_mail::prepare(settings, recipient, mail, now)
                .await
                .map(|prepared| Ready::Graph(Box::new(prepared))),
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn quit(self) {
        self.0.quit().await;
    }
}

impl Ready<'_> {
    /// Sends the mail, and waits for the response.
    pub(super) async fn end(self) -> Delivery {
        match self {
            Self::Smtp(dictated) => dictated.end().await,
            Self::Graph(prepared) => prepared.end().await,
        }
    }
}

/// Sends one mail by itself.
pub async fn deliver(transport: &Transport, recipient: &str, mail: &Rendered, now: Timestamp) -> Delivery {
    let mut channel = Channel::default();
    let delivery = match channel.prepare(transport, recipient, mail, now).await {
        Ok(ready) => ready.end().await,
        Err(Undelivered { failure, dialogue }) => Delivery { outcome: Err(failure), dialogue },
    };
    channel.quit().await;
    delivery
}

/// Tries the transport as far as possible without a mail: connection, TLS and login, or a token for Graph.
pub async fn test_transport(transport: &Transport) -> Delivery {
    match transport {
        Transport::Smtp(settings) => test_connection(settings).await,
        Transport::Graph(settings) => graph_mail::test(settings).await,
    }
}
