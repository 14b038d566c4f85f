//! A small world for the unit tests: a vendor's tenant, a customer's, and one app that is installed in both.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actions::{Action, apply};
use crate::faults::Faults;
use crate::graph::{GraphRequest, answer};
use crate::login::token;
use crate::model::World;
use crate::reply::Reply;
use crate::token_request::TokenRequest;
use crate::tokens::{Caller, Keys};

pub(crate) const APP: Uuid = Uuid::from_u128(0x1111_0000_0000_0000_0000_0000_0000_0000);
pub(crate) const VENDOR: &str = "vendor.example";
pub(crate) const CUSTOMER: &str = "customer.example";
pub(crate) const LOGIN: &str = "http://localhost";
/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: i64 = 1_800_000_000;

/// Making a key takes a second.
pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::generate().unwrap());

pub(crate) fn act(world: &mut World, action: Value) -> Result<Value, String> {
    apply(world, serde_json::from_value::<Action>(action).map_err(|e| e.to_string())?)
}

pub(crate) fn world() -> World {
    let mut world = World::default();
    for action in [
        json!({"action": "freeze_clock", "at": NOW}),
        json!({"action": "add_tenant", "id": Uuid::from_u128(1), "domain": VENDOR}),
        json!({"action": "add_tenant", "id": Uuid::from_u128(2), "domain": CUSTOMER}),
        json!({"action": "add_app", "id": APP, "name": "App"}),
        json!({"action": "install_app", "tenant": VENDOR, "app": APP}),
        json!({"action": "install_app", "tenant": CUSTOMER, "app": APP}),
    ] {
        act(&mut world, action).unwrap();
    }
    world
}

/// Status and body of a Graph request of the app itself, with these permissions.
pub(crate) fn read(world: &World, tenant: &str, permissions: &[&str], target: &str) -> (u16, Value) {
    read_as(world, APP, tenant, permissions, target)
}

/// The same for another caller.
pub(crate) fn read_as(
    world: &World,
    caller: Uuid,
    tenant: &str,
    permissions: &[&str],
    target: &str,
) -> (u16, Value) {
    let permissions = permissions.iter().map(|p| (*p).to_owned()).collect();
    let caller = Caller { tenant: world.tenant_id(tenant).unwrap(), app_id: caller, user: None, permissions };
    let request = GraphRequest { method: "GET", target, eventual: false, graph: LOGIN };
    parsed(&answer(world, &Faults::default(), &caller, &request, ""))
}

pub(crate) fn parsed(reply: &Reply) -> (u16, Value) {
    (reply.status, serde_json::from_str(&reply.body).unwrap())
}

/// Status and body of a token request for application permissions, with one more field.
pub(crate) fn request_token(world: &mut World, field: (&str, &str)) -> (u16, Value) {
    let app = APP.to_string();
    let scope = format!("{LOGIN}/.default");
    let form: HashMap<String, String> =
        [("client_id", &*app), ("grant_type", "client_credentials"), ("scope", &*scope), field]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    parsed(&token(world, &KEYS, &TokenRequest { tenant: CUSTOMER, form, login: LOGIN, graph: LOGIN }))
}

/// A token whose signature nobody can verify.
pub(crate) fn foreign_token(claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", encode(&json!({"alg": "RS256", "typ": "JWT"})), encode(claims))
}
