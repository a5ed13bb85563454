//! What must be at the broker: exchanges, queues, streams, bindings.
//!
//! One list says it all; it is declared from, and written down as the broker's own `definitions.json`. To declare what
//! is there already changes nothing. What is there with another type or argument is an error that names both: RabbitMQ
//! says so itself, and changes nothing of its own accord.

use crate::log::record::Policy;
use arbiterq_client::broker::CALL_LIMIT;
use arbiterq_client::wire::rabbitmq::{
    DEAD_LETTERS, REQUESTS_EXCHANGE, checkpoints_stream, grants_stream, requests_queue,
};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use serde_json::{Value, json};

/// How often a request may be delivered. A crash of an arbiter counts for every message that it had, so this is large;
/// without one the broker would drop requests after twenty (RabbitMQ 4).
const DELIVERIES_MAX: i64 = 1_000_000;
/// Messages that nobody could read; the oldest go first.
const DEAD_LETTERS_MAX: i64 = 10_000;
/// Checkpoints together; a restart needs the newest.
const CHECKPOINTS_BYTES_MAX: i64 = 4 * 1024 * 1024 * 1024;
/// A stream drops whole segments only, so those of checkpoints are small.
const CHECKPOINT_SEGMENT_BYTES: i64 = 64 * 1024 * 1024;

/// An argument of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument {
    Text(&'static str),
    Number(i64),
    Flag(bool),
}

/// Something at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Exchange { name: &'static str, fanout: bool },
    Queue { name: String, arguments: Vec<(&'static str, Argument)> },
    Binding { exchange: &'static str, queue: String, key: String },
}

/// What a log of so many partitions needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    items: Vec<Item>,
}

/// What is at the broker of all that must be there.
#[derive(Debug, Default)]
pub struct Compared {
    /// So many are as they must be.
    pub same: usize,
    /// These are there; whether they differ, this user is not told.
    pub not_compared: Vec<String>,
    /// What is missing or different.
    pub problems: Vec<DeclareError>,
}

/// Why the broker is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// It has something of the name, and not the same.
    #[error("{what} is there, and is another: {said}")]
    Different {
        /// What was declared.
        what: String,
        /// Both sides, as the broker says it.
        said: String,
    },
    /// It is not there, or on a node that is down.
    #[error("{what} is not there: {said}")]
    Missing {
        /// What was looked for.
        what: String,
        /// What the broker says.
        said: String,
    },
    /// The user may not.
    #[error("{what}: {said}")]
    NotAllowed {
        /// What was declared.
        what: String,
        /// What the broker says.
        said: String,
    },
    /// Anything else.
    #[error("{what}: {source}")]
    Failed {
        /// What was declared.
        what: String,
        /// What the library says.
        source: Box<lapin::Error>,
    },
    /// It did not answer.
    #[error("{what}: the broker did not answer within {}s", CALL_LIMIT.as_secs())]
    NoAnswer {
        /// What was declared.
        what: String,
    },
}

impl Topology {
    /// For so many partitions under limits.
    pub fn new(partitions: u32, limits: &Policy) -> Self {
        use Argument::{Flag, Number, Text};
        // Twice what all sessions may have under way, so that ticks and keep-alives get in.
        let room = 2 * i64::from(limits.sessions_max) * i64::from(limits.in_flight_max);
        let queue = |name: String, arguments: &[(&'static str, Argument)]| {
            let durable = matches!(arguments.first(), Some((_, Text("stream" | "quorum"))));
            debug_assert!(durable, "{name}");
            Item::Queue { name, arguments: arguments.to_vec() }
        };
        let mut items = vec![
            Item::Exchange { name: REQUESTS_EXCHANGE, fanout: false },
            Item::Exchange { name: DEAD_LETTERS, fanout: true },
            queue(
                DEAD_LETTERS.to_owned(),
                &[("x-queue-type", Text("quorum")), ("x-max-length", Number(DEAD_LETTERS_MAX))],
            ),
            Item::Binding { exchange: DEAD_LETTERS, queue: DEAD_LETTERS.to_owned(), key: String::new() },
        ];
        for partition in 0..partitions {
            items.extend([
                queue(
                    requests_queue(partition),
                    &[
                        ("x-queue-type", Text("quorum")),
                        ("x-single-active-consumer", Flag(true)),
                        ("x-max-length", Number(room)),
                        ("x-overflow", Text("reject-publish")),
                        ("x-delivery-limit", Number(DELIVERIES_MAX)),
                        ("x-dead-letter-exchange", Text(DEAD_LETTERS)),
                    ],
                ),
                Item::Binding {
                    exchange: REQUESTS_EXCHANGE,
                    queue: requests_queue(partition),
                    key: partition.to_string(),
                },
                // Without a limit: what may be removed is what a checkpoint has made unnecessary, and no broker knows that.
                queue(grants_stream(partition), &[("x-queue-type", Text("stream"))]),
                queue(
                    checkpoints_stream(partition),
                    &[
                        ("x-queue-type", Text("stream")),
                        ("x-max-length-bytes", Number(CHECKPOINTS_BYTES_MAX)),
                        ("x-stream-max-segment-size-bytes", Number(CHECKPOINT_SEGMENT_BYTES)),
                    ],
                ),
            ]);
        }
        Self { items }
    }

    /// Declares all of it; what is there already stays as it is. Returns how much there is.
    ///
    /// # Errors
    /// The first that cannot be as it must.
    ///
    /// # Cancel safety
    /// What was declared so far stays; to declare all again is safe.
    pub async fn declare(&self, connection: &Connection) -> Result<usize, DeclareError> {
        let channel = answered("a channel", connection.create_channel()).await?;
        for item in &self.items {
            answered(item, item.declare(&channel)).await?;
        }
        Ok(self.items.len())
    }

    /// Looks that all of it is there, and as it must be. Declares nothing but bindings.
    ///
    /// Types and arguments are compared by the broker, for who may declare; a user with fewer rights is told what is
    /// missing, and not what is different: what was not compared is returned.
    ///
    /// # Errors
    /// The first that is missing or different.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn check(&self, connection: &Connection) -> Result<Vec<String>, DeclareError> {
        let mut not_compared = Vec::new();
        for item in &self.items {
            if !item.compare(connection).await? {
                not_compared.push(item.to_string());
            }
        }
        Ok(not_compared)
    }

    /// As [`check`](Self::check), and all that is missing or different. Of bindings nothing is said: whoever looks at one
    /// would make it.
    ///
    /// # Errors
    /// The broker is gone, or does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn compare(&self, connection: &Connection) -> Result<Compared, DeclareError> {
        let mut found = Compared::default();
        for item in self.items.iter().filter(|item| !matches!(item, Item::Binding { .. })) {
            match item.compare(connection).await {
                Ok(true) => found.same += 1,
                Ok(false) => found.not_compared.push(item.to_string()),
                Err(error @ (DeclareError::Failed { .. } | DeclareError::NoAnswer { .. })) => {
                    return Err(error);
                }
                Err(problem) => found.problems.push(problem),
            }
        }
        Ok(found)
    }

    /// As the broker's own `definitions.json`, for one of its virtual hosts.
    pub fn definitions(&self, vhost: &str) -> Value {
        let (mut exchanges, mut queues, mut bindings) = (Vec::new(), Vec::new(), Vec::new());
        for item in &self.items {
            match item {
                Item::Exchange { name, fanout } => exchanges.push(json!({
                    "name": name, "vhost": vhost, "type": if *fanout { "fanout" } else { "direct" }, "durable": true, "auto_delete": false,
                    "internal": false, "arguments": {}
                })),
                Item::Queue { name, arguments } => {
                    let arguments: serde_json::Map<String, Value> =
                        arguments.iter().map(|(name, value)| ((*name).to_owned(), value.json())).collect();
                    queues.push(json!({
                        "name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments
                    }));
                }
                Item::Binding { exchange, queue, key } => bindings.push(json!({
                    "source": exchange, "vhost": vhost, "destination": queue, "destination_type": "queue",
                    "routing_key": key, "arguments": {}
                })),
            }
        }
        json!({"exchanges": exchanges, "queues": queues, "bindings": bindings})
    }
}

/// What the broker answers, in time.
async fn answered<T>(
    what: impl ToString,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, DeclareError> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| DeclareError::of(what.to_string(), error)),
        Err(_) => Err(DeclareError::NoAnswer { what: what.to_string() }),
    }
}

impl Item {
    /// Whether it could be compared: an error if it is not there, or is another.
    async fn compare(&self, connection: &Connection) -> Result<bool, DeclareError> {
        // What the broker refuses ends the channel.
        let channel = answered("a channel", connection.create_channel()).await?;
        answered(self, self.look(&channel)).await?;
        match answered(self, self.declare(&channel)).await {
            Err(DeclareError::NotAllowed { .. }) => Ok(false),
            declared => declared.map(|()| true),
        }
    }

    /// An error if it is not there; of bindings nothing is known but by declaring them.
    async fn look(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, .. } => {
                let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
                let kind = ExchangeKind::Direct;
                channel.exchange_declare((*name).into(), kind, options, FieldTable::default()).await
            }
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.map(drop)
            }
            Self::Binding { .. } => Ok(()),
        }
    }

    async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, fanout } => {
                let kind = if *fanout { ExchangeKind::Fanout } else { ExchangeKind::Direct };
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                channel.exchange_declare((*name).into(), kind, options, FieldTable::default()).await
            }
            Self::Queue { name, arguments } => {
                let mut table = FieldTable::default();
                for (name, value) in arguments {
                    table.insert((*name).into(), value.amqp());
                }
                let declared =
                    channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), table);
                declared.await.map(drop)
            }
            Self::Binding { exchange, queue, key } => {
                let (queue, exchange, key) = (queue.as_str().into(), (*exchange).into(), key.as_str().into());
                channel
                    .queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default())
                    .await
            }
        }
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchange { name, .. } => write!(f, "exchange {name}"),
            Self::Queue { name, .. } => write!(f, "queue {name}"),
            Self::Binding { exchange, queue, .. } => write!(f, "binding of {queue} to {exchange}"),
        }
    }
}

impl Argument {
    fn amqp(self) -> AMQPValue {
        match self {
            Self::Text(text) => AMQPValue::LongString(text.into()),
            Self::Number(number) => AMQPValue::LongLongInt(number),
            Self::Flag(flag) => AMQPValue::Boolean(flag),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.into(),
            Self::Flag(flag) => flag.into(),
        }
    }
}

impl DeclareError {
    fn of(what: String, error: lapin::Error) -> Self {
        use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
        if let lapin::ErrorKind::ProtocolError(said) = error.kind() {
            let text = said.get_message().to_string();
            match said.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                    return Self::Different { what, said: text };
                }
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => return Self::Missing { what, said: text },
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    return Self::NotAllowed { what, said: text };
                }
                _ => {}
            }
        }
        Self::Failed { what, source: Box::new(error) }
    }
}
