//! `release --force`, `pause`, `resume`: what an operator does, on the record with who and why.

use super::look::looker;
use super::output::{Failure, exit};
use super::run::resource_names;
use super::{Global, Outcome};
use arbiterq_client::ErrorKind;
use arbiterq_client::wire::Reason;
use serde_json::json;
use std::process::ExitCode;

/// `release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Release {
    /// The resource that is meant
    resource: String,
    /// Yes, from somebody else
    #[arg(long, required = true)]
    force: bool,
    /// The grant that is meant, as `arbiter holders` shows it; if it changed, nothing happens
    #[arg(long, value_name = "N")]
    token: u64,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not wait until the holder has stopped: only fencing protects the resource then
    #[arg(long)]
    now: bool,
}

impl Release {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self { resource, token, reason, now, .. } = self;
        let mut names = resource_names(std::slice::from_ref(&resource))?;
        let Some(name) = names.pop() else { return Ok(ExitCode::SUCCESS) };
        let client = looker(global).await?;
        client.force_release(name, token, reason, now).await.map_err(|error| match error.kind() {
            ErrorKind::Refused(Reason::HolderChanged) => Failure::new(
                "holder-changed",
                exit::REFUSED,
                format!("{resource} is not held by grant {token}"),
            )
            .part("done", "nothing was changed")
            .help(format!("look again: `arbiter queue {resource}`")),
            _ => error.into(),
        })?;
        let text = match now {
            true => format!("{resource}: grant {token} was released; its holder may not know yet"),
            false => format!(
                "{resource}: grant {token} is being revoked; it passes on when its holder has stopped"
            ),
        };
        let object = json!({"forced": {"resource": resource, "token": token, "now": now}});
        global.output().result(&text, &object)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `pause` and `resume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only this partition [default: all]
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
}

impl Pause {
    pub(crate) async fn pause(self, global: &Global) -> Outcome {
        self.each(global, true).await
    }

    pub(crate) async fn resume(self, global: &Global) -> Outcome {
        self.each(global, false).await
    }

    async fn each(self, global: &Global, pause: bool) -> Outcome {
        let client = looker(global).await?;
        let partitions = client.partitions().await?;
        let wanted = match self.partition {
            Some(partition) if partition >= partitions => {
                let what = format!("there is no partition {partition}: they are 0 to {}", partitions - 1);
                return Err(Failure::new("usage", exit::USAGE, what));
            }
            Some(partition) => partition..partition + 1,
            None => 0..partitions,
        };
        for partition in wanted {
            let (state, text) = match pause {
                true => ("paused", "nothing is granted; requests still queue"),
                false => ("granting", "granting goes on"),
            };
            match pause {
                true => client.pause(partition, &self.reason).await?,
                false => client.resume(partition, &self.reason).await?,
            }
            let object = json!({"partition": partition, "state": state});
            global.output().result(&format!("partition {partition}: {text}"), &object)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
