//! One task a client: it owns the cores and the connection, and does what the cores say.
//!
//! The API talks to it by commands ([`handle`]); what a user waits for is in [`requests`]; which connection there
//! is, and when another is made, in [`line`]. No rule of the protocol is here: those are in [`crate::core`].

mod handle;
mod line;
mod requests;

pub(crate) use handle::{Command, Handle};

use crate::client::{Config, Place};
use crate::clock::{Clock, Micros, Timer, micros};
use crate::core::{Address, End, Event, Output, RequestId, SessionConfig, SessionCore};
use crate::error::{Error, ErrorKind};
use crate::transport::{ConnectionId, Incoming};
use crate::wire::{
    Reason, Reply, ReplyBody, Request, RequestBody, SessionKey, Status, StatusAsk, StatusWhat,
};
use handle::{ANSWER_TIMEOUT, CLOSE_TIMEOUT, SessionParts};
use line::Line;
use requests::Requests;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Batches of replies that wait for the driver; at the bound the connection is not read.
const INCOMING_MAX: usize = 64;
/// Commands taken at once.
const BATCH_MAX: usize = 256;

/// Connects and starts the task.
pub(crate) async fn start(place: Place, config: Config) -> Result<Handle, Error> {
    let shown = match &place {
        Place::At(url) => url.to_string(),
        Place::Here(_) => "this program".to_owned(),
    };
    let (handle, commands) = Handle::new(config.clock, shown.clone());
    let (ready, is_ready) = oneshot::channel();
    let (incoming_sender, incoming) = mpsc::channel(INCOMING_MAX);
    let seed = random::<8>().map_or(0, u64::from_le_bytes);
    let driver = Driver {
        clock: config.clock,
        line: Line::new(place, config.presence, seed, incoming_sender),
        hindered: None,
        incoming,
        place: shown,
        cores: BTreeMap::new(),
        requests: Requests::default(),
        asks: BTreeMap::new(),
        counts_asked: 0,
        sessions_wanted: Vec::new(),
        closers: Vec::new(),
        closing: None,
        unheard: false,
        open: BTreeSet::new(),
        ready: Some(ready),
        give_up_at: config.clock.now() + micros(ANSWER_TIMEOUT),
        partitions_known: {
            let handle = handle.downgrade();
            Box::new(move |partitions| handle.partitions_known(partitions))
        },
        seed,
        config,
    };
    tokio::spawn(driver.run(commands));
    // The task answers, or has ended with the runtime.
    is_ready.await.unwrap_or_else(|_| Err(Error::closed())).map(|()| handle)
}

/// The second sending was refused because the grant is gone: the first may be what ended it.
fn unknown_outcome(request: &Request) -> Error {
    let what = match &request.body {
        RequestBody::ForceRelease(force) => {
            format!("{} is not held by grant {}", force.resource, force.token)
        }
        _ => "it is not so any more".to_owned(),
    };
    Error::new(ErrorKind::Unknown, what)
        .met("the connection broke, and the question was sent twice: the first may be what ended it")
        .help("look at `arbiter holders`, and at the log for who ended it")
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

/// A question that is answered by its id.
struct Asked {
    request: Request,
    /// It has been sent.
    sent: bool,
    /// It has been sent on an earlier connection, which may have brought it there.
    repeated: bool,
    done: Answer,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Answer {
    Operate(oneshot::Sender<Result<Option<Status>, Error>>),
    Partitions(oneshot::Sender<Result<u32, Error>>),
}

type SessionSender = oneshot::Sender<Result<SessionParts, Error>>;

struct Driver {
    config: Config,
    clock: Clock,
    place: String,
    line: Line,
    /// Why nothing that is sent is taken, as was said last on a connection that did not get an answer since.
    hindered: Option<String>,
    incoming: mpsc::Receiver<(ConnectionId, Incoming)>,
    cores: BTreeMap<u32, SessionCore>,
    requests: Requests,
    asks: BTreeMap<String, Asked>,
    /// Questions for the count of partitions, so that no two have the same id.
    counts_asked: u64,
    sessions_wanted: Vec<(u32, SessionSender, OwnedSemaphorePermit)>,
    closers: Vec<oneshot::Sender<bool>>,
    /// When closing is given up.
    closing: Option<Micros>,
    /// It was given up: the end of some session was not heard.
    unheard: bool,
    /// Cores that are not closed.
    open: BTreeSet<u32>,
    /// Whoever waits for the first connection, and until when.
    ready: Option<oneshot::Sender<Result<(), Error>>>,
    give_up_at: Micros,
    partitions_known: Box<dyn Fn(u32) + Send>,
    seed: u64,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut timer = Timer::new(self.clock);
        let mut batch = Vec::new();
        let mut commands_end = false;
        let now = self.clock.now();
        if self.config.session {
            self.core(0).want_session(now);
        }
        loop {
            self.settle(self.clock.now());
            if self.is_over(commands_end) {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                got = self.incoming.recv() => {
                    // The line keeps a sender of its own: this never ends.
                    if let Some((connection, incoming)) = got {
                        self.heard(connection, incoming);
                    }
                }
                taken = commands.recv_many(&mut batch, BATCH_MAX), if !commands_end => {
                    if taken == 0 {
                        commands_end = true;
                        self.close(None);
                    }
                    let now = self.clock.now();
                    batch.drain(..).for_each(|command| self.command(command, now));
                }
                connected = self.line.connected() => self.connected(connected),
                () = timer.until(wake) => {}
            }
        }
    }

    fn is_over(&mut self, commands_end: bool) -> bool {
        let now = self.clock.now();
        let closed = self.closing.is_some_and(|until| self.open.is_empty() || now >= until);
        if closed {
            self.refuse_questions();
            self.unheard |= !self.open.is_empty();
            // A session whose end was not heard in time is left to its lease. Waited for any longer, it would keep
            // a moment of the past as the next to wake at, and the loop would never pause.
            self.open.clear();
            // What was given back and is not answered for will not be.
            self.requests = Requests::default();
            for done in self.closers.drain(..) {
                let _ = done.send(!self.unheard);
            }
            self.line.drop_all();
        }
        closed && commands_end
    }

    fn next_wake(&self) -> Option<Micros> {
        let cores = self.cores.values().filter_map(SessionCore::next_wake);
        let closing = self.closing.filter(|_| !self.open.is_empty());
        let starting = self.ready.as_ref().map(|_| self.give_up_at);
        let line = self.line.next_attempt();
        cores.chain([closing, starting, line].into_iter().flatten()).min()
    }

    /// Brings everything up to the present: times, what the cores want, the connection.
    fn settle(&mut self, now: Micros) {
        let due: Vec<u32> = self.cores.keys().copied().collect();
        for partition in due {
            let core = self.core(partition);
            if core.next_wake().is_some_and(|at| at <= now) {
                core.tick(now);
            }
            self.drain(partition, now);
        }
        self.asks.retain(|_, asked| match &asked.done {
            Answer::Operate(done) => !done.is_closed(),
            Answer::Partitions(done) => !done.is_closed(),
        });
        self.sessions_wanted.retain(|(_, done, _)| !done.is_closed());
        if self.ready.is_some() && now >= self.give_up_at {
            let met = self.line.last_error().or(self.hindered.as_deref());
            let met = met.unwrap_or("no answer within three seconds").to_owned();
            self.started(Err(Error::no_arbiter(&self.place, met)));
        }
        let wanted = self.ready.is_some()
            || !self.asks.is_empty()
            || self.cores.values().any(|core| core.wants_connection(now));
        if self.closing.is_none() || !self.open.is_empty() {
            self.line.want(wanted, now);
        }
        if self.cores.values().all(SessionCore::settled) {
            self.line.drop_earlier();
        }
        if self.cores.values().all(|core| core.deadline(now).is_none()) {
            self.line.make_room();
        }
        // What several users ask at about the same time goes out together.
        let alone = self.requests.live() <= 1;
        if !self.line.flush(alone) {
            self.given_up(now);
        }
    }

    fn core(&mut self, partition: u32) -> &mut SessionCore {
        if !self.cores.contains_key(&partition) {
            let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let mut core = SessionCore::new(SessionConfig {
                partition,
                label: self.config.label.clone(),
                lease_ms: ms(self.config.lease),
                fail_fast_ms: self.config.fail_fast.map(ms),
                jitter: self.seed ^ u64::from(partition),
            });
            if let Some(address) = self.line.address() {
                core.connected(self.clock.now(), address);
            }
            self.open.insert(partition);
            self.cores.insert(partition, core);
        }
        self.cores.get_mut(&partition).unwrap_or_else(|| unreachable!("it was put there"))
    }

    fn command(&mut self, command: Command, now: Micros) {
        if self.closing.is_some() {
            return self.command_when_closed(command);
        }
        match command {
            Command::Acquire { request, partition, ask, view, decided, handle, permit } => {
                // The permit bounds what waits in the channel; the core bounds what waits in it.
                drop(permit);
                self.requests.ask(request, partition, &ask, view, decided, handle);
                self.core(partition).acquire(now, request, ask);
                self.drain(partition, now);
            }
            Command::Withdraw { request, done } => {
                if let Some(partition) = self.requests.withdrawing(request, done) {
                    self.core(partition).cancel(now, request);
                    self.drain(partition, now);
                }
            }
            Command::GiveBack { request, done } => {
                if let Some(partition) = self.requests.giving_back(request, done) {
                    self.core(partition).release(now, request);
                    self.drain(partition, now);
                    self.requests.forget_if_lost(request);
                }
            }
            Command::Operate { partition, id, body, done, permit } => {
                let request = Request { partition, auth: None, body };
                self.ask(id, request, Answer::Operate(done), Some(permit));
            }
            Command::Partitions { done, permit } => {
                self.counts_asked += 1;
                let id = format!("partitions{}", self.counts_asked);
                let body = RequestBody::Status(StatusAsk { id: id.clone(), what: StatusWhat::Summary });
                let request = Request { partition: 0, auth: None, body };
                self.ask(id, request, Answer::Partitions(done), Some(permit));
            }
            Command::Session { partition, done, permit } => match self.session(partition) {
                Some(session) => drop(done.send(Ok(session))),
                None => {
                    self.core(partition).want_session(now);
                    self.sessions_wanted.push((partition, done, permit));
                    self.drain(partition, now);
                }
            },
            Command::Close { done } => self.close(Some(done)),
        }
    }

    /// Nothing is begun any more. What is given back was lost with its session, and is owed no message.
    fn command_when_closed(&mut self, command: Command) {
        match command {
            Command::Acquire { decided, .. } => drop(decided.send(Err(Error::closed()))),
            Command::Operate { done, .. } => drop(done.send(Err(Error::closed()))),
            Command::Partitions { done, .. } => drop(done.send(Err(Error::closed()))),
            Command::Session { done, .. } => drop(done.send(Err(Error::closed()))),
            Command::Withdraw { request, done } => drop(self.requests.withdrawing(request, done)),
            Command::GiveBack { request, done } => {
                self.requests.giving_back(request, done);
                self.requests.forget_if_lost(request);
            }
            Command::Close { done } => self.close(Some(done)),
        }
    }

    fn ask(&mut self, id: String, request: Request, done: Answer, permit: Option<OwnedSemaphorePermit>) {
        let sent = self.line.send(&request);
        self.asks.insert(id, Asked { request, sent, repeated: false, done, _permit: permit });
    }

    /// Nobody will answer any more.
    fn refuse_questions(&mut self) {
        for asked in std::mem::take(&mut self.asks).into_values() {
            match asked.done {
                Answer::Operate(done) => drop(done.send(Err(Error::closed()))),
                Answer::Partitions(done) => drop(done.send(Err(Error::closed()))),
            }
        }
        for (_, done, _) in self.sessions_wanted.drain(..) {
            let _ = done.send(Err(Error::closed()));
        }
    }

    fn close(&mut self, done: Option<oneshot::Sender<bool>>) {
        let now = self.clock.now();
        self.closers.extend(done);
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(now + micros(CLOSE_TIMEOUT));
        for partition in self.cores.keys().copied().collect::<Vec<_>>() {
            self.core(partition).close(now);
            self.drain(partition, now);
        }
    }

    fn heard(&mut self, connection: ConnectionId, incoming: Incoming) {
        let now = self.clock.now();
        match incoming {
            Incoming::Replies(replies) => {
                self.hindered = None;
                for reply in replies {
                    self.reply(&reply, now);
                }
            }
            Incoming::Unreadable if self.line.is_current(connection) => self.given_up(now),
            Incoming::Unreadable => {}
            // Whoever waits for the first answer hears it at once; what the others have asked is asked again.
            Incoming::Unroutable(met) if self.ready.is_some() => {
                self.started(Err(Error::no_arbiter(&self.place, met)));
            }
            Incoming::Unroutable(met) => {
                tracing::warn!(met, "a request did not reach any arbiter; it is sent again");
            }
            Incoming::Hindered(hindered) if self.line.is_current(connection) => {
                if let Some(met) = &hindered {
                    tracing::warn!(met, "requests wait");
                }
                self.hindered = hindered;
            }
            Incoming::Hindered(_) => {}
            Incoming::Ended if self.line.is_current(connection) => self.disconnected(now),
            Incoming::Ended => self.line.earlier_ended(connection),
        }
    }

    fn reply(&mut self, reply: &Reply, now: Micros) {
        let id = match &reply.body {
            ReplyBody::Done(done) => Some(&done.id),
            ReplyBody::Status(status) => Some(&status.id),
            ReplyBody::Refused(refused) => refused.id.as_ref(),
            _ => None,
        };
        if let Some(asked) = id.and_then(|id| self.asks.remove(id)) {
            self.answer(asked, &reply.body);
            return;
        }
        if self.cores.contains_key(&reply.partition) {
            self.core(reply.partition).reply(now, reply);
            self.drain(reply.partition, now);
        }
    }

    fn answer(&mut self, asked: Asked, body: &ReplyBody) {
        let refused = match body {
            ReplyBody::Refused(refused) if asked.repeated && refused.reason == Reason::HolderChanged => {
                Some(unknown_outcome(&asked.request))
            }
            ReplyBody::Refused(refused) => Some(requests::refused(refused.reason, &refused.detail)),
            _ => None,
        };
        let status = match body {
            ReplyBody::Status(status) => Some(Status::clone(status)),
            _ => None,
        };
        match asked.done {
            Answer::Operate(done) => drop(done.send(refused.map_or(Ok(status), Err))),
            Answer::Partitions(done) => {
                let partitions = status.map(|status| status.partitions).unwrap_or(1);
                if refused.is_none() {
                    (self.partitions_known)(partitions);
                }
                let _ = done.send(refused.map_or(Ok(partitions), Err));
            }
        }
    }

    fn connected(&mut self, connected: bool) {
        let now = self.clock.now();
        if !connected {
            // Nobody listens: whoever waits for the first connection hears it at once, the others are tried for.
            if self.ready.is_some()
                && let Some(met) = self.line.refused().map(str::to_owned)
            {
                self.started(Err(Error::no_arbiter(&self.place, met)));
            }
            return;
        }
        self.hindered = None;
        for partition in self.cores.keys().copied().collect::<Vec<_>>() {
            if let Some(address) = self.line.address() {
                self.core(partition).connected(now, address);
                self.drain(partition, now);
            }
        }
        for asked in self.asks.values_mut() {
            asked.repeated |= asked.sent;
            asked.sent = true;
            self.line.send(&asked.request);
        }
        if !self.config.session {
            self.started(Ok(()));
        }
    }

    /// The other side has ended the connection.
    fn disconnected(&mut self, now: Micros) {
        self.line.lost(now);
        self.unreachable(now);
    }

    /// The connection is of no use. It is not closed: that would tell the arbiter that this program is dead, while
    /// its users still hold what they hold.
    fn given_up(&mut self, now: Micros) {
        self.line.give_up(now);
        self.unreachable(now);
    }

    fn unreachable(&mut self, now: Micros) {
        for partition in self.cores.keys().copied().collect::<Vec<_>>() {
            self.core(partition).disconnected(now);
            self.drain(partition, now);
        }
    }

    fn started(&mut self, how: Result<(), Error>) {
        if let Some(ready) = self.ready.take() {
            let failed = how.is_err();
            let _ = ready.send(how);
            if failed {
                self.close(None);
                self.closing = Some(0);
            }
        }
    }

    /// Does what a core says.
    fn drain(&mut self, partition: u32, now: Micros) {
        while let Some(output) = self.core(partition).poll() {
            match output {
                Output::Send(request) => {
                    self.line.send(&request);
                }
                Output::KeyWanted => match random() {
                    Some(bits) => self.core(partition).open(now, SessionKey::random(bits)),
                    None => tracing::error!("the system gives no random numbers: no session can be opened"),
                },
                Output::AttachWanted { fresh: true } => self.line.want_another(),
                Output::AttachWanted { fresh: false } => match self.line.address() {
                    // Where replies go to an address of its own, that serves one attach.
                    Some(Address { reply_to: Some(_), .. }) => self.line.want_another(),
                    Some(address) => self.core(partition).connected(now, address),
                    None => {}
                },
                Output::Event(event) => self.event(partition, event),
            }
        }
    }

    fn event(&mut self, partition: u32, event: Event) {
        match event {
            Event::SessionOpened { partitions, .. } => {
                (self.partitions_known)(partitions);
                self.answer_sessions(partition, None);
                self.started(Ok(()));
            }
            Event::OpenRefused { reason, detail } => {
                let error = requests::refused(reason, &detail);
                self.answer_sessions(partition, Some(&error));
                self.started(Err(error));
            }
            Event::SessionEnded { session, reason } => {
                tracing::debug!(partition, session, %reason, "the session is over");
            }
            Event::Closed => {
                self.open.remove(&partition);
                self.answer_sessions(partition, Some(&Error::closed()));
            }
            Event::Ended { request, end: End::NoAnswer } => {
                let met = match (self.line.address(), &self.hindered, self.line.last_error()) {
                    (Some(_), Some(why), _) => why.clone(),
                    (Some(_), None, _) => "no answer within the wait limit".to_owned(),
                    (None, _, Some(why)) => format!("no connection: {why}"),
                    (None, Some(why), None) => format!("no connection: {why}"),
                    (None, None, None) => "no connection".to_owned(),
                };
                // Not "was not free": nobody has said so.
                let error = Error::no_arbiter(&self.place, met)
                    .done("the request is withdrawn, or ends with its session");
                self.requests.fail(request, error);
            }
            other => self.requests.event(partition, other),
        }
    }

    fn session(&mut self, partition: u32) -> Option<SessionParts> {
        let core = self.core(partition);
        let lease = Duration::from_micros(core.lease()?);
        core.session().map(|(session, key)| (session, key.clone(), lease))
    }

    fn answer_sessions(&mut self, partition: u32, error: Option<&Error>) {
        let session = self.session(partition);
        let waiting = std::mem::take(&mut self.sessions_wanted);
        for (wanted, done, permit) in waiting {
            if wanted != partition {
                self.sessions_wanted.push((wanted, done, permit));
                continue;
            }
            let missing = || Error::new(ErrorKind::SessionEnded, "the session is over");
            let answer = error.cloned().map_or_else(|| session.clone().ok_or_else(missing), Err);
            let _ = done.send(answer);
        }
    }
}

/// What the API calls a request.
pub(crate) type Number = RequestId;
