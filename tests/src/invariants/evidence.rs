//! Promise 8, evidence: every reader of the log sees the same chain, both verifiers of the binary accept it, and every
//! receipt that a client was given is in it. And what keeps the chain going: no record is larger than one may be.
//!
//! Both read lines, as from a disk. The replay reads every log. The verifier, at a third of all else that a run
//! computes, reads every second, and every one in which it should find something. Where a wrong rule is planted in
//! what decides, the replay would say so of the first record that shows it; it is left out there, so that the promises
//! have to.

use super::{Checked, Ledger, broken};
use arbiterq::audit::replay::{Replay, ReplayError};
use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::record::{Command, DUE_MAX, Event, RECORD_BYTES_MAX};
use arbiterq_client::wire::{Hash, Token};

const NAME: &str = "evidence";

/// The verifiers, as far as they have read, if they read at all.
#[derive(Default)]
pub struct Evidence {
    /// `audit verify`, reads along.
    pub verifier: Option<Verifier>,
    /// `audit replay`, reads along.
    pub replay: Option<Replay>,
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
        if let Some(verifier) = &mut self.verifier
            && let Err(violation) = verifier.line(&sealed.line)
        {
            let (index, promise, what) = (violation.index, violation.promise, violation.what);
            return broken(NAME, format!("the verifier at record {index}, {promise}: {what}"));
        }
        match &mut self.replay {
            Some(replay) => replayed(replay, &sealed.line),
            None => Ok(()),
        }
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
        let tip = ledger.records.last().map_or(Hash::default(), |(hash, _)| *hash);
        if let Some(replay) = &self.replay
            && replay.finish().tip_hash != tip
        {
            return broken(NAME, format!("the replay ends at another log: {:?}", replay.finish()));
        }
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let report = verifier.finish();
        let live = (report.live.held as usize, report.live.waiting as usize);
        match report.tip_hash == tip && live == (ledger.in_force, ledger.waiting) {
            true => Ok(()),
            false => broken(NAME, format!("the verifier ends at another log: {report:?}")),
        }
    }
}

/// Decides a record again, from its line alone.
fn replayed(replay: &mut Replay, line: &[u8]) -> Checked {
    let sealed = match Sealed::read(line) {
        Ok(sealed) if replay.is_next(&sealed) => sealed,
        Ok(sealed) => {
            return broken(NAME, format!("record {} is not the replay's next", sealed.record.index));
        }
        Err(unreadable) => return broken(NAME, format!("the replay: {unreadable}")),
    };
    match replay.record(&sealed) {
        Ok(()) => Ok(()),
        Err(ReplayError::Differs(differs)) => broken(
            NAME,
            format!("the replay: {differs}; decided {}, found {}", differs.decided, differs.found),
        ),
        Err(other) => broken(NAME, format!("the replay: {other}")),
    }
}
