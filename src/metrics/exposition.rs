//! Writes `/metrics`: text format 0.0.4, or OpenMetrics 1.0 if the client asks for it.

use std::fmt::Write as _;

use prometheus::proto::{MetricFamily, MetricType};

use super::families::Families;
use super::published::{FAMILIES, Family, Published, escape};
use crate::domain::{Check, Reason};
use crate::encoding::quality;

const READER_FAULTS: (&str, &str) = (
    "consentry_directory_reader_faults",
    "In how many tenants a directory reader could not read at the last probe; no series while there is none.",
);

/// The format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type` of the response.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Chooses the format by an `Accept` header (RFC 9110 section 12.5.1): OpenMetrics if its quality is at least that of text.
pub fn negotiate(accept: Option<&str>) -> Format {
    let header = accept.unwrap_or_default();
    let open = quality(header, "application/openmetrics-text");
    if open > 0.0 && open >= quality(header, "text/plain") { Format::OpenMetrics } else { Format::Text }
}

/// The whole exposition. Blocks only while pointers are copied.
pub fn write(families: &Families, published: &Published, format: Format) -> String {
    let (entries, counts, faults) = published.read();
    let mut out = String::with_capacity(32 * 1024 + entries.len() * 2600);
    for (index, Family { name, help, .. }) in FAMILIES.iter().enumerate() {
        header(&mut out, name, help, "gauge");
        for entry in &entries {
            out.push_str(entry.family(index));
        }
    }
    header(
        &mut out,
        "consentry_checks",
        "How many integrations' enabled checks are in each state; the reason is empty while they pass.",
        "gauge",
    );
    for check in Check::ALL {
        // `reason_overrides` can give any reason to any check, so a reason that was seen is always counted.
        let seen = |r: Reason| counts.get(&(check, Some(r))).is_some_and(|n| *n > 0);
        let reasons = Reason::ALL.iter().copied().filter(|r| r.possible_in(check) || seen(*r)).map(Some);
        for reason in std::iter::once(None).chain(reasons) {
            let count = counts.get(&(check, reason)).copied().unwrap_or_default();
            let _ = writeln!(
                out,
                "consentry_checks{{check=\"{}\",reason=\"{}\"}} {count}",
                check.label(),
                reason.map_or("", Reason::label)
            );
        }
    }
    header(&mut out, READER_FAULTS.0, READER_FAULTS.1, "gauge");
    for (reader, reason, tenants) in faults {
        let _ = writeln!(
            out,
            "{}{{reader=\"{}\",reason=\"{}\"}} {tenants}",
            READER_FAULTS.0,
            escape(&reader),
            reason.label()
        );
    }
    for family in families.gather() {
        write_family(&mut out, &family, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

/// The series of one integration; no series if there is no such integration.
pub fn write_one(published: &Published, integration: &str, format: Format) -> String {
    let mut out = String::new();
    if let Some(entry) = published.one(integration) {
        for (index, Family { name, help, .. }) in FAMILIES.iter().enumerate() {
            header(&mut out, name, help, "gauge");
            out.push_str(entry.family(index));
        }
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The `prometheus` crate writes the text format only; this writes both from its families.
fn write_family(out: &mut String, family: &MetricFamily, format: Format) {
    let name = family.name();
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        // None of our families is of another type.
        MetricType::SUMMARY | MetricType::UNTYPED => return,
    };
    let family_name = match (format, kind) {
        (Format::OpenMetrics, "counter") => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    header(out, family_name, &family.help().replace('\\', "\\\\").replace('\n', "\\n"), kind);
    for metric in family.get_metric() {
        let labels: Vec<String> =
            metric.get_label().iter().map(|l| format!("{}=\"{}\"", l.name(), escape(l.value()))).collect();
        let labels = labels.join(",");
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        if kind != "histogram" {
            let value = if kind == "counter" {
                metric.get_counter().get_value()
            } else {
                metric.get_gauge().get_value()
            };
            let _ = writeln!(out, "{name}{braced} {value}");
            continue;
        }
        let histogram = metric.get_histogram();
        let separator = if labels.is_empty() { "" } else { "," };
        for bucket in histogram.get_bucket() {
            // OpenMetrics requires bounds as floats: 1.0, not 1.
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{separator}le=\"{:?}\"}} {}",
                bucket.upper_bound(),
                bucket.cumulative_count()
            );
        }
        let _ =
            writeln!(out, "{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {}", histogram.get_sample_count());
        let _ = writeln!(
            out,
            "{name}_sum{braced} {}\n{name}_count{braced} {}",
            histogram.get_sample_sum(),
            histogram.get_sample_count()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::{
        CheckState, CredentialExpiry, Details, Grant, IntegrationRecord, IntegrationState, Outcome,
        PermissionState, Timestamp, Verdict,
    };
    use crate::fleet::FleetEntry;

    fn entry(display_name: &str, state: IntegrationState) -> FleetEntry {
        let record = IntegrationRecord {
            display_name: display_name.to_owned(),
            tenant: "t".to_owned(),
            labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
            checks: vec![Check::GroupAccess],
            ..IntegrationRecord::example("acme")
        };
        let certificate =
            CredentialExpiry { key_id: "AB12".to_owned(), at: Timestamp::from_seconds(1_800_000_000) };
        FleetEntry {
            state: Arc::new(state),
            credentials: vec![certificate],
            ..FleetEntry::new(Arc::new(record))
        }
    }

    fn state(outcome: Outcome) -> IntegrationState {
        let at = Timestamp::from_seconds(1_700_000_000);
        let check = CheckState {
            check: Check::GroupAccess,
            outcome,
            details: Details::default(),
            since: at,
            success: Some(false),
            last_success: Some(at),
            blind: None,
            dark: None,
        };
        let permission = PermissionState {
            resource: "microsoft_graph".to_owned(),
            permission: "User.Read".to_owned(),
            grant: Grant::Delegated,
            granted: Some(true),
        };
        IntegrationState {
            checks: vec![check],
            verdict: Verdict::Broken { reason: Reason::TokenRevoked, since: at },
            last_probe: Some(at),
            duration: Duration::from_millis(250),
            groups_visible: Some(3),
            permissions: vec![permission],
            ..IntegrationState::default()
        }
    }

    fn lines_of(published: &Published, name: &str) -> Vec<String> {
        let families = Families::new().expect("families");
        let text = write(&families, published, Format::Text);
        text.lines().filter(|l| l.starts_with(name)).map(str::to_owned).collect()
    }

    #[test]
    fn a_reason_is_counted_in_any_check() {
        let published = Published::default();
        let mut unusual = state(Outcome::Unknown(Reason::GroupMissing));
        unusual.checks[0].check = Check::EnterpriseApp;
        published.set(&entry("Acme", unusual));
        let counted = r#"consentry_checks{check="enterprise_app",reason="group_missing"} 1"#;
        assert!(lines_of(&published, "consentry_checks").iter().any(|line| line == counted));
    }

    #[test]
    fn all_series_of_an_integration_are_written() {
        let published = Published::default();
        published.set(&entry("Acme", state(Outcome::Fail(Reason::TokenRevoked))));
        let families = Families::new().expect("families");
        let text = write(&families, &published, Format::Text);
        let own: Vec<&str> = text.lines().filter(|l| l.contains("integration=\"acme\"")).collect();
        assert_eq!(
            own,
            [
                "consentry_integration_up{integration=\"acme\"} 0",
                "consentry_integration_reauthentication_required{integration=\"acme\"} 1",
                "consentry_integration_broken_since_timestamp_seconds{integration=\"acme\"} 1700000000",
                "consentry_integration_info{integration=\"acme\",app=\"sequr\",client_id=\"c\",tenant_id=\"t\",display_name=\"Acme\",access=\"delegated\",label_tier=\"gold\"} 1",
                "consentry_check_success{integration=\"acme\",check=\"group_access\"} 0",
                "consentry_check_reason{integration=\"acme\",check=\"group_access\",reason=\"token_revoked\",remedy=\"reauthenticate\"} 1",
                "consentry_check_last_success_timestamp_seconds{integration=\"acme\",check=\"group_access\"} 1700000000",
                "consentry_integration_last_probe_timestamp_seconds{integration=\"acme\"} 1700000000",
                "consentry_integration_probe_duration_seconds{integration=\"acme\"} 0.25",
                "consentry_permission_granted{integration=\"acme\",resource=\"microsoft_graph\",permission=\"User.Read\",grant=\"delegated\"} 1",
                "consentry_groups_visible{integration=\"acme\"} 3",
                "consentry_credential_expiry_timestamp_seconds{integration=\"acme\",kind=\"certificate\",key_id=\"AB12\"} 1800000000",
            ]
        );
    }

    #[test]
    fn series_end_with_the_state_and_with_the_integration() {
        let published = Published::default();
        let count = "consentry_checks{check=\"group_access\",reason=\"token_revoked\"}";
        published.set(&entry("Acme", state(Outcome::Fail(Reason::TokenRevoked))));
        assert_eq!(lines_of(&published, count), [format!("{count} 1")]);
        published.set(&entry("Acme", state(Outcome::Pass)));
        assert_eq!(lines_of(&published, "consentry_check_reason"), Vec::<String>::new());
        assert_eq!(lines_of(&published, count), [format!("{count} 0")]);
        published.remove("acme");
        assert_eq!(lines_of(&published, "consentry_integration_info"), Vec::<String>::new());
        assert_eq!(
            lines_of(&published, "consentry_checks{check=\"group_access\",reason=\"\"}"),
            ["consentry_checks{check=\"group_access\",reason=\"\"} 0"]
        );
    }

    #[test]
    fn names_are_escaped_in_labels() {
        for (name, expected) in [
            ("a\"b\\c\nd", "a\\\"b\\\\c\\nd".to_owned()),
            ("🚪\u{202e}<script>", "🚪\u{202e}<script>".to_owned()),
        ] {
            let published = Published::default();
            published.set(&entry(name, IntegrationState::default()));
            let lines = lines_of(&published, "consentry_integration_info");
            assert_eq!(lines.len(), 1);
            assert!(lines[0].contains(&format!("display_name=\"{expected}\",")), "{}", lines[0]);
        }
        assert_eq!(escape(&"x".repeat(10_000)).chars().count(), LABEL_LIMIT_SHOWN);
    }

    const LABEL_LIMIT_SHOWN: usize = 513;

    #[test]
    fn formats_are_negotiated() {
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (
                Some("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.6"),
                Format::OpenMetrics,
            ),
            (Some("application/openmetrics-text; version=1.0.0"), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0.2, text/plain"), Format::Text),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some(";;,q=,\u{1}"), Format::Text),
        ] {
            assert_eq!(negotiate(accept), format, "{accept:?}");
        }
        let families = Families::new().expect("families");
        let open = write(&families, &Published::default(), Format::OpenMetrics);
        assert!(
            open.ends_with("# EOF\n")
                && open.contains("# TYPE consentry_probes counter\n")
                && open.contains("\nconsentry_probes_total{result=\"pass\"} 0\n")
        );
    }
}
