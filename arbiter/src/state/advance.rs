//! Whose turn it is.
//!
//! The state keeps the exact set of waiters that can be granted, so that `advance` takes the first of it and the
//! answer to "can anybody be granted?" costs nothing. It is brought up to date at the end of each record, by
//! looking only where the record freed something:
//!
//! - A waiter becomes grantable only when something that stood in its way goes: a holder, an earlier waiter, a
//!   delay, its own suspension, a pause, a policy. Each is noted ([`Freed`]).
//! - Granting one does not change what the others can have: it held already "as if". So the set shrinks by one
//!   with each `advance`, and is empty when other commands are decided.
//! - A walk along a line ends where nothing fits beside holders and earlier waiters, and starts where something
//!   was freed: a cancellation behind a holder looks at nobody.

use super::State;
use super::fold::permits_of;
use super::grant::Waiter;
use super::line::Turn;
use super::resource::{Resource, ResourceKey};
use arbiterq_client::wire::{Mode, Timestamp};
use std::collections::BTreeSet;

/// What a record freed.
#[derive(Debug, Default)]
pub(super) struct Freed {
    spots: Vec<(ResourceKey, Spot)>,
    /// Waiters to look at whatever was freed.
    pub(super) again: BTreeSet<Turn>,
    /// Every waiter may be grantable.
    pub(super) everywhere: bool,
}

/// What was freed on one resource.
#[derive(Clone, Copy, Debug)]
struct Spot {
    /// Nothing changed for those before this turn.
    from: Turn,
    exclusive: bool,
    shared: bool,
    permits: u64,
}

impl Spot {
    const ALL: Self = Self { from: Turn::FIRST, exclusive: true, shared: true, permits: u64::MAX };

    fn join(&mut self, other: Self) {
        self.from = self.from.min(other.from);
        self.exclusive |= other.exclusive;
        self.shared |= other.shared;
        self.permits = self.permits.saturating_add(other.permits);
    }
}

impl Freed {
    /// For a state of which nothing is known yet.
    pub(super) fn everything() -> Self {
        Self { everywhere: true, ..Self::default() }
    }

    /// A holder (from the first turn) or a waiter left a resource.
    pub(super) fn note(
        &mut self,
        key: &ResourceKey,
        resource: &Resource,
        from: Turn,
        mode: Mode,
        permits: u32,
    ) {
        if resource.line.is_empty() {
            return;
        }
        let none = Spot { from, exclusive: false, shared: false, permits: 0 };
        let spot = match mode {
            Mode::Exclusive => Spot { exclusive: true, ..none },
            Mode::Shared => Spot { shared: true, ..none },
            Mode::Permits => Spot { permits: permits.into(), ..none },
        };
        self.spots.push((key.clone(), spot));
    }

    /// A resource is free in every way.
    pub(super) fn note_all(&mut self, key: &ResourceKey) {
        self.spots.push((key.clone(), Spot::ALL));
    }
}

impl State {
    /// Brings the set of waiters that can be granted up to date.
    pub(super) fn settle(&mut self, mut freed: Freed) {
        if self.paused.is_some() {
            self.ready.clear();
            return;
        }
        if freed.everywhere {
            let with_line = self.resources.iter().filter(|(_, resource)| !resource.line.is_empty());
            freed.spots = with_line.map(|(key, _)| (key.clone(), Spot::ALL)).collect();
        }
        freed.spots.sort_by(|(a, _), (b, _)| a.cmp(b));
        freed.spots.dedup_by(|(key, spot), (kept_key, kept)| {
            let same = key == kept_key;
            if same {
                kept.join(*spot);
            }
            same
        });
        let mut found = Vec::new();
        for (key, spot) in &freed.spots {
            self.walk(key, *spot, self.at, &mut found);
        }
        found.extend(freed.again.iter().copied().filter(|turn| self.can_be_granted(*turn, self.at)));
        self.ready.extend(found);
    }

    /// The first waiter whose turn it is at a moment. A lock-delay that is over by then, though no record has
    /// come since, may make it another one than the first as of the last record.
    pub(super) fn first_ready(&self, at: Timestamp) -> Option<Turn> {
        let mut found = Vec::from_iter(self.ready.first().copied());
        if self.paused.is_none() {
            for key in self.deadlines.delays_over(at) {
                self.walk(key, Spot::ALL, at, &mut found);
            }
        }
        found.into_iter().min()
    }

    /// Finds the waiters of one resource that can be granted and perhaps could not be before.
    fn walk(&self, key: &ResourceKey, spot: Spot, at: Timestamp, found: &mut Vec<Turn>) {
        let Some(resource) = self.resources.get(key).filter(|resource| !resource.is_delayed(at)) else {
            return;
        };
        let capacity = self.policy.limits(resource.rule).capacity();
        if !spot.exclusive && !spot.shared {
            // Permits came back. If there were enough for all even without them, nobody gains.
            let mut before = resource.held;
            before.join(resource.line.eligible());
            before.add(Mode::Permits, u32::try_from(spot.permits).unwrap_or(u32::MAX));
            if before.is_permits_within(capacity) {
                return;
            }
        }
        let only_shared = spot.shared && !spot.exclusive && spot.permits == 0;
        let mut load = resource.held;
        load.join(resource.line.eligible_before(spot.from));
        for entry in resource.line.eligible_from(spot.from) {
            if load.is_full(capacity) {
                return;
            }
            // A shared claim that is gone stood in no other shared one's way.
            if only_shared && (load.shared() > 0 || entry.mode == Mode::Shared) {
                return;
            }
            let permits = entry.permits.min(capacity);
            if load.admits(entry.mode, permits, capacity) && self.fits_elsewhere(entry.turn(), at, Some(key))
            {
                found.push(entry.turn());
            }
            load.add(entry.mode, entry.permits);
        }
    }

    /// Whether it is a waiter's turn: its claims fit beside all holders' and all earlier eligible waiters' as if
    /// they held. More permits than there are count as all of them, so that a waiter which the policy has
    /// overtaken has a turn, too: at which it is ended.
    pub(super) fn can_be_granted(&self, turn: Turn, at: Timestamp) -> bool {
        let eligible = |waiter: &Waiter| waiter.suspended.is_none() && waiter.request.turn() == turn;
        self.waiters.get(&turn.place()).is_some_and(|waiter| eligible(waiter))
            && self.fits_elsewhere(turn, at, None)
    }

    /// The same of all its resources but one.
    fn fits_elsewhere(&self, turn: Turn, at: Timestamp, except: Option<&ResourceKey>) -> bool {
        let Some(waiter) = self.waiters.get(&turn.place()) else { return false };
        if except.is_some() && waiter.claims.len() == 1 {
            return true;
        }
        waiter.claims.iter().all(|claim| {
            let key = ResourceKey::new(&claim.resource);
            if except == Some(&key) {
                return true;
            }
            let Some(resource) = self.resources.get(&key) else { return false };
            let capacity = self.policy.limits(resource.rule).capacity();
            let mut load = resource.held;
            load.join(resource.line.eligible_before(turn));
            let permits = permits_of(claim.permits).min(capacity);
            !resource.is_delayed(at) && load.admits(claim.mode, permits, capacity)
        })
    }
}
