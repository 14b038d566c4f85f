//! A daemon on a manual clock, connected to a simulator. Time passes only when a test moves it, and nothing
//! sleeps.

use std::time::Duration;

use consentry::app::{Daemon, Front};
use consentry::clock::Clock;
use consentry::config::Config;
use consentry::metrics::{Format, write};
use consentry::secret::Secret;
use consentry::store::TokenId;
use entra_sim::mailbox::Parsed;
use entra_sim::{Action, Simulator};
use tempfile::TempDir;

use crate::configuration::Configuration;
use crate::world::{MINUTE, START, World, freeze, header, refresh_token, situation};

pub struct Fleet {
    pub simulator: Simulator,
    pub folder: TempDir,
    pub configuration: Configuration,
    pub config: Config,
    pub clock: Clock,
    pub daemon: Daemon,
}

impl Fleet {
    /// The demo's fleet, signed in and healthy, not probed yet.
    pub async fn start() -> Self {
        World::demo().await.fleet().await
    }

    /// The daemon of a world whose clock stands still.
    pub async fn of(world: World) -> Self {
        let config = world.config();
        let World { simulator, folder, configuration, .. } = world;
        let clock = Clock::manual(START);
        let daemon = Daemon::wire(&config, clock.clone(), Front::default()).await.expect("a daemon");
        Self { simulator, folder, configuration, config, clock, daemon }
    }

    /// Another process with the same database and clock.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same with another configuration.
    pub async fn restart_with(self, change: impl FnOnce(&mut Configuration)) -> Self {
        let Self { simulator, folder, mut configuration, clock, daemon, .. } = self;
        drop(daemon);
        change(&mut configuration);
        let file = folder.path().join("consentry.yml");
        configuration.write(&file);
        let config = consentry::config::load(&file).expect("valid").config;
        let daemon = Daemon::wire(&config, clock.clone(), Front::default()).await.expect("a daemon");
        Self { simulator, folder, configuration, config, clock, daemon }
    }

    /// Lets time pass: runs the probes that are due, then sends the waiting mails.
    pub async fn pass(&self, duration: Duration) {
        let until = self.clock.steady().plus(duration);
        // The simulator's clock follows in steps that are shorter than any allowed clock difference, because
        // no test sets that clock.
        while self.clock.steady() < until {
            let step = self.clock.steady().plus(2 * MINUTE).min(until);
            self.daemon.monitor.run_until(step).await;
            freeze(&self.simulator, step);
        }
        if let Some(notifier) = &self.daemon.notifier {
            notifier.drain().await.expect("the outbox");
        }
    }

    pub fn act(&self, actions: Vec<Action>) {
        for action in actions {
            self.simulator.apply(action).expect("a possible change");
        }
    }

    pub fn exposition(&self) -> String {
        write(&self.daemon.process.families, &self.daemon.process.published, Format::Text)
    }

    /// Lines of the exposition that start with a family and are about an integration.
    pub fn series(&self, family: &str, integration: &str) -> Vec<String> {
        let label = format!("integration=\"{integration}\"");
        self.exposition()
            .lines()
            .filter(|l| l.starts_with(family) && l.contains(&label))
            .map(str::to_owned)
            .collect()
    }

    pub fn up(&self, integration: &str) -> Option<String> {
        self.series("consentry_integration_up", integration)
            .first()
            .and_then(|l| l.split(' ').next_back().map(str::to_owned))
    }

    /// (check, reason) of what does not pass.
    pub fn reasons(&self, integration: &str) -> Vec<(String, String)> {
        let label = |line: &str, name: &str| {
            line.split(&format!("{name}=\""))
                .nth(1)
                .and_then(|r| r.split('"').next())
                .unwrap_or_default()
                .to_owned()
        };
        self.series("consentry_check_reason", integration)
            .iter()
            .map(|l| (label(l, "check"), label(l, "reason")))
            .collect()
    }

    /// All mails so far: recipient and content.
    pub fn mails(&self) -> Vec<(String, Parsed)> {
        self.simulator.mailbox().all().iter().map(|m| (m.to.join(","), m.parsed())).collect()
    }

    /// All mails so far as "kind to recipient".
    pub fn notified(&self) -> Vec<String> {
        self.mails()
            .iter()
            .map(|(to, m)| format!("{} to {to}", header(m, "X-Consentry-Event").expect("an event header")))
            .collect()
    }

    /// The kinds of mail that one person got, in order.
    pub fn kinds(&self, recipient: &str) -> Vec<String> {
        let own = self.mails().into_iter().filter(|(to, _)| to == recipient);
        own.map(|(_, m)| header(&m, "X-Consentry-Event").expect("an event header")).collect()
    }

    /// A new sign-in, as `import-token` would bring it.
    pub async fn import_token(&self, integration: &str) {
        let situation = situation(integration);
        let id = TokenId {
            integration: integration.to_owned(),
            client_id: situation.app().to_string(),
            tenant: situation.tenant(),
        };
        let token = Secret::new(refresh_token(&self.simulator, integration));
        self.daemon.store.put_token(&id, &token, "import", self.clock.now()).await.expect("stored");
    }
}
