//! The service stopped and started again on its folder: what it knew it knows, from the start of the log or from a
//! checkpoint and the tail.

use arbiterq::audit::verify::verify_folder;
use arbiterq::serve::ServeError;
use arbiterq_tests::binary::{Served, arbiter_says, command};
use arbiterq_tests::{Raw, Service, serve_config};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn of(session: u64, key: &str, body: &str) -> String {
    format!(r#"{{"v":1,"partition":0,"session":{session},"key":"{key}",{body}}}"#)
}

fn acquire(seq: u64, resource: &str) -> String {
    format!(r#""acquire":{{"seq":{seq},"claims":[{{"resource":"{resource}","mode":"exclusive"}}]}}"#)
}

/// The next message of a kind.
async fn hear(raw: &mut Raw, kind: &str) -> Value {
    loop {
        let heard = raw.hear().await.expect("connected");
        if !heard[kind].is_null() {
            return heard[kind].clone();
        }
    }
}

fn checkpoints(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder.join("0")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".manifest")).count()
}

async fn holders_and_waiters_survive(checkpoint_records: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serve_config(folder.path());
    config.checkpoint_records = checkpoint_records;
    let service = Service::start(config.clone()).await.unwrap();
    let (mut one, mut two) = (service.raw().await, service.raw().await);
    let (a, b) = (one.open(KEY).await, two.open(OTHER).await);
    let held = one.ask(of(a, KEY, &acquire(1, "r"))).await["granted"]["token"].as_u64().unwrap();
    assert!(two.ask(of(b, OTHER, &acquire(1, "r"))).await["queued"].is_object());
    for seq in 2..60 {
        let token = one.ask(of(a, KEY, &acquire(seq, "other"))).await["granted"]["token"].as_u64().unwrap();
        one.ask(of(a, KEY, &format!(r#""release":{{"token":{token}}}"#))).await;
    }
    let deadline = std::time::Duration::from_secs(20);
    let written = tokio::time::timeout(deadline, async {
        while checkpoint_records > 0 && checkpoints(folder.path()) == 0 {
            one.ask(of(a, KEY, r#""keep_alive":{"n":1}"#)).await;
        }
    });
    written.await.expect("a checkpoint is written");
    service.stop().await.unwrap();

    let service = Service::start(config).await.unwrap();
    assert_eq!(service.opened[0].checkpoint.is_some(), checkpoint_records > 0);
    let (mut one, mut two) = (service.raw().await, service.raw().await);
    one.say(of(a, KEY, r#""attach":{"n":1}"#)).await;
    two.say(of(b, OTHER, r#""attach":{"n":1}"#)).await;
    assert_eq!(hear(&mut one, "alive").await["held"], serde_json::json!([[1, held]]));
    assert_eq!(hear(&mut two, "alive").await["positions"], serde_json::json!([[1, 1]]));
    // A request that was decided before the restart is answered with its outcome, not decided again.
    one.say(of(a, KEY, &acquire(59, "other"))).await;
    assert_eq!(hear(&mut one, "ended").await["reason"], "released");
    one.say(of(a, KEY, &format!(r#""release":{{"token":{held}}}"#))).await;
    assert!(hear(&mut two, "granted").await["token"].as_u64().unwrap() > held);
    service.stop().await.unwrap();
    let report = verify_folder(&folder.path().join("0"), &[], &mut |_| {}).unwrap();
    assert!(report.records > 120);
}

#[tokio::test]
async fn from_the_start_of_the_log() {
    holders_and_waiters_survive(0).await;
}

#[tokio::test]
async fn from_a_checkpoint_and_the_tail() {
    holders_and_waiters_survive(20).await;
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Service::start(serve_config(folder.path())).await.unwrap().stop().await.unwrap();
    let mut config = serve_config(folder.path());
    config.partitions = 2;
    let error = Service::start(config).await.err().expect("refused");
    assert!(matches!(error, ServeError::Partitions { partitions: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_folder_has_one_arbiter() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let error = Service::start(serve_config(folder.path())).await.err().expect("refused");
    assert!(error.to_string().contains(&folder.path().join("0").display().to_string()), "{error}");
    service.stop().await.unwrap();
}

/// `ARBITER_RECORDS` says how long the log is, where a short one is not enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "how long it took is said")]
async fn a_long_log_is_read_from_its_last_checkpoint_on() {
    let records = std::env::var("ARBITER_RECORDS").map_or(60_000, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = command();
        command.env("ARBITER__GRANT_LOG__FSYNC", "never");
        // So that the short log has some, too.
        command.env("ARBITER__GRANT_LOG__CHECKPOINT_RECORDS", (records / 10).min(100_000).to_string());
        Served::start_with(command, folder.path(), "tcp://127.0.0.1:0")
    };
    let served = start().await;
    let mut cycles = 0;
    while 2 * cycles < records {
        let ended = arbiter_says(&served.url, &["bench", "--clients", "64", "--for", "1s", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let figures: Value = serde_json::from_str(ended.out.trim()).unwrap();
        cycles += figures["cycles"].as_u64().unwrap();
    }
    served.process.signal(Signal::KILL);
    assert_eq!(served.process.ended().await.code, None);
    let began = Instant::now();
    let served = start().await;
    let took = began.elapsed();
    let read = served.records_read;
    served.stop().await;
    let report = verify_folder(&folder.path().join("0"), &[], &mut |_| {}).unwrap();
    assert!(report.records >= records && read < report.records / 2, "{read} read of {}", report.records);
    println!(
        "counts: killed at {} records, ready again after {took:.2?}, when {read} of them were read",
        report.records
    );
}
