//! `arbiter doctor`: at real brokers and on real folders, well and ill in every way that it knows.

use arbiterq_client::Client;
use arbiterq_client::broker::{BrokerUrl, Message, Publisher};
use arbiterq_tests::binary::{Running, Served, arbiter_says, command};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::shipped::{PASSWORD, at, prepared};
use arbiterq_tests::{PATIENCE, log_lines};
use lapin::BasicProperties;
use lapin::options::QueueDeleteOptions;
use serde_json::Value;
use tokio::time::timeout;

/// What a doctor has said.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// All that is found of a kind.
    fn all(&self, judged: &str) -> String {
        let of_kind = self.findings.iter().filter(|finding| finding["judged"] == judged);
        of_kind.map(|finding| format!("{finding}\n")).collect()
    }

    /// What was found by a check that went like this, all of these words in one finding.
    fn has(&self, check: &str, judged: &str, words: &[&str]) {
        let found = self.findings.iter().any(|finding| {
            let text = finding.to_string();
            finding["check"] == check
                && finding["judged"] == judged
                && words.iter().all(|word| text.contains(word))
        });
        assert!(found, "no {check} that is {judged} and says {words:?}: {:#?}", self.findings);
    }
}

/// Asks the doctor, with variables.
async fn doctor(url: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut doctor = command();
    doctor.envs(variables.iter().copied()).args(["doctor", "--json", "--url", url]).args(arguments);
    let ended = Running::start(&mut doctor).ended().await;
    assert!(!format!("{}{}", ended.out, ended.said).contains("hunter2"), "{}{}", ended.out, ended.said);
    assert_eq!(ended.said, "", "{}", ended.out);
    let findings: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for finding in &findings {
        assert!(finding["found"].as_str().is_some_and(|found| !found.is_empty()), "{finding}");
        assert_eq!(
            finding["help"].is_string(),
            finding["judged"] != "ok",
            "what is not ok has a remedy: {finding}"
        );
    }
    Said { code: ended.code, findings }
}

async fn init(url: &str, variables: &[(&str, &str)]) {
    let mut init = command();
    init.envs(variables.iter().copied()).args(["--url", url, "broker", "init"]);
    let ended = Running::start(&mut init).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

/// Publishes messages that the broker takes.
async fn publish(url: &str, exchange: &str, key: &str, bodies: &[Vec<u8>]) {
    let connection = url.parse::<BrokerUrl>().unwrap().connect("writer").await.unwrap();
    let mut publisher = Publisher::on(connection.create_channel().await.unwrap()).await.unwrap();
    for body in bodies {
        let (body, properties) = (body.clone(), BasicProperties::default());
        publisher.publish(Message { exchange, key, mandatory: true, body, properties });
        let published = publisher.next().await.unwrap();
        assert!(published.taken && published.returned.is_none());
    }
}

/// Puts other messages in the place of partition 0's log.
async fn replace_log(url: &str, messages: &[Vec<u8>]) {
    let connection = url.parse::<BrokerUrl>().unwrap().connect("deleter").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete("arbiter.grants.0".into(), QueueDeleteOptions::default()).await.unwrap();
    init(url, &[]).await;
    publish(url, "", "arbiter.grants.0", messages).await;
}

#[tokio::test]
async fn a_broker_from_all_well_to_gone() {
    let mut broker = Broker::start().await;
    broker.ctl(&["add_user", "op", "hunter2"]);
    broker.ctl(&["set_permissions", "op", ".*", ".*", ".*"]);
    let url = broker.url_of("op", "hunter2");
    init(&url, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start_at(folder.path(), &url).await;
    served.process.says("an epoch begins").await;

    let said = doctor(&url, &[], &[]).await;
    assert_eq!((said.code, said.all("wrong"), said.all("warning")), (Some(0), String::new(), String::new()));
    said.has("settings", "ok", &["amqp://127.0.0.1", "partitions 1"]);
    said.has("broker", "ok", &["user op", "virtual host /", "no TLS", "heartbeat 5s"]);
    said.has("version", "ok", &["RabbitMQ 3.", "Erlang/OTP"]);
    said.has("topology", "ok", &["all 6 "]);
    said.has(
        "permissions",
        "ok",
        &["op has the rights of an administrator: an arbiter, a client and an auditor"],
    );
    said.has("requests", "ok", &["arbiter.requests.0: consumed, nothing waits"]);
    said.has("answer", "ok", &["partition 0", "0 sessions"]);
    said.has("log", "ok", &["arbiter.grants.0", "partition 0 of 1", "epoch 1"]);
    said.has("checkpoints", "ok", &["arbiter.checkpoints.0: none yet"]);
    said.has("retention", "not_checked", &["list_policies"]);
    said.has("replication", "not_checked", &["stream_status"]);
    said.has("clock", "ok", &["agree"]);
    said.has("dead-letters", "ok", &["none"]);
    let text = arbiter_says(&url, &["doctor"]).await;
    assert_eq!(text.code, Some(0), "{}", text.out);
    assert!(text.out.contains("ok           requests      arbiter.requests.0: consumed"), "{}", text.out);
    assert!(!text.out.contains("hunter2"), "{}", text.out);

    let stranger = doctor(&broker.url_of("op", "hunter3"), &[], &[]).await;
    assert_eq!(stranger.code, Some(69), "{:#?}", stranger.findings);
    stranger.has("broker", "wrong", &["ACCESS_REFUSED"]);

    // Nothing is granted, and somebody has said what nobody can read.
    assert_eq!(arbiter_says(&url, &["pause", "--reason", "upgrade"]).await.code, Some(0));
    publish(&url, "arbiter.requests", "0", &[b"no message".to_vec()]).await;
    let buried = async {
        loop {
            let said = doctor(&url, &[], &[]).await;
            if said.all("warning").contains("dead-letters") {
                return said;
            }
        }
    };
    let said = timeout(PATIENCE, buried).await.expect("it is buried");
    assert_eq!(said.code, Some(0), "warnings are no failure: {:#?}", said.findings);
    said.has("requests", "ok", &["consumed"]);
    said.has("answer", "warning", &["paused: upgrade", "arbiter resume"]);
    said.has("dead-letters", "warning", &["arbiter.dead, which no arbiter could read: 1"]);

    served.stop().await;
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("requests", "wrong", &["arbiter.requests.0: nobody consumes", "arbiter serve"]);
    said.has("answer", "not_checked", &["arbiter serve"]);
    let again = doctor(&url, &[], &[]).await;
    again.has("requests", "wrong", &["nothing waits"]);

    broker.kill_9();
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(69), "{:#?}", said.findings);
    said.has("broker", "wrong", &["amqp://127.0.0.1", "is it running"]);
}

#[tokio::test]
async fn all_that_is_missing_or_differs_at_a_broker_is_named() {
    let url = Broker::shared().await;
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    for item in [
        "exchange arbiter.requests ",
        "exchange arbiter.dead ",
        "queue arbiter.dead ",
        "queue arbiter.requests.0 ",
        "queue arbiter.grants.0 ",
        "queue arbiter.checkpoints.0 ",
    ] {
        said.has("topology", "wrong", &[item, "is not there: NOT_FOUND - no ", "arbiter broker init"]);
    }
    for check in ["permissions", "log", "checkpoints", "dead-letters"] {
        said.has(check, "not_checked", &["see topology"]);
    }
    // And it made nothing.
    let again = doctor(&url, &[], &[]).await;
    assert_eq!(again.all("wrong"), said.all("wrong"));

    init(&url, &[]).await;
    let said = doctor(&url, &[("ARBITER__LIMITS__IN_FLIGHT_MAX", "32")], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("topology", "wrong", &["arbiter.requests.0", "x-max-length", "640000", "1280000"]);
    said.has("log", "warning", &["arbiter.grants.0: there is no record"]);
}

#[tokio::test]
async fn a_log_at_a_broker_that_is_another_or_has_lost_records_is_wrong() {
    let url = Broker::shared().await;
    let two = [("ARBITER__PARTITIONS", "2")];
    init(&url, &two).await;
    let folder = tempfile::tempdir().unwrap();
    let often = [("ARBITER__GRANT_LOG__CHECKPOINT_RECORDS", "100")];
    let mut serve = command();
    serve.envs(often);
    let served = Served::start_with(serve, folder.path(), &url).await;
    served.process.says("an epoch begins").await;
    let said = doctor(&url, &two, &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("log", "wrong", &["partition 0 of 1", "wanted partition 0 of 2"]);
    said.has("requests", "wrong", &["arbiter.requests.1: nobody consumes"]);
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.has("topology", "warning", &["arbiter.grants.1", "partitions"]);
    let client = Client::connect(&url).await.unwrap();
    let checkpointed = async {
        loop {
            for _ in 0..20 {
                client.acquire("r").await.unwrap().release().await.unwrap();
            }
            let said = doctor(&url, &often, &[]).await;
            if said.findings.iter().any(|finding| finding.to_string().contains("the newest is of record")) {
                return said;
            }
        }
    };
    let said = timeout(PATIENCE, checkpointed).await.expect("a checkpoint is written");
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.has("checkpoints", "ok", &["arbiter.checkpoints.0", "records behind the log's last"]);
    client.close().await;
    served.stop().await;

    let copy = folder.path().join("copy");
    let ended = arbiter_says(&url, &["audit", "export", &url, "--to", copy.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let log = log_lines(&copy.join("0"));
    let middle = log.len() / 2;
    let last = format!("record {} is the last", log.len() - 1);
    let lines =
        |lines: &[Vec<u8>]| lines.iter().map(|line| [line.as_slice(), b"\n"].concat()).collect::<Vec<_>>();

    replace_log(&url, &lines(&log)).await;
    doctor(&url, &[], &[]).await.has("log", "ok", &[&last]);
    replace_log(&url, &lines(&log[middle..])).await;
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has(
        "log",
        "wrong",
        &[&format!("begins with record {middle}"), "policy", "goes on from a checkpoint"],
    );
    said.has("checkpoints", "ok", &["the newest is of record"]);
    replace_log(&url, &lines(&log[..5])).await;
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("checkpoints", "wrong", &["is not in the log", "no arbiter starts"]);
    let mut dropped = log.clone();
    dropped.remove(middle);
    replace_log(&url, &lines(&dropped)).await;
    let said = doctor(&url, &[], &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("log", "wrong", &["follow a record that is not there", "audit verify"]);
    // What follows nothing is not the log's last record, whatever its index.
    said.has("log", "ok", &[&format!("record {} is the last", middle - 1)]);
}

#[tokio::test]
async fn users_are_judged_by_what_they_are_for() {
    let broker = prepared().await;
    broker.ctl(&["set_permissions", "-p", "arbiter", "guest", ".*", ".*", ".*"]);
    broker.ctl(&["add_user", "eve", PASSWORD]);
    broker.ctl(&[
        "set_permissions",
        "-p",
        "arbiter",
        "eve",
        "",
        "^arbiter\\.requests$",
        "^arbiter\\.checkpoints\\.",
    ]);
    let two = [("ARBITER__PARTITIONS", "2")];
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.envs(two);
    let served = Served::start_with(serve, folder.path(), &at(&broker, "arbiter", PASSWORD)).await;
    served.process.says("an epoch begins").await;

    for (user, password, rights, answer) in [
        (
            "arbiter",
            PASSWORD,
            "of an arbiter and an auditor; a client also needs: configure and read client.arbiter.*, write \
          arbiter.requests",
            "not_checked",
        ),
        (
            "app",
            PASSWORD,
            "of a client; an arbiter also needs: read arbiter.requests.*, read arbiter.grants.*, read \
          arbiter.checkpoints.*, write amq.default, write arbiter.dead; an auditor also needs: read arbiter.grants.*",
            "ok",
        ),
        ("alice", PASSWORD, "of a client; ", "ok"),
        (
            "auditor",
            PASSWORD,
            "of an auditor; an arbiter also needs: read arbiter.requests.*, write amq.default",
            "not_checked",
        ),
        ("guest", "guest", "of an administrator: ", "ok"),
    ] {
        let said = doctor(&at(&broker, user, password), &two, &[]).await;
        let bad = (said.all("wrong"), said.all("warning"));
        assert_eq!((said.code, bad), (Some(0), (String::new(), String::new())), "{user}");
        said.has("permissions", "ok", &[&format!("user {user} has the rights {rights}")]);
        said.has("requests", "ok", &["arbiter.requests.1: consumed"]);
        said.has("answer", answer, &[]);
        // Nothing of what was tried has arrived.
        said.has("dead-letters", "ok", &["none"]);
        if answer == "not_checked" {
            said.has("answer", answer, &["is no client", "run this again as a client"]);
        }
        match user {
            "guest" => said.has("topology", "ok", &["all 9 "]),
            _ => said.has(
                "topology",
                "not_checked",
                &["9 are there", "not compared", "on purpose", "arbiter broker init"],
            ),
        }
        if rights.starts_with("of a client") {
            said.has("log", "not_checked", &["arbiter.grants.1", "an auditor"]);
            said.has("checkpoints", "not_checked", &["arbiter.checkpoints.1"]);
            said.has("clock", "not_checked", &["no log was read"]);
        } else {
            said.has("log", "ok", &["partition 1 of 2"]);
            said.has("checkpoints", "ok", &["arbiter.checkpoints.1: none yet"]);
            said.has("clock", "ok", &[]);
        }
    }

    let said = doctor(&at(&broker, "eve", PASSWORD), &two, &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("permissions", "wrong", &[
        "user eve has the rights of no role",
        "an arbiter also needs: read arbiter.requests.*, read arbiter.grants.*, write amq.default, write arbiter.dead;",
        "a client also needs: configure and read client.eve.*;",
        "an auditor also needs: read arbiter.grants.*",
        "set_permissions eve",
    ]);
    // Whom it is for can be said.
    let app = at(&broker, "app", PASSWORD);
    assert_eq!(doctor(&app, &two, &["--as", "client"]).await.code, Some(0));
    let said = doctor(&app, &two, &["--as", "arbiter"]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("permissions", "wrong", &["wanted: an arbiter"]);
    let direct = arbiter_says("tcp://127.0.0.1:1", &["doctor", "--as", "client"]).await;
    assert!(direct.code == Some(2) && direct.said.contains("--as is for a broker"), "{}", direct.said);
    // The arbiter has not been disturbed.
    let ended = arbiter_says(&app, &["run", "r", "--", "true"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);

    // A broker that takes nothing does not say who may what.
    broker.ctl(&["set_vm_memory_high_watermark", "0"]);
    let said = doctor(&app, &two, &[]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("permissions", "wrong", &["is not known: write ", "takes nothing now: an alarm"]);
    broker.ctl(&["set_vm_memory_high_watermark", "0.9"]);
    served.stop().await;
}

#[tokio::test]
async fn an_arbiter_and_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let served = Served::start(data.as_ref()).await;
    let url = served.url.clone();
    let said = doctor(&url, &[], &["--data", data]).await;
    assert_eq!((said.code, said.all("wrong"), said.all("warning")), (Some(0), String::new(), String::new()));
    said.has("data", "ok", &["can be written", "MiB free"]);
    said.has("answer", "ok", &["partition 0"]);
    said.has("log", "ok", &["partition 0 of 1", "durable up to", "an arbiter has it"]);
    said.has("sync", "not_checked", &["an arbiter has the log"]);
    said.has("clock", "ok", &["agree"]);

    // A folder of another log, or of another number of partitions; and none at all.
    let other = folder.path().join("other");
    let second = Served::start(&other).await;
    let said = doctor(&second.url, &[], &["--data", data]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("log", "wrong", &["but the arbiter that answers is of log"]);
    second.stop().await;
    let said = doctor(&url, &[("ARBITER__PARTITIONS", "2")], &["--data", data]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("answer", "wrong", &["is 1, here 2"]);
    said.has("log", "wrong", &["wanted partition 0 of 2"]);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = doctor(&url, &[], &["--data", file.to_str().unwrap()]).await;
    assert_eq!(said.code, Some(1), "{:#?}", said.findings);
    said.has("data", "wrong", &["is no folder", "--data"]);

    served.stop().await;
    let before = names(data);
    let said = doctor(&url, &[], &["--data", data]).await;
    assert_eq!(said.code, Some(69), "{:#?}", said.findings);
    said.has("answer", "wrong", &["arbiter serve"]);
    said.has("log", "ok", &["no arbiter is seen to have it"]);
    said.has("sync", "ok", &["4 KiB", "ms"]);
    assert_eq!(names(data), before, "nothing is left behind");

    let mark = std::path::Path::new(data).join("0/durable");
    std::fs::write(mark, "?").unwrap();
    let said = doctor(&url, &[], &["--data", data]).await;
    said.has("log", "wrong", &["durable", "audit verify"]);

    let said = doctor(&url, &[("ARBITER__PARTITIONS", "0")], &[]).await;
    assert_eq!(said.code, Some(78), "{:#?}", said.findings);
    said.has("settings", "wrong", &["partitions is 0, wanted 1 to 1024"]);
    let said = doctor("amqp://op:hunter2@host:x", &[], &[]).await;
    assert_eq!(said.code, Some(78), "{:#?}", said.findings);
}

/// What is in a folder.
fn names(folder: &str) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
