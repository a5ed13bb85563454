//! `broker`: what the arbiter needs at a message broker.

use super::config::Given;
use super::output::{Failure, exit};
use super::{Global, Outcome};
use arbiterq::transport::rabbitmq::{BrokerError, ConnectError, DeclareError, Topology};
use arbiterq_client::URL_DEFAULT;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `broker …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Broker {
    /// Declare exchanges, queues and streams; what is there already stays as it is
    Init(Init),
}

/// `broker init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Declare nothing; print the broker's definitions.json
    #[arg(long)]
    print: bool,
    /// A file as `config init` writes it: partitions and limits count
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Broker {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::Init(Init { print, config }) = self;
        let url = global.broker(global.url(), "--url amqp://user:password@host:port, or ARBITER_URL")?;
        // The URL is the broker's here, and no place to listen at; the service's own files are not here, perhaps.
        let elsewhere = Global { url: Some(URL_DEFAULT.to_owned()), ..global.clone() };
        let settings = Given::of_file(config).load(&elsewhere)?.settings;
        let topology = Topology::new(settings.partitions, &settings.policy);
        if print {
            let definitions = topology.definitions(url.vhost());
            let text = serde_json::to_string_pretty(&definitions).unwrap_or_default();
            global.output().result(&text, &definitions)?;
            return Ok(ExitCode::SUCCESS);
        }
        let connection = url.connect("arbiter broker init").await?;
        let declared = topology.declare(&connection).await?;
        let text = format!("{url}: {declared} exchanges, queues, streams and bindings are there");
        global.output().result(&text, &json!({"broker": url.to_string(), "declared": declared}))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let failure = Self::new("no-broker", exit::UNAVAILABLE, error.to_string());
        match error {
            ConnectError::Access(error) => error.into(),
            ConnectError::Tls { help, .. } => failure.help(help),
            _ => failure.help(
                "is it running, and does it know this user? `rabbitmqctl status`, `rabbitmqctl list_users`",
            ),
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::new("no-broker", exit::UNAVAILABLE, error.to_string())
    }
}

impl From<DeclareError> for Failure {
    fn from(error: DeclareError) -> Self {
        let what = error.to_string();
        match error {
            DeclareError::Different { .. } => Self::new("broker-differs", exit::CONFIGURATION, what)
                .part("done", "what is there was left as it is")
                .help("delete it if it is empty and nobody uses it, or let the settings say what is there"),
            DeclareError::NotAllowed { .. } => Self::new("not-allowed", exit::REFUSED, what).help(
                "declaring needs the right to configure arbiter.*; an administrator can import `--print`",
            ),
            DeclareError::Missing { .. } => Self::new("no-topology", exit::CONFIGURATION, what)
                .help("if a node is down, start it; else run `arbiter broker init` once, or import what `arbiter broker init --print` prints"),
            DeclareError::Failed { .. } | DeclareError::NoAnswer { .. } => {
                Self::new("no-broker", exit::UNAVAILABLE, what)
            }
        }
    }
}
