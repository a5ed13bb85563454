//! Promise 8, evidence: every reader of the log sees the same chain, the verifier of the binary accepts it, and every
//! receipt that a client was given is in it. The verifier costs as much as a partition, so it may be left out of a run. And what keeps the chain going: no record is larger than one may be.

use super::{Checked, Ledger, Violation, broken};
use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::record::{Command, DUE_MAX, Event, RECORD_BYTES_MAX};
use arbiterq_client::wire::{Hash, Token};

const NAME: &str = "evidence";

/// The verifier, as far as it has read, if it reads at all.
#[derive(Default)]
pub struct Evidence {
    /// Reads along.
    pub verifier: Option<Verifier>,
    receipts: Vec<(Token, Hash)>,
}

impl Evidence {
    /// Takes a record that counts.
    pub fn record(&mut self, sealed: &Sealed) -> Checked {
        let bytes = sealed.line.len();
        if bytes > RECORD_BYTES_MAX {
            return broken(NAME, format!("record {} has {bytes} bytes", sealed.record.index));
        }
        let delays = |event: &&Event| !matches!(event, Event::Delayed { .. });
        let due = sealed.record.events.iter().filter(delays).count();
        if matches!(sealed.record.command, Command::Tick { .. }) && due > DUE_MAX {
            return broken(
                NAME,
                format!("the tick of record {} ends {due} things at once", sealed.record.index),
            );
        }
        let Some(verifier) = &mut self.verifier else { return Ok(()) };
        verifier.line(&sealed.line).map_err(|violation| {
            let (index, promise, what) = (violation.index, violation.promise, violation.what);
            Violation { invariant: NAME, what: format!("the verifier at record {index}, {promise}: {what}") }
        })
    }

    /// A client was given a receipt.
    pub fn receipt(&mut self, token: Token, hash: Hash) {
        self.receipts.push((token, hash));
    }

    /// A reader has folded this much.
    pub fn read(&self, ledger: &Ledger, reader: usize, known: ChainTip) -> Checked {
        let last = known.next_index.checked_sub(1).and_then(|last| ledger.records.get(last as usize));
        match last {
            Some((hash, _)) if *hash == known.hash => Ok(()),
            _ => broken(
                NAME,
                format!("arbiter {reader} is at another record {} than the chain", known.next_index),
            ),
        }
    }

    /// A reader has read all that there is.
    pub fn read_all(&self, ledger: &Ledger, reader: usize, known: ChainTip) -> Checked {
        let (at, end) = (known.next_index, ledger.next_index());
        match at == end {
            true => Ok(()),
            false => {
                broken(NAME, format!("arbiter {reader} has read everything and is at {at}, not at {end}"))
            }
        }
    }

    /// The end of the run.
    pub fn finish(&self, ledger: &Ledger) -> Checked {
        for (token, hash) in &self.receipts {
            if ledger.records.get(*token as usize).is_none_or(|(counts, _)| counts != hash) {
                return broken(NAME, format!("the receipt of {token} is not in the log"));
            }
        }
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let report = verifier.finish();
        let tip = ledger.records.last().map_or(Hash::default(), |(hash, _)| *hash);
        let live = (report.live.held as usize, report.live.waiting as usize);
        match report.tip_hash == tip && live == (ledger.in_force, ledger.waiting) {
            true => Ok(()),
            false => broken(NAME, format!("the verifier ends at another log: {report:?}")),
        }
    }
}
