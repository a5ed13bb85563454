//! The live state as a checkpoint's body.

use super::State;

/// The body of a checkpoint of this state.
pub fn write(_state: &State) -> Vec<u8> {
    Vec::new()
}

/// Reads a checkpoint's body.
///
/// # Errors
/// What the body is not.
pub fn read(_body: &[u8]) -> Result<State, SnapshotError> {
    Err(SnapshotError { line: 0, what: "no snapshot".into() })
}

/// A body that is no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SnapshotError {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}
