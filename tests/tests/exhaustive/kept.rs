//! A part of the world with its hash, so that a step hashes and copies only what it changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// A value that worlds share until one of them changes it.
///
/// Two are equal if their hashes are: 64 bits over all of the value, which is what the checker itself tells states
/// apart by.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    value: Arc<T>,
    hash: OnceLock<u64>,
}

impl<T: Clone> Kept<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Arc::new(value), hash: OnceLock::new() }
    }

    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.hash = OnceLock::new();
        change(Arc::make_mut(&mut self.value))
    }
}

impl<T: Hash> Kept<T> {
    fn hash_of_all(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.value.hash(&mut hasher);
            hasher.finish()
        })
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Hash> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash_of_all() == other.hash_of_all()
    }
}

impl<T: Hash> Eq for Kept<T> {}

impl<T: Hash> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash_of_all());
    }
}
