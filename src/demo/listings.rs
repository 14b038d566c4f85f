//! The demo's customer with the two checks that are off by default: a client secret that expires soon, and a synchronization job that is put into
//! quarantine.

use std::path::Path;

use entra_sim::{Action, Simulator, jobs};
use uuid::Uuid;

use super::{READER, SECRET, own};

const TENANT: &str = "woodgrove.example";
const TENANT_ID: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_ee00);
const APP: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_00dd);
const JOB: &str = "scim.5f9c2b7d";

/// The file with which it joins, in the folder of the configuration.
pub(super) const FILE: &str = "woodgrove.yml";

/// Its name.
pub(super) const NAME: &str = "woodgrove";

/// Creates its tenant and its application. The secret expires in five days.
pub(super) fn populate(simulator: &Simulator) -> anyhow::Result<()> {
    let tenant = || TENANT.to_owned();
    let consent = |app, application: &[&str]| Action::Consent {
        tenant: tenant(),
        app,
        user: None,
        resource: None,
        delegated: Vec::new(),
        application: own(application),
    };
    let actions = [
        Action::AddTenant { id: TENANT_ID, domain: tenant(), name: Some("Woodgrove Bank".to_owned()) },
        Action::AddApp {
            id: APP,
            name: "Ledger".to_owned(),
            secret: None,
            certificate_pem: None,
            redirect_uris: Vec::new(),
            delegated: Vec::new(),
            application: own(&["Group.Read.All"]),
        },
        Action::SetHomeTenant { app: APP, tenant: tenant() },
        Action::AddSecret {
            app: APP,
            secret: SECRET.to_owned(),
            expires_in_seconds: 5 * 86_400,
            key_id: None,
            display_name: Some("Ledger in production".to_owned()),
        },
        consent(APP, &["Group.Read.All"]),
        consent(READER, &["Directory.Read.All", "Synchronization.Read.All"]),
        listed(vec![jobs::active(JOB, simulator.with_world(|world| world.now()))]),
    ];
    actions.into_iter().try_for_each(|action| simulator.apply(action).map(|_| ()))
}

fn listed(jobs: Vec<serde_json::Value>) -> Action {
    Action::SetProvisioningJobs { tenant: TENANT.to_owned(), app: APP, jobs }
}

/// Its application in the configuration.
pub(super) fn app() -> String {
    format!(
        "  ledger:\n    client_id: {APP}\n    display_name: Ledger\n    access: application\n    home_tenant_id: {TENANT_ID}\n    \
         credential: {{client_secret: {SECRET}}}\n    \
         required_permissions: [{{resource: microsoft_graph, application: [Group.Read.All]}}]\n"
    )
}

/// Adds it to the fleet with a file, which the daemon notices.
pub(super) fn join(folder: &Path) {
    let entry = format!(
        "- {{name: {NAME}, display_name: Woodgrove Bank, app: ledger, tenant_id: {TENANT}, admins: [it@{TENANT}], \
         directory_reader: reader, checks: [enterprise_app, provisioning, credential]}}\n"
    );
    match std::fs::write(folder.join(FILE), entry) {
        Ok(()) => println!(">> {NAME}: it joins the fleet with a file"),
        Err(error) => tracing::error!(%error, "cannot write {FILE}"),
    }
}

/// Entra puts its job into quarantine.
pub(super) fn breaks(simulator: &Simulator) -> Vec<Action> {
    let now = simulator.with_world(|world| world.now());
    let code = "SystemForCrossDomainIdentityManagementCredentialValidationUnavailable";
    let message = "The credentials could not be validated.";
    vec![listed(vec![jobs::quarantined(JOB, "EncounteredQuarantineException", code, message, now)])]
}
