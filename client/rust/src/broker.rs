//! What both halves of the RabbitMQ transport need: a broker's URL, a connection, publishing.
//!
//! Not for programs: they name a broker by its URL ([`Client::connect`](crate::Client::connect)). Every call that a broker
//! answers has a time limit here: one that blocks, or dies, would let it hang.

mod mailbox;
mod publisher;
mod server;

pub use mailbox::{Mailbox, MailboxError, Requests};
pub use publisher::{Message, Published, Publisher};
pub use server::Server;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A call that the broker answers takes no longer.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A connection that is given up is not waited for any longer.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How often a connection shows that it lives, in seconds, unless its URL says: a stopped arbiter is replaced after two.
const HEARTBEAT_S: u16 = 5;

/// Where a broker is, with the credentials for it. Shown without them.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(Arc<AMQPUri>);

/// A text that is no URL of a broker. It is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a RabbitMQ broker: {0}")]
pub struct InvalidBrokerUrl(String);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It cannot be reached, or does not let us in.
    #[error("{url}: {source}")]
    Failed {
        /// Where.
        url: BrokerUrl,
        /// What the library says.
        source: Box<lapin::Error>,
    },
    /// It did not answer.
    #[error("{url}: no answer within {}s", CALL_LIMIT.as_secs())]
    NoAnswer {
        /// Where.
        url: BrokerUrl,
    },
}

/// Why what a broker was used for is over.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The connection or the channel is gone, or something is not there or not allowed: the library says it.
    #[error("{0}")]
    Failed(Box<lapin::Error>),
    /// It did not answer.
    #[error("the broker did not answer within {}s", CALL_LIMIT.as_secs())]
    NoAnswer,
    /// It does not take what was published.
    #[error("{queue} does not take what is published to it")]
    Refused {
        /// The queue or stream.
        queue: String,
    },
    /// It has ended the consumer.
    #[error("{queue} is not consumed any more: the broker has ended it")]
    Cancelled {
        /// The queue or stream.
        queue: String,
    },
    /// What should be a stream is none.
    #[error("{queue} is no stream: its messages have no offsets; `arbiter broker init` says what is there")]
    NoStream {
        /// The queue.
        queue: String,
    },
}

/// Closes a connection in order, if the broker still answers: it would end at last by itself.
pub async fn close(connection: &Connection) {
    drop(tokio::time::timeout(CLOSE_LIMIT, connection.close(200, "".into())).await);
}

impl BrokerError {
    /// What the broker answers, in time.
    ///
    /// # Errors
    /// What the library says, or that there was no answer.
    pub async fn limited<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, Self> {
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(Self::NoAnswer),
        }
    }
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl BrokerUrl {
    /// The user, for whom the broker vouches.
    pub fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    /// A connection, which the broker shows under `name`.
    ///
    /// # Errors
    /// The broker cannot be reached, does not let us in, or does not answer.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match tokio::time::timeout(CALL_LIMIT, Connection::connect_uri((*self.0).clone(), properties)).await {
            Ok(connected) => connected
                .map_err(|source| ConnectError::Failed { url: self.clone(), source: Box::new(source) }),
            Err(_) => Err(ConnectError::NoAnswer { url: self.clone() }),
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidBrokerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBrokerUrl> {
        if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
            return Err(InvalidBrokerUrl("it begins with amqp:// or amqps://".into()));
        }
        let wrong = |_| InvalidBrokerUrl("write amqp://user:password@host:port/%2f".into());
        let mut uri = AMQPUri::from_str(text).map_err(wrong)?;
        // By the letter of the scheme's specification a path of nothing is the host named "", which nobody has.
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        Ok(Self(Arc::new(uri)))
    }
}

impl std::fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &*self.0;
        write!(f, "{scheme}://{}:{}/{}", authority.host, authority.port, vhost.replace('/', "%2f"))
    }
}

impl std::fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_shown_without_its_password() {
        for (text, shown) in [
            ("amqp://me:hunter2@host", "amqp://host:5672/%2f"),
            ("amqp://me:hunter2@host:99/", "amqp://host:99/%2f"),
            ("amqp://me:hunter2@host:99/%2f", "amqp://host:99/%2f"),
            ("amqps://me:hunter2@host/jobs", "amqps://host:5671/jobs"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
        for text in [
            "me:hunter2@host",
            "tcp://me:hunter2@host",
            "amqp://me:hunter2@:x",
            "amqp://me:hunter2@host:99999",
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
