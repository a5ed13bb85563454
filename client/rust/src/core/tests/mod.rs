//! The rules as tests, each against a scripted arbiter, and all of them together against a simple one.

mod counterexamples;
mod model;
mod rules;

use super::*;
use crate::wire::{
    Alive, Claim, Hash, Lost, Opened, Queued, Released, Reply, ReplyBody, RequestBody, ResourceName,
    RevokedToken, SessionEnded,
};

const SECOND: Micros = 1_000_000;
/// The lease that the scripted arbiter gives: 57 seconds of belief, keep-alives every 15.
const LEASE_MS: u64 = 60_000;
const SESSION: SessionId = 100;

/// A core, the time, and what came out of it.
struct Script {
    core: SessionCore,
    now: Micros,
    epoch: u64,
    sent: Vec<RequestBody>,
    events: Vec<Event>,
    attach_wanted: Vec<bool>,
    keys: u8,
}

impl Script {
    /// Connected, nothing asked.
    fn new(planted: Option<Planted>) -> Self {
        Self::with(planted, None)
    }

    fn with(planted: Option<Planted>, fail_fast_ms: Option<u64>) -> Self {
        let config =
            SessionConfig { partition: 0, label: "c".into(), lease_ms: LEASE_MS, fail_fast_ms, jitter: 7 };
        let mut core = SessionCore::new(config);
        if let Some(planted) = planted {
            core = core.with_planted(planted);
        }
        let mut script = Self {
            core,
            now: 1_000 * SECOND,
            epoch: 1,
            sent: Vec::new(),
            events: Vec::new(),
            attach_wanted: Vec::new(),
            keys: 0,
        };
        script.connect();
        script
    }

    /// A session is open, request 1 is asked with number 1.
    fn asked(planted: Option<Planted>) -> Self {
        let mut script = Self::new(planted);
        script.acquire(1);
        script.opened();
        assert_eq!(script.acquired(), [1]);
        script
    }

    /// Request 1 is held with token 110.
    fn held(planted: Option<Planted>) -> Self {
        let mut script = Self::asked(planted);
        script.granted(1, 110);
        assert!(script.core.believes(110, script.now));
        script.sent.clear();
        script.events.clear();
        script
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Send(request) => self.sent.push(request.body),
                Output::Event(event) => self.events.push(event),
                Output::AttachWanted { fresh } => self.attach_wanted.push(fresh),
                Output::KeyWanted => {
                    self.keys += 1;
                    self.core.open(self.now, SessionKey::random([self.keys; 16]));
                }
            }
        }
        assert!(self.core.next_wake().is_none_or(|at| at > self.now), "nothing due is left");
    }

    fn connect(&mut self) {
        self.core.connected(self.now, Address::default());
        self.drain();
    }

    fn disconnect(&mut self) {
        self.core.disconnected(self.now);
        self.drain();
    }

    fn acquire(&mut self, request: RequestId) {
        let claims = vec![Claim::exclusive(ResourceName::new("r").unwrap())];
        self.core.acquire(self.now, request, Ask { claims, ..Ask::default() });
        self.drain();
    }

    fn release(&mut self, request: RequestId) {
        self.core.release(self.now, request);
        self.drain();
    }

    /// Time passes, the core is woken whenever it wants.
    fn pass(&mut self, time: Micros) {
        let until = self.now + time;
        while let Some(at) = self.core.next_wake().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.core.tick(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn hear(&mut self, index: u64, session: Option<SessionId>, body: ReplyBody) {
        let reply = Reply { partition: 0, epoch: self.epoch, index, session, body };
        self.core.reply(self.now, &reply);
        self.drain();
    }

    fn opened(&mut self) {
        self.opened_as(SESSION, 64);
    }

    fn opened_as(&mut self, session: SessionId, in_flight_max: u32) {
        let id = format!("o{}", self.keys);
        let genesis = LogId([1; 16]);
        let opened = Opened { id, session, lease_ms: LEASE_MS, in_flight_max, genesis, partitions: 1 };
        self.hear(session, Some(session), ReplyBody::Opened(opened));
    }

    fn queued(&mut self, seq: Seq, index: u64) {
        let queued = Queued { seq, position: 1, waiting: 1, held_by: None };
        self.hear(index, Some(SESSION), ReplyBody::Queued(queued));
    }

    fn granted(&mut self, seq: Seq, token: Token) {
        let granted = Granted { seq, token, floors: vec![token], hash: Hash::default() };
        self.hear(token, Some(SESSION), ReplyBody::Granted(granted));
    }

    fn lost(&mut self, token: Token, index: u64) {
        self.hear(index, Some(SESSION), ReplyBody::Lost(Lost { token, reason: Reason::HoldLimit }));
    }

    fn alive(&mut self, n: u64, index: u64, held: &[(Seq, Token)], positions: &[(Seq, u64)]) {
        let attached = match &self.core.phase {
            Phase::Open(session) => session.attach_n,
            _ => 0,
        };
        let alive = Alive {
            n,
            held: held.to_vec(),
            revoked: Vec::new(),
            attached,
            suspended: Vec::new(),
            positions: positions.to_vec(),
        };
        self.hear(index, Some(SESSION), ReplyBody::Alive(alive));
    }

    fn session_ended(&mut self, reason: Reason) {
        self.hear(500, Some(SESSION), ReplyBody::SessionEnded(SessionEnded { reason }));
    }

    fn believes(&self, token: Token) -> bool {
        self.core.believes(token, self.now)
    }

    /// The numbers of what was sent, kind by kind, since it was asked last.
    fn acquired(&mut self) -> Vec<Seq> {
        self.take(|body| match body {
            RequestBody::Acquire(acquire) => Some(acquire.seq),
            _ => None,
        })
    }

    fn released(&mut self) -> Vec<Token> {
        self.take(|body| match body {
            RequestBody::Release(release) => Some(release.token),
            _ => None,
        })
    }

    fn cancelled(&mut self) -> Vec<Seq> {
        self.take(|body| match body {
            RequestBody::Cancel(cancel) => Some(cancel.seq),
            _ => None,
        })
    }

    fn kept_alive(&mut self) -> Vec<u64> {
        self.take(|body| match body {
            RequestBody::KeepAlive(keep_alive) => Some(keep_alive.n),
            _ => None,
        })
    }

    fn opens(&mut self) -> usize {
        self.take(|body| matches!(body, RequestBody::Open(_)).then_some(())).len()
    }

    fn attached(&mut self) -> Vec<u64> {
        self.take(|body| match body {
            RequestBody::Attach(attach) => Some(attach.n),
            _ => None,
        })
    }

    fn take<T>(&mut self, of: impl Fn(&RequestBody) -> Option<T>) -> Vec<T> {
        let taken = self.sent.iter().filter_map(&of).collect();
        self.sent.retain(|body| of(body).is_none());
        taken
    }
}
