//! A daemon on a manual clock, wired to a simulator. Time passes when a test says so; nothing sleeps.

use std::time::Duration;

use consentry::app::{Daemon, Front};
use consentry::clock::Clock;
use consentry::config::{self, Config};
use consentry::demo::{self, SITUATIONS, Situation};
use consentry::domain::Timestamp;
use consentry::metrics::{Format, write};
use consentry::secret::Secret;
use consentry::store::TokenId;
use entra_sim::mailbox::Parsed;
use entra_sim::{Action, Options, Simulator};
use tempfile::TempDir;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const START: Timestamp = Timestamp::from_seconds(1_790_000_000);

/// Five minutes, and everything else as a vendor would leave it.
pub const USUAL: &str = "  interval: 5m\n";

/// What links start with where nobody follows them.
pub const PUBLIC_URL: &str = "https://consentry.example.com";

pub struct Fleet {
    pub simulator: Simulator,
    pub folder: TempDir,
    pub config: Config,
    pub clock: Clock,
    pub daemon: Daemon,
}

/// A simulator with the demo's tenants, its clock at the start.
pub async fn tenants(options: Options) -> Simulator {
    let simulator = Simulator::start(options).await.expect("a simulator");
    freeze(&simulator, START);
    demo::populate(&simulator, PUBLIC_URL).expect("tenants");
    simulator
}

pub fn situation(name: &str) -> &'static Situation {
    SITUATIONS.iter().find(|s| s.name == name).expect("a known situation")
}

impl Fleet {
    /// The demo's fleet, signed in and healthy, not probed yet.
    pub async fn start() -> Self {
        let simulator = tenants(Options::default()).await;
        let text = demo::configuration(&simulator, PUBLIC_URL, USUAL);
        let fleet = Self::with(simulator, &text).await;
        demo::sign_in(&fleet.simulator, &fleet.daemon.store).await.expect("tokens");
        fleet
    }

    /// A daemon with a configuration of its own.
    pub async fn with(simulator: Simulator, configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::manual(START);
        freeze(&simulator, START);
        let config = load(&folder, configuration);
        let daemon = Daemon::wire(&config, clock.clone(), Front::default()).await.expect("a daemon");
        Self { simulator, folder, config, clock, daemon }
    }

    /// The same database and clock, another process.
    pub async fn restart(self) -> Self {
        let Self { simulator, folder, config, clock, daemon } = self;
        drop(daemon);
        let daemon = Daemon::wire(&config, clock.clone(), Front::default()).await.expect("a daemon");
        Self { simulator, folder, config, clock, daemon }
    }

    /// Lives through some time: probes that fall due, then mails that are waiting.
    pub async fn pass(&self, duration: Duration) {
        let until = self.clock.steady().plus(duration);
        // The simulator's clock follows in steps that are shorter than any tolerance of clocks. Nobody sets that one.
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
    pub fn told(&self) -> Vec<String> {
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
        let answer = self
            .simulator
            .apply(Action::IssueRefreshToken { tenant: situation.tenant(), app: situation.app(), user: None })
            .expect("a token");
        let id = TokenId {
            integration: integration.to_owned(),
            client_id: situation.app().to_string(),
            tenant: situation.tenant(),
        };
        let token = Secret::new(answer["refresh_token"].as_str().expect("a token"));
        self.daemon.store.put_token(&id, &token, "import", self.clock.now()).await.expect("stored");
    }
}

pub fn header(mail: &Parsed, name: &str) -> Option<String> {
    mail.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
}

pub fn load(folder: &TempDir, configuration: &str) -> Config {
    let file = folder.path().join("consentry.yml");
    std::fs::write(&file, configuration).expect("written");
    config::load(&file).map_or_else(|problems| panic!("{problems:#?}"), |l| l.config)
}

pub fn freeze(simulator: &Simulator, at: Timestamp) {
    simulator.apply(Action::FreezeClock { at: Some(at.0 / 1000) }).expect("a frozen clock");
}
