//! The login host: OpenID configuration, keys, and the token endpoint.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use uuid::Uuid;

use crate::assertion;
use crate::model::{Registration, TokenDeath, World};
use crate::redeem::{Grant, redeem, tokens_for_user};
use crate::reply::{EntraError, Reply};
use crate::token_request::{Refused, TokenRequest, audience, check_user, parse_scope, refuse, revoked};
use crate::tokens::Keys;

/// `GET /{tenant}/v2.0/.well-known/openid-configuration`.
pub fn openid_configuration(world: &World, tenant: &str, login: &str, graph: &str) -> Reply {
    let Some(id) = world.tenant_id(tenant) else { return no_tenant(world, tenant) };
    let base = format!("{login}/{id}");
    Reply::json(
        200,
        &json!({
            "issuer": format!("{base}/v2.0"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
            "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
            "jwks_uri": format!("{base}/discovery/v2.0/keys"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid", "oid"],
            "tenant_region_scope": "EU",
            "cloud_instance_name": "microsoftonline.com",
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": graph.split("://").nth(1).unwrap_or(graph),
        }),
    )
}

/// AADSTS90002.
pub fn no_tenant(world: &World, tenant: &str) -> Reply {
    let message = format!(
        "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."
    );
    Reply::entra_error(world, EntraError::invalid_request(90002, &message))
}

/// Adds `client_id` and `client_secret` from HTTP Basic (RFC 6749 section 2.3.1).
pub fn merge_basic(form: &mut HashMap<String, String>, authorization: Option<&str>) {
    let Some(basic) = authorization.and_then(|a| a.strip_prefix("Basic ")) else { return };
    let Some(text) = STANDARD.decode(basic).ok().and_then(|b| String::from_utf8(b).ok()) else { return };
    let decode = |part: &str| {
        url::form_urlencoded::parse(format!("v={part}").as_bytes())
            .next()
            .map(|(_, v)| v.into_owned())
            .unwrap_or_default()
    };
    if let Some((id, secret)) = text.split_once(':') {
        form.entry("client_id".to_owned()).or_insert_with(|| decode(id));
        form.entry("client_secret".to_owned()).or_insert_with(|| decode(secret));
    }
}

/// `POST /{tenant}/oauth2/v2.0/token`.
pub fn token(world: &mut World, keys: &Keys, request: &TokenRequest<'_>) -> Reply {
    issue(world, keys, request).unwrap_or_else(|refusal| *refusal)
}

fn issue(world: &mut World, keys: &Keys, request: &TokenRequest<'_>) -> Refused<Reply> {
    let form = &request.form;
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let Some(tenant) = world.tenant_id(request.tenant) else {
        return Err(Box::new(no_tenant(world, request.tenant)));
    };
    let Ok(client) = Uuid::parse_str(field("client_id")) else {
        return refuse(
            world,
            EntraError::invalid_request(
                900_144,
                "The request body must contain the following parameter: 'client_id'.",
            ),
        );
    };
    let Some(app) = world.apps.get(&client).cloned() else {
        let message =
            format!("Application with identifier '{client}' was not found in the directory '{tenant}'.");
        return refuse(world, EntraError::new(400, "unauthorized_client", 700_016, &message));
    };
    if world.tenants.get(&tenant).is_none_or(|t| t.principal(client).is_none())
        && field("grant_type") != "authorization_code"
    {
        let message =
            format!("The client application {client} is missing service principal in the tenant {tenant}.");
        return refuse(world, EntraError::invalid_client(7_000_229, &message));
    }
    authenticate(world, keys, &app, request)?;
    let principal = world.tenants.get(&tenant).and_then(|t| t.principal(client));
    let disabled = principal.is_some_and(|p| !p.enabled || p.disabled_by_microsoft.is_some());
    if disabled || app.deactivated {
        let message = format!("Application '{client}'({}) is disabled.", app.name);
        return refuse(world, EntraError::new(400, "unauthorized_client", 7_000_112, &message));
    }
    match field("grant_type") {
        "client_credentials" => client_credentials(world, keys, request, tenant, &app),
        "refresh_token" => refresh(world, keys, request, tenant, &app),
        "authorization_code" => redeem(world, keys, request, tenant, &app),
        other => refuse(
            world,
            EntraError::new(
                400,
                "unsupported_grant_type",
                70003,
                &format!("The app requested an unsupported grant type '{other}'."),
            ),
        ),
    }
}

/// Client authentication: secret, assertion, or none for public clients.
fn authenticate(world: &World, keys: &Keys, app: &Registration, request: &TokenRequest<'_>) -> Refused<()> {
    let confidential = app.is_confidential();
    let now = world.now();
    if let Some(text) = request.form.get("client_assertion") {
        return match assertion::check(app, keys, text, request, now.as_second()) {
            Ok(()) => Ok(()),
            Err((aadsts, message)) => refuse(world, EntraError::invalid_client(aadsts, &message)),
        };
    }
    if let Some(secret) = request.form.get("client_secret") {
        return match app.secrets.iter().find(|s| s.value == *secret) {
            Some(found) if found.expires > now => Ok(()),
            Some(_) => refuse(
                world,
                EntraError::invalid_client(7_000_222, "The provided client secret keys for app are expired."),
            ),
            None if !confidential => refuse(
                world,
                EntraError::invalid_client(
                    700_025,
                    "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
                ),
            ),
            None => refuse(
                world,
                EntraError::invalid_client(
                    7_000_215,
                    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.",
                ),
            ),
        };
    }
    if request.form.get("grant_type").is_some_and(|g| g == "client_credentials") {
        return refuse(
            world,
            EntraError::invalid_client(
                7_000_216,
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            ),
        );
    }
    if confidential {
        return refuse(
            world,
            EntraError::invalid_client(
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            ),
        );
    }
    Ok(())
}

/// The resource of access tokens for mail servers.
pub(crate) const EXCHANGE: &str = "https://outlook.office365.com";

fn client_credentials(
    world: &World,
    keys: &Keys,
    request: &TokenRequest<'_>,
    tenant: Uuid,
    app: &Registration,
) -> Refused<Reply> {
    let scope = request.form.get("scope").map_or("", String::as_str);
    if scope.strip_suffix("/.default") == Some(EXCHANGE) {
        let now = world.now().as_second();
        let claims = json!({"aud": EXCHANGE, "iat": now, "nbf": now, "exp": now + 3599, "appid": app.app_id, "idtyp": "app", "tid": tenant});
        let token = keys.access_token(&claims);
        return Ok(Reply::json(
            200,
            &json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token}),
        ));
    }
    let (resource, wanted, _) = parse_scope(world, scope, request.graph)?;
    if wanted.is_some() {
        let message = format!(
            "The provided value for the input parameter 'scope' is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier. Scope {scope}"
        );
        return refuse(world, EntraError::new(400, "invalid_scope", 1_002_012, &message));
    }
    let Some(directory) = world.tenants.get(&tenant) else {
        return Err(Box::new(no_tenant(world, request.tenant)));
    };
    if directory.block_apps {
        return refuse(
            world,
            EntraError::invalid_grant(53003, "Access has been blocked by Conditional Access policies.")
                .because("message_only"),
        );
    }
    let Some(resource_principal) = directory.principal(resource) else {
        return refuse(
            world,
            EntraError::new(
                400,
                "invalid_resource",
                500_011,
                "The resource principal was not found in the tenant.",
            ),
        );
    };
    let client = directory.principal(app.app_id).map(|p| p.id).unwrap_or_default();
    let offers = world.apps.get(&resource).map(|r| r.offers.clone()).unwrap_or_default();
    let held =
        directory.assignments.iter().filter(|a| a.principal == client && a.resource == resource_principal.id);
    let roles: Vec<String> = held
        .filter_map(|a| offers.iter().find(|(_, id, _)| *id == Some(a.role)).map(|(n, _, _)| n.clone()))
        .collect();
    let now = world.now().as_second();
    let mut claims = json!({"aud": audience(world, resource, request.graph), "iss": format!("https://sts.windows.net/{tenant}/"),
        "iat": now, "nbf": now, "exp": now + 3599, "appid": app.app_id, "idtyp": "app", "oid": client, "sub": client, "tid": tenant, "ver": "1.0"});
    if !roles.is_empty() {
        claims["roles"] = json!(roles);
    }
    Ok(Reply::json(
        200,
        &json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": keys.access_token(&claims)}),
    ))
}

fn refresh(
    world: &mut World,
    keys: &Keys,
    request: &TokenRequest<'_>,
    tenant: Uuid,
    app: &Registration,
) -> Refused<Reply> {
    let text = request.form.get("refresh_token").cloned().unwrap_or_default();
    let Some(known) = world.refresh_tokens.get(&text).cloned() else {
        return refuse(
            world,
            EntraError::invalid_grant(9_002_313, "Invalid request. Request is malformed or invalid."),
        );
    };
    if known.app_id != app.app_id {
        return refuse(
            world,
            EntraError::invalid_grant(7_000_110, "The refresh token was issued to another client."),
        );
    }
    match known.dead {
        Some(TokenDeath::Corrupted) => {
            return refuse(
                world,
                EntraError::invalid_grant(9_002_313, "Invalid request. Request is malformed or invalid."),
            );
        }
        Some(TokenDeath::Expired) => {
            let message = format!(
                "The refresh token has expired due to inactivity. The token was issued on {} and was inactive for 90.00:00:00.",
                known.issued
            );
            return refuse(world, EntraError::invalid_grant(700_082, &message).because("bad_token"));
        }
        Some(TokenDeath::Revoked) => return revoked(world, &known.issued.to_string()),
        None => {}
    }
    if known.tenant != tenant {
        return refuse(world, EntraError::invalid_grant(70000, "Provided grant is invalid or malformed."));
    }
    check_user(world, tenant, known.user, Some(known.issued))?;
    let reply = tokens_for_user(world, keys, request, &Grant { tenant, app, user: known.user, code: None })?;
    // The token counts as used only after a successful response.
    if world.single_use_refresh_tokens
        && let Some(used) = world.refresh_tokens.get_mut(&text)
    {
        used.dead = Some(TokenDeath::Revoked);
    }
    Ok(reply)
}
