//! The arbiter.

pub mod audit;
mod checkpointer;
pub mod clock;
pub mod log;
pub mod partition;
pub mod serve;
pub mod state;
pub mod testing;
pub mod transport;
