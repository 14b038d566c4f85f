//! The demo's last part: six branches of one customer, which break at once, so that the brake holds their mails, and which have one administrator, so that
//! the released mails are one.

use std::fmt::Write as _;

use entra_sim::{Action, Simulator};
use uuid::Uuid;

use super::{APP, delegated};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::{Store, TokenId};

const TENANT: &str = "branches.example";
const TENANT_ID: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_bb00);
const CITIES: [&str; 6] = ["Berlin", "Lisbon", "London", "Osaka", "Porto", "Rome"];

/// Reminders and the brake with short times, so that a spectator sees both.
pub(super) const MAIL_SETTINGS: &str =
    "reminders: [45s, 5m]\n  brake: {share: 0.25, minimum: 4, hold: 40s}\n  group_wait: 3s";

fn name(city: &str) -> String {
    format!("branch-{}", city.to_lowercase())
}

/// Creates their tenant, healthy.
pub(super) fn populate(simulator: &Simulator) -> anyhow::Result<()> {
    let tenant = || TENANT.to_owned();
    let name = Some("Branches".to_owned());
    simulator.apply(Action::AddTenant { id: TENANT_ID, domain: tenant(), name })?;
    let group = "Door access - HQ".to_owned();
    simulator.apply(Action::AddGroup { tenant: tenant(), name: group, id: None })?;
    simulator.apply(Action::Consent {
        tenant: tenant(),
        app: APP,
        user: None,
        resource: None,
        delegated: delegated(),
        application: Vec::new(),
    })?;
    Ok(())
}

/// Their entries in the configuration.
pub(super) fn configuration() -> String {
    CITIES.iter().fold(String::new(), |mut text, city| {
        let _ = writeln!(
            text,
            "  - {{name: {}, display_name: Branch {city}, app: sequr, tenant_id: {TENANT}, admins: [it@{TENANT}]}}",
            name(city)
        );
        text
    })
}

/// Gives each the token of the administrator.
pub(super) async fn sign_in(simulator: &Simulator, store: &Store) -> anyhow::Result<()> {
    for city in CITIES {
        let issue = Action::IssueRefreshToken { tenant: TENANT.to_owned(), app: APP, user: None };
        let response = simulator.apply(issue)?;
        let token = Secret::new(response["refresh_token"].as_str().unwrap_or_default());
        let id = TokenId { integration: name(city), client_id: APP.to_string(), tenant: TENANT.to_owned() };
        store.put_token(&id, &token, "import", Clock::system().now()).await?;
    }
    Ok(())
}

/// Breaks all of them at once.
pub(super) fn breaks() -> Vec<Action> {
    vec![Action::DeleteApp { tenant: TENANT.to_owned(), app: APP }]
}
