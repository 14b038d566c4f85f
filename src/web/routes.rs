//! The routes, and which listener serves which of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use ipnet::IpNet;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use super::operations::{configuration, healthy, metrics, probe_metrics, ready, reload};
use super::pages::not_found::not_found;
use super::pages::{brake, events, integration, reauth, snooze, status};
use super::state::{Process, Served, path_of};
use super::{access, api, bodies, uploads};
use crate::listener::site::{Admission, Routes, Site};

/// The timeout of a request, from its headers to the response. A callback that waits for Entra takes at most half of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What the listeners serve.
#[derive(Debug)]
pub struct Sites {
    /// Everything.
    pub all: Arc<Site>,
    /// Only the pages of re-authentication, so that they can be reachable from the internet while the rest is not.
    pub reauthentication: Arc<Site>,
    /// Only health and readiness, for orchestrators.
    pub health: Arc<Site>,
}

impl Sites {
    /// Sites that serve this state.
    pub fn new(served: &Arc<Served>) -> Self {
        let Process { security, capacity, options, .. } = &*served.process;
        let trusted: Arc<[IpNet]> = options.trusted_proxies.as_slice().into();
        let site = |routes, admission, connections| {
            Arc::new(Site::new(routes, Arc::clone(security), admission, connections, Arc::clone(&trusted)))
        };
        Self {
            all: site(everything(served), Admission::Policy, capacity.all),
            reauthentication: site(
                alone(links(served), served),
                Admission::Everybody,
                capacity.reauthentication,
            ),
            health: site(alone(health(), served), Admission::Plain, capacity.health),
        }
    }

    /// Makes the sites serve this state from now on.
    pub fn replace(&self, served: &Arc<Served>) {
        self.all.replace(everything(served));
        self.reauthentication.replace(alone(links(served), served));
        self.health.replace(alone(health(), served));
    }
}

/// The paths are those of Prometheus. Neither route depends on Entra or on mail.
fn health() -> Router<Arc<Served>> {
    Router::new().route("/-/healthy", get(healthy)).route("/-/ready", get(ready))
}

/// The pages behind mailed links.
fn links(served: &Served) -> Router<Arc<Served>> {
    reauth::routes()
        .merge(snooze::routes())
        .layer(from_fn_with_state(served.process.link_bodies.clone(), bodies::admit))
}

/// The operators' page behind a mailed link. It is not for the internet.
fn brake_link(served: &Served) -> Router<Arc<Served>> {
    brake::link_routes().layer(from_fn_with_state(served.process.link_bodies.clone(), bodies::admit))
}

/// Every route. Users must sign in for all of them except the pages of re-authentication, which the link authorizes.
fn everything(served: &Arc<Served>) -> Routes {
    let made = Router::new()
        .route("/", get(status::index))
        .route("/events", get(events::events))
        .route("/favicon.svg", get(status::favicon))
        .route("/assets/status.css", get(status::style))
        .route("/assets/status.js", get(status::script))
        .route("/integrations/{name}", get(integration::integration))
        .route("/integrations/{name}/probe", post(integration::probe))
        .route("/integrations/{name}/link", post(integration::link))
        .route("/integrations/{name}/end-snooze", post(snooze::end))
        .merge(brake::button_routes())
        .merge(api::routes())
        .layer(from_fn_with_state(served.process.bodies.clone(), bodies::admit));
    let private = made
        .route(&served.process.options.telemetry_path, get(metrics))
        .route("/probe", get(probe_metrics))
        .route("/-/reload", post(reload).put(reload))
        .route("/config", get(configuration))
        .merge(health())
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(served), access::guard));
    let outside = finished(links(served).merge(brake_link(served)).fallback(not_found), served);
    let inside = finished(private.merge(links(served)).merge(brake_link(served)), served);
    Routes {
        inside,
        outside,
        prefix: served.process.options.route_prefix.as_str().into(),
        public: public_path(served),
    }
}

/// Routes that are the same with and without a path prefix.
fn alone(routes: Router<Arc<Served>>, served: &Arc<Served>) -> Routes {
    let router = finished(routes.fallback(not_found), served);
    Routes { inside: router.clone(), outside: router, prefix: "".into(), public: public_path(served) }
}

/// The path of the public URL. Requests may arrive with or without it, because only some proxies strip it.
fn public_path(served: &Served) -> Arc<str> {
    served.public_url.as_deref().map(path_of).unwrap_or_default().into()
}

fn finished(router: Router<Arc<Served>>, served: &Arc<Served>) -> Router {
    let mut router = router
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(from_fn_with_state(Arc::clone(&served.process.uploads), uploads::receive))
        // A client that sends its body at one byte per minute does not hold a connection forever.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT));
    for (name, value) in served.security_headers.iter() {
        router = router.layer(SetResponseHeaderLayer::if_not_present(name, value));
    }
    router.with_state(Arc::clone(served))
}
