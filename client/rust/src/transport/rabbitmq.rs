//! Messages over a RabbitMQ broker: out to the exchange of requests, in from a queue of this connection's own.
//!
//! The queue is exclusive and ends with the connection. Its name serves one connection only: a reply to an earlier one is
//! lost with its queue, and never taken for this one's.

use super::{ConnectionId, Incoming, WAITING_BYTES_MAX};
use crate::broker::{
    BrokerError, BrokerUrl, CLOSE_LIMIT, ConnectError, Mailbox, MailboxError, Requests, close,
};
use crate::wire::Reply;
use crate::wire::rabbitmq::REQUESTS_EXCHANGE;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Consumer, Event};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Messages published at once.
const BATCH_MAX: usize = 64;

/// A message and the partition that it is for.
type Line = (u32, Vec<u8>);

/// A connection to the broker. Dropping it publishes what waits, then closes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// Where replies go.
    pub(crate) reply_to: String,
    lines: mpsc::UnboundedSender<Line>,
    waiting_bytes: Arc<AtomicUsize>,
    reader: AbortHandle,
}

impl Connection {
    /// Sends a message. False if the broker has not taken anything for so long that it is hopeless.
    pub(crate) fn send(&self, partition: u32, line: Vec<u8>) -> bool {
        let waiting = self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        waiting <= WAITING_BYTES_MAX && self.lines.send((partition, line)).is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Connects. What comes is put into `incoming`, and at the end that it is over.
pub(crate) async fn connect(
    url: BrokerUrl,
    id: ConnectionId,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
) -> io::Result<Connection> {
    let mailbox = Mailbox::open(&url, "arbiter client").await.map_err(io_error)?;
    let Mailbox { connection: broker, reply_to, replies, requests } = mailbox;
    let (lines, to_publish) = mpsc::unbounded_channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let (under_way, waiting) = (VecDeque::new(), waiting_bytes.clone());
    let events = broker.events_listener().boxed();
    let writer =
        Writer { requests, events, waiting_bytes: waiting, under_way, id, incoming: incoming.clone() };
    tokio::spawn(async move {
        if let Err(error) = writer.run(to_publish).await {
            tracing::debug!(%error, "nothing more is published on this connection");
        }
        close(&broker).await;
    });
    let reader = tokio::spawn(async move {
        let why = read(id, replies, &incoming).await;
        tracing::debug!(%why, "the connection to the broker is over");
        let _ = incoming.send((id, Incoming::Ended)).await;
    });
    Ok(Connection { id, reply_to, lines, waiting_bytes, reader: reader.abort_handle() })
}

struct Writer {
    requests: Requests,
    events: BoxStream<'static, Event>,
    waiting_bytes: Arc<AtomicUsize>,
    /// How long each message is that was published and not confirmed.
    under_way: VecDeque<usize>,
    id: ConnectionId,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
}

impl Writer {
    /// Publishes until the connection is dropped, then waits a moment for what is under way.
    async fn run(mut self, mut lines: mpsc::UnboundedReceiver<Line>) -> Result<(), BrokerError> {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                published = self.requests.next() => {
                    let published = published?;
                    self.confirmed(published.returned.is_some()).await;
                }
                Some(event) = self.events.next() => {
                    let hindered = match event {
                        Event::ConnectionBlocked(reason) => {
                            Some(format!("the broker takes no messages: {reason}"))
                        }
                        Event::ConnectionUnblocked => None,
                        _ => continue,
                    };
                    let _ = self.incoming.send((self.id, Incoming::Hindered(hindered))).await;
                }
                taken = lines.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|line| self.publish(line));
                }
            }
        }
        let rest = async {
            while !self.under_way.is_empty() {
                self.requests.next().await?;
                self.under_way.pop_front();
            }
            Ok(())
        };
        timeout(CLOSE_LIMIT, rest).await.unwrap_or(Err(BrokerError::NoAnswer))
    }

    fn publish(&mut self, (partition, body): Line) {
        self.under_way.push_back(body.len());
        self.requests.publish(partition, body);
    }

    /// A message that the broker refuses because its queue is full is sent again by whoever waits for the answer.
    async fn confirmed(&mut self, came_back: bool) {
        let bytes = self.under_way.pop_front().unwrap_or(0);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Release);
        if came_back {
            let why = format!(
                "no queue is bound to {REQUESTS_EXCHANGE} for that partition: run `arbiter broker init`"
            );
            let _ = self.incoming.send((self.id, Incoming::Unroutable(why))).await;
        }
    }
}

/// Reads until the connection ends. Says why it did.
async fn read(
    id: ConnectionId,
    mut replies: Consumer,
    incoming: &mpsc::Sender<(ConnectionId, Incoming)>,
) -> String {
    loop {
        let delivery = match replies.next().await {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return error.to_string(),
            None => return "the broker has ended the consumer".into(),
        };
        match Reply::decode(&delivery.data) {
            // What this library does not know, it ignores.
            Ok(None) => {}
            Ok(Some(reply)) => {
                if incoming.send((id, Incoming::Replies(vec![reply]))).await.is_err() {
                    return "the client has ended".into();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what came from the arbiter is no message; another connection is made");
                let _ = incoming.send((id, Incoming::Unreadable)).await;
                while let Some(Ok(_)) = replies.next().await {}
                return "it brought what is no message".into();
            }
        }
    }
}

fn io_error(error: MailboxError) -> io::Error {
    let kind = match &error {
        MailboxError::Connect(ConnectError::NoAnswer { .. })
        | MailboxError::Broker(BrokerError::NoAnswer) => io::ErrorKind::TimedOut,
        // The next attempt would meet the same.
        MailboxError::Connect(ConnectError::Tls { url, what, help }) => {
            return io::Error::new(io::ErrorKind::PermissionDenied, format!("{url}: {what}; {help}"));
        }
        MailboxError::Connect(ConnectError::Failed { source, .. })
        | MailboxError::Broker(BrokerError::Failed(source)) => kind(source),
        _ => io::ErrorKind::Other,
    };
    if kind == io::ErrorKind::NotFound {
        let what =
            format!("there is no exchange {REQUESTS_EXCHANGE} at the broker: run `arbiter broker init`");
        return io::Error::new(kind, what);
    }
    io::Error::new(kind, error.to_string())
}

/// What the library met, as far as it matters here: what is refused now will be refused again.
fn kind(error: &lapin::Error) -> io::ErrorKind {
    match error.kind() {
        lapin::ErrorKind::IOError(error) => error.kind(),
        lapin::ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
            | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => io::ErrorKind::PermissionDenied,
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        },
        _ => io::ErrorKind::Other,
    }
}
