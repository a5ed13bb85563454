//! A real RabbitMQ broker that is stopped while a command runs, is flooded by who lies to the arbiter, and has a crowd
//! waiting for one resource. `ARBITER_LONG=1` stops it as long as operators do, under the default lease; the other
//! long forms are beside their tests.

use arbiterq_tests::binary::{FAMILY, Running, Served, family, is_alive, run};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::scene::{all_is_clean, init, serve};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Five commands that wait for one that holds.
struct Line {
    broker: Broker,
    url: String,
    folder: tempfile::TempDir,
    served: Served,
    wait: Vec<Running>,
}

/// How many wait, and how each hears it.
const WAIT: [&str; 5] = ["1st of 1", "2nd of 2", "3rd of 3", "4th of 4", "5th of 5"];

/// Whether times are those of operators, and not scaled down.
fn is_long() -> bool {
    std::env::var_os("ARBITER_LONG").is_some()
}

impl Line {
    /// With this lease, if any is said, and this script under the one that holds.
    async fn start(lease: Option<Duration>, script: &str) -> (Self, Running) {
        let broker = Broker::start().await;
        let (url, folder) = (broker.url(), tempfile::tempdir().unwrap());
        init(&url).await;
        let served = serve(&folder, &url).await;
        let lease = lease.map(|lease| format!("{}ms", lease.as_millis()));
        let mut arguments = vec!["db/migrate"];
        arguments.extend(lease.iter().flat_map(|lease| ["--lease", lease.as_str()]));
        let holds = run(&url, &arguments, script);
        // It has begun to hold when the first of those who wait is told so.
        let mut wait = Vec::new();
        for (number, place) in WAIT.into_iter().enumerate() {
            let came = folder.path().join("came");
            let next = run(&url, &arguments, &format!("echo {number} >>{}", came.display()));
            next.says(&format!("you are {place}")).await;
            wait.push(next);
        }
        (Self { broker, url, folder, served, wait }, holds)
    }

    fn came(&self) -> PathBuf {
        self.folder.path().join("came")
    }

    /// All that wait follow in their order, and the log says so, too.
    async fn ends(self) -> u64 {
        let came = self.came();
        for waits in self.wait {
            let ended = waits.ended().await;
            assert_eq!(ended.code, Some(0), "{}", ended.said);
        }
        assert_eq!(std::fs::read_to_string(came).unwrap(), "0\n1\n2\n3\n4\n", "their old order");
        self.served.stop().await;
        let report = all_is_clean(&self.url, self.folder.path()).await;
        assert_eq!(report.grants, 1 + WAIT.len() as u64, "each was granted once");
        report.epochs
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_while_the_broker_is_stopped_for_less_than_a_lease() {
    // A command longer than its lease, so that it is renewed after the broker has come back.
    let (lease, runs_s, away) = match is_long() {
        true => (None, 90, Duration::from_secs(15)),
        false => (Some(Duration::from_secs(26)), 27, Duration::ZERO),
    };
    let script = format!("echo held; sleep {runs_s}; echo undisturbed");
    let (mut line, mut holds) = Line::start(lease, &script).await;
    assert_eq!(holds.line().await, "held");
    let held = Instant::now();
    line.broker.stop().await;
    let stopped = Instant::now();
    sleep(away).await;
    line.broker.start_again().await;
    let away = stopped.elapsed();
    sleep_until(held + Duration::from_secs(runs_s)).await;
    assert_eq!(holds.line().await, "undisturbed");
    let ended = holds.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let epochs = line.ends().await;
    println!(
        "counts: the broker away for {away:.1?} of a command's {runs_s} s: it went on and exited with 0, five followed in \
         their order, {epochs} epochs"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_stopped_while_the_broker_is_away_for_three_leases_and_those_who_wait_keep_their_order()
{
    let lease = Duration::from_secs(if is_long() { 60 } else { 3 });
    let (mut line, mut holds) = Line::start((!is_long()).then_some(lease), FAMILY).await;
    let pids = family(&mut holds).await;
    line.broker.kill_9();
    let killed = Instant::now();
    for pid in pids {
        gone_within(pid, lease).await;
    }
    let stopped = killed.elapsed();
    let ended = holds.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    sleep_until(killed + lease * 3).await;
    assert!(line.wait.iter().all(|waits| is_alive(waits.pid())), "they wait on");
    line.broker.start_again().await;
    let away = killed.elapsed();
    let epochs = line.ends().await;
    println!(
        "counts: the broker away for {away:.1?}, a lease of {lease:?}: the command was stopped after {stopped:.1?}, five \
         followed in their order, {epochs} epochs"
    );
}

/// Waits until a process is gone, for so long.
async fn gone_within(pid: u32, time: Duration) {
    let gone = async {
        while is_alive(pid) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(time, gone).await.expect("its own clock told it");
}
