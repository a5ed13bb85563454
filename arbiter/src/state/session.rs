//! Live sessions: leases, addresses, and the rule "Once".

use super::grant::{Known, Outcome};
use super::table::Small;
use crate::log::record::Event;
use arbiterq_client::wire::{Hash, Principal, Reason, Seq, Timestamp, Token};
use std::collections::VecDeque;
use std::sync::Arc;

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub(super) key_hash: Hash,
    pub(super) principal: Principal,
    pub(super) label: Arc<str>,
    pub(super) lease_ms: u64,
    pub(super) fail_fast_ms: Option<u64>,
    pub(super) in_flight_max: u32,
    pub(super) opened_at: Timestamp,
    pub(super) n: u64,
    pub(super) attached: u64,
    pub(super) reply_to: Option<Arc<str>>,
    /// The moment of the last renewal, or of the opening.
    pub(super) heard_at: Timestamp,
    /// The moment from which the lease runs: that, or the start of the epoch if it is later.
    pub(super) lease_from: Timestamp,
    /// When nobody was found at the address.
    pub(super) unreachable_at: Option<Timestamp>,
    pub(super) requests: Requests,
}

impl Session {
    /// As an `opened` at a moment says it.
    pub(super) fn of(event: &Event, at: Timestamp) -> Option<Self> {
        let Event::Opened {
            key_hash,
            lease_ms,
            fail_fast_ms,
            in_flight_max,
            label,
            principal,
            principal_by,
            reply_to,
        } = event
        else {
            return None;
        };
        Some(Self {
            key_hash: *key_hash,
            principal: Principal { name: principal.clone(), by: *principal_by },
            label: label.clone(),
            lease_ms: *lease_ms,
            fail_fast_ms: *fail_fast_ms,
            in_flight_max: *in_flight_max,
            opened_at: at,
            n: 0,
            attached: 0,
            reply_to: reply_to.clone(),
            heard_at: at,
            lease_from: at,
            unreachable_at: None,
            requests: Requests::new(*in_flight_max),
        })
    }

    /// The hash of its key.
    pub fn key_hash(&self) -> &Hash {
        &self.key_hash
    }

    /// Whose it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What people see.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// How long it lives without word from it.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// How soon it ends once nobody was found at its address, if it asked for that.
    pub fn fail_fast_ms(&self) -> Option<u64> {
        self.fail_fast_ms
    }

    /// How many requests may be unanswered, waiting or held.
    pub fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    /// The highest keep-alive that counts.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The highest `attach` that counts; 0 is the address of its `open`.
    pub fn attached(&self) -> u64 {
        self.attached
    }

    /// The address in force.
    pub fn reply_to(&self) -> Option<&Arc<str>> {
        self.reply_to.as_ref()
    }

    /// Whether nobody was at its address.
    pub fn unreachable(&self) -> bool {
        self.unreachable_at.is_some()
    }

    /// When its lease runs out, if nothing more is heard from it.
    pub fn lease_until(&self) -> Timestamp {
        self.lease_from.plus_ms(self.lease_ms)
    }

    /// When it ends, if nothing more is heard from it, and why.
    pub(super) fn due(&self) -> (Timestamp, Reason) {
        let lease = self.lease_until();
        let fail_fast = self.unreachable_at.zip(self.fail_fast_ms).map(|(at, ms)| at.plus_ms(ms));
        match fail_fast.filter(|fail_fast| *fail_fast < lease) {
            Some(fail_fast) => (fail_fast, Reason::FailFast),
            None => (lease, Reason::LeaseExpired),
        }
    }
}

/// A request that is neither over nor new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Live {
    /// Its place.
    Waiting(u64),
    /// Its grant.
    Held(Token),
}

/// The request numbers of a session. None is decided twice.
///
/// A number is known to be seen because it is live, or its outcome is kept, or it is W or more below the highest
/// seen. The last 2W outcomes are kept, but none within W of the highest is dropped: a session has at most W of
/// those, so there is always another one to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Requests {
    /// W.
    window: u32,
    highest: Option<Seq>,
    live: Small<Seq, Live>,
    /// In the order of their ends.
    outcomes: VecDeque<(Seq, Outcome)>,
}

impl Requests {
    pub(super) fn new(window: u32) -> Self {
        Self { window, ..Self::default() }
    }

    /// As they were written down; what is live is added.
    pub(super) fn restored(window: u32, highest: Seq, outcomes: VecDeque<(Seq, Outcome)>) -> Self {
        Self { window, highest: Some(highest), live: Small::default(), outcomes }
    }

    pub(super) fn known(&self, seq: Seq) -> Known {
        // Nearly all come in with the next number.
        if self.highest.is_none_or(|highest| seq > highest) {
            return Known::New;
        }
        match self.live.get(&seq) {
            Some(Live::Waiting(_)) => return Known::Waiting,
            Some(Live::Held(token)) => return Known::Held(*token),
            None => {}
        }
        match self.outcomes.iter().rev().find(|(over, _)| *over == seq) {
            Some((_, outcome)) => Known::Over(*outcome),
            None if self.is_old(seq) => Known::Forgotten,
            None => Known::New,
        }
    }

    pub(super) fn live(&self, seq: Seq) -> Option<Live> {
        self.live.get(&seq).copied()
    }

    /// Requests that wait or hold, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, Live)> {
        self.live.iter().map(|(seq, live)| (*seq, *live))
    }

    pub(super) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(super) fn highest(&self) -> Option<Seq> {
        self.highest
    }

    /// Kept outcomes, in the order of the ends.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Seq, Outcome)> {
        self.outcomes.iter().copied()
    }

    /// How a grant that is over ended.
    pub(super) fn token_outcome(&self, token: Token) -> Option<Reason> {
        self.outcomes.iter().rev().find_map(|(_, outcome)| match outcome {
            Outcome::Released(over, reason) if *over == token => Some(*reason),
            _ => None,
        })
    }

    /// A request waits, or holds.
    pub(super) fn set_live(&mut self, seq: Seq, live: Live) {
        self.see(seq);
        self.live.insert(seq, live);
    }

    /// A request is over.
    pub(super) fn set_over(&mut self, seq: Seq, outcome: Outcome) {
        self.see(seq);
        self.live.remove(&seq);
        // Room is made first: the new one is then written where the memory of the old one is at hand.
        let most = 2 * self.window as usize;
        if self.outcomes.len() >= most {
            // The first, unless the client does not keep to its window.
            let old = self.outcomes.iter().position(|(seq, _)| self.is_old(*seq)).unwrap_or(0);
            self.outcomes.remove(old);
        }
        if most > 0 {
            self.outcomes.push_back((seq, outcome));
        }
    }

    /// A number was seen.
    pub(super) fn see(&mut self, seq: Seq) {
        self.highest = self.highest.max(Some(seq));
    }

    /// W or more below the highest seen.
    fn is_old(&self, seq: Seq) -> bool {
        self.highest.is_some_and(|highest| seq.saturating_add(self.window.into()) <= highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        // Any client, also one that keeps to no window.
        #[test]
        fn no_number_is_new_twice(window in 0..5u32, seqs in prop::collection::vec((0..40u64, any::<bool>()), 0..200)) {
            let (mut requests, mut seen) = (Requests::new(window), BTreeSet::new());
            for (seq, over) in seqs {
                match requests.known(seq) {
                    Known::New => {
                        prop_assert!(seen.insert(seq));
                        match over || requests.live_count() >= window as usize {
                            true => requests.set_over(seq, Outcome::Refused(Reason::Busy)),
                            false => requests.set_live(seq, Live::Waiting(seq)),
                        }
                    }
                    Known::Waiting if over => requests.set_over(seq, Outcome::Ended(Reason::Cancelled)),
                    _ => {}
                }
                prop_assert!(requests.outcomes.len() <= 2 * window as usize);
            }
        }
    }
}
