//! Probes: where replies that nobody is there for come back, a holder that somebody waits for is written to now and then.
//!
//! Only of a session that asked to fail fast its absence is of use: it ends that much earlier. Every other holder is left
//! alone until its lease decides.

use super::{Answer, Partition, Read, Uptime};
use arbiterq_client::wire::SessionId;
use std::time::Duration;

/// In the time after which a session asked to fail, it is written to so often.
const PROBES_A_TIME: u32 = 4;

impl Partition {
    /// A session was opened, or is there at the beginning of an epoch.
    pub(super) fn may_be_probed(&mut self, session: SessionId) {
        let fails_fast = self.state.session(session).is_some_and(|known| known.fail_fast_ms().is_some());
        if fails_fast && self.config.returns {
            self.probes.insert((Uptime::ZERO, session));
        }
    }

    /// Tells those that it is time for what they have, as if they had asked.
    pub(super) fn probe(&mut self, now: Uptime) {
        while let Some((_, session)) = self.probes.first().copied().filter(|(due, _)| *due <= now) {
            self.probes.pop_first();
            let Some(known) = self.state.session(session) else { continue };
            let Some(ms) = known.fail_fast_ms() else { continue };
            if !known.unreachable() && self.state.blocks(session) {
                self.reads_since.get_or_insert(now);
                self.reads.push(Read { delivery: None, answer: Answer::Alive(session) });
            }
            self.probes.insert((now + Duration::from_millis(ms) / PROBES_A_TIME, session));
        }
    }
}
