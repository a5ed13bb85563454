//! The service: one thin loop a partition, around the sans-I/O middle.
//!
//! A loop owns every side effect of its partition: it takes from the inbox, the log's proofs, the checkpointer and
//! the clock, tells the partition, and carries out what the partition says, in the order it says it. After a
//! failed write nothing more is appended or answered, and the process ends: what is not on the log is kept nowhere.

#[cfg(feature = "rabbitmq")]
mod rabbitmq;

use crate::checkpointer::{self, Drafted};
use crate::clock::Clock;
use crate::log::chain::{ChainTip, Sealed};
use crate::log::file::{self, AppendError, FileLog, OpenError, Opened, Proofs, Step, WriteError};
use crate::log::memory::MemoryLog;
use crate::log::record::{Command, Event, FORMAT, Genesis, Policy, Record};
use crate::partition::{ActivateError, Activation, Partition, PartitionConfig, Role, StepDown};
use crate::state::{State, snapshot};
use crate::transport::direct::{Hub, INBOX_MAX, Inbound, ListenError, Listener, connections_within_limit};
#[cfg(feature = "rabbitmq")]
use crate::transport::rabbitmq::{BrokerUrl, ConnectError, DeclareError};
use arbiterq_client::wire::{Hash, LogId, Nonce, Timestamp};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Messages taken from the inbox before the log is given what they made.
const BATCH_MAX: usize = 256;
/// File descriptors that are kept from connections: those of the runtime, the listener and whatever started this...
const DESCRIPTORS_KEPT: u64 = 48;
/// ...and those of each partition's log, its checkpoints and their readers.
const DESCRIPTORS_A_PARTITION: u64 = 16;

/// Where clients connect.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A port on loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// To a RabbitMQ broker, as the arbiter does itself; the log is there, too.
    #[cfg(feature = "rabbitmq")]
    RabbitMq(BrokerUrl),
}

/// All that the service is told.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where clients connect.
    pub listen: Listen,
    /// The folder with a log folder a partition.
    pub data: PathBuf,
    /// How many partitions; those of an existing log cannot be changed.
    pub partitions: u32,
    /// How the logs are kept.
    pub log: file::Options,
    /// Records between two checkpoints; 0 for none.
    pub checkpoint_records: u64,
    /// How partitions work.
    pub partition: PartitionConfig,
    /// Connections that may be open.
    pub connections_max: usize,
    /// How long finishing may take once it is asked to stop.
    pub shutdown_timeout: Duration,
}

/// What is said when it is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The URL that clients use.
    pub url: String,
    /// What was met in each partition's folder.
    pub partitions: Vec<Opened>,
}

/// Why the service does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It cannot accept connections.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A log failed: nothing was answered that is not on it.
    #[error("{0}; nothing was answered that is not on the log: make room or repair, then start again")]
    Log(#[from] WriteError),
    /// The log is of another number of partitions, or of another partition.
    #[error("{folder} was begun as partition {partition} of {partitions}, and is configured as {wanted}")]
    Partitions {
        /// The log's folder.
        folder: PathBuf,
        /// What its genesis says.
        partition: u32,
        /// What its genesis says.
        partitions: u32,
        /// What the settings say.
        wanted: String,
    },
    /// The log cannot be gone on with.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// Another arbiter writes this log.
    #[error("activity ended: {0}")]
    SteppedDown(StepDown),
    /// The broker cannot be reached.
    #[cfg(feature = "rabbitmq")]
    #[error(transparent)]
    Broker(#[from] ConnectError),
    /// The broker is not as it must be.
    #[cfg(feature = "rabbitmq")]
    #[error(transparent)]
    Topology(#[from] DeclareError),
    /// The broker has lost what it had confirmed.
    #[cfg(feature = "rabbitmq")]
    #[error(
        "log_truncated: record {index} of partition {partition}, which the broker had confirmed, is not in the log any more; \
         nothing is decided on a log that has lost its end; find out what the broker lost, and compare with `audit verify`; if \
         the log was removed to begin another, or somebody else wrote to arbiter.checkpoints.{partition}, remove that stream"
    )]
    Truncated {
        /// The partition.
        partition: u32,
        /// The record that was read before.
        index: u64,
    },
    /// Records are there, and what they stand on is not.
    #[cfg(feature = "rabbitmq")]
    #[error(
        "the log of partition {partition} does not begin with its first record, and none of the newest checkpoints stands in its place; \
         nothing is decided on a part of a log; find out what removed the beginning (a policy with max-age or \
         max-length-bytes on arbiter.grants.{partition}?), and put a whole copy in its place, or begin another log"
    )]
    BeginningCut {
        /// The partition.
        partition: u32,
    },
    /// The system gives no random numbers, threads or timers.
    #[error("{0}")]
    System(std::io::Error),
    /// A part of the service failed in a way that is a mistake of ours.
    #[error("a part of the service failed: {0}")]
    Panicked(String),
    /// Finishing took longer than it may.
    #[error("not everything could be finished within {0:?}")]
    ShutdownTimeout(Duration),
}

/// Runs the service until `shutdown` completes, then finishes what was taken.
///
/// # Errors
/// It could not start, a log failed, or finishing took too long.
pub async fn serve(
    config: ServeConfig,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    let (_no_other, policies) = watch::channel(config.partition.policy.clone());
    serve_under(policies, config, shutdown, ready).await
}

/// As [`serve`], under policies that may change meanwhile: each partition puts the new one into its log.
///
/// # Errors
/// As [`serve`].
pub async fn serve_under(
    mut policies: watch::Receiver<Policy>,
    mut config: ServeConfig,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    config.partition.policy = policies.borrow_and_update().clone();
    let listener = match &config.listen {
        Listen::Tcp(address) => Listener::tcp(*address)?,
        Listen::Unix(path) => Listener::unix(path)?,
        #[cfg(feature = "rabbitmq")]
        Listen::RabbitMq(url) => {
            let url = url.clone();
            return rabbitmq::serve(url, config, policies, shutdown, ready).await;
        }
    };
    let clock = Clock::system();
    let mut logs = Vec::new();
    for number in 0..config.partitions {
        let config = config.clone();
        let wall = clock.wall();
        // Reading a log blocks, and may take long.
        let opened = tokio::task::spawn_blocking(move || open(&config, number, wall));
        logs.push(opened.await.map_err(panicked)??);
    }
    let (inboxes, taken): (Vec<_>, Vec<_>) = logs.iter().map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let kept = DESCRIPTORS_KEPT + DESCRIPTORS_A_PARTITION * u64::from(config.partitions);
    let connections_max = connections_within_limit(config.connections_max, kept);
    let hub = Hub::new(Nonce(random()?).to_string(), inboxes, connections_max);
    let (stop, stopped) = watch::channel(false);
    let mut ready_when = Vec::new();
    let mut loops = JoinSet::new();
    let mut folders = Vec::new();
    for ((number, log), inbox) in (0..).zip(logs).zip(taken) {
        folders.push(log.opened.clone());
        let (active, is_active) = tokio::sync::oneshot::channel();
        ready_when.push(is_active);
        let (rules, checkpoints) = (config.partition.clone(), config.checkpoint_records);
        let partition = PartitionLoop::new(number, log, inbox, hub.clone(), clock, rules, checkpoints)
            .under(policies.clone());
        loops.spawn(partition.run(stopped.clone(), active));
    }
    let mut all_active = true;
    for active in ready_when {
        // One that failed before it was active says why when it is joined.
        all_active &= active.await.is_ok();
    }
    let url = listener.url().to_owned();
    let mut stop_accepting = stopped.clone();
    let mut accepting = tokio::spawn(listener.run(hub.clone(), async move {
        let _ = stop_accepting.wait_for(|stop| *stop).await;
    }));
    if all_active {
        ready(Ready { url, partitions: folders });
    }

    let accepted = |ended: Result<std::io::Result<()>, _>| {
        ended.map_err(panicked).and_then(|accepted| accepted.map_err(ServeError::System))
    };
    let transport_failed = || ServeError::Panicked("a connection's task panicked".into());
    let mut accepts = true;
    let mut result = tokio::select! {
        () = shutdown, if all_active => Ok(()),
        Some(ended) = loops.join_next() => ended.map_err(panicked).and_then(|ended| ended),
        ended = &mut accepting => {
            accepts = false;
            accepted(ended)
        }
        () = hub.failed() => Err(transport_failed()),
    };
    let _ = stop.send(true);
    // What failed first says why, also where it keeps the rest from finishing.
    let mut also = |ended: Result<(), ServeError>| {
        if result.is_ok() {
            result = ended;
        }
    };
    let finish = async {
        if accepts {
            also(accepted(accepting.await));
        }
        while let Some(ended) = loops.join_next().await {
            also(ended.map_err(panicked).and_then(|ended| ended));
        }
        hub.flushed().await;
        hub.close();
        hub.closed().await;
    };
    let limit = config.shutdown_timeout;
    let finished = tokio::time::timeout(limit, finish).await;
    result.and(finished.map_err(|_| ServeError::ShutdownTimeout(limit)))
}

impl From<checkpointer::Panicked> for ServeError {
    fn from(_: checkpointer::Panicked) -> Self {
        Self::Panicked("the checkpointer panicked".into())
    }
}

fn panicked(error: tokio::task::JoinError) -> ServeError {
    ServeError::Panicked(error.to_string())
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], ServeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| ServeError::System(error.into()))?;
    Ok(bytes)
}

/// A log that is open, and the state that it gives.
pub(crate) struct OpenLog {
    store: Store,
    state: State,
    opened: Opened,
}

impl OpenLog {
    /// A log in memory, begun just now.
    pub(crate) fn in_memory(
        log: MemoryLog,
        log_id: LogId,
        partition: u32,
        partitions: u32,
        wall: Timestamp,
    ) -> Self {
        let mut state = State::new(ChainTip::before(0));
        let genesis = genesis(log_id, partition, partitions, wall);
        state.fold(&genesis);
        log.append(&[genesis]);
        let opened =
            Opened { tip: None, checkpoint: None, unusable: Vec::new(), cut: None, records: 0, end: None };
        Self { store: Store::Memory { log, proven: 0, told: 0 }, state, opened }
    }
}

/// Where a partition's records go, and how it hears that they count.
#[expect(clippy::large_enum_variant, reason = "there is one a partition")]
enum Store {
    /// A folder, proven by its lock and `fdatasync`.
    File { log: FileLog, proofs: Proofs, checkpoints: checkpointer::Handle },
    /// This process's memory: durable as long as anybody asks.
    Memory { log: MemoryLog, proven: u64, told: u64 },
}

/// What a store says unasked.
enum Heard {
    /// Records up to this index count.
    Proof(u64),
    /// A checkpoint's hash is to be put into the chain.
    Drafted(Drafted),
    /// No other will be.
    NoMoreCheckpoints,
}

impl Store {
    async fn append(&mut self, entry: &[Sealed]) -> Result<(), ServeError> {
        match self {
            Self::File { log, .. } => loop {
                match log.append(entry) {
                    Ok(()) => return Ok(()),
                    Err(AppendError::Full) => log.room().await,
                    Err(AppendError::Failed(error)) => return Err(error.into()),
                }
            },
            Self::Memory { log, proven, .. } => {
                log.append(entry);
                *proven = entry.last().map_or(*proven, |sealed| sealed.record.index);
                Ok(())
            }
        }
    }

    /// What the store has to say next.
    ///
    /// Cancel safe.
    async fn hear(&mut self) -> Result<Heard, ServeError> {
        match self {
            Self::File { proofs, checkpoints, .. } => tokio::select! {
                biased;
                proof = proofs.next() => match proof {
                    Some(proven) => Ok(Heard::Proof(proven?)),
                    None => Err(ServeError::Panicked("the log's writer ended".into())),
                },
                drafted = checkpoints.drafted(), if checkpoints.is_running() => match drafted {
                    Some(drafted) => Ok(Heard::Drafted(drafted)),
                    None => checkpoints.has_ended().map(|()| Heard::NoMoreCheckpoints).map_err(Into::into),
                },
            },
            Self::Memory { proven, told, .. } if *told < *proven => {
                *told = *proven;
                Ok(Heard::Proof(*proven))
            }
            Self::Memory { .. } => std::future::pending().await,
        }
    }

    /// Asks for a checkpoint; false if that is not possible now.
    fn ask_checkpoint(&self) -> bool {
        matches!(self, Self::File { checkpoints, .. } if checkpoints.ask())
    }

    async fn close(self) -> Result<(), ServeError> {
        match self {
            Self::File { log, checkpoints, .. } => {
                let end = move || {
                    // First, while the writer is there that it may wait for, and before the folder is given back.
                    let checkpointer = checkpoints.stop();
                    log.close()?;
                    Ok(checkpointer?)
                };
                tokio::task::spawn_blocking(end).await.map_err(panicked)?
            }
            Self::Memory { .. } => Ok(()),
        }
    }
}

/// Opens partition `number`'s folder; begins a log where there is none.
fn open(config: &ServeConfig, number: u32, wall: Timestamp) -> Result<OpenLog, ServeError> {
    let folder = config.data.join(number.to_string());
    let mut state = State::new(ChainTip::before(0));
    let (mut log, opened) = FileLog::open(&folder, config.log.clone(), &mut |step| {
        match step {
            Step::Start => state = State::new(ChainTip::before(0)),
            Step::Checkpoint { of: _, tip, body } => {
                let restored = snapshot::read(body).map_err(|error| error.to_string())?;
                if restored.tip() != tip {
                    return Err("its body is of another record".into());
                }
                state = restored;
            }
            Step::Record(sealed) => state.fold(sealed),
        }
        Ok(())
    })?;
    if opened.tip.is_none() {
        let genesis = genesis(LogId(random()?), number, config.partitions, wall);
        state.fold(&genesis);
        // An empty log has room; what else can go wrong is reported with the first proof.
        if let Err(AppendError::Failed(error)) = log.append(&[genesis]) {
            return Err(error.into());
        }
    }
    check_identity(&folder, &state, number, config.partitions)?;
    let proofs = log.proofs();
    let checkpoints =
        checkpointer::start(&log, state.clone(), opened.end, number).map_err(ServeError::System)?;
    Ok(OpenLog { store: Store::File { log, proofs, checkpoints }, state, opened })
}

/// The first record of a log.
pub fn genesis(log_id: LogId, partition: u32, partitions: u32, at: Timestamp) -> Sealed {
    let genesis =
        Genesis { format: FORMAT, log_id, partition, partitions, first_index: 0, after: Vec::new() };
    Sealed::new(Record {
        index: 0,
        prev: Hash::default(),
        epoch: 0,
        at,
        renewed: Vec::new(),
        upto: None,
        command: Command::Create,
        events: vec![Event::Genesis(genesis)],
    })
}

fn check_identity(folder: &Path, state: &State, number: u32, partitions: u32) -> Result<(), ServeError> {
    match state.genesis() {
        Some(genesis) if genesis.partition == number && genesis.partitions == partitions => Ok(()),
        found => Err(ServeError::Partitions {
            folder: folder.to_owned(),
            partition: found.map_or(0, |genesis| genesis.partition),
            partitions: found.map_or(0, |genesis| genesis.partitions),
            wanted: format!("{number} of {partitions}"),
        }),
    }
}

/// One partition's loop.
pub(crate) struct PartitionLoop {
    number: u32,
    partition: Partition,
    store: Store,
    inbox: mpsc::Receiver<Inbound>,
    hub: Arc<Hub>,
    clock: Clock,
    checkpoint_records: u64,
    checkpoint_due: u64,
    policies: watch::Receiver<Policy>,
}

impl PartitionLoop {
    pub(crate) fn new(
        number: u32,
        open: OpenLog,
        inbox: mpsc::Receiver<Inbound>,
        hub: Arc<Hub>,
        clock: Clock,
        config: PartitionConfig,
        checkpoint_records: u64,
    ) -> Self {
        let OpenLog { store, state, opened } = open;
        let checkpoint_due = opened.checkpoint.unwrap_or(0).saturating_add(checkpoint_records);
        // The one in force until `under` says that there may be others.
        let policies = watch::channel(config.policy.clone()).1;
        let partition = Partition::standby(config, state);
        Self { number, partition, store, inbox, hub, clock, checkpoint_records, checkpoint_due, policies }
    }

    /// Puts each policy that comes here into force.
    fn under(mut self, policies: watch::Receiver<Policy>) -> Self {
        self.policies = policies;
        self
    }

    /// Activates, then serves until `stop`; then finishes: proves and answers all that was decided. However it ends,
    /// nothing writes to the log any more.
    pub(crate) async fn run(
        mut self,
        stop: watch::Receiver<bool>,
        active: tokio::sync::oneshot::Sender<()>,
    ) -> Result<(), ServeError> {
        let served = self.serve(stop, active).await;
        let closed = self.store.close().await;
        // The failure that came first says why.
        served.and(closed)
    }

    async fn serve(
        &mut self,
        mut stop: watch::Receiver<bool>,
        active: tokio::sync::oneshot::Sender<()>,
    ) -> Result<(), ServeError> {
        let mut active = Some(active);
        let activation =
            Activation { incarnation: Nonce(random()?), secret: random()?, wall: self.clock.wall() };
        self.partition.activate(activation, self.clock.uptime())?;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut stopping = false;
        loop {
            self.carry_out().await?;
            if self.partition.role() == Role::Active
                && let Some(active) = active.take()
            {
                self.hub.set_epoch(self.number, self.partition.state().epoch());
                let _ = active.send(());
            }
            if stopping && self.partition.known() == self.partition.state().tip() {
                break;
            }
            self.start_checkpoint();
            let takes = !stopping && !self.partition.is_full();
            tokio::select! {
                biased;
                heard = self.store.hear() => match heard? {
                    // The genesis is the service's own record, not the partition's.
                    Heard::Proof(index) if index < self.partition.known().next_index => {}
                    Heard::Proof(index) => self.partition.proven(index, self.clock.uptime()),
                    Heard::Drafted(drafted) => {
                        let (of, hash) = (drafted.of, drafted.hash);
                        if let Some((index, _)) = self.partition.checkpoint(of, hash, self.clock.uptime()) {
                            drafted.recorded(index);
                        }
                    }
                    Heard::NoMoreCheckpoints => {}
                },
                // Before the inbox, which may never be empty.
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.partition.finish(self.clock.uptime());
                }
                // Where nobody can send another, it is not looked at.
                Ok(()) = self.policies.changed(), if takes => {
                    let policy = self.policies.borrow_and_update().clone();
                    self.partition.set_policy(policy, self.clock.uptime());
                }
                _ = self.inbox.recv_many(&mut batch, BATCH_MAX), if takes => {
                    let now = self.clock.uptime();
                    for inbound in batch.drain(..) {
                        match inbound {
                            Inbound::Delivery(delivery) => self.partition.deliver(delivery, now),
                            Inbound::Closed(address) => self.partition.closed(&address, now),
                        }
                    }
                }
                () = self.clock.until(self.partition.next_wake()) => {}
            }
            self.partition.time(self.clock.uptime());
        }
        Ok(())
    }

    /// Append; then send what is proven; letters. In this order, and nothing after a failure.
    async fn carry_out(&mut self) -> Result<(), ServeError> {
        let outputs = self.partition.outputs(self.clock.uptime());
        if let Some(why) = outputs.step_down {
            return Err(ServeError::SteppedDown(why));
        }
        for entry in outputs.appends {
            self.store.append(&entry.records).await?;
        }
        self.hub.send(outputs.sends.iter().map(|outgoing| (&outgoing.to, &outgoing.reply)));
        self.hub.acknowledge(&outputs.acks);
        for letter in outputs.letters {
            self.hub.post(self.number, letter);
        }
        Ok(())
    }

    fn start_checkpoint(&mut self) {
        let proven = self.partition.known().next_index;
        if self.checkpoint_records > 0 && proven >= self.checkpoint_due && self.store.ask_checkpoint() {
            self.checkpoint_due = proven + self.checkpoint_records;
        }
    }
}
