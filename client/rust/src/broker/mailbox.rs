//! One client's place at a broker: a way to the request queues, and a queue of its own for what comes back.

use super::{BrokerError, BrokerUrl, ConnectError, Message, Published, Publisher};
use crate::wire::Nonce;
use crate::wire::rabbitmq::{REQUESTS_EXCHANGE, reply_queue};
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Connection, Consumer, ExchangeKind};
use std::io;

/// A connection with a reply queue, which is exclusive and ends with it.
pub struct Mailbox {
    /// Everything here ends with it.
    pub connection: Connection,
    /// The queue's name: another for each mailbox.
    pub reply_to: String,
    /// What comes back. Nothing has to be acknowledged.
    pub replies: Consumer,
    /// The way to the arbiter.
    pub requests: Requests,
}

/// The way to the request queues, with the sender's name on each message, and where to answer.
pub struct Requests {
    publisher: Publisher,
    user: ShortString,
    reply_to: ShortString,
}

/// Why there is no mailbox.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something is not there or not allowed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The system gives no random numbers.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Mailbox {
    /// Opens one.
    ///
    /// # Errors
    /// The broker cannot be reached, has nothing of the arbiter's, or does not let this user.
    ///
    /// # Cancel safety
    /// Safe: what was made ends with its connection.
    pub async fn open(url: &BrokerUrl, name: &str) -> Result<Self, MailboxError> {
        let connection = url.connect(name).await?;
        let channel = BrokerError::limited(connection.create_channel()).await?;
        let (exchange, kind) = (REQUESTS_EXCHANGE.into(), ExchangeKind::Direct);
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        BrokerError::limited(channel.exchange_declare(exchange, kind, options, FieldTable::default()))
            .await?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let reply_to = reply_queue(url.user(), &Nonce(bytes).to_string());
        let queue: ShortString = reply_to.as_str().into();
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        BrokerError::limited(channel.queue_declare(queue.clone(), options, FieldTable::default())).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() };
        let replies = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default());
        let replies = BrokerError::limited(replies).await?;
        let publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        let requests = Requests { publisher, user: url.user().into(), reply_to: queue };
        Ok(Self { connection, reply_to, replies, requests })
    }
}

impl Requests {
    /// Publishes a message to a partition, behind everything before it.
    pub fn publish(&mut self, partition: u32, body: Vec<u8>) {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_user_id(self.user.clone())
            .with_reply_to(self.reply_to.clone());
        let (exchange, key) = (REQUESTS_EXCHANGE, partition.to_string());
        self.publisher.publish(Message { exchange, key: &key, mandatory: true, body, properties });
    }

    /// What became of the first message of which that has not been said; for ever if there is none.
    ///
    /// # Errors
    /// The broker is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Published, BrokerError> {
        self.publisher.next().await
    }
}
