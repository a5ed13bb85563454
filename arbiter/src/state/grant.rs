//! Requests that wait or hold, and what is known of the others.

use super::line::Turn;
use crate::log::record::Event;
use arbiterq_client::wire::{Claim, ClaimGranted, Hash, OwnerRef, Reason, Seq, SessionId, Timestamp, Token};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What a request keeps while it waits and while it holds, so that an undone grant can wait again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) session: SessionId,
    pub(super) seq: Seq,
    /// The owner, if it is another request's.
    pub(super) owner: Option<OwnerRef>,
    pub(super) priority: u8,
    /// The index of the record that queued it, or granted it at once.
    pub(super) place: u64,
    /// That record's moment.
    pub(super) placed_at: Timestamp,
    pub(super) wait_ms: Option<u64>,
    /// The end of its wait, moved by the gaps before epochs.
    pub(super) wait_until: Option<Timestamp>,
    pub(super) hold_max_ms: Option<u64>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) value: Option<Arc<str>>,
}

impl Request {
    /// As a `queued` or `granted` says it, with the place that it has.
    pub(super) fn of(
        event: &Event,
        place: u64,
        placed_at: Timestamp,
        wait_until: Option<Timestamp>,
    ) -> Option<Self> {
        let (Event::Queued { session, seq, owner, priority, wait_ms, hold_max_ms, reason, value, .. }
        | Event::Granted { session, seq, owner, priority, wait_ms, hold_max_ms, reason, value, .. }) = event
        else {
            return None;
        };
        Some(Self {
            session: *session,
            seq: *seq,
            owner: *owner,
            priority: *priority,
            place,
            placed_at,
            wait_ms: *wait_ms,
            wait_until,
            hold_max_ms: *hold_max_ms,
            reason: reason.clone(),
            value: value.clone(),
        })
    }

    pub(super) fn turn(&self) -> Turn {
        Turn::new(self.priority, self.place)
    }

    /// Whom re-entrancy is judged by.
    pub(super) fn owner(&self) -> OwnerRef {
        self.owner.unwrap_or(OwnerRef(self.session, self.seq))
    }
}

/// The claims of a request: one, as nearly always, takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claims<T> {
    One(T),
    Many(Box<[T]>),
}

impl<T> From<Vec<T>> for Claims<T> {
    fn from(mut claims: Vec<T>) -> Self {
        match claims.pop() {
            Some(only) if claims.is_empty() => Self::One(only),
            last => {
                claims.extend(last);
                Self::Many(claims.into())
            }
        }
    }
}

impl<T: Clone> From<&[T]> for Claims<T> {
    fn from(claims: &[T]) -> Self {
        match claims {
            [only] => Self::One(only.clone()),
            claims => Self::Many(claims.into()),
        }
    }
}

impl<T> FromIterator<T> for Claims<T> {
    fn from_iter<I: IntoIterator<Item = T>>(claims: I) -> Self {
        claims.into_iter().collect::<Vec<_>>().into()
    }
}

impl<T> Deref for Claims<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(claims) => claims,
        }
    }
}

impl<T> DerefMut for Claims<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(only) => std::slice::from_mut(only),
            Self::Many(claims) => claims,
        }
    }
}

/// A request without a grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiter {
    pub(super) request: Request,
    pub(super) claims: Claims<Claim>,
    /// The grant that was undone: it is passed over until its client attaches.
    pub(super) suspended: Option<Token>,
}

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub(super) request: Request,
    pub(super) claims: Claims<ClaimGranted>,
    pub(super) hash: Hash,
    pub(super) since: Timestamp,
    /// The end of its hold, moved by the gaps before epochs.
    pub(super) hold_until: Option<Timestamp>,
    pub(super) revoking: Option<Box<Revoking>>,
}

/// A holder's right that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Revoking {
    pub(super) reason: Reason,
    pub(super) by: Option<Arc<str>>,
    /// When the grant ends if its client does not acknowledge; moved by the gaps before epochs.
    pub(super) until: Timestamp,
}

impl Grant {
    /// Whose.
    pub fn session(&self) -> SessionId {
        self.request.session
    }

    /// Which request.
    pub fn seq(&self) -> Seq {
        self.request.seq
    }

    /// What is held.
    pub fn claims(&self) -> &[ClaimGranted] {
        &self.claims
    }

    /// The hash of the record that granted.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The moment of the record that granted.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Why it is being revoked, if it is.
    pub fn revoking(&self) -> Option<Reason> {
        self.revoking.as_ref().map(|revoking| revoking.reason)
    }
}

/// What is known of a request number of a live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// Nothing: it may be decided.
    New,
    /// It waits.
    Waiting,
    /// It holds.
    Held(Token),
    /// It is over, like this.
    Over(Outcome),
    /// It is over, or was never decided and never will be; how is not kept.
    Forgotten,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not taken.
    Refused(Reason),
    /// It ended without a grant.
    Ended(Reason),
    /// It was granted, and that grant is no longer in force.
    Released(Token, Reason),
}
