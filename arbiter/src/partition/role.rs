//! Following, taking over, stepping down.

use super::{Partition, Uptime};
use crate::log::chain::{ChainTip, Sealed};
use crate::log::record::{Command, Event, RULES, Record};
use crate::planted::Planted;
use arbiterq_client::wire::{Nonce, Timestamp};

/// What a partition is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It folds what the log says and decides nothing.
    Standby,
    /// Its epoch is sealed and not yet proven.
    Activating,
    /// It decides.
    Active,
    /// Over; the value is to be dropped and the log read again.
    SteppedDown,
}

/// What an activation needs from outside.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Activation {
    /// Random: two activations never seal equal bytes.
    pub incarnation: Nonce,
    /// Random and told to nobody: it makes the nonces of the arbiter's letters to itself.
    pub secret: [u8; 32],
    /// The wall clock.
    pub wall: Timestamp,
}

/// Why activity ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StepDown {
    /// A record that counts is not its own.
    #[error("another arbiter's record counts")]
    Superseded,
    /// A record of its own does not count.
    #[error("a record of this activation is void")]
    OwnRecordVoid,
    /// The log did not answer in time.
    #[error("an append was not proven in time")]
    AppendOverdue,
    /// The queue did not give a tick back in time.
    #[error("a tick did not come back in time")]
    TickOverdue,
    /// The channel or the assignment is gone.
    #[error("the request queue is gone")]
    QueueLost,
}

/// Why a standby may not become active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// The log is decided by newer rules than this build's.
    #[error("the log is decided by rules {log}, this build knows rules up to {RULES}: use a newer build")]
    RulesTooNew {
        /// The log's.
        log: u32,
    },
    /// There is no genesis to go on from.
    #[error("the log has no genesis")]
    NoGenesis,
    /// It is not a standby.
    #[error("it is active, or was")]
    NotStandby,
}

/// An epoch that is sealed and not proven. Not folded yet: what a predecessor has under way may come before it.
#[derive(Clone, Hash)]
pub(super) struct Pending {
    activation: Activation,
    sealed: Sealed,
    since: Uptime,
}

impl Partition {
    /// The broker, or the lock on the folder, says that it is this arbiter's turn: begins an epoch.
    ///
    /// # Errors
    /// The log has no genesis, or newer rules than this build.
    pub fn activate(&mut self, activation: Activation, now: Uptime) -> Result<(), ActivateError> {
        if self.role != Role::Standby {
            return Err(ActivateError::NotStandby);
        }
        if self.state.genesis().is_none() {
            return Err(ActivateError::NoGenesis);
        }
        if self.state.rules() > RULES {
            return Err(ActivateError::RulesTooNew { log: self.state.rules() });
        }
        self.role = Role::Activating;
        self.seal_epoch(activation, now);
        Ok(())
    }

    /// The channel or assignment is gone: activity ends.
    pub fn queue_lost(&mut self) {
        self.step_down(StepDown::QueueLost);
    }

    /// Takes an entry as the log gives it back, in the log's order: this arbiter's own, a predecessor's, or a
    /// rival's. Stores that prove by reading back need nothing else.
    pub fn observe(&mut self, entry: &[Sealed], now: Uptime) {
        let Some(first) = entry.first() else { return };
        let is_own = self.unproven.front().is_some_and(|own| own.first_hash == first.hash);
        if !self.known.extend(entry) {
            // A copy of what counts already is no news. An own entry that fell out is the end of this activity,
            // also if a copy of it might count later: what was sealed after it stands on nothing.
            if self.unproven.iter().any(|own| own.first_hash == first.hash) {
                self.lost_the_tip(now);
            }
            return;
        }
        if is_own {
            let last = self.known.next_index - 1;
            self.proven(last, now);
            return;
        }
        match self.role {
            Role::Standby => entry.iter().for_each(|sealed| self.state.fold(sealed)),
            Role::Activating => {
                let rival = entry.iter().flat_map(|sealed| &sealed.record.events);
                let has_begun = rival.clone().any(|event| matches!(event, Event::EpochStarted { .. }));
                let goes_on = has_begun && self.plants.has(Planted::ActivatesOnRival);
                if has_begun && !goes_on || self.plants.has(Planted::ForeignEndsActivation) {
                    self.step_down(StepDown::Superseded);
                    return;
                }
                entry.iter().for_each(|sealed| self.state.fold(sealed));
                self.lost_the_tip(now);
            }
            Role::Active => self.step_down(StepDown::Superseded),
            Role::SteppedDown => {}
        }
    }

    /// An epoch that is not proven is sealed again on the tip as it is now known; an active one is over.
    fn lost_the_tip(&mut self, now: Uptime) {
        match (self.role, self.activation.take()) {
            (Role::Activating, Some(pending)) => {
                self.unproven.clear();
                self.out.appends.clear();
                self.seal_epoch(pending.activation, now);
            }
            _ => self.step_down(StepDown::OwnRecordVoid),
        }
    }

    fn seal_epoch(&mut self, activation: Activation, now: Uptime) {
        let tip = self.state.tip();
        let epoch = self.state.epoch() + 1;
        let started = Event::EpochStarted { epoch, incarnation: activation.incarnation, rules: RULES };
        let sealed = Sealed::new(Record {
            index: tip.next_index,
            prev: tip.hash,
            epoch,
            at: activation.wall.max(self.state.at()),
            renewed: Vec::new(),
            upto: None,
            command: Command::Activate,
            events: vec![started],
        });
        self.activation = Some(Pending { activation, sealed: sealed.clone(), since: now });
        self.append(vec![sealed], now);
    }

    /// If this proof reaches the epoch's record, the epoch is folded and this arbiter active.
    pub(super) fn activation_proven(&mut self, index: u64) -> bool {
        let reached = self.activation.as_ref().is_some_and(|pending| pending.sealed.record.index <= index);
        let Some(pending) = self.activation.take_if(|_| reached) else { return false };
        self.state.fold(&pending.sealed);
        self.epoch_start = (pending.sealed.record.at, pending.since);
        self.secret = pending.activation.secret;
        self.role = Role::Active;
        true
    }

    /// The waiters that can be granted, the policy, and what came early.
    pub(super) fn after_activation(&mut self, now: Uptime) {
        let sessions: Vec<_> = self.state.sessions().map(|(session, _)| session).collect();
        sessions.into_iter().for_each(|session| self.may_be_probed(session));
        if !self.plants.has(Planted::AdvanceOnlyAfter) {
            self.advance(now);
        }
        self.seal_policy(now);
        while let Some(delivery) = self.early.pop_front() {
            self.deliver(delivery, now);
        }
    }

    pub(super) fn seal_policy(&mut self, now: Uptime) {
        if *self.state.policy() != self.config.policy {
            let policy = self.config.policy.clone();
            self.seal(Command::Policy, vec![Event::Policy(policy)], now);
            self.advance(now);
        }
    }

    /// Ends activity: everything speculative, held back or timed is dropped. There is no other way down.
    pub(super) fn step_down(&mut self, why: StepDown) {
        if self.role == Role::SteppedDown {
            return;
        }
        self.role = Role::SteppedDown;
        self.entry.clear();
        self.held.clear();
        self.reads.clear();
        self.reads_since = None;
        self.renewals.clear();
        self.early.clear();
        self.ticks.clear();
        self.probes.clear();
        self.gones.clear();
        self.unproven.clear();
        self.activation = None;
        self.out = super::Outputs { step_down: Some(why), ..super::Outputs::default() };
    }
}

impl Partition {
    /// As of the last record that is read or proven.
    pub fn known(&self) -> ChainTip {
        self.known
    }
}
