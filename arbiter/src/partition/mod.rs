//! The sans-I/O middle: inputs in; entries to append, replies and acknowledgements out.
//!
//! A [`Partition`] is decode's reader and the transports' writer. It takes deliveries, proofs, entries read from
//! the log, and the time, and returns what is to be done ([`Outputs`]), synchronously. It has no clock, no socket
//! and no randomness: whoever drives it brings them. The service, the tests and the simulator drive this same
//! value.
//!
//! What it must never do: tell anything that is not on the chain (see [`Held`]), seal twice on one tip, or
//! decide out of the order in which the queue delivered.
//!
//! Where to go next: `decide` and `fold` are in [`crate::state`]; what is appended, in [`crate::log`]; the loop
//! that drives this, in [`crate::serve`].

mod answer;
mod commands;
mod held;
mod planted;
mod probe;
mod role;

pub use held::{Held, Proof};
pub use role::{ActivateError, Activation, Role, StepDown};

use crate::log::chain::{ChainTip, Sealed};
use crate::log::record::{Command, Event, Policy, RENEWED_MAX, Record};
use crate::planted::{Planted, Plants};
use crate::state::{State, decide};
use arbiterq_client::wire::{
    Cause, Gone, Hash, Nonce, Principal, Reply, ReplyBody, Request, RequestBody, Seq, SessionId, StatusAsk,
    Tick, Timestamp, Token,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Where a reply goes, in the transport's own words.
pub type Address = Arc<str>;

/// Time since the driver started, on a clock that never steps.
pub type Uptime = Duration;

/// What a partition is told once.
#[derive(Clone, Debug, Hash)]
pub struct PartitionConfig {
    /// The rules to put in force at activation.
    pub policy: Policy,
    /// Answers that need no record of their own wait at most so long for one.
    pub barrier_interval: Duration,
    /// Deliveries that may wait for a record; at half of it a barrier is sealed.
    pub prefetch: usize,
    /// Records that may be sealed and not proven; at this bound nothing more is to be delivered.
    pub unproven_max: usize,
    /// A tick that has not come back is sent again so often.
    pub tick_resend: Duration,
    /// A tick or an append older than this ends the activity. `None` where the queue is the arbiter's own
    /// sockets and the log its own file: there nobody else can take over, and a stopped process is no failure.
    pub overdue: Option<Duration>,
    /// Whether the transport gives undeliverable replies back.
    pub returns: bool,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            barrier_interval: Duration::from_millis(50),
            prefetch: 4096,
            unproven_max: 16_384,
            tick_resend: Duration::from_secs(1),
            overdue: None,
            returns: false,
        }
    }
}

/// One message from the request queue.
#[derive(Clone, Debug, Hash)]
pub struct Delivery {
    /// The transport's number for it, by which it is acknowledged.
    pub id: u64,
    /// The connection or address that it came from.
    pub from: Option<Address>,
    /// Who sent it, as far as the transport can vouch.
    pub principal: Principal,
    /// The end of the sender's connection would be the end of its process: no proxy stands between.
    pub present: bool,
    /// Its position in the queue, where a queue has positions.
    pub position: Option<u64>,
    /// What it says.
    pub request: Request,
}

/// An entry to append: one or more records, chained to each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The records.
    pub records: Vec<Sealed>,
}

impl Entry {
    /// The index of its last record.
    pub fn last_index(&self) -> u64 {
        self.records.last().map_or(0, |sealed| sealed.record.index)
    }
}

/// A reply on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    /// To where.
    pub to: Address,
    /// What.
    pub reply: Reply,
    /// What to give back if nobody is there: see [`Partition::returned`].
    pub mark: Option<Mark>,
}

/// What a returned reply was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Whose reply it was.
    pub session: SessionId,
    /// The number of the `attach` whose address it was sent to.
    pub n: u64,
    /// The request and its grant, if the reply was a `granted`.
    pub grant: Option<(Seq, Token)>,
}

/// What is to be done, in this order: append; then send what is proven; then acknowledge.
#[derive(Clone, Debug, Default, Hash)]
pub struct Outputs {
    /// To the log. Each chained to the one before.
    pub appends: Vec<Entry>,
    /// To clients: their records are proven.
    pub sends: Vec<Outgoing>,
    /// Deliveries that are finished.
    pub acks: Vec<u64>,
    /// Onto the partition's own request queue.
    pub letters: Vec<Request>,
    /// Activity is over: drop this value, give the deliveries back, read the log again.
    pub step_down: Option<StepDown>,
}

/// What waits for a record without making one of its own.
#[derive(Clone, Debug, Hash)]
struct Read {
    delivery: Option<u64>,
    answer: Answer,
}

/// What to answer from the state as of the next record.
#[derive(Clone, Debug, Hash)]
enum Answer {
    /// Nothing; only the acknowledgement waits.
    Nothing,
    /// All that a session has, to its own address.
    Alive(SessionId),
    /// How a request stands, to its session.
    Request(SessionId, Seq),
    /// How a grant ended or that it is none, to its session.
    Token(SessionId, Token),
    /// A repeated `open`, to where it came from.
    Opened { to: Address, session: SessionId, id: String },
    /// A look.
    Status { to: Address, ask: StatusAsk },
    /// Something that the state does not change.
    Fixed { to: Address, session: Option<SessionId>, body: ReplyBody },
}

/// One partition's arbiter, without its clock and its wires.
#[derive(Clone, Hash)]
pub struct Partition {
    config: PartitionConfig,
    role: Role,
    /// As of the last record sealed, or folded while following.
    state: State,
    /// As of the last record read or proven.
    known: ChainTip,
    /// Arbiter time at this epoch's start, and the uptime then.
    epoch_start: (Timestamp, Uptime),
    activation: Option<role::Pending>,
    /// Deliveries that came before the epoch was proven.
    early: VecDeque<Delivery>,
    /// Records of the entry that is being built.
    entry: Vec<Sealed>,
    /// Entries appended and not proven.
    unproven: VecDeque<Unproven>,
    held: VecDeque<Held<Release>>,
    reads: Vec<Read>,
    reads_since: Option<Uptime>,
    renewals: BTreeMap<SessionId, u64>,
    upto: Option<u64>,
    /// Letters sent and not come back.
    ticks: BTreeMap<Nonce, (Timestamp, Uptime)>,
    /// In the order of their sending.
    gones: VecDeque<Nonce>,
    letters_made: u64,
    secret: [u8; 32],
    /// When to look next whether a session is to be written to.
    probes: BTreeSet<(Uptime, SessionId)>,
    /// How many replies name a grant of this epoch; kept where replies can come back.
    named: BTreeMap<Token, u32>,
    /// Whose process ends with which connection.
    present: BTreeMap<SessionId, (Address, u64)>,
    present_at: BTreeMap<Address, BTreeSet<SessionId>>,
    plants: Plants,
    out: Outputs,
}

#[derive(Clone, Debug, Hash)]
struct Unproven {
    first_hash: Hash,
    /// The tip once this entry counts.
    last: ChainTip,
    appended: Uptime,
}

/// What a proven record lets go.
#[derive(Clone, Debug, Hash)]
enum Release {
    Send(Outgoing),
    Ack(u64),
}

/// Bytes after which an entry is closed and another begun.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Letters of one kind under way; the oldest is forgotten beyond it.
const LETTERS_MAX: usize = 4096;
const TICKS_MAX: usize = 16;

impl Partition {
    /// A standby that follows from `state`, which must be folded from records that count.
    pub fn standby(config: PartitionConfig, state: State) -> Self {
        let known = state.tip();
        Self {
            config,
            role: Role::Standby,
            epoch_start: (state.at(), Uptime::ZERO),
            state,
            known,
            activation: None,
            early: VecDeque::new(),
            entry: Vec::new(),
            unproven: VecDeque::new(),
            held: VecDeque::new(),
            reads: Vec::new(),
            reads_since: None,
            renewals: BTreeMap::new(),
            upto: None,
            ticks: BTreeMap::new(),
            gones: VecDeque::new(),
            letters_made: 0,
            secret: [0; 32],
            probes: BTreeSet::new(),
            named: BTreeMap::new(),
            present: BTreeMap::new(),
            present_at: BTreeMap::new(),
            plants: Plants::default(),
            out: Outputs::default(),
        }
    }

    /// Plants a wrong rule, for tests that must notice.
    #[cfg(any(test, feature = "planted"))]
    #[must_use]
    pub fn with_planted(mut self, planted: Option<Planted>) -> Self {
        self.plants = Plants::of(planted);
        self.state.plant(self.plants);
        self
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// As of the last record sealed: speculative, for metrics and tests; nothing of it may be told.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether deliveries must wait: too much is sealed and not proven, or came before the epoch did.
    pub fn is_full(&self) -> bool {
        let sealed = self.state.tip().next_index.saturating_sub(self.known.next_index);
        sealed >= self.config.unproven_max as u64 || self.early.len() >= self.config.prefetch
    }

    /// Takes one message from the request queue, in its order.
    pub fn deliver(&mut self, delivery: Delivery, now: Uptime) {
        match self.role {
            Role::Active => self.command(delivery, now),
            Role::Standby | Role::Activating => self.early.push_back(delivery),
            Role::SteppedDown => {}
        }
    }

    /// A reply came back: nobody was at its address.
    pub fn returned(&mut self, mark: Mark) {
        if self.role != Role::Active {
            return;
        }
        let nonce = self.nonce();
        let judged_now = self.plants.has(Planted::NamedBefore);
        let grant = mark.grant.filter(|(_, token)| !judged_now || self.named.get(token) == Some(&1));
        self.gones.push_back(nonce);
        if self.gones.len() > LETTERS_MAX {
            self.gones.pop_front();
        }
        self.letter(RequestBody::Gone(Gone {
            nonce,
            session: mark.session,
            seq: grant.map(|(seq, _)| seq),
            n: mark.n,
            cause: Cause::Returned,
        }));
    }

    /// A connection ended, not by the arbiter's doing, after everything that came on it was delivered. The
    /// sessions whose process it shows to be gone end.
    pub fn closed(&mut self, address: &Address, now: Uptime) {
        if self.role != Role::Active {
            // Followers have no connections, and an activation begins after the connections of the one before.
            return;
        }
        for session in self.present_at.remove(address).unwrap_or_default() {
            if let Some((_, n)) = self.present.remove(&session) {
                let cause = Cause::Closed;
                self.decide_and_seal(Command::Gone { session, n, seq: None, cause }, None, now);
            }
        }
    }

    /// Puts the hash of a checkpoint into the chain; returns that record's index and hash. `None` unless active.
    pub fn checkpoint(&mut self, of: u64, hash: Hash, now: Uptime) -> Option<(u64, Hash)> {
        if self.role != Role::Active {
            return None;
        }
        self.seal(Command::Checkpoint, vec![Event::Checkpoint { of, hash }], now);
        let own = self.entry.last().map(|sealed| (sealed.record.index, sealed.hash));
        self.advance(now);
        own
    }

    /// Puts another policy in force.
    pub fn set_policy(&mut self, policy: Policy, now: Uptime) {
        self.config.policy = policy;
        if self.role == Role::Active {
            self.seal_policy(now);
        }
    }

    /// The log says that every record up to `index` is durable and extends the chain.
    ///
    /// # Panics
    /// If the log claims a record that was never given to it.
    pub fn proven(&mut self, index: u64, now: Uptime) {
        if self.role == Role::SteppedDown {
            return;
        }
        while let Some(entry) = self.unproven.pop_front_if(|entry| entry.last.next_index <= index + 1) {
            self.known = entry.last;
        }
        let activated = self.activation_proven(index);
        assert!(index < self.state.tip().next_index, "a proof of a record that was never sealed");
        if activated {
            self.tell_holders();
        }
        let proof = Proof::through(index);
        while let Some(held) = self.held.pop_front_if(|held| held.is_opened_by(&proof)) {
            match held.open(&proof) {
                Ok(Release::Send(outgoing)) => {
                    let outgoing = self.readdressed(outgoing);
                    self.out.sends.push(outgoing);
                }
                Ok(Release::Ack(id)) => self.out.acks.push(id),
                Err(held) => unreachable!("it was looked at: {held:?}"),
            }
        }
        if activated {
            self.after_activation(now);
        }
    }

    /// The time passes: deadlines become letters, waiting answers a barrier, what is overdue the end.
    pub fn time(&mut self, now: Uptime) {
        if let Some(limit) = self.config.overdue {
            let append = self.unproven.front().is_some_and(|first| now >= first.appended + limit);
            let tick = self.ticks.values().any(|(_, sent)| now >= *sent + limit)
                && !self.plants.has(Planted::TickOnce);
            if append || tick {
                self.step_down(if append { StepDown::AppendOverdue } else { StepDown::TickOverdue });
            }
        }
        if self.role != Role::Active {
            return;
        }
        self.probe(now);
        if self.barrier_due(now) {
            self.seal(Command::Barrier, Vec::new(), now);
            self.advance(now);
        }
        let at = self.at(now);
        let is_due = self.state.next_deadline().is_some_and(|deadline| deadline <= at);
        let last_sent = self.ticks.values().map(|(_, sent)| *sent).max();
        let once = self.plants.has(Planted::TickOnce);
        if is_due && self.plants.has(Planted::DeadlineWithoutQueue) {
            self.decide_and_seal(Command::Tick { at }, None, now);
        } else if is_due && last_sent.is_none_or(|sent| !once && now >= sent + self.config.tick_resend) {
            let nonce = self.nonce();
            self.ticks.insert(nonce, (at, now));
            while self.ticks.len() > TICKS_MAX {
                let oldest = self.ticks.iter().min_by_key(|(_, (_, sent))| *sent).map(|(nonce, _)| *nonce);
                oldest.map(|nonce| self.ticks.remove(&nonce));
            }
            let tick = Tick { nonce, at };
            self.letter(RequestBody::Tick(tick));
        }
    }

    /// Nothing more will be delivered: what waits for a record has one now, not at the end of the interval.
    pub fn finish(&mut self, now: Uptime) {
        if self.role == Role::Active && !(self.reads.is_empty() && self.renewals.is_empty()) {
            self.seal(Command::Barrier, Vec::new(), now);
            self.advance(now);
        }
    }

    /// When [`Partition::time`] has something to do, if nothing else comes before.
    pub fn next_wake(&self) -> Option<Uptime> {
        if self.role == Role::SteppedDown {
            return None;
        }
        let overdue = self.config.overdue.and_then(|limit| {
            let append = self.unproven.front().map(|first| first.appended);
            let tick = self.ticks.values().map(|(_, sent)| *sent).min();
            let tick = tick.filter(|_| !self.plants.has(Planted::TickOnce));
            append.into_iter().chain(tick).min().map(|since| since + limit)
        });
        if self.role != Role::Active {
            return overdue;
        }
        let barrier = self.reads_since.map(|since| since + self.config.barrier_interval);
        let (start_at, start) = self.epoch_start;
        let deadline = self.state.next_deadline().map(|deadline| start + deadline.since(start_at));
        let resend = self.ticks.values().map(|(_, sent)| *sent + self.config.tick_resend).max();
        let tick = deadline.map(|deadline| resend.map_or(deadline, |resend| resend.max(deadline)));
        let waits = self.plants.has(Planted::TickOnce) && !self.ticks.is_empty();
        let tick = tick.filter(|_| !waits);
        let probe = self.probes.first().map(|(due, _)| *due);
        [barrier, tick, overdue, probe].into_iter().flatten().min()
    }

    /// What is to be done since the last call.
    pub fn outputs(&mut self, now: Uptime) -> Outputs {
        self.close_entry(now);
        std::mem::take(&mut self.out)
    }

    /// Arbiter time: the epoch's start plus what the steady clock has counted since. Never falls.
    fn at(&self, now: Uptime) -> Timestamp {
        let (at, start) = self.epoch_start;
        at.plus(now.saturating_sub(start)).max(self.state.at())
    }

    fn barrier_due(&self, now: Uptime) -> bool {
        let waited = self.reads_since.is_some_and(|since| now >= since + self.config.barrier_interval);
        waited || self.reads.len() * 2 >= self.config.prefetch || self.renewals.len() >= RENEWED_MAX
    }

    /// Decides a command; if it changes anything, seals its record and answers. Returns whether it did.
    fn decide_and_seal(&mut self, command: Command, source: Option<&Source>, now: Uptime) -> bool {
        let at = self.at(now);
        // Renewals count before the command, so a decision is made on them, and the record has them.
        let renewed = self.take_renewals();
        self.state.renew(&renewed, at);
        let events = decide(&self.state, &command, at);
        // The end of a lock-delay is no event; but a record must come for it to be over.
        let due = |moment| matches!(&command, Command::Tick { at } if moment <= *at);
        let makes_record = !events.is_empty() || self.state.next_deadline().is_some_and(due);
        if makes_record {
            self.seal_renewed(command, events, renewed, at, source);
        } else if !renewed.is_empty() {
            // The message that the command came in is answered by the next record: not decided so far.
            let upto = self.upto.take();
            self.seal_renewed(Command::Barrier, Vec::new(), renewed, at, None);
            self.upto = upto;
        }
        if makes_record || !self.plants.has(Planted::AdvanceOnlyAfter) {
            self.advance(now);
        }
        makes_record
    }

    fn take_renewals(&mut self) -> Vec<(SessionId, u64)> {
        let mut renewed = Vec::new();
        while renewed.len() < RENEWED_MAX
            && let Some((session, n)) = self.renewals.pop_first()
        {
            // A session may have ended since; its renewal says nothing any more.
            let again = self.renews_again(session, true);
            if self.state.session(session).is_some_and(|known| n > known.n() || again) {
                renewed.push((session, n));
            }
        }
        renewed
    }

    fn seal(&mut self, command: Command, events: Vec<Event>, now: Uptime) {
        let at = self.at(now);
        let renewed = self.take_renewals();
        self.state.renew(&renewed, at);
        self.seal_renewed(command, events, renewed, at, None);
    }

    /// While a waiter can be granted, the next record is an advance: before any other input, in the same entry.
    fn advance(&mut self, now: Uptime) {
        while self.state.can_advance() {
            let at = self.at(now);
            let events = decide(&self.state, &Command::Advance, at);
            assert!(!events.is_empty(), "an advance that moves nobody while a waiter can be granted");
            self.seal_renewed(Command::Advance, events, Vec::new(), at, None);
        }
    }

    /// The one place where a record is made: chained, folded, its answers held back.
    fn seal_renewed(
        &mut self,
        command: Command,
        events: Vec<Event>,
        renewed: Vec<(SessionId, u64)>,
        at: Timestamp,
        source: Option<&Source>,
    ) {
        let tip = self.state.tip();
        let (epoch, upto) = (self.state.epoch(), self.upto.take());
        let renewed = if self.plants.has(Planted::RenewalsUnlogged) { Vec::new() } else { renewed };
        let record =
            Record { index: tip.next_index, prev: tip.hash, epoch, at, renewed, upto, command, events };
        let sealed = Sealed::new(record);
        let before = self.look_before(&sealed.record.events);
        self.state.apply(&sealed);
        self.answer_events(&sealed, &before, source);
        self.answer_reads(sealed.record.index, at);
        self.entry.push(sealed);
    }

    fn close_entry(&mut self, now: Uptime) {
        // The next one is about as long.
        let room = Vec::with_capacity(self.entry.len());
        let entry = std::mem::replace(&mut self.entry, room);
        let fits = entry.iter().map(|sealed| sealed.line.len() + 1).sum::<usize>() <= ENTRY_BYTES_MAX;
        if fits && !self.plants.has(Planted::AdvanceOnlyAfter) {
            return self.append(entry, now);
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        for sealed in entry {
            let apart = self.plants.has(Planted::AdvanceOnlyAfter);
            if (bytes + sealed.line.len() > ENTRY_BYTES_MAX || apart) && !records.is_empty() {
                self.append(std::mem::take(&mut records), now);
                bytes = 0;
            }
            bytes += sealed.line.len() + 1;
            records.push(sealed);
        }
        self.append(records, now);
    }

    fn append(&mut self, records: Vec<Sealed>, now: Uptime) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let last_tip = ChainTip { next_index: last.record.index + 1, hash: last.hash };
        self.unproven.push_back(Unproven { first_hash: first.hash, last: last_tip, appended: now });
        self.out.appends.push(Entry { records });
    }

    fn letter(&mut self, body: RequestBody) {
        let partition = self.state.genesis().map_or(0, |genesis| genesis.partition);
        self.out.letters.push(Request { partition, auth: None, body });
    }

    /// A number that only this activation can have made.
    fn nonce(&mut self) -> Nonce {
        self.letters_made += 1;
        let mut seed = self.secret.to_vec();
        seed.extend_from_slice(&self.letters_made.to_be_bytes());
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&crate::log::chain::hash_of(&seed).0[..16]);
        Nonce(nonce)
    }
}

/// Whom a command came from, for its answers.
struct Source {
    delivery: u64,
    from: Option<Address>,
    /// The correlation id of `open` and of operators' commands.
    id: Option<String>,
}
