//! What a log can break, by name.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// A promise that a log keeps or breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// No two grants in force conflict on a resource.
    Exclusion,
    /// Tokens rise, no two grants share one, floors are the lowest token in force.
    Fencing,
    /// What is known durable is in the log: its end is not cut below the durable mark.
    OnTheRecord,
    /// A request number, or a session's key, has one effect.
    Once,
    /// Nobody is passed by a later one that leaves it no room; a waiter that can be granted is granted next.
    Order,
    /// A session is not ended for its silence before its lease, or the fail-fast time it asked for, is over.
    NoEarlyExpiry,
    /// An admitted request ends only by a grant, its client, its own limit, the policy or its session's end.
    NoLoss,
    /// No record is changed, dropped, inserted or reordered; checkpoints are what their records say.
    Evidence,
    /// Activations are numbered by one, and every record belongs to the last.
    Epochs,
    /// The time of the log never falls, and nothing is judged by a later moment than its own.
    Time,
    /// What is over stays over: no event names a session, a request or a grant that is not live.
    Forward,
    /// While paused nothing is granted, nor a resource before its lock-delay is over; a lost hold begins one.
    Withheld,
    /// A revoked grant stays in force until its client gives it back, or for one full lease.
    Revocation,
    /// Only a grant of this epoch is undone, and only for a reply that came back from the address in force.
    Suspension,
    /// Every resource belongs to the log's partition.
    Placement,
    /// A record's events are those of its command.
    Decision,
    /// The log's format and its decision rules are ones that this verifier knows. Nothing is said of a log of others.
    Understood,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Exclusion => "exclusion",
            Promise::Fencing => "fencing",
            Promise::OnTheRecord => "on the record first",
            Promise::Once => "once",
            Promise::Order => "order",
            Promise::NoEarlyExpiry => "no early expiry",
            Promise::NoLoss => "no loss",
            Promise::Evidence => "evidence",
            Promise::Epochs => "epochs",
            Promise::Time => "time",
            Promise::Forward => "forward only",
            Promise::Withheld => "withheld while paused or delayed",
            Promise::Revocation => "revocation in two phases",
            Promise::Suspension => "suspension",
            Promise::Placement => "placement",
            Promise::Decision => "decision",
            Promise::Understood => "understood",
        })
    }
}

/// The first thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Violation {
    /// The index of the first record that is wrong; of a line that is no record, the index that it should have.
    pub index: u64,
    /// The file, if it is a folder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The line in that file, or of all lines read, from 1; 0 if it is about no line.
    pub line: u64,
    /// What is broken.
    pub promise: Promise,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.index)?;
        match (&self.file, self.line) {
            (Some(file), 0) => write!(f, " ({})", file.display())?,
            (Some(file), line) => write!(f, " ({}, line {line})", file.display())?,
            (None, _) => {}
        }
        write!(f, " breaks the promise \"{}\": {}", self.promise, self.what)
    }
}

/// A promise broken by the record that is being checked.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) promise: Promise,
    pub(super) what: String,
}

/// `Err(Broken)` with a promise and a formatted text.
macro_rules! broken {
    ($promise:ident, $($text:tt)*) => {
        Err($crate::audit::verify::promise::Broken {
            promise: $crate::audit::verify::promise::Promise::$promise,
            what: format!($($text)*),
        })
    };
}
pub(super) use broken;
