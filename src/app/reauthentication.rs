//! Wiring of re-authentication: which integrations can be re-authenticated here, and where their renewed tokens are delivered to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::links;
use super::services::SharedServices;
use crate::config::{App, Config, Reauthenticators, TokenWebhook};
use crate::domain::{Access, Check, Verification};
use crate::entra::Entra;
use crate::monitor::{Targets, VerificationListener};
use crate::reauth::{Dependencies, Mailing, Reauthentication, Recipient, Registered, Registry, Webhooks};

/// The webhooks of the applications whose renewed tokens are delivered.
fn webhooks(config: &Config) -> HashMap<String, Arc<TokenWebhook>> {
    let webhook = |(name, app): (&String, &App)| {
        let webhook = app.token_webhook.as_ref().filter(|_| app.access == Access::Delegated)?;
        Some((name.clone(), Arc::new(webhook.clone())))
    };
    config.apps.iter().filter_map(webhook).collect()
}

/// `None` without a public URL, because then there are no links.
pub(super) fn reauthentication(
    config: &Config,
    services: &SharedServices,
    entra: Entra,
    targets: &Targets,
) -> Option<Reauthentication> {
    let links = links(config, &services.store)?;
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
        store: services.store.clone(),
        families: services.families.clone(),
        fleet: Arc::clone(&services.fleet),
        links,
        registry,
        mailing: mailing(config),
        clock: services.clock.clone(),
        token_ready: Arc::clone(&services.token_ready),
        outbox: Arc::clone(&services.outbox.nudge),
    }))
}

fn mailing(config: &Config) -> Mailing {
    let email = config.email.as_ref();
    Mailing {
        operators: email.map(|e| e.operators.clone()).unwrap_or_default().into(),
        mail: email.is_some(),
        send_resolved: email.is_some_and(|e| e.send_resolved),
    }
}

/// Where an integration's renewed token is delivered to. The pending delivery of a disabled integration is kept.
pub(super) fn webhooks_by_integration(config: &Config) -> Webhooks {
    let webhooks = webhooks(config);
    let found = config.integrations.iter().map(|i| (i.name.clone(), webhooks.get(&i.app).cloned()));
    let by_name: HashMap<String, Option<Arc<TokenWebhook>>> = found.collect();
    Box::new(move |name| match by_name.get(name) {
        Some(Some(webhook)) => Recipient::Webhook(Arc::clone(webhook)),
        Some(None) => Recipient::Nobody,
        None => Recipient::Unknown,
    })
}

/// Passes the results of probes to the verification of admin consents.
pub(super) fn listener(reauthentication: Option<Reauthentication>) -> VerificationListener {
    Arc::new(move |verification: Verification| {
        let reauthentication = reauthentication.clone();
        Box::pin(async move {
            let Some(reauthentication) = reauthentication else { return false };
            reauthentication.verify(&verification).await
        })
    })
}
