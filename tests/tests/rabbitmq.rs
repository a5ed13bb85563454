//! Over a real RabbitMQ broker, started for each test.

use arbiterq_tests::binary::{Running, arbiter_says, command};
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
