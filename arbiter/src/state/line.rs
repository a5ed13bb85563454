//! The line of waiters at one resource: sorted by turn, with positions and as-if-held sums that do not pass
//! everybody.
//!
//! A line may be a hundred thousand long, most of it suspended, and lose waiters from anywhere (cancellations,
//! ends of sessions). So it is cut into chunks that know what their eligible waiters would take together:
//! a walk skips a chunk without eligible ones, a position is a sum over chunks, a removal moves one chunk.

use super::resource::Load;
use arbiterq_client::wire::Mode;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// Waiters in one chunk. Moving half of one costs less than finding it.
const CHUNK_MAX: usize = 256;

/// When a waiter's turn is: higher priorities first, then earlier places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Turn {
    priority: Reverse<u8>,
    place: u64,
}

impl Turn {
    /// Before everybody.
    pub(super) const FIRST: Self = Self { priority: Reverse(u8::MAX), place: 0 };

    pub(super) fn new(priority: u8, place: u64) -> Self {
        Self { priority: Reverse(priority), place }
    }

    /// The index of the record that gave the waiter its place.
    pub(super) fn place(self) -> u64 {
        self.place
    }
}

/// One waiter at one resource, with what it claims there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    place: u64,
    pub(super) permits: u32,
    priority: u8,
    pub(super) mode: Mode,
    pub(super) suspended: bool,
}

impl Entry {
    pub(super) fn new(turn: Turn, mode: Mode, permits: u32, suspended: bool) -> Self {
        Self { place: turn.place, permits, priority: turn.priority.0, mode, suspended }
    }

    pub(super) fn turn(&self) -> Turn {
        Turn::new(self.priority, self.place)
    }
}

/// The waiters of one resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    chunks: Vec<Chunk>,
    len: usize,
    eligible: Load,
}

/// Never empty.
#[derive(Clone, Debug, Default)]
struct Chunk {
    entries: VecDeque<Entry>,
    eligible: Load,
}

impl Line {
    /// How many wait, suspended ones included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What all eligible waiters would take together.
    pub(super) fn eligible(&self) -> Load {
        self.eligible
    }

    /// Adds a waiter. One with the same turn is there at most once; a second is not added.
    pub(super) fn insert(&mut self, entry: Entry) {
        let turn = entry.turn();
        let i = self.chunk_of(turn);
        if i == self.chunks.len() {
            // Behind everybody, where nearly all come in.
            if self.chunks.last().is_none_or(|chunk| chunk.entries.len() >= CHUNK_MAX) {
                if self.chunks.is_empty() {
                    self.chunks.reserve_exact(1);
                }
                self.chunks.push(Chunk::default());
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.entries.push_back(entry);
                chunk.count(&entry);
            }
        } else {
            let chunk = &mut self.chunks[i];
            let at = chunk.entries.partition_point(|other| other.turn() < turn);
            if chunk.entries.get(at).is_some_and(|other| other.turn() == turn) {
                return;
            }
            chunk.entries.insert(at, entry);
            chunk.count(&entry);
            if chunk.entries.len() > CHUNK_MAX {
                let entries = chunk.entries.split_off(CHUNK_MAX / 2);
                chunk.recount();
                let mut second = Chunk { entries, eligible: Load::default() };
                second.recount();
                self.chunks.insert(i + 1, second);
            }
        }
        self.len += 1;
        if !entry.suspended {
            self.eligible.add(entry.mode, entry.permits);
        }
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, turn: Turn) -> Option<Entry> {
        let (i, at) = self.find(turn)?;
        let chunk = &mut self.chunks[i];
        let entry = chunk.entries.remove(at)?;
        self.len -= 1;
        if !entry.suspended {
            chunk.eligible.take(entry.mode, entry.permits);
            self.eligible.take(entry.mode, entry.permits);
        }
        if chunk.entries.is_empty() {
            self.chunks.remove(i);
        } else if i + 1 < self.chunks.len()
            && self.chunks[i].entries.len() + self.chunks[i + 1].entries.len() <= CHUNK_MAX / 2
        {
            let mut next = self.chunks.remove(i + 1);
            let chunk = &mut self.chunks[i];
            chunk.entries.append(&mut next.entries);
            chunk.recount();
        }
        Some(entry)
    }

    /// Passes a waiter over from now on, or no longer.
    pub(super) fn set_suspended(&mut self, turn: Turn, suspended: bool) {
        let Some((i, at)) = self.find(turn) else { return };
        let chunk = &mut self.chunks[i];
        let entry = &mut chunk.entries[at];
        if entry.suspended == suspended {
            return;
        }
        entry.suspended = suspended;
        let (mode, permits) = (entry.mode, entry.permits);
        for load in [&mut chunk.eligible, &mut self.eligible] {
            if suspended { load.take(mode, permits) } else { load.add(mode, permits) }
        }
    }

    /// A waiter's position, from 1. Suspended ones keep theirs.
    pub(super) fn position(&self, turn: Turn) -> Option<u64> {
        let (i, at) = self.find(turn)?;
        let before: usize = self.chunks[..i].iter().map(|chunk| chunk.entries.len()).sum();
        Some((before + at) as u64 + 1)
    }

    /// What the eligible waiters before a turn would take together; cut short when it leaves no room for anybody.
    pub(super) fn eligible_before(&self, turn: Turn) -> Load {
        let mut load = Load::default();
        for chunk in &self.chunks {
            if load.is_closed() {
                break;
            }
            if chunk.last() < turn {
                load.join(chunk.eligible);
                continue;
            }
            let earlier = chunk.entries.iter().take_while(|entry| entry.turn() < turn);
            for entry in earlier.filter(|entry| !entry.suspended) {
                load.add(entry.mode, entry.permits);
            }
            break;
        }
        load
    }

    /// The eligible waiters at and after a turn, in order.
    pub(super) fn eligible_from(&self, turn: Turn) -> impl Iterator<Item = &Entry> {
        let i = self.chunk_of(turn);
        let skip = self.chunks.get(i).map_or(0, |chunk| chunk.entries.partition_point(|e| e.turn() < turn));
        let with_any = |chunk: &&Chunk| !chunk.eligible.is_empty();
        let first =
            self.chunks.get(i).into_iter().filter(with_any).flat_map(move |c| c.entries.range(skip..));
        let rest = self.chunks.iter().skip(i + 1).filter(with_any).flat_map(|chunk| &chunk.entries);
        first.chain(rest).filter(|entry| !entry.suspended)
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flat_map(|chunk| &chunk.entries)
    }

    /// The first chunk that does not end before a turn.
    fn chunk_of(&self, turn: Turn) -> usize {
        self.chunks.partition_point(|chunk| chunk.last() < turn)
    }

    fn find(&self, turn: Turn) -> Option<(usize, usize)> {
        let i = self.chunk_of(turn);
        let at = self.chunks.get(i)?.entries.binary_search_by_key(&turn, Entry::turn).ok()?;
        Some((i, at))
    }
}

impl Chunk {
    fn last(&self) -> Turn {
        self.entries.back().map_or(Turn::FIRST, Entry::turn)
    }

    fn count(&mut self, entry: &Entry) {
        if !entry.suspended {
            self.eligible.add(entry.mode, entry.permits);
        }
    }

    fn recount(&mut self) {
        self.eligible = Load::default();
        for entry in self.entries.iter().filter(|entry| !entry.suspended) {
            self.eligible.add(entry.mode, entry.permits);
        }
    }
}

// Where a line is cut into chunks depends on its past, and is no part of what it says.
impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Line {}

impl Hash for Line {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len.hash(state);
        self.iter().for_each(|entry| entry.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn modes() -> impl Strategy<Value = (Mode, u32)> {
        prop_oneof![
            Just((Mode::Exclusive, 1)),
            Just((Mode::Shared, 1)),
            (1..5u32).prop_map(|n| (Mode::Permits, n))
        ]
    }

    proptest! {
        // Against a plain sorted vector; long enough to split and join chunks.
        #[test]
        fn a_line_is_a_sorted_list(
            steps in prop::collection::vec((0..10u8, 0..4u8, 0..2000u64, modes(), any::<bool>()), 0..3000),
        ) {
            let (mut line, mut plain) = (Line::default(), Vec::<Entry>::new());
            for (step, priority, place, (mode, permits), suspended) in steps {
                let turn = Turn::new(priority, place);
                let known = plain.binary_search_by_key(&turn, Entry::turn);
                match (step, known) {
                    (0..=6, Err(at)) => {
                        let entry = Entry::new(turn, mode, permits, suspended);
                        plain.insert(at, entry);
                        line.insert(entry);
                    }
                    (0..=2, Ok(at)) => {
                        plain[at].suspended = suspended;
                        line.set_suspended(turn, suspended);
                    }
                    (_, Ok(at)) => prop_assert_eq!(line.remove(turn), Some(plain.remove(at))),
                    (_, Err(_)) => prop_assert_eq!(line.remove(turn), None),
                }
                prop_assert_eq!(line.len(), plain.len());
            }
            prop_assert!(line.iter().eq(plain.iter()));
            for (i, entry) in plain.iter().enumerate().step_by(37) {
                prop_assert_eq!(line.position(entry.turn()), Some(i as u64 + 1));
                prop_assert!(line.eligible_from(entry.turn()).eq(plain[i..].iter().filter(|e| !e.suspended)));
                let mut load = Load::default();
                for e in plain[..i].iter().filter(|e| !e.suspended) {
                    load.add(e.mode, e.permits);
                }
                let found = line.eligible_before(entry.turn());
                prop_assert!(found == load || found.is_closed() && load.is_closed());
            }
        }
    }
}
