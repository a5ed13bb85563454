//! An arbiter within a program: for tests, examples and whoever needs no other process.
//!
//! The same partition, loop and protocol as the service, over channels instead of sockets and with a log in memory
//! instead of a folder. Time is the runtime's, so a test may pause it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let arbiter = arbiterq::testing::in_process().await;
//! let client = arbiter.client().await?;
//! let grant = client.acquire("db/migrate").await?;
//! assert_eq!(grant.token(), grant.floor());
//! grant.release().await?;
//! # Ok(())
//! # }
//! ```

use crate::clock::Clock;
use crate::log::memory::MemoryLog;
use crate::partition::PartitionConfig;
use crate::serve::{OpenLog, PartitionLoop, ServeError, random};
use crate::transport::direct::{ChannelEnd, Hub, INBOX_MAX};
use arbiterq_client::transport::{Connector, Link};
use arbiterq_client::wire::{LogId, Nonce};
use arbiterq_client::{Client, Error};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Messages under way in one direction of a connection.
const CHANNEL_MAX: usize = 1024;
/// Connections that may be open.
const CONNECTIONS_MAX: usize = 100_000;

/// An arbiter in this program. Dropping it stops it.
pub struct InProcess {
    connector: Connector,
    hub: Arc<Hub>,
    reachable: Arc<AtomicBool>,
    logs: Vec<MemoryLog>,
    stop: watch::Sender<bool>,
    loops: JoinSet<Result<(), ServeError>>,
}

/// Starts an arbiter with one partition and the default policy.
///
/// # Panics
/// If the system gives no random numbers.
pub async fn in_process() -> InProcess {
    in_process_with(1, PartitionConfig::default()).await
}

/// Starts an arbiter with `partitions` partitions.
///
/// # Panics
/// If the system gives no random numbers.
pub async fn in_process_with(partitions: u32, config: PartitionConfig) -> InProcess {
    let clock = Clock::of_runtime();
    let bytes = || random::<16>().expect("the system gives random numbers");
    let (inboxes, taken): (Vec<_>, Vec<_>) = (0..partitions).map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let hub = Hub::new(Nonce(bytes()).to_string(), inboxes, CONNECTIONS_MAX);
    let (stop, stopped) = watch::channel(false);
    let (mut logs, mut loops) = (Vec::new(), JoinSet::new());
    for (number, inbox) in (0..).zip(taken) {
        let log = MemoryLog::default();
        logs.push(log.clone());
        let open = OpenLog::in_memory(log, LogId(bytes()), number, partitions, clock.wall());
        let partition = PartitionLoop::new(number, open, inbox, hub.clone(), clock, config.clone(), 0);
        let (active, is_active) = tokio::sync::oneshot::channel();
        loops.spawn(partition.run(stopped.clone(), active));
        is_active.await.expect("a log in memory does not fail");
    }
    let reachable = Arc::new(AtomicBool::new(true));
    let connector = connector(hub.clone(), reachable.clone());
    InProcess { connector, hub, reachable, logs, stop, loops }
}

fn connector(hub: Arc<Hub>, reachable: Arc<AtomicBool>) -> Connector {
    Connector::new(move || {
        if !reachable.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (requests, taken) = mpsc::channel(CHANNEL_MAX);
        let (replies, told) = mpsc::channel(CHANNEL_MAX);
        hub.connect_in_process(ChannelEnd { requests: taken, replies })?;
        Ok(Link { requests, replies: told, peer: Some("in-process".into()) })
    })
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("partitions", &self.logs.len()).finish_non_exhaustive()
    }
}

impl InProcess {
    /// A client of this arbiter.
    ///
    /// # Errors
    /// The arbiter has stopped.
    pub async fn client(&self) -> Result<Client, Error> {
        Client::over(self.connector()).clock(arbiterq_client::Clock::Tokio).connect().await
    }

    /// The way in, for a client that is put together otherwise.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Cuts every connection, as a network does: clients connect again by themselves, and their sessions live on.
    pub fn cut(&self) {
        self.hub.drop_all();
    }

    /// Whether new connections reach it: with `false`, then [`cut`](Self::cut), the arbiter is out of reach of its
    /// clients, though it goes on.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Release);
    }

    /// A partition's grant log up to now, a record a line: what a log folder would hold.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn log(&self, partition: u32) -> Vec<Vec<u8>> {
        self.logs[partition as usize].lines()
    }

    /// Finishes what was taken, and stops.
    ///
    /// # Errors
    /// A part of it failed before.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        let _ = self.stop.send(true);
        let mut result = Ok(());
        while let Some(ended) = self.loops.join_next().await {
            let ended = ended.map_err(|error| ServeError::Panicked(error.to_string()));
            result = result.and(ended.and_then(|ended| ended));
        }
        self.hub.flushed().await;
        self.hub.close();
        self.hub.closed().await;
        result
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        // Clients have the way in, too: it leads nowhere any more.
        self.hub.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_stopped_is_not_connected_any_more() {
        let arbiter = in_process().await;
        let hub = arbiter.hub.clone();
        let client = arbiter.client().await.unwrap();
        client.acquire("r").await.unwrap();
        assert_eq!(hub.connected(), 1);
        arbiter.stop().await.unwrap();
        assert_eq!(hub.connected(), 0);
        let (_, requests) = mpsc::channel(1);
        let (replies, _) = mpsc::channel(1);
        hub.connect_in_process(ChannelEnd { requests, replies }).unwrap_err();
    }

    #[tokio::test]
    async fn what_is_dropped_is_not_connected_any_more() {
        let arbiter = in_process().await;
        let hub = arbiter.hub.clone();
        let _client = arbiter.client().await.unwrap();
        drop(arbiter);
        hub.closed().await;
    }
}
