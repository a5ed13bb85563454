//! Promise 4, once: a request delivered any number of times has one effect and one answer. The same of attaches and
//! keep-alives, whose numbers must rise, and of `open`, whose key opens one session.

use super::ledger::{How, RequestMap, Standing};
use super::{Checked, Ledger, broken};
use arbiterq::log::record::{Event, Record};
use arbiterq_client::wire::{Reason, Reply, ReplyBody, Request, RequestBody, Seq, SessionId};

const NAME: &str = "once";

/// What clients have asked.
#[derive(Debug, Default)]
pub struct Once {
    sent: RequestMap<()>,
}

impl Once {
    /// A client sends something.
    pub fn sent(&mut self, request: &Request) {
        let Some(auth) = &request.auth else { return };
        match &request.body {
            RequestBody::Acquire(acquire) => drop(self.sent.insert((auth.session, acquire.seq), ())),
            RequestBody::Cancel(cancel) => drop(self.sent.insert((auth.session, cancel.seq), ())),
            _ => {}
        }
    }

    /// Looks at a record before it is folded.
    pub fn record(&self, ledger: &Ledger, record: &Record) -> Checked {
        let index = record.index;
        for (session, n) in &record.renewed {
            if let Some(known) = ledger.live(*session)
                && *n <= known.n
            {
                let counts = known.n;
                return broken(
                    NAME,
                    format!("record {index} renews session {session} by {n} after {counts}"),
                );
            }
        }
        for event in &record.events {
            match event {
                Event::Opened { key_hash, .. } if ledger.keys.contains_key(key_hash) => {
                    return broken(NAME, format!("record {index} opens a second session with the same key"));
                }
                Event::Attached { session, n, .. }
                    if ledger.live(*session).is_none_or(|known| *n <= known.attached) =>
                {
                    return broken(NAME, format!("record {index} attaches session {session} by an old {n}"));
                }
                Event::Queued { session, seq, .. } | Event::Refused { session, seq, .. } => {
                    self.admitted(ledger, *session, *seq, index)?;
                }
                Event::Granted { session, seq, .. } | Event::Ended { session, seq, .. } => {
                    match ledger.asked.get(&(*session, *seq)).map(|asked| asked.standing) {
                        Some(Standing::Waiting | Standing::Suspended) => {}
                        _ => self.admitted(ledger, *session, *seq, index)?,
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn admitted(&self, ledger: &Ledger, session: SessionId, seq: Seq, index: u64) -> Checked {
        if let Some(asked) = ledger.asked.get(&(session, seq)) {
            let standing = asked.standing;
            return broken(NAME, format!("{index} decides request {seq} of {session} again: {standing:?}"));
        }
        if ledger.live(session).is_none() {
            return broken(
                NAME,
                format!("{index} decides request {seq} of session {session}, which is over"),
            );
        }
        if !self.sent.contains_key(&(session, seq)) {
            return broken(NAME, format!("{index} decides request {seq} of {session}, which no client sent"));
        }
        Ok(())
    }

    /// Looks at a reply: the same answer as the record's, to a repeat as to the first.
    pub fn told(&self, ledger: &Ledger, reply: &Reply) -> Checked {
        let Some(session) = reply.session else { return Ok(()) };
        let Some(known) = ledger.live(session) else { return Ok(()) };
        let outcome = |seq: Seq| ledger.asked.get(&(session, seq)).map(|asked| asked.standing);
        let (seq, reason, outcome, same) = match &reply.body {
            ReplyBody::Ended(ended) => {
                let (seq, reason, outcome) = (ended.seq, ended.reason, outcome(ended.seq));
                let forgotten = seq + known.window <= known.highest && reason == Reason::Ended;
                let same = matches!(outcome,
                    Some(Standing::Over(_, How::Ended(of) | How::Released(_, of))) if of == reason);
                (seq, reason, outcome, same || forgotten)
            }
            ReplyBody::Refused(refused) => {
                let Some(seq) = refused.seq else { return Ok(()) };
                let (reason, outcome) = (refused.reason, outcome(seq));
                let same = matches!(outcome, Some(Standing::Over(_, How::Refused(of))) if of == reason);
                (seq, reason, outcome, same)
            }
            ReplyBody::Released(released) => {
                let Some(grant) = ledger.grants.get(&released.token) else { return Ok(()) };
                let (reason, outcome) = (released.reason, outcome(grant.seq));
                let of = (released.token, reason);
                let same = grant.session == session
                    && matches!(outcome, Some(Standing::Over(_, How::Released(token, why))) if (token, why) == of);
                (grant.seq, reason, outcome, same)
            }
            _ => return Ok(()),
        };
        if same {
            return Ok(());
        }
        let kind = reply.body.kind();
        broken(
            NAME,
            format!("request {seq} of {session} is answered {kind} {reason}; on record: {outcome:?}"),
        )
    }
}
