//! The client's own belief: whoever believes that it holds, by the lease rule, is the holder in the log at that
//! moment. Belief is read off the client library's own core, at the client's own clock.

use super::{Checked, Ledger, broken};
use arbiterq_client::wire::{LogId, Reason, Token};
use std::collections::BTreeSet;

const NAME: &str = "belief";

/// A client believes in a grant, from now on or still.
pub fn believes(ledger: &Ledger, client: usize, token: Token) -> Checked {
    let excused = ledger.grants.get(&token).is_some_and(|grant| grant.excused);
    match ledger.is_in_force(token) || excused {
        true => Ok(()),
        false => {
            broken(NAME, format!("client {client} believes that it holds {token}, which is not in force"))
        }
    }
}

/// A grant has ended in the log. `believed`: by its client, at this moment.
pub fn ended(client: usize, token: Token, index: u64, believed: bool) -> Checked {
    match believed {
        false => Ok(()),
        true => broken(
            NAME,
            format!("record {index} ends grant {token} while client {client} believes that it holds"),
        ),
    }
}

/// A client gives up what it held because the log is said to have ended it: it has.
pub fn lost(ledger: &Ledger, client: usize, token: Token, reason: Reason) -> Checked {
    // Its own lease ran out at the client first, as it should.
    let by_itself = matches!(reason, Reason::LeaseExpired | Reason::Closed);
    let over =
        ledger.grants.get(&token).is_none_or(|grant| grant.ended.is_some() || grant.revoking.is_some());
    match by_itself || over {
        true => Ok(()),
        false => {
            broken(NAME, format!("client {client} takes {token} for lost ({reason}), which is in force"))
        }
    }
}

/// A client believes in a grant: not in one whose loss it was told of, whether or not it knew of the grant then.
///
/// That is more than the promise: what is revoked passes on a lease later, and every `alive` names it until then. So
/// nobody else holds what is believed in spite of its loss, but its client was told to stop and does not.
pub fn in_spite_of_loss(lost: &BTreeSet<Token>, client: usize, token: Token) -> Checked {
    match lost.contains(&token) {
        false => Ok(()),
        true => {
            broken(NAME, format!("client {client} believes that it holds {token}, after its loss was told"))
        }
    }
}

/// A client opened a session of a log.
pub fn same_log(known: LogId, told: LogId) -> Checked {
    match known == told {
        true => Ok(()),
        false => broken(NAME, format!("a client was told of log {told:?}")),
    }
}
