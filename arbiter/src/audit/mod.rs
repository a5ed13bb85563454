//! What an auditor does with a grant log, without an arbiter: everything here only reads.
//!
//! [`verify`] checks a log against the promises, from the records alone; [`replay`] decides its commands again. A log that
//! is at a broker is copied into a folder first (`export`).

#[cfg(feature = "rabbitmq")]
pub mod export;
pub mod replay;
pub mod verify;
