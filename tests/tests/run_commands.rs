//! The commands that look, check and print: what they exit with, what programs read, and what nobody reads.

use arbiterq_tests::binary::{Ended, Running, Served, arbiter_says, command};
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;

async fn says(arguments: &[&str]) -> Ended {
    Running::start(command().args(arguments)).ended().await
}

#[tokio::test]
async fn with_json_every_line_is_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let served = Served::start(&data).await;
    let (url, dir) = (served.url.as_str(), data.to_str().unwrap());
    let mut lock = Running::start(command().args(["lock", "r", "--url", url]).stdin(Stdio::piped()));
    let token = serde_json::from_str::<Value>(&lock.line().await).unwrap()["token"].to_string();
    for (arguments, code) in [
        (&["status"][..], 0),
        (&["resources"], 0),
        (&["holders"], 0),
        (&["queue", "r"], 0),
        (&["tail", dir], 0),
        (&["audit", "verify", dir], 0),
        (&["config", "show"], 0),
        (&["config", "check"], 0),
        (&["config", "explain", "limits"], 0),
        (&["pause", "--reason", "a test"], 0),
        (&["resume", "--reason", "a test"], 0),
        (&["release", "--force", "r", "--token", "1", "--reason", "a test"], 77),
        (&["run", "r", "--try", "--", "true"], 124),
        (&["run", "r", "--wait", "50ms", "--", "true"], 124),
        (&["run", "r", "--shared", "--permits", "2", "--", "true"], 2),
        (&["run"], 2),
        (&["pause", "--reason", "a test", "--partition", "7"], 2),
        (&["config", "explain", "nothing"], 2),
        (&["audit", "verify", "no/such/folder"], 65),
        (&["bench", "--for", "100ms", "--clients", "2"], 0),
        (&["release", "--force", "r", "--token", &token, "--reason", "a test", "--now"], 0),
    ] {
        let ended = arbiter_says(url, &[&["--json"], arguments].concat()).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.said);
        assert_eq!(ended.out.is_empty(), code != 0, "{arguments:?}: {}", ended.out);
        for line in ended.out.lines().chain(ended.said.lines()) {
            let object: Result<Value, _> = serde_json::from_str(line);
            assert!(object.is_ok_and(|object| object.is_object()), "{arguments:?}: {line}");
        }
        if code != 0 {
            let error: Value = serde_json::from_str(ended.said.lines().last().unwrap()).unwrap();
            assert_eq!(error["error"]["exit"], code, "{error}");
        }
    }
    let ended = lock.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    served.stop().await;
    both_are_clean(&data);
}

#[tokio::test]
async fn problems_with_the_settings_are_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("arbiter.toml");
    std::fs::write(&file, "partitions = 0\nnonsense = 1\n").unwrap();
    let mut check = command();
    check.env("ARBITER__NOPE", "1").args(["config", "check", "--json", "--config"]).arg(&file);
    let ended = Running::start(&mut check).ended().await;
    assert_eq!(ended.code, Some(78), "{}", ended.said);
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    let mut keys: Vec<_> = found["problems"].as_array().unwrap().iter().map(|one| &one["key"]).collect();
    keys.sort_by_key(|key| key.to_string());
    assert_eq!(keys, ["ARBITER__NOPE", "nonsense", "partitions"]);
    let said: Value = serde_json::from_str(&ended.said).unwrap();
    assert_eq!(said["error"]["problems"], found["problems"]);
}

#[tokio::test]
async fn a_variable_that_is_empty_says_nothing() {
    let ended =
        Running::start(command().env("ARBITER_URL", "").args(["config", "show", "--json"])).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.out.contains("tcp://127.0.0.1:7117"), "{}", ended.out);
}

#[tokio::test]
async fn each_partition_is_verified_whatever_is_wrong_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = command();
    serve.env("ARBITER__PARTITIONS", "3");
    Served::start_with(serve, &data, "tcp://127.0.0.1:0").await.stop().await;
    for damaged in ["0", "2"] {
        let log = data.join(damaged).join("00000000000000000000.log");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&log, bytes).unwrap();
    }
    let ended = says(&["audit", "verify", data.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert_eq!(ended.said.matches("error[not-verified]").count(), 2, "{}", ended.said);
    assert!(ended.out.contains("partition 1 of 3") && ended.out.contains("verified:"), "{}", ended.out);
    // The verdict does not depend on who reads the reports.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut verify = command();
    let status = verify.args(["audit", "verify"]).arg(&data).stdout(writer).stderr(Stdio::null()).status();
    assert_eq!(status.await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn completions_and_manual_pages_are_printed_also_to_nobody() {
    for arguments in [&["completions", "bash"][..], &["man"], &["man", "run"], &["man", "audit", "verify"]] {
        let ended = says(arguments).await;
        assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ended.out.contains("arbiter"), "{}", ended.out);
        assert!(!ended.out.contains("__guard"), "{}", ended.out);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let nobody = command().args(arguments).stdout(writer).output().await.unwrap();
        let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
        assert_eq!((nobody.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
    assert_eq!(says(&["man", "no-such-command"]).await.code, Some(2));
    assert_eq!(says(&["man", "__guard"]).await.code, Some(2));
}

#[tokio::test]
async fn config_explain_says_what_the_file_says() {
    let ended = says(&["config", "explain", "limits.sessions_max"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let expected = "limits.sessions_max = 10000
    Live sessions of a partition; one more is refused.
    Variable: ARBITER__LIMITS__SESSIONS_MAX
";
    assert_eq!(ended.out, expected);
    let all = says(&["config", "explain"]).await;
    assert!(all.out.contains("grant_log.fsync = \"always\"") && all.out.contains("rules\n"), "{}", all.out);
}

#[tokio::test]
async fn a_lock_ends_with_ctrl_c_and_a_tail_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let served = Served::start(&data).await;
    let mut tail = Running::start(command().args(["tail", "--follow", "-n", "1"]).arg(&data));
    tail.line().await;
    let mut lock = Running::start(command().args(["lock", "r", "--url", &served.url]).stdin(Stdio::piped()));
    let grant: Value = serde_json::from_str(&lock.line().await).unwrap();
    let granted = format!("r granted to {}:1, token {}", grant["session"], grant["token"]);
    while !tail.line().await.ends_with(&granted) {}
    lock.signal(Signal::INT);
    let over = format!("grant {} over: released", grant["token"]);
    while !tail.line().await.ends_with(&over) {}
    let ended = lock.ended().await;
    assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""));
    tail.signal(Signal::TERM);
    assert_eq!(tail.ended().await.code, None);
    served.stop().await;
    both_are_clean(&data);
}
