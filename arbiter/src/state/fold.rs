//! What a record that counts makes of the state.
//!
//! Total: an event that no valid log has (of a session that is not live, a grant that is not in force, a number
//! that is used up) changes nothing. That a log is valid is for the chain and the verifier to say.

use super::State;
use super::advance::Freed;
use super::deadline::Deadlines;
use super::grant::{Grant, Known, Outcome, Request, Revoking, Waiter};
use super::line::{Entry, Turn};
use super::policy::Rules;
use super::resource::{Delay, Resource, ResourceKey};
use super::session::{Live, Session};
use super::table::Resources;
use crate::log::chain::{ChainTip, Sealed};
use crate::log::record::{Command, Event};
use crate::planted::Planted;
use arbiterq_client::wire::{
    Claim, ClaimGranted, Hash, Reason, ResourceName, Seq, SessionId, Timestamp, Token,
};

/// The record whose events are folded.
struct Of {
    index: u64,
    at: Timestamp,
    hash: Hash,
}

impl State {
    /// Takes a record that counts: its renewals, then its events.
    pub fn fold(&mut self, sealed: &Sealed) {
        if self.plants.has(Planted::RenewalsUnnumbered) {
            self.renew_unnumbered(&sealed.record.renewed, sealed.record.at);
        } else {
            self.renew(&sealed.record.renewed, sealed.record.at);
        }
        self.apply(sealed);
    }

    /// Takes renewals that count from `at`. A number that does not rise is ignored.
    pub fn renew(&mut self, renewed: &[(SessionId, u64)], at: Timestamp) {
        let any = self.plants.has(Planted::AnyRenewal) || self.plants.has(Planted::RenewalsOfActivation);
        for (id, n) in renewed {
            self.change_session(*id, |session| {
                if *n > session.n || any {
                    session.n = session.n.max(*n);
                    session.heard_at = at;
                    session.lease_from = at;
                    session.unreachable_at = None;
                }
            });
        }
    }

    /// The planted bug of 53: that there was a keep-alive is known, and not which.
    fn renew_unnumbered(&mut self, renewed: &[(SessionId, u64)], at: Timestamp) {
        for (id, _) in renewed {
            self.change_session(*id, |session| (session.heard_at, session.lease_from) = (at, at));
        }
    }

    /// Takes a record's events, and it becomes the tip. Its renewals are taken before, by [`State::renew`].
    pub fn apply(&mut self, sealed: &Sealed) {
        let record = &sealed.record;
        let of = Of { index: record.index, at: record.at, hash: sealed.hash };
        let mut freed = Freed::default();
        if !matches!(record.command, Command::Advance) {
            // Empty as a rule, because the record after one that frees something is `advance`. Not so where an
            // epoch begins: what could be granted before is looked at again.
            freed.again.extend(std::mem::take(&mut self.ready));
        }
        for event in &record.events {
            self.apply_event(event, &of, &mut freed);
        }
        let over = self.deadlines.delays_over(of.at).cloned();
        for key in over.collect::<Vec<_>>() {
            self.end_delay(&key, &mut freed);
        }
        self.tip = ChainTip { next_index: of.index.saturating_add(1), hash: of.hash };
        self.at = of.at;
        self.settle(freed);
    }

    fn apply_event(&mut self, event: &Event, of: &Of, freed: &mut Freed) {
        match event {
            Event::Genesis(genesis) => self.genesis = Some(genesis.clone()),
            Event::EpochStarted { epoch, incarnation, rules } => {
                (self.epoch, self.incarnation, self.rules) = (*epoch, Some(*incarnation), *rules);
                self.start_epoch(of);
            }
            Event::Policy(policy) => {
                self.policy = Rules::new(policy.clone());
                for (key, resource) in self.resources.iter_mut() {
                    resource.rule = self.policy.index_of(key.name());
                }
                freed.everywhere = true;
            }
            Event::Opened { .. } => self.open(event, of),
            Event::Attached { session, n, reply_to } => {
                self.change_session(*session, |session| {
                    session.attached = *n;
                    session.reply_to.clone_from(reply_to);
                    session.unreachable_at = None;
                });
                self.resume_waiters(*session, freed);
            }
            Event::Unreachable { session, .. } => {
                self.change_session(*session, |session| session.unreachable_at = Some(of.at));
            }
            Event::SessionEnded { session, .. } => self.end_session(*session, freed),
            Event::Queued { .. } => self.queue(event, of),
            Event::Granted { .. } => self.hold(event, of),
            Event::Refused { session, seq, reason } => {
                self.use_up(*session, *seq, Outcome::Refused(*reason), freed)
            }
            Event::Ended { session, seq, reason } => {
                self.use_up(*session, *seq, Outcome::Ended(*reason), freed)
            }
            Event::Released { token, reason, .. } => self.release(*token, *reason, freed),
            Event::Revoking { token, reason, by, until } => {
                if let Some(grant) = self.grants.get_mut(*token).filter(|grant| grant.revoking.is_none()) {
                    let revoking = Revoking { reason: *reason, by: by.clone(), until: *until };
                    grant.revoking = Some(Box::new(revoking));
                    if let Some(until) = grant.hold_until.take() {
                        self.deadlines.holds.remove(&(until, *token));
                    }
                    self.deadlines.revocations.insert((*until, *token));
                }
            }
            Event::Suspended { token, .. } => self.suspend(*token, freed),
            Event::Delayed { resource, until } => {
                let ms = u64::try_from(until.since(of.at).as_millis()).unwrap_or(u64::MAX);
                self.delay(ResourceKey::new(resource), Delay { until: *until, ms });
            }
            Event::Paused { by, reason } => self.paused = Some((by.clone(), reason.as_str().into())),
            Event::Resumed { .. } => {
                self.paused = None;
                freed.everywhere = true;
            }
            Event::Checkpoint { .. } | Event::Closed { .. } => {}
        }
    }

    /// Leases and lock-delays start again in full, other deadlines move by the gap, nobody is unreachable.
    fn start_epoch(&mut self, of: &Of) {
        let gap = of.at.since(self.at);
        let mut deadlines = Deadlines::default();
        for (id, session) in self.sessions.iter_mut() {
            session.lease_from = of.at;
            session.unreachable_at = None;
            deadlines.sessions.insert((session.due().0, id));
        }
        for (place, waiter) in &mut self.waiters {
            if let Some(until) = &mut waiter.request.wait_until {
                *until = until.plus(gap);
                deadlines.waits.insert((*until, *place));
            }
        }
        for (token, grant) in self.grants.iter_mut() {
            if let Some(until) = &mut grant.request.wait_until {
                *until = until.plus(gap);
            }
            if let Some(until) = &mut grant.hold_until {
                *until = until.plus(gap);
                deadlines.holds.insert((*until, token));
            }
            if let Some(revoking) = &mut grant.revoking {
                revoking.until = revoking.until.plus(gap);
                deadlines.revocations.insert((revoking.until, token));
            }
        }
        for (_, key) in &self.deadlines.delays {
            if let Some(delay) = self.resources.get_mut(key).and_then(|resource| resource.delay.as_mut()) {
                delay.until = of.at.plus_ms(delay.ms);
                deadlines.delays.insert((delay.until, key.clone()));
            }
        }
        self.deadlines = deadlines;
        self.epoch_at = of.at;
    }

    fn open(&mut self, event: &Event, of: &Of) {
        if let Some(session) = Session::of(event, of.at) {
            self.put_session(of.index, session);
        }
    }

    pub(super) fn put_session(&mut self, id: SessionId, session: Session) {
        if !self.sessions.contains(id) {
            self.deadlines.sessions.insert((session.due().0, id));
            self.keys.insert(session.key_hash, id);
            self.sessions.insert(id, session);
        }
    }

    pub(super) fn change_session(&mut self, id: SessionId, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (before, _) = session.due();
        change(session);
        let (after, _) = session.due();
        if after != before {
            self.deadlines.sessions.remove(&(before, id));
            self.deadlines.sessions.insert((after, id));
        }
    }

    fn resume_waiters(&mut self, id: SessionId, freed: &mut Freed) {
        let Some(session) = self.sessions.get(id) else { return };
        for (_, live) in session.requests.iter() {
            let Live::Waiting(place) = live else { continue };
            let Some(waiter) = self.waiters.get_mut(&place) else { continue };
            if waiter.suspended.take().is_some() {
                pass_over(&mut self.resources, waiter);
                freed.again.insert(waiter.request.turn());
            }
        }
    }

    /// A waiter is passed over from now on.
    pub(super) fn set_suspended(&mut self, place: u64, token: Token) {
        let Some(waiter) = self.waiters.get_mut(&place) else { return };
        waiter.suspended = Some(token);
        pass_over(&mut self.resources, waiter);
    }

    fn end_session(&mut self, id: SessionId, freed: &mut Freed) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.deadlines.sessions.remove(&(session.due().0, id));
        if self.keys.get(&session.key_hash) == Some(&id) {
            self.keys.remove(&session.key_hash);
        }
        for (_, live) in session.requests.iter() {
            match live {
                Live::Waiting(place) => drop(self.take_waiter(place, Some(freed))),
                Live::Held(token) => drop(self.take_grant(token, freed)),
            }
        }
    }

    fn queue(&mut self, event: &Event, of: &Of) {
        let Event::Queued { session, seq, claims, wait_ms, .. } = event else { return };
        if self.known(*session, *seq) != Known::New || self.waiters.contains_key(&of.index) {
            return;
        }
        let wait_until = wait_ms.map(|ms| of.at.plus_ms(ms));
        if let Some(request) = Request::of(event, of.index, of.at, wait_until) {
            self.put_waiter(Waiter { request, claims: claims.as_slice().into(), suspended: None });
        }
    }

    /// A request waits from now on.
    pub(super) fn put_waiter(&mut self, mut waiter: Waiter) {
        let request = &waiter.request;
        let (place, turn) = (request.place, request.turn());
        let Some(session) = self.sessions.get_mut(request.session) else { return };
        session.requests.set_live(request.seq, Live::Waiting(place));
        for claim in waiter.claims.iter_mut() {
            let entry = Entry::new(turn, claim.mode, permits_of(claim.permits), waiter.suspended.is_some());
            let (resource, name) = self.resource_mut(&ResourceKey::new(&claim.resource));
            resource.line.insert(entry);
            claim.resource = name;
        }
        if let Some(until) = request.wait_until {
            self.deadlines.waits.insert((until, place));
        }
        self.waiters.insert(place, Box::new(waiter));
    }

    /// Takes a waiter out of its lines. What it leaves to others is noted, unless it holds it from now on.
    fn take_waiter(&mut self, place: u64, mut freed: Option<&mut Freed>) -> Option<Waiter> {
        let waiter = self.waiters.remove(&place)?;
        let turn = waiter.request.turn();
        self.ready.remove(&turn);
        if let Some(until) = waiter.request.wait_until {
            self.deadlines.waits.remove(&(until, place));
        }
        for claim in waiter.claims.iter() {
            let key = ResourceKey::new(&claim.resource);
            let Some(resource) = self.resources.get_mut(&key) else { continue };
            resource.line.remove(turn);
            if resource.is_idle() {
                self.resources.remove(&key);
            } else if let Some(freed) = freed.as_deref_mut().filter(|_| waiter.suspended.is_none()) {
                freed.note(&key, resource, turn, claim.mode, permits_of(claim.permits));
            }
        }
        Some(*waiter)
    }

    fn hold(&mut self, event: &Event, of: &Of) {
        let Event::Granted { session, seq, claims, hold_max_ms, wait_ms, .. } = event else { return };
        if self.grants.contains(of.index) {
            return;
        }
        let (place, placed_at, wait_until) = match self.known(*session, *seq) {
            Known::New => (of.index, of.at, wait_ms.map(|ms| of.at.plus_ms(ms))),
            Known::Waiting => {
                let live = self.sessions.get(*session).and_then(|session| session.requests.live(*seq));
                let Some(Live::Waiting(place)) = live else { return };
                let Some(Waiter { request, .. }) = self.take_waiter(place, None) else { return };
                (place, request.placed_at, request.wait_until)
            }
            Known::Held(_) | Known::Over(_) | Known::Forgotten => return,
        };
        let Some(request) = Request::of(event, place, placed_at, wait_until) else { return };
        let hold_until = hold_max_ms.map(|ms| of.at.plus_ms(ms));
        let claims = claims.as_slice().into();
        let grant = Grant { request, claims, hash: of.hash, since: of.at, hold_until, revoking: None };
        self.put_grant(of.index, grant);
    }

    /// A grant is in force from now on.
    pub(super) fn put_grant(&mut self, token: Token, mut grant: Grant) {
        let request = &grant.request;
        let Some(session) = self.sessions.get_mut(request.session) else { return };
        session.requests.set_live(request.seq, Live::Held(token));
        for claim in grant.claims.iter_mut() {
            let key = ResourceKey::new(&claim.resource);
            if let Some(owner) = request.owner {
                self.owned.insert((owner, key.clone(), token));
            }
            let (resource, name) = self.resource_mut(&key);
            if resource.holders.insert(token) {
                resource.held.add(claim.mode, permits_of(claim.permits));
            }
            claim.resource = name;
        }
        if let Some(revoking) = &grant.revoking {
            self.deadlines.revocations.insert((revoking.until, token));
        } else if let Some(until) = grant.hold_until {
            self.deadlines.holds.insert((until, token));
        }
        self.grants.insert(token, grant);
    }

    /// Takes a grant out of force.
    fn take_grant(&mut self, token: Token, freed: &mut Freed) -> Option<Box<Grant>> {
        let grant = self.grants.remove(token)?;
        if let Some(until) = grant.hold_until {
            self.deadlines.holds.remove(&(until, token));
        }
        if let Some(revoking) = &grant.revoking {
            self.deadlines.revocations.remove(&(revoking.until, token));
        }
        for claim in grant.claims.iter() {
            let key = ResourceKey::new(&claim.resource);
            if let Some(owner) = grant.request.owner {
                self.owned.remove(&(owner, key.clone(), token));
            }
            let Some(resource) = self.resources.get_mut(&key) else { continue };
            if resource.holders.remove(token) {
                resource.held.take(claim.mode, permits_of(claim.permits));
            }
            if resource.is_idle() {
                self.resources.remove(&key);
            } else {
                freed.note(&key, resource, Turn::FIRST, claim.mode, permits_of(claim.permits));
            }
        }
        Some(grant)
    }

    /// A request number is over without a grant.
    fn use_up(&mut self, id: SessionId, seq: Seq, outcome: Outcome, freed: &mut Freed) {
        match self.known(id, seq) {
            Known::New => {}
            Known::Waiting => {
                let live = self.sessions.get(id).and_then(|session| session.requests.live(seq));
                if let Some(Live::Waiting(place)) = live {
                    self.take_waiter(place, Some(freed));
                }
            }
            Known::Held(_) | Known::Over(_) | Known::Forgotten => return,
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.requests.set_over(seq, outcome);
        }
    }

    fn release(&mut self, token: Token, reason: Reason, freed: &mut Freed) {
        let Some(grant) = self.take_grant(token, freed) else { return };
        if let Some(session) = self.sessions.get_mut(grant.request.session) {
            session.requests.set_over(grant.request.seq, Outcome::Released(token, reason));
        }
    }

    fn suspend(&mut self, token: Token, freed: &mut Freed) {
        let Some(grant) = self.take_grant(token, freed) else { return };
        let claim_of = |claim: &ClaimGranted| Claim {
            resource: claim.resource.clone(),
            mode: claim.mode,
            permits: claim.permits,
        };
        let claims = grant.claims.iter().map(claim_of).collect();
        self.put_waiter(Waiter { request: grant.request, claims, suspended: Some(token) });
    }

    /// Nobody is granted a resource for a while. Of an earlier delay the later end and the greater length stay:
    /// nothing is free sooner, in an epoch to come either, because something else was lost as well.
    pub(super) fn delay(&mut self, key: ResourceKey, mut delay: Delay) {
        let (resource, _) = self.resource_mut(&key);
        let before = resource.delay;
        if let Some(before) = before {
            delay = Delay { until: delay.until.max(before.until), ms: delay.ms.max(before.ms) };
        }
        resource.delay = Some(delay);
        if let Some(before) = before {
            self.deadlines.delays.remove(&(before.until, key.clone()));
        }
        self.deadlines.delays.insert((delay.until, key));
    }

    fn end_delay(&mut self, key: &ResourceKey, freed: &mut Freed) {
        self.deadlines.delays.pop_first();
        let Some(resource) = self.resources.get_mut(key) else { return };
        resource.delay = None;
        if resource.is_idle() {
            self.resources.remove(key);
        } else {
            freed.note_all(key);
        }
    }

    /// A resource, made if it is not in the state, and the name by which all share it.
    fn resource_mut(&mut self, key: &ResourceKey) -> (&mut Resource, ResourceName) {
        let policy = &self.policy;
        self.resources.get_or_insert(key, || Resource::new(policy.index_of(key.name())))
    }
}

/// Tells the lines whether a waiter is passed over.
fn pass_over(resources: &mut Resources, waiter: &Waiter) {
    for claim in waiter.claims.iter() {
        if let Some(resource) = resources.get_mut(&ResourceKey::new(&claim.resource)) {
            resource.line.set_suspended(waiter.request.turn(), waiter.suspended.is_some());
        }
    }
}

/// How many permits a claim takes; other modes do not look at it.
pub(super) fn permits_of(permits: Option<u32>) -> u32 {
    permits.unwrap_or(1).max(1)
}
