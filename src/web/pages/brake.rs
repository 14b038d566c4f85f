//! The brake: the page of the operators' link, whose GET changes nothing, and the buttons of the status page.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};

use super::layout::{PageLayout, html};
use super::links::{ButtonPress, notice, pressed_elsewhere, refuse_link, unavailable};
use crate::clock::moment;
use crate::domain::{BrakeAction, HeldMails, Hold};
use crate::listener::client::{Client, Peer};
use crate::reauth::LinkError;
use crate::web::access::Who;
use crate::web::commands::BrakeOutcome;
use crate::web::state::Served;

/// The page of the operators' link: its token is the key, so no user is needed.
pub(crate) fn link_routes() -> Router<Arc<Served>> {
    use axum::routing::get;
    Router::new().route("/brake", get(ask).post(act))
}

/// The buttons of the status page.
pub(crate) fn button_routes() -> Router<Arc<Served>> {
    use axum::routing::post;
    Router::new().route("/brake/{action}", post(press))
}

/// What the brake holds, in words.
#[derive(Debug, Clone)]
pub(crate) struct BrakeLines {
    /// What has happened.
    pub(crate) what: String,
    /// What is held, and until when.
    pub(crate) held: String,
    /// Applications, tenants and reasons.
    pub(crate) details: Vec<(&'static str, String)>,
}

impl BrakeLines {
    pub(crate) fn of(hold: &Hold, held: &HeldMails) -> Self {
        Self {
            what: format!(
                "{} of {} integrations broke within one interval, at {}.",
                hold.broken,
                hold.integrations,
                moment(hold.since)
            ),
            held: format!(
                "{} mails to {} people about {} integrations are held until {}.",
                held.notices,
                held.people,
                held.integrations,
                moment(hold.until)
            ),
            details: held.lists(),
        }
    }
}

#[derive(Template)]
#[template(path = "brake.html")]
struct BrakePage {
    layout: PageLayout,
    lines: BrakeLines,
    token: String,
}

fn layout() -> PageLayout {
    PageLayout { root: "", support: None }
}

/// The hold that a token is for, as long as it lasts.
async fn opened(served: &Served, token: &str) -> Result<(Hold, HeldMails), LinkError> {
    let id = served.brake_links.as_ref().and_then(|links| links.open(token)).ok_or(LinkError::Forged)?;
    let held = served.process.commands.held().await;
    held.filter(|(hold, _)| hold.id == id).ok_or(LinkError::Used)
}

fn refused(served: &Served, peer: std::net::IpAddr, error: LinkError) -> Response {
    match error {
        LinkError::Used => over(),
        error => refuse_link(served, layout(), peer, error),
    }
}

fn over() -> Response {
    let text = "These mails are not held any more: their time is over, or somebody has decided about them. The status page and the history say who.";
    notice(StatusCode::GONE, layout(), "The brake holds nothing", vec![text.to_owned()])
}

/// Asks what to do.
async fn ask(
    State(served): State<Arc<Served>>,
    Extension(Peer(peer)): Extension<Peer>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let token = query.get("token").cloned().unwrap_or_default();
    match opened(&served, &token).await {
        Ok((hold, held)) => {
            let page = BrakePage { layout: layout(), lines: BrakeLines::of(&hold, &held), token };
            html(StatusCode::OK, &page)
        }
        Err(error) => refused(&served, peer, error),
    }
}

/// Does it.
async fn act(
    State(served): State<Arc<Served>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(client): Extension<Client>,
    press: ButtonPress,
) -> Response {
    if served.is_foreign(&press.headers) {
        return pressed_elsewhere(layout());
    }
    let (hold, _) = match opened(&served, press.field("token")).await {
        Ok(opened) => opened,
        Err(error) => return refused(&served, peer, error),
    };
    let Some(action) = BrakeAction::from_label(press.field("action")) else {
        let text = "The button is not known. Open the link from the mail again.".to_owned();
        return notice(StatusCode::BAD_REQUEST, layout(), "Nothing was changed", vec![text]);
    };
    let who = format!("the operators' link, {}", Who::Anonymous(client));
    match served.process.commands.act_on_brake(&hold.id, action, &who).await {
        BrakeOutcome::Done(notices) => {
            let (title, text) = match action {
                BrakeAction::Release => {
                    ("The mails are released", format!("{notices} mails go out now, grouped by person."))
                }
                BrakeAction::HoldLonger => {
                    ("The mails are held longer", format!("{notices} mails are held for as long again."))
                }
                BrakeAction::Discard => (
                    "The mails are discarded",
                    format!(
                        "{notices} mails will not be sent. If reminders are configured, they follow for what is still broken then."
                    ),
                ),
            };
            notice(StatusCode::OK, layout(), title, vec![text])
        }
        BrakeOutcome::Over => over(),
        BrakeOutcome::Unavailable => unavailable(layout()),
    }
}

/// A button of the status page.
async fn press(
    State(served): State<Arc<Served>>,
    Extension(who): Extension<Who>,
    Path(action): Path<String>,
    press: ButtonPress,
) -> Response {
    let layout = PageLayout { root: "../", support: None };
    let Some(action) = BrakeAction::from_label(&action) else { return StatusCode::NOT_FOUND.into_response() };
    match served.process.commands.act_on_brake(press.field("hold"), action, &who.to_string()).await {
        BrakeOutcome::Done(_) | BrakeOutcome::Over => {
            (StatusCode::SEE_OTHER, [(LOCATION, HeaderValue::from_static("../"))]).into_response()
        }
        BrakeOutcome::Unavailable => unavailable(layout),
    }
}
