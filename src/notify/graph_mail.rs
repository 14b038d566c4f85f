//! Sends mails through Microsoft Graph's `sendMail`.

use std::time::{Duration, Instant};

use super::account::{token_failure, token_problem};
use super::message::Rendered;
use super::mime::{compose_message, recipient};
use super::settings::GraphSettings;
use super::smtp::{Accepted, Blame, Delivery, Failure, Undelivered};
use crate::domain::{Timestamp, one_line};
use crate::entra::{SendMailLost, SendMailResponse};
use crate::metrics::EmailFailure;
use crate::secret::Secret;

/// The time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after an answer that leaves open whether the mail was sent.
const UNSURE: Duration = Duration::from_secs(3600);

/// A mail that is ready to be sent. If this is dropped, it is not sent.
pub(super) struct Prepared {
    settings: GraphSettings,
    message: Vec<u8>,
    token: Secret,
    dialogue: Vec<String>,
}

/// Makes the message and gets a token. Nothing is sent yet.
pub(super) async fn prepare(
    settings: &GraphSettings,
    address: &str,
    mail: &Rendered,
    now: Timestamp,
) -> Result<Prepared, Undelivered> {
    let refused = |failure, text| Undelivered { failure, dialogue: vec![text] };
    let to = recipient(address).map_err(|text| {
        refused(Failure::of(EmailFailure::Rejected, Blame::Recipient), format!("! {text}"))
    })?;
    let message = compose_message(&settings.sender, to, mail, now)
        .map_err(|text| refused(Failure::transport(EmailFailure::Other), format!("! {text}")))?;
    let token = settings.tokens.token().await.map_err(|fault| {
        let text = token_problem(&fault);
        refused(token_failure(&fault), text)
    })?;
    let dialogue = vec![format!("> POST /v1.0/users/{}/sendMail", settings.mailbox)];
    Ok(Prepared { settings: settings.clone(), message, token, dialogue })
}

/// Gets a token, as far as the account can be tried without a mail.
pub(super) async fn test(settings: &GraphSettings) -> Delivery {
    match settings.tokens.token().await {
        Ok(_) => Delivery { outcome: Ok(Accepted::default()), dialogue: Vec::new() },
        Err(fault) => Delivery { outcome: Err(token_failure(&fault)), dialogue: vec![token_problem(&fault)] },
    }
}

impl Prepared {
    /// Sends it, and waits for the response. A token that is refused is renewed once.
    pub(super) async fn end(mut self) -> Delivery {
        let mut answer = self.post().await;
        if matches!(&answer, Ok(response) if response.status == 401) {
            self.settings.tokens.forget(&self.token).await;
            self.dialogue.push("< 401; getting another token".to_owned());
            match self.settings.tokens.token().await {
                Ok(token) => {
                    self.token = token;
                    answer = self.post().await;
                }
                Err(fault) => {
                    self.dialogue.push(token_problem(&fault));
                    let failure = token_failure(&fault);
                    return Delivery { outcome: Err(failure), dialogue: self.dialogue };
                }
            }
        }
        let outcome = match answer {
            Ok(response) => {
                self.dialogue.push(shown(&response));
                judge(&response)
            }
            Err(SendMailLost { detail, sent, timeout }) => {
                self.dialogue.push(format!("! {detail}"));
                let kind = if timeout { EmailFailure::Timeout } else { EmailFailure::Connect };
                Err(if sent {
                    self.dialogue.push("! it is unknown whether the mail was accepted".to_owned());
                    Failure::of(kind, Blame::Unanswered)
                } else {
                    Failure::transport(EmailFailure::Connect)
                })
            }
        };
        Delivery { outcome, dialogue: self.dialogue }
    }

    async fn post(&self) -> Result<SendMailResponse, SendMailLost> {
        let entra = self.settings.tokens.entra();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        entra.send_mail(&self.settings.mailbox, &self.token, &self.message, deadline).await
    }
}

/// A response in one line.
fn shown(response: &SendMailResponse) -> String {
    let mut line = format!("< {}", response.status);
    for part in [&response.code, &response.message].into_iter().flatten() {
        line.push_str(&format!(" {}", one_line(part, 200)));
    }
    if let Some(id) = &response.request_id {
        line.push_str(&format!(" (request {})", one_line(id, 64)));
    }
    match hint(response) {
        Some(hint) => format!("{line}: {hint}"),
        None => line,
    }
}

/// What to do about a response.
fn hint(response: &SendMailResponse) -> Option<&'static str> {
    match (response.status, response.code.as_deref()) {
        (_, Some("ErrorSendAsDenied")) => {
            Some("the mailbox may not send as email.from; give it Send As, or write its own address there")
        }
        (403, _) => Some(
            "the application may not send from this mailbox; grant it Application Mail.Send for the mailbox in Exchange (consentry setup --mail)",
        ),
        (404, _) => Some("there is no such mailbox; correct email.graph.sender"),
        (401, _) => Some("the token is not accepted, not even a new one"),
        _ => None,
    }
}

/// What a response means.
fn judge(response: &SendMailResponse) -> Result<Accepted, Failure> {
    let code = response.code.as_deref().unwrap_or_default();
    let waits = |kind| Err(Failure { pause: response.retry_after, ..Failure::transport(kind) });
    match response.status {
        200..300 => Ok(Accepted::default()),
        _ if matches!(code, "ErrorSendAsDenied") => waits(EmailFailure::Auth),
        401 | 403 => waits(EmailFailure::Auth),
        400 if matches!(code, "ErrorInvalidRecipients" | "ErrorInvalidRecipient") => {
            Err(Failure::of(EmailFailure::Rejected, Blame::Recipient))
        }
        413 => Err(Failure::of(EmailFailure::Rejected, Blame::Content)),
        400 if code.starts_with("ErrorMime") || code.starts_with("ErrorMessage") => {
            Err(Failure::of(EmailFailure::Rejected, Blame::Content))
        }
        429 => Err(Failure {
            pause: response.retry_after,
            too_much: true,
            ..Failure::transport(EmailFailure::Other)
        }),
        // A gateway did not hear from the service behind it, which may have sent the mail. It is not given up, because such a fault may last for hours, and
        // not repeated soon.
        500 | 502 | 504 => {
            let kind = if response.status == 504 { EmailFailure::Timeout } else { EmailFailure::Other };
            Err(Failure { pause: Some(UNSURE), ..Failure::transport(kind) })
        }
        _ => waits(EmailFailure::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_send_mail_are_judged() {
        let pause = Some(Duration::from_secs(90));
        for (status, code, retry_after, expected) in [
            (202, None, None, Ok(Accepted::default())),
            (
                401,
                Some("InvalidAuthenticationToken"),
                None,
                Err((EmailFailure::Auth, Blame::Transport, None)),
            ),
            (403, Some("ErrorAccessDenied"), None, Err((EmailFailure::Auth, Blame::Transport, None))),
            (403, Some("ErrorSendAsDenied"), None, Err((EmailFailure::Auth, Blame::Transport, None))),
            (404, Some("ErrorInvalidUser"), None, Err((EmailFailure::Other, Blame::Transport, None))),
            (
                400,
                Some("ErrorInvalidRecipients"),
                None,
                Err((EmailFailure::Rejected, Blame::Recipient, None)),
            ),
            (400, Some("ErrorMimeContentInvalid"), None, Err((EmailFailure::Rejected, Blame::Content, None))),
            (413, None, None, Err((EmailFailure::Rejected, Blame::Content, None))),
            (429, Some("ApplicationThrottled"), pause, Err((EmailFailure::Other, Blame::Transport, pause))),
            (503, None, pause, Err((EmailFailure::Other, Blame::Transport, pause))),
            (500, None, None, Err((EmailFailure::Other, Blame::Transport, Some(UNSURE)))),
            (502, None, None, Err((EmailFailure::Other, Blame::Transport, Some(UNSURE)))),
            (504, None, None, Err((EmailFailure::Timeout, Blame::Transport, Some(UNSURE)))),
        ] {
            let code = code.map(str::to_owned);
            let response = SendMailResponse { status, code, retry_after, ..SendMailResponse::default() };
            let judged = judge(&response).map_err(|failure| (failure.kind, failure.blame, failure.pause));
            assert_eq!(judged, expected, "{status} {:?}", response.code);
        }
    }
}
