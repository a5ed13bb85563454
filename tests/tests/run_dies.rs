//! `arbiter run` killed and stopped, and a program with the library killed: the next has the grant, never before
//! everything of the first is dead.

use arbiterq_tests::binary::{
    FAMILY, Running, Served, command, family, gone, is_alive, run, script_that_looks_for,
};
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

/// Where a figure is wanted in milliseconds, the machine may be busy with other tests.
const GENEROUS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn run_killed_takes_its_whole_group_along_and_frees_the_resource() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let mut first = run(&served.url, &["r"], FAMILY);
    let pids = family(&mut first).await;
    let mut second = run(&served.url, &["r"], &script_that_looks_for(&pids));
    second.says("you are 1st of 1").await;
    let began = Instant::now();
    first.kill_9().await;
    assert_eq!(second.line().await, "alive:");
    let took = began.elapsed();
    println!("run killed -9: the next command had begun after {took:?}");
    assert!(took < GENEROUS, "{took:?}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(second.ended().await.code, Some(0));
    served.stop().await;
    both_are_clean(folder.path());
}

#[tokio::test]
async fn a_command_that_ignores_everything_is_killed_with_run() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let script = format!("trap '' TERM INT HUP; {FAMILY}; while :; do sleep 1; done");
    let mut first = run(&served.url, &["r"], &script);
    let pids = family(&mut first).await;
    let mut second = run(&served.url, &["r"], &script_that_looks_for(&pids));
    second.says("you are 1st of 1").await;
    first.kill_9().await;
    assert_eq!(second.line().await, "alive:");
    served.stop().await;
    both_are_clean(folder.path());
}

#[tokio::test]
async fn run_stopped_has_its_command_dead_before_the_next_grant() {
    const LEASE: Duration = Duration::from_secs(3);
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let mut first = run(&served.url, &["r", "--lease", "3s"], FAMILY);
    let pids = family(&mut first).await;
    let mut second = run(&served.url, &["r"], &script_that_looks_for(&pids));
    second.says("you are 1st of 1").await;
    let began = Instant::now();
    first.signal(Signal::STOP);
    for pid in &pids {
        gone(*pid).await;
    }
    let dead = began.elapsed();
    // The order is strict: the next command itself looked, first of all.
    assert_eq!(second.line().await, "alive:");
    let granted = began.elapsed();
    println!(
        "run stopped with a lease of 3s: its command dead after {dead:?}, the next one begun after {granted:?}"
    );
    assert!(dead < LEASE, "{dead:?}");
    assert!(granted < LEASE + Duration::from_millis(500) + GENEROUS, "{granted:?}");
    assert_eq!(second.ended().await.code, Some(0));
    first.signal(Signal::CONT);
    let ended = first.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    served.stop().await;
    both_are_clean(folder.path());
}

#[tokio::test]
async fn a_waiting_run_that_is_killed_leaves_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let mut holder = run(&served.url, &["r"], "echo held; read line; exit 0");
    holder.line().await;
    let dies = run(&served.url, &["r"], "echo it ran");
    dies.says("you are 1st of 1").await;
    let mut next = run(&served.url, &["r"], "echo next");
    next.says("you are 2nd of 2").await;
    dies.kill_9().await;
    holder.stdin = None;
    assert_eq!(holder.ended().await.code, Some(0));
    assert_eq!(next.line().await, "next");
    served.stop().await;
    both_are_clean(folder.path());
}

#[tokio::test]
async fn a_program_with_the_library_that_is_killed_is_succeeded_at_once() {
    for unix in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("unix://{}", folder.path().join("socket").display());
        let url = if unix { socket.as_str() } else { "tcp://127.0.0.1:0" };
        let data = folder.path().join("data");
        let served = Served::start_at(&data, url).await;
        // `lock` is such a program: a session with presence, and nothing that outlives it.
        let mut lock = command();
        let mut holder = Running::start(lock.args(["lock", "r", "--url", &served.url]).stdin(Stdio::piped()));
        holder.line().await;
        let mut next =
            Running::start(command().args(["lock", "r", "--url", &served.url]).stdin(Stdio::piped()));
        next.says("you are 1st of 1").await;
        let began = Instant::now();
        holder.kill_9().await;
        next.line().await;
        let took = began.elapsed();
        println!("holder killed -9 over {}: the next had the grant after {took:?}", &served.url[..4]);
        assert!(took < GENEROUS, "{took:?}: the lease is a minute");
        next.stdin = None;
        assert_eq!(next.ended().await.code, Some(0));
        served.stop().await;
        both_are_clean(&data);
    }
}

#[tokio::test]
async fn a_waiting_run_that_ends_while_nobody_serves_leaves_the_line_when_somebody_does() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("unix://{}", folder.path().join("socket").display());
    let data = folder.path().join("data");
    let served = Served::start_at(&data, &url).await;
    let mut holder = run(&url, &["r"], "echo held; read line; exit 0");
    holder.line().await;
    let ends = run(&url, &["r"], "echo it ran");
    ends.says("you are 1st of 1").await;
    served.process.kill_9().await;
    ends.signal(Signal::TERM);
    let ended = ends.ended().await;
    assert_eq!(ended.code, Some(128 + 15), "{}", ended.said);
    // Nobody has heard that it does not wait any more; its lease is a minute.
    let served = Served::start_at(&data, &url).await;
    let mut next = run(&url, &["r"], "echo next");
    next.says("you are").await;
    holder.stdin = None;
    assert_eq!(holder.ended().await.code, Some(0));
    assert_eq!(next.line().await, "next");
    served.stop().await;
    both_are_clean(&data);
}

/// The guard may get its turn late: it was stopped, or the machine was suspended. Somebody else may hold by then.
#[tokio::test]
async fn a_guard_starts_no_command_once_the_deadline_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let (ours, guards) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut guard = command();
    let guard = Running::start(guard.arg("__guard").stdin(Stdio::from(OwnedFd::from(guards))));
    ours.set_nonblocking(true).unwrap();
    let mut pipe = BufReader::new(tokio::net::UnixStream::from_std(ours).unwrap());
    let words = ["touch", ran.to_str().unwrap()].map(|word| word.as_bytes().to_vec());
    let start = serde_json::json!({"start": {
        "command": words, "variables": [], "deadline": 1, "lease": 60_000_000, "kill_after": 1_000_000,
    }});
    pipe.write_all(format!("{start}\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(GENEROUS, pipe.read_line(&mut said)).await.expect("an answer").unwrap();
    assert_eq!(said, "\"lapse\"\n");
    drop(pipe);
    assert_eq!(guard.ended().await.code, Some(0));
    assert!(!ran.exists(), "it ran");
}

/// Each stop of the command is reported to `run`, which may be stopped itself, and the pipe full.
#[tokio::test]
async fn a_guard_to_which_nobody_listens_kills_at_the_deadline() {
    let (ours, guards) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&guards, 1).unwrap();
    let mut guard = command();
    let guard = Running::start(guard.arg("__guard").stdin(Stdio::from(OwnedFd::from(guards))));
    ours.set_nonblocking(true).unwrap();
    let mut pipe = BufReader::new(tokio::net::UnixStream::from_std(ours).unwrap());
    let now = arbiterq_client::Clock::Boot.now();
    let words = ["sh", "-c", "while :; do kill -STOP $$; done"].map(|word| word.as_bytes().to_vec());
    let start = serde_json::json!({"start": {
        "command": words, "variables": [], "deadline": now + 2_000_000, "lease": 60_000_000,
        "kill_after": 100_000,
    }});
    pipe.write_all(format!("{start}\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(GENEROUS, pipe.read_line(&mut said)).await.expect("an answer").unwrap();
    let started: serde_json::Value = serde_json::from_str(&said).unwrap();
    let pid = u32::try_from(started["started"].as_u64().unwrap()).unwrap();
    let group = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let began = Instant::now();
    let mut stops = 0;
    while is_alive(pid) && began.elapsed() < Duration::from_secs(10) {
        rustix::process::kill_process_group(group, Signal::CONT).ok();
        stops += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let dead = !is_alive(pid);
    rustix::process::kill_process_group(group, Signal::KILL).ok();
    assert!(stops > 100, "it was stopped {stops} times");
    assert!(dead, "it runs on after its lease");
    // What could not be said is said once somebody listens.
    let ended = async {
        let mut lines = pipe.lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("ended") {
                return lines;
            }
        }
        panic!("the guard has not said the end");
    };
    drop(tokio::time::timeout(GENEROUS * 2, ended).await.expect("the end"));
    guard.ended().await;
}
