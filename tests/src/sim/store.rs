//! The log store: where entries land, what is lost on the way, and what proves that a record counts.
//!
//! - A stream takes every entry; it is proven by reading it back.
//! - A topic does, too, and reports each entry's offset: exactly the next one proves, in the order of sending;
//!   anything else ends that, and the log is read from there.
//! - A file has one writer. What was synced stays; of the rest a crash leaves a beginning, perhaps a torn line.

use super::mix::{Came, MS, SECOND, Store};
use super::plant::Around;
use super::world::{Event, World};
use crate::invariants::belief;
use crate::invariants::ledger::EpochClock;
use arbiterq::log::chain::Sealed;
use arbiterq::log::record::Event as LogEvent;
use arbiterq::partition::Entry;
use arbiterq::state::snapshot;
use arbiterq_client::wire::Nonce;
use std::collections::VecDeque;
use std::rc::Rc;

/// Records between two checkpoints.
const CHECKPOINT_RECORDS: u64 = 2000;

/// Entries in the order in which they landed; those before the last checkpoint are not kept.
#[derive(Debug, Default)]
pub(super) struct Log {
    base: usize,
    entries: VecDeque<Rc<Vec<Sealed>>>,
    checkpoint: Option<Checkpoint>,
    checkpoint_at: u64,
}

/// What a restart begins with.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    /// The entries after it.
    pub(super) position: usize,
    pub(super) body: Rc<Vec<u8>>,
    pub(super) upto: u64,
}

impl Log {
    pub(super) fn end(&self) -> usize {
        self.base + self.entries.len()
    }

    pub(super) fn entry(&self, position: usize) -> Option<Rc<Vec<Sealed>>> {
        self.entries.get(position.checked_sub(self.base)?).cloned()
    }

    /// For a wrong rule: a checkpoint of whatever is said to be the state after all that is there.
    pub(super) fn put_checkpoint(&mut self, body: Vec<u8>, upto: u64) {
        self.checkpoint = Some(Checkpoint { position: self.end(), body: Rc::new(body), upto });
    }

    /// Loses the last entries; how many records they had that count, if all of them did.
    pub(super) fn truncate(&mut self, lost: usize) -> usize {
        let kept = self.entries.len().saturating_sub(lost);
        self.entries.drain(kept..).map(|entry| entry.len()).sum()
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint.clone()
    }
}

/// The number by which an epoch's beginning is remembered.
fn of_nonce(nonce: &Nonce) -> u64 {
    nonce.0.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl World {
    /// The genesis is there before anybody.
    pub(super) fn begin_log(&mut self) {
        let wall = arbiterq_client::wire::Timestamp::from_micros(1_000_000);
        let genesis = arbiterq::serve::genesis(self.log_id, 0, super::world::PARTITIONS, wall);
        self.put(Rc::new(vec![genesis]));
    }

    /// An arbiter appends an entry.
    pub(super) fn append(&mut self, arbiter: usize, entry: Entry) {
        let now = self.now;
        for event in entry.records.first().into_iter().flat_map(|sealed| &sealed.record.events) {
            if let LogEvent::EpochStarted { incarnation, .. } = event {
                let rate = self.arbiters[arbiter].rate;
                self.epochs.insert(of_nonce(incarnation), (now, rate));
            }
        }
        if self.mix.store == Store::File {
            let own = &mut self.arbiters[arbiter];
            own.unsynced.extend(entry.records);
            if !own.sync_due {
                own.sync_due = true;
                let (life, at) = (own.life, now + 300 + self.dice.below(700));
                let at =
                    if self.comes(Came::AppendLate, self.noise().append_late) { at + 200 * MS } else { at };
                self.at(at, Event::Sync { arbiter, life });
            }
            return;
        }
        let noise = self.noise();
        let late = self.comes(Came::AppendLate, noise.append_late);
        let delay = 150 + self.dice.below(400) + if late { self.dice.below(SECOND) } else { 0 };
        let lost = self.comes(Came::AppendLose, noise.append_lose) || now < self.arbiters[arbiter].lose_until;
        let double = self.comes(Came::AppendDouble, noise.append_double);
        let entry: Rc<Vec<Sealed>> = Rc::new(entry.records);
        let last = entry.last().map_or(0, |sealed| sealed.record.index);
        let own = &mut self.arbiters[arbiter];
        let (life, at) = (own.life, own.last_land.max(now + delay));
        own.last_land = at;
        if self.mix.store == Store::Topic {
            own.outstanding.push_back(last);
        }
        if own.resending {
            own.resent.push(entry.clone());
        }
        if lost {
            self.note(|| format!("arbiter {arbiter}: its entry up to {last} is lost"));
            if self.arbiters[arbiter].resent.is_empty() && self.dice.one_in(2) {
                // Its library notices, and sends it again with all that followed it.
                let own = &mut self.arbiters[arbiter];
                own.resending = true;
                own.resent.push(entry);
                let at = now + 300 + self.dice.around(10 * MS);
                self.at(at, Event::Resend { arbiter });
            }
            return;
        }
        if double {
            let again = at + self.dice.around(100 * MS);
            self.at(again, Event::Land { arbiter, life, entry: entry.clone() });
        }
        self.at(at, Event::Land { arbiter, life, entry });
    }

    /// A library sends again what it has no confirmation of.
    pub(super) fn resend(&mut self, arbiter: usize) {
        let own = &mut self.arbiters[arbiter];
        own.resending = false;
        let (entries, life, now) = (std::mem::take(&mut own.resent), own.life, self.now);
        for entry in entries {
            let own = &mut self.arbiters[arbiter];
            own.last_land = own.last_land.max(now + 200);
            let at = own.last_land;
            self.at(at, Event::Land { arbiter, life, entry });
        }
    }

    /// An entry is at the store. Whether its arbiter still lives does not matter to it.
    pub(super) fn land(&mut self, arbiter: usize, life: u64, entry: Rc<Vec<Sealed>>) {
        let offset = self.log.end();
        let last = entry.last().map_or(0, |sealed| sealed.record.index);
        self.put(entry);
        let confirmed = self.is_planted(Around::ProvenByConfirm) || self.is_planted(Around::NoChainRule);
        if self.mix.store == Store::Topic || confirmed {
            let late = self.comes(Came::AppendLate, self.noise().append_late);
            let at = self.now + 50 + self.dice.below(200) + if late { self.dice.below(SECOND) } else { 0 };
            self.at(at, Event::Report { arbiter, life, last, offset });
        }
        for reader in 0..self.arbiters.len() {
            self.read_soon(reader);
        }
    }

    /// At the end of the log. Whether it counts is for the chain rule.
    pub(super) fn put(&mut self, entry: Rc<Vec<Sealed>>) {
        let counts = self.watch.ledger.counts(&entry) || self.is_planted(Around::NoChainRule);
        self.log.entries.push_back(entry.clone());
        if !counts {
            self.stats.void += 1;
            self.note(|| {
                let (index, epoch) = entry.first().map_or((0, 0), |s| (s.record.index, s.record.epoch));
                format!("void: an entry from {index} on, of epoch {epoch}")
            });
            return;
        }
        for sealed in entry.iter() {
            self.count(sealed);
        }
        let next = self.watch.ledger.next_index();
        if next >= self.log.checkpoint_at + CHECKPOINT_RECORDS {
            self.log.checkpoint_at = next;
            let upto = entry.iter().filter_map(|sealed| sealed.record.upto).max();
            let kept = self.log.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.upto);
            let upto = self.upto.max(upto.map_or(kept, |upto| upto + 1));
            let body = Rc::new(snapshot::write(self.shadow()));
            self.log.checkpoint = Some(Checkpoint { position: self.log.end(), body, upto });
            // Whoever has not read so far yet is not far behind.
            let needed = self.arbiters.iter().filter(|own| own.partition.is_some()).map(|own| own.read);
            let needed = needed.min().unwrap_or(usize::MAX).min(self.log.end());
            while self.log.base < needed {
                self.log.entries.pop_front();
                self.log.base += 1;
            }
        }
    }

    /// A record counts.
    fn count(&mut self, sealed: &Sealed) {
        let record = &sealed.record;
        self.trail.note(self.now, || {
            let (index, epoch, events) = (record.index, record.epoch, &record.events);
            format!(
                "record {index} of epoch {epoch}: {:?} -> {events:?} renewed {:?}",
                record.command, record.renewed
            )
        });
        if let Some(upto) = record.upto {
            self.upto = self.upto.max(upto + 1);
        }
        let can_advance = self.shadow().can_advance();
        let checked = self.watch.record(sealed, can_advance, self.now);
        if checked.is_err() {
            return self.check(checked);
        }
        self.fold(sealed);
        for event in &record.events {
            match event {
                LogEvent::EpochStarted { incarnation, .. } => {
                    self.stats.epochs += 1;
                    let (now, rate) =
                        self.epochs.get(&of_nonce(incarnation)).copied().unwrap_or((self.now, 1000));
                    self.watch.ledger.clock = EpochClock { at: record.at, now, rate };
                }
                LogEvent::SessionEnded { .. } => self.stats.expired += 1,
                LogEvent::Suspended { .. } => self.stats.suspended += 1,
                _ => {}
            }
        }
        for at in 0..self.watch.ledger.ended.len() {
            let ended = self.watch.ledger.ended[at];
            if let Some(client) = self.believers.get(&ended.token).copied() {
                let believed = self.clients[client].believes(ended.token, self.now);
                if believed && ended.excused {
                    continue;
                }
                let checked = belief::ended(client, ended.token, record.index, believed);
                self.check(checked);
            }
        }
    }

    /// The file is synced: what was written counts.
    pub(super) fn sync(&mut self, arbiter: usize) {
        let own = &mut self.arbiters[arbiter];
        own.sync_due = false;
        let records = std::mem::take(&mut own.unsynced);
        let Some(last) = records.last().map(|sealed| sealed.record.index) else { return };
        // In a file every line counts for itself.
        self.put(Rc::new(records));
        let now = self.arbiters[arbiter].uptime(self.now);
        self.arbiters[arbiter].read = self.log.end();
        if let Some(partition) = &mut self.arbiters[arbiter].partition {
            partition.proven(last, now);
        }
        self.after_input(arbiter);
    }

    /// A crash leaves a beginning of what was not synced, and perhaps the beginning of a line.
    pub(super) fn tear(&mut self, arbiter: usize) {
        let mut unsynced = std::mem::take(&mut self.arbiters[arbiter].unsynced);
        self.arbiters[arbiter].sync_due = false;
        let whole = self.dice.below(unsynced.len() as u64 + 1) as usize;
        if let Some(torn) = unsynced.get(whole) {
            let bytes = self.dice.below(torn.line.len() as u64) as usize;
            // A beginning of a line is no record, wherever it ends.
            let read = Sealed::read(&torn.line[..bytes]);
            assert!(read.is_err(), "a torn line reads as a record");
        }
        unsynced.truncate(whole);
        if !unsynced.is_empty() {
            self.put(Rc::new(unsynced));
        }
    }
}
