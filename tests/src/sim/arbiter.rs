//! An arbiter's process: the loop around a partition, as the service's, with a broker or sockets around it.

use super::dice::Dice;
use super::mix::{Came, MS, SECOND, Store};
use super::plant::{Around, Plant};
use super::world::{Event, Phase, World};
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::record::{Policy, Rule};
use arbiterq::partition::{
    Activation, Delivery, Outgoing, Partition, PartitionConfig, Role, StepDown, Uptime,
};
use arbiterq::state::{State, snapshot};
use arbiterq_client::wire::{Hash, Nonce, Principal, Request, RequestBody, Timestamp};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Deliveries taken at once.
const BATCH_MAX: usize = 256;
/// A tick or an append older than this is a failure.
const OVERDUE: Duration = Duration::from_secs(3);
/// Connections of a client that it keeps the order of.
const WAYS_MAX: usize = 4;
/// Where wall clocks begin: long after the genesis.
const WALL: u64 = 1_700_000_000 * SECOND;

/// One process.
pub(super) struct Arbiter {
    pub(super) life: u64,
    /// Its clock's rate, in thousandths.
    pub(super) rate: u64,
    born: u64,
    /// What its wall clock is off by, from a base that keeps it above zero.
    pub(super) wall_offset: u64,
    pub(super) paused_until: u64,
    pub(super) partition: Option<Partition>,
    pub(super) role: Role,
    /// The position in the log up to which it has read, or has proof.
    pub(super) read: usize,
    pub(super) read_due: bool,
    pub(super) channel: u64,
    pub(super) deliver_due: bool,
    wake_at: u64,
    last_post: u64,
    /// By client, when the last reply to each of its newest connections is there.
    last_reply: Vec<Vec<(u64, u64)>>,
    pub(super) last_record_at: u64,
    principal: Principal,
    /// Which of all activations, and how much of the log it had read when it began.
    activation: u64,
    pub(super) began: u64,
    own_epoch: Option<u64>,
    /// Void entries, for the planted wrong rule.
    pub(super) void: BTreeSet<Hash>,
    // What the store keeps for its writer.
    pub(super) last_land: u64,
    pub(super) lose_until: u64,
    pub(super) outstanding: VecDeque<u64>,
    pub(super) proves: bool,
    pub(super) upto: u64,
    pub(super) resending: bool,
    pub(super) resent: Vec<Rc<Vec<Sealed>>>,
    /// The file's last line was damaged.
    pub(super) rotten: bool,
    pub(super) unsynced: Vec<Sealed>,
    pub(super) sync_due: bool,
}

impl Arbiter {
    pub(super) fn new(dice: &mut Dice) -> Self {
        Self {
            life: 0,
            rate: dice.between(992, 1008),
            born: 0,
            wall_offset: dice.below(10 * SECOND),
            paused_until: 0,
            partition: None,
            role: Role::Standby,
            read: 0,
            read_due: false,
            channel: 0,
            deliver_due: false,
            wake_at: u64::MAX,
            last_post: 0,
            last_reply: Vec::new(),
            last_record_at: 0,
            principal: Principal::anonymous(),
            activation: 0,
            began: 0,
            own_epoch: None,
            void: BTreeSet::new(),
            last_land: 0,
            lose_until: 0,
            outstanding: VecDeque::new(),
            proves: false,
            upto: 0,
            resending: false,
            resent: Vec::new(),
            rotten: false,
            unsynced: Vec::new(),
            sync_due: false,
        }
    }

    pub(super) fn uptime(&self, now: u64) -> Uptime {
        Duration::from_micros((now - self.born) * self.rate / 1000)
    }

    fn true_time(&self, uptime: Uptime) -> u64 {
        let micros = u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX);
        self.born.saturating_add(micros.saturating_mul(1000).div_ceil(self.rate))
    }

    fn wall(&self, now: u64) -> Timestamp {
        Timestamp::from_micros(WALL + self.wall_offset + now)
    }

    pub(super) fn is_active(&self) -> bool {
        self.role == Role::Active && self.partition.is_some()
    }
}

fn policy(at_once: usize) -> Policy {
    let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
    let rules = vec![
        Rule { capacity: Some(5), ..rule("p*") },
        Rule { lock_delay_ms: Some(300), ..rule("*7") },
        Rule { hold_max_ms: Some(1500), ..rule("*9") },
    ];
    Policy { rules, in_flight_max: (at_once as u32).max(16), ..Policy::default() }
}

impl World {
    /// The uptime that a partition is told; by a wrong rule, of the wall clock.
    pub(super) fn uptime(&self, arbiter: usize) -> Uptime {
        let own = &self.arbiters[arbiter];
        let steady = own.uptime(self.now);
        match self.is_planted(Around::WallClock) {
            true => steady + Duration::from_micros(own.wall_offset),
            false => steady,
        }
    }

    pub(super) fn start_arbiter(&mut self, arbiter: usize) {
        if self.arbiters[arbiter].partition.is_some() {
            return;
        }
        let planted = match self.setup.plant {
            Some(Plant::Arbiter(planted)) => Some(planted),
            _ => None,
        };
        let late = self.is_planted(Around::LateTick) || self.mix.store == Store::File;
        let config = PartitionConfig {
            policy: policy(self.mix.work.at_once),
            returns: self.mix.store == Store::Stream,
            overdue: (!late).then_some(OVERDUE),
            prefetch: 1024,
            ..PartitionConfig::default()
        };
        let (mut state, mut read, mut upto) = (State::new(ChainTip::before(0)), 0, 0);
        if let Some(checkpoint) = self.log.checkpoint() {
            match snapshot::read(&checkpoint.body) {
                Ok(restored) => (state, read, upto) = (restored, checkpoint.position, checkpoint.upto),
                Err(error) => panic!("a checkpoint does not read: {error}"),
            }
        }
        let is_file = self.mix.store == Store::File;
        if std::mem::take(&mut self.arbiters[arbiter].rotten) && !self.is_planted(Around::TornWhateverMark) {
            // At or below the durable mark: it does not start, and somebody mends the file.
            return self.at(self.now + SECOND / 2, Event::ArbiterStart { arbiter });
        }
        let cut = self.rotted && self.is_planted(Around::TornWhateverMark);
        while is_file && let Some(entry) = self.log.entry(read) {
            let is_last = read + 1 == self.log.end();
            let kept = if cut && is_last { entry.len() - 1 } else { entry.len() };
            entry.iter().take(kept).for_each(|sealed| state.fold(sealed));
            read += 1;
        }
        let partition = Partition::standby(config, state).with_planted(planted);
        let own = &mut self.arbiters[arbiter];
        own.life += 1;
        own.born = self.now;
        own.partition = Some(partition);
        own.role = Role::Standby;
        (own.read, own.upto) = (read, upto);
        (own.read_due, own.deliver_due, own.wake_at) = (false, false, u64::MAX);
        own.outstanding.clear();
        own.void.clear();
        own.own_epoch = None;
        own.last_record_at = self.now;
        let life = own.life;
        self.note(|| format!("arbiter {arbiter} starts, life {life}"));
        // It reads what there is before it asks for its turn. If that came before, epochs that are long over would
        // end its activation, each time again.
        self.read_all(arbiter);
        self.arbiters[arbiter].channel = self.queue.open(arbiter);
        if is_file {
            self.activate(arbiter);
            self.after_input(arbiter);
        } else {
            self.at(self.now + SECOND, Event::Nudge { arbiter, life });
        }
        self.give();
    }

    /// Whoever is the consumer now is given what there is.
    pub(super) fn give(&mut self) {
        let Some(consumer) = self.queue.consumer() else { return };
        let own = &mut self.arbiters[consumer.arbiter];
        if own.channel != consumer.channel || own.partition.is_none() || own.deliver_due {
            return;
        }
        let (arbiter, life) = (consumer.arbiter, own.life);
        if self.mix.store == Store::Topic && own.role == Role::Standby {
            own.deliver_due = true;
            let at = self.now + 500 + self.dice.below(2 * MS);
            self.at(at, Event::Assigned { arbiter, life });
        } else if self.queue.has_ready() && own.partition.as_ref().is_some_and(|own| !own.is_full()) {
            if self.mix.store == Store::Topic && own.role != Role::Active {
                return;
            }
            own.deliver_due = true;
            let at = self.now + 200 + self.dice.below(600);
            self.at(at, Event::Deliver { arbiter, life });
        }
    }

    /// An event of an arbiter: later if it stands still, never if it is over.
    pub(super) fn arbiter_event(&mut self, event: Event) {
        let (arbiter, life) = match &event {
            Event::Deliver { arbiter, life }
            | Event::Read { arbiter, life }
            | Event::Report { arbiter, life, .. }
            | Event::Sync { arbiter, life }
            | Event::Returned { arbiter, life, .. }
            | Event::Assigned { arbiter, life }
            | Event::ChannelLost { arbiter, life }
            | Event::Nudge { arbiter, life }
            | Event::ArbiterWake { arbiter, life } => (*arbiter, *life),
            other => unreachable!("{other:?} is of no arbiter"),
        };
        let own = &self.arbiters[arbiter];
        if own.life != life || own.partition.is_none() {
            return;
        }
        if self.now < own.paused_until {
            let until = own.paused_until;
            return self.at(until, event);
        }
        match event {
            Event::Deliver { .. } => self.deliver(arbiter),
            Event::Read { .. } => self.read(arbiter),
            Event::Report { last, offset, .. } => self.report(arbiter, last, offset),
            Event::Sync { .. } => self.sync(arbiter),
            Event::Returned { mark, .. } => {
                self.note(|| format!("arbiter {arbiter}: came back {mark:?}"));
                if let Some(partition) = &mut self.arbiters[arbiter].partition {
                    partition.returned(*mark);
                }
                self.after_input(arbiter);
            }
            Event::Assigned { .. } => {
                self.arbiters[arbiter].deliver_due = false;
                self.read_all(arbiter);
                self.activate(arbiter);
                self.after_input(arbiter);
            }
            Event::ChannelLost { .. } => {
                if let Some(partition) = &mut self.arbiters[arbiter].partition {
                    partition.queue_lost();
                }
                self.after_input(arbiter);
            }
            Event::Nudge { .. } => self.nudge(arbiter),
            _ => {
                self.arbiters[arbiter].wake_at = u64::MAX;
                self.after_input(arbiter);
            }
        }
    }

    fn deliver(&mut self, arbiter: usize) {
        self.arbiters[arbiter].deliver_due = false;
        let is_consumer = |own: &Arbiter, world: &Self| {
            world.queue.consumer().is_some_and(|consumer| consumer.channel == own.channel)
        };
        if !is_consumer(&self.arbiters[arbiter], self) {
            return;
        }
        // The first delivery tells that it is this arbiter's turn.
        if self.arbiters[arbiter].role == Role::Standby {
            self.activate(arbiter);
        }
        let (now, principal) = (self.uptime(arbiter), self.arbiters[arbiter].principal.clone());
        let at_once = self.is_planted(Around::AckAtOnce);
        for _ in 0..BATCH_MAX {
            let own = &mut self.arbiters[arbiter];
            let Some(partition) = own.partition.as_mut().filter(|partition| !partition.is_full()) else {
                break;
            };
            let Some(message) = self.queue.take() else { break };
            self.trail
                .note(self.now, || format!("arbiter {arbiter} takes {}: {:?}", message.id, message.request));
            let delivery = Delivery {
                id: message.id,
                from: message.from.clone(),
                principal: principal.clone(),
                present: message.present,
                position: (self.mix.store == Store::Topic).then_some(message.id),
                request: message.request.clone(),
            };
            partition.deliver(delivery, now);
            self.stats.decided += u64::from(own.role == Role::Active);
            if at_once {
                self.acknowledge(arbiter, message.id);
            }
        }
        self.after_input(arbiter);
    }

    pub(super) fn activate(&mut self, arbiter: usize) {
        let fixed = self.is_planted(Around::NoIncarnation);
        let (incarnation, secret) = match fixed {
            true => ([7; 16], [7; 32]),
            false => {
                let (low, high) = (self.dice.bytes(), self.dice.bytes());
                let mut secret = [0; 32];
                secret[..16].copy_from_slice(&low);
                secret[16..].copy_from_slice(&high);
                (self.dice.bytes(), secret)
            }
        };
        let now = self.uptime(arbiter);
        let activation = self.activations + 1;
        let own = &mut self.arbiters[arbiter];
        let wall = own.wall(self.now);
        let Some(partition) = &mut own.partition else { return };
        if partition.role() != Role::Standby {
            return;
        }
        let began = partition.known().next_index;
        let told = Activation { incarnation: Nonce(incarnation), secret, wall };
        match partition.activate(told, now) {
            Ok(()) => {
                self.activations = activation;
                own.role = Role::Activating;
                (own.activation, own.began, own.proves) = (activation, began, true);
                self.note(|| format!("arbiter {arbiter} activates from record {began} on"));
            }
            // It has not read the genesis yet.
            Err(_) => self.read_soon(arbiter),
        }
    }

    /// The end of a connection is its process's end.
    pub(super) fn close_at(&mut self, arbiter: usize, address: &arbiterq::partition::Address) {
        let now = self.uptime(arbiter);
        if let Some(partition) = &mut self.arbiters[arbiter].partition {
            partition.closed(address, now);
        }
        self.after_input(arbiter);
    }

    /// Time, then what the partition says is to be done, in its order.
    pub(super) fn after_input(&mut self, arbiter: usize) {
        let now = self.uptime(arbiter);
        let Some(partition) = &mut self.arbiters[arbiter].partition else { return };
        partition.time(now);
        let outputs = partition.outputs(now);
        let (role, epoch) = (partition.role(), partition.state().epoch());
        if role == Role::Active && self.arbiters[arbiter].role != Role::Active {
            self.became_active(arbiter, epoch);
        }
        if let Some(why) = outputs.step_down {
            return self.stepped_down(arbiter, why);
        }
        for entry in outputs.appends {
            self.append(arbiter, entry);
        }
        for outgoing in outputs.sends {
            self.tell(arbiter, outgoing);
        }
        for id in outputs.acks {
            self.acknowledge(arbiter, id);
        }
        for letter in outputs.letters {
            self.post(arbiter, letter);
        }
        self.wake_soon(arbiter);
        if self.is_planted(Around::CheckpointUnproven) && role == Role::Active && self.dice.one_in(20) {
            self.checkpoint_unproven(arbiter);
        }
        self.give();
    }

    /// A wrong rule: of whatever is in memory, proven or not.
    fn checkpoint_unproven(&mut self, arbiter: usize) {
        let own = &self.arbiters[arbiter];
        if let Some(partition) = &own.partition {
            let body = snapshot::write(partition.state());
            self.log.put_checkpoint(body, own.upto);
        }
    }

    fn became_active(&mut self, arbiter: usize, epoch: u64) {
        let own = &mut self.arbiters[arbiter];
        own.role = Role::Active;
        own.own_epoch = Some(epoch);
        let (activation, upto) = (own.activation, own.upto);
        if self.mix.store == Store::Topic {
            self.queue.seek(upto);
        }
        self.note(|| format!("arbiter {arbiter} is active in epoch {epoch}"));
        let checked = self.watch.epochs.active(activation, epoch);
        self.check(checked);
    }

    fn stepped_down(&mut self, arbiter: usize, why: StepDown) {
        let own = &self.arbiters[arbiter];
        let (began, epoch, channel) = (own.began, own.own_epoch, own.channel);
        self.note(|| format!("arbiter {arbiter} steps down: {why}"));
        let checked = self.watch.epochs.stepped_down(&self.watch.ledger, why, began, epoch);
        self.check(checked);
        self.arbiters[arbiter].partition = None;
        self.arbiters[arbiter].life += 1;
        match self.is_planted(Around::CancelConsumer) {
            true => self.queue.cancel(channel),
            false => self.queue.close(channel),
        }
        let at = self.now + 5 * MS + self.dice.below(50 * MS);
        self.at(at, Event::ArbiterStart { arbiter });
        self.give();
    }

    fn wake_soon(&mut self, arbiter: usize) {
        let own = &mut self.arbiters[arbiter];
        let Some(wake) = own.partition.as_ref().and_then(Partition::next_wake) else { return };
        let at = own.true_time(wake).max(self.now + 1);
        if at < own.wake_at {
            own.wake_at = at;
            let life = own.life;
            self.at(at, Event::ArbiterWake { arbiter, life });
        }
    }

    fn acknowledge(&mut self, arbiter: usize, id: u64) {
        let channel = self.arbiters[arbiter].channel;
        if let Some(message) = self.queue.acknowledge(channel, id) {
            let checked = self.watch.no_loss.acknowledged(&self.watch.ledger, &message.request);
            self.check(checked);
        }
    }

    /// A reply leaves.
    fn tell(&mut self, arbiter: usize, outgoing: Outgoing) {
        self.trail
            .note(self.now, || format!("arbiter {arbiter} tells {}: {:?}", outgoing.to, outgoing.reply));
        let to = outgoing.mark.map(|_| &*outgoing.to);
        let checked = self.watch.told(&outgoing.reply, to);
        self.check(checked);
        let own = &mut self.arbiters[arbiter];
        let life = own.life;
        if let Some(client) = super::wires::client_of(&outgoing.to) {
            if own.last_reply.len() <= client.0 {
                own.last_reply.resize(client.0 + 1, Vec::new());
            }
            // In order on each connection, or in a topic's one partition for the client.
            let way = if self.mix.store == Store::Topic { 0 } else { client.1 };
            let ways = &mut own.last_reply[client.0];
            let which = ways.iter().position(|(other, _)| *other == way).unwrap_or_else(|| {
                if ways.len() == WAYS_MAX {
                    ways.remove(0);
                }
                ways.push((way, 0));
                ways.len() - 1
            });
            let after = ways[which].1;
            let at = self.reply_leaves(arbiter, life, client, outgoing, after);
            self.arbiters[arbiter].last_reply[client.0][which].1 = at;
        }
    }

    /// A letter to itself goes to the end of its own queue.
    pub(super) fn post(&mut self, arbiter: usize, letter: Request) {
        if matches!(letter.body, RequestBody::Tick(_)) && self.comes(Came::Stall, self.noise().stall) {
            self.arbiters[arbiter].paused_until = self.now + self.dice.below(2 * self.mix.work.lease);
        }
        if self.mix.store == Store::File {
            // Behind all that the sockets hold.
            let first = self.is_planted(Around::TickJumpsQueue);
            self.queue.enqueue_letter(letter, first);
            return self.give();
        }
        if self.phase == Phase::Faulty && self.comes(Came::LetterLose, self.noise().letter_lose) {
            return;
        }
        let now = self.now;
        let late = self.comes(Came::LetterLate, self.noise().letter_late);
        let delay = 200 + self.dice.below(500) + if late { self.dice.around(SECOND / 2) } else { 0 };
        let own = &mut self.arbiters[arbiter];
        own.last_post = own.last_post.max(now + delay);
        let at = own.last_post;
        let posted = super::world::Posted { from: None, client: None, present: false, request: letter };
        self.at(at, Event::Arrive(Box::new(posted)));
    }
}
