//! Attacks on the arbiter's promises that once succeeded, each with the promise that it broke.

use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::file::{FileLog, Options};
use arbiterq::log::memory::MemoryLog;
use arbiterq::log::record::{Command, Event, RULES, Record};
use arbiterq::partition::{Activation, Delivery, Mark, Outgoing, Partition, PartitionConfig};
use arbiterq::serve::{Listen, ServeError, genesis, serve};
use arbiterq::state::State;
use arbiterq_client::wire::{
    Acquire, Claim, ForceRelease, LogId, Nonce, Open, Principal, Reason, Release, ReplyBody, Request,
    RequestBody, ResourceName, SessionId, SessionKey, Timestamp,
};
use arbiterq_tests::{PATIENCE, Service, serve_config};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An arbiter on a log that it reads back.
struct Arbiter {
    partition: Partition,
    log: MemoryLog,
    read: usize,
    now: Duration,
    letters: Vec<Request>,
}

fn new_log() -> MemoryLog {
    let log = MemoryLog::default();
    log.append(&[genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(1_000_000))]);
    log
}

impl Arbiter {
    fn active(log: &MemoryLog, incarnation: u8) -> Self {
        let config = PartitionConfig { returns: true, ..PartitionConfig::default() };
        let partition = Partition::standby(config, State::new(ChainTip::before(0)));
        let (log, now) = (log.clone(), Duration::ZERO);
        let mut arbiter = Self { partition, log, read: 0, now, letters: Vec::new() };
        arbiter.settle();
        let (nonce, wall) = (Nonce([incarnation; 16]), Timestamp::from_micros(2_000_000));
        let activation = Activation { incarnation: nonce, secret: [incarnation; 32], wall };
        arbiter.partition.activate(activation, now).unwrap();
        arbiter.settle();
        arbiter
    }

    /// Appends and reads back until nothing moves; what it tells meanwhile.
    fn settle(&mut self) -> Vec<Outgoing> {
        let mut told = Vec::new();
        loop {
            let outputs = self.partition.outputs(self.now);
            outputs.appends.iter().for_each(|entry| self.log.append(&entry.records));
            self.letters.extend(outputs.letters);
            let read = self.log.read(self.read);
            if read.is_empty() && outputs.sends.is_empty() {
                return told;
            }
            told.extend(outputs.sends);
            for entry in read {
                self.read += 1;
                self.partition.observe(&entry, self.now);
            }
        }
    }

    fn deliver(&mut self, request: Request, from: Option<&str>) {
        let (principal, from) = (Principal::anonymous(), from.map(Into::into));
        let delivery = Delivery { id: 1, from, principal, present: false, position: None, request };
        self.partition.deliver(delivery, self.now);
    }

    fn say(&mut self, request: Request, from: &str) -> Vec<Outgoing> {
        self.deliver(request, Some(from));
        let mut told = self.settle();
        self.now += Duration::from_millis(60);
        self.partition.time(self.now);
        told.extend(self.settle());
        told
    }

    fn open(&mut self, key: u8, from: &str) -> SessionId {
        let told = self.say(open_request(key), from);
        let opened = told.iter().find_map(|outgoing| match &outgoing.reply.body {
            ReplyBody::Opened(opened) => Some(opened.session),
            _ => None,
        });
        opened.expect("opened")
    }

    /// Acquires a resource of the client's own; the token, and the mark of the `granted`.
    fn hold(&mut self, key: u8, session: SessionId, from: &str) -> (u64, Mark) {
        let acquire = Acquire {
            seq: 1,
            claims: vec![Claim::exclusive(resource(key))],
            owner: None,
            wait_ms: None,
            hold_max_ms: None,
            priority: None,
            reason: None,
            value: None,
        };
        let told = self.say(of(key, session, RequestBody::Acquire(acquire)), from);
        let granted = told.iter().find_map(|outgoing| match &outgoing.reply.body {
            ReplyBody::Granted(granted) => Some((granted.token, outgoing.mark?)),
            _ => None,
        });
        granted.expect("granted")
    }
}

fn resource(key: u8) -> ResourceName {
    ResourceName::new(&format!("r{key}")).unwrap()
}

fn of(key: u8, session: SessionId, body: RequestBody) -> Request {
    Request::of(0, session, SessionKey::random([key; 16]), body)
}

fn open_request(key: u8) -> Request {
    let open = Open {
        id: format!("open-{key}"),
        key: SessionKey::random([key; 16]),
        lease_ms: 10_000,
        fail_fast_ms: None,
        label: format!("client-{key}"),
        reply_to: None,
        peer: None,
    };
    Request { partition: 0, auth: None, body: RequestBody::Open(open) }
}

#[test]
fn an_open_that_is_repeated_from_another_address_is_answered_there() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    // The arbiter dies when the session is on the record and its client has not heard of it.
    let session = a.open(1, "old");
    let mut b = Arbiter::active(&log, 2);
    let told = b.say(open_request(1), "new");
    let opened: Vec<_> = told
        .iter()
        .filter_map(|outgoing| match &outgoing.reply.body {
            ReplyBody::Opened(opened) => Some((&*outgoing.to, opened.session)),
            _ => None,
        })
        .collect();
    assert_eq!(
        opened,
        [("new", session)],
        "nobody is at the old address, and without the number none attaches"
    );
}

#[test]
fn a_release_that_acknowledges_a_forced_revocation_is_answered() {
    let mut a = Arbiter::active(&new_log(), 1);
    let session = a.open(1, "c");
    let (token, _) = a.hold(1, session, "c");
    let (id, reason) = ("f".to_owned(), "stuck".to_owned());
    let force = ForceRelease { id, resource: resource(1), token, reason, now: false };
    let force = Request { partition: 0, auth: None, body: RequestBody::ForceRelease(force) };
    a.say(force, "operator");
    let told = a.say(of(1, session, RequestBody::Release(Release { token })), "c");
    let bodies: Vec<_> = told.iter().map(|outgoing| &outgoing.reply.body).collect();
    let [ReplyBody::Released(released)] = bodies[..] else { panic!("{bodies:?}") };
    assert_eq!((released.token, released.reason), (token, Reason::Forced));
}

#[test]
fn of_too_many_letters_the_oldest_are_forgotten() {
    let mut a = Arbiter::active(&new_log(), 1);
    let noise = Mark { session: a.open(100, "n"), n: 9, grant: None };
    let victims: Vec<_> = (1..=20)
        .map(|key| {
            let session = a.open(key, "c");
            a.hold(key, session, "c").1
        })
        .collect();
    (0..1000).for_each(|_| a.partition.returned(noise));
    victims.iter().for_each(|mark| a.partition.returned(*mark));
    (0..4000).for_each(|_| a.partition.returned(noise));
    a.settle();
    for letter in std::mem::take(&mut a.letters) {
        a.deliver(letter, None);
        a.settle();
    }
    assert_eq!(a.partition.state().grants_in_force().count(), 0, "each came back, and nobody has seen it");
}

#[tokio::test]
async fn what_was_taken_is_answered_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serve_config(folder.path());
    config.partition.barrier_interval = Duration::from_secs(3600);
    let service = Service::start(config).await.unwrap();
    let mut client = service.raw().await;
    client.say(r#"{"v":1,"partition":0,"status":{"id":"s","what":"summary"}}"#).await;
    // The refusal shows that the line before it was handed on.
    assert!(client.ask("x").await.get("refused").is_some());
    service.stop().await.unwrap();
    let status = client.hear().await.expect("an answer before the end");
    assert_eq!(status["status"]["id"], "s");
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_make_a_stop_fail() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut config = serve_config(&folder.path().join("data"));
    config.listen = Listen::Unix(socket.clone());
    config.shutdown_timeout = Duration::from_secs(5);
    let service = Service::start(config).await.unwrap();
    let mut deaf = tokio::net::UnixStream::connect(&socket).await.unwrap();
    // A refusal is some 150 bytes: more than a socket's buffer holds, less than the arbiter keeps. The first part
    // is taken out to be written, the second waits behind it.
    let mut other = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut answer = [0; 64];
    for _ in 0..2 {
        deaf.write_all("x\n".repeat(7_000).as_bytes()).await.unwrap();
        for _ in 0..100 {
            other.write_all(b"x\n").await.unwrap();
            assert!(other.read(&mut answer).await.unwrap() > 0);
        }
    }
    service.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_being_written_when_the_arbiter_stops_is_written_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut config = serve_config(&folder.path().join("data"));
    config.listen = Listen::Unix(socket.clone());
    let service = Service::start(config).await.unwrap();
    let mut slow = tokio::net::UnixStream::connect(&socket).await.unwrap();
    slow.write_all("x\n".repeat(8_000).as_bytes()).await.unwrap();
    let mut told = vec![0];
    assert_eq!(slow.read(&mut told).await.unwrap(), 1);
    // It goes on reading a moment after the stop, which waits for that.
    let mut stopping = tokio::spawn(service.stop());
    let _ = tokio::time::timeout(Duration::from_millis(100), &mut stopping).await;
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut told)).await.unwrap().unwrap();
    assert_eq!(told.iter().filter(|byte| **byte == b'\n').count(), 8_000);
}

#[tokio::test]
async fn what_failed_is_said_also_if_there_is_no_time_to_finish() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, data) = (folder.path().join("socket"), folder.path().join("data"));
    let mut config = serve_config(&data);
    config.listen = Listen::Unix(socket.clone());
    // Every entry needs a new file.
    config.log.segment_bytes_max = 1;
    // Less than a client that reads nothing is given.
    config.shutdown_timeout = Duration::from_millis(100);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let served = tokio::spawn(serve(config, std::future::pending(), |_| ready.send(()).unwrap()));
    is_ready.await.unwrap();
    let mut slow = tokio::net::UnixStream::connect(&socket).await.unwrap();
    slow.write_all("x\n".repeat(8_000).as_bytes()).await.unwrap();
    assert_eq!(slow.read(&mut [0]).await.unwrap(), 1);
    std::fs::remove_dir_all(data).unwrap();
    let status = "{\"v\":1,\"partition\":0,\"status\":{\"id\":\"1\",\"what\":\"summary\"}}\n";
    slow.write_all(status.as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ServeError::Log(_))), "{ended:?}");
}

#[tokio::test]
async fn a_service_whose_partition_does_not_become_active_is_never_ready() {
    let folder = tempfile::tempdir().unwrap();
    let at = Timestamp::from_micros(1_000_000);
    let first = genesis(LogId([1; 16]), 0, 1, at);
    let started = Event::EpochStarted { epoch: 1, incarnation: Nonce([1; 16]), rules: RULES + 1 };
    let epoch = Sealed::new(Record {
        index: 1,
        prev: first.hash,
        epoch: 1,
        at,
        renewed: Vec::new(),
        upto: None,
        command: Command::Activate,
        events: vec![started],
    });
    let dir = folder.path().join("0");
    let (mut log, _) = FileLog::open(&dir, Options::default(), &mut |_| Ok(())).unwrap();
    log.append(&[first, epoch]).unwrap();
    log.close().unwrap();
    let refused = Service::start(serve_config(folder.path())).await.err();
    assert!(matches!(refused, Some(ServeError::Activate(_))), "{refused:?}");
}
