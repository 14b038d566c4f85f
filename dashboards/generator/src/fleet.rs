//! The board of the whole fleet. No panel has a series for each integration, except tables, which are limited.

use serde_json::{Value, json};

use crate::panel::{BAD, BOARDS, CAUTION, GOOD, Item, Panel, UNKNOWN, dashboard as assemble, written};

/// Matches integrations whose names contain the text of the variable `integration`.
const PATTERN: &str = r#"integration=~".*$integration.*""#;
const AND_CHOSEN: &str =
    r#"and on (job, instance, integration) consentry_integration_info{FLEET, PATTERN, app=~"$app"}"#;
/// Zero while there is a daemon; no value, instead of a misleading zero, if there is none.
const OR_ZERO: &str = "or 0 * sum(consentry_build_info{FLEET})";
/// Reasons of failures, without those of temporary and unknown errors, which fail no check.
const FAILING: &str = r#"consentry_check_reason{FLEET, PATTERN, remedy!="wait", reason!="unclassified"}"#;

/// Puts the constants into an expression.
fn filled(expression: &str) -> String {
    [("AND_CHOSEN", AND_CHOSEN), ("OR_ZERO", OR_ZERO), ("FAILING", FAILING), ("PATTERN", PATTERN)]
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The board.
pub fn dashboard() -> Value {
    let integration = written("integration", "Integration (part of the name)", "");
    let items = [
        now(),
        broken(),
        repair(),
        probing(),
        provisioning_and_readers(),
        upstream(),
        notifications(),
        daemon(),
    ]
    .concat();
    let description = "All integrations that Consentry watches: what is broken, why, since when, and whether probing and notification work.";
    assemble(BOARDS[0], description, "now-24h", vec![integration], items)
}

fn now() -> Vec<Item> {
    let healthy = Panel::stat("Healthy", "Integrations whose enabled checks all pass.")
        .now(&filled("count(consentry_integration_up{FLEET, PATTERN} == 1 AND_CHOSEN) OR_ZERO"), "healthy")
        .thresholds(UNKNOWN, &[(1.0, GOOD)])
        .nothing("no data");
    let broken = Panel::stat("Broken", "Integrations that are confirmed broken.")
        .now(&filled("count(consentry_integration_up{FLEET, PATTERN} == 0 AND_CHOSEN) OR_ZERO"), "broken")
        .thresholds(GOOD, &[(1.0, BAD)])
        .nothing("no data");
    let unknown =
        Panel::stat("Unknown", "Integrations without a conclusive result yet, because no probe has ended or all were unknown.")
            .now(
                &filled(
                    r#"count(consentry_integration_info{FLEET, PATTERN, app=~"$app"}
                    unless on (job, instance, integration) consentry_integration_up{FLEET, PATTERN}) OR_ZERO"#,
                ),
                "unknown",
            )
            .thresholds(GOOD, &[(1.0, CAUTION)])
            .nothing("no data");
    let waiting = Panel::stat("Sign-in needed", "Broken integrations that an administrator's sign-in fixes.")
        .now(&filled("count(consentry_integration_reauthentication_required{FLEET, PATTERN} == 1 AND_CHOSEN) OR_ZERO"), "waiting")
        .thresholds(GOOD, &[(1.0, CAUTION)])
        .nothing("no data");
    let longest = Panel::stat("Broken for longest", "How long the oldest present failure has lasted.")
        .now(
            &filled("max(time() - consentry_integration_broken_since_timestamp_seconds{FLEET, PATTERN} AND_CHOSEN) OR_ZERO - 1"),
            "longest",
        )
        .unit("dtdurations")
        .mappings(&[("-1", "nothing", GOOD)])
        .thresholds(UNKNOWN, &[(86_400.0, CAUTION), (604_800.0, BAD)])
        .nothing("no data");
    let oldest = Panel::stat(
        "Oldest result",
        "Time since the oldest last probe of an integration. The board shows no older results than that.",
    )
    .now(
        &filled(
            "max(time() - consentry_integration_last_probe_timestamp_seconds{FLEET, PATTERN} AND_CHOSEN)",
        ),
        "oldest",
    )
    .unit("dtdurations")
    .nothing("none");
    let over_time = Panel::lines(
        "Integrations by state",
        "All applications together, independent of the selection above: read from a recording rule, so that a long range stays cheap.",
    )
    .over_time("sum by (state) (instance:consentry_integrations:count{FLEET})", "{{state}}")
    .stacked()
    .decimals(0)
    .color("healthy", GOOD)
    .color("broken", BAD)
    .color("unknown", CAUTION)
    .size(24, 7);
    let stats = [healthy, broken, unknown, waiting, longest, oldest];
    [vec![Item::Row("Now")], stats.into_iter().map(Item::Panel).collect(), vec![Item::Panel(over_time)]]
        .concat()
}

fn broken() -> Vec<Item> {
    let reasons = Panel::bars("By reason", "Confirmed broken integrations by reason. An integration with two reasons counts in both.", "reason")
        .now(
            &filled(
                "topk(15, count by (reason) (max by (job, instance, integration, reason) (FAILING
                and on (job, instance, integration) consentry_integration_broken_since_timestamp_seconds{FLEET, PATTERN} AND_CHOSEN)))",
            ),
            "{{reason}}",
        )
        .nothing("nothing is broken");
    let apps = Panel::bars(
        "By application",
        "Confirmed broken integrations of each application, the ten highest. Read from a recording rule; the filter by name does not apply.",
        "app",
    )
    .now(r#"topk(10, sum by (app) (app:consentry_integrations_broken:count{FLEET, app=~"$app"}) > 0)"#, "{{app}}")
    .nothing("nothing is broken");
    let tenants = Panel::bars("By tenant", "Confirmed broken integrations of each tenant, the ten highest.", "tenant_id")
        .now(
            &filled(
                r#"topk(10, count by (tenant_id) (consentry_integration_broken_since_timestamp_seconds{FLEET, PATTERN}
                * on (job, instance, integration) group_left (tenant_id) consentry_integration_info{FLEET, PATTERN, app=~"$app"}))"#,
            ),
            "{{tenant_id}}",
        )
        .nothing("nothing is broken");
    let silent = Panel::bars(
        "Could not tell",
        "Checks that were unknown in their last probe, by reason, in all integrations. No administrator is mailed for these.",
        "reason",
    )
    .now(
        r#"topk(10, sum by (reason) (consentry_checks{FLEET, reason=~"throttled|upstream_unavailable|timeout|network_error|invalid_response|unclassified"}) > 0)"#,
        "{{reason}}",
    )
    .thresholds(CAUTION, &[])
    .nothing("everything could be learnt");
    vec![
        Item::Row("What is broken"),
        Item::Panel(table()),
        Item::Panel(reasons),
        Item::Panel(apps),
        Item::Panel(tenants),
        Item::Panel(silent),
    ]
}

fn table() -> Panel {
    let page = json!([
        {"title": "Status page", "url": "${__data.fields.url}/integrations/${__data.fields.Integration}", "targetBlank": true},
        {
            "title": "History", "targetBlank": false,
            "url": format!(
                "/d/{}?var-integration=${{__data.fields.Integration}}&var-job=${{__data.fields.job}}&var-instance=${{__data.fields.instance}}\
                 &${{datasource:queryparam}}&${{__url_time_range}}",
                BOARDS[1].0
            )
        }
    ]);
    Panel::table(
        "Broken integrations",
        "The integrations that broke last, once for each reason, at most 200 rows. The name links to the integration's page in Consentry and to its history here.",
    )
    .now(
        &filled(
            r#"topk(200, max by (job, instance, integration, reason, remedy, app, display_name, tenant_id, url) (
            FAILING
              * on (job, instance, integration) group_left () consentry_integration_broken_since_timestamp_seconds{FLEET, PATTERN}
              * on (job, instance, integration) group_left (app, display_name, tenant_id) consentry_integration_info{FLEET, PATTERN, app=~"$app"}
              * on (job, instance) group_left (url)
                (consentry_web_info{FLEET} or on (job, instance) consentry_build_info{FLEET})
        ) * 1000)"#,
        ),
        "",
    )
    .columns(&[
        ("integration", "Integration"),
        ("display_name", "Name"),
        ("app", "Application"),
        ("tenant_id", "Tenant"),
        ("reason", "Reason"),
        ("remedy", "Remedy"),
        ("Value", "Since"),
        ("url", "url"),
        ("job", "job"),
        ("instance", "instance"),
    ])
    .column("Tenant", &[("custom.width", json!(340))])
    .column("Since", &[("unit", json!("dateTimeFromNow"))])
    .column("Integration", &[("links", page)])
    .column("url", &[("custom.hidden", json!(true))])
    .column("job", &[("custom.hidden", json!(true))])
    .column("instance", &[("custom.hidden", json!(true))])
    .sorted("Since", true)
    .nothing("nothing is broken")
}

fn repair() -> Vec<Item> {
    let quantile = |q: &str| {
        format!(
            "histogram_quantile({q}, sum by (le) (increase(consentry_integration_repair_duration_seconds_bucket{{FLEET}}[$__range]))) >= 0"
        )
    };
    let median = Panel::stat("Time to repair, median", "How long integrations were broken that were fixed within the chosen range, estimated from a histogram. All of them, whatever is chosen above.")
        .now(&quantile("0.5"), "median")
        .unit("dtdurations")
        .nothing("none")
        .size(4, 6);
    let slow = Panel::stat(
        "Time to repair, 90 %",
        "Nine of ten repairs within the chosen range took no longer, estimated from a histogram. All of them, whatever is chosen above.",
    )
    .now(&quantile("0.9"), "90 %")
    .unit("dtdurations")
    .nothing("none")
    .size(4, 6);
    let fixed = Panel::stat(
        "Fixed",
        "Integrations that were fixed within the chosen range, whatever is chosen above.",
    )
    .now(
        "round(sum(increase(consentry_integration_repair_duration_seconds_count{FLEET}[$__range])))",
        "fixed",
    )
    .nothing("none")
    .thresholds(UNKNOWN, &[(1.0, GOOD)])
    .text_size(40)
    .size(4, 6);
    let signed = Panel::lines("Re-authentications", "How administrators' attempts to re-authenticate ended.")
        .over_time(
            "sum by (result) (increase(consentry_reauthentications_total{FLEET}[$__rate_interval])) > 0",
            "{{result}}",
        )
        .over_time_bars()
        .color("success", GOOD)
        .size(12, 6);
    let stats = [median, slow, fixed].into_iter().map(Item::Panel).collect();
    [vec![Item::Row("Repair")], stats, vec![Item::Panel(signed)]].concat()
}

fn probing() -> Vec<Item> {
    let results =
        Panel::lines("Probes", "Probes a second by result. An unknown probe gave no conclusive result.")
            .over_time(
                "sum by (result) (rate(consentry_probes_total{FLEET}[$__rate_interval]))",
                "{{result}}",
            )
            .unit("ops")
            .stacked()
            .color("pass", GOOD)
            .color("fail", BAD)
            .color("unknown", CAUTION);
    let duration = Panel::lines("Length of probes", "From the first request of a probe to its verdict.")
        .unit("s")
        .percentiles("consentry_probe_duration_seconds");
    let delay = Panel::lines(
        "How late probes start",
        "Delay behind the schedule. If it is long, probe.concurrency is too small for the fleet.",
    )
    .unit("s")
    .percentiles("consentry_probe_schedule_delay_seconds");
    [vec![Item::Row("Probing")], [results, duration, delay].into_iter().map(Item::Panel).collect()].concat()
}

fn provisioning_and_readers() -> Vec<Item> {
    let quarantined = Panel::stat(
        "Jobs in quarantine",
        "Synchronization jobs that Entra has put into quarantine, where the check provisioning is enabled.",
    )
    .now(
        &filled(
            r#"sum(max by (job, instance, integration, job_id) (consentry_provisioning_quarantined{FLEET, PATTERN})
                * on (job, instance, integration) group_left () group by (job, instance, integration) (consentry_integration_info{FLEET, PATTERN, app=~"$app"}))"#,
        ),
        "quarantined",
    )
    .thresholds(GOOD, &[(1.0, BAD)])
    .nothing("no jobs")
    .size(4, 6);
    let jobs = Panel::lines(
        "Synchronization jobs",
        "Known jobs, and those in quarantine, whatever is chosen above.",
    )
    .over_time("count(consentry_provisioning_quarantined{FLEET})", "jobs")
    .over_time("sum(consentry_provisioning_quarantined{FLEET})", "in quarantine")
    .color("in quarantine", BAD)
    .decimals(0)
    .size(10, 6);
    let readers = Panel::lines(
        "Tenants that directory readers cannot read",
        "By reader and reason, at the last probe. No line means that all of them read.",
    )
    .over_time("max by (reader, reason) (consentry_directory_reader_faults{FLEET})", "{{reader}}: {{reason}}")
    .decimals(0)
    .nothing("all of them read")
    .size(10, 6);
    let panels = [quarantined, jobs, readers];
    [vec![Item::Row("Provisioning and directory readers")], panels.into_iter().map(Item::Panel).collect()]
        .concat()
}

fn upstream() -> Vec<Item> {
    let requests = Panel::lines(
        "Requests to Entra and Graph",
        "A second, by HTTP status or kind of failure, the ten most frequent. 4xx are evidence for the diagnosis, not faults.",
    )
    .over_time(
        "topk(10, sum by (endpoint, code) (rate(consentry_upstream_requests_total{FLEET}[$__rate_interval])) > 0)",
        "{{endpoint}} {{code}}",
    )
    .unit("reqps");
    let errors = Panel::lines(
        "Share of faults",
        "Share of requests in the last quarter of an hour that ended with 5xx, too late or without a response. Read from a recording rule.",
    )
    .over_time("max by (endpoint) (endpoint:consentry_upstream_errors:ratio_rate15m{FLEET})", "{{endpoint}}")
    .unit("percentunit")
    .up_to(0.1);
    let latency = Panel::lines("Latency, 90 %", "Nine of ten requests got a response within this time.")
        .over_time(
            "histogram_quantile(0.9, sum by (endpoint, le) (rate(consentry_upstream_request_duration_seconds_bucket{FLEET}[$__rate_interval])))",
            "{{endpoint}}",
        )
        .unit("s");
    [vec![Item::Row("Entra and Graph")], [requests, errors, latency].into_iter().map(Item::Panel).collect()]
        .concat()
}

fn notifications() -> Vec<Item> {
    let sent = Panel::lines("Mails sent", "Mails that the mail server has accepted, by kind.")
        .over_time(
            "sum by (kind) (increase(consentry_emails_total{FLEET}[$__rate_interval])) > 0",
            "{{kind}}",
        )
        .over_time_bars();
    let failed = Panel::lines("Mails that failed", "Failed attempts to send a mail, by reason. They are repeated until the server accepts the mail or permanently rejects the recipient.")
        .over_time("sum by (reason) (increase(consentry_emails_failed_total{FLEET}[$__rate_interval])) > 0", "{{reason}}")
        .over_time_bars();
    let queue = Panel::stat(
        "Mails waiting",
        "Notices that are due and not sent yet; several may go out in one mail.",
    )
    .now("sum(consentry_email_queue_length{FLEET})", "waiting")
    .thresholds(GOOD, &[(1.0, CAUTION), (100.0, BAD)])
    .size(4, 8);
    let held = Panel::stat(
        "Mails held",
        "Mails to administrators that the brake holds, because much broke at once. The status page releases them.",
    )
    .now("max(consentry_emails_held{FLEET})", "held")
    .thresholds(GOOD, &[(1.0, BAD)])
    .size(4, 8);
    let snoozed = Panel::stat("Snoozed", "Broken integrations whose reminders somebody has snoozed.")
        .now("count(consentry_integration_snoozed{FLEET}) or vector(0)", "snoozed")
        .size(4, 8);
    let last = Panel::stat("Last mail", "When the mail server last accepted a mail.")
        .now("max(consentry_email_last_success_timestamp_seconds{FLEET} > 0) * 1000", "last")
        .unit("dateTimeFromNow")
        .nothing("never")
        .size(4, 8);
    [
        vec![Item::Row("Notifications")],
        [sent, failed, queue, held, snoozed, last].into_iter().map(Item::Panel).collect(),
    ]
    .concat()
}

fn daemon() -> Vec<Item> {
    let configuration = Panel::stat("Configuration", "Whether the content of the files is in effect.")
        .now("min(consentry_config_last_reload_successful{FLEET})", "configuration")
        .mappings(&[("0", "not in effect", BAD), ("1", "in effect", GOOD)])
        .thresholds(GOOD, &[]);
    let broken = Panel::stat(
        "Broken files",
        "Files of integration_files that are invalid, so that their last good list is in effect.",
    )
    .now("sum(consentry_config_files_broken{FLEET})", "files")
    .thresholds(GOOD, &[(1.0, BAD)]);
    let deliveries =
        Panel::stat("Tokens waiting", "Renewed refresh tokens that their product has not accepted yet.")
            .now("sum(consentry_token_delivery_queue_length{FLEET})", "waiting")
            .thresholds(GOOD, &[(1.0, CAUTION)]);
    let storage = Panel::stat(
        "Database errors",
        "Failed reads and writes of the database within the chosen range. Nobody is notified of what cannot be saved.",
    )
    .now("round(sum(increase(consentry_storage_errors_total{FLEET}[$__range])))", "errors")
    .thresholds(GOOD, &[(1.0, BAD)]);
    let running = Panel::stat("Running for", "Time since the daemon was started; the shortest of several.")
        .now("min(time() - process_start_time_seconds{FLEET} * on (job, instance) group_left () consentry_build_info{FLEET})", "running")
        .unit("dtdurations");
    let version = Panel::stat("Version", "Of the daemon.")
        .now("consentry_build_info{FLEET}", "{{version}} ({{revision}})")
        .text_mode("name");
    let memory = Panel::lines("Memory", "Resident memory of the daemon.")
        .over_time("process_resident_memory_bytes{FLEET} * on (job, instance) group_left () consentry_build_info{FLEET}", "{{instance}}")
        .unit("bytes");
    let cpu = Panel::lines("Processor", "Cores that the daemon keeps busy.")
        .over_time(
            "rate(process_cpu_seconds_total{FLEET}[$__rate_interval]) * on (job, instance) group_left () consentry_build_info{FLEET}",
            "{{instance}}",
        )
        .unit("none");
    let credentials = Panel::table(
        "Credentials that expire first",
        "The next twenty. Client secrets and SAML signing certificates are known where the check credential is enabled; expired ones beside a valid one are leftovers.",
    )
    .now(
        &filled(
            r#"bottomk(20, min by (app, kind, key_id) (consentry_credential_expiry_timestamp_seconds{FLEET, PATTERN}
                * on (job, instance, integration) group_left (app) consentry_integration_info{FLEET, PATTERN, app=~"$app"})) * 1000"#,
        ),
        "",
    )
    .columns(&[("app", "Application"), ("kind", "Kind"), ("key_id", "Id"), ("Value", "Expires")])
    .column("Expires", &[("unit", json!("dateTimeFromNow"))])
    .sorted("Expires", false)
    .nothing("no certificate is configured, and the check credential is off")
    .size(8, 8);
    let panels = [configuration, broken, deliveries, storage, running, version, memory, cpu, credentials];
    [vec![Item::Row("The daemon")], panels.into_iter().map(Item::Panel).collect()].concat()
}
