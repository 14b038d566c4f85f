//! The tables: every number means what it should, alone and in company.

use serde_json::json;

use super::*;

fn entra(error: &str, codes: &[u32], suberror: &str) -> EntraError {
    let suberror = (!suberror.is_empty()).then(|| suberror.to_owned());
    EntraError { error: error.to_owned(), error_codes: codes.to_vec(), suberror, ..EntraError::default() }
}

#[test]
fn every_number_has_its_reason() {
    for (code, reason) in AADSTS {
        let error = entra(if reason.is_our_side() { "invalid_request" } else { "invalid_grant" }, &[*code], "");
        assert_eq!(classify_token(400, &error, &HashMap::new()).reason, *reason, "AADSTS{code}");
    }
    let mut numbers: Vec<u32> = AADSTS.iter().map(|(c, _)| *c).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), AADSTS.len(), "a number stands in the table once");
}

#[test]
fn confusing_neighbours() {
    use Reason::*;
    for (sentence, status, error, expected) in [
        ("damaged refresh token", 400, entra("invalid_grant", &[9_002_313], ""), TokenInvalid),
        ("malformed request", 400, entra("invalid_request", &[9_002_313], ""), ConfigurationInvalid),
        ("damaged code", 400, entra("invalid_grant", &[90023], ""), TokenInvalid),
        ("an old pair: the telling number wins", 400, entra("invalid_grant", &[70002, 70008], ""), TokenExpired),
        ("a transient number does not hide a permanent one", 400, entra("invalid_grant", &[90033, 50173], ""), TokenRevoked),
        ("a transient number alone", 400, entra("invalid_grant", &[90033], ""), UpstreamUnavailable),
        ("missing service principal is not a wrong secret", 401, entra("invalid_client", &[7_000_229], ""), AppMissing),
        ("wrong secret", 401, entra("invalid_client", &[7_000_215], ""), ClientCredentialInvalid),
        ("429 whatever it says", 429, entra("invalid_grant", &[50173], ""), Throttled),
        ("503 with an unknown body", 503, entra("", &[], ""), UpstreamUnavailable),
        ("unknown number, suberror helps", 400, entra("invalid_grant", &[999_999], "basic_action"), InteractionRequired),
        ("unknown number, message only", 400, entra("invalid_grant", &[999_999], "message_only"), AccessBlocked),
        ("unknown number, consent", 400, entra("invalid_grant", &[999_999], "consent_required"), ConsentMissing),
        ("unknown number, bad token", 400, entra("invalid_grant", &[999_999], "bad_token"), TokenInvalid),
        ("unknown number, token expired", 400, entra("invalid_grant", &[999_999], "token_expired"), TokenExpired),
        ("unknown number, invalid_grant alone", 400, entra("invalid_grant", &[999_999], ""), TokenInvalid),
        ("unknown number, unauthorized_client", 400, entra("unauthorized_client", &[999_999], ""), Unclassified),
        ("unknown number, invalid_client", 401, entra("invalid_client", &[], ""), ClientCredentialInvalid),
        ("unknown number, tenant", 400, entra("invalid_tenant", &[], ""), TenantMissing),
        ("unknown number, scope", 400, entra("invalid_scope", &[], ""), ConfigurationInvalid),
        ("nothing known at all", 400, entra("something_new", &[], ""), Unclassified),
    ] {
        assert_eq!(classify_token(status, &error, &HashMap::new()).reason, expected, "{sentence}");
    }
}

#[test]
fn numbers_are_found_in_the_description_and_overridden() {
    let text = "AADSTS700082: The refresh token of ada@contoso.com has expired.\r\nTrace ID: …";
    let error = EntraError { error: "invalid_grant".to_owned(), error_description: text.to_owned(), ..EntraError::default() };
    let fault = classify_token(400, &error, &HashMap::new());
    assert_eq!((fault.reason, fault.code.as_deref()), (Reason::TokenExpired, Some("AADSTS700082")));
    assert!(!format!("{fault:?}").contains("ada@"), "descriptions hold names and stay out");
    let overrides = HashMap::from([(700_082, Reason::TokenRevoked), (9_002_313, Reason::AccessBlocked)]);
    assert_eq!(classify_token(400, &error, &overrides).reason, Reason::TokenRevoked);
    assert_eq!(classify_token(400, &entra("invalid_grant", &[9_002_313], ""), &overrides).reason, Reason::AccessBlocked);
}

#[test]
fn graph_errors() {
    use Reason::*;
    let (own, reader) = (GraphCaller::Own, GraphCaller::Reader);
    for (status, code, caller, expected) in [
        (400, "Request_BadRequest", own, ConfigurationInvalid),
        (400, "Request_UnsupportedQuery", own, Unclassified),
        (400, "Request_InvalidRequestUrl", own, Unclassified),
        (400, "Directory_ExpiredPageToken", own, UpstreamUnavailable),
        (401, "InvalidAuthenticationToken", own, TokenInvalid),
        (401, "InvalidAuthenticationToken", reader, ReaderPermissionMissing),
        (403, "Authorization_RequestDenied", own, GroupAccessDenied),
        (403, "Authorization_RequestDenied", reader, ReaderPermissionMissing),
        (403, "Authorization_IdentityNotFound", own, AppMissing),
        (403, "Authorization_IdentityDisabled", own, AppDisabled),
        (403, "UnknownError", own, GroupAccessDenied),
        (404, "Request_ResourceNotFound", own, Unclassified),
        (404, "Directory_ObjectNotFound", own, TenantMissing),
        (405, "Request_BadRequest", own, Unclassified),
        (429, "TooManyRequests", own, Throttled),
        (429, "Request_ThrottledTemporarily", own, Throttled),
        (429, "UnknownError", reader, Throttled),
        (500, "Service_InternalServerError", own, UpstreamUnavailable),
        (503, "Directory_ReplicaUnavailable", reader, UpstreamUnavailable),
        (504, "UnknownError", own, UpstreamUnavailable),
        (509, "", own, Throttled),
        (302, "", own, InvalidResponse),
        (403, "", own, GroupAccessDenied),
    ] {
        let body = json!({"error": {"code": code, "message": "geheim", "innererror": {"request-id": "r-1"}}});
        let fault = classify_graph(status, &body, caller);
        assert_eq!(fault.reason, expected, "{status} {code} {caller:?}");
        assert_eq!(fault.request_id.as_deref(), Some("r-1"));
        assert!(!fault.detail.contains("geheim"));
    }
}

/// Bodies as the real services send them, one a reason: what arrives on the wire is classified, not a paraphrase of it.
#[test]
fn recorded_bodies() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/entra");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("fixtures").flatten() {
        let recorded: Value = serde_json::from_slice(&std::fs::read(entry.path()).expect("readable")).expect("JSON");
        let status = u16::try_from(recorded["status"].as_u64().expect("status")).expect("status");
        let fault = if recorded["from"] == "token" {
            let error = serde_json::from_value(recorded["body"].clone()).expect("an Entra error");
            classify_token(status, &error, &HashMap::new())
        } else {
            classify_graph(status, &recorded["body"], GraphCaller::Own)
        };
        assert_eq!(fault.reason.label(), recorded["reason"], "{:?}", entry.path());
        seen += 1;
    }
    assert!(seen >= 10, "{seen} fixtures");
}
