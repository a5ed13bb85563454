//! Promise 6, no early expiry: a session does not expire while a keep-alive of it, enqueued before the deciding
//! moment, is younger than its lease (or the `fail_fast` it asked for).

use super::ledger::IdMap;
use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::{Reason, SessionId};
use std::collections::VecDeque;

const NAME: &str = "no_early_expiry";
/// Keep-alives of a session that are remembered; older ones are past every lease.
const REMEMBERED: usize = 64;
/// Clocks of arbiters run at nearly the same rate, and messages take a moment.
const SLACK_PERCENT: u64 = 2;

/// What was enqueued.
#[derive(Debug, Default)]
pub struct NoEarlyExpiry {
    /// True time and number of each first copy whose number rose.
    enqueued: IdMap<VecDeque<(u64, u64)>>,
    /// In this run arbiters are well, and what was asked waits in line for long: a tick that waited longer than
    /// this has overtaken what waited beside it, and may not be acted on.
    pub late_max: Option<u64>,
}

impl NoEarlyExpiry {
    /// A keep-alive has got into the request queue.
    pub fn enqueued(&mut self, session: SessionId, n: u64, now: u64) {
        let known = self.enqueued.entry(session).or_default();
        if known.back().is_none_or(|(_, highest)| n > *highest) {
            known.push_back((now, n));
            if known.len() > REMEMBERED {
                known.pop_front();
            }
        }
    }

    /// Looks at a record before it is folded.
    pub fn record(&self, ledger: &Ledger, record: &Record, now: u64) -> Checked {
        for event in &record.events {
            let Event::SessionEnded { session, reason } = event else { continue };
            let Some(known) = ledger.sessions.get(session) else { continue };
            let length_ms = match reason {
                Reason::LeaseExpired => known.lease_ms,
                Reason::FailFast => match known.fail_fast_ms {
                    Some(ms) => ms,
                    None => {
                        return broken(NAME, format!("session {session} fails fast and never asked for it"));
                    }
                },
                _ => continue,
            };
            let Command::Tick { at } = &record.command else {
                return broken(NAME, format!("session {session} expires without a tick"));
            };
            let late = now.saturating_sub(ledger.clock.true_time(*at));
            if self.late_max.is_some_and(|max| late > max) {
                return broken(NAME, format!("session {session} expires by a tick that is {late} us late"));
            }
            let deciding = ledger.clock.true_time(*at).min(now);
            let before = self
                .enqueued
                .get(session)
                .and_then(|all| all.iter().rev().find(|(enqueued, _)| *enqueued < deciding).copied());
            let length = length_ms * 10 * (100 - SLACK_PERCENT);
            if let Some((enqueued, n)) = before
                && deciding - enqueued < length
            {
                let age = (deciding - enqueued) / 1000;
                let index = record.index;
                let what = format!(
                    "record {index} ends session {session}; its keep-alive {n} was {age} ms old, of {length_ms}"
                );
                return broken(NAME, what);
            }
        }
        Ok(())
    }
}
