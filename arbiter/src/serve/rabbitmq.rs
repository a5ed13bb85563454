//! A partition's arbiter at a RabbitMQ broker: standby and active, as the broker says, for as long as the process lives.
//!
//! ```text
//!  ┌► connect ─► read the log to its end ─► consume the requests: standby ─► the first delivery: active ─┐
//!  └───────────── whatever ends it: all that is speculative is dropped with the connection ◄─────────────┘
//! ```
//!
//! What was read of the log stays: the next connection reads on from there. The consumer is opened only when the log has
//! been read to its end: an arbiter that is given its turn before that would meet old epochs in what it has still to
//! read, and take each for a rival's.

mod follower;

use self::follower::{Beside, Checkpoints, Follower};
use super::{Ready, ServeConfig, ServeError, genesis, panicked, random};
use crate::clock::Clock;
use crate::log::file::Opened;
use crate::log::record::Policy;
use crate::log::stream::checkpoint::{self, Manifest};
use crate::log::stream::{self, Heard, StreamLog, StreamReader, entry_of};
use crate::partition::{Activation, Partition, PartitionConfig, Role, StepDown, Uptime};
use crate::transport::rabbitmq::{BrokerError, BrokerUrl, Came, ConnectError, RequestQueue, Topology};
use arbiterq_client::broker::{CALL_LIMIT, close};
use arbiterq_client::wire::rabbitmq::grants_stream;
use arbiterq_client::wire::{Hash, LogId, Nonce, Nudge, Request, RequestBody};
use futures_util::FutureExt;
use lapin::Connection;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Deliveries that the broker sends ahead.
const PREFETCH: u16 = 1000;
/// Messages and entries taken before the log is given what they made.
const BATCH_MAX: usize = 256;
/// Where nothing was heard of the log for so long, a standby asks whether it is its turn.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
/// An append or a tick that has not come back by then ends the activity: longer than a queue's change of leader takes.
const OVERDUE: Duration = Duration::from_secs(10);
/// Checkpoints that a start tries before it reads the whole log.
const CHECKPOINTS_TRIED: usize = 2;
/// Between attempts to connect: doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Serves every partition until `shutdown` completes, then finishes what was taken.
pub(super) async fn serve(
    url: BrokerUrl,
    config: ServeConfig,
    policies: watch::Receiver<Policy>,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    // What is missing or different is said at once; what fails later is tried again.
    tokio::pin!(shutdown);
    tokio::select! {
        checked = check(&url, &config) => checked?,
        () = &mut shutdown => return Ok(()),
    }
    let (stop, stopped) = watch::channel(false);
    let (mut loops, mut ready_when) = (JoinSet::new(), Vec::new());
    for number in 0..config.partitions {
        let setup = Setup {
            url: url.clone(),
            number,
            partitions: config.partitions,
            config: config.partition.clone(),
            clock: Clock::system(),
            policies: policies.clone(),
            stop: stopped.clone(),
            checkpoint_records: config.checkpoint_records,
        };
        let (follows, is_following) = oneshot::channel();
        ready_when.push(is_following);
        loops.spawn(run(setup, follows));
    }
    let all_ready = async {
        let mut partitions = Vec::new();
        for follows in ready_when {
            // One that failed before says why when it is joined.
            let Ok(opened) = follows.await else { return std::future::pending().await };
            partitions.push(opened);
        }
        ready(Ready { url: url.to_string(), partitions });
        std::future::pending().await
    };
    let result = tokio::select! {
        () = shutdown => Ok(()),
        () = all_ready => Ok(()),
        Some(ended) = loops.join_next() => ended.map_err(panicked).and_then(|ended| ended),
    };
    let _ = stop.send(true);
    let finish = async {
        let mut result = result;
        while let Some(ended) = loops.join_next().await {
            // What failed first says why.
            result = result.and(ended.map_err(panicked).and_then(|ended| ended));
        }
        result
    };
    let limit = config.shutdown_timeout;
    timeout(limit, finish).await.unwrap_or(Err(ServeError::ShutdownTimeout(limit)))
}

/// What must be at the broker is there, and as it must be, as far as this user may compare it.
async fn check(url: &BrokerUrl, config: &ServeConfig) -> Result<(), ServeError> {
    let connection = url.connect("arbiter serve").await?;
    let not_compared = Topology::new(config.partitions, &config.partition.policy).check(&connection).await?;
    close(&connection).await;
    if !not_compared.is_empty() {
        tracing::warn!(
            of = not_compared.join(", "),
            "types and arguments were not compared, as this user may not declare: `arbiter broker init` as an administrator \
             compares them"
        );
    }
    Ok(())
}

/// What a partition's arbiter is told.
#[derive(Clone)]
struct Setup {
    url: BrokerUrl,
    number: u32,
    partitions: u32,
    config: PartitionConfig,
    clock: Clock,
    policies: watch::Receiver<Policy>,
    stop: watch::Receiver<bool>,
    checkpoint_records: u64,
}

/// Why a connection is over. The next one goes on.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("activity ended: {0}")]
    SteppedDown(StepDown),
    /// It does not: the process ends.
    #[error("{0}")]
    Fatal(ServeError),
}

impl From<ServeError> for Over {
    fn from(error: ServeError) -> Self {
        Self::Fatal(error)
    }
}

/// Serves until it is told to stop. `ready` is told once, when the log was read to its end and requests are waited for.
async fn run(setup: Setup, ready: oneshot::Sender<Opened>) -> Result<(), ServeError> {
    let mut arbiter = Arbiter {
        follower: Follower::new(),
        beside: None,
        ready: Some(ready),
        followed: false,
        heard: Instant::now(),
        setup,
    };
    let mut failed = 0;
    loop {
        let name = format!("arbiter serve, partition {}", arbiter.setup.number);
        let mut stop = arbiter.setup.stop.clone();
        let connected = tokio::select! {
            connected = arbiter.setup.url.connect(&name) => connected,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let served = match connected {
            Ok(connection) => {
                let served = arbiter.serve(&connection).await;
                if connection.status().blocked() {
                    let partition = arbiter.setup.number;
                    tracing::warn!(
                        partition,
                        "the broker takes no messages: it is short of memory or of disk"
                    );
                }
                // With the connection go the consumer, what it had, and whatever was still under way.
                close(&connection).await;
                arbiter.follow_here().await?;
                served
            }
            Err(error) => Err(error.into()),
        };
        if std::mem::take(&mut arbiter.followed) {
            failed = 0;
        }
        let why = match served {
            Ok(()) => return Ok(()),
            Err(Over::Fatal(error)) => return Err(error),
            Err(why) => why,
        };
        tracing::warn!(partition = arbiter.setup.number, %why, "the connection to the broker is given up; another follows");
        let wait = (RETRY_FIRST * 2_u32.pow(failed)).min(RETRY_MAX);
        failed = (failed + 1).min(10);
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

struct Arbiter {
    setup: Setup,
    follower: Follower,
    /// Where the follower is while this arbiter is active.
    beside: Option<Beside>,
    ready: Option<oneshot::Sender<Opened>>,
    /// The last connection was of use: on it the log was read to its end.
    followed: bool,
    /// When something of the log was heard.
    heard: Instant,
}

impl Arbiter {
    /// One connection, until it is over.
    async fn serve(&mut self, connection: &Connection) -> Result<(), Over> {
        let mut stop = self.setup.stop.clone();
        let (log, queue, opened) = tokio::select! {
            begun = self.follow(connection) => begun?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        self.followed = true;
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(opened);
        }
        tracing::info!(
            partition = self.setup.number,
            index = self.follower.state.tip().next_index,
            "standby"
        );
        let mut activity = Activity { log, queue, active: None, stopping: false };
        let served = activity.run(self).await;
        self.beside = activity.active.map(|active| active.beside);
        served
    }

    /// The log, read to its end, and the requests, when it is this arbiter's turn.
    async fn follow(&mut self, connection: &Connection) -> Result<(StreamLog, RequestQueue, Opened), Over> {
        let (mut log, opened) = self.read(connection).await?;
        self.begin(&mut log).await?;
        self.check_identity()?;
        let queue = RequestQueue::consume(connection, &self.setup.url, self.setup.number, PREFETCH).await?;
        Ok((log, queue, opened))
    }

    /// Takes the follower back, if it is beside.
    async fn follow_here(&mut self) -> Result<(), ServeError> {
        if let Some(beside) = self.beside.take() {
            let ended = tokio::task::spawn_blocking(|| beside.end()).await.map_err(panicked)?;
            self.follower = ended.ok_or_else(follower_ended)?;
        }
        Ok(())
    }

    /// The log, read to its end: from where it was read before, or from a checkpoint, or all of it.
    async fn read(&mut self, connection: &Connection) -> Result<(StreamLog, Opened), Over> {
        let mut before = None;
        // In the log are the records of all that were found, whichever of them is used, or it has lost them.
        let mut recorded = Vec::new();
        while self.follower.state.genesis().is_none() && recorded.len() < CHECKPOINTS_TRIED {
            let number = self.setup.number;
            let nonce = Nonce(random()?);
            let Some(found) = checkpoint::newest(connection, number, before, nonce).await? else { break };
            before = Some(found.0);
            recorded.push(found.1.clone());
            let of = found.1.of;
            let restored = checkpoint::body(connection, number, &found).await?;
            let recorded = recorded.clone();
            let at = move |body: Vec<u8>| Follower::at(&found.1, &body, &recorded);
            let restored = match restored {
                Ok(body) => tokio::task::spawn_blocking(move || at(body)).await.map_err(panicked)?,
                Err(why) => Err(why.to_owned()),
            };
            let why = match restored {
                Ok(restored) => {
                    self.follower = restored;
                    match self.read_to_the_end(connection).await {
                        Ok((log, records)) if self.follower.unproven.is_empty() => {
                            self.complain(connection).await?;
                            return Ok((log, Opened { records, checkpoint: Some(of), ..Opened::default() }));
                        }
                        read => {
                            // Nothing of it is kept: it has not been shown to belong to the log.
                            self.follower = Follower::new();
                            if let Err(error) = read
                                && !matches!(error, Over::Fatal(ServeError::Truncated { .. }))
                            {
                                return Err(error);
                            }
                            "the log does not have its record where it should be".to_owned()
                        }
                    }
                }
                Err(why) => why,
            };
            tracing::warn!(partition = number, of, why, "a checkpoint cannot be used");
        }
        self.follower.unproven.extend(recorded);
        let (log, records) = self.read_to_the_end(connection).await?;
        let (number, state) = (self.setup.number, &self.follower.state);
        if state.genesis().is_none() && self.follower.void.entries() > 0 {
            return Err(ServeError::BeginningCut { partition: number }.into());
        }
        if let Some(Manifest { index, .. }) = self.follower.unproven.first() {
            return Err(ServeError::Truncated { partition: number, index: *index }.into());
        }
        self.complain(connection).await?;
        Ok((log, Opened { records, ..Opened::default() }))
    }

    /// Says what is not well with the log that was read: its end stands on what is not there, or its first record is gone, so
    /// that something removes what restarts may need.
    async fn complain(&self, connection: &Connection) -> Result<(), BrokerError> {
        let (next, adrift) = (self.follower.state.tip().next_index, self.follower.void.adrift());
        if adrift > 0 {
            // An append that the broker never took, or a record that was changed: what is confirmed it keeps, so the first.
            tracing::error!(
                partition = self.setup.number,
                entries = adrift,
                next,
                "the last entries follow a record that is not in the log: `arbiter audit verify` says more"
            );
        }
        if self.follower.state.genesis().is_none() {
            return Ok(());
        }
        let mut reader = StreamReader::attach(connection, self.setup.number, stream::From::First).await?;
        loop {
            let (_, message) =
                timeout(CALL_LIMIT, reader.next()).await.unwrap_or(Err(BrokerError::NoAnswer))?;
            let Ok(Some(records)) = entry_of(&message) else { continue };
            if let Some(first) = records.first().map(|sealed| sealed.record.index).filter(|index| *index > 0)
            {
                tracing::error!(
                    partition = self.setup.number,
                    first,
                    "the log's beginning is not there any more: something removes it, perhaps a policy of the broker with \
                     max-age or max-length-bytes; it may remove what the next start needs"
                );
            }
            return Ok(());
        }
    }

    /// Everything that is on the log by now, from where the follower is. How many records that count.
    async fn read_to_the_end(&mut self, connection: &Connection) -> Result<(StreamLog, u64), Over> {
        let mut log = StreamLog::attach(connection, self.setup.number, self.follower.tip_at).await?;
        let before = self.follower.state.tip().next_index;
        let (mut known, tip) = (self.follower.tip_at, self.follower.state.tip());
        log.mark(Nonce(random()?));
        loop {
            let heard = match timeout(CALL_LIMIT, log.next()).await {
                Ok(heard) => heard?,
                // Whoever reads on from behind the end of a log hears nothing.
                Err(_) => {
                    let last = StreamReader::last_offset(connection, self.setup.number).await?;
                    let is_short = known.is_some_and(|tip_at| last.is_none_or(|last| last < tip_at));
                    return Err(if is_short {
                        self.truncated().into()
                    } else {
                        BrokerError::NoAnswer.into()
                    });
                }
            };
            match heard {
                // Read on from the tip, the tip is what is read first, or the broker has lost what it confirmed.
                Heard::Entry { offset, records } if known.take().is_some() => {
                    if records.last().map(|sealed| sealed.hash) != Some(tip.hash) {
                        return Err(self.truncated().into());
                    }
                    self.follower.tip_at = Some(offset);
                }
                Heard::Unreadable { .. } | Heard::Marker if known.is_some() => {
                    return Err(self.truncated().into());
                }
                Heard::Entry { offset, records } => drop(self.follower.take(offset, &records)),
                Heard::Unreadable { offset, why } => self.unreadable(offset, &why),
                Heard::Marker => break,
            }
        }
        Ok((log, self.follower.state.tip().next_index - before))
    }

    fn truncated(&self) -> ServeError {
        let index = self.follower.state.tip().next_index.saturating_sub(1);
        ServeError::Truncated { partition: self.setup.number, index }
    }

    fn unreadable(&mut self, offset: u64, why: &str) {
        self.follower.void.take_unreadable();
        tracing::warn!(
            partition = self.setup.number,
            offset,
            why,
            "what is no record stands in the log: void"
        );
    }

    /// A log that is empty is begun. Of several that do so at once, one genesis counts.
    async fn begin(&mut self, log: &mut StreamLog) -> Result<(), Over> {
        if self.follower.state.genesis().is_none() {
            let (number, partitions) = (self.setup.number, self.setup.partitions);
            log.append(vec![genesis(LogId(random()?), number, partitions, self.setup.clock.wall())]);
        }
        while self.follower.state.genesis().is_none() {
            match timeout(CALL_LIMIT, log.next()).await.unwrap_or(Err(BrokerError::NoAnswer))? {
                Heard::Entry { offset, records } => drop(self.follower.take(offset, &records)),
                Heard::Unreadable { offset, why } => self.unreadable(offset, &why),
                Heard::Marker => {}
            }
        }
        Ok(())
    }

    fn check_identity(&self) -> Result<(), ServeError> {
        let (number, partitions) = (self.setup.number, self.setup.partitions);
        let log = grants_stream(number);
        super::check_identity(log.as_ref(), &self.follower.state, number, partitions)
    }
}

/// What is read, consumed and written over one connection.
struct Activity {
    log: StreamLog,
    queue: RequestQueue,
    /// None while it is a standby.
    active: Option<Active>,
    stopping: bool,
}

/// What decides, and what reads the log beside it: each has a state of its own.
struct Active {
    partition: Partition,
    beside: Beside,
}

impl Activity {
    async fn run(&mut self, arbiter: &mut Arbiter) -> Result<(), Over> {
        let Setup { clock, mut stop, mut policies, .. } = arbiter.setup.clone();
        // An idle queue does not tell anybody that it is its turn.
        self.nudge(arbiter);
        loop {
            self.carry_out(clock)?;
            if self.stopping && self.is_finished() {
                return Ok(());
            }
            let takes = !self.stopping && !self.is_full();
            let (wake, is_active) = (self.active.as_ref().and_then(Active::next_wake), self.is_active());
            let nudge_at = arbiter.heard + NUDGE_EVERY;
            tokio::select! {
                biased;
                heard = self.log.next() => {
                    self.hear(arbiter, heard?);
                    for _ in 1..BATCH_MAX {
                        let Some(heard) = self.log.next().now_or_never() else { break };
                        self.hear(arbiter, heard?);
                    }
                }
                drafted = drafted(&mut self.active), if is_active => {
                    let (of, hash) = drafted.ok_or_else(follower_ended)?;
                    if let Some(Active { partition, .. }) = &mut self.active {
                        let _ = partition.checkpoint(of, hash, clock.uptime());
                    }
                }
                _ = stop.wait_for(|stop| *stop), if !self.stopping => {
                    self.stopping = true;
                    if let Some(Active { partition, .. }) = &mut self.active {
                        partition.finish(clock.uptime());
                    }
                }
                Ok(()) = policies.changed(), if takes && is_active => {
                    let policy = policies.borrow_and_update().clone();
                    if let Some(Active { partition, .. }) = &mut self.active {
                        partition.set_policy(policy, clock.uptime());
                    }
                }
                came = self.queue.next(takes) => {
                    self.came(arbiter, came?)?;
                    for _ in 1..BATCH_MAX {
                        let takes = takes && !self.is_full();
                        let Some(came) = self.queue.next(takes).now_or_never() else { break };
                        self.came(arbiter, came?)?;
                    }
                }
                () = clock.until(wake), if wake.is_some() => {}
                () = tokio::time::sleep_until(nudge_at), if self.active.is_none() => self.nudge(arbiter),
            }
            if let Some(Active { partition, .. }) = &mut self.active {
                partition.time(clock.uptime());
            }
        }
    }

    fn is_active(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.partition.role() == Role::Active)
    }

    fn is_full(&self) -> bool {
        self.active
            .as_ref()
            .is_some_and(|Active { partition, beside }| partition.is_full() || beside.is_behind())
    }

    /// All that was taken is on the log, answered and acknowledged.
    fn is_finished(&self) -> bool {
        let all_known = |Active { partition, .. }: &Active| partition.known() == partition.state().tip();
        self.active.as_ref().is_none_or(all_known) && self.queue.is_quiet()
    }

    fn nudge(&mut self, arbiter: &mut Arbiter) {
        arbiter.heard = Instant::now();
        let body = RequestBody::Nudge(Nudge {});
        self.queue.post(&Request { partition: arbiter.setup.number, auth: None, body });
    }

    fn hear(&mut self, arbiter: &mut Arbiter, heard: Heard) {
        arbiter.heard = Instant::now();
        match (heard, &mut self.active) {
            (Heard::Entry { offset, records }, Some(Active { partition, beside })) => {
                partition.observe(&records, arbiter.setup.clock.uptime());
                if partition.role() == Role::Active {
                    self.queue.set_epoch(partition.state().epoch());
                }
                beside.take(offset, records);
            }
            (Heard::Entry { offset, records }, None) => drop(arbiter.follower.take(offset, &records)),
            (Heard::Unreadable { offset, why }, _) => arbiter.unreadable(offset, &why),
            (Heard::Marker, _) => {}
        }
    }

    fn came(&mut self, arbiter: &mut Arbiter, came: Came) -> Result<(), Over> {
        match came {
            Came::Delivery(delivery) => {
                let now = arbiter.setup.clock.uptime();
                // The first delivery tells that it is this arbiter's turn.
                let active = match &mut self.active {
                    Some(active) => active,
                    None => self.active.insert(activated(arbiter)?),
                };
                active.partition.deliver(delivery, now);
            }
            Came::Returned(mark) => {
                if let Some(Active { partition, .. }) = &mut self.active {
                    partition.returned(mark);
                }
            }
            Came::Nothing => {}
        }
        Ok(())
    }

    /// Append; then send what is proven, acknowledge, post letters. In this order.
    fn carry_out(&mut self, clock: Clock) -> Result<(), Over> {
        let Some(Active { partition, .. }) = &mut self.active else { return Ok(()) };
        let outputs = partition.outputs(clock.uptime());
        if let Some(why) = outputs.step_down {
            return Err(Over::SteppedDown(why));
        }
        for entry in outputs.appends {
            self.log.append(entry.records);
        }
        self.queue.send(&outputs.sends);
        self.queue.finished(&outputs.acks)?;
        outputs.letters.iter().for_each(|letter| self.queue.post(letter));
        Ok(())
    }
}

impl Active {
    fn next_wake(&self) -> Option<Uptime> {
        self.partition.next_wake()
    }
}

fn follower_ended() -> ServeError {
    ServeError::Panicked("the log's follower panicked".into())
}

/// What the next checkpoint is of, and the hash of its body; for ever while it is a standby.
async fn drafted(active: &mut Option<Active>) -> Option<(u64, Hash)> {
    match active {
        Some(Active { beside, .. }) => beside.drafted().await,
        None => std::future::pending().await,
    }
}

/// A partition on what counts by now, whose epoch begins; what the log says from now on is read beside it.
fn activated(arbiter: &mut Arbiter) -> Result<Active, ServeError> {
    let Setup { url, number, config, clock, policies, checkpoint_records, .. } = &mut arbiter.setup;
    let policy = policies.borrow_and_update().clone();
    let config = PartitionConfig {
        policy,
        prefetch: PREFETCH.into(),
        overdue: Some(OVERDUE),
        returns: true,
        ..config.clone()
    };
    let mut partition = Partition::standby(config, arbiter.follower.state.clone());
    let activation = Activation { incarnation: Nonce(random()?), secret: random()?, wall: clock.wall() };
    partition.activate(activation, clock.uptime())?;
    tracing::info!(
        partition = number,
        index = partition.known().next_index,
        "it is this arbiter's turn: an epoch begins"
    );
    let checkpoints = Checkpoints { url: url.clone(), number: *number, records: *checkpoint_records };
    let follower = std::mem::replace(&mut arbiter.follower, Follower::new());
    let beside = Beside::start(follower, checkpoints).map_err(ServeError::System)?;
    Ok(Active { partition, beside })
}
