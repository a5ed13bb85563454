//! What a command changes.
//!
//! Each decision reads the state and gives events; none is taken on a state that its own events have changed.
//! In particular nobody is granted what another command frees: that is `advance`, in the next record.

use super::State;
use super::deadline::due;
use super::fold::permits_of;
use super::grant::{Grant, Known, Request};
use super::line::Turn;
use super::policy::Limits;
use super::resource::{Load, Resource, ResourceKey};
use super::session::{Live, Session};
use crate::log::record::{AcquireCommand, Command, DUE_MAX, Event, OpenCommand, RECORD_BYTES_MAX};
use crate::planted::Planted;
use arbiterq_client::wire::{
    CLAIMS_MAX, Cause, Claim, ClaimGranted, LEASE_MS_MAX, LEASE_MS_MIN, Mode, OwnerRef, Reason, ResourceName,
    Seq, SessionId, Timestamp, Token, partition_of,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The bytes that the lock-delays which one record begins may take, so that the record stays within its own. A
/// tick leaves what would begin more to the next one. Only a single session that loses thousands of resources
/// with the longest names at once gets there by itself: the rest of them get no delay.
pub const DELAYED_BYTES_MAX: usize = RECORD_BYTES_MAX / 4 * 3;

/// What a command changes, as events. Never fails, and never asks what time it is.
///
/// The record will have the index `state.tip().next_index` and the moment `at`; its renewals are in the state
/// already ([`State::renew`]). No events: the command changes nothing, or (`create`, `activate`, `policy`,
/// `checkpoint`, `barrier`, `finish`) is not decided.
pub fn decide(state: &State, command: &Command, at: Timestamp) -> Vec<Event> {
    let mut decision = Decision { state, at, events: Vec::new(), delayed: BTreeSet::new(), delayed_bytes: 0 };
    match command {
        Command::Open(open) => decision.open(open),
        Command::Attach { session, n, reply_to } => decision.attach(*session, *n, reply_to.as_ref()),
        Command::Acquire(acquire) => decision.acquire(acquire),
        Command::Release { session, token } => decision.release(*session, *token),
        Command::Cancel { session, seq } => decision.cancel(*session, *seq),
        Command::Close { session } => decision.close(*session),
        Command::Tick { at } => decision.tick(*at),
        Command::Gone { session, n, seq, cause } => decision.gone(*session, *n, *seq, *cause),
        Command::Advance => decision.advance(),
        Command::ForceRelease { resource, token, by, now, .. } => {
            decision.force_release(resource, *token, by, *now);
        }
        Command::Pause { reason, by } => {
            if state.paused.is_none() {
                decision.events.push(Event::Paused { by: by.clone(), reason: reason.clone() });
            }
        }
        Command::Resume { reason, by } => {
            if state.paused.is_some() {
                decision.events.push(Event::Resumed { by: by.clone(), reason: reason.clone() });
            }
        }
        Command::Create
        | Command::Activate
        | Command::Policy
        | Command::Checkpoint
        | Command::Barrier
        | Command::Finish => {}
    }
    decision.events
}

struct Decision<'a> {
    state: &'a State,
    at: Timestamp,
    events: Vec<Event>,
    /// Resources that this record delays.
    delayed: BTreeSet<ResourceKey>,
    delayed_bytes: usize,
}

impl Decision<'_> {
    fn open(&mut self, open: &OpenCommand) {
        let policy = self.state.policy();
        let room = self.state.sessions.len() < policy.sessions_max as usize;
        let lease_fits = |ms: u64| (LEASE_MS_MIN..=LEASE_MS_MAX).contains(&ms);
        if !room || !lease_fits(open.lease_ms) || self.state.session_by_key(&open.key_hash).is_some() {
            return;
        }
        self.events.push(Event::Opened {
            key_hash: open.key_hash,
            lease_ms: open.lease_ms.min(policy.lease_ms_max).max(LEASE_MS_MIN),
            fail_fast_ms: match self.state.plants.has(Planted::EverybodyFailsFast) {
                true => Some(open.fail_fast_ms.unwrap_or(1000)),
                false => open.fail_fast_ms,
            },
            in_flight_max: policy.in_flight_max,
            label: open.label.clone(),
            principal: open.principal.clone(),
            principal_by: open.principal_by,
            reply_to: open.reply_to.clone(),
        });
    }

    fn attach(&mut self, session: SessionId, n: u64, reply_to: Option<&Arc<str>>) {
        let any = self.state.plants.has(Planted::OldAttach);
        if self.state.session(session).is_some_and(|session| n > session.attached || any) {
            self.events.push(Event::Attached { session, n, reply_to: reply_to.cloned() });
        }
    }

    fn acquire(&mut self, acquire: &AcquireCommand) {
        let Some(session) = self.state.session(acquire.session) else { return };
        let decided = session.requests.known(acquire.seq) != Known::New;
        if decided && !self.state.plants.has(Planted::OutcomesDropped) {
            return;
        }
        let request = self.request_of(acquire);
        self.events.push(match self.admit(session, &request, &acquire.claims) {
            Ok(Admission::Granted { claims, hold_max_ms }) => granted(&request, claims, hold_max_ms),
            Ok(Admission::Queued) => Event::Queued {
                session: request.session,
                seq: request.seq,
                claims: acquire.claims.clone(),
                owner: request.owner,
                priority: request.priority,
                wait_ms: request.wait_ms,
                hold_max_ms: request.hold_max_ms,
                reason: request.reason,
                value: request.value,
            },
            Err(reason) => Event::Refused { session: request.session, seq: request.seq, reason },
        });
    }

    fn request_of(&self, acquire: &AcquireCommand) -> Request {
        Request {
            session: acquire.session,
            seq: acquire.seq,
            owner: self.owner_of(acquire),
            priority: acquire.priority,
            place: self.state.tip.next_index,
            placed_at: self.at,
            wait_ms: acquire.wait_ms,
            wait_until: None,
            hold_max_ms: acquire.hold_max_ms,
            reason: acquire.reason.clone(),
            value: acquire.value.clone(),
        }
    }

    /// The owner, if it is another request's: the named request's own owner while that is live, else as named.
    fn owner_of(&self, acquire: &AcquireCommand) -> Option<OwnerRef> {
        let named = acquire.owner?;
        let live = self.state.session(named.0).and_then(|session| session.requests.live(named.1));
        let owner = live.and_then(|live| self.state.request(live)).map_or(named, Request::owner);
        (owner != OwnerRef(acquire.session, acquire.seq)).then_some(owner)
    }

    fn admit(&self, session: &Session, request: &Request, claims: &[Claim]) -> Result<Admission, Reason> {
        if session.requests.live_count() >= session.in_flight_max as usize {
            return Err(Reason::InFlightMax);
        }
        check_claims(claims)?;
        let mut fits = self.state.paused.is_none();
        let mut room = true;
        let mut granted = Vec::new();
        let mut hold_max_ms = request.hold_max_ms;
        for claim in claims {
            let key = ResourceKey::new(&claim.resource);
            let resource = self.state.resources.get(&key);
            let limits = self.state.limits_of(&claim.resource, resource);
            if !self.state.is_here(&claim.resource) {
                return Err(Reason::WrongPartition);
            }
            if !limits.allows(&session.principal.name) {
                return Err(Reason::NotAllowed);
            }
            if claim.mode == Mode::Permits && permits_of(claim.permits) > limits.capacity() {
                return Err(Reason::OverCapacity);
            }
            if self.owner_holds(request, &key) {
                return Err(Reason::Held);
            }
            if let Some(resource) = resource {
                let mut load: Load = resource.held;
                load.join(resource.line.eligible_before(request.turn()));
                fits &= !resource.is_delayed(self.at)
                    && load.admits(claim.mode, permits_of(claim.permits), limits.capacity());
            }
            hold_max_ms = shortest(hold_max_ms, limits);
            room &= resource.map_or(0, |resource| resource.line.len()) < limits.waiters_max();
            if fits {
                granted.push(self.claim_granted(claim, resource, limits));
            }
        }
        match (fits, request.wait_ms) {
            (true, _) => Ok(Admission::Granted { claims: granted, hold_max_ms }),
            (false, Some(0)) => Err(Reason::Busy),
            (false, _) if !room => Err(Reason::WaitersMax),
            (false, _) => Ok(Admission::Queued),
        }
    }

    /// Whether a holder with the request's owner sits on a resource: the request that the owner is named after,
    /// or another one for the same owner.
    fn owner_holds(&self, request: &Request, key: &ResourceKey) -> bool {
        let owner = request.owner();
        let root =
            request.owner.and_then(|OwnerRef(session, seq)| self.state.session(session)?.requests.live(seq));
        if let Some(Live::Held(token)) = root
            && let Some(grant) = self.state.grant(token)
            && grant.request.owner() == owner
            && grant.claims.iter().any(|claim| claim.resource == *key.name())
        {
            return true;
        }
        if self.state.owned.is_empty() {
            return false;
        }
        let (first, last) = ((owner, key.clone(), 0), (owner, key.clone(), Token::MAX));
        self.state.owned.range(first..=last).next().is_some()
    }

    fn claim_granted(&self, claim: &Claim, resource: Option<&Resource>, limits: Limits<'_>) -> ClaimGranted {
        let lowest = resource.and_then(|resource| resource.holders.first());
        ClaimGranted {
            resource: claim.resource.clone(),
            mode: claim.mode,
            permits: claim.permits,
            capacity: limits.capacity(),
            floor: lowest.unwrap_or(self.state.tip.next_index),
        }
    }

    fn release(&mut self, session: SessionId, token: Token) {
        if let Some(grant) = self.state.grant(token).filter(|grant| grant.session() == session) {
            self.events.push(given_back(token, grant, Reason::Released));
            if self.state.plants.has(Planted::ReleaseGrants) {
                self.grant_next_to(grant);
            }
        }
    }

    /// The planted bug of 52.
    fn grant_next_to(&mut self, grant: &Grant) {
        let lines = grant.claims.iter().filter_map(|claim| {
            let resource = self.state.resources.get(&ResourceKey::new(&claim.resource))?;
            resource.line.eligible_from(Turn::FIRST).next().map(|entry| entry.turn())
        });
        if let Some(turn) = lines.min() {
            self.grant_at(turn);
        }
    }

    fn cancel(&mut self, session: SessionId, seq: Seq) {
        match self.state.known(session, seq) {
            Known::New | Known::Waiting => {
                self.events.push(Event::Ended { session, seq, reason: Reason::Cancelled });
            }
            Known::Held(token) => {
                if let Some(grant) = self.state.grant(token) {
                    self.events.push(given_back(token, grant, Reason::Cancelled));
                }
            }
            Known::Over(_) | Known::Forgotten => {}
        }
    }

    fn close(&mut self, session: SessionId) {
        if self.state.session(session).is_some() {
            self.events.push(Event::SessionEnded { session, reason: Reason::Closed });
        }
    }

    /// Judged by the tick's own moment: what was asked before it was sent has been decided.
    fn tick(&mut self, due_by: Timestamp) {
        let deadlines = &self.state.deadlines;
        let due_max = if self.state.plants.has(Planted::TickUnbounded) { usize::MAX } else { DUE_MAX };
        let mut ended = BTreeSet::new();
        for id in due(&deadlines.sessions, due_by) {
            if ended.len() >= due_max {
                break;
            }
            let Some(session) = self.state.session(id) else { continue };
            let lost = session.requests.iter().filter_map(|(_, live)| match live {
                Live::Held(token) => self.state.grant(token),
                Live::Waiting(_) => None,
            });
            let lost: Vec<&Grant> = lost.collect();
            if !self.has_room_for_delays(&lost) {
                break;
            }
            ended.insert(id);
            self.events.push(Event::SessionEnded { session: id, reason: session.due().1 });
            lost.into_iter().for_each(|grant| self.delay(grant));
        }
        let mut room = due_max - ended.len();
        for place in due(&deadlines.waits, due_by) {
            let Some(waiter) = self.state.waiters.get(&place) else { continue };
            let (session, seq) = (waiter.request.session, waiter.request.seq);
            if room == 0 {
                break;
            }
            if !ended.contains(&session) {
                room -= 1;
                self.events.push(Event::Ended { session, seq, reason: Reason::WaitLimit });
            }
        }
        for token in due(&deadlines.holds, due_by) {
            let Some(grant) = self.state.grant(token) else { continue };
            if room == 0 {
                break;
            }
            if !ended.contains(&grant.session()) {
                room -= 1;
                self.revoke(token, grant, Reason::HoldLimit, None);
            }
        }
        for token in due(&deadlines.revocations, due_by) {
            let Some(grant) = self.state.grant(token) else { continue };
            if room == 0 || !self.has_room_for_delays(&[grant]) {
                break;
            }
            if !ended.contains(&grant.session()) {
                room -= 1;
                self.events.push(given_back(token, grant, Reason::Released));
                self.delay(grant);
            }
        }
    }

    fn gone(&mut self, id: SessionId, n: u64, seq: Option<Seq>, cause: Cause) {
        // The address may have been another one since.
        let any = self.state.plants.has(Planted::GoneByName);
        let is_there = |session: &&Session| session.attached == n || any;
        let Some(session) = self.state.session(id).filter(is_there) else { return };
        if cause == Cause::Closed {
            self.events.push(Event::SessionEnded { session: id, reason: Reason::ConnectionClosed });
            for (_, live) in session.requests.iter() {
                if let Live::Held(token) = live
                    && let Some(grant) = self.state.grant(token)
                {
                    self.delay(grant);
                }
            }
            return;
        }
        if let Some(seq) = seq {
            // What is being revoked was named again by its `lost`.
            if let Some(Live::Held(token)) = session.requests.live(seq)
                && self.state.grant(token).is_some_and(|grant| grant.revoking.is_none())
            {
                self.events.push(match self.state.plants.has(Planted::ReturnEnds) {
                    true => Event::Released { token, reason: Reason::ConnectionClosed, by: None },
                    false => Event::Suspended { session: id, seq, token },
                });
            }
            return;
        }
        // A broker that restarts loses every reply queue for a while; after a takeover everybody attaches again.
        let settled = self.at >= self.state.epoch_at.plus_ms(session.lease_ms);
        if settled && !session.unreachable() {
            self.events.push(Event::Unreachable { session: id, n });
        }
    }

    /// Grants the first waiter whose turn it is, or ends it if the policy does not allow it any more.
    fn advance(&mut self) {
        let Some(turn) = self.state.first_ready(self.at) else { return };
        self.grant_at(turn);
        if self.state.plants.has(Planted::AdvanceGrantsAll) {
            self.state.ready.iter().filter(|other| **other != turn).for_each(|other| self.grant_at(*other));
        }
    }

    fn grant_at(&mut self, turn: Turn) {
        let Some(waiter) = self.state.waiters.get(&turn.place()) else { return };
        debug_assert!(
            self.state.can_be_granted(turn, self.at) || self.state.plants.has(Planted::ReleaseGrants),
            "{turn:?} cannot be granted"
        );
        let request = &waiter.request;
        let principal = self.state.session(request.session).map(|session| &*session.principal.name);
        let mut claims = Vec::with_capacity(waiter.claims.len());
        let mut hold_max_ms = request.hold_max_ms;
        for claim in waiter.claims.iter() {
            let resource = self.state.resources.get(&ResourceKey::new(&claim.resource));
            let limits = self.state.limits_of(&claim.resource, resource);
            let permits_fit = claim.mode != Mode::Permits || permits_of(claim.permits) <= limits.capacity();
            if !permits_fit || !principal.is_some_and(|principal| limits.allows(principal)) {
                let (session, seq) = (request.session, request.seq);
                self.events.push(Event::Ended { session, seq, reason: Reason::Policy });
                return;
            }
            hold_max_ms = shortest(hold_max_ms, limits);
            claims.push(self.claim_granted(claim, resource, limits));
        }
        self.events.push(granted(request, claims, hold_max_ms));
    }

    fn force_release(&mut self, resource: &ResourceName, token: Token, by: &Arc<str>, now: bool) {
        let Some(grant) = self.state.grant(token) else { return };
        if !grant.claims.iter().any(|claim| claim.resource == *resource) {
            return;
        }
        if now {
            self.events.push(Event::Released { token, reason: Reason::Forced, by: Some(by.clone()) });
            self.delay(grant);
        } else if grant.revoking.is_none() {
            self.revoke(token, grant, Reason::Forced, Some(by.clone()));
        }
    }

    /// One full lease from the record, not from a tick's own moment: until the record, the holder may have been
    /// told that it holds.
    fn revoke(&mut self, token: Token, grant: &Grant, reason: Reason, by: Option<Arc<str>>) {
        let lease_ms = self.state.session(grant.session()).map_or(0, Session::lease_ms);
        self.events.push(match self.state.plants.has(Planted::RevokedAtOnce) {
            true => Event::Released { token, reason, by },
            false => Event::Revoking { token, reason, by, until: self.at.plus_ms(lease_ms) },
        });
    }

    /// Begins the lock-delays of what was lost, in the place of earlier ones.
    fn delay(&mut self, grant: &Grant) {
        for (key, until) in delays_of(self.state, grant, self.at) {
            let bytes = self.delayed_bytes + delayed_bytes(&key);
            if bytes <= DELAYED_BYTES_MAX && self.delayed.insert(key.clone()) {
                self.delayed_bytes = bytes;
                self.events.push(Event::Delayed { resource: key.name().clone(), until });
            }
        }
    }

    /// Whether a record that says something already may begin these lock-delays, too.
    fn has_room_for_delays(&self, lost: &[&Grant]) -> bool {
        let delays = lost.iter().flat_map(|grant| delays_of(self.state, grant, self.at));
        let bytes: usize = delays.map(|(key, _)| delayed_bytes(&key)).sum();
        self.events.is_empty() || self.delayed_bytes + bytes <= DELAYED_BYTES_MAX
    }
}

enum Admission {
    Granted { claims: Vec<ClaimGranted>, hold_max_ms: Option<u64> },
    Queued,
}

/// The shortest of what a request asked and its resources' rules say, as they are when it is granted.
fn shortest(hold_max_ms: Option<u64>, limits: Limits<'_>) -> Option<u64> {
    [hold_max_ms, limits.hold_max_ms()].into_iter().flatten().min()
}

fn granted(request: &Request, claims: Vec<ClaimGranted>, hold_max_ms: Option<u64>) -> Event {
    Event::Granted {
        session: request.session,
        seq: request.seq,
        owner: request.owner,
        claims,
        priority: request.priority,
        hold_max_ms,
        wait_ms: request.wait_ms,
        reason: request.reason.clone(),
        value: request.value.clone(),
    }
}

/// What the decoder has checked already; a record's command comes from anywhere.
fn check_claims(claims: &[Claim]) -> Result<(), Reason> {
    if claims.is_empty() {
        return Err(Reason::NoClaims);
    }
    if claims.len() > CLAIMS_MAX {
        return Err(Reason::TooManyClaims);
    }
    for (i, claim) in claims.iter().enumerate() {
        if (claim.mode == Mode::Permits) != claim.permits.is_some_and(|permits| permits > 0) {
            return Err(Reason::InvalidPermits);
        }
        if claims[..i].iter().any(|other| other.resource == claim.resource) {
            return Err(Reason::DuplicateResource);
        }
    }
    Ok(())
}

/// The end of a grant. One that was being revoked ended for that reason, however it is acknowledged.
fn given_back(token: Token, grant: &Grant, reason: Reason) -> Event {
    match &grant.revoking {
        Some(revoking) => Event::Released { token, reason: revoking.reason, by: revoking.by.clone() },
        None => Event::Released { token, reason, by: None },
    }
}

/// At most what `{"delayed":{…}}` with its comma takes: a name's bytes may each be escaped.
fn delayed_bytes(key: &ResourceKey) -> usize {
    2 * key.name().as_str().len() + 80
}

fn delays_of<'a>(
    state: &'a State,
    grant: &'a Grant,
    at: Timestamp,
) -> impl Iterator<Item = (ResourceKey, Timestamp)> + 'a {
    grant.claims.iter().filter_map(move |claim| {
        let until = state.look_up_limits(&claim.resource).delayed_until(at)?;
        Some((ResourceKey::new(&claim.resource), until))
    })
}

impl State {
    /// Whether a resource belongs to this partition.
    fn is_here(&self, resource: &ResourceName) -> bool {
        let here = |genesis: &crate::log::record::Genesis| {
            genesis.partitions <= 1 || partition_of(resource, genesis.partitions) == genesis.partition
        };
        self.genesis.as_ref().is_none_or(here) || self.plants.has(Planted::AnyPartition)
    }
}
