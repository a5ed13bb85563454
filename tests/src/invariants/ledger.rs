//! The grant log as it stands, folded from its events alone, for the invariants to look things up in.
//!
//! Independent of the state machine on purpose: it knows what events mean, not when they should come. It keeps what
//! is over as well, because late messages speak of it; so its memory grows with the log of one run.

use arbiterq::log::chain::Sealed;
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::{Claim, Hash, Mode, Reason, ResourceName, Seq, SessionId, Timestamp, Token};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// Hashes numbers that are spread already. The maps with it are looked up, never walked.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A map that is looked up by number.
pub type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;
/// A map that is looked up by request.
pub type RequestMap<V> = HashMap<(SessionId, Seq), V, BuildHasherDefault<IdHasher>>;

/// A session, live or over.
#[derive(Debug)]
pub struct Session {
    /// Hash of its key.
    pub key_hash: Hash,
    /// How long it lives without word.
    pub lease_ms: u64,
    /// Fail fast, if it asked for it.
    pub fail_fast_ms: Option<u64>,
    /// W.
    pub window: u64,
    /// The highest keep-alive that counts.
    pub n: u64,
    /// The highest attach that counts.
    pub attached: u64,
    /// The highest request number decided.
    pub highest: Seq,
    /// Requests that wait or hold.
    pub live: Vec<Seq>,
    /// Where its replies go, each from a record on.
    pub addresses: Vec<(u64, Option<Arc<str>>)>,
    /// The record that ended it.
    pub ended: Option<u64>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In line.
    Waiting,
    /// In line, passed over.
    Suspended,
    /// It holds.
    Held(Token),
    /// It is over since a record.
    Over(u64, How),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Not taken.
    Refused(Reason),
    /// Over without a grant.
    Ended(Reason),
    /// Over after one.
    Released(Token, Reason),
    /// With its session.
    WithSession,
}

/// A request that was decided.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The record that gave it its place.
    pub place: u64,
    /// Higher goes first.
    pub priority: u8,
    /// It has a wait limit.
    pub limited: bool,
    /// What it wants.
    pub claims: Rc<[Claim]>,
    /// Where it stands.
    pub standing: Standing,
}

/// A grant, in force or over.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Whose.
    pub session: SessionId,
    /// Which request.
    pub seq: Seq,
    /// What is held.
    pub claims: Rc<[Claim]>,
    /// The hash of its record.
    pub hash: Hash,
    /// The record since which it is being revoked.
    pub revoking: Option<u64>,
    /// The record that ended it.
    pub ended: Option<u64>,
    /// It was taken at once by an operator, who leans on fencing alone.
    pub excused: bool,
}

/// Who holds a resource and who waits for it.
#[derive(Debug, Default)]
pub struct Line {
    /// By token.
    pub holders: Vec<(Token, Mode, u32)>,
    /// In their order; not those that are passed over.
    pub waiting: BTreeMap<Turn, (Mode, u32)>,
}

/// Priority, then place.
pub type Turn = (Reverse<u8>, u64);

/// What a record ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedGrant {
    /// Which.
    pub token: Token,
    /// It was taken at once by an operator, who leans on fencing alone.
    pub excused: bool,
}

/// When the log's clock began to run with an epoch, in true time.
#[derive(Clone, Copy, Debug, Default)]
pub struct EpochClock {
    /// The log's moment.
    pub at: Timestamp,
    /// The true one.
    pub now: u64,
    /// Its clock's rate, in thousandths.
    pub rate: u64,
}

impl EpochClock {
    /// The true time of a moment of this epoch.
    pub fn true_time(&self, at: Timestamp) -> u64 {
        let elapsed = u64::try_from(at.since(self.at).as_micros()).unwrap_or(u64::MAX);
        self.now.saturating_add(elapsed.saturating_mul(1000) / self.rate.max(1))
    }
}

/// The log.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Hash and epoch of every record that counts, by index.
    pub records: Vec<(Hash, u64)>,
    /// By number.
    pub sessions: IdMap<Session>,
    /// The live ones.
    pub live_sessions: BTreeMap<SessionId, ()>,
    /// Live sessions by key.
    pub keys: BTreeMap<Hash, SessionId>,
    /// The keys of all sessions ever.
    pub ever_opened: BTreeSet<Hash>,
    /// By session and number.
    pub asked: RequestMap<Asked>,
    /// By token.
    pub grants: IdMap<Grant>,
    /// In force.
    pub in_force: usize,
    /// By name.
    pub lines: BTreeMap<ResourceName, Line>,
    /// The epoch.
    pub epoch: u64,
    /// Its clock.
    pub clock: EpochClock,
    /// The last record's moment.
    pub at: Timestamp,
    /// Requests that wait.
    pub waiting: usize,
    /// Grants of the whole log.
    pub granted: u64,
    /// Grants ended by the last record.
    pub ended: Vec<EndedGrant>,
}

impl Ledger {
    /// The index of the next record.
    pub fn next_index(&self) -> u64 {
        self.records.len() as u64
    }

    /// The chain rule: whether an entry extends the tip.
    pub fn counts(&self, entry: &[Sealed]) -> bool {
        let mut next = self.next_index();
        let mut tip = self.records.last().map_or(Hash::default(), |(hash, _)| *hash);
        for sealed in entry {
            if sealed.record.index != next || sealed.record.prev != tip {
                return false;
            }
            (next, tip) = (next + 1, sealed.hash);
        }
        !entry.is_empty()
    }

    /// Whether a grant is in force.
    pub fn is_in_force(&self, token: Token) -> bool {
        self.grants.get(&token).is_some_and(|grant| grant.ended.is_none())
    }

    /// A live session.
    pub fn live(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(&session).filter(|session| session.ended.is_none())
    }

    /// The store has lost the last records: to a fresh reader they never were.
    pub fn truncate(&mut self, lost: usize) {
        self.records.truncate(self.records.len().saturating_sub(lost));
    }

    /// Takes a record that counts.
    pub fn fold(&mut self, sealed: &Sealed) {
        let record = &sealed.record;
        self.ended.clear();
        for (id, n) in &record.renewed {
            if let Some(session) = self.sessions.get_mut(id) {
                session.n = session.n.max(*n);
            }
        }
        for event in &record.events {
            self.event(event, record, sealed.hash);
        }
        self.at = record.at;
        self.records.push((sealed.hash, record.epoch));
    }

    fn event(&mut self, event: &Event, record: &Record, hash: Hash) {
        let index = record.index;
        match event {
            Event::EpochStarted { epoch, .. } => self.epoch = *epoch,
            Event::Opened { key_hash, lease_ms, fail_fast_ms, in_flight_max, reply_to, .. } => {
                self.keys.insert(*key_hash, index);
                self.ever_opened.insert(*key_hash);
                self.live_sessions.insert(index, ());
                let session = Session {
                    key_hash: *key_hash,
                    lease_ms: *lease_ms,
                    fail_fast_ms: *fail_fast_ms,
                    window: (*in_flight_max).into(),
                    n: 0,
                    attached: 0,
                    highest: 0,
                    live: Vec::new(),
                    addresses: vec![(index, reply_to.clone())],
                    ended: None,
                };
                self.sessions.insert(index, session);
            }
            Event::Attached { session, n, reply_to } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.addresses.push((index, reply_to.clone()));
                }
                self.attach(*session, *n);
            }
            Event::SessionEnded { session, .. } => self.end_session(*session, index),
            Event::Queued { session, seq, claims, priority, wait_ms, .. } => {
                let asked = Asked {
                    place: index,
                    priority: *priority,
                    limited: wait_ms.is_some(),
                    claims: claims.as_slice().into(),
                    standing: Standing::Waiting,
                };
                self.wait(*session, *seq, asked);
            }
            Event::Granted { session, seq, claims, priority, wait_ms, .. } => {
                let claim = |claim: &arbiterq_client::wire::ClaimGranted| Claim {
                    resource: claim.resource.clone(),
                    mode: claim.mode,
                    permits: claim.permits,
                };
                let claims: Rc<[Claim]> = claims.iter().map(claim).collect();
                let asked = Asked {
                    place: index,
                    priority: *priority,
                    limited: wait_ms.is_some(),
                    claims: claims.clone(),
                    standing: Standing::Held(index),
                };
                let grant = Grant {
                    session: *session,
                    seq: *seq,
                    claims,
                    hash,
                    revoking: None,
                    ended: None,
                    excused: false,
                };
                self.hold(index, grant, asked);
            }
            Event::Refused { session, seq, reason } => {
                self.over(*session, *seq, index, How::Refused(*reason));
            }
            Event::Ended { session, seq, reason } => {
                self.over(*session, *seq, index, How::Ended(*reason));
            }
            Event::Released { token, reason, .. } => {
                let excused = matches!(record.command, Command::ForceRelease { now: true, .. });
                if let Some((session, seq)) = self.take(*token, index, excused) {
                    self.over(session, seq, index, How::Released(*token, *reason));
                }
            }
            Event::Suspended { session, seq, token } => {
                self.take(*token, index, false);
                if let Some(asked) = self.asked.get_mut(&(*session, *seq)) {
                    asked.standing = Standing::Suspended;
                    self.waiting += 1;
                }
            }
            Event::Revoking { token, .. } => {
                if let Some(grant) = self.grants.get_mut(token) {
                    grant.revoking.get_or_insert(index);
                }
            }
            Event::Genesis(_)
            | Event::Policy(_)
            | Event::Unreachable { .. }
            | Event::Delayed { .. }
            | Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::Checkpoint { .. }
            | Event::Closed { .. } => {}
        }
    }

    fn attach(&mut self, id: SessionId, n: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.attached = session.attached.max(n);
        for seq in session.live.clone() {
            let Some(asked) = self.asked.get_mut(&(id, seq)) else { continue };
            if asked.standing == Standing::Suspended {
                asked.standing = Standing::Waiting;
                let turn = (Reverse(asked.priority), asked.place);
                for claim in asked.claims.iter() {
                    let line = self.lines.entry(claim.resource.clone()).or_default();
                    line.waiting.insert(turn, (claim.mode, claim.permits.unwrap_or(1)));
                }
            }
        }
    }

    fn wait(&mut self, id: SessionId, seq: Seq, asked: Asked) {
        let turn = (Reverse(asked.priority), asked.place);
        for claim in asked.claims.iter() {
            let waiter = (claim.mode, claim.permits.unwrap_or(1));
            match self.lines.get_mut(&claim.resource) {
                Some(line) => line.waiting.insert(turn, waiter),
                None => self.lines.entry(claim.resource.clone()).or_default().waiting.insert(turn, waiter),
            };
        }
        self.see(id, seq, true);
        self.waiting += 1;
        self.asked.insert((id, seq), asked);
    }

    fn see(&mut self, id: SessionId, seq: Seq, lives: bool) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.highest = session.highest.max(seq);
            match lives {
                true if !session.live.contains(&seq) => session.live.push(seq),
                true => {}
                false => session.live.retain(|live| *live != seq),
            }
        }
    }

    fn hold(&mut self, token: Token, grant: Grant, mut asked: Asked) {
        if let Some(before) = self.asked.get(&(grant.session, grant.seq)) {
            asked.place = before.place;
        }
        self.leave_line(grant.session, grant.seq);
        for claim in grant.claims.iter() {
            let holder = (token, claim.mode, claim.permits.unwrap_or(1));
            match self.lines.get_mut(&claim.resource) {
                Some(line) => line.holders.push(holder),
                None => self.lines.entry(claim.resource.clone()).or_default().holders.push(holder),
            }
        }
        self.see(grant.session, grant.seq, true);
        self.asked.insert((grant.session, grant.seq), asked);
        self.grants.insert(token, grant);
        self.in_force += 1;
        self.granted += 1;
    }

    fn leave_line(&mut self, id: SessionId, seq: Seq) {
        let Some(asked) = self.asked.get(&(id, seq)) else { return };
        if matches!(asked.standing, Standing::Waiting | Standing::Suspended) {
            self.waiting -= 1;
            let turn = (Reverse(asked.priority), asked.place);
            for claim in asked.claims.iter() {
                if let Some(line) = self.lines.get_mut(&claim.resource) {
                    line.waiting.remove(&turn);
                }
            }
        }
    }

    fn take(&mut self, token: Token, index: u64, excused: bool) -> Option<(SessionId, Seq)> {
        let grant = self.grants.get_mut(&token).filter(|grant| grant.ended.is_none())?;
        (grant.ended, grant.excused) = (Some(index), excused);
        let whose = (grant.session, grant.seq);
        for claim in grant.claims.iter() {
            if let Some(line) = self.lines.get_mut(&claim.resource) {
                line.holders.retain(|(held, ..)| *held != token);
            }
        }
        self.in_force -= 1;
        self.ended.push(EndedGrant { token, excused });
        Some(whose)
    }

    fn over(&mut self, id: SessionId, seq: Seq, index: u64, how: How) {
        self.leave_line(id, seq);
        self.see(id, seq, false);
        let standing = Standing::Over(index, how);
        match self.asked.get_mut(&(id, seq)) {
            Some(asked) => asked.standing = standing,
            None => {
                let asked =
                    Asked { place: index, priority: 0, limited: false, claims: Rc::new([]), standing };
                self.asked.insert((id, seq), asked);
            }
        }
    }

    fn end_session(&mut self, id: SessionId, index: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.ended = Some(index);
        let live = std::mem::take(&mut session.live);
        self.keys.remove(&session.key_hash);
        self.live_sessions.remove(&id);
        for seq in live {
            if let Some(Asked { standing: Standing::Held(token), .. }) = self.asked.get(&(id, seq)) {
                let token = *token;
                self.take(token, index, false);
            }
            self.over(id, seq, index, How::WithSession);
        }
    }
}
