//! The program itself: commands, exit statuses, signals.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use consentry::app;
use consentry::config::load;
use consentry::demo;
use entra_sim::{Options, Simulator};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::harness::situation;

/// Fast enough for a test in real time.
pub const FAST: &str = "  interval: 1s\n  retry_interval: 100ms\n  timeout: 5s\n";

/// Nothing in these tests takes as long as this; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Place {
    pub simulator: Simulator,
    pub folder: TempDir,
}

impl Place {
    pub async fn new() -> Self {
        Self::at("https://c.example.com").await
    }

    /// With links that start with this URL.
    pub async fn at(public_url: &str) -> Self {
        let simulator = Simulator::start(Options::default()).await.expect("a simulator");
        demo::populate(&simulator, public_url).expect("tenants");
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { simulator, folder };
        std::fs::write(place.file(), demo::configuration(&place.simulator, public_url, FAST))
            .expect("written");
        let config = load(&place.file()).expect("valid").config;
        demo::sign_in(&place.simulator, &app::store(&config).expect("a database")).await.expect("tokens");
        place
    }

    pub fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("consentry.yml")
    }

    pub async fn command(&self, arguments: &[&str]) -> Output {
        self.command_with(arguments, "").await
    }

    pub async fn command_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = program(arguments, Some(&self.file()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).await.expect("written");
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("ended")
    }

    pub fn daemon(&self, arguments: &[&str]) -> Daemon {
        Daemon::start(program(&own_address(arguments), Some(&self.file())))
    }

    /// One that may have so many files and sockets open.
    pub fn daemon_with_descriptors(&self, limit: u32, arguments: &[&str]) -> Daemon {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!("ulimit -n {limit} && exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_consentry"),
        ]);
        command.args(own_address(arguments)).arg(format!("--config.file={}", self.file().display()));
        Daemon::start(command)
    }
}

/// A free port, unless an address is given.
fn own_address<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let own = arguments.iter().any(|a| a.starts_with("--web.listen-address"));
    [if own { &["run"][..] } else { &["run", "--web.listen-address=127.0.0.1:0"] }, arguments].concat()
}

pub struct Daemon {
    pub child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub seen: Vec<String>,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("started");
        let log = BufReader::new(child.stderr.take().expect("stderr")).lines();
        Self { child, log, seen: Vec::new() }
    }

    /// Reads the log until a line contains all of these words.
    pub async fn until(&mut self, words: &[&str]) -> String {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.log.next_line())
                .await
                .unwrap_or_else(|_| panic!("no line with {words:?} in {:#?}", self.seen));
            let line = line
                .expect("a log")
                .unwrap_or_else(|| panic!("the daemon ended before {words:?}: {:#?}", self.seen));
            self.seen.push(line.clone());
            if words.iter().all(|w| line.contains(w)) {
                return line;
            }
        }
    }

    /// Base URL of its listener.
    pub async fn url(&mut self) -> String {
        let line = self.until(&["listening"]).await;
        format!("http://{}", line.split("address=").nth(1).expect("an address").trim())
    }

    /// Ends it as systemd would, and reads its log to the end.
    pub async fn terminate(&mut self) {
        let pid = self.child.id().expect("a process").to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait())
            .await
            .expect("within ten seconds")
            .expect("ended");
        assert_eq!(ended.code(), Some(0));
        while let Some(line) = self.log.next_line().await.expect("a log") {
            self.seen.push(line);
        }
    }

    pub async fn kill(mut self) {
        self.child.start_kill().expect("killed");
        self.child.wait().await.expect("ended");
    }
}

fn program(arguments: &[&str], file: Option<&Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentry"));
    command.args(arguments);
    if let Some(file) = file {
        command.arg(format!("--config.file={}", file.display()));
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub async fn mails(place: &Place, count: usize) {
    let arrived = tokio::time::timeout(PATIENCE, place.simulator.mailbox().wait_for(count)).await;
    arrived.unwrap_or_else(|_| panic!("{} of {count} mails", place.simulator.mailbox().all().len()));
}

/// The three failures of a tenant's life, with the program as a user starts it: green, mail, green.
#[tokio::test]
async fn the_program_from_green_to_mail_to_green() {
    let place = Place::new().await;
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    daemon.until(&["ready"]).await;
    for (index, name) in ["contoso", "litware", "proseware"].into_iter().enumerate() {
        let situation = situation(name);
        let tenant = situation.tenant();
        (situation.breaks)(&tenant).into_iter().for_each(|a| drop(place.simulator.apply(a).expect("broken")));
        daemon
            .until(&[
                "integration is broken",
                &format!("integration={name}"),
                situation.reason.expect("a reason").label(),
            ])
            .await;
        mails(&place, 2 * index + 1).await;
        let metrics =
            reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("text");
        assert!(metrics.contains(&format!("consentry_integration_up{{integration=\"{name}\"}} 0\n")));
        (situation.fix)(&tenant).into_iter().for_each(|a| drop(place.simulator.apply(a).expect("fixed")));
        if name == "proseware" {
            let answer = place
                .simulator
                .apply(entra_sim::Action::IssueRefreshToken { tenant, app: situation.app(), user: None })
                .expect("a token");
            let output = place
                .command_with(
                    &["import-token", name],
                    &format!("{}\n", answer["refresh_token"].as_str().expect("a token")),
                )
                .await;
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        }
        daemon.until(&["integration works again", &format!("integration={name}")]).await;
        mails(&place, 2 * index + 2).await;
        let metrics =
            reqwest::get(format!("{url}/metrics")).await.expect("an answer").text().await.expect("text");
        assert!(metrics.contains(&format!("consentry_integration_up{{integration=\"{name}\"}} 1\n")));
    }
}

#[tokio::test]
async fn usage_and_exit_statuses() {
    let run =
        |arguments: &'static [&'static str]| async { program(arguments, None).output().await.expect("run") };
    let version = run(&["--version"]).await;
    assert_eq!((version.status.code(), text(&version.stdout).starts_with("consentry ")), (Some(0), true));
    assert_eq!(run(&["--help"]).await.status.code(), Some(0));
    assert_eq!(run(&["run", "--no-such-flag"]).await.status.code(), Some(2));
    assert_eq!(run(&["no-such-command"]).await.status.code(), Some(2));
    let missing = run(&["run", "--config.file=/nonexistent.yml"]).await;
    assert_eq!(
        (missing.status.code(), text(&missing.stderr).contains("cannot read the file")),
        (Some(1), true),
        "{}",
        text(&missing.stderr)
    );
    assert_eq!(run(&["check-config", "/nonexistent.yml"]).await.status.code(), Some(1));
    assert_eq!(run(&["probe", "x", "--config.file=/nonexistent.yml"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn probe_explains_and_touches_nothing() {
    let place = Place::new().await;
    let well = place.command(&["probe", "northwind"]).await;
    assert_eq!(well.status.code(), Some(0), "{}", text(&well.stderr));
    (situation("litware").breaks)("litware.example")
        .into_iter()
        .for_each(|a| drop(place.simulator.apply(a).expect("broken")));
    let ill = place.command(&["probe", "litware"]).await;
    let table = text(&ill.stdout);
    assert_eq!(ill.status.code(), Some(1));
    for expected in [
        "CHECK",
        "enterprise_app  FAIL     app_deleted: The enterprise application was deleted.",
        "-> Re-authenticate, or restore it",
        "can be restored until",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }
    let json = place.command(&["probe", "litware", "--output=json"]).await;
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (parsed["result"].as_str(), parsed["reason"].as_str(), parsed["checks"].as_array().map(Vec::len)),
        (Some("fail"), Some("app_deleted"), Some(3))
    );
    let unknown = place.command(&["probe", "litwear"]).await;
    assert_eq!((unknown.status.code(), text(&unknown.stderr).contains("litware")), (Some(2), true));
    assert!(place.simulator.mailbox().all().is_empty(), "no mail");
}

#[tokio::test]
async fn test_email_shows_the_dialogue_when_it_fails() {
    let place = Place::new().await;
    let sent = place.command(&["test-email", "me@example.com"]).await;
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    let mail = place.simulator.mailbox().all()[0].parsed();
    assert_eq!(crate::harness::header(&mail, "X-Consentry-Event").as_deref(), Some("test"));
    place.simulator.mailbox().set_faults(entra_sim::MailFaults {
        reject: vec!["me@example.com".to_owned()],
        ..Default::default()
    });
    let refused = place.command(&["test-email", "me@example.com"]).await;
    let dialogue = text(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1));
    assert!(dialogue.contains("> RCPT TO:<me@example.com>") && dialogue.contains("550"), "{dialogue}");
}

#[tokio::test]
async fn one_daemon_and_a_clean_end() {
    let place = Place::new().await;
    let mut first = place.daemon(&[]);
    first.until(&["ready"]).await;
    let second = tokio::time::timeout(
        PATIENCE,
        program(&["run", "--web.listen-address=127.0.0.1:0"], Some(&place.file())).output(),
    )
    .await
    .expect("in time")
    .expect("run");
    assert_eq!(
        (second.status.code(), text(&second.stderr).contains("another consentry is running")),
        (Some(1), true),
        "{}",
        text(&second.stderr)
    );
    first.terminate().await;
}

/// Probes that hang for ever, and a client that never takes its answer, do not keep it from ending in time.
#[tokio::test]
async fn an_end_while_everything_hangs() {
    let place = Place::new().await;
    let hang = entra_sim::FaultKind::Hang;
    place.simulator.fault(entra_sim::Fault {
        endpoint: entra_sim::Endpoint::Graph,
        tenant: None,
        contains: None,
        times: None,
        fault: hang,
    });
    let text = std::fs::read_to_string(place.file()).expect("readable");
    std::fs::write(place.file(), text.replace("timeout: 5s", "timeout: 5m")).expect("written");
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    let mut rude = tokio::net::TcpStream::connect(url.replace("http://", "")).await.expect("connected");
    rude.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200).as_bytes()).await.expect("sent");
    // Answered means that the daemon is at work; nothing of a probe that hangs would be in the log.
    assert_eq!(reqwest::get(format!("{url}/-/ready")).await.expect("an answer").status(), 200);
    while !place.simulator.take_requests().iter().any(|r| r.target.contains("/token")) {
        assert_eq!(reqwest::get(format!("{url}/-/ready")).await.expect("an answer").status(), 200);
    }
    daemon.terminate().await;
    assert!(daemon.seen.iter().any(|l| l.contains("were not finished")), "{:#?}", daemon.seen);
}

#[tokio::test]
async fn tokens_and_links_on_the_command_line() {
    let place = Place::new().await;
    for (arguments, input, code, expected) in [
        (["import-token", "northwind"], "1.abc\n", 0, "stored"),
        (["import-token", "northwind"], "  \n", 1, "one refresh token"),
        (["import-token", "northwind"], "two words", 1, "one refresh token"),
        (["import-token", "fabrikam"], "1.abc", 1, "access: application"),
        (["import-token", "nobody"], "1.abc", 1, "no integration is called nobody"),
        (["reauth-link", "northwind"], "", 0, "https://c.example.com/reauth/northwind?token="),
    ] {
        let output = place.command_with(&arguments, input).await;
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(
            (output.status.code(), said.contains(expected)),
            (Some(code), true),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("1.abc"));
    }
}

/// What `setup` prints is a script that shellcheck finds clean, and that asks Azure CLI for the right things.
#[tokio::test]
async fn setup_prints_text_and_a_script() {
    let place = Place::new().await;
    let file = std::fs::read_to_string(place.file()).expect("readable");
    // A name that would break out of a comment or a word of the shell, if it could.
    std::fs::write(place.file(), file.replace("\"Litware\"", "\"Lit\\nrm -rf ~; echo 'ware'\""))
        .expect("written");
    let output = place.command(&["setup", "litware"]).await;
    let script = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for expected in [
        "# 1. The application",
        "platform must be Web, never SPA",
        "https://c.example.com/reauth/callback",
        "# 3. The directory reader reader",
        "Directory.Read.All",
        "litware.example/v2.0/adminconsent?client_id=",
        "add_permission \"$app\" '00000003-0000-0000-c000-000000000000' 'Group.Read.All' Scope",
        "add_permission \"$reader\" '00000003-0000-0000-c000-000000000000' 'Directory.Read.All' Role",
    ] {
        assert!(script.contains(expected), "{expected}: {script}");
    }
    assert!(!script.contains("demo-secret"));
    let file = place.folder.path().join("setup.sh");
    std::fs::write(&file, &script).expect("written");
    // Azure CLI as far as the script goes: it answers, and writes down what it was asked.
    let asked = place.folder.path().join("asked");
    let az = "case \"$*\" in *redirectUris*) echo https://other.example/cb;; *requiredResourceAccess*) echo 77777777-2222-3333-4444-555555555555;; \
              *appId*) echo 00000003-0000-0000-c000-000000000000;; *User.Read*) echo 77777777-2222-3333-4444-555555555555;; \
              *'sp show'*) echo 11111111-2222-3333-4444-555555555555;; esac";
    let bin = place.folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(
        bin.join("az"),
        format!("#!/usr/bin/env bash\necho \"$*\" >>'{}'\n{az}\n", asked.display()),
    )
    .expect("written");
    let mut permissions = std::fs::metadata(bin.join("az")).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(bin.join("az"), permissions).expect("executable");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new("bash").arg(&file).env("PATH", path).output().await.expect("bash");
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let asked = std::fs::read_to_string(asked).expect("asked");
    assert!(
        asked.contains("--web-redirect-uris https://other.example/cb https://c.example.com/reauth/callback"),
        "{asked}"
    );
    let added = asked.matches("--api 00000003-0000-0000-c000-000000000000 --api-permissions 11111111-2222-3333-4444-555555555555=").count();
    assert_eq!(added, 5, "four scopes and one role; what is registered already is not added again: {asked}");
    if crate::tools::available("shellcheck") {
        let checked = Command::new("shellcheck").arg(&file).output().await.expect("shellcheck");
        assert!(checked.status.success(), "{}", text(&checked.stdout));
    }
    let plain = text(&place.command(&["setup", "adatum", "--output=text"]).await.stdout);
    assert!(
        plain.starts_with("What has to be registered")
            && plain.contains("application Group.Read.All")
            && !plain.contains("reauth-link")
    );
}

/// The listener of the re-authentication pages, as the daemon starts it from the configuration, and the one for orchestrators.
#[tokio::test]
async fn the_reauthentication_listener_of_the_configuration() {
    let place = Place::new().await;
    let text = std::fs::read_to_string(place.file()).expect("readable");
    std::fs::write(
        place.file(),
        text.replace("public_url: \"", "listen_address: \"127.0.0.1:0\", public_url: \""),
    )
    .expect("written");
    let mut daemon = place.daemon(&["--health.listen-address=127.0.0.1:0"]);
    let main = daemon.url().await;
    let line = daemon.until(&["listening for health checks only"]).await;
    let health = format!("http://{}", line.split("address=").nth(1).expect("an address").trim());
    let line = daemon.until(&["listening for re-authentication only"]).await;
    let url = format!("http://{}", line.split("address=").nth(1).expect("an address").trim());
    daemon.until(&["ready"]).await;
    for (path, status) in
        [("/-/healthy", 200), ("/-/ready", 200), ("/metrics", 404), ("/", 404), ("/reauth/northwind", 404)]
    {
        assert_eq!(
            reqwest::get(format!("{health}{path}")).await.expect("an answer").status(),
            status,
            "{path}"
        );
    }
    let shown = reqwest::get(format!("{main}/config")).await.expect("an answer").text().await.expect("text");
    assert!(
        shown.contains("northwind.example") && shown.contains("<secret>") && !shown.contains("demo-secret"),
        "{shown}"
    );
    let reload = reqwest::Client::new().post(format!("{main}/-/reload")).send().await.expect("an answer");
    assert_eq!(reload.status(), 403, "as in Prometheus without its lifecycle API");
    for (path, status) in
        [("/reauth/assets/page.css", 200), ("/metrics", 404), ("/", 404), ("/reauth/northwind", 403)]
    {
        assert_eq!(reqwest::get(format!("{url}{path}")).await.expect("an answer").status(), status, "{path}");
    }
    daemon.kill().await;
}

/// `check-config --online` asks out there: expected, seen, what to change; and sends no mail.
#[tokio::test]
async fn check_config_online() {
    let place = Place::new().await;
    let well = place.command(&["check-config", "--online"]).await;
    let said = text(&well.stdout);
    assert_eq!(well.status.code(), Some(0), "{said}{}", text(&well.stderr));
    for words in [
        "10 of 10 found",
        "app sequr: accepted in",
        "directory reader reader: accepted in",
        "accepts the connection",
        "every service works",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    place
        .simulator
        .apply(entra_sim::Action::RemoveTenant { tenant: "contoso.example".to_owned() })
        .expect("removed");
    place.simulator.apply(entra_sim::Action::RemoveSecrets { app: demo::READER }).expect("removed");
    place
        .simulator
        .apply(entra_sim::Action::AddSecret {
            app: demo::READER,
            secret: "another".to_owned(),
            expires_in_seconds: 3600,
        })
        .expect("added");
    place.simulator.mailbox().set_faults(entra_sim::MailFaults { refuse: true, ..Default::default() });
    let ill = place.command(&["check-config", "--online"]).await;
    let said = text(&ill.stdout);
    assert_eq!(ill.status.code(), Some(1), "{said}");
    for words in [
        "9 of 10 found",
        "tenant contoso.example (of contoso)",
        "expected  an OpenID configuration",
        "AADSTS90002",
        "credential of directory reader reader",
        "AADSTS7000215",
        "mail server 127.0.0.1:",
        "change    ",
        "3 problems found online",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // What could not be tried is not called well.
    let app_login = |fault| entra_sim::Fault {
        endpoint: entra_sim::Endpoint::Token,
        tenant: None,
        contains: None,
        times: None,
        fault,
    };
    place.simulator.fault(app_login(entra_sim::FaultKind::Status { status: 503, retry_after: None }));
    let untried = text(&place.command(&["check-config", "--online"]).await.stdout);
    place.simulator.clear_faults();
    assert!(
        untried.contains("credential of app sequr") && untried.contains("could not be tried"),
        "{untried}"
    );
    assert!(
        !said.contains("demo-secret") && place.simulator.mailbox().all().is_empty(),
        "no secret, no mail"
    );
    assert_eq!(
        place.command(&["check-config"]).await.status.code(),
        Some(0),
        "offline it is valid all the same"
    );
}

#[tokio::test]
async fn healthcheck_says_whether_a_daemon_is_well() {
    let place = Place::new().await;
    let pair = crate::certificates::self_signed("localhost");
    std::fs::write(place.folder.path().join("tls.crt"), pair.certificate).expect("written");
    std::fs::write(place.folder.path().join("tls.key"), pair.key).expect("written");
    let hash = "$2y$04$WCEEjqX6UYSTuqPpOjCBqO5kVw.bVqRD1xvNuoTgBRCfUPVdVP7Ve";
    let web = format!(
        "tls_server_config: {{cert_file: tls.crt, key_file: tls.key}}\nbasic_auth_users: {{somebody: {hash}}}\n"
    );
    std::fs::write(place.folder.path().join("web.yml"), web).expect("written");
    let file = format!("--web.config.file={}", place.folder.path().join("web.yml").display());
    let mut daemon = place.daemon(&[&file, "--health.listen-address=127.0.0.1:0"]);
    let guarded = daemon.url().await.replace("http://", "https://");
    let health = daemon.until(&["listening for health checks only"]).await;
    let health = format!("http://{}", health.split("address=").nth(1).expect("an address").trim());
    daemon.until(&["ready"]).await;
    let as_somebody = guarded.replace("https://", "https://somebody:hidden@");
    for (url, code, said) in [
        (format!("{health}/-/healthy"), 0, ""),
        (format!("{health}/-/ready"), 0, ""),
        // Its own certificate vouches for another name, and that is no sickness; a user is asked for, and none is known here.
        (format!("{guarded}/-/healthy"), 1, "--health.listen-address"),
        (format!("{as_somebody}/-/healthy"), 1, "401"),
        ("http://somebody:hidden@127.0.0.1:1/-/healthy".to_owned(), 1, "does not respond"),
        (format!("{health}/metrics"), 1, "404"),
        ("http://127.0.0.1:1/-/healthy".to_owned(), 1, "does not respond"),
        ("ftp://127.0.0.1/".to_owned(), 2, "http or https"),
        ("http://somebody:hidden@127.0.0.1:99999/".to_owned(), 2, "--url"),
        ("nonsense".to_owned(), 2, "--url"),
    ] {
        let output = place.command(&["healthcheck", &format!("--url={url}")]).await;
        assert_eq!(output.status.code(), Some(code), "{url}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{url}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("hidden"), "{}", text(&output.stderr));
    }
}

/// Nobody has to sign in again for a new key; who holds an old link has to ask for another.
#[tokio::test]
async fn rotate_key_keeps_the_tokens() {
    let place = Place::new().await;
    let link = text(&place.command(&["reauth-link", "northwind"]).await.stdout).trim().to_owned();
    let mut daemon = place.daemon(&[]);
    daemon.until(&["ready"]).await;
    let refused = place.command(&["rotate-key"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another consentry is running"), "{}", text(&refused.stderr));
    daemon.terminate().await;
    let before = std::fs::read(place.folder.path().join("consentry.key")).expect("a key");
    let rotated = place.command(&["rotate-key"]).await;
    assert_eq!(rotated.status.code(), Some(0), "{}", text(&rotated.stderr));
    assert!(
        text(&rotated.stdout).starts_with("8 refresh tokens encrypted with a new key"),
        "{}",
        text(&rotated.stdout)
    );
    assert_ne!(std::fs::read(place.folder.path().join("consentry.key")).expect("a key"), before);
    assert_eq!(place.command(&["probe", "northwind"]).await.status.code(), Some(0));
    let mut daemon = place.daemon(&[]);
    let url = daemon.url().await;
    daemon.until(&["ready"]).await;
    let (_, path) = link.split_once("/reauth/").expect("a link");
    let page = reqwest::get(format!("{url}/reauth/{path}")).await.expect("an answer");
    assert_eq!(page.status(), 403);
}

#[tokio::test]
async fn a_database_that_others_may_read_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new().await;
    let database = place.folder.path().join("consentry.db");
    std::fs::set_permissions(database, std::fs::Permissions::from_mode(0o644)).expect("a database");
    place.daemon(&[]).until(&["the database is readable by other users; run chmod 600 on it"]).await;
}

/// A copy is whole, whether the daemon is at work or has ended; what it leaves behind is one file.
#[tokio::test]
async fn backups_are_whole() {
    let place = Place::new().await;
    let at = |name: &str| place.folder.path().join(name);
    let mut daemon = place.daemon(&[]);
    daemon.until(&["ready"]).await;
    let copied = place.command(&["backup", at("copy.db").to_str().expect("a path")]).await;
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied.stderr));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(at("copy.db")).expect("a copy").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let again = place.command(&["backup", at("copy.db").to_str().expect("a path")]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("cannot create"), "{}", text(&again.stderr));
    let streamed = place.command(&["backup", "-"]).await;
    assert_eq!(streamed.status.code(), Some(0), "{}", text(&streamed.stderr));
    std::fs::write(at("streamed.db"), &streamed.stdout).expect("written");
    let left = std::fs::read_dir(place.folder.path()).expect("a folder").flatten();
    assert!(
        !left.into_iter().any(|f| f.file_name().to_string_lossy().contains("backup")),
        "a copy was left behind"
    );
    daemon.terminate().await;
    assert!(!at("consentry.db-wal").exists(), "the log was not folded in");
    for copy in ["copy.db", "streamed.db", "consentry.db"] {
        let restored = tempfile::tempdir().expect("a folder");
        for (from, to) in
            [(copy, "consentry.db"), ("consentry.key", "consentry.key"), ("consentry.yml", "consentry.yml")]
        {
            std::fs::copy(at(from), restored.path().join(to)).expect("copied");
        }
        let file = restored.path().join("consentry.yml");
        let probed = program(&["probe", "northwind"], Some(&file)).output().await.expect("run");
        assert_eq!(probed.status.code(), Some(0), "{copy}: {}{}", text(&probed.stdout), text(&probed.stderr));
    }
}
