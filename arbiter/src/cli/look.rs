//! `status`, `resources`, `holders`, `queue`: look at an arbiter. Looking leaves no trace in the log.

use super::output::{Failure, Table, colour_out, ms_for_people};
use super::run::{partition_for, resource_names};
use super::{Global, Outcome};
use arbiterq_client::Client;
use arbiterq_client::wire::{Mode, Status, StatusHolder, StatusWhat};
use serde_json::json;
use std::process::ExitCode;

/// `status`, `resources`, `holders`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusOf {}

/// `queue`.
#[derive(Debug, clap::Args)]
pub(crate) struct Queue {
    /// Which
    resource: String,
}

/// A client that only looks and operates: it opens no session.
pub(crate) async fn looker(global: &Global) -> Result<Client, Failure> {
    Ok(global.client().label(super::run::label()).session(false).connect().await?)
}

/// The same look at every partition.
async fn all(client: &Client, what: StatusWhat) -> Result<Vec<(u32, Status)>, Failure> {
    let mut found = Vec::new();
    for partition in 0..client.partitions().await? {
        found.push((partition, client.status(partition, what.clone()).await?));
    }
    Ok(found)
}

impl StatusOf {
    pub(crate) async fn status(self, global: &Global) -> Outcome {
        let output = global.output();
        let client = looker(global).await?;
        let mut table =
            Table::new(&[">PARTITION", "LOG", ">SESSIONS", ">HELD", ">WAITING", "OLDEST WAIT", "STATE"]);
        for (partition, status) in all(&client, StatusWhat::Summary).await? {
            if output.json {
                let mut object = json!(status);
                // Which question it answers is between the library and the arbiter.
                object.as_object_mut().map(|fields| fields.remove("id"));
                object["partition"] = json!(partition);
                output.line(&object.to_string())?;
            }
            let oldest = if status.waiting == 0 { "-".into() } else { ms_for_people(status.oldest_wait_ms) };
            let state = status.paused.map_or_else(|| "granting".to_owned(), |why| format!("paused: {why}"));
            table.row(vec![
                partition.to_string(),
                status.genesis.to_string(),
                status.sessions.to_string(),
                status.held.to_string(),
                status.waiting.to_string(),
                oldest,
                state,
            ]);
        }
        if !output.json {
            output.line(&table.text(colour_out()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(crate) async fn resources(self, global: &Global) -> Outcome {
        let output = global.output();
        let client = looker(global).await?;
        let mut table = Table::new(&["RESOURCE", ">HOLDERS", ">WAITING", "OLDEST WAIT"]);
        let mut cut = false;
        for (partition, status) in all(&client, StatusWhat::Resources).await? {
            cut |= status.resources.len() >= Status::ROWS_MAX;
            for resource in status.resources {
                if output.json {
                    let mut object = json!(resource);
                    object["partition"] = json!(partition);
                    output.line(&object.to_string())?;
                }
                let oldest =
                    if resource.waiting == 0 { "-".into() } else { ms_for_people(resource.oldest_wait_ms) };
                table.row(vec![
                    resource.resource.to_string(),
                    resource.holders.to_string(),
                    resource.waiting.to_string(),
                    oldest,
                ]);
            }
        }
        finish(global, &table, cut)
    }

    pub(crate) async fn holders(self, global: &Global) -> Outcome {
        let output = global.output();
        let client = looker(global).await?;
        let mut table = holders_table();
        let mut cut = false;
        for (partition, status) in all(&client, StatusWhat::Holders).await? {
            cut |= status.holders.len() >= Status::ROWS_MAX;
            for holder in status.holders {
                if output.json {
                    let mut object = json!(holder);
                    object["partition"] = json!(partition);
                    output.line(&object.to_string())?;
                }
                table.row(holder_row(&holder));
            }
        }
        finish(global, &table, cut)
    }
}

impl Queue {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let output = global.output();
        let resources = resource_names(std::slice::from_ref(&self.resource))?;
        let client = looker(global).await?;
        let partition = partition_for(&client, &resources).await?;
        let Some(resource) = resources.into_iter().next() else { return Ok(ExitCode::SUCCESS) };
        let status = client.status(partition, StatusWhat::Queue(resource)).await?;
        if output.json {
            let object = json!({
                "resource": self.resource, "partition": partition, "holders": status.holders,
                "queue": status.queue, "paused": status.paused,
            });
            output.line(&object.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(why) = &status.paused {
            output.line(&format!("granting is paused: {why}"))?;
        }
        if status.holders.is_empty() {
            output.line(&format!("{} is held by nobody", self.resource))?;
        } else {
            let mut table = holders_table();
            status.holders.iter().for_each(|holder| table.row(holder_row(holder)));
            output.line(&table.text(colour_out()))?;
        }
        if status.queue.is_empty() {
            output.line("nobody waits")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table =
            Table::new(&[">PLACE", "WAITER", "MODE", ">PRIORITY", "WAITED", "HEARD", "REQUEST", "REASON"]);
        for waiter in &status.queue {
            let passed_over = if waiter.suspended { " (suspended)" } else { "" };
            table.row(vec![
                waiter.position.to_string(),
                format!("{}{passed_over}", waiter.session.label),
                mode(waiter.mode, waiter.permits),
                waiter.priority.to_string(),
                ms_for_people(waiter.waited_ms),
                format!("{} ago", ms_for_people(waiter.session.renewed_ms)),
                format!("{}:{}", waiter.session.session, waiter.seq),
                waiter.reason.clone().unwrap_or_default(),
            ]);
        }
        output.line("")?;
        finish(global, &table, status.queue.len() >= Status::ROWS_MAX)
    }
}

/// Prints the table, and says if there may be more.
fn finish(global: &Global, table: &Table, cut: bool) -> Outcome {
    let output = global.output();
    if !output.json {
        output.line(&table.text(colour_out()))?;
    }
    if cut {
        let text = format!("only the first {} of a partition are shown", Status::ROWS_MAX);
        output.note(&text, &json!({"shown_max": Status::ROWS_MAX}));
    }
    Ok(ExitCode::SUCCESS)
}

fn holders_table() -> Table {
    Table::new(&["RESOURCE", "HOLDER", ">TOKEN", "MODE", "HELD", "LEASE LEFT", "HEARD", "REASON"])
}

fn holder_row(holder: &StatusHolder) -> Vec<String> {
    let revoking = if holder.revoking { " (revoking)" } else { "" };
    vec![
        holder.resource.to_string(),
        format!("{}{revoking}", holder.session.label),
        holder.token.to_string(),
        mode(holder.mode, holder.permits),
        ms_for_people(holder.held_ms),
        ms_for_people(holder.session.lease_left_ms),
        format!("{} ago", ms_for_people(holder.session.renewed_ms)),
        holder.reason.clone().unwrap_or_default(),
    ]
}

fn mode(mode: Mode, permits: Option<u32>) -> String {
    match mode {
        Mode::Exclusive => "exclusive".to_owned(),
        Mode::Shared => "shared".to_owned(),
        Mode::Permits => format!("{} permits", permits.unwrap_or_default()),
    }
}
