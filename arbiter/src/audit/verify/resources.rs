//! Resources with a holder, a waiter or a delay: who may be granted beside whom.
//!
//! A request fits if each of its claims fits beside the claims of all holders and of all earlier waiters as if
//! they held. Of waiters that are suspended only the number is here.

use super::live::Place;
use crate::log::record::{Policy, Rule};
use arbiterq_client::wire::{Mode, ResourceName, Timestamp, Token};
use foldhash::HashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A resource's number while it is live. Used again afterwards.
pub(super) type ResourceId = u32;

/// A claim of a live request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) resource: ResourceId,
    pub(super) mode: Mode,
    pub(super) permits: u32,
}

/// Where a waiter stands in every wait queue: higher priority first, then the lower place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    below: u8,
    pub(super) place: Place,
}

impl Turn {
    pub(super) fn new(priority: u8, place: Place) -> Self {
        Self { below: u8::MAX - priority, place }
    }
}

/// A claim in force.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) token: Token,
    pub(super) mode: Mode,
    pub(super) permits: u32,
}

/// A live resource.
#[derive(Clone, Default)]
pub(super) struct Resource {
    name: Option<ResourceName>,
    pub(super) capacity: u32,
    /// Its rule in the policy in force.
    rule: Option<usize>,
    /// By token: a new grant has the highest.
    pub(super) holders: Vec<Holder>,
    permits_held: u64,
    exclusive: BTreeSet<Turn>,
    shared: BTreeSet<Turn>,
    permits: BTreeSet<(Turn, u32)>,
    /// Claims of suspended waiters: they take no room, and the resource stays live for them.
    suspended: u32,
    pub(super) delay: Option<Delay>,
    changed: bool,
}

/// Nobody is granted the resource before `until`.
#[derive(Clone, Copy)]
pub(super) struct Delay {
    pub(super) until: Timestamp,
    pub(super) length_ms: u64,
}

/// Whether a claim has room, or who takes it.
pub(super) enum Room {
    Free,
    Held(Token),
    Earlier(Place),
    OverCapacity,
}

/// All live resources.
#[derive(Clone, Default)]
pub(super) struct Resources {
    by_name: HashMap<ResourceName, ResourceId>,
    slots: Vec<Resource>,
    unused: Vec<ResourceId>,
    delays: BTreeSet<(Timestamp, ResourceId)>,
    policy: Arc<Policy>,
    /// Where a waiter that had no room may have it now.
    changed: Vec<ResourceId>,
    /// From where something left, so that nothing may be left.
    left: Vec<ResourceId>,
}

impl Resources {
    pub(super) fn live(&self, name: &ResourceName) -> Option<ResourceId> {
        self.by_name.get(name).copied()
    }

    /// The number of a resource that becomes live. It is live for as long as something is put on it before
    /// [`Resources::free_idle`].
    pub(super) fn enter(&mut self, name: &ResourceName) -> ResourceId {
        let id = self.unused.pop().unwrap_or_else(|| {
            self.slots.push(Resource::default());
            ResourceId::try_from(self.slots.len() - 1).unwrap_or(ResourceId::MAX)
        });
        let rule = rule_of(&self.policy, name);
        let slot = &mut self.slots[id as usize];
        slot.name = Some(name.clone());
        slot.rule = rule;
        slot.capacity = capacity(&self.policy, rule);
        self.by_name.insert(name.clone(), id);
        id
    }

    pub(super) fn get(&self, id: ResourceId) -> &Resource {
        &self.slots[id as usize]
    }

    pub(super) fn name(&self, id: ResourceId) -> &str {
        self.get(id).name.as_ref().map_or("", ResourceName::as_str)
    }

    fn rule(&self, id: ResourceId) -> Option<&Rule> {
        self.get(id).rule.map(|rule| &self.policy.rules[rule])
    }

    pub(super) fn lock_delay_ms(&self, id: ResourceId) -> u64 {
        self.rule(id).and_then(|rule| rule.lock_delay_ms).unwrap_or(0)
    }

    pub(super) fn hold_max_ms(&self, id: ResourceId) -> Option<u64> {
        self.rule(id)?.hold_max_ms
    }

    pub(super) fn allows(&self, id: ResourceId, principal: &str) -> bool {
        let allow = self.rule(id).and_then(|rule| rule.allow.as_ref());
        allow.is_none_or(|allow| allow.iter().any(|allowed| &**allowed == principal))
    }

    pub(super) fn policy(&mut self, policy: Policy) {
        self.policy = Arc::new(policy);
        for slot in &mut self.slots {
            if let Some(name) = &slot.name {
                slot.rule = rule_of(&self.policy, name);
                slot.capacity = capacity(&self.policy, slot.rule);
            }
        }
    }

    /// Room for a claim among holders alone.
    pub(super) fn room_beside_holders(&self, claim: &Taken) -> Room {
        let resource = self.get(claim.resource);
        let conflict = match claim.mode {
            Mode::Exclusive => resource.holders.first(),
            // Holders are of one kind, or it would have been refused before.
            mode => resource.holders.iter().take(1).find(|holder| holder.mode != mode),
        };
        if let Some(holder) = conflict {
            return Room::Held(holder.token);
        }
        if claim.mode == Mode::Permits {
            if claim.permits > resource.capacity {
                return Room::OverCapacity;
            }
            if resource.permits_held + u64::from(claim.permits) > resource.capacity.into() {
                return resource
                    .holders
                    .first()
                    .map_or(Room::OverCapacity, |holder| Room::Held(holder.token));
            }
        }
        Room::Free
    }

    /// Room for a claim among holders and all waiters before `line`.
    pub(super) fn room(&self, claim: &Taken, line: Turn) -> Room {
        let room = self.room_beside_holders(claim);
        if !matches!(room, Room::Free) {
            return room;
        }
        let resource = self.get(claim.resource);
        let before = |first: Option<&Turn>| first.filter(|first| **first < line).map(|first| first.place);
        let earlier = match claim.mode {
            Mode::Exclusive => before(resource.exclusive.first())
                .or(before(resource.shared.first()))
                .or(before(resource.permits.first().map(|(line, _)| line))),
            Mode::Shared => {
                before(resource.exclusive.first()).or(before(resource.permits.first().map(|(line, _)| line)))
            }
            Mode::Permits => {
                before(resource.exclusive.first()).or(before(resource.shared.first())).or_else(|| {
                    let mut taken = resource.permits_held + u64::from(claim.permits);
                    // Each takes one at least: no more steps than the capacity.
                    resource.permits.iter().take_while(|(earlier, _)| *earlier < line).find_map(
                        |(earlier, permits)| {
                            taken += u64::from(*permits);
                            (taken > resource.capacity.into()).then_some(earlier.place)
                        },
                    )
                })
            }
        };
        earlier.map_or(Room::Free, Room::Earlier)
    }

    /// The waiters for whom this resource has room, in their order.
    pub(super) fn with_room(&self, id: ResourceId, out: &mut Vec<Place>) {
        let resource = self.get(id);
        if resource.delay.is_some() {
            return;
        }
        let firsts =
            [resource.exclusive.first(), resource.shared.first(), resource.permits.first().map(|(l, _)| l)];
        let Some(first) = firsts.into_iter().flatten().min().copied() else { return };
        let kind_held = resource.holders.first().map(|holder| holder.mode);
        if firsts[0] == Some(&first) {
            if kind_held.is_none() {
                out.push(first.place);
            }
        } else if firsts[1] == Some(&first) {
            let end = firsts[0].into_iter().chain(firsts[2]).min();
            if kind_held.is_none_or(|kind| kind == Mode::Shared) {
                let fit = resource.shared.iter().take_while(|line| end.is_none_or(|end| *line < end));
                out.extend(fit.map(|line| line.place));
            }
        } else if kind_held.is_none_or(|kind| kind == Mode::Permits) {
            let end = firsts[0].into_iter().chain(firsts[1]).min();
            let mut taken = resource.permits_held;
            for (line, permits) in &resource.permits {
                taken += u64::from(*permits);
                if taken > resource.capacity.into() || end.is_some_and(|end| line > end) {
                    break;
                }
                out.push(line.place);
            }
        }
    }

    pub(super) fn hold(&mut self, claim: &Taken, token: Token) {
        let resource = &mut self.slots[claim.resource as usize];
        resource.holders.push(Holder { token, mode: claim.mode, permits: claim.permits });
        resource.permits_held += u64::from(claim.permits);
    }

    pub(super) fn unhold(&mut self, claim: &Taken, token: Token) {
        let resource = &mut self.slots[claim.resource as usize];
        if let Ok(i) = resource.holders.binary_search_by_key(&token, |holder| holder.token) {
            resource.permits_held -= u64::from(resource.holders[i].permits);
            resource.holders.remove(i);
        }
        // Whoever fits beside one shared holder fits beside two.
        if claim.mode != Mode::Shared || resource.holders.is_empty() {
            self.change(claim.resource);
        }
        self.left.push(claim.resource);
    }

    pub(super) fn wait(&mut self, claim: &Taken, line: Turn) {
        let resource = &mut self.slots[claim.resource as usize];
        match claim.mode {
            Mode::Exclusive => resource.exclusive.insert(line),
            Mode::Shared => resource.shared.insert(line),
            Mode::Permits => resource.permits.insert((line, claim.permits)),
        };
        // It may be the one that has room.
        self.change(claim.resource);
    }

    /// A waiter stays and takes no room.
    pub(super) fn suspend(&mut self, claim: &Taken) {
        self.slots[claim.resource as usize].suspended += 1;
    }

    /// A suspended waiter waits again, or goes.
    pub(super) fn unsuspend(&mut self, claim: &Taken) {
        self.slots[claim.resource as usize].suspended -= 1;
        self.left.push(claim.resource);
    }

    /// A waiter goes. If it holds from now on, it takes as much room as before.
    pub(super) fn unwait(&mut self, claim: &Taken, line: Turn, holds: bool) {
        let resource = &mut self.slots[claim.resource as usize];
        match claim.mode {
            Mode::Exclusive => resource.exclusive.remove(&line),
            Mode::Shared => resource.shared.remove(&line),
            Mode::Permits => resource.permits.remove(&(line, claim.permits)),
        };
        if !holds {
            self.change(claim.resource);
            self.left.push(claim.resource);
        }
    }

    /// Sets a delay. Of one that was there, the later end and the greater length stay.
    pub(super) fn delay(&mut self, id: ResourceId, at: Timestamp, until: Timestamp) {
        let resource = &mut self.slots[id as usize];
        let length_ms = until.as_micros().saturating_sub(at.as_micros()) / 1000;
        let mut delay = Delay { until, length_ms };
        if let Some(before) = resource.delay {
            self.delays.remove(&(before.until, id));
            delay.until = delay.until.max(before.until);
            delay.length_ms = delay.length_ms.max(before.length_ms);
        }
        resource.delay = Some(delay);
        self.delays.insert((delay.until, id));
    }

    /// All delays begin again, in full.
    pub(super) fn restart_delays(&mut self, at: Timestamp) {
        for (_, id) in std::mem::take(&mut self.delays) {
            if let Some(delay) = &mut self.slots[id as usize].delay {
                delay.until = at.plus_ms(delay.length_ms);
                self.delays.insert((delay.until, id));
            }
        }
    }

    /// Delays that are over.
    pub(super) fn end_delays(&mut self, at: Timestamp) {
        while let Some((until, id)) = self.delays.first().copied()
            && until <= at
        {
            self.delays.pop_first();
            self.slots[id as usize].delay = None;
            self.change(id);
            self.left.push(id);
        }
    }

    fn change(&mut self, id: ResourceId) {
        let resource = &mut self.slots[id as usize];
        if !resource.changed {
            resource.changed = true;
            self.changed.push(id);
        }
    }

    /// As if every resource had changed: what may be granted is to be judged anew.
    pub(super) fn change_all(&mut self) {
        for id in 0..self.slots.len() {
            if self.slots[id].name.is_some() {
                self.change(ResourceId::try_from(id).unwrap_or(ResourceId::MAX));
            }
        }
    }

    /// One that changed since it was last asked for.
    pub(super) fn next_changed(&mut self) -> Option<ResourceId> {
        let id = self.changed.pop()?;
        self.slots[id as usize].changed = false;
        Some(id)
    }

    /// Forgets the resources on which nothing is any more.
    pub(super) fn free_idle(&mut self) {
        while let Some(id) = self.left.pop() {
            let resource = &mut self.slots[id as usize];
            let idle = resource.holders.is_empty()
                && resource.exclusive.is_empty()
                && resource.shared.is_empty()
                && resource.permits.is_empty()
                && resource.suspended == 0
                && resource.delay.is_none();
            if idle && let Some(name) = resource.name.take() {
                self.by_name.remove(&name);
                self.unused.push(id);
            }
        }
    }

    /// How many are live.
    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }
}

fn rule_of(policy: &Policy, name: &ResourceName) -> Option<usize> {
    policy.rules.iter().position(|rule| matches(&rule.pattern, name.as_str()))
}

fn capacity(policy: &Policy, rule: Option<usize>) -> u32 {
    rule.and_then(|rule| policy.rules[rule].capacity).unwrap_or(1)
}

/// Whether a pattern, in which `*` stands for any characters, also none, matches a whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    // What stands between two stars is found as early as possible: that leaves the most for what follows.
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
        rest = after;
    }
    name.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in
            [("*", ""), ("*", "a"), ("a*", "a"), ("*b", "ab"), ("a*c*", "abcd"), ("a*b*b", "abab")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*", "ba"), ("a*b*b", "ab"), ("ab*ba", "aba"), ("", "a")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
