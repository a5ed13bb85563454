//! The direct transport: clients connect to the arbiter itself, and the queue is the sockets.
//!
//! [`Hub`] knows the connections; `listen` accepts them; each has a reader and a writer (`connection`). A
//! letter to oneself is delivered behind everything that had arrived when it was written (`sweep`).
//!
//! What this must never do: end a session for a connection that it closed itself, or hold more for a slow reader
//! than [`OUTBOX_BYTES_MAX`].

mod connection;
mod descriptors;
mod listen;
mod sweep;

pub use connection::{ChannelEnd, Line};
pub use descriptors::connections_within_limit;
pub use listen::{ListenError, Listener};

use crate::partition::{Address, Delivery};
use arbiterq_client::wire::Reply;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Replies that wait for a client that does not read; at the bound its connection is dropped.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that wait for a partition; at the bound its senders' sockets are not read.
pub const INBOX_MAX: usize = 4096;
/// What one reader hands on before a letter passes it, though more may have arrived meanwhile.
pub const SWEEP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a client that says nothing more is still answered what it asked before.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
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
    connections: Mutex<Connections>,
    /// A connection is over.
    forgotten: Notify,
    connections_max: usize,
    /// The epoch that each partition is in, for what the transport refuses by itself.
    epochs: Vec<AtomicU64>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<oneshot::Sender<()>>>>,
    opened: AtomicU64,
    refused_lines: AtomicU64,
    sweeps: mpsc::Sender<sweep::Letter>,
    /// Whether a task of the transport has panicked.
    failed: Arc<watch::Sender<bool>>,
}

/// Those that are open, by their numbers.
#[derive(Default)]
struct Connections {
    open: HashMap<u64, Arc<Connection>>,
    /// No other is to be added.
    closed: bool,
}

/// Tells of a panic of the task that has it: nobody waits for these tasks while they work.
struct Alarm(Arc<watch::Sender<bool>>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

/// What the rest of the arbiter knows of one connection.
struct Connection {
    number: u64,
    address: Address,
    outbox: Mutex<Outbox>,
    /// Something is in the outbox, or the connection is to be dropped.
    wake: Notify,
    /// The arbiter closes it: its end tells nothing about the client.
    dropped: AtomicBool,
    drop_now: Notify,
    sweeps: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Messages that were handed on and not acknowledged: an answer may come.
    unanswered: AtomicU64,
    /// Nothing can be written any more.
    deaf: AtomicBool,
    /// Nothing is unanswered, or nothing unwritten, or nothing can be written.
    quiet: Notify,
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
            forgotten: Notify::new(),
            connections_max,
            opened: AtomicU64::new(0),
            refused_lines: AtomicU64::new(0),
            sweeps,
            failed: Arc::new(watch::channel(false).0),
        });
        let (alarm, delivered) = (hub.alarm(), Arc::downgrade(&hub));
        tokio::spawn(async move {
            let _alarm = alarm;
            sweep::deliver_letters(delivered, letters).await;
        });
        hub
    }

    /// Sends replies whose addresses are connected here; which those were is nothing that anybody may rely on.
    pub fn send<'a>(&self, replies: impl IntoIterator<Item = (&'a Address, &'a Reply)>) {
        let mut filled: Vec<Arc<Connection>> = Vec::new();
        for (to, reply) in replies {
            let Some(connection) = self.connection(to) else { continue };
            if connection.push(reply) {
                filled.push(connection);
            }
        }
        for connection in &filled {
            connection.wake.notify_one();
        }
    }

    fn connection(&self, address: &Address) -> Option<Arc<Connection>> {
        let (process, number) = address.rsplit_once('.')?;
        if process.strip_prefix("direct.") != Some(&self.tag) {
            return None;
        }
        self.lock().open.get(&number.parse().ok()?).cloned()
    }

    /// These deliveries are finished, and their replies are sent.
    pub fn acknowledge(&self, deliveries: &[u64]) {
        if deliveries.is_empty() {
            return;
        }
        let connections = self.lock();
        for delivery in deliveries {
            // A letter is of no connection.
            let Some(number) = delivery.checked_sub(1) else { continue };
            if let Some(connection) = connections.open.get(&number)
                && connection.unanswered.fetch_sub(1, Ordering::AcqRel) == 1
            {
                connection.quiet.notify_one();
            }
        }
    }

    /// Completes if a task of the transport panics: nothing that it did is done any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&self) {
        // The hub has the sender: it cannot be gone.
        let _ = self.failed.subscribe().wait_for(|failed| *failed).await;
    }

    fn alarm(&self) -> Alarm {
        Alarm(self.failed.clone())
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
        self.lock().open.len()
    }

    /// Lines that were no message, so far.
    pub fn refused_lines(&self) -> u64 {
        self.refused_lines.load(Ordering::Relaxed)
    }

    /// Drops every connection, which tells nothing about their clients.
    pub fn drop_all(&self) {
        self.lock().open.values().for_each(|connection| connection.drop_by_us());
    }

    /// Drops every connection and takes no other: the arbiter has stopped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.drop_all();
    }

    /// Waits until every connection is closed. The partitions must have ended: a reader may wait for one.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) {
        loop {
            // Made before the look, so that what happens in between is not missed.
            let mut forgotten = std::pin::pin!(self.forgotten.notified());
            forgotten.as_mut().enable();
            if self.lock().open.is_empty() {
                return;
            }
            forgotten.await;
        }
    }

    /// Waits until the replies of all connections are written, or the clients that are left do not read: nobody
    /// has taken anything for `FLUSH_PATIENCE`.
    pub async fn flushed(&self) {
        let mut connections: Vec<_> = self.lock().open.values().cloned().collect();
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

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection; `None` if there are as many as may be, or the arbiter has stopped.
    fn register(&self) -> Option<(Arc<Connection>, mpsc::UnboundedReceiver<oneshot::Sender<()>>)> {
        let mut connections = self.lock();
        if connections.closed || connections.open.len() >= self.connections_max {
            return None;
        }
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let (sweeps, asked) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection {
            number,
            address: Address::from(format!("direct.{}.{number}", self.tag)),
            outbox: Mutex::default(),
            wake: Notify::new(),
            dropped: AtomicBool::new(false),
            drop_now: Notify::new(),
            sweeps,
            unanswered: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            quiet: Notify::new(),
        });
        connections.open.insert(number, connection.clone());
        Some((connection, asked))
    }

    fn forget(&self, connection: &Connection) {
        self.lock().open.remove(&connection.number);
        self.forgotten.notify_waiters();
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
        if outbox.writing == 0 && outbox.bytes.is_empty() {
            self.quiet.notify_one();
        }
    }

    /// Nothing reaches the client any more.
    fn is_over(&self) -> bool {
        self.dropped.load(Ordering::Acquire) || self.deaf.load(Ordering::Acquire)
    }

    /// Nothing can be written any more. What the client says is still heard.
    fn now_deaf(&self) {
        self.deaf.store(true, Ordering::Release);
        self.quiet.notify_one();
    }

    /// The client says nothing more: waits until what it asked is answered and written, as far as it can be.
    async fn last_answers(&self) {
        let answered = async {
            while !self.is_over() && (self.unanswered.load(Ordering::Acquire) > 0 || self.unwritten() > 0) {
                self.quiet.notified().await;
            }
        };
        tokio::select! {
            () = answered => {}
            () = self.drop_now.notified() => {}
            () = tokio::time::sleep(LAST_ANSWERS) => {}
        }
    }

    /// Bytes that may still reach the client.
    fn unwritten(&self) -> usize {
        let outbox = self.outbox();
        if self.is_over() { 0 } else { outbox.bytes.len() + outbox.writing }
    }

    /// Adds a reply to what will be written; true if it is the first there, so that the writer is to be woken. A client
    /// that does not read is dropped, not waited for.
    fn push(&self, reply: &Reply) -> bool {
        if self.is_over() {
            return false;
        }
        let mut outbox = self.outbox();
        let before = outbox.bytes.len();
        reply.encode_into(&mut outbox.bytes);
        outbox.bytes.push(b'\n');
        if outbox.bytes.len() + outbox.writing > OUTBOX_BYTES_MAX {
            outbox.bytes.truncate(before);
            drop(outbox);
            tracing::warn!(
                address = %self.address,
                bytes = OUTBOX_BYTES_MAX,
                "connection dropped: its client does not read its replies"
            );
            self.drop_by_us();
            return false;
        }
        before == 0
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
    use arbiterq_client::wire::{
        Nonce, Nudge, Reason, Refused, ReplyBody, Request, RequestBody, StatusAsk, StatusWhat,
    };

    #[tokio::test]
    async fn a_partition_that_takes_nothing_does_not_stop_the_loops_that_write_letters() {
        let (one, _taken) = mpsc::channel(INBOX_MAX);
        let (stuck, mut stuck_inbox) = mpsc::channel(1);
        let hub = Hub::new(Nonce([1; 16]).to_string(), vec![one, stuck.clone()], 10);
        stuck.try_send(Inbound::Closed("direct.x.0".into())).unwrap();
        // A loop that waited here would not empty the inbox for which the letters wait.
        for _ in 0..200 {
            hub.post(1, letter(1));
            hub.post(0, letter(0));
            tokio::task::yield_now().await;
        }
        assert!(matches!(stuck_inbox.recv().await, Some(Inbound::Closed(_))));
        assert!(matches!(stuck_inbox.recv().await, Some(Inbound::Delivery(_))), "letters go on afterwards");
    }

    fn letter(partition: u32) -> Request {
        Request { partition, auth: None, body: RequestBody::Nudge(Nudge::default()) }
    }

    fn status(id: &str) -> Request {
        let ask = StatusAsk { id: id.into(), what: StatusWhat::Summary };
        Request { partition: 0, auth: None, body: RequestBody::Status(ask) }
    }

    #[tokio::test]
    async fn no_letter_goes_by_sockets_that_were_read_before_it_was_written() {
        let (one, mut inbox) = mpsc::channel(INBOX_MAX);
        let (stuck, mut stuck_inbox) = mpsc::channel(1);
        let hub = Hub::new("t".into(), vec![one, stuck.clone()], 10);
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::unix(&folder.path().join("socket")).unwrap();
        let (_stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(listener.run(hub.clone(), async { drop(stopped.await) }));
        let mut client = std::os::unix::net::UnixStream::connect(folder.path().join("socket")).unwrap();
        let mut say = |request: Request| {
            std::io::Write::write_all(&mut client, &[request.encode(), b"\n".to_vec()].concat()).unwrap();
        };
        say(status("1"));
        assert!(matches!(inbox.recv().await, Some(Inbound::Delivery(_))), "it is connected");
        // The other partition's letter has been round the sockets, and waits for room.
        stuck.try_send(Inbound::Closed("direct.x.0".into())).unwrap();
        hub.post(1, letter(1));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        // Without a pause in between: the runtime has not heard of the line when the letters are delivered.
        say(status("2"));
        hub.post(0, letter(0));
        assert!(matches!(stuck_inbox.recv().await, Some(Inbound::Closed(_))));
        for is_letter in [false, true] {
            let Some(Inbound::Delivery(delivery)) = inbox.recv().await else { panic!("a delivery") };
            assert_eq!(delivery.from.is_none(), is_letter, "what came first is delivered first");
        }
    }

    #[tokio::test]
    async fn a_client_within_the_program_that_takes_nothing_is_let_go() {
        let (inbox, _taken) = mpsc::channel(INBOX_MAX);
        let hub = Hub::new("t".into(), vec![inbox], 10);
        let (requests, to_arbiter) = mpsc::channel(1);
        let (from_arbiter, mut replies) = mpsc::channel(1);
        hub.connect_in_process(ChannelEnd { requests: to_arbiter, replies: from_arbiter }).unwrap();
        // Each is refused at once; nobody takes the refusals.
        for _ in 0..100 {
            requests.send(b"no message".to_vec()).await.unwrap();
        }
        hub.close();
        tokio::time::timeout(LAST_ANSWERS / 2, hub.closed()).await.expect("it is not waited for");
        while replies.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn a_client_within_the_program_that_never_pauses_keeps_no_letter_back() {
        // Every message waits for room, and the client says the next one meanwhile.
        let (inbox, mut delivered) = mpsc::channel(1);
        let hub = Hub::new("t".into(), vec![inbox], 10);
        let (requests, to_arbiter) = mpsc::channel(1024);
        let (from_arbiter, _replies) = mpsc::channel(1);
        hub.connect_in_process(ChannelEnd { requests: to_arbiter, replies: from_arbiter }).unwrap();
        let line = status("1").encode();
        let most = 2 * SWEEP_BYTES_MAX / line.len();
        tokio::spawn(async move { while requests.send(line.clone()).await.is_ok() {} });
        assert!(matches!(delivered.recv().await, Some(Inbound::Delivery(_))));
        hub.post(0, letter(0));
        for _ in 0..most {
            if matches!(delivered.recv().await, Some(Inbound::Delivery(Delivery { from: None, .. }))) {
                return;
            }
        }
        panic!("the letter is not there after {most} messages");
    }

    #[tokio::test]
    async fn who_says_nothing_more_is_answered_what_was_asked_and_then_closed() {
        let (inbox, mut delivered) = mpsc::channel(INBOX_MAX);
        let hub = Hub::new("t".into(), vec![inbox], 10);
        let (requests, to_arbiter) = mpsc::channel(1);
        let (from_arbiter, mut replies) = mpsc::channel(1);
        hub.connect_in_process(ChannelEnd { requests: to_arbiter, replies: from_arbiter }).unwrap();
        requests.send(status("1").encode()).await.unwrap();
        drop(requests);
        let Some(Inbound::Delivery(delivery)) = delivered.recv().await else { panic!("a delivery") };
        assert!(matches!(delivered.recv().await, Some(Inbound::Closed(_))), "the end is told at once");
        let body = ReplyBody::Refused(Refused {
            id: Some("1".into()),
            seq: None,
            token: None,
            reason: Reason::Malformed,
            detail: String::new(),
        });
        let to = delivery.from.unwrap();
        hub.send([(&to, &Reply { partition: 0, epoch: 1, index: 1, session: None, body })]);
        hub.acknowledge(&[delivery.id]);
        assert!(replies.recv().await.is_some());
        let closed = tokio::time::timeout(LAST_ANSWERS / 2, replies.recv()).await;
        assert!(closed.expect("not later than it is answered").is_none());
        hub.closed().await;
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused_in_the_partition_that_was_asked() {
        let inboxes = (0..4).map(|_| mpsc::channel(INBOX_MAX).0).collect();
        let hub = Hub::new("t".into(), inboxes, 10);
        hub.set_epoch(3, 30);
        let (requests, to_arbiter) = mpsc::channel(1);
        let (from_arbiter, mut replies) = mpsc::channel(1);
        hub.connect_in_process(ChannelEnd { requests: to_arbiter, replies: from_arbiter }).unwrap();
        let table = [
            (r#"{"v":1,"partition":3,"close":{"softly":true}}"#, (3, 30)),
            (r#"{"v":1,"partition":3,"dance":{}}"#, (3, 30)),
            (r#"{"v":1,"partition":4,"dance":{}}"#, (0, 0)),
            (r#"{"v":1,"partition":"3","dance":{}}"#, (0, 0)),
            ("no message", (0, 0)),
        ];
        for (line, expected) in table {
            requests.send(line.as_bytes().to_vec()).await.unwrap();
            let reply = Reply::decode(&replies.recv().await.unwrap()).unwrap().unwrap();
            assert_eq!((reply.partition, reply.epoch), expected, "{line}");
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_task_is_told() {
        let hub = Hub::new("t".into(), Vec::new(), 10);
        let alarm = hub.alarm();
        let task = tokio::spawn(async move {
            let _alarm = alarm;
            panic!("as planned");
        });
        hub.failed().await;
        task.await.unwrap_err();
    }
}
