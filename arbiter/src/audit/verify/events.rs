//! Events of sessions, operators and the log itself, each under the command of its record.

use super::fold::{Cx, Fold};
use super::live::{Seen, Session, Standing};
use super::names::{of_command, of_event};
use super::promise::{Broken, broken};
use super::requests::Root;
use super::resources::Turn;
use crate::log::record::{Command, Event};
use arbiterq_client::wire::{Cause, Reason, ResourceName, SessionId, Timestamp};
use std::sync::Arc;

impl Fold {
    /// Checks one event and takes it. What a command cannot have done ends at the last arm.
    pub(super) fn event(&mut self, cx: &Cx<'_>, sealed_in: u64, event: Event) -> Result<(), Broken> {
        match (cx.command, event) {
            (Command::Create, Event::Genesis(genesis)) => self.begin(cx, genesis),
            (Command::Activate, Event::EpochStarted { epoch, incarnation, rules }) => {
                self.epoch_started(cx, sealed_in, epoch, incarnation, rules)
            }
            (Command::Policy, Event::Policy(policy)) => {
                (self.lease_ms_max, self.in_flight_max) = (policy.lease_ms_max, policy.in_flight_max);
                self.resources.policy(policy);
                self.ready.clear();
                self.resources.change_all();
                Ok(())
            }
            (Command::Open(_), event @ Event::Opened { .. }) => self.opened(cx, event),
            (
                Command::Attach { session, n, reply_to },
                Event::Attached { session: whose, n: number, reply_to: address },
            ) => {
                if (*session, *n, reply_to) != (whose, number, &address) {
                    return broken!(Decision, "`attached` is not what its `attach` asked");
                }
                self.attached(whose, number)
            }
            (
                Command::Acquire(asked),
                Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value },
            ) => {
                let root = Root { session, seq, owner, priority, wait_ms, hold_max_ms, reason, value };
                self.queued(cx, asked, root, &claims)
            }
            (
                Command::Acquire(_) | Command::Advance,
                Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, reason, value },
            ) => {
                let root = Root { session, seq, owner, priority, wait_ms, hold_max_ms, reason, value };
                match cx.command {
                    Command::Acquire(asked) => self.granted_at_once(cx, asked, root, &claims),
                    _ => self.granted_waiter(cx, &root, &claims),
                }
            }
            (Command::Acquire(asked), Event::Refused { session, seq, .. }) => {
                if (asked.session, asked.seq) != (session, seq) {
                    return broken!(Decision, "`refused` speaks of another request than its `acquire`");
                }
                self.refused(session, seq)
            }
            (
                Command::Cancel { .. } | Command::Tick { .. } | Command::Advance,
                Event::Ended { session, seq, reason },
            ) => self.ended(cx, session, seq, reason),
            (
                Command::Release { .. }
                | Command::Cancel { .. }
                | Command::Tick { .. }
                | Command::ForceRelease { .. },
                Event::Released { token, reason, by },
            ) => self.released(cx, token, reason, by.as_ref()),
            (
                Command::Tick { .. } | Command::ForceRelease { .. },
                Event::Revoking { token, reason, by, until },
            ) => self.revoking(cx, token, reason, by, until),
            (
                Command::Close { .. } | Command::Tick { .. } | Command::Gone { .. },
                Event::SessionEnded { session, reason },
            ) => self.session_ended(cx, session, reason),
            (Command::Gone { .. }, Event::Suspended { session, seq, token }) => {
                self.suspended(cx, session, seq, token)
            }
            (Command::Gone { .. }, Event::Unreachable { session, n }) => self.unreachable(cx, session, n),
            (
                Command::Tick { .. } | Command::Gone { .. } | Command::ForceRelease { .. },
                Event::Delayed { resource, until },
            ) => self.delayed(cx, &resource, until),
            (Command::Pause { by, reason }, Event::Paused { by: who, reason: why }) => {
                self.said_by((by, reason), (&who, &why))?;
                if self.paused {
                    return broken!(Decision, "`paused`, and that it was already");
                }
                self.paused = true;
                Ok(())
            }
            (Command::Resume { by, reason }, Event::Resumed { by: who, reason: why }) => {
                self.said_by((by, reason), (&who, &why))?;
                if !self.paused {
                    return broken!(Decision, "`resumed`, and nothing was paused");
                }
                self.paused = false;
                self.resources.change_all();
                Ok(())
            }
            (Command::Checkpoint, Event::Checkpoint { of, hash }) => {
                let first = self.genesis.as_ref().map_or(0, |genesis| genesis.first_index);
                if !(first..cx.index).contains(&of) {
                    return broken!(Evidence, "a checkpoint of record {of}, which is not an earlier one");
                }
                self.checkpoint = Some((of, hash));
                self.counts.checkpoints += 1;
                Ok(())
            }
            (Command::Finish, Event::Closed { .. }) => {
                self.closed = true;
                Ok(())
            }
            (command, event) => {
                broken!(Decision, "`{}` is nothing that a `{}` does", of_event(&event), of_command(command))
            }
        }
    }

    fn said_by(&self, asked: (&Arc<str>, &String), said: (&Arc<str>, &String)) -> Result<(), Broken> {
        if asked == said {
            Ok(())
        } else {
            broken!(Decision, "by another or for another reason than its command says")
        }
    }

    pub(super) fn session(&self, session: SessionId) -> Result<&Session, Broken> {
        match self.sessions.get(&session) {
            Some(session) => Ok(session),
            None => broken!(Forward, "session {session} is not live"),
        }
    }

    fn opened(&mut self, cx: &Cx<'_>, event: Event) -> Result<(), Broken> {
        let (
            Command::Open(asked),
            Event::Opened {
                key_hash,
                lease_ms,
                fail_fast_ms,
                in_flight_max,
                label,
                principal,
                principal_by,
                reply_to,
            },
        ) = (cx.command, event)
        else {
            return broken!(Decision, "`opened` without `open`");
        };
        let same = (asked.key_hash, &asked.label, &asked.principal, asked.principal_by)
            == (key_hash, &label, &principal, principal_by)
            && (asked.fail_fast_ms, &asked.reply_to) == (fail_fast_ms, &reply_to);
        if !same {
            return broken!(Decision, "`opened` is not what its `open` asked");
        }
        if in_flight_max != self.in_flight_max {
            let most = self.in_flight_max;
            return broken!(Decision, "{in_flight_max} requests in flight; the policy says {most}");
        }
        if lease_ms != asked.lease_ms.min(self.lease_ms_max) {
            return broken!(
                Decision,
                "a lease of {lease_ms} ms; asked were {}, the policy allows {}",
                asked.lease_ms,
                self.lease_ms_max
            );
        }
        if let Some(live) = self.keys.insert(key_hash, cx.index) {
            return broken!(Once, "the key of the live session {live} opened another");
        }
        let session = Session {
            key_hash,
            principal,
            lease_ms,
            fail_fast_ms,
            in_flight_max,
            n: 0,
            heard: cx.at,
            attached: 0,
            unreachable: None,
            seen: Seen::new(in_flight_max),
            live: std::collections::BTreeMap::new(),
            suspended: 0,
        };
        self.sessions.insert(cx.index, session);
        self.counts.sessions += 1;
        Ok(())
    }

    fn attached(&mut self, id: SessionId, n: u64) -> Result<(), Broken> {
        let before = self.session(id)?.attached;
        if n <= before {
            return broken!(Forward, "address {n} of session {id} after address {before}");
        }
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        session.attached = n;
        session.unreachable = None;
        if std::mem::take(&mut session.suspended) > 0 {
            for place in session.live.values() {
                let Some(request) = self.requests.get_mut(place) else { continue };
                if matches!(request.standing, Standing::Suspended) {
                    request.standing = Standing::Waiting;
                    for claim in &request.claims {
                        self.resources.unsuspend(claim);
                        self.resources.wait(claim, Turn::new(request.priority, *place));
                    }
                }
            }
        }
        Ok(())
    }

    fn unreachable(&mut self, cx: &Cx<'_>, id: SessionId, number: u64) -> Result<(), Broken> {
        let session = self.session(id)?;
        match cx.command {
            Command::Gone { session, n, seq: None, cause: Cause::Returned }
                if (*session, *n) == (id, number) => {}
            _ => return broken!(Decision, "`unreachable` is not what its `gone` says"),
        }
        if session.attached != number {
            return broken!(Suspension, "address {number} was gone, {} is in force", session.attached);
        }
        if session.unreachable.is_some_and(|(epoch, _)| epoch == self.epoch) {
            return broken!(Decision, "session {id} was already unreachable");
        }
        let earliest = self.epoch_at.plus_ms(session.lease_ms);
        if cx.at < earliest {
            return broken!(
                NoEarlyExpiry,
                "session {id} unreachable before {earliest}, one lease into the epoch"
            );
        }
        let since = Some((self.epoch, cx.at));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.unreachable = since;
        }
        Ok(())
    }

    fn session_ended(&mut self, cx: &Cx<'_>, id: SessionId, reason: Reason) -> Result<(), Broken> {
        let session = self.session(id)?;
        match (cx.command, reason) {
            (Command::Close { session }, Reason::Closed) if *session == id => {}
            (Command::Gone { session: whose, n, cause: Cause::Closed, .. }, Reason::ConnectionClosed)
                if *whose == id =>
            {
                if *n != session.attached {
                    let now = session.attached;
                    return broken!(NoEarlyExpiry, "the connection of address {n} closed, {now} is in force");
                }
            }
            (Command::Tick { at }, Reason::LeaseExpired) => {
                self.tick_counts(cx, *at)?;
                let heard = session.heard.max(self.epoch_at);
                let due = heard.plus_ms(session.lease_ms);
                if *at < due {
                    let lease = session.lease_ms;
                    return broken!(
                        NoEarlyExpiry,
                        "session {id} expired at {at}; its lease of {lease} ms from {heard} goes to {due}"
                    );
                }
            }
            (Command::Tick { at }, Reason::FailFast) => {
                self.tick_counts(cx, *at)?;
                let since = session.unreachable.filter(|(epoch, _)| *epoch == self.epoch);
                let (Some(fail_fast_ms), Some((_, since))) = (session.fail_fast_ms, since) else {
                    return broken!(
                        NoEarlyExpiry,
                        "session {id} is not unreachable, or did not ask to fail fast"
                    );
                };
                let due = since.plus_ms(fail_fast_ms);
                if *at < due {
                    return broken!(NoEarlyExpiry, "session {id} failed at {at}; its time goes to {due}");
                }
            }
            (command, reason) => {
                return broken!(
                    Decision,
                    "session {id} ended with the reason {reason} by a `{}`",
                    of_command(command)
                );
            }
        }
        let Some(session) = self.sessions.remove(&id) else { return Ok(()) };
        self.keys.remove(&session.key_hash);
        for place in session.live.values() {
            self.forget(*place, reason != Reason::Closed);
        }
        Ok(())
    }

    /// A tick judges by its own moment, which lies in this epoch and not after its record.
    pub(super) fn tick_counts(&self, cx: &Cx<'_>, at: Timestamp) -> Result<(), Broken> {
        if at > cx.at {
            return broken!(Time, "it judges by {at}, its own time is {}", cx.at);
        }
        if at < self.epoch_at {
            return broken!(Time, "it judges by {at}; the epoch began at {}", self.epoch_at);
        }
        Ok(())
    }

    fn delayed(&mut self, cx: &Cx<'_>, name: &ResourceName, until: Timestamp) -> Result<(), Broken> {
        let id = self.resources.live(name).filter(|id| self.lost.iter().any(|(lost, _)| lost == id));
        let Some(id) = id else {
            return broken!(Withheld, "{name} is delayed, and no hold on it was lost in this record");
        };
        let lock_delay_ms = self.resources.lock_delay_ms(id);
        let due = cx.at.plus_ms(lock_delay_ms);
        if until != due || lock_delay_ms == 0 {
            return broken!(Withheld, "{name} is delayed until {until}; its rule says {due}");
        }
        if self.lost.iter().any(|(lost, delayed)| *lost == id && *delayed) {
            return broken!(Withheld, "{name} is delayed twice in one record");
        }
        for (lost, delayed) in &mut self.lost {
            *delayed |= *lost == id;
        }
        self.resources.delay(id, cx.at, until);
        Ok(())
    }
}
