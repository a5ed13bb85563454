//! Maps that are looked up at every command.
//!
//! Ten thousand sessions with their requests and resources fill no cache that is near, so what a command costs is
//! how many lines of memory it touches. These touch one or two where a tree touches one or two a level. None of
//! them lets the place where a thing happens to lie be seen: they are equal, hash and are walked by what is in
//! them, in its order.

use super::resource::{Resource, ResourceKey};
use arbiterq_client::wire::ResourceName;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// By a number that the arbiter gave, so that nobody chooses which ones meet in a bucket.
///
/// The only hash map of the state. Its own order is never walked: what looks at all of it, sorts.
#[derive(Clone, Debug)]
pub(super) struct Numbered<T>(HashMap<u64, Box<T>, BuildHasherDefault<Mixer>>);

impl<T> Numbered<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::default())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.contains_key(&number)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.0.get(&number).map(|value| &**value)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.0.get_mut(&number).map(|value| &mut **value)
    }

    /// In the place of what was there.
    pub(super) fn insert(&mut self, number: u64, value: T) {
        self.0.insert(number, Box::new(value));
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Box<T>> {
        self.0.remove(&number)
    }

    /// All, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let mut all: Vec<_> = self.0.iter().map(|(number, value)| (*number, &**value)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter()
    }

    /// All, by number.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let mut all: Vec<_> = self.0.iter_mut().map(|(number, value)| (*number, &mut **value)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter()
    }
}

impl<T: PartialEq> PartialEq for Numbered<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: Eq> Eq for Numbered<T> {}

impl<T: Hash> Hash for Numbered<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|entry| entry.hash(state));
    }
}

/// Spreads numbers that rise one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        // Both halves of the product: a table looks at the lowest bits and at the highest.
        let product = u128::from(number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

/// A map that has one entry as a rule, and must be good when it has many: that entry itself, or a sorted list, or a
/// tree once it is long.
#[derive(Clone, Debug)]
pub(super) enum Small<K, V> {
    One(Option<(K, V)>),
    Few(Vec<(K, V)>),
    Many(BTreeMap<K, V>),
}

/// A list that would grow beyond this becomes a tree; a tree of a quarter of it becomes a list.
const FEW_MAX: usize = 32;

impl<K, V> Default for Small<K, V> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<K: Ord, V> Small<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Few(list) => list.len(),
            Self::Many(tree) => tree.len(),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::One(one) => one.as_ref().filter(|(k, _)| k == key).map(|(_, value)| value),
            Self::Few(list) => list.binary_search_by(|(k, _)| k.cmp(key)).ok().map(|at| &list[at].1),
            Self::Many(tree) => tree.get(key),
        }
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::One(one) => one.as_mut().filter(|(k, _)| k == key).map(|(_, value)| value),
            Self::Few(list) => list.binary_search_by(|(k, _)| k.cmp(key)).ok().map(|at| &mut list[at].1),
            Self::Many(tree) => tree.get_mut(key),
        }
    }

    /// In the place of what was there.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        match self {
            Self::One(one) => *one = Some((key, value)),
            Self::Few(list) => match list.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(at) => list[at].1 = value,
                Err(at) => list.insert(at, (key, value)),
            },
            Self::Many(tree) => drop(tree.insert(key, value)),
        }
    }

    /// What is there, with the key by which it is known, or something new.
    pub(super) fn get_or_insert(&mut self, key: &K, new: impl FnOnce() -> V) -> (K, &mut V)
    where
        K: Clone,
    {
        self.make_room(key);
        match self {
            Self::One(one) => {
                let (key, value) = one.get_or_insert_with(|| (key.clone(), new()));
                (key.clone(), value)
            }
            Self::Few(list) => {
                let at = list.binary_search_by(|(k, _)| k.cmp(key)).unwrap_or_else(|at| {
                    list.insert(at, (key.clone(), new()));
                    at
                });
                let (key, value) = &mut list[at];
                (key.clone(), value)
            }
            Self::Many(tree) => {
                let key = tree.get_key_value(key).map_or(key, |(known, _)| known).clone();
                let value = tree.entry(key.clone()).or_insert_with(new);
                (key, value)
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::One(one) => one.take_if(|(k, _)| k == key).map(|(_, value)| value),
            Self::Few(list) => {
                let at = list.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                Some(list.remove(at).1)
            }
            Self::Many(tree) => {
                let removed = tree.remove(key);
                if tree.len() <= FEW_MAX / 4 {
                    *self = Self::Few(std::mem::take(tree).into_iter().collect());
                }
                removed
            }
        }
    }

    /// Another entry than the one that is there needs a list, and one more than a list takes a tree.
    fn make_room(&mut self, key: &K) {
        match self {
            Self::One(one) if one.as_ref().is_some_and(|(k, _)| k != key) => {
                *self = Self::Few(one.take().into_iter().collect());
            }
            Self::Few(list) if list.len() == FEW_MAX => *self = Self::Many(list.drain(..).collect()),
            _ => {}
        }
    }

    /// All, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (one, list, tree) = match self {
            Self::One(one) => (one.as_ref(), None, None),
            Self::Few(list) => (None, Some(list), None),
            Self::Many(tree) => (None, None, Some(tree)),
        };
        let list = one.into_iter().chain(list.into_iter().flatten()).map(|(key, value)| (key, value));
        list.chain(tree.into_iter().flatten())
    }

    /// All, by key.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let (one, list, tree) = match self {
            Self::One(one) => (one.as_mut(), None, None),
            Self::Few(list) => (None, Some(list), None),
            Self::Many(tree) => (None, None, Some(tree)),
        };
        let list = one.into_iter().chain(list.into_iter().flatten()).map(|(key, value)| (&*key, value));
        list.chain(tree.into_iter().flatten())
    }
}

impl<K, V> IntoIterator for Small<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        let all: Vec<_> = match self {
            Self::One(one) => one.into_iter().collect(),
            Self::Few(list) => list,
            Self::Many(tree) => tree.into_iter().collect(),
        };
        all.into_iter()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Small<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq> Eq for Small<K, V> {}

impl<K: Ord + Hash, V: Hash> Hash for Small<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|entry| entry.hash(state));
    }
}

/// Resources by the hashes of their names.
///
/// The upper bits of a hash say in which bucket a name is, so that the buckets one after the other are all names
/// in their order. Names are chosen by clients, and no hash that is the same everywhere keeps them from choosing
/// names that meet in one bucket: it is a tree then, as all of it might be.
#[derive(Clone, Debug)]
pub(super) struct Resources {
    /// A power of two.
    buckets: Vec<Small<ResourceKey, Box<Resource>>>,
    len: usize,
}

const BUCKETS_MIN: usize = 64;

impl Resources {
    pub(super) fn new() -> Self {
        Self { buckets: (0..BUCKETS_MIN).map(|_| Small::default()).collect(), len: 0 }
    }

    pub(super) fn get(&self, key: &ResourceKey) -> Option<&Resource> {
        self.buckets[self.bucket(key)].get(key).map(|resource| &**resource)
    }

    pub(super) fn get_mut(&mut self, key: &ResourceKey) -> Option<&mut Resource> {
        let bucket = self.bucket(key);
        self.buckets[bucket].get_mut(key).map(|resource| &mut **resource)
    }

    pub(super) fn remove(&mut self, key: &ResourceKey) {
        let bucket = self.bucket(key);
        self.len -= usize::from(self.buckets[bucket].remove(key).is_some());
    }

    /// The resource, made if it is not there.
    pub(super) fn get_or_insert(
        &mut self,
        key: &ResourceKey,
        new: impl FnOnce() -> Resource,
    ) -> (&mut Resource, ResourceName) {
        if self.len >= self.buckets.len() {
            self.grow();
        }
        let bucket = self.bucket(key);
        let bucket = &mut self.buckets[bucket];
        let len = &mut self.len;
        let (found, resource) = bucket.get_or_insert(key, || {
            *len += 1;
            Box::new(new())
        });
        (resource, found.into_name())
    }

    /// All, in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Resource)> {
        self.buckets.iter().flat_map(|bucket| bucket.iter().map(|(key, resource)| (key, &**resource)))
    }

    /// All, in the order of their keys.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&ResourceKey, &mut Resource)> {
        self.buckets.iter_mut().flat_map(|bucket| bucket.iter_mut().map(|(key, value)| (key, &mut **value)))
    }

    fn bucket(&self, key: &ResourceKey) -> usize {
        // As many upper bits as there are buckets for.
        (key.hash() >> (64 - self.buckets.len().trailing_zeros())) as usize
    }

    fn grow(&mut self) {
        let buckets = (0..2 * self.buckets.len()).map(|_| Small::default()).collect();
        for bucket in std::mem::replace(&mut self.buckets, buckets) {
            for (key, resource) in bucket {
                let bucket = self.bucket(&key);
                self.buckets[bucket].insert(key, resource);
            }
        }
    }
}

impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Resources {}

impl Hash for Resources {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len);
        self.iter().for_each(|entry| entry.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::DefaultHasher;

    fn hash_of(value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish()
    }

    proptest! {
        // Against a tree; long enough to become one and a list again.
        #[test]
        fn a_small_map_is_a_map(steps in prop::collection::vec((0..4u8, 0..80u64), 0..400)) {
            let (mut small, mut tree) = (Small::default(), BTreeMap::new());
            for (step, key) in steps {
                match step {
                    0 => prop_assert_eq!(small.remove(&key), tree.remove(&key)),
                    1 => {
                        let value = *small.get_or_insert(&key, || key + 1).1;
                        prop_assert_eq!(value, *tree.entry(key).or_insert(key + 1));
                    }
                    _ => {
                        small.insert(key, key * 2);
                        tree.insert(key, key * 2);
                    }
                }
                prop_assert_eq!(small.get(&key), tree.get(&key));
                prop_assert_eq!(small.len(), tree.len());
            }
            prop_assert!(small.iter().eq(tree.iter()));
            prop_assert!(small.iter_mut().map(|(key, value)| (key, &*value)).eq(tree.iter()));
            let mut other = Small::default();
            tree.iter().rev().for_each(|(key, value)| other.insert(*key, *value));
            prop_assert!(small == other && hash_of(&small) == hash_of(&other));
        }

        // Equal and walked alike, whatever was in it before.
        #[test]
        fn a_table_does_not_show_its_past(numbers in prop::collection::vec(0..500u64, 0..400)) {
            let (mut past, mut tree) = (Numbered::new(), BTreeMap::new());
            for number in numbers {
                if past.remove(number).is_none() {
                    past.insert(number, number * 3);
                    tree.insert(number, number * 3);
                } else {
                    tree.remove(&number);
                }
            }
            let mut fresh = Numbered::new();
            tree.iter().rev().for_each(|(number, value)| fresh.insert(*number, *value));
            prop_assert!(past.iter().map(|(number, value)| (number, *value)).eq(tree));
            prop_assert!(past == fresh && hash_of(&past) == hash_of(&fresh));
        }

        #[test]
        fn resources_are_walked_in_their_order(names in prop::collection::vec("[a-c]{1,6}", 0..600)) {
            let (mut past, mut tree) = (Resources::new(), BTreeMap::new());
            for name in names {
                let key = ResourceKey::new(&ResourceName::new(&name).unwrap());
                if past.get(&key).is_some() {
                    past.remove(&key);
                    tree.remove(&key);
                } else {
                    past.get_or_insert(&key, || Resource::new(None));
                    tree.insert(key, Resource::new(None));
                }
            }
            let mut fresh = Resources::new();
            for key in tree.keys().rev() {
                fresh.get_or_insert(key, || Resource::new(None));
            }
            prop_assert!(past.iter().eq(tree.iter()));
            prop_assert!(past == fresh && hash_of(&past) == hash_of(&fresh));
        }
    }
}
