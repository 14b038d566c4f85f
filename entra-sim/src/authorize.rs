//! The pages of the login host: `/authorize` with its consent page, and `/adminconsent`.
//!
//! Sign-in and consent are one page: choose an account, then Accept or Cancel. The form contains the parameters of the
//! request, so the simulator stores nothing between the two requests.

use std::collections::HashMap;

use jiff::SignedDuration;
use url::Url;
use uuid::Uuid;

use crate::consent::{Accepted, consent};
use crate::model::{Account, Code, GRAPH_PERMISSIONS, Registration, Tenant, User, World, graph_app_id};
use crate::reply::{Reply, escape};

/// Parameters of an authorization or admin consent request.
pub type Parameters = HashMap<String, String>;

/// The client and tenant of a request, or the page that Entra shows instead of redirecting.
fn context<'w>(
    world: &'w World,
    tenant: &str,
    parameters: &Parameters,
) -> Result<(&'w Tenant, &'w Registration, Url), Reply> {
    let stop = |aadsts: u32, message: String| Err(error_page(aadsts, &message));
    let Some(directory) = world.tenant(tenant) else {
        return stop(90002, format!("Tenant '{tenant}' not found."));
    };
    let client = parameters.get("client_id").and_then(|c| Uuid::parse_str(c).ok());
    let Some(app) = client.and_then(|c| world.apps.get(&c)) else {
        return stop(700_016, "Application was not found in the directory.".to_owned());
    };
    // Entra redirects to the first registered URI if the request names none.
    let first = app.redirect_uris.first().map_or("", String::as_str);
    let redirect = parameters.get("redirect_uri").map_or(first, String::as_str);
    let Some(url) = Url::parse(redirect).ok().filter(|_| app.redirect_uris.iter().any(|r| r == redirect))
    else {
        return stop(
            50011,
            format!(
                "The redirect URI '{redirect}' specified in the request does not match the redirect URIs configured for the application."
            ),
        );
    };
    if directory.principal(app.app_id).is_some_and(|p| !p.enabled || p.disabled_by_microsoft.is_some())
        || app.deactivated
    {
        return stop(7_000_112, format!("Application '{}' is disabled.", app.app_id));
    }
    Ok((directory, app, url))
}

fn wanted_scopes(app: &Registration, parameters: &Parameters) -> Vec<String> {
    let text = parameters.get("scope").map_or("", String::as_str);
    let short = |value: &str| value.rsplit_once('/').map_or(value, |(_, last)| last).to_owned();
    let listed: Vec<String> = text.split_whitespace().map(short).collect();
    if listed.iter().any(|s| s == ".default") {
        let declared =
            app.required.iter().filter(|r| r.resource == graph_app_id()).flat_map(|r| r.delegated.clone());
        return listed.into_iter().filter(|s| s != ".default").chain(declared).collect();
    }
    listed
}

/// `GET /{tenant}/oauth2/v2.0/authorize`.
pub fn authorize_page(world: &World, tenant: &str, parameters: &Parameters) -> Reply {
    let (directory, app, redirect) = match context(world, tenant, parameters) {
        Ok(context) => context,
        Err(page) => return page,
    };
    if parameters.get("response_type").map(String::as_str) != Some("code") {
        return back(
            &redirect,
            parameters,
            &[
                ("error", "unsupported_response_type"),
                ("error_description", "AADSTS70005: response_type must be code."),
            ],
        );
    }
    if parameters.get("prompt").map(String::as_str) == Some("none") {
        return back(
            &redirect,
            parameters,
            &[
                ("error", "login_required"),
                (
                    "error_description",
                    "AADSTS50058: A silent sign-in request was sent but no user is signed in.",
                ),
            ],
        );
    }
    page(directory, app, &wanted_scopes(app, parameters), parameters, "oauth2/v2.0/authorize")
}

/// `GET /{tenant}/v2.0/adminconsent` and the v1.0 form.
pub fn admin_consent_page(world: &World, tenant: &str, parameters: &Parameters) -> Reply {
    match context(world, tenant, parameters) {
        Ok((directory, app, _)) => {
            let all: Vec<String> =
                app.required.iter().flat_map(|r| r.delegated.iter().chain(&r.application)).cloned().collect();
            page(directory, app, &all, parameters, "v2.0/adminconsent")
        }
        Err(page) => page,
    }
}

fn page(
    directory: &Tenant,
    app: &Registration,
    scopes: &[String],
    parameters: &Parameters,
    action: &str,
) -> Reply {
    let hidden: String = parameters
        .iter()
        .map(|(k, v)| format!("<input type=hidden name=\"{}\" value=\"{}\">", escape(k), escape(v)))
        .collect();
    let hint = parameters.get("login_hint").map_or("", String::as_str);
    let chosen = directory.users.iter().position(|u| u.upn == hint).unwrap_or(0);
    let account = |(index, user): (usize, &User)| {
        let checked = if index == chosen { " checked" } else { "" };
        format!(
            "<label><input type=radio name=sim_user value=\"{}\"{checked}> {} <small>{}</small></label>",
            user.id,
            escape(&user.name),
            escape(&user.upn)
        )
    };
    let accounts: String = directory.users.iter().filter(|u| !u.deleted).enumerate().map(account).collect();
    let others = "<label><input type=radio name=sim_user value=foreign id=foreign> Somebody of another organization</label>\
                  <label><input type=radio name=sim_user value=personal id=personal> A personal Microsoft account</label>";
    let asked: String = scopes.iter().map(|s| asked_for(s)).collect();
    Reply::html(
        200,
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>Permissions requested</title>\
         <style>body{{font:16px system-ui;max-width:28rem;margin:2rem auto;padding:0 1rem}}label{{display:block;padding:.3rem 0}}button{{font:inherit;padding:.5rem 1.2rem}}</style>\
         <p>Simulated Entra: {}</p><h1>Permissions requested</h1><form method=post action=\"/{}/{action}\">{hidden}<p><b>{}</b> would like to:</p><ul>{asked}</ul>\
         <fieldset><legend>Sign in as</legend>{accounts}{others}</fieldset>\
         <label><input type=checkbox name=sim_organization value=1> Consent on behalf of your organization</label>\
         <p><button name=sim_decision value=accept id=accept>Accept</button> <button name=sim_decision value=cancel id=cancel>Cancel</button></p></form></html>",
            escape(&directory.name),
            directory.id,
            escape(&app.name),
        ),
    )
}

/// A permission with a checkbox to leave it out. Entra has no such checkbox, but a consent may grant less than was requested.
fn asked_for(scope: &str) -> String {
    let value = escape(scope);
    format!(
        "<li>{value} <label style=\"display:inline\"><input type=checkbox name=\"sim_without_{value}\" value=1> <small>leave out</small></label></li>"
    )
}

/// The decision on the authorize page.
pub fn authorize_submit(world: &mut World, tenant: &str, parameters: &Parameters) -> Reply {
    let (directory, app, redirect) = match context(world, tenant, parameters) {
        Ok((directory, app, redirect)) => (directory.clone(), app.clone(), redirect),
        Err(page) => return page,
    };
    if parameters.get("sim_decision").map(String::as_str) != Some("accept") {
        return back(
            &redirect,
            parameters,
            &[
                ("error", "access_denied"),
                ("error_subcode", "cancel"),
                ("error_description", "AADSTS65004: User declined to consent to access the app."),
            ],
        );
    }
    let account = match parameters.get("sim_user").map(String::as_str) {
        Some("foreign") => Account::Foreign,
        Some("personal") => Account::Personal,
        _ => Account::Own,
    };
    let own = if account == Account::Own {
        signed_in(&directory, parameters)
    } else {
        directory.users.first().cloned()
    };
    let Some(user) = own else {
        return error_page(50034, "The user account does not exist in the directory.");
    };
    if !user.enabled {
        return error_page(50057, "The user account is disabled.");
    }
    let mut scopes = wanted_scopes(&app, parameters);
    scopes.retain(|s| !parameters.contains_key(&format!("sim_without_{s}")));
    // Without `prompt=consent` the page does not request again what the organization has accepted.
    let prompted = parameters.get("prompt").is_some_and(|p| p == "consent");
    let covered =
        !prompted && account == Account::Own && has_consented(world, &directory, &app, &user, &scopes);
    let needs_admin = |s: &String| {
        GRAPH_PERMISSIONS.iter().any(|(value, _, _, admin)| *admin && value.eq_ignore_ascii_case(s))
    };
    if !covered && !user.admin && (directory.user_consent_off || scopes.iter().any(needs_admin)) {
        return back(
            &redirect,
            parameters,
            &[
                ("error", "access_denied"),
                ("error_description", "AADSTS90094: The grant requires administrator permission."),
            ],
        );
    }
    let principal = (!parameters.contains_key("sim_organization")).then_some(user.id);
    let key = directory.id.to_string();
    // A consent of another organization's admin changes nothing in this tenant.
    let here = account == Account::Own && !covered;
    let accepted =
        Accepted { user: principal, resource: graph_app_id(), delegated: &scopes, application: &[] };
    if here && let Err(message) = consent(world, &key, app.app_id, accepted) {
        return error_page(650_053, &message);
    }
    let code = issue_code(world, parameters, directory.id, app.app_id, user.id, account);
    back(&redirect, parameters, &[("code", &code), ("session_state", &Uuid::new_v4().to_string())])
}

/// Issues an authorization code and stores the request with it.
fn issue_code(
    world: &mut World,
    parameters: &Parameters,
    tenant: Uuid,
    app_id: Uuid,
    user: Uuid,
    account: Account,
) -> String {
    let code = format!("1.SIMCODE{}", Uuid::new_v4().simple());
    let get = |name: &str| parameters.get(name).cloned();
    let expires = world.now() + SignedDuration::from_secs(600);
    let issued = Code {
        tenant,
        app_id,
        user,
        redirect_uri: get("redirect_uri").unwrap_or_default(),
        challenge: get("code_challenge"),
        nonce: get("nonce"),
        scope: get("scope").unwrap_or_default(),
        expires,
        used: false,
        account,
    };
    world.codes.insert(code.clone(), issued);
    code
}

/// Whether existing grants cover the requested scopes.
fn has_consented(
    world: &World,
    directory: &Tenant,
    app: &Registration,
    user: &User,
    scopes: &[String],
) -> bool {
    let id = |app_id| directory.principal(app_id).map(|p| p.id);
    let (Some(client), Some(resource)) = (id(app.app_id), id(graph_app_id())) else { return false };
    let granted = directory.granted_scopes(client, resource, user.id, world.now());
    let signing_in =
        |scope: &String| matches!(scope.as_str(), "openid" | "profile" | "email" | "offline_access");
    scopes.iter().filter(|s| !signing_in(s)).all(|s| granted.iter().any(|g| g.eq_ignore_ascii_case(s)))
}

/// The decision on the admin consent page.
pub fn admin_consent_submit(world: &mut World, tenant: &str, parameters: &Parameters) -> Reply {
    let (directory, app, redirect) = match context(world, tenant, parameters) {
        Ok((directory, app, redirect)) => (directory.clone(), app.clone(), redirect),
        Err(page) => return page,
    };
    let id = directory.id.to_string();
    if parameters.get("sim_decision").map(String::as_str) != Some("accept") {
        return back(
            &redirect,
            parameters,
            &[
                ("admin_consent", "True"),
                ("error", "consent_required"),
                ("error_subcode", "cancel"),
                ("error_description", "AADSTS65004: User declined to consent to access the app."),
                ("tenant", &id),
            ],
        );
    }
    if !signed_in(&directory, parameters).is_some_and(|u| u.admin && u.enabled) {
        return error_page(90094, "Need admin approval.");
    }
    for required in app.required.clone() {
        let accepted = Accepted {
            user: None,
            resource: required.resource,
            delegated: &required.delegated,
            application: &required.application,
        };
        if let Err(message) = consent(world, &id, app.app_id, accepted) {
            return error_page(650_053, &message);
        }
    }
    let scope = parameters.get("scope").map_or("", String::as_str);
    back(&redirect, parameters, &[("admin_consent", "True"), ("tenant", &id), ("scope", scope)])
}

fn signed_in(directory: &Tenant, parameters: &Parameters) -> Option<User> {
    let id = parameters.get("sim_user").and_then(|u| Uuid::parse_str(u).ok());
    directory.users.iter().find(|u| Some(u.id) == id && !u.deleted).cloned()
}

fn back(redirect: &Url, parameters: &Parameters, answer: &[(&str, &str)]) -> Reply {
    let mut url = redirect.clone();
    url.query_pairs_mut().extend_pairs(answer.iter().filter(|(_, v)| !v.is_empty()));
    if let Some(state) = parameters.get("state") {
        url.query_pairs_mut().append_pair("state", state);
    }
    Reply::redirect(url.into())
}

fn error_page(aadsts: u32, message: &str) -> Reply {
    Reply::html(
        400,
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Sign in</title><h1>Sorry, but we’re having trouble signing you in.</h1><p id=error>AADSTS{aadsts}: {}</p></html>",
            escape(message)
        ),
    )
}
