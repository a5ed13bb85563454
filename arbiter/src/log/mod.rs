//! The grant log: records, the chain rule, and the stores that keep them.

pub mod chain;
pub mod checkpoint;
pub mod file;
pub(crate) mod line;
pub mod memory;
pub mod record;
#[cfg(feature = "rabbitmq")]
pub mod stream;
