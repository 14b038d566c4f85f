//! The query of the OAuth 2.0 redirect URI: any query is either parsed or rejected, without a panic, and the parsed values can be
//! used in logs and look-ups.

#![no_main]

use consentry::reauth::callback::{Answer, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let Ok(callback) = parse(query) else { return };
    assert!(!callback.state.expose().is_empty());
    match callback.answer {
        Answer::Code(code) => assert!(!code.expose().is_empty()),
        Answer::AdminConsent { tenant } => assert!(tenant.is_none_or(|t| !t.is_empty())),
        Answer::Refused(error) => {
            assert!(
                error.error.len() <= 64 && error.error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            );
            assert!(error.codes.len() <= 5);
        }
    }
});
