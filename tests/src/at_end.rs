//! What a test leaves nothing behind by, however it ends.

use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A shell script that runs when the value is dropped, and when this process has ended, however it did.
pub struct AtEnd(Child);

impl AtEnd {
    /// This script.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn run(script: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("read end; {script}")]).stdin(Stdio::piped()).process_group(0);
        Self(shell.spawn().expect("a shell"))
    }

    /// Runs it now, and waits until it is done.
    pub fn now(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }

    /// It is not run any more.
    pub fn never(mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.now();
    }
}
