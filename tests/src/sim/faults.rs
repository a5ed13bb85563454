//! What goes wrong, how it is made well again, and what must be so at the end.

use super::mix::{Fault, MS, SECOND, Store};
use super::world::{Event, Phase, World};
use crate::invariants::liveness::{self, Left};
use arbiterq::partition::Address;

/// After so long everything that was asked is decided: several times the longest repeat of a client.
const HEALED_AFTER: u64 = 120 * SECOND;

impl World {
    /// One fault, and the next one is due.
    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Faulty {
            return;
        }
        let at = self.now + 1 + self.dice.around(self.mix.every);
        self.at(at, Event::Fault);
        let weights: u64 = self.mix.faults.iter().map(|(_, weight)| weight).sum();
        let mut left = self.dice.below(weights);
        let chosen = self.mix.faults.iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        let Some((fault, _)) = chosen else { return };
        let fault = *fault;
        if self.inflict(fault) {
            self.note(|| format!("FAULT {fault:?}"));
            *self.stats.faults.entry(fault).or_default() += 1;
        }
    }

    fn inflict(&mut self, fault: Fault) -> bool {
        let arbiter = self.dice.below(self.arbiters.len() as u64) as usize;
        let client = self.dice.below(self.clients.len() as u64) as usize;
        let lease = self.mix.work.lease;
        match fault {
            Fault::ArbiterCrash | Fault::IoError => {
                if self.arbiters[arbiter].partition.is_none() {
                    return false;
                }
                self.crash_arbiter(arbiter);
                let at = self.now + 50 * MS + self.dice.around(SECOND);
                self.at(at, Event::ArbiterStart { arbiter });
            }
            Fault::Rot => {
                if self.arbiters[arbiter].partition.is_none() {
                    return false;
                }
                self.crash_arbiter(arbiter);
                self.arbiters[arbiter].rotten = true;
                self.rotted = true;
                self.at(self.now + 300 * MS, Event::ArbiterStart { arbiter });
            }
            Fault::Stop => {
                let own = &mut self.clients[client];
                if own.core.is_none() || self.now < own.paused_until {
                    return false;
                }
                own.slow_until = self.now + 3 * SECOND;
                let life = own.life;
                let at = self.now + SECOND / 2 + self.dice.below(2 * SECOND);
                self.at(at, Event::Freeze { client, life });
            }
            Fault::Truncate => self.truncate(),
            Fault::ArbiterPause => {
                let long = self.dice.one_in(4);
                let pause = if long { self.dice.below(2 * lease) } else { self.dice.around(300 * MS) };
                let own = &mut self.arbiters[arbiter];
                if own.partition.is_none() || self.now < own.paused_until {
                    return false;
                }
                own.paused_until = self.now + pause;
            }
            Fault::ClientCrash => {
                if self.clients[client].core.is_none() {
                    return false;
                }
                self.end_client(client);
                let at = self.now + 20 * MS + self.dice.around(SECOND);
                self.at(at, Event::ClientStart { client });
            }
            Fault::ClientPause => {
                let long = self.dice.one_in(3);
                let pause = if long { self.dice.below(2 * lease) } else { self.dice.around(300 * MS) };
                let own = &mut self.clients[client];
                if own.core.is_none() || self.now < own.paused_until {
                    return false;
                }
                own.paused_until = self.now + pause;
            }
            Fault::Cut => {
                let own = &self.clients[client];
                // A connection without a proxy does not end by itself.
                if own.connections.is_empty() || own.present || self.now < own.paused_until {
                    return false;
                }
                let address = own.connections.last().map(|last| format!("c{client}.{last}"));
                let loses = self.mix.store == Store::File || self.dice.one_in(2);
                self.cut(client, loses);
                if let Some(address) = address.filter(|_| self.mix.store == Store::File) {
                    self.connection_closed(&address.into());
                }
            }
            Fault::Roam => {
                let own = &mut self.clients[client];
                // One at a time.
                if own.core.is_none() || own.connections.len() != 1 || self.now < own.paused_until {
                    return false;
                }
                own.old_connection = own.connections[0];
                own.lingers_until = self.now + 3 * SECOND;
                self.connect_soon(client, 500 * MS);
            }
            Fault::Vanish => self.clients[client].connections.clear(),
            Fault::Steal => return self.steal(),
            Fault::BrokerRestart => {
                for arbiter in 0..self.arbiters.len() {
                    let channel = self.arbiters[arbiter].channel;
                    self.queue.close(channel);
                    self.lose_channel(arbiter, 20 * MS);
                }
                (0..self.clients.len()).for_each(|client| self.cut(client, true));
            }
            Fault::ClockJump => {
                let jump = self.dice.around(600 * SECOND);
                let own = &mut self.arbiters[arbiter];
                own.wall_offset = match self.dice.one_in(2) {
                    true => own.wall_offset + jump,
                    false => own.wall_offset.saturating_sub(jump),
                };
            }
            Fault::Block => {
                self.blocked_until = self.now + lease * 3 / 4 + self.dice.below(lease);
            }
            Fault::LoseAppends => {
                self.arbiters[arbiter].lose_until = self.now + self.dice.around(200 * MS);
            }
        }
        true
    }

    /// A client that has heard late for a while stands still.
    pub(super) fn freeze(&mut self, client: usize, life: u64) {
        let lease = self.mix.work.lease;
        if self.clients[client].life != life || self.phase != Phase::Faulty {
            return;
        }
        if self.mix.store == Store::Stream && self.dice.one_in(2) {
            self.clients[client].connections.clear();
        }
        self.clients[client].paused_until = self.now + self.dice.between(lease / 4, 2 * lease);
    }

    /// The broker loses the last of what it confirmed. Whoever has folded that notices when it connects again, and
    /// stops for good: the run is over. By the wrong rule it goes on.
    fn truncate(&mut self) {
        let lost = self.dice.between(1, 4) as usize;
        let records = self.log.truncate(lost);
        if !self.is_planted(super::plant::Around::FoldedTrusted) {
            self.phase = Phase::Over;
            return;
        }
        self.watch.ledger.truncate(records);
        let end = self.log.end();
        self.arbiters.iter_mut().for_each(|arbiter| arbiter.read = arbiter.read.min(end));
    }

    fn crash_arbiter(&mut self, arbiter: usize) {
        self.note(|| format!("arbiter {arbiter} crashes"));
        let channel = self.arbiters[arbiter].channel;
        if self.mix.store == Store::File {
            self.tear(arbiter);
            self.queue.forget();
        }
        let own = &mut self.arbiters[arbiter];
        own.partition = None;
        own.life += 1;
        own.paused_until = 0;
        self.queue.close(channel);
        if self.mix.store == Store::File {
            (0..self.clients.len()).for_each(|client| {
                if self.clients[client].core.is_some() {
                    self.cut(client, true);
                }
            });
        }
        self.give();
    }

    /// The broker gives the queue to another, and the one before goes on for a while.
    fn steal(&mut self) -> bool {
        let Some(consumer) = self.queue.consumer() else { return false };
        if self.arbiters.len() < 2 {
            return false;
        }
        self.queue.close(consumer.channel);
        self.lose_channel(consumer.arbiter, SECOND);
        true
    }

    fn lose_channel(&mut self, arbiter: usize, within: u64) {
        let life = self.arbiters[arbiter].life;
        let at = self.now + MS + self.dice.around(within);
        self.at(at, Event::ChannelLost { arbiter, life });
        self.give();
    }

    /// A socket ended. Only where that is its process's end does it tell anything.
    pub(super) fn connection_closed(&mut self, address: &Address) {
        let planted = self.is_planted(super::plant::Around::AnyCloseIsDeath);
        let Some((client, _)) = super::wires::client_of(address) else { return };
        let present = self.clients[client].present;
        if !present && !planted {
            return;
        }
        if present {
            self.watch.no_loss.connection_ended(address);
        }
        self.close_at(0, address);
    }

    /// Faults are over; whoever is down is started, whoever stands still goes on.
    pub(super) fn heal(&mut self) {
        self.phase = Phase::Healing(self.now);
        self.note(|| "HEAL".to_owned());
        for arbiter in 0..self.arbiters.len() {
            // What was put off until a pause's end comes then, and no later.
            let until = self.arbiters[arbiter].paused_until.max(self.now);
            self.at(until, Event::ArbiterStart { arbiter });
        }
        for client in 0..self.clients.len() {
            self.at(self.now, Event::ClientStart { client });
        }
        self.at(self.now + SECOND, Event::Check);
    }

    pub(super) fn check_end(&mut self) {
        let patience = HEALED_AFTER + 6 * self.mix.work.lease;
        match self.phase {
            Phase::Healing(since) => {
                let left = Left {
                    undecided: self.clients.iter().flat_map(|client| client.left(false)).collect(),
                    unsettled: self.clients.iter().flat_map(|client| client.left(true)).collect(),
                    queued: self.queue.len(),
                    leaderless: !self.arbiters.iter().any(super::arbiter::Arbiter::is_active),
                };
                if liveness::healed(&left).is_ok() {
                    self.bury();
                } else if self.now > since + patience {
                    let checked = liveness::healed(&left);
                    self.check(checked);
                    self.bury();
                }
                self.at(self.now + 500 * MS, Event::Check);
            }
            Phase::Burying(since) => {
                if liveness::buried(&self.watch.ledger).is_ok() {
                    self.phase = Phase::Over;
                } else if self.now > since + 4 * self.mix.work.lease + 30 * SECOND {
                    let checked = liveness::buried(&self.watch.ledger);
                    self.check(checked);
                    self.phase = Phase::Over;
                }
                self.at(self.now + SECOND, Event::Check);
            }
            Phase::Faulty | Phase::Over => {}
        }
    }

    /// All clients die, and with them the arbiter that is active, if there is another.
    fn bury(&mut self) {
        self.phase = Phase::Burying(self.now);
        self.note(|| "all clients die".to_owned());
        for client in 0..self.clients.len() {
            self.clients[client].buried = true;
            self.end_client(client);
        }
        let active = self.arbiters.iter().position(super::arbiter::Arbiter::is_active);
        if let (Some(active), true) = (active, self.arbiters.len() > 1) {
            self.crash_arbiter(active);
        }
    }
}
