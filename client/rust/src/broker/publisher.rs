//! Publishing in order without waiting, and hearing in the same order what became of it.

use super::{BrokerError, CALL_LIMIT};
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{FuturesOrdered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use std::collections::VecDeque;
use tokio::time::{Instant, timeout_at};

/// Publishes on a channel of its own, in confirm mode.
pub struct Publisher {
    channel: Channel,
    confirms: FuturesOrdered<BoxFuture<'static, lapin::Result<Confirmation>>>,
    /// When each of them has to be there.
    due: VecDeque<Instant>,
}

/// What became of a message.
pub struct Published {
    /// The broker has taken it over; else it has refused it.
    pub taken: bool,
    /// A message that nobody was there for: of all that were published, not of this one.
    pub returned: Option<BasicReturnMessage>,
}

/// A message.
pub struct Message<'a> {
    /// Where it goes; the default exchange if empty.
    pub exchange: &'a str,
    pub key: &'a str,
    /// It comes back if nobody is there for it.
    pub mandatory: bool,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Publisher {
    /// On a channel that nothing was published on yet.
    pub async fn on(channel: Channel) -> Result<Self, BrokerError> {
        BrokerError::limited(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { channel, confirms: FuturesOrdered::new(), due: VecDeque::new() })
    }

    /// Publishes behind everything before it.
    pub fn publish(&mut self, message: Message<'_>) {
        let Message { exchange, key, mandatory, body, properties } = message;
        let (exchange, key): (ShortString, ShortString) = (exchange.into(), key.into());
        let (channel, options) =
            (self.channel.clone(), BasicPublishOptions { mandatory, ..Default::default() });
        let mut sent = async move {
            let confirm = channel.basic_publish(exchange, key, options, &body, properties).await?;
            confirm.await
        }
        .boxed();
        // Polled once, it is in the connection's queue, behind what was polled before it.
        let sent = match (&mut sent).now_or_never() {
            Some(published) => ready(published).boxed(),
            None => sent,
        };
        self.confirms.push_back(sent);
        self.due.push_back(Instant::now() + CALL_LIMIT);
    }

    /// What became of the first message of which that has not been said; for ever if there is none.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Published, BrokerError> {
        let Some(due) = self.due.front() else { return std::future::pending().await };
        let confirmed = timeout_at(*due, self.confirms.next()).await.map_err(|_| BrokerError::NoAnswer)?;
        self.due.pop_front();
        match confirmed {
            Some(Ok(Confirmation::Ack(returned))) => Ok(Published { taken: true, returned }),
            Some(Ok(Confirmation::Nack(returned))) => Ok(Published { taken: false, returned }),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Confirmation::NotRequested)) | None => unreachable!("confirms are on, and one is due"),
        }
    }
}
