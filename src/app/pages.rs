//! Wiring of the pages: what they read of monitor and database.

use std::sync::Arc;

use super::reauthentication::{finder, subjects};
use crate::clock::moment;
use crate::config::Config;
use crate::domain::{Check, CheckState, IntegrationState, KnownGroup, Outcome, Timestamp, one_line};
use crate::entra::ClientCredential;
use crate::metrics::IntegrationLabels;
use crate::monitor::{IntegrationRecord, Monitor, Target, Targets};
use crate::store::Store;
use crate::web::{CredentialRecord, Detail, Lookup, MailRecord, Records, Remember, Row};

/// What the pages ask the monitor.
pub(super) fn lookup(config: &Config, monitor: &Monitor, store: &Store, targets: &Targets) -> Lookup {
    let [rows, next, paused, details, probe, now, prove, verify] = [(); 8].map(|()| monitor.clone());
    Lookup {
        rows: Box::new(move || rows.evaluator().each(row)),
        next_probe: Box::new(move |name| next.next_probe(name)),
        paused_until: Box::new(move |name| paused.paused_until(name)),
        detail: Box::new(move |name| details.evaluator().one(name, detail)),
        records: records(store, targets),
        probe: Box::new(move |name| probe.probe_soon(name)),
        probe_now: Box::new(move |name| {
            let (monitor, name) = (now.clone(), name.to_owned());
            Box::pin(async move { monitor.probe_now(&name).await })
        }),
        find: finder(config, monitor),
        prove: Box::new(move |name, began| prove.prove(name, began)),
        verify: Box::new(move |name, began| verify.verify(name, began)),
        subject: subjects(config, monitor),
    }
}

fn row(watched: &IntegrationRecord, _: Option<&str>, state: &IntegrationState) -> Row {
    Row {
        name: watched.facts.name.clone(),
        display_name: watched.facts.display_name.clone(),
        app_name: Arc::clone(&watched.facts.app),
        app: Arc::clone(&watched.app_display_name),
        // People know a tenant by its domain.
        tenant: watched.tenant.clone(),
        health: state.confirmed_health(&watched.facts.checks),
        checks: watched
            .facts
            .checks
            .iter()
            .filter_map(|c| state.check(*c).map(|s| (*c, s.outcome)))
            .collect(),
        never_run: watched.facts.checks.iter().copied().filter(|c| state.check(*c).is_none()).collect(),
        last_probe: state.last_probe,
        day: state.day,
    }
}

fn detail(watched: &IntegrationRecord, tenant_guid: Option<&str>, state: &IntegrationState) -> Detail {
    let facts = &watched.facts;
    Detail {
        display_name: facts.display_name.clone(),
        app: watched.app_display_name.to_string(),
        app_name: facts.app.to_string(),
        client_id: facts.client_id.to_string(),
        tenant: watched.tenant.clone(),
        tenant_guid: tenant_guid.filter(|guid| *guid != watched.tenant).map(str::to_owned),
        access: facts.access,
        reader: watched.reader.clone(),
        labels: facts.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        health: state.confirmed_health(&facts.checks),
        reader_fault: state.reader_fault,
        enabled: facts.checks.clone(),
        checks: checks(facts, state),
        permissions: state.permissions.clone(),
        groups_visible: state.groups_visible,
        last_probe: state.last_probe,
        duration_ms: state.duration.as_millis(),
        day: state.day,
    }
}

/// The enabled checks as they were seen last. A group that has another id than before passes, and is shown: the product's rules may be
/// bound to the id.
fn checks(facts: &IntegrationLabels, state: &IntegrationState) -> Vec<CheckState> {
    let mut checks: Vec<CheckState> = facts.checks.iter().filter_map(|c| state.check(*c).cloned()).collect();
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

fn records(store: &Store, targets: &Targets) -> Box<Remember> {
    let (store, targets) = (store.clone(), Arc::clone(targets));
    Box::new(move |name| {
        let (store, name) = (store.clone(), name.to_owned());
        let target = targets.get(&name).cloned();
        Box::pin(async move {
            // A database that cannot answer now leaves its part of the page empty; the rest is in memory.
            let events = store.events(&name).await.unwrap_or_default();
            let mails = store.mails_about(&name).await.unwrap_or_default();
            let token = match target.as_ref().filter(|t| t.refresh_token_file.is_none()) {
                Some(target) => store.token_story(&target.token_id()).await.ok().flatten(),
                None => None,
            };
            let token_file = target
                .as_ref()
                .and_then(|t| t.refresh_token_file.as_ref())
                .map(|path| path.display().to_string());
            let credentials = target.as_ref().map(credentials).unwrap_or_default();
            let mail = |m: crate::store::MailAbout| MailRecord {
                kind: m.kind.label().to_owned(),
                recipient: m.recipient,
                created: m.created,
                sent: m.sent,
                given_up: m.given_up,
                problem: m.problem,
            };
            Records {
                events: events.into_iter().map(|e| (e.kind, e.at, e.detail)).collect(),
                mails: mails.into_iter().map(mail).collect(),
                token,
                token_file,
                credentials,
            }
        })
    })
}

fn credentials(target: &Target) -> Vec<CredentialRecord> {
    let record = |reader, credential: &ClientCredential| CredentialRecord {
        reader,
        kind: credential.kind(),
        expires: credential.expires(),
    };
    let reader = target.reader.as_ref().map(|r| record(Some(r.name.clone()), &r.credential));
    [record(None, &target.credential)].into_iter().chain(reader).collect()
}
