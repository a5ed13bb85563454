//! One connection: a reader that hands messages on in their order, and a writer.

use super::{Connection, Hub, Inbound, SWEEP_BYTES_MAX};
use crate::partition::Delivery;
use crate::transport::refusal;
use arbiterq_client::wire::{
    DecodeError, MESSAGE_BYTES_MAX, Principal, PrincipalBy, Reason, Request, RequestBody,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::{mpsc, oneshot};

/// One message without its line feed, on an in-process connection.
pub type Line = Vec<u8>;

/// The arbiter's end of an in-process connection.
#[derive(Debug)]
pub struct ChannelEnd {
    /// What the client says.
    pub requests: mpsc::Receiver<Line>,
    /// What it is told.
    pub replies: mpsc::Sender<Line>,
}

/// The socket of a connection.
pub(super) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who is at the other end.
pub(super) struct Peer {
    /// What the client must name as its own end for the connection's end to be its process's end.
    pub(super) name: Option<String>,
    pub(super) principal: Principal,
}

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

impl Wire {
    fn split(self) -> (In, Out) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (In::Tcp(read), Out::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (In::Unix(read), Out::Unix(write))
            }
        }
    }
}

/// The half of a socket by which messages come.
enum In {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl In {
    /// Cancel safe.
    async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read(chunk).await,
            Self::Unix(half) => half.read(chunk).await,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(half) => half.as_ref().as_fd(),
            Self::Unix(half) => half.as_ref().as_fd(),
        }
    }
}

/// The half by which replies go out. Dropping it ends it.
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

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }
}

/// Starts the reader and the writer of an accepted socket.
pub(super) fn start(hub: &Arc<Hub>, wire: Wire, peer: Peer) {
    let Some((connection, asked)) = hub.register() else {
        tracing::warn!(limit = hub.connections_max, "connection refused: as many as may are open");
        return;
    };
    let (mut input, out) = wire.split();
    let writer = {
        let (alarm, connection) = (hub.alarm(), connection.clone());
        tokio::spawn(async move {
            let _alarm = alarm;
            write(out, &connection).await;
            connection.now_deaf();
        })
    };
    let hub = hub.clone();
    tokio::spawn(async move {
        let _alarm = hub.alarm();
        let reader = Reader::new(&hub, &connection, peer);
        read(reader, &mut input, asked).await;
        connection.last_answers().await;
        connection.drop_by_us();
        // Its panic is told by its alarm.
        let _ = writer.await;
        hub.forget(&connection);
    });
}

impl Hub {
    /// Connects a client of this process.
    ///
    /// # Errors
    /// As many connections as may are open, or the arbiter has stopped.
    pub fn connect_in_process(self: &Arc<Self>, end: ChannelEnd) -> io::Result<()> {
        let too_many = || io::Error::other("as many connections as may are open, or the arbiter has stopped");
        let (connection, mut asked) = self.register().ok_or_else(too_many)?;
        let principal = Principal { name: "in-process".into(), by: PrincipalBy::InProcess };
        let peer = Peer { name: Some("in-process".into()), principal };
        let hub = self.clone();
        let ChannelEnd { mut requests, replies } = end;
        let writer = {
            let (alarm, connection) = (hub.alarm(), connection.clone());
            tokio::spawn(async move {
                let _alarm = alarm;
                write_channel(replies, &connection).await;
                connection.now_deaf();
            })
        };
        tokio::spawn(async move {
            let _alarm = hub.alarm();
            let mut reader = Reader::new(&hub, &connection, peer);
            loop {
                tokio::select! {
                    biased;
                    () = connection.drop_now.notified() => break,
                    Some(passed) = asked.recv() => {
                        let mut handed_on = 0;
                        while handed_on < SWEEP_BYTES_MAX && let Ok(line) = requests.try_recv() {
                            reader.line(&line).await;
                            handed_on += line.len() + 1;
                        }
                        drop::<oneshot::Sender<()>>(passed);
                    }
                    line = requests.recv() => match line {
                        Some(line) => reader.line(&line).await,
                        None => break,
                    },
                }
            }
            drop(asked);
            reader.ended().await;
            connection.last_answers().await;
            connection.drop_by_us();
            let _ = writer.await;
            hub.forget(&connection);
        });
        Ok(())
    }
}

async fn write_channel(replies: mpsc::Sender<Line>, connection: &Connection) {
    loop {
        let mut bytes = Vec::new();
        connection.take_out(&mut bytes);
        if bytes.is_empty() {
            connection.wake.notified().await;
        }
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let sent = replies.send(line.to_vec());
            tokio::pin!(sent);
            loop {
                tokio::select! {
                    sent = &mut sent => {
                        if sent.is_err() { return }
                        break;
                    }
                    // A client that takes nothing does not keep what is dropped.
                    () = connection.wake.notified() => {
                        if connection.dropped.load(Ordering::Acquire) { return }
                    }
                }
            }
            connection.written(line.len() + 1);
        }
        if connection.dropped.load(Ordering::Acquire) {
            return;
        }
    }
}

async fn write(out: Out, connection: &Connection) {
    let mut pending = Vec::new();
    loop {
        connection.wake.notified().await;
        loop {
            if pending.is_empty() {
                connection.take_out(&mut pending);
            }
            if pending.is_empty() {
                break;
            }
            let mut written = 0;
            while written < pending.len() {
                match out.try_write(&pending[written..]) {
                    Ok(bytes) => {
                        written += bytes;
                        connection.written(bytes);
                    }
                    // The drop may have woken it already, together with what there was to write.
                    Err(_) if connection.dropped.load(Ordering::Acquire) => return,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::select! {
                            ready = out.writable() => if ready.is_err() { return },
                            () = connection.wake.notified() => {
                                if connection.dropped.load(Ordering::Acquire) { return }
                            }
                        }
                    }
                    // The reader sees the end, too, and tells it.
                    Err(error) if is_reset(&error) => return,
                    // The reader would see an end all the same: the system says once what it was.
                    Err(_) => return connection.drop_by_us(),
                }
            }
            pending.clear();
        }
        if connection.dropped.load(Ordering::Acquire) {
            return;
        }
    }
}

async fn read(
    mut reader: Reader<'_>,
    input: &mut In,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        tokio::select! {
            biased;
            () = reader.connection.drop_now.notified() => return,
            Some(passed) = asked.recv() => {
                let mut handed_on = 0;
                while handed_on < SWEEP_BYTES_MAX {
                    let flags = rustix::net::RecvFlags::DONTWAIT;
                    match rustix::net::recv(input.fd(), &mut chunk[..], flags) {
                        Ok((0, _)) => return reader.ended().await,
                        Ok((bytes, _)) => {
                            reader.bytes(&chunk[..bytes]).await;
                            handed_on += bytes;
                        }
                        Err(rustix::io::Errno::INTR) => {}
                        Err(rustix::io::Errno::AGAIN) => break,
                        Err(errno) if is_reset(&errno.into()) => return reader.ended().await,
                        Err(_) => return,
                    }
                }
                drop(passed);
            }
            read = input.read(&mut chunk) => match read {
                Ok(0) => return reader.ended().await,
                Ok(bytes) => reader.bytes(&chunk[..bytes]).await,
                Err(error) if is_reset(&error) => return reader.ended().await,
                Err(_) => return,
            },
        }
    }
}

/// Whether an error is an end at the other side. Any other, such as a timeout where a firewall swallows everything,
/// says nothing about the client: it may live and believe.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Cuts bytes into lines, lines into deliveries.
struct Reader<'a> {
    hub: &'a Hub,
    connection: &'a Connection,
    peer: Peer,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The rest of a line that is too long is passed over.
    skipping: bool,
}

impl<'a> Reader<'a> {
    fn new(hub: &'a Hub, connection: &'a Connection, peer: Peer) -> Self {
        Self { hub, connection, peer, partial: Vec::new(), skipping: false }
    }

    async fn bytes(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if std::mem::take(&mut self.skipping) {
                // The end of a line that was refused when it grew too long.
            } else if self.partial.is_empty() {
                self.line(line).await;
            } else {
                self.partial.extend_from_slice(line);
                let line = std::mem::take(&mut self.partial);
                self.line(&line).await;
            }
            bytes = rest;
        }
        if self.skipping {
            return;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > MESSAGE_BYTES_MAX {
            self.skipping = true;
            let detail = format!("the limit is {MESSAGE_BYTES_MAX} bytes a line");
            self.partial = Vec::new();
            self.refuse(DecodeError::of(Reason::MessageTooLong, detail), 0);
        }
    }

    async fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let request = match Request::decode(line) {
            Ok(request) => request,
            Err(error) => {
                // Said in the partition that was asked, or the session there would not take it for its answer.
                let asked = error.partition.filter(|asked| (*asked as usize) < self.hub.inboxes.len());
                return self.refuse(error, asked.unwrap_or(0));
            }
        };
        let partition = request.partition;
        let Some(inbox) = self.hub.inboxes.get(partition as usize) else {
            let detail = format!("partition {partition}, there are {}", self.hub.inboxes.len());
            return self.refuse(DecodeError::of(Reason::WrongPartition, detail).naming(&request), 0);
        };
        let named = match &request.body {
            RequestBody::Open(open) => open.peer.as_ref(),
            RequestBody::Attach(attach) => attach.peer.as_ref(),
            _ => None,
        };
        let present = named.is_some() && named == self.peer.name.as_ref();
        let delivery = Delivery {
            // By which it is acknowledged; 0 is that of letters.
            id: self.connection.number + 1,
            from: Some(self.connection.address.clone()),
            principal: self.peer.principal.clone(),
            present,
            position: None,
            request,
        };
        self.connection.unanswered.fetch_add(1, Ordering::AcqRel);
        // A partition that has stopped takes nothing more; the arbiter is about to say so by closing.
        let _ = inbox.send(Inbound::Delivery(delivery)).await;
    }

    /// Says at once why a line is no message: no state is told, so no record has to be waited for.
    fn refuse(&self, error: DecodeError, partition: u32) {
        self.hub.refused_lines.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(address = %self.connection.address, %error, "message refused");
        let reply = refusal(error, partition, self.hub.epoch(partition));
        self.hub.send([(&self.connection.address, &reply)]);
    }

    /// The connection is over, and not by the arbiter's doing: every partition is told, behind all that came.
    async fn ended(&self) {
        if self.connection.dropped.load(Ordering::Acquire) {
            return;
        }
        for inbox in &self.hub.inboxes {
            let _ = inbox.send(Inbound::Closed(self.connection.address.clone())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq_client::wire::{Refused, Reply, ReplyBody};
    use std::time::Duration;
    use tokio::sync::mpsc::error::TryRecvError;

    /// What a partition hears when the socket of a connection is read to its end.
    async fn heard_of(wire: Wire) -> Result<Inbound, TryRecvError> {
        let (inbox, mut delivered) = mpsc::channel(1);
        let hub = Hub::new("t".into(), vec![inbox], 1);
        let (mut input, _out) = wire.split();
        let (connection, asked) = hub.register().unwrap();
        let peer = Peer { name: None, principal: Principal::anonymous() };
        read(Reader::new(&hub, &connection, peer), &mut input, asked).await;
        delivered.try_recv()
    }

    #[tokio::test]
    async fn only_an_end_or_a_reset_tells_of_the_client() {
        let (ended, client) = UnixStream::pair().unwrap();
        drop(client);
        assert!(matches!(heard_of(Wire::Unix(ended)).await, Ok(Inbound::Closed(_))));
        let (reset, client) = UnixStream::pair().unwrap();
        reset.try_write(b"not read").unwrap();
        drop(client);
        assert!(matches!(heard_of(Wire::Unix(reset)).await, Ok(Inbound::Closed(_))));
        // Stands for whatever else a system may say, such as a timeout: this one is not connected.
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let other = std::net::TcpStream::from(socket.unwrap());
        other.set_nonblocking(true).unwrap();
        let other = TcpStream::from_std(other).unwrap();
        assert!(matches!(heard_of(Wire::Tcp(other)).await, Err(TryRecvError::Empty)));
    }

    #[tokio::test]
    async fn a_writer_that_hears_late_of_the_drop_does_not_wait_for_the_client() {
        let hub = Hub::new("t".into(), Vec::new(), 1);
        let (connection, _asked) = hub.register().unwrap();
        let (ours, _client) = UnixStream::pair().unwrap();
        let (_input, out) = Wire::Unix(ours).split();
        let detail = "x".repeat(MESSAGE_BYTES_MAX);
        let reason = Reason::Malformed;
        let body = ReplyBody::Refused(Refused { id: None, seq: None, token: None, reason, detail });
        let reply = Reply { partition: 0, epoch: 1, index: 1, session: None, body };
        // Up to the bound, at which the connection is dropped. Whatever woke the writer is one wake by now.
        while !connection.is_over() {
            connection.push(&reply);
        }
        let written = write(out, &connection);
        tokio::time::timeout(Duration::from_secs(10), written).await.expect("it ends");
    }
}
