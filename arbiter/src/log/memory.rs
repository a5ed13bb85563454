//! A log in memory that several partitions may share: for tests, examples and whoever needs no history.
//!
//! It takes every entry, as a broker's stream does, and leaves it to the chain rule which ones count.

use super::chain::{ChainTip, Sealed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries in the order in which they arrived. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    entries: Arc<Mutex<Vec<Arc<[Sealed]>>>>,
}

impl MemoryLog {
    /// Takes an entry, whether it counts or not.
    pub fn append(&self, entry: &[Sealed]) {
        self.lock().push(entry.into());
    }

    /// The entries from the `position`th on, for a reader that has seen those before.
    pub fn read(&self, position: usize) -> Vec<Arc<[Sealed]>> {
        self.lock().get(position..).unwrap_or_default().to_vec()
    }

    /// The lines that count, in order: what a log folder would hold.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        let entries = self.read(0);
        let first = entries.first().and_then(|entry| entry.first()).map_or(0, |sealed| sealed.record.index);
        let mut tip = ChainTip::before(first);
        let counting = entries.iter().filter(|entry| tip.extend(entry));
        counting.flat_map(|entry| entry.iter().map(|sealed| sealed.line.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<[Sealed]>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
