//! The guard, as `run` sees it.

use super::GUARD;
use super::control::{Control, FromGuard, ToGuard};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What `run` is given by a guard that was asked to start a command.
pub(super) enum Spawned {
    /// It runs in this process group.
    Running(Pid),
    /// It was not started: the lease was over.
    Late,
    /// It could not be started.
    Failed {
        /// The system's number.
        errno: i32,
        /// In words.
        message: String,
    },
}

/// A guard process.
pub(super) struct Child {
    control: Control,
    process: std::process::Child,
}

impl Child {
    /// Starts a guard, with nothing to guard yet.
    pub(super) fn guard() -> io::Result<Self> {
        let (ours, guards) = UnixStream::pair()?;
        let mut guard = Command::new(own_program()?);
        #[cfg(feature = "rabbitmq")]
        for name in crate::cli::access::VARIABLES {
            guard.env_remove(name);
        }
        let process = guard
            .arg0("arbiter")
            .arg(GUARD)
            // The command inherits the guard's environment, and what lets us in is not for it.
            .env_remove("ARBITER_URL")
            .stdin(Stdio::from(OwnedFd::from(guards)))
            .process_group(0)
            .spawn()?;
        // If the guard is killed, what it leaves behind becomes our child, and we see it end.
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self { control: Control::new(ours.into())?, process })
    }

    /// Tells the guard.
    pub(super) async fn tell(&self, message: &ToGuard) -> io::Result<()> {
        self.control.send(message, None).await
    }

    /// Has the command started, with our standard input.
    pub(super) async fn start(&mut self, start: &ToGuard) -> io::Result<Spawned> {
        self.control.send(start, Some(io::stdin().as_fd())).await?;
        match self.control.receive().await? {
            Some(FromGuard::Started(group)) => match Pid::from_raw(group) {
                Some(group) => Ok(Spawned::Running(group)),
                None => Err(io::ErrorKind::InvalidData.into()),
            },
            Some(FromGuard::Lapse) => Ok(Spawned::Late),
            Some(FromGuard::Failed { errno, message }) => Ok(Spawned::Failed { errno, message }),
            _ => Err(io::Error::other("the guard process ended before it started the command")),
        }
    }

    /// The guard's next word; none if it is gone. Cancel safe.
    pub(super) async fn report(&mut self) -> Option<FromGuard> {
        self.control.receive().await.ok().flatten()
    }

    /// Lets the guard go; it has nothing left to do.
    pub(super) async fn dismiss(mut self) {
        if self.tell(&ToGuard::Done).await.is_ok() {
            // It leaves at once; the end of its end of the pipe says so.
            let _ = timeout(Duration::from_secs(1), self.report()).await;
            let _ = self.process.try_wait();
        }
    }
}

/// This program, also if its file has been replaced since.
fn own_program() -> io::Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    if link.exists() { Ok(link.to_owned()) } else { std::env::current_exe() }
}

/// How long killed processes may take to be gone before we stop looking.
const KILLED: Duration = Duration::from_secs(5);

/// Kills a group whose guard is gone, and waits until it is empty.
pub(super) async fn kill_group(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
    let gone = async {
        while test_kill_process_group(group) != Err(rustix::io::Errno::SRCH) {
            while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = timeout(KILLED, gone).await;
}
