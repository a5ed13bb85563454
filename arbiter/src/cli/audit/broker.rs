//! Logs at a broker: copied into a folder, to stay there or to be judged.

use crate::cli::output::{Failure, exit};
use crate::cli::serve::stop_signal;
use crate::cli::{Global, Outcome, together};
use arbiterq::audit::export::{Export as Copying, ExportError, Exported};
use arbiterq::log::file::OpenError;
use arbiterq::transport::rabbitmq::BrokerUrl;
use arbiterq_client::wire::Nonce;
use serde_json::json;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// `audit export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The URL of the broker: amqp://user:password@host:port
    source: String,
    /// The folder: each partition gets one of its own in it. What is there of the same log is gone on with
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Go on with what is written, until Ctrl-C or SIGTERM
    #[arg(long)]
    follow: bool,
}

impl Export {
    pub(super) fn run(self, global: &Global) -> Outcome {
        let url = global.broker(&self.source, URL_HELP)?;
        let exported = together(async {
            let stop = self.follow.then(stop_signal).transpose()?;
            Ok(copy(&url, &self.to, stop).await?)
        })?;
        for exported in exported {
            global.output().result(&exported.to_string(), &json!(exported))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

const URL_HELP: &str = "write amqp://user:password@host:port";

/// Copies every partition's log into `to`: what there is, and with `stop` what comes until then.
async fn copy(
    url: &BrokerUrl,
    to: &Path,
    stop: Option<impl Future<Output = ()>>,
) -> Result<Vec<Exported>, ExportError> {
    let mut copies: Vec<Copying> = Vec::new();
    let mut number = 0;
    loop {
        let mut copying = Copying::start(url, number, &to.join(number.to_string())).await?;
        copying.to_the_end().await?;
        copies.push(copying);
        number += 1;
        if number >= copies[0].partitions() {
            break;
        }
    }
    if let Some(stop) = stop {
        let (over, is_over) = watch::channel(false);
        let mut following = JoinSet::new();
        following.extend(copies.drain(..).map(|copying| follow(copying, is_over.clone())));
        let mut ended = tokio::select! {
            () = stop => None,
            failed = following.join_next() => failed,
        };
        over.send_replace(true);
        if ended.is_none() {
            ended = following.join_next().await;
        }
        while let Some(copying) = ended {
            copies.push(copying.map_err(|error| ExportError::Panicked(error.to_string()))??);
            ended = following.join_next().await;
        }
    }
    let mut exported = Vec::new();
    for copying in copies {
        exported.push(copying.finish().await?);
    }
    Ok(exported)
}

/// Copies what comes until it is over.
async fn follow(mut copying: Copying, mut over: watch::Receiver<bool>) -> Result<Copying, ExportError> {
    loop {
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return Ok(copying),
            next = copying.next() => drop(next?),
        }
    }
}

/// A copy of the logs of a broker, for as long as they are judged.
pub(super) struct Copied(PathBuf);

impl Copied {
    /// None if `source` is no broker's URL.
    pub(super) fn of(source: &Path, global: &Global) -> Result<Option<Self>, Failure> {
        let Some(text) = source.to_str().filter(|text| text.starts_with("amqp")) else { return Ok(None) };
        if !text.contains("://") {
            return Ok(None);
        }
        let url = global.broker(text, URL_HELP)?;
        // One that nobody else has made or may look into: what is judged comes from the broker alone.
        let mut unique = [0; 16];
        getrandom::fill(&mut unique).map_err(std::io::Error::other)?;
        let folder = Self(std::env::temp_dir().join(format!("arbiter-audit-{}", Nonce(unique))));
        std::fs::DirBuilder::new().mode(0o700).create(&folder.0)?;
        let none = None::<std::future::Ready<()>>;
        together(async { Ok(copy(&url, &folder.0, none).await?) })?;
        Ok(Some(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a copy of the log was left behind");
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let what = error.to_string();
        match error {
            ExportError::Connect(error) => error.into(),
            ExportError::Broker(_) => Self::new("no-broker", exit::UNAVAILABLE, what).help(
                "the user must be allowed to read arbiter.grants.*; `arbiter broker init` declares them",
            ),
            ExportError::Open(OpenError::Locked { .. }) => Self::new("locked", exit::CONFIGURATION, what),
            ExportError::Open(_) | ExportError::NotContinued { .. } => Self::new("log", exit::LOG, what)
                .help("name an empty folder with --to, or one that an export of this log has made"),
            ExportError::Broken { .. } => Self::new("not-verified", exit::NO, what)
                .part(
                    "means",
                    "a record was changed or lost, or an arbiter ended while one was not confirmed",
                )
                .help("a receipt from there or later tells which: `audit verify --receipt`"),
            ExportError::Write(_) => Self::new("io", exit::IO, what),
            ExportError::Panicked(_) => Self::new("defect", exit::SOFTWARE, what),
        }
    }
}
