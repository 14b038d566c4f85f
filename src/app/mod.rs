//! Wiring: from a configuration to running parts. Only this module and the command line see both.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::config::{App, Config, Credential, Email, Integration, ReauthenticationMode, SmtpTls, effective};
use crate::domain::{Access, LinkTarget, SchedulePolicy, Thresholds};
use crate::entra::{ClientCredential, Door, DoorOptions, Entra, Hosts, admin_consent_url};
use crate::metrics::{Facts, Families, Published};
use crate::monitor::{Evaluator, Monitor, Policy, Prober, ReaderClient, Rhythm, Schedule, Target, Targets, Watched};
use crate::notify::{Letterhead, LinkMaker, Notifier, NotifierSettings, Protection, SmtpSettings};
use crate::reauth::{self, Handover, Links};
use crate::secret::Secret;
use crate::store::{DaemonLock, Store};
use crate::web::{self, Gate, Guard, Listener, Process, Served, Sites, WebOptions};

mod pages;
mod reauthentication;

/// Not knowing for so many intervals is told to the operators.
const LASTING_INTERVALS: u32 = 12;

/// The parts of a daemon, wired together and at rest.
pub struct Daemon {
    /// Probes the fleet.
    pub monitor: Monitor,
    /// Sends mail, when it is configured.
    pub notifier: Option<Notifier>,
    /// Hands renewed tokens to the products that use them.
    pub handover: Handover,
    /// What the listeners serve.
    pub sites: Sites,
    /// What lasts as long as the process.
    pub process: Arc<Process>,
    /// The database.
    pub store: Store,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Daemon")
    }
}

/// Entra and Graph as configured. `families` counts the requests, where they are to be counted.
///
/// # Errors
/// Proxy or certificate file cannot be used.
pub fn entra(config: &Config, families: Option<Families>) -> anyhow::Result<Entra> {
    let options = DoorOptions {
        proxy_url: config.upstream.proxy_url.as_ref().map(Secret::expose),
        ca_file: config.upstream.ca_file.as_deref(),
        idle_connections: config.probe.concurrency,
    };
    let observer = Arc::new(move |endpoint: crate::entra::Endpoint, code: &str, duration| {
        if let Some(families) = &families {
            families.upstream(endpoint.label(), code, duration);
        }
    });
    let door = Door::new(&options, observer).context("cannot set up the connection to Entra")?;
    Ok(Entra::new(door, hosts(config), Arc::new(config.reason_overrides.clone())))
}

/// Opens the configured database.
///
/// # Errors
/// It cannot be used; the text says how to go on.
pub fn store(config: &Config) -> anyhow::Result<Store> {
    Ok(Store::open(&config.storage.path, &config.storage.encryption_key_file)?)
}

/// The maker of re-authentication links, when there is a URL for them to start with.
pub fn links(config: &Config, store: &Store) -> Option<Links> {
    let url = config.reauthentication.public_url.as_deref()?;
    Some(Links::new(store.key().derive("consentry reauthentication link v1"), url, config.reauthentication.link_ttl))
}

fn credential(credential: &Credential) -> ClientCredential {
    match credential {
        Credential::None => ClientCredential::None,
        Credential::Secret(source) => ClientCredential::Secret(source.clone()),
        Credential::Certificate { certificate_file, private_key_file } => {
            ClientCredential::Certificate { certificate_file: certificate_file.clone(), private_key_file: private_key_file.clone() }
        }
        Credential::Unbuilt(kind) => ClientCredential::Unbuilt(kind),
    }
}

/// The integrations as the prober sees them, in the order of the configuration; disabled ones included.
pub fn targets(config: &Config) -> Vec<Target> {
    let credentials: HashMap<&str, Arc<ClientCredential>> =
        config.apps.iter().map(|(name, app)| (name.as_str(), Arc::new(credential(&app.credential)))).collect();
    let readers: HashMap<&str, Arc<ReaderClient>> = config
        .readers
        .iter()
        .map(|(name, r)| {
            (
                name.as_str(),
                Arc::new(ReaderClient { name: name.clone(), client_id: r.client_id.clone(), credential: credential(&r.credential) }),
            )
        })
        .collect();
    let names: HashMap<&str, Arc<str>> = config.apps.keys().map(|name| (name.as_str(), name.as_str().into())).collect();
    let target = |i: &Integration| {
        let app = config.apps.get(&i.app)?;
        Some(Target {
            name: i.name.clone(),
            app: names.get(i.app.as_str()).cloned()?,
            tenant: i.tenant.clone(),
            client_id: app.client_id.clone(),
            credential: credentials.get(i.app.as_str()).cloned()?,
            reader: i.reader.as_deref().and_then(|r| readers.get(r).cloned()),
            refresh_token_file: i.refresh_token_file.clone(),
            profile: i.profile.clone(),
        })
    };
    config.integrations.iter().filter_map(target).collect()
}

/// Where Entra sends browsers back to, when there are pages for them.
pub fn redirect_uri(config: &Config) -> Option<String> {
    config.reauthentication.public_url.as_deref().map(reauth::redirect_uri)
}

/// Entra's page on which an administrator accepts everything that a registration lists. It belongs to no sign-in of ours.
pub fn admin_consent(config: &Config, tenant: &str, client_id: &str) -> String {
    admin_consent_url(&hosts(config), tenant, client_id, redirect_uri(config).as_deref(), None)
}

fn hosts(config: &Config) -> Hosts {
    Hosts { login: config.cloud.login_url.clone(), graph: config.cloud.graph_url.clone() }
}

/// Where an integration is mended.
fn link_target(config: &Config, app: &App, integration: &Integration) -> LinkTarget {
    match &app.reauthentication {
        ReauthenticationMode::Builtin => LinkTarget::Builtin,
        ReauthenticationMode::AdminConsent => LinkTarget::Url(admin_consent(config, &integration.tenant, &app.client_id)),
        ReauthenticationMode::Url(template) => {
            let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
            let values = [
                ("{tenant_id}", &integration.tenant),
                ("{client_id}", &app.client_id),
                ("{name}", &integration.name),
                ("{app}", &app.name),
            ];
            LinkTarget::Url(values.iter().fold(template.clone(), |url, (placeholder, value)| url.replace(placeholder, &encode(value))))
        }
    }
}

/// Texts that all integrations of an application share.
struct SharedTexts {
    app: Arc<str>,
    client_id: Arc<str>,
    display_name: Arc<str>,
    permissions: Arc<[String]>,
}

fn shared_texts(app: &App) -> SharedTexts {
    let values = |r: &crate::domain::RequiredPermissions| match app.access {
        Access::Delegated => r.delegated.clone(),
        Access::Application => [r.delegated.clone(), r.application.clone()].concat(),
    };
    SharedTexts {
        app: app.name.as_str().into(),
        client_id: app.client_id.as_str().into(),
        display_name: app.display_name.as_str().into(),
        permissions: app.required.iter().flat_map(values).collect(),
    }
}

fn watched(config: &Config, texts: &HashMap<&str, SharedTexts>, integration: &Integration) -> Option<Watched> {
    let (app, texts) = (config.apps.get(&integration.app)?, texts.get(integration.app.as_str())?);
    Some(Watched {
        facts: Facts {
            name: integration.name.clone(),
            app: Arc::clone(&texts.app),
            client_id: Arc::clone(&texts.client_id),
            tenant: integration.tenant.clone(),
            display_name: integration.display_name.clone(),
            access: app.access,
            labels: integration.labels.clone(),
            checks: integration.profile.checks.clone(),
        },
        identity: format!("{}/{}", integration.tenant, app.client_id),
        tenant: integration.tenant.clone(),
        app_display_name: Arc::clone(&texts.display_name),
        reader: integration.reader.clone(),
        admins: integration.admins.clone(),
        permissions: Arc::clone(&texts.permissions),
        link: link_target(config, app, integration),
    })
}

/// The mail server as configured, when it is one that can be used.
pub fn smtp(email: &Email) -> Option<SmtpSettings> {
    let smtp = email.smtp.as_ref()?;
    Some(SmtpSettings {
        from: email.from.clone(),
        reply_to: email.reply_to.clone(),
        host: smtp.host.clone(),
        port: smtp.port,
        protection: match smtp.tls {
            SmtpTls::Starttls => Protection::Starttls,
            SmtpTls::Implicit => Protection::Implicit,
            SmtpTls::None => Protection::None,
        },
        ca_file: smtp.ca_file.clone(),
        credentials: smtp.credentials.clone(),
    })
}

/// What every mail has in common.
pub fn letterhead(email: &Email) -> Letterhead {
    Letterhead { domain: email.from.email.domain().to_owned(), support_contact: email.support_contact.clone() }
}

/// Where the daemon is reached.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Serve everything.
    pub all: Vec<Listener>,
    /// Serves the pages of re-authentication and nothing else.
    pub reauthentication: Option<Listener>,
    /// Serves health and readiness and nothing else.
    pub health: Option<Listener>,
}

/// What the command line says of the listeners, besides their addresses.
#[derive(Debug, Default)]
pub struct Front {
    /// About the pages.
    pub options: WebOptions,
    /// The file of `--web.config.file`.
    pub web_config_file: Option<PathBuf>,
}

/// Reads `--web.config.file`, if there is one.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn gate(file: Option<&Path>, clock: Clock) -> anyhow::Result<Gate> {
    Gate::load(file, clock).map_err(|problems| anyhow::anyhow!("{}", problems.join("\n")))
}

impl Daemon {
    /// Wires the parts together. Nothing runs yet.
    ///
    /// # Errors
    /// Database, key, proxy or certificate file cannot be used.
    pub async fn wire(config: &Config, clock: Clock, front: Front) -> anyhow::Result<Self> {
        let families = Families::new().context("cannot register metrics")?;
        families.configuration_read(clock.now());
        let store = store(config)?;
        let (published, outbox) = (Arc::new(Published::default()), Arc::new(Notify::new()));
        let enabled: Vec<&Integration> = config.integrations.iter().filter(|i| i.enabled).collect();
        let names: HashSet<&str> = enabled.iter().map(|i| i.name.as_str()).collect();
        let policy = Policy {
            thresholds: Thresholds { failure: config.probe.failure_threshold, success: config.probe.success_threshold },
            mail: config.email.is_some(),
            operators: config.email.as_ref().map(|e| e.operators.clone()).unwrap_or_default(),
            send_resolved: config.email.as_ref().is_some_and(|e| e.send_resolved),
            lasting: config.probe.interval.saturating_mul(LASTING_INTERVALS),
        };
        let texts: HashMap<&str, SharedTexts> = config.apps.iter().map(|(name, app)| (name.as_str(), shared_texts(app))).collect();
        let watched = enabled.iter().filter_map(|i| watched(config, &texts, i)).collect::<Vec<_>>();
        let evaluator = Evaluator::start(store.clone(), policy, Arc::clone(&published), Arc::clone(&outbox), watched).await?;
        let schedule_policy = SchedulePolicy {
            interval: config.probe.interval,
            retry_interval: config.probe.retry_interval,
            failure_threshold: config.probe.failure_threshold,
        };
        let schedule = Schedule::new(schedule_policy, enabled.iter().map(|i| (i.name.clone(), i.tenant.clone())), clock.now());
        let entra = entra(config, Some(families.clone()))?;
        let prober = Prober::new(entra.clone(), store.clone(), clock.clone());
        let enabled_ones = targets(config).into_iter().filter(|t| names.contains(t.name.as_str()));
        let targets: Targets = Arc::new(enabled_ones.map(|t| (t.name.clone(), t)).collect());
        let rhythm = Rhythm { timeout: config.probe.timeout, concurrency: config.probe.concurrency };
        let handed_over = Arc::new(Notify::new());
        let parts = (entra, store.clone(), families.clone(), clock.clone());
        let reauthentication = reauthentication::reauthentication(config, parts, &targets, Arc::clone(&handed_over));
        let witness = reauthentication::witness(reauthentication.clone());
        let monitor = Monitor::new(schedule, Arc::clone(&targets), prober, evaluator, families.clone(), clock.clone(), rhythm, witness);
        if let Some(reauthentication) = &reauthentication {
            reauthentication.unproved().await?.iter().for_each(|name| monitor.prove(name));
        }
        let handover = Handover::new(
            store.clone(),
            families.clone(),
            clock.clone(),
            reauthentication::hooks(config),
            config.upstream.ca_file.as_deref(),
            handed_over,
        )?;
        let notifier = notifier(config, &store, link_maker(config, &store, &targets), &families, &clock, outbox);
        let public_url = config.reauthentication.public_url.clone();
        let gate = Arc::new(gate(front.web_config_file.as_deref(), clock.clone())?);
        let reload = Box::new(|| Box::pin(async { Err("not yet".to_owned()) }) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>);
        let process = Arc::new(Process::new((families, published, clock), front.options, gate, reload));
        let served = Arc::new(Served {
            process: Arc::clone(&process),
            reauthentication,
            guard: Guard::new(&config.cloud.login_url, public_url.as_deref().is_some_and(|u| u.starts_with("https://"))),
            public_url,
            support: config.email.as_ref().and_then(|e| e.support_contact.clone()),
            monitor: pages::lookup(config, &monitor, &store, &targets),
            configuration: web::compress(&effective(config))?,
        });
        Ok(Self { monitor, notifier, handover, sites: Sites::new(&served), process, store })
    }

    /// Runs until `stop` becomes true, then finishes what is under way.
    pub async fn run(self, listeners: Listeners, stop: watch::Receiver<bool>) {
        let mut tasks = tokio::task::JoinSet::new();
        for listener in listeners.all {
            tasks.spawn(web::serve(listener, Arc::clone(&self.sites.all), stop.clone()));
        }
        if let Some(listener) = listeners.reauthentication {
            tasks.spawn(web::serve(listener, Arc::clone(&self.sites.reauthentication), stop.clone()));
        }
        if let Some(listener) = listeners.health {
            tasks.spawn(web::serve(listener, Arc::clone(&self.sites.health), stop.clone()));
        }
        tasks.spawn(self.handover.run(stop.clone()));
        tasks.spawn(self.monitor.run(stop.clone()));
        if let Some(notifier) = self.notifier {
            tasks.spawn(notifier.run(stop));
        }
        self.process.ready.store(true, Ordering::Relaxed);
        tracing::info!("ready");
        while tasks.join_next().await.is_some() {}
    }
}

/// Makes the links of mails.
fn link_maker(config: &Config, store: &Store, targets: &Targets) -> LinkMaker {
    let (links, targets) = (links(config, store), Arc::clone(targets));
    Arc::new(move |integration, now| Some(links.as_ref()?.make(&targets.get(integration)?.token_id(), now)))
}

fn notifier(config: &Config, store: &Store, link: LinkMaker, families: &Families, clock: &Clock, outbox: Arc<Notify>) -> Option<Notifier> {
    let email = config.email.as_ref()?;
    let settings = NotifierSettings { smtp: smtp(email)?, letterhead: letterhead(email), operators: email.operators.clone(), link };
    Some(Notifier::new(settings, store.clone(), families.clone(), clock.clone(), outbox))
}

/// Addresses to listen on, as the command line gives them.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// Serve everything.
    pub all: &'a [String],
    /// Serves health and readiness and nothing else.
    pub health: Option<&'a str>,
}

/// Runs the daemon of a configuration until a signal.
///
/// # Errors
/// It cannot start.
pub async fn run(config: Config, addresses: &Addresses<'_>, front: Front) -> anyhow::Result<()> {
    let _lock = DaemonLock::take(&config.storage.path)?;
    let mut listeners = Listeners::default();
    for address in addresses.all {
        listeners.all.push(web::bind(address).await?);
    }
    if let Some(address) = addresses.health {
        listeners.health = Some(web::bind(address).await?);
    }
    if let Some(address) = &config.reauthentication.listen_address {
        listeners.reauthentication = Some(web::bind(address).await?);
    }
    let daemon = Daemon::wire(&config, Clock::System, front).await?;
    // Everything that is needed of it lives in the parts now.
    drop(config);
    for listener in &listeners.all {
        tracing::info!(address = %listener, "listening");
    }
    if let Some(listener) = &listeners.health {
        tracing::info!(address = %listener, "listening for health checks only");
    }
    if let Some(listener) = &listeners.reauthentication {
        tracing::info!(address = %listener, "listening for re-authentication only");
    }
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(daemon.run(listeners, stopped));
    signal().await?;
    tracing::info!("stopping");
    stop.send_replace(true);
    // What is not finished by then is picked up after the next start; nothing is lost.
    if tokio::time::timeout(Duration::from_secs(9), running).await.is_err() {
        tracing::warn!("some probes or mails were still under way");
    }
    Ok(())
}

/// Waits for SIGINT or SIGTERM.
async fn signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            result = tokio::signal::ctrl_c() => return Ok(result?),
            _ = hangup.recv() => tracing::warn!("this version does not reload its configuration; restart it instead"),
        }
    }
}
