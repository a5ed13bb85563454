//! The state machine: what every record that counts has made of a partition, and what the next command changes.

mod grant;
mod session;
pub mod snapshot;

pub use grant::{Grant, Known, Outcome};
pub use session::Session;

use crate::log::chain::{ChainTip, Sealed};
use crate::log::record::{Command, Event, Genesis, Policy};
use arbiterq_client::wire::{self, Hash, Nonce, Reason, Seq, SessionId, StatusWhat, Timestamp, Token};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The live state of a partition as of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    tip: ChainTip,
    at: Timestamp,
    epoch: u64,
    incarnation: Option<Nonce>,
    rules: u32,
    genesis: Option<Genesis>,
    policy: Arc<Policy>,
    paused: Option<Arc<str>>,
    sessions: BTreeMap<SessionId, Session>,
    grants: BTreeMap<Token, Grant>,
}

/// What a command changes, as events. Never fails; the record's index is `state.tip().next_index`.
pub fn decide(_state: &State, _command: &Command, _at: Timestamp) -> Vec<Event> {
    Vec::new()
}

impl State {
    /// Before the genesis.
    pub fn new(first: ChainTip) -> Self {
        Self {
            tip: first,
            at: Timestamp::default(),
            epoch: 0,
            incarnation: None,
            rules: 0,
            genesis: None,
            policy: Arc::default(),
            paused: None,
            sessions: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }

    /// Takes a record that counts: its renewals, then its events.
    pub fn fold(&mut self, sealed: &Sealed) {
        self.renew(&sealed.record.renewed, sealed.record.at);
        self.apply(sealed);
    }

    /// Takes renewals that count from `at`. A number that does not rise is ignored.
    pub fn renew(&mut self, _renewed: &[(SessionId, u64)], _at: Timestamp) {}

    /// Takes a record's events, and it becomes the tip.
    pub fn apply(&mut self, _sealed: &Sealed) {}

    /// The tip of the chain.
    pub fn tip(&self) -> ChainTip {
        self.tip
    }

    /// The moment of the last record.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The epoch; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How the log began.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// The random number of the epoch.
    pub fn incarnation(&self) -> Option<Nonce> {
        self.incarnation
    }

    /// The version of the decision rules in force; 0 before the first epoch.
    pub fn rules(&self) -> u32 {
        self.rules
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Why granting is paused, if it is.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// A live session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// The live session whose key has this hash.
    pub fn session_by_key(&self, _key_hash: &Hash) -> Option<SessionId> {
        None
    }

    /// What is known of a request of a live session.
    pub fn known(&self, _session: SessionId, _seq: Seq) -> Known {
        Known::New
    }

    /// A grant in force.
    pub fn grant(&self, token: Token) -> Option<&Grant> {
        self.grants.get(&token)
    }

    /// How a grant of a live session ended, while that is kept.
    pub fn token_outcome(&self, _session: SessionId, _token: Token) -> Option<Reason> {
        None
    }

    /// All that a live session has.
    pub fn alive(&self, _session: SessionId) -> Option<wire::Alive> {
        None
    }

    /// Where a waiting request stands.
    pub fn queued(&self, _session: SessionId, _seq: Seq, _at: Timestamp) -> Option<wire::Queued> {
        None
    }

    /// What the client of a grant in force is told.
    pub fn granted(&self, _token: Token) -> Option<wire::Granted> {
        None
    }

    /// A look.
    pub fn status(&self, id: &str, _what: &StatusWhat, _at: Timestamp) -> wire::Status {
        wire::Status { id: id.to_owned(), ..wire::Status::default() }
    }

    /// Whether `advance` would change anything: if so, it is the next record's command.
    pub fn can_advance(&self) -> bool {
        false
    }

    /// The earliest moment at which a tick would do something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Grants in force, by token.
    pub fn grants_in_force(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// Live sessions, by number.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }
}
