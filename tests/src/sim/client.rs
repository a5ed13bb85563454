//! A client program: the library's own core, the driver around it, and the user who asks, uses and gives back.

use super::dice::Dice;
use super::mix::{Came, Fault, MS, Mix, SECOND, Store};
use super::plant::{Around, Plant};
use super::world::{Event, Phase, Posted, World};
use crate::invariants::belief;
use crate::invariants::fencing::Write;
use arbiterq::partition::Address;
use arbiterq_client::core::{
    Address as Place, Ask, Event as Told, Output, RequestId, SessionConfig, SessionCore,
};
use arbiterq_client::wire::{
    Claim, ForceRelease, Granted, Reply, ReplyBody, Request, RequestBody, SessionKey, Token,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a user does by and by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Asks for something.
    Ask,
    /// Withdraws it, or gives it back.
    Release(RequestId),
    /// Writes to what it holds, if it believes that it does.
    Write(RequestId),
}

struct Job {
    claims: Vec<Claim>,
    asked_at: u64,
    granted: Option<Granted>,
    over: bool,
}

/// One program.
pub(super) struct Client {
    number: usize,
    pub(super) life: u64,
    pub(super) core: Option<SessionCore>,
    /// Its boot-time clock: where it began, and its rate in thousandths.
    offset: u64,
    rate: u64,
    pub(super) paused_until: u64,
    /// Until then it hears late.
    pub(super) slow_until: u64,
    /// What comes on a connection up to this one comes late.
    pub(super) old_connection: u64,
    /// Until then it hears what earlier connections still bring.
    pub(super) lingers_until: u64,
    /// The highest epoch that it has heard of, and the grants that it was told are lost.
    heard: u64,
    lost: BTreeSet<Token>,
    /// Its open reply queues, or connections; the last is the present one.
    pub(super) connections: Vec<u64>,
    address: Option<Address>,
    pub(super) connecting: bool,
    made: u64,
    last_arrive: u64,
    /// What was sent on this connection and has not arrived is lost.
    pub(super) lost_connection: u64,
    /// No proxy stands between: the end of its connection is its own.
    pub(super) present: bool,
    fail_fast_ms: Option<u64>,
    jobs: BTreeMap<RequestId, Job>,
    asked: RequestId,
    wake_at: u64,
    /// Somebody said that it will never run again.
    pub(super) buried: bool,
}

impl Client {
    pub(super) fn new(number: usize, dice: &mut Dice, mix: &Mix) -> Self {
        let fails_fast = dice.below(100) < mix.work.fail_fast;
        Self {
            number,
            life: 0,
            core: None,
            offset: 1_000_000 + dice.below(3600 * SECOND),
            // Within the margin of the arbiters' clocks.
            rate: dice.between(970, 1035),
            paused_until: 0,
            slow_until: 0,
            old_connection: 0,
            lingers_until: 0,
            heard: 0,
            lost: BTreeSet::new(),
            connections: Vec::new(),
            address: None,
            connecting: false,
            made: 0,
            last_arrive: 0,
            lost_connection: 0,
            present: mix.store == Store::File && number % 2 == 1,
            fail_fast_ms: fails_fast.then_some(1500),
            jobs: BTreeMap::new(),
            asked: 0,
            wake_at: u64::MAX,
            buried: false,
        }
    }

    pub(super) fn mine(&self, now: u64) -> u64 {
        self.offset + now * self.rate / 1000
    }

    fn true_time(&self, mine: u64) -> u64 {
        mine.saturating_sub(self.offset).saturating_mul(1000).div_ceil(self.rate)
    }

    pub(super) fn believes(&self, token: Token, now: u64) -> bool {
        self.core.as_ref().is_some_and(|core| core.believes(token, self.mine(now)))
    }

    /// What has no end yet: requests that are undecided; or those that are not, and have begun to end.
    pub(super) fn left(&self, decided: bool) -> impl Iterator<Item = String> {
        let jobs = self.jobs.iter().filter(move |(_, job)| (job.granted.is_some() || job.over) == decided);
        jobs.map(|(request, job)| {
            format!(
                "client {} request {request} since {}: {:?}",
                self.number,
                job.asked_at / 1000,
                job.claims
            )
        })
    }
}

impl World {
    pub(super) fn start_client(&mut self, number: usize) {
        let planted = match self.setup.plant {
            Some(Plant::Client(planted)) => Some(planted),
            _ => None,
        };
        let (jitter, lease_ms) = (self.dice.any(), self.mix.work.lease / 1000);
        let client = &mut self.clients[number];
        if client.core.is_some() || client.buried {
            return;
        }
        client.life += 1;
        let core = SessionCore::new(SessionConfig {
            partition: 0,
            label: format!("client-{number}-{}", client.life),
            lease_ms,
            fail_fast_ms: client.fail_fast_ms,
            jitter,
        });
        client.core = Some(match planted {
            Some(planted) => core.with_planted(planted),
            None => core,
        });
        client.jobs.clear();
        client.wake_at = u64::MAX;
        client.connecting = false;
        client.connections.clear();
        client.address = None;
        client.heard = 0;
        client.lost.clear();
        let life = client.life;
        self.note(|| format!("client {number} starts, life {life}"));
        self.connect_soon(number, 2 * MS);
        let ill = self.mix.faults.iter().any(|(fault, _)| *fault == Fault::Stop) && self.dice.one_in(3);
        if ill && self.phase == Phase::Faulty {
            // It hears late from the beginning, and stops soon.
            self.clients[number].slow_until = self.now + 3 * SECOND;
            let at = self.now + SECOND + self.dice.below(3 * SECOND);
            self.at(at, Event::Freeze { client: number, life });
        }
        if self.phase == Phase::Faulty {
            let at = self.now + self.dice.around(self.mix.work.think);
            self.at(at, Event::Do { client: number, life, action: Action::Ask });
        }
    }

    /// The process is over; nobody is told.
    pub(super) fn end_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.core = None;
        client.life += 1;
        client.jobs.clear();
        client.address = None;
        let ended = std::mem::take(&mut client.connections);
        self.believers.retain(|_, believer| *believer != number);
        self.sockets_end(number, ended);
    }

    pub(super) fn connect_soon(&mut self, number: usize, delay: u64) {
        let at = self.now + MS + self.dice.below(delay.max(1));
        let client = &mut self.clients[number];
        if !std::mem::replace(&mut client.connecting, true) {
            let life = client.life;
            self.at(at, Event::Connect { client: number, life });
        }
    }

    /// The connection is gone, its reply queue with it, and the client knows.
    pub(super) fn cut(&mut self, number: usize, loses: bool) {
        let now = self.now;
        let client = &mut self.clients[number];
        if loses && let Some(last) = client.connections.last() {
            client.lost_connection = *last;
        }
        client.connections.clear();
        client.address = None;
        let mine = client.mine(now);
        if let Some(core) = &mut client.core {
            core.disconnected(mine);
        }
        self.drain(number);
        self.connect_soon(number, 500 * MS);
    }

    /// An event of a client: later if it stands still, never if it is over.
    pub(super) fn client_event(&mut self, number: usize, life: u64, event: Event) {
        let client = &mut self.clients[number];
        if client.life != life || client.core.is_none() {
            return;
        }
        if self.now < client.paused_until {
            let until = client.paused_until;
            return self.at(until, event);
        }
        match event {
            Event::ClientWake { .. } => {
                client.wake_at = u64::MAX;
                let mine = client.mine(self.now);
                if let Some(core) = &mut client.core {
                    core.tick(mine);
                }
            }
            Event::Connect { .. } => {
                client.connecting = false;
                self.connect(number);
            }
            Event::Do { action, .. } => self.act(number, action),
            other => unreachable!("{other:?} is of no client"),
        }
        self.drain(number);
    }

    /// A new connection with a reply queue of a new name.
    fn connect(&mut self, number: usize) {
        let down =
            self.mix.store == Store::File && self.arbiters.iter().all(|arbiter| arbiter.partition.is_none());
        if down {
            return self.connect_soon(number, 300 * MS);
        }
        let now = self.now;
        let client = &mut self.clients[number];
        client.made += 1;
        client.connections.push(client.made);
        let address: Address = Arc::from(format!("c{number}.{}", client.made));
        let place = Place { reply_to: Some(address.to_string()), peer: None };
        client.address = Some(address);
        client.last_arrive = now;
        let mine = client.mine(now);
        if let Some(core) = &mut client.core {
            core.connected(mine, place);
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Ask => self.ask(number),
            Action::Release(request) => {
                let now = self.now;
                let client = &mut self.clients[number];
                let mine = client.mine(now);
                if let Some(job) = client.jobs.get_mut(&request) {
                    job.over = true;
                    if let Some(granted) = &job.granted {
                        self.believers.remove(&granted.token);
                    }
                }
                if let Some(core) = &mut client.core {
                    core.release(mine, request);
                }
            }
            Action::Write(request) => self.write(number, request),
        }
    }

    fn write(&mut self, number: usize, request: RequestId) {
        let client = &self.clients[number];
        let Some(job) = client.jobs.get(&request) else { return };
        let Some(granted) = job.granted.as_ref().filter(|_| !job.over) else { return };
        if !client.believes(granted.token, self.now) {
            return;
        }
        let which = self.dice.below(job.claims.len() as u64) as usize;
        let (resource, mode) = (job.claims[which].resource.clone(), job.claims[which].mode);
        let write = Write { resource, token: granted.token, mode, accepted: false };
        let floor = granted.floors[which];
        // It looked at its clock; what it does then may come late.
        let slow = self.dice.one_in(20);
        let at = self.now
            + 200
            + if slow { self.dice.below(2 * self.mix.work.lease) } else { self.dice.below(MS) };
        self.at(at, Event::Write(Box::new((write, floor))));
    }

    fn ask(&mut self, number: usize) {
        if self.phase != Phase::Faulty {
            return;
        }
        let (work, now) = (self.mix.work, self.now);
        let life = self.clients[number].life;
        let next = now + 1 + self.dice.around(work.think);
        self.at(next, Event::Do { client: number, life, action: Action::Ask });
        if self.clients[number].jobs.len() >= work.at_once {
            return;
        }
        let dice = &mut self.dice;
        let mut percent = |of: u64| dice.below(100) < of;
        let (limited, tries) = (percent(work.wait), percent(work.tries));
        let (hold_max, ranked, cancels) =
            (percent(work.hold_max), percent(work.priority), percent(work.cancel));
        let wait = match (tries, limited) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(Duration::from_millis(self.dice.between(50, 1500))),
            _ => None,
        };
        let hold_max = hold_max.then(|| Duration::from_millis(self.dice.between(50, 400)));
        let priority = if ranked { self.dice.below(4) as u8 } else { 0 };
        let claims = self.claims();
        let ask = Ask { claims: claims.clone(), wait, hold_max, priority, ..Ask::default() };
        let client = &mut self.clients[number];
        client.asked += 1;
        let request = client.asked;
        client.jobs.insert(request, Job { claims, asked_at: now, granted: None, over: false });
        let mine = client.mine(now);
        if let Some(core) = &mut client.core {
            core.acquire(mine, request, ask);
        }
        if cancels {
            let at = now + self.dice.around(10 * MS);
            self.at(at, Event::Do { client: number, life, action: Action::Release(request) });
        }
    }

    /// Does what the core says, and wakes it when it wants.
    pub(super) fn drain(&mut self, number: usize) {
        loop {
            let client = &mut self.clients[number];
            let mine = client.mine(self.now);
            let Some(core) = &mut client.core else { return };
            let Some(output) = core.poll() else { break };
            match output {
                Output::Send(request) => self.send(number, request),
                Output::KeyWanted => core.open(mine, SessionKey::random(self.dice.bytes())),
                Output::AttachWanted { fresh: false } if self.mix.store == Store::File => {
                    let place = client
                        .address
                        .as_ref()
                        .map(|to| Place { reply_to: Some(to.to_string()), peer: None });
                    if let Some(place) = place {
                        core.connected(mine, place);
                    }
                }
                Output::AttachWanted { .. } => self.connect_soon(number, 5 * MS),
                Output::Event(event) => self.told(number, event),
                other => unreachable!("{other:?} is not known here"),
            }
        }
        let now = self.now;
        let mut dropped = Vec::new();
        let client = &mut self.clients[number];
        let Some(core) = &client.core else { return };
        if client.connections.len() > 1 && core.settled() && now >= client.lingers_until {
            dropped = client.connections.drain(..client.connections.len() - 1).collect();
        }
        if let Some(wake) = core.next_wake() {
            let at = client.true_time(wake).max(now + 1);
            if at < client.wake_at {
                client.wake_at = at;
                let life = client.life;
                self.at(at, Event::ClientWake { client: number, life });
            }
        }
        self.sockets_end(number, dropped);
    }

    /// Sockets that their process has closed say so, after what it had sent on them.
    fn sockets_end(&mut self, number: usize, ended: Vec<u64>) {
        if self.mix.store != Store::File {
            return;
        }
        for connection in ended {
            let at = self.clients[number].last_arrive.max(self.now) + 200;
            self.at(at, Event::Closed { address: Arc::from(format!("c{number}.{connection}")) });
        }
    }

    fn send(&mut self, number: usize, request: Request) {
        self.watch.sent(&request);
        let client = &self.clients[number];
        let Some(address) = client.address.clone() else { return };
        let connection = client.made;
        let noise = self.noise();
        if self.comes(Came::Lose, noise.lose) && self.mix.store != Store::File {
            return;
        }
        let late = if self.comes(Came::Late, noise.late) { self.dice.around(SECOND) } else { 0 };
        let double = self.comes(Came::Double, noise.double) && self.mix.store != Store::File;
        let delay = 200 + self.dice.below(800) + late;
        let client = &mut self.clients[number];
        client.last_arrive = client.last_arrive.max(self.now + delay);
        let by_wrong_rule = self.setup.plant == Some(Plant::Around(Around::AnyCloseIsDeath));
        let (at, present) = (client.last_arrive, client.present || by_wrong_rule);
        let roams = self.phase == Phase::Faulty && self.now < client.lingers_until;
        if roams && matches!(request.body, RequestBody::Attach(_)) {
            // The new connection is no better: what follows the attach is late.
            client.last_arrive += self.dice.between(300 * MS, 2 * SECOND);
        }
        if double {
            let posted =
                Posted { from: Some(address.clone()), client: None, present, request: request.clone() };
            let again = at + self.dice.around(SECOND);
            self.at(again, Event::Arrive(Box::new(posted)));
        }
        let posted = Posted { from: Some(address), client: Some((number, connection)), present, request };
        self.at(at, Event::Arrive(Box::new(posted)));
    }

    fn told(&mut self, number: usize, event: Told) {
        self.trail.note(self.now, || format!("client {number} is told {event:?}"));
        let life = self.clients[number].life;
        match event {
            Told::Granted { request, granted, .. } => {
                let checked = belief::believes(&self.watch.ledger, number, granted.token);
                self.check(checked);
                let lost = &self.clients[number].lost;
                let in_spite = belief::in_spite_of_loss(lost, number, granted.token);
                self.check(in_spite);
                self.watch.evidence.receipt(granted.token, granted.hash);
                self.stats.believed += 1;
                self.believers.insert(granted.token, number);
                self.use_grant(number, request, granted);
            }
            Told::Lost { request, token, reason } => {
                let checked = belief::lost(&self.watch.ledger, number, token, reason);
                self.check(checked);
                self.believers.remove(&token);
                // Its user stops, and says so.
                let at = self.now + self.dice.below(20 * MS);
                self.at(at, Event::Do { client: number, life, action: Action::Release(request) });
                self.clients[number].jobs.remove(&request);
            }
            Told::Ended { request, .. } | Told::Settled { request, .. } => {
                self.clients[number].jobs.remove(&request);
            }
            Told::Believed { .. } => self.check_beliefs(number),
            Told::SessionOpened { genesis, .. } => {
                let checked = belief::same_log(self.log_id, genesis);
                self.check(checked);
            }
            _ => {}
        }
    }

    /// Belief goes on: in what is in force.
    pub(super) fn check_beliefs(&mut self, number: usize) {
        let client = &self.clients[number];
        let tokens: Vec<Token> = client
            .jobs
            .values()
            .filter_map(|job| job.granted.as_ref().map(|granted| granted.token))
            .collect();
        for token in tokens {
            if self.clients[number].believes(token, self.now) {
                let checked = belief::believes(&self.watch.ledger, number, token);
                self.check(checked);
                let lost = &self.clients[number].lost;
                let checked = belief::in_spite_of_loss(lost, number, token);
                self.check(checked);
            }
        }
    }

    /// A reply has come to its client, and has done what it does there.
    pub(super) fn heard(&mut self, number: usize, reply: &Reply) {
        let client = &mut self.clients[number];
        let is_news = reply.epoch >= client.heard;
        client.heard = client.heard.max(reply.epoch);
        let ReplyBody::Lost(lost) = &reply.body else { return };
        let session = client.core.as_ref().and_then(SessionCore::session).map(|(session, _)| session);
        // What an arbiter of the past says is not heeded, nor what is said to another session.
        if is_news && reply.session.is_some() && reply.session == session {
            client.lost.insert(lost.token);
            self.check_beliefs(number);
        }
    }

    fn use_grant(&mut self, number: usize, request: RequestId, granted: Granted) {
        let (life, now, work) = (self.clients[number].life, self.now, self.mix.work);
        let Some(job) = self.clients[number].jobs.get_mut(&request) else { return };
        let (token, resource) = (granted.token, job.claims[0].resource.clone());
        job.granted = Some(granted);
        let hold = self.dice.around(work.hold);
        let first = now + self.dice.below(hold.min(5 * MS) + 1);
        self.at(first, Event::Do { client: number, life, action: Action::Write(request) });
        if self.dice.one_in(4) {
            let second = now + self.dice.below(hold + 1);
            self.at(second, Event::Do { client: number, life, action: Action::Write(request) });
        }
        // Some forget to give back, until their lease or their limit is over.
        let is_ill = now < self.clients[number].slow_until && self.dice.one_in(2);
        let long = self.phase == Phase::Faulty && (is_ill || self.dice.one_in(200));
        let at = now + hold + if long { self.mix.work.lease * 2 } else { 0 };
        self.at(at, Event::Do { client: number, life, action: Action::Release(request) });
        if self.dice.below(100) < work.forced && self.phase == Phase::Faulty {
            let body = RequestBody::ForceRelease(ForceRelease {
                id: "operator".into(),
                resource,
                token,
                reason: "wanted".into(),
                now: self.dice.one_in(4),
            });
            self.stray(Request { partition: 0, auth: None, body });
        }
    }
}
