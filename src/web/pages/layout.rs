//! What all pages share: the layout, the headers, and a page with a short message.

use askama::Template;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// The style sheet of all pages.
pub(crate) const STYLE: &str = include_str!("../assets/page.css");

/// The variables of the layout.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageLayout {
    /// The relative path from the page to the root: empty or `../`…, so that any path prefix works.
    pub(crate) root: &'static str,
    /// The contact for questions.
    pub(crate) support: Option<String>,
}

/// Security headers of every response.
#[derive(Debug, Clone)]
pub struct SecurityHeaders {
    policy: HeaderValue,
    tls: bool,
}

impl SecurityHeaders {
    /// `form-action` allows every https host: browsers apply it to redirects after a form, too, and organizations redirect from the login
    /// host to their own identity providers. `tls` says whether browsers reach the pages over https.
    pub fn new(login_url: &str, tls: bool) -> Self {
        let plain = login_url.strip_prefix("http://").map(|_| format!(" {login_url}")).unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self' https:{plain}"
        );
        let fallback = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        Self { policy: HeaderValue::from_str(&policy).unwrap_or(fallback), tls }
    }

    /// Headers for every response that does not set them itself. Other sites do not get the address of the page, which may contain a link's token.
    /// Our own forms send their origin, which browsers omit if no referrer is sent at all (Fetch standard, "append a request `Origin` header").
    pub(crate) fn iter(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let fixed = [
            (CACHE_CONTROL, "no-store"),
            (REFERRER_POLICY, "same-origin"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let strict = (STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        fixed
            .into_iter()
            .chain([(CONTENT_SECURITY_POLICY, self.policy.clone())])
            .chain(self.tls.then_some(strict))
    }
}

/// A page with a short message.
#[derive(Template, Default)]
#[template(path = "notice.html")]
pub(crate) struct Notice<'a> {
    pub(crate) layout: PageLayout,
    pub(crate) title: &'a str,
    pub(crate) paragraphs: Vec<String>,
    pub(crate) items: Vec<String>,
    pub(crate) links: Vec<(&'a str, String)>,
    pub(crate) link_class: &'a str,
}

/// Renders a page as a response.
pub(crate) fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(body) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

pub(crate) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")], STYLE).into_response()
}
