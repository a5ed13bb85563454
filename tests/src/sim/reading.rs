//! How an arbiter hears of its log: by reading it, or by what a topic reports of the entries that it sent.

use super::mix::{MS, SECOND, Store};
use super::plant::Around;
use super::world::{Event, World};
use arbiterq::partition::Role;
use arbiterq_client::wire::{Request, RequestBody};

impl World {
    pub(super) fn read_soon(&mut self, arbiter: usize) {
        if self.mix.store == Store::File {
            return;
        }
        let end = self.log.end();
        let own = &mut self.arbiters[arbiter];
        let proves = self.mix.store == Store::Topic && own.proves && own.role != Role::Standby;
        if own.partition.is_none() || own.read_due || proves || own.read >= end {
            return;
        }
        own.read_due = true;
        let (life, is_standby) = (own.life, own.role == Role::Standby);
        let delay = if is_standby { 5 * MS + self.dice.below(15 * MS) } else { 150 + self.dice.below(400) };
        self.at(self.now + delay, Event::Read { arbiter, life });
    }

    pub(super) fn read(&mut self, arbiter: usize) {
        self.arbiters[arbiter].read_due = false;
        self.read_all(arbiter);
        self.after_input(arbiter);
    }

    /// Reads to the end of the log.
    pub(super) fn read_all(&mut self, arbiter: usize) {
        let now = self.uptime(arbiter);
        let remember = self.is_planted(Around::VoidRemembered);
        loop {
            let own = &mut self.arbiters[arbiter];
            let (Some(partition), Some(entry)) = (&mut own.partition, self.log.entry(own.read)) else {
                break;
            };
            own.read += 1;
            let first = entry.first().map(|sealed| sealed.hash).unwrap_or_default();
            if remember && own.void.contains(&first) {
                continue;
            }
            let before = partition.known();
            partition.observe(&entry, now);
            let known = partition.known();
            if known == before {
                own.void.insert(first);
                continue;
            }
            own.last_record_at = self.now;
            own.upto =
                entry.iter().filter_map(|sealed| sealed.record.upto).fold(own.upto, |n, p| n.max(p + 1));
            let (role, began) = (partition.role(), own.began);
            if role != Role::SteppedDown {
                let checked = self.watch.evidence.read(&self.watch.ledger, arbiter, known);
                self.check(checked);
            }
            if self.arbiters[arbiter].read == self.log.end() && role != Role::SteppedDown {
                let checked = self.watch.evidence.read_all(&self.watch.ledger, arbiter, known);
                self.check(checked);
            }
            if role == Role::Activating {
                let checked = self.watch.epochs.still_activating(began, known.next_index);
                self.check(checked);
            }
        }
    }

    /// What the store says of an entry that was sent to it.
    pub(super) fn report(&mut self, arbiter: usize, last: u64, offset: usize) {
        let now = self.uptime(arbiter);
        let last_plus_one = self.is_planted(Around::LastPlusOne);
        let is_topic = self.mix.store == Store::Topic;
        let own = &mut self.arbiters[arbiter];
        let Some(partition) = &mut own.partition else { return };
        if !is_topic {
            // A confirm proves nothing; by the wrong rule it does.
            if matches!(own.role, Role::Active | Role::Activating)
                && last < partition.state().tip().next_index + 1
            {
                partition.proven(last, now);
                self.after_input(arbiter);
            }
            return;
        }
        if !own.proves {
            return;
        }
        let is_next = own.outstanding.front() == Some(&last) || last_plus_one;
        if offset == own.read && is_next {
            own.read += 1;
            while own.outstanding.pop_front_if(|first| *first <= last).is_some() {}
            partition.proven(last, now);
        } else if offset < own.read {
            // A copy of what is proven.
        } else {
            own.proves = false;
            self.note(|| format!("arbiter {arbiter}: a gap before offset {offset}; it reads from here on"));
            self.read_all(arbiter);
        }
        self.after_input(arbiter);
    }

    pub(super) fn nudge(&mut self, arbiter: usize) {
        let life = self.arbiters[arbiter].life;
        self.at(self.now + SECOND, Event::Nudge { arbiter, life });
        let own = &self.arbiters[arbiter];
        let idle = self.now - own.last_record_at > SECOND && own.role == Role::Standby;
        if idle && !self.is_planted(Around::NoNudge) && self.mix.store == Store::Stream {
            let nudge = RequestBody::Nudge(arbiterq_client::wire::Nudge {});
            self.post(arbiter, Request { partition: 0, auth: None, body: nudge });
        }
    }
}
