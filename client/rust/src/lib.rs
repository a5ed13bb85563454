//! Exclusive access to anything, decided by the queue you already run: the client of Arbiter.

pub mod wire;
