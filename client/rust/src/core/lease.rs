//! Until when a client may believe that its session lives.

use super::planted::{Planted, Plants};
use crate::clock::Micros;
use std::collections::VecDeque;

/// The margin is a twentieth of the lease: clock rates may differ by as much.
const MARGIN_PARTS: Micros = 20;
/// The least margin: below it, scheduling delays would eat it up.
const MARGIN_MIN: Micros = 20_000;
/// Keep-alives are sent at a quarter of the lease, so that three may fail.
const KEEP_ALIVE_PARTS: Micros = 4;
/// Whatever an arbiter says, keep-alives do not follow each other faster than this.
const KEEP_ALIVE_MIN: Micros = 10_000;
/// Keep-alives that are remembered without an answer. Beyond it the oldest is forgotten: its confirmation would
/// move the lease by less than a later one's.
const SENT_MAX: usize = 64;

/// A lease as its client counts it: from the *sending* of what the arbiter has confirmed.
#[derive(Clone, Debug, Hash)]
pub(super) struct Lease {
    /// How long it is, the margin taken off.
    length: Micros,
    keep_alive_every: Micros,
    /// When what was confirmed last was sent.
    from: Micros,
    /// It ran out, and no keep-alive sent since has been confirmed.
    lapsed: bool,
    /// Keep-alives without an answer, sent since the last lapse: number and moment.
    sent: VecDeque<(u64, Micros)>,
    last_n: u64,
    plants: Plants,
}

impl Lease {
    /// A lease of `length` as the arbiter counts it, from the first sending of `open`.
    pub(super) fn new(length: Micros, first_sent: Micros, plants: Plants) -> Self {
        let margin = (length / MARGIN_PARTS).max(MARGIN_MIN);
        Self {
            length: length.saturating_sub(margin),
            keep_alive_every: (length / KEEP_ALIVE_PARTS).max(KEEP_ALIVE_MIN),
            from: first_sent,
            lapsed: false,
            sent: VecDeque::new(),
            last_n: 0,
            plants,
        }
    }

    /// When belief ends, if nothing more is confirmed.
    pub(super) fn until(&self) -> Micros {
        self.from.saturating_add(self.length)
    }

    /// Whether what is held may be believed at `now`.
    pub(super) fn in_force(&self, now: Micros) -> bool {
        !self.lapsed && now < self.until()
    }

    pub(super) fn lapsed(&self) -> bool {
        self.lapsed
    }

    pub(super) fn keep_alive_every(&self) -> Micros {
        self.keep_alive_every
    }

    /// It ran out. What was sent before cannot bring it back.
    pub(super) fn lapse(&mut self) {
        self.lapsed = true;
        if !self.plants.has(Planted::AnyAliveRevives) {
            self.sent.clear();
        }
    }

    /// The number of the keep-alive that is sent at `now`.
    pub(super) fn send(&mut self, now: Micros) -> u64 {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.last_n += 1;
        self.sent.push_back((self.last_n, now));
        self.last_n
    }

    /// The number that the last keep-alive had.
    pub(super) fn last_n(&self) -> u64 {
        self.last_n
    }

    /// When the oldest keep-alive was sent that has no answer.
    pub(super) fn waiting_since(&self) -> Option<Micros> {
        self.sent.front().map(|(_, at)| *at)
    }

    /// The arbiter says that keep-alive `n` counts. True if that moved the lease.
    pub(super) fn confirm(&mut self, n: u64, now: Micros) -> bool {
        let wanted = if self.plants.has(Planted::AliveConfirmsTheLatest) { self.last_n } else { n };
        let Some((_, sent_at)) = self.sent.iter().find(|(sent, _)| *sent == wanted).copied() else {
            return false;
        };
        self.sent.retain(|(sent, _)| *sent > wanted);
        let from = if self.plants.has(Planted::LeaseFromArrival) { now } else { sent_at };
        self.from = self.from.max(from);
        // So late that the new lease is over as well: then a lapse is not healed.
        self.lapsed &= now >= self.until();
        true
    }

    /// A planted bug: `granted` moves the lease.
    pub(super) fn restart(&mut self, now: Micros) {
        self.from = self.from.max(now);
        self.lapsed = false;
    }
}
