//! Log messages about changes of an integration.

use crate::domain::{IntegrationState, Verdict};

/// Logs every change of a check's outcome; a probe that changes nothing logs nothing.
pub(super) fn log_checks(name: &str, before: &IntegrationState, after: &IntegrationState) {
    for check in &after.checks {
        let old = before.check(check.check).map(|c| c.outcome);
        if old == Some(check.outcome) {
            continue;
        }
        let (result, label) = (check.outcome.label(), check.check.label());
        match check.outcome.reason() {
            None if old.is_none() => {
                tracing::debug!(integration = name, check = label, result, "check passes");
            }
            None => tracing::info!(integration = name, check = label, result, "check passes"),
            Some(reason) => tracing::warn!(
                integration = name,
                check = label,
                result,
                reason = reason.label(),
                code = check.details.code.as_deref().unwrap_or_default(),
                request_id = check.details.request_id.as_deref().unwrap_or_default(),
                items = check.details.items.join(","),
                note = check.details.note.as_deref().unwrap_or_default(),
                "check does not pass"
            ),
        }
    }
}

pub(super) fn log_verdict(name: &str, before: Verdict, after: Verdict) {
    match (before, after) {
        (old, new) if old == new => {}
        (_, Verdict::Broken { reason, .. }) => {
            tracing::warn!(
                integration = name,
                reason = reason.label(),
                remedy = reason.remedy().label(),
                "integration is broken"
            );
        }
        (Verdict::Broken { .. }, _) => tracing::info!(integration = name, "integration works again"),
        _ => tracing::debug!(integration = name, "integration is healthy"),
    }
}
