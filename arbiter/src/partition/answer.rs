//! From events and waiting questions to replies, held back until their record is proven.

use super::{Address, Answer, Held, Mark, Outgoing, Partition, Read, Release, Source};
use crate::log::chain::Sealed;
use crate::log::record::{Command, Event};
use crate::planted::Planted;
use crate::state::{Known, Outcome};
use arbiterq_client::wire::{
    Done, Ended, Lost, Opened, Reason, Refused, Released, Reply, ReplyBody, Seq, SessionEnded, SessionId,
    Timestamp, Token,
};

/// What only the state before a record knows, of what its events end.
#[derive(Default)]
pub(super) struct Before {
    /// Where to tell sessions that end.
    ended: Vec<(SessionId, Option<Address>)>,
    /// Whose the grants are that end.
    released: Vec<(Token, SessionId)>,
}

impl Partition {
    pub(super) fn look_before(&mut self, events: &[Event]) -> Before {
        let mut before = Before::default();
        for event in events {
            match event {
                Event::SessionEnded { session, .. } => {
                    before.ended.push((*session, self.address_of(*session)));
                    self.not_present(*session);
                    if self.config.returns
                        && let Some(alive) = self.state.alive(*session)
                    {
                        for (_, token) in alive.held {
                            self.named.remove(&token);
                        }
                    }
                }
                Event::Released { token, .. } => {
                    self.named.remove(token);
                    before.released.extend(self.state.grant(*token).map(|grant| (*token, grant.session())));
                }
                Event::Suspended { token, .. } => {
                    self.named.remove(token);
                }
                _ => {}
            }
        }
        before
    }

    /// The answers that a record's events are, and the acknowledgement of what asked for it.
    pub(super) fn answer_events(&mut self, sealed: &Sealed, before: &Before, source: Option<&Source>) {
        let (index, at) = (sealed.record.index, sealed.record.at);
        for event in &sealed.record.events {
            match event {
                Event::Opened { .. } => {
                    let id = source.and_then(|source| source.id.clone()).unwrap_or_default();
                    if let Some(opened) = self.opened(index, id) {
                        self.tell(index, index, ReplyBody::Opened(opened));
                    }
                    self.may_be_probed(index);
                }
                Event::Attached { session, .. } => self.answer_alive(index, *session),
                Event::Queued { session, seq, .. } => {
                    if let Some(queued) = self.state.queued(*session, *seq, at) {
                        self.tell(index, *session, ReplyBody::Queued(queued));
                    }
                }
                Event::Granted { session, .. } => {
                    if self.config.returns {
                        self.named.insert(index, 0);
                    }
                    if let Some(granted) = self.state.granted(index) {
                        self.tell(index, *session, ReplyBody::Granted(granted));
                    }
                }
                Event::Refused { session, seq, reason } => {
                    let refused = refused(Some(*seq), None, *reason);
                    self.tell(index, *session, refused);
                }
                Event::Ended { session, seq, reason } => {
                    self.tell(index, *session, ReplyBody::Ended(Ended { seq: *seq, reason: *reason }));
                }
                Event::Revoking { token, reason, .. } => {
                    if let Some(session) = self.state.grant(*token).map(|grant| grant.session()) {
                        self.tell(index, session, ReplyBody::Lost(Lost { token: *token, reason: *reason }));
                    }
                    self.answer_done(index, source);
                }
                Event::Released { token, reason, by } => {
                    let session = before.released.iter().find(|(known, _)| known == token);
                    if let Some((_, session)) = session {
                        let (token, reason) = (*token, *reason);
                        let asked = &sealed.record.command;
                        let own = matches!(asked, Command::Release { .. } | Command::Cancel { .. });
                        let body = match by {
                            // Taken without waiting: the holder has to hear that it is no release of its own.
                            Some(_) if !own => ReplyBody::Lost(Lost { token, reason }),
                            _ => ReplyBody::Released(Released { token, reason }),
                        };
                        self.tell(index, *session, body);
                    }
                    self.answer_done(index, source);
                }
                Event::SessionEnded { session, reason } => {
                    self.answer_farewell(index, *session, *reason, before, source);
                }
                Event::Paused { .. } | Event::Resumed { .. } => self.answer_done(index, source),
                Event::Genesis(_)
                | Event::EpochStarted { .. }
                | Event::Policy(_)
                | Event::Unreachable { .. }
                | Event::Suspended { .. }
                | Event::Delayed { .. }
                | Event::Checkpoint { .. }
                | Event::Closed { .. } => {}
            }
        }
        if let Some(source) = source {
            self.held.push_back(Held::until(index, Release::Ack(source.delivery)));
        }
    }

    /// What waited for a record is answered as of this one.
    pub(super) fn answer_reads(&mut self, index: u64, at: Timestamp) {
        self.reads_since = None;
        for Read { delivery, answer } in std::mem::take(&mut self.reads) {
            match answer {
                Answer::Nothing => {}
                Answer::Alive(session) => self.answer_alive(index, session),
                Answer::Request(session, seq) => self.answer_request(index, session, seq, at),
                Answer::Token(session, token) => self.answer_token(index, session, token),
                Answer::Opened { to, session, id } => {
                    // Its client may be at another address than the session's, and cannot `attach` before it
                    // knows the number.
                    if let Some(opened) = self.opened(session, id) {
                        self.hold(index, Some(to), Some(session), ReplyBody::Opened(opened), None);
                    }
                }
                Answer::Status { to, ask } => {
                    let status = self.state.status(&ask.id, &ask.what, at);
                    self.hold(index, Some(to), None, ReplyBody::Status(Box::new(status)), None);
                }
                Answer::Fixed { to, session, body } => self.hold(index, Some(to), session, body, None),
            }
            if let Some(id) = delivery {
                self.held.push_back(Held::until(index, Release::Ack(id)));
            }
        }
    }

    /// Each holder is told its state, unasked, as of the epoch's own record.
    pub(super) fn tell_holders(&mut self) {
        let index = self.state.tip().next_index - 1;
        let mut holders: Vec<SessionId> = self.state.grants_in_force().map(|grant| grant.session()).collect();
        holders.sort_unstable();
        holders.dedup();
        holders.into_iter().for_each(|session| self.answer_alive(index, session));
    }

    fn opened(&self, session: SessionId, id: String) -> Option<Opened> {
        let (known, genesis) = (self.state.session(session)?, self.state.genesis()?);
        Some(Opened {
            id,
            session,
            lease_ms: known.lease_ms(),
            in_flight_max: known.in_flight_max(),
            genesis: genesis.log_id,
            partitions: genesis.partitions,
        })
    }

    fn answer_alive(&mut self, index: u64, session: SessionId) {
        if let Some(alive) = self.state.alive(session) {
            if self.config.returns && !self.plants.has(Planted::GoneByName) {
                for (_, token) in &alive.held {
                    self.named.entry(*token).and_modify(|count| *count += 1);
                }
            }
            self.tell(index, session, ReplyBody::Alive(alive));
        }
    }

    pub(super) fn answer_request(&mut self, index: u64, session: SessionId, seq: Seq, at: Timestamp) {
        let body = match self.state.known(session, seq) {
            Known::Waiting => self.state.queued(session, seq, at).map(ReplyBody::Queued),
            Known::Held(token) => self.state.granted(token).map(ReplyBody::Granted),
            Known::Over(Outcome::Refused(reason)) => Some(refused(Some(seq), None, reason)),
            // By its number also where there was a grant: a client that never saw that knows no token of it.
            Known::Over(Outcome::Ended(reason) | Outcome::Released(_, reason)) => {
                Some(ReplyBody::Ended(Ended { seq, reason }))
            }
            Known::Forgotten => Some(ReplyBody::Ended(Ended { seq, reason: Reason::Ended })),
            Known::New => None,
        };
        if let Some(body) = body {
            self.tell(index, session, body);
        }
    }

    fn answer_token(&mut self, index: u64, session: SessionId, token: Token) {
        let body = match (self.state.token_outcome(session, token), self.state.grant(token)) {
            (Some(reason), _) => ReplyBody::Released(Released { token, reason }),
            (None, Some(grant)) if grant.session() != session => refused(None, Some(token), Reason::NotYours),
            (None, _) => refused(None, Some(token), Reason::NotHeld),
        };
        self.tell(index, session, body);
    }

    fn answer_done(&mut self, index: u64, source: Option<&Source>) {
        if let Some(Source { from: Some(to), id: Some(id), .. }) = source {
            let body = ReplyBody::Done(Done { id: id.clone() });
            self.hold(index, Some(to.clone()), None, body, None);
        }
    }

    /// To the session's own address, and to whoever closed it from another connection.
    fn answer_farewell(
        &mut self,
        index: u64,
        session: SessionId,
        reason: Reason,
        before: &Before,
        source: Option<&Source>,
    ) {
        let own = before.ended.iter().find(|(ended, _)| *ended == session).and_then(|(_, to)| to.clone());
        let closer = source
            .and_then(|source| source.from.clone())
            .filter(|closer| reason == Reason::Closed && Some(closer) != own.as_ref());
        for to in [own, closer].into_iter().flatten() {
            self.hold(index, Some(to), Some(session), ReplyBody::SessionEnded(SessionEnded { reason }), None);
        }
    }

    /// To the session's address in force at this record.
    pub(super) fn tell(&mut self, index: u64, session: SessionId, body: ReplyBody) {
        let Some(known) = self.state.session(session) else { return };
        let grant = match &body {
            ReplyBody::Granted(granted) => Some((granted.seq, granted.token)),
            _ => None,
        };
        if let Some((_, token)) = grant {
            self.named.entry(token).and_modify(|count| *count += 1);
        }
        let mark = Mark { session, n: known.attached(), grant };
        let to = known.reply_to().cloned();
        self.hold(index, to, Some(session), body, Some(mark));
    }

    fn hold(
        &mut self,
        index: u64,
        to: Option<Address>,
        session: Option<SessionId>,
        body: ReplyBody,
        mark: Option<Mark>,
    ) {
        let Some(to) = to else { return };
        let (partition, epoch) = (self.state.genesis().map_or(0, |g| g.partition), self.state.epoch());
        let reply = Reply { partition, epoch, index, session, body };
        self.held.push_back(Held::until(index, Release::Send(Outgoing { to, reply, mark })));
    }

    fn address_of(&self, session: SessionId) -> Option<Address> {
        self.state.session(session).and_then(|known| known.reply_to().cloned())
    }
}

fn refused(seq: Option<Seq>, token: Option<Token>, reason: Reason) -> ReplyBody {
    ReplyBody::Refused(Refused { id: None, seq, token, reason, detail: String::new() })
}
