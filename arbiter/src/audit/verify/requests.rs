//! Events of requests: queued, granted, refused, and how they end.

use super::fold::{Cx, Fold};
use super::live::{Hold, Place, Request, Revoking, Standing};
use super::names::of_command;
use super::promise::{Broken, broken};
use super::resources::{Room, Taken, Turn};
use crate::log::record::{AcquireCommand, Command};
use arbiterq_client::wire::{
    Cause, Claim, ClaimGranted, Mode, OwnerRef, Reason, ResourceName, Seq, SessionId, Timestamp, Token,
    partition_of,
};
use std::sync::Arc;

/// What `queued` and `granted` say of a request beside its claims.
pub(super) struct Root {
    pub(super) session: SessionId,
    pub(super) seq: Seq,
    pub(super) owner: Option<OwnerRef>,
    pub(super) priority: u8,
    pub(super) wait_ms: Option<u64>,
    pub(super) hold_max_ms: Option<u64>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) value: Option<Arc<str>>,
}

impl Fold {
    pub(super) fn queued(
        &mut self,
        cx: &Cx<'_>,
        asked: &AcquireCommand,
        root: Root,
        claims: &[Claim],
    ) -> Result<(), Broken> {
        as_asked(asked, &root, claims == asked.claims)?;
        if root.hold_max_ms != asked.hold_max_ms {
            return broken!(Decision, "`queued` has another hold limit than its `acquire` asked");
        }
        if root.wait_ms == Some(0) {
            return broken!(Decision, "a request that would not wait is queued");
        }
        self.use_up(root.session, root.seq)?;
        let taken = self.claims(claims.iter().map(|claim| (&claim.resource, claim.mode, claim.permits)))?;
        for claim in &taken {
            self.resources.wait(claim, Turn::new(root.priority, cx.index));
        }
        self.counts.waits += 1;
        self.admit(cx, root, taken, Standing::Waiting)
    }

    pub(super) fn granted_at_once(
        &mut self,
        cx: &Cx<'_>,
        asked: &AcquireCommand,
        root: Root,
        claims: &[ClaimGranted],
    ) -> Result<(), Broken> {
        as_asked(asked, &root, same_claims(claims, &asked.claims))?;
        self.use_up(root.session, root.seq)?;
        let taken = self.claims(claims.iter().map(|claim| (&claim.resource, claim.mode, claim.permits)))?;
        self.may_hold(cx, &root, claims, &taken, Turn::new(root.priority, cx.index))?;
        self.hold_limit(&root, asked.hold_max_ms, &taken)?;
        let hold = self.hold(cx, cx.index, &taken, root.hold_max_ms);
        self.admit(cx, root, taken, hold)
    }

    pub(super) fn granted_waiter(
        &mut self,
        cx: &Cx<'_>,
        root: &Root,
        claims: &[ClaimGranted],
    ) -> Result<(), Broken> {
        let (session, seq) = (root.session, root.seq);
        let Some(place) = self.session(session)?.live.get(&seq).copied() else {
            return broken!(Forward, "request {seq} of session {session} does not wait");
        };
        let Some(request) = self.requests.get_mut(&place) else { return Ok(()) };
        let turn = Turn::new(request.priority, place);
        match &request.standing {
            Standing::Waiting => {}
            Standing::Suspended => {
                return broken!(Suspension, "request {seq} of session {session} is suspended");
            }
            Standing::Held(hold) => {
                return broken!(
                    Once,
                    "request {seq} of session {session} holds already, with token {}",
                    hold.token
                );
            }
        }
        let same = (request.owner, request.priority, request.wait_ms)
            == (root.owner, root.priority, root.wait_ms)
            && (&request.reason, &request.value) == (&root.reason, &root.value);
        let asked_ms = request.hold_max_ms;
        // Taken out for as long as the borrow of the rest lasts.
        let taken = std::mem::take(&mut request.claims);
        let same_claims = taken.len() == claims.len()
            && taken.iter().zip(claims).all(|(taken, granted)| {
                (taken.mode, taken.permits) == (granted.mode, granted.permits.unwrap_or(0))
                    && self.resources.name(taken.resource) == granted.resource.as_str()
            });
        if !same || !same_claims {
            return broken!(
                Decision,
                "request {seq} of session {session} is granted something else than it waits for"
            );
        }
        self.may_hold(cx, root, claims, &taken, turn)?;
        self.hold_limit(root, asked_ms, &taken)?;
        if self.ready.first() != Some(&turn) {
            let before =
                self.ready.first().map_or_else(|| "nobody".to_owned(), |turn| self.called(turn.place));
            return broken!(Order, "request {seq} of session {session} is granted; the next is {before}");
        }
        self.ready.remove(&turn);
        for claim in &taken {
            self.resources.unwait(claim, turn, true);
        }
        let hold = self.hold(cx, place, &taken, root.hold_max_ms);
        if let Some(request) = self.requests.get_mut(&place) {
            request.claims = taken;
            request.standing = hold;
            // If the grant is undone, this is what it waits with.
            request.hold_max_ms = root.hold_max_ms;
        }
        Ok(())
    }

    pub(super) fn refused(&mut self, session: SessionId, seq: Seq) -> Result<(), Broken> {
        self.counts.refusals += 1;
        self.use_up(session, seq)
    }

    pub(super) fn ended(
        &mut self,
        cx: &Cx<'_>,
        session: SessionId,
        seq: Seq,
        reason: Reason,
    ) -> Result<(), Broken> {
        let place = self.session(session)?.live.get(&seq).copied();
        let by_cancel = match cx.command {
            Command::Cancel { session: whose, seq: which } => {
                if (*whose, *which, reason) != (session, seq, Reason::Cancelled) {
                    return broken!(Decision, "`ended` is not what its `cancel` asked");
                }
                true
            }
            _ => false,
        };
        let Some(place) = place else {
            if by_cancel {
                return self.use_up(session, seq);
            }
            return broken!(Forward, "request {seq} of session {session} does not wait");
        };
        let Some(request) = self.requests.get(&place) else { return Ok(()) };
        if let Standing::Held(hold) = &request.standing {
            return broken!(
                NoLoss,
                "request {seq} of session {session} holds, with token {}, and is ended",
                hold.token
            );
        }
        match (cx.command, reason) {
            (Command::Cancel { .. }, _) => {}
            (Command::Tick { at }, Reason::WaitLimit) => {
                self.tick_counts(cx, *at)?;
                if request.wait_due.is_none_or(|due| !self.is_due(due, *at)) {
                    return broken!(
                        NoLoss,
                        "the wait limit of request {seq} of session {session} is not over at {at}"
                    );
                }
            }
            (Command::Advance, Reason::Policy) => {
                let principal = &self.session(session)?.principal;
                let forbidden = request.claims.iter().any(|claim| {
                    claim.permits > self.resources.get(claim.resource).capacity
                        || !self.resources.allows(claim.resource, principal)
                });
                if !forbidden || matches!(request.standing, Standing::Suspended) {
                    return broken!(
                        NoLoss,
                        "the policy allows request {seq} of session {session}, which it ends"
                    );
                }
                if !self.is_its_turn(cx, request, Turn::new(request.priority, place)) {
                    return broken!(
                        Order,
                        "the policy ends request {seq} of session {session} before its turn"
                    );
                }
            }
            (command, reason) => {
                let command = of_command(command);
                return broken!(
                    NoLoss,
                    "request {seq} of session {session} ended with {reason} by a `{command}`"
                );
            }
        }
        self.leave(session, seq, place, false);
        Ok(())
    }

    /// Whether a waiter would be granted if it were allowed and wanted no more permits than there are.
    fn is_its_turn(&self, cx: &Cx<'_>, request: &Request, turn: Turn) -> bool {
        let fits = request.claims.iter().all(|claim| {
            let resource = self.resources.get(claim.resource);
            let permits = claim.permits.min(resource.capacity);
            resource.delay.is_none_or(|delay| delay.until <= cx.at)
                && matches!(self.resources.room(&Taken { permits, ..*claim }, turn), Room::Free)
        });
        fits && !self.paused && self.ready.first().is_none_or(|first| turn < *first)
    }

    pub(super) fn released(
        &mut self,
        cx: &Cx<'_>,
        token: Token,
        reason: Reason,
        by: Option<&Arc<str>>,
    ) -> Result<(), Broken> {
        let (place, request, hold) = self.in_force(token)?;
        let (session, seq) = (request.session, request.seq);
        let revoked = hold.revoking.as_ref().map(|revoking| revoking.reason);
        // Who revoked it is named again when it ends for that reason.
        let revoker = hold.revoking.as_ref().filter(|revoking| revoking.reason == reason);
        let given_back = matches!(cx.command, Command::Release { .. } | Command::Cancel { .. });
        if given_back && by != revoker.and_then(|revoking| revoking.by.as_ref()) {
            return broken!(Decision, "token {token} is given back, and by another than took it away");
        }
        let mut lost = false;
        match cx.command {
            Command::Release { session: whose, token: which } => {
                if (*whose, *which) != (session, token) {
                    return broken!(
                        Decision,
                        "token {token} of session {session} is not what its `release` names"
                    );
                }
                if reason != revoked.unwrap_or(Reason::Released) {
                    return broken!(Decision, "token {token} is given back and released with {reason}");
                }
            }
            Command::Cancel { session: whose, seq: which } => {
                if (*whose, *which) != (session, seq) {
                    return broken!(Decision, "token {token} is not of the request that its `cancel` names");
                }
                if reason != revoked.unwrap_or(Reason::Cancelled) {
                    return broken!(Decision, "token {token} is cancelled and released with {reason}");
                }
            }
            Command::Tick { at } => {
                self.tick_counts(cx, *at)?;
                let Some(revoking) = &hold.revoking else {
                    return broken!(Revocation, "token {token} is taken away and was not being revoked");
                };
                if !self.is_due(revoking.due, *at) {
                    return broken!(
                        Revocation,
                        "token {token} is taken away at {at}, before its time is over"
                    );
                }
                if reason != revoking.reason || by != revoking.by.as_ref() {
                    return broken!(
                        Decision,
                        "token {token} is released with {reason}, not as it was revoked"
                    );
                }
                lost = true;
            }
            Command::ForceRelease { .. } => {
                self.forced(cx, request, token, true, reason, by)?;
                lost = true;
            }
            _ => return broken!(Decision, "`released` by a `{}`", of_command(cx.command)),
        }
        self.leave(session, seq, place, lost);
        Ok(())
    }

    pub(super) fn revoking(
        &mut self,
        cx: &Cx<'_>,
        token: Token,
        reason: Reason,
        by: Option<Arc<str>>,
        until: Timestamp,
    ) -> Result<(), Broken> {
        let (place, request, hold) = self.in_force(token)?;
        if hold.revoking.is_some() {
            return broken!(Revocation, "token {token} is being revoked already");
        }
        if let Command::Tick { at } = cx.command {
            self.tick_counts(cx, *at)?;
            if reason != Reason::HoldLimit || by.is_some() {
                return broken!(Decision, "a tick revokes token {token} with {reason}");
            }
            if hold.hold_due.is_none_or(|due| !self.is_due(due, *at)) {
                return broken!(Revocation, "the hold limit of token {token} is not over at {at}");
            }
        } else {
            self.forced(cx, request, token, false, reason, by.as_ref())?;
        }
        let lease_ms = self.session(request.session)?.lease_ms;
        let due = cx.at.plus_ms(lease_ms);
        if until != due {
            return broken!(
                Revocation,
                "token {token} is revoked until {until}; one lease of {lease_ms} ms is {due}"
            );
        }
        let due = self.gapless(until);
        if let Some(Request { standing: Standing::Held(hold), .. }) = self.requests.get_mut(&place) {
            hold.revoking = Some(Revoking { reason, by, due });
        }
        Ok(())
    }

    /// Whether an operator's command is about this grant, and this is what it does.
    fn forced(
        &self,
        cx: &Cx<'_>,
        request: &Request,
        token: Token,
        at_once: bool,
        reason: Reason,
        by: Option<&Arc<str>>,
    ) -> Result<(), Broken> {
        let Command::ForceRelease { resource, token: named, by: operator, now, .. } = cx.command else {
            return broken!(Decision, "forced by a `{}`", of_command(cx.command));
        };
        let named_it = *named == token
            && request.claims.iter().any(|claim| self.resources.name(claim.resource) == resource.as_str());
        if !named_it || reason != Reason::Forced || by != Some(operator) {
            return broken!(Decision, "token {token} is not taken as its `force_release` says");
        }
        if *now != at_once {
            return broken!(Revocation, "token {token} is taken at once, or not, against what was commanded");
        }
        Ok(())
    }

    pub(super) fn suspended(
        &mut self,
        cx: &Cx<'_>,
        session: SessionId,
        seq: Seq,
        token: Token,
    ) -> Result<(), Broken> {
        let attached = self.session(session)?.attached;
        let (place, request, hold) = self.in_force(token)?;
        if (request.session, request.seq) != (session, seq) {
            return broken!(Forward, "token {token} is not of request {seq} of session {session}");
        }
        match cx.command {
            Command::Gone { session: whose, n, seq: Some(which), cause: Cause::Returned }
                if (*whose, *which) == (session, seq) =>
            {
                if *n != attached {
                    return broken!(Suspension, "a reply to address {n} came back, {attached} is in force");
                }
            }
            _ => return broken!(Decision, "`suspended` is not what its `gone` says"),
        }
        if hold.revoking.is_some() {
            return broken!(Suspension, "token {token} is being revoked: its holder was told of it again");
        }
        if token <= self.epoch_index {
            return broken!(Suspension, "token {token} is of an earlier epoch: somebody may have seen it");
        }
        self.grants.remove(&token);
        if let Some(request) = self.requests.get_mut(&place) {
            request.standing = Standing::Suspended;
            for claim in &request.claims {
                self.resources.unhold(claim, token);
                self.resources.suspend(claim);
            }
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.suspended += 1;
        }
        Ok(())
    }

    /// Takes a request away from its session and from its resources.
    fn leave(&mut self, session: SessionId, seq: Seq, place: Place, lost: bool) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.live.remove(&seq);
            if let Some(Request { standing: Standing::Suspended, .. }) = self.requests.get(&place) {
                session.suspended -= 1;
            }
        }
        self.forget(place, lost);
    }

    /// Takes a request away from its resources.
    pub(super) fn forget(&mut self, place: Place, lost: bool) {
        let Some(request) = self.requests.remove(&place) else { return };
        let turn = Turn::new(request.priority, place);
        self.ready.remove(&turn);
        match request.standing {
            Standing::Held(hold) => {
                self.grants.remove(&hold.token);
                for claim in &request.claims {
                    self.resources.unhold(claim, hold.token);
                    if lost {
                        self.lost.push((claim.resource, false));
                    }
                }
            }
            Standing::Waiting => {
                for claim in &request.claims {
                    self.resources.unwait(claim, turn, false);
                }
            }
            Standing::Suspended => {
                for claim in &request.claims {
                    self.resources.unsuspend(claim);
                }
            }
        }
    }

    /// A grant in force, by its token.
    fn in_force(&self, token: Token) -> Result<(Place, &Request, &Hold), Broken> {
        if let Some(place) = self.grants.get(&token)
            && let Some(request) = self.requests.get(place)
            && let Standing::Held(hold) = &request.standing
        {
            return Ok((*place, request, hold));
        }
        broken!(Forward, "no grant with token {token} is in force")
    }

    /// Uses up a request number of a live session.
    fn use_up(&mut self, session: SessionId, seq: Seq) -> Result<(), Broken> {
        match self.sessions.get_mut(&session) {
            Some(live) => live.seen.take(session, seq),
            None => broken!(Forward, "session {session} is not live"),
        }
    }

    fn admit(
        &mut self,
        cx: &Cx<'_>,
        root: Root,
        claims: Vec<Taken>,
        standing: Standing,
    ) -> Result<(), Broken> {
        let Some(session) = self.sessions.get_mut(&root.session) else { return Ok(()) };
        session.live.insert(root.seq, cx.index);
        if session.live.len() > session.in_flight_max as usize {
            let (live, most) = (session.live.len(), session.in_flight_max);
            return broken!(Once, "session {} has {live} live requests, it may have {most}", root.session);
        }
        let request = Request {
            session: root.session,
            seq: root.seq,
            priority: root.priority,
            owner: root.owner,
            claims,
            wait_due: root.wait_ms.map(|ms| self.gapless(cx.at).plus_ms(ms)),
            wait_ms: root.wait_ms,
            hold_max_ms: root.hold_max_ms,
            reason: root.reason,
            value: root.value,
            standing,
        };
        self.requests.insert(cx.index, request);
        Ok(())
    }

    /// A grant's hold limit is the shortest of what was asked and of what its resources' rules say.
    fn hold_limit(&self, root: &Root, asked_ms: Option<u64>, taken: &[Taken]) -> Result<(), Broken> {
        let rules = taken.iter().map(|claim| self.resources.hold_max_ms(claim.resource));
        let due_ms = rules.chain([asked_ms]).flatten().min();
        if root.hold_max_ms == due_ms {
            return Ok(());
        }
        let shown = |ms: Option<u64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms"));
        broken!(Decision, "a hold limit of {}; it is {}", shown(root.hold_max_ms), shown(due_ms))
    }

    fn hold(&mut self, cx: &Cx<'_>, place: Place, taken: &[Taken], hold_max_ms: Option<u64>) -> Standing {
        let token = cx.index;
        for claim in taken {
            self.resources.hold(claim, token);
        }
        self.grants.insert(token, place);
        self.counts.grants += 1;
        let hold_due = hold_max_ms.map(|ms| self.gapless(cx.at).plus_ms(ms));
        Standing::Held(Hold { token, hold_due, revoking: None })
    }

    /// The claims of a request that becomes live.
    fn claims<'a>(
        &mut self,
        claims: impl ExactSizeIterator<Item = (&'a ResourceName, Mode, Option<u32>)>,
    ) -> Result<Vec<Taken>, Broken> {
        let mut taken: Vec<Taken> = Vec::with_capacity(claims.len());
        for (name, mode, permits) in claims {
            let resource = match self.resources.live(name) {
                Some(resource) => resource,
                None => self.enter(name)?,
            };
            taken.push(Taken { resource, mode, permits: permits.unwrap_or(0) });
        }
        Ok(taken)
    }

    fn enter(&mut self, name: &ResourceName) -> Result<u32, Broken> {
        let Some(genesis) = &self.genesis else { return broken!(Evidence, "no genesis") };
        let partition = partition_of(name, genesis.partitions);
        if partition != genesis.partition {
            let here = genesis.partition;
            return broken!(Placement, "{name} belongs to partition {partition}, this is the log of {here}");
        }
        Ok(self.resources.enter(name))
    }

    /// Exclusion, order, floors and capacities of a grant.
    fn may_hold(
        &self,
        cx: &Cx<'_>,
        root: &Root,
        claims: &[ClaimGranted],
        taken: &[Taken],
        turn: Turn,
    ) -> Result<(), Broken> {
        if self.paused {
            return broken!(Withheld, "granted while paused");
        }
        let principal = &self.session(root.session)?.principal;
        for (claim, taken) in claims.iter().zip(taken) {
            let resource = self.resources.get(taken.resource);
            let name = &claim.resource;
            match self.resources.room(taken, turn) {
                Room::Free => {}
                Room::Held(token) => {
                    return broken!(Exclusion, "{name} is held with token {token}, which leaves no room");
                }
                Room::OverCapacity => {
                    return broken!(
                        Exclusion,
                        "{} permits of {name}, which has {}",
                        taken.permits,
                        resource.capacity
                    );
                }
                Room::Earlier(place) => {
                    return broken!(
                        Order,
                        "{} waits for {name}, is earlier, and is passed",
                        self.called(place)
                    );
                }
            }
            if claim.capacity != resource.capacity {
                return broken!(
                    Exclusion,
                    "capacity {} of {name}; the policy says {}",
                    claim.capacity,
                    resource.capacity
                );
            }
            if let Some(delay) = resource.delay
                && delay.until > cx.at
            {
                return broken!(
                    Withheld,
                    "{name} is granted before {}, when its lock-delay is over",
                    delay.until
                );
            }
            let floor = resource.holders.first().map_or(cx.index, |holder| holder.token);
            if claim.floor != floor {
                return broken!(
                    Fencing,
                    "floor {} of {name}; the lowest token in force is {floor}",
                    claim.floor
                );
            }
            if !self.resources.allows(taken.resource, principal) {
                return broken!(Decision, "the policy does not let {principal} acquire {name}");
            }
        }
        Ok(())
    }
}

fn as_asked(asked: &AcquireCommand, root: &Root, same_claims: bool) -> Result<(), Broken> {
    let same = (asked.session, asked.seq, asked.priority, asked.wait_ms)
        == (root.session, root.seq, root.priority, root.wait_ms)
        && (&asked.reason, &asked.value) == (&root.reason, &root.value)
        && (asked.owner.is_some() || root.owner.is_none())
        && same_claims;
    if same { Ok(()) } else { broken!(Decision, "it is not what its `acquire` asked") }
}

fn same_claims(granted: &[ClaimGranted], asked: &[Claim]) -> bool {
    granted.len() == asked.len()
        && granted.iter().zip(asked).all(|(granted, asked)| {
            (&granted.resource, granted.mode, granted.permits) == (&asked.resource, asked.mode, asked.permits)
        })
}
