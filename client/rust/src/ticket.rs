//! A request in line.

use crate::core::RequestId;
use crate::driver::{Command, Handle};
use crate::error::Error;
use crate::grant::Grant;
use crate::wire::HeldBy;
use tokio::sync::{oneshot, watch};

/// A place in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1: how many are to be granted up to and including this one.
    pub position: u64,
    /// How many wait in that line.
    pub waiting: u64,
    /// Who holds what it waits for, as of when it was queued.
    pub held_by: Option<HeldBy>,
}

/// What the driver tells a ticket.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) position: Option<Position>,
    pub(crate) decided: bool,
}

/// A request that waits in line. Dropping it withdraws the request.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = arbiterq::testing::in_process().await;
/// # let client = arbiter.client().await?;
/// let held = client.acquire("r").await?;
/// let mut ticket = client.acquire("r").enqueue().await?;
/// let place = ticket.next_position().await.expect("it waits");
/// assert_eq!((place.position, place.held_by.map(|by| by.token)), (1, Some(held.token())));
/// drop(held);
/// assert!(ticket.granted().await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ticket {
    request: RequestId,
    handle: Handle,
    view: watch::Receiver<View>,
    decided: Option<oneshot::Receiver<Result<Grant, Error>>>,
}

impl Ticket {
    pub(crate) fn new(
        request: RequestId,
        handle: Handle,
        view: watch::Receiver<View>,
        decided: oneshot::Receiver<Result<Grant, Error>>,
    ) -> Self {
        Self { request, handle, view, decided: Some(decided) }
    }

    /// The next news of the place in line; `None` once it is decided.
    ///
    /// Only the newest place is kept: who looks rarely sees fewer.
    ///
    /// # Cancel safety
    /// Safe: a place that was not returned is returned by the next call.
    pub async fn next_position(&mut self) -> Option<Position> {
        loop {
            // Without a driver, which ended with its runtime, there is no news.
            if self.view.has_changed().ok()? {
                let view = self.view.borrow_and_update();
                if view.decided {
                    return None;
                }
                if let Some(position) = &view.position {
                    return Some(position.clone());
                }
            }
            self.view.changed().await.ok()?;
            // Waiting for it has marked it as seen, and nobody has looked at it yet.
            self.view.mark_changed();
        }
    }

    /// The last place in line that was heard of.
    pub fn position(&self) -> Option<Position> {
        self.view.borrow().position.clone()
    }

    /// Waits for the grant.
    ///
    /// # Errors
    /// Not granted in time, busy, refused, or the client was closed.
    ///
    /// # Cancel safety
    /// Dropping the future drops the ticket: the request is withdrawn, and a grant that had already been made
    /// is given back.
    pub async fn granted(mut self) -> Result<Grant, Error> {
        match self.decided.as_mut() {
            // The driver answers before it ends, unless it was stopped with the runtime.
            Some(decided) => {
                let outcome = decided.await;
                self.decided = None;
                outcome.unwrap_or_else(|_| Err(Error::closed()))
            }
            None => Err(Error::closed()),
        }
    }

    /// Withdraws the request, and returns when the arbiter has heard it.
    ///
    /// # Errors
    /// The client was closed. The request is withdrawn then, too.
    ///
    /// # Cancel safety
    /// The request is withdrawn by the call itself; dropping the future only stops waiting for the answer.
    pub async fn cancel(mut self) -> Result<(), Error> {
        let (done, answered) = oneshot::channel();
        self.handle.send(Command::Withdraw { request: self.request, done: Some(done) });
        // A grant that is already in the channel gives itself back when it is dropped here.
        self.decided = None;
        answered.await.map_err(|_| Error::closed())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.decided.is_some() {
            self.handle.send(Command::Withdraw { request: self.request, done: None });
        }
    }
}
