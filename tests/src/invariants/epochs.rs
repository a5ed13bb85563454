//! What fencing between arbiters stands on: an epoch belongs to one activation; an arbiter becomes active only by the
//! proof of its own epoch; it leaves only with a cause; and another's epoch ends an activation that is under way.

use super::ledger::IdMap;
use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Event, Record};
use arbiterq::partition::StepDown;

const NAME: &str = "epochs";

/// Which activation each epoch belongs to.
#[derive(Debug, Default)]
pub struct Epochs {
    active: IdMap<u64>,
    /// The index of the last epoch's record.
    last_started: u64,
}

impl Epochs {
    /// Looks at a record before it is folded.
    pub fn record(&mut self, ledger: &Ledger, record: &Record) -> Checked {
        for event in &record.events {
            let Event::EpochStarted { epoch, .. } = event else { continue };
            if *epoch != ledger.epoch + 1 {
                return broken(NAME, format!("epoch {epoch} after {}", ledger.epoch));
            }
            self.last_started = record.index;
        }
        let started = record.events.iter().any(|event| matches!(event, Event::EpochStarted { .. }));
        if record.index > 0 && !started && record.epoch != ledger.epoch {
            let (index, epoch, now) = (record.index, record.epoch, ledger.epoch);
            return broken(NAME, format!("record {index} is of epoch {epoch}, and {now} has begun"));
        }
        if record.at < ledger.at {
            return broken(NAME, format!("time falls at record {}", record.index));
        }
        Ok(())
    }

    /// An activation has become active.
    pub fn active(&mut self, activation: u64, epoch: u64) -> Checked {
        let first = *self.active.entry(epoch).or_insert(activation);
        match first == activation {
            true => Ok(()),
            false => {
                broken(NAME, format!("activations {first} and {activation} are both active in epoch {epoch}"))
            }
        }
    }

    /// An arbiter steps down. `began`: how many records counted when its activation began; `own`: the epoch in
    /// which it was active.
    pub fn stepped_down(&self, ledger: &Ledger, why: StepDown, began: u64, own: Option<u64>) -> Checked {
        let superseded = match own {
            // Something of another epoch counts.
            Some(own) => ledger.epoch > own,
            None => self.last_started >= began,
        };
        match why {
            StepDown::Superseded if !superseded => {
                broken(NAME, "an arbiter steps down, and no other epoch has begun".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// An arbiter that is activating has read so many records.
    pub fn still_activating(&self, began: u64, read: u64) -> Checked {
        let last = self.last_started;
        match last >= began && last < read {
            false => Ok(()),
            true => {
                broken(NAME, format!("an arbiter goes on activating past another's epoch at record {last}"))
            }
        }
    }
}
