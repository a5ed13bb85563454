//! `lock`: holds a resource for a shell or a program without our library.

use super::output::{Failure, duration, exit};
use super::run::{Waited, Wanted, label, owner_around, partition_for, resource_names};
use super::{Global, Outcome};
use arbiterq_client::Outcome as Given;
use serde_json::json;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// `lock`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Whoever uses it must stop when this ends: exit 123 says that the resource was lost. \
                        `arbiter run` stops a command for you."
)]
pub(crate) struct Lock {
    /// What to hold
    resource: String,
    /// Beside other shared holders
    #[arg(long)]
    shared: bool,
    /// Wait at most so long [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with = "try_now")]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long = "try")]
    try_now: bool,
    /// Why, for people and for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long the arbiter waits for word from us
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "60s")]
    lease: Duration,
    /// Over RabbitMQ: be given up so soon after nobody is found at our end, and not only when the lease is over. What is held
    /// is then lost also when the broker is away for so long
    #[arg(long, value_name = "DUR", value_parser = duration)]
    fail_fast: Option<Duration>,
}

impl Lock {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let output = global.output();
        let resources = resource_names(std::slice::from_ref(&self.resource))?;
        let mut asked_to_end = EndSignal::new()?;
        let mut builder = global.client().label(label()).lease(self.lease);
        if let Some(fail_fast) = self.fail_fast {
            builder = builder.fail_fast(fail_fast);
        }
        let client = builder.connect().await?;
        let partition = partition_for(&client, &resources).await?;
        let wait = if self.try_now { Some(Duration::ZERO) } else { self.wait };
        let mut acquire = client.acquire(self.resource.as_str());
        if self.shared {
            acquire = acquire.shared();
        }
        if let Some(wait) = wait {
            acquire = acquire.wait(wait);
        }
        if let Some(reason) = &self.reason {
            acquire = acquire.reason(reason);
        }
        if let Some(owner) = owner_around(&client, partition).await? {
            acquire = acquire.owner(owner);
        }
        let ticket = acquire.enqueue().await?;
        let wanted = Wanted { resources: &resources, wait, output };
        let grant = match wanted.wait(&client, partition, ticket, asked_to_end.next()).await? {
            Waited::Granted(grant) => grant,
            Waited::Signalled(number) => {
                client.close().await;
                return Ok(ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX)));
            }
        };
        let receipt = grant.receipt();
        let object = json!({
            "resource": self.resource,
            "token": grant.token(),
            "floor": grant.floor(),
            "session": grant.session(),
            "log_id": receipt.log_id,
            "partition": receipt.partition,
            "hash": receipt.hash,
        });
        output.line(&object.to_string())?;
        let lost = tokio::select! {
            lost = grant.lost() => Some(lost.reason),
            _ = asked_to_end.next() => None,
            () = stdin_closed() => None,
        };
        let given_back = grant.release().await;
        client.close().await;
        let lost = lost.or(match given_back {
            Ok(Given::AlreadyLost(reason)) => Some(reason),
            _ => None,
        });
        match lost {
            None => Ok(ExitCode::SUCCESS),
            Some(reason) => {
                Err(Failure::new("lost", exit::LOST, format!("{} was lost: {reason}", self.resource))
                    .help("stop whatever uses it; its token is refused by a resource that checks"))
            }
        }
    }
}

/// Completes when nobody can write to standard input any more.
async fn stdin_closed() {
    let (closed, is_closed) = oneshot::channel();
    // A thread of its own, which ends with the process: the runtime would wait for its read.
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while !matches!(std::io::stdin().read(&mut bytes), Ok(0) | Err(_)) {}
        let _ = closed.send(());
    });
    let _ = is_closed.await;
}

/// SIGINT, SIGTERM and SIGHUP.
struct EndSignal([(Signal, i32); 3]);

impl EndSignal {
    fn new() -> std::io::Result<Self> {
        let of = |kind: SignalKind| Ok::<_, std::io::Error>((signal(kind)?, kind.as_raw_value()));
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> i32 {
        let [(interrupt, first), (terminate, second), (hangup, third)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => *first,
            _ = terminate.recv() => *second,
            _ = hangup.recv() => *third,
        }
    }
}
