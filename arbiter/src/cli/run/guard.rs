//! The guard: the command's parent, which outlives `run`.
//!
//! `run` can be killed or stopped at any moment, and nobody tells it before. So the command is the child of a
//! second, small process, which has the session's key and the lease's end. It is in a process group of its own, so
//! that neither a terminal's Ctrl-C nor a signal to `run`'s group reaches it, but in the same session, so that the
//! command keeps its terminal. What it does is decided by [`Plan`]; here is only the doing.

use super::close::close_session;
use super::control::{Control, Exit, FromGuard, ToGuard};
use super::plan::{Action, Plan, SIGKILL};
use arbiterq_client::Access;
use arbiterq_client::clock::{Clock, Micros};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// How often to look at the clock: the runtime's timers stand still while the machine is suspended.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often to look whether the group is empty, once its first process has ended: nothing tells.
const GROUP_LOOK: Duration = Duration::from_millis(2);
/// Closing is tried for at least so long, also where no lease is known.
const CLOSE_AT_LEAST: Duration = Duration::from_secs(2);

/// Guards one command, with the pipe as standard input.
pub(crate) fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let guarded = runtime.and_then(|runtime| {
        runtime.block_on(async {
            ignore_signals()?;
            Guard::new()?.guard().await
        })
    });
    match guarded {
        Ok(()) => ExitCode::SUCCESS,
        // `run` sees the end of the pipe, and that is all there is to say.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Registers for what would end or stop this process and never looks: commands start without it again.
fn ignore_signals() -> std::io::Result<()> {
    let ended_by = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::alarm(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let stopped_by =
        [Signal::TSTP, Signal::TTIN, Signal::TTOU].map(|signal| SignalKind::from_raw(signal.as_raw()));
    for kind in ended_by.into_iter().chain(stopped_by) {
        if kind == SignalKind::hangup() && super::hangup_is_ignored() {
            continue;
        }
        drop(signal(kind)?);
    }
    Ok(())
}

/// The session to close.
struct Session {
    url: String,
    access: Access,
    partition: u32,
    auth: arbiterq_client::wire::Auth,
    lease: Micros,
}

struct Guard {
    control: Control,
    plan: Plan,
    children: SignalStream,
    session: Option<Session>,
    group: Option<Pid>,
    /// What `run` has not taken yet. It may be stopped, and is never waited for: the deadline does not wait.
    unsaid: Vec<u8>,
    leave: bool,
}

impl Guard {
    fn new() -> std::io::Result<Self> {
        // A copy that the command does not inherit.
        let control = std::io::stdin().as_fd().try_clone_to_owned()?;
        // What the command leaves behind becomes our child, so that we see it end.
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self {
            control: Control::new(control)?,
            plan: Plan::new(),
            children: signal(SignalKind::child())?,
            session: None,
            group: None,
            unsaid: Vec::new(),
            leave: false,
        })
    }

    async fn guard(mut self) -> std::io::Result<()> {
        while !self.leave {
            let pause = self.pause();
            let actions = tokio::select! {
                biased;
                message = self.control.receive(), if !self.plan.is_alone() => match message {
                    Ok(Some(message)) => self.told(message),
                    // An end, or something that `run` would not say.
                    Ok(None) | Err(_) => self.plan.pipe_ended(),
                },
                _ = self.children.recv() => Vec::new(),
                () = tokio::time::sleep(pause) => Vec::new(),
            };
            self.carry_out(actions).await;
            self.reap();
            if self.plan.waits_for_group() && self.group_is_empty() {
                self.group = None;
                let actions = self.plan.group_empty();
                self.carry_out(actions).await;
            }
            let actions = self.plan.time(Clock::Boot.now());
            self.carry_out(actions).await;
            self.say();
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        if self.plan.waits_for_group() {
            return GROUP_LOOK;
        }
        let left = |wake: Micros| Duration::from_micros(wake.saturating_sub(Clock::Boot.now()));
        self.plan.wake().map_or(LOOK_AGAIN, left).min(LOOK_AGAIN)
    }

    fn told(&mut self, message: ToGuard) -> Vec<Action> {
        match message {
            ToGuard::Session { url, access, partition, session, key, lease } => {
                let auth = arbiterq_client::wire::Auth { session, key };
                self.session = Some(Session { url, access, partition, auth, lease });
                Vec::new()
            }
            ToGuard::Start { command, variables, deadline, lease, kill_after } => {
                let stdin = self.control.take_file();
                // Our turn may have come late: somebody else may hold by now.
                if Clock::Boot.now() >= deadline {
                    self.report(&FromGuard::Lapse);
                    return Vec::new();
                }
                let report = match start(command, variables, stdin) {
                    Ok(group) => {
                        self.group = Some(group);
                        self.plan.started(deadline, lease, kill_after);
                        FromGuard::Started(group.as_raw_nonzero().get())
                    }
                    Err(error) => FromGuard::Failed {
                        errno: error.raw_os_error().unwrap_or(0),
                        message: error.to_string(),
                    },
                };
                self.report(&report);
                Vec::new()
            }
            ToGuard::Deadline(deadline) => {
                self.plan.renewed(deadline);
                Vec::new()
            }
            ToGuard::Signal(signal) => self.plan.signal(signal),
            ToGuard::Stop { at_once } => self.plan.stop(at_once, Clock::Boot.now()),
            ToGuard::Done => self.plan.done(),
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Signal(signal) => self.send_signal(signal),
                Action::ReportLapse => self.report(&FromGuard::Lapse),
                Action::ReportEnded { exit, stopped } => self.report(&FromGuard::Ended { exit, stopped }),
                Action::CloseSession => {
                    // It may take as long as a lease, and whoever reads what the command said is to see the end.
                    say_no_more();
                    if let Some(Session { url, access, partition, auth, lease }) = self.session.take() {
                        let limit = Duration::from_micros(lease).max(CLOSE_AT_LEAST);
                        close_session(&url, &access, partition, auth, limit).await;
                    }
                }
                Action::Leave => self.leave = true,
            }
        }
    }

    fn send_signal(&self, number: i32) {
        if let (Some(group), Some(signal)) = (self.group, Signal::from_named_raw(number)) {
            // The group may be empty already; then there is nothing to signal.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Collects every child that has ended, also those that the command left behind.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            if Some(pid) != self.group {
                continue;
            }
            if let Some(signal) = status.stopping_signal().filter(|_| status.stopped()) {
                // One that is still to be taken says it already.
                if self.unsaid.is_empty() {
                    self.report(&FromGuard::Suspended(signal));
                }
            } else {
                let code = status.exit_status().map(Exit::Code);
                let exit = code.unwrap_or(Exit::Signal(status.terminating_signal().unwrap_or(SIGKILL)));
                self.plan.command_ended(exit, Clock::Boot.now());
            }
        }
    }

    fn group_is_empty(&self) -> bool {
        self.group.is_none_or(|group| test_kill_process_group(group) == Err(rustix::io::Errno::SRCH))
    }

    fn report(&mut self, message: &FromGuard) {
        // A value of ours: serialising cannot fail.
        self.unsaid.extend(serde_json::to_vec(message).unwrap_or_default());
        self.unsaid.push(b'\n');
        self.say();
    }

    fn say(&mut self) {
        if self.control.send_now(&mut self.unsaid).is_err() {
            // `run` is gone: the end of the pipe says so next.
            self.unsaid.clear();
        }
    }
}

/// Lets go of what `run` and the command wrote to.
fn say_no_more() {
    // Where it fails, a reader waits longer.
    if let Ok(nowhere) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(&nowhere);
        let _ = dup2_stderr(&nowhere);
    }
}

/// Starts the command in a process group of its own.
fn start(
    command: Vec<Vec<u8>>,
    variables: Vec<(String, String)>,
    stdin: Option<OwnedFd>,
) -> std::io::Result<Pid> {
    let mut words = command.into_iter().map(OsString::from_vec);
    let program = words.next().ok_or(std::io::ErrorKind::InvalidInput)?;
    let child = Command::new(program)
        .args(words)
        .envs(variables)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .process_group(0)
        .spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
