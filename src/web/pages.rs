//! The pages that need nothing: an index, and the page for what is not there.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::server::Served;
use super::shell::{Notice, Shell, html};

pub(super) async fn index(State(served): State<Arc<Served>>) -> Response {
    let links = vec![
        ("Metrics", served.telemetry_path.trim_start_matches('/').to_owned()),
        ("Healthy?", "-/healthy".to_owned()),
        ("Ready?", "-/ready".to_owned()),
    ];
    let paragraphs = vec!["Watches integrations with Microsoft Entra ID.".to_owned(), format!("Version {}.", env!("CARGO_PKG_VERSION"))];
    html(StatusCode::OK, &Notice { title: "Consentry", paragraphs, links, ..Notice::default() })
}

pub(super) async fn not_found(uri: Uri) -> Response {
    let root = match uri.path().matches('/').count() {
        0 | 1 => "",
        2 => "../",
        3 => "../../",
        _ => "../../../",
    };
    let shell = Shell { root, support: None };
    html(StatusCode::NOT_FOUND, &Notice { shell, title: "There is nothing here", ..Notice::default() })
}
