//! The connection there is, the ones before it, and the one being made.
//!
//! Where the end of a connection is taken for the end of a program, an earlier connection is dropped only when
//! every session is known to have moved to the next.

use crate::client::Place;
use crate::clock::Micros;
use crate::core::Address;
use crate::transport::{Connection, ConnectionId, Incoming, Lines, connect};
use crate::wire::Request;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One attempt to connect takes no longer than this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The first wait between attempts, and the longest; doubled each time, and spread by a half.
const RETRY_FIRST: Micros = 50_000;
const RETRY_MAX: Micros = 1_000_000;
/// Connections that are kept for sessions that have not moved yet; with so many, no other is made beside them.
const EARLIER_MAX: usize = 4;

/// The way to the arbiter.
pub(super) struct Line {
    place: Place,
    presence: bool,
    seed: u64,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
    current: Option<Connection>,
    earlier: Vec<Connection>,
    connecting: Option<JoinHandle<io::Result<Connection>>>,
    made: ConnectionId,
    wanted: bool,
    another_wanted: bool,
    failed: u32,
    next_attempt: Micros,
    last_error: Option<String>,
    refused: bool,
    out: Lines,
}

impl Line {
    pub(super) fn new(
        place: Place,
        presence: bool,
        seed: u64,
        incoming: mpsc::Sender<(ConnectionId, Incoming)>,
    ) -> Self {
        Self {
            place,
            presence,
            seed,
            incoming,
            current: None,
            earlier: Vec::new(),
            connecting: None,
            made: 0,
            wanted: false,
            another_wanted: false,
            failed: 0,
            next_attempt: 0,
            last_error: None,
            refused: false,
            out: Lines::default(),
        }
    }

    /// The address of the present connection.
    pub(super) fn address(&self) -> Option<Address> {
        self.current.as_ref().map(Connection::address)
    }

    pub(super) fn is_current(&self, id: ConnectionId) -> bool {
        self.current.as_ref().is_some_and(|current| current.id() == id)
    }

    /// Queues a message for the present connection; without one it is not sent. Whether there is one.
    pub(super) fn send(&mut self, request: &Request) -> bool {
        if self.current.is_some() {
            self.out.push(request);
        }
        self.current.is_some()
    }

    /// Sends what is queued; `now` if nothing will come that could be sent with it. False if the connection is no good
    /// any more.
    pub(super) fn flush(&mut self, now: bool) -> bool {
        let out = std::mem::take(&mut self.out);
        match &self.current {
            Some(current) if !out.is_empty() => current.send(out, now),
            _ => true,
        }
    }

    /// Whether a connection is of use. Starts one if so and if it is time.
    pub(super) fn want(&mut self, wanted: bool, now: Micros) {
        self.wanted = wanted || self.another_wanted;
        if self.wanted && self.is_missing() && self.connecting.is_none() && now >= self.next_attempt {
            self.made += 1;
            self.failed += 1;
            let wait = (RETRY_FIRST << (self.failed - 1).min(6)).min(RETRY_MAX);
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.next_attempt = now + wait / 2 + (self.seed >> 33) % (wait / 2 + 1);
            let attempt = connect(self.place.clone(), self.made, self.presence, self.incoming.clone());
            self.connecting = Some(tokio::spawn(async move {
                let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within three seconds");
                tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.map_err(late)?
            }));
        }
    }

    /// No connection, or another one is wanted, and there may be one more: none is closed for it. A session may be
    /// attached to any of them, and the end of that one is taken for this program's.
    fn is_missing(&self) -> bool {
        let beside = self.earlier.len() + usize::from(self.current.is_some());
        (self.current.is_none() || self.another_wanted) && beside <= EARLIER_MAX
    }

    /// Nothing is heard on the present connection: another is wanted beside it.
    pub(super) fn want_another(&mut self) {
        self.another_wanted = self.current.is_some();
    }

    /// When the next attempt is due, if one is wanted.
    pub(super) fn next_attempt(&self) -> Option<Micros> {
        (self.wanted && self.is_missing() && self.connecting.is_none()).then_some(self.next_attempt)
    }

    /// Waits for the attempt that is under way; whether there is a new connection.
    ///
    /// Cancel safe.
    pub(super) async fn connected(&mut self) -> bool {
        let Some(connecting) = &mut self.connecting else { return std::future::pending().await };
        let made = connecting.await;
        self.connecting = None;
        match made.map_err(io::Error::other).and_then(|made| made) {
            Ok(connection) => {
                self.out = Lines::default();
                self.earlier.extend(self.current.replace(connection));
                self.another_wanted = false;
                (self.failed, self.last_error, self.refused) = (0, None, false);
                true
            }
            Err(error) => {
                self.refused = matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                );
                self.last_error = Some(error.to_string());
                false
            }
        }
    }

    /// Why the last attempt failed, if nothing listens there at all.
    pub(super) fn refused(&self) -> Option<&str> {
        self.last_error.as_deref().filter(|_| self.refused)
    }

    /// Why the last attempt failed.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The present connection is over.
    pub(super) fn lost(&mut self, now: Micros) {
        self.current = None;
        self.out = Lines::default();
        // An arbiter that takes connections and drops them is not to be run against in a tight loop.
        self.next_attempt = self.next_attempt.max(now + RETRY_FIRST / 2 + (self.seed >> 33) % RETRY_FIRST);
    }

    /// The present connection is of no use: the arbiter does not read, or what it says cannot be understood. It is
    /// kept all the same: a session may be attached to it.
    pub(super) fn give_up(&mut self, now: Micros) {
        let current = self.current.take();
        self.lost(now);
        self.earlier.extend(current);
    }

    /// An earlier connection is over.
    pub(super) fn earlier_ended(&mut self, id: ConnectionId) {
        self.earlier.retain(|connection| connection.id() != id);
    }

    /// Every session has moved to the present connection, if there is one; else they are where they were.
    pub(super) fn drop_earlier(&mut self) {
        if self.current.is_some() {
            self.earlier.clear();
        }
    }

    /// Nothing is believed to be held any more: connections that are kept only because a session may be attached to
    /// them make room, if there is none left for another.
    pub(super) fn make_room(&mut self) {
        if self.current.is_none() && self.earlier.len() > EARLIER_MAX {
            self.earlier.clear();
        }
    }

    /// The client is over.
    pub(super) fn drop_all(&mut self) {
        self.flush(false);
        self.current = None;
        self.earlier.clear();
        (self.wanted, self.another_wanted) = (false, false);
        if let Some(connecting) = self.connecting.take() {
            connecting.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    #[tokio::test]
    async fn no_connection_is_closed_while_a_session_may_be_attached_to_it() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (incoming, _taken) = mpsc::channel(64);
        let place = Place::At(Url::Tcp { host: "127.0.0.1".into(), port });
        let mut line = Line::new(place, true, 1, incoming);
        // The arbiter is stopped: it takes connections, as its system does for it, and never says anything.
        let mut accepted = Vec::new();
        for round in 0..20 {
            line.want(true, round * 10_000_000);
            if line.connecting.is_some() {
                assert!(line.connected().await);
                accepted.push(listener.accept().await.unwrap().0);
            }
            line.want_another();
        }
        assert!(accepted.len() > 1);
        let mut ended = Vec::new();
        for stream in &accepted {
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_millis(20), stream.peek(&mut byte)).await;
            ended.push(read.is_ok());
        }
        assert!(!ended.contains(&true), "an end of file would be taken for this program's end: {ended:?}");
        assert!(accepted.len() <= EARLIER_MAX + 1, "and there is a bound");
    }

    /// A line, and the other end of its one connection.
    async fn connected(seed: u64) -> (Line, tokio::net::TcpListener, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (incoming, _) = mpsc::channel(64);
        let place = Place::At(Url::Tcp { host: "127.0.0.1".into(), port });
        let mut line = Line::new(place, true, seed, incoming);
        line.want(true, 0);
        assert!(line.connected().await);
        let (accepted, _) = listener.accept().await.unwrap();
        (line, listener, accepted)
    }

    fn long_request() -> Request {
        use crate::wire::{Pause, RequestBody};
        let pause = Pause { id: "p".into(), reason: "r".repeat(50_000) };
        Request { partition: 0, auth: None, body: RequestBody::Pause(pause) }
    }

    #[tokio::test]
    async fn a_connection_that_the_arbiter_does_not_read_is_given_up_but_not_closed() {
        let (mut line, listener, accepted) = connected(1).await;
        let request = long_request();
        while line.flush(false) {
            line.send(&request);
            // What the system takes off the line's hands does not wait.
            tokio::task::yield_now().await;
        }
        line.give_up(0);
        line.drop_earlier();
        assert!(line.address().is_none(), "nothing more is sent on it");
        // All that waits is read, and then there is no end of file.
        let (mut read, mut bytes) = (accepted, vec![0; 1024 * 1024]);
        let drained = async {
            loop {
                use tokio::io::AsyncReadExt;
                let took = tokio::time::timeout(Duration::from_millis(200), read.read(&mut bytes)).await;
                match took {
                    Ok(Ok(1..)) => {}
                    Ok(ended) => break Some(ended),
                    Err(_) => break None,
                }
            }
        };
        assert!(drained.await.is_none(), "an end of file would be taken for this program's end");
        // The next one is made beside it, and only a session's move to it closes the one before.
        line.want(true, 10_000_000);
        assert!(line.connected().await);
        let _next = listener.accept().await.unwrap();
        line.drop_earlier();
        use tokio::io::AsyncReadExt;
        assert_eq!(read.read(&mut bytes).await.unwrap(), 0, "now it is closed");
    }

    #[tokio::test]
    async fn connections_that_were_given_up_have_a_bound() {
        let (mut line, listener, first) = connected(1).await;
        let mut accepted = vec![first];
        for round in 1..20 {
            line.give_up(round * 10_000_000);
            line.want(true, (round + 1) * 10_000_000);
            if line.connecting.is_some() {
                assert!(line.connected().await);
                accepted.push(listener.accept().await.unwrap().0);
            }
        }
        assert_eq!(accepted.len(), EARLIER_MAX + 1);
        // Once nothing is believed there is room again.
        line.make_room();
        line.want(true, 1_000_000_000);
        assert!(line.connected().await);
    }
}
