//! One interface to both ways of sending mail: a session with a mail server, and requests to Microsoft Graph.

use super::graph_mail::{self, Prepared};
use super::message::Rendered;
use super::settings::Transport;
use super::smtp::{Connection, Delivery, Dictated, Undelivered, test_connection};
use crate::domain::Timestamp;

/// What carries mails one after another.
pub(super) enum Channel {
    Smtp(Connection),
    Graph,
}

/// A mail that is prepared except for the last step. If this is dropped, the mail is not sent.
pub(super) enum Ready<'c> {
    Smtp(Dictated<'c>),
    Graph(Box<Prepared>),
}

impl Channel {
    pub(super) fn of(transport: &Transport) -> Self {
        match transport {
            Transport::Smtp(_) => Self::Smtp(Connection::default()),
            Transport::Graph(_) => Self::Graph,
        }
    }

    /// Does everything before the step after which the mail may have arrived.
    pub(super) async fn prepare(
        &mut self,
        transport: &Transport,
        recipient: &str,
        mail: &Rendered,
        now: Timestamp,
    ) -> Result<Ready<'_>, Undelivered> {
        match (self, transport) {
            (Self::Smtp(connection), Transport::Smtp(settings)) => {
                connection.dictate(settings, recipient, mail, now).await.map(Ready::Smtp)
            }
            (_, Transport::Graph(settings)) => graph_mail::prepare(settings, recipient, mail, now)
                .await
                .map(|prepared| Ready::Graph(Box::new(prepared))),
            (channel @ Self::Graph, Transport::Smtp(settings)) => {
                // A channel belongs to one transport; this one is replaced.
                *channel = Self::Smtp(Connection::default());
                let Self::Smtp(connection) = channel else { unreachable!("it was just set") };
                connection.dictate(settings, recipient, mail, now).await.map(Ready::Smtp)
            }
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn quit(self) {
        if let Self::Smtp(connection) = self {
            connection.quit().await;
        }
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
    let mut channel = Channel::of(transport);
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
