//! The client's half of the transports: a connection that carries messages.
//!
//! Nothing here knows what a message says. What is none is the driver's business; a line that is too long breaks the
//! connection.

mod direct;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;

use crate::client::Place;
use crate::core::Address;
#[cfg(feature = "rabbitmq")]
use crate::url::Url;
use crate::wire::{Reply, Request};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes that nobody has taken; beyond it nothing more is sent on the connection.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection's number, so that what came on an earlier one is told apart.
pub(crate) type ConnectionId = u64;

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Messages, in order.
    Replies(Vec<Reply>),
    /// What came is no message: nothing that comes on it is taken any more. It is still open.
    Unreadable,
    /// What was sent reaches no arbiter, and why. The connection is as it was.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only a broker stands between"))]
    Unroutable(String),
    /// Nothing that is sent is taken for now, and why; or it is taken again.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only a broker stands between"))]
    Hindered(Option<String>),
    /// The other side has ended it.
    Ended,
}

/// A connection to the arbiter. Dropping it sends what waits, then closes.
#[derive(Debug)]
pub(crate) enum Connection {
    Direct(direct::Connection),
    #[cfg(feature = "rabbitmq")]
    RabbitMq(rabbitmq::Connection),
}

/// Messages that go out together.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Each with its line feed.
    bytes: Vec<u8>,
    /// Whom each is for.
    partitions: Vec<u32>,
}

impl Lines {
    pub(crate) fn push(&mut self, request: &Request) {
        self.bytes.extend_from_slice(&request.encode());
        self.bytes.push(b'\n');
        self.partitions.push(request.partition);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

impl Connection {
    pub(crate) fn id(&self) -> ConnectionId {
        match self {
            Self::Direct(connection) => connection.id,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(connection) => connection.id,
        }
    }

    /// How the arbiter names this end.
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Direct(connection) => Address { reply_to: None, peer: connection.peer.clone() },
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(connection) => Address { reply_to: Some(connection.reply_to.clone()), peer: None },
        }
    }

    /// Sends messages; `now` without leaving it to a task, if the socket takes them and nothing else waits. False if
    /// nobody has taken anything for so long that it is hopeless.
    pub(crate) fn send(&self, lines: Lines, now: bool) -> bool {
        match self {
            Self::Direct(connection) => connection.send(lines.bytes, now),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(connection) => {
                let bodies = lines.bytes.split(|byte| *byte == b'\n');
                let mut messages = lines.partitions.iter().zip(bodies);
                messages.all(|(partition, body)| connection.send(*partition, body.to_vec()))
            }
        }
    }
}

/// Connects. What comes is put into `incoming`, and at the end that it is over.
pub(crate) async fn connect(
    place: Place,
    id: ConnectionId,
    presence: bool,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
) -> io::Result<Connection> {
    match place {
        #[cfg(feature = "rabbitmq")]
        Place::At(Url::RabbitMq(url)) => rabbitmq::connect(url, id, incoming).await.map(Connection::RabbitMq),
        place => direct::connect(place, id, presence, incoming).await.map(Connection::Direct),
    }
}

/// How to reach an arbiter that runs in the same program, over channels: the hook for tests and examples.
///
/// Each call makes a new connection. A connection ends when either channel's other half is dropped.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn() -> io::Result<Link> + Send + Sync>);

impl Connector {
    /// Connects by calling `connect`.
    pub fn new(connect: impl Fn() -> io::Result<Link> + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    pub(crate) fn connect(&self) -> io::Result<Link> {
        (self.0)()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

/// A connection over channels. Each item is one message without a line feed.
#[derive(Debug)]
pub struct Link {
    /// To the arbiter. Bounded: a full one makes the client wait.
    pub requests: mpsc::Sender<Vec<u8>>,
    /// From the arbiter.
    pub replies: mpsc::Receiver<Vec<u8>>,
    /// The client's own end, as `peer` of `open` and `attach`, if the arbiter shall take the connection's end
    /// for the program's.
    pub peer: Option<String>,
}
