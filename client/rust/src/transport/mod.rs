//! The client's half of the transports: a connection that carries lines.
//!
//! Nothing here knows what a line says. A line that is no message is the driver's business; a line that is too
//! long breaks the connection.

mod direct;

pub(crate) use direct::{Connection, ConnectionId, Incoming, connect};

use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

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
