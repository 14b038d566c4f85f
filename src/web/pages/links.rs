//! What the pages behind mailed links share: the button, and the pages for links that are not accepted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::{Form, FromRequest, Query, Request};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::layout::{Notice, PageLayout, html};
use crate::reauth::LinkError;
use crate::web::state::Served;

/// The button of a link's page. The fields are those of the form and, if it was lost, of the address.
pub(crate) struct ButtonPress {
    pub(crate) headers: HeaderMap,
    fields: HashMap<String, String>,
}

impl ButtonPress {
    /// A field; empty if it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

impl<S: Send + Sync> FromRequest<S> for ButtonPress {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Infallible> {
        type Fields = HashMap<String, String>;
        let headers = request.headers().clone();
        let Query(mut fields) = Query::<Fields>::try_from_uri(request.uri()).unwrap_or_default();
        if let Ok(Form(form)) = Form::<Fields>::from_request(request, state).await {
            fields.extend(form);
        }
        Ok(Self { headers, fields })
    }
}

/// The page for an invalid link. Only links that Consentry signed get specific messages.
pub(crate) fn refuse_link(served: &Served, layout: PageLayout, peer: IpAddr, error: LinkError) -> Response {
    let (status, title, text) = match error {
        LinkError::Expired => (
            StatusCode::GONE,
            "This link is too old",
            "Links are valid for some days only. The next mail about this integration contains a new one; or ask whoever sent you this link.",
        ),
        LinkError::Used => (
            StatusCode::GONE,
            "This link has already been used",
            "Either the integration has been re-authenticated since this link was made, or the people who run it have ended all earlier links. If it is still broken, wait for the next mail, or ask whoever sent you this link for a new one.",
        ),
        LinkError::Unavailable => return unavailable(layout),
        LinkError::TooMany => return too_many_sign_ins(layout),
        LinkError::Forged if !served.process.failed_attempts.wrong(peer, served.process.clock.steady()) => {
            return too_many(layout);
        }
        LinkError::Forged => (
            StatusCode::FORBIDDEN,
            "This link is not valid",
            "Open the link exactly as it is in the mail; some mail programs cut long lines. If it was copied by hand, copy all of it.",
        ),
    };
    notice(status, layout, title, vec![text.to_owned()])
}

/// A page with some sentences.
pub(crate) fn notice(
    status: StatusCode,
    layout: PageLayout,
    title: &str,
    paragraphs: Vec<String>,
) -> Response {
    html(status, &Notice { layout, title, paragraphs, ..Notice::default() })
}

/// The page for a button that was pressed on another site.
pub(crate) fn pressed_elsewhere(layout: PageLayout) -> Response {
    let text =
        "The button was pressed on another site. Open the link from the mail and press it there.".to_owned();
    notice(StatusCode::FORBIDDEN, layout, "This did not come from our page", vec![text])
}

/// The page for a fault of ours.
pub(crate) fn unavailable(layout: PageLayout) -> Response {
    let text =
        "The fault is on this side, and nothing has been changed. Try again a little later.".to_owned();
    notice(StatusCode::SERVICE_UNAVAILABLE, layout, "Please try again later", vec![text])
}

/// The page for a network that has sent too many invalid links.
pub(crate) fn too_many(layout: PageLayout) -> Response {
    let text =
        "Too many invalid requests have come from your network. Wait a minute, then open the link from the mail.".to_owned();
    retry_after(notice(StatusCode::TOO_MANY_REQUESTS, layout, "Please wait a moment", vec![text]), 60)
}

/// The limit of pending sign-ins is reached. None of them is ended for a new one, because they may belong to other people.
fn too_many_sign_ins(layout: PageLayout) -> Response {
    let paragraphs = vec![
        "Too many sign-ins have been started with this link, or from your network, and not completed yet. Complete one of them, or wait ten minutes and press the button again.".to_owned(),
        "The link stays good, and nothing has been changed.".to_owned(),
    ];
    retry_after(
        notice(StatusCode::TOO_MANY_REQUESTS, layout, "Too many sign-ins are under way", paragraphs),
        600,
    )
}

fn retry_after(mut response: Response, seconds: u32) -> Response {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
