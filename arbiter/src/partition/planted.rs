//! The planted wrong rules of a partition that need more than a condition: see [`crate::planted`].

use super::commands::acquire_command;
use super::{Outgoing, Partition, Source, Uptime};
#[cfg(any(test, feature = "planted"))]
use super::{Proof, Release};
use crate::log::chain::hash_of;
use crate::log::record::{Command, OpenCommand};
use crate::planted::Planted;
use arbiterq_client::wire::{Acquire, Auth, Principal, ReplyBody, Seq, SessionId, Timestamp, Token};
use std::time::Duration;

impl Partition {
    /// 13: what comes from the dead opens their session again.
    pub(super) fn raise(
        &mut self,
        acquire: Acquire,
        auth: &Auth,
        principal: &Principal,
        source: &Source,
        now: Uptime,
    ) {
        let key_hash = hash_of(auth.key.secret_bytes());
        if self.state.session_by_key(&key_hash).is_none() {
            let open = OpenCommand {
                key_hash,
                lease_ms: 10_000,
                fail_fast_ms: None,
                label: "raised".into(),
                principal: principal.name.clone(),
                principal_by: principal.by,
                reply_to: source.from.clone(),
            };
            self.decide_and_seal(Command::Open(open), None, now);
        }
        if let Some(session) = self.state.session_by_key(&key_hash) {
            self.decide_and_seal(acquire_command(session, acquire), None, now);
        }
    }

    /// 8: told before anything is proven.
    pub(super) fn repeat_at_once(&mut self, session: SessionId, seq: Seq, now: Uptime) {
        let (held, index, at) = (self.held.len(), self.state.tip().next_index - 1, self.at(now));
        self.answer_request(index, session, seq, at);
        self.let_go_from(held);
    }

    /// 58: told before anything is proven, or even sealed.
    pub(super) fn alive_at_once(&mut self, session: SessionId, n: u64) {
        let Some(mut alive) = self.state.alive(session) else { return };
        alive.n = alive.n.max(n);
        let (held, index) = (self.held.len(), self.known.next_index - 1);
        self.tell(index, session, ReplyBody::Alive(alive));
        self.let_go_from(held);
    }

    /// The one place where a proof is made up. In a build without planted rules there is none.
    #[cfg(not(any(test, feature = "planted")))]
    fn let_go_from(&mut self, _: usize) {}

    /// The one place where a proof is made up. In a build without planted rules there is none.
    #[cfg(any(test, feature = "planted"))]
    fn let_go_from(&mut self, held: usize) {
        let proof = Proof::through(u64::MAX);
        for held in self.held.split_off(held) {
            if let Ok(Release::Send(outgoing)) = held.open(&proof) {
                self.out.sends.push(outgoing);
            }
        }
    }

    /// 46, 56: whether a keep-alive renews that was counted before.
    pub(super) fn renews_again(&self, session: SessionId, is_newer: bool) -> bool {
        if self.plants.has(Planted::RenewalsOfActivation) && is_newer {
            let untouched = self.epoch_start.0;
            return self
                .state
                .session(session)
                .is_some_and(|known| known.lease_until() == untouched.plus_ms(known.lease_ms()));
        }
        self.plants.has(Planted::AnyRenewal)
    }

    /// 16, 33: whether any tick counts.
    pub(super) fn takes_any_tick(&self, at: Timestamp, now: Uptime) -> bool {
        // Another activation's, whose clock may be off, but not by decades.
        let likely = at < self.at(now).plus(Duration::from_secs(10_000_000));
        self.plants.has(Planted::AnyLetter) || likely && self.plants.has(Planted::AnyTick)
    }

    /// 22, 33: whether any `gone` counts.
    pub(super) fn takes_any_gone(&self) -> bool {
        self.plants.has(Planted::AnyLetter) || self.plants.has(Planted::AnyGone)
    }

    /// 21, 22, 33, 54: whether a grant is undone that others know of.
    pub(super) fn undoes_named(&self, token: Token) -> bool {
        self.plants.has(Planted::ReturnUndoesAnything)
            || self.plants.has(Planted::NamedBefore)
            || self.takes_any_gone() && !self.named.contains_key(&token)
    }

    /// 55: to the address as it is now.
    pub(super) fn readdressed(&self, mut outgoing: Outgoing) -> Outgoing {
        if self.plants.has(Planted::AddressAtSending)
            && let Some(mark) = &mut outgoing.mark
            && let Some(known) = self.state.session(mark.session)
            && let Some(to) = known.reply_to()
        {
            mark.n = known.attached();
            outgoing.to = to.clone();
        }
        outgoing
    }
}
