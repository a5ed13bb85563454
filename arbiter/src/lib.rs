//! The arbiter.

mod checkpointer;
pub mod clock;
pub mod log;
pub mod partition;
pub mod serve;
pub mod settings;
pub mod state;
pub mod transport;
