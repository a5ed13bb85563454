//! The arbiter's half of RabbitMQ.
//!
//! - `topology`: what must be at the broker: declared by `arbiter broker init`, and compared before anything is used.
//! - `queue`: a partition's request queue, and the way back to its clients.
//!
//! The grant log at the broker is [`crate::log::stream`]; connecting and publishing, the client library's
//! [`broker`](arbiterq_client::broker).

mod queue;
mod topology;

pub(crate) use queue::{Came, RequestQueue};
pub use topology::{Compared, DeclareError, Topology};

pub use arbiterq_client::broker::{BrokerError, BrokerUrl, ConnectError, InvalidBrokerUrl};
