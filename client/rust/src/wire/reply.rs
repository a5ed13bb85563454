//! What a client is told.

use super::{Hash, LogId, Nonce, Reason, ResourceName, Seq, SessionId, Token, VERSION, put};
use serde::{Deserialize, Serialize};

/// Most messages are shorter.
const REPLY_BYTES_USUAL: usize = 256;

/// One message to a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The partition that answers.
    pub partition: u32,
    /// The epoch of the arbiter that answers. A client ignores lower ones than it has seen in the partition.
    pub epoch: u64,
    /// The record as of which this is true.
    pub index: u64,
    /// The session it is for, once there is one.
    pub session: Option<SessionId>,
    /// What is said.
    pub body: ReplyBody,
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $kind:ident: $variant:ident($body:ty),)*) => {
        /// What a message says. On the wire the kind is the name of the one field that holds the rest.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum ReplyBody {
            $($(#[$doc])* $variant($body),)*
        }

        impl ReplyBody {
            /// The name of every kind on the wire.
            pub const KINDS: &[&str] = &[$(stringify!($kind)),*];

            /// The kind's name on the wire.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($kind),)* }
            }
        }

        #[derive(Deserialize)]
        struct Raw {
            v: u32,
            partition: u32,
            epoch: u64,
            index: u64,
            #[serde(default)]
            session: Option<SessionId>,
            $(#[serde(default)] $kind: Option<$body>,)*
        }

        impl Reply {
            /// The bytes of the message: one JSON object without a line feed.
            pub fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(REPLY_BYTES_USUAL);
                self.encode_into(&mut bytes);
                bytes
            }

            /// The same, behind what is in `bytes`.
            pub fn encode_into(&self, bytes: &mut Vec<u8>) {
                put(bytes, "{\"v\":", &VERSION);
                put(bytes, ",\"partition\":", &self.partition);
                put(bytes, ",\"epoch\":", &self.epoch);
                put(bytes, ",\"index\":", &self.index);
                if let Some(session) = &self.session {
                    put(bytes, ",\"session\":", session);
                }
                match &self.body {
                    $(ReplyBody::$variant(body) => put(bytes, concat!(",\"", stringify!($kind), "\":"), body),)*
                }
                bytes.push(b'}');
            }

            /// Reads one message. `None` if it is of a kind or version that this library does not know: a
            /// client ignores what it does not know.
            ///
            /// # Errors
            /// What is no message at all.
            pub fn decode(bytes: &[u8]) -> Result<Option<Self>, serde_json::Error> {
                let raw: Raw = serde_json::from_slice(bytes)?;
                if raw.v != VERSION { return Ok(None); }
                $(if let Some(body) = raw.$kind {
                    return Ok(Some(Reply {
                        partition: raw.partition, epoch: raw.epoch, index: raw.index, session: raw.session,
                        body: ReplyBody::$variant(body),
                    }));
                })*
                Ok(None)
            }
        }
    };
}

bodies! {
    /// The session is open.
    opened: Opened(Opened),
    /// The request waits.
    queued: Queued(Queued),
    /// The claims are held.
    granted: Granted(Granted),
    /// A grant was given back.
    released: Released(Released),
    /// A request is over without a grant.
    ended: Ended(Ended),
    /// It was not taken.
    refused: Refused(Refused),
    /// A grant's right is over; `release` acknowledges.
    lost: Lost(Lost),
    /// A keep-alive counts; and all that the session has.
    alive: Alive(Alive),
    /// The session is over, and everything in it.
    session_ended: SessionEnded(SessionEnded),
    /// What a `status` saw.
    status: Status(Box<Status>),
    /// An operator's command was carried out.
    done: Done(Done),
}

/// `opened`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opened {
    /// The `open` that this answers.
    pub id: String,
    /// The session's number.
    pub session: SessionId,
    /// The lease as the arbiter counts it.
    pub lease_ms: u64,
    /// How many requests may be unanswered, waiting or held.
    pub in_flight_max: u32,
    /// The log's random name. Another one than before: everything is lost.
    pub genesis: LogId,
    /// How many partitions there are.
    pub partitions: u32,
}

/// `queued`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Queued {
    /// The request.
    pub seq: Seq,
    /// Its place in line, from 1; the largest where several resources are claimed.
    pub position: u64,
    /// How many wait in that line.
    pub waiting: u64,
    /// Who holds what it waits for, if anybody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
}

/// The holder that a waiter waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldBy {
    /// The holder's label.
    pub label: String,
    /// Its token.
    pub token: Token,
    /// How long it has held.
    pub held_ms: u64,
    /// When its lease runs out, if nothing more is heard from it.
    pub lease_left_ms: u64,
    /// How long ago it was heard from.
    pub renewed_ms: u64,
}

/// `granted`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Granted {
    /// The request.
    pub seq: Seq,
    /// Its fencing token.
    pub token: Token,
    /// For each claim, in order, the lowest token in force on its resource.
    pub floors: Vec<Token>,
    /// The hash of the record that granted: a receipt.
    pub hash: Hash,
}

/// `released`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Released {
    /// The grant.
    pub token: Token,
    /// How it ended.
    pub reason: Reason,
}

/// `ended`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ended {
    /// The request.
    pub seq: Seq,
    /// How it ended.
    pub reason: Reason,
}

/// `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refused {
    /// The `id` of the message, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The request, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The token, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Why.
    pub reason: Reason,
    /// What was wrong, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// `lost`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lost {
    /// The grant.
    pub token: Token,
    /// Why.
    pub reason: Reason,
}

/// `alive`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alive {
    /// The highest keep-alive that counts.
    pub n: u64,
    /// Every grant in force and its request, those being revoked included.
    pub held: Vec<(Seq, Token)>,
    /// The grants among them that are being revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedToken>,
    /// The highest `attach` that counts.
    pub attached: u64,
    /// The waiting requests that are passed over until the next `attach`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<Seq>,
    /// Every waiting request and its place.
    pub positions: Vec<(Seq, u64)>,
}

/// A grant that is being revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RevokedToken(
    /// The grant.
    pub Token,
    /// Why.
    pub Reason,
);

/// `session_ended`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionEnded {
    /// Why.
    pub reason: Reason,
}

/// `done`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Done {
    /// The message that this answers.
    pub id: String,
}

/// `status`: what was asked for, and always the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    /// The `status` that this answers.
    pub id: String,
    /// The log's random name.
    pub genesis: LogId,
    /// How many partitions there are.
    pub partitions: u32,
    /// This activation's random number.
    pub incarnation: Nonce,
    /// Live sessions.
    pub sessions: u64,
    /// Grants in force.
    pub held: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest_wait_ms: u64,
    /// Why granting is paused, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Holders, at most [`Status::ROWS_MAX`], in the order of their tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<StatusHolder>,
    /// Waiters of one resource, at most [`Status::ROWS_MAX`], in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<StatusWaiter>,
    /// Resources, at most [`Status::ROWS_MAX`], by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<StatusResource>,
}

impl Status {
    /// The rows of one list; a list that long may be cut.
    pub const ROWS_MAX: usize = 200;
}

/// A row of `holders`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StatusHolder {
    /// What is held.
    pub resource: ResourceName,
    /// How: `exclusive`, `shared`, or `permits`.
    pub mode: super::Mode,
    /// How many permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// The grant.
    pub token: Token,
    /// Whose.
    pub session: StatusSession,
    /// For how long.
    pub held_ms: u64,
    /// Why, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is being revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoking: bool,
}

/// A row of `queue`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StatusWaiter {
    /// Its place, from 1.
    pub position: u64,
    /// How it wants the resource.
    pub mode: super::Mode,
    /// How many permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// Whose.
    pub session: StatusSession,
    /// The request.
    pub seq: Seq,
    /// For how long.
    pub waited_ms: u64,
    /// Its priority.
    pub priority: u8,
    /// Why, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is passed over until its client attaches again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
}

/// A row of `resources`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StatusResource {
    /// Its name.
    pub resource: ResourceName,
    /// Grants in force on it.
    pub holders: u64,
    /// Requests that wait for it.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest_wait_ms: u64,
}

/// Whose a row is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StatusSession {
    /// The session.
    pub session: SessionId,
    /// Its label.
    pub label: String,
    /// Its principal.
    pub principal: String,
    /// When its lease runs out, if nothing more is heard from it.
    pub lease_left_ms: u64,
    /// How long ago it was heard from.
    pub renewed_ms: u64,
}
