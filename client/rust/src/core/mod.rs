//! The rules of a session.
use crate::wire::{Claim, OwnerRef};
use std::time::Duration;

/// A request's number within its client. Stays the same when it is asked again in another session.
pub type RequestId = u64;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// All of these, or nothing.
    pub claims: Vec<Claim>,
    /// For the same owner as that request.
    pub owner: Option<OwnerRef>,
    /// Wait at most so long; zero is try; `None` is for ever.
    pub wait: Option<Duration>,
    /// Hold at most so long.
    pub hold_max: Option<Duration>,
    /// 0 to 9; higher goes first.
    pub priority: u8,
    /// Why.
    pub reason: Option<String>,
    /// What watchers see.
    pub value: Option<String>,
}
