//! What is sent, repeated and given up, and when.

use super::planted::Planted;
use super::request::{Owed, Repeat, State};
use super::{End, Event, Output, Phase, RequestId, Session, SessionCore};
use crate::clock::Micros;
use crate::wire::{
    Attach, Auth, Cancel, Close, KeepAlive, Open, Reason, Release, Request, RequestBody, Seq, StatusAsk,
    StatusWhat,
};

/// The first repeat of what is not answered. An arbiter under load needs milliseconds.
const REPEAT_FIRST: Micros = 1_000_000;
/// The longest wait between repeats.
const REPEAT_MAX: Micros = 15_000_000;
/// An `alive` is overdue after a quarter of the lease, but not sooner and not later than this.
const OVERDUE_MIN: Micros = 250_000;
const OVERDUE_MAX: Micros = 5_000_000;
/// A question about the log's identity is asked at most so often.
const PROBE_EVERY: Micros = 1_000_000;
/// The `id` of that question.
pub(super) const PROBE_ID: &str = "genesis";

impl SessionCore {
    /// When [`tick`](Self::tick) is wanted next. The connection's own times are the driver's.
    pub fn next_wake(&self) -> Option<Micros> {
        let mut next = Next(self.limits.first().map(|(at, _)| *at));
        let connected = self.address.is_some();
        match &self.phase {
            Phase::Opening(opening) if connected => next.at(opening.next_at),
            Phase::Open(session) => {
                let busy = self.busy();
                if busy && !session.lease.lapsed() {
                    next.at(session.lease.until());
                }
                if busy && connected {
                    next.at(session.keep_alive_at);
                    if session.attach_wanted.is_none() {
                        next.some(session.overdue_at());
                    }
                }
                if self.closing && connected {
                    next.at(session.close_at);
                }
                for entry in session.live.values().filter_map(|request| self.requests.get(request)) {
                    match &entry.state {
                        State::Asked(repeat) | State::Pending { granted: None, repeat, .. } if connected => {
                            next.at(repeat.at);
                        }
                        State::Lost { give_back_at, .. } => next.at(*give_back_at),
                        _ => {}
                    }
                }
                if connected {
                    session.owed.values().for_each(|owed| next.at(owed.repeat.at));
                }
            }
            _ => {}
        }
        next.0
    }

    /// What the clock alone decides: always before anything else is looked at.
    pub(super) fn judge(&mut self, now: Micros) {
        let mut lapsed = false;
        if let Phase::Open(session) = &mut self.phase
            && !session.lease.lapsed()
            && now >= session.lease.until()
        {
            session.lease.lapse();
            // One sent since is what brings belief back.
            session.keep_alive_at = now;
            lapsed = true;
        }
        if lapsed {
            if !self.plants.has(Planted::AnyAliveRevives) {
                self.lose_all_held(now);
            }
            self.settle_releases();
        }
        while let Some((at, request)) = self.limits.first().copied().filter(|(at, _)| now >= *at) {
            self.limits.remove(&(at, request));
            let held = self
                .requests
                .get(&request)
                .is_some_and(|entry| matches!(entry.state, State::Held { .. } | State::Lost { .. }));
            if !held && self.requests.contains_key(&request) {
                let local = matches!(self.state(request), Some(State::Local));
                let end = if local && self.is_heard(now) {
                    // It waited for room in the session, not for the arbiter.
                    End::Ended(Reason::WaitLimit)
                } else {
                    End::NoAnswer
                };
                self.event(Event::Ended { request, end });
                self.withdraw(now, request, None);
            }
        }
        let due: Vec<RequestId> = match &self.phase {
            Phase::Open(session) => session.live.values().copied().collect(),
            _ => Vec::new(),
        };
        for request in due {
            if let Some(State::Lost { reason, give_back_at, .. }) = self.state(request)
                && now >= *give_back_at
            {
                let reason = *reason;
                self.withdraw(now, request, Some(reason));
            }
        }
    }

    /// Whether the arbiter answers, as far as is known.
    fn is_heard(&self, now: Micros) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        let overdue = session.overdue_at().is_some_and(|at| now >= at);
        self.address.is_some() && session.lease.in_force(now) && !overdue
    }

    fn state(&self, request: RequestId) -> Option<&State> {
        self.requests.get(&request).map(|entry| &entry.state)
    }

    /// What is held is lost for good; what waits stays.
    fn lose_all_held(&mut self, now: Micros) {
        let Phase::Open(session) = &self.phase else { return };
        let live: Vec<RequestId> = session.live.values().copied().collect();
        for request in live {
            self.lose(now, request, Reason::LeaseExpired);
        }
    }

    /// A held request is lost, and its user hears. The grant is given back when the user has stopped.
    pub(super) fn lose(&mut self, now: Micros, request: RequestId, reason: Reason) {
        let Phase::Open(session) = &self.phase else { return };
        let give_back_at = now.saturating_add(session.lease_length);
        let Some(entry) = self.requests.get_mut(&request) else { return };
        if let State::Held { token } = entry.state {
            entry.state = State::Lost { token, reason, give_back_at };
            self.event(Event::Lost { request, token, reason });
        }
    }

    /// Whoever waits to hear of a release has waited long enough: without word the session ends by itself.
    fn settle_releases(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        let settled = session.owed.values_mut().filter_map(|owed| Some((owed.request.take()?, owed.reason)));
        let settled: Vec<_> = settled.map(|(request, reason)| Event::Settled { request, reason }).collect();
        settled.into_iter().for_each(|event| self.event(event));
    }

    /// The user has no use for it any more.
    pub(super) fn let_go(&mut self, now: Micros, request: RequestId) {
        match self.state(request) {
            None => {}
            Some(State::Lost { reason, .. }) => {
                let reason = *reason;
                self.event(Event::Settled { request, reason });
                self.withdraw(now, request, Some(reason));
            }
            Some(State::Local) => {
                self.event(Event::Settled { request, reason: Reason::Cancelled });
                self.withdraw(now, request, None);
            }
            Some(State::Held { .. }) => self.owe(now, request, Some(request), Reason::Released),
            Some(_) => self.owe(now, request, Some(request), Reason::Cancelled),
        }
    }

    /// The request is over for us and nobody waits to hear more of it.
    pub(super) fn withdraw(&mut self, now: Micros, request: RequestId, reason: Option<Reason>) {
        self.owe(now, request, None, reason.unwrap_or(Reason::Cancelled));
    }

    /// Takes the request out; what the arbiter must still hear of it is owed.
    fn owe(&mut self, now: Micros, request: RequestId, listener: Option<RequestId>, reason: Reason) {
        let Some(entry) = self.requests.remove(&request) else { return };
        self.local.remove(&request);
        if let Some(at) = entry.give_up_at() {
            self.limits.remove(&(at, request));
        }
        let (Some(seq), Phase::Open(session)) = (entry.seq, &mut self.phase) else { return };
        session.live.remove(&seq);
        // Without a connection, or with one on which a whole lease has passed in silence, nobody can say more than
        // that it will be withdrawn.
        let silent = self.address.is_none() || session.lease.lapsed();
        let listener = match listener {
            Some(request) if reason == Reason::Cancelled && silent => {
                self.outputs.push_back(Output::Event(Event::Settled { request, reason }));
                None
            }
            listener => listener,
        };
        let answered = !matches!(entry.state, State::Asked(_));
        let token = entry.state.token();
        self.owe_number(now, seq, token, Owed::new(listener, token, reason, answered));
    }

    /// From now on the arbiter owes us an answer to `release` or `cancel` of this number.
    pub(super) fn owe_number(&mut self, now: Micros, seq: Seq, token: Option<u64>, owed: Owed) {
        let Phase::Open(session) = &mut self.phase else { return };
        let known = session.owed.entry(seq).or_insert(owed);
        if token.is_some() {
            known.token = token;
            known.answered = true;
        }
        known.repeat.at = now;
    }

    /// Removes a request and tells what `event` makes of its state.
    pub(super) fn finish(&mut self, request: RequestId, event: impl FnOnce(&State) -> Option<Event>) {
        let Some(entry) = self.requests.remove(&request) else { return };
        self.local.remove(&request);
        if let Some(at) = entry.give_up_at() {
            self.limits.remove(&(at, request));
        }
        if let (Some(seq), Phase::Open(session)) = (entry.seq, &mut self.phase) {
            session.live.remove(&seq);
        }
        if let Some(event) = event(&entry.state) {
            self.event(event);
        }
    }

    /// A session that nobody uses is not kept alive; when it may be over, another is opened in its place.
    pub(super) fn forget_lapsed(&mut self, now: Micros) {
        let Phase::Open(session) = &self.phase else { return };
        let unused = session.live.is_empty() && session.owed.is_empty();
        if unused && !self.closing && !session.lease.in_force(now) {
            self.phase = Phase::Idle;
        }
    }

    /// Names the new address to the arbiter, and has everything unanswered sent again.
    pub(super) fn attach(&mut self, now: Micros) {
        self.forget_lapsed(now);
        let Some(address) = self.address.clone() else { return };
        match &mut self.phase {
            Phase::Opening(opening) => {
                opening.moved = opening.first_sent.is_some();
                opening.waiting_since = None;
                opening.next_at = now;
            }
            Phase::Open(session) => {
                session.attach_n += 1;
                session.attach_wanted = None;
                session.attach_known_by = session.lease.last_n() + 1;
                session.heard_from = now;
                session.keep_alive_at = now;
                session.alive_wanted = true;
                session.close_at = now;
                session.owed.values_mut().for_each(|owed| owed.repeat.at = now);
                let n = session.attach_n;
                for request in session.live.values() {
                    let Some(entry) = self.requests.get_mut(request) else { continue };
                    if let State::Asked(repeat) | State::Pending { granted: None, repeat, .. } =
                        &mut entry.state
                    {
                        repeat.at = now;
                    }
                }
                self.send(RequestBody::Attach(Attach { n, reply_to: address.reply_to, peer: address.peer }));
            }
            _ => {}
        }
    }

    /// Sends whatever is due at `now`.
    pub(super) fn pump(&mut self, now: Micros) {
        self.forget_lapsed(now);
        if matches!(self.phase, Phase::Idle) && !self.local.is_empty() {
            self.phase = Phase::KeyWanted;
            self.outputs.push_back(Output::KeyWanted);
        }
        if self.address.is_none() {
            return;
        }
        match &self.phase {
            Phase::Opening(_) => self.pump_open(now),
            Phase::Open(_) => {
                let sent = self.pump_repeats(now) | self.pump_owed(now);
                self.pump_local(now);
                self.pump_keep_alive(now, sent);
                self.pump_close(now);
            }
            _ => {}
        }
    }

    fn pump_open(&mut self, now: Micros) {
        let jitter = self.next_jitter();
        let Phase::Opening(opening) = &mut self.phase else { return };
        if now < opening.next_at {
            return;
        }
        opening.next_at = now + spread(backoff(opening.repeats), jitter);
        opening.repeats += 1;
        if self.plants.has(Planted::LatestOpenCounts) {
            opening.first_sent = None;
        }
        opening.first_sent.get_or_insert(now);
        // An address at which nothing is heard may be gone without our knowing; only another one tells.
        let waiting_since = opening.waiting_since.get_or_insert(now);
        if now >= waiting_since.saturating_add(OVERDUE_MAX) {
            *waiting_since = now;
            self.outputs.push_back(Output::AttachWanted { fresh: true });
        }
        let Phase::Opening(opening) = &mut self.phase else { return };
        let address = self.address.clone().unwrap_or_default();
        let open = Open {
            id: opening.id.clone(),
            key: opening.key.clone(),
            lease_ms: self.config.lease_ms,
            fail_fast_ms: self.config.fail_fast_ms,
            label: self.config.label.clone(),
            reply_to: address.reply_to,
            peer: address.peer,
        };
        let (partition, body) = (self.config.partition, RequestBody::Open(open));
        self.outputs.push_back(Output::Send(Request { partition, auth: None, body }));
    }

    /// Asks again what is not answered. True if anything was a repeat.
    fn pump_repeats(&mut self, now: Micros) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        let live: Vec<(Seq, RequestId)> =
            session.live.iter().map(|(seq, request)| (*seq, *request)).collect();
        let mut any = false;
        for (seq, request) in live {
            let jitter = self.jitter;
            let Some(entry) = self.requests.get_mut(&request) else { continue };
            let (State::Asked(repeat) | State::Pending { granted: None, repeat, .. }) = &mut entry.state
            else {
                continue;
            };
            if now < repeat.at {
                continue;
            }
            repeat.next(now, jitter ^ seq);
            any = true;
            let body = RequestBody::Acquire(entry.message(seq, now));
            self.send(body);
        }
        any
    }

    fn pump_owed(&mut self, now: Micros) -> bool {
        let jitter = self.next_jitter();
        let Phase::Open(session) = &mut self.phase else { return false };
        let (mut bodies, mut any) = (Vec::new(), false);
        let last_n = session.lease.last_n();
        for (seq, owed) in &mut session.owed {
            if now < owed.repeat.at {
                continue;
            }
            any |= owed.repeat.count > 0;
            owed.repeat.next(now, jitter ^ *seq);
            owed.after_n = last_n;
            bodies.push(match owed.token {
                Some(token) => RequestBody::Release(Release { token }),
                None => RequestBody::Cancel(Cancel { seq: *seq }),
            });
        }
        bodies.into_iter().for_each(|body| self.send(body));
        any
    }

    /// Numbers what waits in the library, as far as there is room.
    fn pump_local(&mut self, now: Micros) {
        while let Some(request) = self.local.first().copied() {
            let jitter = self.next_jitter();
            let Some(seq) = self.room() else { return };
            self.local.remove(&request);
            let Phase::Open(session) = &mut self.phase else { return };
            session.next_seq += 1;
            session.live.insert(seq, request);
            let Some(entry) = self.requests.get_mut(&request) else { continue };
            entry.seq = Some(seq);
            let mut repeat = Repeat { at: now, count: 0 };
            repeat.next(now, jitter);
            entry.state = State::Asked(repeat);
            let body = RequestBody::Acquire(entry.message(seq, now));
            self.send(body);
        }
    }

    /// The next number, if the session may have one more request: at most W, and none W or more above the lowest
    /// that has not been answered.
    fn room(&self) -> Option<Seq> {
        let Phase::Open(session) = &self.phase else { return None };
        let seq = session.next_seq;
        if self.closing {
            return None;
        }
        if self.plants.has(Planted::WindowIgnored) {
            return Some(seq);
        }
        let in_flight = session.live.len() + session.owed.len();
        let asked =
            session.live.iter().find(|(_, request)| matches!(self.state(**request), Some(State::Asked(_))));
        let owed = session.owed.iter().find(|(_, owed)| !owed.answered);
        let lowest =
            asked.map(|(seq, _)| *seq).into_iter().chain(owed.map(|(seq, _)| *seq)).min().unwrap_or(seq);
        let fits =
            (in_flight as u64) < session.in_flight_max && seq < lowest.saturating_add(session.in_flight_max);
        fits.then_some(seq)
    }

    fn pump_keep_alive(&mut self, now: Micros, repeated: bool) {
        let busy = self.busy();
        let Phase::Open(session) = &mut self.phase else { return };
        if busy && session.attach_wanted.is_none() && session.overdue_at().is_some_and(|at| now >= at) {
            session.attach_wanted = Some(now);
            self.outputs.push_back(Output::AttachWanted { fresh: true });
        }
        // After a repeat: its `alive` tells what became of what was repeated. After an attach, also of a session
        // that is not used: its `alive` tells that an earlier connection may be dropped.
        let alive_wanted = std::mem::take(&mut session.alive_wanted);
        if alive_wanted || busy && (repeated || now >= session.keep_alive_at) {
            session.keep_alive_at = now.saturating_add(session.lease.keep_alive_every());
            let n = session.lease.send(now);
            self.send(RequestBody::KeepAlive(KeepAlive { n }));
        }
    }

    fn pump_close(&mut self, now: Micros) {
        let jitter = self.next_jitter();
        let Phase::Open(session) = &mut self.phase else { return };
        if self.closing && now >= session.close_at {
            session.close_at = now + spread(backoff(session.close_repeats), jitter);
            session.close_repeats += 1;
            self.send(RequestBody::Close(Close {}));
        }
    }

    /// A lower epoch was heard: a zombie, or another log. Only the log's name tells.
    pub(super) fn probe(&mut self, now: Micros) {
        if self.address.is_none() || self.probe.is_some_and(|at| now < at.saturating_add(PROBE_EVERY)) {
            return;
        }
        self.probe = Some(now);
        let body = RequestBody::Status(StatusAsk { id: PROBE_ID.into(), what: StatusWhat::Summary });
        let partition = self.config.partition;
        self.outputs.push_back(Output::Send(Request { partition, auth: None, body }));
    }

    fn send(&mut self, body: RequestBody) {
        let Phase::Open(session) = &self.phase else { return };
        let auth = Some(Auth { session: session.id, key: session.key.clone() });
        self.outputs.push_back(Output::Send(Request { partition: self.config.partition, auth, body }));
    }

    /// SplitMix64: spreads, and is the same for the same seed.
    fn next_jitter(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Session {
    /// When the oldest keep-alive without an answer makes another address wanted.
    fn overdue_at(&self) -> Option<Micros> {
        let since = self.lease.waiting_since()?.max(self.heard_from);
        Some(since.saturating_add(self.lease.keep_alive_every().clamp(OVERDUE_MIN, OVERDUE_MAX)))
    }
}

impl Owed {
    pub(super) fn new(
        request: Option<RequestId>,
        token: Option<u64>,
        reason: Reason,
        answered: bool,
    ) -> Self {
        Self { request, token, reason, repeat: Repeat { at: 0, count: 0 }, after_n: u64::MAX, answered }
    }
}

impl Repeat {
    /// It has been sent at `now`.
    pub(super) fn next(&mut self, now: Micros, jitter: u64) {
        self.at = now.saturating_add(spread(backoff(self.count), jitter));
        self.count = self.count.saturating_add(1);
    }

    /// To be sent at once.
    pub(super) fn due(now: Micros) -> Self {
        Self { at: now, count: 1 }
    }
}

fn backoff(count: u32) -> Micros {
    REPEAT_FIRST.saturating_mul(1 << count.min(5)).min(REPEAT_MAX)
}

/// Between three and five quarters.
fn spread(wait: Micros, jitter: u64) -> Micros {
    wait - wait / 4 + jitter % (wait / 2 + 1)
}

/// The earliest of several moments.
struct Next(Option<Micros>);

impl Next {
    fn at(&mut self, at: Micros) {
        self.0 = Some(self.0.map_or(at, |next| next.min(at)));
    }

    fn some(&mut self, at: Option<Micros>) {
        if let Some(at) = at {
            self.at(at);
        }
    }
}
