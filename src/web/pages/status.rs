//! The status page: every integration, what is wrong with it and since when, and the last day. The server searches, filters, sorts and
//! pages, so that the page works without JavaScript and opens quickly with ten thousand integrations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::brake::BrakeLines;
use super::layout::html;
use crate::domain::{Health, HeldMails, Hold, IntegrationRecord, Reason, Timestamp};
use crate::web::filter::{Row, StatusFilter, rows};
use crate::web::state::Served;
use crate::web::wording::{Pill, ReasonLine, Strip, When, state_word};

/// Integrations on one page.
const PAGE: usize = 100;

/// The number of the most common reasons at the top of the page.
const COMMONEST: usize = 5;

/// The orders of the list: value and label.
const SORTS: [(&str, &str); 4] =
    [("", "Broken first"), ("since", "Newest trouble first"), ("name", "By name"), ("app", "By application")];

/// Scripts and styles are our own files; forms stay here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

struct Line<'r> {
    record: &'r IntegrationRecord,
    state: &'static str,
    what: String,
    reason: Option<ReasonLine>,
    since: Option<When>,
    pills: Vec<Pill>,
    strip: Strip,
    last: Option<When>,
    next: Option<When>,
}

struct Choice {
    value: String,
    label: String,
    count: usize,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage<'r> {
    root: &'static str,
    icon: &'static str,
    total: usize,
    broken: usize,
    unknown: usize,
    counts: [(&'static str, &'static str, usize); 3],
    commonest: Vec<(String, String, usize)>,
    /// Number of further reasons.
    more_reasons: usize,
    query: &'r StatusFilter,
    states: Vec<Choice>,
    apps: Vec<Choice>,
    reasons: Vec<Choice>,
    sorts: Vec<Choice>,
    narrowed: bool,
    found: usize,
    lines: Vec<Line<'r>>,
    from: usize,
    to: usize,
    previous: Option<String>,
    following: Option<String>,
    now: When,
    telemetry_path: String,
    trouble: Vec<String>,
    brake: Option<(BrakeLines, String)>,
    readers: Vec<ReaderLine>,
}

/// A directory reader that cannot read.
struct ReaderLine {
    reader: String,
    reason: ReasonLine,
    tenants: usize,
}

/// `/`.
pub(crate) async fn index(
    State(served): State<Arc<Served>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let held = served.process.commands.held().await;
    // Ten thousand rows take some milliseconds, which must not block an async thread.
    let turn = served.process.bodies.turn().await;
    let rendered = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let (wanted, rows, now) = (StatusFilter::of(&query), rows(&served), served.process.clock.now());
        private(html(StatusCode::OK, &page(&served, &wanted, &rows, held, now)))
    });
    rendered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Sets the policy of pages with Consentry's own scripts.
pub(crate) fn private(mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn page<'r>(
    served: &Served,
    wanted: &'r StatusFilter,
    rows: &'r [Row],
    held: Option<(Hold, HeldMails)>,
    now: Timestamp,
) -> StatusPage<'r> {
    let count = |word: &str| rows.iter().filter(|r| state_word(r.health) == word).count();
    let (healthy, broken, unknown) = (count("healthy"), count("broken"), count("unknown"));
    let words: Vec<String> = wanted.q.to_lowercase().split_whitespace().map(str::to_owned).collect();
    let mut found: Vec<&Row> = rows.iter().filter(|row| wanted.admits(row, &words)).collect();
    wanted.sort(&mut found);
    let pages = found.len().div_ceil(PAGE).max(1);
    let number = wanted.page.min(pages);
    let from = (number - 1) * PAGE;
    let lines: Vec<Line<'r>> = found.iter().skip(from).take(PAGE).map(|row| line(served, row, now)).collect();
    let icon = match (broken, unknown) {
        (0, 0) => "healthy",
        (0, _) => "unknown",
        _ => "broken",
    };
    let (commonest, all_reasons) = commonest(rows);
    let apps = rows.iter().map(|r| r.entry.record.app_display_name.to_string());
    let reasons = rows.iter().filter_map(|r| r.reason).map(|r| r.label().to_owned());
    let states =
        [("healthy", "Healthy", healthy), ("broken", "Broken", broken), ("unknown", "Unknown", unknown)]
            .map(|(value, label, count)| (value.to_owned(), label.to_owned(), count));
    StatusPage {
        root: "",
        icon,
        total: rows.len(),
        broken,
        unknown,
        counts: [
            ("healthy", "healthy", healthy),
            ("broken", "broken", broken),
            ("unknown", "not known yet", unknown),
        ],
        more_reasons: all_reasons.saturating_sub(COMMONEST),
        commonest,
        query: wanted,
        states: choices(&wanted.state, states),
        apps: choices(&wanted.app, counted(apps)),
        reasons: choices(&wanted.reason, counted(reasons)),
        sorts: choices(&wanted.sort, SORTS.map(|(value, label)| (value.to_owned(), label.to_owned(), 0))),
        narrowed: wanted.narrows(),
        found: found.len(),
        from: if found.is_empty() { 0 } else { from + 1 },
        to: from + lines.len(),
        lines,
        previous: (number > 1).then(|| wanted.address(number - 1)),
        following: (number < pages).then(|| wanted.address(number + 1)),
        now: When::of(now, now),
        telemetry_path: served.process.options.telemetry_path.trim_start_matches('/').to_owned(),
        trouble: served.process.trouble(),
        brake: held.map(|(hold, held)| (BrakeLines::of(&hold, &held), hold.id)),
        readers: readers(rows),
    }
}

fn line<'r>(served: &Served, row: &'r Row, now: Timestamp) -> Line<'r> {
    let when = |at| When::of(at, now);
    let (what, since) = match (row.health, row.reason) {
        (Health::Broken { reason, since }, _) => (reason.sentence().to_owned(), Some(when(since))),
        (_, Some(reason)) if reason.is_warning() => (format!("Warning: {}", reason.sentence()), None),
        (_, Some(reason)) => (format!("Seen in the last probe: {}", reason.sentence()), None),
        (Health::Unknown { .. }, None) => ("Not probed yet.".to_owned(), None),
        (Health::Working, None) => (String::new(), None),
    };
    Line {
        record: &row.entry.record,
        state: state_word(row.health),
        what,
        reason: row.reason.map(ReasonLine::of),
        since,
        pills: row.entry.outcomes().map(|(check, outcome)| Pill::of(check, outcome)).collect(),
        strip: Strip::of(&row.entry.state.day, now),
        last: row.entry.state.last_probe.map(when),
        next: served.process.commands.next_probe(&row.entry.record.name).map(when),
    }
}

/// The faults of directory readers, and in how many tenants each occurred in the last probe.
fn readers(rows: &[Row]) -> Vec<ReaderLine> {
    let mut faults: BTreeMap<(&str, Reason), BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        if let (Some(reader), Some(reason)) = (&row.entry.record.reader, row.entry.state.reader_fault) {
            faults.entry((reader, reason)).or_default().insert(row.entry.tenant_id());
        }
    }
    faults
        .into_iter()
        .map(|((reader, reason), tenants)| ReaderLine {
            reader: reader.to_owned(),
            reason: ReasonLine::of(reason),
            tenants: tenants.len(),
        })
        .collect()
}

/// Each value, as it is shown, and how often it occurs.
fn counted(values: impl Iterator<Item = String>) -> impl Iterator<Item = (String, String, usize)> {
    let counts = values.fold(BTreeMap::<String, usize>::new(), |mut counts, value| {
        *counts.entry(value).or_default() += 1;
        counts
    });
    counts.into_iter().map(|(value, count)| (value.clone(), value, count))
}

/// The most common reasons of broken integrations: label, sentence, number of integrations; and how many reasons there are.
fn commonest(rows: &[Row]) -> (Vec<(String, String, usize)>, usize) {
    let broken = rows
        .iter()
        .filter_map(|r| if let Health::Broken { reason, .. } = r.health { Some(reason) } else { None });
    let mut counts: Vec<(Reason, usize)> = Vec::new();
    for reason in broken {
        match counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => counts.push((reason, 1)),
        }
    }
    counts.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), reason.label()));
    let all = counts.len();
    let shown = counts
        .into_iter()
        .take(COMMONEST)
        .map(|(reason, count)| (reason.label().to_owned(), reason.sentence().to_owned(), count))
        .collect();
    (shown, all)
}

fn choices(chosen: &str, all: impl IntoIterator<Item = (String, String, usize)>) -> Vec<Choice> {
    all.into_iter()
        .map(|(value, label, count)| Choice { chosen: value == chosen, value, label, count })
        .collect()
}

/// A dot in the color of a state.
pub(crate) async fn favicon(Query(query): Query<HashMap<String, String>>) -> Response {
    let colour = match query.get("state").map(String::as_str) {
        Some("broken") => "#d92d20",
        Some("healthy") => "#12a150",
        _ => "#f0a30a",
    };
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"7\" fill=\"{colour}\"/></svg>"
    );
    ([(CONTENT_TYPE, "image/svg+xml"), (CACHE_CONTROL, "no-cache")], svg).into_response()
}

pub(crate) async fn script() -> Response {
    let headers = [(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, include_str!("../assets/status.js")).into_response()
}

pub(crate) async fn style() -> Response {
    let headers = [(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, include_str!("../assets/status.css")).into_response()
}
