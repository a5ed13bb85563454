//! One arbiter's state under a clock that stands still between commands.
//!
//! ```text
//! genesis partitions=4            the first record; written by itself with one partition
//! start                           an epoch begins; advances are made by themselves from here on
//! stop                            the arbiter dies: no advances until `start`
//! sleep 1500                      milliseconds
//! policy {"rules":[…],…}          as JSON, over the defaults
//! open c [lease=1000] [fail_fast=300] [as=alice] [key=c]
//! c acquire 1 db s:x p2:pool [wait=0] [hold=50] [priority=3] [owner=d/4]
//! c release c/1 | c cancel 1 | c close | c attach 2 | c keep_alive 5
//! gone c n=0 [seq=1] [closed]
//! tick [at=1500]
//! advance | force db c/1 [now] | pause why | resume why
//! c knows 1 | c alive | c queued 1 | c outcome c/1 | c granted c/1 | line db | next
//! ```
//! Claims are exclusive, `s:` shared or `p2:` two permits. A grant is named by its token or by its request.

use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{
    AcquireCommand, Command, Event, FORMAT, Genesis, OpenCommand, Policy, RULES, Record,
};
use arbiterq::state::{State, decide, snapshot};
use arbiterq_client::wire::{
    Cause, Claim, Mode, Nonce, OwnerRef, PrincipalBy, ResourceName, Seq, SessionId, StatusWhat, Timestamp,
    Token,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) struct Desk {
    state: State,
    standby: State,
    now: Timestamp,
    begun: Timestamp,
    running: bool,
    names: BTreeMap<SessionId, String>,
    /// The last grant of each request.
    tokens: BTreeMap<(SessionId, Seq), Token>,
    out: String,
}

/// The words of a command: plain ones in order, and `name=value`.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn number(&self, name: &str) -> Option<u64> {
        self.named.get(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }

    fn at(&self, i: usize) -> u64 {
        self.plain[i].parse().unwrap_or_else(|_| panic!("a number, not {}", self.plain[i]))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        let begun: Timestamp = "2026-01-01T00:00:00.000000Z".parse().unwrap();
        let state = State::new(ChainTip::before(0));
        Self {
            standby: state.clone(),
            state,
            now: begun,
            begun,
            running: false,
            names: BTreeMap::new(),
            tokens: BTreeMap::new(),
            out: String::new(),
        }
    }

    /// Carries a command out, and gives what it prints.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let (named, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('=') && !word.contains('"'));
        let named = named.into_iter().map(|word| word.split_once('=').unwrap()).collect();
        let words = Words { plain, named };
        match self.names.iter().find(|(_, name)| *name == words.plain[0]).map(|(id, _)| *id) {
            Some(session) => self.of_session(session, &words),
            None => self.of_nobody(line, &words),
        }
        std::mem::take(&mut self.out)
    }

    fn of_nobody(&mut self, line: &str, words: &Words<'_>) {
        if self.state.genesis().is_none() {
            let genesis = Genesis {
                format: FORMAT,
                log_id: Default::default(),
                partition: 0,
                partitions: words.number("partitions").unwrap_or(1) as u32,
                first_index: 0,
                after: Vec::new(),
            };
            self.seal(Command::Create, vec![Event::Genesis(genesis)], Vec::new());
        }
        let rest = |word: &str| line[word.len()..].trim().to_owned();
        let by = || "ops".into();
        match words.plain[0] {
            "genesis" => {}
            "start" => {
                self.running = true;
                let epoch = self.state.epoch() + 1;
                let incarnation = Nonce([epoch as u8; 16]);
                let event = Event::EpochStarted { epoch, incarnation, rules: RULES };
                self.seal(Command::Activate, vec![event], Vec::new());
                self.advance();
            }
            "stop" => self.running = false,
            "sleep" => self.now = self.now.plus_ms(words.at(1)),
            "policy" => {
                let mut policy = serde_json::to_value(Policy::default()).unwrap();
                let given: serde_json::Value = serde_json::from_str(&rest("policy")).unwrap();
                policy.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
                let policy = serde_json::from_value(policy).unwrap();
                self.seal(Command::Policy, vec![Event::Policy(policy)], Vec::new());
                self.advance();
            }
            "open" => {
                let name = words.plain[1].to_owned();
                let key = words.named.get("key").copied().unwrap_or(&name);
                self.names.insert(self.state.tip().next_index, name.clone());
                let open = OpenCommand {
                    key_hash: hash_of(key.as_bytes()),
                    lease_ms: words.number("lease").unwrap_or(60_000),
                    fail_fast_ms: words.number("fail_fast"),
                    label: name.as_str().into(),
                    principal: words.named.get("as").copied().unwrap_or("anonymous").into(),
                    principal_by: PrincipalBy::Nobody,
                    reply_to: Some(format!("{name}.0").into()),
                };
                let index = self.state.tip().next_index;
                self.decide(Command::Open(open));
                if self.state.session(index).is_none() {
                    self.names.remove(&index);
                }
            }
            "gone" => {
                let session = self.id(words.plain[1]);
                let cause = if words.has("closed") { Cause::Closed } else { Cause::Returned };
                let (n, seq) = (words.number("n").expect("n="), words.number("seq"));
                self.decide(Command::Gone { session, n, seq, cause });
            }
            "tick" => {
                let at = words.number("at").map_or(self.now, |ms| self.begun.plus_ms(ms));
                self.decide(Command::Tick { at });
            }
            "advance" => self.decide(Command::Advance),
            "force" => self.decide(Command::ForceRelease {
                resource: name_of(words.plain[1]),
                token: self.token(words.plain[2]),
                reason: "stuck".into(),
                by: by(),
                now: words.has("now"),
            }),
            "pause" => self.decide(Command::Pause { reason: rest("pause"), by: by() }),
            "resume" => self.decide(Command::Resume { reason: rest("resume"), by: by() }),
            "line" => self.line(&name_of(words.plain[1])),
            "next" => {
                let next = self.state.next_deadline().map(|at| format!("{}", self.ms(at)));
                writeln!(self.out, "next deadline {}", next.unwrap_or("never".into())).unwrap();
            }
            other => panic!("no command and no session: {other}"),
        }
    }

    fn of_session(&mut self, session: SessionId, words: &Words<'_>) {
        match words.plain[1] {
            "acquire" => {
                let claims = words.plain[3..].iter().map(|text| claim_of(text)).collect();
                let owner = words.named.get("owner").map(|owner| {
                    let (name, seq) = owner.split_once('/').unwrap();
                    OwnerRef(self.id(name), seq.parse().unwrap())
                });
                self.decide(Command::Acquire(AcquireCommand {
                    session,
                    seq: words.at(2),
                    claims,
                    owner,
                    priority: words.number("priority").unwrap_or(0) as u8,
                    wait_ms: words.number("wait"),
                    hold_max_ms: words.number("hold"),
                    reason: None,
                    value: None,
                }));
            }
            "release" => self.decide(Command::Release { session, token: self.token(words.plain[2]) }),
            "cancel" => self.decide(Command::Cancel { session, seq: words.at(2) }),
            "close" => self.decide(Command::Close { session }),
            "attach" => {
                let reply_to = Some(format!("{}.{}", self.names[&session], words.at(2)).into());
                self.decide(Command::Attach { session, n: words.at(2), reply_to });
            }
            "keep_alive" => {
                let renewed = vec![(session, words.at(2))];
                self.state.renew(&renewed, self.now);
                self.seal(Command::Barrier, Vec::new(), renewed);
                let text = match self.state.session(session) {
                    Some(known) => format!("n {}, lease until {}", known.n(), self.ms(known.lease_until())),
                    None => "no session".into(),
                };
                writeln!(self.out, "{text}").unwrap();
                self.advance();
            }
            "knows" => {
                let known = format!("{:?}", self.state.known(session, words.at(2)));
                writeln!(self.out, "{known}").unwrap();
            }
            "alive" => {
                let text = match self.state.alive(session) {
                    Some(alive) => serde_json::to_string(&alive).unwrap(),
                    None => "no session".into(),
                };
                writeln!(self.out, "{text}").unwrap();
            }
            "queued" => {
                let queued = self.state.queued(session, words.at(2), self.now);
                writeln!(self.out, "{}", serde_json::to_string(&queued).unwrap()).unwrap();
            }
            "outcome" => {
                let outcome = self.state.token_outcome(session, self.token(words.plain[2]));
                writeln!(self.out, "{}", outcome.map_or("none".into(), |reason| reason.to_string())).unwrap();
            }
            "granted" => {
                let granted = self
                    .state
                    .granted(self.token(words.plain[2]))
                    .map(|granted| (granted.seq, granted.floors));
                writeln!(self.out, "{granted:?}").unwrap();
            }
            other => panic!("no command: {other}"),
        }
    }

    fn line(&mut self, name: &ResourceName) {
        let status = self.state.status("", &StatusWhat::Queue(name.clone()), self.now);
        for holder in &status.holders {
            let revoking = if holder.revoking { ", revoking" } else { "" };
            let claim = shown(name, holder.mode, holder.permits);
            writeln!(self.out, "held {claim} by {}, token {}{revoking}", holder.session.label, holder.token)
                .unwrap();
        }
        for waiter in &status.queue {
            let suspended = if waiter.suspended { ", suspended" } else { "" };
            let claim = shown(name, waiter.mode, waiter.permits);
            let of = format!("{}/{}", waiter.session.label, waiter.seq);
            writeln!(self.out, "{}. {of} waits for {claim}{suspended}", waiter.position).unwrap();
        }
        if status.holders.is_empty() && status.queue.is_empty() {
            writeln!(self.out, "free").unwrap();
        }
    }

    fn decide(&mut self, command: Command) {
        let events = decide(&self.state, &command, self.now);
        let due = |moment| matches!(&command, Command::Tick { at } if moment <= *at);
        if events.is_empty() && !self.state.next_deadline().is_some_and(due) {
            writeln!(self.out, "nothing").unwrap();
        } else {
            self.seal(command, events, Vec::new());
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.running && self.state.can_advance() {
            let events = decide(&self.state, &Command::Advance, self.now);
            assert!(!events.is_empty(), "an advance that changes nothing");
            self.seal(Command::Advance, events, Vec::new());
        }
    }

    fn seal(&mut self, command: Command, events: Vec<Event>, renewed: Vec<(SessionId, u64)>) {
        let tip = self.state.tip();
        let kind = serde_json::to_value(&command).unwrap();
        let kind = kind.as_str().or_else(|| kind.as_object()?.keys().next().map(String::as_str)).unwrap();
        let shown: Vec<String> = events.iter().map(|event| self.shown(event, tip.next_index)).collect();
        writeln!(self.out, "{} @{} {kind}: {}", tip.next_index, self.ms(self.now), shown.join("; ")).unwrap();
        for event in &events {
            if let Event::Granted { session, seq, .. } = event {
                self.tokens.insert((*session, *seq), tip.next_index);
            }
        }
        let sealed = Sealed::new(Record {
            index: tip.next_index,
            prev: tip.hash,
            epoch: self.state.epoch(),
            at: self.now,
            renewed,
            upto: None,
            command,
            events,
        });
        self.state.apply(&sealed);
        self.standby.fold(&Sealed::read(&sealed.line).unwrap());
        assert_eq!(self.standby, self.state, "a standby has folded something else");
        let body = snapshot::write(&self.state);
        let read = snapshot::read(&body).unwrap();
        assert_eq!(read, self.state, "read from a checkpoint, it is another state");
        assert_eq!(snapshot::write(&read), body);
    }

    fn shown(&self, event: &Event, index: u64) -> String {
        let of = |session: &SessionId, seq: &u64| format!("{}/{seq}", self.name(*session));
        match event {
            Event::Opened { lease_ms, label, .. } => format!("opened {label}, lease {lease_ms}"),
            Event::Attached { session, n, .. } => format!("attached {} {n}", self.name(*session)),
            Event::Unreachable { session, n } => format!("unreachable {} {n}", self.name(*session)),
            Event::SessionEnded { session, reason } => {
                format!("session_ended {} {reason}", self.name(*session))
            }
            Event::Queued { session, seq, claims, owner, hold_max_ms, .. } => {
                let claims = claims.iter().map(|claim| shown(&claim.resource, claim.mode, claim.permits));
                let owner =
                    owner.map_or(String::new(), |owner| format!(", owner {}", of(&owner.0, &owner.1)));
                let hold = hold_max_ms.map_or(String::new(), |ms| format!(", hold at most {ms}"));
                format!("queued {} {}{owner}{hold}", of(session, seq), claims.collect::<Vec<_>>().join(" "))
            }
            Event::Granted { session, seq, claims, owner, hold_max_ms, .. } => {
                let claims = claims.iter().map(|claim| {
                    let floor = if claim.floor == index {
                        String::new()
                    } else {
                        format!(" (floor {})", claim.floor)
                    };
                    shown(&claim.resource, claim.mode, claim.permits) + &floor
                });
                let owner =
                    owner.map_or(String::new(), |owner| format!(", owner {}", of(&owner.0, &owner.1)));
                let hold = hold_max_ms.map_or(String::new(), |ms| format!(", hold at most {ms}"));
                let claims = claims.collect::<Vec<_>>().join(" ");
                format!("granted {} {claims}, token {index}{owner}{hold}", of(session, seq))
            }
            Event::Refused { session, seq, reason } => format!("refused {} {reason}", of(session, seq)),
            Event::Ended { session, seq, reason } => format!("ended {} {reason}", of(session, seq)),
            Event::Released { token, reason, by } => {
                let by = by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
                format!("released {token} {reason}{by}")
            }
            Event::Revoking { token, reason, by, until } => {
                let by = by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
                format!("revoking {token} {reason}{by} until {}", self.ms(*until))
            }
            Event::Suspended { session, seq, token } => {
                format!("suspended {}, token {token}", of(session, seq))
            }
            Event::Delayed { resource, until } => format!("delayed {resource} until {}", self.ms(*until)),
            Event::Paused { by, reason } => format!("paused by {by}: {reason}"),
            Event::Resumed { by, reason } => format!("resumed by {by}: {reason}"),
            Event::EpochStarted { epoch, .. } => format!("epoch_started {epoch}"),
            Event::Genesis(genesis) => format!("genesis, {} partitions", genesis.partitions),
            Event::Policy(_) => "policy".into(),
            Event::Checkpoint { .. } | Event::Closed { .. } => format!("{event:?}"),
        }
    }

    fn ms(&self, at: Timestamp) -> u128 {
        at.since(self.begun).as_millis()
    }

    fn name(&self, session: SessionId) -> String {
        self.names.get(&session).cloned().unwrap_or_else(|| format!("#{session}"))
    }

    fn token(&self, text: &str) -> Token {
        let Some((name, seq)) = text.split_once('/') else { return text.parse().unwrap() };
        let of = (self.id(name), seq.parse().unwrap());
        *self.tokens.get(&of).unwrap_or_else(|| panic!("{text} was never granted"))
    }

    fn id(&self, name: &str) -> SessionId {
        let known = self.names.iter().find(|(_, known)| *known == name);
        known.map_or_else(|| name.parse().unwrap(), |(id, _)| *id)
    }
}

fn name_of(text: &str) -> ResourceName {
    ResourceName::new(text).unwrap()
}

fn claim_of(text: &str) -> Claim {
    match text.split_once(':') {
        Some(("s", name)) => Claim::shared(name_of(name)),
        Some((permits, name)) => Claim::permits(name_of(name), permits[1..].parse().unwrap()),
        None => Claim::exclusive(name_of(text)),
    }
}

fn shown(name: &ResourceName, mode: Mode, permits: Option<u32>) -> String {
    match mode {
        Mode::Exclusive => name.to_string(),
        Mode::Shared => format!("s:{name}"),
        Mode::Permits => format!("p{}:{name}", permits.unwrap_or_default()),
    }
}
