//! The arbiter.

pub mod log;
pub mod state;
