//! Live sessions.

use arbiterq_client::wire::{Hash, Principal};
use std::sync::Arc;

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    key_hash: Hash,
    principal: Principal,
    label: Arc<str>,
    lease_ms: u64,
    in_flight_max: u32,
    n: u64,
    attached: u64,
    reply_to: Option<Arc<str>>,
    unreachable: bool,
}

impl Session {
    /// The hash of its key.
    pub fn key_hash(&self) -> &Hash {
        &self.key_hash
    }

    /// Whose it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What people see.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// How long it lives without word from it.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// How many requests may be unanswered, waiting or held.
    pub fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    /// The highest keep-alive that counts.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The highest `attach` that counts; 0 is the address of its `open`.
    pub fn attached(&self) -> u64 {
        self.attached
    }

    /// The address in force.
    pub fn reply_to(&self) -> Option<&Arc<str>> {
        self.reply_to.as_ref()
    }

    /// Whether nobody was at its address.
    pub fn unreachable(&self) -> bool {
        self.unreachable
    }
}
