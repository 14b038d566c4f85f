//! What an error of Entra or Graph means: pure functions from status and body to a [`Reason`].

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::aadsts::AADSTS;
use crate::domain::{Fault, Reason};

/// AADSTS numbers whose reason is set in the configuration.
pub type ReasonOverrides = Arc<HashMap<u32, Reason>>;

/// The token endpoint's error body (RFC 6749 section 5.2 with Entra's additions).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntraError {
    /// `error`.
    #[serde(deserialize_with = "text")]
    pub error: String,
    /// Contains user names and tenant ids: never shown, only searched for the AADSTS number.
    #[serde(deserialize_with = "text")]
    pub error_description: String,
    /// AADSTS numbers, the most specific first.
    #[serde(deserialize_with = "numbers")]
    pub error_codes: Vec<u32>,
    /// `suberror`.
    #[serde(deserialize_with = "word")]
    pub suberror: Option<String>,
    /// For Microsoft's support.
    #[serde(deserialize_with = "word")]
    pub correlation_id: Option<String>,
}

/// A string; anything else counts as empty, so that one unexpected field does not hide the rest of an error.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_str().unwrap_or_default().to_owned())
}

/// A string or a number, because both occur; null and anything else count as absent.
fn word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// Numbers, also if they are strings, or a single one without a list.
fn numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let number = |v: &Value| {
        let written = || v.as_str()?.trim().trim_start_matches("AADSTS").parse().ok();
        v.as_u64().and_then(|n| u32::try_from(n).ok()).or_else(written)
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(list) => list.iter().take(10).filter_map(number).collect(),
        alone => number(&alone).into_iter().collect(),
    })
}

impl std::fmt::Display for EntraError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl oauth2::ErrorResponse for EntraError {}

impl EntraError {
    /// Reads an error body. Anything else has no `error` and no number.
    pub(super) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(without_mark(body)).unwrap_or_default()
    }

    /// The numbers from the list, otherwise from the description. Zero does not count.
    fn codes(&self) -> Vec<u32> {
        let listed: Vec<u32> = self.error_codes.iter().copied().filter(|code| *code != 0).collect();
        if listed.is_empty() { aadsts_numbers(&self.error_description) } else { listed }
    }
}

/// The body without the byte order mark that some servers write before JSON (RFC 8259 section 8.1 lets parsers ignore it).
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The AADSTS numbers in a description. The rest of the description contains names of people and is not used.
pub fn aadsts_numbers(description: &str) -> Vec<u32> {
    let after = description.split("AADSTS").skip(1);
    after.filter_map(|t| t.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).take(5).collect()
}

/// 70002 accompanies more specific numbers in older responses.
const GENERIC: u32 = 70002;

/// What an error of the token endpoint means.
pub fn classify_token(status: u16, error: &EntraError, overrides: &HashMap<u32, Reason>) -> Fault {
    let codes = error.codes();
    let (code, reason) = token_reason(status, error, &codes, overrides);
    let suberror = error
        .suberror
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|s| format!(", {}", clean(s)))
        .unwrap_or_default();
    Fault {
        reason,
        code: code.or(codes.first().copied()).map(|c| format!("AADSTS{c}")),
        request_id: error.correlation_id.as_deref().map(clean),
        detail: format!("Entra answered {status}: {}{suberror}", clean(&error.error)),
        retry_after: None,
    }
}

fn token_reason(
    status: u16,
    error: &EntraError,
    codes: &[u32],
    overrides: &HashMap<u32, Reason>,
) -> (Option<u32>, Reason) {
    if status == 429 {
        return (None, Reason::Throttled);
    }
    let damaged = error.error == "invalid_grant";
    let meaning = |code: u32| {
        let known = overrides.get(&code).copied().or_else(|| table(code))?;
        Some(match (code, damaged) {
            // A damaged refresh token or code; with another `error` the request itself is malformed.
            (9_002_313 | 90023, true) if !overrides.contains_key(&code) => Reason::TokenInvalid,
            (9_002_313, false) if !overrides.contains_key(&code) => Reason::ConfigurationInvalid,
            _ => known,
        })
    };
    if let Some((code, reason)) = most_telling(codes, meaning) {
        return (Some(code), reason);
    }
    let reason = match status {
        500.. => Reason::UpstreamUnavailable,
        407 => Reason::NetworkError,
        408 => Reason::Timeout,
        // Not an error body of the token endpoint: a proxy or another server answered instead.
        _ if error.error.is_empty() && codes.is_empty() => Reason::InvalidResponse,
        _ => fallback(&error.error, error.suberror.as_deref().unwrap_or_default(), codes),
    };
    (None, reason)
}

fn table(code: u32) -> Option<Reason> {
    AADSTS.iter().find(|(known, _)| *known == code).map(|(_, reason)| *reason)
}

/// The most specific of several numbers: a transient fault does not hide a lasting one, and a general one comes last.
fn most_telling(codes: &[u32], meaning: impl Fn(u32) -> Option<Reason>) -> Option<(u32, Reason)> {
    let known = codes.iter().filter_map(|code| Some((*code, meaning(*code)?)));
    known.min_by_key(|(code, reason)| (reason.is_inconclusive(), *code == GENERIC))
}

/// What AADSTS numbers mean according to the table. `None` if it contains none of them.
pub fn meaning_of(codes: &[u32]) -> Option<Reason> {
    most_telling(codes, table).map(|(_, reason)| reason)
}

/// What `error` and `suberror` mean if no number is known (Microsoft, `reference-error-codes.md`).
fn fallback(error: &str, suberror: &str, codes: &[u32]) -> Reason {
    match (error, suberror) {
        (_, "basic_action" | "additional_action" | "user_password_expired") => Reason::InteractionRequired,
        (
            _,
            "message_only"
            | "protection_policy_required"
            | "client_mismatch"
            | "device_authentication_failed",
        ) => Reason::AccessBlocked,
        (_, "consent_required") | ("consent_required", _) => Reason::ConsentMissing,
        ("interaction_required" | "login_required", _) => Reason::InteractionRequired,
        ("invalid_grant", "token_expired") => Reason::TokenExpired,
        ("invalid_grant", _) => {
            codes.first().map_or(Reason::TokenInvalid, |code| unknown_grant(*code, suberror))
        }
        ("invalid_client", _) => Reason::ClientCredentialInvalid,
        (
            "invalid_resource"
            | "invalid_scope"
            | "invalid_request"
            | "unsupported_grant_type"
            | "unsupported_response_type",
            _,
        ) => Reason::ConfigurationInvalid,
        ("invalid_tenant", _) => Reason::TenantMissing,
        ("temporarily_unavailable" | "server_error", _) => Reason::UpstreamUnavailable,
        _ => Reason::Unclassified,
    }
}

/// `invalid_grant` with an unknown number. `error` alone would mean that the token is damaged, but Entra also returns it when a device, a
/// policy or a consent prevents the sign-in (Microsoft, `reference-error-codes.md`, "Handling error codes in your application"), and most
/// new numbers are about those. If anything helps, it is a new sign-in, so the reason asks for one and does not blame the token. Numbers
/// about the application, the protocol, other identity providers and services on premises are unclassified, because a new sign-in does not
/// help.
fn unknown_grant(code: u32, suberror: &str) -> Reason {
    let about_the_person = matches!(code, 16_000..=16_999 | 50_000..=54_999 | 65_000..=65_999 | 130_000..=139_999 | 500_000..=549_999 | 650_000..=659_999);
    match code {
        40_000..=40_999 | 80_000..=81_999 | 90_000..=90_999 | 900_000..=909_999 | 1_000_000..=9_999_999 => {
            Reason::Unclassified
        }
        _ if suberror == "bad_token" && !about_the_person => Reason::TokenInvalid,
        _ => Reason::InteractionRequired,
    }
}

/// Whose token a Graph request has: it decides what an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphCaller {
    /// The integration's own.
    Own,
    /// The directory reader's.
    Reader,
}

/// `error.code` of an object that does not exist (Microsoft Graph, `concepts/errors.md`): the only 404 that means this.
pub(super) const NOT_FOUND: &str = "Request_ResourceNotFound";

/// The error of a claims challenge (Microsoft, `claims-challenge.md`).
const CHALLENGE: &str = "insufficient_claims";

/// What an error of Graph means, for a whole response or an item of a batch (Microsoft Graph, `concepts/errors.md`). An error counts only
/// in Graph's own format, JSON with a string as `error.code`: a proxy that inspects TLS also returns 401, 403 and 404, and nobody in the
/// tenant can change that.
pub fn classify_graph(status: u16, body: &Value, caller: GraphCaller) -> Fault {
    let error = &body["error"];
    let inner = if error["innerError"].is_object() { &error["innerError"] } else { &error["innererror"] };
    let request_id = inner["request-id"].as_str().map(clean);
    if matches!(status, 401 | 403) && mentions(body, 0, &is_challenge) {
        return Fault { request_id, ..challenge(status, caller) };
    }
    let Some(code) = error["code"].as_str() else { return not_from_graph(status) };
    let reader = caller == GraphCaller::Reader;
    let reason = match (status, code) {
        (424, _) if mentions(error, 0, &is_throttling) => Reason::Throttled,
        (424, _) | (400, "Directory_ExpiredPageToken") => Reason::UpstreamUnavailable,
        (401 | 403, _) if reader => Reason::ReaderPermissionMissing,
        (403, "Authorization_IdentityNotFound") => Reason::AppMissing,
        (403, "Authorization_IdentityDisabled") => Reason::AppDisabled,
        (403, _) => Reason::GroupAccessDenied,
        (401, _) => Reason::TokenInvalid,
        (404, "Directory_ObjectNotFound") => Reason::TenantMissing,
        (400, "Request_BadRequest") => Reason::ConfigurationInvalid,
        _ => of_status(status).unwrap_or(Reason::Unclassified),
    };
    Fault {
        reason,
        code: (!code.is_empty()).then(|| clean(code)),
        request_id,
        detail: format!("Graph answered {status}"),
        retry_after: None,
    }
}

/// Continuous access evaluation: the user must sign in again, the token is not damaged (Microsoft, `claims-challenge.md`). A reader has no
/// user; if its token is rejected, it lacks a permission.
pub(super) fn challenge(status: u16, caller: GraphCaller) -> Fault {
    let reason = match caller {
        GraphCaller::Own => Reason::InteractionRequired,
        GraphCaller::Reader => Reason::ReaderPermissionMissing,
    };
    let detail = format!("Graph answered {status} with a claims challenge");
    Fault { code: Some(CHALLENGE.to_owned()), ..Fault::new(reason, detail) }
}

/// Whether a `WWW-Authenticate` header, or a text in a body, contains a claims challenge.
pub(super) fn is_challenge(text: &str) -> bool {
    text.contains(CHALLENGE)
}

/// An error response that is not from Graph.
fn not_from_graph(status: u16) -> Fault {
    let reason = of_status(status).unwrap_or(Reason::InvalidResponse);
    Fault::new(reason, format!("{status} came without Graph's error body: a proxy may have answered instead"))
}

/// What the status alone means, whoever sent it.
const fn of_status(status: u16) -> Option<Reason> {
    match status {
        429 | 509 => Some(Reason::Throttled),
        407 => Some(Reason::NetworkError),
        408 => Some(Reason::Timeout),
        500.. => Some(Reason::UpstreamUnavailable),
        0..400 => Some(Reason::InvalidResponse),
        _ => None,
    }
}

/// Whether a string or number anywhere inside matches. The depth is limited, and no real error is deeper.
fn mentions(value: &Value, depth: usize, wanted: &dyn Fn(&str) -> bool) -> bool {
    const DEEPEST: usize = 16;
    match value {
        _ if depth > DEEPEST => false,
        Value::String(text) => wanted(text),
        Value::Number(number) => wanted(&number.to_string()),
        Value::Array(items) => items.iter().any(|item| mentions(item, depth + 1, wanted)),
        Value::Object(fields) => fields.values().any(|field| mentions(field, depth + 1, wanted)),
        Value::Null | Value::Bool(_) => false,
    }
}

/// The status or code of a throttled request, which the error of another request contains.
fn is_throttling(text: &str) -> bool {
    text == "429"
        || text.eq_ignore_ascii_case("TooManyRequests")
        || text.to_ascii_lowercase().contains("throttl")
}

/// A word from outside, made safe for a log line.
fn clean(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
