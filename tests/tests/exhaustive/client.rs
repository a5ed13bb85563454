//! A client: the library's own core, and a user who asks once, uses what is held, and gives it back.

use super::world::LEASE_MS;
use arbiterq::partition::Address;
use arbiterq_client::core::{Address as Place, Ask, Event, Output, Planted, SessionConfig, SessionCore};
use arbiterq_client::wire::{Claim, Request, ResourceName, SessionKey, Token};
use std::collections::{BTreeMap, VecDeque};

/// The user's only request.
const REQUEST: u64 = 1;

/// A program.
#[derive(Clone, Debug, Hash)]
pub(super) struct Client {
    pub(super) core: SessionCore,
    number: usize,
    connection: u64,
    keys: u8,
    pub(super) asked: bool,
    pub(super) released: bool,
    /// It was told that it holds no more, and has not stopped yet.
    pub(super) has_lost: bool,
    /// Sent and not enqueued, with the address for the answer.
    pub(super) outbox: VecDeque<(Address, Request)>,
    /// The floors of what was granted, by token.
    floors: BTreeMap<Token, Token>,
    /// Token and floor of a write on its way to the resource.
    pub(super) write: Option<(Token, Token)>,
}

impl Client {
    pub(super) fn new(number: usize, planted: Option<Planted>, now: u64) -> Self {
        let core = SessionCore::new(SessionConfig {
            partition: 0,
            label: format!("client-{number}"),
            lease_ms: LEASE_MS,
            fail_fast_ms: None,
            jitter: number as u64,
        });
        let mut client = Self {
            core: match planted {
                Some(planted) => core.with_planted(planted),
                None => core,
            },
            number,
            connection: 0,
            keys: 0,
            asked: false,
            released: false,
            has_lost: false,
            outbox: VecDeque::new(),
            floors: BTreeMap::new(),
            write: None,
        };
        client.connect(now);
        client
    }

    pub(super) fn ask(&mut self, now: u64, resource: ResourceName) {
        self.asked = true;
        let ask = Ask { claims: vec![Claim::exclusive(resource)], ..Ask::default() };
        self.core.acquire(now, REQUEST, ask);
        self.drain(now);
    }

    pub(super) fn release(&mut self, now: u64) {
        self.released = true;
        self.core.release(now, REQUEST);
        self.drain(now);
    }

    /// The connection is gone with what was on it, and there is another.
    pub(super) fn cut(&mut self, now: u64) {
        self.outbox.clear();
        self.core.disconnected(now);
        self.connect(now);
        self.drain(now);
    }

    /// What it believes in, with the floor.
    pub(super) fn believed(&self, now: u64) -> Option<(Token, Token)> {
        let (_, token) = self.core.held(now).into_iter().next()?;
        Some((token, self.floors.get(&token).copied().unwrap_or(token)))
    }

    /// Whether it has something to do by itself.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.core.next_wake().is_some_and(|wake| wake <= now)
    }

    fn connect(&mut self, now: u64) {
        self.connection += 1;
        let reply_to = Some(self.address().to_string());
        self.core.connected(now, Place { reply_to, peer: None });
    }

    /// Where its replies go.
    fn address(&self) -> Address {
        format!("c{}.{}", self.number, self.connection).into()
    }

    /// Does what the core says.
    pub(super) fn drain(&mut self, now: u64) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Send(request) => self.outbox.push_back((self.address(), request)),
                Output::KeyWanted => {
                    self.keys += 1;
                    let mut bits = [0; 16];
                    (bits[0], bits[1]) = (self.number as u8, self.keys);
                    self.core.open(now, SessionKey::random(bits));
                }
                Output::AttachWanted { .. } => self.connect(now),
                Output::Event(Event::Granted { granted, .. }) => {
                    self.floors
                        .insert(granted.token, granted.floors.first().copied().unwrap_or(granted.token));
                }
                Output::Event(Event::Lost { .. }) => self.has_lost = true,
                Output::Event(_) => {}
                other => unreachable!("{other:?} is not known here"),
            }
        }
    }
}

/// Whose address that is.
pub(super) fn client_of(address: &str) -> Option<usize> {
    address.strip_prefix('c')?.split('.').next()?.parse().ok()
}
