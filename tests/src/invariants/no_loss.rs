//! Promise 7, no loss: an admitted request is answered, cancelled by its client, suspended while its reply queue is
//! gone, or ended by its session's end. A request that was acknowledged to the queue is on the record.

use super::ledger::{IdMap, RequestMap, Standing};
use super::{Checked, Ledger, broken};
use arbiterq::log::chain::hash_of;
use arbiterq::log::record::{Event, Record};
use arbiterq_client::wire::{Reason, Request, RequestBody};
use std::collections::BTreeSet;
use std::sync::Arc;

const NAME: &str = "no_loss";

/// What clients have given back and withdrawn.
#[derive(Debug, Default)]
pub struct NoLoss {
    released: IdMap<()>,
    cancelled: RequestMap<()>,
    closed: IdMap<()>,
    /// Addresses whose connection has ended, and with it the process behind.
    ended: BTreeSet<Arc<str>>,
}

impl NoLoss {
    /// A client sends something.
    pub fn sent(&mut self, request: &Request) {
        match (&request.auth, &request.body) {
            (_, RequestBody::Release(release)) => drop(self.released.insert(release.token, ())),
            (Some(auth), RequestBody::Cancel(cancel)) => {
                self.cancelled.insert((auth.session, cancel.seq), ());
            }
            (Some(auth), RequestBody::Close(_)) => drop(self.closed.insert(auth.session, ())),
            _ => {}
        }
    }

    /// A connection has ended whose end is its process's.
    pub fn connection_ended(&mut self, address: &Arc<str>) {
        self.ended.insert(address.clone());
    }

    /// Looks at a record before it is folded.
    pub fn record(&self, ledger: &Ledger, record: &Record) -> Checked {
        let index = record.index;
        for event in &record.events {
            match event {
                Event::SessionEnded { session, reason } => {
                    let address = ledger.live(*session).and_then(|live| live.addresses.last());
                    let wanted = match reason {
                        Reason::Closed => self.closed.contains_key(session),
                        Reason::ConnectionClosed => {
                            let address = address.and_then(|(_, address)| address.as_ref());
                            address.is_some_and(|address| self.ended.contains(address))
                        }
                        // Whether it was time is for "no early expiry".
                        Reason::LeaseExpired | Reason::FailFast => true,
                        _ => false,
                    };
                    if !wanted {
                        return broken(
                            NAME,
                            format!("{index} ends session {session} without a cause: {reason}"),
                        );
                    }
                }
                Event::Ended { session, seq, reason } => {
                    let asked = ledger.asked.get(&(*session, *seq));
                    let wanted = match reason {
                        Reason::Cancelled => self.cancelled.contains_key(&(*session, *seq)),
                        Reason::WaitLimit => asked.is_some_and(|asked| asked.limited),
                        _ => false,
                    };
                    if !wanted {
                        return broken(NAME, format!("{index} ends request {seq} of {session}: {reason}"));
                    }
                }
                Event::Released { token, reason, .. } => {
                    let Some(grant) = ledger.grants.get(token) else { continue };
                    let asked = self.released.contains_key(token)
                        || self.cancelled.contains_key(&(grant.session, grant.seq));
                    if !asked && grant.revoking.is_none() && *reason != Reason::Forced {
                        return broken(NAME, format!("{index} ends grant {token} unasked: {reason}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The queue is told that a message is done with.
    pub fn acknowledged(&self, ledger: &Ledger, request: &Request) -> Checked {
        if let RequestBody::Open(open) = &request.body {
            let key_hash = hash_of(open.key.secret_bytes());
            return match ledger.ever_opened.contains(&key_hash) {
                true => Ok(()),
                false => broken(NAME, format!("an open ({}) is acknowledged without its record", open.label)),
            };
        }
        let Some(auth) = &request.auth else { return Ok(()) };
        let Some(session) = ledger.live(auth.session) else { return Ok(()) };
        let known = match &request.body {
            RequestBody::Acquire(acquire) => {
                let forgotten = acquire.seq + session.window <= session.highest;
                forgotten || ledger.asked.contains_key(&(auth.session, acquire.seq))
            }
            RequestBody::Cancel(cancel) => {
                let asked = ledger.asked.get(&(auth.session, cancel.seq));
                let forgotten = cancel.seq + session.window <= session.highest;
                forgotten || asked.is_some_and(|asked| matches!(asked.standing, Standing::Over(..)))
            }
            RequestBody::Release(release) => {
                let grant = ledger.grants.get(&release.token);
                grant.is_none_or(|grant| grant.session != auth.session || grant.ended.is_some())
            }
            RequestBody::Attach(attach) => session.attached >= attach.n,
            RequestBody::KeepAlive(keep_alive) => session.n >= keep_alive.n,
            _ => true,
        };
        match known {
            true => Ok(()),
            false => broken(NAME, format!("acknowledged and not on the record: {:?}", request.body)),
        }
    }
}
