//! The pages of re-authentication: the page of the mailed link, the redirect to Entra, and the callback. GET of the link changes nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::header::{COOKIE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};

use super::layout::{Notice, PageLayout, html, style};
use super::links::{ButtonPress, pressed_elsewhere, refuse_link, too_many, unavailable};
use super::reauth_result::result;
use crate::clock::moment;
use crate::domain::{
    Access, ExternalSignIn, Health, PROVISIONING_STAYS, Reason, Remedy, SIGN_IN_SCOPES, consequence, foreign,
    invitation, one_line, permission_purpose, same_permission,
};
use crate::listener::client::{Client, Peer};
use crate::listener::limits::network;
use crate::reauth::callback::admin_consent_without_state;
use crate::reauth::{
    CallbackRequest, Completed, LinkError, Reauthentication, Refusal, SignInContext, SignInResult, Signed,
};
use crate::secret::Secret;
use crate::web::model::IntegrationSummary;
use crate::web::state::Served;
use crate::web::wording::advice;

type Shared = State<Arc<Served>>;

/// The routes, all below `/reauth`.
pub(crate) fn routes() -> Router<Arc<Served>> {
    use axum::routing::get;
    Router::new()
        .route("/reauth/{name}", get(landing).post(begin))
        .route("/reauth/{name}/result", get(result))
        .route("/reauth/callback", get(callback))
        .route("/reauth/assets/page.css", get(style))
}

/// What the button of the page does.
enum NextStep {
    /// It begins a sign-in here.
    SignIn { token: String, label: &'static str },
    /// It leads to a page of Microsoft or of the vendor.
    ExternalSignIn { url: String, label: &'static str, about: String },
}

#[derive(Template)]
#[template(path = "landing.html")]
struct Landing<'a> {
    layout: PageLayout,
    name: &'a str,
    heading: String,
    tone: &'static str,
    situation: Vec<String>,
    since: Option<String>,
    next_step: NextStep,
    steps: Vec<String>,
    permissions: Vec<(String, &'static str)>,
    provisioning: Option<&'static str>,
    summary: &'a IntegrationSummary,
}

/// The page of the mailed link. An unknown name and a forged token get the same response, so that names cannot be guessed.
async fn landing(
    State(served): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let token = query.get("token").map_or("", String::as_str);
    let summary = match opened(&served, &name, token).await {
        Ok((.., summary)) => summary,
        Err(error) => return refuse_link(&served, served.layout(), peer, error),
    };
    html(StatusCode::OK, &landing_page(served.layout(), &name, token, &summary))
}

/// Verifies a link, and returns it with its integration.
async fn opened<'s>(
    served: &'s Served,
    name: &str,
    token: &str,
) -> Result<(&'s Reauthentication, Signed, IntegrationSummary), LinkError> {
    let reauthentication = served.reauthentication.as_ref().ok_or(LinkError::Forged)?;
    let link = reauthentication.open_link(name, token).await?;
    let summary = served.summary(name).ok_or(LinkError::Forged)?;
    Ok((reauthentication, link, summary))
}

fn landing_page<'a>(
    layout: PageLayout,
    name: &'a str,
    token: &str,
    summary: &'a IntegrationSummary,
) -> Landing<'a> {
    let (app, customer) = (&summary.app, &summary.display_name);
    let invitation = invitation(app);
    let (heading, tone, mut situation) = match summary.health {
        Health::Working => {
            (format!("{app} works for {customer}"), "good", vec!["Everything works at the moment. You need not do anything.".to_owned()])
        }
        Health::Unknown { token_missing: true } => (format!("Connect {app} for {customer}"), "wait", vec![invitation]),
        Health::Unknown { token_missing: false } => (
            format!("Sign in to {app} for {customer}"),
            "wait",
            vec!["Whether everything works is not known yet. A sign-in does no harm: it renews the connection.".to_owned()],
        ),
        Health::Broken { reason: Reason::TokenMissing, .. } => {
            (format!("Connect {app} for {customer}"), "wait", vec![Reason::TokenMissing.sentence().to_owned(), invitation])
        }
        Health::Broken { reason, .. } => {
            let mut situation = vec![
                reason.sentence().to_owned(),
                consequence(app),
            ];
            situation.extend(advice(reason, app));
            situation.extend(reason.before_accepting().map(str::to_owned));
            (format!("{app} has lost access for {customer}"), "bad", situation)
        }
    };
    if summary.has_all_consent() {
        situation.push(
            "All permissions are granted already: accepting them once more changes nothing.".to_owned(),
        );
    }
    let (next_step, steps) = next_step(summary, token);
    let permissions = requested_permissions(summary)
        .into_iter()
        .map(|value| (value.clone(), permission_purpose(&value)))
        .collect();
    let (since, reason) = match summary.health {
        Health::Broken { since, reason, .. } => (Some(moment(since)), Some(reason)),
        _ => (None, None),
    };
    let provisioning = reason.is_none_or(Reason::leaves_provisioning).then_some(PROVISIONING_STAYS);
    Landing {
        layout,
        name,
        heading,
        tone,
        situation,
        since,
        next_step,
        steps,
        permissions,
        provisioning,
        summary,
    }
}

/// What the button does, and what the administrator will see then.
fn next_step(summary: &IntegrationSummary, token: &str) -> (NextStep, Vec<String>) {
    match &summary.record.external_sign_in {
        None => {
            let label = match summary.health {
                Health::Unknown { token_missing: true }
                | Health::Broken { reason: Reason::TokenMissing, .. } => "Connect",
                Health::Broken { reason, .. } if reason.remedy() == Remedy::Reauthenticate => {
                    "Re-authenticate"
                }
                Health::Unknown { .. } => "Sign in",
                _ => "Sign in again anyway",
            };
            // Admin consent belongs to the organization; a delegated token belongs to the account.
            let account = match summary.record.access {
                Access::Delegated => {
                    "; a service account is best, because the connection lives as long as the account does"
                }
                Access::Application => "",
            };
            let steps = vec![
                format!(
                    "Microsoft asks you to sign in. Use an administrator account of {}{account}.",
                    summary.tenant
                ),
                "Microsoft shows the permissions below. Press Accept.".to_owned(),
                "You come back here and see the integration turn green.".to_owned(),
            ];
            (NextStep::SignIn { token: token.to_owned(), label }, steps)
        }
        Some(ExternalSignIn::AdminConsent(url)) => {
            let about = "An administrator accepts the permissions for the whole organization on Microsoft’s own page. Nothing else has to be done here: the integration is checked again by itself.";
            let steps = vec![
                format!("Microsoft asks you to sign in. Use an administrator account of {}.", summary.tenant),
                "Microsoft shows the permissions of the application. Press Accept.".to_owned(),
            ];
            (
                NextStep::ExternalSignIn {
                    url: url.clone(),
                    label: "Accept the permissions at Microsoft",
                    about: about.to_owned(),
                },
                steps,
            )
        }
        Some(ExternalSignIn::Vendor(url)) => {
            let host =
                url::Url::parse(url).ok().and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_default();
            let about = format!(
                "{} has a page of its own for this, at {host}. Follow it to the end; the integration is checked again by itself.",
                summary.app
            );
            (NextStep::ExternalSignIn { url: url.clone(), label: "Go to that page", about }, Vec::new())
        }
    }
}

/// Every permission that the consent page will show.
fn requested_permissions(summary: &IntegrationSummary) -> Vec<String> {
    let mut requested = summary.record.permissions.to_vec();
    if summary.record.access == Access::Delegated && summary.record.external_sign_in.is_none() {
        for always in SIGN_IN_SCOPES {
            if !requested.iter().any(|r| same_permission(r, always)) {
                requested.push(always.to_owned());
            }
        }
    }
    requested
}

/// The button: saves the sign-in and sends the browser to Entra.
async fn begin(
    State(served): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    Path(name): Path<String>,
    press: ButtonPress,
) -> Response {
    if served.is_foreign(&press.headers) {
        return pressed_elsewhere(served.layout());
    }
    let token = press.field("token").to_owned();
    let (reauthentication, link, summary) = match opened(&served, &name, &token).await {
        Ok(opened) => opened,
        Err(error) => return refuse_link(&served, served.layout(), peer, error),
    };
    if summary.record.external_sign_in.is_some() {
        return html(StatusCode::OK, &landing_page(served.layout(), &name, &token, &summary));
    }
    let source = network(peer).to_string();
    let context =
        SignInContext { hint: proposes_account(summary.health), source: &source, granted: summary.granted() };
    match reauthentication.begin(&link, &token, context).await {
        Ok(begun) => {
            let cookie = served.cookie(
                &begun.cookie_name,
                begun.cookie_value.expose(),
                begun.cookie_lifetime.as_secs(),
            );
            let (Ok(location), Ok(cookie)) =
                (HeaderValue::from_str(&begun.location), HeaderValue::from_str(&cookie))
            else {
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            };
            (StatusCode::SEE_OTHER, [(LOCATION, location), (SET_COOKIE, cookie)]).into_response()
        }
        Err(error) => refuse_link(&served, served.layout(), peer, error),
    }
}

/// Whether the account of the last sign-in is proposed (`login_hint`); not if the account itself is the problem.
const fn proposes_account(health: Health) -> bool {
    !matches!(
        health,
        Health::Broken {
            reason: Reason::AccountDisabled
                | Reason::GroupAccessDenied
                | Reason::GroupsNotVisible
                | Reason::AccessBlocked,
            ..
        }
    )
}

/// The OAuth 2.0 redirect URI.
async fn callback(
    State(served): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    if let Some(accepted) = admin_consent_without_state(&query) {
        return after_admin_consent(&served, accepted);
    }
    let Some(reauthentication) = served.reauthentication.clone() else {
        return unknown_sign_in(&served, peer);
    };
    // In its own task: a browser that disconnects must not abort the sign-in, because the state is valid only
    // once.
    let task = Arc::clone(&served);
    let completed = tokio::spawn(async move {
        let origin = client.shown();
        let cookie = |name: &str| cookie(&headers, name);
        let request = CallbackRequest { query: &query, cookie: &cookie, origin: &origin };
        let completed = reauthentication.complete(request).await;
        match &completed {
            Completed::Accepted { integration, renewed: Some(at), .. } => {
                task.process.commands.verify_renewal(integration, *at);
            }
            // The callback is unsigned, so it only causes probes; there is no grace period.
            Completed::Accepted { integration, renewed: None, .. } => {
                task.process.commands.verify_claim(integration, task.process.clock.now());
            }
            _ => {}
        }
        completed
    });
    match completed.await {
        Ok(Completed::Unknown) => unknown_sign_in(&served, peer),
        Ok(Completed::Unavailable) | Err(_) => unavailable(served.layout()),
        Ok(Completed::Accepted { integration, attempt, .. }) => {
            // Relative, so that any path prefix works; without code and state, so that reloading the page
            // repeats nothing.
            let location = format!("{integration}/result?attempt={attempt}");
            let Ok(location) = HeaderValue::from_str(&location) else {
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            };
            (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
        }
        Ok(Completed::Refused { refusal, integration, link, attempt }) => {
            refused(&served, &refusal, &integration, link.as_ref().map(Secret::expose), attempt)
        }
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut values = pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(n, _)| *n == name)
        .map(|(_, value)| value.to_owned());
    values.next()
}

fn unknown_sign_in(served: &Served, peer: IpAddr) -> Response {
    if !served.process.failed_attempts.wrong(peer, served.process.clock.steady()) {
        return too_many(served.layout());
    }
    let text = "This address only completes a sign-in that was begun from a mailed link, and none is known for it. Open the link from the mail and begin there.".to_owned();
    let page = Notice {
        layout: served.layout(),
        title: "No sign-in is under way",
        paragraphs: vec![text],
        ..Notice::default()
    };
    html(StatusCode::BAD_REQUEST, &page)
}

/// The page after the admin consent link of a mail or of `consentry setup`, which returns to the same redirect URI without a sign-in.
fn after_admin_consent(served: &Served, accepted: bool) -> Response {
    let (title, text) = match accepted {
        true => (
            "Nothing more to do here",
            "Microsoft’s consent page sent you here. If you accepted there, you are done: the integration is checked again by itself within minutes. You can close this page.",
        ),
        false => (
            "The permissions were not accepted",
            "Microsoft’s consent page sent you here without your consent. Nothing has been changed; the link that led you there stays good for another try.",
        ),
    };
    html(
        StatusCode::OK,
        &Notice { layout: served.layout(), title, paragraphs: vec![text.to_owned()], ..Notice::default() },
    )
}

fn refused(
    served: &Served,
    refusal: &Refusal,
    integration: &str,
    link: Option<&str>,
    attempt: Option<String>,
) -> Response {
    let status = match refusal {
        Refusal::Expired | Refusal::Replayed | Refusal::Interrupted | Refusal::LinkDied => StatusCode::GONE,
        Refusal::Storage => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Upstream | Refusal::Misconfigured => StatusCode::BAD_GATEWAY,
        Refusal::Invalid => StatusCode::BAD_REQUEST,
        _ => StatusCode::FORBIDDEN,
    };
    let mut paragraphs = vec![refusal.sentence().to_owned()];
    let mut items = Vec::new();
    if let Refusal::FewerPermissions(missing) = refusal
        && !missing.is_empty()
    {
        paragraphs.push("Missing:".to_owned());
        items.extend(missing.iter().map(|value| foreign(value, 120)));
    }
    if let Refusal::SeesLess(less) = refusal {
        items.extend(less.iter().map(|what| one_line(what, 200)));
    }
    if let (SignInResult::WrongTenant, Some(summary)) = (refusal.ending(), served.summary(integration)) {
        paragraphs.push(format!("The organization’s tenant is {}.", summary.tenant));
    }
    let retry = link
        .filter(|_| refusal.worth_another_try())
        .map(|token| ("Try again", format!("{integration}?token={token}")));
    let outcome =
        attempt.map(|attempt| ("See the result", format!("{integration}/result?attempt={attempt}")));
    let links = retry.into_iter().chain(outcome).collect();
    html(
        status,
        &Notice {
            layout: served.layout(),
            title: refusal.title(),
            paragraphs,
            items,
            links,
            link_class: "button",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_name() {
        let headers: HeaderMap =
            [(COOKIE, HeaderValue::from_static("a=1; consentry_sign_in_x=v=w; b=2"))].into_iter().collect();
        for (name, expected) in
            [("consentry_sign_in_x", Some("v=w")), ("b", Some("2")), ("c", None), ("", None)]
        {
            assert_eq!(cookie(&headers, name).as_deref(), expected, "{name}");
        }
    }
}
