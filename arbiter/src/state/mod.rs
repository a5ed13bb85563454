//! The state machine: what the records that count have made of a partition, and what the next command changes.
//!
//! [`decide`] reads a [`State`] and gives events; [`State::fold`] takes a record's events into the state. Both
//! are total: no command and no record makes either fail. Everything here is pure: no clock, no I/O, no
//! randomness, no walk along a hash map's own order (`table` has the only one), so that the same records make the
//! same state anywhere, and a replay decides every command the same.
//!
//! Where to look: `decide` for what a command does, `fold` for what an event does, `advance` for whose turn it
//! is, `session` for the rule "Once", `resource` and `line` for what fits beside what and in which order,
//! `deadline` for what falls due, `policy` for limits by pattern, `look` for what is told, [`snapshot`] for
//! checkpoints.

mod advance;
mod deadline;
mod decide;
mod fold;
mod grant;
mod line;
mod look;
mod policy;
mod resource;
mod session;
pub mod snapshot;
mod table;

pub use decide::{DELAYED_BYTES_MAX, decide};
pub use grant::{Grant, Known, Outcome};
pub use session::Session;

use crate::log::chain::ChainTip;
use crate::log::record::{Genesis, Policy};
use crate::planted::{Planted, Plants};
use arbiterq_client::wire::{Hash, Nonce, OwnerRef, ResourceName, Seq, SessionId, Timestamp, Token};
use deadline::Deadlines;
use grant::{Request, Waiter};
use line::Turn;
use policy::{Limits, Rules};
use resource::{Resource, ResourceKey};
use session::Live;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use table::{Numbered, Resources};

/// The live state of a partition as of a record.
///
/// Equal states decide equally for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    tip: ChainTip,
    at: Timestamp,
    genesis: Option<Genesis>,
    epoch: u64,
    epoch_at: Timestamp,
    incarnation: Option<Nonce>,
    /// The version of the decision rules.
    rules: u32,
    policy: Rules,
    /// By whom, and why.
    paused: Option<(Arc<str>, Arc<str>)>,
    sessions: Numbered<Session>,
    /// Live sessions by the hashes of their keys.
    keys: BTreeMap<Hash, SessionId>,
    /// By place. In order, because the first of them is asked for often.
    waiters: BTreeMap<u64, Box<Waiter>>,
    /// By token.
    grants: Numbered<Grant>,
    resources: Resources,
    /// What is held for another request's owner.
    owned: BTreeSet<(OwnerRef, ResourceKey, Token)>,
    deadlines: Deadlines,
    /// Exactly the waiters whose turn it is; none while paused.
    ready: BTreeSet<Turn>,
    plants: Plants,
}

impl State {
    /// Before the genesis.
    pub fn new(first: ChainTip) -> Self {
        Self {
            tip: first,
            at: Timestamp::default(),
            genesis: None,
            epoch: 0,
            epoch_at: Timestamp::default(),
            incarnation: None,
            rules: 0,
            policy: Rules::default(),
            paused: None,
            sessions: Numbered::new(),
            keys: BTreeMap::new(),
            waiters: BTreeMap::new(),
            grants: Numbered::new(),
            resources: Resources::new(),
            owned: BTreeSet::new(),
            deadlines: Deadlines::default(),
            ready: BTreeSet::new(),
            plants: Plants::default(),
        }
    }

    /// Plants a wrong rule, for tests that must notice.
    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn plant(&mut self, plants: Plants) {
        self.plants = plants;
    }

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
        self.policy.policy()
    }

    /// Why granting is paused, if it is.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_ref().map(|(_, reason)| &**reason)
    }

    /// A live session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// The live session whose key has this hash.
    pub fn session_by_key(&self, key_hash: &Hash) -> Option<SessionId> {
        self.keys.get(key_hash).copied()
    }

    /// What is known of a request number. Of a session that is not live: that nothing of it will be decided.
    pub fn known(&self, session: SessionId, seq: Seq) -> Known {
        self.session(session).map_or(Known::Forgotten, |session| match session.requests.known(seq) {
            Known::Over(_) if self.plants.has(Planted::OutcomesForgotten) => Known::Forgotten,
            Known::Over(_) if self.plants.has(Planted::OutcomesDropped) => Known::New,
            Known::New if self.plants.has(Planted::HighestSeen) && session.requests.highest() > Some(seq) => {
                Known::Forgotten
            }
            known => known,
        })
    }

    /// A grant in force.
    pub fn grant(&self, token: Token) -> Option<&Grant> {
        self.grants.get(token)
    }

    /// Whether `advance` would change anything: if so, it is the next record's command.
    pub fn can_advance(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The earliest moment at which a tick would do something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Grants in force, by token.
    pub fn grants_in_force(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().map(|(_, grant)| grant)
    }

    /// Live sessions, by number.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter()
    }

    fn request(&self, live: Live) -> Option<&Request> {
        match live {
            Live::Waiting(place) => self.waiters.get(&place).map(|waiter| &waiter.request),
            Live::Held(token) => self.grants.get(token).map(|grant| &grant.request),
        }
    }

    /// What holds for a resource, which may not be in the state.
    fn limits_of(&self, name: &ResourceName, resource: Option<&Resource>) -> Limits<'_> {
        self.policy.limits(resource.map_or_else(|| self.policy.index_of(name), |resource| resource.rule))
    }

    fn look_up_limits(&self, name: &ResourceName) -> Limits<'_> {
        if self.policy.is_without_rules() {
            return self.policy.limits(None);
        }
        self.limits_of(name, self.resources.get(&ResourceKey::new(name)))
    }
}
