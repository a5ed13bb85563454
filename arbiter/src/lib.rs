//! The arbiter.

pub mod log;
pub mod partition;
pub mod settings;
pub mod state;
