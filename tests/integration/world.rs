//! The world of a test: a simulator with the demo's tenants, a folder with a configuration and a database,
//! and a socket. A test turns it into a fleet in this process, into a site that serves one, or starts the
//! program in it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use consentry::app;
use consentry::config::{self, Config};
use consentry::demo::{self, SITUATIONS, Situation};
use consentry::domain::Timestamp;
use entra_sim::mailbox::Parsed;
use entra_sim::{Action, Options, Simulator};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::configuration::Configuration;
use crate::daemon::Daemon;
use crate::fleet::Fleet;
use crate::visitor::Site;

pub const MINUTE: Duration = Duration::from_secs(60);

/// The time in a world whose clock stands still.
pub const START: Timestamp = Timestamp::from_seconds(1_790_000_000);

/// The base URL of links in tests that do not open them.
pub const PUBLIC_URL: &str = "https://c.example.com";

/// Only ends a test that would hang; nothing in these tests takes as long.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An interval of five minutes, and the defaults for everything else.
const USUAL: &str = "  interval: 5m\n";

/// Fast enough for a test in real time.
const FAST: &str = "  interval: 1s\n  retry_interval: 100ms\n  timeout: 5s\n";

pub struct World {
    pub simulator: Simulator,
    pub folder: TempDir,
    pub configuration: Configuration,
    /// Its URL, with the path of its links.
    pub url: String,
    /// Requests wait in this socket until somebody serves it.
    pub listener: TcpListener,
}

/// The base URL of the links.
enum Links<'a> {
    /// An address outside the world.
    At(&'a str),
    /// The world's own socket, below a path.
    Here(&'a str),
}

/// The clock of a world.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// The clock stands still at [`START`] until the test moves it.
    Stands,
    /// The real time; everything is probed every second.
    Passes,
}

impl World {
    /// The demo's tenants, signed in and healthy, their clock at the start.
    pub async fn demo() -> Self {
        Self::demo_with(Options::default()).await
    }

    pub async fn demo_with(options: Options) -> Self {
        Self::new(options, &Links::At(PUBLIC_URL), Time::Stands).await
    }

    /// The same with links that lead to the world itself, below the path that a reverse proxy would add.
    pub async fn reachable(path: &str) -> Self {
        Self::new(Options::default(), &Links::Here(path), Time::Stands).await
    }

    /// The same in real time, for the program.
    pub async fn live() -> Self {
        Self::live_at(PUBLIC_URL).await
    }

    /// In real time, with links that start with this URL.
    pub async fn live_at(public_url: &str) -> Self {
        Self::new(Options::default(), &Links::At(public_url), Time::Passes).await
    }

    /// In real time, with links that lead to the world itself.
    pub async fn live_and_reachable() -> Self {
        Self::new(Options::default(), &Links::Here(""), Time::Passes).await
    }

    async fn new(options: Options, links: &Links<'_>, time: Time) -> Self {
        let listener = listen();
        let address = listener.local_addr().expect("an address");
        let (url, public_url) = match links {
            Links::At(public_url) => (format!("http://{address}"), (*public_url).to_owned()),
            Links::Here(path) => (format!("http://{address}{path}"), format!("http://{address}{path}")),
        };
        let simulator = Simulator::start(options).await.expect("a simulator");
        if time == Time::Stands {
            freeze(&simulator, START);
        }
        demo::populate(&simulator, &public_url).expect("tenants");
        let probe = if time == Time::Stands { USUAL } else { FAST };
        let mut configuration = Configuration::demo(&simulator, &public_url, probe);
        configuration.set("email.group_wait", "0s");
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { simulator, folder, configuration, url, listener };
        world.configuration.write(&world.file());
        let store = app::store(&world.config()).expect("a database");
        demo::sign_in(&world.simulator, &store).await.expect("tokens");
        store.close().await;
        world
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file of its configuration.
    pub fn file(&self) -> PathBuf {
        self.path("consentry.yml")
    }

    pub fn config(&self) -> Config {
        config::load(&self.file()).map_or_else(|problems| panic!("{problems:#?}"), |loaded| loaded.config)
    }

    /// As [`Configuration::set`], in the file at once.
    pub fn set(&mut self, path: &str, yaml: &str) -> &mut Self {
        self.change(|configuration| {
            configuration.set(path, yaml);
        })
    }

    /// As [`Configuration::add`], in the file at once.
    pub fn add(&mut self, path: &str, yaml: &str) -> &mut Self {
        self.change(|configuration| {
            configuration.add(path, yaml);
        })
    }

    /// As [`Configuration::remove`], in the file at once.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        self.change(|configuration| {
            configuration.remove(path);
        })
    }

    /// As [`Configuration::only`], in the file at once.
    pub fn only(&mut self, names: &[&str]) -> &mut Self {
        self.change(|configuration| {
            configuration.only(names);
        })
    }

    /// Changes the configuration and its file.
    pub fn change(&mut self, change: impl FnOnce(&mut Configuration)) -> &mut Self {
        change(&mut self.configuration);
        self.configuration.write(&self.file());
        self
    }

    /// A daemon in this process, on a clock that the test moves.
    pub async fn fleet(self) -> Fleet {
        Fleet::of(self).await
    }

    /// The same, served on the world's socket.
    pub async fn site(self) -> Site {
        Site::of(self).await
    }

    /// The program as a daemon on the world's socket, unless the flags give an address.
    pub fn daemon(&self, flags: &[&str]) -> Daemon {
        self.daemon_with(flags, |_| {})
    }

    /// One whose process a test sets up further.
    pub fn daemon_with(&self, flags: &[&str], set_up: impl FnOnce(&mut Command)) -> Daemon {
        self.start("", flags, set_up)
    }

    /// One that may have so many files and sockets open.
    pub fn daemon_with_descriptors(&self, limit: u32, flags: &[&str]) -> Daemon {
        self.start(&format!("ulimit -n {limit}; "), flags, |_| {})
    }

    /// A shell hands the socket over as systemd does: as descriptor 3 of the process that it becomes.
    fn start(&self, before: &str, flags: &[&str], set_up: impl FnOnce(&mut Command)) -> Daemon {
        let address = flags.iter().find_map(|flag| flag.strip_prefix("--web.listen-address="));
        let handed = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; ";
        let script = format!("{before}{}exec \"$@\"", if address.is_none() { handed } else { "" });
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_consentry"), "run"]).args(flags);
        command.arg(self.config_flag());
        command.stdin(match address {
            None => Stdio::from(OwnedFd::from(self.listener.try_clone().expect("a socket"))),
            Some(_) => Stdio::null(),
        });
        set_up(&mut command);
        let own = || self.listener.local_addr().expect("an address").to_string();
        Daemon::start(command, address.map_or_else(own, str::to_owned))
    }

    /// Runs a command of the program to its end.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        self.command_with(arguments, "").await
    }

    /// The same with a text on its standard input.
    pub async fn command_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consentry"));
        command.args(arguments).arg(self.config_flag()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).await.expect("written");
        tokio::time::timeout(LONGEST_WAIT, child.wait_with_output()).await.expect("in time").expect("ended")
    }

    pub fn config_flag(&self) -> String {
        format!("--config.file={}", self.file().display())
    }

    /// Writes the file of `--web.config.file`; returns that flag.
    pub fn web_config(&self, text: &str) -> String {
        let file = self.path("web.yml");
        replace(&file, text);
        format!("--web.config.file={}", file.display())
    }

    pub fn act(&self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            self.simulator.apply(action).expect("a possible change");
        }
    }

    /// Breaks an integration as its [`Situation`] describes.
    pub fn breaks(&self, name: &str) {
        self.act((situation(name).breaks)(&situation(name).tenant()));
    }

    /// Fixes what [`World::breaks`] broke.
    pub fn fix(&self, name: &str) {
        self.act((situation(name).fix)(&situation(name).tenant()));
    }

    /// A refresh token of an integration's tenant, issued now.
    pub fn refresh_token(&self, name: &str) -> String {
        refresh_token(&self.simulator, name)
    }

    /// The result of a query for one number.
    pub fn database(&self, question: &str) -> i64 {
        let connection = rusqlite::Connection::open(self.path("consentry.db")).expect("the database");
        connection.query_row(question, [], |row| row.get(0)).expect("an answer")
    }

    /// Waits until a query returns this number.
    pub async fn database_says(&self, question: &str, count: i64) {
        eventually(question, async || (self.database(question) == count).then_some(())).await;
    }

    /// Waits until so many mails have arrived.
    pub async fn mails(&self, count: usize) {
        let arrived = tokio::time::timeout(LONGEST_WAIT, self.simulator.mailbox().wait_for(count)).await;
        arrived.unwrap_or_else(|_| panic!("{} of {count} mails", self.simulator.mailbox().all().len()));
    }
}

/// A free socket. As many connections may wait in it as in the program's own.
fn listen() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    socket.listen(1024).and_then(tokio::net::TcpListener::into_std).expect("a listener")
}

/// An address for a listener that the program binds itself.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address").to_string()
}

/// Tries until there is a result.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(LONGEST_WAIT, what, attempt).await
}

/// The same for what may take longer.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> T {
    let tried = async {
        loop {
            if let Some(answer) = attempt().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, tried).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Writes a file atomically: a temporary file beside it replaces it.
pub fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(beside, path).expect("renamed");
}

pub fn situation(name: &str) -> &'static Situation {
    SITUATIONS.iter().find(|s| s.name == name).expect("a known situation")
}

pub fn refresh_token(simulator: &Simulator, name: &str) -> String {
    let situation = situation(name);
    let issue = Action::IssueRefreshToken { tenant: situation.tenant(), app: situation.app(), user: None };
    let answer = simulator.apply(issue).expect("a token");
    answer["refresh_token"].as_str().expect("a token").to_owned()
}

pub fn header(mail: &Parsed, name: &str) -> Option<String> {
    mail.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
}

pub fn freeze(simulator: &Simulator, at: Timestamp) {
    simulator.apply(Action::FreezeClock { at: Some(at.0 / 1000) }).expect("a frozen clock");
}

/// What a command has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
