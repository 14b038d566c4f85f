//! Counters, gauges and histograms of the whole process. Every known label value exists from the start.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

use crate::domain::{MailKind, Outcome, Timestamp};

/// Why an attempt to send a mail failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The labels explain the names.
pub enum EmailFailure {
    Connect,
    Tls,
    Auth,
    Rejected,
    Timeout,
    Other,
}

impl EmailFailure {
    /// Every failure.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Tls, Self::Auth, Self::Rejected, Self::Timeout, Self::Other];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

/// The families. Cheap to clone; clones share their values.
#[derive(Clone)]
pub struct Families {
    registry: Registry,
    probing: Probing,
    upstream: Upstream,
    mail: Mail,
    sign_ins: SignIns,
    process: Process,
}

#[derive(Clone)]
struct Probing {
    probes: IntCounterVec,
    duration: Histogram,
    schedule_delay: Histogram,
    interval: Gauge,
    repair: Histogram,
}

#[derive(Clone)]
struct Upstream {
    requests: IntCounterVec,
    duration: HistogramVec,
}

#[derive(Clone)]
struct Mail {
    sent: IntCounterVec,
    failed: IntCounterVec,
    held: IntGauge,
    queue: IntGauge,
    last_success: Gauge,
}

#[derive(Clone)]
struct SignIns {
    reauthentications: IntCounterVec,
    deliveries: IntCounterVec,
    queue: IntGauge,
}

#[derive(Clone)]
struct Process {
    storage_errors: IntCounter,
    reload_successful: IntGauge,
    reload_time: Gauge,
    files_broken: IntGauge,
    web_info: GaugeVec,
}

impl std::fmt::Debug for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Families")
    }
}

const PROBE_BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
const DELAY_BUCKETS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0];
/// From a minute to a month.
const REPAIR_BUCKETS: &[f64] = &[
    60.0,
    300.0,
    900.0,
    3600.0,
    14_400.0,
    43_200.0,
    86_400.0,
    259_200.0,
    604_800.0,
    1_209_600.0,
    2_592_000.0,
];
const REQUEST_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Families {
    /// Registers the families.
    ///
    /// # Errors
    /// Two families have the same name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let register = Register(&registry);
        let families = Self {
            probing: Probing::new(&register)?,
            upstream: Upstream::new(&register)?,
            mail: Mail::new(&register)?,
            sign_ins: SignIns::new(&register)?,
            process: Process::new(&register)?,
            registry: registry.clone(),
        };
        register_constants(&registry)?;
        Ok(families)
    }

    /// Counts a probe that ended.
    pub fn probe(&self, outcome: Outcome, duration: Duration, delay: Duration) {
        self.probing.probes.with_label_values(&[outcome.label()]).inc();
        self.probing.duration.observe(duration.as_secs_f64());
        self.probing.schedule_delay.observe(delay.as_secs_f64());
    }

    /// Sets the configured time from one probe of an integration to the next.
    pub fn set_interval(&self, interval: Duration) {
        self.probing.interval.set(interval.as_secs_f64());
    }

    /// Records that an integration works again, and how long it was broken.
    pub fn repaired(&self, after: Duration) {
        self.probing.repair.observe(after.as_secs_f64());
    }

    /// Sets the URL of the status page.
    pub fn set_url(&self, url: &str) {
        self.process.web_info.reset();
        self.process.web_info.with_label_values(&[url]).set(1.0);
    }

    /// Counts a request to the upstream that ended.
    pub fn upstream(&self, endpoint: &str, code: &str, duration: Duration) {
        self.upstream.requests.with_label_values(&[endpoint, code]).inc();
        self.upstream.duration.with_label_values(&[endpoint, code]).observe(duration.as_secs_f64());
    }

    /// Counts a failure of the database.
    pub fn storage_failed(&self) {
        self.process.storage_errors.inc();
    }

    /// Counts a mail that the mail server accepted.
    pub fn email_sent(&self, kind: MailKind, at: Timestamp) {
        self.mail.sent.with_label_values(&[kind.label()]).inc();
        self.mail.last_success.set(at.seconds());
    }

    /// Sets the time of the last accepted mail, from before the start.
    pub fn set_last_email(&self, at: Timestamp) {
        self.mail.last_success.set(at.seconds());
    }

    /// Counts a failed attempt.
    pub fn email_failed(&self, kind: MailKind, failure: EmailFailure) {
        self.mail.failed.with_label_values(&[kind.label(), failure.label()]).inc();
    }

    /// A mail that waited was sent or given up.
    pub fn notices_left_queue(&self, notices: usize) {
        self.mail.queue.sub(i64::try_from(notices).unwrap_or(i64::MAX));
    }

    /// Sets the number of mails that the brake holds.
    pub fn set_held(&self, held: i64) {
        self.mail.held.set(held);
    }

    /// Sets the number of waiting mails.
    pub fn set_queue(&self, length: i64) {
        self.mail.queue.set(length);
    }

    /// Sets the number of renewed tokens that wait for their delivery.
    pub fn set_token_queue(&self, length: usize) {
        self.sign_ins.queue.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Counts a re-authentication that ended; `result` is one of the known ones.
    pub fn reauthentication(&self, result: &str) {
        self.sign_ins.reauthentications.with_label_values(&[result]).inc();
    }

    /// Counts an attempt to deliver a renewed token: `success` or `error`.
    pub fn token_delivery(&self, result: &str) {
        self.sign_ins.deliveries.with_label_values(&[result]).inc();
    }

    /// Records that the configuration was read and is in effect.
    pub fn configuration_read(&self, at: Timestamp) {
        self.process.reload_time.set(at.seconds());
    }

    /// Sets whether the last reload succeeded, and how many watched files are invalid, so that their last good list is in effect.
    pub fn configuration_state(&self, reloaded: bool, files_broken: usize) {
        self.process.reload_successful.set(i64::from(reloaded && files_broken == 0));
        self.process.files_broken.set(i64::try_from(files_broken).unwrap_or(i64::MAX));
    }

    pub(super) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }
}

/// Makes families and registers them.
struct Register<'r>(&'r Registry);

impl Register<'_> {
    fn add<F: Collector + Clone + 'static>(&self, family: prometheus::Result<F>) -> prometheus::Result<F> {
        let family = family?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn int_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}

impl Probing {
    fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let probes =
            register.counter("consentry_probes_total", "Probes that ended, by result.", &["result"])?;
        for outcome in ["pass", "fail", "unknown"] {
            probes.with_label_values(&[outcome]);
        }
        Ok(Self {
            probes,
            duration: register.histogram(
                "consentry_probe_duration_seconds",
                "Length of probes, all integrations together.",
                PROBE_BUCKETS,
            )?,
            schedule_delay: register.histogram(
                "consentry_probe_schedule_delay_seconds",
                "How late probes start.",
                DELAY_BUCKETS,
            )?,
            interval: register.gauge(
                "consentry_probe_interval_seconds",
                "Configured time from one probe of an integration to the next.",
            )?,
            repair: register.histogram(
                "consentry_integration_repair_duration_seconds",
                "How long integrations were broken that are fixed.",
                REPAIR_BUCKETS,
            )?,
        })
    }
}

impl Upstream {
    fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let labels = ["endpoint", "code"];
        let requests = "Requests to Entra and Graph, by HTTP status or kind of failure.";
        let duration = HistogramOpts::new(
            "consentry_upstream_request_duration_seconds",
            "Length of requests to Entra and Graph.",
        );
        Ok(Self {
            requests: register.counter("consentry_upstream_requests_total", requests, &labels)?,
            duration: register.add(HistogramVec::new(duration.buckets(REQUEST_BUCKETS.to_vec()), &labels))?,
        })
    }
}

impl Mail {
    fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let mail = Self {
            sent: register.counter(
                "consentry_emails_total",
                "Mails that the mail server has taken.",
                &["kind"],
            )?,
            failed: register.counter(
                "consentry_emails_failed_total",
                "Attempts to send a mail that failed.",
                &["kind", "reason"],
            )?,
            held: register
                .int_gauge("consentry_emails_held", "Mails to administrators that the brake holds.")?,
            queue: register.int_gauge(
                "consentry_email_queue_length",
                "Notices that are due and not sent yet; several may go out in one mail.",
            )?,
            last_success: register.gauge(
                "consentry_email_last_success_timestamp_seconds",
                "When the mail server last took a mail; 0 before the first.",
            )?,
        };
        for kind in MailKind::ALL {
            mail.sent.with_label_values(&[kind.label()]);
            for reason in EmailFailure::ALL {
                mail.failed.with_label_values(&[kind.label(), reason.label()]);
            }
        }
        Ok(mail)
    }
}

impl SignIns {
    fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let sign_ins = Self {
            reauthentications: register.counter(
                "consentry_reauthentications_total",
                "Re-authentications that ended, by result.",
                &["result"],
            )?,
            deliveries: register.counter(
                "consentry_token_deliveries_total",
                "Attempts to hand a renewed refresh token to its product, by result.",
                &["result"],
            )?,
            queue: register.int_gauge(
                "consentry_token_delivery_queue_length",
                "Renewed refresh tokens that wait to be handed to their product.",
            )?,
        };
        for result in ["success", "denied", "wrong_tenant", "incomplete", "expired", "error"] {
            sign_ins.reauthentications.with_label_values(&[result]);
        }
        for result in ["success", "error"] {
            sign_ins.deliveries.with_label_values(&[result]);
        }
        Ok(sign_ins)
    }
}

impl Process {
    fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let web_info = Opts::new(
            "consentry_web_info",
            "1, labelled with the address at which browsers find the status page.",
        );
        Ok(Self {
            storage_errors: register.add(IntCounter::new(
                "consentry_storage_errors_total",
                "Reads and writes that the database refused.",
            ))?,
            reload_successful: register.int_gauge(
                "consentry_config_last_reload_successful",
                "Whether the last reading of the configuration succeeded.",
            )?,
            reload_time: register.gauge(
                "consentry_config_last_reload_success_timestamp_seconds",
                "When the configuration was last read successfully.",
            )?,
            files_broken: register.int_gauge(
                "consentry_config_files_broken",
                "Files of integration_files that are invalid, so that their last good list is in effect.",
            )?,
            web_info: register.add(GaugeVec::new(web_info, &["url"]))?,
        })
    }
}

/// Families whose values this version never changes, and those of the process itself.
fn register_constants(registry: &Registry) -> prometheus::Result<()> {
    let build = prometheus::IntGaugeVec::new(
        Opts::new("consentry_build_info", "1, labelled with version, revision and compiler."),
        &["version", "revision", "rustversion"],
    )?;
    build
        .with_label_values(&[env!("CARGO_PKG_VERSION"), env!("CONSENTRY_REVISION"), env!("CONSENTRY_RUSTC")])
        .set(1);
    registry.register(Box::new(build))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(())
}
