//! What an error of Entra or Graph means: pure tables from status and body to a [`Reason`].

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::aadsts::AADSTS;
use crate::domain::{Fault, Reason};

/// AADSTS numbers whose meaning the configuration mends.
pub type ReasonOverrides = Arc<HashMap<u32, Reason>>;

/// The token endpoint's error body (RFC 6749 section 5.2 with Entra's additions).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntraError {
    /// `error`.
    #[serde(deserialize_with = "text")]
    pub error: String,
    /// Holds user names and tenant ids: never shown, only searched for the AADSTS number.
    #[serde(deserialize_with = "text")]
    pub error_description: String,
    /// AADSTS numbers, most telling first.
    #[serde(deserialize_with = "numbers")]
    pub error_codes: Vec<u32>,
    /// `suberror`.
    pub suberror: Option<String>,
    /// For Microsoft's support.
    pub correlation_id: Option<String>,
}

/// A text; anything else counts as empty, so that one odd field does not hide the rest of an error.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_str().unwrap_or_default().to_owned())
}

/// Numbers, also where they are written as texts.
fn numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).or_else(|| v.as_str()?.parse().ok());
    Ok(Value::deserialize(deserializer)?.as_array().map(|a| a.iter().take(10).filter_map(number).collect()).unwrap_or_default())
}

impl std::fmt::Display for EntraError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl oauth2::ErrorResponse for EntraError {}

impl EntraError {
    /// The numbers, from the list or else from the description.
    fn codes(&self) -> Vec<u32> {
        if !self.error_codes.is_empty() {
            return self.error_codes.clone();
        }
        aadsts_numbers(&self.error_description)
    }
}

/// The AADSTS numbers in a description, which holds names of people and is good for nothing else.
pub fn aadsts_numbers(description: &str) -> Vec<u32> {
    let after = description.split("AADSTS").skip(1);
    after.filter_map(|t| t.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).take(5).collect()
}

/// 70002 accompanies more telling numbers in older replies.
const GENERIC: u32 = 70002;

/// What an error of the token endpoint means.
pub fn classify_token(status: u16, error: &EntraError, overrides: &HashMap<u32, Reason>) -> Fault {
    let codes = error.codes();
    let (code, reason) = token_reason(status, error, &codes, overrides);
    let suberror = error.suberror.as_deref().filter(|s| !s.is_empty()).map(|s| format!(", {}", clean(s))).unwrap_or_default();
    Fault {
        reason,
        code: code.or(codes.first().copied()).map(|c| format!("AADSTS{c}")),
        request_id: error.correlation_id.as_deref().map(clean),
        detail: format!("Entra answered {status}: {}{suberror}", clean(&error.error)),
        retry_after: None,
    }
}

fn token_reason(status: u16, error: &EntraError, codes: &[u32], overrides: &HashMap<u32, Reason>) -> (Option<u32>, Reason) {
    if status == 429 {
        return (None, Reason::Throttled);
    }
    let damaged = error.error == "invalid_grant";
    let meaning = |code: &u32| {
        let known = overrides.get(code).copied().or_else(|| AADSTS.iter().find(|(c, _)| c == code).map(|(_, r)| *r))?;
        let reason = match (*code, damaged) {
            // A damaged refresh token or code; with another `error` it is the request that is malformed.
            (9_002_313 | 90023, true) if !overrides.contains_key(code) => Reason::TokenInvalid,
            (9_002_313, false) if !overrides.contains_key(code) => Reason::ConfigurationInvalid,
            _ => known,
        };
        Some((Some(*code), reason))
    };
    let mut known: Vec<(Option<u32>, Reason)> = codes.iter().filter_map(meaning).collect();
    known.sort_by_key(|(code, reason)| (reason.is_inconclusive(), *code == Some(GENERIC)));
    if let Some(first) = known.first() {
        return *first;
    }
    if status >= 500 {
        return (None, Reason::UpstreamUnavailable);
    }
    (None, fallback(&error.error, error.suberror.as_deref().unwrap_or_default()))
}

/// What `error` and `suberror` say when no number is known (Microsoft, `reference-error-codes.md`).
fn fallback(error: &str, suberror: &str) -> Reason {
    match (error, suberror) {
        (_, "basic_action" | "additional_action" | "user_password_expired") | ("interaction_required" | "login_required", _) => {
            Reason::InteractionRequired
        }
        (_, "message_only" | "protection_policy_required" | "client_mismatch" | "device_authentication_failed") => Reason::AccessBlocked,
        (_, "consent_required") | ("consent_required", _) => Reason::ConsentMissing,
        ("invalid_grant", "token_expired") => Reason::TokenExpired,
        ("invalid_grant", _) => Reason::TokenInvalid,
        ("invalid_client", _) => Reason::ClientCredentialInvalid,
        ("invalid_resource" | "invalid_scope" | "invalid_request" | "unsupported_grant_type" | "unsupported_response_type", _) => {
            Reason::ConfigurationInvalid
        }
        ("invalid_tenant", _) => Reason::TenantMissing,
        ("temporarily_unavailable" | "server_error", _) => Reason::UpstreamUnavailable,
        _ => Reason::Unclassified,
    }
}

/// Whose token a Graph request carried: a refusal means another thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphCaller {
    /// The integration's own.
    Own,
    /// The directory reader's.
    Reader,
}

/// What an error of Graph means, for a whole answer or an item of a batch (Microsoft Graph, `concepts/errors.md`).
pub fn classify_graph(status: u16, body: &Value, caller: GraphCaller) -> Fault {
    let error = &body["error"];
    let code = error["code"].as_str().unwrap_or_default();
    let inner = if error["innerError"].is_object() { &error["innerError"] } else { &error["innererror"] };
    let reader = caller == GraphCaller::Reader;
    let reason = match (status, code) {
        (429 | 509, _) => Reason::Throttled,
        (500.., _) | (400, "Directory_ExpiredPageToken") => Reason::UpstreamUnavailable,
        (200..400, _) => Reason::InvalidResponse,
        (401 | 403, _) if reader => Reason::ReaderPermissionMissing,
        (403, "Authorization_IdentityNotFound") => Reason::AppMissing,
        (403, "Authorization_IdentityDisabled") => Reason::AppDisabled,
        (403, _) => Reason::GroupAccessDenied,
        (401, _) => Reason::TokenInvalid,
        (404, "Directory_ObjectNotFound") => Reason::TenantMissing,
        (400, "Request_BadRequest") => Reason::ConfigurationInvalid,
        _ => Reason::Unclassified,
    };
    Fault {
        reason,
        code: (!code.is_empty()).then(|| clean(code)),
        request_id: inner["request-id"].as_str().map(clean),
        detail: format!("Graph answered {status}"),
        retry_after: None,
    }
}

/// A word from outside, made fit for a log line.
fn clean(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
