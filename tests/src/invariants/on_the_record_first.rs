//! Promise 3, on the record first: nothing is told to a client before the record that justifies it counts.

use super::ledger::{How, Standing};
use super::{Checked, Ledger, broken};
use arbiterq_client::wire::{Alive, Reply, ReplyBody, SessionId};

const NAME: &str = "on_the_record_first";

/// Looks at where a session's reply goes: to the address in force at its record.
pub fn addressed(ledger: &Ledger, reply: &Reply, to: &str) -> Checked {
    let Some(session) = reply.session.and_then(|session| ledger.sessions.get(&session)) else {
        return Ok(());
    };
    let in_force = session.addresses.iter().rev().find(|(since, _)| *since <= reply.index);
    match in_force {
        Some((_, Some(address))) if **address != *to => broken(
            NAME,
            format!("as of record {} replies go to {address}, and one goes to {to}", reply.index),
        ),
        _ => Ok(()),
    }
}

/// Looks at a reply as it leaves its arbiter.
pub fn told(ledger: &Ledger, reply: &Reply) -> Checked {
    let index = reply.index;
    let Some((_, epoch)) = ledger.records.get(index as usize) else {
        return broken(NAME, format!("told as of record {index}, which does not count: {:?}", reply.body));
    };
    if *epoch != reply.epoch {
        let told = reply.epoch;
        return broken(NAME, format!("told as of {index} of epoch {told}; what counts there is {epoch}'s"));
    }
    let session = reply.session.unwrap_or(u64::MAX);
    let known = match &reply.body {
        ReplyBody::Opened(opened) => opened.session <= index && ledger.sessions.contains_key(&opened.session),
        ReplyBody::Queued(queued) => {
            ledger.asked.get(&(session, queued.seq)).is_some_and(|asked| asked.place <= index)
        }
        ReplyBody::Granted(granted) => ledger.grants.get(&granted.token).is_some_and(|grant| {
            let same = (grant.session, grant.seq) == (session, granted.seq) && grant.hash == granted.hash;
            same && granted.token <= index && grant.ended.is_none_or(|ended| ended > index)
        }),
        ReplyBody::Released(released) => ended_by(ledger, released.token, index),
        ReplyBody::Lost(lost) => {
            let revoking = ledger.grants.get(&lost.token).and_then(|grant| grant.revoking);
            revoking.is_some_and(|since| since <= index) || ended_by(ledger, lost.token, index)
        }
        ReplyBody::Ended(ended) => is_over(ledger, session, ended.seq, index),
        ReplyBody::Refused(refused) => {
            refused.seq.is_none_or(|seq| {
                match ledger.asked.get(&(session, seq)).map(|asked| asked.standing) {
                    Some(Standing::Over(since, How::Refused(_))) => since <= index,
                    // The session has ended since.
                    Some(Standing::Over(_, How::WithSession)) => true,
                    _ => false,
                }
            })
        }
        ReplyBody::Alive(alive) => return told_alive(ledger, session, index, alive),
        ReplyBody::SessionEnded(_) => ledger
            .sessions
            .get(&session)
            .is_none_or(|session| session.ended.is_some_and(|ended| ended <= index)),
        ReplyBody::Status(_) | ReplyBody::Done(_) => true,
    };
    match known {
        true => Ok(()),
        false => {
            broken(NAME, format!("session {session} is told what is not on record {index}: {:?}", reply.body))
        }
    }
}

fn ended_by(ledger: &Ledger, token: u64, index: u64) -> bool {
    ledger.grants.get(&token).and_then(|grant| grant.ended).is_some_and(|ended| ended <= index)
}

fn is_over(ledger: &Ledger, session: SessionId, seq: u64, index: u64) -> bool {
    match ledger.asked.get(&(session, seq)).map(|asked| asked.standing) {
        Some(Standing::Over(since, _)) => since <= index,
        Some(_) => false,
        // Never decided; whether it may be forgotten is for "once".
        None => true,
    }
}

fn told_alive(ledger: &Ledger, id: SessionId, index: u64, alive: &Alive) -> Checked {
    let Some(session) = ledger.sessions.get(&id) else {
        return broken(NAME, format!("alive of session {id}, which was never opened"));
    };
    if alive.n > session.n {
        let (told, counts) = (alive.n, session.n);
        return broken(
            NAME,
            format!("keep-alive {told} of session {id} is confirmed; on record is {counts}"),
        );
    }
    names_all(ledger, id, index, alive)?;
    for (seq, token) in &alive.held {
        let held = ledger.grants.get(token).is_some_and(|grant| {
            (grant.session, grant.seq) == (id, *seq)
                && *token <= index
                && grant.ended.is_none_or(|ended| ended > index)
        });
        if !held {
            return broken(
                NAME,
                format!("alive of session {id} as of {index} names {token}, not in force then"),
            );
        }
    }
    Ok(())
}

/// What waits or is held as of `index` is named, or its client would ask for it again, or take it for lost. Judged by
/// what is live still: that was there.
fn names_all(ledger: &Ledger, id: SessionId, index: u64, alive: &Alive) -> Checked {
    let Some(session) = ledger.live(id) else { return Ok(()) };
    for seq in &session.live {
        let Some(asked) = ledger.asked.get(&(id, *seq)).filter(|asked| asked.place <= index) else {
            continue;
        };
        let waits = alive.positions.iter().any(|(other, _)| other == seq) || alive.suspended.contains(seq);
        let held = alive.held.iter().find(|(other, _)| other == seq).map(|(_, token)| *token);
        let named = match asked.standing {
            Standing::Held(token) if token <= index => held == Some(token),
            // Held since, or held then and undone since.
            _ => waits || held.is_some(),
        };
        if !named {
            let standing = asked.standing;
            return broken(
                NAME,
                format!(
                    "alive of session {id} as of {index} leaves out request {seq}, which is {standing:?}"
                ),
            );
        }
        let revoked = held.filter(|token| {
            ledger.grants.get(token).and_then(|grant| grant.revoking).is_some_and(|since| since <= index)
        });
        if let Some(token) = revoked.filter(|token| !alive.revoked.iter().any(|gone| gone.0 == *token)) {
            return broken(
                NAME,
                format!("alive of session {id} as of {index} does not say that {token} is being revoked"),
            );
        }
    }
    Ok(())
}
