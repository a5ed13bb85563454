//! What users wait for: tickets, grants, and answers to giving back.

use super::{Handle, Number};
use crate::core::{Ask, End, Event};
use crate::error::{Error, ErrorKind};
use crate::grant::{Belief, Grant, GrantParts, Outcome, Receipt};
use crate::ticket::{Position, View};
use crate::wire::{Claim, Granted, LogId, OwnerRef, Reason};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Every request that a user may still hear of.
#[derive(Default)]
pub(super) struct Requests {
    live: BTreeMap<Number, User>,
}

struct User {
    partition: u32,
    claims: Vec<Claim>,
    wait: Option<Duration>,
    view: watch::Sender<View>,
    /// Until it is decided: whom to tell, and what a grant gives itself back with.
    undecided: Option<(oneshot::Sender<Result<Grant, Error>>, Handle)>,
    /// Once it is held.
    belief: Option<watch::Sender<Belief>>,
    withdrawn: Vec<oneshot::Sender<()>>,
    given_back: Vec<oneshot::Sender<Outcome>>,
}

impl Requests {
    /// How many are asked, waited for or held.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    pub(super) fn ask(
        &mut self,
        request: Number,
        partition: u32,
        ask: &Ask,
        view: watch::Sender<View>,
        decided: oneshot::Sender<Result<Grant, Error>>,
        handle: Handle,
    ) {
        let user = User {
            partition,
            claims: ask.claims.clone(),
            wait: ask.wait,
            view,
            undecided: Some((decided, handle)),
            belief: None,
            withdrawn: Vec::new(),
            given_back: Vec::new(),
        };
        self.live.insert(request, user);
    }

    /// A ticket was dropped; the partition to say it to, if that is news.
    pub(super) fn withdrawing(&mut self, request: Number, done: Option<oneshot::Sender<()>>) -> Option<u32> {
        let Some(user) = self.live.get_mut(&request) else {
            done.map(|done| done.send(()));
            return None;
        };
        // Nobody waits for it any more; a grant that comes all the same gives itself back.
        user.undecided = None;
        user.withdrawn.extend(done);
        Some(user.partition)
    }

    /// A grant was dropped or released; the partition to say it to, if that is news.
    pub(super) fn giving_back(
        &mut self,
        request: Number,
        done: Option<oneshot::Sender<Outcome>>,
    ) -> Option<u32> {
        let Some(user) = self.live.get_mut(&request) else {
            done.map(|done| done.send(Outcome::Released));
            return None;
        };
        user.given_back.extend(done);
        Some(user.partition)
    }

    /// What was lost before it was given back needs no answer of the arbiter's.
    pub(super) fn forget_if_lost(&mut self, request: Number) {
        let lost = self.live.get(&request).and_then(|user| user.belief.as_ref()?.borrow().lost);
        if let Some(reason) = lost {
            self.settled(request, reason);
        }
    }

    pub(super) fn event(&mut self, partition: u32, event: Event) {
        match event {
            Event::Position { request, position, waiting, held_by } => {
                if let Some(user) = self.live.get(&request) {
                    user.view.send_modify(|view| {
                        let before = view.position.take();
                        let waiting =
                            waiting.or(before.as_ref().map(|before| before.waiting)).unwrap_or(position);
                        let held_by = held_by.or(before.and_then(|before| before.held_by));
                        view.position = Some(Position { position, waiting: waiting.max(position), held_by });
                    });
                }
            }
            Event::Granted { request, owner, granted, genesis, until } => {
                self.granted(partition, request, owner, granted, genesis, until);
            }
            Event::Believed { until } => {
                let held = self.live.values().filter(|user| user.partition == partition);
                for belief in held.filter_map(|user| user.belief.as_ref()) {
                    belief.send_modify(|belief| {
                        if belief.lost.is_none() {
                            belief.until = until;
                        }
                    });
                }
            }
            Event::Lost { request, reason, .. } => {
                if let Some(belief) = self.live.get(&request).and_then(|user| user.belief.as_ref()) {
                    belief.send_modify(|belief| belief.lost = belief.lost.or(Some(reason)));
                }
            }
            Event::Ended { request, end } => self.ended(request, end),
            Event::Settled { request, reason } => self.settled(request, reason),
            _ => {}
        }
    }

    fn granted(
        &mut self,
        partition: u32,
        request: Number,
        owner: OwnerRef,
        granted: Granted,
        genesis: LogId,
        until: u64,
    ) {
        let Some(user) = self.live.get_mut(&request) else { return };
        let Some((decided, handle)) = user.undecided.take() else { return };
        let (belief, seen) = watch::channel(Belief { until, lost: None });
        user.belief = Some(belief);
        user.view.send_modify(|view| view.decided = true);
        let grant = Grant::new(GrantParts {
            request,
            owner,
            session: owner.0,
            claims: user.claims.clone(),
            floors: granted.floors,
            receipt: Receipt { log_id: genesis, partition, index: granted.token, hash: granted.hash },
            belief: seen,
            handle,
        });
        // Refused by a ticket that is gone, the grant is dropped here and gives itself back.
        let _ = decided.send(Ok(grant));
    }

    fn ended(&mut self, request: Number, end: End) {
        if let Some(user) = self.live.get(&request) {
            let error = error(&user.claims, user.wait, end);
            self.fail(request, error);
        }
    }

    /// It is over without a grant.
    pub(super) fn fail(&mut self, request: Number, error: Error) {
        let Some(user) = self.live.remove(&request) else { return };
        let position = user.view.borrow().position.clone();
        user.view.send_modify(|view| view.decided = true);
        if let Some((decided, _)) = user.undecided {
            let _ = decided.send(Err(error.at(position)));
        }
        for done in user.withdrawn {
            let _ = done.send(());
        }
        for done in user.given_back {
            let _ = done.send(Outcome::Released);
        }
    }

    fn settled(&mut self, request: Number, reason: Reason) {
        let Some(user) = self.live.remove(&request) else { return };
        let outcome = match reason {
            Reason::Released | Reason::Cancelled => Outcome::Released,
            reason => Outcome::AlreadyLost(reason),
        };
        for done in user.withdrawn {
            let _ = done.send(());
        }
        for done in user.given_back {
            let _ = done.send(outcome);
        }
    }
}

/// What a refusal is for a user.
pub(super) fn refused(reason: Reason, detail: &str) -> Error {
    let what =
        if detail.is_empty() { format!("refused: {reason}") } else { format!("refused: {reason}: {detail}") };
    Error::new(ErrorKind::Refused(reason), what)
}

fn error(claims: &[Claim], wait: Option<Duration>, end: End) -> Error {
    let names: Vec<_> = claims.iter().map(|claim| claim.resource.as_str()).collect();
    let names = names.join(", ");
    let not_free = |met: String| {
        let within = wait.map(|wait| format!(" within {wait:?}")).unwrap_or_default();
        Error::new(ErrorKind::NotGranted, format!("{names} was not free{within}"))
            .met(met)
            .done("the request has been withdrawn")
            .help("wait longer, or look at who holds it")
    };
    match end {
        End::Refused { reason: Reason::Busy, .. } => {
            Error::new(ErrorKind::Busy, format!("{names} is not free"))
                .help("wait for it instead of trying once")
        }
        End::Refused { reason, detail } => refused(reason, &detail),
        End::Ended(Reason::WaitLimit) => not_free("it is held".into()),
        End::NoAnswer => Error::new(ErrorKind::NoArbiter, "no arbiter answers"),
        End::Ended(reason) => {
            Error::new(ErrorKind::Refused(reason), format!("{names}: the request ended: {reason}"))
        }
        End::Lost(reason) => Error::new(
            ErrorKind::Lost(reason),
            format!("{names} was granted and lost before it could be used: {reason}"),
        ),
        End::Closed => Error::closed(),
    }
}
