//! Wiring of re-authentication: who can be re-authenticated, where, and what the pages say of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use super::{admin_consent, link_target, links};
use crate::clock::Clock;
use crate::config::{App, Config, Integration, ReauthenticationMode, Reauthenticators};
use crate::domain::{Access, Check, IntegrationState, LinkTarget, one_line};
use crate::entra::Entra;
use crate::metrics::Families;
use crate::monitor::{IntegrationRecord, Monitor, Targets, Verification, VerificationListener};
use crate::reauth::{
    Dependencies, Hooks, Observation, Reauthentication, Recipient, Registered, Registry, Subject, Webhook,
};
use crate::store::Store;
use crate::web::{ExternalSignIn, Find, FindBy, SignInStatus};

/// Applications whose renewed tokens are handed over, and where.
fn webhooks(config: &Config) -> HashMap<String, Arc<Webhook>> {
    let hook = |(name, app): (&String, &App)| {
        let webhook = app.token_webhook.as_ref().filter(|_| app.access == Access::Delegated)?;
        Some((name.clone(), Arc::new(Webhook { url: webhook.url.clone(), secret: webhook.secret.clone() })))
    };
    config.apps.iter().filter_map(hook).collect()
}

/// `None` without a public URL: then there are no links.
pub(super) fn reauthentication(
    config: &Config,
    (entra, store, families, clock): (Entra, Store, Families, Clock),
    targets: &Targets,
    (handed_over, outbox): (Arc<Notify>, Arc<Notify>),
) -> Option<Reauthentication> {
    let links = links(config, &store)?;
    let (targets, webhooks) = (Arc::clone(targets), webhooks(config));
    let only_admins = |(name, app): (&String, &App)| {
        (app.reauthenticators == Reauthenticators::Admins).then(|| name.clone())
    };
    let only_admins: HashSet<String> = config.apps.iter().filter_map(only_admins).collect();
    let registry: Registry = Box::new(move |name| {
        let target = targets.get(name)?;
        let groups = target
            .requirements
            .checks
            .contains(&Check::GroupAccess)
            .then(|| target.requirements.groups.clone());
        Some(Registered {
            token: target.token_id(),
            credential: Arc::clone(&target.credential),
            access: target.requirements.access,
            required: Arc::clone(&target.requirements.required),
            keeps_token: target.refresh_token_file.is_none(),
            has_webhook: webhooks.contains_key(&*target.app),
            groups,
            admins_only: only_admins.contains(&*target.app),
        })
    });
    Some(Reauthentication::new(Dependencies {
        entra,
        store,
        families,
        links,
        registry,
        clock,
        handed_over,
        outbox,
    }))
}

/// What mails about re-authentications hang on, besides the integration itself.
#[derive(Clone)]
struct Mailing {
    operators: Arc<[String]>,
    mail: bool,
    send_resolved: bool,
}

impl Mailing {
    fn of(config: &Config) -> Self {
        let email = config.email.as_ref();
        Self {
            operators: email.map(|e| e.operators.clone()).unwrap_or_default().into(),
            mail: email.is_some(),
            send_resolved: email.is_some_and(|e| e.send_resolved),
        }
    }

    /// Without a memory of what the stored token saw.
    fn subject(&self, watched: &IntegrationRecord) -> Subject {
        Subject {
            integration: watched.facts.name.clone(),
            display_name: watched.facts.display_name.clone(),
            app: watched.app_display_name.to_string(),
            client_id: watched.facts.client_id.to_string(),
            tenant: watched.tenant.clone(),
            access: watched.facts.access,
            admins: watched.admins.clone(),
            operators: Arc::clone(&self.operators),
            mail: self.mail,
            send_resolved: self.send_resolved,
            good_view: None,
            known_groups: Vec::new(),
            had_consent: false,
        }
    }
}

/// What a sign-in is measured by: what the stored token saw at its last good probe.
pub(super) fn subjects(config: &Config, monitor: &Monitor) -> Box<FindBy<Subject>> {
    let (mailing, monitor) = (Mailing::of(config), monitor.clone());
    Box::new(move |name| {
        let evaluator = monitor.evaluator();
        let state = evaluator.state(name).unwrap_or_default();
        let had_consent = state.check(Check::Consent).is_some_and(|c| c.last_success.is_some());
        let watched = evaluator.watched(name)?;
        let IntegrationState { good_view, known_groups, .. } = state;
        Some(Subject { good_view, known_groups, had_consent, ..mailing.subject(&watched) })
    })
}

/// Where an integration's renewed token is handed to. One that is switched off for a while keeps what waits for its product.
pub(super) fn hooks(config: &Config) -> Hooks {
    let webhooks = webhooks(config);
    let hooked = config.integrations.iter().map(|i| (i.name.clone(), webhooks.get(&i.app).cloned()));
    let hooks: HashMap<String, Option<Arc<Webhook>>> = hooked.collect();
    Box::new(move |name| match hooks.get(name) {
        Some(Some(hook)) => Recipient::Webhook(Arc::clone(hook)),
        Some(None) => Recipient::Nobody,
        None => Recipient::Unknown,
    })
}

/// What admin consent was worth is seen by probes.
pub(super) fn listener(config: &Config, reauthentication: Option<Reauthentication>) -> VerificationListener {
    let mailing = Mailing::of(config);
    Arc::new(move |proof: Verification| {
        let (reauthentication, mailing) = (reauthentication.clone(), mailing.clone());
        Box::pin(async move {
            let Some(reauthentication) = reauthentication else { return false };
            let Verification { integration, consent_holds, passed, last, since, watched } = proof;
            let subject = watched.map(|watched| mailing.subject(&watched));
            reauthentication
                .verify(&integration, Observation { consent_holds, passed, last, since }, subject)
                .await
        })
    })
}

/// What the pages of re-authentication ask the monitor.
pub(super) fn finder(config: &Config, monitor: &Monitor) -> Box<Find> {
    let integrations = config.integrations.iter().filter(|i| i.enabled);
    let extra = |i: &Integration| Some((i.name.clone(), extra(config, config.apps.get(&i.app)?, i)?));
    let extras: HashMap<String, Extra> = integrations.filter_map(extra).collect();
    let monitor = monitor.clone();
    Box::new(move |name| standing(&monitor, extras.get(name), name))
}

/// What only some integrations have: pages besides our own.
struct Extra {
    elsewhere: Option<ExternalSignIn>,
    admin_consent: Option<String>,
}

fn extra(config: &Config, app: &App, integration: &Integration) -> Option<Extra> {
    let elsewhere = match (&app.reauthentication, link_target(config, app, integration)) {
        (ReauthenticationMode::AdminConsent, LinkTarget::Url(url)) => Some(ExternalSignIn::AdminConsent(url)),
        (ReauthenticationMode::Url(_), LinkTarget::Url(url)) => Some(ExternalSignIn::Vendor(url)),
        _ => None,
    };
    let two_pages = app.access == Access::Delegated && app.required.iter().any(|r| !r.application.is_empty());
    let admin_consent = two_pages.then(|| admin_consent(config, &integration.tenant, &app.client_id));
    (elsewhere.is_some() || two_pages).then_some(Extra { elsewhere, admin_consent })
}

fn standing(monitor: &Monitor, extra: Option<&Extra>, name: &str) -> Option<SignInStatus> {
    let (watched, state) = (monitor.evaluator().watched(name)?, monitor.evaluator().state(name)?);
    let checks =
        watched.facts.checks.iter().filter_map(|c| state.check(*c).map(|s| (*c, s.outcome))).collect();
    Some(SignInStatus {
        display_name: one_line(&watched.facts.display_name, 120),
        app: one_line(&watched.app_display_name, 120),
        tenant: one_line(&watched.tenant, 253),
        access: watched.facts.access,
        permissions: watched.permissions.to_vec(),
        elsewhere: extra.and_then(|e| e.elsewhere.clone()),
        admin_consent: extra.and_then(|e| e.admin_consent.clone()),
        health: state.health(&watched.facts.checks),
        checks,
        last_probe: state.last_probe.filter(|_| !matches!(monitor.proof(name), Some(false))),
        proving: monitor.proof(name).is_some(),
        waits_until: monitor.paused_until(name),
    })
}
