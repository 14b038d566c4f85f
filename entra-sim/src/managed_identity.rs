//! The endpoints from which programs on Azure machines get tokens of managed identities: IMDS, App Service, Azure Arc.
//!
//! The tokens are signed with the key of the login host, so that they can be exchanged there as federated assertions. Their
//! issuer is `{login}/{tenant}/v2.0` with the base URL under which the request came and [`TENANT`]; see [`issuer`].

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::model::{Identity, World};
use crate::reply::{Reply, fields};
use crate::token_request::Refused;
use crate::tokens::Keys;

/// The tenant of all managed identities.
pub const TENANT: &str = "33333333-0000-0000-0000-0000000000aa";

/// `iss` of the tokens that are issued under this base URL of the login host.
pub fn issuer(login: &str) -> String {
    format!("{login}/{TENANT}/v2.0")
}

/// Whether a token with this issuer claims to come from here.
pub(crate) fn is_own_issuer(issuer: &str) -> bool {
    issuer.strip_suffix("/v2.0").and_then(|rest| rest.rsplit_once('/')).is_some_and(|(_, t)| t == TENANT)
}

/// The three platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    /// A virtual machine's metadata service.
    Imds,
    /// App Service and Container Apps.
    Website,
    /// A machine that is connected to Azure.
    Arc,
}

impl Platform {
    /// The platform whose endpoint is at this path and query.
    pub(crate) fn of(target: &str) -> Option<Self> {
        match target.split('?').next().unwrap_or_default() {
            "/metadata/identity/oauth2/token" => Some(Self::Imds),
            "/msi/token" => Some(Self::Website),
            "/arc/token" => Some(Self::Arc),
            _ => None,
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::Imds => "2018-02-01",
            Self::Website => "2019-08-01",
            Self::Arc => "2020-06-01",
        }
    }

    /// An error in the platform's form.
    pub(crate) fn error(self, status: u16, error: &str, description: &str) -> Reply {
        let body = match self {
            Self::Website => json!({"statusCode": status, "message": description}),
            Self::Imds | Self::Arc => json!({"error": error, "error_description": description}),
        };
        Reply::json(status, &body)
    }

    fn invalid<T>(self, description: &str) -> Refused<T> {
        Err(Box::new(self.error(400, "invalid_request", description)))
    }
}

/// A request for a token.
#[derive(Debug)]
pub(crate) struct IdentityRequest<'a> {
    pub(crate) platform: Platform,
    /// HTTP method.
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// Header `Metadata`.
    pub(crate) metadata: Option<&'a str>,
    /// Header `X-IDENTITY-HEADER`.
    pub(crate) secret: Option<&'a str>,
    /// Header `Authorization`.
    pub(crate) authorization: Option<&'a str>,
    /// Base URL of the login host as the client sees it.
    pub(crate) login: &'a str,
}

/// The response of one of the three endpoints.
pub(crate) fn answer(world: &World, keys: &Keys, request: &IdentityRequest<'_>) -> Reply {
    issue(world, keys, request).unwrap_or_else(|refusal| *refusal)
}

fn issue(world: &World, keys: &Keys, request: &IdentityRequest<'_>) -> Refused<Reply> {
    let platform = request.platform;
    if request.method != "GET" {
        return Err(Box::new(platform.error(405, "method_not_allowed", "Method not allowed")));
    }
    check_headers(world, request)?;
    let query = fields(request.target.split_once('?').map_or("", |(_, query)| query));
    if query.get("api-version").is_none_or(|version| version != platform.api_version()) {
        return platform.invalid("Required query variable 'api-version' is missing or not supported");
    }
    let Some(resource) = query.get("resource").filter(|resource| !resource.is_empty()) else {
        return platform.invalid("Required audience parameter not specified");
    };
    if platform == Platform::Arc {
        check_challenge(world, request.authorization)?;
    }
    let Some(identity) = identity(world, platform, &query) else {
        return platform.invalid(match platform {
            Platform::Website => {
                "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId."
            }
            Platform::Imds | Platform::Arc => "Identity not found",
        });
    };
    token(world, keys, identity, resource, request.login)
        .map_err(|error| Box::new(platform.error(500, "unknown", &error.to_string())))
}

/// Nobody but a program on the machine can send these headers.
fn check_headers(world: &World, request: &IdentityRequest<'_>) -> Refused<()> {
    let platform = request.platform;
    match platform {
        Platform::Website if request.secret != Some(&world.identity_header) => Err(Box::new(platform.error(
            401,
            "unauthorized",
            "The X-IDENTITY-HEADER header is missing or wrong.",
        ))),
        Platform::Imds | Platform::Arc
            if !request.metadata.is_some_and(|m| m.eq_ignore_ascii_case("true")) =>
        {
            platform.invalid("Required metadata header not specified")
        }
        _ => Ok(()),
    }
}

/// Azure Arc: only who can read the file gets a token.
fn check_challenge(world: &World, authorization: Option<&str>) -> Refused<()> {
    let platform = Platform::Arc;
    let Some((file, content)) = &world.arc_challenge else {
        return Err(Box::new(platform.error(404, "not_found", "The machine is not connected to Azure")));
    };
    let description = match authorization {
        Some(sent) if sent.strip_prefix("Basic ") == Some(content) => return Ok(()),
        Some(_) => "Invalid Basic Authorization header",
        None => "Missing Basic Authorization header",
    };
    let reply = platform.error(401, "unauthorized_client", description);
    Err(Box::new(reply.with("WWW-Authenticate", format!("Basic realm={file}"))))
}

/// The identity that a query names. Without a name it is the system-assigned one; IMDS then also takes the only user-assigned one.
fn identity<'w>(
    world: &'w World,
    platform: Platform,
    query: &HashMap<String, String>,
) -> Option<&'w Identity> {
    let field = |names: [&str; 2]| names.iter().find_map(|name| query.get(*name));
    if let Some(client) = query.get("client_id") {
        let client = Uuid::parse_str(client).ok()?;
        return world.identities.iter().find(|i| i.client_id == Some(client));
    }
    if let Some(object) = field(["object_id", "principal_id"]) {
        return world.identities.iter().find(|i| i.subject.eq_ignore_ascii_case(object));
    }
    // The last segment of a resource id is the identity's name.
    if let Some(resource) = field(["msi_res_id", "mi_res_id"]) {
        let name = resource.rsplit('/').next()?;
        return world
            .identities
            .iter()
            .find(|i| i.client_id.is_some() && i.subject.eq_ignore_ascii_case(name));
    }
    let system = world.identities.iter().find(|i| i.client_id.is_none());
    match world.identities.as_slice() {
        [only] if platform == Platform::Imds => Some(only),
        _ => system,
    }
}

fn token(
    world: &World,
    keys: &Keys,
    identity: &Identity,
    resource: &str,
    login: &str,
) -> anyhow::Result<Reply> {
    let now = world.now().as_second();
    let lifetime = world.identity_lifetime_seconds.unwrap_or(86_399);
    let mut claims = json!({"iss": issuer(login), "sub": identity.subject, "oid": identity.subject, "aud": resource,
        "tid": TENANT, "iat": now, "nbf": now, "exp": now + lifetime});
    if let Some(client) = identity.client_id {
        claims["appid"] = json!(client);
    }
    let text = |number: i64| Value::String(number.to_string());
    Ok(Reply::json(
        200,
        &json!({"access_token": keys.sign(&claims)?, "expires_in": text(lifetime), "expires_on": text(now + lifetime),
            "not_before": text(now), "resource": resource, "token_type": "Bearer"}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assertion::Jwt;
    use crate::fixture::{KEYS, LOGIN, NOW, act, parsed, world};

    const USER_ASSIGNED: Uuid = Uuid::from_u128(0xabc);
    const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://r";
    const WEBSITE: &str = "/msi/token?api-version=2019-08-01&resource=https://r";
    const ARC: &str = "/arc/token?api-version=2020-06-01&resource=https://r";

    fn machine(identities: &[(Option<Uuid>, &str)]) -> World {
        let mut world = world();
        let mut actions = vec![
            json!({"action": "set_identity_header", "value": "secret"}),
            json!({"action": "set_arc_challenge", "file": "/var/opt/azcmagent/tokens/1.key", "content": "proof"}),
        ];
        for (client_id, subject) in identities {
            actions
                .push(json!({"action": "add_managed_identity", "client_id": client_id, "subject": subject}));
        }
        for action in actions {
            act(&mut world, action).unwrap();
        }
        world
    }

    /// A request with all headers that the three platforms require.
    fn complete(target: &str) -> IdentityRequest<'_> {
        IdentityRequest {
            platform: Platform::of(target).unwrap(),
            method: "GET",
            target,
            metadata: Some("true"),
            secret: Some("secret"),
            authorization: Some("Basic proof"),
            login: LOGIN,
        }
    }

    fn subject(body: &Value) -> Option<String> {
        let jwt = Jwt::parse(body["access_token"].as_str()?).ok()?;
        jwt.claims["sub"].as_str().map(str::to_owned)
    }

    #[test]
    fn the_named_identity_gets_the_token() {
        let both: &[_] = &[(None, "system"), (Some(USER_ASSIGNED), "user")];
        let user: &[_] = &[(Some(USER_ASSIGNED), "user")];
        let two: &[_] = &[(Some(USER_ASSIGNED), "user"), (Some(Uuid::from_u128(1)), "other")];
        let by_client = format!("&client_id={USER_ASSIGNED}");
        for (machine_has, endpoint, name, expected) in [
            (both, IMDS, "", Some("system")),
            (both, IMDS, &*by_client, Some("user")),
            (both, IMDS, "&object_id=user", Some("user")),
            (both, IMDS, "&msi_res_id=/subscriptions/1/userAssignedIdentities/user", Some("user")),
            (both, IMDS, "&client_id=text", None),
            (both, IMDS, "&client_id=00000000-0000-0000-0000-000000000000", None),
            (user, IMDS, "", Some("user")),
            (two, IMDS, "", None),
            (&[], IMDS, "", None),
            (both, WEBSITE, "", Some("system")),
            (both, WEBSITE, &*by_client, Some("user")),
            (user, WEBSITE, "", None),
            (both, ARC, "", Some("system")),
            (user, ARC, "", None),
        ] {
            let target = format!("{endpoint}{name}");
            let (status, body) = parsed(&answer(&machine(machine_has), &KEYS, &complete(&target)));
            assert_eq!(subject(&body).as_deref(), expected, "{machine_has:?} at {target}");
            assert_eq!(status, if expected.is_some() { 200 } else { 400 }, "{machine_has:?} at {target}");
        }
        let (_, body) = parsed(&answer(&machine(&[]), &KEYS, &complete(IMDS)));
        assert_eq!(body, json!({"error": "invalid_request", "error_description": "Identity not found"}));
    }

    #[test]
    fn a_token_is_signed_and_its_numbers_are_texts() {
        let mut world = machine(&[(None, "system")]);
        act(&mut world, json!({"action": "set_managed_identity_lifetime", "seconds": 600})).unwrap();
        let (_, body) = parsed(&answer(&world, &KEYS, &complete(IMDS)));
        let token = body["access_token"].as_str().unwrap();
        let expected = json!({"access_token": token, "expires_in": "600", "expires_on": (NOW + 600).to_string(),
            "not_before": NOW.to_string(), "resource": "https://r", "token_type": "Bearer"});
        assert_eq!(body, expected);
        let jwt = Jwt::parse(token).ok().unwrap();
        assert!(KEYS.verify(jwt.signed, &jwt.signature));
        for (claim, value) in [
            ("iss", json!(issuer(LOGIN))),
            ("sub", json!("system")),
            ("aud", json!("https://r")),
            ("iat", json!(NOW)),
            ("nbf", json!(NOW)),
            ("exp", json!(NOW + 600)),
        ] {
            assert_eq!(jwt.claims[claim], value, "{claim}");
        }
        let (_, body) = parsed(&answer(&machine(&[(None, "system")]), &KEYS, &complete(IMDS)));
        assert_eq!(body["expires_in"], "86399");
    }

    #[test]
    fn each_platform_requires_what_only_the_machine_knows() {
        let world = machine(&[(None, "system")]);
        let metadata = json!({"error": "invalid_request", "error_description": "Required metadata header not specified"});
        let secret =
            json!({"statusCode": 401, "message": "The X-IDENTITY-HEADER header is missing or wrong."});
        let challenge = |text: &str| json!({"error": "unauthorized_client", "error_description": text});
        for (case, request, status, expected) in [
            (
                "IMDS without Metadata",
                IdentityRequest { metadata: None, ..complete(IMDS) },
                400,
                metadata.clone(),
            ),
            (
                "IMDS with Metadata: false",
                IdentityRequest { metadata: Some("false"), ..complete(IMDS) },
                400,
                metadata.clone(),
            ),
            ("Arc without Metadata", IdentityRequest { metadata: None, ..complete(ARC) }, 400, metadata),
            (
                "App Service without header",
                IdentityRequest { secret: None, ..complete(WEBSITE) },
                401,
                secret.clone(),
            ),
            (
                "App Service with another header",
                IdentityRequest { secret: Some("x"), ..complete(WEBSITE) },
                401,
                secret,
            ),
            (
                "Arc without proof",
                IdentityRequest { authorization: None, ..complete(ARC) },
                401,
                challenge("Missing Basic Authorization header"),
            ),
            (
                "Arc with a wrong proof",
                IdentityRequest { authorization: Some("Basic x"), ..complete(ARC) },
                401,
                challenge("Invalid Basic Authorization header"),
            ),
        ] {
            let reply = answer(&world, &KEYS, &request);
            assert_eq!(parsed(&reply), (status, expected), "{case}");
            let named: Vec<&str> = reply.headers.iter().map(|(_, value)| &**value).collect();
            let realm = ["Basic realm=/var/opt/azcmagent/tokens/1.key"];
            assert_eq!(named, if case.contains("proof") { &realm[..] } else { &[] }, "{case}");
        }
    }

    #[test]
    fn requests_that_are_incomplete_are_refused() {
        let world = machine(&[(None, "system")]);
        for (target, method, status) in [
            (IMDS, "POST", 405),
            ("/metadata/identity/oauth2/token?resource=https://r", "GET", 400),
            ("/metadata/identity/oauth2/token?api-version=2019-08-01&resource=https://r", "GET", 400),
            ("/metadata/identity/oauth2/token?api-version=2018-02-01", "GET", 400),
            ("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=", "GET", 400),
            ("/msi/token?api-version=2018-02-01&resource=https://r", "GET", 400),
            ("/arc/token?api-version=2018-02-01&resource=https://r", "GET", 400),
        ] {
            let reply = answer(&world, &KEYS, &IdentityRequest { method, ..complete(target) });
            assert_eq!(reply.status, status, "{method} {target}");
        }
        for (issuer, own) in [
            (&*issuer("https://localhost:1"), true),
            ("https://localhost/33333333-0000-0000-0000-0000000000aa/", false),
            ("https://localhost/33333333-0000-0000-0000-0000000000ab/v2.0", false),
            ("https://issuer.example", false),
        ] {
            assert_eq!(is_own_issuer(issuer), own, "{issuer}");
        }
    }
}
