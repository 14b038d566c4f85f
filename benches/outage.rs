//! An outage: a whole fleet joins one cause within an interval, and leaves it again. Run with `cargo bench --bench outage`; the first
//! argument after `--` is the size of the fleet. Entra is left out: the benchmark measures folding, deciding, saving and publishing.
//!
//! Then 5,000 integrations with an administrator each break within a minute, the brake holds their mails, somebody releases them, and all are sent, without a
//! mail server: the benchmark measures the outbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consentry::domain::{
    Access, BrakeAction, BrakePolicy, Check, CheckResult, Details, Diagnosis, IntegrationRecord, Outcome,
    Reason, Thresholds, Timestamp,
};
use consentry::metrics::Families;
use consentry::monitor::{Evaluator, Outputs, Policy, ProbeMeta};
use consentry::store::Store;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// The limit on probes in flight, as with `probe.concurrency`.
const AT_ONCE: usize = 64;

const START: Timestamp = Timestamp::from_seconds(1_790_000_000);

fn main() {
    let size = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(outage(size));
    runtime.block_on(braked(5_000));
}

/// The evaluator of a fleet, with its database in this folder.
async fn evaluator(folder: &TempDir, size: usize, hold: Duration) -> (Arc<Evaluator>, Store) {
    let store = Store::open(&folder.path().join("c.db"), &folder.path().join("c.key")).expect("a database");
    let policy = Policy {
        thresholds: Thresholds { failure: 2, success: 1, lasting: Duration::from_secs(3600) },
        mail: true,
        operators: vec!["sre@example.com".to_owned()],
        send_resolved: true,
        reminders: Vec::new(),
        brake: BrakePolicy { share: 0.25, minimum: 20, hold, interval: Duration::from_secs(300) },
        group_wait: Duration::from_secs(30),
    };
    let outputs = Outputs {
        store: store.clone(),
        fleet: Arc::default(),
        families: Families::new().expect("families"),
        published: Arc::default(),
        outbox: Arc::default(),
    };
    let records = (0..size).map(record).collect();
    (Arc::new(Evaluator::start(outputs, policy, records, START).await.expect("an evaluator")), store)
}

/// So many break at once: their mails are held, released and sent.
async fn braked(size: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (evaluator, store) = evaluator(&folder, size, Duration::from_secs(3600)).await;
    round(&evaluator, size, "all is well", Outcome::Pass, 0).await;
    round(&evaluator, size, "they fail", Outcome::Fail(Reason::AppDeleted), 30).await;
    round(&evaluator, size, "they are broken, and braked", Outcome::Fail(Reason::AppDeleted), 60).await;
    let now = Timestamp(START.0 + 61_000);
    let (hold, held) = evaluator.held(now).await.expect("a hold");
    assert_eq!(held.notices, size, "all mails are held");
    let started = Instant::now();
    let released = evaluator.act_on_brake(&hold.id, BrakeAction::Release, "somebody", now).await;
    assert_eq!(released.expect("saved"), Some(size));
    println!("{:<28} {:>9.3} s", "released", started.elapsed().as_secs_f64());
    let (started, used, mut sent) = (Instant::now(), cpu(), 0);
    loop {
        let due = store.due_notifications(now, 64).await.expect("due");
        if due.is_empty() {
            break;
        }
        for leader in &due {
            let wait = Duration::from_secs(30);
            let Some(group) = store.group(leader, now, wait, 20).await.expect("read") else { continue };
            let id = format!("<{}@example.com>", group.ids[0]);
            let noted = store.mark_handed_over(&group.ids, &id, now, wait).await;
            assert!(noted.expect("marked"));
            store.mark_sent(&group.ids, &id, now).await.expect("marked");
            sent += 1;
        }
    }
    assert_eq!(sent, size + 1, "each administrator gets one mail, and the operators get theirs");
    let (elapsed, used) = (started.elapsed().as_secs_f64(), cpu() - used);
    println!(
        "{:<28} {:>9.0} mails a second, {:.3} ms of CPU a mail; peak memory {} MB",
        "sent, without a mail server",
        sent as f64 / elapsed,
        used * 1000.0 / sent as f64,
        peak_memory()
    );
}

async fn outage(size: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (evaluator, _) = evaluator(&folder, size, Duration::ZERO).await;
    round(&evaluator, size, "all is well", Outcome::Pass, 0).await;
    round(&evaluator, size, "an outage begins", Outcome::Unknown(Reason::UpstreamUnavailable), 300).await;
    round(&evaluator, size, "everybody joins the cause", Outcome::Unknown(Reason::UpstreamUnavailable), 7200)
        .await;
    round(&evaluator, size, "everybody leaves it", Outcome::Pass, 7500).await;
}

async fn round(evaluator: &Arc<Evaluator>, size: usize, what: &str, outcome: Outcome, seconds: i64) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let (started, used) = (Instant::now(), cpu());
    let at = Timestamp(START.0 + seconds * 1000);
    let mut probes = tokio::task::JoinSet::new();
    for index in 0..size {
        let permit = Arc::clone(&room).acquire_owned().await.expect("room");
        let evaluator = Arc::clone(evaluator);
        probes.spawn(async move {
            let steady = evaluator.steady().await;
            let seen = ProbeMeta { steady: at, duration: Duration::from_millis(100), ..ProbeMeta::default() };
            evaluator.apply(&steady, &name(index), &diagnosis(outcome), seen, at).await;
            drop(permit);
        });
    }
    while probes.join_next().await.is_some() {}
    let (elapsed, used) = (started.elapsed().as_secs_f64(), cpu() - used);
    println!(
        "{what:<28} {:>9.0} probes a second, {:.3} ms of CPU a probe",
        size as f64 / elapsed,
        used * 1000.0 / size as f64
    );
}

fn name(index: usize) -> String {
    format!("customer-{index:06}")
}

fn diagnosis(outcome: Outcome) -> Diagnosis {
    let check = |check| CheckResult { check, outcome, details: Details::default() };
    Diagnosis {
        jobs: None,
        credentials: None,
        reader_silent: false,
        checks: vec![check(Check::EnterpriseApp), check(Check::Consent), check(Check::GroupAccess)],
        permissions: Vec::new(),
        groups_visible: None,
        required_groups: Vec::new(),
        exact: false,
        reader_fault: None,
        directory_silent: false,
    }
}

fn record(index: usize) -> IntegrationRecord {
    IntegrationRecord {
        name: name(index),
        display_name: format!("Customer number {index}"),
        app: "sequr".into(),
        app_display_name: "Sequr".into(),
        client_id: "00000000-0000-0000-0000-0000000000aa".into(),
        tenant: format!("00000000-0000-0000-0000-{index:012}"),
        access: Access::Delegated,
        reader: None,
        labels: BTreeMap::new(),
        checks: vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess],
        notify: consentry::domain::Notify::Admins,
        admins: vec![format!("it@t{index}.example")],
        permissions: vec!["User.Read".to_owned()].into(),
        external_sign_in: None,
        admin_consent: None,
    }
}

/// The highest memory of this process so far, in MB (Linux).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Seconds of CPU that this process has used (Linux).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in the kernel's fixed 100 ticks a second.
    (ticks(11) + ticks(12)) / 100.0
}
