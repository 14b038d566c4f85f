//! `dashboards/metrics.md`, the exposition, the dashboards and the rules agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use consentry::domain::{CredentialExpiry, IntegrationRecord, JobState, Reason, Timestamp};
use consentry::fleet::FleetEntry;
use serde_json::Value;
use serde_yaml::from_str;

use crate::fleet::Fleet;
use crate::tools::available;
use crate::world::{MINUTE, situation};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect(name)
}

/// A family as the catalogue describes it.
pub struct Described {
    pub kind: String,
    labels: BTreeSet<String>,
    pub example: String,
}

/// The rows of the catalogue by name.
pub fn catalogue() -> BTreeMap<String, Described> {
    let text = read("dashboards/metrics.md");
    let mut families = BTreeMap::new();
    for row in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, series, says, example] = cells[..] else { panic!("six columns: {row}") };
        assert!(!series.is_empty() && !says.is_empty() && example.len() > 2, "{row}");
        let labels = labels.split(',').map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
        let described =
            Described { kind: kind.to_owned(), labels, example: example.trim_matches('`').to_owned() };
        assert!(families.insert(name.trim_matches('`').to_owned(), described).is_none(), "{name} twice");
    }
    families
}

/// Names of metrics in an expression, without the endings of histograms.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
    let own = words.filter(|w| w.contains("consentry_") || w.starts_with("process_"));
    let base = |w: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|ending| w.strip_suffix(ending));
        histogram.filter(|w| w.ends_with("_seconds")).unwrap_or(w).to_owned()
    };
    own.map(base).collect()
}

/// Every expression of a dashboard, with its panel's title.
pub fn expressions_of_dashboard(file: &str) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read(file)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").clone();
    let targets = |panel: Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let all = panel["targets"].as_array().cloned().unwrap_or_default();
        all.into_iter().map(move |t| (title.clone(), t["expr"].as_str().expect("an expression").to_owned()))
    };
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let query = |v: &Value| {
        Some((
            format!("variable {}", v["name"]),
            v["query"].as_str()?.strip_prefix("label_values(")?.rsplit_once(',')?.0.to_owned(),
        ))
    };
    variables.iter().filter_map(query).chain(panels.into_iter().flat_map(targets)).collect()
}

/// Every rule: what it records or alerts, and its expression.
pub fn rules() -> Vec<(String, String)> {
    let rules: Value = from_str(&read("dashboards/rules.yml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let all = groups.iter().flat_map(|g| g["rules"].as_array().expect("rules"));
    all.map(|r| {
        (
            r["record"].as_str().or(r["alert"].as_str()).expect("a name").to_owned(),
            r["expr"].as_str().expect("expr").to_owned(),
        )
    })
    .collect()
}

/// Families of an exposition: type and all labels that occur.
fn exposed(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|e| name.strip_suffix(e))
                .filter(|n| families.contains_key(*n));
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.rsplit_once('}'))
                .map_or("", |(labels, _)| labels);
            let names =
                labels.split("\",").filter_map(|l| l.split_once("=\"")).map(|(name, _)| name.to_owned());
            let known = &mut families.get_mut(family.unwrap_or(name)).expect("a type before its samples").1;
            known.extend(names.filter(|n| n != "le"));
        }
    }
    families
}

/// An exposition that contains every family.
async fn full_exposition() -> String {
    let fleet = Fleet::start().await;
    fleet.act((situation("contoso").breaks)("contoso.example"));
    fleet.pass(12 * MINUTE).await;
    let until = fleet.clock.now().plus(MINUTE);
    assert!(fleet.daemon.monitor.snooze("contoso", until, "a test").await.expect("saved"));
    let process = &fleet.daemon.process;
    process.families.set_url("https://consentry.example.com");
    let northwind = process.fleet.get("northwind").expect("an integration");
    let record = IntegrationRecord {
        name: "certified".to_owned(),
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        reader: Some("reader".into()),
        ..IntegrationRecord::clone(&northwind.record)
    };
    let mut certified = FleetEntry::new(Arc::new(record));
    certified.credentials =
        vec![CredentialExpiry { key_id: "AB".to_owned(), at: Timestamp::from_seconds(1) }];
    let state = Arc::make_mut(&mut certified.state);
    state.reader_fault = Some(Reason::ReaderPermissionMissing);
    state.jobs = vec![JobState { id: "scim.1".to_owned(), quarantined: true, last_success: None }];
    process.published.set(&certified);
    fleet.exposition()
}

#[tokio::test]
async fn the_catalogue_describes_what_is_exported_and_nothing_else() {
    let (catalogue, mut exposed) = (catalogue(), exposed(&full_exposition().await));
    let recorded: BTreeSet<String> =
        rules().into_iter().map(|(name, _)| name).filter(|n| n.contains(':')).collect();
    for (name, described) in &catalogue {
        assert!(metrics_in(&described.example).contains(name), "{name}: its example is about something else");
        if described.kind == "recorded" {
            assert!(recorded.contains(name), "{name} is not recorded");
            continue;
        }
        let Some((kind, mut labels)) = exposed.remove(name) else {
            // They are read from /proc.
            assert!(name.starts_with("process_") && !cfg!(target_os = "linux"), "{name} is not exported");
            continue;
        };
        if labels.remove("label_tier") {
            labels.insert("label_*".to_owned());
        }
        assert_eq!((&described.kind, &described.labels), (&kind, &labels), "{name}");
    }
    assert!(exposed.is_empty(), "not in dashboards/metrics.md: {:?}", exposed.keys());
}

#[test]
fn dashboards_and_rules_use_only_documented_metrics() {
    let catalogue = catalogue();
    let files = ["dashboards/fleet.json", "dashboards/integration.json"];
    let asked = files.iter().flat_map(|file| expressions_of_dashboard(file)).chain(rules());
    let mut count = 0;
    for (title, expression) in asked {
        for metric in metrics_in(&expression) {
            assert!(catalogue.contains_key(&metric), "{title}: {metric} is not in dashboards/metrics.md");
            count += 1;
        }
    }
    assert!(count > 100, "only {count} metrics were found");
    let used: BTreeSet<String> = files
        .iter()
        .flat_map(|file| expressions_of_dashboard(file))
        .flat_map(|(_, e)| metrics_in(&e))
        .collect();
    for (name, described) in &catalogue {
        assert!(described.kind != "recorded" || used.contains(name), "{name} is recorded and shown nowhere");
    }
}

/// What the tests of the rules expect: the alert's name or an expression about it, and whether it fires then.
fn expectations(tests: &Value) -> Vec<(String, bool)> {
    let of = |test: &Value, list: &str, what: &str, expected: &str| {
        let all = test[list].as_array().cloned().unwrap_or_default();
        let one = |e: &Value| Some((e[what].as_str()?.to_owned(), !e[expected].as_array()?.is_empty()));
        all.iter().filter_map(one).collect::<Vec<_>>()
    };
    let tests = tests["tests"].as_array().expect("tests");
    let both = |t: &Value| {
        [
            of(t, "promql_expr_test", "expr", "exp_samples"),
            of(t, "alert_rule_test", "alertname", "exp_alerts"),
        ]
        .concat()
    };
    tests.iter().flat_map(both).collect()
}

/// promtool has no loops, and a fleet of thousands needs as many series.
fn promtool_agrees(rules: &str, series: &[(String, &str)], expectations: &[(&str, &str, Option<&str>)]) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rules.yml"), rules).expect("written");
    let series: String = series
        .iter()
        .map(|(series, values)| format!("      - {{series: '{series}', values: '{values}'}}\n"))
        .collect();
    let asked: String = expectations
        .iter()
        .map(|(expression, at, value)| {
            let samples = value.map_or("[]".to_owned(), |v| format!("[{{labels: '{{}}', value: {v}}}]"));
            format!("      - {{expr: '{expression}', eval_time: {at}, exp_samples: {samples}}}\n")
        })
        .collect();
    let text = format!(
        "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{series}    promql_expr_test:\n{asked}"
    );
    std::fs::write(folder.path().join("test.yml"), text).expect("written");
    let output = Command::new("promtool")
        .args(["test", "rules", "test.yml"])
        .current_dir(folder.path())
        .output()
        .expect("run");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn fifty_at_once_are_many_in_any_fleet() {
    if !available("promtool") {
        return;
    }
    let of = |instance: &str, count: u32| -> Vec<(String, &str)> {
        let fleet = format!(
            "instance:consentry_integrations:count{{job=\"c\", instance=\"{instance}\", state=\"healthy\"}}"
        );
        let since = "consentry_integration_broken_since_timestamp_seconds";
        let broken = (0..count).map(|n| {
            (format!("{since}{{job=\"c\", instance=\"{instance}\", integration=\"{n}\"}}"), "_x9 600x20")
        });
        std::iter::once((fleet, "100000x30")).chain(broken).collect()
    };
    let firing = |instance| {
        format!("sum(ALERTS{{alertname=\"ConsentryManyIntegrationsBroken\", instance=\"{instance}\"}})")
    };
    promtool_agrees(
        &read("dashboards/rules.yml"),
        &[of("few", 49), of("many", 50)].concat(),
        &[(&firing("few"), "15m", None), (&firing("many"), "15m", Some("1"))],
    );
}

/// More than five thousand single alerts are of no use, so one alert replaces them. promtool cannot simulate
/// such a fleet, so three integrations stand for thousands.
#[test]
fn thousands_of_broken_integrations_are_one_alert() {
    if !available("promtool") {
        return;
    }
    let rules = read("dashboards/rules.yml");
    assert_eq!(rules.matches("> 5000").count(), 2);
    let rules = rules.replace("> 5000", "> 3");
    for (broken, single, bulk) in [(3, Some("3"), None), (4, None, Some("1"))] {
        let of = |n| format!("{{job=\"c\", instance=\"i\", integration=\"{n}\", app=\"a\"}}");
        let one = |n| {
            [
                (format!("consentry_integration_up{}", of(n)), "0x10"),
                (format!("consentry_integration_info{}", of(n)), "1x10"),
            ]
        };
        let count = |alert: &str| format!("count(ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}})");
        let expected = [
            (&*count("ConsentryIntegrationBroken"), "8m", single),
            (&*count("ConsentryBrokenInBulk"), "8m", bulk),
        ];
        promtool_agrees(&rules, &(0..broken).flat_map(one).collect::<Vec<_>>(), &expected);
    }
}

/// What people on call need: how bad it is, what it means, and where to read what to do.
#[test]
fn every_alert_is_complete() {
    let rules: Value = from_str(&read("dashboards/rules.yml")).expect("YAML");
    let tests: Value = from_str(&read("dashboards/rules_test.yml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let alerts: Vec<&Value> = groups
        .iter()
        .flat_map(|g| g["rules"].as_array().expect("rules"))
        .filter(|r| r["alert"].is_string())
        .collect();
    for alert in &alerts {
        let name = alert["alert"].as_str().expect("a name");
        assert!(alert["for"].is_string(), "{name}: for");
        assert!(
            matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning" | "info")),
            "{name}: severity"
        );
        for annotation in ["summary", "description"] {
            assert!(
                alert["annotations"][annotation].as_str().is_some_and(|t| t.len() > 20),
                "{name}: {annotation}"
            );
        }
        let url = alert["annotations"]["runbook_url"].as_str().expect("runbook_url");
        assert!(url.ends_with(&format!("/docs/runbooks/{name}.md")), "{url}");
        let page = read(&format!("docs/runbooks/{name}.md"));
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        for section in ["## Meaning", "## Impact", "## Diagnosis", "## Resolution"] {
            assert!(page.contains(section), "{name}: {section}");
        }
        let names = |expression: &str| {
            expression.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name)
        };
        let about =
            expectations(&tests).into_iter().filter(|(expression, _)| names(expression)).collect::<Vec<_>>();
        for fires in [true, false] {
            assert!(
                about.iter().any(|(_, fired)| *fired == fires),
                "{name}: rules_test.yml never expects that it fires: {fires}"
            );
        }
    }
    assert!(alerts.len() >= 15);
}

#[test]
fn every_reason_has_a_runbook() {
    for reason in Reason::ALL {
        let name = reason.label();
        let page = read(&format!("docs/runbooks/{name}.md"));
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        for part in [
            reason.sentence(),
            reason.remedy().label(),
            "## What happened",
            "## What to do",
            "## How to see that it works again",
        ] {
            assert!(page.contains(part), "{name}: {part}");
        }
    }
    let alerts: BTreeSet<String> = rules().into_iter().map(|(name, _)| name).collect();
    for entry in std::fs::read_dir(root().join("docs/runbooks")).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".md").to_owned();
        let known =
            name == "README" || alerts.contains(&name) || Reason::ALL.iter().any(|r| r.label() == name);
        assert!(known, "docs/runbooks/{name}.md belongs to no alert and no reason");
        assert!(
            name == "README" || read("docs/runbooks/README.md").contains(&format!("({name}.md)")),
            "{name} is not in the list"
        );
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    if !available("promtool") {
        return;
    }
    for arguments in
        [["check", "rules", "dashboards/rules.yml"], ["test", "rules", "dashboards/rules_test.yml"]]
    {
        let output = Command::new("promtool").args(arguments).current_dir(root()).output().expect("run");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
