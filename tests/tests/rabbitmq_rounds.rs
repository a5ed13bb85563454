//! Arbiters at a real RabbitMQ broker, killed and stopped under load, and the broker killed under them. `ARBITER_ROUNDS`
//! says how many rounds, where a few are not enough.
//!
//! After each test: nothing that was held was lost, no two held at once, every request was answered, and both verifiers
//! find the log clean.

use arbiterq_client::{Client, Outcome};
use arbiterq_tests::PATIENCE;
use arbiterq_tests::scene::{Scene, begins, epochs_of, most_and_middle, rounds, serve};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Ends everything, and says what was done and how long the longest acquires took.
async fn verified(scene: Scene, done: &str, waits: Vec<Duration>) {
    let (report, cycles) = scene.end().await;
    let (rounds, (most, middle)) = (waits.len(), most_and_middle(waits));
    println!(
        "counts: {rounds} {done}, {} records, {cycles} cycles; the longest acquire across one at most {most:?}, in the middle \
         {middle:?}",
        report.records
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_arbiter_is_replaced_and_nobody_loses_anything() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(5), Vec::new());
    let holder = Client::builder(&scene.url).label("holds throughout").connect().await.unwrap();
    let held = holder.acquire("held").await.unwrap();
    for _ in 0..rounds {
        scene.load.goes_on().await;
        let next = serve(&scene.folder, &scene.url).await;
        let killed = std::mem::replace(&mut scene.active, std::mem::replace(&mut scene.standby, next));
        killed.process.kill_9().await;
        waits.push(scene.load.goes_on().await);
        held.check().expect("a takeover costs no grant");
        // Either of the two may be the active one now.
        let either = async {
            loop {
                for at in [false, true] {
                    let served = if at { &scene.standby } else { &scene.active };
                    if epochs_of(served) > 0 {
                        return at;
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, either).await.expect("one is active") {
            std::mem::swap(&mut scene.active, &mut scene.standby);
        }
    }
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    holder.close().await;
    verified(scene, "kills of the active arbiter", waits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_arbiter_is_replaced_and_what_it_says_when_it_wakes_counts_nothing() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(2), Vec::new());
    for _ in 0..rounds {
        scene.load.goes_on().await;
        let epochs = epochs_of(&scene.standby);
        scene.active.process.signal(Signal::STOP);
        begins(&scene.standby, epochs + 1).await;
        scene.active.process.signal(Signal::CONT);
        waits.push(scene.load.goes_on().await);
        let given_up = scene.active.process.said().matches("given up").count();
        assert!(given_up > 0 || epochs > 0, "{}", scene.active.process.said());
        std::mem::swap(&mut scene.active, &mut scene.standby);
        // It is a standby again before it is needed.
        sleep(Duration::from_secs(1)).await;
    }
    verified(scene, "stops of the active arbiter", waits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_starts_again_costs_nobody_anything() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(2), Vec::new());
    let holder = Client::builder(&scene.url).label("holds throughout").connect().await.unwrap();
    let held = holder.acquire("held").await.unwrap();
    for _ in 0..rounds {
        scene.load.goes_on().await;
        scene.broker.kill_9();
        scene.broker.start_again().await;
        waits.push(scene.load.goes_on().await);
        held.check().expect("a restart of the broker costs no grant");
    }
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    holder.close().await;
    verified(scene, "kills of the broker", waits).await;
}
