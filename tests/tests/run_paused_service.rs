//! The service stopped for a while: for less than a lease nobody notices; for longer, holders lapse by their own
//! clock, waiters keep their places, and nobody is expired whose keep-alives waited.

use arbiterq_tests::binary::{FAMILY, Served, family, is_alive, run, script_that_looks_for};
use arbiterq_tests::log_lines;
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(3);

/// Stops the service for so long.
async fn pause(served: &Served, time: Duration) {
    served.process.signal(Signal::STOP);
    tokio::time::sleep(time).await;
    served.process.signal(Signal::CONT);
}

fn expired(data: &Path) -> Vec<String> {
    let lines = log_lines(&data.join("0")).into_iter().map(|line| String::from_utf8(line).unwrap());
    lines.filter(|line| line.contains("lease_expired")).collect()
}

#[tokio::test]
async fn for_a_third_of_the_lease_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let mut holder = run(&served.url, &["r", "--lease", "3s"], "echo held; read line; exit 0");
    holder.line().await;
    let mut waiter = run(&served.url, &["r", "--lease", "3s"], "echo granted");
    waiter.says("you are 1st of 1").await;
    let before = waiter.said();
    for _ in 0..2 {
        pause(&served, LEASE / 3).await;
        tokio::time::sleep(LEASE / 3).await;
    }
    assert_eq!((holder.said().as_str(), waiter.said()), ("", before));
    holder.stdin = None;
    let ended = holder.ended().await;
    assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""));
    assert_eq!(waiter.line().await, "granted");
    assert_eq!(waiter.ended().await.code, Some(0));
    served.stop().await;
    both_are_clean(folder.path());
    assert_eq!(expired(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn for_three_leases_holders_lapse_and_waiters_keep_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let mut holder = run(&served.url, &["r", "--lease", "3s"], FAMILY);
    let pids = family(&mut holder).await;
    let looks = script_that_looks_for(&pids);
    let mut first = run(
        &served.url,
        &["r", "--lease", "3s"],
        &format!("{looks}; echo $ARBITER_TOKEN; read line; exit 0"),
    );
    first.says("you are 1st of 1").await;
    let mut second = run(&served.url, &["r", "--lease", "3s"], "echo $ARBITER_TOKEN");
    second.says("you are 2nd of 2").await;
    pause(&served, LEASE * 3).await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "its own clock told it");
    let ended = holder.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    assert_eq!(first.line().await, "alive:");
    let token: u64 = first.line().await.parse().unwrap();
    first.stdin = None;
    let ended = first.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(second.line().await.parse::<u64>().unwrap() > token, "the order stayed");
    assert_eq!(second.ended().await.code, Some(0));
    served.stop().await;
    both_are_clean(folder.path());
    assert_eq!(expired(folder.path()), Vec::<String>::new());
}
