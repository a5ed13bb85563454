//! Grants in force, and what is known of a request.

use arbiterq_client::wire::{ClaimGranted, Hash, Reason, Seq, SessionId, Timestamp, Token};

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    session: SessionId,
    seq: Seq,
    claims: Vec<ClaimGranted>,
    hash: Hash,
    since: Timestamp,
    revoking: Option<Reason>,
}

impl Grant {
    /// Whose.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Which request.
    pub fn seq(&self) -> Seq {
        self.seq
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
        self.revoking
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
