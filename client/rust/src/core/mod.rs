//! The rules of a session, as its client must follow them. Pure: no clock, no socket, no randomness.
//!
//! A [`SessionCore`] is what a client is in one partition: its session, if it has one, and its requests. It is
//! told what happens and when ([`SessionCore::reply`], [`SessionCore::acquire`], [`SessionCore::tick`], …), and
//! then asked for what follows from it ([`SessionCore::poll`]) and when it wants to be looked after again
//! ([`SessionCore::next_wake`]). The driver of the library and the simulator drive this same code.
//!
//! What it promises: **[`SessionCore::believes`] is true only while the arbiter's log has the grant in force**, as
//! long as the clocks' rates agree within the margin. Where a line looks pedantic, a shorter one had a
//! counterexample; the tests beside this module are named after them.
//!
//! - `lease`: until when the session may be believed to live.
//! - `request`: the states of a request, which go forward only.
//! - `replies`: what each message of the arbiter does.
//! - `sending`: what is sent, repeated and given up, and when.

mod lease;
mod planted;
mod replies;
mod request;
mod sending;
#[cfg(test)]
mod tests;

pub use planted::Planted;
pub use request::{Ask, End, RequestId};

use crate::clock::Micros;
use crate::wire::{Granted, HeldBy, LogId, OwnerRef, Reason, Request, Seq, SessionId, SessionKey, Token};
use lease::Lease;
use planted::Plants;
use request::{Entry, Owed, State};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Requests that wait in the library for room in the session; one more is refused `in_flight_max`.
pub const LOCAL_MAX: usize = 16_384;
/// After a wait limit the arbiter has this long to say so; then the library withdraws the request by itself.
pub const WAIT_GRACE: Micros = 3_000_000;

/// What a core is told once.
#[derive(Clone, Debug, Hash)]
pub struct SessionConfig {
    /// The partition it is in.
    pub partition: u32,
    /// What people see as the holder's name.
    pub label: String,
    /// The lease to ask for.
    pub lease_ms: u64,
    /// Fail fast, if it is to be asked for.
    pub fail_fast_ms: Option<u64>,
    /// Spreads repeats of several clients over time. Any number; the same gives the same.
    pub jitter: u64,
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Output {
    /// Send this on the connection.
    Send(Request),
    /// Tell the user.
    Event(Event),
    /// A session is needed: answer with [`SessionCore::open`] and a key that nobody can guess.
    KeyWanted,
    /// Answer with [`SessionCore::connected`] and an address that no `attach` has named yet.
    ///
    /// The direct transport's connection may be named again. With `fresh`, nothing is heard on it any more:
    /// make another one, and drop the old one only when [`SessionCore::settled`] says so.
    AttachWanted {
        /// On a new connection.
        fresh: bool,
    },
}

/// What the user is to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A session is open.
    SessionOpened {
        /// Its number.
        session: SessionId,
        /// The log's name.
        genesis: LogId,
        /// How many partitions there are.
        partitions: u32,
    },
    /// A session was not opened; what was asked for has ended with it.
    OpenRefused {
        /// Why.
        reason: Reason,
        /// What was wrong, for people.
        detail: String,
    },
    /// The session is over. What waited is asked for again in another.
    SessionEnded {
        /// Its number.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// A request's place in line.
    Position {
        /// The request.
        request: RequestId,
        /// From 1.
        position: u64,
        /// How many wait in that line; where known.
        waiting: Option<u64>,
        /// Who holds; where known.
        held_by: Option<HeldBy>,
    },
    /// A request is held, and believed until `until` if nothing more is confirmed.
    Granted {
        /// The request.
        request: RequestId,
        /// Its name in the log.
        owner: OwnerRef,
        /// Token, floors and receipt.
        granted: Granted,
        /// The log's name.
        genesis: LogId,
        /// When belief ends.
        until: Micros,
    },
    /// The lease has moved: what is held is believed until then.
    Believed {
        /// When belief ends.
        until: Micros,
    },
    /// A request is over without having been held.
    Ended {
        /// The request.
        request: RequestId,
        /// How.
        end: End,
    },
    /// A held request is not held any more.
    Lost {
        /// The request.
        request: RequestId,
        /// Its grant.
        token: Token,
        /// Why.
        reason: Reason,
    },
    /// What the user gave back or withdrew is known to be over, or will be without us.
    Settled {
        /// The request.
        request: RequestId,
        /// How it ended, as far as is known: `released`, `cancelled`, or the reason for which it was lost.
        reason: Reason,
    },
    /// The session that was to be closed is over.
    Closed,
}

/// What the transport says of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Where replies go; the connection itself if absent.
    pub reply_to: Option<String>,
    /// The client's own end of the connection as the client sees it.
    pub peer: Option<String>,
}

/// A client in one partition.
#[derive(Clone, Debug, Hash)]
pub struct SessionCore {
    config: SessionConfig,
    phase: Phase,
    address: Option<Address>,
    /// The highest epoch heard of in this partition.
    epoch: u64,
    genesis: Option<LogId>,
    opens: u64,
    /// Every request that is not over, by the user's number.
    requests: BTreeMap<RequestId, Entry>,
    /// Those that have no number in the session yet, in the order they were asked.
    local: BTreeSet<RequestId>,
    /// When the library gives up by itself.
    limits: BTreeSet<(Micros, RequestId)>,
    closing: bool,
    /// A question whether the log is still the same, asked because a lower epoch was heard.
    probe: Option<Micros>,
    jitter: u64,
    outputs: VecDeque<Output>,
    plants: Plants,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    /// No session, and none asked for.
    Idle,
    /// A key has been asked for.
    KeyWanted,
    /// `open` is under way.
    Opening(Opening),
    /// There is a session, as far as is known.
    Open(Box<Session>),
    /// Closed by the user.
    Closed,
}

#[derive(Clone, Debug, Hash)]
struct Opening {
    id: String,
    key: SessionKey,
    first_sent: Option<Micros>,
    /// The address that the first `open` named is not the present one.
    moved: bool,
    /// When it was first sent to the present address, or another address was last wanted.
    waiting_since: Option<Micros>,
    next_at: Micros,
    repeats: u32,
}

#[derive(Clone, Debug, Hash)]
struct Session {
    id: SessionId,
    key: SessionKey,
    lease: Lease,
    /// What the arbiter counts as the lease: a lost grant is given back for its user after it.
    lease_length: Micros,
    in_flight_max: u64,
    next_seq: Seq,
    /// Requests that have a number and are not over.
    live: BTreeMap<Seq, RequestId>,
    /// Numbers that are over for us, which the arbiter has not been heard to know.
    owed: BTreeMap<Seq, Owed>,
    /// Grants whose revocation was heard of before the grant: it counts all the same.
    revoked: BTreeMap<Token, Reason>,
    attach_n: u64,
    attached: u64,
    /// The keep-alive sent first after the last `attach`: its confirmation tells whether the attach arrived.
    attach_known_by: u64,
    /// An address has been asked for and not given.
    attach_wanted: Option<Micros>,
    /// A keep-alive is to be sent with whatever is sent next.
    alive_wanted: bool,
    /// The index of the newest `alive`, and the grants that it names: any other up to that index is over.
    judged: u64,
    judged_held: BTreeSet<Token>,
    keep_alive_at: Micros,
    /// Silence is counted from the last `attach` at the earliest.
    heard_from: Micros,
    close_at: Micros,
    close_repeats: u32,
}

impl SessionCore {
    /// A client that has nothing yet.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            jitter: config.jitter,
            config,
            phase: Phase::Idle,
            address: None,
            epoch: 0,
            genesis: None,
            opens: 0,
            requests: BTreeMap::new(),
            local: BTreeSet::new(),
            limits: BTreeSet::new(),
            closing: false,
            probe: None,
            outputs: VecDeque::new(),
            plants: Plants::default(),
        }
    }

    /// Plants a wrong rule, for tests that must notice.
    #[cfg(any(test, feature = "planted"))]
    #[must_use]
    pub fn with_planted(mut self, planted: Planted) -> Self {
        self.plants.plant(planted);
        self
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// There is a connection, or an address on it, that no `attach` has named yet. Whatever was unanswered is
    /// sent again on it.
    pub fn connected(&mut self, now: Micros, address: Address) {
        self.judge(now);
        self.address = Some(address);
        self.attach(now);
        self.pump(now);
    }

    /// The connection is gone. Nothing is sent until there is another.
    pub fn disconnected(&mut self, now: Micros) {
        self.judge(now);
        self.address = None;
    }

    /// The key that was wanted.
    pub fn open(&mut self, now: Micros, key: SessionKey) {
        self.judge(now);
        if !matches!(self.phase, Phase::KeyWanted) {
            return;
        }
        self.opens += 1;
        let id = format!("o{}", self.opens);
        let opening = Opening {
            id,
            key,
            first_sent: None,
            moved: false,
            waiting_since: None,
            next_at: now,
            repeats: 0,
        };
        self.phase = Phase::Opening(opening);
        self.pump(now);
    }

    /// Wants a session, also without a request.
    pub fn want_session(&mut self, now: Micros) {
        self.judge(now);
        self.forget_lapsed(now);
        if matches!(self.phase, Phase::Idle) {
            self.phase = Phase::KeyWanted;
            self.outputs.push_back(Output::KeyWanted);
        }
    }

    /// Asks. `request` must be new.
    ///
    /// # Panics
    /// If `request` is in use.
    pub fn acquire(&mut self, now: Micros, request: RequestId, ask: Ask) {
        self.judge(now);
        assert!(!self.requests.contains_key(&request), "request {request} is in use");
        if matches!(self.phase, Phase::Closed) || self.closing {
            return self.event(Event::Ended { request, end: End::Closed });
        }
        if self.local.len() >= LOCAL_MAX {
            let detail = format!("{LOCAL_MAX} requests wait for room in the session");
            let end = End::Refused { reason: Reason::InFlightMax, detail };
            return self.event(Event::Ended { request, end });
        }
        let entry = Entry::new(ask, now);
        self.limits.extend(entry.give_up_at().map(|at| (at, request)));
        self.requests.insert(request, entry);
        self.local.insert(request);
        self.pump(now);
    }

    /// The user gives a grant back, or says that it has stopped what a lost one protected.
    ///
    /// From this moment on it is not held. [`Event::Settled`] follows when the arbiter is known to know.
    pub fn release(&mut self, now: Micros, request: RequestId) {
        self.judge(now);
        self.let_go(now, request);
        self.pump(now);
    }

    /// The user withdraws a request. As [`release`](Self::release), if it is held by now.
    pub fn cancel(&mut self, now: Micros, request: RequestId) {
        self.release(now, request);
    }

    /// Ends the session and everything in it. [`Event::Closed`] follows when the arbiter has heard it.
    pub fn close(&mut self, now: Micros) {
        self.judge(now);
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        let all: Vec<RequestId> = self.requests.keys().copied().collect();
        for request in all {
            self.finish(request, |state| match state {
                State::Held { token } => Some(Event::Lost { request, token: *token, reason: Reason::Closed }),
                State::Lost { .. } => None,
                _ => Some(Event::Ended { request, end: End::Closed }),
            });
        }
        match &mut self.phase {
            Phase::Open(session) => {
                session.live.clear();
                session.close_at = now;
                self.pump(now);
            }
            // What `open` has begun, its answer will have closed.
            Phase::Opening(opening) if opening.first_sent.is_some() => {}
            _ => self.closed(),
        }
    }

    /// Time has passed; see [`next_wake`](Self::next_wake).
    pub fn tick(&mut self, now: Micros) {
        self.judge(now);
        self.pump(now);
    }

    /// Whether `token` is held, as far as may be believed at `now`.
    pub fn believes(&self, token: Token, now: Micros) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        session.lease.in_force(now)
            && session.live.values().any(|request| {
                match self.requests.get(request).map(|entry| &entry.state) {
                    Some(State::Held { token: held, .. }) => *held == token,
                    _ => false,
                }
            })
    }

    /// Everything that is held, as far as may be believed at `now`.
    pub fn held(&self, now: Micros) -> Vec<(RequestId, Token)> {
        let held = self.requests.iter().filter_map(|(request, entry)| match entry.state {
            State::Held { token, .. } => Some((*request, token)),
            _ => None,
        });
        held.filter(|(_, token)| self.believes(*token, now)).collect()
    }

    /// When belief in what is held ends, if nothing more is confirmed. `None` if there is nothing to believe in.
    pub fn deadline(&self, now: Micros) -> Option<Micros> {
        match &self.phase {
            Phase::Open(session) if session.lease.in_force(now) => Some(session.lease.until()),
            _ => None,
        }
    }

    /// The session's number and secret, if there is one.
    pub fn session(&self) -> Option<(SessionId, &SessionKey)> {
        match &self.phase {
            Phase::Open(session) => Some((session.id, &session.key)),
            _ => None,
        }
    }

    /// How long the arbiter lets the session live without word; less than was asked for, perhaps.
    pub fn lease(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Open(session) => Some(session.lease_length),
            _ => None,
        }
    }

    /// Whether a connection is of use: something is asked, held or owed, or the session may live and would be
    /// ended by the connection's absence.
    pub fn wants_connection(&self, now: Micros) -> bool {
        match &self.phase {
            Phase::Closed => false,
            Phase::KeyWanted | Phase::Opening(_) => true,
            Phase::Idle => !self.local.is_empty(),
            Phase::Open(session) => self.closing || self.busy() || session.lease.in_force(now),
        }
    }

    /// Whether an earlier connection may be dropped: the arbiter is known to have taken the last `attach`, or
    /// there is no session that an end of connection could end.
    pub fn settled(&self) -> bool {
        match &self.phase {
            Phase::Open(session) => session.attached >= session.attach_n,
            // Whether the first `open` was taken, and from where, is not known.
            Phase::Opening(opening) => !opening.moved,
            Phase::Idle | Phase::KeyWanted | Phase::Closed => true,
        }
    }

    /// Whether a keep-alive is to be sent on: something is asked, held or owed.
    fn busy(&self) -> bool {
        let owed = match &self.phase {
            Phase::Open(session) => !session.owed.is_empty(),
            _ => false,
        };
        owed || !self.requests.is_empty()
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn closed(&mut self) {
        self.phase = Phase::Closed;
        self.event(Event::Closed);
    }
}
