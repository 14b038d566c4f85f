//! Tables of error numbers and bodies, alone and in combination.

use serde_json::json;

use super::*;

fn entra(error: &str, codes: &[u32], suberror: &str) -> EntraError {
    let suberror = (!suberror.is_empty()).then(|| suberror.to_owned());
    EntraError { error: error.to_owned(), error_codes: codes.to_vec(), suberror, ..EntraError::default() }
}

#[test]
fn every_number_has_its_reason() {
    for (code, reason) in AADSTS {
        let error =
            entra(if reason.is_our_side() { "invalid_request" } else { "invalid_grant" }, &[*code], "");
        assert_eq!(classify_token(400, &error, &HashMap::new()).reason, *reason, "AADSTS{code}");
    }
    let mut numbers: Vec<u32> = AADSTS.iter().map(|(c, _)| *c).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), AADSTS.len(), "a number is in the table once");
}

#[test]
fn similar_errors_have_different_reasons() {
    use Reason::*;
    for (sentence, status, error, expected) in [
        ("damaged refresh token", 400, entra("invalid_grant", &[9_002_313], ""), TokenInvalid),
        ("malformed request", 400, entra("invalid_request", &[9_002_313], ""), ConfigurationInvalid),
        ("damaged code", 400, entra("invalid_grant", &[90023], ""), TokenInvalid),
        (
            "an old pair: the more specific number wins",
            400,
            entra("invalid_grant", &[70002, 70008], ""),
            TokenExpired,
        ),
        (
            "a transient number does not hide a permanent one",
            400,
            entra("invalid_grant", &[90033, 50173], ""),
            TokenRevoked,
        ),
        ("a transient number alone", 400, entra("invalid_grant", &[90033], ""), UpstreamUnavailable),
        (
            "missing service principal is not a wrong secret",
            401,
            entra("invalid_client", &[7_000_229], ""),
            AppMissing,
        ),
        ("wrong secret", 401, entra("invalid_client", &[7_000_215], ""), ClientCredentialInvalid),
        ("429 with any body", 429, entra("invalid_grant", &[50173], ""), Throttled),
        ("503 with an unknown body", 503, entra("", &[], ""), UpstreamUnavailable),
        (
            "unknown number, suberror helps",
            400,
            entra("invalid_grant", &[999_999], "basic_action"),
            InteractionRequired,
        ),
        (
            "unknown number, message only",
            400,
            entra("invalid_grant", &[999_999], "message_only"),
            AccessBlocked,
        ),
        (
            "unknown number, consent",
            400,
            entra("invalid_grant", &[999_999], "consent_required"),
            ConsentMissing,
        ),
        ("unknown number, bad token", 400, entra("invalid_grant", &[999_999], "bad_token"), TokenInvalid),
        (
            "unknown number, token expired",
            400,
            entra("invalid_grant", &[999_999], "token_expired"),
            TokenExpired,
        ),
        (
            "unknown number, invalid_grant alone",
            400,
            entra("invalid_grant", &[999_999], ""),
            InteractionRequired,
        ),
        ("no number, invalid_grant alone", 400, entra("invalid_grant", &[], ""), TokenInvalid),
        ("zero is not a number", 400, entra("invalid_grant", &[0], ""), TokenInvalid),
        (
            "unknown number, unauthorized_client",
            400,
            entra("unauthorized_client", &[999_999], ""),
            Unclassified,
        ),
        ("unknown number, invalid_client", 401, entra("invalid_client", &[], ""), ClientCredentialInvalid),
        ("unknown number, tenant", 400, entra("invalid_tenant", &[], ""), TenantMissing),
        ("unknown number, scope", 400, entra("invalid_scope", &[], ""), ConfigurationInvalid),
        ("nothing known", 400, entra("something_new", &[], ""), Unclassified),
    ] {
        assert_eq!(classify_token(status, &error, &HashMap::new()).reason, expected, "{sentence}");
    }
}

/// An unknown number of a device, a policy or a consent never means that a token is damaged.
#[test]
fn unknown_numbers_do_not_blame_the_token() {
    use Reason::*;
    for (sentence, status, error, expected) in [
        ("an unknown policy", 400, entra("invalid_grant", &[53_099], ""), InteractionRequired),
        (
            "an unknown policy that a sign-in does not change",
            400,
            entra("invalid_grant", &[53_099], "message_only"),
            AccessBlocked,
        ),
        (
            "an unknown policy with the suberror of a bad token",
            400,
            entra("invalid_grant", &[530_099], "bad_token"),
            InteractionRequired,
        ),
        (
            "an unknown device",
            400,
            entra("invalid_grant", &[135_099], "device_authentication_failed"),
            AccessBlocked,
        ),
        ("an unknown device, no suberror", 400, entra("invalid_grant", &[135_099], ""), InteractionRequired),
        ("an unknown account error", 400, entra("invalid_grant", &[50_999], ""), InteractionRequired),
        ("an unknown consent error", 400, entra("invalid_grant", &[65_999], ""), InteractionRequired),
        (
            "an unknown consent error with its suberror",
            400,
            entra("invalid_grant", &[650_999], "consent_required"),
            ConsentMissing,
        ),
        ("an unknown grant", 400, entra("invalid_grant", &[700_999], ""), InteractionRequired),
        (
            "an unknown grant with the suberror of a bad token",
            400,
            entra("invalid_grant", &[700_999], "bad_token"),
            TokenInvalid,
        ),
        ("an unknown application error", 400, entra("invalid_grant", &[7_000_999], ""), Unclassified),
        ("an unknown protocol error", 400, entra("invalid_grant", &[90_999], ""), Unclassified),
        ("an unknown federation error", 400, entra("invalid_grant", &[1_002_999], ""), Unclassified),
        (
            "interaction that only shows a message",
            400,
            entra("interaction_required", &[53_099], "message_only"),
            AccessBlocked,
        ),
        (
            "interaction for a consent",
            400,
            entra("interaction_required", &[999_999], "consent_required"),
            ConsentMissing,
        ),
        (
            "an unknown number while the service is down",
            503,
            entra("invalid_grant", &[53_099], ""),
            UpstreamUnavailable,
        ),
        (
            "a known one among unknown ones",
            400,
            entra("invalid_grant", &[999_999, 530_002], ""),
            AccessBlocked,
        ),
        ("a proxy asks for its own sign-in", 407, entra("", &[], ""), NetworkError),
        ("a time-out of a gateway", 408, entra("", &[], ""), Timeout),
        ("403 without Entra's error body", 403, entra("", &[], ""), InvalidResponse),
        ("404 without Entra's error body", 404, entra("", &[], ""), InvalidResponse),
    ] {
        assert_eq!(classify_token(status, &error, &HashMap::new()).reason, expected, "{sentence}");
    }
}

#[test]
fn all_observed_forms_of_error_bodies_are_read() {
    use Reason::*;
    for (sentence, body, expected) in [
        (
            "as documented",
            r#"{"error":"invalid_grant","error_codes":[50173],"suberror":"bad_token"}"#,
            TokenRevoked,
        ),
        ("a byte order mark", "\u{feff}{\"error\":\"invalid_grant\",\"error_codes\":[50173]}", TokenRevoked),
        (
            "a numeric suberror",
            r#"{"error":"invalid_grant","error_codes":[700082],"suberror":7}"#,
            TokenExpired,
        ),
        (
            "a suberror that is null",
            r#"{"error":"invalid_grant","error_codes":[700082],"suberror":null}"#,
            TokenExpired,
        ),
        (
            "a suberror that is an object",
            r#"{"error":"invalid_grant","error_codes":[700082],"suberror":{}}"#,
            TokenExpired,
        ),
        (
            "ids as numbers",
            r#"{"error":"invalid_grant","error_codes":[50057],"correlation_id":12,"trace_id":null}"#,
            AccountDisabled,
        ),
        ("codes as texts", r#"{"error":"invalid_grant","error_codes":["50057"]}"#, AccountDisabled),
        (
            "codes as texts with their prefix",
            r#"{"error":"invalid_grant","error_codes":["AADSTS50057"]}"#,
            AccountDisabled,
        ),
        ("one code without a list", r#"{"error":"invalid_grant","error_codes":50057}"#, AccountDisabled),
        (
            "codes that are null",
            r#"{"error":"invalid_grant","error_codes":null,"error_description":"AADSTS50057: x"}"#,
            AccountDisabled,
        ),
        ("a gateway's JSON", r#"{"message":"Forbidden"}"#, InvalidResponse),
        ("another API's JSON", r#"{"error":{"code":403,"message":"Forbidden"}}"#, InvalidResponse),
        ("a page", "<html></html>", InvalidResponse),
        ("nothing", "", InvalidResponse),
    ] {
        assert_eq!(
            classify_token(400, &EntraError::parse(body.as_bytes()), &HashMap::new()).reason,
            expected,
            "{sentence}"
        );
    }
    let numeric =
        EntraError::parse(br#"{"error":"invalid_grant","error_codes":[50057],"correlation_id":12}"#);
    assert_eq!(classify_token(400, &numeric, &HashMap::new()).request_id.as_deref(), Some("12"));
}

#[test]
fn the_most_specific_of_several_numbers_counts() {
    use Reason::*;
    for (codes, expected) in [
        (vec![70002, 70008], Some(TokenExpired)),
        (vec![90033, 530_002], Some(AccessBlocked)),
        (vec![999_999], None),
        (vec![], None),
        (vec![70002], Some(ClientCredentialInvalid)),
    ] {
        assert_eq!(meaning_of(&codes), expected, "{codes:?}");
    }
}

#[test]
fn numbers_are_found_in_the_description_and_overridden() {
    let text = "AADSTS700082: The refresh token of ada@contoso.com has expired.\r\nTrace ID: …";
    let error = EntraError {
        error: "invalid_grant".to_owned(),
        error_description: text.to_owned(),
        ..EntraError::default()
    };
    let fault = classify_token(400, &error, &HashMap::new());
    assert_eq!((fault.reason, fault.code.as_deref()), (Reason::TokenExpired, Some("AADSTS700082")));
    assert!(!format!("{fault:?}").contains("ada@"), "descriptions contain names and are not shown");
    let overrides = HashMap::from([(700_082, Reason::TokenRevoked), (9_002_313, Reason::AccessBlocked)]);
    assert_eq!(classify_token(400, &error, &overrides).reason, Reason::TokenRevoked);
    assert_eq!(
        classify_token(400, &entra("invalid_grant", &[9_002_313], ""), &overrides).reason,
        Reason::AccessBlocked
    );
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
        (407, "UnknownError", own, NetworkError),
        (408, "UnknownError", reader, Timeout),
        (424, "UnknownError", own, UpstreamUnavailable),
        (424, "TooManyRequests", own, Throttled),
        (410, "Gone", own, Unclassified),
    ] {
        let body = json!({"error": {"code": code, "message": "geheim", "innererror": {"request-id": "r-1"}}});
        let fault = classify_graph(status, &body, caller);
        assert_eq!(fault.reason, expected, "{status} {code} {caller:?}");
        assert_eq!(fault.request_id.as_deref(), Some("r-1"));
        assert!(!fault.detail.contains("geheim"));
    }
}

/// Proxies send these statuses, too. Only an error in Graph's own format counts as Graph's.
#[test]
fn errors_not_from_graph_are_recognised() {
    use Reason::*;
    let (own, reader) = (GraphCaller::Own, GraphCaller::Reader);
    let shapes = [
        Value::Null,
        json!("<html>Blocked by your organization</html>"),
        json!({}),
        json!([]),
        json!({"message": "Forbidden"}),
        json!({"error": "Forbidden"}),
        json!({"error": {"code": 403, "message": "Forbidden"}}),
        json!({"error": {"code": null}}),
        json!({"error": {"message": "Forbidden"}}),
        json!({"Error": {"Code": "Authorization_RequestDenied"}}),
    ];
    for body in &shapes {
        for (status, expected) in [
            (302, InvalidResponse),
            (400, InvalidResponse),
            (401, InvalidResponse),
            (403, InvalidResponse),
            (404, InvalidResponse),
            (407, NetworkError),
            (408, Timeout),
            (410, InvalidResponse),
            (424, InvalidResponse),
            (429, Throttled),
            (451, InvalidResponse),
            (502, UpstreamUnavailable),
            (503, UpstreamUnavailable),
        ] {
            for caller in [own, reader] {
                assert_eq!(
                    classify_graph(status, body, caller).reason,
                    expected,
                    "{status} {body} {caller:?}"
                );
            }
        }
    }
}

#[test]
fn claims_challenges_and_nested_throttling() {
    use Reason::*;
    let (own, reader) = (GraphCaller::Own, GraphCaller::Reader);
    let challenged =
        json!({"error": {"code": "insufficient_claims", "message": "", "innerError": {"request-id": "r-1"}}});
    let inside =
        json!({"error": {"code": "Forbidden", "message": "", "innerError": {"code": "insufficient_claims"}}});
    let oauth = json!({"error": "insufficient_claims", "claims": "e30="});
    for (sentence, status, body, caller, expected) in [
        ("a challenge with 401", 401, &challenged, own, InteractionRequired),
        ("a challenge with 403", 403, &challenged, own, InteractionRequired),
        ("a challenge deep inside", 403, &inside, own, InteractionRequired),
        ("a challenge in OAuth's shape", 403, &oauth, own, InteractionRequired),
        ("a challenge to a reader", 403, &challenged, reader, ReaderPermissionMissing),
        ("the word with another status", 404, &challenged, own, Unclassified),
    ] {
        assert_eq!(classify_graph(status, body, caller).reason, expected, "{sentence}");
    }
    assert_eq!(classify_graph(403, &challenged, own).request_id.as_deref(), Some("r-1"));
    for inner in
        [json!({"code": "429"}), json!({"status": 429}), json!({"code": "Request_ThrottledTemporarily"})]
    {
        let body = json!({"error": {"code": "FailedDependency", "message": "", "innerError": inner}});
        assert_eq!(classify_graph(424, &body, own).reason, Throttled, "{body}");
    }
}

/// Bodies as the real services send them, one per reason, so that actual responses are classified and not a paraphrase.
#[test]
fn recorded_bodies() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/entra");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("fixtures").flatten() {
        let recorded: Value =
            serde_json::from_slice(&std::fs::read(entry.path()).expect("readable")).expect("JSON");
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
