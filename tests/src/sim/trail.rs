//! What happened last, for people. Kept only in a run that is known to end badly: the seed gives the same again.

use std::collections::VecDeque;

/// Lines that are kept.
const KEPT: usize = 250;

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// Whether anybody wants to read it.
    pub(super) kept: bool,
    pub(super) lines: VecDeque<String>,
}

impl Trail {
    /// Notes a line, if it is kept at all.
    pub(super) fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.kept {
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>12.6} {}", now as f64 / 1e6, line()));
        }
    }

    /// What was noted.
    pub(super) fn lines(self) -> Vec<String> {
        self.lines.into()
    }
}
