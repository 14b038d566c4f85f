//! The families with a series for each integration. Their lines are written when a probe ends, and replaced under a short lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::domain::{Check, CredentialExpiry, Outcome, Reason, Remedy, Verdict};
use crate::fleet::FleetEntry;

/// Families with a series for each integration, in the order of the exposition: name and help.
pub(super) const FAMILIES: [(&str, &str); 12] = [
    (
        "consentry_integration_up",
        "1 while all enabled checks pass, 0 while something is confirmed broken; absent until known. Cached from the last probe.",
    ),
    (
        "consentry_integration_reauthentication_required",
        "1 while re-authenticating fixes a confirmed failure. Cached from the last probe.",
    ),
    (
        "consentry_integration_broken_since_timestamp_seconds",
        "Since when the integration is confirmed broken; absent while it is not. Cached from the last probe.",
    ),
    ("consentry_integration_info", "1, labelled with the integration's properties."),
    (
        "consentry_check_success",
        "Result of the last conclusive probe: 1 pass, 0 fail. Cached from that probe.",
    ),
    (
        "consentry_check_reason",
        "1 for each check that fails or is unknown, labelled with the reason. Cached from the last probe.",
    ),
    ("consentry_check_last_success_timestamp_seconds", "When the check last passed."),
    ("consentry_integration_last_probe_timestamp_seconds", "End of the last probe."),
    ("consentry_integration_probe_duration_seconds", "Length of the last probe."),
    (
        "consentry_permission_granted",
        "Each required permission: 1 granted, 0 not. Cached from the last probe that had a result.",
    ),
    (
        "consentry_groups_visible",
        "Groups that the integration's own token sees, counted up to 1000. Cached from the last probe that had a result.",
    ),
    (
        "consentry_credential_expiry_timestamp_seconds",
        "When a credential of the integration's application or reader expires, if that is known. Cached from the last probe.",
    ),
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
struct Series {
    entries: BTreeMap<String, Arc<Entry>>,
    counts: Counts,
    /// Number of integrations by tenant, for each reader and reason.
    faults: BTreeMap<(Arc<str>, Reason), BTreeMap<String, usize>>,
}

/// Series that the evaluator writes and all others read.
#[derive(Debug, Default)]
pub struct Published(RwLock<Series>);

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

fn forget(series: &mut Series, old: &Entry) {
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
    for (index, (family, _)) in FAMILIES.iter().enumerate() {
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

fn write_family(out: &mut String, family: &str, known: &FleetEntry) {
    let state = &known.state;
    // The configuration validates names, so they need no escaping.
    let name = &known.record.name;
    match family {
        "consentry_integration_up" => match state.verdict {
            Verdict::Unknown => {}
            Verdict::Healthy => {
                line!(out, "{family}{{integration=\"{name}\"}} 1");
            }
            Verdict::Broken { .. } => {
                line!(out, "{family}{{integration=\"{name}\"}} 0");
            }
        },
        "consentry_integration_reauthentication_required" => {
            let needed = match state.verdict {
                Verdict::Unknown => return,
                Verdict::Healthy => 0,
                Verdict::Broken { reason, .. } => u8::from(reason.remedy() == Remedy::Reauthenticate),
            };
            line!(out, "{family}{{integration=\"{name}\"}} {needed}");
        }
        "consentry_integration_broken_since_timestamp_seconds" => {
            if let Verdict::Broken { since, .. } = state.verdict {
                line!(out, "{family}{{integration=\"{name}\"}} {}", since.seconds());
            }
        }
        "consentry_integration_info" => write_info(out, family, known),
        "consentry_check_success" => {
            for check in &state.checks {
                if let Some(success) = check.success {
                    line!(
                        out,
                        "{family}{{integration=\"{name}\",check=\"{}\"}} {}",
                        check.check.label(),
                        u8::from(success)
                    );
                }
            }
        }
        "consentry_check_reason" => {
            for check in &state.checks {
                if let Some(reason) = check.outcome.reason() {
                    let (reason, remedy) = (reason.label(), reason.remedy().label());
                    line!(
                        out,
                        "{family}{{integration=\"{name}\",check=\"{}\",reason=\"{reason}\",remedy=\"{remedy}\"}} 1",
                        check.check.label()
                    );
                }
            }
        }
        "consentry_check_last_success_timestamp_seconds" => {
            for check in &state.checks {
                if let Some(at) = check.last_success {
                    line!(
                        out,
                        "{family}{{integration=\"{name}\",check=\"{}\"}} {}",
                        check.check.label(),
                        at.seconds()
                    );
                }
            }
        }
        "consentry_integration_last_probe_timestamp_seconds" => {
            if let Some(at) = state.last_probe {
                line!(out, "{family}{{integration=\"{name}\"}} {}", at.seconds());
            }
        }
        "consentry_integration_probe_duration_seconds" if state.last_probe.is_some() => {
            line!(out, "{family}{{integration=\"{name}\"}} {}", state.duration.as_secs_f64());
        }
        "consentry_permission_granted" => {
            for permission in &state.permissions {
                let Some(granted) = permission.granted else { continue };
                let (resource, value) = (escape(&permission.resource), escape(&permission.permission));
                let grant = permission.grant.label();
                line!(
                    out,
                    "{family}{{integration=\"{name}\",resource=\"{resource}\",permission=\"{value}\",grant=\"{grant}\"}} {}",
                    u8::from(granted)
                );
            }
        }
        "consentry_groups_visible" => {
            if let Some(count) = state.groups_visible {
                line!(out, "{family}{{integration=\"{name}\"}} {count}");
            }
        }
        "consentry_credential_expiry_timestamp_seconds" => {
            for CredentialExpiry { kind, key_id, at } in &known.credentials {
                line!(
                    out,
                    "{family}{{integration=\"{name}\",kind=\"{kind}\",key_id=\"{key_id}\"}} {}",
                    at.seconds()
                );
            }
        }
        _ => {}
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
