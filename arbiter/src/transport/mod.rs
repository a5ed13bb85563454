//! The arbiter's half of each transport: bytes to deliveries, replies to bytes.
//!
//! A transport vouches for its senders ([`arbiterq_client::wire::Principal`]), keeps the order of each, and puts
//! the arbiter's letters to itself into the same queue. It decides nothing.

pub mod direct;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
