//! The promises of the design, as checks over what really happened: what clients asked and were told, what the fenced
//! resource accepted, and the log. One promise a file; each looks at every observation once and keeps what it needs.
//!
//! None of them knows how an arbiter decides. [`ledger`] folds the log's events for them to look up.

pub mod belief;
pub mod epochs;
pub mod evidence;
pub mod exclusion;
pub mod fencing;
pub mod ledger;
pub mod liveness;
pub mod no_early_expiry;
pub mod no_loss;
pub mod on_the_record_first;
pub mod once;
pub mod order;
#[cfg(test)]
mod tests;

pub use ledger::Ledger;

use arbiterq::log::chain::Sealed;
use arbiterq_client::wire::{Reply, Request};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that says so: the name of its file.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

/// What a check says.
pub type Checked = Result<(), Violation>;

pub(crate) fn broken(invariant: &'static str, what: String) -> Checked {
    Err(Violation { invariant, what })
}

/// All invariants of one run.
#[derive(Default)]
pub struct Watch {
    /// The log.
    pub ledger: Ledger,
    /// How many partitions there are; the run is number 0.
    pub partitions: u32,
    /// See the file of each.
    pub fencing: fencing::Fencing,
    /// See the file of each.
    pub once: once::Once,
    /// See the file of each.
    pub no_early_expiry: no_early_expiry::NoEarlyExpiry,
    /// See the file of each.
    pub no_loss: no_loss::NoLoss,
    /// See the file of each.
    pub epochs: epochs::Epochs,
    /// See the file of each.
    pub evidence: evidence::Evidence,
}

impl Watch {
    /// A client sends something.
    pub fn sent(&mut self, request: &Request) {
        self.once.sent(request);
        self.no_loss.sent(request);
    }

    /// A record counts. `can_advance`: whether a waiter could be granted before it.
    ///
    /// # Errors
    /// The promise it breaks.
    pub fn record(&mut self, sealed: &Sealed, can_advance: bool, now: u64) -> Checked {
        let (ledger, record) = (&self.ledger, &sealed.record);
        exclusion::record(ledger, record, self.partitions)?;
        self.fencing.record(ledger, record)?;
        self.once.record(ledger, record)?;
        self.no_early_expiry.record(ledger, record, now)?;
        self.no_loss.record(ledger, record)?;
        self.epochs.record(ledger, record)?;
        order::record(ledger, record, can_advance)?;
        self.evidence.record(sealed)?;
        self.ledger.fold(sealed);
        Ok(())
    }

    /// A reply leaves an arbiter; `to` where it goes to its session.
    ///
    /// # Errors
    /// The promise it breaks.
    pub fn told(&mut self, reply: &Reply, to: Option<&str>) -> Checked {
        if let Some(to) = to {
            on_the_record_first::addressed(&self.ledger, reply, to)?;
        }
        on_the_record_first::told(&self.ledger, reply)?;
        self.once.told(&self.ledger, reply)
    }
}
