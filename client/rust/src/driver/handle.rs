//! How the API talks to the driver: commands over one channel, in order.

use crate::clock::Clock;
use crate::core::{Ask, RequestId};
use crate::error::{Error, ErrorKind};
use crate::grant::{Grant, Outcome};
use crate::ticket::{Ticket, View};
use crate::wire::{
    Reason, Request, RequestBody, ResourceName, SessionId, SessionKey, Status, StatusAsk, StatusWhat,
    partition_of,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Commands that wait for the driver; one more waits with its caller.
const COMMANDS_MAX: usize = 1024;
/// How long an arbiter may take to answer what is not a request for a resource.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long closing waits for the arbiter's answer.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A session's number and secret, and the lease that the arbiter gave it.
pub(crate) type SessionParts = (SessionId, SessionKey, Duration);

/// What the API asks of the driver.
///
/// The channel has no bound of its own, because giving back must never block; each kind is bounded otherwise.
pub(crate) enum Command {
    /// Ask for claims.
    Acquire {
        request: RequestId,
        partition: u32,
        ask: Ask,
        view: watch::Sender<View>,
        decided: oneshot::Sender<Result<Grant, Error>>,
        /// For the grant, which must be able to give itself back.
        handle: Handle,
        permit: OwnedSemaphorePermit,
    },
    /// A ticket was dropped or cancelled. One a ticket.
    Withdraw { request: RequestId, done: Option<oneshot::Sender<()>> },
    /// A grant was dropped or released. One a grant.
    GiveBack { request: RequestId, done: Option<oneshot::Sender<Outcome>> },
    /// A read or an operator's command. Its caller waits.
    Operate {
        partition: u32,
        id: String,
        body: RequestBody,
        done: oneshot::Sender<Result<Option<Status>, Error>>,
        permit: OwnedSemaphorePermit,
    },
    /// The count of partitions is wanted. Its caller waits.
    Partitions { done: oneshot::Sender<Result<u32, Error>>, permit: OwnedSemaphorePermit },
    /// The session of a partition is wanted. Its caller waits.
    Session {
        partition: u32,
        done: oneshot::Sender<Result<SessionParts, Error>>,
        permit: OwnedSemaphorePermit,
    },
    /// Close everything.
    Close { done: oneshot::Sender<bool> },
}

/// The API's end of the driver. Clones are cheap; the driver ends when the last is gone.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) clock: Clock,
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where the arbiter is, for error messages.
    place: String,
    permits: Arc<Semaphore>,
    next: AtomicU64,
    /// 0 until it is known.
    partitions: AtomicU64,
}

/// What the driver keeps of its own handle: it keeps nothing alive.
pub(crate) struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    /// Called by the driver when it learns the count.
    pub(crate) fn partitions_known(&self, partitions: u32) {
        if let Some(shared) = self.0.upgrade() {
            shared.partitions.store(partitions.into(), Ordering::Release);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(clock: Clock, place: String) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(COMMANDS_MAX));
        let shared = Shared { place, permits, next: AtomicU64::new(1), partitions: AtomicU64::new(0) };
        (Self { clock, commands, shared: Arc::new(shared) }, received)
    }

    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.shared))
    }

    /// Never blocks. A driver that has ended has nothing left to be told.
    pub(crate) fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.shared.permits).acquire_owned().await.map_err(|_| Error::closed())
    }

    fn next(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn enqueue(&self, ask: Ask) -> Result<Ticket, Error> {
        let partition = self.partition_of_all(&ask).await?;
        let permit = self.permit().await?;
        let request = self.next();
        let (view, view_seen) = watch::channel(View::default());
        let (decided, decided_seen) = oneshot::channel();
        let ticket = Ticket::new(request, self.clone(), view_seen, decided_seen);
        self.send(Command::Acquire { request, partition, ask, view, decided, handle: self.clone(), permit });
        Ok(ticket)
    }

    async fn partition_of_all(&self, ask: &Ask) -> Result<u32, Error> {
        let Some(first) = ask.claims.first() else {
            return Err(Error::new(ErrorKind::Refused(Reason::NoClaims), "nothing is asked for"));
        };
        ask.check().map_err(|(reason, detail)| super::requests::refused(reason, &detail))?;
        let partitions = self.partitions().await?;
        let partition = partition_of(&first.resource, partitions);
        let elsewhere =
            ask.claims.iter().find(|claim| partition_of(&claim.resource, partitions) != partition);
        let Some(elsewhere) = elsewhere else { return Ok(partition) };
        let what = format!("{} and {} lie in different partitions", first.resource, elsewhere.resource);
        Err(Error::new(ErrorKind::Refused(Reason::WrongPartition), what)
            .met(format!("there are {partitions} partitions"))
            .help("give resources that are claimed together the same {tag} in their names"))
    }

    pub(crate) async fn partition_of(&self, resource: &ResourceName) -> Result<u32, Error> {
        Ok(partition_of(resource, self.partitions().await?))
    }

    pub(crate) async fn partitions(&self) -> Result<u32, Error> {
        let known = self.shared.partitions.load(Ordering::Acquire);
        if let Some(known) = u32::try_from(known).ok().filter(|known| *known > 0) {
            return Ok(known);
        }
        let permit = self.permit().await?;
        self.ask(|done| Command::Partitions { done, permit }).await
    }

    pub(crate) async fn session(&self, partition: u32) -> Result<SessionParts, Error> {
        let permit = self.permit().await?;
        self.ask(|done| Command::Session { partition, done, permit }).await
    }

    pub(crate) async fn status(&self, partition: u32, what: StatusWhat) -> Result<Status, Error> {
        let answer = self.answer(partition, |id| RequestBody::Status(StatusAsk { id, what })).await?;
        answer.ok_or_else(|| Error::new(ErrorKind::Protocol, "a status was answered with something else"))
    }

    pub(crate) async fn operate(
        &self,
        partition: u32,
        body: impl FnOnce(String) -> RequestBody,
    ) -> Result<(), Error> {
        self.answer(partition, body).await.map(drop)
    }

    async fn answer(
        &self,
        partition: u32,
        body: impl FnOnce(String) -> RequestBody,
    ) -> Result<Option<Status>, Error> {
        let id = format!("q{}", self.next());
        let request = Request { partition, auth: None, body: body(id.clone()) };
        request.check().map_err(|(reason, detail)| super::requests::refused(reason, &detail))?;
        let (body, permit) = (request.body, self.permit().await?);
        self.ask(|done| Command::Operate { partition, id, body, done, permit }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (done, answered) = oneshot::channel();
        self.send(command(done));
        match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Error::closed())),
            Err(_) => {
                let met = format!("no answer within {} seconds", ANSWER_TIMEOUT.as_secs());
                Err(Error::no_arbiter(&self.shared.place, met))
            }
        }
    }

    /// Whether the arbiter has heard it.
    pub(crate) async fn close(&self) -> bool {
        let (done, answered) = oneshot::channel();
        self.send(Command::Close { done });
        matches!(tokio::time::timeout(CLOSE_TIMEOUT, answered).await, Ok(Ok(true)))
    }
}
