//! Liveness: once faults have stopped, every request is decided, every waiter is granted as holders release, the queue
//! runs empty, and what the dead have left is gone after a lease.

use super::{Checked, Ledger, broken};

const NAME: &str = "liveness";

/// What is left when everybody has been well for long enough.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Requests whose client has heard nothing final.
    pub undecided: Vec<String>,
    /// Requests that were granted, given back or withdrawn, and whose client has not heard that they are over.
    pub unsettled: Vec<String>,
    /// Messages in the request queue, those included that a consumer keeps.
    pub queued: usize,
    /// No arbiter is active.
    pub leaderless: bool,
}

/// Everybody was well, and every request has had the time to be decided.
pub fn healed(left: &Left) -> Checked {
    if left.leaderless {
        return broken(NAME, "no arbiter is active though all are well".to_owned());
    }
    if let Some(first) = left.undecided.first() {
        return broken(NAME, format!("{} requests are undecided; the first: {first}", left.undecided.len()));
    }
    if let Some(first) = left.unsettled.first() {
        return broken(NAME, format!("{} requests are not over; the first: {first}", left.unsettled.len()));
    }
    match left.queued {
        0 => Ok(()),
        queued => broken(NAME, format!("{queued} messages are left in the request queue")),
    }
}

/// All clients have been dead for longer than any lease.
pub fn buried(ledger: &Ledger) -> Checked {
    match ledger.live_sessions.first_key_value() {
        None => Ok(()),
        Some((session, ())) => {
            broken(NAME, format!("session {session} lives though its client has been dead for leases"))
        }
    }
}
