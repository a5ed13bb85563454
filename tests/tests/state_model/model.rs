//! The rules of design.md, sections 5 and 6, written down as plainly as possible: lists, loops, no index.
//!
//! Written from the design, not from the state machine: whoever changes one and not the other sees it here.

use arbiterq::log::record::{AcquireCommand, Command, DUE_MAX, Event, Policy, Rule, WAITERS_MAX_DEFAULT};
use arbiterq::state::{Known, Outcome};
use arbiterq_client::wire::{
    Cause, Claim, ClaimGranted, Hash, Mode, OwnerRef, Reason, ResourceName, Seq, SessionId, Timestamp, Token,
};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    key_hash: Hash,
    principal: Arc<str>,
    pub(crate) lease_ms: u64,
    fail_fast_ms: Option<u64>,
    window: u64,
    pub(crate) n: u64,
    pub(crate) attached: u64,
    lease_from: Timestamp,
    unreachable: Option<Timestamp>,
    /// Every number that was ever used.
    seen: Vec<Seq>,
    kept: Vec<(Seq, Outcome)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) session: SessionId,
    pub(crate) seq: Seq,
    claims: Vec<Claim>,
    owner: Option<OwnerRef>,
    priority: u8,
    place: u64,
    wait_ms: Option<u64>,
    wait_until: Option<Timestamp>,
    hold_max_ms: Option<u64>,
    pub(crate) state: Stands,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stands {
    Waiting,
    Suspended,
    Held {
        token: Token,
        hold_until: Option<Timestamp>,
        revoking: Option<(Reason, Option<Arc<str>>, Timestamp)>,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) next_index: u64,
    at: Timestamp,
    epoch_at: Timestamp,
    paused: bool,
    policy: Policy,
    pub(crate) sessions: Vec<Session>,
    pub(crate) requests: Vec<Request>,
    /// Until when, and for how long.
    delays: Vec<(ResourceName, Timestamp, u64)>,
}

impl Session {
    fn lease_until(&self) -> Timestamp {
        self.lease_from.plus_ms(self.lease_ms)
    }

    fn fail_fast_until(&self) -> Option<Timestamp> {
        Some(self.unreachable?.plus_ms(self.fail_fast_ms?))
    }

    fn due(&self) -> (Timestamp, Reason) {
        let lease = (self.lease_until(), Reason::LeaseExpired);
        let fail_fast = self.fail_fast_until().map(|until| (until, Reason::FailFast));
        fail_fast.filter(|fail_fast| fail_fast.0 < lease.0).unwrap_or(lease)
    }

    fn is_old(&self, seq: Seq) -> bool {
        self.seen.iter().any(|seen| seq + self.window <= *seen)
    }

    fn end(&mut self, seq: Seq, outcome: Outcome) {
        self.seen.push(seq);
        self.kept.push((seq, outcome));
        if self.kept.len() as u64 > 2 * self.window {
            let first_old = self.kept.iter().position(|(seq, _)| self.is_old(*seq)).unwrap();
            self.kept.remove(first_old);
        }
    }
}

impl Request {
    fn turn(&self) -> (std::cmp::Reverse<u8>, u64) {
        (std::cmp::Reverse(self.priority), self.place)
    }

    fn owner(&self) -> OwnerRef {
        self.owner.unwrap_or(OwnerRef(self.session, self.seq))
    }

    pub(crate) fn token(&self) -> Option<Token> {
        match self.state {
            Stands::Held { token, .. } => Some(token),
            _ => None,
        }
    }

    fn revoking(&self) -> Option<&(Reason, Option<Arc<str>>, Timestamp)> {
        match &self.state {
            Stands::Held { revoking, .. } => revoking.as_ref(),
            _ => None,
        }
    }
}

impl Model {
    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    fn request(&self, session: SessionId, seq: Seq) -> Option<&Request> {
        self.requests.iter().find(|request| (request.session, request.seq) == (session, seq))
    }

    pub(crate) fn holding(&self, token: Token) -> Option<&Request> {
        self.requests.iter().find(|request| request.token() == Some(token))
    }

    fn rule(&self, resource: &ResourceName) -> Rule {
        // The patterns of these tests: a name, or a prefix and a star.
        let matches = |rule: &&Rule| match rule.pattern.strip_suffix('*') {
            Some(prefix) => resource.as_str().starts_with(prefix),
            None => *rule.pattern == *resource.as_str(),
        };
        self.policy.rules.iter().find(matches).cloned().unwrap_or_default()
    }

    fn capacity(&self, resource: &ResourceName) -> u32 {
        self.rule(resource).capacity.unwrap_or(1)
    }

    fn allows(&self, resource: &ResourceName, principal: &Arc<str>) -> bool {
        self.rule(resource).allow.is_none_or(|allow| allow.contains(principal))
    }

    pub(crate) fn known(&self, session: SessionId, seq: Seq) -> Known {
        let Some(known) = self.session(session) else { return Known::Forgotten };
        if let Some(request) = self.request(session, seq) {
            return request.token().map_or(Known::Waiting, Known::Held);
        }
        match known.kept.iter().find(|(kept, _)| *kept == seq) {
            Some((_, outcome)) => Known::Over(*outcome),
            None if known.seen.contains(&seq) || known.is_old(seq) => Known::Forgotten,
            None => Known::New,
        }
    }

    /// Its claims fit beside all holders' and all earlier eligible waiters' as if they held.
    fn fits(&self, claims: &[Claim], turn: (std::cmp::Reverse<u8>, u64), clamp: bool, at: Timestamp) -> bool {
        claims.iter().all(|claim| {
            let counts = |other: &&Request| match other.state {
                Stands::Held { .. } => true,
                Stands::Waiting => other.turn() < turn,
                Stands::Suspended => false,
            };
            let others = self.requests.iter().filter(counts).flat_map(|other| &other.claims);
            let others: Vec<&Claim> = others.filter(|other| other.resource == claim.resource).collect();
            let capacity = self.capacity(&claim.resource);
            let taken: u32 = others.iter().filter_map(|other| other.permits).sum();
            let asked = claim.permits.unwrap_or(0);
            let asked = if clamp { asked.min(capacity) } else { asked };
            let delayed = self.delays.iter().any(|(name, until, _)| *name == claim.resource && *until > at);
            !delayed
                && match claim.mode {
                    Mode::Exclusive => others.is_empty(),
                    Mode::Shared => others.iter().all(|other| other.mode == Mode::Shared),
                    Mode::Permits => {
                        others.iter().all(|other| other.mode == Mode::Permits) && taken + asked <= capacity
                    }
                }
        })
    }

    /// The first waiter whose turn it is.
    fn next(&self, at: Timestamp) -> Option<&Request> {
        let eligible =
            self.requests.iter().filter(|request| request.state == Stands::Waiting && !self.paused);
        let turns = eligible.filter(|request| self.fits(&request.claims, request.turn(), true, at));
        turns.min_by_key(|request| request.turn())
    }

    /// Its place in line, from 1; the largest where several resources are claimed.
    pub(crate) fn position(&self, session: SessionId, seq: Seq) -> u64 {
        let request = self.request(session, seq).unwrap();
        let positions = request.claims.iter().map(|claim| {
            let waiting = self.requests.iter().filter(|other| other.token().is_none());
            let there = waiting.filter(|other| other.claims.iter().any(|c| c.resource == claim.resource));
            there.filter(|other| other.turn() <= request.turn()).count() as u64
        });
        positions.max().unwrap()
    }

    pub(crate) fn can_advance(&self) -> bool {
        self.next(self.at).is_some()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let sessions = self.sessions.iter().map(|session| session.due().0);
        let requests = self.requests.iter().filter_map(|request| match &request.state {
            Stands::Held { revoking: Some((_, _, until)), .. } => Some(*until),
            Stands::Held { hold_until, .. } => *hold_until,
            Stands::Waiting | Stands::Suspended => request.wait_until,
        });
        sessions.chain(requests).chain(self.delays.iter().map(|(_, until, _)| *until)).min()
    }

    pub(crate) fn decide(&self, command: &Command, at: Timestamp) -> Vec<Event> {
        match command {
            Command::Open(open) => {
                let taken = self.sessions.iter().any(|session| session.key_hash == open.key_hash);
                if taken || self.sessions.len() >= self.policy.sessions_max as usize {
                    return vec![];
                }
                vec![Event::Opened {
                    key_hash: open.key_hash,
                    lease_ms: open.lease_ms.min(self.policy.lease_ms_max),
                    fail_fast_ms: open.fail_fast_ms,
                    in_flight_max: self.policy.in_flight_max,
                    label: open.label.clone(),
                    principal: open.principal.clone(),
                    principal_by: open.principal_by,
                    reply_to: open.reply_to.clone(),
                }]
            }
            Command::Attach { session, n, reply_to } => match self.session(*session) {
                Some(known) if *n > known.attached => {
                    vec![Event::Attached { session: *session, n: *n, reply_to: reply_to.clone() }]
                }
                _ => vec![],
            },
            Command::Acquire(acquire) if self.known(acquire.session, acquire.seq) == Known::New => {
                vec![self.acquire(acquire, at)]
            }
            Command::Acquire(_) => vec![],
            Command::Release { session, token } => match self.holding(*token) {
                Some(request) if request.session == *session => {
                    vec![released(request, *token, Reason::Released)]
                }
                _ => vec![],
            },
            Command::Cancel { session, seq } => match self.known(*session, *seq) {
                Known::New | Known::Waiting => {
                    vec![Event::Ended { session: *session, seq: *seq, reason: Reason::Cancelled }]
                }
                Known::Held(token) => vec![released(self.holding(token).unwrap(), token, Reason::Cancelled)],
                Known::Over(_) | Known::Forgotten => vec![],
            },
            Command::Close { session } => match self.session(*session) {
                Some(_) => vec![Event::SessionEnded { session: *session, reason: Reason::Closed }],
                None => vec![],
            },
            Command::Tick { at: by } => self.tick(*by, at),
            Command::Gone { session, n, seq, cause } => self.gone(*session, *n, *seq, *cause, at),
            Command::Advance => self.next(at).map(|next| self.advance(next)).into_iter().collect(),
            Command::ForceRelease { resource, token, by, now, .. } => {
                let Some(request) = self.holding(*token) else { return vec![] };
                let there = request.claims.iter().any(|claim| claim.resource == *resource);
                match (there, *now, request.revoking()) {
                    (false, _, _) | (true, false, Some(_)) => vec![],
                    (true, false, None) => vec![self.revoking(request, Reason::Forced, Some(by.clone()), at)],
                    (true, true, _) => {
                        let by = Some(by.clone());
                        let mut events = vec![Event::Released { token: *token, reason: Reason::Forced, by }];
                        self.delay(request, at, &mut events);
                        events
                    }
                }
            }
            Command::Pause { reason, by } if !self.paused => {
                vec![Event::Paused { by: by.clone(), reason: reason.clone() }]
            }
            Command::Resume { reason, by } if self.paused => {
                vec![Event::Resumed { by: by.clone(), reason: reason.clone() }]
            }
            _ => vec![],
        }
    }

    fn acquire(&self, acquire: &AcquireCommand, at: Timestamp) -> Event {
        let session = self.session(acquire.session).unwrap();
        let own = OwnerRef(acquire.session, acquire.seq);
        let named = acquire.owner.unwrap_or(own);
        let owner = self.request(named.0, named.1).map_or(named, Request::owner);
        let turn = (std::cmp::Reverse(acquire.priority), self.next_index);
        let live = self.requests.iter().filter(|request| request.session == session.id).count() as u64;
        let fits = !self.paused && self.fits(&acquire.claims, turn, false, at);
        let holds = |claim: &Claim| {
            let holders = self.requests.iter().filter(|request| request.token().is_some());
            let mut holders =
                holders.filter(|request| request.claims.iter().any(|c| c.resource == claim.resource));
            holders.any(|request| request.owner() == owner)
        };
        let no_room = |claim: &Claim| {
            let waiting = self.requests.iter().filter(|request| request.token().is_none());
            let waiting =
                waiting.filter(|request| request.claims.iter().any(|c| c.resource == claim.resource));
            let most = self.rule(&claim.resource).waiters_max.unwrap_or(WAITERS_MAX_DEFAULT);
            waiting.count() >= most as usize
        };
        let bad = |claim: &Claim| {
            if !self.allows(&claim.resource, &session.principal) {
                Some(Reason::NotAllowed)
            } else if claim.permits.is_some_and(|permits| permits > self.capacity(&claim.resource)) {
                Some(Reason::OverCapacity)
            } else {
                holds(claim).then_some(Reason::Held)
            }
        };
        let refused = if live >= session.window {
            Some(Reason::InFlightMax)
        } else if let Some(reason) = acquire.claims.iter().find_map(bad) {
            Some(reason)
        } else if fits {
            None
        } else if acquire.wait_ms == Some(0) {
            Some(Reason::Busy)
        } else {
            acquire.claims.iter().any(no_room).then_some(Reason::WaitersMax)
        };
        if let Some(reason) = refused {
            return Event::Refused { session: acquire.session, seq: acquire.seq, reason };
        }
        let request = Request {
            session: acquire.session,
            seq: acquire.seq,
            claims: acquire.claims.clone(),
            owner: Some(owner).filter(|owner| *owner != own),
            priority: acquire.priority,
            place: self.next_index,
            wait_ms: acquire.wait_ms,
            wait_until: None,
            hold_max_ms: acquire.hold_max_ms,
            state: Stands::Waiting,
        };
        if fits {
            return self.granted(&request);
        }
        Event::Queued {
            session: request.session,
            seq: request.seq,
            claims: request.claims,
            owner: request.owner,
            priority: request.priority,
            wait_ms: request.wait_ms,
            hold_max_ms: request.hold_max_ms,
            reason: None,
            value: None,
        }
    }

    fn granted(&self, request: &Request) -> Event {
        let token = self.next_index;
        let rules = request.claims.iter().filter_map(|claim| self.rule(&claim.resource).hold_max_ms);
        let hold_max_ms = rules.chain(request.hold_max_ms).min();
        let claims = request.claims.iter().map(|claim| {
            let on = |other: &&Request| other.claims.iter().any(|other| other.resource == claim.resource);
            let tokens = self.requests.iter().filter(on).filter_map(Request::token);
            ClaimGranted {
                resource: claim.resource.clone(),
                mode: claim.mode,
                permits: claim.permits,
                capacity: self.capacity(&claim.resource),
                floor: tokens.chain([token]).min().unwrap(),
            }
        });
        Event::Granted {
            session: request.session,
            seq: request.seq,
            owner: request.owner,
            claims: claims.collect(),
            priority: request.priority,
            hold_max_ms,
            wait_ms: request.wait_ms,
            reason: None,
            value: None,
        }
    }

    fn advance(&self, next: &Request) -> Event {
        let principal = &self.session(next.session).unwrap().principal;
        let allowed = next.claims.iter().all(|claim| {
            self.allows(&claim.resource, principal)
                && claim.permits.unwrap_or(0)
                    <= if claim.permits.is_some() { self.capacity(&claim.resource) } else { 0 }
        });
        match allowed {
            true => self.granted(next),
            false => Event::Ended { session: next.session, seq: next.seq, reason: Reason::Policy },
        }
    }

    fn revoking(&self, request: &Request, reason: Reason, by: Option<Arc<str>>, at: Timestamp) -> Event {
        let until = at.plus_ms(self.session(request.session).unwrap().lease_ms);
        Event::Revoking { token: request.token().unwrap(), reason, by, until }
    }

    /// What was lost is delayed, each resource once.
    fn delay(&self, request: &Request, at: Timestamp, events: &mut Vec<Event>) {
        for claim in &request.claims {
            let ms = self.rule(&claim.resource).lock_delay_ms.unwrap_or(0);
            let event = Event::Delayed { resource: claim.resource.clone(), until: at.plus_ms(ms) };
            if ms > 0 && !events.contains(&event) {
                events.push(event);
            }
        }
    }

    fn delay_all(&self, session: SessionId, at: Timestamp, events: &mut Vec<Event>) {
        let mut held: Vec<&Request> = self.requests.iter().filter(|r| r.session == session).collect();
        held.retain(|request| request.token().is_some());
        held.sort_by_key(|request| request.seq);
        held.into_iter().for_each(|request| self.delay(request, at, events));
    }

    fn tick(&self, by: Timestamp, at: Timestamp) -> Vec<Event> {
        let mut events = Vec::new();
        let mut sessions: Vec<(Timestamp, SessionId, Reason)> =
            self.sessions.iter().map(|session| (session.due().0, session.id, session.due().1)).collect();
        sessions.retain(|(until, _, _)| *until <= by);
        sessions.sort_by_key(|(until, id, _)| (*until, *id));
        for (_, session, reason) in &sessions {
            events.push(Event::SessionEnded { session: *session, reason: *reason });
            self.delay_all(*session, at, &mut events);
        }
        let ended = |request: &&Request| sessions.iter().any(|(_, session, _)| *session == request.session);
        let left: Vec<&Request> = self.requests.iter().filter(|request| !ended(request)).collect();
        let mut waits: Vec<&Request> =
            left.iter().copied().filter(|request| request.token().is_none()).collect();
        waits.retain(|request| request.wait_until.is_some_and(|until| until <= by));
        waits.sort_by_key(|request| (request.wait_until, request.place));
        for Request { session, seq, .. } in waits {
            events.push(Event::Ended { session: *session, seq: *seq, reason: Reason::WaitLimit });
        }
        let mut holds = Vec::new();
        let mut revocations = Vec::new();
        for request in left {
            match &request.state {
                Stands::Held { token, revoking: Some((_, _, until)), .. } => {
                    revocations.push((*until, *token))
                }
                Stands::Held { token, hold_until: Some(until), .. } => holds.push((*until, *token)),
                _ => {}
            }
        }
        holds.sort();
        for (_, token) in holds.into_iter().filter(|(until, _)| *until <= by) {
            events.push(self.revoking(self.holding(token).unwrap(), Reason::HoldLimit, None, at));
        }
        revocations.sort();
        for (_, token) in revocations.into_iter().filter(|(until, _)| *until <= by) {
            let request = self.holding(token).unwrap();
            events.push(released(request, token, Reason::Released));
            self.delay(request, at, &mut events);
        }
        assert!(events.len() <= DUE_MAX, "these tests are smaller than the bound");
        events
    }

    fn gone(&self, id: SessionId, n: u64, seq: Option<Seq>, cause: Cause, at: Timestamp) -> Vec<Event> {
        let Some(session) = self.session(id).filter(|session| session.attached == n) else { return vec![] };
        match (cause, seq) {
            (Cause::Closed, _) => {
                let mut events = vec![Event::SessionEnded { session: id, reason: Reason::ConnectionClosed }];
                self.delay_all(id, at, &mut events);
                events
            }
            (Cause::Returned, Some(seq)) => match self.request(id, seq) {
                Some(request) if request.token().is_some() && request.revoking().is_none() => {
                    vec![Event::Suspended { session: id, seq, token: request.token().unwrap() }]
                }
                _ => vec![],
            },
            (Cause::Returned, None) => {
                let too_early = at < self.epoch_at.plus_ms(session.lease_ms);
                if too_early || session.unreachable.is_some() {
                    return vec![];
                }
                vec![Event::Unreachable { session: id, n }]
            }
        }
    }

    pub(crate) fn renew(&mut self, renewed: &[(SessionId, u64)], at: Timestamp) {
        for (id, n) in renewed {
            if let Some(session) = self.session_mut(*id).filter(|session| *n > session.n) {
                (session.n, session.lease_from, session.unreachable) = (*n, at, None);
            }
        }
    }

    pub(crate) fn apply(&mut self, events: &[Event], at: Timestamp) {
        for event in events {
            self.take(event, at);
        }
        self.delays.retain(|(_, until, _)| *until > at);
        self.at = at;
        self.next_index += 1;
    }

    fn take(&mut self, event: &Event, at: Timestamp) {
        let index = self.next_index;
        match event {
            Event::EpochStarted { .. } => {
                let gap = at.since(self.at);
                for session in &mut self.sessions {
                    (session.lease_from, session.unreachable) = (at, None);
                }
                for request in &mut self.requests {
                    request.wait_until = request.wait_until.map(|until| until.plus(gap));
                    if let Stands::Held { hold_until, revoking, .. } = &mut request.state {
                        *hold_until = hold_until.map(|until| until.plus(gap));
                        if let Some((_, _, until)) = revoking {
                            *until = until.plus(gap);
                        }
                    }
                }
                for (_, until, ms) in &mut self.delays {
                    *until = at.plus_ms(*ms);
                }
                self.epoch_at = at;
            }
            Event::Policy(policy) => self.policy = policy.clone(),
            Event::Opened { key_hash, lease_ms, fail_fast_ms, in_flight_max, principal, .. } => {
                self.sessions.push(Session {
                    id: index,
                    key_hash: *key_hash,
                    principal: principal.clone(),
                    lease_ms: *lease_ms,
                    fail_fast_ms: *fail_fast_ms,
                    window: (*in_flight_max).into(),
                    n: 0,
                    attached: 0,
                    lease_from: at,
                    unreachable: None,
                    seen: Vec::new(),
                    kept: Vec::new(),
                });
            }
            Event::Attached { session: id, n, .. } => {
                let session = self.session_mut(*id).unwrap();
                (session.attached, session.unreachable) = (*n, None);
                for request in self.requests.iter_mut().filter(|request| request.session == *id) {
                    if request.state == Stands::Suspended {
                        request.state = Stands::Waiting;
                    }
                }
            }
            Event::Unreachable { session, .. } => self.session_mut(*session).unwrap().unreachable = Some(at),
            Event::SessionEnded { session, .. } => {
                self.sessions.retain(|known| known.id != *session);
                self.requests.retain(|request| request.session != *session);
            }
            Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, .. } => {
                self.session_mut(*session).unwrap().seen.push(*seq);
                self.requests.push(Request {
                    session: *session,
                    seq: *seq,
                    claims: claims.clone(),
                    owner: *owner,
                    priority: *priority,
                    place: index,
                    wait_ms: *wait_ms,
                    wait_until: wait_ms.map(|ms| at.plus_ms(ms)),
                    hold_max_ms: *hold_max_ms,
                    state: Stands::Waiting,
                });
            }
            Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, .. } => {
                let hold_until = hold_max_ms.map(|ms| at.plus_ms(ms));
                let state = Stands::Held { token: index, hold_until, revoking: None };
                let mut requests = self.requests.iter_mut();
                if let Some(request) =
                    requests.find(|request| (request.session, request.seq) == (*session, *seq))
                {
                    request.state = state;
                    return;
                }
                self.session_mut(*session).unwrap().seen.push(*seq);
                let claim = |claim: &ClaimGranted| Claim {
                    resource: claim.resource.clone(),
                    mode: claim.mode,
                    permits: claim.permits,
                };
                self.requests.push(Request {
                    session: *session,
                    seq: *seq,
                    claims: claims.iter().map(claim).collect(),
                    owner: *owner,
                    priority: *priority,
                    place: index,
                    wait_ms: *wait_ms,
                    wait_until: wait_ms.map(|ms| at.plus_ms(ms)),
                    hold_max_ms: *hold_max_ms,
                    state,
                });
            }
            Event::Refused { session, seq, reason } => {
                self.session_mut(*session).unwrap().end(*seq, Outcome::Refused(*reason));
            }
            Event::Ended { session, seq, reason } => {
                self.requests.retain(|request| (request.session, request.seq) != (*session, *seq));
                self.session_mut(*session).unwrap().end(*seq, Outcome::Ended(*reason));
            }
            Event::Released { token, reason, .. } => {
                let Request { session, seq, .. } = *self.holding(*token).unwrap();
                self.requests.retain(|request| request.token() != Some(*token));
                self.session_mut(session).unwrap().end(seq, Outcome::Released(*token, *reason));
            }
            Event::Revoking { token: revoked, reason, by, until } => {
                for request in &mut self.requests {
                    if let Stands::Held { token, revoking, .. } = &mut request.state
                        && token == revoked
                    {
                        *revoking = Some((*reason, by.clone(), *until));
                    }
                }
            }
            Event::Suspended { token, .. } => {
                let mut requests = self.requests.iter_mut();
                requests.find(|request| request.token() == Some(*token)).unwrap().state = Stands::Suspended;
            }
            Event::Delayed { resource, until } => {
                let (mut until, mut ms) = (*until, until.since(at).as_millis() as u64);
                if let Some(i) = self.delays.iter().position(|(name, _, _)| name == resource) {
                    let (_, earlier_until, earlier_ms) = self.delays.remove(i);
                    (until, ms) = (until.max(earlier_until), ms.max(earlier_ms));
                }
                self.delays.push((resource.clone(), until, ms));
            }
            Event::Paused { .. } => self.paused = true,
            Event::Resumed { .. } => self.paused = false,
            Event::Genesis(_) | Event::Checkpoint { .. } | Event::Closed { .. } => {}
        }
    }
}

fn released(request: &Request, token: Token, reason: Reason) -> Event {
    match request.revoking() {
        Some((reason, by, _)) => Event::Released { token, reason: *reason, by: by.clone() },
        None => Event::Released { token, reason, by: None },
    }
}
