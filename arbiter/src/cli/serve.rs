//! `serve`: runs the arbiter until it is told to stop.
//!
//! SIGTERM and SIGINT finish and stop it, a second one ends it at once, SIGHUP reads the settings again. A service
//! manager that gave a `NOTIFY_SOCKET` hears when it is ready and when it stops.

use super::config::Given;
use super::output::{Failure, Output, exit};
use super::{Global, Outcome, together};
use arbiterq::log::file::OpenError;
use arbiterq::log::record::Policy;
use arbiterq::serve::{Ready, ServeConfig, ServeError, serve_under};
use arbiterq::settings::{Effective, Loaded, Log, LogFormat, Settings};
use arbiterq::transport::direct::ListenError;
use serde_json::json;
use std::future::Future;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// `serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every key: arbiter config init -. What is in force: arbiter config show. SIGHUP reads the \
                        settings again: rules, limits of a partition and the log level change at once."
)]
pub(crate) struct Serve {
    #[command(flatten)]
    given: Given,
}

/// What a reload puts into force; anything else waits for the next start.
const RELOADED: [&str; 5] =
    ["limits.sessions_max", "limits.in_flight_max", "limits.lease_ms_max", "log.level", "rules"];

impl Serve {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let Loaded { mut settings, effective } = self.given.load(global)?;
        let output = global.output();
        if output.json {
            settings.log.format = LogFormat::Json;
        }
        let level = start_log(&settings.log);
        let outcome = together(async {
            let stop = stop_signal()?;
            let shutdown = async {
                stop.await;
                notify("STOPPING=1");
            };
            let (policy, policies) = watch::channel(settings.policy.clone());
            let hangup = signal(SignalKind::hangup())?;
            let reload =
                Reload { given: self.given.clone(), global: global.clone(), effective, policy, level };
            let reloading = tokio::spawn(reload.at_each(hangup));
            let config = ServeConfig::from(&settings);
            let served =
                serve_under(policies, config, shutdown, |ready| say_ready(output, &settings, &ready));
            let served = served.await;
            reloading.abort();
            served.map_err(failure)?;
            Ok(ExitCode::SUCCESS)
        });
        if outcome.is_ok() {
            output.note("stopped: everything taken is answered and on the log", &json!({"stopped": true}));
        }
        outcome
    }
}

/// Completes with the first SIGTERM or SIGINT; a second one ends the process at once, also while it still starts.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            }
        };
        let number = next().await;
        tracing::info!(signal = number, "stopping: finishing what was taken");
        // Whoever asked may have ended meanwhile.
        let _ = stop.send(());
        let number = next().await;
        std::process::exit(128 + number);
    });
    Ok(async move {
        let _ = stopped.await;
    })
}

/// What SIGHUP reads again, and where it goes.
struct Reload {
    given: Given,
    global: Global,
    effective: Vec<Effective>,
    policy: watch::Sender<Policy>,
    level: reload::Handle<EnvFilter, Registry>,
}

impl Reload {
    /// Never ends.
    async fn at_each(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            match self.given.load(&self.global) {
                Ok(loaded) => self.put_into_force(loaded),
                Err(failure) => {
                    tracing::error!(
                        "settings not reloaded, the old ones stay in force: {}",
                        failure.on_a_line()
                    );
                }
            }
        }
    }

    fn put_into_force(&mut self, loaded: Loaded) {
        let Loaded { settings, effective } = loaded;
        let changed = |(was, is): (&Effective, &Effective)| (was.value != is.value).then_some(is.key);
        let changed: Vec<_> = self.effective.iter().zip(&effective).filter_map(changed).collect();
        if let Err(error) = self.level.reload(filter(&settings.log.level)) {
            tracing::error!("log level not changed: {error}");
        }
        self.policy.send_if_modified(|policy| {
            let differs = *policy != settings.policy;
            *policy = settings.policy;
            differs
        });
        let (now, later): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| RELOADED.contains(key));
        tracing::info!(changed = now.join(" "), "settings reloaded");
        if !later.is_empty() {
            tracing::warn!(keys = later.join(" "), "changed, and in force only after the next start");
        }
        // What waits for a start stays as it was, so that the next reload says so again.
        for (was, is) in self.effective.iter_mut().zip(effective) {
            if RELOADED.contains(&was.key) {
                *was = is;
            }
        }
    }
}

/// Tells the service manager, if one wants to know (`sd_notify`).
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
            #[cfg(target_os = "linux")]
            Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, state, "the service manager was not told");
    }
}

/// What is said of a level, or of levels by module. What a library for brokers says is said only if it is asked for: of
/// whatever ends a connection the service tells itself, once.
fn filter(level: &str) -> EnvFilter {
    let level = if level.contains("lapin") { level.to_owned() } else { format!("{level},lapin=off") };
    EnvFilter::builder().parse_lossy(level)
}

/// The service's own log, on standard error; the handle changes its level.
fn start_log(log: &Log) -> reload::Handle<EnvFilter, Registry> {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(super::output::colour_err()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    handle
}

fn say_ready(output: Output, settings: &Settings, ready: &Ready) {
    let records: u64 = ready.partitions.iter().map(|opened| opened.records).sum();
    for (partition, opened) in ready.partitions.iter().enumerate() {
        for (file, why) in &opened.unusable {
            tracing::warn!(partition, file = %file.display(), why, "a checkpoint cannot be used");
        }
        if let Some(cut) = &opened.cut {
            let (file, line, bytes) = (cut.file.display(), cut.line, cut.bytes);
            tracing::warn!(partition, %file, line, bytes, after = cut.after, "a torn end was cut: {}", cut.kind);
        }
    }
    tracing::info!(url = ready.url, data = %settings.data.display(), records, "ready");
    let object = json!({"ready": {"url": ready.url, "data": settings.data, "records": records}});
    // Also a program that started us on port 0 reads this line, so it goes to standard output. One that does not
    // read it is no reason to stop.
    let text = match &settings.listen {
        #[cfg(feature = "rabbitmq")]
        arbiterq::settings::Listen::RabbitMq(_) => {
            format!("ready at {}, log there, {records} records read", ready.url)
        }
        _ => format!("ready at {}, log in {}", ready.url, settings.data.display()),
    };
    let _ = output.write_result(&text, &object);
    notify("READY=1");
}

/// What a service that does not start, or ended, exits with.
pub(crate) fn failure(error: ServeError) -> Failure {
    #[cfg(feature = "rabbitmq")]
    let error = match error {
        ServeError::Broker(error) => return error.into(),
        ServeError::Topology(error) => return error.into(),
        error => error,
    };
    let text = error.to_string();
    // The library's own text has up to four parts, divided as its documentation says.
    let mut parts = text.split("; ");
    let what = parts.next().unwrap_or_default().to_owned();
    let mut rest: Vec<_> = parts.collect();
    let (code, exit) = match &error {
        ServeError::Listen(ListenError::Io { .. }) => ("io", exit::IO),
        ServeError::Listen(_) => ("listen", exit::CONFIGURATION),
        ServeError::Open(OpenError::Locked { .. }) => ("locked", exit::CONFIGURATION),
        ServeError::Open(OpenError::Damaged(_) | OpenError::Refused { .. }) => ("log", exit::LOG),
        ServeError::Open(OpenError::Io(_)) | ServeError::Log(_) | ServeError::System(_) => ("io", exit::IO),
        ServeError::Partitions { .. } => ("configuration", exit::CONFIGURATION),
        ServeError::Activate(_) => ("log", exit::LOG),
        ServeError::SteppedDown(_) => ("stepped-down", exit::UNAVAILABLE),
        #[cfg(feature = "rabbitmq")]
        ServeError::Broker(_) | ServeError::Topology(_) => ("no-broker", exit::UNAVAILABLE),
        #[cfg(feature = "rabbitmq")]
        ServeError::Truncated { .. } => ("log_truncated", exit::LOG),
        #[cfg(feature = "rabbitmq")]
        ServeError::BeginningCut { .. } => ("log", exit::LOG),
        ServeError::Panicked(_) => ("defect", exit::SOFTWARE),
        ServeError::ShutdownTimeout(_) => ("shutdown", exit::IO),
    };
    let new = |what: String| Failure::new(code, exit, what);
    match &error {
        ServeError::Listen(ListenError::InUse(address)) => new(format!("{address} is in use"))
            .help("stop the other listener, or choose another with --url tcp://127.0.0.1:PORT"),
        ServeError::Listen(ListenError::Io { .. }) => new(what).help(
            "choose another with --url: tcp://127.0.0.1:PORT, or unix:///path in a folder that is there",
        ),
        ServeError::Open(OpenError::Locked { .. }) => new(what)
            .part("done", "nothing was read")
            .help("stop that one, or choose another folder with --data DIR"),
        ServeError::Open(OpenError::Io(_)) => {
            new(what).help("the folder must be writable; choose another with --data DIR")
        }
        ServeError::Log(_) => {
            let help = "make room or repair the disk, then start again: nothing of what was answered is lost";
            new(what).part("done", "nothing was answered that is not on the log").help(help)
        }
        ServeError::Partitions { .. } => new(what)
            .help("a log keeps its number of partitions: set `partitions` to it, or name another folder"),
        _ if rest.is_empty() => new(what),
        _ => {
            let last = if rest.len() > 1 { rest.pop() } else { None };
            let failure = new(what).part("state", rest.join("; "));
            last.map_or(failure.clone(), |last| failure.part("done", last))
        }
    }
}
