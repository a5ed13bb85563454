//! The clock, the heap of events, and everything that moves.

use super::arbiter::Arbiter;
use super::client::{Action, Client};
use super::dice::Dice;
use super::mix::{Came, Mix, Noise, SECOND};
use super::plant::{Around, Plant};
use super::queue::Queue;
use super::store::Log;
use super::trail::Trail;
use super::wires::Parcel;
use super::{Run, Setup, Stats};
use crate::invariants::fencing::Write;
use crate::invariants::ledger::IdMap;
use crate::invariants::{Checked, Violation, Watch};
use arbiterq::audit::replay::Replay;
use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::partition::{Address, Mark};
use arbiterq::state::State;
use arbiterq_client::fence::Fence;
use arbiterq_client::wire::{Claim, LogId, Request, ResourceName, Token, partition_of};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Partitions of the simulated service; the run is of the first.
pub(super) const PARTITIONS: u32 = 2;
/// See [`crate::invariants::evidence`].
const VERIFIED_ONE_IN: u64 = 2;
/// A fault that was to be expected so often has come: that it has not by chance is less likely than one in a million.
const EXPECTED_MIN: u64 = 20;
/// Resources of each mode of use; a mix uses the first of them.
const NAMES: usize = 64;

/// A message on its way to the request queue.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) from: Option<Address>,
    /// The client and which of its connections.
    pub(super) client: Option<(usize, u64)>,
    pub(super) present: bool,
    pub(super) request: Request,
}

/// What happens at a moment. Whatever concerns a process carries its life: one that is over hears nothing.
#[derive(Debug)]
pub(super) enum Event {
    Arrive(Box<Posted>),
    Reply(Box<Parcel>),
    Deliver { arbiter: usize, life: u64 },
    Land { arbiter: usize, life: u64, entry: Rc<Vec<Sealed>> },
    Read { arbiter: usize, life: u64 },
    Report { arbiter: usize, life: u64, last: u64, offset: usize },
    Resend { arbiter: usize },
    Sync { arbiter: usize, life: u64 },
    Returned { arbiter: usize, life: u64, mark: Box<Mark> },
    Assigned { arbiter: usize, life: u64 },
    ChannelLost { arbiter: usize, life: u64 },
    Nudge { arbiter: usize, life: u64 },
    ArbiterWake { arbiter: usize, life: u64 },
    ArbiterStart { arbiter: usize },
    Closed { address: Address },
    ClientStart { client: usize },
    ClientWake { client: usize, life: u64 },
    Connect { client: usize, life: u64 },
    Do { client: usize, life: u64, action: Action },
    Write(Box<(Write, Token)>),
    Freeze { client: usize, life: u64 },
    Fault,
    Heal,
    Check,
}

/// When an event happens, in the order in which they were made, and its place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    made: u64,
    place: u32,
}

/// Which part of the run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults go on.
    Faulty,
    /// Everybody is well since then.
    Healing(u64),
    /// All clients are dead since then.
    Burying(u64),
    /// Over.
    Over,
}

/// The fence of one resource.
#[derive(Debug, Default)]
pub(super) struct Resource {
    fence: Fence,
    /// For the planted wrong rule.
    highest: Token,
}

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) mix: Mix,
    pub(super) now: u64,
    pub(super) phase: Phase,
    heap: BinaryHeap<Reverse<Due>>,
    /// What the heap's entries stand for, and which places are free: a heap moves its entries about.
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    made: u64,
    pub(super) dice: Dice,
    pub(super) queue: Queue,
    pub(super) log: Log,
    pub(super) log_id: LogId,
    pub(super) arbiters: Vec<Arbiter>,
    pub(super) clients: Vec<Client>,
    /// The plain ones, those with permits, and one of another partition.
    pub(super) names: [Vec<ResourceName>; 3],
    resources: std::collections::BTreeMap<ResourceName, Resource>,
    pub(super) watch: Watch,
    /// The log folded by the state machine, where no replay does that.
    folded: State,
    /// Which client believes in which grant.
    pub(super) believers: std::collections::BTreeMap<Token, usize>,
    /// When and by which clock an epoch's record was sealed, by its incarnation.
    pub(super) epochs: IdMap<(u64, u64)>,
    /// How much of the queue the log says is decided, where it says so.
    pub(super) upto: u64,
    /// Activations so far.
    pub(super) activations: u64,
    /// The file was damaged below its mark.
    pub(super) rotted: bool,
    /// Nothing gets into the queue before.
    pub(super) blocked_until: u64,
    pub(super) trail: Trail,
    pub(super) stats: Stats,
    violation: Option<Violation>,
}

impl World {
    /// `replayed`: whether its log is decided again as it grows.
    pub(super) fn new(setup: Setup, trail: bool, replayed: bool) -> Self {
        let mut dice = Dice::new(setup.seed);
        let mix = setup.mix;
        let log_id = LogId(dice.bytes());
        let mut world = Self {
            setup,
            mix,
            now: 0,
            phase: Phase::Faulty,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            made: 0,
            queue: Queue::new(mix.store),
            log: Log::default(),
            log_id,
            arbiters: Vec::new(),
            clients: Vec::new(),
            names: [names("r", 0, NAMES), names("p", 0, NAMES), names("r", 1, 1)],
            resources: std::collections::BTreeMap::new(),
            watch: Watch { partitions: PARTITIONS, ..Watch::default() },
            folded: State::new(ChainTip::before(0)),
            believers: std::collections::BTreeMap::new(),
            epochs: IdMap::default(),
            upto: 0,
            activations: 0,
            rotted: false,
            blocked_until: 0,
            trail: Trail { kept: trail, lines: std::collections::VecDeque::new() },
            stats: Stats::default(),
            violation: None,
            dice,
        };
        let verified = match setup.plant {
            Some(_) => !replayed,
            None => setup.seed.is_multiple_of(VERIFIED_ONE_IN),
        };
        world.watch.evidence.verifier = verified.then(Verifier::new);
        world.watch.evidence.replay = replayed.then(|| Replay::new(0, []));
        let blocks = mix.faults.iter().any(|(fault, _)| *fault == super::mix::Fault::Block);
        world.watch.no_early_expiry.late_max = blocks.then_some(4 * SECOND);
        world.begin();
        world
    }

    /// The log folded by the state machine: for checkpoints, and to see whether a waiter can be granted.
    pub(super) fn shadow(&self) -> &State {
        self.watch.evidence.replay.as_ref().map_or(&self.folded, Replay::state)
    }

    /// A record that counts and is sound.
    pub(super) fn fold(&mut self, sealed: &Sealed) {
        if self.watch.evidence.replay.is_none() {
            self.folded.fold(sealed);
        }
    }

    fn begin(&mut self) {
        self.begin_log();
        for arbiter in 0..self.mix.arbiters as usize {
            let arbiter_of_seed = Arbiter::new(&mut self.dice);
            self.arbiters.push(arbiter_of_seed);
            self.at(self.now + arbiter as u64 * 1000, Event::ArbiterStart { arbiter });
        }
        for client in 0..self.mix.work.clients as usize {
            let client_of_seed = Client::new(client, &mut self.dice, &self.mix);
            self.clients.push(client_of_seed);
            let at = 5_000 + self.dice.below(SECOND);
            self.at(at, Event::ClientStart { client });
        }
        if !self.mix.faults.is_empty() {
            let at = self.mix.every / 2 + self.dice.below(self.mix.every);
            self.at(at, Event::Fault);
        }
        self.at(self.mix.length, Event::Heal);
    }

    /// Lives until it is over or a promise is broken.
    pub(super) fn run(mut self) -> Run {
        while self.phase != Phase::Over && self.violation.is_none() {
            let Some(Reverse(Due { at, place, .. })) = self.heap.pop() else { break };
            self.now = at;
            self.free.push(place);
            let Some(event) = self.events[place as usize].take() else { continue };
            self.happen(event);
        }
        if self.violation.is_none() {
            let finished = self.watch.evidence.finish(&self.watch.ledger);
            self.check(finished);
        }
        self.stats.grants = self.watch.ledger.granted;
        self.stats.records = self.watch.ledger.records.len() as u64;
        let vacuous = self.vacuous();
        Run {
            setup: self.setup,
            micros: self.now,
            stats: self.stats,
            violation: self.violation,
            vacuous,
            trail: self.trail.lines(),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(posted) => self.arrive(*posted),
            Event::Reply(parcel) => self.reply_arrives(parcel),
            Event::Write(write) => self.write_arrives(*write),
            Event::ArbiterStart { arbiter } => self.start_arbiter(arbiter),
            Event::Closed { address } => self.connection_closed(&address),
            Event::ClientStart { client } => self.start_client(client),
            Event::ClientWake { client, life } => {
                self.client_event(client, life, Event::ClientWake { client, life })
            }
            Event::Connect { client, life } => {
                self.client_event(client, life, Event::Connect { client, life })
            }
            Event::Do { client, life, action } => {
                self.client_event(client, life, Event::Do { client, life, action });
            }
            Event::Land { arbiter, life, entry } => self.land(arbiter, life, entry),
            Event::Resend { arbiter } => self.resend(arbiter),
            Event::Freeze { client, life } => self.freeze(client, life),
            Event::Fault => self.fault(),
            Event::Heal => self.heal(),
            Event::Check => self.check_end(),
            other => self.arbiter_event(other),
        }
    }

    /// Something will happen.
    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.made += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            (self.events.len() - 1) as u32
        });
        self.events[place as usize] = Some(event);
        self.heap.push(Reverse(Due { at: at.max(self.now), made: self.made, place }));
    }

    /// A promise was checked.
    pub(super) fn check(&mut self, checked: Checked) {
        if let Err(violation) = checked {
            let line = || format!("VIOLATION {}: {}", violation.invariant, violation.what);
            self.trail.note(self.now, line);
            self.violation.get_or_insert(violation);
        }
    }

    /// What comes by itself now.
    pub(super) fn noise(&self) -> Noise {
        if self.phase == Phase::Faulty { self.mix.noise } else { Noise::default() }
    }

    /// Whether one of those comes now, and that it could have.
    pub(super) fn comes(&mut self, name: Came, one_in: u64) -> bool {
        if one_in == 0 {
            return false;
        }
        let comes = self.dice.one_in(one_in);
        let counted = self.stats.noise.entry(name).or_default();
        counted.0 += 1_000_000 / one_in;
        counted.1 += u64::from(comes);
        comes
    }

    pub(super) fn is_planted(&self, around: Around) -> bool {
        self.setup.plant == Some(Plant::Around(around))
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        self.trail.note(self.now, line);
    }

    /// A client's write is at its resource.
    fn write_arrives(&mut self, (mut write, floor): (Write, Token)) {
        let by_highest = self.is_planted(Around::HighestToken);
        let resource = self.resources.entry(write.resource.clone()).or_default();
        write.accepted = match by_highest {
            true => write.token >= resource.highest,
            false => resource.fence.check(write.token, floor).is_ok(),
        };
        resource.highest = resource.highest.max(write.token);
        match write.accepted {
            true => self.stats.writes.0 += 1,
            false => self.stats.writes.1 += 1,
        }
        self.trail.note(self.now, || format!("write {write:?} floor {floor}"));
        let checked = self.watch.fencing.wrote(&self.watch.ledger, &write);
        self.check(checked);
    }

    /// What somebody wants.
    pub(super) fn claims(&mut self) -> Vec<Claim> {
        let work = self.mix.work;
        if self.comes(Came::Forge, self.noise().forge) {
            // Somebody counts partitions differently.
            return vec![Claim::exclusive(self.names[2][0].clone())];
        }
        let count = self.dice.between(1, work.claims);
        let permits = self.dice.below(100) < work.permits;
        let mut claims: Vec<Claim> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let which = self.dice.below(work.resources) as usize;
            let name = self.names[usize::from(permits)][which].clone();
            if claims.iter().any(|claim| claim.resource == name) {
                continue;
            }
            claims.push(match (permits, self.dice.below(100) < work.shared) {
                (true, _) => Claim::permits(name, self.dice.between(1, 5) as u32),
                (false, true) => Claim::shared(name),
                (false, false) => Claim::exclusive(name),
            });
        }
        claims
    }

    /// What was promised to happen and did not.
    fn vacuous(&self) -> Option<String> {
        if self.violation.is_some() {
            return None;
        }
        if self.stats.grants < self.mix.grants_min {
            return Some(format!("{} grants, of {}", self.stats.grants, self.mix.grants_min));
        }
        let weights: u64 = self.mix.faults.iter().map(|(_, weight)| weight).sum();
        for (fault, weight) in self.mix.faults {
            let expected = self.mix.length / self.mix.every * weight / weights.max(1);
            if expected >= EXPECTED_MIN && !self.stats.faults.contains_key(fault) {
                return Some(format!("no {fault:?}, of {expected}"));
            }
        }
        let missing =
            self.stats.noise.iter().find(|(_, (expected, came))| *expected > 15_000_000 && *came == 0);
        missing.map(|(name, (expected, _))| format!("no {name:?}, of {}", expected / 1_000_000))
    }
}

/// Names that belong to a partition.
fn names(prefix: &str, partition: u32, count: usize) -> Vec<ResourceName> {
    let all = (0..).filter_map(|i| ResourceName::new(&format!("{prefix}{i}")).ok());
    all.filter(|name| partition_of(name, PARTITIONS) == partition).take(count).collect()
}
