//! What is under way: messages to the request queue, replies to their addresses, and what comes back.

use super::mix::{Came, MS, SECOND, Store};
use super::world::{Event, Phase, Posted, World};
use arbiterq::partition::Outgoing;
use arbiterq_client::wire::{Cause, Gone, Nonce, Request, RequestBody, Tick, Timestamp};

/// A reply under way.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) client: usize,
    pub(super) connection: u64,
    pub(super) outgoing: Outgoing,
    pub(super) arbiter: usize,
    pub(super) life: u64,
}

/// The client and connection of an address.
pub(super) fn client_of(address: &str) -> Option<(usize, u64)> {
    let (client, connection) = address.strip_prefix('c')?.split_once('.')?;
    Some((client.parse().ok()?, connection.parse().ok()?))
}

impl World {
    /// Something arrives that is no client's: an operator's command, or a letter that nobody sent.
    pub(super) fn stray(&mut self, request: Request) {
        let at = self.now + self.dice.around(50 * MS);
        let posted = Posted { from: None, client: None, present: false, request };
        self.at(at, Event::Arrive(Box::new(posted)));
    }

    /// A message is at the queue.
    pub(super) fn arrive(&mut self, posted: Posted) {
        if self.now < self.blocked_until {
            // All that waits comes in when it may, in no order between senders; each sender's in its own.
            let late = self.now.saturating_sub(self.blocked_until.saturating_sub(60 * SECOND)) / 1000;
            let turn = posted.client.map_or(0, |(client, _)| 40 * MS + client as u64 * 10 * MS);
            let at = self.blocked_until + turn + late;
            return self.at(at, Event::Arrive(Box::new(posted)));
        }
        if let Some((client, connection)) = posted.client
            && self.clients[client].lost_connection == connection
        {
            return;
        }
        let noise = self.noise();
        if self.comes(Came::Forge, noise.forge) {
            self.forge(&posted);
        }
        if let (RequestBody::KeepAlive(keep_alive), Some(auth)) = (&posted.request.body, &posted.request.auth)
        {
            self.watch.no_early_expiry.enqueued(auth.session, keep_alive.n, self.now);
        }
        self.queue.enqueue(posted.from, posted.present, posted.request);
        self.give();
    }

    /// Anybody can write to the queue.
    pub(super) fn forge(&mut self, posted: &Posted) {
        let nonce = Nonce(self.dice.bytes());
        let at = Timestamp::from_micros(3_800_000_000 * SECOND);
        let session = posted.request.auth.as_ref().map_or(0, |auth| auth.session);
        let body = match self.dice.one_in(2) {
            true => RequestBody::Tick(Tick { nonce, at }),
            false => {
                let cause = Cause::Returned;
                RequestBody::Gone(Gone { nonce, session, seq: Some(1), n: 0, cause })
            }
        };
        self.stray(Request { partition: 0, auth: None, body });
    }

    /// A reply is on its way. When it will be there.
    pub(super) fn reply_leaves(
        &mut self,
        arbiter: usize,
        life: u64,
        (client, connection): (usize, u64),
        outgoing: Outgoing,
        after: u64,
    ) -> u64 {
        let noise = self.noise();
        let late = if self.comes(Came::ReplyLate, noise.reply_late) { self.dice.around(SECOND) } else { 0 };
        let own = &self.clients[client];
        let slow = self.now < own.slow_until || connection <= own.old_connection;
        let slow = slow && self.phase == Phase::Faulty;
        let late = late + if slow { 200 * MS + self.dice.below(SECOND) } else { 0 };
        let at = after.max(self.now + 150 + self.dice.below(600) + late);
        let returns = self.mix.store == Store::Stream && outgoing.mark.is_some();
        if returns && self.comes(Came::FalseReturn, noise.false_return) {
            let mark = Box::new(outgoing.mark.unwrap_or_else(|| unreachable!("it was looked at")));
            self.at(at, Event::Returned { arbiter, life, mark });
            return at;
        }
        if self.comes(Came::ReplyDouble, noise.reply_double) {
            let again = at + self.dice.around(SECOND);
            let outgoing = Outgoing { mark: None, ..outgoing.clone() };
            let parcel = Parcel { client, connection, outgoing, arbiter, life };
            self.at(again, Event::Reply(Box::new(parcel)));
        }
        self.at(at, Event::Reply(Box::new(Parcel { client, connection, outgoing, arbiter, life })));
        at
    }

    /// A reply is at its queue: taken, kept while its client stands still, or given back.
    pub(super) fn reply_arrives(&mut self, parcel: Box<Parcel>) {
        let client = &mut self.clients[parcel.client];
        let is_there = client.core.is_some() && client.connections.contains(&parcel.connection);
        if !is_there {
            if self.mix.store == Store::Stream
                && let Some(mark) = parcel.outgoing.mark
            {
                let (arbiter, life) = (parcel.arbiter, parcel.life);
                let at = self.now + 200 + self.dice.below(500);
                self.at(at, Event::Returned { arbiter, life, mark: Box::new(mark) });
            }
            return;
        }
        if self.now < client.paused_until {
            let until = client.paused_until;
            return self.at(until, Event::Reply(parcel));
        }
        let mine = client.mine(self.now);
        let was_in_force = client.core.as_ref().is_some_and(|core| core.deadline(mine).is_some());
        if let Some(core) = &mut client.core {
            core.reply(mine, &parcel.outgoing.reply);
            let revived = !was_in_force && core.deadline(mine).is_some();
            self.drain(parcel.client);
            self.heard(parcel.client, &parcel.outgoing.reply);
            if revived {
                self.check_beliefs(parcel.client);
            }
        }
    }
}
