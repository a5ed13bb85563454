//! `serve`: runs the arbiter until it is told to stop.

use super::config::Given;
use super::output::{Failure, Output, exit};
use super::{Global, Outcome, together};
use arbiterq::log::file::OpenError;
use arbiterq::serve::{Ready, ServeConfig, ServeError, serve};
use arbiterq::settings::{Log, LogFormat, Settings};
use arbiterq::transport::direct::ListenError;
use serde_json::json;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Every key: arbiter config init -. What is in force: arbiter config show.")]
pub(crate) struct Serve {
    #[command(flatten)]
    given: Given,
}

impl Serve {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let settings = self.given.load(global)?.settings;
        start_log(&settings.log);
        let output = global.output();
        let outcome = together(async {
            let shutdown = stop_signal()?;
            serve(ServeConfig::from(&settings), shutdown, |ready| say_ready(output, &settings, &ready))
                .await
                .map_err(failure)?;
            Ok(ExitCode::SUCCESS)
        });
        if outcome.is_ok() {
            output.note("stopped: everything taken is answered and on the log", &json!({"stopped": true}));
        }
        outcome
    }
}

/// Completes with the first SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let number = tokio::select! {
            _ = terminate.recv() => 15,
            _ = interrupt.recv() => 2,
        };
        tracing::info!(signal = number, "stopping: finishing what was taken");
        tokio::spawn(async move {
            let number = tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            };
            std::process::exit(128 + number);
        });
    })
}

/// The service's own log, on standard error.
fn start_log(log: &Log) {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => {
            let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            subscriber.with_ansi(colour).init();
        }
        LogFormat::Json => subscriber.json().init(),
    }
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
    // Also a program that started us on port 0 reads this line, so it goes to standard output.
    let text = format!("ready at {}, log in {}", ready.url, settings.data.display());
    let _ = output.result(&text, &object);
}

/// What a service that does not start, or ended, exits with.
pub(crate) fn failure(error: ServeError) -> Failure {
    let text = error.to_string();
    // The library's own text has up to four parts, divided as its documentation says.
    let mut parts = text.split("; ");
    let what = parts.next().unwrap_or_default().to_owned();
    let rest: Vec<_> = parts.collect();
    let (code, exit) = match &error {
        ServeError::Listen(ListenError::Io { .. }) => ("io", exit::IO),
        ServeError::Listen(_) => ("listen", exit::CONFIGURATION),
        ServeError::Open(OpenError::Locked { .. }) => ("locked", exit::CONFIGURATION),
        ServeError::Open(OpenError::Damaged(_) | OpenError::Refused { .. }) => ("log", exit::LOG),
        ServeError::Open(OpenError::Io(_)) | ServeError::Log(_) | ServeError::System(_) => ("io", exit::IO),
        ServeError::Partitions { .. } => ("configuration", exit::CONFIGURATION),
        ServeError::Activate(_) => ("log", exit::LOG),
        ServeError::SteppedDown(_) => ("stepped-down", exit::UNAVAILABLE),
        ServeError::Panicked(_) => ("defect", exit::SOFTWARE),
        ServeError::ShutdownTimeout(_) => ("shutdown", exit::IO),
    };
    let failure = Failure::new(code, exit, what);
    let failure = if rest.is_empty() { failure } else { failure.part("state", rest.join("; ")) };
    match error {
        ServeError::Listen(ListenError::InUse(_)) => {
            failure.help("stop the other listener, or choose another with --url tcp://127.0.0.1:PORT")
        }
        ServeError::Open(OpenError::Io(_)) => {
            failure.help("the folder must be writable; choose another with --data DIR")
        }
        ServeError::Partitions { .. } => failure
            .help("a log keeps its number of partitions: set `partitions` to it, or name another folder"),
        _ => failure,
    }
}
