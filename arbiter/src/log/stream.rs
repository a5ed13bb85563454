//! The log store `stream`: a RabbitMQ stream, where an entry is proven by reading it back.
//!
//! Two arbiters may append at once; the stream keeps what both say, in one order, and the chain rule says which of it
//! counts. So an arbiter believes of its own entries what it has read back, and reads everything in the order of the
//! stream. Offsets in a stream rise and have gaps: they say where to read on, and nothing else.

use crate::log::chain::Sealed;
use arbiterq_client::broker::{BrokerError, Message, Publisher};
use arbiterq_client::wire::Nonce;
use arbiterq_client::wire::rabbitmq::grants_stream;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::collections::VecDeque;

/// Entries that the broker sends ahead; an entry has up to a mebibyte.
const PREFETCH: u16 = 256;
/// A message that is no entry begins like this: whoever wrote it wants to know when it has read so far.
const MARKER: &[u8] = br#"{"marker":"#;

/// A partition's log at a broker: read from some entry on, and written to.
pub struct StreamLog {
    name: String,
    reader: Channel,
    entries: Consumer,
    publisher: Publisher,
    /// What was appended here and not heard of yet.
    own: VecDeque<Own>,
    /// So many of those, from the first on, the broker has taken over.
    confirmed: usize,
    /// So many of those, from the first on, are in `read`.
    read_back: usize,
    /// Read, and kept back until the own ones before are confirmed.
    read: VecDeque<Read>,
    /// Deliveries since the last acknowledgement, and the last of them: to acknowledge is to ask for more.
    unacknowledged: u16,
    last_tag: u64,
}

struct Own {
    bytes: Vec<u8>,
    /// None if it is a marker.
    records: Vec<Sealed>,
}

enum Read {
    /// The first of the own ones of which that was not said.
    Own { offset: u64 },
    Other(Heard),
}

/// What the log says.
#[derive(Debug)]
pub enum Heard {
    /// An entry, whether it counts or not.
    Entry {
        /// Where it is.
        offset: u64,
        /// What it says.
        records: Vec<Sealed>,
    },
    /// What is no entry: void.
    Unreadable {
        /// Where it is.
        offset: u64,
        /// What it is not.
        why: String,
    },
    /// A marker of this reader's own: all that was there when it was set has been said.
    Marker,
}

impl StreamLog {
    /// Reads partition `number`'s log from the entry at `from` on, or all of it.
    ///
    /// # Errors
    /// There is no such stream, it may not be read or written, or the broker does not answer.
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn attach(connection: &Connection, number: u32, from: Option<u64>) -> Result<Self, BrokerError> {
        let name = grants_stream(number);
        let reader = BrokerError::limited(connection.create_channel()).await?;
        BrokerError::limited(reader.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let from = match from {
            Some(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            None => AMQPValue::LongString("first".into()),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from);
        let options = BasicConsumeOptions::default();
        let entries = reader.basic_consume(name.as_str().into(), "".into(), options, arguments);
        let entries = BrokerError::limited(entries).await?;
        let publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        Ok(Self {
            name,
            reader,
            entries,
            publisher,
            own: VecDeque::new(),
            confirmed: 0,
            read_back: 0,
            read: VecDeque::new(),
            unacknowledged: 0,
            last_tag: 0,
        })
    }

    /// Appends an entry. It is heard of by [`next`](Self::next), in its turn.
    pub fn append(&mut self, records: Vec<Sealed>) {
        let mut bytes = Vec::with_capacity(records.iter().map(|sealed| sealed.line.len() + 1).sum());
        for sealed in &records {
            bytes.extend_from_slice(&sealed.line);
            bytes.push(b'\n');
        }
        self.publish(bytes, records);
    }

    /// Appends a marker: [`Heard::Marker`] is said when everything before it was.
    pub fn mark(&mut self, nonce: Nonce) {
        self.publish([MARKER, format!("\"{nonce}\"}}\n").as_bytes()].concat(), Vec::new());
    }

    fn publish(&mut self, bytes: Vec<u8>, records: Vec<Sealed>) {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let body = bytes.clone();
        self.publisher.publish(Message { exchange: "", key: &self.name, mandatory: true, body, properties });
        self.own.push_back(Own { bytes, records });
    }

    /// What the log says next, in its order; an own entry only when the broker has also confirmed it.
    ///
    /// # Errors
    /// The broker is gone, or has refused an entry: nothing more is to be believed of what was appended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Heard, BrokerError> {
        loop {
            if let Some(heard) = self.pop() {
                return Ok(heard);
            }
            tokio::select! {
                biased;
                published = self.publisher.next() => {
                    let published = published?;
                    if !published.taken || published.returned.is_some() {
                        return Err(BrokerError::Refused { queue: self.name.clone() });
                    }
                    self.confirmed += 1;
                }
                delivery = self.entries.next() => match delivery {
                    Some(delivery) => self.take(delivery?)?,
                    None => return Err(BrokerError::Cancelled { queue: self.name.clone() }),
                },
            }
            self.ask_for_more().await?;
        }
    }

    fn pop(&mut self) -> Option<Heard> {
        let waits = |read: &Read| matches!(read, Read::Own { .. }) && self.confirmed == 0;
        match self.read.pop_front_if(|read| !waits(read))? {
            Read::Other(heard) => Some(heard),
            Read::Own { offset } => {
                self.confirmed -= 1;
                self.read_back -= 1;
                let Own { records, .. } = self.own.pop_front()?;
                Some(if records.is_empty() { Heard::Marker } else { Heard::Entry { offset, records } })
            }
        }
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), BrokerError> {
        let offset = delivery.properties.headers().as_ref().and_then(|headers| {
            match headers.inner().get("x-stream-offset") {
                Some(AMQPValue::LongLongInt(offset)) => u64::try_from(*offset).ok(),
                _ => None,
            }
        });
        let Some(offset) = offset else { return Err(BrokerError::NoStream { queue: self.name.clone() }) };
        self.unacknowledged += 1;
        self.last_tag = delivery.delivery_tag;
        let bytes = delivery.data;
        if self.own.get(self.read_back).is_some_and(|own| own.bytes == bytes) {
            self.read_back += 1;
            self.read.push_back(Read::Own { offset });
        } else if !bytes.starts_with(MARKER) {
            let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|byte| *byte == b'\n');
            let records: Result<Vec<_>, _> = lines.map(Sealed::read).collect();
            self.read.push_back(Read::Other(match records {
                Ok(records) => Heard::Entry { offset, records },
                Err(error) => Heard::Unreadable { offset, why: error.to_string() },
            }));
        }
        Ok(())
    }

    /// The broker sends so many ahead and then waits to hear that they were taken.
    async fn ask_for_more(&mut self) -> Result<(), BrokerError> {
        if self.unacknowledged >= PREFETCH / 2 {
            self.unacknowledged = 0;
            let all = BasicAckOptions { multiple: true };
            BrokerError::limited(self.reader.basic_ack(self.last_tag, all)).await?;
        }
        Ok(())
    }
}
