//! `consentry demo`: a simulated Entra with a small fleet, a mailbox, and the daemon, all on loopback in one process.
//!
//! [`SITUATIONS`] lists the ways in which an integration breaks; the tests use it, too.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use entra_sim::{Action, Options, Simulator, TokenDeath};
use uuid::Uuid;

use crate::domain::Reason;
use crate::secret::Secret;
use crate::store::{Store, TokenId};

mod branches;
mod listings;

/// App id of the demo's multi-tenant application.
pub const APP: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_00aa);
/// App id of an application with application access.
pub const APPLICATION_APP: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_00bb);
/// App id of the directory reader.
pub const READER: Uuid = Uuid::from_u128(0x5e90_0000_0000_0000_0000_0000_0000_00cc);

const SECRET: &str = "demo-secret";

/// A customer of the demo: a tenant, an integration, and how it breaks.
#[derive(Clone, Copy)]
pub struct Situation {
    /// Name of the integration; its tenant is `NAME.example`.
    pub name: &'static str,
    /// Display name.
    pub display_name: &'static str,
    /// Whether it has a directory reader.
    pub reader: bool,
    /// Whether it has application access; otherwise delegated.
    pub application: bool,
    /// Seconds after the start at which it breaks, in the demo.
    pub breaks_after: Option<u64>,
    /// The actions that break it, by its tenant's domain.
    pub breaks: fn(&str) -> Vec<Action>,
    /// The actions that fix it, by its tenant's domain.
    pub fix: fn(&str) -> Vec<Action>,
    /// The primary reason while it is broken.
    pub reason: Option<Reason>,
    /// A description for people.
    pub story: &'static str,
}

impl std::fmt::Debug for Situation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Situation {
    /// The verified domain of its tenant.
    pub fn tenant(&self) -> String {
        format!("{}.example", self.name)
    }

    /// The GUID of its tenant.
    pub fn tenant_id(&self) -> Uuid {
        let hash = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Uuid::from_u128(u128::from(hash))
    }

    /// The application it uses.
    pub fn app(&self) -> Uuid {
        if self.application { APPLICATION_APP } else { APP }
    }
}

fn own(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn delegated() -> Vec<String> {
    own(&["User.Read", "Group.Read.All"])
}

/// The customers of the demo.
pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "northwind",
        display_name: "Northwind Traders",
        reader: false,
        application: false,
        breaks_after: None,
        breaks: |_| Vec::new(),
        fix: |_| Vec::new(),
        reason: None,
        story: "stays healthy",
    },
    Situation {
        name: "fabrikam",
        display_name: "Fabrikam",
        reader: true,
        application: true,
        breaks_after: None,
        breaks: |_| Vec::new(),
        fix: |_| Vec::new(),
        reason: None,
        story: "stays healthy, with application access and a directory reader",
    },
    Situation {
        name: "contoso",
        display_name: "Contoso",
        reader: false,
        application: false,
        breaks_after: Some(12),
        breaks: |t| {
            vec![Action::EditConsent {
                tenant: t.to_owned(),
                app: APP,
                resource: None,
                delegated: Some(own(&["User.Read"])),
                application: None,
            }]
        },
        fix: |t| {
            vec![Action::EditConsent {
                tenant: t.to_owned(),
                app: APP,
                resource: None,
                delegated: Some(delegated()),
                application: None,
            }]
        },
        reason: Some(Reason::PermissionMissing),
        story: "an admin edits the permissions",
    },
    Situation {
        name: "litware",
        display_name: "Litware",
        reader: true,
        application: false,
        breaks_after: Some(18),
        breaks: |t| vec![Action::DeleteApp { tenant: t.to_owned(), app: APP }],
        fix: |t| vec![Action::RestoreApp { tenant: t.to_owned(), app: APP }],
        reason: Some(Reason::AppDeleted),
        story: "an admin deletes the enterprise application",
    },
    Situation {
        name: "proseware",
        display_name: "Proseware",
        reader: false,
        application: false,
        breaks_after: Some(24),
        breaks: |t| {
            vec![Action::KillRefreshTokens { tenant: t.to_owned(), app: APP, death: TokenDeath::Corrupted }]
        },
        // Only a new sign-in fixes it.
        fix: |_| Vec::new(),
        reason: Some(Reason::TokenInvalid),
        story: "the refresh token is corrupted",
    },
    Situation {
        name: "tailspin",
        display_name: "Tailspin Toys",
        reader: false,
        application: false,
        breaks_after: Some(30),
        breaks: |t| vec![Action::EnableUser { tenant: t.to_owned(), user: "admin".to_owned(), value: false }],
        fix: |t| vec![Action::EnableUser { tenant: t.to_owned(), user: "admin".to_owned(), value: true }],
        reason: Some(Reason::AccountDisabled),
        story: "the consenting account is disabled",
    },
    Situation {
        name: "wingtip",
        display_name: "Wingtip Toys",
        reader: true,
        application: false,
        breaks_after: Some(36),
        breaks: |t| vec![Action::EnableApp { tenant: t.to_owned(), app: APP, value: false }],
        fix: |t| vec![Action::EnableApp { tenant: t.to_owned(), app: APP, value: true }],
        reason: Some(Reason::AppDisabled),
        story: "an admin disables the enterprise application",
    },
    Situation {
        name: "adatum",
        display_name: "Adatum",
        reader: false,
        application: true,
        breaks_after: Some(42),
        breaks: |t| vec![Action::RevokeConsent { tenant: t.to_owned(), app: APPLICATION_APP }],
        fix: |t| {
            let application = own(&["Group.Read.All"]);
            vec![Action::Consent {
                tenant: t.to_owned(),
                app: APPLICATION_APP,
                user: None,
                resource: None,
                delegated: Vec::new(),
                application,
            }]
        },
        reason: Some(Reason::ConsentMissing),
        story: "all permissions are revoked",
    },
    Situation {
        name: "lucerne",
        display_name: "Lucerne Publishing",
        reader: false,
        application: false,
        breaks_after: Some(48),
        breaks: |t| vec![Action::BlockByPolicy { tenant: t.to_owned(), users: true, apps: false }],
        fix: |t| vec![Action::BlockByPolicy { tenant: t.to_owned(), users: false, apps: false }],
        reason: Some(Reason::AccessBlocked),
        story: "a Conditional Access policy blocks the account",
    },
    Situation {
        name: "alpine",
        display_name: "Alpine Ski House",
        reader: false,
        application: false,
        breaks_after: Some(54),
        breaks: |t| vec![Action::DeleteGroup { tenant: t.to_owned(), name: "Door access - HQ".to_owned() }],
        fix: |t| {
            vec![Action::AddGroup { tenant: t.to_owned(), name: "Door access - HQ".to_owned(), id: None }]
        },
        reason: Some(Reason::GroupMissing),
        story: "a group that the integration matches on is deleted",
    },
];

/// Creates the fleet's tenants in the simulator, all healthy. Sign-ins return to `public_url`.
pub fn populate(simulator: &Simulator, public_url: &str) -> anyhow::Result<()> {
    let app = |id, name: &str, delegated, application| Action::AddApp {
        id,
        name: name.to_owned(),
        secret: Some(SECRET.to_owned()),
        certificate_pem: None,
        redirect_uris: vec![format!("{public_url}/reauth/callback")],
        delegated,
        application,
    };
    simulator.apply(app(APP, "Sequr", delegated(), Vec::new()))?;
    simulator.apply(app(APPLICATION_APP, "Rota", Vec::new(), own(&["Group.Read.All"])))?;
    simulator.apply(app(READER, "Directory reader", Vec::new(), own(&["Directory.Read.All"])))?;
    for situation in SITUATIONS {
        let tenant = situation.tenant();
        simulator.apply(Action::AddTenant {
            id: situation.tenant_id(),
            domain: tenant.clone(),
            name: Some(situation.display_name.to_owned()),
        })?;
        for name in ["Door access - HQ", "Everybody", "Finance"] {
            simulator.apply(Action::AddGroup { tenant: tenant.clone(), name: name.to_owned(), id: None })?;
        }
        let consent = |app, delegated, application| Action::Consent {
            tenant: tenant.clone(),
            app,
            user: None,
            resource: None,
            delegated,
            application,
        };
        let (scopes, roles) = if situation.application {
            (Vec::new(), own(&["Group.Read.All"]))
        } else {
            (delegated(), Vec::new())
        };
        simulator.apply(consent(situation.app(), scopes, roles))?;
        if situation.reader {
            simulator.apply(consent(READER, Vec::new(), own(&["Directory.Read.All"])))?;
        }
    }
    Ok(())
}

/// The fleet's configuration. `probe` contains the lines of that section.
pub fn configuration(simulator: &Simulator, public_url: &str, probe: &str) -> String {
    let mut text = format!(
        "cloud: {{login_url: \"{url}\", graph_url: \"{url}\"}}\nprobe:\n{probe}\
         email:\n  from: Consentry <consentry@demo.example>\n  operators: [operators@demo.example]\n  support_contact: \"Demo Support, help@demo.example\"\n  group_wait: 3s\n  \
         smtp: {{host: 127.0.0.1, port: {port}, tls: none}}\nreauthentication: {{public_url: \"{public_url}\"}}\n\
         directory_readers:\n  reader: {{client_id: {READER}, credential: {{client_secret: {SECRET}}}}}\napps:\n  \
         sequr:\n    client_id: {APP}\n    display_name: Sequr\n    credential: {{client_secret: {SECRET}}}\n    \
         required_permissions: [{{resource: microsoft_graph, delegated: [User.Read, Group.Read.All]}}]\n  \
         rota:\n    client_id: {APPLICATION_APP}\n    display_name: Rota\n    access: application\n    credential: {{client_secret: {SECRET}}}\n    \
         required_permissions: [{{resource: microsoft_graph, application: [Group.Read.All]}}]\nintegrations:\n",
        url = simulator.url(),
        port = simulator.smtp.port(),
    );
    for situation in SITUATIONS {
        let reader = if situation.reader { ", directory_reader: reader" } else { "" };
        let (app, tenant) = (if situation.application { "rota" } else { "sequr" }, situation.tenant());
        let _ = writeln!(
            text,
            "  - {{name: {}, display_name: {:?}, app: {app}, tenant_id: {tenant}, admins: [it@{tenant}], groups: {{required: [\"Door access - HQ\"]}}{reader}}}",
            situation.name, situation.display_name
        );
    }
    text
}

/// Gives every delegated integration the token of its tenant's administrator.
pub async fn sign_in(simulator: &Simulator, store: &Store) -> anyhow::Result<()> {
    for situation in SITUATIONS.iter().filter(|s| !s.application) {
        let response = simulator.apply(Action::IssueRefreshToken {
            tenant: situation.tenant(),
            app: APP,
            user: None,
        })?;
        let token = response["refresh_token"].as_str().context("the simulator returned no token")?;
        let id = TokenId {
            integration: situation.name.to_owned(),
            client_id: APP.to_string(),
            tenant: situation.tenant(),
        };
        store.put_token(&id, &Secret::new(token), "import", crate::clock::Clock::system().now()).await?;
    }
    Ok(())
}

/// Runs the demo until a signal.
///
/// # Errors
/// An address is in use, or the temporary folder cannot be written.
pub async fn run(listen: &str, simulated: SocketAddr) -> anyhow::Result<()> {
    let fixed = Options { http: simulated, ..Options::default() };
    let simulator = match Simulator::start(fixed).await {
        Ok(simulator) => simulator,
        Err(_) => Simulator::start(Options::default()).await?,
    };
    let daemon = format!("http://{}", browsers(listen));
    populate(&simulator, &daemon)?;
    let folder = Folder::new()?;
    let file = folder.0.join("consentry.yml");
    let probe = "  interval: 4s\n  retry_interval: 2s\n  timeout: 10s\n";
    branches::populate(&simulator)?;
    listings::populate(&simulator)?;
    let usual = configuration(&simulator, &daemon, probe)
        .replace("group_wait: 3s", branches::MAIL_SETTINGS)
        .replace("integrations:\n", &format!("{}integrations:\n", listings::app()));
    let later = format!("integration_files: [\"{}\"]\n", listings::FILE);
    std::fs::write(&file, usual + &branches::configuration() + &later)?;
    let (loaded, sources) = crate::config::Sources::load(&file, &|name| std::env::var(name).ok())
        .map_err(|problems| anyhow::anyhow!("the demo's configuration is invalid: {problems:?}"))?;
    let store = crate::app::store(&loaded.config)?;
    sign_in(&simulator, &store).await?;
    branches::sign_in(&simulator, &store).await?;
    drop(store);
    introduce(&daemon, &simulator, &file);
    let simulator = Arc::new(simulator);
    let scenario = tokio::spawn(run_scenario(Arc::clone(&simulator), folder.0.clone()));
    let options = crate::web::WebOptions {
        lifecycle: true,
        anonymous_actions: true,
        external_url: Some(daemon),
        ..Default::default()
    };
    let front = crate::app::Front { options, web_config_file: None };
    let result = crate::app::run(
        loaded.config,
        sources,
        &crate::app::Addresses { all: &[listen.to_owned()], health: None },
        front,
    )
    .await;
    scenario.abort();
    result
}

/// The address for browsers on this machine: loopback for a socket on all interfaces.
fn browsers(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("" | "0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
        _ => listen.to_owned(),
    }
}

fn introduce(daemon: &str, simulator: &Simulator, file: &Path) {
    println!(
        "Consentry demo: {} integrations with a simulated Microsoft Entra ID, one more with provisioning and credentials, and six branches of one more customer. Stop it with Ctrl-C.\n",
        SITUATIONS.len()
    );
    println!(
        "  Mailbox       {}/          the admins' mails: open one, press its button, Accept, and see it turn green",
        simulator.url()
    );
    println!(
        "  Metrics       {daemon}/metrics   look for consentry_check_reason and consentry_integration_up"
    );
    let program = std::env::current_exe().unwrap_or_else(|_| "consentry".into());
    println!("  Try           {} probe litware --config.file={}\n", program.display(), file.display());
    println!("During the first minute:");
    for situation in SITUATIONS {
        let when = situation.breaks_after.map_or_else(|| "     ".to_owned(), |s| format!("{s:>3} s"));
        println!("  {when}  {:<10} {}", situation.name, situation.story);
    }
    println!("   60 s  contoso    is still broken: its admin gets a reminder");
    println!(
        "   62 s  woodgrove  joins with a file: its client secret expires in five days, the operators are warned"
    );
    println!("   76 s  woodgrove  Entra puts its provisioning job into quarantine");
    println!("   90 s  wingtip    is enabled again: an admin fixes what a sign-in cannot fix");
    println!(
        "  100 s  branches   six break at once: the brake holds the mails, and the operators get a link"
    );
    println!(
        "                    to release them; without that they go out 40 s later, as one mail to their admin\n"
    );
}

/// Breaks the integrations one after the other, and fixes the one that no sign-in can fix.
async fn run_scenario(simulator: Arc<Simulator>, folder: PathBuf) {
    let mut elapsed = 0;
    for situation in SITUATIONS {
        let Some(at) = situation.breaks_after else { continue };
        tokio::time::sleep(Duration::from_secs(at.saturating_sub(elapsed))).await;
        if elapsed == 0 {
            tokio::spawn(announce_first_mail(Arc::clone(&simulator)));
        }
        elapsed = at;
        apply(&simulator, situation.name, situation.story, (situation.breaks)(&situation.tenant()));
    }
    tokio::time::sleep(Duration::from_secs(62_u64.saturating_sub(elapsed))).await;
    listings::join(&folder);
    tokio::time::sleep(Duration::from_secs(14)).await;
    apply(&simulator, listings::NAME, "its provisioning job is in quarantine", listings::breaks(&simulator));
    tokio::time::sleep(Duration::from_secs(14)).await;
    if let Some(wingtip) = SITUATIONS.iter().find(|s| s.name == "wingtip") {
        apply(&simulator, wingtip.name, "is enabled again", (wingtip.fix)(&wingtip.tenant()));
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    apply(
        &simulator,
        "branches",
        "the enterprise application of six branches is deleted",
        branches::breaks(),
    );
}

async fn announce_first_mail(simulator: Arc<Simulator>) {
    simulator.mailbox().wait_for(1).await;
    println!(">> The first mail has arrived. Click this: {}/mail/0", simulator.url());
}

fn apply(simulator: &Simulator, name: &str, story: &str, actions: Vec<Action>) {
    for action in actions {
        if let Err(error) = simulator.apply(action) {
            tracing::error!(%error, integration = name, "the simulator rejects an action");
        }
    }
    println!(">> {name}: {story}");
}

/// A folder below the system's temporary one, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("consentry-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
