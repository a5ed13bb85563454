//! Receipts: hashes of records that clients were given, held against the log.
//!
//! The only thing that shows a rewritten or cut end of a log that was never signed: everything else in a folder
//! can be written anew by whoever may write there.

use super::promise::{Broken, broken};
use crate::log::record::{Event, Record};
use arbiterq_client::Receipt;
use arbiterq_client::wire::Hash;

/// Those of one log.
#[derive(Clone, Default)]
pub(super) struct Receipts {
    /// By index, the highest first.
    left: Vec<Receipt>,
    /// How many the log has borne out.
    pub(super) confirmed: u64,
}

impl Receipts {
    pub(super) fn new(receipts: &[Receipt]) -> Self {
        let mut left = receipts.to_vec();
        left.sort_by_key(|receipt| std::cmp::Reverse(receipt.index));
        Self { left, confirmed: 0 }
    }

    /// Holds the next record of the chain against them.
    pub(super) fn record(&mut self, record: &Record, hash: Hash) -> Result<(), Broken> {
        if let Some(Event::Genesis(genesis)) = record.events.first() {
            // What is of another partition is for another log.
            self.left.retain(|receipt| receipt.partition == genesis.partition);
            if let Some(other) = self.left.iter().find(|receipt| receipt.log_id != genesis.log_id) {
                return broken!(
                    Evidence,
                    "this is log {}; a receipt is of log {}",
                    genesis.log_id,
                    other.log_id
                );
            }
        }
        while let Some(receipt) = self.left.pop_if(|receipt| receipt.index <= record.index) {
            if (receipt.index, receipt.hash) != (record.index, hash) {
                return broken!(
                    Evidence,
                    "its hash is {hash}; a receipt of record {} says {}",
                    receipt.index,
                    receipt.hash
                );
            }
            self.confirmed += 1;
        }
        Ok(())
    }

    /// After the last record of the log.
    pub(super) fn end(&self) -> Result<(), Broken> {
        match self.left.last() {
            Some(receipt) => {
                broken!(Evidence, "the log ends, and a receipt is of record {}: it was cut", receipt.index)
            }
            None => Ok(()),
        }
    }
}
