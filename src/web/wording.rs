//! What pages and API say of an integration in the same words.

use crate::clock::moment;
use crate::domain::{Check, CheckState, KnownGroup, Outcome, Timestamp, one_line};
use crate::fleet::FleetEntry;

/// The tenant's GUID, where the configuration names the tenant by a domain.
pub(super) fn resolved_tenant(entry: &FleetEntry) -> Option<&str> {
    entry.tenant_guid.as_deref().filter(|guid| *guid != entry.record.tenant)
}

/// The enabled checks as they were seen last. A group that has another id than before passes, and is shown: the product's rules may be
/// bound to the id.
pub(super) fn noted_checks(entry: &FleetEntry) -> Vec<CheckState> {
    let state = &entry.state;
    let mut checks: Vec<CheckState> =
        entry.record.checks.iter().filter_map(|c| state.check(*c).cloned()).collect();
    let replaced = state.known_groups.iter().filter_map(|g| Some((g, g.replaced_by.as_ref()?)));
    let note = |(group, (id, since)): (&KnownGroup, &(String, Timestamp))| {
        let (name, since) = (one_line(&group.name, 80), moment(*since));
        format!("the group {name:?} is another one since {since}: its id is {id}, and was {}", group.id)
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
