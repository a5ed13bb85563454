//! What each message of the arbiter does.

use super::planted::Planted;
use super::request::{Owed, Repeat, State};
use super::sending::PROBE_ID;
use super::{End, Event, Output, Phase, RequestId, Session, SessionCore};
use crate::clock::Micros;
use crate::wire::{
    Alive, Granted, Opened, OwnerRef, Queued, Reason, Refused, Reply, ReplyBody, Seq, SessionId, Token,
};
use std::collections::{BTreeMap, BTreeSet};

/// Revocations of grants not heard of yet that are remembered; beyond it the oldest grant's is forgotten. A session
/// has at most W grants, so this is never met by an arbiter that follows the rules.
const REVOKED_MAX: usize = 1024;

impl SessionCore {
    /// The arbiter says something. `done`, and a `status` that this core has not asked for, are the driver's.
    pub fn reply(&mut self, now: Micros, reply: &Reply) {
        self.judge(now);
        match &reply.body {
            ReplyBody::Opened(opened) => self.opened(now, reply.epoch, opened),
            ReplyBody::Status(status) if status.id == PROBE_ID => {
                self.probe = None;
                if self.genesis.is_some_and(|known| known != status.genesis) {
                    self.another_log(now, reply.epoch);
                }
            }
            _ if reply.epoch < self.epoch => self.probe(now),
            body => {
                self.epoch = reply.epoch;
                match body {
                    ReplyBody::Refused(refused) if refused.id.is_some() => self.open_refused(now, refused),
                    body if self.is_ours(reply.session) => self.ours(now, reply.index, body),
                    _ => {}
                }
            }
        }
        self.pump(now);
    }

    fn is_ours(&self, session: Option<SessionId>) -> bool {
        matches!(&self.phase, Phase::Open(ours) if session == Some(ours.id))
    }

    fn ours(&mut self, now: Micros, index: u64, body: &ReplyBody) {
        match body {
            ReplyBody::Queued(queued) => self.queued(now, index, queued),
            ReplyBody::Granted(granted) => self.granted(now, granted),
            ReplyBody::Released(released) => self.over_token(released.token, released.reason),
            ReplyBody::Ended(ended) => self.over_seq(ended.seq, End::Ended(ended.reason)),
            ReplyBody::Refused(refused) => self.refused(now, refused),
            ReplyBody::Lost(lost) => self.revoked(now, lost.token, lost.reason),
            ReplyBody::Alive(alive) => self.alive(now, index, alive),
            ReplyBody::SessionEnded(ended) => self.end_session(now, ended.reason),
            ReplyBody::Opened(_) | ReplyBody::Status(_) | ReplyBody::Done(_) => {}
        }
    }

    fn opened(&mut self, now: Micros, epoch: u64, opened: &Opened) {
        let Phase::Opening(opening) = &self.phase else { return };
        if opening.id != opened.id {
            return;
        }
        // A lower epoch of the same log is a zombie's; of another log it is a beginning.
        if self.genesis == Some(opened.genesis) && epoch < self.epoch {
            return;
        }
        let lease_ms = opened.lease_ms;
        let counted_ms = match self.config.fail_fast_ms {
            Some(fail_fast_ms) if !self.plants.has(Planted::FailFastNotCounted) => lease_ms.min(fail_fast_ms),
            _ => lease_ms,
        };
        let first_sent = opening.first_sent.unwrap_or(now);
        let lease = super::Lease::new(counted_ms.saturating_mul(1000), first_sent, self.plants);
        let moved = opening.moved;
        let session = Session {
            id: opened.session,
            key: opening.key.clone(),
            // The first keep-alive is due by the sending of `open`, which is what renewed it.
            keep_alive_at: first_sent.saturating_add(lease.keep_alive_every()),
            lease,
            lease_length: lease_ms.saturating_mul(1000),
            in_flight_max: opened.in_flight_max.max(1).into(),
            next_seq: 1,
            live: BTreeMap::new(),
            owed: BTreeMap::new(),
            revoked: BTreeMap::new(),
            attach_n: 0,
            attached: 0,
            attach_known_by: 0,
            attach_wanted: None,
            alive_wanted: false,
            judged: 0,
            judged_held: BTreeSet::new(),
            heard_from: now,
            close_at: now,
            close_repeats: 0,
        };
        self.epoch = epoch;
        self.genesis = Some(opened.genesis);
        self.phase = Phase::Open(Box::new(session));
        self.event(Event::SessionOpened {
            session: opened.session,
            genesis: opened.genesis,
            partitions: opened.partitions,
        });
        self.judge(now);
        if moved {
            self.attach(now);
        }
    }

    fn open_refused(&mut self, now: Micros, refused: &Refused) {
        let Phase::Opening(opening) = &self.phase else { return };
        if refused.id.as_ref() != Some(&opening.id) || refused.reason == Reason::ShuttingDown {
            return;
        }
        self.phase = Phase::Idle;
        let (reason, detail) = (refused.reason, refused.detail.clone());
        let waiting: Vec<RequestId> = self.local.iter().copied().collect();
        for request in waiting {
            let end = End::Refused { reason, detail: detail.clone() };
            self.finish(request, |_| Some(Event::Ended { request, end }));
        }
        self.event(Event::OpenRefused { reason, detail });
        if self.closing {
            self.closed();
        }
        self.pump(now);
    }

    /// Everything is lost, and nothing that was known of epochs counts.
    fn another_log(&mut self, now: Micros, epoch: u64) {
        self.genesis = None;
        self.epoch = epoch;
        self.end_session(now, Reason::SessionEnded);
    }

    /// Held is lost; what waited is asked for again in another session, in its order.
    fn end_session(&mut self, now: Micros, reason: Reason) {
        let Phase::Open(session) = &mut self.phase else { return };
        let (id, live) = (session.id, std::mem::take(&mut session.live));
        let owed = std::mem::take(&mut session.owed);
        self.phase = Phase::Idle;
        self.event(Event::SessionEnded { session: id, reason });
        for (_, request) in live {
            let Some(entry) = self.requests.get_mut(&request) else { continue };
            match entry.state {
                State::Held { token } => {
                    self.finish(request, |_| Some(Event::Lost { request, token, reason }))
                }
                State::Lost { .. } => self.finish(request, |_| None),
                _ => {
                    (entry.seq, entry.state) = (None, State::Local);
                    self.local.insert(request);
                }
            }
        }
        for owed in owed.into_values() {
            self.settle(owed.request, owed.reason);
        }
        if self.closing {
            self.closed();
        }
        self.pump(now);
    }

    fn settle(&mut self, request: Option<RequestId>, reason: Reason) {
        if let Some(request) = request {
            self.event(Event::Settled { request, reason });
        }
    }

    fn request_of(&self, seq: Seq) -> Option<RequestId> {
        match &self.phase {
            Phase::Open(session) => session.live.get(&seq).copied(),
            _ => None,
        }
    }

    fn request_with(&self, token: Token) -> Option<RequestId> {
        let Phase::Open(session) = &self.phase else { return None };
        let holds = |request: &&RequestId| {
            self.requests.get(request).is_some_and(|entry| entry.state.token() == Some(token))
        };
        session.live.values().find(holds).copied()
    }

    fn queued(&mut self, now: Micros, index: u64, queued: &Queued) {
        let Some(request) = self.request_of(queued.seq) else {
            return self.unwanted(now, queued.seq, None);
        };
        let Some(entry) = self.requests.get_mut(&request) else { return };
        match &mut entry.state {
            State::Asked(_) => {}
            State::Waiting { index: known, .. } if *known <= index => {}
            // Undone since: nobody had believed it.
            State::Pending { token, .. } if *token < index => {}
            _ => return,
        }
        entry.state = State::Waiting { index, position: queued.position };
        self.event(Event::Position {
            request,
            position: queued.position,
            waiting: Some(queued.waiting),
            held_by: queued.held_by.clone(),
        });
    }

    fn granted(&mut self, now: Micros, granted: &Granted) {
        let (seq, token) = (granted.seq, granted.token);
        if self.is_over(token) {
            // An older copy, on an earlier connection. What became of it is the answer to the request, asked again.
            return;
        }
        let Some(request) = self.request_of(seq) else {
            return self.unwanted(now, seq, Some(token));
        };
        let Phase::Open(session) = &mut self.phase else { return };
        let revoked = session.revoked.remove(&token);
        let Some(entry) = self.requests.get_mut(&request) else { return };
        match &entry.state {
            State::Asked(_) | State::Waiting { .. } => {}
            State::Pending { token: known, .. } if *known <= token => {}
            State::Held { token: known } if *known < token => {
                // The log has undone a grant that was believed: no arbiter that follows the rules does that.
                self.lose(now, request, Reason::Unknown);
                return self.withdraw(now, request, Some(Reason::Unknown));
            }
            // A copy, or an older one.
            _ => return,
        }
        match revoked {
            Some(reason) => self.lost_unseen(now, request, token, reason),
            None => {
                let (granted, repeat) = (Some(granted.clone()), Repeat::due(now));
                entry.state = State::Pending { granted, token, repeat };
                self.believe(now, request);
            }
        }
    }

    /// Whether the newest `alive` says that this grant is not in force any more.
    fn is_over(&self, token: Token) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        token <= session.judged && !session.judged_held.contains(&token)
    }

    /// Holds what is granted, if the lease is in force and all of it is known.
    fn believe(&mut self, now: Micros, request: RequestId) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(entry) = self.requests.get_mut(&request) else { return };
        let State::Pending { granted: Some(granted), token, .. } = &entry.state else { return };
        if self.plants.has(Planted::AnyGrantedBelieved) {
            session.lease.restart(now);
        }
        if !session.lease.in_force(now) {
            return;
        }
        let (owner, until) = (OwnerRef(session.id, granted.seq), session.lease.until());
        let (granted, token) = (granted.clone(), *token);
        entry.state = State::Held { token };
        if let Some(at) = entry.give_up_at() {
            self.limits.remove(&(at, request));
        }
        let genesis = self.genesis.unwrap_or_default();
        self.event(Event::Granted { request, owner, granted, genesis, until });
    }

    /// A grant is revoked that its user has not seen: there is nothing to stop, so it is given back at once.
    fn lost_unseen(&mut self, now: Micros, request: RequestId, token: Token, reason: Reason) {
        if let Some(entry) = self.requests.get_mut(&request) {
            entry.state = State::Pending { granted: None, token, repeat: Repeat::due(now) };
        }
        self.event(Event::Ended { request, end: End::Lost(reason) });
        self.withdraw(now, request, Some(reason));
    }

    /// The arbiter has something of ours that we have no use for.
    fn unwanted(&mut self, now: Micros, seq: Seq, token: Option<Token>) {
        let Phase::Open(session) = &self.phase else { return };
        if seq >= session.next_seq {
            return;
        }
        match session.owed.get(&seq) {
            // Told already, with the same word.
            Some(owed) if token.is_none() || owed.token == token => {
                if token.is_some() && owed.repeat.count > 1 {
                    self.owe_number(now, seq, token, Owed::new(None, token, Reason::Released, true));
                }
            }
            _ => self.owe_number(now, seq, token, Owed::new(None, token, Reason::Released, true)),
        }
    }

    /// The arbiter says that this grant is over.
    fn over_token(&mut self, token: Token, reason: Reason) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.revoked.remove(&token);
        let seq = session.owed.iter().find(|(_, owed)| owed.token == Some(token)).map(|(seq, _)| *seq);
        if let Some(owed) = seq.and_then(|seq| session.owed.remove(&seq)) {
            return self.settle(owed.request, reason);
        }
        // One that we never heard of says nothing: a request whose grant it was is answered by its number.
        if let Some(request) = self.request_with(token) {
            self.finish(request, |state| match state {
                State::Held { .. } => Some(Event::Lost { request, token, reason }),
                State::Lost { .. } => None,
                _ => Some(Event::Ended { request, end: End::Lost(reason) }),
            });
        }
    }

    /// The arbiter says that this request is over.
    fn over_seq(&mut self, seq: Seq, end: End) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Some(owed) = session.owed.remove(&seq) {
            let reason = match end {
                End::Ended(reason) => reason,
                _ => owed.reason,
            };
            return self.settle(owed.request, reason);
        }
        let Some(request) = self.request_of(seq) else { return };
        self.finish(request, |state| match (state, &end) {
            (State::Held { token }, End::Ended(reason)) => {
                Some(Event::Lost { request, token: *token, reason: *reason })
            }
            (State::Held { token }, _) => {
                Some(Event::Lost { request, token: *token, reason: Reason::Unknown })
            }
            (State::Lost { .. }, _) => None,
            _ => Some(Event::Ended { request, end }),
        });
    }

    fn refused(&mut self, now: Micros, refused: &Refused) {
        let reason = refused.reason;
        match (refused.seq, refused.token) {
            // It will be asked again, of the next arbiter.
            _ if reason == Reason::ShuttingDown => {}
            (Some(seq), _) => {
                // A refusal of a number whose grant we have is an old copy of nonsense.
                let held = self.request_of(seq).and_then(|request| self.requests.get(&request));
                if held.is_none_or(|entry| entry.state.token().is_none()) {
                    self.over_seq(seq, End::Refused { reason, detail: refused.detail.clone() });
                }
            }
            (None, Some(token)) => {
                let Phase::Open(session) = &mut self.phase else { return };
                let seq =
                    session.owed.iter().find(|(_, owed)| owed.token == Some(token)).map(|(seq, _)| *seq);
                if let Some(owed) = seq.and_then(|seq| session.owed.remove(&seq)) {
                    self.settle(owed.request, owed.reason);
                }
            }
            (None, None) if reason == Reason::NotYours => self.end_session(now, reason),
            (None, None) => {}
        }
    }

    /// Revocation counts whether or not the grant has been seen.
    fn revoked(&mut self, now: Micros, token: Token, reason: Reason) {
        match self.request_with(token) {
            Some(request) => self.revoke(now, request, token, reason),
            None => {
                let Phase::Open(session) = &mut self.phase else { return };
                let known = session.owed.values().any(|owed| owed.token == Some(token));
                if known || self.plants.has(Planted::UnseenRevocationIgnored) {
                    return;
                }
                session.revoked.insert(token, reason);
                if session.revoked.len() > REVOKED_MAX {
                    session.revoked.pop_first();
                }
            }
        }
    }

    fn revoke(&mut self, now: Micros, request: RequestId, token: Token, reason: Reason) {
        match self.requests.get(&request).map(|entry| &entry.state) {
            Some(State::Held { .. }) => self.lose(now, request, reason),
            Some(State::Lost { .. }) | None => {}
            Some(_) => self.lost_unseen(now, request, token, reason),
        }
    }

    /// `alive`: a keep-alive counts, and all that the session has as of `index`.
    fn alive(&mut self, now: Micros, index: u64, alive: &Alive) {
        let Phase::Open(session) = &mut self.phase else { return };
        if index < session.judged {
            return;
        }
        session.judged = index;
        session.attached = session.attached.max(alive.attached);
        let was_in_force = session.lease.in_force(now);
        if session.lease.confirm(alive.n, now) && session.lease.in_force(now) {
            let until = session.lease.until();
            self.event(Event::Believed { until });
        }
        if self.plants.has(Planted::AnyAliveRevives) && !was_in_force {
            self.confirm_anything(now);
        }
        let held: BTreeMap<Seq, Token> = alive.held.iter().copied().collect();
        let positions: BTreeMap<Seq, u64> = alive.positions.iter().copied().collect();
        let revoked: BTreeMap<Token, Reason> = alive.revoked.iter().map(|gone| (gone.0, gone.1)).collect();
        for (seq, token) in &held {
            match self.request_of(*seq) {
                Some(request) => self.found_held(now, request, *token, revoked.get(token).copied()),
                None => self.unwanted(now, *seq, Some(*token)),
            }
        }
        if let Phase::Open(session) = &mut self.phase {
            session.judged_held = held.values().copied().collect();
        }
        self.judge_live(now, index, &held, &positions);
        self.judge_owed(now, index, alive.n, &held, &positions);
        let Phase::Open(session) = &mut self.phase else { return };
        session.revoked.retain(|token, _| *token > index || held.values().any(|held| held == token));
        // Suspended until the next attach; or an attach that did not arrive although what was sent after it did.
        let passed_over = !alive.suspended.is_empty() && alive.attached >= session.attach_n;
        let not_arrived = alive.attached < session.attach_n && alive.n >= session.attach_known_by;
        if (passed_over || not_arrived) && session.attach_wanted.is_none() && self.address.is_some() {
            session.attach_wanted = Some(now);
            self.outputs.push_back(Output::AttachWanted { fresh: false });
        }
    }

    /// The planted bug of 12.
    fn confirm_anything(&mut self, now: Micros) {
        let Phase::Open(session) = &mut self.phase else { return };
        let n = session.lease.send(now);
        session.lease.confirm(n, now);
    }

    fn found_held(&mut self, now: Micros, request: RequestId, token: Token, revoked: Option<Reason>) {
        let Phase::Open(session) = &self.phase else { return };
        let revoked = revoked.or_else(|| session.revoked.get(&token).copied());
        let Some(entry) = self.requests.get_mut(&request) else { return };
        let known = entry.state.token();
        match &entry.state {
            State::Held { .. } | State::Lost { .. } if known == Some(token) => {}
            State::Held { .. } | State::Lost { .. } | State::Local => return,
            State::Pending { .. } if known > Some(token) => return,
            State::Pending { .. } if known == Some(token) => {}
            _ if self.plants.has(Planted::HeldTellsNothing) => return,
            // Granted, and the message has not come: it is asked again for its floors and receipt.
            _ => entry.state = State::Pending { granted: None, token, repeat: Repeat::due(now) },
        }
        match revoked {
            Some(reason) => self.revoke(now, request, token, reason),
            None => self.believe(now, request),
        }
    }

    /// Each of our requests, against what the arbiter has of it as of `index`.
    fn judge_live(
        &mut self,
        now: Micros,
        index: u64,
        held: &BTreeMap<Seq, Token>,
        positions: &BTreeMap<Seq, u64>,
    ) {
        let Phase::Open(session) = &self.phase else { return };
        let live: Vec<(Seq, RequestId)> =
            session.live.iter().map(|(seq, request)| (*seq, *request)).collect();
        let beyond = self.plants.has(Planted::AliveJudgesBeyondItsIndex);
        for (seq, request) in live {
            let Some(entry) = self.requests.get_mut(&request) else { continue };
            let place = positions.get(&seq).copied();
            let still = |token: Token| held.get(&seq) == Some(&token) || (token > index && !beyond);
            match &mut entry.state {
                State::Held { token } if !still(*token) => {
                    let (token, reason) = (*token, Reason::Ended);
                    self.finish(request, |_| Some(Event::Lost { request, token, reason }));
                }
                State::Lost { token, .. } if !still(*token) => self.finish(request, |_| None),
                State::Pending { token, .. } if still(*token) => {}
                State::Asked(_) | State::Pending { .. } | State::Waiting { .. } if place.is_some() => {
                    let position = place.unwrap_or_default();
                    let known = match &entry.state {
                        State::Waiting { index: newer, .. } if *newer > index => continue,
                        State::Waiting { position, .. } => Some(*position),
                        _ => None,
                    };
                    entry.state = State::Waiting { index, position };
                    if known != Some(position) {
                        self.event(Event::Position { request, position, waiting: None, held_by: None });
                    }
                }
                // Neither held nor waiting: its end is what we have not heard.
                State::Waiting { index: queued, .. }
                    if *queued <= index
                        && !held.contains_key(&seq)
                        && !self.plants.has(Planted::AbsenceTellsNothing) =>
                {
                    entry.state = State::Asked(Repeat::due(now));
                }
                // Granted, never believed, and over: forward only. Asked again, it would be answered by a token that
                // nobody remembers, and an older copy of its `granted` would be believed.
                State::Pending { .. } => {
                    self.finish(request, |_| Some(Event::Ended { request, end: End::Lost(Reason::Ended) }));
                }
                _ => {}
            }
        }
    }

    /// What the arbiter was to be told: whether it knows.
    fn judge_owed(
        &mut self,
        now: Micros,
        index: u64,
        n: u64,
        held: &BTreeMap<Seq, Token>,
        positions: &BTreeMap<Seq, u64>,
    ) {
        let Phase::Open(session) = &mut self.phase else { return };
        let waiting: BTreeSet<Seq> = positions.keys().copied().collect();
        let over = |(seq, owed): (&Seq, &Owed)| {
            let gone = !held.contains_key(seq) && !waiting.contains(seq);
            let known = match owed.token {
                Some(token) => token <= index,
                // The keep-alive was sent after it, on the same way.
                None => n > owed.after_n,
            };
            (gone && known).then_some(*seq)
        };
        let over: Vec<Seq> = session.owed.iter().filter_map(over).collect();
        for seq in over {
            let Phase::Open(session) = &mut self.phase else { return };
            if let Some(owed) = session.owed.remove(&seq) {
                self.settle(owed.request, owed.reason);
            }
        }
        for seq in waiting {
            if self.request_of(seq).is_none() {
                self.unwanted(now, seq, None);
            }
        }
    }
}
