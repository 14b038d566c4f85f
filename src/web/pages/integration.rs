//! The page of one integration: checks with evidence and advice, permissions, the token, events and mails; and two buttons.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::layout::{Notice, PageLayout, html};
use super::not_found::not_found;
use super::status::private;
use crate::clock::{ago, moment};
use crate::domain::{
    Audience, Check, CheckState, CredentialState, Health, JobState, Outcome, Reason, Timestamp,
};
use crate::fleet::FleetEntry;
use crate::reauth::DeliveryState;
use crate::web::access::Who;
use crate::web::commands::{CredentialRecord, MailRecord, Record, Records};
use crate::web::events::event_words;
use crate::web::state::Served;
use crate::web::wording::{
    Pill, ReasonLine, Strip, When, advice, noted_checks, operators_advice, resolved_tenant, result_headline,
    state_word,
};

struct CheckLine {
    pill: Pill,
    headline: String,
    sentence: Option<&'static str>,
    reason: Option<ReasonLine>,
    advice: Option<String>,
    evidence: Vec<(&'static str, String)>,
    since: When,
    last_success: Option<When>,
}

struct CredentialLine {
    label: String,
    kind: &'static str,
    expires: Option<When>,
    expired: bool,
}

/// A credential that Entra lists.
struct ListedLine<'d> {
    kind: &'static str,
    /// The name, or the id where there is none.
    name: &'d str,
    key_id: &'d str,
    reader: Option<&'d str>,
    expires: Option<When>,
    in_use: bool,
    standing: &'static str,
}

struct JobLine<'d> {
    id: &'d str,
    quarantined: bool,
    last_success: Option<When>,
}

struct EventLine {
    what: String,
    at: When,
}

struct MailLine {
    kind: String,
    recipient: String,
    created: When,
    fate: String,
}

#[derive(Template)]
#[template(path = "integration.html")]
struct IntegrationPage<'d> {
    root: &'static str,
    name: &'d str,
    icon: &'static str,
    entry: &'d FleetEntry,
    tenant_guid: Option<&'d str>,
    headline: String,
    since: Option<When>,
    reason: Option<ReasonLine>,
    reader: Option<ReasonLine>,
    waits_until: Option<When>,
    snoozed_until: Option<When>,
    checks: Vec<CheckLine>,
    strip: Strip,
    last: Option<When>,
    took: String,
    next: Option<When>,
    token: Option<(String, When, Option<String>)>,
    token_file: Option<String>,
    delivery: Option<String>,
    credentials: Vec<CredentialLine>,
    listed: Vec<ListedLine<'d>>,
    jobs: Vec<JobLine<'d>>,
    events: Vec<EventLine>,
    mails: Vec<MailLine>,
    mail_counts: String,
    now: When,
    telemetry_path: String,
}

/// `/integrations/NAME`.
pub(crate) async fn integration(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let Some(entry) = served.entry(&name) else { return not_found(uri).await };
    let records = served.process.history.records(&name).await;
    let delivery = match &served.reauthentication {
        Some(reauthentication) => reauthentication.delivery(&name).await,
        None => None,
    };
    let page = page(&served, &entry, records, delivery, served.process.clock.now());
    private(html(StatusCode::OK, &page))
}

fn page<'d>(
    served: &Served,
    entry: &'d FleetEntry,
    records: Records,
    delivery: Option<DeliveryState>,
    now: Timestamp,
) -> IntegrationPage<'d> {
    let when = |at| When::of(at, now);
    let (record, state, health) = (&entry.record, &entry.state, entry.health());
    let checks = noted_checks(entry);
    let since = if let Health::Broken { since, .. } = health { Some(when(since)) } else { None };
    let events = records
        .events
        .into_iter()
        .map(|(kind, at, detail)| EventLine { what: event_words(&kind, &detail), at: when(at) });
    let mail_counts = mail_counts(&records.mails);
    let mails = records.mails.into_iter().map(|mail| MailLine {
        fate: fate(&mail, now),
        kind: mail.kind,
        recipient: mail.recipient,
        created: when(mail.created),
    });
    IntegrationPage {
        root: "../",
        name: &record.name,
        icon: state_word(health),
        headline: headline(entry),
        since,
        reason: if let Health::Broken { reason, .. } = health { Some(ReasonLine::of(reason)) } else { None },
        reader: state.reader_fault.map(ReasonLine::of),
        checks: check_lines(&checks, &record.app_display_name, now),
        strip: Strip::of(&state.day, now),
        last: state.last_probe.map(when),
        took: match state.duration.as_millis() {
            0 => "less than 1 ms".to_owned(),
            ms => format!("{ms} ms"),
        },
        next: served.process.commands.next_probe(&record.name).map(when),
        snoozed_until: entry.snooze.as_ref().map(|snooze| when(snooze.until)),
        waits_until: served.process.commands.paused_until(&record.name).map(when),
        token: records.token.map(|(source, at, by)| (source, when(at), by)),
        token_file: records.token_file,
        delivery: delivery.map(|d| delivery_words(&d, now)),
        credentials: records.credentials.into_iter().map(|c| credential_line(c, now)).collect(),
        listed: state.credentials.iter().map(|c| listed_line(c, now)).collect(),
        jobs: state.jobs.iter().map(|job| job_line(job, now)).collect(),
        events: events.collect(),
        mail_counts,
        mails: mails.collect(),
        now: when(now),
        tenant_guid: resolved_tenant(entry),
        entry,
        telemetry_path: format!("../{}", served.process.options.telemetry_path.trim_start_matches('/')),
    }
}

/// The headline. It never says that all checks pass while a check is unknown.
fn headline(entry: &FleetEntry) -> String {
    let checks = || entry.record.checks.iter().filter_map(|c| entry.state.check(*c));
    let (unknown, failing): (Vec<&CheckState>, Vec<&CheckState>) = {
        let mut not_passing: Vec<&CheckState> = checks().filter(|c| c.outcome != Outcome::Pass).collect();
        // A failure is named before a warning.
        not_passing.sort_by_key(|c| c.outcome.works());
        not_passing.into_iter().partition(|c| matches!(c.outcome, Outcome::Unknown(_)))
    };
    match (entry.health(), failing.first().and_then(|c| c.outcome.reason())) {
        (Health::Broken { reason, .. }, _) => reason.sentence().to_owned(),
        (Health::Working, Some(reason)) if reason.is_warning() => {
            format!("All checks pass, with a warning: {}", reason.sentence())
        }
        (_, Some(reason)) => {
            format!("Seen in the last probe: {} It is confirmed when it is seen again.", reason.sentence())
        }
        (Health::Working, None) => "All checks pass.".to_owned(),
        (Health::Unknown { .. }, None) if checks().next().is_none() => "Not probed yet.".to_owned(),
        (Health::Unknown { .. }, None) => {
            let never_run = entry.never_run().map(Check::title);
            let names: Vec<&str> = unknown.iter().map(|c| c.check.title()).chain(never_run).collect();
            format!("Not known now: {}.", names.join(", "))
        }
    }
}

/// The delivery of the renewed token to the product.
fn delivery_words(state: &DeliveryState, now: Timestamp) -> String {
    match (state.delivered, &state.failure) {
        (Some(at), _) => format!("delivered {}", ago(at, now)),
        (None, None) => "being delivered".to_owned(),
        (None, Some(failure)) => {
            format!("not delivered yet, attempts so far: {}. The last one: {failure}", state.attempts)
        }
    }
}

fn credential_line(credential: CredentialRecord, now: Timestamp) -> CredentialLine {
    let label =
        credential.reader.map_or_else(|| "Credential".to_owned(), |reader| format!("Credential of {reader}"));
    let expired = credential.expires.is_some_and(|at| at <= now);
    CredentialLine {
        label,
        kind: credential.kind,
        expires: credential.expires.map(|at| When::of(at, now)),
        expired,
    }
}

fn listed_line(credential: &CredentialState, now: Timestamp) -> ListedLine<'_> {
    ListedLine {
        kind: credential.kind.words(),
        name: credential.name.as_deref().unwrap_or(&credential.key_id),
        key_id: &credential.key_id,
        reader: credential.reader.as_deref(),
        expires: credential.ends.map(|at| When::of(at, now)),
        in_use: credential.in_use,
        standing: credential.standing.word(),
    }
}

fn job_line(job: &JobState, now: Timestamp) -> JobLine<'_> {
    JobLine {
        id: &job.id,
        quarantined: job.quarantined,
        last_success: job.last_success.map(|at| When::of(at, now)),
    }
}

/// The checks. The texts of a reason are shown once, at the first check that has it.
fn check_lines(checks: &[CheckState], app: &str, now: Timestamp) -> Vec<CheckLine> {
    let repeated = |index: usize| {
        let reason = checks[index].outcome.reason();
        reason.is_some() && checks[..index].iter().any(|earlier| earlier.outcome.reason() == reason)
    };
    checks.iter().enumerate().map(|(index, state)| check_line(state, repeated(index), app, now)).collect()
}

fn check_line(state: &CheckState, repeated: bool, app: &str, now: Timestamp) -> CheckLine {
    let reason = state.outcome.reason();
    let details = &state.details;
    let mut evidence = Vec::new();
    if !repeated {
        let separator =
            if matches!(state.check, Check::Provisioning | Check::Credential) { "; " } else { ", " };
        evidence.extend((!details.items.is_empty()).then(|| ("About", details.items.join(separator))));
        evidence.extend(details.restorable_until.map(|until| ("Can be restored until", moment(until))));
    }
    evidence.extend(details.code.clone().map(|code| ("Code", code)));
    evidence.extend(details.request_id.clone().map(|id| ("Request id", id)));
    evidence.extend(details.note.clone().map(|note| ("Note", note)));
    // Operators read this page, too, so it also shows advice for them.
    let what_to_do = |r: Reason| match (r, r.audience()) {
        (Reason::ProvisioningQuarantined, _) | (_, Audience::Operators) => {
            operators_advice(state, r).to_owned()
        }
        (_, Audience::Admins) => advice(r, app).unwrap_or_else(|| r.advice().to_owned()),
    };
    CheckLine {
        pill: Pill::of(state.check, state.outcome),
        headline: result_headline(state.check, state.outcome, repeated),
        reason: reason.map(ReasonLine::of),
        // A failure's is the headline.
        sentence: reason
            .filter(|_| !repeated && matches!(state.outcome, Outcome::Unknown(_)))
            .map(Reason::sentence),
        advice: reason.filter(|_| !repeated).map(what_to_do),
        evidence,
        since: When::of(state.since, now),
        last_success: state.last_success.map(|at| When::of(at, now)),
    }
}

/// What has become of a mail.
fn fate(mail: &MailRecord, now: Timestamp) -> String {
    let state = match (mail.sent, mail.given_up) {
        (Some(at), _) => return format!("sent {}", ago(at, now)),
        (None, true) => "given up",
        (None, false) => mail.waits,
    };
    mail.problem.as_ref().map_or_else(|| state.to_owned(), |problem| format!("{state}: {problem}"))
}

/// How many of the mails that are shown are in which state.
fn mail_counts(mails: &[MailRecord]) -> String {
    let (mut sent, mut given_up, mut held, mut queued) = (0, 0, 0, 0);
    for mail in mails {
        match (mail.sent, mail.given_up, mail.held) {
            (Some(_), ..) => sent += 1,
            (None, true, _) => given_up += 1,
            (None, false, true) => held += 1,
            (None, false, false) => queued += 1,
        }
    }
    format!("{queued} queued, {held} held, {sent} sent, {given_up} given up")
}

/// The button that probes now.
pub(crate) async fn probe(State(served): State<Arc<Served>>, Path(name): Path<String>, uri: Uri) -> Response {
    if served.entry(&name).is_none() {
        return not_found(uri).await;
    }
    served.process.commands.probe_soon(&name);
    let Ok(back) = HeaderValue::from_str(&format!("../{name}")) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    (StatusCode::SEE_OTHER, [(LOCATION, back)]).into_response()
}

/// The button that makes a new link. The link is shown only after the event has been saved, so that its maker is always known.
pub(crate) async fn link(
    State(served): State<Arc<Served>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let layout = PageLayout { root: "../../", support: None };
    let link = match &served.reauthentication {
        Some(reauthentication) => reauthentication.fresh_link(&name).await,
        None => Ok(None),
    };
    let Ok(link) = link else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    match (link, served.entry(&name)) {
        (Some(link), Some(entry)) => {
            let who = who.to_string();
            if !served
                .process
                .history
                .keep(Record { integration: name.clone(), kind: "link_made", detail: who.clone() })
                .await
            {
                let paragraphs = vec![
                    "The link could not be recorded, so it was not made. Nothing has been changed."
                        .to_owned(),
                ];
                let page =
                    Notice { layout, title: "Please try again later", paragraphs, ..Notice::default() };
                return html(StatusCode::SERVICE_UNAVAILABLE, &page);
            }
            tracing::info!(integration = name, who, "a re-authentication link was made on the page");
            let paragraphs = vec![format!(
                "Give it to an administrator of {}. Whoever has it can start a sign-in for {}, so send it to nobody else. It ends with the first success.",
                entry.record.tenant, entry.record.display_name
            )];
            let page =
                Notice { layout, title: "A fresh link", paragraphs, items: vec![link], ..Notice::default() };
            html(StatusCode::OK, &page)
        }
        (None, Some(_)) => {
            let paragraphs =
                vec!["reauthentication.public_url is not configured; links start with it.".to_owned()];
            html(
                StatusCode::CONFLICT,
                &Notice { layout, title: "There are no links", paragraphs, ..Notice::default() },
            )
        }
        _ => not_found(uri).await,
    }
}
