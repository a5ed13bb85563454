//! Sessions and requests that are live: all that is remembered of them, and nothing of those that are over.

use super::promise::{Broken, broken};
use super::resources::Taken;
use arbiterq_client::wire::{Hash, OwnerRef, Reason, Seq, SessionId, Timestamp, Token};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A request's place in every wait queue: the index of the record that queued it, or that granted it at once.
/// No two requests share one, so it also names the request here.
pub(super) type Place = u64;

/// A live session.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) key_hash: Hash,
    pub(super) principal: Arc<str>,
    pub(super) lease_ms: u64,
    pub(super) fail_fast_ms: Option<u64>,
    pub(super) in_flight_max: u32,
    /// The last keep-alive that counts and the moment it counts from; an epoch that began later counts instead.
    pub(super) n: u64,
    pub(super) heard: Timestamp,
    /// The number of the address in force.
    pub(super) attached: u64,
    /// The epoch in which nobody was found at its address, and when.
    pub(super) unreachable: Option<(u64, Timestamp)>,
    pub(super) seen: Seen,
    /// Waiting and held.
    pub(super) live: BTreeMap<Seq, Place>,
    pub(super) suspended: usize,
}

/// A live request.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) session: SessionId,
    pub(super) seq: Seq,
    pub(super) priority: u8,
    pub(super) owner: Option<OwnerRef>,
    pub(super) claims: Vec<Taken>,
    /// In the log's time without the gaps between epochs, like all deadlines here.
    pub(super) wait_due: Option<Timestamp>,
    pub(super) wait_ms: Option<u64>,
    pub(super) hold_max_ms: Option<u64>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) value: Option<Arc<str>>,
    pub(super) standing: Standing,
}

/// Where a live request stands.
#[derive(Clone)]
pub(super) enum Standing {
    Waiting,
    Suspended,
    Held(Hold),
}

/// A grant in force.
#[derive(Clone)]
pub(super) struct Hold {
    pub(super) token: Token,
    pub(super) hold_due: Option<Timestamp>,
    pub(super) revoking: Option<Revoking>,
}

/// A holder's right is over.
#[derive(Clone)]
pub(super) struct Revoking {
    pub(super) reason: Reason,
    pub(super) by: Option<Arc<str>>,
    pub(super) due: Timestamp,
}

/// The request numbers of a session that can still be told apart: those not `in_flight_max` or more below the
/// highest. A lower one is never decided.
#[derive(Clone)]
pub(super) struct Seen {
    highest: Option<Seq>,
    width: u64,
    /// One bit a number, at its remainder by the number of bits.
    ring: Vec<u64>,
}

impl Seen {
    pub(super) fn new(in_flight_max: u32) -> Self {
        let width = u64::from(in_flight_max.max(1));
        // Grown when numbers come, so that a session that asks for nothing costs nothing.
        Self { highest: None, width, ring: Vec::new() }
    }

    /// Uses up a number.
    pub(super) fn take(&mut self, session: SessionId, seq: Seq) -> Result<(), Broken> {
        if self.ring.is_empty() {
            self.ring = vec![0; usize::try_from(self.width.div_ceil(64)).unwrap_or(usize::MAX)];
        }
        let bits = 64 * self.ring.len() as u64;
        match self.highest {
            Some(highest) if seq <= highest => {
                if highest - seq >= self.width {
                    return broken!(
                        Once,
                        "request {seq} of session {session} is decided although {highest} was seen, {} or more above",
                        self.width
                    );
                }
                if self.bit(seq, bits) {
                    return broken!(Once, "request {seq} of session {session} is decided a second time");
                }
            }
            Some(highest) => {
                for skipped in highest + 1..=seq.min(highest.saturating_add(bits)) {
                    self.ring[(skipped % bits / 64) as usize] &= !(1 << (skipped % 64));
                }
                self.highest = Some(seq);
            }
            None => self.highest = Some(seq),
        }
        self.ring[(seq % bits / 64) as usize] |= 1 << (seq % 64);
        Ok(())
    }

    fn bit(&self, seq: Seq, bits: u64) -> bool {
        self.ring[(seq % bits / 64) as usize] >> (seq % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_once_in_any_order() {
        for width in [1, 3, 64, 100] {
            let mut seen = Seen::new(width);
            let width = u64::from(width);
            for seq in [width, 1, 5 * width, 4 * width + 1, 5 * width + 1, 1000] {
                if seen.highest.is_none_or(|highest| seq > highest || highest - seq < width) {
                    let fresh = seen.take(7, seq).is_ok();
                    assert!(fresh || width == 1, "{seq} of {width}");
                }
                assert!(seen.take(7, seq).is_err(), "{seq} of {width}");
            }
            assert!(seen.take(7, 1000 - width).is_err());
        }
    }

    #[test]
    fn every_number_in_the_window_is_told_apart() {
        let mut seen = Seen::new(100);
        assert!(seen.take(7, 250).is_ok());
        for seq in 151..250 {
            assert!(seen.take(7, seq).is_ok(), "{seq}");
        }
        assert!(seen.take(7, 150).is_err());
        assert!(seen.take(7, 200).is_err());
    }
}
