//! The history of the fleet: which events a page or a response of the API lists, and what they mean in words.

use std::collections::HashMap;

use super::commands::EventQuery;
use super::state::Served;
use crate::domain::{Reason, Timestamp};

/// Kinds of events, and what happened in words.
pub(super) const KINDS: [(&str, &str); 14] = [
    ("broken", "broken"),
    ("changed", "broken for another reason"),
    ("recovered", "working again"),
    ("reauthenticated", "re-authenticated"),
    ("link_made", "link made"),
    ("links_revoked", "links ended"),
    ("token_stored", "token stored"),
    ("token_delivered", "token delivered"),
    ("snoozed", "reminders snoozed"),
    ("snooze_ended", "snooze ended"),
    ("brake_held", "mails held"),
    ("brake_released", "mails released"),
    ("brake_prolonged", "mails held longer"),
    ("brake_discarded", "mails discarded"),
];

/// The default number of events in one response of the API.
const LIMIT: usize = 100;

/// A query for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventFilter {
    pub(super) kind: Option<String>,
    pub(super) app: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) integration: Option<String>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) after: Option<i64>,
    pub(super) limit: usize,
}

impl EventFilter {
    /// Reads a query string. People may write a day where programs write a time.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    fn of(query: &HashMap<String, String>, otherwise: usize, days: bool) -> Result<Self, String> {
        let given = |name: &str| query.get(name).map(|v| v.trim());
        let kind = given("kind");
        if kind.is_some_and(|kind| !KINDS.iter().any(|(known, _)| *known == kind)) {
            let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            return Err(format!("kind must be one of {}", known.join(", ")));
        }
        if given("reason").is_some_and(|reason| Reason::from_label(reason).is_none()) {
            return Err("reason is not one of the known reasons, such as token_expired".to_owned());
        }
        let limit = match given("limit") {
            None => otherwise,
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| "limit must be a number from 1 to 1000".to_owned())?,
        };
        let after = match given("after") {
            None => None,
            Some(text) => {
                Some(text.parse().map_err(|_| "after must be next of the previous page".to_owned())?)
            }
        };
        let own = |value: Option<&str>| value.map(str::to_owned);
        Ok(Self {
            kind: own(kind),
            app: own(given("app")),
            reason: own(given("reason")),
            integration: own(given("integration")),
            since: moment("since", given("since"), days)?,
            until: moment("until", given("until"), days)?,
            after,
            limit,
        })
    }

    /// A query of the page, whose form sends empty values for what is not filtered.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(super) fn of_page(query: &HashMap<String, String>, limit: usize) -> Result<Self, String> {
        Self::of(query, limit, true)
    }

    /// A query of the API.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(super) fn of_api(query: &HashMap<String, String>) -> Result<Self, String> {
        Self::of(query, LIMIT, false)
    }

    /// For the database: an event names its integration only, so that an application is the integrations that it has now. One more than the
    /// limit is read, which shows that there is another page.
    pub(super) fn query(&self, served: &Served) -> EventQuery {
        let of_app = self.app.as_ref().map(|app| {
            let all = served.process.fleet.all();
            all.iter().filter(|e| *e.record.app == **app).map(|e| e.record.name.clone()).collect()
        });
        EventQuery {
            kind: self.kind.clone(),
            reason: self.reason.clone(),
            integration: self.integration.clone(),
            integrations: of_app,
            since: self.since,
            until: self.until,
            before: self.after,
            limit: self.limit + 1,
        }
    }
}

/// RFC 3339, or perhaps a date, which begins in UTC.
fn moment(name: &str, text: Option<&str>, days: bool) -> Result<Option<Timestamp>, String> {
    let Some(text) = text else { return Ok(None) };
    let time = text.parse::<jiff::Timestamp>().ok();
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    time.or_else(|| day().filter(|_| days).map(|day| day.timestamp()))
        .map(|at| Some(Timestamp(at.as_millisecond())))
        .ok_or_else(|| {
            let day = if days { ", or a day such as 2026-03-01" } else { "" };
            format!("{name} must be a time such as 2026-03-01T08:00:00Z{day}")
        })
}

/// An event in words.
pub(super) fn event_words(kind: &str, detail: &str) -> String {
    let sentence =
        |label: &str| Reason::from_label(label).map_or_else(|| label.to_owned(), |r| r.sentence().to_owned());
    match kind {
        "broken" => format!("Broken: {}", sentence(detail)),
        "changed" => format!("Now broken in another way: {}", sentence(detail)),
        "recovered" => format!("Working again. It was: {}", sentence(detail)),
        "reauthenticated" if detail.is_empty() => "Re-authenticated by admin consent".to_owned(),
        "reauthenticated" => format!("Re-authenticated by {detail}"),
        "links_revoked" => "All earlier re-authentication links were ended".to_owned(),
        "token_stored" if detail == "import" => "A refresh token was imported".to_owned(),
        "token_stored" => "A renewed refresh token was stored".to_owned(),
        "token_delivered" => "The renewed refresh token was delivered to the product".to_owned(),
        "snoozed" => format!("Reminders were snoozed by {detail}"),
        "snooze_ended" => format!("The snooze was ended by {detail}"),
        "link_made" => format!("A re-authentication link was made by {detail}"),
        "brake_held" => format!("The brake holds mails to administrators: {detail}"),
        "brake_released" => format!("The brake has released {detail}"),
        "brake_prolonged" => format!("The brake goes on holding {detail}"),
        "brake_discarded" => format!("The brake has discarded {detail}"),
        other => format!("{other} {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_refused() {
        for (sentence, query, expected) in [
            ("nothing", "", Ok(())),
            ("an empty value", "since=", Err("since must be a time such as")),
            ("a kind", "kind=broken", Ok(())),
            ("a kind that nobody knows", "kind=exploded", Err("kind must be one of broken, changed")),
            ("a reason", "reason=token_expired", Ok(())),
            ("a reason that nobody knows", "reason=bad_luck", Err("not one of the known reasons")),
            ("a time", "since=2026-03-01T08:00:00%2B01:00", Ok(())),
            ("a day, which only people write", "until=2026-03-01", Err("until must be a time such as")),
            ("no time", "since=yesterday", Err("since must be a time such as")),
            ("a limit", "limit=1000", Ok(())),
            ("too many", "limit=1001", Err("limit must be a number from 1 to 1000")),
            ("none", "limit=0", Err("limit must be a number from 1 to 1000")),
            ("a page", "after=17", Ok(())),
            ("no page", "after=x", Err("next of the previous page")),
        ] {
            let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            match (EventFilter::of_api(&query), expected) {
                (Ok(_), Ok(())) => {}
                (Err(problem), Err(words)) => assert!(problem.contains(words), "{sentence}: {problem}"),
                (other, _) => panic!("{sentence}: {other:?}"),
            }
        }
        let day = HashMap::from([("until".to_owned(), "2026-03-01".to_owned())]);
        let until = EventFilter::of_page(&day, 1).expect("a query").until;
        assert_eq!(until, Some(Timestamp::from_seconds(1_772_323_200)));
    }
}
