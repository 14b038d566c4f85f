//! The page for unknown paths.

use axum::http::{StatusCode, Uri};
use axum::response::Response;

use crate::web::pages::layout::{Notice, PageLayout, html};

pub(crate) async fn not_found(uri: Uri) -> Response {
    let root = match uri.path().matches('/').count() {
        0 | 1 => "",
        2 => "../",
        3 => "../../",
        _ => "../../../",
    };
    let layout = PageLayout { root, support: None };
    html(StatusCode::NOT_FOUND, &Notice { layout, title: "Page not found", ..Notice::default() })
}
