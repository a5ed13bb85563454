//! What clients and operators are told of the state. Reads only.

use super::State;
use super::grant::{Grant, Waiter};
use super::line::Turn;
use super::resource::{Resource, ResourceKey};
use super::session::{Live, Session};
use arbiterq_client::wire::{
    Alive, Granted, HeldBy, Queued, REPLY_BYTES_MAX, Reason, ResourceName, RevokedToken, Seq, SessionId,
    Status, StatusHolder, StatusResource, StatusSession, StatusWaiter, StatusWhat, Timestamp, Token,
};

impl State {
    /// How a grant of a live session ended, while that is kept.
    pub fn token_outcome(&self, session: SessionId, token: Token) -> Option<Reason> {
        self.session(session)?.requests.token_outcome(token)
    }

    /// All that a live session has.
    pub fn alive(&self, session: SessionId) -> Option<Alive> {
        let session = self.session(session)?;
        let mut alive = Alive {
            n: session.n,
            held: Vec::new(),
            revoked: Vec::new(),
            attached: session.attached,
            suspended: Vec::new(),
            positions: Vec::new(),
        };
        for (seq, live) in session.requests.iter() {
            match live {
                Live::Held(token) => {
                    alive.held.push((seq, token));
                    let reason = self.grant(token).and_then(Grant::revoking);
                    alive.revoked.extend(reason.map(|reason| RevokedToken(token, reason)));
                }
                Live::Waiting(place) => {
                    let Some(waiter) = self.waiters.get(&place) else { continue };
                    let position = self.furthest(waiter).map_or(1, |(position, _)| position);
                    alive.positions.push((seq, position));
                    if waiter.suspended.is_some() {
                        alive.suspended.push(seq);
                    }
                }
            }
        }
        Some(alive)
    }

    /// Whether somebody waits for something that a live session holds.
    pub fn blocks(&self, session: SessionId) -> bool {
        let waited_for =
            |name| self.resources.get(&ResourceKey::new(name)).is_some_and(|known| !known.line.is_empty());
        self.session(session).is_some_and(|session| {
            session.requests.iter().any(|(_, live)| match live {
                Live::Held(token) => self
                    .grant(token)
                    .is_some_and(|grant| grant.claims.iter().any(|claim| waited_for(&claim.resource))),
                Live::Waiting(_) => false,
            })
        })
    }

    /// Where a waiting request stands.
    pub fn queued(&self, session: SessionId, seq: Seq, at: Timestamp) -> Option<Queued> {
        let Live::Waiting(place) = self.session(session)?.requests.live(seq)? else { return None };
        let waiter = self.waiters.get(&place)?;
        let (position, resource) = self.furthest(waiter)?;
        let held_by = self.holder_in_the_way(waiter).and_then(|token| self.held_by(token, at));
        Some(Queued { seq, position, waiting: resource.line.len() as u64, held_by })
    }

    /// What the client of a grant in force is told.
    pub fn granted(&self, token: Token) -> Option<Granted> {
        let grant = self.grant(token)?;
        let floors = grant.claims.iter().map(|claim| claim.floor).collect();
        Some(Granted { seq: grant.seq(), token, floors, hash: grant.hash })
    }

    /// A look.
    pub fn status(&self, id: &str, what: &StatusWhat, at: Timestamp) -> Status {
        let mut status = Status {
            id: id.to_owned(),
            genesis: self.genesis.as_ref().map(|genesis| genesis.log_id).unwrap_or_default(),
            partitions: self.genesis.as_ref().map_or(0, |genesis| genesis.partitions),
            incarnation: self.incarnation.unwrap_or_default(),
            sessions: self.sessions.len() as u64,
            held: self.grants.len() as u64,
            waiting: self.waiters.len() as u64,
            oldest_wait_ms: self.waiters.values().next().map_or(0, |oldest| {
                // Places rise with time.
                millis_since(at, oldest.request.placed_at)
            }),
            paused: self.paused().map(str::to_owned),
            ..Status::default()
        };
        match what {
            StatusWhat::Summary => {}
            StatusWhat::Holders => {
                let grants = self.grants.iter();
                let rows = grants.flat_map(|(token, grant)| self.holder_rows(token, grant, None, at));
                status.holders = rows.take(Status::ROWS_MAX).collect();
            }
            StatusWhat::Resources => status.resources = self.resource_rows(at),
            StatusWhat::Queue(name) => {
                let Some(resource) = self.resources.get(&ResourceKey::new(name)) else { return status };
                let grants = resource.holders.iter().filter_map(|token| Some((token, self.grant(token)?)));
                let rows = grants.flat_map(|(token, grant)| self.holder_rows(token, grant, Some(name), at));
                status.holders = rows.take(Status::ROWS_MAX).collect();
                // Two lists, and people may have said things that take twice their length as JSON.
                let held =
                    status.holders.iter().map(|row| row_bytes(name.as_str(), &row.session, &row.reason));
                let mut room = LISTS_BYTES_MAX.saturating_sub(held.sum());
                let mut queue = self.waiter_rows(resource, at);
                let fitting = queue.iter().take_while(|row| {
                    let left = room.checked_sub(row_bytes("", &row.session, &row.reason));
                    room = left.unwrap_or(0);
                    left.is_some()
                });
                queue.truncate(fitting.count());
                status.queue = queue;
            }
        }
        status
    }

    /// The line in which a waiter stands furthest back, the first of them in its claims' order.
    fn furthest(&self, waiter: &Waiter) -> Option<(u64, &Resource)> {
        let turn: Turn = waiter.request.turn();
        let lines = waiter.claims.iter().filter_map(|claim| {
            let resource = self.resources.get(&ResourceKey::new(&claim.resource))?;
            Some((resource.line.position(turn)?, resource))
        });
        lines.reduce(|furthest, line| if line.0 > furthest.0 { line } else { furthest })
    }

    /// The oldest holder of the first resource whose holders leave no room for a waiter.
    fn holder_in_the_way(&self, waiter: &Waiter) -> Option<Token> {
        waiter.claims.iter().find_map(|claim| {
            let resource = self.resources.get(&ResourceKey::new(&claim.resource))?;
            let capacity = self.policy.limits(resource.rule).capacity();
            let permits = super::fold::permits_of(claim.permits);
            let fits = resource.held.admits(claim.mode, permits, capacity);
            resource.holders.first().filter(|_| !fits)
        })
    }

    fn held_by(&self, token: Token, at: Timestamp) -> Option<HeldBy> {
        let grant = self.grant(token)?;
        let session = self.session(grant.session())?;
        Some(HeldBy {
            label: session.label.to_string(),
            token,
            held_ms: millis_since(at, grant.since),
            lease_left_ms: millis_since(session.lease_until(), at),
            renewed_ms: millis_since(at, session.heard_at),
        })
    }

    fn holder_rows<'a>(
        &'a self,
        token: Token,
        grant: &'a Grant,
        only: Option<&'a ResourceName>,
        at: Timestamp,
    ) -> impl Iterator<Item = StatusHolder> + 'a {
        let session = self.session(grant.session());
        let claims = grant.claims.iter().filter(move |claim| only.is_none_or(|only| claim.resource == *only));
        claims.filter_map(move |claim| {
            Some(StatusHolder {
                resource: claim.resource.clone(),
                mode: claim.mode,
                permits: claim.permits,
                token,
                session: status_session(grant.session(), session?, at),
                held_ms: millis_since(at, grant.since),
                reason: grant.request.reason.as_deref().map(str::to_owned),
                revoking: grant.revoking.is_some(),
            })
        })
    }

    fn waiter_rows(&self, resource: &Resource, at: Timestamp) -> Vec<StatusWaiter> {
        let rows = resource.line.iter().take(Status::ROWS_MAX).enumerate().filter_map(|(i, entry)| {
            let request = &self.waiters.get(&entry.turn().place())?.request;
            Some(StatusWaiter {
                position: i as u64 + 1,
                mode: entry.mode,
                permits: (entry.mode == arbiterq_client::wire::Mode::Permits).then_some(entry.permits),
                session: status_session(request.session, self.session(request.session)?, at),
                seq: request.seq,
                waited_ms: millis_since(at, request.placed_at),
                priority: request.priority,
                reason: request.reason.as_deref().map(str::to_owned),
                suspended: entry.suspended,
            })
        });
        rows.collect()
    }

    fn resource_rows(&self, at: Timestamp) -> Vec<StatusResource> {
        let in_use = |resource: &Resource| !resource.holders.is_empty() || !resource.line.is_empty();
        let mut by_name: Vec<_> = self.resources.iter().filter(|(_, resource)| in_use(resource)).collect();
        if by_name.len() > Status::ROWS_MAX {
            by_name.select_nth_unstable_by_key(Status::ROWS_MAX, |(key, _)| key.name());
            by_name.truncate(Status::ROWS_MAX);
        }
        by_name.sort_unstable_by_key(|(key, _)| key.name());
        let row = |(key, resource): (&ResourceKey, &Resource)| {
            let oldest = resource.line.iter().map(|entry| entry.turn().place()).min();
            let oldest = oldest.and_then(|place| self.waiters.get(&place));
            StatusResource {
                resource: key.name().clone(),
                holders: resource.holders.len() as u64,
                waiting: resource.line.len() as u64,
                oldest_wait_ms: oldest.map_or(0, |waiter| millis_since(at, waiter.request.placed_at)),
            }
        };
        by_name.into_iter().map(row).collect()
    }
}

/// What the lists of a reply may take: the numbers and what else it says take less than the rest.
const LISTS_BYTES_MAX: usize = REPLY_BYTES_MAX - 8 * 1024;

/// At most what a row takes.
fn row_bytes(resource: &str, session: &StatusSession, reason: &Option<String>) -> usize {
    let said = [resource, &session.label, &session.principal, reason.as_deref().unwrap_or_default()];
    2 * said.map(str::len).iter().sum::<usize>() + ROW_NUMBERS_BYTES
}

/// At most what the names, numbers and signs of a row take.
const ROW_NUMBERS_BYTES: usize = 400;

fn status_session(id: SessionId, session: &Session, at: Timestamp) -> StatusSession {
    StatusSession {
        session: id,
        label: session.label.to_string(),
        principal: session.principal.name.to_string(),
        lease_left_ms: millis_since(session.lease_until(), at),
        renewed_ms: millis_since(at, session.heard_at),
    }
}

fn millis_since(at: Timestamp, earlier: Timestamp) -> u64 {
    u64::try_from(at.since(earlier).as_millis()).unwrap_or(u64::MAX)
}
