//! A request: what it asks for and where it stands. It goes waiting, held, ended, never back.

use crate::clock::{Micros, micros};
use crate::wire::{
    Acquire, Auth, Claim, Granted, INTEGER_MAX, OwnerRef, Reason, Request, RequestBody, Seq, SessionKey,
    Token,
};
use std::time::Duration;

use super::WAIT_GRACE;

/// A request's number within its client. It stays the same when it is asked again in another session.
pub type RequestId = u64;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

impl Ask {
    /// Whether an arbiter could take it. What is longer than a message may be is refused without a number, for
    /// nobody reads that far: it would be asked again for ever.
    pub(crate) fn check(&self) -> Result<(), (Reason, String)> {
        // Numbers as long as they may become; every key is as long as this one.
        let body = RequestBody::Acquire(Entry::new(self.clone(), 0).message(INTEGER_MAX, 0));
        let auth = Some(Auth { session: INTEGER_MAX, key: SessionKey::random([0; 16]) });
        Request { partition: u32::MAX, auth, body }.check()
    }
}

/// How a request ended that was never held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It was not taken.
    Refused {
        /// Why.
        reason: Reason,
        /// What was wrong, for people.
        detail: String,
    },
    /// It is over, the arbiter says.
    Ended(Reason),
    /// It was granted, and lost before it could be believed.
    Lost(Reason),
    /// Its wait limit is long over and the arbiter has not said so: withdrawn by the library.
    NoAnswer,
    /// The client was closed.
    Closed,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Entry {
    pub(super) ask: Ask,
    asked_at: Micros,
    pub(super) seq: Option<Seq>,
    pub(super) state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Not sent: no session, or no room in it.
    Local,
    /// Sent, and not answered.
    Asked(Repeat),
    /// Answered `queued` as of `index`.
    Waiting { index: u64, position: u64 },
    /// Granted, and not to be believed yet: the lease is over, or floors and receipt are not known and the
    /// request is asked again for them.
    Pending { granted: Option<Granted>, token: Token, repeat: Repeat },
    /// Held as long as the lease is in force.
    Held { token: Token },
    /// Lost, and its user has not stopped yet as far as is known. Given back when the user says so, and at
    /// `give_back_at` without.
    Lost { token: Token, reason: Reason, give_back_at: Micros },
}

/// When something unanswered is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repeat {
    pub(super) at: Micros,
    pub(super) count: u32,
}

/// A number that is over for us: its `cancel` or `release` is repeated until the arbiter is known to know.
#[derive(Clone, Debug, Hash)]
pub(super) struct Owed {
    /// Who wants to hear of it.
    pub(super) request: Option<RequestId>,
    /// Release this; cancel the number where it is not known.
    pub(super) token: Option<Token>,
    /// What to say if nothing more is heard.
    pub(super) reason: Reason,
    pub(super) repeat: Repeat,
    /// The last keep-alive before its last sending: a later one's `alive` knows of it.
    pub(super) after_n: u64,
    /// The number has been answered: it does not hold the window back.
    pub(super) answered: bool,
}

impl Entry {
    pub(super) fn new(ask: Ask, now: Micros) -> Self {
        Self { ask, asked_at: now, seq: None, state: State::Local }
    }

    fn limit_at(&self) -> Option<Micros> {
        self.ask.wait.map(|wait| self.asked_at.saturating_add(micros(wait)))
    }

    /// When the library withdraws it by itself.
    pub(super) fn give_up_at(&self) -> Option<Micros> {
        self.limit_at().map(|at| at.saturating_add(WAIT_GRACE))
    }

    /// The message that asks. What is left of the wait limit is asked for: it goes on where a session ended.
    pub(super) fn message(&self, seq: Seq, now: Micros) -> Acquire {
        let ask = &self.ask;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // Rounded up: a limit of less than a millisecond is not a try.
        let left = |at: Micros| at.saturating_sub(now).div_ceil(1000);
        Acquire {
            seq,
            claims: ask.claims.clone(),
            owner: ask.owner,
            wait_ms: self.limit_at().map(left),
            hold_max_ms: ask.hold_max.map(ms),
            priority: (ask.priority != 0).then_some(ask.priority),
            reason: ask.reason.clone(),
            value: ask.value.clone(),
        }
    }
}

impl State {
    /// The grant, if there is one.
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            Self::Pending { token, .. } | Self::Held { token } | Self::Lost { token, .. } => Some(*token),
            Self::Local | Self::Asked(_) | Self::Waiting { .. } => None,
        }
    }
}
