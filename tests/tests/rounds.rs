//! Rounds of stopping the service and of killing commands that write to a fenced resource: afterwards the log is clean
//! and the resource has accepted nothing stale. `ARBITER_ROUNDS` says how many, where a few are not enough; so it does
//! in `crash.rs`, which kills the service itself.

use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{Running, Served, arbiter_says, run};
use arbiterq_tests::fuzz::mutate::Random;
use arbiterq_tests::log_lines;
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Commands that are under way at once.
const WORKERS: usize = 4;
const RESOURCE: &str = "fenced";

fn rounds(few: usize) -> usize {
    std::env::var("ARBITER_ROUNDS").map_or(few, |text| text.parse().expect("ARBITER_ROUNDS is a number"))
}

/// A resource that knows the highest token it has seen, and a command that writes to it three times.
struct Fenced(PathBuf);

impl Fenced {
    fn script(&self) -> String {
        // The lock makes a write one step; what is renamed is there as a whole, whenever the writer is killed.
        let script = r#"cd DIR; exec 9>>lock
        write() {
            flock 9
            seen=$(cat seen 2>/dev/null || echo 0)
            if [ "$ARBITER_TOKEN" -lt "$seen" ]; then echo "$ARBITER_TOKEN $seen" >>refused
            else echo "$ARBITER_TOKEN" >seen.$$; mv seen.$$ seen; echo "$ARBITER_TOKEN $$ $1" >>accepted; fi
            flock -u 9
        }
        write 1; sleep 0.05; write 2; sleep 0.05; write 3"#;
        script.replace("DIR", &self.0.display().to_string())
    }

    fn lines(&self, file: &str) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.0.join(file)).unwrap_or_default();
        text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }

    /// What it accepted: tokens that do not fall, each of one writer, each granted. How many writers wrote to the end.
    fn check(&self, data: &Path, how: &str) -> usize {
        let mut granted = BTreeSet::new();
        for line in log_lines(&data.join("0")) {
            let record: Value = serde_json::from_slice(&line).unwrap();
            for event in record["events"].as_array().into_iter().flatten() {
                if event["granted"]["claims"][0]["resource"] == RESOURCE {
                    granted.insert(record["index"].as_u64().unwrap());
                }
            }
        }
        let (mut highest, mut writers, mut whole) = (0, BTreeMap::new(), 0);
        for write in self.lines("accepted") {
            let [token, writer, number] = &write[..] else { panic!("{write:?}") };
            let token: u64 = token.parse().unwrap();
            assert!(token >= highest, "a stale write was accepted: {token} after {highest}");
            assert_eq!(writers.entry(token).or_insert_with(|| writer.clone()), writer, "one writer a token");
            assert!(granted.contains(&token), "{token} was never granted");
            highest = token;
            whole += usize::from(number == "3");
        }
        let refused = self.lines("refused").len();
        println!(
            "counts: {how}; {} writers, {whole} to the end; {refused} stale writes refused, 0 accepted",
            writers.len()
        );
        whole
    }
}

/// A command under `run` on the resource.
fn a_run(url: &str, script: &str) -> Running {
    run(url, &[RESOURCE, "--lease", "2s", "--wait", "60s"], script)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_commands_that_are_killed_at_any_moment_no_write_is_stale() {
    let kills = rounds(8);
    let folder = tempfile::tempdir().unwrap();
    let (data, fenced) = (folder.path().join("data"), Fenced(folder.path().join("fenced")));
    std::fs::create_dir(&fenced.0).unwrap();
    let served = Served::start(&data).await;
    let killed = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS as u64)
        .map(|worker| {
            let (url, script, killed) = (served.url.clone(), fenced.script(), killed.clone());
            tokio::spawn(async move {
                let mut random = Random::new(worker, 0);
                while killed.load(Ordering::Relaxed) < kills {
                    let running = a_run(&url, &script);
                    if random.below(3) == 0 {
                        let ended = running.ended().await;
                        assert_eq!(ended.code, Some(0), "{}", ended.said);
                        continue;
                    }
                    // Before it asks, while it waits, while it writes, and sometimes after it has ended.
                    sleep(Duration::from_millis(random.below(600) as u64)).await;
                    if arbiterq_tests::binary::is_alive(running.pid()) {
                        running.kill_9().await;
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    // Nothing stands in the way of the next one.
    let ended = a_run(&served.url, &fenced.script()).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    served.stop().await;
    both_are_clean(&data);
    let how = format!("{} commands killed", killed.load(Ordering::Relaxed));
    assert!(fenced.check(&data, &how) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_stopped_for_any_time_lets_nobody_write_late() {
    let stops = rounds(4);
    let folder = tempfile::tempdir().unwrap();
    let (data, fenced) = (folder.path().join("data"), Fenced(folder.path().join("fenced")));
    std::fs::create_dir(&fenced.0).unwrap();
    let served = Served::start(&data).await;
    let stopped = Arc::new(AtomicUsize::new(0));
    let (url, done) = (served.url.clone(), stopped.clone());
    let bench = tokio::spawn(async move {
        while done.load(Ordering::Relaxed) < stops {
            let load = [
                "bench",
                "--clients",
                "6",
                "--resources",
                "2",
                "--connections",
                "3",
                "--for",
                "3s",
                "--json",
            ];
            let ended = arbiter_says(&url, &load).await;
            assert!(matches!(ended.code, Some(0 | 69)), "{}", ended.said);
            if ended.code == Some(0) {
                let figures: Value = serde_json::from_str(ended.out.trim()).unwrap();
                assert_eq!(figures["overlaps"], 0, "{figures}");
            }
        }
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (url, script, stopped) = (served.url.clone(), fenced.script(), stopped.clone());
            tokio::spawn(async move {
                while stopped.load(Ordering::Relaxed) < stops {
                    let ended = a_run(&url, &script).ended().await;
                    // It may lose what it holds, or find nobody; and that is all.
                    assert!(matches!(ended.code, Some(0 | 123 | 69)), "{:?}: {}", ended.code, ended.said);
                }
            })
        })
        .collect();
    let mut random = Random::new(0, 0);
    for _ in 0..stops {
        served.process.signal(Signal::STOP);
        // A lease is two seconds: shorter and longer than that.
        sleep(Duration::from_millis(100 + random.below(3000) as u64)).await;
        let before = log_lines(&data.join("0")).len();
        served.process.signal(Signal::CONT);
        let goes_on = async {
            while log_lines(&data.join("0")).len() < before + 20 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, goes_on).await.expect("it goes on");
        stopped.fetch_add(1, Ordering::Relaxed);
    }
    for worker in workers {
        worker.await.unwrap();
    }
    bench.await.unwrap();
    served.stop().await;
    let report = &both_are_clean(&data)[0];
    assert_eq!(report.epochs, 1);
    let how = format!("the service stopped {stops} times, {} records", report.records);
    assert!(fenced.check(&data, &how) > 0);
}
