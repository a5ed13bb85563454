//! Whoever is cut off from a real broker, without being told, for longer than its heartbeat: the active arbiter, a
//! command that holds, one that waits. What they say is lost, or what is said to them, or both. `ARBITER_ROUNDS` says how
//! many cuts one-way, and as many two-way, where a few are not enough.

use arbiterq_client::wire::{ResourceName, StatusWhat};
use arbiterq_client::{Client, Outcome};
use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{FAMILY, Running, Served, family, is_alive};
use arbiterq_tests::island::{Cut, Island};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::scene::{
    Load, active, all_is_clean, begins, epochs_of, init, most_and_middle, rounds, serve,
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Each way, so often.
fn cuts() -> Vec<Cut> {
    let one_way = |round| if round % 2 == 0 { Cut::Out } else { Cut::In };
    (0..rounds(2)).flat_map(|round| [one_way(round), Cut::Both]).collect()
}

/// A broker that islands reach, and what it needs.
async fn broker(at: &Island) -> (Broker, String) {
    let broker = Broker::start_at(at.mainland).await;
    let url = format!("{}?heartbeat=1", broker.url());
    init(&url).await;
    (broker, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arbiter_that_is_cut_off_is_replaced_and_what_it_says_counts_nothing() {
    let islands = [Island::new(), Island::new()];
    let (_broker, url) = broker(&islands[0]).await;
    let folder = tempfile::tempdir().unwrap();
    let there = |island: &Island| {
        let command = island.command();
        Served::start_with(command, folder.path(), &url)
    };
    let first = there(&islands[0]).await;
    first.process.says("an epoch begins").await;
    let arbiters = [first, there(&islands[1]).await];
    let load = Load::start(&url).await;
    let holder = Client::builder(&url).label("holds throughout").connect().await.unwrap();
    let held = holder.acquire("held").await.unwrap();
    let (cuts, mut waits) = (cuts(), Vec::new());
    for cut in &cuts {
        load.goes_on().await;
        let active = active(&arbiters);
        let standby = 1 - active;
        let (epochs, given_up) = (epochs_of(&arbiters[standby]), given_up_by(&arbiters[active]));
        islands[active].cut(*cut);
        begins(&arbiters[standby], epochs + 1).await;
        waits.push(load.goes_on().await);
        islands[active].heal();
        held.check().expect("a takeover costs no grant");
        // The one that was cut off is a standby again before it is needed.
        follows_again(&arbiters[active], given_up).await;
    }
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    holder.close().await;
    let (cycles, _) = load.end().await;
    for served in arbiters {
        served.stop().await;
    }
    let report = all_is_clean(&url, folder.path()).await;
    assert!(report.grants > cycles);
    let (most, middle) = most_and_middle(waits);
    println!(
        "counts: the active arbiter cut off {0} times one-way and {0} two-way, {1} records, {2} epochs, {cycles} cycles, \
         nothing lost; the longest acquire across one at most {most:?}, in the middle {middle:?}",
        cuts.len() / 2,
        report.records,
        report.epochs
    );
}

/// How many connections an arbiter has given up.
fn given_up_by(served: &Served) -> usize {
    served.process.said().matches("is given up").count()
}

/// Waits until an arbiter has given up more connections than that, and follows the log over another.
async fn follows_again(served: &Served, given_up: usize) {
    let follows = async {
        loop {
            let said = served.process.said();
            if given_up_by(served) > given_up && said.rfind(r#""standby""#) > said.rfind("is given up") {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let follows = timeout(PATIENCE * 3, follows).await;
    assert!(follows.is_ok(), "it does not come back: {}", served.process.said());
}

/// Of a command that is cut off: longer than heartbeats.
const LEASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_cut_off_is_stopped_before_the_next_is_granted_and_a_waiter_keeps_its_place() {
    let island = Island::new();
    let (_broker, url) = broker(&island).await;
    let folder = tempfile::tempdir().unwrap();
    let served = serve(&folder, &url).await;
    let run = |arguments: &[&str], script: &str| {
        let mut run = island.command();
        run.args(["run", "--url", &url]).args(arguments).args(["--", "sh", "-c", script]);
        Running::start(&mut run)
    };
    let client = Client::connect(&url).await.unwrap();
    let (cuts, mut passed_on) = (cuts(), Vec::new());
    for cut in &cuts {
        let lease = format!("{}s", LEASE.as_secs());
        let mut holds = run(&["held", "--lease", &lease], FAMILY);
        let family = family(&mut holds).await;
        let mut next = client.acquire("held").enqueue().await.unwrap();
        next.next_position().await.unwrap();
        let gate = client.acquire("gate").await.unwrap();
        let mut first = run(&["gate"], "echo $ARBITER_TOKEN");
        first.says("you are 1st of 1").await;
        let second = client.acquire("gate").enqueue().await.unwrap();

        island.cut(*cut);
        let was_cut = Instant::now();
        let next = timeout(PATIENCE, next.granted()).await.expect("a lease is over").unwrap();
        passed_on.push(was_cut.elapsed());
        assert!(!family.iter().any(|pid| is_alive(*pid)), "stopped before another holds");
        assert_eq!(next.release().await.unwrap(), Outcome::Released);
        let ended = holds.ended().await;
        assert_eq!(ended.code, Some(123), "{}", ended.said);

        island.heal();
        let healed = Instant::now();
        // What was granted while nobody is there would be another's: it is heard from first.
        let heard_from = async {
            loop {
                let status =
                    client.status(0, StatusWhat::Queue(ResourceName::new("gate").unwrap())).await.unwrap();
                assert_eq!(status.queue.len(), 2, "its lease goes on");
                if Duration::from_millis(status.queue[0].session.renewed_ms) < healed.elapsed() {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, heard_from).await.expect("it comes back");
        assert_eq!(gate.release().await.unwrap(), Outcome::Released);
        let first_token: u64 = first.line().await.parse().unwrap();
        assert_eq!(first.ended().await.code, Some(0));
        let second = timeout(PATIENCE, second.granted()).await.expect("it follows").unwrap();
        assert!(first_token < second.token(), "it kept its place");
        assert_eq!(second.release().await.unwrap(), Outcome::Released);
    }
    client.close().await;
    served.stop().await;
    let report = all_is_clean(&url, folder.path()).await;
    assert_eq!(report.grants, 5 * cuts.len() as u64);
    let (most, middle) = most_and_middle(passed_on);
    println!(
        "counts: commands cut off {0} times one-way and {0} two-way: each stopped (123) before the next was granted, at \
         most {most:.1?} after the cut, in the middle {middle:.1?}, with a lease of {LEASE:?}; each that waited there kept its place",
        cuts.len() / 2
    );
}
