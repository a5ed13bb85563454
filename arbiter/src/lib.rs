//! The arbiter.

pub mod audit;
pub mod log;
pub mod state;
