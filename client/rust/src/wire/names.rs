//! Names, numbers and small values that messages and records share.

use super::{CLAIMS_MAX, KEY_CHARS_MAX, KEY_CHARS_MIN, PERMITS_MAX, RESOURCE_BYTES_MAX};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::Arc;

/// A session's number: the index of the record that opened it.
pub type SessionId = u64;
/// A request's number within its session. `(session, seq)` identifies a request for ever.
pub type Seq = u64;
/// A fencing token: the index of the record that granted. It only rises.
pub type Token = u64;

/// The name of the thing being arbitrated: 1 to 256 bytes of UTF-8 without control characters.
///
/// A `{…}` in the name is its hash tag: only the tag decides the partition, so that resources claimed together
/// can be kept together. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceName(Arc<str>);

/// What is wrong with a text, without the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidText(pub String);

impl ResourceName {
    /// A checked name.
    ///
    /// # Errors
    /// Empty, longer than 256 bytes, or with a control character.
    pub fn new(name: &str) -> Result<Self, InvalidText> {
        let name = Self(Arc::from(name));
        name.check()?;
        Ok(name)
    }

    /// Any text, as decoding takes it.
    pub(super) fn unchecked(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// Decoding takes any text; this says whether it may be a name.
    pub(crate) fn check(&self) -> Result<(), InvalidText> {
        if self.0.is_empty() {
            return Err(InvalidText("a resource name is empty".into()));
        }
        check_text("a resource name", &self.0, RESOURCE_BYTES_MAX)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Within `bytes_max`, and nothing that would break a terminal or a line.
pub(crate) fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), InvalidText> {
    if text.len() > bytes_max {
        return Err(InvalidText(format!("{what} has {} bytes, the limit is {bytes_max}", text.len())));
    }
    // Plain ASCII, as nearly all is, is seen at a glance.
    if text.bytes().all(|byte| matches!(byte, 0x20..0x7f)) {
        return Ok(());
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(InvalidText(format!("{what} has the control character U+{:04X}", u32::from(control))));
    }
    Ok(())
}

/// The partition that a resource belongs to: CRC-32 (IEEE) of its hash tag, or of the whole name, modulo the
/// number of partitions.
///
/// The hash tag is what stands between the first `{` and the first `}` after it, if that is not empty.
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of(resource: &ResourceName, partitions: u32) -> u32 {
    let name = resource.as_str();
    let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(name);
    crc32fast::hash(hashed.as_bytes()) % partitions
}

/// How a claim takes its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Beside nobody.
    Exclusive,
    /// Beside other shared holders.
    Shared,
    /// A number of permits out of the resource's capacity, beside other holders of permits.
    Permits,
}

/// One resource with a mode, inside a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is claimed.
    pub resource: ResourceName,
    /// How.
    pub mode: Mode,
    /// How many permits; present with [`Mode::Permits`] and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
}

impl Claim {
    /// A claim beside nobody.
    pub fn exclusive(resource: ResourceName) -> Self {
        Self { resource, mode: Mode::Exclusive, permits: None }
    }

    /// A claim beside other shared ones.
    pub fn shared(resource: ResourceName) -> Self {
        Self { resource, mode: Mode::Shared, permits: None }
    }

    /// A claim of `permits` out of the resource's capacity.
    pub fn permits(resource: ResourceName, permits: u32) -> Self {
        Self { resource, mode: Mode::Permits, permits: Some(permits) }
    }

    /// Whether these claims may stand in one request. Names the reason to refuse them with.
    pub(crate) fn check_all(claims: &[Claim]) -> Result<(), (Reason, String)> {
        if claims.is_empty() {
            return Err((Reason::NoClaims, "a request needs at least one claim".into()));
        }
        if claims.len() > CLAIMS_MAX {
            let detail = format!("{} claims, the limit is {CLAIMS_MAX}", claims.len());
            return Err((Reason::TooManyClaims, detail));
        }
        for (i, claim) in claims.iter().enumerate() {
            claim.resource.check().map_err(|e| (Reason::InvalidResource, e.to_string()))?;
            let permits_fit = match (claim.mode, claim.permits) {
                (Mode::Permits, Some(permits)) => (1..=PERMITS_MAX).contains(&permits),
                (Mode::Permits, None) => false,
                (_, permits) => permits.is_none(),
            };
            if !permits_fit {
                let detail =
                    format!("permits go with mode \"permits\", from 1 to {PERMITS_MAX}: {}", claim.resource);
                return Err((Reason::InvalidPermits, detail));
            }
            if claims[..i].iter().any(|other| other.resource == claim.resource) {
                return Err((Reason::DuplicateResource, format!("{} is claimed twice", claim.resource)));
            }
        }
        Ok(())
    }
}

/// A claim as it was granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimGranted {
    /// What is held.
    pub resource: ResourceName,
    /// How.
    pub mode: Mode,
    /// How many permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// The resource's capacity in force when it was granted.
    pub capacity: u32,
    /// The lowest token in force on the resource; the resource refuses tokens below the highest floor it saw.
    pub floor: Token,
}

/// A SHA-256, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

/// The random name of a log, written as 32 lowercase hexadecimal digits. Another one means another history.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 16]);

/// A number used once, by which an arbiter knows its own letters; 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

const HEX: &[u8; 16] = b"0123456789abcdef";

fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (i, pair) in bytes.chunks_exact(2).enumerate() {
        out[i] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

macro_rules! hex_text {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// In its one form: lower-case hexadecimal digits, in ASCII.
            pub fn digits(&self) -> [u8; 2 * $bytes] {
                let mut text = [0; 2 * $bytes];
                for (i, byte) in self.0.iter().enumerate() {
                    text[2 * i] = HEX[usize::from(byte >> 4)];
                    text[2 * i + 1] = HEX[usize::from(byte & 15)];
                }
                text
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidText;
            fn from_str(text: &str) -> Result<Self, InvalidText> {
                let wanted = || InvalidText(format!("not {} lowercase hexadecimal digits", 2 * $bytes));
                read_hex(text).map(Self).ok_or_else(wanted)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} lowercase hexadecimal digits", 2 * $bytes)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(de::Error::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
hex_text!(Hash, 32);
hex_text!(LogId, 16);
hex_text!(Nonce, 16);

/// The secret that proves a message is its session's: 22 to 64 letters, digits, `-` or `_`. Never logged, never
/// shown; a log has its SHA-256.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(String);

impl SessionKey {
    /// A checked key.
    ///
    /// # Errors
    /// Not 22 to 64 letters, digits, `-` or `_`. The error does not repeat the text.
    pub fn new(text: &str) -> Result<Self, InvalidText> {
        let key = Self(text.to_owned());
        key.check()?;
        Ok(key)
    }

    /// Any text, as decoding takes it.
    pub(super) fn unchecked(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A key nobody can guess: 128 random bits.
    pub fn random(bits: [u8; 16]) -> Self {
        Self(Nonce(bits).to_string())
    }

    pub(crate) fn check(&self) -> Result<(), InvalidText> {
        let fits = (KEY_CHARS_MIN..=KEY_CHARS_MAX).contains(&self.0.len())
            && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let wanted =
            || InvalidText(format!("a key is {KEY_CHARS_MIN} to {KEY_CHARS_MAX} letters, digits, - or _"));
        fits.then_some(()).ok_or_else(wanted)
    }

    /// The bytes that are hashed into a record's `key_hash`.
    pub fn secret_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

/// Who is asking, as far as the transport can vouch for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// The name; `anonymous` where nobody vouches.
    pub name: Arc<str>,
    /// How it is known.
    pub by: PrincipalBy,
}

impl Principal {
    /// Nobody vouches for the sender.
    pub fn anonymous() -> Self {
        Self { name: Arc::from("anonymous"), by: PrincipalBy::Nobody }
    }
}

/// How a principal is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalBy {
    /// Nobody vouches for it.
    Nobody,
    /// The peer of a Unix socket, as the kernel says.
    UnixPeer,
    /// The program that the arbiter runs in.
    InProcess,
    /// The user whose connection to the broker it is, as the broker says.
    BrokerUser,
}

/// Why something was refused, ended, released or lost. One word, one meaning, in every message and record.
///
/// A client that meets a reason it does not know reads [`Reason::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    // Not understood; nothing was decided.
    /// No JSON, or not a message.
    Malformed,
    /// Longer than a message may be.
    MessageTooLong,
    /// A version that this arbiter does not speak.
    UnknownVersion,
    /// A kind of message that this arbiter does not know.
    UnknownKind,
    /// A field that this arbiter does not know.
    UnknownField,
    /// A resource's name is empty, too long, or has control characters.
    InvalidResource,
    /// A text is too long or has control characters.
    InvalidText,
    /// A key is not 22 to 64 letters, digits, `-` or `_`.
    InvalidKey,
    /// A number is out of its range.
    InvalidNumber,
    /// Permits without their mode, the mode without permits, or a number out of range.
    InvalidPermits,
    /// A request without a claim.
    NoClaims,
    /// More claims than a request may have.
    TooManyClaims,
    /// A resource claimed twice in one request.
    DuplicateResource,
    /// A lease below 100 ms or above 24 h.
    LeaseOutOfRange,
    /// This needs a session and its key.
    SessionNeeded,
    // Refused by the state.
    /// The session's number, key or principal is not the sender's.
    NotYours,
    /// No grant with that token is in force.
    NotHeld,
    /// The resource belongs to another partition.
    WrongPartition,
    /// The policy does not let this principal do it.
    NotAllowed,
    /// Not free, and the request did not want to wait.
    Busy,
    /// More permits than the resource has.
    OverCapacity,
    /// The owner holds a claim that this one would wait for.
    Held,
    /// The session has as many requests as it may.
    InFlightMax,
    /// As many wait for the resource as may.
    WaitersMax,
    /// The arbiter has as many sessions as it may.
    SessionsMax,
    /// An operator's command named a grant that is not in force on the resource any more.
    HolderChanged,
    // Ends.
    /// Its client withdrew it.
    Cancelled,
    /// Its client gave it back.
    Released,
    /// It was not granted within its wait limit.
    WaitLimit,
    /// It was held longer than its hold limit.
    HoldLimit,
    /// The policy changed and does not allow it any more.
    Policy,
    /// An operator forced it.
    Forced,
    /// Its session is over.
    SessionEnded,
    /// Nothing was heard from the session for a whole lease.
    LeaseExpired,
    /// The session's connection is gone, and with it its process.
    ConnectionClosed,
    /// The session's replies came back and it asked to fail fast.
    FailFast,
    /// The client closed the session.
    Closed,
    /// Over, and so long ago that how is not kept.
    Ended,
    /// The arbiter is shutting down.
    ShuttingDown,
    /// A reason that this library does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The wire's own word, so that logs, messages and documentation agree.
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tag_decides_the_partition() {
        let of = |name: &str| partition_of(&ResourceName::new(name).unwrap(), 16);
        assert_eq!(of("{order-7}/stock"), of("{order-7}/invoice"));
        assert_eq!(of("{order-7}/stock"), of("order-7"));
        assert_eq!(of("{}x"), crc32fast::hash(b"{}x") % 16);
        assert_eq!(of("a{b"), crc32fast::hash(b"a{b") % 16);
    }

    #[test]
    fn crc_32_is_the_ieee_one() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = SessionKey::random([7; 16]);
        assert!(!format!("{key:?}").contains("07"));
    }

    #[test]
    fn reasons_read_as_on_the_wire() {
        assert_eq!(Reason::NotHeld.to_string(), "not_held");
        assert_eq!(serde_json::from_str::<Reason>("\"from_the_future\"").unwrap(), Reason::Unknown);
    }
}
