//! `consentry probe`: runs one probe and prints the result, for people or for scripts.

use serde_json::{Value, json};

use crate::app;
use crate::clock::{Clock, rfc3339};
use crate::config::Integration;
use crate::domain::{CheckResult, Diagnosis, Outcome, Reason, advice, diagnose};
use crate::monitor::{ProbeRequest, Prober};

use clap::Args;

use super::arguments::Configured;
use super::output::{integration, loaded, say};

#[derive(Debug, Args)]
pub(super) struct Probe {
    /// Name of the integration.
    name: String,
    /// The format of the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    config: Configured,
}

/// Probes one integration. Returns the exit status: 1 if a check does not pass, 2 if nothing was probed.
pub(super) async fn run(probe: &Probe) -> u8 {
    match probe_now(probe).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("consentry: {error:#}");
            2
        }
    }
}

/// The format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// A table.
    Text,
    /// An object.
    Json,
}

/// Probes and prints; 0 when everything passes, 1 otherwise.
async fn probe_now(probe: &Probe) -> anyhow::Result<u8> {
    let config = &loaded(&probe.config.file)?.config;
    let integration = integration(config, &probe.name)?;
    let target = app::targets(config)
        .into_iter()
        .find(|t| t.name == integration.name)
        .ok_or_else(|| anyhow::anyhow!("the integration has no application"))?;
    let store = app::store(config)?;
    let prober = Prober::new(app::entra(config, None)?, store.clone(), Clock::system());
    let probed = prober
        .probe(&target, ProbeRequest { tenant_guid: false, asked: true, timeout: config.probe.timeout })
        .await;
    let diagnosis = diagnose(&target.requirements, &probed.evidence);
    match probe.output {
        Output::Text => say(text(integration, &diagnosis).trim_end()),
        Output::Json => say(format_args!("{:#}", json(integration, &diagnosis))),
    }
    // Closing tries once more to save a rotated token that could not be saved, because only this process has
    // it.
    store.close().await;
    Ok(u8::from(!diagnosis.passes_without_warning()))
}

fn text(integration: &Integration, diagnosis: &Diagnosis) -> String {
    let mut out =
        format!("{} ({}), tenant {}\n\n", integration.name, integration.display_name, integration.tenant);
    out.push_str(&format!("{:<16}{:<9}{}\n", "CHECK", "RESULT", "WHY"));
    for result in &diagnosis.checks {
        let outcome =
            if matches!(result.outcome, Outcome::Fail(_)) { "FAIL" } else { result.outcome.label() };
        let mut why = explanation(result).into_iter();
        out.push_str(
            format!("{:<16}{outcome:<9}{}", result.check.label(), why.next().unwrap_or_default()).trim_end(),
        );
        out.push('\n');
        for line in why {
            out.push_str(&format!("{:25}{line}\n", ""));
        }
    }
    if let Some(count) = diagnosis.groups_visible {
        out.push_str(&format!("\nGroups visible: {count}\n"));
    }
    if let Some(fault) = &diagnosis.reader_fault {
        out.push_str(&format!(
            "\n{}: {} {} ({})\n",
            if integration.reader.is_some() { "The directory reader" } else { "The application's own token" },
            fault.reason.sentence(),
            fault.reason.advice(),
            fault.detail
        ));
    }
    out
}

/// Reason, evidence and advice, one line each; only the note while the check passes.
fn explanation(result: &CheckResult) -> Vec<String> {
    let details = &result.details;
    let Some(reason) = result.outcome.reason() else { return details.note.iter().cloned().collect() };
    let mut lines = vec![format!("{}: {}", reason.label(), reason.sentence())];
    if !details.items.is_empty() {
        lines.push(details.items.join(", "));
    }
    let evidence: Vec<&str> = [&details.code, &details.note, &details.request_id]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    if !evidence.is_empty() {
        lines.push(evidence.join("; "));
    }
    if let Some(until) = details.restorable_until {
        lines.push(format!("can be restored until {}", rfc3339(until)));
    }
    lines.push(format!("-> {}", advice(reason, details.code.as_deref())));
    lines
}

fn json(integration: &Integration, diagnosis: &Diagnosis) -> Value {
    let check = |result: &CheckResult| {
        let (reason, details) = (result.outcome.reason(), &result.details);
        json!({
            "check": result.check.label(),
            "result": result.outcome.label(),
            "reason": reason.map(|r| r.label()),
            "remedy": reason.map(|r| r.remedy().label()),
            "message": reason.map(|r| r.sentence()),
            "advice": reason.map(|r| advice(r, details.code.as_deref())),
            "evidence": {
                "items": details.items, "code": details.code, "request_id": details.request_id, "note": details.note,
                "restorable_until": details.restorable_until.map(rfc3339),
            },
        })
    };
    let permissions = diagnosis
        .permissions
        .iter()
        .map(|p| json!({"resource": p.resource, "permission": p.permission, "grant": p.grant.label(), "granted": p.granted}));
    json!({
        "integration": integration.name,
        "display_name": integration.display_name,
        "tenant_id": integration.tenant,
        "result": if diagnosis.passes_without_warning() { "pass" } else { failed(diagnosis) },
        "reason": diagnosis.primary().or_else(|| warning(diagnosis)).map(|r| r.label()),
        "checks": diagnosis.checks.iter().map(check).collect::<Vec<_>>(),
        "synchronization_jobs": diagnosis.jobs.iter().flatten().map(|job| json!({
            "id": job.id, "quarantined": job.quarantined, "last_success": job.last_success.map(rfc3339),
        })).collect::<Vec<_>>(),
        "listed_credentials": diagnosis.credentials.iter().flat_map(|all| &all.listed).map(|c| json!({
            "directory_reader": c.reader, "kind": c.kind.label(), "key_id": c.key_id, "name": c.name,
            "expires": c.ends.map(rfc3339), "in_use": c.in_use, "standing": c.standing.word(),
        })).collect::<Vec<_>>(),
        "permissions": permissions.collect::<Vec<_>>(),
        "groups_visible": diagnosis.groups_visible,
        "reader_reason": diagnosis.reader_fault.as_ref().map(|f| f.reason.label()),
    })
}

/// A check that warns fails here: whoever probes by hand wants to know of it.
fn failed(diagnosis: &Diagnosis) -> &'static str {
    match diagnosis.overall() {
        Outcome::Pass => "fail",
        outcome => outcome.label(),
    }
}

fn warning(diagnosis: &Diagnosis) -> Option<Reason> {
    diagnosis.checks.iter().filter_map(|c| c.outcome.reason()).find(|reason| reason.is_warning())
}
