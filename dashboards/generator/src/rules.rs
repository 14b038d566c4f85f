//! The default rules of Grafana's dashboard-linter (of 2025, <https://github.com/grafana/dashboard-linter>), and some rules of our own.
//! `tests/integration/prometheus.rs` checks with a real Prometheus that every expression is valid PromQL.

use serde_json::Value;

use crate::dashboards;

/// Panels with their names, without headings.
fn panels(dashboard: &Value) -> Vec<(String, &Value)> {
    let all = dashboard["panels"].as_array().expect("panels");
    let named = |p: &Value| {
        format!(
            "{} / {}",
            dashboard["title"].as_str().unwrap_or_default(),
            p["title"].as_str().unwrap_or_default()
        )
    };
    all.iter().filter(|p| p["type"] != "row").map(|p| (named(p), p)).collect()
}

fn expressions(panel: &Value) -> Vec<&str> {
    panel["targets"]
        .as_array()
        .expect("targets")
        .iter()
        .map(|t| t["expr"].as_str().expect("an expression"))
        .collect()
}

/// The text in each pair of braces.
fn selectors(expression: &str) -> Vec<&str> {
    expression.split('{').skip(1).map(|rest| rest.split('}').next().unwrap_or_default()).collect()
}

#[test]
fn every_panel_has_title_description_unit_and_query() {
    for (_, dashboard) in dashboards() {
        for (name, panel) in panels(&dashboard) {
            for key in ["title", "description"] {
                assert!(panel[key].as_str().is_some_and(|t| t.len() > 3), "{name}: {key}");
            }
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().expect("a unit");
            let known = [
                "short",
                "none",
                "s",
                "bytes",
                "ops",
                "reqps",
                "percentunit",
                "dtdurations",
                "dateTimeFromNow",
                "dateTimeAsIso",
            ];
            let overridden =
                panel["fieldConfig"]["overrides"].as_array().expect("overrides").iter().flat_map(|o| {
                    let properties = o["properties"].as_array().expect("properties").iter();
                    properties.filter(|p| p["id"] == "unit").map(|p| p["value"].as_str().expect("a unit"))
                });
            for unit in std::iter::once(unit).chain(overridden) {
                assert!(known.contains(&unit), "{name}: {unit}");
            }
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
            assert!(!expressions(panel).is_empty(), "{name} has no query");
        }
    }
}

#[test]
fn titles_are_unique_and_panels_do_not_overlap() {
    for (_, dashboard) in dashboards() {
        let mut places = std::collections::HashSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
            assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(places.insert((x, y)), "{} overlaps another panel", panel["title"]);
                }
            }
        }
        let mut names: Vec<String> = panels(&dashboard).into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

#[test]
fn every_selector_is_of_the_chosen_job_and_instance() {
    for (_, dashboard) in dashboards() {
        for (name, panel) in panels(&dashboard) {
            for expression in expressions(panel) {
                for selector in selectors(expression) {
                    assert!(
                        selector.starts_with(r#"job=~"$job", instance=~"$instance""#),
                        "{name}: {selector}"
                    );
                }
                // Every metric has a selector, so the check above covers all of them.
                for word in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')) {
                    let is_metric = word.contains("consentry_") || word.starts_with("process_");
                    assert!(
                        !is_metric || expression.contains(&format!("{word}{{")),
                        "{name}: {word} has no selector"
                    );
                }
                counters_are_compared_over_time(&name, expression);
                for function in ["rate(", "irate("] {
                    let ranges =
                        expression.split(function).skip(1).filter_map(|rest| rest.split(['[', ']']).nth(1));
                    ranges.for_each(|range| assert_eq!(range, "$__rate_interval", "{name}: {expression}"));
                }
            }
        }
    }
}

/// The value of a counter means nothing by itself: it needs a rate or an increase.
fn counters_are_compared_over_time(name: &str, expression: &str) {
    for (at, word) in expression.match_indices('{').map(|(end, _)| {
        let start = expression[..end]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')))
            .map_or(0, |i| i + 1);
        (start, &expression[start..end])
    }) {
        let counter = ["_total", "_bucket", "_sum", "_count"].iter().any(|ending| word.ends_with(ending));
        let before = expression[..at]
            .trim_end_matches('(')
            .rsplit(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default();
        assert!(
            !counter || matches!(before, "rate" | "irate" | "increase"),
            "{name}: {word} is a counter and is used in {before:?}, not in a rate or an increase"
        );
    }
}

#[test]
fn a_bare_counter_is_found() {
    counters_are_compared_over_time(
        "good",
        "sum by (le) (rate(a_bucket{x=\"y\"}[5m])) / increase(b_total{}[1h]) + c{}",
    );
    assert!(
        std::panic::catch_unwind(|| counters_are_compared_over_time(
            "bad",
            "sum(rate(a_total{}[5m])) + sum(b_total{})"
        ))
        .is_err()
    );
}

#[test]
fn every_board_has_the_usual_variables() {
    for (_, dashboard) in dashboards() {
        let variables = dashboard["templating"]["list"].as_array().expect("variables");
        let names: Vec<&str> = variables.iter().filter_map(|v| v["name"].as_str()).collect();
        assert_eq!(names, ["datasource", "job", "instance", "app", "integration"]);
        assert_eq!(variables[0]["label"], "Data source");
        assert_eq!(
            (&variables[0]["type"], &variables[0]["query"]),
            (&Value::from("datasource"), &Value::from("prometheus"))
        );
        for (variable, label) in [(&variables[1], "Job"), (&variables[2], "Instance")] {
            assert_eq!(variable["type"], "query");
            assert_eq!(variable["label"], label);
            assert_eq!((&variable["multi"], &variable["allValue"]), (&Value::Bool(true), &Value::from(".+")));
        }
        for variable in variables.iter().filter(|v| v["type"] == "query") {
            assert_eq!(variable["refresh"], 2, "{}", variable["name"]);
            let query = variable["query"]
                .as_str()
                .and_then(|q| q.strip_prefix("label_values(")?.strip_suffix(')'))
                .expect("label_values");
            let (series, label) = query.rsplit_once(", ").expect("series and label");
            assert!(
                series.starts_with("consentry_") && label.chars().all(|c| c.is_ascii_alphabetic()),
                "{query}"
            );
            assert_eq!(variable["datasource"]["uid"], "${datasource}");
        }
        assert_eq!(dashboard["editable"], false);
    }
}

/// The board must stay legible with a thousand integrations: queries with a series for each of them are aggregated or limited.
#[test]
fn the_fleet_never_draws_a_line_for_each_integration() {
    let (_, fleet) = &dashboards()[0];
    for (name, panel) in panels(fleet) {
        for expression in expressions(panel).into_iter().filter(|e| e.contains("integration")) {
            let bounded = [
                "sum(",
                "sum by",
                "max(",
                "min(",
                "count(",
                "topk(",
                "bottomk(",
                "histogram_quantile(",
                "round(sum(",
            ];
            assert!(bounded.iter().any(|b| expression.starts_with(b)), "{name}: {expression}");
        }
    }
}
