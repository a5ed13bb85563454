//! A partition's request queue: what comes, who sent it, and the way back.
//!
//! Everything that goes out is confirmed in its order, and a delivery is acknowledged when all that went out before it
//! is: so no acknowledgement overtakes the reply that it stands for.
//!
//! Who a sender is, the broker vouches for: the `user_id` of a message is the user of its connection, or the broker
//! does not take it. A message without one is nobody's, and a reply queue of another user is not replied to.

use crate::partition::{Delivery, Mark, Outgoing};
use crate::transport::refusal;
use arbiterq_client::broker::{BrokerError, BrokerUrl, Message, Publisher};
use arbiterq_client::wire::rabbitmq::{DEAD_LETTERS, is_reply_queue_of, requests_queue};
use arbiterq_client::wire::{DecodeError, MESSAGE_BYTES_MAX, Principal, PrincipalBy, Reason, Reply, Request};
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::collections::{BTreeSet, VecDeque};

/// Why a message was buried.
const DEAD_REASON: &str = "x-arbiter-reason";
/// Who sent it, as the broker says.
const DEAD_USER: &str = "x-arbiter-user";

/// One partition's request queue, consumed.
pub(crate) struct RequestQueue {
    number: u32,
    name: String,
    /// This arbiter's own user, for its letters to itself.
    user: ShortString,
    channel: Channel,
    deliveries: Consumer,
    publisher: Publisher,
    /// What was published, and what is acknowledged after it, in order.
    steps: VecDeque<Step>,
    /// Delivered and not acknowledged.
    delivered: BTreeSet<u64>,
    returned: VecDeque<Mark>,
    /// The partition's epoch, for what is refused here.
    epoch: u64,
}

enum Step {
    Published,
    Finished(u64),
}

/// What comes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are deliveries")]
pub(crate) enum Came {
    /// A message of whom the broker knows.
    Delivery(Delivery),
    /// A reply came back.
    Returned(Mark),
    /// Something else was done that needs no attention.
    Nothing,
}

impl RequestQueue {
    /// Consumes partition `number`'s queue, when it is this consumer's turn; so many deliveries ahead.
    ///
    /// # Errors
    /// There is no such queue, it may not be consumed, or the broker does not answer.
    pub(crate) async fn consume(
        connection: &Connection,
        url: &BrokerUrl,
        number: u32,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let name = requests_queue(number);
        let channel = BrokerError::limited(connection.create_channel()).await?;
        BrokerError::limited(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        let options = BasicConsumeOptions::default();
        let deliveries =
            channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default());
        let deliveries = BrokerError::limited(deliveries).await?;
        Ok(Self {
            number,
            name,
            user: url.user().into(),
            channel,
            deliveries,
            publisher,
            steps: VecDeque::new(),
            delivered: BTreeSet::new(),
            returned: VecDeque::new(),
            epoch: 0,
        })
    }

    /// The partition began an epoch.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Whether everything that went out is confirmed, and everything finished acknowledged.
    pub(crate) fn is_quiet(&self) -> bool {
        self.steps.is_empty()
    }

    /// What comes next; messages only while it `takes` them.
    ///
    /// # Errors
    /// The broker is gone, or has ended this consumer.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next(&mut self, takes: bool) -> Result<Came, BrokerError> {
        if let Some(mark) = self.returned.pop_front() {
            return Ok(Came::Returned(mark));
        }
        tokio::select! {
            biased;
            published = self.publisher.next() => {
                // Where the queue is full a tick is written again; what came back waits for its lease. A reply is asked for
                // again.
                self.returned.extend(published?.returned.and_then(|message| mark_of(&message)));
                self.steps.pop_front();
                self.acknowledge()?;
                Ok(Came::Nothing)
            }
            delivery = self.deliveries.next(), if takes => match delivery {
                Some(delivery) => self.take(delivery?),
                None => Err(BrokerError::Cancelled { queue: self.name.clone() }),
            },
        }
    }

    fn take(&mut self, message: lapin::message::Delivery) -> Result<Came, BrokerError> {
        let lapin::message::Delivery { delivery_tag: id, properties, data, .. } = message;
        self.delivered.insert(id);
        let Some(user) = properties.user_id() else {
            return self.bury(id, None, data, "no user_id: nobody vouches for its sender");
        };
        let from = properties.reply_to().as_ref().map(ShortString::as_str);
        if from.is_some_and(|from| !is_reply_queue_of(user.as_str(), from)) {
            return self.bury(id, Some(user), data, "its reply queue is not its sender's own");
        }
        let too_long = || {
            DecodeError::of(
                Reason::MessageTooLong,
                format!("{} bytes, the limit is {MESSAGE_BYTES_MAX}", data.len()),
            )
        };
        let request = if data.len() > MESSAGE_BYTES_MAX { Err(too_long()) } else { Request::decode(&data) };
        let refused = match request {
            Ok(request) if request.partition == self.number => {
                let principal = Principal { name: user.as_str().into(), by: PrincipalBy::BrokerUser };
                let from = from.map(Into::into);
                let delivery = Delivery { id, from, principal, present: false, position: None, request };
                return Ok(Came::Delivery(delivery));
            }
            Ok(request) => {
                let what = format!("partition {}, this queue is that of {}", request.partition, self.number);
                DecodeError::of(Reason::WrongPartition, what).naming(&request)
            }
            Err(error) => error,
        };
        let why = refused.to_string();
        if let Some(to) = from {
            let reply = refusal(refused, self.number, self.epoch);
            self.reply(to, &reply, None);
        }
        self.bury(id, Some(user), data, &why)
    }

    /// Puts a message that cannot be read where operators find it, with the reason.
    fn bury(
        &mut self,
        id: u64,
        user: Option<&ShortString>,
        mut body: Vec<u8>,
        why: &str,
    ) -> Result<Came, BrokerError> {
        // Of one that is too long its beginning tells enough.
        body.truncate(MESSAGE_BYTES_MAX);
        tracing::debug!(
            partition = self.number,
            user = user.map(ShortString::as_str),
            why,
            "message refused"
        );
        let text = |text: &str| AMQPValue::LongString(LongString::from(text));
        let mut headers = FieldTable::default();
        headers.insert(DEAD_REASON.into(), text(why));
        if let Some(user) = user {
            headers.insert(DEAD_USER.into(), text(user.as_str()));
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        self.publish(Message { exchange: DEAD_LETTERS, key: "", mandatory: false, body, properties });
        self.finished(&[id])?;
        Ok(Came::Nothing)
    }

    /// Sends replies, in their order.
    pub(crate) fn send(&mut self, outgoing: &[Outgoing]) {
        for Outgoing { to, reply, mark } in outgoing {
            self.reply(to, reply, mark.as_ref());
        }
    }

    fn reply(&mut self, to: &str, reply: &Reply, mark: Option<&Mark>) {
        let mut properties = BasicProperties::default().with_content_type("application/json".into());
        if let Some(mark) = mark {
            properties = properties.with_message_id(id_of(mark).into());
        }
        let body = reply.encode();
        self.publish(Message { exchange: "", key: to, mandatory: true, body, properties });
    }

    /// A letter to the partition itself, at the end of its queue.
    pub(crate) fn post(&mut self, letter: &Request) {
        let properties = BasicProperties::default().with_delivery_mode(2).with_user_id(self.user.clone());
        let (key, body) = (self.name.clone(), letter.encode());
        self.publish(Message { exchange: "", key: &key, mandatory: true, body, properties });
    }

    fn publish(&mut self, message: Message<'_>) {
        self.publisher.publish(message);
        self.steps.push_back(Step::Published);
    }

    /// These deliveries are finished: acknowledged when all that went out before is confirmed.
    ///
    /// # Errors
    /// The channel is gone.
    pub(crate) fn finished(&mut self, ids: &[u64]) -> Result<(), BrokerError> {
        self.steps.extend(ids.iter().map(|id| Step::Finished(*id)));
        self.acknowledge()
    }

    fn acknowledge(&mut self) -> Result<(), BrokerError> {
        let mut finished = BTreeSet::new();
        while let Some(Step::Finished(id)) = self.steps.pop_front_if(|step| matches!(step, Step::Finished(_)))
        {
            self.delivered.remove(&id);
            finished.insert(id);
        }
        // All up to the first that is not finished are acknowledged by one word.
        let first_left = self.delivered.first().copied().unwrap_or(u64::MAX);
        let apart = finished.split_off(&first_left);
        let together = finished.last().map(|id| (*id, true));
        for (id, multiple) in together.into_iter().chain(apart.into_iter().map(|id| (id, false))) {
            self.ack(id, multiple)?;
        }
        Ok(())
    }

    /// Says it without waiting: if the channel is gone, the consumer says so, too.
    fn ack(&self, id: u64, multiple: bool) -> Result<(), BrokerError> {
        let said = self.channel.basic_ack(id, BasicAckOptions { multiple }).now_or_never();
        said.unwrap_or(Ok(())).map_err(Into::into)
    }
}

/// What a reply carries, so that its return tells whose it was.
fn id_of(mark: &Mark) -> String {
    let Mark { session, n, grant } = mark;
    match grant {
        Some((seq, token)) => format!("{session}.{n}.{seq}.{token}"),
        None => format!("{session}.{n}"),
    }
}

/// Read from the message that came back, and from nothing else: a return rides on any confirm.
fn mark_of(returned: &BasicReturnMessage) -> Option<Mark> {
    let id = returned.delivery.properties.message_id().as_ref()?;
    let mut numbers = id.as_str().split('.').map(|number| number.parse::<u64>().ok());
    let (session, n) = (numbers.next()??, numbers.next()??);
    let grant = match (numbers.next(), numbers.next()) {
        (Some(Some(seq)), Some(Some(token))) => Some((seq, token)),
        (None, None) => None,
        _ => return None,
    };
    Some(Mark { session, n, grant })
}
