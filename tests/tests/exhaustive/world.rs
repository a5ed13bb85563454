//! Everything that there is, and what may happen next. Whatever may happen in any order, may happen here in any order.

use super::arbiter::Arbiter;
use super::client::{Client, client_of};
use super::kept::Kept;
use super::log::{Entry, Log};
use arbiterq::partition::{Activation, Address, Delivery, Role, StepDown};
use arbiterq::planted::Planted;
use arbiterq_client::core::Planted as AtClient;
use arbiterq_client::fence::Fence;
use arbiterq_client::wire::{
    ForceRelease, Mode, Nonce, Principal, Request, RequestBody, ResourceName, Timestamp, Token,
};
use arbiterq_tests::invariants::fencing::{Fencing, Write};
use arbiterq_tests::invariants::no_loss::NoLoss;
use arbiterq_tests::invariants::once::Once;
use arbiterq_tests::invariants::{Checked, Violation, belief, on_the_record_first};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// The lease that clients ask for.
pub(super) const LEASE_MS: u64 = 1_000;
/// Addresses that replies go to: two clients.
pub(super) const PLACES: usize = 2;
/// Where wall clocks begin.
pub(super) const WALL: u64 = 1_700_000_000_000_000;
/// The second arbiter's wall clock is an hour behind: its epochs begin at the last record's moment.
const BEHIND: u64 = 3_600_000_000;
/// When a model begins.
const START: u64 = 10_000_000;

/// One message in the request queue.
#[derive(Debug, Hash)]
pub(super) struct Message {
    from: Option<Address>,
    pub(super) request: Request,
    pub(super) enqueued: u64,
}

/// The request queue: everything ever enqueued, and what is acknowledged.
///
/// Each arbiter that believes that it is active takes from it, by a position of its own; a new activation begins with
/// the first that is not acknowledged. So it delivers at least once, and gives a superseded arbiter what a broker
/// would not.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Queue(Vec<(Arc<Message>, bool)>);

impl Queue {
    pub(super) fn all(&self) -> impl Iterator<Item = &Message> {
        self.0.iter().map(|(message, _)| &**message)
    }

    fn next(&self, position: usize) -> Option<usize> {
        (position..self.0.len()).find(|at| !self.0[*at].1)
    }

    fn push(&mut self, from: Option<Address>, request: Request, enqueued: u64) {
        self.0.push((Arc::new(Message { from, request, enqueued }), false));
    }
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    /// An arbiter is told that it is its turn.
    pub(super) turns: u8,
    pub(super) crashes: u8,
    pub(super) appends_lost: u8,
    pub(super) appends_doubled: u8,
    pub(super) requests_lost: u8,
    pub(super) requests_doubled: u8,
    pub(super) replies_lost: u8,
    pub(super) replies_doubled: u8,
    /// Replies that come back to their arbiter.
    pub(super) returns: u8,
    pub(super) cuts: u8,
    /// A quarter of the lease and a little passes.
    pub(super) quarters: u8,
    /// A lease and a little passes.
    pub(super) leases: u8,
    pub(super) asks: u8,
    pub(super) releases: u8,
    pub(super) writes: u8,
    /// An operator takes what is held.
    pub(super) forced: u8,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The queue, or whoever, tells an arbiter that it is its turn. It reads what is on the log and begins an epoch.
    /// The other one does not hear of it, but by what it reads.
    Turn(usize),
    /// An arbiter takes the next message.
    Deliver(usize),
    /// An arbiter reads what has landed.
    Read(usize),
    /// An arbiter looks at its clock.
    Wake(usize),
    /// A process dies, with all that it has not told or appended.
    Crash(usize),
    /// The first entry on its way from a process is on the log.
    Land(usize, u64),
    /// It is lost.
    LoseAppend(usize, u64),
    /// It lands, and another copy is still on its way.
    DoubleAppend(usize, u64),
    /// A client hears the next reply of an arbiter.
    Hear(usize, usize),
    LoseReply(usize, usize),
    /// It hears it, and another copy is still on its way.
    DoubleReply(usize, usize),
    /// The reply comes back to its arbiter.
    Return(usize, usize),
    /// A client's next message is in the queue.
    Arrive(usize),
    LoseRequest(usize),
    DoubleRequest(usize),
    /// A client looks at its clock.
    ClientWake(usize),
    Cut(usize),
    Ask(usize),
    /// The user has no more use for it, or stops because it is lost.
    Release(usize),
    /// A client that believes sends a write to the resource.
    Write(usize),
    /// It arrives there.
    WriteArrives(usize),
    Force,
    Quarter,
    Lease,
}

/// A wrong rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plant {
    Arbiter(Planted),
    Client(AtClient),
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct World {
    now: u64,
    pub(super) log: Kept<Log>,
    queue: Kept<Queue>,
    arbiters: [Kept<Arbiter>; 2],
    clients: Vec<Kept<Client>>,
    /// Whose write the resource has taken, with which token, in its order.
    written: Vec<(usize, Token)>,
    /// It has refused one.
    pub(super) fenced_off: bool,
    left: Left,
    /// The partitions have a wrong rule, of which the log folded by itself has nothing.
    is_planted: bool,
    pub(super) broken: Option<Violation>,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl World {
    /// All that decides what may happen next, and what has been found.
    fn identity(&self) -> impl PartialEq + Hash + '_ {
        (
            self.now,
            &self.log,
            &self.queue,
            &self.arbiters,
            &self.clients,
            &self.written,
            self.fenced_off,
            self.left,
            self.broken.as_ref().map(|broken| broken.invariant),
        )
    }

    pub(super) fn new(clients: usize, plant: Option<Plant>) -> Self {
        let (inside, at_client) = match plant {
            Some(Plant::Arbiter(planted)) => (Some(planted), None),
            Some(Plant::Client(planted)) => (None, Some(planted)),
            None => (None, None),
        };
        Self {
            now: START,
            log: Kept::new(Log::new()),
            queue: Kept::new(Queue::default()),
            arbiters: [Kept::new(Arbiter::new(inside)), Kept::new(Arbiter::new(inside))],
            clients: (0..clients).map(|number| Kept::new(Client::new(number, at_client, START))).collect(),
            written: Vec::new(),
            fenced_off: false,
            left: Left::default(),
            is_planted: inside.is_some(),
            broken: None,
        }
    }

    pub(super) fn with(mut self, left: Left) -> Self {
        self.left = left;
        self
    }

    /// Whether this promise is broken.
    pub(super) fn breaks(&self, invariant: &str) -> bool {
        self.broken.as_ref().is_some_and(|broken| broken.invariant == invariant)
    }

    /// Whether an arbiter has stepped down because another's epoch counts.
    pub(super) fn superseded(&self) -> bool {
        self.arbiters.iter().any(|arbiter| arbiter.superseded)
    }

    /// Everything moves that can move without a fault, a user or time, in one order, until nothing does.
    pub(super) fn settle(&mut self) {
        loop {
            let mut actions = Vec::new();
            self.moving(&mut actions);
            let Some(action) = actions.first().copied() else { return };
            self.act(action);
        }
    }

    /// Everything that may happen next.
    pub(super) fn actions(&self, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        self.moving(actions);
        let left = &self.left;
        let mut add = |count: u8, action: Action| {
            if count > 0 {
                actions.push(action);
            }
        };
        for (a, arbiter) in self.arbiters.iter().enumerate() {
            let role = arbiter.partition.role();
            if role == Role::Standby {
                add(left.turns, Action::Turn(a));
            } else {
                add(left.crashes, Action::Crash(a));
                let due = arbiter.partition.next_wake().is_some_and(|wake| wake <= self.uptime());
                add(u8::from(due), Action::Wake(a));
            }
            for life in arbiter.appends.keys() {
                add(left.appends_lost, Action::LoseAppend(a, *life));
                add(left.appends_doubled, Action::DoubleAppend(a, *life));
            }
            for (c, replies) in arbiter.replies.iter().enumerate() {
                let Some((life, next)) = replies.front() else { continue };
                add(left.replies_lost, Action::LoseReply(a, c));
                add(left.replies_doubled, Action::DoubleReply(a, c));
                let comes_back = next.mark.is_some() && *life == arbiter.life;
                add(if comes_back { left.returns } else { 0 }, Action::Return(a, c));
            }
        }
        for (c, client) in self.clients.iter().enumerate() {
            if !client.outbox.is_empty() {
                add(left.requests_lost, Action::LoseRequest(c));
                add(left.requests_doubled, Action::DoubleRequest(c));
            }
            add(u8::from(client.is_due(self.now)), Action::ClientWake(c));
            add(left.cuts, Action::Cut(c));
            if !client.asked {
                add(left.asks, Action::Ask(c));
            } else if !client.released {
                add(if client.has_lost { 1 } else { left.releases }, Action::Release(c));
            }
            if client.write.is_some() {
                add(1, Action::WriteArrives(c));
            } else if client.believed(self.now).is_some() {
                add(left.writes, Action::Write(c));
            }
        }
        add(if self.log.in_force().is_some() { left.forced } else { 0 }, Action::Force);
        add(left.quarters, Action::Quarter);
        add(left.leases, Action::Lease);
    }

    /// What is on its way.
    fn moving(&self, actions: &mut Vec<Action>) {
        for (a, arbiter) in self.arbiters.iter().enumerate() {
            actions.extend(arbiter.appends.keys().map(|life| Action::Land(a, *life)));
            let role = arbiter.partition.role();
            if role != Role::Standby && arbiter.read < self.log.len() {
                actions.push(Action::Read(a));
            }
            if role == Role::Active && self.queue.next(arbiter.position).is_some() {
                actions.push(Action::Deliver(a));
            }
            let heard = arbiter.replies.iter().enumerate().filter(|(_, replies)| !replies.is_empty());
            actions.extend(heard.map(|(c, _)| Action::Hear(a, c)));
        }
        let sent = self.clients.iter().enumerate().filter(|(_, client)| !client.outbox.is_empty());
        actions.extend(sent.map(|(c, _)| Action::Arrive(c)));
    }

    /// It happens. What it breaks is kept.
    pub(super) fn act(&mut self, action: Action) {
        let checked = self.step(action).and_then(|()| self.beliefs());
        if let Err(broken) = checked {
            self.broken = Some(broken);
        }
    }

    fn step(&mut self, action: Action) -> Checked {
        let now = self.now;
        match action {
            Action::Turn(a) => self.turn(a)?,
            Action::Deliver(a) => self.deliver(a)?,
            Action::Read(a) => self.read(a)?,
            Action::Wake(a) => self.after_input(a)?,
            Action::Crash(a) => {
                self.left.crashes -= 1;
                self.arbiters[a].change(Arbiter::restart);
            }
            Action::Land(a, life) => self.land(a, life, true)?,
            Action::DoubleAppend(a, life) => {
                self.left.appends_doubled -= 1;
                self.land(a, life, false)?;
            }
            Action::LoseAppend(a, life) => {
                self.left.appends_lost -= 1;
                self.take_append(a, life);
            }
            Action::Hear(a, c) => self.hear(a, c, true),
            Action::DoubleReply(a, c) => {
                self.left.replies_doubled -= 1;
                self.hear(a, c, false);
            }
            Action::LoseReply(a, c) => {
                self.left.replies_lost -= 1;
                self.arbiters[a].change(|arbiter| arbiter.replies[c].pop_front());
            }
            Action::Return(a, c) => {
                self.left.returns -= 1;
                self.arbiters[a].change(|arbiter| {
                    let mark = arbiter.replies[c].pop_front().and_then(|(_, reply)| reply.mark);
                    mark.into_iter().for_each(|mark| arbiter.partition.returned(mark));
                });
                self.after_input(a)?;
            }
            Action::Arrive(c) => self.arrive(c, true),
            Action::DoubleRequest(c) => {
                self.left.requests_doubled -= 1;
                self.arrive(c, false);
            }
            Action::LoseRequest(c) => {
                self.left.requests_lost -= 1;
                self.clients[c].change(|client| client.outbox.pop_front());
            }
            Action::ClientWake(c) => self.clients[c].change(|client| {
                client.core.tick(now);
                client.drain(now);
            }),
            Action::Cut(c) => {
                self.left.cuts -= 1;
                self.clients[c].change(|client| client.cut(now));
                self.arbiters.iter_mut().for_each(|arbiter| {
                    arbiter.change(|arbiter| arbiter.replies[c].clear());
                });
            }
            Action::Ask(c) => {
                self.left.asks = self.left.asks.saturating_sub(1);
                self.clients[c].change(|client| client.ask(now, resource()));
            }
            Action::Release(c) => {
                // Who has lost it stops, sooner or later.
                self.left.releases -= u8::from(!self.clients[c].has_lost);
                self.clients[c].change(|client| client.release(now));
            }
            Action::Write(c) => {
                self.left.writes -= 1;
                self.clients[c].change(|client| client.write = client.believed(now));
            }
            Action::WriteArrives(c) => self.write(c)?,
            Action::Force => self.force(),
            Action::Quarter => {
                self.left.quarters -= 1;
                self.now += LEASE_MS * 260;
            }
            Action::Lease => {
                self.left.leases -= 1;
                self.now += LEASE_MS * 1050;
            }
        }
        Ok(())
    }

    fn uptime(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn turn(&mut self, a: usize) -> Checked {
        self.left.turns = self.left.turns.saturating_sub(1);
        let now = self.uptime();
        let (log, first) = (&self.log, self.queue.next(0).unwrap_or(self.queue.0.len()));
        let wall = WALL + self.now - if a == 0 { 0 } else { BEHIND };
        let incarnation = self.arbiters[a].change(|arbiter| {
            let partition = &mut arbiter.partition;
            log.read(arbiter.read).iter().for_each(|entry| partition.observe(entry, now));
            arbiter.read = log.len();
            arbiter.began = partition.known().next_index;
            arbiter.position = first;
            let number = a as u8 + 1 + 2 * arbiter.life as u8;
            let activation = Activation {
                incarnation: Nonce([number; 16]),
                secret: [number; 32],
                wall: Timestamp::from_micros(wall),
            };
            assert_eq!(partition.activate(activation, now), Ok(()), "it has read the genesis");
            activation.incarnation
        });
        let true_now = self.now;
        self.log.change(|log| log.activated(incarnation, true_now));
        self.after_input(a)
    }

    fn deliver(&mut self, a: usize) -> Checked {
        let Some(next) = self.queue.next(self.arbiters[a].position) else { return Ok(()) };
        let (now, message) = (self.uptime(), self.queue.0[next].0.clone());
        self.arbiters[a].change(|arbiter| {
            arbiter.position = next + 1;
            let delivery = Delivery {
                id: next as u64,
                from: message.from.clone(),
                principal: Principal::anonymous(),
                present: false,
                position: None,
                request: message.request.clone(),
            };
            arbiter.partition.deliver(delivery, now);
        });
        self.after_input(a)
    }

    fn read(&mut self, a: usize) -> Checked {
        let (now, log) = (self.uptime(), &self.log);
        self.arbiters[a].change(|arbiter| {
            log.read(arbiter.read).iter().for_each(|entry| arbiter.partition.observe(entry, now));
            arbiter.read = log.len();
        });
        self.after_input(a)
    }

    fn take_append(&mut self, a: usize, life: u64) -> Option<Entry> {
        self.arbiters[a].change(|arbiter| {
            let entries = arbiter.appends.get_mut(&life)?;
            let entry = entries.pop_front();
            if entries.is_empty() {
                arbiter.appends.remove(&life);
            }
            entry
        })
    }

    fn land(&mut self, a: usize, life: u64, last: bool) -> Checked {
        let entry = match last {
            true => self.take_append(a, life),
            false => self.arbiters[a].appends.get(&life).and_then(|entries| entries.front()).cloned(),
        };
        let (queue, now) = (&self.queue, self.now);
        entry.map_or(Ok(()), |entry| self.log.change(|log| log.land(entry, queue, now)))
    }

    /// Time, then what the partition says is to be done, in its order.
    fn after_input(&mut self, a: usize) -> Checked {
        let now = self.uptime();
        let (outputs, role) = self.arbiters[a].change(|arbiter| {
            arbiter.partition.time(now);
            let outputs = arbiter.partition.outputs(now);
            for entry in &outputs.appends {
                arbiter.appends.entry(arbiter.life).or_default().push_back(entry.records.as_slice().into());
            }
            for outgoing in &outputs.sends {
                if let Some(replies) = client_of(&outgoing.to).and_then(|c| arbiter.replies.get_mut(c)) {
                    replies.push_back((arbiter.life, outgoing.clone()));
                }
            }
            let role = arbiter.partition.role();
            if role == Role::Active && arbiter.epoch.is_none() {
                arbiter.epoch = Some(arbiter.partition.state().epoch());
            }
            (outputs, role)
        });
        let partition = &self.arbiters[a].partition;
        self.log.agrees(partition.state(), partition.known(), self.is_planted)?;
        if !(outputs.sends.is_empty() && outputs.acks.is_empty()) {
            let ledger = self.log.ledger();
            for outgoing in &outputs.sends {
                if outgoing.mark.is_some() {
                    on_the_record_first::addressed(&ledger, &outgoing.reply, &outgoing.to)?;
                }
                on_the_record_first::told(&ledger, &outgoing.reply)?;
                Once::default().told(&ledger, &outgoing.reply)?;
            }
            for id in &outputs.acks {
                NoLoss::default().acknowledged(&ledger, &self.queue.0[*id as usize].0.request)?;
            }
        }
        if !(outputs.acks.is_empty() && outputs.letters.is_empty()) {
            let now = self.now;
            self.queue.change(|queue| {
                outputs.acks.iter().for_each(|id| queue.0[*id as usize].1 = true);
                outputs.letters.into_iter().for_each(|letter| queue.push(None, letter, now));
            });
        }
        if let Some(why) = outputs.step_down {
            return self.stepped_down(a, why);
        }
        let arbiter = &self.arbiters[a];
        if role == Role::Activating
            && self.epoch_begun_since(arbiter.began, arbiter.partition.known().next_index)
        {
            return broken("epochs", "an arbiter goes on activating past another's epoch");
        }
        Ok(())
    }

    /// Whether one of these records begins an epoch.
    fn epoch_begun_since(&self, began: u64, upto: u64) -> bool {
        let epoch = |index| self.log.state_before(index).map_or(0, |state| state.epoch());
        epoch(began) < epoch(upto)
    }

    fn stepped_down(&mut self, a: usize, why: StepDown) -> Checked {
        let arbiter = &self.arbiters[a];
        let epoch = self.log.state().epoch();
        let begun = match arbiter.epoch {
            Some(own) => epoch > own,
            None => self.epoch_begun_since(arbiter.began, self.log.state().tip().next_index),
        };
        self.arbiters[a].change(|arbiter| {
            arbiter.restart();
            arbiter.superseded |= why == StepDown::Superseded;
        });
        match why {
            StepDown::Superseded if !begun => {
                broken("epochs", "an arbiter steps down, and no other epoch has begun")
            }
            _ => Ok(()),
        }
    }

    fn hear(&mut self, a: usize, c: usize, last: bool) {
        let now = self.now;
        let reply = match last {
            true => self.arbiters[a].change(|arbiter| arbiter.replies[c].pop_front()),
            false => self.arbiters[a].replies[c].front().cloned(),
        };
        if let Some((_, outgoing)) = reply {
            self.clients[c].change(|client| {
                client.core.reply(now, &outgoing.reply);
                client.drain(now);
            });
        }
    }

    fn arrive(&mut self, c: usize, last: bool) {
        let now = self.now;
        let request = match last {
            true => self.clients[c].change(|client| client.outbox.pop_front()),
            false => self.clients[c].outbox.front().cloned(),
        };
        if let Some((from, request)) = request {
            self.queue.change(|queue| queue.push(Some(from), request, now));
        }
    }

    fn force(&mut self) {
        self.left.forced -= 1;
        let Some(token) = self.log.in_force() else { return };
        let body = RequestBody::ForceRelease(ForceRelease {
            id: "operator".into(),
            resource: resource(),
            token,
            reason: "wanted".into(),
            now: false,
        });
        let now = self.now;
        self.queue.change(|queue| queue.push(None, Request { partition: 0, auth: None, body }, now));
    }

    fn write(&mut self, c: usize) -> Checked {
        let Some((token, floor)) = self.clients[c].change(|client| client.write.take()) else {
            return Ok(());
        };
        let ledger = self.log.ledger();
        let (mut history, fence) = (Fencing::default(), Fence::new(0));
        let write = |token, accepted| Write { resource: resource(), token, mode: Mode::Exclusive, accepted };
        for (by, before) in &self.written {
            let accepted = fence.check(*before, *before).is_ok();
            history.wrote(&ledger, &write(*before, accepted))?;
            if *before == token && *by != c {
                return broken("fencing", "two clients write with one token");
            }
        }
        let accepted = fence.check(token, floor).is_ok();
        history.wrote(&ledger, &write(token, accepted))?;
        match accepted {
            true => self.written.push((c, token)),
            false => self.fenced_off = true,
        }
        Ok(())
    }

    /// Whoever believes that it holds is the holder in the log, at every moment.
    fn beliefs(&self) -> Checked {
        let state = self.log.state();
        for (c, client) in self.clients.iter().enumerate() {
            for (_, token) in client.core.held(self.now) {
                if state.grant(token).is_none() {
                    // For its words.
                    belief::believes(&self.log.ledger(), c, token)?;
                }
            }
        }
        Ok(())
    }
}

fn resource() -> ResourceName {
    ResourceName::new("r").expect("a name")
}

fn broken(invariant: &'static str, what: &str) -> Checked {
    Err(Violation { invariant, what: what.to_owned() })
}
