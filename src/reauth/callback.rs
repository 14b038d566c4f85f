//! Parses the query of the redirect URI, with which Entra sends the browser back. Nothing in it is signed, so nothing is trusted.

use crate::entra::aadsts_numbers;
use crate::secret::Secret;

/// A callback with a state that can be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The OAuth 2.0 state.
    pub state: Secret,
    /// The result in the query.
    pub answer: Answer,
}

/// The result of the authorize or admin consent endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An authorization code (RFC 6749 section 4.1.2).
    Code(Secret),
    /// The admin consent page reports acceptance, which proves nothing because it is unsigned (Microsoft, `v2-admin-consent.md`).
    AdminConsent {
        /// The tenant that the query names.
        tenant: Option<String>,
    },
    /// An error (RFC 6749 section 4.1.2.1 with Entra's additions).
    Refused(RedirectError),
}

/// An error in the redirect. The description contains names of people and is only searched for AADSTS numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectError {
    /// `error`: lower-case letters and underscores.
    pub error: String,
    /// `error_subcode` is `cancel`.
    pub cancelled: bool,
    /// AADSTS numbers of `error_description`.
    pub codes: Vec<u32>,
}

/// The query is not a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The highest length of a query in bytes, more than Entra ever sends.
const LONGEST: usize = 16 * 1024;

/// Parses the query. An error takes precedence, because errors may also contain `admin_consent=True`.
///
/// # Errors
/// The query has no state, no result, or a parameter twice.
pub fn parse(query: &str) -> Result<Callback, Malformed> {
    if query.len() > LONGEST {
        return Err(Malformed);
    }
    let (mut state, mut code, mut error, mut admin_consent) = (None, None, None, None);
    let (mut subcode, mut description, mut tenant) = (None, None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let slot = match &*name {
            "state" => &mut state,
            "code" => &mut code,
            "error" => &mut error,
            "admin_consent" => &mut admin_consent,
            "error_subcode" => &mut subcode,
            "error_description" => &mut description,
            "tenant" => &mut tenant,
            _ => continue,
        };
        // A parameter must not occur more than once (RFC 6749 section 3.1).
        if slot.replace(value.into_owned()).is_some() {
            return Err(Malformed);
        }
    }
    let state = Secret::new(state.filter(|s| !s.is_empty()).ok_or(Malformed)?);
    let answer = match (error, code.filter(|c| !c.is_empty()), admin_consent) {
        (Some(error), ..) => Answer::Refused(RedirectError {
            error: error.chars().filter(|c| c.is_ascii_lowercase() || *c == '_').take(64).collect(),
            cancelled: subcode.as_deref() == Some("cancel"),
            codes: aadsts_numbers(description.as_deref().unwrap_or_default()),
        }),
        (None, Some(code), _) => Answer::Code(Secret::new(code)),
        (None, None, Some(given)) if given.eq_ignore_ascii_case("true") => {
            Answer::AdminConsent { tenant: tenant.filter(|t| !t.is_empty()) }
        }
        _ => return Err(Malformed),
    };
    Ok(Callback { state, answer })
}

/// `Some` for a query without a sign-in that comes from the admin consent page of a mail or of `consentry setup`: whether it reports that the
/// permissions were accepted. It proves nothing and changes nothing.
pub fn admin_consent_without_state(query: &str) -> Option<bool> {
    let has = |name: &str| url::form_urlencoded::parse(query.as_bytes()).any(|(n, _)| n == name);
    (query.len() <= LONGEST && has("admin_consent") && !has("state") && !has("code")).then(|| !has("error"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(error: &str, cancelled: bool, codes: &[u32]) -> Answer {
        Answer::Refused(RedirectError { error: error.to_owned(), cancelled, codes: codes.to_vec() })
    }

    #[test]
    fn callbacks_of_all_kinds_are_parsed() {
        let code = |text: &str| Answer::Code(Secret::new(text));
        for (sentence, query, expected) in [
            ("a code", "code=1.abc&state=s&session_state=x", Ok(code("1.abc"))),
            (
                "cancelled",
                "error=access_denied&error_subcode=cancel&state=s",
                Ok(refused("access_denied", true, &[])),
            ),
            (
                "a number in the description",
                "error=access_denied&error_description=AADSTS90094%3a+needs+an+administrator&state=s",
                Ok(refused("access_denied", false, &[90094])),
            ),
            (
                "admin consent has True in errors, too",
                "admin_consent=True&error=consent_required&error_description=AADSTS65004%3a+declined&state=s",
                Ok(refused("consent_required", false, &[65004])),
            ),
            (
                "an error takes precedence over a code",
                "code=1.abc&error=server_error&state=s",
                Ok(refused("server_error", false, &[])),
            ),
            (
                "admin consent",
                "admin_consent=True&tenant=11111111-1111-1111-1111-111111111111&state=s",
                Ok(Answer::AdminConsent { tenant: Some("11111111-1111-1111-1111-111111111111".to_owned()) }),
            ),
            ("an error is sanitized", "error=%3Cscript%3E_x&state=s", Ok(refused("script_x", false, &[]))),
            ("no state", "code=1.abc", Err(Malformed)),
            ("an empty state", "code=1.abc&state=", Err(Malformed)),
            ("nothing but a state", "state=s", Err(Malformed)),
            ("two codes", "code=a&code=b&state=s", Err(Malformed)),
            ("two states", "code=a&state=s&state=t", Err(Malformed)),
            ("consent denied without an error", "admin_consent=False&state=s", Err(Malformed)),
            ("nothing", "", Err(Malformed)),
        ] {
            assert_eq!(parse(query).map(|c| c.answer), expected, "{sentence}");
        }
        for (query, expected) in [
            ("admin_consent=True&tenant=x&scope=y", Some(true)),
            ("admin_consent=true&error=access_denied", Some(false)),
            ("admin_consent=True&state=s", None),
            ("code=c", None),
        ] {
            assert_eq!(admin_consent_without_state(query), expected, "{query}");
        }
        assert_eq!(parse(&format!("state=s&code={}", "a".repeat(LONGEST))), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(query in ".{0,400}") {
            if let Ok(callback) = parse(&query) {
                prop_assert!(!callback.state.expose().is_empty());
            }
        }

        #[test]
        fn state_and_code_are_read_unchanged(state in "[A-Za-z0-9_-]{1,80}", code in "\\PC{1,200}") {
            let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("code", &code).append_pair("state", &state).finish();
            let callback = parse(&query).expect("a callback");
            prop_assert_eq!(callback.state.expose(), &state);
            prop_assert_eq!(callback.answer, Answer::Code(Secret::new(code)));
        }
    }
}
