//! What an auditor does with a grant log, without an arbiter, a broker or a network: everything here only reads.
//!
//! [`verify`] checks a log against the promises, from the records alone; [`replay`] decides its commands again.

pub mod replay;
pub mod verify;
