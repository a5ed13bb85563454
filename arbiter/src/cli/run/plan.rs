//! What the guard does and when: pure, the time is an argument.
//!
//! ```text
//!            start              TERM                 KILL
//!   idle ────────────► running ──────► stopping ───────────► killing
//!     │                   │ command ends  │                     │
//!     │                   ▼               ▼                     ▼
//!     │              leftovers ──────► (TERM, KILL as above) ──►over   the group is empty
//!     └─ pipe ends / done ────────────────────────────────────────┴──► leave
//! ```
//!
//! At the end of the pipe the group is killed, and only when it is empty is the session closed: the resource must
//! not pass on while anything of the command can still act.

use super::control::Exit;
use arbiterq_client::clock::Micros;

/// How long what a command left in its process group may go on by itself: a `tee` at the end of a pipe needs a
/// moment to write what it has.
const LEFTOVERS_GRACE: Micros = 1_000_000;
/// Of the lease, the part before its end in which the command is told to stop when no renewal comes. More would
/// stop commands whose arbiter is only restarting: keep-alives go out at a quarter of the lease.
const LAPSE_LEAD_OF_LEASE: u64 = 6;

/// What the guard is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the group this signal.
    Signal(i32),
    /// Tell `run` that the command is being stopped because no renewal came.
    ReportLapse,
    /// Tell `run` that nothing of the command is left.
    ReportEnded {
        /// How the command ended.
        exit: Exit,
        /// It was being stopped when it ended.
        stopped: bool,
    },
    /// Close the session: nobody else is there to do it.
    CloseSession,
    /// Exit.
    Leave,
}

pub(super) const SIGTERM: i32 = 15;
pub(super) const SIGKILL: i32 = 9;
pub(super) const SIGCONT: i32 = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No command yet.
    Idle,
    /// The command runs, and may.
    Running,
    /// TERM was sent; KILL follows then.
    Stopping { kill_at: Micros },
    /// KILL was sent.
    Killing,
    /// The command ended by itself; others of its group have not. TERM follows then.
    Leftovers { term_at: Micros },
    /// Nothing is left.
    Over,
}

/// The guard's knowledge and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    phase: Phase,
    /// Until when the command may run: the end of what the holder believes.
    deadline: Micros,
    lease: Micros,
    kill_after: Micros,
    exit: Option<Exit>,
    stopped: bool,
    pipe_ended: bool,
}

impl Plan {
    /// Before anything runs.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            deadline: 0,
            lease: 0,
            kill_after: 0,
            exit: None,
            stopped: false,
            pipe_ended: false,
        }
    }

    /// The command runs.
    pub(super) fn started(&mut self, deadline: Micros, lease: Micros, kill_after: Micros) {
        assert!(self.phase == Phase::Idle, "one command a guard");
        (self.deadline, self.lease, self.kill_after) = (deadline, lease, kill_after);
        self.phase = Phase::Running;
    }

    /// The lease was renewed. Too late once the command is being stopped: it would not run on.
    pub(super) fn renewed(&mut self, deadline: Micros) {
        self.deadline = self.deadline.max(deadline);
    }

    /// A signal for the command.
    pub(super) fn signal(&self, signal: i32) -> Vec<Action> {
        match self.phase {
            Phase::Idle | Phase::Over => Vec::new(),
            _ => vec![Action::Signal(signal)],
        }
    }

    /// The grant is lost. `at_once` if somebody else may hold it already.
    pub(super) fn stop(&mut self, at_once: bool, now: Micros) -> Vec<Action> {
        if at_once { self.kill() } else { self.terminate(now) }
    }

    /// `run` is gone, or talks nonsense.
    pub(super) fn pipe_ended(&mut self) -> Vec<Action> {
        self.pipe_ended = true;
        match self.phase {
            Phase::Idle | Phase::Over => vec![Action::CloseSession, Action::Leave],
            _ => self.kill(),
        }
    }

    /// `run` needs no guard any more.
    pub(super) fn done(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Idle | Phase::Over => vec![Action::Leave],
            // A mistake of ours: safe is to treat it as the end of `run`.
            _ => self.pipe_ended(),
        }
    }

    /// The command itself ended; others of its group may live.
    pub(super) fn command_ended(&mut self, exit: Exit, now: Micros) {
        self.exit = Some(exit);
        match self.phase {
            Phase::Running => self.phase = Phase::Leftovers { term_at: now.saturating_add(LEFTOVERS_GRACE) },
            _ => self.stopped = true,
        }
    }

    /// The group is empty, and the command has ended.
    pub(super) fn group_empty(&mut self) -> Vec<Action> {
        let Some(exit) = self.exit.filter(|_| self.phase != Phase::Over) else { return Vec::new() };
        self.phase = Phase::Over;
        match self.pipe_ended {
            true => vec![Action::CloseSession, Action::Leave],
            false => vec![Action::ReportEnded { exit, stopped: self.stopped }],
        }
    }

    /// Time has passed.
    pub(super) fn time(&mut self, now: Micros) -> Vec<Action> {
        if self.wake().is_none_or(|wake| now < wake) {
            return Vec::new();
        }
        match self.phase {
            Phase::Stopping { .. } => self.kill(),
            _ if now >= self.deadline => self.kill(),
            Phase::Running => {
                let mut actions = self.terminate(now);
                actions.push(Action::ReportLapse);
                actions
            }
            _ => self.terminate(now),
        }
    }

    /// When [`time`](Self::time) has something to do.
    pub(super) fn wake(&self) -> Option<Micros> {
        match self.phase {
            Phase::Idle | Phase::Killing | Phase::Over => None,
            Phase::Running => Some(self.deadline.saturating_sub(self.lapse_lead())),
            Phase::Stopping { kill_at } => Some(kill_at.min(self.deadline)),
            Phase::Leftovers { term_at } => Some(term_at.min(self.deadline)),
        }
    }

    /// Whether to look if the group is empty.
    pub(super) fn waits_for_group(&self) -> bool {
        self.exit.is_some() && self.phase != Phase::Over
    }

    /// Whether `run` is gone and nothing is left to be done but to wait.
    pub(super) fn is_alone(&self) -> bool {
        self.pipe_ended
    }

    fn lapse_lead(&self) -> Micros {
        self.kill_after.min(self.lease / LAPSE_LEAD_OF_LEASE)
    }

    fn terminate(&mut self, now: Micros) -> Vec<Action> {
        match self.phase {
            Phase::Running | Phase::Leftovers { .. } => {
                self.phase = Phase::Stopping { kill_at: now.saturating_add(self.kill_after) };
                // A stopped process acts on TERM only when it goes on.
                vec![Action::Signal(SIGTERM), Action::Signal(SIGCONT)]
            }
            _ => Vec::new(),
        }
    }

    fn kill(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Running | Phase::Stopping { .. } | Phase::Leftovers { .. } => {
                self.phase = Phase::Killing;
                vec![Action::Signal(SIGKILL)]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Micros = 1000;
    const TERM: [Action; 2] = [Action::Signal(SIGTERM), Action::Signal(SIGCONT)];
    const KILL: [Action; 1] = [Action::Signal(SIGKILL)];

    /// A lease of 3 s, a second to stop, started at 0, believed until 2.85 s.
    fn running() -> Plan {
        let mut plan = Plan::new();
        plan.started(2850 * MS, 3000 * MS, 1000 * MS);
        plan
    }

    fn ended(exit: Exit, stopped: bool) -> Vec<Action> {
        vec![Action::ReportEnded { exit, stopped }]
    }

    #[test]
    fn without_renewals_the_group_is_dead_at_the_deadline() {
        let mut plan = running();
        assert_eq!(plan.wake(), Some(2350 * MS));
        assert_eq!(plan.time(2349 * MS), []);
        assert_eq!(plan.time(2350 * MS), [TERM[0], TERM[1], Action::ReportLapse]);
        // KILL comes with the deadline, though a second after TERM would be later.
        assert_eq!(plan.wake(), Some(2850 * MS));
        assert_eq!(plan.time(2850 * MS), KILL);
        plan.command_ended(Exit::Signal(SIGKILL), 2851 * MS);
        assert!(plan.waits_for_group());
        assert_eq!(plan.group_empty(), ended(Exit::Signal(SIGKILL), true));
        assert_eq!(plan.done(), [Action::Leave]);
    }

    #[test]
    fn a_third_of_the_lease_without_the_arbiter_stops_nothing() {
        let mut plan = running();
        // Keep-alives go out each 750 ms; the one of 750 ms is answered a second late.
        assert_eq!(plan.time(1750 * MS), []);
        plan.renewed(750 * MS + 2850 * MS);
        assert_eq!(plan.time(2350 * MS), []);
        assert_eq!(plan.wake(), Some(3100 * MS));
    }

    #[test]
    fn a_deadline_never_comes_nearer() {
        let mut plan = running();
        plan.renewed(100 * MS);
        assert_eq!(plan.wake(), Some(2350 * MS));
    }

    #[test]
    fn a_guard_that_slept_past_the_deadline_kills_at_once() {
        let mut plan = running();
        assert_eq!(plan.time(99_000 * MS), KILL);
        assert_eq!(plan.wake(), None);
    }

    #[test]
    fn a_revocation_gives_time_to_stop() {
        let mut plan = running();
        assert_eq!(plan.stop(false, 100 * MS), TERM);
        assert_eq!(plan.stop(false, 200 * MS), []);
        assert_eq!(plan.wake(), Some(1100 * MS));
        plan.command_ended(Exit::Code(0), 300 * MS);
        assert_eq!(plan.group_empty(), ended(Exit::Code(0), true));
    }

    #[test]
    fn what_somebody_else_may_hold_is_killed_at_once() {
        let mut plan = running();
        assert_eq!(plan.stop(true, 100 * MS), KILL);
        let mut plan = running();
        plan.stop(false, 100 * MS);
        assert_eq!(plan.stop(true, 200 * MS), KILL);
    }

    #[test]
    fn the_end_of_run_kills_the_group_and_only_then_closes_the_session() {
        let mut plan = running();
        assert_eq!(plan.pipe_ended(), KILL);
        assert_eq!(plan.group_empty(), [], "the command itself has not ended");
        plan.command_ended(Exit::Signal(SIGKILL), 10 * MS);
        assert_eq!(plan.group_empty(), [Action::CloseSession, Action::Leave]);
    }

    #[test]
    fn the_end_of_run_before_the_start_or_after_the_end_closes_the_session() {
        assert_eq!(Plan::new().pipe_ended(), [Action::CloseSession, Action::Leave]);
        let mut plan = running();
        plan.command_ended(Exit::Code(0), 10 * MS);
        plan.group_empty();
        assert_eq!(plan.pipe_ended(), [Action::CloseSession, Action::Leave]);
    }

    #[test]
    fn a_command_that_ends_by_itself_while_run_is_stopped_was_not_stopped() {
        let mut plan = running();
        plan.command_ended(Exit::Code(3), 100 * MS);
        assert_eq!(plan.group_empty(), ended(Exit::Code(3), false));
        // The lease lapses later; there is nothing to kill and nobody else is told.
        assert_eq!(plan.time(99_000 * MS), []);
        assert_eq!(plan.stop(true, 99_000 * MS), []);
    }

    #[test]
    fn leftovers_get_a_moment_then_term_then_kill() {
        let mut plan = running();
        plan.command_ended(Exit::Code(0), 100 * MS);
        assert_eq!(plan.time(1099 * MS), []);
        assert_eq!(plan.time(1100 * MS), TERM);
        assert_eq!(plan.time(2100 * MS), KILL);
        assert_eq!(plan.group_empty(), ended(Exit::Code(0), false));
    }

    #[test]
    fn leftovers_do_not_outlive_the_deadline() {
        let mut plan = running();
        plan.command_ended(Exit::Code(0), 2300 * MS);
        assert_eq!(plan.wake(), Some(2850 * MS));
        assert_eq!(plan.time(2850 * MS), KILL);
    }

    #[test]
    fn signals_are_passed_on_while_there_is_a_group() {
        assert_eq!(Plan::new().signal(2), []);
        let mut plan = running();
        assert_eq!(plan.signal(2), [Action::Signal(2)]);
        plan.command_ended(Exit::Signal(2), 0);
        plan.group_empty();
        assert_eq!(plan.signal(2), [], "the group's number may be another's by now");
    }
}
