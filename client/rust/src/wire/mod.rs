//! The published messages between clients and the arbiter: kinds, fields, limits.
//!
//! Everything here is plain data. [`Request`] is what a client sends, [`Reply`] what it is told; both are one
//! JSON object, one line on the direct transport. Decoding never panics and names what it refuses
//! ([`DecodeError`]). Nothing here may know about sockets, clocks or state.
//!
//! The format is written down for other languages in `client/protocol/`; each message kind has a golden file
//! there that this module is tested against.

mod line;
mod names;
pub mod rabbitmq;
mod reply;
mod request;
mod time;

pub(crate) use names::check_text;
pub use names::{
    Claim, ClaimGranted, Hash, InvalidText, LogId, Mode, Nonce, Principal, PrincipalBy, Reason, ResourceName,
    Seq, SessionId, SessionKey, Token, partition_of,
};
pub use reply::{
    Alive, Done, Ended, Granted, HeldBy, Lost, Opened, Queued, Refused, Released, Reply, ReplyBody,
    RevokedToken, SessionEnded, Status, StatusHolder, StatusResource, StatusSession, StatusWaiter,
};
pub use request::{
    Acquire, Attach, Auth, Cancel, Cause, Close, DecodeError, ForceRelease, Gone, KeepAlive, Nudge, Open,
    OwnerRef, Pause, Release, Request, RequestBody, Resume, StatusAsk, StatusWhat, Tick,
};
pub use time::{InvalidTimestamp, Timestamp};

/// Writes a field of a message. Its name is what stands before the value, signs and all: a message has one of a few
/// that are known, and serde would look through each for what must be escaped.
fn put(bytes: &mut Vec<u8>, name: &str, value: &impl serde::Serialize) {
    bytes.extend_from_slice(name.as_bytes());
    // A value of ours, and memory to write to: serialising cannot fail.
    let written = serde_json::to_writer(bytes, value);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// The wire version that this library speaks, the `v` of every message.
pub const VERSION: u32 = 1;
/// A whole message, without its line feed. A longer one is refused `message_too_long`.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A reply, without its line feed; only a `status` comes near. A longer one is a broken connection.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// A resource's name in UTF-8. A longer one is refused `invalid_resource`.
pub const RESOURCE_BYTES_MAX: usize = 256;
/// Claims in one request. More are refused `too_many_claims`.
pub const CLAIMS_MAX: usize = 64;
/// A session's label, which people see as the holder's name. A longer one is refused `invalid_text`.
pub const LABEL_BYTES_MAX: usize = 128;
/// A reason given for a request, a pause or a forced release. A longer one is refused `invalid_text`.
pub const REASON_BYTES_MAX: usize = 1024;
/// The value that a request publishes to watchers. A longer one is refused `invalid_text`.
pub const VALUE_BYTES_MAX: usize = 4096;
/// A correlation id. A longer one is refused `invalid_text`.
pub const ID_BYTES_MAX: usize = 64;
/// A reply address or peer. A longer one is refused `invalid_text`.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// A session's key, in characters; at least [`KEY_CHARS_MIN`].
pub const KEY_CHARS_MAX: usize = 64;
/// Below this a key could be guessed. Refused `invalid_key`.
pub const KEY_CHARS_MIN: usize = 22;
/// Integers stay exactly representable in every JSON implementation. Larger ones are refused `invalid_number`.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// The shortest lease. Refused `lease_out_of_range` below it.
pub const LEASE_MS_MIN: u64 = 100;
/// The longest lease, 24 hours. Refused `lease_out_of_range` above it.
pub const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// The highest priority; the default is 0, and a higher one goes first.
pub const PRIORITY_MAX: u8 = 9;
/// The largest number of permits a claim may take or a resource may have.
pub const PERMITS_MAX: u32 = 1_000_000;
/// The longest wait or hold limit: a year.
pub const LIMIT_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// The port of the direct transport when a URL names none.
pub const PORT_DEFAULT: u16 = 7117;
