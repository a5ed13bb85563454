//! Over a real RabbitMQ broker, started for each test.

use arbiterq::log::stream::{From, StreamReader};
use arbiterq_client::broker::{BrokerUrl, Message, Publisher};
use arbiterq_client::{Client, ErrorKind, Outcome};
use arbiterq_tests::binary::{Running, Served, arbiter_says, command, run};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::verifiers::both_are_clean;
use arbiterq_tests::{PATIENCE, log_lines};
use lapin::BasicProperties;
use rustix::process::Signal;
use serde_json::Value;
use std::future::IntoFuture;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Names and types of the queues there.
fn queues(broker: &Broker) -> Vec<String> {
    let listed = broker.ctl(&["list_queues", "--no-table-headers", "name", "type"]);
    let mut queues: Vec<_> = listed.lines().map(|line| line.replace('\t', " ")).collect();
    queues.sort();
    queues
}

#[tokio::test]
async fn what_the_broker_needs_is_declared_and_what_differs_is_refused_with_both_sides() {
    let broker = Broker::start().await;
    for _ in 0..2 {
        let ended = arbiter_says(&broker.url(), &["broker", "init", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let said: Value = serde_json::from_str(ended.out.trim()).unwrap();
        assert_eq!(said["declared"], 8, "{said}");
        assert!(!ended.out.contains("guest"), "{}", ended.out);
    }
    let there = [
        "arbiter.checkpoints.0 stream",
        "arbiter.dead quorum",
        "arbiter.grants.0 stream",
        "arbiter.requests.0 quorum",
    ];
    assert_eq!(queues(&broker), there);

    let mut other = command();
    other.env("ARBITER__LIMITS__IN_FLIGHT_MAX", "32").args(["--url", &broker.url(), "broker", "init"]);
    let ended = Running::start(&mut other).ended().await;
    assert_eq!(ended.code, Some(78), "{}", ended.said);
    for said in ["arbiter.requests.0", "x-max-length", "640000", "1280000"] {
        assert!(ended.said.contains(said), "{}", ended.said);
    }

    // Who may not is told so, and who is not known, too; no password is repeated.
    broker.ctl(&["add_user", "alice", "hunter2"]);
    broker.ctl(&["set_permissions", "alice", "^client\\.alice\\..*$", ".*", ".*"]);
    for (password, code) in [("hunter2", 77), ("hunter3", 69)] {
        let ended = arbiter_says(&broker.url_of("alice", password), &["broker", "init"]).await;
        assert_eq!(ended.code, Some(code), "{}", ended.said);
        assert!(!ended.said.contains("hunter"), "{}", ended.said);
    }
}

#[tokio::test]
async fn the_printed_definitions_are_what_is_declared() {
    let broker = Broker::start().await;
    let mut print = command();
    print.env("ARBITER__PARTITIONS", "2").args(["--url", &broker.url(), "broker", "init", "--print"]);
    let ended = Running::start(&mut print).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, &ended.out).unwrap();
    broker.ctl(&["import_definitions", file.to_str().unwrap()]);
    let imported = queues(&broker);
    assert_eq!(imported.len(), 7, "{imported:?}");
    // Nothing differs from what was imported, or it would be refused.
    let mut init = command();
    init.env("ARBITER__PARTITIONS", "2").args(["--url", &broker.url(), "broker", "init"]);
    let ended = Running::start(&mut init).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(queues(&broker), imported);
}

/// What the broker needs is there.
async fn init(broker: &Broker) {
    let ended = arbiter_says(&broker.url(), &["broker", "init"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

#[tokio::test]
async fn commands_run_one_at_a_time_and_a_standby_takes_over_from_an_arbiter_that_is_killed() {
    let broker = Broker::start().await;
    let url = broker.url();
    let folder = tempfile::tempdir().unwrap();
    let missing = Running::start(command().args(["serve", "--url", &url])).ended().await;
    assert_eq!(missing.code, Some(78), "{}", missing.said);
    assert!(missing.said.contains("arbiter broker init"), "{}", missing.said);
    init(&broker).await;
    let first = Served::start_at(folder.path(), &url).await;
    first.process.says("an epoch begins").await;
    let second = Served::start_at(folder.path(), &url).await;
    assert!(!first.url.contains("guest"), "{}", first.url);

    let mut holds = run(&url, &["db/migrate"], "echo held; read line; echo $line");
    assert_eq!(holds.line().await, "held");
    let waits = run(&url, &["db/migrate"], "echo next");
    waits.says("you are").await;
    first.process.kill_9().await;
    second.process.says("an epoch begins").await;
    use tokio::io::AsyncWriteExt;
    holds.stdin.as_mut().unwrap().write_all(b"on\n").await.unwrap();
    let ended = holds.ended().await;
    assert_eq!((ended.code, ended.out.trim()), (Some(0), "on"), "{}", ended.said);
    let ended = waits.ended().await;
    assert_eq!((ended.code, ended.out.trim()), (Some(0), "next"), "{}", ended.said);
    second.stop().await;
}

/// An arbiter at a broker of its own.
struct AtBroker {
    broker: Broker,
    url: String,
    folder: tempfile::TempDir,
    served: Served,
}

impl AtBroker {
    async fn start() -> Self {
        let broker = Broker::start().await;
        let url = broker.url();
        init(&broker).await;
        let folder = tempfile::tempdir().unwrap();
        let served = Served::start_at(folder.path(), &url).await;
        Self { broker, url, folder, served }
    }
}

/// Publishes bodies to the request queue as a user, with properties, over a connection of its own.
struct Stranger {
    publisher: Publisher,
    _connection: lapin::Connection,
}

impl Stranger {
    async fn connect(url: &str) -> Self {
        let url: BrokerUrl = url.parse().unwrap();
        let connection = url.connect("stranger").await.unwrap();
        let publisher = Publisher::on(connection.create_channel().await.unwrap()).await.unwrap();
        Self { publisher, _connection: connection }
    }

    /// Whether the broker took it.
    async fn says(&mut self, body: impl Into<Vec<u8>>, properties: BasicProperties) -> bool {
        let (exchange, body) = ("arbiter.requests", body.into());
        self.publisher.publish(Message { exchange, key: "0", mandatory: true, body, properties });
        self.publisher.next().await.is_ok_and(|published| published.taken)
    }
}

/// How many messages there are of which nobody could read anything.
fn buried(broker: &Broker) -> u64 {
    let listed = broker.ctl(&["list_queues", "--no-table-headers", "name", "messages"]);
    let dead = listed.lines().find_map(|line| line.strip_prefix("arbiter.dead"));
    dead.expect("it is declared").trim().parse().unwrap()
}

#[tokio::test]
async fn who_lies_to_the_arbiter_is_not_answered_for_others_and_disturbs_nobody() {
    let AtBroker { broker, url, folder, served } = AtBroker::start().await;
    let client = Client::connect(&url).await.unwrap();
    let held = client.acquire("held").await.unwrap();

    let mut stranger = Stranger::connect(&url).await;
    let by = |user: &str| BasicProperties::default().with_user_id(user.into());
    let status = r#"{"v":1,"partition":0,"status":{"id":"s","what":"summary"}}"#;
    // The broker does not take what names another user, and ends the channel.
    assert!(!Stranger::connect(&url).await.says(status, by("alice")).await);
    assert!(stranger.says(status, BasicProperties::default()).await);
    assert!(stranger.says(status, by("guest").with_reply_to("client.alice.17".into())).await);
    assert!(stranger.says(status, by("guest").with_reply_to("arbiter.requests.0".into())).await);
    assert!(stranger.says("no message", by("guest")).await);
    assert!(stranger.says(vec![b'x'; 200_000], by("guest")).await);
    // Letters of nobody: of a tick and a return that this arbiter has not sent.
    let nonce = "00112233445566778899aabbccddeeff";
    let tick =
        format!(r#"{{"v":1,"partition":0,"tick":{{"nonce":"{nonce}","at":"2099-01-01T00:00:00.000000Z"}}}}"#);
    assert!(stranger.says(tick, by("guest")).await);
    let gone = format!(
        r#"{{"v":1,"partition":0,"gone":{{"nonce":"{nonce}","session":2,"n":0,"cause":"returned"}}}}"#
    );
    assert!(stranger.says(gone, by("guest")).await);

    let other = Client::connect(&url).await.unwrap();
    other.acquire("free").await.unwrap().release().await.unwrap();
    held.check().expect("it is held");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    // The broker counts every few seconds.
    let all_buried = async {
        while buried(&broker) < 5 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, all_buried).await.expect("what could not be read is where operators find it");
    assert_eq!(buried(&broker), 5, "and nothing else");
    client.close().await;
    other.close().await;
    served.stop().await;

    // The log is judged at the broker, and as a copy; each time the same.
    let copy = folder.path().join("copy");
    let copy = copy.to_str().unwrap();
    let mut verdicts = Vec::new();
    for _ in 0..2 {
        let ended = arbiter_says(&url, &["audit", "export", &url, "--to", copy, "--json"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        verdicts.push(serde_json::from_str::<Value>(ended.out.trim()).unwrap());
    }
    assert_eq!(verdicts[0]["records"], verdicts[1]["records"]);
    assert_eq!((&verdicts[0]["added"], &verdicts[1]["added"]), (&verdicts[0]["records"], &0.into()));
    for what in ["verify", "replay"] {
        let of_stream = arbiter_says(&url, &["audit", what, &url, "--json"]).await;
        let of_copy = arbiter_says(&url, &["audit", what, copy, "--json"]).await;
        assert_eq!((of_stream.code, of_copy.code), (Some(0), Some(0)), "{}{}", of_stream.said, of_copy.said);
        let [of_stream, of_copy] = [of_stream, of_copy].map(|ended| {
            serde_json::from_str::<Value>(ended.out.trim()).unwrap()["records"].as_u64().unwrap()
        });
        assert_eq!(of_stream, of_copy);
    }
    both_are_clean(copy.as_ref());
}

/// `arbiter lock` at a URL, which is killed with its process alone.
fn lock(url: &str, arguments: &[&str]) -> Running {
    let mut lock = command();
    lock.args(["lock", "--url", url, "--json"]).args(arguments).stdin(std::process::Stdio::piped());
    Running::start(&mut lock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_dead_keeps_nobody_waiting() {
    let AtBroker { broker: _broker, url, folder, served } = AtBroker::start().await;
    let client = Client::connect(&url).await.unwrap();

    // A dead waiter's grant comes back, and the next one is granted.
    let held = client.acquire("r").await.unwrap();
    let dead = lock(&url, &["r"]);
    dead.says("position").await;
    let mut next = client.acquire("r").enqueue().await.unwrap();
    assert_eq!(next.next_position().await.unwrap().position, 2);
    dead.kill_9().await;
    let released = Instant::now();
    held.release().await.unwrap();
    let held = timeout(PATIENCE, next.granted()).await.expect("nobody waits for a lease").unwrap();
    let of_waiter = released.elapsed();
    held.release().await.unwrap();

    // A dead `run`: its guard says so.
    let mut dead = run(&url, &["r"], "echo held; sleep 60");
    assert_eq!(dead.line().await, "held");
    let mut next = client.acquire("r").enqueue().await.unwrap();
    next.next_position().await.unwrap();
    dead.kill_9().await;
    let killed = Instant::now();
    let held = timeout(PATIENCE, next.granted()).await.expect("its guard has closed").unwrap();
    let of_run = killed.elapsed();
    held.release().await.unwrap();

    // A dead holder that asked for it. In the first lease of an epoch nobody is taken for gone.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut dead = lock(&url, &["r", "--lease", "6s", "--fail-fast", "1s"]);
    dead.line().await;
    let mut next = client.acquire("r").enqueue().await.unwrap();
    next.next_position().await.unwrap();
    dead.kill_9().await;
    let killed = Instant::now();
    let held = timeout(PATIENCE, next.granted()).await.expect("it fails fast").unwrap();
    let of_holder = killed.elapsed();
    held.release().await.unwrap();

    client.close().await;
    served.stop().await;
    let copy = folder.path().join("copy");
    let ended = arbiter_says(&url, &["audit", "export", &url, "--to", copy.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let log = log_lines(&copy.join("0")).concat();
    let log = String::from_utf8(log).unwrap();
    for event in ["suspended", "unreachable", "fail_fast"] {
        assert!(log.contains(event), "{event}: {log}");
    }
    both_are_clean(&copy);
    println!(
        "counts: dead waiter {of_waiter:?}, dead run {of_run:?}, dead holder that fails within 1s {of_holder:?}"
    );
}

const LOG: &str = "arbiter.grants.0";
const CHECKPOINTS: &str = "arbiter.checkpoints.0";

/// All messages of a stream.
async fn messages(url: &str, stream: &str) -> Vec<Vec<u8>> {
    let url: BrokerUrl = url.parse().unwrap();
    let connection = url.connect("reader").await.unwrap();
    let mut reader = StreamReader::of(&connection, stream.into(), From::First).await.unwrap();
    let mut messages = Vec::new();
    while let Ok(read) = timeout(Duration::from_secs(1), reader.next()).await {
        messages.push(read.unwrap().1);
    }
    messages
}

/// Puts other messages in the place of a stream's.
async fn replace_messages(broker: &Broker, stream: &str, messages: &[Vec<u8>]) {
    broker.ctl(&["delete_queue", stream]);
    init(broker).await;
    let url: BrokerUrl = broker.url().parse().unwrap();
    let connection = url.connect("writer").await.unwrap();
    let mut publisher = Publisher::on(connection.create_channel().await.unwrap()).await.unwrap();
    for body in messages {
        let (body, properties) = (body.clone(), BasicProperties::default());
        publisher.publish(Message { exchange: "", key: stream, mandatory: true, body, properties });
        assert!(publisher.next().await.unwrap().taken);
    }
}

#[tokio::test]
async fn a_log_that_was_changed_or_lost_at_the_broker_is_found_out() {
    let AtBroker { broker, url, folder, served } = AtBroker::start().await;
    let client = Client::connect(&url).await.unwrap();
    cycles(&client, 1, 3).await;
    client.close().await;
    served.process.signal(Signal::TERM);
    assert_eq!(served.process.ended().await.code, Some(0));
    let log = messages(&url, LOG).await;
    assert!(log.len() > 6, "{}", log.len());
    let again = |log: Vec<Vec<u8>>| {
        let (broker, url) = (&broker, &url);
        async move {
            replace_messages(broker, LOG, &log).await;
            arbiter_says(url, &["audit", "verify", url]).await
        }
    };
    let whole = again(log.clone()).await;
    assert_eq!(whole.code, Some(0), "{}", whole.said);
    let middle = log.len() / 2;
    let mut changed = log.clone();
    let at = changed[middle].len() / 2;
    changed[middle][at] ^= 1;
    let mut dropped = log.clone();
    dropped.remove(middle);
    for damaged in [changed, dropped] {
        let ended = again(damaged).await;
        assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.said);
        assert!(ended.said.contains("breaks off before record"), "{}", ended.said);
    }
    // Copies count for nothing, and are no damage.
    let doubled: Vec<_> = log.iter().flat_map(|message| [message.clone(), message.clone()]).collect();
    let ended = again(doubled).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);

    // What an arbiter has read it misses on its next connection.
    let served = Served::start_at(folder.path(), &url).await;
    served.process.says("an epoch begins").await;
    replace_messages(&broker, LOG, &log[..middle]).await;
    let ended = served.process.ended().await;
    assert_eq!(ended.code, Some(65), "{}", ended.said);
    assert!(ended.said.contains("log_truncated"), "{}", ended.said);
}

/// A service with a checkpoint after a hundred records.
async fn serve_with_checkpoints(folder: &Path, url: &str) -> Served {
    let mut command = command();
    command.env("ARBITER__GRANT_LOG__CHECKPOINT_RECORDS", "100");
    Served::start_with(command, folder, url).await
}

/// Takes resources and gives them back, many times each, all at once.
async fn cycles(client: &Client, resources: usize, count: usize) {
    let mut working = tokio::task::JoinSet::new();
    for resource in 0..resources {
        let client = client.clone();
        working.spawn(async move {
            for _ in 0..count {
                client.acquire(format!("r{resource}")).await.unwrap().release().await.unwrap();
            }
        });
    }
    working.join_all().await;
}

/// Waits until so many checkpoints have been written.
async fn checkpoints_are_written(served: &Served, count: usize) {
    let written = async {
        while served.process.said().matches("checkpoint written").count() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("checkpoints are written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reads_the_newest_checkpoint_that_fits_the_log_and_what_follows_it() {
    let broker = Broker::start().await;
    let url = broker.url();
    init(&broker).await;
    let folder = tempfile::tempdir().unwrap();
    let served = serve_with_checkpoints(folder.path(), &url).await;
    let client = Client::connect(&url).await.unwrap();
    let held = client.acquire("held").await.unwrap();
    // A state that takes more than one part.
    let mut others = Vec::new();
    for _ in 0..4 {
        let other = Client::connect(&url).await.unwrap();
        for at in 0..60 {
            let reason = format!("{at:01000}");
            others.push(other.acquire(format!("{{o}}{}", others.len())).reason(reason).await.unwrap());
        }
    }
    cycles(&client, 16, 40).await;
    checkpoints_are_written(&served, 4).await;
    served.process.kill_9().await;
    let lines = messages(&url, LOG).await.into_iter().flatten().filter(|byte| *byte == b'\n').count();
    let all = lines as u64;

    let served = serve_with_checkpoints(folder.path(), &url).await;
    let newest = served.records_read;
    assert!(newest < all / 2 && all > 1000, "read {newest} of {all}");
    held.check().expect("a takeover costs no grant");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    drop(others);
    client.close().await;
    served.stop().await;

    let written = messages(&url, CHECKPOINTS).await;
    let is_manifest = |message: &Vec<u8>| message.starts_with(b"{\"manifest\"");
    let ends: Vec<usize> = (0..written.len()).filter(|at| is_manifest(&written[*at])).collect();
    let last = *ends.last().unwrap();
    let part_of = |message: &Vec<u8>| message.starts_with(b"{\"part\"");
    assert!(part_of(&written[last - 1]) && part_of(&written[last - 2]), "it has two parts at least");
    let start = |written: Vec<Vec<u8>>| {
        let (broker, url, folder) = (&broker, &url, folder.path());
        async move {
            replace_messages(broker, CHECKPOINTS, &written).await;
            let served = serve_with_checkpoints(folder, url).await;
            let said = served.process.said();
            let read = served.records_read;
            served.stop().await;
            (read, said)
        }
    };
    // A part that was changed, and one that is not there: the checkpoint before it is used.
    let mut changed = written.clone();
    let end = changed[last - 1].len() - 3;
    changed[last - 1][end] ^= 1;
    let mut missing = written.clone();
    missing.remove(last - 2);
    for damaged in [changed, missing] {
        let (read, said) = start(damaged).await;
        assert!(read > newest.min(100) && read < all, "{read} of {all}");
        assert!(said.contains("a checkpoint cannot be used"), "{said}");
    }
    // Others, and other arbiters' parts, stand between; more than is looked at first.
    let mut between = written[..last].to_vec();
    between.splice(last - 1..last - 1, (0..300).map(|_| b"{}\n".to_vec()));
    between.splice(last - 1..last - 1, written[..last].iter().cloned());
    between.extend((0..300).map(|_| b"what is this".to_vec()));
    between.push(written[last].clone());
    between.extend((0..300).map(|_| Vec::new()));
    let (read, said) = start(between).await;
    assert!(read < all / 2, "{read} of {all}");
    assert!(!said.contains("cannot be used"), "{said}");
    let none = start(Vec::new()).await;
    assert!(none.0 > all, "{} of {all}", none.0);

    // One whose record the log does not have: the broker has lost what it confirmed.
    let forged = String::from_utf8(written[last].clone()).unwrap();
    let (before, after) = forged.split_once("\"index\":").unwrap();
    let after = after.split_once(',').unwrap().1;
    let forged = format!("{before}\"index\":999999,{after}");
    replace_messages(&broker, CHECKPOINTS, &[forged.into_bytes()]).await;
    let refused = arbiter_says(&url, &["serve"]).await;
    assert_eq!(refused.code, Some(65), "{}", refused.said);
    for said in ["log_truncated", "record 999999", "arbiter.checkpoints.0"] {
        assert!(refused.said.contains(said), "{}", refused.said);
    }

    for what in ["verify", "replay"] {
        let ended = arbiter_says(&url, &["audit", what, &url]).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_beginning_was_removed_is_gone_on_with_from_a_checkpoint_or_not_at_all() {
    let broker = Broker::start().await;
    let url = broker.url();
    // What an operator may have set for all streams, without a thought of this one.
    let removes = r#"{"max-length-bytes":100000,"stream-max-segment-size-bytes":50000}"#;
    broker.ctl(&["set_policy", "--apply-to", "queues", "short", "^arbiter.grants", removes]);
    init(&broker).await;
    let folder = tempfile::tempdir().unwrap();
    let served = serve_with_checkpoints(folder.path(), &url).await;
    let client = Client::connect(&url).await.unwrap();
    let held = client.acquire("held").await.unwrap();
    cycles(&client, 4, 150).await;
    checkpoints_are_written(&served, 8).await;
    let first = messages(&url, LOG).await.swap_remove(0);
    assert!(!String::from_utf8(first).unwrap().contains("genesis"), "it was removed");
    served.process.kill_9().await;

    let served = serve_with_checkpoints(folder.path(), &url).await;
    let said = served.process.said();
    assert!(said.contains("the log's beginning is not there any more"), "{said}");
    held.check().expect("a takeover costs no grant");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    client.close().await;
    served.stop().await;

    // Another log is not begun behind what is left of the old one: its tokens would be given again.
    replace_messages(&broker, CHECKPOINTS, &[]).await;
    let refused = arbiter_says(&url, &["serve"]).await;
    assert_eq!(refused.code, Some(65), "{}", refused.said);
    assert!(refused.said.contains("does not begin with its first record"), "{}", refused.said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_short_of_memory_is_named_by_those_who_wait_and_costs_no_grant() {
    let AtBroker { broker, url, folder: _folder, served } = AtBroker::start().await;
    let client = Client::connect(&url).await.unwrap();
    let held = client.acquire("held").await.unwrap();
    broker.ctl(&["set_vm_memory_high_watermark", "0.000001"]);
    let waits = client.acquire("free").wait(Duration::from_secs(2)).into_future();
    let error = timeout(PATIENCE, waits).await.expect("the limit holds").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoArbiter);
    assert!(error.to_string().contains("the broker takes no messages"), "{error}");
    let ended = timeout(PATIENCE, arbiter_says(&url, &["run", "free", "--", "true"])).await;
    let ended = ended.expect("it does not hang");
    assert_eq!(ended.code, Some(69), "{}", ended.said);
    assert!(ended.said.contains("the broker takes no messages"), "{}", ended.said);
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    client.acquire("free").await.unwrap().release().await.unwrap();
    held.check().expect("it was not away for a lease");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    client.close().await;
    served.stop().await;
}
