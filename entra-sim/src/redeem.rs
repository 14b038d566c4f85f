//! Redeeming authorization codes and refresh tokens: what the tokens of a person hold.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actions::issue_refresh_token;
use crate::model::{Account, IdTokenFlaw, Registration, World};
use crate::reply::{EntraError, Reply};
use crate::token_request::{Refused, TokenRequest, audience, check_user, parse_scope, refuse};
use crate::tokens::Keys;

pub(crate) fn redeem(
    world: &mut World,
    keys: &Keys,
    request: &TokenRequest<'_>,
    tenant: Uuid,
    app: &Registration,
) -> Refused<Reply> {
    let field = |name: &str| request.form.get(name).map_or("", String::as_str);
    let Some(code) = world.codes.get(field("code")).cloned() else {
        return refuse(
            world,
            EntraError::invalid_grant(9_002_313, "Invalid request. Request is malformed or invalid."),
        );
    };
    if let Some(error) = code_error(world, &code, request, tenant, app) {
        return refuse(world, error);
    }
    if let Some(stored) = world.codes.get_mut(field("code")) {
        stored.used = true;
    }
    check_user(world, tenant, code.user, None)?;
    tokens_for_user(world, keys, request, &Grant { tenant, app, user: code.user, code: Some(&code) })
}

/// Why an authorization code is rejected.
fn code_error(
    world: &World,
    code: &crate::model::Code,
    request: &TokenRequest<'_>,
    tenant: Uuid,
    app: &Registration,
) -> Option<EntraError<'static>> {
    let field = |name: &str| request.form.get(name).map_or("", String::as_str);
    if code.used {
        return Some(EntraError::invalid_grant(
            54005,
            "OAuth2 Authorization code was already redeemed, please retry with a new valid code.",
        ));
    }
    if code.expires < world.now() {
        return Some(EntraError::invalid_grant(
            70008,
            "The provided authorization code or refresh token has expired.",
        ));
    }
    if code.tenant != tenant {
        return Some(EntraError::invalid_grant(
            700_005,
            "Provided Authorization Code is intended to use against other tenant.",
        ));
    }
    if code.app_id != app.app_id {
        return Some(EntraError::invalid_grant(70000, "Provided grant is invalid or malformed."));
    }
    if code.redirect_uri != field("redirect_uri") {
        return Some(EntraError::new(
            400,
            "invalid_client",
            500_112,
            "The reply address does not match the reply address provided when requesting Authorization code.",
        ));
    }
    if let Some(challenge) = &code.challenge {
        let verifier = field("code_verifier");
        let actual = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        if !(43..=128).contains(&verifier.len()) || actual != *challenge {
            return Some(EntraError::invalid_grant(
                501_481,
                "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
            ));
        }
    }
    None
}

/// The recipient of tokens.
pub(crate) struct Grant<'a> {
    pub(crate) tenant: Uuid,
    pub(crate) app: &'a Registration,
    pub(crate) user: Uuid,
    /// The authorization code that is redeemed; `None` for a refresh token.
    pub(crate) code: Option<&'a crate::model::Code>,
}

/// The subject of an ID token.
struct Signed<'a> {
    tenant: Uuid,
    app_id: Uuid,
    user: Uuid,
    upn: &'a str,
    name: &'a str,
    guest: bool,
    roles: &'a [String],
}

fn id_claims(
    world: &World,
    request: &TokenRequest<'_>,
    about: &Signed<'_>,
    code: Option<&crate::model::Code>,
) -> Value {
    let Signed { tenant, user, upn, name, guest, roles, .. } = *about;
    let seconds = world.now().as_second();
    let mut id_claims = json!({"aud": about.app_id, "iss": format!("{}/{tenant}/v2.0", request.login), "iat": seconds, "nbf": seconds, "exp": seconds + 3600,
        "name": name, "oid": user, "preferred_username": upn, "sub": format!("sub-{user}"), "tid": tenant, "ver": "2.0"});
    if let Some(nonce) = code.and_then(|c| c.nonce.clone()) {
        id_claims["nonce"] = json!(nonce);
    }
    add_account_claims(world, &mut id_claims, guest, roles);
    // Signing costs a millisecond; Entra also adds an id_token only if `openid` is consented or requested.
    match code.map(|c| c.account) {
        Some(Account::Foreign) => {
            set_tenant(&mut id_claims, request.login, "22222222-0000-0000-0000-0000000000ff");
        }
        Some(Account::Personal) => {
            set_tenant(&mut id_claims, request.login, "9188040d-6c67-4c5b-b112-36a304b66dad");
        }
        Some(Account::Own) | None => {}
    }
    id_claims
}

pub(crate) fn tokens_for_user(
    world: &mut World,
    keys: &Keys,
    request: &TokenRequest<'_>,
    grant: &Grant<'_>,
) -> Refused<Reply> {
    let Grant { tenant, app, user, code } = *grant;
    let asked = request.form.get("scope").filter(|s| !s.is_empty()).cloned();
    let asked = asked.or_else(|| code.map(|c| c.scope.clone())).unwrap_or_default();
    let (resource, wanted, _) = parse_scope(world, &asked, request.graph)?;
    let now = world.now();
    let directory = world.tenants.get(&tenant).cloned().unwrap_or_default();
    let client = directory.principal(app.app_id).map(|p| p.id).unwrap_or_default();
    let Some(resource_principal) = directory.principal(resource).map(|p| p.id) else {
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
    let granted = directory.granted_scopes(client, resource_principal, user, now);
    // A code may grant fewer permissions than requested; a refresh that requests one too many is rejected.
    let missing = code.is_none()
        && wanted
            .as_ref()
            .is_some_and(|w| w.iter().any(|s| !granted.iter().any(|g| g.eq_ignore_ascii_case(s))));
    if granted.is_empty() || missing {
        let message = format!(
            "The user or administrator has not consented to use the application with ID '{}' named '{}'. Send an interactive authorization request for this user and resource.",
            app.app_id, app.name
        );
        return refuse(world, EntraError::invalid_grant(65001, &message).because("consent_required"));
    }
    let person = directory.user(user).cloned();
    let offered = |v: &String| matches!(v.as_str(), "openid" | "profile" | "email") || v != "offline_access";
    let scopes: Vec<String> = granted.into_iter().filter(offered).collect();
    let (guest, roles) = person.as_ref().map(|p| (p.guest, p.roles.clone())).unwrap_or_default();
    let (upn, name) = person.map(|p| (p.upn, p.name)).unwrap_or_default();
    let seconds = now.as_second();
    let lifetime = 4011;
    let mut claims = json!({"aud": audience(world, resource, request.graph), "iss": format!("https://sts.windows.net/{tenant}/"), "iat": seconds, "nbf": seconds,
        "exp": seconds + lifetime, "appid": app.app_id, "idtyp": "user", "oid": user, "tid": tenant, "scp": scopes.join(" "), "upn": upn, "ver": "1.0"});
    if world.optional_claims.access_wids {
        claims["wids"] = json!(roles);
    }
    let mut body = json!({"token_type": "Bearer", "scope": scopes.join(" "), "expires_in": lifetime, "ext_expires_in": lifetime,
        "access_token": keys.access_token(&claims), "refresh_token": issue_refresh_token(world, tenant, app.app_id, user)});
    let about = Signed { tenant, app_id: app.app_id, user, upn: &upn, name: &name, guest, roles: &roles };
    let id_claims = id_claims(world, request, &about, code);
    if code.is_some() || asked.split_whitespace().any(|s| s == "openid") {
        match id_token(world, keys, id_claims) {
            Ok(Some(token)) => body["id_token"] = json!(token),
            Ok(None) => {}
            Err(error) => {
                return refuse(world, EntraError::new(500, "server_error", 50000, &error.to_string()));
            }
        }
    }
    if request.form.contains_key("client_info") {
        body["client_info"] = json!(URL_SAFE_NO_PAD.encode(json!({"uid": user, "utid": tenant}).to_string()));
    }
    Ok(Reply::json(200, &body))
}

/// Adds the optional claims about an account. A guest's id_token always has `idp`, the identity provider of the home tenant.
fn add_account_claims(world: &World, claims: &mut Value, guest: bool, roles: &[String]) {
    if world.optional_claims.acct {
        claims["acct"] = json!(u8::from(guest));
    }
    if world.optional_claims.wids {
        claims["wids"] = json!(roles);
    }
    if guest {
        claims["idp"] = json!("https://sts.windows.net/22222222-0000-0000-0000-0000000000ee/");
    }
}

/// Replaces the tenant of an id_token: Entra signs for all tenants with the same keys.
fn set_tenant(claims: &mut Value, login: &str, tenant: &str) {
    claims["tid"] = json!(tenant);
    claims["iss"] = json!(format!("{login}/{tenant}/v2.0"));
}

/// The id_token with the configured flaw; `None` if the flaw is that there is none.
fn id_token(world: &World, keys: &Keys, mut claims: Value) -> anyhow::Result<Option<String>> {
    let Some(flaw) = world.id_token_flaw else { return keys.sign(&claims).map(Some) };
    match flaw {
        IdTokenFlaw::Missing => return Ok(None),
        IdTokenFlaw::Nonce => claims["nonce"] = json!("another"),
        IdTokenFlaw::Audience => claims["aud"] = json!(Uuid::nil()),
        IdTokenFlaw::Issuer => claims["iss"] = json!("https://login.example/other/v2.0"),
        IdTokenFlaw::Expired => {
            let over = world.now().as_second() - 4000;
            (claims["exp"], claims["nbf"], claims["iat"]) =
                (json!(over), json!(over - 3600), json!(over - 3600));
        }
        IdTokenFlaw::UnknownKey => return Keys::generate()?.sign(&claims).map(Some),
        IdTokenFlaw::Signature | IdTokenFlaw::Unsigned => {}
    }
    let token = keys.sign(&claims)?;
    Ok(Some(match flaw {
        IdTokenFlaw::Signature => {
            let (signed, signature) = token.rsplit_once('.').unwrap_or_default();
            format!("{signed}.{}", signature.chars().rev().collect::<String>())
        }
        IdTokenFlaw::Unsigned => {
            let payload = token.split('.').nth(1).unwrap_or_default();
            let kid = keys.jwks()["keys"][0]["kid"].clone();
            format!(
                "{}.{payload}.",
                URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": "none", "kid": kid}).to_string())
            )
        }
        _ => token,
    }))
}
