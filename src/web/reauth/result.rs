//! How a sign-in went: the page follows the probes until everything is green, or says what is still wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::REFRESH;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::Standing;
use crate::clock::moment;
use crate::domain::{Check, Outcome, Remedy, Timestamp};
use crate::reauth::{DeliveryState, Standing as SignIn};
use crate::web::server::Served;
use crate::web::shell::{Notice, Shell, html};

/// The last probe of a proof starts two minutes after the sign-in; what it says is known shortly after.
const PATIENCE: Duration = Duration::from_secs(150);

/// The page looks again after so many seconds, by a header: that works without JavaScript, and screen readers are spared a `meta`.
const LOOK_AGAIN: HeaderValue = HeaderValue::from_static("4");

#[derive(Template)]
#[template(path = "result.html")]
struct ResultPage {
    shell: Shell,
    heading: String,
    mood: &'static str,
    paragraphs: Vec<String>,
    checks: Vec<CheckLine>,
    links: Vec<(&'static str, String)>,
    notes: Vec<String>,
    again: bool,
}

struct CheckLine {
    question: &'static str,
    mark: &'static str,
    mood: &'static str,
    answer: &'static str,
    why: Option<String>,
}

pub(super) async fn result(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let attempt = query.get("attempt").map_or("", String::as_str);
    let sign_in = match &served.reauthentication {
        Some(reauthentication) => reauthentication.standing(&name, attempt).await.map(|s| (s, reauthentication)),
        None => None,
    };
    let (Some(((sign_in, since), reauthentication)), Some(standing)) = (sign_in, (served.monitor.find)(&name)) else {
        let text =
            "Results are shown for a day after a sign-in. Should the integration break again, a new mail brings a new link.".to_owned();
        let shell = Shell { root: "../../", support: served.support.clone() };
        let page = Notice { shell, title: "There is nothing to see here any more", paragraphs: vec![text], ..Notice::default() };
        return html(StatusCode::GONE, &page);
    };
    let delivery = reauthentication.delivery(&name).await.filter(|d| d.created >= since);
    let shell = Shell { root: "../../", support: served.support.clone() };
    let page = page(shell, &standing, sign_in, since, delivery.as_ref(), served.clock.now());
    let mut response = html(StatusCode::OK, &page);
    if page.again {
        response.headers_mut().insert(REFRESH, LOOK_AGAIN);
    }
    response
}

/// What is known of the integration since the sign-in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Green,
    StillWrong,
}

fn page(
    shell: Shell,
    standing: &Standing,
    sign_in: SignIn,
    since: Timestamp,
    delivery: Option<&DeliveryState>,
    now: Timestamp,
) -> ResultPage {
    let probed = standing.last_probe.is_some_and(|at| at >= since);
    let checks: Vec<CheckLine> = standing.checks.iter().map(|(check, outcome)| line(*check, *outcome, probed)).collect();
    let phase = phase(standing, sign_in, probed, now.since(since));
    let (app, customer) = (&standing.app, &standing.display_name);
    let mut page = ResultPage {
        shell,
        heading: String::new(),
        mood: "wait",
        paragraphs: Vec::new(),
        checks,
        links: Vec::new(),
        notes: Vec::new(),
        again: phase == Phase::Waiting,
    };
    match phase {
        Phase::Green => {
            (page.heading, page.mood) = (format!("{app} works again for {customer}"), "good");
            page.paragraphs.push("Thank you. Everything is green again.".to_owned());
            if standing.broken.is_some() {
                page.paragraphs.push("It is watched a little longer before it counts as mended.".to_owned());
            }
            tell_delivery(&mut page, app, delivery);
        }
        Phase::Waiting => {
            page.heading = format!("{app} is being checked for {customer}");
            page.paragraphs.push("You are done. Microsoft needs up to two minutes until a new consent is known everywhere.".to_owned());
            page.notes.push("This page follows by itself. You may also close it: a mail will tell you how it went.".to_owned());
        }
        Phase::StillWrong => still_wrong(&mut page, standing, sign_in),
    }
    page.notes.push("The provisioning set-up and the SCIM token in Entra were not touched.".to_owned());
    page
}

fn phase(standing: &Standing, sign_in: SignIn, probed: bool, elapsed: Duration) -> Phase {
    let failing = standing.checks.iter().filter_map(|(_, outcome)| outcome.reason());
    match sign_in {
        SignIn::Incomplete | SignIn::WrongTenant => Phase::StillWrong,
        SignIn::Renewed if probed && standing.checks.iter().all(|(_, outcome)| *outcome == Outcome::Pass) => Phase::Green,
        // What no sign-in can mend is said at once.
        SignIn::Renewed if probed && failing.clone().any(|r| !matches!(r.remedy(), Remedy::Reauthenticate | Remedy::Wait)) => {
            Phase::StillWrong
        }
        _ if elapsed >= PATIENCE => Phase::StillWrong,
        _ => Phase::Waiting,
    }
}

/// The integration is mended for the product only when it has the new token.
fn tell_delivery(page: &mut ResultPage, app: &str, delivery: Option<&DeliveryState>) {
    let Some(delivery) = delivery else {
        page.notes.push("You can close this page.".to_owned());
        return;
    };
    if let Some(at) = delivery.delivered {
        page.paragraphs.push(format!("{app} has taken over the new sign-in ({}).", moment(at)));
        page.notes.push("You can close this page.".to_owned());
        return;
    }
    (page.mood, page.again) = ("wait", true);
    page.heading = format!("Almost there: {app} has yet to take over the new sign-in");
    page.paragraphs = vec!["You are done, and Microsoft grants everything again.".to_owned()];
    page.paragraphs.push(match delivery.attempts {
        0 => format!("The new sign-in is being handed to {app}."),
        _ => format!("{app} could not take it yet. It is tried again by itself until it does; nothing is lost, and you need not wait."),
    });
}

fn still_wrong(page: &mut ResultPage, standing: &Standing, sign_in: SignIn) {
    page.mood = "bad";
    page.heading = format!("Something is still wrong with {} for {}", standing.app, standing.display_name);
    match sign_in {
        SignIn::WrongTenant => page.paragraphs.push(format!(
            "The permissions were accepted for another organization. The organization of this integration has the tenant {}; open the link from the mail again and sign in there.",
            standing.tenant
        )),
        SignIn::Incomplete => page.paragraphs.push(
            "Microsoft does not show the permissions as granted, although they were accepted. Open the link from the mail again, and let an administrator accept all of them.".to_owned(),
        ),
        SignIn::Verifying | SignIn::Renewed => page.paragraphs.push("Your sign-in is fine and has been stored, but:".to_owned()),
    }
    let reason = standing.checks.iter().find_map(|(_, outcome)| outcome.reason());
    if let Some(reason) = reason {
        page.paragraphs.extend([reason.sentence().to_owned(), reason.advice().to_owned()]);
    }
    let about_consent = reason.is_some_and(|r| r.is_consent());
    if let (Some(url), true) = (&standing.admin_consent, about_consent) {
        page.paragraphs
            .push("Some of the permissions can only be accepted by an administrator on a second page of Microsoft’s:".to_owned());
        page.links.push(("Accept the permissions at Microsoft", url.clone()));
    }
}

fn line(check: Check, outcome: Outcome, probed: bool) -> CheckLine {
    let question = match check {
        Check::EnterpriseApp => "The enterprise application is present and enabled.",
        Check::Consent => "The permissions are granted.",
        Check::GroupAccess => "The groups can be read.",
        Check::Provisioning => "Provisioning is running.",
        Check::Credential => "No credential is about to expire.",
    };
    let why = outcome.reason().map(|r| r.sentence().to_owned());
    let (mark, mood, answer, why) = match outcome {
        _ if !probed => ("…", "wait", "Being checked", None),
        Outcome::Pass => ("✓", "good", "Yes", None),
        Outcome::Fail(_) => ("✗", "bad", "No", why),
        Outcome::Unknown(_) => ("?", "wait", "Not known yet", why),
    };
    CheckLine { question, mark, mood, answer, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Access, Reason};

    fn standing(outcome: Outcome, probed: Option<i64>) -> Standing {
        Standing {
            display_name: "Contoso".to_owned(),
            app: "Sequr".to_owned(),
            tenant: "contoso.example".to_owned(),
            access: Access::Delegated,
            permissions: Vec::new(),
            elsewhere: None,
            admin_consent: None,
            broken: None,
            checks: vec![(Check::Consent, outcome)],
            last_probe: probed.map(Timestamp::from_seconds),
        }
    }

    #[test]
    fn the_page_follows_until_it_is_green_or_says_what_is_wrong() {
        let (pass, fail) = (Outcome::Pass, Outcome::Fail(Reason::ConsentMissing));
        let group = Outcome::Fail(Reason::GroupMissing);
        for (sentence, outcome, probed, sign_in, seconds, again, heading) in [
            ("before the first probe", pass, Some(90), SignIn::Renewed, 1, true, "is being checked"),
            ("green", pass, Some(101), SignIn::Renewed, 2, false, "works again"),
            ("consent spreads", fail, Some(101), SignIn::Renewed, 20, true, "is being checked"),
            ("it never came", fail, Some(230), SignIn::Renewed, 151, false, "still wrong"),
            ("no sign-in mends that", group, Some(101), SignIn::Renewed, 2, false, "still wrong"),
            ("the tenant is looked at", pass, Some(101), SignIn::Verifying, 2, true, "is being checked"),
            ("the tenant grants too little", fail, Some(230), SignIn::Incomplete, 130, false, "still wrong"),
        ] {
            let page = page(
                Shell::default(),
                &standing(outcome, probed),
                sign_in,
                Timestamp::from_seconds(100),
                None,
                Timestamp::from_seconds(100 + seconds),
            );
            assert_eq!((page.again, page.heading.contains(heading)), (again, true), "{sentence}: {}", page.heading);
        }
    }

    #[test]
    fn the_product_comes_last() {
        let delivery = |delivered: Option<i64>, attempts| DeliveryState {
            created: Timestamp::from_seconds(100),
            delivered: delivered.map(Timestamp::from_seconds),
            attempts,
            due: Timestamp::from_seconds(110),
            failure: None,
        };
        for (sentence, delivery, again, words) in [
            ("on its way", delivery(None, 0), true, "is being handed"),
            ("refused so far", delivery(None, 3), true, "could not take it yet"),
            ("taken", delivery(Some(105), 4), false, "has taken over"),
        ] {
            let now = Timestamp::from_seconds(106);
            let page = page(
                Shell::default(),
                &standing(Outcome::Pass, Some(101)),
                SignIn::Renewed,
                Timestamp::from_seconds(100),
                Some(&delivery),
                now,
            );
            assert_eq!((page.again, page.paragraphs.join(" ").contains(words)), (again, true), "{sentence}");
        }
    }
}
