//! An arbiter: a production partition, what it has read, and what has left it and not arrived.

use super::log::Entry;
use super::world::PLACES;
use arbiterq::log::chain::ChainTip;
use arbiterq::partition::{Outgoing, Partition, PartitionConfig};
use arbiterq::planted::Planted;
use arbiterq::state::State;
use std::collections::{BTreeMap, VecDeque};

/// A process, or the next one in its place.
#[derive(Clone, Hash)]
pub(super) struct Arbiter {
    pub(super) partition: Partition,
    /// How many processes there were before.
    pub(super) life: u64,
    /// How many entries of the log it has read.
    pub(super) read: usize,
    /// How many records counted when its activation began.
    pub(super) began: u64,
    /// The epoch in which it is active.
    pub(super) epoch: Option<u64>,
    /// Which message of the queue it takes next.
    pub(super) position: usize,
    /// Appended and not landed, by the process that did; also of one that is over.
    pub(super) appends: BTreeMap<u64, VecDeque<Entry>>,
    /// Told and not heard, by client, with the process that told.
    pub(super) replies: [VecDeque<(u64, Outgoing)>; PLACES],
    /// It has met another's epoch and stepped down.
    pub(super) superseded: bool,
    planted: Option<Planted>,
}

impl std::fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let appends: Vec<_> = self.appends.values().map(VecDeque::len).collect();
        let replies: Vec<_> = self.replies.iter().map(VecDeque::len).collect();
        f.debug_struct("Arbiter")
            .field("role", &self.partition.role())
            .field("life", &self.life)
            .field("read", &self.read)
            .field("position", &self.position)
            .field("appends", &appends)
            .field("replies", &replies)
            .finish_non_exhaustive()
    }
}

impl Arbiter {
    pub(super) fn new(planted: Option<Planted>) -> Self {
        Self {
            partition: standby(planted),
            life: 0,
            read: 0,
            began: 0,
            epoch: None,
            position: 0,
            appends: BTreeMap::new(),
            replies: Default::default(),
            superseded: false,
            planted,
        }
    }

    /// The process is over, and another one is there in its place, which has read nothing yet.
    pub(super) fn restart(&mut self) {
        self.partition = standby(self.planted);
        self.life += 1;
        self.read = 0;
        self.began = 0;
        self.epoch = None;
    }
}

/// Nothing is overdue: an arbiter that stood still for long believes on, which asks more of the rules.
fn standby(planted: Option<Planted>) -> Partition {
    let config = PartitionConfig { returns: true, overdue: None, ..PartitionConfig::default() };
    Partition::standby(config, State::new(ChainTip::before(0))).with_planted(planted)
}
