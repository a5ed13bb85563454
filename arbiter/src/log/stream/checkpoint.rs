//! Checkpoints at the broker: the live state as of an earlier entry, so that a restart reads the tail of the log only.
//!
//! A body is written in parts, and behind them one message that says where it belongs: the manifest. It is written when
//! the record with the body's hash is proven, over a connection of its own: the log does not wait behind it. Nothing here is
//! believed by itself: a restart uses a body whose record it has then read in the log, on a chain from where the body
//! stands.

use super::{From, StreamReader};
use crate::log::chain::{ChainTip, Sealed, hash_of};
use crate::log::checkpoint::{CHECKPOINT_BYTES_MAX, names_body};
use arbiterq_client::broker::{BrokerError, BrokerUrl, CALL_LIMIT, ConnectError, Message, Publisher, close};
use arbiterq_client::wire::rabbitmq::checkpoints_stream;
use arbiterq_client::wire::{Hash, INTEGER_MAX, Nonce};
use lapin::{BasicProperties, Connection};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// What a message has of a body, at most.
const PART_BYTES: usize = 256 * 1024;
/// How far before the end a manifest is looked for first, in offsets; then eight times as far, and so on.
const LOOK_BACK: u64 = 64;

/// Where a checkpoint belongs in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The index of the last record that is in the body.
    pub of: u64,
    /// That record's hash.
    pub of_hash: Hash,
    /// Where in the log the entry is that ends with it.
    pub of_at: u64,
    /// The index of the record with the body's hash.
    pub index: u64,
    /// That record's hash.
    pub hash: Hash,
    /// SHA-256 of the body.
    pub body_hash: Hash,
    /// In how many parts it was written.
    pub parts: u64,
}

/// A part's first line; what it has of the body follows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    of: u64,
    body_hash: Hash,
    number: u64,
}

/// The first line of a message.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Part(Part),
    Manifest(Manifest),
    /// Set by a reader, to know when it has read so far.
    Marker(Nonce),
}

impl Line {
    /// With what follows it; none if it is something else.
    fn read(message: &[u8]) -> Option<(Self, &[u8])> {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = message.split_at(end);
        serde_json::from_slice(line).ok().map(|line| (line, &rest[1..]))
    }

    fn written(&self, rest: &[u8]) -> Vec<u8> {
        // A value of ours with a writer that cannot fail.
        let mut message = serde_json::to_vec(self).unwrap_or_default();
        message.push(b'\n');
        message.extend_from_slice(rest);
        message
    }
}

impl Manifest {
    /// Where the body stands in the chain.
    pub fn tip(&self) -> ChainTip {
        ChainTip { next_index: self.of.saturating_add(1), hash: self.of_hash }
    }

    /// Whether it says what can be: the record is behind what it is of, and both are numbers that a log has.
    fn is_sound(&self) -> bool {
        self.of < self.index && self.index <= INTEGER_MAX
    }

    /// Whether this is the record that the manifest speaks of.
    pub fn is_recorded_by(&self, sealed: &Sealed) -> bool {
        sealed.record.index == self.index
            && sealed.hash == self.hash
            && names_body(sealed, self.of, self.body_hash)
    }
}

/// A body whose record is not in the chain yet.
#[derive(Debug)]
pub struct Draft {
    tip: ChainTip,
    at: u64,
    body: Vec<u8>,
    body_hash: Hash,
}

impl Draft {
    /// A body of the state at `tip`, which is the end of the entry at offset `at`. None before the first record.
    pub fn new(tip: ChainTip, at: u64, body: Vec<u8>) -> Option<Self> {
        let body_hash = hash_of(&body);
        (tip.next_index > 0).then_some(Self { tip, at, body, body_hash })
    }

    /// For the `checkpoint` event: the index of the last record that is in the body, and the body's hash.
    pub fn event(&self) -> (u64, Hash) {
        (self.tip.next_index - 1, self.body_hash)
    }

    /// Whether this is the record with this draft's event.
    pub fn is_recorded_by(&self, sealed: &Sealed) -> bool {
        let (of, body_hash) = self.event();
        sealed.record.index > of && names_body(sealed, of, body_hash)
    }
}

/// A checkpoint that was not written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than may be.
    #[error("the checkpoint has {bytes} bytes, the limit is {CHECKPOINT_BYTES_MAX}; it was not written")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The broker cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker is gone, or does not take it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Writes a checkpoint whose record counts. What was there before still is, whatever happens.
///
/// # Errors
/// Too large, or the broker's.
///
/// # Cancel safety
/// Safe: parts without a manifest are nothing.
pub async fn store(
    url: &BrokerUrl,
    number: u32,
    draft: &Draft,
    record: &Sealed,
) -> Result<Manifest, StoreError> {
    let bytes = draft.body.len() as u64;
    if bytes > CHECKPOINT_BYTES_MAX {
        return Err(StoreError::TooLarge { bytes });
    }
    let (of, body_hash) = draft.event();
    let parts: Vec<_> = draft.body.chunks(PART_BYTES).collect();
    let manifest = Manifest {
        of,
        of_hash: draft.tip.hash,
        of_at: draft.at,
        index: record.record.index,
        hash: record.hash,
        body_hash,
        parts: parts.len() as u64,
    };
    let connection = url.connect(&format!("arbiter serve, partition {number}, checkpoint")).await?;
    let stream = checkpoints_stream(number);
    let written = async {
        let mut publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        for (number, part) in (0..).zip(parts) {
            let part = Line::Part(Part { of, body_hash, number }).written(part);
            publish(&mut publisher, &stream, part).await?;
        }
        publish(&mut publisher, &stream, Line::Manifest(manifest.clone()).written(&[])).await
    };
    let written = written.await;
    close(&connection).await;
    written.map(|()| manifest).map_err(Into::into)
}

/// One message, which the broker has taken over when this returns.
async fn publish(publisher: &mut Publisher, stream: &str, body: Vec<u8>) -> Result<(), BrokerError> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    publisher.publish(Message { exchange: "", key: stream, mandatory: true, body, properties });
    let published = publisher.next().await?;
    if published.taken && published.returned.is_none() {
        return Ok(());
    }
    Err(BrokerError::Refused { queue: stream.to_owned() })
}

/// The newest manifest before an offset, or of all, and its own offset. None if there is none.
///
/// # Errors
/// The broker's.
///
/// # Cancel safety
/// Safe.
pub async fn newest(
    connection: &Connection,
    number: u32,
    before: Option<u64>,
    nonce: Nonce,
) -> Result<Option<(u64, Manifest)>, BrokerError> {
    let stream = checkpoints_stream(number);
    let mut reader = StreamReader::of(connection, stream.clone(), From::Last).await?;
    // Set after the reader, or others might write between the two.
    let mut publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
    let end = Line::Marker(nonce).written(&[]);
    publish(&mut publisher, &stream, end.clone()).await?;
    let first = first_offset(connection, &stream).await?;
    let mut back = LOOK_BACK;
    loop {
        let (mut begun, mut found) = (None, None);
        loop {
            let (offset, message) = next(&mut reader).await?;
            begun.get_or_insert(offset);
            if message == end || before.is_some_and(|before| offset >= before) {
                break;
            }
            if let Some((Line::Manifest(manifest), _)) = Line::read(&message)
                && manifest.is_sound()
            {
                found = Some((offset, manifest));
            }
        }
        let begun = begun.unwrap_or(first).min(before.unwrap_or(u64::MAX));
        if found.is_some() || begun <= first {
            return Ok(found);
        }
        let earlier = begun.saturating_sub(back).max(first);
        back = back.saturating_mul(8);
        reader = StreamReader::of(connection, stream.clone(), From::At(earlier)).await?;
    }
}

/// The body of a manifest at an offset, whose hash is still to be compared; else why there is none.
///
/// # Errors
/// The broker's.
///
/// # Cancel safety
/// Safe.
pub async fn body(
    connection: &Connection,
    number: u32,
    (at, manifest): &(u64, Manifest),
) -> Result<Result<Vec<u8>, &'static str>, BrokerError> {
    let stream = checkpoints_stream(number);
    let first = first_offset(connection, &stream).await?;
    let mut back = manifest.parts;
    loop {
        let from = at.saturating_sub(back).max(first);
        let mut reader = StreamReader::of(connection, stream.clone(), From::At(from)).await?;
        let (mut body, mut parts) = (Vec::new(), 0);
        loop {
            let (offset, message) = next(&mut reader).await?;
            if offset >= *at {
                break;
            }
            let Some((Line::Part(Part { of, body_hash, number }), part)) = Line::read(&message) else {
                continue;
            };
            if (of, body_hash, number) == (manifest.of, manifest.body_hash, parts) {
                parts += 1;
                body.extend_from_slice(part);
            }
            if body.len() as u64 > CHECKPOINT_BYTES_MAX {
                return Ok(Err("the body is larger than may be"));
            }
        }
        if parts == manifest.parts {
            return Ok(Ok(body));
        }
        if from == first {
            return Ok(Err("a part of the body is missing"));
        }
        // Others have written between its parts.
        back = back.saturating_mul(4).max(LOOK_BACK);
    }
}

/// Of the first message that there is: offsets have gaps, also behind what was removed.
async fn first_offset(connection: &Connection, stream: &str) -> Result<u64, BrokerError> {
    let mut reader = StreamReader::of(connection, stream.to_owned(), From::First).await?;
    next(&mut reader).await.map(|(offset, _)| offset)
}

async fn next(reader: &mut StreamReader) -> Result<(u64, Vec<u8>), BrokerError> {
    timeout(CALL_LIMIT, reader.next()).await.unwrap_or(Err(BrokerError::NoAnswer))
}
