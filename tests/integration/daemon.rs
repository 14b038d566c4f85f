//! The program as a running daemon, whose state is requested over HTTP.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::world::eventually;

pub struct Daemon {
    pub child: Child,
    /// Host and port.
    pub address: String,
    /// The same as a URL.
    pub url: String,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start(mut command: Command, address: String) -> Self {
        command.stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("started");
        let mut log = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        // The program would stop at a full pipe.
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                kept.lock().push(line);
            }
        });
        let url = format!("http://{address}");
        Self { child, address, url, lines, reader: Some(reader) }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        self.ready_at("/-/ready").await;
    }

    /// The same, with another path that reports it.
    pub async fn ready_at(&self, path: &str) {
        eventually("the daemon is ready", async || self.ask(path).await.filter(|(status, _)| *status == 200))
            .await;
    }

    /// A response; `None` if there is none soon.
    async fn ask(&self, path: &str) -> Option<(u16, String)> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(8)).build().expect("a client");
        let answer = client.get(format!("{}{path}", self.url)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    pub async fn post(&self, path: &str) -> (u16, String) {
        let request = reqwest::Client::new().post(format!("{}{path}", self.url));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    /// Asks for a reload over HTTP.
    pub async fn reload(&self) -> (u16, String) {
        self.post("/-/reload").await
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    /// The value of a series.
    pub async fn metric(&self, series: &str) -> Option<String> {
        let text = self.metrics().await;
        value_of(&text, series).map(str::to_owned)
    }

    /// Waits until a series has this value.
    pub async fn metric_becomes(&self, series: &str, value: &str) {
        eventually(&format!("{series} is {value}"), async || {
            let (_, text) = self.ask("/metrics").await?;
            (value_of(&text, series) == Some(value)).then_some(())
        })
        .await;
    }

    /// Waits until the values of all series that start with a text add up to this, or more.
    pub async fn counts(&self, start: &str, least: f64) {
        eventually(&format!("{start} reaches {least}"), async || {
            let (_, text) = self.ask("/metrics").await?;
            let series = text.lines().filter(|line| line.starts_with(start));
            let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            (values.sum::<f64>() >= least).then_some(())
        })
        .await;
    }

    /// Waits until an integration is `healthy`, `broken` or `unknown`.
    pub async fn becomes(&self, name: &str, state: &str) {
        eventually(&format!("{name} is {state}"), async || {
            (self.integration(name).await?["state"] == state).then_some(())
        })
        .await;
    }

    /// Waits until an integration is broken for this reason.
    pub async fn broken_by(&self, name: &str, reason: &str) {
        eventually(&format!("{name} is broken: {reason}"), async || {
            let integration = self.integration(name).await?;
            (integration["state"] == "broken" && integration["reason"] == reason).then_some(())
        })
        .await;
    }

    /// The state of an integration in the API.
    pub async fn integration(&self, name: &str) -> Option<Value> {
        let (status, text) = self.ask(&format!("/api/v1/integrations/{name}")).await?;
        (status == 200).then(|| serde_json::from_str(&text).expect("JSON"))
    }

    /// Waits until these integrations are watched and no others.
    pub async fn watches(&self, names: &[&str]) {
        eventually(&format!("{names:?} are watched"), async || {
            let (_, text) = self.ask("/api/v1/integrations").await?;
            let list: Value = serde_json::from_str(&text).ok()?;
            let watched: Vec<&str> =
                list["items"].as_array()?.iter().filter_map(|i| i["name"].as_str()).collect();
            (watched == names).then_some(())
        })
        .await;
    }

    /// Waits until a probe of each of these integrations that has begun after this call has ended. One may be
    /// under way at the time of the call, so its end does not count.
    pub async fn probed(&self, names: &[&str]) {
        for _ in 0..2 {
            let before = probe_ends(&self.metrics().await, names);
            eventually(&format!("{names:?} are probed"), async || {
                let (_, text) = self.ask("/metrics").await?;
                let after = probe_ends(&text, names);
                before.iter().zip(&after).all(|(before, after)| after > before).then_some(())
            })
            .await;
        }
    }

    /// The time when its configuration was last read, in seconds. To be called before
    /// [`Daemon::reloaded_since`].
    pub async fn last_reload(&self) -> f64 {
        reload_time(&self.metrics().await).expect("a time")
    }

    /// Waits until its configuration has been read again.
    pub async fn reloaded_since(&self, before: f64) {
        eventually("the configuration is reloaded", async || {
            let (_, text) = self.ask("/metrics").await?;
            reload_time(&text).filter(|time| *time > before)
        })
        .await;
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("a process").to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Ends it as systemd would, and reads its log to the end.
    pub async fn terminate(&mut self) {
        self.signal("-TERM");
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait())
            .await
            .expect("within ten seconds")
            .expect("ended");
        assert_eq!(ended.code(), Some(0));
        if let Some(reader) = self.reader.take() {
            reader.await.expect("the log was read");
        }
    }

    pub async fn kill(mut self) {
        self.child.start_kill().expect("killed");
        self.child.wait().await.expect("ended");
    }

    /// The lines of its log so far; all of them once it has been terminated.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// Whether a line of the log so far has all of these words. For tests about the log.
    pub fn has_logged(&self, words: &[&str]) -> bool {
        self.lines.lock().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Waits for such a line and returns it. Only for tests of the log; other tests wait for the state
    /// itself.
    pub async fn logged(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?}"), async || {
            let lines = self.lines.lock();
            lines.iter().find(|line| words.iter().all(|word| line.contains(word))).cloned()
        })
        .await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the daemon:\n{}", self.lines.lock().join("\n"));
        }
    }
}

/// The gauge of an integration.
pub fn up(name: &str) -> String {
    format!("consentry_integration_up{{integration=\"{name}\"}}")
}

fn value_of<'a>(metrics: &'a str, series: &str) -> Option<&'a str> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

fn reload_time(metrics: &str) -> Option<f64> {
    value_of(metrics, "consentry_config_last_reload_success_timestamp_seconds")?.parse().ok()
}

/// When the last probe of each integration ended; nothing before the first.
fn probe_ends(metrics: &str, names: &[&str]) -> Vec<Option<f64>> {
    let series =
        |name: &str| format!("consentry_integration_last_probe_timestamp_seconds{{integration=\"{name}\"}}");
    names.iter().map(|name| value_of(metrics, &series(name))?.parse().ok()).collect()
}
