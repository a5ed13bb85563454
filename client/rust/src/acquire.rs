//! What is asked for.

use crate::core::Ask;
use crate::driver::Handle;
use crate::error::{Error, ErrorKind};
use crate::grant::Grant;
use crate::ticket::Ticket;
use crate::wire::{Claim, OwnerRef, ResourceName};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// One thing wanted: a resource in the mode of the request, or a claim with a mode of its own.
#[derive(Clone, Debug)]
pub struct Want(Wanted);

#[derive(Clone, Debug)]
enum Wanted {
    Name(String),
    Resource(ResourceName),
    Claim(Claim),
}

impl From<&str> for Want {
    fn from(name: &str) -> Self {
        Self(Wanted::Name(name.to_owned()))
    }
}

impl From<&String> for Want {
    fn from(name: &String) -> Self {
        Self(Wanted::Name(name.clone()))
    }
}

impl From<String> for Want {
    fn from(name: String) -> Self {
        Self(Wanted::Name(name))
    }
}

impl From<ResourceName> for Want {
    fn from(resource: ResourceName) -> Self {
        Self(Wanted::Resource(resource))
    }
}

impl From<Claim> for Want {
    fn from(claim: Claim) -> Self {
        Self(Wanted::Claim(claim))
    }
}

/// A request being put together. `await` it for the [`Grant`], or [`enqueue`](Self::enqueue) it to see its place
/// in line.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = arbiterq::testing::in_process().await;
/// # let client = arbiter.client().await?;
/// use arbiterq_client::{ErrorKind, wire::Reason};
/// use std::time::Duration;
///
/// let outer = client.acquire("{shop}/stock").all_of(["{shop}/orders"]).reason("v42").await?;
/// // Somebody else's would wait in line; one for the same owner is never a wait for oneself.
/// let inner = client.acquire("{shop}/stock").while_holding(&outer).await;
/// assert_eq!(inner.unwrap_err().kind(), ErrorKind::Refused(Reason::Held));
/// let busy = client.acquire("{shop}/stock").shared().try_now().await;
/// assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);
/// outer.release().await?;
/// client.acquire("{shop}/stock").shared().wait(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is awaited or enqueued"]
pub struct Acquire {
    handle: Handle,
    wants: Vec<Want>,
    mode: Mode,
    ask: Ask,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Exclusive,
    Shared,
    Permits(u32),
}

impl Acquire {
    pub(crate) fn new(handle: Handle, first: Want) -> Self {
        Self { handle, wants: vec![first], mode: Mode::Exclusive, ask: Ask::default() }
    }

    /// Beside other shared holders.
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// So many permits of the resource's capacity.
    pub fn permits(mut self, permits: u32) -> Self {
        self.mode = Mode::Permits(permits);
        self
    }

    /// These as well, all or nothing. Names are taken in the mode of the request.
    pub fn all_of<W: Into<Want>>(mut self, more: impl IntoIterator<Item = W>) -> Self {
        self.wants.extend(more.into_iter().map(Into::into));
        self
    }

    /// For the same owner as `grant`, so that the two are never taken to wait for each other.
    pub fn while_holding(self, grant: &Grant) -> Self {
        self.owner(grant.owner())
    }

    /// For the same owner as that request.
    pub fn owner(mut self, owner: OwnerRef) -> Self {
        self.ask.owner = Some(owner);
        self
    }

    /// Wait at most so long. Without it: for ever.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.ask.wait = Some(limit);
        self
    }

    /// Do not wait at all.
    pub fn try_now(self) -> Self {
        self.wait(Duration::ZERO)
    }

    /// Hold at most so long; then the grant is revoked.
    pub fn hold_max(mut self, limit: Duration) -> Self {
        self.ask.hold_max = Some(limit);
        self
    }

    /// Why, for people and for the record.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.ask.reason = Some(reason.into());
        self
    }

    /// 0 to 9; a higher one goes first. Default 0.
    pub fn priority(mut self, priority: u8) -> Self {
        self.ask.priority = priority;
        self
    }

    /// What watchers see while it is held.
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.ask.value = Some(value.into());
        self
    }

    /// Asks, and returns the place in line as something to hold in the hand.
    ///
    /// # Errors
    /// A name is no resource's, the resources lie in several partitions, or the arbiter does not answer.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing stays asked for.
    pub async fn enqueue(self) -> Result<Ticket, Error> {
        let Self { handle, wants, mode, mut ask } = self;
        ask.claims = wants.into_iter().map(|want| claim(want, mode)).collect::<Result<_, _>>()?;
        handle.enqueue(ask).await
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Grant, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.enqueue().await?.granted().await })
    }
}

fn claim(want: Want, mode: Mode) -> Result<Claim, Error> {
    let resource = match want.0 {
        Wanted::Claim(claim) => return Ok(claim),
        Wanted::Resource(resource) => resource,
        Wanted::Name(name) => ResourceName::new(&name).map_err(|e| {
            Error::new(ErrorKind::Refused(crate::wire::Reason::InvalidResource), e.to_string())
        })?,
    };
    Ok(match mode {
        Mode::Exclusive => Claim::exclusive(resource),
        Mode::Shared => Claim::shared(resource),
        Mode::Permits(permits) => Claim::permits(resource, permits),
    })
}
