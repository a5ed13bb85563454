//! The thread that writes, and what it reports.

use super::error::WriteError;

/// Hears what is proven.
#[derive(Clone, Debug)]
pub struct Proofs {}

impl Proofs {
    /// The highest proven index, when it has risen since the last call: once a sync at most. When the log fails, that
    /// once, after all that was proven before; then, as after a clean end, nothing.
    ///
    /// # Cancel safety
    /// Safe: what was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<u64, WriteError>> {
        unimplemented!()
    }

    /// The highest index proven now; none if the log is empty.
    pub fn through(&self) -> Option<u64> {
        unimplemented!()
    }
}
