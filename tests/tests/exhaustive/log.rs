//! The shared log: it takes whatever lands, the chain rule says what counts, and every record that counts is looked at.
//!
//! What `arbiterq::log::memory` does, in a value that can be copied: there, clones are one log.

use super::world::{Queue, WALL};
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::record::Event;
use arbiterq::state::{State, snapshot};
use arbiterq_client::wire::{
    Hash as RecordHash, LogId, Nonce, Reason, RequestBody, SessionId, Timestamp, Token,
};
use arbiterq_tests::invariants::ledger::EpochClock;
use arbiterq_tests::invariants::no_early_expiry::NoEarlyExpiry;
use arbiterq_tests::invariants::no_loss::NoLoss;
use arbiterq_tests::invariants::once::Once;
use arbiterq_tests::invariants::{Checked, Ledger, Violation, epochs, exclusion, fencing, order};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What arbiters append.
pub(super) type Entry = Arc<[Sealed]>;

/// What has happened in a log, for the checker to see that the model reaches it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) void: bool,
    pub(super) took_over: bool,
    pub(super) expired: bool,
    pub(super) revoking: bool,
    pub(super) suspended: bool,
    /// A grant in an epoch after the first, to another session than the one of the grant before.
    pub(super) passed_on: bool,
    last_holder: Option<(SessionId, Token)>,
}

/// Entries in the order in which they landed.
#[derive(Clone, Debug)]
pub(super) struct Log {
    entries: Vec<Entry>,
    /// The state after each record that counts.
    states: Vec<Arc<State>>,
    counting: Vec<Sealed>,
    /// When each activation was told its turn.
    activated: BTreeMap<Nonce, u64>,
    pub(super) facts: Facts,
}

/// Everything else follows from what landed and when.
impl Hash for Log {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let hashes: Vec<&RecordHash> = self.entries.iter().flat_map(|e| e.iter().map(|s| &s.hash)).collect();
        hashes.hash(state);
        self.activated.hash(state);
    }
}

impl Log {
    /// A log with its genesis.
    pub(super) fn new() -> Self {
        let genesis = arbiterq::serve::genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(WALL));
        let mut log = Self {
            entries: Vec::new(),
            states: Vec::new(),
            counting: Vec::new(),
            activated: BTreeMap::new(),
            facts: Facts::default(),
        };
        let landed = log.land(Arc::new([genesis]), &Queue::default(), 0);
        assert_eq!(landed, Ok(()), "a genesis");
        log
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn read(&self, position: usize) -> &[Entry] {
        &self.entries[position..]
    }

    /// The state as of the last record that counts.
    pub(super) fn state(&self) -> &State {
        self.states.last().expect("a genesis")
    }

    /// The grant in force.
    pub(super) fn in_force(&self) -> Option<Token> {
        self.facts.last_holder.map(|(_, token)| token).filter(|token| self.state().grant(*token).is_some())
    }

    /// The state before the record `next_index`.
    pub(super) fn state_before(&self, next_index: u64) -> Option<&State> {
        let last = usize::try_from(next_index.checked_sub(1)?).ok()?;
        self.states.get(last).map(|state| &**state)
    }

    pub(super) fn activated(&mut self, incarnation: Nonce, now: u64) {
        self.activated.insert(incarnation, now);
    }

    /// The counting records as the invariants see them.
    pub(super) fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        self.counting.iter().for_each(|sealed| self.fold(&mut ledger, sealed));
        ledger
    }

    fn fold(&self, ledger: &mut Ledger, sealed: &Sealed) {
        ledger.fold(sealed);
        for event in &sealed.record.events {
            if let Event::EpochStarted { incarnation, .. } = event {
                let now = self.activated.get(incarnation).copied().unwrap_or(0);
                ledger.clock = EpochClock { at: sealed.record.at, now, rate: 1000 };
            }
        }
    }

    /// An entry lands. If it counts, each of its records is checked.
    pub(super) fn land(&mut self, entry: Entry, queue: &Queue, now: u64) -> Checked {
        self.entries.push(entry.clone());
        let mut tip = self.states.last().map_or(ChainTip::before(0), |state| state.tip());
        if !tip.extend(&entry) {
            self.facts.void = true;
            return Ok(());
        }
        let mut ledger = self.ledger();
        let (mut once, mut expiry, mut loss) = (Once::default(), NoEarlyExpiry::default(), NoLoss::default());
        for message in queue.all() {
            once.sent(&message.request);
            loss.sent(&message.request);
            if let (RequestBody::KeepAlive(alive), Some(auth)) =
                (&message.request.body, &message.request.auth)
            {
                expiry.enqueued(auth.session, alive.n, message.enqueued);
            }
        }
        for sealed in entry.iter() {
            let record = &sealed.record;
            let before = self.states.last().cloned();
            let can_advance = before.as_ref().is_some_and(|state| state.can_advance());
            exclusion::record(&ledger, record, 1)?;
            fencing::Fencing::default().record(&ledger, record)?;
            once.record(&ledger, record)?;
            expiry.record(&ledger, record, now)?;
            loss.record(&ledger, record)?;
            epochs::Epochs::default().record(&ledger, record)?;
            order::record(&ledger, record, can_advance)?;
            self.fold(&mut ledger, sealed);
            let mut state = before.map_or_else(|| State::new(ChainTip::before(0)), |state| (*state).clone());
            state.fold(sealed);
            self.states.push(Arc::new(state));
            self.counting.push(sealed.clone());
            self.note(sealed);
        }
        Ok(())
    }

    fn note(&mut self, sealed: &Sealed) {
        let facts = &mut self.facts;
        for event in &sealed.record.events {
            match event {
                Event::EpochStarted { epoch, .. } => facts.took_over |= *epoch > 1,
                Event::SessionEnded { reason: Reason::LeaseExpired, .. } => facts.expired = true,
                Event::Revoking { .. } => facts.revoking = true,
                Event::Suspended { .. } => facts.suspended = true,
                Event::Granted { session, .. } => {
                    let holder = (*session, sealed.record.index);
                    let another = facts.last_holder.replace(holder).is_some_and(|last| last.0 != *session);
                    facts.passed_on |= facts.took_over && another;
                }
                _ => {}
            }
        }
    }

    /// Whether this partition, if it is at a record that counts, has made of the records what anybody makes of them.
    /// One with a wrong rule planted is compared by what a checkpoint would say: the rule itself is in the state.
    pub(super) fn agrees(&self, state: &State, known: ChainTip, is_planted: bool) -> Checked {
        let same = |own: &State| match is_planted {
            true => snapshot::write(own) == snapshot::write(state),
            false => own == state,
        };
        if state.tip() != known || self.state_before(known.next_index).is_none_or(same) {
            return Ok(());
        }
        let next = known.next_index;
        Err(Violation { invariant: "agreement", what: format!("two states of the records before {next}") })
    }
}
