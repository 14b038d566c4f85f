//! One integration: what its checks found, and when.

use serde_json::{Value, json};

use crate::panel::{BAD, BOARDS, CAUTION, GOOD, Item, Panel, UNKNOWN, dashboard as assemble, values};

/// The board.
pub fn dashboard() -> Value {
    let query = r#"label_values(consentry_integration_info{FLEET, app=~"$app"}, integration)"#;
    let integration = values("integration", "Integration", query, false);
    let items = [now(), checks(), evidence(), details()].concat();
    let description =
        "One integration: its checks over time, the reasons, permissions, groups, credentials and probes.";
    assemble(BOARDS[1], description, "now-7d", vec![integration], items)
}

fn now() -> Vec<Item> {
    let state =
        Panel::stat("State", "Whether all enabled checks pass; the worst result of several instances.")
            .now(r#"min(consentry_integration_up{FLEET, integration="$integration"})"#, "state")
            .mappings(&[("0", "broken", BAD), ("1", "healthy", GOOD)])
            .thresholds(UNKNOWN, &[])
            .nothing("unknown");
    let waiting = Panel::stat("Re-authentication", "Whether an administrator's sign-in would fix it.")
        .now(
            r#"max(consentry_integration_reauthentication_required{FLEET, integration="$integration"})"#,
            "re-authentication",
        )
        .mappings(&[("0", "not needed", GOOD), ("1", "needed", CAUTION)])
        .thresholds(UNKNOWN, &[])
        .nothing("unknown");
    let since = Panel::stat("Broken for", "How long the present failure has lasted.")
        .now(
            r#"max(time() - consentry_integration_broken_since_timestamp_seconds{FLEET, integration="$integration"})
                or -max(consentry_integration_up{FLEET, integration="$integration"} == 1)"#,
            "broken for",
        )
        .unit("dtdurations")
        .mappings(&[("-1", "not broken", GOOD)])
        .thresholds(BAD, &[])
        .nothing("unknown");
    let probed = Panel::stat("Last probe", "When the last probe ended.")
        .now(r#"max(consentry_integration_last_probe_timestamp_seconds{FLEET, integration="$integration"}) * 1000"#, "last probe")
        .unit("dateTimeFromNow")
        .nothing("never");
    let groups = Panel::stat("Groups", "Groups that the integration's own token sees, counted up to 1000.")
        .now(r#"max(consentry_groups_visible{FLEET, integration="$integration"})"#, "groups")
        .nothing("unknown");
    let expiry = Panel::stat(
        "Credential expires in",
        "The first of its certificates. The expiry of a client secret is not known.",
    )
    .now(
        r#"min(consentry_credential_expiry_timestamp_seconds{FLEET, integration="$integration"}) - time()"#,
        "expires in",
    )
    .unit("dtdurations")
    .thresholds(BAD, &[(259_200.0, CAUTION), (2_592_000.0, GOOD)])
    .nothing("not known");
    let stats = [state, waiting, since, probed, groups, expiry];
    [vec![Item::Row("Now")], stats.into_iter().map(Item::Panel).collect()].concat()
}

fn checks() -> Vec<Item> {
    let checks = Panel::timeline(
        "Checks",
        "The last conclusive result of each check; the worst in each interval, so that a short failure is visible in a long range.",
    )
    .over_time(
        r#"min by (check) (min_over_time(consentry_check_success{FLEET, integration="$integration"}[$__rate_interval]))"#,
        "{{check}}",
    )
    .unit("none")
    .mappings(&[("0", "fail", BAD), ("1", "pass", GOOD)]);
    let reasons = Panel::timeline("Reasons", "Why a check failed or was unknown. No line means that all checks passed.")
        .over_time(
            r#"max by (check, reason) (max_over_time(consentry_check_reason{FLEET, integration="$integration"}[$__rate_interval]))"#,
            "{{check}}: {{reason}}",
        )
        .unit("none")
        .mappings(&[("1", "yes", CAUTION)])
        .without_words()
        .nothing("all checks passed");
    [vec![Item::Row("Checks and reasons")], vec![Item::Panel(checks), Item::Panel(reasons)]].concat()
}

fn evidence() -> Vec<Item> {
    let permissions = Panel::timeline("Permissions", "Each required permission: granted or taken away.")
        .over_time(
            r#"min by (resource, permission, grant) (min_over_time(consentry_permission_granted{FLEET, integration="$integration"}[$__rate_interval]))"#,
            "{{resource}} {{permission}} ({{grant}})",
        )
        .unit("none")
        .mappings(&[("0", "missing", BAD), ("1", "granted", GOOD)])
        .size(24, 8);
    let groups =
        Panel::lines("Visible groups", "Groups that the integration's own token sees, counted up to 1000.")
            .over_time(r#"max(consentry_groups_visible{FLEET, integration="$integration"})"#, "groups")
            .decimals(0);
    let duration = Panel::lines("Length of probes", "How long the last probe took.")
        .over_time(
            r#"max(consentry_integration_probe_duration_seconds{FLEET, integration="$integration"})"#,
            "length",
        )
        .unit("s");
    let ages = Panel::lines(
        "Time since each check passed",
        "Grows while a check fails or is unknown; otherwise it stays below the time between two probes.",
    )
    .over_time(
        r#"time() - max by (check) (consentry_check_last_success_timestamp_seconds{FLEET, integration="$integration"})"#,
        "{{check}}",
    )
    .unit("s");
    let jobs = Panel::timeline("Synchronization jobs", "Each job: in quarantine or not. Known where the check provisioning is enabled.")
        .over_time(
            r#"max by (job_id) (max_over_time(consentry_provisioning_quarantined{FLEET, integration="$integration"}[$__rate_interval]))"#,
            "{{job_id}}",
        )
        .unit("none")
        .mappings(&[("0", "no quarantine", GOOD), ("1", "quarantine", BAD)])
        .nothing("no jobs are known")
        .size(24, 5);
    [
        vec![Item::Row("Evidence")],
        [permissions, jobs, groups, duration, ages].into_iter().map(Item::Panel).collect(),
    ]
    .concat()
}

fn details() -> Vec<Item> {
    let page = json!([{"title": "Status page", "url": "${__data.fields.url}/integrations/${__data.fields.Integration}", "targetBlank": true}]);
    let properties = Panel::table(
        "Properties",
        "As configured. The name links to the integration's page in Consentry, with evidence, history and mails.",
    )
    .now(
        r#"consentry_integration_info{FLEET, integration="$integration"}
                * on (job, instance) group_left (url) (consentry_web_info{FLEET} or on (job, instance) consentry_build_info{FLEET})"#,
        "",
    )
    .columns(&[
        ("integration", "Integration"),
        ("display_name", "Name"),
        ("app", "Application"),
        ("client_id", "Client id"),
        ("tenant_id", "Tenant"),
        ("access", "Access"),
        ("url", "url"),
    ])
    .column("Integration", &[("links", page)])
    .column("url", &[("custom.hidden", json!(true))])
    .nothing("no such integration")
    .size(24, 4);
    let credentials = Panel::table(
        "Credentials",
        "Certificates of ours; with the check credential, all credentials that Entra lists for the application, its enterprise application and its directory reader.",
    )
    .now(r#"min by (kind, key_id) (consentry_credential_expiry_timestamp_seconds{FLEET, integration="$integration"}) * 1000"#, "")
    .columns(&[("kind", "Kind"), ("key_id", "Id"), ("Value", "Expires")])
    .column("Expires", &[("unit", json!("dateTimeAsIso"))])
    .nothing("no certificate is configured, and the check credential is off")
    .size(24, 5);
    vec![Item::Row("Properties"), Item::Panel(properties), Item::Panel(credentials)]
}
