//! An arbiter of a few lines that says only what a test has it say, and shows all that it hears.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(unreachable_pub, reason = "shared by test programs")]

use arbiterq_client::transport::{Connector, Link};
use arbiterq_client::wire::{
    Alive, Granted, Hash, LogId, Opened, Reply, ReplyBody, Request, RequestBody, Seq, SessionEnded,
    SessionId, Token,
};
use arbiterq_client::{Builder, Client, Clock, Error};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

pub const SESSION: SessionId = 100;

/// Longer than anything takes that is to come. On a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes connections.
pub struct Fake {
    connector: Connector,
    coming: mpsc::UnboundedReceiver<Peer>,
    reachable: Arc<AtomicBool>,
}

/// One connection's other end. Dropped, the connection is cut.
pub struct Peer {
    requests: mpsc::Receiver<Vec<u8>>,
    replies: mpsc::Sender<Vec<u8>>,
}

impl Fake {
    /// Over channels, so that the clock may be paused.
    pub fn new() -> Self {
        let reachable = Arc::new(AtomicBool::new(true));
        let (come, coming) = mpsc::unbounded_channel();
        let open = reachable.clone();
        let connector = Connector::new(move || {
            if !open.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (requests, heard) = mpsc::channel(64);
            let (replies, told) = mpsc::channel(64);
            come.send(Peer { requests: heard, replies }).map_err(io::Error::other)?;
            Ok(Link { requests, replies: told, peer: Some("here".into()) })
        });
        Self { connector, coming, reachable }
    }

    /// Over TCP; the URL to connect to.
    pub async fn tcp() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        let (come, coming) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, mut write) = stream.into_split();
                let (requests, heard) = mpsc::channel::<Vec<u8>>(64);
                let (replies, mut told) = mpsc::channel::<Vec<u8>>(64);
                tokio::spawn(async move {
                    let mut lines = BufReader::new(read).split(b'\n');
                    loop {
                        tokio::select! {
                            line = lines.next_segment() => match line {
                                Ok(Some(line)) => drop(requests.send(line).await),
                                _ => return,
                            },
                            reply = told.recv() => match reply {
                                Some(reply) => write.write_all(&[&reply[..], b"\n"].concat()).await.unwrap(),
                                None => return,
                            },
                        }
                    }
                });
                if come.send(Peer { requests: heard, replies }).is_err() {
                    return;
                }
            }
        });
        let nowhere = Connector::new(|| Err(io::ErrorKind::Unsupported.into()));
        (Self { connector: nowhere, coming, reachable: Arc::default() }, url)
    }

    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    pub fn builder(&self) -> Builder {
        Client::over(self.connector.clone()).clock(Clock::Tokio).label("c")
    }

    /// The next connection.
    pub async fn accept(&mut self) -> Peer {
        let come = tokio::time::timeout(PATIENCE, self.coming.recv()).await;
        come.expect("no connection was made").unwrap()
    }

    /// A client with a session.
    pub async fn client(&mut self) -> (Client, Peer) {
        let connecting = tokio::spawn(self.builder().connect());
        let mut peer = self.accept().await;
        peer.open().await;
        (connecting.await.unwrap().unwrap(), peer)
    }

    /// A client without a session.
    pub async fn looker(&mut self) -> (Client, Peer) {
        let connecting = tokio::spawn(self.builder().session(false).connect());
        let peer = self.accept().await;
        (connecting.await.unwrap().unwrap(), peer)
    }
}

impl Peer {
    /// The next message; `None` at the connection's end.
    pub async fn next(&mut self) -> Option<RequestBody> {
        let line = tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("nothing is sent")?;
        Some(Request::decode(&line).unwrap().body)
    }

    /// The next message that is no keep-alive; those are not answered.
    pub async fn hear(&mut self) -> RequestBody {
        loop {
            match self.next().await.expect("the connection has ended") {
                RequestBody::KeepAlive(_) => {}
                body => return body,
            }
        }
    }

    /// Everything that is sent from now on until the connection's end.
    pub async fn rest(&mut self) -> Vec<RequestBody> {
        let mut rest = Vec::new();
        while let Some(body) = self.next().await {
            rest.push(body);
        }
        rest
    }

    pub async fn say(&self, index: u64, session: Option<SessionId>, body: ReplyBody) {
        let reply = Reply { partition: 0, epoch: 1, index, session, body };
        self.replies.send(reply.encode()).await.unwrap();
    }

    pub async fn open(&mut self) {
        let RequestBody::Open(open) = self.hear().await else { panic!("not an open") };
        let genesis = LogId([1; 16]);
        let opened = Opened {
            id: open.id,
            session: SESSION,
            lease_ms: open.lease_ms,
            in_flight_max: 64,
            genesis,
            partitions: 1,
        };
        self.say(SESSION, Some(SESSION), ReplyBody::Opened(opened)).await;
    }

    pub async fn acquire(&mut self) -> Seq {
        match self.hear().await {
            RequestBody::Acquire(acquire) => acquire.seq,
            other => panic!("not an acquire: {other:?}"),
        }
    }

    pub async fn grant(&self, seq: Seq, token: Token) {
        let granted = Granted { seq, token, floors: vec![token], hash: Hash::default() };
        self.say(token, Some(SESSION), ReplyBody::Granted(granted)).await;
    }

    pub async fn alive(
        &self,
        n: u64,
        attached: u64,
        index: u64,
        held: &[(Seq, Token)],
        positions: &[(Seq, u64)],
    ) {
        let alive = Alive {
            n,
            held: held.to_vec(),
            revoked: Vec::new(),
            attached,
            suspended: Vec::new(),
            positions: positions.to_vec(),
        };
        self.say(index, Some(SESSION), ReplyBody::Alive(alive)).await;
    }

    pub async fn session_ended(&self) {
        let ended = SessionEnded { reason: arbiterq_client::wire::Reason::Closed };
        self.say(900, Some(SESSION), ReplyBody::SessionEnded(ended)).await;
    }
}

/// Polls `future` so many times, with everything else that can go on going on between, and drops it.
/// Whether it was still pending.
pub async fn poll_and_drop<F: Future>(future: F, polls: usize) -> bool {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await;
        if polled.is_ready() {
            return false;
        }
        settle().await;
    }
    true
}

/// Lets every task go as far as it can.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

pub fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> arbiterq_client::ErrorKind {
    answer.unwrap_err().kind()
}
