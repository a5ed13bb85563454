//! Promise 2, fencing: tokens strictly rise and no two grants share one; the floor is the lowest token in force; and
//! the resource that compares them accepts no stale write, and refuses no holder's.

use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::{Mode, ResourceName, Token};
use std::collections::BTreeMap;

const NAME: &str = "fencing";

/// The history of the resources that clients write to.
#[derive(Debug, Default)]
pub struct Fencing {
    /// The highest token that has written, by mode.
    written: BTreeMap<ResourceName, [Token; 3]>,
}

/// A write as it arrives at its resource.
#[derive(Clone, Debug)]
pub struct Write {
    /// To what.
    pub resource: ResourceName,
    /// By which grant.
    pub token: Token,
    /// Held how.
    pub mode: Mode,
    /// What the resource said.
    pub accepted: bool,
}

impl Fencing {
    /// Looks at a record before it is folded.
    pub fn record(&self, ledger: &Ledger, record: &Record) -> Checked {
        let mut grants = 0;
        for event in &record.events {
            let Event::Granted { claims, .. } = event else { continue };
            grants += 1;
            if grants > 1 {
                return broken(NAME, format!("record {} grants twice: one token for two", record.index));
            }
            if !matches!(record.command, Command::Acquire(_) | Command::Advance) {
                return broken(NAME, format!("record {} grants inside another command", record.index));
            }
            for claim in claims {
                let holders = ledger.lines.get(&claim.resource).map(|line| &line.holders);
                let lowest = holders.and_then(|held| held.iter().map(|(token, ..)| *token).min());
                if claim.floor != lowest.unwrap_or(record.index) {
                    let (name, floor, index) = (&claim.resource, claim.floor, record.index);
                    return broken(NAME, format!("{index} has the floor {floor} on {name}, not {lowest:?}"));
                }
            }
        }
        Ok(())
    }

    /// A write has arrived.
    pub fn wrote(&mut self, ledger: &Ledger, write: &Write) -> Checked {
        let Write { resource, token, mode, accepted } = write;
        if !accepted {
            if ledger.is_in_force(*token) {
                return broken(NAME, format!("{resource} refuses {token}, which is in force"));
            }
            return Ok(());
        }
        let written = self.written.entry(resource.clone()).or_default();
        for (other, highest) in [Mode::Exclusive, Mode::Shared, Mode::Permits].into_iter().zip(*written) {
            let beside = *mode == other && other != Mode::Exclusive;
            if !beside && highest > *token {
                return broken(NAME, format!("{resource} accepts {token} after {highest}: a stale write"));
            }
        }
        let own = &mut written[*mode as usize];
        *own = (*own).max(*token);
        Ok(())
    }
}
