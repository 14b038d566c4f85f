//! The result of a sign-in: the page reloads until every check passes, or says what is still wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::REFRESH;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::layout::{Notice, PageLayout, html};
use crate::clock::moment;
use crate::domain::{Check, Health, Outcome, Remedy, Timestamp};
use crate::reauth::{DeliveryState, SignInStatus};
use crate::web::model::IntegrationSummary;
use crate::web::state::Served;
use crate::web::wording::{advice, question};

/// The `Refresh` header: the page reloads after so many seconds. A header works without JavaScript and is better for screen readers than a
/// `meta` element. The interval grows with the time since the sign-in.
fn refresh_after(elapsed: Duration) -> Option<HeaderValue> {
    match elapsed.as_secs() {
        0..300 => Some(HeaderValue::from_static("4")),
        300..3600 => Some(HeaderValue::from_static("60")),
        _ => None,
    }
}

#[derive(Template)]
#[template(path = "result.html")]
struct ResultPage {
    layout: PageLayout,
    heading: String,
    tone: &'static str,
    paragraphs: Vec<String>,
    checks: Vec<CheckLine>,
    links: Vec<(&'static str, String)>,
    notes: Vec<String>,
    again: bool,
}

struct CheckLine {
    question: &'static str,
    mark: &'static str,
    tone: &'static str,
    answer: &'static str,
    why: Option<String>,
}

pub(crate) async fn result(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let attempt = query.get("attempt").map_or("", String::as_str);
    let layout = PageLayout { root: "../../", support: served.support.clone() };
    let sign_in = match &served.reauthentication {
        Some(reauthentication) => {
            reauthentication.sign_in_status(&name, attempt).await.map(|s| (s, reauthentication))
        }
        None => None,
    };
    let (Some(((sign_in, since), reauthentication)), Some(summary)) = (sign_in, served.summary(&name)) else {
        let text =
            "Results are shown for a day after a sign-in. If the integration breaks again, a new mail contains a new link.".to_owned();
        let page = Notice {
            layout,
            title: "This result is no longer available",
            paragraphs: vec![text],
            ..Notice::default()
        };
        return html(StatusCode::GONE, &page);
    };
    let delivery = reauthentication.delivery(&name).await.filter(|d| d.created >= since);
    let page = page(layout, &summary, sign_in, since, delivery.as_ref());
    let again = refresh_after(served.process.clock.now().since(since)).filter(|_| page.again);
    let mut response = html(StatusCode::OK, &page);
    if let Some(again) = again {
        response.headers_mut().insert(REFRESH, again);
    }
    response
}

/// Shown when the tenant had granted everything before the sign-in.
const UNCHANGED: &str = "All permissions had been granted already, so accepting them has changed nothing. Your link was not used up: it stays good.";

/// Shown while Microsoft has asked for a pause for the tenant (Retry-After, RFC 9110 section 10.2.3).
fn pause(until: Timestamp) -> String {
    format!(
        "Microsoft has asked for a pause until {}. Consentry asks again automatically then; you need not wait here.",
        moment(until)
    )
}

/// The state of the integration since the sign-in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Green,
    StillWrong,
}

fn page(
    layout: PageLayout,
    summary: &IntegrationSummary,
    sign_in: SignInStatus,
    since: Timestamp,
    delivery: Option<&DeliveryState>,
) -> ResultPage {
    let probed = summary.last_probe.is_some_and(|at| at >= since);
    let checks: Vec<CheckLine> =
        summary.checks.iter().map(|(check, outcome)| line(*check, *outcome, probed)).collect();
    let phase = phase(summary, sign_in, probed);
    let (app, customer) = (&summary.app, &summary.display_name);
    let mut page = ResultPage {
        layout,
        heading: String::new(),
        tone: "wait",
        paragraphs: Vec::new(),
        checks,
        links: Vec::new(),
        notes: Vec::new(),
        again: phase == Phase::Waiting,
    };
    match phase {
        Phase::Green => {
            (page.heading, page.tone) = (format!("{app} works again for {customer}"), "good");
            page.paragraphs.push("Thank you. Everything is green again.".to_owned());
            page.paragraphs.extend((sign_in == SignInStatus::Unchanged).then(|| UNCHANGED.to_owned()));
            if matches!(summary.health, Health::Broken { .. }) {
                page.paragraphs.push("It is watched a little longer before it counts as fixed.".to_owned());
            }
            add_delivery(&mut page, app, delivery);
        }
        Phase::Waiting => {
            page.heading = format!("{app} is being checked for {customer}");
            page.paragraphs.push(
                "You are done. Microsoft needs up to two minutes until a new consent is known everywhere."
                    .to_owned(),
            );
            page.notes.push(
                "This page updates itself. You may also close it: you will get the result by mail."
                    .to_owned(),
            );
            page.paragraphs.extend(summary.waits_until.map(pause));
        }
        Phase::StillWrong => still_wrong(&mut page, summary, sign_in, delivery),
    }
    page.notes.push("The provisioning set-up and the SCIM token in Entra were not touched.".to_owned());
    page
}

/// Failures are not shown while probes that verify the sign-in are still pending.
fn phase(summary: &IntegrationSummary, sign_in: SignInStatus, probed: bool) -> Phase {
    let green = probed && summary.checks.iter().all(|(_, outcome)| *outcome == Outcome::Pass);
    match sign_in {
        SignInStatus::Verifying => Phase::Waiting,
        _ if green => Phase::Green,
        SignInStatus::Renewed if summary.verifying || !probed => Phase::Waiting,
        SignInStatus::Renewed
        | SignInStatus::Unchanged
        | SignInStatus::Incomplete
        | SignInStatus::WrongTenant
        | SignInStatus::Unclear => Phase::StillWrong,
    }
}

/// Adds the delivery of the token to the product. The integration works for the product only when the product has the new token.
fn add_delivery(page: &mut ResultPage, app: &str, delivery: Option<&DeliveryState>) {
    if let Some(delivery) = delivery {
        if delivery.delivered.is_none() {
            (page.tone, page.again) = ("wait", true);
            page.heading = format!("Almost there: {app} has yet to take over the new sign-in");
            page.paragraphs = vec!["You are done, and Microsoft grants everything again.".to_owned()];
        }
        page.paragraphs.push(delivery_sentence(app, delivery));
    }
    if !page.again {
        page.notes.push("You can close this page.".to_owned());
    }
}

fn delivery_sentence(app: &str, delivery: &DeliveryState) -> String {
    match (delivery.delivered, delivery.attempts) {
        (Some(at), _) => format!("{app} has taken over the new sign-in ({}).", moment(at)),
        (None, 0) => format!("The new sign-in is being handed to {app}."),
        (None, attempts) => format!(
            "{app} could not take it yet (attempts so far: {attempts}, the next one: {}). Consentry tries again automatically until it succeeds; nothing is lost, and you need not wait.",
            moment(delivery.due)
        ),
    }
}

fn still_wrong(
    page: &mut ResultPage,
    summary: &IntegrationSummary,
    sign_in: SignInStatus,
    delivery: Option<&DeliveryState>,
) {
    page.tone = "bad";
    page.heading = format!("Something is still wrong with {} for {}", summary.app, summary.display_name);
    page.paragraphs.push(match sign_in {
        SignInStatus::WrongTenant => format!(
            "The permissions were accepted for another organization. The organization of this integration has the tenant {}; open the link from the mail again and sign in there.",
            summary.tenant
        ),
        SignInStatus::Incomplete => "Microsoft does not show the permissions as granted, although they were accepted. Open the link from the mail again, and let an administrator accept all of them.".to_owned(),
        SignInStatus::Unclear => "Microsoft could not be asked whether the permissions are granted now. The integration is checked again by itself; if it stays broken, open the link from the mail again.".to_owned(),
        SignInStatus::Unchanged => UNCHANGED.to_owned(),
        SignInStatus::Verifying | SignInStatus::Renewed => "Your sign-in succeeded, but not everything works yet.".to_owned(),
    });
    page.paragraphs.extend(summary.waits_until.map(pause));
    if let Some(delivery) = delivery {
        page.paragraphs.push(delivery_sentence(&summary.app, delivery));
        page.again = delivery.delivered.is_none();
    }
    let reason = summary.checks.iter().find_map(|(_, outcome)| outcome.reason());
    if let Some(reason) = reason {
        page.paragraphs.push(reason.sentence().to_owned());
        page.paragraphs.extend(advice(reason, &summary.app));
    }
    let about_consent = reason.is_some_and(|r| r.is_consent());
    if let (Some(url), true) = (&summary.record.admin_consent, about_consent) {
        page.paragraphs
            .push("Some of the permissions can only be accepted by an administrator on a second page of Microsoft’s:".to_owned());
        page.links.push(("Accept the permissions at Microsoft", url.clone()));
    }
    // This page never contains a new link: its address proves nothing, and the link that began the sign-in is
    // no longer valid.
    if sign_in == SignInStatus::Renewed && reason.is_some_and(|r| r.remedy() == Remedy::Reauthenticate) {
        page.paragraphs.push(
            "Your link ended with this sign-in. For another try, for example with another account, wait for the next mail about this integration, or ask whoever sent you the link for a new one.".to_owned(),
        );
    }
}

fn line(check: Check, outcome: Outcome, probed: bool) -> CheckLine {
    let question = question(check);
    let why = outcome.reason().map(|r| r.sentence().to_owned());
    let (mark, tone, answer, why) = match outcome {
        _ if !probed => ("…", "wait", "Being checked", None),
        Outcome::Pass => ("✓", "good", "Yes", None),
        Outcome::Fail(_) => ("✗", "bad", "No", why),
        Outcome::Unknown(_) => ("?", "wait", "Not known yet", why),
    };
    CheckLine { question, mark, tone, answer, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{IntegrationRecord, Reason};

    fn summary_of(outcome: Outcome, probed: Option<i64>) -> IntegrationSummary {
        IntegrationSummary {
            display_name: "Contoso".to_owned(),
            app: "Sequr".to_owned(),
            tenant: "contoso.example".to_owned(),
            record: Arc::new(IntegrationRecord::example("contoso")),
            health: Health::Working,
            verifying: false,
            waits_until: None,
            checks: vec![(Check::Consent, outcome)],
            last_probe: probed.map(Timestamp::from_seconds),
        }
    }

    #[test]
    fn the_page_reloads_until_all_checks_pass_or_a_failure_is_final() {
        let (pass, fail, group) =
            (Outcome::Pass, Outcome::Fail(Reason::ConsentMissing), Outcome::Fail(Reason::GroupMissing));
        for (sentence, outcome, probed, verifying, sign_in, again, heading) in [
            ("before the first probe", pass, None, true, SignInStatus::Renewed, true, "is being checked"),
            ("green", pass, Some(101), false, SignInStatus::Renewed, false, "works again"),
            ("consent propagates", fail, Some(101), true, SignInStatus::Renewed, true, "is being checked"),
            ("consent never arrived", fail, Some(230), false, SignInStatus::Renewed, false, "still wrong"),
            (
                "another failure, while probes are pending",
                group,
                Some(101),
                true,
                SignInStatus::Renewed,
                true,
                "is being checked",
            ),
            ("another failure", group, Some(230), false, SignInStatus::Renewed, false, "still wrong"),
            (
                "the tenant is being verified",
                pass,
                Some(101),
                true,
                SignInStatus::Verifying,
                true,
                "is being checked",
            ),
            (
                "the tenant grants too little",
                fail,
                Some(230),
                false,
                SignInStatus::Incomplete,
                false,
                "still wrong",
            ),
            (
                "the tenant cannot be asked",
                fail,
                Some(230),
                false,
                SignInStatus::Unclear,
                false,
                "still wrong",
            ),
            ("fixed later", pass, Some(500), false, SignInStatus::Incomplete, false, "works again"),
            ("all was granted before", pass, Some(101), false, SignInStatus::Unchanged, false, "works again"),
            (
                "all was granted before, and another check fails",
                group,
                Some(101),
                true,
                SignInStatus::Unchanged,
                false,
                "still wrong",
            ),
        ] {
            let summary = IntegrationSummary { verifying, ..summary_of(outcome, probed) };
            let page = page(PageLayout::default(), &summary, sign_in, Timestamp::from_seconds(100), None);
            assert_eq!(
                (page.again, page.heading.contains(heading)),
                (again, true),
                "{sentence}: {}",
                page.heading
            );
            let ended = page.paragraphs.iter().any(|p| p.contains("Your link ended with this sign-in"));
            assert_eq!(ended, sentence == "consent never arrived", "{sentence}");
            let stays = page.paragraphs.iter().any(|p| p == UNCHANGED);
            assert_eq!(stays, sign_in == SignInStatus::Unchanged, "{sentence}");
            assert!(page.links.is_empty(), "{sentence}: the page contains no new link");
        }
        let waits_until = Some(Timestamp::from_seconds(4000));
        let paused = IntegrationSummary { verifying: true, waits_until, ..summary_of(fail, Some(101)) };
        let page =
            page(PageLayout::default(), &paused, SignInStatus::Renewed, Timestamp::from_seconds(100), None);
        assert!(
            page.paragraphs.iter().any(|p| p.contains("a pause until 1 January 1970, 01:06 UTC")),
            "{:?}",
            page.paragraphs
        );
    }

    #[test]
    fn the_page_reloads_until_the_product_has_the_token() {
        let delivery = |delivered: Option<i64>, attempts| DeliveryState {
            created: Timestamp::from_seconds(100),
            delivered: delivered.map(Timestamp::from_seconds),
            attempts,
            due: Timestamp::from_seconds(110),
            failure: None,
        };
        for (sentence, delivery, again, words) in [
            ("not attempted yet", delivery(None, 0), true, "is being handed"),
            ("rejected so far", delivery(None, 3), true, "could not take it yet"),
            ("delivered", delivery(Some(105), 4), false, "has taken over"),
        ] {
            let page = page(
                PageLayout::default(),
                &summary_of(Outcome::Pass, Some(101)),
                SignInStatus::Renewed,
                Timestamp::from_seconds(100),
                Some(&delivery),
            );
            assert_eq!((page.again, page.paragraphs.join(" ").contains(words)), (again, true), "{sentence}");
        }
    }
}
