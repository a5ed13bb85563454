//! The direct transport: clients connect to the arbiter itself, and the queue is the sockets.
//!
//! [`Hub`] knows the connections; [`listen`] accepts them; each has a reader and a writer ([`connection`]). A
//! letter to oneself is delivered behind everything that had arrived when it was written ([`sweep`]).
//!
//! What this must never do: end a session for a connection that it closed itself, or hold more for a slow reader
//! than [`OUTBOX_BYTES_MAX`].

mod connection;
mod listen;
mod sweep;

pub use connection::{ChannelEnd, Line};
pub use listen::{ListenError, Listener};

use crate::partition::{Address, Delivery};
use arbiterq_client::wire::Reply;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// Replies that wait for a client that does not read; at the bound its connection is dropped.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that wait for a partition; at the bound its senders' sockets are not read.
pub const INBOX_MAX: usize = 4096;
/// What one reader hands on before a letter passes it, though more may have arrived meanwhile.
pub const SWEEP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A client that takes nothing for so long keeps nobody from stopping.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
/// How often a stop looks whether all is written.
const FLUSH_LOOK: Duration = Duration::from_millis(1);

/// What a partition's loop takes from the transport, in the queue's order.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are deliveries")]
pub enum Inbound {
    /// A message.
    Delivery(Delivery),
    /// A connection ended, and not by the arbiter's doing; all that came on it was delivered before.
    Closed(Address),
}

/// The connections of a process, and the ways into its partitions.
pub struct Hub {
    /// Addresses of another process are nobody's here.
    tag: String,
    inboxes: Vec<mpsc::Sender<Inbound>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    connections_max: usize,
    /// The epoch that each partition is in, for what the transport refuses by itself.
    epochs: Vec<AtomicU64>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<oneshot::Sender<()>>>>,
    opened: AtomicU64,
    refused_lines: AtomicU64,
    sweeps: mpsc::Sender<sweep::Letter>,
}

/// What the rest of the arbiter knows of one connection.
struct Connection {
    address: Address,
    outbox: Mutex<Outbox>,
    /// Something is in the outbox, or the connection is to be dropped.
    wake: Notify,
    /// The arbiter closes it: its end tells nothing about the client.
    dropped: AtomicBool,
    drop_now: Notify,
    sweeps: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// What the writer has taken out and not written yet.
    writing: usize,
}

impl Hub {
    /// A hub for partitions with these inboxes; `tag` is random and names this process in addresses.
    ///
    /// Must be called within a runtime: letters are delivered by a task of their own.
    pub fn new(tag: String, inboxes: Vec<mpsc::Sender<Inbound>>, connections_max: usize) -> Arc<Self> {
        let (sweeps, letters) = mpsc::channel(64);
        let epochs = inboxes.iter().map(|_| AtomicU64::new(0)).collect();
        let hub = Arc::new(Self {
            tag,
            inboxes,
            epochs,
            listeners: Mutex::default(),
            connections: Mutex::default(),
            connections_max,
            opened: AtomicU64::new(0),
            refused_lines: AtomicU64::new(0),
            sweeps,
        });
        tokio::spawn(sweep::deliver_letters(Arc::downgrade(&hub), letters));
        hub
    }

    /// Sends a reply if its address is connected here; whether it was is nothing that anybody may rely on.
    pub fn send(&self, to: &Address, reply: &Reply) -> bool {
        let number =
            to.rsplit_once('.').filter(|(process, _)| process.strip_prefix("direct.") == Some(&self.tag));
        let Some(number) = number.and_then(|(_, number)| number.parse::<u64>().ok()) else { return false };
        let connection = self.lock().get(&number).cloned();
        connection.is_some_and(|connection| connection.push(reply))
    }

    /// Delivers a letter to a partition's own queue, behind everything that has arrived by now. Never waits: what
    /// is to be delivered before it may wait for the caller to take from its inbox.
    pub fn post(&self, partition: u32, request: arbiterq_client::wire::Request) {
        // Full only while letters are being delivered already; the partition sends a tick again.
        let _ = self.sweeps.try_send(sweep::Letter { partition, request });
    }

    /// A partition began an epoch.
    pub fn set_epoch(&self, partition: u32, epoch: u64) {
        if let Some(known) = self.epochs.get(partition as usize) {
            known.store(epoch, Ordering::Release);
        }
    }

    fn epoch(&self, partition: u32) -> u64 {
        self.epochs.get(partition as usize).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    fn add_listener(&self, sweeps: mpsc::UnboundedSender<oneshot::Sender<()>>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sweeps);
    }

    fn listeners(&self) -> Vec<mpsc::UnboundedSender<oneshot::Sender<()>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Lines that were no message, so far.
    pub fn refused_lines(&self) -> u64 {
        self.refused_lines.load(Ordering::Relaxed)
    }

    /// Drops every connection: the arbiter stops, which tells nothing about its clients.
    pub fn drop_all(&self) {
        self.lock().values().for_each(|connection| connection.drop_by_us());
    }

    /// Waits until the replies of all connections are written, or the clients that are left do not read: nobody
    /// has taken anything for [`FLUSH_PATIENCE`].
    pub async fn flushed(&self) {
        let mut connections: Vec<_> = self.lock().values().cloned().collect();
        let (mut left, mut patience) = (usize::MAX, FLUSH_PATIENCE);
        while !patience.is_zero() {
            connections.retain(|connection| connection.unwritten() > 0);
            let now_left = connections.iter().map(|connection| connection.unwritten()).sum();
            if now_left == 0 {
                return;
            }
            patience = if now_left < left { FLUSH_PATIENCE } else { patience.saturating_sub(FLUSH_LOOK) };
            left = now_left;
            tokio::time::sleep(FLUSH_LOOK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection; `None` if there are as many as may be.
    fn register(&self) -> Option<(Arc<Connection>, mpsc::UnboundedReceiver<oneshot::Sender<()>>)> {
        let mut connections = self.lock();
        if connections.len() >= self.connections_max {
            return None;
        }
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let (sweeps, asked) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection {
            address: Address::from(format!("direct.{}.{number}", self.tag)),
            outbox: Mutex::default(),
            wake: Notify::new(),
            dropped: AtomicBool::new(false),
            drop_now: Notify::new(),
            sweeps,
        });
        connections.insert(number, connection.clone());
        Some((connection, asked))
    }

    fn forget(&self, connection: &Connection) {
        if let Some(number) = connection.address.rsplit_once('.').and_then(|(_, number)| number.parse().ok())
        {
            self.lock().remove(&number);
        }
    }
}

impl Connection {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what is to be written next; `pending`, which is empty, is filled from then on.
    fn take_out(&self, pending: &mut Vec<u8>) {
        let mut outbox = self.outbox();
        std::mem::swap(pending, &mut outbox.bytes);
        outbox.writing = pending.len();
    }

    /// So many bytes of it are.
    fn written(&self, bytes: usize) {
        let mut outbox = self.outbox();
        outbox.writing = outbox.writing.saturating_sub(bytes);
    }

    /// Bytes that may still reach the client.
    fn unwritten(&self) -> usize {
        let outbox = self.outbox();
        if self.dropped.load(Ordering::Acquire) { 0 } else { outbox.bytes.len() + outbox.writing }
    }

    /// Adds a reply to what the writer will write. A client that does not read is dropped, not waited for.
    fn push(&self, reply: &Reply) -> bool {
        if self.dropped.load(Ordering::Acquire) {
            return false;
        }
        let line = reply.encode();
        let mut outbox = self.outbox();
        if outbox.bytes.len() + outbox.writing + line.len() > OUTBOX_BYTES_MAX {
            drop(outbox);
            tracing::warn!(
                address = %self.address,
                bytes = OUTBOX_BYTES_MAX,
                "connection dropped: its client does not read its replies"
            );
            self.drop_by_us();
            return false;
        }
        outbox.bytes.extend_from_slice(&line);
        outbox.bytes.push(b'\n');
        drop(outbox);
        self.wake.notify_one();
        true
    }

    fn drop_by_us(&self) {
        self.dropped.store(true, Ordering::Release);
        self.drop_now.notify_one();
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq_client::wire::{Nonce, Nudge, Request, RequestBody};

    #[tokio::test]
    async fn a_partition_that_takes_nothing_does_not_stop_the_loops_that_write_letters() {
        let (one, _taken) = mpsc::channel(INBOX_MAX);
        let (stuck, mut stuck_inbox) = mpsc::channel(1);
        let hub = Hub::new(Nonce([1; 16]).to_string(), vec![one, stuck.clone()], 10);
        stuck.try_send(Inbound::Closed("direct.x.0".into())).unwrap();
        let letter =
            |partition| Request { partition, auth: None, body: RequestBody::Nudge(Nudge::default()) };
        // A loop that waited here would not empty the inbox for which the letters wait.
        for _ in 0..200 {
            hub.post(1, letter(1));
            hub.post(0, letter(0));
            tokio::task::yield_now().await;
        }
        assert!(matches!(stuck_inbox.recv().await, Some(Inbound::Closed(_))));
        assert!(matches!(stuck_inbox.recv().await, Some(Inbound::Delivery(_))), "letters go on afterwards");
    }
}
