//! The families with a series for each integration. Their lines are written when a probe ends, and replaced under a short lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::domain::{
    Check, CredentialExpiry, CredentialKind, IntegrationState, Outcome, Reason, Remedy, Timestamp, Verdict,
};
use crate::fleet::FleetEntry;

/// A family with series for each integration.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    series: Series,
}

/// How the series of one integration are written.
enum Series {
    /// One at most: its value, if there is one.
    One(fn(&IntegrationState) -> Option<f64>),
    /// As many as the entry has: each a line that begins with the family's name.
    Many(fn(&mut String, &str, &FleetEntry)),
}

use Series::{Many, One};

/// In the order of the exposition.
pub(super) const FAMILIES: [Family; 14] = [
    Family {
        name: "consentry_integration_up",
        help: "1 while all enabled checks pass, 0 while something is confirmed broken; absent until known. Cached from the last probe.",
        series: One(up),
    },
    Family {
        name: "consentry_integration_reauthentication_required",
        help: "1 while re-authenticating fixes a confirmed failure. Cached from the last probe.",
        series: One(reauthentication_required),
    },
    Family {
        name: "consentry_integration_broken_since_timestamp_seconds",
        help: "Since when the integration is confirmed broken; absent while it is not. Cached from the last probe.",
        series: One(broken_since),
    },
    Family {
        name: "consentry_integration_snoozed",
        help: "1 while the reminders about the integration are snoozed. Cached from the last probe.",
        series: Many(write_snoozed),
    },
    Family {
        name: "consentry_integration_info",
        help: "1, labelled with the integration's properties.",
        series: Many(write_info),
    },
    Family {
        name: "consentry_check_success",
        help: "Result of the last conclusive probe: 1 pass, 0 fail. Cached from that probe.",
        series: Many(write_success),
    },
    Family {
        name: "consentry_check_reason",
        help: "1 for each check that fails or is unknown, labelled with the reason. Cached from the last probe.",
        series: Many(write_reasons),
    },
    Family {
        name: "consentry_check_last_success_timestamp_seconds",
        help: "When the check last passed.",
        series: Many(write_last_success),
    },
    Family {
        name: "consentry_integration_last_probe_timestamp_seconds",
        help: "End of the last probe.",
        series: One(last_probe),
    },
    Family {
        name: "consentry_integration_probe_duration_seconds",
        help: "Length of the last probe.",
        series: One(probe_duration),
    },
    Family {
        name: "consentry_permission_granted",
        help: "Each required permission: 1 granted, 0 not. Cached from the last probe that had a result.",
        series: Many(write_permissions),
    },
    Family {
        name: "consentry_groups_visible",
        help: "Groups that the integration's own token sees, counted up to 1000. Cached from the last probe that had a result.",
        series: One(groups_visible),
    },
    Family {
        name: "consentry_credential_expiry_timestamp_seconds",
        help: "When a credential of the integration's application, its enterprise application or its reader expires, if that is known. Cached from the last probe that had a result.",
        series: Many(write_credentials),
    },
    Family {
        name: "consentry_provisioning_quarantined",
        help: "Each synchronization job: 1 while it is in quarantine, 0 while it is not. Cached from the last probe that had a result.",
        series: Many(write_quarantined),
    },
];

/// Longer label values are cut, because names in a directory come from outside.
const LABEL_LIMIT: usize = 512;

/// The lines of one integration, by family.
#[derive(Debug)]
pub(super) struct Entry {
    text: Box<str>,
    ends: [u32; FAMILIES.len()],
    outcomes: Vec<(Check, Option<Reason>)>,
    fault: Option<ReaderFault>,
}

/// A directory reader that cannot read in a tenant.
#[derive(Debug, Clone)]
struct ReaderFault {
    reader: Arc<str>,
    reason: Reason,
    tenant: String,
}

impl Entry {
    pub(super) fn family(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.text.get(start..self.ends[index] as usize).unwrap_or_default()
    }
}

/// Number of checks in each state.
pub(super) type Counts = BTreeMap<(Check, Option<Reason>), i64>;

/// Number of tenants in which a directory reader cannot read, by reader and reason.
pub(super) type Faults = Vec<(Arc<str>, Reason, usize)>;

#[derive(Debug, Default)]
struct AllSeries {
    entries: BTreeMap<String, Arc<Entry>>,
    counts: Counts,
    /// Number of integrations by tenant, for each reader and reason.
    faults: BTreeMap<(Arc<str>, Reason), BTreeMap<String, usize>>,
}

/// Series that the evaluator writes and all others read.
#[derive(Debug, Default)]
pub struct Published(RwLock<AllSeries>);

impl Published {
    /// Replaces the series of an integration.
    pub fn set(&self, known: &FleetEntry) {
        let entry = Arc::new(render(known));
        let mut series = self.0.write();
        for key in &entry.outcomes {
            *series.counts.entry(*key).or_default() += 1;
        }
        if let Some(ReaderFault { reader, reason, tenant }) = entry.fault.clone() {
            *series.faults.entry((reader, reason)).or_default().entry(tenant).or_default() += 1;
        }
        if let Some(old) = series.entries.insert(known.record.name.clone(), entry) {
            forget(&mut series, &old);
        }
    }

    /// Removes the series of an integration that has left the configuration.
    pub fn remove(&self, name: &str) {
        let mut series = self.0.write();
        if let Some(old) = series.entries.remove(name) {
            forget(&mut series, &old);
        }
    }

    /// The entry of one integration.
    pub(super) fn one(&self, name: &str) -> Option<Arc<Entry>> {
        self.0.read().entries.get(name).cloned()
    }

    /// All entries, the counts of checks by state, and the faults of directory readers. The lock is held only while pointers are copied.
    pub(super) fn read(&self) -> (Vec<Arc<Entry>>, Counts, Faults) {
        let series = self.0.read();
        let faults = series
            .faults
            .iter()
            .map(|((reader, reason), tenants)| (Arc::clone(reader), *reason, tenants.len()));
        (series.entries.values().cloned().collect(), series.counts.clone(), faults.collect())
    }
}

fn forget(series: &mut AllSeries, old: &Entry) {
    for key in &old.outcomes {
        *series.counts.entry(*key).or_default() -= 1;
    }
    let Some(ReaderFault { reader, reason, tenant }) = &old.fault else { return };
    let key = (Arc::clone(reader), *reason);
    let Some(tenants) = series.faults.get_mut(&key) else { return };
    if let Some(count) = tenants.get_mut(tenant) {
        *count -= 1;
        if *count == 0 {
            tenants.remove(tenant);
        }
    }
    if tenants.is_empty() {
        series.faults.remove(&key);
    }
}

/// A label value: `\`, `"` and line feeds escaped (Prometheus text format 0.0.4), long ones cut.
pub(super) fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        if index == LABEL_LIMIT {
            out.push('…');
            break;
        }
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

/// Writing into a `String` cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { let _ = writeln!($out, $($arg)*); };
}

fn render(known: &FleetEntry) -> Entry {
    let mut text = String::with_capacity(2048);
    let mut ends = [0; FAMILIES.len()];
    for (index, family) in FAMILIES.iter().enumerate() {
        write_family(&mut text, family, known);
        ends[index] = u32::try_from(text.len()).unwrap_or(u32::MAX);
    }
    let outcome = |o: Outcome| o.reason();
    let outcomes = known.state.checks.iter().map(|c| (c.check, outcome(c.outcome))).collect();
    let fault = known.record.reader.as_ref().zip(known.state.reader_fault);
    let fault = fault.map(|(reader, reason)| ReaderFault {
        reader: Arc::clone(reader),
        reason,
        tenant: known.tenant_id().to_owned(),
    });
    Entry { text: text.into_boxed_str(), ends, outcomes, fault }
}

fn write_family(out: &mut String, family: &Family, known: &FleetEntry) {
    match family.series {
        Many(write) => write(out, family.name, known),
        One(value) => {
            if let Some(value) = value(&known.state) {
                // Names are checked by the configuration; they need no escaping.
                line!(out, "{}{{integration=\"{}\"}} {value}", family.name, known.record.name);
            }
        }
    }
}

fn up(state: &IntegrationState) -> Option<f64> {
    match state.verdict {
        Verdict::Unknown => None,
        Verdict::Healthy => Some(1.0),
        Verdict::Broken { .. } => Some(0.0),
    }
}

fn reauthentication_required(state: &IntegrationState) -> Option<f64> {
    match state.verdict {
        Verdict::Unknown => None,
        Verdict::Healthy => Some(0.0),
        Verdict::Broken { reason, .. } => {
            Some(f64::from(u8::from(reason.remedy() == Remedy::Reauthenticate)))
        }
    }
}

fn broken_since(state: &IntegrationState) -> Option<f64> {
    match state.verdict {
        Verdict::Broken { since, .. } => Some(since.seconds()),
        Verdict::Unknown | Verdict::Healthy => None,
    }
}

fn last_probe(state: &IntegrationState) -> Option<f64> {
    state.last_probe.map(|at| at.seconds())
}

fn probe_duration(state: &IntegrationState) -> Option<f64> {
    state.last_probe.map(|_| state.duration.as_secs_f64())
}

fn groups_visible(state: &IntegrationState) -> Option<f64> {
    state.groups_visible.map(f64::from)
}

fn write_snoozed(out: &mut String, family: &str, known: &FleetEntry) {
    if known.snooze.is_some() {
        let _ = writeln!(out, "{family}{{integration=\"{}\"}} 1", escape(&known.record.name));
    }
}

fn write_success(out: &mut String, family: &str, known: &FleetEntry) {
    let name = &known.record.name;
    for state in &known.state.checks {
        if let Some(success) = state.success.map(u8::from) {
            line!(out, "{family}{{integration=\"{name}\",check=\"{}\"}} {success}", state.check.label());
        }
    }
}

fn write_reasons(out: &mut String, family: &str, known: &FleetEntry) {
    let name = &known.record.name;
    for state in &known.state.checks {
        if let Some(reason) = state.outcome.reason() {
            let (check, remedy, reason) = (state.check.label(), reason.remedy().label(), reason.label());
            line!(
                out,
                "{family}{{integration=\"{name}\",check=\"{check}\",reason=\"{reason}\",remedy=\"{remedy}\"}} 1"
            );
        }
    }
}

fn write_last_success(out: &mut String, family: &str, known: &FleetEntry) {
    let name = &known.record.name;
    for state in &known.state.checks {
        if let Some(at) = state.last_success {
            let check = state.check.label();
            line!(out, "{family}{{integration=\"{name}\",check=\"{check}\"}} {}", at.seconds());
        }
    }
}

fn write_permissions(out: &mut String, family: &str, known: &FleetEntry) {
    for permission in &known.state.permissions {
        let Some(granted) = permission.granted.map(u8::from) else { continue };
        let (resource, value) = (escape(&permission.resource), escape(&permission.permission));
        let (name, grant) = (&known.record.name, permission.grant.label());
        line!(
            out,
            "{family}{{integration=\"{name}\",resource=\"{resource}\",permission=\"{value}\",grant=\"{grant}\"}} {granted}"
        );
    }
}

fn write_credentials(out: &mut String, family: &str, known: &FleetEntry) {
    let name = &known.record.name;
    let listed = &known.state.credentials;
    let ends = listed.iter().filter_map(|c| Some(((c.kind, &c.key_id), c.ends?)));
    // A certificate of ours that is listed has its series already.
    let is_listed = |id: &String| listed.iter().any(|c| c.thumbprint.as_ref() == Some(id));
    let ours = known.credentials.iter().filter(|c| !is_listed(&c.key_id));
    let ours = ours.map(|CredentialExpiry { key_id, at }| ((CredentialKind::Certificate, key_id), *at));
    // Each series once, although an application and its reader may share a credential.
    let all: BTreeMap<(CredentialKind, &String), Timestamp> = ends.chain(ours).collect();
    for ((kind, key_id), at) in all {
        let (kind, key_id) = (kind.label(), escape(key_id));
        line!(out, "{family}{{integration=\"{name}\",kind=\"{kind}\",key_id=\"{key_id}\"}} {}", at.seconds());
    }
}

fn write_quarantined(out: &mut String, family: &str, known: &FleetEntry) {
    let name = &known.record.name;
    let jobs: BTreeMap<&String, bool> =
        known.state.jobs.iter().map(|job| (&job.id, job.quarantined)).collect();
    for (id, quarantined) in jobs {
        let (id, quarantined) = (escape(id), u8::from(quarantined));
        line!(out, "{family}{{integration=\"{name}\",job_id=\"{id}\"}} {quarantined}");
    }
}

fn write_info(out: &mut String, family: &str, known: &FleetEntry) {
    let record = &known.record;
    let _ = write!(
        out,
        "{family}{{integration=\"{}\",app=\"{}\",client_id=\"{}\",tenant_id=\"{}\",display_name=\"{}\",access=\"{}\"",
        record.name,
        escape(&record.app),
        record.client_id,
        known.tenant_id(),
        escape(&record.display_name),
        record.access.label()
    );
    for (name, value) in &record.labels {
        let _ = write!(out, ",label_{name}=\"{}\"", escape(value));
    }
    out.push_str("} 1\n");
}
