//! From a delivery to a command: who may say it, and whether it was said before.

use super::{Address, Answer, Delivery, Partition, Read, Source, Uptime};
use crate::log::chain::hash_of;
use crate::log::record::{AcquireCommand, Command, OpenCommand};
use crate::planted::Planted;
use crate::state::Known;
use arbiterq_client::wire::{
    Acquire, Auth, Cause, Done, Gone, KeepAlive, Open, Principal, Reason, Refused, ReplyBody, RequestBody,
    SessionEnded, SessionId, Tick,
};

impl Partition {
    /// Decides one delivery, in the queue's order.
    pub(super) fn command(&mut self, delivery: Delivery, now: Uptime) {
        let Delivery { id, from, principal, present, position, request } = delivery;
        if position.is_some() {
            self.upto = position;
        }
        let mut source = Source { delivery: id, from, id: None };
        match (request.body, request.auth) {
            (RequestBody::Tick(tick), _) => self.tick(&tick, &source, now),
            (RequestBody::Gone(gone), _) => self.gone(&gone, &source, now),
            // It says nothing that a record would have to keep, and where nothing happens there is none to wait for.
            (RequestBody::Nudge(_), _) => self.out.acks.push(id),
            (RequestBody::Open(open), _) => self.open(open, &principal, present, &mut source, now),
            (RequestBody::Status(ask), _) => match source.from.clone() {
                Some(to) => self.read(&source, Answer::Status { to, ask }, now),
                None => self.read(&source, Answer::Nothing, now),
            },
            (RequestBody::ForceRelease(force), _) => {
                let by = principal.name;
                let (resource, token, reason) = (force.resource, force.token, force.reason);
                let command = Command::ForceRelease { resource, token, reason, by, now: force.now };
                self.operate(command, force.id, source, now);
            }
            (RequestBody::Pause(pause), _) => {
                let command = Command::Pause { reason: pause.reason, by: principal.name };
                self.operate(command, pause.id, source, now);
            }
            (RequestBody::Resume(resume), _) => {
                let command = Command::Resume { reason: resume.reason, by: principal.name };
                self.operate(command, resume.id, source, now);
            }
            (body, Some(auth)) => self.of_session(body, &auth, &principal, present, &source, now),
            // Decoding lets no such message through; one that is built by hand is answered all the same.
            (_, None) => self.refuse(&source, None, Reason::SessionNeeded, now),
        }
    }

    fn open(&mut self, open: Open, principal: &Principal, present: bool, source: &mut Source, now: Uptime) {
        let key_hash = hash_of(open.key.secret_bytes());
        if let Some(session) = self.state.session_by_key(&key_hash) {
            if self.state.session(session).is_some_and(|known| known.principal() == principal) {
                let opened = |to| Answer::Opened { to, session, id: open.id };
                self.read(source, source.from.clone().map_or(Answer::Nothing, opened), now);
            } else {
                source.id = Some(open.id);
                self.refuse(source, None, Reason::NotYours, now);
            }
            return;
        }
        let command = Command::Open(OpenCommand {
            key_hash,
            lease_ms: open.lease_ms,
            fail_fast_ms: open.fail_fast_ms,
            label: open.label.into(),
            principal: principal.name.clone(),
            principal_by: principal.by,
            reply_to: source.from.clone(),
        });
        source.id = Some(open.id);
        if self.decide_and_seal(command, Some(source), now) {
            if let (true, Some(session)) = (present, self.state.session_by_key(&key_hash)) {
                self.now_present(session, source.from.clone(), 0);
            }
        } else {
            self.refuse(source, None, Reason::SessionsMax, now);
        }
    }

    fn of_session(
        &mut self,
        body: RequestBody,
        auth: &Auth,
        principal: &Principal,
        present: bool,
        source: &Source,
        now: Uptime,
    ) {
        let session = auth.session;
        let Some(known) = self.state.session(session) else {
            let raises = self.plants.has(Planted::DeadRaised);
            if raises && let RequestBody::Acquire(acquire) = body {
                self.raise(acquire, auth, principal, source, now);
            } else if session < self.state.tip().next_index {
                self.dead(source, session, now);
            } else {
                self.refuse(source, Some(session), Reason::NotYours, now);
            }
            return;
        };
        if *known.key_hash() != hash_of(auth.key.secret_bytes()) || known.principal() != principal {
            self.refuse(source, Some(session), Reason::NotYours, now);
            return;
        }
        let (command, otherwise) = match body {
            RequestBody::KeepAlive(keep_alive) => {
                self.keep_alive(session, &keep_alive);
                if self.plants.has(Planted::AliveAtOnce) {
                    self.alive_at_once(session, keep_alive.n);
                }
                self.read(source, Answer::Alive(session), now);
                return;
            }
            RequestBody::Attach(attach) => {
                let reply_to = source.from.clone();
                let command = Command::Attach { session, n: attach.n, reply_to };
                if self.decide_and_seal(command, Some(source), now) {
                    self.not_present(session);
                    if present {
                        self.now_present(session, source.from.clone(), attach.n);
                    }
                } else {
                    self.read(source, Answer::Alive(session), now);
                }
                return;
            }
            RequestBody::Acquire(acquire) => {
                let seq = acquire.seq;
                let answer = Answer::Request(session, seq);
                if self.state.known(session, seq) != Known::New {
                    if self.plants.has(Planted::RepeatFromSpeculation) {
                        self.repeat_at_once(session, seq, now);
                    }
                    self.read(source, answer, now);
                    return;
                }
                (acquire_command(session, acquire), answer)
            }
            RequestBody::Release(release) => {
                let token = release.token;
                (Command::Release { session, token }, Answer::Token(session, token))
            }
            RequestBody::Cancel(cancel) => {
                let seq = cancel.seq;
                (Command::Cancel { session, seq }, Answer::Request(session, seq))
            }
            RequestBody::Close(_) => (Command::Close { session }, Answer::Nothing),
            _ => return self.refuse(source, Some(session), Reason::UnknownKind, now),
        };
        if !self.decide_and_seal(command, Some(source), now) {
            self.read(source, otherwise, now);
        }
    }

    fn keep_alive(&mut self, session: SessionId, keep_alive: &KeepAlive) {
        let counted = self.state.session(session).map_or(u64::MAX, |known| known.n());
        let pending = self.renewals.get(&session).copied().unwrap_or(0);
        if keep_alive.n > counted.max(pending) || self.renews_again(session, keep_alive.n > pending) {
            self.renewals.insert(session, keep_alive.n);
        }
    }

    /// A tick counts once, and only if this activation sent it.
    fn tick(&mut self, tick: &Tick, source: &Source, now: Uptime) {
        let any = self.takes_any_tick(tick.at, now);
        match self.ticks.remove(&tick.nonce).or(any.then_some((tick.at, now))) {
            Some((at, _)) if at == tick.at => {
                let at = if self.plants.has(Planted::TickAtProcessing) { self.at(now) } else { at };
                // An older tick that is still under way could only find what this one has found.
                self.ticks.retain(|_, (other, _)| *other > at);
                if !self.decide_and_seal(Command::Tick { at }, Some(source), now) {
                    self.read(source, Answer::Nothing, now);
                }
                self.time(now);
            }
            _ => self.read(source, Answer::Nothing, now),
        }
    }

    /// A letter that a reply came back counts once, and only if this activation sent it.
    fn gone(&mut self, gone: &Gone, source: &Source, now: Uptime) {
        let (session, n) = (gone.session, gone.n);
        // They come back in their order, as a rule: it is the first.
        let sent = self.gones.iter().position(|nonce| *nonce == gone.nonce);
        if sent.and_then(|sent| self.gones.remove(sent)).is_none() && !self.takes_any_gone() {
            return self.read(source, Answer::Nothing, now);
        }
        // Undone only if nothing else that names the grant was ever published, or is held back: then nobody can
        // have seen it.
        let seq = gone.seq.filter(|seq| match self.state.known(session, *seq) {
            Known::Held(token) => self.named.get(&token) == Some(&1) || self.undoes_named(token),
            _ => false,
        });
        let command = Command::Gone { session, n, seq, cause: Cause::Returned };
        if !self.decide_and_seal(command, Some(source), now) {
            self.read(source, Answer::Nothing, now);
        }
    }

    /// An operator's command: carried out, or answered that it changes nothing.
    fn operate(&mut self, command: Command, id: String, mut source: Source, now: Uptime) {
        let forced = match &command {
            Command::ForceRelease { resource, token, .. } => Some((resource.clone(), *token)),
            _ => None,
        };
        source.id = Some(id.clone());
        if self.decide_and_seal(command, Some(&source), now) {
            return;
        }
        let gone = forced.is_some_and(|(resource, token)| {
            let grant = self.state.grant(token);
            !grant.is_some_and(|grant| grant.claims().iter().any(|claim| claim.resource == resource))
        });
        match (gone, source.from.clone()) {
            (true, _) => self.refuse(&source, None, Reason::HolderChanged, now),
            (false, Some(to)) => {
                let body = ReplyBody::Done(Done { id });
                self.read(&source, Answer::Fixed { to, session: None, body }, now);
            }
            (false, None) => self.read(&source, Answer::Nothing, now),
        }
    }

    fn dead(&mut self, source: &Source, session: SessionId, now: Uptime) {
        let body = ReplyBody::SessionEnded(SessionEnded { reason: Reason::Ended });
        self.answer_sender(source, Some(session), body, now);
    }

    fn refuse(&mut self, source: &Source, session: Option<SessionId>, reason: Reason, now: Uptime) {
        let id = source.id.clone();
        let body = ReplyBody::Refused(Refused { id, seq: None, token: None, reason, detail: String::new() });
        self.answer_sender(source, session, body, now);
    }

    fn answer_sender(&mut self, source: &Source, session: Option<SessionId>, body: ReplyBody, now: Uptime) {
        let answer = source.from.clone().map_or(Answer::Nothing, |to| Answer::Fixed { to, session, body });
        self.read(source, answer, now);
    }

    /// Waits for the record sealed next.
    fn read(&mut self, source: &Source, answer: Answer, now: Uptime) {
        if !matches!(answer, Answer::Nothing) {
            self.reads_since.get_or_insert(now);
        }
        self.reads.push(Read { delivery: Some(source.delivery), answer });
        if self.barrier_due(now) {
            self.seal(Command::Barrier, Vec::new(), now);
            if !self.plants.has(Planted::AdvanceOnlyAfter) {
                self.advance(now);
            }
        }
    }

    fn now_present(&mut self, session: SessionId, address: Option<Address>, n: u64) {
        let Some(address) = address else { return };
        self.present_at.entry(address.clone()).or_default().insert(session);
        self.present.insert(session, (address, n));
    }

    /// The session's end, or an address that shows nothing: its connection's end tells nothing any more.
    pub(super) fn not_present(&mut self, session: SessionId) {
        let Some((address, _)) = self.present.remove(&session) else { return };
        if let Some(sessions) = self.present_at.get_mut(&address) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.present_at.remove(&address);
            }
        }
    }
}

pub(super) fn acquire_command(session: SessionId, acquire: Acquire) -> Command {
    Command::Acquire(AcquireCommand {
        session,
        seq: acquire.seq,
        claims: acquire.claims,
        owner: acquire.owner,
        priority: acquire.priority.unwrap_or(0),
        wait_ms: acquire.wait_ms,
        hold_max_ms: acquire.hold_max_ms,
        reason: acquire.reason.map(Into::into),
        value: acquire.value.map(Into::into),
    })
}
