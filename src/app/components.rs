//! The parts that are built from a configuration, at the start and with every reload.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::services::SharedServices;
use super::{SharedTexts, branding, links, reauthentication, record, shared_texts, targets, transport};
use crate::config::{Config, Integration, effective};
use crate::domain::{BrakePolicy, SchedulePolicy, Thresholds};
use crate::entra::Entra;
use crate::monitor::{Change, Policy, ProbeLimits, Setup, Target, Targets};
use crate::notify::{LinkMaker, Notifier, NotifierSettings};
use crate::reauth::{Reauthentication, Terms, WebhookParts, WebhookSender};
use crate::signed::Signer;
use crate::store::Store;
use crate::web::{self, Process, SecurityHeaders, Served};

/// After this many intervals with an unknown result, operators are notified, and what only the admins can fix counts as a failure.
const LASTING_INTERVALS: u32 = 12;

/// The parts that every reload replaces.
pub(super) struct Components {
    pub(super) setup: Setup,
    pub(super) change: Change,
    pub(super) notifier: Option<Notifier>,
    pub(super) webhook: WebhookSender,
    pub(super) pages: Pages,
}

/// What the pages need from the configuration.
pub(super) struct Pages {
    pub(super) brake_links: Option<Signer>,
    pub(super) snooze_links: Option<Signer>,
    pub(super) reauthentication: Option<Reauthentication>,
}

impl Components {
    /// # Errors
    /// Proxy or certificate file cannot be used.
    pub(super) fn new(config: &Config, services: &SharedServices) -> anyhow::Result<Self> {
        let SharedServices { store, families, clock, .. } = services;
        let enabled: Vec<&Integration> = config.integrations.iter().filter(|i| i.enabled).collect();
        let names: HashSet<&str> = enabled.iter().map(|i| i.name.as_str()).collect();
        let texts: HashMap<&str, SharedTexts> =
            config.apps.iter().map(|(name, app)| (name.as_str(), shared_texts(app))).collect();
        let records = enabled.iter().filter_map(|i| record(config, &texts, i)).collect();
        let (entra, prober) = services.upstream(config)?;
        let enabled_ones = targets(config).into_iter().filter(|t| names.contains(t.name.as_str()));
        let targets: Targets = Arc::new(enabled_ones.map(|t| (t.name.clone(), t)).collect());
        let notifier = notifier(config, services, &entra, &targets);
        let reauthentication = reauthentication::reauthentication(config, services, entra, &targets);
        let ca_file = config.upstream.ca_file.as_deref();
        let webhook = WebhookParts {
            store: store.clone(),
            families: families.clone(),
            clock: clock.clone(),
            webhooks: reauthentication::webhooks_by_integration(config),
            wake: Arc::clone(&services.token_ready),
        };
        prober.keep_only(targets.values());
        Ok(Self {
            setup: Setup {
                targets: Arc::clone(&targets),
                prober,
                limits: ProbeLimits {
                    timeout: config.probe.timeout,
                    concurrency: super::descriptors::probes(config.probe.concurrency, super::descriptors()),
                },
                listener: reauthentication::listener(reauthentication.clone()),
            },
            change: Change { schedule: schedule_policy(config), policy: policy(config), records },
            notifier,
            webhook: WebhookSender::new(webhook, ca_file)?,
            pages: Pages {
                reauthentication,
                brake_links: services.brake_links(config),
                snooze_links: services.snooze_links(config),
            },
        })
    }
}

impl Pages {
    /// The state of the routes.
    pub(super) fn served(self, config: &Config, process: &Arc<Process>) -> anyhow::Result<Arc<Served>> {
        let public_url = config.reauthentication.public_url.clone();
        Ok(Arc::new(Served {
            process: Arc::clone(process),
            reauthentication: self.reauthentication,
            brake_links: self.brake_links,
            snooze_links: self.snooze_links,
            security_headers: SecurityHeaders::new(
                &config.cloud.login_url,
                public_url.as_deref().is_some_and(|u| u.starts_with("https://")),
            ),
            public_url,
            support: config.email.as_ref().and_then(|e| e.support_contact.clone()),
            configuration: web::compress(&effective(config))?.into(),
        }))
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        thresholds: Thresholds {
            failure: config.probe.failure_threshold,
            success: config.probe.success_threshold,
            lasting: config.probe.interval.saturating_mul(LASTING_INTERVALS),
        },
        mail: config.email.is_some(),
        operators: config.email.as_ref().map(|e| e.operators.clone()).unwrap_or_default(),
        send_resolved: config.email.as_ref().is_some_and(|e| e.send_resolved),
        reminders: config.email.as_ref().map(|e| e.reminders.clone()).unwrap_or_default(),
        brake: brake_policy(config),
        group_wait: config.email.as_ref().map(|e| e.group_wait).unwrap_or_default(),
    }
}

fn brake_policy(config: &Config) -> BrakePolicy {
    let brake = config.email.as_ref().map(|email| email.brake.clone()).unwrap_or_default();
    BrakePolicy {
        share: brake.share,
        minimum: usize::try_from(brake.minimum).unwrap_or(usize::MAX),
        hold: brake.hold,
        interval: config.probe.interval,
    }
}

fn schedule_policy(config: &Config) -> SchedulePolicy {
    SchedulePolicy {
        interval: config.probe.interval,
        retry_interval: config.probe.retry_interval,
        failure_threshold: config.probe.failure_threshold,
    }
}

/// Makes the links of mails when they are sent, with the generation of that moment, so that a delayed mail contains a valid link.
fn link_maker(config: &Config, store: &Store, targets: &Targets) -> LinkMaker {
    let (links, targets, store) = (links(config, store), Arc::clone(targets), store.clone());
    Arc::new(move |integration, now| {
        let found = links.clone().zip(targets.get(integration).map(Target::token_id));
        let store = store.clone();
        Box::pin(async move {
            let Some((links, id)) = found else { return Ok(None) };
            let terms =
                Terms { generation: store.links(&id.integration).await?.generation, accept_fewer: false };
            Ok(Some(links.make(&id, terms, now)))
        })
    })
}

fn notifier(
    config: &Config,
    services: &SharedServices,
    entra: &Entra,
    targets: &Targets,
) -> Option<Notifier> {
    let email = config.email.as_ref()?;
    let link = link_maker(config, &services.store, targets);
    let settings = NotifierSettings {
        transport: transport(email, entra, &services.clock),
        branding: branding(email, &config.cloud, services.status_page(config)),
        operators: email.operators.clone(),
        group_wait: email.group_wait,
        link,
        brake_link: services.brake_links(config),
        snooze_link: services.snooze_links(config),
    };
    let SharedServices { store, families, clock, outbox, .. } = services.clone();
    Some(Notifier::new(settings, store, families, clock, outbox))
}
