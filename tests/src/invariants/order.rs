//! Promise 5, order: a waiter is never passed by a later one of its own priority (or a lower one) whose claims would
//! not fit beside its own, unless it is suspended; and while a waiter can be granted the next record is `advance`.

use super::ledger::{Standing, Turn};
use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::Mode;
use std::cmp::Reverse;

const NAME: &str = "order";

/// Looks at a record before it is folded. `can_advance`: whether a waiter could be granted before it.
pub fn record(ledger: &Ledger, record: &Record, can_advance: bool) -> Checked {
    let index = record.index;
    if can_advance && !matches!(record.command, Command::Advance | Command::Activate) {
        return broken(NAME, format!("a waiter can be granted, and record {index} does something else"));
    }
    for event in &record.events {
        let Event::Granted { session, seq, claims, priority, .. } = event else { continue };
        let known = ledger.asked.get(&(*session, *seq));
        let waits = known.filter(|asked| matches!(asked.standing, Standing::Waiting | Standing::Suspended));
        let turn: Turn = (Reverse(*priority), waits.map_or(index, |asked| asked.place));
        for claim in claims {
            let Some(line) = ledger.lines.get(&claim.resource) else { continue };
            for (earlier, (mode, permits)) in line.waiting.range(..turn) {
                let both = u64::from(*permits) + u64::from(claim.permits.unwrap_or(1));
                let fits = match (claim.mode, mode) {
                    (Mode::Shared, Mode::Shared) => true,
                    (Mode::Permits, Mode::Permits) => both <= claim.capacity.into(),
                    _ => false,
                };
                if !fits {
                    let (name, place) = (&claim.resource, earlier.1);
                    return broken(NAME, format!("{index} is granted {name} past the waiter of {place}"));
                }
            }
        }
    }
    Ok(())
}
