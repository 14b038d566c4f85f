//! Logging in (RFC 4954): with a password by PLAIN or LOGIN, or with an access token by XOAUTH2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};

use super::{Session, SmtpDialogue};
use crate::config::SmtpLogin;
use crate::metrics::EmailFailure;
use crate::notify::account::{MailTokens, token_failure, token_problem};
use crate::notify::settings::SmtpSettings;
use crate::notify::smtp::blame::{Failure, Step, judge};
use crate::notify::smtp::reply::Reply;
use crate::secret::SecretSource;

impl Session {
    pub(super) async fn log_in(
        &mut self,
        settings: &SmtpSettings,
        dialogue: &mut SmtpDialogue,
    ) -> Result<(), Failure> {
        match (&settings.server.login, &settings.tokens) {
            (None, _) => Ok(()),
            (Some(SmtpLogin::Password(name, password)), _) => {
                self.log_in_with_password(name, password, dialogue).await
            }
            (Some(SmtpLogin::OAuth2(name, _)), Some(tokens)) => {
                self.log_in_with_token(name, tokens, dialogue).await
            }
            (Some(SmtpLogin::OAuth2(..)), None) => {
                dialogue.note("! there is no account for access tokens");
                Err(Failure::transport(EmailFailure::Auth))
            }
        }
    }

    /// XOAUTH2 (Microsoft, `how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth.md`). A token that is refused is renewed once.
    async fn log_in_with_token(
        &mut self,
        name: &str,
        tokens: &MailTokens,
        dialogue: &mut SmtpDialogue,
    ) -> Result<(), Failure> {
        if !self.offers.xoauth2 {
            dialogue.note("! the server offers no login with an access token (AUTH XOAUTH2); use another server, or a password");
            return Err(Failure::transport(EmailFailure::Auth));
        }
        for attempt in 1..=2 {
            let token = tokens.token().await.map_err(|fault| {
                dialogue.note(token_problem(&fault));
                token_failure(&fault)
            })?;
            dialogue.hide(token.expose());
            let credentials = Credentials::new(name.to_owned(), token.expose().to_owned());
            dialogue.note(format!("> AUTH XOAUTH2 (as {name}, token not shown)"));
            let reply = self.authenticate(Mechanism::Xoauth2, &credentials, dialogue).await?;
            dialogue.log_response(&reply);
            match reply.code {
                235 => return Ok(()),
                400..500 => {
                    let judged = judge(Step::Sender, &reply);
                    return Err(Failure { kind: EmailFailure::Other, ..judged });
                }
                535 if attempt == 1 && self.is_usable() => {
                    tokens.forget(&token).await;
                    dialogue.note("* getting another token");
                }
                _ => break,
            }
        }
        Err(Failure::transport(EmailFailure::Auth))
    }

    async fn log_in_with_password(
        &mut self,
        name: &str,
        password: &SecretSource,
        dialogue: &mut SmtpDialogue,
    ) -> Result<(), Failure> {
        let refused = Failure::transport(EmailFailure::Auth);
        let password = password.read().map_err(|e| {
            dialogue.note(format!("! {e}"));
            refused
        })?;
        let credentials = Credentials::new(name.to_owned(), password.expose().to_owned());
        for text in [password.expose().to_owned(), STANDARD.encode(password.expose())] {
            dialogue.hide(&text);
        }
        let mut mechanisms = Vec::new();
        if self.offers.plain {
            mechanisms.push(Mechanism::Plain);
        }
        if self.offers.login {
            mechanisms.push(Mechanism::Login);
        }
        if mechanisms.is_empty() {
            dialogue.note(
                "! the server offers no login with user name and password (AUTH PLAIN or LOGIN); remove username, or use another server",
            );
        }
        for mechanism in mechanisms {
            dialogue.note(format!("> AUTH {mechanism} (as {name}, password not shown)"));
            let reply = self.authenticate(mechanism, &credentials, dialogue).await?;
            dialogue.log_response(&reply);
            match reply.code {
                235 => return Ok(()),
                // RFC 4954 section 4: the server does not support the mechanism that it offered.
                504 => {}
                400..500 => return Err(Failure::transport(EmailFailure::Other)),
                _ => return Err(refused),
            }
        }
        Err(refused)
    }

    /// One exchange of RFC 4954 section 4. The challenges of LOGIN are answered in their order, whatever their texts are: servers translate and
    /// misspell them.
    async fn authenticate(
        &mut self,
        mechanism: Mechanism,
        credentials: &Credentials,
        dialogue: &mut SmtpDialogue,
    ) -> Result<Reply, Failure> {
        let answer = |challenge: Option<&str>| {
            mechanism.response(credentials, challenge).map(|text| STANDARD.encode(text))
        };
        let (first, answers) = match mechanism {
            Mechanism::Login => {
                ("AUTH LOGIN".to_owned(), vec![answer(Some("Username")), answer(Some("Password"))])
            }
            Mechanism::Xoauth2 => {
                let initial = answer(None);
                let command =
                    initial.as_ref().map(|text| format!("AUTH {mechanism} {text}")).unwrap_or_default();
                if let Ok(text) = &initial {
                    dialogue.hide(text);
                }
                // A refusal comes as a challenge, which is answered with an empty line.
                (command, vec![Ok(String::new())])
            }
            Mechanism::Plain => {
                let initial = answer(None);
                let command =
                    initial.as_ref().map(|text| format!("AUTH {mechanism} {text}")).unwrap_or_default();
                // A server may ask for the initial response although the command contained it.
                (command, vec![initial])
            }
        };
        if let Some(Ok(text)) = answers.last().filter(|text| !matches!(text, Ok(empty) if empty.is_empty())) {
            dialogue.hide(text);
        }
        let mut reply = self.say(&first, dialogue).await?;
        for answer in answers {
            if reply.code != 334 {
                break;
            }
            let text = answer.map_err(|e| {
                dialogue.note(format!("! {e}"));
                Failure::transport(EmailFailure::Auth)
            })?;
            reply = self.say(&text, dialogue).await?;
        }
        Ok(reply)
    }
}
