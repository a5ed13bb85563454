//! A broker of three nodes that loses the one that leads: it goes on at the others, whose clients notice a wait and
//! nothing else; and again, when the node has come back. `ARBITER_ROUNDS` says how often, where a few are not enough.
//!
//! A URL names one node. An arbiter whose node is gone waits for it, and the standby at another takes over; a client
//! whose node is gone for longer than its lease loses what it holds, and goes on when the node is back.

use arbiterq_tests::PATIENCE;
use arbiterq_tests::rabbitmq::Cluster;
use arbiterq_tests::scene::{
    Load, active, all_is_clean, begins, epochs_of, init, most_and_middle, rounds, serve,
};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Of clients: a node is away for longer.
const LEASE: Duration = Duration::from_secs(4);
/// The request queue and the log.
const BOTH: [&str; 2] = ["arbiter.requests.0", "arbiter.grants.0"];

/// What a node knows of the request queue and of the log: who leads, and how many nodes take part.
fn led_by(cluster: &Cluster, node: usize) -> [(usize, usize); 2] {
    let listed = cluster.nodes[node].ctl(&["list_queues", "--no-table-headers", "name", "leader", "online"]);
    BOTH.map(|queue| {
        let line = listed.lines().find(|line| line.starts_with(queue)).unwrap_or_else(|| panic!("{listed}"));
        let columns: Vec<_> = line.split('\t').collect();
        let leader = cluster.nodes.iter().position(|node| node.name() == columns[1]);
        (leader.unwrap_or_else(|| panic!("{listed}")), columns[2].matches('@').count())
    })
}

/// Waits until every node takes part in both again. Who leads them.
async fn all_take_part(cluster: &Cluster) -> [usize; 2] {
    let take_part = async {
        loop {
            let [requests, grants] = led_by(cluster, 0);
            if [requests.1, grants.1] == [cluster.nodes.len(); 2] {
                return [requests.0, grants.0];
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE * 3, take_part).await.expect("they take part")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leads_is_killed_and_the_others_go_on() {
    let rounds = rounds(1);
    let mut cluster = Cluster::start().await;
    let urls: Vec<_> = cluster.nodes.iter().map(|node| format!("{}?heartbeat=1", node.url())).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    init(urls[0]).await;
    let folder = tempfile::tempdir().unwrap();
    let first = serve(&folder, urls[0]).await;
    first.process.says("an epoch begins").await;
    let arbiters = [first, serve(&folder, urls[1]).await];
    let load = Load::that_may_lose(&urls, LEASE).await;
    let (mut waits, mut dead, mut takeovers) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        // Both are at every node: nobody has said how many they are to be at.
        let leads = all_take_part(&cluster).await[round % 2];
        dead.push(leads);
        load.goes_on().await;
        let (was_active, other) = (active(&arbiters), &arbiters[1 - active(&arbiters)]);
        let epochs = epochs_of(other);
        cluster.nodes[leads].kill_9();
        let mut longest = load.goes_on().await;
        if was_active == leads {
            begins(other, epochs + 1).await;
            longest = longest.max(load.goes_on().await);
            takeovers += 1;
        }
        waits.push(longest);
        cluster.nodes[leads].start_again().await;
        load.goes_on().await;
    }
    assert!(takeovers > 0, "the first to lead is where the first arbiter is");
    // Clients whose node was away have come back, or they would not end.
    let (cycles, lost) = load.end().await;
    let epochs = arbiters.iter().map(epochs_of).sum::<usize>();
    for served in arbiters {
        served.stop().await;
    }
    let report = all_is_clean(urls[0], folder.path()).await;
    assert!(report.grants >= cycles);
    let (most, middle) = most_and_middle(waits);
    println!(
        "counts: {rounds} kills of the node of three that led (nodes {dead:?}), {takeovers} with the active arbiter's, {} \
         records, {epochs} epochs, {cycles} cycles, {lost} losses of clients whose node was gone for longer than their \
         lease; the longest acquire across one at most {most:?}, in the middle {middle:?}",
        report.records
    );
}
