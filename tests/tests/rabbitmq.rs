//! Over a real RabbitMQ broker, started for each test.

use arbiterq_tests::binary::{Running, Served, arbiter_says, command, run};
use arbiterq_tests::rabbitmq::Broker;
use serde_json::Value;

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
