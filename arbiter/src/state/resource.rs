//! Resources: who holds them, who waits for them, what fits beside what.

use super::line::Line;
use super::policy::RuleIndex;
use arbiterq_client::wire::{Mode, ResourceName, Timestamp, Token};
use std::collections::BTreeSet;

/// A resource's name, ordered by a hash of it first.
///
/// Comparing numbers that stand in a map is several times faster than following pointers to names. Equal hashes
/// cost a comparison of the names, no more, so that nobody gains by choosing names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ResourceKey {
    hash: u64,
    name: ResourceName,
}

impl ResourceKey {
    pub(super) fn new(name: &ResourceName) -> Self {
        // FNV-1a over words, and MurmurHash3's last step, after which every bit depends on all: short, the same
        // everywhere, and never written down.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for word in name.as_str().as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            hash = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self { hash: hash ^ hash >> 33, name: name.clone() }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_name(self) -> ResourceName {
        self.name
    }

    pub(super) fn name(&self) -> &ResourceName {
        &self.name
    }
}

/// What is taken of a resource, by holders or by waiters as if they held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Load {
    exclusive: u32,
    shared: u32,
    permits: u64,
}

impl Load {
    pub(super) fn add(&mut self, mode: Mode, permits: u32) {
        match mode {
            Mode::Exclusive => self.exclusive = self.exclusive.saturating_add(1),
            Mode::Shared => self.shared = self.shared.saturating_add(1),
            Mode::Permits => self.permits = self.permits.saturating_add(permits.into()),
        }
    }

    pub(super) fn take(&mut self, mode: Mode, permits: u32) {
        match mode {
            Mode::Exclusive => self.exclusive = self.exclusive.saturating_sub(1),
            Mode::Shared => self.shared = self.shared.saturating_sub(1),
            Mode::Permits => self.permits = self.permits.saturating_sub(permits.into()),
        }
    }

    pub(super) fn join(&mut self, other: Load) {
        self.exclusive = self.exclusive.saturating_add(other.exclusive);
        self.shared = self.shared.saturating_add(other.shared);
        self.permits = self.permits.saturating_add(other.permits);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn shared(&self) -> u32 {
        self.shared
    }

    /// Whether a claim fits beside this. Exclusive takes all; shared and permits do not mix.
    pub(super) fn admits(&self, mode: Mode, permits: u32, capacity: u32) -> bool {
        match mode {
            Mode::Exclusive => self.is_empty(),
            Mode::Shared => self.exclusive == 0 && self.permits == 0,
            Mode::Permits => {
                let taken = self.permits.saturating_add(permits.into());
                self.exclusive == 0 && self.shared == 0 && taken <= capacity.into()
            }
        }
    }

    /// Nothing fits beside this, whatever the capacity.
    pub(super) fn is_closed(&self) -> bool {
        self.exclusive > 0 || self.shared > 0 && self.permits > 0
    }

    /// Nothing fits beside this.
    pub(super) fn is_full(&self, capacity: u32) -> bool {
        self.is_closed() || self.permits > 0 && self.permits >= capacity.into()
    }

    /// Nothing but permits, and no more than there are.
    pub(super) fn is_permits_within(&self, capacity: u32) -> bool {
        self.exclusive == 0 && self.shared == 0 && self.permits <= capacity.into()
    }
}

/// The grants in force on a resource, by token. One, as nearly always, takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Holders {
    /// The lowest.
    first: Option<Token>,
    rest: BTreeSet<Token>,
}

impl Holders {
    pub(super) fn first(&self) -> Option<Token> {
        self.first
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Token> {
        self.first.into_iter().chain(self.rest.iter().copied())
    }

    /// Whether it was not there.
    pub(super) fn insert(&mut self, token: Token) -> bool {
        match self.first {
            None => {
                self.first = Some(token);
                true
            }
            Some(first) if token == first => false,
            Some(first) if token < first => {
                self.first = Some(token);
                self.rest.insert(first)
            }
            Some(_) => self.rest.insert(token),
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, token: Token) -> bool {
        if self.first == Some(token) {
            self.first = self.rest.pop_first();
            return true;
        }
        self.rest.remove(&token)
    }
}

/// Nobody is granted a resource before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Delay {
    pub(super) until: Timestamp,
    /// Its full length, from which it starts again with an epoch.
    pub(super) ms: u64,
}

/// A resource that is held, waited for, or delayed; any other is not in the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resource {
    pub(super) holders: Holders,
    /// What they take together.
    pub(super) held: Load,
    pub(super) line: Line,
    pub(super) delay: Option<Delay>,
    /// The policy's rule for it, kept because matching patterns is slow.
    pub(super) rule: RuleIndex,
}

impl Resource {
    pub(super) fn new(rule: RuleIndex) -> Self {
        Self { holders: Holders::default(), held: Load::default(), line: Line::default(), delay: None, rule }
    }

    /// Whether nobody is granted it at a moment, whoever holds and waits.
    pub(super) fn is_delayed(&self, at: Timestamp) -> bool {
        self.delay.is_some_and(|delay| delay.until > at)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.line.is_empty() && self.delay.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_beside_what() {
        let claims = [(Mode::Exclusive, 1), (Mode::Shared, 1), (Mode::Permits, 2), (Mode::Permits, 3)];
        let fits = |held: (Mode, u32), asked: (Mode, u32)| {
            let mut load = Load::default();
            assert!(load.admits(held.0, held.1, 4));
            load.add(held.0, held.1);
            load.admits(asked.0, asked.1, 4)
        };
        for (i, held) in claims.into_iter().enumerate() {
            for (j, asked) in claims.into_iter().enumerate() {
                let expected = matches!((i, j), (1, 1) | (2, 2));
                assert_eq!(fits(held, asked), expected, "{held:?} then {asked:?} of 4");
            }
        }
    }

    #[test]
    fn equal_names_have_equal_keys() {
        let name = |text: &str| ResourceName::new(text).unwrap();
        assert_eq!(ResourceKey::new(&name("orders/17")), ResourceKey::new(&name("orders/17")));
        assert_ne!(ResourceKey::new(&name("orders/17")), ResourceKey::new(&name("orders/18")));
    }
}
