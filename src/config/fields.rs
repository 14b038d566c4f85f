//! Kinds of values that several sections of the file use.

use url::Host;

use super::cursor::Cursor;
use crate::domain::{Notify, parse_mail_address};

/// A bare mail address, in the spelling that mail is sent to.
pub(super) fn mail_address(at: &Cursor<'_, '_>) -> Option<String> {
    at.checked(|text| {
        // The reason says what to write instead.
        let address =
            parse_mail_address(text.trim()).map_err(|why| format!("is not a mail address: it {why}"))?;
        can_go_out(&address)?;
        Ok::<_, String>(address)
    })
}

/// A domain with letters beyond ASCII is sent as A-labels (RFC 5890 section 2.3.2.1), so the conversion must succeed.
pub(super) fn can_go_out(address: &str) -> Result<(), String> {
    let domain = address.rsplit('@').next().unwrap_or_default();
    let good = domain.is_ascii() || matches!(Host::parse(domain), Ok(Host::Domain(_)));
    if good {
        Ok(())
    } else {
        Err("is not a mail address: its domain has a character that no domain has; type it again".to_owned())
    }
}

/// Who gets the mails for administrators.
pub(super) fn notify(at: &Cursor<'_, '_>) -> Option<Notify> {
    at.one_of(&Notify::ALL.map(|setting| (setting.label(), setting)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_without_an_ascii_form_are_rejected() {
        for (address, good) in [
            ("it@m\u{fc}nchen.example", true),
            ("it@\u{4f8b}\u{3048}.example", true),
            ("it@exam\u{2025}ple.com", false),
            ("it@192.0.2.\u{ff11}", false),
            ("it@exa\u{ff0f}mple.com", false),
            ("it@xn--\u{fc}.example", false),
            ("it@a\u{2488}com", false),
        ] {
            assert_eq!(can_go_out(address).is_ok(), good, "{address}");
        }
    }
}
