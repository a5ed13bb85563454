//! The real binary with more than it can do: a crowd on one resource, ten times the rate that it keeps up with, and
//! half of all messages hostile. `ARBITER_WAITERS` and `ARBITER_SECONDS` say how many and how long, where a few are
//! not enough, and `ARBITER_FSYNC` whether the crowd's records are synced.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "rates are measured and paced")]

use arbiterq_client::Client;
use arbiterq_tests::binary::{Served, arbiter_says, command, is_alive};
use arbiterq_tests::fuzz::mutate::Random;
use arbiterq_tests::hostile::{MEMORY_BYTES_MAX, hostile_lines, memory};
use arbiterq_tests::verifiers::both_are_clean;
use arbiterq_tests::{PATIENCE, number, resident_bytes};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Requests of a session, as in the default settings.
const IN_FLIGHT_MAX: usize = 64;
fn key(session: usize) -> String {
    format!("{session:032x}")
}

fn of(session: u64, key: &str, body: &str) -> String {
    format!("{{\"v\":1,\"partition\":0,\"session\":{session},\"key\":\"{key}\",{body}}}\n")
}

fn acquire(seq: u64, resource: &str) -> String {
    format!(r#""acquire":{{"seq":{seq},"claims":[{{"resource":"{resource}","mode":"exclusive"}}]}}"#)
}

async fn connect(url: &str) -> (Heard, OwnedWriteHalf) {
    let stream = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (read, write) = stream.into_split();
    (BufReader::with_capacity(1 << 20, read).lines(), write)
}

type Heard = tokio::io::Lines<BufReader<OwnedReadHalf>>;

async fn hear(lines: &mut Heard) -> Value {
    let line = timeout(PATIENCE, lines.next_line()).await.expect("an answer").unwrap();
    serde_json::from_str(&line.expect("the connection stays")).unwrap()
}

/// Opens a session that nobody has to keep alive.
async fn open(lines: &mut Heard, write: &mut OwnedWriteHalf, number: usize) -> u64 {
    let open = format!(
        "{{\"v\":1,\"partition\":0,\"open\":{{\"id\":\"o\",\"key\":\"{}\",\"lease_ms\":3600000,\"label\":\"load\"}}}}\n",
        key(number)
    );
    write.write_all(open.as_bytes()).await.unwrap();
    let opened = hear(lines).await;
    opened["opened"]["session"].as_u64().unwrap_or_else(|| panic!("{opened}"))
}

/// Who holds what a crowd waits for.
struct Gate(Heard, OwnedWriteHalf, u64, u64);

impl Gate {
    async fn closed(url: &str) -> Self {
        let (mut lines, mut write) = connect(url).await;
        let session = open(&mut lines, &mut write, 0).await;
        write.write_all(of(session, &key(0), &acquire(1, "crowded")).as_bytes()).await.unwrap();
        let held = hear(&mut lines).await;
        let token = held["granted"]["token"].as_u64().unwrap_or_else(|| panic!("{held}"));
        Self(lines, write, session, token)
    }

    async fn open(&mut self) {
        let release = of(self.2, &key(0), &format!(r#""release":{{"token":{}}}"#, self.3));
        self.1.write_all(release.as_bytes()).await.unwrap();
        let released = hear(&mut self.0).await;
        assert!(released["released"].is_object(), "{released}");
    }
}

/// A connection with sessions of its own, whose requests wait for one resource and are given back as they are granted.
/// Tells how many are queued, and ends when all were served.
async fn crowd(url: String, sessions: Vec<(usize, usize)>, queued: Arc<AtomicU64>) -> u64 {
    let (mut lines, mut write) = connect(&url).await;
    let (mut keys, mut wanted) = (BTreeMap::new(), Vec::new());
    for (session, each) in sessions {
        let opened = open(&mut lines, &mut write, session).await;
        keys.insert(opened, key(session));
        wanted.extend((1..=each as u64).map(|seq| (seq, opened)));
    }
    // Each session's first, then each one's second.
    wanted.sort_unstable();
    let all = wanted.len() as u64;
    let request = |(seq, session): &(u64, u64)| of(*session, &keys[session], &acquire(*seq, "crowded"));
    let requests: String = wanted.iter().map(request).collect();
    let (mut served, mut sent) = (0, 0);
    while served < all {
        // Both at once: neither side is to wait for the other to read.
        let line = tokio::select! {
            written = write.write(&requests.as_bytes()[sent..]), if sent < requests.len() => {
                sent += written.unwrap();
                continue;
            }
            line = lines.next_line() => line.unwrap().expect("the connection stays"),
        };
        let reply: Value = serde_json::from_str(&line).unwrap();
        if reply["queued"].is_object() {
            queued.fetch_add(1, Ordering::Relaxed);
        } else if let Some(token) = reply["granted"]["token"].as_u64() {
            let session = reply["session"].as_u64().unwrap();
            let release = of(session, &keys[&session], &format!(r#""release":{{"token":{token}}}"#));
            write.write_all(release.as_bytes()).await.unwrap();
        } else if reply["released"].is_object() {
            served += 1;
        } else {
            panic!("{reply}");
        }
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_on_one_resource_all_are_served_in_their_order() {
    let waiters = usize::try_from(number("ARBITER_WAITERS", 5000)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fsync = std::env::var("ARBITER_FSYNC").unwrap_or_else(|_| "always".into());
    let mut command = command();
    command.env("ARBITER__GRANT_LOG__FSYNC", &fsync);
    let served = Served::start_with(command, folder.path(), "tcp://127.0.0.1:0").await;
    let mut gate = Gate::closed(&served.url).await;
    let before = resident_bytes(served.process.pid());

    let queued = Arc::new(AtomicU64::new(0));
    let sessions: Vec<_> = (0..waiters)
        .step_by(IN_FLIGHT_MAX)
        .map(|first| (1 + first, IN_FLIGHT_MAX.min(waiters - first)))
        .collect();
    let all = waiters as u64;
    let began = Instant::now();
    let crowds: Vec<_> = sessions
        .chunks(sessions.len().div_ceil(8))
        .map(|some| tokio::spawn(crowd(served.url.clone(), some.to_vec(), queued.clone())))
        .collect();
    let wait = PATIENCE + Duration::from_millis(2 * all);
    let all_wait = async {
        while queued.load(Ordering::Relaxed) < all {
            assert!(crowds.iter().all(|crowd| !crowd.is_finished()), "nobody is served yet");
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(wait, all_wait).await.expect("all are queued");
    let queueing = began.elapsed();
    let each = (resident_bytes(served.process.pid()) - before) / all;

    let began = Instant::now();
    gate.open().await;
    let mut count = 0;
    for crowd in crowds {
        count += timeout(wait, crowd).await.expect("all are served").unwrap();
    }
    let draining = began.elapsed();
    assert_eq!(count, all);
    served.stop().await;
    // That nobody was overtaken is what the verifiers say.
    let report = &both_are_clean(folder.path())[0];
    assert_eq!((report.grants, report.live.waiting), (all + 1, 0));
    println!(
        "counts: {all} waiters on one resource, fsync {fsync}, queued in {queueing:.2?}, all served in \
         {draining:.2?}, {each} bytes of the service's memory each"
    );
}

/// What a flooding connection did.
#[derive(Default)]
struct Flood {
    /// Lines that were due, and those that the socket took.
    offered: AtomicU64,
    taken: AtomicU64,
    answers: AtomicU64,
    refused: AtomicU64,
}

/// Requests that are sent before they are withdrawn: more than a session may have.
const BURST: u64 = 2 * IN_FLIGHT_MAX as u64;

/// Offers requests at a rate, and withdraws them, whether there are answers or not; then waits for what is missing.
async fn flood(url: String, number: usize, a_second: u64, time: Duration, flood: Arc<Flood>) {
    let (mut lines, mut write) = connect(&url).await;
    let session = open(&mut lines, &mut write, number).await;
    let key = key(number);
    let counts = flood.clone();
    let hears = tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            counts.refused.fetch_add(u64::from(line.contains("\"refused\"")), Ordering::Relaxed);
            counts.answers.fetch_add(1, Ordering::Relaxed);
        }
    });
    let began = Instant::now();
    let (mut seq, mut rest) = (1, Vec::new());
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * a_second as f64) as u64;
        flood.offered.store(due, Ordering::Relaxed);
        if rest.is_empty() && due >= flood.taken.load(Ordering::Relaxed) + 2 * BURST {
            for seq in seq..seq + BURST {
                rest.extend(of(session, &key, &acquire(seq, &format!("flood/{number}/{seq}"))).bytes());
            }
            for seq in seq..seq + BURST {
                rest.extend(of(session, &key, &format!(r#""cancel":{{"seq":{seq}}}"#)).bytes());
            }
            seq += BURST;
            flood.taken.fetch_add(2 * BURST, Ordering::Relaxed);
        }
        match write.try_write(&rest) {
            Ok(written) => drop(rest.drain(..written)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
        if rest.is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    }
    write.write_all(&rest).await.unwrap();
    let answered = async {
        while flood.answers.load(Ordering::Relaxed) < flood.taken.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE * 3, answered).await.unwrap_or_else(|_| {
        panic!(
            "{} answers to {} lines",
            flood.answers.load(Ordering::Relaxed),
            flood.taken.load(Ordering::Relaxed)
        )
    });
    hears.abort();
}

/// A client that behaves: how long its grants took, until it is told to stop.
fn behaved(url: &str, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<Duration>> {
    let (url, stop) = (url.to_owned(), stop.clone());
    tokio::spawn(async move {
        let client = Client::builder(&url).label("behaved").connect().await.unwrap();
        let mut took = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let grant = client.acquire("behaved").await.unwrap();
            took.push(began.elapsed());
            grant.release().await.unwrap();
        }
        client.close().await;
        took.sort();
        took
    })
}

/// Connections that offer more than they wait for.
const FLOODS: usize = 8;

/// As many floods as there are connections for so long, together at so many lines a second.
async fn floods(url: &str, first: usize, a_second: u64, time: Duration) -> Vec<Arc<Flood>> {
    let floods: Vec<_> = (0..FLOODS).map(|_| Arc::new(Flood::default())).collect();
    let start = |(at, counts): (usize, &Arc<Flood>)| {
        tokio::spawn(flood(url.to_owned(), first + at, a_second / FLOODS as u64, time, counts.clone()))
    };
    let tasks: Vec<_> = floods.iter().enumerate().map(start).collect();
    for task in tasks {
        task.await.unwrap();
    }
    floods
}

fn sum(floods: &[Arc<Flood>], what: fn(&Flood) -> &AtomicU64) -> u64 {
    floods.iter().map(|flood| what(flood).load(Ordering::Relaxed)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_ten_times_the_rate_memory_is_bounded_and_no_waiter_is_lost() {
    const WAITERS: usize = 3 * IN_FLIGHT_MAX;
    let seconds = number("ARBITER_SECONDS", 4);
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let pid = served.process.pid();
    // Lines a second that it keeps up with, however many there are.
    let began = Instant::now();
    let measured = floods(&served.url, 3000, 10_000_000, Duration::from_secs(1)).await;
    let sustained = (sum(&measured, |f| &f.answers) as f64 / began.elapsed().as_secs_f64()) as u64;

    // Those who waited before.
    let mut gate = Gate::closed(&served.url).await;
    let queued = Arc::new(AtomicU64::new(0));
    let waiting = tokio::spawn(crowd(
        served.url.clone(),
        [1000, 1001, 1002].map(|s| (s, IN_FLIGHT_MAX)).to_vec(),
        queued.clone(),
    ));
    let all_wait = async {
        while queued.load(Ordering::Relaxed) < WAITERS as u64 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all_wait).await.expect("all are queued");

    let stop = Arc::new(AtomicBool::new(false));
    let (behaved, memory) = (behaved(&served.url, &stop), memory(pid, &stop));
    let floods = floods(&served.url, 2000, 10 * sustained, Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let (took, memory) = (behaved.await.unwrap(), memory.await.unwrap());
    gate.open().await;
    let served_waiters = timeout(PATIENCE, waiting).await.expect("no waiter is lost").unwrap();
    assert_eq!(served_waiters, WAITERS as u64);
    let of = |what| sum(&floods, what);
    let (offered, taken, refused) = (of(|f| &f.offered), of(|f| &f.taken), of(|f| &f.refused));
    let peak = *memory.iter().max().unwrap();
    served.stop().await;
    arbiterq::audit::verify::verify_folder(&folder.path().join("0"), &[], &mut |_| {}).unwrap();
    assert!(offered > taken && refused > 0, "more was offered than it takes: {offered}, {taken}, {refused}");
    assert!(!took.is_empty() && peak < MEMORY_BYTES_MAX, "{peak} bytes");
    let half = |part: &[u64]| part.iter().max().unwrap() >> 20;
    println!(
        "counts: {seconds} s at ten times {sustained} lines a second: {offered} offered, {taken} taken and answered, \
         {refused} refused; memory at most {} MiB in the first half, {} MiB in the second; a client that behaves: \
         {} grants, p50 {:.1?}, max {:.1?}; {WAITERS} who waited before were served",
        half(&memory[..memory.len() / 2 + 1]),
        half(&memory[memory.len() / 2..]),
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
}

/// Says hostile lines, about as many as others say good ones, and breaks off in the middle of one now and then.
async fn hostile(url: String, seed: u64, reads: bool, good: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let lines = hostile_lines();
    let (mut random, mut said) = (Random::new(seed, 0), 0);
    while !stop.load(Ordering::Relaxed) {
        let (mut replies, mut write) = connect(&url).await;
        let hears = tokio::spawn(async move {
            if !reads {
                return std::future::pending().await;
            }
            while let Ok(Some(_)) = replies.next_line().await {}
        });
        for _ in 0..2000 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            while said > good.load(Ordering::Relaxed) + 1000 && !stop.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1)).await;
            }
            let line = random.one_of(&lines);
            let written = timeout(Duration::from_millis(200), write.write_all(line)).await;
            said += 1;
            // A connection that takes no answers is dropped by the service.
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
        let line = random.one_of(&lines);
        let _ = timeout(Duration::from_millis(200), write.write_all(&line[..line.len() / 2])).await;
        hears.abort();
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_of_all_messages_hostile_nobody_else_is_disturbed() {
    const HOSTILE: u64 = 6;
    let seconds = number("ARBITER_SECONDS", 4);
    let folder = tempfile::tempdir().unwrap();
    let mut quiet = command();
    quiet.env("ARBITER__LOG__LEVEL", "error");
    let served = Served::start_with(quiet, folder.path(), "tcp://127.0.0.1:0").await;
    let pid = served.process.pid();
    let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let memory = memory(pid, &stop);
    let hostiles: Vec<_> = (0..HOSTILE)
        .map(|seed| tokio::spawn(hostile(served.url.clone(), seed, seed > 0, good.clone(), stop.clone())))
        .collect();
    // Those who behave, at full load: each has a share of the hostile beside it.
    let began = Instant::now();
    let mut cycles = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let bench =
            ["bench", "--clients", "32", "--resources", "16", "--connections", "4", "--for", "1s", "--json"];
        let ended = arbiter_says(&served.url, &bench).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let figures: Value = serde_json::from_str(ended.out.trim()).unwrap();
        let count = |name: &str| figures[name].as_u64().unwrap();
        assert_eq!((count("errors"), count("lost"), count("overlaps")), (0, 0, 0), "{figures}");
        cycles += count("cycles");
        good.store(2 * cycles / HOSTILE, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    let mut said = 0;
    for hostile in hostiles {
        said += timeout(PATIENCE, hostile).await.unwrap().unwrap();
    }
    let peak = memory.await.unwrap().into_iter().max().unwrap();
    assert!(is_alive(pid) && !served.process.said().contains("panicked"), "{}", served.process.said());
    served.stop().await;
    let report = &both_are_clean(folder.path())[0];
    assert_eq!((report.epochs, report.live.waiting), (1, 0), "no restart");
    assert!(said > cycles && peak < MEMORY_BYTES_MAX, "{said} hostile lines, {cycles} cycles, {peak} bytes");
    println!(
        "counts: {seconds} s: {said} hostile messages beside {} good ones; 0 errors, 0 lost, 0 overlaps; \
         memory at most {} MiB",
        2 * cycles,
        peak >> 20
    );
}
