//! The terminal: the command is in a process group of its own, and only the foreground group may read.

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process, kill_process_group};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use std::io::stdin;

/// Blocks the signal that stops a background process that sets the terminal's foreground group: that is what
/// taking it back is. Commands start with nothing blocked.
pub(super) fn block_background_stop() {
    // If it cannot be blocked, only taking the terminal back is worse for it.
    let _ = SigSet::from(NixSignal::SIGTTOU).thread_block();
}

/// The terminal, if it was ours to hand over.
pub(super) struct Terminal {
    group: Pid,
    handed_over: bool,
}

impl Terminal {
    /// Makes `group` the foreground group, if we are in it and standard input is a terminal.
    pub(super) fn hand_over(group: Pid) -> Self {
        let mut terminal = Self { group, handed_over: false };
        terminal.give();
        terminal
    }

    /// Hands it over, if it is ours now.
    pub(super) fn give(&mut self) {
        let input = stdin();
        let ours = isatty(&input) && tcgetpgrp(&input).is_ok_and(|foreground| foreground == getpgrp());
        if ours && tcsetpgrp(&input, self.group).is_ok() {
            self.handed_over = true;
            // It may have tried to read before it was allowed to, and been stopped for it.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// The command was stopped, as by Ctrl-Z: stops us as well, so that the shell has the terminal. Returns when
    /// we are continued; true if the command is to go on, too.
    pub(super) fn suspend(&mut self) -> bool {
        if !self.handed_over {
            return false;
        }
        self.take_back();
        let _ = kill_process(getpid(), Signal::STOP);
        // Continued: in the foreground, or in the background, where the terminal is not ours to give.
        self.give();
        true
    }

    /// Makes our own group the foreground group again.
    pub(super) fn take_back(&mut self) {
        if std::mem::take(&mut self.handed_over) {
            let _ = tcsetpgrp(stdin(), getpgrp());
        }
    }
}
