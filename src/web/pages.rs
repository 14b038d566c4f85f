//! The few pages of this version: an index, and what a mailed link leads to. GET changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

use super::server::Served;
use crate::domain::{Reason, Remedy};
use crate::reauth::LinkError;

/// What the page behind a link says of an integration.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its display name.
    pub display_name: String,
    /// Display name of the application.
    pub app: String,
    /// Tenant as configured.
    pub tenant: String,
    /// Permissions that re-authentication asks for.
    pub permissions: Vec<String>,
    /// Entra's page on which an administrator accepts the permissions for the whole tenant.
    pub admin_consent: String,
    /// The primary reason of what is confirmed broken.
    pub reason: Option<Reason>,
}

/// What finds an integration by name.
pub type Find = dyn Fn(&str) -> Option<Standing> + Send + Sync;

/// Finds an integration by name.
pub struct Lookup(pub Box<Find>);

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: &'a str,
    paragraphs: Vec<String>,
    items: Vec<String>,
    links: Vec<(&'a str, String)>,
}

fn page(status: StatusCode, page: &Page<'_>) -> Response {
    let body = page.render().unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // Nothing inline but the one style sheet, nothing from elsewhere; the link's token leaks to nobody.
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'sha256-TBPQVfmE5OF2VGM4EGmfKfO/QfQvOHXTMx6+4flyZ/M='; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

pub(super) async fn index(State(served): State<Arc<Served>>) -> Response {
    let links = vec![
        ("Metrics", served.telemetry_path.trim_start_matches('/').to_owned()),
        ("Healthy?", "-/healthy".to_owned()),
        ("Ready?", "-/ready".to_owned()),
    ];
    let about = vec!["Watches integrations with Microsoft Entra ID.".to_owned(), format!("Version {}.", env!("CARGO_PKG_VERSION"))];
    page(StatusCode::OK, &Page { title: "Consentry", paragraphs: about, items: Vec::new(), links })
}

pub(super) async fn not_found() -> Response {
    page(StatusCode::NOT_FOUND, &Page { title: "There is nothing here", paragraphs: Vec::new(), items: Vec::new(), links: Vec::new() })
}

/// What the mailed link leads to. An unknown name and a forged token look the same: no oracle.
pub(super) async fn reauthentication(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let refusal =
        |status, title, text: &str| page(status, &Page { title, paragraphs: vec![text.to_owned()], items: Vec::new(), links: Vec::new() });
    let token = query.get("token").map_or("", String::as_str);
    let checked = served.links.as_ref().ok_or(LinkError::Forged).and_then(|l| l.check(&name, token, served.clock.now()));
    let standing = match (checked, (served.monitor.0)(&name)) {
        (Err(LinkError::Expired), _) => {
            return refusal(
                StatusCode::GONE,
                "This link is too old",
                "Links are good for some days only. The next mail about this integration brings a new one; or ask whoever sent it.",
            );
        }
        (Err(LinkError::Forged), _) | (_, None) => {
            return refusal(
                StatusCode::FORBIDDEN,
                "This link is not valid",
                "Open the link exactly as it stands in the mail; some mail programs cut long lines.",
            );
        }
        (Ok(_), Some(standing)) => standing,
    };
    let mut paragraphs = vec![format!("{} in the Microsoft Entra tenant {}.", standing.app, standing.tenant)];
    match standing.reason {
        Some(reason) => paragraphs.extend([reason.sentence().to_owned(), reason.advice().to_owned()]),
        None => paragraphs.push("Everything works at the moment. You need not do anything.".to_owned()),
    }
    // Accepting the permissions anew mends what is about them; a dead token needs the person behind it.
    let about_permissions = standing.reason.is_some_and(|r| r.remedy() == Remedy::Reauthenticate && (r.is_presence() || r.is_consent()));
    let mut links = Vec::new();
    if about_permissions {
        paragraphs.push("An administrator of the tenant can accept the permissions again on Microsoft's own page:".to_owned());
        links.push(("Accept the permissions at Microsoft", standing.admin_consent));
    } else if standing.reason.is_some_and(|r| r.remedy() == Remedy::Reauthenticate) {
        paragraphs.push("Sign in again where the application was first connected.".to_owned());
    }
    paragraphs.push("The permissions that the integration needs:".to_owned());
    page(StatusCode::OK, &Page { title: &standing.display_name, paragraphs, items: standing.permissions, links })
}
