//! The service stopped and started again on its folder: what it knew it knows, from the start of the log or from a
//! checkpoint and the tail.

use arbiterq::audit::verify::verify_folder;
use arbiterq::serve::ServeError;
use arbiterq_tests::{Raw, Service, serve_config};
use serde_json::Value;
use std::path::Path;

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
