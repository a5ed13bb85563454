//! What falls due when, in order.

use super::resource::ResourceKey;
use arbiterq_client::wire::{SessionId, Timestamp, Token};
use std::collections::BTreeSet;

/// All deadlines. Each says the same as the session, waiter, grant or resource that it is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deadlines {
    /// Ends of sessions.
    pub(super) sessions: BTreeSet<(Timestamp, SessionId)>,
    /// Wait limits, by place.
    pub(super) waits: BTreeSet<(Timestamp, u64)>,
    /// Hold limits of grants that are not being revoked.
    pub(super) holds: BTreeSet<(Timestamp, Token)>,
    /// Ends of grants that are being revoked.
    pub(super) revocations: BTreeSet<(Timestamp, Token)>,
    /// Ends of lock-delays.
    pub(super) delays: BTreeSet<(Timestamp, ResourceKey)>,
}

impl Deadlines {
    /// The earliest moment at which anything is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let numbered = [&self.sessions, &self.waits, &self.holds, &self.revocations];
        let numbered = numbered.into_iter().filter_map(|set| set.first().map(|(at, _)| *at));
        numbered.chain(self.delays.first().map(|(at, _)| *at)).min()
    }

    /// The resources whose lock-delays are over at a moment, in the order of their ends.
    pub(super) fn delays_over(&self, at: Timestamp) -> impl Iterator<Item = &ResourceKey> {
        self.delays.iter().take_while(move |(until, _)| *until <= at).map(|(_, resource)| resource)
    }
}

/// Those of a set that are due at a moment, in order.
pub(super) fn due(set: &BTreeSet<(Timestamp, u64)>, at: Timestamp) -> impl Iterator<Item = u64> {
    set.iter().take_while(move |(until, _)| *until <= at).map(|(_, id)| *id)
}
