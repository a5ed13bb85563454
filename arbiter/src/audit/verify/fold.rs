//! What the records so far have made, and what the next one may be.

use super::live::{Place, Request, Session};
use super::names::of_command;
use super::promise::{Broken, broken};
use super::report::Counts;
use super::resources::{Resources, Room, Turn};
use crate::log::record::{Command, Event, FORMAT, Genesis, RULES, Record};
use arbiterq_client::wire::{Hash, Nonce, SessionId, Timestamp, Token};
use foldhash::HashMap;
use std::collections::BTreeSet;

/// What the lock-delays that one record begins may take; a session that loses more at once gets none for the rest.
const DELAYED_BYTES_MAX: usize = 786_432;

/// All that is remembered of a log: what is live as of its tip.
#[derive(Clone, Default)]
pub(super) struct Fold {
    pub(super) genesis: Option<Genesis>,
    pub(super) tip: u64,
    pub(super) tip_hash: Hash,
    pub(super) first_at: Timestamp,
    pub(super) at: Timestamp,
    pub(super) epoch: u64,
    pub(super) epoch_index: u64,
    pub(super) epoch_at: Timestamp,
    incarnation: Option<Nonce>,
    rules: u32,
    /// The gaps between epochs so far. Deadlines other than leases and delays are kept without them, so that an
    /// epoch moves them all by its gap at once.
    gaps_micros: u64,
    pub(super) paused: bool,
    pub(super) closed: bool,
    pub(super) lease_ms_max: u64,
    pub(super) in_flight_max: u32,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) keys: HashMap<Hash, SessionId>,
    pub(super) requests: HashMap<Place, Request>,
    pub(super) grants: HashMap<Token, Place>,
    pub(super) resources: Resources,
    /// The waiters that can be granted. While there are any, the next record is `advance`.
    pub(super) ready: BTreeSet<Turn>,
    /// The resources on which this record lost a hold, and whether it delays them.
    pub(super) lost: Vec<(u32, bool)>,
    /// The checkpoint that this record names.
    pub(super) checkpoint: Option<(u64, Hash)>,
    pub(super) counts: Counts,
    found: Vec<Place>,
}

/// What an event is checked against beside the state.
pub(super) struct Cx<'a> {
    pub(super) index: u64,
    pub(super) at: Timestamp,
    pub(super) command: &'a Command,
}

impl Fold {
    /// Whether a record extends the chain.
    pub(super) fn extends(&self, record: &Record) -> Result<(), Broken> {
        if self.genesis.is_none() {
            return match record.events.as_slice() {
                [Event::Genesis(genesis)] if genesis.first_index != record.index => {
                    broken!(Evidence, "its index is {}, it says {}", record.index, genesis.first_index)
                }
                [Event::Genesis(_)] if record.prev != Hash::default() => {
                    broken!(Evidence, "a genesis that follows a record")
                }
                _ => Ok(()),
            };
        }
        if record.index != self.tip + 1 {
            return broken!(
                Evidence,
                "record {} follows record {}: a record is missing, doubled, or out of its place",
                record.index,
                self.tip
            );
        }
        if record.prev != self.tip_hash {
            return broken!(
                Evidence,
                "it names {} as the hash of record {}, which is {}: one of the two was changed",
                record.prev,
                self.tip,
                self.tip_hash
            );
        }
        Ok(())
    }

    /// Checks a record that extends the chain, and takes it.
    pub(super) fn take(&mut self, record: Record, hash: Hash) -> Result<(), Broken> {
        if self.genesis.is_none() {
            begins(&record)?;
        }
        if self.closed {
            return broken!(Evidence, "it follows the record that closed the log");
        }
        if record.at < self.at {
            return broken!(Time, "its time is {}, that of the record before is {}", record.at, self.at);
        }
        let begins_epoch = matches!(record.command, Command::Activate);
        if !begins_epoch && record.epoch != self.epoch {
            return broken!(Epochs, "its epoch is {}, the one begun last is {}", record.epoch, self.epoch);
        }
        if self.epoch == 0 && self.genesis.is_some() && !begins_epoch {
            return broken!(
                Epochs,
                "no epoch has begun, and its command is `{}`",
                of_command(&record.command)
            );
        }
        self.owed(&record.command)?;
        for (session, n) in &record.renewed {
            if let Some(session) = self.sessions.get_mut(session)
                && *n > session.n
            {
                session.n = *n;
                session.heard = record.at;
                session.unreachable = None;
            }
        }
        self.lost.clear();
        self.checkpoint = None;
        if matches!(record.command, Command::Advance) {
            // A lock-delay that ended since the record before may make an earlier waiter the first.
            self.at = record.at;
            self.settle();
        }
        self.count_events(&record)?;
        let cx = Cx { index: record.index, at: record.at, command: &record.command };
        // Also where nothing was due.
        if let Command::Tick { at } = cx.command {
            self.tick_counts(&cx, *at)?;
        }
        for event in record.events {
            self.event(&cx, record.epoch, event)?;
        }
        self.delays_begun()?;
        self.at = record.at;
        self.tip = record.index;
        self.tip_hash = hash;
        self.settle();
        Ok(())
    }

    /// While a waiter can be granted, the next record is `advance`; only an activation may come between.
    fn owed(&self, command: &Command) -> Result<(), Broken> {
        let Some(turn) = self.ready.first() else { return Ok(()) };
        match command {
            Command::Advance | Command::Activate => Ok(()),
            other => {
                let request = self.called(turn.place);
                broken!(
                    Order,
                    "{request} can be granted, so an `advance` is next; this is `{}`",
                    of_command(other)
                )
            }
        }
    }

    /// As many events as the command has: one of it what, beside delays, it did; any number under a tick.
    fn count_events(&self, record: &Record) -> Result<(), Broken> {
        let grants = record.events.iter().filter(|event| matches!(event, Event::Granted { .. })).count();
        if grants > 1 {
            return broken!(Fencing, "it grants {grants} requests, which would share one token");
        }
        let done = record.events.iter().filter(|event| !matches!(event, Event::Delayed { .. })).count();
        let (least, most) = match record.command {
            Command::Create | Command::Activate | Command::Policy | Command::Checkpoint | Command::Finish => {
                (1, 1)
            }
            Command::Acquire(_) | Command::Advance => (1, 1),
            Command::Barrier => (0, 0),
            Command::Tick { .. } => (0, crate::log::record::DUE_MAX),
            _ => (0, 1),
        };
        if !(least..=most).contains(&done) {
            let command = of_command(&record.command);
            return broken!(Decision, "a `{command}` has from {least} to {most} events, this one has {done}");
        }
        let turns = record.events.iter().filter_map(turn_in_tick);
        if matches!(record.command, Command::Tick { .. }) && !turns.is_sorted() {
            return broken!(Decision, "a tick ends sessions, then waits, then revokes, then releases");
        }
        Ok(())
    }

    /// Each resource with a lock-delay on which a hold was lost is delayed, as far as there is room for it.
    fn delays_begun(&self) -> Result<(), Broken> {
        // A resource that several grants were lost on is there as often.
        let begun: BTreeSet<_> =
            self.lost.iter().filter(|(_, delayed)| *delayed).map(|(id, _)| *id).collect();
        let bytes: usize = begun.iter().map(|id| delayed_bytes(self.resources.name(*id))).sum();
        if bytes > DELAYED_BYTES_MAX {
            return broken!(Withheld, "lock-delays that take {bytes} bytes, {DELAYED_BYTES_MAX} may be");
        }
        for (id, _) in &self.lost {
            let name = self.resources.name(*id);
            if !begun.contains(id)
                && self.resources.lock_delay_ms(*id) > 0
                && bytes + delayed_bytes(name) <= DELAYED_BYTES_MAX
            {
                return broken!(
                    Withheld,
                    "a hold on {name} was lost, its rule has a lock-delay, and none began"
                );
            }
        }
        Ok(())
    }

    /// What may be granted from here on, after all events of a record.
    fn settle(&mut self) {
        self.resources.end_delays(self.at);
        let mut found = std::mem::take(&mut self.found);
        while let Some(resource) = self.resources.next_changed() {
            if self.paused {
                continue;
            }
            found.clear();
            self.resources.with_room(resource, &mut found);
            for place in &found {
                if let Some(turn) = self.can_be_granted(*place) {
                    self.ready.insert(turn);
                }
            }
        }
        self.found = found;
        self.resources.free_idle();
    }

    fn can_be_granted(&self, place: Place) -> Option<Turn> {
        let request = self.requests.get(&place)?;
        let session = self.sessions.get(&request.session)?;
        let turn = Turn::new(request.priority, place);
        let fits = request.claims.iter().all(|claim| {
            self.resources.get(claim.resource).delay.is_none()
                && self.resources.allows(claim.resource, &session.principal)
                && matches!(self.resources.room(claim, turn), Room::Free)
        });
        fits.then_some(turn)
    }

    pub(super) fn begin(&mut self, cx: &Cx<'_>, genesis: Genesis) -> Result<(), Broken> {
        if self.genesis.is_some() {
            return broken!(Evidence, "a second genesis");
        }
        self.first_at = cx.at;
        let policy = crate::log::record::Policy::default();
        (self.lease_ms_max, self.in_flight_max) = (policy.lease_ms_max, policy.in_flight_max);
        self.genesis = Some(genesis);
        Ok(())
    }

    pub(super) fn epoch_started(
        &mut self,
        cx: &Cx<'_>,
        sealed_in: u64,
        epoch: u64,
        incarnation: Nonce,
        rules: u32,
    ) -> Result<(), Broken> {
        if epoch != self.epoch + 1 {
            return broken!(Epochs, "epoch {epoch} follows epoch {}", self.epoch);
        }
        if sealed_in != epoch {
            return broken!(Epochs, "it begins epoch {epoch} and says that it belongs to {sealed_in}");
        }
        if self.incarnation == Some(incarnation) {
            return broken!(Epochs, "the same incarnation as that of the epoch before");
        }
        if !(1..=RULES).contains(&rules) {
            return broken!(Understood, "decided by rules {rules}; this verifier knows 1 to {RULES}");
        }
        if rules < self.rules {
            return broken!(Epochs, "decided by rules {rules} after rules {}", self.rules);
        }
        self.gaps_micros += cx.at.as_micros() - self.at.as_micros();
        self.epoch = epoch;
        self.epoch_index = cx.index;
        self.epoch_at = cx.at;
        self.incarnation = Some(incarnation);
        self.rules = rules;
        self.counts.epochs += 1;
        self.resources.restart_delays(cx.at);
        Ok(())
    }

    /// Whether a deadline, kept without the gaps between epochs, is over at a moment. At the last moment that there
    /// is, all are: none goes beyond it.
    pub(super) fn is_due(&self, due: Timestamp, at: Timestamp) -> bool {
        self.gapless(at) >= due || at == Timestamp::from_micros(u64::MAX)
    }

    /// A moment without the gaps between epochs.
    pub(super) fn gapless(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_micros(at.as_micros().saturating_sub(self.gaps_micros))
    }

    /// A request as a text for people.
    pub(super) fn called(&self, place: Place) -> String {
        self.requests.get(&place).map_or_else(
            || format!("the request of record {place}"),
            |request| format!("request {} of session {} (place {place})", request.seq, request.session),
        )
    }
}

/// Whether a record may be the first of a log.
fn begins(record: &Record) -> Result<(), Broken> {
    let (Command::Create, [Event::Genesis(genesis)]) = (&record.command, record.events.as_slice()) else {
        return broken!(Evidence, "the log does not begin with a genesis");
    };
    if genesis.format != FORMAT {
        return broken!(Understood, "format {}; this verifier knows {FORMAT}", genesis.format);
    }
    if record.epoch != 0 || !record.renewed.is_empty() {
        return broken!(Evidence, "a genesis has epoch 0, and renews nobody");
    }
    if genesis.partition >= genesis.partitions {
        return broken!(Evidence, "partition {} of {}", genesis.partition, genesis.partitions);
    }
    if let Some(tip) = genesis.after.iter().find(|tip| tip.index >= genesis.first_index) {
        return broken!(
            Fencing,
            "it begins at {}, the log before it went to {}",
            genesis.first_index,
            tip.index
        );
    }
    Ok(())
}

/// When an event's turn is in a tick.
fn turn_in_tick(event: &Event) -> Option<u8> {
    match event {
        Event::SessionEnded { .. } => Some(0),
        Event::Ended { .. } => Some(1),
        Event::Revoking { .. } => Some(2),
        Event::Released { .. } => Some(3),
        _ => None,
    }
}

/// At most what a `delayed` of this resource takes in a record.
fn delayed_bytes(name: &str) -> usize {
    2 * name.len() + 80
}
