//! The log store `stream`: a RabbitMQ stream, where an entry is proven by reading it back.
//!
//! Two arbiters may append at once; the stream keeps what both say, in one order, and the chain rule says which of it
//! counts. So an arbiter believes of its own entries what it has read back, and reads everything in the order of the
//! stream. Offsets in a stream rise and have gaps: they say where to read on, and nothing else.

pub mod checkpoint;

use crate::log::chain::{ChainTip, Sealed, UnreadableLine, written};
use arbiterq_client::broker::{BrokerError, Message, Publisher};
use arbiterq_client::wire::rabbitmq::grants_stream;
use arbiterq_client::wire::{Hash, Nonce};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Entries that the broker sends ahead; an entry has up to a mebibyte.
const PREFETCH: u16 = 256;
/// Near the end of a log nothing came for so long: that was the end...
const END_AFTER: Duration = Duration::from_millis(500);
/// ...and what others write after this time is behind the end that was looked for.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The first message of a log that has any is there by then.
const FIRST_WITHIN: Duration = Duration::from_secs(3);
/// A message that is no entry begins like this: whoever wrote it wants to know when it has read so far.
const MARKER: &[u8] = br#"{"marker":"#;

/// Where to begin to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first entry that is there.
    First,
    /// With the entry at this offset.
    At(u64),
    /// Somewhere near the end.
    Last,
}

/// A partition's log at a broker, read only.
pub struct StreamReader {
    name: String,
    channel: Channel,
    entries: Consumer,
    /// Deliveries since the last acknowledgement, and the last of them: to acknowledge is to ask for more.
    unacknowledged: u16,
    last_tag: u64,
}

impl StreamReader {
    /// Reads partition `number`'s log, and whatever is appended to it.
    ///
    /// # Errors
    /// There is no such stream, it may not be read, or the broker does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn attach(connection: &Connection, number: u32, from: From) -> Result<Self, BrokerError> {
        Self::of(connection, grants_stream(number), from).await
    }

    /// Reads any stream.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn of(connection: &Connection, name: String, from: From) -> Result<Self, BrokerError> {
        let channel = BrokerError::limited(connection.create_channel()).await?;
        BrokerError::limited(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let from = match from {
            From::At(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            From::First => AMQPValue::LongString("first".into()),
            From::Last => AMQPValue::LongString("last".into()),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from);
        let options = BasicConsumeOptions::default();
        let entries = channel.basic_consume(name.as_str().into(), "".into(), options, arguments);
        let entries = BrokerError::limited(entries).await?;
        Ok(Self { name, channel, entries, unacknowledged: 0, last_tag: 0 })
    }

    /// The offset of what is last in partition `number`'s log by now, or of something later; none if there is nothing.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn last_offset(connection: &Connection, number: u32) -> Result<Option<u64>, BrokerError> {
        let mut reader = Self::attach(connection, number, From::Last).await?;
        let Ok(read) = timeout(FIRST_WITHIN, reader.next()).await else { return Ok(None) };
        let (mut last, until) = (read?.0, Instant::now() + END_WITHIN);
        while Instant::now() < until
            && let Ok(read) = timeout(END_AFTER, reader.next()).await
        {
            last = read?.0;
        }
        Ok(Some(last))
    }

    /// The next message and its offset.
    ///
    /// # Errors
    /// The broker is gone, or this is no stream.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<(u64, Vec<u8>), BrokerError> {
        if self.unacknowledged >= PREFETCH / 2 {
            self.unacknowledged = 0;
            let all = BasicAckOptions { multiple: true };
            BrokerError::limited(self.channel.basic_ack(self.last_tag, all)).await?;
        }
        let delivery = self.entries.next().await;
        let delivery = delivery.ok_or_else(|| BrokerError::Cancelled { queue: self.name.clone() })??;
        self.unacknowledged += 1;
        self.last_tag = delivery.delivery_tag;
        let headers = delivery.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
            Some(AMQPValue::LongLongInt(offset)) => Ok((offset.cast_unsigned(), delivery.data)),
            _ => Err(BrokerError::NoStream { queue: self.name.clone() }),
        }
    }
}

/// A message of the log as an entry; none if it is somebody's marker.
///
/// # Errors
/// What it is not: it is void.
pub fn entry_of(bytes: &[u8]) -> Result<Option<Vec<Sealed>>, UnreadableLine> {
    if bytes.starts_with(MARKER) {
        return Ok(None);
    }
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
    lines.map(Sealed::read).collect::<Result<_, _>>().map(Some)
}

/// What is void in a log, and whether it stands on anything that is there.
///
/// An arbiter that was replaced leaves entries that follow a record which counts, or one another. An entry that follows
/// neither, and not from behind, stands where a record was changed or is missing.
#[derive(Debug, Default)]
pub struct Void {
    entries: u64,
    /// Records of those.
    recent: VecDeque<Hash>,
    adrift: u64,
    ever_adrift: u64,
}

/// As many records as an arbiter may have under way when it is replaced.
const VOID_KEPT: usize = 16_384;

impl Void {
    /// An entry of the log, read where the chain stood at `tip`; whether it counts. If so, `tip` moves.
    pub fn take(&mut self, tip: &mut ChainTip, records: &[Sealed]) -> bool {
        if tip.extend(records) {
            self.adrift = 0;
            return true;
        }
        self.entries += 1;
        if let Some(Sealed { record, .. }) = records.first()
            && record.index >= tip.next_index
            && !self.recent.contains(&record.prev)
        {
            self.adrift += 1;
            self.ever_adrift += 1;
        }
        self.recent.extend(records.iter().map(|sealed| sealed.hash));
        self.recent.drain(..self.recent.len().saturating_sub(VOID_KEPT));
        false
    }

    /// A message of the log that is no entry.
    pub fn take_unreadable(&mut self) {
        self.entries += 1;
    }

    /// How many there were.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many entries after the last that counts follow a record that is not there.
    pub fn adrift(&self) -> u64 {
        self.adrift
    }

    /// How many there were anywhere.
    pub fn ever_adrift(&self) -> u64 {
        self.ever_adrift
    }
}

/// A partition's log at a broker: read from some entry on, and written to.
pub struct StreamLog {
    reader: StreamReader,
    publisher: Publisher,
    /// What was appended here and not heard of yet.
    own: VecDeque<Own>,
    /// So many of those, from the first on, the broker has taken over.
    confirmed: usize,
    /// So many of those, from the first on, are in `read`.
    read_back: usize,
    /// Read, and kept back until the own ones before are confirmed.
    read: VecDeque<Read>,
}

struct Own {
    bytes: Vec<u8>,
    /// None if it is a marker.
    records: Vec<Sealed>,
}

enum Read {
    /// The first of the own ones of which that was not said.
    Own {
        offset: u64,
    },
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
    /// Reads partition `number`'s log from the entry at `from` on, or all of it, and writes to it.
    ///
    /// # Errors
    /// As [`StreamReader::attach`].
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn attach(
        connection: &Connection,
        number: u32,
        from: Option<u64>,
    ) -> Result<Self, BrokerError> {
        let reader = StreamReader::attach(connection, number, from.map_or(From::First, From::At)).await?;
        let publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        let (own, read) = (VecDeque::new(), VecDeque::new());
        Ok(Self { reader, publisher, own, confirmed: 0, read_back: 0, read })
    }

    /// Appends an entry. It is heard of by [`next`](Self::next), in its turn.
    pub fn append(&mut self, records: Vec<Sealed>) {
        self.publish(written(&records), records);
    }

    /// Appends a marker: [`Heard::Marker`] is said when everything before it was.
    pub fn mark(&mut self, nonce: Nonce) {
        self.publish([MARKER, format!("\"{nonce}\"}}\n").as_bytes()].concat(), Vec::new());
    }

    fn publish(&mut self, bytes: Vec<u8>, records: Vec<Sealed>) {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let body = bytes.clone();
        self.publisher.publish(Message {
            exchange: "",
            key: &self.reader.name,
            mandatory: true,
            body,
            properties,
        });
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
                        return Err(BrokerError::Refused { queue: self.reader.name.clone() });
                    }
                    self.confirmed += 1;
                }
                read = self.reader.next() => {
                    let (offset, bytes) = read?;
                    self.take(offset, &bytes);
                }
            }
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

    fn take(&mut self, offset: u64, bytes: &[u8]) {
        if self.own.get(self.read_back).is_some_and(|own| own.bytes == bytes) {
            self.read_back += 1;
            return self.read.push_back(Read::Own { offset });
        }
        let heard = match entry_of(bytes) {
            Ok(None) => return,
            Ok(Some(records)) => Heard::Entry { offset, records },
            Err(error) => Heard::Unreadable { offset, why: error.to_string() },
        };
        self.read.push_back(Read::Other(heard));
    }
}
