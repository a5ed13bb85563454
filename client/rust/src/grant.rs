//! What is held.

use crate::clock::{Clock, Micros};
use crate::core::RequestId;
use crate::driver::{Command, Handle};
use crate::error::Error;
use crate::wire::{Claim, Hash, LogId, OwnerRef, Reason, SessionId, Token};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::sync::{oneshot, watch};

/// Proof of a grant: who holds it can show a changed, rewritten or cut log.
///
/// Written down it is one line of JSON, which `arbiter audit verify --receipt FILE` takes.
///
/// ```
/// let line = r#"{"log_id":"00112233445566778899aabbccddeeff","partition":0,"index":7,"hash":"HASH"}"#
///     .replace("HASH", &"9c".repeat(32));
/// let receipt: arbiterq_client::Receipt = serde_json::from_str(&line)?;
/// assert_eq!(receipt.index, 7);
/// assert_eq!(receipt.to_string(), line);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The log.
    pub log_id: LogId,
    /// Its partition.
    pub partition: u32,
    /// The index of the record that granted.
    pub index: u64,
    /// That record's hash.
    pub hash: Hash,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value of ours with a writer that cannot fail.
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// The grant is not held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grant {token} was lost: {reason}")]
pub struct Lost {
    /// The grant.
    pub token: Token,
    /// Why.
    pub reason: Reason,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was held until it was given back.
    Released,
    /// It had been lost before.
    AlreadyLost(Reason),
}

/// Until when a holder may believe that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// On the client's clock, in microseconds. Each confirmed keep-alive moves it on.
    pub until: Micros,
    /// It is over before that.
    pub lost: Option<Reason>,
}

/// All that a grant is made of, from the driver.
#[derive(Debug)]
pub(crate) struct GrantParts {
    pub(crate) request: RequestId,
    pub(crate) owner: OwnerRef,
    pub(crate) session: SessionId,
    pub(crate) claims: Vec<Claim>,
    pub(crate) floors: Vec<Token>,
    pub(crate) receipt: Receipt,
    pub(crate) belief: watch::Receiver<Belief>,
    pub(crate) handle: Handle,
}

/// Claims that are held. Dropping it gives them back, without blocking.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = arbiterq::testing::in_process().await;
/// # let client = arbiter.client().await?;
/// use arbiterq_client::{Outcome, fence::Fence};
///
/// let row = Fence::default();
/// let grant = client.acquire("r").await?;
/// let written = grant.run(async { row.check(grant.token(), grant.floor()) }).await?;
/// assert!(written.is_ok());
/// assert_eq!(grant.release().await?, Outcome::Released);
/// assert!(grant.is_lost());
///
/// // The next holder's token is higher: once the row has seen it, the first is fenced off.
/// let next = client.acquire("r").await?;
/// row.check(next.token(), next.floor())?;
/// assert!(row.check(grant.token(), grant.floor()).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Grant {
    parts: GrantParts,
    /// Set once, by whoever first finds that the lease is over: what was seen as lost stays lost, also where
    /// the driver is behind.
    lost: OnceLock<Lost>,
    /// The answer to `release`, kept so that a second call is harmless.
    outcome: OnceLock<Outcome>,
    let_go: AtomicBool,
}

impl Grant {
    pub(crate) fn new(parts: GrantParts) -> Self {
        Self { parts, lost: OnceLock::new(), outcome: OnceLock::new(), let_go: AtomicBool::new(false) }
    }

    /// The fencing token: hand it to the resource with every access.
    pub fn token(&self) -> Token {
        self.parts.receipt.index
    }

    /// The lowest token in force on the first claimed resource, for [`fence`](crate::fence).
    pub fn floor(&self) -> Token {
        self.parts.floors.first().copied().unwrap_or(self.token())
    }

    /// The lowest token in force on each claimed resource, in the order of [`claims`](Self::claims).
    pub fn floors(&self) -> &[Token] {
        &self.parts.floors
    }

    /// What is held.
    pub fn claims(&self) -> &[Claim] {
        &self.parts.claims
    }

    /// Proof of the grant, to be kept by whoever wants to check the log later.
    pub fn receipt(&self) -> &Receipt {
        &self.parts.receipt
    }

    /// This request's own name, `(session, seq)`, to be passed on as an [owner](crate::Acquire::owner): what is
    /// asked for in its name has the same owner as this request. Where this one was made for another, the arbiter
    /// finds the owner of both, as long as this one is live.
    pub fn owner(&self) -> OwnerRef {
        self.parts.owner
    }

    /// The session that holds it.
    pub fn session(&self) -> SessionId {
        self.parts.session
    }

    /// Whether it is still held, by the lease's own clock: nothing is asked of anybody.
    ///
    /// # Errors
    /// It was lost. Once lost it stays lost.
    pub fn check(&self) -> Result<(), Lost> {
        if let Some(lost) = self.lost.get() {
            return Err(*lost);
        }
        let belief = *self.parts.belief.borrow();
        let reason = match belief.lost {
            Some(reason) => reason,
            None if self.parts.handle.clock.now() >= belief.until => Reason::LeaseExpired,
            None => return Ok(()),
        };
        Err(*self.lost.get_or_init(|| Lost { token: self.token(), reason }))
    }

    /// Whether it was lost.
    pub fn is_lost(&self) -> bool {
        self.check().is_err()
    }

    /// Waits until it is lost: the lease lapsed, it was revoked, or its session ended.
    ///
    /// Stop what the grant protects, then drop or release it: that tells the arbiter that nobody acts under it
    /// any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn lost(&self) -> Lost {
        let mut belief = self.parts.belief.clone();
        loop {
            if let Err(lost) = self.check() {
                return lost;
            }
            // The driver tells of every lapse; without a driver nothing is kept alive.
            if belief.changed().await.is_err() {
                return *self.lost.get_or_init(|| Lost { token: self.token(), reason: Reason::SessionEnded });
            }
        }
    }

    /// Runs `work` as long as the grant is held, and drops it when the grant is lost.
    ///
    /// # Errors
    /// The grant was lost before `work` was done.
    ///
    /// # Cancel safety
    /// As safe as `work` is. The grant stays held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        let (mut lost, mut work) = (pin!(self.lost()), pin!(work));
        std::future::poll_fn(|context| {
            // Looked at before and after: what was done outside the lease does not count as done under it. The clock
            // as well as the driver's word: the machine may have been suspended, and the driver be behind.
            if let Err(lost) = self.check() {
                return Poll::Ready(Err(lost));
            }
            if let Poll::Ready(lost) = lost.as_mut().poll(context) {
                return Poll::Ready(Err(lost));
            }
            match work.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(self.check().map(|()| output)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Follows until when it may be believed: for a guard that must act by itself.
    pub fn deadline(&self) -> watch::Receiver<Belief> {
        self.parts.belief.clone()
    }

    /// The clock that [`Belief::until`] is on.
    pub fn clock(&self) -> Clock {
        self.parts.handle.clock
    }

    /// Gives it back, and says whether it was held until then. A second call says the same again.
    ///
    /// # Errors
    /// The client was closed.
    ///
    /// # Cancel safety
    /// It is given back by the call's first poll; dropping the future only stops waiting for the answer.
    pub async fn release(&self) -> Result<Outcome, Error> {
        if let Some(outcome) = self.outcome.get() {
            return Ok(*outcome);
        }
        // What our own earlier call set, dropped before its answer came, is no loss.
        let lost_before = self.check().err().filter(|lost| lost.reason != Reason::Released);
        let (done, answered) = oneshot::channel();
        self.let_go.store(true, Ordering::Relaxed);
        // By our own word it is not held from here on.
        let _ = self.lost.set(Lost { token: self.token(), reason: Reason::Released });
        self.parts.handle.send(Command::GiveBack { request: self.parts.request, done: Some(done) });
        let answer = answered.await.map_err(|_| Error::closed())?;
        let outcome = lost_before.map_or(answer, |lost| Outcome::AlreadyLost(lost.reason));
        Ok(*self.outcome.get_or_init(|| outcome))
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !*self.let_go.get_mut() {
            self.parts.handle.send(Command::GiveBack { request: self.parts.request, done: None });
        }
    }
}
