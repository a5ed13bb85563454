//! The live state as the body of a checkpoint.
//!
//! A body is lines of JSON, each ended by a line feed: the events that still matter, with what their records and
//! the time since have made of them. Whoever can fold events (section 6 of `client/protocol/log.md`) can begin
//! with it; it takes no state machine. Equal states have equal bodies, byte for byte.
//!
//! # Lines
//!
//! The first line is `{"state":{"body":1,"next_index","hash","at"}}`: the version of this form, the index that
//! the next record has, and hash and `at` of the last record. Every other line has exactly one of `event`,
//! `lease` and `seen`. An `event` is written as in a record; beside it stand fields of the line:
//!
//! | event | fields beside it | when there is one |
//! |---|---|---|
//! | `genesis` | | |
//! | `epoch_started` | `at`: of its record | from the first epoch on; the latest |
//! | `policy` | | always; that in force |
//! | `paused` | | while paused |
//! | `opened` | `index`: the session's number; `at`: of its record | each live session. `reply_to` only if `attached` does not follow |
//! | `attached` | | the latest, with the address in force |
//! | `unreachable` | `at`: of its record | while the session is |
//! | `queued` | `index`: the place; `at`: of that record; `wait_until`: the wait deadline, if there is one | each waiter, also one that was granted at once and is suspended |
//! | `granted` | `index`: the token; `at` and `hash`: of its record; `place`; `placed_at`: the moment of the place's record; `wait_until`, `hold_until`: the deadlines, if there are any (no `hold_until` once it is being revoked) | each grant in force |
//! | `revoking` | | each grant that is being revoked |
//! | `suspended` | | each waiter that is; the token is that of the grant that was undone |
//! | `delayed` | `at`: the moment from which its full length counts | each lock-delay |
//!
//! All deadlines (`wait_until`, `hold_until`, `until`) have been moved by the gaps before epochs already.
//!
//! `{"lease":{"session","n","heard_at","from"}}` follows each session's events: its highest keep-alive, the moment of the
//! last renewal or of the opening, and the moment from which its lease runs (that, or the start of the epoch if it is
//! later). `{"seen":{"session","highest","over"}}` follows if any request number of the session was seen: the highest, and
//! the kept outcomes in the order of their ends, each `{"refused":[seq,reason]}`, `{"ended":[seq,reason]}` or
//! `{"released":[seq,token,reason]}`.
//!
//! # Order
//!
//! `state`, `genesis`, `epoch_started`, `policy`, `paused`; then sessions by number (`opened`, `attached`, `unreachable`,
//! `lease`, `seen`); `queued` by place; `granted` by token; `revoking` by token; `suspended` by place; `delayed` by
//! resource.

use super::State;
use super::advance::Freed;
use super::grant::{Grant, Outcome, Request, Revoking, Waiter};
use super::policy::Rules;
use super::resource::{Delay, ResourceKey};
use super::session::{Live, Requests, Session};
use crate::log::chain::ChainTip;
use crate::log::record::Event;
use arbiterq_client::wire::{Hash, Reason, Seq, SessionId, Timestamp, Token};
use serde::{Deserialize, Serialize};

/// The version of the form.
const BODY: u32 = 1;

/// One line.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Head>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<Event>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait_until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold_until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    body: u32,
    next_index: u64,
    hash: Hash,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    session: SessionId,
    n: u64,
    heard_at: Timestamp,
    from: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    session: SessionId,
    highest: Seq,
    over: Vec<Over>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Over {
    Refused(Seq, Reason),
    Ended(Seq, Reason),
    Released(Seq, Token, Reason),
}

/// A body that is no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SnapshotError {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// The body of a checkpoint of this state.
pub fn write(state: &State) -> Vec<u8> {
    let mut body = Body(Vec::new());
    let head = Head { body: BODY, next_index: state.tip.next_index, hash: state.tip.hash, at: state.at };
    body.line(&Line { state: Some(head), ..Line::default() });
    if let Some(genesis) = &state.genesis {
        body.event(Event::Genesis(genesis.clone()));
    }
    if let Some(incarnation) = state.incarnation {
        let event = Event::EpochStarted { epoch: state.epoch, incarnation, rules: state.rules };
        body.line(&Line { event: Some(event), at: Some(state.epoch_at), ..Line::default() });
    }
    body.event(Event::Policy(state.policy().clone()));
    if let Some((by, reason)) = &state.paused {
        body.event(Event::Paused { by: by.clone(), reason: reason.to_string() });
    }
    state.sessions.iter().for_each(|(id, session)| body.session(id, session));
    state.waiters.values().for_each(|waiter| body.waiter(waiter));
    state.grants.iter().for_each(|(token, grant)| body.grant(token, grant));
    for (token, grant) in state.grants.iter() {
        if let Some(Revoking { reason, by, until }) = grant.revoking.as_deref() {
            body.event(Event::Revoking { token, reason: *reason, by: by.clone(), until: *until });
        }
    }
    for Waiter { request, suspended, .. } in state.waiters.values().map(|waiter| &**waiter) {
        if let Some(token) = *suspended {
            body.event(Event::Suspended { session: request.session, seq: request.seq, token });
        }
    }
    let delays = state.resources.iter().filter_map(|(key, resource)| Some((key.name(), resource.delay?)));
    let mut delays: Vec<_> = delays.collect();
    delays.sort_unstable_by_key(|(name, _)| *name);
    for (name, Delay { until, ms }) in delays {
        let from = until.as_micros().saturating_sub(ms.saturating_mul(1000));
        let event = Event::Delayed { resource: name.clone(), until };
        body.line(&Line { event: Some(event), at: Some(Timestamp::from_micros(from)), ..Line::default() });
    }
    body.0
}

struct Body(Vec<u8>);

impl Body {
    fn line(&mut self, line: &Line) {
        // A value of ours into memory: it cannot fail.
        let written = serde_json::to_writer(&mut self.0, line);
        assert!(written.is_ok(), "a checkpoint's line cannot be written: {written:?}");
        self.0.push(b'\n');
    }

    fn event(&mut self, event: Event) {
        self.line(&Line { event: Some(event), ..Line::default() });
    }

    fn session(&mut self, id: SessionId, session: &Session) {
        let reply_to = session.reply_to.clone();
        let opened = Event::Opened {
            key_hash: session.key_hash,
            lease_ms: session.lease_ms,
            fail_fast_ms: session.fail_fast_ms,
            in_flight_max: session.in_flight_max,
            label: session.label.clone(),
            principal: session.principal.name.clone(),
            principal_by: session.principal.by,
            reply_to: reply_to.clone().filter(|_| session.attached == 0),
        };
        let at = Some(session.opened_at);
        self.line(&Line { event: Some(opened), index: Some(id), at, ..Line::default() });
        if session.attached > 0 {
            self.event(Event::Attached { session: id, n: session.attached, reply_to });
        }
        if session.unreachable() {
            let event = Event::Unreachable { session: id, n: session.attached };
            self.line(&Line { event: Some(event), at: session.unreachable_at, ..Line::default() });
        }
        let (n, heard_at, from) = (session.n, session.heard_at, session.lease_from);
        self.line(&Line { lease: Some(Lease { session: id, n, heard_at, from }), ..Line::default() });
        if let Some(highest) = session.requests.highest() {
            let over = session.requests.outcomes().map(|(seq, outcome)| match outcome {
                Outcome::Refused(reason) => Over::Refused(seq, reason),
                Outcome::Ended(reason) => Over::Ended(seq, reason),
                Outcome::Released(token, reason) => Over::Released(seq, token, reason),
            });
            let seen = Seen { session: id, highest, over: over.collect() };
            self.line(&Line { seen: Some(seen), ..Line::default() });
        }
    }

    fn waiter(&mut self, waiter: &Waiter) {
        let request = &waiter.request;
        let event = Event::Queued {
            session: request.session,
            seq: request.seq,
            claims: waiter.claims.to_vec(),
            owner: request.owner,
            priority: request.priority,
            wait_ms: request.wait_ms,
            hold_max_ms: request.hold_max_ms,
            reason: request.reason.clone(),
            value: request.value.clone(),
        };
        self.line(&Line {
            event: Some(event),
            index: Some(request.place),
            at: Some(request.placed_at),
            wait_until: request.wait_until,
            ..Line::default()
        });
    }

    fn grant(&mut self, token: Token, grant: &Grant) {
        let request = &grant.request;
        let event = Event::Granted {
            session: request.session,
            seq: request.seq,
            owner: request.owner,
            claims: grant.claims.to_vec(),
            priority: request.priority,
            hold_max_ms: request.hold_max_ms,
            wait_ms: request.wait_ms,
            reason: request.reason.clone(),
            value: request.value.clone(),
        };
        self.line(&Line {
            event: Some(event),
            index: Some(token),
            at: Some(grant.since),
            hash: Some(grant.hash),
            place: Some(request.place),
            placed_at: Some(request.placed_at),
            wait_until: request.wait_until,
            hold_until: grant.hold_until,
            ..Line::default()
        });
    }
}

/// Reads a checkpoint's body. The state decides and folds from here on as the one that was written.
///
/// # Errors
/// The first line that is not as described, or speaks of what no line before it has named.
pub fn read(body: &[u8]) -> Result<State, SnapshotError> {
    let mut lines = body.split_inclusive(|byte| *byte == b'\n').enumerate();
    let read = |line: usize, text: &[u8]| -> Result<Line, SnapshotError> {
        let what = |what: String| SnapshotError { line: line + 1, what };
        let text = text.strip_suffix(b"\n").ok_or_else(|| what("it is cut".into()))?;
        serde_json::from_slice(text).map_err(|error| what(error.to_string()))
    };
    let wrong = |line: usize, what: &'static str| SnapshotError { line: line + 1, what: what.into() };
    let (_, first) = lines.next().ok_or_else(|| wrong(0, "there is none"))?;
    let head = read(0, first)?.state.ok_or_else(|| wrong(0, "no `state` to begin with"))?;
    if head.body != BODY {
        return Err(wrong(0, "a version of the form that this arbiter does not read"));
    }
    let mut state = State::new(ChainTip { next_index: head.next_index, hash: head.hash });
    state.at = head.at;
    for (i, text) in lines {
        state.take_line(read(i, text)?).map_err(|what| wrong(i, what))?;
    }
    // Whose turn it is follows from the rest.
    state.settle(Freed::everything());
    Ok(state)
}

impl State {
    fn take_line(&mut self, mut line: Line) -> Result<(), &'static str> {
        if line.state.is_some() {
            return Err("a second `state`");
        }
        let event = line.event.take();
        match (event, line.lease.take(), line.seen.take()) {
            (Some(event), None, None) => self.take_event(event, line),
            (None, Some(lease), None) => {
                self.live(lease.session)?;
                self.change_session(lease.session, |session| {
                    (session.n, session.heard_at, session.lease_from) = (lease.n, lease.heard_at, lease.from);
                });
                Ok(())
            }
            (None, None, Some(seen)) => {
                let over = seen.over.into_iter().map(|over| match over {
                    Over::Refused(seq, reason) => (seq, Outcome::Refused(reason)),
                    Over::Ended(seq, reason) => (seq, Outcome::Ended(reason)),
                    Over::Released(seq, token, reason) => (seq, Outcome::Released(token, reason)),
                });
                let session = self.live(seen.session)?;
                if session.requests.highest().is_some() || session.requests.live_count() > 0 {
                    return Err("a second `seen` of the session, or one behind its requests");
                }
                session.requests = Requests::restored(session.in_flight_max, seen.highest, over.collect());
                Ok(())
            }
            _ => Err("not exactly one of `event`, `lease`, `seen`"),
        }
    }

    fn take_event(&mut self, event: Event, line: Line) -> Result<(), &'static str> {
        match event {
            Event::Genesis(genesis) => self.genesis = Some(genesis),
            Event::EpochStarted { epoch, incarnation, rules } => {
                (self.epoch, self.incarnation, self.rules) = (epoch, Some(incarnation), rules);
                self.epoch_at = line.at.ok_or("no `at`")?;
            }
            Event::Policy(policy) => self.policy = Rules::new(policy),
            Event::Paused { by, reason } => self.paused = Some((by, reason.into())),
            Event::Opened { .. } => return self.take_opened(&event, &line),
            Event::Attached { session, n, reply_to } => {
                let session = self.live(session)?;
                (session.attached, session.reply_to) = (n, reply_to);
            }
            Event::Unreachable { session, .. } => {
                let at = line.at.ok_or("no `at`")?;
                self.live(session)?;
                self.change_session(session, |session| session.unreachable_at = Some(at));
            }
            Event::Queued { .. } => return self.take_queued(&event, &line),
            Event::Granted { .. } => return self.take_granted(&event, &line),
            Event::Revoking { token, reason, by, until } => {
                let grant = self.grants.get_mut(token).ok_or("no grant with this token")?;
                if grant.hold_until.is_some() || grant.revoking.is_some() {
                    return Err("the grant has a `hold_until`, or is being revoked already");
                }
                grant.revoking = Some(Box::new(Revoking { reason, by, until }));
                self.deadlines.revocations.insert((until, token));
            }
            Event::Suspended { session, seq, token } => {
                let Some(Live::Waiting(place)) = self.live(session)?.requests.live(seq) else {
                    return Err("no waiter with this number");
                };
                self.set_suspended(place, token);
            }
            Event::Delayed { resource, until } => {
                let from = line.at.ok_or("no `at`")?;
                let ms = u64::try_from(until.since(from).as_millis()).unwrap_or(u64::MAX);
                self.delay(ResourceKey::new(&resource), Delay { until, ms });
            }
            Event::SessionEnded { .. }
            | Event::Refused { .. }
            | Event::Ended { .. }
            | Event::Released { .. }
            | Event::Resumed { .. }
            | Event::Checkpoint { .. }
            | Event::Closed { .. } => return Err("an event that does not matter any more"),
        }
        Ok(())
    }

    fn take_opened(&mut self, event: &Event, line: &Line) -> Result<(), &'static str> {
        let (id, at) = line.index.zip(line.at).ok_or("no `index` or no `at`")?;
        let session = Session::of(event, at).ok_or("not `opened`")?;
        if self.sessions.contains(id) || self.keys.contains_key(&session.key_hash) {
            return Err("a session with this number or key is there already");
        }
        self.put_session(id, session);
        Ok(())
    }

    fn take_queued(&mut self, event: &Event, line: &Line) -> Result<(), &'static str> {
        let Event::Queued { session, seq, claims, .. } = event else { return Err("not `queued`") };
        let (place, placed_at) = line.index.zip(line.at).ok_or("no `index` or no `at`")?;
        if self.live(*session)?.requests.live(*seq).is_some() || self.waiters.contains_key(&place) {
            return Err("a request with this number or place is there already");
        }
        let request = Request::of(event, place, placed_at, line.wait_until).ok_or("not `queued`")?;
        self.put_waiter(Waiter { request, claims: claims.as_slice().into(), suspended: None });
        Ok(())
    }

    fn take_granted(&mut self, event: &Event, line: &Line) -> Result<(), &'static str> {
        let Event::Granted { session, seq, claims, .. } = event else { return Err("not `granted`") };
        let (token, since) = line.index.zip(line.at).ok_or("no `index` or no `at`")?;
        let (place, placed_at) = line.place.zip(line.placed_at).ok_or("no `place` or no `placed_at`")?;
        let hash = line.hash.ok_or("no `hash`")?;
        if self.live(*session)?.requests.live(*seq).is_some() || self.grants.contains(token) {
            return Err("a request with this number or token is there already");
        }
        let request = Request::of(event, place, placed_at, line.wait_until).ok_or("not `granted`")?;
        let hold_until = line.hold_until;
        let claims = claims.as_slice().into();
        self.put_grant(token, Grant { request, claims, hash, since, hold_until, revoking: None });
        Ok(())
    }

    fn live(&mut self, session: SessionId) -> Result<&mut Session, &'static str> {
        self.sessions.get_mut(session).ok_or("no session with this number")
    }
}
