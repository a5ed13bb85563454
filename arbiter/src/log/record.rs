//! Records: what the grant log is made of.
//!
//! A record is one line of JSON, hashed exactly as written and never written again. These types are the format:
//! `client/protocol/log.md` describes it to the byte, and the golden log beside it has one of every kind.
//! Nothing here decides or folds.

use arbiterq_client::wire::{
    Cause, Claim, ClaimGranted, Hash, LogId, Nonce, OwnerRef, PrincipalBy, Reason, ResourceName, Seq,
    SessionId, Timestamp, Token,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The version of the format, in every genesis.
pub const FORMAT: u32 = 1;
/// The version of the decision rules, in every `epoch_started`.
pub const RULES: u32 = 1;
/// A record, without its line feed. None that is sealed comes near; a longer line is damage.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// Renewals in one record; more wait for the next.
pub const RENEWED_MAX: usize = 1024;
/// Sessions and deadlines that one tick ends; the rest stay due and another tick follows at once.
pub const DUE_MAX: usize = 256;
/// Policies, as JSON.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;

/// One decision and where it stands in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its position. The genesis has `first_index`; each next one is one higher.
    pub index: u64,
    /// The SHA-256 of the record before it; zeros before the genesis.
    pub prev: Hash,
    /// The activation that sealed it; 0 in the genesis.
    pub epoch: u64,
    /// Arbiter time. Never falls.
    pub at: Timestamp,
    /// Sessions whose keep-alive came since the record before, with its number. They count from `at`, and
    /// before the command does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<(SessionId, u64)>,
    /// The position in the request queue decided so far, on transports that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
    /// What was asked.
    pub command: Command,
    /// What changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// What was asked, as the state machine decides it: all that a decision depends on beside the state and the time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Begins a log. Not decided.
    Create,
    /// Begins an epoch. Not decided.
    Activate,
    /// Puts the configured policy in force. Not decided.
    Policy,
    /// A session.
    Open(OpenCommand),
    /// A reply address.
    Attach {
        /// Whose.
        session: SessionId,
        /// Must be higher than the last.
        n: u64,
        /// The address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Arc<str>>,
    },
    /// Claims.
    Acquire(AcquireCommand),
    /// A grant back.
    Release {
        /// Whose.
        session: SessionId,
        /// Which.
        token: Token,
    },
    /// A request back.
    Cancel {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
    },
    /// A session's end.
    Close {
        /// Which.
        session: SessionId,
    },
    /// What is due by `at` is due.
    Tick {
        /// The deciding moment.
        at: Timestamp,
    },
    /// Nobody is at a session's address.
    Gone {
        /// Whose.
        session: SessionId,
        /// The number of the `attach` whose address it was.
        n: u64,
        /// The request whose grant came back and that nothing else published names: the grant may be undone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<Seq>,
        /// What was seen.
        cause: Cause,
    },
    /// The next waiter that can be granted is.
    Advance,
    /// An operator takes a grant away.
    ForceRelease {
        /// On this resource.
        resource: ResourceName,
        /// This grant.
        token: Token,
        /// Why.
        reason: String,
        /// Who.
        by: Arc<str>,
        /// At once, leaning on fencing alone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        now: bool,
    },
    /// An operator stops granting.
    Pause {
        /// Why.
        reason: String,
        /// Who.
        by: Arc<str>,
    },
    /// An operator lets granting go on.
    Resume {
        /// Why.
        reason: String,
        /// Who.
        by: Arc<str>,
    },
    /// Puts the hash of a checkpoint into the chain. Not decided.
    Checkpoint,
    /// Nothing was asked that changes anything; renewals and answers needed a record.
    Barrier,
    /// Ends the log. Not decided.
    Finish,
}

/// `open`, as it is decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenCommand {
    /// SHA-256 of the session's key.
    pub key_hash: Hash,
    /// The lease asked for.
    pub lease_ms: u64,
    /// Fail fast, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_fast_ms: Option<u64>,
    /// What people see.
    pub label: Arc<str>,
    /// Who asks.
    pub principal: Arc<str>,
    /// How that is known.
    pub principal_by: PrincipalBy,
    /// Where replies go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Arc<str>>,
}

/// `acquire`, as it is decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcquireCommand {
    /// Whose.
    pub session: SessionId,
    /// Which of its requests.
    pub seq: Seq,
    /// What is wanted.
    pub claims: Vec<Claim>,
    /// For the same owner as that request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerRef>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Wait at most so long; 0 is try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Hold at most so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_max_ms: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// What watchers see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Arc<str>>,
}

/// What changed. Folding the events of all records that count gives the state; an unknown one stops a reader.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The log begins.
    Genesis(Genesis),
    /// An arbiter is active. Leases and lock-delays start again in full at this record's `at`; other deadlines
    /// move by the gap since the record before; nobody is unreachable any more.
    EpochStarted {
        /// One above the last.
        epoch: u64,
        /// Random: two activations never seal equal bytes.
        incarnation: Nonce,
        /// The version of the decision rules.
        rules: u32,
    },
    /// The rules in force from here on. Revokes nothing.
    Policy(Policy),
    /// A session is open; its number is this record's index.
    Opened {
        /// SHA-256 of the session's key.
        key_hash: Hash,
        /// The lease in force.
        lease_ms: u64,
        /// Fail fast, if asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fail_fast_ms: Option<u64>,
        /// How many requests may be unanswered, waiting or held.
        in_flight_max: u32,
        /// What people see.
        label: Arc<str>,
        /// Who asked.
        principal: Arc<str>,
        /// How that is known.
        principal_by: PrincipalBy,
        /// Where replies go.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Arc<str>>,
    },
    /// Replies go here now; what was suspended is eligible again.
    Attached {
        /// Whose.
        session: SessionId,
        /// The number of the `attach`.
        n: u64,
        /// The address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Arc<str>>,
    },
    /// Nobody was at the address.
    Unreachable {
        /// Whose.
        session: SessionId,
        /// The number of the `attach` whose address it was.
        n: u64,
    },
    /// The session is over, and all its waiters and grants with it.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// A request waits; its place is this record's index.
    Queued {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
        /// What is wanted.
        claims: Vec<Claim>,
        /// The owner, if it is another request's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerRef>,
        /// Higher goes first.
        priority: u8,
        /// Wait at most so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
        /// Hold at most so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold_max_ms: Option<u64>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
        /// What watchers see.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Arc<str>>,
    },
    /// A request holds its claims; the token is this record's index.
    Granted {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
        /// The owner, if it is another request's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerRef>,
        /// What is held.
        claims: Vec<ClaimGranted>,
        /// Its priority, to which it falls back if the grant is undone.
        #[serde(default, skip_serializing_if = "is_zero")]
        priority: u8,
        /// Hold at most so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold_max_ms: Option<u64>,
        /// Wait at most so long, counted from its place, if the grant is undone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
        /// What watchers see.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Arc<str>>,
    },
    /// A request number is used up, and nothing was granted.
    Refused {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
        /// Why.
        reason: Reason,
    },
    /// A waiter is over without a grant, or a number that was not seen yet is used up by its cancellation.
    Ended {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
        /// Why.
        reason: Reason,
    },
    /// A grant is no longer in force.
    Released {
        /// Which.
        token: Token,
        /// Why.
        reason: Reason,
        /// Who, if it was an operator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Arc<str>>,
    },
    /// A holder's right is over; the grant stays in force until its client acknowledges, or until a tick at or
    /// after `until`.
    Revoking {
        /// Which.
        token: Token,
        /// Why.
        reason: Reason,
        /// Who, if it was an operator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Arc<str>>,
        /// One full lease later.
        until: Timestamp,
    },
    /// A grant that nobody can have seen is undone; the request waits again in its old place, passed over until
    /// its client attaches.
    Suspended {
        /// Whose.
        session: SessionId,
        /// Which.
        seq: Seq,
        /// The grant that is undone.
        token: Token,
    },
    /// A resource is given to nobody before `until`.
    Delayed {
        /// Which.
        resource: ResourceName,
        /// When it is free again.
        until: Timestamp,
    },
    /// Nothing is granted.
    Paused {
        /// Who.
        by: Arc<str>,
        /// Why.
        reason: String,
    },
    /// Grants go on.
    Resumed {
        /// Who.
        by: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The live state as of an earlier record has this hash.
    Checkpoint {
        /// The index of that record.
        of: u64,
        /// SHA-256 of the checkpoint's body.
        hash: Hash,
    },
    /// The log ends here.
    Closed {
        /// The log that goes on, if one is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<LogId>,
    },
}

/// How a log begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// [`FORMAT`].
    pub format: u32,
    /// Random.
    pub log_id: LogId,
    /// Which partition this is.
    pub partition: u32,
    /// Of how many.
    pub partitions: u32,
    /// This record's index; above all indexes of the logs in `after`.
    pub first_index: u64,
    /// The tips of the logs that this one goes on from; none as a rule.
    pub after: Vec<Tip>,
}

/// The last record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tip {
    /// The log.
    pub log_id: LogId,
    /// The record's index.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The rules in force: limits of the partition, and rules by resource pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Live sessions; one more is refused `sessions_max`.
    pub sessions_max: u32,
    /// Requests of a session that are unanswered, waiting or held; one more is refused `in_flight_max`.
    pub in_flight_max: u32,
    /// A longer lease is clamped to this.
    pub lease_ms_max: u64,
    /// The first rule whose pattern matches a resource is the resource's; without one, the defaults.
    pub rules: Vec<Rule>,
}

/// What holds for the resources that a pattern matches. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The resources meant; `*` stands for any characters, also none.
    pub pattern: Arc<str>,
    /// How many permits there are. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// A hold longer than this is revoked. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_max_ms: Option<u64>,
    /// So many may wait; one more is refused `waiters_max`. Default 100 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiters_max: Option<u32>,
    /// After a hold was lost (not given back) nobody is granted for so long. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<u64>,
    /// The principals that may acquire. Default: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Arc<str>>>,
}

/// Waiters of one resource unless a rule says otherwise.
pub const WAITERS_MAX_DEFAULT: u32 = 100_000;

impl Default for Policy {
    fn default() -> Self {
        Self { sessions_max: 10_000, in_flight_max: 64, lease_ms_max: 24 * 60 * 60 * 1000, rules: Vec::new() }
    }
}

fn is_zero(priority: &u8) -> bool {
    *priority == 0
}
