//! The page of the link in a mail's foot: no reminders for a week. GET asks, POST does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};

use super::layout::{PageLayout, html};
use super::links::{ButtonPress, notice, pressed_elsewhere, refuse_link, unavailable};
use super::not_found::not_found;
use crate::clock::moment;
use crate::domain::Timestamp;
use crate::fleet::FleetEntry;
use crate::listener::client::{Client, Peer};
use crate::reauth::LinkError;
use crate::web::access::Who;
use crate::web::state::Served;

/// How long the link snoozes.
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The routes, all below `/snooze`.
pub(crate) fn routes() -> Router<Arc<Served>> {
    use axum::routing::get;
    Router::new().route("/snooze/{name}", get(ask).post(act))
}

#[derive(Template)]
#[template(path = "snooze.html")]
struct SnoozePage {
    layout: PageLayout,
    name: String,
    display_name: String,
    app: String,
    until: String,
    token: String,
}

/// A link that is for this integration's open alert.
enum Opened {
    Open(Arc<FleetEntry>),
    /// The failure is over.
    Over(Arc<FleetEntry>),
}

fn opened(served: &Served, name: &str, token: &str) -> Result<Opened, LinkError> {
    let text = served.snooze_links.as_ref().and_then(|links| links.open(token)).ok_or(LinkError::Forged)?;
    let (integration, alert) = text.split_once('\n').ok_or(LinkError::Forged)?;
    let entry = served.entry(name).filter(|_| integration == name).ok_or(LinkError::Forged)?;
    let is_open = entry.alert.as_ref().is_some_and(|open| open.id == alert);
    Ok(if is_open { Opened::Open(entry) } else { Opened::Over(entry) })
}

fn over(served: &Served, entry: &FleetEntry) -> Response {
    let text = format!(
        "The failure that this mail was about is over for {}. There is nothing to be reminded of.",
        entry.record.display_name
    );
    notice(StatusCode::GONE, served.layout(), "There are no reminders", vec![text])
}

fn until(now: Timestamp) -> Timestamp {
    now.plus(WEEK)
}

/// Asks whether to snooze.
async fn ask(
    State(served): State<Arc<Served>>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let token = query.get("token").cloned().unwrap_or_default();
    match opened(&served, &name, &token) {
        Ok(Opened::Open(entry)) => {
            let page = SnoozePage {
                layout: served.layout(),
                display_name: entry.record.display_name.clone(),
                app: entry.record.app_display_name.to_string(),
                until: moment(until(served.process.clock.now())),
                name,
                token,
            };
            html(StatusCode::OK, &page)
        }
        Ok(Opened::Over(entry)) => over(&served, &entry),
        Err(error) => refuse_link(&served, served.layout(), peer, error),
    }
}

/// Snoozes.
async fn act(
    State(served): State<Arc<Served>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    press: ButtonPress,
) -> Response {
    if served.is_foreign(&press.headers) {
        return pressed_elsewhere(served.layout());
    }
    let entry = match opened(&served, &name, press.field("token")) {
        Ok(Opened::Open(entry)) => entry,
        Ok(Opened::Over(entry)) => return over(&served, &entry),
        Err(error) => return refuse_link(&served, served.layout(), peer, error),
    };
    let until = until(served.process.clock.now());
    let who = format!("the link of a mail, {}", Who::Anonymous(client));
    match served.process.commands.snooze(&name, until, &who).await {
        Ok(true) => {
            let paragraphs = vec![
                format!(
                    "There are no reminders about {} until {}.",
                    entry.record.display_name,
                    moment(until)
                ),
                "Mails about a change, and about its end, still come.".to_owned(),
            ];
            notice(StatusCode::OK, served.layout(), "Reminders are off for a week", paragraphs)
        }
        Ok(false) => over(&served, &entry),
        Err(()) => unavailable(served.layout()),
    }
}

/// The button of the integration's page that ends a snooze.
pub(crate) async fn end(
    State(served): State<Arc<Served>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    if served.entry(&name).is_none() {
        return not_found(uri).await;
    }
    if served.process.commands.end_snooze(&name, &who.to_string()).await.is_err() {
        return unavailable(PageLayout { root: "../../", support: None });
    }
    let Ok(back) = HeaderValue::from_str(&format!("../{name}")) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    (StatusCode::SEE_OTHER, [(LOCATION, back)]).into_response()
}
