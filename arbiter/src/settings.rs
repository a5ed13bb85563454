//! Settings of the service: every key, its type, unit, default and check.
//!
//! ```text
//! config/default.toml ─┐
//! --config FILE ───────┤  load: layers, each value with its source    ┌─ settings     what the service runs by
//! ARBITER__… ──────────┼─────────────────────────────────────────────►├─ effective    key, value, source
//! command line ────────┘  check: ranges and combinations              └─ problems     all of them, or nothing
//! ```
//!
//! [`Settings::check`] judges values wherever they come from; [`load()`] reads them and knows the sources. An
//! unknown key or `ARBITER__…` variable is a problem: a typo must not mean "default".

mod explain;
mod listen;
mod load;

pub use explain::{Explained, explain};
pub use file::Fsync;
pub use listen::Listen;
pub use load::{Effective, Loaded, Problem, Sources, load, variable_of};

use crate::log::file;
use crate::log::record::{POLICY_BYTES_MAX, Policy};
use crate::partition::PartitionConfig;
use crate::serve::{self, ServeConfig};
use arbiterq_client::wire;
use std::path::PathBuf;
use std::time::Duration;

/// Every key with its default and a comment, as `arbiter config init` writes it.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// The most partitions: each has a log, a thread that syncs it, and an open file.
pub const PARTITIONS_MAX: u32 = 1024;
/// The most rules; each grant looks at them in order.
pub const RULES_MAX: usize = 1000;

/// What the service runs by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where clients connect.
    pub listen: Listen,
    /// The folder of the grant log.
    pub data: PathBuf,
    /// How many partitions there are.
    pub partitions: u32,
    /// How long renewals and answers wait for another record before they get one of their own.
    pub barrier_interval: Duration,
    /// How long to finish after the first signal.
    pub shutdown_timeout: Duration,
    /// How the grant log is kept.
    pub grant_log: GrantLog,
    /// Open connections; one more is closed at once.
    pub connections_max: u32,
    /// Limits and rules of a partition, as they go into its log.
    pub policy: Policy,
    /// What the service says about itself.
    pub log: Log,
}

/// How the grant log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantLog {
    /// When a record counts as durable.
    pub fsync: Fsync,
    /// A segment that would grow beyond this is finished.
    pub segment_bytes_max: u64,
    /// A checkpoint after so many records.
    pub checkpoint_records: u64,
}

/// What the service says about itself on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or levels by module.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the service's own log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    /// The embedded defaults.
    fn default() -> Self {
        match load(&Sources::default()) {
            Ok(loaded) => loaded.settings,
            // A test reads them; a binary that cannot was never built.
            Err(problems) => unreachable!("the embedded defaults have problems: {problems:?}"),
        }
    }
}

impl Settings {
    /// What is wrong with these values, each with its key: ranges, and values that do not go together.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut range = |key: &'static str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push((key, format!("is {value}, wanted {least} to {most}")));
            }
        };
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        range("partitions", self.partitions.into(), 1, PARTITIONS_MAX.into());
        range("barrier_interval_ms", ms(self.barrier_interval), 1, 1000);
        range("shutdown_timeout_ms", ms(self.shutdown_timeout), 100, 3_600_000);
        range("grant_log.segment_bytes_max", self.grant_log.segment_bytes_max, 64 << 10, 16 << 30);
        range("grant_log.checkpoint_records", self.grant_log.checkpoint_records, 100, 1_000_000_000);
        range("limits.connections_max", self.connections_max.into(), 1, 1_000_000);
        range("limits.sessions_max", self.policy.sessions_max.into(), 1, 1_000_000);
        range("limits.in_flight_max", self.policy.in_flight_max.into(), 1, 4096);
        range("limits.lease_ms_max", self.policy.lease_ms_max, wire::LEASE_MS_MIN, wire::LEASE_MS_MAX);
        if !self.listen.is_local() {
            let remedy = "listens beyond this machine, where anybody could take anything: use 127.0.0.1, [::1] or \
                          unix:///path, with a tunnel in front if others must connect";
            problems.push(("url", remedy.to_owned()));
        }
        if self.data.as_os_str().is_empty() {
            problems.push(("data", "is empty, wanted a folder".to_owned()));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log.level) {
            problems.push((
                "log.level",
                format!("wanted error, warn, info, debug or trace, or by module: {error}"),
            ));
        }
        // A word alone is taken for a module by the parser: a misspelt level would say nothing.
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        if let Some(word) =
            self.log.level.split(',').find(|part| !part.contains(['=', '[']) && !is_level(part.trim()))
        {
            let text = format!(
                "{word:?} is no level: wanted error, warn, info, debug or trace, or by module: name=level"
            );
            problems.push(("log.level", text));
        }
        problems.extend(self.check_rules().into_iter().map(|problem| ("rules", problem)));
        problems
    }

    fn check_rules(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let rules = &self.policy.rules;
        if rules.len() > RULES_MAX {
            problems.push(format!("{} rules, the limit is {RULES_MAX}", rules.len()));
        }
        for (i, rule) in rules.iter().enumerate() {
            let mut problem =
                |what: String| problems.push(format!("rule {} ({:?}): {what}", i + 1, rule.pattern));
            if rule.pattern.is_empty() || rule.pattern.len() > wire::RESOURCE_BYTES_MAX {
                problem(format!("wanted a pattern of 1 to {} bytes", wire::RESOURCE_BYTES_MAX));
            }
            if rules[..i].iter().any(|earlier| earlier.pattern == rule.pattern) {
                problem("the pattern is there already; only the first of the two would count".to_owned());
            }
            let mut range = |key: &str, value: Option<u64>, least: u64, most: u64| {
                if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                    problem(format!("{key} is {value}, wanted {least} to {most}"));
                }
            };
            range("capacity", rule.capacity.map(u64::from), 1, wire::PERMITS_MAX.into());
            range("hold_max_ms", rule.hold_max_ms, 1, wire::LIMIT_MS_MAX);
            range("waiters_max", rule.waiters_max.map(u64::from), 0, 10_000_000);
            range("lock_delay_ms", rule.lock_delay_ms, 0, wire::LIMIT_MS_MAX);
        }
        let bytes = serde_json::to_vec(&self.policy).map_or(0, |json| json.len());
        if bytes > POLICY_BYTES_MAX {
            problems.push(format!("take {bytes} bytes in the log, the limit is {POLICY_BYTES_MAX}"));
        }
        problems
    }
}

impl From<&Settings> for ServeConfig {
    fn from(settings: &Settings) -> Self {
        let listen = match &settings.listen {
            Listen::Tcp(address) => serve::Listen::Tcp(*address),
            Listen::Unix(path) => serve::Listen::Unix(path.clone()),
            #[cfg(feature = "rabbitmq")]
            Listen::RabbitMq(url) => serve::Listen::RabbitMq(url.clone()),
        };
        let GrantLog { fsync, segment_bytes_max, checkpoint_records } = settings.grant_log;
        Self {
            listen,
            data: settings.data.clone(),
            partitions: settings.partitions,
            log: file::Options { fsync, segment_bytes_max, ..file::Options::default() },
            checkpoint_records,
            partition: PartitionConfig {
                policy: settings.policy.clone(),
                barrier_interval: settings.barrier_interval,
                ..PartitionConfig::default()
            },
            connections_max: usize::try_from(settings.connections_max).unwrap_or(usize::MAX),
            shutdown_timeout: settings.shutdown_timeout,
        }
    }
}
