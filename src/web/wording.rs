//! Wording that pages and API share.

use crate::clock::{ago, lasting, moment, rfc3339};
use crate::domain::{
    self, Audience, Cell, Check, CheckState, Day, Health, KnownGroup, Outcome, Reason, Timestamp, one_line,
};
use crate::fleet::FleetEntry;

/// The tenant's GUID, where the configuration names the tenant by a domain.
pub(super) fn resolved_tenant(entry: &FleetEntry) -> Option<&str> {
    entry.tenant_guid.as_deref().filter(|guid| *guid != entry.record.tenant)
}

/// The last results of the enabled checks. A required group whose id has changed passes but gets a note, because the product's rules may
/// use the id.
pub(super) fn noted_checks(entry: &FleetEntry) -> Vec<CheckState> {
    let state = &entry.state;
    let mut checks: Vec<CheckState> =
        entry.record.checks.iter().filter_map(|c| state.check(*c).cloned()).collect();
    let replaced = state.known_groups.iter().filter_map(|g| Some((g, g.replaced_by.as_ref()?)));
    let note = |(group, (id, since)): (&KnownGroup, &(String, Timestamp))| {
        let (name, since) = (one_line(&group.name, 80), moment(*since));
        format!("the group {name:?} is a different one since {since}: its id is {id}, and was {}", group.id)
    };
    let notes: Vec<String> = replaced.map(note).collect();
    for check in checks
        .iter_mut()
        .filter(|c| c.check == Check::GroupAccess && c.outcome == Outcome::Pass && !notes.is_empty())
    {
        check.details.note =
            Some(check.details.note.iter().chain(&notes).cloned().collect::<Vec<_>>().join("; "));
    }
    checks
}

/// The word for a state in URLs, CSS classes and the API.
pub(super) const fn state_word(health: Health) -> &'static str {
    match health {
        Health::Working => "healthy",
        Health::Broken { .. } => "broken",
        Health::Unknown { .. } => "unknown",
    }
}

/// A time: relative and exact for people, RFC 3339 for programs.
pub(super) struct When {
    pub(super) relative: String,
    /// For how long it has lasted since then.
    pub(super) lasting: String,
    pub(super) exact: String,
    pub(super) machine: String,
}

impl When {
    pub(super) fn of(at: Timestamp, now: Timestamp) -> Self {
        Self { relative: ago(at, now), lasting: lasting(at, now), exact: moment(at), machine: rfc3339(at) }
    }
}

/// One check as a pill: short name, mark, CSS class, and the result in words for screen readers.
pub(super) struct Pill {
    pub(super) label: &'static str,
    pub(super) mark: &'static str,
    pub(super) class: &'static str,
    pub(super) word: &'static str,
}

impl Pill {
    pub(super) fn of(check: Check, outcome: Outcome) -> Self {
        let label = match check {
            Check::EnterpriseApp => "app",
            Check::Consent => "consent",
            Check::GroupAccess => "groups",
            Check::Provisioning => "provisioning",
            Check::Credential => "credential",
        };
        let (mark, class, word) = match outcome {
            Outcome::Pass => ("✓", "good", "passes"),
            // Nothing is broken yet.
            Outcome::Fail(reason) if reason.is_warning() => ("!", "wait", "warns"),
            Outcome::Fail(_) => ("✗", "bad", "fails"),
            Outcome::Unknown(_) => ("?", "wait", "is unknown"),
        };
        Self { label, mark, class, word }
    }
}

/// The last day as CSS classes, and in words.
pub(super) struct Strip {
    pub(super) cells: Vec<&'static str>,
    pub(super) words: String,
}

impl Strip {
    pub(super) fn of(day: &Day, now: Timestamp) -> Self {
        let cells = day.cells(now);
        let count = |cell| cells.iter().filter(|c| **c == cell).count();
        let (failing, unknown, empty) = (count(Cell::Fail), count(Cell::Unknown), count(Cell::Empty));
        let words = format!(
            "Last 24 hours: failures in {failing}, unknown results in {unknown}, no probe in {empty} of them"
        );
        let class = |cell: &Cell| match cell {
            Cell::Empty => "e",
            Cell::Pass => "p",
            Cell::Unknown => "u",
            Cell::Fail => "f",
        };
        Self { cells: cells.iter().map(class).collect(), words }
    }
}

/// A reason: its texts, its label as in the metrics, and its runbook.
pub(super) struct ReasonLine {
    pub(super) label: &'static str,
    pub(super) sentence: &'static str,
    pub(super) advice: &'static str,
    pub(super) runbook: String,
}

impl ReasonLine {
    pub(super) fn of(reason: Reason) -> Self {
        let label = reason.label();
        Self {
            label,
            sentence: reason.sentence(),
            advice: reason.advice(),
            runbook: format!("{RUNBOOKS}{label}.md"),
        }
    }
}

/// The base URL of the runbooks, as in `dashboards/rules.yml`.
const RUNBOOKS: &str = "https://github.com/consentry/consentry/blob/main/docs/runbooks/";

/// What the reader of a mailed link's page can do. A customer's administrator cannot fix what only the operators can.
pub(super) fn advice(reason: Reason, app: &str) -> Option<String> {
    match reason.audience() {
        Audience::Operators => {
            Some(format!("The people who run {app} have to fix this; you need not do anything."))
        }
        Audience::Admins => reason.advice_beside_the_button().map(str::to_owned),
    }
}

/// What operators read about a check that does not pass.
pub(super) fn operators_advice(state: &CheckState, reason: Reason) -> &'static str {
    domain::advice(reason, state.details.code.as_deref())
}

/// The headline of a check's result: what holds, what is wrong, or that it is not known.
pub(super) fn result_headline(check: Check, outcome: Outcome, repeated: bool) -> String {
    match outcome {
        Outcome::Pass => question(check).to_owned(),
        Outcome::Fail(_) if repeated => format!("{}: for the same reason.", check.title()),
        Outcome::Fail(reason) => reason.sentence().to_owned(),
        Outcome::Unknown(_) => format!("{}: not known now.", check.title()),
    }
}

/// What a check verifies, as a statement.
pub(super) const fn question(check: Check) -> &'static str {
    match check {
        Check::EnterpriseApp => "The enterprise application is present and enabled.",
        Check::Consent => "The permissions are granted.",
        Check::GroupAccess => "The groups can be read.",
        Check::Provisioning => "Provisioning is running.",
        Check::Credential => "No credential is about to expire.",
    }
}
