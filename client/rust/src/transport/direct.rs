//! Lines over TCP, over a Unix socket, or over channels within a program.

use super::{ConnectionId, Incoming, Link, WAITING_BYTES_MAX};
use crate::client::Place;
use crate::url::Url;
use crate::wire::{REPLY_BYTES_MAX, Reply};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A connection to the arbiter. Dropping it writes what waits, then closes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// The client's own end as the client sees it, where its end is the program's end.
    pub(crate) peer: Option<String>,
    /// Where bytes go out; none within a program.
    out: Option<Arc<Out>>,
    /// What waits for the task that writes.
    lines: mpsc::UnboundedSender<Vec<u8>>,
    waiting_bytes: Arc<AtomicUsize>,
    reader: AbortHandle,
}

impl Connection {
    /// Sends whole lines; `now` without leaving it to a task, if the socket takes them and nothing else waits. False if
    /// the arbiter has not read for so long that it is hopeless.
    pub(crate) fn send(&self, mut lines: Vec<u8>, now: bool) -> bool {
        if let Some(out) = self.out.as_ref().filter(|_| now)
            && self.waiting_bytes.load(Ordering::Acquire) == 0
            && let Ok(written) = out.try_write(&lines)
        {
            if written == lines.len() {
                return true;
            }
            lines.drain(..written);
        }
        let waiting = self.waiting_bytes.fetch_add(lines.len(), Ordering::Relaxed) + lines.len();
        waiting <= WAITING_BYTES_MAX && self.lines.send(lines).is_ok()
    }
}

/// The half of a socket by which bytes go out. Dropping the last one ends it.
#[derive(Debug)]
enum Out {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Out {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(half) => half.writable().await?,
                    Self::Unix(half) => half.writable().await?,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Connects. What comes is put into `incoming`, and at the end that it is over.
pub(crate) async fn connect(
    place: Place,
    id: ConnectionId,
    presence: bool,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
) -> io::Result<Connection> {
    match place {
        Place::At(Url::Tcp { host, port }) => {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let own = stream.local_addr()?;
            let peer = own.ip().is_loopback().then(|| own.to_string());
            let (read, write) = stream.into_split();
            Ok(start(id, peer.filter(|_| presence), read, Out::Tcp(write), incoming))
        }
        Place::At(Url::Unix(path)) => {
            let (read, write) = UnixStream::connect(path).await?.into_split();
            let peer = presence.then(|| format!("pid:{}", std::process::id()));
            Ok(start(id, peer, read, Out::Unix(write), incoming))
        }
        #[cfg(feature = "rabbitmq")]
        Place::At(Url::RabbitMq(_)) => unreachable!("another transport's"),
        Place::Here(connector) => Ok(start_channels(id, connector.connect()?, presence, incoming)),
    }
}

fn start(
    id: ConnectionId,
    peer: Option<String>,
    read: impl AsyncRead + Send + Unpin + 'static,
    out: Out,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
) -> Connection {
    let (lines, to_write) = mpsc::unbounded_channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let out = Arc::new(out);
    tokio::spawn(write_lines(out.clone(), to_write, waiting_bytes.clone()));
    let reader = tokio::spawn(async move {
        let mut read = read;
        let why = match read_lines(id, &mut read, &incoming).await {
            Stopped::Ended(why) => why,
            Stopped::Unreadable(why) => {
                tracing::warn!(%why, "what came from the arbiter is no message; another connection is made");
                let _ = incoming.send((id, Incoming::Unreadable)).await;
                discard(&mut read).await
            }
        };
        tracing::debug!(%why, "the connection to the arbiter is over");
        let _ = incoming.send((id, Incoming::Ended)).await;
    });
    Connection { id, peer, out: Some(out), lines, waiting_bytes, reader: reader.abort_handle() }
}

async fn write_lines(
    out: Arc<Out>,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting_bytes: Arc<AtomicUsize>,
) {
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, 64).await > 0 {
        let bytes = batch.concat();
        batch.clear();
        // The reader tells of the end.
        if out.write_all(&bytes).await.is_err() {
            return;
        }
        waiting_bytes.fetch_sub(bytes.len(), Ordering::Release);
    }
}

/// Why no more lines are read.
enum Stopped {
    /// The connection is over.
    Ended(String),
    /// It is not, but nothing that comes on it can be understood.
    Unreadable(String),
}

/// Reads and forgets until the connection ends: the arbiter is not to wait for a reader. Says why it ended.
async fn discard(read: &mut (impl AsyncRead + Unpin)) -> String {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match read.read(&mut chunk).await {
            Ok(0) => return "closed".into(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

/// Reads until the connection ends, or brings what is no message.
async fn read_lines(
    id: ConnectionId,
    read: &mut (impl AsyncRead + Unpin),
    incoming: &mpsc::Sender<(ConnectionId, Incoming)>,
) -> Stopped {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    loop {
        match read.read_buf(&mut buffer).await {
            Ok(0) => return Stopped::Ended("closed".into()),
            Ok(_) => {}
            Err(error) => return Stopped::Ended(error.to_string()),
        }
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else {
            if buffer.len() > REPLY_BYTES_MAX {
                return Stopped::Unreadable(format!("a line is longer than {REPLY_BYTES_MAX} bytes"));
            }
            continue;
        };
        let lines = buffer[..end].split(|byte| *byte == b'\n');
        let replies: Result<Vec<_>, _> = lines.filter(|line| !line.is_empty()).map(Reply::decode).collect();
        buffer.drain(..=end);
        match replies {
            // What this library does not know, it ignores.
            Ok(replies) => {
                let known = replies.into_iter().flatten().collect();
                if incoming.send((id, Incoming::Replies(known))).await.is_err() {
                    return Stopped::Ended("the client has ended".into());
                }
            }
            Err(error) => return Stopped::Unreadable(error.to_string()),
        }
    }
}

fn start_channels(
    id: ConnectionId,
    link: Link,
    presence: bool,
    incoming: mpsc::Sender<(ConnectionId, Incoming)>,
) -> Connection {
    let Link { requests, mut replies, peer } = link;
    let (lines, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let written = waiting_bytes.clone();
    tokio::spawn(async move {
        while let Some(bytes) = to_write.recv().await {
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                if requests.send(line.to_vec()).await.is_err() {
                    return;
                }
            }
            written.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    });
    let reader = tokio::spawn(async move {
        while let Some(line) = replies.recv().await {
            let Ok(reply) = Reply::decode(&line) else {
                let _ = incoming.send((id, Incoming::Unreadable)).await;
                while replies.recv().await.is_some() {}
                break;
            };
            if incoming.send((id, Incoming::Replies(reply.into_iter().collect()))).await.is_err() {
                return;
            }
        }
        let _ = incoming.send((id, Incoming::Ended)).await;
    });
    let peer = peer.filter(|_| presence);
    Connection { id, peer, out: None, lines, waiting_bytes, reader: reader.abort_handle() }
}
