//! Whether a line that parses is a record to the letter: bounds of values, and that it says each thing in the one
//! way in which the format says it (`client/protocol/log.md`, section 2).
//!
//! The types of records are as lenient as their parser. What is refused here is a bad line, as one that does not
//! parse, and never a broken rule: it needs nothing but the line.

use crate::log::record::{AcquireCommand, Command, Event, OpenCommand, Policy, RENEWED_MAX, Record, Rule};
use arbiterq_client::wire::{
    ADDRESS_BYTES_MAX, CLAIMS_MAX, INTEGER_MAX, LABEL_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN, LIMIT_MS_MAX,
    Mode, PERMITS_MAX, PRIORITY_MAX, REASON_BYTES_MAX, RESOURCE_BYTES_MAX, Reason, ResourceName,
    VALUE_BYTES_MAX,
};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Rules in a policy.
const RULES_MAX: usize = 1000;
/// Sessions that a policy may allow.
const SESSIONS_MAX: u64 = 1_000_000;
/// Requests in flight that a session may have.
const IN_FLIGHT_MAX: u64 = 4096;
/// Waiters that a rule may allow.
const WAITERS_MAX: u64 = 10_000_000;

type Shape = Result<(), String>;

/// Whether a record that was parsed from this line is written there as the format says.
pub(super) fn check(record: &Record, line: &[u8]) -> Shape {
    bounds(record)?;
    // White space, the order of fields and escapes are free; an arbiter does without, so that is looked at first.
    let again = serde_json::to_vec(record).map_err(|e| e.to_string())?;
    if again == line {
        return Ok(());
    }
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).map_err(|e| e.to_string());
    if value(&again)? == value(line)? {
        return Ok(());
    }
    Err("a field that says nothing is not left out (null, an empty list, a default), or is of another type"
        .into())
}

fn bounds(record: &Record) -> Shape {
    integers(&[record.index, record.epoch, record.upto.unwrap_or(0)])?;
    if record.renewed.len() > RENEWED_MAX {
        return Err(format!("{} renewals, the limit is {RENEWED_MAX}", record.renewed.len()));
    }
    record.renewed.iter().try_for_each(|(session, n)| integers(&[*session, *n]))?;
    if !record.renewed.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err("the sessions in `renewed` do not rise".into());
    }
    command(&record.command)?;
    record.events.iter().try_for_each(event)
}

fn command(command: &Command) -> Shape {
    match command {
        Command::Open(OpenCommand { lease_ms, fail_fast_ms, label, principal, reply_to, .. }) => {
            integers(&[*lease_ms, fail_fast_ms.unwrap_or(0)])?;
            opened_by(label, principal, reply_to.as_ref())
        }
        Command::Attach { session, n, reply_to } => {
            integers(&[*session, *n])?;
            address(reply_to.as_ref())
        }
        Command::Acquire(AcquireCommand {
            session,
            seq,
            claims,
            owner,
            priority,
            wait_ms,
            hold_max_ms,
            reason,
            value,
        }) => {
            let owner = owner.map_or([0, 0], |owner| [owner.0, owner.1]);
            integers(&[*session, *seq, owner[0], owner[1]])?;
            self::claims(claims.iter().map(|claim| (&claim.resource, claim.mode, claim.permits)))?;
            request(*priority, [*wait_ms, *hold_max_ms], reason.as_ref(), value.as_ref())
        }
        Command::Release { session, token } => integers(&[*session, *token]),
        Command::Cancel { session, seq } => integers(&[*session, *seq]),
        Command::Close { session } => integers(&[*session]),
        Command::Gone { session, n, seq, .. } => integers(&[*session, *n, seq.unwrap_or(0)]),
        Command::ForceRelease { resource: name, token, reason, by, .. } => {
            integers(&[*token])?;
            resource(name)?;
            said(reason, by)
        }
        Command::Pause { reason, by } | Command::Resume { reason, by } => said(reason, by),
        Command::Create
        | Command::Activate
        | Command::Policy
        | Command::Tick { .. }
        | Command::Advance
        | Command::Checkpoint
        | Command::Barrier
        | Command::Finish => Ok(()),
    }
}

fn event(event: &Event) -> Shape {
    match event {
        Event::Genesis(genesis) => {
            within("partitions", genesis.partitions.into(), 1..=u32::MAX.into())?;
            integers(&[genesis.first_index])?;
            genesis.after.iter().try_for_each(|tip| integers(&[tip.index]))
        }
        Event::EpochStarted { epoch, .. } => integers(&[*epoch]),
        Event::Policy(policy) => self::policy(policy),
        Event::Opened { lease_ms, fail_fast_ms, in_flight_max, label, principal, reply_to, .. } => {
            for ms in std::iter::once(*lease_ms).chain(*fail_fast_ms) {
                within("lease_ms or fail_fast_ms", ms, LEASE_MS_MIN..=LEASE_MS_MAX)?;
            }
            within("in_flight_max", (*in_flight_max).into(), 1..=IN_FLIGHT_MAX)?;
            opened_by(label, principal, reply_to.as_ref())
        }
        Event::Attached { session, n, reply_to } => {
            integers(&[*session, *n])?;
            address(reply_to.as_ref())
        }
        Event::Unreachable { session, n } => integers(&[*session, *n]),
        Event::SessionEnded { session, reason } => {
            integers(&[*session])?;
            use Reason::{Closed, ConnectionClosed, FailFast, LeaseExpired};
            word(*reason, &[Closed, ConnectionClosed, LeaseExpired, FailFast])
        }
        Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value } => {
            let owner = owner.map_or([0, 0], |owner| [owner.0, owner.1]);
            integers(&[*session, *seq, owner[0], owner[1]])?;
            self::claims(claims.iter().map(|claim| (&claim.resource, claim.mode, claim.permits)))?;
            request(*priority, [*wait_ms, *hold_max_ms], reason.as_ref(), value.as_ref())
        }
        Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, reason, value } => {
            let owner = owner.map_or([0, 0], |owner| [owner.0, owner.1]);
            integers(&[*session, *seq, owner[0], owner[1]])?;
            self::claims(claims.iter().map(|claim| (&claim.resource, claim.mode, claim.permits)))?;
            for claim in claims {
                integers(&[claim.floor])?;
                within("capacity", claim.capacity.into(), 1..=PERMITS_MAX.into())?;
            }
            request(*priority, [*wait_ms, *hold_max_ms], reason.as_ref(), value.as_ref())
        }
        Event::Refused { session, seq, reason } => {
            integers(&[*session, *seq])?;
            use Reason::{Busy, Held, InFlightMax, NotAllowed, OverCapacity, WaitersMax, WrongPartition};
            word(*reason, &[WrongPartition, NotAllowed, OverCapacity, Busy, Held, InFlightMax, WaitersMax])
        }
        Event::Ended { session, seq, reason } => {
            integers(&[*session, *seq])?;
            word(*reason, &[Reason::Cancelled, Reason::WaitLimit, Reason::Policy])
        }
        Event::Released { token, reason, by } => {
            integers(&[*token])?;
            word(*reason, &[Reason::Released, Reason::Cancelled, Reason::HoldLimit, Reason::Forced])?;
            by.as_ref().map_or(Ok(()), |by| text("by", by, usize::MAX))
        }
        Event::Revoking { token, reason, by, .. } => {
            integers(&[*token])?;
            word(*reason, &[Reason::HoldLimit, Reason::Forced])?;
            by.as_ref().map_or(Ok(()), |by| text("by", by, usize::MAX))
        }
        Event::Suspended { session, seq, token } => integers(&[*session, *seq, *token]),
        Event::Delayed { resource: name, .. } => resource(name),
        Event::Paused { by, reason } | Event::Resumed { by, reason } => said(reason, by),
        Event::Checkpoint { of, .. } => integers(&[*of]),
        Event::Closed { .. } => Ok(()),
    }
}

fn policy(policy: &Policy) -> Shape {
    within("sessions_max", policy.sessions_max.into(), 1..=SESSIONS_MAX)?;
    within("in_flight_max", policy.in_flight_max.into(), 1..=IN_FLIGHT_MAX)?;
    within("lease_ms_max", policy.lease_ms_max, LEASE_MS_MIN..=LEASE_MS_MAX)?;
    if policy.rules.len() > RULES_MAX {
        return Err(format!("{} rules, the limit is {RULES_MAX}", policy.rules.len()));
    }
    policy.rules.iter().try_for_each(rule)
}

fn rule(rule: &Rule) -> Shape {
    let optional = |what, value: Option<u64>, range| value.map_or(Ok(()), |value| within(what, value, range));
    if rule.pattern.is_empty() {
        return Err("an empty pattern".into());
    }
    text("pattern", &rule.pattern, RESOURCE_BYTES_MAX)?;
    optional("capacity", rule.capacity.map(u64::from), 1..=PERMITS_MAX.into())?;
    optional("hold_max_ms", rule.hold_max_ms, 1..=LIMIT_MS_MAX)?;
    optional("waiters_max", rule.waiters_max.map(u64::from), 0..=WAITERS_MAX)?;
    optional("lock_delay_ms", rule.lock_delay_ms, 0..=LIMIT_MS_MAX)?;
    rule.allow.iter().flatten().try_for_each(|principal| text("principal", principal, usize::MAX))
}

fn claims<'a>(claims: impl ExactSizeIterator<Item = (&'a ResourceName, Mode, Option<u32>)>) -> Shape {
    if claims.len() == 0 || claims.len() > CLAIMS_MAX {
        return Err(format!("{} claims in a request, from 1 to {CLAIMS_MAX} may be", claims.len()));
    }
    let mut names = HashSet::new();
    for (name, mode, permits) in claims {
        resource(name)?;
        if (mode == Mode::Permits) != permits.is_some() {
            return Err(format!("permits of {name} without the mode, or the mode without permits"));
        }
        if let Some(permits) = permits {
            within("permits", permits.into(), 1..=PERMITS_MAX.into())?;
        }
        if !names.insert(name) {
            return Err(format!("{name} twice in one request"));
        }
    }
    Ok(())
}

fn request(
    priority: u8,
    limits: [Option<u64>; 2],
    reason: Option<&Arc<str>>,
    value: Option<&Arc<str>>,
) -> Shape {
    within("priority", priority.into(), 0..=PRIORITY_MAX.into())?;
    limits.into_iter().flatten().try_for_each(|ms| within("a limit", ms, 0..=LIMIT_MS_MAX))?;
    reason.map_or(Ok(()), |reason| text("reason", reason, REASON_BYTES_MAX))?;
    value.map_or(Ok(()), |value| text("value", value, VALUE_BYTES_MAX))
}

fn opened_by(label: &str, principal: &str, reply_to: Option<&Arc<str>>) -> Shape {
    text("label", label, LABEL_BYTES_MAX)?;
    text("principal", principal, usize::MAX)?;
    address(reply_to)
}

fn address(reply_to: Option<&Arc<str>>) -> Shape {
    reply_to.map_or(Ok(()), |address| text("reply_to", address, ADDRESS_BYTES_MAX))
}

fn said(reason: &str, by: &str) -> Shape {
    text("reason", reason, REASON_BYTES_MAX)?;
    text("by", by, usize::MAX)
}

fn resource(name: &ResourceName) -> Shape {
    if name.as_str().is_empty() {
        return Err("an empty name of a resource".into());
    }
    text("the name of a resource", name.as_str(), RESOURCE_BYTES_MAX)
}

fn text(what: &str, text: &str, bytes_max: usize) -> Shape {
    if text.len() > bytes_max {
        return Err(format!("{what} has {} bytes, the limit is {bytes_max}", text.len()));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(format!("{what} has the control character U+{:04X}", u32::from(control)));
    }
    Ok(())
}

fn word(reason: Reason, words: &[Reason]) -> Shape {
    if words.contains(&reason) {
        Ok(())
    } else {
        Err(format!("the reason {reason}, which this event never has"))
    }
}

fn within(what: &str, value: u64, range: RangeInclusive<u64>) -> Shape {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{what} is {value}, from {} to {} may be", range.start(), range.end()))
}

fn integers(values: &[u64]) -> Shape {
    let over = values.iter().find(|value| **value > INTEGER_MAX);
    over.map_or(Ok(()), |value| Err(format!("{value} is above {INTEGER_MAX}")))
}
