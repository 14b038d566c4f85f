//! Which integrations a page or a response of the API lists, and in which order.

use std::collections::HashMap;
use std::sync::Arc;

use super::state::Served;
use super::wording::state_word;
use crate::domain::{Health, Reason};
use crate::fleet::FleetEntry;

/// The whole fleet, ordered by name.
pub(super) fn rows(served: &Served) -> Vec<Row> {
    served.process.fleet.all().into_iter().map(Row::of).collect()
}

/// An integration on the status page and in the API's list, with its health and reason.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) entry: Arc<FleetEntry>,
    pub(super) health: Health,
    pub(super) reason: Option<Reason>,
}

impl Row {
    pub(super) fn of(entry: Arc<FleetEntry>) -> Self {
        let (health, reason) = (entry.health(), entry.reason());
        Self { entry, health, reason }
    }

    pub(super) fn matches(&self, words: &[String]) -> bool {
        if words.is_empty() {
            return true;
        }
        let record = &self.entry.record;
        let texts = [&*record.name, &*record.display_name, &*record.tenant, &*record.app_display_name];
        let texts = texts.map(str::to_lowercase);
        words.iter().all(|word| texts.iter().any(|text| text.contains(word.as_str())))
    }
}

/// The query of the status page.
#[derive(Debug, Default, Clone)]
pub(super) struct StatusFilter {
    pub(super) q: String,
    pub(super) state: String,
    pub(super) app: String,
    pub(super) reason: String,
    pub(super) sort: String,
    pub(super) page: usize,
}

impl StatusFilter {
    pub(super) fn of(query: &HashMap<String, String>) -> Self {
        let text =
            |name: &str| query.get(name).map(|v| v.trim().chars().take(200).collect()).unwrap_or_default();
        let page = query.get("page").and_then(|p| p.parse().ok()).unwrap_or(1_usize).max(1);
        Self {
            q: text("q"),
            state: text("state"),
            app: text("app"),
            reason: text("reason"),
            sort: text("sort"),
            page,
        }
    }

    /// Whether the query contains more than search words.
    pub(super) fn narrows(&self) -> bool {
        [&self.state, &self.app, &self.reason, &self.sort].iter().any(|v| !v.is_empty())
    }

    /// The relative URL of another page of the same query.
    pub(super) fn address(&self, page: usize) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("q", &self.q),
            ("state", &self.state),
            ("app", &self.app),
            ("reason", &self.reason),
            ("sort", &self.sort),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        query.append_pair("page", &page.to_string());
        format!("?{}", query.finish())
    }

    pub(super) fn admits(&self, row: &Row, words: &[String]) -> bool {
        let is = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        is(&self.state, state_word(row.health))
            && is(&self.app, &row.entry.record.app_display_name)
            && (self.reason.is_empty() || row.reason.is_some_and(|r| r.label() == self.reason))
            && row.matches(words)
    }

    /// The rows are already sorted by name, and these sorts are stable.
    pub(super) fn sort(&self, rows: &mut [&Row]) {
        let severity = |row: &Row| match row.health {
            Health::Broken { .. } => 0,
            Health::Unknown { .. } => 1,
            Health::Working => 2,
        };
        let since = |row: &Row| match row.health {
            Health::Broken { since, .. } => std::cmp::Reverse(Some(since)),
            _ => std::cmp::Reverse(None),
        };
        match self.sort.as_str() {
            "name" => {}
            "app" => {
                rows.sort_by(|a, b| a.entry.record.app_display_name.cmp(&b.entry.record.app_display_name));
            }
            "since" => rows.sort_by_key(|row| since(row)),
            _ => rows.sort_by_key(|row| severity(row)),
        }
    }
}

/// The default number of integrations in one response of the API.
const LIMIT: usize = 100;

/// The query of the API's list.
pub(super) struct ApiFilter {
    pub(super) state: Option<String>,
    pub(super) app: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) words: Vec<String>,
    pub(super) after: Option<String>,
    pub(super) limit: usize,
}

impl ApiFilter {
    pub(super) fn of(query: &HashMap<String, String>) -> Result<Self, String> {
        let given = |name: &str| query.get(name).cloned();
        let state = given("state");
        if state.as_deref().is_some_and(|s| !["healthy", "broken", "unknown"].contains(&s)) {
            return Err("state must be healthy, broken or unknown".to_owned());
        }
        let reason = given("reason");
        if reason.as_deref().is_some_and(|r| Reason::from_label(r).is_none()) {
            return Err("reason is not one of the known reasons, such as token_expired".to_owned());
        }
        let limit = match given("limit") {
            None => LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| "limit must be a number from 1 to 1000".to_owned())?,
        };
        let words =
            given("q").unwrap_or_default().to_lowercase().split_whitespace().map(str::to_owned).collect();
        Ok(Self { state, app: given("app"), reason, words, after: given("after"), limit })
    }

    pub(super) fn admits(&self, row: &Row) -> bool {
        self.state.as_deref().is_none_or(|s| s == state_word(row.health))
            && self.app.as_deref().is_none_or(|a| a == &*row.entry.record.app)
            && self.reason.as_deref().is_none_or(|wanted| row.reason.is_some_and(|r| r.label() == wanted))
            && row.matches(&self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{IntegrationRecord, Timestamp};

    fn row(name: &str, app: &str, health: Health) -> Row {
        let record = IntegrationRecord { app_display_name: app.into(), ..IntegrationRecord::example(name) };
        let entry = Arc::new(FleetEntry::new(Arc::new(record)));
        let reason = if let Health::Broken { reason, .. } = health { Some(reason) } else { None };
        Row { entry, health, reason }
    }

    #[test]
    fn rows_are_found_filtered_and_sorted() {
        let broken = |reason, since| Health::Broken { reason, since: Timestamp::from_seconds(since) };
        let rows = [
            row("acme", "Sequr", Health::Working),
            row("beta", "Rota", broken(Reason::AppMissing, 100)),
            row("coho", "Sequr", broken(Reason::TokenExpired, 200)),
            row("dune", "Sequr", Health::Unknown { token_missing: false }),
        ];
        for (query, expected) in [
            ("", "beta coho dune acme"),
            ("sort=name", "acme beta coho dune"),
            ("sort=since", "coho beta acme dune"),
            ("sort=app", "beta acme coho dune"),
            ("state=broken", "beta coho"),
            ("state=unknown", "dune"),
            ("app=Sequr&state=broken", "coho"),
            ("reason=app_missing", "beta"),
            ("q=ACM", "acme"),
            ("q=t.example+se", "coho dune acme"),
            ("q=nothing", ""),
        ] {
            let query: HashMap<String, String> =
                url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let wanted = StatusFilter::of(&query);
            let words: Vec<String> = wanted.q.to_lowercase().split_whitespace().map(str::to_owned).collect();
            let mut found: Vec<&Row> = rows.iter().filter(|r| wanted.admits(r, &words)).collect();
            wanted.sort(&mut found);
            assert_eq!(
                found.iter().map(|r| r.entry.record.name.as_str()).collect::<Vec<_>>().join(" "),
                expected,
                "{query:?}"
            );
        }
    }
}
