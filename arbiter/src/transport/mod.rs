//! The arbiter's half of each transport: bytes to deliveries, replies to bytes.
//!
//! A transport vouches for its senders ([`arbiterq_client::wire::Principal`]), keeps the order of each, and puts
//! the arbiter's letters to itself into the same queue. It decides nothing.

pub mod direct;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;

use arbiterq_client::wire::{DecodeError, Refused, Reply, ReplyBody};

/// Says why bytes are no message. No state is told, so no record has to be waited for; but it is said in the partition's
/// own epoch, or clients would take it for an older arbiter's word.
fn refusal(error: DecodeError, partition: u32, epoch: u64) -> Reply {
    let DecodeError { reason, detail, partition: _, id, session, seq, token } = error;
    let body = ReplyBody::Refused(Refused { id, seq, token, reason, detail });
    Reply { partition, epoch, index: 0, session, body }
}
