//! A fleet of integrations against the simulator, each in its own process: probes per second, CPU per probe, requests per probe, peak
//! memory. Run with `cargo bench --bench fleet`; the first argument after `--` is the size of the fleet.
//!
//! The measured process is this program, started a second time: it runs the daemon's parts as `consentry run` wires them and probes every
//! integration a few times, as fast as the upstream answers.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use consentry::app::{self, Daemon, Listeners};
use consentry::clock::Clock;
use consentry::config::load;
use consentry::metrics::{Format, write};
use consentry::secret::Secret;
use consentry::store::TokenId;
use entra_sim::{Action, Options, Simulator};
use uuid::Uuid;

const APP: Uuid = Uuid::from_u128(0xaa);
const ROUNDS: u64 = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(folder) = arguments.iter().position(|a| a == "--measured").and_then(|i| arguments.get(i + 1))
    {
        runtime().block_on(measured(folder));
        return;
    }
    let size = arguments.iter().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000);
    runtime().block_on(prepare(size));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Builds tenants, configuration and tokens, starts the measured process, and counts the requests it made.
async fn prepare(size: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let simulator = Simulator::start(Options::default()).await.expect("a simulator");
    let app = Action::AddApp {
        id: APP,
        name: "Sequr".to_owned(),
        secret: Some("secret".to_owned()),
        certificate_pem: None,
        redirect_uris: Vec::new(),
        delegated: permissions(),
        application: Vec::new(),
    };
    simulator.apply(app).expect("an app");
    let url = simulator.url();
    let mut text = format!(
        "cloud: {{login_url: \"{url}\", graph_url: \"{url}\"}}\nprobe: {{interval: 5s, concurrency: 16}}\napps:\n  sequr:\n    client_id: {APP}\n    \
         credential: {{client_secret: secret}}\n    required_permissions: [{{resource: microsoft_graph, delegated: [User.Read, Group.Read.All]}}]\nintegrations:\n"
    );
    let tokens: Vec<String> = (0..size).map(|index| add_tenant(&simulator, index, &mut text)).collect();
    let file = folder.path().join("consentry.yml");
    std::fs::write(&file, text).expect("written");
    let config = load(&file).expect("valid").config;
    let store = app::store(&config).expect("a database");
    for (integration, token) in config.integrations.iter().zip(&tokens) {
        let id = TokenId {
            integration: integration.name.clone(),
            client_id: APP.to_string(),
            tenant: integration.tenant.clone(),
        };
        store
            .put_token(&id, &Secret::new(token.as_str()), "import", Clock::system().now())
            .await
            .expect("stored");
    }
    drop(store);
    simulator.take_requests();
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program)
        .arg("--measured")
        .arg(folder.path())
        .stdout(Stdio::inherit())
        .spawn()
        .expect("started");
    let ended =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("waited").expect("ended");
    assert!(ended.status.success());
    println!("(the simulator remembers its last {} requests)", simulator.take_requests().len());
}

fn permissions() -> Vec<String> {
    vec!["User.Read".to_owned(), "Group.Read.All".to_owned()]
}

/// A tenant with a group and a consent, and its integration in the configuration. Returns a refresh token.
fn add_tenant(simulator: &Simulator, index: usize, text: &mut String) -> String {
    let (id, domain) = (Uuid::from_u128(0x1000 + index as u128), format!("t{index}.example"));
    simulator.apply(Action::AddTenant { id, domain: domain.clone(), name: None }).expect("a tenant");
    let group = Action::AddGroup { tenant: domain.clone(), name: "Everybody".to_owned(), id: None };
    simulator.apply(group).expect("a group");
    let consent = Action::Consent {
        tenant: domain.clone(),
        app: APP,
        user: None,
        resource: None,
        delegated: permissions(),
        application: Vec::new(),
    };
    simulator.apply(consent).expect("a consent");
    writeln!(text, "  - {{name: c{index:05}, app: sequr, tenant_id: {id}, admins: [it@t{index}.example]}}")
        .expect("text");
    let issue = Action::IssueRefreshToken { tenant: domain, app: APP, user: None };
    simulator.apply(issue).expect("a token")["refresh_token"].as_str().expect("a token").to_owned()
}

/// The daemon's parts on a real clock until every integration was probed some times.
async fn measured(folder: &str) {
    let config = load(&std::path::Path::new(folder).join("consentry.yml")).expect("valid").config;
    let size = config.integrations.len() as u64;
    let daemon = Daemon::wire(&config, Clock::system(), app::Front::default()).await.expect("a daemon");
    let process = std::sync::Arc::clone(&daemon.process);
    let (before, started) = (cpu(), Instant::now());
    let running = daemon.start(Listeners::default());
    let value = |text: &str, series: &str| -> f64 {
        text.lines()
            .filter(|l| l.starts_with(series))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    let probes = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let text = write(&process.families, &process.published, Format::Text);
        let done = value(&text, "consentry_probes_total");
        if done >= (size * ROUNDS) as f64 {
            break done;
        }
    };
    let (elapsed, used) = (started.elapsed().as_secs_f64(), cpu());
    let used = (used.0 - before.0, used.1 - before.1);
    let text = write(&process.families, &process.published, Format::Text);
    let (requests, passed) = (
        value(&text, "consentry_upstream_requests_total"),
        value(&text, "consentry_probes_total{result=\"pass\"}"),
    );
    running.finish().await;
    println!("integrations              {size}");
    println!("probes                    {probes} ({passed} passed)");
    println!("probes a second           {:.0}", probes / elapsed);
    println!(
        "CPU a probe               {:.3} ms ({:.3} user, {:.3} kernel)",
        (used.0 + used.1) * 1000.0 / probes,
        used.0 * 1000.0 / probes,
        used.1 * 1000.0 / probes
    );
    println!("requests a probe          {:.2}", requests / probes);
    println!("peak resident memory      {:.1} MB", status("VmHWM:"));
    println!("resident memory           {:.1} MB (file-backed pages included)", status("VmRSS:"));
    println!("anonymous memory          {:.1} MB", status("RssAnon:"));
}

/// Seconds of CPU that this process has used, in user space and in the kernel (Linux).
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in the kernel's fixed 100 ticks a second.
    (ticks(11) / 100.0, ticks(12) / 100.0)
}

/// A line of `/proc/self/status` in megabytes.
fn status(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|k| k.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
