//! What was decided but may not be told yet.
//!
//! A reply or an acknowledgement that comes from a record is [`Held`] from the moment it is decided. Its content
//! is private; only the [`Proof`] that its record extends the chain opens it, and only a partition that has seen
//! its log say so makes one. So "reply before the log" is not a mistake that compiles:
//!
//! ```compile_fail
//! fn tell(held: arbiterq::partition::Held<String>) -> String {
//!     held.content
//! }
//! ```
//!
//! ```compile_fail
//! let proof = arbiterq::partition::Proof { through: u64::MAX };
//! ```

/// Something that may leave the arbiter once its record is proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held<T> {
    index: u64,
    content: T,
}

/// The knowledge that every record up to an index is durable and extends the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proof {
    through: u64,
}

impl Proof {
    /// Only the partition says so, when its log has.
    pub(super) fn through(index: u64) -> Self {
        Self { through: index }
    }
}

impl<T> Held<T> {
    /// Holds `content` back until the record at `index` is proven.
    pub fn until(index: u64, content: T) -> Self {
        Self { index, content }
    }

    /// Whether this proof opens it.
    pub fn is_opened_by(&self, proof: &Proof) -> bool {
        self.index <= proof.through
    }

    /// The content, if its record is proven.
    ///
    /// # Errors
    /// Gives it back unopened if the proof does not reach its record.
    pub fn open(self, proof: &Proof) -> Result<T, Self> {
        if self.is_opened_by(proof) { Ok(self.content) } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proof_that_reaches_the_record_opens() {
        let held = Held::until(7, "granted").open(&Proof::through(6)).unwrap_err();
        assert_eq!(held.open(&Proof::through(7)), Ok("granted"));
    }
}
