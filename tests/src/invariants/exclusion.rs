//! Promise 1, exclusion: in the grant log no two grants in force conflict on a resource; and a resource is granted in
//! the one partition that it belongs to.

use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Event, Record};
use arbiterq_client::wire::{ClaimGranted, Mode, partition_of};

const NAME: &str = "exclusion";

/// Looks at a record before it is folded.
pub fn record(ledger: &Ledger, record: &Record, partitions: u32) -> Checked {
    for event in &record.events {
        let Event::Granted { claims, .. } = event else { continue };
        for claim in claims {
            if partitions > 1 && partition_of(&claim.resource, partitions) != 0 {
                let what = format!("{} is granted by a partition that it is not in", claim.resource);
                return broken(NAME, what);
            }
            beside_holders(ledger, record, claim)?;
        }
    }
    Ok(())
}

fn beside_holders(ledger: &Ledger, record: &Record, claim: &ClaimGranted) -> Checked {
    let Some(line) = ledger.lines.get(&claim.resource) else { return Ok(()) };
    // What the same record ends before it grants does not stand in the way.
    let freed = |token: u64| {
        record
            .events
            .iter()
            .any(|event| matches!(event, Event::Released { token: over, .. } if *over == token))
    };
    let mut taken = u64::from(claim.permits.unwrap_or(1));
    for (token, mode, permits) in &line.holders {
        if freed(*token) {
            continue;
        }
        taken += u64::from(*permits);
        let beside = match (claim.mode, mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permits, Mode::Permits) => taken <= claim.capacity.into(),
            _ => false,
        };
        if !beside {
            let (index, name) = (record.index, &claim.resource);
            return broken(NAME, format!("{index} is granted {name} beside {token}, which is in force"));
        }
    }
    Ok(())
}
